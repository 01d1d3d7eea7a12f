"""Encoders and the siamese network that compares their embeddings.

All modules are `flax.linen`: parameters live outside of them and every call is a pure function.
Parameter names are public (`conv1` .. `conv4`, `embedding`, `head`): optimiser rules and checkpoints
depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any

ENCODERS = ("koch", "residual")
COMPARATORS = ("l1", "cosine")
DTYPES = ("float32", "bfloat16", "float64")


def normal_init(mean: float, std: float):
    """Initialiser N(mean, std), std a standard deviation (Koch et al. 2015, section 3.2)."""

    def init(key, shape, dtype=jnp.float32):
        return mean + std * jax.random.normal(key, shape, dtype)

    return init


def max_pool2(x: jax.Array) -> jax.Array:
    """2x2 max-pool, stride 2; an odd last row or column is dropped.

    Three selections, whose gradient is a mask: several times faster on a CPU than the
    select-and-scatter of `nn.max_pool`. Of equal entries the first takes the gradient. That of `max`
    would go to the entries equal to the maximum, and be lost where a compiler computes an entry anew
    with another rounding.

    Args:
        x: (B, H, W, C).

    Returns:
        (B, H // 2, W // 2, C).
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    upper = _larger(x[:, :, 0, :, 0], x[:, :, 0, :, 1])
    lower = _larger(x[:, :, 1, :, 0], x[:, :, 1, :, 1])
    return _larger(upper, lower)


def _larger(a, b):
    return jnp.where((a >= b) | jnp.isnan(a), a, b)  # a NaN stays one


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
        dtype: compute type; parameters stay float32.
    """

    filters: Sequence[int] = (64, 128, 128, 256)
    kernels: Sequence[int] = (10, 7, 4, 4)
    units: int = 4096
    conv_std: float = 0.01
    dense_std: float = 0.2
    bias_mean: float = 0.5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds images: (B, H, W, C) float in [0, 1] -> (B, units) in (0, 1)."""
        del train
        bias = normal_init(self.bias_mean, 0.01)
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
        return nn.sigmoid(_at_least_float32(x))


class ResidualEncoder(nn.Module):
    """A small residual encoder with a flattened spatial map and a unit-length embedding.

    A strided stem, then one stage a width: `blocks` residual blocks and a 2x2 max-pool (none after
    the last). The map is flattened, not averaged: where a stroke lies tells characters apart.

    Attributes:
        widths: channels of the stages.
        blocks: residual blocks a stage.
        stem: channels of the stem.
        stem_stride: stride of the stem, pixels.
        units: size of the embedding.
        dropout: rate on the flattened map, in training only.
        dtype: compute type; parameters, statistics and the embedding stay float32.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.
    """

    widths: Sequence[int] = (32, 64, 64, 128)
    blocks: int = 1
    stem: int = 32
    stem_stride: int = 2
    units: int = 512
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds images: (B, H, W, C) float in [0, 1] -> (B, units) of length 1."""

        def norm(x, name):
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=name,
            )(x)

        def conv(x, features, size, name, stride=1):
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

        x = images.astype(self.dtype)
        x = conv(x, self.stem, 2 * self.stem_stride + 1, "stem", self.stem_stride)
        x = nn.relu(norm(x, "stem_norm"))
        for s, width in enumerate(self.widths):
            if s:
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
        x = x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.units, use_bias=False, dtype=self.dtype, name="embedding")(x)
        return unit(_at_least_float32(norm(x, "embedding_norm")))


class Comparator(nn.Module):
    """Turns two embeddings into a logit of "same class"; symmetric in the two.

    Attributes:
        kind: `l1`, the weighted L1 head of Koch et al. (2015): `sum_j alpha_j |h1_j - h2_j| + bias`;
            `cosine`: `scale * cos(h1, h2) + bias`, scale and bias learned.
        scale: initial scale of the cosine.
        kernel_std: standard deviation of the initial alpha of `l1`, as published 0.2.
        bias_mean: mean of the initial bias of `l1`, as published 0.5 (standard deviation 0.01).
    """

    kind: str = "l1"
    scale: float = 10.0
    kernel_std: float = 0.2
    bias_mean: float = 0.5

    @nn.compact
    def __call__(self, h1: jax.Array, h2: jax.Array, all_pairs: bool = False) -> jax.Array:
        """Compares embeddings pair by pair, or all with all.

        Args:
            h1: (..., Q, D).
            h2: (..., S, D); S = Q unless `all_pairs`.
            all_pairs: whether every h1 meets every h2 of its leading index.

        Returns:
            (..., Q) logits, or (..., Q, S) for all pairs.
        """
        if self.kind == "l1":
            kernel = self.param("kernel", normal_init(0.0, self.kernel_std), (h1.shape[-1],))
            bias = self.param("bias", normal_init(self.bias_mean, 0.01), ())
            if all_pairs:
                h1, h2 = h1[..., :, None, :], h2[..., None, :, :]
            return jnp.einsum("...d,d->...", jnp.abs(h1 - h2), kernel) + bias
        if self.kind == "cosine":
            scale = self.param("scale", nn.initializers.constant(self.scale), ())
            bias = self.param("bias", nn.initializers.zeros, ())
            h1, h2 = unit(h1), unit(h2)
            if all_pairs:
                return scale * jnp.einsum("...qd,...sd->...qs", h1, h2) + bias
            return scale * jnp.sum(h1 * h2, -1) + bias
        raise ValueError(f"comparator must be one of {COMPARATORS}, got {self.kind!r}")


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit(h: jax.Array) -> jax.Array:
    """Scales (..., D) embeddings to length 1; the gradient stays finite at zero."""
    return h * jax.lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + 1e-12)


class SiameseNet(nn.Module):
    """Twin encoders with shared weights and the comparator of their embeddings.

    Attributes:
        encoder: module from images to embeddings.
        head: the comparator.
    """

    encoder: nn.Module
    head: Comparator

    def __call__(self, images1: jax.Array, images2: jax.Array, train: bool = False) -> jax.Array:
        """Logits of "same class" of image pairs.

        Args:
            images1: (B, H, W, C) float in [0, 1].
            images2: (B, H, W, C).
            train: whether batch statistics and dropout are in training mode.

        Returns:
            (B,) logits. Both twins go through the encoder in one pass.
        """
        both = self.embed(jnp.concatenate([images1, images2]), train)
        return self.compare(*jnp.split(both, 2))

    def embed(self, images: jax.Array, train: bool = False) -> jax.Array:
        """(B, H, W, C) float in [0, 1] -> (B, D) embeddings."""
        return self.encoder(images, train)

    def compare(self, h1: jax.Array, h2: jax.Array) -> jax.Array:
        """(..., D) and (..., D) -> (...) logits of "same class"."""
        return self.head(h1, h2)

    def compare_all(self, h1: jax.Array, h2: jax.Array) -> jax.Array:
        """(..., Q, D) and (..., S, D) -> (..., Q, S) logits, every first against every second."""
        return self.head(h1, h2, all_pairs=True)


def build(fields: Mapping, axis_name: str | None = None) -> SiameseNet:
    """The network that a config's `model` section describes.

    Args:
        fields: `encoder` (one of `ENCODERS`), `comparator` (one of `COMPARATORS`), `dtype` (one of
            `DTYPES`), and under `encoder_args` and `head_args` the attributes of the chosen classes.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.

    Raises:
        ValueError: an unknown encoder, comparator or dtype, or an attribute that they do not have.
    """
    for field, known in (("encoder", ENCODERS), ("comparator", COMPARATORS), ("dtype", DTYPES)):
        if fields[field] not in known:
            raise ValueError(f"model.{field} must be one of {known}, got {fields[field]!r}")
    name = fields["encoder"]
    args = dict(fields["encoder_args"])
    args["dtype"] = jnp.dtype(fields["dtype"])
    if name == "residual":
        args["axis_name"] = axis_name
    encoder = {"koch": KochEncoder, "residual": ResidualEncoder}[name]
    try:
        return SiameseNet(
            encoder(**args), Comparator(kind=fields["comparator"], **dict(fields["head_args"]))
        )
    except TypeError as error:
        raise ValueError(f"model.encoder_args or head_args do not fit {name}: {error}") from None
