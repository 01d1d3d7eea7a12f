"""Large galleries: the answers of small ones, an index, crashes, readers beside a writer, damage."""

import dataclasses
import logging
import os
import shutil
import sqlite3
import stat
from unittest import mock

import numpy as np
import pytest
from galleries import make_gallery, make_net, picture, read_noise_again, same_ranks

from siamese_jax.evaluation import bounds, calibration
from siamese_jax.recognition import (
    commands,
    database,
    gallery,
    identification,
    ranking,
    records,
    score_calibration,
    shortlist,
    sqlite,
    storage,
    store,
)


@pytest.fixture(scope="module")
def nets():
    return {
        "cosine": make_net("cosine"),
        "euclidean": make_net("euclidean"),
        "local": make_net("local", local=True),
    }


@pytest.fixture
def large(nets, tmp_path):
    known = make_gallery(nets["cosine"])
    store.create(tmp_path / "g.db", known)
    return store.Store(tmp_path / "g.db")


# ----------------------------------------------------------------------------- as a small gallery


@pytest.mark.parametrize(
    "name", ["cosine", "euclidean", pytest.param("local", marks=pytest.mark.slow)]
)
def test_answers_are_those_of_a_small_gallery(nets, tmp_path, name):
    net, known = nets[name], make_gallery(nets[name])
    store.create(tmp_path / "g.db", known)
    large = store.Store(tmp_path / "g.db")
    h = known.embeddings[::17] + 0.1
    same_ranks(large.nearest(net, h, 5), known.nearest(net, h, 5))
    same_ranks(large.best_names(net, h, 4), known.best_names(net, h, 4))
    probes = [picture(seed) for seed in range(3)]
    small_answers = identification.identify(known, net, probes)
    for a, b in zip(identification.identify(large, net, probes), small_answers, strict=True):
        assert [m.reference for m in a.matches] == [m.reference for m in b.matches]
    assert gallery.size(large) == gallery.size(known) == "40 names, 120 pictures"
    assert large.summary() == known.summary() and large.count_of("n7") == 3
    part, wanted = large.part("n7"), known.part("n7")
    assert part.references == wanted.references
    np.testing.assert_array_equal(part.embeddings, wanted.embeddings)
    with pytest.raises(
        ValueError, match=r"'n77' is not in the gallery of 40 names; did you mean 'n7'"
    ):
        large.part("n77")


@pytest.mark.parametrize("large", [False, True])
def test_a_letter_and_its_accent_apart_are_the_same_name(nets, tmp_path, large):
    net, together, apart = nets["cosine"], "Ren\u00e9", "Rene\u0301"
    known = make_gallery(net)
    people = {apart: [picture(0)], "Anna": [picture(1)], together: [picture(2)]}
    if large:
        store.create(tmp_path / "g.db", known)
        known = store.Store(tmp_path / "g.db")
        known.enrol_all(net, people)
    else:
        known = gallery.enrol_all(known, net, people)
    assert known.summary()[-2:] == [(together, 2, "/p/0.png"), ("Anna", 1, "/p/1.png")]
    for name in (together, apart):
        assert known.count_of(name) == len(known.part(name)) == 2
        assert known.part(name).names == (together,)
        with pytest.raises(ValueError, match="is enrolled already, with 2 pictures"):
            gallery.check(gallery.faults(known, {name: [picture(3)]}))
    if large:
        known.remove(apart)
    else:
        known = gallery.remove(known, apart)
    assert known.count_of(together) == 0 and known.name_count == 41


def test_enrolling_and_removing_are_kept(nets, large):
    net, known = nets["cosine"], make_gallery(nets["cosine"])
    large.enrol_all(net, {"new one": [picture(1), picture(2)], "n3": [picture(3)]}, add=True)
    large.remove("n5")
    again = store.Store(large.place)
    assert gallery.size(again) == "40 names, 120 pictures"
    assert again.count_of("n3") == 4 and again.count_of("n5") == 0
    (best,) = again.nearest(net, net.embed(picture(2).image[None]), 1)
    assert best[0][1] == gallery.Reference("new one", "/p/2.png", "picture000000002", b"png")
    again.close()
    large.close()
    gone = known.embeddings[15].tobytes()
    assert (
        gone not in large.place.read_bytes()
        and known.embeddings[3].tobytes() in large.place.read_bytes()
    )


def test_what_enrol_refuses_a_large_gallery_refuses(nets, large):
    net = nets["cosine"]
    large.enrol_all(net, {"x": [picture(1)]})
    with pytest.raises(ValueError) as told:
        large.enrol_all(net, {"n3": [picture(2)], "unknown": [picture(3)], "y": [picture(1)]})
    assert "'n3' is enrolled already" in str(told.value) and str(told.value).count(";") == 2
    assert "'unknown' cannot be a name" in str(told.value)
    assert "/p/1.png is a reference of 'x' already" in str(told.value)
    with pytest.raises(ValueError, match="belongs to the network"):
        large.enrol_all(nets["euclidean"], {"z": [picture(4)]})
    assert len(large) == 121


def test_a_path_that_is_no_text_is_kept(nets, large):
    odd = dataclasses.replace(picture(1), source=os.fsdecode(b"/p/\xff.png"))
    large.enrol_all(nets["cosine"], {"odd": [odd]})
    assert large.part("odd").references[0].source == odd.source
    assert large.summary()[-1] == ("odd", 1, odd.source)


def test_another_network_takes_a_large_gallery_over(nets, large, monkeypatch):
    other = nets["local"]  # whose embeddings have another size
    monkeypatch.setattr(gallery, "BATCH", 50)
    monkeypatch.setattr(gallery, "read_again", read_noise_again)
    held = dict.fromkeys(calibration.HeldOut.__annotations__, 1)
    learned = calibration.Calibration(0.1, ((1, 1.0),), 1.0, 0.0, "s", "f", 0, 4, 8, held)
    monkeypatch.setattr(score_calibration, "calibration_of", lambda *_: learned)
    large.calibrate(nets["cosine"], None, 0.1)
    assert large.rebuild(nets["cosine"]) == 120 and large.calibration == learned
    assert large.rebuild(other) == 120
    whole = [picture(row).image for row in range(120)]
    h = other.embed(np.stack(whole))
    ids, embeddings = store.Store(large.place).records.between(0, 1000)
    np.testing.assert_allclose(embeddings, h, rtol=1e-4, atol=1e-5)
    assert large.network == "local" and len(ids) == 120 and large.calibration is None


def test_a_gallery_that_grows_large_changes_its_file(nets, tmp_path, monkeypatch):
    net, path = nets["cosine"], tmp_path / "g.npz"
    monkeypatch.setattr(commands, "_network", lambda settings: net)
    settings = commands.Settings(workdir="x", gallery=str(path))
    file = storage.GalleryFile(path, large=100)
    file.write(make_gallery(net, names=30))
    assert not store.is_store(path) and file.read().name_count == 30
    with pytest.raises(ValueError, match="an index is for 10,000 pictures or more"):
        commands.run("index", [], settings)
    file.write(make_gallery(net))
    assert store.is_store(path) and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert commands.run("remove", ["n3"], settings).lines == ("removed n3; 39 names, 117 pictures",)
    rows = commands.run("list", [], settings).table
    assert len(rows) == 39 and rows[0] == ("n0", "3 pictures", "first /x/0.png")
    with pytest.raises(ValueError, match="a large gallery"):
        storage.GalleryFile(path).read()
    with pytest.raises(ValueError, match="was changed by another process"):
        file.write(make_gallery(net, names=30))  # what was read is not what is there


# ---------------------------------------------------------------------------------------- the index


needs_index = pytest.mark.skipif(not shortlist.is_installed(), reason="no extra [ann]: usearch")


@needs_index
@pytest.mark.parametrize(
    "name, names",
    [("cosine", 200), ("euclidean", 200), pytest.param("local", 60, marks=pytest.mark.slow)],
)
def test_an_index_finds_what_the_comparison_of_all_finds(nets, tmp_path, monkeypatch, name, names):
    monkeypatch.setattr(shortlist, "SIZE", 32)
    net, known = nets[name], make_gallery(nets[name], names=names)
    store.create(tmp_path / "g.db", known)
    large = store.Store(tmp_path / "g.db")
    rng = np.random.default_rng(1)
    h = (known.embeddings + 0.2 * rng.normal(size=known.embeddings.shape)).astype(np.float32)
    exact = large.nearest(net, h, 1)
    assert large.index_line().startswith("no index") and large.index(net) == 3 * names
    assert large.index_line() == ""
    monkeypatch.setattr(records.Records, "blocks", None)  # nobody compares all any more
    found = large.nearest(net, h, 1)
    recall = np.mean([a[0][1] == b[0][1] for a, b in zip(exact, found, strict=True)])
    assert recall >= 0.998  # one of 600, none of 180
    for a, b in zip(exact, found, strict=True):
        if a[0][1] == b[0][1]:  # scored by the comparator, not by the index
            assert a[0][0] == pytest.approx(b[0][0], rel=1e-4)


@needs_index
def test_an_index_follows_what_is_enrolled_and_removed(nets, large, monkeypatch):
    monkeypatch.setattr(shortlist, "SIZE", 16)
    net = nets["cosine"]
    assert large.index(net) == 120
    (first,) = large.place.parent.glob("*.ann")
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    large.enrol_all(net, {"later": [picture(1)]})
    h = net.embed(picture(1).image[None])
    assert large.best_names(net, h, 1)[0][0][1].name == "later"  # though no index knows it
    large.remove("n0")
    near = large.part("n1").embeddings[:1]
    assert "n0" not in [r.name for _, r in large.best_names(net, near, 8)[0]]
    assert large.index(net) == 1
    (second,) = large.place.parent.glob("*.ann")
    assert second != first
    index = shortlist.opened(second, large.records.fact("index")["digest"])
    assert len(index) == 118
    assert large.best_names(net, h, 1)[0][0][1].name == "later"


@needs_index
def test_of_two_indexes_made_at_once_the_first_stays(nets, large, monkeypatch):
    net, second, make = nets["cosine"], store.Store(large.place), ranking.make_index

    def make_and_let_the_other_finish(*arguments):
        made_here = make(*arguments)
        monkeypatch.setattr(ranking, "make_index", make)
        assert second.index(net) == 120
        return made_here

    monkeypatch.setattr(ranking, "make_index", make_and_let_the_other_finish)
    with pytest.raises(ValueError, match=r"g\.db: another process has made an index"):
        large.index(net)
    (path,) = large.place.parent.glob("*.ann")
    assert path.name == large.records.fact("index")["file"]


def test_a_sample_is_drawn_evenly_from_what_is_left(large):
    ids, embeddings = large.records.between(0, 1000)
    for name in [f"n{number}" for number in range(0, 40, 2)]:
        large.remove(name)
    left = embeddings[ids // 3 % 2 == 1]  # three of each name
    np.testing.assert_array_equal(large.records.sample(25), left[::3])


@needs_index
def test_a_damaged_index_is_passed_over_with_a_warning(nets, large, caplog):
    net = nets["cosine"]
    large.index(net)
    (path,) = large.place.parent.glob("*.ann")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    h = large.part("n9").embeddings[:1]
    with caplog.at_level(logging.WARNING):
        assert store.Store(large.place).best_names(net, h, 1)[0][0][1].name == "n9"
    assert "not what was written" in caplog.text
    path.unlink()
    assert store.Store(large.place).best_names(net, h, 1)[0][0][1].name == "n9"
    assert large.index(net) == 120  # made anew


def test_an_index_needs_its_extra_and_a_comparator_that_it_suits(nets, large, monkeypatch):
    monkeypatch.setattr(shortlist, "is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"extra \[ann\]"):
        large.index(nets["cosine"])


def test_the_features_of_local_are_near_where_places_moved():
    """A map moved by one place is nearer, as `local` with reach 1 sees it, than another map."""
    from siamese_jax.models.comparators import Local

    rng = np.random.default_rng(0)
    head = Local(places=(6, 6), units=5, reach=1)
    maps = rng.normal(size=(50, 6, 6, 5)).astype(np.float32)
    moved = np.roll(maps, 1, axis=2).reshape(50, -1)
    here, there = (shortlist.features(head, h.reshape(50, -1)) for h in (maps, moved))
    distances = ((here[:, None] - there[None]) ** 2).sum(-1)
    assert (distances.argmin(1) == np.arange(50)).all()


# --------------------------------------------------------------------- crashes, readers, cost, damage


def test_a_crash_leaves_the_old_gallery_or_the_new_one(nets, large, tmp_path):
    """What lies on the disk before and after a commit is opened as after a crash."""
    net, copies = nets["cosine"], [tmp_path / "before", tmp_path / "after"]

    def copy(folder):
        folder.mkdir()
        for path in large.place.parent.glob("g.db*"):
            if not path.name.endswith("-shm"):  # which a crash takes along
                shutil.copy(path, folder)

    with large.records.db.writing():
        large.records.insert(
            [gallery.Reference("x", "/x.png", "x", b"1")], np.ones((1, net.embedding_size))
        )
        copy(copies[0])
    copy(copies[1])
    for folder, count in zip(copies, (120, 121), strict=True):
        crashed = store.Store(folder / "g.db")
        assert len(crashed) == count and len(crashed.records.between(0, 1000)[0]) == count


def test_a_fault_within_an_enrolment_changes_nothing(nets, large):
    with pytest.raises(RuntimeError), large.records.db.writing():
        large.records.insert(
            [gallery.Reference("x", "/x.png", "x", b"1")],
            np.ones((1, nets["cosine"].embedding_size)),
        )
        raise RuntimeError
    assert len(large) == 120 and large.count_of("x") == 0


def test_readers_go_on_beside_a_writer_and_a_second_writer_is_told(nets, large, monkeypatch):
    monkeypatch.setattr(database, "WAIT", 0.05)
    net, reader, second = nets["cosine"], store.Store(large.place), store.Store(large.place)
    h = np.ones((1, net.embedding_size), np.float32)
    with large.records.db.writing():
        large.records.insert(
            [gallery.Reference("x", "/x.png", "x", b"1")], np.ones((1, net.embedding_size))
        )
        assert len(reader) == 120 and reader.nearest(net, h, 1)[0][0][1].name != "x"
        with pytest.raises(ValueError, match="another process has been writing"):
            second.remove("n1")
    assert len(reader) == 121 and reader.nearest(net, h, 1)[0][0][1].name == "x"  # read again
    second.remove("x")
    assert len(reader) == 120 and reader.nearest(net, h, 1)[0][0][1].name != "x"


def test_two_writers_do_not_undo_each_other(nets, large):
    net, second = nets["cosine"], store.Store(large.place)
    large.enrol_all(net, {"x": [picture(1)]})
    second.enrol_all(net, {"y": [picture(2)]})
    assert large.count_of("x") == large.count_of("y") == 1
    with pytest.raises(ValueError, match="'x' is enrolled already"):
        second.enrol_all(net, {"x": [picture(3)]})


def test_all_files_are_the_owners_alone(nets, large):
    large.enrol_all(nets["cosine"], {"x": [picture(1)]})
    files = sorted(large.place.parent.glob("g.db*"))
    assert len(files) == 3  # with the log and its index
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_enrolling_one_writes_no_more_into_a_larger_gallery(nets, tmp_path):
    net, written = nets["cosine"], []
    for names in (20, 2000):
        path = tmp_path / f"{names}.db"
        store.create(path, make_gallery(net, names=names, each=2))
        large = store.Store(path)
        large.enrol_all(net, {"x": [picture(1)]})
        written.append((tmp_path / f"{names}.db-wal").stat().st_size)
    assert written[1] <= 1.5 * written[0] and written[1] < 200_000


DAMAGES = {
    "embedding": "UPDATE embedding SET data = zeroblob(length(data)) WHERE id = 4",
    "row": "DELETE FROM embedding WHERE id = 50",
    "reference": "DELETE FROM reference WHERE id = 4",
    "length": "UPDATE embedding SET data = x'00' WHERE id = 50",
    "thumbnail": "UPDATE thumbnail SET png = x'00' WHERE id = 4",
    "source": "UPDATE reference SET source = x'00' WHERE id = 4",
    "name": "UPDATE name SET text = 'somebody' WHERE text = 'n1'",
    "fact": "UPDATE fact SET value = replace(value, '120', '121') WHERE key = 'counts'",
    "facts": "DELETE FROM fact",
    "table": "DROP TABLE reference",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_told_in_one_line(nets, large, what):
    net, h = nets["cosine"], large.part("n1").embeddings[1:2]
    large.close()
    with sqlite3.connect(large.place, isolation_level=None) as db:
        db.execute(DAMAGES[what])
    with pytest.raises(ValueError, match=r"g\.db: (damaged|cannot)") as told:
        hurt = store.Store(large.place)
        gallery.size(hurt)
        hurt.best_names(net, h, 3)
    assert "\n" not in str(told.value)


def test_what_is_no_large_gallery_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no such gallery"):
        store.Store(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("x" * 5000)
    with pytest.raises(ValueError, match=r"text\.db: damaged, or no gallery"):
        store.Store(tmp_path / "text.db")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(ValueError, match=r"/other\.db: it is another program's"):
        store.Store(tmp_path / "other.db")
    store.create(tmp_path / "new.db", gallery.Gallery("f", "n", (), np.zeros((0, 0))))
    sqlite3.connect(tmp_path / "new.db").execute("PRAGMA user_version = 9").connection.close()
    closed, connect = [], sqlite._connect

    def watched(path):
        db = mock.Mock(wraps=connect(path))
        closed.append(db.close)
        return db

    monkeypatch.setattr(sqlite, "_connect", watched)
    with pytest.raises(ValueError, match=r"/new\.db: it is of format 9, this version reads 1"):
        store.Store(tmp_path / "new.db")
    closed[0].assert_called_once_with()
    assert not store.is_store(tmp_path / "none.db") and not store.is_store(tmp_path / "text.db")


def test_the_bound_of_a_gallery_ends_with_the_next_name(nets, large, monkeypatch):
    bound = bounds.Bound(0.1, 0.9, 44, ((120, 2.0),), gallery=120)
    held = dict.fromkeys(calibration.HeldOut.__annotations__, 1)
    of_gallery = calibration.Calibration(
        0.1, ((1, 1.0),), 1.0, 0.0, "s", "f", 0, 4, 8, held, bound, "bound"
    )
    of_any = dataclasses.replace(of_gallery, bound=dataclasses.replace(bound, gallery=None))
    for seed, (learned, still) in enumerate(((of_gallery, None), (of_any, of_any.bound))):
        monkeypatch.setattr(
            score_calibration, "calibration_of", lambda *_, learned=learned: learned
        )
        large.calibrate(nets["cosine"], None, 0.1)
        assert large.calibration == learned
        large.enrol_all(nets["cosine"], {f"more{seed}": [picture(seed)]})
        assert large.calibration == dataclasses.replace(learned, bound=still)


def test_only_its_own_network_calibrates_a_store(nets, large, monkeypatch, tmp_path):
    store.create(tmp_path / "other.db", make_gallery(nets["euclidean"]))

    def changed_meanwhile(*_):  # as by `rebuild` in another process
        with sqlite3.connect(large.place) as db:
            db.execute("ATTACH ? AS other", [str(tmp_path / "other.db")])
            db.execute("REPLACE INTO fact SELECT * FROM other.fact WHERE key = 'network'")

    monkeypatch.setattr(score_calibration, "calibration_of", changed_meanwhile)
    with pytest.raises(ValueError, match="network"):
        large.calibrate(nets["cosine"], None, 0.1)
    assert large.calibration is None
