"""A trained network as one safetensors file: float32 parameters, and the run's records as metadata."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from siamese_jax import files, readers
from siamese_jax.runs import checkpoints, digests
from siamese_jax.runs.export import DIGEST, TEXTS, Weights, nested

SUFFIX = ".safetensors"


def write(file: str | pathlib.Path, weights: Weights) -> None:
    """Writes a network, whole or not at all.

    Every parameter and statistic keeps its path as name, such as `params/encoder/conv1/kernel`. The
    metadata hold the config, provenance, metrics, step and calibrations, each as JSON.

    Args:
        file: to write.
        weights: the network and its records.
    """
    import safetensors.numpy

    arrays = {
        name: np.asarray(x, np.float32, order="C")
        for name, x in checkpoints.by_path(weights.variables).items()
    }
    metadata = weights.texts()
    metadata[DIGEST] = _digest(metadata, arrays)
    files.replace_bytes(file, safetensors.numpy.save(arrays, {"format": "np", **metadata}))


def read(file: str | pathlib.Path) -> Weights:
    """Reads what `write` wrote.

    Raises:
        ValueError: no such file, one that `write` did not write, or no library that reads it.
    """
    safetensors = readers.safetensors_library(file)
    if not pathlib.Path(file).is_file():
        raise ValueError(f"no such file {file}")
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            metadata = {name: opened.metadata()[name] for name in (*TEXTS, DIGEST)}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if metadata.pop(DIGEST) != _digest(metadata, arrays):
            raise ValueError("its content is not what was written")
        records = {name: json.loads(text) for name, text in metadata.items()}
        variables = nested(arrays)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} holds no network of this package, or is damaged ({error})"
        ) from None
    return Weights.of(records, variables)


def _digest(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the records and of the arrays."""
    return digests.of_json([dict(metadata), digests.of_arrays(arrays)])
