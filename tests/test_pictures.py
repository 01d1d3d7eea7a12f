"""Pictures of any form, and the probabilities that a network gives them."""

import logging

import numpy as np
import pytest
from PIL import Image

import siamese_jax
from siamese_jax.inference import pictures
from siamese_jax.recognition import commands, network_calibration
from siamese_jax.runs import export

SHAPE = (56, 56, 1)


def drawing(seed=0, side=105):
    """A (side, side) cross-like character, ink 255, in the middle."""
    rng = np.random.default_rng(seed)
    image = np.zeros((side, side), np.uint8)
    for _ in range(4):
        (y, x), length = rng.integers(side // 5, side // 2, 2), side // 3
        if rng.integers(2):
            image[y : y + 5, x : x + length] = 255
        else:
            image[y : y + length, x : x + 5] = 255
    return image


def stack(given, kind="ink", framed=True, shape=SHAPE):
    return pictures.to_stack(given, shape, kind, framed)


@pytest.fixture(scope="module")
def net():
    return siamese_jax.load("omniglot")


def test_one_picture_or_a_stack_by_shape():
    for shape, single, count in (
        ((20, 30), True, 1),
        ((20, 30, 1), True, 1),
        ((20, 30, 3), True, 1),
        ((20, 30, 4), True, 1),
        ((7, 20, 30), False, 7),
        ((7, 20, 30, 1), False, 7),
        ((7, 20, 30, 3), False, 7),
    ):
        images, one = stack(np.zeros(shape, np.uint8))
        assert images.shape == (count, *SHAPE) and one is single, shape
        images, _ = stack(np.zeros(shape, np.uint8), "photo", False, (10, 12, 3))
        assert images.shape == (count, 10, 12, 3)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4, 5, 1), np.uint8), "expected one picture"),
        (np.zeros((2, 30, 30, 2), np.uint8), "1, 3 or 4 channels last"),
        (np.zeros(9, np.uint8), "expected one picture"),
        (np.full((9, 9), 2.0), "floats in .0, 1.; got float64"),
        (np.full((9, 9), np.nan), "floats in .0, 1."),
        (np.zeros((9, 9), np.int64), "got int64"),
        (np.zeros((0, 9), np.uint8), r"got uint8 of shape \(0, 9\)"),
        (np.zeros((0, 9, 9, 1), np.uint8), "no pictures are given"),
        (None, "paths, PIL pictures, or arrays"),
        (np.array(["a"]), "paths, PIL pictures, or arrays"),
        ([np.zeros((2, 9, 9, 1), np.uint8)], "a picture of a list has the shape"),
        ([], "no pictures are given"),
    ],
)
def test_what_is_no_picture_is_refused(array, words):
    with pytest.raises(ValueError, match=words) as caught:
        stack(array)
    assert "\n" not in str(caught.value)


def test_forms_give_the_same_pixels(tmp_path):
    image = drawing()
    path = tmp_path / "a.png"
    Image.fromarray(255 - image).save(path)
    expected = stack(image)[0]
    for given in (
        255 - image,  # dark ink on light paper
        image / 255.0,
        image > 0,
        np.stack([image] * 3, -1),
        path,
        str(path),
        Image.open(path),
        [image],
        [path],
    ):
        np.testing.assert_array_equal(stack(given)[0], expected)


def test_what_was_put_right_is_logged(caplog):
    image = drawing()
    grey = np.where(image > 0, 20, 170).astype(np.uint8)
    corner = np.zeros((300, 300), np.uint8)
    corner[:105, :105] = image
    with caplog.at_level(logging.INFO):
        blank = stack(grey)[0]
        framed = stack(corner)[0]
        assert not stack(image)[0][0, 0].any()
    assert "1 of 1 pictures: dark ink on light paper, inverted" in caplog.text
    assert "1 of 1 pictures: grey paper, made blank" in caplog.text
    assert "1 of 1 pictures: small or off the middle, cropped and centred" in caplog.text
    np.testing.assert_array_equal(blank, stack(image)[0])
    middle = np.array(np.nonzero(framed[0, ..., 0] > 64)).mean(1)
    np.testing.assert_allclose(middle, 27.5, atol=6)
    untouched = stack(corner, framed=False)[0]
    assert not untouched[0, 28:].any()
    assert "no ink" not in caplog.text
    stack([image, np.full_like(image, 255)])
    assert "1 of 2 pictures have no ink: their scores mean nothing" in caplog.text


def test_a_file_whose_border_does_not_tell_is_dark_on_light():
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 1), dtype=np.uint8)
    np.testing.assert_array_equal(pictures.blank_paper(noise), noise)
    np.testing.assert_array_equal(pictures.blank_paper(noise, light_paper=True), 255 - noise)


def test_photos_keep_their_light_and_their_stretching_is_said(caplog):
    white = np.full((40, 20, 3), 255, np.uint8)
    with caplog.at_level(logging.INFO):
        images, _ = stack(white, "photo", False, (10, 10, 3))
    assert (images == 255).all()
    assert "pictures of 40 x 20 are stretched to the network's 10 x 10" in caplog.text


@pytest.mark.slow
def test_the_network_of_the_package_gives_probabilities(net):
    a, b = drawing(1), drawing(2)
    assert np.ndim(net.same(a, b)) == 0
    assert net.same(a, np.stack([a, b])).shape == (2,)
    assert net.same([a, b], [a, b, a]).shape == (2, 3)
    same = net.same([a, b], [a, b])
    assert (np.diag(same) > 0.9).all() and (same >= 0).all() and (same <= 1).all()
    np.testing.assert_array_equal(net.same([255 - a, b], [a, b]), same)
    colour = np.zeros((400, 300, 3), np.uint8)
    assert np.ndim(net.score(colour, colour)) == 0


@pytest.mark.slow
def test_its_calibration_holds_on_glyphs_it_was_not_made_on(net, glyphs):
    rows = glyphs.class_start[:20]
    same = net.same(glyphs.images[rows], glyphs.images[rows + 1])
    assert np.median(np.diag(same)) > 0.5
    assert np.median(same[~np.eye(20, dtype=bool)]) < 0.1


@pytest.mark.slow
def test_without_a_calibration_there_is_no_probability():
    with pytest.raises(ValueError, match=r"test-time augmentation.*launch/calibrate.py"):
        siamese_jax.load("omniglot", tta=2).same(drawing(), drawing())


@pytest.mark.slow
def test_compare_and_verify_with_the_network_of_the_package(tmp_path):
    ring = np.hypot(*(np.indices((105, 105)) - 52))
    for name, image in (("a", drawing(1)), ("b", 255 * (abs(ring - 30) < 3).astype(np.uint8))):
        Image.fromarray(255 - image).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    settings = commands.Settings(workdir="omniglot", gallery=str(tmp_path / "g.npz"))
    plain = commands.Settings(workdir="omniglot")
    assert "probability of same 0." in commands.run("compare", paths, plain).lines[0]
    commands.run("enrol", ["anna", paths[0]], settings)
    output = commands.run("verify", ["anna", paths[0]], settings)
    assert output.exit_code == 0 and "probability" in output.lines[0]
    assert "network's own calibration (omniglot validation)" in output.lines[1]
    assert commands.run("verify", ["anna", paths[1]], settings).exit_code == 1


def test_a_calibration_is_written_into_a_file_beside_what_it_holds(tmp_path):
    file = tmp_path / "copy.npz"
    file.write_bytes(export.locate("omniglot").read_bytes())
    before = export.read(file)
    export.calibrate(file, "pictures", {"slope": 2.0})
    after = export.read(file)
    assert after.calibrations["pictures"] == {"slope": 2.0}
    assert after.calibrations["drawings"] == before.calibrations["drawings"]
    assert after.step == before.step and after.provenance == before.provenance
    with pytest.raises(ValueError, match="what is calibrated must be one of"):
        network_calibration.calibrate_file(file, "people")


@pytest.mark.slow
def test_a_network_is_not_calibrated_by_classes_that_it_was_trained_on():
    trained_on = {"name": "glyphs", "train_on_validation": True, "glyphs_drawers": 2}
    with pytest.raises(ValueError, match="validation classes, so they are not new to it"):
        network_calibration.calibrate_file(export.locate("omniglot"), "pictures", trained_on)


def test_one_image_is_not_taken_for_a_stack_of_its_rows(net):
    image = drawing(side=56)[..., None]
    with pytest.raises(ValueError, match=r"a stack .*one image is a stack of one, images\[None\]"):
        net.embed(image)
    assert len(net.embed(image[None])) == 1
