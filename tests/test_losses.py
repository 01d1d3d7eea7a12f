"""The losses and the mining of triplets against values worked by hand and NumPy in float64."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

from siamese_jax.models import distances
from siamese_jax.training import losses as losses_lib
from siamese_jax.training import mining as mining_lib

ALL = np.ones((3, 3), bool)
ALLOWED = jnp.asarray([[1, 1, 0], [0, 1, 1], [1, 1, 1]], bool)


class Compiled:
    """The losses as a training step has them: compiled, their margins and scales fixed."""

    def __getattr__(self, name):
        def call(*args, **named):
            fixed = [i for i, x in enumerate(args) if isinstance(x, float)]
            function = getattr(losses_lib, name)
            return jax.jit(function, static_argnums=fixed, static_argnames=list(named))(
                *args, **named
            )

        return call


losses = Compiled()
mine = jax.jit(mining_lib.mine, static_argnums=(3, 5))


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


@pytest.mark.slow
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
    grad = np.asarray(jax.jit(jax.grad(masked))(jnp.asarray(logits)))
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
    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(others), [[1, 0], [-1, 0], [0, 0]], atol=1e-6
    )
    equal = jax.jit(jax.grad(total))(anchor)
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
    with pytest.raises(
        ValueError, match="objective.decorrelation needs embeddings of at least two"
    ):
        losses.correlation(jnp.ones((4, 1)))


def test_triplet_by_hand():
    positive, negative = jnp.array([1.0, 1.0, 2.0]), jnp.array([3.0, 1.2, 1.0])
    np.testing.assert_allclose(losses.triplet(positive, negative, 0.5), [0, 0.3, 1.5], rtol=1e-5)


def distance_weights(distance, dimensions):
    """1 / q(d) of the negatives of one anchor, near ones as at 0.5 and none beyond 1.4 if possible."""
    d = np.clip(distance, 0.5, 2 - 1e-3)
    weights = d ** (2.0 - dimensions) * (1 - d**2 / 4) ** ((3.0 - dimensions) / 2)
    return np.where(d < 1.4, weights, 0.0) if np.any(d < 1.4) else weights


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
    triplets = mine(*args, mining, jnp.asarray(draw), 5)
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
            elif mining == "distance_weighted":
                weights = distance_weights(choices, 5)
                expected = choices[np.searchsorted(np.cumsum(weights / weights.sum()), draw[a])]
            else:
                beyond = choices[choices > distance[a, p]]
                expected = beyond.min() if len(beyond) else choices.max()
            np.testing.assert_allclose(positive[a, p], distance[a, p], 1e-6)
            np.testing.assert_allclose(negative[a, p], expected, 1e-6)
            count += 1
    assert count == {"batch_hard": 5}.get(mining, 8)


def test_semi_hard_mining_is_the_minimum_over_all_triplets():
    """Also where distances are equal, whose gradient `min` shares out; with no array of triplets."""

    def minimum(distance, same, different):
        farther = different[:, None, :] & (distance[:, None, :] > distance[:, :, None])
        nearest = jnp.where(farther, distance[:, None, :], jnp.inf).min(2)
        farthest = jnp.where(different, distance, -jnp.inf).max(1, keepdims=True)
        valid = same & different.any(1, keepdims=True)
        return jnp.where(valid, jnp.where(farther.any(2), nearest, farthest), 0.0)

    def mined(distance, same, different):
        draw = jnp.zeros(len(distance))
        return mining_lib.mine(distance, same, different, "semi_hard", draw, 5)[1]

    rng = np.random.default_rng(7)
    distance = jnp.asarray(rng.integers(1, 9, (12, 30)) / 8, jnp.float32)
    classes = np.where(np.arange(30) == 29, 9, np.arange(30) % 4)
    same = jnp.asarray((classes[:12, None] == classes) & ~np.eye(12, 30, dtype=bool))
    different = jnp.asarray((classes[:12, None] != classes) & (np.arange(12) > 0)[:, None])
    values, grads = [], []
    for function in (minimum, mined):

        def weighed(d, function=function):
            negative = function(d, same, different)
            return (negative * (1 + distance)).sum(), negative

        (_, value), grad = jax.jit(jax.value_and_grad(weighed, has_aux=True))(distance)
        values.append(value)
        grads.append(grad)
    np.testing.assert_array_equal(*values)
    np.testing.assert_allclose(*grads, rtol=1e-5)
    assert "30,30" not in str(jax.make_jaxpr(mined)(distance, same, different))


@pytest.mark.parametrize("mining", mining_lib.MININGS)
def test_mining_of_a_collapsed_batch_is_finite(mining):
    same = ~np.eye(4, dtype=bool) & np.kron(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    different = np.kron(~np.eye(2, dtype=bool), np.ones((2, 2), bool))
    draw = jnp.full(4, 0.5)

    def total(h):
        distance = distances.safe_sqrt(distances.all_squared_distances(h, h))
        positive, negative, valid = mine(
            distance, jnp.asarray(same), jnp.asarray(different), mining, draw, 3
        )
        return losses.triplet(positive, negative, 0.2).mean(where=valid)

    value, grad = jax.jit(jax.value_and_grad(total))(jnp.ones((4, 3)))
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


# --- every image of a batch and the others -----------------------------------------------------------

# Three images of one class, one of another. Anchor 0 has two positives, anchor 3 none.
CLASSES = np.array([0, 0, 0, 1])
SAME = (CLASSES[:, None] == CLASSES) & ~np.eye(4, dtype=bool)
DIFFERENT = CLASSES[:, None] != CLASSES


def test_supcon_by_hand():
    # exp(logits) of anchor 0: positives 2 and 3, negative 5, the sum 10; the mean of -log 2/10, 3/10.
    logits = jnp.log(jnp.array([[9.0, 2, 3, 5], [2, 9, 4, 2], [3, 4, 9, 1], [5, 2, 1, 9]]))
    found = losses.supcon(logits, jnp.asarray(SAME), jnp.asarray(DIFFERENT))
    expected = [
        (np.log(10 / 2) + np.log(10 / 3)) / 2,
        (np.log(8 / 2) + np.log(8 / 4)) / 2,
        (np.log(8 / 3) + np.log(8 / 4)) / 2,
        0,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nt_xent_by_hand():
    # Each positive against the negatives alone: 2/(2 + 5), 3/(3 + 5) of anchor 0.
    logits = jnp.log(jnp.array([[9.0, 2, 3, 5], [2, 9, 4, 2], [3, 4, 9, 1], [5, 2, 1, 9]]))
    found = losses.nt_xent(logits, jnp.asarray(SAME), jnp.asarray(DIFFERENT))
    odds = [[0, 7 / 2, 8 / 3, 0], [4 / 2, 0, 6 / 4, 0], [4 / 3, 5 / 4, 0, 0], [0, 0, 0, 0]]
    expected = np.log(np.where(np.array(odds) > 0, odds, 1.0))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    pairs = np.kron(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    same, different = jnp.asarray(pairs & ~np.eye(4, dtype=bool)), jnp.asarray(~pairs)
    np.testing.assert_allclose(  # with one positive the two losses are one
        losses.nt_xent(logits, same, different).sum(1),
        losses.supcon(logits, same, different),
        rtol=1e-6,
    )


def test_multi_similarity_by_hand():
    cosine = jnp.array(
        [[1.0, 0.9, 0.2, 0.6], [0.9, 1, 0.8, 0.1], [0.2, 0.8, 1, 0.15], [0.6, 0.1, 0.15, 1]]
    )
    found = losses.multi_similarity(cosine, jnp.asarray(SAME), jnp.asarray(DIFFERENT))
    # Anchor 0: the positive 0.9 is not below 0.6 + 0.1, so that 0.2 alone stays; 0.6 > 0.2 - 0.1 stays.
    # Anchor 1: both positives are above 0.1 + 0.1, and 0.1 is below 0.8 - 0.1: nothing stays.
    # Anchor 2: 0.2 < 0.15 + 0.1 stays, 0.8 does not; 0.15 > 0.2 - 0.1 stays.
    expected = [
        np.log(1 + np.exp(2 * 0.3)) / 2 + np.log(1 + np.exp(50 * 0.1)) / 50,
        0,
        np.log(1 + np.exp(2 * 0.3)) / 2 + np.log(1 + np.exp(-50 * 0.35)) / 50,
        0,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_circle_by_hand():
    cosine = jnp.array([[0.5, 0.1]])
    same, different = jnp.array([[True, False]]), jnp.array([[False, True]])
    # m = 0.25, gamma = 4: the weights are 1.25 - 0.5 and 0.1 + 0.25, the optima 0.75 and 0.25.
    exponent = 4 * 0.35 * (0.1 - 0.25) - 4 * 0.75 * (0.5 - 0.75)

    def total(x):
        return losses.circle(x, same, different, margin=0.25, scale=4.0).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(cosine)
    np.testing.assert_allclose(value, np.log(1 + np.exp(exponent)), rtol=1e-6)
    share = 1 / (1 + np.exp(-exponent))  # the weights are constants to the gradient
    np.testing.assert_allclose(grad, [[-4 * 0.75 * share, 4 * 0.35 * share]], rtol=1e-6)
    np.testing.assert_array_equal(losses.circle(cosine, same, ~same & same), [0])
    weak = losses.circle(jnp.array([[1.0, -0.5]]), same, different)
    assert 0 <= weak[0] < 1e-5  # beyond both optima


def test_n_pair_by_hand():
    # Anchor 0: products 1 with its positive and 0, 2 with the others: log(1 + e^-1 + e^1).
    products = jnp.array([[1.0, 0, 2], [3, 3, 1], [0, 0, 0]])
    found = losses.n_pair(products, jnp.ones((3, 3), bool))
    expected = [np.log(1 + np.exp(-1) + np.exp(1)), np.log(2 + np.exp(-2)), np.log(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- one vector for every class ----------------------------------------------------------------------


def test_softmax_with_label_smoothing_by_hand():
    logits = jnp.log(jnp.array([[2.0, 3.0, 5.0]]))
    labels = jnp.array([2])
    np.testing.assert_allclose(losses.softmax(logits, labels), [np.log(2)], rtol=1e-6)
    # The target of 0.3: 0.8 on the right class, 0.1 on each of the others.
    expected = -(0.1 * np.log(0.2) + 0.1 * np.log(0.3) + 0.8 * np.log(0.5))
    np.testing.assert_allclose(losses.softmax(logits, labels, 0.3), [expected], rtol=1e-6)
    # N-way classification spreads it over the entries that take part: here two.
    square = jnp.stack([logits[0], logits[0], logits[0]])
    allowed = jnp.array([[True, True, False], [True, True, False], [False, False, False]])
    smooth = losses.classification(square, allowed, 0.3)
    expected = [
        -(0.85 * np.log(2 / 5) + 0.15 * np.log(3 / 5)),
        -(0.15 * np.log(2 / 5) + 0.85 * np.log(3 / 5)),
        0,
    ]
    np.testing.assert_allclose(smooth, expected, rtol=1e-5)


def test_arcface_and_cosface_by_hand():
    angles = np.array([[0.3, 1.2], [2.0, 3.0]])  # of each image with the vectors of two classes
    cosine, labels = jnp.asarray(np.cos(angles), jnp.float32), jnp.array([0, 1])
    s, m = 4.0, 0.5
    # The second image's angle with its class, 3.0, is beyond pi - 0.5: its cosine loses 0.5 sin 0.5.
    own = [np.cos(0.8), np.cos(3.0) - 0.5 * np.sin(0.5)]
    others = [np.cos(1.2), np.cos(2.0)]
    expected = np.log(1 + np.exp(s * (np.array(others) - own)))
    np.testing.assert_allclose(losses.arcface(cosine, labels, m, s), expected, rtol=1e-4)
    own = np.cos([0.3, 3.0]) - m
    expected = np.log(1 + np.exp(s * (np.array(others) - own)))
    np.testing.assert_allclose(losses.cosface(cosine, labels, m, s), expected, rtol=1e-5)
    for loss in (losses.arcface, losses.cosface):  # without a margin both are a plain softmax
        plain = losses.softmax(s * cosine, labels, 0.2)
        np.testing.assert_allclose(loss(cosine, labels, 0.0, s, 0.2), plain, rtol=1e-5)


def test_arcface_falls_with_the_angle_and_has_finite_gradients():
    angles = jnp.linspace(0, np.pi, 200)
    cosine = jnp.stack([jnp.cos(angles), jnp.zeros(200)], 1)
    labels = jnp.zeros(200, jnp.int32)
    values = losses.arcface(cosine, labels, 0.5, 8.0)
    assert np.all(np.diff(values) > 0)
    grad = jax.grad(lambda x: losses.arcface(x, labels, 0.5, 8.0).sum())(cosine)
    assert np.all(np.isfinite(grad))


def test_proxy_anchor_by_hand():
    cosine, labels = jnp.array([[0.9, 0.2, -0.1], [0.7, 0.1, 0.3]]), jnp.array([0, 0])
    positive, negative = losses.proxy_anchor(cosine, labels, margin=0.1, scale=2.0)
    first = np.log(1 + np.exp(-2 * 0.8) + np.exp(-2 * 0.6))
    np.testing.assert_allclose(positive, [first, 0, 0], rtol=1e-6)
    others = [np.exp(2 * 0.3) + np.exp(2 * 0.2), np.exp(2 * 0.0) + np.exp(2 * 0.4)]
    np.testing.assert_allclose(negative, [0, *np.log(1 + np.array(others))], rtol=1e-6, atol=1e-7)


LABELS = np.array([1, 0, 2, 1])
PAIR_LOSSES = {
    "supcon": losses.supcon,
    "nt_xent": losses.nt_xent,
    # A sharpness at which finite differences can follow, and no mining, whose choice jumps.
    "multi_similarity": lambda *args: losses.multi_similarity(*args, 2.0, 5.0, 0.5, 9.0),
}
CLASS_LOSSES = {
    "softmax": lambda x, labels: losses.softmax(x, labels, 0.1),
    "arcface": lambda x, labels: losses.arcface(x, labels, 0.5, 4.0, 0.1),
    "cosface": lambda x, labels: losses.cosface(x, labels, 0.35, 4.0, 0.1),
    "proxy_anchor": lambda x, labels: losses.proxy_anchor(x, labels, 0.1, 4.0),
}


@pytest.mark.parametrize("name", [*PAIR_LOSSES, *CLASS_LOSSES, "n_pair"])
def test_gradients_of_the_named_losses_by_finite_differences(name):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(8).uniform(-0.8, 0.8, size=(4, 4)))
        if name == "n_pair":
            rest = (jnp.ones((4, 4), bool),)
        elif name in PAIR_LOSSES:
            rest = jnp.asarray(SAME), jnp.asarray(DIFFERENT)
        else:
            rest = (jnp.asarray(LABELS),)
        loss = {**PAIR_LOSSES, **CLASS_LOSSES, "n_pair": losses.n_pair}[name]
        function = jax.jit(lambda x: loss(x, *rest))
        check_grads(function, (x,), 1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", [*PAIR_LOSSES, "circle"])
def test_images_without_company_cost_nothing(name):
    nobody = jnp.zeros((4, 4), bool)
    loss = {**PAIR_LOSSES, "circle": losses.circle}[name]
    for same, different in ((nobody, nobody), (nobody, jnp.asarray(DIFFERENT))):
        value, grad = jax.value_and_grad(lambda x, a=same, b=different: loss(x, a, b).sum())(
            jnp.full((4, 4), 0.3)
        )
        assert value == 0 and not np.any(grad)


@pytest.mark.slow
def test_distance_weights_make_all_distances_as_likely():
    """Of random points of a sphere, weighted by 1 / q, every range of distances holds as much."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20_000, 6))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distance = np.linalg.norm(points[:1] - points[1:], axis=1)[None]
    weights = mining_lib.negative_weights(
        jnp.asarray(distance, jnp.float32), jnp.ones(distance.shape, bool), 6
    )
    share, _ = np.histogram(distance[0], [0.8, 1.0, 1.2, 1.4], weights=np.asarray(weights)[0])
    np.testing.assert_allclose(share / share.mean(), 1, atol=0.12)
    assert not np.any(np.asarray(weights)[distance > 1.4])


def test_an_unknown_mining_is_refused():
    with pytest.raises(ValueError, match="mining must be one of .* got 'hard'"):
        mining_lib.mine(jnp.zeros((2, 2)), jnp.eye(2) > 0, jnp.eye(2) == 0, "hard", jnp.zeros(2), 3)


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
        (losses.supcon, jnp.zeros((2, 3)), jnp.ones((2, 2), bool), jnp.ones((2, 3), bool)),
        (losses.nt_xent, jnp.zeros((2, 3)), jnp.ones((2, 3)), jnp.ones((2, 3), bool)),
        (losses.circle, jnp.zeros((2, 3)), jnp.ones((3, 2), bool), jnp.ones((2, 3), bool)),
        (losses.multi_similarity, jnp.zeros(3), jnp.ones(3, bool), jnp.ones(3, bool)),
        (losses.n_pair, jnp.zeros((2, 3)), jnp.ones((2, 3), bool)),
        (losses.softmax, jnp.zeros((2, 3)), jnp.zeros(3, jnp.int32)),
        (losses.arcface, jnp.zeros((2, 3)), jnp.zeros(2)),
        (losses.cosface, jnp.zeros((2, 3)), jnp.zeros((2, 3), jnp.int32)),
        (losses.proxy_anchor, jnp.zeros(3), jnp.zeros(3, jnp.int32)),
    ]
    for loss, *args in wrong:
        with pytest.raises(jaxtyping.TypeCheckError):
            loss(*args)
