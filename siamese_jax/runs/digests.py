"""Digests of arrays and of JSON, by which what is read is checked against what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def of_array(x: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{x.dtype} {x.shape} ".encode())
    digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays by name, in whatever order they come."""
    return of_json({name: of_array(x) for name, x in arrays.items()})


def of_json(value: Any) -> str:
    """SHA-256 of what JSON can hold; the order of the keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
