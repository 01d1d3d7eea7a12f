"""Losses. Each returns unreduced values, which the caller reduces, but for `correlation`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float


def verification(
    logits: Float[ArrayLike, " b"], labels: Float[ArrayLike, " b"]
) -> Float[Array, " b"]:
    """Binary cross-entropy of same / different.

    Args:
        logits: scores before the sigmoid.
        labels: 1 = same class, 0 = different.

    Returns:
        Losses in nats.

    References:
        Koch et al. (2015), section 3.2.
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def symmetric_info_nce(
    logits: Float[ArrayLike, "*b n n"], allowed: Bool[ArrayLike, "*b n n"]
) -> Float[Array, "*b n"]:
    """Masked symmetric InfoNCE: the cross-entropy of N-way matching, both ways.

    Entry (n, m) of the logits compares character n by one drawer with character m by another, so the
    right answers lie on the diagonal. Every image is a query once against the images of the other
    side: rows and columns are both softmax problems.

    Args:
        logits: of every image of one side and every image of the other.
        allowed: which entries take part. A character whose diagonal entry is False is absent: it is no
            query, and its row and column should be False as well.

    Returns:
        Mean of the two cross-entropies of each character in nats, 0 where absent.

    References:
        van den Oord, Li, Vinyals (2018), Representation learning with contrastive predictive coding,
        equation 4; Radford et al. (2021), Learning transferable visual models from natural language
        supervision (CLIP), figure 3, for the two directions.
    """
    rows = classification(logits, allowed)
    return 0.5 * (rows + classification(logits.swapaxes(-1, -2), allowed.swapaxes(-1, -2)))


def classification(
    logits: Float[ArrayLike, "*b n n"], allowed: Bool[ArrayLike, "*b n n"]
) -> Float[Array, "*b n"]:
    """Cross-entropy of N-way classification, where query n is of class n.

    Args:
        logits: entry (n, m) is of query n and class m.
        allowed: which entries take part; a query whose diagonal entry is False is absent.

    Returns:
        Losses in nats, 0 where absent.
    """
    logits = jnp.where(allowed, logits, -1e9)
    right = jnp.diagonal(logits, axis1=-2, axis2=-1)
    present = jnp.diagonal(allowed, axis1=-2, axis2=-1)
    return jnp.where(present, jax.nn.logsumexp(logits, axis=-1) - right, 0.0)


def contrastive(
    distance: Float[ArrayLike, " b"], labels: Float[ArrayLike, " b"], margin: float
) -> Float[Array, " b"]:
    """Contrastive loss: 1/2 D^2 of a same pair, 1/2 max(0, margin - D)^2 of a different one.

    Args:
        distance: Euclidean distances D of the embeddings, see `models.distances`.
        labels: 1 = same class, 0 = different.
        margin: distance beyond which a different pair costs nothing.

    References:
        Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping,
        equation 4.

    Deviation: a label 1 means the same class, as everywhere here; in the paper a different one.
    """
    short = jnp.maximum(margin - distance, 0.0)
    return 0.5 * (labels * distance**2 + (1 - labels) * short**2)


def correlation(h: Float[ArrayLike, "b d"]) -> Float[Array, ""]:
    """The mean squared correlation of two dimensions of embeddings, 0 to 1.

    A loss of distances can tell few classes apart by few directions, and lets all dimensions agree on
    them. This term keeps the others in use.

    Args:
        h: embeddings of a batch, d at least 2.

    References:
        Bardes, Ponce, LeCun (2022), VICReg, the covariance term.

    Deviation: of correlations, where the paper takes covariances.
    """
    h = h - h.mean(0, keepdims=True)
    h = h * jax.lax.rsqrt(jnp.mean(h * h, 0, keepdims=True) + 1e-12)
    size = h.shape[1]
    matrix = h.T @ h / h.shape[0]
    return jnp.sum((matrix * (1 - jnp.eye(size))) ** 2) / (size * (size - 1))


def triplet(
    positive: Float[ArrayLike, "*b"], negative: Float[ArrayLike, "*b"], margin: float
) -> Float[Array, "*b"]:
    """Triplet loss: max(D(anchor, positive) - D(anchor, negative) + margin, 0).

    Args:
        positive: distances of anchor and positive.
        negative: distances of anchor and negative.
        margin: how much farther than the positive the negative should be.

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet, equation 3.

    Deviation: on distances, where the paper takes squared ones.
    """
    return jnp.maximum(positive - negative + margin, 0.0)
