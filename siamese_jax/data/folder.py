"""Any folder, or zip of a folder, of pictures as an image set."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import io
import os
import pathlib
import re
import struct
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

from siamese_jax import readers
from siamese_jax.data.image_set import ImageSet, as_kind, resize_images

_ZIP_ERRORS = readers.ZIP_ERRORS
_ERRORS = (*_ZIP_ERRORS, SyntaxError, struct.error, Image.DecompressionBombError)
_PICTURE_BYTES = 2**28  # of a picture's file
_PIXELS = 2**26  # of a picture, 8,192 x 8,192
_ZIP_BYTES = 2**36  # of all files of a zip, decompressed
_EXIF_ORIENTATION = 0x0112
_LAYOUT = "<class>/<image> or <alphabet>/<class>/<image>"

_STACK = 2**24  # pixels that are decoded and resized at a time

Readers = dict[tuple[str, ...], Callable[[], bytes]]


def load_folder(
    path: str | os.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    ink: bool = False,
    min_images: int = 1,
    name: str | None = None,
) -> ImageSet:
    """Loads pictures laid out as `<class>/<image>` or `<alphabet>/<class>/<image>`.

    Names sort with their numbers in numeric order (s2 before s10). Hidden files are passed over,
    and so are a README, a LICENSE and files ending in .txt or .md at the top. The set is grey when
    every picture is stored as grey, else it is RGB; transparency becomes white. A resized picture
    is stretched to its new sides.

    Args:
        path: the folder, or a .zip of it.
        image_size: (height, width) in pixels to resize to; None for the most common size.
        ink: pictures are dark ink on light paper: they become ink coverage, in a set of kind `ink`.
        min_images: fewest pictures of a class; 2 when the set is to give pairs.
        name: what the set is called; by default after the folder.

    Returns:
        A set of kind `photo`, or `ink`. The drawer is the number of the picture in its class.

    Raises:
        ValueError: no such folder, no pictures in it, a file that is no picture or lies at another
            depth, or a class with fewer than `min_images` pictures.
    """
    path = pathlib.Path(path).expanduser()
    files_by_name = _zip_files(path) if path.is_file() else _folder_files(path)
    if not files_by_name:
        raise ValueError(f"{path}: holds no images; expected {_LAYOUT}")
    depths = collections.Counter(len(parts) for parts in files_by_name)
    depth = 3 if depths[3] > depths[2] else 2
    for parts in files_by_name:
        if len(parts) != depth:
            expected = _LAYOUT.split(" or ")[depth - 2]
            raise ValueError(f"{path}: {'/'.join(parts)} does not lie at {expected} as others do")

    files = sorted(files_by_name, key=lambda parts: [natural_key(part) for part in parts])
    by_class = collections.Counter(parts[:-1] for parts in files)
    for key, count in by_class.items():
        if count < min_images:
            raise ValueError(
                f"{path}: the class {'/'.join(key)} has {count} image, at least {min_images} needed"
            )

    kind = "ink" if ink else "photo"
    images = _read_images(
        path, [(parts, files_by_name[parts]) for parts in files], image_size, kind
    )

    keys = list(by_class)
    ids = {key: index for index, key in enumerate(keys)}
    stem = name or path.resolve().name.removesuffix(".zip")
    alphabets = list(dict.fromkeys(key[0] for key in keys)) if depth == 3 else [stem]
    counts = list(by_class.values())
    return ImageSet(
        images=images,
        classes=np.array([ids[parts[:-1]] for parts in files], np.int32),
        drawers=np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts]),
        class_names=tuple("/".join(key) for key in keys),
        class_alphabets=np.array(
            [alphabets.index(key[0]) if depth == 3 else 0 for key in keys], np.int32
        ),
        alphabet_names=tuple(alphabets),
        kind=kind,
        name=stem,
    )


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
    return _pixels(path.parent, (path.name,), path.read_bytes, mode)


def _read_images(
    path: pathlib.Path,
    files: Sequence[tuple[tuple[str, ...], Callable[[], bytes]]],
    image_size: tuple[int, int] | None,
    kind: str,
) -> np.ndarray:
    """(M, H, W, C) uint8 of all files, decoded in threads and resized in stacks of one size."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        headers = list(pool.map(lambda file: _header(path, *file), files))
        rows_of = collections.defaultdict(list)
        for row, (size, _) in enumerate(headers):
            rows_of[size].append(row)
        height, width = image_size or max(rows_of, key=lambda size: (len(rows_of[size]), size))
        mode = "L" if kind == "ink" or all(grey for _, grey in headers) else "RGB"
        images = np.empty((len(files), height, width, 3 if mode == "RGB" else 1), np.uint8)
        decode = functools.partial(_pixels, path, mode=mode)
        for size, rows in rows_of.items():
            count = max(1, _STACK // (size[0] * size[1]))
            for begin in range(0, len(rows), count):
                part = rows[begin : begin + count]
                stack = np.stack(list(pool.map(lambda row: decode(*files[row]), part)))
                images[part] = resize_images(as_kind(stack, kind), height, width)
    return images


def natural_key(name: str) -> tuple:
    """Sorting key that puts the numbers in a name in numeric order; equal only for equal names."""
    pieces = re.split(r"([0-9]+)", name)
    return tuple(int(p) if i % 2 else p for i, p in enumerate(pieces)), name


def _is_passed_over(parts: tuple[str, ...]) -> bool:
    """Hidden files, and the papers that lie beside the classes."""
    if parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts):
        return True
    return len(parts) == 1 and (
        parts[0].upper().startswith(("README", "LICENSE", "LICENCE"))
        or parts[0].lower().endswith((".txt", ".md"))
    )


def _folder_files(path: pathlib.Path) -> Readers:
    """A reader for each file of a folder, by the parts of its name."""
    if not path.is_dir():
        raise ValueError(
            f"{path}: no such folder of images; set data.path to a folder, or a zip, of {_LAYOUT}"
        )
    whole, files = path.resolve(), {}
    for file in path.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(whole):
            raise ValueError(
                f"{path}: {str(file.relative_to(path))!r} is a link that leaves the folder: put a copy "
                "in its place"
            )
        if file.is_file():
            files[file.relative_to(path).parts] = file
    return {
        parts: functools.partial(_read_file, file)
        for parts, file in files.items()
        if not _is_passed_over(parts) and _is_plain(path, parts)
    }


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


def _zip_files(path: pathlib.Path) -> Readers:
    """A reader for each file of a zip, by the parts of its name."""
    try:
        archive = zipfile.ZipFile(readers.check_file(path))
        entries = readers.checked_entries(archive, _ZIP_BYTES)
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: neither a folder nor a whole zip archive ({error})") from None
    files = {pathlib.PurePosixPath(x.filename).parts: x for x in entries if not x.is_dir()}
    return {
        parts: functools.partial(readers.read_entry, archive, entry, _PICTURE_BYTES)
        for parts, entry in files.items()
        if parts and not _is_passed_over(parts) and _is_plain(path, parts)
    }


def _header(
    path: pathlib.Path, parts: tuple[str, ...], read: Callable[[], bytes]
) -> tuple[tuple[int, int], bool]:
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
            _check_pixels(picture)
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bits: Pillow would cut off, not scale
                deep = np.asarray(picture)
                flat = np.empty(deep.shape, np.uint8)
                for row, part in zip(flat, deep, strict=True):  # in float64, a row at a time
                    row[:] = np.rint(np.clip(part.astype(np.float64) / 257, 0, 255))
                picture = Image.fromarray(flat)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                paper = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(paper, picture)
            pixels = np.asarray(picture.convert(mode))
    except _ERRORS as error:
        raise _unreadable(path, parts, error) from None
    return pixels.reshape(*pixels.shape[:2], -1)


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
