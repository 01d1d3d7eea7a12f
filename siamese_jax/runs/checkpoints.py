"""Orbax checkpoints with digests of what they hold; the latest two and the best are kept.

Each checkpoint is written whole or not at all. Beside the state lies its proof: the digest of every
array, the step, the validation value, and the seed and config of the run. A checkpoint is read only
after its proof was checked. Orbax is imported only where it is used, since its import is slow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from siamese_jax import files
from siamese_jax.runs import digests

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_log = logging.getLogger(__name__)
_MARGIN = 2**24  # bytes that must stay free besides those of the state
_NOTE = "files.json"  # of a checkpoint: the digests of its files
_REMOVED = ".removed"  # what is removed is moved there first, so that no half of it is ever seen
_ATTEMPTS = 20  # of a reader, while a training removes what it wanted to read


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was saved."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        workdir: folder of the run; the checkpoints lie in its `checkpoints/`.
        keep_best: how many of the best are kept, besides the latest two.
        run: what each checkpoint must belong to, see `workdir.identity`; None to ask nothing.
        read_only: whether only to read, and leave alone what a training may be writing.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        keep_best: int = 1,
        *,
        run: Mapping | None = None,
        read_only: bool = False,
    ) -> None:
        self._workdir = pathlib.Path(workdir)
        self._folder = self._workdir.absolute() / "checkpoints"
        self._run = dict(run or {})
        self._keep_best = keep_best
        self._manager: ocp.CheckpointManager | None = None  # of Orbax, for saving only
        self._begun: set[int] = set()  # steps whose saving was begun here
        if not read_only:
            self._folder.mkdir(parents=True, exist_ok=True)

    def save(
        self, step: int, state: Any, value: float | None = None, log: str | None = None
    ) -> None:
        """Saves a state in the background; a step that is saved already is left as it is.

        Args:
            step: number of the step.
            state: tree of arrays.
            value: validation value, higher is better; of equal values the earlier step is better.
                None for a state that was not evaluated: it can be the latest, never the best.
            log: digest of the run's log up to the step.

        Raises:
            OSError: this state, or the one before, cannot be written. Earlier ones stay whole.
        """
        import orbax.checkpoint as ocp

        if step in self._begun or step in self._listed():
            return
        self._begun.add(step)
        host = jax.tree.map(_to_host, state)
        arrays = by_path(host)
        self._check_space(step, sum(x.nbytes for x in arrays.values()))
        metrics = None if value is None else {"value": value, "step": step}
        proof = {
            "step": step,
            "value": value,
            "log": log,
            "arrays": {name: digests.of_array(x) for name, x in arrays.items()},
            **self._run,
        }
        proof["digest"] = digests.of_json(proof)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(host), proof=ocp.args.JsonSave(proof)
        )
        try:
            if self._manager is None:
                self._manager = _manager(self._folder, self._keep_best)
            self._manager.save(step, args=items, metrics=metrics)
            self._note_files()
            self._sweep()
        except Exception as error:
            raise self._unsaved(error) from error

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, in order."""
        self.wait()
        return self._listed()

    @property
    def latest(self) -> int | None:
        """Step of the latest checkpoint, None where there is none."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step of the best checkpoint that was evaluated, None where there is none.

        Raises:
            DamagedCheckpoint: the value of a checkpoint cannot be read.
        """
        values = {step: self._proof(step)["value"] for step in self.steps}
        evaluated = [step for step in values if values[step] is not None]
        return max(evaluated, key=lambda step: (values[step], -step), default=None)

    def resume(self, like: Any) -> tuple[int, Any]:
        """Goes back to the newest whole checkpoint; later ones, which are damaged, are removed.

        Args:
            like: a tree of arrays of the wanted structure, shapes and types.

        Returns:
            The step and the state; 0 and `like` where there are no checkpoints.

        Raises:
            ValueError: no checkpoint is whole, an earlier one is damaged, or one is of another run.
        """
        steps, step, state = self._listed(), 0, like
        damaged = []
        for candidate in reversed(steps):
            try:
                step, state = candidate, self.restore(candidate, like)
                break
            except DamagedCheckpoint as error:
                damaged.append(candidate)
                reason = error
        if damaged and len(damaged) == len(steps):
            raise ValueError(
                f"{reason}, and no other is whole: choose another --workdir to train anew"
            )
        for earlier in steps:
            if earlier < step:
                try:
                    self._proof(earlier)
                except DamagedCheckpoint as error:
                    raise ValueError(
                        f"{error}: put back a copy of {self._folder / str(earlier)}, or remove this "
                        "folder to go on without it"
                    ) from None
        _together("read")
        for candidate in damaged:
            _log.warning("%s; going on from checkpoint %d, which is whole", reason, step)
            if jax.process_index() == 0:
                (self._folder / _REMOVED).mkdir(exist_ok=True)
                (self._folder / str(candidate)).rename(
                    self._folder / _REMOVED / f"damaged-{candidate}"
                )
                self._sweep()
        _together("removed")
        return step, state

    def log_digest(self, step: int) -> str | None:
        """The digest of the run's log that was given when a checkpoint was saved."""
        return self._proof(step)["log"]

    def restore(self, step: int, like: Any) -> Any:
        """Reads a checkpoint.

        Args:
            step: number of the step.
            like: a tree of arrays of the wanted structure, shapes and types.

        Returns:
            The state as a tree of arrays.

        Raises:
            DamagedCheckpoint: it is not what was saved.
            ValueError: its structure or shapes are not those of `like`, or it is of another run.
        """
        template = jax.tree.map(_to_host, like)
        arrays, wanted = self._arrays(step), by_path(template)
        for name in sorted(arrays.keys() ^ wanted.keys()):
            side = "checkpoint" if name in arrays else "network"
            raise ValueError(f"only the {side} has {name}: checkpoint {step} is of another network")
        for name, x in arrays.items():
            if x.shape != wanted[name].shape:
                raise ValueError(
                    f"checkpoint {step} has {name} of shape {x.shape}, the network of shape "
                    f"{wanted[name].shape}"
                )
        restored = jax.tree.unflatten(
            jax.tree.structure(template), [arrays[name] for name in wanted]
        )
        return jax.tree.map(_from_host, restored, like)

    def variables(self, step: int) -> dict:
        """The parameters and batch statistics of a checkpoint, whatever optimiser made it.

        The parameters are their moving average where the training kept one.

        Raises:
            DamagedCheckpoint: it is not what was saved.
            ValueError: it is of another run.
        """
        variables: dict = {"params": {}, "batch_stats": {}, "ema": {}}
        for name, x in self._arrays(step).items():
            *parents, leaf = name.split("/")
            if parents and parents[0] in variables:
                part = variables
                for parent in parents:
                    part = part.setdefault(parent, {})
                part[leaf] = x
        variables["params"] = variables.pop("ema") or variables["params"]
        return variables

    def wait(self) -> None:
        """Returns when everything saved is on disk.

        Raises:
            OSError: something could not be written.
        """
        if self._manager is not None:
            try:
                self._manager.wait_until_finished()
                self._note_files()
                self._sweep()
            except Exception as error:
                raise self._unsaved(error) from error

    def close(self) -> None:
        """Finishes and ends the background work."""
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            if manager is not None:
                manager.close()

    def _listed(self) -> list[int]:
        """Steps of the folders that are there; Orbax gives a folder its number when it is whole."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def _sweep(self) -> None:
        """Removes what was moved away."""
        if jax.process_index() == 0:
            for path in (self._folder / _REMOVED).glob("*"):
                shutil.rmtree(path, ignore_errors=True)

    def _note_files(self) -> None:
        """Notes the digest of each file of the checkpoints that were made here and are whole.

        Orbax answers a damaged file with tracebacks of its threads; so it is shown none. A checkpoint
        whose saving was killed before this has no note, and its arrays prove it alone.
        """
        if jax.process_index() != 0:
            return
        for step in self._begun.intersection(self._listed()):
            note = self._folder / str(step) / _NOTE
            if not note.exists():
                with contextlib.suppress(FileNotFoundError):  # Orbax has just removed it
                    files.replace_text(note, json.dumps(_file_digests(note.parent)))

    def _proof(self, step: int) -> dict:
        """The proof of a checkpoint, checked against itself, the folder, the metrics and the run."""
        folder = self._folder / str(step)
        try:
            proof = json.loads((folder / "proof" / "metadata").read_bytes())
            digest = proof.pop("digest")
            if digest != digests.of_json(proof):
                raise ValueError("its proof was changed")
            if proof["value"] is not None:
                metrics = json.loads((folder / "metrics" / "metrics").read_bytes())
                # Earlier versions wrote no step there.
                if {"step": step, **metrics} != {"step": step, "value": proof["value"]}:
                    raise ValueError("its metrics were changed")
        except Exception as error:
            raise self._damaged(step, error) from None
        for name, expected in (("step", step), *self._run.items()):
            if proof.get(name) != expected:
                raise ValueError(
                    f"checkpoint {step} of {self._workdir} was saved with {name} "
                    f"{proof.get(name)}, and {name} is {expected} here: it was renamed, or is of "
                    "another run; put the right one back, or choose another workdir"
                )
        return proof

    def _arrays(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of a checkpoint by path, proven."""
        import orbax.checkpoint as ocp

        expected = self._proof(step)["arrays"]
        folder = self._folder / str(step)
        try:
            if (folder / _NOTE).exists() and (
                json.loads((folder / _NOTE).read_bytes()) != _file_digests(folder)
            ):
                raise ValueError("its files are not as they were written")
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                tree = reader.restore(folder / "state", args=ocp.args.StandardRestore())
            arrays = {name: np.asarray(x) for name, x in by_path(tree).items()}
            for name in sorted(expected.keys() | arrays.keys()):
                if name not in arrays or name not in expected:
                    raise ValueError(f"{name} is missing or was added")
                if digests.of_array(arrays[name]) != expected[name]:
                    raise ValueError(f"the numbers of {name} were changed")
        except Exception as error:
            raise self._damaged(step, error) from None
        return arrays

    def _damaged(self, step: int, error: Exception) -> DamagedCheckpoint:
        reason = _in_one_line(error, 160)
        return DamagedCheckpoint(f"checkpoint {step} of {self._workdir} is damaged ({reason})")

    def _check_space(self, step: int, nbytes: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < nbytes + _MARGIN:
            raise OSError(
                f"checkpoint {step} needs {(nbytes + _MARGIN) >> 20} MB and {self._folder} has "
                f"{free >> 20} MB left: make space and give the same command again"
            )
        # A quota, a limit of a file's size, no right to write: Orbax would answer with tracebacks.
        try:
            with tempfile.TemporaryFile(dir=self._folder) as probe:
                os.posix_fallocate(probe.fileno(), 0, max(1, nbytes))
        except OSError as error:
            raise self._unsaved(error) from error

    def _unsaved(self, error: Exception) -> OSError:
        reason = _in_one_line(error, 200)
        return OSError(
            f"a checkpoint cannot be written to {self._folder} ({reason}); the earlier ones are "
            "whole: make space or give the right to write, and give the same command again"
        )


def read_variables(
    workdir: str | pathlib.Path,
    checkpoint: str | int = "best",
    run: Mapping | None = None,
) -> tuple[int, dict]:
    """The step, and the parameters and batch statistics, of one checkpoint of a run.

    A training may be writing the run; a checkpoint that it removes meanwhile is chosen again.

    Args:
        workdir: folder of the run.
        checkpoint: `best` by validation, `latest`, or a step.
        run: see `Checkpoints`.

    Raises:
        ValueError: there is no such checkpoint, or it is damaged or of another run.
    """
    saved = Checkpoints(workdir, run=run, read_only=True)
    for attempt in range(_ATTEMPTS):
        steps = saved.steps
        try:
            step = _chosen(saved, checkpoint)
            if not isinstance(step, int) or (step == checkpoint and step not in saved.steps):
                raise ValueError(f"{workdir} holds no checkpoint {checkpoint!r}; it has {steps}")
            return step, saved.variables(step)
        except DamagedCheckpoint as error:
            if saved.steps == steps or attempt == _ATTEMPTS - 1:
                raise ValueError(
                    f"{error}: of the checkpoints {steps} choose another one, put back a copy of "
                    "this one, or train again in another workdir"
                ) from None
            time.sleep(0.05)
    raise AssertionError("the last attempt returns or raises")


def _chosen(saved: Checkpoints, checkpoint: str | int) -> str | int | None:
    if checkpoint == "best":
        return saved.best
    return saved.latest if checkpoint == "latest" else checkpoint


def _manager(folder: pathlib.Path, keep_best: int) -> ocp.CheckpointManager:
    """Orbax's manager, which also removes what an interrupted saving left behind."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    def rank(metrics: Mapping[str, float]) -> Any:  # Orbax only sorts by it
        return metrics["value"], -metrics.get("step", 0)

    best = policies.BestN(get_metric_fn=rank, n=keep_best, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        best_fn=rank,
        create=True,
        todelete_subdir=_REMOVED,
        cleanup_tmp_directories=True,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
    )
    return ocp.CheckpointManager(folder, options=options)


def _file_digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint by its path, all but the note itself.

    The note may be written meanwhile, in a folder beside it that comes and goes.
    """
    digests_by_path = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(f".{_NOTE}")]
        for name in names:
            if not name.startswith(_NOTE):
                path = pathlib.Path(place, name)
                digests_by_path[str(path.relative_to(folder))] = hashlib.sha256(
                    path.read_bytes()
                ).hexdigest()
    return digests_by_path


def _in_one_line(error: Exception, limit: int) -> str:
    """What an error says, in so many letters at most."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def _together(name: str) -> None:
    """Waits for the other processes, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoints {name}")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `params/encoder/conv1/kernel`, in leaf order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _to_host(x: jax.Array) -> np.ndarray:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.array(x)  # a copy: the device may reuse the buffer while it is written


def _from_host(x: np.ndarray, like: jax.Array) -> jax.Array:
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jax.numpy.asarray(x))
    return jax.numpy.asarray(x)
