"""Steps that the host feeds against steps whose device holds the whole set: the same batches."""

import threading

import jax
import numpy as np
import pytest
from recipes import get_config
from test_data_omniglot import TINY, tiny_files, write

from siamese_jax.data import augment, loading, omniglot, splits
from siamese_jax.data.image_set import StreamedImages, resize_images
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese
from siamese_jax.runs import checkpoints, workdir
from siamese_jax.training import host_feed, loop, objectives, optim
from siamese_jax.training.sampling import SetIndex
from siamese_jax.training.step import draw_batch, init_state, make_rows, make_train_step

MODEL = {
    "encoder": "dense",
    "encoder_args": {"hidden": (), "units": 6},
    "comparator": "cosine",
    "head_args": {"scale": 10.0},
    "dtype": "float32",
}
EPISODES = {
    "name": "info_nce",
    "episodes": 4,
    "n_way": 3,
    "pad_with_symmetries": False,
    "symmetries": "alphabet",
    "contrast": "batch",
}
FIXED_PAIRS = {
    "name": "verification",
    "batch": 8,
    "negatives": "any",
    "symmetries": "none",
    "pairs": 12,
    "copies": 2,
}
# Drawn by each image's key, and exact: two programs round anything else each in its own way.
WARPS = {"affine": augment.Affine(probability=0), "mirror": True}
OPTIMISER = {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def small(glyphs):
    """The glyphs at 16 x 16."""
    return glyphs.resized(16, 16)


def no_thread_is_left():
    return not [t for t in threading.enumerate() if t.name.startswith("host-feed")]


@pytest.fixture(scope="module")
def begin(small):
    """The state before the first step."""
    tx = optim.build(OPTIMISER, 100)
    return init_state(siamese.build(MODEL), tx, small.image_shape, 0, ("accuracy",))


def run(image_set, begin, count, fed, fields=EPISODES, num_steps=10):
    """The parameters and sums after some steps, and the loss of each."""
    devices = Devices(count)
    model = siamese.build(MODEL, axis_name=devices.axis_name)
    tx = optim.build(OPTIMISER, 100)
    objective = objectives.build(fields, 8)
    step = make_train_step(model, tx, objective, WARPS, devices, fed)
    index = objectives.make_index(fields, image_set, 0)
    state, all_index = devices.replicate((begin, index))
    losses = []
    if fed:
        with host_feed.HostFeed(
            image_set.images, objective, index, begin.rng, 0, devices
        ) as batches:
            for images in (next(batches) for _ in range(num_steps)):
                state, metrics = step(state, images, all_index)
                losses.append(float(devices.first(metrics)["loss"]))
    else:
        images = devices.replicate(image_set.images)
        for _ in range(num_steps):
            state, metrics = step(state, images, all_index)
            losses.append(float(devices.first(metrics)["loss"]))
    return jax.device_get(devices.first((state.params, state.batch_stats, state.sums))), losses


@pytest.mark.parametrize("count, fields", [(4, EPISODES), (2, FIXED_PAIRS)])
@pytest.mark.slow
def test_either_way_makes_the_same_run(small, begin, count, fields):
    held, losses = run(small, begin, count, False, fields)
    fed, fed_losses = run(small, begin, count, True, fields)
    assert fed_losses[0] == losses[0] and np.ptp(losses) > 1e-3
    np.testing.assert_allclose(fed_losses, losses, rtol=1e-6)  # two programs round in two ways
    jax.tree.map(lambda *x: np.testing.assert_allclose(*x, rtol=1e-4, atol=2e-4), fed, held)
    assert no_thread_is_left()


@pytest.mark.parametrize("fields", [EPISODES, FIXED_PAIRS])
@pytest.mark.slow
def test_either_way_draws_the_same_pixels(small, fields):
    """Bit for bit, of several steps."""
    objective = objectives.build(fields, 8)
    index, rng = objectives.make_index(fields, small, 0), jax.random.key(5)
    rows = make_rows(objective)

    def draw(fed):
        return jax.jit(
            lambda step, images: draw_batch(
                *(rng, step, images, index, objective, WARPS, Devices(1), fed)
            )[1]
        )

    held, fed = draw(False), draw(True)
    seen = []
    for step in range(4):
        expected = held(step, small.images)
        given = small.images[np.asarray(rows(rng, np.int32(step), index)).reshape(-1)]
        np.testing.assert_array_equal(fed(step, given), expected)
        seen.append(expected)
    assert np.abs(seen[0] - seen[1]).max() > 0.5


def test_each_process_reads_the_rows_of_its_own_devices(small):
    """Of four devices a process that has the last two reads the last two's."""
    objective = objectives.build(EPISODES, 8)
    index, rng = SetIndex.of(small), jax.random.key(3)
    rows = np.asarray(make_rows(objective)(rng, np.int32(5), index))
    devices = Devices(4)
    np.testing.assert_array_equal(devices.local_part(rows), rows)
    devices._mine = slice(2, 4)
    rows_read = []

    class Noted:
        def __getitem__(self, rows):
            rows_read.append(rows)
            raise KeyError("enough")

    with (
        host_feed.HostFeed(Noted(), objective, index, rng, 5, devices, depth=1) as batches,
        pytest.raises(KeyError, match="enough"),
    ):
        next(batches)
    np.testing.assert_array_equal(rows_read[0], rows[2:].reshape(-1))


# --- whole runs -----------------------------------------------------------------------------------


def smoke(**changes):
    """The config `quickstart.py:vector,smoke` with one layer, which compiles quickly, and changes."""
    config = get_config("quickstart", "vector,smoke")
    with config.unlocked():
        config.model.encoder, config.model.encoder_args = "dense", MODEL["encoder_args"]
        config.augment.affine.probability, config.augment.mirror = 0.0, True  # as `WARPS`
    config.update_from_flattened_dict(changes)
    return config


def figures(path):
    return [
        (row["step"], row["phase"], row.get("loss"), row["accuracy"])
        for row in workdir.read_metrics(path)
    ]


@pytest.mark.slow
def test_a_run_on_one_device_resumes_with_the_other_feed(tmp_path):
    programs = {}
    loop.train_and_evaluate(smoke(feed="device"), str(tmp_path / "held"), programs=programs)
    path = tmp_path / "both"
    answers = iter([False] * 6 + [True])
    done = loop.train_and_evaluate(
        *(smoke(feed="device"), str(path)), should_stop=lambda: next(answers), programs=programs
    )
    assert done["step"] == 7 and not done["finished"]
    assert loop.train_and_evaluate(smoke(feed="host"), str(path))["finished"]
    assert figures(path) == figures(tmp_path / "held")
    assert [row[:2] for row in figures(path)][-2:] == [(20, "train"), (20, "validation")]
    actual, expected = (
        checkpoints.Checkpoints(p, read_only=True).variables(20) for p in (path, tmp_path / "held")
    )
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert no_thread_is_left()


# --- choice and failure ---------------------------------------------------------------------------


class Device:
    """As much of a device as the choice asks for."""

    process_index = 0

    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_auto_chooses_by_size(small):
    devices = Devices(2)
    size = small.images.size
    assert devices.memory is None  # of the CPU
    assert not host_feed.from_host("auto", small.images, devices)
    gibibytes = StreamedImages(None, np.broadcast_to(0, 2 << 30), (1, 1, 1))
    for images, limits, expected in [
        (small.images, (2 * size + 1, 9 * size), False),
        (small.images, (9 * size, 2 * size), True),
        (np.broadcast_to(np.uint8(0), ((2 << 30) - 1, 1, 1, 1)), None, False),
        (np.broadcast_to(np.uint8(0), (2 << 30, 1, 1, 1)), None, True),
        (gibibytes, (1 << 40, 1 << 40), True),  # streamed: not to be held anywhere
    ]:
        devices._all = [Device(limits and {"bytes_limit": limit}) for limit in limits or (0, 0)]
        assert host_feed.from_host("auto", images, devices) is expected
    assert host_feed.from_host("host", small.images, devices)
    assert not host_feed.from_host("device", gibibytes, devices)
    with pytest.raises(ValueError, match="feed must be one of .*, got 'disk'"):
        host_feed.from_host("disk", small.images, devices)


def test_a_failing_source_is_heard_and_the_thread_ends(small):
    class Failing:
        calls = 0

        def __getitem__(self, rows):
            self.calls += 1
            if self.calls == 3:
                raise ValueError("the disk is gone")
            return small.images[rows]

    objective = objectives.build(EPISODES, 8)
    source = Failing()
    with host_feed.HostFeed(
        *(source, objective, SetIndex.of(small), jax.random.key(0), 0, Devices(1))
    ) as batches:
        assert next(batches).shape == next(batches).shape == (24, 16, 16, 1)
        with pytest.raises(ValueError, match="^the disk is gone$"):
            next(batches)
    assert no_thread_is_left()


def test_it_reads_no_further_ahead_than_its_depth(small):
    read = []
    seen = threading.Event()

    class Noted:
        def __getitem__(self, rows):
            read.append(rows)
            if len(read) == 3:
                seen.set()
            return small.images[rows]

    objective = objectives.build(EPISODES, 8)
    with host_feed.HostFeed(
        *(Noted(), objective, SetIndex.of(small), jax.random.key(0), 0, Devices(1)), depth=2
    ) as batches:
        next(batches)
        assert seen.wait(10)
    assert len(read) == 3


# --- images that stay on disk ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The builder of a tiny set like Omniglot."""
    folder = tmp_path_factory.mktemp("tiny")
    return omniglot.prepare(folder / "data", write(folder / "zips", tiny_files()), layout=TINY)


def test_an_image_is_resized_the_same_whatever_stands_beside_it():
    """From 20 to 30 pixels many sums are a half, which rounds by the last bit of the arithmetic."""
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 1)).astype(np.uint8)
    whole = resize_images(images, 30, 30)
    for count in (1, 3):
        for begin in range(0, 40, count):
            part = resize_images(images[begin : begin + count], 30, 30)
            np.testing.assert_array_equal(part, whole[begin : begin + count])


def test_streamed_images_are_those_in_memory(tiny):
    held = omniglot.load_background(tiny)
    streamed = omniglot.load_background(tiny, stream=True)
    assert isinstance(streamed.images, StreamedImages) and isinstance(held.images, np.ndarray)
    assert streamed.fingerprint == held.fingerprint
    for change in [
        lambda s: s,
        lambda s: s.resized(28, 30),
        lambda s: s.resized(28, 30).select(alphabets=["Beta_(old)"], drawers=[2, 4]),
        lambda s: s.select(classes=[1, 4]).resized(20, 20).resized(30, 30),
    ]:
        a, b = change(held).images, change(streamed).images
        assert isinstance(b, StreamedImages)
        assert (b.shape, b.dtype, b.ndim, len(b)) == (a.shape, a.dtype, a.ndim, len(a))
        for rows in [
            *(slice(None), 1, slice(1, 4), np.array([2, 0, 2]), np.array([[1, 0], [3, 1]])),
            np.arange(len(a)) % 2 == 0,
            np.array([], int),
        ]:
            np.testing.assert_array_equal(b[rows], a[rows])
    np.testing.assert_array_equal(streamed.grid(), held.grid())


def test_load_streams_the_images_to_train_on(tiny, monkeypatch):
    monkeypatch.setattr(omniglot, "prepare", lambda *_: tiny)
    monkeypatch.setattr(splits, "VALIDATION_ALPHABETS", ("Delta",))
    monkeypatch.setattr(splits, "TEST_ALPHABETS", ("Gamma",))
    fields = {"name": "omniglot", "image_size": (28, 28)}
    held, streamed = (loading.load({**fields, "stream": s}) for s in (False, True))
    assert isinstance(streamed.train.images, StreamedImages)
    assert isinstance(streamed.validation.images, np.ndarray)
    assert streamed.fingerprint == held.fingerprint
    with pytest.raises(ValueError, match="stream goes with Omniglot and folders; 'glyphs'"):
        loading.load({"name": "glyphs", "stream": True})


@pytest.mark.slow
def test_streamed_images_feed_the_same_batches(tiny):
    parts = omniglot.load_background(tiny), omniglot.load_background(tiny, stream=True)
    objective = objectives.build(EPISODES, 3)
    rng, devices = jax.random.key(0), Devices(2)
    with (
        host_feed.HostFeed(
            parts[0].images, objective, SetIndex.of(parts[0]), rng, 3, devices
        ) as held,
        host_feed.HostFeed(
            parts[1].images, objective, SetIndex.of(parts[1]), rng, 3, devices
        ) as fed,
    ):
        seen = [next(held) for _ in range(4)]
        for expected in seen:
            actual = next(fed)
            assert actual.shape == (2, 12, 105, 105, 1)
            np.testing.assert_array_equal(actual, expected)
    assert not np.array_equal(seen[0], seen[1])


def test_damaged_records_are_named(tmp_path):
    builder = omniglot.prepare(
        tmp_path / "data", write(tmp_path / "zips", tiny_files()), layout=TINY
    )
    images = omniglot.load_background(builder, stream=True).images
    with pytest.raises(ValueError, match="the prepared split 'background' is damaged"):
        images.read(np.array([10_000]))


@pytest.mark.slow
def test_streamed_omniglot_is_omniglot(prepared_omniglot):
    held = omniglot.load_background(prepared_omniglot)
    streamed = omniglot.load_background(prepared_omniglot, stream=True)
    np.testing.assert_array_equal(streamed.classes, held.classes)
    rows = np.random.default_rng(0).choice(len(held), 300, replace=False)
    np.testing.assert_array_equal(streamed.images[rows], held.images[rows])
    size = 56, 56
    some = held.select(classes=range(0, 960, 64)).resized(*size)
    np.testing.assert_array_equal(
        streamed.select(classes=range(0, 960, 64)).resized(*size).images[::-1], some.images[::-1]
    )
