"""Benchmarks: what the machine can do, what this package makes of it, and what peers do.

The cases of a comparison alternate in one run. The only room that may import torch, and only
inside the functions that use it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterable

import jax
import PIL

from siamese_jax import files, readers
from siamese_jax.benchmarks import report
from siamese_jax.benchmarks.convolution import run_convolution
from siamese_jax.benchmarks.embedding import run_embedding
from siamese_jax.benchmarks.folders import run_folders
from siamese_jax.benchmarks.galleries import run_galleries
from siamese_jax.benchmarks.inputs import run_input
from siamese_jax.benchmarks.oneshot import run_oneshot
from siamese_jax.benchmarks.preparation import run_preparation
from siamese_jax.benchmarks.recognition import run_recognition
from siamese_jax.benchmarks.training import run_training
from siamese_jax.benchmarks.workload import NETWORKS, Plan

__all__ = ["SUITES", "Plan", "run"]

SUITES = {
    "training": run_training,
    "embedding": run_embedding,
    "convolution": run_convolution,
    "input": run_input,
    "preparation": run_preparation,
    "folders": run_folders,
    "oneshot": run_oneshot,
    "recognition": run_recognition,
    "galleries": run_galleries,
}

_log = logging.getLogger(__name__)


def run(suites: Iterable[str], plan: Plan, path: str | None = None) -> dict:
    """Runs suites one after the other, prints a table of each and writes the record.

    Args:
        suites: names out of `SUITES`.
        plan: how to measure.
        path: JSON file of the record, written after every suite; None for none.

    Returns:
        The record.

    Raises:
        ValueError: no suite, an unknown one, or a plan that cannot be measured.
    """
    suites = list(suites)
    if not suites:
        raise ValueError(f"no suite is named: choose from {', '.join(SUITES)}")
    readers.check_names("suite", suites, SUITES)
    readers.check_names("network", plan.networks, NETWORKS)
    if plan.repetitions < 1 or plan.batch < 2 or plan.batch % 2:
        raise ValueError(
            f"repetitions must be at least 1 and batch even and at least 2, got {plan.repetitions} "
            f"and {plan.batch}"
        )
    fields = dataclasses.asdict(plan)
    places = ("archives", "postgres", "torch_python")  # which no record shows
    settings = {
        **{name: value for name, value in fields.items() if name not in places},
        "data": "glyphs" if plan.archives is None else "omniglot",
        "threads": len(os.sched_getaffinity(0)),  # of a CPU; PyTorch's are in its rows
        "pillow": PIL.__version__,
        "matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default",
    }
    product = plan.compare("this machine", [plan.product("float32")])
    print(report.text_table(product))
    results = {}
    for name in suites:
        _log.info("suite %s", name)
        results[name] = SUITES[name](plan)
        print(f"\n{name}\n{report.text_table(results[name])}", flush=True)
        record = report.record(settings, product[0], results)
        if path is not None:
            files.replace_json(pathlib.Path(path), record)
    return record
