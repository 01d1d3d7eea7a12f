"""Which alphabets and drawers train, validate and test.

Lake's split keeps every drawer: the 30 background alphabets train; of the 20 evaluation alphabets,
the ten that the official runs use test, and the other ten validate. Koch's split takes the same
alphabets and, in each part, drawers of its own. The split of Vinyals et al. goes by characters;
the few-shot literature's accuracies between alphabets are on it.

References:
    Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic
    program induction. Koch, Zemel, Salakhutdinov (2015), Siamese Neural Networks for One-shot Image
    Recognition, section 4. Vinyals et al. (2016), Matching Networks for One Shot Learning, section 4.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from siamese_jax.data.image_set import ImageSet

TEST_ALPHABETS = (
    "Atlantean",
    "Ge_ez",
    "Glagolitic",
    "Gurmukhi",
    "Kannada",
    "Malayalam",
    "Manipuri",
    "Old_Church_Slavonic_(Cyrillic)",
    "Tengwar",
    "Tibetan",
)
# Lake's official runs, two of each test alphabet in this order.
OFFICIAL_RUNS = {f"run{r + 1:02d}": TEST_ALPHABETS[r // 2] for r in range(20)}
VALIDATION_ALPHABETS = (
    "Angelic",
    "Atemayar_Qelisayer",
    "Aurek-Besh",
    "Avesta",
    "Keble",
    "Mongolian",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "ULOG",
)
VINYALS_TRAIN_CLASSES = 1200  # with those that validate
VINYALS_VALIDATION_ALPHABETS = (
    "Armenian",
    "Bengali",
    "Early_Aramaic",
    "Hebrew",
    "Mkhedruli_(Georgian)",
)
_DRAWER_SHARES = (0.6, 0.2, 0.2)  # of training, validation and test: of 20 drawers 12, 4 and 4

Parts = tuple[ImageSet, ImageSet, ImageSet]


def lake(background: ImageSet, evaluation: ImageSet) -> Parts:
    """Omniglot's (train, validation, test) by alphabets, each with all 20 drawers.

    Args:
        background: the 30 background alphabets.
        evaluation: the 20 evaluation alphabets.
    """
    return (
        background,
        evaluation.select(alphabets=VALIDATION_ALPHABETS, name="omniglot validation"),
        evaluation.select(alphabets=TEST_ALPHABETS, name="omniglot test"),
    )


def koch(background: ImageSet, evaluation: ImageSet) -> Parts:
    """Omniglot's (train, validation, test) by alphabets, with drawers 1-12, 13-16 and 17-20.

    Deviation: the paper keeps 12, 4 and 4 drawers and does not say which; the choice is ours.

    Args:
        background: the 30 background alphabets.
        evaluation: the 20 evaluation alphabets.
    """
    return own_drawers(lake(background, evaluation))


def some_alphabets(images: ImageSet, count: int, seed: int) -> ImageSet:
    """The part of a set that a random choice of its alphabets makes.

    Args:
        images: the whole set.
        count: alphabets to keep.
        seed: the choice depends on the number of alphabets and this seed only.

    Raises:
        ValueError: more alphabets than there are.
    """
    if not 1 <= count <= images.num_alphabets:
        raise ValueError(
            f"data.train_alphabets is {count}; {images.name!r} has {images.num_alphabets} alphabets"
        )
    kept = np.sort(np.random.default_rng(seed).permutation(images.num_alphabets)[:count])
    return images.select(alphabets=[images.alphabet_names[i] for i in kept])


def vinyals(
    background: ImageSet, evaluation: ImageSet, train_classes: int = VINYALS_TRAIN_CLASSES
) -> Parts:
    """Omniglot's (train, validation, test) by characters, as the few-shot literature splits it.

    The characters stand in the order of the background alphabets, sorted by name, then the evaluation
    alphabets. The last 423 of the 1,623 test; the cut falls within Gurmukhi (41 and 4 characters). Of
    the first 1,200 the characters of five background alphabets validate (172), and 1,028 train. The
    literature also takes each quarter turn of a character for a class of its own, see `with_rotations`.

    Args:
        background: the 30 background alphabets, in memory.
        evaluation: the 20 evaluation alphabets, in memory.
        train_classes: how many characters train and validate together.

    References:
        Snell, Swersky, Zemel (2017), Prototypical networks for few-shot learning; the list of its
        code. Vinyals et al. (2016) give the numbers, 1,200 and 423, but not the characters.
    """
    both = joined(background, evaluation, "omniglot")
    test = np.arange(both.num_classes) >= train_classes
    alphabets = np.array(both.alphabet_names)[both.class_alphabets]
    validation = np.isin(alphabets, VINYALS_VALIDATION_ALPHABETS) & ~test
    return (
        both.select(classes=np.flatnonzero(~test & ~validation), name="omniglot train"),
        both.select(classes=np.flatnonzero(validation), name="omniglot validation"),
        both.select(classes=np.flatnonzero(test), name="omniglot test"),
    )


def with_rotations(images: ImageSet) -> ImageSet:
    """The set with the quarter turns of every class as further classes: four times the classes.

    Args:
        images: a set in memory, of square images.

    Raises:
        ValueError: images that are not square.
    """
    height, width, _ = images.image_shape
    if height != width:
        raise ValueError(f"quarter turns need square images; these are {height} x {width}")
    whole = images
    for quarters in (1, 2, 3):
        end = f" turned {90 * quarters}"
        turned = dataclasses.replace(
            images,
            images=np.ascontiguousarray(np.rot90(images.images[:], quarters, (1, 2))),
            class_names=tuple(name + end for name in images.class_names),
            alphabet_names=tuple(name + end for name in images.alphabet_names),
        )
        whole = joined(whole, turned, f"{images.name} and its quarter turns")
    return whole


def by_fraction(
    images: ImageSet, seed: int, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
) -> Parts:
    """(train, validation, test) of any set, by a random choice of alphabets.

    A set with fewer than three alphabets is split by classes instead. Either way no class is in
    two parts. Each part gets its fraction of the alphabets (or classes), rounded, and at least one.

    Args:
        images: the whole set.
        seed: the choice depends on the number of alphabets (or classes) and this seed only.
        fractions: of training, validation and test, summing to 1; or, as whole numbers, how many
            alphabets (or classes) each part gets: (16, 4, 20) of 40 people.

    Raises:
        ValueError: fractions or numbers that do not add up, or fewer than three classes.
    """
    by_alphabet = images.num_alphabets >= 3
    count = images.num_alphabets if by_alphabet else images.num_classes
    if count < 3:
        raise ValueError(
            f"{images.name!r} has {count} classes; a split into training, validation and test "
            "needs at least three (data.split = 'rows' splits the images of each class instead)"
        )
    what = f"the {count} {'alphabets' if by_alphabet else 'classes'} of {images.name!r}"
    _, validation, test = _sizes(fractions, count, 1, what)
    order = np.random.default_rng(seed).permutation(count)

    def select(part: str, group: np.ndarray) -> ImageSet:
        name = f"{images.name} {part}"
        if by_alphabet:
            return images.select(alphabets=[images.alphabet_names[i] for i in group], name=name)
        return images.select(classes=group, name=name)

    return (
        select("train", order[validation + test :]),
        select("validation", order[:validation]),
        select("test", order[validation : validation + test]),
    )


def by_rows(
    images: ImageSet, seed: int, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
) -> Parts:
    """(train, validation, test) that share all classes: the images of each class are split.

    Every class gives each part its fraction of its images, rounded, and at least two, since a pair
    of one class and a one-shot trial take two. So each class needs six images.

    Args:
        images: the whole set.
        seed: the choice depends on the numbers of images of the classes and this seed only.
        fractions: of training, validation and test, summing to 1; or, as whole numbers, how many
            images of each class each part gets.

    Raises:
        ValueError: fractions or numbers that do not add up, or a class with fewer than six images.
    """
    rng = np.random.default_rng(seed)
    groups: tuple[list[int], list[int], list[int]] = ([], [], [])
    for name, start, count in zip(
        images.class_names, images.class_start, images.class_count, strict=True
    ):
        if count < 6:
            raise ValueError(
                f"the class {name!r} has {count} images; split by rows, each class needs six: two "
                "for each of training, validation and test"
            )
        sizes = _sizes(fractions, int(count), 2, f"the {count} images of the class {name!r}")
        rows = start + rng.permutation(count)
        for group, part in zip(groups, np.split(rows, np.cumsum(sizes)[:2]), strict=True):
            group.extend(part.tolist())
    train, validation, test = groups
    return (
        images.select(rows=train, name=f"{images.name} train"),
        images.select(rows=validation, name=f"{images.name} validation"),
        images.select(rows=test, name=f"{images.name} test"),
    )


def joined(a: ImageSet, b: ImageSet, name: str) -> ImageSet:
    """Two sets as one, in memory; an alphabet that both have has the classes of both.

    Raises:
        ValueError: a class that both have, or sets of another kind or image size.
    """
    if common := sorted(set(a.class_names) & set(b.class_names)):
        raise ValueError(f"{a.name} and {b.name} share classes, such as {common[0]!r}")
    if (a.kind, a.image_shape) != (b.kind, b.image_shape):
        raise ValueError(
            f"{a.name} is of kind {a.kind!r} and {a.image_shape}, {b.name} of kind {b.kind!r} and "
            f"{b.image_shape}: they do not join"
        )
    alphabet_names = tuple(dict.fromkeys(a.alphabet_names + b.alphabet_names))
    of_b = np.array([alphabet_names.index(name) for name in b.alphabet_names], np.int32)
    class_alphabets = np.concatenate([a.class_alphabets, of_b[b.class_alphabets]])
    by_alphabet = np.argsort(class_alphabets, kind="stable")
    place = np.argsort(by_alphabet).astype(np.int32)  # of each class in the joined set
    classes = place[np.concatenate([a.classes, b.classes + np.int32(a.num_classes)])]
    rows = np.argsort(classes, kind="stable")
    class_names = a.class_names + b.class_names
    files = a.files + b.files if a.files and b.files else None
    return ImageSet(
        images=np.concatenate([a.images[:], b.images[:]])[rows],
        classes=classes[rows],
        drawers=np.concatenate([a.drawers, b.drawers])[rows],
        class_names=tuple(class_names[c] for c in by_alphabet),
        class_alphabets=class_alphabets[by_alphabet],
        alphabet_names=alphabet_names,
        kind=a.kind,
        name=name,
        files=files and tuple(files[row] for row in rows),
    )


def _sizes(fractions: Sequence[float], count: int, least: int, what: str) -> tuple[int, int, int]:
    """How many of `count` train, validate and test, each at least `least`."""
    if len(fractions) == 3 and min(fractions) > 0:
        if abs(sum(fractions) - 1) <= 1e-6:
            validation = min(max(least, round(count * fractions[1])), count - 2 * least)
            test = min(max(least, round(count * fractions[2])), count - least - validation)
            return count - validation - test, validation, test
        if all(float(x).is_integer() for x in fractions):
            if sum(fractions) != count or min(fractions) < least:
                raise ValueError(
                    f"fractions {tuple(fractions)}, as whole numbers, must sum to {count} and be at "
                    f"least {least} each, to share out {what}"
                )
            return int(fractions[0]), int(fractions[1]), int(fractions[2])
    raise ValueError(
        "fractions must be three positive numbers summing to 1, or three whole numbers, got "
        f"{tuple(fractions)}"
    )


def own_drawers(parts: Parts) -> Parts:
    """The parts with drawers of their own: the first to training, the last to test.

    Training gets six tenths of the drawers, the others two tenths each.

    Args:
        parts: (train, validation, test), drawn by the same drawers.

    Raises:
        ValueError: the parts do not share their drawers, or a part would get fewer than two, which
            is what a pair of one class needs.
    """
    drawers = np.unique(parts[0].drawers)
    if any(not np.array_equal(np.unique(part.drawers), drawers) for part in parts):
        raise ValueError(f"the parts of {parts[0].name!r} do not have the same drawers")
    cuts = np.rint(np.cumsum(_DRAWER_SHARES)[:2] * len(drawers)).astype(int)
    groups = np.split(drawers, cuts)
    if min(len(group) for group in groups) < 2:
        raise ValueError(
            f"{len(drawers)} drawers split by {_DRAWER_SHARES} leave a part with fewer than two"
        )
    train, validation, test = parts
    return (
        train.select(drawers=groups[0]),
        validation.select(drawers=groups[1]),
        test.select(drawers=groups[2]),
    )
