"""What `launch/evaluate.py` runs: a trained network and the baselines, by the same protocols."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence

from siamese_jax import baselines as baseline_scores
from siamese_jax import datasets, evaluate, inference, workdir

_log = logging.getLogger(__name__)
# What a record for others holds of each result; results.json holds all.
_RECORDED = ("system", "name", "scope", "n_way", "k_shot", "accuracy", "num_trials", "wilson")
_RECORDED += ("bootstrap", "trial_hash", "figures")


def judge_run(
    path: str | pathlib.Path,
    protocols: Sequence[str],
    settings: Mapping,
    *,
    checkpoint: str = "best",
    archives: str | None = None,
    baselines: bool = True,
    report: bool = True,
    record: str | None = None,
    num_devices: int = 1,
    progress: bool = False,
) -> dict[str, dict[str, evaluate.Result]]:
    """Judges a run, prints the table, writes `results.json` and the report.

    The images are read at their own size, whatever the network's input: the trials, and so their
    hashes, are the same for every network and for the baselines.

    Args:
        path: workdir of the run.
        protocols: names out of `evaluate.PROTOCOLS`; on a set without official runs `official` means
            the set's own runs.
        settings: in place of those of `evaluate.SETTINGS`.
        checkpoint: `best`, `latest` or the number of a step.
        archives: folder of the data's archives, where it is not that of the config.
        baselines: whether random scores, pixel nearest neighbour and modified Hausdorff distance
            (this one on the fixed runs only: it takes seconds a hundred trials) are judged too.
        report: whether to write `report.html`.
        record: path of a short copy of `results.json` without the names of folders.
        num_devices: devices to run on, 0 for all.
        progress: whether to show progress bars.

    Returns:
        The results by system and protocol; the network's name is its run's.

    Raises:
        ValueError: no such run, checkpoint or protocol, or other data than the run was trained on.
    """
    config = workdir.read_config(path)
    start = workdir.read_provenance(path)[-1]
    net = inference.load(path, int(checkpoint) if checkpoint.isdigit() else checkpoint, num_devices)
    fields = config.data.to_dict()
    if fields["name"] != "folder":  # whose pictures may be of many sizes
        fields["image_size"] = None
    if archives:
        fields["archives"] = archives
    data = datasets.load(fields)
    _log.info("%s on %s", net.name, data.note)
    if data.resized(config.data.image_size).fingerprint != start["data_fingerprint"]:
        raise ValueError(
            f"{path} was trained on other data ({start['data']}) than is found now ({data.note})"
        )
    held = evaluate.EvaluationData(data.test, data.validation, data.train, data.runs)
    systems = {net.name: net.system()}
    if baselines:
        systems["pixel 1-NN"] = baseline_scores.pixel_nearest_neighbour
        systems["random"] = baseline_scores.random_score(0)
        if data.runs is not None and "official" in protocols:
            systems["modified Hausdorff"] = baseline_scores.modified_hausdorff
    results = {}
    for name, system in systems.items():
        asked = ["official"] if name == "modified Hausdorff" else protocols
        results[name] = evaluate.run_protocols(
            system, held, asked, settings, system_name=name, progress=progress
        )
    shown = [r for by in results.values() for key, r in by.items() if not key.startswith("curve/")]
    evaluate.print_table(shown)
    evaluation = workdir.provenance()
    summary = {
        "config": workdir.plain(config),
        "training": start,
        "evaluation": evaluation,
        "settings": dict(settings),
        "results": [r.to_dict() for by in results.values() for r in by.values()],
    }
    workdir.write_whole(pathlib.Path(path) / "results.json", json.dumps(summary, indent=1) + "\n")
    if record:
        plain, (training, evaluation) = workdir.without_places(config, [start, evaluation])
        brief = [{name: row[name] for name in _RECORDED} for row in summary["results"]]
        summary |= {"config": plain, "training": training, "evaluation": evaluation, "results": brief}
        workdir.write_whole(pathlib.Path(record), json.dumps(summary, indent=1) + "\n")
    if report:
        from siamese_jax import report as pages  # matplotlib is slow to import

        print(f"report: {pages.write_report(path, config, data, net, results)}")
    return results
