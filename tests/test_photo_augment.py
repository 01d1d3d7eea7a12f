"""Augmentation of photos: against colorsys, SciPy and closed forms; the draws against their ranges."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from siamese_jax import config as config_lib
from siamese_jax.data import augment, photo_augment
from siamese_jax.data.photo_augment import Photo

MANY = 2000
blur = jax.jit(photo_augment.blur, static_argnums=2)
erase = jax.jit(photo_augment.erase, static_argnums=(2, 3))
finish = jax.jit(photo_augment.finish, static_argnums=2)
saturate = jax.jit(photo_augment.saturate)
turn_hue = jax.jit(photo_augment.turn_hue)
apply = jax.jit(augment.augment, static_argnames=("photo", "fill"))


def keys(count):
    return jax.random.split(jax.random.key(0), count)


def colours(seed, *shape):
    return np.random.default_rng(seed).uniform(size=(*shape, 3)).astype(np.float32)


# --- crops ----------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def _crops(all_keys, photo):
    return jax.vmap(lambda key: photo_augment.crop(key, photo, 40, 60))(all_keys)


def crops(photo):
    matrices, shifts = _crops(keys(MANY), photo)
    matrices, shifts = np.asarray(matrices, np.float64), np.asarray(shifts, np.float64)
    assert (matrices[:, 0, 1] == 0).all() and (matrices[:, 1, 0] == 0).all()
    return matrices[:, 0, 0], matrices[:, 1, 1], shifts


def test_the_area_of_a_crop_is_uniform_in_its_range():
    wide, tall, _ = crops(Photo(crop_area=(0.2, 0.6)))
    np.testing.assert_allclose(wide, tall, rtol=1e-6)
    assert scipy.stats.kstest(wide * tall, "uniform", (0.2, 0.4)).pvalue > 0.01


def test_the_ratio_of_a_crop_is_uniform_in_its_logarithm():
    wide, tall, _ = crops(Photo(crop_area=(0.25, 0.25), crop_ratio=(0.5, 2.0)))
    np.testing.assert_allclose(wide * tall, 0.25, rtol=1e-5)
    spread = scipy.stats.kstest(np.log2(wide / tall), "uniform", (-1, 2))
    assert spread.pvalue > 0.01


def test_a_crop_lies_anywhere_within_the_picture():
    wide, tall, shifts = crops(Photo(crop_area=(0.1, 0.5), crop_ratio=(0.3, 3.0)))
    for side, shift, length in ((wide, shifts[:, 0], 60), (tall, shifts[:, 1], 40)):
        free = (1 - side) * length / 2  # that the centre can be off the middle
        assert (np.abs(shift) <= free + 1e-4).all() and side.max() <= 1
        inner = free > 1
        assert scipy.stats.kstest(shift[inner] / free[inner], "uniform", (-1, 2)).pvalue > 0.01


def test_a_crop_enlarges_what_it_keeps():
    """On a ramp, whose value is its place, the crop's matrix and shift can be read off the pixels."""
    ramp = np.broadcast_to(np.arange(36, dtype=np.float32)[None, None, :, None], (5, 24, 36, 1))
    photo = Photo(crop_area=(0.2, 0.5))
    found = np.asarray(apply(keys(5), ramp / 35, jnp.zeros(5, int), photo=photo, fill="edge"))
    assert np.ptp(found, axis=1).max() < 1e-6
    slope = np.diff(found[:, 0, 1:-1, 0] * 35, axis=1)  # the frame's outer half pixel is its border
    np.testing.assert_allclose(slope, slope[:, :1] * np.ones((1, slope.shape[1])), atol=1e-3)
    assert (slope[:, 0] ** 2 > 0.19).all() and (slope[:, 0] ** 2 < 0.51).all()


def test_mirrored_top_to_bottom():
    images = colours(0, 200, 6, 5)
    found = apply(keys(200), images, jnp.zeros(200, int), photo=Photo(upside_down=True))
    turned = np.isclose(found, images[:, ::-1], atol=1e-5).all((1, 2, 3))
    kept = np.isclose(found, images, atol=1e-5).all((1, 2, 3))
    assert (turned ^ kept).all() and 70 < turned.sum() < 130


# --- colours --------------------------------------------------------------------------------------


def test_saturation_by_hand():
    pixel = np.array([0.8, 0.4, 0.2], np.float32)
    images = np.broadcast_to(pixel, (4, 1, 1, 3))
    grey = 0.299 * 0.8 + 0.587 * 0.4 + 0.114 * 0.2
    found = saturate(images, jnp.array([0.0, 1.0, 0.5, 3.0]))[:, 0, 0]
    expected = [[grey] * 3, pixel, grey + 0.5 * (pixel - grey), grey + 3 * (pixel - grey)]
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-6)
    assert found[3, 0] == 1 and found[3, 2] == 0


def test_hues_turn_as_those_of_colorsys():
    images = colours(1, 8, 5, 5)
    images[0, 0] = np.eye(3, 5).T  # red, green, blue, black
    images[0, 1] = 0.5  # grey
    turns = np.linspace(-0.5, 0.5, 8).astype(np.float32)
    found = np.asarray(turn_hue(images, turns))
    for picture, turned, turn in zip(images, found, turns, strict=True):
        for before, after in zip(picture.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
            expected = colorsys.hsv_to_rgb((hue + float(turn)) % 1, saturation, value)
            np.testing.assert_allclose(after, expected, atol=2e-6)


@pytest.mark.slow
def test_colours_compiled_together_are_those_of_one_operation_after_the_other():
    """A compiler may compute a channel twice and differently: an `==` between the two is a trap."""
    images = colours(3, 32, 128, 128)
    photo = Photo(saturation=0.4, hue=0.05, grey=0.1, blur=0.01, erase=0.25)
    with jax.disable_jit():
        expected = photo_augment.finish(keys(32), images, photo)
    np.testing.assert_allclose(finish(keys(32), images, photo), expected, atol=1e-5)


def test_colours_go_at_their_probability_and_only_with_colours():
    images = colours(2, MANY, 2, 2)
    found = np.asarray(finish(keys(MANY), images, Photo(grey=0.3)))
    grey = np.ptp(found, axis=-1).max((1, 2)) < 1e-6
    assert abs(grey.mean() - 0.3) < 0.04
    np.testing.assert_allclose(found[~grey], images[~grey], atol=1e-6)
    everything = Photo(saturation=1.0, hue=0.5, grey=1.0)
    one_channel = images[..., :1]
    np.testing.assert_array_equal(finish(keys(MANY), one_channel, everything), one_channel)


# --- blur and erasing -----------------------------------------------------------------------------


def test_blur_is_that_of_scipy():
    images = colours(3, 4, 13, 9)
    sigmas = np.array([0.0, 0.4, 1.1, 2.0], np.float32)
    found = np.asarray(blur(images, sigmas, 6))
    np.testing.assert_array_equal(found[0], images[0])
    for picture, blurred, sigma in zip(images[1:], found[1:], sigmas[1:], strict=True):
        expected = picture.astype(np.float64)
        for axis in (0, 1):
            expected = scipy.ndimage.gaussian_filter1d(
                expected, float(sigma), axis, mode="nearest", radius=6
            )
        np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_blurs_are_drawn_up_to_their_most_at_their_probability():
    spot = np.zeros((MANY, 1, 41, 1), np.float32)
    spot[:, 0, 20] = 1
    images = np.broadcast_to(spot, (MANY, 20, 41, 1))  # 20 high: 0.1 of it are 2 pixels
    photo = Photo(blur=0.1, blur_probability=0.6)
    found = np.asarray(finish(keys(MANY), images, photo))[:, 10, :, 0]
    # Far above a pixel the variance of what a spot becomes is that of the Gaussian.
    variance = (found * (np.arange(41) - 20.0) ** 2).sum(1)
    assert np.sqrt(variance.max()) < 2.01
    wide = variance[variance > 1]
    assert abs(len(wide) / MANY - 0.6 / 2) < 0.05
    assert scipy.stats.kstest(np.sqrt(wide), "uniform", (1, 1)).pvalue > 0.01


def test_an_erased_rectangle_has_the_mean_colour_and_nothing_else_changes():
    height, width = 30, 50
    images = colours(4, 300, height, width)
    found = np.asarray(erase(keys(300), images, 0.5, (0.1, 0.2)))
    shares = []
    for before, after in zip(images, found, strict=True):
        changed = (before != after).any(-1)
        if not changed.any():
            continue
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        inside = np.ix_(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1), range(3))
        expected = before.copy()
        expected[inside] = before.mean((0, 1))
        np.testing.assert_allclose(after, expected, atol=1e-5)
        shares.append(len(rows) * len(columns) / (height * width))
    assert 110 < len(shares) < 190
    assert abs(np.mean(shares) - 0.15) < 0.01 and 0.08 < min(shares) < max(shares) < 0.22


# --- all together ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything():
    fields = {**augment.build(config_lib.photos(hue=0.1, blur=0.05))}
    return jax.jit(functools.partial(augment.augment, fill="edge", **fields))


@pytest.mark.slow
def test_a_photo_is_changed_by_its_own_key_alone_within_its_range(everything):
    images, turns = colours(5, 6, 12, 10), jnp.zeros(6, int)
    whole = np.asarray(everything(keys(6), images, turns))
    assert whole.shape == images.shape and whole.min() >= 0 and whole.max() <= 1
    some = everything(keys(6)[1:3], images[1:3], turns[1:3])
    np.testing.assert_allclose(some, whole[1:3], atol=1e-5)
    same = everything(keys(6), np.broadcast_to(images[:1], images.shape), turns)
    assert len({np.asarray(x).tobytes() for x in same}) == 6


def test_nothing_is_done_by_default():
    images, turns = colours(6, 3, 7, 8), jnp.zeros(3, int)
    found = apply(keys(3), images, turns, photo=Photo(), fill="edge")
    np.testing.assert_allclose(found, images, atol=1e-6)
    assert "photo" not in config_lib.distortions()
    assert "photo" not in augment.build(config_lib.distortions())


def test_the_config_is_read_and_its_mistakes_are_named():
    section = config_lib.photos(crop_area=[0.3, 1.0])
    assert augment.build(section)["photo"] == Photo(
        **{**section.photo.to_dict(), "crop_area": (0.3, 1.0)}
    )
    with pytest.raises(ValueError, match="augment.photo has no field 'crops'"):
        Photo.of({"crops": 1})
    known = {name for name in config_lib.FIELDS if name.startswith("augment.photo.")}
    assert known == {f"augment.photo.{name}" for name in Photo._fields}
    for field, value in (("crop_area", (0.0, 1.0)), ("hue", 0.6), ("erase", 2), ("blur", -0.1)):
        with pytest.raises(ValueError, match=f"augment.photo.{field} must be"):
            config_lib.check_fields({"augment": {"photo": {field: value}}})
