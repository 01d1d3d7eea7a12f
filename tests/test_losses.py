"""The objectives against values worked by hand and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from siamese_jax import losses

ALL = np.ones((3, 3), bool)


def episode_reference(logits, allowed):
    """Both softmax problems written out entry by entry, in float64."""
    n = len(logits)
    out = np.zeros(n)
    for i in range(n):
        if not allowed[i, i]:
            continue
        row = sum(np.exp(logits[i, j]) for j in range(n) if allowed[i, j])
        column = sum(np.exp(logits[j, i]) for j in range(n) if allowed[j, i])
        out[i] = 0.5 * (np.log(row) + np.log(column)) - logits[i, i]
    return out


def test_verification_by_hand():
    # -log(1/2); -log(sigmoid(log 3)) = -log(3/4); -log(1 - 3/4) = log 4; a sure and right answer: 0.
    logits = jnp.array([0.0, np.log(3), np.log(3), 40.0])
    labels = jnp.array([1.0, 1.0, 0.0, 1.0])
    expected = [np.log(2), np.log(4 / 3), np.log(4), 0.0]
    np.testing.assert_allclose(losses.verification(logits, labels), expected, rtol=1e-6, atol=1e-7)


def test_verification_against_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=50) * 3, rng.integers(0, 2, 50).astype(float)
    p = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    found = losses.verification(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_verification_stays_finite_for_sure_and_wrong_answers():
    logits, labels = jnp.array([1e4, -1e4]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(losses.verification(logits, labels), [1e4, 1e4])
    grad = jax.grad(lambda x: losses.verification(x, labels).sum())(logits)
    np.testing.assert_allclose(grad, [1.0, -1.0])


def test_episode_by_hand():
    # exp(logits) = [[2, 1], [6, 3]]. Rows: 2/3 and 3/9; columns: 2/8 and 3/4.
    logits = jnp.log(jnp.array([[2.0, 1.0], [6.0, 3.0]]))
    found = losses.episode(logits, jnp.ones((2, 2), bool))
    expected = [0.5 * (np.log(3 / 2) + np.log(4)), 0.5 * (np.log(3) + np.log(4 / 3))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_episode_is_log_n_for_a_constant_and_nothing_for_a_perfect_net():
    np.testing.assert_allclose(losses.episode(jnp.zeros((3, 3)), ALL), np.full(3, np.log(3)), 1e-6)
    np.testing.assert_allclose(losses.episode(60 * jnp.eye(3), ALL), np.zeros(3), atol=1e-6)


def test_episode_against_numpy():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 6, 6)) * 3
    allowed = (rng.uniform(size=(2, 6, 6)) < 0.7) | np.eye(6, dtype=bool)
    found = losses.episode(jnp.asarray(logits, jnp.float32), jnp.asarray(allowed))
    expected = [episode_reference(*pair) for pair in zip(logits, allowed, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_masked_episode_is_a_sliced_one():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5, 5)).astype(np.float32)
    keep = np.array([True, False, True, True, False])
    allowed = keep[:, None] & keep[None, :]
    logits[~allowed] = 1e6  # must not be seen

    def masked(x):
        return losses.episode(x, jnp.asarray(allowed)).sum()

    found = losses.episode(jnp.asarray(logits), jnp.asarray(allowed))
    sliced = jnp.asarray(logits[np.ix_(keep, keep)])
    np.testing.assert_allclose(found[keep], losses.episode(sliced, ALL), rtol=1e-5)
    np.testing.assert_array_equal(found[~keep], np.zeros(2))
    grad = np.asarray(jax.grad(masked)(jnp.asarray(logits)))
    expected = jax.grad(lambda x: losses.episode(x, ALL).sum())(sliced)
    np.testing.assert_allclose(grad[np.ix_(keep, keep)], expected, rtol=1e-5, atol=1e-7)
    assert not np.any(grad[~allowed])


@pytest.mark.parametrize("name", ["verification", "episode"])
def test_gradients_by_finite_differences(name):
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        second, x = {
            "verification": (jnp.asarray([1.0, 0, 1, 0, 0, 1, 1]), rng.normal(size=7)),
            "episode": (
                jnp.asarray([[1, 1, 0], [0, 1, 1], [1, 1, 1]], bool),
                rng.normal(size=(3, 3)),
            ),
        }[name]
        function = jax.jit(lambda x: getattr(losses, name)(x, second))
        check_grads(function, (x,), 1, modes=["rev"], atol=1e-7, rtol=1e-7)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"logits \(3,\) and labels \(3, 1\)"):
        losses.verification(jnp.zeros(3), jnp.zeros((3, 1)))
    for shape in [(3, 4), (3,)]:
        with pytest.raises(ValueError, match=r"must be \(\.\.\., N, N\)"):
            losses.episode(jnp.zeros(shape), jnp.ones(shape, bool))
    with pytest.raises(ValueError, match=r"allowed \(2, 2\)"):
        losses.episode(jnp.zeros((3, 3)), jnp.ones((2, 2), bool))
