"""The networks: parameters, initialisation, and a forward pass written again in NumPy and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from siamese_jax.models import siamese
from siamese_jax.models.comparators import COMPARATORS, DISTANCES, Comparator, local_similarity
from siamese_jax.models.context import FullContext
from siamese_jax.models.distances import unit
from siamese_jax.models.encoders import CONVOLUTIONS, OUTPUTS, KochEncoder
from siamese_jax.models.layers import max_pool2
from siamese_jax.models.siamese import CosineClassifier

KOCH = {
    "encoder": "koch",
    "encoder_args": {},
    "comparator": "l1",
    "head_args": {},
    "dtype": "float32",
}
SMALL_KOCH = {
    **KOCH,
    "encoder_args": {"filters": (3, 4, 5, 6), "kernels": (4, 3, 3, 2), "units": 7},
}
RESIDUAL = {
    "encoder": "residual",
    "encoder_args": {"widths": (32, 64, 64, 128), "stem": 32, "stem_stride": 2, "units": 512},
    "comparator": "cosine",
    "head_args": {"scale": 10.0},
    "dtype": "float32",
}
SMALL_RESIDUAL = {
    **RESIDUAL,
    "encoder_args": {"widths": (4, 6), "stem": 4, "stem_stride": 2, "units": 8},
}


def made_up(fields, shape):
    """The net of a config section and variables of any size, as after training."""
    net = siamese.build(fields, shape)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    rng = np.random.default_rng(0)

    def leaf(path, x):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)
        return 0.3 * rng.normal(size=x.shape).astype(x.dtype)

    variables = jax.eval_shape(net.init, jax.random.key(0), images, images)
    return net, jax.tree_util.tree_map_with_path(leaf, variables)


@functools.partial(jax.jit, static_argnums=0)
def embed(net, variables, images):
    return net.apply(variables, images, method="embed")


@functools.partial(jax.jit, static_argnums=0)
def score(net, variables, images1, images2):
    return net.apply(variables, images1, images2)


@functools.partial(jax.jit, static_argnums=0)
def embed_in_training(net, variables, images, key):
    return net.apply(
        *(variables, images, True), method="embed", mutable=["batch_stats"], rngs={"dropout": key}
    )


def shapes(fields, shape):
    """Parameter path -> shape, without computing anything."""
    net = siamese.build(fields, shape)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), images, images)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape for p, leaf in leaves}


def random_images(seed, count, *shape):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype(np.float32)


def unit_noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Koch's network -------------------------------------------------------------------------------


def test_koch_parameters_are_those_of_the_paper():
    found = shapes(KOCH, (105, 105, 1))
    assert found == {
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
    assert sum(int(np.prod(shape)) for shape in found.values()) == 38_951_745


def test_koch_initialisation_is_as_published():
    net = siamese.build({**KOCH, "encoder_args": {"units": 300}})
    images = jnp.zeros((1, 105, 105, 1))
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
        assert scipy.stats.kstest(some, "norm", (mean, std)).pvalue > 1e-3, name
    assert abs(float(head["bias"]) - 0.5) < 0.05


@pytest.fixture(scope="module")
def koch():
    return made_up(SMALL_KOCH, (40, 46, 2))


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


def pool_reference(x):
    """2x2 maxima by loops; (B, H, W, C)."""
    batch, height, width, channels = x.shape
    out = np.empty((batch, height // 2, width // 2, channels), x.dtype)
    for i in range(height // 2):
        for j in range(width // 2):
            out[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    return out


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
    found = score(net, variables, images1, images2)
    np.testing.assert_allclose(found, logits, atol=2e-5)


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


def test_koch_score_is_symmetric_and_its_own_bias_on_the_diagonal(koch):
    net, variables = koch
    a, b = random_images(3, 3, 40, 46, 2), random_images(4, 3, 40, 46, 2)
    forth, back = score(net, variables, a, b), score(net, variables, b, a)
    np.testing.assert_allclose(forth, back, rtol=1e-5)
    assert np.std(forth) > 0.01
    bias = float(variables["params"]["head"]["bias"])
    same = jax.nn.sigmoid(score(net, variables, a, a))
    np.testing.assert_allclose(same, np.full(3, 1 / (1 + np.exp(-bias))), rtol=1e-6)


def test_the_twins_share_their_weights(koch):
    net, variables = koch
    assert set(variables["params"]) == {"encoder", "head"}
    left, right = random_images(5, 3, 40, 46, 2), random_images(6, 3, 40, 46, 2)
    encoder = variables["params"]["encoder"]
    negated = {**encoder, "embedding": jax.tree.map(np.negative, encoder["embedding"])}
    for params in (variables["params"], {**variables["params"], "encoder": negated}):
        weights = {"params": params}
        h1, h2 = embed(net, weights, left), embed(net, weights, right)
        apart = net.apply(weights, h1, h2, method="compare")
        np.testing.assert_allclose(score(net, weights, left, right), apart, rtol=1e-4)
    np.testing.assert_allclose(h1, 1 - embed(net, variables, left), atol=1e-5)  # both have changed
    np.testing.assert_allclose(h2, 1 - embed(net, variables, right), atol=1e-5)


def test_koch_says_which_layer_is_too_large_for_the_images():
    with pytest.raises(ValueError, match=r"conv3 needs at least 4 x 4 pixels and gets .* \(35, 35"):
        shapes(KOCH, (35, 35, 1))


# --- max-pool -------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(6, 4), (7, 5), (5, 8), (3, 2)])
def test_max_pool2_against_a_loop(height, width):
    x = unit_noise(0, 2, height, width, 3)
    np.testing.assert_array_equal(max_pool2(jnp.asarray(x)), pool_reference(x))


def test_max_pool2_gradient_by_finite_differences():
    x = np.random.default_rng(0).permutation(2 * 5 * 7 * 2).reshape(2, 5, 7, 2) * 1.0  # no ties
    weights = unit_noise(1, 2, 2, 3, 2).astype(np.float64)

    found = jax.grad(lambda x: jnp.sum(max_pool2(x) * weights))(jnp.asarray(x, jnp.float32))
    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * 0.25
            expected[index] += sign * np.sum(pool_reference(moved) * weights) / 0.5
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.any(expected[:, 4]) and not np.any(expected[:, :, 6])  # the odd row and column


def test_max_pool2_gives_a_tie_to_its_first_entry_and_keeps_nan():
    found = jax.grad(lambda x: max_pool2(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(found.ravel(), [1, 0, 0, 0])
    for entry in range(4):
        x = jnp.arange(4.0).at[entry].set(jnp.nan).reshape(1, 2, 2, 1)
        assert np.isnan(max_pool2(x)).all()


def test_max_pool2_keeps_its_gradient_whatever_the_compiler_computes_anew():
    """Unoptimised programs round y differently where they compute it a second time."""
    rng = np.random.default_rng(2)
    x, kernel = rng.normal(size=(4, 8, 8, 3)), rng.normal(size=(3, 3, 3, 4))
    scale, weights = rng.normal(size=4), rng.normal(size=(4, 4, 4, 4))

    def loss(scale, x, kernel):
        axes = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)
        return (max_pool2(y * scale + scale) * weights).sum()

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            found = jax.jit(jax.grad(loss))(*map(jnp.asarray, (scale, x, kernel)))
        finally:
            jax.config.update("jax_disable_most_optimizations", False)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    y = np.einsum("bhwcij,ijcf->bhwf", windows, kernel)
    fours = y.reshape(4, 4, 2, 4, 2, 4).swapaxes(2, 3).reshape(4, 4, 4, 4, 4)  # (..., place, f)
    place = (fours * scale + scale).argmax(3)[..., None, :]
    slope = np.take_along_axis(fours + 1, place, 3)[..., 0, :]
    np.testing.assert_allclose(found, (slope * weights).sum((0, 1, 2)), rtol=1e-9)


# --- the residual encoder -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def residual():
    return made_up(SMALL_RESIDUAL, (17, 20, 1))


def test_residual_parameters_by_hand():
    found = shapes(RESIDUAL, (56, 56, 1))
    per_stage = [
        32 * 32 * 9 + 2 * 32 + 32 * 32 * 9 + 2 * 32,  # 32 -> 32: no skip convolution
        32 * 64 * 9 + 2 * 64 + 64 * 64 * 9 + 2 * 64 + 32 * 64,
        64 * 64 * 9 + 2 * 64 + 64 * 64 * 9 + 2 * 64,
        64 * 128 * 9 + 2 * 128 + 128 * 128 * 9 + 2 * 128 + 64 * 128,
    ]
    stem = 5 * 5 * 32 + 2 * 32
    embedding = 3 * 3 * 128 * 512 + 2 * 512  # 56 -> 28 -> 14 -> 7 -> 3
    expected = stem + sum(per_stage) + embedding + 2  # scale and bias of the cosine
    assert sum(int(np.prod(shape)) for shape in found.values()) == expected == 971_746
    assert found["encoder/embedding/kernel"] == (1152, 512)
    assert found["head/scale"] == found["head/bias"] == ()


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


def test_residual_says_that_nothing_is_left():
    many = {**SMALL_RESIDUAL, "encoder_args": {"widths": (4, 4, 4, 4, 4), "stem": 4, "units": 8}}
    with pytest.raises(ValueError, match=r"5 stages leave nothing of images of \(17, 20\)"):
        shapes(many, (17, 20, 1))


# --- comparing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPARATORS)
def test_compare_all_is_a_loop_over_compare(kind):
    head = Comparator(kind, units=5)
    h1, h2 = unit_noise(0, 2, 3, 5), unit_noise(1, 2, 4, 5)
    params = head.init(jax.random.key(0), h1[0, :1], h2[0, :1])
    table = head.apply(params, h1, h2, all_pairs=True)
    assert table.shape == (2, 3, 4)
    for b, q, s in np.ndindex(2, 3, 4):
        one = head.apply(params, h1[b, q : q + 1], h2[b, s : s + 1])
        np.testing.assert_allclose(table[b, q, s], one[0], rtol=1e-5, atol=1e-6)
    swapped = head.apply(params, h2, h1, all_pairs=True)
    np.testing.assert_allclose(table, np.swapaxes(swapped, 1, 2), rtol=1e-5, atol=1e-6)


def test_cosine_by_hand():
    head = Comparator("cosine", scale=4.0)
    h1, h2 = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[4.0, 3.0], [0.0, 2.0]])
    params = head.init(jax.random.key(0), h1, h2)
    params["params"]["bias"] = jnp.asarray(0.5)
    np.testing.assert_allclose(head.apply(params, h1, h2), [4 * 24 / 25 + 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "kind, expected",
    [  # of h1 = (1, 2), h2 = (4, -2): differences 3 and 4, product 0
        ("l1", 0.5 * 3 + 2 * 4 + 0.25),
        ("l2", 0.5 * 9 + 2 * 16 + 0.25),
        ("euclidean", 0.25 - 3 * 5),
        ("squared_euclidean", 0.25 - 3 * 25),
        ("cosine", 0.25),
        ("bilinear", 1 * 4 + 2.5 * (1 * -2 + 2 * 4) + 3 * 2 * -2 + 0.25),
        ("local", 0.25),  # of a map of one place
    ],
)
def test_comparators_by_hand(kind, expected):
    h1, h2 = jnp.array([[1.0, 2.0]]), jnp.array([[4.0, -2.0]])
    own = {
        "l1": {"kernel": jnp.array([0.5, 2.0])},
        "l2": {"kernel": jnp.array([0.5, 2.0])},
        "bilinear": {"matrix": jnp.array([[1.0, 4.0], [1.0, 3.0]])},  # 2.5 off the diagonal
    }.get(kind, {"scale": jnp.asarray(3.0)})
    params = {"params": {**own, "bias": jnp.asarray(0.25)}}
    head = Comparator(kind, units=2)
    np.testing.assert_allclose(head.apply(params, h1, h2), [expected], rtol=1e-6)
    np.testing.assert_allclose(head.apply(params, h1, h2, True), [[expected]], rtol=1e-6)
    started = head.init(jax.random.key(0), h1, h2)
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("reach", [0, 1, 5])
def test_local_similarity_against_a_loop(reach):
    rows, columns, features = 4, 3, 2
    h1, h2 = unit_noise(2, 2, 3, 24), unit_noise(3, 2, 5, 24)

    def best(a, b):
        a, b = (x.reshape(rows, columns, features).astype(float) for x in (a, b))
        total = 0.0
        for i, j in np.ndindex(rows, columns):
            cosines = [
                a[i, j] @ b[k, m] / np.linalg.norm(a[i, j]) / np.linalg.norm(b[k, m])
                for k, m in np.ndindex(rows, columns)
                if abs(k - i) <= reach and abs(m - j) <= reach
            ]
            total += max(cosines)
        return total / (rows * columns)

    expected = np.empty((2, 3, 5))
    for b, q, s in np.ndindex(expected.shape):
        expected[b, q, s] = (best(h1[b, q], h2[b, s]) + best(h2[b, s], h1[b, q])) / 2
    table = local_similarity(h1, h2, (rows, columns), reach, all_pairs=True)
    np.testing.assert_allclose(table, expected, atol=1e-6)
    pairs = local_similarity(h1, h2[:, :3], (rows, columns), reach)
    np.testing.assert_allclose(pairs, np.einsum("bqq->bq", expected[:, :, :3]), atol=1e-6)
    head = Comparator("local", places=(rows, columns), units=features, reach=reach)
    params = {"params": {"scale": jnp.asarray(3.0), "bias": jnp.asarray(0.5)}}
    np.testing.assert_allclose(
        head.apply(params, h1, h2, all_pairs=True), 3 * expected + 0.5, atol=1e-5
    )
    np.testing.assert_allclose(
        head.distances(h1, h2, all_pairs=True), np.sqrt(2 - 2 * expected), atol=1e-5
    )


def test_a_local_map_that_moved_by_a_place_is_found():
    h = np.zeros((3, 3, 3, 2), np.float32)  # left, middle, right column
    for column in range(3):
        h[column, 1, column, 0] = 1.0
    left, middle, right = h.reshape(3, 18)
    for reach, expected in ((0, [0, 0]), (1, [1, 0]), (2, [1, 1])):
        found = local_similarity(np.stack([left, left]), np.stack([middle, right]), (3, 3), reach)
        np.testing.assert_allclose(9 * found, expected, atol=1e-6)


def test_maps_of_another_shape_are_refused():
    head = Comparator("local", places=(2, 3), units=2)
    for compare in (head.distances, functools.partial(head.init, jax.random.key(0))):
        with pytest.raises(ValueError, match="24 numbers are no maps of 2 x 3 places with 2 feat"):
            compare(jnp.ones((1, 24)), jnp.ones((1, 24)))


def test_features_are_lines_of_places():
    h = unit_noise(4, 5, 2, 12)
    flat = Comparator("cosine").features(h)
    np.testing.assert_array_equal(flat, h.reshape(10, 12))
    places = Comparator("local", places=(2, 3), units=2).features(h)
    np.testing.assert_array_equal(places, h.reshape(60, 2))


@pytest.mark.parametrize("kind", DISTANCES)
def test_distances_have_a_gradient_of_zero_at_zero(kind):
    head = Comparator(kind, places=(1, 2))
    h1, h2 = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 8.0]])
    # Local: both places of the first find a cosine of 1, of the second one, so s = 3/4.
    apart = 0.5**0.5 if kind == "local" else 5.0
    np.testing.assert_allclose(head.distances(h1, h2), [apart], atol=1e-6)
    for all_pairs in (False, True):
        apart = functools.partial(head.distances, all_pairs=all_pairs)
        grads = jax.grad(lambda a, b, apart=apart: apart(a, b).sum(), (0, 1))(h1, h1)
        np.testing.assert_array_equal(np.concatenate(grads), 0)


def test_a_bilinear_form_may_be_asymmetric():
    head = Comparator("bilinear", symmetric=False)
    h1, h2 = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    params = {"params": {"matrix": jnp.array([[0.0, 5.0], [7.0, 0.0]]), "bias": jnp.asarray(0.0)}}
    assert head.apply(params, h1, h2) == 5 and head.apply(params, h2, h1) == 7


@pytest.mark.parametrize("kind", COMPARATORS)
@pytest.mark.parametrize("all_pairs", [False, True])
def test_gradients_of_equal_embeddings_are_finite(kind, all_pairs):
    head = Comparator(kind, units=2)
    h = jnp.array([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]])
    params = head.init(jax.random.key(0), h, h)
    grads = jax.grad(lambda p, a, b: head.apply(p, a, b, all_pairs).sum(), (0, 1, 2))(params, h, h)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


# --- small, dense, full context, classifier -------------------------------------------------------


def encoder_of(kind, output="linear", **more):
    return siamese.build(
        {
            "encoder": kind,
            "encoder_args": {"output": output, **more},
            "comparator": "cosine",
            "head_args": {},
            "dtype": "float32",
        }
    )


def test_small_encoder_has_the_shapes_of_the_tutorials():
    net = encoder_of("small")
    images = jnp.zeros((1, 28, 28, 1))
    params = net.init(jax.random.key(0), images, images)["params"]["encoder"]
    assert {name: layer["kernel"].shape for name, layer in params.items()} == {
        "conv1": (5, 5, 1, 32),
        "conv2": (5, 5, 32, 64),
        "dense1": (7 * 7 * 64, 256),
        "dense2": (256, 256),
        "embedding": (256, 128),
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
    h = np.asarray(embed(*made_up(fields, (24, 20, 1)), images)).reshape(2, *places, features)
    np.testing.assert_allclose(np.linalg.norm(h, axis=-1), 1.0, atol=1e-5)
    apart = np.abs(h[0] - h[1]).max(-1)
    assert apart[0, 0] > 1e-3 and apart[-1, -1] < 1e-6


def test_small_encoder_takes_colour_and_other_sides():
    net = encoder_of("small", filters=(3, 4), hidden=(5,), units=6)
    images = jnp.zeros((2, 23, 18, 3))
    variables = net.init(jax.random.key(0), images, images)
    assert net.apply(variables, images, method="embed").shape == (2, 6)
    with pytest.raises(ValueError, match="leave nothing"):
        tiny = jnp.zeros((1, 3, 9, 1))
        net.init(jax.random.key(0), tiny, tiny)


@pytest.mark.parametrize("output", OUTPUTS)
def test_dense_encoder_against_numpy(output):
    net = encoder_of("dense", output, hidden=(4, 3), units=2)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(5, 1, 6, 1)), jnp.float32)
    variables = net.init(jax.random.key(1), images, images)
    found = net.apply(variables, images, method="embed")
    layers = jax.tree.map(np.float64, variables["params"]["encoder"])
    x = np.asarray(images, np.float64).reshape(5, 6)
    for name in ("dense1", "dense2"):
        x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
    x = x @ layers["embedding"]["kernel"] + layers["embedding"]["bias"]
    if output == "sigmoid":
        x = 1 / (1 + np.exp(-x))
    if output == "unit":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-6)


def test_dense_encoder_starts_as_asked():
    net = encoder_of("dense", hidden=(300,), units=200, std=0.2, bias_mean=0.5)
    images = jnp.zeros((1, 20, 20, 1))
    params = net.init(jax.random.key(0), images, images)["params"]["encoder"]
    for layer in params.values():
        assert abs(layer["kernel"].std() - 0.2) < 0.005 and abs(layer["kernel"].mean()) < 0.005
        assert abs(layer["bias"].mean() - 0.5) < 0.005 and abs(layer["bias"].std() - 0.01) < 0.003


def lstm(x, state, memory, cell):
    """One step of a long short-term memory, in float64."""

    def gate(name):
        return (
            x @ cell[f"i{name}"]["kernel"]
            + state @ cell[f"h{name}"]["kernel"]
            + cell[f"h{name}"]["bias"]
        )

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    memory = sigmoid(gate("f")) * memory + sigmoid(gate("i")) * np.tanh(gate("g"))
    return sigmoid(gate("o")) * np.tanh(memory), memory


def test_full_context_against_numpy():
    context = FullContext(steps=3)
    rng = np.random.default_rng(0)
    queries, supports = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 5, 3))
    args = jnp.asarray(queries, jnp.float32), jnp.asarray(supports, jnp.float32)
    variables = context.init(jax.random.key(0), *args)
    found = context.apply(variables, *args)
    cells = jax.tree.map(np.float64, variables["params"])
    for b in range(2):
        read = np.zeros((5, 3))
        for name, order in (("forward_cell", range(5)), ("backward_cell", range(4, -1, -1))):
            state, memory = np.zeros(3), np.zeros(3)
            for s in order:
                state, memory = lstm(supports[b, s], state, memory, cells[name])
                read[s] += state
        g = supports[b] + read
        np.testing.assert_allclose(found[1][b], g, rtol=1e-4, atol=1e-5)
        f, memory = queries[b], np.zeros((4, 3))
        for _ in range(3):
            weights = np.exp(f @ g.T)
            weights /= weights.sum(1, keepdims=True)
            x = np.concatenate([queries[b], weights @ g], 1)
            state, memory = lstm(x, f, memory, cells["queries"])
            f = state + queries[b]
        np.testing.assert_allclose(found[0][b], f, rtol=1e-4, atol=1e-5)


def test_full_context_makes_scores_depend_on_the_other_supports():
    fields = {**SMALL_RESIDUAL, "comparator": "cosine", "head_args": {}, "context_steps": 2}
    net = siamese.build(fields)
    images = jnp.zeros((1, 17, 20, 1))
    variables = net.init(jax.random.key(0), images, images)
    h = unit_noise(0, 6, variables["params"]["context"]["queries"]["hi"]["kernel"].shape[0])
    whole = net.apply(variables, h[:2], h[2:], method="compare_all")
    part = net.apply(variables, h[:2], h[2:5], method="compare_all")
    assert whole.shape == (2, 4) and np.abs(whole[:, :3] - part).max() > 1e-3
    alone = net.apply(variables, h[:2], h[2:3], method="compare_all")[:, 0]
    np.testing.assert_allclose(
        net.apply(variables, h[:2], jnp.stack([h[2]] * 2), method="compare"),
        alone,
        rtol=1e-5,
        atol=1e-6,
    )


def test_cosine_classifier_by_hand():
    layer = CosineClassifier(2)
    kernel = jnp.array([[3.0, 0.0], [4.0, 2.0]])  # columns: the vectors of the classes
    variables = {"params": {"kernel": kernel, "scale": jnp.asarray(10.0)}}
    found = layer.apply(variables, jnp.array([[5.0, 0.0], [0.0, 0.1]]))
    np.testing.assert_allclose(found, [[6.0, 0.0], [8.0, 10.0]], atol=1e-5)


def test_the_classifier_is_trained_with_and_compared_without():
    fields = {**SMALL_RESIDUAL, "comparator": "cosine", "head_args": {}}
    images = jnp.zeros((2, 17, 20, 1))
    training, later = siamese.build(fields, classes=7), siamese.build(fields)
    variables = training.init(jax.random.key(0), images, images)
    assert variables["params"]["classifier"]["kernel"].shape[1] == 7
    h = training.apply(variables, images, method="embed")
    assert training.apply(variables, h, method="classify").shape == (2, 7)
    np.testing.assert_array_equal(later.apply(variables, images, method="embed"), h)


def test_the_gradient_of_unit_is_finite_at_zero():
    grad = jax.grad(lambda h: unit(h).sum())(jnp.zeros((1, 3)))
    assert np.all(np.isfinite(grad))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"comparator": "local"}, r"compares maps of local features: set model.encoder_args.local"),
        ({"encoder": "kock"}, r"model.encoder must be one of .*'residual'.*, got 'kock'"),
        ({"comparator": "l3"}, r"model.comparator must be one of .*'cosine'.*, got 'l3'"),
        ({"encoder_args": {"width": 3}}, r"do not fit koch: .*'width'"),
        ({"head_args": {"sacle": 3}}, r"do not fit koch: .*'sacle'"),
        ({"dtype": "flout32"}, r"model.dtype must be one of .* got 'flout32'"),
    ],
)
def test_build_says_what_does_not_fit(change, words):
    with pytest.raises(ValueError, match=words):
        siamese.build({**KOCH, **change})


def test_an_unknown_comparator_is_an_error():
    with pytest.raises(ValueError, match=r"comparator must be one of .* got 'dot'"):
        Comparator("dot").init(jax.random.key(0), jnp.ones((1, 2)), jnp.ones((1, 2)))
