"""Warps against NumPy's rotations and SciPy's affine transform; the draws against their ranges."""

import functools

import jax
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from siamese_jax.data import augment
from siamese_jax.data.augment import Affine

MANY = 3000
NOTHING = Affine(rotation=0.0, shear=0.0, scale=(1.0, 1.0), translation=0.0)
# Compiled once for all tests of the same shapes and settings; the ranges of `affine` are arguments.
warp = jax.jit(augment.warp, static_argnames="fill")
symmetry_matrices = jax.jit(augment.symmetry_matrices)
draw = jax.jit(jax.vmap(augment.affine_matrices, (0, None)))
relight = jax.jit(augment.relight)
augmented = jax.jit(
    augment.augment,
    static_argnames=(
        *("elastic_size", "elastic_grid", "thicken", "mirror", "contrast", "brightness", "fill"),
    ),
)


def draws(seed=0, **ranges):
    """(MANY, 2, 2) matrices and (MANY, 2) shifts with only these components."""
    keys = jax.random.split(jax.random.key(seed), MANY)
    matrices, shifts = draw(keys, NOTHING._replace(**ranges))
    return np.asarray(matrices, np.float64), np.asarray(shifts, np.float64)


def random_images(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def turned(image, turn):
    """What NumPy makes of an (H, W, C) image: quarter symmetries, then a mirror image."""
    image = np.rot90(image, turn % 4)
    return np.fliplr(image) if turn >= 4 else image


# --- the eight symmetries -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [6, 7])
def test_turns_are_those_of_numpy_exactly(size):
    image = random_images(0, size, size, 2)
    batch = np.broadcast_to(image, (8, size, size, 2))
    found = warp(batch, symmetry_matrices(np.arange(8)), np.zeros((8, 2)))
    for turn in range(8):
        np.testing.assert_array_equal(found[turn], turned(image, turn))
    through_augment = augmented(jax.random.split(jax.random.key(0), 8), batch, np.arange(8))
    np.testing.assert_array_equal(through_augment, found)


def test_turns_are_a_group():
    matrices = np.asarray(symmetry_matrices(np.arange(8)))
    assert len({m.tobytes() for m in matrices + 0.0}) == 8
    known = {tuple(np.rint(m).astype(int).ravel()) for m in matrices}
    for a in matrices:
        np.testing.assert_array_equal(np.abs(np.linalg.det(a)), 1.0)
        for b in matrices:
            assert tuple(np.rint(a @ b).astype(int).ravel()) in known
    np.testing.assert_array_equal(matrices[0], np.eye(2))


# --- the warp -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill, mode", [("paper", "grid-constant"), ("edge", "nearest")])
def test_warp_against_scipy(fill, mode):
    rng = np.random.default_rng(1)
    height, width = 13, 18
    images = random_images(2, 6, height, width, 2)
    matrices = np.eye(2) + rng.uniform(-0.6, 0.6, (6, 2, 2))
    shifts = rng.uniform(-6, 6, (6, 2))
    found = warp(images, matrices.astype(np.float32), shifts.astype(np.float32), fill=fill)
    centre = np.array([height - 1, width - 1]) / 2
    for image, matrix, shift, ours in zip(images, matrices, shifts, found, strict=True):
        rows_first = matrix[::-1, ::-1]  # SciPy's positions are (row, column) from the corner
        offset = centre - rows_first @ centre + shift[::-1]
        for channel in range(2):
            expected = scipy.ndimage.affine_transform(
                image[..., channel].astype(np.float64), rows_first, offset, order=1, mode=mode
            )
            np.testing.assert_allclose(ours[..., channel], expected, atol=2e-5)
    assert np.any(found[..., 0] == 0) == (fill == "paper")


def test_displacements_against_scipy():
    height, width = 9, 12
    image = random_images(3, height, width)
    moves = np.random.default_rng(4).normal(size=(height, width, 2)).astype(np.float32)
    found = warp(image[None, ..., None], np.eye(2)[None], np.array([[0.5, -0.25]]), moves[None])
    rows, columns = np.mgrid[:height, :width]
    positions = [rows + moves[..., 1] - 0.25, columns + moves[..., 0] + 0.5]
    expected = scipy.ndimage.map_coordinates(image, positions, order=1, mode="grid-constant")
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=2e-5)


def test_a_shift_reads_further_right_and_further_down():
    image = random_images(5, 8, 8, 1)
    found = np.asarray(warp(image[None], np.eye(2)[None], np.array([[2.0, 1.0]])))[0]
    np.testing.assert_array_equal(found[:-1, :-2], image[1:, 2:])
    assert not np.any(found[-1]) and not np.any(found[:, -2:])
    repeated = warp(image[None], np.eye(2)[None], np.array([[2.0, 1.0]]), fill="edge")
    repeated = np.asarray(repeated)[0]
    np.testing.assert_array_equal(repeated[-1, :-2], image[-1, 2:])
    np.testing.assert_array_equal(repeated[:-1, -1], image[1:, -1])


@pytest.mark.parametrize("fill, expected", [("paper", 0.0), ("edge", 0.7)])
def test_far_outside_there_is_paper_or_the_edge(fill, expected):
    image = np.full((1, 8, 8, 1), 0.7, np.float32)
    found = warp(image, np.eye(2)[None], np.array([[1000.0, -1000.0]]), fill=fill)
    np.testing.assert_allclose(found, np.full((1, 8, 8, 1), expected), rtol=1e-6)


# --- the affine distortions -----------------------------------------------------------------------


def kept_share(included):
    """Half of the draws keep a component: a 99.9 % interval of the binomial."""
    interval = scipy.stats.binomtest(int(included.sum()), len(included)).proportion_ci(0.999)
    return interval.low < 0.5 < interval.high


def uniform(values, low, high):
    """Whether the values fill a range evenly and do not leave it."""
    inside = np.all((values >= low - 1e-5) & (values <= high + 1e-5))
    return inside and scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


@pytest.mark.slow
def test_rotations_are_degrees():
    matrices, shifts = draws(rotation=10.0)
    angles = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert kept_share(angles != 0)
    assert uniform(angles[angles != 0], -10, 10)
    products = matrices @ np.swapaxes(matrices, 1, 2)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(2), products.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(matrices), np.ones(MANY), atol=1e-6)
    assert not np.any(shifts)


def test_a_positive_angle_turns_the_picture_against_the_clock():
    matrices, _ = draws(rotation=30.0)
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    index = int(np.argmax(angles))
    matrix, angle = matrices[[index]].astype(np.float32), angles[index]
    assert np.deg2rad(29) < angle < np.deg2rad(30.001)
    # A dot 30 degrees below the right of the centre goes to the right of it.
    dot = np.zeros((1, 41, 41, 1), np.float32)
    dot[0, 20 + round(16 * np.sin(angle)), 20 + round(16 * np.cos(angle))] = 1
    found = np.asarray(warp(dot, matrix, np.zeros((1, 2))))[0, ..., 0]
    row, column = np.unravel_index(np.argmax(found), found.shape)
    assert abs(row - 20) <= 1 and abs(column - 36) <= 1
    image = random_images(6, 41, 41)
    ours = np.asarray(warp(image[None, ..., None], matrix, np.zeros((1, 2))))[0, ..., 0]
    theirs = scipy.ndimage.rotate(
        image.astype(np.float64), np.rad2deg(angle), reshape=False, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_shears_are_ratios():
    matrices, _ = draws(shear=0.3)
    for row, column in [(0, 1), (1, 0)]:
        shear = matrices[:, row, column]
        assert kept_share(shear != 0)
        assert uniform(shear[shear != 0], -0.3, 0.3)
    np.testing.assert_array_equal(matrices[:, 0, 0], np.ones(MANY))
    both = (matrices[:, 0, 1] != 0) & (matrices[:, 1, 0] != 0)
    assert abs(np.mean(both) - 0.25) < 0.04  # each by its own coin


def test_scales_and_shifts():
    matrices, shifts = draws(scale=(0.8, 1.2), translation=2.0)
    for axis in range(2):
        scale = matrices[:, axis, axis]
        assert kept_share(scale != 1)
        assert uniform(scale[scale != 1], 0.8, 1.2)
        assert kept_share(shifts[:, axis] != 0)
        assert uniform(shifts[shifts[:, axis] != 0, axis], -2, 2)
    assert not np.any(matrices[:, 0, 1]) and not np.any(matrices[:, 1, 0])
    assert abs(np.corrcoef(matrices[:, 0, 0], matrices[:, 1, 1])[0, 1]) < 0.08


def test_the_components_are_joined_as_rotation_shear_scale():
    parts = {"rotation": 10.0, "shear": 0.3, "scale": (0.8, 1.2)}
    joined, _ = draws(**parts)
    alone = [draws(**{name: value})[0] for name, value in parts.items()]  # of the same keys
    np.testing.assert_allclose(joined, alone[0] @ alone[1] @ alone[2], atol=1e-6)
    assert not np.allclose(joined, alone[2] @ alone[1] @ alone[0], atol=1e-2)


def test_probability_zero_is_the_identity_and_the_default_is_the_paper():
    matrices, shifts = draws(rotation=10.0, shear=0.3, translation=2.0, probability=0.0)
    np.testing.assert_array_equal(matrices, np.broadcast_to(np.eye(2), (MANY, 2, 2)))
    assert not np.any(shifts)
    assert Affine() == (10.0, 0.3, (0.8, 1.2), 2.0, 0.5)


@pytest.mark.slow
def test_shifts_are_pixels_of_a_105_pixel_image():
    """The same key shifts a small picture by as large a part of it as a large one."""
    keys = jax.random.split(jax.random.key(3), 8)
    ranges = NOTHING._replace(translation=10.0, probability=1.0)
    images = {}
    for height, width in [(21, 42), (105, 105)]:
        y, x = np.mgrid[:height, :width].astype(np.float32) / 1000
        images[height] = np.broadcast_to(np.stack([x, y], -1), (8, height, width, 2))

    @jax.jit
    def both(keys, images):
        none = np.zeros(8, int)
        return jax.tree.map(
            lambda x: augment.augment(keys, x, none, affine=ranges, fill="edge"), images
        )

    ramp = {}
    for side, found in both(keys, images).items():
        height, width = found.shape[1:3]
        middle = (found - images[side])[:, height // 2, width // 2] * 1000  # pixels, (x, y)
        ramp[side] = np.asarray(middle) / [width, height]
    assert 0.02 < np.abs(ramp[105]).max() <= 10 / 105 + 1e-5
    np.testing.assert_allclose(ramp[21], ramp[105], atol=1e-4)


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="augment.affine has no field 'shaer'"):
        Affine.of({"shaer": 0.3})
    assert Affine.of({"scale": [0.9, 1.1]}) == Affine(scale=(0.9, 1.1))


# --- elastic warps --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything():
    """`augment` with all distortions on, images, keys and symmetries for it."""
    function = functools.partial(
        augmented, affine=Affine(translation=20.0), elastic_size=0.05, elastic_grid=3
    )
    images = random_images(9, 8, 16, 16, 1)
    return function, jax.random.split(jax.random.key(2), 8), images, np.arange(8)


def keys_cubic(distance):
    """The cubic kernel of Keys (1981) with a = -1/2."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0))


def cubic_weights(knots, pixels):
    """(pixels, knots) weights between the centres, renormalised at the border."""
    centres = (np.arange(pixels) + 0.5) * knots / pixels - 0.5
    weights = keys_cubic(centres[:, None] - np.arange(knots)[None, :])
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.slow
def test_elastic_displacements_are_smooth_normal_fields():
    height, width, grid, size = 20, 36, 4, 0.03
    keys = jax.random.split(jax.random.key(0), 400)
    fields = jax.jit(
        jax.vmap(lambda key: augment.elastic_displacement(key, height, width, grid, size))
    )(keys)
    fields = np.asarray(fields, np.float64) / [width, height]  # a fraction of either side
    rows, columns = cubic_weights(grid, height), cubic_weights(grid, width)
    # At (2, 4) a knot and its pixel coincide: 20 / 4 = 5 and 36 / 4 = 9 pixels a knot.
    at_knots = fields[:, 2::5, 4::9].ravel()
    assert len(at_knots) == 400 * grid * grid * 2
    assert scipy.stats.kstest(at_knots / size, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(fields[:, 2, 4, 0], fields[:, 2, 4, 1])[0, 1]) < 0.2
    # The rest is the cubic interpolation of those values.
    expected = np.einsum("pi,qj,bijd->bpqd", rows, columns, fields[:, 2::5, 4::9])
    np.testing.assert_allclose(fields, expected, atol=1e-6)


@pytest.mark.slow
def test_a_turned_picture_is_distorted_after_its_turn(everything):
    function, keys, _, _ = everything
    image = scipy.ndimage.gaussian_filter(random_images(8, 16, 16), 1)[..., None]
    batch = np.broadcast_to(image, (8, 16, 16, 1))
    found = function(keys, batch, np.arange(8))
    turned_first = np.stack([turned(image, turn) for turn in range(8)])
    expected = function(keys, turned_first, np.zeros(8, int))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not np.allclose(found, turned_first, atol=0.1)


# --- the batch ------------------------------------------------------------------------------------


def test_pixels_stay_in_their_range(everything):
    function, keys, images, symmetries = everything
    found = np.asarray(function(keys, images, symmetries))
    assert found.shape == images.shape and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1 and found.std() > 0.1


def test_an_image_is_distorted_by_its_own_key_alone(everything):
    function, keys, images, symmetries = everything
    whole = np.asarray(function(keys, images, symmetries))
    for order in np.array([[4, 2, 0, 5, 1, 3, 7, 6], [1, 2, 1, 2, 2, 2, 2, 1]]):
        np.testing.assert_allclose(
            function(keys[order], images[order], symmetries[order]), whole[order]
        )
    same_image = function(keys, np.broadcast_to(images[:1], images.shape), np.zeros(8, int))
    assert len({x.tobytes() for x in np.asarray(same_image)}) == 8  # eight keys, eight pictures
    np.testing.assert_array_equal(function(keys, images, symmetries), whole)


@pytest.mark.parametrize("distort", [True, False])
def test_build_reads_the_config(distort):
    fields = {
        "distort": distort,
        "affine": {"rotation": 5.0, "scale": [0.9, 1.1]},
        "elastic_size": 0.02,
        "elastic_grid": 5,
    }
    found = augment.build(fields)
    if distort:
        affine = Affine(rotation=5.0, scale=(0.9, 1.1))
        assert found == {"affine": affine, "elastic_size": 0.02, "elastic_grid": 5}
    else:
        images = random_images(0, 8, 6, 6, 2)
        keys = jax.random.split(jax.random.key(0), 8)
        out = augmented(keys, images, np.zeros(8, int), **found)
        np.testing.assert_array_equal(out, images)


# --- photos ---------------------------------------------------------------------------------------


def test_mirroring_flips_about_half_of_the_images_and_nothing_else():
    images = random_images(3, 200, 6, 5, 1)
    keys = jax.random.split(jax.random.key(0), 200)
    found = augmented(keys, images, np.zeros(200, int), mirror=True, fill="edge")
    flipped = np.all(np.isclose(found, images[:, :, ::-1], atol=1e-5), axis=(1, 2, 3))
    kept = np.all(np.isclose(found, images, atol=1e-5), axis=(1, 2, 3))
    assert np.all(flipped ^ kept) and 70 < flipped.sum() < 130


def test_thicker_strokes_by_hand():
    """A point becomes squares, and between two of them a blend."""
    images = np.zeros((4, 7, 9, 2), np.float32)
    images[:, 3, 4, 0] = 0.8
    images[:, 0, 0, 1] = 1.0  # in a corner
    thicken = jax.jit(augment.thicken_strokes, static_argnums=2)
    found = np.asarray(thicken(images, np.array([0.0, 0.25, 1.0, 1.5]), 2))
    inner, outer = np.zeros((2, 7, 9))
    inner[2:5, 3:6], outer[1:6, 2:7] = 0.8, 0.8
    point = images[0, :, :, 0]
    expected = [point, 0.75 * point + 0.25 * inner, inner, (inner + outer) / 2]
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-6)
    expected = np.zeros((7, 9))
    expected[:3, :3], expected[:2, :2] = 0.5, 1.0
    np.testing.assert_allclose(found[3, ..., 1], expected, atol=1e-6)


def test_half_of_the_images_get_thicker_strokes_evenly_up_to_the_most():
    images = np.zeros((2000, 20, 20, 1), np.float32)
    images[:, :, 9:11] = 1.0  # a bar, 2 pixels wide
    keys = jax.random.split(jax.random.key(0), len(images))
    found = augmented(keys, images, np.zeros(len(images), int), thicken=0.1)  # 2 pixels
    more = np.asarray(found)[:, 10, :, 0].sum(1) / 2 - 1  # a side
    assert more.min() > -1e-5 and more.max() < 2
    assert abs((more < 1e-5).mean() - 0.5) < 0.04  # 3.6 standard errors
    wider = more[more >= 1e-5]
    assert scipy.stats.kstest(wider, "uniform", (0, 2)).pvalue > 1e-3


@pytest.mark.parametrize("thicken", [-0.01, float("nan")])
def test_strokes_do_not_become_thinner(thicken):
    fields = {"distort": True, "affine": {}, "elastic_size": 0.0, "elastic_grid": 4}
    assert augment.build({**fields, "thicken": 0.02})["thicken"] == 0.02
    with pytest.raises(ValueError, match="augment.thicken must be at least 0"):
        augment.build({**fields, "thicken": thicken})


def test_relighting_by_hand():
    images = np.tile(np.array([0.0, 0.25, 0.5, 1.0]).reshape(1, 2, 2, 1), (300, 1, 1, 1))
    keys = jax.random.split(jax.random.key(1), 300)
    found = np.asarray(relight(keys, images, 0.0, 0.1))
    shift = found[:, 1, 0, 0] - 0.5
    assert np.abs(shift).max() <= 0.1 and shift.std() > 0.04
    expected = np.clip(images[:, :, :, 0] + shift[:, None, None], 0, 1)
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-6)
    found = np.asarray(relight(keys, images, 0.4, 0.0))
    factor = (0.5 - found[:, 0, 1, 0]) / 0.25
    np.testing.assert_allclose(found[:, 1, 0, 0], 0.5, atol=1e-6)
    assert factor.min() >= 0.6 and factor.max() <= 1.4 and factor.std() > 0.15


@pytest.mark.slow
def test_strokes_and_light_have_keys_of_their_own():
    images = random_images(4, 8, 6, 6, 1)
    keys = jax.random.split(jax.random.key(2), 8)
    settings = {}, {"thicken": 1e-6}, {"contrast": 1e-6, "brightness": 1e-6}

    @jax.jit
    def run(keys):
        return [
            augment.augment(keys, images, np.zeros(8, int), affine=Affine(), **more)
            for more in settings
        ]

    plain, *changed = run(keys)
    np.testing.assert_allclose(changed, [plain] * 2, atol=1e-4)
