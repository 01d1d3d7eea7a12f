"""Cross-batch memory: embeddings of earlier steps, which the images of a batch meet as well.

The memory is part of the state of a run. Its embeddings are constants: they were made by slightly older
parameters, and no gradient goes through them.

References:
    Wang et al. (2020), Cross-batch memory for embedding learning.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

_EMPTY = -1  # identity of a place that holds nothing


class Memory(NamedTuple):
    """The last M embeddings, the latest first; absent characters of an episode take places as well.

    Attributes:
        h: (M, D) float32.
        rows: (M,) int32 row of each image in the set.
        identities: (M,) int32, see `sampling.Episodes`; -1 in a place that holds nothing.
    """

    h: jax.Array
    rows: jax.Array
    identities: jax.Array

    @property
    def present(self) -> jax.Array:
        """(M,) bool: which places hold an embedding."""
        return self.identities != _EMPTY


class Shown(Protocol):
    """What is read of a batch of episodes; see `sampling.Episodes`."""

    @property
    def rows(self) -> jax.Array:
        """(E, K, N) int32."""

    @property
    def identities(self) -> jax.Array:
        """(E, N) int32."""

    @property
    def mask(self) -> jax.Array:
        """(E, N) bool."""


def empty(size: int, dimensions: int) -> Memory:
    """A memory of `size` places for embeddings of `dimensions` numbers that holds nothing."""
    nothing = jnp.full((size,), _EMPTY, jnp.int32)
    return Memory(jnp.zeros((size, dimensions)), nothing, nothing)


def images_of(batch: Shown) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The images of episodes one by one: their rows, identities and presence, (E K N,) each."""
    identities, present = (
        jnp.broadcast_to(x[:, None], batch.rows.shape).reshape(-1)
        for x in (batch.identities, batch.mask)
    )
    return batch.rows.reshape(-1), identities, present


def push(memory: Memory, h: jax.Array, batch: Shown, begun: jax.Array) -> Memory:
    """The memory after a step: the images of the batch come in, the oldest go out.

    Args:
        memory: before.
        h: (E, K, N, D) embeddings of the batch.
        batch: with `rows`, `identities` and `mask`.
        begun: () bool, whether anything is remembered yet.
    """
    rows, identities, present = images_of(batch)
    size = memory.rows.shape[0]
    h = jax.lax.stop_gradient(h.reshape(-1, h.shape[-1])).astype(memory.h.dtype)
    identities = jnp.where(present & begun, identities, _EMPTY)
    new = Memory(h, rows.astype(jnp.int32), identities.astype(jnp.int32))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b])[:size], new, memory)
