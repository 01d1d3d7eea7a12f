"""The Python of README runs as it stands there."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train_and_evaluate", r"right: [01]\.\d+\nembeddings: \(10, 16\)"),
        ("print_table", r"mine +runs .* 20 +1 +400 .*\nmine +within "),
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
