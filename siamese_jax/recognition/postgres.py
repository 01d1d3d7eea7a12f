"""The database of a gallery on a PostgreSQL server, with the index by its extension pgvector.

    postgresql://USER@HOST/DATABASE#NAME

NAME is a schema of the database (`gallery` where none is given). Who may do what, copies and backups are
the database's. The index lies in the same tables, so it changes within the same transactions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from siamese_jax.recognition import database
from siamese_jax.recognition.postgres_connection import Address, connect, translated_errors

_COMMENT = f"gallery of siamese_jax, format {database.FORMAT}"
_MOST = 1000  # candidates of a search that pgvector allows
# An embedding of up to 2,000 numbers lies in its row, for quick random access; it would not pack.
_SCHEMA = """
CREATE TABLE fact (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE name (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL UNIQUE);
CREATE TABLE reference (id bigint PRIMARY KEY, name bigint NOT NULL, source bytea NOT NULL,
  picture text NOT NULL UNIQUE, seal bytea NOT NULL);
CREATE INDEX reference_name ON reference (name);
CREATE TABLE thumbnail (id bigint PRIMARY KEY, png bytea NOT NULL);
CREATE TABLE embedding (id bigint PRIMARY KEY, data bytea NOT NULL, digest bytea NOT NULL)
  WITH (toast_tuple_target = 8160);
ALTER TABLE embedding ALTER data SET STORAGE EXTERNAL;
CREATE TABLE projection (id bigint PRIMARY KEY, features bigint, data bytea, digest bytea);
CREATE TABLE projected (id bigint PRIMARY KEY, short vector NOT NULL);
CREATE TABLE change (number bigint NOT NULL);
INSERT INTO change VALUES (0);
"""


def exists(url: str) -> bool:
    """Whether a database has the gallery of a URL.

    Raises:
        ValueError: the database cannot be reached, or the gallery's schema is another program's.
    """
    address = Address.of(url)
    with contextlib.closing(connect(address)) as connection, translated_errors(address):
        return _has_gallery(connection, address)


class Postgres(database.Database):
    """The tables of a gallery in a schema of a PostgreSQL database.

    Args:
        url: of the gallery.
        new: whether its tables are made in the first writing transaction.

    Raises:
        ValueError: the server, the database, the extension pgvector or the gallery is not there, or with
            `new` there is one.
    """

    place: str

    def __init__(self, url: str, new: bool = False):
        self._address = Address.of(url)
        self.place = self._address.shown
        self._new, self._is_writing = new, False
        self._connection = connect(self._address)
        try:
            with translated_errors(self._address):
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        """Finds the extension and the gallery."""
        from psycopg import sql

        extensions = self._own(
            "SELECT nspname, extversion FROM pg_extension "
            "JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector'"
        )
        if not extensions:
            raise ValueError(
                f"{self.place}: the database has no extension vector (pgvector): its owner "
                "or an administrator makes it by CREATE EXTENSION vector"
            )
        there = _has_gallery(self._connection, self._address)
        if there and self._new:
            raise _made_meanwhile(self._address)
        if not there and not self._new:
            raise ValueError(f"{self.place}: no such gallery; `enrol NAME IMAGE...` makes one")
        name = self._address.name
        if there and not self._own("SELECT has_schema_privilege(%s, 'USAGE')", [name])[0][0]:
            raise ValueError(
                f"{self.place}: cannot be used: its owner has to GRANT USAGE ON SCHEMA, and SELECT or "
                "ALL on its tables"
            )
        [(schema, version)] = extensions
        self._resumes_search = [int(part) for part in version.split(".")[:2]] >= [0, 8]
        path = map(sql.Identifier, (name, schema))
        self._connection.execute(sql.SQL("SET search_path TO {}, {}").format(*path))

    def close(self) -> None:
        """Closes the connection; what is not committed is undone."""
        self._connection.close()

    def rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        """All rows of a query."""
        with translated_errors(self._address):
            return self._own(_translated(query), values)

    def many(self, query: str, rows: Iterable[Sequence]) -> None:
        """Runs a change once for each row of values, in a writing transaction."""
        with translated_errors(self._address), self._connection.cursor() as cursor:
            cursor.executemany(_translated(query), rows)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """All that is read inside is of one moment."""
        with self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All that is changed inside is changed at once, or nothing is.

        Another writer is waited for, and what it has changed is seen. A transaction inside of another
        is part of that.
        """
        if self._is_writing:
            yield
            return
        with self._transaction("BEGIN ISOLATION LEVEL READ COMMITTED"):
            self._is_writing = True
            try:
                wait = f"{1000 * database.WAIT:.0f}ms"
                self._own("SELECT set_config('lock_timeout', %s, true)", [wait])
                if self._new:
                    self._make_tables()
                self._own("LOCK TABLE fact IN SHARE ROW EXCLUSIVE MODE")
                yield
                self._own("UPDATE change SET number = number + 1")
            finally:
                self._is_writing = False
        self._new = False

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with translated_errors(self._address):
            self._own(begin)
            try:
                yield
                self._own("COMMIT")
            except BaseException:
                if not self._connection.closed:
                    self._own("ROLLBACK")
                raise

    def mark(self) -> Hashable:
        """Counts all transactions that wrote."""
        return self.rows("SELECT number FROM change")[0][0]

    def forget(self, ids: Sequence[int] | None) -> None:
        """Takes references out of the index, in a writing transaction; with all of them, the graph."""
        if ids is not None:
            self._own("DELETE FROM projected WHERE id = ANY(%s)", [list(ids)])
            return
        self._own("DROP INDEX IF EXISTS projected_short")
        self._own("DELETE FROM projected")

    def after_removal(self) -> None:
        """Nothing: the server overwrites what was deleted when it vacuums."""

    # ----------------------------------------------------------------------------------- the index

    def index_fault(self) -> str:
        """Nothing: an open gallery has pgvector."""
        return ""

    def indexing(self) -> contextlib.AbstractContextManager[None]:
        """A writing transaction: short vectors change with the facts that say which there are."""
        return self.writing()

    def new_index(self, components: int) -> database.Index:
        """An index without references; the old one goes."""
        self.forget(None)
        return _Table(self, components)

    def index_to_extend(self, facts: Mapping[str, Any]) -> database.Index | None:
        """The index, which `forget` keeps free of removed references."""
        return _Table(self, facts["components"])

    def nearest(
        self, facts: Mapping[str, Any], projected: np.ndarray, count: int
    ) -> list[np.ndarray] | None:
        """Numbers of the nearest references, by one query each, in a transaction."""
        type_ = f"vector({int(facts['components'])})"
        query = f"SELECT id FROM projected ORDER BY short::{type_} <-> %s::{type_} LIMIT %s"
        with translated_errors(self._address):
            settings = {"hnsw.ef_search": str(min(max(count, 1), _MOST))}
            if self._resumes_search:  # where it meets removed references
                settings["hnsw.iterative_scan"] = "strict_order"
            for name, value in settings.items():
                self._own("SELECT set_config(%s, %s, true)", [name, value])
            return [
                np.array([i for (i,) in self._own(query, [_text(row), count])], np.int64)
                for row in projected
            ]

    def after_index(self, facts: Mapping[str, Any] | None) -> None:
        """Makes the graph of the short vectors where there is none; without it all of them are compared.

        It takes minutes for a large gallery. Others enrol meanwhile; whoever removes a name waits.
        """
        from siamese_jax.recognition import shortlist

        if facts is None:
            return
        components = int(facts["components"])
        with self._transaction("BEGIN"):
            self._own("LOCK TABLE projected IN SHARE ROW EXCLUSIVE MODE")
            if self._own("SELECT vector_dims(short) FROM projected LIMIT 1") != [(components,)]:
                return  # another process has made another index by now
            self._own(
                "CREATE INDEX IF NOT EXISTS projected_short ON projected USING hnsw "
                f"((short::vector({components})) vector_l2_ops) "
                f"WITH (m = {shortlist.CONNECTIVITY}, ef_construction = {shortlist.BUILD})"
            )
            self._own("ANALYZE projected")

    def _make_tables(self) -> None:
        """Makes the tables of a new gallery, for its owner only."""
        from psycopg import errors, sql

        schema = sql.Identifier(self._address.name)
        try:
            if not self._own("SELECT 1 FROM pg_namespace WHERE nspname = %s", [self._address.name]):
                self._connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            self._connection.execute(_SCHEMA)
            comment = sql.SQL("COMMENT ON TABLE fact IS {}").format(sql.Literal(_COMMENT))
            self._connection.execute(comment)
        except (errors.DuplicateSchema, errors.DuplicateTable, errors.UniqueViolation):
            raise _made_meanwhile(self._address) from None

    def _own(self, query: str, values: Sequence = ()) -> list[tuple]:
        """The rows of a query that is written for this database; without errors in one line."""
        cursor = self._connection.cursor(binary=True)
        cursor.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    def copy(self, query: str, rows: Iterable[Sequence]) -> None:
        """Takes many rows into a table."""
        with (
            translated_errors(self._address),
            self._connection.cursor() as cursor,
            cursor.copy(query) as copy,
        ):
            for row in rows:
                copy.write_row(row)


class _Table(database.Index):
    """The short vectors of references in their table."""

    def __init__(self, db: Postgres, components: int):
        self._db, self._components = db, components

    def add(self, ids: np.ndarray, projected: np.ndarray) -> None:
        rows = ((int(i), _text(vector)) for i, vector in zip(ids, projected, strict=True))
        self._db.copy("COPY projected (id, short) FROM STDIN", rows)

    def save(self) -> dict[str, Any]:
        return {"components": self._components}


def _has_gallery(connection: Any, address: Address) -> bool:
    """Whether the schema is a gallery.

    Raises:
        ValueError: it is another program's.
    """
    query = (
        "SELECT relname, obj_description(pg_class.oid, 'pg_class') FROM pg_class "
        "JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = %s"
    )
    comments = dict(connection.execute(query, [address.name]).fetchall())
    if comments and comments.get("fact") != _COMMENT:
        raise ValueError(
            f"{address.shown}: the schema {address.name} is another program's, or its format is "
            f"not {database.FORMAT}: give the gallery another name after the #"
        )
    return bool(comments)


def _made_meanwhile(address: Address) -> ValueError:
    return ValueError(
        f"{address.shown} was made by another process in the meantime: nothing is written, give the "
        "command again"
    )


def _translated(query: str) -> str:
    """A query with psycopg's signs for the places of values."""
    return query.replace("%", "%%").replace("?", "%s")


def _text(vector: np.ndarray) -> str:
    return f"[{','.join(map(repr, vector.tolist()))}]"
