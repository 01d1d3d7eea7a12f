"""What the cases share: a small run and what is made of it, and ways to break things."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import random
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import numpy as np
from PIL import Image

from siamese_jax.data import loading
from siamese_jax.inference import network
from siamese_jax.runs import export, workdir
from siamese_jax.runs.checkpoints import Checkpoints
from siamese_jax.training import loop
from tests import launching

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "vector,smoke"
STOPPED = 25  # of 30 steps
FLAGS = ("--config.num_steps=30", "--config.num_devices=1", "--noprogress")
_TIMINGS = ("images_per_second", "cpu_seconds")
_EVENTS = ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink")  # operations of `os` on files


@dataclasses.dataclass
class Bench:
    """What all cases of a session share.

    Attributes:
        folder: for their files.
        config: of the run that is broken.
        unbroken: workdir of the finished run.
        stopped: workdir of the same run, stopped at step `STOPPED`.
        programs: its compiled steps.
    """

    folder: pathlib.Path
    config: object
    unbroken: pathlib.Path
    stopped: pathlib.Path
    programs: dict

    @classmethod
    def make(cls, place: pathlib.Path) -> Bench:
        """Trains the run twice: to its end, and to a stop."""
        if jax.config.jax_compilation_cache_dir is None:  # every start compiles some programs anew
            jax.config.update("jax_compilation_cache_dir", str(place / "compiled"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        config = runpy.run_path(str(ROOT / "configs" / "quickstart.py"))["get_config"](CONFIG)
        with config.unlocked():
            config.num_steps, config.num_devices = 30, 1
        bench = cls(place, config, place / "whole", place / "stopped", {})
        bench.train(bench.unbroken)
        left = iter(range(STOPPED))
        bench.train(bench.stopped, should_stop=lambda: next(left) == STOPPED - 1)
        return bench

    def train(self, path: pathlib.Path, **more) -> dict:
        """Trains, or goes on, in this process; the data, which nothing is done to, are made once."""
        data = self.data
        with mock.patch.object(loading, "load", lambda fields: data):
            return loop.train_and_evaluate(self.config, path, programs=self.programs, **more)

    @functools.cached_property
    def data(self) -> loading.Data:
        """The data of the run."""
        return loading.load(self.config.data)

    def fresh(self, name: str = "case") -> pathlib.Path:
        """A place where nothing is."""
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return path

    def copy(self, source: pathlib.Path) -> pathlib.Path:
        """A fresh copy of a workdir."""
        path = self.fresh()
        shutil.copytree(source, path)
        return path

    @functools.cached_property
    def weights(self) -> pathlib.Path:
        """The network as a file of weights."""
        path = self.folder / "net.npz"
        export.export(self.unbroken, path)
        return path

    @functools.cached_property
    def net(self) -> network.Siamese:
        """The network of the finished run."""
        return network.load(self.unbroken, "latest")

    @functools.cached_property
    def events(self) -> int:
        """How many operations on files a training makes."""
        path = self.fresh()
        with at_event(lambda number: None, path) as count:
            self.train(path)
        return count()

    @functools.cached_property
    def commanded(self) -> pathlib.Path:
        """The finished run by the command, whose own setting of the processor rounds otherwise."""
        path = self.folder / "commanded"
        done = command(path)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return path

    @functools.cached_property
    def _expected(self) -> dict[bool, tuple]:
        return {}

    def expected(self, by_command: bool) -> tuple[dict, list]:
        """What a run must come to, in this process or by the command."""
        if by_command not in self._expected:
            self._expected[by_command] = result(self.commanded if by_command else self.unbroken)
        return self._expected[by_command]

    def is_unbroken(self, path: pathlib.Path, by_command: bool = False) -> bool:
        """Whether a finished run has the bits of the unbroken one."""
        (found, rows), (expected, expected_rows) = result(path), self.expected(by_command)
        return rows == expected_rows and same(found, expected)

    def goes_on(self, path: pathlib.Path) -> str | None:
        """Gives the same command again: it ends with the same bits, or says in one line why not."""
        try:
            self.train(path)
        except Exception as error:
            return told(error)
        return None if self.is_unbroken(path) else "other parameters or another log"


def result(path: pathlib.Path) -> tuple[dict, list]:
    """Final parameters and the log without its clock."""
    saved = Checkpoints(path, read_only=True)
    rows = [
        {name: x for name, x in row.items() if name not in _TIMINGS}
        for row in workdir.read_metrics(path)
    ]
    return saved.variables(saved.latest), rows


def same(a, b) -> bool:
    """Whether two trees have equal structures and arrays."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def files(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that hold something."""
    return sorted(x for x in path.rglob("*") if x.is_file() and x.stat().st_size)


def flip(path: pathlib.Path, rng: random.Random) -> None:
    """Flips one bit."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def damage(path: pathlib.Path, rng: random.Random) -> str:
    """Flips a bit, cuts a file short, empties it, or changes some bytes; says which."""
    data, what = bytearray(path.read_bytes()), rng.choice(("flipped", "cut", "emptied", "changed"))
    if what == "flipped":
        flip(path, rng)
    elif what == "changed":
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
    else:
        path.write_bytes(data[: rng.randrange(len(data))] if what == "cut" else b"")
    return what


def told(error: Exception) -> str | None:
    """Nothing where an error is one that a command shows as one line."""
    text = str(error)
    known = isinstance(error, ValueError | OSError | FloatingPointError | MemoryError)
    if known and len(text) < 3000 and not isinstance(error, UnicodeError):
        return None
    return f"{type(error).__name__}: {text[:200]}"


def kept_or_told(ask: Callable, is_kept: Callable[[object], bool], what: str) -> str | None:
    """Nothing where an answer is what it was, or is refused in one line."""
    try:
        found = ask()
    except Exception as error:
        failure = told(error)
        return failure and f"{what}: {failure}"
    return None if is_kept(found) else f"{what}: something else is accepted"


@contextlib.contextmanager
def at_event(act: Callable[[int], None], place: pathlib.Path) -> Iterator[Callable[[], int]]:
    """Calls `act(number)` before each operation on files of a folder; yields their number so far."""
    count, originals = 0, {name: getattr(os, name) for name in _EVENTS}

    def wrapped(name):
        def call(*args, **more):
            nonlocal count
            if name == "fsync" or str(place) in str(args[0]):
                count += 1
                act(count)
            return originals[name](*args, **more)

        return call

    for name in _EVENTS:
        setattr(os, name, wrapped(name))
    try:
        yield lambda: count
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def command(
    path: pathlib.Path, before: str = "", launcher: str = "train", flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    """Runs a launcher in a process of its own, after some Python."""
    words = flags or (f"--config=configs/quickstart.py:{CONFIG}", *FLAGS)
    code = (
        f"{before}\nimport runpy, sys\n"
        f"sys.argv = ['launch/{launcher}.py', *{words!r}, '--workdir={path}']\n"
        f"runpy.run_path('launch/{launcher}.py', run_name='__main__')\n"
    )
    return python(code, path.parent / "cache")


def python(code: str, cache: pathlib.Path) -> subprocess.CompletedProcess:
    """Runs some Python in a process of its own, with a cache of compiled programs."""
    environment = {
        **launching.environment(),
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 900},
        check=False,
    )


def launched(launcher: str, words: list[str]) -> tuple[int | None, str]:
    """Runs a launcher in this process; its exit code (None: it went on) and what it wrote to stderr."""
    import logging

    from absl import flags

    known, notes = set(flags.FLAGS), logging.getLogger("siamese_jax")
    handlers, level, spread = list(notes.handlers), notes.level, notes.propagate
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    kept = sys.argv, sys.excepthook, sys.unraisablehook
    sys.argv = [f"launch/{launcher}.py", *words]
    errors, code = io.StringIO(), None
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(ROOT / "launch" / f"{launcher}.py"), run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv, sys.excepthook, sys.unraisablehook = kept
        notes.handlers[:], notes.level, notes.propagate = handlers, level, spread
        for number, handler in signals.items():
            signal.signal(number, handler)
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    return code, errors.getvalue()


def one_line(code: int | None, text: str, launcher: str) -> str | None:
    """Nothing where a command ended with an error in one line."""
    lines = [line for line in text.splitlines() if line.startswith(f"launch/{launcher}.py: ")]
    if code in (1, 2) and len(lines) == 1 and "Traceback" not in text and len(lines[0]) < 3000:
        return None
    return f"exit {code}, {len(lines)} lines of error: {text[-300:]}"


def picture(rng: random.Random, side: int = 9, mode: str = "L") -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (side, side, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer, "PNG")
    return buffer.getvalue()
