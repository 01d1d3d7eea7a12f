"""Fields of a config by dotted names, such as `optim.learning_rate` or `optim.rules.0.momentum`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from siamese_jax.runs import workdir
from siamese_jax.training import optim


def get_field(config: Mapping, dotted: str) -> Any:
    """The value of a dotted field.

    Args:
        config: as a plain dict.
        dotted: names joined by dots; after a list a position, or after one of `optim.rules` the name
            of a field of `optim.Rule`.

    Raises:
        ValueError: the config has no such field; the line names those with similar names.
    """
    value: Any = config
    for name in dotted.split("."):
        try:
            value = value[_key(value, name)]
        except (KeyError, IndexError, ValueError, TypeError):
            fields = list(workdir.flatten(config))
            near = difflib.get_close_matches(dotted, fields, n=3) or [
                field for field in fields if field.endswith(f".{name}")
            ]
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"the config has no field {dotted!r} ({name!r} is not there){hint}"
            ) from None
    return value


def with_fields(config: Mapping, fields: Mapping[str, Any]) -> dict:
    """A copy of a plain config in which dotted fields have other values; a last name may be new.

    Raises:
        ValueError: the config has no such part, see `get_field`.
    """
    changed = json.loads(json.dumps(config))
    for dotted, value in fields.items():
        path, _, last = dotted.rpartition(".")
        part = get_field(changed, path) if path else changed
        part[_key(part, last)] = value
    return changed


def _key(part: Any, name: str) -> str | int:
    if not isinstance(part, list):
        return name
    return int(name) if name.isdigit() else optim.Rule._fields.index(name)
