"""Distances and similarities of embeddings."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def unit(h: Float[ArrayLike, "*b d"]) -> Float[Array, "*b d"]:
    """Scales embeddings to length 1; zeros stay zeros, with a finite gradient."""
    h = jnp.asarray(h)
    return h * jax.lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + 1e-12)


def squared_distances(
    h1: Float[ArrayLike, "*b d"], h2: Float[ArrayLike, "*b d"]
) -> Float[Array, "*b"]:
    """Squared Euclidean distances of pairs."""
    return jnp.sum((jnp.asarray(h1) - jnp.asarray(h2)) ** 2, -1)


def all_squared_distances(
    h1: Float[ArrayLike, "*b q d"], h2: Float[ArrayLike, "*b s d"]
) -> Float[Array, "*b q s"]:
    """Squared Euclidean distances of every h1 from every h2, by one matrix product.

    The rounding error is that of |h|^2, so a distance far smaller than the embeddings is not exact.
    """
    h1, h2 = jnp.asarray(h1), jnp.asarray(h2)
    lengths = jnp.sum(h1**2, -1)[..., :, None] + jnp.sum(h2**2, -1)[..., None, :]
    products = jnp.einsum("...qd,...sd->...qs", h1, h2, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(lengths - 2 * products, 0.0)


def safe_sqrt(x: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
    """The square root of x >= 0, with the gradient 0 at 0 (where it has none)."""
    x = jnp.asarray(x)
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def distances(h1: Float[ArrayLike, "*b d"], h2: Float[ArrayLike, "*b d"]) -> Float[Array, "*b"]:
    """Euclidean distances of pairs; the gradient is 0 where the two are equal."""
    return safe_sqrt(squared_distances(h1, h2))


def products(
    h1: Float[ArrayLike, "*b q d"], h2: Float[ArrayLike, "*b s d"], all_pairs: bool = False
) -> Float[Array, "*b q"] | Float[Array, "*b q s"]:
    """Scalar products, pair by pair or of every h1 with every h2."""
    return jnp.einsum("...qd,...sd->...qs" if all_pairs else "...d,...d->...", h1, h2)


def local_similarity(
    h1: Float[ArrayLike, "*b q d"],
    h2: Float[ArrayLike, "*b s d"],
    places: Sequence[int],
    reach: int,
    all_pairs: bool = False,
) -> Float[Array, "*b q"] | Float[Array, "*b q s"]:
    """How alike two maps of local features are if each place may move a little.

    Each place of one map takes the highest cosine of its features with those of a place of the other
    map at most `reach` rows and columns away; the mean over the places of both maps is symmetric.
    With a reach of 0 and features of one length it is the cosine of the flattened maps.

    Args:
        h1: flattened maps, d = rows x columns x features.
        h2: flattened maps; s = q unless `all_pairs`.
        places: rows and columns of the maps.
        reach: 0 or more.
        all_pairs: whether every h1 meets every h2 of its leading index.

    Returns:
        Cosines in [-1, 1].
    """
    rows, columns = places
    # Places first, so that a move is a slice of the two leading axes.
    h1, h2 = (
        jnp.moveaxis(unit(h.reshape(*h.shape[:-1], rows, columns, -1)), (-3, -2), (0, 1))
        for h in (jnp.asarray(h1), jnp.asarray(h2))
    )
    best1, best2 = [], []
    for down in range(-min(reach, rows - 1), min(reach, rows - 1) + 1):
        for right in range(-min(reach, columns - 1), min(reach, columns - 1) + 1):
            here = (_inside(rows, down), _inside(columns, right))
            there = (_inside(rows, -down), _inside(columns, -right))
            cosine = products(h1[here], h2[there], all_pairs)
            best1.append(_on_map(cosine, here, rows, columns))
            best2.append(_on_map(cosine, there, rows, columns))
    mean1, mean2 = (functools.reduce(jnp.maximum, best).mean((0, 1)) for best in (best1, best2))
    return (mean1 + mean2) / 2


def _inside(size: int, move: int) -> slice:
    """The places along an axis that are still on the map after a move."""
    return slice(max(0, -move), size - max(0, move))


def _on_map(part: jax.Array, place: tuple[slice, slice], rows: int, columns: int) -> jax.Array:
    """A map with `part` at `place`, and minus infinity elsewhere."""
    around = [(at.start, size - at.stop) for at, size in zip(place, (rows, columns), strict=True)]
    rest = [(0, 0)] * (part.ndim - 2)
    return jnp.pad(part, around + rest, constant_values=-jnp.inf)
