"""The comparators: scores by hand, all pairs by loops, distances and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import noise

from siamese_jax.models.comparators import COMPARATORS, Bilinear, Cosine, Local

FALLING = [name for name, comparator in COMPARATORS.items() if comparator.falls_with_distance]


def make(name, places=(1, 1), units=2):
    """A comparator with its defaults; `local` of maps of these places and units."""
    return Local(places=places, units=units) if name == "local" else COMPARATORS[name]()


@pytest.mark.parametrize("name", COMPARATORS)
def test_compare_all_is_a_loop_over_compare(name):
    head = make(name, units=5)
    h1, h2 = noise(0, 2, 3, 5), noise(1, 2, 4, 5)
    b, q, s = np.indices((2, 3, 4)).reshape(3, -1)

    @jax.jit
    def compare(h1, h2, one1, one2):
        params = head.init(jax.random.key(0), one1, one2)
        table, swapped = (
            head.apply(params, *both, all_pairs=True) for both in ((h1, h2), (h2, h1))
        )
        return table, swapped, head.apply(params, one1, one2)

    table, swapped, one_by_one = compare(h1, h2, h1[b, q], h2[b, s])
    assert table.shape == (2, 3, 4)
    np.testing.assert_allclose(np.ravel(table), one_by_one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table, np.swapaxes(swapped, 1, 2), rtol=1e-5, atol=1e-6)


def test_cosine_by_hand():
    head = Cosine(scale=4.0)
    h1 = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    h2 = np.array([[4.0, 3.0], [0.0, 2.0]], np.float32)
    params = jax.jit(head.init)(jax.random.key(0), h1, h2)
    params["params"]["bias"] = np.float32(0.5)
    found = jax.jit(head.apply)(params, h1, h2)
    np.testing.assert_allclose(found, [4 * 24 / 25 + 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "name, expected",
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
def test_comparators_by_hand(name, expected):
    h1, h2 = np.array([[1.0, 2.0]], np.float32), np.array([[4.0, -2.0]], np.float32)
    weights = {
        "l1": {"kernel": np.array([0.5, 2.0])},
        "l2": {"kernel": np.array([0.5, 2.0])},
        "bilinear": {"matrix": np.array([[1.0, 4.0], [1.0, 3.0]])},  # 2.5 off the diagonal
    }.get(name, {"scale": np.array(3.0)})
    params = {"params": {**weights, "bias": np.array(0.25)}}
    head = make(name)

    @jax.jit
    def both(params):
        return head.apply(params, h1, h2), head.apply(params, h1, h2, True)

    pairs, table = both(params)
    np.testing.assert_allclose(pairs, [expected], rtol=1e-6)
    np.testing.assert_allclose(table, [[expected]], rtol=1e-6)
    started = jax.eval_shape(head.init, jax.random.key(0), h1, h2)
    assert jax.tree.map(np.shape, started) == jax.tree.map(np.shape, params)


def test_maps_of_another_shape_are_refused():
    head = Local(places=(2, 3), units=2)
    for compare in (head.distances, functools.partial(head.init, jax.random.key(0))):
        with pytest.raises(ValueError, match="24 numbers are no maps of 2 x 3 places with 2 feat"):
            compare(*np.ones((2, 1, 24), np.float32))


def test_features_are_lines_of_places():
    h = jnp.asarray(noise(4, 5, 2, 12))
    flat = Cosine().features(h)
    np.testing.assert_array_equal(flat, h.reshape(10, 12))
    places = Local(places=(2, 3), units=2).features(h)
    np.testing.assert_array_equal(places, h.reshape(60, 2))


@pytest.mark.parametrize("name", FALLING)
def test_distances_have_a_gradient_of_zero_at_zero(name):
    head = make(name, places=(1, 2), units=1)
    h1, h2 = np.array([[3.0, 4.0]], np.float32), np.array([[0.0, 8.0]], np.float32)
    # Local: both places of the first find a cosine of 1, of the second one, so s = 3/4.
    apart = 0.5**0.5 if name == "local" else 5.0

    def total(a, b, all_pairs):
        return head.distances(a, b, all_pairs=all_pairs).sum()

    @jax.jit
    def run(a, b):
        grads = [jax.grad(total, (0, 1))(a, a, all_pairs) for all_pairs in (False, True)]
        return head.distances(a, b), grads

    found, grads = run(h1, h2)
    np.testing.assert_allclose(found, [apart], atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(jax.tree.leaves(grads)), 0)


def test_a_bilinear_form_may_be_asymmetric():
    head = Bilinear(symmetric=False)
    h1, h2 = np.eye(2, dtype=np.float32)[:, None]
    params = {"params": {"matrix": np.array([[0.0, 5.0], [7.0, 0.0]]), "bias": np.array(0.0)}}
    apply = jax.jit(head.apply)
    assert apply(params, h1, h2) == 5 and apply(params, h2, h1) == 7


@pytest.mark.parametrize("name", COMPARATORS)
def test_gradients_of_equal_embeddings_are_finite(name):
    head = make(name)
    h = np.array([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]], np.float32)

    def total(params, a, b, all_pairs):
        return head.apply(params, a, b, all_pairs).sum()

    @jax.jit
    def gradients(h):
        params = head.init(jax.random.key(0), h, h)
        return [jax.grad(total, (0, 1, 2))(params, h, h, all_pairs) for all_pairs in (False, True)]

    for grads in gradients(h):
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
