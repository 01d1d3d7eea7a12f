"""Distances and similarities against NumPy and loops."""

import jax
import numpy as np
import pytest
from networks import noise

from siamese_jax.models import distances
from siamese_jax.models.comparators import Local
from siamese_jax.models.distances import local_similarity, unit


@jax.jit
def all_distances(a, b):
    return distances.safe_sqrt(distances.all_squared_distances(a, b))


def test_distances_against_numpy():
    rng = np.random.default_rng(4)
    h1, h2 = rng.normal(size=(2, 5, 7)), rng.normal(size=(2, 3, 7))
    expected = np.linalg.norm(h1[:, :, None] - h2[:, None], axis=-1)
    a, b = h1.astype(np.float32), h2.astype(np.float32)
    np.testing.assert_allclose(all_distances(a, b), expected, rtol=1e-4)
    np.testing.assert_allclose(
        jax.jit(distances.distances)(a[:, :3], b), expected[:, [0, 1, 2], [0, 1, 2]], 1e-5
    )


def test_the_distance_of_equal_embeddings_has_gradient_zero():
    h = np.array([[1.0, 2.0], [0.0, 0.0]], np.float32)
    for function in (distances.distances, all_distances):

        def total(a, b, function=function):
            values = function(a, b)
            return values.sum(), values

        grads, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(h, h)
        assert np.all(np.diagonal(np.atleast_2d(values))[:1] == 0)
        assert np.all(np.isfinite(grads))
        if function is distances.distances:
            np.testing.assert_array_equal(grads, np.zeros((2, 2, 2)))


def test_the_gradient_of_unit_is_finite_at_zero():
    grad = jax.jit(jax.grad(lambda h: unit(h).sum()))(np.zeros((1, 3), np.float32))
    assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("reach", [0, 1, 5])
@pytest.mark.slow
def test_local_similarity_against_a_loop(reach):
    rows, columns, features = 3, 2, 2
    h1, h2 = noise(2, 2, 3, 12), noise(3, 2, 5, 12)

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
    head = Local(places=(rows, columns), units=features, reach=reach)
    params = {"params": {"scale": np.array(3.0), "bias": np.array(0.5)}}

    @jax.jit
    def run(h1, h2, params):
        return (
            local_similarity(h1, h2, (rows, columns), reach, all_pairs=True),
            local_similarity(h1, h2[:, :3], (rows, columns), reach),
            head.apply(params, h1, h2, all_pairs=True),
            head.distances(h1, h2, all_pairs=True),
        )

    table, pairs, scores, apart = run(h1, h2, params)
    np.testing.assert_allclose(table, expected, atol=1e-6)
    np.testing.assert_allclose(pairs, np.einsum("bqq->bq", expected[:, :, :3]), atol=1e-6)
    np.testing.assert_allclose(scores, 3 * expected + 0.5, atol=1e-5)
    np.testing.assert_allclose(apart, np.sqrt(2 - 2 * expected), atol=1e-5)


def test_a_local_map_that_moved_by_a_place_is_found():
    h = np.zeros((3, 3, 3, 2), np.float32)  # left, middle, right column
    for column in range(3):
        h[column, 1, column, 0] = 1.0
    left, middle, right = h.reshape(3, 18)
    similarity = jax.jit(local_similarity, static_argnums=(2, 3))
    for reach, expected in ((0, [0, 0]), (1, [1, 0]), (2, [1, 1])):
        values = similarity(np.stack([left, left]), np.stack([middle, right]), (3, 3), reach)
        np.testing.assert_allclose(9 * np.asarray(values), expected, atol=1e-6)
