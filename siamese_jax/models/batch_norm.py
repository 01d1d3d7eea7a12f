"""Batch normalisation as one scale and one shift a channel."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with learned scale and bias.

    The same function of the same parameters and statistics as `flax.linen.BatchNorm`, to rounding.
    Flax subtracts the mean first and keeps the difference for the gradient. Here mean, variance,
    scale and bias become one factor and one summand a channel, so that the input is read twice (its
    statistics, then the output) and its gradient too: half the time on a CPU, where such layers wait
    for memory.

    Attributes:
        use_running_average: whether to use the running statistics instead of those of the batch.
        momentum: weight of the old running statistics in the new ones.
        epsilon: added to the variance.
        dtype: of the output; parameters and statistics are float32.
        axis_name: mapped axis over which the batch statistics are averaged, None on one device.

    References:
        Ioffe, Szegedy (2015), Batch normalization: accelerating deep network training by reducing
        internal covariate shift.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"]) -> Float[Array, "*rows c"]:
        """Normalises each channel, and updates the running statistics if they are mutable."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var = self._batch_statistics(x)
            if not self.is_initializing():
                running_mean.value = self._moved(running_mean.value, mean)
                running_var.value = self._moved(running_var.value, var)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        shift = bias - mean * factor
        factor, shift = (a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (factor, shift))
        return (x * factor + shift).astype(self.dtype)

    def _batch_statistics(self, x: Array) -> tuple[Array, Array]:
        rows = tuple(range(x.ndim - 1))
        mean, square = x.mean(rows), jnp.square(x).mean(rows)
        if self.axis_name is not None and not self.is_initializing():
            mean, square = jax.lax.pmean((mean, square), self.axis_name)
        return mean, jnp.maximum(square - jnp.square(mean), 0.0)

    def _moved(self, old: Any, new: Array) -> Array:
        return self.momentum * old + (1 - self.momentum) * new
