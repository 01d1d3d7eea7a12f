"""The report of a run, drawn from an evaluation or from a saved one."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import NotRequired

import numpy as np
from ml_collections import ConfigDict
from typing_extensions import TypedDict

from siamese_jax.data import loading
from siamese_jax.evaluation import saved
from siamese_jax.experiments import evaluate, records
from siamese_jax.experiments.evaluate import EvaluationRequest
from siamese_jax.inference import network
from siamese_jax.inference.devices import Devices
from siamese_jax.reporting import run_page
from siamese_jax.reporting.inputs import ReportInputs, Results, Training
from siamese_jax.runs import workdir
from siamese_jax.training import objectives
from siamese_jax.training.experiment import Experiment


class _Named(TypedDict):
    name: str


class _Config(TypedDict):
    test_data: NotRequired[_Named | None]


class _Settings(TypedDict):
    tta: int


class _Saved(TypedDict):
    """What the `results.json` of a run must hold, to draw its report again."""

    config: _Config
    settings: _Settings
    evaluation: records.Start
    results: list[records.Result]


def write_report(
    path: str | pathlib.Path,
    config: ConfigDict,
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


def write_saved_report(
    path: str | pathlib.Path,
    archives: str | None = None,
    test_archives: str | None = None,
    pairs: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes `report.html` again from the evaluation that is saved in a run's workdir.

    Args:
        path: the run's workdir.
        archives: folder of the data's archives, if not that of the config.
        test_archives: the same of the test data, if there are any.
        pairs: the CSV file of pairs, if the evaluation had one.

    Returns:
        The file.

    Raises:
        ValueError: the folder holds no run or no saved evaluation, or the data are others.
    """
    config = workdir.plain(workdir.read_config(path))
    try:
        summary = records.read(pathlib.Path(path) / "results.json", _Saved)
    except FileNotFoundError:
        raise ValueError(f"{path} holds no results.json: evaluate the run first") from None
    if not summary["results"]:
        raise ValueError(f"{path}/results.json has no results: evaluate the run again")
    test_data = summary["config"].get("test_data")
    if test_data == config.get("test_data"):
        test_data = None  # the config says it
    request = EvaluationRequest(
        path,
        (),
        checkpoint=summary["results"][0]["system"].rpartition("@ ")[2],
        archives=archives,
        test_data=test_data and test_data["name"],
        test_archives=test_archives,
        pairs=pairs,
        tta=summary["settings"]["tta"],
    )
    (net,) = evaluate.load_networks(request)
    config = evaluate.evaluated_config(request)
    data = evaluate.load_data(request, config, net)
    results = saved.read(path, evaluate.evaluation_data(request, data, net))
    date = summary["evaluation"]["time"].partition("T")[0]
    inputs = gather(path, config, data, net, results)
    return run_page.write(dataclasses.replace(inputs, evaluated=date))


def gather(
    path: str | pathlib.Path,
    config: ConfigDict,
    data: loading.Data,
    net: network.Siamese,
    results: Results,
) -> ReportInputs:
    """All that a report is drawn from; arguments as of `write_report`."""
    training = preview(config, data)
    path = pathlib.Path(path).absolute()
    return ReportInputs(path, config, data, net, results, training)


def preview(config: ConfigDict, data: loading.Data) -> Training:
    """What a report says of the training batches, with the first one if it has pictures.

    Args:
        config: of the run.
        data: with its training set, at any image size.
    """
    experiment = Experiment.from_config(config, data=data, devices=Devices(1))
    section, objective = config.objective, experiment.objective
    margin = objectives.contrastive_margin(section) if section.name == "contrastive" else None
    training = Training(
        images_per_step=objective.images,
        images_per_class=objective.images_per_class,
        margin=margin,
    )
    if not experiment.data.train.has_pictures:
        return training
    batch, pixels = experiment.preview_batch()
    training = dataclasses.replace(training, pixels=np.asarray(pixels))
    rows = np.asarray(batch.rows)
    if rows.ndim == 3:  # episodes
        return dataclasses.replace(training, mask=np.asarray(batch.mask))
    if rows.ndim == 2:  # pairs
        return dataclasses.replace(training, labels=np.asarray(batch.labels))
    train_set = experiment.train_set
    names = tuple(train_set.class_names[c] for c in train_set.classes[rows])
    return dataclasses.replace(training, class_names=names)
