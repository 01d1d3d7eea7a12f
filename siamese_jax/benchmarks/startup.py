"""Start-up: from the start of `launch/train.py` to its first step, and the time of compilation."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from siamese_jax.benchmarks.measure import Row
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.training.step import make_train_step

_PATIENCE = 900  # seconds for a first step


def run_startup(plan: Plan) -> list[Row]:
    """Cold and warm starts in symmetries, each cold one with a cache folder of its own."""
    variants = ("koch2015.py:smoke",) if plan.smoke else ("quickstart.py:smoke", "quickstart.py")
    imports = [_import_seconds() for _ in range(plan.repetitions)]
    rows = [_row("a process", "import siamese_jax.train", imports)]
    for variant in variants:
        cold, warm = [], []
        for _ in range(plan.repetitions):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(first_step_seconds(plan, variant, pathlib.Path(folder) / "cold"))
                warm.append(first_step_seconds(plan, variant, pathlib.Path(folder) / "warm"))
        group = f"launch/train.py to its first step, {variant} on glyphs"
        rows += [_row(group, "cold cache", cold), _row(group, "warm cache", warm)]
    for name in ("koch2015", "quickstart"):
        work = Workload(plan.config(name))
        traced, compiled = zip(
            *(compile_seconds(work) for _ in range(plan.repetitions)), strict=True
        )
        group = f"{name}'s training step, {work.pairs} pairs"
        rows += [_row(group, "tracing", traced), _row(group, "compilation, no cache", compiled)]
    return rows


def first_step_seconds(plan: Plan, variant: str, path: pathlib.Path) -> float:
    """Time from the start of a training to the log's row of its first step; then ends it.

    Args:
        plan: where the launcher and the configs lie, and the seed.
        variant: config file and variant.
        path: workdir to make; the cache of compiled programs lies beside it.

    Raises:
        ValueError: the training ended, or took too long.
    """
    command = [sys.executable, str(plan.root / "launch" / "train.py")]
    command += [f"--config={plan.root / 'configs' / variant}", f"--workdir={path}"]
    command += ["--config.data.name=glyphs", "--config.log_every=1", f"--config.seed={plan.seed}"]
    command += ["--config.num_devices=1", "--noprogress"]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process holds the same GPU
    }
    with tempfile.TemporaryFile("w+") as said:
        begin = time.time()
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        log = path / "metrics.jsonl"
        try:
            while not (log.exists() and log.stat().st_size):
                if process.poll() is not None or time.time() - begin > _PATIENCE:
                    said.seek(0)
                    last = said.read().strip().splitlines()[-1:]
                    raise ValueError(f"launch/train.py made no step: {' '.join(last)}")
                time.sleep(0.01)
            return time.time() - begin
        finally:
            process.terminate()
            process.wait()


def compile_seconds(work: Workload) -> tuple[float, float]:
    """Seconds to trace and to compile the training step, without the cache of compiled programs."""
    step = make_train_step(
        *(work.model, work.tx, work.objective, work.augmentation, work.fill, work.devices)
    )
    state = work.state()
    cached = jax.config.jax_enable_compilation_cache
    _use_cache(False)
    try:
        begin = time.perf_counter()
        lowered = step.lower(state, work.images, work.index)
        traced = time.perf_counter()
        lowered.compile()
        return traced - begin, time.perf_counter() - traced
    finally:
        _use_cache(cached)


def _use_cache(use: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", use)
    compilation_cache.reset_cache()  # it asks for the setting only once


def _import_seconds() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import siamese_jax.train"], check=True)
    return time.perf_counter() - begin


def _row(group: str, name: str, seconds: Sequence[float]) -> Row:
    return Row(
        group=group,
        name=name,
        seconds=float(np.median(seconds)),
        quartiles=tuple(np.quantile(seconds, (0.25, 0.75)).tolist()),
        repetitions=len(seconds),
        calls=1,
    )
