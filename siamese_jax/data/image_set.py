"""The image set that every other room works on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from siamese_jax.readers import check_choice

KINDS = ("ink", "photo", "vector")
_CHUNK = 512  # images whose bytes are hashed at a time
_RESIZED = 32  # images that are resized at a time: what they become on the way stays in the cache


def has_pictures(kind: str) -> bool:
    """Whether images of a kind can be shown, resized and warped; `vector` holds measurements."""
    return kind != "vector"


def warp_fill(kind: str) -> str:
    """What a warp reads outside of an image: `paper` (0) for ink, else `edge` (its border)."""
    return "paper" if kind == "ink" else "edge"


@dataclasses.dataclass(frozen=True)
class StreamedImages:
    """(M, H, W, C) uint8 images that stay on disk: indexed by rows like an array, read each time.

    Attributes:
        read: (B,) int numbers of stored images -> (B, H, W, C) uint8; any thread may call it.
        stored: (M,) int number of the stored image that each row shows.
        image_shape: (H, W, C).
    """

    read: Callable[[np.ndarray], np.ndarray]
    stored: np.ndarray
    image_shape: tuple[int, int, int]
    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> np.ndarray:
        stored = self.stored[rows]
        return self.read(stored.reshape(-1)).reshape(*stored.shape, *self.image_shape)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M, H, W, C)."""
        return (len(self), *self.image_shape)

    def select(self, keep: np.ndarray) -> StreamedImages:
        """The rows where `keep`, (M,) bool, is true; nothing is read."""
        return dataclasses.replace(self, stored=self.stored[keep])

    def resized(self, height: int, width: int) -> StreamedImages:
        """The images resized by `resize_images` whenever they are read."""

        def read(stored: np.ndarray) -> np.ndarray:
            return resize_images(self.read(stored), height, width)

        return StreamedImages(read, self.stored, (height, width, self.image_shape[2]))


def as_kind(pixels: np.ndarray, kind: str) -> np.ndarray:
    """Pixels of a picture file as the values of a set of this kind.

    Args:
        pixels: (...) uint8 as the file shows them: 255 is white.
        kind: `ink` turns dark strokes on light paper into ink coverage; others stay as they are.
    """
    return 255 - pixels if kind == "ink" else pixels


def numbers_in_class(counts: Iterable[int]) -> np.ndarray:
    """(M,) int32, 1 and up in each class: the drawers of a set that names none.

    Args:
        counts: number of images of each class.
    """
    return np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts])


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Labelled images, sorted by (alphabet, class, drawer).

    Rows of one class are contiguous, and so are the classes of one alphabet: image `j` of class `c`
    is row `class_start[c] + j`. In a set where every class has the same drawers (Omniglot, glyphs)
    equal `j` means equal drawer.

    Attributes:
        images: (M, H, W, C) uint8, in memory or streamed from disk. For kind `ink` the value is ink
            coverage: 0 paper, 255 ink. For kind `photo` it is the usual intensity. Those of kind
            `vector` are (M, 1, D, 1) float32 features, or float64 as a file gives them, before
            they are standardised.
        classes: (M,) int32 class id of each image, non-decreasing.
        drawers: (M,) int32, 1-based number of the drawer (or of the picture inside its class).
        class_names: one name a class, `alphabet/character`.
        class_alphabets: (num_classes,) int32 alphabet id of each class, non-decreasing.
        alphabet_names: one name an alphabet. A set without alphabets has one.
        kind: `ink` (symmetries may make new classes), `photo` (they make none) or `vector`
            (features without an order: never resized or warped).
        name: what the set is called in logs and reports.
        digests: (M,) uint64 digest of each image, where the set was prepared with them: the
            fingerprint then reads no pixels. None where it was not.
        files: the file of each image, its path below the set's folder; for people to read, and no
            part of the fingerprint. None where images have no files of their own.
    """

    images: np.ndarray | StreamedImages
    classes: np.ndarray
    drawers: np.ndarray
    class_names: tuple[str, ...]
    class_alphabets: np.ndarray
    alphabet_names: tuple[str, ...]
    kind: str
    name: str
    digests: np.ndarray | None = None
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        given = f"{self.images.shape} {self.images.dtype}"
        if not self.has_pictures:
            strip = self.images.ndim == 4 and self.images.shape[1::2] == (1, 1)
            if not strip or self.images.dtype not in (np.float32, np.float64):
                raise ValueError(f"vectors must be (M, 1, D, 1) float32 or float64, got {given}")
        elif self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(f"images must be (M, H, W, C) uint8, got {given}")
        if not len(self.images) == len(self.classes) == len(self.drawers):
            raise ValueError(
                f"{len(self.images)} images, {len(self.classes)} classes and "
                f"{len(self.drawers)} drawers: the three must be equally many"
            )
        if self.files is not None and len(self.files) != len(self.images):
            raise ValueError(f"{len(self.images)} images need as many files: {len(self.files)}")
        if len(self.images) == 0:
            raise ValueError(f"the set {self.name!r} holds no images")
        order = np.lexsort((self.drawers, self.classes))
        if not np.array_equal(order, np.arange(len(order))):
            raise ValueError("rows must be sorted by class and then by drawer")
        if not np.array_equal(np.unique(self.classes), np.arange(len(self.class_names))):
            raise ValueError("class ids must be 0 .. number of class names - 1, each with an image")
        alphabets = np.unique(self.class_alphabets)
        if not np.array_equal(alphabets, np.arange(len(self.alphabet_names))):
            raise ValueError("alphabet ids must be 0 .. number of alphabets - 1, each with a class")
        if np.any(np.diff(self.class_alphabets) < 0):
            raise ValueError("the classes of one alphabet must stand together")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def num_alphabets(self) -> int:
        """Number of alphabets."""
        return len(self.alphabet_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.images.shape[1:]

    @property
    def fill(self) -> str:
        """See `warp_fill`."""
        return warp_fill(self.kind)

    @property
    def has_pictures(self) -> bool:
        """Whether the images can be shown, resized and warped; vectors cannot."""
        return has_pictures(self.kind)

    @property
    def alphabets(self) -> np.ndarray:
        """(M,) int32 alphabet id of each image."""
        return self.class_alphabets[self.classes]

    @functools.cached_property
    def class_count(self) -> np.ndarray:
        """(num_classes,) int32 number of images of each class."""
        return np.bincount(self.classes, minlength=self.num_classes).astype(np.int32)

    @functools.cached_property
    def class_start(self) -> np.ndarray:
        """(num_classes,) int32 first row of each class."""
        return (np.cumsum(self.class_count) - self.class_count).astype(np.int32)

    @functools.cached_property
    def alphabet_count(self) -> np.ndarray:
        """(num_alphabets,) int32 number of classes of each alphabet."""
        return np.bincount(self.class_alphabets, minlength=self.num_alphabets).astype(np.int32)

    @functools.cached_property
    def alphabet_start(self) -> np.ndarray:
        """(num_alphabets,) int32 first class of each alphabet."""
        return (np.cumsum(self.alphabet_count) - self.alphabet_count).astype(np.int32)

    @functools.cached_property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the pixels, ids and names."""
        digest = hashlib.sha256()
        pixels = self.images if self.digests is None else self.digests
        digest.update(repr(self.images.shape).encode() if self.digests is not None else b"")
        for array in (pixels, self.classes, self.drawers, self.class_alphabets):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            for begin in range(0, len(array), _CHUNK):
                digest.update(np.ascontiguousarray(array[begin : begin + _CHUNK]).data)
        digest.update(repr((self.class_names, self.alphabet_names, self.kind)).encode())
        return digest.hexdigest()[:16]

    def grid(self) -> np.ndarray:
        """The images as (num_classes, images a class, H, W, C).

        Raises:
            ValueError: when the classes do not all have the same number of images.
        """
        counts = np.unique(self.class_count)
        if len(counts) != 1:
            raise ValueError(
                f"classes of {self.name!r} have between {counts[0]} and {counts[-1]} images: no grid"
            )
        return self.images[:].reshape(self.num_classes, counts[0], *self.image_shape)

    def select(
        self,
        *,
        alphabets: Sequence[str] | None = None,
        classes: Sequence[int] | np.ndarray | None = None,
        drawers: Sequence[int] | np.ndarray | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
        name: str | None = None,
    ) -> ImageSet:
        """The part of the set with these alphabets, classes, drawers and rows; ids count from 0.

        Args:
            alphabets: names of the alphabets to keep, or None for all.
            classes: class ids to keep, or None for all.
            drawers: drawer numbers (from 1) to keep, or None for all.
            rows: row numbers (from 0) to keep, in any order, or None for all.
            name: name of the part; by default that of the whole.

        Raises:
            ValueError: an alphabet, class, drawer or row that is not in the set, or nothing left.
        """
        keep = np.ones(len(self), bool)
        if alphabets is not None:
            strange = sorted(set(alphabets) - set(self.alphabet_names))
            if strange:
                raise ValueError(f"{self.name!r} has no alphabet {strange[0]!r}")
            ids = [i for i, a in enumerate(self.alphabet_names) if a in set(alphabets)]
            keep &= np.isin(self.alphabets, ids)
        if classes is not None:
            unknown = np.setdiff1d(classes, np.arange(self.num_classes))
            if len(unknown):
                raise ValueError(
                    f"{self.name!r} has classes 0-{self.num_classes - 1}, not {unknown[0]}"
                )
            keep &= np.isin(self.classes, classes)
        if drawers is not None:
            unknown = np.setdiff1d(drawers, self.drawers)
            if len(unknown):
                raise ValueError(f"{self.name!r} has no drawer {unknown[0]}")
            keep &= np.isin(self.drawers, drawers)
        if rows is not None:
            unknown = np.setdiff1d(rows, np.arange(len(self)))
            if len(unknown):
                raise ValueError(f"{self.name!r} has rows 0-{len(self) - 1}, not {unknown[0]}")
            keep &= np.isin(np.arange(len(self)), rows)
        if not keep.any():
            raise ValueError(f"no image of {self.name!r} is left by this selection")
        kept_classes, new_classes = np.unique(self.classes[keep], return_inverse=True)
        kept_alphabets, new_alphabets = np.unique(
            self.class_alphabets[kept_classes], return_inverse=True
        )
        images = self.images
        return ImageSet(
            images=images.select(keep) if isinstance(images, StreamedImages) else images[keep],
            classes=new_classes.astype(np.int32),
            drawers=self.drawers[keep],
            class_names=tuple(self.class_names[c] for c in kept_classes),
            class_alphabets=new_alphabets.astype(np.int32),
            alphabet_names=tuple(self.alphabet_names[a] for a in kept_alphabets),
            kind=self.kind,
            name=name or self.name,
            digests=None if self.digests is None else self.digests[keep],
            files=None if self.files is None else tuple(itertools.compress(self.files, keep)),
        )

    def resized(self, height: int, width: int) -> ImageSet:
        """The set with every image resized to (height, width) pixels by area averaging.

        Raises:
            ValueError: vectors, and another size than their own.
        """
        if self.image_shape[:2] == (height, width):
            return self
        if not self.has_pictures:
            raise ValueError(
                f"{self.name!r} holds vectors, which cannot be resized to {height} x {width}: set "
                "data.image_size to None"
            )
        if isinstance(self.images, StreamedImages):
            return dataclasses.replace(self, images=self.images.resized(height, width))
        return dataclasses.replace(self, images=resize_images(self.images, height, width))


def pixel_digests(images: ImageSet) -> np.ndarray:
    """(M,) uint64, a number for each image; equal ones have equal pixels.

    Those of a prepared set are of its files, and are read; others are of the pixels.
    """
    if images.digests is not None:
        return images.digests
    digests = [
        hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8]
        for begin in range(0, len(images), _CHUNK)
        for image in images.images[begin : begin + _CHUNK]
    ]
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


def array_digest(images: np.ndarray) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the shape and the bytes of images."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:16]


def resize_images(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes by exact area averaging when shrinking and bilinear weights when growing.

    Along each axis the few weights that are not zero are summed over in a fixed order, in float64:
    the result does not depend on an image library.

    Args:
        images: (M, H, W, C) uint8.
        height: new height, pixels.
        width: new width, pixels.

    Returns:
        (M, height, width, C) uint8, rounded to nearest. Images of this size are returned as they are.
    """
    if images.shape[1:3] == (height, width):
        return images
    if height < 1 or width < 1:
        raise ValueError(f"images cannot be resized to {height} x {width} pixels")
    rows = _axis_weights(images.shape[1], height)
    columns = _axis_weights(images.shape[2], width)
    out = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    for begin in range(0, len(images), _RESIZED):
        part = _resampled(images[begin : begin + _RESIZED], rows, 1)
        out[begin : begin + _RESIZED] = _rounded(_resampled(part, columns, 2))
    return out


def _resampled(images: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """(M, H, W, C) by the weights of one axis, float64: a sum over the few that are not zero."""
    taps = int((weights > 0).sum(1).max())
    first = np.minimum((weights > 0).argmax(1), weights.shape[1] - taps)
    shape = [1, 1, 1, 1]
    shape[axis] = len(weights)

    def term(tap: int) -> np.ndarray:
        factors = weights[np.arange(len(weights)), first + tap].reshape(shape)
        return images.take(first + tap, axis) * factors

    total = term(0)
    for tap in range(1, taps):
        total += term(tap)
    return total


def _rounded(part: np.ndarray) -> np.ndarray:
    """To the nearest grey level.

    Rounded to six digits first, so that a half stays a half in whatever order it was summed.
    """
    return np.clip(np.rint(np.round(part, 6)), 0, 255)


@functools.lru_cache(maxsize=64)
def _axis_weights(old: int, new: int) -> np.ndarray:
    """(new, old) weights, each row summing to 1, that resample one axis."""
    scale = old / new
    if scale >= 1:  # area: the overlap of source pixel [j, j + 1] with [i, i + 1] * scale
        left = np.arange(new)[:, None] * scale
        pixels = np.arange(old)[None, :]
        weights = np.minimum(pixels + 1, left + scale) - np.maximum(pixels, left)
        weights = np.clip(weights, 0, None)
    else:  # bilinear between pixel centres, edge repeated
        centre = np.clip((np.arange(new) + 0.5) * scale - 0.5, 0, old - 1)[:, None]
        weights = np.clip(1 - np.abs(centre - np.arange(old)[None, :]), 0, None)
    return weights / weights.sum(1, keepdims=True)
