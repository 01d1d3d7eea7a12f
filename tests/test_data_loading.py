"""The splits, and the one function that loads the data of a run."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from siamese_jax.data import loading, omniglot, preparation, splits
from siamese_jax.data.image_set import ImageSet

SMALL = {"glyphs_alphabets": 5, "glyphs_characters": (4, 6), "glyphs_drawers": 10}


def blank(alphabets: dict[str, int], drawers: int = 20, name: str = "blank") -> ImageSet:
    """A set without ink: alphabets with so many characters each, images numbered by their pixels."""
    names = sorted(alphabets)
    classes = sum(alphabets.values())
    count = classes * drawers
    pixels = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 2, 2, 1)
    return ImageSet(
        images=pixels,
        classes=np.repeat(np.arange(classes, dtype=np.int32), drawers),
        drawers=np.tile(np.arange(1, drawers + 1, dtype=np.int32), classes),
        class_names=tuple(
            f"{a}/character{c:02d}" for a in names for c in range(1, alphabets[a] + 1)
        ),
        class_alphabets=np.repeat(np.arange(len(names)), [alphabets[a] for a in names]),
        alphabet_names=tuple(names),
        kind="ink",
        name=name,
    )


@pytest.fixture(scope="module")
def lake_like():
    """Sets with Omniglot's alphabet names and few characters."""
    background = blank({f"background{k:02d}": 2 for k in range(30)}, name="omniglot background")
    evaluation = blank(
        dict.fromkeys(splits.TEST_ALPHABETS + splits.VALIDATION_ALPHABETS, 2),
        name="omniglot evaluation",
    )
    return background, evaluation


def test_alphabets_of_the_splits():
    assert len(splits.TEST_ALPHABETS) == len(splits.VALIDATION_ALPHABETS) == 10
    assert not set(splits.TEST_ALPHABETS) & set(splits.VALIDATION_ALPHABETS)


def test_lake(lake_like):
    train, validation, test = splits.lake(*lake_like)
    assert train is lake_like[0]
    assert set(validation.alphabet_names) == set(splits.VALIDATION_ALPHABETS)
    assert set(test.alphabet_names) == set(splits.TEST_ALPHABETS)
    assert len(validation) == len(test) == 10 * 2 * 20
    assert test.name == "omniglot test"


def test_koch(lake_like):
    train, validation, test = splits.koch(*lake_like)
    assert (train.num_alphabets, validation.num_alphabets, test.num_alphabets) == (30, 10, 10)
    assert set(train.drawers.tolist()) == set(range(1, 13))
    assert set(validation.drawers.tolist()) == {13, 14, 15, 16}
    assert set(test.drawers.tolist()) == {17, 18, 19, 20}
    assert len(train) == 30 * 2 * 12


def test_vinyals(lake_like):
    """100 characters here, of which the last 25 test; the cut falls within an alphabet of two."""
    background, evaluation = (
        dataclasses.replace(
            part,
            images=np.random.default_rng(k).integers(0, 256, part.images.shape, np.uint8),
            alphabet_names=tuple(
                {"background03": "Bengali", "background07": "Hebrew"}.get(name, name)
                for name in part.alphabet_names
            ),
        )
        for k, part in enumerate(lake_like)
    )
    train, validation, test = splits.vinyals(background, evaluation, 75)
    order = background.class_names + evaluation.class_names
    assert test.class_names == order[75:] and test.class_names[0].endswith("character02")
    assert validation.class_names == order[6:8] + order[14:16]
    assert train.class_names == order[:6] + order[8:14] + order[16:75]
    for part in (train, validation, test):
        for c, name in enumerate(part.class_names):
            source = background if name in background.class_names else evaluation
            np.testing.assert_array_equal(
                part.images[part.classes == c],
                source.images[source.classes == source.class_names.index(name)],
            )
    with pytest.raises(ValueError, match="goes with Omniglot in memory"):
        loading.load({"name": "glyphs", "split": "vinyals"})
    for fields in ({"name": "glyphs"}, {"name": "omniglot", "split": "vinyals"}):
        with pytest.raises(ValueError, match="train_alphabets goes with Omniglot"):
            loading.load({**fields, "train_alphabets": 5})


def test_a_shared_alphabet_has_the_classes_of_both():
    a, b = blank({"x": 2, "y": 1}, drawers=3), blank({"w": 1, "x": 4}, drawers=3)
    b = b.select(classes=[0, 3, 4])  # w/1, x/3, x/4
    both = splits.joined(a, b, "both")
    assert both.alphabet_names == ("x", "y", "w")
    names = ["x/character01", "x/character02", "x/character03", "x/character04"]
    assert list(both.class_names) == [*names, "y/character01", "w/character01"]
    assert both.class_alphabets.tolist() == [0, 0, 0, 0, 1, 2]
    for c, name in enumerate(both.class_names):
        source = a if name in a.class_names else b
        rows = source.classes == source.class_names.index(name)
        np.testing.assert_array_equal(both.images[both.classes == c], source.images[rows])
        assert both.drawers[both.classes == c].tolist() == [1, 2, 3]


def write_classes(folder, count):
    for c in range(count):
        (folder / f"c{c}").mkdir(parents=True)
        for k in range(3):
            Image.new("L", (4, 4), 10 * c + k).save(folder / f"c{c}" / f"{k}.png")


@pytest.mark.parametrize("name", ["glyphs", "folder"])
def test_the_validation_classes_train_too(tmp_path, name):
    write_classes(tmp_path, 10)
    fields = {"name": name, **(SMALL if name == "glyphs" else {"path": str(tmp_path)})}
    plain = loading.load(fields)
    data = loading.load({**fields, "train_on_validation": True})
    names = set(plain.train.class_names) | set(plain.validation.class_names)
    assert set(data.train.class_names) == names and len(data.train.class_names) == len(names)
    assert len(data.train) == len(plain.train) + len(plain.validation)
    assert set(data.train.alphabet_names) == {
        *plain.train.alphabet_names,
        *plain.validation.alphabet_names,
    }
    for part in ("validation", "test"):
        assert getattr(data, part).fingerprint == getattr(plain, part).fingerprint
    assert data.note == f"{plain.note}; the validation classes train too"
    assert data.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "omniglot", "stream": True},
        {"name": "folder", "path": "x", "split": "rows"},
        {"name": "mnist"},
        {"name": "vectors", "path": "x.csv"},
    ],
)
def test_what_cannot_train_on_its_validation_part(fields):
    with pytest.raises(ValueError, match="train_on_validation goes with pictures in memory"):
        loading.load({**fields, "train_on_validation": True})


def test_quarter_turns_are_further_classes():
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 5, 1), np.uint8)
    small = dataclasses.replace(blank({"a": 2, "b": 1}, drawers=4), images=images)
    whole = splits.with_rotations(small)
    assert whole.num_classes == 12 and whole.num_alphabets == 8 and len(whole) == 48
    for quarters in range(4):
        end = f" turned {90 * quarters}" if quarters else ""
        for c, name in enumerate(small.class_names):
            found = whole.images[whole.classes == whole.class_names.index(name + end)]
            for turned, image in zip(found, images[small.classes == c], strict=True):
                np.testing.assert_array_equal(turned[..., 0], np.rot90(image[..., 0], quarters))
    tall = dataclasses.replace(small, images=images[:, :4])
    with pytest.raises(ValueError, match="need square images; these are 4 x 5"):
        splits.with_rotations(tall)


def test_by_fraction_of_alphabets():
    images = blank({f"a{k}": 3 for k in range(10)}, drawers=2)
    parts = splits.by_fraction(images, 0)
    assert [part.num_alphabets for part in parts] == [6, 2, 2]
    assert sorted(name for part in parts for name in part.alphabet_names) == sorted(
        images.alphabet_names
    )
    assert [part.name for part in parts] == ["blank train", "blank validation", "blank test"]
    again = splits.by_fraction(images, 0)
    assert [p.alphabet_names for p in parts] == [p.alphabet_names for p in again]
    assert len({splits.by_fraction(images, seed)[2].alphabet_names for seed in range(9)}) > 4
    assert [p.num_alphabets for p in splits.by_fraction(images, 0, (0.1, 0.1, 0.8))] == [1, 1, 8]


@pytest.mark.parametrize("alphabets", [{"a": 9}, {"a": 4, "b": 5}])
def test_by_fraction_of_classes_when_alphabets_are_few(alphabets):
    images = blank(alphabets, drawers=2)
    parts = splits.by_fraction(images, 0, (0.5, 0.25, 0.25))
    assert [part.num_classes for part in parts] == [5, 2, 2]
    assert sorted(name for part in parts for name in part.class_names) == sorted(images.class_names)


def test_each_part_gets_one_and_three_are_needed():
    for count in range(3, 8):
        parts = splits.by_fraction(blank({"a": count}, 2), 0, (0.98, 0.01, 0.01))
        assert [part.num_classes for part in parts] == [count - 2, 1, 1]
        parts = splits.by_fraction(blank({"a": count}, 2), 0, (0.01, 0.98, 0.01))
        assert [part.num_classes for part in parts] == [1, count - 2, 1]
    with pytest.raises(ValueError, match="'blank' has 2 classes"):
        splits.by_fraction(blank({"a": 2}, 2), 0)
    for bad in ((0.5, 0.5), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (1.0, 0.0, 0.0), (np.inf, 1, 1)):
        with pytest.raises(ValueError, match="fractions"):
            splits.by_fraction(blank({"a": 9}, 2), 0, bad)


def test_by_fraction_of_whole_numbers():
    images = blank({"a": 40}, drawers=2)
    parts = splits.by_fraction(images, 0, (16, 4, 20))
    assert [part.num_classes for part in parts] == [16, 4, 20]
    same = splits.by_fraction(images, 0, (0.4, 0.1, 0.5))
    assert [p.class_names for p in parts] == [p.class_names for p in same]
    alphabets = splits.by_fraction(blank({f"a{k}": 3 for k in range(5)}, 2), 0, (1, 2, 2))
    assert [part.num_alphabets for part in alphabets] == [1, 2, 2]
    with pytest.raises(ValueError, match=r"\(16, 4, 21\).*sum to 40.*40 classes of 'blank'"):
        splits.by_fraction(images, 0, (16, 4, 21))
    with pytest.raises(ValueError, match="fractions must be three positive"):
        splits.by_fraction(images, 0, (40, 0, 0))


def test_by_rows():
    images = blank({"a": 2, "b": 1}, drawers=10)
    parts = splits.by_rows(images, 0)
    assert [part.class_count.tolist() for part in parts] == [[6] * 3, [2] * 3, [2] * 3]
    assert [part.name for part in parts] == ["blank train", "blank validation", "blank test"]
    assert all(part.class_names == images.class_names for part in parts)
    assert all(part.alphabet_names == ("a", "b") for part in parts)
    pixels = np.concatenate([part.images for part in parts]).reshape(30, 4)
    assert sorted(pixels.tolist()) == sorted(images.images.reshape(30, 4).tolist())
    # Each keeps its number in the whole class; which go where is drawn anew for each class.
    for part in parts:
        for c in range(3):
            rows = part.classes == c
            kept = images.images[images.class_start[c] + part.drawers[rows] - 1]
            np.testing.assert_array_equal(part.images[rows], kept)
    tests = [set(parts[2].drawers[parts[2].classes == c].tolist()) for c in range(3)]
    assert len(set(map(tuple, tests))) > 1
    other = splits.by_rows(images, 1)
    assert other[2].fingerprint != parts[2].fingerprint
    assert splits.by_rows(images, 0)[2].fingerprint == parts[2].fingerprint


def test_by_rows_gives_each_part_two_of_each_class():
    for count in range(6, 12):
        for fractions in ((0.98, 0.01, 0.01), (0.01, 0.98, 0.01), (0.01, 0.01, 0.98)):
            parts = splits.by_rows(blank({"a": 2}, count), 0, fractions)
            sizes = [int(part.class_count[0]) for part in parts]
            assert sorted(sizes) == [2, 2, count - 4]
            assert sizes.index(max(sizes)) == fractions.index(0.98) or count == 6
    counted = splits.by_rows(blank({"a": 2}, 10), 0, (3, 2, 5))
    assert [part.class_count.tolist() for part in counted] == [[3, 3], [2, 2], [5, 5]]
    with pytest.raises(ValueError, match=r"least 2 each, to share out the 10 images of the class"):
        splits.by_rows(blank({"a": 2}, 10), 0, (8, 1, 1))
    with pytest.raises(ValueError, match="'a/character01' has 5 images.*needs six"):
        splits.by_rows(blank({"a": 2}, 5), 0)


def test_select_rows():
    images = blank({"a": 3}, drawers=4)
    part = images.select(rows=[11, 4, 5], name="part")
    np.testing.assert_array_equal(part.images, images.images[[4, 5, 11]])
    assert part.class_names == ("a/character02", "a/character03") and part.name == "part"
    np.testing.assert_array_equal(part.drawers, [1, 2, 4])
    with pytest.raises(ValueError, match="has rows 0-11, not 12"):
        images.select(rows=[0, 12])


def test_own_drawers():
    parts = splits.own_drawers(splits.by_fraction(blank({"a": 9}), 0))
    assert [sorted(set(part.drawers.tolist())) for part in parts] == [
        list(range(1, 13)),
        list(range(13, 17)),
        list(range(17, 21)),
    ]
    with pytest.raises(ValueError, match="4 drawers"):
        splits.own_drawers(splits.by_fraction(blank({"a": 9}, 4), 0))
    whole = blank({"a": 9})
    with pytest.raises(ValueError, match="same drawers"):
        splits.own_drawers((whole, whole, whole.select(drawers=[1, 2])))


def test_load_glyphs():
    data = loading.load({"name": "glyphs", **SMALL, "image_size": (28, 28)})
    parts = (data.train, data.validation, data.test)
    assert [part.num_alphabets for part in parts] == [3, 1, 1]
    assert all(part.image_shape == (28, 28, 1) and part.kind == "ink" for part in parts)
    names = [name for part in parts for name in part.alphabet_names]
    assert len(set(names)) == 5
    assert len(data.runs) == 20 and data.runs.queries.shape[2:] == (28, 28, 1)
    assert set(data.runs.alphabets) <= set(data.test.alphabet_names)
    assert data.runs.n_way == data.test.alphabet_count.max()
    assert "official" not in data.runs.name
    assert "glyphs" in data.note and "seed 0" in data.note
    again = loading.load({"name": "glyphs", **SMALL, "image_size": (28, 28)})
    assert again.fingerprint == data.fingerprint
    other = loading.load({"name": "glyphs", **SMALL, "image_size": (28, 28), "seed": 1})
    assert other.fingerprint != data.fingerprint
    source = loading.load({"name": "glyphs", **SMALL})
    assert data.source_fingerprint == again.source_fingerprint == source.fingerprint
    assert source.fingerprint != data.fingerprint and source.source_fingerprint is None
    shape = source.train.image_shape[:2]
    assert loading.load({"name": "glyphs", **SMALL, "image_size": shape}).source_fingerprint is None


def test_load_glyphs_with_own_drawers():
    data = loading.load({"name": "glyphs", **SMALL, "split": "koch"})
    drawers = [set(part.drawers.tolist()) for part in (data.train, data.validation, data.test)]
    assert drawers == [set(range(1, 7)), {7, 8}, {9, 10}]


def test_auto_without_omniglot_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv(omniglot.ENVIRONMENT, raising=False)
    closed = {"x": ("http://127.0.0.1:9/x.zip", 1, "0" * 64)}
    monkeypatch.setattr(omniglot.prepare, "__kwdefaults__", omniglot.prepare.__kwdefaults__ | {
        "downloads": closed})  # fmt: skip
    data = loading.load({"data_dir": tmp_path, **SMALL})
    assert data.note.startswith("glyphs") and "NOT OMNIGLOT" in data.note
    assert "http://127.0.0.1:9/x.zip" in data.note and "\n" not in data.note
    assert "official" not in data.runs.name
    with pytest.raises(preparation.SourceUnavailable, match="glyphs"):
        loading.load({"name": "omniglot", "data_dir": tmp_path})


def test_auto_with_bad_archives_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="images_background.zip: no such archive"):
        loading.load({"data_dir": tmp_path / "data", "archives": tmp_path})
    monkeypatch.setenv(omniglot.ENVIRONMENT, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        loading.load({"data_dir": tmp_path / "data"})


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    import socket

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        table = {"x": (f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip", 1, "0" * 64)}
        with pytest.raises(preparation.DownloadFailed, match="no answer|Timeout"):
            preparation.require_answers(table, 0.2)


def test_load_folder(tmp_path):
    for c in range(5):
        for i in range(3):
            path = tmp_path / "mine" / f"class{c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 10 * c + i, np.uint8)).save(path)
    data = loading.load({"name": "folder", "path": tmp_path / "mine", "image_size": (4, 4)})
    assert [part.num_classes for part in (data.train, data.validation, data.test)] == [3, 1, 1]
    assert data.train.kind == "photo" and data.train.image_shape == (4, 4, 1)
    assert data.runs is None and "mine" in data.note
    ink = loading.load({"name": "folder", "path": str(tmp_path / "mine"), "ink": True})
    assert ink.train.kind == "ink" and ink.train.image_shape == (8, 8, 1)
    (tmp_path / "mine" / "class4" / "1.png").unlink()
    (tmp_path / "mine" / "class4" / "2.png").unlink()
    with pytest.raises(ValueError, match="class4 has 1 image"):
        loading.load({"name": "folder", "path": tmp_path / "mine"})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"nam": "glyphs"}, "no field 'nam'; did you mean name"),
        ({"name": "omnoglot"}, "name must be one of.*omniglot.*'omnoglot'"),
        ({"split": "koh"}, "split must be one of lake, koch, vinyals, rows, got 'koh'"),
        ({"name": "folder"}, "needs a path"),
        ({"name": "glyphs", "split": "rows"}, "'rows' goes with folder, vectors .* not with 'gl"),
        ({"split": "rows"}, "'rows' goes with folder, vectors and tfds, not with 'auto'"),
        *(
            ({"name": name, "split": "koch"}, f"'koch' goes with Omniglot .* not with '{name}'")
            for name in ("folder", "mnist", "vectors", "tfds:cifar100")
        ),
        ({"name": "folder", "path": "/nowhere"}, "/nowhere: no such folder.*a zip, of <class>"),
    ],
)
def test_bad_fields(config, words):
    with pytest.raises(ValueError, match=words):
        loading.load(config)


def test_config_dict_loads_too():
    import ml_collections

    config = ml_collections.ConfigDict({"name": "glyphs", **SMALL, "archives": None})
    assert loading.load(config.lock()).train.num_alphabets == 3


@pytest.mark.parametrize("size", [20, (20,), (20, 20, 1), (20.5, 20)])
def test_an_image_size_is_two_whole_numbers(size):
    with pytest.raises(ValueError, match=r"image_size must be \(height, width\) in pixels, got"):
        loading.load({"name": "glyphs", "image_size": size})
