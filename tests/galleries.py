"""Tiny networks, and galleries of made-up references, for the tests of large galleries."""

import dataclasses

import jax
import ml_collections
import numpy as np

from siamese_jax.inference import network
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese
from siamese_jax.recognition import gallery, pictures

SHAPE = (12, 12, 1)


def make_net(comparator, seed=0, **encoder):
    """A tiny network with random parameters."""
    fields = {
        "encoder": "small",
        "comparator": comparator,
        "dtype": "float32",
        "encoder_args": {"filters": (4,), "hidden": (), "units": 8, **encoder},
        "head_args": {},
    }
    config = ml_collections.ConfigDict({"model": fields})
    model = siamese.build(config.model, SHAPE)
    rng = np.random.default_rng(seed)
    variables = siamese.variable_shapes(model, SHAPE)
    variables = jax.tree.map(lambda x: rng.normal(0.1, 0.2, x.shape).astype(x.dtype), variables)
    variables["params"]["head"] |= {"scale": np.float32(5.0)}
    devices = Devices(1)
    return network.bind(config, devices.replicate(variables), SHAPE, "photo", comparator, devices)


def make_gallery(net, names=40, each=3):
    """A gallery of made-up references: embeddings near a centre a name."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(names, net.embedding_size))
    embeddings = np.repeat(centres, each, 0) + 0.2 * rng.normal(
        size=(names * each, len(centres[0]))
    )
    references = tuple(
        gallery.Reference(f"n{row // each}", f"/x/{row}.png", f"{row:016x}", bytes([row % 256]) * 9)
        for row in range(names * each)
    )
    return dataclasses.replace(gallery.empty(net), references=references, embeddings=embeddings)


def picture(seed=0):
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    return pictures.Picture(f"/p/{seed}.png", f"picture{seed:09}", b"png", pixels)


def same_ranks(left, right):
    for a, b in zip(left, right, strict=True):
        assert [r for _, r in a] == [r for _, r in b]
        np.testing.assert_allclose([s for s, _ in a], [s for s, _ in b], rtol=1e-4, atol=1e-4)


def read_noise_again(net, references):
    """What `gallery.read_again` gives for references of `make_gallery`: pictures of noise."""
    del net
    return [picture(int(reference.digest, 16)) for reference in references], len(references)
