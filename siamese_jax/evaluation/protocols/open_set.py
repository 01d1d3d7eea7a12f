"""Open-set identification: which of the enrolled classes is this, or is it none of them?"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.lists import OpenSet
from siamese_jax.evaluation.protocols.protocol import K_SHOT, SEED, EvaluationData, Protocol
from siamese_jax.evaluation.protocols.result import Result, make_result
from siamese_jax.evaluation.scoring import (
    DEFAULT_AGGREGATION,
    Scorer,
    System,
    effective_aggregation,
    shuffled,
)
from siamese_jax.evaluation.trials import open_set

FALSE_ALARMS = (0.001, 0.01, 0.1)  # rates at which figures are given; the accuracy is at 1 %


def evaluate_open_set(
    system: System,
    trials: OpenSet,
    *,
    validation: OpenSet | None = None,
    shot_aggregation: str = DEFAULT_AGGREGATION,
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by identification among enrolled classes, with impostors of unknown ones.

    A probe is identified as the class of its highest score, if that reaches a threshold. The figures
    are `rank_1` (share of enrolled probes whose own class scores highest, whatever the threshold),
    `num_enrolled`, `num_impostors`, and `at`, by false alarm rate (`0.1 %`, `1 %`, `10 %`):
    `threshold`, the lowest that no more than that share of impostors reaches, chosen on the test's
    own impostors as NIST and ISO/IEC 19795 do, `dir` (detection-and-identification rate: enrolled
    probes identified rightly) and `false_alarms` there; and the same with the threshold chosen on the
    validation set's impostors: `transferred_threshold`, `transferred_dir`,
    `transferred_false_alarms`. What too few impostors cannot show (fewer than 1 / rate) is NaN, and
    `notes` say so. The accuracy is `dir` at 1 %.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        trials: the list.
        validation: an open set of other classes, for the transferred threshold.
        shot_aggregation: of the references of a class, one of `SHOT_AGGREGATIONS`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.

    Raises:
        ValueError: validation is the test itself; or as `evaluate_trials`.
    """
    began = time.perf_counter()
    if validation is not None and validation.hash == trials.hash:
        raise ValueError("the threshold must be transferred from other classes than the test's")
    cache = {} if cache is None else cache
    score = functools.partial(
        _open_set_scores,
        *(system,),
        shot_aggregation=shot_aggregation,
        batch_size=batch_size,
        cache=cache,
        progress=progress,
    )
    scores, impostor_scores, diagnostics = score(trials)
    alarms = metrics.highest_scores(impostor_scores)
    elsewhere = None
    if validation is not None:
        elsewhere = metrics.highest_scores(score(validation)[1])
    figures: dict[str, Any] = {
        "rank_1": metrics.n_way_accuracy(scores, trials.answers),
        "num_enrolled": len(trials.supports),
        "num_impostors": len(alarms),
        "at": {},
        "notes": [],
    }
    correct = np.full(len(scores), math.nan)
    for rate in FALSE_ALARMS:
        row = figures["at"][f"{100 * rate:g} %"] = {}
        for prefix, others, where in (
            ("", alarms, "test"),
            ("transferred_", elsewhere, "validation"),
        ):
            threshold = math.nan if others is None else metrics.false_alarm_threshold(others, rate)
            identified, share = np.full(len(scores), math.nan), math.nan
            if not math.isnan(threshold):
                identified, share = metrics.identification(
                    scores, trials.answers, impostor_scores, threshold
                )
            elif others is not None:
                figures["notes"].append(
                    f"{100 * rate:g} % false alarms need {math.ceil(1 / rate):,} impostors or more; "
                    f"the {where} set has {len(others):,}"
                )
            row[f"{prefix}threshold"] = threshold
            row[f"{prefix}dir"] = float(identified.mean())
            row[f"{prefix}false_alarms"] = share
            if rate == 0.01 and not prefix:
                correct = identified
    return make_result(
        system_name,
        trials,
        scores,
        correct,
        began=began,
        diagnostics=diagnostics,
        figures=figures,
        remark=_remark(figures),
        n_way=len(trials.supports),
        k_shot=trials.k_shot,
        shot_aggregation=effective_aggregation(system, shot_aggregation, trials.k_shot),
    )


def _remark(figures: dict) -> str:
    at = figures["at"]["1 %"]
    text = f"accuracy is at 1 % false alarms; rank 1 {100 * figures['rank_1']:.2f} %"
    if not math.isnan(at["transferred_dir"]):
        text += (
            f", with the validation's threshold {100 * at['transferred_dir']:.2f} % at "
            f"{100 * at['transferred_false_alarms']:.2f} % false alarms"
        )
    return text


def _open_set_scores(
    system: System,
    trials: OpenSet,
    shot_aggregation: str,
    batch_size: int,
    cache: dict,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Scores (P, N) of enrolled probes and (U, N) of impostors, and their diagnostics."""
    probes = np.concatenate([trials.queries, trials.impostors])
    rows = np.concatenate([probes, trials.supports.ravel()])
    scorer = Scorer(system, trials, rows, batch_size=batch_size, cache=cache, progress=progress)
    order = shuffled(len(probes))  # enrolled ones stand before impostors, which would tell
    answers, nonfinite = scorer.classes(
        probes[order][None], trials.supports[None], shot_aggregation
    )
    scores = np.empty_like(answers)
    scores[:, order] = answers
    diagnostics = {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(probes[None], trials.supports[None], shot_aggregation),
    }
    known = len(trials.queries)
    return scores[0, :known], scores[0, known:], diagnostics


def _run(
    system: System, data: EvaluationData, settings: Mapping, options: Mapping
) -> dict[str, Result]:
    fields = {name: settings[name] for name in OPEN_SET.settings}
    validation = None if data.validation is None else open_set(data.validation, **fields)
    result = evaluate_open_set(
        *(system, open_set(data.test, **fields)),
        validation=validation,
        shot_aggregation=settings["shot_aggregation"],
        **options,
    )
    return {"open_set": result}


OPEN_SET = Protocol("open_set", _run, settings=K_SHOT | SEED)
