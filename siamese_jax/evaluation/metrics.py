"""Figures from scores: accuracies, thresholds, ROC, and the intervals that go with them.

A score is higher where two images are more alike, and a label is 1 for the same class. Everything
is NumPy in float64. A score that is not finite is no answer: it counts as chance, never as right.

Dimensions in annotations: p pairs, t trials, n classes, u impostors, b queries, m images.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from scipy import special

Scores = Num[np.ndarray, " p"]
Labels = Integer[np.ndarray, " p"] | Bool[np.ndarray, " p"]

# ---------------------------------------------------------------------------------------- N-way


def answer_shares(scores: Num[np.ndarray, "*t n"]) -> Float[np.ndarray, "*t n"]:
    """How much of its answer a system gives to each support of a trial.

    The highest score is the answer. Several supports that tie at the highest share it equally. A
    trial with a score that is not finite shares it among all.

    Args:
        scores: (..., N) float, one row a trial.

    Returns:
        (..., N) float64; each row sums to 1.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must be (..., N) with N at least 1, got shape {scores.shape}")
    finite = np.isfinite(scores).all(-1, keepdims=True)
    usable = np.where(finite, scores, 0.0)  # an unusable row becomes a tie of all N
    best = usable == usable.max(-1, keepdims=True)
    return best / best.sum(-1, keepdims=True)


def n_way_correct(
    scores: Num[np.ndarray, "*t n"], answers: Integer[np.ndarray, "*t"]
) -> Float[np.ndarray, "*t"]:
    """How right each N-way trial is: 1, 0, or 1 / (number tied) where the right one ties.

    Args:
        scores: (..., N) float, one row a trial.
        answers: (...) int, the position of the right support of each trial.

    Returns:
        (...) float64 in [0, 1]; 1 / N where a score of the trial is not finite.

    Raises:
        ValueError: the shapes do not fit, or an answer is not one of the N positions.
    """
    answers = np.asarray(answers)
    shares = answer_shares(scores)
    if answers.shape != shares.shape[:-1]:
        raise ValueError(
            f"scores {shares.shape} need answers of shape {shares.shape[:-1]}, got {answers.shape}"
        )
    n_way = shares.shape[-1]
    if answers.size and not (answers.min() >= 0 and answers.max() < n_way):
        raise ValueError(
            f"answers must be in 0 .. {n_way - 1}, got {answers.min()} .. {answers.max()}"
        )
    return np.take_along_axis(shares, answers[..., None], -1)[..., 0]


def n_way_accuracy(scores: Num[np.ndarray, "*t n"], answers: Integer[np.ndarray, "*t"]) -> float:
    """The mean of `n_way_correct` over all trials."""
    return float(n_way_correct(scores, answers).mean())


# --------------------------------------------------------------------------------- verification


def pair_correct(scores: Scores, labels: Labels, threshold: float | int) -> Float[np.ndarray, " p"]:
    """How right each pair is: 1 or 0 with "same" where score >= threshold; 1/2 if not finite.

    Args:
        scores: (P,) float.
        labels: (P,) 1 = same, 0 = different.
        threshold: in the unit of the scores.

    Returns:
        (P,) float64 in {0, 1/2, 1}.
    """
    scores, labels = _pairs(scores, labels)
    correct = ((scores >= threshold) == labels).astype(np.float64)
    return np.where(np.isfinite(scores), correct, 0.5)


def accuracy_at_threshold(scores: Scores, labels: Labels, threshold: float | int) -> float:
    """The mean of `pair_correct` over all pairs."""
    return float(pair_correct(scores, labels, threshold).mean())


def best_threshold(scores: Scores, labels: Labels) -> float:
    """The threshold of highest accuracy; to be chosen on validation pairs.

    Thresholds lie halfway between neighbouring scores, at the lowest score (all "same") or just
    above the highest (all "different"). Of several equally good ones the lowest is taken.

    Args:
        scores: (P,) float; those that are not finite are left out.
        labels: (P,) 1 = same, 0 = different.

    Returns:
        A finite threshold; 0.0 where no score is finite.
    """
    scores, labels = _pairs(scores, labels)
    finite = np.isfinite(scores)
    scores, labels = scores[finite], labels[finite]
    if len(scores) == 0:
        return 0.0
    values, inverse = np.unique(scores, return_inverse=True)  # ascending
    same = np.bincount(inverse, labels, len(values))
    different = np.bincount(inverse, ~labels, len(values))
    # Threshold k rejects the k lowest values: right are the different ones among them and the same
    # ones above them.
    right = np.append(0, np.cumsum(different)) + np.append(np.cumsum(same[::-1])[::-1], 0)
    k = int(np.argmax(right))
    if k == 0:
        return float(values[0])
    if k == len(values):
        return float(np.nextafter(values[-1], np.inf))
    middle = values[k - 1] / 2 + values[k] / 2
    return float(middle if middle > values[k - 1] else values[k])


def roc(
    scores: Scores, labels: Labels, weights: Scores | None = None
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """The ROC curve, one point a distinct score.

    Args:
        scores: (P,) float. Half of the pairs whose score is not finite count as accepted at every
            threshold.
        labels: (P,) 1 = same, 0 = different.
        weights: (P,) how often each pair counts; once each by default.

    Returns:
        False accept rate (T,), true accept rate (T,) and threshold (T,), from the threshold
        infinity (nothing accepted) to the lowest score; a pair is accepted if score >= threshold.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is absent.
    """
    scores, labels = _pairs(scores, labels, both=True)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != scores.shape:
        raise ValueError(f"{len(scores)} scores need as many weights, got shape {weights.shape}")
    finite = np.isfinite(scores)
    order = np.argsort(-scores[finite], kind="stable")
    values = scores[finite][order]
    last = np.append(values[1:] != values[:-1], True)[: len(values)]  # last of each tie
    rates = []
    for chosen in (~labels, labels):
        weight = np.where(chosen, weights, 0.0)
        accepted = np.append(0.0, np.cumsum(weight[finite][order])[last])
        rates.append((accepted + weight[~finite].sum() / 2) / weight.sum())
    return rates[0], rates[1], np.append(np.inf, values[last])


def auc(scores: Scores, labels: Labels, weights: Scores | None = None) -> float:
    """Area under the ROC curve: the chance that a same pair scores above a different one.

    Ties count 1/2, and so does a comparison with a score that is not finite.

    Args:
        scores: (P,) float.
        labels: (P,) 1 = same, 0 = different.
        weights: (P,) how often each pair counts; once each by default.

    Raises:
        ValueError: as `roc`.
    """
    return _area(*roc(scores, labels, weights)[:2])


def equal_error_rate(scores: Scores, labels: Labels, weights: Scores | None = None) -> float:
    """The rate at which false accepts equal false rejects, on the ROC's straight segments.

    Args:
        scores: (P,) float.
        labels: (P,) 1 = same, 0 = different.
        weights: (P,) how often each pair counts; once each by default.

    Raises:
        ValueError: as `roc`.
    """
    return _equal_error(*roc(scores, labels, weights)[:2])


def false_rates(scores: Scores, labels: Labels, threshold: float | int) -> tuple[float, float]:
    """False accept rate and false reject rate at a threshold.

    Args:
        scores: (P,) float; one that is not finite counts as half accepted.
        labels: (P,) 1 = same, 0 = different.
        threshold: a pair is accepted if score >= threshold.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is absent.
    """
    scores, labels = _pairs(scores, labels, both=True)
    wrong = 1 - pair_correct(scores, labels, threshold)
    return float(wrong[~labels].mean()), float(wrong[labels].mean())


def auc_eer_intervals(
    scores: Scores,
    labels: Labels,
    groups: Integer[np.ndarray, " p"],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bootstrap intervals over groups of `auc` and of `equal_error_rate`.

    Args:
        scores: (P,) float.
        labels: (P,) 1 = same, 0 = different.
        groups: (P,) int group of each pair.
        num_resamples: how many times the groups are drawn.
        seed: of the resampling.
        confidence: of the interval.

    Returns:
        The two intervals; NaN where there are fewer than two groups. Draws that hold only one of
        the two labels are left out.
    """
    scores, labels = _pairs(scores, labels, both=True)
    groups = _group_index(groups, scores)
    drawn = _group_draws(groups, num_resamples, seed)
    different, times = np.unique(drawn, axis=0, return_counts=True)  # few groups: few draws
    figures = []
    for counts, number in zip(different, times, strict=True):
        weights = counts[groups].astype(np.float64)
        if weights[labels].any() and weights[~labels].any():
            fpr, tpr, _ = roc(scores, labels, weights)
            figures += [(_area(fpr, tpr), _equal_error(fpr, tpr))] * number
    if drawn.shape[1] < 2 or not figures:
        return (np.nan, np.nan), (np.nan, np.nan)
    areas, errors = np.transpose(figures)
    return _percentiles(areas, confidence), _percentiles(errors, confidence)


# ---------------------------------------------------------------------------------- calibration

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
    scores, labels = _pairs(scores, labels)
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
        probability = special.expit(x @ fit)
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
    logits, labels = _pairs(logits, labels, both=True)
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
    goes into the bin where its middle lies. Equal probabilities share their labels, so their order
    does not matter.

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


# ------------------------------------------------------------------------------- identification


def false_alarm_threshold(scores: Num[np.ndarray, " u"], rate: float) -> float:
    """The lowest threshold at which at most `rate` of impostors raise an alarm.

    Args:
        scores: (U,) highest score of each impostor; an alarm is a score >= threshold. One that is not
            finite raises an alarm at every threshold.
        rate: in (0, 1).

    Returns:
        The threshold, just above an impostor's score; infinity if no finite one will do; NaN if the
        impostors are too few to show the rate: fewer than 1 / rate.

    Raises:
        ValueError: no scores, or a rate outside of (0, 1).
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or len(scores) == 0 or not 0 < rate < 1:
        raise ValueError(f"expected (U,) scores and a rate in (0, 1), got {scores.shape}, {rate}")
    allowed = int(rate * len(scores) * (1 + 1e-12))  # 0.1 of 30 is 3
    if allowed < 1:
        return math.nan
    ordered = np.sort(np.where(np.isfinite(scores), scores, np.inf))[::-1]
    return float(np.nextafter(ordered[allowed], np.inf))


def identification(
    scores: Num[np.ndarray, "p n"],
    answers: Integer[np.ndarray, " p"],
    impostors: Num[np.ndarray, "u n"],
    threshold: float | int,
) -> tuple[Float[np.ndarray, " p"], float]:
    """Detection-and-identification of enrolled probes, and the false alarm rate, at a threshold.

    Args:
        scores: (P, N) of probes of enrolled classes.
        answers: (P,) int, the class of each.
        impostors: (U, N) scores of probes of other classes.
        threshold: a probe is identified as the class of its highest score if this is >= threshold.

    Returns:
        (P,) float64 in [0, 1]: 1 where the right class has the highest score and this reaches the
        threshold, 1 / (number tied) where it ties; and the share of impostors that reach it. A probe
        with a score that is not finite is never identified, and such an impostor always is.

    References:
        Grother, Ngan, Hanaoka: NIST Face recognition vendor test, part 2: identification; ISO/IEC
        19795-1.
    """
    best, other = highest_scores(scores), highest_scores(impostors)
    detected = np.isfinite(best) & (best >= threshold)
    alarms = ~np.isfinite(other) | (other >= threshold)
    return n_way_correct(scores, answers) * detected, float(alarms.mean())


def highest_scores(scores: Num[np.ndarray, "*t n"]) -> Float[np.ndarray, "*t"]:
    """(..., N) scores -> (...) the highest; NaN where one of the N is not finite."""
    scores = np.asarray(scores, np.float64)
    return np.where(np.isfinite(scores).all(-1), scores.max(-1), np.nan)


# ------------------------------------------------------------------------------------ retrieval


def retrieval(
    scores: Num[np.ndarray, "b m"],
    relevant: Bool[np.ndarray, "b m"],
    rows: Integer[np.ndarray, " b"],
    depths: tuple[int, ...] = (1, 5, 10),
) -> tuple[Float[np.ndarray, "b d"], Float[np.ndarray, " b"]]:
    """Recall at a few depths, and mean average precision at R, of each query among all images.

    Images are ranked by their score; those with equal scores stand in random order, and figures are
    the exact means over all orders, so a constant score earns what chance earns. A query with a score
    that is not finite counts as a tie of all its images.

    With R images of its class to find, a query's average precision at R is (1 / R) sum_{i <= R} P(i)
    [the i-th is of its class], P(i) the share of its class among the first i.

    Args:
        scores: (B, M) of B queries against all M images.
        relevant: (B, M) bool, which images are of the query's class; each has one besides itself.
        rows: (B,) int, the query itself among the M images: it is not ranked.
        depths: of the recalls; one beyond the M - 1 images counts as M - 1.

    Returns:
        (B, len(depths)) chance of an image of the class among the first k, and (B,) average precision
        at R; both float64 in [0, 1].

    References:
        Musgrave, Belongie, Lim (2020), A metric learning reality check (MAP@R).
    """
    queries = np.arange(len(rows))
    relevant = relevant.copy()
    relevant[queries, rows] = False
    scores = np.array(scores, np.float64)
    scores[queries, rows] = 0.0
    scores[~np.isfinite(scores).all(1)] = 0.0
    scores[queries, rows] = -np.inf  # behind all others
    wanted = relevant.sum(1)  # R of each query, (B,)
    if len(rows) and wanted.min() < 1:
        raise ValueError(f"query {int(wanted.argmin())} has no other image of its class to find")
    num_others = scores.shape[1] - 1
    deepest = min(max(wanted.max(initial=1), *depths), num_others)
    front = np.argpartition(-scores, deepest - 1, axis=1)[:, :deepest]
    values = np.take_along_axis(scores, front, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, 1)  # (B, deepest), descending
    hit = np.take_along_axis(relevant, np.take_along_axis(front, order, 1), 1)

    # Of the tie that each place is in: how many images stand before it, how many of these are of the
    # class (`before`, `hits`), and how many are in it (`size`, `right`). The last tie may go on.
    place = np.broadcast_to(np.arange(deepest), values.shape)
    edge = values[:, 1:] != values[:, :-1]
    ends = np.ones((len(values), 1), bool)
    before = np.maximum.accumulate(np.where(np.hstack([ends, edge]), place, 0), 1)
    last = np.where(np.hstack([edge, ends]), place, deepest)
    last = np.minimum.accumulate(last[:, ::-1], 1)[:, ::-1]
    sums = np.hstack([np.zeros((len(values), 1), int), np.cumsum(hit, 1)])
    hits = np.take_along_axis(sums, before, 1)
    size = last + 1 - before
    right = np.take_along_axis(sums, last + 1, 1) - hits
    in_last = last == deepest - 1
    tied = scores == values[:, -1:]  # (B, M)
    size = np.where(in_last, tied.sum(1)[:, None], size)
    right = np.where(in_last, (tied & relevant).sum(1)[:, None], right)

    inside = place - before  # images of the tie that stand before this place
    missed = np.clip((size - right - inside) / (size - inside), 0, 1)
    recalls = 1 - np.cumprod(missed, 1)
    share = right / size  # chance that the image here is of the class
    others = inside * (right - 1) / np.maximum(size - 1, 1)  # of the tie's, before it, if it is
    precision = share * (hits + 1 + others) / (place + 1)
    average = np.where(place < wanted[:, None], precision, 0).sum(1) / wanted
    return recalls[:, np.minimum(depths, num_others) - 1], average


# ------------------------------------------------------------------------------------ intervals


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
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = min(max(correct / total, 0.0), 1.0)
    centre = share + z**2 / (2 * total)
    half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))


def seed_interval(values: Sequence[float | int] | np.ndarray) -> tuple[float, float]:
    """95 % t interval of the mean over seeds; NaN for one seed."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    half = special.stdtrit(len(values) - 1, 0.975) * error
    return float(mean - half), float(mean + half)


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
    *,
    num_resamples: int = 5000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """How much better system a is than system b on the same trials, with its interval.

    What the two find hard together cancels, so this resolves what two intervals cannot.

    Args:
        correct_a: (T,) how right system a is on each trial.
        correct_b: (T,) the same of system b.
        groups: (T,) int group of each trial.
        num_resamples: how many times the groups are drawn.
        seed: of the resampling.
        confidence: of the interval.

    Returns:
        mean(a) - mean(b), and its bootstrap interval over groups.

    Raises:
        ValueError: the two do not have the same trials.
    """
    a, b = np.asarray(correct_a, np.float64), np.asarray(correct_b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired systems need the same trials, got {a.shape} and {b.shape}")
    interval = bootstrap_interval(
        a - b, groups, num_resamples=num_resamples, seed=seed, confidence=confidence
    )
    return float((a - b).mean()), interval


# -------------------------------------------------------------------------------------- helpers


def _pairs(
    scores: np.ndarray, labels: np.ndarray, both: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as (P,) float64 and labels as (P,) bool, checked."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or len(scores) == 0:
        raise ValueError(
            "scores and labels must be (P,) with P at least 1, got "
            f"{scores.shape} and {labels.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 1 (same) or 0 (different)")
    if both and labels.all() == labels.any():
        raise ValueError(f"all {len(labels)} labels are {int(labels[0])}: both kinds are needed")
    return scores, labels.astype(bool)


def _balanced(labels: np.ndarray) -> np.ndarray:
    """(P,) weights of pairs by their (P,) bool labels: each label's sum to 1/2."""
    return np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1))


def _by_probability(
    logits: np.ndarray, labels: np.ndarray, num_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of (P,) pairs sorted by probability: it, share of same pairs at it, mass, and bin."""
    logits, labels = _pairs(logits, labels, both=True)
    probability = special.expit(np.where(np.isfinite(logits), logits, 0.0))
    weights = _balanced(labels)
    values, inverse = np.unique(probability, return_inverse=True)
    shares = np.bincount(inverse, weights * labels) / np.bincount(inverse, weights)
    order = np.argsort(inverse, kind="stable")
    mass = weights[order]
    bins = np.minimum((np.cumsum(mass) - mass / 2) * num_bins, num_bins - 0.5).astype(int)
    return values[inverse[order]], shares[inverse[order]], mass, bins


def _area(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Area under a curve of `roc`; comparisons with scores that are not finite count 1/2."""
    covered = (fpr[-1] - fpr[0]) * (tpr[-1] - tpr[0])
    inside = np.sum(np.diff(fpr) * ((tpr[1:] + tpr[:-1]) / 2 - tpr[0]))
    return float(inside + (1 - covered) / 2)


def _equal_error(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Where a curve of `roc` meets the line fpr = 1 - tpr."""
    gap = fpr + tpr - 1  # rises along the curve from at most 0 to at least 0
    after = int(np.argmax(gap >= -1e-12))
    if after == 0:
        return float(fpr[0])
    part = min(gap[after - 1] / (gap[after - 1] - gap[after]), 1.0)
    return float(fpr[after - 1] + part * (fpr[after] - fpr[after - 1]))


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
