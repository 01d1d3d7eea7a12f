"""The protocols: frozen trials and their invariants; planted systems whose figures are known."""

import dataclasses
import json
import math
import types

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import special, stats

from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation import (
    baselines,
    finetune,
    lists,
    metrics,
    pairs_csv,
    probabilities,
    scoring,
)
from siamese_jax.evaluation import protocols as protocols_lib
from siamese_jax.evaluation import trials as trial_lists
from siamese_jax.evaluation.intervals import cluster_interval
from siamese_jax.evaluation.protocols import retrieval
from siamese_jax.experiments import evaluate

SIZES = (6, 5, 9)  # characters of each alphabet
DRAWERS = 4


def make_set(sizes=SIZES, counts=None, kind="ink"):
    """A set whose first pixels hold class, drawer and row, so that a system can know the truth."""
    num_classes = sum(sizes)
    counts = np.full(num_classes, DRAWERS) if counts is None else np.asarray(counts)
    classes = np.repeat(np.arange(num_classes), counts).astype(np.int32)
    drawers = np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32)
    images = np.zeros((len(classes), 4, 5, 1), np.uint8)
    rows = np.arange(len(classes))
    images[:, 0, :4, 0] = np.stack([classes, drawers, rows % 256, rows // 256], 1)
    return ImageSet(
        images=images,
        classes=classes,
        drawers=drawers,
        class_names=tuple(f"c{i:02d}" for i in range(num_classes)),
        class_alphabets=np.repeat(np.arange(len(sizes)), sizes).astype(np.int32),
        alphabet_names=tuple(f"alphabet{i}" for i in range(len(sizes))),
        kind=kind,
        name="small",
    )


@pytest.fixture(scope="module")
def small():
    return make_set()


def class_of(images):
    return images[:, 0, 0, 0].astype(float)


def perfect(queries, supports):
    return -np.abs(class_of(queries)[:, None] - class_of(supports))


def constant(queries, supports):
    return np.full((len(queries), len(supports)), 0.3)


def nan(queries, supports):
    return np.full((len(queries), len(supports)), np.nan)


def project(images):
    """A fixed linear embedding, (B, 3)."""
    weights = np.random.default_rng(0).normal(size=(20, 3))
    return images.reshape(len(images), -1) @ weights


EMBEDDER = scoring.from_embedder(project, lambda hq, hs: hq @ hs.T)


# --------------------------------------------------------------------------------------- trials


@pytest.mark.parametrize(
    ("n_way", "k_shot", "num_trials", "shape"),
    [
        (5, 1, 60, (12, 5)),  # 20 an alphabet: 4 runs of 5
        (4, 2, 18, (6, 3)),  # 6 an alphabet: 2 runs of 3
        (5, 3, 20, (20, 1)),  # 20 is not divisible by 3
        (1, 1, 6, (6, 1)),
    ],
)
def test_within_trials_keep_what_they_promise(small, n_way, k_shot, num_trials, shape):
    trials = trial_lists.within_trials(
        small, n_way=n_way, k_shot=k_shot, num_trials=num_trials, seed=3
    )
    assert trials.num_trials == num_trials and trials.queries.shape == shape
    assert trials.supports.shape == (shape[0], n_way, k_shot)
    support_classes = small.classes[trials.supports]  # (R, N, K)
    assert (support_classes == support_classes[..., :1]).all()
    support_classes = support_classes[..., 0]
    assert all(len(set(run)) == n_way for run in support_classes)  # distinct classes
    alphabets = small.class_alphabets[support_classes]
    assert (alphabets == alphabets[:, :1]).all()  # of one alphabet
    runs_of = np.bincount(alphabets[:, 0], minlength=3)
    assert runs_of.max() - runs_of.min() <= 1  # balanced
    right = np.take_along_axis(support_classes, trials.answers, 1)
    np.testing.assert_array_equal(small.classes[trials.queries], right)
    assert all(len(set(run)) == len(run) for run in trials.answers)  # each asked once
    query_drawers = small.drawers[trials.queries]
    support_drawers = small.drawers[trials.supports]
    assert (query_drawers == query_drawers[:, :1]).all()  # one drawer a side
    assert (support_drawers == support_drawers[:, :1]).all()  # K of them for the supports
    for asked, shown in zip(query_drawers[:, 0], support_drawers[:, 0], strict=True):
        assert len({asked, *shown}) == k_shot + 1
    np.testing.assert_array_equal(trials.groups, np.repeat(alphabets[:, :1], shape[1], 1))
    assert trials.grouped_by == "alphabet" and trials.scope == "within alphabets"


def test_within_trials_draw_evenly(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=6000, seed=0)
    # Of 1,200 runs each of 12 ordered drawer pairs has 100 +- 10, each position of the answers 1/5.
    pairs = 10 * small.drawers[trials.queries[:, 0]] + small.drawers[trials.supports[:, 0, 0]]
    counts = np.unique(pairs, return_counts=True)[1]
    assert len(counts) == 12 and abs(counts - 100).max() < 45
    assert (np.bincount(trials.answers.ravel()) == 1200).all()
    first = np.bincount(trials.answers[:, 0], minlength=5)
    assert abs(first - 240).max() < 65
    shown = np.bincount(small.classes[trials.supports].ravel())
    assert (shown[6:11] == 400).all()  # all five of the alphabet of five
    assert abs(shown[11:] - 2000 / 9).max() < 60  # five of nine


def test_trials_are_a_function_of_the_seed(small):
    first = trial_lists.within_trials(small, n_way=4, num_trials=30, seed=1)
    again = trial_lists.within_trials(small, n_way=4, num_trials=30, seed=1)
    other = trial_lists.within_trials(small, n_way=4, num_trials=30, seed=2)
    np.testing.assert_array_equal(first.queries, again.queries)
    np.testing.assert_array_equal(first.supports, again.supports)
    assert first.hash == again.hash != other.hash
    assert (first.supports != other.supports).any()
    part = small.select(drawers=[1, 2])
    assert trial_lists.within_trials(part, n_way=4, num_trials=30, seed=1).hash != first.hash


def test_hashes_are_golden(small):
    """They name trials in published tables, so they must never move."""
    by_hand = lists.Trials(
        name="hand",
        scope="",
        images=np.zeros((6, 2, 2, 1), np.uint8),
        fingerprint="abc",
        supports=np.arange(4).reshape(2, 2, 1),
        queries=np.array([[4], [5]]),
        answers=np.array([[0], [1]]),
        groups=np.array([[0], [1]]),
        group_names=("x", "y"),
        grouped_by="run",
    )
    assert by_hand.hash == "3b552668e53a"
    narrow = {f: getattr(by_hand, f).astype(np.int32) for f in ("supports", "queries", "answers")}
    assert dataclasses.replace(by_hand, **narrow).hash == by_hand.hash
    assert dataclasses.replace(by_hand, fingerprint="abd").hash != by_hand.hash
    assert dataclasses.replace(by_hand, answers=1 - by_hand.answers).hash != by_hand.hash
    assert trial_lists.within_trials(small, n_way=5, num_trials=60, seed=0).hash == "6729a97e3df8"
    assert trial_lists.between_trials(small, n_way=9, num_trials=60, seed=0).hash == "13e031bda463"
    assert trial_lists.verification_pairs(small, num_pairs=60, seed=0).hash == "32e9fca0db42"


def test_koch_trials_ask_every_character_of_two_runs_an_alphabet():
    trials = trial_lists.koch_trials(make_set((20, 25)), seed=0)
    assert trials.supports.shape == (4, 20, 1) and trials.num_trials == 80
    assert all(sorted(run) == list(range(20)) for run in trials.answers)
    assert trial_lists.koch_trials(make_set((20,) * 10), seed=0).num_trials == 400


def test_the_validation_trials_of_koch_are_320():
    trials = trial_lists.within_trials(make_set((20,) * 10), n_way=20, num_trials=320)
    assert trials.queries.shape == (20, 16)  # two runs an alphabet


def test_n_way_above_an_alphabet_names_both(small):
    with pytest.raises(ValueError, match="n_way 6 is above the 5 classes of alphabet 'alphabet1'"):
        trial_lists.within_trials(small, n_way=6)
    trials = trial_lists.within_trials(small, n_way=6, num_trials=24, skip_small=True)
    assert trials.group_names == ("alphabet0", "alphabet2")
    assert trials.scope == "within alphabets of 6 or more"
    with pytest.raises(ValueError, match="none is large enough"):
        trial_lists.within_trials(small, n_way=10, skip_small=True)
    with pytest.raises(ValueError, match="n_way 21 is not in 1 .. 20, the number of classes"):
        trial_lists.between_trials(small, n_way=21)


def test_chosen_alphabets(small):
    trials = trial_lists.within_trials(small, n_way=6, num_trials=12, alphabets=["alphabet2"])
    assert set(small.alphabets[trials.queries].ravel()) == {2}
    assert trials.grouped_by == "class"  # one alphabet: classes are the groups
    names = np.array(trials.group_names)[trials.groups]
    np.testing.assert_array_equal(names, np.array(small.class_names)[small.classes[trials.queries]])
    with pytest.raises(ValueError, match="unknown alphabet 'alphabet9'; did you mean alphabet"):
        trial_lists.within_trials(small, alphabets=["alphabet9"])


def test_too_few_drawers_or_pictures(small):
    with pytest.raises(ValueError, match="'alphabet0' has 4 drawers .* and 5 are needed"):
        trial_lists.within_trials(small, n_way=3, k_shot=4)
    uneven = make_set((4,), counts=[3, 1, 5, 2], kind="photo")
    with pytest.raises(ValueError, match="class 'c01' has 1 images, and 2 are needed"):
        trial_lists.within_trials(uneven, n_way=4)


def test_photos_give_pictures_of_their_own():
    uneven = make_set((4, 4), counts=[3, 7, 5, 3, 3, 4, 9, 3], kind="photo")
    trials = trial_lists.within_trials(uneven, n_way=4, k_shot=2, num_trials=800, seed=0)
    rows = np.concatenate([trials.queries.ravel(), trials.supports.ravel()])
    assert set(rows) == set(range(len(uneven)))  # also the ninth picture of the class of nine
    assert (np.diff(np.sort(trials.supports, -1), axis=-1) > 0).all()  # two different ones
    pictures = uneven.drawers[trials.queries]
    assert (pictures != pictures[:, :1]).any()


def test_between_trials_mix_alphabets_and_keep_drawers_apart(small):
    trials = trial_lists.between_trials(small, n_way=12, k_shot=2, num_trials=120, seed=0)
    assert trials.queries.shape == (10, 12)
    classes = small.classes[trials.supports[..., 0]]
    assert all(len(set(run)) == 12 for run in classes)
    assert all(len(set(small.class_alphabets[run])) == 3 for run in classes)
    right = np.take_along_axis(trials.supports, trials.answers[..., None], 1)
    np.testing.assert_array_equal(small.classes[trials.queries], small.classes[right[..., 0]])
    assert (small.drawers[right] != small.drawers[trials.queries][..., None]).all()
    np.testing.assert_array_equal(trials.groups, small.alphabets[trials.queries])
    assert trials.scope == "between alphabets"


def test_curve_goes_between_alphabets_where_it_must(small):
    lists = trial_lists.curve_trials(small, num_trials=30)
    assert [t.n_way for t in lists] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert [t.scope.split()[0] for t in lists] == ["within"] * 3 + ["between"] * 7
    # Beside a set with an alphabet of three characters:
    lists = trial_lists.curve_trials(small, num_trials=30, largest_within=3)
    assert [t.scope.split()[0] for t in lists] == ["within"] * 2 + ["between"] * 8
    lists = trial_lists.curve_trials(small, n_ways=[2, 20], num_trials=30, scope="between")
    assert [t.scope.split()[0] for t in lists] == ["between"] * 2
    with pytest.raises(ValueError, match="n_way 60"):
        trial_lists.curve_trials(small, n_ways=[60])
    with pytest.raises(ValueError, match="'auto' or 'between', got 'any'"):
        trial_lists.curve_trials(small, scope="any")


@pytest.mark.parametrize("negatives", ["any", "same_alphabet"])
def test_verification_pairs(small, negatives):
    pairs = trial_lists.verification_pairs(small, num_pairs=6000, seed=0, negatives=negatives)
    assert pairs.labels.sum() == 3000
    a, b = small.classes[pairs.first], small.classes[pairs.second]
    np.testing.assert_array_equal(a == b, pairs.labels == 1)
    assert (small.drawers[pairs.first] != small.drawers[pairs.second]).all()
    per_alphabet = np.bincount(2 * pairs.groups + pairs.labels)
    assert (per_alphabet == 1000).all()
    np.testing.assert_array_equal(pairs.groups, small.alphabets[pairs.first])
    different = pairs.labels == 0
    inside = (small.alphabets[pairs.second] == pairs.groups)[different].mean()
    # Any: of 19 other classes, 5, 4 and 8 are of the same alphabet.
    expected = 1.0 if negatives == "same_alphabet" else (5 + 4 + 8) / 3 / 19
    assert inside == pytest.approx(expected, abs=0.04)
    for rows in (pairs.first, pairs.second[different], pairs.second[~different]):
        assert len(set(rows)) == len(small)  # every image can come
    # Second images of an alphabet's same pairs are even: 1,000 over 5 classes of 4 images.
    counts = np.bincount(pairs.second[~different & (pairs.groups == 1)])[24:44]
    assert abs(counts - 50).max() < 30


def test_verification_pairs_of_uneven_classes():
    uneven = make_set((3, 3), counts=[3, 1, 5, 2, 2, 4], kind="photo")
    pairs = trial_lists.verification_pairs(uneven, num_pairs=4000, seed=0)
    both = np.concatenate([pairs.first, pairs.second])
    assert 1 not in uneven.classes[both]  # a single picture makes no pair
    assert len(set(both)) == len(uneven) - 1
    assert (uneven.drawers[pairs.first] != uneven.drawers[pairs.second]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_pairs": 7}, "must be even, got 7"),
        ({"negatives": "hard"}, r"one of \('any', 'same_alphabet'\), got 'hard'"),
    ],
)
def test_verification_pairs_refuse(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        trial_lists.verification_pairs(small, **arguments)
    single = make_set((2, 3), counts=[2, 1, 2, 2, 2])
    with pytest.raises(ValueError, match="alphabet 'alphabet0' has 1 classes of two or more"):
        trial_lists.verification_pairs(single, negatives="same_alphabet")


def test_a_trial_never_meets_its_own_image(small):
    trials = trial_lists.within_trials(small, n_way=4, num_trials=12)
    queries = trials.queries.copy()
    queries[2, 0] = trials.supports[2, 3, 0]
    with pytest.raises(ValueError, match="query 0 of run 2 is one of its own supports"):
        dataclasses.replace(trials, queries=queries)
    with pytest.raises(ValueError, match="answers must be in 0 .. 3"):
        dataclasses.replace(trials, answers=trials.answers + 4)
    with pytest.raises(ValueError, match="rows must be in 0 .. 79"):
        dataclasses.replace(trials, queries=trials.queries + 80)
    pairs = trial_lists.verification_pairs(small, num_pairs=12)
    with pytest.raises(ValueError, match="pair 0 is an image with itself"):
        dataclasses.replace(pairs, second=pairs.first)


# -------------------------------------------------------------------------------------- evaluating


@pytest.mark.parametrize("build", [trial_lists.within_trials, trial_lists.between_trials])
def test_planted_systems(small, build):
    trials = build(small, n_way=5, num_trials=120)
    best = protocols_lib.evaluate_trials(perfect, trials)
    assert best.accuracy == 1.0 and best.clustered[1] == 1.0
    assert best.wilson == pytest.approx((120 / (120 + 1.959964**2), 1.0))
    assert best.diagnostics["asymmetry"] == 0 and best.diagnostics["tied_trials"] == 0
    flat = protocols_lib.evaluate_trials(constant, trials)
    assert flat.accuracy == pytest.approx(1 / 5, abs=1e-15)
    assert flat.diagnostics["tied_trials"] == 1 and flat.diagnostics["nonfinite_scores"] == 0
    broken = protocols_lib.evaluate_trials(nan, trials)
    assert broken.accuracy == pytest.approx(1 / 5, abs=1e-15)
    assert broken.diagnostics["nonfinite_scores"] == 600
    assert broken.diagnostics["tied_trials"] == 0 and broken.diagnostics["asymmetry"] is None


def test_position_bias_is_seen(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=60)

    def first_wins(queries, supports):
        return np.tile(-np.arange(len(supports)), (len(queries), 1))

    diagnostics = protocols_lib.evaluate_trials(first_wins, trials).diagnostics
    assert diagnostics["right_at"] == pytest.approx([0.2] * 5)
    assert diagnostics["answered_at"] == [1, 0, 0, 0, 0]
    assert diagnostics["accuracy_at"] == [1, 0, 0, 0, 0]
    assert diagnostics["position_bias"] == pytest.approx(0.8)
    unbiased = protocols_lib.evaluate_trials(perfect, trials).diagnostics
    assert unbiased["position_bias"] == pytest.approx(0)
    uneven = trial_lists.within_trials(small, n_way=5, num_trials=1, alphabets=["alphabet1"])
    assert (
        protocols_lib.evaluate_trials(perfect, uneven).diagnostics["accuracy_at"].count(None) == 4
    )


def test_asymmetry_is_seen(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=27)  # runs of 3 queries

    def lopsided(queries, supports):
        return perfect(queries, supports) + 0.5 * class_of(queries)[:, None]

    result = protocols_lib.evaluate_trials(lopsided, trials)
    gaps = small.classes[trials.queries][:, :, None] - small.classes[trials.supports][:, None, :, 0]
    assert result.diagnostics["asymmetry"] == 0.5 * np.abs(gaps).max()
    assert result.accuracy == 1.0


def test_embedder_equals_scores_and_embeds_each_image_once(small):
    trials = trial_lists.within_trials(small, n_way=4, k_shot=2, num_trials=63, seed=5)
    seen = []

    def embed(images):
        assert images.dtype == np.uint8 and images.shape == (16, 4, 5, 1)
        seen.append(images[:, 0, 2, 0])
        return project(images)

    embedder = scoring.from_embedder(embed, EMBEDDER.score_matrix)
    result = protocols_lib.evaluate_trials(embedder, trials, batch_size=16)
    used = np.unique(np.concatenate([trials.queries.ravel(), trials.supports.ravel()]))
    assert len(seen) == math.ceil(len(used) / 16)
    order = np.concatenate(seen)[: len(used)]
    np.testing.assert_array_equal(np.sort(order), used)
    assert not np.array_equal(order, used)  # which is the order of the classes
    plain = protocols_lib.evaluate_trials(lambda q, s: project(q) @ project(s).T, trials)
    np.testing.assert_allclose(result.scores, plain.scores, rtol=1e-12)
    np.testing.assert_array_equal(result.correct, plain.correct)
    # And both equal a loop over trials.
    for r, q in np.ndindex(trials.queries.shape):
        h = project(small.images[[trials.queries[r, q]]])[0]
        shots = project(small.images[trials.supports[r].ravel()]).reshape(4, 2, 3)
        np.testing.assert_allclose(result.scores[r, q], (shots @ h).mean(1), rtol=1e-12)


def test_joining_of_shots(small):
    trials = trial_lists.within_trials(small, n_way=4, k_shot=3, num_trials=24)
    raw = [
        -np.square(project(small.images[q])[:, None] - project(small.images[s.ravel()])).sum(-1)
        for q, s in zip(trials.queries, trials.supports, strict=True)
    ]
    raw = np.stack(raw).reshape(*trials.queries.shape, 4, 3)

    def score(queries, supports):
        return -np.square(project(queries)[:, None] - project(supports)).sum(-1)

    expected = {"mean": raw.mean(-1), "max": raw.max(-1), "sum": special.logsumexp(raw, -1)}
    for shot_aggregation, scores in expected.items():
        result = protocols_lib.evaluate_trials(score, trials, shot_aggregation=shot_aggregation)
        np.testing.assert_allclose(result.scores, scores)
        assert result.accuracy == metrics.n_way_accuracy(scores, trials.answers)
        assert (
            result.shot_aggregation == shot_aggregation
            and f"shots by {shot_aggregation}" in evaluate.results_table([result])
        )
    for shot_aggregation in ("prototype", "finetune"):
        with pytest.raises(
            ValueError, match=f"'{shot_aggregation}' needs embeddings.*use mean, max, sum"
        ):
            protocols_lib.evaluate_trials(score, trials, shot_aggregation=shot_aggregation)
    with pytest.raises(ValueError, match="one of mean, max, sum, prototype, finetune, got 'min'"):
        protocols_lib.evaluate_trials(score, trials, shot_aggregation="min")
    single = trial_lists.within_trials(small, n_way=4, num_trials=24)
    assert (
        protocols_lib.evaluate_trials(score, single, shot_aggregation="max").shot_aggregation
        is None
    )  # nothing to join


def distance(hq, hs):
    return -np.square(hq[:, None] - hs).sum(-1)


def test_prototypes_are_mean_embeddings(small):
    trials = trial_lists.within_trials(small, n_way=4, k_shot=3, num_trials=40)
    system = scoring.from_embedder(project, distance)
    result = protocols_lib.evaluate_trials(system, trials, shot_aggregation="prototype")
    h = project(small.images)
    for r, q in np.ndindex(trials.queries.shape):
        means = h[trials.supports[r]].mean(1)
        expected = -np.square(h[trials.queries[r, q]] - means).sum(1)
        np.testing.assert_allclose(result.scores[r, q], expected, rtol=1e-9)
    assert result.diagnostics["asymmetry"] < 1e-9
    mean = protocols_lib.evaluate_trials(system, trials, shot_aggregation="mean")
    assert np.abs(mean.scores - result.scores).max() > 1  # it is not the mean of the distances


@pytest.mark.slow
def test_fine_tuning_is_of_each_run(small):
    trials = trial_lists.within_trials(small, n_way=4, k_shot=3, num_trials=40)
    result = protocols_lib.evaluate_trials(EMBEDDER, trials, shot_aggregation="finetune")
    h = project(small.images)
    for r in (0, len(trials.queries) - 1):
        weights = finetune.finetune(h[trials.supports[r]][None])
        expected = jax.jit(finetune.cosine_logits)(h[trials.queries[r]][None], weights)[0]
        np.testing.assert_allclose(result.scores[r], expected, rtol=1e-4, atol=1e-5)
    assert result.diagnostics["asymmetry"] is None and result.shot_aggregation == "finetune"
    alone = trial_lists.within_trials(small, n_way=1, num_trials=6)
    assert protocols_lib.evaluate_trials(EMBEDDER, alone, shot_aggregation="finetune").accuracy == 1


def contextual(calls):
    """Scores that depend on the whole support set, and on the side; records the shapes."""

    def score_classes(queries, supports):
        calls.append((queries.shape, supports.shape))
        middle = supports.mean((1, 2))[:, None]  # (R, 1, D)
        apart = (queries + 0.1 * middle)[:, :, None] - supports.mean(2)[:, None]
        return -np.square(apart).sum(-1)

    def score_matrix(hq, hs):
        raise AssertionError("the support set is to be seen as a whole")

    return scoring.from_embedder(project, score_matrix, score_classes)


@pytest.mark.parametrize("shot_aggregation", ["mean", "finetune"])
def test_a_system_that_sees_the_whole_support_set(small, shot_aggregation, monkeypatch):
    monkeypatch.setattr(scoring, "_OF_CLASSES", 3 * 4 * 3 * 4)  # four runs a call, of 17
    trials = trial_lists.within_trials(small, n_way=4, k_shot=3, num_trials=51, queries_per_run=3)
    calls = []
    result = protocols_lib.evaluate_trials(
        contextual(calls), trials, shot_aggregation=shot_aggregation
    )
    assert set(calls) == {((4, 3, 3), (4, 4, 3, 3))} and len(calls) == 5  # one shape
    h = project(small.images)
    for r, q in np.ndindex(trials.queries.shape):
        shots = h[trials.supports[r]]  # (N, K, D)
        asked = h[trials.queries[r, q]] + 0.1 * shots.mean((0, 1))
        expected = -np.square(asked - shots.mean(1)).sum(1)
        np.testing.assert_allclose(result.scores[r, q], expected, rtol=1e-9)
    assert result.diagnostics["asymmetry"] is None and result.shot_aggregation is None


def test_pairs_of_such_a_system_are_runs_of_one(small):
    pairs = trial_lists.verification_pairs(small, num_pairs=60)
    calls = []
    result = protocols_lib.evaluate_pairs(contextual(calls), pairs, threshold=0.0)
    assert set(calls) == {((60, 1, 3), (60, 1, 1, 3))}
    h = project(small.images)
    there, back = (
        -np.square(h[a] - 0.9 * h[b]).sum(1)
        for a, b in ((pairs.first, pairs.second), (pairs.second, pairs.first))
    )
    np.testing.assert_allclose(result.scores, there, rtol=1e-9)
    assert result.diagnostics["asymmetry"] == pytest.approx(np.abs(there - back).max())
    found = protocols_lib.evaluate_retrieval(contextual([]), trial_lists.retrieval_queries(small))
    every = -np.square(h[:, None] - 0.9 * h).sum(-1)
    np.fill_diagonal(every, -np.inf)
    nearest = small.classes[every.argmax(1)]
    assert found.figures["recall_at_1"] == pytest.approx((nearest == small.classes).mean())


def test_systems_of_another_shape_are_refused(small):
    trials = trial_lists.within_trials(small, n_way=4, num_trials=12)
    with pytest.raises(ValueError, match=r"\(4, 4\), got \(4,\)"):
        protocols_lib.evaluate_trials(lambda q, s: np.zeros(len(q)), trials)
    flat = scoring.from_embedder(lambda images: np.zeros(len(images)), EMBEDDER.score_matrix)
    with pytest.raises(ValueError, match=r"embed must return \(80, D\) for 80 images, got \(80,\)"):
        protocols_lib.evaluate_trials(flat, trials)
    with pytest.raises(ValueError, match="not 'model'"):
        protocols_lib.evaluate_trials("model", trials)


def test_result_by_group_and_as_json(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=60)

    def only_first_alphabet(queries, supports):
        return np.where(class_of(queries).max() < 6, 1, np.nan) * perfect(queries, supports)

    result = protocols_lib.evaluate_trials(only_first_alphabet, trials, system_name="planted")
    by_group = {g: x["accuracy"] for g, x in result.per_group.items()}
    assert by_group == pytest.approx({"alphabet0": 1, "alphabet1": 0.2, "alphabet2": 0.2})
    assert {x["num_trials"] for x in result.per_group.values()} == {20}
    assert result.accuracy == pytest.approx(1.4 / 3)
    assert result.clustered == pytest.approx(cluster_interval([1, 0.2, 0.2], [20, 20, 20]))
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["trial_hash"] == trials.hash and plain["num_trials"] == 60
    assert "scores" not in plain and plain["wilson"] == list(result.wilson)
    line = evaluate.results_table([result]).splitlines()[1]
    for text in ("planted", "within alphabets", "46.67", "60", trials.hash, "(3 alphabets)"):
        assert text in line


def test_one_group_has_no_interval_over_groups(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=1)
    result = protocols_lib.evaluate_trials(perfect, trials)
    assert np.isnan(result.clustered).all()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["clustered"] == [None, None]
    assert "- (1 class)" in evaluate.results_table([result])


def test_results_are_compared_on_the_same_trials_only(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=60)
    a, b = (protocols_lib.evaluate_trials(s, trials) for s in (perfect, constant))
    difference, interval = protocols_lib.compare_results(a, b)
    assert difference == pytest.approx(0.8) and interval == pytest.approx((0.8, 0.8))
    other = protocols_lib.evaluate_trials(
        constant, trial_lists.within_trials(small, n_way=5, seed=1)
    )
    with pytest.raises(ValueError, match=f"{trials.hash} .* only figures on the same trials"):
        protocols_lib.compare_results(a, other)


# --------------------------------------------------------------------------------- verification


def _pairs(small, seed, negatives="any"):
    return trial_lists.verification_pairs(small, num_pairs=120, seed=seed, negatives=negatives)


def test_verification_of_planted_systems(small):
    test, validation = _pairs(small, 0), _pairs(small, 1)
    best = protocols_lib.evaluate_pairs(perfect, test, validation=validation)
    assert best.accuracy == 1 and best.figures["threshold"] == -0.5
    assert best.figures["auc"] == 1 and best.figures["eer"] == 0 and best.figures["mean_same"] == 0
    assert best.figures["mean_different"] < -1 and best.figures["validation_accuracy"] == 1
    assert best.figures["auc_interval"] == pytest.approx((1, 1))
    for system in (constant, nan):
        chance = protocols_lib.evaluate_pairs(system, test, validation=validation)
        assert chance.accuracy == 0.5
        assert chance.figures["auc"] == chance.figures["eer"] == 0.5
        assert chance.figures["log_loss"] == pytest.approx(math.log(2))
        assert chance.figures["reliability_error"] == pytest.approx(0, abs=1e-12)
    assert chance.diagnostics["nonfinite_scores"] == 120
    json.dumps(chance.to_dict(), allow_nan=False)


def test_verification_threshold_comes_from_validation(small):
    test, validation = _pairs(small, 0), _pairs(small, 1)
    result = protocols_lib.evaluate_pairs(EMBEDDER, test, validation=validation)
    h = project(small.images)
    scores = {p.hash: (h[p.first] * h[p.second]).sum(1) for p in (test, validation)}
    np.testing.assert_allclose(result.scores, scores[test.hash])
    threshold = metrics.best_threshold(scores[validation.hash], validation.labels)
    assert result.figures["threshold"] == pytest.approx(threshold)
    said_same = scores[test.hash] >= threshold
    assert result.accuracy == pytest.approx((said_same == test.labels).mean())
    assert result.figures["far"] == pytest.approx(said_same[test.labels == 0].mean())
    assert result.figures["frr"] == pytest.approx(1 - said_same[test.labels == 1].mean())
    assert result.figures["validation_hash"] == validation.hash
    slope, offset = probabilities.fit_logistic(scores[validation.hash], validation.labels)
    assert result.figures["slope"] == pytest.approx(slope)
    logits = slope * scores[test.hash] + offset
    for name, figure in (
        ("reliability_error", probabilities.reliability_error(logits, test.labels)),
        ("log_loss", probabilities.log_loss(logits, test.labels)),
    ):
        assert result.figures[name] == pytest.approx(figure)
    assert result.diagnostics["asymmetry"] < 1e-9
    seen = {frozenset(p) for p in zip(test.first.tolist(), test.second.tolist(), strict=True)}
    assert result.diagnostics["distinct_pairs"] == len(seen) < 120
    plain = protocols_lib.evaluate_pairs(
        lambda q, s: project(q) @ project(s).T, test, threshold=result.figures["threshold"]
    )
    np.testing.assert_allclose(plain.scores, result.scores)
    for arguments in ({}, {"validation": validation, "threshold": 0.0}):
        with pytest.raises(ValueError, match="either validation pairs"):
            protocols_lib.evaluate_pairs(EMBEDDER, test, **arguments)
    with pytest.raises(ValueError, match="other pairs than those of the test"):
        protocols_lib.evaluate_pairs(EMBEDDER, test, validation=_pairs(small, 0))


# ------------------------------------------------------------------------------------ retrieval


def test_watched_pairs_by_hand():
    """Four pairs whose logits are 2, -1 (same) and 1, -3 (different)."""
    images = np.zeros((8, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(8)
    logits = {(0, 1): 2.0, (2, 3): -1.0, (4, 5): 1.0, (6, 7): -3.0}
    pairs = lists.VerificationPairs(
        name="pairs",
        scope="by hand",
        images=images,
        fingerprint="by hand",
        first=np.arange(0, 8, 2),
        second=np.arange(1, 8, 2),
        labels=np.array([1, 1, 0, 0]),
        groups=np.zeros(4, int),
        group_names=("all",),
        grouped_by="alphabet",
    )

    def score(queries, supports):
        q, s = (x[:, 0, 0, 0].tolist() for x in (queries, supports))
        return np.array([[logits.get((min(a, b), max(a, b)), 0.0) for b in s] for a in q])

    found = protocols_lib.monitor_pairs(score, pairs)
    probability = 1 / (1 + np.exp([-2.0, 1.0, 1.0, -3.0]))  # of the right answer
    assert found["pair_loss"] == pytest.approx(-np.log(probability).mean(), rel=1e-6)
    assert found["pair_accuracy"] == 0.5
    assert found["pair_auc"] == 0.75  # of four comparisons only -1 against 1 is lost


def test_retrieval_of_planted_systems(small):
    queries = trial_lists.retrieval_queries(small)
    assert queries.hash == trial_lists.retrieval_queries(small).hash == "28482d209324"
    assert trial_lists.retrieval_queries(small.select(drawers=[1, 2])).hash != queries.hash
    best = protocols_lib.evaluate_retrieval(perfect, queries)
    assert best.accuracy == best.figures["map_at_r"] == 1 and best.num_trials == 80
    assert best.grouped_by == "alphabet" and best.per_group["alphabet2"]["num_trials"] == 36
    assert best.figures["map_at_r_interval"] == (1, 1) and best.diagnostics["asymmetry"] == 0
    for system in (constant, nan):  # 3 of the 79 others are right
        chance = protocols_lib.evaluate_retrieval(system, queries)
        assert chance.accuracy == pytest.approx(3 / 79)
        missed = math.comb(76, 10) / math.comb(79, 10)
        assert chance.figures["recall_at_10"] == pytest.approx(1 - missed)
    assert chance.diagnostics["nonfinite_scores"] == 80 * 79
    line = evaluate.results_table([best]).splitlines()[1]
    assert "among all 80 images" in line and "MAP@R 100.00 %" in line and "-  " in line
    json.dumps(chance.to_dict(), allow_nan=False)


def test_retrieval_in_tiles_equals_one_matrix(small, monkeypatch):
    queries = trial_lists.retrieval_queries(small)
    h = project(small.images)
    scores = distance(h, h)
    relevant = small.classes[:, None] == small.classes
    recalls, average = metrics.retrieval(scores, relevant, np.arange(80))
    monkeypatch.setattr(scoring, "_TILE", 13)
    monkeypatch.setattr(scoring, "_IMAGE_TILE", (7, 11))
    monkeypatch.setattr(retrieval, "_BLOCK", 17)
    shapes = set()

    def score_matrix(hq, hs):
        shapes.add((len(hq), len(hs)))
        return distance(hq, hs)

    for system in (
        scoring.from_embedder(project, score_matrix),
        lambda q, s: distance(project(q), project(s)),
    ):
        result = protocols_lib.evaluate_retrieval(system, queries)
        np.testing.assert_allclose(result.correct, recalls[:, 0], atol=1e-12)
        assert result.figures["map_at_r"] == pytest.approx(average.mean())
        np.fill_diagonal(scores, -np.inf)
        np.testing.assert_allclose(result.scores, scores.max(1), rtol=1e-9)
    assert shapes == {(13, 13), (12, 13), (32, 32)}  # the last block of 12, and the asymmetry


def test_retrieval_leaves_out_single_images_as_queries_only():
    uneven = make_set((2, 3), counts=[2, 1, 3, 2, 1], kind="photo")
    queries = trial_lists.retrieval_queries(uneven)
    assert set(uneven.classes[queries.queries]) == {0, 2, 3} and len(queries.images) == 9
    np.testing.assert_array_equal(queries.relevant, [1, 1, 2, 2, 2, 1, 1])
    with pytest.raises(ValueError, match="query 2 has no other image"):
        dataclasses.replace(queries, queries=np.array([0, 2]), groups=np.array([0, 0]))
    with pytest.raises(ValueError, match="no class of 'small' has two images"):
        trial_lists.retrieval_queries(make_set((2, 2), counts=[1] * 4))


# ------------------------------------------------------------------------------------- open set


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
    monkeypatch.setattr(scoring, "_TILE", 13)
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


# ------------------------------------------------------------------------------ pairs of a file


@pytest.fixture
def signatures(tmp_path):
    """Two writers' pictures; the top left pixel is their number, ink on white paper."""
    for writer in "ab":
        (tmp_path / writer).mkdir()
        for i in range(4):
            pixels = np.full((8, 10), 255, np.uint8)
            pixels[:, :5] = 255 - (100 * "ab".index(writer) + i)
            Image.fromarray(pixels).save(tmp_path / writer / f"{i}.png")
    return tmp_path


def write(folder, text):
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


def test_pairs_of_a_file(signatures):
    path = write(
        signatures,
        "questioned,reference,label\n\na/0.png, a/1.png ,1\na/0.png,b/0.png,0\n"
        f"b/1.png,{signatures}/b/2.png,1\n",
    )
    pairs = pairs_csv.read_pairs(path, (4, 5, 1), "ink")
    np.testing.assert_array_equal(pairs.labels, [1, 0, 1])
    assert pairs.images.shape == (5, 4, 5, 1) and pairs.second.ndim == 1
    shown = pairs.images[:, 0, 0, 0].astype(int)  # ink, at the network's size
    np.testing.assert_array_equal(shown[pairs.first], [0, 0, 101])
    np.testing.assert_array_equal(shown[pairs.second], [1, 100, 102])
    assert pairs.images[0, 0, 4, 0] == 0  # paper
    assert pairs.group_names == ("a", "b") and pairs.grouped_by == "folder"
    photos = pairs_csv.read_pairs(path, (4, 5, 3), "photo")
    assert photos.images.shape == (5, 4, 5, 3) and (photos.images[0, 0, 4] == 255).all()
    assert photos.hash != pairs.hash == pairs_csv.read_pairs(path, (4, 5, 1), "ink").hash


@pytest.mark.slow
def test_claims_of_several_references(signatures, small):
    path = write(
        signatures,
        "a/0.png,a/1.png,1,x\na/0.png,a/2.png,1,x\na/0.png,a/3.png,1,x\n"
        "b/0.png,a/1.png,0,y\nb/0.png,a/3.png,0,y\nb/0.png,b/1.png,1,\n",
    )
    claims = pairs_csv.read_pairs(path, (4, 5, 1), "ink")
    assert claims.scope == "pairs.csv, up to 3 references a claim"
    np.testing.assert_array_equal(claims.num_references, [3, 2, 1])
    np.testing.assert_array_equal(claims.labels, [1, 0, 1])

    def embed(images):
        return images[:, 0, :1, 0].astype(float)

    system = scoring.from_embedder(embed, lambda hq, hs: -0.1 * np.square(hq - hs.T))
    raw = [[0.1, 0.4, 0.9], [0.1 * 99**2, 0.1 * 97**2], [0.1]]
    expected = {
        "mean": [-np.mean(x) for x in raw],
        "max": [-min(x) for x in raw],
        "sum": [np.logaddexp.reduce(-np.array(x)) for x in raw],
        "prototype": [-0.1 * 2**2, -0.1 * 98**2, -0.1],
    }
    validation = _pairs(small, 1)
    for shot_aggregation, scores in expected.items():
        result = protocols_lib.evaluate_pairs(
            system, claims, validation=validation, shot_aggregation=shot_aggregation
        )
        np.testing.assert_allclose(result.scores, scores, rtol=1e-9)
        assert (
            result.figures["auc"] == 1
            and result.figures["eer"] == 0
            and result.shot_aggregation == shot_aggregation
        )
        chosen = protocols_lib.evaluate_pairs(system, validation, threshold=0.0).scores
        threshold = metrics.best_threshold(chosen, validation.labels)
        assert result.figures["threshold"] == pytest.approx(threshold)
    assert result.diagnostics["distinct_pairs"] == 6 and result.num_trials == 3
    with pytest.raises(ValueError, match="'finetune' fits a classifier to two classes or more"):
        protocols_lib.evaluate_pairs(system, claims, threshold=0.0, shot_aggregation="finetune")
    data = protocols_lib.EvaluationData(small, make_set((5, 6)), pairs=claims)
    found = protocols_lib.run_protocols(
        system, data, ["verification"], {"num_pairs": 60, "shot_aggregation": "max"}
    )
    assert list(found) == ["verification", "pairs"]
    np.testing.assert_allclose(found["pairs"].scores, expected["max"])
    with pytest.raises(ValueError, match="evaluated by the protocol 'verification'"):
        protocols_lib.run_protocols(system, data, ["between"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/0.png,a/1.png,1\na/0.png,a/9.png,0\n", "line 2: no such file .*a/9.png"),
        ("a/0.png,a/1.png,yes\n", r"line 1: the label must be 1 \(same\) or 0 .*, got 'yes'"),
        ("x,y,same\na/0.png,a/1.png,1\na/0.png,b/1.png,2\n", "line 3: the label .* got '2'"),
        ("a/0.png,a/1.png,1\na/0.png,a/2.png,1\n", "all labels are 1: both"),
        ("a/0.png,a/1.png\n", "line 1: expected two pictures, a label .*, got 2 fields"),
        ("a/0.png,a/0.png,1\n", "line 1: .*a/0.png is paired with itself"),
        ("a/0.png,a/1.png,1,x\na/2.png,a/1.png,1,x\n", "line 2: claim 'x' began on line 1"),
        ("a/0.png,a/1.png,1,x\na/0.png,a/2.png,0,x\n", "line 2: claim 'x' began on line 1"),
        ("a/0.png,a/1.png,1\na/0.png,text.png,0\n", "line 2: .*text.png is not a readable image"),
        ("first,second,label\n", "holds no pairs"),
        ("", "holds no pairs"),
    ],
)
def test_mistakes_in_a_file_of_pairs(signatures, text, message):
    (signatures / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=message):
        pairs_csv.read_pairs(write(signatures, text), (4, 5, 1), "ink")


def test_other_mistakes_with_pairs(signatures, small):
    with pytest.raises(ValueError, match=r"none.csv: no readable CSV file \(FileNotFoundError\)"):
        pairs_csv.read_pairs(signatures / "none.csv", (4, 5, 1), "ink")
    with pytest.raises(ValueError, match="cannot be shown to a network of vectors"):
        pairs_csv.read_pairs(signatures / "none.csv", (1, 5, 1), "vector")
    pairs = _pairs(small, 0)
    with pytest.raises(ValueError, match="ends in -1"):
        dataclasses.replace(pairs, second=np.stack([np.full(120, -1), pairs.second], 1))


# ------------------------------------------------------------------------------------ protocols


def _runs(image_set):
    grid = image_set.grid()
    order = np.array([[2, 0, 1], [1, 2, 0]])
    return types.SimpleNamespace(
        queries=np.stack([grid[:3, 0], grid[3:6, 1]]),
        supports=np.stack([grid[order[0], 2], grid[3 + order[1], 3]]),
        answers=np.argsort(order, 1),
    )


def test_official_trials_keep_images_and_answers(small):
    runs = _runs(small)
    trials = trial_lists.official_trials(runs)
    np.testing.assert_array_equal(trials.images[trials.queries], runs.queries)
    np.testing.assert_array_equal(trials.images[trials.supports[..., 0]], runs.supports)
    assert protocols_lib.evaluate_trials(perfect, trials).accuracy == 1
    assert trials.group_names == ("run01", "run02") and trials.name == "official"
    runs.name = "runs of glyphs"
    assert trial_lists.official_trials(runs).name == "runs"
    runs.queries = 255 - runs.queries
    assert trial_lists.official_trials(runs).hash != trials.hash


def test_run_protocols_embeds_each_image_once_for_all(small):
    data = protocols_lib.EvaluationData(
        test=small, validation=make_set((5, 6)), train=make_set((7, 5)), official=_runs(small)
    )
    count = []

    def embed(images):
        count.append(len(images))
        return project(images)

    settings = {"n_way": 5, "num_trials": 30, "num_pairs": 60, "curve_trials": 30}
    results = protocols_lib.run_protocols(
        scoring.from_embedder(embed, EMBEDDER.score_matrix),
        data,
        protocols_lib.PROTOCOLS,
        {**settings, "batch_size": 1, "seed": 4},
    )
    again = 2  # of `batch_dependence`
    assert sum(count) <= len(small) + len(data.validation) + len(data.train) + 12 + again
    curve = [k for k in results if k.startswith("curve/")]
    names = ["official", "within", "koch", "between"]
    names += ["assignment/official", "assignment/within", "verification"]
    assert list(results) == [*names, *curve, "retrieval", "open_set"]
    assert (
        results["within"].trial_hash
        == trial_lists.within_trials(small, n_way=5, num_trials=30, seed=4).hash
    )
    assert results["curve/unseen/9"].scope == "between alphabets"
    assert results["curve/training/5"].scope == "within alphabets"
    scopes = [{results[k].scope for k in curve if k.endswith(f"/{n}")} for n in (1, 5, 9)]
    assert all(len(found) == 1 for found in scopes)
    assert results["verification"].scope == "negatives of any alphabet"
    guess = protocols_lib.run_protocols(baselines.random_score(), data, ["within"], settings)
    assert guess["within"].num_trials == 30
    lines = evaluate.results_table([*results.values(), *guess.values()]).splitlines()
    assert len(lines) == 1 + len(results) + 1
    (line,) = (line for line in lines if " verification " in line)
    assert "AUC" in line and "EER" in line


def test_protocols_agree_on_the_settings_they_share():
    for name, protocol in protocols_lib.PROTOCOLS.items():
        assert protocol.name == name
        for setting, default in protocol.settings.items():
            assert protocols_lib.SETTINGS[setting] == default, f"{name}: {setting}"
    assert protocols_lib.SETTINGS["num_trials"] == 4000 and protocols_lib.SETTINGS["n_way"] == 20


def test_run_protocols_refuse(small):
    data = protocols_lib.EvaluationData(test=small)
    for protocols, settings, message in (
        (["witin"], {}, "unknown protocol 'witin'; did you mean within"),
        (["within"], {"nway": 5}, "unknown setting 'nway'; did you mean n_way"),
        (["official"], {}, "needs the official runs"),
        (["retrieval"], {"shot_aggregation": "prototype"}, "needs embeddings"),
        (["verification"], {}, "needs a validation set"),
        (["within"], {}, "n_way 20 is above the 5 classes of alphabet 'alphabet1'"),
    ):
        with pytest.raises(ValueError, match=message):
            protocols_lib.run_protocols(perfect, data, protocols, settings)


def test_positions_and_counts_tell_nothing(small):
    """A system that answers by the place in its batch, or by how often it was called, guesses."""
    position = scoring.from_embedder(
        lambda images: np.arange(len(images), dtype=np.float64)[:, None],
        lambda h1, h2: -np.abs(h1 - h2.T),
    )
    trials = trial_lists.within_trials(small, n_way=5, num_trials=400)
    result = protocols_lib.evaluate_trials(position, trials)
    assert result.accuracy < 0.4  # it was over 0.9; chance is 0.2

    calls = []

    def count(queries, supports):
        calls.append(1)
        return np.full((len(queries), len(supports)), -(len(calls) % 2), np.float64)

    pairs = trial_lists.verification_pairs(small, num_pairs=400, seed=0)
    others = trial_lists.verification_pairs(small, num_pairs=400, seed=1)
    result = protocols_lib.evaluate_pairs(count, pairs, validation=others)
    assert result.figures["auc"] < 0.6 and result.accuracy < 0.6


def test_answers_that_depend_on_the_batch_are_named(small):
    data = protocols_lib.EvaluationData(test=small)
    settings = {"n_way": 5, "num_trials": 20}

    def dependence(embed):
        system = scoring.from_embedder(embed, EMBEDDER.score_matrix)
        (result,) = protocols_lib.run_protocols(system, data, ["within"], settings).values()
        lines = protocols_lib.warnings([result])
        return result.diagnostics["batch_dependence"], result.remark, lines

    assert dependence(project) == (0.0, "", [])
    value, remark, lines = dependence(lambda images: project(images) - project(images).mean(0))
    assert value > 0.02 and remark == f"batch_dependence {value:.2g}"
    (line,) = lines
    assert line.startswith("model: its answers depend on what else is asked with them")


def test_joint_answers_say_so(small):
    data = protocols_lib.EvaluationData(test=small)
    settings = {"n_way": 5, "num_trials": 20}

    def one_to_one(queries, supports):
        return perfect(queries, supports)

    one_to_one.joint = True
    results = protocols_lib.run_protocols(one_to_one, data, ["within", "assignment"], settings)
    within, assigned = results.values()
    assert within.remark == "joint answers"
    assert assigned.remark == "joint answers, one to one"
    assert protocols_lib.warnings([within]) == [
        "model: joint answers (for a whole batch at once). They are not comparable with answers that "
        "are given one by one"
    ]
    names = ["within", "assignment"]
    results = protocols_lib.run_protocols(perfect, data, names, settings, system_name="mine")
    (line,) = protocols_lib.warnings(results.values())
    assert line.startswith("mine: joint answers (one to one, protocol assignment).")
    assert results["within"].remark == ""
    chance = protocols_lib.run_protocols(baselines.random_score(0), data, ["within"], settings)
    assert protocols_lib.warnings(chance.values()) == []
