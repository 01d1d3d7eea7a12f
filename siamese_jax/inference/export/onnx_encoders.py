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
from siamese_jax.models.encoders import DenseEncoder, KochEncoder, ResidualEncoder, SmallEncoder
from siamese_jax.models.layers import ROUNDING_NUDGE
from siamese_jax.models.resnet import ResNetEncoder
from siamese_jax.models.vit import ViTEncoder


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

    def part(self, name: str) -> Layers:
        """The layers of a part of the encoder."""
        return Layers(self.graph, self._params[name], self._statistics.get(name, {}))

    def has(self, name: str) -> bool:
        """Whether the encoder has a layer of this name."""
        return name in self._params

    def array(self, name: str) -> np.ndarray:
        """A parameter that no layer has."""
        return np.asarray(self._params[name])

    def conv(self, x: str, name: str, stride: int = 1, padding: str | int = "SAME_UPPER") -> str:
        """A convolution of (B, C, H, W), padded as ONNX names it or by so many pixels on each side."""
        layer = self._params[name]
        kernel = np.transpose(layer["kernel"], (3, 2, 0, 1))
        bias = [layer["bias"]] if "bias" in layer else []
        return self.graph.add(
            "Conv",
            x,
            *map(self.graph.constant, [kernel, *bias]),
            **({"auto_pad": padding} if isinstance(padding, str) else {"pads": [padding] * 4}),
            strides=[stride, stride],
        )

    def dense(self, x: str, name: str) -> str:
        """A dense layer of (B, D)."""
        layer = self._params[name]
        bias = [layer["bias"]] if "bias" in layer else []
        return self.graph.add("Gemm", x, *map(self.graph.constant, [layer["kernel"], *bias]))

    def dense_tokens(self, x: str, name: str) -> str:
        """A dense layer of (B, N, D)."""
        kernel, bias = (self.graph.constant(self._params[name][k]) for k in ("kernel", "bias"))
        return self.graph.add("Add", self.graph.add("MatMul", x, kernel), bias)

    def layer_norm(self, x: str, name: str) -> str:
        """A layer normalisation of the last axis."""
        layer = self._params[name]
        arrays = map(self.graph.constant, (layer["scale"], layer["bias"]))
        return self.graph.add("LayerNormalization", x, *arrays, axis=-1, epsilon=1e-6)

    def standardise(self, x: str, encoder: nn.Module, image_shape: Sequence[int]) -> str:
        """(B, H, W, C) pixels as `models.layers.standardise` gives them."""
        if image_shape[2] == 1 and len(encoder.pixel_mean) > 1:
            x = self.graph.add("Concat", *[x] * len(encoder.pixel_mean), axis=3)
        mean, std = map(self.graph.constant, (encoder.pixel_mean, encoder.pixel_std))
        return self.graph.add("Div", self.graph.add("Sub", x, mean), std)

    def centre_ink(self, x: str, image_shape: Sequence[int]) -> str:
        """(B, H, W, C) ink as `models.layers.centre_ink` moves it."""
        mass = self._sum(x, 3)  # (B, H, W)
        rows = self._picks(self._sum(mass, 2), image_shape[0])  # (B, H, H)
        columns = self._picks(self._sum(mass, 1), image_shape[1])  # (B, W, W)
        columns = self.graph.add("Transpose", columns, perm=[0, 2, 1])
        rows, columns = (
            self.graph.add("Unsqueeze", picks, self.graph.constant([1]))
            for picks in (rows, columns)
        )
        x = self.graph.add(
            "MatMul", self.graph.add("MatMul", rows, self.channels_first(x)), columns
        )
        return self.channels_last(x)

    def _picks(self, profile: str, size: int) -> str:
        """(B, N) ink along an axis -> (B, N, N), for each place 1 at the one whose ink moves there."""
        offsets = np.arange(size) - (size - 1) / 2
        moment = self._sum(self.graph.add("Mul", profile, self.graph.constant(offsets)), 1, True)
        total = self._sum(profile, 1, True)
        # no ink has no moment either, and ink is at least one grey level of 255
        total = self.graph.add("Max", total, self.graph.constant(1e-6))
        way = self.graph.add("Div", moment, total)
        way = self.graph.add("Add", way, self.graph.constant(ROUNDING_NUDGE))
        way = self.graph.add("Round", way)
        way = self.graph.add("Unsqueeze", way, self.graph.constant([2]))
        places = np.arange(size, dtype=np.float32)
        ahead = self.graph.constant(places - places[:, None])
        return self.graph.cast(self.graph.add("Equal", way, ahead), np.float32)

    def _sum(self, x: str, axis: int, keepdims: bool = False) -> str:
        axes = self.graph.constant([axis])
        return self.graph.add("ReduceSum", x, axes, keepdims=int(keepdims))

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
        """What becomes of an embedding (B, D), one of `layers.OUTPUTS`."""
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
    x = layers.conv(layers.channels_first(x), "stem", encoder.stem_stride)
    x = layers.relu(layers.batch_norm(x, "stem_norm"))
    channels = encoder.stem
    for s, width in enumerate(encoder.widths):
        if 0 < s <= encoder.num_pools:
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


def resnet(layers: Layers, encoder: nn.Module, x: str, image_shape: Sequence[int]) -> str:
    """The graph of a `ResNetEncoder`."""
    graph = layers.graph
    x = layers.channels_first(layers.standardise(x, encoder, image_shape))
    stride, padding = (1, 1) if encoder.small_inputs else (2, 3)
    x = layers.relu(layers.batch_norm(layers.conv(x, "conv1", stride, padding), "bn1"))
    if not encoder.small_inputs:
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    sizes = (1, 3, 1) if encoder.bottleneck else (3, 3)
    for s, blocks in enumerate(encoder.stages, 1):
        for b in range(blocks):
            block, skip = layers.part(f"layer{s}_{b}"), x
            stride = 2 if s > 1 and b == 0 else 1
            for i, size in enumerate(sizes, 1):
                x = block.conv(x, f"conv{i}", stride if i == 1 + sizes.index(3) else 1, size // 2)
                x = block.batch_norm(x, f"bn{i}")
                x = x if i == len(sizes) else layers.relu(x)
            if block.has("downsample_conv"):
                skip = block.conv(skip, "downsample_conv", stride, 0)
                skip = block.batch_norm(skip, "downsample_bn")
            x = layers.relu(graph.add("Add", skip, x))
    x = layers.flat(graph.add("GlobalAveragePool", x))
    x = layers.dense(x, "embedding") if encoder.project else x
    return layers.finish(x, encoder.output)


def vit(layers: Layers, encoder: nn.Module, x: str, image_shape: Sequence[int]) -> str:
    """The graph of a `ViTEncoder`."""
    graph = layers.graph
    x = layers.channels_first(layers.standardise(x, encoder, image_shape))
    x = layers.channels_last(layers.conv(x, "patch_embed", encoder.patch, "VALID"))
    x = graph.add("Reshape", x, graph.constant([0, -1, encoder.width]))
    batch = graph.add("Slice", graph.add("Shape", x), *map(graph.constant, ([0], [1])))
    shape = graph.add("Concat", batch, graph.constant([1, encoder.width]), axis=0)
    token = graph.add("Expand", graph.constant(layers.array("cls_token")), shape)
    x = graph.add("Concat", token, x, axis=1)
    x = graph.add("Add", x, graph.constant(layers.array("pos_embed")))
    for number in range(1, encoder.depth + 1):
        block = layers.part(f"block{number}")
        x = graph.add("Add", x, _attention(block, encoder, block.layer_norm(x, "norm1")))
        y = block.dense_tokens(block.layer_norm(x, "norm2"), "fc1")
        x = graph.add("Add", x, block.dense_tokens(_gelu(graph, y), "fc2"))
    x = graph.add("Gather", layers.layer_norm(x, "norm"), graph.constant(0), axis=1)
    x = layers.dense(x, "embedding") if encoder.project else x
    return layers.finish(x, encoder.output)


def _attention(block: Layers, encoder: nn.Module, x: str) -> str:
    """Self-attention of tokens (B, N, D)."""
    graph, layers, size = block.graph, block.part("attn"), encoder.width // encoder.heads

    def heads(name: str) -> str:
        part = layers.part(name)
        kernel = graph.constant(part.array("kernel").reshape(encoder.width, -1))
        y = graph.add("MatMul", x, kernel)
        y = graph.add("Add", y, graph.constant(part.array("bias").reshape(-1)))
        y = graph.add("Reshape", y, graph.constant([0, 0, encoder.heads, size]))
        return graph.add("Transpose", y, perm=[0, 2, 1, 3])

    keys = graph.add("Transpose", heads("key"), perm=[0, 1, 3, 2])
    logits = graph.add("MatMul", heads("query"), keys)
    weights = graph.add("Softmax", graph.add("Div", logits, graph.constant(size**0.5)), axis=-1)
    y = graph.add("MatMul", weights, heads("value"))
    y = graph.add("Transpose", y, perm=[0, 2, 1, 3])
    y = graph.add("Reshape", y, graph.constant([0, 0, encoder.width]))
    out = layers.part("out")
    y = graph.add("MatMul", y, graph.constant(out.array("kernel").reshape(-1, encoder.width)))
    return graph.add("Add", y, graph.constant(out.array("bias")))


def _gelu(graph: Graph, x: str) -> str:
    """The Gaussian error linear unit, exactly."""
    error = graph.add("Erf", graph.add("Div", x, graph.constant(2**0.5)))
    half = graph.add("Mul", x, graph.constant(0.5))
    return graph.add("Mul", half, graph.add("Add", error, graph.constant(1.0)))


# From the class of an encoder to its graph: (layers, encoder, images (B, H, W, C), (H, W, C)) -> (B, D).
ENCODER_GRAPHS: dict[type[nn.Module], Callable[[Layers, nn.Module, str, Sequence[int]], str]] = {
    KochEncoder: koch,
    ResidualEncoder: residual,
    SmallEncoder: small,
    DenseEncoder: dense,
    ResNetEncoder: resnet,
    ViTEncoder: vit,
}
