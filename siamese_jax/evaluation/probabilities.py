"""From scores to probabilities of "same", and how far these can be relied on.

The two labels weigh equally whatever their numbers: a probability is that of a pair that is the same or
different with equal chance beforehand. Dimensions in annotations: p pairs, k bins.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy  # its parts are imported at their first use: they are slow
from jaxtyping import Float

from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.metrics import Labels, Scores

_RIDGE = 1e-4  # of the squared slope of standardised scores, beside the mean loss


def fit_logistic(scores: Scores, labels: Labels) -> tuple[float, float]:
    """Fits P(same | score) = 1 / (1 + exp(-(slope x score + offset))), by maximum likelihood.

    The two labels weigh equally whatever their numbers: the probability is that of a pair that is the
    same or different with equal chance beforehand. For other odds add their logarithm to the offset.
    A tiny ridge (1e-4 / 2 times the squared slope, of scores standardised to variance 1) keeps the
    slope finite where a threshold separates the labels.

    Args:
        scores: (P,) float; those that are not finite are left out.
        labels: (P,) 1 = same, 0 = different.

    Returns:
        Slope and offset; (0.0, 0.0), a probability of 1/2 throughout, where the finite scores are all
        equal or of one label.

    References:
        Platt (1999), Probabilistic outputs for support vector machines.
    """
    scores, labels = metrics.checked_pairs(scores, labels)
    finite = np.isfinite(scores)
    scores, labels = scores[finite], labels[finite]
    if len(scores) == 0 or labels.all() == labels.any() or scores.min() == scores.max():
        return 0.0, 0.0
    weights = _balanced(labels)
    # First by the largest, so that squares of huge scores do not overflow.
    size = np.abs(scores).max()
    middle = float(weights @ (scores / size))
    spread = math.sqrt(float(weights @ (scores / size - middle) ** 2))
    if spread == 0:
        return 0.0, 0.0
    x = np.stack([(scores / size - middle) / spread, np.ones(len(scores))], 1)  # (P, 2)
    signs = np.where(labels, 1.0, -1.0)
    ridge = np.array([_RIDGE, 0.0])

    def loss(at: np.ndarray) -> Any:
        return weights @ np.logaddexp(0, -signs * (x @ at)) + ridge @ at**2 / 2

    fit = np.zeros(2)  # slope and offset, of standardised scores
    for _ in range(100):  # Newton's method with halved steps; the loss is convex
        probability = scipy.special.expit(x @ fit)
        gradient = x.T @ (weights * (probability - labels)) + ridge * fit
        curvature = (x * (weights * probability * (1 - probability))[:, None]).T @ x
        step = np.linalg.solve(curvature + np.diag(ridge + 1e-12), gradient)
        while loss(fit - step) > loss(fit) and np.abs(step).max() > 1e-12:
            step /= 2
        fit = fit - step
        if np.abs(step).max() <= 1e-10:
            break
    slope = fit[0] / spread / size
    return float(slope), float(fit[1] - fit[0] * middle / spread)


def log_loss(logits: Scores, labels: Labels) -> float:
    """Mean of -log P(label), in nats, the two labels weighing equally; log 2 without any knowledge.

    Args:
        logits: (P,) slope x score + offset of `fit_logistic`; one that is not finite counts as 0.
        labels: (P,) 1 = same, 0 = different.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is absent.
    """
    logits, labels = metrics.checked_pairs(logits, labels, both=True)
    logits = np.where(np.isfinite(logits), logits, 0.0)
    return float(_balanced(labels) @ np.logaddexp(0, np.where(labels, -logits, logits)))


def reliability_error(logits: Scores, labels: Labels, *, num_bins: int = 15) -> float:
    """Expected calibration error: how far probabilities of "same" are from the share that is.

    The error is the mean over the bins of `reliability_bins` of |mean probability - share of same
    pairs|. Chance alone gives a perfectly calibrated system of P pairs an error of up to about
    0.4 sqrt(num_bins / P).

    Args:
        logits: (P,) of the probabilities; one that is not finite counts as 0, a probability of 1/2.
        labels: (P,) 1 = same, 0 = different.
        num_bins: number of bins.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is absent.

    References:
        Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian
        binning. Nixon et al. (2019), Measuring calibration in deep learning (bins of equal mass).
    """
    probability, share, mass, bins = _by_probability(logits, labels, num_bins)
    gaps = np.bincount(bins, mass * (probability - share), num_bins)
    return float(np.abs(gaps).sum())


def reliability_bins(
    logits: Scores, labels: Labels, *, num_bins: int = 15
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The points of a reliability diagram: pairs by their probability of "same", in bins.

    Pairs are sorted by probability into bins of equal mass, the two labels weighing equally; a pair
    goes into the bin where its middle lies. Equal probabilities share their labels; where a bin ends
    among them, how many lie on either side depends slightly on the order of the pairs.

    Args:
        logits: (P,) of the probabilities; one that is not finite counts as 0, a probability of 1/2.
        labels: (P,) 1 = same, 0 = different.
        num_bins: number of bins.

    Returns:
        Mean probability and share of same pairs of each bin that has pairs, lowest first.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is absent.
    """
    probability, share, mass, bins = _by_probability(logits, labels, num_bins)
    masses = np.bincount(bins, mass, num_bins)
    filled = masses > 0
    mean, share = (
        np.bincount(bins, mass * x, num_bins)[filled] / masses[filled] for x in (probability, share)
    )
    return mean, share


def _by_probability(
    logits: np.ndarray, labels: np.ndarray, num_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of (P,) pairs sorted by probability: it, share of same pairs at it, mass, and bin."""
    logits, labels = metrics.checked_pairs(logits, labels, both=True)
    probability = scipy.special.expit(np.where(np.isfinite(logits), logits, 0.0))
    weights = _balanced(labels)
    values, inverse = np.unique(probability, return_inverse=True)
    shares = np.bincount(inverse, weights * labels) / np.bincount(inverse, weights)
    order = np.argsort(inverse, kind="stable")
    mass = weights[order]
    bins = np.minimum((np.cumsum(mass) - mass / 2) * num_bins, num_bins - 0.5).astype(int)
    return values[inverse[order]], shares[inverse[order]], mass, bins


def _balanced(labels: np.ndarray) -> np.ndarray:
    """(P,) weights of pairs by their (P,) bool labels: each label's sum to 1/2."""
    return np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1))
