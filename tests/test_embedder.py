"""Encoders that are objects, and embedders of other libraries: trained, and in galleries."""

import dataclasses
import pathlib
import re
import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from recipes import get_config

import siamese_jax
from siamese_jax.data import folder
from siamese_jax.evaluation import protocols, trials
from siamese_jax.inference import embedder
from siamese_jax.models import siamese
from siamese_jax.models.encoders import DenseEncoder
from siamese_jax.recognition import gallery, identification, pictures, storage

DOC = pathlib.Path(__file__).parents[1] / "docs" / "your-data.md"
FIELDS = {"comparator": "cosine", "head_args": {}, "dtype": "float32"}
SHAPE = (8, 6, 3)


# --- an encoder that is an object -----------------------------------------------------------------


class Local(nn.Module):
    """An encoder whose class no other process finds once it is put into `__main__`."""

    units: int = 5
    activation: object = nn.relu

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        return nn.Dense(self.units, name="embedding")(self.activation(x))


class OneArgument(nn.Module):
    def __call__(self, images):
        return images


def test_an_object_of_an_importable_class_is_its_path_and_attributes():
    fields = siamese.describe(DenseEncoder(hidden=(3,), units=4, dtype=jnp.bfloat16))
    assert fields["encoder"] == "siamese_jax.models.encoders.DenseEncoder"
    assert fields["dtype"] == "bfloat16" and fields["encoder_args"]["units"] == 4
    built = siamese.build({**FIELDS, **fields}).encoder
    assert built == DenseEncoder(hidden=(3,), units=4, dtype=jnp.dtype("bfloat16"))


def test_any_other_object_is_told_from_others_and_must_be_given():
    fields = siamese.describe(Local(units=3, activation=nn.tanh))
    assert fields == {
        "encoder": "object:Local",
        "encoder_args": {"units": 3, "activation": "tanh"},
    }
    given = Local(units=3, activation=nn.tanh)
    assert siamese.build({**FIELDS, **fields}, encoder=given).encoder is given
    for wrong, words in ((None, "none is given"), (DenseEncoder(), "got a DenseEncoder")):
        with pytest.raises(ValueError, match=words) as caught:
            siamese.build({**FIELDS, **fields}, encoder=wrong)
        assert "encoder=Local(...)" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [(np.zeros(3), "is a flax.linen module, got ndarray"), (OneArgument(), "called as .images")],
)
def test_what_is_no_encoder_is_refused(encoder, words):
    with pytest.raises(ValueError, match=words):
        siamese.describe(encoder)


@pytest.mark.slow
def test_an_object_is_trained_resumed_and_loaded(tmp_path):
    from siamese_jax.training import loop

    config = get_config("quickstart", "vector,smoke")
    config.num_steps, config.eval.every = 10, 5
    config.log_every = 5
    config.augment.distort = False
    encoder = Local(units=16, activation=nn.tanh)
    stopped = iter([False] * 5 + [True] * 9)
    run = tmp_path / "run"
    loop.train_and_evaluate(config, run, encoder=encoder, should_stop=lambda: next(stopped))
    assert loop.train_and_evaluate(config, run, encoder=encoder)["finished"]
    with pytest.raises(ValueError, match="run of another config .*units"):
        loop.train_and_evaluate(config, run, encoder=Local(units=8, activation=nn.tanh))
    net = siamese_jax.load(run, encoder=encoder)
    assert net.embed(np.zeros((3, *net.image_shape), np.uint8)).shape == (3, 16)
    with pytest.raises(ValueError, match="cannot be imported"):
        siamese_jax.load(run)
    assert config.model.encoder == "residual"  # the caller's config is left alone


# --- an embedder of another library ---------------------------------------------------------------


class Means:
    """The mean colour of the four quarters of a picture: fit to tell flags apart."""

    name = "means of quarters"
    image_shape = SHAPE
    fingerprint = "1"

    def __init__(self):
        self.batches = []

    def embed(self, images):
        assert images.dtype == np.uint8 and images.shape[1:] == self.image_shape
        self.batches.append(len(images))
        rows = np.split(images.astype(float) / 255 - 0.5, 2, axis=1)
        quarters = [half for row in rows for half in np.split(row, 2, axis=2)]
        return np.concatenate([quarter.mean((1, 2)) for quarter in quarters], 1)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Forty flags of four colours, five noisy pictures of each, of 16 x 12 pixels."""
    path, rng = tmp_path_factory.mktemp("flags"), np.random.default_rng(0)
    for c in range(40):
        (path / f"flag{c}").mkdir()
        colours = rng.uniform(0, 255, (2, 2, 3)).repeat(8, 0).repeat(6, 1)
        for i in range(5):
            noisy = np.clip(colours + rng.normal(0, 40, colours.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(path / f"flag{c}" / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def net():
    return siamese_jax.wrap(Means())


def read(net, flags, c, i):
    return pictures.read(net, flags / f"flag{c}" / f"{i}.png")


def test_pictures_come_at_its_size_in_batches(net):
    means = Means()
    wrapped = embedder.wrap(means)
    images = np.random.default_rng(1).integers(0, 256, (70, 16, 12, 3), dtype=np.uint8)
    found = wrapped.embed(images)
    assert found.shape == (70, 12) and found.dtype == np.float32 and means.batches == [64, 6]
    small = images.reshape(70, 8, 2, 6, 2, 3).mean((2, 4))  # what an area average makes of it
    np.testing.assert_allclose(found, Means().embed(np.rint(small).astype(np.uint8)), atol=0.01)
    cosines = wrapped.score_matrix(found[:2], found[:3])
    expected = found[:2] @ found[:3].T
    expected /= np.linalg.norm(found[:2], axis=1)[:, None] * np.linalg.norm(found[:3], axis=1)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_a_gallery_of_it_names_verifies_searches_and_is_stored(net, flags, tmp_path):
    known = gallery.empty(net)
    for c in range(20):
        known = gallery.enrol(known, net, f"flag{c}", [read(net, flags, c, 0)])
    labelled = folder.load_folder(flags)
    known = gallery.calibrate(known, net, labelled, rate=0.02)
    probes = [read(net, flags, c, 1) for c in range(40)]
    answers = identification.identify(known, net, probes)
    names = [answer.name for answer in answers]
    assert names[:20] == [f"flag{c}" for c in range(20)] and names[20:].count(None) >= 14
    assert identification.verify(known, net, "flag2", probes[2]).name == "flag2"
    assert identification.verify(known, net, "flag2", probes[3]).name is None
    assert identification.search(known, net, probes[4], top=1)[0].name == "flag4"
    file = storage.GalleryFile(tmp_path / "flags.npz")
    file.write(known)
    again = file.read()
    gallery.check_network(again, net)
    scores = identification.score(known, net, probes)
    np.testing.assert_array_equal(identification.score(again, net, probes), scores)
    h = net.embed(np.stack([probe.image for probe in probes]))
    np.testing.assert_allclose(scores, net.score_matrix(h, known.embeddings), atol=1e-5)
    compared = identification.compare(net, probes[0], probes[1])
    assert compared.dissimilarity == -compared.score and compared.probability is None


def test_its_calibration_gives_probabilities(net, flags):
    calibrated = gallery.calibrate(
        gallery.empty(net), net, folder.load_folder(flags), 0.02
    ).calibration
    same = siamese_jax.wrap(Means(), calibrations={"pictures": calibrated}).same
    first, second = flags / "flag0" / "0.png", [flags / f"flag{c}" / "1.png" for c in (0, 1)]
    probabilities = same(first, second)
    assert probabilities.shape == (2,) and probabilities[0] > 0.8 > 0.2 > probabilities[1]
    with pytest.raises(ValueError, match="means of quarters has no calibration"):
        net.same(first, second)


def test_another_embedder_is_refused(net, flags):
    known = gallery.enrol(gallery.empty(net), net, "a", [read(net, flags, 0, 0)])
    for change in ({"fingerprint": "2"}, {"image_shape": (6, 8, 3)}):
        other = types.SimpleNamespace(**{**vars(Means), **change})
        with pytest.raises(ValueError, match="belongs to the network means of quarters"):
            gallery.check_network(known, embedder.wrap(other))
    renamed = types.SimpleNamespace(**{**vars(Means), "name": "other"})
    gallery.check_network(known, embedder.wrap(renamed))
    assert dataclasses.replace(net, kind="ink").fingerprint != net.fingerprint


def test_the_protocols_take_it(net, flags):
    images = folder.load_folder(flags).resized(*SHAPE[:2])
    drawn = trials.within_trials(images, n_way=5, num_trials=60, seed=0)
    assert protocols.evaluate_trials(net.system(), drawn).accuracy > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": None}, "fingerprint must be a text"),
        ({"image_shape": (8, 6)}, r"image_shape must be \(H, W, C\)"),
        ({"image_shape": (8, 6, 2)}, r"image_shape must be \(H, W, C\)"),
        ({"embed": lambda images: np.zeros(3)}, r"embeds 4 pictures to \(3,\)"),
        ({"embed": lambda images: np.zeros((1, 3))}, r"embeds 4 pictures to \(1, 3\)"),
    ],
)
def test_what_is_no_embedder_is_one_line(change, words):
    parts = {"name": "x", "image_shape": SHAPE, "fingerprint": "1", "embed": Means().embed}
    with pytest.raises(ValueError, match=words) as caught:
        embedder.wrap(types.SimpleNamespace(**{**parts, **change})).embed(
            np.zeros((4, *SHAPE), np.uint8)
        )
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="SimpleNamespace has no name, embed"):
        embedder.wrap(types.SimpleNamespace(image_shape=SHAPE, fingerprint="1"))
    with pytest.raises(ValueError, match="kind must be one of"):
        embedder.wrap(Means(), kind="vector")


def test_the_torch_embedder_of_the_docs():
    torch = pytest.importorskip("torch")
    section = DOC.read_text().split("## An embedder of another library")[1]
    scope = {}
    exec(re.search(r"```python\n(.*?)```", section, re.S)[1], scope)
    modules = [
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 5, 8, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )
        for _ in range(2)
    ]
    nets = [siamese_jax.wrap(scope["TorchEmbedder"](module)) for module in modules]
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    assert nets[0].embed(images).shape == (3, 5)
    assert nets[0].fingerprint != nets[1].fingerprint
