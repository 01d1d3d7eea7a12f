"""A shortlist of the references that may be most like a picture, by an approximate index.

The index (a graph of near neighbours, usearch's in a file and pgvector's in a database) holds a short
vector of each reference: the embedding as the comparator sees it, on its first principal components.
Whoever asks compares the shortlist exactly, so the index decides only who is compared, never a score.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from siamese_jax.models.comparators import Comparator, Cosine, Euclidean, Local

if TYPE_CHECKING:
    from usearch.index import Index

_log = logging.getLogger(__name__)

SIZE = 256  # references of a shortlist
MAX_COMPONENTS = 128
SAMPLE = 20_000  # references that the components are fitted on
_DTYPE = "f16"
CONNECTIVITY, BUILD = 16, 96  # links of a reference, candidates while it is added
_BEGUN = 4096  # references of a graph that is begun
_CHUNK = 2**22  # bytes read at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """The principal components of features.

    Attributes:
        mean: (F,) float32.
        matrix: (F, C) float32, columns of length 1.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Projection:
        """The components of (n, F) features, at most `MAX_COMPONENTS`."""
        mean = features.mean(0)
        centred = (features - mean).astype(np.float32)
        if len(centred) < centred.shape[1]:  # the smaller of the two products has the same vectors
            _, _, directions = np.linalg.svd(centred, full_matrices=False)
            matrix = directions.T
        else:
            _, vectors = np.linalg.eigh(centred.T @ centred)
            matrix = vectors[:, ::-1]
        count = min(MAX_COMPONENTS, matrix.shape[1])
        return cls(mean.astype(np.float32), np.ascontiguousarray(matrix[:, :count], np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, F) features -> (n, C)."""
        return (features - self.mean) @ self.matrix


def is_installed() -> bool:
    """Whether usearch, the extra [ann], is installed."""
    try:
        import usearch.index  # noqa: F401
    except ImportError:
        return False
    return True


def suits(head: Comparator) -> bool:
    """Whether near features mean a high score, so that an index can serve the comparator."""
    return isinstance(head, (Cosine, Euclidean, Local))  # or of a subclass: `SquaredEuclidean`


def features(head: Comparator, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings so that the Euclidean distance of two falls where their score rises.

    For `local` this holds nearly: each place is the mean of the places that its best match may be at.

    Args:
        head: the comparator, see `suits`.
        embeddings: (n, D) float32.

    Returns:
        (n, F) float32.
    """
    if isinstance(head, Cosine):
        return _unit(embeddings)
    if not isinstance(head, Local):
        return embeddings
    rows, columns = head.places
    maps = _unit(embeddings.reshape(len(embeddings), rows, columns, -1))
    total, count = np.zeros_like(maps), np.zeros((rows, columns, 1), np.float32)
    for down in range(-min(head.reach, rows - 1), min(head.reach, rows - 1) + 1):
        for right in range(-min(head.reach, columns - 1), min(head.reach, columns - 1) + 1):
            here = _inside(rows, down), _inside(columns, right)
            there = _inside(rows, -down), _inside(columns, -right)
            total[:, here[0], here[1]] += maps[:, there[0], there[1]]
            count[here] += 1
    return (total / count).reshape(len(embeddings), -1)


def empty(components: int) -> Index:
    """A usearch index without references."""
    from usearch.index import Index

    return Index(
        ndim=components,
        metric="l2sq",
        dtype=_DTYPE,
        connectivity=CONNECTIVITY,
        expansion_add=BUILD,
        expansion_search=SIZE,
    )


def add(index: Index, ids: np.ndarray, projected: np.ndarray) -> None:
    """Adds references to an index.

    Threads that begin a graph together miss each other, and some references are never found: so one
    thread begins it, and all go on.

    Args:
        index: that grows.
        ids: (n,) int64 numbers of the references.
        projected: (n, C) float32, their features on the components.
    """
    begun = max(0, _BEGUN - len(index))
    for part, threads in ((slice(begun), 1), (slice(begun, None), 0)):
        if len(ids[part]):
            index.add(ids[part], projected[part], threads=threads)


def opened(path: pathlib.Path, digest: str, view: bool = True) -> Index | None:
    """The index of a file, or None where it is missing or not what was written.

    Args:
        path: of the file.
        digest: of its bytes.
        view: whether it is only searched, and stays on disk until it is.
    """
    from usearch.index import Index

    try:
        if digest_of(path) != digest:
            raise ValueError("its content is not what was written")
        index = Index.restore(str(path), view=view)
    except (OSError, ValueError, RuntimeError) as error:
        _log.warning(
            "%s: %s; every reference is compared instead", path, " ".join(str(error).split())
        )
        return None
    index.expansion_search, index.expansion_add = SIZE, BUILD
    return index


def save(index: Index, path: pathlib.Path) -> str:
    """Writes an index, for the owner only, through to the disk; returns its digest."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    index.save(str(path))
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return digest_of(path)


def digest_of(path: pathlib.Path) -> str:
    """BLAKE2b of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + np.float32(1e-12))


def _inside(size: int, move: int) -> slice:
    """The places along an axis that are still on the map after a move."""
    return slice(max(0, -move), size - max(0, move))
