"""Objectives. Each returns unreduced values; the caller reduces them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def verification(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary cross-entropy of same / different.

    Args:
        logits: (B,) scores before the sigmoid.
        labels: (B,) 1 = same class, 0 = different.

    Returns:
        (B,) losses in nats.

    Raises:
        ValueError: the shapes differ.

    References:
        Koch et al. (2015), section 3.2.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} must be of one shape")
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def episode(logits: jax.Array, allowed: jax.Array) -> jax.Array:
    """Cross-entropy of N-way matching, both ways.

    Entry (n, m) of the logits compares character n by one drawer with character m by another, so the
    right answers lie on the diagonal. Every image is a query once against the images of the other
    side: rows and columns are both softmax problems.

    Args:
        logits: (..., N, N).
        allowed: (..., N, N) bool, which entries take part. A character whose diagonal entry is False
            is absent: it is no query, and its row and column should be False as well.

    Returns:
        (..., N) mean of the two cross-entropies of each character in nats, 0 where absent.

    Raises:
        ValueError: the shapes differ or are not square.
    """
    square = logits.ndim >= 2 and logits.shape[-1] == logits.shape[-2]
    if logits.shape != allowed.shape or not square:
        raise ValueError(f"logits {logits.shape} and allowed {allowed.shape} must be (..., N, N)")
    logits = jnp.where(allowed, logits, -1e9)
    right = jnp.diagonal(logits, axis1=-2, axis2=-1)
    rows = jax.nn.logsumexp(logits, axis=-1) - right
    columns = jax.nn.logsumexp(logits, axis=-2) - right
    present = jnp.diagonal(allowed, axis1=-2, axis2=-1)
    return jnp.where(present, 0.5 * (rows + columns), 0.0)
