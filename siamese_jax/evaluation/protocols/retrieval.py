"""Retrieval: each query ranks all other images of the set."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from siamese_jax.evaluation import intervals, metrics
from siamese_jax.evaluation.lists import Retrieval
from siamese_jax.evaluation.protocols.protocol import EvaluationData, Protocol
from siamese_jax.evaluation.protocols.result import Result, interval_text, make_result
from siamese_jax.evaluation.scoring import DEFAULT_AGGREGATION, Scorer, System
from siamese_jax.evaluation.trials import retrieval_queries

_BLOCK = 128  # queries whose scores are in memory at a time


def evaluate_retrieval(
    system: System,
    queries: Retrieval,
    *,
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by retrieval: each query ranks all other images of the set.

    Its figures are `recall_at_1` (the accuracy), `recall_at_5`, `recall_at_10`, and `map_at_r` with
    `map_at_r_interval` (bootstrap over groups); images of one score stand in random order, see
    `metrics.retrieval`. All pairs of images are scored, and the scores of some hundred queries are in
    memory at a time. M images cost an embedder M encoder passes and M^2 comparisons (for 13,180 images
    174 million: seconds for a cosine, minutes for a weighted L1 of 4,096 units), a system with
    `score_classes` M^2 runs, and a callable M^2 / 131,072 calls on up to 128 queries and 1,024
    supports each.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`, whose supports here are
            simply the next images of the set, the query itself among them (its score is not used).
        queries: the list.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.
    """
    began = time.perf_counter()
    everything = np.arange(len(queries.images))
    scorer = Scorer(
        system, queries, everything, batch_size=batch_size, cache=cache, progress=progress
    )
    parts = []
    nonfinite = 0
    starts = range(0, len(queries.queries), _BLOCK)
    for start in tqdm(starts, f"retrieval {queries.hash}", disable=not progress, unit="block"):
        rows = queries.queries[start : start + _BLOCK]
        scores = scorer.matrix(rows, everything)  # (B, M)
        scores[np.arange(len(rows)), rows] = -np.inf
        nonfinite += int((~np.isfinite(scores)).sum()) - len(rows)
        relevant = queries.classes[rows][:, None] == queries.classes
        recalls, average = metrics.retrieval(scores, relevant, rows, depths=(1, 5, 10))
        parts.append((scores.max(1), *recalls.T, average))
    highest, at_1, at_5, at_10, average = (np.concatenate(x) for x in zip(*parts, strict=True))
    figures: dict[str, Any] = {
        "recall_at_1": float(at_1.mean()),
        "recall_at_5": float(at_5.mean()),
        "recall_at_10": float(at_10.mean()),
        "map_at_r": float(average.mean()),
        "map_at_r_interval": intervals.bootstrap_interval(average, queries.groups),
    }
    some = queries.queries[:32]
    first, second = np.repeat(some, len(some)), np.tile(some, len(some))
    diagnostics = {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(first[:, None], second[:, None, None], DEFAULT_AGGREGATION),
    }
    remark = (
        f"recall at 5 {100 * figures['recall_at_5']:.2f} %, "
        f"at 10 {100 * figures['recall_at_10']:.2f} %, MAP@R {100 * figures['map_at_r']:.2f} % "
        f"{interval_text(figures['map_at_r_interval'], 100, 1)}"
    )
    return make_result(
        *(system_name, queries, highest, at_1),
        began=began,
        diagnostics=diagnostics,
        figures=figures,
        remark=remark,
    )


def _run(
    system: System, data: EvaluationData, settings: Mapping, options: Mapping
) -> dict[str, Result]:
    del settings
    return {"retrieval": evaluate_retrieval(system, retrieval_queries(data.test), **options)}


RETRIEVAL = Protocol("retrieval", _run, settings={})
