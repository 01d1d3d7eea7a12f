"""Mining of triplets."""

from __future__ import annotations

import jax
import jax.numpy as jnp

MININGS = ("random", "semi_hard", "batch_hard")


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
