"""Verification: are these two images of the same class?"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from siamese_jax.evaluation import intervals, metrics, probabilities
from siamese_jax.evaluation.lists import VerificationPairs
from siamese_jax.evaluation.protocols.protocol import SEED, EvaluationData, Protocol
from siamese_jax.evaluation.protocols.result import Result, interval_text, make_result
from siamese_jax.evaluation.scoring import (
    DEFAULT_AGGREGATION,
    Scorer,
    System,
    effective_aggregation,
)
from siamese_jax.evaluation.trials import verification_pairs


def evaluate_pairs(
    system: System,
    pairs: VerificationPairs,
    *,
    validation: VerificationPairs | None = None,
    threshold: float | None = None,
    shot_aggregation: str = DEFAULT_AGGREGATION,
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by verification: is this pair the same class?

    Its figures are: `threshold`; `validation_accuracy` and `validation_hash` if it was chosen
    there; `auc`, `auc_interval`, `eer`, `eer_interval` (bootstrap over groups); `far` and `frr`
    (false accept and false reject rate) at the threshold; `mean_same` and `mean_different` score.
    With validation pairs also `slope` and `offset`, of the logistic fit there that turns a score into
    the probability of "same" (`probabilities.fit_logistic`: same and different equally likely
    beforehand), and `reliability_error` and `log_loss` (nats) of these probabilities on the test.
    Its diagnostics are `nonfinite_scores`, `asymmetry` (as in `evaluate_trials`) and
    `distinct_pairs`.

    A pair is a run of one class with one support; a claim of K references has K supports. The
    threshold and the fit are those of the validation pairs, which have one reference each. So `sum`,
    which grows with K, is a poor choice for claims.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`, which is called with
            one pair at a time.
        pairs: the list.
        validation: other pairs, on which the threshold of highest accuracy is chosen.
        threshold: the threshold itself, in place of `validation`.
        shot_aggregation: of the references of a claim, one of `SHOT_AGGREGATIONS` but `finetune`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.

    Raises:
        ValueError: not exactly one of validation and threshold, or validation is the test itself; or
            there are claims of several references and the aggregation is `finetune`.
    """
    began = time.perf_counter()
    if (validation is None) == (threshold is None):
        raise ValueError("give either validation pairs to choose the threshold on, or a threshold")
    threshold = math.nan if threshold is None else threshold
    cache = {} if cache is None else cache
    figures: dict[str, Any] = {}
    fit = (math.nan, math.nan)
    if validation is not None:
        if validation.hash == pairs.hash:
            raise ValueError("the threshold must be chosen on other pairs than those of the test")
        elsewhere, _ = _pair_scores(
            system, validation, shot_aggregation, batch_size, cache, progress
        )
        threshold = metrics.best_threshold(elsewhere, validation.labels)
        figures["validation_accuracy"] = metrics.accuracy_at_threshold(
            elsewhere, validation.labels, threshold
        )
        figures["validation_hash"] = validation.hash
        fit = probabilities.fit_logistic(elsewhere, validation.labels)
    scores, diagnostics = _pair_scores(system, pairs, shot_aggregation, batch_size, cache, progress)
    labels = pairs.labels
    correct = metrics.pair_correct(scores, labels, threshold)
    auc_interval, eer_interval = intervals.auc_eer_intervals(scores, labels, pairs.groups)
    far, frr = metrics.false_rates(scores, labels, threshold)
    figures |= {
        "threshold": threshold,
        "auc": metrics.auc(scores, labels),
        "auc_interval": auc_interval,
        "eer": metrics.equal_error_rate(scores, labels),
        "eer_interval": eer_interval,
        "far": far,
        "frr": frr,
        "mean_same": _finite_mean(scores[labels == 1]),
        "mean_different": _finite_mean(scores[labels == 0]),
    }
    if validation is not None:
        with np.errstate(invalid="ignore"):  # a slope of 0 times a score that is not finite
            logits = fit[0] * scores + fit[1]
        figures |= {"slope": fit[0], "offset": fit[1]}
        figures["reliability_error"] = probabilities.reliability_error(logits, labels)
        figures["log_loss"] = probabilities.log_loss(logits, labels)
    pair, place = np.nonzero(pairs.references >= 0)
    both = np.sort(np.stack([pairs.first[pair], pairs.references[pair, place]], 1), 1)
    diagnostics["distinct_pairs"] = len(np.unique(both, axis=0))
    remark = (
        f"AUC {figures['auc']:.4f} {interval_text(auc_interval, 1, 4)}, "
        f"EER {100 * figures['eer']:.2f} % {interval_text(eer_interval, 100, 2)}, "
        f"threshold {threshold:.4g}"
    )
    most = int(pairs.num_references.max())
    return make_result(
        *(system_name, pairs, scores, correct),
        began=began,
        diagnostics=diagnostics,
        figures=figures,
        remark=remark,
        shot_aggregation=effective_aggregation(system, shot_aggregation, most),
    )


def monitor_pairs(
    system: System, pairs: VerificationPairs, *, cache: dict | None = None
) -> dict[str, float]:
    """Figures of validation pairs for the log of a training run; scores are logits of "same".

    Args:
        system: as in `evaluate_pairs`.
        pairs: of the validation classes, one reference each.
        cache: as in `evaluate_trials`.

    Returns:
        `pair_loss` (mean cross-entropy, nats, same and different weighing equally),
        `pair_accuracy` (at a probability of one half) and `pair_auc`.
    """
    scores, _ = _pair_scores(system, pairs, DEFAULT_AGGREGATION, 128, cache, False)
    return {
        "pair_loss": probabilities.log_loss(scores, pairs.labels),
        "pair_accuracy": metrics.accuracy_at_threshold(scores, pairs.labels, 0.0),
        "pair_auc": metrics.auc(scores, pairs.labels),
    }


def _pair_scores(
    system: System,
    pairs: VerificationPairs,
    shot_aggregation: str,
    batch_size: int,
    cache: dict | None,
    progress: bool,
) -> tuple[np.ndarray, dict]:
    """(P,) scores of pairs, each a run of one query and one class, and their diagnostics."""
    references, counts = pairs.references, pairs.num_references
    if counts.max() > 1 and shot_aggregation == "finetune":
        raise ValueError(
            "shot_aggregation 'finetune' fits a classifier to two classes or more, and a claim has "
            "one: use mean, max, sum or prototype for its references"
        )
    rows = np.concatenate([pairs.first, references[references >= 0]])
    scorer = Scorer(system, pairs, rows, batch_size=batch_size, cache=cache, progress=progress)
    scores, nonfinite = np.empty(len(pairs.first)), 0
    for count in np.unique(counts):
        chosen = np.flatnonzero(counts == count)
        supports = references[chosen, None, :count]  # (claims, 1, count)
        aggregation = shot_aggregation if count > 1 else DEFAULT_AGGREGATION
        class_scores, bad = scorer.classes(pairs.first[chosen, None], supports, aggregation)
        scores[chosen] = class_scores[:, 0, 0]
        nonfinite += bad
    return scores, {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(
            pairs.first[:, None], references[:, :1, None], DEFAULT_AGGREGATION
        ),
    }


def _finite_mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _run(
    system: System, data: EvaluationData, settings: Mapping, options: Mapping
) -> dict[str, Result]:
    fields = {name: settings[name] for name in VERIFICATION.settings}
    assert data.validation is not None  # see `needs`
    validation = verification_pairs(data.validation, **fields)
    lists = {"verification": verification_pairs(data.test, **fields)}
    if data.pairs is not None:
        lists["pairs"] = data.pairs
    return {
        key: evaluate_pairs(
            *(system, pairs),
            validation=validation,
            shot_aggregation=settings["shot_aggregation"],
            **options,
        )
        for key, pairs in lists.items()
    }


VERIFICATION = Protocol(
    "verification",
    _run,
    settings={
        **SEED,
        "num_pairs": 10_000,  # and as many of the validation set
        "negatives": "any",  # the other class of a different pair: `any` or `same_alphabet`
    },
    needs={"validation": "a validation set to choose its threshold on"},
)
