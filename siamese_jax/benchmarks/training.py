"""Training throughput of Koch's network and of the residual networks, PyTorch beside them."""

from __future__ import annotations

from typing import Any

import jax

from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.peers import torch_cases
from siamese_jax.benchmarks.workload import Plan, Workload


def run_training(plan: Plan) -> list[Row]:
    """Images a second and operations a second of the networks' training steps.

    Operations are those of direct convolution, however it is computed; on a CPU one case computes
    Koch's so. PyTorch trains the same network on one batch that lies ready, with AdamW where the
    config has Muon; compare it with the step alone, by AdamW where that is a case.
    """
    rows = []
    for name in plan.networks:
        work = Workload(plan.config(name))
        product = plan.product()
        images = work.images_per_step
        counted: dict[str, Any] = {
            "amount": images,
            "unit": "images",
            "operations": work.operations(),
        }
        group = f"{name}, {images} images a step, {plan.dtype}"
        cases = [
            product,
            Case("input and step", work.training_call(), **counted),
            Case("step alone", work.fixed_call(), **counted),
        ]
        if name == "koch2015" and jax.default_backend() == "cpu":
            changes = {"model.encoder_args.convolution": "direct"}
            direct = Workload(plan.config(name, changes))
            cases.append(Case("step alone, direct convolution", direct.fixed_call(), **counted))
        if work.config.optim.name == "muon":  # which PyTorch does not train convolutions with
            plain = Workload(plan.config(name, {"optim.name": "adamw"}))
            cases.append(Case("step alone, AdamW", plain.fixed_call(), **counted))
        with torch_cases(plan, work, "training", group, **counted) as (peers, absent):
            base = [case.name for case in peers]
            rows += plan.compare(group, [*cases, *peers], base=base, product=product.name) + absent
    return rows
