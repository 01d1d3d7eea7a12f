"""Omniglot's archives and builder, on tiny archives of the same structure and on the real ones."""

import hashlib
import http.server
import io
import json
import os
import pathlib
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from siamese_jax.data import archives, loading, omniglot, preparation, splits

TINY = archives.Layout((2, 5), (2, 4), drawers=4, runs=2, ways=2)
ALPHABETS = {
    archives.BACKGROUND: {"Alpha": 3, "Beta_(old)": 2},
    archives.EVALUATION: {"Gamma": 2, "Delta": 2},
}
RUNS = (("Gamma", 1, 2), ("Delta", 3, 4))  # alphabet, query drawer, support drawer
ANSWERS = ((1, 0), (0, 1))


def drawing(alphabet: str, character: int, drawer: int) -> np.ndarray:
    """(105, 105) bool ink, different for every drawing."""
    seed = hashlib.sha256(f"{alphabet}/{character}/{drawer}".encode()).digest()[:8]
    return np.random.default_rng(list(seed)).random((105, 105)) < 0.05


def png(ink: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(~ink).save(data, format="PNG")
    return data.getvalue()


def tiny_files() -> dict[str, dict[str, bytes]]:
    """The files of three tiny archives, by archive and name."""
    files = {}
    number = 0
    for archive, alphabets in ALPHABETS.items():
        files[archive] = {}
        for alphabet in sorted(alphabets):
            for character in range(1, alphabets[alphabet] + 1):
                number += 1
                for drawer in range(1, 5):
                    name = (
                        f"{archive.removesuffix('.zip')}/{alphabet}/character{character:02d}/"
                        f"{number:04d}_{drawer:02d}.png"
                    )
                    files[archive][name] = png(drawing(alphabet, character, drawer))
    runs = files[archives.RUNS] = {}
    for run, ((alphabet, query, support), answers) in enumerate(zip(RUNS, ANSWERS, strict=True), 1):
        lines = []
        for item, answer in enumerate(answers):
            # query `item` is character `item + 1`; the support that answers it shows that character
            runs[f"run{run:02d}/test/item{item + 1:02d}.png"] = png(
                drawing(alphabet, item + 1, query)
            )
            runs[f"run{run:02d}/training/class{answer + 1:02d}.png"] = png(
                drawing(alphabet, item + 1, support)
            )
            lines.append(
                f"run{run:02d}/test/item{item + 1:02d}.png "
                f"run{run:02d}/training/class{answer + 1:02d}.png\n"
            )
        runs[f"run{run:02d}/class_labels.txt"] = "".join(lines).encode()
    return files


def write(folder: pathlib.Path, files: dict[str, dict[str, bytes]], **options) -> pathlib.Path:
    """Packs the three archives into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive, members in files.items():
        with zipfile.ZipFile(folder / archive, "w", **options) as packed:
            for name, data in members.items():
                packed.writestr(name, data)
    return folder


@pytest.fixture
def files():
    return tiny_files()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(omniglot.ENVIRONMENT, raising=False)


def left_in(data_dir: pathlib.Path) -> list[str]:
    """What lies in a data folder besides the lock."""
    if not data_dir.exists():
        return []
    return sorted(p.name for p in data_dir.iterdir() if not p.name.endswith(".lock"))


# archives


def test_read_gives_every_picture_its_place(tmp_path, files):
    contents = archives.read(archives.find(write(tmp_path, files)), TINY)
    assert contents.background.alphabets == ("Alpha",) * 3 + ("Beta_(old)",) * 2
    assert contents.background.numbers == (1, 2, 3, 1, 2)
    assert contents.evaluation.alphabets == ("Delta", "Delta", "Gamma", "Gamma")
    np.testing.assert_array_equal(contents.background.images[4, 2], drawing("Beta_(old)", 2, 3))
    np.testing.assert_array_equal(contents.evaluation.images[2, 0], drawing("Gamma", 1, 1))
    np.testing.assert_array_equal(contents.runs.answers, ANSWERS)
    np.testing.assert_array_equal(contents.runs.queries[1, 1], drawing("Delta", 2, 3))
    np.testing.assert_array_equal(contents.runs.supports[0, 0], drawing("Gamma", 2, 2))
    np.testing.assert_array_equal(contents.runs.query_places[0], [[2, 0], [3, 0]])
    np.testing.assert_array_equal(contents.runs.support_places[0], [[3, 1], [2, 1]])


def test_fingerprint_depends_on_contents_and_not_on_packing(tmp_path, files):
    original = archives.fingerprint(archives.find(write(tmp_path / "a", files)))
    other = {name: dict(reversed(members.items())) for name, members in files.items()}
    other[archives.RUNS] = {f"all_runs/{k}": v for k, v in other[archives.RUNS].items()}
    other[archives.BACKGROUND]["__MACOSX/images_background/._Alpha"] = b"litter"
    other[archives.BACKGROUND]["images_background/.DS_Store"] = b"litter"
    repacked = write(tmp_path / "b", other, compression=zipfile.ZIP_DEFLATED)
    assert archives.fingerprint(archives.find(repacked)) == original
    assert archives.read(archives.find(repacked), TINY).fingerprint == original
    name = next(iter(files[archives.EVALUATION]))
    files[archives.EVALUATION][name] = png(~drawing("Gamma", 1, 1))
    changed = archives.fingerprint(archives.find(write(tmp_path / "c", files)))
    assert changed != original


def test_grey_png_of_black_and_white_is_read_like_one_bit(tmp_path, files):
    name, data = next(iter(files[archives.BACKGROUND].items()))
    grey = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("L").save(grey, format="PNG")
    files[archives.BACKGROUND][name] = grey.getvalue()
    contents = archives.read(archives.find(write(tmp_path, files)), TINY)
    np.testing.assert_array_equal(contents.background.images[0, 0], drawing("Alpha", 1, 1))


FIRST = "images_background/Alpha/character01/0001_01.png"
LABELS = "run02/class_labels.txt"
GREY = np.linspace(0, 255, 105 * 105).reshape(105, 105).astype(np.uint8)


def grey_png() -> bytes:
    data = io.BytesIO()
    Image.fromarray(GREY).save(data, format="PNG")
    return data.getvalue()


def replace(archive, name, data):
    def change(files):
        assert name in files[archive]
        if data is None:
            del files[archive][name]
        else:
            files[archive][name] = data

    return change


def add(archive, name, data):
    return lambda files: files[archive].update({name: data})


def drop_character(files):
    for name in [n for n in files[archives.EVALUATION] if "Delta/character01" in n]:
        del files[archives.EVALUATION][name]


def drop_last_character(files):
    for name in [n for n in files[archives.EVALUATION] if "Delta/character02" in n]:
        del files[archives.EVALUATION][name]


def drop_drawer(files):
    for name in [n for n in files[archives.BACKGROUND] if n.endswith("_04.png")]:
        del files[archives.BACKGROUND][name]


def answer(text):
    return replace(archives.RUNS, LABELS, text)


ANSWER_EACH = "must answer 2 queries, each with another support, by lines such as"
LINE = "run02/test/item%02d.png run02/training/class%02d.png\n"
FAULTS = {
    "missing picture": (
        replace(archives.BACKGROUND, FIRST, None),
        [archives.BACKGROUND, "Alpha/character01", "drawer 1 missing"],
    ),
    "picture of another size": (
        replace(archives.BACKGROUND, FIRST, png(np.ones((104, 105), bool))),
        [archives.BACKGROUND, FIRST, "105 x 104", "105 x 105"],
    ),
    "no picture at all": (
        replace(archives.BACKGROUND, FIRST, b"this is no picture"),
        [archives.BACKGROUND, FIRST, "PNG"],
    ),
    "half a picture": (
        replace(archives.BACKGROUND, FIRST, png(drawing("Alpha", 1, 1))[:300]),
        [archives.BACKGROUND, FIRST, "PNG"],
    ),
    "grey picture": (
        replace(archives.BACKGROUND, FIRST, grey_png()),
        [archives.BACKGROUND, FIRST, "grey pixels"],
    ),
    "empty picture": (
        replace(archives.BACKGROUND, FIRST, png(np.zeros((105, 105), bool))),
        [archives.BACKGROUND, FIRST, "no ink"],
    ),
    "missing character": (drop_character, [archives.EVALUATION, "3 characters", "4 of 2"]),
    "missing last character": (
        drop_last_character,
        [archives.EVALUATION, "3 characters of 2 alphabets", "4 of 2"],
    ),
    "missing drawer": (drop_drawer, [archives.BACKGROUND, "Alpha/character01", "drawer 4 missing"]),
    "drawer too many": (
        add(archives.BACKGROUND, FIRST.replace("_01", "_05"), png(drawing("Alpha", 1, 1))),
        [archives.BACKGROUND, "Alpha/character01", "drawer 5 too many", "1-4"],
    ),
    "drawer from 0": (
        add(archives.BACKGROUND, FIRST.replace("_01", "_00"), png(drawing("Alpha", 1, 1))),
        [archives.BACKGROUND, "Alpha/character01", "drawer 0 too many", "1-4"],
    ),
    "two ids of one character": (
        add(archives.BACKGROUND, FIRST.replace("0001_", "0009_"), png(drawing("Alpha", 1, 1))),
        [archives.BACKGROUND, "0009_01.png", "0001_01.png", "two names"],
    ),
    "stray file": (
        add(archives.BACKGROUND, "images_background/notes.txt", b"hello"),
        [archives.BACKGROUND, "notes.txt", "unexpected"],
    ),
    "missing run picture": (
        replace(archives.RUNS, "run01/test/item02.png", None),
        [archives.RUNS, "run01/test/item02.png", "missing"],
    ),
    "missing labels": (answer(None), [archives.RUNS, LABELS, "missing"]),
    "run too many": (
        add(archives.RUNS, "run03/class_labels.txt", b""),
        [archives.RUNS, "run03/class_labels.txt", "2 runs"],
    ),
    "stray file among runs": (
        add(archives.RUNS, "run01/notes.txt", b""),
        [archives.RUNS, "run01/notes.txt", "one too many"],
    ),
    "garbled labels": (answer(b"abc\ndef\n"), [archives.RUNS, LABELS, ANSWER_EACH]),
    "binary labels": (answer(b"\x80\x81\xff"), [archives.RUNS, LABELS, ANSWER_EACH]),
    "one answer short": (
        answer((LINE % (1, 1)).encode()),
        [archives.RUNS, LABELS, ANSWER_EACH],
    ),
    "an item twice": (
        answer((LINE % (1, 1) + LINE % (1, 2)).encode()),
        [archives.RUNS, LABELS, ANSWER_EACH],
    ),
    "a class twice": (
        answer((LINE % (1, 1) + LINE % (2, 1)).encode()),
        [archives.RUNS, LABELS, ANSWER_EACH],
    ),
    "labels of another run": (
        answer((LINE % (1, 1) + LINE % (2, 2)).replace("run02", "run01").encode()),
        [archives.RUNS, LABELS, ANSWER_EACH],
    ),
    "wrong answers": (
        answer((LINE % (1, 2) + LINE % (2, 1)).encode()),
        [archives.RUNS, LABELS, "item01", "class02", "another character"],
    ),
    "a run's picture from elsewhere": (
        replace(archives.RUNS, "run02/test/item01.png", png(drawing("Alpha", 1, 1))),
        [archives.RUNS, "run02/test/item01.png", archives.EVALUATION],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_gives_one_line_and_leaves_nothing(tmp_path, files, fault):
    change, words = FAULTS[fault]
    change(files)
    data_dir = tmp_path / "data"
    with pytest.raises(ValueError) as caught:
        omniglot.prepare(data_dir, write(tmp_path / "zips", files), layout=TINY)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert left_in(data_dir) == []


def test_pictures_of_the_released_archives_are_taken_as_they_are(tmp_path, files, monkeypatch):
    replace(archives.BACKGROUND, FIRST, grey_png())(files)
    paths = archives.find(write(tmp_path, files))
    with pytest.raises(ValueError, match="grey pixels"):
        archives.read(paths, TINY)
    monkeypatch.setattr(archives, "RELEASED", archives.fingerprint(paths))
    images = archives.read(paths, TINY).background.images
    np.testing.assert_array_equal(images[0, 0], GREY == 0)


@pytest.mark.parametrize("archive", archives.FILES)
def test_truncated_missing_or_corrupt_archive(tmp_path, files, archive):
    folder = write(tmp_path / "zips", files)
    whole = (folder / archive).read_bytes()
    damages = {
        "whole zip": whole[: len(whole) // 2],
        "damaged": whole[:200] + bytes(b ^ 255 for b in whole[200:240]) + whole[240:],
        "no such archive": None,
    }
    for word, data in damages.items():
        (folder / archive).unlink() if data is None else (folder / archive).write_bytes(data)
        with pytest.raises(ValueError, match=f"{archive}.*{word}|{archive}: {word}") as caught:
            omniglot.prepare(tmp_path / "data", folder, layout=TINY)
        assert "\n" not in str(caught.value)
    assert left_in(tmp_path / "data") == []


def test_no_folder_of_archives(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder.*images_background.zip"):
        omniglot.prepare(tmp_path / "data", tmp_path / "nowhere")


# preparing


def test_prepared_set_is_what_the_archives_hold(tmp_path, files):
    builder = omniglot.prepare(tmp_path / "data", write(tmp_path / "zips", files), layout=TINY)
    background = omniglot.load_background(builder)
    assert background.class_names == (
        "Alpha/character01",
        "Alpha/character02",
        "Alpha/character03",
        "Beta_(old)/character01",
        "Beta_(old)/character02",
    )
    assert background.alphabet_names == ("Alpha", "Beta_(old)")
    assert background.kind == "ink"
    np.testing.assert_array_equal(background.class_alphabets, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(background.drawers, np.tile([1, 2, 3, 4], 5))
    grid = background.grid()
    for c, (alphabet, number) in enumerate(
        [("Alpha", 1), ("Alpha", 2), ("Alpha", 3), ("Beta_(old)", 1), ("Beta_(old)", 2)]
    ):
        for d in range(4):
            np.testing.assert_array_equal(
                grid[c, d, ..., 0], 255 * drawing(alphabet, number, d + 1)
            )
    runs = omniglot.load_runs(builder)
    assert runs.queries.shape == runs.supports.shape == (2, 2, 105, 105, 1)
    np.testing.assert_array_equal(runs.answers, ANSWERS)
    assert runs.alphabets == ("Gamma", "Delta")
    np.testing.assert_array_equal(runs.query_drawers, [1, 3])
    np.testing.assert_array_equal(runs.support_drawers, [2, 4])
    np.testing.assert_array_equal(runs.queries[1, 1, ..., 0], 255 * drawing("Delta", 2, 3))
    np.testing.assert_array_equal(runs.supports[0, 0, ..., 0], 255 * drawing("Gamma", 2, 2))
    example = next(iter(builder.as_data_source("background")))
    assert example["image"].shape == (105, 105, 1) and example["image"].dtype == np.uint8
    np.testing.assert_array_equal(example["image"][..., 0], drawing("Alpha", 1, 1))
    assert example["drawer"] == 1 and example["run"] == 0 and example["answer"] == -1
    assert left_in(tmp_path / "data") == ["omniglot_drawers"]
    assert "tensorflow" not in sys.modules


def test_prepared_set_is_used_again_and_other_archives_replace_it(tmp_path, files, monkeypatch):
    data_dir = tmp_path / "data"
    zips = write(tmp_path / "zips", files)
    first = omniglot.fingerprint(omniglot.prepare(data_dir, zips, layout=TINY))
    metadata = data_dir / "omniglot_drawers" / "1.0.0" / "metadata.json"
    assert json.loads(metadata.read_text())["fingerprint"][:16] == first
    written = metadata.stat().st_mtime_ns
    for archives_given in (zips, None):
        builder = omniglot.prepare(data_dir, archives_given, layout=TINY)
        assert omniglot.fingerprint(builder) == first
        assert metadata.stat().st_mtime_ns == written
    name = next(iter(files[archives.BACKGROUND]))
    files[archives.BACKGROUND][name] = png(drawing("Another", 1, 1))
    others = write(tmp_path / "others", files)
    monkeypatch.setenv(omniglot.ENVIRONMENT, str(others))  # comes after a prepared set
    assert omniglot.fingerprint(omniglot.prepare(data_dir, layout=TINY)) == first
    builder = omniglot.prepare(data_dir, others, layout=TINY)
    assert omniglot.fingerprint(builder) != first
    image = omniglot.load_background(builder).images[0, ..., 0]
    np.testing.assert_array_equal(image, 255 * drawing("Another", 1, 1))
    assert left_in(data_dir) == ["omniglot_drawers"]


def test_equal_archives_are_unpacked_once(tmp_path, files, monkeypatch):
    """Archives packed anew, or a set without a checksum, as earlier versions prepared it."""
    data_dir = tmp_path / "data"
    omniglot.prepare(data_dir, write(tmp_path / "zips", files), layout=TINY)
    packed = write(tmp_path / "packed", files, compression=zipfile.ZIP_DEFLATED)
    metadata = data_dir / "omniglot_drawers" / "1.0.0" / "metadata.json"
    before = json.loads(metadata.read_text())
    omniglot.prepare(data_dir, packed, layout=TINY)
    after = json.loads(metadata.read_text())
    assert after["checksum"] == archives.checksum(archives.find(packed)) != before["checksum"]
    assert after["fingerprint"] == before["fingerprint"]
    monkeypatch.delattr(archives, "fingerprint")
    omniglot.prepare(data_dir, packed, layout=TINY)


def test_faulty_archives_leave_the_prepared_set_alone(tmp_path, files):
    data_dir = tmp_path / "data"
    first = omniglot.prepare(data_dir, write(tmp_path / "zips", files), layout=TINY)
    del files[archives.BACKGROUND][FIRST]
    with pytest.raises(ValueError, match="missing"):
        omniglot.prepare(data_dir, write(tmp_path / "others", files), layout=TINY)
    again = omniglot.prepare(data_dir, layout=TINY)
    assert omniglot.fingerprint(again) == omniglot.fingerprint(first)
    assert len(omniglot.load_background(again)) == 20


def test_environment_names_the_archives(tmp_path, files, monkeypatch):
    monkeypatch.setenv(omniglot.ENVIRONMENT, str(write(tmp_path / "zips", files)))
    builder = omniglot.prepare(tmp_path / "data", layout=TINY, downloads={})
    assert len(omniglot.load_evaluation(builder)) == 16


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_data_omniglot import TINY
from siamese_jax.data import omniglot
whole = omniglot.OmniglotDrawers._generate_examples
def half(self, images_per_class):
    for count, example in enumerate(whole(self, images_per_class)):
        if count == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example
omniglot.OmniglotDrawers._generate_examples = half
omniglot.prepare({data!r}, {zips!r}, layout=TINY)
"""


@pytest.mark.slow
def test_killed_half_way_then_called_again(tmp_path, files):
    zips, data_dir = write(tmp_path / "zips", files), tmp_path / "data"
    tests = pathlib.Path(__file__).parent
    script = KILLED.format(tests=str(tests), data=str(data_dir), zips=str(zips))
    environment = {**os.environ, "PYTHONPATH": str(tests.parent)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert ended.returncode == -9
    assert left_in(data_dir) == [".omniglot_drawers.preparing"]
    assert preparation.find_prepared(omniglot.OmniglotDrawers, data_dir) is None
    builder = omniglot.prepare(data_dir, zips, layout=TINY)
    assert len(omniglot.load_background(builder)) == 20
    assert left_in(data_dir) == ["omniglot_drawers"]


@pytest.mark.slow
def test_two_processes_prepare_once(tmp_path, files):
    """Each holds the lock in turn; the second finds the set of the first."""
    zips, data_dir = write(tmp_path / "zips", files), tmp_path / "data"
    contents = archives.read(archives.find(zips), TINY)
    made = []

    def make(folder):
        if folder != data_dir:
            made.append(folder)
        return omniglot.OmniglotDrawers(data_dir=folder, contents=contents, layout=TINY)

    threads = [
        threading.Thread(target=preparation.prepare, args=(make, data_dir, contents.fingerprint))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert left_in(data_dir) == ["omniglot_drawers"]


def test_damaged_prepared_set_is_named(tmp_path, files):
    builder = omniglot.prepare(tmp_path / "data", write(tmp_path / "zips", files), layout=TINY)
    place = pathlib.Path(builder.data_dir)
    (place / "evaluation.npz").unlink()  # what is kept of the records is gone too
    records = next(place.glob("*evaluation.array_record*"))
    whole = records.read_bytes()
    records.unlink()
    with pytest.raises(ValueError, match="omniglot_drawers.*'evaluation' is damaged.*prepare it"):
        omniglot.load_evaluation(builder)
    records.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="omniglot_drawers.*'evaluation' is damaged.*prepare it"):
        omniglot.load_evaluation(builder)


def test_data_dir_that_cannot_be_written(tmp_path, files):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ValueError, match="data: cannot hold prepared data"):
        omniglot.prepare(tmp_path / "data", write(tmp_path / "zips", files), layout=TINY)


# downloading


@pytest.fixture
def server(tmp_path, files, monkeypatch):
    """Serves the tiny archives; gives the downloads table."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = write(tmp_path / "served", files)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    table = {}
    for name in archives.FILES:
        data = (folder / name).read_bytes()
        url = f"http://127.0.0.1:{serving.server_port}/{name}"
        table[name] = (url, len(data), hashlib.sha256(data).hexdigest())
    yield table
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_download(tmp_path, server):
    builder = omniglot.prepare(tmp_path / "data", layout=TINY, downloads=server)
    assert len(omniglot.load_background(builder)) == 20
    assert left_in(tmp_path / "data") == ["omniglot_drawers"]


@pytest.mark.parametrize("archive", archives.FILES)
def test_download_with_another_checksum_is_refused(tmp_path, server, archive):
    url, size, _ = server[archive]
    server[archive] = (url, size, "0" * 64)
    with pytest.raises(preparation.SourceUnavailable, match=f"{archive}: the file is not the exp"):
        omniglot.prepare(tmp_path / "data", layout=TINY, downloads=server)
    assert left_in(tmp_path / "data") == []


def test_download_of_a_missing_file(tmp_path, server):
    url, size, checksum = server[archives.RUNS]
    server[archives.RUNS] = (url + ".gone", size, checksum)
    with pytest.raises(preparation.SourceUnavailable, match=r"all_runs.zip.gone: HTTP status 404"):
        omniglot.prepare(tmp_path / "data", layout=TINY, downloads=server)
    assert left_in(tmp_path / "data") == []


def test_no_source_says_both_ways_and_names_glyphs(tmp_path):
    closed = {"x": ("http://127.0.0.1:9/x.zip", 1, "0" * 64)}
    with pytest.raises(preparation.SourceUnavailable) as caught:
        omniglot.prepare(tmp_path / "data", downloads=closed)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("--archives", omniglot.ENVIRONMENT, *archives.FILES, "network", "glyphs"):
        assert word in message
    assert left_in(tmp_path / "data") == []


def test_every_download_has_size_and_checksum():
    assert set(omniglot.DOWNLOADS) == set(archives.FILES)
    for url, size, checksum in omniglot.DOWNLOADS.values():
        assert url.startswith("https://github.com/brendenlake/omniglot/raw/master/python/")
        assert size > 0 and len(bytes.fromhex(checksum)) == 32


# the real archives


@pytest.fixture(scope="module")
def real_sets(prepared_omniglot):
    """The background and the evaluation set."""
    return (
        omniglot.load_background(prepared_omniglot),
        omniglot.load_evaluation(prepared_omniglot),
    )


@pytest.mark.slow
def test_the_pinned_fingerprint_is_that_of_the_released_archives(real_data):
    assert archives.fingerprint(archives.find(real_data / "omniglot")) == archives.RELEASED


@pytest.mark.slow
def test_golden_values_of_the_real_omniglot(real_sets, real_data):
    background, evaluation = real_sets
    assert background.grid().shape == (964, 20, 105, 105, 1)
    assert evaluation.grid().shape == (659, 20, 105, 105, 1)
    assert background.num_alphabets == 30 and evaluation.num_alphabets == 20
    alphabets = np.array(background.alphabet_names)[background.class_alphabets]
    np.testing.assert_array_equal(np.flatnonzero(alphabets == "Alphabet_of_the_Magi"), range(20))
    np.testing.assert_array_equal(np.flatnonzero(alphabets == "Anglo-Saxon_Futhorc"), range(20, 49))
    assert sorted(background.alphabet_count)[:5] == [14, 14, 16, 17, 20]
    assert set(np.unique(background.images)) == {0, 255}
    train, validation, test = splits.vinyals(background, evaluation)
    assert [part.num_classes for part in (train, validation, test)] == [1028, 172, 423]
    assert validation.alphabet_names == splits.VINYALS_VALIDATION_ALPHABETS
    assert (train.alphabet_names[-1], train.alphabet_count[-1]) == ("Gurmukhi", 41)
    assert (test.alphabet_names[0], test.alphabet_count[0]) == ("Gurmukhi", 4)
    assert test.num_alphabets == 13
    # a picture read past our code
    with zipfile.ZipFile(real_data / "omniglot" / archives.BACKGROUND) as packed:
        data = packed.read("images_background/Anglo-Saxon_Futhorc/character02/0297_07.png")
    expected = np.where(np.asarray(Image.open(io.BytesIO(data))), 0, 255)
    np.testing.assert_array_equal(background.grid()[21, 6, ..., 0], expected)


@pytest.mark.slow
def test_official_runs(prepared_omniglot, real_data):
    runs = omniglot.load_runs(prepared_omniglot)
    assert runs.queries.shape == runs.supports.shape == (20, 20, 105, 105, 1)
    assert runs.alphabets == tuple(splits.OFFICIAL_RUNS.values())
    assert set(np.unique(runs.answers)) == set(range(20))
    assert runs.query_drawers.max() <= 8 and runs.support_drawers.max() <= 8
    assert np.all(runs.query_drawers != runs.support_drawers)
    with zipfile.ZipFile(real_data / "omniglot" / archives.RUNS) as packed:
        labels = packed.read("run07/class_labels.txt").decode().splitlines()
        item, answer = labels[4].split()
        query, support = (
            np.asarray(Image.open(io.BytesIO(packed.read(n)))) for n in (item, answer)
        )
    k = int(item[-6:-4]) - 1
    np.testing.assert_array_equal(runs.queries[6, k, ..., 0], 255 * ~query)
    np.testing.assert_array_equal(runs.supports[6, runs.answers[6, k], ..., 0], 255 * ~support)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "drawers", "counts"),
    [
        ("lake", (range(1, 21), range(1, 21), range(1, 21)), (964, 277, 382)),
        ("koch", (range(1, 13), range(13, 17), range(17, 21)), (964, 277, 382)),
    ],
)
def test_load_splits_the_real_omniglot(
    prepared_omniglot, real_sets, monkeypatch, split, drawers, counts
):
    monkeypatch.setattr(omniglot, "load_background", lambda builder, stream: real_sets[0])
    monkeypatch.setattr(omniglot, "load_evaluation", lambda builder: real_sets[1])
    data = loading.load(
        {"name": "auto", "data_dir": prepared_omniglot.data_dir_root, "split": split}
    )
    parts = (data.train, data.validation, data.test)
    assert tuple(part.num_classes for part in parts) == counts
    assert tuple(part.num_alphabets for part in parts) == (30, 10, 10)
    for part, expected in zip(parts, drawers, strict=True):
        assert set(part.drawers.tolist()) == set(expected)
    assert data.test.alphabet_names == splits.TEST_ALPHABETS
    assert data.validation.alphabet_names == splits.VALIDATION_ALPHABETS
    assert len(data.runs) == 20 and data.runs.name == "official runs"


@pytest.mark.slow
def test_training_on_some_of_the_real_alphabets(prepared_omniglot, real_sets, monkeypatch):
    monkeypatch.setattr(omniglot, "load_background", lambda builder, stream: real_sets[0])
    monkeypatch.setattr(omniglot, "load_evaluation", lambda builder: real_sets[1])
    fields = {"name": "omniglot", "data_dir": prepared_omniglot.data_dir_root}
    whole = loading.load(fields)
    draws = []
    for seed in (0, 1, 0):
        data = loading.load({**fields, "train_alphabets": 5, "seed": seed})
        draws.append(data.train.alphabet_names)
        assert len(set(draws[-1])) == 5 and set(draws[-1]) < set(whole.train.alphabet_names)
        assert ", ".join(draws[-1]) in data.note
        assert data.validation.fingerprint == whole.validation.fingerprint
        assert data.test.fingerprint == whole.test.fingerprint
    assert draws[0] == draws[2] != draws[1]
    with pytest.raises(ValueError, match="train_alphabets is 31; .* has 30 alphabets"):
        loading.load({**fields, "train_alphabets": 31})


def test_loaded_again_from_the_packed_columns(tmp_path, files):
    """The records are not read; damaged columns are made anew from them, and are the same."""
    builder = omniglot.prepare(tmp_path / "data", write(tmp_path / "zips", files), layout=TINY)
    columns = pathlib.Path(builder.data_dir) / "evaluation.npz"
    whole = columns.read_bytes()
    records = next(pathlib.Path(builder.data_dir).glob("*evaluation.array_record*"))
    records.rename(tmp_path / "away")
    kept = omniglot.load_evaluation(builder)

    columns.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        omniglot.load_evaluation(builder)
    (tmp_path / "away").rename(records)
    read = omniglot.load_evaluation(builder)
    np.testing.assert_array_equal(read.images, kept.images)
    assert read.fingerprint == kept.fingerprint
    assert columns.read_bytes() == whole

    runs = omniglot.load_runs(builder)  # packed when they are first read
    for records in pathlib.Path(builder.data_dir).glob("*runs.array_record*"):
        records.unlink()
    again = omniglot.load_runs(builder)
    assert again.fingerprint == runs.fingerprint and again.alphabets == runs.alphabets
    np.testing.assert_array_equal(again.query_drawers, runs.query_drawers)
    np.testing.assert_array_equal(again.support_drawers, runs.support_drawers)
