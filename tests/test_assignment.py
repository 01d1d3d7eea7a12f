"""One-to-one answers against all permutations, and what a system without knowledge scores."""

import itertools

import numpy as np
import pytest

import siamese_jax
from siamese_jax.data import glyphs, omniglot
from siamese_jax.evaluation import protocols, scoring
from siamese_jax.evaluation.intervals import cluster_interval
from siamese_jax.evaluation.protocols.assignment import assign, by_run, evaluate_assignment
from siamese_jax.evaluation.trials import official_trials, within_trials


@pytest.fixture(scope="module")
def small():
    return glyphs.make_glyphs(0, num_alphabets=3, characters=(6, 8), num_drawers=4)


def test_the_highest_sum_of_all_permutations():
    rng = np.random.default_rng(0)
    for queries, n_way in ((5, 5), (3, 6), (1, 4)):
        scores = rng.normal(size=(queries, n_way))
        ways = itertools.permutations(range(n_way), queries)
        best = max(ways, key=lambda way: scores[np.arange(queries), list(way)].sum())
        np.testing.assert_array_equal(assign(scores), best)


def test_a_right_answer_that_is_taken_by_a_better_fit():
    """Each query alone prefers class 0; together the second leaves it to the first."""
    np.testing.assert_array_equal(assign(np.array([[9.0, 1.0], [8.0, 7.0]])), [0, 1])


def test_scores_that_are_not_finite_are_the_last_choice():
    scores = np.array([[np.nan, 1.0, 0.0], [5.0, np.inf, 4.0], [-np.inf, 3.0, np.nan]])
    np.testing.assert_array_equal(assign(scores), [2, 0, 1])
    assert sorted(assign(np.full((3, 3), np.nan))) == [0, 1, 2]


def test_more_queries_than_classes_are_refused():
    with pytest.raises(ValueError, match="3 queries cannot share out 2 classes"):
        assign(np.zeros((3, 2)))


def test_a_constant_system_scores_chance(small):
    trials = by_run(within_trials(small, n_way=5, num_trials=3000, queries_per_run=5), "a")

    def constant(queries, supports):
        return np.zeros((len(queries), len(supports)))

    result = evaluate_assignment(constant, trials)
    assert abs(result.accuracy - 0.2) < 0.03
    assert result.remark.startswith("joint answers") and result.diagnostics["asymmetry"] is None


def test_runs_are_groups_and_alphabets_are_clusters(small):
    whole = within_trials(small, n_way=5, num_trials=60, queries_per_run=5)
    trials = by_run(whole, "assignment/within")
    assert trials.grouped_by == "run" and len(trials.group_names) == 12
    assert set(trials.clusters) == set(whole.group_names)
    np.testing.assert_array_equal(trials.queries, whole.queries)

    def first_alphabet(queries, supports):
        return -np.abs(queries.astype(float).reshape(len(queries), 1, -1) - _flat(supports)).sum(-1)

    result = evaluate_assignment(first_alphabet, trials)
    right = {name: [0.0, 0] for name in whole.group_names}
    for run, name in enumerate(trials.clusters):
        right[name][0] += result.correct[run].sum()
        right[name][1] += 5
    rates = [total / count for total, count in right.values()]
    expected = cluster_interval(rates, [count for _, count in right.values()])
    np.testing.assert_allclose(result.clustered, expected)


def _flat(images):
    return images.astype(float).reshape(1, len(images), -1)


def test_a_class_that_is_asked_twice_is_refused(small):
    trials = within_trials(small, n_way=5, num_trials=60, queries_per_run=5)
    trials.answers[0, 1] = trials.answers[0, 0]
    with pytest.raises(ValueError, match="no class is asked twice"):
        evaluate_assignment(lambda q, s: np.zeros((len(q), len(s))), trials)


def test_the_protocol_has_rows_of_its_own(small):
    system = scoring.from_embedder(
        lambda images: images.reshape(len(images), -1).astype(float),
        lambda queries, supports: -np.abs(queries[:, None] - supports[None]).sum(-1),
    )
    results = protocols.run_protocols(
        system,
        protocols.EvaluationData(test=small),
        ["within", "assignment"],
        {"n_way": 5, "num_trials": 60},
    )
    assert list(results) == ["within", "assignment/within"]
    assert results["assignment/within"].name == "assignment/within"
    assert results["assignment/within"].accuracy >= results["within"].accuracy - 0.1


@pytest.mark.slow
def test_the_shipped_network_answers_the_official_runs(prepared_omniglot):
    """Of 400 queries answered one by one 4 are wrong, one to one none."""
    trials = official_trials(omniglot.load_runs(prepared_omniglot))
    assert len(set(trials.clusters)) == 10
    system = siamese_jax.load("omniglot").system()
    assert evaluate_assignment(system, by_run(trials, "assignment/official")).accuracy == 1.0
