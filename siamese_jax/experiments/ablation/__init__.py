"""Ablations: variants of one config, each trained from several seeds and evaluated on the same trials.

An axis is a named list of changes to a config, and several axes make the product. Every run is a
workdir of its own, trained by `launch/train.py` in a process of its own; what is finished is not run
again, and what was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import fcntl
import itertools
import pathlib
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from siamese_jax import cli, files
from siamese_jax.data import loading
from siamese_jax.experiments.ablation import table, training
from siamese_jax.experiments.ablation.variants import (
    Variant,
    check_fits,
    make_variants,
    parse_over,
)
from siamese_jax.reporting import drawing
from siamese_jax.runs import workdir


def run_ablation(
    config: ConfigDict,
    over: Iterable[str],
    path: str | pathlib.Path,
    checkout: str | pathlib.Path,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    num_trials: int = 4000,
    record: str | None = None,
    dry_run: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> dict:
    """Trains and evaluates all variants of a config, prints and writes their table.

    The folder gets one workdir a run, `ablation.json`, `ablation.txt`, `ablation.md`, `ablation.png`
    (accuracies) and `losses.png` (training curves); the same call goes on after any interruption.

    Args:
        config: the base config; its seed is that of the runs unless `seeds` or `over` names others.
        over: what is varied, see `variants.parse_over` and `axes.AXES`.
        path: folder of the ablation.
        checkout: folder that holds `launch/` and `configs/`.
        seeds: number of seeds, see `variants.parse_over`.
        jobs: trainings at a time, each on its share of the cores.
        num_trials: trials within the alphabets.
        record: path of a further copy of `ablation.json`.
        dry_run: only list the runs.
        should_stop: asked twice a second; once true the trainings save and the call returns.
        progress: whether to show a progress bar.

    Returns:
        `finished` (whether all runs were tried) and `failed` (the number that failed).

    Raises:
        ValueError: an axis that does not fit the config, or a folder with other runs.
    """
    path = pathlib.Path(path).absolute()
    chosen, seed_list = parse_over(over, seeds, config)
    variants = make_variants(config, chosen)
    data = loading.load({**workdir.plain(config)["data"], "image_size": None})
    for variant in variants:
        try:
            check_fits(variant, data)
        except ValueError as error:
            raise ValueError(f"variant {variant.name!r} does not fit: {error}") from None
    trained = {v.trained: v for v in variants}
    names = [v.run(seed) for seed in seed_list for v in trained.values()]
    if dry_run:
        print("\n".join(f"{name}  ({_state(path / name)})" for name in names))
        print(f"{len(variants)} variants, {len(seed_list)} seeds: {len(names)} trainings")
        return {"finished": True, "failed": 0}
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{path} is in use by another process") from None
        evaluate = table.Evaluate(data, config.eval.n_way, num_trials)
        for k_shot in {v.settings["k_shot"] for v in variants}:
            evaluate.lists(k_shot)  # an impossible trial is better known before the training
        trainer = training.Trainer(pathlib.Path(checkout).absolute(), jobs)
        runs = _plan(trained, seed_list, path)
        if not _train_all(trainer, evaluate, variants, runs, should_stop, progress):
            return {"finished": False, "failed": 0}
    of_variant = {v.name: [run for run in runs if run["trained"] == v.trained] for v in variants}
    summaries = [table.summary(v, evaluate, of_variant[v.name]) for v in variants]
    _write(path, config, data, evaluate, variants, of_variant, summaries, record)
    return {"finished": True, "failed": sum(len(s["failed"]) for s in summaries)}


def _write(
    path: pathlib.Path,
    config: ConfigDict,
    data: loading.Data,
    evaluate: table.Evaluate,
    variants: Sequence[Variant],
    of_variant: Mapping[str, list[dict]],
    summaries: Sequence[dict],
    record: str | None,
) -> None:
    """Prints the table; writes it, the figures and the record into the folder of the ablation."""
    differences = table.differences(variants, evaluate, of_variant)
    notes = table.notes(evaluate, variants)
    tables = [table.rows(summaries), table.difference_rows(summaries, differences)]
    tables = [cells for cells in tables if len(cells) > 1]
    wrapped = [textwrap.fill(note, 100, subsequent_indent="  ") for note in notes]
    text = "\n\n".join([*map(cli.text_table, tables), "\n".join(wrapped)])
    print(text)
    files.replace_text(path / "ablation.txt", text + "\n")
    page = [*map(table.markdown, tables), "\n".join(f"- {note}" for note in notes)]
    files.replace_text(path / "ablation.md", "\n\n".join(page) + "\n")
    plain, (start,) = workdir.without_places(config, [workdir.provenance()])
    recorded = {
        "config": plain,
        "data": {"name": data.test.name, "fingerprint": data.fingerprint},
        "evaluation": start,
        "notes": notes,
        "variants": summaries,
        "differences": differences,
    }
    for target in [path / "ablation.json", *([pathlib.Path(record)] if record else [])]:
        files.replace_json(target, table.rounded(recorded))
    drawing.save(table.draw(summaries), path / "ablation.png")
    drawing.save(table.draw_losses(variants, summaries), path / "losses.png")
    print(f"written: ablation.txt, .md, .json, .png and losses.png in {path}")


def _plan(trained: Mapping[str, Variant], seeds: Sequence[int], path: pathlib.Path) -> list[dict]:
    """One record a run, seeds slowest: `trained`, `seed`, `path` and `config`.

    Raises:
        ValueError: the folder holds a run of another config.
    """
    runs = []
    for seed, (name, variant) in itertools.product(seeds, trained.items()):
        run: dict[str, Any] = {"trained": name, "seed": seed, "path": path / variant.run(seed)}
        run["config"] = {**variant.config, "seed": seed}
        runs.append(run)
        old = training.read_json(run["path"] / "variant.json")
        differ = old and workdir.differences(old, run["config"])
        if differ:
            raise ValueError(
                f"{run['path']} holds a run of another config ({'; '.join(differ)}): "
                "choose another --workdir"
            )
    return runs


def _train_all(
    trainer: training.Trainer,
    evaluate: table.Evaluate,
    variants: Sequence[Variant],
    runs: Sequence[dict],
    should_stop: Callable[[], bool],
    progress: bool,
) -> bool:
    """Trains and evaluates the runs, and adds to each what came of it; False when stopped."""
    bar = tqdm(total=len(runs), desc="training", unit="run", disable=not progress)

    def work(number: int) -> dict:
        run = runs[number]
        outcome = training.read_outcome(run["path"])
        if outcome is None or outcome["code"]:
            outcome = trainer.train(run["config"], run["path"])
        return outcome

    def done(number: int, outcome: dict) -> None:
        run = runs[number]
        bar.update()
        if outcome["code"]:
            run["line"] = outcome["line"] or f"exit code {outcome['code']}"
        else:
            settings = [v.settings for v in variants if v.trained == run["trained"]]
            try:
                run["correct"] = evaluate.evaluate(run["path"], settings)
            except ValueError as error:
                run["line"] = f"not evaluated: {error}"
        if "line" in run:
            tqdm.write(f"{run['path'].name}: FAILED: {run['line']}")
            return
        rows = workdir.read_metrics(run["path"])
        validations = [row for row in rows if row["phase"] == "validation"]
        best = max(validations, key=lambda row: row["accuracy"])  # of equal ones the first
        run |= {"steps": rows[-1]["step"], "best_step": best["step"]}
        run |= {"validation": best["accuracy"], "cpu_minutes": outcome["cpu_seconds"] / 60}
        run["loss"] = [(row["step"], row["loss"]) for row in rows if row["phase"] == "train"]
        within = run["correct"][evaluate.keyed(settings[0])["within"][0]].mean()
        tqdm.write(
            f"{run['path'].name}: within {100 * within:.2f} %, {run['steps']} steps, "
            f"{run['cpu_minutes']:.1f} CPU minutes"
        )

    with bar:
        return trainer.each(range(len(runs)), work, done, should_stop)


def _state(path: pathlib.Path) -> str:
    outcome = training.read_outcome(path)
    if outcome is not None:
        return f"failed: {outcome['line']}" if outcome["code"] else "finished"
    return "begun" if (path / "config.json").exists() else "new"
