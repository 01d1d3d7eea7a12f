"""The siamese network: twin encoders with shared weights and a comparator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from siamese_jax.models.comparators import COMPARATORS, Comparator
from siamese_jax.models.context import FullContext
from siamese_jax.models.distances import unit
from siamese_jax.models.encoders import (
    ENCODERS,
    DenseEncoder,
    KochEncoder,
    ResidualEncoder,
    SmallEncoder,
)
from siamese_jax.models.layers import normal_init

Dtype = Any

DTYPES = ("float32", "bfloat16", "float64")


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


def build(
    fields: Mapping,
    image_shape: Sequence[int] | None = None,
    axis_name: str | None = None,
    classes: int = 0,
) -> SiameseNet:
    """The network that a config's `model` section describes.

    Args:
        fields: `encoder` (one of `ENCODERS`), `comparator` (one of `COMPARATORS`), `dtype` (one of
            `DTYPES`), under `encoder_args` and `head_args` the attributes of the chosen classes, and,
            if wanted, `context_steps`: those of `FullContext`, 0 for none.
        image_shape: (H, W, C) of the images; only the comparator `local` needs it.
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
        built = encoder(**args)
        if fields["comparator"] == "local":
            head_args["places"] = built.places(image_shape)
        return SiameseNet(
            built,
            Comparator(kind=fields["comparator"], **head_args),
            FullContext(steps) if steps else None,
            CosineClassifier(classes) if classes else None,
        )
    except TypeError as error:
        raise ValueError(f"model.encoder_args or head_args do not fit {name}: {error}") from None
