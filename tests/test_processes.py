"""Several real processes on the CPU, started by launch/local.sh."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from launching import environment
from recipes import ROOT, get_config

from siamese_jax.runs import checkpoints, workdir
from siamese_jax.training import loop, processes

pytestmark = pytest.mark.slow

# With a constant rate a step is the same program whatever the number of steps.
FIELDS = {
    "model.encoder_args.widths": (4,),
    "objective.episodes": 4,
    "augment.distort": False,
    "optim.schedule": "constant",
    "eval.every": 5,
}


# A network that is soon compiled, and no end: so many steps are never made.
LOST = {"optim.schedule": "constant", "eval.every": 5, "num_steps": 100_000}


def _start(path, processes, devices_each, config="quickstart.py:vector,smoke", fields=FIELDS):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return subprocess.Popen(
        ["bash", ROOT / "launch/local.sh", str(processes)]
        + [f"--config={ROOT}/configs/{config}", f"--workdir={path}"]
        + [f"--config.{name}={value}" for name, value in {**fields, "num_devices": 0}.items()],
        env=environment(devices_each) | {"PYTHON": sys.executable, "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _finish(process):
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def _figures(path):
    return [
        (r["step"], r["phase"], r.get("loss"), r["accuracy"]) for r in workdir.read_metrics(path)
    ]


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "two"
    code, output = _finish(_start(path, 2, 2))
    assert code == 0, output
    return path, output


def test_two_processes_of_two_devices_reach_what_one_of_four_reaches(two_by_two, tmp_path):
    # In float32, whose rounding 20 steps of AdamW enlarge; test_steps.py holds devices in float64.
    config = get_config("quickstart", "vector,smoke")
    config.update_from_flattened_dict({**FIELDS, "num_devices": 4})
    loop.train_and_evaluate(config, tmp_path / "one")
    one, two = _figures(tmp_path / "one"), _figures(two_by_two[0])
    assert [row[:2] for row in one] == [row[:2] for row in two]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(np.float64(a[2:]), np.float64(b[2:]), rtol=1e-3)
    first, second = (
        checkpoints.Checkpoints(path).variables(20) for path in (tmp_path / "one", two_by_two[0])
    )
    for name, kernel in first["params"]["encoder"].items():
        for part, value in kernel.items():
            other = second["params"]["encoder"][name][part]
            np.testing.assert_allclose(value, other, rtol=1e-2, atol=1e-3, err_msg=f"{name}/{part}")


def test_only_the_first_process_speaks_and_logs(two_by_two):
    path, output = two_by_two
    assert len(re.findall(r"finished at step 20", output)) == 1
    assert len(workdir.read_provenance(path)) == 1
    steps = [row["step"] for row in workdir.read_metrics(path) if row["phase"] == "train"]
    assert steps == [5, 10, 15, 20]


def test_a_lost_process_stops_the_others_with_a_line_and_the_run_goes_on(tmp_path):
    path = tmp_path / "run"
    process = _start(path, 2, 2, "vectors.py:smoke", LOST)
    _wait_for_checkpoint(path, process)
    os.kill(_second_process(process.pid), signal.SIGKILL)
    before = time.monotonic()
    code, output = _finish(process)
    assert time.monotonic() - before < 60
    assert code == 137 and "error: a process ended with code 137" in output, output
    saved = checkpoints.Checkpoints(path)
    reached = saved.latest
    saved.close()

    # On one process and one device this time: a checkpoint does not ask who made it.
    process = _start(path, 1, 1, "vectors.py:smoke", LOST)
    deadline = time.monotonic() + 120
    while not any(row["step"] > reached + 5 for row in workdir.read_metrics(path)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    code, output = _finish(process)
    assert code == 75 and "stopped and saved" in output, output
    steps = [row["step"] for row in workdir.read_metrics(path) if row["phase"] == "train"]
    assert steps == list(range(5, steps[-1] + 1, 5))


def test_wrong_number_of_processes_is_one_line():
    for given in ("0", "two"):
        done = subprocess.run(
            ["bash", ROOT / "launch/local.sh", given], capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    "place, words",
    [
        (("localhost:1", None, 0), "need --num_processes"),
        ((None, None, 1), "need --num_processes"),
        ((None, 1, 1), "--process_id=1 must be below"),
        ((None, 2, 0), "--num_processes=2 needs --coordinator"),
    ],
)
def test_a_process_of_several_is_told_how_many_there_are(place, words):
    with pytest.raises(ValueError, match=words):
        processes.join(*place, False, 100)
    assert not processes.join("localhost:1", 1, 0, False, 100)  # as launch/local.sh 1 says it


def test_a_signal_stops_the_launcher_although_it_may_start_again(tmp_path):
    # Stands for a training that saves and ends with 75 when told to stop.
    fake = tmp_path / "python"
    fake.write_text(
        f"#!/bin/bash\ntrap 'exit 75' TERM\necho >>{tmp_path}/starts\nwhile :; do sleep 0.02; done\n"
    )
    fake.chmod(0o755)
    launcher = subprocess.Popen(
        ["bash", ROOT / "launch/local.sh", "1"],
        env={**os.environ, "PYTHON": str(fake), "RESTARTS": "3"},
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "starts").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    launcher.terminate()
    try:
        assert launcher.wait(10) == 75
    finally:
        launcher.terminate()
    assert (tmp_path / "starts").read_text() == "\n"


def _wait_for_checkpoint(path, process):
    deadline = time.monotonic() + 180
    while not [p for p in (path / "checkpoints").glob("*") if p.name.isdigit()]:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)


def _second_process(group):
    """The id of process 1 of those that a launcher started in its process group."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            found = b"--process_id=1" in command and os.getpgid(int(folder.name)) == group
        except (FileNotFoundError, ProcessLookupError):
            continue
        if found:
            return int(folder.name)
    raise AssertionError("process 1 is not running")
