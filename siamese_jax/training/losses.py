"""Losses. Each returns unreduced values; the caller reduces."""

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


def symmetric_info_nce(logits: jax.Array, allowed: jax.Array) -> jax.Array:
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
    rows = classification(logits, allowed)
    return 0.5 * (rows + classification(logits.swapaxes(-1, -2), allowed.swapaxes(-1, -2)))


def classification(logits: jax.Array, allowed: jax.Array) -> jax.Array:
    """Cross-entropy of N-way classification, where query n is of class n.

    Args:
        logits: (..., N, N), of query n and class m.
        allowed: (..., N, N) bool, which entries take part; a query whose diagonal entry is False is
            absent.

    Returns:
        (..., N) losses in nats, 0 where absent.

    Raises:
        ValueError: the shapes differ or are not square.
    """
    square = logits.ndim >= 2 and logits.shape[-1] == logits.shape[-2]
    if logits.shape != allowed.shape or not square:
        raise ValueError(f"logits {logits.shape} and allowed {allowed.shape} must be (..., N, N)")
    logits = jnp.where(allowed, logits, -1e9)
    right = jnp.diagonal(logits, axis1=-2, axis2=-1)
    present = jnp.diagonal(allowed, axis1=-2, axis2=-1)
    return jnp.where(present, jax.nn.logsumexp(logits, axis=-1) - right, 0.0)


def contrastive(distance: jax.Array, labels: jax.Array, margin: float) -> jax.Array:
    """Contrastive loss: 1/2 D^2 of a same pair, 1/2 max(0, margin - D)^2 of a different one.

    Here a label 1 means the same class, as everywhere; in the paper it means a different one.

    Args:
        distance: (B,) Euclidean distances D of the embeddings, see `distances`.
        labels: (B,) 1 = same class, 0 = different.
        margin: distance beyond which a different pair costs nothing.

    Returns:
        (B,) losses.

    Raises:
        ValueError: the shapes differ.

    References:
        Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping,
        equation 4.
    """
    if distance.shape != labels.shape:
        raise ValueError(
            f"distance {distance.shape} and labels {labels.shape} must be of one shape"
        )
    short = jnp.maximum(margin - distance, 0.0)
    return 0.5 * (labels * distance**2 + (1 - labels) * short**2)


def correlation(h: jax.Array) -> jax.Array:
    """How far the dimensions of embeddings say the same: the mean squared correlation of two of them.

    Where few classes are to be told apart a loss of distances lets all dimensions agree on the few
    directions that do it; this keeps the others.

    Args:
        h: (B, D) embeddings of a batch, D at least 2.

    Returns:
        () in 0..1.

    References:
        Bardes, Ponce, LeCun (2022), VICReg, the covariance term (there of covariances).
    """
    h = h - h.mean(0, keepdims=True)
    h = h * jax.lax.rsqrt(jnp.mean(h * h, 0, keepdims=True) + 1e-12)
    size = h.shape[1]
    matrix = h.T @ h / h.shape[0]
    return jnp.sum((matrix * (1 - jnp.eye(size))) ** 2) / (size * (size - 1))


def triplet(positive: jax.Array, negative: jax.Array, margin: float) -> jax.Array:
    """Triplet loss: max(D(anchor, positive) - D(anchor, negative) + margin, 0).

    Args:
        positive: (...) distances of anchor and positive.
        negative: (...) distances of anchor and negative.
        margin: by how much the negative should be the farther one.

    Returns:
        (...) losses.

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet, equation 3 (there on squared distances).
    """
    return jnp.maximum(positive - negative + margin, 0.0)
