"""Vision transformers, whose weights can be those of timm."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from siamese_jax.models.layers import after_stage, check_frozen, finish, standardise


class TransformerBlock(nn.Module):
    """Self-attention and two dense layers, each on normalised tokens and added to them.

    Attributes:
        heads: of the attention.
        dtype: compute type.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The next tokens."""
        width = x.shape[-1]
        y = layer_norm(self.dtype, "norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(
            self.heads, dtype=self.dtype, force_fp32_for_softmax=True, name="attn"
        )(y)
        y = nn.Dense(4 * width, dtype=self.dtype, name="fc1")(layer_norm(self.dtype, "norm2")(x))
        return x + nn.Dense(width, dtype=self.dtype, name="fc2")(nn.gelu(y, approximate=False))


def layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    """A layer normalisation as timm has it."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


class ViTEncoder(nn.Module):
    """A vision transformer as timm builds it, without its classifier.

    The defaults are ViT-S/16, with 21,665,664 parameters before the embedding at 224x224 pixels.
    Stage 0 is the patches and positions, then comes each block, and the last stage holds the last
    normalisation and the embedding.

    Attributes:
        patch: side of a patch, pixels; the pictures' sides must be multiples of it.
        width: size of a token.
        depth: blocks.
        heads: of the attention; they must divide the width.
        project: whether the class token goes through a dense layer, `embedding`.
        units: its size.
        output: what becomes of the embedding, one of `layers.OUTPUTS`.
        frozen: first stages that are not trained: no gradient reaches them.
        pixel_mean: of the channels of a picture in [0, 1], see `layers.standardise`; 0.5, as the
            weights of timm's ViT-S/16 (AugReg) expect, unless set.
        pixel_std: their standard deviations.
        dtype: compute type; parameters and the embedding stay float32.

    References:
        Dosovitskiy et al. (2021), An image is worth 16x16 words.
    """

    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    project: bool = True
    units: int = 256
    output: str = "unit"
    frozen: int = 0
    pixel_mean: Sequence[float] = (0.5, 0.5, 0.5)
    pixel_std: Sequence[float] = (0.5, 0.5, 0.5)
    dtype: Any = jnp.float32

    @property
    def num_stages(self) -> int:
        """Number of the last stage."""
        return self.depth + 1

    @nn.nowrap
    def stage_of(self, path: str) -> int:
        """The stage of a parameter by its path in the encoder, such as `block1/fc1/kernel`."""
        match = re.match(r"block(\d+)/", path)
        if match:
            return int(match[1])
        return self.num_stages if path.startswith(("embedding/", "norm/")) else 0

    @nn.nowrap
    def read_state(
        self, state: Mapping[str, np.ndarray], image_shape: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """The variables of a state dict of timm's `vit_small_patch16_224` and the like.

        Positions of another square grid than that of the pictures are resized, bicubically.

        Args:
            state: arrays by the names of timm, such as `blocks.0.attn.qkv.weight`. The classifier
                (`head`) is left out.
            image_shape: (H, W, C) of the network.

        Returns:
            Arrays by their paths, such as `params/block1/fc1/kernel`.
        """
        arrays: dict[str, np.ndarray] = {}
        for name, x in state.items():
            if name == "pos_embed":
                arrays["params/pos_embed"] = self._resized(x, image_shape)
            elif name == "cls_token":
                arrays["params/cls_token"] = x
            elif not name.startswith("head."):
                arrays |= self._of_layer(name, x)
        return arrays

    @nn.nowrap
    def _of_layer(self, name: str, x: np.ndarray) -> dict[str, np.ndarray]:
        """An array of a layer of timm by its path here; queries, keys and values have one each."""
        module, _, leaf = name.rpartition(".")
        module = re.sub(r"^blocks\.(\d+)\.", lambda match: f"block{int(match[1]) + 1}/", module)
        module = module.replace("/mlp.", "/")
        weight = leaf == "weight"
        leaf = "kernel" if weight else leaf
        if module == "patch_embed.proj":  # output, input, height, width
            return {f"params/patch_embed/{leaf}": x.transpose(2, 3, 1, 0) if weight else x}
        if module.endswith("/attn.qkv"):
            parts = [y.reshape(self.heads, -1, *x.shape[1:]) for y in np.split(x, 3)]
            paths = [f"params/{module.removesuffix('.qkv')}/{p}" for p in ("query", "key", "value")]
            return {
                f"{path}/{leaf}": y.transpose(2, 0, 1) if weight else y
                for path, y in zip(paths, parts, strict=True)
            }
        if module.endswith("/attn.proj"):
            path = f"params/{module.removesuffix('.proj')}/out/{leaf}"
            return {path: x.T.reshape(self.heads, -1, x.shape[0]) if weight else x}
        if x.ndim == 2:
            return {f"params/{module}/kernel": x.T}
        return {f"params/{module}/{'scale' if weight else leaf}": x}  # of a normalisation

    @nn.nowrap
    def _grid(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = image_shape[:2]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"patches of {self.patch} pixels need pictures whose sides are multiples of it; these "
                f"are {height} x {width}: set data.image_size or model.encoder_args.patch"
            )
        return height // self.patch, width // self.patch

    @nn.nowrap
    def _resized(self, positions: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
        """Positions (1, 1 + n, D) for the pictures' grid of patches."""
        rows, columns = self._grid(image_shape)
        count, width = positions.shape[1] - 1, positions.shape[2]
        side = math.isqrt(count)
        if (rows, columns) == (side, side) or side * side != count:
            return positions  # a grid that does not fit is refused with all other shapes
        grid = positions[:, 1:].reshape(1, side, side, width)
        grid = jax.image.resize(grid, (1, rows, columns, width), "cubic")
        return np.concatenate([positions[:, :1], np.reshape(grid, (1, -1, width))], 1)

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "b h w c"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Embeds images with pixels in [0, 1]; d = units, or the width of a token."""
        del train
        check_frozen(self)
        if self.width % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide the width {self.width} of a token: set "
                "model.encoder_args.heads"
            )
        x = jnp.asarray(images)
        rows, columns = self._grid(x.shape[1:])
        x = standardise(x, self.pixel_mean, self.pixel_std).astype(self.dtype)
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            dtype=self.dtype,
            name="patch_embed",
        )(x)
        x = x.reshape(x.shape[0], rows * columns, self.width)
        token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, self.width))
        positions = self.param(
            "pos_embed", nn.initializers.normal(0.02), (1, 1 + rows * columns, self.width)
        )
        token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], 1) + positions.astype(self.dtype)
        x = after_stage(x, 0, self.frozen)
        for stage in range(1, self.depth + 1):
            x = TransformerBlock(self.heads, self.dtype, name=f"block{stage}")(x)
            x = after_stage(x, stage, self.frozen)
        x = layer_norm(self.dtype, "norm")(x[:, 0])
        if self.project:
            x = nn.Dense(self.units, dtype=self.dtype, name="embedding")(x)
        return finish(x, self.output)
