"""The list of tables, `results/tables.toml`, and the records that its rows name."""

from __future__ import annotations

import pathlib
import tomllib
from collections.abc import Mapping

from siamese_jax.experiments import records

# Keys of a table that its rows take over.
_SHARED = ("record", "suite", "protocol", "train", "command")


def read_tables(results: str | pathlib.Path) -> dict[str, dict]:
    """The tables of `tables.toml` in the folder of the records, by name.

    Raises:
        ValueError: no such file, it is not TOML, or a name stands twice.
    """
    path = pathlib.Path(results) / "tables.toml"
    if not path.is_file():
        raise ValueError(f"there is no {path}: give the folder of the records")
    try:
        listed = tomllib.loads(path.read_text())["table"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML ({error}): fix it") from None
    for table in listed:
        shared = {key: table[key] for key in _SHARED if key in table}
        table["row"] = [{**shared, **row} for row in table["row"]]
    tables = {table["name"]: table for table in listed}
    if len(tables) < len(listed):
        raise ValueError(f"{path} has two tables of one name: rename one")
    return tables


def read_record(results: str | pathlib.Path, name: str, schema: type = records.Evaluation) -> dict:
    """A record by its name in the folder.

    Args:
        results: the folder.
        name: of the file.
        schema: what the record must be, of `records`.

    Raises:
        ValueError: it is not there, or damaged or no such record.
    """
    try:
        return records.read(pathlib.Path(results) / name, schema)
    except OSError:
        raise ValueError(
            f"tables.toml names the record {name}, which is not in {results}"
        ) from None


def select(record: Mapping, row: Mapping, name: str) -> Mapping:
    """The one result of a record that a row names by protocol, system, `n_way` and `k_shot`.

    Without a `system` it is the first system of the record, which is the trained network.

    Raises:
        ValueError: there is none, or there are several.
    """
    network = record["results"][0]["system"] if record["results"] else None
    wanted = {"name": row["protocol"], "system": row.get("system", network)}
    wanted |= {key: row[key] for key in ("n_way", "k_shot") if key in row}
    matches = [
        result
        for result in record["results"]
        if all(result[key] == value for key, value in wanted.items())
    ]
    if len(matches) != 1:
        raise ValueError(
            f"{name} has {len(matches)} results with {wanted}; the row {row['label']!r} needs one"
        )
    return matches[0]


def record_names(row: Mapping, table: Mapping) -> list[str]:
    """The files of a row: `{seed}` in its `record` stands for each of its seeds or the table's."""
    if "record" not in row:
        return []
    seeds = row.get("seeds", table.get("seeds", [0])) if "{seed}" in row["record"] else [0]
    return [row["record"].format(seed=seed) for seed in seeds]
