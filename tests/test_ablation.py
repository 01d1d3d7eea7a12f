"""Ablations: the axes, the queue, the figures of the table, and a real run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import ml_collections
import numpy as np
import pytest
import scipy.stats
from recipes import ROOT, get_config

from siamese_jax.data import loading
from siamese_jax.evaluation import intervals
from siamese_jax.experiments import ablation
from siamese_jax.experiments.ablation import axes, table, training
from siamese_jax.experiments.ablation.variants import (
    Variant,
    check_fits,
    make_variants,
    parse_over,
)
from siamese_jax.runs import workdir
from siamese_jax.training import objectives


def config_of(name, arg="smoke"):
    return get_config(name, arg)


@pytest.fixture(scope="module")
def quickstart():
    return config_of("quickstart", "vector,smoke")


@pytest.fixture(scope="module")
def data(quickstart):
    return loading.load({**workdir.plain(quickstart)["data"], "image_size": None})


# ----------------------------------------------------------------------------------------- axes


def test_over_is_read_in_the_order_of_the_axes(quickstart):
    chosen, seeds = parse_over(["shots:5|1", "distortions", "seeds"], None, quickstart)
    assert chosen == {"distortions": ["on", "off"], "shots": ["5", "1"]}
    assert list(chosen) == ["distortions", "shots"]
    assert seeds == [0, 1, 2]
    assert parse_over(["resolution:40"], None, quickstart) == ({"resolution": ["40"]}, [0])
    assert parse_over(["seeds:3|7"], None, quickstart) == ({}, [3, 7])
    assert parse_over([], None, {**workdir.plain(quickstart), "seed": 7}) == ({}, [7])
    assert parse_over(["pairs", "seeds"], 2, quickstart)[1] == [0, 1]


@pytest.mark.parametrize(
    "over, seeds, words",
    [
        (["objectives"], None, "did you mean objective"),
        (["augmentation:afine"], None, "did you mean affine"),
        (["shots:one"], None, "whole numbers"),
        (["shots:²"], None, "whole numbers"),
        (["shots:0"], None, "whole numbers"),
        (["learning_rate:0.1|fast"], None, "'learning_rate' are positive numbers, got 'fast'"),
        (["learning_rate:-1"], None, "positive numbers"),
        (["rate"], None, "unknown axis 'rate'"),
        (["optim.learning_rat:1"], None, "did you mean optim.learning_rate"),
        (["optim.learning_rate"], None, "write optim.learning_rate:value1|value2"),
        (["optim"], None, "section of the config: vary one of .*optim.learning_rate"),
        (["seed:1|2"], None, "write seeds:0|1|2"),
        (["data.split:koch"], None, "all variants .* meet the same data"),
        (["pairs", "pairs:any"], None, "named twice"),
        (["pairs:any|any"], None, "a label twice"),
        (["seeds:1|2"], 3, "two things"),
        (["pairs"], 0, "at least one seed"),
    ],
)
def test_a_mistake_in_over_is_named(over, seeds, words, quickstart):
    with pytest.raises(ValueError, match=words):
        parse_over(over, seeds, quickstart)


def only(config, over):
    return {v.name: v for v in make_variants(config, parse_over(over, 1, config)[0])}


def changes(config, variant):
    """The fields of a variant that differ from the config, by dotted name."""
    old, new = workdir.flatten(config), workdir.flatten(variant.config)
    both = (old.keys() | new.keys()) - {"search_space"}
    return {n: new.get(n) for n in both if old.get(n) != new.get(n)}


def test_the_other_objective_sees_as_many_images(quickstart):
    full = config_of("quickstart", "")  # 4 episodes x 2 drawers x 20 characters
    found = only(full, ["objective"])
    assert changes(full, found["info_nce"]) == {}
    objective = found["verification"].config["objective"]
    assert objective == {
        "name": "verification",
        "symmetries": "alphabet",
        "batch": 80,
        "negatives": "any",
    }
    koch = config_of("koch2015", "")  # 128 pairs; 256 // 40 = 6 episodes of 20
    objective = only(koch, ["objective"])["info_nce"].config["objective"]
    assert objective == {
        **{"name": "info_nce", "symmetries": "none", "episodes": 6, "n_way": 20},
        **{"pad_with_symmetries": False, "contrast": "batch"},
    }


def test_every_objective_sees_as_many_images_through_the_same_encoder(quickstart):
    full = config_of("quickstart", "vector")
    found = only(full, ["objective"])
    assert list(found) == [*objectives.OBJECTIVES, "classifier+finetune", "matching+context"]
    for name, variant in found.items():
        assert objectives.build(variant.config["objective"], 55, 964).images == 160, name
        changed = {field for field in changes(full, variant) if not field.startswith("objective.")}
        assert changed <= {
            *("model.comparator", "model.head_args.scale", "model.head_args.bias"),
            "model.encoder_args.output",
            "model.context_steps",
        }
    for name, variant in found.items():
        context = variant.config["model"].get("context_steps", 0)
        assert context == (5 if name == "matching+context" else 0)  # five as in the paper
    assert found["prototypical"].config["model"]["comparator"] == "squared_euclidean"
    assert found["triplet"].config["objective"]["mining"] == "semi_hard"
    assert found["contrastive"].config["model"]["head_args"]["bias"] == 0.5  # half the margin


def test_the_other_objective_keeps_the_settings_that_it_takes(quickstart):
    chosen = ml_collections.ConfigDict(workdir.plain(quickstart))
    chosen.objective.update(label_smoothing=0.1, balance=0.5)
    variants = only(chosen, ["objective:matching|triplet"])
    matching, triplet = (v.config["objective"] for v in variants.values())
    assert (matching["label_smoothing"], matching["balance"]) == (0.1, 0.5)
    assert "label_smoothing" not in triplet and triplet["balance"] == 0.5
    mined = ml_collections.ConfigDict(variants["triplet"].config)
    mined.objective.memory = 64
    supcon, softmax = only(mined, ["objective:supcon|prototypical"]).values()
    assert supcon.config["objective"]["memory"] == 64
    assert "memory" not in softmax.config["objective"]


def test_two_axes_of_one_field_are_refused(quickstart):
    over = ["learning_rate:0.1|0.2", "optim.learning_rate:0.3|0.4"]
    with pytest.raises(ValueError, match="axis learning_rate sets optim.learning_rate too"):
        only(quickstart, over)


def test_axes_that_change_other_parts_of_one_field_go_together():
    config = config_of("koch2015", "reduced")
    over = ["learning_rate:0.1|0.2", "regularisation:none|l2"]
    rates = {name: v.config["optim"]["rules"] for name, v in only(config, over).items()}
    assert len(rates) == 4
    for name, rules in rates.items():
        rate, l2 = name.split(", ")
        assert {rule[1] for rule in rules} == {float(rate)}
        assert all((rule[3] == 0) == (l2 == "none") for rule in rules)


def test_a_row_that_is_only_judged_otherwise_shares_its_training(quickstart):
    found = only(quickstart, ["objective:classifier|classifier+finetune|matching"])
    plain, tuned, matching = found.values()
    assert plain.trained == tuned.trained == "objective=classifier," != matching.trained
    assert (plain.settings["shot_aggregation"], tuned.settings["shot_aggregation"]) == (
        None,
        "finetune",
    )
    variants = only(quickstart, ["comparator:cosine|l2", "shot_aggregation:max|prototype"]).values()
    assert [v.trained for v in variants] == ["comparator=cosine,"] * 2 + ["comparator=l2,"] * 2
    assert [v.settings["shot_aggregation"] for v in variants] == ["max", "prototype"] * 2


def test_augmentation_turns_each_part_on_and_off(quickstart):
    found = only(quickstart, ["augmentation"])
    told = {
        name: (
            v.config["objective"]["symmetries"],
            v.config["objective"]["pad_with_symmetries"],
            v.config["augment"]["distort"],
            v.config["augment"]["elastic_size"],
        )
        for name, v in found.items()
    }
    assert told == {
        "none": ("none", False, False, 0.0),
        "symmetries": ("alphabet", True, False, 0.0),
        "affine": ("none", False, True, 0.0),
        "affine+symmetries": ("alphabet", True, True, 0.0),
        "affine+symmetries+elastic": ("alphabet", True, True, 0.02),
    }


def test_small_axes_change_their_fields_alone(quickstart):
    assert changes(quickstart, only(quickstart, ["distortions"])["off"]) == {
        "augment.distort": False
    }
    assert changes(quickstart, only(quickstart, ["resolution:33"])["33"]) == {
        "data.image_size": [33, 33]
    }
    assert changes(quickstart, only(quickstart, ["encoder"])["residual-half"]) == {
        "model.encoder_args.widths": [4, 4]
    }
    assert changes(quickstart, only(quickstart, ["comparator"])["l1"]) == {
        "model.comparator": "l1",
        "model.head_args.scale": None,
        "model.head_args": {},
    }
    found = only(quickstart, ["regularisation"])
    assert changes(quickstart, found["none"]) == {
        "model.encoder_args.dropout": 0.0,
        "optim.weight_decay": 0.0,
    }
    assert changes(quickstart, found["dropout+l2"]) == {"model.encoder_args.dropout": 0.3}
    found = only(quickstart, ["optimiser"])
    assert changes(quickstart, found["muon"]) == {"optim.name": "muon"}
    assert changes(quickstart, found["adamw"]) == {}
    koch = config_of("koch2015")
    rules = only(koch, ["regularisation:none"])["none"].config["optim"]["rules"]
    assert [rule[3] for rule in rules] == [0.0] * 6
    with pytest.raises(ValueError, match="goes with a config of adamw or muon"):
        only(koch, ["optimiser"])
    tutorial = config_of("keras_tutorial")
    found = only(tutorial, ["regularisation:none|l2"])
    assert {rule[1] for rule in found["none"].config["optim"]["rules"]} == {0.0}
    assert {rule[1] for rule in found["l2"].config["optim"]["rules"]} == {2e-4, 1e-3, 1e-4}
    assert changes(koch, only(koch, ["pairs"])["same_alphabet"]) == {
        "objective.negatives": "same_alphabet"
    }


def test_any_field_of_the_config_is_an_axis(quickstart):
    found = only(quickstart, ["optim.learning_rate:0.001|1", "optimiser:muon", "num_steps:40"])
    assert list(found) == ["muon, 0.001, 40", "muon, 1, 40"]
    assert changes(quickstart, found["muon, 0.001, 40"]) == {
        **{"optim.name": "muon", "optim.learning_rate": 0.001, "num_steps": 40}
    }
    rate = found["muon, 1, 40"].config["optim"]["learning_rate"]
    assert rate == 1.0 and isinstance(rate, float)
    assert found["muon, 1, 40"].run(0) == "optimiser=muon,optim.learning_rate=1,num_steps=40,seed=0"
    found = only(quickstart, ["model.encoder_args.widths:[4,8]", "augment.distort:false"])
    assert changes(quickstart, found["[4,8], false"]) == {
        **{"model.encoder_args.widths": [4, 8], "augment.distort": False}
    }
    found = only(config_of("koch2015"), ["optim.rules.0.momentum:0.5"])
    assert found["0.5"].config["optim"]["rules"][0] == ["encoder/conv1/.*", 0.1, 0.5, 1e-5]
    for over, words in (
        ("num_steps:many", "axis num_steps:many does not fit.*is a whole number, got 'many'"),
        ("augment.distort:1", "is true or false, got '1'"),
        ("model.encoder_args.widths:4", r"is a list such as \[8, 8\], got '4'"),
    ):
        with pytest.raises(ValueError, match=words):
            only(quickstart, [over])


def test_axes_make_the_product_and_shots_share_a_training(quickstart):
    variants = make_variants(
        quickstart, parse_over(["shots:1|5", "augmentation:none|affine"], 1, quickstart)[0]
    )
    assert [v.name for v in variants] == ["none, 1", "none, 5", "affine, 1", "affine, 5"]
    assert [v.settings["k_shot"] for v in variants] == [1, 5, 1, 5]
    assert len({v.trained for v in variants}) == 2
    assert variants[0].run(3) == "augmentation=none,seed=3"


def test_a_small_step_has_an_even_number_of_pairs(quickstart, data):
    small = ml_collections.ConfigDict(workdir.plain(quickstart))
    small.objective.update(episodes=1, n_way=5)  # ten images
    (found,) = only(small, ["objective:verification"]).values()
    assert found.config["objective"]["batch"] == 4
    check_fits(found, data)
    found.config["objective"]["batch"] = 5
    with pytest.raises(ValueError, match="must be even"):
        check_fits(found, data)


def test_pairs_follow_the_objective(quickstart):
    with pytest.raises(ValueError, match=r"axis pairs:any does not fit.*objective:verification"):
        only(quickstart, ["pairs"])
    assert len(only(quickstart, ["pairs", "objective:verification"])) == 2


def test_what_cannot_be_built_does_not_fit(data):
    koch = config_of("koch2015")
    with pytest.raises(ValueError, match="'koch' has no dropout"):
        only(koch, ["regularisation"])
    residual = only(koch, ["encoder:residual"])["residual"]
    with pytest.raises(ValueError, match="no rule matches parameter"):  # rules of Koch's layers
        check_fits(residual, data)
    small = only(koch, ["resolution:20"])["20"]
    with pytest.raises(ValueError, match="needs at least"):
        check_fits(small, data)
    photos = dataclasses.replace(data, train=dataclasses.replace(data.train, kind="photo"))
    turned = only(config_of("quickstart"), ["augmentation:symmetries"])["symmetries"]
    with pytest.raises(ValueError, match="square images of kind ink"):
        check_fits(turned, photos)


@pytest.mark.parametrize("arg, field", [("", "dense_std"), ("dense", "std")])
def test_initialisation_and_rate_of_koch(arg, field):
    config = config_of("koch2015", arg)
    found = only(config, ["learning_rate:0.5", "initialisation"])
    assert list(found) == ["published, 0.5", "scaled, 0.5"]
    plain = found["published, 0.5"].config
    assert plain["model"] == workdir.plain(config)["model"]
    assert {rule[1] for rule in plain["optim"]["rules"]} == {0.5}
    assert [[r[0], *r[2:]] for r in plain["optim"]["rules"]] == [
        [r[0], *r[2:]] for r in workdir.plain(config)["optim"]["rules"]
    ]
    assert found["scaled, 0.5"].config["model"]["encoder_args"][field] == 0.02


@pytest.mark.parametrize("name", axes.AXES)
@pytest.mark.slow
def test_every_label_builds(name, data):
    config = config_of("quickstart", "")  # of maps, which not every encoder has
    if name == "initialisation":  # the published one is of Koch's networks
        with pytest.raises(ValueError, match="'residual' has no published initialisation"):
            only(config, [name])
        return
    over = [name] + (["objective:verification"] if name == "pairs" else [])
    for variant in only(config, over).values():
        check_fits(variant, data)
        assert 150 <= variant.images <= 160


# ---------------------------------------------------------------------------------------- queue

FAKE = """
import json, os, pathlib, signal, sys, time
config = next(a for a in sys.argv if a.startswith("--config=")).split(":", 1)[1]
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).split("=", 1)[1])
seconds = json.loads(pathlib.Path(config).read_text())["seconds"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(folder / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
(folder / "begun").touch()
time.sleep(seconds)
while time.process_time() < 0.2: pass
print("the reason", file=sys.stderr)
sys.exit(3 if seconds == 0.01 else 0)
"""


@pytest.fixture
def fake(tmp_path):
    """A folder with a `launch/train.py` that sleeps, works for 0.2 s, and fails if told 0.01 s."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "train.py").write_text(FAKE)
    return tmp_path


@pytest.mark.slow
def test_each_run_has_its_share_of_the_cores_and_a_failure_stops_nothing(fake):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core cannot be shared out")
    trainer = training.Trainer(fake, 2)
    found = {}
    whole = trainer.each(
        [0.3, 0.01, 0.31],
        lambda s: trainer.train({"seconds": s}, fake / str(s)),
        found.__setitem__,
        lambda: False,
    )
    assert whole and {s: o["code"] for s, o in found.items()} == {0.3: 0, 0.01: 3, 0.31: 0}
    assert found[0.01]["line"] == "the reason"
    assert all(0.2 <= o["cpu_seconds"] < 2 for o in found.values())
    shares = [set(json.loads((fake / str(s) / "cores").read_text())) for s in (0.3, 0.01)]
    assert shares[0] | shares[1] == set(cores) and not shares[0] & shares[1]
    assert sorted(os.sched_getaffinity(0)) == cores


def test_cores_are_dealt_out():
    cores = sorted(os.sched_getaffinity(0))
    assert training._shares(1) == [cores]
    assert sorted(sum(training._shares(len(cores)), [])) == cores
    assert all(training._shares(len(cores) + 3))


@pytest.mark.slow
def test_a_second_start_adds_its_cpu_time(fake):
    trainer = training.Trainer(fake, 1)
    first = trainer.train({"seconds": 0}, fake / "run")
    second = trainer.train({"seconds": 0}, fake / "run")
    assert second["cpu_seconds"] >= first["cpu_seconds"] + 0.2
    assert json.loads((fake / "run" / "outcome.json").read_text()) == second


@pytest.mark.slow
def test_stopping_ends_the_trainings_and_begins_no_more(fake):
    trainer = training.Trainer(fake, 2)
    done = []
    began = time.monotonic()
    whole = trainer.each(
        range(4),
        lambda n: trainer.train({"seconds": 60}, fake / str(n)),
        lambda n, outcome: done.append(n),
        lambda: (fake / "0" / "begun").exists() and (fake / "1" / "begun").exists(),
    )
    assert not whole and not done and time.monotonic() - began < 30
    outcomes = [json.loads((fake / n / "outcome.json").read_text()) for n in "01"]
    assert [o["code"] for o in outcomes] == [75, 75]
    assert not (fake / "2").exists() and threading.active_count() < 20


def test_an_error_begins_no_more_trainings(tmp_path):
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.05)

    with pytest.raises(KeyError, match="boom"):
        training.Trainer(tmp_path, 1).each(
            range(9), work, lambda number, outcome: {}["boom"], lambda: False
        )
    assert len(begun) < 5


# ---------------------------------------------------------------------------------------- table


def test_intervals_over_seeds():
    # t(0.975, 2) = 4.302653; the standard deviation of 1, 2, 3 is 1
    half = 4.302653 / np.sqrt(3)
    assert intervals.seed_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    assert np.isnan(intervals.seed_interval([0.5])).all()
    a, b = [0.8, 0.83, 0.81, 0.9], [0.7, 0.69, 0.75]
    wanted = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert intervals.seed_difference(a, b) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    assert np.isnan(intervals.seed_difference(a, [0.7])).all()
    assert np.isnan(intervals.seed_difference([0.5, 0.5], [0.7, 0.7])).all()


@pytest.fixture(scope="module")
def evaluate(data):
    return table.Evaluate(data, 5, 100)


def asking(k_shot):
    return {"k_shot": k_shot, "shot_aggregation": None}


def made_up(evaluate, rates, k_shot=1, seed=0):
    """A run whose answers are right by chance at given rates."""
    rng = np.random.default_rng(seed)
    correct = {
        t.hash: (rng.uniform(size=t.queries.shape) < rates[name]).astype(float)
        for name, t in evaluate.lists(k_shot).items()
    }
    told = {"steps": 60, "best_step": 40, "validation": 0.5, "cpu_minutes": 1.25}
    losses = [(20, 1.0 + seed), (40, 0.5), (60, 0.25)][: 3 - seed]  # the later seed stopped sooner
    return {"trained": "", "seed": seed, "correct": correct, "loss": losses, **told}


def test_a_variant_is_summed_up(evaluate):
    variant = Variant({"pairs": "any"}, "", {}, asking(1), images=160)
    rates = {"official": 0.6, "within": 0.7, "training": 0.9}
    runs = [made_up(evaluate, rates, seed=s) for s in (0, 1)]
    runs.append({"trained": "", "seed": 2, "line": "the loss is not finite"})
    found = table.summary(variant, evaluate, runs)
    hashes = {name: t.hash for name, t in evaluate.lists(1).items()}
    within = [run["correct"][hashes["within"]] for run in runs[:2]]
    assert found["within"]["seeds"] == pytest.approx([c.mean() for c in within])
    assert found["within"]["mean"] == pytest.approx(np.mean(within))
    low, high = found["within"]["wilson"]
    share, z = np.mean(within), scipy.stats.norm.ppf(0.975)  # of 100 trials that both seeds meet
    centre, half = share + z**2 / 200, z * np.sqrt(share * (1 - share) / 100 + z**2 / 40_000)
    limits = (centre - half) / (1 + z**2 / 100), (centre + half) / (1 + z**2 / 100)
    assert (low, high) == pytest.approx(limits)
    training_ = [run["correct"][hashes["training"]].mean() for run in runs[:2]]
    gap = np.mean(training_) - np.mean(within)
    assert found["gap"]["mean"] == pytest.approx(gap)
    assert found["images"] == [9600, 9600]
    assert found["loss"] == [[20, 1.5], [40, 0.5]]  # as far as both seeds went
    cells = table.rows([found])
    assert cells[0][0] == "pairs"
    assert cells[1][:5] == ["any", "2 of 3", "60", "9,600", "1.2"]
    assert cells[2][:2] == ["any", "seed 2"] and cells[2][-1] == "FAILED: the loss is not finite"
    assert "| any | 2 of 3 | 60 |" in table.markdown(cells)
    json.dumps(table.rounded(found), allow_nan=False)


def test_a_difference_is_of_the_same_trials(evaluate):
    """Two variants that differ in every fifth trial: what they share cancels."""
    within = evaluate.lists(1)["within"]
    rng = np.random.default_rng(0)
    hard = (rng.uniform(size=within.queries.shape) < 0.5).astype(float)
    better = hard.copy()
    better.flat[::5] = 1.0
    others = {name: t.hash for name, t in evaluate.lists(1).items() if name != "within"}

    def runs(correct):
        zero = {h: np.zeros(evaluate.lists(1)[name].queries.shape) for name, h in others.items()}
        return [{"seed": s, "correct": {within.hash: correct, **zero}} for s in (0, 1)]

    variants = [Variant({"pairs": n}, n, {}, asking(k)) for n, k in (("a", 1), ("b", 1))]
    variants.append(Variant({"pairs": "c"}, "c", {}, asking(2)))
    found = table.differences(variants, evaluate, {"a": runs(hard), "b": runs(better), "c": []})
    assert [(d["variant"], d["against"], d["protocol"]) for d in found] == [
        ("b", "a", "official"),
        ("b", "a", "within"),
    ]
    assert found[0]["difference"] == 0
    low, high = found[1]["trial_interval"]
    assert found[1]["difference"] == pytest.approx((better - hard).mean())
    assert 0 < low <= found[1]["difference"] <= high < 0.2
    both = table.differences(
        variants[:2], evaluate, {"a": runs(hard), "b": [*runs(better), *runs(hard)]}
    )
    assert both[1]["difference"] == pytest.approx((better - hard).mean() / 2)  # mean over seeds


def test_runs_meet_trials_of_the_images_own_size(evaluate, data):
    lists = evaluate.lists(1)
    assert list(lists) == ["official", "within", "training"]
    assert lists["within"].images is data.test.images
    assert lists["training"].images is data.train.images
    assert lists["official"].num_trials == data.runs.answers.size
    assert {t.k_shot for t in evaluate.lists(3).values()} == {
        3
    } and "official" not in evaluate.lists(3)


# ------------------------------------------------------------------------------------- real runs


@pytest.mark.slow
def test_a_failed_run_is_a_row_and_the_rest_goes_on(tmp_path, capsys):
    path = tmp_path / "ablation"
    kept, broken = (path / f"learning_rate={rate},seed=0" for rate in (0.001, 0.002))
    broken.mkdir(parents=True)
    (broken / "checkpoints").write_text("a file where a folder is wanted")
    config = config_of("vectors")
    config.num_devices = 1

    def ablate(over="learning_rate:0.001|0.002", **more):  # of one compiled program
        summary = ablation.run_ablation(config, [over], path, ROOT, jobs=2, num_trials=100, **more)
        return summary, capsys.readouterr().out

    summary, out = ablate()
    assert summary == {"finished": True, "failed": 1}
    assert "learning_rate=0.002,seed=0: FAILED: " in out
    assert [line.split()[1:3] for line in out.splitlines() if line.startswith("0.002")] == [
        ["seed", "0"]
    ]
    recorded = json.loads((path / "ablation.json").read_text())
    whole, failed = recorded["variants"]
    assert whole["runs"][0]["steps"] == 20 and not whole["failed"]
    assert not failed["runs"] and failed["failed"][0]["line"] in out
    assert recorded["data"]["fingerprint"] and "archives" not in recorded["config"]["data"]

    # The next call runs what is missing, and only that.
    (broken / "checkpoints").unlink()
    before = (kept / "train.log").stat().st_mtime_ns
    summary, out = ablate(record=str(tmp_path / "copy.json"))
    assert summary == {"finished": True, "failed": 0}
    assert (kept / "train.log").stat().st_mtime_ns == before
    recorded = json.loads((tmp_path / "copy.json").read_text())
    assert len(recorded["differences"]) == 2  # official and within
    assert len({v["within"]["trials"] for v in recorded["variants"]}) == 1
    accuracy = f"{100 * recorded['variants'][0]['within']['mean']:.2f}"
    assert accuracy in out and accuracy in (path / "ablation.md").read_text()
    for name in ("ablation.png", "losses.png"):
        assert (path / name).read_bytes()[:4] == b"\x89PNG"

    # A list says what is there, and other settings do not mix with it.
    _, out = ablate("learning_rate:0.001|0.003", dry_run=True)
    assert "learning_rate=0.001,seed=0  (finished)" in out
    assert "learning_rate=0.003,seed=0  (new)" in out
    config.num_steps = 40
    with pytest.raises(ValueError, match="num_steps is 40 and was 20"):
        ablate()


@pytest.mark.slow
def test_an_interrupted_ablation_saves_and_goes_on(tmp_path, capsys):
    """Begun by the command, which is told to stop, and finished here."""
    path = tmp_path / "ablation"
    run = path / "learning_rate=0.01,seed=0"
    changes = {"num_steps": 300, "eval.every": 150, "num_devices": 1}
    command = [sys.executable, str(ROOT / "launch" / "ablate.py"), f"--workdir={path}"]
    command += [f"--config={ROOT / 'configs' / 'vectors.py'}:smoke"]
    command += ["--over=learning_rate:0.01"]
    command += [f"--config.{name}={value}" for name, value in changes.items()]
    child = subprocess.Popen(
        [*command, "--num_trials=50"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 600
    while not workdir.read_metrics(run) and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=600)
    assert child.returncode == 75, err
    assert "the same command goes on" in out
    assert 0 < workdir.read_metrics(run)[-1]["step"] < 300
    config = config_of("vectors")
    config.update_from_flattened_dict(changes)
    summary = ablation.run_ablation(config, ["learning_rate:0.01"], path, ROOT, num_trials=50)
    assert summary == {"finished": True, "failed": 0}
    out = capsys.readouterr().out
    rows = workdir.read_metrics(run)
    assert [r["step"] for r in rows if r["phase"] == "train"] == list(range(5, 301, 5))
    assert len(workdir.read_provenance(run)) == 2
    assert f"{json.loads((run / 'outcome.json').read_text())['cpu_seconds'] / 60:.1f}" in out


def test_a_recorded_config_is_the_config(tmp_path, quickstart):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": workdir.plain(quickstart)}))
    read = get_config("recorded", str(file))
    assert workdir.plain(read) == workdir.plain(quickstart)
    assert isinstance(read, ml_collections.ConfigDict) and read.is_locked
    read.data.archives = "/somewhere"  # an empty field can be set, as in the config itself
    assert isinstance(read.data.image_size, tuple)
    with pytest.raises(ValueError, match="needs a file"):
        get_config("recorded")
