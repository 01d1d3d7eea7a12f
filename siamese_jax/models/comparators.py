"""Comparators: what makes a score of two embeddings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from siamese_jax.models import distances as distances_lib
from siamese_jax.models.distances import unit
from siamese_jax.models.layers import normal_init

Dtype = Any

COMPARATORS = ("l1", "l2", "euclidean", "squared_euclidean", "cosine", "bilinear", "local")
DISTANCES = ("euclidean", "squared_euclidean", "local")  # comparators that fall with a distance


class Comparator(nn.Module):
    """Symmetries two embeddings into a logit of "same class".

    | kind | logit |
    |---|---|
    | `l1` | `sum_j alpha_j abs(h1_j - h2_j) + bias`, the weighted L1 head of Koch et al. (2015) |
    | `l2` | `sum_j alpha_j (h1_j - h2_j)^2 + bias` |
    | `euclidean` | `bias - scale D`, D the Euclidean distance |
    | `squared_euclidean` | `bias - scale D^2` |
    | `cosine` | `scale cos(h1, h2) + bias` |
    | `bilinear` | `h1' M h2 + bias`, M at first `scale` times the identity |
    | `local` | `scale s + bias`, s the mean over places of the best cosine near by |

    alpha, scale, M and bias are learned. All are symmetric in the two, but `bilinear` without
    `symmetric`.

    Attributes:
        kind: one of `COMPARATORS`.
        scale: initial scale.
        bias: initial bias, but of `l1` and `l2`.
        kernel_mean: mean of the initial alpha, as published 0.
        kernel_std: standard deviation of the initial alpha, as published 0.2.
        bias_mean: mean of the initial bias of `l1` and `l2`, as published 0.5 (standard deviation
            0.01).
        symmetric: whether `bilinear` takes (M + M') / 2 for M.
        places: rows and columns of the map that `local` compares, see `local_similarity`.
        units: features a place of that map.
        reach: how many rows and columns away `local` looks for the best cosine.
    """

    kind: str = "l1"
    scale: float = 10.0
    bias: float = 0.0
    kernel_mean: float = 0.0
    kernel_std: float = 0.2
    bias_mean: float = 0.5
    symmetric: bool = True
    places: Sequence[int] = (1, 1)
    units: int = 1
    reach: int = 1

    @nn.compact
    def __call__(self, h1: jax.Array, h2: jax.Array, all_pairs: bool = False) -> jax.Array:
        """Compares embeddings pair by pair, or all with all.

        Args:
            h1: (..., Q, D).
            h2: (..., S, D); S = Q unless `all_pairs`.
            all_pairs: whether every h1 meets every h2 of its leading index.

        Returns:
            (..., Q) logits, or (..., Q, S) for all pairs.
        """
        if self.kind in ("l1", "l2"):
            init = normal_init(self.kernel_mean, self.kernel_std)
            kernel = self.param("kernel", init, (h1.shape[-1],))
            bias = self.param("bias", normal_init(self.bias_mean, 0.01), ())
            if all_pairs:
                h1, h2 = h1[..., :, None, :], h2[..., None, :, :]
            apart = jnp.abs(h1 - h2) if self.kind == "l1" else (h1 - h2) ** 2
            return jnp.einsum("...d,d->...", apart, kernel) + bias
        bias = self.param("bias", nn.initializers.constant(self.bias), ())
        products = "...qd,...sd->...qs" if all_pairs else "...d,...d->..."
        if self.kind == "bilinear":
            size = h1.shape[-1]
            matrix = self.param("matrix", lambda key, n: self.scale * jnp.eye(n), size)
            if self.symmetric:
                matrix = (matrix + matrix.T) / 2
            return jnp.einsum(products, h1 @ matrix, h2) + bias
        scale = self.param("scale", nn.initializers.constant(self.scale), ())
        if self.kind == "cosine":
            return scale * jnp.einsum(products, unit(h1), unit(h2)) + bias
        if self.kind == "local":
            return scale * self._similarity(h1, h2, all_pairs) + bias
        if self.kind == "euclidean":
            return bias - scale * self.distances(h1, h2, all_pairs)
        if self.kind == "squared_euclidean":
            measure = (
                distances_lib.all_squared_distances
                if all_pairs
                else distances_lib.squared_distances
            )
            return bias - scale * measure(h1, h2)
        raise ValueError(f"comparator must be one of {COMPARATORS}, got {self.kind!r}")

    @nn.nowrap
    def distances(self, h1: jax.Array, h2: jax.Array, all_pairs: bool = False) -> jax.Array:
        """The distances that objectives of distances learn; the gradient is 0 where they are 0.

        That of `local` is `sqrt(2 - 2 s)`, the Euclidean one of unit vectors with the cosine s; that
        of any other kind is the Euclidean one of the embeddings.

        Args:
            h1: (..., Q, D).
            h2: (..., S, D); S = Q unless `all_pairs`.
            all_pairs: whether every h1 meets every h2 of its leading index.

        Returns:
            (..., Q) distances, or (..., Q, S) for all pairs.
        """
        if self.kind == "local":
            s = self._similarity(h1, h2, all_pairs)
            return distances_lib.safe_sqrt(jnp.maximum(2 - 2 * s, 0.0))
        if all_pairs:
            return distances_lib.safe_sqrt(distances_lib.all_squared_distances(h1, h2))
        return distances_lib.distances(h1, h2)

    @nn.nowrap
    def features(self, h: jax.Array) -> jax.Array:
        """(..., D) embeddings -> (n, C), one line an embedding, or of `local` a place of one."""
        return h.reshape(-1, self.units if self.kind == "local" else h.shape[-1])

    @nn.nowrap
    def _similarity(self, h1, h2, all_pairs):
        rows, columns = self.places
        if h1.shape[-1] != rows * columns * self.units:
            raise ValueError(
                f"embeddings of {h1.shape[-1]} numbers are no maps of {rows} x {columns} places with "
                f"{self.units} features each: set model.head_args.places to the rows and columns that "
                "the encoder makes of the images"
            )
        return local_similarity(h1, h2, self.places, self.reach, all_pairs)


def local_similarity(
    h1: jax.Array, h2: jax.Array, places: Sequence[int], reach: int, all_pairs: bool = False
) -> jax.Array:
    """How alike two maps of local features are if each place may move a little.

    Each place of one map takes the highest cosine of its features with those of a place of the other
    map at most `reach` rows and columns away; the mean over the places of both maps is symmetric.
    With a reach of 0 and features of one length it is the cosine of the flattened maps.

    Args:
        h1: (..., Q, D) flattened maps, D = rows x columns x features.
        h2: (..., S, D); S = Q unless `all_pairs`.
        places: rows and columns of the maps.
        reach: 0 or more.
        all_pairs: whether every h1 meets every h2 of its leading index.

    Returns:
        (..., Q) cosines in [-1, 1], or (..., Q, S) for all pairs.
    """
    rows, columns = places
    # Places first, so that a move is a slice of the two leading axes.
    h1, h2 = (
        jnp.moveaxis(unit(h.reshape(*h.shape[:-1], rows, columns, -1)), (-3, -2), (0, 1))
        for h in (h1, h2)
    )
    products = "...qd,...sd->...qs" if all_pairs else "...d,...d->..."
    best1, best2 = [], []
    for down in range(-min(reach, rows - 1), min(reach, rows - 1) + 1):
        for right in range(-min(reach, columns - 1), min(reach, columns - 1) + 1):
            here = (_inside(rows, down), _inside(columns, right))
            there = (_inside(rows, -down), _inside(columns, -right))
            cosine = jnp.einsum(products, h1[here], h2[there])
            best1.append(_on_map(cosine, here, rows, columns))
            best2.append(_on_map(cosine, there, rows, columns))
    return sum(functools.reduce(jnp.maximum, best).mean((0, 1)) for best in (best1, best2)) / 2


def _inside(size: int, move: int) -> slice:
    """The places along an axis that are still on the map after a move."""
    return slice(max(0, -move), size - max(0, move))


def _on_map(part: jax.Array, place: tuple[slice, slice], rows: int, columns: int) -> jax.Array:
    """A map with `part` at `place`, and minus infinity elsewhere."""
    around = [(at.start, size - at.stop) for at, size in zip(place, (rows, columns), strict=True)]
    rest = [(0, 0)] * (part.ndim - 2)
    return jnp.pad(part, around + rest, constant_values=-jnp.inf)
