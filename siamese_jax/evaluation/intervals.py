"""Confidence intervals: over trials, over clusters of trials, over seeds, and of paired differences.

Trials of one alphabet, one run or one person are not independent. An interval that counts every trial as
an independent one is then too narrow, and a bootstrap over ten clusters is too narrow as well.

Dimensions in annotations: p pairs, t trials.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # its parts are imported at their first use: they are slow
from jaxtyping import Integer, Num

from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.metrics import Labels, Scores


def cluster_interval(
    accuracies: Sequence[float | int] | np.ndarray,
    num_trials: Sequence[float | int] | np.ndarray,
) -> tuple[float, float]:
    """The 95 % interval of an accuracy over clusters: Wilson's, at the effective number of trials.

    The variance of the mean is estimated between clusters. The effective number of trials is that of
    independent trials with the same variance, and at most the real number. Student's t with one degree
    of freedom less than clusters takes the place of the normal quantile.

    Args:
        accuracies: (G,) accuracy of each cluster, in 0..1.
        num_trials: (G,) number of trials of each cluster.

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
    mean = min(1.0, float(shares @ rates))
    variance = clusters / (clusters - 1) * float(((shares * (rates - mean)) ** 2).sum())
    effective = float(counts.sum())
    if variance > 0 and 0 < mean < 1:  # a mean may be rounded to 1
        effective = min(effective, mean * (1 - mean) / variance)
    quantile = float(scipy.special.stdtrit(clusters - 1, 0.975))
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


def wilson(accuracy: float, num_trials: float | int, quantile: float) -> tuple[float, float]:
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


def wilson_interval(
    correct: float | int, total: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval of a proportion, as if the trials were independent.

    Args:
        correct: number of right trials; a fraction where ties were shared.
        total: number of trials, at least 1.
        confidence: of the interval.

    Returns:
        Lower and upper limit, in [0, 1].

    Raises:
        ValueError: correct is not in [0, total], or there are no trials.

    References:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if not (total >= 1 and -1e-9 <= correct <= total + 1e-9):
        raise ValueError(f"{correct} right of {total} trials is no proportion")
    quantile = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    return wilson(min(max(correct / total, 0.0), 1.0), total, quantile)


def seed_interval(values: Sequence[float | int] | np.ndarray) -> tuple[float, float]:
    """95 % t interval of the mean over seeds; NaN for one seed."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    half = scipy.special.stdtrit(len(values) - 1, 0.975) * error
    return float(mean - half), float(mean + half)


def seed_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """95 % interval of mean(a) - mean(b) over seeds; NaN where one has fewer than two.

    References:
        Welch (1947), The generalization of "Student's" problem when several different population
        variances are involved.
    """
    if min(len(a), len(b)) < 2:
        return math.nan, math.nan
    errors = [np.var(side, ddof=1) / len(side) for side in (a, b)]  # squared, of each mean
    if sum(errors) == 0:
        return math.nan, math.nan
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(side) - 1) for error, side in zip(errors, (a, b), strict=True)
    )
    half = scipy.special.stdtrit(freedom, 0.975) * math.sqrt(sum(errors))
    middle = np.mean(a) - np.mean(b)
    return float(middle - half), float(middle + half)


def bootstrap_interval(
    values: Num[np.ndarray, " t"],
    groups: Integer[np.ndarray, " t"],
    *,
    num_resamples: int = 5000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, drawing whole groups with replacement.

    Trials of one run share their supports, and those of one alphabet its characters, so they are
    not independent; groups are. A draw's figure is the sum of the drawn groups' values over the
    number of their trials. With few groups (10 alphabets) such an interval is somewhat too narrow.

    Args:
        values: (T,) one number a trial, such as right = 1, wrong = 0.
        groups: (T,) int group of each trial.
        num_resamples: how many times the groups are drawn.
        seed: of the resampling.
        confidence: of the interval.

    Returns:
        Lower and upper limit; NaN where there are fewer than two groups.
    """
    values = np.asarray(values, np.float64)
    groups = _group_index(groups, values)
    drawn = _group_draws(groups, num_resamples, seed)
    if drawn.shape[1] < 2:
        return np.nan, np.nan
    sums = np.bincount(groups, values)
    sizes = np.bincount(groups)
    return _percentiles((drawn @ sums) / (drawn @ sizes), confidence)


def paired_difference(
    correct_a: Num[np.ndarray, " t"],
    correct_b: Num[np.ndarray, " t"],
    groups: Integer[np.ndarray, " t"],
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """How much better system a is than system b on the same trials, with its 95 % interval.

    What the two find hard together cancels, so this resolves what two intervals cannot.

    Args:
        correct_a: (T,) how right system a is on each trial.
        correct_b: (T,) the same of system b.
        groups: (T,) int group of each trial.
        seed: of the resampling.

    Returns:
        mean(a) - mean(b), and its bootstrap interval over groups.

    Raises:
        ValueError: the two do not have the same trials.
    """
    a, b = np.asarray(correct_a, np.float64), np.asarray(correct_b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired systems need the same trials, got {a.shape} and {b.shape}")
    return float((a - b).mean()), bootstrap_interval(a - b, groups, seed=seed)


def auc_eer_intervals(
    scores: Scores,
    labels: Labels,
    groups: Integer[np.ndarray, " p"],
    *,
    num_resamples: int = 1000,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bootstrap 95 % intervals over groups of `auc` and of `equal_error_rate`.

    Args:
        scores: (P,) float.
        labels: (P,) 1 = same, 0 = different.
        groups: (P,) int group of each pair.
        num_resamples: how many times the groups are drawn.

    Returns:
        The two intervals; NaN where there are fewer than two groups. Draws that hold only one of
        the two labels are left out.
    """
    scores, labels = metrics.checked_pairs(scores, labels, both=True)
    groups = _group_index(groups, scores)
    drawn = _group_draws(groups, num_resamples, seed=0)
    different, times = np.unique(drawn, axis=0, return_counts=True)  # few groups: few draws
    figures = []
    for counts, number in zip(different, times, strict=True):
        weights = counts[groups].astype(np.float64)
        if weights[labels].any() and weights[~labels].any():
            fpr, tpr, _ = metrics.roc(scores, labels, weights)
            figures += [(metrics.area_under(fpr, tpr), metrics.equal_error_of(fpr, tpr))] * number
    if drawn.shape[1] < 2 or not figures:
        return (np.nan, np.nan), (np.nan, np.nan)
    areas, errors = np.transpose(figures)
    return _percentiles(areas, 0.95), _percentiles(errors, 0.95)


def _group_index(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Groups counted 0, 1, ... in the order of their ids."""
    groups = np.asarray(groups)
    if groups.shape != values.shape or groups.ndim != 1 or len(groups) == 0:
        raise ValueError(
            f"each trial needs its group: got {values.shape} values and {groups.shape} groups"
        )
    return np.unique(groups, return_inverse=True)[1]


def _group_draws(groups: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """(num_resamples, G) int: how often each of G groups is drawn, G draws a resample."""
    num_groups = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples)


def _percentiles(figures: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(figures, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
