"""Tables of vectors as image sets, and all that a network of vectors needs of the rooms below it."""

import csv
import dataclasses
import json
import re

import ml_collections
import numpy as np
import pytest
from networks import net_and_variables
from sklearn import datasets as sklearn_datasets
from sklearn import neighbors, preprocessing

from siamese_jax.data import loading, splits
from siamese_jax.data.image_set import ImageSet
from siamese_jax.data.vectors import Standardisation, load_vectors
from siamese_jax.evaluation import baselines, protocols, scoring, trials
from siamese_jax.inference import network
from siamese_jax.inference.devices import Devices
from siamese_jax.training import loop


def write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.fixture(scope="module")
def iris():
    """scikit-learn's table: (150, 4) features in centimetres, (150,) 0-2, three names."""
    table = sklearn_datasets.load_iris()
    return table.data, table.target, table.target_names


@pytest.fixture(scope="module")
def iris_csv(iris, tmp_path_factory):
    features, targets, names = iris
    path = tmp_path_factory.mktemp("iris") / "iris.csv"
    order = np.random.default_rng(5).permutation(150)  # not sorted by class, as files are not
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sepal length", "sepal width", "species", "petal length", "petal width"])
        for i in order:
            row = [repr(float(x)) for x in features[i]]
            writer.writerow([*row[:2], names[targets[i]], *row[2:]])
    return path


@pytest.fixture(scope="module")
def iris_data(iris_csv):
    return loading.load(
        {"name": "vectors", "path": iris_csv, "class_column": "species", "split": "rows"}
    )


def rows_of(image_set):
    """The features of a set as a sorted list of rows, whatever their order."""
    return sorted(map(tuple, image_set.images[:, 0, :, 0].tolist()))


def test_iris_holds_the_table(iris, iris_csv):
    features, targets, names = iris
    whole = load_vectors(iris_csv, class_column="species")
    assert whole.kind == "vector" and whole.image_shape == (1, 4, 1) and whole.name == "iris"
    assert whole.class_names == tuple(names) and whole.alphabet_names == ("iris",)
    np.testing.assert_array_equal(whole.class_count, [50, 50, 50])
    for c in range(3):
        np.testing.assert_array_equal(
            rows_of(whole.select(classes=[c])), sorted(map(tuple, features[targets == c].tolist()))
        )
    np.testing.assert_array_equal(whole.drawers, np.tile(np.arange(1, 51), 3))


def test_classes_sort_and_rows_keep_their_order(tmp_path):
    path = write(tmp_path / "t.csv", "x,class\n1,s10\n2,s2\n3,s10\n4,s2\n5,s1\n")
    whole = load_vectors(path)
    assert whole.class_names == ("s1", "s2", "s10")
    np.testing.assert_array_equal(whole.images.ravel(), [5, 2, 4, 1, 3])
    np.testing.assert_array_equal(whole.classes, [0, 1, 1, 2, 2])
    np.testing.assert_array_equal(whole.drawers, [1, 1, 2, 1, 2])


def test_csv_dialects_give_the_same_set(tmp_path):
    plain = load_vectors(write(tmp_path / "t.csv", "a,b,class\n1,-2.5e1,p\n3,4,q\n"))
    same = (
        "\ufeffa,b,class\r\n1,-25,p\r\n\r\n3,4,q\r\n",  # byte-order mark, CR LF, an empty line
        'class, "b" , a\n"p", -25, 1\nq,4.0,3',
        "1,-25,p\n3,4,q\n",  # no header
    )
    for text in same:
        other = load_vectors(write(tmp_path / "t.csv", text))
        rows = [sorted(row) for row in other.images[:, 0, :, 0].tolist()]
        assert rows == [sorted(row) for row in plain.images[:, 0, :, 0].tolist()]
        assert other.class_names == plain.class_names
    assert other.fingerprint == plain.fingerprint
    moved = load_vectors(write(tmp_path / "t.csv", "a,b,class\n1,-25.1,p\n3,4,q\n"))
    assert moved.fingerprint != plain.fingerprint


def test_names_that_are_numbers_are_a_header_where_the_class_is_named(tmp_path):
    path = write(tmp_path / "t.csv", "0,1,class\n5,6,p\n7,8,p\n")  # as pandas names columns
    assert load_vectors(path).images[:, 0, :, 0].tolist() == [[5, 6], [7, 8]]
    write(path, "0,1,kind\n5,6,p\n7,8,p\n")
    assert len(load_vectors(path, class_column="kind")) == 2


def test_npz(iris, iris_csv, tmp_path):
    features, targets, names = iris
    np.savez(tmp_path / "a.npz", features=features, classes=names[targets])
    whole = load_vectors(tmp_path / "a.npz")
    assert rows_of(whole) == rows_of(load_vectors(iris_csv, class_column="species"))
    assert whole.class_names == tuple(names)
    np.savez(tmp_path / "b.npz", features=features.astype(np.float32), classes=targets)
    assert load_vectors(tmp_path / "b.npz").class_names == ("0", "1", "2")


def test_npz_of_alphabets(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        features=np.arange(8).reshape(8, 1),
        classes=[1, 1, 2, 2, 1, 1, 1, 2],
        alphabets=["b", "b", "b", "b", "a", "a", "b", "a"],
    )
    whole = load_vectors(tmp_path / "a.npz")
    assert whole.alphabet_names == ("a", "b")
    assert whole.class_names == ("a/1", "a/2", "b/1", "b/2")
    np.testing.assert_array_equal(whole.class_alphabets, [0, 0, 1, 1])
    np.testing.assert_array_equal(whole.images.ravel(), [4, 5, 7, 0, 1, 6, 2, 3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y,class\n1,2,p\n3,,p\n", "line 3, column 'y': the value is missing"),
        ("x,y,class\n1,2,p\n3,abc,p\n", "line 3, column 'y': 'abc' is not a finite number"),
        ("x,y,class\n1,2,p\n3,1_000,p\n", "line 3, column 'y': '1_000' is not a finite number"),
        ("x,y,class\n1,2,p\nnan,1,p\n", "line 3, column 'x': 'nan' is not a finite number"),
        ("x,y,class\n1,2,p\n\n1,1e999,p\n", "line 4, column 'y': '1e999' is not a finite number"),
        ("x,class,y\n1,p,2\n3,q,4\n5,p,6\n", "line 3: the class 'q' has 1 row, at least 2"),
        ("x,y,clas\n1,2,p\n1,2,p\n", "line 1: no class column 'class'.*mean clas[?].*class_column"),
        ("x,y,class\n1,2\n", "line 2: 2 values for 3 columns"),
        ("x,y,class\n1,2, \n", "line 2: the class is missing"),
        (",y,class\n0,2,p\n", "line 1: column 1 has no name; if it numbers the rows, remove it"),
        ("y,y,class\n0,2,p\n", "line 1: two columns are called 'y'"),
        ("x;y;class\n0;2;p\n", "line 1: one column, 'x;y;class'.*commas"),
        ("x,y,class\n", "holds no rows"),
        ("", "holds no rows"),
        ('x,class\n1,"p\n', "not a CSV file"),
    ],
)
def test_faults_of_a_csv_are_named(tmp_path, text, words):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=words) as caught:
        load_vectors(path, min_images=2)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_class_column_that_is_not_there(tmp_path):
    path = write(tmp_path / "t.csv", "1,2,p\n3,4,p\n")
    with pytest.raises(ValueError, match="line 1: no class column 'species'"):
        load_vectors(path, class_column="species")
    (tmp_path / "t.csv").write_bytes(b"x,class\n1,\xff\xfe\n")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        load_vectors(path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": [[1.0]], "labels": [0]}, "no array 'classes', only features, labels"),
        ({"features": [1.0, 2.0], "classes": [0, 1]}, r"must be \(M, D\) numbers, got \(2,\)"),
        ({"features": [["a"]], "classes": [0]}, r"must be \(M, D\) numbers"),
        ({"features": [[1.0], [2.0]], "classes": [0]}, r"classes must be \(2,\) names"),
        ({"features": [[1.0]], "classes": [0.5]}, r"classes must be \(1,\) names or whole"),
        (
            {"features": [[1.0, 2.0], [3.0, np.inf]], "classes": [0, 0]},
            "row 2, column 2: inf is not a finite number",
        ),
        (
            {"features": [[1.0], [2.0], [3.0]], "classes": ["a", "b", "a"]},
            "row 2: the class 'b' has 1 row, at least 2",
        ),
        (
            {"features": [[1.0]], "classes": np.array([None], object)},
            "not an NPZ of features and classes",
        ),
    ],
)
def test_faults_of_an_npz_are_named(tmp_path, arrays, words):
    path = tmp_path / "t.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=words) as caught:
        load_vectors(path, min_images=2)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_faults_of_a_path_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.csv: no such file of vectors"):
        load_vectors(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"come as .csv or .npz, not '.txt'"):
        load_vectors(write(tmp_path / "t.txt", "x"))
    with pytest.raises(ValueError, match="not an NPZ"):
        load_vectors(write(tmp_path / "t.npz", "PK half a zip"))
    np.savez(tmp_path / "t.npz", features=[[1.0]], classes=[0])
    with pytest.raises(ValueError, match="class_column = 'kind' goes with a CSV"):
        load_vectors(tmp_path / "t.npz", class_column="kind")


def test_standardised_by_the_training_part_only(iris_csv, iris_data):
    parts = (iris_data.train, iris_data.validation, iris_data.test)
    assert all(part.images.dtype == np.float32 for part in parts)
    assert all(part.image_shape == (1, 4, 1) and part.kind == "vector" for part in parts)
    loop = iris_data.train.images[:, 0, :, 0].astype(np.float64)
    np.testing.assert_allclose(loop.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(loop.std(0), 1, atol=1e-6)
    others = np.concatenate([part.images[:, 0, :, 0] for part in parts[1:]])
    assert np.abs(others.mean(0)).max() > 1e-3  # not by their own

    raw = splits.by_rows(load_vectors(iris_csv, class_column="species"), 0)
    reference = preprocessing.StandardScaler().fit(raw[0].images[:, 0, :, 0])
    for part, unscaled in zip(parts, raw, strict=True):
        unscaled = unscaled.images[:, 0, :, 0]
        expected = reference.transform(unscaled)
        np.testing.assert_allclose(part.images[:, 0, :, 0], expected, rtol=1e-6, atol=1e-6)
        # New vectors take the same way.
        np.testing.assert_array_equal(iris_data.standardisation(unscaled), part.images[:, 0, :, 0])
    with pytest.raises(ValueError, match=r"must be \(B, 4\), got \(2, 3\)"):
        iris_data.standardisation(np.zeros((2, 3)))


def as_set(features, classes):
    count = np.bincount(classes)
    return ImageSet(
        images=np.asarray(features)[:, None, :, None],
        classes=np.asarray(classes, np.int32),
        drawers=np.concatenate([np.arange(1, n + 1) for n in count]).astype(np.int32),
        class_names=tuple(map(str, range(len(count)))),
        class_alphabets=np.zeros(len(count), np.int32),
        alphabet_names=("a",),
        kind="vector",
        name="made",
    )


def test_constant_and_far_features():
    # Three times 0.1 has a mean other than 0.1; 1e9 + k is lost in float32.
    features = np.stack([np.full(6, 0.1), 1e9 + np.arange(6.0), np.arange(6.0)], 1)
    scaling = Standardisation.of(as_set(features[:3], [0, 0, 1]))
    scaled = scaling(features)
    np.testing.assert_array_equal(scaled[:, 0], 0)
    expected = (np.arange(6) - 1) / np.sqrt(2 / 3)
    np.testing.assert_allclose(scaled[:, 1], expected, rtol=1e-6)
    np.testing.assert_allclose(scaled[:, 2], expected, rtol=1e-6)
    np.testing.assert_array_equal(scaling(features + [[7.0, 0, 0]])[:, 0], 0)
    with pytest.raises(ValueError, match="feature 2 of 'made' is too large"):
        Standardisation.of(as_set([[0.0, 1e200], [1.0, -1e200]], [0, 0]))


def test_the_set_checks_its_vectors():
    with pytest.raises(ValueError, match=r"\(M, 1, D, 1\) float32 or float64.*uint8"):
        as_set(np.zeros((2, 3), np.uint8), [0, 0])
    good = as_set(np.zeros((2, 3), np.float32), [0, 0])
    for bad in (np.zeros((2, 3), np.float32), np.zeros((2, 2, 3, 1), np.float32)):
        with pytest.raises(ValueError, match="vectors must be"):
            dataclasses.replace(good, images=bad)
    with pytest.raises(ValueError, match="uint8"):
        dataclasses.replace(good, kind="photo")
    assert good.resized(1, 3) is good
    with pytest.raises(ValueError, match="cannot be resized to 28 x 28.*image_size to None"):
        good.resized(28, 28)


def test_split_by_rows_of_iris(iris_csv, iris_data):
    parts = (iris_data.train, iris_data.validation, iris_data.test)
    assert [part.class_count.tolist() for part in parts] == [[30] * 3, [10] * 3, [10] * 3]
    assert all(part.class_names == iris_data.train.class_names for part in parts)
    raw = load_vectors(iris_csv, class_column="species")
    whole = sorted(map(tuple, iris_data.standardisation(raw.images[:, 0, :, 0]).tolist()))
    assert sorted(row for part in parts for row in rows_of(part)) == whole
    assert "split by rows" in iris_data.note and "150 vectors of 4 features" in iris_data.note
    assert iris_data.runs is None and iris_data.resized(None) is iris_data
    again = {"name": "vectors", "path": iris_csv, "class_column": "species", "split": "rows"}
    assert loading.load(again).fingerprint == iris_data.fingerprint
    assert loading.load({**again, "seed": 1}).fingerprint != iris_data.fingerprint
    counted = loading.load({**again, "fractions": (40, 4, 6)})
    assert [part.class_count[0] for part in (counted.train, counted.validation)] == [40, 4]


def test_split_by_classes(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", features=rng.normal(size=(40, 3)), classes=np.repeat(range(10), 4))
    data = loading.load({"name": "vectors", "path": tmp_path / "t.npz"})
    parts = (data.train, data.validation, data.test)
    assert [part.num_classes for part in parts] == [6, 2, 2]
    assert len({name for part in parts for name in part.class_names}) == 10


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_size": (28, 28)}, r"cannot be resized to 28 x 28: set data.image_size to None"),
        ({"path": None}, "'vectors' needs a path"),
        ({"stream": True}, "stream goes with Omniglot and folders; 'vectors'"),
        ({"class_column": None}, "no class column 'class'"),
    ],
)
def test_bad_fields(iris_csv, config, words):
    fields = {"name": "vectors", "path": iris_csv, "class_column": "species", "split": "rows"}
    with pytest.raises(ValueError, match=words):
        loading.load({**fields, **config})


def test_trials_and_pairs_of_vectors(iris_data):
    for part in (iris_data.validation, iris_data.test):
        drawn = trials.within_trials(part, n_way=3, num_trials=60, skip_small=True)
        assert (drawn.n_way, drawn.num_trials) == (3, 60)
        supports = part.classes[drawn.supports[..., 0]]
        assert all(len(set(run)) == 3 for run in supports.tolist())
        right = np.take_along_axis(supports, drawn.answers, 1)
        np.testing.assert_array_equal(right, part.classes[drawn.queries])
    trials.between_trials(iris_data.test, n_way=3, k_shot=9, num_trials=30)
    pairs = trials.verification_pairs(iris_data.test, num_pairs=100)
    same = iris_data.test.classes[pairs.first] == iris_data.test.classes[pairs.second]
    np.testing.assert_array_equal(same, pairs.labels == 1)


def test_nearest_neighbour_of_vectors_against_scikit_learn(iris_data):
    queries, supports = iris_data.test.images, iris_data.train.images
    scores = baselines.pixel_nearest_neighbour(queries, supports)
    q, s = (x[:, 0, :, 0].astype(np.float64) for x in (queries, supports))
    np.testing.assert_allclose(scores, -((q[:, None] - s) ** 2).sum(-1), rtol=1e-12)
    index = neighbors.NearestNeighbors(n_neighbors=1, algorithm="brute").fit(s)
    distance, _ = index.kneighbors(q)
    np.testing.assert_allclose(scores.max(1), -(distance[:, 0] ** 2), rtol=1e-9, atol=1e-12)


def test_protocols_judge_vectors(iris_data):
    drawn = trials.within_trials(iris_data.test, n_way=3, num_trials=300)
    result = protocols.evaluate_trials(baselines.pixel_nearest_neighbour, drawn)
    assert 0.6 < result.accuracy <= 1  # Iris is easy; 1/3 by chance
    embedder = scoring.from_embedder(lambda x: x.reshape(len(x), -1), lambda a, b: a @ b.T)
    assert protocols.evaluate_trials(embedder, drawn).num_trials == 300


@pytest.fixture(scope="module")
def net(iris_data):
    fields = {"encoder": "dense", "encoder_args": {"hidden": (5,), "units": 3}}
    fields |= {"comparator": "l1", "head_args": {}, "dtype": "float32"}
    devices, shape = Devices(1), iris_data.train.image_shape
    _, variables = net_and_variables(fields, shape)
    config = ml_collections.ConfigDict({"model": fields})
    return network.bind(config, devices.replicate(variables), shape, "vector", "net", devices)


def test_a_network_embeds_vectors(net, iris_data):
    images = iris_data.test.images
    embedded = net.embed(images[:, 0, :, 0])
    p = {name: {k: np.float64(v) for k, v in w.items()} for name, w in
         net.variables["params"]["encoder"].items()}  # fmt: skip
    x = images[:, 0, :, 0].astype(np.float64)
    hidden = np.maximum(x @ p["dense1"]["kernel"] + p["dense1"]["bias"], 0)
    expected = hidden @ p["embedding"]["kernel"] + p["embedding"]["bias"]
    np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(net.embed(images), embedded)
    assert net.score(images[:2, 0, :, 0], images[:3]).shape == (2, 3)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4)), np.zeros((2, 5), np.float32), np.zeros((1, 4, 1, 1), np.uint8)]
)
def test_a_network_of_vectors_refuses_others(net, bad):
    shape = re.escape(f"must be (B, 4) float32, got {bad.shape} {bad.dtype}")
    with pytest.raises(ValueError, match=shape):
        net.embed(bad)


@pytest.mark.slow
def test_training_on_iris_leaves_log_2(iris_csv, tmp_path):
    config = ml_collections.ConfigDict(
        {
            "seed": 0,
            "num_steps": 100,
            "num_devices": 1,
            "log_every": 25,
            "keep_best": 1,
            "data": {
                **{"name": "vectors", "path": str(iris_csv), "class_column": "species"},
                "split": "rows",
            },
            "model": {
                **{"encoder": "dense", "encoder_args": {"hidden": (32,), "units": 16}},
                **{"comparator": "l1", "head_args": {}, "dtype": "float32"},
            },
            "objective": {
                **{"name": "verification", "batch": 64, "negatives": "any", "symmetries": "none"},
            },
            "augment": {"distort": False},
            "optim": {
                "name": "adamw",
                "learning_rate": 3e-3,
                "warmup_steps": 10,
                "weight_decay": 0.0,
            },
            "eval": {"every": 100, "num_trials": 300, "n_way": 3, "seed": 0, "patience": 0},
        }
    )
    result = loop.train_and_evaluate(config.lock(), str(tmp_path / "run"))
    assert result["best_value"] > 0.85  # three ways: 1/3 by chance
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    losses = [row["loss"] for row in rows if row["phase"] == "train"]
    assert losses[-1] < 0.45 < np.log(2)
    net = network.load(tmp_path / "run")
    data = loading.load(config.data)
    raw = load_vectors(iris_csv, class_column="species").images[:5, 0, :, 0]
    assert net.kind == "vector" and net.embed(data.standardisation(raw)).shape == (5, 16)
