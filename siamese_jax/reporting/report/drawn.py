"""Which figures a run has, and what is put into them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from siamese_jax.data import augment, loading
from siamese_jax.evaluation.protocols import Result
from siamese_jax.models import summary
from siamese_jax.reporting import figures, pages
from siamese_jax.reporting.report.run import NO_FIGURES, Run
from siamese_jax.reporting.report.wording import percent, plain
from siamese_jax.training import objectives
from siamese_jax.training.step import preview_batch

CONFUSED = 12  # pairs of classes that are shown
MAPPED = 10  # classes an alphabet on the map of embeddings
_LOSS_UNITS = {"contrastive": "half a squared distance", "triplet": "distance"}


def draw(run: Run) -> dict[str, Figure]:
    """The figures that the results and the data allow, by name."""
    drawn = {}
    if run.rows:
        name = run.config.objective.name
        drawn["learning"] = figures.training_figure(
            run.rows,
            "training",
            f"validation, {run.config.eval.n_way}-way",
            _LOSS_UNITS.get(name, "nats"),
            objectives.contrastive_margin(run.config.objective) if name == "contrastive" else None,
        )
    if run.curve:
        drawn["curve"] = figures.curve_figure(run.curve)
    if run.shown_trials is not None and run.has_pictures:
        drawn["trials"] = _trials(run, run.shown_trials)
    if run.confused and run.has_pictures:
        drawn["confusions"] = figures.confusion_figure(run.confused[:CONFUSED], run.data.test)
    for key, prefix, kind in (
        ("verification", "", run.data.test.kind),
        ("pairs", "file_", run.siamese.kind),  # as they were read
    ):
        if verified := [r for r in run.of(key) if r.system not in NO_FIGURES]:
            drawn[f"{prefix}roc"] = figures.roc_figure(verified)
        if run.has_pictures and key in run.own:
            result = run.own[key]
            drawn[f"{prefix}pairs"] = figures.verification_errors_figure(
                result, figures.sample_pairs(result), dissimilarity(run, result)[0], kind
            )
    if fitted := calibrated(run):
        drawn["reliability"] = figures.reliability_figure(fitted)
    if run.has_pictures:
        drawn["training"] = _training_batch(run)
    params = run.siamese.devices.first(run.siamese.variables)["params"]
    kernel = summary.first_kernel(run.layers, params)
    if kernel is not None:
        drawn["filters"] = figures.filters_figure(kernel)
    drawn["embeddings"] = figures.embedding_figure(_embedded(run))
    return drawn


def show(figure: Figure, description: str, caption: str) -> str:
    """The figure as HTML, with a description for those who cannot see it and a caption."""
    return pages.figure(figures.to_svg(figure, description), caption)


def calibrated(run: Run) -> list[tuple[str, Result]]:
    """The network's results on pairs that have a fitted probability of "same", with their titles."""
    titles = {"verification": "test pairs", "pairs": "pairs of a file"}
    return [
        (title, run.own[key])
        for key, title in titles.items()
        if key in run.own and "slope" in run.own[key].figures
    ]


def dissimilarity(run: Run, result: Result) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """How unlike the two pictures of a pair are to the network.

    Args:
        run: the run.
        result: the network's on a list of pairs.

    Returns:
        A function of (n,) numbers of pairs to (n,) values, and what the values are.
    """
    pairs = result.trials
    distance = run.siamese.model.head.falls_with_distance
    alone = run.siamese.model.context is None and pairs.num_references.max() == 1
    if not (distance and alone):
        return lambda members: -result.scores[members], "minus the score"

    def apart(members):
        first, second = (
            run.siamese.embed(pairs.images[rows[members]])
            for rows in (pairs.first, pairs.references[:, 0])
        )
        return np.asarray(run.siamese.model.head.distances(first, second))

    return apart, "the distance of the two embeddings"


def _trials(run: Run, result: Result) -> Figure:
    titles = [plain(name) for name in result.trials.group_names]
    if result.grouped_by == "run":
        alphabets = enumerate(run.data.runs.alphabets, 1)
        titles = [f"{plain(alphabet)}, run {number}" for number, alphabet in alphabets]
    return figures.trial_grid_figure(result, run.data.test.kind, titles=titles)


def _training_batch(run: Run) -> Figure:
    """The first batch of the run, drawn and warped by the training step's own code."""
    train = run.data.train.resized(*run.siamese.image_shape[:2])
    batch, pixels = preview_batch(
        run.config.seed,
        0,
        train.images,
        objectives.make_index(run.config.objective, train, run.config.seed),
        run.objective,
        augment.build(run.config.augment),
        "paper" if train.kind == "ink" else "edge",
    )
    pixels, rows = np.asarray(pixels), np.asarray(batch.rows)
    if rows.ndim == 3:
        return figures.episode_figure(pixels, np.asarray(batch.mask), train.kind)
    if rows.ndim == 2:
        return figures.pairs_figure(pixels, np.asarray(batch.labels), train.kind)
    names = [figures.class_name(train.class_names[c]) for c in train.classes[rows]]
    return figures.images_figure(pixels, names, train.kind)


def _embedded(run: Run) -> list[tuple[str, np.ndarray, loading.ImageSet]]:
    """Classes of two test alphabets, the easiest and the hardest if that is known."""
    test, accuracy = run.data.test, {}
    order = list(test.alphabet_names)
    within = run.own.get("within")
    if within is not None and within.grouped_by == "alphabet":
        accuracy = {name: part["accuracy"] for name, part in within.per_group.items()}
        order = sorted(accuracy, key=accuracy.get, reverse=True)
    panels = []
    for alphabet in dict.fromkeys((order[0], order[-1])):
        part = test.select(alphabets=[alphabet])
        kept = np.linspace(0, part.num_classes - 1, min(MAPPED, part.num_classes))
        part = part.select(classes=kept.round().astype(int), drawers=np.unique(part.drawers)[:20])
        title = plain(alphabet)
        if alphabet in accuracy:
            title += f": {percent(accuracy[alphabet])} within the alphabet"
        panels.append((title, run.siamese.embed(part.images), part))
    return panels
