"""The training loop."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from tqdm import tqdm

from siamese_jax.data import augment, loading
from siamese_jax.evaluation import protocols, trials
from siamese_jax.inference import network
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese
from siamese_jax.models.comparators import COMPARATORS
from siamese_jax.runs import checkpoints, export, workdir
from siamese_jax.training import fixed_pairs, host_feed, objectives, optim
from siamese_jax.training.step import init_state, make_train_step

_log = logging.getLogger(__name__)


def train_and_evaluate(
    config,
    path: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_validation: Callable[[int, float], object] = lambda step, accuracy: None,
    programs: dict | None = None,
    progress: bool = False,
) -> dict:
    """Trains a network, or goes on with its training; the same call resumes after any interruption.

    Args:
        config: see `configs/`.
        path: workdir of the run.
        should_stop: asked after every step; once true, the state is saved and the call returns.
        on_validation: called after every validation, with the step and the accuracy; what it raises
            ends the training.
        programs: compiled steps, filled and used by calls that are given the same empty dict: runs
            that differ in the data of their optimisers alone compile nothing anew.
        progress: whether to show a progress bar.

    Returns:
        `step` (the last one made), `best_step`, `best_value` (validation accuracy), `finished`.

    Raises:
        ValueError: settings that do not go together, or a workdir with another run.
        FloatingPointError: the loss is not finite; the last good checkpoint is kept.
    """
    _check(config)
    if (pathlib.Path(path) / export.FILE).exists():
        raise ValueError(f"{path} holds a network without its checkpoints: choose another workdir")
    devices = Devices(config.num_devices)
    tx = optim.build(config.optim, config.num_steps)
    data = loading.load(config.data)
    train_set = data.train
    objective = objectives.build(
        config.objective, int(train_set.alphabet_count.max()), train_set.num_classes
    )
    model = siamese.build(config.model, train_set.image_shape, devices.axis_name, objective.classes)
    _check_set(config, train_set, objective.images_per_class)
    fed = host_feed.from_host(config.get("feed", "auto"), train_set.images, devices)
    train_step = make_train_step(
        model,
        tx,
        objective,
        augment.build(config.augment),
        "paper" if train_set.kind == "ink" else "edge",
        devices,
        fed,
    )
    asked = {"num_trials": config.eval.num_trials, "seed": config.eval.seed}
    if config.eval.get("between"):
        validation = trials.between_trials(data.validation, n_way=config.eval.n_way, **asked)
    else:
        validation = trials.within_trials(
            data.validation, n_way=config.eval.n_way, skip_small=True, **asked
        )
    watched = None
    if config.eval.get("num_pairs", 0):
        watched = trials.verification_pairs(
            data.validation, num_pairs=config.eval.num_pairs, seed=config.eval.seed
        )

    # What does not go together shows here, before the workdir is taken.
    state = init_state(model, tx, train_set.image_shape, config.seed, objective.metrics)
    index = objectives.make_index(config.objective, train_set, config.seed)
    if index.pairs is not None:
        _log.info("training on %s", fixed_pairs.summary(train_set, index.pairs))
    jax.eval_shape(objective.sample, state.rng, state.step, index)

    details = {"image_shape": train_set.image_shape, "kind": train_set.kind, "data": data.note}
    with (
        workdir.RunFolder(path, config, data.fingerprint, details, devices.primary) as run,
        contextlib.ExitStack() as stack,
    ):
        saved = checkpoints.Checkpoints(path, config.keep_best)
        try:
            start = saved.latest or 0
            rows = run.resume(start)
            if start:
                _log.info("resuming at step %d", start)
                state = saved.restore(start, state)
            if fed:
                batches = stack.enter_context(
                    host_feed.HostFeed(
                        train_set.images, objective, index, state.rng, start, devices
                    )
                )
            else:
                batches = itertools.repeat(devices.replicate(train_set.images[:]))
            state, index = devices.replicate((state, index))
            net = network.bind(
                config, state.variables, train_set.image_shape, train_set.kind, "model", devices
            )
            if programs is not None:
                train_step, net = programs.setdefault(_program(config), (train_step, net))
            evaluated = [row for row in rows if row["phase"] == "validation"]
            bar = tqdm(
                total=config.num_steps,
                initial=start,
                unit="step",
                disable=not progress,
                smoothing=0.05,
            )
            since, before = time.perf_counter(), start
            step = start
            while step < config.num_steps and not _patience_over(config, evaluated):
                state, last = train_step(state, next(batches), index)
                step += 1
                bar.update()
                stopping = devices.agree(should_stop())
                evaluating = step % config.eval.every == 0 or step == config.num_steps
                if step % config.log_every == 0 or evaluating or stopping:
                    sums = jax.device_get(devices.first(state.sums))
                    good = math.isfinite(sums["loss"])
                    if good and (evaluating or stopping):  # what is saved can be gone on from
                        good = _finite(devices.first(state.params))
                    if not good:
                        raise FloatingPointError(
                            "the loss or a parameter is not finite between steps "
                            f"{step - int(sums['steps']) + 1} and {step}: choose a lower learning "
                            f"rate and another workdir; the last good checkpoint is {saved.latest}"
                        )
                if step % config.log_every == 0:
                    speed = objective.images * (step - before) / (time.perf_counter() - since)
                    means = {k: float(v / sums["steps"]) for k, v in sums.items() if k != "steps"}
                    spent = {
                        "images_per_second": round(speed, 1),
                        "cpu_seconds": round(time.process_time(), 3),
                    }
                    run.log(step, "train", {**means, **spent})
                    state = state.replace(sums=jax.tree.map(lambda x: x * 0, state.sums))
                    bar.set_postfix(_shown(means, evaluated, speed))
                    since, before = time.perf_counter(), step
                _log_layers(run, config.optim, state.params, step)
                if evaluating:
                    system, cache = net.with_variables(state.variables).system(), {}
                    join = config.eval.get("shot_aggregation", "mean")
                    result = protocols.evaluate_trials(system, validation, join=join, cache=cache)
                    found = {"accuracy": result.accuracy}
                    if watched is not None:
                        found |= protocols.monitor_pairs(system, watched, cache=cache)
                    evaluated.append(run.log(step, "validation", found))
                    saved.save(step, devices.first(state), result.accuracy)
                    on_validation(step, result.accuracy)
                    since, before = time.perf_counter(), step
                if stopping:
                    saved.save(step, devices.first(state))
                    break
                jax.block_until_ready(last)
            bar.close()
            best = saved.best
            values = {row["step"]: row["accuracy"] for row in evaluated}
            finished = step == config.num_steps or _patience_over(config, evaluated)
        finally:
            saved.close()
    return {
        "step": step,
        "best_step": best,
        "best_value": values.get(best),
        "finished": finished,
    }


def _check(config):
    if config.eval.every % config.log_every:
        raise ValueError(
            f"eval.every = {config.eval.every} must be a multiple of log_every = {config.log_every}"
        )
    if config.num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {config.num_steps}")
    name, comparator = config.objective.name, config.model.comparator
    by_distance = tuple(name for name, cls in COMPARATORS.items() if cls.falls_with_distance)
    if name in objectives.BY_DISTANCE and comparator not in by_distance:
        raise ValueError(
            f"objective {name!r} learns distances and would leave the comparator "
            f"{comparator!r} untrained: set model.comparator to one of {by_distance}"
        )
    if config.objective.get("pairs") and config.augment.distort != bool(
        config.objective.get("copies")
    ):
        raise ValueError(
            f"augment.distort = {config.augment.distort} with objective.copies = "
            f"{config.objective.get('copies', 0)}: of fixed pairs the copies are distorted, and "
            "nothing else; set both or neither"
        )
    if config.model.get("context_steps", 0) and name != "matching":
        raise ValueError(f"model.context_steps goes with the objective 'matching', not {name!r}")


def _check_set(config, image_set, images_per_class):
    if image_set.class_count.min() < images_per_class:
        poor = int(image_set.class_count.argmin())
        raise ValueError(
            f"class {image_set.class_names[poor]!r} has {image_set.class_count[poor]} image(s): "
            f"the objective {config.objective.name!r} needs {images_per_class} of each class"
        )
    if image_set.num_classes < 2:
        raise ValueError(f"{image_set.name!r} has one class: a different pair needs two")
    if image_set.kind == "vector" and config.augment.distort:
        raise ValueError(
            "augment.distort = True warps pictures, and these are vectors: set it to False"
        )
    objective = config.objective
    height, width, _ = image_set.image_shape
    if height != width or image_set.kind != "ink":
        needs = f"needs square images of kind ink; these are {height} x {width}, {image_set.kind}"
        if objective.symmetries != "none":
            raise ValueError(
                f"objective.symmetries = {objective.symmetries!r} {needs}: set objective.symmetries to 'none'"
            )
        smallest = image_set.alphabet_count.min()
        if objective.get("pad_with_symmetries") and smallest < objective.n_way:
            raise ValueError(
                f"objective.pad_with_symmetries, with an alphabet of {smallest} classes for {objective.n_way} ways, "
                f"turns images and {needs}: set objective.pad_with_symmetries to False"
            )
    if config.objective.get("negatives") == "same_alphabet" and image_set.alphabet_count.min() < 2:
        raise ValueError("objective.negatives = 'same_alphabet' needs two classes an alphabet")


def _log_layers(run, fields, params, step):
    """At the end of an epoch, the rate, momentum and L2 weight of each parameter during it."""
    if fields.name != "layerwise" or step % fields.steps_per_epoch:
        return
    values = {
        f"{name}/{setting}": value
        for name, settings in optim.layer_settings(fields, params, step - 1).items()
        for setting, value in zip(("learning_rate", "momentum", "l2"), settings, strict=True)
    }
    run.log(step, "layers", values)


def _finite(tree) -> bool:
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


def _program(config) -> str:
    """What the steps are compiled from; the rest is data, or belongs to the loop."""
    fields = workdir.plain(config)
    for name in ("seed", "log_every", "keep_best", "eval", "search_space"):
        fields.pop(name, None)
    fields["optim"] = optim.compiled_settings(fields["optim"])
    return json.dumps(fields, sort_keys=True)


def _patience_over(config, evaluated) -> bool:
    """Whether `eval.patience` evaluations passed without a better one (0: never)."""
    values = [row["accuracy"] for row in evaluated]
    return bool(
        config.eval.patience
        and values
        and len(values) - 1 - values.index(max(values)) >= config.eval.patience
    )


def _shown(means, evaluated, speed) -> dict:
    shown = {"loss": f"{means['loss']:.3f}", "images/s": f"{speed:.0f}"}
    if evaluated:
        shown["validation"] = f"{evaluated[-1]['accuracy']:.2%}"
    return shown
