"""Maps of embeddings, ends of lines that do not overlap, and charts in the dark."""

import base64
import dataclasses
import io
import re
import sys

import numpy as np
import PIL.Image
import pytest

from siamese_jax.data.image_set import ImageSet
from siamese_jax.reporting import curves, drawing, embedding_map, page


def make_set(shape=(12, 8, 1), kind="ink", per_class=4):
    rng = np.random.default_rng(0)
    return ImageSet(
        images=(rng.integers(0, 2, (3 * per_class, *shape)) * 255).astype(np.uint8),
        classes=np.repeat(np.arange(3), per_class).astype(np.int32),
        drawers=np.tile(np.arange(1, per_class + 1), 3).astype(np.int32),
        class_names=("a/one", "a/two", "a/three & more"),
        class_alphabets=np.zeros(3, np.int32),
        alphabet_names=("a",),
        kind=kind,
        name="small",
    )


def embeddings_of(images):
    rng = np.random.default_rng(1)
    return 5 * np.eye(3)[images.classes] + rng.normal(size=(len(images), 3))


def names_of(images):
    return [f"file <{row}>" for row in range(len(images))]


def test_a_point_shows_its_own_picture_and_name():
    images = make_set()
    html = embedding_map.map_of("title", embeddings_of(images), images, names_of(images))
    kind, data = re.search(r"url\(data:image/(\w+);base64,([^)]+)\)", html).groups()
    columns = int(re.search(r"--columns:(\d+)", html)[1])
    sheet = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
    dots = re.findall(r'<i [^>]*--i:(\d+);--j:(\d+)" data-name="([^"]*)"', html)
    assert kind == "png" and columns == 4 and len(dots) == 2 * len(images)  # on either map
    for i, j, name in dots:
        row = int(re.search(r"\d+", name)[0])
        assert name == f"file &lt;{row}&gt;"
        i, j = int(i), int(j)
        tile = sheet[j * 12 : (j + 1) * 12, i * 8 : (i + 1) * 8]
        np.testing.assert_array_equal(tile, 255 - images.images[row, ..., 0])


def test_both_maps_keep_their_points_inside():
    images = make_set()
    html = embedding_map.map_of("title", embeddings_of(images), images, names_of(images))
    assert "t-SNE" in html and "of the variance)" in html
    places = re.findall(r"<i [^>]*--x:([\d.]+);--y:([\d.]+)", html)
    assert len(places) == 2 * len(images)
    assert all(0.05 <= float(value) <= 0.95 for place in places for value in place)
    assert html.count('role="img"') == 2 and "one, two, three &amp; more" in html


def test_without_scikit_learn_there_are_principal_components_and_a_line(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    images = make_set()
    html = embedding_map.map_of("title", embeddings_of(images), images, names_of(images))
    assert html.count('class="map"') == 1 and "Principal components" in html
    assert not embedding_map.has_tsne()
    assert "\n" not in embedding_map.NO_TSNE and "[report]" in embedding_map.NO_TSNE


def test_tsne_keeps_classes_together_and_is_the_same_each_time():
    rng = np.random.default_rng(0)
    embeddings = np.concatenate([rng.normal(size=(10, 16)) + 8 * c for c in range(3)])
    points = embedding_map.tsne(embeddings)
    np.testing.assert_array_equal(points, embedding_map.tsne(embeddings))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) // 10 == np.arange(30) // 10).all()
    assert embedding_map.tsne(np.ones((30, 4))) is None  # nothing to map


def test_vectors_have_names_in_place_of_pictures():
    images = make_set()
    vectors = np.random.default_rng(2).normal(size=(12, 1, 5, 1)).astype(np.float32)
    images = dataclasses.replace(images, images=vectors, kind="vector")
    html = embedding_map.map_of("title", embeddings_of(images), images, names_of(images))
    assert "data:image" not in html and html.count('class="map plain"') == 2
    assert html.count(">three &amp; more</b>") == 2


@pytest.mark.parametrize("kind", ["ink", "photo"])
def test_the_pictures_of_a_map_keep_to_their_size_limit(monkeypatch, kind):
    images = make_set((60, 60, 3 if kind == "photo" else 1), kind)
    monkeypatch.setattr(embedding_map, "MAX_SPRITE", 4000)
    style, places = embedding_map._sprite(images)
    data = re.search(r"base64,([^)]+)\)", style)[1]
    assert len(base64.b64decode(data)) <= 4000 and len(places) == len(images)


def test_names_at_the_ends_of_lines_stay_apart_and_inside():
    spread = drawing.spread
    assert spread([1.0, 5.0], 1, 0, 10) == [1, 5]  # nothing in the way
    assert spread([4.9, 5.0, 5.1], 1, 0, 10) == pytest.approx([4, 5, 6])  # either way
    high = spread([9.5, 9.8, 9.9], 1, 0, 10)
    assert high == pytest.approx([8, 9, 10])  # not off the top
    low = spread([0.0, 0.1], 1, 0, 10)
    assert low[0] >= 0 and low[1] - low[0] == pytest.approx(1)


def test_no_name_of_a_loss_curve_is_off_the_frame():
    """The published initialisation: three lines end at log 2, of whom one was above the frame."""
    near = 0.693
    lines = [(f"published, {rate}", [(1, 0.72), (700, near)]) for rate in (0.001, 0.01, 0.1)]
    figure = curves.losses_figure(lines, of_pairs=True)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    top = figure.bbox.height
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4 and all(box.y1 <= top and box.y0 >= 0 for box in boxes)
    ordered = sorted(boxes, key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 2 for a, b in zip(ordered, ordered[1:], strict=False))


def test_charts_take_their_colours_from_the_stylesheet():
    svg = drawing.to_svg(curves.losses_figure([("a", [(1, 0.7), (2, 0.3)])]), "losses")
    assert "var(--own)" in svg and "var(--text)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)  # nothing that the dark would hide
    for name in set(re.findall(r"var\(--([a-z]+)\)", svg)):
        assert page.style().count(f"--{name}:") == 2  # light and dark
