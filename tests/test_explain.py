"""An explanation adds up to the network's score, and its picture is safe to show."""

import dataclasses
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest

import siamese_jax
from siamese_jax.inference import explain
from siamese_jax.models.comparators import Cosine
from siamese_jax.models.distances import local_similarity
from siamese_jax.reporting import explain as figure


@pytest.fixture(scope="module")
def net():
    return siamese_jax.load("omniglot")


def bars(*places):
    image = np.zeros((105, 105, 1), np.uint8)
    for row in places:
        image[row : row + 5, 20:85] = 255
    return image


@pytest.mark.parametrize("reach", [0, 1, 2, 1000])
def test_the_best_moves_are_those_of_the_comparator(reach):
    rng = np.random.default_rng(reach)
    map1, map2 = rng.normal(size=(2, 4, 5, 8))
    moves1, cosines1 = explain.best_moves(map1, map2, reach)
    moves2, cosines2 = explain.best_moves(map2, map1, reach)
    flat1, flat2 = (m.reshape(1, -1).astype("f") for m in (map1, map2))
    (similarity,) = jax.jit(local_similarity, static_argnums=(2, 3))(flat1, flat2, (4, 5), reach)
    assert (cosines1.mean() + cosines2.mean()) / 2 == pytest.approx(float(similarity), abs=1e-5)
    grid = np.stack(np.mgrid[:4, :5], -1)
    assert np.abs(moves1 - grid).max() <= reach and moves1.min() >= 0
    assert (moves2 < (4, 5)).all()
    unit1, unit2 = (m / np.linalg.norm(m, axis=-1, keepdims=True) for m in (map1, map2))
    for row, column in np.ndindex(4, 5):
        met = unit2[tuple(moves1[row, column])]
        assert cosines1[row, column] == pytest.approx(unit1[row, column] @ met)


def test_where_places_are_equally_similar_nothing_moves():
    flat = np.ones((3, 3, 2))
    moves, cosines = explain.best_moves(flat, flat, 1)
    np.testing.assert_array_equal(moves, np.stack(np.mgrid[:3, :3], -1))
    np.testing.assert_allclose(cosines, 1)


def test_the_places_add_up_to_the_score(net):
    image1, image2 = bars(20, 70), bars(25, 50)
    explanation = explain.explain(net, image1, image2, threshold=12.0)
    score = net.score(image1[None], image2[None])[0, 0]
    assert explanation.score == pytest.approx(score, abs=1e-3)
    total = explanation.contributions1.sum() + explanation.contributions2.sum()
    assert total == pytest.approx(score - 12.0, abs=1e-3)
    against = explanation.cosines1 < explanation.neutral
    np.testing.assert_array_equal(explanation.contributions1 < 0, against)


def test_exchanged_pictures_exchange_the_sides(net):
    image1, image2 = bars(20, 70), bars(25, 50)
    there, back = explain.explain(net, image1, image2), explain.explain(net, image2, image1)
    np.testing.assert_allclose(there.cosines1, back.cosines2, atol=1e-4)
    np.testing.assert_allclose(there.contributions2, back.contributions1, atol=1e-4)


def test_a_picture_explains_itself_without_moves(net):
    explanation = explain.explain(net, bars(20), bars(20))
    np.testing.assert_allclose(explanation.cosines1, 1, atol=1e-5)
    np.testing.assert_array_equal(explanation.moves1, np.stack(np.mgrid[:7, :7], -1))
    assert "98 of 98 places raise the score" in figure.summary(explanation)
    little = explanation.contributions1 * 0 - 1e-4  # their sum is rounded to zero
    assert "lower it (0.0)" in figure.summary(
        dataclasses.replace(explanation, contributions1=little)
    )


def test_a_network_without_places_is_refused(net):

    other = dataclasses.replace(net, model=net.model.clone(head=Cosine()))
    assert explain.explains(net) and not explain.explains(other)
    with pytest.raises(ValueError, match="compares no places"):
        explain.explain(other, bars(20), bars(20))


def test_the_figure_needs_nothing_else_and_shows_names_as_text(net):
    images = bars(20, 70), bars(25, 50)
    explanation = explain.explain(net, *images, threshold=15.0)
    html = figure.fragment(explanation, *images, names=('<script>"x"</script>', "b & c"))
    root = ElementTree.fromstring(html)  # well formed, so every name is escaped
    assert root.tag == "figure"
    names = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert names == ['<script>"x"</script>', "b & c"]
    assert "<script" not in html
    hrefs = [e.get("href") for e in root.iter() if e.get("href")]
    assert len(hrefs) == 2 and all(h.startswith("data:image/png;base64,") for h in hrefs)
    svg = root[0]
    assert svg.get("aria-label") and svg.get("role") == "img"
    rects = [e for e in root.iter() if e.tag.endswith("rect")]
    assert len(rects) == 2 * 49 + 2
