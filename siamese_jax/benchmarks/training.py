"""Training throughput of Koch's network and of the quickstart's, and of Koch's in PyTorch."""

from __future__ import annotations

import contextlib

import jax

from siamese_jax.benchmarks import torch_koch
from siamese_jax.benchmarks.measure import Row, Side
from siamese_jax.benchmarks.workload import Plan, Workload


def run_training(plan: Plan) -> list[Row]:
    """Pairs a second and operations a second of the two networks' training steps.

    Operations are those of direct convolution, however it is computed; on a CPU a side computes Koch's
    so. PyTorch trains Koch's network on one batch that lies ready, in a process of its own, its repeats
    between those of ours.
    """
    rows = []
    for name in ("koch2015", "quickstart"):
        with contextlib.ExitStack() as stack:
            work = Workload(plan.config(name))
            product = plan.product()
            counted = {"amount": work.pairs, "unit": "pairs", "operations": work.operations()}
            group = f"{name}, {work.pairs} pairs a step, {plan.dtype}"
            sides = [
                product,
                Side("input and step", work.training_call(), **counted),
                Side("step alone", work.fixed_call(), **counted),
            ]
            if name == "koch2015" and jax.default_backend() == "cpu":
                changes = {"model.encoder_args.convolution": "direct"}
                plain = Workload(plan.config(name, changes))
                sides.append(Side("step alone, direct convolution", plain.fixed_call(), **counted))
            absent, base = [], ()
            if name == "koch2015" and plan.peers:
                peer = stack.enter_context(torch_koch.Peer())
                found, absent = _peer_sides(peer, plan, work, group, counted)
                sides += found
                base = [side.name for side in found]
            rows += plan.compare(group, sides, base=base, product=product.name) + absent
    return rows


def _peer_sides(peer, plan: Plan, work: Workload, group, counted) -> tuple[list[Side], list[Row]]:
    """One side for each way of PyTorch that runs here, and rows that say why others do not."""
    args = work.config.model.encoder_args
    sides, absent = [], []
    for variant in torch_koch.VARIANTS:
        name = f"PyTorch {variant}, step alone"
        note = peer.prepare(
            variant,
            pairs=work.pairs,
            image_size=work.image_shape[0],
            filters=list(args.filters),
            kernels=list(args.kernels),
            units=args.units,
            dtype=plan.dtype,
            device="cuda" if jax.default_backend() == "gpu" else "cpu",
        )
        if peer.ready(variant):
            sides.append(Side(name, peer.call(variant), note=note, **counted))
        else:
            absent.append(Row(group, name, note=note))
    return sides, absent
