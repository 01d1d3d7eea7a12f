"""Embedding throughput of Koch's network and the residual ones, PyTorch and onnxruntime beside them."""

from __future__ import annotations

from typing import Any

from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.peers import onnx_cases, torch_cases
from siamese_jax.benchmarks.workload import Plan, Workload


def run_embedding(plan: Plan) -> list[Row]:
    """Images a second of the networks' encoders, a training step's images at a time.

    PyTorch embeds the same number of images in inference mode, onnxruntime the exported network.
    """
    rows = []
    for name in plan.networks:
        work = Workload(plan.config(name))
        product = plan.product()
        images = work.images_per_step
        counted: dict[str, Any] = {"amount": images, "unit": "images"}
        counted["operations"] = work.embedding_operations()
        group = f"{name}, {images} images a pass, {plan.dtype}"
        cases = [product, Case("embed", work.embedding_call(), **counted)]
        with torch_cases(plan, work, "embedding", group, **counted) as (peers, absent):
            base = [case.name for case in peers]
            exported, missing = onnx_cases(plan, work, group, **counted)
            cases += exported + peers
            rows += plan.compare(group, cases, base=base, product=product.name) + missing + absent
    return rows
