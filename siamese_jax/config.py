"""What the recipes of `configs/` share: defaults, the small version for trying out, and variants."""

from __future__ import annotations

import difflib
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base() -> ConfigDict:
    """The fields that every recipe has, with their usual values; a recipe sets what it chooses.

    `model`, `objective` and `optim` are sections for the recipe to fill.
    """
    config = ConfigDict()
    config.seed = 0  # of parameters, batches and distortions
    config.num_steps = 1000  # updates
    config.num_devices = 1  # 0: all there are; their number must divide the batch
    config.feed = "auto"  # where training images are kept: device, host, or auto (by their size)
    config.log_every = 20  # steps
    config.keep_best = 1  # checkpoints kept besides the latest

    config.data = ConfigDict()
    config.data.name = "auto"  # Omniglot where it can be had, else the built-in glyphs
    config.data.split = "lake"  # 30 alphabets to train, 10 to choose, 10 to test; all drawers
    config.data.image_size = (105, 105)  # height and width, pixels
    config.data.archives = placeholder(str)  # folder of the three Omniglot zips
    config.data.data_dir = placeholder(str)  # folder of prepared sets; None: that of tfds
    config.data.stream = False  # whether Omniglot's training images stay on disk
    config.data.path = placeholder(str)  # folder of pictures, for name = "folder"
    config.data.tfds_image = "image"  # of `tfds:NAME`: the feature of the picture
    config.data.tfds_label = "label"  # of its class
    config.data.tfds_alphabet = placeholder(str)  # of its superclass
    config.data.tfds_splits = ("all",)  # one split, or training, validation and test
    config.data.skip_broken = False  # whether broken pictures and too small classes are left out
    config.data.ink = False  # whether these pictures are dark ink on light paper
    config.data.glyphs_alphabets = 20
    config.data.glyphs_characters = (20, 32)  # least and most in an alphabet
    config.data.glyphs_drawers = 20
    config.data.seed = 0  # of the glyphs and of random splits

    config.model = ConfigDict()
    config.model.dtype = "float32"  # of computation; parameters are float32

    config.objective = ConfigDict()

    config.augment = ConfigDict()
    config.augment.distort = False

    config.optim = ConfigDict()

    config.eval = ConfigDict()
    config.eval.every = 100  # steps
    config.eval.num_trials = 2000  # one-shot trials on the validation part
    config.eval.n_way = 20
    config.eval.seed = 0
    config.eval.patience = 0  # evaluations without a better one before stopping; 0: never
    return config


def distortions(**affine: Any) -> ConfigDict:
    """The section `augment` with affine distortions.

    Args:
        **affine: ranges that differ from those of Koch et al. (2015), section 3.3.
    """
    koch = {
        "rotation": 10.0,  # degrees, either way
        "shear": 0.3,  # a ratio, either way
        "scale": (0.8, 1.2),
        "translation": 2.0,  # pixels of a 105-pixel image, either way
        "probability": 0.5,  # of each of them
    }
    augment = ConfigDict()
    augment.distort = True
    augment.affine = ConfigDict({**koch, **affine})
    augment.elastic_size = 0.0  # of the image's side, at a knot
    augment.elastic_grid = 4  # knots along either axis
    return augment


def shrink(config: ConfigDict, image_size: tuple[int, int], **encoder_args: Any) -> None:
    """Makes a recipe small: 20 steps, in seconds, on the built-in glyphs.

    Args:
        config: to be changed.
        image_size: height and width, pixels.
        **encoder_args: fields of `model.encoder_args` that make the encoder small.
    """
    config.num_steps, config.log_every = 20, 5
    for data in (config.data, config.get("test_data")):
        if data is not None:
            data.update(name="glyphs", glyphs_alphabets=9, glyphs_drawers=8)
            data.update(glyphs_characters=(6, 10), image_size=image_size)
    config.model.encoder_args.update(encoder_args)
    small = {"batch": 8, "episodes": 2, "n_way": 5}
    config.objective.update({name: small[name] for name in small if name in config.objective})
    if "warmup_steps" in config.optim:
        config.optim.warmup_steps = 2
    config.eval.every, config.eval.num_trials = 10, 50
    config.eval.n_way = min(config.eval.n_way, 5)


def variants(arg: str, *known: str) -> tuple[str, ...]:
    """The variants that an argument names: `--config=FILE:one,other` gives `("one", "other")`.

    Args:
        arg: what follows the colon, or nothing.
        *known: variants that the config has.

    Raises:
        ValueError: a variant that the config does not have, or one named twice.
    """
    words = tuple(arg.split(",")) if arg else ()
    for word in words:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            raise ValueError(
                f"the config has the variants {', '.join(known)}, not {word!r}"
                + "".join(f": did you mean {name!r}?" for name in near)
            )
        if words.count(word) > 1:
            raise ValueError(f"the variant {word!r} stands twice in {arg!r}: leave one out")
    return words
