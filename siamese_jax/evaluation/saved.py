"""A finished evaluation as a file, from which its results are read again as they were."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from typing_extensions import TypedDict

from siamese_jax.data.image_set import ImageSet, StreamedImages
from siamese_jax.evaluation.lists import OpenSet, Retrieval, TrialList, Trials, VerificationPairs
from siamese_jax.evaluation.protocols.protocol import EvaluationData
from siamese_jax.evaluation.protocols.result import Result
from siamese_jax.evaluation.trials import official_trials
from siamese_jax.readers import parse_json, read_npz
from siamese_jax.runs import digests

FILE = "evaluation.npz"

_LISTS = {cls.__name__: cls for cls in (Trials, VerificationPairs, Retrieval, OpenSet)}
_ARRAYS = ("scores", "correct")  # of a result
_INDEX, _DIGEST = "index", "digest"
_MARKS = ({"tuple"}, {"number"}, {"mapping"})
_BYTES = 2**32  # of all arrays


class _Row(TypedDict):
    by: list[str]
    list: int
    fields: dict[str, Any]


class _Index(TypedDict):
    lists: list[dict[str, Any]]
    results: list[_Row]


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
    arrays[_INDEX] = np.frombuffer(index.encode(), np.uint8)
    arrays[_DIGEST] = np.asarray(digests.of_arrays(arrays))
    np.savez_compressed(file, **arrays)


def read(workdir: str | pathlib.Path, data: EvaluationData) -> dict[str, dict[str, Result]]:
    """Reads the results that were written to the file `FILE` of a workdir.

    Args:
        workdir: the folder.
        data: the images that were evaluated on.

    Returns:
        Results by system and key, each equal to what was written in every field.

    Raises:
        ValueError: there is no saved evaluation, it is damaged, or it was made on other images.
    """
    path = pathlib.Path(workdir) / FILE
    try:
        arrays = read_npz(path, _BYTES)
        recorded = str(arrays.pop(_DIGEST))
        if recorded != digests.of_arrays(arrays):
            raise ValueError("its content is not what was written")
        index = _untagged(parse_json(arrays.pop(_INDEX).tobytes(), _INDEX, _Index))
    except FileNotFoundError:
        raise ValueError(f"{workdir} holds no {FILE}: evaluate the run first") from None
    except KeyError as error:
        raise ValueError(
            f"{path} holds no saved evaluation of this version (it has no {error}): evaluate again"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path} holds no saved evaluation, or is damaged ({error}): evaluate again"
        ) from None
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
    """The value with tuples, which JSON does not tell from lists, and what is not finite marked.

    A mapping that looks like a mark is marked itself.
    """
    if isinstance(value, Mapping):
        fields = {key: _tagged(x) for key, x in value.items()}
        return {"mapping": fields} if fields.keys() in _MARKS else fields
    if isinstance(value, tuple):
        return {"tuple": [_tagged(x) for x in value]}
    if isinstance(value, float | np.floating) and not np.isfinite(value):
        return {"number": str(float(value))}
    return [_tagged(x) for x in value] if isinstance(value, list) else value


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tuple"}:
            return tuple(_untagged(x) for x in value["tuple"])
        if value.keys() == {"number"}:
            return float(value["number"])
        if value.keys() == {"mapping"} and value["mapping"].keys() in _MARKS:
            value = value["mapping"]
        return {key: _untagged(x) for key, x in value.items()}
    return [_untagged(x) for x in value] if isinstance(value, list) else value
