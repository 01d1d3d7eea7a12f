"""What all commands of `launch/` share: flags and errors that end in one plain line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Parses the flags and runs a command; exits with what it returns.

    A mistake of the user's (a misspelt flag or field, a missing file, settings that do not go
    together) is one line and exit code 1; `--verbosity=1` shows the traceback as well.
    """
    absl_logging.set_verbosity(absl_logging.ERROR)  # of the libraries; this package speaks for itself
    notes = logging.getLogger("siamese_jax")
    notes.addHandler(logging.StreamHandler())
    notes.setLevel(logging.INFO)
    notes.propagate = False

    def guarded(argv):
        if len(argv) > 1:
            raise ValueError(
                f"{argv[1]!r} is no flag: flags begin with -- and have a value after ="
            )
        return main(argv)

    try:
        app.run(guarded, flags_parser=_parse)
    except (ValueError, FloatingPointError, OSError) as error:
        if absl_logging.level_debug():
            raise
        _end(error)


def _parse(argv):
    try:
        if any(word.startswith(("--help", "-help")) for word in argv):
            return app.parse_flags_with_usage(argv)
        return flags.FLAGS(argv)
    except (
        *(flags.Error, ValueError, AttributeError),
        *(KeyError, TypeError, OSError, ImportError),
    ) as error:
        if "--verbosity=1" in argv:
            raise
        _end(error)


def _end(error: Exception):
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    if "Traceback" in text:  # a config file's own error, quoted whole: its last line says what
        text = text.strip().splitlines()[-1]
    line = " ".join(text.split())
    print(f"{sys.argv[0]}: {line}", file=sys.stderr)
    sys.exit(1)
