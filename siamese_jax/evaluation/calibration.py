"""What a score means: a threshold for a false-accept rate, and the probability of "same".

Both are learned from labelled pictures of classes (people, characters) that the network was not trained
on. Half of the classes are held out, and the reported figures are measured on them.

The highest of many scores is higher than one score, so a threshold holds for a number of references.
A probe that meets `n` references of other classes, drawn from the `m` that the set has for it, of
which `b` score below the threshold, is falsely accepted with probability 1 - C(b, n) / C(m, n); the
mean over all probes is the false-accept rate. It counts every choice of n references, none is drawn.

The plain threshold keeps to the rate on the pictures that it was chosen on. On fresh classes it may not:
few classes say little of others. `bounds` has the threshold that does, with a stated confidence.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import scipy  # its parts are imported at their first use: they are slow
from typing_extensions import TypedDict

from siamese_jax import readers
from siamese_jax.evaluation import bounds, metrics, probabilities

MAX_PICTURES = 2000  # of each half; classes beyond that are left out
_DRAWS = 20  # galleries drawn for the open-set figures
_STEPS = (1, 2, 3, 4, 5, 7)  # times powers of ten: the numbers of references with a threshold
DECIDING = ("plain", "bound")


class HeldOut(TypedDict):
    """Figures on the classes held out, see `Calibration`."""

    classes: int
    pictures: int
    reliability_error: float
    false_accepts: float
    false_rejects: float
    enrolled: int
    detection_rate: float
    false_alarms: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A threshold by the number of references, a logistic curve, and what they were fitted on.

    Attributes:
        rate: false-accept rate to be allowed.
        thresholds: (number of references, threshold) in rising order.
        slope, offset: the probability of "same" is 1 / (1 + exp(-(slope * score + offset))), where
            same and different are equally likely beforehand.
        source: name of the labelled set.
        fingerprint: of the set's pictures and labels.
        seed: of the halves.
        classes, pictures: how many the threshold and the curve were fitted on.
        held_out: figures on the classes held out: `classes`, `pictures`, `reliability_error` of the
            probabilities of their pairs, `false_accepts` and `false_rejects` of these at the threshold
            for one reference; and what `open_set` gives.
        bound: thresholds that hold on fresh classes; None where none was asked for.
        decided_by: whether `threshold` gives the plain ones or those of the bound.
    """

    rate: float
    thresholds: tuple[tuple[int, float], ...]
    slope: float
    offset: float
    source: str
    fingerprint: str
    seed: int
    classes: int
    pictures: int
    held_out: HeldOut
    bound: bounds.Bound | None = None
    decided_by: str = "plain"

    def __post_init__(self) -> None:
        sizes = [n for n, _ in self.thresholds]
        if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
            raise ValueError(f"thresholds are of rising numbers of references, got {sizes}")
        if self.decided_by not in DECIDING:
            raise ValueError(f"a threshold is one of {DECIDING}, got {self.decided_by!r}")

    @classmethod
    def of(cls, fields: Mapping, where: str = "the calibration") -> Calibration:
        """From the fields that `dataclasses.asdict` gave, as JSON keeps them.

        Raises:
            ValueError: one is missing or of another type; `where` it stands is named.
        """
        return readers.fitting(fields, cls, where)

    def threshold(self, references: int) -> float:
        """The threshold for the best score of so many references.

        Between two numbers of `thresholds` it is that of the larger one, which errs towards
        "unknown". Above the last plain one the rate is not shown, see `max_references`.

        Raises:
            ValueError: the bound is to decide, and does not hold for so many.
        """
        if self.decided_by == "bound":
            if self.bound is None:
                raise ValueError(
                    "the bound was of the gallery before further names were enrolled: calibrate again"
                )
            return self.bound.threshold(references)
        return bounds.at(self.thresholds, references)

    @property
    def max_references(self) -> int:
        """The largest number of references for which the set could show the rate."""
        if self.decided_by == "bound" and self.bound is not None:
            return self.bound.thresholds[-1][0]
        return self.thresholds[-1][0]

    def before_enrolment(self) -> Calibration:
        """What still holds of it when a gallery gets further references."""
        of_gallery = self.bound is not None and self.bound.gallery is not None
        return dataclasses.replace(self, bound=None) if of_gallery else self

    def probability(self, scores: np.ndarray | float) -> np.ndarray:
        """The probability of "same" of one picture and one reference with these scores."""
        return scipy.special.expit(self.slope * np.asarray(scores, np.float64) + self.offset)


def calibrate(
    score_all: Callable[[np.ndarray], np.ndarray],
    classes: np.ndarray,
    rate: float,
    *,
    source: str,
    fingerprint: str,
    seed: int = 0,
    confidence: float = bounds.CONFIDENCE,
    decided_by: str = "plain",
    score_gallery: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Calibration:
    """Calibrates the scores of a network.

    The logistic curve is fitted to all pairs of two pictures, each once, same and different weighing
    equally. The bound, which needs no classes to be held out, is made of one picture of every class.

    Args:
        score_all: numbers of pictures (B,) -> (B, B) finite scores of every one with every one, higher
            = more alike.
        classes: (M,) int, who or what is on each picture.
        rate: false-accept rate to allow, between 0 and 1.
        source: name of the set.
        fingerprint: of the set.
        seed: of the halves, and of the pictures that the bound is made of.
        confidence: of the bound.
        decided_by: one of `DECIDING`.
        score_gallery: numbers of pictures (B,) -> (B, R) finite scores with the references of a
            gallery, for a bound of this gallery; None for one of any.

    Raises:
        ValueError: a rate out of range or smaller than the set can show, fewer than four classes, a
            class with one picture, scores that do not separate these classes, or a bound that is to
            decide and that so few classes cannot show.
    """
    classes = np.unique(classes, return_inverse=True)[1]
    counts = np.bincount(classes)
    if not 0 < rate < 1:
        raise ValueError(f"a false-accept rate lies between 0 and 1, got {rate:g}")
    if len(counts) < 4:
        raise ValueError(
            f"{source} has {len(counts)} classes: at least 4 are needed, 2 to calibrate on and 2 to be "
            "held out"
        )
    if counts.min() < 2:
        raise ValueError(f"{source}: a class has {counts.min()} picture, at least 2 needed")
    bound = bounds.bound(classes, rate, confidence, score_all, score_gallery, seed)
    if decided_by == "bound" and not bound.thresholds:
        raise ValueError(f"{source}: {bound.missing()}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(counts))
    middle = -(-len(order) // 2)
    fit_rows, held_out_rows = (
        np.flatnonzero(np.isin(classes, _as_many_as_fit(half, counts)))
        for half in (order[:middle], order[middle:])
    )
    if rate * len(fit_rows) < 1 - 1e-9:
        left_out = len(fit_rows) < np.isin(classes, order[:middle]).sum()
        raise ValueError(
            f"a false-accept rate of {rate:g} cannot be shown by {len(fit_rows)} pictures (of {source}, "
            f"half of the classes held out): the smallest is {_rounded_up(1 / len(fit_rows))}; give "
            f"{'' if left_out else 'more pictures or '}a higher rate"
        )
    fit_classes = classes[fit_rows]
    fit_scores, held_out_scores = (
        np.asarray(score_all(part), np.float64) for part in (fit_rows, held_out_rows)
    )
    impostors = fit_classes[:, None] != fit_classes
    thresholds = tuple(
        (n, false_accept_threshold(fit_scores, impostors, rate, n))
        for n in _sizes(int(impostors.sum(1).min()))
    )
    slope, offset = probabilities.fit_logistic(*_pairs(fit_scores, fit_classes))
    if not slope > 0:
        raise ValueError(
            f"the network scores pictures of one class no higher than those of two in {source}: there "
            "is no threshold to find"
        )
    return Calibration(
        rate=float(rate),
        thresholds=thresholds,
        slope=slope,
        offset=offset,
        source=source,
        fingerprint=fingerprint,
        seed=seed,
        classes=len(np.unique(fit_classes)),
        pictures=len(fit_classes),
        held_out=_held_out(held_out_scores, classes[held_out_rows], thresholds, slope, offset, rng),
        bound=bound,
        decided_by=decided_by,
    )


def _held_out(
    scores: np.ndarray,
    classes: np.ndarray,
    thresholds: bounds.Thresholds,
    slope: float,
    offset: float,
    rng: np.random.Generator,
) -> HeldOut:
    """How thresholds and a curve fare on classes that they were not fitted to."""
    pairs, labels = _pairs(scores, classes)
    false_accepts, false_rejects = metrics.false_rates(pairs, labels, thresholds[0][1])
    galleries = open_set(scores, classes, functools.partial(bounds.at, thresholds), rng)
    return {
        "classes": len(np.unique(classes)),
        "pictures": len(classes),
        "reliability_error": probabilities.reliability_error(slope * pairs + offset, labels),
        "false_accepts": false_accepts,
        "false_rejects": false_rejects,
        "enrolled": galleries["enrolled"],
        "detection_rate": galleries["detection_rate"],
        "false_alarms": galleries["false_alarms"],
    }


def describe(calibration: Calibration | None) -> tuple[str, ...]:
    """What a calibration was fitted on and how well it holds, in lines of text."""
    if calibration is None:
        return ("no calibration: no threshold and no probabilities",)
    c, held_out = calibration, calibration.held_out
    (_, lowest), (most, highest) = c.thresholds[0], c.thresholds[-1]
    return (
        f"calibrated on {c.classes} classes of {c.source} ({c.pictures} pictures) for a false-accept "
        f"rate of {c.rate:g}: threshold {lowest:.3f} for one reference, {highest:.3f} for {most}",
        f"on the {held_out['classes']} classes held out ({held_out['pictures']} pictures): reliability "
        f"error of the probabilities {held_out['reliability_error']:.4f}; false accepts of pairs "
        f"{held_out['false_accepts']:.4f}, false rejects {held_out['false_rejects']:.4f}",
        f"galleries of {held_out['enrolled']} of these with one reference each: correctly named "
        f"{held_out['detection_rate']:.4f}, false alarms {held_out['false_alarms']:.4f}",
        *warnings(c),
        *([] if c.bound is None else [c.bound.describe()]),
        *(["the bound decides, not the threshold"] if c.decided_by == "bound" else []),
    )


def warnings(calibration: Calibration) -> tuple[str, ...]:
    """A line where the threshold lets through more than twice its rate on the classes held out."""
    held_out, rate = calibration.held_out, calibration.rate
    measured = {
        "false accepts of pairs": held_out["false_accepts"],
        "false alarms of galleries": held_out["false_alarms"],
    }
    high = [f"{what} {value:.4f}" for what, value in measured.items() if value > 2 * rate]
    if not high:
        return ()
    return (
        f"WARNING: on the classes held out, {' and '.join(high)}: more than twice the rate of {rate:g}; "
        "calibrate on more classes, or take the bound",
    )


def false_accept_rate(
    scores: np.ndarray, impostors: np.ndarray, threshold: float, references: int
) -> float:
    """How often a picture is accepted as one of so many references of other classes.

    Args:
        scores: (Q, S) of every probe with every reference.
        impostors: (Q, S) bool, whether the two are of different classes.
        threshold: accepted is a score >= it.
        references: n, at most the smallest number of impostors of a probe.

    Returns:
        The mean over the probes of 1 - C(b, n) / C(m, n), see the module.
    """
    below = ((scores < threshold) & impostors).sum(1).astype(np.float64)
    total = impostors.sum(1).astype(np.float64)
    enough = below >= references
    b, m, n = below[enough], total[enough], references
    gammaln = scipy.special.gammaln
    log_share = gammaln(b + 1) - gammaln(b - n + 1) - gammaln(m + 1) + gammaln(m - n + 1)
    return float(1 - np.exp(log_share).sum() / len(scores))


def false_accept_threshold(
    scores: np.ndarray, impostors: np.ndarray, rate: float, references: int
) -> float:
    """The lowest threshold whose `false_accept_rate` is at most `rate`.

    Thresholds lie halfway between neighbouring impostor scores, or just above the highest; impostors
    with one and the same score are accepted or rejected together.

    Args:
        scores: (Q, S), finite; or infinite, which every threshold accepts.
        impostors: (Q, S) bool.
        rate: between 0 and 1.
        references: as in `false_accept_rate`.
    """
    values = np.unique(scores[impostors])
    values = values[np.isfinite(values)]

    def above(k: int) -> float:
        if k == len(values) - 1:
            return float(np.nextafter(values[k], np.inf))
        middle = float(values[k] / 2 + values[k + 1] / 2)
        return middle if middle > values[k] else float(values[k + 1])

    def low_enough(k: int) -> bool:
        reached = false_accept_rate(scores, impostors, above(k), references)
        return reached <= rate + 1e-9  # gammaln is good to some 1e-12

    lowest = bisect.bisect_left(range(len(values)), True, key=low_enough)
    return above(lowest) if lowest < len(values) else math.inf


def open_set(
    scores: np.ndarray,
    classes: np.ndarray,
    threshold: Callable[[int], float],
    rng: np.random.Generator,
) -> dict:
    """How galleries of half of the classes, one reference each, fare with all other pictures.

    Args:
        scores: (M, M) of every picture with every picture.
        classes: (M,) int.
        threshold: number of references -> threshold.
        rng: draws the galleries.

    Returns:
        Means over several draws: `enrolled` classes, `detection_rate` (share of the enrolled classes'
        other pictures that get the right name) and `false_alarms` (share of the other classes'
        pictures that get any name).
    """
    ids = np.unique(classes)
    enrolled = len(ids) // 2
    rates = []
    for _ in range(_DRAWS):
        chosen = rng.permutation(ids)[:enrolled]
        references = np.array([rng.choice(np.flatnonzero(classes == c)) for c in chosen])
        known = np.setdiff1d(np.flatnonzero(np.isin(classes, chosen)), references)
        unknown = np.flatnonzero(~np.isin(classes, chosen))
        answers = (classes[known][:, None] == chosen).argmax(1)
        detected, alarms = metrics.identification(
            scores[np.ix_(known, references)],
            answers,
            scores[np.ix_(unknown, references)],
            threshold(enrolled),
        )
        rates.append((detected.mean(), alarms))
    detection_rate, false_alarms = np.mean(rates, axis=0)
    return {
        "enrolled": enrolled,
        "detection_rate": float(detection_rate),
        "false_alarms": float(false_alarms),
    }


def _as_many_as_fit(classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first of the classes whose pictures are at most `MAX_PICTURES`; two at least."""
    fit = int(np.searchsorted(np.cumsum(counts[classes]), MAX_PICTURES, side="right"))
    return classes[: max(2, fit)]


def _pairs(scores: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels, 1 = same, of all pairs of two pictures, each pair once."""
    first, second = np.triu_indices(len(classes), 1)
    return scores[first, second], (classes[first] == classes[second]).astype(np.int8)


def _sizes(largest: int) -> list[int]:
    """1, 2, 3, 4, 5, 7, 10, 20, ... and `largest` itself."""
    powers = [10**i for i in range(int(math.log10(largest)) + 1)]
    return [n for p in powers for n in (p * s for s in _STEPS) if n < largest] + [largest]


def _rounded_up(rate: float) -> str:
    """A rate in few digits that is not below it."""
    digits = 2 - math.floor(math.log10(rate)) - 1
    return f"{math.ceil(rate * 10**digits - 1e-9) / 10**digits:g}"
