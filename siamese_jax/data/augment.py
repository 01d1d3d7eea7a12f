"""Batched image warps on the device, by key.

A warp is a map from output pixels to source positions; symmetries, flips, crops, affine distortions
and elastic displacements are composed into one map and the images are read once, bilinearly. Outside,
ink reads paper (0) and photos repeat their edge.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from siamese_jax.data import photo_augment
from siamese_jax.data.photo_augment import Photo

# Accelerators round the factors of a matrix product to 8 or 11 bits unless told not to; a position
# needs more.
_einsum = functools.partial(jnp.einsum, precision="highest")


class Affine(NamedTuple):
    """Ranges of the affine distortions, by default those of Koch et al. (2015), section 3.3.

    Attributes:
        rotation: largest angle, degrees.
        shear: largest shear along either axis, a ratio.
        scale: smallest and largest factor along either axis.
        translation: largest shift along either axis, pixels of a 105-pixel image.
        probability: chance of each component being included.
    """

    rotation: float = 10.0
    shear: float = 0.3
    scale: tuple[float, float] = (0.8, 1.2)
    translation: float = 2.0
    probability: float = 0.5

    @classmethod
    def of(cls, fields: Mapping) -> Affine:
        """From a config's fields.

        Raises:
            ValueError: an unknown field.
        """
        fields = dict(fields)
        unknown = sorted(set(fields) - set(cls._fields))
        if unknown:
            raise ValueError(f"augment.affine has no field {unknown[0]!r}: it has {cls._fields}")
        if "scale" in fields:
            fields["scale"] = tuple(fields["scale"])
        return cls(**fields)


def build(fields: Mapping) -> dict:
    """What a config's `augment` section describes, as keyword arguments of `augment`.

    Args:
        fields: `distort`, and where it is true `affine` (fields of `Affine`), `elastic_size` and
            `elastic_grid`, and if wanted `thicken`, `mirror`, `contrast`, `brightness`, and `photo`
            (fields of `Photo`); see `augment`.

    Raises:
        ValueError: an unknown field of `affine` or `photo`, or strokes that would become thinner.
    """
    if not fields["distort"]:
        return {"affine": None}
    if not fields.get("thicken", 0) >= 0:
        raise ValueError(f"augment.thicken must be at least 0, got {fields['thicken']}")
    return {
        "affine": Affine.of(fields["affine"]),
        "elastic_size": fields["elastic_size"],
        "elastic_grid": fields["elastic_grid"],
        **{
            name: fields[name]
            for name in ("thicken", "mirror", "contrast", "brightness")
            if name in fields
        },
        **({"photo": Photo.of(fields["photo"])} if "photo" in fields else {}),
    }


def symmetry_matrices(symmetries: jax.Array) -> jax.Array:
    """The eight symmetries of the square as matrices on (x, y) offsets from the centre.

    Args:
        symmetries: (...) int32 in 0..7: the image makes `symmetries % 4` quarter turns against the clock
            and is then mirrored left to right where `symmetries >= 4`.

    Returns:
        (..., 2, 2) float32. Symmetry 0 is the identity.
    """
    quarter = symmetries % 4
    cos = jnp.array([1.0, 0.0, -1.0, 0.0])[quarter]
    sin = jnp.array([0.0, 1.0, 0.0, -1.0])[quarter]
    mirror = jnp.where(symmetries >= 4, -1.0, 1.0)
    return jnp.stack([jnp.stack([cos * mirror, -sin], -1), jnp.stack([sin * mirror, cos], -1)], -2)


def affine_matrices(key: jax.Array, ranges: Affine) -> tuple[jax.Array, jax.Array]:
    """Draws one affine distortion.

    The components are drawn uniformly from their ranges and each is kept with the given probability:
    rotation, shear along x, shear along y, scale of x, scale of y, shift of x, shift of y.

    Args:
        key: PRNG key of one image.
        ranges: see `Affine`.

    Returns:
        (2, 2) matrix and (2,) shift from output to source offsets (x, y), see `warp`; the shift is in
        pixels of a 105-pixel image.
    """
    k_value, k_keep = jax.random.split(key)
    low = jnp.array(
        [-ranges.rotation, -ranges.shear, -ranges.shear, ranges.scale[0], ranges.scale[0]]
        + [-ranges.translation] * 2
    )
    high = jnp.array(
        [ranges.rotation, ranges.shear, ranges.shear, ranges.scale[1], ranges.scale[1]]
        + [ranges.translation] * 2
    )
    neutral = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    value = low + (high - low) * jax.random.uniform(k_value, (7,))
    keep = jax.random.uniform(k_keep, (7,)) < ranges.probability
    angle, shear_x, shear_y, scale_x, scale_y, shift_x, shift_y = jnp.where(keep, value, neutral)
    angle = jnp.deg2rad(angle)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = jnp.array([[cos, -sin], [sin, cos]])
    shear = jnp.array([[1.0, shear_x], [shear_y, 1.0]])
    scale = jnp.array([[scale_x, 0.0], [0.0, scale_y]])
    return _einsum("ij,jk,kl->il", rotation, shear, scale), jnp.array([shift_x, shift_y])


def elastic_displacement(
    key: jax.Array, height: int, width: int, grid: int, size: float
) -> jax.Array:
    """A smooth random displacement field.

    Normal displacements at `grid` x `grid` knots, interpolated with a cubic kernel.

    Args:
        key: PRNG key of one image.
        height: of the image, pixels.
        width: of the image, pixels.
        grid: knots along either axis.
        size: standard deviation at a knot, as a fraction of the image's side.

    Returns:
        (height, width, 2) float32 displacement along (x, y), pixels.
    """
    knots = size * jax.random.normal(key, (grid, grid, 2))
    field = jax.image.resize(knots, (height, width, 2), "cubic")
    return field * jnp.array([[[width, height]]], jnp.float32)


def thicken_strokes(images: jax.Array, amounts: jax.Array, most: int) -> jax.Array:
    """Draws the ink of each image with a wider pen.

    Whole pixels are maxima over squares that grow by one pixel on each side; between two of them the
    images are blended.

    Args:
        images: (B, H, W, C) float32, ink above paper.
        amounts: (B,) pixels on each side of a stroke, 0 for none.
        most: whole pixels that no amount is above.

    Returns:
        (B, H, W, C) float32.
    """
    amounts = amounts[:, None, None, None]

    # XLA computes once what enters a loop. Written out, it would warp anew for each pixel's neighbours.
    def widen(i: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        before, result = state
        wider = before
        for axis in (1, 2):
            edge = [(0, 0)] * 4
            edge[axis] = (1, 1)
            padded = jnp.pad(wider, edge, constant_values=-jnp.inf)
            size = wider.shape[axis]
            parts = [jax.lax.slice_in_dim(padded, j, j + size, axis=axis) for j in range(3)]
            wider = functools.reduce(jnp.maximum, parts)
        return wider, result + jnp.clip(amounts - i, 0, 1) * (wider - before)

    return jax.lax.fori_loop(0, most, widen, (images, images))[1]


def relight(keys: jax.Array, images: jax.Array, contrast: float, brightness: float) -> jax.Array:
    """Changes the light of each image: `0.5 + factor (value - 0.5) + shift`, kept in [0, 1].

    Args:
        keys: (B,) PRNG keys.
        images: (B, H, W, C) float32 in [0, 1].
        contrast: the factor is uniform in 1 - contrast .. 1 + contrast.
        brightness: the shift is uniform in -brightness .. brightness.

    Returns:
        (B, H, W, C) float32 in [0, 1].
    """
    draw = jax.vmap(lambda key: jax.random.uniform(key, (2,), minval=-1.0))(keys)
    factor = (1 + contrast * draw[:, 0])[:, None, None, None]
    shift = (brightness * draw[:, 1])[:, None, None, None]
    return jnp.clip(0.5 + factor * (images - 0.5) + shift, 0, 1)


def warp(
    images: jax.Array,
    matrices: jax.Array,
    shifts: jax.Array,
    displacements: jax.Array | None = None,
    *,
    fill: str = "paper",
) -> jax.Array:
    """Reads each image at `matrix @ offset + shift + displacement`, offsets taken from the centre.

    Args:
        images: (B, H, W, C) float32.
        matrices: (B, 2, 2) maps of output to source offsets (x, y).
        shifts: (B, 2) shifts of the source position, pixels.
        displacements: (B, H, W, 2) further displacements, pixels, or None.
        fill: `paper` reads 0 outside of the image, `edge` repeats its border.

    Returns:
        (B, H, W, C) float32.
    """
    batch, height, width, channels = images.shape
    x = (jnp.arange(width) - (width - 1) / 2)[None, None, :]
    y = (jnp.arange(height) - (height - 1) / 2)[None, :, None]
    m, shift = matrices[..., None, None], shifts[..., None, None]
    source_x = m[:, 0, 0] * x + m[:, 0, 1] * y + shift[:, 0] + (width - 1) / 2  # (B, H, W)
    source_y = m[:, 1, 0] * x + m[:, 1, 1] * y + shift[:, 1] + (height - 1) / 2
    if displacements is not None:
        source_x, source_y = source_x + displacements[..., 0], source_y + displacements[..., 1]
    # One pixel of border holds what lies outside, so that no read needs a mask.
    mode = {"paper": "constant", "edge": "edge"}[fill]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    source_x = jnp.clip(source_x + 1, 0, width + 1)
    source_y = jnp.clip(source_y + 1, 0, height + 1)
    left = jnp.clip(source_x.astype(jnp.int32), 0, width)  # whatever came in: it is promised below
    top = jnp.clip(source_y.astype(jnp.int32), 0, height)
    across, down = source_x - left, source_y - top
    # Numbers read one by one out of one flat array: on a CPU by far the quickest gather.
    first = jnp.arange(batch)[:, None, None] * ((height + 2) * (width + 2))
    corner = first + top * (width + 2) + left

    def warp_channel(pixels: jax.Array) -> jax.Array:
        def read(step: int) -> jax.Array:
            return pixels.at[corner + step].get(mode="promise_in_bounds")

        upper = read(0) * (1 - across) + read(1) * across
        lower = read(width + 2) * (1 - across) + read(width + 3) * across
        return upper * (1 - down) + lower * down

    return jnp.stack([warp_channel(padded[..., c].ravel()) for c in range(channels)], -1)


def augment(
    keys: jax.Array,
    images: jax.Array,
    symmetries: jax.Array,
    *,
    affine: Affine | None = None,
    elastic_size: float = 0.0,
    elastic_grid: int = 4,
    thicken: float = 0.0,
    mirror: bool = False,
    contrast: float = 0.0,
    brightness: float = 0.0,
    photo: Photo | None = None,
    fill: str = "paper",
) -> jax.Array:
    """Turns, mirrors and distorts a batch, each image by its own key.

    Args:
        keys: (B,) PRNG keys.
        images: (B, H, W, C) float32 in [0, 1].
        symmetries: (B,) int32 symmetries, see `symmetry_matrices`; all 0 unless H = W.
        affine: ranges of the affine distortion, None for none.
        elastic_size: see `elastic_displacement`; 0 for none.
        elastic_grid: knots of the elastic displacement along either axis.
        thicken: with probability 1/2 the strokes of an image become wider, on each side by up to this
            fraction of the image's height, see `thicken_strokes`; for ink.
        mirror: whether each image is mirrored left to right with probability 1/2: for pictures whose
            class stays the same then, such as faces.
        contrast: see `relight`.
        brightness: see `relight`.
        photo: ranges of the augmentation of photos, None for none.
        fill: `paper` or `edge`, see `warp`.

    Returns:
        (B, H, W, C) float32 in [0, 1].
    """
    batch, height, width, _ = images.shape
    k_affine, k_elastic, k_mirror, k_light = jax.vmap(
        lambda key: jax.random.split(key, 4), out_axes=1
    )(keys)
    matrices = jnp.broadcast_to(jnp.eye(2), (batch, 2, 2))
    shifts = jnp.zeros((batch, 2))
    if affine is not None:
        matrices, shifts = jax.vmap(affine_matrices, (0, None))(k_affine, affine)
        shifts = shifts * jnp.array([[width / 105, height / 105]])
    if photo is not None:
        k_crop, k_turn, k_finish = jax.vmap(
            lambda key: jax.random.split(jax.random.fold_in(key, 5), 3), out_axes=1
        )(keys)
        crops, places = jax.vmap(lambda key: photo_augment.crop(key, photo, height, width))(k_crop)
        shifts = places + _einsum("bjk,bk->bj", crops, shifts)
        matrices = _einsum("bij,bjk->bik", crops, matrices)
    displacements = None
    if elastic_size:
        displacements = jax.vmap(
            lambda key: elastic_displacement(key, height, width, elastic_grid, elastic_size)
        )(k_elastic)
    symmetry = symmetry_matrices(symmetries)
    if mirror:
        flips = jax.vmap(lambda key: jax.random.bernoulli(key))(k_mirror)
        symmetry = _einsum("bij,bjk->bik", symmetry_matrices(4 * flips.astype(jnp.int32)), symmetry)
    if photo is not None and photo.upside_down:
        flips = jax.vmap(lambda key: jax.random.bernoulli(key))(k_turn)
        symmetry = _einsum("bij,bjk->bik", symmetry_matrices(6 * flips.astype(jnp.int32)), symmetry)
    if displacements is not None:
        displacements = _einsum("bjk,bhwk->bhwj", symmetry, displacements)
    shifts = _einsum("bjk,bk->bj", symmetry, shifts)
    matrices = _einsum("bij,bjk->bik", symmetry, matrices)
    images = warp(images, matrices, shifts, displacements, fill=fill)
    if thicken:
        most = thicken * height
        draw = jax.vmap(
            lambda key: jax.random.uniform(jax.random.fold_in(key, 4), minval=-most, maxval=most)
        )
        images = thicken_strokes(images, jnp.maximum(draw(keys), 0), math.ceil(most))
    if contrast or brightness:
        images = relight(k_light, images, contrast, brightness)
    return images if photo is None else photo_augment.finish(k_finish, images, photo)
