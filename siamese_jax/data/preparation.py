"""Prepares a tfds builder's data whole or not at all, and says what stands in the way."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds

from siamese_jax import files, readers
from siamese_jax.data import prepared_folder

_log = logging.getLogger(__name__)

FILE_FORMAT = "array_record"
_READ = 1024  # examples that are read at a time: one by one takes five times as long


class DownloadFailed(ValueError):
    """A file could not be downloaded, or is not the expected one."""


class SourceUnavailable(ValueError):
    """A data set is neither prepared, nor given as archives, nor to be downloaded."""


def find_prepared(
    builder: type[tfds.core.GeneratorBasedBuilder], data_dir: pathlib.Path
) -> tfds.core.GeneratorBasedBuilder | None:
    """The builder of a set that is prepared in `data_dir`, or None."""
    if not (data_dir / builder.name / str(builder.VERSION) / "dataset_info.json").is_file():
        return None
    return builder(data_dir=data_dir, file_format=FILE_FORMAT)


def prepare(
    make_builder: Callable[[pathlib.Path], tfds.core.GeneratorBasedBuilder],
    data_dir: pathlib.Path,
    fingerprint: str | None = None,
) -> tfds.core.GeneratorBasedBuilder:
    """Prepares a set in a side folder, then puts it in its place in one move.

    A process that is killed half way leaves the set that was there before, or none, and a side
    folder that the next call removes. Of two processes the second waits, and takes what the first
    has prepared.

    Args:
        make_builder: makes the builder for a data folder.
        data_dir: folder of the prepared sets.
        fingerprint: of the sources; a set of other sources is replaced. None takes any set.

    Returns:
        The builder of the prepared set.

    Raises:
        ValueError: `data_dir` cannot be written.
    """
    builder = type(make_builder(data_dir))
    place = data_dir / builder.name
    with prepared_folder.side_folder(data_dir, builder.name) as side:
        prepared = find_prepared(builder, data_dir)
        if prepared and fingerprint in (None, prepared.info.metadata.get("fingerprint")):
            return prepared
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # tfds prints the side folder's name
                make_builder(side).download_and_prepare(
                    download_dir=side / "downloads",
                    download_config=tfds.download.DownloadConfig(force_checksums_validation=True),
                )
            if place.exists():
                os.replace(place, side / "replaced")
            os.replace(side / builder.name, place)
        except OSError as error:
            raise prepared_folder.cannot_hold(data_dir, error) from None
    _log.info("prepared %s in %s", builder.name, place)
    return make_builder(data_dir)


def examples(builder: tfds.core.GeneratorBasedBuilder, split: str) -> Iterator[dict]:
    """The examples of a prepared split, in order.

    Raises:
        ValueError: a record file is missing or damaged.
    """
    with _naming_damage(builder, split):
        source = builder.as_data_source(split)
        for begin in range(0, len(source), _READ):
            yield from source.__getitems__(range(begin, min(begin + _READ, len(source))))


def columns(
    builder: tfds.core.GeneratorBasedBuilder,
    split: str,
    names: Collection[str],
    read: Callable[[Iterator[dict]], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """All examples of a split as arrays, from the file that `keep` writes beside the records.

    Args:
        builder: of the prepared set.
        split: name of the split.
        names: of the arrays.
        read: makes the arrays of the examples where the file is absent or damaged: to read the
            records one by one takes several seconds.

    Raises:
        ValueError: a record file is missing or damaged.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        kept = readers.read_npz(_kept(builder, split))
        if kept.keys() == set(names):
            return kept
    arrays = read(examples(builder, split))
    keep(builder, split, arrays)
    return arrays


def keep(
    builder: tfds.core.GeneratorBasedBuilder, split: str, arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes what `columns` gives beside the records of a split."""
    named: dict[str, Any] = dict(arrays)
    with contextlib.suppress(OSError):  # a folder that others prepared
        files.replace_file(_kept(builder, split), lambda file: np.savez(file, **named))


def _kept(builder: tfds.core.GeneratorBasedBuilder, split: str) -> pathlib.Path:
    return pathlib.Path(builder.data_dir) / f"{split}.npz"


def reader(
    builder: tfds.core.GeneratorBasedBuilder, split: str
) -> Callable[[np.ndarray], list[dict]]:
    """Random access to a prepared split: a function from (B,) int numbers to examples.

    Raises:
        ValueError: a record file is missing or damaged; here or when it is read.
    """
    with _naming_damage(builder, split):
        source = builder.as_data_source(split)

    def read(numbers: np.ndarray) -> list[dict]:
        with _naming_damage(builder, split):
            return source.__getitems__(numbers.tolist())

    return read


@contextlib.contextmanager
def _naming_damage(builder: tfds.core.GeneratorBasedBuilder, split: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the reader raises whatever its C++ parts come across
        raise ValueError(
            f"{builder.data_dir}: the prepared split {split!r} is damaged "
            f"({type(error).__name__}); delete the folder and prepare it again"
        ) from error


def download(
    manager: tfds.download.DownloadManager, downloads: Mapping[str, tuple[str, int, str]]
) -> dict[str, pathlib.Path]:
    """Downloads files one after another through tfds, which enforces size and SHA-256.

    Args:
        manager: tfds's download manager, knowing `url_infos(downloads)`.
        downloads: (URL, size in bytes, SHA-256) of each file.

    Raises:
        DownloadFailed: no answer, or not the expected file.
    """
    paths = {}
    for name, (url, size, checksum) in downloads.items():
        _log.info("downloading %s", url)
        try:
            paths[name] = pathlib.Path(manager.download(url))
        except tfds.core.download.download_manager.NonMatchingChecksumError:
            raise DownloadFailed(
                f"{url}: the file is not the expected one of {size} bytes, SHA-256 {checksum}"
            ) from None
        except (requests.RequestException, tfds.download.DownloadError, OSError) as error:
            raise DownloadFailed(f"{url}: {type(error).__name__}") from None
    return paths


def url_infos(downloads: Mapping[str, tuple[str, int, str]]) -> dict:
    """What tfds must know to check downloads: size and SHA-256 by URL."""
    return {
        url: tfds.core.download.checksums.UrlInfo(size=size, checksum=checksum, filename=None)
        for url, size, checksum in downloads.values()
    }


def require_answers(downloads: Mapping[str, tuple[str, int, str]], timeout: float = 5.0) -> None:
    """Asks each server for a sign of life, since tfds by itself would wait without limit.

    Args:
        downloads: (URL, size in bytes, SHA-256) of each file.
        timeout: seconds to wait for each.

    Raises:
        DownloadFailed: no answer, or not a good one.
    """
    for url, _, _ in downloads.values():
        outcome: list[str] = []
        thread = threading.Thread(target=_request_head, args=(url, timeout, outcome), daemon=True)
        thread.start()  # a thread, because looking up a host name heeds no time-out
        thread.join(timeout)
        failure = outcome[0] if outcome else f"no answer in {timeout:g} s"
        if failure:
            raise DownloadFailed(f"{url}: {failure}")


def _request_head(url: str, timeout: float, outcome: list[str]) -> None:
    """Appends what is wrong with `url`, or an empty string."""
    try:
        response = requests.head(url, timeout=timeout, allow_redirects=True)
        outcome.append("" if response.ok else f"HTTP status {response.status_code}")
    except requests.RequestException as error:
        outcome.append(type(error).__name__)
