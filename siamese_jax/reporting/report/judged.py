"""The sections on what was evaluated: results, curve, trials, verification, retrieval, open set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.protocols import Result
from siamese_jax.reporting import pages
from siamese_jax.reporting.figures import pair_name
from siamese_jax.reporting.report import drawn, published
from siamese_jax.reporting.report.run import Run
from siamese_jax.reporting.report.wording import (
    ABSENT,
    capital,
    count,
    interval,
    number,
    percent,
    plain,
    span,
)

_BINS = 15  # of the reliability error


def results(run: Run) -> str:
    """Every result in one table, and published figures where the trials are the same."""
    head = ("System", "Accuracy", "", "Wilson 95 %", "Bootstrap 95 %", "Position bias", "Ties")
    head += ("Asymmetry", "Not finite")
    groups, unknown = {}, {}
    for key in [key for key in run.own if not key.startswith("curve/")]:
        for r in run.of(key):
            groups.setdefault(_asked(run, r), []).append((run.is_own(r), _result_cells(run, r)))
            if np.isnan(r.accuracy):
                name = capital(run.protocol(r))
                notes = [x for x in r.figures["notes"] if x.startswith("1 %") and "test set" in x]
                unknown[name] = f"{name} has no accuracy (–): {'; '.join(notes)}."
    rows = [row for asked, members in groups.items() for row in (asked, *members)]
    parts = [
        pages.table(head, rows, numbers=(1, *range(3, 9))),
        *(pages.note(text) for text in unknown.values()),
        pages.note(
            f"In a trial one {run.thing} is to be named among N classes, each shown by one "
            f"{run.thing} or more; pairs are to be told same or different; the accuracy of retrieval "
            "is recall at 1, and that of an open set detection and identification at 1 % false "
            "alarms. Wilson’s interval treats trials as independent; the bootstrap draws whole runs, "
            f"alphabets or classes, whose trials share {run.thing}s, and is the one to trust. Trials "
            "of one hash are the same trials. Signs of a broken system are a position bias (by how "
            "many points the most favoured of the N places is answered more often than it is right; "
            "a few are chance where trials are few), ties at the highest score (their credit is "
            "shared), asymmetry (the largest difference of score(a, b) and score(b, a)), and scores "
            "that are not finite (they count as chance)."
        ),
    ]
    if run.is_omniglot and "official" in run.own:
        parts += ["<h3>Beside published figures: official 20 runs</h3>", _published_runs(run)]
    between = run.own.get("between")
    by_characters = run.config.data.get("split") == "vinyals" and not run.elsewhere
    if by_characters and between and between.n_way == 20 and between.k_shot in (1, 5):
        title = f"between alphabets, 20-way {between.k_shot}-shot"
        parts += [f"<h3>Beside published figures: {title}</h3>", _published_between(run, between)]
    return "\n".join(parts)


def _asked(run: Run, result: Result) -> str:
    """What a result's trials are, in one line."""
    groups = count(len(result.per_group), result.grouped_by)
    number_of, f = f"{result.num_trials:,}", result.figures
    if result.name == "retrieval":
        what = f"{number_of} queries {result.scope}"
    elif result.name == "open_set":
        what = (
            f"{result.scope}, {result.k_shot}-shot, {number_of} probes of them and "
            f"{f['num_impostors']:,} of others"
        )
    elif result.n_way:
        what = f"{result.n_way}-way {result.k_shot}-shot, {number_of} trials"
    else:
        what = f"{result.scope}, {number_of} pairs"
    if result.shot_aggregation is not None:
        what += f", joined by {result.shot_aggregation}"
    name = capital(run.protocol(result))
    return f"{name}: {what}, bootstrap over {groups}, hash {result.trial_hash}"


def _result_cells(run: Run, result: Result) -> tuple[str, ...]:
    checks = result.diagnostics
    return (
        result.system,
        percent(result.accuracy),
        _bar(result.accuracy, run.is_own(result)),
        interval(result.wilson),
        interval(result.bootstrap),
        f"{100 * checks['position_bias']:+.1f}" if "position_bias" in checks else "–",
        percent(checks["tied_trials"]) if "tied_trials" in checks else "–",
        "–" if checks["asymmetry"] is None else f"{checks['asymmetry']:.2g}",
        f"{checks['nonfinite_scores']:,}",
    )


def _published_runs(run: Run) -> str:
    """The official runs beside published figures."""
    rows = [_measured(run, r) for r in run.of("official")]
    rows += [
        (value, f"{value:.1f}\N{NO-BREAK SPACE}%", name, "", source, False)
        for name, value, source in published.RUNS
    ]
    return _ranking(rows) + pages.note(
        "One error of 400 is 0.25 points. Published figures are as their sources give them, or 100 % "
        "less the error that they give."
        + (
            f" Those systems were trained on Omniglot, this one on {run.data.train.name}."
            if run.elsewhere
            else ""
        )
    )


def _published_between(run: Run, between: Result) -> str:
    rows = [_measured(run, between)]
    for name, by_shots, source in published.BETWEEN:
        value = by_shots[between.k_shot]
        rows.append((value, f"{value:.1f}\N{NO-BREAK SPACE}%", name, "", source, False))
    return _ranking(rows) + pages.note(
        "The published figures are on their authors’ own draws of 1,200 characters to train on and 423 "
        "to test, with other trials: a neighbourhood, not a ranking."
    )


def _measured(run: Run, result: Result) -> tuple:
    share = result.accuracy
    return (
        100 * share,
        percent(share),
        result.system,
        interval(result.wilson),
        "measured here",
        run.is_own(result),
    )


def _ranking(rows: list[tuple]) -> str:
    """Rows are: value in %, its text, system, interval, source, whether it is this run."""
    rows = sorted(rows, key=lambda row: -row[0])
    return pages.table(
        ("System", "Accuracy", "", "Wilson 95 %", "Source"),
        [
            (own, (system, text, pages.bar(value / 100, own), limits, source))
            for value, text, system, limits, source, own in rows
        ],
        numbers=(1, 3),
    )


def curve(run: Run, figures: Mapping[str, Figure]) -> str:
    """Accuracy against N, with the figures behind it."""
    if "curve" not in figures:
        return pages.note(ABSENT.format("curve"))
    results = [r for _, points in run.curve for r in points]
    caption = (
        f"{span(r.num_trials for r in results)} trials a point, {results[0].k_shot}-shot; bands are "
        "95 % Wilson intervals, the dotted line is 1 / N. A filled point is within alphabets. Where N "
        "is above the size of the smallest alphabet the trials go between alphabets, which is easier: "
        "a ring, with no line across the change."
    )
    rows = [
        (
            label == run.curve[0][0],
            (
                label,
                str(r.n_way),
                r.scope,
                f"{r.num_trials:,}",
                percent(r.accuracy),
                interval(r.wilson),
                interval(r.bootstrap),
                r.trial_hash,
            ),
        )
        for label, points in run.curve
        for r in sorted(points, key=lambda r: r.n_way)
    ]
    head = ("Line", "N", "Scope", "Trials", "Accuracy", "Wilson 95 %", "Bootstrap 95 %", "Hash")
    table = pages.table(head, rows, numbers=(1, 3, 4, 5, 6))
    return drawn.show(
        figures["curve"], "Accuracy against the number of classes N", caption
    ) + pages.folded("The figures behind the curve", table)


def trials(run: Run, figures: Mapping[str, Figure]) -> str:
    """Some N-way trials as pictures."""
    result = run.shown_trials
    if result is None:
        return pages.note(ABSENT.format("within"))
    if "trials" not in figures:
        return pages.note("The set holds vectors, of which there are no pictures to show.")
    wrong = int((result.correct < 1).sum())
    shots = f" (the first of {result.k_shot} pictures of each)" if result.k_shot > 1 else ""
    caption = (
        f"{wrong:,} of {result.num_trials:,} trials ({run.protocol(result)}) are not right; of those "
        "shown, up to half were drawn from them, so they are more frequent here than in truth. Left "
        f"the picture to be named, right the classes to choose from{shots} with their scores, the "
        "highest in bold. A tick marks the right class. A thick border is a right answer; a broken "
        "border with a cross is a wrong one."
    )
    return drawn.show(figures["trials"], "Sample N-way trials with the answers given", caption)


def confused(run: Run, figures: Mapping[str, Figure]) -> str:
    """Pairs of classes that are taken for each other."""
    result = run.confused_in
    if result is None:
        return pages.note(ABSENT.format("within"))
    if not run.confused:
        return pages.note(f"None: all {result.num_trials:,} trials are right.")
    text = (
        f"Pairs of classes by how often one was answered for the other, of the times that one was "
        f"asked for and the other was there, in {result.num_trials:,} {result.n_way}-way trials "
        f"{run.protocol(result)}. "
        f"{min(drawn.CONFUSED, len(run.confused))} of {len(run.confused):,} pairs with an error."
    )
    if "confusions" not in figures:  # of vectors, which have no pictures
        names = run.data.test.class_names
        rows = [
            (False, (pair_name(names[a], names[b]), f"{wrong:.4g}", str(met)))
            for a, b, wrong, met in run.confused[: drawn.CONFUSED]
        ]
        return pages.table(("Classes", "Wrong", "Of"), rows, numbers=(1, 2)) + pages.note(text)
    caption = f"{text} Each line shows pictures of one class."
    return drawn.show(figures["confusions"], "Pairs of classes most often confused", caption)


def verification(run: Run, figures: Mapping[str, Figure]) -> str:
    """Pairs of the test set, and of a file if there are: figures, ROC, calibration, pictures."""
    parts = []
    if "verification" in run.own:
        parts.append(_verified(run, figures, "verification", ""))
    else:
        parts.append(pages.note(ABSENT.format("verification")))
    if "pairs" in run.own:
        parts.append("<h3>Pairs of a file</h3>")
        parts.append(_verified(run, figures, "pairs", "file_"))
    if "reliability" in figures:
        parts += ["<h3>Probabilities of “same”</h3>", _calibration(run, figures)]
    return "\n".join(parts)


def _verified(run: Run, figures: Mapping[str, Figure], key: str, prefix: str) -> str:
    """The figures of one list of pairs."""
    verified = run.of(key)
    rows = []
    for r in verified:
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
        rows.append((run.is_own(r), cells))
    head = ("System", "Accuracy", "AUC", "Equal error", "Threshold", "False accepts")
    parts = [pages.table((*head, "False rejects"), rows, numbers=range(1, 7))]
    own = run.own[key]
    same, total = int(own.trials.labels.sum()), own.num_trials
    caption = (
        f"{total:,} pairs, {same:,} of one class and {total - same:,} of two ({own.scope}). Left: the "
        "ROC; a ring marks the equal error rate. Right: the scores of the network. Thresholds were "
        "chosen on validation pairs; intervals are a bootstrap over "
        f"{count(len(own.per_group), own.grouped_by)}."
    )
    if run.is_omniglot and key == "verification":
        caption += (
            " Koch et al. (2015, table 1) report 93.42 % for 150,000 training pairs with distortions, "
            "on test pairs of their own."
        )
    parts.append(drawn.show(figures[f"{prefix}roc"], "ROC curve and histograms of scores", caption))
    if f"{prefix}pairs" in figures:
        parts.append(_pairs(run, figures[f"{prefix}pairs"], own))
    return "\n".join(parts)


def _pairs(run: Run, figure: Figure, result: Result) -> str:
    """Some pairs side by side, as the network evaluates them."""
    errors = [int(((result.correct == 0) & (result.trials.labels == x)).sum()) for x in (1, 0)]
    several = result.trials.num_references.max() > 1
    caption = (
        f"The dissimilarity is {drawn.dissimilarity(run, result)[1]}: less is more alike. "
        + ("P(same) is the probability by the fit on validation pairs. " if _fitted(result) else "")
        + "A tick marks a right answer at the threshold, a cross a wrong one: "
        f"{errors[0]:,} same pairs are rejected and {errors[1]:,} different ones accepted, of "
        f"{result.num_trials:,}. The rows of errors are the worst of them, and no fair sample."
        + (" Of several references the first is shown." if several else "")
    )
    return "<h3>Pairs and their dissimilarities</h3>" + drawn.show(
        figure, "Pairs side by side with their dissimilarities", caption
    )


def _fitted(result: Result) -> bool:
    return "slope" in result.figures


def _calibration(run: Run, figures: Mapping[str, Figure]) -> str:
    """The logistic fit of each system, and how reliable its probabilities are."""
    rows = []
    for title, own in drawn.calibrated(run):
        rows.append(f"{capital(title)}, hash {own.trial_hash}")
        for r in run.of("verification" if own is run.own.get("verification") else "pairs"):
            if _fitted(r):
                f = r.figures
                cells = (
                    *(r.system, f"{f['slope']:.4g}", f"{f['offset']:.4g}"),
                    *(f"{f['reliability_error']:.4f}", f"{f['log_loss']:.4f}"),
                )
                rows.append((run.is_own(r), cells))
    head = ("System", "Slope", "Offset", "Reliability error", "Log loss (nats)")
    fewest = min(own.num_trials for _, own in drawn.calibrated(run))
    caption = (
        "The probability of “same” is 1 / (1 + exp(-(slope × score + offset))), fitted on validation "
        "pairs for same and different equally likely beforehand. Each point is a fifteenth of the "
        "pairs, of like probability: on the dotted line as many are the same as it says. The "
        f"reliability error is the mean distance from the line, of which chance alone may give "
        f"{0.4 * np.sqrt(_BINS / fewest):.3f}; a system that knows nothing has a log loss of 0.6931."
    )
    return pages.table(head, rows, numbers=range(1, 5)) + drawn.show(
        figures["reliability"], "Reliability diagram of the probabilities of same", caption
    )


def retrieval(run: Run) -> str:
    """How well each system finds the class of a query among all other images."""
    own = run.own.get("retrieval")
    if own is None:
        return pages.note(ABSENT.format("retrieval"))
    rows = []
    for r in run.of("retrieval"):
        f = r.figures
        cells = (
            r.system,
            *(percent(f[f"recall_at_{k}"]) for k in (1, 5, 10)),
            percent(f["map_at_r"]),
            interval(f["map_at_r_interval"]),
        )
        rows.append((run.is_own(r), cells))
    head = ("System", "Recall at 1", "Recall at 5", "Recall at 10", "MAP@R", "Bootstrap 95 %")
    relevant = span(own.trials.relevant.tolist())
    return pages.table(head, rows, numbers=range(1, 6)) + pages.note(
        f"Each of {own.num_trials:,} queries ranks all other {len(own.trials.images) - 1:,} "
        f"{run.thing}s of the test set, of which {relevant} are of its class (R). Recall at k: the "
        "share of queries with one of their class among the first k. MAP@R: the mean over the "
        "first R places of the share of right ones so far, a wrong place counting 0; it is 100 % only "
        f"where the whole class comes first. Bootstrap over {count(len(own.per_group), own.grouped_by)}."
    )


def open_set(run: Run) -> str:
    """How well each system tells who of the enrolled classes a probe is, or that it is none."""
    own = run.own.get("open_set")
    if own is None:
        return pages.note(ABSENT.format("open_set"))
    rows = []
    for r in run.of("open_set"):
        rows.append(f"{r.system}: rank 1 {percent(r.figures['rank_1'])}")
        for rate, at in r.figures["at"].items():
            for prefix, chosen in (("", "the test’s impostors"), ("transferred_", "validation")):
                cells = (
                    *(rate.replace(" ", "\N{NO-BREAK SPACE}"), chosen),
                    number(at[f"{prefix}threshold"]),
                    percent(at[f"{prefix}dir"]),
                    percent(at[f"{prefix}false_alarms"]),
                )
                rows.append((run.is_own(r) and rate == "1 %" and not prefix, cells))
    head = ("False alarms asked for", "Threshold chosen on", "Threshold")
    head += ("Detected and identified", "False alarms")
    notes = sorted({note for r in run.of("open_set") for note in r.figures["notes"]})
    parts = [pages.table(head, rows, numbers=range(2, 5))]
    if notes:
        parts.append(pages.note(f"–: {'; '.join(notes)}."))
    f = own.figures
    parts.append(
        pages.note(
            f"{capital(own.scope)}, with {count(own.k_shot, 'reference')} each. "
            f"{own.num_trials:,} probes are of them and {f['num_impostors']:,} of the other classes "
            "(impostors). A probe counts if its own class scores highest and reaches the threshold; a "
            "false alarm is an impostor that reaches it. Rank 1 is the share whose own class scores "
            "highest, whatever the threshold. A threshold chosen on the test’s own impostors shows "
            "what the scores could do, as NIST and ISO/IEC 19795 report it; one chosen on the "
            "validation classes shows what a user would get."
        )
    )
    return "\n".join(parts)


def alphabets(run: Run) -> str:
    """The network alphabet by alphabet, beside other systems."""
    own = run.own.get("within")
    if own is None:
        return pages.note(ABSENT.format("within"))
    if own.grouped_by != "alphabet":
        return pages.note("The test set has one alphabet only.")
    others = [r for r in run.of("within") if not run.is_own(r) and r.system != "random"]
    runs = _right_by_alphabet(run)
    sizes = dict(zip(run.data.test.alphabet_names, run.data.test.alphabet_count, strict=True))
    rows = []
    for alphabet, part in sorted(own.per_group.items(), key=lambda item: -item[1]["accuracy"]):
        share, trials = part["accuracy"], part["num_trials"]
        right, count = runs.get(alphabet, (0.0, 0))
        cells = (
            plain(alphabet),
            str(sizes[alphabet]),
            f"{trials:,}",
            percent(share),
            pages.bar(share, True),
            interval(metrics.wilson_interval(share * trials, trials)),
            *(percent(r.per_group[alphabet]["accuracy"]) for r in others),
            f"{right:.4g} of {count}" if count else "–",
        )
        rows.append((False, cells))
    head = ("Alphabet", "Characters", "Trials", "Accuracy", "", "Wilson 95 %")
    head += (*(r.system for r in others), run.fixed_runs[0].upper() + run.fixed_runs[1:])
    return pages.table(head, rows, numbers=(1, 2, 3, *range(5, len(head)))) + pages.note(
        f"{own.n_way}-way {own.k_shot}-shot trials within each test alphabet, the easiest first; in "
        "the last column the trials of the fixed runs that were answered rightly."
    )


def _right_by_alphabet(run: Run) -> dict[str, tuple[float, int]]:
    """Right answers and trials of the fixed runs by alphabet."""
    counts = {}
    if "official" in run.own:
        correct = run.own["official"].correct
        for alphabet, of_run in zip(run.data.runs.alphabets, correct, strict=True):
            right, trials = counts.get(alphabet, (0.0, 0))
            counts[alphabet] = (right + float(of_run.sum()), trials + of_run.size)
    return counts


def _bar(share: float, stressed: bool) -> str:
    return "" if np.isnan(share) else pages.bar(share, stressed)
