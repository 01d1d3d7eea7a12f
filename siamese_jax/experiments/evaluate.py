"""What `launch/evaluate.py` runs: a trained network and the baselines, by the same protocols."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence

from siamese_jax.data import loading, splits
from siamese_jax.evaluation import baselines as baseline_scores
from siamese_jax.evaluation import pairs_csv
from siamese_jax.evaluation import protocols as protocols_lib
from siamese_jax.inference import network
from siamese_jax.runs import export, files, workdir

PARTS = ("test", "validation", "both")

_log = logging.getLogger(__name__)
# What a record for others holds of each result; results.json holds all.
_RECORDED = ("system", "name", "scope", "n_way", "k_shot", "accuracy", "num_trials", "wilson")
_RECORDED += ("bootstrap", "per_group", "trial_hash", "figures", "shot_aggregation")


def evaluate_run(
    path: str | pathlib.Path,
    protocols: Sequence[str],
    settings: Mapping,
    *,
    pretrained: str | None = None,
    checkpoint: str = "best",
    archives: str | None = None,
    test_data: str | None = None,
    test_archives: str | None = None,
    part: str = "test",
    pairs: str | pathlib.Path | None = None,
    baselines: bool = True,
    report: bool = True,
    record: str | None = None,
    num_devices: int = 1,
    views: int | None = None,
    ensemble: Sequence[str | pathlib.Path] = (),
    progress: bool = False,
) -> dict[str, dict[str, protocols_lib.Result]]:
    """Evaluates a run, prints the table, writes `results.json` and the report.

    The images are read at their own size, whatever the network's input: the trials, and so their
    hashes, are the same for every network and for the baselines. Pairs of a file alone are read at the
    network's input. A config with a section `test_data` (of the fields of `data`) is evaluated on that
    data's test part, with its validation part and its runs; `data` is what was trained on. So is any
    run for which a `test_data` is named here, and then the results say so in their config.

    Args:
        path: workdir of the run.
        protocols: names out of `evaluate.PROTOCOLS`; on a set without official runs `official` means
            the set's own runs.
        settings: in place of those of `evaluate.SETTINGS`. Where no `shot_aggregation` is given it is the config's
            `eval.shot_aggregation`, or `mean`; baselines that have no embeddings go by `mean` where that needs
            them.
        pretrained: name of a network that comes with the package, or a file of `weights.export`, of
            which the workdir is made.
        checkpoint: `best`, `latest` or the number of a step.
        archives: folder of the data's archives, where it is not that of the config.
        test_data: name of a data set with all its other fields as they are by themselves, in place of
            the config's.
        test_archives: folder of the archives of the test data.
        part: which of the data is evaluated on, one of `PARTS`: the test part; the validation part, which
            the checkpoint was chosen by; or both as one set. Only the first has a report, and only
            its results go to `results.json`.
        pairs: a CSV file of pairs of pictures that `verification` evaluates too (see
            `pairs_file.read_pairs`).
        baselines: whether random scores, pixel nearest neighbour and modified Hausdorff distance
            (this one on the fixed runs only: it takes seconds a hundred trials) are evaluated too.
        report: whether to write `report.html`.
        record: path of a short copy of `results.json` without the names of folders.
        num_devices: devices to run on, 0 for all.
        views: as in `inference.load`.
        ensemble: further runs, trained on the same data: a system more, of the mean of all scores.
        progress: whether to show progress bars.

    Returns:
        The results by system and protocol; the network's name is its run's.

    Raises:
        ValueError: no such run, checkpoint, protocol or part, other data than the run was trained
            on, or test data whose images have other channels than the network's.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    if pretrained:
        export.unpack(export.locate(pretrained), path)
    config = workdir.read_config(path)
    with config.unlocked():
        if test_data:
            config.test_data = {"name": test_data}
        if views is not None:
            config.eval.views = views
    start = workdir.read_provenance(path)[-1]
    checkpoint = int(checkpoint) if checkpoint.isdigit() else checkpoint
    nets = [network.load(run, checkpoint, num_devices, views) for run in (path, *ensemble)]
    net = nets[0]
    data = _load(config.data, archives)
    _log.info("%s on %s", net.name, data.note)
    for run in (path, *ensemble):
        _check_trained_on(run, data)
    if config.get("test_data") is not None:
        data = _evaluated_on(data, _load(config.test_data, test_archives), net)
        _log.info("evaluated on %s", data.note)
    elif test_archives:
        raise ValueError(
            f"{path} has no test_data in its config, and none is named: give its archives as archives"
        )
    if part != "test":
        data = _part(data, part)
        _log.info("evaluated on %s", data.note)
    read = pairs_csv.read_pairs(pairs, net.image_shape, net.kind) if pairs else None
    held = protocols_lib.EvaluationData(data.test, data.validation, data.train, data.runs, read)
    shot_aggregation = settings.get("shot_aggregation") or config.eval.get(
        "shot_aggregation", "mean"
    )
    settings = {**settings, "shot_aggregation": shot_aggregation}
    systems = {net.name: net.system()}
    if ensemble:
        systems[f"ensemble of {len(nets)}"] = network.ensemble(nets)
    if baselines:
        systems["pixel 1-NN"] = baseline_scores.pixel_nearest_neighbour
        systems["random"] = baseline_scores.random_score(0)
        if data.runs is not None and "official" in protocols:
            systems["modified Hausdorff"] = baseline_scores.modified_hausdorff
    results = {}
    for name, system in systems.items():
        own = settings
        if callable(system) and shot_aggregation in protocols_lib.EMBEDDING_AGGREGATIONS:
            own = {**settings, "shot_aggregation": "mean"}
        asked, on = protocols, held
        if name == "modified Hausdorff":
            asked, on = ["official"], dataclasses.replace(held, pairs=None)
        results[name] = protocols_lib.run_protocols(
            system, on, asked, own, system_name=name, progress=progress
        )
    shown = [r for by in results.values() for key, r in by.items() if not key.startswith("curve/")]
    protocols_lib.print_table(shown)
    evaluation = workdir.provenance()
    summary = {
        "config": workdir.plain(config),
        "training": start,
        "evaluation": evaluation,
        "settings": {**settings, "part": part, "ensemble": [run.name for run in nets[1:]]},
        "results": [r.to_dict() for by in results.values() for r in by.values()],
    }
    if part == "test":
        files.replace_text(
            pathlib.Path(path) / "results.json", json.dumps(summary, indent=1) + "\n"
        )
    if record:
        plain, (training, evaluation) = workdir.without_places(config, [start, evaluation])
        brief = [{name: row[name] for name in _RECORDED} for row in summary["results"]]
        summary |= {
            "config": plain,
            "training": training,
            "evaluation": evaluation,
            "results": brief,
        }
        files.replace_text(pathlib.Path(record), json.dumps(summary, indent=1) + "\n")
    if report and part == "test":
        from siamese_jax.reporting import report as pages  # matplotlib is slow to import

        print(f"report: {pages.write_report(path, config, data, net, results)}")
    return results


def _load(section, archives: str | None) -> loading.Data:
    """The data of a section of a config, at their own size."""
    fields = section.to_dict()
    if fields["name"] != "folder":  # whose pictures may be of many sizes
        fields["image_size"] = None
    if archives:
        fields["archives"] = archives
    return loading.load(fields)


def _check_trained_on(path: str | pathlib.Path, data: loading.Data) -> None:
    """Refuses a run that has other training data than these."""
    start = workdir.read_provenance(path)[-1]
    size = workdir.read_config(path).data.get("image_size")
    if data.resized(size).fingerprint != start["data_fingerprint"]:
        raise ValueError(
            f"{path} was trained on other data ({start['data']}) than is found now ({data.note})"
        )


def _part(data: loading.Data, part: str) -> loading.Data:
    """The data with another part, or both, in place of the test part."""
    evaluated = data.validation
    if part == "both":
        evaluated = splits.joined(data.validation, data.test, f"{data.test.name} and validation")
    note = f"{data.note}, {evaluated.num_classes} classes of which those of validation chose"
    return dataclasses.replace(data, test=evaluated, runs=None, note=note)


def _evaluated_on(data: loading.Data, other: loading.Data, net: network.Siamese) -> loading.Data:
    """Training images of `data`; the rest of `other`, whose images must suit the network."""
    shape, kind = other.test.image_shape, other.test.kind
    if "vector" in (kind, net.kind):  # which are standardised by the training part of their own set
        raise ValueError(f"test_data goes with images, not with vectors ({other.note})")
    if shape[2] != net.image_shape[2]:
        raise ValueError(
            f"{net.name} takes images of {_shape(net.image_shape)}, and those of test_data "
            f"({other.note}) are {_shape(shape)}: they need as many channels"
        )
    if kind != net.kind:
        _log.warning("test_data is of kind %s, and the network was trained on %s", kind, net.kind)
    note = f"trained on {data.note}; evaluated on {other.note}"
    return dataclasses.replace(other, train=data.train, note=note)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
