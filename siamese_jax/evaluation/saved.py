"""A finished evaluation as a file, from which its results are read again as they were."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from siamese_jax.evaluation.lists import OpenSet, Retrieval, TrialList, Trials, VerificationPairs
from siamese_jax.evaluation.protocols.protocol import EvaluationData
from siamese_jax.evaluation.protocols.result import Result
from siamese_jax.evaluation.trials import official_trials

FILE = "evaluation.npz"

_LISTS = {cls.__name__: cls for cls in (Trials, VerificationPairs, Retrieval, OpenSet)}
_ARRAYS = ("scores", "correct")  # of a result


def write(workdir: str | pathlib.Path, results: Mapping[str, Mapping[str, Result]]) -> pathlib.Path:
    """Writes results to `evaluation.npz` in a workdir, in place of what is there.

    The file holds all fields of the results and of their lists of trials but the images.

    Args:
        workdir: an existing folder.
        results: of `run_protocols`, by the name of the system.

    Returns:
        The file.
    """
    arrays, lists, rows, numbers = {}, [], [], {}
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
    target = pathlib.Path(workdir) / FILE
    part = target.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez_compressed(file, index=np.frombuffer(index.encode(), np.uint8), **arrays)
    part.replace(target)
    return target


def read(workdir: str | pathlib.Path, data: EvaluationData) -> dict[str, dict[str, Result]]:
    """Reads the results that `write` wrote.

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
    lists = []
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
    results = {}
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


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _images_by_fingerprint(data: EvaluationData) -> dict[str, np.ndarray]:
    sources = [data.test, data.validation, data.train, data.pairs]
    if data.official is not None:
        sources.append(official_trials(data.official))
    return {source.fingerprint: source.images for source in sources if source is not None}


def _tagged(value):
    """The value with its tuples marked, which JSON does not tell from lists."""
    if isinstance(value, Mapping):
        return {key: _tagged(x) for key, x in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [_tagged(x) for x in value]}
    return [_tagged(x) for x in value] if isinstance(value, list) else value


def _untagged(value):
    if isinstance(value, dict):
        if value.keys() == {"tuple"}:
            return tuple(_untagged(x) for x in value["tuple"])
        return {key: _untagged(x) for key, x in value.items()}
    return [_untagged(x) for x in value] if isinstance(value, list) else value
