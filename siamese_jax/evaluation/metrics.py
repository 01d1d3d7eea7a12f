"""Figures from scores: accuracies, thresholds, ROC, identification and retrieval.

A score is higher where two images are more alike, and a label is 1 for the same class. Everything
is NumPy in float64. A score that is not finite is no answer: it counts as chance, never as right.

Dimensions in annotations: p pairs, t trials, n classes, u impostors, b queries, m images.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

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
    scores, labels = checked_pairs(scores, labels)
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
    scores, labels = checked_pairs(scores, labels)
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
    scores, labels = checked_pairs(scores, labels, both=True)
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


def auc(scores: Scores, labels: Labels) -> float:
    """Area under the ROC curve: the chance that a same pair scores above a different one.

    Ties count 1/2, and so does a comparison with a score that is not finite.

    Args:
        scores: (P,) float.
        labels: (P,) 1 = same, 0 = different.

    Raises:
        ValueError: as `roc`.
    """
    return area_under(*roc(scores, labels)[:2])


def equal_error_rate(scores: Scores, labels: Labels) -> float:
    """The rate at which false accepts equal false rejects, on the ROC's straight segments.

    Args:
        scores: (P,) float.
        labels: (P,) 1 = same, 0 = different.

    Raises:
        ValueError: as `roc`.
    """
    return equal_error_of(*roc(scores, labels)[:2])


def false_rates(scores: Scores, labels: Labels, threshold: float | int) -> tuple[float, float]:
    """False accept rate and false reject rate at a threshold.

    Args:
        scores: (P,) float; one that is not finite counts as half accepted.
        labels: (P,) 1 = same, 0 = different.
        threshold: a pair is accepted if score >= threshold.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is absent.
    """
    scores, labels = checked_pairs(scores, labels, both=True)
    wrong = 1 - pair_correct(scores, labels, threshold)
    return float(wrong[~labels].mean()), float(wrong[labels].mean())


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
    allowed = allowed_alarms(len(scores), rate)
    if allowed < 1:
        return math.nan
    ordered = np.sort(np.where(np.isfinite(scores), scores, np.inf))[::-1]
    return float(np.nextafter(ordered[allowed], np.inf))


def allowed_alarms(count: int, rate: float) -> int:
    """How many of so many impostors may raise an alarm; 0 where they are too few to show the rate."""
    return int(rate * count * (1 + 1e-12))  # 0.1 of 30 is 3


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


# -------------------------------------------------------------------------------------- helpers


def checked_pairs(
    scores: np.ndarray, labels: np.ndarray, both: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as (P,) float64 and labels as (P,) bool, checked.

    Raises:
        ValueError: the shapes do not fit, a label is not 0 or 1, or `both` and one of them is absent.
    """
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


def area_under(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Area under a curve of `roc`; comparisons with scores that are not finite count 1/2."""
    covered = (fpr[-1] - fpr[0]) * (tpr[-1] - tpr[0])
    inside = np.sum(np.diff(fpr) * ((tpr[1:] + tpr[:-1]) / 2 - tpr[0]))
    return float(inside + (1 - covered) / 2)


def equal_error_of(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Where a curve of `roc` meets the line fpr = 1 - tpr."""
    gap = fpr + tpr - 1  # rises along the curve from at most 0 to at least 0
    after = int(np.argmax(gap >= -1e-12))
    if after == 0:
        return float(fpr[0])
    part = min(gap[after - 1] / (gap[after - 1] - gap[after]), 1.0)
    return float(fpr[after - 1] + part * (fpr[after] - fpr[after - 1]))
