"""What a report is drawn from: a run, its data, its network, its results, and its first batch."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from siamese_jax.data import loading
from siamese_jax.data.official_runs import OFFICIAL
from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.lists import Trials, VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.inference import network
from siamese_jax.models import summary
from siamese_jax.reporting.image_sheets import Names
from siamese_jax.reporting.wording import class_name, group_noun, plain
from siamese_jax.runs import workdir

Results = Mapping[str, Mapping[str, Result]]

_PROTOCOL_TITLES = {
    "pairs": "pairs of a file",
    "open_set": "open set",
}
_GUESSING = "random"  # the system that would only hide others


@dataclasses.dataclass(frozen=True)
class Training:
    """What a report says of the training batches.

    Attributes:
        images_per_step: images that go through the encoder a step.
        images_per_class: sides of an episode, one image of every class on each.
        margin: of the contrastive loss; None for other losses.
        pixels: first batch as the network saw it, float in [0, 1]: episodes (E, K, N, H, W, C), pairs
            (B, 2, H, W, C) or images (B, H, W, C). None for vectors.
        labels: (B,) of pairs, 1 = same class; None for episodes and images.
        mask: (E, N) bool, the columns of an episode that take part; None for pairs and images.
        class_names: of each image; None for episodes and pairs.
    """

    images_per_step: int
    images_per_class: int
    margin: float | None = None
    pixels: np.ndarray | None = None
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """A run with its results, and what the sections of a report derive from them.

    Attributes:
        path: the run's workdir, whose log and provenance are read.
        config: of the run.
        data: what it was trained and evaluated on, at any image size.
        net: the network.
        results: by the name of the system and the key of the protocol: the network's under its own
            `name`, and those of other systems on the same trials. A section whose protocol is not
            there says so.
        training: of the run.
        evaluated: date of the evaluation (UTC), today by default.

    Raises:
        ValueError: the folder holds no run, or the network is not among the results.
    """

    path: pathlib.Path
    config: Any
    data: loading.Data
    net: network.Siamese
    results: Results
    training: Training
    evaluated: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat()
    )

    def __post_init__(self) -> None:
        if not self.starts:
            raise ValueError(f"{self.path} holds no run (it has no provenance.json)")
        if self.net.name not in self.results:
            raise ValueError(
                f"there are results of {', '.join(self.results)} but none of the network "
                f"{self.net.name!r}: evaluate it first, under this name"
            )

    @property
    def network_results(self) -> Mapping[str, Result]:
        """The network's results by the key of the protocol."""
        return self.results[self.net.name]

    @property
    def is_omniglot(self) -> bool:
        """Whether published figures may stand beside those of the run."""
        return self.data.runs is not None and self.data.runs.name == OFFICIAL

    @property
    def on_other_data(self) -> bool:
        """Whether the run was evaluated on another set than it was trained on."""
        return self.config.get("test_data") is not None

    @property
    def has_pictures(self) -> bool:
        """Whether the network takes images, of which pictures can be shown."""
        return self.net.has_pictures

    @property
    def noun(self) -> str:
        """What the network takes, in the words of the page."""
        return "picture" if self.has_pictures else "vector"

    @property
    def group_noun(self) -> str:
        """What a group of test classes is called."""
        return group_noun(self.data.test.kind)

    @property
    def has_groups(self) -> bool:
        """Whether the test classes are of several alphabets, or groups."""
        return self.data.test.num_alphabets > 1

    def scope_words(self, scope: str) -> str:
        """Where the images of trials come from, in the words of the data set."""
        if not self.has_groups:
            alone = {
                "within alphabets": "among the test classes",
                "between alphabets": "among the test classes",
                "negatives of any alphabet": "negatives of any class",
                "negatives of the same alphabet": "negatives of any class",
            }
            return alone.get(scope, scope)
        return scope.replace("alphabet", self.group_noun)

    @property
    def runs_title(self) -> str:
        """What the page calls the fixed runs."""
        return "official 20 runs" if self.is_omniglot else "fixed runs"

    @functools.cached_property
    def log_rows(self) -> list[dict]:
        """Rows of the run's log, in order."""
        return workdir.read_metrics(self.path)

    @functools.cached_property
    def starts(self) -> list[dict]:
        """Provenance of each start of the run, oldest first."""
        return workdir.read_provenance(self.path)

    @functools.cached_property
    def layers(self) -> tuple[summary.Layer, ...]:
        """Layers of the network."""
        return summary.layer_table(self.net.model, self.net.image_shape)

    def of_protocol(self, key: str) -> list[Result]:
        """The results of one protocol, of each system that has it, the network's first."""
        results = [by_key[key] for by_key in self.results.values() if key in by_key]
        return sorted(results, key=lambda result: not self.is_network(result))

    def without_guessing(self, key: str) -> list[Result]:
        """As `of_protocol`, but without guessing."""
        return [result for result in self.of_protocol(key) if result.system != _GUESSING]

    def others(self, key: str) -> list[Result]:
        """As `without_guessing`, but without the network."""
        return [result for result in self.without_guessing(key) if not self.is_network(result)]

    def is_network(self, result: Result) -> bool:
        """Whether a result is the network's."""
        return result.system == self.net.name

    def protocol_title(self, result: Result) -> str:
        """What the page calls the protocol of a result."""
        if result.name.startswith("assignment/"):
            title = self.runs_title if result.name.endswith("official") else "within alphabets"
            return f"joint answers, one to one: {title}"
        if result.grouped_by == "run":
            return self.runs_title
        if result.name == "koch":
            return f"{self.scope_words('within alphabets')}, as Koch et al."
        if result.name in ("within", "between"):
            return self.scope_words(f"{result.name} alphabets")
        return _PROTOCOL_TITLES.get(result.name, result.name)

    def names(self, result: Result) -> Names:
        """What the images of a list of trials are called."""
        trials, test, runs = result.trials, self.data.test, self.data.runs
        if isinstance(trials, VerificationPairs) and trials.names:
            return Names(trials.names.__getitem__, lambda row: "")
        if trials.fingerprint == test.fingerprint:
            by_class = test.kind == "photo"
            return Names(
                lambda row: image_name(test, row),
                lambda row: class_name(test.class_names[test.classes[row]]) if by_class else "",
            )
        if runs is not None and result.grouped_by == "run":
            queries = runs.answers.size

            def run_name(row: int) -> str:
                side, drawers = "query", runs.query_drawers
                if row >= queries:
                    side, drawers, row = "choice", runs.support_drawers, row - queries
                run, place = divmod(int(row), runs.answers.shape[1])
                drawer = f", drawer {drawers[run]}"
                return f"{plain(runs.alphabets[run])}, run {run + 1}{drawer}, {side} {place + 1}"

            return Names(run_name, lambda row: "")
        return Names(lambda row: f"image {row + 1}", lambda row: "")

    @functools.cached_property
    def curve_lines(self) -> list[tuple[str, list[Result]]]:
        """Lines of the curve: the network on unseen and on training classes, then other systems."""
        lines = []
        for part in ("unseen", "training"):
            points = [
                r for key, r in self.network_results.items() if key.startswith(f"curve/{part}/")
            ]
            lines.append((f"{part} classes", points))
        for system, by_key in self.results.items():
            if system != self.net.name:
                points = [r for key, r in by_key.items() if key.startswith("curve/unseen/")]
                lines.append((system, points))
        return [(label, points) for label, points in lines if points]

    @property
    def shown_trials(self) -> Result | None:
        """The trials of which some are shown: best of all those of the fixed runs."""
        return self._first_of("official", "within", "koch", "between")

    @property
    def confusion_trials(self) -> Result | None:
        """The trials, of the test set's own images, whose wrong answers are counted."""
        return self._first_of("within", "koch", "between")

    @functools.cached_property
    def confusions(self) -> list[tuple[int, int, float, int]]:
        """Pairs of classes that are taken for each other, see `count_confusions`."""
        result = self.confusion_trials
        return [] if result is None else count_confusions(result, self.data.test.classes)

    def _first_of(self, *keys: str) -> Result | None:
        return next((self.network_results[k] for k in keys if k in self.network_results), None)


def image_name(images: loading.ImageSet, row: int) -> str:
    """The file of an image, else its class and number in it."""
    if images.files:
        return images.files[row]
    noun = {"ink": "drawer", "photo": "picture"}.get(images.kind, "row")
    return f"{class_name(images.class_names[images.classes[row]])}, {noun} {images.drawers[row]}"


def count_confusions(result: Result, classes: np.ndarray) -> list[tuple[int, int, float, int]]:
    """Pairs of classes by how often one was taken for the other in N-way trials.

    Args:
        result: of N-way trials.
        classes: (M,) class of each image of the trials.

    Returns:
        For each pair with a wrong answer: the lower and the higher class, the number of trials that
        asked for one and answered the other (ties shared), and the number that could have. Most
        wrong answers first; of equally many the higher share of wrong ones, then the lower classes.
    """
    trials = result.list_of(Trials)
    queries = classes[trials.queries][..., None]  # (R, Q, 1)
    supports = classes[trials.supports[..., 0]][:, None]  # (R, 1, N)
    low, high = np.minimum(queries, supports).ravel(), np.maximum(queries, supports).ravel()
    other = low != high
    pairs, index = np.unique(np.stack([low, high], 1)[other], axis=0, return_inverse=True)
    wrong = np.bincount(
        index.ravel(), metrics.answer_shares(result.scores).ravel()[other], len(pairs)
    )
    possible = np.bincount(index.ravel(), minlength=len(pairs))
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -wrong / possible, -wrong))
    return [
        (int(pairs[i, 0]), int(pairs[i, 1]), float(wrong[i]), int(possible[i]))
        for i in order
        if wrong[i] > 0
    ]
