"""The compiled steps against plain loops, and one device against several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamese_jax.data import augment
from siamese_jax.inference.devices import Devices
from siamese_jax.inference.embed import (
    TTA_WARP,
    make_embed_step,
    make_one_shot_step,
    make_pair_step,
    to_float,
)
from siamese_jax.models import siamese
from siamese_jax.training import objectives, optim
from siamese_jax.training.sampling import SetIndex
from siamese_jax.training.step import (
    TrainState,
    draw_batch,
    init_state,
    make_train_step,
    preview_batch,
)

NETS = {  # at 16 x 16
    "koch": {
        "encoder": "koch",
        "encoder_args": {
            "filters": (3, 3, 3, 4),
            "kernels": (3, 2, 2, 1),
            "units": 6,
        },
        "comparator": "l1",
        "head_args": {},
    },
    "residual": {
        "encoder": "residual",
        "encoder_args": {"widths": (4, 6), "stem": 4, "stem_stride": 2, "units": 8},
        "comparator": "cosine",
        "head_args": {"scale": 10.0},
    },
    "small": {
        "encoder": "small",
        "encoder_args": {"filters": (2, 3), "hidden": (), "units": 6, "normalise": True},
        "comparator": "euclidean",
        "head_args": {},
    },
    "dense": {  # quick to compile
        "encoder": "dense",
        "encoder_args": {"hidden": (8,), "units": 6},
        "comparator": "euclidean",
        "head_args": {},
    },
}
OBJECTIVES = {
    "verification": {
        "name": "verification",
        "batch": 8,
        "negatives": "any",
        "symmetries": "none",
    },
    **{
        f"info_nce, {contrast} contrast": {
            "name": "info_nce",
            "episodes": 8,
            "n_way": 2,
            "pad_with_symmetries": False,
            "symmetries": "none",
            "contrast": contrast,
        }
        for contrast in objectives.CONTRASTS
    },
    "contrastive": {
        "name": "contrastive",
        "batch": 8,
        "negatives": "any",
        "symmetries": "none",
        "decorrelation": 0.5,
    },
    "triplet": {
        "name": "triplet",
        "episodes": 8,
        "n_way": 2,
        "pad_with_symmetries": False,
        "symmetries": "none",
        "mining": "semi_hard",
        "margin": 0.5,
    },
    **{
        name: {
            "name": name,
            "episodes": 8,
            "n_way": 2,
            "k_shot": 2,
            "pad_with_symmetries": False,
            "symmetries": "none",
        }
        for name in ("prototypical", "matching")
    },
    "classifier": {"name": "classifier", "batch": 8, "symmetries": "none"},
    "fixed pairs": {
        "name": "verification",
        "batch": 8,
        "negatives": "any",
        "symmetries": "none",
        "pairs": 36,
        "copies": 2,
    },
}
OPTIMISERS = {
    "layerwise": {
        "name": "layerwise",
        "rules": [(".*", 0.2, 0.9, 1e-3)],
        "steps_per_epoch": 5,
        "decay": 0.9,
        "momentum_start": 0.5,
        "momentum_epochs": 2,
    },
    "adamw": {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.05},
}
PLAIN = {"affine": None}


@pytest.fixture(scope="module")
def small(glyphs):
    """The glyphs at 16 x 16."""
    return glyphs.resized(16, 16)


def build(net, objective, optimiser, count=1, dtype="float32", **changes):
    """All that a train step is made of, on so many devices."""
    devices = Devices(count)
    built = objectives.build({**OBJECTIVES[objective], **changes}, 8, num_classes=48)
    model = siamese.build(
        {**NETS[net], "dtype": dtype}, axis_name=devices.axis_name, classes=built.classes
    )
    return devices, model, optim.build(OPTIMISERS[optimiser], 100), built


def made_up(model, image_shape, dtype="float32"):
    """Variables of any size, as after training; quicker than to compile the initialisation."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(1, 2, x.shape).astype(dtype)
        return (0.5 * rng.normal(size=x.shape)).astype(dtype)

    shapes = siamese.variable_shapes(model, image_shape)
    return jax.tree_util.tree_map_with_path(leaf, {"batch_stats": {}, **shapes})


def start(parts, small, dtype="float32"):
    """A state to begin from."""
    _, model, tx, objective = parts
    variables = made_up(model, small.image_shape, dtype)
    sums = {name: np.zeros((), dtype) for name in ("loss", *objective.metrics, "steps")}
    return TrainState(
        step=np.int32(0),
        rng=jax.random.split(jax.random.key(0))[1],
        opt_state=tx.init(variables["params"]),
        sums=sums,
        **variables,
    )


def train(small, parts, num_steps, dtype="float32", augmentation=PLAIN, index=None):
    """The state after some steps and the losses on the way."""
    devices, model, tx, objective = parts
    step = make_train_step(model, tx, objective, augmentation, devices)
    state = start(parts, small, dtype)
    index = SetIndex.of(small) if index is None else index
    state, images, index = devices.replicate((state, small.images, index))
    losses = []
    for _ in range(num_steps):
        state, metrics = step(state, images, index)
        losses.append(float(devices.first(metrics)["loss"]))
    return jax.device_get(devices.first(state)), np.array(losses)


def floats(state):
    """The parts of a state that training changes, as one list of arrays."""
    return jax.tree.leaves((state.params, state.batch_stats, state.sums))


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net, objective, optimiser, counts",
    [
        ("koch", "verification", "layerwise", (2, 8)),
        ("residual", "info_nce, batch contrast", "adamw", (2, 4)),
        ("dense", "info_nce, episode contrast", "layerwise", (8,)),
        ("small", "contrastive", "adamw", (4,)),
        ("dense", "triplet", "adamw", (4,)),
        ("dense", "prototypical", "adamw", (4,)),
        ("dense", "matching", "adamw", (4,)),
        ("dense", "classifier", "adamw", (4,)),
    ],
)
@pytest.mark.slow
def test_one_device_or_several_make_the_same_run(small, net, objective, optimiser, counts):
    with jax.enable_x64(True):
        runs = {
            count: train(small, build(net, objective, optimiser, count, "float64"), 20, "float64")
            for count in (1, *counts)
        }
    one, losses = runs[1]
    assert one.step == 20
    assert all(x.dtype == np.float64 for x in floats(one))
    assert np.ptp(losses) > 1e-3  # it moves
    for count in counts:
        np.testing.assert_allclose(runs[count][1], losses, rtol=0, atol=1e-8)
        for found, expected in zip(floats(runs[count][0]), floats(one), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_one_device_or_several_in_float32(small):
    parts = "residual", "info_nce, batch contrast", "layerwise"
    one, few = (train(small, build(*parts, count), 1)[0] for count in (1, 8))
    for found, expected in zip(floats(few), floats(one), strict=True):
        # Some statistics are above 5, where a float32 is 5e-7 from the next.
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=4e-6)


@pytest.mark.slow
def test_one_device_or_two_meet_the_same_fixed_pairs(small):
    """Warped by the pairs' own keys, over the border of the first epoch, 13.5 steps."""
    more = {"dtype": "float64", "augmentation": {"affine": augment.Affine()}}
    with jax.enable_x64(True):
        more["index"] = objectives.make_index(OBJECTIVES["fixed pairs"], small, 0)
        (one, losses), (two, two_losses) = (
            train(small, build("koch", "fixed pairs", "layerwise", count, "float64"), 15, **more)
            for count in (1, 2)
        )
    assert np.ptp(losses) > 1e-3
    np.testing.assert_allclose(two_losses, losses, rtol=0, atol=1e-8)
    for found, expected in zip(floats(two), floats(one), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_an_epoch_visits_every_example_once_and_copies_stay_the_same(small):
    """By the step's own sampling, gathering and warping: 36 pairs by 3 are 13.5 batches of 8."""
    fields = OBJECTIVES["fixed pairs"]
    objective, index = objectives.build(fields, 8), objectives.make_index(fields, small, 0)
    settings = {"affine": augment.Affine(), "elastic_size": 0.02}
    as_floats = jax.jit(to_float)

    @jax.jit
    def draw(rng, step):
        arguments = (jnp.asarray(small.images), index, objective, settings, Devices(1), False)
        batch, pixels = draw_batch(rng, step, *arguments)[:2]
        return batch.rows, batch.distort, batch.keys.reshape(-1), pixels

    @jax.jit
    def warp(keys, images):
        return augment.augment(keys, images, jnp.zeros(len(keys), jnp.int32), **settings)

    pairs = [tuple(pair) for pair in np.asarray(index.pairs.rows).tolist()]
    assert len(set(pairs)) == 36
    seen = []
    for step in range(27):  # two epochs
        rows, distort, keys, pixels = draw(jax.random.key(4), np.int32(step))
        rows, distort, pixels = jax.device_get((rows, distort, pixels))
        plain = np.asarray(as_floats(small.images[rows]))
        warped = np.asarray(warp(keys, plain.reshape(-1, 16, 16, 1))).reshape(plain.shape)
        kept = ~distort
        np.testing.assert_array_equal(pixels[kept], plain[kept])  # bit for bit
        np.testing.assert_allclose(pixels[~kept], warped[~kept], atol=1e-5)
        for pair, first_distorted, x in zip(rows, distort[:, 0], pixels, strict=True):
            seen.append((tuple(pair.tolist()), bool(first_distorted), x.tobytes()))
    epochs = seen[:108], seen[108:]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 108
        assert sorted(rows for rows, distort, _ in epoch if not distort) == sorted(pairs)
        assert sorted(rows for rows, distort, _ in epoch if distort) == sorted(2 * pairs)
    assert set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1]


@pytest.mark.slow
def test_a_step_is_sample_gather_forward_backward_update(small):
    """The compiled step against its parts, one after the other, each twin by itself."""
    parts = _, model, tx, objective = build("koch", "verification", "layerwise")
    begin = start(parts, small)
    found, losses = train(small, parts, 2)
    params, opt_state = begin.params, begin.opt_state

    @jax.jit
    @jax.value_and_grad
    def loss(params, pixels, labels):
        one, two = (
            model.apply({"params": params}, pixels[:, side], method="embed") for side in (0, 1)
        )
        logits = model.apply({"params": params}, one, two, method="compare")
        p = jax.nn.sigmoid(logits)
        return -jnp.mean(labels * jnp.log(p) + (1 - labels) * jnp.log(1 - p))

    @jax.jit
    def update(grads, opt_state, params):
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for i in range(2):
        batch, pixels = preview_batch(*(0, i, small.images, SetIndex.of(small), objective, PLAIN))
        expected = small.images[np.asarray(batch.rows)].astype(np.float32) / 255
        np.testing.assert_allclose(pixels, expected, atol=1e-6)
        value, grads = loss(params, pixels, batch.labels)
        np.testing.assert_allclose(losses[i], value, rtol=1e-5)
        params, opt_state = update(grads, opt_state, params)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(found.sums["loss"], losses.sum(), rtol=1e-6)
    assert found.sums["steps"] == 2


@pytest.mark.slow
def test_training_lowers_the_loss(small):
    augmentation = {"affine": augment.Affine()}
    parts = build("residual", "info_nce, batch contrast", "adamw", symmetries="alphabet")
    _, losses = train(small, parts, 100, augmentation=augmentation)
    assert losses[-10:].mean() < 0.85 * losses[:5].mean()


@pytest.mark.slow
def test_the_same_seed_and_step_give_the_same_batch(small):
    _, _, _, objective = build("koch", "verification", "layerwise", symmetries="character")
    settings = {"affine": augment.Affine(), "elastic_size": 0.02}

    def preview(seed, step):
        index = SetIndex.of(small)
        return preview_batch(seed, step, small.images, index, objective, settings)

    batch, pixels = preview(3, 5)
    again, same_pixels = preview(3, 5)
    jax.tree.map(np.testing.assert_array_equal, (batch, pixels), (again, same_pixels))
    assert pixels.shape == (8, 2, 16, 16, 1) and pixels.min() >= 0 and pixels.max() <= 1
    for other in (preview(3, 6), preview(4, 5)):
        assert not np.array_equal(batch.rows, other[0].rows)
        assert not np.array_equal(pixels, other[1])


@pytest.mark.slow
def test_the_first_state_follows_from_the_seed(small):
    _, model, tx, objective = build("dense", "verification", "layerwise")
    first, again, other = (
        init_state(model, tx, small.image_shape, seed, objective.metrics) for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    kernels = [state.params["encoder"]["embedding"]["kernel"] for state in (first, other)]
    assert not np.array_equal(*kernels)
    assert not np.array_equal(*(jax.random.key_data(state.rng) for state in (first, other)))
    assert first.step == 0 and set(first.sums) == {"loss", "accuracy", "steps"}
    assert not any(first.sums.values())


def test_a_batch_that_does_not_divide_is_refused():
    devices, model, tx, objective = build("koch", "verification", "layerwise", 4, batch=6)
    with pytest.raises(ValueError, match="= 6 does not divide among 4 devices"):
        make_train_step(model, tx, objective, PLAIN, devices)


# --- scoring --------------------------------------------------------------------------------------


def of_name(name, small):
    """A model and its variables."""
    model = siamese.build({**NETS[name], "dtype": "float32"})
    return model, made_up(model, small.image_shape)


@pytest.fixture(scope="module", params=["koch", "residual", "small"])
def net(request, small):
    return of_name(request.param, small)


@pytest.fixture(scope="module")
def residual(small):
    return of_name("residual", small)


def plain_score(net, image1, image2):
    """The logit of one pair of uint8 images: two passes of one image each."""
    model, variables = net
    h1, h2 = (
        _embed_one(model, variables, x[None].astype(np.float32) / 255) for x in (image1, image2)
    )
    return float(_compare_one(model, variables, h1, h2)[0])


@functools.partial(jax.jit, static_argnums=0)
def _compare_one(model, variables, h1, h2):
    return model.apply(variables, h1, h2, method="compare")


@functools.partial(jax.jit, static_argnums=0)
def _embed_one(model, variables, image):
    return model.apply(variables, image, method="embed")


def test_the_pair_step_is_a_loop_over_pairs(net, small):
    left, right = small.images[[0, 3, 70, 9]], small.images[[1, 200, 71, 130]]
    expected = [plain_score(net, *pair) for pair in zip(left, right, strict=True)]
    step, embed = make_pair_step(net[0], Devices(1)), make_embed_step(net[0], Devices(1))
    assert np.ptp(expected) > 1e-3
    pair = [embed(net[1], x) for x in (left, right)]
    np.testing.assert_allclose(step(net[1], *pair), expected, rtol=1e-4, atol=1e-5)
    pair = [embed(net[1], x.astype(np.float32) / 255) for x in (left, right)]
    np.testing.assert_allclose(step(net[1], *pair), expected, rtol=1e-4, atol=1e-5)


def test_the_one_shot_step_is_a_loop_over_all_pairs(net, small):
    queries, supports = small.images[[0, 60, 120]], small.images[[5, 65, 125, 300, 0]]
    expected = [[plain_score(net, q, s) for s in supports] for q in queries]
    embed = make_embed_step(net[0], Devices(1))
    table = make_one_shot_step(net[0], Devices(1))(
        net[1], *(embed(net[1], x) for x in (queries, supports))
    )
    assert table.shape == (3, 5)
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [8, 5])
def test_the_steps_on_several_devices(residual, small, rows):
    """The devices share the rows of the queries; each then holds the scores of all."""
    model, variables = residual
    one, two = Devices(1), Devices(2)
    embed = make_embed_step(model, one)
    h1, h2 = (np.asarray(embed(variables, small.images[i : i + rows])) for i in (0, 100))
    table = one.call(make_one_shot_step(model, one), variables, [h1], [h2])
    variables2 = two.replicate(variables)
    tables = two.call(make_one_shot_step(model, two), variables2, [h1], [h2])
    np.testing.assert_allclose(tables, table, rtol=1e-4, atol=1e-5)
    pairs = two.call(make_pair_step(model, two), variables2, [h1, h2])
    np.testing.assert_allclose(pairs, np.diag(table), rtol=1e-4, atol=1e-5)
    step, shared = make_pair_step(model, two), [x[:4].reshape(2, 2, -1) for x in (h1, h2)]
    on_each = np.asarray(step(variables2, *shared))
    np.testing.assert_array_equal(on_each[0], on_each[1])
    np.testing.assert_allclose(on_each[0], np.diag(table)[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.slow
def test_padding_changes_no_embedding(small, residual, count):
    model, variables = residual
    devices = Devices(count)
    step = make_embed_step(model, devices)
    images = small.images[:21]
    expected = _embed_one(model, variables, images.astype(np.float32) / 255)
    on_devices = devices.replicate(variables)
    shapes = set()

    def noted(variables, images):
        shapes.add(images.shape)
        return step(variables, images)

    for length, batch in [(21, 8), (21, 6), (16, 8), (3, 8), (1, 8)]:
        found = devices.batches(noted, on_devices, images[:length], batch)
        np.testing.assert_allclose(found, expected[:length], rtol=1e-4, atol=1e-5)
    assert len(shapes) <= 4


# --- devices --------------------------------------------------------------------------------------


def test_devices():
    assert Devices(0).count == jax.device_count() == 8
    for count in (9, -1):
        with pytest.raises(ValueError, match=f"num_devices is {count}, but there are 8 devices"):
            Devices(count)
    tree = {"a": np.arange(3), "b": np.float32(2)}
    for count in (1, 3):
        devices = Devices(count)
        copies = devices.replicate(tree)
        assert copies["a"].shape == ((3,) if count == 1 else (3, 3))
        jax.tree.map(np.testing.assert_array_equal, devices.first(copies), tree)


def test_pixels_become_floats():
    np.testing.assert_allclose(to_float(jnp.array([0, 51, 255], jnp.uint8)), [0, 0.2, 1])
    np.testing.assert_array_equal(to_float(jnp.array([0.3, 7.0])), jnp.array([0.3, 7.0]))


@pytest.mark.slow
def test_test_time_augmentation_is_the_mean_of_warped_images(small):
    """Against warping and embedding one by one; with tta = 1 the image is as it is."""
    _, model, _, _ = build("koch", "verification", "adamw")
    variables = {"params": made_up(model, small.image_shape)["params"]}
    images = small.images[:5]
    one, three = (make_embed_step(model, Devices(1), n)(variables, images) for n in (1, 3))
    pixels = images.astype(np.float32) / 255
    seen = [pixels]

    @jax.jit
    def warp(key, image):
        return augment.augment(key[None], image[None], np.zeros(1, np.int32), affine=TTA_WARP)

    for key in jax.random.split(jax.random.key(0), 2):
        seen.append(np.concatenate([warp(key, image) for image in pixels]))
    h = np.stack([_embed_one(model, variables, x) for x in seen]).astype(np.float64)
    np.testing.assert_allclose(one, h[0], atol=1e-5)
    length = np.linalg.norm(h, axis=-1).mean(0)
    mean = h.mean(0)
    expected = mean * (length / np.linalg.norm(mean, axis=-1))[:, None]
    np.testing.assert_allclose(three, expected, atol=1e-5)
    assert np.abs(three - one).max() > 1e-3
    with pytest.raises(ValueError, match="at least 1; got 0"):
        make_embed_step(model, Devices(1), 0)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        make_embed_step(model, Devices(1), 1.5)
