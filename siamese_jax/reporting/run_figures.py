"""Which figures a run has, and what is put into them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from siamese_jax.data import loading
from siamese_jax.evaluation.lists import VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.models import summary
from siamese_jax.reporting import curves, image_figures, network_figures
from siamese_jax.reporting.inputs import BASELINES_WITHOUT_CURVES, ReportInputs, Training
from siamese_jax.reporting.wording import class_name, percent, plain

MAX_CONFUSIONS = 12  # pairs of classes that are shown
MAX_MAPPED_CLASSES = 10  # an alphabet, on the map of embeddings
_LOSS_UNITS = {"contrastive": "half a squared distance", "triplet": "distance"}


def draw(inputs: ReportInputs) -> dict[str, Figure]:
    """The figures of a run, to be saved with `drawing.save`.

    Returns:
        Those that the results and the data allow (vectors have no pictures), out of `learning`,
        `curve`, `trials`, `confusions`, `roc`, `reliability`, `pairs` (with their dissimilarities),
        `file_roc` and `file_pairs` (the same of a file of pairs), `training`, `filters` and
        `embeddings`.
    """
    figures = {}
    if inputs.log_rows:
        figures["learning"] = curves.training_figure(
            inputs.log_rows,
            "training",
            f"validation, {inputs.config.eval.n_way}-way",
            _LOSS_UNITS.get(inputs.config.objective.name, "nats"),
            inputs.training.margin,
        )
    if inputs.curve_lines:
        figures["curve"] = curves.curve_figure(inputs.curve_lines)
    if inputs.shown_trials is not None and inputs.has_pictures:
        figures["trials"] = _trials(inputs, inputs.shown_trials)
    if inputs.confusions and inputs.has_pictures:
        figures["confusions"] = image_figures.confusion_figure(
            inputs.confusions[:MAX_CONFUSIONS], inputs.data.test
        )
    for key, prefix, kind in (
        ("verification", "", inputs.data.test.kind),
        ("pairs", "file_", inputs.net.kind),  # as they were read
    ):
        results = [r for r in inputs.of_protocol(key) if r.system not in BASELINES_WITHOUT_CURVES]
        if results:
            figures[f"{prefix}roc"] = curves.roc_figure(results)
        if inputs.has_pictures and key in inputs.network_results:
            result = inputs.network_results[key]
            figures[f"{prefix}pairs"] = image_figures.verification_pairs_figure(
                result, image_figures.sample_pairs(result), dissimilarity(inputs, result)[0], kind
            )
    if fitted := calibrated(inputs):
        figures["reliability"] = curves.reliability_figure(fitted)
    if inputs.training.pixels is not None:
        figures["training"] = training_batch(inputs.training, inputs.data.train.kind)
    params = inputs.net.devices.first(inputs.net.variables)["params"]
    kernel = summary.first_kernel(inputs.layers, params)
    if kernel is not None:
        figures["filters"] = network_figures.filters_figure(np.asarray(kernel))
    figures["embeddings"] = network_figures.embedding_figure(_embedded_alphabets(inputs))
    return figures


def calibrated(inputs: ReportInputs) -> list[tuple[str, Result]]:
    """The network's results on pairs that have a fitted probability of "same", with their titles."""
    titles = {"verification": "test pairs", "pairs": "pairs of a file"}
    results = inputs.network_results
    return [
        (title, results[key])
        for key, title in titles.items()
        if key in results and "slope" in results[key].figures
    ]


def dissimilarity(
    inputs: ReportInputs, result: Result
) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """How unlike the two pictures of a pair are to the network.

    Args:
        inputs: the run.
        result: the network's, on a list of pairs.

    Returns:
        A function of (n,) numbers of pairs to (n,) values, and what the values are.
    """
    pairs, head = result.list_of(VerificationPairs), inputs.net.model.head
    single_references = inputs.net.model.context is None and pairs.num_references.max() == 1
    if not (head.falls_with_distance and single_references):
        return lambda members: -result.scores[members], "minus the score"

    def distances(members: np.ndarray) -> np.ndarray:
        first, second = (
            inputs.net.embed(pairs.images[rows[members]])
            for rows in (pairs.first, pairs.references[:, 0])
        )
        return np.asarray(head.distances(first, second))

    return distances, "the distance of the two embeddings"


def _trials(inputs: ReportInputs, result: Result) -> Figure:
    titles = [plain(name) for name in result.trials.group_names]
    if result.grouped_by == "run" and inputs.data.runs is not None:
        alphabets = enumerate(inputs.data.runs.alphabets, 1)
        titles = [f"{plain(alphabet)}, run {number}" for number, alphabet in alphabets]
    return image_figures.trial_grid_figure(result, inputs.data.test.kind, titles=titles)


def training_batch(training: Training, kind: str) -> Figure:
    """The first batch of a run; `kind` is that of the training set, `ink` or `photo`."""
    if training.pixels is None:
        raise ValueError("a batch of vectors has no pictures")
    if training.mask is not None:
        return image_figures.episode_figure(training.pixels, training.mask, kind)
    if training.labels is not None:
        return image_figures.pairs_figure(training.pixels, training.labels, kind)
    names = [class_name(name) for name in training.class_names or ()]
    return image_figures.images_figure(training.pixels, names, kind)


def _embedded_alphabets(
    inputs: ReportInputs,
) -> list[tuple[str, np.ndarray, loading.ImageSet]]:
    """Classes of two test alphabets, the easiest and the hardest if that is known."""
    test = inputs.data.test
    accuracy: dict[str, float] = {}
    order = list(test.alphabet_names)
    within = inputs.network_results.get("within")
    if within is not None and within.grouped_by == "alphabet":
        accuracy = {name: part["accuracy"] for name, part in within.per_group.items()}
        order = sorted(accuracy, key=lambda name: accuracy[name], reverse=True)
    panels = []
    for alphabet in dict.fromkeys((order[0], order[-1])):
        part = test.select(alphabets=[alphabet])
        classes = np.linspace(0, part.num_classes - 1, min(MAX_MAPPED_CLASSES, part.num_classes))
        part = part.select(
            classes=classes.round().astype(int), drawers=np.unique(part.drawers)[:20]
        )
        title = plain(alphabet)
        if alphabet in accuracy:
            title += f": {percent(accuracy[alphabet])} within the alphabet"
        panels.append((title, inputs.net.embed(part.images), part))
    return panels
