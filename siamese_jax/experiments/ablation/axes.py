"""What an ablation varies: named axes, each a list of changes to a config."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from siamese_jax.evaluation import trials
from siamese_jax.models import siamese
from siamese_jax.models.comparators import COMPARATORS
from siamese_jax.runs import workdir
from siamese_jax.training import objectives, optim

# `local` compares the maps of another kind of encoder.
_OF_VECTORS = tuple(name for name in COMPARATORS if name != "local")
_WEIGHT_DECAY = ("adamw", "muon")  # optimisers of the same settings
_PROTOTYPE_SCALE = 0.02  # 512 normalised numbers an embedding: squared distances of about 1,000


class Axis(NamedTuple):
    """One thing that is varied.

    Attributes:
        labels: names of its variants; of an axis of numbers those that are taken unless others are
            asked for.
        fields: (config as a plain dict, label) -> changed fields by dotted name; those that begin
            with `evaluation.` are settings of the evaluation, which need no training of their own.
            ValueError where the axis does not fit the config.
        number: the type that reads a label of an axis on which any positive number is one.
    """

    labels: tuple[str, ...]
    fields: Callable[[Mapping, str], dict[str, Any]]
    number: Callable[[str], float] | None = None


def _resolution(config, label):
    return {"data.image_size": [int(label), int(label)]}


def _objective(config, label):
    """The same encoder, data and (nearly) the same number of images a step.

    The comparator is the one that the objective is at home with: cosine, or a Euclidean distance for
    `contrastive` and `triplet` (of embeddings of length 1, so at most 2) and its square, of embeddings
    of any length, for `prototypical`.
    """
    old, model = config["objective"], config["model"]
    name, _, adapted = label.partition("+")
    settings = {"evaluation.shot_aggregation": adapted} if adapted else {}
    if name == old["name"]:
        return settings
    images = objectives.build(old, 1).images
    n_way = old.get("n_way", config["eval"]["n_way"])
    pairs = {"batch": images // 2, "negatives": old.get("negatives", "any")}
    episodes = {"episodes": max(1, images // (2 * n_way)), "n_way": n_way}
    episodes["pad_with_symmetries"] = old.get("pad_with_symmetries", old["symmetries"] != "none")
    cosine = {"comparator": "cosine", "head_args": {"scale": 10.0}}
    unit, margin = "unit", 1.0
    if model["encoder"] == "koch":
        cosine, unit = {"comparator": model["comparator"], "head_args": model["head_args"]}, None
    distance = {"comparator": "euclidean", "head_args": {"scale": 1.0, "bias": margin / 2}}
    square = {"comparator": "squared_euclidean", "head_args": {"scale": _PROTOTYPE_SCALE}}
    shots = {**episodes, "k_shot": 1}
    fields, head, output = {
        "verification": (pairs, cosine, unit),
        "contrastive": ({**pairs, "margin": margin}, distance, unit),
        "triplet": ({**episodes, "mining": "semi_hard", "margin": 0.2}, distance, unit),
        "info_nce": ({**episodes, "contrast": "batch"}, cosine, unit),
        "prototypical": (shots, square, unit and "linear"),
        "matching": (shots, cosine, unit),
        "classifier": ({"batch": images}, cosine, unit),
    }[name]
    changes = {"objective": {"name": name, "symmetries": old["symmetries"], **fields}}
    changes |= {f"model.{key}": value for key, value in head.items()}
    if output:
        changes["model.encoder_args.output"] = output
    return {**changes, **settings}


def _pairs(config, label):
    if "negatives" not in config["objective"]:
        raise ValueError(
            f"objective {config['objective']['name']!r} draws no pairs: take objective:verification"
        )
    return {"objective.negatives": label}


def _augmentation(config, label):
    parts = label.split("+")
    symmetries = config["objective"]["symmetries"]
    symmetries = (
        ("alphabet" if symmetries == "none" else symmetries) if "symmetries" in parts else "none"
    )
    fields = {"objective.symmetries": symmetries, "augment.distort": "affine" in parts}
    if "pad_with_symmetries" in config["objective"]:  # with turned copies of characters
        fields["objective.pad_with_symmetries"] = "symmetries" in parts
    size = config["augment"]["elastic_size"] or 0.02
    return {**fields, "augment.elastic_size": size if "elastic" in parts else 0.0}


def _distortions(config, label):
    return {"augment.distort": label == "on"}


def _encoder(config, label):
    old = config["model"]
    if label == "koch":
        if old["encoder"] == "koch":
            return {}
        side = min(config["data"]["image_size"] or [105])
        args = {
            "filters": [32, 64, 64, 128],
            "kernels": [max(2, round(k * side / 105)) for k in (10, 7, 4, 4)],
            "units": old["encoder_args"]["units"],
            "conv_std": 0.05,
            "dense_std": 0.02,
            "bias_mean": 0.0,
        }
        return {"model.encoder": "koch", "model.encoder_args": args}
    if old["encoder"] == "residual":
        args = dict(old["encoder_args"])
    else:
        args = {"widths": [32, 64, 64, 128], "blocks": 1, "stem": 32, "stem_stride": 2}
        args["units"] = 512
    factor = {"residual-half": 0.5, "residual": 1, "residual-double": 2}[label]
    args["widths"] = [max(1, round(factor * width)) for width in args["widths"]]
    return {"model.encoder": "residual", "model.encoder_args": args}


def _comparator(config, label):
    old = config["model"]
    if label == old["comparator"]:
        return {}
    units = old["encoder_args"].get("units", 512)
    bounded = old["encoder_args"].get("output", "unit") == "unit"  # squared distances of at most 4
    args = {
        "l1": {},
        "l2": {},
        "cosine": {"scale": 10.0},
        "bilinear": {"scale": 10.0 if bounded else 10.0 / units},
        "euclidean": {"scale": 5.0 if bounded else 5.0 / units**0.5},
        "squared_euclidean": {"scale": 5.0 if bounded else 5.0 / units},
    }[label]
    return {"model.comparator": label, "model.head_args": args}


def _regularisation(config, label):
    parts, old = label.split("+"), config["optim"]
    fields = {}
    if config["model"]["encoder"] == "residual":
        rate = config["model"]["encoder_args"].get("dropout") or 0.3
        fields["model.encoder_args.dropout"] = rate if "dropout" in parts else 0.0
    elif "dropout" in parts:
        raise ValueError(f"encoder {config['model']['encoder']!r} has no dropout")
    if old["name"] in _WEIGHT_DECAY:
        fields["optim.weight_decay"] = (old["weight_decay"] or 0.05) if "l2" in parts else 0.0
    elif old["name"] == "adam":
        fields["optim.rules"] = [
            [rule[0], (rule[1] or 1e-4) if "l2" in parts else 0.0] for rule in old["rules"]
        ]
    else:
        fields["optim.rules"] = [
            [*rule[:3], (rule[3] or 1e-4) if "l2" in parts else 0.0] for rule in old["rules"]
        ]
    return fields


def _optimiser(config, label):
    if config["optim"]["name"] not in _WEIGHT_DECAY:
        raise ValueError(f"it goes with a config of {' or '.join(_WEIGHT_DECAY)}")
    return {"optim.name": label}


def _initialisation(config, label):
    """That of Koch et al., or N(0, 0.1) for convolutions and N(0, 0.02) for dense layers.

    The latter is about He's at 35x35, where a filter has 16 to 288 inputs and a unit 500 to 1,200.
    """
    encoder = config["model"]["encoder"]
    fields = {
        "koch": {"conv_std": (0.01, 0.1), "dense_std": (0.2, 0.02), "bias_mean": (0.5, 0.5)},
        "dense": {"std": (0.2, 0.02), "bias_mean": (0.5, 0.5)},
    }
    if encoder not in fields:
        raise ValueError(f"encoder {encoder!r} has no published initialisation")
    place = ("published", "scaled").index(label)
    return {f"model.encoder_args.{name}": pair[place] for name, pair in fields[encoder].items()}


def _rate(config, label):
    if config["optim"]["name"] != "layerwise":
        return {"optim.learning_rate": float(label)}
    rules = config["optim"]["rules"]
    return {"optim.rules": [[rule[0], float(label), *rule[2:]] for rule in rules]}


def _shots(config, label):
    return {"evaluation.k_shot": int(label)}


def _join(config, label):
    return {"evaluation.shot_aggregation": label}


# In the order in which they are applied, whatever the order of asking.
AXES: Mapping[str, Axis] = {
    "resolution": Axis(("28", "35", "56"), _resolution, int),
    "objective": Axis((*objectives.OBJECTIVES, "classifier+finetune"), _objective),
    "pairs": Axis(("any", "same_alphabet"), _pairs),
    "augmentation": Axis(
        ("none", "symmetries", "affine", "affine+symmetries", "affine+symmetries+elastic"),
        _augmentation,
    ),
    "distortions": Axis(("on", "off"), _distortions),
    "encoder": Axis(("koch", "residual-half", "residual", "residual-double"), _encoder),
    "comparator": Axis(_OF_VECTORS, _comparator),
    "initialisation": Axis(("published", "scaled"), _initialisation),
    "optimiser": Axis(_WEIGHT_DECAY, _optimiser),
    "learning_rate": Axis(("0.001", "0.01", "0.1"), _rate, float),
    "regularisation": Axis(("none", "dropout", "l2", "dropout+l2"), _regularisation),
    "shots": Axis(("1", "2", "5"), _shots, int),
    "shot_aggregation": Axis(("mean", "max", "sum", "prototype", "finetune"), _join),
}
_JUDGED = ("shots", "shot_aggregation")  # axes of the evaluation alone


def parse_over(over: Iterable[str], seeds: int | None) -> tuple[dict[str, list[str]], list[int]]:
    """Reads what is to be varied.

    Args:
        over: `axis` for all labels of an axis, `axis:label1|label2` for some; `seeds` stands for
            three seeds.
        seeds: number of seeds, counted from 0; None: three or one, as `over` says.

    Returns:
        Labels by axis, in the order of `AXES`, and the seeds.

    Raises:
        ValueError: an unknown axis or label, an axis named twice, or seeds said twice.
    """
    asked, chosen = {}, [0] if seeds is None else list(range(seeds))
    if seeds is not None and seeds < 1:
        raise ValueError(f"at least one seed is needed, got {seeds}")
    for entry in over:
        name, _, listed = entry.partition(":")
        trials.check_names("axis", [name], [*AXES, "seeds"])
        if name in asked:
            raise ValueError(f"axis {name!r} is named twice: write {name}:label1|label2")
        asked[name] = labels = [label for label in listed.split("|") if label]
        if len(set(labels)) < len(labels):
            raise ValueError(f"{entry!r} names a label twice")
        number = int if name == "seeds" else AXES[name].number
        if number:
            _check_numbers(name, number, labels)
        else:
            trials.check_names(f"label of axis {name!r}", labels, AXES[name].labels)
        if name == "seeds" and labels and seeds is not None:
            raise ValueError(f"{entry!r} and --seeds={seeds} say two things: leave one out")
        if name == "seeds" and seeds is None:
            chosen = [int(label) for label in labels] or [0, 1, 2]
    return {n: asked[n] or list(axis.labels) for n, axis in AXES.items() if n in asked}, chosen


def _check_numbers(name, number, labels):
    what = "whole numbers" if number is int else "positive numbers"
    for label in labels:
        good = label.isdigit()
        if number is float:
            with contextlib.suppress(ValueError):
                good = 0 < float(label) < math.inf
        if not good:
            raise ValueError(f"labels of axis {name!r} are {what}, got {label!r}")


@dataclasses.dataclass
class Variant:
    """One row of the table.

    Attributes:
        labels: label by axis.
        trained: name of its training, shared by variants that are only evaluated otherwise.
        config: as a plain dict; the seed is that of the base config.
        settings: of the evaluation: `k_shot` and `shot_aggregation` (None: as the config says).
        images: images a step.
    """

    labels: dict[str, str]
    trained: str
    config: dict
    settings: dict
    images: int = 0

    @property
    def name(self) -> str:
        return ", ".join(self.labels.values()) or "as configured"

    def run(self, seed: int) -> str:
        """Name of the folder of a run."""
        return f"{self.trained}seed={seed}"


def make_variants(config, chosen: Mapping[str, Sequence[str]]) -> list[Variant]:
    """The product of the axes, the last axis fastest.

    Args:
        config: the base config.
        chosen: labels by axis, in the order of `AXES`.

    Raises:
        ValueError: an axis does not fit the config.
    """
    base = {k: v for k, v in workdir.plain(config).items() if k != "search_space"}
    variants, trainings = [], {}
    for labels in itertools.product(*chosen.values()):
        settings = {"k_shot": 1, "shot_aggregation": None}
        variant = Variant(dict(zip(chosen, labels, strict=True)), "", base, settings)
        for name, label in variant.labels.items():
            axis = AXES[name]
            try:
                fields = axis.fields(variant.config, label)
                for key in [key for key in fields if key.startswith("evaluation.")]:
                    settings[key.removeprefix("evaluation.")] = fields.pop(key)
                variant.config = changed(variant.config, fields)
            except (ValueError, KeyError) as error:
                text = f"it has no field {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"axis {name}:{label} does not fit this config: {text}") from None
        # One training serves all variants of one config, and is named after the first of them.
        own = "".join(f"{n}={x}," for n, x in variant.labels.items() if n not in _JUDGED)
        variant.trained = trainings.setdefault(json.dumps(variant.config, sort_keys=True), own)
        variants.append(variant)
    return variants


def changed(config: Mapping, fields: Mapping[str, Any]) -> dict:
    """A copy of a plain config in which dotted fields have other values."""
    config = json.loads(json.dumps(config))
    for dotted, value in fields.items():
        *path, last = dotted.split(".")
        part = config
        for name in path:
            part = part[name]
        part[last] = value
    return config


def check_fits(variant: Variant, train_set) -> None:
    """Builds all parts of a variant's training without computing, and counts its images a step."""
    config = variant.config
    height, width, channels = train_set.image_shape
    height, width = config["data"]["image_size"] or (height, width)
    if config["objective"]["symmetries"] != "none" and (height != width or train_set.kind != "ink"):
        raise ValueError(f"symmetries need square images of kind ink, got {train_set.name!r}")
    model = siamese.build(config["model"], (height, width, channels))
    images = jax.ShapeDtypeStruct((1, height, width, channels), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), images, images)["params"]
    jax.eval_shape(optim.build(config["optim"], config["num_steps"]).init, params)
    most = int(train_set.alphabet_count.max())
    variant.images = objectives.build(config["objective"], most, train_set.num_classes).images
