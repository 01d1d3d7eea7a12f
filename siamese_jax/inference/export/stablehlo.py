"""A trained network as two StableHLO functions: the encoder and the comparator.

They hold the parameters and need nothing of this package: `jax.export` alone runs them.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export

from siamese_jax.inference.embed import to_float
from siamese_jax.inference.network import Siamese
from siamese_jax.models import siamese

PLATFORMS = ("cpu", "cuda", "tpu")


def make_functions(net: Siamese) -> tuple[bytes, bytes]:
    """The encoder and the comparator of a network on one device, serialised, for any batch size.

    They take and give what the models of `onnx_models.make_models` do, in the network's dtype, and
    vectors as (batch, 1, D, 1). A convolution in the frequency domain becomes a direct one, since the
    best tile depends on the batch.

    Args:
        net: the network.
    """
    model, variables = net.model, net.variables
    if getattr(model.encoder, "convolution", "direct") != "direct":
        model = model.clone(encoder=model.encoder.clone(convolution="direct"))

    def embed(images: jax.Array) -> jax.Array:
        return siamese.apply(model, variables, to_float(images), method="embed")

    def compare(embeddings1: jax.Array, embeddings2: jax.Array) -> jax.Array:
        return siamese.apply(model, variables, embeddings1, embeddings2, method="compare_all")

    batch, queries, supports = export.symbolic_shape("batch, queries, supports")
    images = jax.ShapeDtypeStruct((batch, *net.image_shape), net.dtype)
    embeddings = [
        jax.ShapeDtypeStruct((count, net.embedding_size), jnp.float32)
        for count in (queries, supports)
    ]
    return _serialise(embed, images), _serialise(compare, *embeddings)


def read(file: str | pathlib.Path) -> Callable[..., jax.Array]:
    """Reads a function of `make_functions` back.

    Raises:
        ValueError: no such file, or one that holds no such function.
    """
    if not pathlib.Path(file).is_file():
        raise ValueError(f"no such file {file}")
    try:
        return export.deserialize(bytearray(pathlib.Path(file).read_bytes())).call
    except Exception as error:
        raise ValueError(f"{file} holds no exported function ({error})") from None


def _serialise(function: Callable, *arguments: jax.ShapeDtypeStruct) -> bytes:
    return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
