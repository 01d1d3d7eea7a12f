"""Commands of `launch/` in the process of the tests, where jax is there and need not start anew."""

import contextlib
import io
import logging
import os
import pathlib
import re
import runpy
import signal
import sys
import warnings
from typing import NamedTuple
from unittest import mock

from absl import app, flags
from absl import logging as absl_logging

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Done(NamedTuple):
    """What of a `subprocess.CompletedProcess` the tests look at."""

    returncode: int
    stdout: str
    stderr: str


def environment(devices: int = 1) -> dict[str, str]:
    """The environment of a process of so many devices that compiles as the tests do."""
    count = r"(?<=--xla_force_host_platform_device_count=)\d+"
    return os.environ | {"XLA_FLAGS": re.sub(count, str(devices), os.environ.get("XLA_FLAGS", ""))}


def launch(script, *words) -> Done:
    """Runs `launch/SCRIPT` with these words, as the command line does; leaves nothing of it behind."""
    path = ROOT / "launch" / script
    out, err = io.StringIO(), io.StringIO()
    argv = [str(path), *map(str, words)]
    with (
        _left_as_it_was(),
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "jax has started")
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _left_as_it_was():
    """Takes back the flags, the logging and the handlers of signals that a command sets."""
    app.define_help_flags()  # these stay, as those that app has of its own
    known = set(flags.FLAGS)
    loggers = [logging.getLogger(name) for name in ("siamese_jax", "siamese_jax.data", "asyncio")]
    before = [(x, x.handlers[:], x.level, x.propagate) for x in loggers]
    verbosity, hooks = absl_logging.get_verbosity(), (sys.excepthook, sys.unraisablehook)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        for logger, there, level, propagate in before:
            logger.handlers[:], logger.propagate = there, propagate
            logger.setLevel(level)
        absl_logging.set_verbosity(verbosity)
        sys.excepthook, sys.unraisablehook = hooks
        for number, handler in handlers.items():
            signal.signal(number, handler)
