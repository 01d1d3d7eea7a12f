"""A finished evaluation as a file, from which its results are read again as they were."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from siamese_jax.data.image_set import ImageSet, StreamedImages
from siamese_jax.evaluation.lists import OpenSet, Retrieval, TrialList, Trials, VerificationPairs
from siamese_jax.evaluation.protocols.protocol import EvaluationData
from siamese_jax.evaluation.protocols.result import Result
from siamese_jax.evaluation.trials import official_trials

FILE = "evaluation.npz"

_LISTS = {cls.__name__: cls for cls in (Trials, VerificationPairs, Retrieval, OpenSet)}
_ARRAYS = ("scores", "correct")  # of a result


def write(file: BinaryIO, results: Mapping[str, Mapping[str, Result]]) -> None:
    """Writes all fields of results, and of their lists of trials all but the images.

    Args:
        file: to write to; a workdir's is named `FILE`.
        results: of `run_protocols`, by the name of the system.
    """
    arrays: dict[str, Any] = {}
    lists: list[dict] = []
    rows: list[dict] = []
    numbers: dict[tuple, int] = {}
    for system, by_key in results.items():
        for key, result in by_key.items():
            trials = result.trials
            identity = (type(trials).__name__, trials.name, trials.scope, trials.hash)
            if identity not in numbers:
                numbers[identity] = len(lists)
                fields = {"type": identity[0]}
                for name, value in _fields(trials).items():
                    if isinstance(value, np.ndarray):
                        arrays[f"list{len(lists)}/{name}"] = value
                    else:
                        fields[name] = value
                lists.append(fields)
            arrays |= {f"result{len(rows)}/{name}": getattr(result, name) for name in _ARRAYS}
            fields = {k: v for k, v in _fields(result).items() if k not in (*_ARRAYS, "trials")}
            rows.append({"by": [system, key], "list": numbers[identity], "fields": fields})
    index = json.dumps(_tagged({"lists": lists, "results": rows}), default=lambda x: x.item())
    np.savez_compressed(file, index=np.frombuffer(index.encode(), np.uint8), **arrays)


def read(workdir: str | pathlib.Path, data: EvaluationData) -> dict[str, dict[str, Result]]:
    """Reads the results that were written to the file `FILE` of a workdir.

    Args:
        workdir: the folder.
        data: the images that were evaluated on.

    Returns:
        Results by system and key, each equal to what was written in every field.

    Raises:
        ValueError: there is no saved evaluation, or it was made on other images.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        raise ValueError(f"{workdir} holds no {FILE}: evaluate the run first")
    try:
        with np.load(path) as file:
            arrays = dict(file)
        index = _untagged(json.loads(arrays.pop("index").tobytes()))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no saved evaluation ({error})") from None
    images = _images_by_fingerprint(data)
    lists: list[TrialList] = []
    for number, fields in enumerate(index["lists"]):
        cls = _LISTS[fields.pop("type")]
        if fields["fingerprint"] not in images:
            raise ValueError(
                f"{path}: {fields['name']!r} was evaluated on other images than are given; give "
                "the data of the evaluation, or evaluate again"
            )
        lists.append(
            cls(images=images[fields["fingerprint"]], **_part(arrays, f"list{number}/"), **fields)
        )
    results: dict[str, dict[str, Result]] = {}
    for number, row in enumerate(index["results"]):
        system, key = row["by"]
        results.setdefault(system, {})[key] = Result(
            trials=lists[row["list"]], **_part(arrays, f"result{number}/"), **row["fields"]
        )
    return results


def _fields(instance: Result | TrialList) -> dict:
    """Values by field, without copies; without the images of a list."""
    names = (field.name for field in dataclasses.fields(instance))
    return {name: getattr(instance, name) for name in names if name != "images"}


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _images_by_fingerprint(data: EvaluationData) -> dict[str, np.ndarray | StreamedImages]:
    sources: list[ImageSet | TrialList | None]
    sources = [data.test, data.validation, data.train, data.pairs]
    if data.official is not None:
        sources.append(official_trials(data.official))
    return {source.fingerprint: source.images for source in sources if source is not None}


def _tagged(value: Any) -> Any:
    """The value with its tuples marked, which JSON does not tell from lists."""
    if isinstance(value, Mapping):
        return {key: _tagged(x) for key, x in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [_tagged(x) for x in value]}
    return [_tagged(x) for x in value] if isinstance(value, list) else value


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tuple"}:
            return tuple(_untagged(x) for x in value["tuple"])
        return {key: _untagged(x) for key, x in value.items()}
    return [_untagged(x) for x in value] if isinstance(value, list) else value
