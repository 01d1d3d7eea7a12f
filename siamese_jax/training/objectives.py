"""Objectives: which images a training step draws, and the loss of their embeddings.

An objective is two pure functions. `sample(rng, step, index)` draws the whole global batch of a step of
the run with the key `rng`. The leading axis of its arrays counts units (pairs, episodes, images). The
devices share that axis out for the encoder. `loss(compare, h, batch)` then sees all embeddings of the
batch, wherever they were computed. `OBJECTIVES` lists the objectives by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from siamese_jax.data.image_set import ImageSet
from siamese_jax.readers import check_choice
from siamese_jax.training import (
    batch_objectives,
    class_objectives,
    fixed_pairs,
    losses,
    sampling,
)
from siamese_jax.training.batch_objectives import allowed_pairs
from siamese_jax.training.objective import (
    Compare,
    Definition,
    Loss,
    Objective,
    anew,
    draw_episodes,
    draw_pairs,
)

CONTRASTS = ("episode", "batch")
Pairs = sampling.PairBatch | fixed_pairs.FixedPairs


def build(fields: Mapping, max_alphabet: int, num_classes: int = 0) -> Objective:
    """The objective that a config's `objective` section describes.

    | name | settings besides `symmetries` (see `sampling.SYMMETRIES`) |
    |---|---|
    | `verification` | `batch` (pairs), `negatives`; optional: `pairs`, `copies` (see below) |
    | `contrastive` | `batch` (pairs), `negatives`; optional: `margin`, `decorrelation` (a weight) |
    | `triplet` | `episodes`, `n_way`, `pad_with_symmetries`, `mining` (see `mining.mine`), `margin` |
    | `info_nce` | `episodes`, `n_way`, `pad_with_symmetries`, `contrast` (`episode` or `batch`) |
    | `prototypical` | `episodes`, `n_way`, `k_shot`, `pad_with_symmetries` |
    | `matching` | `episodes`, `n_way`, `k_shot`, `pad_with_symmetries` |
    | `supcon`, `nt_xent` | `episodes`, `n_way`, `images_per_class`, `pad_with_symmetries` |
    | `multi_similarity` | as `supcon`; optional: `alpha`, `beta`, `base`, `epsilon` |
    | `circle` | as `supcon`; optional: `margin`, `scale` |
    | `n_pair` | `episodes`, `n_way`, `pad_with_symmetries`, `l2` (a weight) |
    | `classifier` | `batch` (images) |
    | `arcface`, `cosface`, `proxy_anchor` | `batch` (images), `margin`, `scale` |

    All may have a `balance`, see `sampling.SetIndex.of`: 1, each class equally often, unless set.

    Those that are a softmax (`info_nce`, `prototypical`, `matching`, `classifier`, `arcface`, `cosface`)
    take a `label_smoothing`. `triplet`, `supcon`, `nt_xent`, `multi_similarity` and `circle` take a
    `memory`, the number of embeddings of earlier steps that a batch meets as well (`cross_batch`; the
    absent characters of an episode take places, too), and `memory_start`, the updates before the first
    of them is remembered.

    With `pairs`, the size of a fixed set, `verification` does not draw new pairs for every batch. It
    goes through the pairs of the set in epochs, and through `copies` distorted copies of each. Its
    `sample` then needs the index of `make_index`.

    Args:
        fields: `name` and the settings of that objective.
        max_alphabet: characters of the largest training alphabet.
        num_classes: characters of the training set, for objectives with a vector a class.

    Raises:
        ValueError: an unknown name, a setting that is missing, or settings that do not go together.
    """
    name = fields["name"]
    check_choice("objective.name", name, OBJECTIVES)
    missing = sorted({"symmetries", *OBJECTIVES[name].settings} - set(fields))
    if missing:
        raise ValueError(f"objective.name = {name!r} needs the fields {missing}")
    if "n_way" in OBJECTIVES[name].settings and fields["n_way"] < 2:
        raise ValueError(f"objective.n_way must be at least 2, got {fields['n_way']}")
    pairs, copies = fields.get("pairs", 0), fields.get("copies", 0)
    if pairs and fields.get("balance", 1.0) != 1:
        raise ValueError(
            "objective.balance weighs the classes of every batch anew, and objective.pairs are fixed: "
            "set balance to 1 or pairs to 0"
        )
    if pairs and name != "verification":
        raise ValueError(f"objective.pairs goes with the objective 'verification', not {name!r}")
    if min(pairs, copies) < 0 or copies and not pairs:
        raise ValueError(
            f"objective.copies = {copies} of objective.pairs = {pairs}: neither may be negative, and "
            "copies are of fixed pairs"
        )
    _check_options(name, fields)
    return OBJECTIVES[name].build(fields, max_alphabet, num_classes)


def _check_options(name: str, fields: Mapping) -> None:
    """Checks the settings that some objectives have in common.

    Raises:
        ValueError: a value that cannot be, or one that the objective does not take.
    """
    smoothing = fields.get("label_smoothing", 0.0)
    if not 0 <= smoothing < 1:
        raise ValueError(f"objective.label_smoothing must be in [0, 1), got {smoothing}")
    if smoothing and not OBJECTIVES[name].softmax:
        names = tuple(key for key, entry in OBJECTIVES.items() if entry.softmax)
        raise ValueError(f"objective.label_smoothing goes with {names}, not {name!r}: set it to 0")
    for field in ("memory", "memory_start"):
        if fields.get(field, 0) < 0:
            raise ValueError(f"objective.{field} must be 0 or more, got {fields[field]}")
    if fields.get("memory") and not OBJECTIVES[name].memory:
        names = tuple(key for key, entry in OBJECTIVES.items() if entry.memory)
        raise ValueError(f"objective.memory goes with {names}, not {name!r}: set it to 0")


def learns_distances(name: str) -> bool:
    """Whether the objective of this name trains nothing of a comparator but its distances."""
    return name in OBJECTIVES and OBJECTIVES[name].learns_distances


def learns_cosines(name: str) -> bool:
    """Whether the objective of this name takes cosines or products, and trains no comparator."""
    return name in OBJECTIVES and OBJECTIVES[name].learns_cosines


def make_index(fields: Mapping, image_set: ImageSet, seed: int) -> sampling.SetIndex:
    """What an objective samples from: the `SetIndex` of a set, with the fixed pairs if it has any.

    Args:
        fields: as of `build`; of an optional `balance` see `SetIndex.of`.
        image_set: to train on.
        seed: of the run, which its set of pairs depends on.

    Raises:
        ValueError: see `fixed_pairs.make_pairs`.
    """
    index = sampling.SetIndex.of(image_set, fields.get("balance", 1.0))
    if not fields.get("pairs"):
        return index
    pairs = fixed_pairs.make_pairs(image_set, fields["pairs"], seed, fields["negatives"])
    return index._replace(pairs=jax.tree.map(jnp.asarray, pairs))


def _fixed_pairs(fields: Mapping) -> Callable:
    if fields["symmetries"] != "none":
        raise ValueError(
            f"objective.pairs are pairs of unturned images: set objective.symmetries to 'none', not "
            f"{fields['symmetries']!r}, or objective.pairs to 0"
        )

    def sample(rng: jax.Array, step: jax.Array, index: sampling.SetIndex) -> fixed_pairs.FixedPairs:
        copies = fields.get("copies", 0)
        return fixed_pairs.sample_fixed_pairs(rng, index.pairs, step, fields["batch"], copies)

    return sample


def _verification(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Binary cross-entropy of the comparator's logits."""

    def loss(compare: Compare, h: jax.Array, pairs: Pairs) -> Loss:
        logits = compare.pairs(h[:, 0], h[:, 1])
        correct = (logits > 0) == (pairs.labels > 0.5)
        return losses.verification(logits, pairs.labels).mean(), {"accuracy": correct.mean()}

    batch = fields["batch"]
    sample = _fixed_pairs(fields) if fields.get("pairs") else anew(draw_pairs(fields))
    return Objective(sample, loss, batch, 2 * batch, ("accuracy",))


def contrastive_margin(fields: Mapping) -> float:
    """The margin of a `contrastive` objective section: 2.0, the first tutorial's, unless set."""
    return fields.get("margin", 2.0)


def _contrastive(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Contrastive loss of distances."""
    margin, decorrelation = contrastive_margin(fields), fields.get("decorrelation", 0.0)

    def loss(compare: Compare, h: jax.Array, pairs: Pairs) -> Loss:
        distance = compare.head.distances(h[:, 0], h[:, 1])
        same = pairs.labels > 0.5
        metrics = {
            "accuracy": ((distance < margin / 2) == same).mean(),
            "distance_same": distance.mean(where=same),
            "distance_different": distance.mean(where=~same),
        }
        value = losses.contrastive(distance, pairs.labels, margin).mean()
        if decorrelation:
            metrics["correlation"] = losses.correlation(compare.head.features(h))
            value += decorrelation * metrics["correlation"]
        return value, metrics

    names = ["accuracy", "distance_same", "distance_different"]
    names += ["correlation"] if decorrelation else []
    sample = anew(draw_pairs(fields))
    return Objective(sample, loss, fields["batch"], 2 * fields["batch"], tuple(names))


def _right(logits: jax.Array, allowed: jax.Array, mask: jax.Array) -> jax.Array:
    """(E, N) bool: which queries have their own class first."""
    answer = jnp.where(allowed, logits, -jnp.inf).argmax(-1)
    return mask & (answer == jnp.arange(mask.shape[-1])[None, :])


def _info_nce(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Masked symmetric InfoNCE, the loss of CLIP: each drawing must find its character's other one.

    Every image of one drawer is compared with every image of the other, and the cross-entropy is
    taken along both axes. Masked are characters that an alphabet lacks, and columns that show the
    query's own character once more.

    References:
        van den Oord et al. (2018), Representation learning with contrastive predictive coding.
        Radford et al. (2021), Learning transferable visual models from natural language supervision,
        figure 3.
    """
    episodes, n_way, contrast = fields["episodes"], fields["n_way"], fields["contrast"]
    check_choice("objective.contrast", contrast, CONTRASTS)
    smoothing = fields.get("label_smoothing", 0.0)

    def loss(compare: Compare, h: jax.Array, batch: sampling.Episodes) -> Loss:
        side1, side2, mask, identities = h[:, 0], h[:, 1], batch.mask, batch.identities
        if contrast == "batch":
            side1, side2 = side1.reshape(1, -1, h.shape[-1]), side2.reshape(1, -1, h.shape[-1])
            mask, identities = mask.reshape(1, -1), identities.reshape(1, -1)
        logits = compare.all_pairs(side1, side2)
        allowed = allowed_pairs(mask, identities)
        count = mask.sum()
        metrics = {"accuracy": _right(logits, allowed, mask).sum() / count}
        return losses.symmetric_info_nce(logits, allowed, smoothing).sum() / count, metrics

    sample = anew(draw_episodes(fields, max_alphabet))
    return Objective(sample, loss, episodes, 2 * episodes * n_way, ("accuracy",))


def _prototypes(compare: Compare, queries: jax.Array, supports: jax.Array) -> jax.Array:
    """(E, N, D) and (E, K, N, D) -> (E, N, N) class logits: against the mean of each class."""
    return compare.all_pairs(queries, supports.mean(1))


def _attention(compare: Compare, queries: jax.Array, supports: jax.Array) -> jax.Array:
    """(E, N, D) and (E, K, N, D) -> (E, N, N) class logits: log of the attention each class takes."""
    episodes, k_shot, n_way, size = supports.shape
    logits = compare.all_pairs(queries, supports.reshape(episodes, k_shot * n_way, size))
    return jax.nn.logsumexp(logits.reshape(episodes, n_way, k_shot, n_way), axis=2)


def _support_set(
    class_logits: Callable[[Compare, jax.Array, jax.Array], jax.Array],
    fields: Mapping,
    max_alphabet: int,
    num_classes: int,
) -> Objective:
    """Episodes of K + 1 images a class, each the query once against the K others of all classes."""
    episodes, n_way, k_shot = fields["episodes"], fields["n_way"], fields["k_shot"]
    if k_shot < 1:
        raise ValueError(f"objective.k_shot must be at least 1, got {k_shot}")
    smoothing = fields.get("label_smoothing", 0.0)

    def loss(compare: Compare, h: jax.Array, batch: sampling.Episodes) -> Loss:
        allowed = allowed_pairs(batch.mask, batch.identities)
        total: jax.Array | float = 0.0
        right: jax.Array | float = 0.0
        for i in range(k_shot + 1):
            supports = jnp.concatenate([h[:, :i], h[:, i + 1 :]], axis=1)
            logits = class_logits(compare, h[:, i], supports)
            total += losses.classification(logits, allowed, smoothing).sum()
            right += _right(logits, allowed, batch.mask).sum()
        count = (k_shot + 1) * batch.mask.sum()
        return total / count, {"accuracy": right / count}

    images = (k_shot + 1) * episodes * n_way
    sample = anew(draw_episodes(fields, max_alphabet, k_shot + 1))
    return Objective(sample, loss, episodes, images, ("accuracy",), images_per_class=k_shot + 1)


_PAIR_SETTINGS = ("batch", "negatives")
_EPISODE_SETTINGS = ("episodes", "n_way", "pad_with_symmetries")
_ALL_SETTINGS = (*_EPISODE_SETTINGS, "images_per_class")
_MARGIN_SETTINGS = ("batch", "margin", "scale")

# Every objective by its name. A new one is a function like those above, or like those of
# `batch_objectives` and `class_objectives`, and an entry here.
OBJECTIVES: Mapping[str, Definition] = {
    "verification": Definition(_verification, _PAIR_SETTINGS),
    "contrastive": Definition(
        _contrastive,
        _PAIR_SETTINGS,
        defaults={"margin": 1.0},
        comparator="euclidean",
        learns_distances=True,
    ),
    "triplet": Definition(
        batch_objectives.triplet,
        (*_EPISODE_SETTINGS, "mining", "margin"),
        defaults={"mining": "semi_hard", "margin": 0.2},
        comparator="euclidean",
        learns_distances=True,
        memory=True,
    ),
    "info_nce": Definition(
        _info_nce,
        (*_EPISODE_SETTINGS, "contrast"),
        defaults={"contrast": "batch"},
        softmax=True,
    ),
    "prototypical": Definition(
        functools.partial(_support_set, _prototypes),
        (*_EPISODE_SETTINGS, "k_shot"),
        defaults={"k_shot": 1},
        comparator="squared_euclidean",
        softmax=True,
        output="linear",
    ),
    "matching": Definition(
        functools.partial(_support_set, _attention),
        (*_EPISODE_SETTINGS, "k_shot"),
        defaults={"k_shot": 1},
        softmax=True,
    ),
    "classifier": Definition(class_objectives.classifier, ("batch",), softmax=True),
    "supcon": Definition(
        batch_objectives.supcon, _ALL_SETTINGS, defaults={"images_per_class": 4}, memory=True
    ),
    "nt_xent": Definition(
        batch_objectives.nt_xent, _ALL_SETTINGS, defaults={"images_per_class": 2}, memory=True
    ),
    "multi_similarity": Definition(
        batch_objectives.multi_similarity,
        _ALL_SETTINGS,
        defaults={"images_per_class": 2},
        learns_cosines=True,
        memory=True,
    ),
    "circle": Definition(
        batch_objectives.circle,
        _ALL_SETTINGS,
        defaults={"images_per_class": 2},
        learns_cosines=True,
        memory=True,
    ),
    "n_pair": Definition(
        batch_objectives.n_pair,
        (*_EPISODE_SETTINGS, "l2"),
        defaults={"l2": 0.002},
        learns_cosines=True,
        output="linear",
    ),
    "arcface": Definition(
        class_objectives.arcface,
        _MARGIN_SETTINGS,
        defaults={"margin": 0.5, "scale": 30.0},
        learns_cosines=True,
        softmax=True,
    ),
    "cosface": Definition(
        class_objectives.cosface,
        _MARGIN_SETTINGS,
        defaults={"margin": 0.35, "scale": 30.0},
        learns_cosines=True,
        softmax=True,
    ),
    "proxy_anchor": Definition(
        class_objectives.proxy_anchor,
        _MARGIN_SETTINGS,
        defaults={"margin": 0.1, "scale": 32.0},
        learns_cosines=True,
    ),
}
