"""Fixed one-shot runs: the queries of one drawer against the supports of another, N-way."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from siamese_jax.data.image_set import ImageSet, resize_images

OFFICIAL = "official runs"  # the name of Lake's


@dataclasses.dataclass(frozen=True)
class OfficialRuns:
    """One-shot runs in the form of Lake's: in each, N queries against N supports of one alphabet.

    Attributes:
        queries: (R, N, H, W, C) uint8, valued as in an `ImageSet`.
        supports: (R, N, H, W, C) uint8.
        answers: (R, N) int32, index in 0 .. N - 1 of the support of each query's class.
        alphabets: name of the alphabet of each run.
        query_drawers: (R,) int32, 1-based drawer of the queries of each run.
        support_drawers: (R,) int32, 1-based drawer of the supports of each run.
        name: what the runs are called in logs and reports; only Lake's are called `OFFICIAL`.
    """

    queries: np.ndarray
    supports: np.ndarray
    answers: np.ndarray
    alphabets: tuple[str, ...]
    query_drawers: np.ndarray
    support_drawers: np.ndarray
    name: str

    def __post_init__(self) -> None:
        if self.queries.ndim != 5 or self.queries.dtype != np.uint8:
            raise ValueError(
                f"queries must be (R, N, H, W, C) uint8, got {self.queries.shape} "
                f"{self.queries.dtype}"
            )
        if self.supports.shape != self.queries.shape or self.supports.dtype != np.uint8:
            raise ValueError(
                f"supports must be uint8 of the queries' shape {self.queries.shape}, "
                f"got {self.supports.shape} {self.supports.dtype}"
            )
        if self.answers.shape != self.queries.shape[:2]:
            raise ValueError(
                f"answers must be {self.queries.shape[:2]}, one a query, got {self.answers.shape}"
            )
        if not np.all((self.answers >= 0) & (self.answers < self.n_way)):
            raise ValueError(f"answers must lie in 0 .. {self.n_way - 1}")
        for what in ("alphabets", "query_drawers", "support_drawers"):
            if len(getattr(self, what)) != len(self):
                raise ValueError(f"{what} must have one entry for each of the {len(self)} runs")

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def n_way(self) -> int:
        """Supports, and queries, of a run."""
        return self.queries.shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the pictures and answers."""
        digest = hashlib.sha256()
        for array in (self.queries, self.supports, self.answers.astype(np.int32)):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def resized(self, height: int, width: int) -> OfficialRuns:
        """The runs with every picture resized to (height, width) pixels by area averaging."""
        shape = self.queries.shape
        if shape[2:4] == (height, width):
            return self
        resized = (
            resize_images(images.reshape(-1, *shape[2:]), height, width)
            for images in (self.queries, self.supports)
        )
        queries, supports = (images.reshape(*shape[:2], *images.shape[1:]) for images in resized)
        return dataclasses.replace(self, queries=queries, supports=supports)


def make_runs(images: ImageSet, seed: int, *, num_runs: int = 20, n_way: int = 20) -> OfficialRuns:
    """Draws runs like Lake's from any set whose alphabets are large enough.

    The alphabets with at least `n_way` classes take turns, so that each gives equally many runs
    (to within one). A run draws its classes and two different drawers that have drawn all of them,
    one for the queries and one for the supports, and puts both in a random order.

    Args:
        images: the set to draw from.
        seed: the runs depend on the set, the numbers and this seed only.
        num_runs: number of runs R.
        n_way: queries and supports N of each run.

    Raises:
        ValueError: no alphabet has `n_way` classes that share two drawers.
    """
    drawn_by = [set(part.tolist()) for part in np.split(images.drawers, images.class_start[1:])]
    large = []
    for alphabet in range(images.num_alphabets):
        members = range(
            images.alphabet_start[alphabet],
            images.alphabet_start[alphabet] + images.alphabet_count[alphabet],
        )
        if len(members) >= n_way:
            drawers = sorted(set.intersection(*(drawn_by[c] for c in members)))
            if len(drawers) >= 2:
                large.append((alphabet, np.array(members), np.array(drawers)))
    if not large or n_way < 2 or num_runs < 1:
        raise ValueError(
            f"{num_runs} runs of {n_way} ways cannot be drawn from {images.name!r}, whose largest "
            f"alphabet has {images.alphabet_count.max()} classes: a run needs at least two ways, "
            "an alphabet of as many classes, and two drawers of them all"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(large))
    queries, supports, answers, alphabets, drawer_pairs = [], [], [], [], []
    for run in range(num_runs):
        alphabet, members, drawers = large[order[run % len(large)]]
        query_drawer, support_drawer = rng.choice(drawers, 2, replace=False)
        query_classes = rng.choice(members, n_way, replace=False)
        support_classes = rng.permutation(query_classes)
        queries.append(_rows(images, query_classes, query_drawer))
        supports.append(_rows(images, support_classes, support_drawer))
        answers.append(np.argmax(query_classes[:, None] == support_classes[None, :], axis=1))
        alphabets.append(images.alphabet_names[alphabet])
        drawer_pairs.append((query_drawer, support_drawer))
    query_drawers, support_drawers = np.array(drawer_pairs, np.int32).T
    return OfficialRuns(
        queries=images.images[np.stack(queries)],
        supports=images.images[np.stack(supports)],
        answers=np.stack(answers).astype(np.int32),
        alphabets=tuple(alphabets),
        query_drawers=query_drawers,
        support_drawers=support_drawers,
        name="runs",
    )


def _rows(images: ImageSet, classes: np.ndarray, drawer: int) -> np.ndarray:
    """(N,) row of the picture of each class by this drawer."""
    rows = np.flatnonzero(images.drawers == drawer)
    return rows[np.searchsorted(images.classes[rows], classes)]
