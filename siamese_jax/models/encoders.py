"""Encoders: from images to embeddings.

All modules are `flax.linen`: parameters live outside of them and every call is a pure function.
Parameter names are public (`conv1` .. `conv4`, `embedding`): optimiser rules and checkpoints depend on
them. A new encoder is a class here and a line in `ENCODERS`. Its constructor takes `dtype`, and if it
has batch statistics `axis_name`; if its embedding is a map of local features, it says so by `local`,
`units` and `places`. One that can be fine-tuned in stages has `frozen`, `num_stages` and `stage_of`, and
one that takes the weights of another library `read_state` (see `ResNetEncoder`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from siamese_jax.models import block_conv, fft_conv
from siamese_jax.models.batch_norm import BatchNorm
from siamese_jax.models.layers import at_least_float32, finish, max_pool2, normal_init
from siamese_jax.models.resnet import ResNetEncoder
from siamese_jax.models.vit import ViTEncoder

Dtype = Any

CONVOLUTIONS = ("direct", "fft", "blocks", "auto")


class KochEncoder(nn.Module):
    """The convolutional encoder of Koch et al. (2015), figure 4.

    Four valid convolutions with ReLU, 2x2 max-pools after the first three, and a dense sigmoid layer.
    With 105x105x1 images and the defaults: 38,947,648 parameters (38,951,745 with the l1 head).

    Attributes:
        filters: channels of the four convolutions.
        kernels: side of their square kernels, pixels.
        units: size of the embedding.
        conv_std: standard deviation of the convolution kernels, as published 0.01.
        dense_std: standard deviation of the dense kernel, as published 0.2.
        bias_mean: mean of every bias, as published 0.5 (standard deviation 0.01).
        convolution: how it is computed, one of `CONVOLUTIONS`: directly, in the frequency domain, by
            blocks of pixels, or (`auto`) each layer by what is fastest: on a CPU directly or in the
            frequency domain, on a GPU the first layer by blocks, else directly.
        dtype: compute type; parameters stay float32.
    """

    filters: Sequence[int] = (64, 128, 128, 256)
    kernels: Sequence[int] = (10, 7, 4, 4)
    units: int = 4096
    conv_std: float = 0.01
    dense_std: float = 0.2
    bias_mean: float = 0.5
    convolution: str = "direct"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "b h w c"], train: bool = False
    ) -> Float[Array, "b {self.units}"]:
        """Embeds images with pixels in [0, 1]; the embeddings lie in (0, 1)."""
        del train
        if self.convolution not in CONVOLUTIONS:
            raise ValueError(f"convolution must be one of {CONVOLUTIONS}, got {self.convolution!r}")
        if len(self.filters) != len(self.kernels):
            raise ValueError(
                f"filters and kernels must be equally many, got {self.filters} and {self.kernels}"
            )
        bias = normal_init(self.bias_mean, 0.01)
        images = jnp.asarray(images)
        x = images.astype(self.dtype)
        last = len(self.filters) - 1
        for i, (features, size) in enumerate(zip(self.filters, self.kernels, strict=True)):
            if min(x.shape[1:3]) < size:
                raise ValueError(
                    f"conv{i + 1} needs at least {size} x {size} pixels and gets "
                    f"{x.shape[1]} x {x.shape[2]} from images of {images.shape[1:3]}: "
                    "use larger images or smaller kernels"
                )
            x = nn.Conv(
                features,
                (size, size),
                padding="VALID",
                dtype=self.dtype,
                kernel_init=normal_init(0.0, self.conv_std),
                bias_init=bias,
                conv_general_dilated=functools.partial(_valid_convolution, self.convolution),
                name=f"conv{i + 1}",
            )(x)
            x = nn.relu(x)
            if i < last:
                x = max_pool2(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(
            self.units,
            dtype=self.dtype,
            kernel_init=normal_init(0.0, self.dense_std),
            bias_init=bias,
            name="embedding",
        )(x)
        return nn.sigmoid(at_least_float32(x))


def _valid_convolution(
    how: str, x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated` of stride 1, unpadded, computed in one of `CONVOLUTIONS`."""
    if how == "auto":
        how = _fastest(x.shape, kernel.shape)
    if how == "fft":
        return fft_conv.fft_conv(x, kernel)
    if how == "blocks":
        return block_conv.block_conv(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _fastest(x_shape: Sequence[int], kernel_shape: Sequence[int]) -> str:
    backend = jax.default_backend()
    if backend == "cpu" and fft_conv.best_tile(x_shape, kernel_shape)[1] > 1.5:
        return "fft"
    return "blocks" if backend == "gpu" and x_shape[-1] == 1 else "direct"


class ResidualEncoder(nn.Module):
    """A small residual encoder with a flattened spatial map.

    A strided stem, then one stage a width: `blocks` residual blocks, and a 2x2 max-pool after the
    first `pools` stages. The map is flattened, not averaged: where a stroke lies tells characters
    apart.

    Attributes:
        widths: channels of the stages.
        blocks: residual blocks a stage.
        stem: channels of the stem.
        stem_stride: stride of the stem, pixels.
        pools: stages that a pool follows; None for all but the last.
        units: size of the embedding; if `local`, features a place.
        local: whether every place of the map keeps features of its own, which the comparator `local`
            compares, instead of one dense layer on the whole map.
        output: what becomes of the normalised embedding (if `local`, of each place's), one of
            `layers.OUTPUTS`.
        dropout: rate on the flattened map, in training only.
        dtype: compute type; parameters, statistics and the embedding stay float32.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.
    """

    widths: Sequence[int] = (32, 64, 64, 128)
    blocks: int = 1
    stem: int = 32
    stem_stride: int = 2
    pools: int | None = None
    units: int = 512
    local: bool = False
    output: str = "unit"
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.nowrap
    def places(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the map that images of (H, W, C) pixels become."""
        shrink = 2**self.num_pools
        height, width = (-(-side // self.stem_stride) for side in image_shape[:2])
        return height // shrink, width // shrink

    @property
    def num_pools(self) -> int:
        """Number of max-pools."""
        most = len(self.widths) - 1
        return most if self.pools is None else min(self.pools, most)

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "b h w c"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Embeds images with pixels in [0, 1]; d = units, or rows x columns x units if `local`."""

        def norm(x: Array, name: str) -> Array:
            return _batch_norm(train, self.dtype, self.axis_name, name)(x)

        def conv(x: Array, features: int, size: int, name: str, stride: int = 1) -> Array:
            return nn.Conv(
                features,
                (size, size),
                strides=stride,
                padding="SAME",
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=name,
            )(x)

        if not self.widths:
            raise ValueError("widths is empty: give the channels of at least one stage")
        images = jnp.asarray(images)
        x = images.astype(self.dtype)
        x = conv(x, self.stem, 2 * self.stem_stride + 1, "stem", self.stem_stride)
        x = nn.relu(norm(x, "stem_norm"))
        for s, width in enumerate(self.widths):
            if 0 < s <= self.num_pools:
                x = max_pool2(x)
            for b in range(self.blocks):
                name = f"stage{s + 1}_block{b + 1}"
                skip = x if x.shape[-1] == width else conv(x, width, 1, f"{name}_skip")
                y = nn.relu(norm(conv(x, width, 3, f"{name}_conv1"), f"{name}_norm1"))
                y = norm(conv(y, width, 3, f"{name}_conv2"), f"{name}_norm2")
                x = nn.relu(skip + y)
        if min(x.shape[1:3]) < 1:
            raise ValueError(
                f"{len(self.widths)} stages leave nothing of images of {images.shape[1:3]}: "
                "use larger images or fewer widths"
            )
        x = x if self.local else x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.units, use_bias=False, dtype=self.dtype, name="embedding")(x)
        x = finish(norm(x, "embedding_norm"), self.output)
        return x.reshape(x.shape[0], -1)


class SmallEncoder(nn.Module):
    """Two 5x5 convolutions with ReLU and 2x2 max-pools, then three dense layers.

    The network that the tutorials on the contrastive loss train, on digits and on faces.

    Attributes:
        filters: channels of the two convolutions.
        hidden: units of the dense layers with ReLU.
        units: size of the embedding; if `local`, features a place.
        local: whether every place of the map keeps features of its own, which the comparator `local`
            compares: the second pool is left out, and the dense layers are those of each place.
        normalise: whether the embedding goes through a batch normalisation.
        output: what becomes of the embedding then (if `local`, of each place's), one of
            `layers.OUTPUTS`.
        dropout: rate on the map, in training only.
        dtype: compute type; parameters and the embedding stay float32.
        axis_name: as in `ResidualEncoder`.

    References:
        Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping. The
        channels and the padding are our choice.
    """

    filters: Sequence[int] = (32, 64)
    hidden: Sequence[int] = (256, 256)
    units: int = 128
    local: bool = False
    normalise: bool = False
    output: str = "linear"
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.nowrap
    def places(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the map that images of (H, W, C) pixels become if `local`."""
        shrink = 2 ** (len(self.filters) - 1)
        return image_shape[0] // shrink, image_shape[1] // shrink

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "b h w c"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Embeds images with pixels in [0, 1]; d = units, or rows x columns x units if `local`."""
        images = jnp.asarray(images)
        x = images.astype(self.dtype)
        for i, features in enumerate(self.filters):
            x = nn.relu(nn.Conv(features, (5, 5), dtype=self.dtype, name=f"conv{i + 1}")(x))
            if not (self.local and i == len(self.filters) - 1):
                x = max_pool2(x)
        if min(x.shape[1:3]) < 1:
            raise ValueError(f"the pools leave nothing of images of {images.shape[1:3]} pixels")
        x = x if self.local else x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i, features in enumerate(self.hidden):
            x = nn.relu(nn.Dense(features, dtype=self.dtype, name=f"dense{i + 1}")(x))
        x = nn.Dense(self.units, dtype=self.dtype, name="embedding")(x)
        if self.normalise:
            x = _batch_norm(train, self.dtype, self.axis_name, "embedding_norm")(x)
        x = finish(x, self.output)
        return x.reshape(x.shape[0], -1)


class DenseEncoder(nn.Module):
    """A fully connected encoder of flattened images, or of vectors.

    Attributes:
        hidden: units of the layers with ReLU before the last.
        units: size of the embedding.
        normalise: whether the embedding goes through a batch normalisation.
        output: what becomes of the embedding then, one of `layers.OUTPUTS`.
        dropout: rate on the hidden layers, in training only.
        std: standard deviation of every initial kernel; None for He's, by the inputs of a layer.
        bias_mean: mean of the initial biases (standard deviation 0.01); None for zeros.
        dtype: compute type; parameters and the embedding stay float32.
        axis_name: as in `ResidualEncoder`.
    """

    hidden: Sequence[int] = (256,)
    units: int = 128
    normalise: bool = False
    output: str = "linear"
    dropout: float = 0.0
    std: float | None = None
    bias_mean: float | None = None
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "b h w c"], train: bool = False
    ) -> Float[Array, "b {self.units}"]:
        """Embeds images of any range, or vectors, which are images of one row."""
        kernel = nn.initializers.he_normal() if self.std is None else normal_init(0.0, self.std)
        bias = nn.initializers.zeros
        if self.bias_mean is not None:
            bias = normal_init(self.bias_mean, 0.01)
        images = jnp.asarray(images)
        x = images.astype(self.dtype).reshape(images.shape[0], -1)
        for i, features in enumerate((*self.hidden, self.units)):
            last = i == len(self.hidden)
            x = nn.Dense(
                features,
                dtype=self.dtype,
                kernel_init=kernel,
                bias_init=bias,
                name="embedding" if last else f"dense{i + 1}",
            )(x)
            if not last:
                x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        if self.normalise:
            x = _batch_norm(train, self.dtype, self.axis_name, "embedding_norm")(x)
        return finish(x, self.output)


ENCODERS: dict[str, type[nn.Module]] = {
    "koch": KochEncoder,
    "residual": ResidualEncoder,
    "small": SmallEncoder,
    "dense": DenseEncoder,
    "resnet": ResNetEncoder,
    "vit": ViTEncoder,
}


def _batch_norm(train: bool, dtype: Dtype, axis_name: str | None, name: str) -> BatchNorm:
    return BatchNorm(use_running_average=not train, dtype=dtype, axis_name=axis_name, name=name)
