"""What one system scored on one list of trials."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from siamese_jax.evaluation import intervals
from siamese_jax.evaluation.intervals import cluster_interval, grouped_interval
from siamese_jax.evaluation.lists import TrialList

_List = TypeVar("_List", bound=TrialList)
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
        clustered: 95 % interval over the clusters of the trials, see `cluster_interval`; NaN if
            there is one cluster only.
        grouped_by: what a group is: `run`, `alphabet` or `class`, and of a file of pairs `folder`
            or `image`.
        per_group: accuracy and number of trials of each group; of N-way trials with several runs
            in a group also `interval`, the 95 % interval over these runs (in `within` trials a run
            is one pair of drawers).
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
    clustered: tuple[float, float]
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

    def list_of(self, kind: type[_List]) -> _List:
        """The list of trials, of the kind that the caller knows it to be.

        Raises:
            TypeError: it is of another kind.
        """
        if not isinstance(self.trials, kind):
            raise TypeError(f"{self.name} has {type(self.trials).__name__}, not {kind.__name__}")
        return self.trials

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
    flat = correct.ravel()
    unknown = bool(np.isnan(flat).any())
    per_group = _per_group(trials, correct, unknown)
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
        wilson=_NO_INTERVAL if unknown else intervals.wilson_interval(float(flat.sum()), flat.size),
        clustered=_NO_INTERVAL if unknown else _over_clusters(trials, per_group),
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


def _per_group(trials: TrialList, correct: np.ndarray, unknown: bool) -> dict[str, dict]:
    """Accuracy and number of trials of each group, and the interval over the runs in it."""
    per_group = {}
    for g, name in enumerate(trials.group_names):
        inside = trials.groups == g
        if not inside.any():
            continue
        values = correct[inside]
        figures: dict[str, Any] = {"accuracy": float(values.sum() / values.size)}
        figures["num_trials"] = int(values.size)
        if correct.ndim == 2 and not unknown:
            rows = inside.any(1)
            if rows.sum() > 1:
                counts = inside[rows].sum(1)
                rates = np.where(inside, correct, 0.0)[rows].sum(1) / counts
                figures["interval"] = cluster_interval(rates, counts)
        per_group[name] = figures
    return per_group


def _over_clusters(trials: TrialList, per_group: Mapping[str, Mapping]) -> tuple[float, float]:
    """The 95 % interval over the clusters of the groups."""
    cluster_of = dict(zip(trials.group_names, trials.clusters or trials.group_names, strict=True))
    return grouped_interval(per_group, cluster_of)


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
    return intervals.paired_difference(a.correct.ravel(), b.correct.ravel(), groups, seed=seed)


def interval_text(limits: tuple[float, float], scale: float, digits: int) -> str:
    """An interval in words, `98.0-99.8`; `-` where there is none."""
    low, high = (scale * x for x in limits)
    return "-" if math.isnan(low) else f"{low:.{digits}f}-{high:.{digits}f}"


def _plain(value: Any) -> Any:
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
