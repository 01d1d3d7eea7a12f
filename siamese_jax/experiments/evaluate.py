"""What `launch/evaluate.py` runs: a trained network and the baselines, by the same protocols."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from siamese_jax import cli, files
from siamese_jax.data import loading, splits
from siamese_jax.evaluation import baselines, pairs_csv, saved
from siamese_jax.evaluation.protocols import EvaluationData, Result, run_protocols, warnings
from siamese_jax.evaluation.protocols.result import interval_text
from siamese_jax.evaluation.scoring import (
    DEFAULT_AGGREGATION,
    EMBEDDING_AGGREGATIONS,
    System,
    shot_aggregation_of,
)
from siamese_jax.inference import network
from siamese_jax.readers import check_choice
from siamese_jax.runs import export, workdir

PARTS = ("test", "validation", "both", "rotated")

_log = logging.getLogger(__name__)
# What a record holds of each result; results.json holds all.
_RECORDED = (
    *("system", "name", "scope", "n_way", "k_shot", "accuracy", "num_trials", "wilson"),
    *("clustered", "per_group", "trial_hash", "figures", "shot_aggregation"),
)
_HEADER = (
    *("system", "protocol", "scope", "way", "shot", "trials", "accuracy %", "Wilson 95 %"),
    *("clustered 95 %", "hash", ""),
)

Results = dict[str, dict[str, Result]]


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, and how.

    Attributes:
        workdir: of the run.
        protocols: names out of `PROTOCOLS`; on a set without official runs `official` means the set's
            own runs.
        settings: in place of those of `protocols.SETTINGS`. Without a `shot_aggregation` it is the
            config's `eval.shot_aggregation`, or `mean`. Baselines have no embeddings, so they use
            `mean` where the aggregation needs them.
        pretrained: name of a network that comes with the package, or a file of `export.export`, of
            which the workdir is made.
        checkpoint: `best`, `latest` or the number of a step.
        archives: folder of the data's archives, where it is not that of the config.
        test_data: name of a data set with all its other fields at their defaults, in place of the
            config's.
        test_archives: folder of the archives of the test data.
        part: which of the data is evaluated on, one of `PARTS`: the test part; the validation part,
            which the checkpoint was chosen by; both as one set; or the test part with the quarter
            turns of every class as further classes. Only the first has a report, and only its
            results are saved in the workdir.
        pairs: a CSV file of pairs of pictures that `verification` evaluates too (see
            `pairs_csv.read_pairs`).
        baselines: whether random scores, pixel nearest neighbour and modified Hausdorff distance
            (on the fixed runs only: it takes seconds a hundred trials) are evaluated too.
        report: whether to write `report.html`.
        record: path of a short copy of `results.json` without the names of folders.
        num_devices: devices to run on, 0 for all.
        tta: views of each image in test-time augmentation, 1 for none.
        ensemble: further runs, trained on the same data: one system more, of the mean of all scores.
        progress: whether to show progress bars.

    Raises:
        ValueError: an unknown part, or a record in a folder that is not there.
    """

    workdir: str | pathlib.Path
    protocols: Sequence[str]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pretrained: str | None = None
    checkpoint: str = "best"
    archives: str | None = None
    test_data: str | None = None
    test_archives: str | None = None
    part: str = "test"
    pairs: str | pathlib.Path | None = None
    baselines: bool = True
    report: bool = True
    record: str | pathlib.Path | None = None
    num_devices: int = 1
    tta: int = 1
    ensemble: Sequence[str | pathlib.Path] = ()
    progress: bool = False

    def __post_init__(self) -> None:
        check_choice("part", self.part, PARTS)
        if self.record and not pathlib.Path(self.record).parent.is_dir():
            raise ValueError(f"{pathlib.Path(self.record).parent}: no such folder for a record")


def evaluate_run(request: EvaluationRequest) -> Results:
    """Evaluates a run, prints the table, saves the results and writes the report.

    Returns:
        The results by system and protocol; the network's name is its run's.

    Raises:
        ValueError: no such run, checkpoint, protocol or part, other data than the run was trained
            on, or test data whose images have other channels than the network's.
    """
    nets = load_networks(request)
    config = evaluated_config(request)
    data = load_data(request, config, nets[0])
    images = evaluation_data(request, data, nets[0])
    settings = dict(request.settings)
    settings["shot_aggregation"] = shot_aggregation_of(
        config.eval, settings.get("shot_aggregation")
    )
    results = {
        name: run_protocols(
            job.system,
            job.images,
            job.protocols,
            job.settings,
            system_name=name,
            progress=request.progress,
        )
        for name, job in _jobs(request, nets, images, settings).items()
    }
    shown = [r for by in results.values() for key, r in by.items() if not key.startswith("curve/")]
    print(results_table(shown))
    for line in warnings(shown):
        print(f"WARNING: {line}")
    settings |= {
        "part": request.part,
        "ensemble": [net.name for net in nets[1:]],
        "tta": request.tta,
    }
    _save(request, config, settings, results)
    if request.report and request.part == "test":
        from siamese_jax.experiments import report  # matplotlib is slow to import

        page = report.write_report(request.workdir, config, data, nets[0], results)
        print(f"report: {page}")
    return results


def load_networks(request: EvaluationRequest) -> list[network.Siamese]:
    """The run's network and those of the ensemble; a workdir of a pretrained network is made."""
    if request.pretrained:
        export.unpack(export.locate(request.pretrained), request.workdir)
    checkpoint = cli.checkpoint(request.checkpoint)
    return [
        network.load(path, checkpoint, request.num_devices, request.tta)
        for path in (request.workdir, *request.ensemble)
    ]


def evaluated_config(request: EvaluationRequest) -> ConfigDict:
    """The run's config, with the test data that the request names."""
    config = workdir.read_config(request.workdir)
    if request.test_data:
        with config.unlocked():
            config.test_data = {"name": request.test_data}
    return config


def load_data(request: EvaluationRequest, config: ConfigDict, net: network.Siamese) -> loading.Data:
    """The data that the run is evaluated on.

    The images are read at their own size, whatever the network's input: the trials, and so their
    hashes, are the same for every network and for the baselines. A config with a section `test_data`
    (of the fields of `data`) is evaluated on that data's test part, with its validation part and its
    runs; `data` is what was trained on.

    Args:
        request: which data, and where they are.
        config: of `evaluated_config`.
        net: the run's network.

    Raises:
        ValueError: other data than a run was trained on, or data that do not suit the network.
    """
    other_data = config.get("test_data") is not None
    trained_on_it = config.data.get("train_on_validation") and not other_data
    if trained_on_it and request.part in ("validation", "both"):
        raise ValueError(
            f"{net.name} was trained on the validation classes too (data.train_on_validation), so part="
            f"{request.part} says nothing of new ones"
        )
    if trained_on_it and {"verification", "open_set"} & set(request.protocols):
        _log.warning(
            "%s was trained on the validation classes too: thresholds and probabilities that are "
            "chosen on them do not hold for new classes",
            net.name,
        )
    data = _load(config.data, request.archives)
    _log.info("%s on %s", net.name, data.note)
    for path in (request.workdir, *request.ensemble):
        _check_trained_on(path, data)
    if other_data:
        data = _evaluated_on(data, _load(config.test_data, request.test_archives), net)
        _log.info("evaluated on %s", data.note)
    elif request.test_archives:
        raise ValueError(
            f"test_archives is given, but {request.workdir} has no test_data in its config: name "
            "the data by test_data"
        )
    if request.part != "test":
        data = _part(data, request.part)
        _log.info("evaluated on %s", data.note)
    return data


def evaluation_data(
    request: EvaluationRequest, data: loading.Data, net: network.Siamese
) -> EvaluationData:
    """What the protocols run on: the data, and the pairs of the request read at the network's size."""
    pairs = None
    if request.pairs:
        pairs = pairs_csv.read_pairs(request.pairs, net.image_shape, net.kind)
    return EvaluationData(data.test, data.validation, data.train, data.runs, pairs)


def results_table(results: Iterable[Result]) -> str:
    """A text table, one line a result: trials, accuracy, both intervals and the trials' hash."""
    rows = []
    for r in results:
        plural = {"class": "classes"}.get(r.grouped_by, r.grouped_by + "s")
        groups = f"{len(r.per_group)} {r.grouped_by if len(r.per_group) == 1 else plural}"
        if r.trials.clusters:  # several groups are one cluster
            groups = f"{len(set(r.trials.clusters))} clusters"
        rows.append(
            [r.system, r.name, r.scope, str(r.n_way or "-"), str(r.k_shot or "-")]
            + [str(r.num_trials), f"{100 * r.accuracy:.2f}", interval_text(r.wilson, 100, 1)]
            + [f"{interval_text(r.clustered, 100, 1)} ({groups})", r.trial_hash, r.remark]
        )
    return cli.text_table(rows, _HEADER)


class _Job(NamedTuple):
    system: System
    protocols: Sequence[str]
    settings: Mapping
    images: EvaluationData


def _jobs(
    request: EvaluationRequest,
    nets: Sequence[network.Siamese],
    images: EvaluationData,
    settings: Mapping,
) -> dict[str, _Job]:
    """By name, each system that is evaluated and by what."""
    jobs = {nets[0].name: _Job(nets[0].system(), request.protocols, settings, images)}
    if request.ensemble:
        system = network.ensemble(nets)
        jobs[f"ensemble of {len(nets)}"] = _Job(system, request.protocols, settings, images)
    if not request.baselines:
        return jobs
    if settings["shot_aggregation"] in EMBEDDING_AGGREGATIONS:
        settings = {**settings, "shot_aggregation": DEFAULT_AGGREGATION}
    for name, baseline in (
        ("pixel 1-NN", baselines.pixel_nearest_neighbour),
        ("random", baselines.random_score(0)),
    ):
        jobs[name] = _Job(baseline, request.protocols, settings, images)
    if images.official is not None and "official" in request.protocols:
        alone = dataclasses.replace(images, pairs=None)
        jobs["modified Hausdorff"] = _Job(
            baselines.modified_hausdorff, ["official"], settings, alone
        )
    return jobs


def _save(
    request: EvaluationRequest, config: ConfigDict, settings: Mapping, results: Results
) -> None:
    """Writes `results.json` and the saved evaluation of the test part, and the record."""
    training, evaluation = workdir.read_start(request.workdir), workdir.provenance()
    summary = {
        "config": workdir.plain(config),
        "training": training,
        "evaluation": evaluation,
        "settings": settings,
        "results": [r.to_dict() for by in results.values() for r in by.values()],
    }
    if request.part == "test":
        path = pathlib.Path(request.workdir)
        files.replace_file(path / saved.FILE, lambda file: saved.write(file, results))
        files.replace_json(path / "results.json", summary)
    if request.record:
        shown, (training, evaluation) = workdir.without_places(config, [training, evaluation])
        summary |= {
            "config": shown,
            "training": training,
            "evaluation": evaluation,
            "results": [{name: row[name] for name in _RECORDED} for row in summary["results"]],
        }
        files.replace_json(pathlib.Path(request.record), summary)


def _load(section: ConfigDict, archives: str | None) -> loading.Data:
    """The data of a section of a config, at their own size."""
    fields = section.to_dict()
    if fields["name"] != "folder":  # whose pictures may be of many sizes
        fields["image_size"] = None
    if archives:
        fields["archives"] = archives
    return loading.load(fields)


def _check_trained_on(path: str | pathlib.Path, data: loading.Data) -> None:
    """Refuses a run that has other training data than these."""
    start = workdir.read_start(path)
    if source := start.get("source_fingerprint"):  # resizing all pictures would take seconds
        same = data.fingerprint == source
    else:
        size = workdir.read_config(path).data.get("image_size")
        same = data.resized(size).fingerprint == start["data_fingerprint"]
    if not same:
        raise ValueError(
            f"{path} was trained on other data ({start['data']}) than those of its config now "
            f"({data.note})"
        )


def _part(data: loading.Data, part: str) -> loading.Data:
    """The data with another of `PARTS` in place of the test part."""
    if part == "rotated":
        rotated = splits.with_rotations(data.test)
        note = f"{data.note}, {rotated.num_classes} classes with their quarter turns"
        return dataclasses.replace(data, test=rotated, runs=None, note=note)
    evaluated = data.validation
    if part == "both":
        evaluated = splits.joined(data.validation, data.test, f"{data.test.name} and validation")
    note = f"{data.note}, {evaluated.num_classes} classes of which those of validation chose"
    return dataclasses.replace(data, test=evaluated, runs=None, note=note)


def _evaluated_on(data: loading.Data, other: loading.Data, net: network.Siamese) -> loading.Data:
    """Training images of `data`; the rest of `other`, whose images must suit the network."""
    shape, kind = other.test.image_shape, other.test.kind
    if not (other.test.has_pictures and net.has_pictures):
        # vectors are standardised by the training part of their own set
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
