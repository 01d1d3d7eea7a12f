"""What a step does beside following its gradient: parts, moving average, clipping, schedules, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import siamese_jax
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese
from siamese_jax.runs import workdir
from siamese_jax.runs.checkpoints import Checkpoints
from siamese_jax.training import cross_batch, loop, objectives, optim
from siamese_jax.training.experiment import Experiment
from siamese_jax.training.sampling import SetIndex
from siamese_jax.training.step import (
    PLAIN_UPDATE,
    TrainState,
    Updating,
    make_train_step,
    make_update,
)

from test_loop import config_of  # isort: skip
from test_steps import NETS, made_up  # isort: skip

ADAMW = {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.05}
_EPISODES = {"episodes": 4, "n_way": 4, "pad_with_symmetries": False, "symmetries": "none"}
_AMONG_ALL = {**_EPISODES, "images_per_class": 2}
_IMAGES = {"batch": 16, "symmetries": "none", "margin": 0.2, "scale": 8.0}
NEW = {
    "supcon": {**_AMONG_ALL, "memory": 40, "memory_start": 2},
    "nt_xent": _AMONG_ALL,
    "multi_similarity": {**_AMONG_ALL, "memory": 20},
    "circle": _AMONG_ALL,
    "n_pair": {**_EPISODES, "l2": 0.002},
    "arcface": _IMAGES,
    "cosface": {**_IMAGES, "label_smoothing": 0.1},
    "proxy_anchor": _IMAGES,
    "triplet": {**_EPISODES, "mining": "distance_weighted", "margin": 0.2, "memory": 20},
}
# Neither convolutions, which take long to compile, nor batch normalisation.
DENSE = {**NETS["dense"], "comparator": "cosine", "head_args": {"scale": 5.0}}


def start(small, fields, net, count=1, updating=PLAIN_UPDATE, tx=None, dtype="float32"):
    """All that a step is made of, and a state to begin from."""
    devices = Devices(count)
    objective = objectives.build(fields, 8, 48)
    model = siamese.build(
        {**net, "dtype": dtype}, small.image_shape, devices.axis_name, objective.classes
    )
    tx = tx or optim.build(ADAMW, 50)
    variables = made_up(model, small.image_shape, dtype)
    params = variables["params"]
    memory = cross_batch.empty(objective.memory, 6) if objective.memory else {}
    if memory:
        memory = memory._replace(h=memory.h.astype(dtype))
    state = TrainState(
        step=np.int32(0),
        rng=jax.random.key(1),
        opt_state=tx.init(params),
        sums={name: np.zeros((), dtype) for name in ("loss", *objective.metrics, "steps")},
        ema=jax.tree.map(np.copy, params) if updating.ema else {},
        memory=memory,
        **variables,
    )
    return (model, tx, objective, devices), state


def train(small, fields, *, count=1, steps=6, dtype="float32", updating=PLAIN_UPDATE):
    """The state after some whole steps, and their losses."""
    parts, state = start(small, fields, DENSE, count, updating, None, dtype)
    model, tx, objective, devices = parts
    step = make_train_step(model, tx, objective, {"affine": None}, devices, updating=updating)
    state, images, index = devices.replicate((state, small.images, SetIndex.of(small)))
    values = []
    for _ in range(steps):
        state, metrics = step(state, images, index)
        values.append(float(devices.first(metrics)["loss"]))
    return jax.device_get(devices.first(state)), np.array(values)


def update(small, fields, *, net=DENSE, steps=6, updating=PLAIN_UPDATE, tx=None):
    """The states before and after each of some updates, and their losses.

    By the part of a step that follows the input, which compiles more quickly than the whole.
    """
    (model, tx, objective, devices), state = start(small, fields, net, 1, updating, tx)
    one = jax.jit(make_update(model, tx, objective, devices, updating))
    draw, index = jax.jit(objective.sample), SetIndex.of(small)
    states, values = [state], []
    for step in range(steps):
        batch = draw(state.rng, np.int32(step), index)
        pixels = small.images[np.asarray(batch.rows)].astype(np.float32) / 255
        state, metrics = one(states[-1], batch, pixels, jax.random.key(step))
        states.append(jax.device_get(state))
        values.append(float(metrics["loss"]))
    return states, np.array(values)


@pytest.fixture(scope="module")
def small(glyphs):
    """The glyphs at 16 x 16."""
    return glyphs.resized(16, 16)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.slow
def test_the_named_objectives_lower_their_loss(name, small):
    _, losses = update(small, {"name": name, **NEW[name], "memory": 0}, steps=60)
    assert np.all(np.isfinite(losses))
    assert losses[-15:].mean() < losses[:15].mean()


@pytest.mark.parametrize("name", ["supcon", "proxy_anchor"])  # one of each kind
@pytest.mark.slow
def test_one_device_or_two_make_the_same_run(name, small):
    fields = {"name": name, **NEW[name]}
    with jax.enable_x64(True):
        (one, losses), (two, losses_of_two) = (
            train(small, fields, count=count, dtype="float64") for count in (1, 2)
        )
    assert np.ptp(losses) > 1e-4
    np.testing.assert_allclose(losses_of_two, losses, rtol=0, atol=1e-8)
    leaves = [jax.tree.leaves((state.params, state.memory, state.sums)) for state in (one, two)]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_memory_is_met_from_its_start_on(small):
    fields = {"name": "supcon", **NEW["supcon"]}
    states, losses = update(small, fields)
    assert np.all(states[-1].memory.identities >= 0)  # four steps of 32 images, for 40 places
    plain = update(small, {**fields, "memory": 0})[1]
    np.testing.assert_allclose(losses[:3], plain[:3], rtol=1e-5)
    assert np.all(losses[3:] > plain[3:] + 0.1)  # more negatives


@pytest.mark.parametrize("name", ["nt_xent", "proxy_anchor"])
@pytest.mark.slow
def test_a_batch_in_parts_makes_the_same_step(name, small):
    """Also of a loss in which all images of the batch meet, which no mean over small batches is."""
    fields = {"name": name, **NEW[name]}
    sgd = optax.sgd(0.05)
    whole, losses = update(small, fields, steps=3, tx=sgd)
    parts, in_parts = update(small, fields, steps=3, tx=sgd, updating=Updating(micro_batches=4))
    np.testing.assert_allclose(in_parts, losses, rtol=1e-5)
    leaves = (jax.tree.leaves(states[-1].params) for states in (parts, whole))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_batch_in_parts_moves_the_statistics_of_each_part(small):
    fields = {"name": "nt_xent", **NEW["nt_xent"]}
    states, losses = update(
        small, fields, net=NETS["residual"], steps=2, updating=Updating(micro_batches=2)
    )
    assert np.all(np.isfinite(losses))
    before, after = (jax.tree.leaves(states[i].batch_stats) for i in (0, -1))
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_batch_that_does_not_divide_into_parts_is_refused(small):
    with pytest.raises(ValueError, match=r"does not divide into optim.accumulate = 3 parts"):
        train(small, {"name": "nt_xent", **NEW["nt_xent"]}, updating=Updating(micro_batches=3))


@pytest.mark.slow
def test_the_moving_average_is_that_of_a_loop(small):
    fields = {"name": "proxy_anchor", **NEW["proxy_anchor"]}
    expected = None
    states, _ = update(small, fields, steps=2, updating=Updating(ema=0.15), tx=optax.sgd(0.1))
    for steps, state in enumerate(states):
        params = jax.tree.leaves(state.params)
        if expected is None:
            expected = [np.copy(x) for x in params]  # begins at the first parameters
        else:
            decay = min(0.15, steps / (9 + steps))
            expected = [decay * a + (1 - decay) * w for a, w in zip(expected, params, strict=True)]
        for a, b in zip(jax.tree.leaves(state.ema), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert states[-1].variables["params"] is states[-1].ema


# --- schedules and clipping -------------------------------------------------------------------------


def test_schedules_after_a_warm_up():
    fields = {"warmup_steps": 4}
    steps = np.array([0, 1, 4, 9, 10, 19, 20, 29])
    constant = optim.schedule({**fields, "schedule": "constant"}, 30)
    np.testing.assert_allclose([constant(s) for s in steps], [0, 0.25, *[1] * 6], rtol=1e-6)
    stairs = optim.schedule({**fields, "schedule": "step"}, 30)  # a tenth at each third
    expected = [0, 0.25, 1, 1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose([stairs(s) for s in steps], expected, rtol=1e-5)
    stairs = optim.schedule(
        {"warmup_steps": 0, "schedule": "step", "decay": 0.5, "steps_per_epoch": 5}, 30
    )
    np.testing.assert_allclose([stairs(s) for s in (0, 4, 5, 10)], [1, 1, 0.5, 0.25])
    for cosine in ({**fields, "schedule": "cosine"}, fields):
        expected = [optax.warmup_cosine_decay_schedule(0.0, 1.0, 4, 30, 0.0)(s) for s in steps]
        np.testing.assert_array_equal([optim.schedule(cosine, 30)(s) for s in steps], expected)


def test_a_long_gradient_is_cut_to_the_norm():
    fields = {**ADAMW, "name": "adam", "rules": [(".*", 0.0)], "clip_norm": 2.0}
    tx, plain = optim.build(fields, 9), optim.build({**fields, "clip_norm": 0.0}, 9)
    params = {"w": jnp.array([0.0, 0.0])}
    state = tx.init(params)
    _, (_, after) = jax.jit(tx.update)({"w": jnp.array([30.0, 40.0])}, state, params)
    shorter = {"w": jnp.array([1.2, 1.6])}  # of norm 2
    _, cut = jax.jit(plain.update)(shorter, plain.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after, cut)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"schedule": "linear"}, r"optim.schedule must be one of .* got 'linear'"),
        ({"clip_norm": -1.0}, "optim.clip_norm must be 0 .* or more, got -1.0"),
        ({"ema": 1.0}, "optim.ema must be 0 .* below 1, got 1.0"),
        ({"accumulate": 0}, "optim.accumulate must be at least 1, got 0"),
        (
            {"name": "adam", "rules": [], "schedule": "step"},
            "optim.schedule goes with 'adamw' and 'muon'; 'adam' has its own",
        ),
    ],
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        optim.build({**ADAMW, **changes}, 10)


# --- the whole loop ---------------------------------------------------------------------------------


class Tracker:
    """What of a tracker of experiments is needed: `log(values, step=...)`, as of a run of wandb."""

    def __init__(self):
        self.rows = []

    def log(self, values, step=None):
        assert all(isinstance(value, int | float) for value in values.values())
        self.rows.append((step, values))


@pytest.mark.slow
def test_all_of_it_is_resumed_bit_for_bit_and_told_to_a_tracker(tmp_path):
    config = config_of("vectors", optim__accumulate=2, optim__ema=0.9, optim__clip_norm=1.0)
    with config.unlocked():
        config.optim.schedule = "step"
        config.model.comparator, config.model.head_args = "cosine", {"scale": 10.0}
        config.objective = {"name": "supcon", **NEW["supcon"], "pad_with_symmetries": True}
    programs, tracker = {}, Tracker()

    def on_log(step, phase, values):
        tracker.log({f"{phase}/{name}": value for name, value in values.items()}, step=step)

    one, two = tmp_path / "one", tmp_path / "two"
    summary = loop.train_and_evaluate(config, one, programs=programs, on_log=on_log)
    rows = workdir.read_metrics(one)
    expected = [
        (row.pop("step"), {f"{phase}/{name}": value for name, value in row.items()})
        for row in rows
        for phase in [row.pop("phase")]
    ]
    assert tracker.rows == expected
    count = iter(range(100))
    stops = loop.train_and_evaluate(
        config, two, programs=programs, should_stop=lambda: next(count) == 12
    )
    assert stops["step"] == 13 and not stops["finished"]
    assert loop.train_and_evaluate(config, two, programs=programs) == summary
    states, like = [], Experiment.from_config(config).init_state()
    for path in (one, two):
        saved = Checkpoints(path, read_only=True)
        states.append(saved.restore(saved.latest, like))
        saved.close()
    for a, b in zip(*(jax.tree.leaves(state.replace(rng=0)) for state in states), strict=True):
        np.testing.assert_array_equal(a, b)
    restored = states[0]
    assert np.all(np.asarray(restored.memory.identities) >= 0)
    net = siamese_jax.load(one, checkpoint="latest")  # the moving average, not the parameters
    average, last = (jax.tree.leaves(x) for x in (restored.ema, restored.params))
    loaded = jax.tree.leaves(net.variables["params"])
    for a, b in zip(loaded, average, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(loaded, last, strict=True))
