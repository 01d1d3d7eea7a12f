"""The cells of a table, by what kind of record it is of."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from siamese_jax import readers
from siamese_jax.experiments import records
from siamese_jax.experiments.tables.listing import read_record, record_names, select
from siamese_jax.experiments.tables.measuring import Measurement, measure

NOT_RUN = "not yet run"

_COLUMNS = {  # of a table of evaluations, in the order in which they may be named
    "paper": "paper, %",
    "aim": "aim, %",
    "epochs": "epochs",
    "value": "accuracy, %",
    "seeds": "by seed, %",
    "wilson": "95 % over trials",
    "over_seeds": "95 % over seeds",
    "clustered": "95 % over clusters",
    "trials": "trials",
    "hash": "trials' hash",
    "source": "source",
}


def _evaluation(table: Mapping, results: str | pathlib.Path) -> tuple[list[str], list[list[str]]]:
    columns = table.get("columns", ["value", "wilson", "trials"])
    for column in columns:
        if column not in _COLUMNS:
            raise ValueError(f"table {table['name']}: there is no column {column!r}")
    titles = {**_COLUMNS, "value": table.get("value", _COLUMNS["value"])}
    rows = []
    for row in _expanded(table, results):
        measurement = measure(results, row, table)
        cells = {"paper": row.get("paper", "-"), "aim": row.get("aim", "-")}
        cells |= {"source": row.get("source", "-")}
        if measurement is None:
            quoted = row.get("quoted", "-" if row.get("source") else NOT_RUN)
            cells |= {"value": quoted}
        else:
            many = len(measurement.values) > 1
            number = f"{100 * measurement.mean:.2f}"
            cells |= {
                "value": f"**{number}**" if row.get("bold") else number,
                "seeds": ", ".join(f"{100 * v:.2f}" for v in measurement.values) if many else "-",
                "wilson": _limits(measurement.over_trials if "figure" not in row else ()),
                "over_seeds": _limits(measurement.over_seeds),
                "clustered": _limits(measurement.interval),
                "epochs": "-" if math.isnan(measurement.epochs) else f"{measurement.epochs:.2g}",
                "trials": f"{measurement.num_trials:,}",
                "hash": f"`{measurement.trial_hash}`",
            }
        rows.append([row["label"], *(str(cells.get(column, "-")) for column in columns)])
    return [table.get("first", "row"), *(titles[column] for column in columns)], rows


def _expanded(table: Mapping, results: str | pathlib.Path) -> list[Mapping]:
    """The rows; one with `per_group` becomes a row for each group of its first record."""
    rows: list[Mapping] = []
    for row in table["row"]:
        if row.get("per_group"):
            name = record_names(row, table)[0]
            groups = select(read_record(results, name), row, name)["per_group"]
            rows += [{**row, "label": group, "member": group} for group in groups]
        else:
            rows.append(row)
    return rows


def _ablation(table: Mapping, results: str | pathlib.Path) -> tuple[list[str], list[list[str]]]:
    rows: list[list[str]] = []
    sizes: dict[str, int] = {}
    for row in table["row"]:
        record = read_record(results, row["record"], records.Ablation)
        variants = {variant["variant"]: variant for variant in record["variants"]}
        if row["variant"] not in variants:
            raise ValueError(f"{row['record']} has no variant {row['variant']!r}")
        variant = variants[row["variant"]]
        cells = []
        for protocol in table["protocols"]:
            where = f"{row['record']}, {row['variant']}, {protocol}"
            part = readers.fitting(variant.get(protocol, {}), records.OfProtocol, where)
            sizes.setdefault(protocol, part["num_trials"])
            measurement = Measurement(
                tuple(part["seeds"]),
                part["num_trials"],
                part["trials"],
                (math.nan, math.nan),
            )
            cells.append(f"{100 * measurement.mean:.2f} ({_limits(measurement.over_trials)})")
            cells.append(_limits(measurement.over_seeds))
        rows.append([row["label"], *([row["setting"]] if "setting" in row else []), *cells])
    header = [table.get("first", "variant")]
    header += ["setting"] if "setting" in table["row"][0] else []
    for protocol in table["protocols"]:
        title = table.get("titles", {}).get(protocol, protocol)
        header += [f"{title}, {sizes[protocol]:,} trials, %", "over seeds"]
    return header, rows


def _benchmark(table: Mapping, results: str | pathlib.Path) -> tuple[list[str], list[list[str]]]:
    header = ["what", "median time", "middle half", "rate", "ratio"]
    with_aim = any("aim" in row for row in table["row"])
    more = [name for name in ("processor", "memory", "recall") if table.get(name)]
    rows = []
    for row in table["row"]:
        record = read_record(results, row["record"], records.Benchmark)
        matches = [
            entry
            for entry in record["suites"].get(row["suite"], ())
            if (entry["group"], entry["name"]) == (row["group"], row["name"])
        ]
        if len(matches) != 1:
            raise ValueError(
                f"{row['record']} has {len(matches)} entries {row['group']!r}, {row['name']!r} in "
                f"{row['suite']}; the row {row['label']!r} needs one"
            )
        where = f"{row['record']}, {row['group']}, {row['name']}"
        entry = readers.fitting(matches[0], records.Timed, where)
        rate = "-"
        if entry["amount"] and "per_second" in entry:
            rate = f"{_digits(entry['per_second'])} {entry['unit']}/s"
        ratio = f"{entry['ratio']:.2f}" if "ratio" in entry else "-"
        cells = [row["label"], _time(entry["seconds"])]
        cells += [" - ".join(_time(limit) for limit in entry["quartiles"]), rate, ratio]
        if table.get("processor"):
            cells.append(_time(entry["processor"]) if "processor" in entry else "-")
        if table.get("memory"):
            peak = entry.get("peak_memory")
            cells.append("-" if peak is None else f"{peak / 1e9:.2f} GB")
        if table.get("recall"):
            exact = entry.get("share_of") == "exact answers"
            cells.append(f"{100 * entry['share']:.1f}" if exact else "-")
        rows.append([*cells, *([row.get("aim", "-")] if with_aim else [])])
    titles = {"processor": "processor time", "memory": "peak memory", "recall": "recall@1, %"}
    header += [titles[name] for name in more]
    return [*header, *(["aim"] if with_aim else [])], rows


def _limits(limits: Sequence[float]) -> str:
    if not limits or any(limit is None or math.isnan(limit) for limit in limits):
        return "-"
    return " - ".join(f"{100 * limit:.1f}" for limit in limits)


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _faults(table: Mapping, results: str | pathlib.Path) -> tuple[list[str], list[list[str]]]:
    rows = []
    for row in table["row"]:
        kinds = read_record(results, row["record"], records.Faults)["kinds"]
        rows += [[kind["kind"], f"{kind['cases']:,}", str(kind["failed"])] for kind in kinds]
        total = [sum(kind[name] for kind in kinds) for name in ("cases", "failed")]
        rows.append(["all", f"{total[0]:,}", str(total[1])])
    return ["fault", "cases", "failed"], rows


class Kind(NamedTuple):
    """One kind of table.

    Attributes:
        schema: what its records must be, of `records`.
        cells: of a table and the folder of the records, the titles of the columns and the rows.
    """

    schema: type
    cells: Callable[[Mapping, str | pathlib.Path], tuple[list[str], list[list[str]]]]


KINDS = {
    "evaluation": Kind(records.Evaluation, _evaluation),
    "ablation": Kind(records.Ablation, _ablation),
    "benchmark": Kind(records.Benchmark, _benchmark),
    "faults": Kind(records.Faults, _faults),
}
