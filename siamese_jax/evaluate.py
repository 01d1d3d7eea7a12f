"""The protocols: what any system scores on frozen lists of trials.

A system is judged either as

- an embedder, `from_embedder(embed, score_matrix)`: every image is embedded once, and embeddings
  are compared; or
- any callable `score(queries, supports)`: (Q, H, W, C) and (S, H, W, C) uint8 images -> (Q, S),
  called once a run with that run's images, so it may look at the whole support set.

Of a run with K shots the supports come class by class, K images each, and the K scores of a class
are joined into one (by their mean unless asked otherwise).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from tqdm import tqdm

from siamese_jax import metrics
from siamese_jax.datasets.imageset import ImageSet
from siamese_jax.trials import (
    Pairs,
    Trials,
    between_trials,
    check_names,
    curve_trials,
    koch_trials,
    official_trials,
    verification_pairs,
    within_trials,
)

PROTOCOLS = ("official", "within", "koch", "between", "verification", "curve")

SETTINGS = {
    "num_trials": 4000,  # of `within` and `between`
    "n_way": 20,  # classes a trial
    "k_shot": 1,  # support images a class
    "seed": 0,  # of the trials
    "skip_small": False,  # leave out alphabets with fewer than n_way characters
    "num_pairs": 10_000,  # of `verification`, and as many on the validation set
    "negatives": "any",  # other class of a different pair: `any` or `same_alphabet`
    "curve_trials": 1000,  # at each N
    "curve_n_ways": None,  # values of N; None: 1, 3 .. 19, 25, 30, 40, 50, 60
    "curve_scope": "auto",  # `auto` (within where the alphabets are large enough) or `between`
    "join": "mean",  # of the k scores of a class: `mean` or `max`
    "batch_size": 128,  # images an embedding pass
}

_CHECKED_SCORES = 1024  # scores that are asked both ways round for the asymmetry


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A system that compares embeddings; make it with `from_embedder`."""

    embed: Callable
    score_matrix: Callable


def from_embedder(embed: Callable, score_matrix: Callable) -> Embedder:
    """Makes a system of an encoder and a comparison of its embeddings.

    Args:
        embed: (B, H, W, C) uint8 -> (B, D). It is called with batches of one size.
        score_matrix: (Q, D), (S, D) -> (Q, S), higher = more alike. The score of two embeddings
            must not depend on the others, since runs are scored together.
    """
    return Embedder(embed, score_matrix)


@dataclasses.dataclass(frozen=True)
class Result:
    """What one system scored on one list of trials.

    Attributes:
        system: its name in tables.
        name: of the protocol.
        scope: within or between alphabets, official runs, or how negatives were drawn.
        n_way: classes a trial; None for verification.
        k_shot: support images a class; None for verification.
        accuracy: share of right trials, ties shared.
        num_trials: number of trials or pairs.
        wilson: 95 % interval as if trials were independent.
        bootstrap: 95 % interval over groups; NaN if there is one group only.
        group_kind: what a group is: `run`, `alphabet` or `class`.
        per_group: accuracy and number of trials of each group.
        trial_hash: names the list of trials.
        figures: verification only: threshold, AUC, equal error rate and so on.
        diagnostics: signs of a broken system; see `evaluate_trials` and `evaluate_pairs`.
        trials: the `Trials` or `Pairs` themselves.
        scores: (R, Q, N) joined scores, or (P,).
        correct: (R, Q) or (P,) how right each trial is, for paired comparisons.
        seconds: wall time of the evaluation, seconds.
    """

    system: str
    name: str
    scope: str
    n_way: int | None
    k_shot: int | None
    accuracy: float
    num_trials: int
    wilson: tuple[float, float]
    bootstrap: tuple[float, float]
    group_kind: str
    per_group: dict[str, dict]
    trial_hash: str
    figures: dict
    diagnostics: dict
    trials: Trials | Pairs = dataclasses.field(repr=False)
    scores: np.ndarray = dataclasses.field(repr=False)
    correct: np.ndarray = dataclasses.field(repr=False)
    seconds: float

    def to_dict(self) -> dict:
        """All but the arrays, as plain values that JSON can hold (NaN becomes None)."""
        left_out = ("trials", "scores", "correct")
        names = [f.name for f in dataclasses.fields(self) if f.name not in left_out]
        return {name: _plain(getattr(self, name)) for name in names}


def evaluate_trials(
    system: Embedder | Callable,
    trials: Trials,
    *,
    join: str = "mean",
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Judges a system by N-way trials.

    Its diagnostics are: `nonfinite_scores`, their number; `tied_trials`, the share of trials whose
    highest score is shared; `asymmetry`, the largest |score(a, b) - score(b, a)| over about a
    thousand scores (None if none is finite); and by position of the support, `right_at` (share of
    trials with the right answer there), `answered_at` (share of the answers given there),
    `accuracy_at` (None where no right answer is there) and `position_bias`, the largest
    answered_at - right_at.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        trials: what to judge it by.
        join: how the K scores of a class become one: `mean` or `max`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: embeddings by image set, filled and used by evaluations of one and the same embedder;
            give the same empty dict to each.
        progress: show a progress bar.

    Raises:
        ValueError: the system is neither of the two, or returns something of another shape.
    """
    began = time.perf_counter()
    if join not in ("mean", "max"):
        raise ValueError(f"join must be 'mean' or 'max', got {join!r}")
    supports = trials.supports.reshape(len(trials.supports), -1)  # (R, N * K)
    scorer = _scorer(system, trials, (supports, trials.queries), batch_size, cache, progress)
    raw = scorer(trials.queries, supports)  # (R, Q, N * K)
    shots = raw.reshape(*trials.queries.shape, trials.n_way, trials.k_shot)
    with np.errstate(invalid="ignore"):  # infinities of both signs: the mean is NaN, as it should
        scores = shots.mean(-1) if join == "mean" else shots.max(-1)  # (R, Q, N)
    correct = metrics.n_way_correct(scores, trials.answers)  # (R, Q)
    diagnostics = _score_diagnostics(scorer, trials.queries, supports, raw)
    diagnostics |= _answer_diagnostics(scores, trials.answers, correct)
    return _result(
        system_name, trials, scores, correct, diagnostics, {}, began, trials.n_way, trials.k_shot
    )


def evaluate_pairs(
    system: Embedder | Callable,
    pairs: Pairs,
    *,
    validation: Pairs | None = None,
    threshold: float | None = None,
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Judges a system by verification: is this pair the same class?

    Its figures are: `threshold`; `validation_accuracy` and `validation_hash` if it was chosen
    there; `auc`, `auc_interval`, `eer`, `eer_interval` (bootstrap over groups); `far` and `frr`
    (false accept and false reject rate) at the threshold; `mean_same` and `mean_different` score.
    Its diagnostics are `nonfinite_scores`, `asymmetry` (as in `evaluate_trials`) and
    `distinct_pairs`.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`, which is asked for
            one pair at a time.
        pairs: what to judge it by.
        validation: other pairs, on which the threshold of highest accuracy is chosen.
        threshold: the threshold itself, in place of `validation`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.

    Raises:
        ValueError: not exactly one of validation and threshold, or validation is the test itself.
    """
    began = time.perf_counter()
    if (validation is None) == (threshold is None):
        raise ValueError("give either validation pairs to choose the threshold on, or a threshold")
    cache = {} if cache is None else cache
    figures = {}
    if validation is not None:
        if validation.hash == pairs.hash:
            raise ValueError("the threshold must be chosen on other pairs than those of the test")
        chosen_on, _ = _pair_scores(system, validation, batch_size, cache, progress)
        threshold = metrics.best_threshold(chosen_on, validation.labels)
        figures["validation_accuracy"] = metrics.accuracy_at_threshold(
            chosen_on, validation.labels, threshold
        )
        figures["validation_hash"] = validation.hash
    scores, diagnostics = _pair_scores(system, pairs, batch_size, cache, progress)
    labels = pairs.labels
    correct = metrics.pair_correct(scores, labels, threshold)
    auc_interval, eer_interval = metrics.auc_eer_intervals(scores, labels, pairs.groups)
    far, frr = metrics.false_rates(scores, labels, threshold)
    figures |= {
        "threshold": threshold,
        "auc": metrics.auc(scores, labels),
        "auc_interval": auc_interval,
        "eer": metrics.equal_error_rate(scores, labels),
        "eer_interval": eer_interval,
        "far": far,
        "frr": frr,
        "mean_same": _finite_mean(scores[labels == 1]),
        "mean_different": _finite_mean(scores[labels == 0]),
    }
    both = np.sort(np.stack([pairs.first, pairs.second], 1), 1)
    diagnostics["distinct_pairs"] = len(np.unique(both, axis=0))
    return _result(system_name, pairs, scores, correct, diagnostics, figures, began)


def compare_results(a: Result, b: Result, *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How much more accurate a is than b on the same trials: difference and 95 % interval.

    Raises:
        ValueError: the two were not judged by the same trials.
    """
    if a.trial_hash != b.trial_hash:
        raise ValueError(
            f"{a.system!r} has trials {a.trial_hash} and {b.system!r} {b.trial_hash}: only figures "
            "on the same trials can be compared"
        )
    groups = a.trials.groups.ravel()
    return metrics.paired_difference(a.correct.ravel(), b.correct.ravel(), groups, seed=seed)


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """What the protocols run on.

    Attributes:
        test: images of unseen classes; all but `official` report on them.
        validation: images that choose the verification threshold.
        train: images of the training classes, for a curve beside that of the unseen ones.
        official: the official runs.
    """

    test: ImageSet
    validation: ImageSet | None = None
    train: ImageSet | None = None
    official: object | None = None


def run_protocols(
    system: Embedder | Callable,
    data: EvaluationData,
    protocols: Iterable[str],
    settings: Mapping | None = None,
    *,
    system_name: str = "model",
    progress: bool = False,
) -> dict[str, Result]:
    """Evaluates a system by several protocols; each image is embedded once for all of them.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        data: the images.
        protocols: names out of `PROTOCOLS`.
        settings: values in place of those of `SETTINGS`.
        system_name: its name in tables.
        progress: show progress bars.

    Returns:
        One result a protocol, by its name; the curve gives one a point, named `curve/unseen/5` and
        `curve/training/5` for N = 5.

    Raises:
        ValueError: an unknown protocol or setting, or data that a protocol needs is not there.
    """
    protocols = list(protocols)
    check_names("protocol", protocols, PROTOCOLS)
    check_names("setting", settings or {}, SETTINGS)
    if "official" in protocols and data.official is None:
        raise ValueError("protocol 'official' needs the official runs, which this data set lacks")
    if "verification" in protocols and data.validation is None:
        raise ValueError(
            "protocol 'verification' needs a validation set to choose its threshold on"
        )
    s = {**SETTINGS, **(settings or {})}
    shared = {"n_way": s["n_way"], "k_shot": s["k_shot"], "seed": s["seed"]}
    shared["num_trials"] = s["num_trials"]
    options = {"batch_size": s["batch_size"], "system_name": system_name, "cache": {}}
    options["progress"] = progress
    results = {}

    def judge(key: str, trials: Trials) -> None:
        results[key] = evaluate_trials(system, trials, join=s["join"], **options)

    for name in protocols:
        if name == "official":
            judge(name, official_trials(data.official))
        elif name == "within":
            judge(name, within_trials(data.test, skip_small=s["skip_small"], **shared))
        elif name == "koch":
            judge(name, koch_trials(data.test, seed=s["seed"], n_way=s["n_way"]))
        elif name == "between":
            judge(name, between_trials(data.test, **shared))
        elif name == "verification":
            draw = {"num_pairs": s["num_pairs"], "seed": s["seed"], "negatives": s["negatives"]}
            test, validation = (verification_pairs(x, **draw) for x in (data.test, data.validation))
            results[name] = evaluate_pairs(system, test, validation=validation, **options)
        else:
            parts = {"unseen": data.test, "training": data.train}
            for part, image_set in parts.items():
                if image_set is None:
                    continue
                for trials in curve_trials(
                    image_set,
                    n_ways=s["curve_n_ways"],
                    k_shot=s["k_shot"],
                    num_trials=s["curve_trials"],
                    seed=s["seed"],
                    scope=s["curve_scope"],
                ):
                    key = f"curve/{part}/{trials.n_way}"
                    judge(key, dataclasses.replace(trials, name=f"curve/{part}"))
    return results


def format_table(results: Iterable[Result] | Mapping[str, Result]) -> str:
    """A text table, one line a result: trials, accuracy, both intervals and the trials' hash."""
    if isinstance(results, Mapping):
        results = results.values()
    rows = [
        ["system", "protocol", "scope", "way", "shot", "trials", "accuracy %", "Wilson 95 %"]
        + ["bootstrap 95 %", "hash", ""]
    ]
    for r in results:
        plural = {"class": "classes"}.get(r.group_kind, r.group_kind + "s")
        groups = f"{len(r.per_group)} {r.group_kind if len(r.per_group) == 1 else plural}"
        more = ""
        if "auc" in r.figures:
            f = r.figures
            more = (
                f"AUC {f['auc']:.4f} {_interval(f['auc_interval'], 1, 4)}, "
                f"EER {100 * f['eer']:.2f} % {_interval(f['eer_interval'], 100, 2)}, "
                f"threshold {f['threshold']:.4g}"
            )
        rows.append(
            [r.system, r.name, r.scope, str(r.n_way or "-"), str(r.k_shot or "-")]
            + [str(r.num_trials), f"{100 * r.accuracy:.2f}", _interval(r.wilson, 100, 1)]
            + [f"{_interval(r.bootstrap, 100, 1)} ({groups})", r.trial_hash, more]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def print_table(results: Iterable[Result] | Mapping[str, Result]) -> None:
    """Prints `format_table`."""
    print(format_table(results))


def _scorer(
    system, trials: Trials | Pairs, rows, batch_size: int, cache, progress: bool
) -> Callable:
    """A function from rows, (R, Q) and (R, S), to scores (R, Q, S) float64.

    Args:
        system: an `Embedder` or a callable.
        trials: whose images are meant.
        rows: arrays of all rows that will be asked for.
        batch_size: images an embedding pass.
        cache: see `evaluate_trials`.
        progress: show a progress bar.
    """
    images = trials.images
    label = f"{trials.name} {trials.hash}"
    if isinstance(system, Embedder):
        needed = np.unique(np.concatenate([r.ravel() for r in rows]))
        cache = {} if cache is None else cache
        known = cache.setdefault(trials.fingerprint, {})
        table = _embed_rows(system.embed, images, needed, batch_size, known, label, progress)
        return functools.partial(_score_embeddings, system.score_matrix, table)
    if callable(system):
        return functools.partial(_score_images, system, images, label, progress)
    raise ValueError(
        f"a system is from_embedder(...) or a callable score(queries, supports), not {system!r}"
    )


def _embed_rows(embed, images, rows, batch_size, known: dict, label, progress) -> np.ndarray:
    """(M, D) embeddings of which at least those of `rows` are filled in; `known` keeps them.

    The last batch is filled up with its last image, so that a compiled `embed` sees one shape.
    """
    done = known.setdefault("done", np.zeros(len(images), bool))
    rows = rows[~done[rows]]
    batch_size = min(batch_size, len(images))
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, f"{label}: embedding", disable=not progress, unit="batch"):
        part = rows[start : start + batch_size]
        filled = np.append(part, np.full(batch_size - len(part), part[-1]))
        embedded = np.asarray(embed(images[filled]))
        if embedded.ndim != 2 or len(embedded) != batch_size:
            raise ValueError(
                f"embed must return ({batch_size}, D) for {batch_size} images, got {embedded.shape}"
            )
        if "table" not in known:
            known["table"] = np.empty((len(images), embedded.shape[1]), embedded.dtype)
        known["table"][part] = embedded[: len(part)]
        done[part] = True
    return known["table"]


def _score_embeddings(score_matrix, table: np.ndarray, queries, supports) -> np.ndarray:
    """(R, Q, S) scores: runs are compared in blocks, and each run's own part of a block is kept."""
    (num_runs, num_q), num_s = queries.shape, supports.shape[1]
    block = max(1, math.isqrt(1024 // (num_q * num_s)))  # at most 1,024 scores a call
    out = np.empty((num_runs, num_q, num_s))
    for start in range(0, num_runs, block):
        runs = np.minimum(np.arange(start, start + block), num_runs - 1)  # one shape for all calls
        hq, hs = table[queries[runs].ravel()], table[supports[runs].ravel()]
        matrix = _checked(score_matrix(hq, hs), (len(hq), len(hs)))
        matrix = matrix.reshape(block, num_q, block, num_s)
        kept = np.arange(min(block, num_runs - start))
        out[start : start + block] = matrix[kept, :, kept]
    return out


def _score_images(score, images, label, progress, queries, supports) -> np.ndarray:
    """(R, Q, S) scores by one call a run."""
    out = np.empty((*queries.shape, supports.shape[1]))
    for r in tqdm(range(len(queries)), label, disable=not progress, unit="run"):
        out[r] = _checked(score(images[queries[r]], images[supports[r]]), out[r].shape)
    return out


def _checked(scores, shape: tuple[int, int]) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.shape != shape:
        raise ValueError(
            f"a system must return a score of every query and support, {shape}, got {scores.shape}"
        )
    return scores


def _pair_scores(system, pairs: Pairs, batch_size, cache, progress) -> tuple[np.ndarray, dict]:
    """(P,) scores of pairs, each a run of one query and one support, and their diagnostics."""
    first, second = pairs.first[:, None], pairs.second[:, None]
    scorer = _scorer(system, pairs, (first, second), batch_size, cache, progress)
    scores = scorer(first, second)
    return scores[:, 0, 0], _score_diagnostics(scorer, first, second, scores)


def _score_diagnostics(scorer, queries, supports, scores: np.ndarray) -> dict:
    """Non-finite scores, and the asymmetry over the first runs."""
    runs = slice(0, -(-_CHECKED_SCORES // (queries.shape[1] * supports.shape[1])))
    back = scorer(supports[runs], queries[runs]).swapaxes(1, 2)
    finite = np.isfinite(scores[runs]) & np.isfinite(back)
    gaps = np.abs(scores[runs][finite] - back[finite])
    return {
        "nonfinite_scores": int((~np.isfinite(scores)).sum()),
        "asymmetry": float(gaps.max()) if gaps.size else None,
    }


def _answer_diagnostics(scores: np.ndarray, answers: np.ndarray, correct: np.ndarray) -> dict:
    """Ties, and how answers spread over the positions of the supports."""
    shares = metrics.answer_shares(scores)  # (R, Q, N)
    finite = np.isfinite(scores).all(-1)
    tied = finite & ((shares > 0).sum(-1) > 1)
    n_way = scores.shape[-1]
    counts = np.bincount(answers.ravel(), minlength=n_way)
    right = np.bincount(answers.ravel(), correct.ravel(), n_way)
    answered_at, right_at = shares.mean((0, 1)), counts / answers.size
    return {
        "tied_trials": float(tied.mean()),
        "position_bias": float((answered_at - right_at).max()),
        "right_at": right_at.tolist(),
        "answered_at": answered_at.tolist(),
        "accuracy_at": [float(r / c) if c else None for r, c in zip(right, counts, strict=True)],
    }


def _result(
    system_name, trials, scores, correct, diagnostics, figures, began, n_way=None, k_shot=None
) -> Result:
    groups, flat = trials.groups.ravel(), correct.ravel()
    sizes = np.bincount(groups, minlength=len(trials.group_names))
    sums = np.bincount(groups, flat, len(trials.group_names))
    per_group = {
        name: {"accuracy": float(sums[g] / sizes[g]), "num_trials": int(sizes[g])}
        for g, name in enumerate(trials.group_names)
        if sizes[g]
    }
    return Result(
        system=system_name,
        name=trials.name,
        scope=trials.scope,
        n_way=n_way,
        k_shot=k_shot,
        accuracy=float(flat.mean()),
        num_trials=flat.size,
        wilson=metrics.wilson_interval(float(flat.sum()), flat.size),
        bootstrap=metrics.bootstrap_interval(flat, groups),
        group_kind=trials.group_kind,
        per_group=per_group,
        trial_hash=trials.hash,
        figures=figures,
        diagnostics=diagnostics,
        trials=trials,
        scores=scores,
        correct=correct,
        seconds=time.perf_counter() - began,
    )


def _finite_mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _interval(limits: tuple[float, float], scale: float, digits: int) -> str:
    low, high = (scale * x for x in limits)
    return "-" if math.isnan(low) else f"{low:.{digits}f}-{high:.{digits}f}"


def _plain(value):
    """The value with NumPy scalars and NaN replaced by what JSON has."""
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(x) for x in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
