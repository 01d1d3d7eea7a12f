"""The search space that a config states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.trial import Trial

from siamese_jax.experiments.fields import get_field

SCALES = {"float": (2, 2), "log": (2, 2), "int": (2, 3), "choice": (1, 1000)}  # number of values


class Dimension(NamedTuple):
    """One field that varies.

    Attributes:
        field: its dotted name.
        scale: one of `SCALES`.
        values: lowest and highest value (of `int` also the step), or the choices.
    """

    field: str
    scale: str
    values: tuple

    def allows(self, value: Any) -> bool:
        """Whether the value is one that could be proposed."""
        if self.scale == "choice":
            return value in self.values
        low, high, *step = self.values
        if self.scale == "int":
            return value in range(low, high + 1, *step)
        return isinstance(value, int | float) and low <= value <= high

    def suggest(self, trial: Trial) -> Any:
        """The value that a trial proposes."""
        if self.scale == "choice":
            return trial.suggest_categorical(self.field, self.values)
        low, high, *step = self.values
        if self.scale == "int":
            return trial.suggest_int(self.field, low, high, step=step[0] if step else 1)
        return trial.suggest_float(self.field, low, high, log=self.scale == "log")


def _unmet(dimension: Dimension) -> str:
    """What the values of a dimension need and lack, "" for nothing."""
    if dimension.scale == "choice":
        return ""
    whole = dimension.scale == "int"
    low, high, *step = dimension.values
    kinds = (int,) if whole else (int, float)
    typed = all(type(x) in kinds for x in dimension.values)
    if typed and low < high and (low > 0 or dimension.scale != "log") and min(step, default=1) >= 1:
        return ""
    if whole:
        return "whole numbers, low < high and a step above 0"
    return "numbers, 0 < low < high" if dimension.scale == "log" else "numbers, low < high"


def read_space(config: Mapping, only: Sequence[str] = ()) -> list[Dimension]:
    """The search space that a config states.

    Args:
        config: as a plain dict, with `search_space`.
        only: beginnings of the field names to keep; none of them: all.

    Raises:
        ValueError: no space, an entry that is not understood, a field that the config lacks or whose
            value lies outside, or a beginning that fits nothing.
    """
    entries = config.get("search_space")
    if not entries:
        raise ValueError(
            "this config states no search_space: see the top of "
            "siamese_jax/experiments/search/__init__.py"
        )
    space = []
    for entry in entries:
        fewest, most = SCALES.get(entry[1], (1, 0)) if len(entry) > 1 else (1, 0)
        if not fewest <= len(entry) - 2 <= most:
            raise ValueError(
                f"search_space: {entry} is not understood; examples: (field, 'log', 1e-4, 1e-1), "
                "(field, 'float', 0, 1), (field, 'int', 16, 256, 16), (field, 'choice', 'a', 'b')"
            )
        field, scale, *values = entry
        dimension = Dimension(field, scale, tuple(values))
        if needs := _unmet(dimension):
            raise ValueError(f"search_space: {entry} is not possible: {scale!r} needs {needs}")
        try:
            value = get_field(config, field)
        except ValueError as error:
            raise ValueError(f"search_space: {error}") from None
        if not dimension.allows(value):
            raise ValueError(f"search_space: {field} is {value!r}, which is outside of {entry[1:]}")
        space.append(dimension)
    for start in only:
        if not any(d.field.startswith(start) for d in space):
            raise ValueError(f"no field of the search_space begins with {start!r}")
    return [d for d in space if not only or d.field.startswith(tuple(only))]
