"""One-to-one answers: the queries of a run share out its supports among themselves.

In an official run each of the twenty supports is the answer of exactly one of the twenty queries. A
system that knows this may answer all queries jointly. Such answers are not those of a single question,
so this protocol has rows of its own and is never mixed with answers that are given one by one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy  # its parts are imported at their first use: they are slow

from siamese_jax.evaluation.lists import Trials
from siamese_jax.evaluation.protocols.protocol import (
    K_SHOT,
    N_WAY,
    NUM_TRIALS,
    SEED,
    EvaluationData,
    Protocol,
)
from siamese_jax.evaluation.protocols.result import Result, make_result
from siamese_jax.evaluation.scoring import (
    DEFAULT_AGGREGATION,
    Scorer,
    System,
    effective_aggregation,
)
from siamese_jax.evaluation.trials import official_trials, within_trials

REMARK = "joint answers, one to one"


def assign(scores: np.ndarray, seed: int = 0) -> np.ndarray:
    """The one-to-one answers of a run that have the highest sum of scores.

    Rows and columns are shuffled first, so that tied scores are no hint of a position. A score that is
    not finite counts as lower than every finite one.

    Args:
        scores: (Q, N) of each query and class, Q at most N.
        seed: of the shuffle.

    Returns:
        (Q,) int, the class that each query is given; no class comes twice.

    Raises:
        ValueError: more queries than classes.

    References:
        Kuhn (1955), The Hungarian method for the assignment problem. Polis and Ilin (2022),
        Neurocomputing, answer the runs of Omniglot so.
    """
    num_queries, n_way = scores.shape
    if num_queries > n_way:
        raise ValueError(f"{num_queries} queries cannot share out {n_way} classes one to one")
    finite = np.isfinite(scores)
    low, high = (scores[finite].min(), scores[finite].max()) if finite.any() else (0.0, 0.0)
    usable = np.where(finite, scores, low - num_queries * (high - low + 1.0))
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(num_queries), rng.permutation(n_way)
    chosen_rows, chosen = scipy.optimize.linear_sum_assignment(
        usable[rows][:, columns], maximize=True
    )
    answers = np.empty(num_queries, int)
    answers[rows[chosen_rows]] = columns[chosen]
    return answers


def evaluate_assignment(
    system: System,
    trials: Trials,
    *,
    shot_aggregation: str = DEFAULT_AGGREGATION,
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by one-to-one answers to each run's queries.

    Answers of one run depend on each other, so the groups are runs: the interval is over runs, or over
    the clusters that they belong to. The diagnostics are `nonfinite_scores`, `asymmetry` (None) and
    `joint`, which says that they are.

    Args:
        system: as in `evaluate_trials`.
        trials: runs in which no class is asked twice.
        shot_aggregation: as in `evaluate_trials`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.

    Raises:
        ValueError: a run asks a class twice, or what `evaluate_trials` raises.
    """
    began = time.perf_counter()
    if any(len(set(answers)) < len(answers) for answers in trials.answers.tolist()):
        raise ValueError("one-to-one answers need runs in which no class is asked twice")
    rows = np.concatenate([trials.supports.ravel(), trials.queries.ravel()])
    scorer = Scorer(system, trials, rows, batch_size=batch_size, cache=cache, progress=progress)
    scores, nonfinite = scorer.classes(trials.queries, trials.supports, shot_aggregation)
    answers = np.stack([assign(run, seed) for seed, run in enumerate(scores)])
    return make_result(
        *(system_name, trials, scores, (answers == trials.answers).astype(float)),
        began=began,
        diagnostics={
            "nonfinite_scores": nonfinite,
            "asymmetry": None,
            "joint": "one to one, protocol assignment",
        },
        remark=REMARK,
        n_way=trials.n_way,
        k_shot=trials.k_shot,
        shot_aggregation=effective_aggregation(system, shot_aggregation, trials.k_shot),
    )


def by_run(trials: Trials, name: str) -> Trials:
    """The same trials, each run a group of its own; runs of one group before are one cluster.

    Raises:
        ValueError: a run whose trials are of several groups.
    """
    first = trials.groups[:, :1]
    if (trials.groups != first).any():
        raise ValueError("the trials of a run must be of one group")
    names = trials.clusters or trials.group_names
    runs = np.arange(len(trials.groups))
    return dataclasses.replace(
        trials,
        name=name,
        groups=np.broadcast_to(runs[:, None], trials.groups.shape),
        group_names=tuple(f"run{run + 1:04d}" for run in runs),
        grouped_by="run",
        clusters=tuple(names[g] for g in first[:, 0]),
    )


def _run(
    system: System, data: EvaluationData, chosen: Mapping, options: Mapping[str, Any]
) -> dict[str, Result]:
    lists = {}
    if data.official is not None:
        lists["official"] = official_trials(data.official)
    n_way, num_trials = chosen["n_way"], chosen["num_trials"]
    lists["within"] = within_trials(
        data.test,
        queries_per_run=n_way,
        num_trials=max(n_way, num_trials - num_trials % n_way),  # whole runs only
        **{key: chosen[key] for key in ("n_way", "k_shot", "seed", "skip_small")},
    )
    results = {}
    for key, trials in lists.items():
        name = f"assignment/{key}"
        results[name] = evaluate_assignment(
            system,
            by_run(trials, name),
            shot_aggregation=chosen["shot_aggregation"],
            **options,
        )
    return results


ASSIGNMENT = Protocol(
    "assignment",
    _run,
    settings={**(N_WAY | K_SHOT | NUM_TRIALS | SEED), "skip_small": False},
)
