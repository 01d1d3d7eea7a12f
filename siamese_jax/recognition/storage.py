"""A gallery in one file: written whole or not at all, and never over another process's changes.

From `LARGE` references on the file is a large gallery, see `store`; one in a database is from the first.
"""

from __future__ import annotations

import dataclasses
import fcntl
import glob
import hashlib
import io
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from siamese_jax import files
from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.readers import check_file, read_npz
from siamese_jax.recognition import postgres, postgres_connection, store
from siamese_jax.recognition.gallery import Gallery, Reference
from siamese_jax.runs import digests

LARGE = 10_000  # references
_FORMAT = 2
_LARGEST = 2**32  # bytes of a gallery
_DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError),
    *(NotImplementedError, RuntimeError, AttributeError),
)


class GalleryFile:
    """A file that holds a small gallery (an NPZ archive), whatever its name ends in.

    It remembers what it has read last. `write` refuses if the file holds something else by then. So of
    two processes that change one gallery at once, the later one does not undo the other's work. A new
    file has mode 600, because a gallery may hold faces; the mode of an existing file is kept.

    Args:
        path: of the file, which need not be there yet.
        large: number of references from which on the file becomes a large gallery.
    """

    def __init__(self, path: str | os.PathLike, large: int = LARGE):
        self._large = large
        self.path = pathlib.Path(path).expanduser().resolve()
        self._last_read: str | None = None  # digest of what was read; None: there was no file

    @property
    def page(self) -> pathlib.Path:
        """The file of a search's page, where none is named."""
        return self.path.with_name(f"{self.path.stem}-search.html")

    def exists(self) -> bool:
        """Whether there is a file."""
        return self.path.exists()

    def read(self) -> Gallery:
        """Reads the gallery.

        Raises:
            ValueError: no such file, or one that is damaged or no gallery.
        """
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such gallery; `enrol NAME IMAGE...` makes one")
        if store.is_store(self.path):
            raise ValueError(
                f"{self.path}: a large gallery, of {self._large:,} references or more: "
                "launch/recognize.py and store.Store read it"
            )
        data = check_file(self.path, _LARGEST).read_bytes()
        try:
            gallery = _from_bytes(data)
        except _DAMAGES as error:
            what = " ".join(str(error).split())[:80]
            raise ValueError(
                f"{self.path}: damaged, or no gallery ({type(error).__name__}: {what})"
            ) from None
        self._last_read = _digest(data)
        return gallery

    def write(self, gallery: Gallery) -> None:
        """Replaces the file at once: a crash leaves the old gallery or the new one.

        A gallery of `large` references becomes a large one, which `store.Store` reads from then on.

        Raises:
            ValueError: the file is not the one that was read, or its folder does not exist.
        """
        if not self.path.parent.is_dir():
            raise ValueError(f"{self.path.parent}: no such folder for a gallery")
        data = _to_bytes(gallery) if len(gallery) < self._large else _to_store(gallery)

        def write(file: BinaryIO) -> None:
            os.fchmod(file.fileno(), 0o600)  # of a new file; that of an old one is kept
            file.write(data)

        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed; writers come one by one
            current = _digest(self.path.read_bytes()) if self.path.exists() else None
            if current != self._last_read or store.is_store(self.path):  # which writes itself
                raise ValueError(
                    f"{self.path} was changed by another process in the meantime: nothing is "
                    "written, give the command again"
                )
            self._remove_leftovers()
            files.replace_file(self.path, write)
        finally:
            os.close(folder)
        self._last_read = _digest(data)

    def _remove_leftovers(self) -> None:
        """Removes the temporary folders of writers that were killed; none is writing now."""
        random = "[a-z0-9_]" * 8  # see `tempfile`
        for side in self.path.parent.glob(f".{glob.escape(self.path.name)}.{random}"):
            if side.is_dir() and not side.is_symlink():
                (side / self.path.name).unlink(missing_ok=True)
                side.rmdir()


class GalleryDatabase:
    """A gallery in a database; what `GalleryFile` is for one in a file.

    Args:
        url: `postgresql://USER@HOST/DATABASE#NAME`; the gallery need not be there yet.
    """

    def __init__(self, url: str):
        self._url = url

    @property
    def page(self) -> pathlib.Path:
        """The file of a search's page, where none is named."""
        name = postgres_connection.Address.of(self._url).name
        return pathlib.Path(f"{name}-search.html")

    def exists(self) -> bool:
        """Whether the database has the gallery."""
        return postgres.exists(self._url)

    def read(self) -> store.Store:
        """Opens the gallery, which writes itself."""
        return store.Store(self._url)

    def write(self, gallery: Gallery) -> None:
        """Makes the gallery, at once or not at all.

        Raises:
            ValueError: there is one by now.
        """
        store.create(self._url, gallery)


def _to_store(gallery: Gallery) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "gallery"
        store.create(path, gallery)
        return path.read_bytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _to_bytes(gallery: Gallery) -> bytes:
    facts = {
        "format": _FORMAT,
        "fingerprint": gallery.fingerprint,
        "network": gallery.network,
        "names": [reference.name for reference in gallery.references],
        "sources": [reference.source for reference in gallery.references],
        "digests": [reference.digest for reference in gallery.references],
        "calibration": gallery.calibration and dataclasses.asdict(gallery.calibration),
    }
    thumbnails = [reference.thumbnail for reference in gallery.references]
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "embeddings": np.asarray(gallery.embeddings),
        "thumbnails": np.frombuffer(b"".join(thumbnails), np.uint8),  # PNGs, one after the other
        "thumbnail_ends": np.cumsum([len(thumbnail) for thumbnail in thumbnails], dtype=np.int64),
    }
    digest = np.frombuffer(digests.of_arrays(arrays).encode(), np.uint8)
    np.savez(buffer, digest=digest, **arrays)
    return buffer.getvalue()


def _from_bytes(data: bytes) -> Gallery:
    arrays = read_npz(data)
    recorded = arrays.pop("digest").tobytes().decode()
    if recorded != digests.of_arrays(arrays):
        raise ValueError("its content is not what was written")
    facts = json.loads(arrays["facts"].tobytes())
    if facts["format"] != _FORMAT:
        raise ValueError(f"it is of format {facts['format']}, this version reads {_FORMAT}")
    ends = arrays["thumbnail_ends"]
    flat = arrays["thumbnails"].tobytes()
    thumbnails = [flat[a:b] for a, b in zip(np.append(0, ends)[:-1], ends, strict=True)]
    columns = (facts["names"], facts["sources"], facts["digests"], thumbnails)
    calibration = facts["calibration"]
    if calibration is not None:
        calibration = Calibration.of(calibration)
    return Gallery(
        fingerprint=facts["fingerprint"],
        network=facts["network"],
        references=tuple(Reference(*row) for row in zip(*columns, strict=True)),
        embeddings=arrays["embeddings"],
        calibration=calibration,
    )
