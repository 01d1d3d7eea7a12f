"""Any folder, or zip of a folder, of pictures as an image set."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import json
import logging
import math
import os
import pathlib
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from siamese_jax import readers
from siamese_jax.data import preparation, shards
from siamese_jax.data.image_set import ImageSet, StreamedImages, as_kind, resize_images

_log = logging.getLogger(__name__)

_ZIP_ERRORS = readers.ZIP_ERRORS
_ERRORS = (*_ZIP_ERRORS, SyntaxError, struct.error, Image.DecompressionBombError)
_PICTURE_BYTES = 2**28  # of a picture's file
_PIXELS = 2**26  # of a picture, 8,192 x 8,192
_ROWS = 128  # that are converted at a time
_ZIP_BYTES = 2**36  # of all files of a zip, decompressed
_EXIF_ORIENTATION = 0x0112
_LAYOUT = "<class>/<image> or <alphabet>/<class>/<image>"

LARGE = 10_000  # pictures of a folder that is prepared on disk
_FORMAT = 1  # of what is prepared; another one is prepared anew
_SHOWN = 20  # faults that a message lists
_STACK = 2**24  # pixels that are decoded and resized at a time

Parts = tuple[str, ...]  # of the name of a file, below the top folder
Readers = dict[Parts, Callable[[], bytes]]
# The images, the numbers of the files kept, the images' digests, and what is wrong with other files.
Loaded = tuple[
    np.ndarray | StreamedImages, Sequence[int] | np.ndarray, np.ndarray | None, list[str]
]
Header = tuple[tuple[int, int], bool]  # (height, width), and whether the picture is grey
_T = TypeVar("_T")


def load_folder(
    path: str | os.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    ink: bool = False,
    min_images: int = 1,
    name: str | None = None,
    skip_broken: bool = False,
    stream: bool | None = None,
    data_dir: str | os.PathLike | None = None,
) -> ImageSet:
    """Loads pictures laid out as `<class>/<image>` or `<alphabet>/<class>/<image>`.

    Names sort with their numbers in numeric order (s2 before s10). Hidden files are passed over,
    and so are Thumbs.db, a README, a LICENSE and files ending in .txt or .md at the top. A single
    folder on top of all is passed through. The set is grey when every picture is stored as grey,
    else it is RGB; transparency becomes white. A resized picture is stretched to its new sides.

    A folder of `LARGE` pictures or more is prepared once, see `shards`; later calls read what was
    prepared, and decode nothing.

    Args:
        path: the folder, or a .zip of it.
        image_size: (height, width) in pixels to resize to; None for the most common size.
        ink: pictures are dark ink on light paper: they become ink coverage, in a set of kind `ink`.
        min_images: fewest pictures of a class; 2 when the set is to give pairs.
        name: what the set is called; by default after the folder.
        skip_broken: leave out broken files, files that lie elsewhere and classes that are too small,
            and log each, instead of refusing the folder.
        stream: whether the pictures stay on disk; None: if they would take half of the memory.
        data_dir: folder of prepared sets; None for tfds's own.

    Returns:
        A set of kind `photo`, or `ink`. The drawer is the number of the picture in its class.

    Raises:
        ValueError: no such folder, no pictures in it; or files that are no pictures or lie at another
            depth, and classes with fewer than `min_images` pictures, all in one message.
    """
    path = pathlib.Path(path).expanduser()
    files_by_name = _readers(path)
    if not files_by_name:
        raise ValueError(f"{path}: holds no images; expected {_LAYOUT}")
    depths = collections.Counter(len(parts) for parts in files_by_name)
    depth = 3 if depths[3] > depths[2] else 2
    expected = _LAYOUT.split(" or ")[depth - 2]
    faults = [
        f"{'/'.join(parts)} does not lie at {expected} as others do"
        for parts in files_by_name
        if len(parts) != depth
    ]
    files = sorted(
        (parts for parts in files_by_name if len(parts) == depth),
        key=lambda parts: [natural_key(part) for part in parts],
    )
    kind = "ink" if ink else "photo"
    large = bool(stream) or len(files) >= LARGE
    load = _prepared_images if large else _decoded_images
    images, kept, digests, broken = load(
        path, files_by_name, files, image_size, kind, data_dir, stream
    )
    files = [files[row] for row in kept]
    faults += broken
    by_class = collections.Counter(parts[:-1] for parts in files)
    small = {key for key, count in by_class.items() if count < min_images}
    faults += [
        f"the class {'/'.join(key)} has {by_class[key]} image, at least {min_images} needed"
        for key in by_class
        if key in small
    ]
    if faults and not skip_broken:
        shown = "; ".join(faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        hint = "" if len(faults) == 1 else " (skip_broken leaves these out)"
        raise ValueError(f"{path}: {shown}{more}{hint}")
    for fault in faults:
        _log.warning("%s: left out: %s", path, fault)
    if small:
        rows = np.array([parts[:-1] not in small for parts in files])
        files = [parts for parts, keep in zip(files, rows, strict=True) if keep]
        images = images.select(rows) if isinstance(images, StreamedImages) else images[rows]
        digests = None if digests is None else digests[rows]
    if not files:
        raise ValueError(f"{path}: holds no images that can be used; expected {_LAYOUT}")
    return _image_set(images, files, digests, kind, name or path.resolve().name, depth == 3)


def _image_set(
    images: np.ndarray | StreamedImages,
    files: Sequence[Parts],
    digests: np.ndarray | None,
    kind: str,
    name: str,
    with_alphabets: bool,
) -> ImageSet:
    """The set of pictures whose files are sorted."""
    by_class = collections.Counter(parts[:-1] for parts in files)
    keys = list(by_class)
    ids = {key: index for index, key in enumerate(keys)}
    stem = name.removesuffix(".zip")
    alphabets = list(dict.fromkeys(key[0] for key in keys)) if with_alphabets else [stem]
    numbers = {alphabet: number for number, alphabet in enumerate(alphabets)}
    return ImageSet(
        images=images,
        classes=np.array([ids[parts[:-1]] for parts in files], np.int32),
        drawers=np.concatenate(
            [np.arange(1, count + 1, dtype=np.int32) for count in by_class.values()]
        ),
        class_names=tuple("/".join(key) for key in keys),
        class_alphabets=np.array(
            [numbers[key[0]] if with_alphabets else 0 for key in keys], np.int32
        ),
        alphabet_names=tuple(alphabets),
        kind=kind,
        name=stem,
        digests=digests,
        files=tuple("/".join(parts) for parts in files),
    )


def picture_files(path: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """The pictures of a folder laid out as `<name>/<picture>`, by name; none is read.

    Order, hidden files and a single folder on top are as of `load_folder`.

    Args:
        path: the folder.

    Raises:
        ValueError: no such folder, no pictures in it, or files at another depth, all told at once.
    """
    path = pathlib.Path(path).expanduser()
    names = _folder_names(path)
    top = _top(names)
    parts = sorted(
        (name[len(top) :] for name in names), key=lambda parts: [natural_key(p) for p in parts]
    )
    astray = ["/".join(p) for p in parts if len(p) != 2]
    if astray:
        more = f" and {len(astray) - _SHOWN} more" if len(astray) > _SHOWN else ""
        raise ValueError(f"{path}: not at <name>/<picture>: {', '.join(astray[:_SHOWN])}{more}")
    if not parts:
        raise ValueError(f"{path}: holds no pictures; expected <name>/<picture>")
    files: dict[str, list[pathlib.Path]] = {}
    for name, picture in parts:
        files.setdefault(name, []).append(path.joinpath(*top, name, picture))
    return files


def file_sizes(path: str | os.PathLike) -> collections.Counter[tuple[int, int]]:
    """How many picture files have each (height, width), by their headers; broken ones are left out.

    Args:
        path: a folder or a zip, see `load_folder`.

    Raises:
        ValueError: no such folder.
    """
    path = pathlib.Path(path).expanduser()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        files = _readers(path).items()
        headers = pool.map(lambda file: _attempt(_header, path, *file)[0], files)
        return collections.Counter(header[0] for header in headers if header is not None)


def read_picture(path: str | os.PathLike, mode: str) -> np.ndarray:
    """Reads one picture file, the right way up; transparency becomes white.

    Args:
        path: the file.
        mode: `L` for grey, `RGB` for colour.

    Returns:
        (H, W, 1) or (H, W, 3) uint8.

    Raises:
        ValueError: no such file, or no picture in it.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such picture")
    return _pixels(path.parent, (path.name,), functools.partial(_read_file, path), mode)


def _size_and_mode(
    headers: Iterable[Header | None], image_size: tuple[int, int] | None, kind: str
) -> tuple[tuple[int, int], str]:
    """((height, width), mode) that a set of these headers gets; broken ones are None."""
    whole = [header for header in headers if header is not None]
    counts = collections.Counter(size for size, _ in whole)
    height, width = image_size or max(counts, key=lambda size: (counts[size], size))
    mode = "L" if kind == "ink" or all(grey for _, grey in whole) else "RGB"
    return (height, width), mode


def _attempt(function: Callable[..., _T], *args: Any) -> tuple[_T | None, str]:
    """(result, "") of a function of pictures, or (None, what is wrong)."""
    try:
        return function(*args), ""
    except ValueError as error:
        return None, str(error)


def _decoded_images(
    path: pathlib.Path,
    files_by_name: Readers,
    files: Sequence[Parts],
    image_size: tuple[int, int] | None,
    kind: str,
    data_dir: str | os.PathLike | None,
    stream: bool | None,
) -> Loaded:
    """All files decoded in threads and resized in stacks of one size, in memory.

    Returns:
        (M, H, W, C) uint8, the numbers of the files kept, None, and what is wrong with the others.
    """
    del data_dir, stream
    with concurrent.futures.ThreadPoolExecutor() as pool:
        headers = list(pool.map(lambda f: _attempt(_header, path, f, files_by_name[f]), files))
        faults = {row: fault for row, (_, fault) in enumerate(headers) if fault}
        if len(faults) == len(files):
            return np.empty((0, 1, 1, 1), np.uint8), [], None, _unprefixed(path, faults)
        rows_of: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
        for row, (header, _) in enumerate(headers):
            if header is not None:
                rows_of[header[0]].append(row)
        (height, width), mode = _size_and_mode([h for h, _ in headers], image_size, kind)
        images = np.empty((len(files), height, width, 3 if mode == "RGB" else 1), np.uint8)

        def decode(row: int) -> tuple[np.ndarray | None, str]:
            return _attempt(_pixels, path, files[row], files_by_name[files[row]], mode)

        for size, rows in rows_of.items():
            count = max(1, _STACK // (size[0] * size[1]))
            for begin in range(0, len(rows), count):
                part = rows[begin : begin + count]
                decoded: dict[int, np.ndarray] = {}
                for row, (pixels, fault) in zip(part, pool.map(decode, part), strict=True):
                    if pixels is None:
                        faults[row] = fault
                    else:
                        decoded[row] = pixels
                if decoded:
                    stack = np.stack(list(decoded.values()))
                    images[list(decoded)] = resize_images(as_kind(stack, kind), height, width)
    kept = [row for row in range(len(files)) if row not in faults]
    return images[kept] if faults else images, kept, None, _unprefixed(path, faults)


def _unprefixed(path: pathlib.Path, faults: dict[int, str]) -> list[str]:
    """What is wrong with each file, in their order, without the folder's name."""
    return [faults[row].removeprefix(f"{path}: ") for row in sorted(faults)]


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """Makes, in any process, the function from the number of a file to its resized pixels."""

    path: pathlib.Path
    files: tuple[tuple[str, ...], ...]
    mode: str
    kind: str
    size: tuple[int, int]

    def __call__(self) -> shards.Decode:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each process has a core
        read = _reader_of(self.path)

        def decode(number: int) -> tuple[np.ndarray | None, str]:
            parts = self.files[number]
            pixels, fault = _attempt(_pixels, self.path, parts, lambda: read(parts), self.mode)
            if pixels is None:
                return None, fault.removeprefix(f"{self.path}: ")
            return resize_images(as_kind(pixels, self.kind)[None], *self.size)[0], ""

        return decode


def _prepared_images(
    path: pathlib.Path,
    files_by_name: Readers,
    files: Sequence[Parts],
    image_size: tuple[int, int] | None,
    kind: str,
    data_dir: str | os.PathLike | None,
    stream: bool | None,
) -> Loaded:
    """The pictures of a large folder, prepared: streamed from disk, or held in memory.

    Returns:
        The images, the numbers of the files kept, their digests, and what is wrong with the others.
    """
    digest = hashlib.sha256(repr((_FORMAT, image_size, kind)).encode())
    for parts, stamp in _stamps(path, files):
        digest.update(repr((parts, stamp)).encode())
    fingerprint = digest.hexdigest()[:16]
    root = preparation.resolve_data_dir(data_dir) / "pictures" / fingerprint
    facts = root / "facts.json"
    if not facts.exists():
        with concurrent.futures.ThreadPoolExecutor() as pool:
            headers = list(
                pool.map(lambda f: _attempt(_header, path, f, files_by_name[f])[0], files)
            )
        if not any(headers):
            raise ValueError(f"{path}: none of {len(files)} files is a readable image")
        size, mode = _size_and_mode(headers, image_size, kind)
        try:
            root.mkdir(parents=True, exist_ok=True)
            part = root / f"facts.{os.getpid()}"
            part.write_text(json.dumps({"size": size, "mode": mode}))
            os.replace(part, facts)
        except OSError as error:
            raise ValueError(f"{root}: cannot hold prepared data ({error})") from None
    known = json.loads(facts.read_text())
    (height, width), mode = known["size"], known["mode"]
    shape = (height, width, 3 if mode == "RGB" else 1)
    decoder = _Decoder(path, tuple(files), mode, kind, (height, width))
    prepared = shards.prepare(decoder, len(files), shape, fingerprint, data_dir)
    images = StreamedImages(prepared.read, np.arange(len(prepared.kept)), shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if stream is None:
        stream = math.prod(images.shape) > memory // 2
    if not stream:
        in_memory = np.empty(images.shape, np.uint8)
        for begin in range(0, len(in_memory), shards.PART):
            in_memory[begin : begin + shards.PART] = images[begin : begin + shards.PART]
        return in_memory, prepared.kept, prepared.digests, list(prepared.broken)
    return images, prepared.kept, prepared.digests, list(prepared.broken)


def _stamps(path: pathlib.Path, files: Iterable[Parts]) -> Iterator[tuple[Parts, tuple]]:
    """For each file, what would be different if the file were changed; the file is not read."""
    if path.is_file():
        infos = zipfile.ZipFile(path).infolist()
        entries = {pathlib.PurePosixPath(x.filename).parts: x for x in infos if not x.is_dir()}
        top = _top(entries)
        for parts in files:
            entry = entries[(*top, *parts)]
            yield parts, (entry.file_size, entry.CRC)
        return
    top = _top_of_folder(path)
    for parts in files:
        status = os.stat(path.joinpath(*top, *parts))
        yield parts, (status.st_size, status.st_mtime_ns)


def natural_key(name: str) -> tuple:
    """Sorting key that puts the numbers in a name in numeric order; equal only for equal names."""
    pieces = re.split(r"([0-9]+)", name)
    return tuple(int(p) if i % 2 else p for i, p in enumerate(pieces)), name


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


def _readers(path: pathlib.Path) -> Readers:
    """A reader for each file of a folder or zip, by the parts of its name below a single top folder."""
    names = _zip_names(path) if path.is_file() else _folder_names(path)
    top = len(_top(names))
    read = _reader_of(path, names)
    return {parts[top:]: functools.partial(read, parts[top:]) for parts in names}


def _reader_of(
    path: pathlib.Path, names: Sequence[Parts] | None = None
) -> Callable[[Parts], bytes]:
    """A function from the parts of a file's name, below the top folder, to its bytes."""
    if path.is_file():
        names = _zip_names(path) if names is None else names
        top, archive = _top(names), zipfile.ZipFile(path)
        entries = {pathlib.PurePosixPath(x.filename).parts: x for x in archive.infolist()}
        return lambda parts: readers.read_entry(archive, entries[(*top, *parts)], _PICTURE_BYTES)
    top = _top_of_folder(path) if names is None else _top(names)
    place = path.joinpath(*top)
    return lambda parts: _read_file(place.joinpath(*parts))


def _top(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all files lie in, above any `<class>/<image>`."""
    top: tuple[str, ...] = ()
    names = [parts for parts in names if not _is_passed_over(parts)]
    if not names or min(len(parts) for parts in names) < 3:
        return top
    while len({parts[len(top)] for parts in names}) == 1:
        top = (*top, names[0][len(top)])
        if min(len(parts) for parts in names) - len(top) <= 2:
            break
    return top


def _top_of_folder(path: pathlib.Path) -> tuple[str, ...]:
    """`_top` of a folder, by a look at its upper levels only."""
    top: tuple[str, ...] = ()
    while True:
        entries = [e for e in os.scandir(path.joinpath(*top)) if not _is_passed_over((e.name,))]
        if len(entries) != 1 or not entries[0].is_dir():
            return top
        inner = [e for e in os.scandir(entries[0].path) if not e.name.startswith(".")]
        if not any(e.is_dir() for e in inner):
            return top
        top = (*top, entries[0].name)


def _folder_names(path: pathlib.Path) -> list[tuple[str, ...]]:
    """The parts of the names of all files of a folder."""
    if not path.is_dir():
        raise ValueError(
            f"{path}: no such folder of images; set data.path to a folder, or a zip, of {_LAYOUT}"
        )
    whole, names = path.resolve(), []
    for folder, folders, files in os.walk(path):
        above = pathlib.Path(folder)
        for file in (above / name for name in (*folders, *files)):
            real = pathlib.Path(os.path.realpath(file))  # which does not mind a link to itself
            if file.is_symlink() and not real.is_relative_to(whole):
                raise ValueError(
                    f"{path}: {str(file.relative_to(path))!r} is a link that leaves the folder: put a "
                    "copy in its place"
                )
        names += [(*above.relative_to(path).parts, name) for name in files]
    return [parts for parts in names if not _is_passed_over(parts) and _is_plain(path, parts)]


def _read_file(path: pathlib.Path) -> bytes:
    return readers.check_file(path, _PICTURE_BYTES).read_bytes()


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
        archive = zipfile.ZipFile(readers.check_file(path))
        entries = readers.checked_entries(archive, _ZIP_BYTES)
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: neither a folder nor a whole zip archive ({error})") from None
    files = [pathlib.PurePosixPath(x.filename).parts for x in entries if not x.is_dir()]
    return [
        parts for parts in files if parts and not _is_passed_over(parts) and _is_plain(path, parts)
    ]


def _header(path: pathlib.Path, parts: tuple[str, ...], read: Callable[[], bytes]) -> Header:
    """((height, width), whether it is grey) of a picture, as its header says."""
    try:
        with Image.open(io.BytesIO(read())) as picture:
            _check_pixels(picture)
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            size = picture.size if turned else picture.size[::-1]
            return size, picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")
    except _ERRORS as error:
        raise _unreadable(path, parts, error) from None


def _pixels(
    path: pathlib.Path, parts: tuple[str, ...], read: Callable[[], bytes], mode: str
) -> np.ndarray:
    """(H, W, C) uint8 picture in mode `L` or `RGB`, the right way up."""
    try:
        with Image.open(io.BytesIO(read())) as picture:
            return decode_picture(picture, mode)
    except _ERRORS as error:
        raise _unreadable(path, parts, error) from None


def decode_picture(picture: Image.Image, mode: str) -> np.ndarray:
    """(H, W, C) uint8 of an open picture, which is turned the right way up, in mode `L` or `RGB`."""
    _check_pixels(picture)
    ImageOps.exif_transpose(picture, in_place=True)
    width, height = picture.size
    pixels = np.empty((height, width, 3 if mode == "RGB" else 1), np.uint8)
    for top in range(0, height, _ROWS):  # a part at a time: copies of the whole want memory
        part = picture.crop((0, top, width, min(height, top + _ROWS)))
        pixels[top : top + _ROWS] = _opaque(part, mode).reshape(-1, width, pixels.shape[2])
    return pixels


def _opaque(picture: Image.Image, mode: str) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 in mode `L` or `RGB`; clear is white."""
    if picture.mode.startswith("I"):  # 16 bits: Pillow would cut off, not scale
        deep = np.clip(np.asarray(picture, np.float64) / 257, 0, 255)
        picture = Image.fromarray(np.rint(deep).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return np.asarray(picture.convert(mode))


def _check_pixels(picture: Image.Image) -> None:
    """Refuses a picture by the size that its header gives, before it is decoded."""
    width, height = picture.size
    if width * height > _PIXELS:
        raise _TooLarge(f"{width} x {height} pixels, at most {_PIXELS:,} are read: make it smaller")


class _TooLarge(ValueError):
    """A picture has too many pixels."""


def _unreadable(path: pathlib.Path, parts: tuple[str, ...], error: Exception) -> ValueError:
    reason = error if isinstance(error, _TooLarge) else type(error).__name__
    return ValueError(f"{path}: {'/'.join(parts)} is not a readable image ({reason})")
