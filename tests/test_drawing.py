"""Drawings become Omniglot images: one size, one place, one pen, whatever they were drawn with."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from siamese_jax.data import drawing


def sketch(side=420, pen=20, offset=(0, 0), scale=1.0):
    """(side, side) float ink of an angular symbol."""
    image = Image.new("L", (side, side), 0)
    points = [(0.3, 0.2), (0.3, 0.8), (0.7, 0.8), (0.7, 0.5)]
    places = [tuple(side * (scale * (p - 0.5) + 0.5) + o for p, o in zip(q, offset, strict=True))
              for q in points]  # fmt: skip
    ImageDraw.Draw(image).line(places, fill=255, width=pen, joint="curve")
    return np.asarray(image, np.float32) / 255


def png(array, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, format="PNG")
    return buffer.getvalue()


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_it_is_an_omniglot_image():
    image = drawing.to_omniglot(sketch())
    assert image.shape == (105, 105) and image.dtype == np.uint8
    assert set(np.unique(image)) == {0, 255}
    rows, columns = np.nonzero(image)
    assert np.ptp(rows) + 1 == pytest.approx(drawing.EXTENT, abs=2)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(52, abs=1)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(52, abs=1)
    assert drawing.stroke_width(image > 0) == pytest.approx(drawing.STROKE, abs=0.8)


@pytest.mark.parametrize(
    "changed",
    [
        sketch(pen=8),
        sketch(pen=44),
        sketch(offset=(60, -40), scale=0.5),
        sketch(scale=0.5, pen=10),
        sketch(side=105, pen=5),
        sketch(side=1000, pen=60),
        np.pad(sketch(), ((0, 300), (200, 0))),
    ],
)
def test_size_place_and_pen_do_not_matter(changed):
    assert overlap(drawing.to_omniglot(changed) > 0, drawing.to_omniglot(sketch()) > 0) > 0.65


def test_it_changes_its_own_result_little():
    once = drawing.to_omniglot(sketch())
    assert overlap(drawing.to_omniglot(once / np.float32(255)) > 0, once > 0) > 0.85


def test_a_dot_stays_small_and_a_line_keeps_its_pen():
    dot = np.zeros((420, 420), np.float32)
    dot[200:210, 200:210] = 1
    assert 0 < (drawing.to_omniglot(dot) > 0).sum() < 150
    line = np.zeros((420, 420), np.float32)
    line[10:410, 200:220] = 1
    image = drawing.to_omniglot(line) > 0
    assert image.any(1).sum() == pytest.approx(drawing.EXTENT, abs=2)
    assert image.any(0).sum() == pytest.approx(drawing.STROKE, abs=1.5)


def test_without_ink_there_is_nothing():
    with pytest.raises(ValueError, match="no ink"):
        drawing.to_omniglot(np.zeros((50, 50), np.float32))
    with pytest.raises(ValueError, match="no ink"):
        drawing.read_ink(png(np.full((50, 50), 200, np.uint8)))
    noise = np.random.default_rng(0).integers(245, 256, (50, 50)).astype(np.uint8)
    with pytest.raises(ValueError, match="no ink"):
        drawing.read_ink(png(noise))


def test_dark_on_light_light_on_dark_and_transparent_paper_are_read_alike():
    ink = (255 * sketch()).astype(np.uint8)
    expected = drawing.to_omniglot(ink / np.float32(255))
    clear = np.zeros((*ink.shape, 4), np.uint8)
    clear[..., 3] = ink
    faint = (200 - 0.5 * ink).astype(np.uint8)
    colour = np.stack([255 - ink, 255 - ink // 2, np.full_like(ink, 255)], -1)
    for picture in (255 - ink, ink, clear, faint, colour):
        image = drawing.to_omniglot(drawing.read_ink(png(picture)))
        assert overlap(image > 0, expected > 0) > 0.9


def test_a_kept_image_is_read_back_as_it_was():
    image = drawing.to_omniglot(sketch())
    with Image.open(io.BytesIO(drawing.to_png(image))) as file:
        np.testing.assert_array_equal(255 - np.asarray(file), image)
    assert drawing.digest(image) != drawing.digest(255 - image)


def test_what_is_no_picture_is_refused_in_one_line(monkeypatch):
    whole = png((255 * sketch()).astype(np.uint8))
    for data in (b"", b"hello", b"<svg/>", whole[:200], b"\x89PNG\r\n\x1a\n" + bytes(50)):
        with pytest.raises(ValueError, match="no picture|damaged") as caught:
            drawing.read_ink(data)
        assert "\n" not in str(caught.value)
    buffer = io.BytesIO()
    Image.new("L", (10, 10)).save(buffer, format="TIFF")
    with pytest.raises(ValueError, match="no picture of type PNG"):
        drawing.read_ink(buffer.getvalue())
    monkeypatch.setattr(drawing, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="420 x 420 pixels; at most 1,000"):
        drawing.read_ink(whole)


@pytest.mark.parametrize(
    ("kind", "whole", "damaged"),
    [
        ("JPEG", b"\x01\x00\x00\x04", b"\x01\x00\x00\x02"),  # a width that is text, in the EXIF
        ("GIF", b"\x09\x00\x09\x00\x00\x08", b"\x09\x00\x00\x00\x00\x08"),  # of no height
        ("BMP", b"\x00\x01\x00\x00", b"\x00\x02\x00\x00"),  # of 512 colours
    ],
    ids=["JPEG", "GIF", "BMP"],
)
def test_whatever_pillow_raises_on_a_damaged_picture_is_one_line(kind, whole, damaged):
    exif = Image.Exif()
    exif[0x0112], exif[0x0100] = 6, 9  # to be turned, and its width
    buffer = io.BytesIO()
    Image.new("L", (9, 9)).save(buffer, format=kind, exif=exif)
    data = buffer.getvalue()
    assert whole in data
    with pytest.raises(ValueError, match="^the picture is damaged: "):
        drawing.read_ink(data.replace(whole, damaged))


@pytest.mark.slow
def test_real_omniglot_images_are_answered_as_well_as_ever(prepared_omniglot):
    """The 400 official trials: every image put through `to_omniglot`, within 1 point of the images."""
    import siamese_jax
    from siamese_jax.data import omniglot

    net, runs = siamese_jax.load("omniglot"), omniglot.load_runs(prepared_omniglot)

    def accuracy(redraw):
        images = [redraw(part.reshape(-1, 105, 105, 1)) for part in (runs.queries, runs.supports)]
        embedded = [net.embed(part).reshape(*runs.answers.shape, -1) for part in images]
        scores = [net.score_matrix(q, s) for q, s in zip(*embedded, strict=True)]
        return 100 * (np.argmax(scores, -1) == runs.answers).mean()

    def redraw(images):
        coverage = images[..., 0] / np.float32(255)
        return np.stack([drawing.to_omniglot(image) for image in coverage])[..., None]

    direct = accuracy(lambda images: images)
    assert direct > 98
    assert accuracy(redraw) >= direct - 1
