"""Batch normalisation against flax's, in values, gradients and running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamese_jax.models.batch_norm import BatchNorm

SHAPES = [(6, 5, 4, 3), (16, 7)]


def draw(shape, dtype=np.float64):
    """Input with a mean and a spread of its own in each channel, scale, bias, output's gradient."""
    rng = np.random.default_rng(0)
    channels = shape[-1]
    mean, spread, scale, bias = rng.normal(size=(4, channels)) + np.array([[2.0], [0], [1], [0]])
    x, dy = rng.normal(size=(2, *shape))
    return [a.astype(dtype) for a in (mean + spread * x, scale, bias, dy)]


def run(cls, x, scale, bias, dy, train=True, **fields):
    """The output, the running statistics and the gradients of x, scale and bias."""
    norm = cls(use_running_average=not train, momentum=0.9, **fields)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    stats = {"mean": np.full(x.shape[-1], 0.5, wide), "var": np.full(x.shape[-1], 2.0, wide)}

    @jax.jit
    def pull(x, scale, bias, dy):
        def apply(x, scale, bias):
            variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
            return norm.apply(variables, x, mutable=["batch_stats"])

        y, pulled, updated = jax.vjp(apply, x, scale, bias, has_aux=True)
        return y, updated["batch_stats"], pulled(dy.astype(y.dtype))

    return pull(x, scale, bias, dy)


def assert_close(ours, theirs, tolerance):
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_statistics_are_flaxs(shape, train):
    with jax.enable_x64(True):
        drawn = draw(shape)
        ours, theirs = (
            run(cls, *drawn, train=train, dtype=jnp.float64) for cls in (BatchNorm, nn.BatchNorm)
        )
        assert_close(ours, theirs, 1e-10)
    drawn = draw(shape, np.float32)
    ours, theirs = (run(cls, *drawn, train=train) for cls in (BatchNorm, nn.BatchNorm))
    assert ours[0].dtype == jnp.float32
    assert_close(ours, theirs, 1e-5)


def test_by_hand():
    x = np.array([[1.0], [3.0]], np.float32)
    norm = BatchNorm(use_running_average=False, epsilon=0.0)
    variables = jax.jit(norm.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0.0])  # init updates nothing
    np.testing.assert_array_equal(variables["batch_stats"]["var"], [1.0])
    y, updated = jax.jit(lambda v, x: norm.apply(v, x, mutable=["batch_stats"]))(variables, x)
    np.testing.assert_allclose(y, [[-1.0], [1.0]], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.2], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [1.0], rtol=1e-6)


def test_statistics_are_averaged_over_a_mapped_axis():
    with jax.enable_x64(True):
        x, scale, bias, dy = draw((8, 3))
        whole = run(BatchNorm, x, scale, bias, dy, dtype=jnp.float64)[0]
        variables = {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {"mean": np.zeros(3), "var": np.ones(3)},
        }
        norm = BatchNorm(use_running_average=False, dtype=jnp.float64, axis_name="devices")

        def apply(x):
            return norm.apply(variables, x, mutable=["batch_stats"])[0]

        parts = jax.jit(jax.vmap(apply, axis_name="devices"))(x.reshape(2, 4, 3))
    np.testing.assert_allclose(parts.reshape(8, 3), whole, atol=1e-10)


def test_half_precision_is_of_the_output_only():
    x, scale, bias, dy = draw((32, 3), np.float32)
    ours = run(BatchNorm, x.astype(jnp.bfloat16), scale, bias, dy, dtype=jnp.bfloat16)
    theirs = run(nn.BatchNorm, x.astype(jnp.bfloat16), scale, bias, dy, dtype=jnp.bfloat16)
    assert ours[0].dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(ours[1])} == {jnp.dtype(jnp.float32)}
    assert_close(ours, theirs, 2e-2)
    assert_close(ours[1], theirs[1], 1e-6)
