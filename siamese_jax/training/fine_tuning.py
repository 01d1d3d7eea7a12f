"""Fine-tuning: an encoder starts from the weights of a file, and its stages learn at rates of their own.

An encoder with stages has `num_stages`, the number of its last one, `stage_of(path)`, the stage of a
parameter, and `frozen`, the number of first stages that are not trained. All other parameters of a
network count as the last stage.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from siamese_jax import readers

_SHOWN = 3  # names that a message lists
_OWN = "params/encoder/"  # how this package names the parameters of an encoder in a file


def by_stage(
    tx: optax.GradientTransformation, encoder: Any, layer_decay: float = 1.0
) -> optax.GradientTransformation:
    """An optimiser that leaves frozen stages alone and moves lower stages more slowly.

    Frozen parameters get no update at all, also none of a weight decay, and no state.

    Args:
        tx: the optimiser of a network's parameters.
        encoder: the network's.
        layer_decay: factor of the updates from each stage to the one below it.

    Returns:
        `tx` itself where nothing is frozen and `layer_decay` is 1.

    Raises:
        ValueError: a `layer_decay` for an encoder without stages.
    """
    frozen = getattr(encoder, "frozen", 0)
    if layer_decay == 1 and not frozen:
        return tx
    if not hasattr(encoder, "stage_of"):
        raise ValueError(
            f"optim.layer_decay = {layer_decay}: {type(encoder).__name__} has no stages; set it to 1"
        )

    def stage(path: tuple) -> int:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        inside = name.startswith("encoder/")
        return encoder.stage_of(name.removeprefix("encoder/")) if inside else encoder.num_stages

    def slow_down(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x * layer_decay ** (encoder.num_stages - stage(path)), updates
        )

    if layer_decay != 1:
        tx = optax.chain(tx, optax.stateless(slow_down))
    if not frozen:
        return tx

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if stage(path) < frozen else "trained", params
        )

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def start_from(
    file: str | os.PathLike, encoder: Any, image_shape: Sequence[int], variables: Mapping
) -> dict:
    """The variables of a network with its encoder's from a safetensors file.

    The file is a state dict of torchvision or timm (see the encoder's `read_state`), or a network that
    this package wrote. A dense layer `embedding` that the file lacks stays as it is.

    Args:
        file: the safetensors file.
        encoder: the network's.
        image_shape: (H, W, C) of its input.
        variables: `params`, and `batch_stats` if it has any.

    Raises:
        ValueError: no such file, an encoder that cannot read it, or names or shapes that differ.
    """
    state = readers.read_safetensors(pathlib.Path(file).expanduser())
    if any(name.startswith(_OWN) for name in state):
        given = {
            name.replace("/encoder/", "/", 1): x
            for name, x in state.items()
            if name.partition("/")[2].startswith("encoder/")
        }
    elif hasattr(encoder, "read_state"):
        given = encoder.read_state(state, image_shape)
    else:
        raise ValueError(
            f"{file} was not written by this package, and {type(encoder).__name__} does not read the "
            "names of others"
        )
    needed = {
        _name_in_encoder(path): x
        for path, x in jax.tree_util.tree_leaves_with_path(variables)
        if _name_in_encoder(path)
    }
    _check(file, encoder, needed, given)

    def chosen(path: tuple, x: jax.Array) -> jax.Array:
        name = _name_in_encoder(path)
        return jax.numpy.asarray(given[name], x.dtype) if name in given else x

    return jax.tree_util.tree_map_with_path(chosen, dict(variables))


def _name_in_encoder(path: tuple) -> str:
    """`params/conv1/kernel` of a path `params/encoder/conv1/kernel`; empty for other parts."""
    part, module, *rest = path
    if module.key != "encoder":
        return ""
    return jax.tree_util.keystr((part, *rest), simple=True, separator="/")


def _check(
    file: str | os.PathLike, encoder: nn.Module, needed: Mapping, given: Mapping[str, np.ndarray]
) -> None:
    """Refuses weights of another encoder, and says how they differ."""
    lacking = [x for x in needed if x not in given and not x.startswith("params/embedding/")]
    surplus = [x for x in given if x not in needed]
    shapes = [
        f"{name} {given[name].shape} for {needed[name].shape}"
        for name in needed
        if name in given and given[name].shape != needed[name].shape
    ]
    faults = [
        f"{what} {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in (("it lacks", lacking), ("it has too", surplus), ("shapes", shapes))
        if names
    ]
    if faults:
        raise ValueError(
            f"{file} holds no weights of this {type(encoder).__name__}: {'; '.join(faults)}"
        )


def digest(file: str | os.PathLike) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file, for the record of a run."""
    with open(readers.check_file(pathlib.Path(file).expanduser()), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
