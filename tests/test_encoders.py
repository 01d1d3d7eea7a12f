"""The encoders: parameters, initialisation, and forward passes written again in NumPy and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats
from networks import (
    KOCH,
    RESIDUAL,
    SMALL_KOCH,
    SMALL_RESIDUAL,
    embed,
    net_and_variables,
    noise,
    pool_reference,
    random_images,
    score,
    shapes,
)

from siamese_jax.models import siamese, summary
from siamese_jax.models.comparators import Cosine
from siamese_jax.models.encoders import CONVOLUTIONS, ENCODERS, KochEncoder, ResidualEncoder
from siamese_jax.models.layers import OUTPUTS
from siamese_jax.models.siamese import SiameseNet


@pytest.fixture(scope="module")
def koch():
    return net_and_variables(SMALL_KOCH, (40, 46, 2))


def koch_reference(params, images):
    """The encoder's forward pass in float64: SciPy's correlations, loops over channels and pools."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    rows = []
    for image in images.astype(np.float64):
        x = image  # (H, W, C)
        for i in range(1, 5):
            kernel, bias = params[f"conv{i}"]["kernel"], params[f"conv{i}"]["bias"]
            out = [
                sum(
                    scipy.signal.correlate2d(x[..., c], kernel[..., c, f], "valid")
                    for c in range(x.shape[-1])
                )
                + bias[f]
                for f in range(kernel.shape[-1])
            ]
            x = np.maximum(np.stack(out, -1), 0)
            if i < 4:
                x = pool_reference(x[None])[0]
        dense = x.ravel() @ params["embedding"]["kernel"] + params["embedding"]["bias"]
        rows.append(1 / (1 + np.exp(-dense)))
    return np.stack(rows)


def test_koch_parameters_are_those_of_the_paper():
    shape_of = shapes(KOCH, (105, 105, 1))
    assert shape_of == {
        "encoder/conv1/kernel": (10, 10, 1, 64),
        "encoder/conv1/bias": (64,),
        "encoder/conv2/kernel": (7, 7, 64, 128),
        "encoder/conv2/bias": (128,),
        "encoder/conv3/kernel": (4, 4, 128, 128),
        "encoder/conv3/bias": (128,),
        "encoder/conv4/kernel": (4, 4, 128, 256),
        "encoder/conv4/bias": (256,),
        "encoder/embedding/kernel": (9216, 4096),  # 6 x 6 x 256 flattened
        "encoder/embedding/bias": (4096,),
        "head/kernel": (4096,),
        "head/bias": (),
    }
    assert sum(int(np.prod(shape)) for shape in shape_of.values()) == 38_951_745


@pytest.mark.slow
def test_koch_initialisation_is_as_published():
    net = siamese.build({**KOCH, "encoder_args": {"units": 300}})
    images = np.zeros((1, 105, 105, 1), np.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images, images)
    encoder, head = variables["params"]["encoder"], variables["params"]["head"]
    convolutions = [encoder[f"conv{i}"] for i in range(1, 5)]
    samples = {
        **{f"conv{i + 1}": (layer["kernel"], 0.0, 0.01) for i, layer in enumerate(convolutions)},
        "embedding": (encoder["embedding"]["kernel"], 0.0, 0.2),
        "head": (head["kernel"], 0.0, 0.2),
        "convolution biases": (
            np.concatenate([np.asarray(layer["bias"]) for layer in convolutions]),
            0.5,
            0.01,
        ),
        "embedding bias": (encoder["embedding"]["bias"], 0.5, 0.01),
    }
    for name, (values, mean, std) in samples.items():
        values = np.asarray(values, np.float64).ravel()
        n = len(values)
        assert abs(values.mean() - mean) < 4 * std / np.sqrt(n), name
        assert abs(values.std() - std) < 4 * std / np.sqrt(2 * n), name
        some = values[:: max(1, n // 5000)]
        assert scipy.stats.kstest((some - mean) / std, "norm").pvalue > 1e-3, name
    assert abs(float(head["bias"]) - 0.5) < 0.05


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_koch_forward_pass_against_numpy(koch, convolution):
    args = {**SMALL_KOCH["encoder_args"], "convolution": convolution}
    net, variables = siamese.build({**SMALL_KOCH, "encoder_args": args}), koch[1]
    params = variables["params"]
    images1, images2 = random_images(1, 3, 40, 46, 2), random_images(2, 3, 40, 46, 2)
    h1, h2 = (koch_reference(params["encoder"], images) for images in (images1, images2))
    assert h1.std() > 0.05
    np.testing.assert_allclose(embed(net, variables, images1), h1, atol=2e-5)
    logits = np.abs(h1 - h2) @ np.asarray(params["head"]["kernel"], np.float64)
    logits += float(params["head"]["bias"])
    np.testing.assert_allclose(score(net, variables, images1, images2), logits, atol=2e-5)


def test_convolutions_are_computed_in_the_faster_way():
    """On a CPU all but the first of Koch's layers, of many images; of one image none."""

    def direct(convolution, images):
        encoder = KochEncoder(convolution=convolution)
        pixels = jax.ShapeDtypeStruct((images, 105, 105, 1), jnp.float32)
        variables = jax.eval_shape(encoder.init, jax.random.key(0), pixels)
        return str(jax.make_jaxpr(encoder.apply)(variables, pixels)).count("conv_general_dilated[")

    assert [direct("direct", 64), direct("fft", 64)] == [4, 0]
    if jax.default_backend() == "cpu":
        assert [direct("auto", 64), direct("auto", 1)] == [1, 4]
    with pytest.raises(ValueError, match="convolution must be one of.*'slow'"):
        direct("slow", 1)


def test_koch_says_which_layer_is_too_large_for_the_images():
    with pytest.raises(ValueError, match=r"conv3 needs at least 4 x 4 pixels and gets .* \(35, 35"):
        shapes(KOCH, (35, 35, 1))


@pytest.mark.parametrize(
    "encoder, message",
    [
        (KochEncoder(filters=(4, 8)), r"equally many, got \(4, 8\) and \(10, 7, 4, 4\)"),
        (ResidualEncoder(widths=()), "widths is empty"),
    ],
)
def test_an_encoder_needs_its_layers(encoder, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 105, 105, 1)))


@pytest.fixture(scope="module")
def residual():
    return net_and_variables(SMALL_RESIDUAL, (17, 20, 1))


@functools.partial(jax.jit, static_argnums=0)
def embed_in_training(net, variables, images, key):
    return net.apply(
        *(variables, images, True), method="embed", mutable=["batch_stats"], rngs={"dropout": key}
    )


def test_residual_parameters_by_hand():
    shape_of = shapes(RESIDUAL, (56, 56, 1))
    per_stage = [
        32 * 32 * 9 + 2 * 32 + 32 * 32 * 9 + 2 * 32,  # 32 -> 32: no skip convolution
        32 * 64 * 9 + 2 * 64 + 64 * 64 * 9 + 2 * 64 + 32 * 64,
        64 * 64 * 9 + 2 * 64 + 64 * 64 * 9 + 2 * 64,
        64 * 128 * 9 + 2 * 128 + 128 * 128 * 9 + 2 * 128 + 64 * 128,
    ]
    stem = 5 * 5 * 32 + 2 * 32
    embedding = 3 * 3 * 128 * 512 + 2 * 512  # 56 -> 28 -> 14 -> 7 -> 3
    expected = stem + sum(per_stage) + embedding + 2  # scale and bias of the cosine
    assert sum(int(np.prod(shape)) for shape in shape_of.values()) == expected == 971_746
    assert shape_of["encoder/embedding/kernel"] == (1152, 512)
    assert shape_of["head/scale"] == shape_of["head/bias"] == ()


def test_residual_embeddings_have_length_one(residual):
    images = random_images(0, 5, 17, 20, 1)
    trained, _ = embed_in_training(*residual, images, jax.random.key(0))
    for h in (embed(*residual, images), trained):
        np.testing.assert_allclose(np.linalg.norm(h, axis=-1), np.ones(5), rtol=1e-5)


def test_residual_evaluation_does_not_see_the_rest_of_the_batch(residual):
    images = random_images(1, 5, 17, 20, 1)
    other = np.concatenate([images[:1], 1 - images[1:]])
    np.testing.assert_allclose(embed(*residual, images)[0], embed(*residual, other)[0], atol=1e-6)
    np.testing.assert_allclose(
        embed(*residual, images)[:1], embed(*residual, images[:1]), atol=1e-6
    )
    in_training = [
        embed_in_training(*residual, part, jax.random.key(0))[0][0] for part in (images, other)
    ]
    assert not np.allclose(*in_training, atol=1e-2)  # there it does


def test_residual_running_statistics_move_towards_those_of_the_batch(residual):
    _, variables = residual
    images = random_images(2, 5, 17, 20, 1)
    _, updated = embed_in_training(*residual, images, jax.random.key(0))
    kernel = np.asarray(variables["params"]["encoder"]["stem"]["kernel"], np.float64)
    padded = np.pad(images[..., 0], ((0, 0), (2, 2), (2, 2))).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    # SAME with stride 2: 17 rows begin 2 before the image, 20 columns 1 before (and end 2 after).
    stem = np.einsum("bhwij,ijf->bhwf", windows[:, ::2, 1::2], kernel[:, :, 0])
    assert stem.shape == (5, 9, 10, 4)
    for name, values in (("mean", stem.mean((0, 1, 2))), ("var", stem.var((0, 1, 2)))):
        before = variables["batch_stats"]["encoder"]["stem_norm"][name]
        after = updated["batch_stats"]["encoder"]["stem_norm"][name]
        np.testing.assert_allclose(after, 0.9 * before + 0.1 * values, rtol=1e-4)


def test_residual_says_that_nothing_is_left():
    many = {**SMALL_RESIDUAL, "encoder_args": {"widths": (4, 4, 4, 4, 4), "stem": 4, "units": 8}}
    with pytest.raises(ValueError, match=r"5 stages leave nothing of images of \(17, 20\)"):
        shapes(many, (17, 20, 1))


def test_dropout_acts_in_training_only(residual):
    _, variables = residual
    args = {**SMALL_RESIDUAL["encoder_args"], "dropout": 0.5}
    dropping = siamese.build({**SMALL_RESIDUAL, "encoder_args": args})
    images = random_images(3, 5, 17, 20, 1)
    np.testing.assert_array_equal(embed(dropping, variables, images), embed(*residual, images))
    noisy = [
        embed_in_training(dropping, variables, images, jax.random.key(seed))[0] for seed in range(2)
    ]
    assert not np.allclose(*noisy, atol=1e-3)


@pytest.mark.parametrize("name", ["koch", "residual"])
def test_bfloat16_is_close_to_float32(name, request):
    net, variables = request.getfixturevalue(name)
    fields, shape = {
        "koch": (SMALL_KOCH, (40, 46, 2)),
        "residual": (SMALL_RESIDUAL, (17, 20, 1)),
    }[name]
    images = random_images(4, 5, *shape)
    exact = embed(net, variables, images)
    rough = embed(siamese.build({**fields, "dtype": "bfloat16"}), variables, images)
    assert rough.dtype == jnp.float32
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(exact, rough, atol=0.05)


def fields_of(kind, output="linear", **more):
    return {
        "encoder": kind,
        "encoder_args": {"output": output, **more},
        "comparator": "cosine",
        "head_args": {},
        "dtype": "float32",
    }


def test_small_encoder_has_the_shapes_of_the_tutorials():
    shape_of = shapes(fields_of("small"), (28, 28, 1))
    assert {name: shape for name, shape in shape_of.items() if name.endswith("kernel")} == {
        "encoder/conv1/kernel": (5, 5, 1, 32),
        "encoder/conv2/kernel": (5, 5, 32, 64),
        "encoder/dense1/kernel": (7 * 7 * 64, 256),
        "encoder/dense2/kernel": (256, 256),
        "encoder/embedding/kernel": (256, 128),
    }


@pytest.mark.parametrize(
    "fields, places, features",
    [
        ({**SMALL_RESIDUAL["encoder_args"], "widths": (4, 6, 6), "pools": 1}, (6, 5), 8),
        ({"filters": (4, 6), "hidden": (7,), "output": "unit", "units": 8}, (12, 10), 8),
    ],
)
def test_local_features_keep_their_place(fields, places, features):
    """Each place is of length 1, and sees its part of the image only."""
    encoder = "residual" if "widths" in fields else "small"
    fields = {**SMALL_RESIDUAL, "encoder": encoder, "encoder_args": {**fields, "local": True}}
    images = random_images(5, 2, 24, 20, 1)
    images[1] = images[0]
    images[1, :2, :2] += 1.0
    h = np.asarray(embed(*net_and_variables(fields, (24, 20, 1)), images)).reshape(
        2, *places, features
    )
    np.testing.assert_allclose(np.linalg.norm(h, axis=-1), 1.0, atol=1e-5)
    apart = np.abs(h[0] - h[1]).max(-1)
    assert apart[0, 0] > 1e-3 and apart[-1, -1] < 1e-6


def test_small_encoder_takes_colour_and_other_sides():
    fields = fields_of("small", filters=(3, 4), hidden=(5,), units=6)
    net, variables = net_and_variables(fields, (23, 18, 3))
    images = random_images(0, 2, 23, 18, 3)
    assert jax.eval_shape(lambda x: net.apply(variables, x, method="embed"), images).shape == (2, 6)
    with pytest.raises(ValueError, match="leave nothing"):
        shapes(fields, (3, 9, 1))


@pytest.mark.parametrize("output", OUTPUTS)
def test_dense_encoder_against_numpy(output):
    fields = fields_of("dense", output, hidden=(4, 3), units=2)
    net, variables = net_and_variables(fields, (1, 6, 1))
    images = noise(0, 5, 1, 6, 1)
    h = embed(net, variables, images)
    layers = jax.tree.map(np.float64, variables["params"]["encoder"])
    x = np.asarray(images, np.float64).reshape(5, 6)
    for name in ("dense1", "dense2"):
        x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
    x = x @ layers["embedding"]["kernel"] + layers["embedding"]["bias"]
    if output == "sigmoid":
        x = 1 / (1 + np.exp(-x))
    if output == "unit":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(h, x, rtol=1e-5, atol=1e-6)


def test_dense_encoder_starts_as_asked():
    net = siamese.build(fields_of("dense", hidden=(300,), units=200, std=0.2, bias_mean=0.5))
    images = np.zeros((1, 20, 20, 1), np.float32)
    params = jax.jit(net.init)(jax.random.key(0), images, images)["params"]["encoder"]
    for layer in jax.tree.map(np.asarray, params).values():
        assert abs(layer["kernel"].std() - 0.2) < 0.005 and abs(layer["kernel"].mean()) < 0.005
        assert abs(layer["bias"].mean() - 0.5) < 0.005 and abs(layer["bias"].std() - 0.01) < 0.003


MAPS = [
    *(
        ("residual", {"stem_stride": stride, "pools": pools})
        for stride in (1, 2, 3)
        for pools in (None, 0, 1, 9)
    ),
    ("small", {"filters": (2, 3)}),
    ("small", {"filters": (2, 2, 3)}),
]


@pytest.mark.parametrize("encoder, fields", MAPS)
@pytest.mark.parametrize("size", [(17, 20), (23, 31), (35, 12), (13, 13)])
def test_places_are_those_of_the_map(encoder, fields, size):
    if encoder == "residual":
        fields = {"widths": (2, 3, 4), "stem": 2, **fields}
    module = ENCODERS[encoder](**fields, units=5, local=True)
    *_, last = [
        layer
        for layer in summary.layer_table(SiameseNet(module, Cosine()), (*size, 1))
        if layer.name == "encoder/embedding"
    ]
    assert last.output_shape == (*module.places((*size, 1)), 5)


def test_every_encoder_with_local_features_says_its_places():
    local = {name for name, encoder in ENCODERS.items() if hasattr(encoder, "local")}
    assert local == {name for name, encoder in ENCODERS.items() if hasattr(encoder, "places")}
    assert local == {encoder for encoder, _ in MAPS}
