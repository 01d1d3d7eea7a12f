"""What a network has to beat: random scores, pixel nearest neighbour, modified Hausdorff distance.

Each is a `score(queries, supports)` of uint8 images, (Q, H, W, C) and (S, H, W, C), that returns
(Q, S) float64, higher = more alike. So the protocols evaluate it like any other system. All but the
Hausdorff distance take vectors too, (Q, 1, D, 1) and (S, 1, D, 1) float32.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
import scipy  # its parts are imported at their first use: they are slow

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _RandomScore:
    seed: int
    drawn = True  # for the whole batch at once

    def __call__(self, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
        contents = [zlib.crc32(np.ascontiguousarray(x).data) for x in (queries, supports)]
        rng = np.random.default_rng([self.seed, *contents])
        return rng.random((len(queries), len(supports)))


def random_score(seed: int = 0) -> Score:
    """A system that guesses: uniform scores in [0, 1), fixed by the seed and the images."""
    return _RandomScore(seed)


def pixel_nearest_neighbour(queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """Minus the squared Euclidean distance of the pixels, in units of full intensity.

    Of vectors it is that of the features, in their own units squared.

    Args:
        queries: (Q, H, W, C) uint8, or vectors (Q, 1, D, 1) of floats.
        supports: (S, H, W, C) uint8, or vectors (S, 1, D, 1) of floats.

    Returns:
        (Q, S) float64. The sums of squares of 8-bit values are whole numbers below 2^53, so equal
        distances tie exactly. Those of vectors are sums of squared differences in float64: equal
        vectors are at exactly 0 and distances are symmetric, but distances that are equal by
        arithmetic only may differ in their last digits.

    Raises:
        ValueError: the images are not of one shape and type.
    """
    _check(queries, supports)
    q = queries.reshape(len(queries), -1).astype(np.float64)  # (Q, H * W * C)
    s = supports.reshape(len(supports), -1).astype(np.float64)  # (S, H * W * C)
    if queries.dtype != np.uint8:  # the expansion below would lose all digits of near vectors
        return -scipy.spatial.distance.cdist(q, s, "sqeuclidean")
    squared = (q**2).sum(1)[:, None] - 2 * (q @ s.T) + (s**2).sum(1)  # (Q, S)
    return -squared / 255**2


def modified_hausdorff(queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """Minus the modified Hausdorff distance of the ink, in pixels.

    An image becomes the coordinates of its ink, less their mean. The distance of two images is the
    larger of two means: over the ink of one, of the distance to the nearest ink of the other.
    Ink is what is above half of the image's highest value, so that strokes made grey by resizing
    count. An image without ink is H + W pixels from every image with ink, farther than any such.

    Args:
        queries: (Q, H, W, C) uint8 ink coverage.
        supports: (S, H, W, C) uint8 ink coverage.

    Returns:
        (Q, S) float64.

    Raises:
        ValueError: the images are not of one shape and type, or are vectors.

    References:
        Dubuisson and Jain (1994), A modified Hausdorff distance for object matching.
        Lake et al. (2015), Human-level concept learning; the demo beside the official runs.
    """
    _check(queries, supports)
    if queries.dtype != np.uint8:
        raise ValueError(
            "the modified Hausdorff distance is of ink in uint8 images, not of "
            f"{queries.dtype} vectors: use the nearest neighbour for these"
        )
    query_trees = [_ink_tree(image) for image in queries]
    support_trees = [_ink_tree(image) for image in supports]
    scores = np.empty((len(queries), len(supports)))
    for i, a in enumerate(query_trees):
        for j, b in enumerate(support_trees):
            if a is None or b is None:
                scores[i, j] = 0.0 if a is b else -sum(queries.shape[1:3])
            else:
                scores[i, j] = -max(b.query(a.data)[0].mean(), a.query(b.data)[0].mean())
    return scores


def _ink_tree(image: np.ndarray) -> scipy.spatial.KDTree | None:
    """The centred ink coordinates of one (H, W, C) image as a search tree; None without ink."""
    values = image.sum(-1, dtype=np.int64)  # (H, W)
    points = np.argwhere(2 * values > values.max()).astype(np.float64)  # (ink pixels, 2)
    return scipy.spatial.KDTree(points - points.mean(0)) if len(points) else None


def _check(queries: np.ndarray, supports: np.ndarray) -> None:
    if queries.ndim != 4 or queries.shape[1:] != supports.shape[1:]:
        raise ValueError(
            "queries (Q, H, W, C) and supports (S, H, W, C) must hold images of one shape, got "
            f"{queries.shape} and {supports.shape}"
        )
    if queries.dtype != supports.dtype:
        raise ValueError(
            f"queries and supports must be of one type, got {queries.dtype} and {supports.dtype}"
        )
