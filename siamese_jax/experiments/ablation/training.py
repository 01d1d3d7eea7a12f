"""Trains the runs of an ablation, each in a process of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping

from typing_extensions import TypedDict

from siamese_jax import files, readers

_ENDING = (sys.executable, "-I", str(pathlib.Path(__file__).with_name("end_with_parent.py")))


class Trainer:
    """Trains in processes of their own, several at a time, each on its share of the machine.

    Args:
        checkout: folder that holds `launch/` and `configs/`.
        jobs: runs at a time.
    """

    def __init__(self, checkout: pathlib.Path, jobs: int) -> None:
        self.jobs = jobs
        self._command = [sys.executable, str(checkout / "launch" / "train.py"), "--noprogress"]
        self._recorded = str(checkout / "configs" / "recorded.py")
        self._children: set[int] = set()
        self._stopping = False

    def train(self, config: Mapping, path: pathlib.Path) -> dict:
        """Trains a run to its end, in a process of the calling thread's share.

        The folder gets `variant.json` (the config), `train.log` and `outcome.json`.

        Returns:
            `code` (the exit code), `line` (the last of its output) and `cpu_seconds` (of all starts).
        """
        path.mkdir(parents=True, exist_ok=True)
        files.replace_json(path / "variant.json", config)
        before = read_outcome(path) or {"cpu_seconds": 0.0}
        config_flag = f"--config={self._recorded}:{path / 'variant.json'}"
        with open(path / "train.log", "ab") as log:
            child = subprocess.Popen(
                [*_ENDING, str(os.getpid()), *self._command, config_flag, f"--workdir={path}"],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
            self._children.add(child.pid)
            if self._stopping:  # begun while the others were being stopped
                child.terminate()
            _, status, usage = os.wait4(child.pid, 0)
            self._children.discard(child.pid)
            child.returncode = os.waitstatus_to_exitcode(status)
        lines = (path / "train.log").read_text(errors="replace").split("\n")
        outcome = {
            "code": child.returncode,
            "line": next((line.strip() for line in reversed(lines) if line.strip()), ""),
            "cpu_seconds": round(before["cpu_seconds"] + usage.ru_utime + usage.ru_stime, 1),
        }
        files.replace_json(path / "outcome.json", outcome)
        return outcome

    def each(self, items: Iterable, work: Callable, done: Callable, should_stop: Callable) -> bool:
        """Calls `work(item)` in threads and `done(item, outcome)` here as each ends.

        Once `should_stop()` is true, or after an error, the trainings are told to save and end.
        Returns whether all items were done.
        """
        if should_stop():
            return False
        shares: queue.SimpleQueue = queue.SimpleQueue()
        for share in _shares(self.jobs):
            shares.put(share)
        with concurrent.futures.ThreadPoolExecutor(
            self.jobs, initializer=lambda: _stay_on(shares.get())
        ) as pool:
            pending = {pool.submit(work, item): item for item in items}
            try:
                while pending:
                    ended, _ = concurrent.futures.wait(
                        pending, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
                    )
                    for future in ended:
                        done(pending.pop(future), future.result())
                    if should_stop():
                        self._stop(pool)
                        return False
            except BaseException:  # the pool waits for what it has begun
                self._stop(pool)
                raise
        return True

    def _stop(self, pool: concurrent.futures.Executor) -> None:
        """Begins no more trainings, and tells those that run to save and end."""
        self._stopping = True
        pool.shutdown(wait=False, cancel_futures=True)
        for pid in list(self._children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _shares(jobs: int) -> list[list[int]]:
    """The cores of this process, dealt out to `jobs` workers."""
    if not hasattr(os, "sched_getaffinity"):
        return [[]] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [cores[k % len(cores) :: jobs] for k in range(jobs)]


def _stay_on(cores: list[int]) -> None:
    """Keeps the calling thread, and the processes that it starts, on these cores."""
    if cores:
        os.sched_setaffinity(0, cores)


def read_json(path: pathlib.Path) -> dict | None:
    """The mapping that a file holds, None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    return readers.read_json(path, dict) if path.exists() else None


class _Outcome(TypedDict):
    code: int
    line: str
    cpu_seconds: float


def read_outcome(path: pathlib.Path) -> dict | None:
    """What came of a run's last start, None where it has not ended yet.

    Raises:
        ValueError: its `outcome.json` is damaged.
    """
    file = path / "outcome.json"
    return readers.read_json(file, _Outcome) if file.exists() else None
