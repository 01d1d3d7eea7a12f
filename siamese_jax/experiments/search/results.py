"""What came of a search: the table of the best trials, its records and its plots."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from siamese_jax import cli, files
from siamese_jax.experiments.fields import get_field, with_fields
from siamese_jax.experiments.search.space import Dimension
from siamese_jax.runs import workdir


def folder_of(trial: FrozenTrial) -> str:
    """Name of the workdir of a trial; a continuation goes on in the folder of the first attempt."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return f"{trial.number if first is None else first:05d}"


def last_attempts(study: optuna.Study) -> list[FrozenTrial]:
    """All trials but those that were begun again under another number."""
    all_trials = study.get_trials(deepcopy=False)
    history = RetryHeartbeatStaleTrialCallback.retry_history
    begun_again = {number for trial in all_trials for number in history(trial)}
    return [trial for trial in all_trials if trial.number not in begun_again]


def write_results(
    study: optuna.Study, path: pathlib.Path, base: Mapping, space: Sequence[Dimension]
) -> dict:
    """Prints the best trials; writes `search.txt`, `search.json`, `best.json` and the plots.

    `best.json` is the best trial's config, to be trained by `--config=configs/recorded.py:...`.

    Returns:
        `number`, `accuracy` and `fields` of the best trial; an empty dict without one.
    """
    trials = last_attempts(study)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda t: (-t.value, t.number))
    counts = {s: sum(t.state == s for t in trials) for s in TrialState}
    text = ", ".join(f"{n} {s.name.lower()}" for s, n in counts.items() if n)
    text = f"{len(trials)} trials: {text}"
    if ranked:
        text += "\n\n" + _table(ranked[:10], base, space)
    print(text)
    files.replace_text(path / "search.txt", text + "\n")
    record = {
        "config": base,
        "search_space": [[d.field, d.scale, *d.values] for d in space],
        "evaluation": workdir.provenance(),
        "trials": [_plain_trial(t) for t in trials],
    }
    files.replace_json(path / "search.json", record)
    if not ranked:
        return {}
    best = ranked[0]
    summary = {"number": best.number, "accuracy": best.value, "fields": best.params}
    chosen = {"search": summary, "config": with_fields(base, best.params)}
    files.replace_json(path / "best.json", chosen)
    _plot(study, path)
    print(f"written: search.txt, search.json, best.json and the plots in {path}")
    return summary


def _plain_trial(trial: FrozenTrial) -> dict:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "accuracy": trial.value if trial.state == TrialState.COMPLETE else None,
        "best_step": trial.user_attrs.get("best_step"),
        "validation": {str(step): value for step, value in trial.intermediate_values.items()},
        "fields": trial.params,
        "folder": f"trials/{folder_of(trial)}",
        "reason": trial.user_attrs.get("reason"),
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
    }


def _table(ranked: Sequence[FrozenTrial], base: Mapping, space: Sequence[Dimension]) -> str:
    """Fields downwards, the config and the best trials across."""
    rows = [["", "config", *(f"trial {t.number}" for t in ranked)]]
    rows.append(["validation %", "", *(f"{100 * t.value:.2f}" for t in ranked)])
    rows.append(["best step", "", *(str(t.user_attrs.get("best_step", "-")) for t in ranked)])
    for d in space:
        values = [get_field(base, d.field), *(t.params.get(d.field) for t in ranked)]
        rows.append([d.field, *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)])
    return cli.text_table(rows)


def _plot(study: optuna.Study, path: pathlib.Path) -> None:
    """`history.png`, and `importance.png` as soon as there are trials enough to tell."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the importance of few trials is uncertain
        label = "validation accuracy"
        plotted = {"history": plots.plot_optimization_history(study, target_name=label)}
        try:
            plotted["importance"] = plots.plot_param_importances(
                study, evaluator=evaluator, target=lambda t: t.value, target_name=label
            )
            plotted["importance"].figure.set_figheight(2 + 0.3 * len(study.best_params))
        except (ValueError, RuntimeError) as error:
            print(f"no importance.png: {error}")
        for name, axes in plotted.items():
            axes.figure.savefig(path / f"{name}.png", dpi=150, bbox_inches="tight")
            pyplot.close(axes.figure)
