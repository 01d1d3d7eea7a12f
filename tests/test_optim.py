"""The optimisers against plain NumPy loops in float64, and their schedules' closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamese_jax.training import optim
from siamese_jax.training.optim import Rule

SPE = 4  # steps an epoch
# A two-layer net; each layer has settings of its own, biases too.
RULES = (
    Rule("encoder/.*/kernel", 0.05, 0.9, 0.01),
    Rule("encoder/.*/bias", 0.1, 0.5, 0.0),
    Rule("head/.*", 0.02, 0.8, 0.05),
)
SETTINGS = {"steps_per_epoch": SPE, "decay": 0.9, "momentum_start": 0.3, "momentum_epochs": 2}


def start(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "encoder": {
            "conv1": {
                "kernel": rng.normal(size=(3, 5)).astype(dtype),
                "bias": rng.normal(size=5).astype(dtype),
            }
        },
        "head": {"kernel": rng.normal(size=5).astype(dtype)},
    }


def examples(step):
    rng = np.random.default_rng(100 + step)
    return rng.normal(size=(8, 3)), rng.normal(size=8)


def loss(params, x, y):
    layer = params["encoder"]["conv1"]
    h = jnp.tanh(x @ layer["kernel"] + layer["bias"][None])
    return jnp.mean((h @ params["head"]["kernel"] - y) ** 2)


def numpy_gradients(params, x, y):
    """Gradients of `loss`, derived by hand."""
    layer, head = params["encoder"]["conv1"], params["head"]["kernel"]
    h = np.tanh(x @ layer["kernel"] + layer["bias"])
    error = 2 * (h @ head - y) / len(y)
    before = np.outer(error, head) * (1 - h**2)
    return {
        "encoder": {"conv1": {"kernel": x.T @ before, "bias": before.sum(0)}},
        "head": {"kernel": h.T @ error},
    }


def run(tx, params, opt_state, steps):
    """Updates of the net by an optax transformation, compiled."""

    @jax.jit
    def step(params, opt_state, x, y):
        grads = jax.grad(loss)(params, x, y)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for i in steps:
        x, y = examples(i)
        params, opt_state = step(params, opt_state, jnp.asarray(x), jnp.asarray(y))
    return params, opt_state, step


# --- layerwise SGD --------------------------------------------------------------------------------


def test_layerwise_sgd_against_a_plain_loop():
    """Three epochs: the rate decays, the momentum ramps, L2 is part of the gradient."""
    params = start(np.float64)
    settings = {  # by parameter: rate, final momentum, L2
        ("encoder", "conv1", "kernel"): (0.05, 0.9, 0.01),
        ("encoder", "conv1", "bias"): (0.1, 0.5, 0.0),
        ("head", "kernel"): (0.02, 0.8, 0.05),
    }
    trace = jax.tree.map(np.zeros_like, params)
    expected = jax.tree.map(np.copy, params)
    for i in range(3 * SPE):
        grads = numpy_gradients(expected, *examples(i))
        epoch = i // SPE
        for path, (rate, momentum, l2) in settings.items():
            w, g, old = (_at(tree, path) for tree in (expected, grads, trace))
            rate = rate * 0.9**epoch
            momentum = 0.3 + (momentum - 0.3) * [0, 0.5, 1][epoch]
            old[...] = -rate * (g + 2 * l2 * w) + momentum * old
            w += old
    with jax.enable_x64(True):
        tx = optim.layerwise_sgd(RULES, **SETTINGS)
        params = jax.tree.map(jnp.asarray, params)
        actual, opt_state, _ = run(tx, params, tx.init(params), range(3 * SPE))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), opt_state.trace, trace
        )
    assert opt_state.count == 3 * SPE


def _at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def test_the_rate_stands_inside_the_momentum():
    # One weight, gradient always 1, rate halved after each step: dw = -1, -1/2 - 1/2, -1/4 - 1/2.
    tx = optim.layerwise_sgd(
        [Rule("w", 1.0, 0.5, 0.0)],
        **{"steps_per_epoch": 1, "decay": 0.5, "momentum_start": 0.5, "momentum_epochs": 1},
    )
    params = {"w": jnp.zeros(())}
    state, update = tx.init(params), jax.jit(tx.update)
    moves = []
    for _ in range(3):
        updates, state = update({"w": jnp.ones(())}, state, params)
        moves.append(float(updates["w"]))
    np.testing.assert_allclose(moves, [-1.0, -1.0, -0.75])


def test_l2_is_coupled():
    # Without a gradient the weight still falls, and the momentum remembers it.
    tx = optim.layerwise_sgd(
        [Rule("w", 0.1, 0.5, 0.25)],
        **{"steps_per_epoch": 10, "momentum_start": 0.5, "momentum_epochs": 1},
    )
    params = {"w": jnp.asarray(8.0)}
    state, update = tx.init(params), jax.jit(tx.update)
    for expected in (8 - 0.4, 7.6 - 0.38 - 0.2):
        updates, state = update({"w": jnp.zeros(())}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-6)


def test_resumed_updates_equal_unbroken_ones():
    tx = optim.layerwise_sgd(RULES, **SETTINGS)
    params = jax.tree.map(jnp.asarray, start())
    unbroken, _, _ = run(tx, params, tx.init(params), range(10))
    half, opt_state, _ = run(tx, params, tx.init(params), range(6))
    saved = jax.tree.map(np.asarray, (half, opt_state))
    tx = optim.layerwise_sgd(RULES, **SETTINGS)
    resumed, _, _ = run(tx, *jax.tree.map(jnp.asarray, saved), range(6, 10))
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)


def test_other_rates_compile_nothing_anew():
    tx = optim.layerwise_sgd(RULES, **SETTINGS)
    params = jax.tree.map(jnp.asarray, start())
    opt_state = tx.init(params)
    _, _, step = run(tx, params, opt_state, range(1))
    still = opt_state._replace(learning_rate=jax.tree.map(jnp.zeros_like, opt_state.learning_rate))
    x, y = (jnp.asarray(part) for part in examples(0))
    moved, _ = step(params, still, x, y)
    jax.tree.map(np.testing.assert_array_equal, moved, params)  # a rate of 0 moves nothing
    changed, _ = step(params, opt_state, x, y)
    assert not np.array_equal(changed["head"]["kernel"], params["head"]["kernel"])
    assert step._cache_size() == 1


# --- rules ----------------------------------------------------------------------------------------


def test_each_parameter_finds_its_rule():
    matched = optim.match_rules(RULES, start())
    assert matched["encoder"]["conv1"] == {"kernel": RULES[0], "bias": RULES[1]}
    assert matched["head"]["kernel"] == RULES[2]
    assert optim.path_names(start()) == [
        "encoder/conv1/bias",
        "encoder/conv1/kernel",
        "head/kernel",
    ]


@pytest.mark.parametrize(
    "patterns, words",
    [
        (["encoder/.*"], "no rule matches parameter 'head/kernel'"),
        (["encoder/conv1", "head/.*"], "no rule matches parameter 'encoder/conv1/bias'"),
        (["encoder/.*", "head/.*", ".*/kernel"], "2 rules match parameter 'encoder/conv1/kernel'"),
        (["encoder/.*", "encoder/.*", "head/.*"], "2 rules match parameter 'encoder/conv1/bias'"),
        (["encoder/.*", "head/.*", "encoder/conv9/.*"], "rule 'encoder/conv9/.*' matches none"),
    ],
)
def test_rules_that_do_not_fit(patterns, words):
    rules = [Rule(pattern, 0.1, 0.9, 0.0) for pattern in patterns]
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        optim.layerwise_sgd(rules, steps_per_epoch=1).init(start())


# --- schedules ------------------------------------------------------------------------------------


def test_rate_and_momentum_schedules():
    rate = optim.rate_schedule(0.2, 0.99, 100)
    momentum = optim.momentum_schedule(0.5, 0.9, 8, 100)
    steps = [0, 1, 99, 100, 399, 400, 800, 900, 19_999]
    epochs = [0, 0, 0, 1, 3, 4, 8, 9, 199]
    np.testing.assert_allclose([rate(s) for s in steps], [0.2 * 0.99**e for e in epochs])
    compiled = jax.jit(jax.vmap(rate))(jnp.asarray(steps))
    np.testing.assert_allclose(compiled, [0.2 * 0.99**e for e in epochs], rtol=2e-5)
    expected = [0.5 + 0.05 * min(e, 8) for e in epochs]
    np.testing.assert_allclose([momentum(s) for s in steps], expected, rtol=1e-6)
    for step in (0, 10):  # without a ramp
        assert optim.momentum_schedule(0.5, 0.9, 0, 10)(step) == pytest.approx(0.9)


def test_cosine_schedule():
    rate = optim.schedule({"warmup_steps": 10}, 110)
    expected = {0: 0.0, 1: 0.1, 5: 0.5, 10: 1.0, 35: 0.5 * (1 + np.cos(np.pi / 4)), 60: 0.5}
    for step, value in {**expected, 110: 0.0}.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-6)
    assert float(optim.schedule({"warmup_steps": 0}, 100)(0)) == pytest.approx(1.0)
    for warmup in (100, 101, -1):
        with pytest.raises(ValueError, match=f"warmup_steps = {warmup} must be less than num_st"):
            optim.schedule({"warmup_steps": warmup}, 100)


# --- from a config --------------------------------------------------------------------------------


def test_layer_settings_are_those_in_force():
    fields = {"name": "layerwise", "rules": [tuple(rule) for rule in RULES], **SETTINGS}
    actual = optim.layer_settings(fields, start(), SPE)  # the second epoch
    assert actual == {
        "encoder/conv1/kernel": pytest.approx((0.045, 0.6, 0.01)),
        "encoder/conv1/bias": pytest.approx((0.09, 0.4, 0.0)),
        "head/kernel": pytest.approx((0.018, 0.55, 0.05)),
    }
    params = jax.tree.map(jnp.asarray, start())
    built, by_hand = optim.build(fields, 10), optim.layerwise_sgd(RULES, **SETTINGS)
    ours, _, _ = run(built, params, built.init(params), range(5))
    theirs, _, _ = run(by_hand, params, by_hand.init(params), range(5))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_adamw_against_a_plain_loop():
    """Decoupled decay on matrices alone; biases and vectors are left to the gradient."""
    fields = {"name": "adamw", "learning_rate": 0.1, "warmup_steps": 2, "weight_decay": 0.3}
    params = start(np.float64)
    expected = jax.tree.map(np.copy, params)
    leaves = [("encoder", "conv1", "kernel"), ("encoder", "conv1", "bias"), ("head", "kernel")]
    first, second = (dict.fromkeys(leaves, 0.0) for _ in range(2))
    for i in range(6):
        grads = numpy_gradients(expected, *examples(i))
        rate = 0.1 * (i / 2 if i < 2 else 0.5 * (1 + np.cos(np.pi * (i - 2) / 6)))
        for path in leaves:
            w, g = _at(expected, path), _at(grads, path)
            first[path] = 0.9 * first[path] + 0.1 * g
            second[path] = 0.999 * second[path] + 0.001 * g**2
            mean = first[path] / (1 - 0.9 ** (i + 1))
            size = np.sqrt(second[path] / (1 - 0.999 ** (i + 1)))
            decay = 0.3 * w if path[:2] == ("encoder", "conv1") and path[2] == "kernel" else 0.0
            w -= rate * (mean / (size + 1e-8) + decay)
    with jax.enable_x64(True):
        tx = optim.build(fields, 8)
        params = jax.tree.map(jnp.asarray, params)
        actual, _, _ = run(tx, params, tx.init(params), range(6))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), actual, expected
        )


def orthogonalised(m):
    """Five steps of the quintic iteration towards the nearest matrix with singular values of one."""
    wide = m.T if m.shape[0] > m.shape[1] else m
    x = wide / np.linalg.norm(wide)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if m.shape[0] > m.shape[1] else x


@pytest.mark.slow
def test_muon_against_a_plain_loop():
    """Kernels along the orthogonalised momentum, with decay; biases as with NAdam, without."""
    fields = {"name": "muon", "learning_rate": 0.05, "warmup_steps": 2, "weight_decay": 0.3}
    rng = np.random.default_rng(1)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 2, 4, 5)), "bias": rng.normal(size=5)},
        "dense": {"kernel": rng.normal(size=(3, 7))},
    }
    expected = jax.tree.map(np.copy, params)
    kernels = {("conv", "kernel"): (24, 5), ("dense", "kernel"): (3, 7)}
    moments = dict.fromkeys(kernels, 0.0)
    first = second = 0.0
    gradients = [jax.tree.map(lambda w: rng.normal(size=w.shape), params) for _ in range(6)]
    for i, grads in enumerate(gradients):
        rate = 0.05 * (i / 2 if i < 2 else 0.5 * (1 + np.cos(np.pi * (i - 2) / 6)))
        for path, matrix in kernels.items():
            w, g = _at(expected, path), _at(grads, path)
            moments[path] = 0.95 * moments[path] + 0.05 * g
            ahead = 0.95 * moments[path] / (1 - 0.95 ** (i + 2)) + 0.05 * g / (1 - 0.95 ** (i + 1))
            step = orthogonalised(ahead.reshape(matrix)).reshape(w.shape)
            w -= rate * (0.2 * max(matrix) ** 0.5 * step + 0.3 * w)
        g = grads["conv"]["bias"]
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        size = np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-8
        ahead = 0.9 * first / (1 - 0.9 ** (i + 2)) + 0.1 * g / (1 - 0.9 ** (i + 1))
        expected["conv"]["bias"] -= rate * ahead / size
    with jax.enable_x64(True):
        tx = optim.build(fields, 8)
        actual = jax.tree.map(jnp.asarray, params)
        state, update = tx.init(actual), jax.jit(tx.update)
        for grads in gradients:
            updates, state = update(jax.tree.map(jnp.asarray, grads), state, actual)
            actual = optax.apply_updates(actual, updates)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), actual, expected
        )


ADAM = {
    "name": "adam",
    "learning_rate": 0.05,
    "rules": [("encoder/.*/kernel", 0.2), ("head/kernel", 0.03), (".*/bias", 0.0)],
}


def test_adam_with_l2_against_a_plain_loop():
    """The penalty's gradient 2 l2 w goes through both moments; where the weight is 0 it is Adam."""
    params = start(np.float64)
    expected = jax.tree.map(np.copy, params)
    leaves = {
        ("encoder", "conv1", "kernel"): 0.2,
        ("encoder", "conv1", "bias"): 0.0,
        ("head", "kernel"): 0.03,
    }
    first, second = (dict.fromkeys(leaves, 0.0) for _ in range(2))
    for i in range(7):
        grads = numpy_gradients(expected, *examples(i))
        for path, l2 in leaves.items():
            w = _at(expected, path)
            g = _at(grads, path) + 2 * l2 * w
            first[path] = 0.9 * first[path] + 0.1 * g
            second[path] = 0.999 * second[path] + 0.001 * g**2
            mean = first[path] / (1 - 0.9 ** (i + 1))
            w -= 0.05 * mean / (np.sqrt(second[path] / (1 - 0.999 ** (i + 1))) + 1e-8)
    with jax.enable_x64(True):
        tx = optim.build(ADAM, 8)
        params = jax.tree.map(jnp.asarray, params)
        actual, _, _ = run(tx, params, tx.init(params), range(7))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), actual, expected
        )


def test_coupled_l2_is_the_gradient_of_the_penalty():
    params = jax.tree.map(jnp.asarray, start())
    rules = [optim.L2Rule(*rule) for rule in ADAM["rules"]]

    def penalty(params):  # as Keras adds it to the loss: l2 * sum of squares
        kernel, head = params["encoder"]["conv1"]["kernel"], params["head"]["kernel"]
        return 0.2 * jnp.sum(kernel**2) + 0.03 * jnp.sum(head**2)

    tx = optim.coupled_l2(rules)
    grads = jax.tree.map(jnp.ones_like, params)
    actual, _ = tx.update(grads, tx.init(params), params)
    expected = jax.tree.map(lambda g: 1 + g, jax.grad(penalty)(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)
    with pytest.raises(ValueError, match="no rule matches parameter 'encoder/conv1/bias'"):
        optim.coupled_l2(rules[:2]).init(params)


def test_other_settings_of_adam_compile_nothing_anew():
    tx = optim.build(ADAM, 8)
    params = jax.tree.map(jnp.asarray, start())
    first, _, step = run(tx, params, tx.init(params), range(1))
    x, y = (jnp.asarray(part) for part in examples(0))
    rules = [(pattern, 10 * l2) for pattern, l2 in ADAM["rules"]]
    for change in ({"learning_rate": 0.0}, {"rules": rules}):
        other = {**ADAM, **change}
        moved, _ = step(params, optim.build(other, 8).init(params), x, y)
        assert not np.array_equal(moved["head"]["kernel"], first["head"]["kernel"])
        assert optim.compiled_settings(other) == optim.compiled_settings(ADAM)
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_another_rate_compiles_nothing_anew(name):
    fields = {"name": name, "learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.3}
    tx = optim.build(fields, 8)
    params = jax.tree.map(jnp.asarray, start())
    _, _, step = run(tx, params, tx.init(params), range(1))
    other = {**fields, "learning_rate": 0.0, "weight_decay": 0.1}
    still = optim.build(other, 8).init(params)
    x, y = (jnp.asarray(part) for part in examples(0))
    jax.tree.map(np.testing.assert_array_equal, step(params, still, x, y)[0], params)
    assert step._cache_size() == 1
    assert optim.compiled_settings(fields) == optim.compiled_settings(other)
    assert optim.compiled_settings(fields) != optim.compiled_settings({**fields, "warmup_steps": 1})


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            {"name": "sgd"},
            r"optim.name must be one of \('layerwise', 'adam', 'adamw', 'muon'\), got 'sgd'",
        ),
        ({"name": "layerwise", "learning_rate": 0.1}, "optim.name = 'layerwise' needs .*'rules'"),
        ({"name": "adamw", "rules": ()}, "optim.name = 'adamw' needs .*'learning_rate'"),
        ({"name": "adam", "learning_rate": 0.1}, r"optim.name = 'adam' needs .*\['rules'\]"),
        (
            {"name": "adam", "learning_rate": 0.1, "rules": [("w", 0.1, 0.9, 0.0)]},
            r"rules of 'adam' are \(pattern, l2\), got \('w', 0.1, 0.9, 0.0\)",
        ),
        (
            {"name": "layerwise", "rules": [("w", 0.1)], **SETTINGS},
            r"rules of 'layerwise' are \(pattern, learning_rate, momentum, l2\), got \('w', 0.1\)",
        ),
    ],
)
def test_build_says_what_it_needs(fields, words):
    with pytest.raises(ValueError, match=words):
        optim.build(fields, 10)
