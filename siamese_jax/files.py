"""Files that are replaced at once: whoever reads sees the old file or the new one, never a part."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO


def replace_file(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file beside `path`, flushes it to disk and moves it to `path`.

    A file that is already there gives its mode to the new one. A link is replaced, never followed.

    Args:
        path: of the file, in a folder that exists.
        write: writes the content to the stream that it is given.
    """
    path = pathlib.Path(path)
    try:
        beside = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    with beside as side:
        part = pathlib.Path(side) / path.name
        with open(part, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file() and not path.is_symlink():
            part.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_bytes(path: str | os.PathLike, data: bytes) -> None:
    """`replace_file` with bytes."""
    replace_file(path, lambda file: file.write(data))


def replace_text(path: str | os.PathLike, text: str) -> None:
    """`replace_file` with text in UTF-8."""
    replace_bytes(path, text.encode())


def replace_json(path: str | os.PathLike, value: Any) -> None:
    """`replace_file` with a value as JSON."""
    replace_text(path, json.dumps(value, indent=1) + "\n")
