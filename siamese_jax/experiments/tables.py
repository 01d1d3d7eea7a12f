"""Tables 1, 2 and 3 of Koch et al. (2015): the paper's figures beside those of recorded runs.

A figure of ours is only ever read from a record, as `launch/evaluate.py --record` writes it, and a
record fills the row that its own config describes, whatever its file is called. A row without a record
says "not yet run".

References:
    Koch, Zemel, Salakhutdinov (2015), Siamese neural networks for one-shot image recognition,
    section 4.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from siamese_jax.evaluation import metrics
from siamese_jax.runs import workdir

FULL, REDUCED = 105, 35  # pixels a side
PAIRS = (30_000, 90_000, 150_000)
COPIES = (0, 8)  # distorted copies of each pair
BEST = (150_000, 8)  # what Tables 2 and 3 are expected of

TABLE_1 = {  # verification accuracy, %, by pairs and copies
    (30_000, 0): 90.61,
    (30_000, 8): 91.90,
    (90_000, 0): 91.54,
    (90_000, 8): 93.15,
    (150_000, 0): 91.63,
    (150_000, 8): 93.42,
}
TABLE_2 = (  # 20-way one-shot accuracy, %; the encoder or the system of a record that is compared
    ("humans", 95.5, None),
    ("hierarchical Bayesian program learning", 95.2, None),
    ("affine model", 81.8, None),
    ("hierarchical deep", 65.2, None),
    ("deep Boltzmann machine", 62.0, None),
    ("simple stroke", 35.2, None),
    ("1-nearest neighbour", 21.7, "pixel 1-NN"),
    ("siamese net, fully connected", 58.3, "dense"),
    ("siamese net, convolutional", 92.0, "koch"),
)
TABLE_3 = (  # 10-way one-shot accuracy on MNIST, %
    ("1-nearest neighbour", 26.5, "pixel 1-NN"),
    ("siamese net, convolutional", 70.3, "koch"),
)
NOT_RUN = "not yet run"

# What is published of a network and of its training. The fully connected net's initialisation is not
# told apart from the dense layer's.
_PUBLISHED = {
    "koch": {
        "model.encoder_args.filters": [64, 128, 128, 256],
        "model.encoder_args.kernels": [10, 7, 4, 4],
        "model.encoder_args.units": 4096,
        "model.encoder_args.conv_std": 0.01,
        "model.encoder_args.dense_std": 0.2,
        "model.encoder_args.bias_mean": 0.5,
    },
    "dense": {"model.encoder_args.std": 0.2, "model.encoder_args.bias_mean": 0.5},
}
_PUBLISHED_OF_BOTH = {
    "model.head_args.kernel_mean": 0.0,
    "model.head_args.kernel_std": 0.2,
    "model.head_args.bias_mean": 0.5,
    "objective.batch": 128,
    "objective.symmetries": "none",
    "optim.name": "layerwise",
    "optim.decay": 0.99,
    "optim.momentum_start": 0.5,
}
_SIZES = ("filters", "kernels", "hidden", "units")  # published for "koch" at full size only
_DISTORTIONS = {
    "rotation": 10.0,
    "shear": 0.3,
    "scale": [0.8, 1.2],
    "translation": 2.0,
    "probability": 0.5,
}
_EVALUATE = {  # flags of launch/evaluate.py by table
    1: "--protocols=verification",
    2: "--protocols=official",
    3: "--test_data=mnist --protocols=within --n_way=10 --num_trials=400",
}


class Setting(NamedTuple):
    """What a run was, as far as it decides which row it fills.

    Attributes:
        encoder: `koch` or `dense`.
        size: side of the images, pixels.
        pairs: size of the pair set.
        copies: distorted copies of each pair.
        negatives: where the second image of a different training pair comes from.
        changes: what differs from the published settings, in words.
    """

    encoder: str
    size: int
    pairs: int
    copies: int
    negatives: str
    changes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Record:
    """One recorded run.

    Attributes:
        name: of the file.
        config: of the run.
        training: its provenance.
        evaluation: provenance of the figures.
        results: the figures.
        test: name of the data that evaluated it: that of the config's `test_data`, else `omniglot`.
        setting: what it was, or None.
        why: why it is no run of the tables; empty for a run that is one.
    """

    name: str
    config: Mapping
    training: Mapping
    evaluation: Mapping
    results: Sequence[Mapping]
    test: str
    setting: Setting | None
    why: str


class Line(NamedTuple):
    """One line of a table.

    Attributes:
        label: of the row.
        paper: its figure, %.
        kind: `network`, `baseline`, or `quoted` for what is not built here.
        runs: records and their results, by seed.
        stated: choices that the figure depends on.
        command: what trains a network, but for the seed and the workdir.
    """

    label: str
    paper: float
    kind: str
    runs: tuple[tuple[Record, Mapping], ...] = ()
    stated: str = ""
    command: str = ""


class Table(NamedTuple):
    """A table: its title, its lines, and which of the paper's tables it is."""

    title: str
    lines: tuple[Line, ...]
    number: int


# ---------------------------------------------------------------------------------------- records


def read_records(folder: str | pathlib.Path) -> tuple[list[Record], list[str]]:
    """All records of a folder, and the names of its other JSON files.

    Raises:
        ValueError: no such folder, or a file that is not JSON.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give the one with the records of runs")
    records, others = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            held = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}): mend or remove it") from None
        needed = ("config", "training", "evaluation", "results")
        if not (isinstance(held, dict) and all(field in held for field in needed)):
            others.append(path.name)
            continue
        setting, why = None, ""
        try:
            setting = setting_of(held["config"], held["training"].get("data", "unknown data"))
        except ValueError as error:
            why = str(error)
        test = (held["config"].get("test_data") or {}).get("name", "omniglot")
        records.append(Record(path.name, *(held[field] for field in needed), test, setting, why))
    return records, others


def setting_of(config: Mapping, data: str) -> Setting:
    """What a run was, from its config and its provenance's line on the data.

    Raises:
        ValueError: it is no run of the paper's, with the reason.
    """
    flat = workdir.flatten(config)
    encoder, comparator = config["model"]["encoder"], config["model"]["comparator"]
    objective = config["objective"]
    if not data.startswith("Omniglot, split koch"):
        raise ValueError(f"its data are: {data}")
    if encoder not in _PUBLISHED or comparator != "l1":
        raise ValueError(f"its network is {encoder} with {comparator}")
    if objective["name"] != "verification":
        raise ValueError(f"its objective is {objective['name']}")
    pairs, copies = objective.get("pairs", 0), objective.get("copies", 0)
    if pairs not in PAIRS:
        raise ValueError("its pairs are drawn anew" if not pairs else f"its pair set has {pairs}")
    if copies not in COPIES:
        raise ValueError(f"its pairs have {copies} copies")
    augment = config["augment"]
    if augment["distort"] != bool(copies):
        raise ValueError(f"augment.distort is {augment['distort']} with {copies} copies")
    if copies and (augment["affine"] != _DISTORTIONS or augment.get("elastic_size")):
        raise ValueError("its distortions are not the published ones")
    size = config["data"]["image_size"]
    if size not in ([FULL, FULL], [REDUCED, REDUCED]):
        raise ValueError(f"its images are {size}")
    changes = []
    for field, value in {**_PUBLISHED[encoder], **_PUBLISHED_OF_BOTH}.items():
        if size[0] == REDUCED and field.rpartition(".")[2] in _SIZES:
            continue
        # Without the field the models take the published value, but for the dense encoder.
        own = encoder == "dense" and field in _PUBLISHED["dense"]
        found = flat.get(field, None if own else value)
        if found != value:
            changes.append(f"{field} = {found}, published {value}")
    return Setting(encoder, size[0], pairs, copies, objective["negatives"], tuple(changes))


def _result(record: Record, system: str, protocol: str, n_way: int | None) -> Mapping | None:
    """The one result of a record by a protocol, or None. `koch` and `dense` mean its network.

    Raises:
        ValueError: there are several.
    """
    network = system in _PUBLISHED  # whose name ends in its step
    found = [
        result
        for result in record.results
        if (result["name"], result["n_way"]) == (protocol, n_way)
        and result["k_shot"] in (None, 1)
        and (re.search(r" @ \d+$", result["system"]) if network else result["system"] == system)
    ]
    if len(found) > 1:
        raise ValueError(
            f"{record.name} has {len(found)} results of {system} by {protocol}: one must go"
        )
    return found[0] if found else None


# ----------------------------------------------------------------------------------------- tables


def make_tables(records: Sequence[Record]) -> tuple[Table, ...]:
    """The paper's three tables, the first two once at full size and once reduced.

    Raises:
        ValueError: records of one row do not go together: one seed twice, other settings, or other
            trials.
    """
    sizes = {
        FULL: "105x105, as published",
        REDUCED: "REDUCED to 35x35 and a smaller network for CPUs; the paper's figures are at 105x105",
    }
    tables = []
    for size, words in sizes.items():
        lines = []
        for (pairs, copies), paper in TABLE_1.items():
            lines += _network_lines(
                records,
                "koch",
                size,
                (pairs, copies),
                "",
                paper,
                ("omniglot", "verification", None),
            )
        tables.append(Table(f"Table 1, verification accuracy; {words}", tuple(lines), 1))
    for size, words in sizes.items():
        asked = "official", 20
        lines = _one_shot_lines(records, TABLE_2, size, ("omniglot", *asked), size == FULL)
        title = f"Table 2, 20-way one-shot within an alphabet, the official runs; {words}"
        tables.append(Table(title, lines, 2))
    lines = _one_shot_lines(records, TABLE_3, REDUCED, ("mnist", "within", 10), True)
    title = "Table 3, MNIST 10-way one-shot, trained on Omniglot, 35x35 as in the paper"
    tables.append(Table(title, lines, 3))
    return tuple(tables)


def _one_shot_lines(records, rows, size, asked, with_others) -> tuple[Line, ...]:
    lines = []
    for label, paper, system in rows:
        if system in _PUBLISHED:
            shown = {BEST} | {
                (r.setting.pairs, r.setting.copies)
                for r in records
                if r.setting and (r.setting.encoder, r.setting.size) == (system, size)
                if r.test == asked[0] and _result(r, system, *asked[1:])
            }
            for kind in sorted(shown, reverse=True):
                lines += _network_lines(records, system, size, kind, label, paper, asked)
        elif with_others:
            runs = _baseline_runs(records, system, asked) if system else ()
            lines.append(Line(label, paper, "baseline" if system else "quoted", runs))
    return tuple(lines)


def _network_lines(records, encoder, size, kind, label, paper, asked) -> list[Line]:
    """The lines of one row: as published, and one for every other setting that was recorded."""
    test, *protocol = asked
    held: dict[tuple, list] = {}
    for record in records:
        s = record.setting
        if s and (s.encoder, s.size, s.pairs, s.copies) == (encoder, size, *kind):
            result = _result(record, encoder, *protocol) if record.test == test else None
            if result:
                held.setdefault((s.changes, s.negatives), []).append((record, result))
    pairs, copies = kind
    what = f"{pairs // 1000}k pairs, {f'affine x{copies}' if copies else 'no distortions'}"
    label = f"{label}, {what}" if label else what
    if size == REDUCED and test == "omniglot":
        label += " (reduced)"
    command = _command(encoder, size, pairs, copies)
    lines = []
    if not any(not changes for changes, _ in held):
        lines.append(Line(label, paper, "network", command=command))
    for (changes, negatives), runs in sorted(held.items()):
        runs.sort(key=lambda run: run[0].config["seed"])
        _check(label, runs)
        stated = [f"trained with {negatives} negatives"]
        if runs[0][1]["name"] == "verification":
            stated.append(f"tested with {runs[0][1]['scope']}")
        if size == REDUCED or encoder == "dense":
            args = runs[0][0].config["model"]["encoder_args"]
            stated += [f"{name} {args[name]}" for name in _SIZES if name in args]
        other = "; OTHER SETTINGS" if changes else ""
        stated = "; ".join([*changes, *stated])
        lines.append(Line(label + other, paper, "network", tuple(runs), stated, command))
    return lines


def _check(label: str, runs) -> None:
    """That the runs of a line differ in their seeds and in nothing else."""
    first, result = runs[0]
    for (before, _), (record, _) in zip(runs, runs[1:], strict=False):
        if before.config["seed"] == record.config["seed"]:
            raise ValueError(
                f"{before.name} and {record.name} are both seed {record.config['seed']} of the row "
                f"{label!r}: one must go"
            )
    for record, other in runs:
        differ = workdir.differences(first.config, {**record.config, "seed": first.config["seed"]})
        if differ:
            raise ValueError(
                f"{first.name} and {record.name} are of the row {label!r} but differ: "
                f"{'; '.join(differ)}"
            )
        if other["trial_hash"] != result["trial_hash"]:
            raise ValueError(
                f"{first.name} and {record.name} are of the row {label!r} but were evaluated by the "
                f"trials {result['trial_hash']} and {other['trial_hash']}"
            )
        if other["name"] == "verification" and "validation_hash" not in other["figures"]:
            raise ValueError(f"{record.name}: its threshold was not chosen on validation pairs")


def _baseline_runs(records, system, asked) -> tuple:
    """The first record's result of a baseline; all records must agree."""
    test, *protocol = asked
    runs = [(r, _result(r, system, *protocol)) for r in records if r.test == test]
    runs = [(record, result) for record, result in runs if result]
    for record, result in runs[1:]:
        same = [(x["accuracy"], x["trial_hash"]) for x in (result, runs[0][1])]
        if same[0] != same[1]:
            raise ValueError(
                f"{runs[0][0].name} and {record.name} differ in {system}: {same[1]} and {same[0]}"
            )
    return tuple(runs[:1])


def _command(encoder: str, size: int, pairs: int, copies: int) -> str:
    """What trains a row, but for the seed and the workdir."""
    words = [f"pairs={pairs // 1000}k"]
    words += ["affine"] if copies else []
    words += ["dense"] if encoder == "dense" else []
    words += ["reduced"] if size == REDUCED else []
    return f"python launch/train.py --config=configs/koch2015.py:{','.join(words)}"


# ------------------------------------------------------------------------------------------- text

_HEADER = ("row", "paper %", "ours %", "95 % over seeds", "95 % over trials", "seeds", "trials")
_HEADER += ("hash", "stated")


def format_tables(tables: Sequence[Table], *, markdown: bool = False) -> str:
    """The tables, each with the commands of its lines.

    A figure is the mean over the seeds that were run. The interval over seeds is a t interval, and
    needs two of them; that over trials is Wilson's, of all trials of all seeds.

    Args:
        tables: of `make_tables`.
        markdown: whether to write Markdown.
    """
    parts = []
    for table in tables:
        rows = [_HEADER, *(_cells(line, 2 if table.number == 1 else 1) for line in table.lines)]
        if markdown:
            lines = ["| " + " | ".join(row) + " |" for row in rows]
            lines.insert(1, "|---" * len(_HEADER) + "|")
            title = f"### {table.title}"
        else:
            widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
            lines = [
                "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
                for row in rows
            ]
            title = table.title
        commands = [command for line in table.lines for command in _commands(line)]
        evaluate = f"python launch/evaluate.py --workdir=DIR {_EVALUATE[table.number]}"
        commands.append(f"each is evaluated by: {evaluate} --record=results/NAME.json")
        if markdown:
            commands = ["- " + re.sub(r"(python .*)", r"`\1`", command) for command in commands]
        else:
            commands = [f"  {command}" for command in commands]
        parts.append("\n".join([title, "", *lines, "", *commands]))
    return "\n\n".join(parts)


def _cells(line: Line, digits: int) -> tuple[str, ...]:
    """A line as text; the paper's figure with as many digits as it has there."""
    if not line.runs:
        ours = "-" if line.kind == "quoted" else NOT_RUN
        return (line.label, f"{line.paper:.{digits}f}", ours, *["-"] * 6)
    values = [result["accuracy"] for _, result in line.runs]
    counts = [result["num_trials"] for _, result in line.runs]
    right = sum(v * n for v, n in zip(values, counts, strict=True))
    seeds = [str(record.config["seed"]) for record, _ in line.runs if line.kind == "network"]
    return (
        line.label,
        f"{line.paper:.{digits}f}",
        f"{100 * sum(values) / len(values):.2f}",
        _interval(metrics.seed_interval(values)),
        _interval(metrics.wilson_interval(right, sum(counts))),
        ", ".join(seeds) or "-",
        f"{counts[0]:,}",
        line.runs[0][1]["trial_hash"],
        line.stated or "-",
    )


def _interval(limits: tuple[float, float]) -> str:
    return "-" if math.isnan(limits[0]) else " - ".join(f"{100 * x:.1f}" for x in limits)


def _commands(line: Line) -> list[str]:
    """How each figure of a line came about, or how it would."""
    if line.kind == "network" and not line.runs:
        return [f"{line.label}, to run: {line.command} --workdir=DIR"]
    shown = []
    for record, _ in line.runs:
        starts = [("trained", record.training), ("evaluated", record.evaluation)]
        for kind, start in starts if line.kind == "network" else starts[1:]:
            when = f"{kind} {start['time'][:10]} at {(start['commit'] or 'no commit')[:9]}"
            command = f"python {shlex.join(start['command'])}"
            shown.append(f"{line.label}, {record.name}, {when}: {command}")
    return shown


def unused(tables: Sequence[Table], records: Sequence[Record], others: Sequence[str]) -> str:
    """One line that names the files of which no network's figure is in the tables, and why."""
    lines = [line for table in tables for line in table.lines if line.kind == "network"]
    used = {record.name for line in lines for record, _ in line.runs}
    left = [f"{name} (no record of launch/evaluate.py)" for name in others]
    for record in records:
        if record.name not in used:
            left.append(f"{record.name} ({record.why or 'it has no result that a table asks for'})")
    return f"Files that fill no row of a network: {', '.join(sorted(left))}." if left else ""
