"""Residual networks for photos, whose weights can be those of torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from siamese_jax.models.batch_norm import BatchNorm
from siamese_jax.models.layers import after_stage, check_frozen, finish, standardise

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, around a skip connection.

    Attributes:
        features: channels; a bottleneck gives four times as many.
        stride: of the first 3x3 convolution, pixels.
        bottleneck: which of the two it is.
        fixed: whether its normalisations keep their running statistics in training too.
        dtype: compute type.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.
    """

    features: int
    stride: int
    bottleneck: bool
    fixed: bool
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        """The next map of features."""

        def conv_norm(
            x: Array, features: int, size: int, stride: int, conv: str, norm: str
        ) -> Array:
            x = convolution(features, size, stride, self.dtype, conv)(x)
            fixed = not train or self.fixed
            return BatchNorm(fixed, dtype=self.dtype, axis_name=self.axis_name, name=norm)(x)

        sizes: tuple[int, ...] = (1, 3, 1) if self.bottleneck else (3, 3)
        out = 4 * self.features if self.bottleneck else self.features
        strided = sizes.index(3)
        skip, last = x, len(sizes) - 1
        for i, size in enumerate(sizes):
            features = out if i == last else self.features
            stride = self.stride if i == strided else 1
            x = conv_norm(x, features, size, stride, f"conv{i + 1}", f"bn{i + 1}")
            x = x if i == last else nn.relu(x)
        if skip.shape != x.shape:
            skip = conv_norm(skip, out, 1, self.stride, "downsample_conv", "downsample_bn")
        return nn.relu(skip + x)


def convolution(features: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    """A square convolution without a bias, padded alike on all sides as PyTorch pads."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=[(size // 2, size // 2)] * 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=_init,
        name=name,
    )


class ResNetEncoder(nn.Module):
    """A residual network as torchvision builds it, without its classifier.

    The defaults are ResNet-18, with 11,176,512 parameters before the embedding. ResNet-50 has the
    stages (3, 4, 6, 3) of bottlenecks. Stage 0 is the stem, then come the four stages of blocks,
    and the last stage is the embedding.

    Attributes:
        stages: residual blocks of each stage.
        bottleneck: whether the blocks are bottlenecks.
        width: channels of the first stage, doubled from stage to stage.
        small_inputs: whether the stem is a 3x3 convolution without stride and pool, for pictures of
            some 32 pixels; otherwise it is 7x7 with stride 2 and a 3x3 max-pool of stride 2.
        project: whether the mean features go through a dense layer, `embedding`.
        units: its size.
        output: what becomes of the embedding, one of `layers.OUTPUTS`.
        dropout: rate on the mean features, in training only.
        frozen: first stages that are not trained: their normalisations keep their running statistics,
            and no gradient reaches them.
        pixel_mean: of the channels of a picture in [0, 1], see `layers.standardise`; ImageNet's, as the
            weights of torchvision expect, unless set.
        pixel_std: their standard deviations.
        dtype: compute type; parameters, statistics and the embedding stay float32.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.

    References:
        He et al. (2016), Deep residual learning for image recognition; the stride of a bottleneck is
        that of its 3x3 convolution, as in torchvision.
    """

    stages: Sequence[int] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    small_inputs: bool = False
    project: bool = True
    units: int = 256
    output: str = "unit"
    dropout: float = 0.0
    frozen: int = 0
    pixel_mean: Sequence[float] = IMAGENET_MEAN
    pixel_std: Sequence[float] = IMAGENET_STD
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @property
    def num_stages(self) -> int:
        """Number of the last stage, which is the embedding's."""
        return len(self.stages) + 1

    @nn.nowrap
    def stage_of(self, path: str) -> int:
        """The stage of a parameter by its path in the encoder, such as `layer1_0/conv1/kernel`."""
        match = re.match(r"layer(\d+)_", path)
        if match:
            return int(match[1])
        return self.num_stages if path.startswith("embedding/") else 0

    @nn.nowrap
    def read_state(
        self, state: Mapping[str, np.ndarray], image_shape: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """The variables of a state dict of torchvision's `resnet18`, `resnet50` and the like.

        Args:
            state: arrays by the names of torchvision, such as `layer1.0.conv1.weight`. The classifier
                (`fc`) and the counts of batches are left out.
            image_shape: of the network, which makes no difference here.

        Returns:
            Arrays by their paths, such as `params/layer1_0/conv1/kernel`.
        """
        del image_shape
        arrays = {}
        for name, x in state.items():
            if name.startswith("fc.") or name.endswith("num_batches_tracked"):
                continue
            name = re.sub(r"^(layer\d+)\.(\d+)\.", r"\1_\2/", name)
            name = name.replace("downsample.0", "downsample_conv")
            name = name.replace("downsample.1", "downsample_bn")
            module, _, leaf = name.rpartition(".")
            if x.ndim == 4:  # output, input, height, width
                arrays[f"params/{module}/kernel"] = x.transpose(2, 3, 1, 0)
                continue
            kind, leaf = {
                "weight": ("params", "scale"),
                "bias": ("params", "bias"),
                "running_mean": ("batch_stats", "mean"),
                "running_var": ("batch_stats", "var"),
            }.get(leaf, ("params", leaf))
            arrays[f"{kind}/{module}/{leaf}"] = x
        return arrays

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "b h w c"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Embeds images with pixels in [0, 1]; d = units, or that of the features."""
        check_frozen(self)
        x = standardise(jnp.asarray(images), self.pixel_mean, self.pixel_std).astype(self.dtype)
        stem = (3, 1) if self.small_inputs else (7, 2)
        x = convolution(self.width, *stem, self.dtype, "conv1")(x)
        fixed = not train or self.frozen > 0
        x = nn.relu(BatchNorm(fixed, dtype=self.dtype, axis_name=self.axis_name, name="bn1")(x))
        if not self.small_inputs:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        x = after_stage(x, 0, self.frozen)
        for s, blocks in enumerate(self.stages, 1):
            for b in range(blocks):
                x = ResNetBlock(
                    self.width * 2 ** (s - 1),
                    2 if s > 1 and b == 0 else 1,
                    self.bottleneck,
                    s < self.frozen,
                    self.dtype,
                    self.axis_name,
                    name=f"layer{s}_{b}",
                )(x, train)
            x = after_stage(x, s, self.frozen)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
        if self.project:
            x = nn.Dense(self.units, dtype=self.dtype, name="embedding")(x)
        return finish(x, self.output)
