"""`launch/recognize.py`: every command, its words, its mistakes and its exit codes."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from launching import launch
from PIL import Image
from recipes import ROOT, get_config

from siamese_jax import cli
from siamese_jax.inference import network
from siamese_jax.models import siamese
from siamese_jax.recognition import commands, storage
from siamese_jax.runs import checkpoints, workdir
from siamese_jax.training.experiment import Experiment

SCRIPT = ROOT / "launch" / "recognize.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints 2 (best) and 4, of the smoke variant's network with random parameters."""
    path = tmp_path_factory.mktemp("runs") / "smoke"
    config = get_config("quickstart", "vector,smoke")
    config.num_devices, config.keep_best = 1, 2
    experiment = Experiment.from_config(config)
    details = {"image_shape": experiment.image_shape, "kind": experiment.kind, "data": "none"}
    workdir.RunFolder(path, config, experiment.data.fingerprint, details).close()
    identity = workdir.identity(config, details)
    saved = checkpoints.Checkpoints(path, config.keep_best, run=identity)
    shapes = siamese.variable_shapes(experiment.model, experiment.image_shape)
    for step, value in ((2, 1.0), (4, 0.5)):
        rng = np.random.default_rng(step)

        def values(path, x, rng=rng):
            if path[-1].key in ("var", "scale"):
                return np.ones(x.shape, x.dtype)
            return rng.normal(0, 0.2, x.shape).astype(x.dtype)

        saved.save(step, jax.tree_util.tree_map_with_path(values, shapes), value)
    saved.close()
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """<person>/<number>.png: dark patterns on light paper, one a person."""
    path = tmp_path_factory.mktemp("data") / "people"
    rng = np.random.default_rng(0)
    for person in range(6):
        base = 255 * (rng.random((8, 6)) > 0.3)
        (path / f"p{person}").mkdir(parents=True)
        for number in range(4):
            pixels = np.kron(base, np.ones((4, 4))) - rng.integers(0, 40, (32, 24))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(path / f"p{person}" / f"{number}.png")
    return path


@pytest.fixture
def act(run, tmp_path, monkeypatch):
    """Runs a command in this process: its words -> its exit code and what it prints."""
    load, loaded = network.load, {}

    def load_once(path, checkpoint, tta):
        if (path, checkpoint, tta) not in loaded:
            loaded[path, checkpoint, tta] = load(path, checkpoint, tta=tta)
        return loaded[path, checkpoint, tta]

    monkeypatch.setattr(network, "load", load_once)

    def act(command, *words, **changes):
        settings = {"workdir": str(run), "gallery": str(tmp_path / "g.npz"), **changes}
        output = commands.run(command, [str(w) for w in words], commands.Settings(**settings))
        lines = [*cli.text_table(output.table).splitlines(), *output.lines]
        return output.exit_code, "".join(f"{line}\n" for line in lines)

    return act


@pytest.mark.slow
def test_the_whole_story(act, run, people, tmp_path):
    a, b, c = (people / f"p{person}" for person in range(3))
    code, text = act("enrol", "anna", a / "0.png", a / "1.png")
    assert (code, text) == (0, "enrolled anna with 2 pictures; 1 name, 2 pictures\n")
    act("enrol", "bob", b / "0.png")
    code, text = act("enrol", "bob", b / "1.png", add=True)
    assert (code, text) == (0, "enrolled bob with 2 pictures; 2 names, 4 pictures\n")

    code, text = act("list")
    lines = text.splitlines()
    assert code == 0 and lines[0] == f"anna  2 pictures  first {a / '0.png'}"
    assert lines[1] == f"bob   2 pictures  first {b / '0.png'}"
    assert lines[2].startswith("2 names, 4 pictures, of the network smoke @ ")
    assert lines[3] == "no calibration: no threshold and no probabilities"

    code, text = act("identify", a / "0.png", b / "1.png", top=1)
    lines = text.splitlines()
    assert code == 0 and len(lines) == 3
    assert lines[0].startswith(f"{a / '0.png'}: no threshold; nearest anna (score ")
    assert lines[1].startswith(f"{b / '1.png'}: no threshold; nearest bob (score ")
    assert lines[2] == "this gallery has no threshold, so nobody is unknown: calibrate it first"

    code, text = act("calibrate", people, false_accept_rate=0.25)
    warning, text = text.split("\n", 1)
    assert warning == (
        f"WARNING: anna, bob of the gallery came from {people}: the threshold is for people who are not "
        "enrolled, so calibrate on others"
    )
    assert code == 0 and text.startswith("calibrated on 3 classes of people (12 pictures) for a ")
    assert "on the 3 classes held out (12 pictures): reliability error of the probabilities" in text
    assert act("list")[1].endswith("\n" + text)

    needs = (
        "6 classes cannot show a false-accept rate of 0.25 with 90 % confidence for this gallery"
    )
    assert text.endswith(f"no bound: {needs}: 9 are needed\n")
    with pytest.raises(ValueError, match=needs):
        act("calibrate", people, false_accept_rate=0.25, threshold="bound")
    act("calibrate", people, false_accept_rate=0.25, confidence=0.8, threshold="bound")
    line = act("identify", a / "0.png")[1].splitlines()[-1]
    assert line.endswith("a false-accept rate of 0.25 on fresh classes with 80 % confidence")
    act("calibrate", people, false_accept_rate=0.25)

    known = storage.GalleryFile(tmp_path / "g.npz").read()
    answer = act("identify", a / "0.png", c / "0.png")[1].splitlines()
    assert answer[0].startswith(f"{a / '0.png'}: anna; nearest anna (probability ")
    limit = known.calibration.threshold(4)
    assert answer[2] == f"threshold {limit:.3f} of the score, for a false-accept rate of 0.25"

    code, text = act("verify", "anna", a / "0.png")
    assert code == 0 and text.startswith(f"{a / '0.png'}: accepted as anna (probability ")

    code, text = act("compare", a / "0.png", b / "0.png")
    assert code == 0 and "probability of same 0." in text
    score = float(text.split("score ")[1].split(",")[0])
    assert text.startswith(f"dissimilarity {-score:.4f}, ")  # a cosine has no distance of its own
    assert act("compare", b / "0.png", a / "0.png")[1] == text
    code, text = act("compare", a / "0.png", b / "0.png", gallery=None)
    assert f"score {score:.4f}, no probability: launch/calibrate.py" in text

    code, text = act("search", a / "1.png", top=3)
    lines = text.splitlines()
    assert code == 0 and len(lines) == 4 and lines[0].startswith("1  anna  probability ")
    assert lines[0].endswith(str(a / "1.png"))
    page = tmp_path / "g-search.html"
    assert lines[3] == f"page: {page}" and page.read_text().count("<img") == 4
    act("search", a / "1.png", page=str(tmp_path / "own.html"))
    assert (tmp_path / "own.html").exists()
    with pytest.raises(ValueError, match="is the gallery itself"):
        act("search", a / "1.png", page=str(tmp_path / "g.npz"))

    code, text = act("remove", "bob", workdir=None)  # needs no network
    assert (code, text) == (0, "removed bob; 1 name, 2 pictures\n")
    code, text = act("list", workdir=None)
    assert code == 0 and "bob" not in text and "calibrated on 3 classes" in text


@pytest.mark.slow
def test_rebuilding_takes_another_checkpoint(act, run, people):
    act("enrol", "anna", people / "p0" / "0.png", checkpoint=2)
    act("enrol", "bob", people / "p1" / "0.png", checkpoint=2)
    act("calibrate", people, false_accept_rate=0.25, checkpoint=2)
    with pytest.raises(
        ValueError, match="belongs to the network smoke @ 2 .*not to smoke @ 4.*rebuild"
    ):
        act("identify", people / "p0" / "0.png", checkpoint="latest")
    code, text = act("rebuild", checkpoint="latest")
    assert code == 0 and text.splitlines() == [
        "rebuilt 2 names, 2 pictures with smoke @ 4: 2 from their files, 0 from kept thumbnails",
        "the calibration was of the old network and is dropped: calibrate again",
    ]
    code, text = act("identify", people / "p1" / "0.png", checkpoint="latest")
    assert code == 0 and "nearest bob" in text


@pytest.mark.slow
def test_another_test_time_augmentation_is_another_network(act, people):
    act("enrol", "anna", people / "p0" / "0.png", tta=2)
    code, text = act("compare", people / "p0" / "0.png", people / "p1" / "0.png", tta=2)
    once = act("compare", people / "p0" / "0.png", people / "p1" / "0.png", gallery=None)[1]
    assert code == 0 and text != once
    with pytest.raises(ValueError, match="the same --tta, or `rebuild`"):
        act("identify", people / "p0" / "0.png")
    act("rebuild")
    assert "nearest anna" in act("identify", people / "p0" / "0.png")[1]


def test_mistakes_in_the_words_are_named(act, people, tmp_path):
    picture = people / "p0" / "0.png"
    with pytest.raises(
        ValueError,
        match=r"no command is given: enrol NAME IMAGE\.\.\., enrol-folder PEOPLE, remove",
    ):
        act(None)
    with pytest.raises(ValueError, match="'enroll' is no command: enrol NAME"):
        act("enroll", "anna", picture)
    with pytest.raises(ValueError, match=r"enrol takes NAME IMAGE\.\.\. and got anna"):
        act("enrol", "anna")
    with pytest.raises(ValueError, match="remove takes NAME and got a b"):
        act("remove", "a", "b")
    with pytest.raises(ValueError, match="list takes nothing and got x"):
        act("list", "x")
    with pytest.raises(ValueError, match="identify needs --gallery=FILE"):
        act("identify", picture, gallery=None)
    with pytest.raises(ValueError, match="compare needs --workdir=RUN"):
        act("compare", picture, picture, workdir=None)
    with pytest.raises(ValueError, match="--top must be at least 1, got 0"):
        act("identify", picture, top=0)
    with pytest.raises(ValueError, match="no such gallery"):
        act("identify", picture)
    with pytest.raises(ValueError, match=r"nobody: no such folder of <name>/<image>"):
        act("calibrate", people / "nobody")
    with pytest.raises(ValueError, match="holds no run"):
        act("enrol", "anna", picture, workdir=str(tmp_path))
    with pytest.raises(ValueError, match="holds no checkpoint 99"):
        act("enrol", "anna", picture, checkpoint=99)
    assert not (tmp_path / "g.npz").exists()


def test_a_run_and_a_network_of_the_package_are_one_too_many():
    done = launch(SCRIPT.name, "--workdir=x", "--pretrained=omniglot", "list")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "give one of --workdir=RUN and --pretrained=NAME, not both" in done.stderr


def test_what_a_calibration_folder_lacks_is_named(act, people, tmp_path):
    with pytest.raises(ValueError, match=r"rate of 0\.01 cannot be shown by 12 pictures.* 0\.084;"):
        act("calibrate", people)
    for person in range(4):
        (tmp_path / "few" / f"p{person}").mkdir(parents=True)
        picture = (people / f"p{person}" / "0.png").read_bytes()
        (tmp_path / "few" / f"p{person}" / "0.png").write_bytes(picture)
    with pytest.raises(ValueError, match="the class p0 has 1 image, at least 2 needed"):
        act("calibrate", tmp_path / "few", false_accept_rate=0.5)
    assert not (tmp_path / "g.npz").exists()


@pytest.mark.slow
def test_exit_codes_of_the_command_itself(act, run, people, tmp_path):
    """0 done or accepted, 1 rejected, 2 an error of one line; flags may stand anywhere.

    The first one in a process of its own.
    """
    base = (f"--workdir={run}", f"--gallery={tmp_path / 'g.npz'}")
    picture = people / "p0" / "0.png"
    note = "1 of 1 pictures: grey paper, made blank\n"
    words = [sys.executable, str(SCRIPT), *map(str, base), "enrol", "anna", str(picture)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, note) and done.stdout.startswith("enrolled anna")
    act("calibrate", people, false_accept_rate=0.25)
    done = launch(SCRIPT.name, "verify", "anna", picture, *base)
    assert (done.returncode, done.stderr) == (0, note) and ": accepted as anna" in done.stdout
    file = storage.GalleryFile(tmp_path / "g.npz")
    known = file.read()
    strict = dataclasses.replace(known.calibration, thresholds=((1, 1e9),))
    file.write(dataclasses.replace(known, calibration=strict))
    done = launch(SCRIPT.name, "verify", "anna", picture, *base)
    assert (done.returncode, done.stderr) == (1, note) and ": rejected as anna" in done.stdout
    for words, line in (
        (("verify", "anna", people / "none.png", *base), "none.png: no such picture"),
        (("verify", "anna", picture, *base, "--tip=3"), "Unknown command line flag 'tip'"),
    ):
        done = launch(SCRIPT.name, *words)
        assert done.returncode == 2 and not done.stdout
        assert line in done.stderr and len(done.stderr.strip().splitlines()) == 1
