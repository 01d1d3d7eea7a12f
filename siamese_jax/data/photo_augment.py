"""Augmentation of photos on the device, by key: crops, colours, blur, and erased rectangles.

`augment` composes the crop with its other warps, so that the pictures are read once; the rest comes
after the warp.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in the grey of a picture (ITU-R BT.601)
_REACH = 3  # standard deviations of a blur that are summed on either side


class Photo(NamedTuple):
    """Ranges of the augmentation of photos; the defaults do nothing.

    Attributes:
        crop_area: least and largest share of the picture's area that a crop keeps.
        crop_ratio: least and largest factor of the crop's width by height, against the picture's own.
        upside_down: whether each picture is mirrored top to bottom with probability 1/2.
        saturation: the distance of a colour from its grey is multiplied by a factor that is uniform in
            1 - saturation .. 1 + saturation.
        hue: largest turn of the hue either way, a share of the circle of colours.
        grey: probability that a picture loses its colours.
        blur: largest standard deviation of a Gaussian blur, a share of the picture's height.
        blur_probability: probability that a picture is blurred at all.
        erase: probability that a rectangle is replaced by the picture's mean colour.
        erase_area: least and largest share of the picture's area that the rectangle has.

    Grey pictures have no colours to change: `saturation`, `hue` and `grey` leave them alone.

    References:
        Szegedy et al. (2015), Going deeper with convolutions (crops). Chen et al. (2020), A simple
        framework for contrastive learning of visual representations (colours and blur). Zhong et al.
        (2020), Random erasing data augmentation.
    """

    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    upside_down: bool = False
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_probability: float = 0.5
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.3)

    @classmethod
    def of(cls, fields: Mapping) -> Photo:
        """From a config's fields.

        Raises:
            ValueError: an unknown field.
        """
        unknown = sorted(set(fields) - set(cls._fields))
        if unknown:
            raise ValueError(f"augment.photo has no field {unknown[0]!r}: it has {cls._fields}")
        values: dict[str, Any] = {
            k: tuple(x) if isinstance(x, list) else x for k, x in fields.items()
        }
        return cls(**values)


def crop(key: jax.Array, photo: Photo, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Draws a crop that is enlarged to the whole frame.

    The area is uniform in its range, the logarithm of the ratio too, and the place is uniform. A side
    that would be longer than the picture's is cut to it.

    Args:
        key: PRNG key of one picture.
        photo: see `Photo`.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        (2, 2) matrix and (2,) shift from output to source offsets (x, y) from the centre, pixels; see
        `augment.warp`.
    """
    k_area, k_ratio, k_place = jax.random.split(key, 3)
    area = jax.random.uniform(k_area, minval=photo.crop_area[0], maxval=photo.crop_area[1])
    low, high = (math.log(ratio) for ratio in photo.crop_ratio)
    ratio = jnp.exp(jax.random.uniform(k_ratio, minval=low, maxval=high))
    sides = jnp.minimum(jnp.sqrt(jnp.stack([area * ratio, area / ratio])), 1.0)
    place = jax.random.uniform(k_place, (2,), minval=-0.5, maxval=0.5)
    return jnp.diag(sides), place * (1 - sides) * jnp.array([width, height], jnp.float32)


def finish(keys: jax.Array, images: jax.Array, photo: Photo) -> jax.Array:
    """Changes colours, blurs and erases, each picture by its own key.

    Args:
        keys: (B,) PRNG keys.
        images: (B, H, W, C) float32 in [0, 1].
        photo: see `Photo`.

    Returns:
        (B, H, W, C) float32 in [0, 1].
    """
    colour, grey, blurred, sigma, erased = jax.vmap(
        lambda key: jax.random.split(key, 5), out_axes=1
    )(keys)
    if images.shape[-1] == 3:
        draw = jax.vmap(lambda key: jax.random.uniform(key, (2,), minval=-1.0))(colour)
        if photo.saturation:
            images = saturate(images, 1 + photo.saturation * draw[:, 0])
        if photo.hue:
            images = turn_hue(images, photo.hue * draw[:, 1])
        if photo.grey:
            images = saturate(images, jnp.where(_happens(grey, photo.grey), 0.0, 1.0))
    if photo.blur:
        most = photo.blur * images.shape[1]
        draw = jax.vmap(lambda key: jax.random.uniform(key, maxval=most))(sigma)
        draw = jnp.where(_happens(blurred, photo.blur_probability), draw, 0.0)
        images = blur(images, draw, math.ceil(_REACH * most))
    if photo.erase:
        images = erase(erased, images, photo.erase, photo.erase_area)
    return images


def _happens(keys: jax.Array, probability: float) -> jax.Array:
    """(B,) bool, true with this probability."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)


def saturate(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Multiplies each colour's distance from its grey, and keeps it in [0, 1].

    Args:
        images: (B, H, W, 3) float32 in [0, 1].
        factors: (B,) 0 for grey, 1 for no change.
    """
    grey = sum(weight * images[..., c, None] for c, weight in enumerate(_LUMA))
    return jnp.clip(grey + factors[:, None, None, None] * (images - grey), 0, 1)


def turn_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the hue of every pixel; its largest and smallest channel (value, saturation) stay.

    Args:
        images: (B, H, W, 3) float32 in [0, 1].
        turns: (B,) share of the circle of colours.
    """
    red, green, blue = (images[..., c] for c in range(3))
    high = jnp.maximum(jnp.maximum(red, green), blue)
    span = high - jnp.minimum(jnp.minimum(red, green), blue)
    some = jnp.maximum(span, 1e-12)
    # Not `high == red`: compiled, the two may be computed apart and then differ in the last digit.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / some,
        jnp.where(green >= blue, 2 + (blue - red) / some, 4 + (red - green) / some),
    )  # in sixths of the circle
    hue = hue + 6 * turns[:, None, None]

    def channel(start: float) -> jax.Array:
        """One wave along the circle; those of the three channels are a third of it apart."""
        place = jnp.mod(start + hue, 6)
        return high - span * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return jnp.stack([channel(start) for start in (5.0, 3.0, 1.0)], -1)


def blur(images: jax.Array, sigmas: jax.Array, reach: int) -> jax.Array:
    """Blurs with a Gaussian, one axis after the other; outside, the border is repeated.

    Args:
        images: (B, H, W, C) float32.
        sigmas: (B,) standard deviations, pixels; 0 changes nothing.
        reach: pixels on either side that are summed.
    """
    offsets = jnp.arange(-reach, reach + 1)[None]
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(sigmas, 1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdims=True)
    for axis in (1, 2):
        edge = [(0, 0)] * 4
        edge[axis] = (reach, reach)
        padded, size = jnp.pad(images, edge, mode="edge"), images.shape[axis]
        shifted = [
            weights[:, k, None, None, None] * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
            for k in range(2 * reach + 1)
        ]
        images = functools.reduce(jnp.add, shifted)
    return images


def erase(
    keys: jax.Array, images: jax.Array, probability: float, area: tuple[float, float]
) -> jax.Array:
    """Replaces a rectangle of some pictures by the picture's mean colour.

    The area is uniform in its range; the sides' ratio lies between 0.3 and 1 / 0.3, evenly in its
    logarithm, against that of the picture; the place is uniform within the picture.

    Args:
        keys: (B,) PRNG keys.
        images: (B, H, W, C) float32.
        probability: that a picture has one.
        area: least and largest share of the picture's area.
    """
    _, height, width, _ = images.shape

    def rectangle(key: jax.Array) -> jax.Array:
        k_crop, k_keep = jax.random.split(key)
        photo = Photo(crop_area=area, crop_ratio=(0.3, 1 / 0.3))
        matrix, shift = crop(k_crop, photo, height, width)
        x = jnp.arange(width) - (width - 1) / 2
        y = jnp.arange(height) - (height - 1) / 2
        across = jnp.abs(x - shift[0]) < matrix[0, 0] * width / 2
        down = jnp.abs(y - shift[1]) < matrix[1, 1] * height / 2
        return across[None, :] & down[:, None] & jax.random.bernoulli(k_keep, probability)

    inside = jax.vmap(rectangle)(keys)[..., None]
    return jnp.where(inside, images.mean((1, 2), keepdims=True), images)
