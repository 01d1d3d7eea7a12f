"""Trains the runs of an ablation: processes of their own, and budgets of CPU time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping

from siamese_jax.experiments.ablation.axes import changed
from siamese_jax.runs import files, workdir

_BUDGET_SHARE = 0.97  # of a budget that is planned for, since steps vary in cost
_CALIBRATION_SECONDS = 1.0  # least CPU time that a measurement of the cost of steps takes


class Trainer:
    """Trains in processes of their own, several at a time, each on its share of the machine.

    Args:
        checkout: folder that holds `launch/` and `configs/`.
        jobs: runs at a time.
    """

    def __init__(self, checkout: pathlib.Path, jobs: int):
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
        (path / "variant.json").write_text(json.dumps(config, indent=1))
        before = read_json(path / "outcome.json") or {"cpu_seconds": 0.0}
        config_flag = f"--config={self._recorded}:{path / 'variant.json'}"
        with open(path / "train.log", "ab") as log:
            child = subprocess.Popen(
                [*self._command, config_flag, f"--workdir={path}"],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
            self._children.add(child.pid)
            if self._stopping:  # since the others were told
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
        write_json(path / "outcome.json", outcome)
        return outcome

    def each(self, items: Iterable, work: Callable, done: Callable, should_stop: Callable) -> bool:
        """Calls `work(item)` in threads and `done(item, outcome)` here as each ends.

        Once `should_stop()` is true the trainings are told to save and end; returns whether all
        items were done.
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
            while pending:
                ended, _ = concurrent.futures.wait(
                    pending, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    done(pending.pop(future), future.result())
                if should_stop():
                    self._stopping = True
                    pool.shutdown(wait=False, cancel_futures=True)
                    for pid in list(self._children):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGTERM)
                    return False
        return True


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


def plan_budget(config: Mapping, cost: Mapping[str, float], cpu_minutes: float) -> dict:
    """The config whose training takes a budget of CPU time, schedules and all.

    The number of evaluations stays that of the config, and the warm-up keeps its share.

    Args:
        config: as a plain dict.
        cost: CPU seconds of the `start`, of a `step` and of an `evaluation`.
        cpu_minutes: CPU time of the whole process, in minutes.

    Raises:
        ValueError: not even one step before each evaluation fits.
    """
    old = config["num_steps"]
    evaluations = max(1, round(old / config["eval"]["every"]))
    seconds = 60 * cpu_minutes * _BUDGET_SHARE - cost["start"] - evaluations * cost["evaluation"]
    between = int(seconds / cost["step"] / evaluations)
    if between < 1:
        raise ValueError(
            f"{cpu_minutes:g} CPU minutes are too few: the start takes {cost['start']:.0f} s, "
            f"{evaluations} evaluations {evaluations * cost['evaluation']:.0f} s and a step "
            f"{cost['step']:.2g} s"
        )
    most = min(config["log_every"], between)
    log_every = max(range((most + 1) // 2, most + 1), key=lambda n: (between // n * n, n))
    fields = {"log_every": log_every, "eval.every": between // log_every * log_every}
    fields["num_steps"] = evaluations * fields["eval.every"]
    if "warmup_steps" in config["optim"]:
        share = config["optim"]["warmup_steps"] / old
        fields["optim.warmup_steps"] = min(
            round(share * fields["num_steps"]), fields["num_steps"] - 1
        )
    return changed(config, fields)


def measure(trainer: Trainer, config: Mapping, path: pathlib.Path) -> dict:
    """CPU seconds of the start, a step and an evaluation, from a short training that is thrown away.

    Returns:
        `start`, `step` and `evaluation`; `line` instead if the training fails.
    """
    part = 4  # steps between two rows of the log
    while True:
        fields = {"log_every": part, "eval.every": 2 * part, "num_steps": 6 * part}
        fields["eval.patience"] = 0
        if "warmup_steps" in config["optim"]:
            fields["optim.warmup_steps"] = 0
        shutil.rmtree(path, ignore_errors=True)
        outcome = trainer.train(changed(config, fields), path)
        if outcome["code"]:
            return {"line": outcome["line"]}
        rows = {row["step"]: row for row in workdir.read_metrics(path) if row["phase"] == "train"}
        spent = [0.0] + [rows[k * part]["cpu_seconds"] for k in range(1, 7)]
        # Evaluations lie after the second, fourth and sixth row; the first of them compiles.
        steps = (spent[4] - spent[3] + spent[6] - spent[5]) / 2
        if steps >= _CALIBRATION_SECONDS:
            shutil.rmtree(path)
            evaluation = max(spent[5] - spent[4] - steps, 0.0)
            start = max(spent[3] - 3 * steps - evaluation, 0.0)
            return {"start": start, "step": steps / part, "evaluation": evaluation}
        part *= max(2, math.ceil(_CALIBRATION_SECONDS / max(steps, 0.005)))


def read_json(path: pathlib.Path):
    """What the file holds, None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def write_json(path: pathlib.Path, value) -> None:
    """Replaces a file at once."""
    files.replace_text(path, json.dumps(value, indent=1) + "\n")
