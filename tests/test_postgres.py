"""Galleries in a database, on a real PostgreSQL server: the answers of a file, transactions, damage."""

import dataclasses
import functools
import os
import sys
import threading
import time
import urllib.parse

import numpy as np
import postgres_server
import pytest
from galleries import SHAPE, make_gallery, make_net, picture, read_noise_again, same_ranks
from launching import launch
from PIL import Image

from siamese_jax import benchmarks
from siamese_jax.benchmarks import galleries as measured
from siamese_jax.benchmarks import report
from siamese_jax.evaluation import calibration
from siamese_jax.recognition import (
    commands,
    database,
    gallery,
    identification,
    postgres,
    postgres_connection,
    records,
    shortlist,
    store,
)

psycopg = pytest.importorskip("psycopg", reason="no extra [postgres]: psycopg")


@pytest.fixture(scope="module")
def server():
    """The folder of a server's socket; databases `postgres` with pgvector and `bare` without."""
    if reason := postgres_server.lacking():
        pytest.skip(reason)
    with postgres_server.running() as folder:
        with psycopg.connect(host=folder, user="postgres", autocommit=True) as administrator:
            administrator.execute("CREATE EXTENSION vector")
            administrator.execute("CREATE DATABASE bare")
            administrator.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
            administrator.execute("CREATE ROLE reader LOGIN")
        yield folder


@pytest.fixture(scope="module")
def nets():
    return {name: make_net(name) for name in ("cosine", "euclidean")}


@pytest.fixture
def url(server, request):
    """The URL of a gallery that is not there yet."""
    name = f"Gallery {request.node.nodeid.rpartition('::')[2]}".replace("[", " ").rstrip("]")
    return f"postgresql://postgres@/postgres?host={server}#{name[-60:].strip()}"


@pytest.fixture
def large(nets, url):
    store.create(url, make_gallery(nets["cosine"]))
    opened = store.Store(url)
    yield opened
    opened.close()


def sql(large, query, *values):
    """The rows of a query, by another connection that sees the gallery's tables."""
    address = postgres_connection.Address.of(large.place)
    with psycopg.connect(**address.server, autocommit=True) as connection:
        connection.execute("SELECT set_config('search_path', %s, false)", [f'"{address.name}"'])
        cursor = connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []


def with_options(url, **options):
    """The URL with settings of the server for its connections."""
    words = " ".join(f"-c {name}={value}" for name, value in options.items())
    return url.replace("#", f"&options={urllib.parse.quote(words)}#")


# ----------------------------------------------------------------------------------- as in a file


@pytest.mark.parametrize("name", ["cosine", "euclidean"])
def test_answers_are_those_of_a_file_and_of_memory(nets, url, tmp_path, name):
    net, known = nets[name], make_gallery(nets[name])
    learned = calibration_of(-2.0)
    known = dataclasses.replace(known, calibration=learned)
    stores = []
    for place in (tmp_path / "g.db", url):
        store.create(place, known)
        stores.append(store.Store(place))
    in_file, large = stores
    h = known.embeddings[::17] + 0.1
    assert large.nearest(net, h, 5) == in_file.nearest(net, h, 5)
    assert large.best_names(net, h, 4) == in_file.best_names(net, h, 4)
    same_ranks(large.nearest(net, h, 5), known.nearest(net, h, 5))
    same_ranks(large.best_names(net, h, 4), known.best_names(net, h, 4))
    probes = [picture(seed) for seed in range(3)]
    answers = identification.identify(large, net, probes)
    assert answers == identification.identify(in_file, net, probes)
    for a, b in zip(answers, identification.identify(known, net, probes), strict=True):
        assert [m.reference for m in a.matches] == [m.reference for m in b.matches]
        assert (a.name, a.threshold, a.rate_covered) == (b.name, b.threshold, b.rate_covered)
    claims = [identification.verify(g, net, "n7", probes[0]) for g in (large, in_file)]
    assert claims[0] == claims[1] and claims[0].matches[0].name == "n7"
    assert gallery.size(large) == "40 names, 120 pictures"
    assert large.summary() == known.summary() and large.calibration == learned
    part, wanted = large.part("n7"), known.part("n7")
    assert part.references == wanted.references
    np.testing.assert_array_equal(part.embeddings, wanted.embeddings)
    with pytest.raises(ValueError, match=r"not in the gallery of 40 names; did you mean 'n7'"):
        large.part("n77")


def calibration_of(threshold):
    """A calibration with one threshold for all numbers of references."""
    held_out = dict.fromkeys(calibration.HeldOut.__annotations__, 1)
    return calibration.Calibration(
        0.1, ((1, threshold),), 1.0, 0.0, "s", "f", 0, 4, 8, held_out, None, "plain"
    )


def test_enrolling_and_removing_are_kept(nets, large, url):
    net, odd = nets["cosine"], os.fsdecode(b"/p/\xff.png")
    large.enrol_all(net, {"new one": [picture(1), picture(2)], "n3": [picture(3)]}, add=True)
    large.enrol_all(net, {"o'\"; x": [dataclasses.replace(picture(4), source=odd)]})
    large.remove("n5")
    again = store.Store(url)
    assert gallery.size(again) == "41 names, 121 pictures" and len(again.summary()) == 41
    assert again.count_of("n3") == 4 and again.count_of("n5") == 0
    assert again.part("o'\"; x").references[0].source == odd
    (best,) = again.nearest(net, net.embed(picture(2).image[None]), 1)
    assert best[0][1] == gallery.Reference("new one", "/p/2.png", "picture000000002", b"png")
    assert sql(large, "SELECT count(*) FROM embedding WHERE id BETWEEN 15 AND 17") == [(0,)]


def test_all_are_enrolled_or_none(nets, large):
    net = nets["cosine"]
    large.enrol_all(net, {"x": [picture(1)]})
    with pytest.raises(ValueError) as told:
        large.enrol_all(net, {"fine": [picture(5)], "n3": [picture(2)], "y": [picture(1)]})
    assert "'n3' is enrolled already" in str(told.value)
    assert "/p/1.png is a reference of 'x' already" in str(told.value)
    with pytest.raises(ValueError, match="belongs to the network"):
        large.enrol_all(nets["euclidean"], {"z": [picture(4)]})
    with pytest.raises(RuntimeError), large.records.db.writing():
        large.records.insert(*one_more(net))
        raise RuntimeError
    assert len(large) == 121 and large.count_of("fine") == large.count_of("more") == 0


def one_more(net, name="more"):
    """A reference and its embedding, as `Records.insert` takes them."""
    reference = gallery.Reference(name, f"/{name}.png", f"digest of {name}", b"1")
    return [reference], np.ones((1, net.embedding_size))


def test_another_network_takes_a_gallery_over(nets, large, url, monkeypatch):
    other = nets["euclidean"]
    large.index(nets["cosine"])
    monkeypatch.setattr(gallery, "BATCH", 50)
    monkeypatch.setattr(gallery, "read_again", read_noise_again)
    assert large.rebuild(other) == 120
    h = other.embed(np.stack([picture(row).image for row in range(120)]))
    again = store.Store(url)
    ids, embeddings = again.records.between(0, 1000)
    np.testing.assert_allclose(embeddings, h, rtol=1e-4, atol=1e-5)
    assert again.network == "euclidean" and len(ids) == 120
    assert sql(large, "SELECT count(*) FROM projected") == [(0,)]
    assert again.index(other) == 120 and again.best_names(other, h[:1], 1)[0][0][1].name == "n0"


# ---------------------------------------------------------------------------------------- the index


@pytest.mark.parametrize(("name", "resumes"), [("cosine", True), ("euclidean", False)])
def test_an_index_finds_what_the_comparison_of_all_finds(nets, url, monkeypatch, name, resumes):
    monkeypatch.setattr(shortlist, "SIZE", 32)
    net, known = nets[name], make_gallery(nets[name], names=300)
    store.create(url, known)
    large = store.Store(with_options(url, enable_seqscan="off"))
    large._db._resumes_search &= resumes  # as pgvector does from 0.8 on
    rng = np.random.default_rng(1)
    h = known.embeddings[::9] + 0.2 * rng.normal(size=known.embeddings[::9].shape)
    h = h.astype(np.float32)
    exact = large.nearest(net, h, 1)
    assert large.index_line().startswith("no index") and large.index(net) == 900
    assert large.index_line() == ""

    plan = plan_of(large)
    assert "projected_short" in plan and "Seq Scan" not in plan
    monkeypatch.setattr(records.Records, "blocks", None)  # nobody compares all any more
    by_index = large.nearest(net, h, 1)
    recall = np.mean([a[0][1] == b[0][1] for a, b in zip(exact, by_index, strict=True)])
    assert recall >= 0.99
    for a, b in zip(exact, by_index, strict=True):
        if a[0][1] == b[0][1]:  # scored by the comparator, not by the index
            assert a[0][0] == pytest.approx(b[0][0], rel=1e-4)


def plan_of(large):
    """How the server finds the nearest references."""
    seen = []
    own = large._db._own

    def explained(query, values=()):
        if query.startswith("SELECT id FROM projected"):
            seen.extend(own(f"EXPLAIN {query}", values))
        return own(query, values)

    facts, (components,) = large.records.fact("index"), large.records.projection().matrix.shape[1:]
    with pytest.MonkeyPatch.context() as patch, large._db.reading():
        patch.setattr(large._db, "_own", explained)
        [found] = large._db.nearest(facts, np.zeros((1, components), np.float32), shortlist.SIZE)
    assert len(found) == shortlist.SIZE
    return "\n".join(line for (line,) in seen)


def test_an_index_follows_what_is_enrolled_and_removed(nets, large, monkeypatch):
    monkeypatch.setattr(shortlist, "SIZE", 16)
    net = nets["cosine"]
    assert large.index(net) == 120
    large.enrol_all(net, {"later": [picture(1)]})
    h = net.embed(picture(1).image[None])
    assert large.best_names(net, h, 1)[0][0][1].name == "later"  # though no index knows it
    large.remove("n0")
    assert sql(large, "SELECT count(*), min(id) FROM projected") == [(117, 3)]
    near = large.part("n1").embeddings[:1]
    assert "n0" not in [r.name for _, r in large.best_names(net, near, 8)[0]]
    assert large.index(net) == 1 and large.index(net) == 0
    assert sql(large, "SELECT count(*), max(id) FROM projected") == [(118, 120)]
    assert large.best_names(net, h, 1)[0][0][1].name == "later"


def test_an_index_whose_graph_is_not_made_yet_answers_the_same(nets, large, url, monkeypatch):
    monkeypatch.setattr(shortlist, "SIZE", 16)
    net, h = nets["cosine"], large.part("n9").embeddings
    exact = large.nearest(net, h, 3)
    with monkeypatch.context() as patch:  # as if the process had been killed
        patch.setattr(postgres.Postgres, "after_index", lambda *_: None)
        assert large.index(net) == 120
    graphs = "SELECT count(*) FROM pg_class WHERE relname = 'projected_short' AND relnamespace = "
    graphs += "(SELECT relnamespace FROM pg_class WHERE oid = 'projected'::regclass)"
    assert sql(large, graphs) == [(0,)]
    same_ranks(store.Store(url).nearest(net, h, 3), exact)
    assert large.index(net) == 0 and sql(large, graphs) == [(1,)]
    same_ranks(store.Store(url).nearest(net, h, 3), exact)


# --------------------------------------------------------------- two processes, crashes, damage, rights


def test_of_two_that_enrol_one_name_the_later_is_refused(nets, large, url):
    net, second, told = nets["cosine"], store.Store(url), []

    def enrol():
        try:
            second.enrol_all(net, {"x": [picture(1)]})
        except ValueError as error:
            told.append(str(error))

    other = threading.Thread(target=enrol)
    with large.records.db.writing():
        large.records.insert(*one_more(net, "x"))
        other.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not sql(large, waiting)[0][0]:
            time.sleep(0.01)
    other.join()
    assert told == ["'x' is enrolled already, with 1 picture: --add gives it more"]
    second.enrol_all(net, {"y": [picture(2)]})
    assert large.count_of("x") == large.count_of("y") == 1


def test_readers_go_on_beside_a_writer_and_a_second_writer_is_told(nets, large, url, monkeypatch):
    monkeypatch.setattr(database, "WAIT", 0.05)
    net, reader, second = nets["cosine"], store.Store(url), store.Store(url)
    h = np.ones((1, net.embedding_size), np.float32)
    with large.records.db.writing():
        large.records.insert(*one_more(net))
        assert len(reader) == 120 and reader.nearest(net, h, 1)[0][0][1].name != "more"
        with pytest.raises(ValueError, match="another process has been writing"):
            second.remove("n1")
    assert len(reader) == 121 and reader.nearest(net, h, 1)[0][0][1].name == "more"  # read again
    second.remove("more")
    assert len(reader) == 120 and reader.nearest(net, h, 1)[0][0][1].name != "more"


def test_what_is_read_in_one_transaction_is_of_one_moment(nets, large, url):
    reader, before = store.Store(url), large._db.mark()
    assert reader._db.mark() == before
    with reader._db.reading():
        assert len(reader) == 120
        large.enrol_all(nets["cosine"], {"x": [picture(1)]})
        assert len(reader) == 120 and len(reader.records.between(0, 1000)[0]) == 120
        assert reader._db.mark() == before
    assert len(reader) == 121 and reader._db.mark() != before


def test_of_two_that_make_a_gallery_the_later_is_refused(nets, url, monkeypatch):
    known = make_gallery(nets["cosine"])
    second = postgres.Postgres(url, new=True)
    store.create(url, known)
    with pytest.raises(ValueError, match="was made by another process"), second.writing():
        pass
    with pytest.raises(ValueError, match="was made by another process"):
        store.create(url, known)
    assert len(store.Store(url)) == 120


def test_a_writer_whose_connection_ends_changes_nothing(nets, large, url):
    net, doomed = nets["cosine"], store.Store(url)
    with pytest.raises(ValueError, match="cannot be used") as told, doomed.records.db.writing():
        doomed.records.insert(*one_more(net))
        [(process,)] = doomed.records.db.rows("SELECT pg_backend_pid()")
        sql(large, "SELECT pg_terminate_backend(%s)", process)
    assert "\n" not in str(told.value)
    assert len(large) == 120 and large.count_of("more") == 0
    assert large.records.between(0, 1000)[0].max() == 119
    large.enrol_all(net, {"next": [picture(1)]})  # nothing is locked any more


DAMAGES = {
    "embedding": "UPDATE embedding SET data = decode(repeat('00', length(data)), 'hex') WHERE id = 4",
    "row": "DELETE FROM embedding WHERE id = 50",
    "reference": "DELETE FROM reference WHERE id = 4",
    "thumbnail": "UPDATE thumbnail SET png = ''::bytea WHERE id = 4",
    "name": "UPDATE name SET text = 'somebody' WHERE text = 'n1'",
    "fact": "UPDATE fact SET value = replace(value, '120', '121') WHERE key = 'counts'",
    "facts": "DELETE FROM fact",
    "table": "DROP TABLE reference",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_told_in_one_line(nets, large, url, what):
    net, h = nets["cosine"], large.part("n1").embeddings[1:2]
    sql(large, DAMAGES[what])
    with pytest.raises(ValueError, match=r"#Gallery .*: damaged") as told:
        hurt = store.Store(url)
        gallery.size(hurt)
        hurt.best_names(net, h, 3)
    assert "\n" not in str(told.value)
    if what in ("embedding", "thumbnail", "name"):
        assert "4 is not what was written" in str(told.value)


def test_a_role_that_may_only_read_identifies(nets, large, url):
    net, schema = nets["cosine"], f'"{large._db._address.name}"'
    with pytest.raises(ValueError, match="owner has to GRANT USAGE"):
        store.Store(large.place.replace("//postgres@", "//reader@"))
    sql(large, f"GRANT USAGE ON SCHEMA {schema} TO reader")
    sql(large, f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")
    reader = store.Store(url.replace("//postgres@", "//reader@"))
    h = large.part("n9").embeddings[:1]
    assert reader.best_names(net, h, 1)[0][0][1].name == "n9"
    with pytest.raises(ValueError, match="cannot be used .permission denied"):
        reader.remove("n9")
    assert len(large) == 120


# ----------------------------------------------------------------------------- mistakes, and commands


def test_mistakes_are_told_in_one_line_without_the_password(server, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    base = f"postgresql://locked:wrong77@/postgres?host={server}"
    cases = {
        base: "password authentication failed.*PGPASSWORD",
        f"postgresql://locked@/postgres?host={server}": "no password supplied.*PGPASSWORD",
        f"postgresql://postgres:wrong77@/none?host={server}": "does not exist.*make it first",
        f"postgresql://postgres:wrong77@/bare?host={server}": "no extension vector.*CREATE EXTENSION",
        f"postgresql://postgres:wrong77@/postgres?host={server}#none": "no such gallery",
        "postgresql://anna:wrong77@127.0.0.1:1/postgres": "cannot be reached.*the server runs",
        "postgresql://anna:wrong77@a@b/postgres": "cannot be read.*%XX",
        "postgresql://anna:wrong77/c@b/postgres": "cannot be read.*%XX",
        "postgresql://anna:a#wrong77@b/postgres": "name of a gallery",
        "postgresql://anna@b/postgres?passsword=wrong77": "cannot be read",
        f"{base}#{'x' * 64}": "at most 63 letters",
        f'{base}#a"; DROP TABLE x': "letters, digits",
    }
    for url, wanted in cases.items():
        with pytest.raises(ValueError, match=wanted) as told:
            store.Store(url)
        assert "wrong77" not in str(told.value) and "\n" not in str(told.value), url
    right = f"postgresql://locked:right@/postgres?host={server}#none"
    with pytest.raises(ValueError, match=r"postgresql://locked@/postgres\?host=.*#none: no such"):
        store.Store(right)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"the extra \[postgres\]: pip install"):
        store.Store(base)


def test_the_command_ends_with_2_and_one_line(server):
    url = f"postgresql://locked:wrong77@/postgres?host={server}#x"
    done = launch("recognize.py", f"--gallery={url}", "list")
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "password authentication failed" in line and "wrong77" not in line


def test_a_schema_of_another_program_is_refused(nets, large, server):
    sql(large, "CREATE SCHEMA theirs; CREATE TABLE theirs.fact (x int)")
    url = f"postgresql://postgres@/postgres?host={server}#theirs"
    for act in (store.Store, functools.partial(store.create, known=make_gallery(nets["cosine"]))):
        with pytest.raises(ValueError, match="the schema theirs is another program's"):
            act(url)


def test_all_commands_work_with_a_url(nets, url, tmp_path, monkeypatch):
    net = nets["cosine"]
    monkeypatch.setattr(commands, "_network", lambda settings: net)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("anna", "ben", *(f"p{i}" for i in range(6))):
        base = 255 * (rng.random(SHAPE[:2]) > 0.5)
        folder = tmp_path / ("enrolled" if len(name) > 2 else "people") / name
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = np.clip(base + rng.integers(-40, 40, SHAPE[:2]), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")

    def act(command, *words, **settings):
        return commands.run(
            command,
            [str(word) for word in words],
            commands.Settings(workdir="x", gallery=url, false_accept_rate=0.2, **settings),
        )

    anna = [tmp_path / "enrolled" / "anna" / f"{i}.png" for i in range(4)]
    with pytest.raises(ValueError, match="no such gallery"):
        act("list")
    with pytest.raises(ValueError, match="none.png"):
        act("enrol", "anna", tmp_path / "none.png")
    assert not postgres.exists(url)  # a mistake makes no gallery
    assert act("enrol", "anna", anna[0]).lines == (
        "enrolled anna with 1 picture; 1 name, 1 picture",
    )
    assert act("enrol", "anna", anna[1], add=True).lines[0].endswith("1 name, 2 pictures")
    assert act("remove", "anna").lines == ("removed anna; 0 names, 0 pictures",)
    lines = act("enrol-folder", tmp_path / "enrolled").lines
    assert lines == ("enrolled 2 names with 8 pictures; 2 names, 8 pictures",)
    assert [row[:2] for row in act("list").table[:2]] == [
        ("anna", "4 pictures"),
        ("ben", "4 pictures"),
    ]
    assert act("calibrate", tmp_path / "people").lines[0].startswith("calibrated on 3 classes")
    assert act("index").lines[0] == "took 8 pictures into the index; 2 names, 8 pictures"
    assert f"{anna[0]}: " in act("identify", anna[0]).lines[0]
    output = act("verify", "anna", anna[0])
    assert output.exit_code == 0 and "accepted as anna" in output.lines[0]
    output = act("search", anna[2], top=1)
    assert output.table[0][1] == "anna" and output.lines == (f"page: {page_name(url)}",)
    assert (tmp_path / page_name(url)).is_file()
    assert "probability of same" in act("compare", anna[0], anna[1]).lines[0]
    monkeypatch.setattr(commands, "_network", lambda settings: nets["euclidean"])
    with pytest.raises(ValueError, match="belongs to the network"):
        act("identify", anna[0])
    assert act("rebuild").lines[0].endswith("8 from their files, 0 from kept thumbnails")


def page_name(url):
    return f"{url.partition('#')[2]}-search.html"


def test_a_gallery_may_lie_in_a_schema_that_an_administrator_made(nets, server):
    url = f"postgresql://reader@/postgres?host={server}#given"
    known = make_gallery(nets["cosine"])
    with pytest.raises(ValueError, match="cannot be used .permission denied for database"):
        store.create(url, known)
    with psycopg.connect(host=server, user="postgres", autocommit=True) as administrator:
        administrator.execute("CREATE SCHEMA given AUTHORIZATION reader")
    store.create(url, known)
    assert gallery.size(store.Store(url)) == "40 names, 120 pictures"


def test_an_empty_gallery_may_be_calibrated_first(nets, url):
    net = nets["cosine"]
    empty = dataclasses.replace(gallery.empty(net), calibration=calibration_of(-2.0))
    store.create(url, empty)
    large = store.Store(url)
    with pytest.raises(ValueError, match="holds no names"):
        identification.identify(large, net, [picture(1)])
    with pytest.raises(ValueError, match="holds no names"):
        large.index(net)
    large.enrol_all(net, {"x": [picture(1)]})
    assert identification.identify(large, net, [picture(1)])[0].name == "x"
    assert large.index(net) == 1
    assert identification.identify(large, net, [picture(1)])[0].name == "x"


def test_the_benchmark_measures_a_database_and_leaves_nothing(nets, large, url, monkeypatch):
    plan = benchmarks.Plan(repetitions=1, repeat_seconds=0.0, smoke=True)
    clusters = measured.Clusters(60, nets["cosine"].embedding_size, 0)
    rows = measured._in_database(plan, nets["cosine"], clusters, url)
    assert [row.name for row in rows] == [
        "PostgreSQL, enrol one",
        "PostgreSQL, identify one, all compared",
        "PostgreSQL, identify one, index",
    ]
    assert rows[-1].share == 1.0  # of the exact answers
    for words in (
        ["--postgres=postgresql://a:wrong77@b/c"],
        ["--postgres", "postgres://a:wrong77@b/c"],
    ):
        monkeypatch.setattr(sys, "argv", ["launch/benchmark.py", "--smoke", *words])
        record = report.record({}, rows[0], {"galleries": rows})
        assert "--smoke" in record["provenance"]["command"] and "wrong77" not in str(record)
    schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'benchmark%'"
    assert sql(large, schemas) == [(0,)] and len(large) == 120
