"""Objectives: which images a training step draws, and the loss of their embeddings.

An objective is two pure functions. `sample(rng, step, index)` draws the whole global batch of a step of
the run with the key `rng`. The leading axis of its arrays counts units (pairs, episodes, images). The
devices share that axis out for the encoder. `loss(compare, h, batch)` then sees all embeddings of the
batch, wherever they were computed. `OBJECTIVES` lists the objectives by name.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from siamese_jax.models.comparators import Comparator, Euclidean
from siamese_jax.training import fixed_pairs, losses, mining, sampling

CONTRASTS = ("episode", "batch")


class Objective(NamedTuple):
    """See the module's text.

    Attributes:
        sample: (key of the run, () int32 updates made before, SetIndex) -> batch with `rows` and
            `symmetries` of shape (units, ...).
        loss: (Compare, h, batch) -> loss, a scalar (nats, or squared distance), and metrics, scalars
            by the names of `metrics`. `h` has the shape of `rows` and a last axis D.
        units: how many units (pairs, episodes, images) a batch holds.
        images: how many images go through the encoder a step.
        metrics: names of the metrics.
        classes: of the softmax layer that the network needs for it; 0 for none.
        images_per_class: fewest images that a class must have.
    """

    sample: Callable
    loss: Callable
    units: int
    images: int
    metrics: tuple[str, ...]
    classes: int = 0
    images_per_class: int = 2


class Compare(NamedTuple):
    """The network's later parts with their parameters bound.

    Attributes:
        pairs: (..., D), (..., D) -> (...) logits.
        all_pairs: (..., Q, D), (..., S, D) -> (..., Q, S) logits.
        classify: (..., D) -> (..., classes) logits of the training classes.
        head: the comparator, for its distances (see `comparators.Comparator.distances`).
    """

    pairs: Callable
    all_pairs: Callable
    classify: Callable | None = None
    head: Comparator = Euclidean()


@dataclasses.dataclass(frozen=True)
class Definition:
    """One entry of `OBJECTIVES`: how an objective is built, and what it needs.

    Attributes:
        build: (settings, characters of the largest training alphabet, characters of the training set)
            -> `Objective`. ValueError for settings that it does not take.
        settings: names of the settings that a config must state, besides `symmetries`.
        defaults: values of the settings, other than sizes, with which an ablation tries it.
        comparator: the comparator with which an ablation tries it.
        learns_distances: whether it learns distances only, and so leaves the other parameters of a
            comparator untrained.
    """

    build: Callable[[Mapping, int, int], Objective]
    settings: tuple[str, ...]
    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    comparator: str = "cosine"
    learns_distances: bool = False


class _Mined(NamedTuple):
    """`sampling.Episodes` with a uniform draw an image, (E, 2, N), for mining by chance."""

    rows: jax.Array
    symmetries: jax.Array
    identities: jax.Array
    mask: jax.Array
    draw: jax.Array


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
    | `classifier` | `batch` (images) |

    With `pairs`, the size of a fixed set, `verification` does not draw new pairs for every batch. It
    goes through the pairs of the set in epochs, and through `copies` distorted copies of each. Its
    `sample` then needs the index of `make_index`.

    Args:
        fields: `name` and the settings of that objective.
        max_alphabet: characters of the largest training alphabet.
        num_classes: characters of the training set, which `classifier` needs.

    Raises:
        ValueError: an unknown name, a setting that is missing, or settings that do not go together.
    """
    name = fields["name"]
    if name not in OBJECTIVES:
        raise ValueError(f"objective.name must be one of {tuple(OBJECTIVES)}, got {name!r}")
    missing = sorted({"symmetries", *OBJECTIVES[name].settings} - set(fields))
    if missing:
        raise ValueError(f"objective.name = {name!r} needs the fields {missing}")
    if "n_way" in OBJECTIVES[name].settings and fields["n_way"] < 2:
        raise ValueError(f"objective.n_way must be at least 2, got {fields['n_way']}")
    pairs, copies = fields.get("pairs", 0), fields.get("copies", 0)
    if pairs and name != "verification":
        raise ValueError(f"objective.pairs goes with the objective 'verification', not {name!r}")
    if min(pairs, copies) < 0 or copies and not pairs:
        raise ValueError(
            f"objective.copies = {copies} of objective.pairs = {pairs}: neither may be negative, and "
            "copies are of fixed pairs"
        )
    return OBJECTIVES[name].build(fields, max_alphabet, num_classes)


def learns_distances(name: str) -> bool:
    """Whether the objective of this name trains nothing of a comparator but its distances."""
    return name in OBJECTIVES and OBJECTIVES[name].learns_distances


def make_index(fields: Mapping, image_set, seed: int) -> sampling.SetIndex:
    """What an objective samples from: the `SetIndex` of a set, with the fixed pairs if it has any.

    Args:
        fields: as of `build`.
        image_set: the `ImageSet` to train on.
        seed: of the run, which its set of pairs depends on.

    Raises:
        ValueError: see `fixed_pairs.make_pairs`.
    """
    index = sampling.SetIndex.of(image_set)
    if not fields.get("pairs"):
        return index
    pairs = fixed_pairs.make_pairs(image_set, fields["pairs"], seed, fields["negatives"])
    return index._replace(pairs=jax.tree.map(jnp.asarray, pairs))


def _anew(draw: Callable) -> Callable:
    """The `sample` that draws a batch by (key, SetIndex) with a key that is the step's own."""

    def sample(rng, step, index):
        return draw(sampling.step_keys(rng, step)[0], index)

    return sample


def _fixed_pairs(fields) -> Callable:
    if fields["symmetries"] != "none":
        raise ValueError(
            f"objective.pairs are pairs of unturned images: set objective.symmetries to 'none', not "
            f"{fields['symmetries']!r}, or objective.pairs to 0"
        )

    def sample(rng, step, index):
        copies = fields.get("copies", 0)
        return fixed_pairs.sample_fixed_pairs(rng, index.pairs, step, fields["batch"], copies)

    return sample


def _pairs(fields) -> Callable:
    def draw(key, index):
        return sampling.sample_pairs(
            key,
            index,
            fields["batch"],
            negatives=fields["negatives"],
            symmetries=fields["symmetries"],
        )

    return draw


def _episodes(fields, max_alphabet, images_per_class=2) -> Callable:
    def draw(key, index):
        return sampling.sample_episodes(
            key,
            index,
            fields["episodes"],
            fields["n_way"],
            symmetries=fields["symmetries"],
            pad_with_symmetries=fields["pad_with_symmetries"],
            max_alphabet=max_alphabet,
            images_per_class=images_per_class,
        )

    return draw


def _verification(fields, max_alphabet, num_classes) -> Objective:
    """Binary cross-entropy of the comparator's logits."""

    def loss(compare: Compare, h, pairs):
        logits = compare.pairs(h[:, 0], h[:, 1])
        correct = (logits > 0) == (pairs.labels > 0.5)
        return losses.verification(logits, pairs.labels).mean(), {"accuracy": correct.mean()}

    batch = fields["batch"]
    sample = _fixed_pairs(fields) if fields.get("pairs") else _anew(_pairs(fields))
    return Objective(sample, loss, batch, 2 * batch, ("accuracy",))


def contrastive_margin(fields: Mapping) -> float:
    """The margin of a `contrastive` objective section: 2.0, the first tutorial's, unless set."""
    return fields.get("margin", 2.0)


def _contrastive(fields, max_alphabet, num_classes) -> Objective:
    """Contrastive loss of distances."""
    margin, decorrelation = contrastive_margin(fields), fields.get("decorrelation", 0.0)

    def loss(compare: Compare, h, pairs):
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

    names = ("accuracy", "distance_same", "distance_different")
    names += ("correlation",) if decorrelation else ()
    sample = _anew(_pairs(fields))
    return Objective(sample, loss, fields["batch"], 2 * fields["batch"], names)


def _triplet(fields, max_alphabet, num_classes) -> Objective:
    """Triplet loss of distances, the triplets mined among the images of a batch."""
    episodes, n_way, margin = fields["episodes"], fields["n_way"], fields["margin"]
    if fields["mining"] not in mining.MININGS:
        raise ValueError(
            f"objective.mining must be one of {mining.MININGS}, got {fields['mining']!r}"
        )
    draw_episodes = _episodes(fields, max_alphabet)

    def draw(key, index):
        k_episodes, k_draw = jax.random.split(key)
        drawn = draw_episodes(k_episodes, index)
        return _Mined(*drawn, jax.random.uniform(k_draw, drawn.rows.shape))

    def loss(compare: Compare, h, batch):
        h = h.reshape(-1, h.shape[-1])
        rows = batch.rows.reshape(-1)
        identities, present = (
            jnp.broadcast_to(x[:, None], batch.rows.shape).reshape(-1)
            for x in (batch.identities, batch.mask)
        )
        both = present[:, None] & present[None, :]
        one_class = identities[:, None] == identities[None, :]
        same = both & one_class & (rows[:, None] != rows[None, :])
        different = both & ~one_class
        distance = compare.head.distances(h, h, all_pairs=True)
        positive, negative, valid = mining.mine(
            distance, same, different, fields["mining"], batch.draw.reshape(-1)
        )
        values = losses.triplet(positive, negative, margin)
        metrics = {
            "accuracy": (positive < negative).mean(where=valid),
            "active": (values > 0).mean(where=valid),
            "distance_same": distance.mean(where=same),
            "distance_different": distance.mean(where=different),
        }
        return values.mean(where=valid), metrics

    names = ("accuracy", "active", "distance_same", "distance_different")
    return Objective(_anew(draw), loss, episodes, 2 * episodes * n_way, names)


def _allowed(mask, identities):
    """(E, N) presence and identities -> (E, N, N) bool: which characters are distractors of which.

    A character that stands in two episodes is not wrong, so it is no distractor of its own.
    """
    twin = identities[..., :, None] == identities[..., None, :]
    allowed = mask[..., :, None] & mask[..., None, :]
    return allowed & (~twin | jnp.eye(mask.shape[-1], dtype=bool)[None])


def _right(logits, allowed, mask):
    """(E, N) bool: which queries have their own class first."""
    answer = jnp.where(allowed, logits, -jnp.inf).argmax(-1)
    return mask & (answer == jnp.arange(mask.shape[-1])[None, :])


def _info_nce(fields, max_alphabet, num_classes) -> Objective:
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
    if contrast not in CONTRASTS:
        raise ValueError(f"objective.contrast must be one of {CONTRASTS}, got {contrast!r}")

    def loss(compare: Compare, h, batch):
        side1, side2, mask, identities = h[:, 0], h[:, 1], batch.mask, batch.identities
        if contrast == "batch":
            side1, side2 = side1.reshape(1, -1, h.shape[-1]), side2.reshape(1, -1, h.shape[-1])
            mask, identities = mask.reshape(1, -1), identities.reshape(1, -1)
        logits = compare.all_pairs(side1, side2)
        allowed = _allowed(mask, identities)
        count = mask.sum()
        metrics = {"accuracy": _right(logits, allowed, mask).sum() / count}
        return losses.symmetric_info_nce(logits, allowed).sum() / count, metrics

    sample = _anew(_episodes(fields, max_alphabet))
    return Objective(sample, loss, episodes, 2 * episodes * n_way, ("accuracy",))


def _prototypes(compare: Compare, queries, supports):
    """(E, N, D) and (E, K, N, D) -> (E, N, N) class logits: against the mean of each class."""
    return compare.all_pairs(queries, supports.mean(1))


def _attention(compare: Compare, queries, supports):
    """(E, N, D) and (E, K, N, D) -> (E, N, N) class logits: log of the attention each class takes."""
    episodes, k_shot, n_way, size = supports.shape
    logits = compare.all_pairs(queries, supports.reshape(episodes, k_shot * n_way, size))
    return jax.nn.logsumexp(logits.reshape(episodes, n_way, k_shot, n_way), axis=2)


def _support_set(class_logits, fields, max_alphabet, num_classes) -> Objective:
    """Episodes of K + 1 images a class, each the query once against the K others of all classes."""
    episodes, n_way, k_shot = fields["episodes"], fields["n_way"], fields["k_shot"]
    if k_shot < 1:
        raise ValueError(f"objective.k_shot must be at least 1, got {k_shot}")

    def loss(compare: Compare, h, batch):
        allowed = _allowed(batch.mask, batch.identities)
        total, right = 0.0, 0.0
        for i in range(k_shot + 1):
            supports = jnp.concatenate([h[:, :i], h[:, i + 1 :]], axis=1)
            logits = class_logits(compare, h[:, i], supports)
            total += losses.classification(logits, allowed).sum()
            right += _right(logits, allowed, batch.mask).sum()
        count = (k_shot + 1) * batch.mask.sum()
        return total / count, {"accuracy": right / count}

    images = (k_shot + 1) * episodes * n_way
    sample = _anew(_episodes(fields, max_alphabet, k_shot + 1))
    return Objective(sample, loss, episodes, images, ("accuracy",), images_per_class=k_shot + 1)


def _classifier(fields, max_alphabet, num_classes) -> Objective:
    """Cross-entropy of a softmax layer over the training classes."""
    batch, turned = fields["batch"], fields["symmetries"] != "none"
    symmetries = sampling.NUM_SYMMETRIES if turned else 1

    def draw(key, index):
        drawn = sampling.sample_images(key, index, batch, symmetries=fields["symmetries"])
        return drawn if turned else drawn._replace(labels=drawn.labels // sampling.NUM_SYMMETRIES)

    def loss(compare: Compare, h, images):
        logits = compare.classify(h)
        chosen = jnp.take_along_axis(logits, images.labels[:, None], 1)[:, 0]
        values = jax.nn.logsumexp(logits, -1) - chosen
        return values.mean(), {"accuracy": (logits.argmax(-1) == images.labels).mean()}

    sample, classes = _anew(draw), num_classes * symmetries
    return Objective(sample, loss, batch, batch, ("accuracy",), classes=classes, images_per_class=1)


_PAIR_SETTINGS = ("batch", "negatives")
_EPISODE_SETTINGS = ("episodes", "n_way", "pad_with_symmetries")

# Every objective by its name. A new one is a function like those above and an entry here.
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
        _triplet,
        (*_EPISODE_SETTINGS, "mining", "margin"),
        defaults={"mining": "semi_hard", "margin": 0.2},
        comparator="euclidean",
        learns_distances=True,
    ),
    "info_nce": Definition(
        _info_nce, (*_EPISODE_SETTINGS, "contrast"), defaults={"contrast": "batch"}
    ),
    "prototypical": Definition(
        functools.partial(_support_set, _prototypes),
        (*_EPISODE_SETTINGS, "k_shot"),
        defaults={"k_shot": 1},
        comparator="squared_euclidean",
    ),
    "matching": Definition(
        functools.partial(_support_set, _attention),
        (*_EPISODE_SETTINGS, "k_shot"),
        defaults={"k_shot": 1},
    ),
    "classifier": Definition(_classifier, ("batch",)),
}
