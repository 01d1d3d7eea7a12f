"""Mining: which triplets of a batch are learned from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from siamese_jax.readers import check_choice

MININGS = ("random", "semi_hard", "batch_hard", "distance_weighted")
_NEAREST = 0.5  # distances below this one weigh as much as this one
_FARTHEST = 1.4  # negatives farther than this are not taken, unless there is no other


def mine(
    distance: Float[ArrayLike, "b k"],
    same: Bool[ArrayLike, "b k"],
    different: Bool[ArrayLike, "b k"],
    mining: str,
    draw: Float[ArrayLike, " b"],
    dimensions: int,
) -> tuple[Float[Array, "b p"], Float[Array, "b p"], Bool[Array, "b p"]]:
    """The triplets of a batch: which negative each anchor and positive meet.

    | mining | triplets |
    |---|---|
    | `random` | every anchor and positive, with one negative of the anchor by chance |
    | `semi_hard` | as `random`, with the nearest negative farther than the positive, else the farthest |
    | `distance_weighted` | as `random`, the negative drawn so that every distance is about as likely |
    | `batch_hard` | every anchor, with its farthest positive and its nearest negative |

    Args:
        distance: of the embeddings of a batch (rows) and of the images that they meet (columns), which
            are those of the batch, or those and others that a memory keeps.
        same: where column p is a positive of row a: one class, two images.
        different: where column n is a negative of row a.
        mining: one of `MININGS`.
        draw: uniform in [0, 1), which negative of each anchor `random` and `distance_weighted` take.
        dimensions: of the embeddings, for `distance_weighted`.

    Returns:
        Distances to the positive, distances to the negative, and whether there is such a triplet, by
        anchor and positive (p = k), or by anchor (p = 1) for `batch_hard`.

    Raises:
        ValueError: an unknown mining.

    References:
        Schroff et al. (2015), FaceNet (semi-hard); Hermans, Beyer, Leibe (2017), In defense of the
        triplet loss for person re-identification (batch-hard); Wu et al. (2017), Sampling matters in
        deep embedding learning, section 4.1 (distance-weighted, of embeddings of length 1).
    """
    check_choice("mining", mining, MININGS)
    distance, same, different, draw = (jnp.asarray(x) for x in (distance, same, different, draw))
    any_negative = different.any(1, keepdims=True)
    if mining == "batch_hard":
        positive = jnp.where(same, distance, -jnp.inf).max(1, keepdims=True)
        negative = jnp.where(different, distance, jnp.inf).min(1, keepdims=True)
        valid = same.any(1, keepdims=True) & any_negative
        return jnp.where(valid, positive, 0.0), jnp.where(valid, negative, 0.0), valid
    valid = same & any_negative
    if mining in ("random", "distance_weighted"):
        if mining == "random":
            count = different.sum(1)
            chosen = jnp.minimum((draw * count).astype(jnp.int32), count - 1)
            column = (jnp.cumsum(different, 1) > chosen[:, None]).argmax(1)
        else:
            total = jnp.cumsum(negative_weights(distance, different, dimensions), 1)
            column = (total > draw[:, None] * total[:, -1:]).argmax(1)
        negative = jnp.take_along_axis(distance, column[:, None], 1)
        return distance, jnp.broadcast_to(negative, distance.shape), valid
    # The negatives of an anchor in order; an array of every anchor, positive and negative is too large.
    # Equal distances are one value, which shares its gradient among them, as `min` does.
    plain, size = jax.lax.stop_gradient(distance), distance.shape[1]
    ordered = jnp.sort(jnp.where(different, plain, jnp.inf), 1)
    place = jnp.where(different, _rank(ordered, plain, "left"), size)
    values = jax.vmap(lambda d, i: jax.ops.segment_min(d, i, size))(distance, place)
    farther = _rank(ordered, plain, "right")
    nearest = jnp.take_along_axis(values, jnp.minimum(farther, size - 1), 1)
    farthest = jnp.where(different, distance, -jnp.inf).max(1, keepdims=True)
    negative = jnp.where(farther < different.sum(1, keepdims=True), nearest, farthest)
    return distance, jnp.where(valid, negative, 0.0), valid


def _rank(ordered: Array, values: Array, side: str) -> Array:
    """(b, k) int32 where each value stands in its row of `ordered`; see `jnp.searchsorted`."""
    return jax.vmap(lambda row, v: jnp.searchsorted(row, v, side=side))(ordered, values)


def negative_weights(
    distance: Float[ArrayLike, "b k"], different: Bool[ArrayLike, "b k"], dimensions: int
) -> Float[Array, "b k"]:
    """Weights of the negatives of `distance_weighted`: 1 / q(d), the largest of each anchor 1.

    q is the density of the distance of two random points of the unit sphere,
    d^(n-2) (1 - d^2 / 4)^((n-3) / 2).

    Args:
        distance: as in `mine`.
        different: as in `mine`.
        dimensions: n.
    """
    d = jnp.clip(jax.lax.stop_gradient(distance), _NEAREST, 2 - 1e-3)
    log = -(dimensions - 2) * jnp.log(d) - (dimensions - 3) / 2 * jnp.log(1 - d**2 / 4)
    different = jnp.asarray(different)
    near = different & (d < _FARTHEST)
    near = jnp.where(near.any(1, keepdims=True), near, different)
    log = jnp.where(near, log, -jnp.inf)
    most = log.max(1, keepdims=True)
    return jnp.where(near, jnp.exp(log - jnp.where(jnp.isfinite(most), most, 0.0)), 0.0)
