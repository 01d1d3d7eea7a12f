"""Picture files decoded: the right way up, in one mode, at one size."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pathlib
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from siamese_jax import readers
from siamese_jax.data import listing
from siamese_jax.data.image_set import as_kind, resize_images
from siamese_jax.data.listing import Name, Top

# All that Pillow raises on a damaged file.
ERRORS = (*readers.ZIP_ERRORS, SyntaxError, struct.error, Image.DecompressionBombError)
_PIXELS = 2**26  # of a picture, 8,192 x 8,192
_DEEP = ("PNG", "PPM")  # formats of which Pillow gives 16 bits in a mode of 32
_EXIF_ORIENTATION = 0x0112
# By the number that a camera writes: how the picture is to be turned to be the right way up.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ROWS = 128  # that are converted at a time
_AT_ONCE = 2**20  # pixels of a picture that is converted as a whole

Read = Callable[[Name], bytes]
Header = tuple[tuple[int, int], bool]  # (height, width), and whether the picture is grey
_T = TypeVar("_T")


def attempt(function: Callable[..., _T], *args: Any) -> tuple[_T | None, str]:
    """(result, "") of a function of pictures, or (None, what is wrong)."""
    try:
        return function(*args), ""
    except ValueError as error:
        return None, str(error)


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Makes, in any process, the function from the number of a file to its resized pixels.

    Attributes:
        path: the folder or zip.
        top: of `listing.names_of`.
        files: names of its files.
        mode: `L` or `RGB`.
        kind: of the set.
        size: (height, width).
    """

    path: pathlib.Path
    top: Top
    files: tuple[Name, ...]
    mode: str
    kind: str
    size: tuple[int, int]

    def __call__(self) -> Callable[[int], tuple[np.ndarray | None, int, str]]:
        """(H, W, C) pixels, their digest and an empty text; or None, 0 and what is wrong.

        The digest is of the file and of what is done with it: that is less to read than the pixels.
        """
        read = listing.reader_of(self.path, self.top)
        facts = repr((self.mode, self.kind, self.size)).encode()

        def decode(number: int) -> tuple[np.ndarray | None, int, str]:
            parts, digest = self.files[number], hashlib.sha256(facts)

            def read_and_note(parts: Name) -> bytes:
                data = read(parts)
                digest.update(data)
                return data

            decoded, fault = attempt(pixels, self.path, parts, read_and_note, self.mode, self.size)
            if decoded is None:
                return None, 0, fault.removeprefix(f"{self.path}: ")
            image = resize_images(as_kind(decoded, self.kind)[None], *self.size)[0]
            return image, int.from_bytes(digest.digest()[:8], "big"), ""

        return decode


def header(path: pathlib.Path, parts: Name, read: Read) -> Header:
    """((height, width), whether it is grey) of a picture, as its header says.

    Args:
        path: the folder or zip.
        parts: name of the file.
        read: see `listing.reader_of`.

    Raises:
        ValueError: no picture.
    """
    try:
        with Image.open(io.BytesIO(read(parts))) as picture:
            _check(picture)
            size = picture.size if _orientation(picture) in (5, 6, 7, 8) else picture.size[::-1]
            return size, picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")
    except ERRORS as error:
        raise _unreadable(path, parts, error) from None


def pixels(
    path: pathlib.Path,
    parts: Name,
    read: Read,
    mode: str,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """A picture in mode `L` or `RGB`, the right way up; transparency becomes white.

    Args:
        path: the folder or zip.
        parts: name of the file.
        read: see `listing.reader_of`.
        mode: `L` or `RGB`.
        size: (height, width) to which it is going to be resized: a JPEG of twice as many pixels
            along both sides, or more, is decoded at a half, a quarter or an eighth.

    Returns:
        (H, W, C) uint8, not yet resized.

    Raises:
        ValueError: no picture.
    """
    try:
        with Image.open(io.BytesIO(read(parts))) as picture:
            return decode_picture(picture, mode, size)
    except ERRORS as error:
        raise _unreadable(path, parts, error) from None


def decode_picture(
    picture: Image.Image, mode: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """(H, W, C) uint8 of an open picture, see `pixels`; without a `size` the picture stays as it is."""
    _check(picture)
    turn = _orientation(picture)
    if size is not None and picture.format == "JPEG":
        wide, tall = size if turn in (5, 6, 7, 8) else size[::-1]
        if picture.width >= 2 * wide and picture.height >= 2 * tall:
            picture.draft(None, (wide, tall))
    if turn in _TURNS:
        picture = picture.transpose(_TURNS[turn])
    width, height = picture.size
    if width * height <= _AT_ONCE:
        array = _opaque(picture, mode)
        return array.reshape(height, width, -1)
    whole = np.empty((height, width, 3 if mode == "RGB" else 1), np.uint8)
    for top in range(0, height, _ROWS):  # a part at a time: copies of the whole want memory
        part = picture.crop((0, top, width, min(height, top + _ROWS)))
        whole[top : top + _ROWS] = _opaque(part, mode).reshape(-1, width, whole.shape[2])
    return whole


def _opaque(picture: Image.Image, mode: str) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 in mode `L` or `RGB`; clear is white."""
    if picture.mode.startswith("I"):  # 16 bits: Pillow would cut off, not scale
        deep = np.clip(np.asarray(picture, np.float64) / 257, 0, 255)
        picture = Image.fromarray(np.rint(deep).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return np.asarray(picture if picture.mode == mode else picture.convert(mode))


def read_picture(path: str | os.PathLike, mode: str) -> np.ndarray:
    """Reads one picture file, see `pixels`.

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
        raise ValueError(f"{path}: {'a folder, not a' if path.is_dir() else 'no such'} picture")
    return pixels(path.parent, (path.name,), lambda _: listing.read_file(path), mode)


def _orientation(picture: Image.Image) -> int:
    """How the camera was held, 1 to 8."""
    return picture.getexif().get(_EXIF_ORIENTATION, 1)


def _check(picture: Image.Image) -> None:
    """Refuses a picture by what its header says, before it is decoded."""
    width, height = picture.size
    if width * height > _PIXELS:
        raise _Refused(f"{width} x {height} pixels, at most {_PIXELS:,} are read: make it smaller")
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in _DEEP):
        # Nothing says which of its values is white.
        raise _Refused("its values have 32 bits or a sign: save it with 8 or 16 bits a pixel")


class _Refused(ValueError):
    """A picture that is whole, and that nothing here reads."""


def _unreadable(path: pathlib.Path, parts: tuple[str, ...], error: Exception) -> ValueError:
    # Pillow's own words where they help, as those of a truncated file.
    helpful = isinstance(error, _Refused) or (type(error) is OSError and error.errno is None)
    reason = error if helpful else type(error).__name__
    return ValueError(f"{path}: {'/'.join(parts)} is not a readable image ({reason})")
