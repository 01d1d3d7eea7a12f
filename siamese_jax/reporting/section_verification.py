"""The section on pairs: accuracy, ROC, calibrated probabilities, sample pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from siamese_jax.evaluation.lists import VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.reporting import page, section_trials
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.run_figures import PAIR_LISTS, by_distance, calibrated
from siamese_jax.reporting.wording import capital, count, interval, percent

_BINS = 15  # of the reliability error


def verification(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """Pairs of the test set, and of a file: figures, ROC, calibration, pictures; empty without any."""
    parts = []
    if "verification" in inputs.network_results:
        parts.append(_pair_list(inputs, figures, "verification"))
    if "pairs" in inputs.network_results:
        parts.append("<h3>Pairs of a file</h3>")
        parts.append(_pair_list(inputs, figures, "pairs"))
    if "reliability" in figures:
        parts += ["<h3>Probabilities of “same”</h3>", _calibration(inputs, figures)]
    return "\n".join(parts)


def _pair_list(inputs: ReportInputs, figures: Mapping[str, str], key: str) -> str:
    """The figures of one list of pairs."""
    prefix, rows = PAIR_LISTS[key], []
    for r in inputs.of_protocol(key):
        f = r.figures
        cells = (
            r.system,
            percent(r.accuracy),
            f"{f['auc']:.4f} ({interval(f['auc_interval'], 1, 3)})",
            f"{percent(f['eer'])} ({interval(f['eer_interval'])})",
            f"{f['threshold']:.4g}",
            percent(f["far"]),
            percent(f["frr"]),
        )
        rows.append((inputs.is_network(r), cells))
    head = ("System", "Accuracy", "AUC", "Equal error", "Threshold", "False accepts")
    parts = [page.table((*head, "False rejects"), rows, numbers=range(1, 7))]
    result = inputs.network_results[key]
    same, total = int(result.list_of(VerificationPairs).labels.sum()), result.num_trials
    scope = inputs.scope_words(result.scope)
    caption = (
        f"{total:,} pairs, {same:,} of one class and {total - same:,} of two ({scope}). "
        "The ROC has a ring at the equal error rate; the histograms are of the network’s scores. "
        "Thresholds were chosen on validation pairs. Intervals are from a bootstrap over "
        f"{count(len(result.per_group), result.grouped_by)}."
    )
    if inputs.is_omniglot and key == "verification":
        caption += (
            " Koch et al. (2015, table 1) report 93.42 % for 150,000 training pairs with distortions, "
            "on test pairs of their own."
        )
    parts.append(page.figure(figures[f"{prefix}roc"], caption))
    if f"{prefix}pairs" in figures:
        parts.append(_pairs(inputs, figures[f"{prefix}pairs"], result))
    return "\n".join(parts)


def _pairs(inputs: ReportInputs, figure: str, result: Result) -> str:
    """Some pairs side by side, as the network evaluates them."""
    pairs = result.list_of(VerificationPairs)
    errors = [int(((result.correct == 0) & (pairs.labels == x)).sum()) for x in (1, 0)]
    several = pairs.num_references.max() > 1
    what = (
        "the distance of the two embeddings" if by_distance(inputs, result) else "minus the score"
    )
    caption = (
        f"The dissimilarity is {what}: lower is more alike. "
        + ("P(same) is the probability fitted on validation pairs. " if _fitted(result) else "")
        + "A tick marks a right answer at the threshold, a cross a wrong one. Of "
        f"{result.num_trials:,} pairs, {errors[0]:,} same pairs are rejected and {errors[1]:,} "
        "different ones accepted. The errors shown are the worst, not a fair sample."
        + (" Of several references the first is shown." if several else "")
    )
    more = page.note(section_trials.why_note(inputs)) if sum(errors) else ""
    return "<h3>Pairs and their dissimilarities</h3>" + page.figure(figure, caption) + more


def _fitted(result: Result) -> bool:
    return "slope" in result.figures


def _calibration(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """The logistic fit of each system, and how reliable its probabilities are."""
    rows: list[str | tuple[bool, tuple[str, ...]]] = []
    for title, result in calibrated(inputs):
        rows.append(f"{capital(title)}, hash {result.trial_hash}")
        for r in inputs.of_protocol(result.name):
            if _fitted(r):
                f = r.figures
                cells = (
                    *(r.system, f"{f['slope']:.4g}", f"{f['offset']:.4g}"),
                    *(f"{f['reliability_error']:.4f}", f"{f['log_loss']:.4f}"),
                )
                rows.append((inputs.is_network(r), cells))
    head = ("System", "Slope", "Offset", "Reliability error", "Log loss (nats)")
    fewest = min(result.num_trials for _, result in calibrated(inputs))
    caption = (
        "The probability of “same” is 1 / (1 + exp(-(slope × score + offset))). It is fitted on "
        "validation pairs, with same and different equally likely beforehand. Each point is a "
        "fifteenth of the pairs, sorted by probability. A point on the dotted line has as many same "
        "pairs as its probability says. The reliability error is the mean distance from that line; "
        f"chance alone may give {0.4 * np.sqrt(_BINS / fewest):.3f}. A system that knows nothing has a "
        "log loss of 0.6931."
    )
    return page.table(head, rows, numbers=range(1, 5)) + page.figure(
        figures["reliability"], caption
    )
