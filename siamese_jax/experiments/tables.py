"""The tables of README and docs, rendered from the records in `results/`.

`results/tables.toml` lists every table: its rows, the record that each row is read from, and the
command that made the record. A page holds a table between two markers:

    <!-- table: NAME -->
    <!-- end -->

What stands between them is rendered, never written by hand. There are four kinds of tables, one for
each kind of record: `evaluation` (`launch/evaluate.py --record`), `ablation` (`launch/ablate.py
--record`), `benchmark` (`launch/benchmark.py --record`) and `faults` (`python -m tests.faults`).
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import tomllib
from collections.abc import Mapping, Sequence

import numpy as np

from siamese_jax import readers
from siamese_jax.data import splits
from siamese_jax.evaluation import intervals
from siamese_jax.experiments import records
from siamese_jax.runs import workdir

NOT_RUN = "not yet run"

_MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
_SHARED = (
    "record",
    "suite",
    "protocol",
    "train",
    "command",
)  # keys of a table that its rows take over
_SCHEMAS = {
    "evaluation": records.Evaluation,
    "ablation": records.Ablation,
    "benchmark": records.Benchmark,
    "faults": records.Faults,
}
_COLUMNS = {  # of a table of evaluations, in the order in which they may be named
    "paper": "paper, %",
    "aim": "aim, %",
    "value": "accuracy, %",
    "seeds": "by seed, %",
    "wilson": "95 % over trials",
    "over_seeds": "95 % over seeds",
    "clustered": "95 % over clusters",
    "trials": "trials",
    "hash": "trials' hash",
    "source": "source",
}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One figure of one system, measured with one or several seeds on the same trials.

    Attributes:
        values: the figure by seed, in [0, 1].
        seeds: the seeds of the runs.
        num_trials: trials (or pairs) of the one list that every seed met.
        trial_hash: of that list.
        interval: of an accuracy the limits over clusters (alphabets; classes or files where there
            are none) of the seeds' mean; of another figure those that the first record gives.
    """

    values: tuple[float, ...]
    seeds: tuple[int, ...]
    num_trials: int
    trial_hash: str
    interval: tuple[float, float]

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean([100 * value for value in self.values])) / 100  # as every Python adds

    @property
    def over_trials(self) -> tuple[float, float]:
        """95 % Wilson interval of the mean, at the trials of one seed.

        Further seeds meet the same trials, so they add no trials to the list.
        """
        return intervals.wilson_interval(self.mean * self.num_trials, self.num_trials)

    @property
    def over_seeds(self) -> tuple[float, float]:
        """95 % t interval of the mean over seeds; NaN for one seed."""
        return intervals.seed_interval(self.values)


# ------------------------------------------------------------------------------------ list and records


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
        raise ValueError(f"{path} is not TOML ({error}): mend it") from None
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


def measure(results: str | pathlib.Path, row: Mapping, table: Mapping) -> Measurement | None:
    """The measurement of a row of a table of evaluations; None where it has no record.

    Raises:
        ValueError: a record is missing or has no such result, or the records of the row differ in
            more than their seeds or were evaluated on different trials.
    """
    names = record_names(row, table)
    if not names:
        return None
    read = [read_record(results, name) for name in names]
    _check_seeds(row["label"], names, read)
    rows = [select(record, row, name) for record, name in zip(read, names, strict=True)]
    if len({result["trial_hash"] for result in rows}) > 1:
        raise ValueError(f"the records of the row {row['label']!r} were evaluated on other trials")
    figure = row.get("figure", "accuracy")
    first = rows[0]
    if group := row.get("member"):
        parts = [result.get("per_group", {}).get(group) for result in rows]
        if None in parts:
            raise ValueError(f"a record of the row {row['label']!r} has no group {group!r}")
        num_trials = parts[0]["num_trials"]
        values, interval = [part["accuracy"] for part in parts], (math.nan, math.nan)
    elif figure == "accuracy":
        num_trials = first["num_trials"]
        values, interval = [result["accuracy"] for result in rows], _over_clusters(rows)
    else:
        num_trials = first["num_trials"]
        values = [result["figures"].get(figure) for result in rows]
        interval = first["figures"].get(f"{figure}_interval", (math.nan, math.nan))
    if any(not isinstance(value, int | float) for value in values):
        raise ValueError(f"a record of the row {row['label']!r} has no number as its {figure}")
    seeds = [record["config"]["seed"] for record in read]
    low, high = interval
    return Measurement(tuple(values), tuple(seeds), num_trials, first["trial_hash"], (low, high))


def _over_clusters(rows: Sequence[Mapping]) -> tuple[float, float]:
    """95 % interval over clusters of the mean of results on the same trials.

    NaN where a record gives the accuracy as a whole only.
    """
    if any("per_group" not in row for row in rows):
        return math.nan, math.nan
    groups = rows[0]["per_group"]
    mean = {
        name: {
            "accuracy": sum(row["per_group"][name]["accuracy"] for row in rows) / len(rows),
            "num_trials": figures["num_trials"],
        }
        for name, figures in groups.items()
    }
    official = rows[0]["name"] in ("official", "assignment/official")
    cluster_of = {name: splits.OFFICIAL_RUNS[name] if official else name for name in groups}
    return intervals.grouped_interval(mean, cluster_of)


def _check_seeds(label: str, names: Sequence[str], read: Sequence[Mapping]) -> None:
    """That the records of a row differ in their seeds and in nothing else."""
    first = read[0]["config"]
    seeds = [record["config"]["seed"] for record in read]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"two records of the row {label!r} have one seed: {', '.join(names)}")
    for name, record in zip(names, read, strict=True):
        changes = workdir.differences(first, {**record["config"], "seed": first["seed"]})
        if changes:
            raise ValueError(
                f"{names[0]} and {name} are of the row {label!r} but differ: {'; '.join(changes)}"
            )


# ------------------------------------------------------------------------------------------ rendering


def render(table: Mapping, results: str | pathlib.Path) -> str:
    """A table as Markdown, with what it was measured by beneath.

    Args:
        table: an entry of `read_tables`.
        results: folder of the records.

    Raises:
        ValueError: an unknown kind, or what `measure` raises.
    """
    kinds = {"evaluation": _evaluation, "ablation": _ablation, "benchmark": _benchmark}
    kinds["faults"] = _faults
    kind = table.get("kind", "evaluation")
    if kind not in kinds:
        raise ValueError(f"table {table['name']}: kind must be one of {', '.join(kinds)}")
    header, rows = kinds[kind](table, results)
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    lines.insert(1, "|---" * len(header) + "|")
    return "\n".join([*lines, "", *_beneath(table, results)]) + "\n"


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
                tuple(run["seed"] for run in variant["runs"]),
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


# ------------------------------------------------------------------------------------ beneath a table


def _faults(table: Mapping, results: str | pathlib.Path) -> tuple[list[str], list[list[str]]]:
    rows = []
    for row in table["row"]:
        kinds = read_record(results, row["record"], records.Faults)["kinds"]
        rows += [[kind["kind"], f"{kind['cases']:,}", str(kind["failed"])] for kind in kinds]
        total = [sum(kind[name] for kind in kinds) for name in ("cases", "failed")]
        rows.append(["all", f"{total[0]:,}", str(total[1])])
    return ["fault", "cases", "failed"], rows


def _beneath(table: Mapping, results: str | pathlib.Path) -> list[str]:
    """When, on what and by which commands the rows were measured."""
    names = [name for row in table["row"] for name in record_names(row, table)]
    starts, trained, seeds = [], [], set()
    for name in dict.fromkeys(names):
        schema = _SCHEMAS[table.get("kind", "evaluation")]
        record = read_record(results, name, schema)
        starts.append(record.get("evaluation") or record["provenance"])
        if "training" in record:
            trained.append(record["training"])
            seeds.add(record["config"]["seed"])
        for variant in record.get("variants", ()):
            seeds |= {run["seed"] for run in variant["runs"]}
        seeds |= {record["settings"]["seed"]} if {"suites", "kinds"} & record.keys() else set()
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
    return ", ".join(f"{' and '.join(days)} {month}" for month, days in months.items())


def _machines(starts: Sequence[Mapping]) -> str:
    """Accelerators by their names; processors, with the cores that were used, where there was none."""
    on_cpu = [start for start in starts if start.get("device", "cpu") == "cpu"]
    names = dict.fromkeys(start["device"] for start in starts if start not in on_cpu)
    names |= dict.fromkeys(start["processor"] for start in on_cpu)
    cores = sorted({start["cores"] for start in on_cpu})
    versions = dict.fromkeys(start["versions"]["jax"] for start in starts)
    count = f", {' or '.join(map(str, cores))} core{'s' * (cores[-1] > 1)}" if cores else ""
    return f"{', '.join(names)}{count}, jax {', '.join(versions)}"


# ---------------------------------------------------------------------------------------------- pages


def update(text: str, tables: Mapping[str, Mapping], results: str | pathlib.Path) -> str:
    """A page with every table between markers rendered anew.

    Raises:
        ValueError: a marker names no table, or has no end.
    """

    def rendered(match: re.Match) -> str:
        begin, name, _, end = match.groups()
        if name not in tables:
            raise ValueError(f"there is no table {name!r} in tables.toml: mend the marker")
        return f"{begin}{render(tables[name], results)}{end}"

    if text.count("<!-- table: ") != len(_MARKED.findall(text)):
        raise ValueError("a marker <!-- table: NAME --> has no <!-- end --> of its own")
    return _MARKED.sub(rendered, text)


def update_pages(
    pages: Sequence[str | pathlib.Path], results: str | pathlib.Path
) -> dict[pathlib.Path, str]:
    """The new text of every page whose tables are not what the records say.

    Raises:
        ValueError: see `update`; or a table of the list stands on no page.
    """
    tables = read_tables(results)
    changed: dict[pathlib.Path, str] = {}
    used: set[str] = set()
    for page in map(pathlib.Path, pages):
        text = page.read_text()
        used |= {name for _, name, _, _ in _MARKED.findall(text)}
        new = update(text, tables, results)
        if new != text:
            changed[page] = new
    unused = [name for name in tables if name not in used]
    if unused:
        raise ValueError(f"tables.toml has tables that stand on no page: {', '.join(unused)}")
    return changed
