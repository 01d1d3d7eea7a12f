"""Systems evaluated by N-way trials: planted ones with known figures, and all protocols together."""

import json
import math
import types

import jax
import numpy as np
import pytest
from scipy import special

from siamese_jax.evaluation import baselines, finetune, metrics, scoring
from siamese_jax.evaluation import protocols as protocols_lib
from siamese_jax.evaluation import trials as trial_lists
from siamese_jax.evaluation.intervals import cluster_interval
from siamese_jax.experiments import evaluate
from tests.planted import (
    EMBEDDER,
    class_of,
    constant,
    contextual,
    distance,
    make_set,
    nan,
    perfect,
    project,
)

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


def test_asymmetry_is_of_the_scores_that_answer(small):
    """Of tables, although this embedder compares single pairs, too, and those symmetrically."""
    trials = trial_lists.within_trials(small, n_way=5, num_trials=27)
    embedder = scoring.from_embedder(
        project,
        lambda a, b: a @ b.T + a.sum(1)[:, None],
        score_pairs=lambda a, b: (a * b).sum(1),
    )
    assert protocols_lib.evaluate_trials(embedder, trials).diagnostics["asymmetry"] > 0.01


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


def test_runs_of_many_sizes_are_scored_in_calls_of_few(small):
    """A compiled comparison is compiled anew for every size of a call."""
    trials = trial_lists.within_trials(small, n_way=4, num_trials=12)
    everything, shapes = np.arange(len(small)), set()

    def score_matrix(queries, supports):
        shapes.add((len(queries), len(supports)))
        return queries @ supports.T

    system = scoring.from_embedder(project, score_matrix)
    scorer = scoring.Scorer(system, trials, everything, batch_size=16)
    h = project(small.images)
    rng = np.random.default_rng(0)
    one_query = [(1, 2), (1, 5), (1, 20), (1, 33), (1, 64)]
    some_queries = [(2, 1), (20, 1), (2, 3), (5, 5), (10, 13), (20, 20), (32, 41)]
    for num_q, num_s in one_query + some_queries:
        queries = rng.choice(everything, (7, num_q))
        supports = rng.choice(everything, (7, num_s))
        expected = np.einsum("rqd,rsd->rqs", h[queries], h[supports])
        np.testing.assert_allclose(scorer.pairs(queries, supports), expected, rtol=1e-12)
        assert scorer.asymmetry(queries, supports[..., None], "mean") < 1e-12
    assert shapes == {(4, 64), (20, 40), (20, 20)}


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


# --------------------------------------------------------------------------------------- protocols


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
