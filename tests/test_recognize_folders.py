"""Enrolling a folder at once, pictures by a pattern, and the page of a comparison."""

import html.parser
import re

import numpy as np
import pytest
from galleries import make_net
from PIL import Image

from siamese_jax.data import folder
from siamese_jax.recognition import commands, gallery, pictures, storage


@pytest.fixture(scope="module")
def nets():
    return {"cosine": make_net("cosine"), "local": make_net("local", local=True)}


@pytest.fixture
def act(nets, tmp_path, monkeypatch):
    """Runs a command with a network in memory: its words -> what it prints."""
    monkeypatch.setattr(commands, "_network", lambda settings: nets[settings.workdir])

    def act(command, *words, **changes):
        settings = {"workdir": "cosine", "gallery": str(tmp_path / "g.npz"), **changes}
        return commands.run(
            command, [str(word) for word in words], commands.Settings(**settings)
        ).lines

    return act


@pytest.fixture
def people(tmp_path):
    """<name>/<number>.png of three names with 3, 1 and 2 pictures, and 11 of a fourth."""
    rng = np.random.default_rng(0)
    for name, count in (("anna", 3), ("ben", 1), ("cleo", 2), ("dora", 11)):
        (tmp_path / "people" / name).mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = rng.integers(0, 256, (12, 12)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "people" / name / f"{number}.png")
    return tmp_path / "people"


def read(tmp_path):
    return storage.GalleryFile(tmp_path / "g.npz").read()


def test_a_folder_is_enrolled_as_one_by_one(act, nets, people, tmp_path):
    (people / "README.md").write_text("not a picture")
    (line,) = act("enrol-folder", people)
    assert line == "enrolled 4 names with 17 pictures; 4 names, 17 pictures"
    whole = read(tmp_path)
    net, known = nets["cosine"], gallery.empty(nets["cosine"])
    for name, files in folder.picture_files(people).items():
        known = gallery.enrol(known, net, name, [pictures.read(net, path) for path in files])
    assert whole.references == known.references
    np.testing.assert_allclose(whole.embeddings, known.embeddings, rtol=1e-5)
    numbers = [r.source.rpartition("/")[2] for r in whole.references if r.name == "dora"]
    assert numbers == [f"{n}.png" for n in range(1, 12)]  # 10 after 9


def test_all_faults_of_a_folder_are_told_at_once_and_nothing_is_enrolled(act, people, tmp_path):
    act("enrol", "ben", people / "ben" / "1.png")
    before = (tmp_path / "g.npz").read_bytes()
    (people / "anna" / "2.png").write_text("no picture")
    (people / "cleo" / "1.png").write_bytes((people / "anna" / "1.png").read_bytes())
    (people / "unknown").mkdir()
    (people / "anna" / "3.png").rename(people / "unknown" / "3.png")
    with pytest.raises(ValueError) as told:
        act("enrol-folder", people)
    message = str(told.value)
    assert "\n" not in message and message.count(";") == 4
    for part in (
        "anna: 2.png is not a readable image",
        "'ben' is enrolled already, with 1 picture: --add gives it more",
        "ben/1.png is a reference of 'ben' already",
        "cleo/1.png is a reference of 'anna' already",
        "'unknown' cannot be a name",
    ):
        assert part in message
    assert (tmp_path / "g.npz").read_bytes() == before


def test_a_folder_adds_to_names_that_are_there(act, people, tmp_path):
    act("enrol-folder", people)
    more = tmp_path / "more" / "top" / "ben"
    more.mkdir(parents=True)
    Image.fromarray(np.full((12, 12), 9, np.uint8)).save(more / "2.png")
    (tmp_path / "more" / "top" / "eve").mkdir()
    Image.fromarray(np.full((12, 12), 99, np.uint8)).save(tmp_path / "more/top/eve/1.png")
    with pytest.raises(ValueError, match="'ben' is enrolled already"):
        act("enrol-folder", tmp_path / "more")
    (line,) = act("enrol-folder", tmp_path / "more", add=True)
    assert line.endswith("5 names, 19 pictures") and read(tmp_path).count_of("ben") == 2


def test_a_folder_of_another_layout_is_refused(act, people, tmp_path):
    (people / "anna" / "deep").mkdir()
    (people / "anna" / "1.png").rename(people / "anna" / "deep" / "1.png")
    with pytest.raises(ValueError, match=r"not at <name>/<picture>: anna/deep/1\.png"):
        act("enrol-folder", people)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        act("enrol-folder", tmp_path / "empty")
    with pytest.raises(ValueError, match="no such folder"):
        act("enrol-folder", tmp_path / "nothing")
    assert not (tmp_path / "g.npz").exists()


def test_pictures_are_identified_by_a_pattern(act, people):
    act("enrol-folder", people)
    *lines, _ = act("identify", people / "dora" / "*.png", people / "ben" / "1.png")
    told = [line.partition(": ")[0].rpartition("people/")[2] for line in lines]
    assert told == [*(f"dora/{n}.png" for n in range(1, 12)), "ben/1.png"]
    (people / "[odd].png").write_bytes((people / "ben" / "1.png").read_bytes())
    assert "[odd].png" in act("identify", people / "[odd].png")[0]  # a file of this very name
    with pytest.raises(ValueError, match=r"x\*\.png: no picture has such a name"):
        act("identify", people / "x*.png")
    (people / "dora" / "4.png").write_text("x")
    (people / "dora" / "5.png").write_text("x")
    with pytest.raises(ValueError, match=r"dora: 4\.png is not .*; .*dora: 5\.png is not"):
        act("identify", people / "dora" / "*.png")


# -------------------------------------------------------------------------- the page of a comparison


class Parts(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def compared(act, people, tmp_path, net):
    page = tmp_path / "why & how.html"
    lines = act(
        "compare",
        people / "anna/1.png",
        people / "cleo/2.png",
        page=str(page),
        workdir=net,
        gallery=None,
    )
    assert lines[-1] == f"page: {page}"
    return page.read_text(encoding="utf-8"), lines[0]


def test_the_page_of_a_comparison_shows_which_places_met(act, people, tmp_path, nets):
    page, line = compared(act, people, tmp_path, "local")
    parts = Parts(page)
    score = re.search(r"score (-?[\d.]+)", line)[1]
    assert f"{score} (higher: more alike)" in parts.text
    assert "places raise the score" in parts.text and "from a score of 0" in parts.text
    shown = [a for tag, a in parts.tags if tag in ("img", "image")]
    assert len(shown) == 4  # the two pictures, and the two that the network sees
    assert all(a["alt"] for tag, a in parts.tags if tag == "img")
    rows, columns = nets["local"].model.head.places
    heat = [a for tag, a in parts.tags if tag == "rect" and "fill-opacity" in a]
    assert len(heat) == 2 * rows * columns
    assert not re.search(r"https?:", page)


def test_a_network_without_places_says_so_in_one_line(act, people, tmp_path):
    page, _ = compared(act, people, tmp_path, "cosine")
    text = Parts(page).text
    assert "cosine compares with Cosine, which compares no places" in text
    assert "<svg" not in page


def test_the_page_replaces_none_of_the_pictures(act, people, tmp_path):
    two = people / "anna" / "1.png", people / "ben" / "1.png"
    before = two[1].read_bytes()
    with pytest.raises(ValueError, match="is one of the pictures"):
        act("compare", *two, page=str(two[1]), gallery=None)
    (tmp_path / "link.html").symlink_to(two[1])
    with pytest.raises(ValueError, match="is one of the pictures"):
        act("compare", *two, page=str(tmp_path / "link.html"), gallery=None)
    with pytest.raises(ValueError, match="no such folder for a page"):
        act("compare", *two, page=str(tmp_path / "none" / "a.html"), gallery=None)
    assert two[1].read_bytes() == before
