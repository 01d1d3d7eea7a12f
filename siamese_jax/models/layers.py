"""Small layers and initialisers that several modules of a network use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from siamese_jax.models.distances import unit

ROUNDING_NUDGE = 1e-3  # pixels added to the way of ink, so that halves are rounded alike everywhere
OUTPUTS = ("linear", "sigmoid", "unit")


def normal_init(mean: float, std: float) -> Callable[..., Array]:
    """Initialiser N(mean, std), std a standard deviation (Koch et al. 2015, section 3.2)."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return mean + std * jax.random.normal(key, shape, dtype)

    return init


def max_pool2(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """2x2 max-pool, stride 2; an odd last row or column is dropped.

    Three selections, whose gradient is a mask: several times faster on a CPU than the
    select-and-scatter of `nn.max_pool`. Of equal entries the first takes the gradient. That of `max`
    would go to the entries equal to the maximum, and be lost where a compiler computes an entry anew
    with another rounding.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    upper = _larger(x[:, :, 0, :, 0], x[:, :, 0, :, 1])
    lower = _larger(x[:, :, 1, :, 0], x[:, :, 1, :, 1])
    return _larger(upper, lower)


def _larger(a: Array, b: Array) -> Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)  # a NaN stays one


def centre_ink(images: Float[ArrayLike, "b h w c"]) -> Float[Array, "b h w c"]:
    """Images moved by whole pixels, so that the centre of mass of the ink is in the middle.

    Paper (0) moves in, and ink that moves out of the frame is lost. An image without ink stays. No
    gradient flows through the way that an image moves.

    Args:
        images: ink above paper.
    """
    images = jnp.asarray(images)
    mass = jax.lax.stop_gradient(images).sum(-1)
    rows, columns = _picks(mass.sum(2)), _picks(mass.sum(1))
    return jnp.einsum("bij,bjkc,blk->bilc", rows, images, columns, precision="highest")


def _picks(profile: Float[Array, "b n"]) -> Float[Array, "b n n"]:
    """For each place along an axis, 1 at the place whose ink moves there; from the ink along it."""
    places = jnp.arange(profile.shape[1], dtype=profile.dtype)[None]
    total = profile.sum(1)
    moment = (profile * (places - (profile.shape[1] - 1) / 2)).sum(1)
    way = jnp.rint(moment / jnp.where(total > 0, total, 1) + ROUNDING_NUDGE)
    picked = places + way[:, None]  # (B, n) places that ink comes from
    return (picked[:, :, None] == places[:, None]).astype(profile.dtype)


def at_least_float32(x: jax.Array) -> jax.Array:
    """The array in float32, or in float64 if it is that."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def finish(x: jax.Array, output: str) -> jax.Array:
    """What becomes of an embedding, one of `OUTPUTS`; at least float32.

    Raises:
        ValueError: another output.
    """
    x = at_least_float32(x)
    if output == "unit":
        return unit(x)
    if output == "sigmoid":
        return nn.sigmoid(x)
    if output == "linear":
        return x
    raise ValueError(f"output must be one of {OUTPUTS}, got {output!r}")


def standardise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Pixels as networks for photos take them: minus a mean, over a standard deviation, by channel.

    Grey pictures become three equal channels where there are three means.

    Args:
        images: (B, H, W, C) in [0, 1].
        mean: of the channels, one or as many as the result has.
        std: likewise.

    Raises:
        ValueError: means of another number of channels than the pictures have.
    """
    if images.shape[-1] == 1:
        images = jnp.repeat(images, len(mean), axis=-1)
    if len(mean) not in (1, images.shape[-1]) or len(std) != len(mean) or min(std) <= 0:
        raise ValueError(
            f"pixel_mean {tuple(mean)} and pixel_std {tuple(std)} must have 1 or {images.shape[-1]} "
            "numbers, and no deviation of 0, for these pictures"
        )
    shift, scale = (jnp.array(x, images.dtype).reshape(1, 1, 1, -1) for x in (mean, std))
    return (images - shift) / scale


def check_frozen(encoder: nn.Module) -> None:
    """Refuses to freeze stages that the encoder does not have.

    Raises:
        ValueError: more than all but the embedding.
    """
    if not 0 <= encoder.frozen <= encoder.num_stages:
        raise ValueError(
            f"model.encoder_args.frozen = {encoder.frozen}: this encoder has the stages 0 to "
            f"{encoder.num_stages}, of which the first {encoder.num_stages} at most can be frozen"
        )


def after_stage(x: jax.Array, stage: int, frozen: int) -> jax.Array:
    """The features after a stage, which the gradient does not pass if that was the last frozen one."""
    return jax.lax.stop_gradient(x) if stage == frozen - 1 else x
