"""Times the cases of a comparison alternately, A B A B ..., so that a slow minute slows all of them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a comparison.

    Attributes:
        name: of its row.
        call: what is timed; what it returns is waited for.
        amount: units of work a call.
        unit: what the amount counts.
        operations: floating-point operations a call, 0 where they are not counted.
        note: for its row.
    """

    name: str
    call: Callable[[], Any]
    amount: float = 1
    unit: str = "calls"
    operations: float = 0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """What a case took.

    Attributes:
        group: what all cases of the comparison have in common.
        name: of the case.
        unit: what is counted.
        amount: units a call.
        seconds: median time of a call; None where it could not run, and `note` says why.
        quartiles: first and third quartile of that time, seconds.
        processor: median processor time of a call, of all threads, seconds.
        repetitions: number of repeats.
        calls: calls a repeat.
        first: seconds of the very first call, compilation included where there is any.
        per_second: units a second, by the median time.
        gflops: 1e9 floating-point operations a second.
        share: of the matrix product's rate in the same repeat, median, unless `share_of` names another.
        share_of: what the share is of.
        ratio: times as fast as `against` in the same repeat, median.
        against: name of a row.
        peak_memory: largest memory of the case's process, bytes, where it has one of its own.
        note: what else there is to say.
    """

    group: str
    name: str
    unit: str = ""
    amount: float = 0
    seconds: float | None = None
    quartiles: tuple[float, float] | None = None
    processor: float | None = None
    repetitions: int = 0
    calls: int = 0
    first: float | None = None
    per_second: float | None = None
    gflops: float | None = None
    share: float | None = None
    share_of: str | None = None
    ratio: float | None = None
    against: str | None = None
    peak_memory: int | None = None
    note: str = ""


def compare(
    group: str,
    cases: Sequence[Case],
    repetitions: int,
    repeat_seconds: float,
    *,
    base: Sequence[str] = (),
    product: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Times all cases alternately, after two calls of each that do not count.

    Args:
        group: what all cases have in common, for the rows.
        cases: in the order in which they run.
        repetitions: repeats of each case.
        repeat_seconds: least length of a repeat; fast cases are called several times.
        base: names of the cases that the others are compared with; of several the fastest.
        product: name of the case whose rate of operations is the machine's.
        clock: seconds.

    Returns:
        One row a case.
    """
    firsts, calls = zip(*(_warm(case, repeat_seconds, clock) for case in cases), strict=True)
    seconds, processor = np.empty((2, repetitions, len(cases)))
    for r in range(repetitions):
        for s, case in enumerate(cases):
            begin, begin_processor = clock(), time.process_time()
            for _ in range(calls[s]):
                jax.block_until_ready(case.call())
            seconds[r, s] = (clock() - begin) / calls[s]
            processor[r, s] = (time.process_time() - begin_processor) / calls[s]
    amounts = np.array([case.amount for case in cases], float)
    operations = np.array([case.operations for case in cases], float)
    names = [case.name for case in cases]
    rates, gflops = amounts / seconds, operations / seconds / 1e9
    medians = np.median(seconds, axis=0)
    bases = [names.index(name) for name in base if name in names]
    fastest = max(bases, key=lambda s: amounts[s] / medians[s], default=None)
    rows = []
    for s, case in enumerate(cases):
        share = ratio = None
        if product is not None and case.operations:
            share = float(np.median(gflops[:, s] / gflops[:, names.index(product)]))
        if fastest is not None and case.unit == cases[fastest].unit:
            ratio = float(np.median(rates[:, s] / rates[:, fastest]))
        rows.append(
            Row(
                group=group,
                name=case.name,
                unit=case.unit,
                amount=case.amount,
                seconds=float(medians[s]),
                quartiles=tuple(np.quantile(seconds[:, s], (0.25, 0.75)).tolist()),
                processor=float(np.median(processor[:, s])),
                repetitions=repetitions,
                calls=calls[s],
                first=firsts[s],
                per_second=float(amounts[s] / medians[s]),
                gflops=float(operations[s] / medians[s] / 1e9) if case.operations else None,
                share=share,
                share_of=None if share is None else "product",
                ratio=ratio,
                against=None if ratio is None or fastest is None else names[fastest],
                note=case.note,
            )
        )
    return rows


def matrix_product(size: int, dtype: str = "float32") -> Case:
    """The product of two square matrices: the rate that this machine reaches.

    Args:
        size: rows and columns.
        dtype: of the matrices.
    """
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size)).astype(dtype) for key in keys)
    multiply = jax.jit(jnp.matmul)
    return Case(
        f"matrix product, {size} x {size}, {dtype}",
        lambda: multiply(a, b),
        1,
        "products",
        2 * size**3,
    )


def _warm(case: Case, repeat_seconds: float, clock: Callable[[], float]) -> tuple[float, int]:
    """Seconds of the first call, and the number of calls that fill a repeat."""
    begin = clock()
    jax.block_until_ready(case.call())
    first = clock() - begin
    begin = clock()
    jax.block_until_ready(case.call())
    second = max(clock() - begin, 1e-9)
    return first, max(1, math.ceil(repeat_seconds / second))
