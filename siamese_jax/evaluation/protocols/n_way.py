"""N-way K-shot trials: on the official runs, within and between alphabets, and along a curve of N."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.lists import Trials
from siamese_jax.evaluation.protocols.protocol import (
    K_SHOT,
    N_WAY,
    NUM_TRIALS,
    SEED,
    EvaluationData,
    Protocol,
)
from siamese_jax.evaluation.protocols.result import Result, make_result
from siamese_jax.evaluation.scoring import (
    DEFAULT_AGGREGATION,
    Scorer,
    System,
    effective_aggregation,
)
from siamese_jax.evaluation.trials import (
    between_trials,
    curve_trials,
    koch_trials,
    official_trials,
    within_trials,
)


def evaluate_trials(
    system: System,
    trials: Trials,
    *,
    shot_aggregation: str = DEFAULT_AGGREGATION,
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by N-way trials.

    Its diagnostics are: `nonfinite_scores`, their number; `tied_trials`, the share of trials whose
    highest score is shared; `asymmetry`, the largest |score(a, b) - score(b, a)| over about a
    thousand scores of pairs (None if none is finite, or if the system scores no pairs: the shot
    aggregation is `finetune`, or it has `score_classes`); and by position of the support, `right_at`
    (share of trials with the right answer there), `answered_at` (share of the answers given there),
    `accuracy_at` (None where no right answer is there) and `position_bias`, the largest
    answered_at - right_at.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        trials: the list.
        shot_aggregation: how the K supports of a class give its score, one of `SHOT_AGGREGATIONS`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: embeddings by image set, filled and used by evaluations of one and the same embedder;
            give the same empty dict to each.
        progress: show a progress bar.

    Raises:
        ValueError: the system is neither of the two, or returns something of another shape; or the
            aggregation is unknown, or needs embeddings and the system is a plain callable.
    """
    began = time.perf_counter()
    rows = np.concatenate([trials.supports.ravel(), trials.queries.ravel()])
    scorer = Scorer(system, trials, rows, batch_size=batch_size, cache=cache, progress=progress)
    # (R, Q, N) scores, and how right each of the (R, Q) trials is.
    scores, nonfinite = scorer.classes(trials.queries, trials.supports, shot_aggregation)
    correct = metrics.n_way_correct(scores, trials.answers)
    diagnostics = {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(trials.queries, trials.supports, shot_aggregation),
    }
    diagnostics |= _answer_diagnostics(scores, trials.answers, correct)
    return make_result(
        *(system_name, trials, scores, correct),
        began=began,
        diagnostics=diagnostics,
        n_way=trials.n_way,
        k_shot=trials.k_shot,
        shot_aggregation=effective_aggregation(system, shot_aggregation, trials.k_shot),
    )


def _answer_diagnostics(scores: np.ndarray, answers: np.ndarray, correct: np.ndarray) -> dict:
    """Ties, and how answers spread over the positions of the supports."""
    shares = metrics.answer_shares(scores)  # (R, Q, N)
    finite = np.isfinite(scores).all(-1)
    tied = finite & ((shares > 0).sum(-1) > 1)
    n_way = scores.shape[-1]
    counts = np.bincount(answers.ravel(), minlength=n_way)
    right = np.bincount(answers.ravel(), correct.ravel(), n_way)
    answered_at, right_at = shares.mean((0, 1)), counts / answers.size
    return {
        "tied_trials": float(tied.mean()),
        "position_bias": float((answered_at - right_at).max()),
        "right_at": right_at.tolist(),
        "answered_at": answered_at.tolist(),
        "accuracy_at": [float(r / c) if c else None for r, c in zip(right, counts, strict=True)],
    }


def _protocol(
    name: str,
    draw: Callable[..., dict[str, Trials]],
    settings: Mapping[str, Any],
    needs: Mapping[str, str] | None = None,
) -> Protocol:
    """The protocol that evaluates by the lists, by their keys, of `draw(data, **settings)`."""

    def run(
        system: System, data: EvaluationData, chosen: Mapping, options: Mapping
    ) -> dict[str, Result]:
        lists = draw(data, **{key: chosen[key] for key in settings})
        aggregation = chosen["shot_aggregation"]
        return {
            key: evaluate_trials(system, drawn, shot_aggregation=aggregation, **options)
            for key, drawn in lists.items()
        }

    return Protocol(name, run, settings, needs or {})


def _curve(data: EvaluationData, **settings: Any) -> dict[str, Trials]:
    """A list for each N, of the test classes and, if they are there, of the training classes.

    At each N both are within alphabets, or both between them.
    """
    lists = {}
    parts = {"unseen": data.test, "training": data.train}
    sets = {part: image_set for part, image_set in parts.items() if image_set is not None}
    smallest = min(int(image_set.alphabet_count.min()) for image_set in sets.values())
    for part, image_set in sets.items():
        for drawn in curve_trials(
            image_set,
            n_ways=settings["curve_n_ways"],
            k_shot=settings["k_shot"],
            num_trials=settings["curve_trials"],
            seed=settings["seed"],
            scope=settings["curve_scope"],
            largest_within=smallest,
        ):
            lists[f"curve/{part}/{drawn.n_way}"] = dataclasses.replace(drawn, name=f"curve/{part}")
    return lists


OFFICIAL = _protocol(
    "official",
    lambda data: {"official": official_trials(data.official)},
    settings={},
    needs={"official": "the official runs, which this data set lacks"},
)
WITHIN = _protocol(
    "within",
    lambda data, **fields: {"within": within_trials(data.test, **fields)},
    settings={
        **(N_WAY | K_SHOT | NUM_TRIALS | SEED),
        "skip_small": False,  # leave out alphabets with fewer than n_way characters
    },
)
KOCH = _protocol(
    "koch",
    lambda data, **fields: {"koch": koch_trials(data.test, **fields)},
    settings=N_WAY | SEED,
)
BETWEEN = _protocol(
    "between",
    lambda data, **fields: {"between": between_trials(data.test, **fields)},
    settings=N_WAY | K_SHOT | NUM_TRIALS | SEED,
)
CURVE = _protocol(
    "curve",
    _curve,
    settings={
        **(K_SHOT | SEED),
        "curve_trials": 1000,  # at each N
        "curve_n_ways": None,  # values of N; None: 1, 3 .. 19, 25, 30, 40, 50, 60
        "curve_scope": "auto",  # `auto` (within where the alphabets are large enough) or `between`
    },
)
