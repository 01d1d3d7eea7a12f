"""A quick look at a data set: its counts, samples and duplicates, and what a training sees of it."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from siamese_jax import files
from siamese_jax.data import augment, duplicates, folder, loading
from siamese_jax.experiments import report
from siamese_jax.inference.devices import Devices
from siamese_jax.inference.embed import to_float
from siamese_jax.reporting import data_page, run_figures
from siamese_jax.reporting.data_page import Look
from siamese_jax.runs import workdir
from siamese_jax.training.experiment import Experiment

_PICTURES, _VIEWS = 6, 9  # that show the augmentation: pictures, and columns with the prepared one


def look(
    place: str | None = None,
    config: ConfigDict | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Look:
    """Gathers what the page of a data set shows.

    Args:
        place: a folder or zip of pictures, `tfds:NAME`, or the name of a built-in set; None for the
            data of the config. Without a config, broken files of a folder are left out and logged.
        config: of a training, to show what it sees; None for the data alone.
        data_dir: folder of prepared sets; None for the config's, or tfds's own.

    Raises:
        ValueError: neither a place nor a config, or what `loading.load` and `Experiment` refuse.
    """
    if place is None and config is None:
        raise ValueError("name a folder, a zip, tfds:NAME or a built-in set, or give a --config")
    fields = _fields_of(place) if place is not None else {}
    if data_dir is not None:
        fields["data_dir"] = os.fspath(data_dir)
    if config is None:
        data = loading.load({"skip_broken": True, **fields} if "path" in fields else fields)
    else:
        changed = ConfigDict(workdir.plain(config))
        changed.data.update(fields)
        config, fields = changed, dict(changed.data)
        data = loading.load(changed.data)
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    sizes = None
    if fields["name"] == "folder":
        sizes = folder.file_sizes(fields["path"])
    searched = dict(parts)
    if fields.get("train_on_validation"):  # its pictures are in the training part too
        del searched["validation"]
    seen = {} if config is None else _training(config, data)
    title = str(place or fields["name"])
    return Look(title, data.note, parts, duplicates.find(searched), sizes, **seen)


def write(shown: Look, path: str | os.PathLike) -> pathlib.Path:
    """Writes the page; returns its path.

    Raises:
        ValueError: its folder is not there.
    """
    path = pathlib.Path(path).expanduser()
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder for a page")
    files.replace_text(path, data_page.render(shown))
    return path


def _fields_of(place: str) -> dict[str, str]:
    """The fields of `data` that a word on the command line stands for."""
    built_in = set(loading.LOADERS) - {"folder", "vectors"}
    known = place.startswith(loading.TFDS) or place in built_in
    if known and not pathlib.Path(place).expanduser().exists():
        return {"name": place}
    if pathlib.Path(place).suffix in (".csv", ".npz"):
        return {"name": "vectors", "path": place}
    return {"name": "folder", "path": place}


def _training(config: ConfigDict, data: loading.Data) -> dict[str, Any]:
    """The fields of a `Look` that show the training."""
    experiment = Experiment.from_config(config, data=data, devices=Devices(1))
    training = report.preview(config, data)
    if training.pixels is None:  # vectors
        return {}
    train = experiment.train_set
    rows = np.linspace(0, len(train) - 1, min(_PICTURES, len(train))).round().astype(int)
    plain = to_float(jnp.asarray(train.images[rows]))
    keys = jax.random.split(jax.random.key(config.seed), (_VIEWS - 1, len(rows)))

    @jax.jit
    def one(keys: jax.Array, plain: jax.Array) -> jax.Array:
        turns = jnp.zeros(len(rows), jnp.int32)
        return augment.augment(keys, plain, turns, **experiment.augmentation)

    views = np.stack([np.asarray(plain), *(np.asarray(one(k, plain)) for k in keys)], 1)
    settings = [
        (name, str(value))
        for name, value in workdir.flatten(config).items()
        if name.startswith("augment.") or name in ("data.image_size", "objective.symmetries")
    ]
    return {
        "settings": settings,
        "views": views,
        "batch": run_figures.training_batch(training, experiment.kind),
    }
