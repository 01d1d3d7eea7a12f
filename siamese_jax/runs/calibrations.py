"""The calibrations of a run's checkpoint: `calibrations.json` in its folder.

A calibration says what a score means (see `evaluation.calibration`). Here it is a mapping of its fields.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from siamese_jax import files, readers

FILE = "calibrations.json"


class _Content(TypedDict):
    step: int
    calibrations: dict[str, dict[str, Any]]


def read(workdir: str | pathlib.Path, step: int) -> dict[str, dict]:
    """The calibrations of a checkpoint by name; none where they are of another checkpoint.

    Raises:
        ValueError: a damaged file.
    """
    path = pathlib.Path(workdir) / FILE
    try:
        content = readers.read_json(path, _Content)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{error}, or remove it and calibrate again") from None
    return content["calibrations"] if content["step"] == step else {}


def write(workdir: str | pathlib.Path, step: int, name: str, fields: Mapping) -> None:
    """Adds a calibration of a checkpoint; those of another checkpoint are dropped."""
    content = {"step": step, "calibrations": {**read(workdir, step), name: dict(fields)}}
    files.replace_json(pathlib.Path(workdir) / FILE, content)
