"""The config of a run that was made before, read from the JSON file that recorded it.

    python launch/train.py --config=configs/recorded.py:runs/quickstart/config.json --workdir=runs/again

Takes the `config.json` of a workdir, or a file of `results/` (its field `config`).
"""

import json

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The config; `arg` is the path of the JSON file."""
    if not arg:
        raise ValueError("configs/recorded.py needs a file: --config=configs/recorded.py:FILE.json")
    with open(arg) as file:
        fields = json.load(file)
    return ml_collections.ConfigDict(_value(fields.get("config", fields))).lock()


def _value(value):
    """Lists become tuples again, and an empty field one that can be set by a flag."""
    if isinstance(value, dict):
        return {name: _value(item) for name, item in value.items()}
    if isinstance(value, list):
        return tuple(_value(item) for item in value)
    return placeholder(str) if value is None else value
