"""What stands beneath a table: when, on what and by which commands its rows were measured."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence

from siamese_jax.experiments.tables.listing import read_record, record_names

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)


def beneath(table: Mapping, results: str | pathlib.Path, schema: type) -> list[str]:
    """When, on what and by which commands the rows were measured.

    Args:
        table: an entry of `read_tables`.
        results: folder of the records.
        schema: what its records must be, of `records`.

    Returns:
        Lines of Markdown.

    Raises:
        ValueError: a record is not there, or damaged.
    """
    names = [name for row in table["row"] for name in record_names(row, table)]
    starts, trained, seeds = [], [], set()
    for name in dict.fromkeys(names):
        record = read_record(results, name, schema)
        starts.append(record.get("evaluation") or record["provenance"])
        if "training" in record:
            trained.append(record["training"])
            seeds.add(record["config"]["seed"])
        for variant in record.get("variants", ()):
            seeds |= {run["seed"] for run in variant["runs"]}
        if "suites" in record or "kinds" in record:  # of a benchmark, or of faults
            seeds.add(record["settings"]["seed"])
    lines = []
    if starts:
        when = f"Measured {_dates(starts)}"
        if trained:
            when = f"Trained {_dates(trained)}, evaluated {_dates(starts)}"
        if _dates(trained) == _dates(starts):
            when = f"Trained and evaluated {_dates(starts)}"
        numbers = ", ".join(map(str, sorted(seeds)))
        lines.append(
            f"{when}; {_machines([*starts, *trained])}; seed{'s' * (len(seeds) > 1)} {numbers}."
        )
    if table.get("note"):
        lines.append(table["note"])
    if table.get("commands", True):
        commands = _commands(table)
        lines += ["", "```bash", *commands, "```"] if commands else []
    return lines


def _commands(table: Mapping) -> list[str]:
    """The commands of the rows, each once; the first record's seed stands for the others."""
    commands = list(table.get("before", ()))
    for row in table["row"]:
        commands += [row["train"]] if "train" in row else []
        if "command" in row:
            commands.append(f"{row['command']} --record=results/{record_names(row, table)[0]}")
    return [wrap(command) for command in dict.fromkeys(commands)]


def wrap(command: str, width: int = 100) -> str:
    """A command on lines of at most `width` characters, continued with backslashes."""
    lines, line = [], ""
    for word in re.findall(r"(?:[^\s'\"]|'[^']*'|\"[^\"]*\")+", command):
        if line and len(line) + len(word) + 3 > width:
            lines.append(line + " \\")
            line = "   "
        line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def _dates(starts: Sequence[Mapping]) -> str:
    months: dict[str, list[str]] = {}
    for day in sorted({start["time"][:10] for start in starts}):
        year, month, number = map(int, day.split("-"))
        months.setdefault(f"{_MONTHS[month - 1]} {year}", []).append(str(number))
    return ", ".join(f"{_listed(days)} {month}" for month, days in months.items())


def _machines(starts: Sequence[Mapping]) -> str:
    """Accelerators by their names; processors, with the cores that were used, where there was none."""
    on_cpu = [start for start in starts if start.get("device", "cpu") == "cpu"]
    names = dict.fromkeys(start["device"] for start in starts if start not in on_cpu)
    names |= dict.fromkeys(start["processor"] for start in on_cpu)
    cores = sorted({start["cores"] for start in on_cpu})
    versions = dict.fromkeys(start["versions"]["jax"] for start in starts)
    count = f", {' or '.join(map(str, cores))} core{'s' * (cores[-1] > 1)}" if cores else ""
    return f"{', '.join(names)}{count}, jax {', '.join(versions)}"


def _listed(words: Sequence[str]) -> str:
    """`1`, `1 and 2`, `1, 2 and 3`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
