"""Encoders by their dotted path."""

import pathlib
import re
import sys

import jax
import numpy as np
import pytest
from recipes import get_config

import siamese_jax
from siamese_jax.models import siamese

DOC = pathlib.Path(__file__).parents[1] / "docs" / "your-data.md"
FIELDS = {"encoder_args": {}, "comparator": "cosine", "head_args": {}, "dtype": "float32"}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The encoder of docs/your-data.md, as its reader would save it."""
    section = DOC.read_text().split("## An encoder of your own")[1]
    code = re.search(r"```python\n(.*?)```", section, re.S)[1]
    (tmp_path / "my_encoder.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_encoder.MyEncoder"
    sys.modules.pop("my_encoder", None)


@pytest.mark.slow
def test_the_encoder_of_the_docs_embeds(shown):
    fields = {**FIELDS, "encoder": shown, "encoder_args": {"units": 12}}
    net = siamese.build(fields, (28, 28, 3))
    images = np.zeros((2, 28, 28, 3), np.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images, images)
    embeddings = jax.eval_shape(lambda v: net.apply(v, images, method="embed"), variables)
    assert embeddings.shape == (2, 12)
    with pytest.raises(ValueError, match="no attribute of MyEncoder"):
        siamese.build({**fields, "encoder_args": {"unit": 1}}, (28, 28, 3))


def test_an_encoder_that_chooses_no_dtype_is_described_without_one():
    from flax import linen as nn

    class Enc(nn.Module):
        units: int = 4
        dtype: object = None

        def __call__(self, images, train=False):
            return images

    assert siamese.describe(Enc()).keys() == {"encoder", "encoder_args"}
    assert siamese.describe(Enc(dtype=np.float16))["dtype"] == "float16"


@pytest.mark.slow
def test_it_is_trained_and_loaded(shown, tmp_path):
    from siamese_jax.training import loop

    config = get_config("quickstart", "vector,smoke")
    with config.unlocked():
        config.model.update(FIELDS)
        config.model.encoder = shown
        config.model.encoder_args = {"units": 16}
    config.augment.distort = False
    loop.train_and_evaluate(config, tmp_path / "run")
    net = siamese_jax.load(tmp_path / "run")
    assert net.embed(np.zeros((3, *net.image_shape), np.uint8)).shape == (3, 16)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kock", "must be one of .'koch'.* or a dotted path, got 'kock'"),
        ("no_such_package.Encoder", "cannot be imported"),
        ("json.dumps", "is no class of flax.linen modules"),
        ("flax.linen.Dense", r"must be called as \(images, train\)"),
    ],
)
def test_what_is_no_encoder_is_refused(name, words):
    with pytest.raises(ValueError, match=words) as caught:
        siamese.build({**FIELDS, "encoder": name}, (28, 28, 1))
    assert "\n" not in str(caught.value)
