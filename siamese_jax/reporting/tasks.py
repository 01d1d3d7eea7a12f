"""What a report says of each objective: the task that its accuracy is of, and the unit of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Task(NamedTuple):
    """What an objective trains.

    Attributes:
        words: the task that the training accuracy is of, with the objective's fields and `noun`, what a
            picture is called, in braces.
        unit: of the loss; empty where it has none.
    """

    words: str
    unit: str = "nats"


_NEAREST = "whether the most similar other {noun} is of the same class"
_MATCH = "to match each {noun} of one side with its class on the other, in the whole "
_NAME = (
    "to name each {noun} among the {n_way} classes of its episode, each with {k_shot}-shot support"
)
_CLASS = "to name the training class of each {noun}"
_OTHER = Task("as the objective counts it", "")  # of an objective that is not listed
TASKS: Mapping[str, Task] = {
    "verification": Task("same or different"),
    "contrastive": Task(
        "same or different, by a distance below half of the margin", "half a squared distance"
    ),
    "triplet": Task(
        "whether the positive of a mined triplet is nearer than its negative", "distance"
    ),
    "info_nce": Task(_MATCH + "{contrast}"),
    "prototypical": Task(_NAME),
    "matching": Task(_NAME),
    "classifier": Task(_CLASS),
    "supcon": Task(_NEAREST),
    "nt_xent": Task(_NEAREST),
    "multi_similarity": Task(_NEAREST, ""),
    "circle": Task(_NEAREST, ""),
    "n_pair": Task(_MATCH + "batch"),
    "arcface": Task(_CLASS),
    "cosface": Task(_CLASS),
    "proxy_anchor": Task(_CLASS, ""),
}


def words(objective: Mapping, noun: str) -> str:
    """The task that the training accuracy is of, from the `objective` section of a config."""
    return TASKS.get(objective["name"], _OTHER).words.format(**objective, noun=noun)


def loss_unit(objective: Mapping) -> str:
    """The unit of the training loss; empty where it has none."""
    return TASKS.get(objective["name"], _OTHER).unit
