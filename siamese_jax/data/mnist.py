"""MNIST from its four idx files, by a tfds builder that needs no TensorFlow."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from siamese_jax.data import preparation, prepared_folder
from siamese_jax.data.image_set import ImageSet, numbers_in_class
from siamese_jax.readers import check_file

_PUBLIC = "https://storage.googleapis.com/cvdf-datasets/mnist/"
DOWNLOADS = {  # URL, bytes, SHA-256
    "train-images-idx3-ubyte.gz": (
        _PUBLIC + "train-images-idx3-ubyte.gz",
        9912422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte.gz": (
        _PUBLIC + "train-labels-idx1-ubyte.gz",
        28881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte.gz": (
        _PUBLIC + "t10k-images-idx3-ubyte.gz",
        1648877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        _PUBLIC + "t10k-labels-idx1-ubyte.gz",
        4542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
COUNTS = {"train": 60000, "test": 10000}
_PREFIXES = {"train": "train", "test": "t10k"}
_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049
_SIDE = 28


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that the four files hold, checked.

    Attributes:
        images: by split, (M, 28, 28, 1) uint8, ink 255, paper 0.
        labels: by split, (M,) uint8.
        fingerprint: SHA-256 of both.
    """

    images: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    fingerprint: str


class MnistDigits(tfds.core.GeneratorBasedBuilder):
    """MNIST: splits `train` and `test` in the order of the files.

    Features: `image` (28, 28, 1) uint8, ink 255 and paper 0; `label` 0-9. The metadata keep the
    fingerprint of the files that the set was prepared from.
    """

    name = "mnist_digits"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    url_infos = None

    def __init__(
        self,
        *,
        contents: Contents | None = None,
        counts: Mapping[str, int] = COUNTS,
        downloads: Mapping[str, tuple[str, int, str]] = DOWNLOADS,
        **kwargs: Any,
    ) -> None:
        """Makes the builder.

        Args:
            contents: files already read, or None to download them.
            counts: images that each split must have.
            downloads: (URL, size in bytes, SHA-256) of each file.
            **kwargs: of `tfds.core.GeneratorBasedBuilder`.
        """
        self._contents = contents
        self._counts = counts
        self._downloads = downloads
        self.url_infos = preparation.url_infos(downloads)
        super().__init__(**{"file_format": preparation.FILE_FORMAT, **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=(_SIDE, _SIDE, 1),
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.BYTES,
                    ),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        contents = self._contents
        if contents is None:
            contents = self._contents = read(
                preparation.download(dl_manager, self._downloads), self._counts
            )
        self.info.metadata["fingerprint"] = contents.fingerprint
        return {
            split: self._generate_examples(contents.images[split], contents.labels[split])
            for split in COUNTS
        }

    def download_and_prepare(self, **kwargs: Any) -> None:
        """As of tfds; what `load_mnist` would read off the records is kept beside them."""
        super().download_and_prepare(**kwargs)
        if self._contents is not None:
            for split, images in self._contents.images.items():
                arrays = {"image": images, "label": self._contents.labels[split].astype(np.int32)}
                preparation.keep(self, split, arrays)

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield key, {"image": image, "label": int(label)}


def prepare(
    data_dir: str | os.PathLike | None = None,
    folder: str | os.PathLike | None = None,
    *,
    counts: Mapping[str, int] = COUNTS,
    downloads: Mapping[str, tuple[str, int, str]] = DOWNLOADS,
) -> MnistDigits:
    """Prepares MNIST, unless it is prepared already.

    Sources, in this order: `folder`; a set prepared before; the public download. A prepared set
    that comes from other files than those in `folder` is replaced.

    Args:
        data_dir: folder of the prepared sets; None for tfds's own.
        folder: folder that holds the four gz files, or None.
        counts: images that each split must have.
        downloads: (URL, size in bytes, SHA-256) of each file.

    Returns:
        The builder of the prepared set.

    Raises:
        preparation.SourceUnavailable: no source, and the download failed.
        ValueError: a file that is missing, damaged or not what its name says, or `data_dir` cannot
            be written.
    """
    root = prepared_folder.data_dir(data_dir)
    if folder:
        contents = read(find(folder), counts)
        return preparation.prepare(
            lambda place: MnistDigits(data_dir=place, contents=contents), root, contents.fingerprint
        )
    prepared = preparation.find_prepared(MnistDigits, root)
    if prepared is not None:
        return prepared
    try:
        preparation.require_answers(downloads)
        return preparation.prepare(
            lambda place: MnistDigits(data_dir=place, counts=counts, downloads=downloads), root
        )
    except preparation.DownloadFailed as error:
        raise preparation.SourceUnavailable(
            f"MNIST is not prepared in {root} and its download failed ({error}): give a folder "
            f"that holds {', '.join(DOWNLOADS)}, or connect to the network, or use the built-in "
            "set 'glyphs'"
        ) from None


def load_mnist(builder: MnistDigits, split: str) -> ImageSet:
    """A split of MNIST as a set of ten classes.

    Args:
        builder: of the prepared set.
        split: `train`, `test`, or a part by its rows such as `train[:50000]`.

    Returns:
        (M, 28, 28, 1) images of kind `ink`; the drawer is the number of the image in its class, in
        the order of the file. The classes are in one alphabet.
    """

    def read(examples: Iterator[dict]) -> dict[str, np.ndarray]:
        images, labels = zip(*((e["image"], e["label"]) for e in examples), strict=True)
        return {"image": np.stack(images), "label": np.array(labels, np.int32)}

    name, _, rows = split.removesuffix("]").partition("[")
    begin, _, end = rows.partition(":")
    part = slice(int(begin or 0), int(end) if end else None)
    columns = preparation.columns(builder, name, ("image", "label"), read)
    labels = columns["label"][part]
    order = np.argsort(labels, kind="stable")
    kept, classes, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    return ImageSet(
        images=columns["image"][part][order],
        classes=classes.astype(np.int32),
        drawers=numbers_in_class(counts),
        class_names=tuple(str(label) for label in kept),
        class_alphabets=np.zeros(len(kept), np.int32),
        alphabet_names=("digits",),
        kind="ink",
        name=f"mnist {split}",
    )


def find(folder: str | os.PathLike) -> dict[str, pathlib.Path]:
    """The paths of the four files in a folder, by their names.

    Raises:
        ValueError: a file is missing.
    """
    folder = pathlib.Path(folder).expanduser()
    paths = {name: folder / name for name in DOWNLOADS}
    for path in paths.values():
        if not path.is_file():
            raise ValueError(f"{path}: no such file; the folder must hold {', '.join(DOWNLOADS)}")
    return paths


def read(paths: Mapping[str, pathlib.Path], counts: Mapping[str, int] = COUNTS) -> Contents:
    """Reads and checks the four files.

    Args:
        paths: the files by their names in `DOWNLOADS`.
        counts: images that each split must have.

    Raises:
        ValueError: a file that is damaged or not what its name says.
    """
    images, labels, digest = {}, {}, hashlib.sha256()
    for split, prefix in _PREFIXES.items():
        shape = (counts[split], _SIDE, _SIDE)
        pixels = _read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"], _IMAGES_MAGIC, shape)
        path = paths[f"{prefix}-labels-idx1-ubyte.gz"]
        images[split] = pixels[..., None]
        labels[split] = _read_idx(path, _LABELS_MAGIC, shape[:1])
        if labels[split].max() > 9:
            raise ValueError(f"{path}: has a label {labels[split].max()}, expected 0-9")
        digest.update(pixels.data)
        digest.update(labels[split].data)
    return Contents(images, labels, digest.hexdigest())


def _read_idx(path: pathlib.Path, magic: int, shape: tuple[int, ...]) -> np.ndarray:
    """The array of a gzipped idx file of bytes, which must have this magic number and shape."""
    try:
        with gzip.open(check_file(path)) as file:
            data = file.read(4 * (1 + len(shape)) + math.prod(shape) + 1)  # one too many shows
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); fetch it again") from None
    head = np.frombuffer(data[: len(data) // 4 * 4][: 4 * (1 + len(shape))], ">u4").tolist()
    if head[:1] != [magic]:
        raise ValueError(f"{path}: magic number {head[:1]}, expected [{magic}]")
    if tuple(head[1:]) != shape:
        raise ValueError(f"{path}: holds an array of {tuple(head[1:])}, expected {shape}")
    body = data[4 * len(head) :]
    if len(body) != np.prod(shape):
        raise ValueError(f"{path}: holds {len(body)} bytes of values, expected {np.prod(shape)}")
    return np.frombuffer(body, np.uint8).reshape(shape)
