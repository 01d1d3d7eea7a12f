"""Koch's convolutions directly and otherwise, forward and with all gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan
from siamese_jax.models import block_conv, fft_conv

Shape = tuple[int, int, int, int]
Convolve = Callable[[jax.Array, jax.Array], jax.Array]


def run_convolution(plan: Plan) -> list[Row]:
    """Images a second of each convolution.

    The first, which has one channel of input, is also computed by blocks of pixels, the others in the
    frequency domain.
    """
    config = plan.config("koch2015")
    args, images = config.model.encoder_args, 2 * config.objective.batch
    height, width = config.data.image_size
    channels, rows = 1, []
    for i, (features, size) in enumerate(zip(args.filters, args.kernels, strict=True)):
        x, kernel = (images, height, width, channels), (size, size, channels, features)
        rows += _layer(plan, f"conv{i + 1}", x, kernel)
        height, width = ((side - size + 1) // 2 for side in (height, width))  # before a pool
        channels = features
    return rows


def _layer(plan: Plan, name: str, x_shape: Shape, kernel_shape: Shape) -> list[Row]:
    images, height, width, _ = x_shape
    size, _, _, features = kernel_shape
    dy_shape = (images, height - size + 1, width - size + 1, features)
    keys = jax.random.split(jax.random.key(plan.seed), 3)
    x, kernel, dy = (
        jax.random.normal(key, shape).astype(plan.dtype)
        for key, shape in zip(keys, (x_shape, kernel_shape, dy_shape), strict=True)
    )
    adds = dy.size * kernel[..., 0].size
    ways: dict[str, Convolve] = {"direct": _direct}
    if x_shape[-1] == 1:
        ways["blocks"] = block_conv.block_conv
    else:
        ways["frequency domain"] = fft_conv.fft_conv
    group = f"{name}, {images} images of {x_shape[1:]}, kernel {kernel_shape}, {plan.dtype}"
    rows = []
    for what, timed, passes in (("forward", _forward, 1), ("forward and gradients", _pull, 3)):
        product = plan.product()
        cases = [product]
        for way, convolve in ways.items():
            call = functools.partial(jax.jit(timed(convolve)), x, kernel, dy)
            cases.append(Case(way, call, images, "images", 2 * adds * passes))
        rows += plan.compare(f"{group}, {what}", cases, base=["direct"], product=product.name)
    return rows


def _direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(convolve: Convolve) -> Callable:
    return lambda x, kernel, dy: convolve(x, kernel)


def _pull(convolve: Convolve) -> Callable:
    def run(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple:
        y, pull = jax.vjp(convolve, x, kernel)
        return y, pull(dy)

    return run
