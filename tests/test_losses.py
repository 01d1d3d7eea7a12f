"""The losses and the mining of triplets against values worked by hand and NumPy in float64."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

from siamese_jax.models import distances
from siamese_jax.training import losses
from siamese_jax.training import mining as mining_lib

ALL = np.ones((3, 3), bool)
ALLOWED = jnp.asarray([[1, 1, 0], [0, 1, 1], [1, 1, 1]], bool)


def info_nce_reference(logits, allowed):
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
    values = losses.verification(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_verification_stays_finite_for_sure_and_wrong_answers():
    logits, labels = jnp.array([1e4, -1e4]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(losses.verification(logits, labels), [1e4, 1e4])
    grad = jax.grad(lambda x: losses.verification(x, labels).sum())(logits)
    np.testing.assert_allclose(grad, [1.0, -1.0])


def test_info_nce_by_hand():
    # exp(logits) = [[2, 1], [6, 3]]. Rows: 2/3 and 3/9; columns: 2/8 and 3/4.
    logits = jnp.log(jnp.array([[2.0, 1.0], [6.0, 3.0]]))
    values = losses.symmetric_info_nce(logits, jnp.ones((2, 2), bool))
    expected = [0.5 * (np.log(3 / 2) + np.log(4)), 0.5 * (np.log(3) + np.log(4 / 3))]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_info_nce_is_log_n_for_a_constant_and_nothing_for_a_perfect_net():
    np.testing.assert_allclose(
        losses.symmetric_info_nce(jnp.zeros((3, 3)), ALL), np.full(3, np.log(3)), 1e-6
    )
    np.testing.assert_allclose(
        losses.symmetric_info_nce(60 * jnp.eye(3), ALL), np.zeros(3), atol=1e-6
    )


def test_info_nce_against_numpy():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 6, 6)) * 3
    allowed = (rng.uniform(size=(2, 6, 6)) < 0.7) | np.eye(6, dtype=bool)
    values = losses.symmetric_info_nce(jnp.asarray(logits, jnp.float32), jnp.asarray(allowed))
    expected = [info_nce_reference(*pair) for pair in zip(logits, allowed, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_masked_info_nce_is_a_sliced_one():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5, 5)).astype(np.float32)
    keep = np.array([True, False, True, True, False])
    allowed = keep[:, None] & keep[None, :]
    logits[~allowed] = 1e6  # must not be seen

    def masked(x):
        return losses.symmetric_info_nce(x, jnp.asarray(allowed)).sum()

    values = losses.symmetric_info_nce(jnp.asarray(logits), jnp.asarray(allowed))
    sliced = jnp.asarray(logits[np.ix_(keep, keep)])
    np.testing.assert_allclose(values[keep], losses.symmetric_info_nce(sliced, ALL), rtol=1e-5)
    np.testing.assert_array_equal(values[~keep], np.zeros(2))
    grad = np.asarray(jax.grad(masked)(jnp.asarray(logits)))
    expected = jax.grad(lambda x: losses.symmetric_info_nce(x, ALL).sum())(sliced)
    np.testing.assert_allclose(grad[np.ix_(keep, keep)], expected, rtol=1e-5, atol=1e-7)
    assert not np.any(grad[~allowed])


def test_classification_is_the_rows_of_info_nce():
    # exp(logits) = [[2, 1], [6, 3]]: the queries are right with 2/3 and 3/9.
    logits = jnp.log(jnp.array([[2.0, 1.0], [6.0, 3.0]]))
    values = losses.classification(logits, jnp.ones((2, 2), bool))
    np.testing.assert_allclose(values, [np.log(3 / 2), np.log(3)], rtol=1e-6)
    absent = losses.classification(logits, jnp.array([[True, False], [False, False]]))
    np.testing.assert_allclose(absent, [0, 0], atol=1e-6)


# --- distances ------------------------------------------------------------------------------------


# --- contrastive and triplet ----------------------------------------------------------------------


def test_contrastive_by_hand():
    # Same at distance 0 and 3: 0 and 9/2. Different at 0.5, 2 and 5 with margin 2: 1.5^2 / 2, 0, 0.
    distance = jnp.array([0.0, 3.0, 0.5, 2.0, 5.0])
    labels = jnp.array([1.0, 1.0, 0.0, 0.0, 0.0])
    values = losses.contrastive(distance, labels, 2.0)
    np.testing.assert_allclose(values, [0, 4.5, 1.125, 0, 0], rtol=1e-6)


def test_contrastive_pulls_same_pairs_and_pushes_different_ones_inside_the_margin():
    anchor = jnp.zeros((3, 2))
    others = jnp.array([[1.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    labels = jnp.array([1.0, 0.0, 0.0])

    def total(x):
        return losses.contrastive(distances.distances(anchor, x), labels, 2.0).sum()

    # d/dx of x^2 / 2, of (2 - x)^2 / 2 and of nothing.
    np.testing.assert_allclose(jax.grad(total)(others), [[1, 0], [-1, 0], [0, 0]], atol=1e-6)
    equal = jax.grad(total)(anchor)
    np.testing.assert_array_equal(equal, np.zeros((3, 2)))  # and not NaN


def test_correlation_against_numpy():
    h = np.random.default_rng(7).normal(size=(40, 3))
    h[:, 2] = 2 * h[:, 0] + 0.5 * h[:, 1] + 3
    matrix = np.corrcoef(h.T)
    expected = np.mean(matrix[~np.eye(3, dtype=bool)] ** 2)
    np.testing.assert_allclose(losses.correlation(jnp.asarray(h, jnp.float32)), expected, rtol=1e-4)
    copies = jnp.asarray(h[:, :1] * [[1, -2, 5]], jnp.float32)
    np.testing.assert_allclose(losses.correlation(copies), 1, rtol=1e-4)
    constant = jax.grad(lambda x: losses.correlation(x))(jnp.ones((4, 3)))
    assert np.all(np.isfinite(constant))


def test_triplet_by_hand():
    positive, negative = jnp.array([1.0, 1.0, 2.0]), jnp.array([3.0, 1.2, 1.0])
    np.testing.assert_allclose(losses.triplet(positive, negative, 0.5), [0, 0.3, 1.5], rtol=1e-5)


@pytest.mark.parametrize("mining", mining_lib.MININGS)
def test_mining_against_brute_force(mining):
    rng = np.random.default_rng(6)
    classes = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    # The sixth and the last two have no positive.
    here = np.array([1, 1, 1, 1, 1, 1, 1, 0], bool)
    points = rng.normal(size=(8, 2))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    draw = rng.uniform(size=8)
    same = (classes[:, None] == classes) & ~np.eye(8, dtype=bool) & here[:, None] & here
    different = (classes[:, None] != classes) & here[:, None] & here
    args = [jnp.asarray(x) for x in (distance, same, different)]
    triplets = mining_lib.mine(*args, mining, jnp.asarray(draw))
    positive, negative, valid = (np.asarray(x) for x in triplets)
    count = 0
    for a in range(8):
        positives, negatives = np.flatnonzero(same[a]), np.flatnonzero(different[a])
        if mining == "batch_hard":
            assert valid[a, 0] == bool(len(positives))
            if len(positives):
                np.testing.assert_allclose(positive[a, 0], distance[a, positives].max(), 1e-6)
                np.testing.assert_allclose(negative[a, 0], distance[a, negatives].min(), 1e-6)
                count += 1
            continue
        np.testing.assert_array_equal(valid[a], same[a])
        for p in positives:
            choices = distance[a, negatives]
            if mining == "random":
                expected = choices[int(draw[a] * len(negatives))]
            else:
                beyond = choices[choices > distance[a, p]]
                expected = beyond.min() if len(beyond) else choices.max()
            np.testing.assert_allclose(positive[a, p], distance[a, p], 1e-6)
            np.testing.assert_allclose(negative[a, p], expected, 1e-6)
            count += 1
    assert count == {"batch_hard": 5}.get(mining, 8)


@pytest.mark.parametrize("mining", mining_lib.MININGS)
def test_mining_of_a_collapsed_batch_is_finite(mining):
    same = ~np.eye(4, dtype=bool) & np.kron(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    different = np.kron(~np.eye(2, dtype=bool), np.ones((2, 2), bool))
    draw = jnp.full(4, 0.5)

    def total(h):
        distance = distances.safe_sqrt(distances.all_squared_distances(h, h))
        positive, negative, valid = mining_lib.mine(
            distance, jnp.asarray(same), jnp.asarray(different), mining, draw
        )
        return losses.triplet(positive, negative, 0.2).mean(where=valid)

    value, grad = jax.value_and_grad(total)(jnp.ones((4, 3)))
    np.testing.assert_allclose(value, 0.2, rtol=1e-6)  # the margin: where a collapse shows
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("name", ["verification", "symmetric_info_nce", "classification"])
def test_gradients_by_finite_differences(name):
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        second, x = {
            "verification": (jnp.asarray([1.0, 0, 1, 0, 0, 1, 1]), rng.normal(size=7)),
            "symmetric_info_nce": (ALLOWED, rng.normal(size=(3, 3))),
            "classification": (ALLOWED, rng.normal(size=(3, 3))),
        }[name]
        function = jax.jit(lambda x: getattr(losses, name)(x, second))
        check_grads(function, (x,), 1, modes=["rev"], atol=1e-7, rtol=1e-7)


def test_contrastive_gradient_by_finite_differences():
    with jax.enable_x64(True):
        h1, h2 = (jnp.asarray(x) for x in np.random.default_rng(5).normal(size=(2, 6, 3)))
        labels = jnp.asarray([1.0, 1, 0, 0, 0, 1])

        def function(a, b):
            return losses.contrastive(distances.distances(a, b), labels, 2.5)

        check_grads(function, (h1, h2), 1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_an_unknown_mining_is_refused():
    with pytest.raises(ValueError, match="mining must be one of .* got 'hard'"):
        mining_lib.mine(jnp.zeros((2, 2)), jnp.eye(2) > 0, jnp.eye(2) == 0, "hard", jnp.zeros(2))


def test_shapes_are_checked():
    wrong = [
        (losses.contrastive, jnp.zeros(3), jnp.zeros(2), 1.0),
        (losses.verification, jnp.zeros(3), jnp.zeros((3, 1))),
        (losses.symmetric_info_nce, jnp.zeros((3, 4)), jnp.ones((3, 4), bool)),
        (losses.symmetric_info_nce, jnp.zeros(3), jnp.ones(3, bool)),
        (losses.symmetric_info_nce, jnp.zeros((3, 3)), jnp.ones((2, 2), bool)),
        (losses.classification, jnp.zeros((3, 3)), jnp.ones((3, 3))),
        (losses.triplet, jnp.zeros(3), jnp.zeros((3, 1)), 1.0),
        (losses.correlation, jnp.zeros(3)),
    ]
    for loss, *args in wrong:
        with pytest.raises(jaxtyping.TypeCheckError):
            loss(*args)
