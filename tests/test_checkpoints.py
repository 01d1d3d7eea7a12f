"""Which checkpoints are kept, and that what is read is what was written."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamese_jax.runs.checkpoints import Checkpoints
from siamese_jax.training import optim
from siamese_jax.training.step import TrainState


def tiny(step):
    return {"step": jnp.int32(step), "w": jnp.full(3, 0.5 * step)}


@pytest.fixture
def saved(tmp_path):
    """An open `Checkpoints` in an empty folder."""
    checkpoints = Checkpoints(tmp_path)
    yield checkpoints
    checkpoints.close()


# value of each save; None: not evaluated (a run that was stopped between two evaluations)
HISTORY = [0.5, 0.25, 0.75, None, 0.75, 0.5, None, None, 0.25, 0.8, 0.8, None]
BEST = [1, 1, 3, 3, 3, 3, 3, 3, 3, 10, 10, 10]  # of equal values the earlier


def test_the_latest_two_and_the_best_are_always_kept(tmp_path):
    saved = Checkpoints(tmp_path)
    for i, value in enumerate(HISTORY):
        saved.save(i + 1, tiny(i + 1), value)
        saved.wait()
        assert saved.latest == i + 1 and saved.best == BEST[i]
        assert saved.steps == sorted({BEST[i], max(i, 1), i + 1})
        if i in (3, 8):  # another process goes on
            saved.close()
            saved = Checkpoints(tmp_path)
            assert saved.latest == i + 1 and saved.best == BEST[i]
    for step in (10, 12):
        restored = saved.restore(step, tiny(0))
        jax.tree.map(np.testing.assert_array_equal, restored, tiny(step))
    saved.close()


def test_nothing_judged_nothing_best(saved):
    assert (saved.latest, saved.best, saved.steps) == (None, None, [])
    for step in (1, 2):
        saved.save(step, tiny(step))
        saved.wait()
    assert (saved.latest, saved.best, saved.steps) == (2, None, [1, 2])


def test_several_of_the_best(tmp_path):
    saved = Checkpoints(tmp_path, keep_best=2)
    for step, value in enumerate([0.5, 0.9, 0.7, 0.6, 0.1], 1):
        saved.save(step, tiny(step), value)
    saved.wait()
    assert saved.steps == [2, 3, 4, 5] and saved.best == 2
    saved.close()


def test_a_late_step_is_the_best_by_any_difference(saved):
    for step, value in ((1000, 0.9), (2 * 10**8, 0.9001), (3 * 10**8, 0.9001)):
        saved.save(step, tiny(1), value)
    saved.wait()
    assert saved.best == 2 * 10**8


def test_the_metrics_of_earlier_versions_are_read(saved):
    """They had no step, and a value that a slope made smaller."""
    saved.save(1, tiny(1), 0.5 - 1e-12)
    saved.wait()
    file = saved._folder / "1" / "metrics" / "metrics"
    file.write_text(json.dumps({"value": 0.5 - 1e-12}))
    assert saved.best == 1
    for step, value in ((2, 0.4), (3, 0.3), (4, 0.2)):
        saved.save(step, tiny(step), value)
    saved.wait()
    assert saved.steps == [1, 3, 4]


def test_a_step_is_saved_once(saved):
    saved.save(1, tiny(1), 0.5)
    saved.save(1, tiny(7), 0.9)
    saved.wait()
    assert saved.steps == [1]
    np.testing.assert_array_equal(saved.restore(1, tiny(0))["w"], tiny(1)["w"])


def test_a_state_is_copied_before_it_changes(saved):
    w = np.zeros(1000)
    saved.save(1, {"w": w})
    w += 1
    saved.wait()
    assert not np.any(saved.restore(1, {"w": w})["w"])


@pytest.fixture(scope="module")
def state():
    """A train state with a typed key, statistics, and both optimisers' states."""
    params = {"encoder": {"conv1": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}}
    rules = [optim.Rule(".*", 0.1, 0.9, 1e-4)]
    both = [
        optim.layerwise_sgd(rules, steps_per_epoch=2),
        optim.build(
            {"name": "adamw", "learning_rate": 0.1, "warmup_steps": 1, "weight_decay": 0.1}, 9
        ),
    ]
    opt_states = []
    for tx in both:
        opt_states.append(jax.jit(lambda p, tx=tx: tx.update(p, tx.init(p), p)[1])(params))
    return TrainState(
        step=jnp.int32(7),
        rng=jax.random.key(3),
        params=optax.apply_updates(params, params),
        batch_stats={"encoder": {"norm": {"mean": jnp.zeros(3, jnp.bfloat16)}}},
        opt_state=opt_states,
        sums={"loss": jnp.float32(0.1), "steps": jnp.float32(3)},
    )


def bits(tree):
    """Leaves as NumPy arrays, keys as their data."""
    return [
        np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for x in jax.tree.leaves(tree)
    ]


def test_a_train_state_comes_back_bit_for_bit(saved, state):
    saved.save(7, state, 0.5)
    saved.wait()
    like = dataclasses.replace(
        state,
        params=jax.tree.map(jnp.zeros_like, state.params),
        rng=jax.random.key(0),
        opt_state=jax.tree.map(jnp.zeros_like, state.opt_state),
    )
    restored = saved.restore(7, like)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for found, expected in zip(bits(restored), bits(state), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    draws = [jax.random.normal(s.rng, (4,)) for s in (restored, state)]
    np.testing.assert_array_equal(*draws)

    variables = saved.variables(7)
    assert set(variables) == {"params", "batch_stats"}
    for found, expected in zip(bits(variables), bits(state.variables), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_another_shape_or_structure_is_an_error(saved):
    saved.save(1, tiny(1))
    saved.wait()
    with pytest.raises(ValueError, match=r"checkpoint 1 has w of shape \(3,\), .* shape \(4,\)"):
        saved.restore(1, {"step": jnp.int32(0), "w": jnp.zeros(4)})
    with pytest.raises(ValueError):
        saved.restore(1, {"step": jnp.int32(0), "v": jnp.zeros(3)})


def test_a_reader_leaves_what_is_being_written(tmp_path, saved):
    saved.save(1, {"params": tiny(1), "batch_stats": {}}, 0.5)
    saved.wait()
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (unfinished / "default").mkdir(parents=True)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps == [1] and reader.best == 1
    found = reader.variables(1)
    jax.tree.map(np.testing.assert_array_equal, found, {"params": tiny(1), "batch_stats": {}})
    reader.close()
    assert unfinished.exists()
    writer = Checkpoints(tmp_path)  # goes on after a crash, and tidies up
    assert writer.steps == [1]
    writer.save(2, tiny(2))
    writer.close()
    assert writer.steps == [1, 2] and not unfinished.exists()


def test_a_reader_makes_no_folder(tmp_path):
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps == [] and reader.best is None
    reader.close()
    assert not list(tmp_path.iterdir())
