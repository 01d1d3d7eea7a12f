"""Pairs, episodes and single images, drawn on the device as pure functions of a key.

Everything works on row numbers of an `ImageSet` through a small `SetIndex`; no pixels are touched.
Nothing here depends on how many devices there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from siamese_jax.data.image_set import ImageSet

NEGATIVES = ("any", "same_alphabet")
SYMMETRIES = ("none", "alphabet", "character")
NUM_SYMMETRIES = 8


class SetIndex(NamedTuple):
    """Where the rows of each class and the classes of each alphabet lie (see `ImageSet`).

    Attributes:
        class_start: (num_classes,) int32 first row of a class.
        class_count: (num_classes,) int32 images of a class.
        alphabet_start: (num_alphabets,) int32 first class of an alphabet.
        alphabet_count: (num_alphabets,) int32 classes of an alphabet.
        class_alphabet: (num_classes,) int32 alphabet of a class.
        pairs: a `fixed_pairs.PairSet` of the rows, if the objective has fixed pairs; otherwise None.
    """

    class_start: jax.Array
    class_count: jax.Array
    alphabet_start: jax.Array
    alphabet_count: jax.Array
    class_alphabet: jax.Array
    pairs: Any = None

    @classmethod
    def of(cls, image_set: ImageSet) -> SetIndex:
        """The index of an `ImageSet`."""
        return cls(
            jnp.asarray(image_set.class_start),
            jnp.asarray(image_set.class_count),
            jnp.asarray(image_set.alphabet_start),
            jnp.asarray(image_set.alphabet_count),
            jnp.asarray(image_set.class_alphabets, jnp.int32),
        )


class PairBatch(NamedTuple):
    """A batch of pairs.

    Attributes:
        rows: (B, 2) int32 rows of the left and of the right image.
        symmetries: (B, 2) int32 in 0..7, the symmetry applied to each image (see
            `augment.symmetry_matrices`).
        labels: (B,) float32, 1 = same class.
    """

    rows: jax.Array
    symmetries: jax.Array
    labels: jax.Array


class Images(NamedTuple):
    """A batch of single images.

    Attributes:
        rows: (B,) int32 rows.
        symmetries: (B,) int32 in 0..7, the symmetry applied to each image.
        labels: (B,) int32, the class times 8 plus the turn: a turned character is another class.
    """

    rows: jax.Array
    symmetries: jax.Array
    labels: jax.Array


class Episodes(NamedTuple):
    """N-way episodes: the same characters by two drawers, or by more.

    Attributes:
        rows: (E, K, N) int32 rows; column n of all sides shows the same character.
        symmetries: (E, K, N) int32 in 0..7, the same on all sides.
        identities: (E, N) int32, equal exactly where two columns show the same turned character.
        mask: (E, N) bool, False where an alphabet is too small for another way.
    """

    rows: jax.Array
    symmetries: jax.Array
    identities: jax.Array
    mask: jax.Array


def step_keys(rng: jax.Array, step: jax.Array) -> jax.Array:
    """The keys of a step of the run with the key `rng`: of its batch, its warps and its dropout."""
    return jax.random.split(jax.random.fold_in(rng, step), 3)


def _different_images(
    key: jax.Array, index: SetIndex, classes: jax.Array, shape: tuple[int, ...], count: int = 2
) -> jax.Array:
    """Rows of different images of each class, (count, *classes.shape).

    Equal (key, number of images) gives equal slots, drawn with `shape`, which must broadcast against
    `classes`: with one draw an episode and classes that all have the same drawers, each side is one
    drawer's work.
    """
    first, *others = jax.random.uniform(key, (count, *shape))
    images = index.class_count[classes]
    slots = [jnp.minimum((first * images).astype(jnp.int32), images - 1)]
    # from the first slot on, round the images of the class: different, and not 0
    steps: list[jax.Array] = []
    for i, draw in enumerate(others):
        left = images - 1 - i
        step = 1 + jnp.minimum((draw * left).astype(jnp.int32), jnp.maximum(left - 1, 0))
        for taken in jnp.sort(jnp.stack(steps), 0) if steps else ():
            step += step >= taken
        steps.append(step)
        slots.append((slots[0] + step) % images)
    return index.class_start[classes][None] + jnp.stack(slots)


def sample_images(
    key: jax.Array, index: SetIndex, batch: int, *, symmetries: str = "none"
) -> Images:
    """Draws single images, each class equally often.

    Args:
        key: PRNG key.
        index: of the set.
        batch: number of images.
        symmetries: `none`, or anything else of `SYMMETRIES` for a random symmetry an image.

    Returns:
        `Images` of size `batch`.
    """
    _check("symmetries", symmetries, SYMMETRIES)
    k_class, k_draw, k_symmetry = jax.random.split(key, 3)
    classes = jax.random.randint(k_class, (batch,), 0, index.class_start.shape[0])
    rows = index.class_start[classes] + _floor_uniform(k_draw, index.class_count[classes])
    symmetry = jnp.zeros((batch,), jnp.int32)
    if symmetries != "none":
        symmetry = jax.random.randint(k_symmetry, (batch,), 0, NUM_SYMMETRIES)
    return Images(rows, symmetry, classes * NUM_SYMMETRIES + symmetry)


def sample_pairs(
    key: jax.Array,
    index: SetIndex,
    batch: int,
    *,
    negatives: str = "any",
    symmetries: str = "none",
) -> PairBatch:
    """Draws pairs, the first half same and the second half different.

    A same pair is two different images of one class. The classes of a different pair are drawn from
    the whole set (`any`) or both from one alphabet (`same_alphabet`).

    Args:
        key: PRNG key.
        index: of a set whose every class has two images or more.
        batch: number of pairs, even.
        negatives: `any` or `same_alphabet`.
        symmetries: `none`, or anything else of `SYMMETRIES` for a random symmetry a pair, the same
            for both images.

    Returns:
        `PairBatch` of size `batch`.
    """
    _check("negatives", negatives, NEGATIVES)
    _check("symmetries", symmetries, SYMMETRIES)
    if batch % 2:
        raise ValueError(f"a batch of pairs must be even to be half same, half different: {batch}")
    k_class, k_other, k_same, k_draw, k_symmetry = jax.random.split(key, 5)
    half = batch // 2
    num_classes = index.class_start.shape[0]
    classes = jax.random.randint(k_class, (batch,), 0, num_classes)
    same = _different_images(k_same, index, classes[:half], (half,))

    left = classes[half:]
    if negatives == "any":
        begin, size = jnp.zeros_like(left), jnp.full_like(left, num_classes)
    else:
        alphabet = index.class_alphabet[left]
        begin, size = index.alphabet_start[alphabet], index.alphabet_count[alphabet]
    shift = 1 + _floor_uniform(k_other, size - 1)
    right = begin + (left - begin + shift) % size
    different = jnp.stack([left, right])
    different = index.class_start[different] + _floor_uniform(k_draw, index.class_count[different])

    symmetry = jnp.zeros((batch,), jnp.int32)
    if symmetries != "none":
        symmetry = jax.random.randint(k_symmetry, (batch,), 0, NUM_SYMMETRIES)
    labels = (jnp.arange(batch) < half).astype(jnp.float32)
    rows = jnp.concatenate([same, different], axis=1).T
    return PairBatch(rows, jnp.stack([symmetry, symmetry], axis=1), labels)


def sample_episodes(
    key: jax.Array,
    index: SetIndex,
    episodes: int,
    n_way: int,
    *,
    symmetries: str = "none",
    pad_with_symmetries: bool = False,
    max_alphabet: int,
    images_per_class: int = 2,
) -> Episodes:
    """Draws N-way episodes, each inside one alphabet and between some of its drawers.

    The alphabet is drawn in proportion to its number of characters, so that every character is seen
    equally often.

    Args:
        key: PRNG key.
        index: of a set whose every class has `images_per_class` images or more.
        episodes: number of episodes E.
        n_way: characters an episode N.
        symmetries: `none`; `alphabet`, one random symmetry for all characters of an episode (a turned
            alphabet is another alphabet); `character`, one for each character.
        pad_with_symmetries: whether turned copies of its characters (each another character) fill
            up an alphabet that has fewer than N; otherwise such an episode has fewer ways.
        max_alphabet: number of characters of the largest alphabet (a static size).
        images_per_class: different images of each character, K.

    Returns:
        `Episodes` of shape (E, K, N).
    """
    _check("symmetries", symmetries, SYMMETRIES)
    k_alphabet, k_order, k_draw, k_symmetry = jax.random.split(key, 4)
    num_classes = index.class_start.shape[0]
    alphabet = index.class_alphabet[jax.random.randint(k_alphabet, (episodes,), 0, num_classes)]
    size = index.alphabet_count[alphabet][:, None]

    order = jax.random.uniform(k_order, (episodes, max_alphabet))
    order = jnp.where(jnp.arange(max_alphabet)[None, :] < size, order, 2.0)
    order = jnp.argsort(order, axis=1)  # a random order of the characters, absent ones last
    slot = jnp.arange(n_way)[None, :]
    character = jnp.take_along_axis(order, jnp.minimum(slot % size, max_alphabet - 1), axis=1)
    classes = index.alphabet_start[alphabet][:, None] + character
    rows = _different_images(k_draw, index, classes, (episodes, 1), images_per_class)

    symmetry = jnp.zeros((episodes, n_way), jnp.int32)
    if symmetries == "alphabet":
        symmetry += jax.random.randint(k_symmetry, (episodes, 1), 0, NUM_SYMMETRIES)
    elif symmetries == "character":
        symmetry += jax.random.randint(k_symmetry, (episodes, n_way), 0, NUM_SYMMETRIES)
        symmetry = jnp.where(slot < size, symmetry, jnp.take_along_axis(symmetry, slot % size, 1))
    copies = slot // size
    symmetry = (symmetry + copies) % NUM_SYMMETRIES
    mask = (copies < NUM_SYMMETRIES) if pad_with_symmetries else (copies < 1)
    return Episodes(
        rows.swapaxes(0, 1),
        jnp.stack([symmetry] * images_per_class, axis=1),
        classes * NUM_SYMMETRIES + symmetry,
        mask,
    )


def _floor_uniform(key: jax.Array, size: jax.Array) -> jax.Array:
    """Integers in 0 .. size - 1, one for each entry of the int32 array `size`."""
    draw = (jax.random.uniform(key, size.shape) * size).astype(jnp.int32)
    return jnp.minimum(draw, size - 1)


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} must be one of {allowed}, got {value!r}")
