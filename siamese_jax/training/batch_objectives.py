"""Objectives in which every image of a batch meets all the others, and those that a memory keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from siamese_jax.models.distances import products, unit
from siamese_jax.readers import check_choice
from siamese_jax.training import cross_batch, losses, mining, sampling
from siamese_jax.training.objective import Compare, Loss, Objective, anew, draw_episodes


class Mined(NamedTuple):
    """`sampling.Episodes` with a uniform draw an image, (E, 2, N), for mining by chance."""

    rows: jax.Array
    symmetries: jax.Array
    identities: jax.Array
    mask: jax.Array
    draw: jax.Array


class Meetings(NamedTuple):
    """Who meets whom: the images of the batch, b, and all that they meet, k.

    Attributes:
        anchors: (b, D) embeddings.
        others: (k, D) embeddings, first those of the batch, then those of the memory.
        same: (b, k) bool, where column k is another image of the class of row b.
        different: (b, k) bool, where column k is of another class.
    """

    anchors: jax.Array
    others: jax.Array
    same: jax.Array
    different: jax.Array

    @classmethod
    def of(cls, compare: Compare, h: jax.Array, batch: cross_batch.Shown) -> Meetings:
        """Of a batch of episodes with the embeddings h (E, K, N, D)."""
        h = h.reshape(-1, h.shape[-1])
        rows, identities, present = cross_batch.images_of(batch)
        others, (rows2, identities2, present2) = h, (rows, identities, present)
        if compare.memory is not None:
            memory = compare.memory
            others = jnp.concatenate([h, memory.h.astype(h.dtype)])
            rows2 = jnp.concatenate([rows, memory.rows])
            identities2 = jnp.concatenate([identities, memory.identities])
            present2 = jnp.concatenate([present, memory.present])
        both = present[:, None] & present2[None, :]
        one_class = identities[:, None] == identities2[None, :]
        same = both & one_class & (rows[:, None] != rows2[None, :])
        return cls(h, others, same, both & ~one_class)

    def nearest_is_right(self, similarity: jax.Array) -> jax.Array:
        """The share of anchors whose most similar other image is of their class."""
        seen = jnp.where(self.same | self.different, similarity, -jnp.inf)
        right = jnp.take_along_axis(self.same, seen.argmax(1)[:, None], 1)[:, 0]
        return right.mean(where=self.same.any(1))


def triplet(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Triplet loss of distances, the triplets mined among the images of a batch."""
    episodes, n_way, margin = fields["episodes"], fields["n_way"], fields["margin"]
    check_choice("objective.mining", fields["mining"], mining.MININGS)
    draw_batch = draw_episodes(fields, max_alphabet)

    def draw(key: jax.Array, index: sampling.SetIndex) -> Mined:
        k_episodes, k_draw = jax.random.split(key)
        drawn = draw_batch(k_episodes, index)
        chance = jax.random.uniform(k_draw, drawn.rows.shape)
        return Mined(drawn.rows, drawn.symmetries, drawn.identities, drawn.mask, chance)

    def loss(compare: Compare, h: jax.Array, batch: Mined) -> Loss:
        anchors, others, same, different = Meetings.of(compare, h, batch)
        distance = compare.head.distances(anchors, others, all_pairs=True)
        positive, negative, valid = mining.mine(
            distance, same, different, fields["mining"], batch.draw.reshape(-1), h.shape[-1]
        )
        values = losses.triplet(positive, negative, margin)
        metrics = {
            "accuracy": _mean(positive < negative, valid),
            "active": _mean(values > 0, valid),
            "distance_same": _mean(distance, same),
            "distance_different": _mean(distance, different),
        }
        return _mean(values, valid), metrics

    names = ("accuracy", "active", "distance_same", "distance_different")
    images = 2 * episodes * n_way
    return Objective(anew(draw), loss, episodes, images, names, **_memory(fields))


def supcon(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Supervised contrastive loss of the comparator's logits, whose scale is 1 / temperature."""

    def loss(compare: Compare, h: jax.Array, batch: sampling.Episodes) -> Loss:
        meet = Meetings.of(compare, h, batch)
        logits = compare.all_pairs(meet.anchors, meet.others)
        values = losses.supcon(logits, meet.same, meet.different)
        valid = meet.same.any(1)
        return values.mean(where=valid), {"accuracy": meet.nearest_is_right(logits)}

    return _among_all(fields, max_alphabet, loss)


def nt_xent(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """NT-Xent of the comparator's logits, whose scale is 1 / temperature."""

    def loss(compare: Compare, h: jax.Array, batch: sampling.Episodes) -> Loss:
        meet = Meetings.of(compare, h, batch)
        logits = compare.all_pairs(meet.anchors, meet.others)
        values = losses.nt_xent(logits, meet.same, meet.different)
        return values.mean(where=meet.same), {"accuracy": meet.nearest_is_right(logits)}

    return _among_all(fields, max_alphabet, loss)


def multi_similarity(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Multi-similarity loss of cosines, with its own mining."""
    names = ("alpha", "beta", "base", "epsilon")
    return _of_cosines(losses.multi_similarity, names, fields, max_alphabet)


def circle(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """Circle loss of cosines."""
    return _of_cosines(losses.circle, ("margin", "scale"), fields, max_alphabet)


def n_pair(fields: Mapping, max_alphabet: int, num_classes: int) -> Objective:
    """N-pair loss of scalar products, the images of one drawer against those of the other.

    The embeddings are not normalised. `l2` times their mean squared length is added, as in the paper.
    """
    draw, l2 = draw_episodes(fields, max_alphabet), fields["l2"]

    def loss(compare: Compare, h: jax.Array, batch: sampling.Episodes) -> Loss:
        anchors, positives = (h[:, side].reshape(-1, h.shape[-1]) for side in (0, 1))
        mask, identities = batch.mask.reshape(-1), batch.identities.reshape(-1)
        allowed = allowed_pairs(mask, identities)
        logits = products(anchors, positives, all_pairs=True)
        values = losses.n_pair(logits, allowed)
        squares = (anchors**2 + positives**2).sum(-1).mean(where=mask) / 2
        answer = jnp.where(allowed, logits, -jnp.inf).argmax(-1)
        metrics = {
            "accuracy": (answer == jnp.arange(mask.shape[0])).mean(where=mask),
            "squared_length": squares,
        }
        return values.mean(where=mask) + l2 * squares, metrics

    images = 2 * fields["episodes"] * fields["n_way"]
    names = ("accuracy", "squared_length")
    return Objective(anew(draw), loss, fields["episodes"], images, names)


def allowed_pairs(mask: jax.Array, identities: jax.Array) -> jax.Array:
    """(..., N) presence and identities -> (..., N, N) bool: which characters are distractors of which.

    A character that stands in two episodes is not wrong, so it is no distractor of its own.
    """
    twin = identities[..., :, None] == identities[..., None, :]
    allowed = mask[..., :, None] & mask[..., None, :]
    itself = jnp.broadcast_to(jnp.eye(mask.shape[-1], dtype=bool), twin.shape)
    return allowed & (~twin | itself)


def _mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """`values.mean(where=where)`, but 0 where there is none: a batch may be of one class."""
    return jnp.where(where, values, 0).mean(where=where | ~where.any())


def _of_cosines(
    values_of: Callable[..., jax.Array], names: Sequence[str], fields: Mapping, max_alphabet: int
) -> Objective:
    """An objective of cosines; its settings are the entries of `fields` listed in `names`."""
    settings = {name: fields[name] for name in names if name in fields}

    def loss(compare: Compare, h: jax.Array, batch: sampling.Episodes) -> Loss:
        meet = Meetings.of(compare, h, batch)
        cosine = products(unit(meet.anchors), unit(meet.others), all_pairs=True)
        values = values_of(cosine, meet.same, meet.different, **settings)
        valid = meet.same.any(1) & meet.different.any(1)
        metrics = {
            "accuracy": meet.nearest_is_right(cosine),
            "cosine_same": _mean(cosine, meet.same),
            "cosine_different": _mean(cosine, meet.different),
        }
        return _mean(values, valid), metrics

    more = ("cosine_same", "cosine_different")
    return _among_all(fields, max_alphabet, loss, more)


def _among_all(
    fields: Mapping,
    max_alphabet: int,
    loss: Callable[[Compare, jax.Array, sampling.Episodes], Loss],
    more: tuple[str, ...] = (),
) -> Objective:
    """An objective on episodes of `images_per_class` images of each class, all of which meet."""
    count = fields["images_per_class"]
    if count < 2:
        raise ValueError(f"objective.images_per_class must be at least 2, got {count}")
    return Objective(
        anew(draw_episodes(fields, max_alphabet, count)),
        loss,
        fields["episodes"],
        count * fields["episodes"] * fields["n_way"],
        ("accuracy", *more),
        images_per_class=count,
        **_memory(fields),
    )


def _memory(fields: Mapping) -> dict[str, int]:
    return {"memory": fields.get("memory", 0), "memory_start": fields.get("memory_start", 0)}
