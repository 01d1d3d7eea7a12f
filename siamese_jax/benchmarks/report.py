"""The table and the record of a benchmark."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from siamese_jax import cli
from siamese_jax.benchmarks.measure import Row
from siamese_jax.runs import workdir


def text_table(rows: Sequence[Row]) -> str:
    """The rows in columns, under their groups; quartiles are those of the time of a call."""
    cells = [["", "a call", "quartiles", "rate", "GFLOP/s", "share", "speed", "note"]]
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            cells.append([group, *[""] * 7])
        name = f"  {row.name}"
        if row.seconds is None:
            cells.append([name, *["-"] * 6, row.note])
            continue
        notes = [row.note] if row.note else []
        if row.against not in (None, row.name):
            notes.append(f"speed against {row.against}")
        cells.append(
            [
                name,
                _time(row.seconds),
                " - ".join(_time(t) for t in row.quartiles or ()),
                "-" if row.per_second is None else f"{_digits(row.per_second)} {row.unit}/s",
                "-" if row.gflops is None else _digits(row.gflops),
                "-" if row.share is None else f"{row.share:.1%} of {row.share_of}",
                "-" if row.ratio is None else f"{row.ratio:.2f}x",
                "; ".join(notes),
            ]
        )
    return cli.text_table(cells)


def record(settings: Mapping, product: Row, suites: Mapping[str, Sequence[Row]]) -> dict:
    """What the JSON file holds: provenance without folders and URLs, settings, and all rows.

    Args:
        settings: of the measurement.
        product: the float32 matrix product of the same run.
        suites: rows by suite.
    """
    origin = workdir.provenance()
    origin["command"] = workdir.command_without_places(origin["command"])
    return {
        "provenance": origin,
        "settings": dict(settings),
        "matrix_product": _plain(product),
        "suites": {name: [_plain(row) for row in rows] for name, rows in suites.items()},
    }


def _plain(row: Row) -> dict:
    """The fields of a row that say something, in six digits."""
    fields = {}
    for name, value in dataclasses.asdict(row).items():
        if isinstance(value, tuple):
            value = [float(f"{x:.6g}") for x in value]
        elif isinstance(value, float):
            value = float(f"{value:.6g}")
        if value not in (None, ""):
            fields[name] = value
    return fields


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds / 1e-6)} us"


def _digits(value: float) -> str:
    """Three digits or more: 0.0123, 1.23, 12.3, 1,230."""
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f}"
