"""What all commands of `launch/` share: flags and errors that end in one plain line."""

from __future__ import annotations

import functools
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging


def run(
    main: Callable[[Sequence[str]], int | None], *, takes_words: bool = False, error_code: int = 1
) -> None:
    """Parses the flags and runs a command; exits with what it returns.

    A mistake of the user's (a misspelt flag or field, a missing file, settings that do not go
    together) is one line and exit code `error_code`; `--verbosity=1` shows the traceback as well.

    Args:
        main: the command, called with the script's name and the words that are no flags.
        takes_words: whether it takes such words; else they are a mistake.
        error_code: exit code of every error.
    """
    absl_logging.set_verbosity(
        absl_logging.ERROR
    )  # of the libraries; this package speaks for itself
    notes = logging.getLogger("siamese_jax")
    notes.addHandler(logging.StreamHandler())
    notes.setLevel(logging.INFO)
    notes.propagate = False

    def guarded(argv):
        if len(argv) > 1 and not takes_words:
            raise ValueError(
                f"{argv[1]!r} is no flag: flags begin with -- and have a value after ="
            )
        return main(argv)

    try:
        app.run(guarded, flags_parser=functools.partial(_parse, error_code=error_code))
    except Exception as error:
        mistake = isinstance(error, ValueError | FloatingPointError | OSError)
        if mistake and not absl_logging.level_debug():
            _end(error, error_code)
        traceback.print_exc()
        sys.exit(error_code)


def _parse(argv, error_code):
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
        _end(error, error_code)


def _end(error: Exception, error_code: int):
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    if "Traceback" in text:  # a config file's own error, quoted whole: its last line says what
        text = text.strip().splitlines()[-1]
    line = " ".join(text.split())
    print(f"{sys.argv[0]}: {line}", file=sys.stderr)
    sys.exit(error_code)


def text_table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Rows of cells as lines of text in aligned columns.

    Args:
        rows: cells, equally many in each row.
        header: names of the columns, for the first line.
    """
    lines = [header, *rows] if header is not None else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
