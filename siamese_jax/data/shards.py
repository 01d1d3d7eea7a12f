"""Large folders of pictures, prepared once: decoded and resized, in array_record shards.

The pictures are prepared in parts of `PART` pictures, each a small tfds data set of its own, in
parallel processes. A part is there whole or not at all, so a preparation that was stopped goes on
where it was.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import logging
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from siamese_jax.data import preparation
from siamese_jax.data.image_set import pixel_digest

_log = logging.getLogger(__name__)

PART = 2048  # pictures of a part
_REPORT = 10.0  # seconds between two lines about the progress

Decode = Callable[[int], tuple[np.ndarray | None, str]]


@dataclasses.dataclass(frozen=True)
class Shards:
    """Prepared pictures.

    Attributes:
        read: (B,) int numbers of pictures -> (B, H, W, C) uint8; any thread may call it.
        kept: (M,) int number of the file behind each picture; broken files are left out.
        digests: (M,) uint64, of the pixels of each picture.
        image_shape: (H, W, C).
        broken: what is wrong with each broken file.
    """

    read: Callable[[np.ndarray], np.ndarray]
    kept: np.ndarray
    digests: np.ndarray
    image_shape: tuple[int, int, int]
    broken: tuple[str, ...]


class PicturePart(tfds.core.GeneratorBasedBuilder):
    """One part: `image` (H, W, C) uint8, in the order of the files.

    The metadata hold the numbers of the files kept, the digest of each picture, and what was broken.
    """

    name = "picture_part"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def __init__(
        self,
        *,
        decode: Decode | None = None,
        numbers: Sequence[int] = (),
        image_shape: tuple[int, int, int] = (1, 1, 1),
        **kwargs: Any,
    ) -> None:
        """Makes the builder.

        Args:
            decode: number of a file -> its (H, W, C) pixels or None, and what is wrong with it.
            numbers: of the files.
            image_shape: (H, W, C).
            **kwargs: of `tfds.core.GeneratorBasedBuilder`.
        """
        self._decode, self._numbers, self._shape = decode, numbers, image_shape
        super().__init__(**{"file_format": preparation.FILE_FORMAT, **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(
            shape=self._shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pictures of a folder, decoded.",
            features=tfds.features.FeaturesDict({"image": image}),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager
        return {"pictures": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        kept, digests, broken = [], [], []
        assert self._decode is not None  # which only a builder that reads does without
        for number in self._numbers:
            pixels, fault = self._decode(number)
            if pixels is None:
                broken.append(fault)
                continue
            kept.append(int(number))
            digests.append(f"{pixel_digest(pixels):016x}")
            yield len(kept) - 1, {"image": pixels}
        self.info.metadata.update(kept=kept, digests=digests, broken=broken)


def prepare(
    make_decode: Callable[[], Decode],
    count: int,
    image_shape: tuple[int, int, int],
    fingerprint: str,
    data_dir: str | os.PathLike | None,
    processes: int | None = None,
) -> Shards:
    """Prepares the files of a folder, unless they are prepared already.

    Args:
        make_decode: makes the decoder in each process; can be pickled.
        count: number of files.
        image_shape: (H, W, C) that the decoder gives.
        fingerprint: of the files and of what the decoder does with them.
        data_dir: folder of prepared sets; None for tfds's own.
        processes: that decode; None for one a core.

    Raises:
        ValueError: the folder of prepared sets cannot be written.
    """
    root = preparation.resolve_data_dir(data_dir) / "pictures" / fingerprint
    starts = range(0, count, PART)
    parts = [(root / f"{start // PART:05d}", start, min(start + PART, count)) for start in starts]
    missing = [part for part in parts if not _is_prepared(part[0])]
    if missing:
        _log.info("preparing %d pictures in %s, once", count, root)
        work = functools.partial(_prepare_part, make_decode, image_shape)
        _run(work, missing, count, processes or len(os.sched_getaffinity(0)))
    return _open([place for place, *_ in parts], image_shape)


def _is_prepared(place: pathlib.Path) -> bool:
    return preparation.find_prepared(PicturePart, place) is not None


def _run(
    work: Callable[[pathlib.Path, int, int], int],
    parts: Sequence[tuple[pathlib.Path, int, int]],
    count: int,
    processes: int,
) -> None:
    """Prepares the parts, and says every some seconds how far it is."""
    begin = last = time.monotonic()
    done = count - sum(end - start for _, start, end in parts)
    first = done
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    workers = min(processes, len(parts))
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        for future in concurrent.futures.as_completed([pool.submit(work, *p) for p in parts]):
            done += future.result()
            now = time.monotonic()
            if now - last > _REPORT or done == count:
                rate = (done - first) / (now - begin)
                _log.info("prepared %d of %d pictures, %.0f a second", done, count, rate)
                last = now


def _prepare_part(
    make_decode: Callable[[], Decode],
    image_shape: tuple[int, int, int],
    place: pathlib.Path,
    start: int,
    end: int,
) -> int:
    """Prepares one part, in a process of its own; returns its number of files."""
    decode = make_decode()
    preparation.prepare(
        lambda folder: PicturePart(
            data_dir=folder, decode=decode, numbers=range(start, end), image_shape=image_shape
        ),
        place,
    )
    return end - start


def _open(places: Sequence[pathlib.Path], image_shape: tuple[int, int, int]) -> Shards:
    builders = [
        PicturePart(data_dir=place, image_shape=image_shape, file_format=preparation.FILE_FORMAT)
        for place in places
    ]
    metadata = [builder.info.metadata for builder in builders]
    kept = [np.array(entry["kept"], np.int64) for entry in metadata]
    digests = [int(digest, 16) for entry in metadata for digest in entry["digests"]]
    ends = np.cumsum([len(numbers) for numbers in kept])
    readers: dict[int, Callable] = {}  # opened when first read: a set may have very many parts

    def read(numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *image_shape), np.uint8)
        of_part = np.searchsorted(ends, numbers, side="right")
        for part in np.unique(of_part):
            if part not in readers:
                readers[part] = preparation.reader(builders[part], "pictures")
            places_of_part = np.flatnonzero(of_part == part)
            offsets = numbers[places_of_part] - (ends[part] - len(kept[part]))
            for place, example in zip(places_of_part, readers[part](offsets), strict=True):
                images[place] = example["image"]
        return images

    return Shards(
        read,
        np.concatenate(kept),
        np.array(digests, np.uint64),
        image_shape,
        tuple(fault for entry in metadata for fault in entry["broken"]),
    )
