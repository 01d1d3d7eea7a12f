"""Evaluates the runs of an ablation on the same trials; its table and its plots."""

from __future__ import annotations

import contextlib
import itertools
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from siamese_jax import files
from siamese_jax.data import loading
from siamese_jax.evaluation import intervals, protocols, trials
from siamese_jax.evaluation.scoring import shot_aggregation_of
from siamese_jax.experiments.ablation.variants import Variant
from siamese_jax.inference import network
from siamese_jax.readers import read_npz
from siamese_jax.reporting import curves, drawing
from siamese_jax.runs import workdir

_EVALUATED_BYTES = 2**30  # of `evaluated.npz`
_LISTS = ("official", "within", "training")  # of trials, in the order of the table's columns


class Evaluate:
    """Frozen trials that every run meets, at the images' own size.

    Args:
        data: the images and runs.
        n_way: classes a trial.
        num_trials: trials within the alphabets, of the test and of the training set each.
    """

    def __init__(self, data: loading.Data, n_way: int, num_trials: int) -> None:
        self._data, self._n_way, self._num_trials = data, n_way, num_trials
        self._lists: dict[int, dict[str, trials.Trials]] = {}

    def lists(self, k_shot: int) -> dict[str, trials.Trials]:
        """The lists of trials by protocol; the fixed runs are of one shot."""
        if k_shot not in self._lists:
            lists = {
                name: trials.within_trials(
                    images,
                    n_way=self._n_way,
                    num_trials=self._num_trials,
                    k_shot=k_shot,
                    skip_small=True,
                )
                for name, images in (("within", self._data.test), ("training", self._data.train))
            }
            if k_shot == 1 and self._data.runs is not None:
                lists["official"] = trials.official_trials(self._data.runs)
            self._lists[k_shot] = {name: lists[name] for name in _LISTS if name in lists}
        return self._lists[k_shot]

    def keyed(self, settings: Mapping) -> dict[str, tuple[str, trials.Trials]]:
        """By protocol: the key of the results with these settings of the evaluation, and the trials.

        The key is the trials' hash, with the shot aggregation if it is not the config's.
        """
        end = f",{settings['shot_aggregation']}" if settings["shot_aggregation"] else ""
        return {name: (t.hash + end, t) for name, t in self.lists(settings["k_shot"]).items()}

    def evaluate(
        self, path: pathlib.Path, settings_list: Iterable[Mapping]
    ) -> dict[str, np.ndarray]:
        """How right a run's best checkpoint is on each trial; kept in its `evaluated.npz`.

        Args:
            path: workdir of the run.
            settings_list: settings of the evaluations.

        Returns:
            (R, Q) float arrays by their key, see `keyed`.
        """
        wanted = {
            key: (frozen, settings["shot_aggregation"])
            for settings in settings_list
            for key, frozen in self.keyed(settings).values()
        }
        kept: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged file is rebuilt
            kept = {
                key: correct
                for key, correct in read_npz(path / "evaluated.npz", _EVALUATED_BYTES).items()
                if key not in wanted or correct.shape == wanted[key][0].answers.shape
            }
        if wanted.keys() - kept.keys():
            system = network.load(path, "best").system()
            cache: dict = {}
            config = workdir.read_config(path)
            for name in wanted.keys() - kept.keys():
                frozen, shot_aggregation = wanted[name]
                aggregation = shot_aggregation_of(config.eval, shot_aggregation)
                result = protocols.evaluate_trials(
                    system, frozen, shot_aggregation=aggregation, cache=cache
                )
                kept[name] = result.correct
            files.replace_file(path / "evaluated.npz", lambda file: np.savez(file, **kept))
        return {name: kept[name] for name in wanted}


def summary(variant: Variant, evaluate: Evaluate, runs: list[dict]) -> dict:
    """What the JSON file says of a variant; `runs` as `run_ablation` collects them."""
    good = [run for run in runs if "correct" in run]
    kept = ("seed", "steps", "best_step", "validation", "cpu_minutes")
    entry = {
        "variant": variant.name,
        "labels": variant.labels,
        **variant.settings,
        "runs": [{key: run[key] for key in kept} for run in good],
        "failed": [{key: run[key] for key in ("seed", "line")} for run in runs if "line" in run],
        "images": [run["steps"] * variant.images for run in good],
    }
    for protocol, (key, frozen) in evaluate.keyed(variant.settings).items():
        correct = [run["correct"][key] for run in good]
        if correct:
            values = [float(c.mean()) for c in correct]
            mean, size = float(np.mean(values)), int(correct[0].size)
            entry[protocol] = {
                "mean": mean,
                "seeds": values,
                "t_interval": intervals.seed_interval(values),
                # At the trials of one list: seeds meet the same.
                "wilson": intervals.wilson_interval(mean * size, size),
                "num_trials": size,
                "trials": frozen.hash,
            }
    if good:
        shared = [np.array(run["loss"]) for run in good]
        shared = [curve[: min(map(len, shared))] for curve in shared]
        entry["loss"] = np.mean(shared, 0).tolist()  # (step, mean over the seeds)
        gaps = np.subtract(entry["training"]["seeds"], entry["within"]["seeds"]).tolist()
        entry["gap"] = {"mean": float(np.mean(gaps)), "t_interval": intervals.seed_interval(gaps)}
    return entry


def differences(
    variants: Sequence[Variant], evaluate: Evaluate, runs: Mapping[str, list[dict]]
) -> list[dict]:
    """Every pair of variants that met the same trials: the later less the earlier one."""
    entries = []
    for a, b in itertools.combinations(variants, 2):
        if a.settings["k_shot"] != b.settings["k_shot"]:
            continue
        for protocol, frozen in evaluate.lists(a.settings["k_shot"]).items():
            sides = [
                [
                    run["correct"][evaluate.keyed(v.settings)[protocol][0]]
                    for run in runs[v.name]
                    if "correct" in run
                ]
                for v in (b, a)
            ]
            if protocol == "training" or not all(sides):
                continue
            later, earlier = (np.mean(side, axis=0).ravel() for side in sides)
            value, interval = intervals.paired_difference(later, earlier, frozen.groups.ravel())
            later_means, earlier_means = ([float(c.mean()) for c in side] for side in sides)
            entries.append(
                {
                    "variant": b.name,
                    "against": a.name,
                    "protocol": protocol,
                    "difference": value,
                    "trial_interval": interval,
                    "seed_interval": intervals.seed_difference(later_means, earlier_means),
                }
            )
    return entries


def rows(summaries: Sequence[Mapping]) -> list[list[str]]:
    """The table's cells; a failed run is a row of its own."""
    cells = [
        [", ".join(summaries[0]["labels"]) or "variant", "runs", "steps", "images", "CPU min"]
        + ["official %", "within %", "training %", "gap", ""]
    ]
    for s in summaries:
        count = len(s["runs"]) + len(s["failed"])
        if s["runs"]:
            row = [s["variant"], f"{len(s['runs'])} of {count}", _span(s["runs"], "steps")]
            row += [f"{np.mean(s['images']):,.0f}", _span(s["runs"], "cpu_minutes", ".1f")]
            row += [_accuracy(s.get(name)) for name in _LISTS]
            gap, low = s["gap"]["mean"], s["gap"]["t_interval"][0]
            half = "" if math.isnan(low) else f" ±{100 * (gap - low):.1f}"
            cells.append([*row, f"{100 * gap:.1f}{half}", ""])
        for failed in s["failed"]:
            note = f"FAILED: {failed['line']}"
            cells.append([s["variant"], f"seed {failed['seed']}", *["-"] * 7, note])
    return cells


def difference_rows(
    summaries: Sequence[Mapping], differences: Sequence[Mapping]
) -> list[list[str]]:
    """Each variant against the first that met its trials."""
    first = {s["k_shot"]: s["variant"] for s in reversed(summaries) if s["runs"]}
    cells = [["variant", "less", "protocol", "points", "over trials, 95 %", "over seeds, 95 %"]]
    for d in differences:
        if d["against"] in first.values():
            cells.append(
                [d["variant"], d["against"], d["protocol"], f"{100 * d['difference']:+.2f}"]
                + [_limits(d[key], "+.2f") for key in ("trial_interval", "seed_interval")]
            )
    return cells


def _span(runs: Iterable[Mapping], key: str, form: str = "d") -> str:
    values = sorted({format(run[key], form) for run in runs}, key=float)
    return values[0] if len(values) == 1 else f"{values[0]}-{values[-1]}"


def _accuracy(figure: Mapping | None) -> str:
    if figure is None:
        return "-"
    low = figure["t_interval"][0]
    half = "" if math.isnan(low) else f" ±{100 * (figure['mean'] - low):.2f}"
    return f"{100 * figure['mean']:.2f}{half} {_limits(figure['wilson'], '.1f')}"


def _limits(limits: Sequence[float], form: str) -> str:
    if math.isnan(limits[0]):
        return "-"
    return "[" + ", ".join(f"{100 * x:{form}}" for x in limits) + "]"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """The cells as a table in Markdown."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def notes(evaluate: Evaluate, variants: Sequence[Variant]) -> list[str]:
    """What the reader of the table needs to know."""
    lines = [
        "Accuracy: mean over seeds, ± half of its 95 % t interval over seeds, and [the Wilson "
        "interval of the mean at the trials of one seed, which all seeds meet]. Gap: training less "
        "within. Differences: over trials, a bootstrap over the runs or alphabets of the seeds' mean; "
        "over seeds, Welch's t. Each is a 95 % interval by itself, whatever the number of comparisons."
    ]
    for k_shot in sorted({v.settings["k_shot"] for v in variants}):
        for protocol, frozen in evaluate.lists(k_shot).items():
            lines.append(
                f"{protocol}: {frozen.num_trials} trials, {frozen.n_way}-way {k_shot}-shot, "
                f"{frozen.scope}, trials {frozen.hash}"
            )
    return lines


def draw(summaries: Sequence[Mapping]) -> Figure:
    """Accuracy of every variant: each seed, the mean, and its 95 % interval."""
    shown = [s for s in summaries if s["runs"]]
    figure = Figure((9.6, 1.2 + 0.5 * max(len(shown), 1)), layout="constrained")
    axes = figure.add_subplot()
    styles = {
        "official": ("o", drawing.MODEL, -0.2),
        "within": ("s", drawing.OTHER, 0.0),
        "training": ("D", drawing.BASELINE, 0.2),
    }
    for protocol, (marker, colour, shift) in styles.items():
        with_figure = [(y, s[protocol]) for y, s in enumerate(shown) if protocol in s]
        for number, (y, f) in enumerate(with_figure):
            limits = f["wilson"] if math.isnan(f["t_interval"][0]) else f["t_interval"]
            line = [100 * min(max(x, 0.0), 1.0) for x in limits]
            axes.plot(line, [y + shift] * 2, color=colour, linewidth=1.6)
            axes.scatter(
                [100 * x for x in f["seeds"]],
                [y + shift] * len(f["seeds"]),
                s=14,
                color=colour,
                edgecolors="white",
                linewidths=0.5,
                zorder=3,
            )
            axes.scatter(
                100 * f["mean"],
                y + shift,
                s=40,
                marker=marker,
                color=colour,
                edgecolors="white",
                zorder=4,
                label=protocol if number == 0 else None,
            )
    axes.set_yticks(range(len(shown)), [s["variant"] for s in shown])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, %; dots: seeds, line: 95 % interval")
    axes.grid(axis="x", color=drawing.RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return figure


def draw_losses(variants: Sequence[Variant], summaries: Sequence[Mapping]) -> Figure:
    """Training loss of every variant against the step, the mean over its seeds."""
    of_pairs = any(v.config["objective"]["name"] == "verification" for v in variants)
    lines = [(s["variant"], s["loss"]) for s in summaries if s["runs"]]
    return curves.losses_figure(lines, of_pairs)


def rounded(value: Any) -> Any:
    """Floats to five digits after the point, and NaN, which JSON lacks, as None."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
