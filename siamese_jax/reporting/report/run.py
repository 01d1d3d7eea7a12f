"""What a page is about: a run with its results, and what follows from them."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from siamese_jax.data import loading
from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.protocols import Result
from siamese_jax.inference import network
from siamese_jax.models import summary
from siamese_jax.runs import workdir
from siamese_jax.training import objectives

Results = Mapping[str, Mapping[str, Result]]

_PROTOCOLS = {
    "within": "within alphabets",
    "koch": "within alphabets, as Koch et al.",
    "between": "between alphabets",
    "pairs": "pairs of a file",
    "open_set": "open set",
}
NO_FIGURES = ("random",)  # systems whose curves would only hide others


@dataclasses.dataclass(frozen=True)
class Run:
    """Arguments of `write_report`, and what follows from them.

    Attributes:
        path: the run's workdir.
        config: of the run.
        data: what it was trained and evaluated on.
        siamese: the network.
        results: by the name of the system and the key of the protocol.

    Raises:
        ValueError: the folder holds no run, or the network is not among the results.
    """

    path: pathlib.Path
    config: Any
    data: loading.Data
    siamese: network.Siamese
    results: Results

    def __post_init__(self):
        if not self.starts:
            raise ValueError(f"{self.path} holds no run (it has no provenance.json)")
        if self.siamese.name not in self.results:
            raise ValueError(
                f"there are results of {', '.join(self.results)} but none of the network "
                f"{self.siamese.name!r}: evaluate it first, under this name"
            )

    @property
    def own(self) -> Mapping[str, Result]:
        """The network's results."""
        return self.results[self.siamese.name]

    @property
    def is_omniglot(self) -> bool:
        """Whether published figures may stand beside those of the run."""
        return self.data.runs_name == "official"

    @property
    def elsewhere(self) -> bool:
        """Whether the run was evaluated on another set than it was trained on."""
        return self.config.get("test_data") is not None

    @property
    def has_pictures(self) -> bool:
        """Whether the network takes images, of which pictures can be shown."""
        return self.siamese.kind != "vector"

    @property
    def thing(self) -> str:
        """What the network takes, in the words of the page."""
        return "picture" if self.has_pictures else "vector"

    @property
    def fixed_runs(self) -> str:
        return "official 20 runs" if self.is_omniglot else "fixed runs"

    @functools.cached_property
    def rows(self) -> list[dict]:
        return workdir.read_metrics(self.path)

    @functools.cached_property
    def starts(self) -> list[dict]:
        return workdir.read_provenance(self.path)

    @functools.cached_property
    def layers(self) -> tuple[summary.Layer, ...]:
        return summary.layer_table(self.siamese.model, self.siamese.image_shape)

    @functools.cached_property
    def objective(self) -> objectives.Objective:
        train = self.data.train
        return objectives.build(
            self.config.objective, int(train.alphabet_count.max()), train.num_classes
        )

    def of(self, key: str) -> list[Result]:
        """The results of one protocol, of each system that has it, the network's first."""
        found = [by_key[key] for by_key in self.results.values() if key in by_key]
        return sorted(found, key=lambda result: not self.is_own(result))

    def is_own(self, result: Result) -> bool:
        """Whether a result is the network's."""
        return result.system == self.siamese.name

    def protocol(self, result: Result) -> str:
        """What the page calls the protocol of a result."""
        if result.grouped_by == "run":
            return self.fixed_runs
        if result.name == "within" and result.grouped_by == "class":  # a set without alphabets
            return "among the test classes"
        return _PROTOCOLS.get(result.name, result.name)

    @functools.cached_property
    def curve(self) -> list[tuple[str, list[Result]]]:
        """Lines of the curve: the network on unseen and on training classes, then other systems."""
        lines = []
        for part in ("unseen", "training"):
            points = [r for key, r in self.own.items() if key.startswith(f"curve/{part}/")]
            lines.append((f"{part} classes", points))
        for system, by_key in self.results.items():
            if system != self.siamese.name:
                points = [r for key, r in by_key.items() if key.startswith("curve/unseen/")]
                lines.append((system, points))
        return [(label, points) for label, points in lines if points]

    @property
    def shown_trials(self) -> Result | None:
        """The trials of which some are shown: best of all those of the fixed runs."""
        keys = ("official", "within", "koch", "between")
        return next((self.own[key] for key in keys if key in self.own), None)

    @property
    def confused_in(self) -> Result | None:
        """The trials, of the test set's own images, whose wrong answers are counted."""
        keys = ("within", "koch", "between")
        return next((self.own[key] for key in keys if key in self.own), None)

    @functools.cached_property
    def confused(self) -> list[tuple[int, int, float, int]]:
        result = self.confused_in
        return [] if result is None else confusions(result, self.data.test.classes)


def confusions(result: Result, classes: np.ndarray) -> list[tuple[int, int, float, int]]:
    """Pairs of classes by how often one was taken for the other in N-way trials.

    Args:
        result: of N-way trials.
        classes: (M,) class of each image of the trials.

    Returns:
        For each pair with a wrong answer: the lower and the higher class, the number of trials that
        asked for one and answered the other (ties shared), and the number that could have. Most
        wrong answers first; of equally many the higher share of wrong ones, then the lower classes.
    """
    trials = result.trials
    asked = classes[trials.queries][..., None]  # (R, Q, 1)
    shown = classes[trials.supports[..., 0]][:, None]  # (R, 1, N)
    low, high = np.minimum(asked, shown).ravel(), np.maximum(asked, shown).ravel()
    other = low != high
    pairs, index = np.unique(np.stack([low, high], 1)[other], axis=0, return_inverse=True)
    wrong = np.bincount(
        index.ravel(), metrics.answer_shares(result.scores).ravel()[other], len(pairs)
    )
    met = np.bincount(index.ravel(), minlength=len(pairs))
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -wrong / met, -wrong))
    return [
        (int(pairs[i, 0]), int(pairs[i, 1]), float(wrong[i]), int(met[i]))
        for i in order
        if wrong[i] > 0
    ]
