"""How fast this machine trains a config, and the length of training that fits into some minutes."""

from __future__ import annotations

import logging
import math
import pathlib
import time
from typing import NamedTuple

import jax
import ml_collections

from siamese_jax.data import loading
from siamese_jax.runs import workdir
from siamese_jax.training import loop
from siamese_jax.training.experiment import Experiment

_log = logging.getLogger(__name__)
_OPTIM = ("optim.warmup_steps", "optim.steps_per_epoch")  # they grow with the training
_LENGTH = ("num_steps", "log_every", "eval.every", *_OPTIM)


class Pace(NamedTuple):
    """Seconds that parts of a training run take, once they are compiled.

    Attributes:
        step: one training step.
        validation: one validation and the saving of a checkpoint.
    """

    step: float
    validation: float


def measure(experiment: Experiment, seconds: float = 5.0) -> Pace:
    """Makes some training steps and one validation, on a state that is thrown away.

    Args:
        experiment: whose steps are compiled here.
        seconds: how long to make steps; at least three are made.
    """
    state, devices = experiment.init_state(), experiment.devices
    with loop.batches(experiment, state, 0) as batches:
        state, index = devices.replicate((state, experiment.index))
        durations: list[float] = []
        while len(durations) < 4 or sum(durations[1:]) < seconds:
            start = time.perf_counter()
            state, metrics = experiment.train_step(state, next(batches), index)
            jax.block_until_ready(metrics)
            durations.append(time.perf_counter() - start)
    timed = durations[1:]  # the first one compiled
    net = experiment.network(state.variables)
    for _ in range(2):  # the first one compiles
        start = time.perf_counter()
        loop.validate(experiment, net)
        validation = time.perf_counter() - start
    return Pace(sum(timed) / len(timed), validation)


def fit(config: ml_collections.ConfigDict, minutes: float, pace: Pace) -> ml_collections.ConfigDict:
    """A config whose training takes some minutes, with as many validations as before.

    `num_steps`, `eval.every` and the optimiser's steps are scaled by the same factor, so that the
    learning rate takes the same course. `log_every` is lowered where a validation would come sooner.

    Args:
        config: see `configs/`.
        minutes: of training and validation.
        pace: of the machine.

    Returns:
        A changed copy.

    Raises:
        ValueError: the minutes hold fewer steps than validations.
    """
    validations = -(-config.num_steps // config.eval.every)
    steps = int((60 * minutes - validations * pace.validation) / pace.step)
    every = steps // validations
    if every < 10:
        needed = validations * (10 * pace.step + pace.validation) / 60
        raise ValueError(
            f"--minutes={minutes:g} is too few: this machine takes {pace.step:.2g} s a step and "
            f"{pace.validation:.2g} s for each of {validations} validations; "
            f"give at least {needed + 0.05:.1f}"
        )
    log_every = min(config.log_every, every)
    every -= every % log_every
    factor = every * validations / config.num_steps
    scaled = config.copy_and_resolve_references()
    with scaled.unlocked():
        scaled.log_every, scaled.eval.every = log_every, every
        scaled.num_steps = every * validations
        for name in _OPTIM:
            field = name.removeprefix("optim.")
            if config.optim.get(field):
                scaled.optim[field] = max(1, round(factor * config.optim[field]))
    return scaled.lock()


def within(
    config: ml_collections.ConfigDict, path: str, minutes: float
) -> tuple[ml_collections.ConfigDict, loading.Data | None]:
    """The config that trains for some minutes on this machine; a run that was begun keeps its length.

    Args:
        config: see `configs/`.
        path: workdir of the run.
        minutes: of training and validation, without the compilation.

    Returns:
        The config, and its data if they were loaded to measure.

    Raises:
        ValueError: the minutes are too few or not finite, or the settings do not go together.
    """
    if not math.isfinite(minutes):
        raise ValueError(f"--minutes must be a finite number, got {minutes}")
    if (pathlib.Path(path) / "config.json").exists():
        return _with_length_of(workdir.read_config(path), config), None
    _log.info("measuring this machine's speed ...")
    experiment = Experiment.from_config(config)
    pace = measure(experiment)
    scaled = fit(config, minutes, pace)
    _log.info("%d steps of %.3g s fit into %g minutes", scaled.num_steps, pace.step, minutes)
    return scaled, experiment.data


def _with_length_of(
    run: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """A config with the fields that `fit` changes taken from a run's."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.update_from_flattened_dict(
            {name: value for name, value in workdir.flatten(run).items() if name in _LENGTH}
        )
    return changed.lock()
