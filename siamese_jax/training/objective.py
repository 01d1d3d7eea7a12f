"""What an objective is made of, and the draws that several objectives share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from siamese_jax.models.comparators import Comparator, Euclidean
from siamese_jax.training import cross_batch, sampling

Draw = Callable[[jax.Array, sampling.SetIndex], Any]  # of a batch, with the step's own key
Loss = tuple[jax.Array, dict[str, jax.Array]]  # the loss and the metrics


def _no_classes(h: jax.Array) -> jax.Array:
    raise ValueError("the objective trains no classes")


class Objective(NamedTuple):
    """What a training step draws, and its loss; see `objectives`.

    Attributes:
        sample: (key of the run, () int32 updates made before, SetIndex) -> batch with `rows` and
            `symmetries` of shape (units, ...).
        loss: (Compare, h, batch) -> loss, a scalar, and metrics, scalars by the names of `metrics`. `h`
            has the shape of `rows` and a last axis D. The loss is in nats, except for `contrastive`
            (squared distance), `triplet` (distance), `multi_similarity`, `circle` and `proxy_anchor`
            (no unit).
        units: how many units (pairs, episodes, images) a batch holds.
        images: how many images go through the encoder a step.
        metrics: names of the metrics.
        classes: of the softmax layer that the network needs for it; 0 for none.
        images_per_class: fewest images that a class must have.
        memory: how many embeddings of earlier steps the loss meets (`cross_batch.Memory`).
        memory_start: updates before the first embedding is remembered.
    """

    sample: Callable[[jax.Array, jax.Array, sampling.SetIndex], Any]
    loss: Callable[[Compare, jax.Array, Any], Loss]
    units: int
    images: int
    metrics: tuple[str, ...]
    classes: int = 0
    images_per_class: int = 2
    memory: int = 0
    memory_start: int = 0


class Compare(NamedTuple):
    """The network's later parts with their parameters bound.

    Attributes:
        pairs: (..., D), (..., D) -> (...) logits.
        all_pairs: (..., Q, D), (..., S, D) -> (..., Q, S) logits.
        classify: (..., D) -> (..., classes) logits of the training classes.
        head: the comparator, for its distances (see `comparators.Comparator.distances`).
        class_cosines: (..., D) -> (..., classes) cosines with the vectors of the training classes.
        memory: embeddings of earlier steps, where the objective has a memory.
    """

    pairs: Callable[[jax.Array, jax.Array], jax.Array]
    all_pairs: Callable[[jax.Array, jax.Array], jax.Array]
    classify: Callable[[jax.Array], jax.Array] = _no_classes
    head: Comparator = Euclidean()
    class_cosines: Callable[[jax.Array], jax.Array] = _no_classes
    memory: cross_batch.Memory | None = None


@dataclasses.dataclass(frozen=True)
class Definition:
    """One entry of `objectives.OBJECTIVES`: how an objective is built, and what it needs.

    Attributes:
        build: (settings, characters of the largest training alphabet, characters of the training set)
            -> `Objective`. ValueError for settings that it does not take.
        settings: names of the settings that a config must state, besides `symmetries`.
        defaults: values of the settings, other than sizes, with which an ablation tries it.
        comparator: the comparator with which an ablation tries it.
        learns_distances: whether it learns distances only, and so leaves the other parameters of a
            comparator untrained.
        learns_cosines: whether it learns cosines or products only, likewise.
        softmax: whether it is a softmax, whose targets `label_smoothing` can smooth.
        memory: whether it can have a `memory`.
        output: the `output` of an encoder with which an ablation tries it.
    """

    build: Callable[[Mapping, int, int], Objective]
    settings: tuple[str, ...]
    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    comparator: str = "cosine"
    learns_distances: bool = False
    learns_cosines: bool = False
    softmax: bool = False
    memory: bool = False
    output: str = "unit"


def anew(draw: Draw) -> Callable[[jax.Array, jax.Array, sampling.SetIndex], Any]:
    """The `sample` that draws a batch by (key, SetIndex) with a key that is the step's own."""

    def sample(rng: jax.Array, step: jax.Array, index: sampling.SetIndex) -> Any:
        return draw(sampling.step_keys(rng, step)[0], index)

    return sample


def draw_pairs(fields: Mapping) -> Draw:
    """(key, SetIndex) -> `sampling.PairBatch`."""

    def draw(key: jax.Array, index: sampling.SetIndex) -> sampling.PairBatch:
        return sampling.sample_pairs(
            key,
            index,
            fields["batch"],
            negatives=fields["negatives"],
            symmetries=fields["symmetries"],
        )

    return draw


def draw_episodes(fields: Mapping, max_alphabet: int, images_per_class: int = 2) -> Draw:
    """(key, SetIndex) -> `sampling.Episodes`."""

    def draw(key: jax.Array, index: sampling.SetIndex) -> sampling.Episodes:
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
