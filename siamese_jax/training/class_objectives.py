"""Objectives with one learned vector for every training class: each image meets all classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from siamese_jax.training import losses, sampling
from siamese_jax.training.objective import Compare, Loss, Objective, anew


def classifier(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Cross-entropy of a softmax layer over the training classes."""
    smoothing = fields.get("label_smoothing", 0.0)

    def loss(compare: Compare, h: jax.Array, images: sampling.Images) -> Loss:
        logits = compare.classify(h)
        values = losses.softmax(logits, images.labels, smoothing)
        return values.mean(), {"accuracy": (logits.argmax(-1) == images.labels).mean()}

    return _of_images(fields, num_classes, loss)


def arcface(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """ArcFace: a softmax of cosines with a margin of the angle."""
    return _with_margin(losses.arcface, fields, num_classes)


def cosface(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """CosFace: a softmax of cosines with a margin of the cosine."""
    return _with_margin(losses.cosface, fields, num_classes)


def proxy_anchor(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Proxy-anchor loss, the proxies of the classes learned with the network."""
    margin, scale = fields["margin"], fields["scale"]

    def loss(compare: Compare, h: jax.Array, images: sampling.Images) -> Loss:
        cosine, labels = compare.class_cosines(h), images.labels
        positive, negative = losses.proxy_anchor(cosine, labels, margin, scale)
        present = jnp.zeros(positive.shape, bool).at[labels].set(True)
        value = positive.mean(where=present) + negative.mean()
        return value, {"accuracy": (cosine.argmax(-1) == labels).mean()}

    return _of_images(fields, num_classes, loss)


def _with_margin(
    values_of: Callable[..., jax.Array], fields: Mapping, num_classes: int
) -> Objective:
    margin, scale = fields["margin"], fields["scale"]
    smoothing = fields.get("label_smoothing", 0.0)

    def loss(compare: Compare, h: jax.Array, images: sampling.Images) -> Loss:
        cosine = compare.class_cosines(h)
        values = values_of(cosine, images.labels, margin, scale, smoothing)
        return values.mean(), {"accuracy": (cosine.argmax(-1) == images.labels).mean()}

    return _of_images(fields, num_classes, loss)


def _of_images(
    fields: Mapping,
    num_classes: int,
    loss: Callable[[Compare, jax.Array, sampling.Images], Loss],
) -> Objective:
    """An objective on single images, drawn as `balance` weighs the classes; a turned one is another."""
    batch, turned = fields["batch"], fields["symmetries"] != "none"
    symmetries = sampling.NUM_SYMMETRIES if turned else 1

    def draw(key: jax.Array, index: sampling.SetIndex) -> sampling.Images:
        drawn = sampling.sample_images(key, index, batch, symmetries=fields["symmetries"])
        return drawn if turned else drawn._replace(labels=drawn.labels // sampling.NUM_SYMMETRIES)

    classes = num_classes * symmetries
    return Objective(
        anew(draw), loss, batch, batch, ("accuracy",), classes=classes, images_per_class=1
    )
