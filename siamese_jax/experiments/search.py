"""Bayesian search of a config's settings, on a study that many workers share.

A config states what may vary in `search_space`, a tuple with one entry a field:

    ("optim.learning_rate", "log", 1e-4, 1e-1)                a number, searched on a logarithmic scale
    ("optim.rules.0.momentum", "float", 0.0, 1.0)    a number; entry 0 of the rules of `layerwise`
    ("model.encoder_args.filters.0", "int", 16, 256, 16)    a whole number, in steps (of 1 if not said)
    ("objective.symmetries", "choice", "none", "alphabet")

The config itself is the first trial. The objective is the validation accuracy of a run's best
evaluation, and nothing else. A trial whose worker fell silent is begun again by another one, from its
last checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import pathlib
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import ml_collections
import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from siamese_jax.data import loading
from siamese_jax.models import siamese
from siamese_jax.runs import workdir
from siamese_jax.training import loop, optim

_log = logging.getLogger(__name__)

KINDS = {"float": (2, 2), "log": (2, 2), "int": (2, 3), "choice": (1, 1000)}  # numbers of values
_ATTEMPTS = 3  # at a trial whose workers fall silent
_PROGRAMS = 4  # compiled steps that a worker keeps


# ---------------------------------------------------------------------------------------- space


class Dimension(NamedTuple):
    """One field that varies: its dotted name, one of `KINDS`, and the values of that kind."""

    field: str
    kind: str
    values: tuple

    def holds(self, value) -> bool:
        """Whether the value is one that could be proposed."""
        if self.kind == "choice":
            return value in self.values
        low, high, *step = self.values
        if self.kind == "int":
            return value in range(low, high + 1, *step)
        return isinstance(value, int | float) and low <= value <= high

    def suggest(self, trial: Trial):
        """The value that a trial proposes."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.field, self.values)
        low, high, *step = self.values
        if self.kind == "int":
            return trial.suggest_int(self.field, low, high, step=step[0] if step else 1)
        return trial.suggest_float(self.field, low, high, log=self.kind == "log")


def read_space(config: Mapping, only: Sequence[str] = ()) -> list[Dimension]:
    """The search space that a config states.

    Args:
        config: as a plain dict, with `search_space`.
        only: beginnings of the field names to keep; none of them: all.

    Raises:
        ValueError: no space, an entry that is not understood, a field that the config lacks or whose
            value lies outside, or a beginning that fits nothing.
    """
    stated = config.get("search_space")
    if not stated:
        raise ValueError("this config states no search_space: see the top of siamese_jax/search.py")
    space = []
    for entry in stated:
        field, kind, *values = [*entry, "", ""] if len(entry) < 2 else entry
        least, most = KINDS.get(kind, (0, -1))
        if not least <= len(values) <= most:
            raise ValueError(
                f"search_space: {entry} is not understood; examples: (field, 'log', 1e-4, 1e-1), "
                "(field, 'float', 0, 1), (field, 'int', 16, 256, 16), (field, 'choice', 'a', 'b')"
            )
        dimension = Dimension(field, kind, tuple(values))
        value = get_field(config, field)
        if not dimension.holds(value):
            raise ValueError(f"search_space: {field} is {value!r}, which is outside of {entry[1:]}")
        space.append(dimension)
    for start in only:
        if not any(d.field.startswith(start) for d in space):
            raise ValueError(f"no field of the search_space begins with {start!r}")
    return [d for d in space if not only or d.field.startswith(tuple(only))]


def get_field(config: Mapping, dotted: str):
    """The value of a dotted field; a part after a list is a position or a name of `optim.Rule`."""
    value = config
    for name in dotted.split("."):
        try:
            value = value[_key(value, name)]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(
                f"search_space: the config has no field {dotted!r} ({name!r} is not there)"
            ) from None
    return value


def with_fields(config: Mapping, fields: Mapping[str, Any]) -> dict:
    """A copy of a plain config in which dotted fields have other values."""
    config = json.loads(json.dumps(config))
    for dotted, value in fields.items():
        *path, last = dotted.split(".")
        part = get_field(config, ".".join(path)) if path else config
        part[_key(part, last)] = value
    return config


def _key(part, name: str):
    if not isinstance(part, list):
        return name
    return int(name) if name.isdigit() else optim.Rule._fields.index(name)


# ---------------------------------------------------------------------------------------- study


def open_study(
    path: pathlib.Path, config: Mapping, space: Sequence[Dimension], storage: str | None
) -> optuna.Study:
    """Opens the study of a folder, or begins it with the config itself as the first trial.

    Args:
        path: folder of the search; its name is the study's.
        config: the base config as a plain dict, without its search_space.
        space: what varies.
        storage: URL of a database; None: a file in the folder, which may lie on a shared disk.

    Raises:
        ValueError: the study is of another config.
    """
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        study = optuna.create_study(
            study_name=path.name,
            storage=storage
            or optuna.storages.JournalStorage(JournalFileBackend(str(path / "study.journal"))),
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
            load_if_exists=True,
        )
        known = study.user_attrs.get("config")
        differ = known and workdir.differences(known, config)
        if differ:
            raise ValueError(
                f"{path} holds a search of another config ({'; '.join(differ)}): "
                "choose another --workdir"
            )
        if known is None:
            study.set_user_attr("config", config)
            study.enqueue_trial({d.field: get_field(config, d.field) for d in space})
    return study


def requeue_silent(study: optuna.Study, stale_seconds: float) -> None:
    """Ends the trials whose workers have shown no life, and queues them again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        alive = trial.user_attrs.get("alive", trial.datetime_start.timestamp())
        if time.time() - alive > stale_seconds:
            _log.info("trial %d: its worker fell silent", trial.number)
            _give_up(study, trial)


def _give_up(study: optuna.Study, trial: FrozenTrial | Trial) -> None:
    """Ends a trial as failed and queues its continuation; the first of several workers does it."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return
    attempt = trial.user_attrs.get("attempt", 1)
    if attempt < _ATTEMPTS:
        study.enqueue_trial(
            trial.params,
            {"after": trial.number, "folder": _folder(trial), "attempt": attempt + 1},
        )


def _folder(trial) -> str:
    return trial.user_attrs.get("folder", f"{trial.number:05d}")


def _last_attempts(study: optuna.Study) -> list[FrozenTrial]:
    """All trials but those that were begun again under another number."""
    trials = study.get_trials(deepcopy=False)
    begun_again = {t.user_attrs.get("after") for t in trials}
    return [t for t in trials if t.number not in begun_again]


class _Pulse:
    """Says every few seconds that the trial at hand is worked on."""

    def __init__(self, seconds: float):
        self.trial: Trial | None = None
        self._seconds, self._end = seconds, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> _Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _beat(self):
        while not self._end.wait(self._seconds):
            trial = self.trial
            if trial is not None:
                with contextlib.suppress(optuna.exceptions.OptunaError):  # a later beat may pass
                    trial.set_user_attr("alive", time.time())


# --------------------------------------------------------------------------------------- search


def run_search(
    config,
    path: str | pathlib.Path,
    *,
    num_trials: int,
    storage: str | None = None,
    only: Sequence[str] = (),
    seed: int = 0,
    stale_seconds: float = 120.0,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> dict:
    """Works on a study until it has `num_trials` trials, then prints and writes what was found.

    Several calls, on as many machines as share the storage, work on one study; the same call goes on
    after any interruption. Each trial is a workdir in `trials/`, of which only the best keeps its
    checkpoints. With one worker the search is a function of the seed.

    Args:
        config: the base config, with `search_space`.
        path: folder of the search.
        num_trials: in all, those of other workers and of former calls included; one whose network
            does not fit its images is not trained and not counted.
        storage: see `open_study`.
        only: see `read_space`.
        seed: of the proposals.
        stale_seconds: silence after which a worker counts as dead.
        should_stop: asked after every training step; once true, the trial is saved and queued again.
        progress: whether to show a progress bar of each trial.

    Returns:
        `finished`, and of the best trial `number`, `accuracy` and `fields`.

    Raises:
        ValueError: the config states no usable space, or the settings do not go together.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = pathlib.Path(path).absolute()
    base = workdir.plain(config)
    space = read_space(base, only)
    del base["search_space"]
    data = loading.load(base["data"])
    _log.info("data: %s", data.note)
    study = open_study(path, base, space, storage)
    programs, finished = {}, False
    run_trial = functools.partial(
        _run_trial, study, data.train, path, programs, should_stop, progress
    )
    with _Pulse(stale_seconds / 4) as pulse:
        while not should_stop():
            requeue_silent(study, stale_seconds)
            trials = _last_attempts(study)
            impossible = sum("impossible" in t.user_attrs for t in trials)
            if impossible > 20 * num_trials:
                raise ValueError(
                    f"{impossible} of {len(trials)} trials had impossible networks: narrow the "
                    "search_space, or take larger images"
                )
            trials = [t for t in trials if "impossible" not in t.user_attrs]
            states = [t.state for t in trials]
            if len(trials) >= num_trials and TrialState.WAITING not in states:
                finished = TrialState.RUNNING not in states
                if finished:
                    break
                time.sleep(min(stale_seconds / 4, 5.0))  # others are at work, or silent
                continue
            study.sampler = _sampler(seed, len(study.get_trials(deepcopy=False)))
            trial = study.ask()
            study.sampler = _sampler(seed, trial.number)
            trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
            fields = {d.field: d.suggest(trial) for d in space}
            pulse.trial = trial
            try:
                run_trial(trial, with_fields(base, fields))
            except optuna.exceptions.UpdateFinishedTrialError:
                _log.info("trial %d was taken over by another worker", trial.number)
            finally:
                pulse.trial = None
            while len(programs) > _PROGRAMS:
                del programs[next(iter(programs))]
            _drop_checkpoints(study, path)
    best = write_results(study, path, base, space)
    return {"finished": finished, **best}


def _sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """A sampler whose draws depend on the seed and the trial's number, so that a search resumes."""
    mixed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=mixed, constant_liar=True)


def _run_trial(
    study, train_set, path, programs: dict, should_stop, progress: bool, trial, config: Mapping
) -> None:
    folder = path / "trials" / _folder(trial)
    told: dict[int, float] = {}

    def tell_accuracy(step: int, accuracy: float) -> None:
        if step not in told:
            told[step] = accuracy
            trial.report(accuracy, step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"below the median at step {step}")

    try:
        _check_network(trial, config, train_set)
        for row in workdir.read_metrics(folder):  # of an earlier attempt
            if row["phase"] == "validation":
                told[row["step"]] = row["accuracy"]
                trial.report(row["accuracy"], row["step"])
        summary = loop.train_and_evaluate(
            ml_collections.ConfigDict(config).lock(),
            str(folder),
            should_stop=should_stop,
            on_validation=tell_accuracy,
            programs=programs,
            progress=progress,
        )
    except (optuna.TrialPruned, FloatingPointError) as error:
        trial.set_user_attr("reason", str(error))
        if isinstance(error, FloatingPointError) and told:  # what it reached before counts
            study.tell(trial, max(told.values()))
        else:
            study.tell(trial, state=TrialState.PRUNED)
        print(f"trial {trial.number}: ended early: {error}", flush=True)
    except ValueError as error:
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        if not summary["finished"]:
            _give_up(study, trial)
            return
        trial.set_user_attr("best_step", summary["best_step"])
        study.tell(trial, summary["best_value"])
        print(
            f"trial {trial.number}: validation {100 * summary['best_value']:.2f} % at step "
            f"{summary['best_step']}; best so far {100 * study.best_value:.2f} %",
            flush=True,
        )


def _check_network(trial, config: Mapping, train_set) -> None:
    """Ends a trial whose network its images do not fit, without training it."""
    size = config["data"]["image_size"] or train_set.image_shape[:2]
    shape = (*size, train_set.image_shape[2])
    images = jax.ShapeDtypeStruct((1, *shape), "float32")
    try:
        jax.eval_shape(
            siamese.build(config["model"], shape).init, jax.random.key(0), images, images
        )
    except ValueError as error:
        trial.set_user_attr("impossible", True)
        raise optuna.TrialPruned(f"impossible network: {error}") from None


def _drop_checkpoints(study: optuna.Study, path: pathlib.Path) -> None:
    """Removes the checkpoints of all trials that have ended, but for the best one's."""
    ended = [t for t in _last_attempts(study) if t.state.is_finished()]
    complete = [t for t in ended if t.state == TrialState.COMPLETE]
    best = max(complete, key=lambda t: t.value, default=None)
    for trial in ended:
        if trial is not best:
            shutil.rmtree(path / "trials" / _folder(trial) / "checkpoints", ignore_errors=True)


# -------------------------------------------------------------------------------------- results


def write_results(
    study: optuna.Study, path: pathlib.Path, base: Mapping, space: Sequence[Dimension]
) -> dict:
    """Prints the best trials; writes `search.txt`, `search.json`, `best.json` and the plots.

    `best.json` is the best trial's config, to be trained by `--config=configs/recorded.py:...`.

    Returns:
        `number`, `accuracy` and `fields` of the best trial; an empty dict without one.
    """
    trials = _last_attempts(study)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda t: (-t.value, t.number))
    counts = {s: sum(t.state == s for t in trials) for s in TrialState}
    text = ", ".join(f"{n} {s.name.lower()}" for s, n in counts.items() if n)
    text = f"{len(trials)} trials: {text}"
    if ranked:
        text += "\n\n" + _table(ranked[:10], base, space)
    print(text)
    (path / "search.txt").write_text(text + "\n")
    record = {
        "config": base,
        "search_space": [[d.field, d.kind, *d.values] for d in space],
        "evaluation": workdir.provenance(),
        "trials": [_plain_trial(t) for t in trials],
    }
    (path / "search.json").write_text(json.dumps(record, indent=1) + "\n")
    if not ranked:
        return {}
    best = ranked[0]
    found = {"number": best.number, "accuracy": best.value, "fields": best.params}
    chosen = {"search": found, "config": with_fields(base, best.params)}
    (path / "best.json").write_text(json.dumps(chosen, indent=1) + "\n")
    _plot(study, path)
    print(f"written: search.txt, search.json, best.json and the plots in {path}")
    return found


def _plain_trial(trial: FrozenTrial) -> dict:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "accuracy": trial.value if trial.state == TrialState.COMPLETE else None,
        "best_step": trial.user_attrs.get("best_step"),
        "validation": {str(step): value for step, value in trial.intermediate_values.items()},
        "fields": trial.params,
        "folder": f"trials/{_folder(trial)}",
        "reason": trial.user_attrs.get("reason"),
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
    }


def _table(ranked: Sequence[FrozenTrial], base: Mapping, space: Sequence[Dimension]) -> str:
    """Fields downwards, the config and the best trials across."""
    rows = [["", "config", *(f"trial {t.number}" for t in ranked)]]
    rows.append(["validation %", "", *(f"{100 * t.value:.2f}" for t in ranked)])
    rows.append(["best step", "", *(str(t.user_attrs.get("best_step", "-")) for t in ranked)])
    for d in space:
        values = [get_field(base, d.field), *(t.params.get(d.field) for t in ranked)]
        rows.append([d.field, *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _plot(study: optuna.Study, path: pathlib.Path) -> None:
    """`history.png`, and `importance.png` as soon as there are trials enough to tell."""
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as plots

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the importance of few trials is uncertain
        told = "validation accuracy"
        drawn = {"history": plots.plot_optimization_history(study, target_name=told)}
        try:
            drawn["importance"] = plots.plot_param_importances(
                study, evaluator=evaluator, target=lambda t: t.value, target_name=told
            )
            drawn["importance"].figure.set_figheight(2 + 0.3 * len(study.best_params))
        except (ValueError, RuntimeError) as error:
            print(f"no importance.png: {error}")
        for name, axes in drawn.items():
            axes.figure.savefig(path / f"{name}.png", dpi=150, bbox_inches="tight")
            matplotlib.pyplot.close(axes.figure)
