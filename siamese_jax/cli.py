"""What all commands of `launch/` share: flags, errors in one plain line, signals, and text tables."""

from __future__ import annotations

import difflib
import errno
import functools
import logging
import pathlib
import re
import runpy
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

# The folder of `launch/` and `configs/`: the package in an installed wheel, else the checkout.
_PACKAGE = pathlib.Path(__file__).resolve().parent
ROOT = _PACKAGE if (_PACKAGE / "launch").is_dir() else _PACKAGE.parent
# What a command ends with after it was stopped and has saved its work.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}

_BUG = (
    "This is a bug of siamese_jax, and not your mistake. Please report it in the project's issue "
    "tracker, with the command and the lines above."
)
_ROOM = "make space, and give the same command again"
_OTHER_PLACE = "a file is in the way of a folder: give another path"
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, errno.EDQUOT), _ROOM),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), _OTHER_PLACE),
}


def run(
    main: Callable[[Sequence[str]], int | None], *, takes_words: bool = False, error_code: int = 1
) -> None:
    """Parses the flags and runs a command; exits with what it returns.

    A user's mistake (a misspelt flag or field, a missing file, settings that do not go together) and
    what the machine lacks (memory, room on the disk) are one line and exit code `error_code`;
    `--verbosity=1` shows the traceback as well. Anything else is a bug of ours, and says so.

    Args:
        main: the command, called with the script's name and the words that are not flags.
        takes_words: whether it takes such words; otherwise they are a mistake.
        error_code: exit code of every error.
    """
    absl_logging.set_verbosity(absl_logging.FATAL)  # of the libraries, whose errors are raised too
    # Orbax's tasks after a failed saving: the same error again, and what was given up with it.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    notes = logging.getLogger("siamese_jax")
    notes.addHandler(logging.StreamHandler())
    notes.setLevel(logging.INFO)
    notes.propagate = False

    sys.excepthook, sys.unraisablehook = _unless_closed, _unraisable_unless_closed

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1 and not takes_words:
            raise ValueError(f"{argv[1]!r} is not a flag: write --name=value")
        _check_given(argv[0])
        return main(argv)

    try:
        app.run(guarded, flags_parser=functools.partial(_parse, error_code=error_code))
    except Exception as error:
        line = _mistake(error)
        if line is not None and not absl_logging.level_debug():
            _exit(line, error_code)
        traceback.print_exc()
        if line is None:
            print(_BUG, file=sys.stderr)
        sys.exit(error_code)


def run_launcher() -> None:
    """Runs `launch/NAME.py`: the entry point of the console command `siamese-NAME`."""
    name = pathlib.Path(sys.argv[0]).stem.removeprefix("siamese-")
    runpy.run_path(str(ROOT / "launch" / f"{name}.py"), run_name="__main__")


def catch_signals() -> list[int]:
    """Catches SIGTERM and SIGINT from now on, so that a command can save its work before it ends.

    Returns:
        A list to which each signal that arrives is added: see `EXIT_CODES`.
    """
    caught: list[int] = []
    for number in EXIT_CODES:
        signal.signal(number, lambda number, frame: caught.append(number))
    return caught


def checkpoint(word: str) -> str | int:
    """What `--checkpoint` names: a step as a number, or `best` or `latest` as they are."""
    return int(word) if word.isdecimal() else word


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


def _parse(argv: Sequence[str], error_code: int) -> Sequence[str]:
    argv = [_with_shipped_config(word) for word in argv]
    if any(re.fullmatch("--?help(full|short|xml)?(=.*)?", word) for word in argv):
        try:
            return app.parse_flags_with_usage(argv)
        except SystemExit:  # with code 1, which is that of a mistake here
            sys.exit(0)
    if "--verbosity=1" in argv:
        return flags.FLAGS(argv)
    # First: the flags' own errors name neither file nor near fields.
    mistake = _config_mistake(argv)
    if mistake:
        _exit(mistake, error_code)
    try:
        return flags.FLAGS(argv)
    except Exception as error:
        missing = re.fullmatch("flag --([^=]*)=None: .* other than None.", str(error))
        _exit(f"give --{missing[1]}=..." if missing else str(error), error_code)


def _unless_closed(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Shows an error that nobody caught, but not what Orbax's threads say after a failed saving."""
    if not _is_closed_loop(error):
        sys.__excepthook__(kind, error, trace)


def _unraisable_unless_closed(unraisable: sys.UnraisableHookArgs) -> None:
    """The same for an error that could not be raised, as in a callback of TensorStore."""
    if not _is_closed_loop(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _is_closed_loop(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _check_given(script: str) -> None:
    """Refuses flags of text that are given without any, such as those of an unset shell variable."""
    for flag in flags.FLAGS.get_key_flags_for_module(script):
        if flag.present and flag.value == "":
            raise ValueError(
                f"--{flag.name}= is empty (an unset variable of the shell?): give it a value, or "
                "leave it out"
            )


def _mistake(error: Exception) -> str | None:
    """What to tell a user of an error that is theirs or the machine's; None for a bug of ours."""
    text = str(error)
    # JAX's error is known by its words: this module must not import jax.
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"not enough memory: choose fewer or smaller images, batches or layers ({text[:200]})"
        )
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename else ""
        advice = _ADVICE.get(error.errno, "see that it is there and may be read and written")
        return f"{place}{error.strerror}: {advice}"
    if isinstance(error, SyntaxError):  # of a config
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    return text if isinstance(error, ValueError | FloatingPointError | OSError) else None


def _exit(text: str, error_code: int) -> NoReturn:
    script = "/".join(pathlib.Path(sys.argv[0]).parts[-2:])
    print(f"{script}: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(error_code)


def _with_shipped_config(word: str) -> str:
    """A flag that names a config of the package, with the place of its file; others as they are.

    So `--config=configs/best.py`, or `--config=best`, is understood in any folder.
    """
    given = re.fullmatch("(--?config=)([^:]*)(:.*)?", word)
    if given is None or pathlib.Path(given[2]).is_file():
        return word
    files = _shipped_configs()
    return f"{given[1]}{files[given[2]]}{given[3] or ''}" if given[2] in files else word


def _shipped_configs() -> dict[str, pathlib.Path]:
    """The configs of the package by the names that they may be given."""
    files = sorted((ROOT / "configs").glob("*.py"))
    return {name: file for file in files for name in (file.stem, f"configs/{file.name}")}


def _config_mistake(argv: Sequence[str]) -> str | None:
    """What is wrong with --config and the fields that are set after it; None if nothing is."""
    given = [word.partition("=")[2] for word in argv if re.match("--?config=", word)]
    if not given:
        return None
    path, _, arg = given[-1].partition(":")
    if not pathlib.Path(path).is_file():
        names = [str(file) for file in pathlib.Path(path).parent.glob("*.py")]
        near = difflib.get_close_matches(path, [*names, *_shipped_configs()], n=1)
        return f"no config file {path}" + "".join(f"; did you mean {name}?" for name in near)
    try:
        config = runpy.run_path(path)["get_config"](*[arg] if arg else [])
    except SyntaxError as error:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    except (ValueError, OSError) as error:
        return f"{path}: {error}"
    except KeyError as error:
        if error.args != ("get_config",):
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            return f"{path}, line {line}: no {error}"
        return f"{path} is no config: it has no function get_config"
    except RecursionError:
        return f"{path} calls itself without end"
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        return f"{path}, line {line}: {type(error).__name__}: {error}"
    for word in argv:
        field = re.match(r"--?(?:no)?config\.([^=]+)", word)
        if field:
            mistake = _field_mistake(config, field[1])
            if mistake:
                return mistake
    return None


def _field_mistake(config: ConfigDict, field: str) -> str | None:
    """What is wrong with setting a field, by its dotted name; None if nothing is."""
    names = dict(_fields(config))
    if field not in names:
        values = [name for name, value in names.items() if not isinstance(value, ConfigDict)]
        advice = _did_you_mean(field, values) or f"; it has {', '.join(config)}"
        return f"config has no field {field}{advice}"
    if isinstance(names[field], ConfigDict):
        inner = [name for name in names if name.startswith(f"{field}.")]
        return f"config.{field} is a section: set one of its fields, {', '.join(inner)}"
    return None


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values of all fields and sections."""
    for name, value in config.items():
        yield prefix + name, value
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")


def _did_you_mean(given: str, names: Sequence[str]) -> str:
    """`; did you mean ...?` with the names nearest to what was given, or nothing."""
    last = {name: name.rpartition(".")[2] for name in names}
    near = [name for name in names if last[name] == given.rpartition(".")[2]]
    if not near:
        near = difflib.get_close_matches(given, names, n=1, cutoff=0.7)
    if not near:
        leaves = difflib.get_close_matches(given.rpartition(".")[2], set(last.values()), n=1)
        near = [name for name in names if last[name] in leaves]
    return f"; did you mean {' or '.join(near)}?" if near else ""
