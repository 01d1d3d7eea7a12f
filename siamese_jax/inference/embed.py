"""The compiled steps that embed images and compare embeddings."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from siamese_jax.data import augment
from siamese_jax.inference.devices import Devices
from siamese_jax.models.siamese import SiameseNet


def to_float(images: jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [0, 1]; floats pass as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


VIEW = augment.Affine(
    rotation=5.0, shear=0.1, scale=(0.9, 1.1), translation=2.0, probability=1.0
)  # the small warps by which an image is seen more than once


def make_embed_step(
    model: SiameseNet, devices: Devices, views: int = 1, fill: str = "paper"
) -> Callable:
    """Compiles `(variables, images (B, H, W, C)) -> (B, D)` embeddings; uint8 or float in [0, 1].

    On several devices each embeds its part of the images and holds the embeddings of all.

    Args:
        model: the network.
        devices: where it runs.
        views: how often each image is seen: as it is, and by `views - 1` small warps `VIEW`, the same
            for every image. The mean of the embeddings is given their mean length.
        fill: as in `make_train_step`.

    Raises:
        ValueError: views below 1.
    """
    if views < 1:
        raise ValueError(f"an image is seen at least once, got views = {views}")

    def embed(variables, images):
        return model.apply(variables, images, method="embed")

    def mean_embedding(variables, images):
        def warped(key):
            keys = jnp.broadcast_to(key, len(images))
            symmetries = jnp.zeros(len(images), jnp.int32)
            return embed(
                variables, augment.augment(keys, images, symmetries, affine=VIEW, fill=fill)
            )

        h = embed(variables, images)
        h = jnp.concatenate(
            [h[None], jax.lax.map(warped, jax.random.split(jax.random.key(0), views - 1))]
        )
        length = jnp.linalg.norm(h, axis=-1, keepdims=True).mean(0)
        mean = h.mean(0)
        return mean * length / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    function = embed if views == 1 else mean_embedding
    return devices.compile(
        lambda variables, images: devices.gather(function(variables, to_float(images)))
    )


def make_pair_step(model: SiameseNet, devices: Devices) -> Callable:
    """Compiles `(variables, images1 (B, H, W, C), images2 (B, H, W, C)) -> (B,)` scores.

    A score is the logit of "same class".
    """
    return devices.compile(
        lambda variables, images1, images2: model.apply(
            variables, to_float(images1), to_float(images2)
        )
    )


def make_one_shot_step(model: SiameseNet, devices: Devices) -> Callable:
    """Compiles `(variables, queries (Q, H, W, C), supports (S, H, W, C)) -> (Q, S)` scores.

    Every image is embedded once, Q + S passes for Q x S scores.
    """

    def step(variables, queries, supports):
        both = jnp.concatenate([to_float(queries), to_float(supports)])
        h = model.apply(variables, both, method="embed")
        queries, supports = h[: len(queries)], h[len(queries) :]
        return model.apply(variables, queries, supports, method="compare_all")

    return devices.compile(step)
