"""The configs and what they share: every recipe builds, variants join, small versions are small."""

import itertools

import jax
import pytest
from recipes import ROOT, get_config

from siamese_jax import config as config_lib
from siamese_jax.models import siamese
from siamese_jax.training import objectives, optim
from siamese_jax.training.experiment import check_config

VARIANTS = {
    "best": ("smoke",),
    "faces": ("local", "smoke"),
    "keras_tutorial": ("long", "smoke"),
    "koch_episodes": ("smoke",),
    "koch2015": ("pairs=30k", "affine", "thicken", "dense", "reduced", "smoke"),
    "mnist_to_omniglot": ("smoke",),
    "photos": ("vit", "smoke"),
    "quickstart": ("vector", "smoke"),
    "signatures": ("smoke",),
    "vectors": ("smoke",),
}
CASES = [
    (name, ",".join(words))
    for name, known in VARIANTS.items()
    for count in range(len(known) + 1)
    for words in itertools.combinations(known, count)
    if "affine" not in words or "pairs=30k" in words  # copies are of fixed pairs
    if not {"thicken", "pairs=30k"} <= {*words} or "affine" in words  # and only they are distorted
]


def test_every_config_is_tried():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert files == {*VARIANTS, "recorded"}


@pytest.mark.parametrize("name, arg", CASES)
def test_a_config_and_its_variants_build(name, arg):
    config = get_config(name, arg)
    height, width = config.data.image_size or (1, 4)  # vectors have no size
    model = siamese.build(config.model, (height, width, 1))
    variables = siamese.variable_shapes(model, (height, width, 1))
    tx = optim.build(config.optim, config.num_steps)
    jax.eval_shape(tx.init, variables["params"])  # every parameter has its rule
    objectives.build(config.objective, 20)
    check_config(config)
    assert config.is_locked
    assert config.eval.every <= config.num_steps
    if "smoke" in arg:
        sizes = [x.size for x in jax.tree.leaves(variables["params"])]
        assert config.num_steps == 20 and sum(sizes) < 50_000
        assert config.data.name == "glyphs"


def test_a_small_version_changes_what_is_there_and_adds_no_field():
    config = config_lib.base()
    config.model.encoder_args = {"units": 64}
    config.objective.batch = 128
    before = {name: set(config[name]) for name in config if hasattr(config[name], "items")}
    config_lib.shrink(config, (20, 24), units=8)
    assert {name: set(config[name]) for name in before} == before
    assert config.model.encoder_args.units == 8 and config.objective.batch == 8
    assert config.data.image_size == (20, 24)


def test_distortions_are_those_of_the_paper_but_for_what_is_given():
    augment = config_lib.distortions(rotation=3.0)
    assert augment.affine.to_dict() == {
        "rotation": 3.0,
        "shear": 0.3,
        "scale": (0.8, 1.2),
        "translation": 2.0,
        "probability": 0.5,
    }


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("data", "skip_broken", "no", "True or False, got 'no'"),
        ("data", "tfds_label", None, "text, got None"),
        ("data", "tfds_splits", "train", "a sequence of texts, got 'train'"),
        ("data", "tfds_splits", (1,), "a sequence of texts"),
        ("objective", "memory", 0.5, "a whole number of at least 0"),
        ("optim", "accumulate", 1.5, "a whole number of at least 1"),
        ("optim", "ema", "x", "a number of at least 0 and at most 1, got 'x'"),
    ],
)
def test_a_field_of_another_type_is_refused(section, field, value, words):
    with pytest.raises(ValueError, match=f"^{section}.{field} must be {words}"):
        config_lib.check_fields({section: {field: value}})


def test_every_field_that_recipes_share_is_checked():
    assert {name for name, _ in config_lib._values(config_lib.base())} <= config_lib.FIELDS.keys()
    config_lib.check_fields(config_lib.base())


def test_variants_are_joined_by_commas():
    assert config_lib.variants("", "local", "smoke") == ()
    assert config_lib.variants("smoke,local", "local", "smoke") == ("smoke", "local")


@pytest.mark.parametrize(
    "arg, words",
    [
        ("smok", "variants local, smoke, not 'smok': did you mean 'smoke'"),
        ("zzz", "not 'zzz'$"),
        ("smoke,", "not ''"),
        ("smoke,smoke", "'smoke' stands twice in 'smoke,smoke'"),
    ],
)
def test_an_unknown_variant_is_one_line(arg, words):
    with pytest.raises(ValueError, match=words):
        config_lib.variants(arg, "local", "smoke")
