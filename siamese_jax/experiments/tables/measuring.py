"""One figure of one system, over the seeds of its records, with its intervals."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from siamese_jax.data import splits
from siamese_jax.evaluation import intervals
from siamese_jax.experiments.tables.listing import read_record, record_names, select
from siamese_jax.runs import workdir


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One figure of one system, measured with one or several seeds on the same trials.

    Attributes:
        values: the figure by seed, in [0, 1].
        num_trials: trials (or pairs) of the one list that every seed met.
        trial_hash: of that list.
        interval: of an accuracy the limits over clusters (alphabets; classes or files where there
            are none) of the seeds' mean; of another figure those that the first record gives.
        epochs: how often the training was to meet each pair of its fixed set and each of its distorted
            copies; NaN of a baseline, and of a training without a fixed set.
    """

    values: tuple[float, ...]
    num_trials: int
    trial_hash: str
    interval: tuple[float, float]
    epochs: float = math.nan

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean([100 * value for value in self.values])) / 100  # as every Python adds

    @property
    def over_trials(self) -> tuple[float, float]:
        """95 % Wilson interval of the mean, at the trials of one seed.

        Further seeds meet the same trials, so they add no trials to the list.
        """
        return intervals.wilson_interval(self.mean * self.num_trials, self.num_trials)

    @property
    def over_seeds(self) -> tuple[float, float]:
        """95 % t interval of the mean over seeds; NaN for one seed."""
        return intervals.seed_interval(self.values)


def measure(results: str | pathlib.Path, row: Mapping, table: Mapping) -> Measurement | None:
    """The measurement of a row of a table of evaluations; None where it has no record.

    Raises:
        ValueError: a record is missing or has no such result, or the records of the row differ in
            more than their seeds or were evaluated on different trials.
    """
    names = record_names(row, table)
    if not names:
        return None
    read = [read_record(results, name) for name in names]
    _check_seeds(row["label"], names, read)
    rows = [select(record, row, name) for record, name in zip(read, names, strict=True)]
    if len({result["trial_hash"] for result in rows}) > 1:
        raise ValueError(f"the records of the row {row['label']!r} were evaluated on other trials")
    figure = row.get("figure", "accuracy")
    first = rows[0]
    if group := row.get("member"):
        parts = [result.get("per_group", {}).get(group) for result in rows]
        if None in parts:
            raise ValueError(f"a record of the row {row['label']!r} has no group {group!r}")
        num_trials = parts[0]["num_trials"]
        values, interval = [part["accuracy"] for part in parts], (math.nan, math.nan)
    elif figure == "accuracy":
        num_trials = first["num_trials"]
        values, interval = [result["accuracy"] for result in rows], _over_clusters(rows)
    else:
        num_trials = first["num_trials"]
        values = [result["figures"].get(figure) for result in rows]
        interval = first["figures"].get(f"{figure}_interval", (math.nan, math.nan))
    if any(not isinstance(value, int | float) for value in values):
        raise ValueError(f"a record of the row {row['label']!r} has no number as its {figure}")
    low, high = interval
    epochs = math.nan if row.get("system") else _epochs(read[0]["config"])
    return Measurement(tuple(values), num_trials, first["trial_hash"], (low, high), epochs)


def _epochs(config: Mapping) -> float:
    """Epochs of a training on a fixed set of pairs, at the number of steps of its config."""
    objective = config.get("objective", {})
    if not objective.get("pairs"):
        return math.nan
    examples = objective["pairs"] * (1 + objective["copies"])
    return config["num_steps"] * objective["batch"] / examples


def _over_clusters(rows: Sequence[Mapping]) -> tuple[float, float]:
    """95 % interval over clusters of the mean of results on the same trials.

    NaN where a record gives the accuracy as a whole only.
    """
    if any("per_group" not in row for row in rows):
        return math.nan, math.nan
    groups = rows[0]["per_group"]
    mean = {
        name: {
            "accuracy": sum(row["per_group"][name]["accuracy"] for row in rows) / len(rows),
            "num_trials": figures["num_trials"],
        }
        for name, figures in groups.items()
    }
    official = rows[0]["name"] in ("official", "assignment/official")
    cluster_of = {name: splits.OFFICIAL_RUNS[name] if official else name for name in groups}
    return intervals.grouped_interval(mean, cluster_of)


def _check_seeds(label: str, names: Sequence[str], read: Sequence[Mapping]) -> None:
    """That the records of a row differ in their seeds and in nothing else."""
    first = read[0]["config"]
    seeds = [record["config"]["seed"] for record in read]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"two records of the row {label!r} have one seed: {', '.join(names)}")
    for name, record in zip(names, read, strict=True):
        changes = workdir.differences(first, {**record["config"], "seed": first["seed"]})
        if changes:
            raise ValueError(
                f"{names[0]} and {name} are of the row {label!r} but differ: {'; '.join(changes)}"
            )
