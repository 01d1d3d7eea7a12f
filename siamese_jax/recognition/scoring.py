"""Embeddings of pictures, and their scores with the references of a gallery."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from siamese_jax.inference.comparing import Comparing
from siamese_jax.models.distances import unit
from siamese_jax.recognition.pictures import Picture

MAX_CELLS = 1 << 27  # numbers that a comparison may hold at once


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """Embeddings to compare with. What does not depend on the query is computed once and kept.

    Attributes:
        embeddings: (R, D) float32.
    """

    embeddings: np.ndarray

    @functools.cached_property
    def on_device(self) -> jax.Array:
        """(R, D) the embeddings."""
        return jax.device_put(self.embeddings)

    @functools.cached_property
    def units(self) -> jax.Array:
        """(R, D) the embeddings scaled to length 1."""
        return jax.jit(unit)(self.embeddings)


def embed(net: Comparing, pictures: Sequence[Picture]) -> np.ndarray:
    """Embeddings of pictures, (B, D) float32.

    Raises:
        ValueError: one is not finite.
    """
    h = net.embed(np.stack([picture.image for picture in pictures]))
    if not np.isfinite(h).all():
        raise ValueError(
            f"{net.name} gives embeddings that are not finite: take another checkpoint"
        )
    return h


def score(net: Comparing, queries: np.ndarray, references: References) -> np.ndarray:
    """Scores of all queries with all references.

    All references are compared in each call of a compiled step, for as many queries as memory allows.

    Args:
        net: the network.
        queries: (Q, D) embeddings.
        references: of size R.

    Returns:
        (Q, R) float64.

    Raises:
        ValueError: one is not finite.
    """
    compare, numbers = _compare, references.embeddings.size
    if net.cosine is not None:  # one product, which holds nothing but the scores
        compare, numbers = _compare_units, len(references.embeddings)
    block = max(1, MAX_CELLS // numbers)
    parts = [
        compare(net, queries[begin : begin + block], references)
        for begin in range(0, len(queries), block)
    ]
    scores = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"{net.name} gives scores that are not finite: take another checkpoint")
    return scores


def _compare(net: Comparing, queries: np.ndarray, references: References) -> np.ndarray:
    return net.score_matrix(queries, references.on_device)


def _compare_units(net: Comparing, queries: np.ndarray, references: References) -> np.ndarray:
    """The cosine comparator without scaling the references to length 1 again."""
    assert net.cosine is not None
    return np.asarray(cosine_logits(*net.cosine, queries, references.units))


@jax.jit
def cosine_logits(
    scale: jax.Array, bias: jax.Array, queries: jax.Array, units: jax.Array
) -> jax.Array:
    """The cosine comparator where the references have length 1: (Q, D), (R, D) -> (Q, R)."""
    return scale * jnp.einsum("qd,sd->qs", unit(queries), units) + bias
