"""Bounds of false accepts: the promised confidence is met in simulation; the plain threshold has none.

A score of two pictures is a + b + noise, of classes with a, b from N(0, 1): some classes are taken for
others more easily. So the rate of a threshold on fresh classes is an integral, taken here by quadrature.
"""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from siamese_jax.evaluation import bounds, calibration

NOISE = 0.5
RATE, CONFIDENCE = 0.1, 0.9
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def fresh_rate(threshold, references):
    """False-accept rate with references of so many fresh classes."""
    below = norm.cdf((threshold - NODES) / math.hypot(1, NOISE)) ** references
    return 1 - WEIGHTS @ below


def rate_of(threshold, gallery):
    """The same with the references of a gallery."""
    below = norm.cdf((threshold - NODES[:, None] - gallery) / NOISE).prod(1)
    return 1 - WEIGHTS @ below


def population(rng, num_classes, count=2):
    """Scores of all pictures with all, the classes, and what each class adds."""
    ease = rng.normal(size=num_classes)
    classes = np.repeat(np.arange(num_classes), count)
    noise = rng.normal(size=(len(classes),) * 2) * NOISE
    noise = np.triu(noise) + np.triu(noise, 1).T
    scores = ease[classes][:, None] + ease[classes] + noise
    return scores + 4 * (classes[:, None] == classes), classes, ease


def among(scores):
    """Numbers of pictures -> scores of every one with every one."""
    return lambda rows: scores[np.ix_(rows, rows)]


def exact_failures(units):
    """How often a bound from so many units is missed: the largest possible share below the promise."""
    shares = binom.cdf(np.arange(units), units, RATE)
    return shares[shares <= 1 - CONFIDENCE].max()


def is_share(count, draws, share):
    """Whether a count fits a share, within four standard deviations."""
    return abs(count - draws * share) <= 4 * math.sqrt(draws * share * (1 - share))


def test_a_bound_of_any_gallery_keeps_its_promise():
    rng, draws = np.random.default_rng(0), 110
    failures = np.zeros(4, int)
    for draw in range(draws):
        scores, classes, _ = population(rng, 110, count=1)
        found = bounds.bound(*(classes, RATE, CONFIDENCE, among(scores)), seed=draw)
        assert [n for n, _ in found.thresholds] == [1, 2, 3, 4] and found.classes == 110
        failures += [fresh_rate(t, n) > RATE for n, t in found.thresholds]
    for n, count in enumerate(failures, 1):
        exact = exact_failures(110 // (n + 1))
        assert exact <= 1 - CONFIDENCE and is_share(count, draws, exact), (n, count, exact)


def test_a_bound_of_one_gallery_keeps_its_promise():
    rng, draws, failures = np.random.default_rng(1), 200, 0
    gallery = np.array([-1.0, 0.0, 0.3, 2.0, 2.5])
    for draw in range(draws):
        _, classes, ease = population(rng, 40, count=1)

        noise = rng.normal(size=(len(classes), len(gallery))) * NOISE
        scores = ease[classes][:, None] + gallery + noise
        found = bounds.bound(classes, RATE, CONFIDENCE, None, scores.__getitem__, seed=draw)
        ((references, threshold),) = found.thresholds
        assert references == found.gallery == 5
        failures += rate_of(threshold, gallery) > RATE
    assert is_share(failures, draws, exact_failures(40))


def test_the_plain_threshold_promises_nothing_of_fresh_classes():
    """From 6 classes it lets too much through in many draws, and most of all for many references."""
    rng, draws = np.random.default_rng(2), 100
    rates = {1: [], 3: [], 20: []}
    for _ in range(draws):
        scores, classes, _ = population(rng, 6, count=5)
        impostors = classes[:, None] != classes
        for n, found in rates.items():
            limit = calibration.false_accept_threshold(scores, impostors, RATE, n)
            found.append(fresh_rate(limit, n))
    misses = {n: np.mean(np.array(found) > RATE) for n, found in rates.items()}
    assert misses[1] > 0.3 and misses[20] > 0.5
    assert np.mean(rates[20]) > 2 * RATE > RATE < np.mean(rates[1])


def test_references_of_one_class_alarm_no_more_than_those_of_several():
    for threshold in (0.0, 1.0, 2.0, 3.0):
        # By the probe's class and the reference's class.
        each = norm.cdf((threshold - NODES[:, None] - NODES) / NOISE)
        of_two_classes = 1 - WEIGHTS @ ((each**2 @ WEIGHTS) ** 2)
        of_one_class = 1 - WEIGHTS @ (each**4 @ WEIGHTS)
        assert of_one_class <= of_two_classes <= fresh_rate(threshold, 4)


@pytest.mark.parametrize(("rate", "needed"), [(0.1, 22), (0.05, 45), (0.02, 114), (0.01, 230)])
def test_how_many_classes_a_rate_needs(rate, needed):
    """The fewest at which no alarm at all shows the rate, by hand: 0.9^22 = 0.098, 0.9^21 = 0.109."""
    assert bounds.units_needed(rate, 0.9) == needed
    assert (1 - rate) ** needed <= 0.1 < (1 - rate) ** (needed - 1)


def test_the_threshold_lies_just_above_the_scores_that_may_alarm():
    """Of 38 units one may alarm at 10 %: P(Bin(38, 0.1) < 2) = 0.095, and of 37 none: 0.104."""
    scores = np.arange(38.0)
    assert bounds.upper(scores, 0.1, 0.9) == np.nextafter(36, np.inf)
    assert bounds.upper(scores[:37], 0.1, 0.9) == np.nextafter(36, np.inf)
    assert bounds.upper(np.repeat(scores[:19], 2), 0.1, 0.9) == np.nextafter(18, np.inf)  # tied


def test_the_fewest_units_show_a_rate_with_no_alarm_however_it_is_rounded():
    """The threshold lies above all scores, also where (1 - rate)^units is 1 - confidence exactly."""
    hundredths = np.arange(1, 100) / 100
    cases = [(0.1, 0.271), (0.2, 0.488), *((r, c) for r in hundredths for c in hundredths[::9])]
    for rate, confidence in cases:
        scores = np.arange(1.0, 1 + bounds.units_needed(rate, confidence))
        assert bounds.upper(scores, rate, confidence) > scores[-1], (rate, confidence)


@pytest.mark.parametrize(
    ("rate", "confidence"), [(0, 0.9), (1, 0.9), (math.nan, 0.9), (0.1, 0), (0.1, 1)]
)
def test_a_rate_or_a_confidence_out_of_range_is_refused(rate, confidence):
    with pytest.raises(ValueError, match="lies between 0 and 1, got"):
        bounds.units_needed(rate, confidence)
    with pytest.raises(ValueError, match="lies between 0 and 1, got"):
        bounds.bound(np.arange(3), rate, confidence, None)


def planted(num_classes, rate=RATE, **more):
    scores, classes, _ = population(np.random.default_rng(5), num_classes)
    return calibration.calibrate(
        among(scores),
        classes,
        rate,
        **{"source": "planted", "fingerprint": "x", **more},
    )


def test_both_thresholds_are_reported_and_one_decides():
    made = planted(100)
    lines = calibration.describe(made)
    assert lines[-1] == (
        "bound from 100 classes: with 90 % confidence the false-accept rate on fresh classes is at most "
        f"0.1 at the threshold {made.bound.threshold(1):.3f} for one reference, "
        f"{made.bound.threshold(3):.3f} for 3, the most that they show"
    )
    assert made.threshold(1) == made.thresholds[0][1] < made.bound.threshold(1)
    strict = planted(100, decided_by="bound")
    assert strict.thresholds == made.thresholds
    assert strict.threshold(2) == made.bound.threshold(2) and strict.max_references == 3
    with pytest.raises(ValueError, match="for 4 references: 110 are needed"):
        strict.threshold(4)
    again = calibration.Calibration.of(json.loads(json.dumps(dataclasses.asdict(strict))))
    assert again == strict


def test_what_the_classes_cannot_show_is_refused():
    made = planted(43)
    assert made.bound.thresholds == ()
    expected = (
        "43 classes cannot show a false-accept rate of 0.1 with 90 % confidence for 1 reference: 44 are "
        "needed"
    )
    assert calibration.describe(made)[-1] == f"no bound: {expected}"
    with pytest.raises(ValueError, match=f"^planted: {expected}$"):
        planted(43, decided_by="bound")
    assert planted(44, decided_by="bound").max_references == 1
    for confidence in (0, 1, -1, math.nan):
        with pytest.raises(ValueError, match="a confidence lies between 0 and 1"):
            planted(44, confidence=confidence)
    with pytest.raises(ValueError, match="a threshold is one of"):
        planted(44, decided_by="luck")


def test_a_warning_where_classes_held_out_alarm_more_than_twice_as_often():
    made = planted(100)
    held_out = {**made.held_out, "false_accepts": 0.2, "false_alarms": 0.2}
    assert calibration.warnings(dataclasses.replace(made, held_out=held_out)) == ()
    held_out["false_alarms"] = 0.21
    (line,) = calibration.warnings(dataclasses.replace(made, held_out=held_out))
    assert line.startswith(
        "WARNING: on the classes held out, false alarms of galleries 0.2100: more"
    )
    held_out["false_accepts"] = 0.3
    (line,) = calibration.warnings(dataclasses.replace(made, held_out=held_out))
    assert "false accepts of pairs 0.3000 and false alarms of galleries 0.2100" in line
    assert line in calibration.describe(dataclasses.replace(made, held_out=held_out))
