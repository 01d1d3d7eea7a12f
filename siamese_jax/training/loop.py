"""The training loop, stage by stage: prepare, resume, feed, step, log, validate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from tqdm import tqdm

from siamese_jax.data import loading
from siamese_jax.evaluation import protocols
from siamese_jax.evaluation.scoring import shot_aggregation_of
from siamese_jax.inference import network
from siamese_jax.runs import checkpoints, export, workdir
from siamese_jax.training import fine_tuning, fixed_pairs, host_feed, optim
from siamese_jax.training.experiment import Experiment
from siamese_jax.training.step import TrainState

_log = logging.getLogger(__name__)
_STEPS_OF_ESTIMATE = 10


def train_and_evaluate(
    config: ConfigDict,
    path: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_validation: Callable[[int, float], object] = lambda step, accuracy: None,
    on_log: Callable[[int, str, dict], object] = lambda step, phase, values: None,
    programs: dict | None = None,
    progress: bool = False,
    encoder: nn.Module | None = None,
    data: loading.Data | None = None,
) -> dict:
    """Trains a network, or goes on with its training; the same call resumes after any interruption.

    Args:
        config: see `configs/`.
        path: workdir of the run.
        should_stop: asked after every step; once true, the state is saved and the call returns.
        on_validation: called after every validation, with the step and the accuracy; what it raises
            ends the training.
        on_log: called with every row of the log, as (step, phase, values), by the one process that
            writes the log: a hook for trackers of experiments. What it raises ends the training.
        programs: compiled steps. Give several calls the same dict, empty at first: runs that differ
            only in the data of their optimisers then compile their steps once.
        progress: whether to show a progress bar.
        encoder: a linen module that embeds (images, train), in place of the config's encoder. If its
            class cannot be imported, give it to `network.load` as well.
        data: the config's data, at its image size, if they are loaded already; None loads them.

    Returns:
        `step` (the last one made), `best_step`, `best_value` (validation accuracy), `finished`.

    Raises:
        ValueError: settings that do not go together, or a workdir with another run.
        FloatingPointError: the loss is not finite; the last good checkpoint is kept.
    """
    if (pathlib.Path(path) / export.FILE).exists():
        raise ValueError(f"{path} holds a network without its checkpoints: choose another workdir")
    experiment = Experiment.from_config(config, data=data, encoder=encoder)
    config, devices = experiment.config, experiment.devices
    state = _prepare(experiment)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(_open_run(experiment, path, on_log))
        identity = workdir.identity(config, _facts(experiment))
        saved = checkpoints.Checkpoints(path, config.keep_best, run=identity)
        stack.callback(saved.close)
        state, step, validations = _resume(run, saved, state)
        images = stack.enter_context(batches(experiment, state, step))
        state, index = devices.replicate((state, experiment.index))
        train_step, net = _programs(experiment, state, programs)
        bar = stack.enter_context(_Progress(experiment, step, progress))
        pending = None
        while not _finished(config, step, validations):
            state, metrics = train_step(state, next(images), index)
            # One step is computed while the next is being sent to the device, and no more are queued.
            jax.block_until_ready(pending)
            pending = metrics
            step += 1
            bar.update(step)
            stopping = devices.agree(should_stop())
            logging_now = step % config.log_every == 0
            validating = step % config.eval.every == 0 or step == config.num_steps
            saving = validating or stopping
            if logging_now or saving:
                sums = jax.device_get(devices.first(state.sums))
                _check_finite(sums, devices.first(state.params) if saving else (), step, saved)
            if logging_now:
                state = _log_training(run, state, sums, step, bar, validations)
            _log_layers(run, config.optim, state.params, step)
            if validating:
                values = validate(experiment, net.with_variables(state.variables))
                validations.append(run.log(step, "validation", values))
                log = run.log_digest(step)
                saved.save(step, devices.first(state), values["accuracy"], log)
                on_validation(step, values["accuracy"])
                bar.restart_clock(step)
            if stopping:
                saved.save(step, devices.first(state), log=run.log_digest(step))
                break
        best = saved.best
    return {
        "step": step,
        "best_step": best,
        "best_value": {row["step"]: row["accuracy"] for row in validations}.get(best),
        "finished": _finished(config, step, validations),
    }


# ------------------------------------------------------------------------------- before the first step


def _prepare(experiment: Experiment) -> TrainState:
    """Builds every part of a run before its workdir is taken, so that a mistake leaves no folder.

    Returns:
        The state before the first step.
    """
    _ = experiment.train_step, experiment.validation_trials, experiment.validation_pairs
    state, index = experiment.init_state(), experiment.index
    if index.pairs is not None:
        _log.info("training on %s", fixed_pairs.summary(experiment.train_set, index.pairs))
    jax.eval_shape(experiment.objective.sample, state.rng, state.step, index)
    return state


def _facts(experiment: Experiment) -> dict:
    """What a network must be told of the images that it was trained on."""
    return {"image_shape": list(experiment.image_shape), "kind": experiment.kind}


def _open_run(experiment: Experiment, path: str, on_log: Callable) -> workdir.RunFolder:
    data = experiment.data
    details = {
        **_facts(experiment),
        "data": data.note,
        "source_fingerprint": data.source_fingerprint,
    }
    if experiment.config.model.get("weights"):
        details["initial_weights"] = fine_tuning.digest(experiment.config.model.weights)
    return workdir.RunFolder(
        path, experiment.config, data.fingerprint, details, experiment.devices.primary, on_log
    )


def _resume(
    run: workdir.RunFolder, saved: checkpoints.Checkpoints, state: TrainState
) -> tuple[TrainState, int, list[dict]]:
    """The state of the latest checkpoint, its step (0 without one), and the validations up to it."""
    step, state = saved.resume(state)
    if step:
        _log.info("resuming at step %d", step)
        log = saved.log_digest(step)
        if log is not None and run.log_digest(step) not in (None, log):
            raise ValueError(
                f"{run.path / 'metrics.jsonl'} is not as it was when checkpoint {step} was saved: put "
                "back a whole copy, or choose another --workdir"
            )
    else:
        run.check_begins()
    validations = [row for row in run.resume(step) if row["phase"] == "validation"]
    best = max(validations, key=lambda row: row["accuracy"], default=None)
    if best is not None and best["step"] not in saved.steps:
        _log.warning(
            "the checkpoint of step %d, the best so far, is gone: the best is chosen without it",
            best["step"],
        )
    return state, step, validations


@contextlib.contextmanager
def batches(experiment: Experiment, state: TrainState, step: int) -> Iterator[Iterator[jax.Array]]:
    """The `images` of every training step: fed by the host, or always the whole set on the devices."""
    images, devices = experiment.train_set.images, experiment.devices
    if not experiment.fed:
        yield itertools.repeat(devices.replicate(images[:]))
        return
    with host_feed.HostFeed(
        images, experiment.objective, experiment.index, state.rng, step, devices
    ) as feed:
        yield feed


def _programs(
    experiment: Experiment, state: TrainState, programs: dict | None
) -> tuple[Callable, network.Siamese]:
    """The training step and the network for validation, an earlier run's if they are the same."""
    compiled = experiment.train_step, experiment.network(state.variables)
    if programs is None:
        return compiled
    return programs.setdefault(program_key(experiment.config), compiled)


def program_key(config: ConfigDict) -> str:
    """What the compiled steps of a config depend on; all else is data, or belongs to the loop."""
    fields = workdir.plain(config)
    for name in ("seed", "log_every", "keep_best", "eval", "search_space"):
        fields.pop(name, None)
    fields["optim"] = optim.compiled_settings(fields["optim"])
    return json.dumps(fields, sort_keys=True)


# ------------------------------------------------------------------------------------ between two steps


def _finished(config: ConfigDict, step: int, validations: Sequence[Mapping]) -> bool:
    """Whether all steps are made, or `eval.patience` (0: never) validations brought nothing better."""
    values = [row["accuracy"] for row in validations]
    patience = config.eval.patience
    impatient = patience and values and len(values) - 1 - values.index(max(values)) >= patience
    return step >= config.num_steps or bool(impatient)


def _check_finite(sums: Mapping, params: Any, step: int, saved: checkpoints.Checkpoints) -> None:
    """Ends a training run whose loss, or whose parameters about to be saved, are not finite."""
    if math.isfinite(sums["loss"]) and _all_finite(params):
        return
    raise FloatingPointError(
        "the loss or a parameter is not finite between steps "
        f"{step - int(sums['steps']) + 1} and {step}: choose a lower learning rate and another "
        f"workdir; the last good checkpoint is {saved.latest}"
    )


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all()


def _log_training(
    run: workdir.RunFolder,
    state: TrainState,
    sums: Mapping,
    step: int,
    bar: _Progress,
    validations: Sequence[Mapping],
) -> TrainState:
    """Logs the mean metrics since the last row; returns the state with its sums set to zero."""
    means = {name: float(x / sums["steps"]) for name, x in sums.items() if name != "steps"}
    speed = bar.images_per_second(step)
    spent = {
        "images_per_second": round(speed, 1),
        "cpu_seconds": round(time.process_time(), 3),
    }
    run.log(step, "train", {**means, **spent})
    state = dataclasses.replace(state, sums=jax.tree.map(lambda x: x * 0, state.sums))
    bar.show(means["loss"], speed, validations)
    bar.restart_clock(step)
    return state


def _log_layers(run: workdir.RunFolder, fields: Mapping, params: Any, step: int) -> None:
    """Logs, at the end of an epoch, each parameter's learning rate, momentum and L2 weight in it."""
    if fields["name"] != "layerwise" or step % fields["steps_per_epoch"]:
        return
    values = {
        f"{name}/{setting}": value
        for name, settings in optim.layer_settings(fields, params, step - 1).items()
        for setting, value in zip(("learning_rate", "momentum", "l2"), settings, strict=True)
    }
    run.log(step, "layers", values)


def validate(experiment: Experiment, net: network.Siamese) -> dict[str, float]:
    """The accuracy on the validation trials, and the figures of the validation pairs, if any."""
    system = net.system()
    cache: dict = {}
    result = protocols.evaluate_trials(
        system,
        experiment.validation_trials,
        shot_aggregation=shot_aggregation_of(experiment.config.eval),
        cache=cache,
    )
    values = {"accuracy": result.accuracy}
    if experiment.validation_pairs is not None:
        values |= protocols.monitor_pairs(system, experiment.validation_pairs, cache=cache)
    return values


class _Progress:
    """The progress bar, and the clock of the training speed, which validations do not count in.

    Args:
        experiment: that is trained.
        step: updates made before.
        shown: whether to show the bar.
    """

    def __init__(self, experiment: Experiment, step: int, shown: bool) -> None:
        self._images = experiment.objective.images
        self._steps, self._made, self._begun = experiment.config.num_steps, 0, 0.0
        self._bar = tqdm(
            total=experiment.config.num_steps,
            initial=step,
            unit="step",
            disable=not shown,
            smoothing=0.05,
        )
        self.restart_clock(step)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, step: int) -> None:
        """Counts a step; says how long the rest will take once some steps were made."""
        self._bar.update()
        self._made += 1
        if self._made == 1:  # it waited for the compiler
            self._begun = time.perf_counter()
        elif self._made == _STEPS_OF_ESTIMATE + 1:
            pace = (time.perf_counter() - self._begun) / _STEPS_OF_ESTIMATE
            minutes = pace * (self._steps - step) / 60
            self._bar.clear()
            _log.info("%.3g s a step: %s to go, besides validations", pace, _minutes(minutes))

    def restart_clock(self, step: int) -> None:
        """Starts the clock anew at a step."""
        self._since, self._step = time.perf_counter(), step

    def images_per_second(self, step: int) -> float:
        """The speed since the clock was started."""
        return self._images * (step - self._step) / (time.perf_counter() - self._since)

    def show(self, loss: float, speed: float, validations: Sequence[Mapping]) -> None:
        """Shows figures beside the bar."""
        figures = {"loss": f"{loss:.3f}", "images/s": f"{speed:.0f}"}
        if validations:
            figures["validation"] = f"{validations[-1]['accuracy']:.2%}"
        self._bar.set_postfix(figures)


def _minutes(minutes: float) -> str:
    return f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute or less"
