"""The database of a large gallery in an SQLite file, with the index (usearch) in a file beside it.

A change goes through the write-ahead log, so others read meanwhile; an open gallery has two more files.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_jax.recognition import database

if TYPE_CHECKING:
    import usearch.index

_MAGIC = b"SQLite format 3\0"
_APPLICATION = 0x534A4758
_PAGE = 16_384  # bytes: seven embeddings of 512 numbers
_CACHE = 32_768  # kibibytes
_SCHEMA = """
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE name (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE reference (id INTEGER PRIMARY KEY, name INTEGER NOT NULL, source BLOB NOT NULL,
  picture TEXT NOT NULL UNIQUE, seal BLOB NOT NULL);
CREATE INDEX reference_name ON reference (name);
CREATE TABLE thumbnail (id INTEGER PRIMARY KEY, png BLOB NOT NULL);
CREATE TABLE embedding (id INTEGER PRIMARY KEY, data BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE projection (id INTEGER PRIMARY KEY, features INTEGER, data BLOB, digest BLOB);
"""


def is_database(path: str | os.PathLike) -> bool:
    """Whether a file is an SQLite database."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class Sqlite(database.Database):
    """The tables of a gallery in an SQLite file.

    Args:
        path: of the file.
        new: whether to make it, for the owner only, with empty tables.

    Raises:
        ValueError: no such file, or one that is damaged or no large gallery.
    """

    place: pathlib.Path

    def __init__(self, path: str | os.PathLike, new: bool = False):
        self.place = pathlib.Path(path).expanduser().resolve()
        if new:
            os.close(os.open(self.place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        elif not self.place.is_file():
            raise ValueError(f"{self.place}: no such gallery; `enrol NAME IMAGE...` makes one")
        self._opened: tuple[str, usearch.index.Index | None] | None = None  # the index and its file
        with self._translated_errors():
            self._db = _connect(self.place)
            try:
                self._open(new)
            except BaseException:
                self._db.close()
                raise

    def _open(self, new: bool) -> None:
        """Makes the tables of a new file, and sees that it is a gallery."""
        for setting in ("synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE}")
        if new:
            self._db.execute(f"PRAGMA page_size = {_PAGE}")
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {database.FORMAT}")
            self._db.executescript(_SCHEMA)
        application, version = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if application != _APPLICATION:
            raise ValueError(f"{self.place}: it is another program's database")
        if version != database.FORMAT:
            raise ValueError(
                f"{self.place}: it is of format {version}, this version reads {database.FORMAT}"
            )
        self._db.execute("PRAGMA journal_mode = WAL")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        """All rows of a query."""
        with self._translated_errors():
            return self._db.execute(query, values).fetchall()

    def many(self, query: str, rows: Iterable[Sequence]) -> None:
        """Runs a change once for each row of values, in a writing transaction."""
        self._db.executemany(query, rows)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """All that is read inside is of one moment."""
        with self._translated_errors():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All that is changed inside is changed at once, or nothing is."""
        with self._translated_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def mark(self) -> Hashable:
        """Counts the changes of other connections."""
        return self.rows("PRAGMA data_version")[0][0]

    def forget(self, ids: Sequence[int] | None) -> None:
        """Nothing: the file of the index forgets when it is written again."""

    def after_removal(self) -> None:
        """Puts the log into the file, unless somebody is reading it; what was removed is zeros then."""
        with self._translated_errors():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # ----------------------------------------------------------------------------------- the index

    def index_fault(self) -> str:
        """Whether usearch is missing."""
        from siamese_jax.recognition import shortlist

        if shortlist.is_installed():
            return ""
        return "an index needs usearch, the extra [ann]: pip install usearch"

    def indexing(self) -> contextlib.AbstractContextManager[None]:
        """No transaction: the index is a new file until it is named in one."""
        return contextlib.nullcontext()

    def new_index(self, components: int) -> database.Index:
        """An index without references."""
        from siamese_jax.recognition import shortlist

        return _File(self.place, shortlist.empty(components))

    def index_to_extend(self, facts: Mapping[str, Any]) -> database.Index | None:
        """The index of a file in memory, without what was removed since it was written."""
        from siamese_jax.recognition import shortlist

        graph = shortlist.opened(self.place.with_name(facts["file"]), facts["digest"], view=False)
        if graph is None:
            return None
        live = np.array([i for (i,) in self.rows("SELECT id FROM reference")], np.int64)
        if len(gone := np.setdiff1d(np.asarray(graph.keys, np.int64), live)):
            graph.remove(gone)
        return _File(self.place, graph)

    def nearest(
        self, facts: Mapping[str, Any], projected: np.ndarray, count: int
    ) -> list[np.ndarray] | None:
        """Numbers of the nearest references; the index's file is opened once."""
        from siamese_jax.recognition import shortlist

        if self._opened is None or self._opened[0] != facts["file"]:
            path = self.place.with_name(facts["file"])
            self._opened = facts["file"], shortlist.opened(path, facts["digest"])
        graph = self._opened[1]
        if graph is None:
            return None
        keys = np.asarray(graph.search(projected, count).keys).reshape(len(projected), -1)
        return list(keys.astype(np.int64))

    def after_index(self, facts: Mapping[str, Any] | None) -> None:
        """Removes the files of other indexes."""
        for path in self.place.parent.glob("*.ann"):
            stem, _, token = path.name.removesuffix(".ann").rpartition(".")
            ours = stem == self.place.name and len(token) == 8
            if ours and (facts is None or path.name != facts["file"]):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Errors of SQLite in one line that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise database.busy(self.place) from None
            raise ValueError(f"{self.place}: cannot be used ({error})") from None
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.place}: damaged, or no gallery ({error})") from None


class _File(database.Index):
    """An index that is saved as a new file beside the gallery."""

    def __init__(self, place: pathlib.Path, graph: usearch.index.Index):
        self._place, self._graph = place, graph

    def add(self, ids: np.ndarray, projected: np.ndarray) -> None:
        from siamese_jax.recognition import shortlist

        shortlist.add(self._graph, ids, projected)

    def save(self) -> dict[str, Any]:
        from siamese_jax.recognition import shortlist

        path = self._place.with_name(f"{self._place.name}.{secrets.token_hex(4)}.ann")
        return {"file": path.name, "digest": shortlist.save(self._graph, path)}


def _connect(path: pathlib.Path) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode=rw"
    return sqlite3.connect(uri, timeout=database.WAIT, isolation_level=None, uri=True)
