"""What a network is made of: its layers with shapes, parameters and multiply-adds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import DenseParams

from siamese_jax.models.comparators import Comparator
from siamese_jax.models.siamese import SiameseNet


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer that has parameters, or the products of an attention.

    Attributes:
        name: path of its parameters, such as `encoder/conv1`.
        layer_type: its class, such as `Conv`.
        kernel: side lengths of a convolution's kernel, pixels; empty for other layers.
        input_shape: of one image's features, without the batch.
        output_shape: of one image's features; () for the comparator, which gives one score a pair.
        parameters: number of trained numbers.
        multiply_adds: of one image, in convolutions and matrix products, or of one pair in the
            comparator; of one step in a recurrent cell. Biases, normalisations, activations and pools
            are not counted.
    """

    name: str
    layer_type: str
    kernel: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layer_table(model: SiameseNet, image_shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """The layers of a network in the order of computation, from a dry run that computes nothing.

    Args:
        model: the network.
        image_shape: (H, W, C) of its input.

    Returns:
        One `Layer` for each module with parameters of its own, and for each attention; together they
        hold all parameters.
    """
    calls: dict[tuple[str, ...], tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = {}

    def record(call: Callable, args: tuple, kwargs: Mapping, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path not in calls:
            input_shape, output_shape = (jax.tree.leaves(x)[0].shape for x in (args, out))
            calls[context.module.path] = (context.module, input_shape, output_shape)
        return out

    def init(key: jax.Array, images: jax.Array) -> Any:
        calls.clear()
        with nn.intercept_methods(record):
            return model.init(key, images, images)

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]

    layers = []
    for path, (module, input_shape, output_shape) in calls.items():
        subtree = params
        for part in path:
            subtree = subtree.get(part, {})
        shapes = [x.shape for x in subtree.values() if not isinstance(x, dict)]
        if shapes or isinstance(module, nn.MultiHeadDotProductAttention):
            layers.append(
                Layer(
                    name="/".join(path),
                    layer_type=type(module).__name__,
                    kernel=_kernel(module) if isinstance(module, nn.Conv) else (),
                    input_shape=input_shape[1:],
                    output_shape=output_shape[1:],
                    parameters=sum(math.prod(shape) for shape in shapes),
                    multiply_adds=_multiply_adds(module, subtree, input_shape, output_shape),
                )
            )
    return tuple(layers)


def first_kernel(table: Sequence[Layer], params: Mapping[str, Any]) -> jax.Array | None:
    """The kernel (h, w, C, filters) of a network's first convolution, or None if it has none.

    Args:
        table: of the network, see `layer_table`.
        params: of the network.
    """
    for layer in table:
        if layer.layer_type == "Conv":
            parameters: Any = params
            for part in layer.name.split("/"):
                parameters = parameters[part]
            return parameters["kernel"]
    return None


def _kernel(module: nn.Conv) -> tuple[int, ...]:
    size = module.kernel_size
    return (size,) if isinstance(size, int) else tuple(size)


def _multiply_adds(
    module: nn.Module,
    params: Mapping[str, Any],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> int:
    """Of one image (B = 1). A kernel is multiplied once for each place that it is applied to."""
    if isinstance(module, nn.Conv | nn.Dense | nn.DenseGeneral | DenseParams):
        features = (module.features,) if isinstance(module.features, int) else module.features
        places = math.prod(output_shape[1:]) // math.prod(features)
        return places * math.prod(params["kernel"].shape)
    if isinstance(module, nn.MultiHeadDotProductAttention):  # of the tokens with one another
        *others, tokens, width = input_shape[1:]
        return 2 * math.prod(others) * tokens**2 * (module.qkv_features or width)
    if isinstance(module, Comparator):
        return module.multiply_adds(input_shape[-1])
    return 0
