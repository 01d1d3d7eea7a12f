"""Large folders that are prepared once, faults told at once, and tfds sets by name."""

import io
import logging
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from siamese_jax.data import folder, image_set, loading, named, shards


def write(path, classes=6, pictures=5, size=(8, 6)):
    rng = np.random.default_rng(0)
    for c in range(classes):
        (path / f"c{c}").mkdir(parents=True)
        for i in range(pictures):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / f"c{c}" / f"{i}.png")
    return path


def rows_of(images):
    return images.images[:]


@pytest.mark.slow
def test_prepared_pictures_are_those_of_memory(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "people")
    plain = folder.load_folder(path)
    monkeypatch.setattr(shards, "PART", 8)
    with caplog.at_level(logging.INFO):
        streamed = folder.load_folder(path, stream=True, data_dir=tmp_path / "data")
    assert "preparing 30 pictures" in caplog.text and "prepared 30 of 30" in caplog.text
    assert isinstance(streamed.images, image_set.StreamedImages)
    np.testing.assert_array_equal(rows_of(streamed), plain.images)
    order = np.random.default_rng(1).permutation(30)
    np.testing.assert_array_equal(streamed.images[order], plain.images[order])
    assert streamed.class_names == plain.class_names
    monkeypatch.setattr(shards, "_run", None)  # nothing is prepared a second time
    monkeypatch.setattr(folder, "LARGE", 1)
    held = folder.load_folder(path, data_dir=tmp_path / "data")
    np.testing.assert_array_equal(held.images, plain.images)
    assert held.fingerprint == streamed.fingerprint
    assert held.select(classes=[2]).fingerprint == streamed.select(classes=[2]).fingerprint


def test_a_size_of_a_config_and_of_its_json_is_prepared_once(tmp_path, monkeypatch):
    path = write(tmp_path / "people", 3, 2)

    def run(make_decode, side, parts, count):
        for part in parts:
            shards.prepare_part(make_decode(), side, *part)

    monkeypatch.setattr(shards, "_run", run)
    options = {"stream": True, "data_dir": tmp_path / "data"}
    prepared = folder.load_folder(path, image_size=(4, 3), **options)
    monkeypatch.setattr(shards, "_run", None)  # nothing is prepared a second time
    again = folder.load_folder(path, image_size=[4, 3], **options)
    np.testing.assert_array_equal(rows_of(again), rows_of(prepared))


@pytest.mark.slow
def test_a_stopped_preparation_goes_on(tmp_path, monkeypatch):
    path = write(tmp_path / "people")
    monkeypatch.setattr(shards, "PART", 10)
    folder.load_folder(path, stream=True, data_dir=tmp_path / "data")
    parts = sorted((tmp_path / "data" / "pictures").glob("*/0*.json"))
    assert len(parts) == 3
    before = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    again = folder.load_folder(path, stream=True, data_dir=tmp_path / "data")
    assert parts[0].stat().st_mtime_ns == before
    np.testing.assert_array_equal(rows_of(again), folder.load_folder(path).images)


@pytest.mark.slow
def test_a_damaged_part_is_one_line(tmp_path):
    path = write(tmp_path / "people", 3, 4)
    streamed = folder.load_folder(path, stream=True, data_dir=tmp_path / "data")
    streamed.images[np.arange(12)]
    (records,) = (tmp_path / "data" / "pictures").glob("*/00000.array_record")
    data = bytearray(records.read_bytes())
    data[len(data) // 2] ^= 0xFF
    records.write_bytes(data)
    again = folder.load_folder(path, stream=True, data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match="prepared pictures are damaged") as caught:
        again.images[np.arange(12)]
    assert "\n" not in str(caught.value)
    (facts,) = (tmp_path / "data" / "pictures").glob("*/00000.json")
    facts.write_text("{")
    with pytest.raises(ValueError, match="00000.json is damaged"):
        folder.load_folder(path, stream=True, data_dir=tmp_path / "data")


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    write(tmp_path / "people", 3, 2)
    script = tmp_path / "script.py"
    script.write_text(
        "from siamese_jax.data import folder\n"
        f"folder.load_folder({str(tmp_path / 'people')!r}, stream=True, data_dir={str(tmp_path)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "ValueError: a process that prepares pictures ended" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_changed_file_is_prepared_anew(tmp_path):
    path = write(tmp_path / "people", 3, 2)
    old = folder.load_folder(path, stream=True, data_dir=tmp_path / "data")
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(path / "c0" / "0.png")
    new = folder.load_folder(path, stream=True, data_dir=tmp_path / "data")
    assert old.fingerprint != new.fingerprint and not new.images[np.array([0])].any()


@pytest.mark.slow
def test_faults_of_a_prepared_folder(tmp_path):
    path = write(tmp_path / "people", 3, 3)
    (path / "c1" / "1.png").write_bytes(b"broken")
    (path / "c2" / "0.png").write_bytes((path / "c2" / "0.png").read_bytes()[:100])
    options = {"stream": True, "data_dir": tmp_path / "data"}
    with pytest.raises(ValueError, match=r"c1/1.png is not a .*; c2/0.png is not a readable"):
        folder.load_folder(path, **options)
    kept = folder.load_folder(path, skip_broken=True, **options)
    np.testing.assert_array_equal(kept.class_count, [3, 2, 2])


def test_all_faults_are_told_at_once_or_left_out(tmp_path, caplog):
    path = write(tmp_path / "people", 3, 3)
    (path / "Thumbs.db").write_bytes(b"none")
    (path / "c0" / "Thumbs.db").write_bytes(b"none")
    (path / "c0" / "1.png").write_bytes(b"broken")
    (path / "loose.png").write_bytes(b"broken")
    for i in (0, 1):
        (path / "c2" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="skip_broken leaves these out") as caught:
        folder.load_folder(path, min_images=2)
    text = str(caught.value)
    assert "\n" not in text and "Thumbs" not in text
    for words in ("loose.png does not lie", "c0/1.png is not a readable", "class c2 has 1 image"):
        assert words in text
    kept = folder.load_folder(path, min_images=2, skip_broken=True)
    assert kept.class_names == ("c0", "c1") and kept.class_count.tolist() == [2, 3]
    assert caplog.text.count("left out:") == 3


def test_a_zip_with_one_folder_on_top(tmp_path):
    path = write(tmp_path / "people", 3, 2)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        for file in sorted(path.rglob("*.png")):
            packed.write(file, f"people-main/{file.relative_to(path).as_posix()}")
    zipped = folder.load_folder(tmp_path / "packed.zip", name="people")
    assert zipped.class_names == ("c0", "c1", "c2")
    assert zipped.fingerprint == folder.load_folder(path).fingerprint
    with zipfile.ZipFile(tmp_path / "packed.zip", "a") as packed:  # as packed from a repository
        for name in ("README.md", "people-main/LICENSE", "people-main/notes.txt"):
            packed.writestr(name, "no picture")
    again = folder.load_folder(tmp_path / "packed.zip", name="people")
    assert again.fingerprint == zipped.fingerprint
    (path / "README").write_text("no picture")
    (tmp_path / "top").mkdir()
    path.rename(tmp_path / "top" / "people")
    assert folder.load_folder(tmp_path / "top", name="people").fingerprint == zipped.fingerprint
    assert list(folder.picture_files(tmp_path / "top")) == ["c0", "c1", "c2"]


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Twelve classes of two superclasses, three pictures each."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "fine": tfds.features.ClassLabel(names=[f"kind{i}" for i in range(12)]),
            "coarse": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(i) for i, name in enumerate(("train", "test"))}

    def _generate_examples(self, part):
        for c in range(6 * part, 6 * part + 6):
            for i in range(3):
                size = (6 - part, 5 - part, 3)
                pixels, png = np.full(size, 20 * c + i, np.uint8), io.BytesIO()
                Image.fromarray(pixels).save(png, format="PNG")
                png.seek(0)
                yield f"{c}_{i}", {"picture": png, "fine": c, "coarse": f"group{c % 2}"}


@pytest.mark.slow
def test_a_tfds_set_by_its_name(tmp_path):
    fields = {
        "name": "tfds:tiny_pictures",
        "data_dir": str(tmp_path),
        "tfds_image": "picture",
        "tfds_label": "fine",
    }
    data = loading.load({**fields, "fractions": (6, 3, 3)})
    assert [x.num_classes for x in (data.train, data.validation, data.test)] == [6, 3, 3]
    assert data.train.image_shape == (6, 5, 3)
    for part in (data.train, data.validation, data.test):
        first = part.images[part.class_start, 0, 0, 0] // 20
        assert [f"kind{c}" for c in first] == list(part.class_names)
    alphabets = loading.load(
        {**fields, "tfds_alphabet": "coarse", "tfds_splits": ("train", "test", "test")}
    )
    assert alphabets.train.alphabet_names == ("group0", "group1")
    assert alphabets.train.class_names[0] == "group0/kind0"
    assert alphabets.train.image_shape == alphabets.test.image_shape == (6, 5, 3)
    for change, words in (
        ({"tfds_label": "x"}, r"no feature 'x' \(data.tfds_label\): it has .*coarse"),
        ({"name": "tfds:no_such_set"}, "tfds has no data set 'no_such_set'"),
        ({"tfds_splits": ("train", "test")}, "one split or three"),
        ({"tfds_splits": ("other",)}, "has no split 'other': it has train, test"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            loading.load({**fields, **change})
        assert "\n" not in str(caught.value)


def tfds_set(picture, label=0, channels=None, ink=False):
    """The set of one picture as `named.load` makes it."""
    return named._image_set([(picture, label, "")], [None, None], None, channels, ink, "small")


def test_a_tfds_picture_in_colour_becomes_grey_as_a_file_does():
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [1, 1, 2]]], np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(tfds_set(colours, channels=1).images[0, ..., 0], expected)
    ink = tfds_set(colours, channels=1, ink=True)
    np.testing.assert_array_equal(ink.images[0, ..., 0], 255 - expected)
    grey = tfds_set(expected, "²", channels=3)  # a superscript is no number
    np.testing.assert_array_equal(grey.images[0], np.repeat(expected[..., None], 3, -1))


@pytest.mark.parametrize(
    "picture",
    [
        np.full((4, 4, 1), 300, np.uint16),
        np.full((4, 4, 3), 0.9, np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_tfds_pictures_of_another_type_or_shape_are_refused(picture):
    with pytest.raises(ValueError, match=f"small has a picture of .*{picture.dtype}; .*uint8"):
        tfds_set(picture)
