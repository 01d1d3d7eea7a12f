"""What the objectives make of embeddings, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamese_jax.models.comparators import Local
from siamese_jax.training import (
    batch_objectives,
    cross_batch,
    fixed_pairs,
    losses,
    objectives,
    sampling,
)
from siamese_jax.training import mining as mining_lib
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


def loss_of(objective, compare, h, batch):
    """Compiled, as in a training step."""
    return jax.jit(lambda h, batch: objective.loss(compare, h, batch))(h, batch)


def sample(objective, seed, step, index):
    return jax.jit(objective.sample)(jax.random.key(seed), step, index)


def test_verification_is_the_mean_over_pairs():
    objective = objectives.build(VERIFICATION, 5)
    assert (objective.units, objective.images, objective.metrics) == (6, 12, ("accuracy",))
    h = np.random.default_rng(0).normal(size=(6, 2, 3))
    labels = np.array([1, 1, 1, 0, 0, 0.0])
    p = 1 / (1 + np.exp(-(h[:, 0] * h[:, 1]).sum(-1)))
    expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    batch = PairBatch(None, None, jnp.asarray(labels, jnp.float32))
    loss, metrics = loss_of(objective, DOT, jnp.asarray(h, jnp.float32), batch)
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
    loss, metrics = loss_of(objective, DOT, jnp.asarray(h, jnp.float32), batch)
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
    loss, metrics = loss_of(objective, DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    assert set(metrics) == set(objective.metrics)
    np.testing.assert_allclose(metrics["distance_same"], distance[:3].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["distance_different"], distance[3:].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean((distance < 1) == labels), rtol=1e-6)
    weighted = objectives.build({**CONTRASTIVE, "decorrelation": 0.5}, 5)
    value, metrics = loss_of(weighted, DOT, jnp.asarray(h, jnp.float32), batch)
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
    loss, metrics = loss_of(objective, DOT._replace(head=head), flat, batch)
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
        elif mining == "distance_weighted":  # in two dimensions, so 1 / q(d) is (1 - d^2 / 4)^(1/2)
            d = np.clip(negatives, 0.5, 2 - 1e-3)
            weights = np.sqrt(1 - d**2 / 4) * ((d < 1.4) | np.all(d >= 1.4))
            column = np.searchsorted(np.cumsum(weights), u * weights.sum())
            triplets = [(p, negatives[column]) for p in positives]
        else:
            triplets = [
                (p, negatives[negatives > p].min() if np.any(negatives > p) else negatives.max())
                for p in positives
            ]
        values += [max(p - n + 0.5, 0) for p, n in triplets]
        right += [p < n for p, n in triplets]
    batch = batch_objectives.Mined(*(jnp.asarray(x) for x in (rows, rows, identities, mask, draw)))
    loss, metrics = loss_of(objective, DOT, jnp.asarray(h, jnp.float32), batch)
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


@pytest.mark.parametrize("name", ["triplet", "multi_similarity", "circle"])
def test_a_batch_of_one_class_costs_nothing(name):
    """Every episode of a step can be of an alphabet of one character."""
    fields = {
        **AMONG_ALL,
        "name": name,
        "mining": "semi_hard",
        "margin": 0.5,
        "images_per_class": 2,
    }
    objective = objectives.build(fields, 8)
    rows = jnp.arange(6).reshape(3, 2, 1)
    mask, identities = jnp.ones((3, 1), bool), jnp.ones((3, 1), int)
    batch = batch_objectives.Mined(rows, rows, identities, mask, rows / 6)
    h = jax.random.normal(jax.random.key(0), (3, 2, 1, 2))
    run = jax.jit(jax.value_and_grad(lambda h: objective.loss(DOT, h, batch), has_aux=True))
    (loss, metrics), grad = run(h)
    assert loss == 0 and not np.any(grad)
    assert all(np.isfinite(x) for x in metrics.values())


@pytest.mark.slow
def test_a_triplet_batch_brings_its_draws(glyphs):
    fields = {**EPISODE, "name": "triplet", "mining": "random", "margin": 0.5}
    index = SetIndex.of(glyphs)
    batch = sample(objectives.build(fields, 8), 0, 0, index)
    assert batch.rows.shape == batch.draw.shape == (3, 2, 4)
    assert batch.draw.min() >= 0 and batch.draw.max() < 1


MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
IDENTITIES = np.array([[1, 2, 3, 9], [4, 1, 2, 2], [9, 5, 6, 1]])
AMONG_ALL = {name: value for name, value in EPISODE.items() if name not in ("name", "contrast")}


def meeting(rng, count, remembered=0):
    """A batch of `count` images a class with embeddings, and a memory; and all of it as NumPy rows."""
    h = rng.normal(size=(3, 1, 4, 5)) + 0.7 * rng.normal(size=(3, count, 4, 5))
    rows = np.arange(12 * count).reshape(3, count, 4)
    batch = Episodes(*(jnp.asarray(x) for x in (rows, rows * 0, IDENTITIES, MASK)))
    shape = rows.shape
    images = [np.broadcast_to(x[:, None], shape).reshape(-1) for x in (IDENTITIES, MASK)]
    table = [h.reshape(-1, 5), rows.reshape(-1), *images]
    if not remembered:
        return h, batch, None, table
    memory_h = rng.normal(size=(remembered, 5))
    identities = np.where(np.arange(remembered) % 4 == 3, -1, np.arange(remembered) % 6)
    memory_rows = np.arange(remembered) + 5  # some images are of the batch itself, seen earlier
    memory = cross_batch.Memory(
        jnp.asarray(memory_h, jnp.float32), jnp.asarray(memory_rows), jnp.asarray(identities)
    )
    more = [memory_h, memory_rows, identities, identities >= 0]
    return h, batch, memory, [np.concatenate(pair) for pair in zip(table, more, strict=True)]


def relations(table, anchors):
    """(anchors, all) bool: same and different, written out image by image."""
    _, rows, identities, present = table
    same, different = np.zeros((2, anchors, len(rows)), bool)
    for a, k in np.ndindex(anchors, len(rows)):
        if present[a] and present[k]:
            same[a, k] = identities[a] == identities[k] and rows[a] != rows[k]
            different[a, k] = identities[a] != identities[k]
    return same, different


@pytest.mark.parametrize("remembered", [0, 9])
@pytest.mark.parametrize("name", ["supcon", "nt_xent", "multi_similarity", "circle"])
@pytest.mark.slow
def test_all_images_of_a_batch_meet_and_those_of_the_memory(name, remembered):
    """The losses have their own tests; here, who meets whom, and how alike they are."""
    h, batch, memory, table = meeting(np.random.default_rng(7), 3, remembered)
    fields = {**AMONG_ALL, "name": name, "images_per_class": 3, "memory": remembered}
    objective = objectives.build(fields, 8)
    assert (objective.units, objective.images, objective.images_per_class) == (3, 36, 3)
    assert objective.memory == remembered
    same, different = relations(table, 36)
    everyone = table[0]
    if name in ("multi_similarity", "circle"):
        everyone = everyone / np.linalg.norm(everyone, axis=1, keepdims=True)
    similarity = everyone[:36] @ everyone.T
    compare = DOT._replace(memory=memory)
    loss, metrics = loss_of(objective, compare, jnp.asarray(h, jnp.float32), batch)
    args = [jnp.asarray(x) for x in (similarity.astype(np.float32), same, different)]
    values = np.asarray(jax.jit(getattr(losses, name))(*args))
    valid = same if name == "nt_xent" else same.any(1)
    np.testing.assert_allclose(loss, values[valid].mean(), rtol=1e-4)
    nearest = np.where(same | different, similarity, -np.inf).argmax(1)
    right = same[np.arange(36), nearest][same.any(1)]
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-5)
    assert set(metrics) == set(objective.metrics)


def test_a_memory_keeps_the_latest_images_and_no_gradient():
    h, batch, _, table = meeting(np.random.default_rng(8), 2)
    embeddings, rows, identities, present = table
    memory = cross_batch.empty(40, 5)
    assert not np.any(memory.present)
    asleep = cross_batch.push(memory, jnp.asarray(h), batch, jnp.bool_(False))
    assert not np.any(asleep.present)
    once = cross_batch.push(memory, jnp.asarray(h), batch, jnp.bool_(True))
    twice = cross_batch.push(once, jnp.asarray(-h), batch, jnp.bool_(True))
    np.testing.assert_allclose(twice.h, np.concatenate([-embeddings, embeddings])[:40], rtol=1e-6)
    np.testing.assert_array_equal(twice.rows, np.tile(rows, 2)[:40])
    np.testing.assert_array_equal(twice.present, np.tile(present, 2)[:40])
    np.testing.assert_array_equal(
        twice.identities, np.tile(np.where(present, identities, -1), 2)[:40]
    )
    grad = jax.grad(lambda x: cross_batch.push(memory, x, batch, jnp.bool_(True)).h.sum())
    assert not np.any(grad(jnp.asarray(h)))


def test_n_pair_against_a_loop():
    h, batch, _, _ = meeting(np.random.default_rng(9), 2)
    objective = objectives.build({**AMONG_ALL, "name": "n_pair", "l2": 0.1}, 8)
    entries = [(e, n) for e in range(3) for n in range(4) if MASK[e, n]]
    values, squares = [], []
    for e, n in entries:
        own = h[e, 0, n] @ h[e, 1, n]
        others = [
            h[e, 0, n] @ h[f, 1, m] for f, m in entries if IDENTITIES[f, m] != IDENTITIES[e, n]
        ]
        values.append(np.log(1 + np.exp(np.array(others) - own).sum()))
        squares += [h[e, side, n] @ h[e, side, n] for side in (0, 1)]
    loss, metrics = loss_of(objective, DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, np.mean(values) + 0.1 * np.mean(squares), rtol=1e-4)
    np.testing.assert_allclose(metrics["squared_length"], np.mean(squares), rtol=1e-5)
    assert set(metrics) == set(objective.metrics)


@pytest.mark.parametrize("name", ["arcface", "cosface", "proxy_anchor"])
@pytest.mark.slow
def test_images_meet_the_vectors_of_their_classes(name, glyphs):
    settings = {"batch": 64, "symmetries": "none", "margin": 0.3, "scale": 8.0}
    objective = objectives.build({"name": name, **settings}, 8, 48)
    assert (objective.units, objective.images, objective.classes) == (64, 64, 48)
    drawn = sample(objective, 0, 0, SetIndex.of(glyphs))
    cosine = jnp.asarray(np.random.default_rng(5).uniform(-1, 1, size=(64, 48)), jnp.float32)
    compare = DOT._replace(class_cosines=lambda h: h)
    loss, metrics = loss_of(objective, compare, cosine, drawn)

    def values_of(*settings):
        return jax.jit(lambda x, labels: getattr(losses, name)(x, labels, *settings))(
            cosine, drawn.labels
        )

    values = values_of(0.3, 8.0)
    if name == "proxy_anchor":
        positive, negative = map(np.asarray, values)
        expected = positive[np.unique(drawn.labels)].mean() + negative.mean()
    else:
        expected = values.mean()
        smooth = objectives.build({"name": name, **settings, "label_smoothing": 0.1}, 8, 48)
        values = values_of(0.3, 8.0, 0.1)
        np.testing.assert_allclose(loss_of(smooth, compare, cosine, drawn)[0], values.mean(), 1e-5)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    right = np.asarray(cosine).argmax(1) == np.asarray(drawn.labels)
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-5)


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
    loss, metrics = loss_of(objective, DOT, jnp.asarray(h, jnp.float32), batch)
    np.testing.assert_allclose(loss, np.mean(values), rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right), rtol=1e-5)


@pytest.mark.parametrize("symmetries, classes", [("none", 48), ("alphabet", 8 * 48)])
def test_classifier_is_a_softmax_over_the_training_characters(glyphs, symmetries, classes):
    objective = objectives.build(
        {"name": "classifier", "batch": 64, "symmetries": symmetries}, 8, 48
    )
    assert (objective.units, objective.images, objective.classes) == (64, 64, classes)
    drawn = sample(objective, 0, 0, SetIndex.of(glyphs))
    expected = glyphs.classes[np.asarray(drawn.rows)]
    if symmetries != "none":
        expected = 8 * expected + np.asarray(drawn.symmetries)
    np.testing.assert_array_equal(drawn.labels, expected)
    logits = np.random.default_rng(5).normal(size=(64, classes))
    logits[:20, expected[:20]] += 9
    compare = DOT._replace(classify=lambda h: h)
    loss, metrics = loss_of(objective, compare, jnp.asarray(logits, jnp.float32), drawn)
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
            {**AMONG_ALL, "name": "supcon", "images_per_class": 1},
            "objective.images_per_class must be at least 2, got 1",
        ),
        (
            {**EPISODE, "memory": 9},
            r"memory goes with \('triplet', .*, not 'info_nce': set it to 0",
        ),
        ({**EPISODE, "memory": -1}, "objective.memory must be 0 or more, got -1"),
        ({**EPISODE, "label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        (
            {**VERIFICATION, "label_smoothing": 0.1},
            r"label_smoothing goes with \('info_nce', .*, not 'verification': set it to 0",
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


@pytest.mark.slow
def test_the_batch_of_a_step_is_the_one_that_the_pair_set_says(glyphs):
    index = objectives.make_index(FIXED, glyphs, 7)
    expected = fixed_pairs.make_pairs(glyphs, 24, 7, "same_alphabet")
    jax.tree.map(np.testing.assert_array_equal, tuple(index.pairs), tuple(expected))
    draw = jax.jit(objectives.build(FIXED, 8).sample)
    draw_fixed = jax.jit(fixed_pairs.sample_fixed_pairs, static_argnums=(3, 4))
    example = jax.jit(fixed_pairs.example, static_argnums=(2, 3, 4))
    rng = jax.random.key(3)
    for step in (0, 1, 200):
        actual = draw(rng, jnp.int32(step), index)
        wanted = draw_fixed(rng, expected, jnp.int32(step), 10, 2)
        for field in ("rows", "symmetries", "labels", "distort"):
            np.testing.assert_array_equal(getattr(actual, field), getattr(wanted, field))
        keys, wanted_keys = (jax.random.key_data(batch.keys) for batch in (actual, wanted))
        np.testing.assert_array_equal(keys, wanted_keys)
        # By the definition: example e is copy e // 24 of pair e % 24.
        pair, copy, _ = example(rng, jnp.int32(step), 10, 24, 2)
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
    actual = sample(objectives.build(fields, 8), 1, 5, index)
    key = jax.random.split(jax.random.fold_in(jax.random.key(1), 5), 3)[0]
    expected = jax.jit(
        lambda key: sampling.sample_pairs(key, index, 10, negatives="same_alphabet")
    )(key)
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
