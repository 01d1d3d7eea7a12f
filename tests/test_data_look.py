"""A look at a data set: its counts, duplicates, sizes, samples, and what a training sees."""

import collections
import dataclasses

import numpy as np
import pytest
from PIL import Image
from recipes import get_config

from siamese_jax.data import duplicates, folder, loading
from siamese_jax.data.image_set import pixel_digests
from siamese_jax.experiments import data_look
from siamese_jax.reporting import data_page


def picture(value, height=6):
    return np.random.default_rng(value).integers(0, 256, (height, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Six classes of 3 to 8 pictures: one twice in c3, one in c0 and c4; one broken, two larger."""
    path = tmp_path_factory.mktemp("data") / "people"
    for c in range(6):
        (path / f"c{c}").mkdir(parents=True)
        for i in range(3 + c):
            height = 9 if c in (1, 2) and i == 0 else 6
            pixels = picture(10 * c + i, height)
            Image.fromarray(pixels).save(path / f"c{c}" / f"{i}.png")
    Image.fromarray(picture(31)).save(path / "c3" / "8.png")
    Image.fromarray(picture(1)).save(path / "c4" / "9.png")
    (path / "c5" / "broken.png").write_bytes(b"no picture")
    return path


def test_equal_pictures_are_found_wherever_they_are(people):
    images = folder.load_folder(people, skip_broken=True)
    parts = {
        "training": images.select(classes=[0, 1, 3]),
        "test": images.select(classes=[2, 4, 5]),
    }
    groups = duplicates.find(parts)
    assert sorted(map(duplicates.where, groups)) == ["across parts", "within a class"]
    by_place = {duplicates.where(group): [str(place) for place in group] for group in groups}
    assert by_place["within a class"] == ["c3 picture 2 (training)", "c3 picture 7 (training)"]
    assert by_place["across parts"] == ["c0 picture 2 (training)", "c4 picture 8 (test)"]
    (crossing,) = [g for g in duplicates.find({"all": images}) if g[0].class_name == "c0"]
    assert duplicates.where(crossing) == "across classes"


def test_equal_digests_are_equal_pixels_and_kept_ones_are_taken(people):
    images = folder.load_folder(people, skip_broken=True)
    digests = pixel_digests(images)
    assert len(np.unique(digests)) == len(images) - 2
    kept = digests[::-1]
    assert pixel_digests(dataclasses.replace(images, digests=kept)) is kept


def test_files_are_counted_by_the_size_that_their_headers_give(people):
    sizes = folder.file_sizes(people)
    assert sizes == collections.Counter({(6, 5): 33, (9, 5): 2})


def test_a_look_at_a_folder_leaves_out_what_is_broken(people, caplog):
    shown = data_look.look(str(people))
    assert "broken.png" in caplog.text
    rows = data_page.counts(shown.parts)
    assert [row[0] for row in rows] == ["training", "validation", "test"]
    assert sum(int(row[1]) for row in rows) == 35 and sum(int(row[2]) for row in rows) == 6
    assert all(row[-1] == "6 × 5 × 3" for row in rows)
    text = "\n".join(data_page.findings(shown))
    assert "2 image sizes; 33 of 35 files are 6 x 5 pixels" in text
    assert "1 group of equal pictures within a class" in text
    assert "times the smallest" in text
    page = data_page.render(shown)
    assert page.count("<figure>") == 3 and "c3 picture 2" in page and "What training" not in page
    assert page.count("<img") == 35


@pytest.mark.slow
def test_a_look_with_a_config_shows_what_training_sees(people, tmp_path):
    config = get_config("quickstart", "smoke")
    config.objective.update(symmetries="none", pad_with_symmetries=False, n_way=3)
    config.model.centre_ink = False
    config.data.skip_broken = True
    shown = data_look.look(str(people), config)
    assert config.data.name == "glyphs"  # the caller's own is left alone
    prepared = loading.load({"name": "folder", "path": str(people), "skip_broken": True})
    first = prepared.train.resized(24, 24).images[0] / np.float32(255)
    assert shown.views.shape == (6, 9, 24, 24, 3)
    np.testing.assert_allclose(shown.views[0, 0], first, atol=1e-6)
    changes = np.abs(shown.views[:, 1:] - shown.views[:, :1]).max((2, 3, 4))
    assert (changes > 0.05).mean() > 0.8  # each distortion is drawn with probability 1/2
    assert ("augment.affine.rotation", "10.0") in shown.settings
    page = data_look.write(shown, tmp_path / "data.html").read_text()
    assert "What training sees" in page and page.count("<figure>") == 5


@pytest.mark.slow
def test_classes_that_train_and_validate_are_no_duplicates():
    config = get_config("quickstart", "smoke")
    config.data.update(train_on_validation=True, glyphs_alphabets=5, glyphs_drawers=2)
    shown = data_look.look(config=config)
    assert set(shown.parts["validation"].class_names) < set(shown.parts["training"].class_names)
    assert not shown.duplicates


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a folder"),
        (("nowhere",), "no such folder of images"),
        (("tfds:no_such_set",), "tfds has no data set"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        data_look.look(*arguments, data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_page_needs_its_folder(people, tmp_path):
    shown = data_look.look(str(people))
    with pytest.raises(ValueError, match="no such folder for a page"):
        data_look.write(shown, tmp_path / "nowhere" / "data.html")


def test_built_in_sets_and_tables_have_a_look_too(tmp_path):
    assert data_look._fields_of("glyphs") == {"name": "glyphs"}
    table = tmp_path / "iris.csv"
    rows = [f"{c},{i}.5,{i * c},class{c}" for c in range(4) for i in range(3)]
    table.write_text("\n".join(["a,b,c,class", *rows]))
    shown = data_look.look(str(table))
    assert len(shown.parts["training"]) == 6
    assert "<figure>" not in data_page.render(shown)
