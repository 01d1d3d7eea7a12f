"""Fixed pair sets: counts worked by hand, orders checked exhaustively, copies that are functions."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamese_jax.data.image_set import ImageSet
from siamese_jax.training import fixed_pairs
from siamese_jax.training.fixed_pairs import PairSet

# Characters of Omniglot's 30 background alphabets, in the order of their names.
OMNIGLOT = (20, 29, 26, 41, 40, 24, 46, 14, 26, 34, 33, 22, 26, 43, 24)
OMNIGLOT += (48, 22, 16, 52, 47, 40, 26, 40, 41, 33, 14, 42, 23, 17, 55)


def blank(characters, drawers):
    """A set of empty pictures: `characters` a alphabet, `drawers` one number or one a character."""
    counts = np.broadcast_to(drawers, (sum(characters),))
    alphabets = np.repeat(np.arange(len(characters)), characters)
    return ImageSet(
        images=np.zeros((counts.sum(), 1, 1, 1), np.uint8),
        classes=np.repeat(np.arange(len(counts)), counts).astype(np.int32),
        drawers=np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32),
        class_names=tuple(f"{a}/{c}" for c, a in enumerate(alphabets)),
        class_alphabets=alphabets.astype(np.int32),
        alphabet_names=tuple(f"alphabet{a}" for a in range(len(characters))),
        kind="ink",
        name="blank",
    )


@pytest.fixture(scope="module")
def omniglot():
    """Omniglot's 964 characters by drawers 1-12."""
    return blank(OMNIGLOT, 12)


def unordered(rows):
    return {tuple(sorted(pair)) for pair in rows.tolist()}


# --- which pairs ----------------------------------------------------------------------------------


def test_the_number_of_possible_pairs():
    assert len(OMNIGLOT) == 30 and sum(OMNIGLOT) == 964
    assert fixed_pairs.possible_pairs(blank(OMNIGLOT, 20)) == (185_849_560, 183_160)
    assert fixed_pairs.possible_pairs(blank(OMNIGLOT, 12)) == (66_903_528, 63_624)
    # Classes of 1, 2 and 4 images: 7 x 6 / 2 = 21 pairs, 0 + 1 + 6 same.
    assert fixed_pairs.possible_pairs(blank((1, 2), (1, 2, 4))) == (21, 7)


@pytest.mark.parametrize("negatives", ["any", "same_alphabet"])
@pytest.mark.parametrize(
    ("num_pairs", "short"), [(30_000, 0), (90_000, 7), (150_000, 18)], ids=["30k", "90k", "150k"]
)
def test_pairs_of_omniglot(omniglot, num_pairs, short, negatives):
    pair_set = fixed_pairs.make_pairs(omniglot, num_pairs, 0, negatives)
    rows, labels = pair_set.rows, pair_set.labels
    assert rows.shape == (num_pairs, 2) and rows.dtype == np.int32 and labels.shape == (num_pairs,)
    assert (rows[:, 0] != rows[:, 1]).all()
    classes, alphabets = omniglot.classes[rows], omniglot.alphabets[rows]
    np.testing.assert_array_equal(labels == 1, classes[:, 0] == classes[:, 1])
    share = num_pairs // 30
    owner = np.repeat(np.arange(30), share)
    same = labels == 1
    assert same.reshape(30, share).sum(1).tolist() == [share // 2] * 30
    assert (alphabets[same] == owner[same, None]).all()
    assert (alphabets == owner[:, None]).any(1).all()
    if negatives == "same_alphabet":
        assert (alphabets[:, 0] == alphabets[:, 1]).all()
    else:  # an alphabet has 1.5 to 6 % of the set, so nearly all partners are of others
        inside = (alphabets[~same, 0] == alphabets[~same, 1]).mean()
        assert 0.01 < inside < 0.05

    # Repeats by the number of same pairs there are, 66 a character, and none of different ones.
    possible = 66 * np.array(OMNIGLOT)
    expected = np.maximum(share // 2 - possible, 0)
    np.testing.assert_array_equal(pair_set.repeats, np.stack([0 * expected, expected], 1))
    assert np.count_nonzero(expected) == short
    assert len(unordered(rows[~same])) == num_pairs // 2
    for a in range(30):
        mine = rows[same & (owner == a)]
        drawn, often = np.unique(np.sort(mine, 1), axis=0, return_counts=True)
        assert len(drawn) == min(possible[a], share // 2)
        assert often.max() - often.min() <= 1  # all of them once before any comes again


def test_both_sides_and_all_drawings_are_used_alike(omniglot):
    pair_set = fixed_pairs.make_pairs(omniglot, 90_000, 1)
    different = pair_set.rows[pair_set.labels == 0]
    left, right = omniglot.alphabets[different].T
    owner = np.repeat(np.arange(30), 1500)
    assert abs((left == owner).mean() - (right == owner).mean()) < 0.02
    times = np.bincount(omniglot.drawers[pair_set.rows].ravel(), minlength=13)[1:]
    expected = 180_000 / 12  # standard deviation about 117
    assert (abs(times - expected) < 6 * 117).all()


def test_another_seed_draws_other_pairs(omniglot):
    draws = [fixed_pairs.make_pairs(omniglot, 600, seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0].rows, draws[1].rows)
    assert len(unordered(draws[0].rows) & unordered(draws[2].rows)) < 20


@pytest.mark.parametrize("negatives", ["any", "same_alphabet"])
def test_a_small_set_is_exhausted_before_anything_repeats(negatives):
    image_set = blank((2, 3), (2, 3, 2, 1, 3))
    every = set(itertools.combinations(range(11), 2))
    kind = image_set.classes
    alphabet = image_set.alphabets
    wanted = {  # by alphabet: possible same and different pairs
        a: (
            {(i, j) for i, j in every if kind[i] == kind[j] and alphabet[i] == a},
            {
                (i, j)
                for i, j in every
                if kind[i] != kind[j]
                and (
                    alphabet[i] == alphabet[j] == a or negatives == "any" and a in alphabet[[i, j]]
                )
            },
        )
        for a in (0, 1)
    }
    each = 100
    pair_set = fixed_pairs.make_pairs(image_set, 4 * each, 5, negatives)
    for a in (0, 1):
        part = slice(2 * each * a, 2 * each * (a + 1))
        rows, labels = pair_set.rows[part], pair_set.labels[part]
        same, different = unordered(rows[labels == 1]), unordered(rows[labels == 0])
        assert (same, different) == wanted[a]
    # Of the pairs between the alphabets, 5 x 6 rows, the second one finds all met.
    cross = len(wanted[0][1] & wanted[1][1])
    assert cross == (30 if negatives == "any" else 0)
    distinct = [len(wanted[0][1]), len(wanted[1][1]) - cross]
    assert pair_set.repeats[:, 0].tolist() == [each - n for n in distinct]
    assert pair_set.repeats[:, 1].tolist() == [each - len(wanted[a][0]) for a in (0, 1)]


def test_the_second_alphabet_takes_what_the_first_one_left():
    # 2 x 2 classes of 2: the first alphabet may take up to 16 pairs that the second one has too.
    image_set = blank((2, 2), 2)
    for seed in range(20):
        pair_set = fixed_pairs.make_pairs(image_set, 4 * 10, seed)
        assert pair_set.repeats[:, 0].tolist() == [0, 0]
        assert len(unordered(pair_set.rows[pair_set.labels == 0])) == 20


@pytest.mark.parametrize(
    ("image_set", "num_pairs", "negatives", "words"),
    [
        (blank((2, 2), 3), 6, "any", "6 pairs cannot be shared out .* multiple of 4, such as 8"),
        (blank((2, 2), 3), 0, "any", "0 pairs cannot .* such as 4"),
        (blank((2, 2), 3), 8, "near", "negatives must be one of .*, got 'near'"),
        (blank((2, 2), (2, 2, 1, 1)), 8, "any", "'alphabet1' of 'blank' has no same pairs"),
        (blank((1, 2), 2), 8, "same_alphabet", "'alphabet0' of 'blank' has no different pairs"),
    ],
)
def test_pairs_that_cannot_be_drawn(image_set, num_pairs, negatives, words):
    with pytest.raises(ValueError, match=words):
        fixed_pairs.make_pairs(image_set, num_pairs, 0, negatives)


def test_the_summary_counts_repeats_and_possible_pairs(omniglot):
    pair_set = fixed_pairs.make_pairs(omniglot, 90_000, 0)
    # 1,500 wanted of 66 a character: 20, 14, 22, 22, 16, 14, 17 characters fall short.
    missing = sum(1500 - 66 * n for n in (20, 14, 22, 22, 16, 14, 17))
    line = fixed_pairs.summary(omniglot, pair_set)
    assert "90,000 pairs" in line and "(63,624 same)" in line and "30 alphabets" in line
    assert f"{missing:,} same pairs of 7 alphabets and 0 different pairs of 0 are repeats" in line
    assert f"{math.comb(11_568, 2):,} possible" in line


# --- the order of an epoch ------------------------------------------------------------------------

epoch_order = jax.jit(fixed_pairs.epoch_order, static_argnums=3)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12, 13, 100, 127, 128, 1000, 4097])
def test_an_epochs_order_is_a_bijection(size):
    key = jax.random.key(0)
    orders = [np.asarray(epoch_order(key, e, np.arange(size), size)) for e in range(4)]
    for numbers in orders:
        assert numbers.dtype == np.int32
        np.testing.assert_array_equal(np.sort(numbers), np.arange(size))
    if size >= 12:
        assert len({tuple(numbers) for numbers in orders}) == 4  # each epoch has its own
        assert not np.array_equal(
            epoch_order(jax.random.key(1), 0, np.arange(size), size), orders[0]
        )


@pytest.mark.slow
def test_the_order_of_the_largest_set_is_a_bijection():
    size = 9 * 150_000
    order = np.asarray(epoch_order(jax.random.key(2), 7, np.arange(size), size))
    assert (np.bincount(order, minlength=size) == 1).all()
    # Neighbours are no more alike than by chance: the mean distance of two is a third of the size.
    gaps = abs(np.diff(order.astype(np.int64)))
    assert gaps.mean() == pytest.approx(size / 3, rel=0.005)
    assert np.corrcoef(order, np.arange(size))[0, 1] == pytest.approx(0, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 12, 30])
@pytest.mark.slow
def test_every_place_takes_every_example_equally_often(size):
    epochs = 3000
    order = jax.jit(jax.vmap(fixed_pairs.epoch_order, (None, 0, None, None)), static_argnums=3)
    orders = np.asarray(order(jax.random.key(0), np.arange(epochs), np.arange(size), size))
    expected = epochs / size
    at = np.stack([np.bincount(orders[:, i], minlength=size) for i in range(size)])
    chi2 = ((at - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)
    # And what follows on what: neighbours in an epoch take all ordered pairs of examples.
    follows = np.bincount((orders[:, :-1] * size + orders[:, 1:]).ravel(), minlength=size**2)
    follows = follows.reshape(size, size)[~np.eye(size, dtype=bool)]
    expected = epochs / size
    chi2 = ((follows - expected) ** 2 / expected).sum()
    assert chi2 < follows.size + 5 * np.sqrt(2 * follows.size)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="an epoch must have"):
        fixed_pairs.epoch_order(jax.random.key(0), 0, jnp.arange(1), 0)
    with pytest.raises(ValueError, match="must stay below 2.31, and is 2160000000"):
        fixed_pairs.example(jax.random.key(0), 0, 1600, 150_000, 8)


# --- batches --------------------------------------------------------------------------------------


def collect(key, steps, batch, num_pairs, copies):
    one = jax.jit(fixed_pairs.example, static_argnums=(2, 3, 4))
    examples = [one(key, jnp.int32(s), batch, num_pairs, copies) for s in steps]
    pair, copy = (np.concatenate([np.asarray(f[i]) for f in examples]) for i in (0, 1))
    keys = np.concatenate([np.asarray(jax.random.key_data(f[2])) for f in examples])
    return pair, copy, keys


def test_batches_run_on_across_epochs():
    """63 examples in batches of 10: three epochs are 18.9 batches, each example once in each."""
    pair, copy, _ = collect(jax.random.key(0), range(19), 10, 7, 8)
    numbers = copy * 7 + pair
    epochs = [numbers[63 * e : 63 * (e + 1)] for e in range(3)]
    for examples in epochs:
        np.testing.assert_array_equal(np.sort(examples), np.arange(63))
    assert len({tuple(examples) for examples in epochs}) == 3


@pytest.mark.slow
def test_a_batch_may_be_larger_than_the_set():
    pair, copy, _ = collect(jax.random.key(0), range(2), 25, 10, 0)
    assert (copy == 0).all()
    for e in range(5):
        np.testing.assert_array_equal(np.sort(pair[10 * e : 10 * (e + 1)]), np.arange(10))


@pytest.mark.slow
def test_late_steps_do_not_overflow():
    # The place of an example, 2^38, does not fit into 32 bits; whole epochs are counted modulo 2^32.
    step, size, batch = 2**31 - 8, 30, 128
    epoch, place = divmod(step * batch, size)
    numbers = np.arange(place, place + batch)
    k_order, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 2**32 - 1))
    expected = epoch_order(
        k_order,
        ((epoch + numbers // size) % 2**32).astype(np.uint32),
        (numbers % size).astype(np.int32),
        size,
    )
    pair, _, _ = collect(jax.random.key(0), [step], batch, size, 0)
    np.testing.assert_array_equal(pair, expected)


@pytest.mark.slow
def test_a_copys_warp_depends_on_the_pair_and_the_copy_alone():
    """The same pair and copy has the same two keys in every epoch; no two images share one."""
    pair, copy, keys = collect(jax.random.key(0), range(19), 10, 7, 8)  # three epochs of 63
    by_example = {}
    for p, c, k in zip(pair, copy, keys, strict=True):
        assert k.shape[0] == 2
        by_example.setdefault((p, c), set()).add(k.tobytes())
    assert len(by_example) == 63 and all(len(seen) == 1 for seen in by_example.values())
    assert len({k.tobytes() for k in keys.reshape(-1, keys.shape[-1])}) == 2 * 63
    # Another number of copies or of steps before changes nothing; another run's key does.
    pair, copy, fewer = collect(jax.random.key(0), range(2), 10, 7, 1)
    for p, c, k in zip(pair, copy, fewer, strict=True):
        assert by_example[p, c] == {k.tobytes()}
    _, _, other = collect(jax.random.key(1), range(7), 10, 7, 8)
    assert not {k.tobytes() for k in other} & set.union(*by_example.values())


def test_the_keys_are_not_those_of_the_steps():
    """A step's own draws come from fold_in(run's key, step)."""
    key = jax.random.key(0)
    steps = {
        np.asarray(jax.random.key_data(jax.random.fold_in(key, s))).tobytes() for s in range(9)
    }
    own = jax.random.split(jax.random.fold_in(key, 2**32 - 1))
    assert not {np.asarray(jax.random.key_data(k)).tobytes() for k in own} & steps


@pytest.mark.slow
def test_sampled_batches_show_the_pairs_of_the_set():
    image_set = blank((3, 4), 5)
    held = fixed_pairs.make_pairs(image_set, 40, 0)
    sample = jax.jit(fixed_pairs.sample_fixed_pairs, static_argnums=(3, 4))
    on_device = PairSet(*map(jnp.asarray, held))
    key = jax.random.key(4)
    seen = []
    for step in range(9):  # one epoch of 40 x 9 examples
        batch = sample(key, on_device, step, 40, 8)
        assert batch.rows.shape == batch.symmetries.shape == batch.keys.shape == (40, 2)
        assert batch.rows.dtype == jnp.int32 and not batch.symmetries.any()
        classes = image_set.classes[np.asarray(batch.rows)]
        np.testing.assert_array_equal(batch.labels, classes[:, 0] == classes[:, 1])
        np.testing.assert_array_equal(batch.distort[:, 0], batch.distort[:, 1])
        seen.append((np.asarray(batch.rows), np.asarray(batch.distort[:, 0])))
    rows, distort = (np.concatenate(part) for part in zip(*seen, strict=True))
    for wanted, times in (
        (distort, 8),
        (~distort, 1),
    ):  # each pair once as it is, 8 times distorted
        actual, often = np.unique(rows[wanted], axis=0, return_counts=True)
        expected, repeats = np.unique(held.rows, axis=0, return_counts=True)
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(often, times * repeats)
    again = sample(key, on_device, 8, 40, 8)
    np.testing.assert_array_equal(again.rows, rows[-40:])
    plain = sample(key, on_device, 0, 40, 0)
    assert not plain.distort.any()
