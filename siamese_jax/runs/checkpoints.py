"""Orbax checkpoints: the latest and the best are always kept, each written whole or not at all."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


class Checkpoints:
    """The checkpoints of one run.

    Args:
        workdir: folder of the run; the checkpoints lie in its `checkpoints/`.
        keep_best: how many of the best are kept, besides the latest.
        read_only: whether only to read, and leave alone what a training may be writing.
    """

    def __init__(self, workdir: str | pathlib.Path, keep_best: int = 1, *, read_only: bool = False):
        def value(metrics):
            return metrics["value"]

        options = ocp.CheckpointManagerOptions(
            best_fn=value,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(1),
                    policies.BestN(
                        get_metric_fn=value, n=keep_best, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
        )
        directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step: int, state, value: float | None = None) -> None:
        """Saves a state in the background; a step that is saved already is left as it is.

        Args:
            step: number of the step.
            state: tree of arrays.
            value: validation value, higher is better; of equal values the earlier step is better.
                None for a state that was not evaluated: it can be the latest, never the best.
        """
        if step in self.steps:
            return
        # The tiny slope decides ties; validation values are multiples of one over a trial count.
        metrics = None if value is None else {"value": value - 1e-12 * step}
        host = jax.tree.map(_to_host, state)
        self._manager.save(step, args=ocp.args.StandardSave(host), metrics=metrics)

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, in order."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """Step of the latest checkpoint, None where there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the best checkpoint that was evaluated, None where there is none."""
        return self._manager.best_step()

    def restore(self, step: int, like):
        """Reads a checkpoint.

        Args:
            step: number of the step.
            like: a tree of arrays of the wanted structure, shapes and types.

        Returns:
            The state as a tree of arrays.

        Raises:
            ValueError: the checkpoint's structure or shapes are not those of `like`.
        """
        template = jax.tree.map(_to_host, like)
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(template))
        leaves = jax.tree_util.tree_leaves_with_path(restored)
        for (path, x), expected in zip(leaves, jax.tree.leaves(template), strict=True):
            if x.shape != expected.shape:
                raise ValueError(
                    f"checkpoint {step} has {jax.tree_util.keystr(path, simple=True, separator='/')}"
                    f" of shape {x.shape}, the network of shape {expected.shape}"
                )
        return jax.tree.map(_from_host, restored, like)

    def variables(self, step: int) -> dict:
        """The parameters and batch statistics of a checkpoint, whatever optimiser made it.

        The parameters are their moving average where the training kept one.
        """
        restored = self._manager.restore(step, args=ocp.args.StandardRestore())
        restored["params"] = restored.get("ema") or restored["params"]
        return {name: restored.get(name) or {} for name in ("params", "batch_stats")}

    def wait(self) -> None:
        """Returns when everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes and ends the background work."""
        self._manager.wait_until_finished()
        self._manager.close()


def read_variables(
    workdir: str | pathlib.Path, keep_best: int, checkpoint: str | int = "best"
) -> tuple[int, dict]:
    """The step, and the parameters and batch statistics, of one checkpoint of a run.

    Args:
        workdir: folder of the run.
        keep_best: as the run's config says.
        checkpoint: `best` by validation, `latest`, or a step.

    Raises:
        ValueError: there is no such checkpoint.
    """
    saved = Checkpoints(workdir, keep_best, read_only=True)
    try:
        step = {"best": saved.best, "latest": saved.latest}.get(checkpoint, checkpoint)
        if step is None or step not in saved.steps:
            raise ValueError(f"{workdir} holds no checkpoint {checkpoint!r}; it has {saved.steps}")
        return step, saved.variables(step)
    finally:
        saved.close()


def _to_host(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.array(x)  # a copy: the device may reuse the buffer while it is written


def _from_host(x, like):
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(x)
    return jax.numpy.asarray(x)
