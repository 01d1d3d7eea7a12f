"""Pairs, episodes and single images, drawn on the device as pure functions of a key.

Everything works on row numbers of an `ImageSet` through a small `SetIndex`; no pixels are touched.
Nothing here depends on how many devices there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from siamese_jax.data.image_set import ImageSet
from siamese_jax.readers import check_choice

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
        weight_end: (num_classes,) int32 cumulative weights of the classes, where they are drawn by
            weight; None where each is drawn equally often.
    """

    class_start: jax.Array
    class_count: jax.Array
    alphabet_start: jax.Array
    alphabet_count: jax.Array
    class_alphabet: jax.Array
    pairs: Any = None
    weight_end: jax.Array | None = None

    @classmethod
    def of(cls, image_set: ImageSet, balance: float = 1.0) -> SetIndex:
        """The index of an `ImageSet`.

        Args:
            image_set: the set.
            balance: how evenly classes of unequal sizes are drawn: a class of n images has the weight
                n ** (1 - balance). 1 draws each class equally often, 0 each image.
        """
        return cls(
            jnp.asarray(image_set.class_start),
            jnp.asarray(image_set.class_count),
            jnp.asarray(image_set.alphabet_start),
            jnp.asarray(image_set.alphabet_count),
            jnp.asarray(image_set.class_alphabets, jnp.int32),
            weight_end=None if balance == 1 else _weight_end(image_set.class_count, balance),
        )


def _weight_end(counts: np.ndarray, balance: float) -> jax.Array:
    """Cumulative weights as whole numbers, so that a draw by them is exact."""
    weights = np.asarray(counts, np.float64) ** (1 - balance)
    room = 2**30 - len(counts)  # below int32 with one for every class
    weights = np.maximum(1, np.rint(weights / weights.sum() * room)).astype(np.int64)
    return jnp.asarray(np.cumsum(weights), jnp.int32)


def _draw_classes(key: jax.Array, index: SetIndex, shape: tuple[int, ...]) -> jax.Array:
    """Classes by their weights, or each equally often."""
    if index.weight_end is None:
        return jax.random.randint(key, shape, 0, index.class_start.shape[0])
    place = jax.random.randint(key, shape, 0, index.weight_end[-1])
    return _class_at(index.weight_end, place)


def _class_at(weight_end: jax.Array, place: jax.Array) -> jax.Array:
    """The class whose stretch of the cumulative weights holds each place."""
    return jnp.searchsorted(weight_end, place, side="right").astype(jnp.int32)


def _other_classes(
    key: jax.Array, index: SetIndex, left: jax.Array, begin: jax.Array, size: jax.Array
) -> jax.Array:
    """Other classes than `left` of `begin` .. `begin + size - 1`, by their weights."""
    if index.weight_end is None:
        shift = 1 + _floor_uniform(key, size - 1)
        return begin + (left - begin + shift) % size
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), index.weight_end])
    left_weight, first = starts[left + 1] - starts[left], starts[begin]
    place = first + jax.random.randint(
        key, left.shape, 0, starts[begin + size] - first - left_weight
    )
    return _class_at(index.weight_end, jnp.where(place < starts[left], place, place + left_weight))


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
    """Draws single images, the classes as the index weighs them.

    Args:
        key: PRNG key.
        index: of the set.
        batch: number of images.
        symmetries: `none`, or anything else of `SYMMETRIES` for a random symmetry an image.

    Returns:
        `Images` of size `batch`.
    """
    check_choice("symmetries", symmetries, SYMMETRIES)
    k_class, k_draw, k_symmetry = jax.random.split(key, 3)
    classes = _draw_classes(k_class, index, (batch,))
    rows = index.class_start[classes] + _floor_uniform(k_draw, index.class_count[classes])
    symmetry = _draw_symmetries(k_symmetry, batch, symmetries)
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
    check_choice("negatives", negatives, NEGATIVES)
    check_choice("symmetries", symmetries, SYMMETRIES)
    if batch % 2:
        raise ValueError(f"a batch of pairs must be even to be half same, half different: {batch}")
    k_class, k_other, k_same, k_draw, k_symmetry = jax.random.split(key, 5)
    half = batch // 2
    num_classes = index.class_start.shape[0]
    classes = _draw_classes(k_class, index, (batch,))
    same = _different_images(k_same, index, classes[:half], (half,))

    left = classes[half:]
    if negatives == "any":
        begin, size = jnp.zeros_like(left), jnp.full_like(left, num_classes)
    else:
        alphabet = index.class_alphabet[left]
        begin, size = index.alphabet_start[alphabet], index.alphabet_count[alphabet]
    right = _other_classes(k_other, index, left, begin, size)
    different = jnp.stack([left, right])
    different = index.class_start[different] + _floor_uniform(k_draw, index.class_count[different])

    symmetry = _draw_symmetries(k_symmetry, batch, symmetries)
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

    The alphabet is drawn in proportion to the weights of its characters, so that without weights
    every character is seen equally often. An index with weights draws the characters by them too.

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
    check_choice("symmetries", symmetries, SYMMETRIES)
    k_alphabet, k_order, k_draw, k_symmetry = jax.random.split(key, 4)
    alphabet = index.class_alphabet[_draw_classes(k_alphabet, index, (episodes,))]
    size = index.alphabet_count[alphabet][:, None]

    order = jax.random.uniform(k_order, (episodes, max_alphabet))
    column = jnp.arange(max_alphabet)[None, :]
    if index.weight_end is not None:
        # A race of exponential times, which the heavier win more often.
        classes = index.alphabet_start[alphabet][:, None] + jnp.minimum(column, size - 1)
        weights = jnp.diff(index.weight_end, prepend=0)[classes]
        order = -jnp.log1p(-order) / weights
    order = jnp.where(column < size, order, jnp.inf)
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


def _draw_symmetries(key: jax.Array, count: int, symmetries: str) -> jax.Array:
    """(count,) int32 symmetries, each by chance; 0 throughout where `symmetries` is `none`."""
    if symmetries == "none":
        return jnp.zeros((count,), jnp.int32)
    return jax.random.randint(key, (count,), 0, NUM_SYMMETRIES)


def _floor_uniform(key: jax.Array, size: jax.Array) -> jax.Array:
    """Integers in 0 .. size - 1, one for each entry of the int32 array `size`."""
    draw = (jax.random.uniform(key, size.shape) * size).astype(jnp.int32)
    return jnp.minimum(draw, size - 1)
