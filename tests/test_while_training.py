"""Beside a training: checkpoints are read while it writes them, and its parent is killed."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from siamese_jax.runs.checkpoints import Checkpoints, read_variables

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 40


def test_any_checkpoint_is_read_while_others_are_written_and_removed(tmp_path):
    values = np.random.default_rng(0).random(STEPS + 1)
    failures = []

    def write():
        try:
            saved = Checkpoints(tmp_path, run={"seed": 3})
            for step in range(1, STEPS + 1):
                params = {f"w{i}": jnp.full(50, step + i, jnp.float32) for i in range(8)}
                saved.save(step, {"params": params, "batch_stats": {}}, float(values[step]))
            saved.close()
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    read = {"latest": [], "best": []}
    while writer.is_alive():
        for name, steps in read.items():
            if not Checkpoints(tmp_path, read_only=True).steps:
                continue
            step, variables = read_variables(tmp_path, name, {"seed": 3})
            steps.append(step)
            for i in range(8):
                np.testing.assert_array_equal(variables["params"][f"w{i}"], step + i)
    writer.join()
    assert not failures
    assert len(set(read["latest"])) > 3 and read["latest"] == sorted(read["latest"])
    assert read_variables(tmp_path, "latest")[0] == STEPS
    assert read_variables(tmp_path, "best")[0] == values[1:].argmax() + 1


def test_a_checkpoint_is_read_while_its_note_is_written(tmp_path):
    """The note is made in a folder that comes and goes inside the checkpoint."""
    saved = Checkpoints(tmp_path)
    saved.save(1, {"params": {"w": jnp.ones(3)}, "batch_stats": {}}, 0.5)
    saved.close()
    done = threading.Event()

    def write():
        while not done.is_set():
            (tmp_path / "checkpoints" / "1" / ".files.json.part").mkdir()
            (tmp_path / "checkpoints" / "1" / ".files.json.part").rmdir()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert read_variables(tmp_path)[0] == 1
    finally:
        done.set()
        writer.join()


TRAINER = """
import pathlib, sys
from siamese_jax.experiments.ablation import training
place = pathlib.Path(sys.argv[1])
trainer = training.Trainer(place, 1)
trainer.each([1], lambda _: trainer.train({}, place / "run"), lambda *_: None, lambda: False)
"""
SLEEPER = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[-1].split("=", 1)[1], "pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def _runs(pid):
    """Whether a process is there, and not only waits for its parent to ask of its end."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too long"
        time.sleep(0.05)


def test_a_killed_ablation_leaves_no_training(tmp_path):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "train.py").write_text(SLEEPER)
    parent = subprocess.Popen(
        [sys.executable, "-c", TRAINER, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    file = tmp_path / "run" / "pid"
    try:
        _until(lambda: parent.poll() is None and file.exists() and file.read_text(), 120)
        child = int(file.read_text())
        assert _runs(child)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _until(lambda: not _runs(child), 20)
