"""The kinds of faults, and what counts as kept: the same bits as without it, or one line that says why.

A case returns nothing where the project did as promised, else a sentence.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable

import jax
import numpy as np

from siamese_jax import readers
from siamese_jax.config import FIELDS, check_fields
from siamese_jax.data import folder
from siamese_jax.inference import network
from siamese_jax.runs import export, workdir
from siamese_jax.runs.checkpoints import Checkpoints
from siamese_jax.training import loop

ROOT = pathlib.Path(__file__).parents[2]
STOPPED = 25  # of 30 steps
_TIMINGS = ("images_per_second", "cpu_seconds")
_COMMAND = (
    *("--config=configs/quickstart.py:vector,smoke", "--config.num_steps=30", "--noprogress"),
    "--config.num_devices=1",
)


@dataclasses.dataclass
class Bench:
    """What all cases of a session share.

    Attributes:
        folder: for their files.
        config: of the run that is broken.
        unbroken: workdir of the finished run.
        stopped: workdir of the same run, stopped at step `STOPPED`.
        weights: its file of weights.
        programs: its compiled steps.
    """

    folder: pathlib.Path
    config: object
    unbroken: pathlib.Path
    stopped: pathlib.Path
    weights: pathlib.Path
    programs: dict

    @classmethod
    def make(cls, place: pathlib.Path) -> Bench:
        scope: dict = {}
        exec((ROOT / "configs" / "quickstart.py").read_text(), scope)
        config = scope["get_config"]("vector,smoke")
        with config.unlocked():
            config.num_steps, config.num_devices = 30, 1
        bench = cls(place, config, place / "whole", place / "stopped", place / "net.npz", {})
        loop.train_and_evaluate(config, bench.unbroken, programs=bench.programs)
        left = iter(range(STOPPED))
        loop.train_and_evaluate(
            *(config, bench.stopped),
            should_stop=lambda: next(left) == STOPPED - 1,
            programs=bench.programs,
        )
        export.export(bench.unbroken, bench.weights)
        return bench

    def copy(self, source: pathlib.Path) -> pathlib.Path:
        """A fresh copy of a workdir."""
        path = self.folder / "case"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path)
        return path

    def result(self, path: pathlib.Path) -> tuple[dict, list]:
        """Final parameters and the log without its clock."""
        saved = Checkpoints(path, read_only=True)
        rows = [
            {name: x for name, x in row.items() if name not in _TIMINGS}
            for row in workdir.read_metrics(path)
        ]
        return saved.variables(saved.latest), rows

    def is_unbroken(self, path: pathlib.Path, commanded: bool = False) -> bool:
        """Whether a finished run has the bits of the unbroken one, of this process or of the command."""
        expected = self.unbroken
        if commanded:  # whose own setting of the processor rounds otherwise
            expected = self.folder / "commanded"
            if not expected.exists():
                _command(expected)
        (found, rows), (expected, expected_rows) = self.result(path), self.result(expected)
        same = jax.tree.map(np.array_equal, found, expected)
        return rows == expected_rows and all(jax.tree.leaves(same))


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(x for x in path.rglob("*") if x.is_file() and x.stat().st_size)


def _flip(path: pathlib.Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _told(error: Exception) -> str | None:
    """Whether an error is one that a command shows as one line."""
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return None
    return f"{type(error).__name__}: {str(error)[:120]}"


def _goes_on(bench: Bench, path: pathlib.Path) -> str | None:
    try:
        loop.train_and_evaluate(bench.config, path, programs=bench.programs)
    except Exception as error:
        return _told(error)
    return None if bench.is_unbroken(path) else "other parameters or another log"


def flipped_and_resumed(bench: Bench, rng: random.Random) -> str | None:
    """One bit of any file of a stopped run is flipped, and the run goes on."""
    path = bench.copy(bench.stopped)
    file = rng.choice(_files(path))
    _flip(file, rng)
    failure = _goes_on(bench, path)
    return failure and f"{file.relative_to(path)}: {failure}"


def lost_and_resumed(bench: Bench, rng: random.Random) -> str | None:
    """A file or folder of a stopped run is missing, empty or cut short, and the run goes on."""
    path = bench.copy(bench.stopped)
    victim = rng.choice([*path.rglob("*")])
    if victim.is_dir():
        shutil.rmtree(victim)
    elif rng.random() < 0.5:
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[: rng.randrange(victim.stat().st_size + 1)])
    failure = _goes_on(bench, path)
    return failure and f"{victim.relative_to(path)}: {failure}"


def flipped_and_loaded(bench: Bench, rng: random.Random) -> str | None:
    """One bit of a finished run is flipped, and its network is loaded."""
    path = bench.copy(bench.unbroken)
    file = rng.choice(_files(path))
    _flip(file, rng)
    try:
        found = network.load(path, "latest").variables
    except Exception as error:
        failure = _told(error)
        return failure and f"{file.relative_to(path)}: {failure}"
    expected = network.load(bench.unbroken, "latest").variables
    same = jax.tree.leaves(jax.tree.map(np.array_equal, found, expected))
    return None if all(same) else f"{file.relative_to(path)}: other parameters"


def flipped_weights(bench: Bench, rng: random.Random) -> str | None:
    """One bit of a file of weights is flipped."""
    path = bench.folder / "flipped.npz"
    shutil.copyfile(bench.weights, path)
    _flip(path, rng)
    try:
        found = export.read(path).variables
    except Exception as error:
        return _told(error)
    expected = export.read(bench.weights).variables
    same = jax.tree.leaves(jax.tree.map(np.array_equal, found, expected))
    return None if all(same) else "other parameters"


def another_run(bench: Bench, rng: random.Random) -> str | None:
    """A checkpoint is renamed, or the run is started with another seed or config."""
    path = bench.copy(bench.stopped)
    scope = bench.config.copy_and_resolve_references()
    what = rng.choice(["step", "seed", "config", "config.json"])
    with scope.unlocked():
        if what == "step":
            (path / "checkpoints" / "25").rename(path / "checkpoints" / f"{rng.randint(26, 30)}")
        elif what == "config.json":
            (path / "config.json").unlink()
        else:
            field = "seed" if what == "seed" else "keep_best"
            scope[field] += rng.randint(1, 9)
            text = json.dumps(workdir.plain(scope))
            (path / "config.json").write_text(text)
    try:
        loop.train_and_evaluate(scope, path, programs=dict(bench.programs))
    except Exception as error:
        return _told(error)
    return f"another {what} is accepted"


def two_writers(bench: Bench, rng: random.Random) -> str | None:
    """A second training of the same folder."""
    path = bench.copy(bench.stopped)
    start = workdir.read_start(path)
    details = {name: start[name] for name in ("image_shape", "kind", "data")}
    print_of_data = start["data_fingerprint"]
    with workdir.RunFolder(path, bench.config, print_of_data, details):
        try:
            loop.train_and_evaluate(bench.config, path, programs=bench.programs)
        except ValueError as error:
            return None if "in use by another process" in str(error) else str(error)
    return "two writers are accepted"


_STRANGE = (None, True, -1, 0, 7, 0.5, -0.1, 1e400, float("nan"), 10**30, "x", "", (), (0, 0), [20])
_STRANGE += ({"a": 1}, (20,), (20, -1), (1.5, 2.5), (2, 1), b"x", object)


def config_field(bench: Bench, rng: random.Random) -> str | None:
    """A field of a config holds any value: it is in its range, or refused by name."""
    name, value = rng.choice(list(FIELDS)), rng.choice(_STRANGE)
    *sections, last = name.split(".")
    config: dict = {last: value}
    for section in reversed(sections):
        config = {section: config}
    try:
        check_fields(config)
    except ValueError as error:
        return None if name in str(error) else f"{name}: {error}"
    except Exception as error:
        return f"{name} = {value!r}: {_told(error)}"
    if isinstance(value, dict) or FIELDS[name].accepts(value):
        return None
    return f"{name} = {value!r} is accepted"


def mutated_files(bench: Bench, rng: random.Random) -> str | None:
    """A JSON, NPZ or zip of pictures with some of its bytes changed."""
    buffer = io.BytesIO()
    kind = rng.choice(["json", "npz", "zip"])
    if kind == "json":
        buffer.write(json.dumps({"a": [1, {"b": 2.5}], "c": "text"}).encode())
    elif kind == "npz":
        np.savez_compressed(buffer, a=np.arange(12.0).reshape(3, 4), b=np.asarray("text"))
    else:
        from PIL import Image

        picture = io.BytesIO()
        Image.fromarray(np.full((9, 9), 200, np.uint8)).save(picture, "PNG")
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in ("a/1.png", "a/2.png", "b/1.png"):
                archive.writestr(name, picture.getvalue())
    data = bytearray(buffer.getvalue())
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path = bench.folder / f"mutated.{kind}"
    path.write_bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.2 else data)
    read: Callable = {"json": lambda x: readers.read_json(x, dict), "npz": readers.read_npz}.get(
        kind, folder.load_folder
    )
    try:
        read(path)
    except Exception as error:
        return _told(error)
    return None


def _command(path: pathlib.Path, before: str = "") -> subprocess.CompletedProcess:
    """Trains in a process of its own, after some Python."""
    code = (
        f"{before}\nimport runpy, sys\n"
        f"sys.argv = ['launch/train.py', *{_COMMAND!r}, '--workdir={path}']\n"
        "runpy.run_path('launch/train.py', run_name='__main__')\n"
    )
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))},
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 300},
        check=False,
    )


def _ends_whole(bench: Bench, path: pathlib.Path) -> str | None:
    done = _command(path)
    if done.returncode:
        return f"it does not go on: {done.stderr[-200:]}"
    return None if bench.is_unbroken(path, True) else "other parameters or another log"


_KILL = """
import os, signal
events = 0
def counted(name):
    call = getattr(os, name)
    def wrapped(*args, **more):
        global events
        events += 1
        if events == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **more)
    setattr(os, name, wrapped)
for name in ('replace', 'rename', 'fsync', 'mkdir', 'rmdir', 'unlink'):
    counted(name)
"""


def killed(bench: Bench, rng: random.Random) -> str | None:
    """A training is killed at any replacing, renaming, flushing or removing of a file."""
    path = bench.folder / "case"
    shutil.rmtree(path, ignore_errors=True)
    done = _command(path, _KILL.format(number=rng.randint(1, 90)))
    if done.returncode not in (0, -signal.SIGKILL):
        return f"exit {done.returncode}: {done.stderr[-200:]}"
    return _ends_whole(bench, path)


def full_disk(bench: Bench, rng: random.Random) -> str | None:
    """No file may grow beyond a size: one line and exit 1, and afterwards the same command goes on."""
    path = bench.folder / "case"
    shutil.rmtree(path, ignore_errors=True)
    size = rng.choice([64, 512, 1024, 2048, 4096, 8192, 16384])
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    done = _command(path, limit)
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        return f"{size} bytes, exit {done.returncode}: {done.stderr[-300:]}"
    if done.returncode == 1:
        lines = [x for x in done.stderr.splitlines() if x.startswith("launch/train.py: ")]
        if len(lines) != 1:
            return f"{size} bytes: {len(lines)} lines of error: {done.stderr[-300:]}"
    return _ends_whole(bench, path)


# Cases by kind, and how many of a hundred are of it.
KINDS: dict[str, tuple[Callable[[Bench, random.Random], str | None], int]] = {
    "a bit of a run flipped, and resumed": (flipped_and_resumed, 20),
    "a file of a run lost or cut short, and resumed": (lost_and_resumed, 15),
    "a bit of a run flipped, and loaded": (flipped_and_loaded, 15),
    "a bit of a weights file flipped": (flipped_weights, 10),
    "a checkpoint or config of another run": (another_run, 4),
    "two writers of a run": (two_writers, 2),
    "a field of a config with any value": (config_field, 16),
    "a JSON, NPZ or zip with bytes changed": (mutated_files, 14),
    "a training killed at a file operation": (killed, 2),
    "no room for a file beyond some size": (full_disk, 2),
}
