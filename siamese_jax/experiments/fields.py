"""Fields of a config by dotted names, such as `optim.learning_rate` or `optim.rules.0.momentum`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from siamese_jax.runs import workdir
from siamese_jax.training import optim


def get_field(config: Mapping, dotted: str) -> Any:
    """The value of a dotted field.

    Args:
        config: as a plain dict.
        dotted: names joined by dots; after a list a position, or after one of `optim.rules` the name
            of a field of `optim.Rule`, or of `optim.L2Rule` where the optimiser takes those.

    Raises:
        ValueError: the config has no such field; the line names those with similar names.
    """
    value: Any = config
    names = dotted.split(".")
    for i, name in enumerate(names):
        try:
            value = value[_key(config, names[:i], value, name)]
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
        if isinstance(part, list):  # which takes no new entry
            get_field(changed, dotted)
        part[_key(changed, path.split("."), part, last)] = value
    return changed


def _key(config: Mapping, path: Sequence[str], part: Any, name: str) -> str | int:
    """The key of a name in the part of a config that lies at a path.

    Raises:
        ValueError: a list has no entry of that name.
    """
    if not isinstance(part, list):
        return name
    if name.isdecimal():
        return int(name)
    if list(path[:-1]) != ["optim", "rules"]:
        raise ValueError(f"a list has no {name!r}")
    rule = optim.Rule if config["optim"]["name"] == "layerwise" else optim.L2Rule
    return rule._fields.index(name)
