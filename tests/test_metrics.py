"""Figures against hand-worked values, closed forms, brute force and scikit-learn."""

import itertools
import math

import jaxtyping
import numpy as np
import pytest
from sklearn import linear_model
from sklearn import metrics as sk_metrics

from siamese_jax.evaluation import intervals, metrics, probabilities

NAN, INF = math.nan, math.inf


@pytest.fixture
def unchecked_shapes(monkeypatch):
    """The functions as users call them, whose own checks say what does not fit."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_ties_are_shared_and_unusable_rows_are_chance():
    scores = [
        [3.0, 1.0, 2.0, 0.0],  # right: 0, alone at the top
        [3.0, 3.0, 2.0, 0.0],  # right: 1, two tied
        [3.0, 3.0, 3.0, 0.0],  # right: 3, below three tied
        [5.0, 5.0, 5.0, 5.0],  # all tied
        [NAN, 9.0, 0.0, 0.0],  # right: 1, but a score is missing
        [INF, 0.0, 0.0, 0.0],  # right: 0, but it is no number
    ]
    correct = metrics.n_way_correct(np.array(scores), np.array([0, 1, 3, 2, 1, 0]))
    np.testing.assert_array_equal(correct, [1, 1 / 2, 0, 1 / 4, 1 / 4, 1 / 4])
    shares = metrics.answer_shares(np.array(scores))
    np.testing.assert_array_equal(shares[1], [0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(shares[4], [0.25] * 4)
    assert metrics.n_way_accuracy(np.array(scores), np.array([0, 1, 3, 2, 1, 0])) == pytest.approx(
        2.25 / 6
    )


def test_n_way_keeps_leading_axes():
    rng = np.random.default_rng(0)
    scores, answers = rng.random((3, 5, 7)), rng.integers(0, 7, (3, 5))
    expected = scores.argmax(-1) == answers
    assert 0 < expected.sum() < 15
    np.testing.assert_array_equal(metrics.n_way_correct(scores, answers), expected)


@pytest.mark.parametrize(
    ("scores", "answers", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), "answers must be in 0 .. 2, got 0 .. 3"),
        (np.zeros((2, 3)), np.array([0]), "need answers of shape"),
        (np.zeros((2, 0)), np.array([0, 0]), "N at least 1"),
    ],
)
def test_n_way_refuses(scores, answers, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        metrics.n_way_correct(scores, answers)


def test_accuracy_and_false_rates_at_a_threshold_by_hand():
    scores = np.array([3.0, 1.0, 2.0, 0.0, 2.0, NAN])
    labels = np.array([1, 1, 0, 0, 1, 0])
    # At 2 (included): right, wrong, wrong, right, right, half.
    assert metrics.accuracy_at_threshold(scores, labels, 2.0) == pytest.approx(3.5 / 6)
    far, frr = metrics.false_rates(scores, labels, 2.0)
    assert far == pytest.approx(1.5 / 3)  # 2.0 accepted, NaN half
    assert frr == pytest.approx(1 / 3)


def test_best_threshold_against_brute_force():
    rng = np.random.default_rng(1)
    for _ in range(50):
        scores = rng.integers(0, 6, 12) / 4  # with ties
        labels = rng.integers(0, 2, 12)
        best = max(
            metrics.accuracy_at_threshold(scores, labels, t) for t in np.arange(-1, 8) / 4 - 0.1
        )
        threshold = metrics.best_threshold(scores, labels)
        assert metrics.accuracy_at_threshold(scores, labels, threshold) == best


def test_best_threshold_lies_halfway_and_stays_finite():
    assert metrics.best_threshold(np.array([1.0, 2.0, 5.0, 6.0]), np.array([0, 0, 1, 1])) == 3.5
    assert metrics.best_threshold(np.array([1.0, 2.0]), np.array([1, 1])) == 1.0  # accept all
    none = np.nextafter(2.0, 3.0)  # reject all
    assert metrics.best_threshold(np.array([1.0, 2.0]), np.array([0, 0])) == none
    assert metrics.best_threshold(np.array([NAN, 1.0, 3.0]), np.array([1, 0, 1])) == 2.0
    assert metrics.best_threshold(np.array([NAN, NAN]), np.array([1, 0])) == 0.0
    above = np.nextafter(1.0, 2.0)  # no float lies between
    assert metrics.best_threshold(np.array([1.0, above]), np.array([0, 1])) == above


def _brute_auc(scores, labels):
    total = []
    for s, d in itertools.product(np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)):
        a, b = scores[s], scores[d]
        usable = np.isfinite(a) and np.isfinite(b)
        total.append(0.5 if not usable or a == b else float(a > b))
    return np.mean(total)


def test_auc_by_hand():
    # 3 > 2, 3 > 1, 2 = 2, 2 > 1: 3.5 of 4.
    assert metrics.auc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([1, 1, 0, 0])) == 3.5 / 4
    assert metrics.auc(np.array([7.0, 7.0, 7.0]), np.array([1, 0, 0])) == 0.5
    assert metrics.auc(np.array([NAN, NAN, NAN]), np.array([1, 0, 0])) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_roc_against_other_ways(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(size=60) + labels, 1)  # with ties
    assert metrics.auc(scores, labels) == pytest.approx(sk_metrics.roc_auc_score(labels, scores))
    fpr, tpr, thresholds = sk_metrics.roc_curve(labels, scores, drop_intermediate=False)
    mine = metrics.roc(scores, labels)
    np.testing.assert_allclose(mine[0], fpr, atol=1e-15)
    np.testing.assert_allclose(mine[1], tpr, atol=1e-15)
    np.testing.assert_array_equal(mine[2], thresholds)
    scores[rng.integers(0, 60, 8)] = [NAN, INF, -INF, NAN] * 2
    assert metrics.auc(scores, labels) == pytest.approx(_brute_auc(scores, labels))


def test_weights_count_pairs_several_times():
    rng = np.random.default_rng(3)
    labels = np.tile([0, 1], 20)
    scores = np.round(rng.normal(size=40) + labels, 1)
    scores[5] = NAN
    weights = rng.integers(0, 4, 40)
    repeated = np.repeat(np.arange(40), weights)
    fpr, tpr, _ = metrics.roc(scores, labels, weights)
    for figure, of_curve in (
        (metrics.auc, metrics.area_under),
        (metrics.equal_error_rate, metrics.equal_error_of),
    ):
        expected = figure(scores[repeated], labels[repeated])
        assert of_curve(fpr, tpr) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("same", "different", "expected"),
    [
        ([2.0, 3.0], [0.0, 1.0], 0.0),
        ([0.0, 1.0], [2.0, 3.0], 1.0),
        ([1.0, 3.0], [0.0, 2.0], 0.5),  # the curve passes (1/2, 1/2)
        ([1.0, 2.0], [0.0, 1.0], 0.25),  # half-way from (0, 1/2) to (1/2, 1)
        ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.5], 0.25),  # the corner (1/4, 3/4)
        ([5.0, 5.0], [5.0], 0.5),
        ([NAN, NAN], [NAN], 0.5),
        ([NAN, 3.0], [0.0, 1.0], 0.25),  # from (0, 3/4), up to which 1/4 is rejected: FAR 0 .. 1/2
    ],
)
def test_equal_error_rate_by_hand(same, different, expected):
    scores = np.array(same + different)
    labels = np.array([1] * len(same) + [0] * len(different))
    fpr, tpr, _ = metrics.roc(scores, labels)
    assert metrics.equal_error_rate(scores, labels) == pytest.approx(expected)
    assert fpr[0] <= 1 - tpr[0] and fpr[-1] >= 1 - tpr[-1]  # so the curve meets the line


def test_equal_error_rate_of_two_normals():
    # Same ~ N(2, 1), different ~ N(0, 1): both error rates are Phi(-1) at the threshold 1.
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, 40_000), rng.normal(0, 1, 40_000)])
    labels = np.repeat([1, 0], 40_000)
    expected = 0.5 * math.erfc(1 / math.sqrt(2))
    assert metrics.equal_error_rate(scores, labels) == pytest.approx(expected, abs=0.003)
    assert metrics.auc(scores, labels) == pytest.approx(0.5 * math.erfc(-1), abs=0.003)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "both kinds are needed"),
        ([1.0, 2.0], [1, 2], "labels must be 1"),
        ([1.0, 2.0], [1], "scores and labels must be"),
        ([], [], "P at least 1"),
    ],
)
def test_roc_refuses(scores, labels, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        metrics.roc(np.array(scores), np.array(labels, int))


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe (1998), Two-sided confidence intervals for the single proportion, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(correct, total, low, high):
    assert intervals.wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_limits_solve_the_score_equation():
    # |p - limit| = z sqrt(limit (1 - limit) / n), which defines the interval.
    z = 1.6448536269514722  # 95 % point of the normal, for 90 %
    for limit in intervals.wilson_interval(12.5, 40, confidence=0.9):
        assert abs(12.5 / 40 - limit) == pytest.approx(z * math.sqrt(limit * (1 - limit) / 40))
    with pytest.raises(ValueError, match="5 right of 4"):
        intervals.wilson_interval(5, 4)


def test_bootstrap_is_a_ratio_of_sums_over_groups():
    # Group 0: one trial, right. Group 1: three trials, wrong. Draws: {0, 0} -> 1 (chance 1/4),
    # one of each -> 1/4 (1/2), {1, 1} -> 0 (1/4).
    values, groups = np.array([1.0, 0.0, 0.0, 0.0]), np.array([7, 9, 9, 9])
    assert intervals.bootstrap_interval(values, groups) == (0.0, 1.0)
    assert intervals.bootstrap_interval(values, groups, confidence=0.4) == (0.25, 0.25)


def test_bootstrap_against_the_closed_form():
    # The mean of G group means has variance s^2 / G, with s^2 over the groups.
    rng = np.random.default_rng(0)
    means = rng.random(400)
    values = np.repeat(means, 5) + np.tile([-0.2, -0.1, 0, 0.1, 0.2], 400)
    low, high = intervals.bootstrap_interval(values, np.repeat(np.arange(400), 5), seed=1)
    half = 1.959964 * means.std() / 20
    assert (low, high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.05 * half)
    # As if trials were independent, it would be narrower.
    single = intervals.bootstrap_interval(values, np.arange(2000), seed=1)
    assert single[1] - single[0] < 0.6 * (high - low)


def test_bootstrap_is_seeded_and_needs_two_groups(unchecked_shapes):
    values, groups = np.random.default_rng(0).random(40), np.repeat(np.arange(8), 5)
    assert intervals.bootstrap_interval(values, groups, seed=3) == intervals.bootstrap_interval(
        values, groups, seed=3
    )
    assert intervals.bootstrap_interval(values, groups, seed=3) != intervals.bootstrap_interval(
        values, groups, seed=4
    )
    assert np.isnan(intervals.bootstrap_interval(values, np.zeros(40, int))).all()
    with pytest.raises(ValueError, match="each trial needs its group"):
        intervals.bootstrap_interval(values, groups[:-1])


def test_paired_difference_resolves_what_intervals_cannot(unchecked_shapes):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 40)
    hard = np.repeat(rng.random(10), 40)  # groups differ a lot
    a = (rng.random(400) < hard).astype(float)
    b = a.copy()
    wrong = np.arange(0, 400, 20)  # two a group
    a[wrong], b[wrong] = 1, 0
    difference, interval = intervals.paired_difference(a, b, groups)
    assert difference == pytest.approx(0.05)
    assert interval == pytest.approx((0.05, 0.05))
    low_a, high_b = (
        intervals.bootstrap_interval(a, groups)[0],
        intervals.bootstrap_interval(b, groups)[1],
    )
    assert low_a < high_b
    assert intervals.paired_difference(b, a, groups)[0] == pytest.approx(-0.05)
    with pytest.raises(ValueError, match="same trials"):
        intervals.paired_difference(a, b[:-1], groups)


def test_auc_eer_intervals():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 200)
    scores = rng.normal(size=400) + labels
    groups = np.repeat(np.arange(20), 20)
    both = intervals.auc_eer_intervals(scores, labels, groups, num_resamples=200)
    for interval, figure in zip(both, (metrics.auc, metrics.equal_error_rate), strict=True):
        assert interval[0] < figure(scores, labels) < interval[1]
        assert interval[1] - interval[0] < 0.2
    # Equal groups: every draw gives the same figure.
    same = np.tile(scores[:20], 20)
    (low, high), _ = intervals.auc_eer_intervals(same, labels, groups, num_resamples=20)
    assert low == pytest.approx(high) == pytest.approx(metrics.auc(scores[:20], labels[:20]))
    one_group = intervals.auc_eer_intervals(scores, labels, np.zeros(400, int), num_resamples=5)
    assert np.isnan(one_group).all()


# ---------------------------------------------------------------------------------- calibration


def noisy_pairs(count):
    labels = (np.arange(count) % 2).astype(int)
    return np.random.default_rng(0).normal(size=count) + 2.0 * labels, labels


def test_logistic_fit_is_scikit_learns():
    scores, labels = noisy_pairs(400)
    labels[:100] = 0  # far more different than same
    weights = np.where(labels == 1, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    middle = weights @ scores
    spread = np.sqrt(weights @ (scores - middle) ** 2)
    model = linear_model.LogisticRegression(C=1e4, tol=1e-12, max_iter=1000)
    model.fit(((scores - middle) / spread)[:, None], labels, weights)
    slope, offset = probabilities.fit_logistic(scores, labels)
    assert slope == pytest.approx(model.coef_[0, 0] / spread, rel=1e-6)
    assert offset == pytest.approx(
        model.intercept_[0] - model.coef_[0, 0] * middle / spread, rel=1e-6
    )


def test_logistic_fit_in_closed_form():
    # Two scores: at 1 are 30 of 40 same and 100 of 1,000 different pairs, whatever their numbers.
    scores = np.repeat([1.0, 0.0, 1.0, 0.0], [30, 10, 100, 900])
    labels = np.repeat([1, 1, 0, 0], [30, 10, 100, 900])
    slope, offset = probabilities.fit_logistic(scores, labels)
    assert offset == pytest.approx(math.log((10 / 40) / (900 / 1000)), abs=2e-3)
    assert slope + offset == pytest.approx(math.log((30 / 40) / (100 / 1000)), abs=2e-3)
    # Normal scores of variance s^2 about m0 and m1: slope (m1 - m0) / s^2, 1/2 in the middle.
    scores, labels = noisy_pairs(200_000)
    slope, offset = probabilities.fit_logistic(3 * scores + 5, labels)
    assert slope == pytest.approx(2 / 3, rel=0.02)
    assert slope * 8 + offset == pytest.approx(0, abs=0.03)


def test_logistic_fit_follows_the_unit_of_the_scores():
    scores, labels = noisy_pairs(200)
    slope, offset = probabilities.fit_logistic(scores, labels)
    for scale, shift in ((1e-12, 0.0), (1e200, 0.0), (-4.0, 100.0)):
        a, b = probabilities.fit_logistic(scale * scores + shift, labels)
        np.testing.assert_allclose(
            a * (scale * scores + shift) + b, slope * scores + offset, rtol=1e-6, atol=1e-8
        )


def test_logistic_fit_where_there_is_little_to_fit():
    scores = np.array([1.0, 2.0, 5.0, 6.0])
    slope, offset = probabilities.fit_logistic(scores, np.array([0, 0, 1, 1]))  # separable
    assert 1 < slope < 100 and slope * 3.5 + offset == pytest.approx(0, abs=1e-6)
    more = np.array([NAN, 1.0, 2.0, 5.0, INF, 6.0])
    assert probabilities.fit_logistic(more, np.array([1, 0, 0, 1, 0, 1])) == (
        slope,
        offset,
    )
    assert probabilities.fit_logistic(np.full(4, 0.3), np.array([0, 1, 0, 1])) == (0, 0)
    assert probabilities.fit_logistic(np.full(4, NAN), np.array([0, 1, 0, 1])) == (0, 0)
    assert probabilities.fit_logistic(scores, np.ones(4, int)) == (0, 0)


def test_log_loss_and_reliability_by_hand():
    logit = np.log(np.array([0.9, 0.9, 0.2, 0.6]) / np.array([0.1, 0.1, 0.8, 0.4]))
    labels = np.array([1, 1, 0, 1])
    # Each same pair weighs 1/6, the different one 1/2.
    expected = -(2 * math.log(0.9) + math.log(0.6)) / 6 - math.log(0.8) / 2
    assert probabilities.log_loss(logit, labels) == pytest.approx(expected)
    assert probabilities.log_loss(np.array([NAN, 0, INF]), np.array([1, 0, 1])) == pytest.approx(
        math.log(2)
    )
    # Two bins of mass 1/2: {0.2 (different)} and {0.6, 0.9, 0.9 (same)}.
    error = 0.5 * 0.2 + (0.4 + 0.1 + 0.1) / 6
    assert probabilities.reliability_error(logit, labels, num_bins=2) == pytest.approx(error)
    assert probabilities.reliability_error(np.zeros(8), np.arange(8) % 2) == pytest.approx(0)
    assert probabilities.reliability_error(np.full(8, NAN), np.arange(8) % 2) == pytest.approx(0)
    assert probabilities.reliability_error(np.full(8, 50.0), np.arange(8) % 2) == pytest.approx(0.5)


def test_reliability_error_is_small_where_calibrated_and_blind_to_order():
    scores, labels = noisy_pairs(100_000)
    logits = 2 * (scores - 1)  # the truth, see above
    assert probabilities.reliability_error(logits, labels) < 0.4 * math.sqrt(15 / 100_000)
    too_sure, shy = (probabilities.reliability_error(x * logits, labels) for x in (3, 1 / 3))
    assert 0.05 < too_sure < 0.2 and 0.05 < shy < 0.25
    rounded = np.round(logits[:5000])
    order = np.random.default_rng(0).permutation(5000)
    first, second = (
        probabilities.reliability_error(rounded[o], labels[o]) for o in (order, order[::-1])
    )
    assert first == pytest.approx(second, abs=1e-12)


# ------------------------------------------------------------------------------- identification


def test_false_alarm_threshold_by_hand():
    scores = np.arange(20.0)  # 10 % of 20 are two: 18 and 19 may raise an alarm
    threshold = metrics.false_alarm_threshold(scores, 0.1)
    assert threshold == np.nextafter(17, 18) and (scores >= threshold).sum() == 2
    assert math.isnan(metrics.false_alarm_threshold(scores, 0.01))
    assert not math.isnan(metrics.false_alarm_threshold(scores, 0.05))
    tied = np.array([5.0, 5.0, 5.0, *range(5), *range(2)])  # one of ten may, three would
    assert metrics.false_alarm_threshold(tied, 0.1) == np.nextafter(5, 6)
    assert metrics.false_alarm_threshold(np.array([NAN, *range(19)]), 0.1) == np.nextafter(17, 18)
    assert metrics.false_alarm_threshold(np.full(10, NAN), 0.2) == INF
    assert metrics.false_alarm_threshold(np.arange(30.0), 0.1) == np.nextafter(26, 27)  # 3 may
    with pytest.raises(ValueError, match="a rate in"):
        metrics.false_alarm_threshold(scores, 1.0)


def test_identification_by_hand():
    scores = [[3, 1], [1, 3], [2, 2], [0.5, 0.4], [NAN, 9]]
    identified, alarms = metrics.identification(
        np.array(scores), np.array([0, 0, 1, 0, 1]), np.array([[1, 0], [2, 5], [NAN, 0]]), 1.5
    )
    np.testing.assert_array_equal(identified, [1, 0, 0.5, 0, 0])
    assert alarms == pytest.approx(2 / 3)


# ------------------------------------------------------------------------------------ retrieval


def retrieval_by_brute_force(scores, relevant, own, depths):
    """Means over all orders of images that tie."""
    others = [j for j in range(len(scores)) if j != own]
    wanted = sum(relevant[j] for j in others)
    recalls, averages = [], []
    for shuffled in itertools.permutations(others):
        ranked = [relevant[j] for j in sorted(shuffled, key=lambda j: -scores[j])]
        recalls.append([any(ranked[:k]) for k in depths])
        hits = [sum(ranked[: i + 1]) / (i + 1) for i in range(wanted) if ranked[i]]
        averages.append(sum(hits) / wanted)
    return np.mean(recalls, 0), np.mean(averages)


def test_retrieval_against_all_orders_of_ties():
    rng = np.random.default_rng(0)
    classes = np.array([0, 0, 0, 1, 1, 2, 2])
    scores = rng.integers(0, 3, (7, 7)).astype(float)
    scores[3] = 1.0  # all tied
    scores[4, 0] = NAN
    own = np.arange(7)
    scores[own, own] = 99.0  # must not be ranked
    relevant = classes[:, None] == classes
    recalls, average = metrics.retrieval(scores, relevant, own, (1, 2, 4))
    scores[4] = 0.0
    for i in range(7):
        expected = retrieval_by_brute_force(scores[i], relevant[i], i, (1, 2, 4))
        np.testing.assert_allclose(recalls[i], expected[0], atol=1e-12)
        assert average[i] == pytest.approx(expected[1], abs=1e-12)
    np.testing.assert_allclose(recalls[[3, 4], 0], 1 / 6)  # chance
    assert relevant.diagonal().all()  # the argument is left as it was


def test_retrieval_without_ties_by_a_loop():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 4, 60)
    scores, rows = rng.normal(size=(9, 60)), rng.permutation(60)[:9]
    recalls, average = metrics.retrieval(scores, classes[rows][:, None] == classes, rows)
    for b in range(9):
        ranked = [classes[j] == classes[rows[b]] for j in np.argsort(-scores[b]) if j != rows[b]]
        np.testing.assert_array_equal(recalls[b], [any(ranked[:k]) for k in (1, 5, 10)])
        wanted = sum(ranked)
        precise = [np.mean(ranked[: i + 1]) for i in range(wanted) if ranked[i]]
        assert average[b] == pytest.approx(sum(precise) / wanted)
    with pytest.raises(ValueError, match="query 0 has no other image"):
        metrics.retrieval(np.zeros((1, 3)), np.array([[True, False, False]]), np.array([0]))


def test_bins_of_the_reliability_diagram():
    """Two bins of mass 1/2: the different pair, and the three same ones."""
    logits = np.log(np.array([0.9, 0.9, 0.2, 0.6]) / np.array([0.1, 0.1, 0.8, 0.4]))
    mean, share = probabilities.reliability_bins(logits, np.array([1, 1, 0, 1]), num_bins=2)
    np.testing.assert_allclose(mean, [0.2, 0.8])
    np.testing.assert_array_equal(share, [0, 1])
