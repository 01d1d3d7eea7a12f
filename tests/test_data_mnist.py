"""MNIST's idx files, small ones made here and the real ones."""

import gzip
import pathlib
import struct

import numpy as np
import pytest

from siamese_jax.data import loading, mnist, preparation

COUNTS = {"train": 12, "test": 5}
LABELS = {"train": [3, 1, 3, 0, 9, 1, 3, 2, 2, 0, 5, 3], "test": [7, 7, 0, 1, 0]}
CLOSED = {"x": ("http://127.0.0.1:9/x.gz", 1, "0" * 64)}


def pixels(split):
    rng = np.random.default_rng(len(split))
    return rng.integers(0, 256, (COUNTS[split], 28, 28), dtype=np.uint8)


def idx(magic, array):
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "idx"
    place.mkdir()
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = idx(2051, pixels(split))
        labels = idx(2049, np.array(LABELS[split], np.uint8))
        (place / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (place / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return place


@pytest.mark.parametrize("kept", [True, False])
def test_set_is_what_the_files_hold(tmp_path, folder, kept):
    """Read from the arrays that are kept beside the records, or from the records."""
    builder = mnist.prepare(tmp_path / "data", folder, counts=COUNTS)
    arrays = {path.name: path for path in pathlib.Path(builder.data_dir).glob("*.npz")}
    assert arrays.keys() == {"train.npz", "test.npz"}
    written = {name: path.read_bytes() for name, path in arrays.items()}
    if not kept:
        for path in arrays.values():
            path.unlink()
    images = mnist.load_mnist(builder, "train")
    assert images.kind == "ink" and images.image_shape == (28, 28, 1)
    assert images.class_names == ("0", "1", "2", "3", "5", "9")
    assert images.num_alphabets == 1
    order = [3, 9, 1, 5, 7, 8, 0, 2, 6, 11, 10, 4]
    np.testing.assert_array_equal(images.images[..., 0], pixels("train")[order])
    np.testing.assert_array_equal(images.drawers, [1, 2, 1, 2, 1, 2, 1, 2, 3, 4, 1, 1])
    test = mnist.load_mnist(builder, "test")
    assert test.class_names == ("0", "1", "7") and len(test) == 5
    part = mnist.load_mnist(builder, "train[:4]")
    np.testing.assert_array_equal(part.images[..., 0], pixels("train")[[3, 1, 0, 2]])
    assert len(mnist.load_mnist(builder, "train[4:]")) == len(images) - 4
    assert {name: path.read_bytes() for name, path in arrays.items()} == written


def test_used_again_and_replaced(tmp_path, folder):
    builder = mnist.prepare(tmp_path / "data", folder, counts=COUNTS)
    written = builder.info.metadata["fingerprint"]
    assert mnist.prepare(tmp_path / "data").info.metadata["fingerprint"] == written
    other = gzip.compress(idx(2049, np.array([7, 7, 0, 1, 1], np.uint8)))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(other)
    again = mnist.prepare(tmp_path / "data", folder, counts=COUNTS)
    assert again.info.metadata["fingerprint"] != written
    np.testing.assert_array_equal(mnist.load_mnist(again, "test").class_count, [1, 2, 2])


def images_of(count, magic=2051, side=28):
    return gzip.compress(idx(magic, np.zeros((count, side, side), np.uint8)))


FAULTS = {
    "missing": ("train-images-idx3-ubyte.gz", None, "no such file"),
    "not gzip": ("train-images-idx3-ubyte.gz", b"hello", "not a whole gzip"),
    "truncated": ("train-images-idx3-ubyte.gz", images_of(12)[:-20], "not a whole gzip"),
    "magic": ("train-images-idx3-ubyte.gz", images_of(12, magic=2052), "magic number .2052"),
    "nearly empty": ("t10k-labels-idx1-ubyte.gz", gzip.compress(b"abc"), "magic number"),
    "count": ("t10k-images-idx3-ubyte.gz", images_of(6), r"\(6, 28, 28\), expected \(5, 28, 28\)"),
    "side": ("t10k-images-idx3-ubyte.gz", images_of(5, side=27), r"\(5, 27, 27\)"),
    "bytes": (
        "t10k-labels-idx1-ubyte.gz",
        gzip.compress(struct.pack(">2I", 2049, 5) + b"\0\0\0"),
        "holds 3 bytes of values, expected 5",
    ),
    "label": (
        "t10k-labels-idx1-ubyte.gz",
        gzip.compress(idx(2049, np.array([1, 2, 3, 10, 0], np.uint8))),
        "label 10, expected 0-9",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_names_the_file(tmp_path, folder, fault):
    file, data, words = FAULTS[fault]
    (folder / file).unlink() if data is None else (folder / file).write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        mnist.prepare(tmp_path / "data", folder, counts=COUNTS)
    assert file in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "mnist_digits").exists()


def test_no_source(tmp_path):
    with pytest.raises(preparation.SourceUnavailable, match="t10k-images.*network.*glyphs"):
        mnist.prepare(tmp_path / "data", downloads=CLOSED)


@pytest.mark.slow
def test_real_mnist(real_data, tmp_path):
    data = loading.load(
        {
            "name": "mnist",
            "data_dir": tmp_path,
            "archives": real_data / "mnist",
            "image_size": (14, 14),
        }
    )
    assert [len(part) for part in (data.train, data.validation, data.test)] == [50000, 10000, 10000]
    assert data.test.class_names == tuple("0123456789")
    # class sizes of the test set, as its authors give them
    expected = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(data.test.class_count, expected)
    whole = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(data.train.class_count + data.validation.class_count, whole)
    assert data.train.image_shape == (14, 14, 1) and data.runs is None
