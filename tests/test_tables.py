"""The paper's tables: what fills a row, what must not, and that no figure comes from nowhere."""

import copy
import json
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from siamese_jax.evaluation import metrics
from siamese_jax.experiments import tables
from siamese_jax.runs import workdir

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAPER_FIGURES = {  # sections 4.2 to 4.4 of the paper
    *("90.61", "91.90", "91.54", "93.15", "91.63", "93.42"),
    *("95.5", "95.2", "81.8", "65.2", "62.0", "58.3", "35.2", "21.7", "92.0"),
    *("26.5", "70.3"),
}
KOCH = {"filters": [64, 128, 128, 256], "kernels": [10, 7, 4, 4], "units": 4096}
SMALL = {"filters": [32, 64, 64, 128], "kernels": [5, 4, 3, 2], "units": 1024}
OFFICIAL = ("official", "within an alphabet", 20, 400, "133a54498d41")
VERIFICATION = ("verification", "negatives of any alphabet", None, 10_000, "3aa7fa84d7bd")
MNIST = ("within", "within alphabets", 10, 400, "feedfeedfeed")


def result(system, kind, accuracy):
    name, scope, n_way, num_trials, trial_hash = kind
    return {
        "system": system,
        "name": name,
        "scope": scope,
        "n_way": n_way,
        "k_shot": n_way and 1,
        "accuracy": accuracy,
        "num_trials": num_trials,
        "wilson": [0.0, 1.0],
        "bootstrap": [0.0, 1.0],
        "trial_hash": trial_hash,
        "figures": {"validation_hash": "207048bed0e5"} if n_way is None else {},
    }


def record(*results, pairs=150_000, copies=8, size=105, seed=0, encoder="koch", **changes):
    """A record as `launch/evaluate.py --record` writes it; dots in `changes` are two underscores."""
    args = {"koch": KOCH if size == 105 else SMALL, "dense": {"units": 256, "std": 0.2}}[encoder]
    config = {
        "seed": seed,
        "num_steps": 1000,
        "data": {"name": "omniglot", "split": "koch", "image_size": [size, size]},
        "model": {
            "encoder": encoder,
            "encoder_args": {**args, "bias_mean": 0.5},
            "comparator": "l1",
            "head_args": {"kernel_std": 0.2, "bias_mean": 0.5},
        },
        "objective": {
            "name": "verification",
            "batch": 128,
            "negatives": "any",
            "symmetries": "none",
            "pairs": pairs,
            "copies": copies,
        },
        "augment": {
            "distort": bool(copies),
            "affine": {
                **{"rotation": 10.0, "shear": 0.3, "scale": [0.8, 1.2]},
                **{"translation": 2.0, "probability": 0.5},
            },
            "elastic_size": 0.0,
        },
        "optim": {"name": "layerwise", "decay": 0.99, "momentum_start": 0.5, "rules": []},
    }
    start = {"time": "2026-11-22T14:21:06+00:00", "commit": "c66012ec5fd06c49"}
    held = {
        "config": config,
        "training": {
            **start,
            "command": ["launch/train.py", f"--config.seed={seed}"],
            "data": "Omniglot, split koch (archives 34178ec45446fd84)",
        },
        "evaluation": {**start, "command": ["launch/evaluate.py"]},
        "settings": {},
        "results": list(results),
    }
    for field, value in changes.items():
        *path, last = field.split("__")
        part = held if path and path[0] in held else config
        for name in path:
            part = part[name]
        part[last] = value
    return held


def build(folder, *records):
    for i, held in enumerate(records):
        (folder / f"run{i}.json").write_text(json.dumps(held))
    held, others = tables.read_records(folder)
    made = tables.make_tables(held)
    return made, tables.format_tables(made), tables.unused(made, held, others)


def lines_run(made):
    """(number of the table, label) of the lines with runs."""
    return [(table.number, line.label) for table in made for line in table.lines if line.runs]


def cells(text, start):
    """The cells of the first row of this label."""
    rows = [line for line in text.splitlines() if line.startswith(f"{start}  ")]
    return re.split(r"  +", rows[0])


# --- nothing that no run produced -----------------------------------------------------------------


def test_without_records_every_row_says_so(tmp_path):
    made, text, left = build(tmp_path)
    assert lines_run(made) == [] and left == ""
    rows = [line for table in made for line in table.lines]
    numbers = [table.number for table in made]
    assert numbers == [1, 1, 2, 2, 3]
    assert text.count(tables.NOT_RUN) == sum(line.kind != "quoted" for line in rows) == 19
    # All figures with decimals are the paper's, and all of the paper's are there.
    assert set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", text)) == PAPER_FIGURES


def test_every_figure_of_ours_is_a_mean_of_recorded_ones(tmp_path):
    values = {0: 0.931234, 1: 0.941234, 2: 0.936}
    made, text, left = build(
        tmp_path,
        *(record(result("koch @ 9", VERIFICATION, v), seed=s) for s, v in values.items()),
    )
    assert lines_run(made) == [(1, "150k pairs, affine x8")] and left == ""
    # By hand: mean 93.6156, standard deviation 0.50115, t(2 degrees) 4.30265, half 1.2450 points.
    right = sum(values.values()) * 10_000
    expected = scipy.stats.binomtest(round(right), 30_000).proportion_ci(method="wilson")
    wilson = " - ".join(f"{100 * x:.1f}" for x in expected)
    assert cells(text, "150k pairs, affine x8") == [
        *("150k pairs, affine x8", "93.42", "93.62", "92.4 - 94.9", wilson, "0, 1, 2", "10,000"),
        *("3aa7fa84d7bd", "trained with any negatives; tested with negatives of any alphabet"),
    ]
    assert text.count(tables.NOT_RUN) == 18
    # Nothing with decimals that is neither the paper's nor of this row.
    shown = set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", text))
    assert shown - PAPER_FIGURES == {"93.62", *re.findall(r"\d+\.\d", "92.4 - 94.9 " + wilson)}


def test_one_seed_has_no_interval_over_seeds(tmp_path):
    _, text, _ = build(tmp_path, record(result("a @ 1", OFFICIAL, 0.9225)))
    label = "siamese net, convolutional, 150k pairs, affine x8"
    assert cells(text, label)[1:6] == ["92.0", "92.25", "-", "89.2 - 94.5", "0"]


def test_the_repositorys_own_records(tmp_path):
    """What is printed of the real folder was read from it."""
    held, others = tables.read_records(ROOT / "results")
    made = tables.make_tables(held)
    known = {r["accuracy"] for x in held for r in x.results}
    for table in made:
        for line in table.lines:
            assert all(r["accuracy"] in known for _, r in line.runs)
    quickstart = json.loads((ROOT / "results" / "quickstart.json").read_text())
    (pixels,) = [
        r["accuracy"]
        for r in quickstart["results"]
        if (r["system"], r["name"]) == ("pixel 1-NN", "official")
    ]
    assert cells(tables.format_tables(made), "1-nearest neighbour")[2] == f"{100 * pixels:.2f}"
    assert "ablation.json (no record" in tables.unused(made, held, others)


# --- which row a record fills ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [105, 35])
@pytest.mark.parametrize("pairs, copies", [(30_000, 0), (90_000, 8), (150_000, 0)])
def test_the_config_says_which_row(tmp_path, size, pairs, copies):
    held = record(result("x @ 3", VERIFICATION, 0.9), pairs=pairs, copies=copies, size=size)
    made, text, _ = build(tmp_path, held)
    (table,) = [table for table in made if any(line.runs for line in table.lines)]
    assert (table.number, "REDUCED" in table.title) == (1, size == 35)
    (line,) = [line for line in table.lines if line.runs]
    affine = "affine x8" if copies else "no distortions"
    mark = " (reduced)" if size == 35 else ""
    assert line.label == f"{pairs // 1000}k pairs, {affine}{mark}"
    assert (
        line.paper == {(30_000, 0): 90.61, (90_000, 8): 93.15, (150_000, 0): 91.63}[pairs, copies]
    )
    assert ("filters [32, 64, 64, 128]" in line.stated) == (size == 35)  # what had to be chosen
    assert "python launch/train.py --config.seed=0" in text


def test_the_files_name_says_nothing(tmp_path):
    held = record(result("koch_150k_affine_105 @ 3", VERIFICATION, 0.9), pairs=30_000, size=35)
    (tmp_path / "koch_150k_affine_105.json").write_text(json.dumps(held))
    made, _, _ = build(tmp_path)
    assert lines_run(made) == [(1, "30k pairs, affine x8 (reduced)")]


def test_one_record_fills_both_tables(tmp_path):
    results = [
        result("run @ 7", OFFICIAL, 0.92),
        result("pixel 1-NN", OFFICIAL, 0.19),
        result("random", OFFICIAL, 0.05),
        result("run @ 7", VERIFICATION, 0.93),
    ]
    made, text, _ = build(tmp_path, record(*results))
    label = "siamese net, convolutional, 150k pairs, affine x8"
    assert lines_run(made) == [
        *((1, "150k pairs, affine x8"), (2, "1-nearest neighbour"), (2, label)),
    ]
    assert cells(text, "1-nearest neighbour")[:3] == ["1-nearest neighbour", "21.7", "19.00"]
    assert "5.00" not in text


def test_the_fully_connected_net(tmp_path):
    made, text, _ = build(
        tmp_path,
        record(result("fc @ 7", OFFICIAL, 0.6), encoder="dense", size=35),
        record(result("fc @ 7", OFFICIAL, 0.5), encoder="dense", size=35, pairs=90_000, copies=0),
        record(result("fc @ 7", VERIFICATION, 0.8), encoder="dense", size=35, pairs=30_000),
    )
    label = "siamese net, fully connected"
    assert lines_run(made) == [
        (2, f"{label}, 150k pairs, affine x8 (reduced)"),
        (2, f"{label}, 90k pairs, no distortions (reduced)"),
    ]
    assert "units 256" in text


def test_a_digits_record_fills_table_3_only(tmp_path):
    digits = {"test_data": {"name": "mnist"}}
    both = [result("run @ 7", MNIST, 0.71), result("pixel 1-NN", MNIST, 0.25)]
    of_digits = record(*both, size=35, **digits)
    of_characters = record(result("run @ 7", MNIST, 0.33), size=35)  # 10-way, but not digits
    official = record(result("run @ 7", OFFICIAL, 0.44), size=35, **digits)
    full = record(result("run @ 7", MNIST, 0.55), size=105, **digits)
    made, text, left = build(tmp_path, of_digits, of_characters, official, full)
    label = "siamese net, convolutional, 150k pairs, affine x8"
    assert lines_run(made) == [(3, "1-nearest neighbour"), (3, label)]
    assert " 71.00 " in text and not re.search("33.00|44.00|55.00", text)
    assert all(f"run{i}.json (it has no result that" in left for i in (1, 2, 3))


def test_other_settings_are_rows_of_their_own(tmp_path):
    made, text, _ = build(
        tmp_path,
        record(result("a @ 1", VERIFICATION, 0.91)),
        record(result("b @ 1", VERIFICATION, 0.92), model__encoder_args__dense_std=0.01),
        record(result("c @ 1", VERIFICATION, 0.93), objective__negatives="same_alphabet"),
    )
    rows = [line for line in made[0].lines if line.label.startswith("150k pairs, affine x8")]
    assert [(line.label, line.runs[0][1]["accuracy"]) for line in rows] == [
        ("150k pairs, affine x8", 0.91),
        ("150k pairs, affine x8", 0.93),
        ("150k pairs, affine x8; OTHER SETTINGS", 0.92),
    ]
    assert rows[1].stated.startswith("trained with same_alphabet negatives")
    assert rows[2].stated.startswith("model.encoder_args.dense_std = 0.01, published 0.2;")


def test_other_settings_do_not_stand_for_the_published_ones(tmp_path):
    for field, value in (
        ("model__encoder_args__units", 512),
        ("model__head_args__kernel_std", 0.01),
        ("optim__name", "adam"),
        ("objective__batch", 32),
    ):
        made, _, _ = build(tmp_path, record(result("b @ 1", VERIFICATION, 0.92), **{field: value}))
        rows = [line for line in made[0].lines if line.label.startswith("150k pairs, affine x8")]
        assert [len(line.runs) for line in rows] == [0, 1]
        assert "OTHER SETTINGS" in rows[1].label and f"= {value}, published" in rows[1].stated


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__data": "glyphs, the built-in set; NOT OMNIGLOT: x"}, "its data are: glyphs"),
        (
            {"training__data": "Omniglot, split lake (archives x)"},
            "its data are: Omniglot, split l",
        ),
        ({"model__encoder": "residual"}, "its network is residual with l1"),
        ({"model__comparator": "cosine"}, "its network is koch with cosine"),
        ({"objective__name": "info_nce"}, "its objective is episode"),
        ({"objective__pairs": 0}, "its pairs are drawn anew"),
        ({"objective__pairs": 60_000}, "its pair set has 60000"),
        ({"objective__copies": 4}, "its pairs have 4 copies"),
        ({"augment__distort": False}, "augment.distort is False with 8 copies"),
        ({"augment__affine__shear": 0.1}, "its distortions are not the published ones"),
        ({"augment__elastic_size": 0.02}, "its distortions are not the published ones"),
        ({"data__image_size": [56, 56]}, r"its images are \[56, 56\]"),
    ],
)
def test_what_fills_no_row(tmp_path, changes, words):
    results = [result("a @ 1", VERIFICATION, 0.9876), result("a @ 1", OFFICIAL, 0.9876)]
    made, text, left = build(tmp_path, record(*results, **changes))
    assert lines_run(made) == [] and "98.76" not in text
    assert re.search(rf"run0.json \({words}", left)


def test_only_the_networks_own_result_counts(tmp_path):
    made, _, _ = build(
        tmp_path,
        record(
            result("random", OFFICIAL, 0.05),
            result("a @ 1", ("within", "within alphabets", 20, 4000, "c3e579985d22"), 0.8),
            result("a @ 1", ("official", "within an alphabet", 5, 400, "123456123456"), 0.99),
            {**result("a @ 1", OFFICIAL, 0.97), "k_shot": 5},
        ),
    )
    assert lines_run(made) == []


# --- records that do not go together --------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (record(result("b @ 2", VERIFICATION, 0.92)), "run0.json and run1.json are both seed 0 of"),
        (
            record(result("b @ 2", VERIFICATION, 0.92), seed=1, num_steps=2000),
            "run0.json and run1.json .* differ: num_steps is 2000 and was 1000",
        ),
        (
            record(result("b @ 2", (*VERIFICATION[:4], "000000000000"), 0.92), seed=1),
            "evaluated by the trials 3aa7fa84d7bd and 000000000000",
        ),
        (
            record({**result("b @ 2", VERIFICATION, 0.92), "figures": {}}, seed=1),
            "run1.json: its threshold was not chosen on validation pairs",
        ),
        (
            record(*[result("b @ 2", VERIFICATION, v) for v in (0.92, 0.93)], seed=1),
            "run1.json has 2 results of koch by verification",
        ),
    ],
)
def test_records_that_do_not_go_together(tmp_path, second, words):
    with pytest.raises(ValueError, match=words):
        build(tmp_path, record(result("a @ 1", VERIFICATION, 0.91)), copy.deepcopy(second))


def test_baselines_that_disagree(tmp_path):
    with pytest.raises(ValueError, match="run0.json and run1.json differ in pixel 1-NN"):
        build(tmp_path, *(record(result("pixel 1-NN", OFFICIAL, v)) for v in (0.19, 0.20)))


def test_files_that_are_no_records(tmp_path):
    (tmp_path / "ablation.json").write_text(json.dumps({"config": {}, "variants": []}))
    (tmp_path / "list.json").write_text("[1, 2]")
    made, _, left = build(tmp_path)
    assert lines_run(made) == []
    assert "ablation.json (no record" in left and "list.json (no record" in left
    (tmp_path / "cut.json").write_text('{"config": ')
    with pytest.raises(ValueError, match="cut.json is not JSON"):
        tables.read_records(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        tables.read_records(tmp_path / "absent")


# --- the text and the command ---------------------------------------------------------------------


def test_markdown_has_the_same_cells(tmp_path):
    made, text, _ = build(tmp_path, record(result("a @ 1", VERIFICATION, 0.9342)))
    marked = tables.format_tables(made, markdown=True)
    rows = [line for line in marked.splitlines() if line.startswith("|")]
    widths = {row.count("|") for row in rows}
    assert widths == {len(tables._HEADER) + 1}
    flat = {tuple(c.strip() for c in row.strip("|").split("|")) for row in rows}
    for table in made:
        for line in table.lines:
            shown = [row for row in flat if row[0] == line.label]
            assert shown and all(" ".join(row[:3]) in " ".join(text.split()) for row in shown)
    assert marked.count("### Table") == 5
    assert "`python launch/train.py --config.seed=0`" in marked


def test_the_command(tmp_path):
    command = [sys.executable, str(ROOT / "launch" / "tables.py"), f"--results={tmp_path}"]
    held = record(result("a @ 1", VERIFICATION, 0.9342))
    (tmp_path / "one.json").write_text(json.dumps(held))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "93.42    93.42" in done.stdout and tables.NOT_RUN in done.stdout
    (tmp_path / "two.json").write_text(json.dumps(held))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.count("\n") == 1 and "one.json and two.json are both seed 0" in done.stderr


def test_the_command_of_a_row_makes_a_run_that_fills_it(tmp_path):
    scope = {}
    exec((ROOT / "configs" / "koch2015.py").read_text(), scope)
    made, text, _ = build(tmp_path)
    lines = [line for table in made for line in table.lines if line.kind == "network"]
    assert len(lines) == 17 and len({line.command for line in lines}) == 14
    for line in lines:
        command = line.command
        config = workdir.plain(scope["get_config"](command.split("koch2015.py:")[1]))
        assert "test_data" not in config
        setting = tables.setting_of(config, "Omniglot, split koch (archives x)")
        assert setting.changes == ()
        expected = re.search(r"(\d+)k pairs, (affine x8|no dist)", line.label).groups()
        assert (str(setting.pairs // 1000), bool(setting.copies)) == (
            expected[0],
            "aff" in line.label,
        )
        assert setting.size == (35 if "reduced" in command else 105)
        assert setting.encoder == ("dense" if "fully connected" in line.label else "koch")
    flags = set(re.findall(r"--(\w+)=", " ".join(tables._EVALUATE.values())))
    launcher = (ROOT / "launch" / "evaluate.py").read_text()
    assert all(f'"{flag}"' in launcher for flag in flags)


def test_the_hand_worked_interval():
    """The t interval that the first tests quote, from its definition."""
    values = np.array([93.1234, 94.1234, 93.6])
    half = 4.302653 * values.std(ddof=1) / math.sqrt(3)
    limits = metrics.seed_interval(values / 100)
    np.testing.assert_allclose(100 * np.array(limits), [values.mean() - half, values.mean() + half])
