"""Pictures as a network takes them: of any form, one or many, with ink and frame put right."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from siamese_jax.data import decoding
from siamese_jax.data.image_set import resize_images

_log = logging.getLogger(__name__)

Pictures = Any  # an array, a path, a PIL picture, or a list of these

_CHANNELS = (1, 3, 4)
_UNIFORM = 32  # grey levels: the border is paper if three quarters of it are this near its median
_UNDECIDED = 16  # grey levels: paper this near the middle is neither light nor dark
_PAPER = 16  # grey levels of ink: paper above it is not blank
_STROKE = 64  # grey levels above the paper: what counts as ink when a drawing is framed
# Of Omniglot's background characters 0.05 % lie further off the middle, and 0.1 % are smaller; both
# are shares of the picture's side.
_OFF_CENTRE = 0.25
_SMALLEST = 0.2
_EXTENT = 0.65  # the median character's longer side


def to_stack(
    pictures: Pictures,
    image_shape: Sequence[int],
    kind: str,
    framed: bool,
    from_files: bool = False,
) -> tuple[np.ndarray, bool]:
    """Pictures of any form as a stack for the network, and whether it was one picture.

    An array is one picture if it is (H, W) or (H, W, C) with C = 1, 3 or 4, and a stack if it is
    (B, H, W) or (B, H, W, C). A path or a PIL picture is one picture. A list is a stack.

    For a network of kind `ink`, dark strokes on light paper are inverted and grey paper is made
    blank. If the network was trained on characters that fill their frame, one that is small or far
    off the middle is cropped, centred and enlarged. What was done is logged.

    Args:
        pictures: arrays are uint8, or floats in [0, 1].
        image_shape: (H, W, C) of the network.
        kind: `ink` or `photo`.
        framed: whether the network was trained on characters that fill their frame.
        from_files: whether arrays are pixels of files. Where the border does not tell ink from paper, a
            file is dark ink on light paper, and an array has its ink high.

    Returns:
        (B, H, W, C) uint8 at the network's size, and whether one picture was given.

    Raises:
        ValueError: no picture, or an array of another shape or type.
    """
    many, single, are_files = _separate(pictures)
    if not len(many):
        raise ValueError("no pictures are given: at least one is needed")
    if kind == "ink":
        light_paper = [from_files or is_file for is_file in are_files]
        return _ink_stack(many, image_shape, framed, light_paper), single
    if isinstance(many, np.ndarray):
        return _photo_stack(many, image_shape), single
    return np.concatenate([_photo_stack(picture[None], image_shape) for picture in many]), single


def _photo_stack(stack: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Photos (B, H, W, C) at the network's size."""
    _warn_of_stretching(stack.shape[1:3], image_shape)
    return resize_images(to_channels(stack, image_shape[2]), *image_shape[:2])


def _ink_stack(
    many: np.ndarray | list[np.ndarray],
    image_shape: Sequence[int],
    framed: bool,
    light_paper: Sequence[bool],
) -> np.ndarray:
    """Pictures of ink at the network's size; `light_paper` is of each, see `blank_paper`."""
    changes: dict[str, int] = {}
    parts, blank = [], 0
    for picture, light in zip(many, light_paper, strict=True):
        pixels = blank_paper(to_channels(picture[None], image_shape[2])[0], changes, light)
        blank += not (pixels > _STROKE).any()
        if framed:
            pixels = centred(pixels, changes)
        parts.append(resize_images(pixels[None], *image_shape[:2])[0])
    for change, count in changes.items():
        _log.info("%d of %d pictures: %s", count, len(parts), change)
    if blank:
        _log.warning("%d of %d pictures have no ink: their scores mean nothing", blank, len(parts))
    return np.stack(parts)


def blank_paper(
    pixels: np.ndarray, changes: dict[str, int] | None = None, light_paper: bool = False
) -> np.ndarray:
    """A picture of ink with blank paper 0 and ink high, whatever it was drawn on.

    The paper is what the border shows, where that is of one shade, light or dark.

    Args:
        pixels: (H, W, C) uint8.
        changes: counts what was done, by its description.
        light_paper: whether paper is light where the border does not tell.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.int16)
    paper = int(np.median(border))
    mixed = np.percentile(np.abs(border - paper), 75) > _UNIFORM
    if mixed or abs(paper - 127.5) < _UNDECIDED:
        return 255 - pixels if light_paper else pixels
    if paper > 127:
        pixels, paper = 255 - pixels, 255 - paper
        if not light_paper:  # what a file is expected to be is not worth a word
            _count(changes, "dark ink on light paper, inverted")
    most = int(pixels.max())
    if _PAPER < paper < most - _STROKE:
        stretched = (pixels.astype(np.float32) - paper) * (255 / (most - paper))
        pixels = np.clip(np.rint(stretched), 0, 255).astype(np.uint8)
        _count(changes, "grey paper, made blank")
    return pixels


def centred(pixels: np.ndarray, changes: dict[str, int] | None = None) -> np.ndarray:
    """A character in the middle of a square frame, if it was small or far off the middle.

    Args:
        pixels: (H, W, C) uint8, ink on paper 0.
        changes: see `blank_paper`.
    """
    ink = np.asarray((pixels > _STROKE).any(-1))
    if not ink.any():
        return pixels
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ends = [(rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)]
    sides = np.array(pixels.shape[:2])
    off = max(abs((a + b) / 2 / side - 0.5) for (a, b), side in zip(ends, sides, strict=True))
    extent = max((b - a) / side for (a, b), side in zip(ends, sides, strict=True))
    if off <= _OFF_CENTRE and extent >= _SMALLEST:
        return pixels
    (top, bottom), (left, right) = ends
    cropped = pixels[top:bottom, left:right]
    side = int(np.ceil(max(cropped.shape[:2]) / _EXTENT))
    frame = np.zeros((side, side, pixels.shape[2]), np.uint8)
    y, x = (side - cropped.shape[0]) // 2, (side - cropped.shape[1]) // 2
    frame[y : y + cropped.shape[0], x : x + cropped.shape[1]] = cropped
    _count(changes, "small or off the middle, cropped and centred")
    return frame


def _count(changes: dict[str, int] | None, change: str) -> None:
    if changes is not None:
        changes[change] = changes.get(change, 0) + 1


def _separate(pictures: Pictures) -> tuple[np.ndarray | list[np.ndarray], bool, list[bool]]:
    """A (B, H, W, C) uint8 array or a list of (H, W, C) ones; whether one picture; which are files."""
    if isinstance(pictures, str | os.PathLike | Image.Image):
        return [_read(pictures)], True, [True]
    if isinstance(pictures, list | tuple):
        files = [isinstance(x, str | os.PathLike | Image.Image) for x in pictures]
        return [_read(picture) for picture in pictures], False, files
    array = _as_uint8(np.asarray(pictures))
    if array.ndim == 2:
        return array[None, ..., None], True, [False]
    if array.ndim == 3 and array.shape[-1] in _CHANNELS:
        return array[None], True, [False]
    if array.ndim == 3:
        return array[..., None], False, [False] * len(array)
    if array.ndim == 4 and array.shape[-1] in _CHANNELS:
        return array, False, [False] * len(array)
    raise ValueError(
        f"pictures of shape {array.shape}: expected one picture (H, W) or (H, W, 3), or a stack "
        "(B, H, W) or (B, H, W, 3), with 1, 3 or 4 channels last"
    )


def _read(picture: Any) -> np.ndarray:
    """One picture as (H, W, C) uint8."""
    if isinstance(picture, str | os.PathLike):
        return decoding.read_picture(pathlib.Path(picture), "RGB")
    if isinstance(picture, Image.Image):
        return decoding.decode_picture(picture, "RGB")
    array = _as_uint8(np.asarray(picture))
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3 and array.shape[-1] in _CHANNELS:
        return array
    raise ValueError(
        f"a picture of a list has the shape {array.shape}: expected (H, W) or (H, W, C) with 1, 3 or "
        "4 channels"
    )


def _as_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8 and (array.size or array.ndim > 2):
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    given = f"{array.dtype} of shape {array.shape}"
    if array.dtype.kind in "iuf" and array.size:
        if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:  # false for NaN
            return np.rint(array * 255).astype(np.uint8)
        given += f" from {array.min():g} to {array.max():g}"
    raise ValueError(
        "pictures must be paths, PIL pictures, or arrays of uint8 or of floats in [0, 1]; got "
        + given
    )


def to_channels(stack: np.ndarray, channels: int) -> np.ndarray:
    """(B, H, W, C) in the network's number of channels; transparent becomes white."""
    if stack.shape[-1] == 4:
        alpha = stack[..., 3:].astype(np.float32) / 255
        stack = np.rint(stack[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if channels == 1 and stack.shape[-1] == 3:
        grey = [np.asarray(Image.fromarray(picture).convert("L")) for picture in stack]
        return np.stack(grey)[..., None]
    if channels == 3 and stack.shape[-1] == 1:
        return np.repeat(stack, 3, axis=-1)
    return stack


def _warn_of_stretching(size: Sequence[int], image_shape: Sequence[int]) -> None:
    """Says when a photo loses its proportions by more than a tenth."""
    ratio = (size[1] / size[0]) / (image_shape[1] / image_shape[0])
    if not 0.9 < ratio < 1 / 0.9:
        _log.info(
            "pictures of %d x %d are stretched to the network's %d x %d",
            *size[:2],
            *image_shape[:2],
        )
