"""Objectives, and the distances they work on. Each returns unreduced values; the caller reduces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

MININGS = ("random", "semi_hard", "batch_hard")


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


def mine(
    distance: jax.Array, same: jax.Array, different: jax.Array, mining: str, draw: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The triplets of a batch: which negative each anchor and positive meet.

    | mining | triplets |
    |---|---|
    | `random` | every anchor and positive, with one negative of the anchor by chance |
    | `semi_hard` | as `random`, with the nearest negative farther than the positive, else the farthest |
    | `batch_hard` | every anchor, with its farthest positive and its nearest negative |

    Args:
        distance: (B, B) of the embeddings of a batch.
        same: (B, B) bool, where column p is a positive of row a: one class, two images.
        different: (B, B) bool, where column n is a negative of row a.
        mining: one of `MININGS`.
        draw: (B,) uniform in [0, 1), which negative of each anchor `random` takes.

    Returns:
        Distances to the positive, distances to the negative, and bool whether there is such a triplet,
        each (B, B) by anchor and positive, or (B, 1) for `batch_hard`.

    References:
        Schroff et al. (2015), FaceNet (semi-hard); Hermans, Beyer, Leibe (2017), In defense of the
        triplet loss for person re-identification (batch-hard).
    """
    if mining not in MININGS:
        raise ValueError(f"mining must be one of {MININGS}, got {mining!r}")
    any_negative = different.any(1, keepdims=True)
    if mining == "batch_hard":
        positive = jnp.where(same, distance, -jnp.inf).max(1, keepdims=True)
        negative = jnp.where(different, distance, jnp.inf).min(1, keepdims=True)
        valid = same.any(1, keepdims=True) & any_negative
        return jnp.where(valid, positive, 0.0), jnp.where(valid, negative, 0.0), valid
    valid = same & any_negative
    if mining == "random":
        count = different.sum(1)
        chosen = jnp.minimum((draw * count).astype(jnp.int32), count - 1)
        column = (jnp.cumsum(different, 1) > chosen[:, None]).argmax(1)
        negative = jnp.take_along_axis(distance, column[:, None], 1)
        return distance, jnp.broadcast_to(negative, distance.shape), valid
    farther = different[:, None, :] & (distance[:, None, :] > distance[:, :, None])  # (a, p, n)
    nearest = jnp.where(farther, distance[:, None, :], jnp.inf).min(2)
    farthest = jnp.where(different, distance, -jnp.inf).max(1, keepdims=True)
    negative = jnp.where(farther.any(2), nearest, farthest)
    return distance, jnp.where(valid, negative, 0.0), valid
