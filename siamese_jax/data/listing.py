"""The files of a folder, or of a zip of one, and what they hold; nothing is decoded here."""

from __future__ import annotations

import collections
import functools
import logging
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence

from siamese_jax import readers

PICTURE_BYTES = 2**28  # of a picture's file
_ZIP_BYTES = 2**36  # of all files of a zip, decompressed
LAYOUT = "<class>/<image> or <alphabet>/<class>/<image>"

_log = logging.getLogger(__name__)

Top = tuple[str, ...]  # the parts of the folder that all files lie in
Name = tuple[str, ...]  # the parts of a file's name below that


def names_of(path: pathlib.Path, zipped: bool = True) -> tuple[Top, list[Name]]:
    """The names of all files of a folder or zip, but for those that are passed over.

    Hidden files are, Thumbs.db, and a README, a licence or the like beside the classes.

    Args:
        path: the folder or zip.
        zipped: whether a zip will do.

    Returns:
        The parts of the single top folder, often none, and the names below it.

    Raises:
        ValueError: neither is there, a name that cannot be shown, or a zip with two files of one
            name.
    """
    names = _zip_names(path) if zipped and path.is_file() else _folder_names(path)
    top: Top = ()
    while len({parts[0] for parts in names}) == 1 and min(len(parts) for parts in names) > 1:
        below = [parts[1:] for parts in names if not _is_passed_over(parts[1:])]
        if not below or min(len(parts) for parts in below) == 1:
            break  # what is below are the pictures of a single class
        top, names = (*top, names[0][0]), below
    return top, names


def reader_of(path: pathlib.Path, top: Top) -> Callable[[Name], bytes]:
    """A function from the name of a file to its bytes; any thread may call it.

    A zip stays open for as long as the function is kept.

    Args:
        path: the folder or zip.
        top: of `names_of`.
    """
    if path.is_file():
        archive = zipfile.ZipFile(path)
        entries = {pathlib.PurePosixPath(x.filename).parts: x for x in archive.infolist()}
        return lambda parts: readers.read_entry(archive, entries[(*top, *parts)], PICTURE_BYTES)
    place = path.joinpath(*top)
    return lambda parts: read_file(os.path.join(place, *parts))


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of one picture's file.

    Raises:
        ValueError: no regular file, or one that is too large.
    """
    return readers.check_file(path, PICTURE_BYTES).read_bytes()


def stamps(path: pathlib.Path, top: Top, files: Iterable[Name]) -> Iterator[tuple[Name, tuple]]:
    """For each file, what would be different if the file were changed; the file is not read.

    Args:
        path: the folder or zip.
        top: of `names_of`.
        files: names.
    """
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            entries = {pathlib.PurePosixPath(x.filename).parts: x for x in archive.infolist()}
        for parts in files:
            entry = entries[(*top, *parts)]
            yield parts, (entry.file_size, entry.CRC)
        return
    place = path.joinpath(*top)
    for parts in files:
        status = os.stat(os.path.join(place, *parts))
        yield parts, (status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2**14)
def natural_key(name: str) -> tuple:
    """Sorting key that puts the numbers in a name in numeric order; equal only for equal names."""
    pieces = re.split(r"([0-9]+)", name)
    return tuple(int(p) if i % 2 else p for i, p in enumerate(pieces)), name


def natural_parts(parts: Sequence[str]) -> list[tuple]:
    """`natural_key` of each part of a name."""
    return [natural_key(part) for part in parts]


def _is_passed_over(parts: tuple[str, ...]) -> bool:
    """Whether a file is hidden, or a README, a licence or the like that lies beside the classes."""
    if parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
        return True
    if parts[-1].lower() in ("thumbs.db", "desktop.ini"):
        return True
    return len(parts) == 1 and (
        parts[0].upper().startswith(("README", "LICENSE", "LICENCE"))
        or parts[0].lower().endswith((".txt", ".md"))
    )


def _folder_names(path: pathlib.Path) -> list[tuple[str, ...]]:
    """The parts of the names of all files of a folder."""
    if not path.is_dir():
        raise ValueError(
            f"{path}: no such folder of images; set data.path to a folder, or a zip, of {LAYOUT}"
        )
    whole = path.resolve()
    names: list[tuple[str, ...]] = []
    folders: list[tuple[str, ...]] = [()]
    while folders:
        above = folders.pop()
        try:
            with os.scandir(os.path.join(path, *above)) as entries:
                for entry in entries:
                    parts = (*above, entry.name)
                    linked = entry.is_symlink()
                    if linked:
                        _check_link(path, whole, parts)
                    if not entry.is_dir():
                        names.append(parts)
                    elif linked:  # the pictures would be there twice
                        _log.warning("%s: left out: %s, a link to a folder", path, "/".join(parts))
                    else:
                        folders.append(parts)
        except OSError as error:
            name = "/".join(above)
            raise ValueError(f"{path}: the folder {name!r} cannot be read ({error})") from None
    return [parts for parts in names if not _is_passed_over(parts) and _is_plain(path, parts)]


def _check_link(path: pathlib.Path, whole: pathlib.Path, parts: tuple[str, ...]) -> None:
    """Refuses a link that leaves the folder, whose real path is `whole`."""
    real = pathlib.Path(os.path.realpath(path.joinpath(*parts)))  # which allows a link to itself
    if not real.is_relative_to(whole):
        raise ValueError(
            f"{path}: {'/'.join(parts)!r} is a link that leaves the folder: put a copy in its place"
        )


def _is_plain(path: pathlib.Path, parts: tuple[str, ...]) -> bool:
    """True for names that can be shown and written in one line.

    Raises:
        ValueError: for any other.
    """
    name = "/".join(parts)
    if not name.isprintable() or any(len(number) > 18 for number in re.findall(r"[0-9]+", name)):
        raise ValueError(
            f"{path}: the name {ascii(name)} has characters that cannot be shown, or a number of more "
            "than 18 digits: rename it"
        )
    return True


def _zip_names(path: pathlib.Path) -> list[tuple[str, ...]]:
    """The parts of the names of all files of a zip."""
    try:
        with zipfile.ZipFile(readers.check_file(path)) as archive:
            entries = readers.checked_entries(archive, _ZIP_BYTES)
    except readers.ZIP_ERRORS as error:
        raise ValueError(f"{path}: neither a folder nor a whole zip archive ({error})") from None
    files = [pathlib.PurePosixPath(x.filename).parts for x in entries if not x.is_dir()]
    names = [
        parts for parts in files if parts and not _is_passed_over(parts) and _is_plain(path, parts)
    ]
    name, count = next(iter(collections.Counter(names).most_common(1)), ((), 0))
    if count > 1:
        raise ValueError(f"{path}: holds {'/'.join(name)} {count} times: pack it again")
    return names
