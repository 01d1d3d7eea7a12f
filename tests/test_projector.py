"""The files for TensorBoard's projector, read back."""

import numpy as np
import pytest
from PIL import Image

import siamese_jax
from siamese_jax.data import loading
from siamese_jax.reporting import projector
from siamese_jax.runs import workdir
from siamese_jax.training import loop

from test_loop import VECTOR, config_of  # isort: skip


def written(folder):
    """The embeddings, the classes and the sheet of pictures of a folder."""
    config = (folder / "projector_config.pbtxt").read_text()
    assert config.count("tensor_path") == 1
    (tensors,) = folder.glob("*/*/tensors.tsv")
    assert str(tensors.relative_to(folder)) in config
    embeddings = np.loadtxt(tensors, delimiter="\t", ndmin=2)
    names = (tensors.parent / "metadata.tsv").read_text().splitlines()
    return embeddings, names, tensors.parent / "sprite.png"


def test_points_classes_and_pictures_are_those_of_the_set(glyphs, tmp_path):
    rows = np.array([0, 7, 30, 31, 90])
    embeddings = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for _ in range(2):  # the second writing replaces the first
        projector.write(tmp_path, embeddings, glyphs, rows)
    points, names, sheet = written(tmp_path)
    np.testing.assert_allclose(points, embeddings, rtol=1e-6)
    assert names == [glyphs.class_names[c] for c in glyphs.classes[rows]]
    pixels = np.asarray(Image.open(sheet).convert("L"), float)
    assert pixels.shape == (144, 144)  # 3 x 3 places of 48 pixels for five pictures
    expected = 255 - glyphs.resized(48, 48).images[rows][..., 0].astype(float)
    for i, picture in enumerate(expected):
        down, right = divmod(i, 3)
        place = pixels[48 * down : 48 * (down + 1), 48 * right : 48 * (right + 1)]
        np.testing.assert_allclose(place, picture, atol=2)


@pytest.mark.slow
def test_a_run_is_shown_and_mistakes_are_one_line(tmp_path):
    config = config_of(VECTOR)
    loop.train_and_evaluate(config, tmp_path)
    folder = projector.write_run(tmp_path, num_images=12)
    points, names, sheet = written(folder)
    test = loading.load(workdir.plain(config)["data"]).test
    rows = np.linspace(0, len(test.images) - 1, 12).round().astype(int)
    full = loading.load({**workdir.plain(config)["data"], "image_size": None}).test
    expected = siamese_jax.load(tmp_path).embed(np.asarray(full.images[rows]))
    np.testing.assert_allclose(points, expected, rtol=1e-4, atol=1e-6)
    assert names == [test.class_names[c] for c in test.classes[rows]] and sheet.exists()
    with pytest.raises(ValueError, match="part must be one of .* got 'all'"):
        projector.write_run(tmp_path, part="all")
    with pytest.raises(ValueError, match="num_images must be 1 to 20000, got 0"):
        projector.write_run(tmp_path, num_images=0)
