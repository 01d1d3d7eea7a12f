"""The protocols: frozen trials and their invariants; planted systems whose figures are known."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest

from siamese_jax import baselines, evaluate, metrics
from siamese_jax import trials as trial_lists
from siamese_jax.datasets.imageset import ImageSet

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


EMBEDDER = evaluate.from_embedder(project, lambda hq, hs: hq @ hs.T)


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
    assert trials.group_kind == "alphabet" and trials.scope == "within alphabets"


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
    by_hand = trial_lists.Trials(
        name="hand",
        scope="",
        images=np.zeros((6, 2, 2, 1), np.uint8),
        fingerprint="abc",
        supports=np.arange(4).reshape(2, 2, 1),
        queries=np.array([[4], [5]]),
        answers=np.array([[0], [1]]),
        groups=np.array([[0], [1]]),
        group_names=("x", "y"),
        group_kind="run",
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
    assert trials.group_kind == "class"  # one alphabet: the bootstrap draws classes
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


# -------------------------------------------------------------------------------------- judging


@pytest.mark.parametrize("build", [trial_lists.within_trials, trial_lists.between_trials])
def test_planted_systems(small, build):
    trials = build(small, n_way=5, num_trials=120)
    best = evaluate.evaluate_trials(perfect, trials)
    assert best.accuracy == 1.0 and best.bootstrap == (1.0, 1.0)
    assert best.wilson == pytest.approx((120 / (120 + 1.959964**2), 1.0))
    assert best.diagnostics["asymmetry"] == 0 and best.diagnostics["tied_trials"] == 0
    flat = evaluate.evaluate_trials(constant, trials)
    assert flat.accuracy == pytest.approx(1 / 5, abs=1e-15)
    assert flat.diagnostics["tied_trials"] == 1 and flat.diagnostics["nonfinite_scores"] == 0
    broken = evaluate.evaluate_trials(nan, trials)
    assert broken.accuracy == pytest.approx(1 / 5, abs=1e-15)
    assert broken.diagnostics["nonfinite_scores"] == 600
    assert broken.diagnostics["tied_trials"] == 0 and broken.diagnostics["asymmetry"] is None


def test_position_bias_is_seen(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=60)

    def first_wins(queries, supports):
        return np.tile(-np.arange(len(supports)), (len(queries), 1))

    diagnostics = evaluate.evaluate_trials(first_wins, trials).diagnostics
    assert diagnostics["right_at"] == pytest.approx([0.2] * 5)
    assert diagnostics["answered_at"] == [1, 0, 0, 0, 0]
    assert diagnostics["accuracy_at"] == [1, 0, 0, 0, 0]
    assert diagnostics["position_bias"] == pytest.approx(0.8)
    unbiased = evaluate.evaluate_trials(perfect, trials).diagnostics
    assert unbiased["position_bias"] == pytest.approx(0)
    uneven = trial_lists.within_trials(small, n_way=5, num_trials=1, alphabets=["alphabet1"])
    assert evaluate.evaluate_trials(perfect, uneven).diagnostics["accuracy_at"].count(None) == 4


def test_asymmetry_is_seen(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=27)  # runs of 3 queries

    def lopsided(queries, supports):
        return perfect(queries, supports) + 0.5 * class_of(queries)[:, None]

    result = evaluate.evaluate_trials(lopsided, trials)
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

    embedder = evaluate.from_embedder(embed, EMBEDDER.score_matrix)
    result = evaluate.evaluate_trials(embedder, trials, batch_size=16)
    used = np.unique(np.concatenate([trials.queries.ravel(), trials.supports.ravel()]))
    assert len(seen) == math.ceil(len(used) / 16)
    np.testing.assert_array_equal(np.concatenate(seen)[: len(used)], used)
    plain = evaluate.evaluate_trials(lambda q, s: project(q) @ project(s).T, trials)
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

    for join, expected in (("mean", raw.mean(-1)), ("max", raw.max(-1))):
        result = evaluate.evaluate_trials(score, trials, join=join)
        np.testing.assert_allclose(result.scores, expected)
        assert result.accuracy == metrics.n_way_accuracy(expected, trials.answers)
    with pytest.raises(ValueError, match="'mean' or 'max', got 'sum'"):
        evaluate.evaluate_trials(score, trials, join="sum")


def test_systems_of_another_shape_are_refused(small):
    trials = trial_lists.within_trials(small, n_way=4, num_trials=12)
    with pytest.raises(ValueError, match=r"\(4, 4\), got \(4,\)"):
        evaluate.evaluate_trials(lambda q, s: np.zeros(len(q)), trials)
    flat = evaluate.from_embedder(lambda images: np.zeros(len(images)), EMBEDDER.score_matrix)
    with pytest.raises(ValueError, match=r"embed must return \(80, D\) for 80 images, got \(80,\)"):
        evaluate.evaluate_trials(flat, trials)
    with pytest.raises(ValueError, match="not 'model'"):
        evaluate.evaluate_trials("model", trials)


def test_result_by_group_and_as_json(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=60)

    def only_first_alphabet(queries, supports):
        return np.where(class_of(queries).max() < 6, 1, np.nan) * perfect(queries, supports)

    result = evaluate.evaluate_trials(only_first_alphabet, trials, system_name="planted")
    by_group = {g: x["accuracy"] for g, x in result.per_group.items()}
    assert by_group == pytest.approx({"alphabet0": 1, "alphabet1": 0.2, "alphabet2": 0.2})
    assert {x["num_trials"] for x in result.per_group.values()} == {20}
    assert result.accuracy == pytest.approx(1.4 / 3)
    # All 27 draws of three alphabets: 0.2 with chance 8/27, 1.0 with chance 1/27.
    assert result.bootstrap == pytest.approx((0.2, 1.0))
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["trial_hash"] == trials.hash and plain["num_trials"] == 60
    assert "scores" not in plain and plain["wilson"] == list(result.wilson)
    line = evaluate.format_table([result]).splitlines()[1]
    for text in ("planted", "within alphabets", "46.67", "60", trials.hash, "(3 alphabets)"):
        assert text in line


def test_one_group_has_no_bootstrap_interval(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=1)
    result = evaluate.evaluate_trials(perfect, trials)
    assert np.isnan(result.bootstrap).all()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["bootstrap"] == [None, None]
    assert "- (1 class)" in evaluate.format_table([result])


def test_results_are_compared_on_the_same_trials_only(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=60)
    a, b = (evaluate.evaluate_trials(s, trials) for s in (perfect, constant))
    difference, interval = evaluate.compare_results(a, b)
    assert difference == pytest.approx(0.8) and interval == pytest.approx((0.8, 0.8))
    other = evaluate.evaluate_trials(constant, trial_lists.within_trials(small, n_way=5, seed=1))
    with pytest.raises(ValueError, match=f"{trials.hash} .* only figures on the same trials"):
        evaluate.compare_results(a, other)


# --------------------------------------------------------------------------------- verification


def _pairs(small, seed, negatives="any"):
    return trial_lists.verification_pairs(small, num_pairs=120, seed=seed, negatives=negatives)


def test_verification_of_planted_systems(small):
    test, validation = _pairs(small, 0), _pairs(small, 1)
    best = evaluate.evaluate_pairs(perfect, test, validation=validation)
    assert best.accuracy == 1 and best.figures["threshold"] == -0.5
    assert best.figures["auc"] == 1 and best.figures["eer"] == 0 and best.figures["mean_same"] == 0
    assert best.figures["mean_different"] < -1 and best.figures["validation_accuracy"] == 1
    assert best.figures["auc_interval"] == pytest.approx((1, 1))
    for system in (constant, nan):
        chance = evaluate.evaluate_pairs(system, test, validation=validation)
        assert chance.accuracy == 0.5
        assert chance.figures["auc"] == chance.figures["eer"] == 0.5
    assert chance.diagnostics["nonfinite_scores"] == 120
    json.dumps(chance.to_dict(), allow_nan=False)


def test_verification_threshold_comes_from_validation(small):
    test, validation = _pairs(small, 0), _pairs(small, 1)
    result = evaluate.evaluate_pairs(EMBEDDER, test, validation=validation)
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
    assert result.diagnostics["asymmetry"] < 1e-9
    seen = {frozenset(p) for p in zip(test.first.tolist(), test.second.tolist(), strict=True)}
    assert result.diagnostics["distinct_pairs"] == len(seen) < 120
    plain = evaluate.evaluate_pairs(
        lambda q, s: project(q) @ project(s).T, test, threshold=result.figures["threshold"]
    )
    np.testing.assert_allclose(plain.scores, result.scores)
    for arguments in ({}, {"validation": validation, "threshold": 0.0}):
        with pytest.raises(ValueError, match="either validation pairs"):
            evaluate.evaluate_pairs(EMBEDDER, test, **arguments)
    with pytest.raises(ValueError, match="other pairs than those of the test"):
        evaluate.evaluate_pairs(EMBEDDER, test, validation=_pairs(small, 0))


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
    assert evaluate.evaluate_trials(perfect, trials).accuracy == 1
    assert trials.group_names == ("run01", "run02") and trials.name == "official"
    runs.name = "runs of glyphs"
    assert trial_lists.official_trials(runs).name == "runs"
    runs.queries = 255 - runs.queries
    assert trial_lists.official_trials(runs).hash != trials.hash


def test_run_protocols_embeds_each_image_once_for_all(small, capsys):
    data = evaluate.EvaluationData(
        test=small, validation=make_set((5, 6)), train=make_set((7, 5)), official=_runs(small)
    )
    count = []

    def embed(images):
        count.append(len(images))
        return project(images)

    settings = {"n_way": 5, "num_trials": 30, "num_pairs": 60, "curve_trials": 30}
    results = evaluate.run_protocols(
        evaluate.from_embedder(embed, EMBEDDER.score_matrix),
        data,
        evaluate.PROTOCOLS,
        {**settings, "batch_size": 1, "seed": 4},
    )
    assert sum(count) <= len(small) + len(data.validation) + len(data.train) + 12
    curve = [k for k in results if k.startswith("curve/")]
    assert list(results) == ["official", "within", "koch", "between", "verification", *curve]
    assert (
        results["within"].trial_hash
        == trial_lists.within_trials(small, n_way=5, num_trials=30, seed=4).hash
    )
    assert results["curve/unseen/9"].scope == "between alphabets"
    assert results["curve/training/5"].scope == "within alphabets"
    assert results["verification"].scope == "negatives of any alphabet"
    guess = evaluate.run_protocols(baselines.random_score(), data, ["within"], settings)
    assert guess["within"].num_trials == 30
    evaluate.print_table({**results, **{f"random {k}": r for k, r in guess.items()}})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(results) + 1
    assert "AUC" in lines[5] and "EER" in lines[5]


def test_run_protocols_refuse(small):
    data = evaluate.EvaluationData(test=small)
    for protocols, settings, message in (
        (["witin"], {}, "unknown protocol 'witin'; did you mean within"),
        (["within"], {"nway": 5}, "unknown setting 'nway'; did you mean n_way"),
        (["official"], {}, "needs the official runs"),
        (["verification"], {}, "needs a validation set"),
        (["within"], {}, "n_way 20 is above the 5 classes of alphabet 'alphabet1'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.run_protocols(perfect, data, protocols, settings)
