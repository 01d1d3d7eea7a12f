"""Bayesian search of a config's settings, on a study that many workers share.

A config states what may vary in `search_space`, a tuple with one entry a field:

    ("optim.learning_rate", "log", 1e-4, 1e-1)       a number, searched on a logarithmic scale
    ("optim.rules.0.momentum", "float", 0.0, 1.0)    a number; entry 0 of the rules of `layerwise`
    ("model.encoder_args.filters.0", "int", 16, 256, 16)    a whole number, in steps (of 1 if not said)
    ("objective.symmetries", "choice", "none", "alphabet")

The config itself is the first trial. The score of a trial is the validation accuracy of its best
checkpoint, and nothing else. Optuna's heartbeat notices a worker that died: its trial is queued again,
and goes on from its last checkpoint.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pathlib
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import ml_collections
import numpy as np
import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import Trial, TrialState

from siamese_jax.data import loading
from siamese_jax.experiments.fields import get_field, with_fields
from siamese_jax.experiments.search.results import folder_of, last_attempts, write_results
from siamese_jax.experiments.search.space import Dimension, read_space
from siamese_jax.runs import workdir
from siamese_jax.training import loop
from siamese_jax.training.experiment import Experiment

_log = logging.getLogger(__name__)

_RETRIES = 2  # of a trial whose workers die
_PROGRAMS = 4  # compiled steps that a worker keeps
_LOCK_SECONDS = 60  # that a worker waits for another one's transaction in a SQLite file


def run_search(
    config: ml_collections.ConfigDict,
    path: str | pathlib.Path,
    *,
    num_trials: int,
    storage: str | None = None,
    only: Sequence[str] = (),
    seed: int = 0,
    stale_seconds: int = 120,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> dict:
    """Works on a study until it has `num_trials` trials, then prints and writes the results.

    Several workers that share the storage work on one study; the same call goes on after any
    interruption. Each trial is a workdir in `trials/`, of which only the best keeps its checkpoints.
    With one worker the search is a function of the seed.

    Args:
        config: the base config, with `search_space`.
        path: folder of the search.
        num_trials: in all, those of other workers and of former calls included; one whose network
            does not fit its images is not trained and not counted.
        storage: see `open_study`.
        only: see `read_space`.
        seed: of the proposals.
        stale_seconds: silence after which a worker counts as dead, 4 or more.
        should_stop: asked after every training step; once true, the trial is saved and queued again.
        progress: whether to show a progress bar of each trial.

    Returns:
        `finished`, and of the best trial `number`, `accuracy` and `fields`.

    Raises:
        ValueError: the config states no usable space, or the settings do not go together.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    path = pathlib.Path(path).absolute()
    base = workdir.plain(config)
    space = read_space(base, only)
    del base["search_space"]
    if base["data"].get("train_on_validation"):
        raise ValueError(
            "a search chooses by the validation classes, which must not train: set "
            "data.train_on_validation to False"
        )
    data = loading.load(base["data"])
    _log.info("data: %s", data.note)
    study = open_study(path, base, space, storage, stale_seconds)
    varied = any(d.field.startswith("data.") for d in space)
    shared = None if varied else data
    worker = _Worker(study, base, space, shared, path, seed, should_stop, progress)
    finished = False
    while not should_stop():
        optuna.storages.fail_stale_trials(study)
        trials = last_attempts(study)
        impossible = sum("impossible" in t.user_attrs for t in trials)
        if impossible > 20 * num_trials:
            raise ValueError(
                f"{impossible} of {len(trials)} trials had impossible networks: narrow the "
                "search_space, or take larger images"
            )
        states = [t.state for t in trials if "impossible" not in t.user_attrs]
        if len(states) < num_trials or TrialState.WAITING in states:
            worker.run_one()
        elif TrialState.RUNNING in states:
            time.sleep(min(stale_seconds / 4, 5.0))  # other workers have them, or had
        else:
            finished = True
            break
    best = write_results(study, path, base, space)
    return {"finished": finished, **best}


def open_study(
    path: pathlib.Path,
    config: Mapping,
    space: Sequence[Dimension],
    storage: str | None,
    stale_seconds: int,
) -> optuna.Study:
    """Opens the study of a folder, or begins it with the config itself as the first trial.

    Args:
        path: folder of the search; its name is the study's.
        config: the base config as a plain dict, without its search_space.
        space: what varies.
        storage: URL of a database that the workers of several machines share; None: a SQLite file in
            the folder, for the workers of one machine.
        stale_seconds: see `run_search`.

    Raises:
        ValueError: the study is of another config.
    """
    path.mkdir(parents=True, exist_ok=True)
    storage = storage or f"sqlite:///{path / 'study.db'}"
    connection = {"timeout": _LOCK_SECONDS} if storage.startswith("sqlite") else {}
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            database = optuna.storages.RDBStorage(
                storage,
                engine_kwargs={"connect_args": connection},
                heartbeat_interval=max(1, int(stale_seconds) // 4),
                grace_period=max(4, int(stale_seconds)),
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(_RETRIES),
            )
        except Exception as error:  # of SQLAlchemy or of the database's driver
            raise ValueError(
                f"storage {storage!r} cannot be opened ({str(error)[:200]}): give the URL of a "
                "database, such as postgresql://..., and install its driver"
            ) from error
        study = optuna.create_study(
            study_name=path.name,
            storage=database,
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


class _Stopped(Exception):
    """The training ended before its time; its checkpoint can be resumed."""


class _Worker:
    """Runs the trials of a study, one after the other."""

    def __init__(
        self,
        study: optuna.Study,
        base: Mapping,
        space: Sequence[Dimension],
        data: loading.Data | None,
        path: pathlib.Path,
        seed: int,
        should_stop: Callable[[], bool],
        progress: bool,
    ) -> None:
        self._study, self._base, self._space, self._data = study, base, space, data
        self._path, self._seed = path, seed
        self._should_stop, self._progress = should_stop, progress
        self._programs: dict = {}
        self._error: Exception | None = None

    def run_one(self) -> None:
        """Runs the next trial, and keeps the checkpoints of the best one only.

        Raises:
            ValueError: the settings do not go together.
        """
        study = self._study
        study.sampler = _sampler(self._seed, len(study.get_trials(deepcopy=False)))
        try:
            study.optimize(self._run, n_trials=1, catch=_Stopped, callbacks=[_queue_if_stopped])
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if self._error is None:
                _log.info("a trial was taken over by another worker")
        if self._error is not None:
            raise self._error
        while len(self._programs) > _PROGRAMS:
            del self._programs[next(iter(self._programs))]
        _drop_checkpoints(study, self._path)

    def _run(self, trial: Trial) -> float:
        """Trains one trial; returns its accuracy, or raises what ended it."""
        self._study.sampler = _sampler(self._seed, trial.number)
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        fields = {d.field: d.suggest(trial) for d in self._space}
        try:
            return self._train(trial, with_fields(self._base, fields))
        except optuna.TrialPruned as error:
            trial.set_user_attr("reason", str(error))
            print(f"trial {trial.number}: ended early: {error}", flush=True)
            raise
        except ValueError as error:
            trial.set_user_attr("reason", str(error))
            self._error = error
            raise
        except (_Stopped, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except Exception as error:  # a full disk, say: the trial can be resumed
            self._error = error
            raise _Stopped from error

    def _check_network(self, trial: Trial, config: Mapping) -> loading.Data:
        """Ends a trial whose network its images do not fit, without training it; returns its data."""
        experiment = Experiment.from_config(config, data=self._data)
        try:
            experiment.parameter_shapes()
        except ValueError as error:
            trial.set_user_attr("impossible", True)
            raise optuna.TrialPruned(f"impossible network: {error}") from None
        return experiment.data

    def _train(self, trial: Trial, config: Mapping) -> float:
        data = self._check_network(trial, config)
        folder = self._path / "trials" / folder_of(trial.study.get_trials()[trial.number])
        accuracies: dict[int, float] = {}
        for row in workdir.read_metrics(folder):  # of an earlier attempt
            if row["phase"] == "validation":
                accuracies[row["step"]] = row["accuracy"]
                trial.report(row["accuracy"], row["step"])

        def on_validation(step: int, accuracy: float) -> None:
            if step not in accuracies:
                accuracies[step] = accuracy
                trial.report(accuracy, step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"below the median at step {step}")

        try:
            summary = loop.train_and_evaluate(
                ml_collections.ConfigDict(config).lock(),
                str(folder),
                should_stop=self._should_stop,
                on_validation=on_validation,
                programs=self._programs,
                progress=self._progress,
                data=data,
            )
        except FloatingPointError as error:
            if not accuracies:
                raise optuna.TrialPruned(str(error)) from None
            trial.set_user_attr("reason", str(error))
            print(f"trial {trial.number}: ended early: {error}", flush=True)
            return max(accuracies.values())  # what it reached before counts
        if not summary["finished"]:
            raise _Stopped
        trial.set_user_attr("best_step", summary["best_step"])
        accuracy = summary["best_value"]
        complete = trial.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        best = max([accuracy, *(t.value for t in complete)])
        print(
            f"trial {trial.number}: validation {100 * accuracy:.2f} % at step "
            f"{summary['best_step']}; best so far {100 * best:.2f} %",
            flush=True,
        )
        return accuracy


def _sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """A sampler whose draws depend on the seed and the trial's number, so that a search resumes."""
    mixed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=mixed, constant_liar=True)


def _queue_if_stopped(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queues the continuation of a trial that ended before its time."""
    if trial.state == TrialState.FAIL and "reason" not in trial.user_attrs:
        RetryHeartbeatStaleTrialCallback()(study, trial)


def _drop_checkpoints(study: optuna.Study, path: pathlib.Path) -> None:
    """Removes the checkpoints of all trials that have ended, but for the best one's."""
    ended = [t for t in last_attempts(study) if t.state.is_finished()]
    complete = [t for t in ended if t.state == TrialState.COMPLETE]
    best = max(complete, key=lambda t: t.value, default=None)
    for trial in ended:
        if trial is not best:
            shutil.rmtree(path / "trials" / folder_of(trial) / "checkpoints", ignore_errors=True)
