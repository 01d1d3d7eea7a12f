"""Calibration: false accepts and thresholds by hand and by enumeration, probabilities, halves."""

import itertools
import math

import numpy as np
import pytest

from siamese_jax.evaluation import calibration, probabilities

# Four pictures of two classes, rows are probes. Impostor scores of the probes:
# 0: 1 2 | 1: 2 2 | 2: 1 4 | 3: 3 3.
SCORES = np.array([[9.0, 8, 1, 2], [8, 9, 2, 2], [1, 4, 9, 5], [3, 3, 5, 9]])
CLASSES = np.array([0, 0, 1, 1])
IMPOSTORS = CLASSES[:, None] != CLASSES


@pytest.mark.parametrize(
    ("threshold", "one", "two"),
    [
        (1.0, 1.0, 1.0),
        (
            1.5,
            6 / 8,
            1.0,
        ),  # both 1s are rejected; of both references of a probe one is accepted still
        (2.0, 6 / 8, 1.0),  # a score equal to the threshold is accepted
        (2.5, 3 / 8, 2 / 4),
        (3.0, 3 / 8, 2 / 4),
        (3.5, 1 / 8, 1 / 4),
        (4.0, 1 / 8, 1 / 4),
        (4.1, 0.0, 0.0),
    ],
)
def test_false_accepts_by_hand(threshold, one, two):
    rates = [calibration.false_accept_rate(SCORES, IMPOSTORS, threshold, n) for n in (1, 2)]
    np.testing.assert_allclose(rates, [one, two], atol=1e-12)


@pytest.mark.parametrize(
    ("rate", "references", "threshold"),
    [
        (0.9, 1, 1.5),
        (0.75, 1, 1.5),  # exactly reached counts
        (0.74, 1, 2.5),
        (0.375, 1, 2.5),
        (0.37, 1, 3.5),  # the two scores 3 go together: 1 / 8 is what is left
        (0.125, 1, 3.5),
        (0.12, 1, np.nextafter(4.0, np.inf)),
        (0.5, 2, 2.5),
        (0.49, 2, 3.5),
        (0.25, 2, 3.5),
        (0.24, 2, np.nextafter(4.0, np.inf)),
    ],
)
def test_thresholds_by_hand(rate, references, threshold):
    found = calibration.false_accept_threshold(SCORES, IMPOSTORS, rate, references)
    assert found == threshold


@pytest.mark.parametrize("references", [1, 2, 3, 5, 7])
def test_false_accepts_are_those_of_every_choice_of_references(references):
    rng = np.random.default_rng(references)
    classes = np.repeat(np.arange(4), [2, 2, 3, 2])  # 6 or 7 impostors a probe
    references = min(references, 6)
    impostors = classes[:, None] != classes
    scores = rng.integers(0, 6, (9, 9)).astype(float)  # many ties
    for threshold in range(7):
        shares = []
        for row, others in zip(scores, impostors, strict=True):
            choices = list(itertools.combinations(row[others], references))
            shares.append(np.mean([max(choice) >= threshold for choice in choices]))
        found = calibration.false_accept_rate(scores, impostors, threshold, references)
        assert math.isclose(found, np.mean(shares), abs_tol=1e-12)


@pytest.mark.parametrize("references", [1, 3, 20])
def test_the_threshold_is_the_lowest_that_will_do(references):
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(6), 5)
    impostors = classes[:, None] != classes
    scores = np.round(rng.normal(size=(30, 30)), 1)
    for rate in (0.04, 0.1, 0.5):
        limit = calibration.false_accept_threshold(scores, impostors, rate, references)
        accepted = calibration.false_accept_rate(scores, impostors, limit, references)
        assert accepted <= rate + 1e-12
        lower = scores[impostors & (scores < limit)].max()
        assert calibration.false_accept_rate(scores, impostors, lower, references) > rate


def planted(num_classes=24, count=6, seed=0, gap=2.0):
    """Scores of pictures of classes, and the classes: N(gap, 1) of one class, N(0, 1) of two."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(num_classes), count)
    scores = rng.normal(size=(len(classes),) * 2) + gap * (classes[:, None] == classes)
    return (scores + scores.T) / math.sqrt(2), classes


def make(scores, classes, rate=0.05, **changes):
    return calibration.calibrate(
        lambda rows: scores[np.ix_(rows, rows)],
        classes,
        rate,
        **{"source": "planted", "fingerprint": "x", **changes},
    )


def halves(scores, classes, seed=0):
    """Rows that are calibrated on, and rows held out."""
    asked = []

    def score_all(rows):
        asked.append(rows)
        return scores[np.ix_(rows, rows)]

    calibration.calibrate(score_all, classes, 0.05, source="planted", fingerprint="x", seed=seed)
    return asked


def test_the_halves_share_no_class():
    scores, classes = planted()
    used, held = halves(scores, classes)
    assert len(used) + len(held) == len(classes)
    assert not set(classes[used]) & set(classes[held]) and len(set(classes[used])) == 12
    assert not np.array_equal(used, halves(scores, classes, seed=1)[0])


def test_threshold_and_curve_come_from_the_calibration_classes_only():
    scores, classes = planted()
    made = make(scores, classes)
    used, held = halves(scores, classes)
    strange = scores.copy()
    strange[np.ix_(held, held)] += np.random.default_rng(1).normal(size=(len(held),) * 2)
    other = make(strange, classes)
    assert (other.thresholds, other.slope, other.offset) == (
        made.thresholds,
        made.slope,
        made.offset,
    )
    for name in ("reliability_error", "false_accepts", "false_rejects", "detection_rate"):
        assert other.held_out[name] != made.held_out[name]
    impostors = classes[used][:, None] != classes[used]
    one = scores[np.ix_(used, used)]
    sizes = [n for n, _ in made.thresholds]
    assert sizes == [1, 2, 3, 4, 5, 7, 10, 20, 30, 40, 50, 66]
    for n, limit in made.thresholds:
        assert limit == calibration.false_accept_threshold(one, impostors, 0.05, n)
    limits = [limit for _, limit in made.thresholds]
    assert limits == sorted(limits)
    np.testing.assert_allclose((one[impostors] >= limits[0]).mean(), 0.05, atol=0.001)
    first, second = np.triu_indices(len(used), 1)
    labels = classes[used][first] == classes[used][second]
    assert (made.slope, made.offset) == probabilities.fit_logistic(one[first, second], labels)


def test_probabilities_are_those_of_the_planted_scores():
    """Of N(sqrt 2 gap, 1) against N(0, 1) at even odds the logit is d score - d^2 / 2, d the mean."""
    made = make(*planted(num_classes=60, count=10))
    d = 2 * math.sqrt(2)
    assert math.isclose(made.slope, d, rel_tol=0.1) and math.isclose(made.offset, -4, rel_tol=0.1)
    assert made.held_out["reliability_error"] < 0.03
    probability = made.probability(np.array([-1e9, 0.7, 1e9]))
    middle = 1 / (1 + math.exp(-(made.slope * 0.7 + made.offset)))
    np.testing.assert_allclose(probability, [0, middle, 1], rtol=1e-12)


def test_held_back_figures_by_hand(monkeypatch):
    """Where same pairs score 1 and different ones 0 nothing is wrong; upside down nothing is right."""
    classes = np.repeat(np.arange(8), 3)
    scores = (classes[:, None] == classes).astype(float)
    made = make(scores, classes, rate=0.1)
    assert 0 < made.thresholds[0][1] < 1e-9  # just above the highest impostor, 0
    assert made.held_out["false_accepts"] == made.held_out["false_rejects"] == 0
    assert (
        made.held_out["enrolled"],
        made.held_out["detection_rate"],
        made.held_out["false_alarms"],
    ) == (
        2,
        1,
        0,
    )
    rng = np.random.default_rng(0)
    found = calibration.open_set(scores, classes, lambda n: 1.0 + n, rng)
    assert (found["detection_rate"], found["false_alarms"]) == (0, 0)  # beyond every score
    found = calibration.open_set(-scores, classes, lambda n: -9.0, rng)
    assert (found["detection_rate"], found["false_alarms"]) == (0, 1)
    asked = []
    calibration.open_set(scores, classes, lambda n: asked.append(n) or 0.5, rng)
    assert set(asked) == {4}  # half of the classes, one reference each


def test_what_a_set_cannot_show_is_refused():
    scores, classes = planted(num_classes=8, count=5)
    assert make(scores, classes, rate=0.05).pictures == 20
    small = r"0\.049 cannot be shown by 20 pictures \(of planted,.*the smallest is 0\.05; give more"
    with pytest.raises(ValueError, match=small):
        make(scores, classes, rate=0.049)
    scores, classes = planted(num_classes=6, count=5)  # 15 are not held out: 1 / 15, rounded up
    with pytest.raises(ValueError, match=r"the smallest is 0\.067;"):
        make(scores, classes, rate=0.06)
    assert make(scores, classes, rate=0.067).rate == 0.067
    for rate in (0, 1, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="lies between 0 and 1"):
            make(scores, classes, rate=rate)
    with pytest.raises(ValueError, match="planted has 3 classes: at least 4"):
        make(scores[:15, :15], classes[:15])
    with pytest.raises(ValueError, match="a class has 1 picture"):
        make(scores, np.append(classes[:-1], 9))
    with pytest.raises(ValueError, match="no higher"):
        make(-scores, classes, rate=0.2)
    with pytest.raises(ValueError, match="no higher"):
        make(np.zeros_like(scores), classes, rate=0.2)


def test_a_large_set_is_cut_by_whole_classes(monkeypatch):
    monkeypatch.setattr(calibration, "MAX_PICTURES", 32)
    made = make(*planted())  # 12 classes of 6 a half: 5 fit
    assert (made.classes, made.pictures) == (5, 30)
    assert (made.held_out["classes"], made.held_out["pictures"]) == (5, 30)
    with pytest.raises(
        ValueError, match=r"by 30 pictures .*smallest is 0\.034; give a higher rate"
    ):
        make(*planted(), rate=0.02)
