"""Evaluating a run: on other data than it was trained on, by pairs of a file, by its config."""

import json

import ml_collections
import numpy as np
import pytest
from PIL import Image
from recipes import get_config

from siamese_jax.data import loading
from siamese_jax.evaluation import protocols as protocols_lib
from siamese_jax.evaluation import saved, trials
from siamese_jax.experiments import evaluate
from siamese_jax.inference import network
from siamese_jax.runs import workdir
from siamese_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("glyphs_drawn_once")]
SMALL = {"n_way": 5, "num_trials": 40, "num_pairs": 80, "k_shot": 2}
OTHER = {"name": "glyphs", "seed": 7, "glyphs_alphabets": 6, "glyphs_drawers": 5}
OTHER["glyphs_characters"] = (6, 9)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained on glyphs, to be evaluated on other glyphs, of prototypes."""
    path = tmp_path_factory.mktemp("runs") / "run"
    config = get_config("quickstart", "vector,smoke")
    with config.unlocked():
        config.num_steps = 10
        config.test_data = ml_collections.ConfigDict(OTHER)
        config.eval.shot_aggregation = "prototype"
    loop.train_and_evaluate(config, str(path))
    return path


def evaluated(run, protocols, settings=None, report=False, **options):
    settings = {**SMALL, **(settings or {})}
    request = evaluate.EvaluationRequest(run, protocols, settings, report=report, **options)
    return evaluate.evaluate_run(request)


def with_config(run, tmp_path, change):
    """A copy of the run whose config is changed."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in run.iterdir():
        if part.name != "config.json":
            (copy / part.name).symlink_to(part)
    config = json.loads((run / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_a_run_is_evaluated_on_its_test_data(run, capsys):
    """The evaluation that it leaves is read with the data that the request names."""
    own, test = loading.load(workdir.read_config(run).data), loading.load(OTHER)
    assert test.test.image_shape != own.test.image_shape  # its own size
    protocols = ["within", "official", "verification", "open_set"]
    request = evaluate.EvaluationRequest(run, protocols, SMALL, report=False)
    found = evaluate.evaluate_run(request)
    assert set(found) == {"run @ 10", "pixel 1-NN", "random", "modified Hausdorff"}
    results = found["run @ 10"]
    drawn = trials.within_trials(test.test, n_way=5, k_shot=2, num_trials=40)
    assert results["within"].trial_hash == drawn.hash
    assert found["pixel 1-NN"]["within"].trial_hash == drawn.hash
    assert results["official"].trial_hash == trials.official_trials(test.runs).hash
    pairs = trials.verification_pairs(test.validation, num_pairs=80)
    assert results["verification"].figures["validation_hash"] == pairs.hash
    direct = protocols_lib.evaluate_trials(
        network.load(run).system(), drawn, shot_aggregation="prototype"
    )
    np.testing.assert_allclose(results["within"].scores, direct.scores, rtol=1e-5)
    assert results["within"].shot_aggregation == "prototype"  # as the config says
    assert found["pixel 1-NN"]["within"].shot_aggregation == "mean"  # it has no embeddings
    assert "shots by prototype" in capsys.readouterr().out
    kept = json.loads((run / "results.json").read_text())
    assert kept["settings"]["shot_aggregation"] == "prototype"
    assert {row["shot_aggregation"] for row in kept["results"]} == {None, "mean", "prototype"}
    (net,) = evaluate.load_networks(request)
    data = evaluate.load_data(request, evaluate.evaluated_config(request), net)
    again = saved.read(run, evaluate.evaluation_data(request, data, net))
    assert list(again) == list(found) and list(again[net.name]) == protocols
    for name, by_key in again.items():
        for key, result in by_key.items():
            assert result.to_dict() == found[name][key].to_dict()
            np.testing.assert_array_equal(result.scores, found[name][key].scores)
    asked = evaluated(run, ["within"], {"shot_aggregation": "max"}, baselines=False)
    assert asked["run @ 10"]["within"].shot_aggregation == "max"


def test_the_report_of_such_a_run(run):
    evaluated(run, ["within", "retrieval", "open_set"], report=True, baselines=False)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "trained on glyphs" in page and "; evaluated on glyphs" in page


def test_what_was_trained_on_must_be_there_as_it_was(run, tmp_path):
    def change(config):
        config["data"]["seed"] = 5

    with pytest.raises(ValueError, match="was trained on other data"):
        evaluated(with_config(run, tmp_path, change), ["within"])


def test_colour_does_not_fit_a_grey_network(run, tmp_path):
    for person in range(4):
        (tmp_path / "faces" / str(person)).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((6, 5, 3), (200, 10 * i, person), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "faces" / str(person) / f"{i}.png")

    def change(config):
        config["test_data"] = {
            "name": "folder",
            "path": str(tmp_path / "faces"),
            "image_size": None,
        }

    copy = with_config(run, tmp_path, change)
    with pytest.raises(
        ValueError, match="takes images of 20x20x1, and those of test_data .* 6x5x3"
    ):
        evaluated(copy, ["between"], {"n_way": 2})


def test_archives_of_test_data_need_such(run, tmp_path):
    copy = with_config(run, tmp_path, lambda config: config.pop("test_data"))
    with pytest.raises(ValueError, match="has no test_data in its config"):
        evaluated(copy, ["within"], test_archives="x")
    assert "within" in evaluated(copy, ["within"], {"k_shot": 1}, baselines=False)["copy @ 10"]


def test_any_run_is_evaluated_on_data_that_are_named(run, tmp_path, monkeypatch):
    for name, value in OTHER.items():
        monkeypatch.setitem(loading.DEFAULTS, name, value)
    copy = with_config(run, tmp_path, lambda config: config.pop("test_data"))
    found = evaluated(copy, ["within"], {"k_shot": 1}, baselines=False, test_data="glyphs")
    expected = trials.within_trials(loading.load({"name": "glyphs"}).test, n_way=5, num_trials=40)
    assert found["copy @ 10"]["within"].trial_hash == expected.hash
    kept = json.loads((copy / "results.json").read_text())
    assert kept["config"]["test_data"] == {"name": "glyphs"}
    assert "test_data" not in json.loads((copy / "config.json").read_text())


def test_an_ensemble_is_the_mean_of_the_scores(run, tmp_path):
    other = tmp_path / "other"
    config = workdir.read_config(run)
    with config.unlocked():
        config.seed = 1
        config.model.encoder = "dense"
        config.model.encoder_args = {"hidden": (), "units": 12}  # an embedding of another size
        config.eval.shot_aggregation = "mean"
    loop.train_and_evaluate(config, str(other))
    record = tmp_path / "record.json"
    found = evaluated(
        run, ["within"], {"shot_aggregation": "mean"}, ensemble=[other], record=str(record)
    )
    assert set(found) == {"run @ 10", "ensemble of 2", "pixel 1-NN", "random"}
    nets = [network.load(path) for path in (run, other)]
    drawn = trials.within_trials(loading.load(OTHER).test, n_way=5, k_shot=2, num_trials=40)
    one, two = (
        protocols_lib.evaluate_trials(net.system(), drawn, shot_aggregation="mean") for net in nets
    )
    both = found["ensemble of 2"]["within"]
    np.testing.assert_allclose(both.scores, (one.scores + two.scores) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["run @ 10"]["within"].scores, one.scores, rtol=1e-5)
    assert json.loads(record.read_text())["settings"]["ensemble"] == ["other @ 10"]
    with pytest.raises(ValueError, match="one or more networks"):
        network.ensemble([])


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"source_fingerprint": "0" * 16}, False),
        # as of a network that was exported before runs kept it
        ({"source_fingerprint": None}, True),
        ({"source_fingerprint": None, "data_fingerprint": "0" * 16}, False),
    ],
)
def test_data_must_be_those_that_every_run_was_trained_on(run, tmp_path, changed, same):
    other = with_config(run, tmp_path, lambda config: None)
    start = json.loads((run / "provenance.json").read_text())[-1]
    (other / "provenance.json").unlink()
    (other / "provenance.json").write_text(json.dumps([{**start, **changed}]))
    request = evaluate.EvaluationRequest(run, ["within"], ensemble=[other])
    config, net = evaluate.evaluated_config(request), network.load(run)
    if same:
        assert evaluate.load_data(request, config, net).test.num_alphabets == 1
    else:
        with pytest.raises(ValueError, match="copy was trained on other data"):
            evaluate.load_data(request, config, net)


def test_other_parts_than_the_test_are_recorded_alone(run, tmp_path):
    """The validation part and both have trials of their own; results.json stays with the test."""
    copy = with_config(run, tmp_path, lambda config: config.pop("test_data"))
    fields = json.loads((copy / "config.json").read_text())["data"]
    data = loading.load({**fields, "image_size": None})
    both = loading.splits.joined(data.validation, data.test, "both")
    sets = {"test": data.test, "validation": data.validation, "both": both}
    assert both.num_classes == data.validation.num_classes + data.test.num_classes
    kept = None
    for part, images in sets.items():
        expected = trials.within_trials(images, n_way=5, k_shot=2, num_trials=40)
        found = evaluated(copy, ["within"], part=part, baselines=False, record=tmp_path / part)
        assert found["copy @ 10"]["within"].trial_hash == expected.hash
        assert json.loads((tmp_path / part).read_text())["settings"]["part"] == part
        kept = kept or (copy / "results.json").read_text()
        assert (copy / "results.json").read_text() == kept
    with pytest.raises(ValueError, match="'official' needs the official runs"):
        evaluated(copy, ["official"], part="both")
    with pytest.raises(ValueError, match="part must be one of"):
        evaluated(copy, ["within"], part="train")


def test_test_time_augmentation_is_a_setting_of_the_evaluation(run):
    once = evaluated(run, ["within"], baselines=False)
    assert json.loads((run / "results.json").read_text())["settings"]["tta"] == 1
    results = evaluated(run, ["within"], baselines=False, tta=3)
    kept = json.loads((run / "results.json").read_text())
    assert kept["settings"]["tta"] == 3 and "tta" not in json.dumps(kept["config"])
    direct = protocols_lib.evaluate_trials(
        network.load(run, tta=3).system(),
        results["run @ 10"]["within"].trials,
        shot_aggregation="prototype",
    )
    scores = results["run @ 10"]["within"].scores
    np.testing.assert_allclose(scores, direct.scores, rtol=1e-5)
    assert np.abs(scores - once["run @ 10"]["within"].scores).max() > 1e-3


def test_pairs_score_as_in_the_table_of_all(run):
    net = network.load(run)
    images = loading.load(OTHER).train.resized(*net.image_shape[:2]).images[:70]
    h1, h2 = net.embed(images[:35]), net.embed(images[35:])
    pairs = net.score_pairs(h1, h2)
    np.testing.assert_allclose(pairs, np.diag(net.score_matrix(h1, h2)), rtol=1e-5)
    np.testing.assert_array_equal(pairs[:32], np.diag(net.score_matrix(h1[:32], h2[:32])))


@pytest.mark.parametrize("part", ["validation", "both"])
def test_classes_that_were_trained_on_are_no_test(run, part):
    config = ml_collections.ConfigDict(workdir.plain(workdir.read_config(run)))
    config.data.train_on_validation = True
    request = evaluate.EvaluationRequest(run, ["within"], part=part)
    with pytest.raises(ValueError, match="trained on other data"):  # that of test_data is another
        evaluate.load_data(request, config, network.load(run))
    del config.test_data
    with pytest.raises(ValueError, match="was trained on the validation classes too"):
        evaluate.load_data(request, config, network.load(run))


def test_sets_that_do_not_join():
    glyphs = loading.load(OTHER)
    with pytest.raises(ValueError, match="share classes"):
        loading.splits.joined(glyphs.test, glyphs.test, "x")
    with pytest.raises(ValueError, match="they do not join"):
        loading.splits.joined(glyphs.test, glyphs.validation.resized(7, 7), "x")


def test_pairs_of_a_file_are_evaluated_beside_the_test_set(run, tmp_path, capsys):
    test = loading.load(OTHER).test
    lines = ["first,second,label"]
    for row in range(0, 35, 2):
        Image.fromarray(255 - test.images[row, ..., 0]).save(tmp_path / f"{row}.png")
    for a in range(0, 35, 2):
        for b in range(a + 2, 35, 2):
            lines.append(f"{a}.png,{b}.png,{int(test.classes[a] == test.classes[b])}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    found = evaluated(run, ["verification"], pairs=tmp_path / "pairs.csv")
    assert list(found["run @ 10"]) == ["verification", "pairs"] == list(found["random"])
    pairs = found["run @ 10"]["pairs"]
    assert pairs.trials.images.shape == (18, 20, 20, 1) and pairs.num_trials == 153
    # The same images of the test set, resized by the network.
    scores = network.load(run).score(test.images[0:2:2], test.images[2:35:2])
    np.testing.assert_allclose(pairs.scores[:17], scores[0], atol=0.05)
    threshold = found["run @ 10"]["verification"].figures["threshold"]
    assert pairs.figures["threshold"] == threshold
    assert "pairs.csv" in capsys.readouterr().out
    assert str(tmp_path) not in (run / "results.json").read_text()
