"""PyTorch's cases of a comparison, where PyTorch can be had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from siamese_jax.benchmarks import torch_peer
from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.runs import workdir


@contextlib.contextmanager
def torch_cases(
    plan: Plan, work: Workload, task: str, group: str, **counted
) -> Iterator[tuple[list[Case], list[Row]]]:
    """PyTorch's variants of a task, in a process that ends with the context.

    Args:
        plan: how to measure; without `peers` there are none.
        work: whose network and batch size PyTorch takes.
        task: `training` or `embedding`.
        group: of the rows.
        **counted: fields of `Case` that all cases of the comparison share.

    Yields:
        One case for each variant that runs here, and a row for each other that says why it does not.
    """
    cases, absent = [], []
    if not plan.peers:
        yield cases, absent
        return
    model = workdir.plain(work.config.model)
    settings = {
        "task": task,
        "encoder": model["encoder"],
        "encoder_args": model["encoder_args"],
        "comparator": model["comparator"],
        "head_args": model["head_args"],
        "image_size": work.image_shape[0],
        "images": work.images_per_step,
        "dtype": plan.dtype,
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
    }
    with torch_peer.Peer(plan.torch_python) as peer:
        for variant in torch_peer.VARIANTS:
            name = f"PyTorch {variant}"
            note = peer.prepare(variant, settings)
            if peer.ready(variant):
                cases.append(Case(name, peer.call(variant), note=note, **counted))
            else:
                absent.append(Row(group, name, note=note))
        yield cases, absent
