"""A trained network as one small file, and the networks that come with the package.

The file is an NPZ: every parameter and statistic as float16 under its path, and the run's config,
provenance and log as JSON. Unpacked it is the folder of a run, which can be evaluated and reported; it
has no checkpoints, so its training cannot be resumed.
"""

from __future__ import annotations

import difflib
import json
import pathlib
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from siamese_jax.runs import calibrations, checkpoints, files, workdir

FILE = "weights.npz"  # in an unpacked workdir
_FOLDER = pathlib.Path(__file__).parent / "pretrained"
_RECORDS = ("config", "provenance", "metrics", "step")
CALIBRATIONS = "calibrations"  # a further record; a file may lack it


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
        config: of the run, without the folders that it named.
        provenance: one record a start of the run.
        metrics: rows of its log.
        step: of the checkpoint.
        variables: `params` and `batch_stats`, float32.
        calibrations: fields of its calibrations by name, see `calibrations`.
    """

    config: ml_collections.ConfigDict
    provenance: list[dict]
    metrics: list[dict]
    step: int
    variables: Mapping[str, Any]
    calibrations: Mapping[str, Mapping] = {}


def pretrained() -> list[str]:
    """Names of the networks that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.npz"))


def locate(name: str | pathlib.Path) -> pathlib.Path:
    """The file of a network, by its path or by the name of one that comes with the package.

    Raises:
        ValueError: neither a file nor such a name.
    """
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    names = pretrained()
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1) or names
        raise ValueError(
            f"{name} is neither a file nor a network that comes with the package; there is "
            f"{', '.join(near)}"
        )
    return _FOLDER / f"{name}.npz"


def export(
    path: str | pathlib.Path, file: str | pathlib.Path, checkpoint: str | int = "best"
) -> None:
    """Writes the network of a run as one file.

    Args:
        path: workdir of the run.
        file: to write, whole or not at all.
        checkpoint: `best` by validation, `latest`, or a step.

    Raises:
        ValueError: the folder holds no run, or not that checkpoint; or a number that float16 cannot
            hold.
    """
    config, starts = workdir.without_places(
        workdir.read_config(path), workdir.read_provenance(path)
    )
    config.pop("search_space", None)
    step, variables = checkpoints.read_variables(path, config["keep_best"], checkpoint)
    records = {
        CALIBRATIONS: calibrations.read(path, step),
        "config": config,
        "provenance": starts,
        "metrics": workdir.read_metrics(path),
        "step": step,
    }
    arrays = {}
    for place, x in jax.tree_util.tree_leaves_with_path(variables):
        name = jax.tree_util.keystr(place, simple=True, separator="/")
        with np.errstate(over="ignore"):
            arrays[name] = np.asarray(x, np.float16)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has numbers that float16 cannot hold")
    texts = {name: json.dumps(value) for name, value in records.items()}
    files.replace_file(file, lambda stream: np.savez_compressed(stream, **texts, **arrays))


def calibrate(file: str | pathlib.Path, name: str, fields: Mapping) -> None:
    """Writes a calibration into a file of a network; one of the same name is replaced.

    Args:
        file: of `export`.
        name: `pictures` or `drawings`.
        fields: of the calibration.

    Raises:
        ValueError: no such file, or one that `export` did not write.
    """
    calibrated = {**read(file).calibrations, name: dict(fields)}
    with np.load(file, allow_pickle=False) as npz:
        arrays = {key: npz[key] for key in npz.files}
    arrays[CALIBRATIONS] = json.dumps(calibrated)
    files.replace_file(file, lambda stream: np.savez_compressed(stream, **arrays))


def read(file: str | pathlib.Path) -> Weights:
    """Reads what `export` wrote.

    Raises:
        ValueError: no such file, or one that `export` did not write.
    """
    try:
        with np.load(file, allow_pickle=False) as npz:
            records = [json.loads(str(npz[name])) for name in _RECORDS]
            calibrated = json.loads(str(npz[CALIBRATIONS])) if CALIBRATIONS in npz.files else {}
            others = (*_RECORDS, CALIBRATIONS)
            arrays = {name: npz[name] for name in npz.files if name not in others}
    except FileNotFoundError:
        raise ValueError(f"no such file {file}") from None
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} holds no weights of a network ({error})") from None
    variables: dict = {"params": {}, "batch_stats": {}}
    for name, x in arrays.items():
        *parents, leaf = name.split("/")
        part = variables
        for parent in parents:
            part = part.setdefault(parent, {})
        part[leaf] = x.astype(np.float32)
    config, *others = records
    return Weights(ml_collections.ConfigDict(config).lock(), *others, variables, calibrated)


def unpack(file: str | pathlib.Path, path: str | pathlib.Path) -> None:
    """Makes a workdir of a file; one that was unpacked from the same file stays as it is.

    Raises:
        ValueError: the file holds no weights, or the folder holds another run.
    """
    path, weights = pathlib.Path(path), read(file)
    copy = path / FILE
    if (path / "config.json").exists():
        if copy.exists() and copy.read_bytes() == pathlib.Path(file).read_bytes():
            return
        raise ValueError(f"{path} holds another run: choose another workdir")
    path.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)
    lines = "".join(json.dumps(row) + "\n" for row in weights.metrics)
    (path / "metrics.jsonl").write_text(lines)
    (path / "provenance.json").write_text(json.dumps(weights.provenance, indent=1) + "\n")
    # Last, since a folder with a config is a run.
    config = json.dumps(workdir.plain(weights.config), indent=1)
    files.replace_text(path / "config.json", config + "\n")
