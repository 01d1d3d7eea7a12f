"""Confidence intervals of accuracies whose trials come in clusters.

Trials of one alphabet, one run or one person are not independent. An interval that counts every trial as
an independent one is then too narrow, and a bootstrap over ten clusters is too narrow as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special


def cluster_interval(
    accuracies: Sequence[float], num_trials: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of an accuracy over clusters: Wilson's, at the effective number of trials.

    The variance of the mean is estimated between clusters. The effective number of trials is that of
    independent trials with the same variance, and at most the real number. Student's t with one degree
    of freedom less than clusters takes the place of the normal quantile.

    Args:
        accuracies: (G,) accuracy of each cluster, in 0..1.
        num_trials: (G,) number of trials of each cluster.
        confidence: of the interval, in (0, 1).

    Returns:
        Lower and upper end in 0..1; NaN with fewer than two clusters.

    Raises:
        ValueError: the two differ in length, a cluster is empty, or an accuracy is outside of 0..1.

    References:
        Dean and Pagano (2015), Evaluating confidence interval methods for binomial proportions in
        clustered surveys, Journal of Survey Statistics and Methodology 3 (modified Wilson).
    """
    rates, counts = np.asarray(accuracies, float), np.asarray(num_trials, float)
    if rates.shape != counts.shape or rates.ndim != 1:
        raise ValueError(f"accuracies {rates.shape} and num_trials {counts.shape} must be (G,)")
    if (counts < 1).any() or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError("every cluster needs a trial and an accuracy in 0..1")
    clusters = len(rates)
    if clusters < 2:
        return math.nan, math.nan
    shares = counts / counts.sum()
    mean = float(shares @ rates)
    variance = clusters / (clusters - 1) * float(((shares * (rates - mean)) ** 2).sum())
    effective = float(counts.sum())
    if variance > 0:
        effective = min(effective, mean * (1 - mean) / variance)
    quantile = float(special.stdtrit(clusters - 1, (1 + confidence) / 2))
    return wilson(mean, effective, quantile)


def grouped_interval(
    per_group: Mapping[str, Mapping], cluster_of: Mapping[str, str]
) -> tuple[float, float]:
    """The interval over clusters of an accuracy that is known by groups.

    Args:
        per_group: `accuracy` and `num_trials` of each group.
        cluster_of: the cluster that each group belongs to.

    Returns:
        As `cluster_interval`.
    """
    sums: dict[str, list[float]] = {}
    for name, figures in per_group.items():
        total = sums.setdefault(cluster_of[name], [0.0, 0.0])
        total[0] += figures["accuracy"] * figures["num_trials"]
        total[1] += figures["num_trials"]
    return cluster_interval(
        [min(1.0, right / count) for right, count in sums.values()],
        [count for _, count in sums.values()],
    )


def wilson(accuracy: float, num_trials: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Args:
        accuracy: in 0..1.
        num_trials: number of independent trials, not necessarily whole.
        quantile: of the normal or Student's distribution, e.g. 1.96.

    References:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    square = quantile**2 / num_trials
    centre = (accuracy + square / 2) / (1 + square)
    spread = math.sqrt(accuracy * (1 - accuracy) / num_trials + square / (4 * num_trials))
    half = quantile / (1 + square) * spread
    return max(0.0, centre - half), min(1.0, centre + half)
