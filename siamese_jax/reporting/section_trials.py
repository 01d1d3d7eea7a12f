"""The sections on N-way trials: accuracy against N, samples, confusions, groups or classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from siamese_jax.evaluation import intervals
from siamese_jax.evaluation.protocols import Result
from siamese_jax.inference import explain as explain_lib
from siamese_jax.reporting import explain, image_sheets, page
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.run_figures import MAX_CONFUSIONS
from siamese_jax.reporting.wording import (
    capital,
    class_name,
    interval,
    pair_name,
    percent,
    plain,
    span,
)

MAX_ROWS = 30  # classes that a table shows before it is folded


def curve(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """Accuracy against N, with the figures behind it; empty where that was not evaluated."""
    if "curve" not in figures:
        return ""
    results = [r for _, points in inputs.curve_lines for r in points]
    caption = (
        f"{span(r.num_trials for r in results)} trials a point, {results[0].k_shot}-shot. Bands are "
        "95 % Wilson intervals. The dotted line is 1 / N, the accuracy of guessing."
    )
    if inputs.has_groups:
        groups = f"{inputs.group_noun}s"
        caption += (
            f" Filled points are trials within {groups}. Rings are trials between {groups}, which are "
            f"easier; they stand where N is larger than the smallest {inputs.group_noun} of all lines. "
            "No line joins the two."
        )
    rows = [
        (
            label == inputs.curve_lines[0][0],
            (
                label,
                str(r.n_way),
                inputs.scope_words(r.scope),
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
    return page.figure(figures["curve"], caption) + page.folded(
        "The figures behind the curve", table
    )


def trials(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """Some N-way trials as pictures; empty without trials or pictures."""
    result = inputs.shown_trials
    if result is None or "trials" not in figures:
        return ""
    wrong = int((result.correct < 1).sum())
    shots = f" (the first of {result.k_shot} pictures of each)" if (result.k_shot or 1) > 1 else ""
    caption = (
        f"{wrong:,} of {result.num_trials:,} trials ({inputs.protocol_title(result)}) are wrong. Up to "
        "half of the trials shown are wrong ones, so errors look more frequent here than they are. The "
        f"query is the large picture. Beside it are the classes to choose from{shots}, with their "
        "scores, the highest in bold. A tick marks the right class, a dashed border and a cross a wrong "
        "answer."
    )
    more = page.note(why_note(inputs)) if wrong else ""
    return page.figure(figures["trials"], caption) + more


def why_note(inputs: ReportInputs) -> str:
    """How to read what explains an error, or why nothing does."""
    if explain_lib.explains(inputs.net):
        return f"“Why?” below an error shows the two pictures. {explain.LEGEND}"
    return (
        "Which places of two pictures raise or lower their score is shown for networks that compare "
        f"local features. This one compares by {type(inputs.net.model.head).__name__}."
    )


def confusions(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """Pairs of classes that are taken for each other; empty where none is."""
    result = inputs.confusion_trials
    if result is None or not inputs.confusions:
        return ""
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
    return page.figure(figures["confusions"], caption)


def parts_title(inputs: ReportInputs) -> str:
    """The heading of `parts`."""
    result = inputs.network_results.get("within")
    noun = inputs.group_noun if result is not None and result.grouped_by == "alphabet" else "class"
    return f"{capital(noun)} by {noun}"


def parts(inputs: ReportInputs) -> str:
    """The network by group, or by class where there is one group; empty where not evaluated."""
    result = inputs.network_results.get("within")
    if result is None:
        return ""
    ranked = sorted(result.per_group.items(), key=lambda item: -item[1]["accuracy"])
    table = _group_table if result.grouped_by == "alphabet" else _class_table
    return table(inputs, result, ranked, inputs.others("within"))


def _class_table(
    inputs: ReportInputs,
    result: Result,
    ranked: Sequence[tuple[str, Mapping]],
    others: Sequence[Result],
) -> str:
    test = inputs.data.test
    number = {name: c for c, name in enumerate(test.class_names)}
    rows = []
    for name, part in ranked:
        thumbnail = ""
        if inputs.has_pictures and name in number:
            first = test.images[test.class_start[number[name]]][None]
            picture = image_sheets.pictures(first, test.kind)[0]
            thumbnail = page.Html(image_sheets.img(picture, class_name(name)))
        rows.append((False, (class_name(name), thumbnail, *_figures(part, name, others))))
    head = ("Class", "", "Trials", "Accuracy", "", "Wilson 95 %", *(r.system for r in others))
    table = page.table(head, rows, (2, 3, *range(5, len(head))))
    if len(rows) > MAX_ROWS:
        table = page.folded(f"All {len(rows)} classes", table)
    return table + page.note(
        f"{result.n_way}-way {result.k_shot}-shot trials among the test classes by the class of the "
        "query, the easiest first."
    )


def _group_table(
    inputs: ReportInputs,
    result: Result,
    ranked: Sequence[tuple[str, Mapping]],
    others: Sequence[Result],
) -> str:
    runs = _right_by_alphabet(inputs)
    sizes = dict(zip(inputs.data.test.alphabet_names, inputs.data.test.alphabet_count, strict=True))
    rows = []
    for group, part in ranked:
        right, count = runs.get(group, (0.0, 0))
        of_runs = (f"{right:.4g} of {count}" if count else "–",) if runs else ()
        rows.append(
            (False, (plain(group), str(sizes[group]), *_figures(part, group, others), *of_runs))
        )
    members = "Characters" if inputs.group_noun == "alphabet" else "Classes"
    last = [capital(inputs.runs_title)] if runs else []
    head = (
        *(capital(inputs.group_noun), members, "Trials", "Accuracy", "", "Wilson 95 %"),
        *(r.system for r in others),
        *last,
    )
    note = (
        f"{result.n_way}-way {result.k_shot}-shot trials within each test {inputs.group_noun}, the "
        "easiest first."
    )
    if runs:
        note += " The last column counts the right answers in the fixed runs."
    return page.table(head, rows, numbers=(1, 2, 3, *range(5, len(head)))) + page.note(note)


def _figures(part: Mapping, name: str, others: Sequence[Result]) -> tuple[str, ...]:
    """Trials, accuracy, its bar and interval, and the accuracies of other systems."""
    share, trials = part["accuracy"], part["num_trials"]
    return (
        f"{trials:,}",
        percent(share),
        page.bar(share, stressed=True),
        interval(intervals.wilson_interval(share * trials, trials)),
        *(percent(r.per_group[name]["accuracy"]) for r in others),
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
