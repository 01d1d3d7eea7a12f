"""The Python of README runs as it stands there."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from siamese_jax.data import loading
from siamese_jax.evaluation import metrics
from siamese_jax.experiments import tables

ROOT = pathlib.Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train_and_evaluate", r"right: [01]\.\d+\nembeddings: \(10, 16\)"),
        ("print_table", r"mine +runs .* 20 +1 +400 .*\nmine +within "),
        ("load_iris", r"^$"),
    ],
)
def test_block_runs(word, expected, tmp_path):
    (block,) = [block for block in BLOCKS if word in block]
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout), done.stdout
    if word == "load_iris":
        data = loading.load({"name": "vectors", "path": str(tmp_path / "iris.csv")})
        assert data.train.num_classes + data.validation.num_classes + data.test.num_classes == 3


def test_every_file_and_flag_that_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    for path in set(re.findall(r"(?:launch|configs|results)/[\w./]+\w", text)):
        assert (ROOT / path).exists(), path


def test_the_quickstart_table_is_the_recorded_run():
    record = json.loads((ROOT / "results/quickstart.json").read_text())
    rows = {(r["system"], r["name"]): r for r in record["results"]}
    (network,) = {system for system, _ in rows if system.startswith("quickstart @")}
    table = re.findall(
        r"^\| (network|pixel 1-NN|modified Hausdorff|random) \| (\w+)[^|]*\|[^|]*\| "
        r"\*{0,2}([\d.]+)\*{0,2} \| ([\d.]+) - ([\d.]+) \| ([\d.]+) - ([\d.]+) \| `(\w+)` \|",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    assert len(table) >= 8
    for system, name, *shown, trial_hash in table:
        row = rows[network if system == "network" else system, name]
        figures = [row["accuracy"], *row["wilson"], *row["bootstrap"]]
        digits = [2, 1, 1, 1, 1]
        expected = [f"{100 * x:.{d}f}" for x, d in zip(figures, digits, strict=True)]
        assert (list(shown), trial_hash) == (expected, row["trial_hash"]), (system, name)


def test_the_objective_table_is_the_recorded_ablation():
    record = json.loads((ROOT / "results/objective.json").read_text())
    rows = {v["variant"]: v for v in record["variants"]}
    table = re.findall(
        r"^\| ([\w+]+) \| [^|]+ \| ([\d.]+) ±([\d.]+) \| ([\d.]+) ±([\d.]+) \| ([\d.]+) ±([\d.]+) \|$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    found = {name: shown for name, *shown in table if name in rows}
    assert found.keys() == rows.keys()
    for name, shown in found.items():
        for protocol, mean, half in zip(
            ("official", "within", "training"), shown[::2], shown[1::2], strict=True
        ):
            figure = rows[name][protocol]
            assert f"{100 * figure['mean']:.2f}" == mean
            assert f"{100 * (figure['mean'] - figure['t_interval'][0]):.2f}" == half


def test_the_tables_of_faces_and_digits_are_the_recorded_runs():
    text = (ROOT / "README.md").read_text()
    for seed in range(3):
        record = json.loads((ROOT / f"results/faces_seed{seed}.json").read_text())
        own = {r["name"]: r for r in record["results"] if r["system"].startswith("faces")}
        eer = 100 * own["verification"]["figures"]["eer"]
        assert f"| network, seed {seed} | {eer:.2f} |" in text
        assert f"| {100 * own['within']['accuracy']:.2f} |" in text
    for protocol in ("official", "within"):
        values = []
        for seed in range(3):
            record = json.loads((ROOT / f"results/digits_seed{seed}.json").read_text())
            own = {r["name"]: r for r in record["results"] if r["system"].startswith("digits")}
            values.append(100 * own[protocol]["accuracy"])
        told = ", ".join(f"{value:.2f}" for value in values)
        assert f"**{sum(values) / 3:.2f}** ({told})" in text


def test_the_tables_of_the_paper_are_the_records():
    """Row by row in the order of `launch/tables.py`: paper, ours, both intervals, seeds."""
    records, _ = tables.read_records(ROOT / "results")
    _, one, _, two, three = tables.make_tables(records)
    expected = [
        list(tables._cells(line, 2 if table.number == 1 else 1)[1:6])
        for table in (one, two, three)
        for line in table.lines
    ]
    text = (ROOT / "README.md").read_text()
    text = text[text.index("<!-- koch -->") : text.index("<!-- /koch -->")]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = [cells[1:] for cells in rows if cells[0] != "row"]
    assert rows == expected and len(rows) >= 12


def test_the_tables_of_the_best_network_are_the_records():
    """Rows in README's order: a record's name, the protocol in it."""
    text = (ROOT / "README.md").read_text()
    text = text[text.index("<!-- best -->") : text.index("<!-- /best -->")]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    seeds = [int(cell.split()[1]) for cell in rows[0] if cell.startswith("seed ")]

    def result(record, seed, protocol):
        held = json.loads((ROOT / f"results/best/{record}_seed{seed}.json").read_text())
        (found,) = (r for r in held["results"] if r["name"] == protocol)
        return found

    asked = [("main", "official"), ("views", "official"), ("main", "within"), ("views", "within")]
    asked += [("validation", "within"), ("validation_views", "within"), ("both", "within")]
    asked += [("more", "between"), ("more", "verification"), ("same", "verification")]
    asked += [("mnist", "within"), ("mnist_views", "within")]
    header = next(i for i, cells in enumerate(rows) if cells[0].startswith("alphabet"))
    for cells, (record, protocol) in zip(rows[1:header], asked, strict=True):
        values = [100 * result(record, seed, protocol)["accuracy"] for seed in seeds]
        assert cells[1 : 1 + len(seeds)] == [f"{value:.2f}" for value in values], cells
        assert cells[1 + len(seeds)] == f"**{sum(values) / len(values):.2f}**"
        low, high = result(record, seeds[0], protocol)["bootstrap"]
        assert cells[2 + len(seeds)] == f"{100 * low:.1f} - {100 * high:.1f}"
    groups = [result("views", seed, "within")["per_group"] for seed in seeds]
    assert [cells[0] for cells in rows[header + 1 :]] == list(groups[0])
    for cells, name in zip(rows[header + 1 :], groups[0], strict=True):
        values = [100 * group[name]["accuracy"] for group in groups]
        assert cells[1:-1] == [f"{value:.1f}" for value in (*values, sum(values) / len(values))]
        trials = groups[0][name]["num_trials"]
        low, high = metrics.wilson_interval(values[0] / 100 * trials, trials)
        assert cells[-1] == f"{100 * low:.1f} - {100 * high:.1f}"


def test_the_ensemble_is_the_record():
    """It holds the first network seen eight times as well, whose figures are those of its own record."""
    held = json.loads((ROOT / "results/best/ensemble.json").read_text())
    assert len(held["settings"]["ensemble"]) == 2
    alone = json.loads((ROOT / "results/best/views_seed0.json").read_text())["results"]
    text = (ROOT / "README.md").read_text()
    for row in alone:
        one, both = (r for r in held["results"] if r["name"] == row["name"])
        assert (one["accuracy"], one["trial_hash"]) == (row["accuracy"], row["trial_hash"])
        assert both["system"] == "ensemble of 3" and both["trial_hash"] == row["trial_hash"]
        low, high = both["bootstrap"]
        figures = f"{100 * both['accuracy']:.2f} | {100 * low:.1f} - {100 * high:.1f} |"
        assert figures in text, figures


def test_the_table_between_alphabets_is_the_records():
    text = (ROOT / "README.md").read_text()
    text = text[text.index("| examples | once | eight views | aim |") :]
    for line, shots in zip(text.splitlines()[2:4], (1, 5), strict=True):
        cells = line.strip("| ").split(" | ")
        found = []
        for views in ("", "views_"):
            path = ROOT / f"results/best/vinyals_{views}{shots}shot_seed0.json"
            (result,) = json.loads(path.read_text())["results"]
            assert result["k_shot"] == shots and result["num_trials"] == 20_000
            found.append(f"{100 * result['accuracy']:.2f}")
        assert cells[:3] == [str(shots), found[0], f"**{found[1]}**"]


def test_the_speeds_are_the_recorded_benchmark():
    suites = json.loads((ROOT / "results/benchmark.json").read_text())["suites"]
    rows = {(s, r["group"].split(",")[0], r["name"]): r for s, own in suites.items() for r in own}

    def ratio(suite, group, name):
        return rows[suite, group, name]["ratio"]

    trials = [r for r in suites["oneshot"] if r["group"].startswith("quickstart, 20,000 trials")]
    expected = [
        f"{ratio('training', 'koch2015', 'step alone, direct convolution'):.2f}",
        f"{ratio('training', 'koch2015', 'step alone'):.2f}",
        f"{ratio('input', 'koch2015', 'input'):.1f}",
        f"{ratio('input', 'quickstart', 'input'):.1f}",
        f"{ratio('oneshot', 'koch2015', 'a pass an image'):.1f}",
        f"{ratio('oneshot', 'quickstart', 'a pass an image'):.1f}",
        f"{trials[0]['seconds'] / trials[1]['seconds']:.2f}",
    ]
    text = (ROOT / "README.md").read_text()
    text = text[text.index("## How fast") : text.index("## Searching for settings")]
    assert re.findall(r"\*\*([\d.]+)\*\*", text) == expected
    start = rows["startup", "launch/train.py to its first step", "warm cache"]["seconds"]
    assert f"| {start:.1f} s (cold" in text


def test_the_costs_against_size_are_the_recorded_benchmark():
    suites = json.loads((ROOT / "results/benchmark.json").read_text())["suites"]

    def found(suite, group, names):
        rows = {r["name"]: r for r in suites[suite] if r["group"].startswith(group)}
        return [rows[name] for name in names]

    def digits(values):
        return ", ".join(f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in values)

    expected = []
    for group, field, sizes in (
        ("koch2015", "objective.batch", ("8", "16", "32", "64")),
        ("koch2015", "data.image_size", ("65 x 65", "85 x 85", "105 x 105")),
        ("quickstart", "objective.episodes", ("1", "2", "4", "8")),
        ("quickstart", "data.image_size", ("28 x 28", "56 x 56", "84 x 84", "105 x 105")),
    ):
        rows = found("scaling", f"{group} by {field}", [f"{field} {size}" for size in sizes])
        expected.append(digits(row["per_second"] for row in rows) + " pairs/s")
    drawn = [f"128 pairs, {n:,} classes" for n in (100, 1_000, 10_000, 100_000)]
    times = [1e3 * row["seconds"] for row in found("scaling", "drawing a batch", drawn)]
    expected.append(f"{min(times):.2f} to {max(times):.2f} ms")
    (row,) = found("recognition", "quickstart, pictures to enrol", ["embed"])
    expected.append(digits([row["per_second"]]) + " pictures/s")
    for asked in (1, 16):
        times = []
        for count in (1_000, 100_000, 1_000_000):
            name = f"identify {asked}, encoder and comparison"
            (row,) = found("recognition", f"{count:,} references", [name])
            times.append(1e3 * row["seconds"])
        shown = [f"{x:.0f}" if x >= 100 else f"{x:.1f}" for x in times]
        expected.append(", ".join(shown) + " ms")
    text = (ROOT / "README.md").read_text()
    text = text[text.index("| what | size | here |") : text.index("## Searching for settings")]
    assert [
        line.strip("| ").split(" | ")[-1] for line in text.split("\n\n")[0].splitlines()[2:]
    ] == (expected)


def test_the_table_of_convolutions_is_the_recorded_benchmark():
    suites = json.loads((ROOT / "results/benchmark.json").read_text())["suites"]
    rows = {
        (r["group"].split(",")[0], r["group"].split(", ")[-1], r["name"]): r
        for r in suites["convolution"]
    }
    text = (ROOT / "BUILD_NOTES.md").read_text()
    lines = [line for line in text.splitlines() if re.match(r"\| conv\d,", line)]
    assert len(lines) == 3
    for line in lines:
        cells = line.strip("| ").split(" | ")
        expected = []
        for what in ("forward", "forward and gradients"):
            sides = [rows[cells[0][:5], what, way] for way in ("direct", "frequency domain")]
            expected.append(", ".join(f"{1e3 * side['seconds']:.1f}" for side in sides) + " ms")
            expected.append(f"{sides[1]['ratio']:.2f}")
        assert cells[1:] == expected
