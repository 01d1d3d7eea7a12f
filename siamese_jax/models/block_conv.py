"""Convolution of images of few channels as one of many: blocks of pixels become channels.

A GPU's matrix units work on eight or more channels at a time, so of a grey image's one channel they
waste most. Here an image of one channel is cut into blocks of 4 x 4 pixels, each a place with 16
channels, and the 4 x 4 outputs of a block are channels too. A kernel of 10 x 10 pixels becomes one of
4 x 4 places; it has 2.56 times as many products, in a shape that suits the units.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

BLOCK = 4  # pixels a side


def block_conv(
    x: Float[ArrayLike, "b h w c"], kernel: Float[ArrayLike, "kh kw c n"]
) -> Float[Array, "b h-kh+1 w-kw+1 n"]:
    """Valid convolution of stride 1 (no flip, as `jax.lax.conv_general_dilated`).

    Args:
        x: the images.
        kernel: of the same dtype.

    Returns:
        The outputs, of the dtype of x.

    Raises:
        ValueError: a kernel larger than the images.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    size, channels, features = kernel.shape[:2], x.shape[3], kernel.shape[3]
    if x.shape[1] < size[0] or x.shape[2] < size[1]:
        raise ValueError(f"a kernel of {size} pixels must fit into images of {x.shape[1:3]}")
    outputs = [side - k + 1 for side, k in zip(x.shape[1:3], size, strict=True)]
    blocks = [-(-side // BLOCK) for side in outputs]  # of outputs, the last perhaps in part
    reach = [-(-(k + BLOCK - 1) // BLOCK) for k in size]  # blocks that a block of outputs sees
    sides = [(m + n - 1) * BLOCK for m, n in zip(blocks, reach, strict=True)]

    lacking = [max(0, side - have) for side, have in zip(sides, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), (0, lacking[0]), (0, lacking[1]), (0, 0)))[:, : sides[0], : sides[1]]
    x = x.reshape(-1, sides[0] // BLOCK, BLOCK, sides[1] // BLOCK, BLOCK, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], -1)

    def shifted(down: int, right: int) -> Array:
        """The kernel of the output that stands `down` and `right` in its block."""
        room = [n * BLOCK - k for n, k in zip(reach, size, strict=True)]
        padding = ((down, room[0] - down), (right, room[1] - right), (0, 0), (0, 0))
        return jnp.pad(kernel, padding)

    places = [[shifted(i, j) for j in range(BLOCK)] for i in range(BLOCK)]
    whole = jnp.stack([jnp.stack(row, 3) for row in places], 3)  # rows, columns, c, i, j, n
    whole = whole.reshape(reach[0], BLOCK, reach[1], BLOCK, channels, -1)
    whole = whole.transpose(0, 2, 1, 3, 4, 5).reshape(*reach, BLOCK**2 * channels, -1)

    y = jax.lax.conv_general_dilated(
        x, whole, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = y.reshape(-1, *blocks, BLOCK, BLOCK, features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(-1, blocks[0] * BLOCK, blocks[1] * BLOCK, features)
    return y[:, : outputs[0], : outputs[1]]
