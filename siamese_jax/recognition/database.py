"""What a large gallery needs of a database: rows in transactions, and an index of short vectors.

`sqlite` gives it in a file and `postgres` on a server. `records` writes and reads the rows, in SQL that
both understand: a value's place is `?`, and tables have the same names and columns.
"""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

FORMAT = 1
WAIT = 30.0  # seconds for another writer


class Index(abc.ABC):
    """An index that takes in references until it is saved."""

    @abc.abstractmethod
    def add(self, ids: np.ndarray, projected: np.ndarray) -> None:
        """Takes in references.

        Args:
            ids: (n,) int64 their numbers.
            projected: (n, C) float32, see `shortlist.Projection`.
        """

    @abc.abstractmethod
    def save(self) -> dict[str, Any]:
        """Writes it, and returns the facts by which its database finds it again."""


class Database(abc.ABC):
    """The tables of one gallery.

    An error of the database becomes a ValueError of one line that names the place, of `many` where
    `writing` ends.

    Attributes:
        place: a path, or a URL without its password.
    """

    place: pathlib.Path | str

    @abc.abstractmethod
    def close(self) -> None:
        """Closes it."""

    @abc.abstractmethod
    def rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        """All rows of a query."""

    @abc.abstractmethod
    def many(self, query: str, rows: Iterable[Sequence]) -> None:
        """Runs a change once for each row of values, in a writing transaction."""

    @abc.abstractmethod
    def reading(self) -> AbstractContextManager[None]:
        """All that is read inside is of one moment."""

    @abc.abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """All that is changed inside is changed at once, or nothing is; one process writes at a time."""

    @abc.abstractmethod
    def mark(self) -> Hashable:
        """Something that is another one after another process has changed anything."""

    @abc.abstractmethod
    def forget(self, ids: Sequence[int] | None) -> None:
        """Takes references out of an index that lies in the database, in a writing transaction.

        Args:
            ids: their numbers; None for all.
        """

    @abc.abstractmethod
    def after_removal(self) -> None:
        """Overwrites what was removed, where the database leaves that to its user."""

    # ----------------------------------------------------------------------------------- the index

    @abc.abstractmethod
    def index_fault(self) -> str:
        """Why there can be no index, or nothing."""

    @abc.abstractmethod
    def indexing(self) -> AbstractContextManager[None]:
        """Inside references are taken in.

        A writing transaction where the index is in the database. Elsewhere two processes can make an
        index at once: the one that is done later has to see that and to give up, as `Store.index` does.
        """

    @abc.abstractmethod
    def new_index(self, components: int) -> Index:
        """An index without references, of vectors of a given number of components."""

    @abc.abstractmethod
    def index_to_extend(self, facts: Mapping[str, Any]) -> Index | None:
        """The index with these facts, without removed references; None where it is lost or damaged."""

    @abc.abstractmethod
    def nearest(
        self, facts: Mapping[str, Any], projected: np.ndarray, count: int
    ) -> list[np.ndarray] | None:
        """Numbers of the references whose short vectors are nearest, about `count` a query.

        Args:
            facts: of the index.
            projected: (Q, C) float32.
            count: how many.

        Returns:
            Q arrays of int64; None where the index cannot be used.
        """

    @abc.abstractmethod
    def after_index(self, facts: Mapping[str, Any] | None) -> None:
        """Does what is left to do after the index has become the one with these facts, or none."""


def busy(place: pathlib.Path | str) -> ValueError:
    """The error of a writer that waited for another one in vain."""
    return ValueError(
        f"{place}: another process has been writing for {WAIT:g} seconds: nothing is written, give the "
        "command again"
    )
