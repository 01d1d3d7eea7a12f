"""A saved evaluation: what is read is what was written, and it goes with its own images only."""

import dataclasses
import json
import types

import numpy as np
import pytest

from siamese_jax.evaluation import baselines, lists, protocols, saved, scoring

SETTINGS = {"n_way": 5, "k_shot": 2, "num_trials": 40, "num_pairs": 60, "curve_trials": 20}


def project(images):
    weights = np.random.default_rng(0).normal(size=(images[0].size, 3))
    return images.reshape(len(images), -1) @ weights


@pytest.fixture(scope="module")
def data(glyphs):
    """Two alphabets a part, fixed runs, and claims of one or two references."""
    names = glyphs.alphabet_names
    test, validation, train = (glyphs.select(alphabets=names[i : i + 2]) for i in (0, 2, 4))
    grid = test.grid()  # (classes, drawers, H, W, C)
    official = types.SimpleNamespace(
        queries=grid[None, :8, 0], supports=grid[None, :8, 1], answers=np.arange(8)[None]
    )
    claims = lists.VerificationPairs(
        name="pairs",
        scope="claims",
        images=validation.images[:6],
        fingerprint="claims",
        first=np.array([0, 3]),
        second=np.array([[1, 2], [4, -1]]),
        labels=np.array([1, 0]),
        groups=np.array([0, 1]),
        group_names=("a", "b"),
        grouped_by="folder",
    )
    return protocols.EvaluationData(test, validation, train, official, claims)


@pytest.fixture(scope="module")
def results(data):
    """Of all protocols, with NaN, infinities and empty figures among them."""
    embedder = scoring.from_embedder(project, lambda h1, h2: h1 @ h2.T)
    systems = {"projected": embedder, "pixel 1-NN": baselines.pixel_nearest_neighbour}
    systems["nan"] = lambda queries, supports: np.full((len(queries), len(supports)), np.nan)
    return {
        name: protocols.run_protocols(
            system, data, protocols.PROTOCOLS, {**SETTINGS, "n_way": 3}, system_name=name
        )
        for name, system in systems.items()
    }


def write(folder, results):
    with open(folder / saved.FILE, "wb") as file:
        saved.write(file, results)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (a != a and b != b)


def test_what_is_read_is_what_was_written(results, data, tmp_path):
    write(tmp_path, {})
    assert saved.read(tmp_path, data) == {}
    write(tmp_path, results)
    again = saved.read(tmp_path, data)
    assert_same(again, results)
    kinds = {type(r.trials).__name__ for r in again["nan"].values()}
    assert kinds == {"Trials", "VerificationPairs", "Retrieval", "OpenSet"}
    one, other = again["projected"]["within"], again["pixel 1-NN"]["within"]
    assert one.trials is other.trials and one.trials.hash == one.trial_hash
    assert one.trials.images is data.test.images
    assert protocols.compare_results(one, other)[0] == one.accuracy - other.accuracy


@pytest.mark.parametrize("name", ["tuple", "number", "mapping", "alphabet"])
def test_a_group_may_have_any_name(name):
    figures = {"per_group": {name: {"accuracy": np.nan, name: (1.0, {name: 2})}}}
    assert_same(saved._untagged(json.loads(json.dumps(saved._tagged(figures)))), figures)
    earlier = {"mapping": {"accuracy": 1.0}}  # was not marked
    assert saved._untagged(earlier) == earlier


def test_other_images_are_refused(results, data, tmp_path):
    write(tmp_path, results)
    with pytest.raises(ValueError, match="'retrieval' was evaluated on other images|'within' was"):
        saved.read(tmp_path, dataclasses.replace(data, test=data.train))
    with pytest.raises(ValueError, match="'official' was evaluated on other images"):
        saved.read(tmp_path, dataclasses.replace(data, official=None))
    with pytest.raises(ValueError, match="'pairs' was evaluated on other images"):
        saved.read(tmp_path, dataclasses.replace(data, pairs=None))


def test_what_is_no_saved_evaluation(data, tmp_path):
    with pytest.raises(ValueError, match="holds no evaluation.npz: evaluate the run first"):
        saved.read(tmp_path, data)
    (tmp_path / saved.FILE).write_text("no evaluation")
    with pytest.raises(ValueError, match="holds no saved evaluation"):
        saved.read(tmp_path, data)
    np.savez(tmp_path / saved.FILE, scores=np.zeros(3))
    with pytest.raises(ValueError, match="holds no saved evaluation"):
        saved.read(tmp_path, data)
