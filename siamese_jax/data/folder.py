"""Any folder, or zip of a folder, of pictures as an image set."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from siamese_jax.data import decoding, listing, prepared_folder, shards
from siamese_jax.data.decoding import Header, attempt
from siamese_jax.data.image_set import (
    ImageSet,
    StreamedImages,
    as_kind,
    numbers_in_class,
    resize_images,
)
from siamese_jax.data.listing import LAYOUT, Name, natural_parts
from siamese_jax.files import replace_json

_log = logging.getLogger(__name__)

LARGE = 10_000  # pictures of a folder that is prepared on disk
_FORMAT = 2  # of what is prepared; another one is prepared anew
_SHOWN = 20  # faults that a message lists
_STACK = 2**24  # pixels that are decoded and resized at a time

# The images, the numbers of the files kept, the images' digests, and what is wrong with other files.
Loaded = tuple[
    np.ndarray | StreamedImages, Sequence[int] | np.ndarray, np.ndarray | None, list[str]
]


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

    Names sort with their numbers in numeric order (s2 before s10). Hidden files and Thumbs.db are
    passed over, and so are a README, a LICENSE and files ending in .txt or .md that lie beside the
    topmost folders. A single folder on top of all is passed through. The set is grey when every
    picture is stored as grey, else it is RGB; transparency becomes white. A resized picture is
    stretched to its new sides.

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
    top, names = listing.names_of(path)
    if not names:
        raise ValueError(f"{path}: holds no images; expected {LAYOUT}")
    if all(len(parts) == 1 for parts in names):
        raise ValueError(
            f"{path}: no folder of a class among its {len(names)} files; put the pictures of each class "
            f"into a folder of its own, {LAYOUT}"
        )
    depths = collections.Counter(len(parts) for parts in names)
    depth = 3 if depths[3] > depths[2] else 2
    expected = LAYOUT.split(" or ")[depth - 2]
    names.sort(key=natural_parts)
    faults = [
        f"{'/'.join(parts)} does not lie at {expected} as others do"
        for parts in names
        if len(parts) != depth
    ]
    files = [parts for parts in names if len(parts) == depth]
    kind = "ink" if ink else "photo"
    large = bool(stream) or len(files) >= LARGE
    images, kept, digests, broken = (
        _prepared_images(path, top, files, image_size, kind, data_dir, stream)
        if large
        else _decoded_images(path, top, files, image_size, kind)
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
    _refuse_or_log(path, faults, skip_broken)
    if small:
        rows = np.array([parts[:-1] not in small for parts in files])
        files = [parts for parts, keep in zip(files, rows, strict=True) if keep]
        images = images.select(rows) if isinstance(images, StreamedImages) else images[rows]
        digests = None if digests is None else digests[rows]
    if not files:
        raise ValueError(f"{path}: holds no images that can be used; expected {LAYOUT}")
    return _image_set(images, files, digests, kind, name or path.resolve().name, depth == 3)


def _refuse_or_log(path: pathlib.Path, faults: Sequence[str], skip_broken: bool) -> None:
    """Logs what is left out; raises ValueError where nothing may be."""
    if faults and not skip_broken:
        shown = "; ".join(faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        hint = "" if len(faults) == 1 else " (a config's data.skip_broken leaves these out)"
        raise ValueError(f"{path}: {shown}{more}{hint}")
    for fault in faults:
        _log.warning("%s: left out: %s", path, fault)


def _image_set(
    images: np.ndarray | StreamedImages,
    files: Sequence[Name],
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
        drawers=numbers_in_class(by_class.values()),
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
    top, names = listing.names_of(path, zipped=False)
    parts = sorted(names, key=natural_parts)
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
    top, names = listing.names_of(path)
    headers = _headers(path, names, listing.reader_of(path, top))
    return collections.Counter(header[0] for header, _ in headers if header is not None)


def _headers(
    path: pathlib.Path, files: Sequence[Name], read: decoding.Read
) -> list[tuple[Header | None, str]]:
    """What `decoding.header` says of each file, or None and what is wrong."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda f: attempt(decoding.header, path, f, read), files))


def _size_and_mode(
    headers: Iterable[Header | None], image_size: tuple[int, int] | None, kind: str
) -> tuple[tuple[int, int], str]:
    """((height, width), mode) that a set of these headers gets; broken ones are None."""
    whole = [header for header in headers if header is not None]
    counts = collections.Counter(size for size, _ in whole)
    height, width = image_size or max(counts, key=lambda size: (counts[size], size))
    mode = "L" if kind == "ink" or all(grey for _, grey in whole) else "RGB"
    return (height, width), mode


def _decoded_images(
    path: pathlib.Path,
    top: listing.Top,
    files: Sequence[Name],
    image_size: tuple[int, int] | None,
    kind: str,
) -> Loaded:
    """All files decoded in threads and resized in stacks of one size, in memory.

    Returns:
        (M, H, W, C) uint8, the numbers of the files kept, None, and what is wrong with the others.
    """
    read = listing.reader_of(path, top)
    headers = _headers(path, files, read)
    faults = {row: fault for row, (_, fault) in enumerate(headers) if fault}
    if len(faults) == len(files):
        return np.empty((0, 1, 1, 1), np.uint8), [], None, _unprefixed(path, faults)
    size, mode = _size_and_mode([h for h, _ in headers], image_size, kind)
    images = np.empty((len(files), *size, 3 if mode == "RGB" else 1), np.uint8)

    def decode(row: int) -> tuple[np.ndarray | None, str]:
        return attempt(decoding.pixels, path, files[row], read, mode, size)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for part in _stacks(headers):
            decoded: dict[tuple[int, ...], dict[int, np.ndarray]] = collections.defaultdict(dict)
            for row, (pixels, fault) in zip(part, pool.map(decode, part), strict=True):
                if pixels is None:
                    faults[row] = fault
                else:
                    decoded[pixels.shape][row] = pixels
            for of_shape in decoded.values():
                stack = np.stack(list(of_shape.values()))
                images[list(of_shape)] = resize_images(as_kind(stack, kind), *size)
    kept = [row for row in range(len(files)) if row not in faults]
    return images[kept] if faults else images, kept, None, _unprefixed(path, faults)


def _stacks(headers: Sequence[tuple[Header | None, str]]) -> Iterator[list[int]]:
    """The rows of whole files, in parts of so many pixels that they fit in memory together."""
    part: list[int] = []
    total = 0
    for row, (header, _) in enumerate(headers):
        if header is None:
            continue
        size = math.prod(header[0])
        if part and total + size > _STACK:
            yield part
            part, total = [], 0
        part.append(row)
        total += size
    if part:
        yield part


def _unprefixed(path: pathlib.Path, faults: dict[int, str]) -> list[str]:
    """What is wrong with each file, in their order, without the folder's name."""
    return [faults[row].removeprefix(f"{path}: ") for row in sorted(faults)]


def _prepared_images(
    path: pathlib.Path,
    top: listing.Top,
    files: Sequence[Name],
    image_size: tuple[int, int] | None,
    kind: str,
    data_dir: str | os.PathLike | None,
    stream: bool | None,
) -> Loaded:
    """The pictures of a large folder, prepared: streamed from disk, or held in memory.

    Returns:
        The images, the numbers of the files kept, their digests, and what is wrong with the others.
    """
    sides = None if image_size is None else tuple(int(side) for side in image_size)
    digest = hashlib.sha256(repr((_FORMAT, sides, kind)).encode())
    for parts, stamp in listing.stamps(path, top, files):
        digest.update(repr((parts, stamp)).encode())
    root = prepared_folder.data_dir(data_dir) / "pictures" / digest.hexdigest()[:16]
    facts = root / "facts.json"
    if not facts.exists():
        size, mode = _facts(path, top, files, image_size, kind)
        try:
            root.mkdir(parents=True, exist_ok=True)
            replace_json(facts, {"size": size, "mode": mode})
        except OSError as error:
            raise prepared_folder.cannot_hold(root, error) from None
    known = json.loads(facts.read_text())
    (height, width), mode = known["size"], known["mode"]
    shape = (height, width, 3 if mode == "RGB" else 1)
    decoder = decoding.Decoder(path, top, tuple(files), mode, kind, (height, width))
    prepared = shards.prepare(decoder, len(files), shape, root)
    images = StreamedImages(prepared.read, np.arange(len(prepared.kept)), shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if stream is None:
        stream = math.prod(images.shape) > memory // 2
    read = images if stream else _in_memory(images)
    return read, prepared.kept, prepared.digests, list(prepared.broken)


def _in_memory(images: StreamedImages) -> np.ndarray:
    """All images, read part by part."""
    whole = np.empty(images.shape, np.uint8)
    for begin in range(0, len(whole), shards.PART):
        whole[begin : begin + shards.PART] = images[begin : begin + shards.PART]
    return whole


def _facts(
    path: pathlib.Path,
    top: listing.Top,
    files: Sequence[Name],
    image_size: tuple[int, int] | None,
    kind: str,
) -> tuple[tuple[int, int], str]:
    """((height, width), mode) of a large folder; no more headers are read than are needed.

    Raises:
        ValueError: no file is a picture.
    """
    read = listing.reader_of(path, top)
    headers: list[Header | None] = []
    if image_size is None:
        headers += [header for header, _ in _headers(path, files, read)]
    else:  # the first picture in colour decides
        for parts in files:
            header, _ = attempt(decoding.header, path, parts, read)
            headers.append(header)
            if header is not None and (kind == "ink" or not header[1]):
                break
    if not any(headers):
        raise ValueError(f"{path}: none of {len(files)} files is a readable image")
    return _size_and_mode(headers, image_size, kind)
