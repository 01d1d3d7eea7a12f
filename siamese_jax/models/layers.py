"""Small layers and initialisers that several modules of a network use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
