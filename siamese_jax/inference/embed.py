"""The compiled steps: embedding images, and comparing embeddings pair by pair or all with all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from siamese_jax.data import augment
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese
from siamese_jax.models.siamese import SiameseNet

# The small warps of test-time augmentation.
TTA_WARP = augment.Affine(
    rotation=5.0, shear=0.1, scale=(0.9, 1.1), translation=2.0, probability=1.0
)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [0, 1]; floats pass as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def make_embed_step(
    model: SiameseNet, devices: Devices, tta: int = 1, fill: str = "paper"
) -> Callable:
    """Compiles `(variables, images (B, H, W, C)) -> (B, D)` embeddings; uint8 or float in [0, 1].

    On several devices each embeds its part of the images and holds the embeddings of all.

    Args:
        model: the network.
        devices: where it runs.
        tta: views of each image in test-time augmentation; 1 for the image alone. The views are the
            image and `tta - 1` small warps `TTA_WARP`, the same ones for every image. Their mean
            embedding is scaled to their mean length.
        fill: as in `augment.warp`.

    Raises:
        ValueError: tta below 1, or no whole number.
    """
    if tta < 1 or tta != int(tta):
        raise ValueError(f"tta is the number of views of an image, at least 1; got {tta}")

    def embed(variables: Any, images: jax.Array) -> jax.Array:
        return siamese.apply(model, variables, images, method="embed")

    def mean_embedding(variables: Any, images: jax.Array) -> jax.Array:
        def warped(key: jax.Array) -> jax.Array:
            keys = jnp.broadcast_to(key, len(images))
            symmetries = jnp.zeros(len(images), jnp.int32)
            return embed(
                variables, augment.augment(keys, images, symmetries, affine=TTA_WARP, fill=fill)
            )

        h = embed(variables, images)
        h = jnp.concatenate(
            [h[None], jax.lax.map(warped, jax.random.split(jax.random.key(0), tta - 1))]
        )
        length = jnp.linalg.norm(h, axis=-1, keepdims=True).mean(0)
        mean = h.mean(0)
        return mean * length / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    function = embed if tta == 1 else mean_embedding
    return _compiled(devices, lambda variables, images: function(variables, to_float(images)))


def make_pair_step(model: SiameseNet, devices: Devices) -> Callable:
    """Compiles `(variables, h1 (B, D), h2 (B, D)) -> (B,)` scores of pairs of embeddings.

    A score is the logit of "same class". It is the diagonal of the one-shot step's table of the B
    embeddings, so that both round alike; B should be small. With a full context each pair is a
    support set of one.

    On several devices each scores its part of the pairs and holds the scores of all.
    """

    def step(variables: Any, h1: jax.Array, h2: jax.Array) -> jax.Array:
        if model.context is not None:
            return siamese.apply(model, variables, h1, h2, method="compare")
        return jnp.diagonal(siamese.apply(model, variables, h1, h2, method="compare_all"))

    return _compiled(devices, step)


def make_one_shot_step(model: SiameseNet, devices: Devices) -> Callable:
    """Compiles `(variables, queries (Q, D), supports (S, D)) -> (Q, S)` scores of embeddings.

    On several devices each scores its part of the queries against supports that it holds whole, and
    gets the scores of all queries.
    """
    return _compiled(devices, functools.partial(siamese.apply, model, method="compare_all"))


def make_class_step(model: SiameseNet, devices: Devices) -> Callable:
    """Compiles `(variables, queries (R, Q, D), supports (R, N, K, D)) -> (R, Q, N)` class scores.

    It is for a network with a full context, which embeds a support set as a whole: the score of a
    class is the logarithm of the attention that its K supports take together.

    On several devices each scores its part of the R runs and holds the scores of all.

    References:
        Vinyals et al. (2016), Matching networks for one shot learning, section 2.1.
    """

    def step(variables: Any, queries: jax.Array, supports: jax.Array) -> jax.Array:
        num_runs, n_way, k_shot, size = supports.shape
        flat = supports.reshape(num_runs, n_way * k_shot, size)
        logits = siamese.apply(model, variables, queries, flat, method="compare_all")
        return jax.nn.logsumexp(logits.reshape(*logits.shape[:2], n_way, k_shot), -1)

    return _compiled(devices, step)


def _compiled(devices: Devices, step: Callable) -> Callable:
    """A step whose results all devices gather."""
    return devices.compile(lambda *arguments: devices.gather(step(*arguments)))
