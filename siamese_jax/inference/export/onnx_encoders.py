"""The built-in encoders as ONNX graphs.

Convolutions are NCHW, as ONNX has them. A map is brought back to NHWC before it is flattened, so that
the dense layers keep their parameters. All is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import numpy as np

from siamese_jax.inference.export.onnx_graph import Graph
from siamese_jax.models.batch_norm import BatchNorm


class Layers:
    """Adds layers with the parameters of a trained encoder to a graph.

    Args:
        graph: that they are added to.
        params: of the encoder.
        statistics: of its batch normalisations.
    """

    def __init__(self, graph: Graph, params: Mapping, statistics: Mapping):
        self.graph = graph
        self._params = params
        self._statistics = statistics

    def conv(self, x: str, name: str, stride: int = 1, padding: str = "SAME_UPPER") -> str:
        """A convolution of (B, C, H, W)."""
        layer = self._params[name]
        kernel = np.transpose(layer["kernel"], (3, 2, 0, 1))
        bias = [layer["bias"]] if "bias" in layer else []
        return self.graph.add(
            "Conv",
            x,
            *map(self.graph.constant, [kernel, *bias]),
            auto_pad=padding,
            strides=[stride, stride],
        )

    def dense(self, x: str, name: str) -> str:
        """A dense layer of (B, D)."""
        layer = self._params[name]
        bias = [layer["bias"]] if "bias" in layer else []
        return self.graph.add("Gemm", x, *map(self.graph.constant, [layer["kernel"], *bias]))

    def batch_norm(self, x: str, name: str) -> str:
        """A batch normalisation of (B, C) or (B, C, H, W) by its running statistics."""
        layer, statistics = self._params[name], self._statistics[name]
        arrays = (layer["scale"], layer["bias"], statistics["mean"], statistics["var"])
        return self.graph.add(
            "BatchNormalization",
            x,
            *map(self.graph.constant, arrays),
            epsilon=BatchNorm.epsilon,
        )

    def relu(self, x: str) -> str:
        """The positive part."""
        return self.graph.add("Relu", x)

    def max_pool2(self, x: str) -> str:
        """2x2 max-pool, stride 2; an odd last row or column is dropped."""
        return self.graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def channels_first(self, x: str) -> str:
        """(B, H, W, C) -> (B, C, H, W)."""
        return self.graph.add("Transpose", x, perm=[0, 3, 1, 2])

    def channels_last(self, x: str) -> str:
        """(B, C, H, W) -> (B, H, W, C)."""
        return self.graph.add("Transpose", x, perm=[0, 2, 3, 1])

    def rows(self, x: str, size: int) -> str:
        """(...) -> (N, size)."""
        return self.graph.add("Reshape", x, self.graph.constant([-1, size]))

    def flat(self, x: str) -> str:
        """(B, ...) -> (B, D)."""
        return self.graph.add("Flatten", x, axis=1)

    def finish(self, x: str, output: str) -> str:
        """What becomes of an embedding (B, D), one of `encoders.OUTPUTS`."""
        return {
            "unit": lambda: unit(self.graph, x),
            "sigmoid": lambda: self.graph.add("Sigmoid", x),
            "linear": lambda: x,
        }[output]()


def unit(graph: Graph, x: str) -> str:
    """Scales the last axis to length 1, as `models.distances.unit`."""
    squares = graph.add("ReduceSum", graph.add("Mul", x, x), graph.constant([-1]), keepdims=1)
    length = graph.add("Sqrt", graph.add("Add", squares, graph.constant(1e-12)))
    return graph.add("Div", x, length)


def koch(layers: Layers, encoder: nn.Module, x: str, image_shape: Sequence[int]) -> str:
    """The graph of a `KochEncoder`."""
    del image_shape
    x = layers.channels_first(x)
    last = len(encoder.filters) - 1
    for i in range(len(encoder.filters)):
        x = layers.relu(layers.conv(x, f"conv{i + 1}", padding="VALID"))
        if i < last:
            x = layers.max_pool2(x)
    x = layers.dense(layers.flat(layers.channels_last(x)), "embedding")
    return layers.graph.add("Sigmoid", x)


def residual(layers: Layers, encoder: nn.Module, x: str, image_shape: Sequence[int]) -> str:
    """The graph of a `ResidualEncoder`."""
    rows, columns = encoder.places(image_shape)
    num_pools = len(encoder.widths) - 1
    if encoder.pools is not None:
        num_pools = min(encoder.pools, num_pools)
    x = layers.conv(layers.channels_first(x), "stem", encoder.stem_stride)
    x = layers.relu(layers.batch_norm(x, "stem_norm"))
    channels = encoder.stem
    for s, width in enumerate(encoder.widths):
        if 0 < s <= num_pools:
            x = layers.max_pool2(x)
        for b in range(encoder.blocks):
            name = f"stage{s + 1}_block{b + 1}"
            skip = x if channels == width else layers.conv(x, f"{name}_skip")
            y = layers.conv(x, f"{name}_conv1")
            y = layers.relu(layers.batch_norm(y, f"{name}_norm1"))
            y = layers.batch_norm(layers.conv(y, f"{name}_conv2"), f"{name}_norm2")
            x = layers.relu(layers.graph.add("Add", skip, y))
            channels = width
    x = layers.channels_last(x)
    x = layers.rows(x, channels if encoder.local else rows * columns * channels)
    x = layers.batch_norm(layers.dense(x, "embedding"), "embedding_norm")
    x = layers.finish(x, encoder.output)
    return layers.rows(x, rows * columns * encoder.units) if encoder.local else x


def small(layers: Layers, encoder: nn.Module, x: str, image_shape: Sequence[int]) -> str:
    """The graph of a `SmallEncoder`."""
    x = layers.channels_first(x)
    last = len(encoder.filters) - 1
    for i in range(len(encoder.filters)):
        x = layers.relu(layers.conv(x, f"conv{i + 1}"))
        if not (encoder.local and i == last):
            x = layers.max_pool2(x)
    x = layers.channels_last(x)
    x = layers.rows(x, encoder.filters[-1]) if encoder.local else layers.flat(x)
    x = _dense_layers(layers, encoder, x)
    if not encoder.local:
        return x
    rows, columns = encoder.places(image_shape)
    return layers.rows(x, rows * columns * encoder.units)


def dense(layers: Layers, encoder: nn.Module, x: str, image_shape: Sequence[int]) -> str:
    """The graph of a `DenseEncoder`."""
    del image_shape
    return _dense_layers(layers, encoder, layers.flat(x))


def _dense_layers(layers: Layers, encoder: nn.Module, x: str) -> str:
    for i in range(len(encoder.hidden)):
        x = layers.relu(layers.dense(x, f"dense{i + 1}"))
    x = layers.dense(x, "embedding")
    if encoder.normalise:
        x = layers.batch_norm(x, "embedding_norm")
    return layers.finish(x, encoder.output)


# From the class of an encoder to its graph: (layers, encoder, images (B, H, W, C), (H, W, C)) -> (B, D).
ENCODER_GRAPHS: dict[str, Callable[[Layers, nn.Module, str, Sequence[int]], str]] = {
    "KochEncoder": koch,
    "ResidualEncoder": residual,
    "SmallEncoder": small,
    "DenseEncoder": dense,
}
