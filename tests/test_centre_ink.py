"""Ink moved to the middle: values by hand, scipy as the reference, and what the network makes of it."""

import dataclasses

import jax
import ml_collections
import networks
import numpy as np
import pytest
from scipy import ndimage
from test_host_feed import smoke

from siamese_jax.benchmarks import torch_peer
from siamese_jax.inference import network
from siamese_jax.inference.devices import Devices
from siamese_jax.models.layers import centre_ink
from siamese_jax.training import experiment

SHAPE = (17, 20, 1)
DENSE = {
    "encoder": "dense",
    "encoder_args": {"hidden": (), "units": 6},
    "comparator": "cosine",
    "head_args": {},
    "dtype": "float32",
}


def image(height, width, **ink):
    """An image with ink at some places, given as `at_ROW_COLUMN=value`."""
    pixels = np.zeros((1, height, width, 1), np.float32)
    for place, value in ink.items():
        row, column = map(int, place.split("_")[1:])
        pixels[0, row, column] = value
    return pixels


def strokes(seed, count, height, width, channels=1):
    """Images with little ink, most of it in one corner."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, height, width, channels), np.float32)
    for x in images:
        for _ in range(6):
            row, column = rng.integers(0, height // 2), rng.integers(0, width // 2)
            x[row : row + 3, column : column + 2] = rng.uniform(0.1, 1, channels)
    return images


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (image(5, 5, at_0_1=1), image(5, 5, at_2_2=1)),
        (image(5, 7, at_4_6=0.3), image(5, 7, at_2_3=0.3)),
        # mass 3 in row 0 and 1 in row 4: its centre is row 1, one above the middle
        (image(5, 5, at_0_2=0.75, at_4_2=0.25), image(5, 5, at_1_2=0.75)),
        # the middle of four rows is 1.5: a dot in row 0 moves by 1.5, and halves always by 2
        (image(4, 5, at_0_2=1), image(4, 5, at_1_2=1)),
        (image(4, 5, at_3_2=1), image(4, 5, at_1_2=1)),
        (image(3, 3), image(3, 3)),
    ],
)
def test_by_hand(before, after):
    np.testing.assert_array_equal(jax.jit(centre_ink)(before), after)


@pytest.mark.parametrize("shape", [(16, 16), (17, 20), (21, 15, 3)])
def test_against_scipy(shape):
    images = strokes(1, 20, *shape)
    middle = (np.array(images.shape[1:3]) - 1) / 2
    moved = np.asarray(jax.jit(centre_ink)(images))
    for before, after in zip(images, moved, strict=True):
        way = middle - ndimage.center_of_mass(before.sum(-1))
        assert np.abs(way - np.rint(way)).max() < 0.499  # no half, which could go either way
        expected = ndimage.shift(before, (*np.rint(way), 0), order=0)
        np.testing.assert_allclose(after, expected, rtol=1e-6)
    assert (moved != images).any(axis=(1, 2, 3)).all()


def test_the_gradient_moves_back_with_the_ink():
    images = strokes(2, 3, 9, 11)
    weights = networks.noise(3, *images.shape)
    actual = jax.jit(jax.grad(lambda x: (centre_ink(x) * weights).sum()))(images)
    middle = np.array([4.0, 5.0])
    for x, w, gradient in zip(images, weights, np.asarray(actual), strict=True):
        way = np.rint(middle - ndimage.center_of_mass(x[..., 0]))
        np.testing.assert_allclose(gradient, ndimage.shift(w, (*-way, 0), order=0), rtol=1e-6)


def bound(fields):
    _, variables = networks.net_and_variables(fields, SHAPE)
    config = ml_collections.ConfigDict({"model": fields})
    devices = Devices(1)
    return network.bind(config, devices.replicate(variables), SHAPE, "ink", "net", devices)


def test_a_network_sees_a_moved_picture_as_the_same():
    pictures = np.rint(255 * strokes(4, 5, *SHAPE[:2])).astype(np.uint8)
    moved = np.roll(pictures, (4, 6), (1, 2))  # nothing leaves the frame
    plain, centring = bound(DENSE), bound({**DENSE, "centre_ink": True})
    np.testing.assert_array_equal(centring.embed(moved), centring.embed(pictures))
    assert np.abs(plain.embed(moved) - plain.embed(pictures)).max() > 0.1
    seen = centring.as_seen(pictures)
    np.testing.assert_allclose(centring.embed(pictures), plain.embed(seen), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plain.as_seen(pictures), pictures)
    assert plain.fingerprint != centring.fingerprint


def test_onnx_moves_it_too():
    onnxruntime = pytest.importorskip("onnxruntime", reason='needs pip install -e ".[export]"')
    from siamese_jax.inference.export import onnx_models

    net = bound({**DENSE, "centre_ink": True})
    pictures = np.rint(255 * strokes(5, 9, *SHAPE[:2])).astype(np.uint8)
    pictures[0] = 0
    session = onnxruntime.InferenceSession(onnx_models.make_models(net, {})[0])
    (embeddings,) = session.run(None, {"images": pictures})
    np.testing.assert_allclose(embeddings, net.embed(pictures), rtol=1e-4, atol=1e-5)


def test_pytorch_in_the_benchmark_moves_it_too():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    images = strokes(6, 7, 16, 16)
    images[0] = 0
    moved = torch_peer.centred(torch.tensor(images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(moved.permute(0, 2, 3, 1), jax.jit(centre_ink)(images))


def test_only_ink_is_moved(glyphs):
    config = smoke()
    config.model.centre_ink = True
    experiment.check_data(config, glyphs, glyphs.image_shape, 2)
    photos = dataclasses.replace(glyphs, kind="photo")
    config.objective.symmetries, config.objective.pad_with_symmetries = "none", False
    with pytest.raises(
        ValueError, match="model.centre_ink = True moves ink, and these are of kind"
    ):
        experiment.check_data(config, photos, photos.image_shape, 2)
