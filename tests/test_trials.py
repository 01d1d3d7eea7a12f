"""Lists of trials and pairs: what they promise, and that they are frozen."""

import dataclasses

import numpy as np
import pytest

from siamese_jax.evaluation import lists
from siamese_jax.evaluation import trials as trial_lists
from tests.planted import make_set


@pytest.mark.parametrize(
    ("n_way", "k_shot", "num_trials", "shape"),
    [
        (5, 1, 60, (12, 5)),  # 20 an alphabet: 4 runs of 5
        (4, 2, 18, (6, 3)),  # 6 an alphabet: 2 runs of 3
        (5, 3, 20, (20, 1)),  # 20 is not divisible by 3
        (1, 1, 6, (6, 1)),
    ],
)
def test_within_trials_keep_what_they_promise(small, n_way, k_shot, num_trials, shape):
    trials = trial_lists.within_trials(
        small, n_way=n_way, k_shot=k_shot, num_trials=num_trials, seed=3
    )
    assert trials.num_trials == num_trials and trials.queries.shape == shape
    assert trials.supports.shape == (shape[0], n_way, k_shot)
    support_classes = small.classes[trials.supports]  # (R, N, K)
    assert (support_classes == support_classes[..., :1]).all()
    support_classes = support_classes[..., 0]
    assert all(len(set(run)) == n_way for run in support_classes)  # distinct classes
    alphabets = small.class_alphabets[support_classes]
    assert (alphabets == alphabets[:, :1]).all()  # of one alphabet
    runs_of = np.bincount(alphabets[:, 0], minlength=3)
    assert runs_of.max() - runs_of.min() <= 1  # balanced
    right = np.take_along_axis(support_classes, trials.answers, 1)
    np.testing.assert_array_equal(small.classes[trials.queries], right)
    assert all(len(set(run)) == len(run) for run in trials.answers)  # each asked once
    query_drawers = small.drawers[trials.queries]
    support_drawers = small.drawers[trials.supports]
    assert (query_drawers == query_drawers[:, :1]).all()  # one drawer a side
    assert (support_drawers == support_drawers[:, :1]).all()  # K of them for the supports
    for asked, shown in zip(query_drawers[:, 0], support_drawers[:, 0], strict=True):
        assert len({asked, *shown}) == k_shot + 1
    np.testing.assert_array_equal(trials.groups, np.repeat(alphabets[:, :1], shape[1], 1))
    assert trials.grouped_by == "alphabet" and trials.scope == "within alphabets"


def test_within_trials_draw_evenly(small):
    trials = trial_lists.within_trials(small, n_way=5, num_trials=6000, seed=0)
    # Of 1,200 runs each of 12 ordered drawer pairs has 100 +- 10, each position of the answers 1/5.
    pairs = 10 * small.drawers[trials.queries[:, 0]] + small.drawers[trials.supports[:, 0, 0]]
    counts = np.unique(pairs, return_counts=True)[1]
    assert len(counts) == 12 and abs(counts - 100).max() < 45
    assert (np.bincount(trials.answers.ravel()) == 1200).all()
    first = np.bincount(trials.answers[:, 0], minlength=5)
    assert abs(first - 240).max() < 65
    shown = np.bincount(small.classes[trials.supports].ravel())
    assert (shown[6:11] == 400).all()  # all five of the alphabet of five
    assert abs(shown[11:] - 2000 / 9).max() < 60  # five of nine


def test_trials_are_a_function_of_the_seed(small):
    first = trial_lists.within_trials(small, n_way=4, num_trials=30, seed=1)
    again = trial_lists.within_trials(small, n_way=4, num_trials=30, seed=1)
    other = trial_lists.within_trials(small, n_way=4, num_trials=30, seed=2)
    np.testing.assert_array_equal(first.queries, again.queries)
    np.testing.assert_array_equal(first.supports, again.supports)
    assert first.hash == again.hash != other.hash
    assert (first.supports != other.supports).any()
    part = small.select(drawers=[1, 2])
    assert trial_lists.within_trials(part, n_way=4, num_trials=30, seed=1).hash != first.hash


def test_hashes_are_golden(small):
    """They name trials in published tables, so they must never move."""
    by_hand = lists.Trials(
        name="hand",
        scope="",
        images=np.zeros((6, 2, 2, 1), np.uint8),
        fingerprint="abc",
        supports=np.arange(4).reshape(2, 2, 1),
        queries=np.array([[4], [5]]),
        answers=np.array([[0], [1]]),
        groups=np.array([[0], [1]]),
        group_names=("x", "y"),
        grouped_by="run",
    )
    assert by_hand.hash == "3b552668e53a"
    narrow = {f: getattr(by_hand, f).astype(np.int32) for f in ("supports", "queries", "answers")}
    assert dataclasses.replace(by_hand, **narrow).hash == by_hand.hash
    assert dataclasses.replace(by_hand, fingerprint="abd").hash != by_hand.hash
    assert dataclasses.replace(by_hand, answers=1 - by_hand.answers).hash != by_hand.hash
    assert trial_lists.within_trials(small, n_way=5, num_trials=60, seed=0).hash == "6729a97e3df8"
    assert trial_lists.between_trials(small, n_way=9, num_trials=60, seed=0).hash == "13e031bda463"
    assert trial_lists.verification_pairs(small, num_pairs=60, seed=0).hash == "32e9fca0db42"


def test_koch_trials_ask_every_character_of_two_runs_an_alphabet():
    trials = trial_lists.koch_trials(make_set((20, 25)), seed=0)
    assert trials.supports.shape == (4, 20, 1) and trials.num_trials == 80
    assert all(sorted(run) == list(range(20)) for run in trials.answers)
    assert trial_lists.koch_trials(make_set((20,) * 10), seed=0).num_trials == 400


def test_the_validation_trials_of_koch_are_320():
    trials = trial_lists.within_trials(make_set((20,) * 10), n_way=20, num_trials=320)
    assert trials.queries.shape == (20, 16)  # two runs an alphabet


def test_n_way_above_an_alphabet_names_both(small):
    with pytest.raises(ValueError, match="n_way 6 is above the 5 classes of alphabet 'alphabet1'"):
        trial_lists.within_trials(small, n_way=6)
    trials = trial_lists.within_trials(small, n_way=6, num_trials=24, skip_small=True)
    assert trials.group_names == ("alphabet0", "alphabet2")
    assert trials.scope == "within alphabets of 6 or more"
    with pytest.raises(ValueError, match="in .*: choose at most 9, or give more classes"):
        trial_lists.within_trials(small, n_way=10, skip_small=True)
    with pytest.raises(ValueError, match="n_way 21 is not in 1 .. 20, the number of classes"):
        trial_lists.between_trials(small, n_way=21)


def test_chosen_alphabets(small):
    trials = trial_lists.within_trials(small, n_way=6, num_trials=12, alphabets=["alphabet2"])
    assert set(small.alphabets[trials.queries].ravel()) == {2}
    assert trials.grouped_by == "class"  # one alphabet: classes are the groups
    names = np.array(trials.group_names)[trials.groups]
    np.testing.assert_array_equal(names, np.array(small.class_names)[small.classes[trials.queries]])
    with pytest.raises(ValueError, match="unknown alphabet 'alphabet9'; did you mean alphabet"):
        trial_lists.within_trials(small, alphabets=["alphabet9"])
    for draw in (
        trial_lists.within_trials,
        trial_lists.between_trials,
        trial_lists.verification_pairs,
    ):
        with pytest.raises(ValueError, match="alphabets names none: name one, or give None for"):
            draw(small, alphabets=[])


def test_too_few_drawers_or_pictures(small):
    with pytest.raises(ValueError, match="'alphabet0' has 4 drawers .* and 5 are needed"):
        trial_lists.within_trials(small, n_way=3, k_shot=4)
    uneven = make_set((4,), counts=[3, 1, 5, 2], kind="photo")
    with pytest.raises(ValueError, match="class 'c01' has 1 images, and 2 are needed"):
        trial_lists.within_trials(uneven, n_way=4)


def test_photos_give_pictures_of_their_own():
    uneven = make_set((4, 4), counts=[3, 7, 5, 3, 3, 4, 9, 3], kind="photo")
    trials = trial_lists.within_trials(uneven, n_way=4, k_shot=2, num_trials=800, seed=0)
    rows = np.concatenate([trials.queries.ravel(), trials.supports.ravel()])
    assert set(rows) == set(range(len(uneven)))  # also the ninth picture of the class of nine
    assert (np.diff(np.sort(trials.supports, -1), axis=-1) > 0).all()  # two different ones
    pictures = uneven.drawers[trials.queries]
    assert (pictures != pictures[:, :1]).any()


def test_between_trials_mix_alphabets_and_keep_drawers_apart(small):
    trials = trial_lists.between_trials(small, n_way=12, k_shot=2, num_trials=120, seed=0)
    assert trials.queries.shape == (10, 12)
    classes = small.classes[trials.supports[..., 0]]
    assert all(len(set(run)) == 12 for run in classes)
    assert all(len(set(small.class_alphabets[run])) == 3 for run in classes)
    right = np.take_along_axis(trials.supports, trials.answers[..., None], 1)
    np.testing.assert_array_equal(small.classes[trials.queries], small.classes[right[..., 0]])
    assert (small.drawers[right] != small.drawers[trials.queries][..., None]).all()
    np.testing.assert_array_equal(trials.groups, small.alphabets[trials.queries])
    assert trials.scope == "between alphabets"


def test_curve_goes_between_alphabets_where_it_must(small):
    lists = trial_lists.curve_trials(small, num_trials=30)
    assert [t.n_way for t in lists] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert [t.scope.split()[0] for t in lists] == ["within"] * 3 + ["between"] * 7
    # Beside a set with an alphabet of three characters:
    lists = trial_lists.curve_trials(small, num_trials=30, largest_within=3)
    assert [t.scope.split()[0] for t in lists] == ["within"] * 2 + ["between"] * 8
    lists = trial_lists.curve_trials(small, n_ways=[2, 20], num_trials=30, scope="between")
    assert [t.scope.split()[0] for t in lists] == ["between"] * 2
    with pytest.raises(ValueError, match="n_way 60"):
        trial_lists.curve_trials(small, n_ways=[60])
    with pytest.raises(ValueError, match="'auto' or 'between', got 'any'"):
        trial_lists.curve_trials(small, scope="any")


@pytest.mark.parametrize("negatives", ["any", "same_alphabet"])
def test_verification_pairs(small, negatives):
    pairs = trial_lists.verification_pairs(small, num_pairs=6000, seed=0, negatives=negatives)
    assert pairs.labels.sum() == 3000
    a, b = small.classes[pairs.first], small.classes[pairs.second]
    np.testing.assert_array_equal(a == b, pairs.labels == 1)
    assert (small.drawers[pairs.first] != small.drawers[pairs.second]).all()
    per_alphabet = np.bincount(2 * pairs.groups + pairs.labels)
    assert (per_alphabet == 1000).all()
    np.testing.assert_array_equal(pairs.groups, small.alphabets[pairs.first])
    different = pairs.labels == 0
    inside = (small.alphabets[pairs.second] == pairs.groups)[different].mean()
    # Any: of 19 other classes, 5, 4 and 8 are of the same alphabet.
    expected = 1.0 if negatives == "same_alphabet" else (5 + 4 + 8) / 3 / 19
    assert inside == pytest.approx(expected, abs=0.04)
    for rows in (pairs.first, pairs.second[different], pairs.second[~different]):
        assert len(set(rows)) == len(small)  # every image can come
    # Second images of an alphabet's same pairs are even: 1,000 over 5 classes of 4 images.
    counts = np.bincount(pairs.second[~different & (pairs.groups == 1)])[24:44]
    assert abs(counts - 50).max() < 30


def test_verification_pairs_of_uneven_classes():
    uneven = make_set((3, 3), counts=[3, 1, 5, 2, 2, 4], kind="photo")
    pairs = trial_lists.verification_pairs(uneven, num_pairs=4000, seed=0)
    both = np.concatenate([pairs.first, pairs.second])
    assert 1 not in uneven.classes[both]  # a single picture makes no pair
    assert len(set(both)) == len(uneven) - 1
    assert (uneven.drawers[pairs.first] != uneven.drawers[pairs.second]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_pairs": 7}, "must be even, got 7"),
        ({"negatives": "hard"}, r"one of \('any', 'same_alphabet'\), got 'hard'"),
    ],
)
def test_verification_pairs_refuse(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        trial_lists.verification_pairs(small, **arguments)
    single = make_set((2, 3), counts=[2, 1, 2, 2, 2])
    with pytest.raises(ValueError, match="alphabet 'alphabet0' has 1 classes of two or more"):
        trial_lists.verification_pairs(single, negatives="same_alphabet")


def test_a_trial_never_meets_its_own_image(small):
    trials = trial_lists.within_trials(small, n_way=4, num_trials=12)
    queries = trials.queries.copy()
    queries[2, 0] = trials.supports[2, 3, 0]
    with pytest.raises(ValueError, match="query 0 of run 2 is one of its own supports"):
        dataclasses.replace(trials, queries=queries)
    with pytest.raises(ValueError, match="answers must be in 0 .. 3"):
        dataclasses.replace(trials, answers=trials.answers + 4)
    with pytest.raises(ValueError, match="rows must be in 0 .. 79"):
        dataclasses.replace(trials, queries=trials.queries + 80)
    pairs = trial_lists.verification_pairs(small, num_pairs=12)
    with pytest.raises(ValueError, match="pair 0 is an image with itself"):
        dataclasses.replace(pairs, second=pairs.first)
