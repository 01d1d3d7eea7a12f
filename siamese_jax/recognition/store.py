"""A large gallery: enrolling one costs the same whatever else it holds.

It lies in an SQLite file or in a PostgreSQL database; `Store` is the same for both. Every change is one
transaction: a crash leaves the old gallery or the new one. One process writes at a time, and any number
read meanwhile. Whatever is read is checked against its digest, see `records`.

With an index (`Store.index`) the `shortlist.SIZE` references that it finds are compared exactly, and so
are all that were enrolled after it was made. Without one all references are compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.recognition import gallery as gallery_lib
from siamese_jax.recognition import (
    postgres,
    postgres_connection,
    ranking,
    score_calibration,
    sqlite,
)
from siamese_jax.recognition.database import Database
from siamese_jax.recognition.gallery import Gallery, Reference
from siamese_jax.recognition.records import BLOCK, Records

if TYPE_CHECKING:
    from siamese_jax.data.image_set import ImageSet
    from siamese_jax.inference.comparing import Comparing
    from siamese_jax.recognition import pictures


def is_store(path: str | os.PathLike) -> bool:
    """Whether a file is a large gallery's."""
    return sqlite.is_database(path)


def create(place: str | os.PathLike, known: Gallery) -> None:
    """Writes a gallery to a place where none is yet, for the owner only.

    Args:
        place: of a file, which is an SQLite file alone, without a log; or a database's URL.
        known: the gallery.
    """
    with contextlib.closing(_database(place, new=True)) as db, db.writing():
        records = Records(db)
        calibration = known.calibration and dataclasses.asdict(known.calibration)
        records.set_fact("network", [known.fingerprint, known.network, known.embeddings.shape[1]])
        records.set_fact("calibration", calibration)
        records.set_fact("counts", [0, 0, 0])
        records.set_fact("index", None)
        records.insert(known.references, known.embeddings)


def _database(place: str | os.PathLike, new: bool = False) -> Database:
    if isinstance(place, str) and postgres_connection.is_url(place):
        return postgres.Postgres(place, new)
    return sqlite.Sqlite(place, new)


class Store:
    """A large gallery in its file or database; what `Gallery` is for a small one.

    Args:
        place: path of the file, or `postgresql://USER@HOST/DATABASE#NAME`.

    Attributes:
        place: the path, or the URL without its password.
        records: its rows.

    Raises:
        ValueError: no such gallery, or one that is damaged, cannot be reached or is no large gallery.
    """

    def __init__(self, place: str | os.PathLike):
        self._db = _database(place)
        self.place = self._db.place
        self.records = Records(self._db)

    def close(self) -> None:
        """Closes the file or the connection."""
        self._db.close()

    # ------------------------------------------------------------------------------- what it holds

    @property
    def fingerprint(self) -> str:
        """Of the network, see `Comparing.fingerprint`."""
        return self.records.fact("network")[0]

    @property
    def network(self) -> str:
        """Name of the network, for messages."""
        return self.records.fact("network")[1]

    @property
    def calibration(self) -> Calibration | None:
        """Threshold and probabilities; None before they are set."""
        fields = self.records.fact("calibration")
        return None if fields is None else Calibration.of(fields)

    def __len__(self) -> int:
        return self.records.fact("counts")[0]

    @property
    def name_count(self) -> int:
        """How many names it holds."""
        return self.records.fact("counts")[1]

    def count_of(self, name: str) -> int:
        """How many references a name has."""
        return len(self.records.ids_of(name))

    def owners(self, digests: Sequence[str]) -> dict[str, str]:
        """The names that pictures with these digests are references of, by digest."""
        return dict(
            self.records.rows_with(
                "SELECT picture, text FROM reference JOIN name ON name.id = name",
                "picture",
                digests,
            )
        )

    def similar(self, name: str) -> list[str]:
        """Names among which to look for near matches of one that is missing.

        They are those with its first letter.
        """
        query = "SELECT text FROM name WHERE lower(substr(text, 1, 1)) = lower(?) LIMIT 10000"
        return [text for (text,) in self._db.rows(query, [name[:1]])]

    def summary(self) -> list[tuple[str, int, str]]:
        """Each name, how many references it has and the file of the first, in order of enrolment."""
        rows = self._db.rows(
            "SELECT text, pictures, source FROM (SELECT name, count(*) AS pictures, min(id) AS earliest "
            "FROM reference GROUP BY name) AS entry JOIN name ON name.id = entry.name "
            "JOIN reference ON reference.id = earliest ORDER BY earliest"
        )
        return [(text, count, os.fsdecode(source)) for text, count, source in rows]

    def part(self, name: str) -> Gallery:
        """The gallery of one name's references.

        Raises:
            ValueError: an unknown name.
        """
        with self._db.reading():
            ids = self.records.ids_of(name)
            if not ids:
                gallery_lib.check_name(self, name)
            references = tuple(self.records.references(ids).values())
            fields = self.fingerprint, self.network, references
            return Gallery(*fields, self.records.embeddings(np.array(ids))[1], self.calibration)

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
        people = gallery_lib.by_composed_name(people)
        gallery_lib.check(gallery_lib.faults(self, people, add))
        references, new = gallery_lib.listed(people)
        embeddings = gallery_lib.embed_all(net, new, progress)
        with self._db.writing():  # what another process has done meanwhile counts
            gallery_lib.check_network(self, net)
            gallery_lib.check(gallery_lib.faults(self, people, add))
            old = self.calibration
            still = old and old.before_enrolment()
            if still is not None and still is not old:
                self.records.set_fact("calibration", dataclasses.asdict(still))
            self.records.insert(references, embeddings)

    def remove(self, name: str) -> None:
        """Removes a name; the calibration stays.

        What an SQLite file had of it is overwritten. A database does so in its own time.

        Raises:
            ValueError: an unknown name.
        """
        with self._db.writing():
            gallery_lib.check_name(self, name)
            self.records.delete(name)
        self._db.after_removal()

    def calibrate(
        self, net: Comparing, labelled: ImageSet, rate: float, seed: int = 0, **how: Any
    ) -> None:
        """Learns threshold and probabilities, see `score_calibration.calibration_of`.

        A bound is of any gallery.
        """
        gallery_lib.check_network(self, net)
        learned = score_calibration.calibration_of(net, labelled, rate, seed, **how)
        with self._db.writing():
            gallery_lib.check_network(self, net)  # another process may have changed it meanwhile
            self.records.set_fact("calibration", dataclasses.asdict(learned))

    def rebuild(self, net: Comparing, progress: bool = False) -> int:
        """Embeds all references by another network; see `gallery.rebuild`.

        Returns:
            The number of references that came from thumbnails.
        """
        from siamese_jax.recognition import scoring

        fresh = gallery_lib.empty(net)
        from_thumbnails = 0
        with self._db.writing():
            if self.records.fact("network")[0] != fresh.fingerprint:
                self.records.set_fact("calibration", None)
            self.records.set_fact("network", [fresh.fingerprint, fresh.network, net.embedding_size])
            ids = [number for (number,) in self._db.rows("SELECT id FROM reference ORDER BY id")]
            starts = range(0, len(ids), gallery_lib.BATCH)
            for start in tqdm.tqdm(starts, "embedding", disable=not progress, leave=False):
                part = ids[start : start + gallery_lib.BATCH]
                references = self.records.references(part)
                images, small = gallery_lib.read_again(net, references.values())
                from_thumbnails += small
                self.records.embed_anew(references, scoring.embed(net, images))
            self.records.set_fact("index", None)
            self._db.forget(None)
        self._db.after_index(self.records.fact("index"))
        return from_thumbnails

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
        with self._db.reading():
            ranked = ranking.ranked(self.records, net, h, count)
            chosen = self.records.references({i for ids, _ in ranked for i in ids[:count].tolist()})
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

        with self._db.reading():
            ranked = ranking.ranked(self.records, net, h, shortlist.SIZE)
            everyone = {i for ids, _ in ranked for i in ids.tolist()}
            names = dict(
                self.records.rows_with("SELECT id, name FROM reference", "id", sorted(everyone))
            )
            name_of = self.records.ordered(names, everyone)
            chosen = []
            for ids, scores in ranked:
                best: dict[int, tuple[float, int]] = {}
                for i, score in zip(ids.tolist(), scores, strict=True):
                    best.setdefault(name_of[i], (float(score), i))
                    if len(best) == count:
                        break
                chosen.append(list(best.values()))
            references = self.records.references({i for row in chosen for _, i in row})
        return [[(score, references[i]) for score, i in row] for row in chosen]

    def index(self, net: Comparing, progress: bool = False) -> int:
        """Makes the index, or takes into it what was enrolled since.

        Args:
            net: its network.
            progress: whether to show a progress bar.

        Returns:
            The number of references that were added to the index.

        Raises:
            ValueError: there can be no index, the comparator cannot be served, or another process has
                made an index meanwhile.
        """
        gallery_lib.check_network(self, net)
        with self._db.indexing():
            before = self.records.fact("index")
            facts, projection, added = ranking.make_index(self.records, net, progress)
            with self._db.writing():
                gallery_lib.check_network(self, net)  # it may be another one by now
                is_first = self.records.fact("index") == before
                if is_first:
                    self.records.set_projection(projection)
                    self.records.set_fact("index", facts)
        self._db.after_index(self.records.fact("index"))
        if not is_first:
            raise ValueError(
                f"{self.place}: another process has made an index in the meantime: nothing is written, "
                "give the command again"
            )
        return added

    def index_line(self) -> str:
        """How many references the index covers, in words; empty where it covers all."""
        index, counts = self.records.fact("index"), self.records.fact("counts")
        if index is None:
            return "no index: all references are compared; `index` makes one"
        query = "SELECT count(*) FROM reference WHERE id >= ?"
        newer = self._db.rows(query, [index["covers"]])[0][0]
        if newer <= max(BLOCK, counts[0] // 10):
            return ""
        return f"{newer:,} references are newer than the index: `index` takes them in"
