"""What an ablation varies: named axes, each a list of changes to a config, and any field of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from siamese_jax.experiments.fields import get_field
from siamese_jax.models.comparators import COMPARATORS
from siamese_jax.models.context import FullContext
from siamese_jax.training import objectives
from siamese_jax.training.objective import Definition

# `local` compares the maps of another kind of encoder.
_OF_VECTORS = tuple(name for name in COMPARATORS if name != "local")
_WEIGHT_DECAY = ("adamw", "muon")  # optimisers of the same settings
_UNIT_MARGIN = 1.0  # of distances of embeddings of length 1, which are at most 2
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


def _resolution(config: Mapping, label: str) -> dict[str, Any]:
    return {"data.image_size": [int(label), int(label)]}


def _objective(config: Mapping, label: str) -> dict[str, Any]:
    """The same encoder, data and (nearly) the same number of images a step.

    The comparator is the one that suits the objective: cosine, or a Euclidean distance for
    `contrastive` and `triplet` (of embeddings of length 1, so at most 2) and its square, of embeddings
    of any length, for `prototypical`. `n_pair` has embeddings of any length, too. The config's
    `balance`, `label_smoothing` and `memory` are kept where the objective takes them.
    """
    old, model = config["objective"], config["model"]
    name, _, more = label.partition("+")
    settings: dict[str, Any] = {}
    if more == "finetune":
        settings["evaluation.shot_aggregation"] = more
    elif more == "context":
        settings["model.context_steps"] = FullContext.steps
    if name == old["name"]:
        return settings
    images = objectives.build(old, 1).images
    n_way = old.get("n_way", config["eval"]["n_way"])
    wanted = objectives.OBJECTIVES[name]
    per_class = wanted.defaults.get("images_per_class", 2)
    sizes: dict[str, Any] = {
        # Pairs, half same and half different, or images.
        "batch": max(2, 2 * (images // 4)) if "negatives" in wanted.settings else images,
        "negatives": old.get("negatives", "any"),
        "episodes": max(1, images // (per_class * n_way)),
        "n_way": n_way,
        "pad_with_symmetries": old.get("pad_with_symmetries", old["symmetries"] != "none"),
        **wanted.defaults,
    }
    taken = {key: sizes[key] for key in dict.fromkeys((*wanted.settings, *wanted.defaults))}
    shared: dict[str, Any] = {"balance": 1.0}  # settings that any objective of a kind takes
    if wanted.softmax:
        shared["label_smoothing"] = 0.0
    if wanted.memory:
        shared |= {"memory": 0, "memory_start": 0}
    kept = {key: old[key] for key, default in shared.items() if old.get(key, default) != default}
    changes: dict[str, Any] = {
        "objective": {"name": name, "symmetries": old["symmetries"], **taken, **kept}
    }
    changes["model.comparator"], changes["model.head_args"] = _head(model, wanted)
    if model["encoder"] != "koch":
        changes["model.encoder_args.output"] = wanted.output
    return {**changes, **settings}


def _head(model: Mapping, wanted: Definition) -> tuple[str, dict[str, Any]]:
    """The comparator that suits an objective, and its settings."""
    if wanted.comparator == "euclidean":
        return "euclidean", {"scale": 1.0, "bias": _UNIT_MARGIN / 2}
    if wanted.comparator != "cosine":
        return wanted.comparator, {"scale": _PROTOTYPE_SCALE}
    if model["encoder"] == "koch" and not wanted.learns_cosines:
        return model["comparator"], model["head_args"]
    return "cosine", {"scale": 10.0}


def _pairs(config: Mapping, label: str) -> dict[str, Any]:
    if "negatives" not in config["objective"]:
        raise ValueError(
            f"objective {config['objective']['name']!r} draws no pairs: take objective:verification"
        )
    return {"objective.negatives": label}


def _augmentation(config: Mapping, label: str) -> dict[str, Any]:
    parts, symmetries = label.split("+"), config["objective"]["symmetries"]
    if "symmetries" not in parts:
        symmetries = "none"
    elif symmetries == "none":
        symmetries = "alphabet"
    fields = {"objective.symmetries": symmetries, "augment.distort": "affine" in parts}
    if "pad_with_symmetries" in config["objective"]:  # with turned copies of characters
        fields["objective.pad_with_symmetries"] = "symmetries" in parts
    size = config["augment"]["elastic_size"] or 0.02
    return {**fields, "augment.elastic_size": size if "elastic" in parts else 0.0}


def _distortions(config: Mapping, label: str) -> dict[str, Any]:
    return {"augment.distort": label == "on"}


def _encoder(config: Mapping, label: str) -> dict[str, Any]:
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
        fields = {"model.encoder": "koch", "model.encoder_args": args}
        if old["comparator"] == "local":  # it has one vector, and no map
            args["units"] = 512
            fields |= {"model.comparator": "cosine", "model.head_args": {"scale": 10.0}}
        return fields
    if old["encoder"] == "residual":
        args = dict(old["encoder_args"])
    else:
        args = {"widths": [32, 64, 64, 128], "blocks": 1, "stem": 32, "stem_stride": 2}
        args["units"] = 512
    factor = {"residual-half": 0.5, "residual": 1, "residual-double": 2}[label]
    args["widths"] = [max(1, round(factor * width)) for width in args["widths"]]
    return {"model.encoder": "residual", "model.encoder_args": args}


def _comparator(config: Mapping, label: str) -> dict[str, Any]:
    old = config["model"]
    if label == old["comparator"]:
        return {}
    units = old["encoder_args"].get("units", 512)
    bounded = old["encoder_args"].get("output", "unit") == "unit"  # squared distances of at most 4
    args = {
        "cosine": {"scale": 10.0},
        "bilinear": {"scale": 10.0 if bounded else 10.0 / units},
        "euclidean": {"scale": 5.0 if bounded else 5.0 / units**0.5},
        "squared_euclidean": {"scale": 5.0 if bounded else 5.0 / units},
    }
    return {"model.comparator": label, "model.head_args": args.get(label, {})}


def _regularisation(config: Mapping, label: str) -> dict[str, Any]:
    parts, old = label.split("+"), config["optim"]
    fields = {}
    if config["model"]["encoder"] == "residual":
        rate = config["model"]["encoder_args"].get("dropout") or 0.3
        fields["model.encoder_args.dropout"] = rate if "dropout" in parts else 0.0
    elif "dropout" in parts:
        raise ValueError(f"encoder {config['model']['encoder']!r} has no dropout")
    if old["name"] in _WEIGHT_DECAY:
        fields["optim.weight_decay"] = (old["weight_decay"] or 0.05) if "l2" in parts else 0.0
    else:  # the L2 weight is the last of a rule, of either kind
        fields["optim.rules"] = [
            [*rule[:-1], (rule[-1] or 1e-4) if "l2" in parts else 0.0] for rule in old["rules"]
        ]
    return fields


def _optimiser(config: Mapping, label: str) -> dict[str, Any]:
    if config["optim"]["name"] not in _WEIGHT_DECAY:
        raise ValueError(f"it goes with a config of {' or '.join(_WEIGHT_DECAY)}")
    return {"optim.name": label}


def _initialisation(config: Mapping, label: str) -> dict[str, Any]:
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


def _learning_rate(config: Mapping, label: str) -> dict[str, Any]:
    if config["optim"]["name"] != "layerwise":
        return {"optim.learning_rate": float(label)}
    rules = config["optim"]["rules"]
    return {"optim.rules": [[rule[0], float(label), *rule[2:]] for rule in rules]}


def _shots(config: Mapping, label: str) -> dict[str, Any]:
    return {"evaluation.k_shot": int(label)}


def _shot_aggregation(config: Mapping, label: str) -> dict[str, Any]:
    return {"evaluation.shot_aggregation": label}


# In the order in which they are applied, whatever the order of asking.
AXES: Mapping[str, Axis] = {
    "resolution": Axis(("28", "35", "56"), _resolution, int),
    "objective": Axis(
        (*objectives.OBJECTIVES, "classifier+finetune", "matching+context"), _objective
    ),
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
    "learning_rate": Axis(("0.001", "0.01", "0.1"), _learning_rate, float),
    "regularisation": Axis(("none", "dropout", "l2", "dropout+l2"), _regularisation),
    "shots": Axis(("1", "2", "5"), _shots, int),
    "shot_aggregation": Axis(("mean", "max", "sum", "prototype", "finetune"), _shot_aggregation),
}


def axis_of(name: str) -> Axis:
    """The axis of a name: one of `AXES`, else the config's field of that name."""
    return AXES[name] if name in AXES else _field_axis(name)


def _field_axis(field: str) -> Axis:
    """The axis of a field of the config, such as `optim.learning_rate` or `optim.rules.0.momentum`."""

    def fields(config: Mapping, label: str) -> dict[str, Any]:
        return {field: _read_value(field, get_field(config, field), label)}

    return Axis((), fields)


def _read_value(field: str, present: Any, label: str) -> Any:
    """The value that a label stands for, of the type that the field has at present."""
    if isinstance(present, str):
        return label
    try:
        value = json.loads(label)
    except json.JSONDecodeError:
        value = label
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    if present is not None and type(value) is not type(present):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ValueError(
            f"{field} is {wanted.get(type(present), 'a list such as ' + json.dumps(present))}, "
            f"got {label!r}"
        )
    return value
