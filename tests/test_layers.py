"""Max-pooling: values by loops, gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import noise, pool_reference

from siamese_jax.models.layers import max_pool2


@pytest.mark.parametrize("height, width", [(6, 4), (7, 5), (5, 8), (3, 2)])
def test_max_pool2_against_a_loop(height, width):
    x = noise(0, 2, height, width, 3)
    np.testing.assert_array_equal(max_pool2(jnp.asarray(x)), pool_reference(x))


def test_max_pool2_gradient_by_finite_differences():
    x = np.random.default_rng(0).permutation(2 * 5 * 7 * 2).reshape(2, 5, 7, 2) * 1.0  # no ties
    weights = noise(1, 2, 2, 3, 2).astype(np.float64)

    weighted = jax.jit(jax.grad(lambda x: jnp.sum(max_pool2(x) * weights)))
    gradient = weighted(jnp.asarray(x, jnp.float32))
    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * 0.25
            expected[index] += sign * np.sum(pool_reference(moved) * weights) / 0.5
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    assert not np.any(expected[:, 4]) and not np.any(expected[:, :, 6])  # the odd row and column


def test_max_pool2_gives_a_tie_to_its_first_entry_and_keeps_nan():
    gradient = jax.jit(jax.grad(lambda x: max_pool2(x).sum()))(np.ones((1, 2, 2, 1), np.float32))
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 0, 0])
    for entry in range(4):
        x = np.arange(4, dtype=np.float32)
        x[entry] = np.nan
        assert np.isnan(max_pool2(jnp.asarray(x.reshape(1, 2, 2, 1)))).all()


def test_max_pool2_keeps_its_gradient_whatever_the_compiler_computes_anew():
    """Unoptimised programs round y differently where they compute it a second time."""
    rng = np.random.default_rng(2)
    x, kernel = rng.normal(size=(4, 8, 8, 3)), rng.normal(size=(3, 3, 3, 4))
    scale, weights = rng.normal(size=4), rng.normal(size=(4, 4, 4, 4))

    def loss(scale, x, kernel):
        axes = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)
        return (max_pool2(y * scale + scale) * weights).sum()

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            gradient = jax.jit(jax.grad(loss))(*map(jnp.asarray, (scale, x, kernel)))
        finally:
            jax.config.update("jax_disable_most_optimizations", False)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    y = np.einsum("bhwcij,ijcf->bhwf", windows, kernel)
    fours = y.reshape(4, 4, 2, 4, 2, 4).swapaxes(2, 3).reshape(4, 4, 4, 4, 4)  # (..., place, f)
    place = (fours * scale + scale).argmax(3)[..., None, :]
    slope = np.take_along_axis(fours + 1, place, 3)[..., 0, :]
    np.testing.assert_allclose(gradient, (slope * weights).sum((0, 1, 2)), rtol=1e-9)
