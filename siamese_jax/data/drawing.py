"""Drawings and pictures of symbols, as Omniglot would have them.

Omniglot's characters were drawn with one pen on one canvas: 105 x 105 pixels, ink or paper, the
longer side of a character mostly 60 to 80 pixels, its strokes about 5 wide. A symbol drawn anywhere
else has another size, place and pen. `to_omniglot` takes these differences away, so that the network
meets what it was trained on. The constants are medians of the background alphabets.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import scipy  # its parts are imported at their first use: they are slow
from PIL import Image, ImageOps, UnidentifiedImageError

from siamese_jax.data import decoding

SIDE = 105  # pixels, of an Omniglot image
EXTENT = 68  # pixels, the longer side of a character
STROKE = 5.1  # pixels, the width of its strokes

_FINE = 3  # pixels of the working grid a pixel of the result
_LARGEST_SCALE = 4.0  # a dot stays small
_CONTRAST = 32  # grey levels between ink and paper, at least

TYPES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 16_000_000
_WORKING_SIDE = 1024  # a larger picture is made smaller first


def to_omniglot(coverage: np.ndarray) -> np.ndarray:
    """A symbol of any size and pen as an Omniglot image.

    It is cropped to its ink, scaled so that its longer side is `EXTENT`, moved to the middle, and its
    strokes are made `STROKE` wide: the outline moves in or out by the same distance everywhere.

    Args:
        coverage: (H, W) in [0, 1], the share of ink in each pixel.

    Returns:
        (SIDE, SIDE) uint8, 255 ink and 0 paper.

    Raises:
        ValueError: there is no ink.
    """
    ink = coverage >= 0.5
    if not ink.any():
        raise ValueError("there is no ink in the picture: draw something")
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    cropped = coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    # The centre line is scaled, so that a wide pen does not make a symbol smaller.
    width = stroke_width(ink)
    length = max(max(cropped.shape) - width, 1.0)
    natural = SIDE / max(coverage.shape)
    scale = min((EXTENT - STROKE) / length, _LARGEST_SCALE * natural)
    fine = _resample(cropped, scale * _FINE) >= 0.5
    if not fine.any():
        fine = np.ones((1, 1), bool)
    grow = (STROKE * _FINE - stroke_width(fine)) / 2
    side = SIDE * _FINE
    canvas = np.zeros((side, side), bool)
    height, across = (min(n, side) for n in fine.shape)
    top, left = (side - height) // 2, (side - across) // 2
    canvas[top : top + height, left : left + across] = fine[:height, :across]
    if grow >= 0:
        canvas = scipy.ndimage.distance_transform_edt(~canvas) <= grow
    else:
        canvas = scipy.ndimage.distance_transform_edt(canvas) > -grow
    share = canvas.reshape(SIDE, _FINE, SIDE, _FINE).mean((1, 3))
    return np.where(share >= 0.5, np.uint8(255), np.uint8(0))


def stroke_width(ink: np.ndarray) -> float:
    """The width of the strokes of a (H, W) bool picture, in pixels.

    A pixel of a straight stroke of width w is on average w / 4 + 1 / 2 away from the nearest paper
    pixel.
    """
    padded = np.pad(ink, 1)
    return max(1.0, 4 * float(scipy.ndimage.distance_transform_edt(padded)[padded].mean()) - 2)


def read_ink(data: bytes) -> np.ndarray:
    """Reads a picture and tells its ink from its paper.

    Ink is what differs from the paper, and the paper is what most of the border is: dark strokes on
    light paper and light ones on dark are read alike. Transparent parts are paper.

    Args:
        data: a PNG, JPEG, WEBP, GIF or BMP file.

    Returns:
        (H, W) float32 in [0, 1], the share of ink in each pixel.

    Raises:
        ValueError: another type, a damaged file, more than `MAX_PIXELS`, or no ink: the picture is
            of one shade or nearly so.
    """
    try:
        with Image.open(io.BytesIO(data), formats=TYPES) as file:
            width, height = file.size
            fits = width * height <= MAX_PIXELS
            picture = ImageOps.exif_transpose(file).convert("RGBA") if fits else None
    except UnidentifiedImageError:
        raise ValueError(f"this is no picture of type {', '.join(TYPES)}") from None
    except decoding.ERRORS as error:
        raise ValueError(f"the picture is damaged: {' '.join(str(error).split())[:80]}") from None
    if picture is None:
        raise ValueError(
            f"the picture has {width} x {height} pixels; at most {MAX_PIXELS:,} are taken"
        )
    picture.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.BOX)
    paper = Image.new("RGBA", picture.size, "white")
    grey = np.asarray(Image.alpha_composite(paper, picture).convert("L"), np.float32)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    distance = np.abs(grey - np.median(border))
    level = _otsu(distance)
    light, dark = distance[distance <= level].mean(), distance[distance > level]
    if not len(dark) or dark.mean() - light < _CONTRAST:
        raise ValueError("there is no ink in the picture: draw something")
    # The level between the two becomes 1/2, so that anti-aliased edges keep their place.
    return np.clip((distance - light) / (dark.mean() - light), 0, 1)


def to_png(image: np.ndarray) -> bytes:
    """A (H, W) uint8 image with ink 255 as a PNG of dark ink on light paper."""
    buffer = io.BytesIO()
    Image.fromarray(255 - image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def digest(image: np.ndarray) -> str:
    """Names the pixels of an image: 16 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:16]


def _resample(coverage: np.ndarray, scale: float) -> np.ndarray:
    """(H, W) float32 resized by a factor, averaging when it shrinks."""
    height, width = (max(1, round(n * scale)) for n in coverage.shape)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(coverage).resize((width, height), method))


def _otsu(values: np.ndarray) -> float:
    """The level that parts values in [0, 255] into two groups as far apart as can be.

    References:
        Otsu (1979), A threshold selection method from gray-level histograms.
    """
    counts = np.bincount(np.rint(values).astype(int).ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    sums = np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(np.nanargmax(np.where(np.isfinite(apart), apart, -1.0))) + 0.5
