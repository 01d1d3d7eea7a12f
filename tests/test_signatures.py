"""Made-up signatures: what a person's name and hand decide, the folder, and its list of pairs."""

import csv

import numpy as np
import pytest
import scipy.ndimage

from siamese_jax.data import folder, loading, signatures
from siamese_jax.evaluation import pairs_csv

SMALL = {"people": (3, 2), "genuine": 5, "forgers": 2, "forgeries": 2}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("signatures") / "set"
    return signatures.write(path, **SMALL)


def blurred(picture):
    """What a signature looks like from afar, as a vector of length 1."""
    ink = scipy.ndimage.gaussian_filter(255.0 - picture, 4)
    return ink / np.linalg.norm(ink)


def distance(a, b):
    return 1 - (blurred(a) * blurred(b)).sum()


def test_a_signature_follows_from_its_numbers():
    one = signatures.draw(0, 3, 1)
    assert one.shape == (80, 200) and one.dtype == np.uint8
    assert one[0].min() == 255 and 0.01 < (one < 128).mean() < 0.3
    np.testing.assert_array_equal(one, signatures.draw(0, 3, 1))
    others = [signatures.draw(*x) for x in ((1, 3, 1), (0, 4, 1), (0, 3, 2), (0, 3, 1, 9))]
    assert all((one != other).any() for other in others)


def test_one_hand_is_nearer_than_a_forgery_and_a_forgery_nearer_than_another_name():
    same, forged, other = [], [], []
    for person in range(16):
        first = signatures.draw(0, person, 0)
        same.append(distance(first, signatures.draw(0, person, 1)))
        forged.append(distance(first, signatures.draw(0, person, 0, 100 + person)))
        other.append(distance(first, signatures.draw(0, person + 16, 0)))
    assert np.median(same) < 0.6 * np.median(forged)
    assert np.median(forged) < 0.6 * np.median(other)
    # and yet not so far that anybody could tell: the kinds overlap
    assert max(same) > min(forged)


def test_a_forger_trembles():
    """On a straight line what is not straight is the tremor, and that is as large as it should be."""
    hand = signatures.hand_of(0, 1)._replace(spread=0.0)
    knots = np.stack([np.linspace(0, 1, 200), np.zeros(200)], 1)
    for tremor in (0.004, 0.016):
        line = signatures._line(knots, hand, tremor, np.random.default_rng(0))
        assert line[:, 1].std() == pytest.approx(tremor, rel=0.1)


def test_the_folder_is_a_data_set_of_people_and_writers(written):
    images = folder.load_folder(written.parent / "train", ink=True, min_images=2)
    assert images.alphabet_names == ("person001", "person002", "person003")
    assert images.class_names[:3] == (
        "person001/forger1",
        "person001/forger2",
        "person001/genuine",
    )
    assert images.class_count.tolist() == [2, 2, 5] * 3 and images.image_shape == (80, 200, 1)
    data = loading.load({"name": "folder", "path": str(written.parent / "train"), "ink": True})
    assert [part.num_alphabets for part in (data.train, data.validation, data.test)] == [1, 1, 1]


def test_every_claim_meets_the_first_genuine_signatures(written):
    with open(written, newline="") as file:
        rows = list(csv.DictReader(file))
    claims = {}
    for row in rows:
        claims.setdefault(row["claim"], []).append(row)
        assert row["reference"].split("/")[2] == "genuine"
        genuine = row["questioned"].split("/")[2] == "genuine"
        assert row["label"] == str(int(genuine))
        assert row["questioned"].split("/")[1] == row["reference"].split("/")[1]
    assert len(claims) == 2 * (2 + 2 * 2) and {len(lines) for lines in claims.values()} == {3}
    pairs = pairs_csv.read_pairs(written, (40, 100, 1), "ink")
    assert len(pairs.labels) == 12 and pairs.labels.sum() == 4
    assert (pairs.num_references == 3).all()


def test_nobody_of_the_test_is_in_training(written):
    train, test = (
        {p.read_bytes() for p in (written.parent / part).rglob("*.png")}
        for part in ("train", "test")
    )
    assert len(train) == 27 and len(test) == 18 and not train & test


@pytest.mark.parametrize(
    ("change", "words"),
    [({"people": (1, 2)}, "got people=.1, 2."), ({"genuine": 3}, "genuine=3"), ({}, "not empty")],
)
def test_mistakes_are_one_line(change, words, written, tmp_path):
    path = tmp_path / "new" if change else written.parent
    with pytest.raises(ValueError, match=words) as caught:
        signatures.write(path, **{**SMALL, **change})
    assert "\n" not in str(caught.value)
