"""The invented alphabets, and the runs drawn from a set."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from siamese_jax.data import glyphs as glyphs_lib
from siamese_jax.data.glyphs import make_glyphs
from siamese_jax.data.image_set import ImageSet
from siamese_jax.data.official_runs import OfficialRuns, make_runs


@pytest.fixture(scope="module")
def large():
    """Alphabets large enough for 20-way runs."""
    return make_glyphs(5, num_alphabets=3, characters=(20, 22), num_drawers=6, image_size=56)


def test_structure(glyphs):
    assert glyphs.kind == "ink"
    assert glyphs.grid().shape == (48, 8, 28, 28, 1)
    assert glyphs.num_alphabets == 6
    np.testing.assert_array_equal(glyphs.alphabet_count, [8] * 6)
    assert glyphs.class_names[0] == "alphabet01/character01"
    assert glyphs.class_names[-1] == "alphabet06/character08"
    assert list(glyphs.class_names) == sorted(glyphs.class_names)
    np.testing.assert_array_equal(glyphs.drawers[:8], range(1, 9))


def test_every_picture_is_ink_on_paper_inside_the_frame(glyphs):
    images = glyphs.images[..., 0].astype(float)
    ink = (images > 127).mean((1, 2))
    assert ink.min() > 0.005 and ink.max() < 0.35
    assert images.max((1, 2)).min() > 200
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert (border > 127).mean() < 0.02


def test_same_seed_same_set_other_seed_other_set(glyphs):
    small = {"num_alphabets": 2, "characters": (3, 3), "num_drawers": 2, "image_size": 28}
    first, again, other = (make_glyphs(seed, **small) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    # a smaller set is a part of a larger one
    np.testing.assert_array_equal(first.grid()[:3], glyphs.grid()[:3, :2])
    np.testing.assert_array_equal(first.grid()[3:], glyphs.grid()[8:11, :2])


def test_counts_lie_in_their_range():
    images = make_glyphs(3, num_alphabets=12, characters=(2, 5), num_drawers=2, image_size=16)
    assert set(images.alphabet_count) == {2, 3, 4, 5}


def test_one_drawer_draws_alike_and_drawers_differ(glyphs):
    """The pen width, seen as ink over length, goes with the drawer and not with the character."""
    images = make_glyphs(1, num_alphabets=1, characters=(20, 20), num_drawers=10, image_size=105)
    ink = images.grid()[..., 0] > 127
    inner = (
        ink & np.roll(ink, 1, 2) & np.roll(ink, -1, 2) & np.roll(ink, 1, 3) & np.roll(ink, -1, 3)
    )
    width = ink.sum((2, 3)) / (ink & ~inner).sum((2, 3))  # (characters, drawers)
    between = width.mean(0).var()
    within = width.var(0).mean()
    assert between > 5 * within


def test_rendering_is_the_distance_to_the_line():
    """Against a plain loop over pixels and segments in float64."""
    rng = np.random.default_rng(0)
    lines = rng.uniform(0.1, 0.9, (3, 2, 4, 2))
    pens = np.array([0.05, 0.11, 0.001])
    size = 24
    drawn = glyphs_lib._render(lines, pens, size)
    radius = np.maximum(pens * size, 1.2) / 2
    for m in range(3):
        for y in range(0, size, 3):
            for x in range(0, size, 2):
                nearest = np.inf
                for stroke in lines[m] * size:
                    for a, b in zip(stroke[:-1], stroke[1:], strict=True):
                        p = np.array([x + 0.5, y + 0.5])
                        t = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
                        nearest = min(nearest, np.linalg.norm(p - a - t * (b - a)))
                expected = 255 * np.clip(radius[m] + 0.5 - nearest, 0, 1)
                assert drawn[m, y, x] == pytest.approx(expected, abs=0.51)


def test_curve_goes_through_its_knots():
    knots = np.random.default_rng(0).normal(size=(3, 5, 2))
    curve = glyphs_lib._curve(knots)
    assert curve.shape == (3, 17, 2)
    np.testing.assert_allclose(curve[:, ::4], knots, atol=1e-12)
    straight = np.linspace([0, 0], [2, 1], 5)
    np.testing.assert_allclose(glyphs_lib._curve(straight), np.linspace([0, 0], [2, 1], 17))


@pytest.mark.slow
def test_hard_for_pixels_and_not_for_shapes(large):
    """Pixel 1-NN stays as low as on Omniglot, while comparing the shapes does far better."""
    runs = make_runs(large, 0, num_runs=30)
    queries = runs.queries.reshape(30, 20, -1) / 255
    supports = runs.supports.reshape(30, 20, -1) / 255
    gaps = ((queries[:, :, None] - supports[:, None]) ** 2).sum(-1)
    assert 0.1 < (gaps.argmin(-1) == runs.answers).mean() < 0.4
    right = 0
    for r in range(6):
        points = [
            [p - p.mean(0) for p in (np.argwhere(image[..., 0] > 127) for image in images)]
            for images in (runs.queries[r], runs.supports[r])
        ]
        for k, query in enumerate(points[0]):
            far = []
            for support in points[1]:
                between = cdist(query, support)
                far.append(max(between.min(0).mean(), between.min(1).mean()))
            right += np.argmin(far) == runs.answers[r, k]
    assert right / 120 > 0.55


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_alphabets": 0},
        {"characters": (5, 4)},
        {"characters": (0, 4)},
        {"num_drawers": 1},
        {"image_size": 15},
    ],
)
def test_bad_numbers(arguments):
    with pytest.raises(ValueError, match="glyphs need at least"):
        make_glyphs(0, **arguments)


# runs


def rows_of(images: ImageSet, picture: np.ndarray) -> list[int]:
    return np.flatnonzero((images.images == picture).all((1, 2, 3))).tolist()


def test_runs_are_what_they_say(large):
    runs = make_runs(large, 7, num_runs=6)
    assert runs.queries.shape == runs.supports.shape == (6, 20, 56, 56, 1)
    assert runs.n_way == 20 and len(runs) == 6
    assert sorted(runs.alphabets) == sorted(2 * large.alphabet_names)
    for r in range(6):
        query_classes, support_classes = [], []
        for pictures, classes, drawer in (
            (runs.queries[r], query_classes, runs.query_drawers[r]),
            (runs.supports[r], support_classes, runs.support_drawers[r]),
        ):
            for picture in pictures:
                (row,) = rows_of(large, picture)
                assert large.drawers[row] == drawer
                assert large.alphabet_names[large.alphabets[row]] == runs.alphabets[r]
                classes.append(large.classes[row])
        assert runs.query_drawers[r] != runs.support_drawers[r]
        assert len(set(query_classes)) == 20
        assert [support_classes[a] for a in runs.answers[r]] == query_classes


def test_runs_follow_from_the_seed_and_answers_are_everywhere(large):
    first, again, other = (make_runs(large, seed, num_runs=40) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    counts = np.bincount(first.answers[:, 0], minlength=20)
    assert counts.max() < 10  # 40 draws over 20 places


def test_alphabets_too_small_for_runs(glyphs):
    assert make_runs(glyphs, 0, n_way=8).n_way == 8
    with pytest.raises(ValueError, match="9 ways.*'small glyphs'.*8 classes"):
        make_runs(glyphs, 0, n_way=9)
    with pytest.raises(ValueError, match="two drawers"):
        make_runs(glyphs.select(drawers=[3]), 0, n_way=8)
    with pytest.raises(ValueError, match="at least two ways"):
        make_runs(glyphs, 0, n_way=1)


def test_runs_leave_out_drawers_who_have_not_drawn_all(glyphs):
    part = glyphs.select(classes=range(8), drawers=[1, 2, 3])
    keep = ~((part.classes == 4) & (part.drawers == 2))
    patchy = ImageSet(
        part.images[keep],
        part.classes[keep],
        part.drawers[keep],
        part.class_names,
        part.class_alphabets,
        part.alphabet_names,
        "ink",
        "patchy",
    )
    runs = make_runs(patchy, 0, num_runs=12, n_way=8)
    assert set(runs.query_drawers) | set(runs.support_drawers) == {1, 3}


def test_runs_resize(glyphs):
    runs = make_runs(glyphs, 0, num_runs=2, n_way=3)
    half = runs.resized(14, 14)
    blocks = runs.queries.reshape(2, 3, 14, 2, 14, 2, 1).astype(float).mean((3, 5))
    np.testing.assert_allclose(half.queries, blocks, atol=0.51)
    assert half.supports.shape == (2, 3, 14, 14, 1)
    np.testing.assert_array_equal(half.answers, runs.answers)
    assert runs.resized(28, 28) is runs


def test_runs_are_checked():
    pictures = np.zeros((2, 3, 4, 4, 1), np.uint8)
    good = {
        "queries": pictures,
        "supports": pictures,
        "answers": np.zeros((2, 3), np.int32),
        "alphabets": ("a", "b"),
        "query_drawers": np.array([1, 1]),
        "support_drawers": np.array([2, 2]),
        "name": "runs",
    }
    OfficialRuns(**good)
    for change, words in (
        ({"queries": pictures.astype(float)}, "queries must be"),
        ({"supports": pictures[:, :2]}, "supports must be"),
        ({"answers": np.zeros((2, 2), int)}, "one a query"),
        ({"answers": np.full((2, 3), 3)}, r"0 \.\. 2"),
        ({"alphabets": ("a",)}, "alphabets must have one entry"),
    ):
        with pytest.raises(ValueError, match=words):
            OfficialRuns(**{**good, **change})
