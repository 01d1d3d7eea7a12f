"""The data of a run: one function from a plain mapping to image sets.

What needs tfds is imported where it is used: tfds is slow to import, and folders and glyphs do without.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from siamese_jax.data import folder, glyphs, splits, vectors
from siamese_jax.data.image_set import ImageSet
from siamese_jax.data.official_runs import OfficialRuns, make_runs

_log = logging.getLogger(__name__)

__all__ = ["DEFAULTS", "Data", "ImageSet", "OfficialRuns", "load", "make_runs"]

SPLITS = ("lake", "koch", "vinyals", "rows")
DEFAULTS: Mapping[str, Any] = {
    "name": "auto",  # one of LOADERS; auto: Omniglot if it can be had, else glyphs
    "data_dir": None,  # folder of prepared sets; None: tfds's own
    "archives": None,  # folder of Omniglot's three zips, or of MNIST's four gz files
    "path": None,  # of `folder`: the folder (or zip) of pictures; of `vectors`: the file
    "class_column": None,  # of `vectors` in a CSV; None: `class`, or the last without a header
    "stream": False,  # Omniglot's images to train on, or a folder's, are read from disk by batches
    "image_size": None,  # (height, width) in pixels; None: as the set has it; of vectors None
    "seed": 0,  # of the glyphs, of their runs, and of whatever is drawn for a split
    "split": "lake",  # lake, koch, vinyals, rows: see `splits`
    "train_alphabets": 0,  # of Omniglot's 30 so many train, drawn by `seed`; 0: all of them
    "train_on_validation": False,  # the classes that validate train too; none is left to choose by
    # Training, validation, test; whole numbers count classes (alphabets; images a class by rows).
    "fractions": (0.6, 0.2, 0.2),  # of glyphs, folders, vectors and a single tfds split
    "skip_broken": False,  # of a folder: leave out broken files and too small classes
    "tfds_image": "image",  # of `tfds:NAME`: the feature that holds the picture
    "tfds_label": "label",  # its class
    "tfds_alphabet": None,  # its superclass, if classes are to be split by one
    "tfds_splits": ("all",),  # one to be split by fractions, or training, validation and test
    "ink": False,  # of folders and tfds sets: dark ink on light paper
    "glyphs_alphabets": 20,
    # Least and largest number in an alphabet. Recipes have (20, 32), of `config.base`, so that every
    # alphabet is enough for 20-way trials. Published figures depend on both.
    "glyphs_characters": (18, 32),
    "glyphs_drawers": 20,
}
TFDS = "tfds:"  # before the name of a set of tfds's catalogue
_MNIST_PARTS = ("train[:50000]", "train[50000:]", "test")


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run trains, validates and tests on.

    Attributes:
        train: images to train on.
        validation: images to choose by; classes of their own, but for MNIST and a split by rows.
        test: images to report on; classes of their own, but for MNIST and a split by rows.
        runs: fixed one-shot runs of the test alphabets, or None where the set has none.
        note: one line that says what the data are and, for `auto`, why.
        standardisation: of vectors, what the three parts went through and new vectors must go
            through; it is of the training part. None for images.
        source_fingerprint: `fingerprint` before `load` resized the pictures. None where it did not, or
            where they are streamed.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    runs: OfficialRuns | None
    note: str
    standardisation: vectors.Standardisation | None = None
    source_fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the fingerprints of sets and runs."""
        parts = [self.train, self.validation, self.test] + ([self.runs] if self.runs else [])
        return hashlib.sha256("".join(p.fingerprint for p in parts).encode()).hexdigest()[:16]

    def resized(self, image_size: tuple[int, int] | None) -> Data:
        """The same data with every image resized to (height, width) pixels; None leaves them."""
        if image_size is None:
            return self
        return dataclasses.replace(
            self,
            train=self.train.resized(*image_size),
            validation=self.validation.resized(*image_size),
            test=self.test.resized(*image_size),
            runs=self.runs and self.runs.resized(*image_size),
        )


def load(config: Mapping[str, Any]) -> Data:
    """Loads the data that a mapping describes.

    Args:
        config: fields of `DEFAULTS` to change. For `auto`, Omniglot is taken when it is prepared,
            when archives are given (by `archives` or the environment variable
            SIAMESE_JAX_ARCHIVES), or when it can be downloaded; else the built-in glyphs. Archives
            that are not whole are an error all the same.

    Returns:
        The three image sets, resized if asked (vectors: standardised), and the runs.

    Raises:
        ValueError: an unknown field or value, or data that cannot be had or are damaged.
    """
    fields = _checked(config)
    load_raw = _load_tfds if fields["name"].startswith(TFDS) else LOADERS[fields["name"]]
    data = load_raw(fields)
    if fields["train_on_validation"]:
        data = _with_validation(data)
    resized = data.resized(fields["image_size"])
    if resized.train is not data.train and isinstance(data.train.images, np.ndarray):
        resized = dataclasses.replace(resized, source_fingerprint=data.fingerprint)
    _log.info("data: %s", resized.note)
    return resized


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of the data, with their defaults where none is given.

    Raises:
        ValueError: an unknown field or value, or fields that do not go together.
    """
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        near = difflib.get_close_matches(unknown[0], DEFAULTS, n=3) or list(DEFAULTS)
        raise ValueError(f"the data have no field {unknown[0]!r}; did you mean {', '.join(near)}?")
    fields = {**DEFAULTS, **config}
    size = fields["image_size"]
    if size is not None and [type(side) for side in np.atleast_1d(size).tolist()] != [int, int]:
        raise ValueError(f"data image_size must be (height, width) in pixels, got {size!r}")
    by_tfds = str(fields["name"]).startswith(TFDS)
    for key, choices in (("name", LOADERS), ("split", SPLITS)):
        if fields[key] not in choices and not (key == "name" and by_tfds):
            raise ValueError(f"data {key} must be one of {', '.join(choices)}, got {fields[key]!r}")
    name = fields["name"]
    if fields["stream"] and name not in ("auto", "omniglot", "folder"):
        raise ValueError(f"data stream goes with Omniglot and folders; {name!r} is held in memory")
    if fields["split"] == "vinyals" and (name != "omniglot" or fields["stream"]):
        raise ValueError(
            "data split 'vinyals' goes with Omniglot in memory: set data.name to 'omniglot' and "
            "data.stream to False"
        )
    if fields["train_alphabets"] and (name != "omniglot" or fields["split"] == "vinyals"):
        raise ValueError(
            "data train_alphabets goes with Omniglot split by alphabets: set data.name to 'omniglot' "
            "and data.split to 'lake' or 'koch'"
        )
    if fields["split"] == "koch" and name not in ("auto", "omniglot", "glyphs"):
        raise ValueError(
            f"data split 'koch' goes with Omniglot and glyphs, not with {name!r}: set data.split to "
            "'lake', which splits by data.fractions"
        )
    if fields["train_on_validation"] and (
        fields["stream"] or fields["split"] == "rows" or name in ("mnist", "vectors")
    ):
        raise ValueError(
            "data train_on_validation goes with pictures in memory whose validation classes are others "
            "than those that train: not with data.stream, data.split 'rows', 'mnist' or 'vectors'"
        )
    if fields["split"] == "rows" and name not in ("folder", "vectors") and not by_tfds:
        raise ValueError(f"data split 'rows' goes with folder, vectors and tfds, not with {name!r}")
    return fields


def _with_validation(data: Data) -> Data:
    """The data with the validation classes among those that train; they still validate."""
    if not all(isinstance(part.images, np.ndarray) for part in (data.train, data.validation)):
        raise ValueError(f"data train_on_validation needs the pictures in memory ({data.note})")
    train = splits.joined(data.train, data.validation, f"{data.train.name} and validation")
    note = f"{data.note}; the validation classes train too"
    return dataclasses.replace(data, train=train, note=note)


def _load_auto(fields: Mapping[str, Any]) -> Data:
    from siamese_jax.data import preparation

    try:
        return _load_omniglot(fields)
    except preparation.SourceUnavailable as error:
        data = _load_glyphs(fields)
        return dataclasses.replace(data, note=f"{data.note}; NOT OMNIGLOT: {error}")


def _load_omniglot(fields: Mapping[str, Any]) -> Data:
    from siamese_jax.data import omniglot

    builder = omniglot.prepare(fields["data_dir"], fields["archives"])
    background = omniglot.load_background(builder, fields["stream"])
    evaluation = omniglot.load_evaluation(builder)
    known = f"(archives {omniglot.fingerprint(builder)})"
    if fields["split"] == "vinyals":  # some characters of the official runs are trained on
        parts = splits.vinyals(background, evaluation)
        return Data(*parts, None, f"Omniglot, split vinyals {known}")
    split = {"lake": splits.lake, "koch": splits.koch}[fields["split"]]
    train, validation, test = split(background, evaluation)
    note = f"Omniglot, split {fields['split']} {known}"
    if fields["train_alphabets"]:
        train = splits.some_alphabets(train, fields["train_alphabets"], fields["seed"])
        note += f", trained on {', '.join(train.alphabet_names)}"
    return Data(train, validation, test, omniglot.load_runs(builder), note)


def _load_glyphs(fields: Mapping[str, Any]) -> Data:
    """The alphabets are split by fraction; the runs are of all drawers of the test alphabets."""
    seed = fields["seed"]
    images = glyphs.make_glyphs(
        seed,
        num_alphabets=fields["glyphs_alphabets"],
        characters=tuple(fields["glyphs_characters"]),
        num_drawers=fields["glyphs_drawers"],
    )
    parts = splits.by_fraction(images, seed, tuple(fields["fractions"]))
    n_way = min(20, int(parts[2].alphabet_count.max()))
    runs = make_runs(parts[2], seed, n_way=n_way)
    if fields["split"] == "koch":
        parts = splits.own_drawers(parts)
    note = (
        f"glyphs, the built-in set of {images.num_classes} invented characters of "
        f"{images.num_alphabets} alphabets (seed {seed}), split {fields['split']}"
    )
    return Data(*parts, runs, note)


def _load_mnist(fields: Mapping[str, Any]) -> Data:
    """All ten digits in each part: 50,000 images train, 10,000 validate, 10,000 test."""
    from siamese_jax.data import mnist

    builder = mnist.prepare(fields["data_dir"], fields["archives"])
    train, validation, test = (mnist.load_mnist(builder, part) for part in _MNIST_PARTS)
    return Data(train, validation, test, None, "MNIST")


def _load_folder(fields: Mapping[str, Any]) -> Data:
    path = fields["path"]
    if not path:
        raise ValueError("the data set 'folder' needs a path: a folder, or zip, of pictures")
    images = folder.load_folder(
        path,
        image_size=fields["image_size"],
        ink=fields["ink"],
        min_images=2,
        skip_broken=fields["skip_broken"],
        stream=fields["stream"] or None,
        data_dir=fields["data_dir"],
    )
    parts = _split(images, fields)
    note = (
        f"{images.name}, {len(images)} pictures of {images.num_classes} classes "
        f"({_split_note(fields)})"
    )
    return Data(*parts, None, note)


def _load_tfds(fields: Mapping[str, Any]) -> Data:
    """A set of tfds's catalogue, or any builder that is registered."""
    from siamese_jax.data import named

    sets = named.load(
        fields["name"].removeprefix(TFDS),
        tuple(fields["tfds_splits"]),
        fields["tfds_image"],
        fields["tfds_label"],
        fields["tfds_alphabet"],
        fields["image_size"],
        fields["ink"],
        fields["data_dir"],
    )
    if len(sets) == 3:
        train, validation, test = sets
        note = f"{fields['name']}, splits {', '.join(fields['tfds_splits'])}"
        return Data(train, validation, test, None, note)
    parts = _split(sets[0], fields)
    note = (
        f"{fields['name']}, {len(sets[0])} pictures of {sets[0].num_classes} classes "
        f"({_split_note(fields)})"
    )
    return Data(*parts, None, note)


def _load_vectors(fields: Mapping[str, Any]) -> Data:
    path = fields["path"]
    if not path:
        raise ValueError("the data set 'vectors' needs a path: a .csv or .npz file")
    rows = vectors.load_vectors(path, class_column=fields["class_column"], min_images=2)
    raw_parts = _split(rows, fields)
    standardisation = vectors.Standardisation.of(raw_parts[0])
    train, validation, test = (standardisation.of_set(part) for part in raw_parts)
    note = (
        f"{rows.name}, {len(rows)} vectors of {rows.image_shape[1]} features and "
        f"{rows.num_classes} classes ({_split_note(fields)})"
    )
    return Data(train, validation, test, None, note, standardisation)


def _split(images: ImageSet, fields: Mapping[str, Any]) -> splits.Parts:
    split = splits.by_rows if fields["split"] == "rows" else splits.by_fraction
    return split(images, fields["seed"], tuple(fields["fractions"]))


def _split_note(fields: Mapping[str, Any]) -> str:
    by = " by rows, the classes shared," if fields["split"] == "rows" else ""
    return f"split{by} with seed {fields['seed']}"


LOADERS: Mapping[str, Callable[[Mapping[str, Any]], Data]] = {
    "auto": _load_auto,
    "omniglot": _load_omniglot,
    "glyphs": _load_glyphs,
    "mnist": _load_mnist,
    "folder": _load_folder,
    "vectors": _load_vectors,
}
