"""The protocols: what any system scores on frozen lists of trials.

A system is `from_embedder(...)` or a callable `score(queries, supports)`, see `scoring`. Of a run with
K shots the supports come class by class, K images each, and `SHOT_AGGREGATIONS` are the ways in which they give
the score of the class.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from tqdm import tqdm

from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.scoring import (
    EMBEDDING_AGGREGATIONS,
    SHOT_AGGREGATIONS,
    Embedder,
    Scorer,
    check_shot_aggregation,
    from_embedder,
)
from siamese_jax.evaluation.trials import (
    OpenSet,
    Retrieval,
    Trials,
    VerificationPairs,
    between_trials,
    check_names,
    curve_trials,
    koch_trials,
    official_trials,
    open_set,
    retrieval_queries,
    verification_pairs,
    within_trials,
)

__all__ = [
    "SHOT_AGGREGATIONS",
    "EMBEDDING_AGGREGATIONS",
    "Embedder",
    "from_embedder",
]  # beside what is below

PROTOCOLS = ("official", "within", "koch", "between", "verification", "curve")
PROTOCOLS += ("retrieval", "open_set")

SETTINGS = {
    "num_trials": 4000,  # of `within` and `between`
    "n_way": 20,  # classes a trial
    "k_shot": 1,  # support images a class, and references a class of `open_set`
    "seed": 0,  # of the trials
    "skip_small": False,  # leave out alphabets with fewer than n_way characters
    "num_pairs": 10_000,  # of `verification`, and as many on the validation set
    "negatives": "any",  # other class of a different pair: `any` or `same_alphabet`
    "curve_trials": 1000,  # at each N
    "curve_n_ways": None,  # values of N; None: 1, 3 .. 19, 25, 30, 40, 50, 60
    "curve_scope": "auto",  # `auto` (within where the alphabets are large enough) or `between`
    "shot_aggregation": None,  # of the k supports of a class, one of `SHOT_AGGREGATIONS`; None: as a config says, or `mean`
    "batch_size": 128,  # images an embedding pass
}

FALSE_ALARMS = (0.001, 0.01, 0.1)  # rates at which `open_set` reports; the accuracy is at 1 %
_NO_INTERVAL = (math.nan, math.nan)
_RETRIEVED = 128  # queries whose scores are held at a time


@dataclasses.dataclass(frozen=True)
class Result:
    """What one system scored on one list of trials.

    Attributes:
        system: its name in tables.
        name: of the protocol.
        scope: within or between alphabets, official runs, or how negatives were drawn.
        n_way: classes a trial, or enrolled; None for verification and retrieval.
        k_shot: support images a class; None for verification and retrieval.
        shot_aggregation: how they give the score of a class, one of `SHOT_AGGREGATIONS`; None where each has one only, or
            the system sees to it by `score_classes`.
        accuracy: share of right trials, ties shared; of `retrieval` recall at 1, of `open_set`
            detection and identification at 1 % false alarms.
        num_trials: number of trials, pairs, queries or probes of enrolled classes.
        wilson: 95 % interval as if trials were independent.
        bootstrap: 95 % interval over groups; NaN if there is one group only.
        grouped_by: what a group is: `run`, `alphabet` or `class`, and of a file of pairs `folder`
            or `image`.
        per_group: accuracy and number of trials of each group.
        trial_hash: names the list of trials.
        figures: all but N-way trials: see `evaluate_pairs`, `evaluate_retrieval`,
            `evaluate_open_set`.
        diagnostics: signs of a broken system; see `evaluate_trials` and `evaluate_pairs`.
        trials: the list itself.
        scores: (R, Q, N) joined scores; (P,) of pairs; (P, N) of the probes of an open set; (Q,) the
            highest score of each query of a retrieval.
        correct: (R, Q), (P,) or (Q,) how right each trial is, for paired comparisons.
        seconds: wall time of the evaluation, seconds.
    """

    system: str
    name: str
    scope: str
    n_way: int | None
    k_shot: int | None
    shot_aggregation: str | None
    accuracy: float
    num_trials: int
    wilson: tuple[float, float]
    bootstrap: tuple[float, float]
    grouped_by: str
    per_group: dict[str, dict]
    trial_hash: str
    figures: dict
    diagnostics: dict
    trials: Trials | VerificationPairs | Retrieval | OpenSet = dataclasses.field(repr=False)
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
    shot_aggregation: str = "mean",
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by N-way trials.

    Its diagnostics are: `nonfinite_scores`, their number; `tied_trials`, the share of trials whose
    highest score is shared; `asymmetry`, the largest |score(a, b) - score(b, a)| over about a
    thousand scores of pairs (None if none is finite, or if the system scores no pairs: the join is
    `finetune`, or it has `score_classes`); and by position of the support, `right_at` (share of
    trials with the right answer there), `answered_at` (share of the answers given there),
    `accuracy_at` (None where no right answer is there) and `position_bias`, the largest
    answered_at - right_at.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        trials: what to evaluate it by.
        shot_aggregation: how the K supports of a class give its score, one of `SHOT_AGGREGATIONS`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: embeddings by image set, filled and used by evaluations of one and the same embedder;
            give the same empty dict to each.
        progress: show a progress bar.

    Raises:
        ValueError: the system is neither of the two, or returns something of another shape; or the
            join is unknown, or needs embeddings and the system is a plain callable.
    """
    began = time.perf_counter()
    rows = np.concatenate([trials.supports.ravel(), trials.queries.ravel()])
    scorer = _scorer(system, trials, rows, batch_size, cache, progress)
    scores, nonfinite = scorer.classes(
        trials.queries, trials.supports, shot_aggregation
    )  # (R, Q, N)
    correct = metrics.n_way_correct(scores, trials.answers)  # (R, Q)
    diagnostics = {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(trials.queries, trials.supports, shot_aggregation),
    }
    diagnostics |= _answer_diagnostics(scores, trials.answers, correct)
    return _result(
        *(system_name, trials, scores, correct, diagnostics, {}, began),
        n_way=trials.n_way,
        k_shot=trials.k_shot,
        shot_aggregation=_telling(system, shot_aggregation, trials.k_shot),
    )


def evaluate_pairs(
    system: Embedder | Callable,
    pairs: VerificationPairs,
    *,
    validation: VerificationPairs | None = None,
    threshold: float | None = None,
    shot_aggregation: str = "mean",
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by verification: is this pair the same class?

    Its figures are: `threshold`; `validation_accuracy` and `validation_hash` if it was chosen
    there; `auc`, `auc_interval`, `eer`, `eer_interval` (bootstrap over groups); `far` and `frr`
    (false accept and false reject rate) at the threshold; `mean_same` and `mean_different` score.
    With validation pairs also `slope` and `offset`, of the logistic fit there that turns a score into
    the probability of "same" (`metrics.fit_logistic`: same and different equally likely beforehand),
    and `reliability_error` and `log_loss` (nats) of these probabilities on the test.
    Its diagnostics are `nonfinite_scores`, `asymmetry` (as in `evaluate_trials`) and
    `distinct_pairs`.

    A pair is a run of one class with one support. A claim of K references is one of K supports, whose
    scores are joined; the threshold and the fit are those of the validation pairs as they are, so of
    one reference each if they are, for which `sum`, that grows with K, is no good choice.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`, which is asked for
            one pair at a time.
        pairs: what to evaluate it by.
        validation: other pairs, on which the threshold of highest accuracy is chosen.
        threshold: the threshold itself, in place of `validation`.
        shot_aggregation: of the references of a claim, one of `SHOT_AGGREGATIONS` but `finetune`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.

    Raises:
        ValueError: not exactly one of validation and threshold, or validation is the test itself; or
            claims of several references are to be joined by `finetune`.
    """
    began = time.perf_counter()
    if (validation is None) == (threshold is None):
        raise ValueError("give either validation pairs to choose the threshold on, or a threshold")
    cache = {} if cache is None else cache
    figures = {}
    if validation is not None:
        if validation.hash == pairs.hash:
            raise ValueError("the threshold must be chosen on other pairs than those of the test")
        chosen_on, _ = _pair_scores(
            system, validation, shot_aggregation, batch_size, cache, progress
        )
        threshold = metrics.best_threshold(chosen_on, validation.labels)
        figures["validation_accuracy"] = metrics.accuracy_at_threshold(
            chosen_on, validation.labels, threshold
        )
        figures["validation_hash"] = validation.hash
        fit = metrics.fit_logistic(chosen_on, validation.labels)
    scores, diagnostics = _pair_scores(system, pairs, shot_aggregation, batch_size, cache, progress)
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
    if validation is not None:
        with np.errstate(invalid="ignore"):  # a slope of 0 times a score that is not finite
            logits = fit[0] * scores + fit[1]
        figures |= {"slope": fit[0], "offset": fit[1]}
        figures["reliability_error"] = metrics.reliability_error(logits, labels)
        figures["log_loss"] = metrics.log_loss(logits, labels)
    pair, place = np.nonzero(pairs.references >= 0)
    both = np.sort(np.stack([pairs.first[pair], pairs.references[pair, place]], 1), 1)
    diagnostics["distinct_pairs"] = len(np.unique(both, axis=0))
    told = {"shot_aggregation": _telling(system, shot_aggregation, int(pairs.num_references.max()))}
    return _result(system_name, pairs, scores, correct, diagnostics, figures, began, **told)


def monitor_pairs(
    system: Embedder | Callable, pairs: VerificationPairs, *, cache: dict | None = None
) -> dict[str, float]:
    """What a training run watches of validation pairs, its scores taken for logits of "same".

    Args:
        system: as in `evaluate_pairs`.
        pairs: of the validation classes, one reference each.
        cache: as in `evaluate_trials`.

    Returns:
        `pair_loss` (mean cross-entropy, nats, same and different weighing equally),
        `pair_accuracy` (at a probability of one half) and `pair_auc`.
    """
    scores, _ = _pair_scores(system, pairs, "mean", 128, {} if cache is None else cache, False)
    return {
        "pair_loss": metrics.log_loss(scores, pairs.labels),
        "pair_accuracy": metrics.accuracy_at_threshold(scores, pairs.labels, 0.0),
        "pair_auc": metrics.auc(scores, pairs.labels),
    }


def evaluate_retrieval(
    system: Embedder | Callable,
    queries: Retrieval,
    *,
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by retrieval: each query ranks all other images of the set.

    Its figures are `recall_at_1` (the accuracy), `recall_at_5`, `recall_at_10`, and `map_at_r` with
    `map_at_r_interval` (bootstrap over groups); images of one score stand in random order, see
    `metrics.retrieval`. All pairs of images are scored, though never more than some hundred queries'
    scores are held. M images cost an embedder M encoder passes and M^2 comparisons (for 13,180 images
    174 million: seconds for a cosine, minutes for a weighted L1 of 4,096 units), a system with
    `score_classes` M^2 runs, and a callable M^2 / 131,072 calls on up to 128 queries and 1,024
    supports each.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`, whose supports here are
            just the next images of the set, a query itself among them (its score is not used).
        queries: what to evaluate it by.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.
    """
    began = time.perf_counter()
    everything = np.arange(len(queries.images))
    scorer = _scorer(system, queries, everything, batch_size, cache, progress)
    parts = []
    nonfinite = 0
    starts = range(0, len(queries.queries), _RETRIEVED)
    for start in tqdm(starts, f"retrieval {queries.hash}", disable=not progress, unit="block"):
        own = queries.queries[start : start + _RETRIEVED]
        scores = scorer.matrix(own, everything)  # (B, M)
        scores[np.arange(len(own)), own] = -np.inf
        nonfinite += int((~np.isfinite(scores)).sum()) - len(own)
        relevant = queries.classes[own][:, None] == queries.classes
        recalls, average = metrics.retrieval(scores, relevant, own)
        parts.append((scores.max(1), *recalls.T, average))
    highest, at_1, at_5, at_10, average = (np.concatenate(x) for x in zip(*parts, strict=True))
    figures = {
        "recall_at_1": float(at_1.mean()),
        "recall_at_5": float(at_5.mean()),
        "recall_at_10": float(at_10.mean()),
        "map_at_r": float(average.mean()),
        "map_at_r_interval": metrics.bootstrap_interval(average, queries.groups),
    }
    some = queries.queries[:32]
    asked, shown = np.repeat(some, len(some)), np.tile(some, len(some))
    diagnostics = {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(asked[:, None], shown[:, None, None], "mean"),
    }
    return _result(system_name, queries, highest, at_1, diagnostics, figures, began)


def evaluate_open_set(
    system: Embedder | Callable,
    trials: OpenSet,
    *,
    validation: OpenSet | None = None,
    shot_aggregation: str = "mean",
    batch_size: int = 128,
    system_name: str = "model",
    cache: dict | None = None,
    progress: bool = False,
) -> Result:
    """Evaluates a system by identification among enrolled classes, with impostors of unknown ones.

    A probe is identified as the class of its highest score, if that reaches a threshold. The figures
    are `rank_1` (share of enrolled probes whose own class scores highest, whatever the threshold),
    `num_enrolled`, `num_impostors`, and `at`, by false alarm rate (`0.1 %`, `1 %`, `10 %`):
    `threshold`, the lowest that no more than that share of impostors reaches, chosen on the test's
    own impostors as NIST and ISO/IEC 19795 do, `dir` (detection-and-identification rate: enrolled
    probes identified rightly) and `false_alarms` there; and the same with the threshold chosen on the
    validation set's impostors: `transferred_threshold`, `transferred_dir`,
    `transferred_false_alarms`. What too few impostors cannot show (fewer than 1 / rate) is NaN, and
    `notes` say so. The accuracy is `dir` at 1 %.

    Args:
        system: `from_embedder(...)`, or `score(queries, supports) -> (Q, S)`.
        trials: what to evaluate it by.
        validation: an open set of other classes, for the transferred threshold.
        shot_aggregation: of the references of a class, one of `SHOT_AGGREGATIONS`.
        batch_size: images an embedding pass.
        system_name: its name in tables.
        cache: as in `evaluate_trials`.
        progress: show a progress bar.

    Raises:
        ValueError: validation is the test itself; or as `evaluate_trials`.
    """
    began = time.perf_counter()
    if validation is not None and validation.hash == trials.hash:
        raise ValueError("the threshold must be transferred from other classes than the test's")
    cache = {} if cache is None else cache
    options = (shot_aggregation, batch_size, cache, progress)
    scores, strange, diagnostics = _open_set_scores(system, trials, *options)
    alarms = metrics.highest_scores(strange)
    elsewhere = None
    if validation is not None:
        elsewhere = metrics.highest_scores(_open_set_scores(system, validation, *options)[1])
    figures = {
        "rank_1": metrics.n_way_accuracy(scores, trials.answers),
        "num_enrolled": len(trials.supports),
        "num_impostors": len(alarms),
        "at": {},
        "notes": [],
    }
    correct = None
    for rate in FALSE_ALARMS:
        row = figures["at"][f"{100 * rate:g} %"] = {}
        for prefix, others, where in (
            ("", alarms, "test"),
            ("transferred_", elsewhere, "validation"),
        ):
            threshold = math.nan if others is None else metrics.false_alarm_threshold(others, rate)
            identified, share = np.full(len(scores), math.nan), math.nan
            if not math.isnan(threshold):
                identified, share = metrics.identification(
                    scores, trials.answers, strange, threshold
                )
            elif others is not None:
                figures["notes"].append(
                    f"{100 * rate:g} % false alarms need {math.ceil(1 / rate):,} impostors or more; "
                    f"the {where} set has {len(others):,}"
                )
            row[f"{prefix}threshold"] = threshold
            row[f"{prefix}dir"] = float(identified.mean())
            row[f"{prefix}false_alarms"] = share
            if rate == 0.01 and not prefix:
                correct = identified
    return _result(
        *(system_name, trials, scores, correct, diagnostics, figures, began),
        n_way=len(trials.supports),
        k_shot=trials.k_shot,
        shot_aggregation=_telling(system, shot_aggregation, trials.k_shot),
    )


def compare_results(a: Result, b: Result, *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """How much more accurate a is than b on the same trials: difference and 95 % interval.

    Raises:
        ValueError: the two were not evaluated by the same trials.
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
        pairs: a list of its own, such as of `pairs_file.read_pairs`, that `verification` evaluates besides
            pairs of the test set.
    """

    test: ImageSet
    validation: ImageSet | None = None
    train: ImageSet | None = None
    official: object | None = None
    pairs: VerificationPairs | None = None


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
        `curve/training/5` for N = 5, and verification a second one, `pairs`, if data has such.

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
    if data.pairs is not None and "verification" not in protocols:
        raise ValueError(
            "a list of pairs is evaluated by the protocol 'verification': ask for that too"
        )
    s = {**SETTINGS, **(settings or {})}
    shot_aggregation = s["shot_aggregation"] or "mean"
    check_shot_aggregation(shot_aggregation, isinstance(system, Embedder))
    shared = {"n_way": s["n_way"], "k_shot": s["k_shot"], "seed": s["seed"]}
    shared["num_trials"] = s["num_trials"]
    options = {"batch_size": s["batch_size"], "system_name": system_name, "cache": {}}
    options["progress"] = progress
    results = {}

    def evaluate(key: str, trials: Trials) -> None:
        results[key] = evaluate_trials(system, trials, shot_aggregation=shot_aggregation, **options)

    for name in protocols:
        if name == "official":
            evaluate(name, official_trials(data.official))
        elif name == "within":
            evaluate(name, within_trials(data.test, skip_small=s["skip_small"], **shared))
        elif name == "koch":
            evaluate(name, koch_trials(data.test, seed=s["seed"], n_way=s["n_way"]))
        elif name == "between":
            evaluate(name, between_trials(data.test, **shared))
        elif name == "verification":
            draw = {"num_pairs": s["num_pairs"], "seed": s["seed"], "negatives": s["negatives"]}
            test, validation = (verification_pairs(x, **draw) for x in (data.test, data.validation))
            for key, pairs in ((name, test), ("pairs", data.pairs)):
                if pairs is not None:
                    results[key] = evaluate_pairs(
                        system,
                        pairs,
                        validation=validation,
                        shot_aggregation=shot_aggregation,
                        **options,
                    )
        elif name == "retrieval":
            results[name] = evaluate_retrieval(system, retrieval_queries(data.test), **options)
        elif name == "open_set":
            draw = {"k_shot": s["k_shot"], "seed": s["seed"]}
            validation = None if data.validation is None else open_set(data.validation, **draw)
            results[name] = evaluate_open_set(
                system,
                open_set(data.test, **draw),
                validation=validation,
                shot_aggregation=shot_aggregation,
                **options,
            )
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
                    evaluate(key, dataclasses.replace(trials, name=f"curve/{part}"))
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
        plural = {"class": "classes"}.get(r.grouped_by, r.grouped_by + "s")
        groups = f"{len(r.per_group)} {r.grouped_by if len(r.per_group) == 1 else plural}"
        more, f = f"joined by {r.shot_aggregation}" if r.shot_aggregation else "", r.figures
        if "recall_at_5" in f:
            more = (
                f"recall at 5 {100 * f['recall_at_5']:.2f} %, at 10 {100 * f['recall_at_10']:.2f} %, "
                f"MAP@R {100 * f['map_at_r']:.2f} % {_interval(f['map_at_r_interval'], 100, 1)}"
            )
        elif "rank_1" in f:
            at = f["at"]["1 %"]
            told = f"accuracy is at 1 % false alarms; rank 1 {100 * f['rank_1']:.2f} %"
            if not math.isnan(at["transferred_dir"]):
                told += f", with the validation's threshold {100 * at['transferred_dir']:.2f} % at "
                told += f"{100 * at['transferred_false_alarms']:.2f} % false alarms"
            more = ", ".join(filter(None, (told, more)))
        elif "auc" in f:
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


def _scorer(system, trials, rows: np.ndarray, batch_size: int, cache, progress: bool) -> Scorer:
    """The system with the images of a list, of which `rows` will be asked for."""
    return Scorer(
        *(system, trials.images, rows),
        fingerprint=trials.fingerprint,
        label=f"{trials.name} {trials.hash}",
        batch_size=batch_size,
        cache=cache,
        progress=progress,
    )


def _telling(system, shot_aggregation: str, k_shot: int) -> str | None:
    """The join as a result tells it; of one support each, all but `finetune` are the same."""
    own_affair = isinstance(system, Embedder) and system.score_classes is not None
    return (
        shot_aggregation
        if not own_affair and (k_shot > 1 or shot_aggregation == "finetune")
        else None
    )


def _pair_scores(
    system, pairs: VerificationPairs, shot_aggregation, batch_size, cache, progress
) -> tuple[np.ndarray, dict]:
    """(P,) scores of pairs, each a run of one query and one class, and their diagnostics."""
    references, counts = pairs.references, pairs.num_references
    if counts.max() > 1 and shot_aggregation == "finetune":
        raise ValueError(
            "join 'finetune' fits a classifier to two classes or more, and a claim has one: join its "
            "references by mean, max, sum or prototype"
        )
    rows = np.concatenate([pairs.first, references[references >= 0]])
    scorer = _scorer(system, pairs, rows, batch_size, cache, progress)
    scores, nonfinite = np.empty(len(pairs.first)), 0
    for count in np.unique(counts):
        chosen = np.flatnonzero(counts == count)
        supports = references[chosen, None, :count]  # (claims, 1, count)
        how = shot_aggregation if count > 1 else "mean"
        joined, bad = scorer.classes(pairs.first[chosen, None], supports, how)
        scores[chosen] = joined[:, 0, 0]
        nonfinite += bad
    return scores, {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(pairs.first[:, None], references[:, :1, None], "mean"),
    }


def _open_set_scores(system, trials: OpenSet, shot_aggregation, batch_size, cache, progress):
    """Scores (P, N) of enrolled probes and (U, N) of impostors, and their diagnostics."""
    probes = np.concatenate([trials.queries, trials.impostors])
    rows = np.concatenate([probes, trials.supports.ravel()])
    scorer = _scorer(system, trials, rows, batch_size, cache, progress)
    scores, nonfinite = scorer.classes(probes[None], trials.supports[None], shot_aggregation)
    diagnostics = {
        "nonfinite_scores": nonfinite,
        "asymmetry": scorer.asymmetry(probes[None], trials.supports[None], shot_aggregation),
    }
    known = len(trials.queries)
    return scores[0, :known], scores[0, known:], diagnostics


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
    system_name,
    trials,
    scores,
    correct,
    diagnostics,
    figures,
    began,
    n_way=None,
    k_shot=None,
    shot_aggregation=None,
) -> Result:
    groups, flat = trials.groups.ravel(), correct.ravel()
    sizes = np.bincount(groups, minlength=len(trials.group_names))
    sums = np.bincount(groups, flat, len(trials.group_names))
    per_group = {
        name: {"accuracy": float(sums[g] / sizes[g]), "num_trials": int(sizes[g])}
        for g, name in enumerate(trials.group_names)
        if sizes[g]
    }
    unknown = bool(np.isnan(flat).any())  # an open set with too few impostors
    return Result(
        system=system_name,
        name=trials.name,
        scope=trials.scope,
        n_way=n_way,
        k_shot=k_shot,
        shot_aggregation=shot_aggregation,
        accuracy=float(flat.mean()),
        num_trials=flat.size,
        wilson=_NO_INTERVAL if unknown else metrics.wilson_interval(float(flat.sum()), flat.size),
        bootstrap=_NO_INTERVAL if unknown else metrics.bootstrap_interval(flat, groups),
        grouped_by=trials.grouped_by,
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
