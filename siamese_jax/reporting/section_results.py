"""The section of all results in one table, and beside published figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from siamese_jax.evaluation.lists import Trials
from siamese_jax.evaluation.protocols import Result, warnings
from siamese_jax.reporting import page, published
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.wording import capital, count, interval, percent

_Row = tuple[bool, tuple[str, ...]]  # whether it is stressed, and its cells


class _Entry(NamedTuple):
    """A line of a ranking: a figure of a system, measured here or published."""

    value: float  # per cent
    text: str
    system: str
    limits: str
    source: str
    is_network: bool


def results(inputs: ReportInputs) -> str:
    """Every result in one table, and published figures where the trials are the same."""
    groups: dict[str, list[_Row]] = {}
    checks: dict[str, list[_Row]] = {}
    unknown: dict[str, str] = {}
    keys = [key for key in inputs.network_results if not key.startswith("curve/")]
    for key in keys:
        for r in inputs.of_protocol(key):
            is_network, line = inputs.is_network(r), _trials_line(inputs, r)
            groups.setdefault(line, []).append((is_network, _result_cells(inputs, r)))
            checks.setdefault(line, []).append((is_network, _check_cells(r)))
            if np.isnan(r.accuracy):
                name = capital(inputs.protocol_title(r))
                notes = [x for x in r.figures["notes"] if x.startswith("1 %") and "test set" in x]
                unknown[name] = f"{name} has no accuracy (–): {'; '.join(notes)}."
    rows, check_rows = _under_headings(groups), _under_headings(checks)
    shown = [result for by_key in inputs.results.values() for result in by_key.values()]
    parts = [
        *(page.notice(line) for line in warnings(shown)),
        page.table(("System", "Accuracy", "", "Wilson 95 %", "Clustered 95 %"), rows, (1, 3, 4)),
        *(page.note(text) for text in unknown.values()),
        page.note(
            f"In an N-way trial the system assigns one {inputs.noun} to one of N classes, each shown by "
            f"one {inputs.noun} or more. For pairs, accuracy is the share that is correctly called "
            "same or different. For retrieval it is recall at 1. For an open set it is the "
            "detection-and-identification rate at 1 % false alarms."
        ),
        page.note(
            "Wilson’s interval treats trials as independent, and is too narrow where they are not. The "
            f"clustered interval is over whole groups (alphabets, runs or classes), whose trials share "
            f"{inputs.noun}s. Joint answers give each class of a run to one query only; they are not "
            "comparable with answers that are given one by one. Results with the same hash are on the "
            "same trials."
        ),
        page.folded(
            "Is a system broken? Position bias, ties, asymmetry",
            page.table(
                ("System", "Position bias", "Ties", "Asymmetry", "Not finite"),
                check_rows,
                range(1, 5),
            )
            + page.note(
                "Position bias: by how many points the most favoured of the N positions is answered "
                "more often than it is right; with few trials, a few points are chance. Ties: "
                "trials whose highest score is shared; the credit is shared too. Asymmetry: the "
                "largest difference of score(a, b) and score(b, a). Not finite: scores that are not a "
                "number; they count as chance."
            ),
        ),
    ]
    if inputs.is_omniglot and "official" in inputs.network_results:
        parts += ["<h3>Beside published figures: official 20 runs</h3>", _published_runs(inputs)]
    between = inputs.network_results.get("between")
    by_characters = inputs.config.data.get("split") == "vinyals" and not inputs.on_other_data
    if by_characters and between and between.n_way == 20 and between.k_shot in (1, 5):
        title = f"between alphabets, 20-way {between.k_shot}-shot"
        parts += [
            f"<h3>Beside published figures: {title}</h3>",
            _published_between(inputs, between),
        ]
    return "\n".join(parts)


def _under_headings(groups: Mapping[str, Iterable[_Row]]) -> list[str | _Row]:
    """The rows of a table: each heading, and its rows after it."""
    rows: list[str | _Row] = []
    for heading, members in groups.items():
        rows += [heading, *members]
    return rows


def _trials_line(inputs: ReportInputs, result: Result) -> str:
    """The protocol, trials and hash of a result, in one line."""
    grouped_by = inputs.group_noun if result.grouped_by == "alphabet" else result.grouped_by
    groups, scope = count(len(result.per_group), grouped_by), inputs.scope_words(result.scope)
    if result.trials.clusters:  # several groups are one cluster
        groups += f" in {count(len(set(result.trials.clusters)), 'cluster')}"
    number_of, f = f"{result.num_trials:,}", result.figures
    if result.name == "retrieval":
        what = f"{number_of} queries {scope}"
    elif result.name == "open_set":
        what = (
            f"{scope}, {result.k_shot}-shot, {number_of} probes of them and "
            f"{f['num_impostors']:,} of others"
        )
    elif result.n_way:
        what = f"{result.n_way}-way {result.k_shot}-shot, {number_of} trials"
    else:
        what = f"{scope}, {number_of} pairs"
    if result.shot_aggregation is not None:
        what += f", shots aggregated by {result.shot_aggregation}"
    name = capital(inputs.protocol_title(result))
    return f"{name}: {what}, interval over {groups}, hash {result.trial_hash}"


def _result_cells(inputs: ReportInputs, result: Result) -> tuple[str, ...]:
    return (
        result.system,
        percent(result.accuracy),
        _bar(result.accuracy, inputs.is_network(result)),
        interval(result.wilson),
        interval(result.clustered),
    )


def _check_cells(result: Result) -> tuple[str, ...]:
    checks = result.diagnostics
    return (
        result.system,
        f"{100 * checks['position_bias']:+.1f}" if "position_bias" in checks else "–",
        percent(checks["tied_trials"]) if "tied_trials" in checks else "–",
        "–" if checks["asymmetry"] is None else f"{checks['asymmetry']:.2g}",
        f"{checks['nonfinite_scores']:,}",
    )


def _published_runs(inputs: ReportInputs) -> str:
    """The official runs beside published figures."""
    entries = [_measured(inputs, r) for r in inputs.of_protocol("official")]
    entries += [_published(*figure) for figure in published.RUNS]
    notes = [
        "One error of 400 is 0.25 points. Published figures are as their sources give them, or 100 % "
        "less the error that they give.",
        published.RUNS_NOTE,
    ]
    if inputs.on_other_data:
        notes.append(
            f"Those systems were trained on Omniglot, this one on {inputs.data.train.name}."
        )
    return _ranking(entries) + "".join(page.note(note) for note in notes)


def _published_between(inputs: ReportInputs, between: Result) -> str:
    entries = [_measured(inputs, between)]
    for name, by_shots, source in published.BETWEEN:
        entries.append(_published(name, by_shots[between.list_of(Trials).k_shot], source))
    return _ranking(entries) + page.note(
        "The published figures are on their authors’ own splits, with 1,200 characters to train on and "
        "423 to test, and on other trials. The order of the rows is not a ranking."
    )


def _measured(inputs: ReportInputs, result: Result) -> _Entry:
    return _Entry(
        100 * result.accuracy,
        percent(result.accuracy),
        result.system,
        interval(result.wilson),
        "measured here",
        inputs.is_network(result),
    )


def _published(name: str, value: float, source: str) -> _Entry:
    text = f"{value:.1f}\N{NO-BREAK SPACE}%"
    return _Entry(value, text, name, limits="", source=source, is_network=False)


def _ranking(entries: list[_Entry]) -> str:
    """A table, the highest figure first."""
    rows = [
        (
            x.is_network,
            (x.system, x.text, page.bar(x.value / 100, x.is_network), x.limits, x.source),
        )
        for x in sorted(entries, key=lambda x: -x.value)
    ]
    return page.table(("System", "Accuracy", "", "Wilson 95 %", "Source"), rows, numbers=(1, 3))


def _bar(share: float, stressed: bool) -> str:
    return "" if np.isnan(share) else page.bar(share, stressed)
