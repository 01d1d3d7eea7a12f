"""The configs of `configs/`, as commands read them."""

import pathlib
import runpy

ROOT = pathlib.Path(__file__).resolve().parents[1]


def read_config(value):
    """What `--config=VALUE` gives in the project's folder: `configs/NAME.py`, perhaps with `:ARG`."""
    path, _, arg = value.partition(":")
    return runpy.run_path(str(ROOT / path))["get_config"](arg)


def get_config(name, arg=""):
    """What `--config=configs/NAME.py:ARG` gives."""
    return read_config(f"configs/{name}.py:{arg}")
