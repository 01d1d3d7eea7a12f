"""Omniglot with alphabet, character and drawer kept, and Lake's 20 official one-shot runs."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from siamese_jax import files
from siamese_jax.data import archives as archives_lib
from siamese_jax.data import preparation, prepared_folder
from siamese_jax.data.image_set import ImageSet, StreamedImages
from siamese_jax.data.official_runs import OFFICIAL, OfficialRuns

_log = logging.getLogger(__name__)

ENVIRONMENT = "SIAMESE_JAX_ARCHIVES"
_PUBLIC = "https://github.com/brendenlake/omniglot/raw/master/python/"
DOWNLOADS = {  # URL, bytes, SHA-256
    archives_lib.BACKGROUND: (
        _PUBLIC + "images_background.zip",
        9464212,
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    archives_lib.EVALUATION: (
        _PUBLIC + "images_evaluation.zip",
        6462886,
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
    archives_lib.RUNS: (
        _PUBLIC + "one-shot-classification/all_runs.zip",
        352787,
        "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    ),
}
ROLES = ("drawing", "query", "support")
_SHAPE = (archives_lib.SIZE, archives_lib.SIZE, 1)
_DRAWING_FIELDS = {"alphabet": np.str_, "character": np.int32, "drawer": np.int32}
_RUN_FIELDS = {"alphabet": np.str_, **dict.fromkeys(("run", "role", "answer", "drawer"), np.int32)}


class OmniglotDrawers(tfds.core.GeneratorBasedBuilder):
    """Omniglot: splits `background`, `evaluation` and `runs`, in the order of their ids.

    Features of an example: `image` (105, 105, 1) uint8 with ink 1 and paper 0, `alphabet`,
    `character` (number in its alphabet, from 1), `drawer` (1-20). In `runs`, further: `run` (1-20),
    `role` (`query` or `support`), `item` (index in its role, from 0) and `answer` (index of the
    support of the same character); elsewhere these are 0, `drawing`, 0 and -1.

    The metadata keep the fingerprint and the checksum of the archives that the set was prepared from.
    """

    name = "omniglot_drawers"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    url_infos = None

    def __init__(
        self,
        *,
        contents: archives_lib.Contents | None = None,
        layout: archives_lib.Layout = archives_lib.OMNIGLOT,
        downloads: Mapping[str, tuple[str, int, str]] = DOWNLOADS,
        **kwargs: Any,
    ) -> None:
        """Makes the builder.

        Args:
            contents: archives already read, or None to download them.
            layout: what the archives must hold.
            downloads: (URL, size in bytes, SHA-256) of each archive.
            **kwargs: of `tfds.core.GeneratorBasedBuilder`.
        """
        self._contents = contents
        self._layout = layout
        self._downloads = downloads
        self.url_infos = preparation.url_infos(downloads)
        super().__init__(**{"file_format": preparation.FILE_FORMAT, **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten characters of 50 alphabets, each drawn by 20 people.",
            homepage="https://github.com/brendenlake/omniglot",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=_SHAPE,
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.BYTES,
                    ),
                    "alphabet": tfds.features.Text(),
                    "character": np.int32,
                    "drawer": np.int32,
                    "run": np.int32,
                    "role": tfds.features.ClassLabel(names=ROLES),
                    "item": np.int32,
                    "answer": np.int32,
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        contents = self._contents
        if contents is None:
            paths = preparation.download(dl_manager, self._downloads)
            contents = self._contents = archives_lib.read(paths, self._layout)
        self.info.metadata["fingerprint"] = contents.fingerprint
        self.info.metadata["checksum"] = contents.checksum
        return {
            "background": self._generate_examples(contents.background),
            "evaluation": self._generate_examples(contents.evaluation),
            "runs": self._generate_runs(contents.runs, contents.evaluation),
        }

    def download_and_prepare(self, **kwargs: Any) -> None:
        """As of tfds; what `_columns` would read off the records is kept beside them."""
        super().download_and_prepare(**kwargs)
        if self._contents is not None:
            for split in ("background", "evaluation"):
                preparation.keep(self, split, _columns_of(getattr(self._contents, split)))

    def _generate_examples(self, drawings: archives_lib.Drawings) -> Iterator[tuple[int, dict]]:
        characters, drawers = drawings.images.shape[:2]
        for key, (c, d) in enumerate(np.ndindex(characters, drawers)):
            yield (
                key,
                {
                    "image": drawings.images[c, d][..., None],
                    "alphabet": drawings.alphabets[c],
                    "character": drawings.numbers[c],
                    "drawer": d + 1,
                    "run": 0,
                    "role": "drawing",
                    "item": 0,
                    "answer": -1,
                },
            )

    def _generate_runs(
        self, runs: archives_lib.RunPictures, evaluation: archives_lib.Drawings
    ) -> Iterator[tuple[int, dict]]:
        key = 0
        roles = {
            "query": (runs.queries, runs.query_places),
            "support": (runs.supports, runs.support_places),
        }
        for run, item in np.ndindex(runs.answers.shape):
            for role, (images, places) in roles.items():
                c, d = places[run, item]
                yield (
                    key,
                    {
                        "image": images[run, item][..., None],
                        "alphabet": evaluation.alphabets[c],
                        "character": evaluation.numbers[c],
                        "drawer": d + 1,
                        "run": run + 1,
                        "role": role,
                        "item": item,
                        "answer": runs.answers[run, item] if role == "query" else item,
                    },
                )
                key += 1


def prepare(
    data_dir: str | os.PathLike | None = None,
    archives: str | os.PathLike | None = None,
    *,
    layout: archives_lib.Layout = archives_lib.OMNIGLOT,
    downloads: Mapping[str, tuple[str, int, str]] = DOWNLOADS,
) -> OmniglotDrawers:
    """Prepares Omniglot, unless it is prepared already.

    Sources, in this order: the folder `archives`; a set prepared before; the folder that the
    environment variable `SIAMESE_JAX_ARCHIVES` names; the public download. A prepared set that
    comes from other archives than those in `archives` is replaced.

    Args:
        data_dir: folder of the prepared sets; None for tfds's own.
        archives: folder that holds the three archives, or None.
        layout: what the archives must hold.
        downloads: (URL, size in bytes, SHA-256) of each archive.

    Returns:
        The builder of the prepared set.

    Raises:
        preparation.SourceUnavailable: no source, and the download failed.
        ValueError: archives that are not whole, or `data_dir` cannot be written.
    """
    root = prepared_folder.data_dir(data_dir)
    prepared = preparation.find_prepared(OmniglotDrawers, root)
    if prepared is None:
        archives = archives or os.environ.get(ENVIRONMENT)
    if archives:
        return _prepare_from(archives, root, prepared, layout)
    if prepared is not None:
        return prepared
    try:
        preparation.require_answers(downloads)
        return preparation.prepare(
            lambda folder: OmniglotDrawers(data_dir=folder, layout=layout, downloads=downloads),
            root,
        )
    except preparation.DownloadFailed as error:
        raise preparation.SourceUnavailable(
            f"Omniglot is not prepared in {root} and its download failed ({error}): give a folder "
            f"that holds {', '.join(archives_lib.FILES)} with --archives=FOLDER or {ENVIRONMENT}, "
            "or connect to the network, or use the built-in set 'glyphs'"
        ) from None


def _prepare_from(
    archives: str | os.PathLike,
    root: pathlib.Path,
    prepared: OmniglotDrawers | None,
    layout: archives_lib.Layout,
) -> OmniglotDrawers:
    """Prepares from a folder of archives, unless `prepared` came from the same contents."""
    paths = archives_lib.find(archives)
    if prepared is not None:
        checksum = archives_lib.checksum(paths)
        if prepared.info.metadata.get("checksum") == checksum:
            return prepared
        given = archives_lib.fingerprint(paths)
        kept = prepared.info.metadata.get("fingerprint", "unknown")
        if given == kept:
            _remember(checksum, prepared)
            return prepared
        _log.warning(
            "%s was prepared from other archives (%s) than those in %s (%s): preparing anew",
            prepared.data_dir,
            kept[:16],
            archives,
            given[:16],
        )
    _log.info("checking the archives in %s", archives)
    contents = archives_lib.read(paths, layout)
    return preparation.prepare(
        lambda folder: OmniglotDrawers(data_dir=folder, contents=contents, layout=layout),
        root,
        contents.fingerprint,
    )


def _remember(checksum: str, prepared: OmniglotDrawers) -> None:
    """Notes beside a prepared set which archives have its contents: the next start unpacks none."""
    metadata = {**prepared.info.metadata, "checksum": checksum}
    with contextlib.suppress(OSError):  # of a folder that is only to be read
        files.replace_json(pathlib.Path(prepared.data_dir) / "metadata.json", metadata)


def fingerprint(builder: OmniglotDrawers) -> str:
    """First 16 hexadecimal digits of the fingerprint of the archives behind a prepared set."""
    return builder.info.metadata.get("fingerprint", "unknown")[:16]


def load_background(builder: OmniglotDrawers, stream: bool = False) -> ImageSet:
    """The background set: 964 characters of 30 alphabets by 20 drawers; in memory, or streamed."""
    return _load(builder, "background", stream)


def load_evaluation(builder: OmniglotDrawers) -> ImageSet:
    """The evaluation set: 659 characters of 20 alphabets by 20 drawers."""
    return _load(builder, "evaluation")


def load_runs(builder: OmniglotDrawers) -> OfficialRuns:
    """Lake's official 20 runs of 20 queries against 20 supports."""
    columns = _columns(builder, "runs", _RUN_FIELDS)  # in the order of runs and items
    query, support = (columns["role"] == ROLES.index(role) for role in ("query", "support"))
    images, num_runs = _unpacked(columns["ink"]), int(columns["run"].max())
    shape = (num_runs, query.sum() // num_runs)
    queries, supports = (images[role].reshape(*shape, *_SHAPE) for role in (query, support))
    return OfficialRuns(
        queries=queries,
        supports=supports,
        answers=columns["answer"][query].reshape(shape),
        alphabets=tuple(columns["alphabet"][query].reshape(shape)[:, 0].tolist()),
        query_drawers=columns["drawer"][query].reshape(shape)[:, 0],
        support_drawers=columns["drawer"][support].reshape(shape)[:, 0],
        name=OFFICIAL,
    )


def _load(builder: OmniglotDrawers, split: str, stream: bool = False) -> ImageSet:
    """One image set from a split whose examples come sorted by alphabet, character, drawer."""
    images: np.ndarray | StreamedImages
    columns = _columns(builder, split, _DRAWING_FIELDS)
    if stream:
        count = len(columns["drawer"])
        images = StreamedImages(_pixel_reader(builder, split), np.arange(count), _SHAPE)
    else:
        images = _unpacked(columns["ink"])
    keys = list(zip(columns["alphabet"].tolist(), columns["character"].tolist(), strict=True))
    kept = list(dict.fromkeys(keys))
    alphabets = list(dict.fromkeys(alphabet for alphabet, _ in kept))
    class_ids = {key: index for index, key in enumerate(kept)}
    return ImageSet(
        images=images,
        classes=np.array([class_ids[key] for key in keys], np.int32),
        drawers=columns["drawer"],
        class_names=tuple(f"{alphabet}/character{number:02d}" for alphabet, number in kept),
        class_alphabets=np.array([alphabets.index(a) for a, _ in kept], np.int32),
        alphabet_names=tuple(alphabets),
        kind="ink",
        name=f"omniglot {split}",
    )


def _unpacked(ink: np.ndarray) -> np.ndarray:
    """(M, 105, 105, 1) uint8, ink 255, from the packed bits of M pictures."""
    pixels = np.unpackbits(ink, axis=1, count=math.prod(_SHAPE)) * np.uint8(255)
    return pixels.reshape(-1, *_SHAPE)


def _columns(
    builder: OmniglotDrawers, split: str, fields: Mapping[str, type]
) -> dict[str, np.ndarray]:
    """Fields of all examples of a split; besides them `ink`, the pixels packed into bits."""
    kinds = {"ink": np.uint8, **fields}

    def read(examples: Iterator[dict]) -> dict[str, np.ndarray]:
        rows = []
        for example in examples:
            values = {**example, "alphabet": example["alphabet"].decode()}
            rows.append((np.packbits(example["image"]), *(values[name] for name in fields)))
        return {
            name: np.array(column, kind)
            for (name, kind), column in zip(kinds.items(), zip(*rows, strict=True), strict=True)
        }

    return preparation.columns(builder, split, kinds, read)


def _columns_of(drawings: archives_lib.Drawings) -> dict[str, np.ndarray]:
    """What `_columns` gives, of archives that have just been read."""
    characters, drawers = drawings.images.shape[:2]
    return {
        "ink": np.packbits(drawings.images.reshape(characters * drawers, -1), axis=1),
        "alphabet": np.repeat(np.array(drawings.alphabets, np.str_), drawers),
        "character": np.repeat(np.array(drawings.numbers, np.int32), drawers),
        "drawer": np.tile(np.arange(1, drawers + 1, dtype=np.int32), characters),
    }


def _pixel_reader(builder: OmniglotDrawers, split: str) -> Callable[[np.ndarray], np.ndarray]:
    """(B,) numbers of examples -> (B, 105, 105, 1) uint8, ink 255."""
    examples = preparation.reader(builder, split)

    def read(numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *_SHAPE), np.uint8)
        for image, example in zip(images, examples(numbers), strict=True):
            image[...] = example["image"] * np.uint8(255)
        return images

    return read
