"""What the objectives make of embeddings, against loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from siamese_jax import objectives
from siamese_jax.sampling import Episodes, Pairs

DOT = objectives.Compare(
    lambda h1, h2: (h1 * h2).sum(-1), lambda h1, h2: jnp.einsum("...qd,...sd->...qs", h1, h2)
)
VERIFICATION = {"name": "verification", "batch": 6, "negatives": "any", "turns": "none"}
EPISODE = {
    "name": "episode",
    "episodes": 3,
    "n_way": 4,
    "fill": False,
    "turns": "none",
    "contrast": "episode",
}


def test_verification_is_the_mean_over_pairs():
    objective = objectives.build(VERIFICATION, 5)
    assert (objective.units, objective.images, objective.metrics) == (6, 12, ("accuracy",))
    h = np.random.default_rng(0).normal(size=(6, 2, 3))
    labels = np.array([1, 1, 1, 0, 0, 0.0])
    p = 1 / (1 + np.exp(-(h[:, 0] * h[:, 1]).sum(-1)))
    expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    batch = Pairs(None, None, jnp.asarray(labels, jnp.float32))
    loss, metrics = objective.loss(DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean((p > 0.5) == labels), rtol=1e-6)


@pytest.mark.parametrize("contrast", objectives.CONTRASTS)
def test_episodes_against_a_loop(contrast):
    rng = np.random.default_rng(1)
    h = rng.normal(size=(3, 2, 4, 5)) * 1.5
    h[:, 1] += h[:, 0]  # so that some answers are right
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    # Characters 1 and 9 stand in two episodes each; where the mask is off the number means nothing.
    identities = np.array([[1, 2, 3, 9], [4, 1, 2, 2], [9, 5, 6, 1]])
    entries = [(e, n) for e in range(3) for n in range(4) if mask[e, n]]
    losses, right = [], []
    for e, n in entries:
        others = [
            (f, m)
            for f, m in entries
            if (contrast == "batch" or f == e) and identities[f, m] != identities[e, n]
        ]
        both = []
        for side in (0, 1):
            query, others_side = h[e, side, n], 1 - side
            own = query @ h[e, others_side, n]
            rest = np.array([query @ h[f, others_side, m] for f, m in others])
            both.append(np.log(np.exp(own) + np.exp(rest).sum()) - own)
            if side == 0:
                right.append(own > rest.max())
        losses.append(np.mean(both))
    batch = Episodes(None, None, jnp.asarray(identities), jnp.asarray(mask))
    objective = objectives.build({**EPISODE, "contrast": contrast}, 8)
    assert (objective.units, objective.images, objective.metrics) == (3, 24, ("accuracy",))
    loss, metrics = objective.loss(DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right), rtol=1e-6)
    assert 0.1 < np.mean(right) < 0.9


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"name": "pairs"}, r"objective.name must be one of .* got 'pairs'"),
        ({**VERIFICATION, "name": "episode"}, r"needs the fields \['contrast', 'episodes', 'fill'"),
        ({**EPISODE, "name": "verification"}, r"needs the fields \['batch', 'negatives'\]"),
        ({**EPISODE, "n_way": 1}, "objective.n_way must be at least 2, got 1"),
        ({**EPISODE, "contrast": "all"}, "objective.contrast must be one of .* got 'all'"),
    ],
)
def test_build_says_what_does_not_fit(fields, words):
    with pytest.raises(ValueError, match=words):
        objectives.build(fields, 8)
