"""What a training step asks: which images meet, and the loss of their embeddings.

An objective is two pure functions. `sample(key, index)` draws a whole global batch; the leading axis
of its every array counts units (pairs, episodes), and that axis is what devices share out for the
encoder. `loss(compare, h, batch)` then sees all embeddings of the batch, wherever they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from siamese_jax import losses, sampling

OBJECTIVES = ("verification", "episode")
CONTRASTS = ("episode", "batch")
_SETTINGS = {
    "verification": ("turns", "batch", "negatives"),
    "episode": ("turns", "episodes", "n_way", "fill", "contrast"),
}


class Objective(NamedTuple):
    """See the module's text.

    Attributes:
        sample: (key, SetIndex) -> batch with `rows` and `turns` of shape (units, ...).
        loss: (Compare, h, batch) -> loss, a scalar in nats, and metrics, scalars by the names of
            `metrics`. `h` has the shape of `rows` and a last axis D.
        units: how many units (pairs, episodes) a batch holds.
        images: how many images go through the encoder a step.
        metrics: names of the metrics.
    """

    sample: Callable
    loss: Callable
    units: int
    images: int
    metrics: tuple[str, ...]


class Compare(NamedTuple):
    """The comparator with its parameters bound.

    Attributes:
        pairs: (..., D), (..., D) -> (...) logits.
        all_pairs: (..., Q, D), (..., S, D) -> (..., Q, S) logits.
    """

    pairs: Callable
    all_pairs: Callable


def build(fields: Mapping, max_alphabet: int) -> Objective:
    """The objective that a config's `objective` section describes.

    Args:
        fields: `name` (one of `OBJECTIVES`), `turns` (see `sampling.TURNS`), and for `verification`
            `batch` (pairs) and `negatives`, for `episode` `episodes`, `n_way`, `fill` and `contrast`:
            whether a character meets those of its own `episode` or of the whole `batch`.
        max_alphabet: characters of the largest training alphabet.

    Raises:
        ValueError: an unknown name, a setting that is missing, or settings that do not go together.
    """
    name = fields["name"]
    missing = sorted(set(_SETTINGS.get(name, ())) - set(fields))
    if missing:
        raise ValueError(f"objective.name = {name!r} needs the fields {missing}")
    if name == "verification":
        return _verification(fields)
    if name == "episode":
        return _episode(fields, max_alphabet)
    raise ValueError(f"objective.name must be one of {OBJECTIVES}, got {name!r}")


def _verification(fields) -> Objective:
    batch = fields["batch"]

    def sample(key, index):
        return sampling.sample_pairs(
            key, index, batch, negatives=fields["negatives"], turns=fields["turns"]
        )

    def loss(compare: Compare, h, pairs):
        logits = compare.pairs(h[:, 0], h[:, 1])
        correct = (logits > 0) == (pairs.labels > 0.5)
        return losses.verification(logits, pairs.labels).mean(), {"accuracy": correct.mean()}

    return Objective(sample, loss, batch, 2 * batch, ("accuracy",))


def _episode(fields, max_alphabet) -> Objective:
    episodes, n_way, contrast = fields["episodes"], fields["n_way"], fields["contrast"]
    if n_way < 2:
        raise ValueError(f"objective.n_way must be at least 2, got {n_way}")
    if contrast not in CONTRASTS:
        raise ValueError(f"objective.contrast must be one of {CONTRASTS}, got {contrast!r}")

    def sample(key, index):
        return sampling.sample_episodes(
            key,
            index,
            episodes,
            n_way,
            turns=fields["turns"],
            fill=fields["fill"],
            max_alphabet=max_alphabet,
        )

    def loss(compare: Compare, h, batch):
        side1, side2, mask, identities = h[:, 0], h[:, 1], batch.mask, batch.identities
        if contrast == "batch":
            side1, side2 = side1.reshape(1, -1, h.shape[-1]), side2.reshape(1, -1, h.shape[-1])
            mask, identities = mask.reshape(1, -1), identities.reshape(1, -1)
        logits = compare.all_pairs(side1, side2)
        # A character that stands in two episodes is not wrong, so it is no distractor of its own.
        twin = identities[..., :, None] == identities[..., None, :]
        allowed = mask[..., :, None] & mask[..., None, :]
        allowed &= ~twin | jnp.eye(mask.shape[-1], dtype=bool)[None]
        answer = jnp.where(allowed, logits, -jnp.inf).argmax(-1)
        correct = mask & (answer == jnp.arange(mask.shape[-1])[None, :])
        count = mask.sum()
        values = losses.episode(logits, allowed)
        return values.sum() / count, {"accuracy": correct.sum() / count}

    return Objective(sample, loss, episodes, 2 * episodes * n_way, ("accuracy",))
