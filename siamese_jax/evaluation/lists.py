"""What a frozen list of trials holds: which images meet, and what the right answers are.

A list is checked when it is made. It is known by its hash, so two figures with one hash were measured
on the same trials.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import ClassVar

import numpy as np

from siamese_jax.data.image_set import StreamedImages


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialList:
    """What all lists of trials have.

    Attributes:
        name: of the protocol.
        scope: where the images of a trial come from, as tables print it.
        images: (M, H, W, C) uint8, in memory or streamed from disk, or float32 vectors.
        fingerprint: names the images; part of the hash.
        groups: int index into `group_names`, one a trial.
        group_names: one name a group.
        grouped_by: what a group is: `run`, `alphabet`, `class`, `folder` or `image`.
        clusters: the cluster of each group, where several groups depend on each other (two runs of
            one alphabet); empty where each group is a cluster. Intervals are over clusters.

    Raises:
        ValueError: a row is not one of the images', or a group has no name.
    """

    ROWS: ClassVar[tuple[str, ...]] = ()  # fields of rows of `images`
    HASHED: ClassVar[tuple[str, ...]] = ()  # fields of the hash, in its order

    name: str
    scope: str
    images: np.ndarray | StreamedImages
    fingerprint: str
    groups: np.ndarray
    group_names: tuple[str, ...]
    grouped_by: str
    clusters: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises ValueError where rows or groups are out of range."""
        images = self.images
        if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images must be (M, H, W, C) uint8 or float32, got {images.shape} {images.dtype}"
            )
        for field in self.ROWS:
            check_below("rows", getattr(self, field), len(images))
        check_below("groups", self.groups, len(self.group_names))
        if len(self.clusters) not in (0, len(self.group_names)):
            raise ValueError(
                f"{len(self.group_names)} groups need as many clusters, got {len(self.clusters)}"
            )

    @functools.cached_property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the images' fingerprint and `HASHED`."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for field in self.HASHED:
            array = getattr(self, field)
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, "<i8").data)
        return digest.hexdigest()[:12]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials(TrialList):
    """N-way K-shot trials: R runs of Q queries that share N * K supports.

    Attributes:
        supports: (R, N, K) int rows of `images`.
        queries: (R, Q) int rows of `images`.
        answers: (R, Q) int, the position in 0 .. N - 1 of the right class.
        groups: (R, Q) int.

    Raises:
        ValueError: the shapes do not fit, or a trial meets its own image.
    """

    ROWS = ("supports", "queries")
    HASHED = ("supports", "queries", "answers", "groups")

    supports: np.ndarray
    queries: np.ndarray
    answers: np.ndarray

    def __post_init__(self) -> None:
        if self.supports.ndim != 3 or self.queries.ndim != 2:
            raise ValueError(
                "supports must be (R, N, K) and queries (R, Q), got "
                f"{self.supports.shape} and {self.queries.shape}"
            )
        shapes = {self.queries.shape, self.answers.shape, self.groups.shape}
        if len(shapes) != 1 or len(self.supports) != len(self.queries) or self.queries.size == 0:
            raise ValueError(
                f"queries {self.queries.shape}, answers {self.answers.shape}, groups "
                f"{self.groups.shape} and {len(self.supports)} support sets do not fit together"
            )
        self.check()
        check_below("answers", self.answers, self.n_way)
        flat = self.supports.reshape(len(self.supports), 1, -1)
        met = np.argwhere((self.queries[..., None] == flat).any(-1))
        if len(met):
            raise ValueError(f"query {met[0][1]} of run {met[0][0]} is one of its own supports")

    @property
    def n_way(self) -> int:
        """Classes a trial."""
        return self.supports.shape[1]

    @property
    def k_shot(self) -> int:
        """Support images a class."""
        return self.supports.shape[2]

    @property
    def num_trials(self) -> int:
        """Number of queries over all runs."""
        return self.queries.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerificationPairs(TrialList):
    """P pairs for verification.

    Attributes:
        first: (P,) int rows of `images`.
        second: (P,) int rows of `images`; or (P, K) where a pair is a claim with up to K
            references, its row ending in -1 where it has fewer.
        labels: (P,) int, 1 = same class, 0 = different.
        groups: (P,) int, of the first image.
        names: what each image is called, such as its file; empty where they have none. No part of
            the hash.

    Raises:
        ValueError: the shapes do not fit, or an image is paired with itself.
    """

    ROWS = ("first",)
    HASHED = ("first", "second", "labels", "groups")

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shapes = {x.shape for x in (self.first, self.labels, self.groups)}
        shapes.add(self.second.shape[:1])
        if len(shapes) != 1 or self.first.ndim != 1 or len(self.first) == 0:
            raise ValueError(f"first, second, labels and groups must be (P,), got {sorted(shapes)}")
        if len(self.names) not in (0, len(self.images)):
            raise ValueError(f"{len(self.images)} images need as many names: {len(self.names)}")
        references = self.references
        gaps = (references[:, 1:] >= 0)[references[:, :-1] < 0]
        if (self.num_references < 1).any() or gaps.any():
            raise ValueError("each pair needs a reference, and its row of `second` ends in -1")
        self.check()
        check_below("rows", references[references >= 0], len(self.images))
        check_below("labels", self.labels, 2)
        met = np.flatnonzero((self.first[:, None] == references).any(1))
        if len(met):
            raise ValueError(f"pair {met[0]} is an image with itself")

    @property
    def references(self) -> np.ndarray:
        """(P, K) int rows of `images`, -1 where a pair has fewer than K."""
        return self.second.reshape(len(self.second), -1)

    @property
    def num_references(self) -> np.ndarray:
        """(P,) int, how many references each pair has."""
        return (self.references >= 0).sum(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(TrialList):
    """Retrieval queries: each is an image that has to find its class among all other images.

    Attributes:
        classes: (M,) int class of each image; all images are searched.
        queries: (Q,) int rows of `images`, each with another image of its class.
        groups: (Q,) int.

    Raises:
        ValueError: the shapes do not fit, or a query's class has no other image.
    """

    ROWS = ("queries",)
    HASHED = ("queries", "classes", "groups")

    classes: np.ndarray
    queries: np.ndarray

    def __post_init__(self) -> None:
        if self.classes.shape != (len(self.images),):
            raise ValueError(
                f"{len(self.images)} images need as many classes: {self.classes.shape}"
            )
        one_each = self.queries.shape == self.groups.shape
        if self.queries.ndim != 1 or not one_each or not len(self.queries):
            raise ValueError(
                f"queries and groups must be (Q,), got {self.queries.shape} and {self.groups.shape}"
            )
        self.check()
        if self.relevant.min() < 1:
            row = self.queries[self.relevant.argmin()]
            raise ValueError(f"query {row} has no other image of its class to find")

    @functools.cached_property
    def relevant(self) -> np.ndarray:
        """(Q,) int, how many other images of its class each query has."""
        return np.bincount(self.classes)[self.classes[self.queries]] - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impostors(TrialList):
    """Probes, and names that could be enrolled: what a threshold against false alarms is chosen on.

    Attributes:
        supports: (G, K) int rows of `images`: the K references of each name.
        support_classes: (G,) int class of each name; several names may share one.
        queries: (P,) int rows of `images`.
        query_classes: (P,) int.
        groups: (P,) int.

    Raises:
        ValueError: the shapes do not fit.
    """

    ROWS = ("supports", "queries")
    HASHED = ("supports", "support_classes", "queries", "query_classes", "groups")

    supports: np.ndarray
    support_classes: np.ndarray
    queries: np.ndarray
    query_classes: np.ndarray

    def __post_init__(self) -> None:
        shapes = {x.shape for x in (self.queries, self.query_classes, self.groups)}
        names = self.supports.shape[:1] == self.support_classes.shape and self.supports.ndim == 2
        if len(shapes) != 1 or self.queries.ndim != 1 or not names:
            raise ValueError(
                "queries, query_classes and groups must be (P,), supports (G, K) and "
                f"support_classes (G,), got {sorted(shapes)}, {self.supports.shape} and "
                f"{self.support_classes.shape}"
            )
        self.check()

    @property
    def other(self) -> np.ndarray:
        """(P, G) bool, whether a name is of another class than the probe."""
        return self.query_classes[:, None] != self.support_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenSet(TrialList):
    """An identification test: which of N enrolled classes is this, or is it none of them?

    Attributes:
        supports: (N, K) int rows of `images`: the K references of each enrolled class.
        queries: (P,) int rows of `images`: probes of enrolled classes.
        answers: (P,) int, the position in 0 .. N - 1 of each probe's class.
        impostors: (U,) int rows of `images`: probes of classes that are not enrolled.
        groups: (P,) int.

    Raises:
        ValueError: the shapes do not fit, or a probe is a reference.
    """

    ROWS = ("supports", "queries", "impostors")
    HASHED = ("supports", "queries", "answers", "impostors", "groups")

    supports: np.ndarray
    queries: np.ndarray
    answers: np.ndarray
    impostors: np.ndarray

    def __post_init__(self) -> None:
        shapes = {x.shape for x in (self.queries, self.answers, self.groups)}
        if len(shapes) != 1 or self.queries.ndim != 1 or self.supports.ndim != 2:
            raise ValueError(
                "queries, answers and groups must be (P,) and supports (N, K), got "
                f"{sorted(shapes)} and {self.supports.shape}"
            )
        if not len(self.queries) or not len(self.impostors):
            raise ValueError("an open set needs probes of enrolled classes and of others")
        self.check()
        check_below("answers", self.answers, len(self.supports))
        probes = np.concatenate([self.queries, self.impostors])
        if np.isin(probes, self.supports).any() or len(np.unique(probes)) < len(probes):
            raise ValueError("a probe is a reference, or comes twice")

    @property
    def k_shot(self) -> int:
        """References an enrolled class."""
        return self.supports.shape[1]


def check_below(what: str, array: np.ndarray, limit: int) -> None:
    """Raises ValueError where a number of `array` is not in 0 .. limit - 1."""
    if array.min() < 0 or array.max() >= limit:
        raise ValueError(f"{what} must be in 0 .. {limit - 1}, got {array.min()} .. {array.max()}")
