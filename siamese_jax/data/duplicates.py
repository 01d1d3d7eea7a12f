"""Pictures that a data set holds more than once."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import NamedTuple

from siamese_jax.data.image_set import ImageSet, pixel_digests

WHERE = ("within a class", "across classes", "across parts")


class Place(NamedTuple):
    """Where a picture stands.

    Attributes:
        part: name of the part of the data.
        class_name: of its class.
        number: of the picture in its class, from 1.
    """

    part: str
    class_name: str
    number: int

    def __str__(self) -> str:
        return f"{self.class_name} picture {self.number} ({self.part})"


def find(parts: Mapping[str, ImageSet]) -> list[tuple[Place, ...]]:
    """Groups of pictures whose pixels are equal.

    Args:
        parts: the sets by the names of the parts, of one image size.

    Returns:
        The places of each group of two or more, in the order of the parts and rows.
    """
    places = collections.defaultdict(list)
    for part, images in parts.items():
        for row, digest in enumerate(pixel_digests(images).tolist()):
            name = images.class_names[images.classes[row]]
            places[digest].append(Place(part, name, int(images.drawers[row])))
    return [tuple(group) for group in places.values() if len(group) > 1]


def where(group: tuple[Place, ...]) -> str:
    """Which of `WHERE` a group of equal pictures spans; parts before classes."""
    if len({place.part for place in group}) > 1:
        return WHERE[2]
    return WHERE[1] if len({place.class_name for place in group}) > 1 else WHERE[0]
