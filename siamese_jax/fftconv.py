"""Convolution in the frequency domain, in tiles: the same result as the direct one with fewer products.

The input is cut into overlapping square tiles, each tile and the kernel are transformed, channels are
multiplied frequency by frequency, and of each tile's outputs those that did not wrap around are kept
(overlap-save). A tile of n x n pixels gives m x m outputs, m = n - k + 1, for n (n / 2 + 1) complex
products a pair of channels, where the direct convolution takes m^2 k^2 real ones: with n = 20 and k = 7
that is 220 complex (880 real) for 9,604. The complex product is one real product of twice the size,
[re, im] times [[re, -im], [im, re]].

References:
    Mathieu, Henaff, LeCun (2014), Fast training of convolutional networks through FFTs.
    Rabiner, Gold (1975), Theory and application of digital signal processing, section 2.25.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_einsum = functools.partial(jnp.einsum, precision="highest")


def fft_conv(x: jax.Array, kernel: jax.Array, tile: int = 20) -> jax.Array:
    """Valid convolution of stride 1 (no flip, as `jax.lax.conv_general_dilated`), with its gradient.

    Args:
        x: (B, H, W, C) float.
        kernel: (k, k', C, N), of the same type.
        tile: side n of a tile, pixels; an m = n - k + 1 that divides H - k + 1 wastes nothing.

    Returns:
        (B, H - k + 1, W - k' + 1, N).

    Raises:
        ValueError: shapes that do not fit together, or a tile smaller than the kernel.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            "fft_conv needs images (B, H, W, C) and a kernel (k, k', C, N), got "
            f"{x.shape} and {kernel.shape}"
        )
    size = kernel.shape[:2]
    if max(size) > tile or x.shape[1] < size[0] or x.shape[2] < size[1]:
        raise ValueError(
            f"a kernel of {size} pixels must fit into the tile of {tile} x {tile} and into the "
            f"images of {x.shape[1:3]}: use a larger tile or a smaller kernel"
        )
    return _convolve(x, kernel, size, tile)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, size, tile):
    return _forward(x, kernel, size, tile)[0]


def _forward(x, kernel, size, tile):
    shape = [whole - side + 1 for whole, side in zip(x.shape[1:3], size, strict=True)]
    x_f = _spectrum(_tiles(x, size, tile), tile)
    block = _block(kernel, tile)
    y_f = _einsum("fmc,fcn->fmn", x_f, block)
    return _joined(_signal(y_f, tile), len(x), size, tile, shape), (x_f, block)


def _backward(size, tile, kept, dy):
    x_f, block = kept
    g_f = _spectrum(_output_tiles(dy, size, tile), tile)
    dx_f = _einsum("fmn,fcn->fmc", g_f, block)  # the block's transpose: no conjugate
    channels = block.shape[1] // 2
    sides = [whole + side - 1 for whole, side in zip(dy.shape[1:3], size, strict=True)]
    x = jax.ShapeDtypeStruct((len(dy), *sides, channels), dy.dtype)
    (dx,) = jax.linear_transpose(lambda x: _tiles(x, size, tile), x)(_signal(dx_f, tile))
    # Of all lags between a tile of the input and one of the gradient, those of the kernel.
    crossed = _einsum("fmc,fmn->fcn", x_f, g_f)
    ours, theirs = crossed[:, :channels], crossed[:, channels:]
    (rr, ri), (ir, ii) = (jnp.split(part, 2, -1) for part in (ours, theirs))
    dkernel = _signal(jnp.concatenate([rr + ii, ir - ri], -1), tile)
    return dx, dkernel[..., : size[0], : size[1]].transpose(2, 3, 0, 1)


_convolve.defvjp(_forward, _backward)


def _steps(size, tile):
    """Outputs of a tile along either axis."""
    return tuple(tile - side + 1 for side in size)


def _tiles(x, size, tile):
    """(B, H, W, C) -> (B * rows * columns, C, n, n): overlapping tiles, zeros beyond the image."""
    for axis, side, step in zip((1, 3), size, _steps(size, tile), strict=True):
        count = -(-(x.shape[axis] - side + 1) // step)
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, max(0, (count - 1) * step + tile - x.shape[axis]))
        x = jnp.pad(x, pad)
        cut = [jax.lax.slice_in_dim(x, i * step, i * step + tile, axis=axis) for i in range(count)]
        x = jnp.stack(cut, axis)  # the tile's number, then its pixels
    batch, rows, n, columns, _, channels = x.shape
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch * rows * columns, channels, n, n)


def _output_tiles(y, size, tile):
    """(B, H, W, N) outputs -> (B * rows * columns, N, m, m'), zeros beyond the image."""
    batch, height, width, channels = y.shape
    m, m2 = _steps(size, tile)
    rows, columns = -(-height // m), -(-width // m2)
    y = jnp.pad(y, ((0, 0), (0, rows * m - height), (0, columns * m2 - width), (0, 0)))
    y = y.reshape(batch, rows, m, columns, m2, channels)
    return y.transpose(0, 1, 3, 5, 2, 4).reshape(batch * rows * columns, channels, m, m2)


def _joined(tiles, batch, size, tile, shape):
    """(B * rows * columns, N, n, n) -> (B, *shape, N) of the outputs that did not wrap around."""
    m, m2 = _steps(size, tile)
    rows, columns = -(-shape[0] // m), -(-shape[1] // m2)
    y = tiles[..., :m, :m2].reshape(batch, rows, columns, -1, m, m2).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(batch, rows * m, columns * m2, -1)[:, : shape[0], : shape[1]]


def _spectrum(tiles, n):
    """(M, C, h, w), h and w at most n -> (F, M, 2 C) real and imaginary parts."""
    f = jnp.fft.rfft2(tiles, (n, n))
    f = f.reshape(*f.shape[:2], -1).transpose(2, 0, 1)
    return jnp.concatenate([f.real, f.imag], -1)


def _signal(f, n):
    """(F, M, 2 C) -> (M, C, n, n)."""
    real, imaginary = jnp.split(f.transpose(1, 2, 0), 2, axis=1)
    f = jax.lax.complex(real, imaginary)
    return jnp.fft.irfft2(f.reshape(*f.shape[:2], n, n // 2 + 1), (n, n))


def _block(kernel, n):
    """(k, l, C, N) -> (F, 2 C, 2 N): [re, im] times it is the product with the conjugate."""
    real, imaginary = jnp.split(_spectrum(kernel.transpose(2, 3, 0, 1), n), 2, axis=-1)
    upper = jnp.concatenate([real, -imaginary], -1)
    lower = jnp.concatenate([imaginary, real], -1)
    return jnp.concatenate([upper, lower], 1)
