"""The protocols: what any system scores on frozen lists of trials.

A system is `from_embedder(...)` or a callable `score(queries, supports)`, see `scoring`. A protocol is
one `Protocol` in a file of this folder; to add one, write its file and put it into `PROTOCOLS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from siamese_jax.evaluation.protocols.assignment import ASSIGNMENT, evaluate_assignment
from siamese_jax.evaluation.protocols.n_way import (
    BETWEEN,
    CURVE,
    KOCH,
    OFFICIAL,
    WITHIN,
    evaluate_trials,
)
from siamese_jax.evaluation.protocols.open_set import OPEN_SET, evaluate_open_set
from siamese_jax.evaluation.protocols.protocol import EvaluationData, Protocol
from siamese_jax.evaluation.protocols.result import Result, compare_results
from siamese_jax.evaluation.protocols.retrieval import RETRIEVAL, evaluate_retrieval
from siamese_jax.evaluation.protocols.verification import (
    VERIFICATION,
    evaluate_pairs,
    monitor_pairs,
)
from siamese_jax.evaluation.scoring import (
    BATCH_DEPENDENT,
    Embedder,
    System,
    batch_dependence,
    check_shot_aggregation,
    is_joint,
    shot_aggregation_of,
)
from siamese_jax.readers import check_names

__all__ = [
    "PROTOCOLS",
    "SETTINGS",
    "EvaluationData",
    "Protocol",
    "Result",
    "compare_results",
    "evaluate_assignment",
    "evaluate_open_set",
    "evaluate_pairs",
    "evaluate_retrieval",
    "evaluate_trials",
    "monitor_pairs",
    "run_protocols",
    "warnings",
]

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        *(OFFICIAL, WITHIN, KOCH, BETWEEN, ASSIGNMENT),
        *(VERIFICATION, CURVE, RETRIEVAL, OPEN_SET),
    )
}

SETTINGS = {
    **{key: value for protocol in PROTOCOLS.values() for key, value in protocol.settings.items()},
    "shot_aggregation": None,  # one of `SHOT_AGGREGATIONS`; None: `DEFAULT_AGGREGATION`
    "batch_size": 128,  # images an embedding pass
}


def run_protocols(
    system: System,
    data: EvaluationData,
    protocols: Iterable[str],
    settings: Mapping | None = None,
    *,
    system_name: str = "model",
    progress: bool = False,
) -> dict[str, Result]:
    """Evaluates a system by several protocols; each image is embedded once for all of them.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        data: the images.
        protocols: names out of `PROTOCOLS`.
        settings: values in place of those of `SETTINGS`.
        system_name: its name in tables.
        progress: show progress bars.

    Returns:
        One result a protocol, by its name; the curve gives one a point, named `curve/unseen/5` and
        `curve/training/5` for N = 5, the assignment two, `assignment/official` and
        `assignment/within`, and verification a second one, `pairs`, if the data have such.

    Raises:
        ValueError: an unknown protocol or setting, or data that a protocol needs are missing.
    """
    protocols = list(protocols)
    check_names("protocol", protocols, PROTOCOLS)
    check_names("setting", settings or {}, SETTINGS)
    for name in protocols:
        for field, description in PROTOCOLS[name].needs.items():
            if getattr(data, field) is None:
                raise ValueError(f"protocol {name!r} needs {description}")
    if data.pairs is not None and VERIFICATION.name not in protocols:
        raise ValueError(
            "a list of pairs is evaluated by the protocol 'verification': add it to the protocols"
        )
    settings = {**SETTINGS, **(settings or {})}
    settings["shot_aggregation"] = shot_aggregation_of(settings)
    check_shot_aggregation(settings["shot_aggregation"], isinstance(system, Embedder))
    options = {
        "batch_size": settings["batch_size"],
        "system_name": system_name,
        "cache": {},
        "progress": progress,
    }
    results: dict[str, Result] = {}
    for name in protocols:
        results |= PROTOCOLS[name].run(system, data, settings, options)
    dependence = batch_dependence(system, data.test.images, settings["batch_size"])
    more: dict[str, Any] = {"batch_dependence": dependence}
    if is_joint(system):
        more["joint"] = "for a whole batch at once"
    return {key: _with_diagnostics(result, more) for key, result in results.items()}


def _with_diagnostics(result: Result, more: Mapping) -> Result:
    """The result with further diagnostics, which its remark names where they are signs of trouble."""
    remarks = [result.remark]
    if _depends(more["batch_dependence"]):
        remarks.append(f"batch_dependence {more['batch_dependence']:.2g}")
    if "joint" in more and "joint" not in result.diagnostics:
        remarks.append("joint answers")
    diagnostics = {**more, **result.diagnostics}
    return dataclasses.replace(
        result, diagnostics=diagnostics, remark=", ".join(filter(None, remarks))
    )


def _depends(dependence: float | None) -> bool:
    return dependence is not None and dependence > BATCH_DEPENDENT


def warnings(results: Iterable[Result]) -> list[str]:
    """What a reader of results must know: whose answers depend on the company, and which are joint.

    Args:
        results: of `run_protocols`, of any number of systems.

    Returns:
        At most two lines a system, each beginning with its name.
    """
    lines = {}
    for result in results:
        name, checks = result.system, result.diagnostics
        if _depends(checks.get("batch_dependence")):
            lines[name, "dependence"] = (
                f"{name}: its answers depend on what else is asked with them (batch_dependence "
                f"{checks['batch_dependence']:.2g}, above {BATCH_DEPENDENT:g}). Is it still in training "
                "mode, or does it look at its neighbours or at places in the batch? Its figures do not "
                "hold for one image at a time"
            )
        if checks.get("joint"):
            lines[name, "joint"] = (
                f"{name}: joint answers ({checks['joint']}). They are not comparable with answers "
                "that are given one by one"
            )
    return list(lines.values())
