"""Retrieval: watched pairs by hand, planted systems, and tiles."""

import dataclasses
import json
import math

import numpy as np
import pytest

from siamese_jax.evaluation import lists, metrics, scoring
from siamese_jax.evaluation import protocols as protocols_lib
from siamese_jax.evaluation import trials as trial_lists
from siamese_jax.evaluation.protocols import retrieval
from siamese_jax.experiments import evaluate
from tests.planted import constant, distance, make_set, nan, perfect, project


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
    monkeypatch.setattr(scoring, "_LARGE_TILE", 13)
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
