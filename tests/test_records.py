"""Records that are read again: truncated, edited by hand, of wrong types or huge, each is one line."""

import dataclasses
import io
import json
import random
import zipfile
from typing import NotRequired

import numpy as np
import pytest
from typing_extensions import TypedDict

from siamese_jax import readers
from siamese_jax.evaluation import calibration, protocols, saved
from siamese_jax.experiments import records, report, tables
from siamese_jax.experiments.ablation import training
from siamese_jax.runs import calibrations

START = {"time": "2026-11-24", "processor": "x", "cores": 2, "versions": {"jax": "0"}}
RESULT = {
    **{"system": "net @ 5", "name": "within", "n_way": 5, "k_shot": 1, "accuracy": 0.5},
    **{"num_trials": 10, "trial_hash": "abc", "figures": {}, "per_group": {}},
}
RECORD = {
    "config": {"seed": 0},
    "training": START,
    "evaluation": START,
    "settings": {"tta": 1},
    "results": [RESULT],
}
CALIBRATION = {
    **{"rate": 0.1, "thresholds": [[1, 0.5], [3, 1]], "slope": 1.5, "offset": 0, "source": "set"},
    **{"fingerprint": "f", "seed": 3, "classes": 10, "pictures": 100},
    "held_out": {
        **{"classes": 9, "pictures": 90, "reliability_error": 0.01, "false_accepts": 0.02},
        **{"false_rejects": 0.1, "enrolled": 4, "detection_rate": 0.5, "false_alarms": 0.03},
    },
}


class Inner(TypedDict):
    number: int


class Outer(TypedDict):
    inner: list[Inner]
    share: float
    word: NotRequired[str | None]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inner": [{"number": 1}, {}]}, r"x: inner.1.number: Field required: put back"),
        ({"inner": [{"number": "1"}]}, r"x: inner.0.number: .*integer, got '1'"),
        ({"inner": [{"number": 1.5}]}, r"inner.0.number"),
        ({"inner": [{"number": True}]}, r"inner.0.number"),
        ({"inner": {"number": 1}}, r"x: inner: Input should be a valid (list|array)"),
        ({"share": None}, r"x: share: .*number, got None"),
        ({"word": 3}, r"x: word: .*string, got 3"),
    ],
)
def test_what_does_not_fit_a_schema_is_named(change, words):
    value = {"inner": [{"number": 1}], "share": 1, "word": None, "more": [1]}
    assert readers.fitting(value, Outer, "x") is value
    with pytest.raises(ValueError, match=words):
        readers.fitting({**value, **change}, Outer, "x")


def edited(record, path, value):
    """The record with something else at a place; `...` removes it."""
    record = json.loads(json.dumps(record))
    *parents, last = path
    part = record
    for parent in parents:
        part = part[parent]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("config",), [], "config"),
        (("evaluation", "time"), 5, "evaluation.time"),
        (("settings", "tta"), ..., "settings.tta: Field required"),
        (("settings", "tta"), "8", "settings.tta"),
        (("results",), [], "has no results"),
        (("results", 0, "system"), None, "results.0.system"),
        (("results", 0, "num_trials"), 1e99, "results.0.num_trials"),
        (("config", "test_data"), {"name": 3}, "config.test_data.name"),
    ],
)
def test_an_edited_results_json_is_one_line(tmp_path, path, value, words):
    parts = dict.fromkeys(("data", "model", "eval"), {})
    (tmp_path / "config.json").write_text(json.dumps({"seed": 0, "keep_best": 1, **parts}))
    file = tmp_path / "results.json"
    with pytest.raises(ValueError, match="holds no results.json: evaluate the run first"):
        report.write_saved_report(tmp_path)
    file.write_text(json.dumps(edited(RECORD, path, value)))
    with pytest.raises(ValueError, match=words) as raised:
        report.write_saved_report(tmp_path)
    assert "results.json" in str(raised.value) and "\n" not in str(raised.value)


def test_a_damaged_results_json_is_one_line(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    text = json.dumps(RECORD)
    for size in range(len(text)):
        file.write_text(text[:size])
        with pytest.raises(ValueError, match="results.json is not JSON .*: put back a whole copy"):
            records.read(file, records.Evaluation)
    file.write_text(text.replace("0.5", "NaN"))
    with pytest.raises(ValueError, match="NaN is not a JSON number"):
        records.read(file, records.Evaluation)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not JSON"):
        records.read(file, records.Evaluation)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="is not JSON"):
        records.read(file, records.Evaluation)
    monkeypatch.setattr(readers, "_JSON_BYTES", 100)
    file.write_text(text)
    with pytest.raises(ValueError, match="bytes, at most 100 are read"):
        records.read(file, records.Evaluation)


def test_a_record_that_lacks_what_a_table_shows(tmp_path):
    row = {"label": "a", "protocol": "within", "record": "run.json"}
    table = {"name": "t", "row": [row]}
    for change, more, words in (
        (RESULT | {"accuracy": None}, {}, "has no number as its accuracy"),
        (RESULT, {"figure": "eer"}, "has no number as its eer"),
        (RESULT, {"member": "run01"}, "has no group 'run01'"),
    ):
        (tmp_path / "run.json").write_text(json.dumps({**RECORD, "results": [change]}))
        with pytest.raises(ValueError, match=words):
            tables.render({**table, "row": [{**row, **more}]}, tmp_path)


# -------------------------------------------------------------------------------- evaluation.npz


@pytest.fixture(scope="module")
def data(glyphs):
    return protocols.EvaluationData(glyphs)


@pytest.fixture(scope="module")
def written(data):
    """The bytes of a saved evaluation, and its results."""
    settings = {"n_way": 3, "num_trials": 12}

    def score(queries, supports):
        return queries.reshape(len(queries), -1).mean(1)[:, None] - supports.mean((1, 2, 3))

    results = {"it": protocols.run_protocols(score, data, ["within"], settings)}
    buffer = io.BytesIO()
    saved.write(buffer, results)
    return buffer.getvalue(), results["it"]["within"]


def test_a_damaged_evaluation_is_refused(written, data, tmp_path):
    whole, result = written
    path, rng = tmp_path / saved.FILE, random.Random(0)
    damaged = [whole[: rng.randrange(len(whole))] for _ in range(20)]
    for _ in range(80):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            again = saved.read(tmp_path, data)["it"]["within"]
        except ValueError as error:
            refused += 1
            assert "evaluation.npz holds no saved evaluation" in str(error)
        else:  # a bit that says nothing, such as of a date
            np.testing.assert_array_equal(again.scores, result.scores)
            assert again.to_dict() == result.to_dict()
    assert refused > 80


def test_an_edited_evaluation_is_refused(written, data, tmp_path):
    whole, _ = written
    arrays = readers.read_npz(whole)
    path = tmp_path / saved.FILE
    for name in arrays:
        changed = dict(arrays)
        changed[name] = np.roll(arrays[name], 1) if arrays[name].ndim else np.asarray("x")
        if np.array_equal(changed[name], arrays[name]):
            continue
        np.savez_compressed(path, **changed)
        with pytest.raises(
            ValueError, match="its content is not what was written.: evaluate again"
        ):
            saved.read(tmp_path, data)
        np.savez_compressed(path, **{key: x for key, x in arrays.items() if key != name})
        with pytest.raises(ValueError, match="evaluate again"):
            saved.read(tmp_path, data)
    with zipfile.ZipFile(path, "w") as archive, archive.open("scores.npy", "w") as entry:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(entry, header)
    with pytest.raises(ValueError, match="is declared as"):
        saved.read(tmp_path, data)


# ------------------------------------------------------------------------- calibrations, outcomes


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("rate",), "0.1", "rate"),
        (("thresholds",), [], "rising numbers of references"),
        (("thresholds",), [[3, 0.5], [1, 1.0]], "rising numbers of references"),
        (("thresholds", 0), [1], "thresholds.0"),
        (("thresholds", 0, 1), "high", "thresholds.0.1"),
        (("held_out", "false_alarms"), ..., "held_out.false_alarms"),
        (("slope",), None, "slope"),
        (("decided_by",), "luck", "is one of"),
        (("bound",), {"rate": 1}, "bound.confidence"),
    ],
)
def test_an_edited_calibration_is_one_line(path, value, words):
    made = calibration.Calibration.of(CALIBRATION)
    assert made.thresholds == ((1, 0.5), (3, 1.0)) and made.bound is None
    assert calibration.Calibration.of(json.loads(json.dumps(dataclasses.asdict(made)))) == made
    with pytest.raises(ValueError, match=words) as raised:
        calibration.Calibration.of(edited(CALIBRATION, path, value), "the calibration of x")
    assert str(raised.value).startswith("the calibration of x: ")


def test_damaged_calibrations_of_a_run(tmp_path):
    assert calibrations.read(tmp_path, 5) == {}
    calibrations.write(tmp_path, 5, "pictures", CALIBRATION)
    assert calibrations.read(tmp_path, 5) == {"pictures": CALIBRATION}
    assert calibrations.read(tmp_path, 6) == {}
    for text in ("", "{", "[]", '{"step": "5", "calibrations": {}}', '{"step": 5}'):
        (tmp_path / calibrations.FILE).write_text(text)
        with pytest.raises(ValueError, match="calibrations.json.*calibrate again"):
            calibrations.read(tmp_path, 5)


def test_a_damaged_outcome_of_an_ablation(tmp_path):
    assert training.read_outcome(tmp_path) is None
    for text in ("", "null", '{"code": 0}', '{"code": "0", "line": "", "cpu_seconds": 1}'):
        (tmp_path / "outcome.json").write_text(text)
        with pytest.raises(ValueError, match="outcome.json"):
            training.read_outcome(tmp_path)
