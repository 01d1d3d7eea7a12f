"""Convolution in the frequency domain, in tiles: the same result as the direct one with fewer products.

The input is cut into overlapping tiles of its full height, each tile and the kernel are transformed,
channels are multiplied frequency by frequency, and of each tile's outputs those that did not wrap
around are kept (overlap-save). A tile of n x p pixels and a kernel of k x k give (n - k + 1) (p - k + 1)
outputs for (n / 2 + 1) p complex products a pair of channels, each made of three real ones; the direct
convolution takes k^2 an output. With n = 48, p = 20 and k = 7 that is 1,500 for 28,812.

Everything is a product of real matrices, which a processor does at its best rate: the transforms are
small matrices of cosines and sines, applied along one axis after the other with channels and images as
the long one, and the sums and differences of Gauss's three products are part of them. So what jax
derives as gradient is of the same kind, and none is written here.

References:
    Mathieu, Henaff, LeCun (2014), Fast training of convolutional networks through FFTs.
    Rabiner, Gold (1975), Theory and application of digital signal processing, section 2.25.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

_ACCESS_COST = 50  # multiply-adds in the time of one number written and read, found by timing


def fft_conv(
    x: Float[ArrayLike, "b h w c"], kernel: Float[ArrayLike, "kh kw c n"], tile: int | None = None
) -> Float[Array, "b h-kh+1 w-kw+1 n"]:
    """Valid convolution of stride 1 (no flip, as `jax.lax.conv_general_dilated`).

    Args:
        x: the images; dtypes smaller than float32 are computed in float32.
        kernel: of the same dtype.
        tile: width of a tile, pixels; None for `best_tile`'s.

    Returns:
        The outputs, of the dtype of x.

    Raises:
        ValueError: a kernel larger than the images, or a tile smaller than the kernel.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    size = kernel.shape[:2]
    if x.shape[1] < size[0] or x.shape[2] < size[1]:
        raise ValueError(f"a kernel of {size} pixels must fit into images of {x.shape[1:3]}")
    tile = best_tile(x.shape, kernel.shape)[0] if tile is None else tile
    if tile < size[1]:
        raise ValueError(f"a kernel of {size} pixels needs a wider tile than {tile}")
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return _convolve(x.astype(dtype), kernel.astype(dtype), tile).astype(x.dtype)


def best_tile(images_shape: Sequence[int], kernel_shape: Sequence[int]) -> tuple[int, float]:
    """The tile that makes a convolution cheapest, and how much cheaper than the direct one it is.

    The cost is counted in multiply-adds: of the products, of the transforms, and `_ACCESS_COST` for each
    number of the spectra.

    Args:
        images_shape: (B, H, W, C).
        kernel_shape: (kh, kw, C, N).

    Returns:
        Width of the tile, pixels, and the direct convolution's multiply-adds over the cost.
    """
    batch, height, width, channels = images_shape
    kh, kw, _, features = kernel_shape
    rows, columns = height - kh + 1, width - kw + 1
    half = height // 2 + 1

    def cost(p: int) -> int:
        q = p - kw + 1
        across = -(-columns // q)
        spectra = half * across * 3 * p
        products = spectra * channels * features
        along_width = spectra * 2 * (p * channels + q * features)
        along_height = 2 * half * (height * width * channels + rows * across * q * features)
        image = (
            products + along_width + along_height + _ACCESS_COST * spectra * (channels + features)
        )
        kernel = half * (2 * kh * kw + 3 * p * (2 * kw + _ACCESS_COST)) * channels * features
        return batch * image + kernel

    tiles = {math.ceil(columns / count) + kw - 1 for count in range(1, columns + 1)}
    best = min(sorted(tiles), key=cost)
    return best, batch * rows * columns * kh * kw * channels * features / cost(best)


def _convolve(x: Array, kernel: Array, p: int) -> Array:
    (batch, n, width, channels), (kh, kw, _, features) = x.shape, kernel.shape
    rows, columns = n - kh + 1, width - kw + 1
    q = p - kw + 1  # columns of outputs a tile
    across = -(-columns // q)  # tiles
    half = n // 2 + 1  # frequencies along the height: the others are their conjugates
    images_h, kernel_h, back_h = (a.astype(x.dtype) for a in _real_transforms(n, kh))
    # One copy of the small matrices a frequency: a batched product is faster than a shared factor.
    images_w, kernel_w, back_w = (
        jnp.broadcast_to(a.astype(x.dtype), (half, *a.shape)) for a in _complex_transforms(p, kw)
    )

    x = x.transpose(1, 2, 0, 3)  # height, width, image, channel
    x = jnp.pad(x, ((0, 0), (0, (across - 1) * q + p - width), (0, 0), (0, 0)))
    x = _dot(images_h, x.reshape(n, -1)).reshape(half, 2, -1, batch * channels)
    x = jnp.stack([x[:, :, j * q : j * q + p] for j in range(across)], 3)
    x = _dot(images_w, x.reshape(half, 2 * p, -1)).reshape(half * 3 * p, -1, channels)

    kernel = _dot(kernel_h, kernel.reshape(kh, -1)).reshape(half, 2 * kw, -1)
    kernel = _dot(kernel_w, kernel).reshape(half * 3 * p, channels, features)

    y = _dot(x, kernel).reshape(half, 3 * p, -1)
    y = _dot(back_h, _dot(back_w, y).reshape(2 * half, -1))
    y = y.reshape(rows, q, across, batch, features).transpose(3, 0, 2, 1, 4)
    return y.reshape(batch, rows, across * q, features)[:, :, :columns]


_dot = functools.partial(jnp.matmul, precision="highest")


def _real_transforms(n: int, kh: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices along the height, with a real and an imaginary line a frequency u = 0 .. n / 2.

    Returns:
        (2 U, n) from n pixels; (2 U, kh) from a kernel's, conjugate; (n - kh + 1, 2 U) back to the
        first pixels of a real signal.
    """
    half = n // 2 + 1
    angles = 2 * np.pi * np.outer(np.arange(half), np.arange(n)) / n
    cos, sin = np.cos(angles), np.sin(angles)
    forward = np.stack([cos, -sin], 1).reshape(2 * half, n)
    conjugate = np.stack([cos, sin], 1).reshape(2 * half, n)[:, :kh]
    alone = (np.arange(half) == 0) | (2 * np.arange(half) == n)  # without a conjugate of its own
    weights = np.where(alone, 1, 2) / n
    back = np.stack([weights * cos.T, -weights * sin.T], 2).reshape(n, 2 * half)[: n - kh + 1]
    return forward, conjugate, back


def _complex_transforms(p: int, kw: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices along the width, of columns that hold all real and then all imaginary parts.

    With a = a1 + i a2 of an image and b = b1 + i b2 of a kernel the three products are b1 (a1 + a2),
    (b2 - b1) a1 and (b1 + b2) a2; a b is (first - third) + i (first + second).

    Returns:
        (3 p, 2 p): a1 + a2, a1, a2 of all frequencies; (3 p, 2 kw): b1, b2 - b1, b1 + b2 of a
        kernel's, conjugate; (2 q, 3 p): from the three products to the first q = p - kw + 1 columns.
    """
    q = p - kw + 1
    angles = 2 * np.pi * np.outer(np.arange(p), np.arange(p)) / p
    cos, sin = np.cos(angles), np.sin(angles)
    a1, a2 = np.hstack([cos, sin]), np.hstack([-sin, cos])
    b1, b2 = np.hstack([cos, -sin]), np.hstack([sin, cos])  # the conjugate transform turns back
    forward = np.vstack([a1 + a2, a1, a2])
    inside = np.tile(np.arange(p) < kw, 2)
    conjugate = np.vstack([b1, b2 - b1, b1 + b2])[:, inside]
    real, imaginary = np.hstack([cos - sin, -sin, -cos]), np.hstack([sin + cos, cos, -sin])
    return forward, conjugate, np.vstack([real[:q], imaginary[:q]]) / p
