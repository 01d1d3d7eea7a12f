"""Small networks and images for the tests of models."""

import functools

import jax
import numpy as np

from siamese_jax.models import siamese

KOCH = {
    "encoder": "koch",
    "encoder_args": {},
    "comparator": "l1",
    "head_args": {},
    "dtype": "float32",
}


SMALL_KOCH = {
    **KOCH,
    "encoder_args": {"filters": (3, 4, 5, 6), "kernels": (4, 3, 3, 2), "units": 7},
}


RESIDUAL = {
    "encoder": "residual",
    "encoder_args": {"widths": (32, 64, 64, 128), "stem": 32, "stem_stride": 2, "units": 512},
    "comparator": "cosine",
    "head_args": {"scale": 10.0},
    "dtype": "float32",
}


SMALL_RESIDUAL = {
    **RESIDUAL,
    "encoder_args": {"widths": (4, 6), "stem": 4, "stem_stride": 2, "units": 8},
}


def net_and_variables(fields, shape):
    """The net of a config section and variables of any size, as after training."""
    net = siamese.build(fields, shape)
    rng = np.random.default_rng(0)

    def leaf(path, x):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)
        return 0.3 * rng.normal(size=x.shape).astype(x.dtype)

    return net, jax.tree_util.tree_map_with_path(leaf, siamese.variable_shapes(net, shape))


@functools.partial(jax.jit, static_argnums=0)
def embed(net, variables, images):
    return net.apply(variables, images, method="embed")


@functools.partial(jax.jit, static_argnums=0)
def score(net, variables, images1, images2):
    return net.apply(variables, images1, images2)


def shapes(fields, shape):
    """Parameter path -> shape, without computing anything."""
    params = siamese.variable_shapes(siamese.build(fields, shape), shape)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape for p, leaf in leaves}


def random_images(seed, count, *shape):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype(np.float32)


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def direct(x, kernel):
    """The direct convolution, valid and of stride 1."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


def pool_reference(x):
    """2x2 maxima by loops; (B, H, W, C)."""
    batch, height, width, channels = x.shape
    out = np.empty((batch, height // 2, width // 2, channels), x.dtype)
    for i in range(height // 2):
        for j in range(width // 2):
            out[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    return out
