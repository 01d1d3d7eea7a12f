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
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from typing_extensions import TypedDict

from siamese_jax import files, readers
from siamese_jax.readers import read_npz
from siamese_jax.runs import calibrations, checkpoints, digests, workdir

FILE = "weights.npz"  # in an unpacked workdir
_FOLDER = pathlib.Path(__file__).parent / "pretrained"
_RECORDS = ("config", "provenance", "metrics", "step")  # of a run, in the order of `Weights`
_CALIBRATIONS = "calibrations"
TEXTS = (*_RECORDS, _CALIBRATIONS)  # the fields of `Weights` that are written as JSON
DIGEST = "digest"


class _Start(TypedDict):
    image_shape: list[int]
    kind: str


class _Records(TypedDict):
    config: dict[str, Any]
    provenance: list[_Start]
    metrics: list[dict[str, Any]]
    step: int
    calibrations: dict[str, dict[str, Any]]


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

    def texts(self) -> dict[str, str]:
        """All fields but the variables as JSON."""
        fields = {**self._asdict(), "config": workdir.plain(self.config)}
        return {name: json.dumps(fields[name]) for name in TEXTS}

    @classmethod
    def of(cls, fields: Mapping[str, Any], variables: Mapping[str, Any]) -> Weights:
        """The weights of what `texts` gave, read again, and of their variables."""
        config = ml_collections.ConfigDict(fields["config"]).lock()
        return cls(**{**fields, "config": config}, variables=variables)


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
    if str(name) not in names:
        near = difflib.get_close_matches(str(name), names, n=1) or names
        raise ValueError(
            f"{name} is neither the folder of a run, nor a file, nor a network of the package, which "
            f"has {', '.join(near)}"
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
    weights = read_run(path, checkpoint)
    arrays = {}
    for name, x in checkpoints.by_path(weights.variables).items():
        with np.errstate(over="ignore"):
            arrays[name] = np.asarray(x, np.float16)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has numbers that float16 cannot hold")
    write(file, weights.texts(), arrays)


def write(file: str | pathlib.Path, texts: Mapping[str, str], arrays: Mapping) -> None:
    """Writes the records, as JSON, and the arrays of a network with the digest of them all."""
    content = {**arrays, **{name: np.asarray(text) for name, text in texts.items()}}
    content[DIGEST] = np.asarray(digests.of_arrays(content))
    files.replace_file(file, lambda stream: np.savez_compressed(stream, **content))


def read_run(path: str | pathlib.Path, checkpoint: str | int = "best") -> Weights:
    """Reads the network of a run from its checkpoints.

    Args:
        path: workdir of the run.
        checkpoint: `best` by validation, `latest`, or a step.

    Raises:
        ValueError: the folder holds no run, or not that checkpoint.
    """
    run_config = workdir.read_config(path)
    run = workdir.identity(run_config, workdir.read_start(path))
    step, variables = checkpoints.read_variables(path, checkpoint, run)
    config, starts = workdir.without_places(run_config, workdir.read_provenance(path))
    config.pop("search_space", None)
    config = ml_collections.ConfigDict(config).lock()
    calibrated = calibrations.read(path, step)
    return Weights(config, starts, workdir.read_metrics(path), step, variables, calibrated)


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
    arrays = {key: x for key, x in read_npz(file).items() if key != DIGEST}
    write(file, {_CALIBRATIONS: json.dumps(calibrated)}, arrays)


def read(file: str | pathlib.Path) -> Weights:
    """Reads what `export` wrote.

    Raises:
        ValueError: no such file, or one that `export` did not write.
    """
    try:
        arrays = read_npz(file)
        missing = [name for name in _RECORDS if name not in arrays]
        if missing:  # an NPZ of something else, such as a gallery
            raise KeyError(missing[0])
        recorded = str(arrays.pop(DIGEST))
        if recorded != digests.of_arrays(arrays):
            raise ValueError("its content is not what was written")
        texts = {name: str(arrays.pop(name)) for name in _RECORDS}
        texts[_CALIBRATIONS] = str(arrays.pop(_CALIBRATIONS, "{}"))
        records = {name: json.loads(text) for name, text in texts.items()}
        readers.fitting(records, _Records, "its records")
        if not records["provenance"]:
            raise ValueError("its provenance is empty")
        variables = nested(arrays)
    except FileNotFoundError:
        raise ValueError(f"no such file {file}") from None
    except KeyError as error:
        raise ValueError(f"{file} holds no weights of a network (it has no {error})") from None
    except ValueError as error:
        raise ValueError(f"{file} holds no weights of a network, or is damaged ({error})") from None
    return Weights.of(records, variables)


def nested(arrays: Mapping[str, np.ndarray]) -> dict:
    """The variables of a network, float32, from arrays under their paths `params/.../kernel`.

    Raises:
        ValueError: an array of something else than floats, or a path that is part of another one.
    """
    variables: dict = {"params": {}, "batch_stats": {}}
    for name, x in arrays.items():
        *parents, leaf = name.split("/")
        part = variables
        for parent in parents:
            part = part.setdefault(parent, {}) if isinstance(part, dict) else part
        if x.dtype.kind != "f" or not isinstance(part, dict) or leaf in part:
            raise ValueError(
                f"{name} holds {x.dtype}, or its path is part of another's; expected floats"
            )
        part[leaf] = x.astype(np.float32)
    return variables


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
    files.replace_text(path / "metrics.jsonl", workdir.log_text(weights.metrics))
    files.replace_json(path / "provenance.json", weights.provenance)
    # Last, since a folder with a config is a run.
    files.replace_json(path / "config.json", workdir.plain(weights.config))
