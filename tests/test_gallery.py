"""The gallery: its life, its file and its crashes, identification by brute force, its calibration."""

import dataclasses
import io
import math
import os
import signal
import stat
import subprocess
import sys
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from siamese_jax.data import folder
from siamese_jax.evaluation import calibration
from siamese_jax.inference import network
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese
from siamese_jax.models.comparators import Euclidean, Local, SquaredEuclidean
from siamese_jax.models.context import FullContext
from siamese_jax.recognition import (
    gallery,
    identification,
    pictures,
    scoring,
    search_page,
    storage,
)

SHAPE = (12, 10, 1)


def make_net(seed=0, comparator="cosine", kind="photo", shape=SHAPE, name="net", **fields):
    """A tiny network with random parameters."""
    fields = {
        "encoder": "residual",
        "comparator": comparator,
        "dtype": "float32",
        "encoder_args": {"widths": (4,), "stem": 4, "stem_stride": 2, "units": 8},
        "head_args": {},
        **fields,
    }
    config = ml_collections.ConfigDict({"model": fields})
    devices = Devices(1)
    model = siamese.build(config.model)
    rng = np.random.default_rng(seed)

    def values(path, x):
        if path[-1].key in ("var", "scale"):
            return np.ones(x.shape, x.dtype)
        return rng.normal(0, 0.2, x.shape).astype(x.dtype)

    variables = jax.tree_util.tree_map_with_path(values, siamese.variable_shapes(model, shape))
    return network.bind(config, devices.replicate(variables), shape, kind, name, devices)


@pytest.fixture(scope="module")
def net():
    return make_net()


@pytest.fixture(scope="module")
def other_net():
    return make_net(seed=1, name="other")


def write_people(path, people=8, count=5, height=12, width=10, channels=1, seed=0):
    """A folder of <person>/<number>.png: a pattern a person, and noise on each picture."""
    rng = np.random.default_rng(seed)
    for person in range(people):
        base = rng.integers(40, 216, (height, width, channels))
        (path / f"p{person}").mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(base + rng.integers(-25, 26, base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            image.save(path / f"p{person}" / f"{number}.png")
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


def read(net, people, person, *numbers):
    return [pictures.read(net, people / f"p{person}" / f"{number}.png") for number in numbers]


@pytest.fixture(scope="module")
def small(net, people):
    """Three names with 2, 1 and 3 references."""
    known = gallery.enrol(gallery.empty(net), net, "anna", read(net, people, 0, 0, 1))
    known = gallery.enrol(known, net, "bob", read(net, people, 1, 0))
    return gallery.enrol(known, net, "carl", read(net, people, 2, 0, 1, 2))


def same(a, b):
    """Whether two galleries are equal in everything."""
    np.testing.assert_array_equal(a.embeddings, b.embeddings)
    left, right = (dataclasses.replace(x, embeddings=np.zeros((len(x), 0))) for x in (a, b))
    return all(
        getattr(left, field.name) == getattr(right, field.name)
        for field in dataclasses.fields(left)
        if field.name != "embeddings"
    )


def cosine_scores(net, h1, h2):
    """The cosine comparator in float64 NumPy."""
    head = net.variables["params"]["head"]
    h1, h2 = (np.asarray(h, np.float64) for h in (h1, h2))
    h1, h2 = (h / np.linalg.norm(h, axis=-1, keepdims=True) for h in (h1, h2))
    return float(head["scale"]) * h1 @ h2.T + float(head["bias"])


@pytest.fixture
def comparisons(monkeypatch):
    """The shapes (queries, references) of all comparisons with a cosine."""
    shapes, compare = [], scoring.cosine_logits

    def counted(scale, bias, queries, units):
        shapes.append((queries.shape, units.shape))
        return compare(scale, bias, queries, units)

    monkeypatch.setattr(scoring, "cosine_logits", counted)
    return shapes


# ----------------------------------------------------------------------------------------- life


def test_enrolling_makes_a_new_gallery_and_leaves_the_old_one(net, people):
    nobody = gallery.empty(net)
    one = gallery.enrol(nobody, net, "anna", read(net, people, 0, 0, 1))
    two = gallery.enrol(one, net, "bob", read(net, people, 1, 0))
    assert (nobody.names, one.names, two.names) == ((), ("anna",), ("anna", "bob"))
    assert [len(g) for g in (nobody, one, two)] == [0, 2, 3]
    images = folder.load_folder(people).images[[0, 1, 5]]
    np.testing.assert_allclose(two.embeddings, net.embed(images), atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        two.embeddings[0] = 0
    more = gallery.enrol(two, net, "anna", read(net, people, 0, 2), add=True)
    assert {name: count for name, count, _ in more.summary()} == {"anna": 3, "bob": 1}
    assert more.references[-1].source == str(people / "p0" / "2.png")


def test_removing_takes_all_references_of_the_name_only(net, small, people):
    left = gallery.remove(small, "anna")
    assert left.names == ("bob", "carl") and len(small) == 6
    np.testing.assert_array_equal(left.embeddings, small.embeddings[2:])
    answer = identification.identify(left, net, read(net, people, 0, 0), top=9)[0]
    assert {m.name for m in answer.matches} == {"bob", "carl"}
    again = gallery.enrol(left, net, "anna", read(net, people, 0, 0, 1))
    assert again.names == ("bob", "carl", "anna")
    assert len(gallery.remove(gallery.remove(left, "bob"), "carl")) == 0


def test_identification_is_that_of_brute_force(net, small, people):
    probes = [read(net, people, person, 4)[0] for person in range(6)]
    answers = identification.identify(small, net, probes, top=2)
    h = net.embed(np.stack([p.image for p in probes]))
    names = ["anna", "anna", "bob", "carl", "carl", "carl"]
    for row, answer in zip(cosine_scores(net, h, small.embeddings), answers, strict=True):
        best = {n: max(s for s, m in zip(row, names, strict=True) if m == n) for n in set(names)}
        ranked = sorted(best, key=best.get, reverse=True)[:2]
        assert [m.name for m in answer.matches] == ranked
        np.testing.assert_allclose(
            [m.score for m in answer.matches], [best[n] for n in ranked], 1e-5
        )
        for match in answer.matches:
            place = small.references.index(match.reference)
            assert names[place] == match.name and math.isclose(
                row[place], match.score, rel_tol=1e-5
            )
        assert answer.threshold is None and answer.name is None  # never a made-up one
        assert all(match.probability is None for match in answer.matches)


def test_an_enrolled_picture_is_recognised(net, small, people):
    answers = identification.identify(
        small, net, [*read(net, people, 0, 1), *read(net, people, 2, 2)]
    )
    assert [a.matches[0].name for a in answers] == ["anna", "carl"]
    assert [a.matches[0].reference.source[-8:] for a in answers] == ["p0/1.png", "p2/2.png"]


def test_ten_thousand_references_are_one_matrix_product(net, people, comparisons, monkeypatch):
    rng = np.random.default_rng(0)
    h = rng.normal(size=(10_000, 8)).astype(np.float32)
    references = tuple(
        gallery.Reference(f"name{i % 2500}", f"/{i}.png", f"{i:016x}", b"") for i in range(10_000)
    )
    large = dataclasses.replace(gallery.empty(net), references=references, embeddings=h)
    probes = read(net, people, 0, 0, 1, 2)
    answers = identification.identify(large, net, probes, top=5)
    assert comparisons == [((3, 8), (10_000, 8))]
    scores = cosine_scores(net, net.embed(np.stack([p.image for p in probes])), h)
    best = scores.reshape(3, 4, 2500).max(1)
    for row, answer in zip(best, answers, strict=True):
        assert [m.name for m in answer.matches] == [f"name{i}" for i in np.argsort(-row)[:5]]
    units = large.scored.units  # of the first question, kept for the next ones
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    found = identification.search(large, net, probes[0], top=7)
    assert large.scored.units is units
    assert comparisons[1:] == [((1, 8), (10_000, 8))]
    assert [m.reference.source for m in found] == [f"/{i}.png" for i in np.argsort(-scores[0])[:7]]
    # Room for the scores of two probes; still all references at once.
    monkeypatch.setattr(scoring, "MAX_CELLS", 2 * len(h))
    again = identification.score(large, net, probes)
    assert comparisons[2:] == [((2, 8), (10_000, 8)), ((1, 8), (10_000, 8))]
    np.testing.assert_allclose(again, scores, atol=1e-4)


def test_references_of_one_score_rank_in_the_order_of_enrolment(people):
    net = make_net(comparator="euclidean")
    flat = dataclasses.replace(net, one_shot_step=lambda v, a, b: np.zeros((len(a), len(b))))
    known = gallery.empty(net)
    for person, name in enumerate(("carl", "anna", "bob")):
        known = gallery.enrol(known, net, name, read(net, people, person, 0))
    answer = identification.identify(known, flat, read(net, people, 5, 0))[0]
    assert [m.name for m in answer.matches] == ["carl", "anna", "bob"]


# -------------------------------------------------------------------------------------- refusals


def test_mistakes_are_named(net, small, people, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"none\.png: no such picture"):
        pictures.read(net, tmp_path / "none.png")
    with pytest.raises(ValueError, match="a folder, not a picture"):
        pictures.read(net, tmp_path)
    with pytest.raises(ValueError, match=r"text\.png is not a readable image"):
        pictures.read(net, tmp_path / "text.png")
    with pytest.raises(ValueError, match="'anna' is enrolled already, .*2.*--add"):
        gallery.enrol(small, net, "anna", read(net, people, 0, 3))
    with pytest.raises(ValueError, match=r"0\.png is a reference of 'anna' already"):
        gallery.enrol(small, net, "dora", read(net, people, 0, 0))
    with pytest.raises(ValueError, match=r"3\.png is a reference of 'dora' already"):
        gallery.enrol(small, net, "dora", read(net, people, 3, 3, 3))
    with pytest.raises(ValueError, match="at least one picture"):
        gallery.enrol(small, net, "dora", [])
    for name in ("", "  ", "two\nlines", "unknown"):
        with pytest.raises(ValueError, match="cannot be a name"):
            gallery.enrol(small, net, name, read(net, people, 3, 0))
    with pytest.raises(ValueError, match="begins or ends with a space: write 'dora'"):
        gallery.enrol(small, net, " dora", read(net, people, 3, 0))
    with pytest.raises(ValueError, match="'ana' is not in the gallery of 3 names; .*'anna'"):
        gallery.remove(small, "ana")
    probe = read(net, people, 0, 0)
    with pytest.raises(ValueError, match="'zz' is not in the gallery of 3 names$"):
        identification.verify(small, net, "zz", *probe)
    with pytest.raises(ValueError, match="no threshold.*calibrate"):
        identification.verify(small, net, "anna", *probe)
    for ask in (identification.identify, identification.score):
        with pytest.raises(ValueError, match="holds no names.*enrol"):
            ask(gallery.empty(net), net, probe)
    for ask in (identification.search, lambda *a, top: identification.identify(*a[:2], [], top)):
        with pytest.raises(ValueError, match="top must be at least 1, got 0"):
            ask(small, net, *probe, top=0)
    assert identification.identify(small, net, []) == []


def test_another_network_is_refused(net, other_net, small, people):
    probe = read(net, people, 0, 0)
    images = folder.load_folder(people)
    for ask in (
        lambda g: identification.identify(g, other_net, probe),
        lambda g: identification.verify(g, other_net, "anna", *probe),
        lambda g: identification.search(g, other_net, *probe),
        lambda g: gallery.enrol(g, other_net, "dora", probe),
        lambda g: gallery.calibrate(g, other_net, images, 0.1),
    ):
        with pytest.raises(
            ValueError, match=r"belongs to the network net .*not to other .*rebuild"
        ):
            ask(small)


class Other(nn.Module):
    """An encoder of the user's, which is not computed here."""

    pixel_mean: tuple[float, ...] = (0.5,)
    scale: float = 1.0
    dropout: float = 0.0


def test_the_fingerprint_is_of_all_that_decides_a_score(net):
    first = net.fingerprint
    assert first == make_net(name="renamed").fingerprint
    changed = [
        dataclasses.replace(net, kind="ink"),
        dataclasses.replace(net, image_shape=(10, 12, 1)),
        dataclasses.replace(net, tta=2),
        dataclasses.replace(net, tta=3),
    ]
    for place, leaf in enumerate(jax.tree.leaves(net.variables)):  # parameters and statistics
        leaves = jax.tree.leaves(net.variables)
        leaves[place] = leaf + 1e-3
        tree = jax.tree.unflatten(jax.tree.structure(net.variables), leaves)
        changed.append(net.with_variables(tree))
    for head in (Euclidean(), SquaredEuclidean(), Local()):  # the same parameters
        changed.append(dataclasses.replace(net, model=net.model.clone(head=head)))
    encoder = net.model.encoder
    for same in ({"dropout": 0.5}, {"dtype": jnp.bfloat16}, {"output": "unit"}):
        model = net.model.clone(encoder=encoder.clone(**same))
        assert dataclasses.replace(net, model=model).fingerprint == first
    for other in (encoder.clone(output="linear"), Other(), Other((1.0,)), Other(scale=2.0)):
        changed.append(dataclasses.replace(net, model=net.model.clone(encoder=other)))
    prints = {n.fingerprint for n in changed}
    assert first not in prints and len(prints) == len(changed)


def test_no_images_are_no_batch(net):
    with pytest.raises(ValueError, match="no images are given: at least one is needed"):
        net.embed(np.zeros((0, *SHAPE), np.uint8))


def test_networks_that_a_gallery_cannot_use_are_refused(net):
    with pytest.raises(ValueError, match="kind 'vector'.*needs pictures"):
        gallery.empty(dataclasses.replace(net, kind="vector"))
    with pytest.raises(ValueError, match="without a full context"):
        context = net.model.clone(context=FullContext(1))
        gallery.empty(dataclasses.replace(net, model=context))


def test_numbers_that_are_not_finite_are_refused(net, small, people):
    broken = jax.tree.map(lambda x: x * np.nan, net.variables)
    with pytest.raises(ValueError, match="embeddings that are not finite"):
        identification.compare(net.with_variables(broken), *read(net, people, 0, 0, 1))
    head = {"scale": jnp.float32(np.nan), "bias": jnp.float32(0)}
    params = {**net.variables["params"], "head": head}
    nan = net.with_variables({**net.variables, "params": params})
    small = dataclasses.replace(small, fingerprint=nan.fingerprint)
    with pytest.raises(ValueError, match="scores that are not finite"):
        identification.identify(small, nan, read(net, people, 0, 0))


# -------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("kind", ["ink", "photo"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wanted", [1, 3])
def test_pictures_reach_the_network_as_those_of_a_folder_do(net, tmp_path, kind, channels, wanted):
    """Non-square pictures of another size than the network's, grey and in colour."""
    write_people(tmp_path, people=2, count=2, height=31, width=17, channels=channels)
    net = dataclasses.replace(net, kind=kind, image_shape=(12, 10, wanted))
    images = folder.load_folder(tmp_path, image_size=(12, 10), ink=kind == "ink")
    assert images.image_shape[2] == (1 if kind == "ink" else channels)
    expected = images.images.astype(int)
    if wanted == 3 and images.image_shape[2] == 1:
        expected = np.repeat(expected, 3, axis=-1)
    elif wanted == 1 and images.image_shape[2] == 3:  # ITU-R BT.601 luma
        expected = (expected @ [0.299, 0.587, 0.114])[..., None]
    elif kind == "ink" and channels == 3 and wanted == 3:  # a folder of ink is always grey
        expected = None
    for row, path in enumerate(sorted(tmp_path.glob("*/*.png"))):
        image = pictures.read(net, path).image
        assert image.dtype == np.uint8 and image.shape == net.image_shape
        if kind == "ink" and channels == wanted == 3:
            with Image.open(path) as file:
                mean = 255 - np.asarray(file, float).mean((0, 1))
            np.testing.assert_allclose(image.mean((0, 1)), mean, atol=1)
        else:
            np.testing.assert_allclose(image, expected[row], atol=1.5)


def test_dark_ink_on_light_paper_is_inverted(net, tmp_path):
    page = np.full((12, 10), 250, np.uint8)
    page[3:5, 2:4] = 20
    Image.fromarray(page).save(tmp_path / "a.png")
    ink = pictures.read(dataclasses.replace(net, kind="ink"), tmp_path / "a.png")
    photo = pictures.read(net, tmp_path / "a.png")
    np.testing.assert_array_equal(ink.image[..., 0], 255 - page)
    np.testing.assert_array_equal(photo.image[..., 0], page)
    assert ink.thumbnail == photo.thumbnail  # what the eye sees


def test_thumbnails_are_the_picture_or_a_small_copy_of_it(net, tmp_path):
    rng = np.random.default_rng(0)
    sizes = {
        "small": (30, 128, 3),
        "large": (300, 150, 3),
        "grey": (400, 500, 1),
        "thin": (900, 2, 1),
    }
    wanted = {"small": (128, 30), "large": (64, 128), "grey": (128, 102), "thin": (1, 128)}
    for name, shape in sizes.items():
        pixels = rng.integers(0, 256, shape, np.uint8)
        image = Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels)
        image.save(tmp_path / f"{name}.png")
        found = pictures.read(net, tmp_path / f"{name}.png")
        with Image.open(io.BytesIO(found.thumbnail)) as thumbnail:
            assert (thumbnail.size, thumbnail.format) == (wanted[name], "PNG")
            assert thumbnail.mode == ("L" if shape[2] == 1 else "RGB")
            if name == "small":
                np.testing.assert_array_equal(np.asarray(thumbnail), pixels)
            else:
                assert abs(np.asarray(thumbnail).mean() - pixels.mean()) < 1


def test_a_grey_picture_is_the_same_however_it_is_stored(net, people, tmp_path):
    path = people / "p0" / "0.png"
    with Image.open(path) as file:
        file.convert("RGB").save(tmp_path / "colour.png")
    one, two = pictures.read(net, path), pictures.read(net, tmp_path / "colour.png")
    assert one.digest == two.digest and one.thumbnail == two.thumbnail
    np.testing.assert_array_equal(one.image, two.image)


# ------------------------------------------------------------------------------------ comparison


@pytest.mark.parametrize("comparator", ["l1", "cosine", "euclidean", "squared_euclidean"])
def test_dissimilarity_is_the_distance_or_minus_the_score(net, people, comparator):
    net = net if comparator == "cosine" else make_net(comparator=comparator)
    a, b = read(net, people, 0, 0, 1)
    found = identification.compare(net, a, b)
    h = net.embed(np.stack([a.image, b.image])).astype(np.float64)
    assert math.isclose(found.score, net.score_matrix(h[:1], h[1:])[0, 0], rel_tol=1e-5)
    if comparator in ("euclidean", "squared_euclidean"):
        expected = math.sqrt(((h[0] - h[1]) ** 2).sum())
        assert identification.compare(net, a, a).dissimilarity == 0
    else:
        expected = -found.score
    assert math.isclose(found.dissimilarity, expected, rel_tol=1e-6)
    assert found.probability is None
    made = made_up(slope=2.0, offset=-0.5)
    probability = identification.compare(net, a, b, made).probability
    assert math.isclose(probability, 1 / (1 + math.exp(-(2 * found.score - 0.5))), rel_tol=1e-9)


# --------------------------------------------------------------------------------------- storage


def made_up(thresholds=((1, 0.5), (2, 1.25), (6, 3.0)), slope=1.5, offset=-0.25):
    return calibration.Calibration(
        rate=0.01,
        thresholds=thresholds,
        slope=slope,
        offset=offset,
        source="set",
        fingerprint="f" * 16,
        seed=3,
        classes=10,
        pictures=100,
        held_out={
            **{"classes": 9, "pictures": 90, "reliability_error": 0.01, "false_accepts": 0.02},
            **{"false_rejects": 0.1, "enrolled": 4, "detection_rate": 0.5, "false_alarms": 0.03},
        },
    )


def test_a_gallery_comes_back_as_it_was_written(net, small, tmp_path):
    file = storage.GalleryFile(tmp_path / "people.gallery")
    calibrated = dataclasses.replace(small, calibration=made_up(thresholds=((1, 0.1), (3, 1 / 3))))
    for known in (gallery.empty(net), small, calibrated, gallery.remove(small, "bob")):
        file.write(known)
        assert same(storage.GalleryFile(file.path).read(), known)
        assert [p.name for p in tmp_path.iterdir()] == ["people.gallery"]  # one file, no leavings


def test_a_damaged_file_is_refused_or_read_right(small, tmp_path):
    file = storage.GalleryFile(tmp_path / "g.npz")
    file.write(small)
    whole = file.path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.path.write_bytes(damaged)
        try:
            assert same(file.read(), small)  # a bit that carries nothing, such as a date
        except ValueError as error:
            assert "damaged, or no gallery" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 100
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged, or no gallery"):
            file.read()
    np.savez(file.path, embeddings=np.zeros(3))  # an archive of something else
    with pytest.raises(ValueError, match="damaged, or no gallery"):
        file.read()
    with pytest.raises(ValueError, match=r"none\.npz: no such gallery.*enrol"):
        storage.GalleryFile(tmp_path / "none.npz").read()
    with pytest.raises(ValueError, match="no such gallery"):
        storage.GalleryFile(tmp_path).read()
    with pytest.raises(ValueError, match="away: no such folder"):
        storage.GalleryFile(tmp_path / "away" / "g.npz").write(small)


def test_a_crash_while_writing_leaves_the_old_gallery(small, tmp_path, monkeypatch):
    file = storage.GalleryFile(tmp_path / "g.npz")
    file.write(small)
    before = file.path.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:

            def fail(*_):
                raise OSError("the disk is full")

            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="full"):
                file.write(gallery.remove(small, "anna"))
        assert file.path.read_bytes() == before
    file.write(gallery.remove(small, "anna"))  # the same handle goes on
    assert storage.GalleryFile(file.path).read().names == ("bob", "carl")
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_process_killed_while_writing_leaves_the_old_gallery(small, tmp_path, when):
    file = storage.GalleryFile(tmp_path / "g.npz")
    file.write(small)
    before = file.path.read_bytes()
    code = (
        "import os, signal, sys\n"
        "from siamese_jax.recognition import gallery, storage\n"
        "file = storage.GalleryFile(sys.argv[1])\n"
        "new = gallery.remove(file.read(), 'anna')\n"
        f"os.{when} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "file.write(new)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file.path], check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert [p for p in tmp_path.iterdir() if p != file.path]  # it was at it: a part is left over
    assert file.path.read_bytes() == before and same(file.read(), small)
    file.write(gallery.remove(small, "bob"))  # the dead process holds nothing up
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"]


def test_a_file_is_for_its_owner_and_keeps_the_mode_it_is_given(small, tmp_path):
    file = storage.GalleryFile(tmp_path / "g.npz")
    file.write(small)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.path.chmod(0o640)
    file.write(gallery.remove(small, "anna"))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640


def test_a_planted_link_is_not_written_through(small, tmp_path):
    (tmp_path / "victim").write_text("untouched")
    for name in (".g.npz.part", ".g.npz.x.part"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    storage.GalleryFile(tmp_path / "g.npz").write(small)
    assert (tmp_path / "victim").read_text() == "untouched"


def test_a_lost_update_is_refused(small, tmp_path):
    path = tmp_path / "g.npz"
    first, second, third = (storage.GalleryFile(path) for _ in range(3))
    first.write(small)
    changed = "changed by another process"
    with pytest.raises(ValueError, match=changed):
        second.write(small)  # it believes that there is no file
    assert same(second.read(), third.read())
    second.write(gallery.remove(small, "anna"))
    with pytest.raises(ValueError, match=changed):
        third.write(gallery.remove(small, "bob"))
    assert first.read().names == ("bob", "carl")
    first.write(small)
    path.unlink()
    with pytest.raises(ValueError, match=changed):
        first.write(small)
    assert not path.exists()


def test_writers_at_once_lose_nothing(net, tmp_path):
    """Eight writers each add a name, and try again whenever another one was quicker."""
    path = tmp_path / "g.npz"
    storage.GalleryFile(path).write(gallery.empty(net))
    tries = []

    def add(number):
        file = storage.GalleryFile(path)
        while True:
            known = file.read()
            new = (gallery.Reference(f"n{number}", f"/{number}", f"{number}", bytes([number])),)
            h = np.full((1, 8), number, np.float32)
            h = np.concatenate([known.embeddings, h]) if len(known) else h
            tries.append(number)
            try:
                file.write(
                    dataclasses.replace(known, references=known.references + new, embeddings=h)
                )
                return
            except ValueError as error:
                assert "another process" in str(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    known = storage.GalleryFile(path).read()
    assert sorted(known.names) == [f"n{number}" for number in range(8)] and len(tries) >= 8
    for reference, h in zip(known.references, known.embeddings, strict=True):
        assert reference.name == f"n{int(h[0])}" and reference.thumbnail == bytes([int(h[0])])


# --------------------------------------------------------------------------------------- rebuild


def test_rebuilding_is_enrolling_anew_with_the_other_network(net, other_net, small, people):
    calibrated = dataclasses.replace(small, calibration=made_up())
    new, kept = gallery.rebuild(calibrated, other_net)
    assert kept == 0 and new.references == small.references
    assert (new.fingerprint, new.network) == (other_net.fingerprint, "other")
    assert new.calibration is None  # it was of the other network's scores
    images = folder.load_folder(people).images[[0, 1, 5, 10, 11, 12]]
    np.testing.assert_allclose(new.embeddings, other_net.embed(images), atol=1e-6)
    assert (
        identification.identify(new, other_net, read(other_net, people, 1, 0))[0].matches[0].name
        == "bob"
    )
    assert gallery.rebuild(calibrated, net)[0].calibration == calibrated.calibration
    back, _ = gallery.rebuild(new, net)
    assert (back.fingerprint, back.references) == (small.fingerprint, small.references)
    np.testing.assert_allclose(back.embeddings, small.embeddings, atol=1e-6)
    assert len(gallery.rebuild(gallery.empty(net), other_net)[0]) == 0


def test_rebuilding_takes_thumbnails_where_the_files_are_not_what_they_were(net, tmp_path):
    write_people(tmp_path, people=4, count=1)
    known = gallery.empty(net)
    for person in range(4):
        known = gallery.enrol(known, net, f"n{person}", read(net, tmp_path, person, 0))
    colour = make_net(seed=2, shape=(14, 9, 3))
    expected, kept = gallery.rebuild(known, colour)
    assert kept == 0
    (tmp_path / "p0" / "0.png").unlink()
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(tmp_path / "p1" / "0.png")  # another person
    (tmp_path / "p2" / "0.png").write_text("no picture any more")
    new, kept = gallery.rebuild(known, colour)
    assert kept == 3
    np.testing.assert_array_equal(new.embeddings, expected.embeddings)


def test_rebuilding_prefers_the_large_original(net, other_net, tmp_path):
    write_people(tmp_path, people=1, count=1, height=300, width=200)
    known = gallery.enrol(gallery.empty(net), net, "a", read(net, tmp_path, 0, 0))
    expected = other_net.embed(folder.load_folder(tmp_path, image_size=(12, 10)).images)
    new, kept = gallery.rebuild(known, other_net)
    assert kept == 0
    np.testing.assert_allclose(new.embeddings, expected, atol=1e-6)
    (tmp_path / "p0" / "0.png").unlink()
    new, kept = gallery.rebuild(known, other_net)
    assert kept == 1 and np.abs(new.embeddings - expected).max() < 0.2  # the thumbnail's rounding


# ----------------------------------------------------------------------------------- calibration


def test_a_threshold_holds_for_a_number_of_references():
    made = made_up()
    limits = {1: 0.5, 2: 1.25, 3: 3.0, 6: 3.0, 7: 3.0, 1000: 3.0}
    assert {n: made.threshold(n) for n in limits} == limits
    assert made.max_references == 6


def test_answers_go_by_the_threshold_of_all_references(net, small, people):
    probe = read(net, people, 0, 4)
    plain = identification.identify(small, net, probe)[0].matches
    for limit, name in ((plain[0].score, "anna"), (np.nextafter(plain[0].score, np.inf), None)):
        made = made_up(thresholds=((1, -99.0), (5, -99.0), (6, float(limit)), (9, 99.0)))
        answer = identification.identify(dataclasses.replace(small, calibration=made), net, probe)[
            0
        ]
        assert (answer.name, answer.threshold, answer.rate_covered) == (name, limit, True)
        assert [m.name for m in answer.matches] == [m.name for m in plain]
        for match, m in zip(answer.matches, plain, strict=True):
            expected = 1 / (1 + math.exp(-(1.5 * m.score - 0.25)))
            assert math.isclose(match.probability, expected, rel_tol=1e-9)
    made = made_up(thresholds=((1, -99.0), (5, -99.0)))
    answer = identification.identify(dataclasses.replace(small, calibration=made), net, probe)[0]
    assert (answer.name, answer.rate_covered) == ("anna", False)  # six references, shown for five


def test_a_claim_meets_the_references_of_its_name_only(net, small, people):
    probe = read(net, people, 2, 4)[0]
    h = net.embed(probe.image[None])
    best = cosine_scores(net, h, small.embeddings[3:]).max()  # carl's three
    for limit, name in ((best - 1e-3, "carl"), (best + 1e-3, None)):
        made = made_up(thresholds=((1, 99.0), (3, float(limit)), (9, 99.0)))
        known = dataclasses.replace(small, calibration=made)
        answer = identification.verify(known, net, "carl", probe)
        assert answer.name == name and answer.threshold == limit
        assert [m.name for m in answer.matches] == ["carl"]
        assert math.isclose(answer.matches[0].score, best, rel_tol=1e-5)


@pytest.mark.parametrize("kind", ["photo", "ink"])
def test_a_gallery_is_calibrated_by_a_folder(net, small, people, monkeypatch, kind):
    net = dataclasses.replace(net, kind=kind)
    small = dataclasses.replace(small, fingerprint=net.fingerprint)
    images = folder.load_folder(people, ink=kind == "ink")
    h = net.embed(images.images)
    asked = []

    def make(score_all, *args, **named):
        def checked(rows):
            asked.append(rows)
            scores = score_all(rows)
            np.testing.assert_allclose(scores, cosine_scores(net, h[rows], h[rows]), atol=1e-4)
            return scores

        return original(checked, *args, **named)

    original = calibration.calibrate
    monkeypatch.setattr(calibration, "calibrate", make)
    known = gallery.calibrate(small, net, images, rate=0.1, seed=4)
    made = known.calibration
    assert (made.classes, made.pictures, made.rate, made.seed) == (4, 20, 0.1, 4)
    assert (made.source, made.fingerprint) == (images.name, images.fingerprint)
    assert sorted(np.concatenate(asked)) == list(range(40))
    assert known.references == small.references and small.calibration is None
    other = {"photo": "ink", "ink": "photo"}[kind]
    with pytest.raises(ValueError, match=f"is of kind '{other}', the network '{kind}'"):
        gallery.calibrate(small, net, dataclasses.replace(images, kind=other), rate=0.1)


def test_the_bound_of_a_gallery_ends_with_the_next_name(net, small, people, tmp_path):
    others = write_people(tmp_path / "others", seed=9)
    images = folder.load_folder(others)
    known = gallery.calibrate(small, net, images, rate=0.4, decided_by="bound")
    bound = known.calibration.bound
    ((references, limit),) = bound.thresholds
    assert references == bound.gallery == len(small) == 6 and bound.classes == 8
    # P(Bin(8, 0.4) < 2) = 0.106: no class may alarm, so the limit lies just above the highest.
    rows = [np.flatnonzero(images.classes == c) for c in range(8)]
    h = net.embed(images.images)
    best = np.array([cosine_scores(net, h[r], small.embeddings).max(1) for r in rows])
    assert best.min(1).max() - 1e-4 <= limit <= best.max() + 1e-4
    probe = read(net, people, 0, 4)
    answer = identification.identify(known, net, probe)[0]
    assert (answer.threshold, answer.rate_covered) == (limit, True)
    fewer = gallery.remove(known, "bob")  # raises no score
    assert identification.identify(fewer, net, probe)[0].threshold == limit
    assert identification.verify(known, net, "anna", probe[0]).threshold == limit
    more = gallery.enrol(fewer, net, "dora", read(net, people, 3, 0))  # as many as before
    with pytest.raises(ValueError, match="before further names were enrolled: calibrate again"):
        identification.identify(more, net, probe)
    plain = gallery.calibrate(small, net, images, rate=0.4)
    assert plain.calibration.bound == bound
    more = gallery.enrol(plain, net, "dora", read(net, people, 3, 0))
    assert more.calibration == dataclasses.replace(plain.calibration, bound=None)
    assert len(calibration.describe(more.calibration)) == 3
    with pytest.raises(
        ValueError, match="8 classes cannot show .* for this gallery: 22 are needed"
    ):
        gallery.calibrate(small, net, images, rate=0.1, decided_by="bound")
    generic = gallery.calibrate(gallery.empty(net), net, images, rate=0.5, decided_by="bound")
    assert [n for n, _ in generic.calibration.bound.thresholds] == [1]
    with pytest.raises(ValueError, match="for 6 references: 28 are needed"):
        identification.identify(
            dataclasses.replace(small, calibration=generic.calibration), net, probe
        )


# ------------------------------------------------------------------------------------------ page


def test_the_page_of_a_search_needs_no_other_file(net, small, people):
    probe = read(net, people, 0, 4)[0]
    known = gallery.enrol(small, net, "<i>&", read(net, people, 4, 0))
    of_network = dataclasses.replace(net, calibrations={"pictures": made_up()})
    for asked_net, made in ((net, None), (net, made_up()), (of_network, None)):
        known = dataclasses.replace(known, calibration=made)
        matches = identification.search(known, asked_net, probe, top=7)
        calibrated = identification.calibration_in_use(known, asked_net)
        page = search_page.render(known, probe, matches, calibrated)
        assert page.count('src="data:image/png;base64,') == page.count("<img") == 8
        assert "://" not in page and "<script" not in page and "<i>&<" not in page
        assert "&lt;i&gt;&amp;" in page and str(people / "p4" / "0.png") in page
        places = [page.index(f"<td class=n>{rank}</td>") for rank in range(1, 8)]
        assert places == sorted(places)
        assert ("probability of same" in page) == (calibrated is not None)
        assert ("no calibration" in page) == (calibrated is None)
