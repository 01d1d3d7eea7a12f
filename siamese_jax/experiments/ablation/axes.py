"""What an ablation varies: named axes, each a list of changes to a config, and any field of it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from siamese_jax.data import loading
from siamese_jax.evaluation import trials
from siamese_jax.experiments.fields import get_field, with_fields
from siamese_jax.models.comparators import COMPARATORS
from siamese_jax.runs import workdir
from siamese_jax.training import objectives
from siamese_jax.training.experiment import Experiment

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
    wanted = objectives.OBJECTIVES[name]
    sizes = {
        "batch": images // 2 if "negatives" in wanted.settings else images,  # pairs or images
        "negatives": old.get("negatives", "any"),
        "episodes": max(1, images // (2 * n_way)),
        "n_way": n_way,
        "pad_with_symmetries": old.get("pad_with_symmetries", old["symmetries"] != "none"),
        **wanted.defaults,
    }
    taken = {key: sizes[key] for key in dict.fromkeys((*wanted.settings, *wanted.defaults))}
    changes = {"objective": {"name": name, "symmetries": old["symmetries"], **taken}}
    koch, output = model["encoder"] == "koch", "unit"
    if wanted.comparator == "cosine":
        head = {"comparator": "cosine", "head_args": {"scale": 10.0}}
        if koch:
            head = {"comparator": model["comparator"], "head_args": model["head_args"]}
    elif wanted.comparator == "euclidean":
        head = {"comparator": "euclidean", "head_args": {"scale": 1.0, "bias": _UNIT_MARGIN / 2}}
    else:
        head = {"comparator": wanted.comparator, "head_args": {"scale": _PROTOTYPE_SCALE}}
        output = "linear"
    changes |= {f"model.{key}": value for key, value in head.items()}
    if not koch:
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


def _learning_rate(config, label):
    if config["optim"]["name"] != "layerwise":
        return {"optim.learning_rate": float(label)}
    rules = config["optim"]["rules"]
    return {"optim.rules": [[rule[0], float(label), *rule[2:]] for rule in rules]}


def _shots(config, label):
    return {"evaluation.k_shot": int(label)}


def _shot_aggregation(config, label):
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
    "learning_rate": Axis(("0.001", "0.01", "0.1"), _learning_rate, float),
    "regularisation": Axis(("none", "dropout", "l2", "dropout+l2"), _regularisation),
    "shots": Axis(("1", "2", "5"), _shots, int),
    "shot_aggregation": Axis(("mean", "max", "sum", "prototype", "finetune"), _shot_aggregation),
}
_EVALUATED = ("shots", "shot_aggregation")  # axes of the evaluation alone


def axis_of(name: str) -> Axis:
    """The axis of a name: one of `AXES`, else the config's field of that name."""
    return AXES[name] if name in AXES else _field_axis(name)


def _field_axis(field: str) -> Axis:
    """The axis of a field of the config, such as `optim.learning_rate` or `optim.rules.0.momentum`."""

    def fields(config, label):
        return {field: _read_value(field, get_field(config, field), label)}

    return Axis((), fields)


def _read_value(field: str, present, label: str):
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


def _check_axis(name: str, config: Mapping) -> None:
    """Raises ValueError for what is neither an axis nor a field that can be varied."""
    if name in AXES or name == "seeds":
        return
    if name == "seed":
        raise ValueError("axis 'seed' is called 'seeds': write seeds:0|1|2")
    if name.startswith("data."):
        raise ValueError(
            f"axis {name!r}: all variants of an ablation meet the same data; of the data only the "
            "image size varies, by the axis resolution"
        )
    plain = {key: value for key, value in config.items() if key != "search_space"}
    try:
        value = get_field(plain, name)
    except ValueError:
        trials.check_names("axis", [name], [*AXES, "seeds", *workdir.flatten(plain)])
        raise
    if isinstance(value, dict):
        inside = ", ".join(f"{name}.{key}" for key in value)
        raise ValueError(f"axis {name!r} is a section of the config: vary one of {inside}")


def parse_over(
    over: Iterable[str], seeds: int | None, config
) -> tuple[dict[str, list[str]], list[int]]:
    """Reads what is to be varied.

    Args:
        over: `axis` for all labels of an axis, `axis:label1|label2` for some; `seeds` stands for
            three seeds. An axis is one of `AXES` or a field of the config by its dotted name.
        seeds: number of seeds, counted from 0; None: three or one, as `over` says.
        config: the base config.

    Returns:
        Labels by axis, in the order of `AXES` and then the fields in the order of `over`; and the
        seeds.

    Raises:
        ValueError: an unknown axis or label, an axis named twice, or seeds said twice.
    """
    labels_of, seed_list = {}, [0] if seeds is None else list(range(seeds))
    if seeds is not None and seeds < 1:
        raise ValueError(f"at least one seed is needed, got {seeds}")
    for entry in over:
        name, _, listed = entry.partition(":")
        _check_axis(name, workdir.plain(config))
        if name in labels_of:
            raise ValueError(f"axis {name!r} is named twice: write {name}:label1|label2")
        labels_of[name] = labels = [label for label in listed.split("|") if label]
        if len(set(labels)) < len(labels):
            raise ValueError(f"{entry!r} names a label twice")
        if name == "seeds":
            _check_numbers(name, int, labels)
        elif name not in AXES:
            if not labels:
                raise ValueError(
                    f"axis {name!r} is a field of the config: write {name}:value1|value2"
                )
        elif AXES[name].number:
            _check_numbers(name, AXES[name].number, labels)
        else:
            trials.check_names(f"label of axis {name!r}", labels, AXES[name].labels)
        if name == "seeds" and labels and seeds is not None:
            raise ValueError(f"{entry!r} and --seeds={seeds} say two things: leave one out")
        if name == "seeds" and seeds is None:
            seed_list = [int(label) for label in labels] or [0, 1, 2]
    named = [name for name in AXES if name in labels_of]
    fields = [name for name in labels_of if name not in AXES and name != "seeds"]
    return {n: labels_of[n] or list(axis_of(n).labels) for n in [*named, *fields]}, seed_list


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
        chosen: labels by axis, in the order in which they are applied.

    Raises:
        ValueError: an axis does not fit the config.
    """
    base = {k: v for k, v in workdir.plain(config).items() if k != "search_space"}
    variants, trainings = [], {}
    for labels in itertools.product(*chosen.values()):
        settings = {"k_shot": 1, "shot_aggregation": None}
        variant = Variant(dict(zip(chosen, labels, strict=True)), "", base, settings)
        for name, label in variant.labels.items():
            try:
                fields = axis_of(name).fields(variant.config, label)
                for key in [key for key in fields if key.startswith("evaluation.")]:
                    settings[key.removeprefix("evaluation.")] = fields.pop(key)
                variant.config = with_fields(variant.config, fields)
            except (ValueError, KeyError) as error:
                text = f"it has no field {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"axis {name}:{label} does not fit this config: {text}") from None
        # One training serves all variants of one config, and is named after the first of them.
        trained = "".join(f"{n}={x}," for n, x in variant.labels.items() if n not in _EVALUATED)
        trained = trained.replace("/", "_")  # it becomes the name of a folder
        variant.trained = trainings.setdefault(json.dumps(variant.config, sort_keys=True), trained)
        variants.append(variant)
    return variants


def check_fits(variant: Variant, data: loading.Data) -> None:
    """Builds all parts of a variant's training without computing, and counts its images a step.

    Args:
        variant: its `images` are set.
        data: of the ablation, at the images' own size.

    Raises:
        ValueError: the parts do not go together.
    """
    experiment = Experiment.from_config(variant.config, data=data)
    jax.eval_shape(experiment.tx.init, experiment.parameter_shapes())
    variant.images = experiment.objective.images
