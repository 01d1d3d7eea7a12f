"""The rows of a large gallery: every one is written with a digest, and checked against it when read.

A reference's seal covers all that it consists of. Facts (the network, the calibration, the counts, the
index) are JSON with a digest each.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from siamese_jax.recognition.database import Database
from siamese_jax.recognition.gallery import Reference, composed

if TYPE_CHECKING:
    from siamese_jax.recognition import shortlist

BLOCK = 2**14  # references that are read or compared at a time
_HELD = 2**31  # bytes of embeddings that are kept in memory between questions
_T = TypeVar("_T")


class Records:
    """Rows, verified against their digests when read.

    Args:
        db: where they lie.
    """

    def __init__(self, db: Database):
        self.db = db
        # (change, blocks), see `blocks`; and (digest, components), see `projection`
        self._held: tuple[tuple, list[tuple[np.ndarray, np.ndarray]]] | None = None
        self._components: tuple[bytes, shortlist.Projection] | None = None

    def damaged(self, what: str) -> ValueError:
        """The error of a row that is not what was written."""
        return ValueError(f"{self.db.place}: damaged: {what}")

    # -------------------------------------------------------------------------------------- facts

    def fact(self, key: str) -> Any:
        """A fact of the gallery."""
        rows = self.db.rows("SELECT value FROM fact WHERE key = ?", [key])
        if not rows:
            raise self.damaged(f"it has no {key}")
        try:
            value = json.loads(rows[0][0])
            intact = _blake(json.dumps(value["is"]).encode()).hex() == value["digest"]
        except (ValueError, KeyError, TypeError):  # no JSON, or another one
            intact = False
        if not intact:
            raise self.damaged(f"its {key} is not what was written")
        return value["is"]

    def set_fact(self, key: str, value: Any) -> None:
        """Writes a fact, in a transaction."""
        value = json.loads(json.dumps(value))
        kept = {"is": value, "digest": _blake(json.dumps(value).encode()).hex()}
        self.db.many(
            "INSERT INTO fact (key, value) VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [(key, json.dumps(kept))],
        )

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.fact("network")[2]

    # ------------------------------------------------------------------------------------ writing

    def insert(self, references: Sequence[Reference], embeddings: np.ndarray) -> None:
        """Adds references, in a transaction."""
        total, names, first = self.fact("counts")
        embeddings = np.ascontiguousarray(embeddings, "<f4")
        if first == 0 and self.width == 0:  # nothing was ever enrolled
            self.set_fact("network", [*self.fact("network")[:2], embeddings.shape[1]])
        if embeddings.shape != (len(references), self.width):
            raise ValueError(
                f"{len(references)} references need embeddings of {self.width} numbers"
            )
        numbers = {}
        for text in dict.fromkeys(reference.name for reference in references):
            query = "SELECT id FROM name WHERE text = ?"
            if not self.db.rows(query, [text]):
                self.db.many("INSERT INTO name (text) VALUES (?)", [(text,)])
                names += 1
            numbers[text] = self.db.rows(query, [text])[0][0]
        rows, thumbnails, kept = [], [], []
        for number, (r, embedding) in enumerate(zip(references, embeddings, strict=True), first):
            data, digest = _packed(embedding)
            seal = _seal(number, r, digest)
            rows.append((number, numbers[r.name], os.fsencode(r.source), r.digest, seal))
            thumbnails.append((number, r.thumbnail))
            kept.append((number, data, digest))
        self.db.many("INSERT INTO reference VALUES (?, ?, ?, ?, ?)", rows)
        self.db.many("INSERT INTO thumbnail VALUES (?, ?)", thumbnails)
        self.db.many("INSERT INTO embedding VALUES (?, ?, ?)", kept)
        self.set_fact("counts", [total + len(rows), names, first + len(rows)])

    def embed_anew(self, references: Mapping[int, Reference], embeddings: np.ndarray) -> None:
        """Replaces the embeddings of references, by number, in a transaction."""
        data, seals = [], []
        for (number, r), embedding in zip(references.items(), embeddings, strict=True):
            packed, digest = _packed(embedding)
            data.append((packed, digest, number))
            seals.append((_seal(number, r, digest), number))
        self.db.many("UPDATE embedding SET data = ?, digest = ? WHERE id = ?", data)
        self.db.many("UPDATE reference SET seal = ? WHERE id = ?", seals)

    def delete(self, name: str) -> None:
        """Deletes a name and its references, in a transaction."""
        ids = self.ids_of(name)
        for table in ("embedding", "thumbnail", "reference"):
            self.db.many(f"DELETE FROM {table} WHERE id = ?", [(i,) for i in ids])
        self.db.many("DELETE FROM name WHERE text = ?", [(composed(name),)])
        self.db.forget(ids)
        references, names, following = self.fact("counts")
        self.set_fact("counts", [references - len(ids), names - 1, following])

    # --------------------------------------------------------------------------------- references

    def ids_of(self, name: str) -> list[int]:
        """Numbers of a name's references."""
        rows = self.db.rows(
            "SELECT reference.id FROM reference JOIN name ON name.id = name WHERE text = ? "
            "ORDER BY reference.id",
            [composed(name)],
        )
        return [number for (number,) in rows]

    def references(self, ids: Iterable[int]) -> dict[int, Reference]:
        """References by their numbers, in this order.

        Raises:
            ValueError: one is missing, or not what was written.
        """
        numbers = [int(number) for number in ids]
        rows = self.rows_with(
            "SELECT reference.id, text, source, picture, png, embedding.digest, seal FROM reference "
            "JOIN name ON name.id = name JOIN thumbnail ON thumbnail.id = reference.id "
            "JOIN embedding ON embedding.id = reference.id",
            "reference.id",
            numbers,
        )
        by_number = {}
        for number, name, source, picture, png, embedding, seal in rows:
            reference = Reference(name, os.fsdecode(source), picture, png)
            if _seal(number, reference, embedding) != seal:
                raise self.damaged(f"reference {number} is not what was written")
            by_number[number] = reference
        return self.ordered(by_number, numbers)

    def rows_with(self, query: str, column: str, values: Iterable) -> Iterator[tuple]:
        """The rows in which a column has one of many values."""
        values = list(values)
        for start in range(0, len(values), 500):
            part = values[start : start + 500]
            marks = ", ".join("?" * len(part))
            yield from self.db.rows(f"{query} WHERE {column} IN ({marks})", part)

    def ordered(self, by_number: Mapping[int, _T], ids: Iterable[int]) -> dict[int, _T]:
        """The entry of each of some numbers, in their order; ValueError where one is missing."""
        numbers = [int(number) for number in ids]
        missing = [number for number in numbers if number not in by_number]
        if missing:
            raise self.damaged(f"reference {missing[0]} is missing")
        return {number: by_number[number] for number in numbers}

    # --------------------------------------------------------------------------------- embeddings

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and embeddings of all references, kept in memory while nothing changes."""
        network = self.fact("network")
        total, _, following = counts = self.fact("counts")
        change = self.db.mark(), counts, network
        if self._held is None or self._held[0] != change:
            self.release()
            kept, total_read = [], 0
            for start in range(0, following, BLOCK):
                kept.append(self.between(start, min(start + BLOCK, following)))
                total_read += len(kept[-1][0])
                yield kept[-1]
                if 4 * total * network[2] > _HELD:
                    kept.clear()
            if total_read != total:
                raise self.damaged(f"it has {total_read} of {total} references")
            if kept:
                self._held = change, kept
            return
        yield from self._held[1]

    def release(self) -> None:
        """Frees the memory of embeddings that are kept."""
        self._held = None

    def between(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and embeddings of the references from `begin` up to `end`."""
        query = "SELECT id, data, digest FROM embedding WHERE id >= ? AND id < ? ORDER BY id"
        return self._unpacked(self.db.rows(query, [begin, end]))

    def embeddings(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of these numbers those that are enrolled, rising, and their embeddings."""
        numbers = [int(number) for number in ids]
        return self._unpacked(
            sorted(self.rows_with("SELECT id, data, digest FROM embedding", "id", numbers))
        )

    def sample(self, count: int) -> np.ndarray:
        """Embeddings of at most `count` references drawn evenly, in the order of enrolment."""
        rows = self.db.rows("SELECT id FROM reference ORDER BY id")
        ids = np.array([number for (number,) in rows], np.int64)
        return self.embeddings(ids[:: max(1, -(-len(ids) // count))])[1]

    def _unpacked(self, rows: Iterable[tuple[int, bytes, bytes]]) -> tuple[np.ndarray, np.ndarray]:
        """The numbers and embeddings of rows of the table."""
        width = self.width
        ids, parts = [], []
        for number, data, digest in rows:
            if len(data) != 4 * width or _blake(data) != digest:
                raise self.damaged(f"embedding {number} is not what was written")
            ids.append(number)
            parts.append(data)
        embeddings = np.frombuffer(b"".join(parts), "<f4").reshape(len(ids), width)
        return np.array(ids, np.int64), embeddings

    # --------------------------------------------------------------------------------- components

    def projection(self) -> shortlist.Projection | None:
        """The principal components of the index."""
        from siamese_jax.recognition import shortlist

        rows = self.db.rows("SELECT digest FROM projection")
        if not rows:
            return None
        if self._components is None or self._components[0] != rows[0][0]:
            [(size, data, digest)] = self.db.rows("SELECT features, data, digest FROM projection")
            if _blake(data) != digest:
                raise self.damaged("the index's components are not what was written")
            mean, *columns = np.frombuffer(data, "<f4").reshape(-1, size)
            matrix = np.ascontiguousarray(np.stack(columns, 1))
            self._components = digest, shortlist.Projection(mean, matrix)
        return self._components[1]

    def set_projection(self, projection: shortlist.Projection) -> None:
        """Writes the principal components of the index, in a transaction."""
        rows = np.concatenate([projection.mean[None], projection.matrix.T])
        data = rows.astype("<f4").tobytes()
        self.db.many("DELETE FROM projection WHERE id = ?", [(1,)])
        self.db.many(
            "INSERT INTO projection VALUES (1, ?, ?, ?)",
            [(len(projection.mean), data, _blake(data))],
        )


def _blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _packed(embedding: np.ndarray) -> tuple[bytes, bytes]:
    """The bytes of an embedding, and their digest."""
    data = np.ascontiguousarray(embedding, "<f4").tobytes()
    return data, _blake(data)


def _seal(number: int, r: Reference, embedding: bytes) -> bytes:
    """The digest of all that a reference consists of; of its embedding the digest is given."""
    digest = hashlib.blake2b(digest_size=16)
    texts = (str(number).encode(), r.name.encode(), os.fsencode(r.source), r.digest.encode())
    for data in (*texts, r.thumbnail, embedding):
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
