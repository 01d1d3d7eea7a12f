"""The tables of README and docs: what a row is read from, and that no figure comes from nowhere."""

import json
import re
import shlex
import shutil

import pytest
import scipy.stats
from launching import launch
from ml_collections import config_flags
from recipes import ROOT, read_config

from siamese_jax.evaluation import intervals
from siamese_jax.experiments import tables
from siamese_jax.runs import workdir

RESULTS = ROOT / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HASH = "133a54498d41"
# Flags that say where things lie or what is shown, and change no figure.
PLACES = {"workdir", "archives", "test_archives", "record", "pairs", "ensemble"}
PLACES |= {"config.data.archives"}
PLACES |= {"report", "noreport", "baselines", "nobaselines", "progress", "noprogress"}


def result(accuracy, name="official", system="net @ 9", **changes):
    return {
        "system": system,
        "name": name,
        "n_way": 20,
        "k_shot": 1,
        "accuracy": accuracy,
        "num_trials": 400,
        "trial_hash": HASH,
        "figures": {"eer": 0.0625, "eer_interval": [0.05, 0.08]},
        "per_group": {"run01": {"accuracy": accuracy - 0.1, "num_trials": 100}},
        **changes,
    }


def write(folder, name, *results, seed=0, **changes):
    """A record as `launch/evaluate.py --record` writes it."""
    start = {"time": f"2026-11-2{2 + seed}T14:21:06+00:00", "processor": "Xeon", "cores": 1 + seed}
    start["versions"] = {"jax": "0.10.2"}
    record = {
        "config": {"seed": seed, "num_steps": 1000},
        "training": start,
        "evaluation": {**start, "time": "2026-11-24T00:00:00+00:00"},
        "results": list(results),
        **changes,
    }
    (folder / name).write_text(json.dumps(record))


def table(*rows, **keys):
    return {
        "name": "t",
        "row": [{"label": "a", "protocol": "official", **row} for row in rows],
        **keys,
    }


def cells(text):
    """The cells of the rows of a rendered table, header first."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


# --- the repository's own tables ------------------------------------------------------------------


def test_rendering_again_changes_nothing():
    assert tables.update_pages(PAGES, RESULTS) == {}


def test_readme_has_no_figures_outside_of_rendered_tables():
    text = (ROOT / "README.md").read_text()
    outside = re.sub(r"<!-- table: .*?<!-- end -->", "", text, flags=re.DOTALL)
    assert not re.search(r"^\|.*\d\d\.\d\d.*\|$", outside, re.MULTILINE)


def listed_rows():
    for listed in tables.read_tables(RESULTS).values():
        for row in listed["row"]:
            if "record" in row and listed.get("kind", "evaluation") == "evaluation":
                yield pytest.param(row, listed, id=f"{listed['name']}: {row['label']}")


# Fields that came later, with what the networks had that were recorded before.
LATER = {"model.centre_ink": False}


def flags_of(words):
    pairs = (word.lstrip("-").partition("=") for word in words if word.startswith("--"))
    return {name: value for name, _, value in pairs if name not in PLACES}


@pytest.mark.parametrize(("row", "listed"), list(listed_rows()))
def test_the_listed_commands_made_the_record(row, listed):
    name = tables.record_names(row, listed)[0]
    record = tables.read_record(RESULTS, name)
    if "command" in row:
        made_by = flags_of(record["evaluation"]["command"][1:])
        defaults = {"num_trials": "4000", "protocols": ""}
        given = flags_of(shlex.split(row["command"])[2:])
        for flag in {*made_by, *given}:
            default = defaults.get(flag)
            assert given.get(flag, default) == made_by.get(flag, default), flag
    if "train" in row:
        config = config_of(shlex.split(row["train"]))
        fields = workdir.flatten(workdir.plain(config))
        recorded = LATER | workdir.flatten(record["config"])
        assert {f: fields.get(f, LATER[f]) for f in LATER} == {f: recorded[f] for f in LATER}
        for field, value in recorded.items():
            if field in fields and not field.startswith("test_data"):
                assert fields[field] == value, field


def config_of(words):
    """The config that a command of `launch/train.py` names, with its overrides."""
    flags = dict(word.lstrip("-").partition("=")[::2] for word in words if word.startswith("--"))
    config = read_config(flags["config"])
    for flag, text in flags.items():
        if flag.startswith("config."):
            set_field(config, flag.removeprefix("config."), text)
    return config


def set_field(config, field, text):
    """Sets a field as the flag would; a field that is not there is an error."""
    old = config_flags.config_path.get_value(field, config)
    kind = config_flags.config_path.get_type(field, config)
    if kind is bool:
        value = text == "True"
    elif kind in (int, float):
        value = kind(text)
    elif isinstance(old, tuple):
        value = tuple(json.loads(text.replace("(", "[").replace(",)", "]").replace(")", "]")))
    else:
        value = text
    config_flags.config_path.set_value(field, config, value)


# --- rows -----------------------------------------------------------------------------------------


def test_a_row_is_the_mean_of_its_seeds_at_the_trials_of_one_list(tmp_path):
    values = (0.93, 0.95, 0.9175)
    for seed, value in enumerate(values):
        groups = {
            name: {"accuracy": value + more, "num_trials": 100}
            for name, more in (("run01", 0.03), ("run02", -0.01), ("run03", 0.02), ("run04", -0.04))
        }
        results = result(value, per_group=groups), result(0.2, system="1-NN")
        write(tmp_path, f"run{seed}.json", *results, seed=seed)
    columns = ["value", "seeds", "wilson", "over_seeds", "clustered", "trials", "hash"]
    listed = table({"record": "run{seed}.json"}, seeds=[0, 1, 2], columns=columns)
    text = tables.render(listed, tmp_path)
    mean = sum(values) / 3
    # 373 of 400: the mean.
    expected = scipy.stats.binomtest(373, 400).proportion_ci(method="wilson")
    assert round(mean * 400) == 373
    limits = " - ".join(f"{100 * x:.1f}" for x in expected)
    # Runs 1 and 2 are of one alphabet, 3 and 4 of another: 94.25 and 92.25 % of 200 trials each.
    low, high = intervals.cluster_interval([0.9425, 0.9225], [200, 200])
    clustered = f"{100 * low:.1f} - {100 * high:.1f}"
    # By hand: standard deviation 1.6394 points, t(2 degrees) 4.30265, half 4.0725 points.
    assert cells(text)[1] == [
        *("a", "93.25", "93.00, 95.00, 91.75", limits, "89.2 - 97.3", clustered, "400"),
        f"`{HASH}`",
    ]
    assert "Trained 22, 23 and 24 November 2026" in text
    assert "evaluated 24 November 2026; Xeon, 1 or 2 or 3 cores, jax 0.10.2; seeds 0, 1, 2." in text


def test_a_machine_with_an_accelerator_is_named_by_it(tmp_path):
    start = {"time": "2026-11-26T00:00:00+00:00", "processor": "Xeon", "cores": 16}
    start |= {"versions": {"jax": "0.11.2"}, "device": "NVIDIA H200"}
    write(tmp_path, "run.json", result(0.9), training=start)
    text = tables.render(table({"record": "run.json"}), tmp_path)
    assert "24 November 2026; NVIDIA H200, Xeon, 1 core, jax 0.10.2, 0.11.2; seed 0." in text
    write(tmp_path, "run.json", result(0.9), training=start, evaluation=start)
    text = tables.render(table({"record": "run.json"}), tmp_path)
    assert "Trained and evaluated 26 November 2026; NVIDIA H200, jax 0.11.2; seed 0." in text


def test_one_seed_has_no_interval_over_seeds(tmp_path):
    write(tmp_path, "run.json", result(0.9225))
    listed = table({"record": "run.json"}, columns=["value", "seeds", "wilson", "over_seeds"])
    assert cells(tables.render(listed, tmp_path))[1] == ["a", "92.25", "-", "89.2 - 94.5", "-"]


def test_a_column_counts_the_epochs_of_fixed_pairs(tmp_path):
    # 7,020 steps of 128 pairs are 898,560 examples; with nine of each pair 150,000 are 1,350,000.
    for name, pairs, copies in (("plain", 30_000, 0), ("distorted", 150_000, 8), ("new", 0, 8)):
        config = {"seed": 0, "num_steps": 7020}
        config["objective"] = {"batch": 128, "pairs": pairs, "copies": copies}
        write(tmp_path, f"{name}.json", result(0.9), result(0.2, system="1-NN"), config=config)
    rows = [{"record": f"{name}.json"} for name in ("plain", "distorted", "new")]
    rows.append({"record": "plain.json", "system": "1-NN"})
    text = tables.render(table(*rows, columns=["epochs", "value"]), tmp_path)
    assert [row[1] for row in cells(text)] == ["epochs", "30", "0.67", "-", "-"]


def test_a_row_names_its_system(tmp_path):
    write(tmp_path, "run.json", result(0.9), result(0.2, system="1-NN"))
    listed = table({"record": "run.json", "system": "1-NN"})
    assert cells(tables.render(listed, tmp_path))[1][1] == "20.00"


def test_rows_without_a_record(tmp_path):
    rows = {"paper": "93.42"}, {"quoted": "98.5", "source": "Somebody 2017"}
    text = tables.render(table(*rows, columns=["paper", "value", "source"]), tmp_path)
    assert cells(text)[1:] == [
        ["a", "93.42", tables.NOT_RUN, "-"],
        ["a", "-", "98.5", "Somebody 2017"],
    ]
    assert "Measured" not in text and "Trained" not in text


def test_another_figure_with_its_own_interval(tmp_path):
    write(tmp_path, "run.json", result(0.9))
    listed = table(
        {"record": "run.json", "figure": "eer"},
        value="value, %",
        columns=["value", "wilson", "clustered"],
    )
    header, row = cells(tables.render(listed, tmp_path))
    assert header[1] == "value, %" and row[1:] == ["6.25", "-", "5.0 - 8.0"]


def test_a_row_for_each_group(tmp_path):
    write(tmp_path, "run.json", result(0.9))
    listed = table({"record": "run.json", "per_group": True}, columns=["value", "wilson", "trials"])
    assert cells(tables.render(listed, tmp_path))[1] == ["run01", "80.00", "71.1 - 86.7", "100"]


def test_an_ablation(tmp_path):
    part = {"mean": 0.5, "seeds": [0.4, 0.6], "num_trials": 400, "trials": HASH, "wilson": [0, 1]}
    write(
        tmp_path,
        "ablation.json",
        variants=[{"variant": "x, y", "runs": [{"seed": 0}, {"seed": 1}], "within": part}],
    )
    record = json.loads((tmp_path / "ablation.json").read_text())
    del record["training"]
    (tmp_path / "ablation.json").write_text(json.dumps(record))
    row = {"label": "x", "record": "ablation.json", "variant": "x, y"}
    listed = {"name": "t", "kind": "ablation", "protocols": ["within"], "row": [row]}
    text = tables.render(listed, tmp_path)
    # Wilson of 200 in 400, not of 400 in 800; t(1 degree) 12.7062 times 0.1.
    assert cells(text) == [
        ["variant", "within, 400 trials, %", "over seeds"],
        ["x", "50.00 (45.1 - 54.9)", "-77.1 - 177.1"],
    ]
    assert "Measured 24 November 2026" in text and "seeds 0, 1." in text
    row["variant"] = "z"
    with pytest.raises(ValueError, match="ablation.json has no variant 'z'"):
        tables.render(listed, tmp_path)


def test_a_benchmark(tmp_path):
    entry = {"group": "g", "name": "n", "unit": "pairs", "amount": 32, "seconds": 0.5}
    entry |= {"quartiles": [0.4, 1.25], "per_second": 64.0, "ratio": 1.25}
    start = {"time": "2026-11-24T00:00:00+00:00", "processor": "Xeon", "cores": 2}
    start["versions"] = {"jax": "0.10.2"}
    record = {"provenance": start, "settings": {"seed": 0}, "suites": {"training": [entry]}}
    (tmp_path / "benchmark.json").write_text(json.dumps(record))
    row = {"label": "x", "record": "benchmark.json", "suite": "training", "group": "g", "name": "n"}
    listed = {"name": "t", "kind": "benchmark", "row": [row]}
    text = tables.render(listed, tmp_path)
    assert cells(text)[1] == ["x", "500 ms", "400 ms - 1.25 s", "64 pairs/s", "1.25"]
    row["name"] = "m"
    with pytest.raises(ValueError, match="0 entries 'g', 'm'"):
        tables.render(listed, tmp_path)


# --- records that do not go together --------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"seed": 0}, "two records of the row 'a' have one seed"),
        ({"config": {"seed": 1, "num_steps": 2000}}, "differ: num_steps is 2000 and was 1000"),
        ({"results": [result(0.9, trial_hash="000000000000")]}, "on other trials"),
        ({"results": []}, "run1.json has 0 results"),
        ({"results": [result(0.9), result(0.8)]}, "run1.json has 2 results"),
        ({"results": [result(0.9, name="within")]}, "run1.json has 0 results"),
    ],
)
def test_records_that_do_not_go_together(tmp_path, second, words):
    write(tmp_path, "run0.json", result(0.91))
    write(tmp_path, "run1.json", result(0.92), **{"seed": 1, **second})
    listed = table({"record": "run{seed}.json"}, seeds=[0, 1])
    with pytest.raises(ValueError, match=words):
        tables.render(listed, tmp_path)


def test_a_record_that_is_not_there_or_not_json(tmp_path):
    with pytest.raises(ValueError, match="names the record run.json, which is not in"):
        tables.render(table({"record": "run.json"}), tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is not JSON"):
        tables.render(table({"record": "run.json"}), tmp_path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [({"kind": "poem"}, "kind must be one of"), ({"columns": ["colour"]}, "no column 'colour'")],
)
def test_mistakes_in_the_list(tmp_path, keys, words):
    with pytest.raises(ValueError, match=words):
        tables.render(table({"quoted": "1"}, **keys), tmp_path)


def test_the_list_itself(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*tables.toml"):
        tables.read_tables(tmp_path)
    entry = '[[table]]\nname = "t"\nrecord = "r.json"\nrow = [{ label = "a" }]\n'
    (tmp_path / "tables.toml").write_text(entry)
    assert tables.read_tables(tmp_path)["t"]["row"] == [{"label": "a", "record": "r.json"}]
    (tmp_path / "tables.toml").write_text(entry * 2)
    with pytest.raises(ValueError, match="two tables of one name"):
        tables.read_tables(tmp_path)
    (tmp_path / "tables.toml").write_text("[[table")
    with pytest.raises(ValueError, match="is not TOML"):
        tables.read_tables(tmp_path)


# --- commands and pages ---------------------------------------------------------------------------


def test_commands_stand_beneath_once_with_the_record_that_they_write(tmp_path):
    write(tmp_path, "run0.json", result(0.9), result(0.8, name="within"))
    both = {"record": "run{seed}.json", "train": "python t --a='x y'", "command": "python e"}
    text = tables.render(table(both, {**both, "protocol": "within"}, seeds=[0]), tmp_path)
    block = "```bash\npython t --a='x y'\npython e --record=results/run0.json\n```\n"
    assert text.endswith(block) and text.count("```bash") == 1


def test_long_commands_are_wrapped_between_words():
    command = "python launch/x.py " + " ".join(f"--flag{i}='a b'" for i in range(12))
    lines = tables.wrap(command).splitlines()
    assert max(map(len, lines)) <= 100 and all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split(" ".join(line.removesuffix("\\") for line in lines)) == shlex.split(command)


def test_pages(tmp_path):
    page = tmp_path / "page.md"
    listed = '[[table]]\nname = "t"\nrow = [{ label = "a", quoted = "1", source = "b" }]\n'
    (tmp_path / "tables.toml").write_text(listed)
    page.write_text("before\n<!-- table: t -->\nold\n<!-- end -->\nafter\n")
    ((changed, text),) = tables.update_pages([page], tmp_path).items()
    assert changed == page and "old" not in text and "| a | 1 |" in text
    assert text.startswith("before\n<!-- table: t -->\n| row |") and text.endswith("after\n")
    page.write_text(text)
    assert tables.update_pages([page], tmp_path) == {}
    for broken, words in (
        ("<!-- table: u -->\n<!-- end -->\n", "there is no table 'u'"),
        ("<!-- table: t -->\n", "has no <!-- end -->"),
        ("nothing\n", "stand on no page: t"),
    ):
        page.write_text(broken)
        with pytest.raises(ValueError, match=words):
            tables.update_pages([page], tmp_path)
    assert tables.update_pages([page], tmp_path, whole=False) == {}  # which has none of the tables


@pytest.mark.slow
def test_the_command(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    pages = [shutil.copy(page, tmp_path / page.name) for page in PAGES]

    def start(*flags):
        places = (f"--results={tmp_path / 'results'}", f"--pages={','.join(map(str, pages))}")
        return launch("tables.py", *flags, *places)

    assert start("--check").returncode == 0
    record = tmp_path / "results" / "quickstart" / "seed0.json"
    record.write_text(record.read_text().replace("0.6125", "0.9675"))
    done = start("--check")
    assert done.returncode == 1 and "README.md: differs from the records" in done.stdout
    assert start("--write").returncode == 0
    assert "96.75" in (tmp_path / "README.md").read_text()
    assert start("--check").returncode == 0
    record.unlink()
    done = start("--check")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "names the record quickstart/seed0.json" in done.stderr
