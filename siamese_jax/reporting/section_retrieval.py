"""The sections on search among all test images, and on known and unknown classes."""

from __future__ import annotations

from siamese_jax.evaluation.lists import OpenSet, Retrieval
from siamese_jax.reporting import page
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.wording import capital, count, interval, number, percent, span


def retrieval(inputs: ReportInputs) -> str:
    """How well each system finds the class of a query among all others; empty if not evaluated."""
    result = inputs.network_results.get("retrieval")
    if result is None:
        return ""
    rows = []
    for r in inputs.of_protocol("retrieval"):
        f = r.figures
        cells = (
            r.system,
            *(percent(f[f"recall_at_{k}"]) for k in (1, 5, 10)),
            percent(f["map_at_r"]),
            interval(f["map_at_r_interval"]),
        )
        rows.append((inputs.is_network(r), cells))
    head = ("System", "Recall at 1", "Recall at 5", "Recall at 10", "MAP@R", "Bootstrap 95 %")
    relevant = span(result.list_of(Retrieval).relevant.tolist())
    return page.table(head, rows, numbers=range(1, 6)) + page.note(
        f"Each of {result.num_trials:,} queries ranks all other {len(result.trials.images) - 1:,} "
        f"{inputs.noun}s of the test set, of which {relevant} are of its class (R). Recall at k is the "
        "share of queries with one of their class among the first k. MAP@R is the mean, over the "
        "first R ranks, of the share of right ones so far, where a wrong rank counts 0. It is 100 % "
        "only if the whole class comes first. Bootstrap over "
        f"{count(len(result.per_group), result.grouped_by)}."
    )


def open_set(inputs: ReportInputs) -> str:
    """How well each system names a probe or says that it is unknown; empty if not evaluated."""
    result = inputs.network_results.get("open_set")
    if result is None:
        return ""
    rows: list[str | tuple[bool, tuple[str, ...]]] = []
    for r in inputs.of_protocol("open_set"):
        rows.append(f"{r.system}: rank 1 {percent(r.figures['rank_1'])}")
        for rate, at in r.figures["at"].items():
            for prefix, chosen in (("", "the test’s impostors"), ("transferred_", "validation")):
                cells = (
                    *(rate.replace(" ", "\N{NO-BREAK SPACE}"), chosen),
                    number(at[f"{prefix}threshold"]),
                    percent(at[f"{prefix}dir"]),
                    percent(at[f"{prefix}false_alarms"]),
                )
                rows.append((inputs.is_network(r) and rate == "1 %" and not prefix, cells))
    head = (
        *("Nominal false alarms", "Threshold chosen on", "Threshold"),
        *("Detected and identified", "False alarms"),
    )
    notes = sorted({note for r in inputs.of_protocol("open_set") for note in r.figures["notes"]})
    parts = [page.table(head, rows, numbers=range(2, 5))]
    if notes:
        parts.append(page.note(f"–: {'; '.join(notes)}."))
    f = result.figures
    parts.append(
        page.note(
            f"{capital(result.scope)}, with {count(result.list_of(OpenSet).k_shot, 'reference')} each. "
            f"{result.num_trials:,} probes are of them and {f['num_impostors']:,} of the other classes "
            "(impostors). A probe is detected and identified if its own class scores highest and "
            "reaches the threshold. A false alarm is an impostor that reaches it. Rank 1 is the share "
            "whose own class scores highest, whatever the threshold. A threshold chosen on the test’s "
            "own impostors shows what the scores could do, as NIST and ISO/IEC 19795 report it. One "
            "chosen on the validation classes, for as many names as are enrolled here, shows what a "
            "user would get."
        )
    )
    return "\n".join(parts)
