"""The folder of prepared sets: where it is, and how files come into it whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator


def data_dir(given: str | os.PathLike | None) -> pathlib.Path:
    """The folder of prepared sets: as given, else `TFDS_DATA_DIR`, else ~/tensorflow_datasets."""
    given = given or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(given).expanduser().absolute()


@contextlib.contextmanager
def side_folder(place: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """An empty folder in `place`, for this process alone, removed at the end.

    What is finished in it is moved to its place. A process that is killed leaves it, and the next one
    empties it. Of two processes the second waits.

    Args:
        place: a folder, which is made.
        name: of what is prepared.

    Raises:
        ValueError: `place` cannot be written.
    """
    side = place / f".{name}.preparing"
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = open(place / f".{name}.lock", "w")
    except OSError as error:
        raise cannot_hold(place, error) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(side, ignore_errors=True)
        side.mkdir()
        try:
            yield side
        finally:
            shutil.rmtree(side, ignore_errors=True)


def cannot_hold(place: pathlib.Path, error: OSError) -> ValueError:
    """The error of a folder that cannot be written."""
    return ValueError(f"{place}: cannot hold prepared data ({error})")
