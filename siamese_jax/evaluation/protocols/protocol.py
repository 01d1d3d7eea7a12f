"""What a protocol is, and the images that protocols run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation.lists import VerificationPairs
from siamese_jax.evaluation.protocols.result import Result
from siamese_jax.evaluation.scoring import System


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """What the protocols run on.

    Attributes:
        test: images of unseen classes; all protocols but `official` report on them.
        validation: images that choose the thresholds of `verification` and `open_set`.
        train: images of the training classes, for a curve beside that of the unseen ones.
        official: the official runs.
        pairs: a further list, such as of `pairs_csv.read_pairs`, that `verification` evaluates
            besides pairs of the test set.
    """

    test: ImageSet
    validation: ImageSet | None = None
    train: ImageSet | None = None
    official: Any = None
    pairs: VerificationPairs | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to evaluate a system.

    Attributes:
        name: by which it is chosen.
        run: `(system, data, settings, options)` to its results by their keys. `settings` holds all
            settings; `options` are the keyword arguments `batch_size`, `system_name`, `cache` and
            `progress` of the functions that evaluate.
        settings: those that it reads besides `shot_aggregation`, with their defaults. Protocols that
            share a setting take it from one constant.
        needs: fields of `EvaluationData` that must be there besides `test`, each with the words
            that say what is missing.
    """

    name: str
    run: Callable[[System, EvaluationData, Mapping, Mapping], dict[str, Result]]
    settings: Mapping[str, Any]
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)


# Settings that several protocols share.
SEED = {"seed": 0}  # of the draw of trials
N_WAY = {"n_way": 20}  # classes a trial
K_SHOT = {"k_shot": 1}  # support images a class, and references a class of `open_set`
NUM_TRIALS = {"num_trials": 4000}  # of `within`, `between` and `assignment`
