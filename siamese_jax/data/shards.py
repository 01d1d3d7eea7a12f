"""Large folders of pictures, prepared once: decoded and resized, in array_record files.

The pictures are prepared in parts of `PART` pictures, each one file of records and one of facts, in
parallel processes. A part is there whole or not at all, so a preparation that was stopped goes on
where it was. What a process imports to decode is light: neither jax nor tfds.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from siamese_jax import files
from siamese_jax.data import prepared_folder

_log = logging.getLogger(__name__)

PART = 2048  # pictures of a part
_REPORT = 10.0  # seconds between two lines about the progress
_OPTIONS = "group_size:1,uncompressed"  # pixels of photos hardly get smaller, and reading is random
_GUARD = "a script that loads a large folder needs `if __name__ == '__main__':` around what it does"
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

# Number of a file -> its pixels and their digest; or None, 0 and what is wrong.
Decode = Callable[[int], tuple[np.ndarray | None, int, str]]


@dataclasses.dataclass(frozen=True)
class Shards:
    """Prepared pictures.

    Attributes:
        read: (B,) int numbers of pictures -> (B, H, W, C) uint8; any thread may call it.
        kept: (M,) int number of the file behind each picture; broken files are left out.
        digests: (M,) uint64, of each picture: equal ones have equal pixels.
        broken: what is wrong with each broken file.
    """

    read: Callable[[np.ndarray], np.ndarray]
    kept: np.ndarray
    digests: np.ndarray
    broken: tuple[str, ...]


def prepare(
    make_decode: Callable[[], Decode],
    count: int,
    image_shape: tuple[int, int, int],
    root: pathlib.Path,
) -> Shards:
    """Prepares the files of a folder, unless they are prepared already.

    Args:
        make_decode: makes the decoder in each process; can be pickled.
        count: number of files.
        image_shape: (H, W, C) that the decoder gives.
        root: folder for these files, decoded in this way, and nothing else.

    Raises:
        ValueError: the folder cannot be written, a part that is there is damaged, or the processes
            cannot be started.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A process of ours runs the user's script once more: it would wait for itself.
        raise RuntimeError(_GUARD)
    starts = range(0, count, PART)
    parts = [(root / f"{start // PART:05d}", start, min(start + PART, count)) for start in starts]
    if any(not _facts_of(place).exists() for place, *_ in parts):
        with prepared_folder.side_folder(root, "parts") as side:
            missing = [part for part in parts if not _facts_of(part[0]).exists()]
            if missing:
                _log.info("preparing %d pictures in %s, once", count, root)
                try:
                    _run(make_decode, side, missing, count)
                except OSError as error:
                    raise prepared_folder.cannot_hold(root, error) from None
                except concurrent.futures.BrokenExecutor:
                    raise ValueError(
                        f"a process that prepares pictures ended: if its memory is enough, {_GUARD}"
                    ) from None
    return _open([place for place, *_ in parts], image_shape)


def _facts_of(place: pathlib.Path) -> pathlib.Path:
    return place.with_suffix(".json")


def _records_of(place: pathlib.Path) -> pathlib.Path:
    return place.with_suffix(".array_record")


def _run(
    make_decode: Callable[[], Decode],
    side: pathlib.Path,
    parts: Sequence[tuple[pathlib.Path, int, int]],
    count: int,
) -> None:
    """Prepares the parts, by a process a core, and says every some seconds how far it is."""
    begin = last = time.monotonic()
    done = count - sum(end - start for _, start, end in parts)
    first = done
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    workers = min(len(os.sched_getaffinity(0)), len(parts))
    with (
        _one_thread_each(),
        concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (make_decode,)) as pool,
    ):
        futures = [pool.submit(_prepare_part, side, *part) for part in parts]
        for future in concurrent.futures.as_completed(futures):
            done += future.result()
            now = time.monotonic()
            if now - last > _REPORT or done == count:
                rate = (done - first) / (now - begin)
                _log.info("prepared %d of %d pictures, %.0f a second", done, count, rate)
                last = now


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start meanwhile multiply matrices with one thread: each has a core."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_decode: Decode  # of a process that prepares: what it decodes by is sent to it once, not a part


def _begin(make_decode: Callable[[], Decode]) -> None:
    global _decode
    _decode = make_decode()


def _prepare_part(side: pathlib.Path, place: pathlib.Path, start: int, end: int) -> int:
    return prepare_part(_decode, side, place, start, end)


def prepare_part(
    decode: Decode, side: pathlib.Path, place: pathlib.Path, start: int, end: int
) -> int:
    """Prepares one part.

    Args:
        decode: of the folder.
        side: folder of what is not finished.
        place: of the part, without the endings of its two files.
        start: number of its first file.
        end: one more than the number of its last file.

    Returns:
        The number of its files.
    """
    from array_record.python import array_record_module

    kept, digests, broken = [], [], []
    side_place = side / place.name
    writer = array_record_module.ArrayRecordWriter(str(_records_of(side_place)), _OPTIONS)
    for number in range(start, end):
        pixels, digest, fault = decode(number)
        if pixels is None:
            broken.append(fault)
            continue
        kept.append(number)
        digests.append(f"{digest:016x}")
        writer.write(pixels.tobytes())
    writer.close()
    os.replace(_records_of(side_place), _records_of(place))
    files.replace_json(_facts_of(place), {"kept": kept, "digests": digests, "broken": broken})
    return end - start


@dataclasses.dataclass(frozen=True)
class _Part:
    """What array_record must be told of a file, so that it is opened when it is first read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def _open(places: Sequence[pathlib.Path], image_shape: tuple[int, int, int]) -> Shards:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    facts = [_read_facts(place) for place in places]
    counts = [len(entry["kept"]) for entry in facts]
    source = ArrayRecordDataSource(
        [
            _Part(str(_records_of(place)), 0, count, count)
            for place, count in zip(places, counts, strict=True)
            if count
        ]
        or str(_records_of(places[0]))
    )

    def read(numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *image_shape), np.uint8)
        try:
            records = source.__getitems__(numbers.tolist())
            for image, record in zip(images, records, strict=True):
                image[...] = np.frombuffer(record, np.uint8).reshape(image_shape)
        except Exception as error:  # the reader raises whatever its C++ parts come across
            raise ValueError(
                f"{places[0].parent}: the prepared pictures are damaged ({type(error).__name__}); "
                "delete the folder and prepare them again"
            ) from error
        return images

    return Shards(
        read,
        np.array([number for entry in facts for number in entry["kept"]], np.int64),
        np.array([int(digest, 16) for entry in facts for digest in entry["digests"]], np.uint64),
        tuple(fault for entry in facts for fault in entry["broken"]),
    )


def _read_facts(place: pathlib.Path) -> dict:
    file = _facts_of(place)
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}); delete it and prepare the pictures again"
        ) from None
