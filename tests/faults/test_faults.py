"""A sample of the harness, and properties of the readers and of the fields of a config."""

import json
import logging
import os
import random
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_jax import readers
from siamese_jax.config import FIELDS, check_fields
from siamese_jax.data import folder, vectors
from siamese_jax.evaluation import pairs_csv
from siamese_jax.runs import digests
from tests.faults import cases, commands
from tests.faults.bench import Bench

FAST = [kind for kind in cases.KINDS if kind not in cases.IN_PROCESSES]
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    st.lists(st.integers() | st.floats(), max_size=4),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return Bench.make(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAST)
def test_a_sample_of_every_kind(bench, kind):
    case, _ = cases.KINDS[kind]
    assert case(bench, random.Random(f"sample {kind}")) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["a picture of 13,000 x 13,000 pixels of 16 bits", "a character number of 999999999"]
)
def test_what_declares_much_takes_little_memory(tmp_path, what):
    assert commands.hungry(tmp_path / "place", what, tmp_path / "cache") is None


@given(st.sampled_from(sorted(FIELDS)), VALUES)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_field_is_in_its_range_or_refused_by_name(name, value):
    *sections, last = name.split(".")
    config = {last: value}
    for section in reversed(sections):
        config = {section: config}
    if FIELDS[name].accepts(value):
        check_fields(config)
    else:
        with pytest.raises(ValueError, match=f"^{name} must be .*, got "):
            check_fields(config)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_bytes_are_read_or_refused(data):
    for read in (lambda x: readers.parse_json(x, "here", dict), readers.read_npz):
        try:
            read(data)
        except ValueError as error:
            assert "\n" not in str(error)


@given(st.dictionaries(st.text("ab/", min_size=1, max_size=3), st.integers(0, 9), max_size=4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_digest_tells_arrays_apart(sizes):
    arrays = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    digest = digests.of_arrays(arrays)
    assert digest == digests.of_arrays(dict(reversed(arrays.items())))
    for name, x in arrays.items():
        assert digest != digests.of_arrays({**arrays, name: x.astype(np.float64)})
        assert digest != digests.of_arrays({**arrays, name: x[None]})


def test_an_npz_that_declares_more_than_it_has_is_refused_unread(tmp_path):
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    path = tmp_path / "large.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, header)
    with pytest.raises(ValueError, match="is declared as .*, and has 0"):
        readers.read_npz(path)


def test_pictures_and_names_have_limits(tmp_path):
    from PIL import Image

    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.new("1", (9000, 9000)).save(tmp_path / "set" / "a" / "1.png")
    with pytest.raises(ValueError, match="9000 x 9000 pixels, at most"):
        folder.load_folder(tmp_path / "set")
    (tmp_path / "set" / "a" / "1.png").rename(tmp_path / "set" / "a" / "1\n.png")
    with pytest.raises(ValueError, match="characters that cannot be shown"):
        folder.load_folder(tmp_path / "set")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "set" / "a")
    with pytest.raises(ValueError, match="'link' is a link that leaves the folder"):
        folder.load_folder(tmp_path / "other")


def test_json_must_be_finite_and_of_its_kind(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": NaN}')
    with pytest.raises(ValueError, match="NaN is not a JSON number"):
        readers.read_json(path, dict)
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds a list, expected a dict"):
        readers.read_json(path, dict)


def test_a_pipe_is_no_list_of_pairs_and_a_table_has_not_any_number_of_columns(tmp_path):
    os.mkfifo(tmp_path / "pairs.csv")
    with pytest.raises(ValueError, match="is no regular file"):
        pairs_csv.read_pairs(tmp_path / "pairs.csv", (9, 9, 1), "photo")
    wide = tmp_path / "wide.csv"
    wide.write_text(",".join(f"c{i}" for i in range(100_000)) + ",class\n")
    with pytest.raises(ValueError, match="100001 columns, at most 16384"):
        vectors.load_vectors(wide)
