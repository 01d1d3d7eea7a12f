"""Folders and zips of pictures as image sets."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from siamese_jax.data import image_set, loading
from siamese_jax.data.folder import load_folder
from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation import baselines, trials
from siamese_jax.evaluation import protocols as protocols_lib


def grey(value):
    return np.full((6, 4), value, np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_classes_and_images_sort_by_their_numbers(tmp_path):
    for c in (10, 2, 1):
        for i in (10, 9, 1):
            save(tmp_path / f"s{c}" / f"{i}.png", grey(10 * c + i))
    images = load_folder(tmp_path, name="people")
    assert images.class_names == ("s1", "s2", "s10")
    assert images.alphabet_names == ("people",) and images.name == "people"
    assert images.kind == "photo" and images.image_shape == (6, 4, 1)
    np.testing.assert_array_equal(
        images.images[:, 0, 0, 0], [11, 19, 20, 21, 29, 30, 101, 109, 110]
    )
    np.testing.assert_array_equal(images.classes, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(images.drawers, [1, 2, 3] * 3)


def test_alphabets(tmp_path):
    for alphabet, characters in (("b", 1), ("a", 2)):
        for c in range(characters):
            for i in range(2):
                save(tmp_path / alphabet / f"c{c}" / f"{i}.png", grey(0))
    images = load_folder(tmp_path)
    assert images.alphabet_names == ("a", "b")
    assert images.class_names == ("a/c0", "a/c1", "b/c0")
    np.testing.assert_array_equal(images.class_alphabets, [0, 0, 1])
    assert images.name == tmp_path.name


def test_formats_give_the_same_grey_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4), dtype=np.uint8)
    for extension in ("png", "pgm", "bmp", "tif", "gif"):
        save(tmp_path / "a" / f"x.{extension}", pixels)
    smooth = np.broadcast_to(np.arange(0, 120, 30, dtype=np.uint8), (6, 4)).copy()
    save(tmp_path / "b" / "x.jpg", smooth, quality=100)
    images = load_folder(tmp_path)
    assert images.image_shape[2] in (1, 3)
    np.testing.assert_array_equal(images.images[:5, ..., 0], np.broadcast_to(pixels, (5, 6, 4)))
    np.testing.assert_allclose(images.images[5, ..., 0], smooth, atol=2)


def test_grey_only_when_all_are_grey(tmp_path):
    save(tmp_path / "a" / "1.png", grey(7))
    assert load_folder(tmp_path).image_shape == (6, 4, 1)
    colour = np.zeros((6, 4, 3), np.uint8)
    colour[..., 1] = 200
    save(tmp_path / "a" / "2.png", colour)
    images = load_folder(tmp_path)
    assert images.image_shape == (6, 4, 3)
    np.testing.assert_array_equal(images.images[0], np.full((6, 4, 3), 7))
    np.testing.assert_array_equal(images.images[1], colour)


def test_sixteen_bits_transparency_and_orientation(tmp_path):
    save(tmp_path / "a" / "1.png", np.full((6, 4), 257 * 100, np.uint16))
    assert load_folder(tmp_path).images.max() == 100
    clear = np.zeros((6, 4, 4), np.uint8)
    clear[:3, :, 3] = 255
    save(tmp_path / "b" / "1.png", clear)
    through = load_folder(tmp_path).images[1, :, 0, 0]
    np.testing.assert_array_equal(through, [0, 0, 0, 255, 255, 255])

    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    save(tmp_path / "photos" / "c" / "1.png", upright, exif=exif)
    turned = load_folder(tmp_path / "photos")
    assert turned.image_shape == (16, 8, 3)
    np.testing.assert_array_equal(turned.images[0], np.rot90(upright, -1))


def test_mixed_sizes_become_the_most_common_or_the_given_one(tmp_path):
    rng = np.random.default_rng(0)
    big = rng.integers(0, 256, (12, 8), dtype=np.uint8)
    save(tmp_path / "a" / "1.png", big)
    save(tmp_path / "a" / "2.png", grey(50))
    save(tmp_path / "a" / "3.png", grey(60))
    images = load_folder(tmp_path)
    assert images.image_shape == (6, 4, 1)
    area = big.reshape(6, 2, 4, 2).astype(float).mean((1, 3))
    np.testing.assert_allclose(images.images[0, ..., 0], area, atol=0.51)
    given = load_folder(tmp_path, image_size=(3, 2))
    assert given.image_shape == (3, 2, 1)
    np.testing.assert_allclose(
        given.images[0, ..., 0], big.reshape(3, 4, 2, 4).astype(float).mean((1, 3)), atol=0.51
    )


def test_ink_is_dark_on_light(tmp_path):
    paper = np.full((6, 4, 3), 255, np.uint8)
    paper[2] = 0
    save(tmp_path / "a" / "1.png", paper)
    images = load_folder(tmp_path, ink=True)
    assert images.kind == "ink" and images.image_shape == (6, 4, 1)
    np.testing.assert_array_equal(images.images[0, :, 0, 0], [0, 0, 255, 0, 0, 0])
    half = load_folder(tmp_path, ink=True, image_size=(3, 2))
    np.testing.assert_allclose(half.images[0, :, 0, 0], [0, 127.5, 0], atol=0.51)


def test_a_link_to_a_folder_is_left_out_with_a_word(tmp_path, caplog):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        save(tmp_path / name, grey(0))
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert load_folder(tmp_path).class_names == ("a", "b")
    assert "left out: c, a link to a folder" in caplog.text


def test_hidden_files_and_papers_at_the_top_are_passed_over(tmp_path):
    save(tmp_path / "a" / "1.png", grey(1))
    for name in ("README", "readme.md", "LICENSE", "notes.txt", ".DS_Store", "a/.hidden"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "x").write_text("no image")
    assert len(load_folder(tmp_path)) == 1


def test_zip_of_a_folder(tmp_path):
    for c in ("s1", "s2"):
        for i in (1, 2):
            save(tmp_path / "faces" / c / f"{i}.pgm", grey(10 * i))
    (tmp_path / "faces" / "README").write_text("faces")
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as packed:
        packed.writestr("s1/", "")
        for file in sorted((tmp_path / "faces").rglob("*.*")):
            packed.write(file, file.relative_to(tmp_path / "faces").as_posix())
        packed.write(tmp_path / "faces" / "README", "README")
    loose, zipped = load_folder(tmp_path / "faces"), load_folder(tmp_path / "faces.zip")
    assert loose.fingerprint == zipped.fingerprint
    assert zipped.name == "faces"


def test_a_zip_with_two_files_of_one_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("a/1.png", png_bytes())
        packed.writestr("a/2.png", png_bytes())
        packed.writestr("a//2.png", png_bytes())
    with pytest.raises(ValueError, match=r"x.zip: holds a/2.png 2 times: pack it again"):
        load_folder(tmp_path / "x.zip")


def png_bytes():
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(
        data, format="PNG"
    )
    return data.getvalue()


def test_faults_are_named(tmp_path):
    cases = {
        "no such folder of images; set data.path to a folder": {},
        "holds no images": {"README": b"nothing else"},
        "a/2.png is not a readable image": {"a/1.png": png_bytes(), "a/2.png": b"hello"},
        "a/notes.txt is not a readable image": {"a/1.png": png_bytes(), "a/notes.txt": b"hello"},
        "a/2.png is not a readable image [(]image file is truncated": {
            "a/1.png": png_bytes(),
            "a/2.png": png_bytes()[:2000],
        },
        "no folder of a class among its 2 files": {"1.png": png_bytes(), "2.png": png_bytes()},
        "b.png does not lie at <class>/<image>": {"a/1.png": png_bytes(), "b.png": png_bytes()},
        "a/1.png does not lie at <alphabet>/<class>/<image>": {
            "a/1.png": png_bytes(),
            "a/b/1.png": png_bytes(),
            "a/c/1.png": png_bytes(),
        },
    }
    for k, (words, files) in enumerate(cases.items()):
        folder = tmp_path / str(k)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=words) as caught:
            load_folder(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_neither_folder_nor_zip(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK half a zip")
    with pytest.raises(ValueError, match="x.zip: neither a folder nor a whole zip"):
        load_folder(tmp_path / "x.zip")


def test_fewest_images_of_a_class(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(tmp_path / name, grey(0))
    assert load_folder(tmp_path).num_classes == 2
    with pytest.raises(ValueError, match="class b has 1 image, at least 2"):
        load_folder(tmp_path, min_images=2)


def test_att_faces(real_data):
    faces = load_folder(real_data / "att_faces" / "att_faces.zip")
    assert faces.grid().shape == (40, 10, 112, 92, 1)
    assert faces.kind == "photo"
    assert faces.class_names == tuple(f"s{k}" for k in range(1, 41))
    with zipfile.ZipFile(real_data / "att_faces" / "att_faces.zip") as packed:
        raw = packed.read("s10/10.pgm")
    pixels = np.frombuffer(raw[-112 * 92 :], np.uint8).reshape(112, 92)
    np.testing.assert_array_equal(faces.grid()[9, 9, ..., 0], pixels)


def test_att_faces_of_unseen_people(real_data):
    path = real_data / "att_faces" / "att_faces.zip"
    data = loading.load({"name": "folder", "path": path, "fractions": (16, 4, 20)})
    parts = (data.train, data.validation, data.test)
    assert [part.num_classes for part in parts] == [16, 4, 20]
    assert all(part.grid().shape[1:] == (10, 112, 92, 1) for part in parts)
    people = [name for part in parts for name in part.class_names]
    assert sorted(people) == sorted(f"s{k}" for k in range(1, 41))
    by_rows = loading.load({"name": "folder", "path": path, "split": "rows"})
    assert [part.num_classes for part in (by_rows.train, by_rows.test)] == [40, 40]
    assert by_rows.train.class_count.tolist() == [6] * 40


def people(seed, count=20, pictures=10):
    """A set of one alphabet as a folder of faces is: people of equally many grey pictures."""
    rng = np.random.default_rng(seed)
    return ImageSet(
        images=rng.integers(0, 256, (count * pictures, 7, 5, 1), dtype=np.uint8),
        classes=np.repeat(np.arange(count, dtype=np.int32), pictures),
        drawers=np.tile(np.arange(1, pictures + 1, dtype=np.int32), count),
        class_names=tuple(f"s{k + 1}" for k in range(count)),
        class_alphabets=np.zeros(count, np.int32),
        alphabet_names=("people",),
        kind="photo",
        name="people",
    )


def test_protocols_on_people_of_one_alphabet():
    data = protocols_lib.EvaluationData(people(0), people(1, 4))
    protocols = ("within", "between", "verification", "retrieval")
    results = protocols_lib.run_protocols(
        baselines.pixel_nearest_neighbour, data, protocols, {"num_trials": 400, "num_pairs": 400}
    )
    assert set(results) == set(protocols)
    for name, result in results.items():
        assert result.grouped_by == "class" and len(result.per_group) <= 20, name
        assert np.isfinite(result.clustered).all(), name
    assert (results["within"].n_way, results["within"].num_trials) == (20, 400)
    held = results["within"].trials
    # Each of a run's people is asked for once: every person equally often.
    asked = data.test.classes[held.queries]
    np.testing.assert_array_equal(np.bincount(asked.ravel()), np.full(20, 20))
    pairs = results["verification"].trials
    same = data.test.classes[pairs.first] == data.test.classes[pairs.second]
    np.testing.assert_array_equal(same, pairs.labels == 1)
    with pytest.raises(ValueError, match="n_way 20 is above the 4 classes"):
        trials.within_trials(data.validation, n_way=20)
    assert trials.within_trials(data.validation, n_way=4, num_trials=40).n_way == 4


@pytest.mark.parametrize("ink", [False, True])
def test_pictures_of_several_sizes_are_as_when_read_one_by_one(tmp_path, monkeypatch, ink):
    rng = np.random.default_rng(0)
    expected = []
    for row in range(12):
        folder = tmp_path / f"class{row // 4}"
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, [(12, 8), (24, 16), (36, 24)][row % 3], dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        seen = 255 - pixels if ink else pixels
        expected.append(image_set.resize_images(seen[None, :, :, None], 12, 8)[0])
    monkeypatch.setattr("siamese_jax.data.folder._STACK", 2 * 12 * 8)  # stacks of one and of two
    images = load_folder(tmp_path, image_size=(12, 8), ink=ink)
    np.testing.assert_array_equal(images.images, np.stack(expected))
    assert images.fill == ("paper" if ink else "edge")


def test_images_of_the_wanted_size_are_returned_as_they_are():
    images = np.zeros((3, 5, 7, 1), np.uint8)
    assert image_set.resize_images(images, 5, 7) is images
