"""Verification of planted systems, and pairs and claims of a CSV file."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from siamese_jax.evaluation import metrics, pairs_csv, probabilities, scoring
from siamese_jax.evaluation import protocols as protocols_lib
from tests.planted import EMBEDDER, constant, make_set, nan, pairs_of, perfect, project

# ------------------------------------------------------------------------------------ verification


def test_verification_of_planted_systems(small):
    test, validation = pairs_of(small, 0), pairs_of(small, 1)
    best = protocols_lib.evaluate_pairs(perfect, test, validation=validation)
    assert best.accuracy == 1 and best.figures["threshold"] == -0.5
    assert best.figures["auc"] == 1 and best.figures["eer"] == 0 and best.figures["mean_same"] == 0
    assert best.figures["mean_different"] < -1 and best.figures["validation_accuracy"] == 1
    assert best.figures["auc_interval"] == pytest.approx((1, 1))
    for system in (constant, nan):
        chance = protocols_lib.evaluate_pairs(system, test, validation=validation)
        assert chance.accuracy == 0.5
        assert chance.figures["auc"] == chance.figures["eer"] == 0.5
        assert chance.figures["log_loss"] == pytest.approx(math.log(2))
        assert chance.figures["reliability_error"] == pytest.approx(0, abs=1e-12)
    assert chance.diagnostics["nonfinite_scores"] == 120
    json.dumps(chance.to_dict(), allow_nan=False)


def test_verification_threshold_comes_from_validation(small):
    test, validation = pairs_of(small, 0), pairs_of(small, 1)
    result = protocols_lib.evaluate_pairs(EMBEDDER, test, validation=validation)
    h = project(small.images)
    scores = {p.hash: (h[p.first] * h[p.second]).sum(1) for p in (test, validation)}
    np.testing.assert_allclose(result.scores, scores[test.hash])
    threshold = metrics.best_threshold(scores[validation.hash], validation.labels)
    assert result.figures["threshold"] == pytest.approx(threshold)
    said_same = scores[test.hash] >= threshold
    assert result.accuracy == pytest.approx((said_same == test.labels).mean())
    assert result.figures["far"] == pytest.approx(said_same[test.labels == 0].mean())
    assert result.figures["frr"] == pytest.approx(1 - said_same[test.labels == 1].mean())
    assert result.figures["validation_hash"] == validation.hash
    slope, offset = probabilities.fit_logistic(scores[validation.hash], validation.labels)
    assert result.figures["slope"] == pytest.approx(slope)
    logits = slope * scores[test.hash] + offset
    for name, figure in (
        ("reliability_error", probabilities.reliability_error(logits, test.labels)),
        ("log_loss", probabilities.log_loss(logits, test.labels)),
    ):
        assert result.figures[name] == pytest.approx(figure)
    assert result.diagnostics["asymmetry"] < 1e-9
    seen = {frozenset(p) for p in zip(test.first.tolist(), test.second.tolist(), strict=True)}
    assert result.diagnostics["distinct_pairs"] == len(seen) < 120
    plain = protocols_lib.evaluate_pairs(
        lambda q, s: project(q) @ project(s).T, test, threshold=result.figures["threshold"]
    )
    np.testing.assert_allclose(plain.scores, result.scores)
    for arguments in ({}, {"validation": validation, "threshold": 0.0}):
        with pytest.raises(ValueError, match="either validation pairs"):
            protocols_lib.evaluate_pairs(EMBEDDER, test, **arguments)
    with pytest.raises(ValueError, match="other pairs than those of the test"):
        protocols_lib.evaluate_pairs(EMBEDDER, test, validation=pairs_of(small, 0))


# --------------------------------------------------------------------------------- pairs of a file


@pytest.fixture
def signatures(tmp_path):
    """Two writers' pictures; the top left pixel is their number, ink on white paper."""
    for writer in "ab":
        (tmp_path / writer).mkdir()
        for i in range(4):
            pixels = np.full((8, 10), 255, np.uint8)
            pixels[:, :5] = 255 - (100 * "ab".index(writer) + i)
            Image.fromarray(pixels).save(tmp_path / writer / f"{i}.png")
    return tmp_path


def write(folder, text):
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


def test_pairs_of_a_file(signatures):
    path = write(
        signatures,
        "questioned,reference,label\n\na/0.png, a/1.png ,1\na/0.png,b/0.png,0\n"
        f"b/1.png,{signatures}/b/2.png,1\n",
    )
    pairs = pairs_csv.read_pairs(path, (4, 5, 1), "ink")
    np.testing.assert_array_equal(pairs.labels, [1, 0, 1])
    assert pairs.images.shape == (5, 4, 5, 1) and pairs.second.ndim == 1
    shown = pairs.images[:, 0, 0, 0].astype(int)  # ink, at the network's size
    np.testing.assert_array_equal(shown[pairs.first], [0, 0, 101])
    np.testing.assert_array_equal(shown[pairs.second], [1, 100, 102])
    assert pairs.images[0, 0, 4, 0] == 0  # paper
    assert pairs.group_names == ("a", "b") and pairs.grouped_by == "folder"
    photos = pairs_csv.read_pairs(path, (4, 5, 3), "photo")
    assert photos.images.shape == (5, 4, 5, 3) and (photos.images[0, 0, 4] == 255).all()
    assert photos.hash != pairs.hash == pairs_csv.read_pairs(path, (4, 5, 1), "ink").hash


@pytest.mark.slow
def test_claims_of_several_references(signatures, small):
    path = write(
        signatures,
        "a/0.png,a/1.png,1,x\na/0.png,a/2.png,1,x\na/0.png,a/3.png,1,x\n"
        "b/0.png,a/1.png,0,y\nb/0.png,a/3.png,0,y\nb/0.png,b/1.png,1,\n",
    )
    claims = pairs_csv.read_pairs(path, (4, 5, 1), "ink")
    assert claims.scope == "pairs.csv, up to 3 references a claim"
    np.testing.assert_array_equal(claims.num_references, [3, 2, 1])
    np.testing.assert_array_equal(claims.labels, [1, 0, 1])

    def embed(images):
        return images[:, 0, :1, 0].astype(float)

    system = scoring.from_embedder(embed, lambda hq, hs: -0.1 * np.square(hq - hs.T))
    raw = [[0.1, 0.4, 0.9], [0.1 * 99**2, 0.1 * 97**2], [0.1]]
    expected = {
        "mean": [-np.mean(x) for x in raw],
        "max": [-min(x) for x in raw],
        "sum": [np.logaddexp.reduce(-np.array(x)) for x in raw],
        "prototype": [-0.1 * 2**2, -0.1 * 98**2, -0.1],
    }
    validation = pairs_of(small, 1)
    for shot_aggregation, scores in expected.items():
        result = protocols_lib.evaluate_pairs(
            system, claims, validation=validation, shot_aggregation=shot_aggregation
        )
        np.testing.assert_allclose(result.scores, scores, rtol=1e-9)
        assert (
            result.figures["auc"] == 1
            and result.figures["eer"] == 0
            and result.shot_aggregation == shot_aggregation
        )
        chosen = protocols_lib.evaluate_pairs(system, validation, threshold=0.0).scores
        threshold = metrics.best_threshold(chosen, validation.labels)
        assert result.figures["threshold"] == pytest.approx(threshold)
    assert result.diagnostics["distinct_pairs"] == 6 and result.num_trials == 3
    with pytest.raises(ValueError, match="'finetune' fits a classifier to two classes or more"):
        protocols_lib.evaluate_pairs(system, claims, threshold=0.0, shot_aggregation="finetune")
    data = protocols_lib.EvaluationData(small, make_set((5, 6)), pairs=claims)
    found = protocols_lib.run_protocols(
        system, data, ["verification"], {"num_pairs": 60, "shot_aggregation": "max"}
    )
    assert list(found) == ["verification", "pairs"]
    np.testing.assert_allclose(found["pairs"].scores, expected["max"])
    with pytest.raises(ValueError, match="evaluated by the protocol 'verification'"):
        protocols_lib.run_protocols(system, data, ["between"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/0.png,a/1.png,1\na/0.png,a/9.png,0\n", "line 2: no such file .*a/9.png"),
        ("a/0.png,a/1.png,yes\n", r"line 1: the label must be 1 \(same\) or 0 .*, got 'yes'"),
        ("x,y,same\na/0.png,a/1.png,1\na/0.png,b/1.png,2\n", "line 3: the label .* got '2'"),
        ("a/0.png,a/1.png,1\na/0.png,a/2.png,1\n", "all labels are 1: both"),
        ("a/0.png,a/1.png\n", "line 1: expected two pictures, a label .*, got 2 fields"),
        ("a/0.png,a/0.png,1\n", "line 1: .*a/0.png is paired with itself"),
        ("a/0.png,a/1.png,1,x\na/2.png,a/1.png,1,x\n", "line 2: claim 'x' began on line 1"),
        ("a/0.png,a/1.png,1,x\na/0.png,a/2.png,0,x\n", "line 2: claim 'x' began on line 1"),
        ("a/0.png,a/1.png,1\na/0.png,text.png,0\n", "line 2: .*text.png is not a readable image"),
        ("first,second,label\n", "holds no pairs"),
        ("", "holds no pairs"),
    ],
)
def test_mistakes_in_a_file_of_pairs(signatures, text, message):
    (signatures / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=message):
        pairs_csv.read_pairs(write(signatures, text), (4, 5, 1), "ink")


def test_other_mistakes_with_pairs(signatures, small):
    with pytest.raises(ValueError, match=r"none.csv: no readable CSV file \(FileNotFoundError\)"):
        pairs_csv.read_pairs(signatures / "none.csv", (4, 5, 1), "ink")
    with pytest.raises(ValueError, match="cannot be shown to a network of vectors"):
        pairs_csv.read_pairs(signatures / "none.csv", (1, 5, 1), "vector")
    pairs = pairs_of(small, 0)
    with pytest.raises(ValueError, match="ends in -1"):
        dataclasses.replace(pairs, second=np.stack([np.full(120, -1), pairs.second], 1))
