"""Full-context embeddings against NumPy in float64."""

import jax
import numpy as np

from siamese_jax.models.context import FullContext


def lstm(x, state, memory, cell):
    """One step of a long short-term memory, in float64."""

    def gate(name):
        return (
            x @ cell[f"i{name}"]["kernel"]
            + state @ cell[f"h{name}"]["kernel"]
            + cell[f"h{name}"]["bias"]
        )

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    memory = sigmoid(gate("f")) * memory + sigmoid(gate("i")) * np.tanh(gate("g"))
    return sigmoid(gate("o")) * np.tanh(memory), memory


def test_full_context_against_numpy():
    context = FullContext(steps=3)
    rng = np.random.default_rng(0)
    queries, supports = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 5, 3))
    args = queries.astype(np.float32), supports.astype(np.float32)
    shapes = jax.eval_shape(context.init, jax.random.key(0), *args)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    new_queries, new_supports = jax.jit(context.apply)(variables, *args)
    cells = jax.tree.map(np.float64, variables["params"])
    for b in range(2):
        read = np.zeros((5, 3))
        for name, order in (("forward_cell", range(5)), ("backward_cell", range(4, -1, -1))):
            state, memory = np.zeros(3), np.zeros(3)
            for s in order:
                state, memory = lstm(supports[b, s], state, memory, cells[name])
                read[s] += state
        g = supports[b] + read
        np.testing.assert_allclose(new_supports[b], g, rtol=1e-4, atol=1e-5)
        f, memory = queries[b], np.zeros((4, 3))
        for _ in range(3):
            weights = np.exp(f @ g.T)
            weights /= weights.sum(1, keepdims=True)
            x = np.concatenate([queries[b], weights @ g], 1)
            state, memory = lstm(x, f, memory, cells["queries"])
            f = state + queries[b]
        np.testing.assert_allclose(new_queries[b], f, rtol=1e-4, atol=1e-5)
