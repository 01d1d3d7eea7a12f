"""Open-set identification: its lists, planted systems, and a loop as reference."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from siamese_jax.evaluation import protocols as protocols_lib
from siamese_jax.evaluation import scoring
from siamese_jax.evaluation import trials as trial_lists
from siamese_jax.experiments import evaluate
from tests.planted import EMBEDDER, constant, contextual, distance, make_set, nan, perfect, project


def test_open_set_keeps_what_it_promises(small):
    trials = trial_lists.open_set(small, k_shot=2, seed=3)
    enrolled = small.classes[trials.supports]  # (N, K)
    assert enrolled.shape == (10, 2) and (enrolled[:, :1] == enrolled).all()
    assert len(set(enrolled[:, 0])) == 10 and trials.scope == "10 of 20 classes enrolled"
    np.testing.assert_array_equal(small.classes[trials.queries], enrolled[trials.answers, 0])
    assert not set(small.classes[trials.impostors]) & set(enrolled[:, 0])
    used = np.concatenate([trials.supports.ravel(), trials.queries, trials.impostors])
    assert sorted(used) == list(range(80))  # every image, once
    assert trial_lists.open_set(small, k_shot=2, seed=3).hash == trials.hash == "f6f6aab396ba"
    assert trial_lists.open_set(small, k_shot=2, seed=4).hash != trials.hash
    with pytest.raises(ValueError, match="a probe is a reference"):
        dataclasses.replace(trials, impostors=trials.supports.ravel())
    with pytest.raises(ValueError, match="0 of them with 5 images or more"):
        trial_lists.open_set(small, k_shot=4)
    uneven = trial_lists.open_set(make_set((4,), counts=[1, 3, 1, 3]), k_shot=2)
    assert uneven.scope == "2 of 4 classes enrolled" and uneven.grouped_by == "class"


def many(seed=0):
    """400 images of 40 classes: 200 impostors, so that 1 % can be shown."""
    return make_set((10,) * 4, counts=[10] * 40)


def elsewhere():
    """200 other images of 20 classes."""
    others = make_set((10, 10), counts=[10] * 20)
    others.images[:, 1] = 7
    return others


def test_open_set_of_planted_systems():
    image_set = many()
    trials = trial_lists.open_set(image_set)
    best = protocols_lib.evaluate_open_set(perfect, trials, validation=elsewhere())
    assert best.accuracy == 1 and best.num_trials == 180 and best.n_way == 20 and best.k_shot == 1
    figures = best.figures
    assert figures["rank_1"] == 1 and figures["num_impostors"] == 200
    assert figures["at"]["1 %"]["false_alarms"] <= 0.01
    assert figures["at"]["1 %"]["transferred_dir"] == 1
    assert math.isnan(figures["at"]["0.1 %"]["dir"])
    assert (
        "0.1 % false alarms need 1,000 impostors or more; the test set has 200" in figures["notes"]
    )
    flat = protocols_lib.evaluate_open_set(constant, trials)
    assert flat.accuracy == 0 and flat.figures["rank_1"] == pytest.approx(1 / 20)
    assert flat.figures["at"]["10 %"]["false_alarms"] == 0
    assert math.isnan(flat.figures["at"]["10 %"]["transferred_threshold"])
    broken = protocols_lib.evaluate_open_set(nan, trials)
    assert broken.accuracy == 0 and broken.diagnostics["nonfinite_scores"] == 380 * 20
    line = evaluate.results_table([best]).splitlines()[1]
    assert "rank 1 100.00 %" in line and "20 of 40 classes enrolled" in line
    plain = json.loads(json.dumps(best.to_dict(), allow_nan=False))
    assert plain["figures"]["at"]["0.1 %"]["dir"] is None
    assert plain["figures"]["at"]["0.1 %"]["transferred_threshold"] is None


@pytest.mark.parametrize("shot_aggregation", ["max", "prototype"])
@pytest.mark.slow
def test_open_set_by_a_loop(shot_aggregation, monkeypatch):
    image_set = many()
    trials = trial_lists.open_set(image_set, k_shot=2, seed=1)
    others = elsewhere()
    system = scoring.from_embedder(lambda images: np.sin(project(images)), distance)
    result = protocols_lib.evaluate_open_set(
        system, trials, validation=others, seed=2, shot_aggregation=shot_aggregation
    )
    monkeypatch.setattr(scoring, "_LARGE_TILE", 13)
    tiled = protocols_lib.evaluate_open_set(
        system, trials, validation=others, seed=2, shot_aggregation=shot_aggregation
    )
    np.testing.assert_allclose(tiled.scores, result.scores, rtol=1e-9)

    def scores_of(rows, supports, images=image_set.images):
        h = np.sin(project(images))
        if shot_aggregation == "prototype":
            return distance(h[rows], h[supports].mean(1))
        return distance(h[rows], h[supports.ravel()]).reshape(len(rows), -1, 2).max(2)

    scores = scores_of(trials.queries, trials.supports)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-9)
    named = scores.argmax(1) == trials.answers
    alarms = scores_of(trials.impostors, trials.supports).max(1)
    names = trial_lists.impostors(others, 20, k_shot=2, seed=2)
    met = scores_of(names.queries, names.supports, others.images)
    assert met.shape == (200, 40) and (names.other.sum(1) == 38).all()
    met = met[names.other].reshape(200, 38)

    def alarm_rate(threshold):  # that none of 20 of the 38 names is one that alarms
        return 1 - stats.hypergeom.pmf(0, 38, (met > threshold + 1e-9).sum(1), 20).mean()

    candidates = np.unique(met)
    transferred = next(t for t in candidates if alarm_rate(t) <= 0.1)
    own = np.sort(scores_of(trials.impostors, trials.supports).max(1))[-21]  # 20 of 200 above it
    row = result.figures["at"]["10 %"]
    above = candidates[np.searchsorted(candidates, transferred) + 1]
    assert transferred < row["transferred_threshold"] <= above
    for prefix, threshold in (("", own), ("transferred_", transferred)):
        assert prefix or row[f"{prefix}threshold"] == pytest.approx(threshold)
        threshold = row[f"{prefix}threshold"]
        identified = named & (scores.max(1) >= threshold)
        assert row[f"{prefix}dir"] == pytest.approx(identified.mean())
        assert row[f"{prefix}false_alarms"] == pytest.approx((alarms >= threshold).mean())
    assert row["false_alarms"] == 0.1


def test_a_transferred_threshold_is_for_as_many_names_as_the_test_enrols():
    """Of five classes two used to be enrolled, whose threshold ten names reached far too often."""
    rng = np.random.default_rng(0)
    images = make_set((20,), counts=[10] * 20)
    few = make_set((5,), counts=[10] * 5)
    few.images[:, 1] = 7
    h = {0: rng.normal(size=(200, 6)), 7: rng.normal(size=(50, 6))}  # by chance alone

    def embed(pictures):
        rows = pictures[:, 0, 2, 0].astype(int)
        return np.stack(
            [h[int(part)][row] for part, row in zip(pictures[:, 1, 0, 0], rows, strict=True)]
        )

    system = scoring.from_embedder(embed, distance)
    alarms = []
    for seed in range(10):
        trials = trial_lists.open_set(images, seed=seed)
        at = protocols_lib.evaluate_open_set(system, trials, validation=few, seed=seed).figures[
            "at"
        ]
        alarms.append(at["10 %"]["transferred_false_alarms"])
    assert 0.04 < np.mean(alarms) < 0.2
    small = make_set((5,), counts=[2] * 5)
    small.images[:, 1] = 7
    notes = protocols_lib.evaluate_open_set(system, trials, validation=small).figures["notes"]
    assert (
        "a threshold for 10 names needs as many of other classes; an image of the validation set meets 8"
    ) in notes
    poor = make_set((5,), counts=[1] * 5)
    with pytest.raises(ValueError, match="has 0 classes with 2 images or more"):
        trial_lists.impostors(poor, 3, k_shot=2)


def test_names_of_impostors_share_no_image():
    names = trial_lists.impostors(elsewhere(), 50, k_shot=3, seed=1)
    assert names.supports.shape == (60, 3)  # ceil(50 / 19) = 3 of each class
    assert len(np.unique(names.supports)) == 180
    np.testing.assert_array_equal(
        elsewhere().classes[names.supports], names.support_classes[:, None].repeat(3, 1)
    )
    with pytest.raises(ValueError, match="support_classes"):
        dataclasses.replace(names, support_classes=names.support_classes[1:])


@pytest.mark.parametrize("kind", ["context", "finetune"])
def test_open_set_of_whole_support_sets_in_parts(kind, monkeypatch):
    trials = trial_lists.open_set(many(), k_shot=2)
    calls = []
    system, shot_aggregation = (
        (contextual(calls), "mean") if kind == "context" else (EMBEDDER, "finetune")
    )
    whole = protocols_lib.evaluate_open_set(system, trials, shot_aggregation=shot_aggregation)
    calls.clear()
    monkeypatch.setattr(scoring, "_OF_CLASSES", 20 * 2 * 50)
    parts = protocols_lib.evaluate_open_set(system, trials, shot_aggregation=shot_aggregation)
    assert set(calls) <= {((1, 50, 3), (1, 20, 2, 3))}  # 360 probes, the last part filled up
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-5, atol=1e-5)
    assert parts.shot_aggregation == (None if kind == "context" else "finetune")
    assert parts.figures["rank_1"] == whole.figures["rank_1"]


def test_open_set_with_too_few_impostors_has_no_accuracy(small):
    few = protocols_lib.evaluate_open_set(perfect, trial_lists.open_set(small))
    assert math.isnan(few.accuracy) and np.isnan(few.wilson).all() and few.figures["rank_1"] == 1
    assert few.figures["at"]["10 %"]["dir"] == 1 and len(few.figures["notes"]) == 2
    assert json.loads(json.dumps(few.to_dict(), allow_nan=False))["accuracy"] is None
    assert "nan" in evaluate.results_table([few])
    same = trial_lists.open_set(small)
    with pytest.raises(ValueError, match="from other classes than the test's"):
        protocols_lib.evaluate_open_set(perfect, same, validation=small)
