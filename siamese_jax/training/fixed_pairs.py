"""Fixed sets of training pairs, as in Koch et al. (2015): drawn once, then visited in epochs.

`make_pairs` draws the P pairs of a set on the host. With c distorted copies of each pair an epoch has
n = P (c + 1) examples. It visits each of them once, in an order that differs between epochs; a batch may
span the border of two. Nothing of that is stored. The order is a bijection of 0 .. n - 1, computed when
it is needed. The distortion of a copy depends only on the run's key, the pair and the copy.

References:
    Koch, Zemel, Salakhutdinov (2015), Siamese neural networks for one-shot image recognition,
    sections 3.3 and 4.1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from siamese_jax.data.image_set import ImageSet
from siamese_jax.readers import check_choice
from siamese_jax.training.sampling import NEGATIVES

_ROUNDS = 8  # of the keyed permutation
_ORDER_AND_WARPS = 2**32 - 1  # folded into a run's key: no step has this number


class PairSet(NamedTuple):
    """P pairs of rows of an `ImageSet`, half same and half different.

    Attributes:
        rows: (P, 2) int32 rows of the left and of the right image.
        labels: (P,) float32, 1 = same class.
        repeats: (num_alphabets, 2) int32, how many of an alphabet's different [0] and same [1] pairs
            stand in the set already.
    """

    rows: np.ndarray
    labels: np.ndarray
    repeats: np.ndarray


class FixedPairs(NamedTuple):
    """A batch of a pair set: the fields of `sampling.PairBatch`, and how its images are warped.

    Attributes:
        rows: (B, 2) int32 rows of the left and of the right image.
        symmetries: (B, 2) int32, all 0.
        labels: (B,) float32, 1 = same class.
        keys: (B, 2) PRNG key of each image's warp.
        distort: (B, 2) bool, False for the images of a pair's undistorted original.
    """

    rows: jax.Array
    symmetries: jax.Array
    labels: jax.Array
    keys: jax.Array
    distort: jax.Array


# ------------------------------------------------------------------------------------ on the host


def possible_pairs(image_set: ImageSet) -> tuple[int, int]:
    """How many pairs of two different images an `ImageSet` has, the order not counting.

    Returns:
        The number of all pairs, and of those of one class.
    """
    return math.comb(len(image_set), 2), sum(math.comb(int(n), 2) for n in image_set.class_count)


def make_pairs(image_set: ImageSet, num_pairs: int, seed: int, negatives: str = "any") -> PairSet:
    """Draws a pair set: the same number from each alphabet, half of it same and half different.

    No image meets itself. No pair is drawn twice, in either order, until an alphabet has no other;
    then its pairs are drawn anew, again each once. A same pair is any of the alphabet's. A different
    pair is any of the alphabet's, or with `any` negatives any that has an image of the alphabet.

    That half of the pairs are same is our choice: the paper says only that they are random.

    Args:
        image_set: the images of the drawers to train on.
        num_pairs: P, a multiple of twice the number of alphabets.
        seed: of the draw.
        negatives: `any` or `same_alphabet`, where the second image of a different pair comes from.

    Returns:
        The pairs alphabet by alphabet, the same ones first; which image stands left is random.

    Raises:
        ValueError: a number that cannot be shared out, unknown negatives, or an alphabet without any
            same or different pair.
    """
    check_choice("negatives", negatives, NEGATIVES)
    num_alphabets = image_set.num_alphabets
    each, left_over = divmod(num_pairs, 2 * num_alphabets)
    if each < 1 or left_over:
        near = 2 * num_alphabets * max(1, round(num_pairs / (2 * num_alphabets)))
        raise ValueError(
            f"{num_pairs} pairs cannot be shared out evenly, half same and half different, by "
            f"{num_alphabets} alphabets: take a multiple of {2 * num_alphabets}, such as {near}"
        )
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    repeats = []
    used = np.empty(0, np.int64)  # different pairs that are in the set, as codes
    for alphabet in range(num_alphabets):
        same = _same_pairs(image_set, alphabet)
        spans = _other_spans(image_set, alphabet, negatives)
        for label, size in (("same", len(same)), ("different", int(spans[1].sum()))):
            if not size:
                name = image_set.alphabet_names[alphabet]
                raise ValueError(f"alphabet {name!r} of {image_set.name!r} has no {label} pairs")
        positive = same[_draw(rng, len(same), each)]
        different, new = _draw_different(rng, len(image_set), *spans, each, used)
        used = np.concatenate([used, new])
        parts += [positive, different]
        repeats.append((each - len(new), max(0, each - len(same))))
    rows = np.concatenate(parts)
    swapped = rng.integers(0, 2, len(rows), bool)
    rows[swapped] = rows[swapped, ::-1]
    labels = np.tile(np.repeat(np.array([1.0, 0.0], np.float32), each), num_alphabets)
    return PairSet(rows.astype(np.int32), labels, np.array(repeats, np.int32))


def summary(image_set: ImageSet, pair_set: PairSet) -> str:
    """One line for the log: pairs, repeats, and how many pairs there are to draw from."""
    every, same = possible_pairs(image_set)
    different_repeats, same_repeats = pair_set.repeats.sum(0)
    short = np.count_nonzero(pair_set.repeats, axis=0)
    return (
        f"{len(pair_set.rows):,} pairs, half same and half different, equally many from each of "
        f"{image_set.num_alphabets} alphabets, of {every:,} possible ones ({same:,} same): "
        f"{same_repeats:,} same pairs of {short[1]} alphabets and {different_repeats:,} different "
        f"pairs of {short[0]} are repeats"
    )


def _same_pairs(image_set: ImageSet, alphabet: int) -> np.ndarray:
    """(S, 2) int64 all pairs of one class of an alphabet, lower row first."""
    first = image_set.alphabet_start[alphabet]
    pairs = [np.empty((0, 2), np.int64)]
    for c in range(first, first + image_set.alphabet_count[alphabet]):
        drawings = np.stack(np.triu_indices(image_set.class_count[c], 1), 1)
        pairs.append(int(image_set.class_start[c]) + drawings)
    return np.concatenate(pairs)


def _other_spans(
    image_set: ImageSet, alphabet: int, negatives: str
) -> tuple[np.ndarray, np.ndarray]:
    """The different pairs of an alphabet, each once, as spans of partners of its rows.

    The partners of row i are the rows behind the end of its class, as many as its span says; after the
    set's last row the first one follows. So pairs inside the alphabet belong to their lower row.

    Returns:
        (m, 2) int64 the row and its first partner, (m,) int64 number of partners.
    """
    rows = np.flatnonzero(image_set.alphabets == alphabet)
    classes = image_set.classes[rows]
    partner = (image_set.class_start + image_set.class_count)[classes].astype(np.int64)
    size = rows[-1] + 1 - partner
    if negatives == "any":  # and all rows of other alphabets
        size += len(image_set) - len(rows)
    return np.stack([rows, partner], 1), size


def _draw(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """(count,) numbers of 0 .. size - 1 in random order, each once before any comes again."""
    whole, rest = divmod(count, size)
    rounds = [rng.permutation(size) for _ in range(whole)]
    return np.concatenate([*rounds, rng.choice(size, rest, replace=False)])


def _draw_different(
    rng: np.random.Generator,
    num_rows: int,
    spans: np.ndarray,
    sizes: np.ndarray,
    count: int,
    used: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws different pairs of an alphabet, those that the set has `used` already only at the end.

    Returns:
        (count, 2) int64 pairs, and (new,) int64 codes of the new ones among them.
    """
    ends = np.cumsum(sizes)

    def pairs_at(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        i = np.searchsorted(ends, ranks, side="right")
        partner = spans[i, 1] + ranks - (ends - sizes)[i]
        pairs = np.stack([spans[i, 0], partner % num_rows], 1)
        return pairs, pairs.min(1) * num_rows + pairs.max(1)

    # Some may be in the set already: that many more are drawn, if available.
    total = int(ends[-1])
    of_alphabet = np.isin(np.stack([used // num_rows, used % num_rows]), spans[:, 0]).any(0)
    enough = min(total, count + int(of_alphabet.sum()))
    pairs, codes = pairs_at(rng.choice(total, enough, replace=False))
    new = ~np.isin(codes, used)
    pairs, codes = pairs[new][:count], codes[new][:count]
    if len(pairs) < count:
        again, _ = pairs_at(_draw(rng, total, count - len(pairs)))
        pairs = np.concatenate([pairs, again])
    return pairs, codes


# ---------------------------------------------------------------------------------- on the device


def epoch_order(key: jax.Array, epoch: jax.Array, positions: jax.Array, size: int) -> jax.Array:
    """Which example stands where in an epoch: a keyed bijection of 0 .. size - 1 for each epoch.

    A number is written as two digits of an a x b grid that is hardly larger than `size`, and each
    digit in turn is shifted by a hash of the other one (an unbalanced Feistel network); a number that
    lands beyond `size` goes round again.

    Args:
        key: PRNG key.
        epoch: () or (B,) int32.
        positions: (B,) int32 in 0 .. size - 1, places in the epoch.
        size: number of examples, below 2^31.

    Returns:
        (B,) int32 in 0 .. size - 1.

    References:
        Black, Rogaway (2002), Ciphers with arbitrary finite domains.
    """
    if not 1 <= size < 2**31:
        raise ValueError(f"an epoch must have 1 .. 2^31 - 1 examples, got {size}")
    high = math.isqrt(size - 1) + 1  # digits: 0 .. high - 1, and 0 .. low - 1
    low = -(-size // high)
    epochs = jnp.broadcast_to(epoch, positions.shape)
    secrets = jax.vmap(
        lambda e: jax.random.bits(jax.random.fold_in(key, e), (_ROUNDS,), jnp.uint32)
    )(epochs)

    def shuffle(x: jax.Array) -> jax.Array:
        left, right = x // low, x % low
        for r in range(0, _ROUNDS, 2):
            left = (left + _mix(right ^ secrets[:, r]) % high) % high
            right = (right + _mix(left ^ secrets[:, r + 1]) % low) % low
        return left * low + right

    def once_more(x: jax.Array) -> jax.Array:
        return jnp.where(x >= size, shuffle(x), x)

    first = shuffle(positions.astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: (x >= size).any(), once_more, first).astype(jnp.int32)


def _mix(x: jax.Array) -> jax.Array:
    """A hash of uint32 numbers: the finaliser of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def example(
    key: jax.Array, step: jax.Array, batch: int, num_pairs: int, copies: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The examples of a step, in batches that run on across the borders of the epochs.

    Example e of P pairs is copy e // P of pair e % P; copy 0 is the original.

    Args:
        key: PRNG key of the run, the same at every step.
        step: () int32 updates made before.
        batch: examples a step, B.
        num_pairs: P.
        copies: distorted copies of each pair besides the original.

    Returns:
        (B,) int32 pairs, (B,) int32 copies and (B, 2) keys of the warps of a pair's two images. The
        keys are functions of (key, pair, copy).

    Raises:
        ValueError: the sizes are too large for 32 bits.
    """
    size = num_pairs * (copies + 1)
    if size * batch >= 2**31:
        raise ValueError(
            f"{num_pairs} pairs with {copies} copies in batches of {batch} are too many: the product "
            f"of examples and batch must stay below 2^31, and is {size * batch}"
        )
    k_order, k_warp = jax.random.split(jax.random.fold_in(key, _ORDER_AND_WARPS))
    # step * batch may leave 32 bits; `size` steps are `batch` whole epochs.
    begin = step % size * batch + jnp.arange(batch)
    epoch = step // size * batch + begin // size
    numbers = epoch_order(k_order, epoch, begin % size, size)
    pair, copy = numbers % num_pairs, numbers // num_pairs

    def warp_keys(pair: jax.Array, copy: jax.Array) -> jax.Array:
        return jax.random.split(jax.random.fold_in(jax.random.fold_in(k_warp, pair), copy))

    return pair, copy, jax.vmap(warp_keys)(pair, copy)


def sample_fixed_pairs(
    key: jax.Array, pair_set: PairSet, step: jax.Array, batch: int, copies: int
) -> FixedPairs:
    """The batch of a step, a pure function of the run's key and the step's number.

    Args:
        key: PRNG key of the run, the same at every step.
        pair_set: on the device.
        step: () int32 updates made before.
        batch: pairs a step, B; they are not balanced within a batch.
        copies: distorted copies of each pair besides the original, 8 in the paper.

    Returns:
        `FixedPairs` of size B.
    """
    pair, copy, keys = example(key, step, batch, pair_set.rows.shape[0], copies)
    rows = jnp.asarray(pair_set.rows)[pair]
    distort = jnp.broadcast_to(copy[:, None] > 0, rows.shape)
    return FixedPairs(rows, jnp.zeros_like(rows), jnp.asarray(pair_set.labels)[pair], keys, distort)
