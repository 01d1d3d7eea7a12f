"""Encoders and the siamese network that compares their embeddings.

All modules are `flax.linen`: parameters live outside of them and every call is a pure function.
Parameter names are public (`conv1` .. `conv4`, `embedding`, `head`): optimiser rules and checkpoints
depend on them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from siamese_jax import fftconv, losses

Dtype = Any

ENCODERS = ("koch", "residual", "small", "dense")
COMPARATORS = ("l1", "l2", "euclidean", "squared_euclidean", "cosine", "bilinear", "local")
DISTANCES = ("euclidean", "squared_euclidean", "local")  # comparators that fall with a distance
CONVOLUTIONS = ("direct", "fft", "auto")
OUTPUTS = ("linear", "sigmoid", "unit")
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
        convolution: how it is computed, one of `CONVOLUTIONS`: directly, in the frequency domain, or
            by the faster of the two, which off a CPU is the direct one.
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
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds images: (B, H, W, C) float in [0, 1] -> (B, units) in (0, 1)."""
        del train
        if self.convolution not in CONVOLUTIONS:
            raise ValueError(f"convolution must be one of {CONVOLUTIONS}, got {self.convolution!r}")
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
        return nn.sigmoid(_at_least_float32(x))


def _valid_convolution(how, x, kernel, strides, padding, **options):
    """`jax.lax.conv_general_dilated` with stride 1 and no padding, computed in one of `CONVOLUTIONS`."""
    if how == "auto":
        gain = fftconv.best_tile(x.shape, kernel.shape)[1]
        how = "fft" if jax.default_backend() == "cpu" and gain > 1.5 else "direct"
    if how == "fft":
        return fftconv.fft_conv(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


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
            `OUTPUTS`.
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

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds images: (B, H, W, C) float in [0, 1] -> (B, D); D = units, if `local` a place."""

        def norm(x, name):
            return _batch_norm(train, self.dtype, self.axis_name, name)(x)

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
        pools = len(self.widths) - 1 if self.pools is None else self.pools
        for s, width in enumerate(self.widths):
            if 0 < s <= pools:
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
        x = _finish(norm(x, "embedding_norm"), self.output)
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
        output: what becomes of the embedding (if `local`, of each place's) then, one of `OUTPUTS`.
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

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds images: (B, H, W, C) float in [0, 1] -> (B, D); D = units, if `local` a place."""
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
        x = _finish(x, self.output)
        return x.reshape(x.shape[0], -1)


class DenseEncoder(nn.Module):
    """A fully connected encoder of flattened images, or of vectors.

    Attributes:
        hidden: units of the layers with ReLU before the last.
        units: size of the embedding.
        normalise: whether the embedding goes through a batch normalisation.
        output: what becomes of the embedding then, one of `OUTPUTS`.
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
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds images: (B, H, W, C) float -> (B, units)."""
        kernel = nn.initializers.he_normal() if self.std is None else normal_init(0.0, self.std)
        bias = nn.initializers.zeros
        if self.bias_mean is not None:
            bias = normal_init(self.bias_mean, 0.01)
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
        return _finish(x, self.output)


class Comparator(nn.Module):
    """Turns two embeddings into a logit of "same class".

    | kind | logit |
    |---|---|
    | `l1` | `sum_j alpha_j abs(h1_j - h2_j) + bias`, the weighted L1 head of Koch et al. (2015) |
    | `l2` | `sum_j alpha_j (h1_j - h2_j)^2 + bias` |
    | `euclidean` | `bias - scale D`, D the Euclidean distance |
    | `squared_euclidean` | `bias - scale D^2` |
    | `cosine` | `scale cos(h1, h2) + bias` |
    | `bilinear` | `h1' M h2 + bias`, M at first `scale` times the identity |
    | `local` | `scale s + bias`, s the mean over places of the best cosine near by |

    alpha, scale, M and bias are learned. All are symmetric in the two, but `bilinear` without
    `symmetric`.

    Attributes:
        kind: one of `COMPARATORS`.
        scale: initial scale.
        bias: initial bias, but of `l1` and `l2`.
        kernel_mean: mean of the initial alpha, as published 0.
        kernel_std: standard deviation of the initial alpha, as published 0.2.
        bias_mean: mean of the initial bias of `l1` and `l2`, as published 0.5 (standard deviation
            0.01).
        symmetric: whether `bilinear` takes (M + M') / 2 for M.
        places: rows and columns of the map that `local` compares, see `local_similarity`.
        units: features a place of that map.
        reach: how many rows and columns away `local` looks for the best cosine.
    """

    kind: str = "l1"
    scale: float = 10.0
    bias: float = 0.0
    kernel_mean: float = 0.0
    kernel_std: float = 0.2
    bias_mean: float = 0.5
    symmetric: bool = True
    places: Sequence[int] = (1, 1)
    units: int = 1
    reach: int = 1

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
        if self.kind in ("l1", "l2"):
            init = normal_init(self.kernel_mean, self.kernel_std)
            kernel = self.param("kernel", init, (h1.shape[-1],))
            bias = self.param("bias", normal_init(self.bias_mean, 0.01), ())
            if all_pairs:
                h1, h2 = h1[..., :, None, :], h2[..., None, :, :]
            apart = jnp.abs(h1 - h2) if self.kind == "l1" else (h1 - h2) ** 2
            return jnp.einsum("...d,d->...", apart, kernel) + bias
        bias = self.param("bias", nn.initializers.constant(self.bias), ())
        products = "...qd,...sd->...qs" if all_pairs else "...d,...d->..."
        if self.kind == "bilinear":
            size = h1.shape[-1]
            matrix = self.param("matrix", lambda key, n: self.scale * jnp.eye(n), size)
            if self.symmetric:
                matrix = (matrix + matrix.T) / 2
            return jnp.einsum(products, h1 @ matrix, h2) + bias
        scale = self.param("scale", nn.initializers.constant(self.scale), ())
        if self.kind == "cosine":
            return scale * jnp.einsum(products, unit(h1), unit(h2)) + bias
        if self.kind == "local":
            return scale * self._similarity(h1, h2, all_pairs) + bias
        if self.kind == "euclidean":
            return bias - scale * self.distances(h1, h2, all_pairs)
        if self.kind == "squared_euclidean":
            measure = losses.all_squared_distances if all_pairs else losses.squared_distances
            return bias - scale * measure(h1, h2)
        raise ValueError(f"comparator must be one of {COMPARATORS}, got {self.kind!r}")

    @nn.nowrap
    def distances(self, h1: jax.Array, h2: jax.Array, all_pairs: bool = False) -> jax.Array:
        """The distances that objectives of distances learn; the gradient is 0 where they are 0.

        That of `local` is `sqrt(2 - 2 s)`, the Euclidean one of unit vectors with the cosine s; that
        of any other kind is the Euclidean one of the embeddings.

        Args:
            h1: (..., Q, D).
            h2: (..., S, D); S = Q unless `all_pairs`.
            all_pairs: whether every h1 meets every h2 of its leading index.

        Returns:
            (..., Q) distances, or (..., Q, S) for all pairs.
        """
        if self.kind == "local":
            s = self._similarity(h1, h2, all_pairs)
            return losses.safe_sqrt(jnp.maximum(2 - 2 * s, 0.0))
        if all_pairs:
            return losses.safe_sqrt(losses.all_squared_distances(h1, h2))
        return losses.distances(h1, h2)

    @nn.nowrap
    def features(self, h: jax.Array) -> jax.Array:
        """(..., D) embeddings -> (n, C), one line an embedding, or of `local` a place of one."""
        return h.reshape(-1, self.units if self.kind == "local" else h.shape[-1])

    @nn.nowrap
    def _similarity(self, h1, h2, all_pairs):
        rows, columns = self.places
        if h1.shape[-1] != rows * columns * self.units:
            raise ValueError(
                f"embeddings of {h1.shape[-1]} numbers are no maps of {rows} x {columns} places with "
                f"{self.units} features each: set model.head_args.places to the rows and columns that "
                "the encoder makes of the images"
            )
        return local_similarity(h1, h2, self.places, self.reach, all_pairs)


def local_similarity(
    h1: jax.Array, h2: jax.Array, places: Sequence[int], reach: int, all_pairs: bool = False
) -> jax.Array:
    """How alike two maps of local features are if each place may move a little.

    Each place of one map takes the highest cosine of its features with those of a place of the other
    map at most `reach` rows and columns away; the mean over the places of both maps is symmetric.
    With a reach of 0 and features of one length it is the cosine of the flattened maps.

    Args:
        h1: (..., Q, D) flattened maps, D = rows x columns x features.
        h2: (..., S, D); S = Q unless `all_pairs`.
        places: rows and columns of the maps.
        reach: 0 or more.
        all_pairs: whether every h1 meets every h2 of its leading index.

    Returns:
        (..., Q) cosines in [-1, 1], or (..., Q, S) for all pairs.
    """
    rows, columns = places
    # Places first, so that a move is a slice of the two leading axes.
    h1, h2 = (
        jnp.moveaxis(unit(h.reshape(*h.shape[:-1], rows, columns, -1)), (-3, -2), (0, 1))
        for h in (h1, h2)
    )
    products = "...qd,...sd->...qs" if all_pairs else "...d,...d->..."
    best1, best2 = [], []
    for down in range(-min(reach, rows - 1), min(reach, rows - 1) + 1):
        for right in range(-min(reach, columns - 1), min(reach, columns - 1) + 1):
            here = (_inside(rows, down), _inside(columns, right))
            there = (_inside(rows, -down), _inside(columns, -right))
            cosine = jnp.einsum(products, h1[here], h2[there])
            best1.append(_on_map(cosine, here, rows, columns))
            best2.append(_on_map(cosine, there, rows, columns))
    return sum(functools.reduce(jnp.maximum, best).mean((0, 1)) for best in (best1, best2)) / 2


def _inside(size: int, move: int) -> slice:
    """The places along an axis that are still on the map after a move."""
    return slice(max(0, -move), size - max(0, move))


def _on_map(part: jax.Array, place: tuple[slice, slice], rows: int, columns: int) -> jax.Array:
    """A map with `part` at `place`, and minus infinity elsewhere."""
    around = [(at.start, size - at.stop) for at, size in zip(place, (rows, columns), strict=True)]
    rest = [(0, 0)] * (part.ndim - 2)
    return jnp.pad(part, around + rest, constant_values=-jnp.inf)


class FullContext(nn.Module):
    """Full-context embeddings: every image is embedded in the light of the whole support set.

    A bidirectional LSTM reads the supports in their order, and its two states are added to each. The
    query's embedding is then refined by an LSTM that attends to the supports several times.

    Attributes:
        steps: how often the query attends.

    References:
        Vinyals et al. (2016), Matching networks for one shot learning, section 2.1.2 and appendix A.
    """

    steps: int = 5

    @nn.compact
    def __call__(self, queries: jax.Array, supports: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(..., Q, D) and (..., S, D) -> embeddings of the same shapes."""
        size = queries.shape[-1]
        lead = queries.shape[:-2]
        queries = queries.reshape(-1, *queries.shape[-2:])
        supports = supports.reshape(-1, *supports.shape[-2:])
        both_ways = nn.Bidirectional(
            nn.RNN(nn.OptimizedLSTMCell(size, name="forward_cell")),
            nn.RNN(nn.OptimizedLSTMCell(size, name="backward_cell")),
            merge_fn=lambda ahead, back: ahead + back,
            name="supports",
        )
        supports = supports + both_ways(supports)
        cell = nn.OptimizedLSTMCell(size, name="queries")
        carry = (jnp.zeros_like(queries), queries)
        refined = queries
        for _ in range(self.steps):
            weights = jax.nn.softmax(jnp.einsum("bqd,bsd->bqs", refined, supports))
            read = jnp.einsum("bqs,bsd->bqd", weights, supports)
            (memory, state), _ = cell(carry, jnp.concatenate([queries, read], -1))
            refined = state + queries
            carry = (memory, refined)
        return (
            refined.reshape(*lead, *refined.shape[-2:]),
            supports.reshape(*lead, *supports.shape[-2:]),
        )


class CosineClassifier(nn.Module):
    """A softmax layer over the training classes, on the cosine with one learned vector a class.

    Attributes:
        classes: number of classes.
        scale: of the cosines, learned from here.

    References:
        Chen et al. (2019), A closer look at few-shot classification (the layer of Baseline++).
    """

    classes: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """(..., D) -> (..., classes) logits."""
        kernel = self.param("kernel", normal_init(0.0, 1.0), (h.shape[-1], self.classes))
        scale = self.param("scale", nn.initializers.constant(self.scale), ())
        return scale * (unit(h) @ (kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)))


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit(h: jax.Array) -> jax.Array:
    """Scales (..., D) embeddings to length 1; the gradient stays finite at zero."""
    return h * jax.lax.rsqrt(jnp.sum(h * h, -1, keepdims=True) + 1e-12)


def _batch_norm(train: bool, dtype: Dtype, axis_name: str | None, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, dtype=dtype, axis_name=axis_name, name=name
    )


def _finish(x: jax.Array, output: str) -> jax.Array:
    x = _at_least_float32(x)
    if output == "unit":
        return unit(x)
    if output == "sigmoid":
        return nn.sigmoid(x)
    if output == "linear":
        return x
    raise ValueError(f"output must be one of {OUTPUTS}, got {output!r}")


class SiameseNet(nn.Module):
    """Twin encoders with shared weights and the comparator of their embeddings.

    Attributes:
        encoder: module from images to embeddings.
        head: the comparator.
        context: what embeddings go through before all of a query set meet all of a support set; None
            where two embeddings are compared whatever else is there.
        classifier: of the training classes, for objectives that train one; None otherwise.
    """

    encoder: nn.Module
    head: Comparator
    context: FullContext | None = None
    classifier: CosineClassifier | None = None

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
        if self.classifier is not None and self.is_initializing():
            self.classify(both)
        return self.compare(*jnp.split(both, 2))

    def embed(self, images: jax.Array, train: bool = False) -> jax.Array:
        """(B, H, W, C) float in [0, 1] -> (B, D) embeddings."""
        return self.encoder(images, train)

    def compare(self, h1: jax.Array, h2: jax.Array) -> jax.Array:
        """(..., D) and (..., D) -> (...) logits of "same class"; each pair is a support set of one."""
        if self.context is None:
            return self.head(h1, h2)
        return self.compare_all(h1[..., None, :], h2[..., None, :])[..., 0, 0]

    def compare_all(self, h1: jax.Array, h2: jax.Array) -> jax.Array:
        """(..., Q, D) and (..., S, D) -> (..., Q, S) logits, every first against every second.

        With a `context` the first are the queries and the second their one support set.
        """
        if self.context is not None:
            h1, h2 = self.context(h1, h2)
        return self.head(h1, h2, all_pairs=True)

    def classify(self, h: jax.Array) -> jax.Array:
        """(..., D) embeddings -> (..., classes) logits of the training classes."""
        return self.classifier(h)


def build(fields: Mapping, axis_name: str | None = None, classes: int = 0) -> SiameseNet:
    """The network that a config's `model` section describes.

    Args:
        fields: `encoder` (one of `ENCODERS`), `comparator` (one of `COMPARATORS`), `dtype` (one of
            `DTYPES`), under `encoder_args` and `head_args` the attributes of the chosen classes, and,
            if wanted, `context_steps`: those of `FullContext`, 0 for none.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.
        classes: of the softmax layer that an objective trains; 0 for none.

    Raises:
        ValueError: an unknown encoder, comparator or dtype, or an attribute that they do not have.
    """
    for field, known in (("encoder", ENCODERS), ("comparator", COMPARATORS), ("dtype", DTYPES)):
        if fields[field] not in known:
            raise ValueError(f"model.{field} must be one of {known}, got {fields[field]!r}")
    name = fields["encoder"]
    args = dict(fields["encoder_args"])
    args["dtype"] = jnp.dtype(fields["dtype"])
    if name != "koch":  # which has no batch statistics
        args["axis_name"] = axis_name
    encoders = (KochEncoder, ResidualEncoder, SmallEncoder, DenseEncoder)
    encoder = dict(zip(ENCODERS, encoders, strict=True))[name]
    steps, head_args = fields.get("context_steps", 0), dict(fields["head_args"])
    if fields["comparator"] == "local":
        if not args.get("local"):
            raise ValueError(
                "model.comparator 'local' compares maps of local features: set "
                "model.encoder_args.local, which 'residual' and 'small' have, to True"
            )
        head_args["units"] = args.get("units", encoder.units)
    try:
        return SiameseNet(
            encoder(**args),
            Comparator(kind=fields["comparator"], **head_args),
            FullContext(steps) if steps else None,
            CosineClassifier(classes) if classes else None,
        )
    except TypeError as error:
        raise ValueError(f"model.encoder_args or head_args do not fit {name}: {error}") from None
