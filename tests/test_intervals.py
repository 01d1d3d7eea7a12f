"""Intervals over clusters: values by hand, limits, and their coverage in a simulation."""

import math

import numpy as np
import pytest

from siamese_jax.evaluation.intervals import cluster_interval, wilson


def test_wilson_by_hand():
    """Of 8 right of 10 with z = 2: centre (0.8 + 0.2) / 1.4, half 2 / 1.4 sqrt(0.016 + 0.01)."""
    half = 2 / 1.4 * math.sqrt(0.026)
    np.testing.assert_allclose(wilson(0.8, 10, 2.0), (1 / 1.4 - half, 1 / 1.4 + half), rtol=1e-12)


def test_two_clusters_by_hand():
    """Means 0.8 and 0.6 of 50 trials each: variance 2 (0.5 0.1)^2 2, so 0.21 / 0.01 = 21 trials."""
    low, high = cluster_interval([0.8, 0.6], [50, 50])
    np.testing.assert_allclose((low, high), wilson(0.7, 21.0, 12.706204736432095), rtol=1e-9)


def test_clusters_that_agree_count_all_trials():
    low, high = cluster_interval([1.0] * 10, [40] * 10)
    np.testing.assert_allclose((low, high), wilson(1.0, 400, 2.2621571628540993), rtol=1e-9)
    assert high == 1.0 and 0.985 < low < 0.99


def test_a_mean_that_is_rounded_to_one():
    rounded = cluster_interval([1, 1 - 1.2e-16], [10, 10])
    assert rounded == cluster_interval([1, 1], [10, 10])


def test_one_cluster_has_no_interval():
    assert all(math.isnan(x) for x in cluster_interval([0.5], [10]))


@pytest.mark.parametrize(
    ("rates", "counts", "message"),
    [([0.5], [1, 2], "must be"), ([0.5, 1.1], [1, 2], "in 0..1"), ([0.5, 1], [1, 0], "a trial")],
)
def test_wrong_clusters_are_refused(rates, counts, message):
    with pytest.raises(ValueError, match=message):
        cluster_interval(rates, counts)


@pytest.mark.parametrize(
    ("mean", "spread", "clusters", "trials"),
    [(0.93, 0.04, 10, 40), (0.985, 0.015, 10, 40), (0.93, 0.04, 10, 2000), (0.9, 0.05, 20, 200)],
)
def test_coverage_by_simulation(mean, spread, clusters, trials):
    """Accuracies of alphabets vary by a beta distribution; the interval holds their mean."""
    rng = np.random.default_rng(0)
    size = mean * (1 - mean) / spread**2 - 1
    alphabets = rng.beta(mean * size, (1 - mean) * size, (1500, clusters))
    rates = rng.binomial(trials, alphabets) / trials
    ends = np.array([cluster_interval(row, [trials] * clusters) for row in rates])
    covered = np.mean((ends[:, 0] <= mean) & (mean <= ends[:, 1]))
    assert 0.915 < covered < 0.985  # a percentile bootstrap covers 0.87 to 0.92 here
