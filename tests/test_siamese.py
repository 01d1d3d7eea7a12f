"""The siamese network: twins, comparison, context, classifier, and building it from a config."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    KOCH,
    SMALL_KOCH,
    SMALL_RESIDUAL,
    embed,
    net_and_variables,
    noise,
    random_images,
    score,
)

from siamese_jax.models import siamese
from siamese_jax.models.siamese import CosineClassifier


class Scaled(nn.Module):
    """An encoder of the user's, with an attribute that no hash is known of."""

    start: np.ndarray

    @nn.compact
    def __call__(self, images, train=False):
        return images.mean((1, 2)) * self.param("scale", lambda _: jnp.asarray(self.start))[None]


@pytest.fixture(scope="module")
def koch():
    return net_and_variables(SMALL_KOCH, (40, 46, 2))


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


def test_the_shapes_of_variables_are_those_that_are_made():
    net = siamese.build(SMALL_RESIDUAL, (17, 20, 1))
    images = np.zeros((1, 17, 20, 1), np.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images, images)
    made = jax.tree.map(lambda x: (x.shape, x.dtype), variables)
    said = siamese.variable_shapes(net, (17, 20, 1))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), said) == made
    assert siamese.variable_shapes(siamese.build(SMALL_RESIDUAL), (17, 20, 1)) is said
    own = siamese.SiameseNet(Scaled(np.arange(3.0)), net.head)  # cannot be hashed
    (scale,) = jax.tree.leaves(siamese.variable_shapes(own, (17, 20, 1))["params"]["encoder"])
    assert scale.shape == (3,)


@pytest.mark.slow
def test_full_context_makes_scores_depend_on_the_other_supports():
    fields = {**SMALL_RESIDUAL, "comparator": "cosine", "head_args": {}, "context_steps": 2}
    net, variables = net_and_variables(fields, (17, 20, 1))
    h = noise(0, 6, variables["params"]["context"]["queries"]["hi"]["kernel"].shape[0])
    apply = jax.jit(net.apply, static_argnames="method")
    whole = apply(variables, h[:2], h[2:], method="compare_all")
    part = apply(variables, h[:2], h[2:5], method="compare_all")
    assert whole.shape == (2, 4) and np.abs(whole[:, :3] - part).max() > 1e-3
    alone = apply(variables, h[:2], h[2:3], method="compare_all")[:, 0]
    np.testing.assert_allclose(
        apply(variables, h[:2], np.stack([h[2]] * 2), method="compare"),
        alone,
        rtol=1e-5,
        atol=1e-6,
    )


def test_cosine_classifier_by_hand():
    layer = CosineClassifier(2)
    kernel = jnp.array([[3.0, 0.0], [4.0, 2.0]])  # columns: the vectors of the classes
    variables = {"params": {"kernel": kernel, "scale": jnp.asarray(10.0)}}
    logits = layer.apply(variables, jnp.array([[5.0, 0.0], [0.0, 0.1]]))
    np.testing.assert_allclose(logits, [[6.0, 0.0], [8.0, 10.0]], atol=1e-5)


@pytest.mark.slow
def test_the_classifier_is_trained_with_and_compared_without():
    fields = {**SMALL_RESIDUAL, "comparator": "cosine", "head_args": {}}
    images = random_images(7, 2, 17, 20, 1)
    training, later = siamese.build(fields, classes=7), siamese.build(fields)
    variables = jax.jit(training.init)(jax.random.key(0), images, images)
    assert variables["params"]["classifier"]["kernel"].shape[1] == 7
    h = embed(training, variables, images)
    assert training.apply(variables, h, method="classify").shape == (2, 7)
    np.testing.assert_array_equal(embed(later, variables, images), h)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"comparator": "local"}, r"compares maps of local features: set model.encoder_args.local"),
        ({"encoder": "kock"}, r"model.encoder must be one of .*'residual'.*, got 'kock'"),
        ({"comparator": "l3"}, r"model.comparator must be one of .*'cosine'.*, got 'l3'"),
        (
            {"encoder": "residual", "encoder_args": {"width": 3}},
            r"model.encoder_args.width is no attribute of ResidualEncoder .*: did you mean widths\?",
        ),
        (
            {"comparator": "cosine", "head_args": {"sacle": 3}},
            r"model.head_args.sacle is no attribute of Cosine .*: did you mean scale\?",
        ),
        (
            {"head_args": {"places": 3}},
            r"model.head_args.places .* L1 .*: it has bias_mean, kernel_mean, kernel_std",
        ),
        ({"encoder_args": {"dtype": "float32"}}, r"model.encoder_args.dtype is no attribute"),
        ({"dtype": "flout32"}, r"model.dtype must be one of .* got 'flout32'"),
    ],
)
def test_build_says_what_does_not_fit(change, words):
    with pytest.raises(ValueError, match=words):
        siamese.build({**KOCH, **change})
