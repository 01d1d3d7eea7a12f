"""ResNet and ViT: equal to torchvision's and timm's own, started from their weights, tuned in stages."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import torch_outputs

from siamese_jax.models import siamese
from siamese_jax.models.resnet import ResNetEncoder
from siamese_jax.models.vit import ViTEncoder
from siamese_jax.training import fine_tuning

TORCH = json.loads(torch_outputs.FILE.read_text())
BARE = {"project": False, "output": "linear"}
ENCODERS = {
    "resnet18": ResNetEncoder(**BARE),
    "bottlenecks": ResNetEncoder(stages=(1, 1, 1, 1), bottleneck=True, **BARE),
    "vit": ViTEncoder(patch=8, width=48, depth=3, heads=3, **BARE),
}
TINY = {"stages": (1, 1), "width": 4, "small_inputs": True, "units": 6}


def state_of(case):
    return {
        name: torch_outputs.array_of(name, shape) for name, shape in TORCH[case]["shapes"].items()
    }


def shapes_of(encoder, image_shape):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), images)


def nested(arrays):
    tree = {}
    for name, x in arrays.items():
        *parents, leaf = name.split("/")
        part = tree
        for parent in parents:
            part = part.setdefault(parent, {})
        part[leaf] = x
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("case", list(ENCODERS))
def test_the_outputs_are_those_of_torch(case):
    encoder, images = ENCODERS[case], torch_outputs.pictures(case)
    variables = nested(encoder.read_state(state_of(case), images.shape[1:]))
    expected = shapes_of(encoder, images.shape[1:])
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    found = np.asarray(jax.jit(encoder.apply)(variables, images))
    assert found.shape == (2, TORCH[case]["size"])
    outputs = np.array(TORCH[case]["outputs"])
    assert outputs.std() > 0.1 and np.abs(outputs[0] - outputs[1]).max() > 0.01
    np.testing.assert_allclose(found[:, : torch_outputs.FEATURES], outputs, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_sizes_are_those_of_the_libraries():
    """Parameters without the classifier, as torchvision and timm document them with it."""
    for encoder, classifier, documented in (
        (ResNetEncoder(**BARE), 512 * 1000 + 1000, 11_689_512),
        (ResNetEncoder((3, 4, 6, 3), True, **BARE), 2048 * 1000 + 1000, 25_557_032),
        (ViTEncoder(**BARE), 384 * 1000 + 1000, 22_050_664),
    ):
        params = shapes_of(encoder, (224, 224, 3))["params"]
        assert sum(x.size for x in jax.tree.leaves(params)) + classifier == documented


@pytest.mark.slow
def test_a_stem_for_small_inputs_keeps_their_size():
    maps = {}

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        maps["/".join(context.module.path)] = out.shape
        return out

    import flax.linen as nn

    for small, side in ((True, 32), (False, 8)):
        with nn.intercept_methods(record):
            shapes_of(ResNetEncoder(small_inputs=small), (32, 32, 3))
        assert maps["layer1_1"] == (1, side, side, 64)
        assert maps["layer4_1"] == (1, side // 8, side // 8, 512)


@pytest.mark.slow
def test_grey_pictures_are_three_equal_channels():
    encoder = ResNetEncoder(**TINY)
    grey = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    apply = jax.jit(encoder.apply)
    variables = jax.jit(encoder.init)(jax.random.key(0), grey)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 4)
    np.testing.assert_allclose(
        apply(variables, grey), apply(variables, np.repeat(grey, 3, -1)), atol=1e-6
    )
    one = ResNetEncoder(**TINY, pixel_mean=(0.5,), pixel_std=(0.25,))
    assert shapes_of(one, (8, 8, 1))["params"]["conv1"]["kernel"].shape == (3, 3, 1, 4)


def test_positions_are_resized_to_the_grid_of_the_pictures():
    """A plane of positions stays a plane, away from its border, where the kernel is cut off."""
    encoder = ViTEncoder(patch=4, width=2, depth=1, heads=1, **BARE)
    rows, columns = np.mgrid[:8, :8] / 8 + 1 / 16
    grid = np.stack([rows, columns], -1).reshape(1, 64, 2).astype(np.float32)
    positions = np.concatenate([np.full((1, 1, 2), 7, np.float32), grid], 1)
    found = encoder.read_state({"pos_embed": positions}, (64, 48, 3))["params/pos_embed"]
    assert found.shape == (1, 1 + 16 * 12, 2) and (found[0, 0] == 7).all()
    resized = found[0, 1:].reshape(16, 12, 2)[4:-4, 4:-4]
    rows, columns = np.mgrid[4:12, 4:8]
    np.testing.assert_allclose(resized[..., 0], (rows + 0.5) / 16, atol=1e-6)
    np.testing.assert_allclose(resized[..., 1], (columns + 0.5) / 12, atol=1e-6)
    as_many = encoder.read_state({"pos_embed": positions}, (16, 64, 3))["params/pos_embed"]
    assert as_many.shape == positions.shape  # 4 x 16 of 8 x 8
    resized = as_many[0, 1:].reshape(4, 16, 2)[1:-1, 4:-4]
    np.testing.assert_allclose(resized[..., 0], [[3 / 8] * 8, [5 / 8] * 8], atol=0.01)
    same = encoder.read_state({"pos_embed": positions}, (32, 32, 3))["params/pos_embed"]
    np.testing.assert_array_equal(same, positions)


# --- the weights of a file ------------------------------------------------------------------------


def network(**more):
    fields = {"encoder": "resnet", "encoder_args": {**TINY, **more}, "dtype": "float32"}
    return siamese.build({**fields, "comparator": "cosine", "head_args": {}})


def variables_of(net, seed=0):
    images = jnp.zeros((1, 8, 8, 3))
    return jax.jit(net.init)(jax.random.key(seed), images, images)


def torch_names(variables):
    """A state dict as torchvision would name the tiny network's."""
    leaf_names = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
    leaf_names |= {"var": "running_var", "bias": "bias"}
    state = {}
    for kind in ("params", "batch_stats"):
        for path, x in jax.tree_util.tree_leaves_with_path(variables[kind]["encoder"]):
            *parts, leaf = [key.key for key in path]
            if parts[0] == "embedding":
                continue
            name = ".".join([*parts, leaf_names[leaf]]).replace("downsample_conv", "downsample.0")
            name = name.replace("downsample_bn", "downsample.1")
            for stage in ("layer1_0", "layer2_0"):
                name = name.replace(stage, stage.replace("_", "."))
            x = np.asarray(x)
            state[name] = np.ascontiguousarray(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x)
    return {**state, "fc.weight": np.zeros((3, 8), np.float32), "fc.bias": np.zeros(3, np.float32)}


@pytest.fixture(scope="module")
def tiny():
    net = network()
    return net, variables_of(net, 0), variables_of(net, 1)


def test_an_encoder_starts_from_a_file_and_the_rest_stays(tiny, tmp_path):
    net, here, there = tiny
    file = tmp_path / "resnet.safetensors"
    safetensors.numpy.save_file(torch_names(there), file)
    found = fine_tuning.start_from(file, net.encoder, (8, 8, 3), here)
    for path, x in jax.tree_util.tree_leaves_with_path(found):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        taken = name.split("/")[1] == "encoder" and "embedding" not in name
        source = there if taken else here
        expected = functools.reduce(lambda tree, key: tree[key.key], path, source)
        np.testing.assert_array_equal(x, expected, err_msg=name)


def test_weights_of_another_encoder_are_refused_in_one_line(tiny, tmp_path):
    net, here, there = tiny
    state = torch_names(there)
    broken = {
        "lacks": {x: y for x, y in state.items() if x != "layer2.0.conv1.weight"},
        "it has too params/layer3_0/conv1/kernel": {
            **state,
            "layer3.0.conv1.weight": np.zeros((4, 4, 3, 3), np.float32),
        },
        r"shapes params/conv1/kernel \(7, 7, 3, 4\) for \(3, 3, 3, 4\)": {
            **state,
            "conv1.weight": np.zeros((4, 3, 7, 7), np.float32),
        },
    }
    for words, arrays in broken.items():
        file = tmp_path / "x.safetensors"
        safetensors.numpy.save_file(arrays, file)
        with pytest.raises(ValueError, match=words) as caught:
            fine_tuning.start_from(file, net.encoder, (8, 8, 3), here)
        assert "\n" not in str(caught.value)
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        fine_tuning.start_from(tmp_path / "no.safetensors", net.encoder, (8, 8, 3), here)
    with pytest.raises(ValueError, match="no such file"):
        fine_tuning.start_from(tmp_path / "gone.safetensors", net.encoder, (8, 8, 3), here)


# --- stages ---------------------------------------------------------------------------------------


def stages_of(net, variables):
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"]["encoder"])
    }
    return {name: net.encoder.stage_of(name) for name in names}


def test_every_parameter_has_its_stage(tiny):
    stages = stages_of(tiny[0], tiny[1])
    assert stages["conv1/kernel"] == stages["bn1/bias"] == 0
    assert stages["layer1_0/conv2/kernel"] == 1
    assert stages["layer2_0/downsample_bn/scale"] == 2
    assert stages["embedding/kernel"] == tiny[0].encoder.num_stages == 3
    vit = ViTEncoder(depth=2)
    names = ("patch_embed/kernel", "cls_token", "pos_embed", "block2/fc1/bias", "norm/scale")
    assert [vit.stage_of(name) for name in names] == [0, 0, 0, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 2, 3])
def test_frozen_stages_and_their_statistics_stay(tiny, frozen):
    net, variables = network(frozen=frozen), tiny[1]
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype(np.float32)
    tx = fine_tuning.by_stage(optax.adamw(0.1, weight_decay=0.5), net.encoder)

    @jax.jit
    def step(variables):
        def loss(params):
            h, updated = net.apply(
                {**variables, "params": params}, images, True, method="embed", mutable="batch_stats"
            )
            return (h[:, 0] * jnp.arange(4)).sum(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, _ = tx.update(grads, tx.init(variables["params"]), variables["params"])
        return optax.apply_updates(variables["params"], updates), updated["batch_stats"]

    params, statistics = step(variables)
    for kind, new in (("params", params), ("batch_stats", statistics)):
        for path, old in jax.tree_util.tree_leaves_with_path(variables[kind]["encoder"]):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            x = functools.reduce(lambda tree, key: tree[key.key], path, new["encoder"])
            moved = not np.array_equal(x, old)
            assert moved == (net.encoder.stage_of(name) >= frozen), name


def test_lower_stages_move_more_slowly(tiny):
    net, variables, _ = tiny
    params = variables["params"]
    grads = jax.tree.map(jnp.ones_like, params)
    slow = fine_tuning.by_stage(optax.sgd(1.0), net.encoder, 0.5)
    updates, _ = slow.update(grads, slow.init(params), params)
    for name, stage in stages_of(net, variables).items():
        x = functools.reduce(lambda tree, key: tree[key], name.split("/"), updates["encoder"])
        np.testing.assert_allclose(x, -(0.5 ** (3 - stage)), rtol=1e-6)
    np.testing.assert_allclose(jax.tree.leaves(updates["head"])[0], -1.0)
    plain = optax.sgd(1.0)
    assert fine_tuning.by_stage(plain, net.encoder) is plain


def test_mistakes_are_named():
    images = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="the first 3 at most can be frozen"):
        ResNetEncoder(**TINY, frozen=4).init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="patches of 16 pixels need pictures"):
        ViTEncoder().init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="5 heads do not divide the width 48"):
        ViTEncoder(patch=4, width=48, heads=5).init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="must have 1 or 3 numbers"):
        ResNetEncoder(**TINY, pixel_mean=(0.5, 0.5), pixel_std=(1.0, 1.0)).init(
            jax.random.key(0), images
        )
    koch = siamese.ENCODERS["koch"]()
    with pytest.raises(ValueError, match="optim.layer_decay = 0.5: KochEncoder has no stages"):
        fine_tuning.by_stage(optax.sgd(1.0), koch, 0.5)
