"""Networks as files: what is written is what is read, and the shipped ones answer as recorded."""

import json
import pathlib

import jax
import numpy as np
import pytest
from launching import launch
from PIL import Image
from recipes import ROOT, get_config

import siamese_jax
from siamese_jax.data import loading, omniglot
from siamese_jax.evaluation import protocols, trials
from siamese_jax.experiments import evaluate
from siamese_jax.inference import network as network_lib
from siamese_jax.inference.devices import Devices
from siamese_jax.runs import export, workdir
from siamese_jax.runs.checkpoints import Checkpoints
from siamese_jax.training import loop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, file) of a finished smoke run of the quickstart and of its best checkpoint."""
    config = get_config("quickstart", "vector,smoke")
    path = tmp_path_factory.mktemp("runs") / "run"
    loop.train_and_evaluate(config, path)
    file = path.parent / "network.npz"
    export.export(path, file)
    return path, file


def leaves(tree):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): x for k, x in found}


def test_a_file_holds_the_run_in_half_precision(run):
    path, file = run
    held = export.read(file)
    saved = Checkpoints(path, read_only=True)
    assert held.step == saved.best
    expected = leaves(saved.variables(saved.best))
    saved.close()
    found = leaves(held.variables)
    assert set(found) == set(expected)
    for name, x in found.items():
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, expected[name].astype(np.float16).astype(np.float32))
    assert held.metrics == workdir.read_metrics(path)
    assert held.config.model.to_dict() == workdir.read_config(path).model.to_dict()
    assert held.provenance[0]["image_shape"] == [20, 20, 1]
    assert str(path) not in json.dumps([held.config.to_dict(), held.provenance])
    assert sorted(x.name for x in path.parent.iterdir()) == ["network.npz", "run"]


def test_the_network_of_a_file_answers_as_the_run(run, tmp_path, glyphs):
    path, file = run
    whole, half = siamese_jax.load(path), siamese_jax.load(file)
    images = glyphs.images[:32]
    np.testing.assert_allclose(half.embed(images), whole.embed(images), atol=0.02)
    assert half.name == f"network @ {export.read(file).step}"
    export.unpack(file, tmp_path / "copy")
    export.unpack(file, tmp_path / "copy")  # again: nothing happens
    copy = siamese_jax.load(tmp_path / "copy")
    np.testing.assert_array_equal(copy.embed(images), half.embed(images))


def test_an_unpacked_run_is_evaluated_and_shown_but_not_trained(run, tmp_path):
    _, file = run
    copy = tmp_path / "copy"
    export.unpack(file, copy)
    settings = {"n_way": 5, "num_trials": 40}
    request = evaluate.EvaluationRequest(copy, ["within"], settings, baselines=False)
    found = evaluate.evaluate_run(request)
    (name,) = found
    assert name.startswith("copy @ ") and found[name]["within"].num_trials == 40
    assert "Training" in (copy / "report.html").read_text()
    config = workdir.read_config(copy)
    with pytest.raises(ValueError, match="without its checkpoints"):
        loop.train_and_evaluate(config, copy)


def test_what_is_no_such_file_is_refused(run, tmp_path):
    path, file = run
    (tmp_path / "text.npz").write_text("no weights")
    with pytest.raises(ValueError, match="holds no weights of a network"):
        export.read(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3), digest="of a gallery, say")
    with pytest.raises(ValueError, match=r"holds no weights of a network \(it has no 'config'\)"):
        export.read(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="no such file"):
        export.read(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="nor a network of the package, which has omniglot"):
        export.locate("omniglott")
    with pytest.raises(ValueError, match="no checkpoint 7; it has"):
        siamese_jax.load(file, 7)
    with pytest.raises(ValueError, match="holds another run"):
        export.unpack(file, path)
    with pytest.raises(ValueError, match="no checkpoint 7"):
        export.export(path, tmp_path / "x.npz", 7)
    assert not (tmp_path / "x.npz").exists()


def test_arrays_in_paths_of_others_are_refused():
    a = np.ones(2, np.float16)
    nested = export.nested({"params/a/kernel": a, "params/b": a, "batch_stats/a/mean": a})
    assert nested["params"].keys() == {"a", "b"} and nested["batch_stats"].keys() == {"a"}
    for other in ("params/b/c", "params/b/c/d", "params/a", "params"):
        with pytest.raises(ValueError, match=f"^{other} .* its path is part of another's"):
            export.nested({"params/a/kernel": a, "params/b": a, other: a})
    with pytest.raises(ValueError, match="^params/n holds int64"):
        export.nested({"params/n": np.ones(2, np.int64)})


def test_a_shipped_network_is_named_by_a_path_too():
    assert export.locate(pathlib.Path("omniglot")) == export.locate("omniglot")


def test_a_shipped_network_is_as_accurate_in_bfloat16():
    """On 500 trials of characters that it was not trained on; float32 is right in 95 to 99 %."""
    held = export.read(export.locate("omniglot"))
    few = {"name": "glyphs", "image_size": (56, 56), "glyphs_alphabets": 10, "glyphs_drawers": 4}
    lists = trials.within_trials(loading.load(few).test, n_way=20, num_trials=500)
    accuracy = {}
    for dtype in ("float32", "bfloat16"):
        with held.config.unlocked():
            held.config.model.dtype = dtype
        devices = Devices(1)
        network = network_lib.bind(
            held.config, devices.replicate(held.variables), (56, 56, 1), "ink", dtype, devices
        )
        accuracy[dtype] = protocols.evaluate_trials(network.system(), lists).accuracy
        assert network.fingerprint == "38f2e1e3a26cd40f"  # by which galleries know it
    assert 0.95 <= accuracy["float32"] <= 0.99
    assert abs(accuracy["bfloat16"] - accuracy["float32"]) <= 0.01


@pytest.mark.parametrize("name", export.pretrained())
def test_shipped_networks(name, prepared_omniglot):
    """Small enough to ship, and as good on the official runs as their record says."""
    assert export.locate(name).stat().st_size <= 10e6
    record = json.loads((ROOT / "results" / f"pretrained_{name}.json").read_text())
    (expected,) = (
        r
        for r in record["results"]
        if r["name"] == "official" and r["system"].startswith(f"{name} @")
    )
    official = trials.official_trials(omniglot.load_runs(prepared_omniglot))
    found = protocols.evaluate_trials(siamese_jax.load(name).system(), official)
    assert found.trial_hash == expected["trial_hash"]
    assert abs(found.accuracy - expected["accuracy"]) <= 0.005  # two of 400 trials


def test_the_launchers_take_a_network_by_name(tmp_path, glyphs):
    done = launch("evaluate.py", "--pretrained=nobody", f"--workdir={tmp_path / 'a'}")
    assert (
        done.returncode == 1 and "nor a network of the package, which has omniglot" in done.stderr
    )
    paths = []
    for i in (0, 1):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(255 - glyphs.images[i, ..., 0]).save(paths[-1])
    done = launch("recognize.py", "--pretrained=omniglot", "compare", *paths)
    assert done.returncode == 0, done.stderr
    assert "probability" in done.stdout or "score" in done.stdout
