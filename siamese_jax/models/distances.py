"""Distances and similarities of embeddings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Dtype = Any


def unit(h: jax.Array) -> jax.Array:
    """Scales (..., D) embeddings to length 1; the gradient stays finite at zero."""
    return h * jax.lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + 1e-12)


def squared_distances(h1: jax.Array, h2: jax.Array) -> jax.Array:
    """(..., D) and (..., D) -> (...) squared Euclidean distances."""
    return jnp.sum((h1 - h2) ** 2, -1)


def all_squared_distances(h1: jax.Array, h2: jax.Array) -> jax.Array:
    """(..., Q, D) and (..., S, D) -> (..., Q, S) squared Euclidean distances, by one matrix product.

    The rounding error is that of |h|^2, so a distance far smaller than the embeddings is not exact.
    """
    lengths = jnp.sum(h1**2, -1)[..., :, None] + jnp.sum(h2**2, -1)[..., None, :]
    products = jnp.einsum("...qd,...sd->...qs", h1, h2, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(lengths - 2 * products, 0.0)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root of x >= 0, with the gradient 0 at 0 (where it has none)."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def distances(h1: jax.Array, h2: jax.Array) -> jax.Array:
    """(..., D) and (..., D) -> (...) Euclidean distances; the gradient is 0 where they are equal."""
    return safe_sqrt(squared_distances(h1, h2))
