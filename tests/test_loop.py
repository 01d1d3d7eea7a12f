"""The real loop on the smoke configs: what it writes, and that it goes on after any interruption."""

import json
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from launching import environment, launch
from recipes import ROOT, get_config
from tensorboardX.proto import event_pb2

import siamese_jax
from siamese_jax.data import loading
from siamese_jax.evaluation import protocols, trials
from siamese_jax.experiments import search
from siamese_jax.models import siamese
from siamese_jax.models import summary as summary_lib
from siamese_jax.runs import workdir
from siamese_jax.runs.checkpoints import Checkpoints
from siamese_jax.training import loop, objectives
from siamese_jax.training.experiment import check_config, check_data

# All but `recorded`, which needs a run: see test_a_run_is_repeated_from_its_record.
CONFIGS = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {"recorded"})
TIMINGS = ("images_per_second", "cpu_seconds")
PATIENCE = 600  # seconds that a command may take on a busy machine


VECTOR = "quickstart:vector"  # quicker to compile than the quickstart


def config_of(name, arg="smoke", **changes):
    """A config by file name and variant; fields may be changed, dots written as two underscores."""
    name, _, variant = name.partition(":")
    config = get_config(name, ",".join(word for word in (variant, arg) if word))
    with config.unlocked():
        config.num_devices = 1
        for field, value in changes.items():
            *path, last = field.split("__")
            part = config
            for step in path:
                part = part[step]
            part[last] = value
    return config


@pytest.fixture(scope="module")
def programs():
    """Compiled steps, shared by runs that differ in data alone."""
    return {}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, programs):
    """Name -> (config, workdir, summary) of the finished smoke run, made once."""
    runs = {}

    def run(name):
        if name not in runs:
            config, path = config_of(name), tmp_path_factory.mktemp(name)
            runs[name] = config, path, loop.train_and_evaluate(config, path, programs=programs)
        return runs[name]

    return run


def variables(path, step="latest"):
    """Parameters and statistics of a checkpoint of a run."""
    saved = Checkpoints(path, read_only=True)
    found = saved.variables(saved.latest if step == "latest" else step)
    saved.close()
    return found


def metrics(path):
    """The rows of the log without what depends on the clock."""
    return [
        {name: value for name, value in row.items() if name not in TIMINGS}
        for row in workdir.read_metrics(path)
    ]


def assert_same_run(one, other):
    jax.tree.map(np.testing.assert_array_equal, variables(one), variables(other))
    assert metrics(one) == metrics(other)


# --- the configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CONFIGS, VECTOR])
@pytest.mark.slow
def test_every_smoke_config_trains(name, smoke):
    config, path, summary = smoke(name)
    assert summary["step"] == config.num_steps and summary["finished"]
    rows = workdir.read_metrics(path)
    steps_of = {
        phase: [row["step"] for row in rows if row["phase"] == phase]
        for phase in ("train", "validation")
    }
    every = range(config.log_every, config.num_steps + 1, config.log_every)
    assert steps_of["train"] == list(every)
    every = range(config.eval.every, config.num_steps + 1, config.eval.every)
    assert steps_of["validation"] == list(every)
    validations = [row for row in rows if row["phase"] == "validation"]
    pair_figures = {"pair_loss", "pair_accuracy", "pair_auc"} if name == "koch2015" else set()
    for row in validations:
        assert row.keys() == {"step", "phase", "accuracy", *pair_figures}
        assert 0 <= row["accuracy"] <= 1
        if pair_figures:
            assert 0 < row["pair_loss"] < 5
            assert 0 <= row["pair_accuracy"] <= 1 and 0 <= row["pair_auc"] <= 1
    assert all(np.isfinite(value) for row in rows for k, value in row.items() if k != "phase")
    evaluated = {row["step"]: row["accuracy"] for row in validations}
    assert summary["best_value"] == evaluated[summary["best_step"]] == max(evaluated.values())
    saved = Checkpoints(path, read_only=True)
    last = {config.num_steps - config.eval.every, config.num_steps}
    assert saved.steps == sorted({summary["best_step"]} | last)
    saved.close()


@pytest.mark.parametrize("name", [VECTOR, "koch2015"])
@pytest.mark.slow
def test_training_in_bfloat16_follows_that_in_float32(name, smoke, tmp_path):
    """The parameters stay float32, so that the losses part by the rounding of a forward pass only."""
    _, path, _ = smoke(name)
    config = config_of(name, model__dtype="bfloat16")
    loop.train_and_evaluate(config, tmp_path)
    exact, rough = (
        np.array([row["loss"] for row in workdir.read_metrics(p) if row["phase"] == "train"])
        for p in (path, tmp_path)
    )
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(rough, exact, rtol=0.03)
    for x in jax.tree.leaves(variables(tmp_path)):
        assert x.dtype == np.float32


_PAIRS = {"batch": 8, "negatives": "any"}
_EPISODES = {"episodes": 2, "n_way": 4, "pad_with_symmetries": False}
# Settings, comparator, steps of the full context, shot aggregation. The smoke configs train the other
# two objectives, test_steps.py and test_updating.py the other minings.
EACH_OBJECTIVE = {
    "contrastive on maps": ({**_PAIRS, "decorrelation": 0.5}, "local", 0, "mean"),
    "triplet on maps": ({**_EPISODES, "mining": "batch_hard", "margin": 0.2}, "local", 0, "mean"),
    "triplet": ({**_EPISODES, "mining": "random", "margin": 0.2}, "euclidean", 0, "prototype"),
    "prototypical": ({**_EPISODES, "k_shot": 2}, "squared_euclidean", 0, "prototype"),
    "matching in context": ({**_EPISODES, "k_shot": 2}, "cosine", 1, "sum"),
    "classifier": ({"batch": 8}, "cosine", 0, "finetune"),
}


@pytest.mark.parametrize("case", EACH_OBJECTIVE)
@pytest.mark.slow
def test_every_objective_trains_and_is_judged(case, tmp_path, glyphs):
    """The whole loop with small networks, then two-shot trials."""
    settings, comparator, context_steps, shot_aggregation = EACH_OBJECTIVE[case]
    name = "faces" if comparator == "local" else "vectors"  # whose network compiles quickly
    config = config_of(name, num_steps=12, log_every=4, eval__every=4, optim__learning_rate=3e-3)
    with config.unlocked():
        config.objective = {"name": case.split()[0], "symmetries": "none", **settings}
        config.model.comparator = comparator
        config.model.head_args = {"scale": 2.0}
        if comparator == "local":
            config.model.encoder_args.local = True
            config.model.head_args = {"scale": 2.0, "reach": 1}
        config.model.context_steps = context_steps
        config.augment.distort = False
        if case == "classifier":  # whose batches are of single images
            config.augment = config_of("faces").augment
    summary = loop.train_and_evaluate(config, tmp_path)
    assert summary["step"] == 12 and summary["finished"]
    rows = workdir.read_metrics(tmp_path)
    losses_of = [row["loss"] for row in rows if row["phase"] == "train"]
    assert len(losses_of) == 3 and np.ptp(losses_of) > 1e-4 and np.isfinite(losses_of).all()
    net = siamese_jax.load(tmp_path)
    small = glyphs.resized(20, 20)
    lists = trials.within_trials(small, n_way=4, k_shot=2, num_trials=200)
    result = protocols.evaluate_trials(net.system(), lists, shot_aggregation=shot_aggregation)
    assert result.diagnostics["nonfinite_scores"] == 0
    assert result.num_trials == 200 and result.accuracy > 0.3  # chance is 0.25


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    "pairs, epochs",  # steps an epoch: pairs / 128 and 9 pairs / 128, rounded
    [("30k", (234, 2109)), ("90k", (703, 6328)), ("150k", (1172, 10547))],
)
def test_the_rows_of_kochs_tables(pairs, epochs, dense, reduced):
    for affine in (False, True):
        words = [f"pairs={pairs}"] + ["affine"] * affine + ["dense"] * dense + ["reduced"] * reduced
        config = config_of("koch2015", ",".join(words))
        objective, every = config.objective, config.eval.every
        assert objective.pairs == 1000 * int(pairs[:-1]) and objective.copies == 8 * affine
        assert objective.batch == 128 and objective.symmetries == "none"
        assert config.augment.distort == affine
        assert (
            every
            == config.optim.steps_per_epoch
            == ((936 if dense else 234) if reduced else epochs[affine])
        )
        assert config.num_steps == every * (30 if reduced else 200)
        assert (config.eval.num_trials, config.eval.patience) == (320, 20)
        assert config.data.image_size == ((35, 35) if reduced else (105, 105))
        objectives.build(objective, 20)
        check_config(config)
        search.read_space(workdir.plain(config))
    # What follows of the network does not depend on the pairs.
    model, size = siamese.build(config.model), config.data.image_size
    table = summary_lib.layer_table(model, (*size, 1))
    shapes = [(x.input_shape, x.output_shape) for x in table]
    if dense:
        units = (1024 if reduced else 2048,)
        pixels = (size[0] * size[1],)
        assert shapes == [(pixels, units), (units, units), (units, ())]
        args = config.model.encoder_args
        assert (args.std, args.bias_mean, args.output) == (0.2, 0.5, "sigmoid")
    elif reduced:  # 35 - 3 = 32, 16 - 2 = 14, 7 - 1 = 6, 3 - 1 = 2
        assert [output[:2] for _, output in shapes[:4]] == [(32, 32), (14, 14), (6, 6), (2, 2)]
        assert shapes[4:] == [((2 * 2 * 128,), (1024,)), ((1024,), ())]
    names = {x.name for x in table}
    assert {pattern.removesuffix("/.*") for pattern, *_ in config.optim.rules} == names


@pytest.mark.parametrize(
    "arg, words",
    [
        ("afine,pairs=30k", "variants pairs=30k, .*, smoke, not 'afine': did you mean 'affine'?"),
        ("pairs=15k", "not 'pairs=15k': did you mean 'pairs=150k'"),
        ("pairs=30000", "not 'pairs=30000': did you mean 'pairs=30k'"),
        ("pairs=30k,", "not ''"),
        ("Dense", "not 'Dense': did you mean 'dense'"),
        ("zzz", "not 'zzz'$"),
        ("pairs=30k,pairs=90k", "pairs=30k, pairs=90k: a run has one set of pairs"),
        ("dense,pairs=30k,dense", "'dense' stands twice"),
        ("affine,reduced", "'affine' copies fixed pairs: .* 'pairs=150k,affine,reduced'"),
        ("pairs=30k,thicken", "'thicken' is for distorted copies: add 'affine'"),
    ],
)
def test_variants_that_are_not_there(arg, words):
    with pytest.raises(ValueError, match=words):
        config_of("koch2015", arg)


# --- what a run leaves ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_workdir_says_where_a_run_comes_from(smoke):
    config, path, _ = smoke(VECTOR)
    assert workdir.differences(workdir.read_config(path), config) == []
    (start,) = workdir.read_provenance(path)
    assert {"command", "commit", "device", "num_devices", "cores", "xla_flags"} <= start.keys()
    assert start["versions"]["jax"] == jax.__version__
    assert start["seed"] == config.seed and start["kind"] == "ink"
    assert start["image_shape"] == [20, 20, 1] and "glyphs" in start["data"]
    assert len(start["data_fingerprint"]) == 16


def events(path):
    """(tag, step, value) of the TensorBoard events, where a restart purges what it writes anew."""
    found = {}
    files = (path / "tensorboard").iterdir()
    for file in sorted(files, key=lambda file: int(file.suffix[1:])):  # numbered by start
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            if event.HasField("session_log"):
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def assert_events_are_the_log(path):
    expected = {
        (f"{row['phase']}/{name}", row["step"]): value
        for row in workdir.read_metrics(path)
        for name, value in row.items()
        if name not in ("step", "phase")
    }
    found = events(path)
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(value, rel=1e-6) for key, value in expected.items())


@pytest.mark.slow
def test_tensorboard_has_the_rows_of_the_log(smoke):
    assert_events_are_the_log(smoke(VECTOR)[1])


@pytest.mark.slow
def test_rates_and_momenta_are_logged_by_layer(smoke):
    """Two epochs of ten steps: what was in force during each, by the schedules' closed forms."""
    config, path, _ = smoke("koch2015")
    rows = [row for row in workdir.read_metrics(path) if row["phase"] == "layers"]
    assert [row.pop("step") for row in rows] == [10, 20]
    summary_lib = [f"encoder/conv{i}" for i in (1, 2, 3, 4)] + ["encoder/embedding", "head"]
    for epoch, row in enumerate(rows):
        expected = {"phase": "layers"}
        for name in (f"{layer}/{part}" for layer in summary_lib for part in ("kernel", "bias")):
            first = 0.03 if "embedding" in name else 0.1
            expected[f"{name}/learning_rate"] = first * 0.99**epoch
            expected[f"{name}/momentum"] = 0.5 + 0.4 * epoch / 10
            expected[f"{name}/l2"] = 1e-5
        assert row.keys() == expected.keys()
        assert row.pop("phase") == expected.pop("phase")
        assert row == pytest.approx(expected, rel=1e-6)
    assert "layers" not in {row["phase"] for row in metrics(smoke(VECTOR)[1])}


@pytest.mark.slow
def test_a_trained_network_is_loaded_in_one_line(smoke, glyphs):
    config, path, summary = smoke(VECTOR)
    net = siamese_jax.load(path)
    images = glyphs.images[:6]
    h = net.embed(images)
    assert h.shape == (6, config.model.encoder_args.units)
    np.testing.assert_allclose(np.linalg.norm(h, axis=1), np.ones(6), rtol=1e-5)
    scores = net.score(images[:2], images)
    np.testing.assert_allclose(scores, net.score(images, images[:2]).T, rtol=1e-4, atol=1e-5)
    best = variables(path, summary["best_step"])
    jax.tree.map(np.testing.assert_array_equal, dict(net.variables), best)
    with pytest.raises(ValueError, match=r"holds no checkpoint 7; it has \[.*20\]"):
        siamese_jax.load(path, 7)
    with pytest.raises(ValueError, match="images must be"):
        net.embed(images.astype(np.float32))


@pytest.mark.slow
def test_a_run_is_repeated_from_its_record(smoke):
    config, path, _ = smoke("koch2015")
    again = get_config("recorded", str(path / "config.json"))
    assert workdir.differences(config, again) == []
    assert loop.train_and_evaluate(again, path)["step"] == config.num_steps  # taken as the same run


# --- going on, within one process -----------------------------------------------------------------


class Died(Exception):
    """Stands for a death that leaves no time to save."""


def interruptions(deaths=(), stops=()):
    """`should_stop` that dies or stops after so many steps of the call."""
    made = 0

    def should_stop():
        nonlocal made
        made += 1
        if made in deaths:
            raise Died
        return made in stops

    return should_stop


@pytest.mark.parametrize("name", ["koch2015", VECTOR])
@pytest.mark.slow
def test_interrupted_training_ends_the_same(name, smoke, tmp_path, programs):
    """Dies before the first checkpoint, after it, is stopped at an odd step, dies in the last one."""
    config, unbroken, expected = smoke(name)

    def go_on(**interrupted):
        should_stop = interruptions(**interrupted)
        return loop.train_and_evaluate(config, tmp_path, should_stop=should_stop, programs=programs)

    with pytest.raises(Died):
        go_on(deaths=[7])
    with pytest.raises(Died):
        go_on(deaths=[12])  # from the start, past the checkpoint of step 10
    summary = go_on(stops=[3])
    assert summary["step"] == 13 and not summary["finished"]
    with pytest.raises(Died):
        go_on(deaths=[7])  # in step 20, before it is evaluated
    assert go_on() == expected
    assert_same_run(tmp_path, unbroken)
    assert_events_are_the_log(tmp_path)
    assert len(workdir.read_provenance(tmp_path)) == 5


@pytest.mark.slow
def test_interrupted_training_on_fixed_pairs_ends_the_same(tmp_path, caplog):
    """60 pairs by 9 in batches of 16; the second start is fed by the host."""
    config = config_of("koch2015", "pairs=30k,affine,dense,smoke")
    programs = {}
    with caplog.at_level("INFO", logger="siamese_jax.training.loop"):
        expected = loop.train_and_evaluate(config, tmp_path / "one", programs=programs)
    assert "training on 60 pairs, half same and half different" in caplog.text
    path = tmp_path / "two"
    with pytest.raises(Died):
        loop.train_and_evaluate(
            config, path, should_stop=interruptions(deaths=[12]), programs=programs
        )
    fed = config_of("koch2015", "pairs=30k,affine,dense,smoke", feed="host")
    part = loop.train_and_evaluate(fed, path, should_stop=interruptions(stops=[3]))
    assert part["step"] == 13 and not part["finished"]
    assert loop.train_and_evaluate(config, path, programs=programs) == expected
    assert_same_run(tmp_path / "one", path)
    assert_events_are_the_log(path)


@pytest.mark.slow
def test_validation_between_alphabets(tmp_path, programs):
    """The logged accuracy is that of the trained network on trials of any alphabet."""
    config = config_of(VECTOR, eval__every=20, eval__between=True)
    loop.train_and_evaluate(config, tmp_path, programs=programs)
    (row,) = (row for row in metrics(tmp_path) if row["phase"] == "validation")
    images = loading.load(config.data).validation
    lists = trials.between_trials(images, n_way=5, num_trials=50, seed=0)
    found = protocols.evaluate_trials(siamese_jax.load(tmp_path).system(), lists)
    assert row["accuracy"] == found.accuracy and lists.scope == "between alphabets"


@pytest.mark.slow
def test_a_finished_run_is_left_alone(smoke):
    config, path, summary = smoke(VECTOR)
    rows = workdir.read_metrics(path)
    assert loop.train_and_evaluate(config, path) == summary
    assert workdir.read_metrics(path) == rows


@pytest.mark.slow
def test_patience_stops_and_resumes(tmp_path, programs):
    """At a rate of 0 nothing gets better: the first evaluation stays the best."""
    config = config_of("koch2015", eval__patience=2, eval__every=5, num_steps=40, seed=3)
    rules = tuple((pattern, 0.0, 0.0, 0.0) for pattern, *_ in config.optim.rules)
    with config.unlocked():
        config.optim.rules = rules
    summary = loop.train_and_evaluate(config, tmp_path / "one", programs=programs)
    expected = {"step": 15, "best_step": 5, "finished": True}
    assert {name: summary[name] for name in expected} == expected
    for stop in (7, 5):  # step 7, step 12
        part = loop.train_and_evaluate(
            *(config, tmp_path / "two"), should_stop=interruptions(stops=[stop]), programs=programs
        )
        assert not part["finished"]
    for _ in range(2):  # goes on to the end of its patience, and has none left
        again = loop.train_and_evaluate(config, tmp_path / "two", programs=programs)
        assert again == summary
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.slow
def test_a_step_is_compiled_once_however_long_the_run(tmp_path, count):
    compiled, early, late = [], [], []

    def note(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details["fun_name"])

    def on_validation(step, accuracy):
        (late if step > 10 else early).extend(compiled)
        compiled.clear()

    jax.monitoring.register_event_duration_secs_listener(note)
    # Reading a program is not compiling it.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        config = config_of("vectors", num_devices=count)
        loop.train_and_evaluate(config, tmp_path, on_validation=on_validation)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
        jax.monitoring.unregister_event_duration_listener(note)
    assert early and late == []
    if count == 1:  # of several devices the programs go by other names
        assert sum("step" in name for name in early) == 1


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_config_is_refused(smoke):
    _, path, _ = smoke("koch2015")
    other = config_of("koch2015", seed=5, optim__decay=0.9)
    words = (
        r"holds a run of another config \(optim.decay is 0.9 and was 0.99; seed is 5 and was 0\)"
    )
    with pytest.raises(ValueError, match=words):
        loop.train_and_evaluate(other, path)


@pytest.mark.slow
def test_other_data_are_refused(smoke, tmp_path):
    config, path, _ = smoke("koch2015")
    for name in ("config.json", "provenance.json"):
        (tmp_path / name).write_text((path / name).read_text())
    starts = json.loads((tmp_path / "provenance.json").read_text())
    starts[-1]["data_fingerprint"] = "0" * 16
    (tmp_path / "provenance.json").write_text(json.dumps(starts))
    with pytest.raises(ValueError, match=f"holds a run on data {'0' * 16}, and this is data"):
        loop.train_and_evaluate(config, tmp_path)


@pytest.mark.slow
def test_a_workdir_in_use_is_refused(smoke):
    config, path, _ = smoke("koch2015")
    fingerprint = workdir.read_provenance(path)[-1]["data_fingerprint"]
    with (
        workdir.RunFolder(path, config, fingerprint, {}),
        pytest.raises(ValueError, match="is in use by another process"),
    ):
        loop.train_and_evaluate(config, path)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"eval__every": 12}, "eval.every = 12 must be a multiple of log_every = 5"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1 .*got 0"),
        ({"objective__batch": 7}, "must be even .* 7"),
        ({"objective__symmetries": "flip"}, "symmetries must be one of .* got 'flip'"),
        ({"data__image_size": (20, 20)}, "conv4 needs at least 2 x 2 pixels"),
        ({"eval__n_way": 500}, "500"),
        (
            {"data__image_size": (52, 40), "objective__symmetries": "alphabet"},
            "needs square images",
        ),
        ({"objective__pairs": 50}, "augment.distort = True with objective.copies = 0"),
        ({"objective__pairs": 51, "objective__copies": 8}, "51 pairs cannot be shared out"),
        (
            {"objective__pairs": 50, "objective__copies": 8, "augment__distort": False},
            "augment.distort = False with objective.copies = 8",
        ),
        (
            {"data__train_on_validation": True, "eval__patience": 2},
            "eval.patience ends a training by the validation classes",
        ),
        ({"objective__name": "info_nce"}, r"needs the fields \['contrast', 'episodes'"),
    ],
)
@pytest.mark.slow
def test_settings_that_do_not_go_together(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        loop.train_and_evaluate(config_of("koch2015", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # a corrected config may have it


def test_a_set_that_the_objective_cannot_use(glyphs):
    episodes = config_of("quickstart", objective__symmetries="none", objective__n_way=9)
    with pytest.raises(
        ValueError,
        match="an alphabet of 8 classes for 9 ways.*objective.pad_with_symmetries to False",
    ):
        check_data(episodes, glyphs, (28, 20, 1), 2)
    check_data(episodes, glyphs, (28, 28, 1), 2)
    pairs = config_of("koch2015", objective__negatives="same_alphabet")
    check_data(pairs, glyphs, (28, 28, 1), 2)
    with pytest.raises(ValueError, match="has one class: a different pair needs two"):
        check_data(pairs, glyphs.select(classes=[3]), (28, 28, 1), 2)
    with pytest.raises(ValueError, match="needs two classes an alphabet"):
        check_data(pairs, glyphs.select(classes=[3, 20]), (28, 28, 1), 2)
    with pytest.raises(
        ValueError, match="class 'alphabet01/character01' has 1 image.*needs 2 of each class"
    ):
        check_data(pairs, glyphs.select(drawers=[2]), (28, 28, 1), 2)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, programs):
    """The rate is 0 in the first step of the warm-up, and then far too large."""
    config = config_of(VECTOR, optim__learning_rate=1e30, log_every=1, eval__every=1)
    with pytest.raises(FloatingPointError, match="not finite between steps 3 and 3: .*lower learn"):
        loop.train_and_evaluate(config, tmp_path, programs=programs)
    saved = Checkpoints(tmp_path, read_only=True)
    assert saved.best == 1 and saved.steps == [1, 2]
    saved.close()
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(variables(tmp_path, 1)))
    assert [row["step"] for row in metrics(tmp_path) if row["phase"] == "train"] == [1, 2]
    assert siamese_jax.load(tmp_path).name.endswith("@ 1")
    with pytest.raises(FloatingPointError, match="the last good checkpoint is 2"):
        loop.train_and_evaluate(config, tmp_path, programs=programs)  # the same again


@pytest.mark.slow
def test_parameters_that_are_not_finite_are_not_saved(tmp_path, programs):
    """The first loss is finite, and its update is not."""
    config = config_of("koch2015", eval__every=5)
    rules = tuple((pattern, 3e38, 0.9, 10.0) for pattern, *_ in config.optim.rules)
    with config.unlocked():
        config.optim.rules = rules
    with pytest.raises(FloatingPointError, match="last good checkpoint is None"):
        loop.train_and_evaluate(
            *(config, tmp_path), should_stop=interruptions(stops=[1]), programs=programs
        )
    saved = Checkpoints(tmp_path, read_only=True)
    assert saved.steps == []
    saved.close()


# --- the command ----------------------------------------------------------------------------------


def start(*flags):
    """Starts launch/train.py; returns the process."""
    return subprocess.Popen(
        [sys.executable, "launch/train.py", *flags],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LONG = (
    "--config=configs/vectors.py:smoke",
    "--config.num_steps=240",
    "--config.eval.every=20",
    "--config.num_devices=1",
)


def interrupted(process, path, number, step, phase):
    """Sends a signal as soon as the log has a row of this phase at this step or later."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if any(row["step"] >= step and row["phase"] == phase for row in workdir.read_metrics(path)):
            process.send_signal(number)
            break
        time.sleep(0.002)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode not in (0, 1), f"it ended before the signal came: {err}"
    return process.returncode, out, err


@pytest.mark.slow
def test_killed_and_started_again_is_as_never_killed(tmp_path):
    """SIGKILL while a checkpoint is written; SIGTERM; Ctrl-C; then to the end."""
    unbroken, path = tmp_path / "unbroken", tmp_path / "broken"
    code, out, err = launch("train.py", *LONG, f"--workdir={unbroken}")  # of as many devices
    assert code == 0, err
    assert "finished at step 240; best on validation: step" in out

    def again():
        return start(*LONG, f"--workdir={path}")

    code, _, _ = interrupted(again(), path, signal.SIGKILL, 40, "validation")
    assert code == -signal.SIGKILL
    for number, expected, step in [(signal.SIGTERM, 75, 80), (signal.SIGINT, 130, 120)]:
        code, out, err = interrupted(again(), path, number, step, "train")
        assert code == expected, err
        stopped = int(out.split("stopped and saved at step ")[1].split(";")[0])
        assert step <= stopped < 240
        saved = Checkpoints(path, read_only=True)
        assert saved.latest == stopped
        saved.close()
        assert "Traceback" not in err
    code, out, err = launch("train.py", *LONG, f"--workdir={path}")
    assert code == 0, err
    assert "resuming at step" in err
    assert_same_run(path, unbroken)
    assert_events_are_the_log(path)
    assert [len(workdir.read_provenance(p)) for p in (unbroken, path)] == [1, 4]
    steps = [row["step"] for row in metrics(path) if row["phase"] == "train"]
    assert steps == list(range(5, 241, 5))


SMOKE = "--config=configs/koch2015.py:smoke"
NOWHERE = [f"--config.data.{x}" for x in ("name=folder", "path=nowhere", "split=lake")]


@pytest.mark.parametrize(
    "flags, words",
    [
        ([SMOKE, "--config.sede=1"], "sede"),
        ([SMOKE, "--config.optim.name=sgd"], "optim.name must be one of"),
        ([SMOKE, "--config.num_steps=many"], "num_steps"),
        ([SMOKE, "--wrokdir=x"], "workdir"),
        ([SMOKE, "--workdir=", "loose"], "'loose' is not a flag"),
        (["--config=configs/koch2015.py:smok"], "has the variant"),
        (["--config=configs/koch2051.py"], "koch2051"),
        (
            [SMOKE, "--config.data.name=folder", "--config.data.path=nowhere"],
            "data.split to 'lake'",
        ),
        ([SMOKE, *NOWHERE], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = [] if any("dir=" in flag for flag in flags) else [f"--workdir={tmp_path / 'run'}"]
    code, out, err = launch("train.py", *flags, *given)
    assert code == 1, err
    lines = [line for line in err.splitlines() if not line.startswith("data: ")]
    assert len(lines) == 1, err
    assert words in err and "Traceback" not in err
    assert out == "" and not (tmp_path / "run").exists()
