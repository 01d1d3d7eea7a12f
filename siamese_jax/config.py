"""What the recipes of `configs/` share: defaults, the small version for trying out, and variants."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field of a config may hold.

    Attributes:
        kind: `int`, `float` (whole numbers too), `bool` or `str`.
        low: least value of a number.
        high: greatest value of a number.
        above: whether a number must be greater than `low`.
        optional: whether None is a value as well.
        count: values of a sequence: how many, or 0 for any number; None for a single value.
        rising: whether the numbers of a sequence must not fall.
    """

    kind: type
    low: float = 0
    high: float = math.inf
    above: bool = False
    optional: bool = False
    count: int | None = None
    rising: bool = False

    def expected(self) -> str:
        """The type and the range in words."""
        noun = {int: "whole number", float: "number", bool: "True or False", str: "text"}[self.kind]
        if self.kind in (int, float):
            start = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
            end = "" if self.high == math.inf else f" and at most {self.high:,.15g}"
            if self.count is None:
                noun = f"a {noun} {start}{end}"
            else:
                many = self.count or "any number of"
                order = ", none below the one before" if self.rising else ""
                noun = f"{many} {noun}s {start}{end}{order}"
        elif self.count is not None:
            noun = f"a sequence of {noun}s"
        return f"{noun} or None" if self.optional else noun

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the type and in the range."""
        if value is None:
            return self.optional
        if self.count is None:
            return self._accepts_one(value)
        if not isinstance(value, list | tuple) or self.count and len(value) != self.count:
            return False
        if not all(map(self._accepts_one, value)):
            return False
        return not self.rising or all(a <= b for a, b in itertools.pairwise(value))

    def _accepts_one(self, value: Any) -> bool:
        if self.kind in (bool, str):
            return isinstance(value, self.kind)
        numbers = (int, float) if self.kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, numbers):
            return False
        above = value > self.low if self.above else value >= self.low
        return math.isfinite(value) and above and value <= self.high


_STEPS, _SEED, _SIDE = 10**9, 2**31 - 1, 4096
_SIZES = Field(int, 1, 2**16, count=0)
_DATA = {
    "name": Field(str),
    "split": Field(str),
    **dict.fromkeys(("archives", "data_dir", "path", "class_column"), Field(str, optional=True)),
    "image_size": Field(int, 1, _SIDE, optional=True, count=2),
    **dict.fromkeys(("stream", "skip_broken", "train_on_validation"), Field(bool)),
    **dict.fromkeys(("tfds_image", "tfds_label"), Field(str)),
    "tfds_alphabet": Field(str, optional=True),
    "tfds_splits": Field(str, count=0),
    "train_alphabets": Field(int, 0, 1000),
    "ink": Field(bool),
    "seed": Field(int, 0, _SEED),
    "fractions": Field(float, 0, 10**6, above=True, count=3),
    "glyphs_alphabets": Field(int, 1, 1000),
    "glyphs_characters": Field(int, 1, 1000, count=2, rising=True),
    "glyphs_drawers": Field(int, 1, 1000),
}
# Every field whose type and range do not depend on others. What a name may be, and what goes together,
# is checked where it is used.
FIELDS = {
    "seed": Field(int, 0, _SEED),
    "num_steps": Field(int, 1, _STEPS),
    "num_devices": Field(int, 0, 10**6),
    "feed": Field(str),
    "log_every": Field(int, 1, _STEPS),
    "keep_best": Field(int, 1, 1000),
    **{
        f"{section}.{name}": field
        for section in ("data", "test_data")
        for name, field in _DATA.items()
    },
    "model.dtype": Field(str),
    "model.encoder": Field(str),
    "model.comparator": Field(str),
    "model.context_steps": Field(int, 0, 1000),
    "model.centre_ink": Field(bool),
    "model.weights": Field(str, optional=True),
    **{
        f"model.encoder_args.{name}": field
        for name, field in {
            **dict.fromkeys(("filters", "kernels", "hidden", "widths", "stages"), _SIZES),
            **dict.fromkeys(("units", "stem", "width"), Field(int, 1, 2**20)),
            **dict.fromkeys(("patch", "depth", "heads"), Field(int, 1, 1000)),
            "frozen": Field(int, 0, 1000),
            "pixel_mean": Field(float, -1000, 1000, count=0),
            "pixel_std": Field(float, 0, 1000, above=True, count=0),
            "pools": Field(int, 0, 1000),
            **dict.fromkeys(("conv_std", "dense_std", "std"), Field(float, 0, 1000)),
            "blocks": Field(int, 1, 1000),
            "stem_stride": Field(int, 1, 1000),
            "bias_mean": Field(float, -1000, 1000),
            "dropout": Field(float, 0, 0.999),
            **dict.fromkeys(("convolution", "output"), Field(str)),
            **dict.fromkeys(
                ("local", "normalise", "bottleneck", "small_inputs", "project"), Field(bool)
            ),
        }.items()
    },
    "model.head_args.bias": Field(float, -1e6, 1e6),
    "model.head_args.bias_mean": Field(float, -1e6, 1e6),
    "model.head_args.kernel_mean": Field(float, -1e6, 1e6),
    "model.head_args.kernel_std": Field(float, 0, 1000),
    "model.head_args.reach": Field(int, 0, 1000),
    "model.head_args.scale": Field(float, 0, 1e6, above=True),
    "objective.name": Field(str),
    "objective.batch": Field(int, 1, 2**20),
    "objective.episodes": Field(int, 1, 2**16),
    "objective.n_way": Field(int, 2, 2**16),
    "objective.k_shot": Field(int, 1, 2**16),
    "objective.balance": Field(float, 0, 1),
    "objective.pairs": Field(int, 0, 10**8),
    "objective.copies": Field(int, 0, 10**4),
    "objective.margin": Field(float, 0, 1e6),
    "objective.decorrelation": Field(float, 0, 1e6),
    "objective.label_smoothing": Field(float, 0, 1),
    "objective.memory": Field(int, 0, 2**20),
    "objective.memory_start": Field(int, 0, _STEPS),
    "objective.pad_with_symmetries": Field(bool),
    "augment.distort": Field(bool),
    "augment.mirror": Field(bool),
    "augment.affine.rotation": Field(float, 0, 180),
    "augment.affine.shear": Field(float, 0, 10),
    "augment.affine.scale": Field(float, 0, 100, above=True, count=2, rising=True),
    "augment.affine.translation": Field(float, 0, 10**4),
    "augment.affine.probability": Field(float, 0, 1),
    "augment.elastic_size": Field(float, 0, 1),
    "augment.elastic_grid": Field(int, 1, 1000),
    "augment.thicken": Field(float, 0, 1),
    "augment.contrast": Field(float, 0, 1),
    "augment.brightness": Field(float, 0, 1),
    "augment.photo.crop_area": Field(float, 0, 1, above=True, count=2, rising=True),
    "augment.photo.crop_ratio": Field(float, 0, 100, above=True, count=2, rising=True),
    "augment.photo.upside_down": Field(bool),
    **{f"augment.photo.{name}": Field(float, 0, 1) for name in ("saturation", "grey", "erase")},
    "augment.photo.hue": Field(float, 0, 0.5),
    "augment.photo.blur": Field(float, 0, 0.1),
    "augment.photo.blur_probability": Field(float, 0, 1),
    "augment.photo.erase_area": Field(float, 0, 1, above=True, count=2, rising=True),
    "optim.name": Field(str),
    "optim.learning_rate": Field(float, 0, 1e30),
    "optim.warmup_steps": Field(int, 0, _STEPS),
    "optim.weight_decay": Field(float, 0, 1e6),
    "optim.momentum": Field(float, 0, 1),
    "optim.momentum_start": Field(float, 0, 1),
    "optim.momentum_epochs": Field(int, 0, _STEPS),
    **dict.fromkeys(("optim.decay", "optim.layer_decay"), Field(float, 0, 1, above=True)),
    "optim.accumulate": Field(int, 1, 2**20),
    "optim.ema": Field(float, 0, 1),
    "optim.clip_norm": Field(float, 0, 1e30),
    "optim.steps_per_epoch": Field(int, 1, _STEPS),
    "eval.every": Field(int, 1, _STEPS),
    "eval.num_trials": Field(int, 1, 10**7),
    "eval.num_pairs": Field(int, 0, 10**7),
    "eval.n_way": Field(int, 2, 10**5),
    "eval.seed": Field(int, 0, _SEED),
    "eval.patience": Field(int, 0, _STEPS),
    "eval.between": Field(bool),
}


def check_fields(config: Mapping) -> None:
    """Checks every field against its type and range in `FIELDS`.

    Args:
        config: see `configs/`.

    Raises:
        ValueError: a field, which is named, with its value and what was expected.
    """
    for name, value in _values(config):
        field = FIELDS.get(name)
        if field is not None and not field.accepts(value):
            raise ValueError(f"{name} must be {field.expected()}, got {value!r}")
        if field is None and not _is_finite(value):
            raise ValueError(f"{name} must be of finite numbers, got {value!r}")


def _values(section: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each field's dotted name and value."""
    for name, value in section.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


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
    config.keep_best = 1  # best checkpoints kept, besides the latest two

    config.data = ConfigDict()
    config.data.name = "auto"  # Omniglot where it can be had, else the built-in glyphs
    config.data.split = "lake"  # 30 alphabets to train, 10 to choose, 10 to test; all drawers
    config.data.train_alphabets = 0  # so many of Omniglot's 30 train, drawn by data.seed; 0: all
    config.data.train_on_validation = False  # whether its classes train too
    config.data.image_size = (105, 105)  # height and width, pixels
    config.data.archives = placeholder(str)  # folder of the three Omniglot zips
    config.data.data_dir = placeholder(str)  # folder of prepared sets; None: that of tfds
    config.data.stream = False  # whether Omniglot's training images, or a folder's, stay on disk
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
    config.model.centre_ink = False  # whether the ink of each image is moved to the middle first

    config.objective = ConfigDict()
    config.objective.label_smoothing = 0.0  # of the objectives that are a softmax
    config.objective.memory = 0  # embeddings of earlier steps that a batch meets as well
    config.objective.memory_start = 0  # updates before the first of them is remembered

    config.augment = ConfigDict()
    config.augment.distort = False

    config.optim = ConfigDict()
    config.optim.accumulate = 1  # parts of a batch that go through the encoder one after another
    config.optim.ema = 0.0  # decay of a moving average of the parameters, which is then evaluated
    config.optim.clip_norm = 0.0  # largest norm of a gradient; 0: any

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


def photos(**photo: Any) -> ConfigDict:
    """The section `augment` for photos whose classes a mirror image does not change.

    Args:
        **photo: ranges that differ from these.
    """
    augment = distortions(rotation=5.0, shear=0.0, scale=(1.0, 1.0), translation=0.0)
    augment.mirror = True
    augment.contrast = 0.4
    augment.brightness = 0.2
    usual = {
        "crop_area": (0.5, 1.0),  # least and largest share of the picture
        "crop_ratio": (0.8, 1.25),  # of width by height, against the picture's own
        "upside_down": False,  # mirrored top to bottom too: pictures from above
        "saturation": 0.4,
        "hue": 0.05,  # of the circle of colours
        "grey": 0.1,  # probability of losing the colours
        "blur": 0.01,  # largest standard deviation, of the height
        "blur_probability": 0.5,
        "erase": 0.25,  # probability of an erased rectangle
        "erase_area": (0.02, 0.2),
    }
    augment.photo = ConfigDict({**usual, **photo})
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
