"""A large folder of photos: its preparation, opening it again, and training from disk or from memory."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from siamese_jax.benchmarks.measure import Row
from siamese_jax.benchmarks.preparation import new_processes, write_pictures
from siamese_jax.benchmarks.workload import Plan
from siamese_jax.data import folder
from siamese_jax.runs import workdir
from siamese_jax.training import loop

_COUNTS = (15_000, 30_000, 60_000)  # pictures
_SIDE = 128  # of the JPEGs, pixels
_INPUT = (56, 56)  # height and width that the network is trained at
_STEPS = 60


def run_folders(plan: Plan) -> list[Row]:
    """Each case once, as a folder is prepared only once; in a process of its own, but for a smoke."""
    rows = []
    once = functools.partial(_once, alone=not plan.smoke)
    for count in (600,) if plan.smoke else _COUNTS:
        group = f"{count:,} JPEGs of {_SIDE} x {_SIDE}, all cores"
        with tempfile.TemporaryDirectory() as place:
            pictures, data_dir = pathlib.Path(place) / "pictures", pathlib.Path(place) / "prepared"
            write_pictures(pictures, count, _SIDE, plan.seed)
            names = sorted(pictures.glob("*/*.jpg"))
            load = functools.partial(_load, pictures, data_dir)
            decode = functools.partial(_decode, names, in_process=plan.smoke)
            decoded = once(group, "Pillow, decoded to arrays", "pictures", decode)
            prepared = once(group, "prepared", "pictures", load)
            again = once(group, "opened again", "pictures", load)
            rows += [_beside(decoded, decoded), _beside(prepared, decoded), again]
            if plan.smoke or count == _COUNTS[-1]:
                steps = {
                    stream: functools.partial(_train, plan, pictures, data_dir, stream)
                    for stream in (False, True)
                }
                memory = once(group, "training from memory", "images trained", steps[False])
                disk = once(group, "training from disk", "images trained", steps[True])
                rows += [_beside(memory, memory), _beside(disk, memory)]
    return rows


def _once(
    group: str, name: str, unit: str, call: Callable[[], tuple[float, float]], alone: bool
) -> Row:
    """One call, which returns amount and seconds; `alone` in a new process, with its peak of memory."""
    if alone:
        with new_processes(1) as pool:
            amount, seconds, peak = pool.submit(_measured, call).result()
    else:
        (amount, seconds), peak = call(), None
    return Row(
        group=group,
        name=name,
        unit=unit,
        amount=amount,
        seconds=seconds,
        quartiles=(seconds, seconds),
        repetitions=1,
        calls=1,
        per_second=amount / seconds,
        peak_memory=peak,
    )


def _beside(row: Row, base: Row) -> Row:
    """The row with its speed against another."""
    assert row.per_second is not None and base.per_second is not None
    return dataclasses.replace(row, ratio=row.per_second / base.per_second, against=base.name)


def _measured(call: Callable[[], tuple[float, float]]) -> tuple[float, float, int]:
    """What a call returns, and the largest memory of this process, bytes."""
    amount, seconds = call()
    return amount, seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _decode(names: list[pathlib.Path], in_process: bool) -> tuple[float, float]:
    """All pictures decoded by Pillow, in one process a core, or all `in_process`."""
    if in_process:
        begin = time.perf_counter()
        _decode_part(names)
        return len(names), time.perf_counter() - begin
    cores = len(os.sched_getaffinity(0))
    with new_processes(cores) as pool:
        list(pool.map(_decode_part, [[]] * cores))  # the processes have started
        begin = time.perf_counter()
        list(pool.map(_decode_part, [names[i::cores] for i in range(cores)]))
        return len(names), time.perf_counter() - begin


def _decode_part(names: list[pathlib.Path]) -> None:
    for name in names:
        np.asarray(Image.open(name).convert("RGB"))


def _load(pictures: pathlib.Path, data_dir: pathlib.Path) -> tuple[float, float]:
    """The folder opened for streaming, and prepared where it is not yet."""
    begin = time.perf_counter()
    image_set = folder.load_folder(
        pictures, image_size=(_SIDE, _SIDE), data_dir=data_dir, stream=True
    )
    return len(image_set), time.perf_counter() - begin


def _train(
    plan: Plan, pictures: pathlib.Path, data_dir: pathlib.Path, stream: bool
) -> tuple[float, float]:
    """Training steps of the quickstart on the folder, by the rows of the log after the first."""
    config = plan.config("quickstart:vector" if plan.smoke else "quickstart")  # soon compiled
    config.unlock()
    config.num_steps = 4 if plan.smoke else _STEPS
    config.log_every = config.num_steps // 4
    config.optim.warmup_steps = 1
    config.eval.every = config.num_steps
    config.eval.num_trials = 20
    config.objective.symmetries, config.objective.pad_with_symmetries = "none", False
    config.model.centre_ink = False  # these are photos
    config.data.name, config.data.path, config.data.archives = "folder", str(pictures), None
    config.data.image_size, config.data.data_dir = _INPUT, str(data_dir)
    config.data.stream = stream
    with tempfile.TemporaryDirectory() as place:
        loop.train_and_evaluate(config, place)
        rows = [row for row in workdir.read_metrics(place) if row["phase"] == "train"]
    rates = [row["images_per_second"] for row in rows[1:]]
    images = 2 * config.objective.episodes * config.objective.n_way  # of a step
    return images, images / float(np.median(rates))
