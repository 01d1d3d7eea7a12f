"""The cases of PyTorch and of onnxruntime in a comparison, where these are available."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax

from siamese_jax.benchmarks import torch_peer
from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan, Workload, random_images
from siamese_jax.runs import workdir


@contextlib.contextmanager
def torch_cases(
    plan: Plan, work: Workload, task: str, group: str, **counted: Any
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
    cases: list[Case] = []
    absent: list[Row] = []
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
        "centre_ink": model.get("centre_ink", False),
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


def onnx_cases(
    plan: Plan, work: Workload, group: str, **counted: Any
) -> tuple[list[Case], list[Row]]:
    """Embedding with onnxruntime, which runs the exported encoder on the CPU.

    Args:
        plan: how to measure; without `peers` there is no case.
        work: whose network is exported, and whose batch size is taken.
        group: of the row.
        **counted: fields of `Case` that all cases of the comparison share.

    Returns:
        The case; or a row that says why it does not run here.
    """
    name = "onnxruntime"
    if not plan.peers:
        return [], []
    if jax.default_backend() != "cpu" or plan.dtype != "float32":
        return [], [Row(group, name, note="not run: it is timed on a CPU in float32 only")]
    try:
        import onnxruntime

        from siamese_jax.inference.export import onnx_models
    except ImportError as error:
        return [], [Row(group, name, note=f"not run: {error}")]
    threads = len(os.sched_getaffinity(0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    encoder, _ = onnx_models.make_models(work.network(), {})
    session = onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
    images = random_images(work.images_per_step, work.image_shape, work.config.seed)
    note = f"onnxruntime {onnxruntime.__version__}, {threads} threads"
    return [Case(name, lambda: session.run(None, {"images": images}), note=note, **counted)], []
