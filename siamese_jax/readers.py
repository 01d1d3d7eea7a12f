"""Readers for all files from outside; one that is too large, or not what it says it is, is refused.

A reader checks the sizes that a file declares against the file itself before it allocates anything,
and says what is wrong in one line: the file, the place in it, and what was expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import io
import json
import math
import os
import pathlib
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, NoReturn

import numpy as np

_JSON_BYTES = 2**23  # JSON of brackets takes 25 times its size in memory
_NPZ_BYTES = 2**34  # of all arrays, decompressed
_ENTRIES = 2**20  # of an archive
_DEFLATE = 1032  # the highest ratio of deflate, to one
_SLACK = 2**12  # bytes of a small entry whose ratio means nothing
_CHUNK = 2**20
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError),
    *(ValueError, OverflowError, MemoryError),
)


def check_file(path: str | os.PathLike, limit: int | None = None) -> pathlib.Path:
    """The path of a regular file.

    Args:
        path: of the file.
        limit: most bytes that it may hold; None for any number.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, a pipe or a device, or too large.
    """
    path = pathlib.Path(path)
    try:
        facts = path.stat()
    except ValueError as error:  # a zero byte in the name
        raise ValueError(f"{str(path)!r} is not a valid file name ({error})") from None
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError(f"{path} is no regular file")
    if limit is not None and facts.st_size > limit:
        raise ValueError(f"{path} has {facts.st_size} bytes, at most {limit} are read")
    return path


def read_json(path: str | os.PathLike, expected: Any) -> Any:
    """What a JSON file holds.

    Args:
        path: of the file.
        expected: see `parse_json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read, is not JSON, or holds something else than expected.
    """
    return parse_json(check_file(path, _JSON_BYTES).read_bytes(), str(path), expected)


def parse_json(data: bytes, where: str, expected: Any) -> Any:
    """What JSON in UTF-8 says; numbers must be finite.

    Args:
        data: the text.
        where: names its place in messages.
        expected: `dict` or `list`, or a schema as `fitting` takes it.

    Raises:
        ValueError: it is not JSON, or holds something else than expected.
    """
    try:
        value = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}): put back a whole copy") from None
    kind = expected if expected in (dict, list) else dict
    if not isinstance(value, kind):
        raise ValueError(
            f"{where} holds a {type(value).__name__}, expected a {kind.__name__}: put back a "
            "whole copy"
        )
    return value if expected is kind else fitting(value, expected, where)


def fitting(value: Any, schema: Any, where: str) -> Any:
    """A value of JSON as a schema declares it: nothing is missing, and nothing of another type.

    Args:
        value: of JSON, whose numbers are finite.
        schema: a `TypedDict`, for which the value is returned as it is, further keys included; or a
            dataclass, of which one is made, without further keys.
        where: names its place in messages.

    Raises:
        ValueError: it does not fit; the place in it is named.
    """
    import pydantic  # slow to import

    try:
        # As JSON, in which an array may be a tuple, and in which nothing else is taken for another.
        instance = _adapter(schema).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, given = ".".join(map(str, first["loc"])), repr(first["input"])
        given = "" if first["type"] == "missing" else f", got {given[:60]}"
        raise ValueError(
            f"{where}: {place}: {first['msg']}{given}: put back a whole copy"
        ) from None
    return instance if dataclasses.is_dataclass(schema) else value


@functools.cache
def _adapter(schema: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(schema)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def read_npz(file: str | os.PathLike | bytes, limit: int = _NPZ_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name, their sizes checked before they are read.

    Args:
        file: its path, or its content.
        limit: most bytes that the arrays may have together.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a complete NPZ, holds Python objects, or declares sizes that it does not
            have.
    """
    source = io.BytesIO(file) if isinstance(file, bytes) else check_file(file)
    arrays = {}
    try:
        with zipfile.ZipFile(source) as archive:
            for entry in checked_entries(archive, limit):
                arrays[entry.filename.removesuffix(".npy")] = _array(archive, entry)
    except ZIP_ERRORS as error:
        raise ValueError(f"not a complete NPZ: {error or type(error).__name__}") from None
    return arrays


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    name = entry.filename
    if not name.endswith(".npy"):
        raise ValueError(f"{name} is no array")
    with archive.open(entry) as stream:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(np.lib.format.read_magic(stream))
        if read_header is None:
            raise ValueError(f"{name} has another version than 1.0 or 2.0")
        shape, by_column, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, expected numbers or text")
        if any(side < 0 for side in shape):
            raise ValueError(f"{name} has the shape {shape}")
        nbytes, left = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
        if nbytes != left:
            raise ValueError(
                f"{name} is declared as {shape} {dtype}, {nbytes} bytes, and has {left}"
            )
        data = bytearray(stream.read())  # which checks the entry's CRC
    if len(data) != nbytes:
        raise ValueError(f"{name} ends early")
    flat = np.frombuffer(data, dtype, math.prod(shape)) if nbytes else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if by_column else "C")


def read_safetensors(file: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, as float32 where they are of floating point.

    Raises:
        ValueError: no such file, one that is no safetensors file, or no library that reads them.
    """
    safetensors = safetensors_library(file)
    try:
        with safetensors.safe_open(check_file(file), "numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"no such file {file}") from None
    except (safetensors.SafetensorError, TypeError, OSError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({error})") from None
    return {
        name: x if np.issubdtype(x.dtype, np.integer) or x.dtype == bool else x.astype(np.float32)
        for name, x in arrays.items()
    }


def safetensors_library(file: str | os.PathLike) -> Any:
    """The module that reads safetensors files.

    Args:
        file: that is to be read, for the message.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import safetensors
    except ImportError:
        raise ValueError(
            f"{file}: reading it needs the package safetensors: pip install 'siamese_jax[export]'"
        ) from None
    return safetensors


def checked_entries(archive: zipfile.ZipFile, limit: int) -> list[zipfile.ZipInfo]:
    """The entries of a zip, when all they declare can be true and fits.

    Args:
        archive: the open zip.
        limit: most bytes that they may have together, decompressed.

    Raises:
        ValueError: too many, too large, or larger than their compressed bytes can give.
    """
    entries = archive.infolist()
    if len(entries) > _ENTRIES:
        raise ValueError(f"{len(entries)} entries, at most {_ENTRIES} are read")
    total = 0
    for entry in entries:
        total += entry.file_size
        if entry.file_size > _DEFLATE * entry.compress_size + _SLACK:
            raise ValueError(
                f"{entry.filename!r} declares {entry.file_size} bytes, more than its "
                f"{entry.compress_size} compressed ones can give"
            )
    if total > limit:
        raise ValueError(f"its entries declare {total} bytes, at most {limit} are read")
    return entries


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The content of one entry of a zip, decompressed in pieces up to a limit.

    Raises:
        ValueError: more bytes than the limit.
    """
    if entry.file_size > limit:
        raise ValueError(f"it declares {entry.file_size} bytes, at most {limit} are read")
    with archive.open(entry) as stream:
        return b"".join(_pieces(stream, limit))


def _pieces(stream: IO[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    while piece := stream.read(_CHUNK):
        total += len(piece)
        if total > limit:
            raise ValueError(f"more than {limit} bytes")
        yield piece


def check_choice(field: str, value: Any, choices: Iterable) -> None:
    """Raises ValueError where a field has a value that is none of its choices."""
    if value not in choices:
        raise ValueError(f"{field} must be one of {tuple(choices)}, got {value!r}")


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError on a name that is not known, with the nearest one that is."""
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3) or known
            raise ValueError(f"unknown {what} {name!r}; did you mean {', '.join(near)}?")
