"""The variants of an ablation: which axes and labels were asked for, and the configs they make."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from siamese_jax import readers
from siamese_jax.data import loading
from siamese_jax.experiments.ablation.axes import AXES, axis_of
from siamese_jax.experiments.fields import get_field, with_fields
from siamese_jax.runs import workdir
from siamese_jax.training.experiment import Experiment

_EVALUATED = ("shots", "shot_aggregation")  # axes of the evaluation alone


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
        readers.check_names("axis", [name], [*AXES, "seeds", *workdir.flatten(plain)])
        raise
    if isinstance(value, dict):
        inside = ", ".join(f"{name}.{key}" for key in value)
        raise ValueError(f"axis {name!r} is a section of the config: vary one of {inside}")


def parse_over(
    over: Iterable[str], seeds: int | None, config: ConfigDict | Mapping
) -> tuple[dict[str, list[str]], list[int]]:
    """Reads what is to be varied.

    Args:
        over: `axis` for all labels of an axis, `axis:label1|label2` for some; `seeds` stands for
            the seeds 0, 1 and 2. An axis is one of `AXES` or a field of the config by its dotted name.
        seeds: number of seeds, counted from 0, in place of the config's; None: as `over` says, or
            that of the config alone.
        config: the base config.

    Returns:
        Labels by axis, in the order of `AXES` and then the fields in the order of `over`; and the
        seeds.

    Raises:
        ValueError: an unknown axis or label, an axis named twice, or seeds said twice.
    """
    labels_of: dict[str, list[str]] = {}
    seed_list = [config["seed"]] if seeds is None else list(range(seeds))
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
            if labels and seeds is not None:
                raise ValueError(f"{entry!r} and --seeds={seeds} say two things: leave one out")
            if seeds is None:
                seed_list = [int(label) for label in labels] or [0, 1, 2]
        elif name not in AXES:
            if not labels:
                raise ValueError(
                    f"axis {name!r} is a field of the config: write {name}:value1|value2"
                )
        elif (number := AXES[name].number) is not None:
            _check_numbers(name, number, labels)
        else:
            readers.check_names(f"label of axis {name!r}", labels, AXES[name].labels)
    named = [name for name in AXES if name in labels_of]
    fields = [name for name in labels_of if name not in AXES and name != "seeds"]
    return {n: labels_of[n] or list(axis_of(n).labels) for n in [*named, *fields]}, seed_list


def _check_numbers(name: str, number: Callable[[str], float], labels: Iterable[str]) -> None:
    what = "whole numbers" if number is int else "positive numbers"
    for label in labels:
        good = label.isascii() and label.isdigit() and (name == "seeds" or int(label) > 0)
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
        """What the variant changes, as tables print it."""
        return ", ".join(self.labels.values()) or "as configured"

    def run(self, seed: int) -> str:
        """Name of the folder of a run."""
        return f"{self.trained}seed={seed}"


def make_variants(
    config: ConfigDict | Mapping, chosen: Mapping[str, Sequence[str]]
) -> list[Variant]:
    """The product of the axes, the last axis fastest.

    Args:
        config: the base config.
        chosen: labels by axis, in the order in which they are applied.

    Raises:
        ValueError: an axis does not fit the config.
    """
    base = {k: v for k, v in workdir.plain(config).items() if k != "search_space"}
    variants: list[Variant] = []
    trainings: dict[str, str] = {}
    for labels in itertools.product(*chosen.values()):
        settings: dict[str, Any] = {"k_shot": 1, "shot_aggregation": None}
        variant = Variant(dict(zip(chosen, labels, strict=True)), "", base, settings)
        axis_setting: dict[tuple[str, ...], str] = {}
        for name, label in variant.labels.items():
            try:
                fields = axis_of(name).fields(variant.config, label)
                other = axis_setting.setdefault(tuple(fields), name)
                if fields and other != name and not {name, other} <= AXES.keys():
                    raise ValueError(f"axis {other} sets {', '.join(fields)} too: leave one out")
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
    jax.eval_shape(experiment.objective.sample, jax.random.key(0), 0, experiment.index)
    variant.images = experiment.objective.images
