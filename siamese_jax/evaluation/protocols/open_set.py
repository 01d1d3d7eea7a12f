"""Open-set identification: which of the enrolled classes is this, or is it none of them?"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation import calibration, metrics
from siamese_jax.evaluation.lists import Impostors, OpenSet
from siamese_jax.evaluation.protocols.protocol import K_SHOT, SEED, EvaluationData, Protocol
from siamese_jax.evaluation.protocols.result import Result, make_result
from siamese_jax.evaluation.scoring import (
    DEFAULT_AGGREGATION,
    Scorer,
    System,
    effective_aggregation,
    shuffled,
)
from siamese_jax.evaluation.trials import impostors, open_set

FALSE_ALARMS = (0.001, 0.01, 0.1)  # rates at which figures are given; the accuracy is at 1 %


def evaluate_open_set(
    system: System,
    trials: OpenSet,
    *,
    validation: ImageSet | None = None,
    seed: int = 0,
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
    validation classes: `transferred_threshold`, `transferred_dir`, `transferred_false_alarms`. The
    best of many names scores higher than the best of few, so this is the threshold for as many names as
    are enrolled in the test, over all choices of them among those of `trials.impostors`. What too few
    impostors (fewer than 1 / rate) or names cannot show is NaN, and `notes` say so. The accuracy is
    `dir` at 1 %.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        trials: the list.
        validation: images of other classes, for the transferred threshold.
        seed: of their references.
        shot_aggregation: of the references of a class, one of `SHOT_AGGREGATIONS`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.

    Raises:
        ValueError: validation is the test itself; or as `evaluate_trials`.
    """
    began = time.perf_counter()
    if validation is not None and validation.fingerprint == trials.fingerprint:
        raise ValueError("the threshold must be transferred from other classes than the test's")
    how = (shot_aggregation, batch_size, cache, progress)
    probes = np.concatenate([trials.queries, trials.impostors])
    answered, diagnostics = _scores(system, trials, probes, *how)
    scores, impostor_scores = np.split(answered, [len(trials.queries)])
    alarms = metrics.highest_scores(impostor_scores)
    num_names, elsewhere = len(trials.supports), None
    if validation is not None:
        elsewhere = impostors(validation, num_names, k_shot=trials.k_shot, seed=seed)
        scores_elsewhere, _ = _scores(system, elsewhere, elsewhere.queries, *how)
        scores_elsewhere[~np.isfinite(scores_elsewhere)] = np.inf  # an alarm at every threshold
    figures: dict[str, Any] = {
        "rank_1": metrics.n_way_accuracy(scores, trials.answers),
        "num_enrolled": num_names,
        "num_impostors": len(alarms),
        "at": {},
        "notes": [],
    }
    correct = np.full(len(scores), math.nan)  # of each probe, at 1 % false alarms
    for rate in FALSE_ALARMS:
        row = figures["at"][f"{100 * rate:g} %"] = {}
        thresholds = {"": metrics.false_alarm_threshold(alarms, rate), "transferred_": math.nan}
        figures["notes"] += _too_few(rate, "test", len(alarms))
        if elsewhere is not None:
            missing = _too_few(rate, "validation", len(elsewhere.queries))
            missing += _too_few_names(elsewhere, num_names)
            figures["notes"] += [note for note in missing if note not in figures["notes"]]
            if not missing:
                thresholds["transferred_"] = calibration.false_accept_threshold(
                    scores_elsewhere, elsewhere.other, rate, num_names
                )
        for prefix, threshold in thresholds.items():
            identified, share = np.full(len(scores), math.nan), math.nan
            if not math.isnan(threshold):
                identified, share = metrics.identification(
                    scores, trials.answers, impostor_scores, threshold
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


def _too_few(rate: float, where: str, count: int) -> list[str]:
    """A note, if so many impostors cannot show a rate."""
    if metrics.allowed_alarms(count, rate):
        return []
    return [
        f"{100 * rate:g} % false alarms need {math.ceil(1 / rate):,} impostors or more; the {where} "
        f"set has {count:,}"
    ]


def _too_few_names(trials: Impostors, num_names: int) -> list[str]:
    """A note, if a probe meets fewer names of other classes than are enrolled in the test."""
    met = int(trials.other.sum(1).min())
    if met >= num_names:
        return []
    return [
        f"a threshold for {num_names:,} names needs as many of other classes; an image of the "
        f"validation set meets {met:,}"
    ]


def _scores(
    system: System,
    trials: OpenSet | Impostors,
    probes: np.ndarray,
    shot_aggregation: str,
    batch_size: int,
    cache: dict | None,
    progress: bool,
) -> tuple[np.ndarray, dict]:
    """Scores (P, N) of probes with the names of a list, and their diagnostics."""
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
    return scores[0], diagnostics


def _run(
    system: System, data: EvaluationData, settings: Mapping, options: Mapping
) -> dict[str, Result]:
    fields = {name: settings[name] for name in OPEN_SET.settings}
    result = evaluate_open_set(
        *(system, open_set(data.test, **fields)),
        validation=data.validation,
        seed=fields["seed"],
        shot_aggregation=settings["shot_aggregation"],
        **options,
    )
    return {"open_set": result}


OPEN_SET = Protocol("open_set", _run, settings=K_SHOT | SEED)
