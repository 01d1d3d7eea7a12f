"""Classes of unequal sizes: how often each is drawn, against the shares that a balance promises."""

import types

import jax
import numpy as np
import pytest
import scipy.stats

from siamese_jax.config import check_fields
from siamese_jax.training import objectives, sampling

BATCH = 6000
COUNTS = np.array([2, 3, 40, 5, 2, 18, 100])  # of the classes of two alphabets, of 3 and 4
ALPHABETS = np.array([0, 0, 0, 1, 1, 1, 1])
CLASSES = np.repeat(np.arange(7), COUNTS)


def index_of(balance):
    images = types.SimpleNamespace(
        class_start=(np.cumsum(COUNTS) - COUNTS).astype(np.int32),
        class_count=COUNTS.astype(np.int32),
        alphabet_start=np.array([0, 3], np.int32),
        alphabet_count=np.array([3, 4], np.int32),
        class_alphabets=ALPHABETS,
    )
    return sampling.SetIndex.of(images, balance)


def shares(balance):
    weights = COUNTS ** (1.0 - balance)
    return weights / weights.sum()


def as_expected(classes, expected):
    """A chi-square test of the numbers of draws."""
    found = np.bincount(np.ravel(classes), minlength=len(expected))
    possible = expected > 0
    assert not found[~possible].any()
    return scipy.stats.chisquare(found[possible], found.sum() * expected[possible]).pvalue > 0.001


BALANCES = pytest.mark.parametrize("balance", [1.0, 0.5, 0.0])
images = jax.jit(sampling.sample_images, static_argnums=2)
pairs = jax.jit(sampling.sample_pairs, static_argnums=2, static_argnames="negatives")
episodes = jax.jit(
    sampling.sample_episodes, static_argnums=(2, 3), static_argnames=("max_alphabet",)
)


@BALANCES
def test_single_images(balance):
    rows = np.asarray(images(jax.random.key(0), index_of(balance), BATCH).rows)
    assert as_expected(CLASSES[rows], shares(balance))
    if balance == 0:  # every image is as likely as any other
        assert as_expected(rows, np.full(len(CLASSES), 1 / len(CLASSES)))


@BALANCES
@pytest.mark.parametrize("negatives", ["any", "same_alphabet"])
def test_pairs(balance, negatives):
    drawn = pairs(jax.random.key(1), index_of(balance), BATCH, negatives=negatives)
    classes, same = CLASSES[np.asarray(drawn.rows)], np.asarray(drawn.labels) == 1
    assert (classes[same, 0] == classes[same, 1]).all()
    assert (classes[~same, 0] != classes[~same, 1]).all()
    assert as_expected(classes[:, 0], shares(balance))
    for left in (2, 5):  # a different class, by the weights of those that are left
        possible = np.arange(7) != left
        if negatives == "same_alphabet":
            possible &= ALPHABETS[left] == ALPHABETS
        expected = np.where(possible, shares(balance), 0)
        assert as_expected(classes[~same & (classes[:, 0] == left), 1], expected / expected.sum())


@BALANCES
def test_episodes(balance):
    drawn = episodes(jax.random.key(2), index_of(balance), BATCH, 3, max_alphabet=4)
    classes = CLASSES[np.asarray(drawn.rows)]
    assert np.asarray(drawn.mask).all() and (classes[:, 0] == classes[:, 1]).all()
    assert all(len(set(row)) == 3 for row in classes[:, 0])
    assert (ALPHABETS[classes] == ALPHABETS[classes[:, :1, :1]]).all()
    # The alphabet by the weights of its classes, then the first class by its own: by its weight.
    assert as_expected(classes[:, 0, 0], shares(balance))
    # The second by the weights of those that are left of its alphabet.
    first = classes[:, 0, 0] == 6
    expected = np.where((ALPHABETS == 1) & (np.arange(7) != 6), shares(balance), 0)
    assert as_expected(classes[first, 0, 1], expected / expected.sum())


def test_without_a_balance_the_draws_are_those_of_before(glyphs):
    fields = {"name": "classifier", "batch": 8, "symmetries": "none"}
    assert objectives.make_index(fields, glyphs, 0).weight_end is None
    weighted = objectives.make_index({**fields, "balance": 0.0}, glyphs, 0)
    assert np.ptp(np.diff(np.asarray(weighted.weight_end), prepend=0)) == 0  # equal classes


def test_the_balance_is_a_share_and_goes_with_new_draws():
    with pytest.raises(ValueError, match="objective.balance must be a number of at least 0"):
        check_fields({"objective": {"balance": 2.0}})
    fields = {"name": "verification", "batch": 8, "symmetries": "none", "negatives": "any"}
    with pytest.raises(ValueError, match="objective.balance weighs the classes"):
        objectives.build({**fields, "pairs": 100, "balance": 0.5}, 5)
