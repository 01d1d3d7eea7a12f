"""The report of a run: puts together what `reporting` draws, from an evaluation or a saved one."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from siamese_jax.data import augment, loading
from siamese_jax.data.image_set import ImageSet
from siamese_jax.inference import network
from siamese_jax.reporting import run_page
from siamese_jax.reporting.inputs import ReportInputs, Results, Training
from siamese_jax.training import objectives
from siamese_jax.training.step import preview_batch


def write_report(
    path: str | pathlib.Path,
    config,
    data: loading.Data,
    net: network.Siamese,
    results: Results,
) -> pathlib.Path:
    """Writes `report.html` into a run's workdir.

    Args:
        path: the run's workdir.
        config: of the run.
        data: what it was trained and evaluated on, at any image size.
        net: the network.
        results: by the name of the system and the key of the protocol.

    Returns:
        The file.

    Raises:
        ValueError: the folder holds no run, or the network is not among the results.
    """
    return run_page.write(gather(path, config, data, net, results))


def gather(
    path: str | pathlib.Path,
    config,
    data: loading.Data,
    net: network.Siamese,
    results: Results,
) -> ReportInputs:
    """All that a report is drawn from; arguments as of `write_report`."""
    training = preview(config, data.train, net.image_shape)
    return ReportInputs(pathlib.Path(path).absolute(), config, data, net, results, training)


def preview(config, train_set: ImageSet, image_shape: Sequence[int]) -> Training:
    """What a report says of the training batches, with the first one if it has pictures.

    Args:
        config: of the run.
        train_set: the training set, at any image size.
        image_shape: (H, W, C) of the network's input.
    """
    section = config.objective
    objective = objectives.build(
        section, int(train_set.alphabet_count.max()), train_set.num_classes
    )
    margin = objectives.contrastive_margin(section) if section.name == "contrastive" else None
    fields = {
        "images_per_step": objective.images,
        "images_per_class": objective.images_per_class,
        "margin": margin,
    }
    if train_set.kind == "vector":
        return Training(**fields)
    train_set = train_set.resized(*image_shape[:2])
    batch, pixels = preview_batch(
        config.seed,
        0,
        train_set.images,
        objectives.make_index(section, train_set, config.seed),
        objective,
        augment.build(config.augment),
        "paper" if train_set.kind == "ink" else "edge",
    )
    fields["pixels"], rows = np.asarray(pixels), np.asarray(batch.rows)
    if rows.ndim == 3:  # episodes
        return Training(**fields, mask=np.asarray(batch.mask))
    if rows.ndim == 2:  # pairs
        return Training(**fields, labels=np.asarray(batch.labels))
    names = tuple(train_set.class_names[c] for c in train_set.classes[rows])
    return Training(**fields, class_names=names)
