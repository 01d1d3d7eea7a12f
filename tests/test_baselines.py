"""Baselines against plain loops, and their known figures on the official runs."""

import numpy as np
import pytest

from siamese_jax.data import omniglot
from siamese_jax.evaluation import baselines, protocols
from siamese_jax.evaluation.trials import official_trials


def _drawings(seed, count, size=12):
    rng = np.random.default_rng(seed)
    return (rng.random((count, size, size, 1)) < 0.2).astype(np.uint8) * 255


def test_pixel_nearest_neighbour_against_loops():
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    supports = rng.integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
    scores = baselines.pixel_nearest_neighbour(queries, supports)
    for i, q in enumerate(queries):
        for j, s in enumerate(supports):
            gap = q.astype(np.float64) / 255 - s.astype(np.float64) / 255
            assert scores[i, j] == pytest.approx(-(gap**2).sum(), rel=1e-12)
    assert (np.diag(baselines.pixel_nearest_neighbour(queries, queries)) == 0).all()


def _naive_hausdorff(a, b):
    """The distance of two lists of points, by loops."""
    a = [(y - np.mean([p[0] for p in a]), x - np.mean([p[1] for p in a])) for y, x in a]
    b = [(y - np.mean([p[0] for p in b]), x - np.mean([p[1] for p in b])) for y, x in b]

    def one_way(from_points, to_points):
        nearest = [min(np.hypot(p[0] - q[0], p[1] - q[1]) for q in to_points) for p in from_points]
        return np.mean(nearest)

    return max(one_way(a, b), one_way(b, a))


def test_modified_hausdorff_against_loops():
    queries, supports = _drawings(0, 3), _drawings(1, 4)
    scores = baselines.modified_hausdorff(queries, supports)
    for i, q in enumerate(queries):
        for j, s in enumerate(supports):
            points = [[(y, x) for y, x, _ in zip(*np.nonzero(im), strict=True)] for im in (q, s)]
            assert scores[i, j] == pytest.approx(-_naive_hausdorff(*points), abs=1e-9)
    np.testing.assert_allclose(baselines.modified_hausdorff(supports, queries).T, scores)


def test_modified_hausdorff_takes_the_larger_mean_and_ignores_position():
    a = np.zeros((1, 9, 9, 1), np.uint8)
    a[0, 4, 4] = 255
    b = np.zeros_like(a)
    b[0, 4, [2, 4, 6]] = 255  # from a: 0; from b: (2 + 0 + 2) / 3
    assert baselines.modified_hausdorff(a, b)[0, 0] == pytest.approx(-4 / 3)
    assert baselines.modified_hausdorff(b, np.roll(b, (3, 1), (1, 2)))[0, 0] == 0
    assert baselines.modified_hausdorff(b, b // 3)[0, 0] == 0  # grey strokes are ink too


def test_modified_hausdorff_of_an_image_without_ink():
    drawn = _drawings(0, 1)
    blank = np.zeros_like(drawn)
    assert baselines.modified_hausdorff(drawn, blank)[0, 0] == -24
    assert baselines.modified_hausdorff(blank, blank)[0, 0] == 0


def test_random_score_depends_on_seed_and_images_only():
    queries, supports = _drawings(0, 5), _drawings(1, 6)
    score = baselines.random_score(3)
    first = score(queries, supports)
    assert first.shape == (5, 6) and len(np.unique(first)) == 30
    score(supports, queries)
    np.testing.assert_array_equal(score(queries, supports), first)
    assert (baselines.random_score(4)(queries, supports) != first).all()
    assert (score(queries, supports[::-1]) != first).all()


@pytest.mark.parametrize("score", [baselines.pixel_nearest_neighbour, baselines.modified_hausdorff])
def test_images_of_two_shapes_are_refused(score):
    with pytest.raises(ValueError, match=r"one shape, got \(1, 12, 12, 1\) and \(1, 9, 9, 1\)"):
        score(_drawings(0, 1), _drawings(0, 1, size=9))


def test_vectors():
    rng = np.random.default_rng(0)
    far = (1e4 + rng.normal(size=(5, 1, 7, 1))).astype(np.float32)  # expanded squares lose these
    near = far + np.float32(0.25)
    scores = baselines.pixel_nearest_neighbour(far, near)
    gaps = far[:, None, 0, :, 0].astype(np.float64) - near[None, :, 0, :, 0]
    np.testing.assert_allclose(scores, -(gaps**2).sum(-1), rtol=1e-12)
    itself = baselines.pixel_nearest_neighbour(far, far)
    assert (np.diag(itself) == 0).all() and (itself <= 0).all()
    np.testing.assert_array_equal(itself, itself.T)
    assert baselines.random_score(0)(far, near).shape == (5, 5)
    with pytest.raises(ValueError, match="not of float32 vectors: use the nearest"):
        baselines.modified_hausdorff(far, near)
    with pytest.raises(ValueError, match="one type, got float32 and uint8"):
        baselines.pixel_nearest_neighbour(far, np.zeros(far.shape, np.uint8))


@pytest.mark.slow
def test_official_runs(prepared_omniglot):
    trials = official_trials(omniglot.load_runs(prepared_omniglot))
    result = protocols.evaluate_trials(baselines.pixel_nearest_neighbour, trials)
    assert (result.num_trials, result.accuracy) == (400, 0.19)
    result = protocols.evaluate_trials(baselines.modified_hausdorff, trials)
    assert result.accuracy == pytest.approx(0.6125)
    assert result.diagnostics["asymmetry"] < 1e-12
