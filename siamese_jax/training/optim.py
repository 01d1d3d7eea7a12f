"""Optimisers: SGD with the layerwise settings of Koch et al. (2015), Adam, AdamW, Muon.

Each is one optax `GradientTransformation`, built by `build` from a config's `optim` section.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from siamese_jax.readers import check_choice
from siamese_jax.runs.checkpoints import by_path

SCHEDULES = ("cosine", "step", "constant")

# Settings that lie in the optimiser's state: changing them compiles nothing anew.
_DATA = ("rules", "learning_rate", "weight_decay")


class Rule(NamedTuple):
    """Settings of the parameters whose path matches a pattern.

    Attributes:
        pattern: regular expression that must match a whole path, e.g. `encoder/conv1/.*`.
        learning_rate: initial learning rate eta_j.
        momentum: final momentum mu_j.
        l2: weight lambda_j of `lambda_j |w|^2` in the objective.
    """

    pattern: str
    learning_rate: float
    momentum: float
    l2: float


class L2Rule(NamedTuple):
    """L2 weight of the parameters whose path matches a pattern.

    Attributes:
        pattern: regular expression that must match a whole path, e.g. `encoder/conv.*/kernel`.
        l2: weight of `l2 |w|^2` in the objective, 0 for none.
    """

    pattern: str
    l2: float


_Rule = TypeVar("_Rule", Rule, L2Rule)


class L2State(NamedTuple):
    """State of `coupled_l2`: the () float32 weight of every parameter, as data."""

    l2: Any


class LayerwiseState(NamedTuple):
    """State of `layerwise_sgd`; the settings are data, so changing them compiles nothing anew.

    Attributes:
        count: () int32 updates made.
        trace: last update of every parameter, dw(t - 1).
        learning_rate, momentum, l2: () float32 setting of every parameter.
    """

    count: jax.Array  # type: ignore[assignment]  # named as in optax, over a method of tuples
    trace: Any
    learning_rate: Any
    momentum: Any
    l2: Any


def path_names(params: Any) -> list[str]:
    """Paths of the leaves of a parameter tree, `encoder/conv1/kernel`, in leaf order."""
    return list(by_path(params))


def match_rules(rules: Sequence[Rule] | Sequence[L2Rule], params: Any) -> Any:
    """Finds the one rule of each parameter.

    Args:
        rules: in any order.
        params: parameter tree.

    Returns:
        A tree of the structure of `params` with a rule at each leaf.

    Raises:
        ValueError: a parameter that no rule or more than one rule matches, or a rule without any.
    """
    chosen, used = [], set()
    for name in path_names(params):
        hits = [rule for rule in rules if re.fullmatch(rule.pattern, name)]
        if len(hits) != 1:
            matched = "no rule matches" if not hits else f"{len(hits)} rules match"
            raise ValueError(
                f"{matched} parameter {name!r}: exactly one of "
                f"{[rule.pattern for rule in (hits or rules)]} must"
            )
        chosen.append(hits[0])
        used.add(hits[0].pattern)
    idle = [rule.pattern for rule in rules if rule.pattern not in used]
    if idle:
        raise ValueError(f"rule {idle[0]!r} matches none of the parameters {path_names(params)}")
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def rate_schedule(
    learning_rate: float | jax.Array, decay: float, steps_per_epoch: int
) -> optax.Schedule:
    """`learning_rate * decay ** epoch`, the epoch counted in whole steps_per_epoch steps."""
    return lambda count: learning_rate * decay ** (count // steps_per_epoch)


def momentum_schedule(
    start: float, final: float | jax.Array, ramp_epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Linear from `start` to `final` over `ramp_epochs` epochs, constant within an epoch; 0: no ramp."""

    def schedule(count: jax.Array) -> jax.Array:
        epoch = count // steps_per_epoch
        share = jnp.minimum(epoch / ramp_epochs, 1.0) if ramp_epochs else jnp.ones(())
        return start + (final - start) * share

    return schedule


def layerwise_sgd(
    rules: Sequence[Rule],
    *,
    steps_per_epoch: int,
    decay: float = 0.99,
    momentum_start: float = 0.5,
    momentum_epochs: int = 10,
) -> optax.GradientTransformation:
    """SGD with a learning rate, a momentum and an L2 weight for each layer.

    `dw(t) = -eta_j(t) (grad + 2 lambda_j w) + mu_j(t) dw(t - 1)`: the L2 term is part of the
    gradient, and the rate stands inside the momentum, which differs from `optax.sgd` as soon as the
    rate changes.

    Args:
        rules: one for each parameter, see `match_rules`.
        steps_per_epoch: steps between two changes of rate and momentum.
        decay: factor of the rate an epoch.
        momentum_start: momentum of every layer in the first epoch.
        momentum_epochs: epochs until mu_j is reached.

    Returns:
        A transformation whose `init` raises ValueError where the rules do not fit the parameters.

    References:
        Koch et al. (2015), section 3.2. The printed update lacks the minus sign of the gradient; the
        length of the momentum's ramp is not given there.
    """

    def init(params: Any) -> LayerwiseState:
        matched = match_rules(rules, params)
        return LayerwiseState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(jnp.zeros_like, params),
            _setting(matched, "learning_rate"),
            _setting(matched, "momentum"),
            _setting(matched, "l2"),
        )

    def update(grads: Any, state: LayerwiseState, params: Any) -> tuple[Any, LayerwiseState]:
        def one(
            grad: jax.Array,
            w: jax.Array,
            trace: jax.Array,
            learning_rate: jax.Array,
            momentum: jax.Array,
            l2: jax.Array,
        ) -> jax.Array:
            learning_rate = rate_schedule(learning_rate, decay, steps_per_epoch)(state.count)
            momentum = momentum_schedule(
                momentum_start, momentum, momentum_epochs, steps_per_epoch
            )(state.count)
            new = -learning_rate * (grad + 2 * l2 * w) + momentum * trace
            return new.astype(trace.dtype)

        trace = jax.tree.map(
            one, grads, params, state.trace, state.learning_rate, state.momentum, state.l2
        )
        return trace, state._replace(count=state.count + 1, trace=trace)

    return optax.GradientTransformation(init, update)


def layer_settings(
    fields: Mapping, params: Any, step: int
) -> dict[str, tuple[float, float, float]]:
    """The learning rate, momentum and L2 weight in force at a step, by parameter path, for the log."""
    rules = jax.tree.leaves(
        match_rules(_rules(fields, Rule), params), is_leaf=lambda x: isinstance(x, Rule)
    )
    start, ramp, every = (
        fields[name] for name in ("momentum_start", "momentum_epochs", "steps_per_epoch")
    )
    settings = {}
    for name, rule in zip(path_names(params), rules, strict=True):
        rate = rate_schedule(rule.learning_rate, fields["decay"], every)(step)
        momentum = momentum_schedule(start, rule.momentum, ramp, every)(step)
        settings[name] = (float(rate), float(momentum), rule.l2)
    return settings


def _setting(matched: Any, field: str) -> Any:
    """The tree of one field of the rules that `match_rules` returned, () float32 at each leaf."""
    return jax.tree.map(
        lambda rule: jnp.asarray(getattr(rule, field), jnp.float32),
        matched,
        is_leaf=lambda x: isinstance(x, Rule | L2Rule),
    )


def coupled_l2(rules: Sequence[L2Rule]) -> optax.GradientTransformation:
    """Adds the gradient `2 l2 w` of `l2 |w|^2` to that of the loss, before an optimiser sees it.

    This is what a `kernel_regularizer` of Keras does. With Adam it is another thing than the
    decoupled decay of AdamW: the penalty's gradient is scaled by the root of the second moment too.

    Args:
        rules: one for each parameter, see `match_rules`.

    Returns:
        A transformation whose `init` raises ValueError where the rules do not fit the parameters.
    """

    def init(params: Any) -> L2State:
        return L2State(_setting(match_rules(rules, params), "l2"))

    def update(grads: Any, state: L2State, params: Any) -> tuple[Any, L2State]:
        def one(grad: jax.Array, w: jax.Array, l2: jax.Array) -> jax.Array:
            return (grad + 2 * l2 * w).astype(grad.dtype)

        return jax.tree.map(one, grads, params, state.l2), state

    return optax.GradientTransformation(init, update)


def schedule(fields: Mapping, num_steps: int) -> optax.Schedule:
    """The factor of the learning rate at every step, after a linear warm-up of `warmup_steps`.

    | schedule | after the warm-up |
    |---|---|
    | `cosine` (if none is named) | a half cosine down to 0 at `num_steps` |
    | `step` | times `decay` (0.1) every `steps_per_epoch` steps (a third of all), from step 0 on |
    | `constant` | 1 |

    Args:
        fields: of a config's `optim` section: `warmup_steps`, `schedule`, `decay`, `steps_per_epoch`.
        num_steps: length of the training in steps.

    Raises:
        ValueError: a warm-up as long as the training.
    """
    warmup, name = fields["warmup_steps"], fields.get("schedule") or "cosine"
    if not 0 <= warmup < num_steps:
        raise ValueError(f"optim.warmup_steps = {warmup} must be less than num_steps = {num_steps}")
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, num_steps, 0.0)
    every = fields.get("steps_per_epoch") or max(1, -(-num_steps // 3))
    decay = fields.get("decay", 0.1) if name == "step" else 1.0
    after = rate_schedule(1.0, decay, every)
    if not warmup:
        return after
    return lambda count: jnp.minimum(count / warmup, 1.0) * after(count)


def muon_axes(params: Any) -> Any:
    """Which kernels Muon updates, and which of their axes are inputs and outputs.

    Args:
        params: parameter tree.

    Returns:
        A tree of the structure of `params` with `optax.contrib.MuonDimensionNumbers` at each leaf of two
        axes or more, whose last is the outputs and whose others (of a convolution three) are the
        inputs; None at the others.
    """

    def one(w: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if w.ndim < 2:
            return None
        return contrib.MuonDimensionNumbers(tuple(range(w.ndim - 1)), (w.ndim - 1,))

    return jax.tree.map(one, params)


class Definition(NamedTuple):
    """One entry of `OPTIMISERS`.

    Attributes:
        build: (settings, length of the training in steps) -> transformation.
        settings: names of the settings that a config must state.
    """

    build: Callable[[Mapping, int], optax.GradientTransformation]
    settings: tuple[str, ...]


def build(fields: Mapping, num_steps: int) -> optax.GradientTransformation:
    """The optimiser that a config's `optim` section describes.

    | name | settings |
    |---|---|
    | `layerwise` | `rules` of (pattern, learning_rate, momentum, l2), and those of `layerwise_sgd` |
    | `adam` | `rules` of (pattern, l2), see `coupled_l2`; `learning_rate`, constant |
    | `adamw` | `learning_rate`, `warmup_steps`, `weight_decay` (of parameters of two axes or more) |
    | `muon` | as `adamw` |

    `adamw` and `muon` take a `schedule`, see `schedule`. All take `clip_norm`: a gradient whose global
    norm is larger is scaled down to it; 0 clips nothing. `layer_decay`, with any but `layerwise`, is of
    `fine_tuning.by_stage`; `accumulate` and `ema` are the training step's, see `step.Updating`.

    Args:
        fields: `name` (one of `OPTIMISERS`) and the settings of that optimiser.
        num_steps: length of the training in steps.

    Raises:
        ValueError: an unknown name, a setting that is missing, or a rule of another length.
    """
    name = fields["name"]
    check_choice("optim.name", name, OPTIMISERS)
    missing = sorted(set(OPTIMISERS[name].settings) - set(fields))
    if missing:
        raise ValueError(f"optim.name = {name!r} needs the fields {missing}")
    _check_options(fields)
    tx = OPTIMISERS[name].build(fields, num_steps)
    clip_norm = fields.get("clip_norm", 0.0)
    return optax.chain(optax.clip_by_global_norm(clip_norm), tx) if clip_norm else tx


def _check_options(fields: Mapping) -> None:
    """Checks the settings that several optimisers have in common.

    Raises:
        ValueError: a value that cannot be, or a schedule that the optimiser does not take.
    """
    if fields.get("clip_norm", 0.0) < 0:
        raise ValueError(f"optim.clip_norm must be 0 (none) or more, got {fields['clip_norm']}")
    if not 0 <= fields.get("ema", 0.0) < 1:
        raise ValueError(f"optim.ema must be 0 (none) or a decay below 1, got {fields['ema']}")
    if fields.get("accumulate", 1) < 1:
        raise ValueError(f"optim.accumulate must be at least 1, got {fields['accumulate']}")
    name, schedule = fields["name"], fields.get("schedule")
    if name == "layerwise" and fields.get("layer_decay", 1.0) != 1:
        raise ValueError(
            "optim.layer_decay: the rules of 'layerwise' say it by layer; leave it out"
        )
    if schedule is not None:
        check_choice("optim.schedule", schedule, SCHEDULES)
    if schedule is not None and name not in ("adamw", "muon"):
        raise ValueError(
            f"optim.schedule goes with 'adamw' and 'muon'; {name!r} has its own: leave it out"
        )


def _layerwise(fields: Mapping, num_steps: int) -> optax.GradientTransformation:
    return layerwise_sgd(
        _rules(fields, Rule),
        steps_per_epoch=fields["steps_per_epoch"],
        decay=fields["decay"],
        momentum_start=fields["momentum_start"],
        momentum_epochs=fields["momentum_epochs"],
    )


def _adam(fields: Mapping, num_steps: int) -> optax.GradientTransformation:
    @optax.inject_hyperparams  # the learning rate is data in the state, like the rules' weights
    def adam(learning_rate: jax.Array) -> optax.GradientTransformation:
        return optax.adam(learning_rate)

    return optax.chain(
        coupled_l2(_rules(fields, L2Rule)), adam(learning_rate=float(fields["learning_rate"]))
    )


def _adamw(fields: Mapping, num_steps: int) -> optax.GradientTransformation:
    shape = schedule(fields, num_steps)

    @optax.inject_hyperparams  # the two settings are data in the state
    def adamw(learning_rate: jax.Array, weight_decay: jax.Array) -> optax.GradientTransformation:
        return optax.adamw(
            lambda count: learning_rate * shape(count),
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
        )

    return adamw(
        learning_rate=float(fields["learning_rate"]), weight_decay=float(fields["weight_decay"])
    )


def _muon(fields: Mapping, num_steps: int) -> optax.GradientTransformation:
    """Parameters of two axes or more move along the orthogonalised momentum, the others by NAdam.

    A step is as long as one of AdamW: 0.2 of the root of the larger side.

    References:
        Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks. Liu et al. (2025),
        Muon is scalable for LLM training (the length of a step).
    """
    shape = schedule(fields, num_steps)

    @optax.inject_hyperparams
    def muon(learning_rate: jax.Array, weight_decay: jax.Array) -> optax.GradientTransformation:
        return contrib.muon(
            lambda count: learning_rate * shape(count),
            weight_decay=weight_decay,
            muon_weight_dimension_numbers=muon_axes,
            consistent_rms=0.2,
        )

    return muon(
        learning_rate=float(fields["learning_rate"]), weight_decay=float(fields["weight_decay"])
    )


_COSINE_SETTINGS = ("learning_rate", "warmup_steps", "weight_decay")

# Every optimiser by its name. A new one is a function like those above and an entry here.
OPTIMISERS: Mapping[str, Definition] = {
    "layerwise": Definition(
        _layerwise, ("rules", "steps_per_epoch", "decay", "momentum_start", "momentum_epochs")
    ),
    "adam": Definition(_adam, ("rules", "learning_rate")),
    "adamw": Definition(_adamw, _COSINE_SETTINGS),
    "muon": Definition(_muon, _COSINE_SETTINGS),
}


def compiled_settings(fields: Mapping) -> dict:
    """The settings of an `optim` section that are compiled into a step; the others are data."""
    return {name: value for name, value in fields.items() if name not in _DATA}


def _rules(fields: Mapping, rule_type: type[_Rule]) -> list[_Rule]:
    for rule in fields["rules"]:
        if len(rule) != len(rule_type._fields):
            raise ValueError(
                f"optim.rules of {fields['name']!r} are ({', '.join(rule_type._fields)}), "
                f"got {tuple(rule)}"
            )
        pattern, *numbers = rule
        in_range = all(
            isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < math.inf
            for x in numbers
        )
        if not isinstance(pattern, str) or not in_range:
            raise ValueError(
                f"a rule of optim.rules is a pattern and finite numbers of at least 0, got {tuple(rule)}"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"optim.rules: {pattern!r} is no pattern ({error})") from None
    return [rule_type(*rule) for rule in fields["rules"]]
