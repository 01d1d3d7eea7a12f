"""The convolution of blocks gives the values and the gradients of the direct one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import direct

from siamese_jax.models import block_conv, encoders


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape"),
    [
        ((2, 20, 20, 1), (10, 10, 1, 3)),
        ((1, 13, 17, 1), (3, 5, 1, 2)),  # outputs that fill no whole block
        ((2, 9, 6, 3), (4, 1, 3, 2)),
        ((1, 5, 5, 1), (5, 5, 1, 1)),
    ],
)
def test_equals_the_direct_convolution_in_float64(x_shape, kernel_shape):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = (rng.normal(size=shape) for shape in (x_shape, kernel_shape))
        dy = rng.normal(size=jax.eval_shape(direct, x, kernel).shape)

        @functools.partial(jax.jit, static_argnums=0)
        def values_and_gradients(convolution, x, kernel, dy):
            y, pull = jax.vjp(convolution, x, kernel)
            return y, pull(dy)

        expected, wanted_of = values_and_gradients(direct, x, kernel, dy)
        actual, gradients = values_and_gradients(block_conv.block_conv, x, kernel, dy)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
        for gradient, wanted in zip(gradients, wanted_of, strict=True):
            np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-11)


def test_a_kernel_that_does_not_fit():
    with pytest.raises(ValueError, match=r"kernel of \(5, 3\) pixels must fit into .*\(4, 8\)"):
        block_conv.block_conv(jnp.zeros((1, 4, 8, 1)), jnp.zeros((5, 3, 1, 1)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_encoder_with_blocks_embeds_as_the_direct_one(dtype):
    images = np.random.default_rng(0).random((2, 40, 40, 1), np.float32)
    small = {"filters": (4, 5), "kernels": (7, 3), "units": 6, "conv_std": 0.1, "dtype": dtype}
    networks = [encoders.KochEncoder(**small, convolution=how) for how in ("direct", "blocks")]
    variables = jax.jit(networks[0].init)(jax.random.key(0), images)
    expected, actual = (jax.jit(network.apply)(variables, images) for network in networks)
    np.testing.assert_allclose(actual, expected, atol=1e-6 if dtype == jnp.float32 else 2e-2)
