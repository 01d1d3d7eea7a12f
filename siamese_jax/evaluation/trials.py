"""Draws frozen lists of trials and pairs from a seed; their types are in `lists`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from siamese_jax.data.image_set import ImageSet, array_digest
from siamese_jax.data.official_runs import OFFICIAL
from siamese_jax.evaluation import draws
from siamese_jax.evaluation.lists import (
    Impostors,
    OpenSet,
    Retrieval,
    Trials,
    VerificationPairs,
)
from siamese_jax.readers import check_choice

CURVE_N_WAYS = (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 25, 30, 40, 50, 60)

_NEGATIVES = {
    "any": "negatives of any alphabet",
    "same_alphabet": "negatives of the same alphabet",
}


def official_trials(runs: Any) -> Trials:
    """The official runs of Lake (20 queries against 20 supports each), or others of their form.

    Args:
        runs: has queries (R, Q, H, W, C) uint8, supports (R, N, H, W, C) uint8, answers (R, Q) int,
            and may have a name; with another one than `OFFICIAL` the protocol is called `runs`.
            It may have `alphabets`, one name a run: runs of one alphabet are then one cluster.

    Returns:
        Trials grouped by run.
    """
    official = getattr(runs, "name", OFFICIAL) == OFFICIAL
    num_runs, num_queries = runs.answers.shape
    n_way = runs.supports.shape[1]
    shape = runs.queries.shape[2:]
    images = np.concatenate([runs.queries.reshape(-1, *shape), runs.supports.reshape(-1, *shape)])
    rows = np.arange(len(images))
    split = num_runs * num_queries
    return Trials(
        name="official" if official else "runs",
        scope="within an alphabet",
        images=images,
        fingerprint=array_digest(images),
        supports=rows[split:].reshape(num_runs, n_way, 1),
        queries=rows[:split].reshape(num_runs, num_queries),
        answers=np.asarray(runs.answers),
        groups=np.repeat(np.arange(num_runs), num_queries).reshape(num_runs, num_queries),
        group_names=tuple(f"run{r + 1:02d}" for r in range(num_runs)),
        grouped_by="run",
        clusters=tuple(getattr(runs, "alphabets", ())),
    )


def within_trials(
    image_set: ImageSet,
    *,
    n_way: int = 20,
    k_shot: int = 1,
    num_trials: int = 4000,
    seed: int = 0,
    alphabets: Sequence[str] | None = None,
    one_drawer_a_side: bool | None = None,
    skip_small: bool = False,
    queries_per_run: int | None = None,
    name: str = "within",
) -> Trials:
    """Trials inside each alphabet, equally many (to within one run) from each.

    A run takes n_way characters of one alphabet. All its queries are of one drawer and all its k-th
    supports of another: any two (k_shot + 1) of the drawers that all characters of the alphabet
    have. A set of photos has no drawers: each class gives k_shot + 1 different pictures of its own.

    Args:
        image_set: the images; `select` one first for certain drawers or classes.
        n_way: characters a run, N.
        k_shot: support images a character, K.
        num_trials: number of trials in all, exactly.
        seed: of the draw.
        alphabets: names of the alphabets to use, or None for all.
        one_drawer_a_side: whether drawers are kept apart as above; by default for kind `ink`.
        skip_small: leave out alphabets with fewer than n_way characters.
        queries_per_run: Q, how many of a run's characters are asked for, each once. By default the
            largest number up to n_way that gives each alphabet equally many whole runs; 1 if there
            is none (num_trials not divisible by the number of alphabets).
        name: of the list.

    Returns:
        Trials grouped by alphabet; by class if the set has one alphabet.

    Raises:
        ValueError: n_way is above an alphabet's size, or a class has too few images.
    """
    ids = draws.alphabet_ids(image_set, alphabets)
    large = draws.large_enough(image_set, ids, n_way, skip_small)
    scope = "within alphabets" + (f" of {n_way} or more" if len(large) < len(ids) else "")
    ids = large
    queries_per_run = draws.queries_per_run(num_trials, len(ids), n_way, queries_per_run)
    if k_shot < 1:
        raise ValueError(f"k_shot must be at least 1, got {k_shot}")
    if one_drawer_a_side is None:
        one_drawer_a_side = image_set.kind == "ink"
    num_runs = num_trials // queries_per_run
    alphabet_of_run = ids[np.arange(num_runs) % len(ids)]
    rng = np.random.default_rng(seed)
    classes = image_set.alphabet_start[alphabet_of_run][:, None] + draws.distinct(
        rng, image_set.alphabet_count[alphabet_of_run], n_way
    )  # (R, N)
    if one_drawer_a_side:
        rows = draws.rows_of_drawers(rng, image_set, classes, k_shot + 1)
    else:
        rows = draws.rows_of_pictures(rng, image_set, classes, k_shot + 1)
    return _trials(rng, image_set, classes, rows, queries_per_run, name, scope)


def koch_trials(image_set: ImageSet, *, seed: int = 0, n_way: int = 20) -> Trials:
    """The one-shot test of Koch et al.: two runs an alphabet, every character of a run asked once.

    20 characters of one alphabet, one drawer's images against another's: 40 trials an alphabet, 400
    with the ten test alphabets. Which drawers take part is the image set's matter.

    Raises:
        ValueError: as `within_trials`.

    References:
        Koch, Zemel, Salakhutdinov (2015), Siamese neural networks for one-shot image recognition,
        section 4.3.
    """
    return within_trials(
        image_set,
        n_way=n_way,
        num_trials=2 * n_way * image_set.num_alphabets,
        seed=seed,
        queries_per_run=n_way,
        name="koch",
    )


def between_trials(
    image_set: ImageSet,
    *,
    n_way: int = 20,
    k_shot: int = 1,
    num_trials: int = 4000,
    seed: int = 0,
    alphabets: Sequence[str] | None = None,
    queries_per_run: int | None = None,
    name: str = "between",
) -> Trials:
    """Trials whose n_way characters are of any alphabet: the easier and more quoted task.

    Drawer numbers mean nothing between alphabets, so each character gives k_shot + 1 images of
    different drawers of its own.

    Args:
        image_set: the images.
        n_way: characters a run, N.
        k_shot: support images a character, K.
        num_trials: number of trials in all, exactly.
        seed: of the draw.
        alphabets: names of the alphabets to use, or None for all.
        queries_per_run: Q, how many of a run's characters are asked for, each once; by default the
            largest number up to n_way that divides num_trials.
        name: of the list.

    Returns:
        Trials grouped by the alphabet of the right character; by class if there is one alphabet.

    Raises:
        ValueError: n_way is above the number of classes, or a class has too few images.
    """
    ids = draws.alphabet_ids(image_set, alphabets)
    usable = np.flatnonzero(np.isin(image_set.class_alphabets, ids))
    if not 1 <= n_way <= len(usable):
        raise ValueError(
            f"n_way {n_way} is not in 1 .. {len(usable)}, the number of classes of "
            f"{image_set.name!r}; choose a smaller one"
        )
    if k_shot < 1:
        raise ValueError(f"k_shot must be at least 1, got {k_shot}")
    queries_per_run = draws.queries_per_run(num_trials, 1, n_way, queries_per_run)
    rng = np.random.default_rng(seed)
    sizes = np.full(num_trials // queries_per_run, len(usable))
    classes = usable[draws.distinct(rng, sizes, n_way)]  # (R, N)
    rows = draws.rows_of_pictures(rng, image_set, classes, k_shot + 1)
    return _trials(rng, image_set, classes, rows, queries_per_run, name, "between alphabets")


def curve_trials(
    image_set: ImageSet,
    *,
    n_ways: Sequence[int] | None = None,
    k_shot: int = 1,
    num_trials: int = 1000,
    seed: int = 0,
    scope: str = "auto",
    largest_within: int | None = None,
) -> tuple[Trials, ...]:
    """One list a number of classes N, for a curve of accuracy against N.

    Args:
        image_set: the images.
        n_ways: values of N; by default 1, 3 .. 19, 25, 30, 40, 50 and 60, as far as the set has
            classes.
        k_shot: support images a character.
        num_trials: at each N.
        seed: of the draws.
        scope: `auto` stays within alphabets up to `largest_within` and goes between alphabets
            beyond; `between` is so throughout. Each list says which it is.
        largest_within: an N; by default the size of the smallest alphabet. Give curves that are to
            be compared the same.

    Raises:
        ValueError: an unknown scope, or N above the number of classes.
    """
    if scope not in ("auto", "between"):
        raise ValueError(f"scope of a curve must be 'auto' or 'between', got {scope!r}")
    if n_ways is None:
        n_ways = [n for n in CURVE_N_WAYS if n <= image_set.num_classes]
    if largest_within is None:
        largest_within = int(image_set.alphabet_count.min())
    return tuple(
        (within_trials if scope == "auto" and n <= largest_within else between_trials)(
            image_set, n_way=n, k_shot=k_shot, num_trials=num_trials, seed=seed, name="curve"
        )
        for n in n_ways
    )


def verification_pairs(
    image_set: ImageSet,
    *,
    num_pairs: int = 10_000,
    seed: int = 0,
    negatives: str = "any",
    alphabets: Sequence[str] | None = None,
    name: str = "verification",
) -> VerificationPairs:
    """Pairs, half same and half different, equally many (to within one of each) an alphabet.

    The two images of a pair, same or different, never carry the same drawer number, so the drawer
    does not tell the label. Pairs may repeat where the set has few. Classes of a single image,
    which make no same pair, are left out.

    Args:
        image_set: the images.
        num_pairs: an even number.
        seed: of the draw.
        negatives: the second class of a different pair is uniform over the other classes of the
            chosen alphabets (`any`) or of the first one's alphabet (`same_alphabet`, harder).
        alphabets: names of the alphabets to use, or None for all.
        name: of the list.

    Returns:
        Pairs grouped by the alphabet of the first image; by its class if there is one alphabet.

    Raises:
        ValueError: an odd number, an unknown kind of negatives, or too few classes.
    """
    check_choice("negatives", negatives, _NEGATIVES)
    if num_pairs < 2 or num_pairs % 2:
        raise ValueError(f"half same and half different: num_pairs must be even, got {num_pairs}")
    ids = draws.alphabet_ids(image_set, alphabets)
    in_use = np.isin(image_set.class_alphabets, ids) & (image_set.class_count >= 2)
    usable = np.flatnonzero(in_use)
    sizes = np.bincount(image_set.class_alphabets[usable], minlength=image_set.num_alphabets)
    needed = 2 if negatives == "same_alphabet" else 1
    poor = [a for a in ids if sizes[a] < needed]
    if poor or len(usable) < 2:
        where = f"alphabet {image_set.alphabet_names[poor[0]]!r}" if poor else image_set.name
        count = sizes[poor[0]] if poor else len(usable)
        raise ValueError(
            f"{where} has {count} classes of two or more images, too few for pairs with "
            f"{_NEGATIVES[negatives]}"
        )
    rng = np.random.default_rng(seed)
    labels = np.arange(num_pairs) % 2
    alphabet = ids[np.arange(num_pairs) // 2 % len(ids)]
    # Classes are numbered within `usable`, where those of one alphabet stand together.
    start, size = (np.cumsum(sizes) - sizes)[alphabet], sizes[alphabet]
    if negatives == "any":
        position = start + rng.integers(0, size)
        other = (position + rng.integers(1, len(usable), num_pairs)) % len(usable)
    else:
        local = rng.integers(0, size)
        position = start + local
        other = start + (local + rng.integers(1, size)) % size
    class_a = usable[position]
    class_b = np.where(labels == 1, class_a, usable[other])
    first = image_set.class_start[class_a] + rng.integers(0, image_set.class_count[class_a])
    # The second image: any of its class but the one with the first one's drawer number, if there.
    table, columns = draws.row_table(image_set)
    taken = table[class_b, np.searchsorted(columns, image_set.drawers[first])]
    left = image_set.class_count[class_b] - (taken >= 0)
    second = image_set.class_start[class_b] + rng.integers(0, left)
    second += (taken >= 0) & (second >= taken)
    return VerificationPairs(
        name=name,
        scope=_NEGATIVES[negatives],
        first=first,
        second=second,
        labels=labels,
        **draws.images_and_groups(image_set, class_a),
    )


def retrieval_queries(image_set: ImageSet) -> Retrieval:
    """Every image whose class has another one asks for it among all other images of the set.

    Returns:
        Queries grouped by alphabet; by class if the set has one alphabet.

    Raises:
        ValueError: no class has two images.
    """
    queries = np.flatnonzero(image_set.class_count[image_set.classes] >= 2)
    if not len(queries):
        raise ValueError(
            f"no class of {image_set.name!r} has two images: there is none to retrieve"
        )
    return Retrieval(
        name="retrieval",
        scope=f"among all {len(image_set):,} images",
        classes=np.asarray(image_set.classes),
        queries=queries,
        **draws.images_and_groups(image_set, image_set.classes[queries]),
    )


def open_set(
    image_set: ImageSet, *, k_shot: int = 1, seed: int = 0, name: str = "open_set"
) -> OpenSet:
    """Half of the classes (rounded down) are enrolled with k_shot references; all others are unknown.

    Probes are all other images of the enrolled classes, and all images of the unknown ones. Classes
    with fewer than k_shot + 1 images cannot be enrolled and are unknown.

    Args:
        image_set: the images.
        k_shot: references of an enrolled class, K.
        seed: of the choice of classes and references.
        name: of the list.

    Returns:
        Probes of enrolled classes grouped by alphabet; by class if the set has one alphabet.

    Raises:
        ValueError: fewer than two classes, or none with k_shot + 1 images.
    """
    if k_shot < 1:
        raise ValueError(f"k_shot must be at least 1, got {k_shot}")
    rich = np.flatnonzero(image_set.class_count > k_shot)
    if image_set.num_classes < 2 or not len(rich):
        raise ValueError(
            f"{image_set.name!r} has {image_set.num_classes} classes, {len(rich)} of them with "
            f"{k_shot + 1} images or more (k_shot + 1): one such to enrol and another class are needed"
        )
    rng = np.random.default_rng(seed)
    enrolled = np.sort(rng.permutation(rich)[: image_set.num_classes // 2])
    supports = draws.rows_of_pictures(rng, image_set, enrolled[None], k_shot)[0]
    position = np.full(image_set.num_classes, -1)
    position[enrolled] = np.arange(len(enrolled))
    answers = position[image_set.classes]  # (M,), -1 of the unknown
    impostors = np.flatnonzero(answers < 0)
    queries = np.setdiff1d(np.flatnonzero(answers >= 0), supports)
    return OpenSet(
        name=name,
        scope=f"{len(enrolled)} of {image_set.num_classes} classes enrolled",
        supports=supports,
        queries=queries,
        answers=answers[queries],
        impostors=impostors,
        **draws.images_and_groups(image_set, image_set.classes[queries]),
    )


def impostors(image_set: ImageSet, num_names: int, *, k_shot: int = 1, seed: int = 0) -> Impostors:
    """Every image, and enough names that each image meets `num_names` of other classes.

    A name is k_shot images of one class, and no two names share an image. Each class gives equally
    many names, one where there are classes enough, or as many as it has images for.

    Args:
        image_set: the images.
        num_names: names that are to be enrolled.
        k_shot: references of a name, K.
        seed: of the references.

    Raises:
        ValueError: fewer than two classes have k_shot images.
    """
    rich = np.flatnonzero(image_set.class_count >= k_shot)
    if len(rich) < 2:
        raise ValueError(
            f"{image_set.name!r} has {len(rich)} classes with {k_shot} images or more (k_shot), and "
            "two are needed"
        )
    a_class = -(-num_names // (len(rich) - 1))
    rng = np.random.default_rng(seed)
    supports, support_classes = [], []
    for c in rich:
        count = min(a_class, image_set.class_count[c] // k_shot)
        rows = image_set.class_start[c] + rng.permutation(image_set.class_count[c])
        supports.append(rows[: count * k_shot].reshape(count, k_shot))
        support_classes += [c] * count
    return Impostors(
        name="impostors",
        scope=f"{num_names} of {len(support_classes)} names",
        supports=np.concatenate(supports),
        support_classes=np.array(support_classes),
        queries=np.arange(len(image_set)),
        query_classes=image_set.classes,
        **draws.images_and_groups(image_set, image_set.classes),
    )


def _trials(
    rng: np.random.Generator,
    image_set: ImageSet,
    classes: np.ndarray,
    rows: np.ndarray,
    queries_per_run: int,
    name: str,
    scope: str,
) -> Trials:
    """Trials of the classes (R, N) and their rows (R, N, K + 1), the last of which are queries."""
    num_runs, n_way = classes.shape
    answers = draws.distinct(rng, np.full(num_runs, n_way), queries_per_run)  # (R, Q)
    query_classes = np.take_along_axis(classes, answers, 1)  # (R, Q)
    return Trials(
        name=name,
        scope=scope,
        supports=rows[..., :-1],
        queries=np.take_along_axis(rows[..., -1], answers, 1),
        answers=answers,
        **draws.images_and_groups(image_set, query_classes),
    )
