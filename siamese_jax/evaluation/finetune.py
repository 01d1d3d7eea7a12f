"""The classifier baseline of few-shot learning: a cosine layer fitted to the supports of each run.

Its weights are first imprinted: those of a class are the direction of the mean of its supports'
directions. Then they are fine-tuned on the same supports by cross-entropy, with plain gradient descent
over all of them. The encoder stays as it is, so a run needs no further encoder pass.

References:
    Chen, Liu, Kira, Wang, Huang (2019), A closer look at few-shot classification: "Baseline++".
    Qi, Brown, Lowe (2018), Low-shot learning with imprinted weights.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from siamese_jax.models.distances import unit

STEPS = 100  # of gradient descent, the number of iterations of Chen et al.
LEARNING_RATE = 0.01  # so small that the steps only refine the imprinted weights
SCALE = 10.0  # of the cosine, before the softmax


def imprint(supports: jax.Array) -> jax.Array:
    """Weights of the cosine layer before fine-tuning.

    Args:
        supports: (..., N, K, D) embeddings.

    Returns:
        (..., N, D) float32 of length 1; zeros for a class whose directions cancel.
    """
    return unit(unit(jnp.asarray(supports, jnp.float32)).mean(-2))


def cosine_logits(queries: jax.Array, weights: jax.Array, scale: float = SCALE) -> jax.Array:
    """(..., Q, D) embeddings and (..., N, D) weights -> (..., Q, N): scale x cosine."""
    queries, weights = (unit(jnp.asarray(x, jnp.float32)) for x in (queries, weights))
    return scale * jnp.einsum("...qd,...nd->...qn", queries, weights)


@functools.partial(jax.jit, static_argnames="steps")
def finetune(
    supports: jax.Array,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    scale: float = SCALE,
) -> jax.Array:
    """Fits the cosine layer of each run to that run's supports.

    Args:
        supports: (R, N, K, D) embeddings of R runs, each fitted by itself.
        steps: updates; 0 leaves the imprinted weights.
        learning_rate: of an update. The loss of a run is the sum over its classes of the mean over
            their K supports, so a class's weights move equally fast whatever N and K are.
        scale: of the cosine.

    Returns:
        (R, N, D) float32 weights, to be used by `cosine_logits` with the same scale.
    """

    def fit(supports: jax.Array) -> jax.Array:  # (N, K, D)
        def loss(weights: jax.Array) -> jax.Array:
            logits = cosine_logits(supports, weights, scale)  # (N, K, N)
            labels = jnp.arange(len(supports))[:, None, None]
            right = jnp.take_along_axis(jax.nn.log_softmax(logits), labels, -1)  # (N, K, 1)
            return -right.mean(1).sum()

        def update(_: jax.Array, weights: jax.Array) -> jax.Array:
            return weights - learning_rate * jax.grad(loss)(weights)

        return jax.lax.fori_loop(0, steps, update, imprint(supports))

    return jax.vmap(fit)(supports)
