"""The sections on N-way trials: accuracy against N, samples, confusions, alphabets."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from siamese_jax.evaluation import metrics
from siamese_jax.reporting import page
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.run_figures import MAX_CONFUSIONS
from siamese_jax.reporting.wording import ABSENT, capital, interval, pair_name, percent, plain, span


def curve(inputs: ReportInputs, figures: Mapping[str, Figure]) -> str:
    """Accuracy against N, with the figures behind it."""
    if "curve" not in figures:
        return page.note(ABSENT.format("curve"))
    results = [r for _, points in inputs.curve_lines for r in points]
    caption = (
        f"{span(r.num_trials for r in results)} trials a point, {results[0].k_shot}-shot. Bands are "
        "95 % Wilson intervals. The dotted line is 1 / N, the accuracy of guessing. Filled points are "
        "trials within alphabets. Rings are trials between alphabets, which are easier; they stand "
        "where N is larger than the smallest alphabet of all lines. No line joins the two."
    )
    rows = [
        (
            label == inputs.curve_lines[0][0],
            (
                label,
                str(r.n_way),
                r.scope,
                f"{r.num_trials:,}",
                percent(r.accuracy),
                interval(r.wilson),
                interval(r.clustered),
                r.trial_hash,
            ),
        )
        for label, points in inputs.curve_lines
        for r in sorted(points, key=lambda r: r.n_way or 0)
    ]
    head = ("Line", "N", "Scope", "Trials", "Accuracy", "Wilson 95 %", "Clustered 95 %", "Hash")
    table = page.table(head, rows, numbers=(1, 3, 4, 5, 6))
    return page.figure_of(
        figures["curve"], "Accuracy against the number of classes N", caption
    ) + page.folded("The figures behind the curve", table)


def trials(inputs: ReportInputs, figures: Mapping[str, Figure]) -> str:
    """Some N-way trials as pictures."""
    result = inputs.shown_trials
    if result is None:
        return page.note(ABSENT.format("within"))
    if "trials" not in figures:
        return page.note("The set holds vectors, of which there are no pictures to show.")
    wrong = int((result.correct < 1).sum())
    shots = f" (the first of {result.k_shot} pictures of each)" if (result.k_shot or 1) > 1 else ""
    caption = (
        f"{wrong:,} of {result.num_trials:,} trials ({inputs.protocol_title(result)}) are wrong. Up to "
        "half of the trials shown are wrong ones, so errors look more frequent here than they are. The "
        f"query is on the left. On the right are the classes to choose from{shots} with their scores, "
        "the highest in bold. A tick marks the right class. A thick border is a right answer, a dashed "
        "border with a cross a wrong one."
    )
    return page.figure_of(figures["trials"], "Sample N-way trials with the answers given", caption)


def confusions(inputs: ReportInputs, figures: Mapping[str, Figure]) -> str:
    """Pairs of classes that are taken for each other."""
    result = inputs.confusion_trials
    if result is None:
        return page.note(ABSENT.format("within"))
    if not inputs.confusions:
        return page.note(f"None: all {result.num_trials:,} trials are right.")
    text = (
        f"Pairs of classes by how often one was answered in place of the other, in "
        f"{result.num_trials:,} {result.n_way}-way trials {inputs.protocol_title(result)}. The second "
        "number counts the trials in which this could happen: one class was the query’s and the other "
        f"was among the supports. Shown are {min(MAX_CONFUSIONS, len(inputs.confusions))} of "
        f"{len(inputs.confusions):,} pairs with an error."
    )
    if "confusions" not in figures:  # of vectors, which have no pictures
        names = inputs.data.test.class_names
        rows = [
            (False, (pair_name(names[a], names[b]), f"{wrong:.4g}", str(possible)))
            for a, b, wrong, possible in inputs.confusions[:MAX_CONFUSIONS]
        ]
        return page.table(("Classes", "Wrong", "Of"), rows, numbers=(1, 2)) + page.note(text)
    caption = f"{text} Each line shows pictures of one class."
    return page.figure_of(figures["confusions"], "Pairs of classes most often confused", caption)


def alphabets(inputs: ReportInputs) -> str:
    """The network alphabet by alphabet, beside other systems."""
    result = inputs.network_results.get("within")
    if result is None:
        return page.note(ABSENT.format("within"))
    if result.grouped_by != "alphabet":
        return page.note("The test set has one alphabet only.")
    others = [
        r for r in inputs.of_protocol("within") if not inputs.is_network(r) and r.system != "random"
    ]
    runs = _right_by_alphabet(inputs)
    sizes = dict(zip(inputs.data.test.alphabet_names, inputs.data.test.alphabet_count, strict=True))
    rows = []
    for alphabet, part in sorted(result.per_group.items(), key=lambda item: -item[1]["accuracy"]):
        share, trials = part["accuracy"], part["num_trials"]
        right, count = runs.get(alphabet, (0.0, 0))
        cells = (
            plain(alphabet),
            str(sizes[alphabet]),
            f"{trials:,}",
            percent(share),
            page.bar(share, True),
            interval(metrics.wilson_interval(share * trials, trials)),
            *(percent(r.per_group[alphabet]["accuracy"]) for r in others),
            f"{right:.4g} of {count}" if count else "–",
        )
        rows.append((False, cells))
    head = (
        *("Alphabet", "Characters", "Trials", "Accuracy", "", "Wilson 95 %"),
        *(r.system for r in others),
        capital(inputs.runs_title),
    )
    return page.table(head, rows, numbers=(1, 2, 3, *range(5, len(head)))) + page.note(
        f"{result.n_way}-way {result.k_shot}-shot trials within each test alphabet, the easiest first. "
        "The last column counts the right answers in the fixed runs."
    )


def _right_by_alphabet(inputs: ReportInputs) -> dict[str, tuple[float, int]]:
    """Right answers and trials of the fixed runs by alphabet."""
    counts: dict[str, tuple[float, int]] = {}
    runs = inputs.data.runs
    if runs is not None and "official" in inputs.network_results:
        correct = inputs.network_results["official"].correct
        for alphabet, of_run in zip(runs.alphabets, correct, strict=True):
            right, trials = counts.get(alphabet, (0.0, 0))
            counts[alphabet] = (right + float(of_run.sum()), trials + of_run.size)
    return counts
