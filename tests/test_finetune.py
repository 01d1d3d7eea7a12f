"""The classifier baseline: imprinted weights and their fine-tuning against NumPy in float64."""

import jax
import numpy as np
import pytest

from siamese_jax.evaluation import finetune

cosine_logits = jax.jit(finetune.cosine_logits)


def direction(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def supports_of(runs, n_way, k_shot, size, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(runs, n_way, 1, size))
    return centres + 1.5 * rng.normal(size=(runs, n_way, k_shot, size))


def loss_and_gradient(weights, supports, scale):
    """Cross-entropy, summed over the classes of one run, by hand; weights (N, D), supports (N, K, D)."""
    n_way, k_shot, _ = supports.shape
    length = np.linalg.norm(weights, axis=-1, keepdims=True)
    w, total, gradient = weights / length, 0.0, np.zeros_like(weights)
    for n in range(n_way):
        for k in range(k_shot):
            h = direction(supports[n, k])
            cosine = w @ h  # (N,)
            p = np.exp(scale * cosine - (scale * cosine).max())
            p /= p.sum()
            total -= np.log(p[n]) / k_shot
            wrong = (p - np.eye(n_way)[n]) * scale / k_shot
            gradient += wrong[:, None] * (h - cosine[:, None] * w) / length
    return total, gradient


def test_imprinted_weights_by_hand():
    supports = np.array([[[[3.0, 4.0], [0.0, 2.0]], [[-1.0, 0.0], [-5.0, 0.0]]]])
    mean = np.array([0.3, 0.9])  # of (0.6, 0.8) and (0, 1)
    weights = jax.jit(finetune.imprint)(supports)
    np.testing.assert_allclose(weights[0], [mean / np.linalg.norm(mean), [-1, 0]], rtol=1e-6)
    logits = np.asarray(cosine_logits(np.array([[[0.0, 7.0]]]), weights, scale=2.0))
    np.testing.assert_allclose(logits[0, 0], [2 * 0.9 / np.sqrt(0.9), 0], atol=1e-6)


@pytest.mark.parametrize(("steps", "rate"), [(0, 0.1), (1, 0.3), (7, 0.05)])
def test_fine_tuning_is_plain_gradient_descent(steps, rate):
    supports = supports_of(3, 4, 3, 5)
    found = finetune.finetune(supports, steps=steps, learning_rate=rate, scale=6.0)
    assert found.shape == (3, 4, 5)
    for run, weights in zip(supports, np.asarray(found), strict=True):
        expected = direction(direction(run).mean(1))
        for _ in range(steps):
            expected = expected - rate * loss_and_gradient(expected, run, 6.0)[1]
        np.testing.assert_allclose(weights, expected, rtol=2e-5, atol=1e-6)


def test_gradient_by_hand_is_that_of_the_loss_by_hand():
    supports, at = supports_of(1, 3, 2, 4)[0], np.random.default_rng(1).normal(size=(3, 4))
    gradient = loss_and_gradient(at, supports, 6.0)[1]
    for i in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[i] = 1e-6
        up, down = (loss_and_gradient(at + s * step, supports, 6.0)[0] for s in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_runs_are_fitted_apart_and_fitting_fits():
    supports = supports_of(5, 4, 2, 6, seed=3)
    together = np.asarray(finetune.finetune(supports))
    alone = [np.asarray(finetune.finetune(run[None]))[0] for run in supports]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    imprinted = np.asarray(jax.jit(finetune.imprint)(supports))
    losses = [
        [loss_and_gradient(np.asarray(weights, float), run, finetune.SCALE)[0] for weights in pair]
        for run, *pair in zip(supports, imprinted, together, strict=True)
    ]
    before, after = np.transpose(losses)
    assert (after < before - 0.01).all()


def test_embeddings_of_zero_give_finite_weights():
    supports = np.zeros((1, 2, 2, 3))
    supports[0, 1] = [[1, 0, 0], [-1, 0, 0]]  # directions that cancel
    weights = np.asarray(finetune.finetune(supports))
    assert np.isfinite(weights).all()
    assert np.isfinite(np.asarray(cosine_logits(np.zeros((1, 1, 3)), weights))).all()
