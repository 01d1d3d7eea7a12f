"""Galleries in files and in a database: enrolling one, identifying one, how often an index is right."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import secrets
import tempfile

import numpy as np

from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.data import loading
from siamese_jax.inference import network
from siamese_jax.recognition import gallery, postgres, shortlist, storage, store

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
_LARGEST_NPZ = 100_000  # references: the NPZ of a million would take 12 GB of memory
_LARGEST_DATABASE = 100_000  # references: the index of a million takes longer than all the rest
_EACH = 10  # references of a name
_QUERIES = 400  # of which the recall is measured
_BLOCK = 50_000  # references made at a time
_SPARE = 100_000  # references that may be enrolled while enrolling is timed
_ANY = 2**62  # references of an NPZ
_THUMBNAIL = bytes(range(256)) * 2  # as large as a small character's
_Answers = list[list[tuple[float, gallery.Reference]]]  # to each query, best first


def run_galleries(plan: Plan) -> list[Row]:
    """Both kinds of file, and a database, at several sizes, with made-up and with real embeddings."""
    net = Workload(plan.config("quickstart:vector")).network()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (20, 60) if plan.smoke else COUNTS:
            clusters = Clusters(count, net.embedding_size, plan.seed)
            if count <= _LARGEST_NPZ:
                rows += _npz(plan, net, clusters, pathlib.Path(folder))
            path = pathlib.Path(folder) / "large.db"
            rows += _large(plan, net, clusters, path, shortlist.is_installed())
            for file in path.parent.glob("large.db*"):
                file.unlink()
            if plan.postgres is not None and count <= _LARGEST_DATABASE:
                rows += _in_database(plan, net, clusters, plan.postgres)
    if plan.archives is not None:
        rows += _real(plan)
    return rows


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Made-up embeddings: `_EACH` a name around its centre, and all centres in few directions.

    The spread of the centres falls along the directions, as that of trained embeddings does.

    Attributes:
        count: of the references.
        width: of an embedding.
        seed: of the draw.
    """

    count: int
    width: int
    seed: int

    def embeddings(self, begin: int, end: int) -> np.ndarray:
        """(end - begin, width) float32 of these references."""
        return self._near(np.arange(begin, end) // _EACH, begin)

    def queries(self, number: int) -> np.ndarray:
        """(number, width) float32 of further pictures of some names."""
        names = np.linspace(0, (self.count - 1) // _EACH, number).astype(int)
        return self._near(names, 2**40)

    def references(self, begin: int, end: int) -> tuple[gallery.Reference, ...]:
        """The references with these numbers."""
        return tuple(
            gallery.Reference(f"name{i // _EACH}", f"/people/{i}.png", f"{i:016x}", _THUMBNAIL)
            for i in range(begin, end)
        )

    def enrolled(self, net: network.Siamese, number: int) -> gallery.Gallery:
        """The gallery of the first references."""
        return dataclasses.replace(
            gallery.empty(net),
            references=self.references(0, number),
            embeddings=self.embeddings(0, number),
        )

    @functools.cached_property
    def _centres(self) -> np.ndarray:
        shape = -(-(self.count + _SPARE) // _EACH), self.width
        return np.random.default_rng((self.seed, 1)).standard_normal(shape, np.float32)

    def _near(self, names: np.ndarray, draw: int) -> np.ndarray:
        spread = 1 / np.sqrt(1 + np.arange(self.width, dtype=np.float32) / 8)
        rng = np.random.default_rng((self.seed, 2, draw))
        noise = rng.standard_normal((len(names), self.width), np.float32)
        h = spread * (self._centres[names] + 0.6 * noise)
        return h / np.linalg.norm(h, axis=1, keepdims=True)


def _npz(plan: Plan, net: network.Siamese, clusters: Clusters, folder: pathlib.Path) -> list[Row]:
    """The small gallery's file, read and written whole."""
    path = folder / "small.npz"
    storage.GalleryFile(path, _ANY).write(clusters.enrolled(net, clusters.count))
    number = iter(range(clusters.count, 10**9))

    def enrol() -> None:
        file, i = storage.GalleryFile(path, _ANY), next(number)
        one = gallery._with_references(
            file.read(), clusters.references(i, i + 1), clusters.embeddings(i, i + 1)
        )
        file.write(one)

    read = storage.GalleryFile(path, _ANY).read
    cases = [Case("NPZ, enrol one", enrol, 1, "pictures"), Case("NPZ, read", read, 1, "reads")]
    rows = plan.compare(_group(clusters), cases)
    path.unlink()
    return rows


def _in_database(plan: Plan, net: network.Siamese, clusters: Clusters, database: str) -> list[Row]:
    """The same gallery in a PostgreSQL database, in a schema that is dropped afterwards."""
    name = f"benchmark_{secrets.token_hex(4)}"
    url = f"{database.partition('#')[0]}#{name}"
    try:
        return _large(plan, net, clusters, url, with_index=True, kind="PostgreSQL")
    finally:
        if postgres.exists(url):
            with contextlib.closing(store.Store(url)) as known:
                known.records.db.rows(f"DROP SCHEMA {name} CASCADE")


def _large(
    plan: Plan,
    net: network.Siamese,
    clusters: Clusters,
    place: pathlib.Path | str,
    with_index: bool,
    kind: str = "large gallery",
) -> list[Row]:
    """A large gallery in a new file or database, with an index and without."""
    first = min(_BLOCK, clusters.count)
    store.create(place, clusters.enrolled(net, first))
    known = store.Store(place)
    for begin in range(first, clusters.count, _BLOCK):
        end = min(begin + _BLOCK, clusters.count)
        with known.records.db.writing():
            known.records.insert(clusters.references(begin, end), clusters.embeddings(begin, end))
    number = iter(range(clusters.count, 10**9))

    def enrol() -> None:
        i = next(number)
        opened = store.Store(place)
        with contextlib.closing(opened), opened.records.db.writing():
            opened.records.insert(clusters.references(i, i + 1), clusters.embeddings(i, i + 1))

    cases = [
        Case(f"{kind}, enrol one", enrol, 1, "pictures"),
        _identify(known, net, clusters, f"{kind}, identify one, all compared"),
    ]
    rows = plan.compare(_group(clusters), cases)
    if with_index:
        queries = clusters.queries(min(_QUERIES, clusters.count // _EACH))
        case = _identify(known, net, clusters, f"{kind}, identify one, index")
        rows.append(_by_index(plan, net, known, queries, _group(clusters), case))
    known.close()
    return rows


def _identify(known: store.Store, net: network.Siamese, clusters: Clusters, name: str) -> Case:
    queries = clusters.queries(64)
    turn = iter(range(10**9))

    def identify() -> _Answers:
        i = next(turn) % len(queries)
        return known.best_names(net, queries[i : i + 1], 3)

    return Case(name, identify, 1, "queries")


def _by_index(
    plan: Plan,
    net: network.Siamese,
    known: store.Store,
    queries: np.ndarray,
    group: str,
    case: Case,
) -> Row:
    """A case with an index, which is made for it, and how often that finds the exact answer."""
    exact = known.nearest(net, queries, 1)
    known.records.release()
    known.index(net)
    recall = _recall(exact, known.nearest(net, queries, 1))
    [row] = plan.compare(group, [case])
    return dataclasses.replace(row, share=recall, share_of="exact answers")


def _real(plan: Plan) -> list[Row]:
    """Omniglot's test characters and the package's network, whose comparator is `local`."""
    if not shortlist.is_installed():
        return []
    net = network.load("omniglot")
    test = loading.load({"name": "omniglot", "archives": plan.archives}).test
    if plan.smoke:
        test = test.select(classes=range(20))
    is_query = test.drawers == test.drawers.max()
    h = net.embed(test.images[:])
    references = tuple(
        gallery.Reference(test.class_names[c], f"/{row}", f"{row:016x}", _THUMBNAIL)
        for row, c in enumerate(test.classes[~is_query])
    )
    enrolled = dataclasses.replace(
        gallery.empty(net), references=references, embeddings=h[~is_query]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "omniglot.db"
        store.create(path, enrolled)
        known = store.Store(path)
        queries = h[is_query]
        case = Case(
            "large gallery, identify one, index",
            functools.partial(known.best_names, net, queries[:1], 3),
            1,
            "queries",
        )
        group = f"Omniglot, {len(references):,} references of {h.shape[1]} numbers, local"
        row = _by_index(plan, net, known, queries, group, case)
        known.close()
    return [row]


def _recall(exact: _Answers, by_index: _Answers) -> float:
    """Share of queries whose best reference is the exact one, or scores as high."""
    right = [
        bool(b) and (a[0][1] == b[0][1] or b[0][0] >= a[0][0])
        for a, b in zip(exact, by_index, strict=True)
    ]
    return float(np.mean(right))


def _group(clusters: Clusters) -> str:
    return f"gallery of {clusters.count:,} references of {clusters.width} numbers"
