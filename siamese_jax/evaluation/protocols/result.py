"""What one system scored on one list of trials."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping

import numpy as np

from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.lists import TrialList

_NO_INTERVAL = (math.nan, math.nan)
_NOT_IN_DICT = ("trials", "scores", "correct", "remark")


@dataclasses.dataclass(frozen=True)
class Result:
    """What one system scored on one list of trials.

    Attributes:
        system: its name in tables.
        name: of the protocol.
        scope: within or between alphabets, official runs, or how negatives were drawn.
        n_way: classes a trial, or enrolled; None for verification and retrieval.
        k_shot: support images a class; None for verification and retrieval.
        shot_aggregation: how they give the score of a class, one of `SHOT_AGGREGATIONS`; None where
            each class has one image only, or the system has `score_classes`.
        accuracy: share of right trials, ties shared; of `retrieval` recall at 1, of `open_set`
            detection and identification at 1 % false alarms.
        num_trials: number of trials, pairs, queries or probes of enrolled classes.
        wilson: 95 % interval as if trials were independent.
        bootstrap: 95 % interval over groups; NaN if there is one group only.
        grouped_by: what a group is: `run`, `alphabet` or `class`, and of a file of pairs `folder`
            or `image`.
        per_group: accuracy and number of trials of each group.
        trial_hash: names the list of trials.
        figures: of all but N-way trials: see `evaluate_pairs`, `evaluate_retrieval`,
            `evaluate_open_set`.
        diagnostics: signs of a broken system; see `evaluate_trials` and `evaluate_pairs`.
        trials: the list itself.
        scores: (R, Q, N) class scores; (P,) of pairs; (P, N) of the probes of an open set; (Q,) the
            highest score of each query of a retrieval.
        correct: (R, Q), (P,) or (Q,) how right each trial is, for paired comparisons.
        seconds: wall time of the evaluation, seconds.
        remark: what a table prints beside the accuracy.
    """

    system: str
    name: str
    scope: str
    n_way: int | None
    k_shot: int | None
    shot_aggregation: str | None
    accuracy: float
    num_trials: int
    wilson: tuple[float, float]
    bootstrap: tuple[float, float]
    grouped_by: str
    per_group: dict[str, dict]
    trial_hash: str
    figures: dict
    diagnostics: dict
    trials: TrialList = dataclasses.field(repr=False)
    scores: np.ndarray = dataclasses.field(repr=False)
    correct: np.ndarray = dataclasses.field(repr=False)
    seconds: float
    remark: str = ""

    def to_dict(self) -> dict:
        """The figures, as plain values that JSON can hold (NaN becomes None)."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in _NOT_IN_DICT]
        return {name: _plain(getattr(self, name)) for name in names}


def make_result(
    system_name: str,
    trials: TrialList,
    scores: np.ndarray,
    correct: np.ndarray,
    *,
    began: float,
    diagnostics: dict,
    figures: dict | None = None,
    remark: str = "",
    n_way: int | None = None,
    k_shot: int | None = None,
    shot_aggregation: str | None = None,
) -> Result:
    """A result with what follows from how right each trial is: accuracy, intervals, groups.

    Args:
        system_name: its name in tables.
        trials: the list.
        scores: see `Result`.
        correct: see `Result`; NaN throughout where the accuracy cannot be known.
        began: `time.perf_counter()` at the start of the evaluation.
        diagnostics: see `Result`, and so on.
        figures: None for none.
        remark: further than the shot aggregation, which is added.
        n_way: see `Result`.
        k_shot: see `Result`.
        shot_aggregation: see `Result`.
    """
    groups, flat = trials.groups.ravel(), correct.ravel()
    sizes = np.bincount(groups, minlength=len(trials.group_names))
    sums = np.bincount(groups, flat, len(trials.group_names))
    per_group = {
        name: {"accuracy": float(sums[g] / sizes[g]), "num_trials": int(sizes[g])}
        for g, name in enumerate(trials.group_names)
        if sizes[g]
    }
    unknown = bool(np.isnan(flat).any())
    aggregated = f"shots by {shot_aggregation}" if shot_aggregation else ""
    return Result(
        system=system_name,
        name=trials.name,
        scope=trials.scope,
        n_way=n_way,
        k_shot=k_shot,
        shot_aggregation=shot_aggregation,
        accuracy=float(flat.mean()),
        num_trials=flat.size,
        wilson=_NO_INTERVAL if unknown else metrics.wilson_interval(float(flat.sum()), flat.size),
        bootstrap=_NO_INTERVAL if unknown else metrics.bootstrap_interval(flat, groups),
        grouped_by=trials.grouped_by,
        per_group=per_group,
        trial_hash=trials.hash,
        figures={} if figures is None else figures,
        diagnostics=diagnostics,
        trials=trials,
        scores=scores,
        correct=correct,
        seconds=time.perf_counter() - began,
        remark=", ".join(filter(None, (remark, aggregated))),
    )


def compare_results(a: Result, b: Result, *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How much more accurate a is than b on the same trials: difference and 95 % interval.

    Raises:
        ValueError: the two were not evaluated by the same trials.
    """
    if a.trial_hash != b.trial_hash:
        raise ValueError(
            f"{a.system!r} has trials {a.trial_hash} and {b.system!r} {b.trial_hash}: only figures "
            "on the same trials can be compared"
        )
    groups = a.trials.groups.ravel()
    return metrics.paired_difference(a.correct.ravel(), b.correct.ravel(), groups, seed=seed)


def interval_text(limits: tuple[float, float], scale: float, digits: int) -> str:
    """An interval in words, `98.0-99.8`; `-` where there is none."""
    low, high = (scale * x for x in limits)
    return "-" if math.isnan(low) else f"{low:.{digits}f}-{high:.{digits}f}"


def _plain(value):
    """The value with NumPy scalars and NaN replaced by what JSON has."""
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(x) for x in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
