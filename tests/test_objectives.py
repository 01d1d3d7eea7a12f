"""What the objectives make of embeddings, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamese_jax.models.comparators import Local
from siamese_jax.training import batch_objectives, fixed_pairs, objectives, sampling
from siamese_jax.training.sampling import Episodes, PairBatch, SetIndex

DOT = objectives.Compare(
    lambda h1, h2: (h1 * h2).sum(-1), lambda h1, h2: jnp.einsum("...qd,...sd->...qs", h1, h2)
)
VERIFICATION = {"name": "verification", "batch": 6, "negatives": "any", "symmetries": "none"}
EPISODE = {
    "name": "info_nce",
    "episodes": 3,
    "n_way": 4,
    "pad_with_symmetries": False,
    "symmetries": "none",
    "contrast": "episode",
}


def test_verification_is_the_mean_over_pairs():
    objective = objectives.build(VERIFICATION, 5)
    assert (objective.units, objective.images, objective.metrics) == (6, 12, ("accuracy",))
    h = np.random.default_rng(0).normal(size=(6, 2, 3))
    labels = np.array([1, 1, 1, 0, 0, 0.0])
    p = 1 / (1 + np.exp(-(h[:, 0] * h[:, 1]).sum(-1)))
    expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    batch = PairBatch(None, None, jnp.asarray(labels, jnp.float32))
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


CONTRASTIVE = {**VERIFICATION, "name": "contrastive", "margin": 2.0}


def test_contrastive_against_a_loop():
    objective = objectives.build(CONTRASTIVE, 5)
    h = np.random.default_rng(2).normal(size=(6, 2, 3)) * 0.7
    labels = np.array([1, 1, 1, 0, 0, 0.0])
    distance = np.linalg.norm(h[:, 0] - h[:, 1], axis=1)
    expected = [
        0.5 * d**2 if y else 0.5 * max(0, 2 - d) ** 2 for d, y in zip(distance, labels, strict=True)
    ]
    batch = PairBatch(None, None, jnp.asarray(labels, jnp.float32))
    loss, metrics = objective.loss(DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    assert set(metrics) == set(objective.metrics)
    np.testing.assert_allclose(metrics["distance_same"], distance[:3].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["distance_different"], distance[3:].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean((distance < 1) == labels), rtol=1e-6)
    weighted = objectives.build({**CONTRASTIVE, "decorrelation": 0.5}, 5)
    value, metrics = weighted.loss(DOT, jnp.asarray(h, jnp.float32), batch)
    matrix = np.corrcoef(h.reshape(12, 3).T)
    apart = np.mean(matrix[~np.eye(3, dtype=bool)] ** 2)
    np.testing.assert_allclose(value - loss, 0.5 * apart, rtol=1e-3)
    assert set(metrics) == set(weighted.metrics)
    np.testing.assert_allclose(metrics["correlation"], apart, rtol=1e-4)


def test_contrastive_on_maps_of_local_features():
    """With a reach of 0 and places of length 1 the distance of maps is in closed form."""
    objective = objectives.build({**CONTRASTIVE, "margin": 1.2, "decorrelation": 0.5}, 5)
    h = np.random.default_rng(3).normal(size=(6, 2, 4, 3)) * 0.3 + [1, 0, 0]
    h /= np.linalg.norm(h, axis=-1, keepdims=True)
    labels = np.array([1, 1, 1, 0, 0, 0.0])
    distance = np.linalg.norm((h[:, 0] - h[:, 1]).reshape(6, -1), axis=1) / 2  # of four places
    expected = np.where(labels, distance**2, np.maximum(1.2 - distance, 0) ** 2).mean() / 2
    matrix = np.corrcoef(h.reshape(48, 3).T)
    expected += 0.5 * np.mean(matrix[~np.eye(3, dtype=bool)] ** 2)
    head = Local(places=(2, 2), units=3, reach=0)
    batch = PairBatch(None, None, jnp.asarray(labels, jnp.float32))
    flat = jnp.asarray(h.reshape(6, 2, 12), jnp.float32)
    loss, metrics = objective.loss(DOT._replace(head=head), flat, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["distance_same"], distance[:3].mean(), rtol=1e-4)


@pytest.mark.parametrize("mining", mining_lib.MININGS)
def test_triplets_of_a_batch_against_a_loop(mining):
    fields = {**EPISODE, "name": "triplet", "mining": mining, "margin": 0.5}
    objective = objectives.build(fields, 8)
    rng = np.random.default_rng(3)
    h = rng.normal(size=(3, 2, 4, 2))
    h[:, 1] = h[:, 0] + 0.4 * rng.normal(size=(3, 4, 2))
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    identities = np.array([[1, 2, 3, 9], [4, 1, 2, 2], [9, 5, 6, 1]])
    rows = np.arange(24).reshape(3, 2, 4)
    rows[1, 0, 1] = rows[0, 0, 0]  # character 1 twice by one drawer: no positive of itself
    draw = rng.uniform(size=(3, 2, 4))
    images = [
        (h[e, k, n], identities[e, n], rows[e, k, n], draw[e, k, n])
        for e, k, n in np.ndindex(3, 2, 4)
        if mask[e, n]
    ]
    values, right = [], []
    for x, identity, row, u in images:
        negatives = np.array([np.linalg.norm(x - y) for y, i, _, _ in images if i != identity])
        positives = [np.linalg.norm(x - y) for y, i, r, _ in images if i == identity and r != row]
        if mining == "batch_hard":
            triplets = [(max(positives), negatives.min())]
        elif mining == "random":
            triplets = [(p, negatives[int(u * len(negatives))]) for p in positives]
        else:
            triplets = [
                (p, negatives[negatives > p].min() if np.any(negatives > p) else negatives.max())
                for p in positives
            ]
        values += [max(p - n + 0.5, 0) for p, n in triplets]
        right += [p < n for p, n in triplets]
    batch = batch_objectives.Mined(*(jnp.asarray(x) for x in (rows, rows, identities, mask, draw)))
    loss, metrics = objective.loss(DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, np.mean(values), rtol=1e-4)
    np.testing.assert_allclose(metrics["active"], np.mean(np.array(values) > 0), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right), rtol=1e-5)
    assert set(metrics) == set(objective.metrics)
    distance = np.array([[np.linalg.norm(x - y) for y, *_ in images] for x, *_ in images])
    identity, row = (np.array(column) for column in list(zip(*images, strict=True))[1:3])
    same = (identity[:, None] == identity) & (row[:, None] != row)
    np.testing.assert_allclose(metrics["distance_same"], distance[same].mean(), rtol=1e-4)
    different = distance[identity[:, None] != identity]
    np.testing.assert_allclose(metrics["distance_different"], different.mean(), rtol=1e-4)


def test_a_triplet_batch_brings_its_draws(glyphs):
    fields = {**EPISODE, "name": "triplet", "mining": "random", "margin": 0.5}
    index = SetIndex.of(glyphs)
    batch = objectives.build(fields, 8).sample(jax.random.key(0), 0, index)
    assert batch.rows.shape == batch.draw.shape == (3, 2, 4)
    assert batch.draw.min() >= 0 and batch.draw.max() < 1


@pytest.mark.parametrize("k_shot", [1, 3])
@pytest.mark.parametrize("name", ["prototypical", "matching"])
def test_support_sets_against_a_loop(name, k_shot):
    fields = {**EPISODE, "name": name, "k_shot": k_shot}
    objective = objectives.build(fields, 8)
    assert objective.images == 3 * 4 * (k_shot + 1) and objective.images_per_class == k_shot + 1
    rng = np.random.default_rng(4)
    h = rng.normal(size=(3, 1, 4, 5)) + 0.8 * rng.normal(size=(3, k_shot + 1, 4, 5))
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    identities = np.arange(12).reshape(3, 4)
    values, right = [], []
    for e, i, n in np.ndindex(3, k_shot + 1, 4):
        if not mask[e, n]:
            continue
        scores = []
        for m in range(4):
            if not mask[e, m]:
                continue
            support = [h[e, k, m] for k in range(k_shot + 1) if k != i]
            if name == "prototypical":
                scores.append(h[e, i, n] @ np.mean(support, 0))
            else:
                scores.append(np.log(sum(np.exp(h[e, i, n] @ s) for s in support)))
        values.append(np.log(np.exp(scores).sum()) - scores[n])
        right.append(np.argmax(scores) == n)
    batch = Episodes(None, None, jnp.asarray(identities), jnp.asarray(mask))
    loss, metrics = objective.loss(DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, np.mean(values), rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right), rtol=1e-5)


@pytest.mark.parametrize("symmetries, classes", [("none", 48), ("alphabet", 8 * 48)])
def test_classifier_is_a_softmax_over_the_training_characters(glyphs, symmetries, classes):
    objective = objectives.build(
        {"name": "classifier", "batch": 64, "symmetries": symmetries}, 8, 48
    )
    assert (objective.units, objective.images, objective.classes) == (64, 64, classes)
    drawn = objective.sample(jax.random.key(0), 0, SetIndex.of(glyphs))
    expected = glyphs.classes[np.asarray(drawn.rows)]
    if symmetries != "none":
        expected = 8 * expected + np.asarray(drawn.symmetries)
    np.testing.assert_array_equal(drawn.labels, expected)
    logits = np.random.default_rng(5).normal(size=(64, classes))
    logits[:20, expected[:20]] += 9
    compare = DOT._replace(classify=lambda h: h)
    loss, metrics = objective.loss(compare, jnp.asarray(logits, jnp.float32), drawn)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(chances[np.arange(64), expected]).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(1) == expected).mean())


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"name": "pairs"}, r"objective.name must be one of .* got 'pairs'"),
        (
            {**VERIFICATION, "name": "info_nce"},
            r"needs the fields \['contrast', 'episodes', 'n_way', 'pad_with_symmetries'\]",
        ),
        ({**EPISODE, "name": "verification"}, r"needs the fields \['batch', 'negatives'\]"),
        ({**EPISODE, "n_way": 1}, "objective.n_way must be at least 2, got 1"),
        ({**EPISODE, "contrast": "all"}, "objective.contrast must be one of .* got 'all'"),
        (
            {**EPISODE, "name": "triplet", "mining": "hard", "margin": 1},
            "objective.mining must be one",
        ),
        (
            {**EPISODE, "name": "matching", "k_shot": 0},
            "objective.k_shot must be at least 1, got 0",
        ),
        (
            {**CONTRASTIVE, "name": "triplet"},
            r"needs the fields \['episodes', 'mining', 'n_way', 'pad_with_symmetries'\]",
        ),
    ],
)
def test_build_says_what_does_not_fit(fields, words):
    with pytest.raises(ValueError, match=words):
        objectives.build(fields, 8)


# --- fixed pairs ----------------------------------------------------------------------------------

FIXED = {
    "name": "verification",
    "batch": 10,
    "negatives": "same_alphabet",
    "symmetries": "none",
    "pairs": 24,
    "copies": 2,
}


def test_the_batch_of_a_step_is_the_one_that_the_pair_set_says(glyphs):
    index = objectives.make_index(FIXED, glyphs, 7)
    expected = fixed_pairs.make_pairs(glyphs, 24, 7, "same_alphabet")
    jax.tree.map(np.testing.assert_array_equal, tuple(index.pairs), tuple(expected))
    sample = objectives.build(FIXED, 8).sample
    rng = jax.random.key(3)
    for step in (0, 1, 200):
        actual = sample(rng, jnp.int32(step), index)
        wanted = fixed_pairs.sample_fixed_pairs(rng, expected, jnp.int32(step), 10, 2)
        for field in ("rows", "symmetries", "labels", "distort"):
            np.testing.assert_array_equal(getattr(actual, field), getattr(wanted, field))
        keys, wanted_keys = (jax.random.key_data(batch.keys) for batch in (actual, wanted))
        np.testing.assert_array_equal(keys, wanted_keys)
        # By the definition: example e is copy e // 24 of pair e % 24.
        pair, copy, _ = fixed_pairs.example(rng, jnp.int32(step), 10, 24, 2)
        np.testing.assert_array_equal(actual.rows, expected.rows[np.asarray(pair)])
        np.testing.assert_array_equal(actual.labels, expected.labels[np.asarray(pair)])
        np.testing.assert_array_equal(actual.distort, np.asarray(copy)[:, None] > [0, 0])


def test_the_pair_set_follows_from_the_runs_seed(glyphs):
    first, again, other = (objectives.make_index(FIXED, glyphs, seed).pairs for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)


@pytest.mark.parametrize("name", ["verification", "contrastive"])
def test_without_pairs_every_batch_is_drawn_anew(glyphs, name):
    fields = {**FIXED, "name": name, "margin": 1.0, "pairs": 0, "copies": 0}
    index = objectives.make_index(fields, glyphs, 0)
    assert index.pairs is None
    actual = objectives.build(fields, 8).sample(jax.random.key(1), 5, index)
    key = jax.random.split(jax.random.fold_in(jax.random.key(1), 5), 3)[0]
    expected = sampling.sample_pairs(key, index, 10, negatives="same_alphabet")
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"symmetries": "alphabet"}, "set objective.symmetries to 'none', not 'alphabet'"),
        ({"pairs": 0}, "objective.copies = 2 of objective.pairs = 0: .* copies are of fixed pairs"),
        ({"copies": -1}, "objective.copies = -1 of .* neither may be negative"),
        (
            {"name": "contrastive", "margin": 1.0},
            "goes with the objective 'verification', not 'con",
        ),
    ],
)
def test_pairs_that_do_not_go_together(changes, words):
    with pytest.raises(ValueError, match=words):
        objectives.build({**FIXED, **changes}, 8)
