"""Which images meet: every rule of the pairs and the episodes, counted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from siamese_jax.training import sampling
from siamese_jax.training.sampling import NUM_SYMMETRIES, SetIndex

BATCH = 4000


def made_set(alphabet_sizes, images_per_class):
    """The index of a set with these sizes, and the class, alphabet and slot of each row."""
    class_alphabet = np.repeat(np.arange(len(alphabet_sizes)), alphabet_sizes)
    counts = np.broadcast_to(images_per_class, class_alphabet.shape)
    classes = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    index = SetIndex(
        *(jnp.asarray(x, jnp.int32) for x in (starts, counts)),
        jnp.asarray(np.cumsum(alphabet_sizes) - alphabet_sizes, jnp.int32),
        jnp.asarray(alphabet_sizes, jnp.int32),
        jnp.asarray(class_alphabet, jnp.int32),
    )
    return index, classes, class_alphabet[classes], np.arange(len(classes)) - starts[classes]


pairs = jax.jit(
    sampling.sample_pairs, static_argnums=2, static_argnames=("negatives", "symmetries")
)
images = jax.jit(sampling.sample_images, static_argnums=2, static_argnames="symmetries")
episodes = jax.jit(
    sampling.sample_episodes,
    static_argnums=(2, 3),
    static_argnames=("symmetries", "pad_with_symmetries", "max_alphabet", "images_per_class"),
)


def evenly(values, size):
    """Whether 0 .. size - 1 occur equally often, by a chi-square test at 0.1 %."""
    counts = np.bincount(np.ravel(values), minlength=size)
    assert len(counts) == size
    return scipy.stats.chisquare(counts).pvalue > 1e-3


def test_the_index_is_that_of_the_image_set(glyphs):
    index = SetIndex.of(glyphs)
    rows = np.arange(len(glyphs))
    slots = rows - np.asarray(index.class_start)[glyphs.classes]
    np.testing.assert_array_equal(slots, glyphs.drawers - 1)
    np.testing.assert_array_equal(index.class_alphabet, np.repeat(np.arange(6), 8))
    np.testing.assert_array_equal(index.alphabet_start, np.arange(6) * 8)
    np.testing.assert_array_equal(index.alphabet_count, np.full(6, 8))
    np.testing.assert_array_equal(index.class_count, np.full(48, 8))


# --- pairs ----------------------------------------------------------------------------------------

UNEVEN = ((5, 3, 9), tuple(2 + c % 4 for c in range(17)))  # a folder: 2 to 5 pictures a class


@pytest.mark.parametrize("negatives", sampling.NEGATIVES)
@pytest.mark.parametrize("sizes", [((5, 3, 9), 6), UNEVEN], ids=["even", "uneven"])
def test_pairs(sizes, negatives):
    index, classes, alphabets, slots = made_set(*sizes)
    drawn = pairs(jax.random.key(0), index, BATCH, negatives=negatives)
    rows = np.asarray(drawn.rows)
    left, right = rows.T
    same = np.asarray(drawn.labels) == 1
    assert rows.shape == (BATCH, 2) and rows.min() >= 0 and rows.max() < len(classes)
    assert np.sum(same) == BATCH // 2 and np.all(np.asarray(drawn.labels)[~same] == 0)
    assert not np.any(left == right)
    np.testing.assert_array_equal(classes[left] == classes[right], same)
    assert not np.any(np.asarray(drawn.symmetries))

    # Every class is drawn equally often, and so are the pictures of the largest classes.
    counts = np.bincount(classes)
    num_classes, largest = len(counts), counts.max()
    assert evenly(classes[left[same]], num_classes) and evenly(classes[left[~same]], num_classes)
    for side in (left[same], right[same], left[~same], right[~same]):
        assert evenly(slots[side[counts[classes[side]] == largest]], largest)
    of_largest = same & (counts[classes[left]] == largest)
    between = (slots[right[of_largest]] - slots[left[of_largest]]) % largest
    assert evenly(between - 1, largest - 1)

    # A negative comes from every other class of the set, or of the alphabet, equally often.
    if negatives == "same_alphabet":
        np.testing.assert_array_equal(alphabets[left], alphabets[right])
        of_third = ~same & (alphabets[left] == 2)  # it has nine characters
        assert evenly((classes[right] - classes[left])[of_third] % 9 - 1, 8)
    else:
        assert np.mean(alphabets[left[~same]] == alphabets[right[~same]]) < 0.5
        assert evenly((classes[right] - classes[left])[~same] % num_classes - 1, num_classes - 1)


def test_both_images_of_a_pair_are_turned_alike():
    index, *_ = made_set((4, 4), 3)
    symmetries = np.asarray(
        pairs(jax.random.key(1), index, BATCH, symmetries="character").symmetries
    )
    np.testing.assert_array_equal(symmetries[:, 0], symmetries[:, 1])
    assert evenly(symmetries[: BATCH // 2, 0], NUM_SYMMETRIES) and evenly(
        symmetries[BATCH // 2 :, 0], NUM_SYMMETRIES
    )


def test_two_pictures_a_class_are_enough():
    index, classes, *_ = made_set((2, 2), 2)
    rows = np.asarray(pairs(jax.random.key(2), index, 400, negatives="same_alphabet").rows)
    assert not np.any(rows[:, 0] == rows[:, 1])
    np.testing.assert_array_equal(classes[rows[:, 0]] == classes[rows[:, 1]], np.arange(400) < 200)


# --- episodes -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_episode_is_one_alphabet_by_two_drawers(glyphs):
    index = SetIndex.of(glyphs)
    drawn = episodes(jax.random.key(0), index, 1000, 6, max_alphabet=8)
    rows = np.asarray(drawn.rows)
    assert rows.shape == (1000, 2, 6)
    classes, drawers = glyphs.classes[rows], glyphs.drawers[rows]
    np.testing.assert_array_equal(classes[:, 0], classes[:, 1])  # the same characters, in order
    assert all(len(set(row)) == 6 for row in classes[:, 0])
    assert np.all(glyphs.alphabets[rows] == glyphs.alphabets[rows[:, :1, :1]])
    np.testing.assert_array_equal(drawers, np.broadcast_to(drawers[..., :1], drawers.shape))
    assert not np.any(drawers[:, 0] == drawers[:, 1])
    assert np.all(drawn.mask) and not np.any(np.asarray(drawn.symmetries))
    assert evenly(classes[:, 0], 48)
    for side in range(2):
        assert evenly(drawers[:, side, 0] - 1, 8)
    assert evenly((drawers[:, 1, 0] - drawers[:, 0, 0]) % 8 - 1, 7)
    first = np.asarray(glyphs.classes[rows[:, 0, 0]]) % 8
    assert evenly(first, 8)  # the order is random too


def test_alphabets_are_drawn_by_their_size():
    index, classes, alphabets, _ = made_set((5, 10, 25), 4)
    rows = np.asarray(episodes(jax.random.key(1), index, 4000, 5, max_alphabet=25).rows)
    counts = np.bincount(alphabets[rows[:, 0, 0]], minlength=3)
    assert scipy.stats.chisquare(counts, np.array([500, 1000, 2500])).pvalue > 1e-3
    assert evenly(classes[rows[:, 0]], 40)


@pytest.mark.slow
def test_a_small_alphabet_takes_fewer_ways():
    index, classes, alphabets, _ = made_set((3, 6), 4)
    drawn = episodes(jax.random.key(2), index, 500, 5, max_alphabet=6)
    rows, mask = np.asarray(drawn.rows), np.asarray(drawn.mask)
    small = alphabets[rows[:, 0, 0]] == 0
    assert 100 < small.sum() < 400
    np.testing.assert_array_equal(
        mask[small], np.arange(5)[None, :] < 3 + np.zeros((small.sum(), 1))
    )
    assert np.all(mask[~small])
    for row, present in zip(classes[rows[:, 0]], mask, strict=True):
        assert len(set(row[present])) == present.sum()


@pytest.mark.parametrize("symmetries", sampling.SYMMETRIES)
@pytest.mark.slow
def test_a_small_alphabet_fills_up_with_turned_copies(symmetries):
    index, classes, alphabets, _ = made_set((3, 7), 4)
    drawn = episodes(
        jax.random.key(3),
        index,
        500,
        7,
        symmetries=symmetries,
        pad_with_symmetries=True,
        max_alphabet=7,
    )
    rows, symmetry = np.asarray(drawn.rows), np.asarray(drawn.symmetries)
    identities = np.asarray(drawn.identities)
    assert np.all(drawn.mask)
    np.testing.assert_array_equal(symmetry[:, 0], symmetry[:, 1])  # a character turns as a whole
    assert symmetry.min() >= 0 and symmetry.max() < NUM_SYMMETRIES
    for row, turn, identity in zip(classes[rows[:, 0]], symmetry[:, 0], identities, strict=True):
        described = list(zip(row, turn, strict=True))
        assert len(set(described)) == 7  # no turned character twice
        for i in range(7):
            for j in range(7):
                assert (identity[i] == identity[j]) == (described[i] == described[j])
    small = alphabets[rows[:, 0, 0]] == 0
    if symmetries == "none":
        assert not np.any(symmetry[~small])
        assert sorted(set(symmetry[small, 0].ravel())) == [0, 1, 2]
    else:
        assert evenly(symmetry[:, 0, 0], NUM_SYMMETRIES)
        alike = np.all(symmetry[~small] == symmetry[~small][..., :1], axis=(1, 2))
        assert np.all(alike) if symmetries == "alphabet" else np.mean(alike) < 0.01


def test_a_tiny_alphabet_runs_out_of_symmetries():
    index, _, _, _ = made_set((2,), 3)
    drawn = episodes(jax.random.key(4), index, 3, 20, pad_with_symmetries=True, max_alphabet=2)
    np.testing.assert_array_equal(drawn.mask, np.broadcast_to(np.arange(20) < 16, (3, 20)))
    for identities in np.asarray(drawn.identities):
        assert len(set(identities[:16])) == 16


@pytest.mark.slow
def test_episodes_of_a_folder_never_show_one_picture_twice():
    index, classes, _, _ = made_set(*UNEVEN)
    drawn = episodes(jax.random.key(5), index, 800, 3, max_alphabet=9)
    rows = np.asarray(drawn.rows)
    assert not np.any(rows[:, 0] == rows[:, 1])
    np.testing.assert_array_equal(classes[rows[:, 0]], classes[rows[:, 1]])
    seen = np.bincount(rows.ravel(), minlength=len(classes))
    assert np.all(seen > 0)
    by_class = np.bincount(classes, weights=seen)
    assert np.all(by_class > 0)


@pytest.mark.parametrize("images_per_class", [1, 3, 5])
@pytest.mark.slow
def test_episodes_of_several_drawers(glyphs, images_per_class):
    index = SetIndex.of(glyphs)
    drawn = episodes(
        jax.random.key(6), index, 3000, 4, max_alphabet=8, images_per_class=images_per_class
    )
    rows = np.asarray(drawn.rows)
    assert rows.shape == drawn.symmetries.shape == (3000, images_per_class, 4)
    classes, drawers = glyphs.classes[rows], glyphs.drawers[rows]
    np.testing.assert_array_equal(classes, np.broadcast_to(classes[:, :1], classes.shape))
    np.testing.assert_array_equal(drawers, np.broadcast_to(drawers[..., :1], drawers.shape))
    assert all(len(set(d)) == images_per_class for d in drawers[..., 0])
    for side in range(images_per_class):
        assert evenly(drawers[:, side, 0] - 1, 8)
    for one, other in itertools.combinations(range(images_per_class), 2):
        assert evenly((drawers[:, other, 0] - drawers[:, one, 0]) % 8 - 1, 7)


def test_several_drawings_of_just_as_many_images():
    index, classes, _, _ = made_set((4,), 3)
    rows = np.asarray(
        episodes(jax.random.key(7), index, 50, 4, max_alphabet=4, images_per_class=3).rows
    )
    for episode in rows:
        for n in range(4):
            assert len(set(episode[:, n])) == 3 and len(set(classes[episode[:, n]])) == 1


def test_single_images_are_of_all_classes_and_turns():
    index, classes, _, _ = made_set(*UNEVEN)
    drawn = images(jax.random.key(8), index, 8000, symmetries="alphabet")
    rows, labels = np.asarray(drawn.rows), np.asarray(drawn.labels)
    np.testing.assert_array_equal(
        labels, classes[rows] * NUM_SYMMETRIES + np.asarray(drawn.symmetries)
    )
    assert evenly(classes[rows], classes.max() + 1) and evenly(drawn.symmetries, NUM_SYMMETRIES)
    one = rows[classes[rows] == 0]
    assert evenly(one - one.min(), (classes == 0).sum())
    plain = images(jax.random.key(8), index, 100)
    np.testing.assert_array_equal(plain.labels, classes[plain.rows] * NUM_SYMMETRIES)


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda key, index: sampling.sample_pairs(key, index, 32, symmetries="character"),
        lambda key, index: sampling.sample_episodes(
            key, index, 4, 6, symmetries="alphabet", pad_with_symmetries=True, max_alphabet=8
        ),
    ],
    ids=["pairs", "episodes"],
)
def test_a_batch_follows_from_its_key(draw, glyphs):
    index = SetIndex.of(glyphs)
    function = jax.jit(draw)
    batch = function(jax.random.key(0), index)
    again = jax.jit(lambda key, index: draw(key, index))(jax.random.key(0), index)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    other = function(jax.random.key(1), index)
    assert not np.array_equal(batch.rows, other.rows)


def test_settings_are_checked():
    index, *_ = made_set((4,), 3)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"must be even .*: 5"):
        sampling.sample_pairs(key, index, 5)
    with pytest.raises(ValueError, match="negatives must be one of .* got 'all'"):
        sampling.sample_pairs(key, index, 4, negatives="all")
    with pytest.raises(ValueError, match="symmetries must be one of .* got 'flip'"):
        sampling.sample_pairs(key, index, 4, symmetries="flip")
    with pytest.raises(ValueError, match="symmetries must be one of .* got 'yes'"):
        sampling.sample_episodes(key, index, 4, 2, symmetries="yes", max_alphabet=4)
