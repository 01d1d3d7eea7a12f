"""Full-context embeddings of matching networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


class FullContext(nn.Module):
    """Full-context embeddings: every image is embedded in the light of the whole support set.

    A bidirectional LSTM reads the supports in their order, and its two states are added to each. The
    query's embedding is then refined by an LSTM that attends to the supports several times.

    Attributes:
        steps: how often the query attends.

    References:
        Vinyals et al. (2016), Matching networks for one shot learning, section 2.1.2 and appendix A.
    """

    steps: int = 5

    @nn.compact
    def __call__(
        self, queries: Float[ArrayLike, "*b q d"], supports: Float[ArrayLike, "*b s d"]
    ) -> tuple[Float[Array, "*b q d"], Float[Array, "*b s d"]]:
        """Embeddings of the queries and of the supports in the light of the supports."""
        queries, supports = jnp.asarray(queries), jnp.asarray(supports)
        size = queries.shape[-1]
        lead = queries.shape[:-2]
        queries = queries.reshape(-1, *queries.shape[-2:])
        supports = supports.reshape(-1, *supports.shape[-2:])
        both_ways = nn.Bidirectional(
            nn.RNN(nn.OptimizedLSTMCell(size, name="forward_cell")),
            nn.RNN(nn.OptimizedLSTMCell(size, name="backward_cell")),
            merge_fn=lambda ahead, back: ahead + back,
            name="supports",
        )
        in_context: Any = both_ways(supports)
        supports = jnp.asarray(supports + in_context)
        cell = nn.OptimizedLSTMCell(size, name="queries")
        carry = (jnp.zeros_like(queries), queries)
        refined = queries
        for _ in range(self.steps):
            weights = jax.nn.softmax(jnp.einsum("bqd,bsd->bqs", refined, supports))
            read = jnp.einsum("bqs,bsd->bqd", weights, supports)
            (memory, state), _ = cell(carry, jnp.concatenate([queries, read], -1))
            refined = state + queries
            carry = (memory, refined)
        return (
            refined.reshape(*lead, *refined.shape[-2:]),
            supports.reshape(*lead, *supports.shape[-2:]),
        )
