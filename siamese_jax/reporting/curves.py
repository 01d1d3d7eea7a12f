"""Figures of numbers: training, accuracy against N, ROC, reliability."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from siamese_jax.evaluation import metrics, probabilities
from siamese_jax.evaluation.lists import Trials, VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.reporting.drawing import (
    BASELINE,
    LIGHT,
    MODEL,
    MUTED,
    OTHER,
    PERCENT,
    RIGHT,
    RULE,
    TEXT,
    WRONG,
    canvas,
    styled,
    write_beside,
    write_ends,
)


@styled
def training_figure(
    rows: Sequence[Mapping],
    validation_label: str,
    loss_unit: str = "nats",
    margin: float | None = None,
    narrow: bool = False,
) -> Figure:
    """Loss, training accuracy and validation accuracy against the step.

    If the run has logged them, there are also the loss and accuracy of validation pairs, the mean
    distances of same and of different pairs (below the loss), and the share of active triplets.

    Args:
        rows: of `metrics.jsonl`, in order.
        validation_label: what the validation accuracy is of.
        loss_unit: of the loss; empty for a loss without one.
        margin: a distance to mark among the distances.
        narrow: whether the charts stand below each other, for a narrow window.
    """
    train = [row for row in rows if row["phase"] == "train"]
    validation = [row for row in rows if row["phase"] == "validation"]
    has_distances = bool(train) and "distance_same" in train[0]
    left = ["loss", "distance"] if has_distances else ["loss"]
    places: list[Any] = [[name, "accuracy"] for name in left]
    height = 4.6 if has_distances else 3.1
    if narrow:
        places = [[name] for name in (*left, "accuracy")]
        height = 2.6 * len(places)
    figure = canvas(height, narrow)
    parts: dict[str, Axes] = figure.subplot_mosaic(places)
    _draw_loss(parts["loss"], train, validation, loss_unit)
    if has_distances:
        _draw_distances(parts["distance"], train, margin)
        if not narrow:  # the same steps as those of the distances below
            parts["loss"].set_xlabel("")
    _draw_accuracies(parts["accuracy"], train, validation, validation_label)
    return figure


def _draw_loss(
    axes: Axes, train: Sequence[Mapping], validation: Sequence[Mapping], unit: str
) -> None:
    """Training loss, and that of validation pairs where it was logged."""
    steps = [row["step"] for row in train]
    paired = [row for row in validation if "pair_loss" in row]
    unit = f" ({unit})" if unit else ""
    axes.set_title(f"{'Loss' if paired else 'Training loss'}{unit}")
    axes.plot(steps, [row["loss"] for row in train], color=MODEL)
    axes.set_ylim(bottom=0)
    if paired:
        at, values = [row["step"] for row in paired], [row["pair_loss"] for row in paired]
        axes.plot(at, values, color=BASELINE, linestyle=(0, (4, 2)))
        ends = [(at[-1], values[-1], "validation pairs", BASELINE)]
        if train:
            ends.append((steps[-1], train[-1]["loss"], "training", MODEL))
        write_ends(axes, ends)
    _mark_steps(axes)


def _draw_distances(axes: Axes, train: Sequence[Mapping], margin: float | None) -> None:
    """Mean distances of the training pairs, and the margin."""
    axes.set_title("Mean distance of training pairs")
    steps = [row["step"] for row in train]
    ends = []
    for label, colour in (("different", WRONG), ("same", RIGHT)):
        values = [row[f"distance_{label}"] for row in train]
        axes.plot(steps, values, color=colour)
        ends.append((steps[-1], values[-1], label, colour))
    axes.set_ylim(0, 1.05 * max(*axes.get_ylim()[1:], margin or 0))
    if margin is not None:
        axes.axhline(margin, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        write_beside(axes, steps[0], 0.95 * margin, "margin", MUTED, 4)
    write_ends(axes, ends)
    _mark_steps(axes)


def _draw_accuracies(
    axes: Axes, train: Sequence[Mapping], validation: Sequence[Mapping], validation_label: str
) -> None:
    """Accuracies of training, of validation pairs and of validation, whose best step is marked."""
    axes.set_title("Accuracy")
    paired = [row for row in validation if "pair_loss" in row]
    lines: list[tuple[Sequence[Mapping], str, str, str, Any, str]]
    lines = [(train, "accuracy", "training", OTHER, "-", "")]
    if train and "active" in train[0]:
        lines.append((train, "active", "active triplets", BASELINE, (0, (4, 2)), ""))
    if paired:
        lines.append((paired, "pair_accuracy", "validation pairs", BASELINE, (0, (4, 2)), ""))
    lines.append((validation, "accuracy", validation_label, MODEL, "-", "o"))
    ends = []
    for part, name, label, colour, style, marker in lines:
        if part:
            at, values = [row["step"] for row in part], [row[name] for row in part]
            axes.plot(at, values, color=colour, linestyle=style, marker=marker, markersize=4)
            ends.append((at[-1], values[-1], label, colour))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_ylim(0, 1.02)
    _mark_steps(axes)
    if validation:
        best = max(validation, key=lambda row: row["accuracy"])
        axes.axvline(best["step"], color=MODEL, linewidth=0.9, linestyle=(0, (4, 3)))
        write_beside(axes, best["step"], 0.05, f"best: step {best['step']}", MODEL, -4)
    write_ends(axes, ends)


def _mark_steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


@styled
def losses_figure(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], of_pairs: bool = False
) -> Figure:
    """Training losses of several runs against the step.

    Args:
        lines: a label and (step, loss) of each, the loss in its own unit. Lines share a colour if their
            labels are the same up to the first comma.
        of_pairs: whether to draw log 2 nats too, the cross-entropy of guessing "same" or "different".
    """
    figure = canvas(4.0)
    axes = figure.subplots()
    axes.set_title("Training loss")
    families = list(dict.fromkeys(label.partition(",")[0] for label, _ in lines))
    alone = len(families) == len(lines)
    colours = (MODEL, OTHER, RIGHT, WRONG, MUTED)
    styles = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (1, 2)), (0, (6, 2, 1, 2)))
    ends: list[tuple[float, float, str, str]] = []
    seen: dict[int, int] = {}
    for label, points in lines:
        family = families.index(label.partition(",")[0])
        place = family // len(colours) if alone else seen.get(family, 0)
        seen[family] = place + 1
        colour, style = colours[family % len(colours)], styles[place % len(styles)]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, linestyle=style)
        ends.append((steps[-1], values[-1], label, colour))
    last = max((end[0] for end in ends), default=1)
    if of_pairs:
        axes.axhline(np.log(2), color=BASELINE, linewidth=0.9, linestyle=(0, (1, 2)))
        ends.append((last, np.log(2), "log 2 nats", MUTED))
    axes.set_xlabel("step")
    axes.set_xlim(0, last)
    axes.set_ylim(bottom=0)
    write_ends(axes, ends)
    return figure


@styled
def curve_figure(lines: Sequence[tuple[str, Sequence[Result]]], narrow: bool = False) -> Figure:
    """Accuracy against the number of classes N: filled points within alphabets, rings between.

    Args:
        lines: a label and the results at each N. The third line and later ones are grey.
        narrow: for a narrow window.
    """
    figure = canvas(3.2 if narrow else 4.0, narrow)
    axes = figure.subplots()
    colours = (MODEL, OTHER, *(BASELINE, LIGHT) * len(lines))
    ends, largest = [], max(_n_way(r) for _, results in lines for r in results)
    for (label, results), colour in zip(lines, colours, strict=False):
        results = sorted(results, key=_n_way)
        for within in (True, False):  # tasks of different difficulty: no line joins them
            part = [r for r in results if r.scope.startswith("within") == within]
            n_ways, values = [_n_way(r) for r in part], [r.accuracy for r in part]
            low, high = [r.wilson[0] for r in part], [r.wilson[1] for r in part]
            axes.fill_between(n_ways, low, high, color=colour, alpha=0.15, linewidth=0)
            filled = colour if within else "white"
            axes.plot(n_ways, values, "o-", color=colour, markersize=4.5, markerfacecolor=filled)
        ends.append((_n_way(results[-1]), results[-1].accuracy, label, colour))
    n = np.linspace(1, largest, 200)
    axes.plot(n, 1 / n, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_title("Accuracy of N-way trials")
    axes.set_xlabel("N, classes to choose from")
    axes.set_xlim(0, largest * 1.01)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PERCENT)
    step = 10 if narrow and largest > 40 else 5
    axes.set_xticks(
        [1, *range(step, largest + 1, step)] if largest >= 10 else range(1, largest + 1)
    )
    write_ends(axes, ends)
    return figure


def _n_way(result: Result) -> int:
    return result.list_of(Trials).n_way


@styled
def roc_figure(results: Sequence[Result], narrow: bool = False) -> Figure:
    """The ROC of each system, and the scores of the first one's same and different pairs.

    Args:
        results: of one list of pairs, the network's first.
        narrow: whether the charts stand below each other, for a narrow window.
    """
    figure = canvas(7.4 if narrow else 4.3, narrow)
    left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
    _draw_roc(left, results)
    _draw_scores(right, results[0])
    return figure


def _draw_roc(axes: Axes, results: Sequence[Result]) -> None:
    """The ROC of each system, with a ring at its equal error rate."""
    axes.plot([0, 1], [1, 0], color=RULE, linewidth=1.2)
    colours = (MODEL, *(BASELINE, LIGHT) * len(results))
    for place, (result, colour) in enumerate(zip(results, colours, strict=False)):
        fpr, tpr, _ = metrics.roc(result.scores, result.list_of(VerificationPairs).labels)
        axes.plot(*_thinned(fpr, tpr), color=colour)
        eer = result.figures["eer"]
        axes.plot(eer, 1 - eer, marker="o", markersize=6, color=colour, markerfacecolor="white")
        text = f"{result.system}\nAUC {result.figures['auc']:.4f}, EER {100 * eer:.2f} %"
        below = 0.4 - 0.14 * place  # an area without curves better than chance
        axes.text(0.98, below, text, color=colour, ha="right", va="top", fontweight="bold")
    axes.set_title("True accept rate")
    axes.set_xlabel("false accept rate")
    axes.set_xlim(-0.01, 1)
    axes.set_ylim(0, 1.02)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PERCENT)


def _draw_scores(axes: Axes, result: Result) -> None:
    """Histograms of the scores of same and of different pairs, and the threshold."""
    finite = np.isfinite(result.scores)
    scores, same = result.scores[finite], result.list_of(VerificationPairs).labels[finite] == 1
    if len(scores):
        bins = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-6), 51)
        tallest = 0.0
        for chosen, label, colour in ((~same, "different", WRONG), (same, "same", RIGHT)):
            shares = np.histogram(scores[chosen], bins)[0] / max(chosen.sum(), 1)
            axes.stairs(shares, bins, fill=True, color=colour, alpha=0.18)
            axes.stairs(shares, bins, color=colour, linewidth=1.5)
            at = int(shares.argmax())
            axes.text(
                (bins[at] + bins[at + 1]) / 2,
                shares[at],
                label,
                color=colour,
                ha="center",
                va="bottom",
                fontweight="bold",
            )
            tallest = max(tallest, shares[at])
        threshold = result.figures["threshold"]
        axes.axvline(threshold, color=TEXT, linewidth=1, linestyle=(0, (4, 3)))
        write_beside(axes, threshold, tallest * 1.1, "threshold", TEXT, 4)
        axes.set_ylim(0, tallest * 1.15)
    axes.set_title(f"Share of pairs by score, {result.system}")
    axes.set_xlabel("score (higher: more alike)")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=False)


@styled
def reliability_figure(panels: Sequence[tuple[str, Result]], narrow: bool = False) -> Figure:
    """The share of same pairs against the probability of "same", one panel a list of pairs.

    Args:
        panels: title and result, whose figures have the `slope` and `offset` of the probability.
        narrow: whether the panels stand below each other, for a narrow window.
    """
    count = min(2, len(panels))
    figure = canvas(3.9 * count if narrow else 3.4, narrow)
    axes_row = np.ravel(figure.subplots(count, 1) if narrow else figure.subplots(1, 2))
    for axes, panel in itertools.zip_longest(axes_row, panels[:2]):
        if panel is None:
            axes.remove()
            continue
        title, result = panel
        axes.set_title(f"Share of same pairs, {title}")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        f = result.figures
        with np.errstate(invalid="ignore"):
            logits = f["slope"] * result.scores + f["offset"]
        points = probabilities.reliability_bins(logits, result.list_of(VerificationPairs).labels)
        axes.plot(*points, "o-", color=MODEL, markersize=4.5, linewidth=1)
        text = f"error {100 * f['reliability_error']:.1f} points\nlog loss {f['log_loss']:.3f} nats"
        axes.text(0.98, 0.04, text, color=MODEL, ha="right", va="bottom", fontweight="bold")
        axes.set_xlabel("probability of “same”")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PERCENT)
    return figure


def _thinned(fpr: np.ndarray, tpr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve that differ in a picture."""
    cell = np.rint(1000 * np.stack([fpr, tpr], 1))
    keep = np.append(True, (np.diff(cell, axis=0) != 0).any(1))
    keep[-1] = True
    return fpr[keep], tpr[keep]
