"""A large gallery: an SQLite file in which enrolling one costs the same whatever else it holds.

Every change is one transaction: a crash leaves the old gallery or the new one. One process writes at a
time, and any number read meanwhile (SQLite's write-ahead log, two further files beside an open gallery).
Every reference carries digests, and whatever is read is checked against them.

With an index (`Store.index`) the `shortlist.SIZE` references that it finds are compared exactly, and so
are all that were enrolled after it was made. Without one all references are compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tqdm

from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.recognition import gallery as gallery_lib
from siamese_jax.recognition.gallery import Gallery, Reference

if TYPE_CHECKING:
    from usearch.index import Index

    from siamese_jax.data.image_set import ImageSet
    from siamese_jax.inference.comparing import Comparing
    from siamese_jax.recognition import pictures, shortlist

_log = logging.getLogger(__name__)

_MAGIC = b"SQLite format 3\0"
_APPLICATION = 0x534A4758
_FORMAT = 1
_PAGE = 16_384  # bytes: seven embeddings of 512 numbers
_CACHE = 32_768  # kibibytes
_WAIT = 30.0  # seconds for another writer
_T = TypeVar("_T")
_BLOCK = 2**14  # references that are read or compared at a time
_HELD = 2**31  # bytes of embeddings that are kept in memory between questions
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


def is_store(path: str | os.PathLike) -> bool:
    """Whether a file is a large gallery."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def create(path: str | os.PathLike, known: Gallery) -> None:
    """Writes a gallery as a new file, for the owner only; an SQLite file alone, without a log.

    Args:
        path: where no file is yet.
        known: with at least one reference.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with contextlib.closing(_connect(path)) as db:
        db.execute(f"PRAGMA page_size = {_PAGE}")
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {_FORMAT}")
        db.executescript(_SCHEMA)
    new_store = Store(path)
    with contextlib.closing(new_store), new_store._writing():
        calibration = known.calibration and dataclasses.asdict(known.calibration)
        new_store._set("network", [known.fingerprint, known.network, known.embeddings.shape[1]])
        new_store._set("calibration", calibration)
        new_store._set("counts", [0, 0, 0])
        new_store._set("index", None)
        new_store._insert(known.references, known.embeddings)


class Store:
    """A large gallery in its file; what `Gallery` is for a small one.

    Args:
        path: of the file.

    Raises:
        ValueError: no such file, or one that is damaged or no large gallery.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser().resolve()
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such gallery; `enrol NAME IMAGE...` makes one")
        # (change, blocks), see `_blocks`; and (index's file, index, components), see `_index`
        self._held: tuple[tuple, list[tuple[np.ndarray, np.ndarray]]] | None = None
        self._opened: tuple[str, Index | None, shortlist.Projection | None] | None = None
        with self._clearly():
            self._db = _connect(self.path)
            application, version = (
                self._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version")
            )
            if application != _APPLICATION:
                raise ValueError("it is another program's")
            if version != _FORMAT:
                raise ValueError(f"it is of format {version}, this version reads {_FORMAT}")
            self._db.execute("PRAGMA journal_mode = WAL")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    # ------------------------------------------------------------------------------- what it holds

    @property
    def fingerprint(self) -> str:
        """Of the network, see `Comparing.fingerprint`."""
        return self._fact("network")[0]

    @property
    def network(self) -> str:
        """Name of the network, for messages."""
        return self._fact("network")[1]

    @property
    def calibration(self) -> Calibration | None:
        """Threshold and probabilities; None before they are set."""
        fields = self._fact("calibration")
        return None if fields is None else Calibration.of(fields)

    def __len__(self) -> int:
        return self._fact("counts")[0]

    @property
    def name_count(self) -> int:
        """How many names it holds."""
        return self._fact("counts")[1]

    def count_of(self, name: str) -> int:
        """How many references a name has."""
        return self._rows(
            "SELECT count(*) FROM reference JOIN name ON name.id = name WHERE text = ?", [name]
        )[0][0]

    def owners(self, digests: Sequence[str]) -> dict[str, str]:
        """The names that pictures with these digests are references of, by digest."""
        return dict(
            self._in(
                "SELECT picture, text FROM reference JOIN name ON name.id = name",
                "picture",
                digests,
            )
        )

    def similar(self, name: str) -> list[str]:
        """Names to look for one that is not there in: those with the same first letter."""
        rows = self._rows("SELECT text FROM name WHERE text LIKE ? LIMIT 10000", [f"{name[:1]}%"])
        return [text for (text,) in rows]

    def summary(self) -> list[tuple[str, int, str]]:
        """Each name, how many references it has and the file of the first, in order of enrolment."""
        rows = self._rows(
            "SELECT text, count(*), source, min(reference.id) FROM reference JOIN name "
            "ON name.id = name GROUP BY name.id ORDER BY 4"  # SQLite: `source` is of the row of min()
        )
        return [(text, count, os.fsdecode(source)) for text, count, source, _ in rows]

    def part(self, name: str) -> Gallery:
        """The gallery of one name's references.

        Raises:
            ValueError: an unknown name.
        """
        with self._reading():
            rows = self._rows(
                "SELECT reference.id FROM reference JOIN name ON name.id = name WHERE text = ? "
                "ORDER BY reference.id",
                [name],
            )
            if not rows:
                gallery_lib.check_name(self, name)
            ids = np.array([row for (row,) in rows])
            references = tuple(self.references(ids).values())
            fields = self.fingerprint, self.network, references, self._embeddings(ids)[1]
            return Gallery(*fields, self.calibration)

    def references(self, ids: Iterable[int]) -> dict[int, Reference]:
        """References by their numbers, in this order.

        Raises:
            ValueError: one is missing, or not what was written.
        """
        numbers = [int(number) for number in ids]
        rows = self._in(
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
                raise ValueError(
                    f"{self.path}: damaged: reference {number} is not what was written"
                )
            by_number[number] = reference
        return self._each(by_number, numbers)

    # ---------------------------------------------------------------------------------- changing it

    def enrol_all(
        self,
        net: Comparing,
        people: Mapping[str, Sequence[pictures.Picture]],
        add: bool = False,
        progress: bool = False,
    ) -> None:
        """Enrols the references of several names, all of them or none; see `gallery.enrol_all`."""
        gallery_lib.check_network(self, net)
        gallery_lib.check(gallery_lib.faults(self, people, add))
        references, new = gallery_lib.listed(people)
        embeddings = gallery_lib.embed_all(net, new, progress)
        with self._writing():  # what another process has done meanwhile counts
            gallery_lib.check_network(self, net)
            gallery_lib.check(gallery_lib.faults(self, people, add))
            old = self.calibration
            still = old and old.before_enrolment()
            if still is not None and still is not old:
                self._set("calibration", dataclasses.asdict(still))
            self._insert(references, embeddings)

    def remove(self, name: str) -> None:
        """Removes a name; what the file had of it is overwritten, and the calibration stays.

        Raises:
            ValueError: an unknown name.
        """
        with self._writing():
            gallery_lib.check_name(self, name)
            rows = self._rows(
                "SELECT reference.id FROM reference JOIN name ON name.id = name WHERE text = ?",
                [name],
            )
            for table in ("embedding", "thumbnail", "reference"):
                self._db.executemany(f"DELETE FROM {table} WHERE id = ?", rows)
            self._db.execute("DELETE FROM name WHERE text = ?", [name])
            references, names, following = self._fact("counts")
            self._set("counts", [references - len(rows), names - 1, following])
        with self._clearly():  # the log goes into the file, unless somebody is reading it
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def calibrate(
        self, net: Comparing, labelled: ImageSet, rate: float, seed: int = 0, **how: Any
    ) -> None:
        """Learns threshold and probabilities, see `gallery.calibration_of`.

        A bound is of any gallery.
        """
        gallery_lib.check_network(self, net)
        learned = gallery_lib.calibration_of(net, labelled, rate, seed, **how)
        with self._writing():
            gallery_lib.check_network(self, net)  # another process may have changed it meanwhile
            self._set("calibration", dataclasses.asdict(learned))

    def rebuild(self, net: Comparing, progress: bool = False) -> int:
        """Embeds all references by another network; see `gallery.rebuild`.

        Returns:
            The number of references that came from thumbnails.
        """
        from siamese_jax.recognition import scoring

        fresh = gallery_lib.empty(net)
        from_thumbnails = 0
        with self._writing():
            self._set("network", [fresh.fingerprint, fresh.network, net.embedding_size])
            ids = [number for (number,) in self._rows("SELECT id FROM reference ORDER BY id")]
            starts = range(0, len(ids), gallery_lib.BATCH)
            for start in tqdm.tqdm(starts, "embedding", disable=not progress, leave=False):
                part = ids[start : start + gallery_lib.BATCH]
                references = self.references(part)
                images, small = gallery_lib.read_again(net, references.values())
                from_thumbnails += small
                embeddings = scoring.embed(net, images)
                kept = list(map(_packed, embeddings))
                self._db.executemany(
                    "UPDATE embedding SET data = ?, digest = ? WHERE id = ?",
                    [(*row, number) for row, number in zip(kept, references, strict=True)],
                )
                self._db.executemany(
                    "UPDATE reference SET seal = ? WHERE id = ?",
                    [
                        (_seal(number, reference, digest), number)
                        for (number, reference), (_, digest) in zip(
                            references.items(), kept, strict=True
                        )
                    ],
                )
            self._set("calibration", None)
            self._set("index", None)
        self._remove_indexes()
        return from_thumbnails

    def _insert(self, references: Sequence[Reference], embeddings: np.ndarray) -> None:
        """Adds references, in a transaction."""
        total, names, first = self._fact("counts")
        embeddings = np.ascontiguousarray(embeddings, "<f4")
        if embeddings.shape != (len(references), self._width):
            raise ValueError(
                f"{len(references)} references need embeddings of {self._width} numbers"
            )
        numbers = {}
        for text in dict.fromkeys(reference.name for reference in references):
            added = self._db.execute(
                "INSERT OR IGNORE INTO name (text) VALUES (?)", [text]
            ).rowcount
            names += added
            numbers[text] = self._rows("SELECT id FROM name WHERE text = ?", [text])[0][0]
        rows, thumbnails, kept = [], [], []
        for number, (r, embedding) in enumerate(zip(references, embeddings, strict=True), first):
            data, digest = _packed(embedding)
            seal = _seal(number, r, digest)
            rows.append((number, numbers[r.name], os.fsencode(r.source), r.digest, seal))
            thumbnails.append((number, r.thumbnail))
            kept.append((number, data, digest))
        self._db.executemany("INSERT INTO reference VALUES (?, ?, ?, ?, ?)", rows)
        self._db.executemany("INSERT INTO thumbnail VALUES (?, ?)", thumbnails)
        self._db.executemany("INSERT INTO embedding VALUES (?, ?, ?)", kept)
        self._set("counts", [total + len(rows), names, first + len(rows)])

    # -------------------------------------------------------------------------------- searching it

    def nearest(
        self, net: Comparing, h: np.ndarray, count: int
    ) -> list[list[tuple[float, Reference]]]:
        """The references most like each embedding, best first: (score, reference).

        Args:
            net: its network.
            h: (Q, D) embeddings.
            count: how many; with an index at most `shortlist.SIZE` of those it holds.
        """
        with self._reading():
            ranked = self._ranked(net, h, count)
            chosen = self.references({i for ids, _ in ranked for i in ids[:count].tolist()})
        return [
            [(float(score), chosen[int(i)]) for i, score in zip(ids[:count], scores, strict=False)]
            for ids, scores in ranked
        ]

    def best_names(
        self, net: Comparing, h: np.ndarray, count: int
    ) -> list[list[tuple[float, Reference]]]:
        """The best reference of each of the names most like each embedding, best name first.

        Names are those of the best `shortlist.SIZE` references.
        """
        from siamese_jax.recognition import shortlist

        with self._reading():
            ranked = self._ranked(net, h, shortlist.SIZE)
            everyone = {i for ids, _ in ranked for i in ids.tolist()}
            names = dict(self._in("SELECT id, name FROM reference", "id", sorted(everyone)))
            name_of = self._each(names, everyone)
            chosen = []
            for ids, scores in ranked:
                best: dict[int, tuple[float, int]] = {}
                for i, score in zip(ids.tolist(), scores, strict=True):
                    best.setdefault(name_of[i], (float(score), i))
                    if len(best) == count:
                        break
                chosen.append(list(best.values()))
            references = self.references({i for row in chosen for _, i in row})
        return [[(score, references[i]) for score, i in row] for row in chosen]

    def index(self, net: Comparing, progress: bool = False) -> int:
        """Makes the index, or takes into it what was enrolled since.

        Args:
            net: its network.
            progress: whether to show a progress bar.

        Returns:
            The number of references that were added to the index.

        Raises:
            ValueError: usearch is not installed, or the comparator cannot be served.
        """
        from siamese_jax.recognition import shortlist

        gallery_lib.check_network(self, net)
        head = net.head
        if not shortlist.is_installed():
            raise ValueError("an index needs usearch, the extra [ann]: pip install usearch")
        if not shortlist.suits(head):
            raise ValueError(
                f"the comparator {type(head).__name__} has no index: all references are compared"
            )
        old = self._fact("index")
        following = self._fact("counts")[2]
        known, projection, begin = None, self._projection(), 0
        if old is not None and projection is not None:
            known = shortlist.opened(self._beside(old["file"]), old["digest"], view=False)
            begin = old["covers"] if known is not None else 0
        if known is None or projection is None:
            sample = self._sample(shortlist.SAMPLE)
            projection = shortlist.Projection.fit(shortlist.features(head, sample))
            known = shortlist.empty(projection.matrix.shape[1])
        live = np.array([i for (i,) in self._rows("SELECT id FROM reference")], np.int64)
        if len(gone := np.setdiff1d(np.asarray(known.keys, np.int64), live)):
            known.remove(gone)
        added = 0
        starts = range(begin, following, _BLOCK)
        for start in tqdm.tqdm(starts, "index", disable=not progress, leave=False):
            ids, embeddings = self._range(start, min(start + _BLOCK, following))
            if len(ids):
                shortlist.add(known, ids, projection(shortlist.features(head, embeddings)))
                added += len(ids)
        path = self._beside(f"{self.path.name}.{secrets.token_hex(4)}.ann")
        digest = shortlist.save(known, path)
        with self._writing():
            gallery_lib.check_network(self, net)
            data = (
                np.concatenate([projection.mean[None], projection.matrix.T]).astype("<f4").tobytes()
            )
            self._db.execute("DELETE FROM projection")
            self._db.execute(
                "INSERT INTO projection VALUES (1, ?, ?, ?)",
                [len(projection.mean), data, _blake(data)],
            )
            self._set("index", {"file": path.name, "digest": digest, "covers": following})
        self._remove_indexes()
        return added

    def index_line(self) -> str:
        """How many references the index covers, in words; empty where it covers all."""
        index, counts = self._fact("index"), self._fact("counts")
        if index is None:
            return "no index: all references are compared; `index` makes one"
        newer = self._rows("SELECT count(*) FROM reference WHERE id >= ?", [index["covers"]])[0][0]
        if newer <= max(_BLOCK, counts[0] // 10):
            return ""
        return f"{newer:,} references are newer than the index: `index` takes them in"

    def _ranked(
        self, net: Comparing, h: np.ndarray, count: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Numbers and scores of the best references of each embedding, best first."""
        from siamese_jax.recognition import shortlist

        index, projection, covers = self._index(net)
        if index is None:
            return self._best(net, h, self._blocks(), count)
        following = self._fact("counts")[2]
        starts = range(covers, following, _BLOCK)
        later = (self._range(start, min(start + _BLOCK, following)) for start in starts)
        tails = self._best(net, h, later, count)
        assert projection is not None  # it is opened with the index
        projected = projection(shortlist.features(net.head, h))
        keys = np.asarray(index.search(projected, shortlist.SIZE).keys).reshape(len(h), -1)
        ranked = []
        for row, tail in enumerate(tails):
            nearby = self._embeddings(np.unique(keys[row].astype(np.int64)))
            [(near, scores)] = self._best(net, h[row : row + 1], [nearby], count)
            ids, scores = np.concatenate([near, tail[0]]), np.concatenate([scores, tail[1]])
            order = np.lexsort((ids, -scores))[:count]
            ranked.append((ids[order], scores[order]))
        return ranked

    def _best(
        self,
        net: Comparing,
        h: np.ndarray,
        blocks: Iterable[tuple[np.ndarray, np.ndarray]],
        count: int,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best of given references for each embedding, exactly.

        Args:
            net: whose comparator scores them.
            h: (Q, D) embeddings.
            blocks: numbers and embeddings, at most `_BLOCK` at a time; each is filled up to a power of
                two, so that a comparison is compiled for a few sizes only.
            count: how many.
        """
        from siamese_jax.recognition import scoring

        best = [(np.zeros(0, np.int64), np.zeros(0)) for _ in h]
        for ids, embeddings in blocks:
            if not len(ids):
                continue
            size = 1 << (len(ids) - 1).bit_length()
            padded = np.concatenate([embeddings, np.repeat(embeddings[-1:], size - len(ids), 0)])
            scores = scoring.score(net, h, scoring.References(padded))[:, : len(ids)]
            for row, (before, values) in enumerate(best):
                both = np.concatenate([before, ids]), np.concatenate([values, scores[row]])
                order = np.lexsort((both[0], -both[1]))[:count]
                best[row] = both[0][order], both[1][order]
        return best

    def _index(self, net: Comparing) -> tuple[Index | None, shortlist.Projection | None, int]:
        """The index and its components, opened once, and the number of the first one outside of it."""
        from siamese_jax.recognition import shortlist

        facts = self._fact("index")
        if facts is None or not shortlist.suits(net.head) or not shortlist.is_installed():
            return None, None, 0
        if self._opened is None or self._opened[0] != facts["file"]:
            index = shortlist.opened(self._beside(facts["file"]), facts["digest"])
            self._opened = facts["file"], index, self._projection()
        return *self._opened[1:], facts["covers"]

    def _projection(self) -> shortlist.Projection | None:
        """The principal components of the index."""
        from siamese_jax.recognition import shortlist

        rows = self._rows("SELECT features, data, digest FROM projection")
        if not rows:
            return None
        size, data, digest = rows[0]
        if _blake(data) != digest:
            raise ValueError(
                f"{self.path}: damaged: the index's components are not what was written"
            )
        mean, *columns = np.frombuffer(data, "<f4").reshape(-1, size)
        return shortlist.Projection(mean, np.ascontiguousarray(np.stack(columns, 1)))

    def _beside(self, name: str) -> pathlib.Path:
        return self.path.with_name(name)

    def _remove_indexes(self) -> None:
        """Removes files of indexes that are not the current one's."""
        facts = self._fact("index")
        for path in self.path.parent.glob("*.ann"):
            stem, _, token = path.name.removesuffix(".ann").rpartition(".")
            ours = stem == self.path.name and len(token) == 8
            if ours and (facts is None or path.name != facts["file"]):
                path.unlink(missing_ok=True)

    # --------------------------------------------------------------------------------- reading it

    @property
    def _width(self) -> int:
        return self._fact("network")[2]

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and embeddings of all references, kept in memory while nothing changes."""
        total, _, following = counts = self._fact("counts")
        change = self._rows("PRAGMA data_version")[0][0], counts, self.fingerprint
        if self._held is None or self._held[0] != change:
            self._held = None
            kept, total_read = [], 0
            for start in range(0, following, _BLOCK):
                kept.append(self._range(start, min(start + _BLOCK, following)))
                total_read += len(kept[-1][0])
                yield kept[-1]
                if 4 * total * self._width > _HELD:
                    kept.clear()
            if total_read != total:
                raise ValueError(f"{self.path}: damaged: it has {total_read} of {total} references")
            if kept:
                self._held = change, kept
            return
        yield from self._held[1]

    def _range(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and embeddings of the references from `begin` up to `end`."""
        query = "SELECT id, data, digest FROM embedding WHERE id >= ? AND id < ? ORDER BY id"
        with self._clearly():
            return self._unpacked(self._db.execute(query, [begin, end]))

    def _embeddings(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of these numbers those that are enrolled, rising, and their embeddings."""
        numbers = [int(number) for number in ids]
        return self._unpacked(
            sorted(self._in("SELECT id, data, digest FROM embedding", "id", numbers))
        )

    def _unpacked(self, rows: Iterable[tuple[int, bytes, bytes]]) -> tuple[np.ndarray, np.ndarray]:
        """The numbers and embeddings of rows of the table."""
        ids, parts, size = [], [], 4 * self._width
        for number, data, digest in rows:
            if len(data) != size or _blake(data) != digest:
                raise ValueError(
                    f"{self.path}: damaged: embedding {number} is not what was written"
                )
            ids.append(number)
            parts.append(data)
        embeddings = np.frombuffer(b"".join(parts), "<f4").reshape(-1, self._width)
        return np.array(ids, np.int64), embeddings

    def _sample(self, count: int) -> np.ndarray:
        """Embeddings of references drawn evenly from all."""
        total = len(self)
        step = max(1, total // count)
        rows = self._rows("SELECT id FROM reference WHERE id % ? = 0 LIMIT ?", [step, count])
        return self._embeddings(np.array([number for (number,) in rows], np.int64))[1]

    # ----------------------------------------------------------------------------------- SQLite

    def _fact(self, key: str) -> Any:
        rows = self._rows("SELECT value FROM fact WHERE key = ?", [key])
        if not rows:
            raise ValueError(f"{self.path}: damaged: it has no {key}")
        value = json.loads(rows[0][0])
        if _blake(json.dumps(value["is"]).encode()).hex() != value["digest"]:
            raise ValueError(f"{self.path}: damaged: its {key} is not what was written")
        return value["is"]

    def _set(self, key: str, value: Any) -> None:
        value = json.loads(json.dumps(value))
        kept = {"is": value, "digest": _blake(json.dumps(value).encode()).hex()}
        self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", [key, json.dumps(kept)])

    def _rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        with self._clearly():
            return self._db.execute(query, values).fetchall()

    def _each(self, by_number: Mapping[int, _T], ids: Iterable[int]) -> dict[int, _T]:
        """The entry of each of some numbers, in their order."""
        numbers = [int(number) for number in ids]
        missing = [number for number in numbers if number not in by_number]
        if missing:
            raise ValueError(f"{self.path}: damaged: reference {missing[0]} is missing")
        return {number: by_number[number] for number in numbers}

    def _in(self, query: str, column: str, values: Iterable) -> Iterator[tuple]:
        """The rows in which a column has one of many values."""
        values = list(values)
        for start in range(0, len(values), 500):
            part = values[start : start + 500]
            marks = ", ".join("?" * len(part))
            yield from self._rows(f"{query} WHERE {column} IN ({marks})", part)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """All that is read inside is of one moment."""
        with self._clearly():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """All that is changed inside is changed at once, or nothing is."""
        with self._clearly():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _clearly(self) -> Iterator[None]:
        """Errors of SQLite in one line that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise ValueError(
                    f"{self.path}: another process has been writing for {_WAIT:g} seconds: nothing is "
                    "written, give the command again"
                ) from None
            raise ValueError(f"{self.path}: cannot be used ({error})") from None
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.path}: damaged, or no gallery ({error})") from None


def _connect(path: str | os.PathLike) -> sqlite3.Connection:
    uri = f"{pathlib.Path(path).absolute().as_uri()}?mode=rw"
    db = sqlite3.connect(uri, timeout=_WAIT, isolation_level=None, uri=True)
    settings = ("synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF")
    for setting in (*settings, f"cache_size = -{_CACHE}"):
        db.execute(f"PRAGMA {setting}")
    return db


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
