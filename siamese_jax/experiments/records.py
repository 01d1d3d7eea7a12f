"""What the records of evaluations, ablations, benchmarks and faults must hold to be read again.

Only what is read is declared; a record may hold more.
"""

from __future__ import annotations

import os
from typing import Any, NotRequired

from typing_extensions import TypedDict

from siamese_jax import readers


class Start(TypedDict):
    """Where and with what a figure was computed, see `workdir.provenance`."""

    time: str
    processor: str
    cores: int
    versions: dict[str, str]
    device: NotRequired[str]


class _Seeded(TypedDict):
    seed: int


class _Group(TypedDict):
    accuracy: float | None
    num_trials: int


class Result(TypedDict):
    """One system on one list of trials, see `protocols.Result`."""

    system: str
    name: str
    n_way: int | None
    k_shot: int | None
    accuracy: float | None
    num_trials: int
    trial_hash: str
    figures: dict[str, Any]
    per_group: NotRequired[dict[str, _Group]]


class Evaluation(TypedDict):
    """Of `launch/evaluate.py`."""

    config: _Seeded
    training: NotRequired[Start]
    evaluation: Start
    settings: NotRequired[dict[str, Any]]
    results: list[Result]


class _Variant(TypedDict):
    variant: str
    runs: list[_Seeded]


class Ablation(TypedDict):
    """Of `launch/ablate.py`."""

    evaluation: Start
    variants: list[_Variant]


class OfProtocol(TypedDict):
    """What a variant of an ablation holds under the name of a protocol."""

    seeds: list[float]
    num_trials: int
    trials: str


class _Entry(TypedDict):
    group: str
    name: str


class Timed(_Entry):
    """An entry of a benchmark that could be run."""

    seconds: float
    quartiles: tuple[float, float]
    amount: float | None
    unit: NotRequired[str]
    per_second: NotRequired[float | None]
    ratio: NotRequired[float]
    peak_memory: NotRequired[int]


class Benchmark(TypedDict):
    """Of `launch/benchmark.py`."""

    provenance: Start
    settings: _Seeded
    suites: dict[str, list[_Entry]]


class _Kind(TypedDict):
    kind: str
    cases: int
    failed: int


class Faults(TypedDict):
    """Of `python -m tests.faults`."""

    evaluation: Start
    settings: _Seeded
    kinds: list[_Kind]


def read(path: str | os.PathLike, schema: type) -> dict:
    """A record.

    Args:
        path: of its file.
        schema: one of those above.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or no such record.
    """
    return readers.read_json(path, schema)
