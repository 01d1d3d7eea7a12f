"""Which figures a run has, and what is put into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from siamese_jax.evaluation.lists import VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.inference import explain as explain_lib
from siamese_jax.models import summary
from siamese_jax.reporting import curves, drawing, embedding_map, explain, image_sheets, page, tasks
from siamese_jax.reporting.inputs import ReportInputs, Training, image_name
from siamese_jax.reporting.wording import class_name, percent, plain

MAX_CONFUSIONS = 12  # pairs of classes that are shown
MAX_MAPPED_CLASSES = 10  # an alphabet, on the map of embeddings
# Protocols on pairs, and what the names of their figures begin with.
PAIR_LISTS = {"verification": "", "pairs": "file_"}


def draw(inputs: ReportInputs) -> dict[str, str]:
    """The figures of a run as HTML.

    Returns:
        Those that the results and the data allow (vectors have no pictures), out of `learning`,
        `curve`, `trials`, `confusions`, `roc`, `reliability`, `pairs` (with their dissimilarities),
        `file_roc` and `file_pairs` (the same of a file of pairs), `training`, `filters` and
        `embeddings`.
    """
    figures = {
        name: page.chart(drawing.to_svg(broad, words), drawing.to_svg(slim, words))
        for name, (words, broad, slim) in _charts(inputs).items()
    }
    if inputs.shown_trials is not None and inputs.has_pictures:
        figures["trials"] = _trials(inputs, inputs.shown_trials)
    if inputs.confusions and inputs.has_pictures:
        figures["confusions"] = image_sheets.confusion_sheet(
            inputs.confusions[:MAX_CONFUSIONS], inputs.data.test
        )
    for key, prefix in PAIR_LISTS.items():
        if inputs.has_pictures and key in inputs.network_results:
            result = inputs.network_results[key]
            # Pictures of a file were read as those of the network.
            kind = inputs.net.kind if key == "pairs" else inputs.data.test.kind
            figures[f"{prefix}pairs"] = image_sheets.pair_sheet(
                result,
                image_sheets.sample_pairs(result),
                dissimilarity(inputs, result),
                kind,
                inputs.names(result),
                why(inputs, result, kind),
            )
    if inputs.training.pixels is not None:
        figures["training"] = training_batch(inputs.training, inputs.data.train.kind)
    params = inputs.net.devices.first(inputs.net.variables)["params"]
    kernel = summary.first_kernel(inputs.layers, params)
    if kernel is not None:
        figures["filters"] = image_sheets.filter_sheet(np.asarray(kernel))
    figures["embeddings"] = _embeddings(inputs)
    return figures


def _charts(inputs: ReportInputs) -> dict[str, tuple[str, Figure, Figure]]:
    """The figures of numbers: what each shows, and it for a broad and for a narrow window."""
    charts: dict[str, tuple[str, Figure, Figure]] = {}

    def add(name: str, words: str, draw_chart: Callable[..., Figure], *arguments: Any) -> None:
        broad, slim = (draw_chart(*arguments, narrow=narrow) for narrow in (False, True))
        charts[name] = words, broad, slim

    if inputs.log_rows:
        add(
            *("learning", "Training loss and accuracies against the step", curves.training_figure),
            inputs.log_rows,
            f"validation, {inputs.config.eval.n_way}-way",
            tasks.loss_unit(inputs.config.objective),
            inputs.training.margin,
        )
    if inputs.curve_lines:
        words = "Accuracy against the number of classes N"
        add("curve", words, curves.curve_figure, inputs.curve_lines)
    for key, prefix in PAIR_LISTS.items():
        results = inputs.without_guessing(key)
        if results:
            words = "ROC curve and histograms of scores"
            add(f"{prefix}roc", words, curves.roc_figure, results)
    if fitted := calibrated(inputs):
        words = "Reliability diagram of the probabilities of same"
        add("reliability", words, curves.reliability_figure, fitted)
    return charts


def why(inputs: ReportInputs, result: Result, kind: str) -> image_sheets.Why | None:
    """Explains scores of the images of a result; None where the network compares no places."""
    if not explain_lib.explains(inputs.net):
        return None
    names, images = inputs.names(result), result.trials.images
    threshold = result.figures.get("threshold", 0.0)

    def fragment(first: int, second: int, middle: float | None) -> str:
        one, other = inputs.net.as_seen(images[[first, second]])
        measured = threshold if middle is None else middle
        return explain.fragment(
            explain_lib.explain(inputs.net, one, other, threshold=measured),
            one,
            other,
            names=(names.image(first), names.image(second)),
            ink=kind == "ink",
            reference="the threshold" if middle is None else "the middle of the two scores",
            legend=False,
        )

    return fragment


def calibrated(inputs: ReportInputs) -> list[tuple[str, Result]]:
    """The network's results on pairs that have a fitted probability of "same", with their titles."""
    titles = {"verification": "test pairs", "pairs": "pairs of a file"}
    results = inputs.network_results
    return [
        (title, results[key])
        for key, title in titles.items()
        if key in results and "slope" in results[key].figures
    ]


def by_distance(inputs: ReportInputs, result: Result) -> bool:
    """Whether `dissimilarity` is the distance of the two embeddings, and not minus the score."""
    net, pairs = inputs.net, result.list_of(VerificationPairs)
    single_references = net.model.context is None and pairs.num_references.max() == 1
    return bool(net.model.head.falls_with_distance and single_references)


def dissimilarity(inputs: ReportInputs, result: Result) -> Callable[[np.ndarray], np.ndarray]:
    """How unlike the two pictures of a pair are to the network.

    Args:
        inputs: the run.
        result: the network's, on a list of pairs.

    Returns:
        A function of (n,) numbers of pairs to (n,) values.
    """
    if not by_distance(inputs, result):
        return lambda members: -result.scores[members]
    pairs, measure = result.list_of(VerificationPairs), jax.jit(inputs.net.model.head.distances)

    def distances(members: np.ndarray) -> np.ndarray:
        first, second = (
            inputs.net.embed(pairs.images[rows[members]])
            for rows in (pairs.first, pairs.references[:, 0])
        )
        return np.asarray(measure(first, second))

    return distances


def _trials(inputs: ReportInputs, result: Result) -> str:
    titles = [class_name(name) for name in result.trials.group_names]
    if result.grouped_by == "run" and inputs.data.runs is not None:
        alphabets = enumerate(inputs.data.runs.alphabets, 1)
        titles = [f"{plain(alphabet)}, run {number}" for number, alphabet in alphabets]
    kind = inputs.data.test.kind
    return image_sheets.trial_sheet(
        result, kind, inputs.names(result), titles, why(inputs, result, kind)
    )


def training_batch(training: Training, kind: str) -> str:
    """The first batch of a run; `kind` is that of the training set, `ink` or `photo`."""
    if training.pixels is None:
        raise ValueError("a batch of vectors has no pictures")
    if training.mask is not None:
        return image_sheets.episode_sheet(training.pixels, training.mask, kind)
    if training.labels is not None:
        return image_sheets.training_pair_sheet(training.pixels, training.labels, kind)
    names = [class_name(name) for name in training.class_names or ()]
    return image_sheets.image_sheet(training.pixels, names, kind)


def _embeddings(inputs: ReportInputs) -> str:
    """Maps of classes of two test alphabets, the easiest and the hardest if that is known."""
    test = inputs.data.test
    accuracy: dict[str, float] = {}
    order = list(test.alphabet_names)
    within = inputs.network_results.get("within")
    if within is not None and within.grouped_by == "alphabet":
        accuracy = {name: part["accuracy"] for name, part in within.per_group.items()}
        order = sorted(accuracy, key=lambda name: accuracy[name], reverse=True)
    maps = []
    for alphabet in dict.fromkeys((order[0], order[-1])):
        part = test.select(alphabets=[alphabet])
        classes = np.linspace(0, part.num_classes - 1, min(MAX_MAPPED_CLASSES, part.num_classes))
        part = part.select(
            classes=classes.round().astype(int), drawers=np.unique(part.drawers)[:20]
        )
        title = plain(alphabet)
        if alphabet in accuracy:
            title += f": {percent(accuracy[alphabet])} within the {inputs.group_noun}"
        names = [image_name(part, row) for row in range(len(part))]
        maps.append(embedding_map.map_of(title, inputs.net.embed(part.images[:]), part, names))
    return "".join(maps)
