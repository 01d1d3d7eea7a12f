"""A threshold that keeps to a false-accept rate on fresh classes, with a stated confidence.

The units are classes (people, characters), since pictures of one class are alike. A class **alarms** at
a threshold if one picture of it, drawn at random, scores at least that with any of n references. Where U
units are independent, how many of them alarm is binomial. The threshold lies just above the j-th highest
of the units' scores, for the largest j with P(Bin(U, rate) < j) <= 1 - confidence: then, whatever the
distribution of the scores, the rate on fresh classes is above the chosen one with a probability of at
most 1 - confidence over the draw of the classes. It is the lowest threshold whose upper
Clopper-Pearson limit is at most the rate.

There are two kinds. The bound of **one gallery** takes its references as they are, and each class is a
unit. The bound of **any gallery** is about galleries of n references of fresh classes, on average: a
unit is n + 1 classes, one that alarms or not and n that give one reference each. References that share a
class alarm no more often than those of different ones (Jensen's inequality), so the n references may
have any number of names. It takes n + 1 times as many classes, and no method can do with fewer: where a
share q of the classes alarms with every other, K classes show no alarm with probability (1 - q)^K, and
n + 1 fresh ones show none with probability (1 - q)^(n + 1).

References:
    Clopper, Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the
    binomial. Wilks (1941), Determination of sample sizes for setting tolerance limits.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # its parts are imported at their first use: they are slow

CONFIDENCE = 0.9
MAX_CLASSES = 2000  # more are left out

# A number of references and its threshold, in rising order.
Thresholds = Sequence[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Bound:
    """Thresholds by the number of references, each of which holds with the confidence.

    Attributes:
        rate: false-accept rate to be allowed.
        confidence: that a threshold keeps to it on fresh classes, each by itself.
        classes: how many it was made of.
        thresholds: (number of references, threshold) in rising order; none where the classes are too
            few.
        gallery: number of references of the gallery that it is of; None for any gallery.
    """

    rate: float
    confidence: float
    classes: int
    thresholds: tuple[tuple[int, float], ...]
    gallery: int | None = None

    def threshold(self, references: int) -> float:
        """The threshold for the best score of so many references.

        Raises:
            ValueError: it was not shown for so many.
        """
        if not self.thresholds or references > self.thresholds[-1][0]:
            raise ValueError(self.missing(references))
        return at(self.thresholds, references)

    def missing(self, references: int = 1) -> str:
        """What a bound for so many references would need."""
        needed = units_needed(self.rate, self.confidence) * (
            references + 1 if self.gallery is None else 1
        )
        what = f"{references} reference{'s' * (references > 1)}"
        return (
            f"{self.classes} classes cannot show a false-accept rate of {self.rate:g} with "
            f"{100 * self.confidence:g} % confidence for "
            f"{what if self.gallery is None else 'this gallery'}: {needed} are needed"
        )

    def describe(self) -> str:
        """What it promises, or what is missing for it, in one line."""
        if not self.thresholds:
            return f"no bound: {self.missing()}"
        (_, first), (most, last) = self.thresholds[0], self.thresholds[-1]
        where = f"{first:.3f} for {'one reference' if self.gallery is None else 'this gallery'}"
        if self.gallery is None and most > 1:
            where += f", {last:.3f} for {most}, the most that they show"
        return (
            f"bound from {self.classes} classes: with {100 * self.confidence:g} % confidence the "
            f"false-accept rate on fresh classes is at most {self.rate:g} at the threshold {where}"
        )


def bound(
    classes: np.ndarray,
    rate: float,
    confidence: float,
    score_all: Callable[[np.ndarray], np.ndarray],
    score_gallery: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
) -> Bound:
    """The bound of one gallery or of any.

    Args:
        classes: (M,) int from 0, who or what is on each picture; of classes that are not in the
            gallery.
        rate: false-accept rate to allow, between 0 and 1.
        confidence: between 0 and 1.
        score_all: numbers of pictures (B,) -> (B, B) finite scores of every one with every one.
        score_gallery: numbers of pictures (B,) -> (B, R) finite scores with the references of a
            gallery; None for a bound of any gallery.
        seed: of the picture of each class, and of the order of the classes.

    Raises:
        ValueError: a rate or a confidence out of range.
    """
    units = units_needed(rate, confidence)
    rng = np.random.default_rng(seed)
    ids = rng.permutation(len(np.unique(classes)))[:MAX_CLASSES]
    rows = np.array([rng.choice(np.flatnonzero(classes == c)) for c in ids])
    facts = (float(rate), float(confidence), len(rows))
    if score_gallery is not None:
        scores = np.asarray(score_gallery(rows), np.float64)
        references, shown = scores.shape[1], len(rows) >= units
        thresholds = [(references, upper(scores.max(1), rate, confidence))] if shown else []
        return Bound(*facts, tuple(thresholds), references)
    most = len(rows) // units - 1
    if most < 1:
        return Bound(*facts, ())
    scores = np.asarray(score_all(rows), np.float64)
    thresholds = []
    for n in range(1, most + 1):
        blocks = np.arange(len(rows) // (n + 1) * (n + 1)).reshape(-1, n + 1)
        highest = scores[blocks[:, :1], blocks[:, 1:]].max(1)
        thresholds.append((n, upper(highest, rate, confidence)))
    return Bound(*facts, tuple(thresholds))


def upper(scores: np.ndarray, rate: float, confidence: float) -> float:
    """The lowest threshold that at most `rate` of fresh units reach, with the confidence.

    Args:
        scores: (U,) of independent units, at least `units_needed`; a unit reaches a threshold <= its
            score.
        rate: between 0 and 1.
        confidence: between 0 and 1.
    """
    # The units above the threshold, 0 .. U - 1, that are too few to come of a higher rate.
    # The slack is for rounding: exactly as many units as are needed show the rate with no alarm.
    below = scipy.special.bdtr(np.arange(len(scores)), len(scores), rate)
    few = below <= (1 - confidence) * (1 + 1e-9)
    return float(np.nextafter(np.sort(scores)[::-1][max(int(few.sum()), 1) - 1], np.inf))


def units_needed(rate: float, confidence: float) -> int:
    """The fewest units that can show a rate: (1 - rate)^units <= 1 - confidence.

    Raises:
        ValueError: a rate or a confidence out of range.
    """
    for name, value in (("false-accept rate", rate), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"a {name} lies between 0 and 1, got {value:g}")
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate) - 1e-9)


def at(thresholds: Thresholds, references: int) -> float:
    """The threshold for a number of references: that of the next larger number, else the last."""
    sizes = [size for size, _ in thresholds]
    return thresholds[min(bisect.bisect_left(sizes, references), len(sizes) - 1)][1]
