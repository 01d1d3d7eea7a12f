"""What trials are drawn from: drawers, pictures, alphabets and numbers, by a generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siamese_jax.data.image_set import ImageSet
from siamese_jax.readers import check_names


def distinct(rng: np.random.Generator, sizes: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` different numbers of 0 .. size - 1 for each size, in random order.

    Args:
        rng: the generator.
        sizes: (...) int, each at least `count`.
        count: how many.

    Returns:
        (..., count) int64.
    """
    drawn = np.empty((*sizes.shape, count), np.int64)
    for i in range(count):
        new = rng.integers(0, sizes - i)
        for earlier in np.moveaxis(np.sort(drawn[..., :i], -1), -1, 0):
            new += new >= earlier  # the new-th of those not yet drawn
        drawn[..., i] = new
    return drawn


def row_table(image_set: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Row of each class and drawer, (num_classes, drawers) int64, -1 if absent; and the drawers."""
    columns = np.unique(image_set.drawers)
    table = np.full((image_set.num_classes, len(columns)), -1, np.int64)
    table[image_set.classes, np.searchsorted(columns, image_set.drawers)] = np.arange(
        len(image_set)
    )
    return table, columns


def rows_of_drawers(
    rng: np.random.Generator, image_set: ImageSet, classes: np.ndarray, count: int
) -> np.ndarray:
    """(R, N, count) rows: of `count` drawers that are the same for all N classes of a run."""
    table, _ = row_table(image_set)
    rows = np.empty((*classes.shape, count), np.int64)
    alphabet_of_run = image_set.class_alphabets[classes[:, 0]]
    for alphabet in np.unique(alphabet_of_run):
        runs = np.flatnonzero(alphabet_of_run == alphabet)
        have = table[image_set.class_alphabets == alphabet] >= 0  # (classes, drawers)
        common = np.flatnonzero(have.all(0))
        if len(common) < count:
            raise ValueError(
                f"alphabet {image_set.alphabet_names[alphabet]!r} has {len(common)} drawers of all "
                f"its characters, and {count} are needed (k_shot + 1)"
            )
        drawers = common[distinct(rng, np.full(len(runs), len(common)), count)]  # (runs, count)
        rows[runs] = table[classes[runs][:, :, None], drawers[:, None, :]]
    return rows


def rows_of_pictures(
    rng: np.random.Generator, image_set: ImageSet, classes: np.ndarray, count: int
) -> np.ndarray:
    """(R, N, count) rows: `count` different images of each class, of its own choice."""
    used = np.unique(classes)
    poor = used[image_set.class_count[used] < count]
    if len(poor):
        raise ValueError(
            f"class {image_set.class_names[poor[0]]!r} has {image_set.class_count[poor[0]]} "
            f"images, and {count} are needed (k_shot + 1)"
        )
    picked = distinct(rng, image_set.class_count[classes], count)
    return image_set.class_start[classes][..., None] + picked


def images_and_groups(image_set: ImageSet, classes: np.ndarray) -> dict:
    """Fields of a list: the images, and groups of its trials by their (...) int classes.

    Trials are grouped by alphabet, or by class if all are of one alphabet.
    """
    ids, groups = np.unique(image_set.class_alphabets[classes], return_inverse=True)
    names, grouped_by = image_set.alphabet_names, "alphabet"
    if len(ids) == 1:
        ids, groups = np.unique(classes, return_inverse=True)
        names, grouped_by = image_set.class_names, "class"
    return {
        "images": image_set.images,
        "fingerprint": image_set.fingerprint,
        "groups": groups.reshape(classes.shape),
        "group_names": tuple(names[i] for i in ids),
        "grouped_by": grouped_by,
    }


def alphabet_ids(image_set: ImageSet, alphabets: Sequence[str] | None) -> np.ndarray:
    """The numbers of these alphabets, or of all.

    Raises:
        ValueError: an unknown alphabet, or none.
    """
    if alphabets is None:
        return np.arange(image_set.num_alphabets)
    if not len(alphabets):
        raise ValueError("alphabets names none: name one, or give None for all")
    check_names("alphabet", alphabets, image_set.alphabet_names)
    return np.array([i for i, a in enumerate(image_set.alphabet_names) if a in set(alphabets)], int)


def large_enough(image_set: ImageSet, ids: np.ndarray, n_way: int, skip_small: bool) -> np.ndarray:
    """Those alphabets that have n_way classes; the others are an error unless they are skipped."""
    if n_way < 1:
        raise ValueError(f"n_way must be at least 1, got {n_way}")
    sizes = image_set.alphabet_count[ids]
    large = ids[sizes >= n_way]
    if len(large) == len(ids) or (skip_small and len(large)):
        return large
    smallest = ids[np.argmin(sizes)]
    most = sizes.max() if skip_small else sizes.min()
    choice = "leave out smaller alphabets (skip_small)" if len(large) else "give more classes"
    raise ValueError(
        f"n_way {n_way} is above the {sizes.min()} classes of alphabet "
        f"{image_set.alphabet_names[smallest]!r} in {image_set.name!r}: choose at most {most}, "
        f"or {choice}"
    )


def queries_per_run(num_trials: int, parts: int, n_way: int, given: int | None) -> int:
    """How many queries share a support set; see `within_trials`."""
    if num_trials < 1:
        raise ValueError(f"num_trials must be at least 1, got {num_trials}")
    if given is not None:
        if not 1 <= given <= n_way or num_trials % given:
            raise ValueError(
                f"queries_per_run must be in 1 .. {n_way} and divide {num_trials}, got {given}"
            )
        return given
    if num_trials % parts:
        return 1
    return max(q for q in range(1, n_way + 1) if num_trials // parts % q == 0)
