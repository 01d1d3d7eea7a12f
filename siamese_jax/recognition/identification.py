"""Who is on a picture: identify, verify, search and compare, by a gallery.

A probe is compared with all references at once, or with those that the index of a large gallery chooses.
The score of a name is that of its **best** reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from siamese_jax.evaluation import calibration
from siamese_jax.inference.comparing import Comparing
from siamese_jax.recognition import pictures, scoring
from siamese_jax.recognition.gallery import Gallery, Reference, check_name, check_network
from siamese_jax.recognition.store import Store


@dataclasses.dataclass(frozen=True)
class Match:
    """A name, or a reference of it, that a picture was compared with.

    Attributes:
        name: the name.
        score: of its best reference, or of this one; higher is more alike.
        probability: that the two are the same; None without a calibration.
        reference: the best reference, or this one.
    """

    name: str
    score: float
    probability: float | None
    reference: Reference


@dataclasses.dataclass(frozen=True)
class Answer:
    """Who is on a picture.

    Attributes:
        matches: the best names, best first.
        threshold: of the score; None without a calibration.
        rate_covered: whether the calibration could show its rate for this number of references.
        name: the best name, None for unknown; None as well without a threshold.
    """

    matches: tuple[Match, ...]
    threshold: float | None
    rate_covered: bool

    @property
    def name(self) -> str | None:
        """The best name above the threshold, None for "unknown"."""
        accepted = self.threshold is not None and self.matches[0].score >= self.threshold
        return self.matches[0].name if accepted else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How alike two pictures are.

    Attributes:
        dissimilarity: see `compare`.
        score: logit of the network.
        probability: that they are the same; None without a calibration.
    """

    dissimilarity: float
    score: float
    probability: float | None


def identify(
    gallery: Gallery | Store,
    net: Comparing,
    probes: Sequence[pictures.Picture],
    top: int = 3,
) -> list[Answer]:
    """Names who is on each picture.

    Without a calibration, of the gallery or of the network, the names are ranked, but there is no
    threshold and no answer.

    Args:
        gallery: the enrolled names.
        net: its network.
        probes: the pictures.
        top: names an answer at most.

    Raises:
        ValueError: another network, a gallery without names, or `top` below 1.
    """
    _check_top(top)
    _check(gallery, net)
    if not probes:
        return []
    h = scoring.embed(net, probes)
    calibrated = calibration_in_use(gallery, net)
    threshold, covered = _threshold(calibrated, len(gallery))
    return [
        Answer(tuple(_match(calibrated, *best) for best in row), threshold, covered)
        for row in gallery.best_names(net, h, top)
    ]


def verify(gallery: Gallery | Store, net: Comparing, name: str, probe: pictures.Picture) -> Answer:
    """Checks whether a picture shows whom it is claimed to show.

    Returns:
        An answer with one match: its `name` is None where the claim is rejected.

    Raises:
        ValueError: another network, an unknown name, or a gallery without calibration.
    """
    check_network(gallery, net)
    check_name(gallery, name)
    if calibration_in_use(gallery, net) is None:
        raise ValueError(
            "this gallery has no threshold to accept or reject by: `calibrate` it first"
        )
    return identify(gallery.part(name), net, [probe], top=1)[0]


def search(
    gallery: Gallery | Store, net: Comparing, probe: pictures.Picture, top: int = 10
) -> list[Match]:
    """The references nearest to a picture, best first.

    Raises:
        ValueError: another network, a gallery without names, or `top` below 1.
    """
    _check_top(top)
    _check(gallery, net)
    h = scoring.embed(net, [probe])
    calibrated = calibration_in_use(gallery, net)
    return [_match(calibrated, *best) for best in gallery.nearest(net, h, top)[0]]


def compare(
    net: Comparing,
    first: pictures.Picture,
    second: pictures.Picture,
    calibrated: calibration.Calibration | None = None,
) -> Comparison:
    """How alike two pictures are.

    The dissimilarity is the distance of the embeddings (see `Comparator.distances`) where the
    network's comparator goes by one, and minus the score where it does not; it falls where the score
    rises.

    Args:
        net: the network.
        first: a picture.
        second: another one.
        calibrated: of this network, for the probability; None for the one that came with it.
    """
    calibrated = calibrated or calibration_in_use(None, net)
    h = scoring.embed(net, [first, second])
    value = float(scoring.score(net, h[:1], scoring.References(h[1:]))[0, 0])
    head = net.head
    dissimilarity = -value
    if head.falls_with_distance:
        dissimilarity = float(head.distances(h[:1], h[1:])[0])
    probability = None if calibrated is None else float(calibrated.probability(value))
    return Comparison(dissimilarity, value, probability)


def score(gallery: Gallery, net: Comparing, probes: Sequence[pictures.Picture]) -> np.ndarray:
    """Scores of every probe with every reference: (Q, R) float64.

    Raises:
        ValueError: another network, or a gallery without names.
    """
    _check(gallery, net)
    return scoring.score(net, scoring.embed(net, probes), gallery.scored)


def calibration_in_use(
    gallery: Gallery | Store | None, net: Comparing
) -> calibration.Calibration | None:
    """The gallery's calibration, else the one for pictures that came with the network, else None."""
    of_gallery = None if gallery is None else gallery.calibration
    return of_gallery or net.calibrations.get("pictures")


def _check(gallery: Gallery | Store, net: Comparing) -> None:
    """Refuses a gallery without names, and another network than its own."""
    check_network(gallery, net)
    if not len(gallery):
        raise ValueError("the gallery holds no names: `enrol` some first")


def _check_top(top: int) -> None:
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")


def _threshold(
    calibrated: calibration.Calibration | None, references: int
) -> tuple[float | None, bool]:
    """The threshold for the best of that many references, and whether its rate was shown."""
    if calibrated is None:
        return None, False
    return calibrated.threshold(references), references <= calibrated.max_references


def _match(calibrated: calibration.Calibration | None, value: float, reference: Reference) -> Match:
    probability = None if calibrated is None else float(calibrated.probability(value))
    return Match(reference.name, value, probability, reference)
