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
from siamese_jax.training import loop, objectives, optim
from siamese_jax.training.sampling import SetIndex
from siamese_jax.training.step import Updating, init_state, make_train_step

from test_loop import config_of  # isort: skip
from networks import SMALL_KOCH, SMALL_RESIDUAL  # isort: skip

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
KOCH = {**SMALL_KOCH, "comparator": "cosine", "head_args": {"scale": 5.0}}


def train(small, fields, *, net=KOCH, count=1, steps=6, updating=None, tx=None, double=False):
    """The state after some steps, and their losses."""
    devices = Devices(count)
    objective = objectives.build(fields, 8, 48)
    net = {**net, "dtype": "float64"} if double else net
    model = siamese.build(net, small.image_shape, devices.axis_name, objective.classes)
    tx = tx or optim.build(ADAMW, 50)
    updating = updating or Updating()
    step = make_train_step(
        model, tx, objective, {"affine": None}, "paper", devices, updating=updating
    )
    state = init_state(
        model,
        tx,
        small.image_shape,
        0,
        objective.metrics,
        ema=bool(updating.ema),
        memory=objective.memory,
    )
    if double:
        wide = (state.params, state.batch_stats, state.opt_state, state.sums, state.memory)
        wide = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, wide)
        names = ("params", "batch_stats", "opt_state", "sums", "memory")
        state = state.replace(**dict(zip(names, wide, strict=True)))
    state, images, index = devices.replicate((state, small.images, SetIndex.of(small)))
    values = []
    for _ in range(steps):
        state, metrics = step(state, images, index)
        values.append(float(devices.first(metrics)["loss"]))
    return jax.device_get(devices.first(state)), np.array(values)


@pytest.fixture(scope="module")
def small(glyphs):
    """The glyphs at 32 x 32."""
    return glyphs.resized(32, 32)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.slow
def test_the_named_objectives_train_alike_on_one_device_and_on_two(name, small):
    fields = {"name": name, **NEW[name]}
    with jax.enable_x64(True):
        (one, losses), (two, losses_of_two) = (
            train(small, fields, count=count, double=True) for count in (1, 2)
        )
    assert np.all(np.isfinite(losses)) and np.ptp(losses) > 1e-4
    np.testing.assert_allclose(losses_of_two, losses, rtol=0, atol=1e-8)
    leaves = [jax.tree.leaves((state.params, state.memory, state.sums)) for state in (one, two)]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
    if name == "supcon":  # two of six steps are not remembered, of the four others 40 images fit
        assert np.all(one.memory.identities >= 0)
        with jax.enable_x64(True):
            plain = train(small, {**fields, "memory": 0}, double=True)[1]
        np.testing.assert_array_equal(losses[:3], plain[:3])
        assert np.all(losses[3:] != plain[3:])


@pytest.mark.parametrize("name", ["supcon", "proxy_anchor"])
@pytest.mark.slow
def test_a_batch_in_parts_makes_the_same_step(name, small):
    """Also of a loss in which all images of the batch meet, which no mean over small batches is."""
    fields = {"name": name, **NEW[name]}
    sgd = optax.sgd(0.05)
    whole, losses = train(small, fields, steps=3, tx=sgd)
    for parts in (2, 4):
        state, in_parts = train(small, fields, steps=3, tx=sgd, updating=Updating(parts=parts))
        np.testing.assert_allclose(in_parts, losses, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_batch_in_parts_moves_the_statistics_of_each_part(small):
    fields = {"name": "nt_xent", **NEW["nt_xent"]}
    state, losses = train(small, fields, net=SMALL_RESIDUAL, steps=4, updating=Updating(parts=2))
    whole, _ = train(small, fields, net=SMALL_RESIDUAL, steps=4)
    assert np.all(np.isfinite(losses))
    leaves = zip(
        jax.tree.leaves(state.batch_stats), jax.tree.leaves(whole.batch_stats), strict=True
    )
    assert any(not np.array_equal(a, b) for a, b in leaves)


def test_a_batch_that_does_not_divide_into_parts_is_refused(small):
    with pytest.raises(ValueError, match=r"does not divide into optim.accumulate = 3 parts"):
        train(small, {"name": "nt_xent", **NEW["nt_xent"]}, updating=Updating(parts=3))


def test_the_moving_average_is_that_of_a_loop(small):
    fields = {"name": "proxy_anchor", **NEW["proxy_anchor"]}
    expected = None
    for steps in range(4):
        state, _ = train(small, fields, steps=steps, updating=Updating(ema=0.15), tx=optax.sgd(0.1))
        params = jax.tree.leaves(state.params)
        if expected is None:
            expected = [np.copy(x) for x in params]  # begins at the first parameters
        else:
            decay = min(0.15, steps / (9 + steps))
            expected = [decay * a + (1 - decay) * w for a, w in zip(expected, params, strict=True)]
        for a, b in zip(jax.tree.leaves(state.ema), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert state.variables["params"] is state.ema


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
        expected = [optim.cosine_schedule(1.0, 4, 30)(s) for s in steps]
        np.testing.assert_array_equal([optim.schedule(cosine, 30)(s) for s in steps], expected)


def test_a_long_gradient_is_cut_to_the_norm():
    fields = {**ADAMW, "name": "adam", "rules": [(".*", 0.0)], "clip_norm": 2.0}
    tx, plain = optim.build(fields, 9), optim.build({**fields, "clip_norm": 0.0}, 9)
    params = {"w": jnp.array([0.0, 0.0])}
    state = tx.init(params)
    _, (_, after) = tx.update({"w": jnp.array([30.0, 40.0])}, state, params)
    _, cut = plain.update({"w": jnp.array([1.2, 1.6])}, plain.init(params), params)  # of norm 2
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
    config = config_of("quickstart", optim__accumulate=2, optim__ema=0.9, optim__clip_norm=1.0)
    with config.unlocked():
        config.optim.schedule = "step"
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
    states = []
    for path in (one, two):
        saved = Checkpoints(path, read_only=True)
        states.append(saved._manager.restore(saved.latest))
        saved.close()
    jax.tree.map(np.testing.assert_array_equal, *states)
    restored = states[0]
    assert np.all(np.asarray(restored["memory"]["identities"]) >= 0)
    net = siamese_jax.load(one, checkpoint="latest")  # the moving average, not the parameters
    average, last = (jax.tree.leaves(restored[name]) for name in ("ema", "params"))
    loaded = jax.tree.leaves(net.variables["params"])
    for a, b in zip(loaded, average, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(loaded, last, strict=True))
