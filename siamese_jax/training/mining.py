"""Mining: which triplets of a batch are learned from."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

MININGS = ("random", "semi_hard", "batch_hard")


def mine(
    distance: Float[ArrayLike, "b b"],
    same: Bool[ArrayLike, "b b"],
    different: Bool[ArrayLike, "b b"],
    mining: str,
    draw: Float[ArrayLike, " b"],
) -> tuple[Float[Array, "b p"], Float[Array, "b p"], Bool[Array, "b p"]]:
    """The triplets of a batch: which negative each anchor and positive meet.

    | mining | triplets |
    |---|---|
    | `random` | every anchor and positive, with one negative of the anchor by chance |
    | `semi_hard` | as `random`, with the nearest negative farther than the positive, else the farthest |
    | `batch_hard` | every anchor, with its farthest positive and its nearest negative |

    Args:
        distance: of the embeddings of a batch.
        same: where column p is a positive of row a: one class, two images.
        different: where column n is a negative of row a.
        mining: one of `MININGS`.
        draw: uniform in [0, 1), which negative of each anchor `random` takes.

    Returns:
        Distances to the positive, distances to the negative, and whether there is such a triplet, by
        anchor and positive (p = b), or by anchor (p = 1) for `batch_hard`.

    Raises:
        ValueError: an unknown mining.

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
