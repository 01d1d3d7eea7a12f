"""The benchmarks: what is counted, that both sides of a comparison do the same work, that all runs."""

import json
import os
import pathlib
import random
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from siamese_jax import benchmarks
from siamese_jax.benchmarks import (
    inputs,
    measure,
    recognition,
    report,
    scaling,
    startup,
    torch_koch,
    training,
    workload,
)
from siamese_jax.data import augment
from siamese_jax.models.comparators import L1
from siamese_jax.models.encoders import KochEncoder
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.training import sampling
from siamese_jax.training.step import make_train_step

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLAN = benchmarks.Plan(ROOT, repetitions=1, turn=0.0, peers=False, smoke=True)


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """A cache of compiled programs, since several tests need the same ones."""
    folder = tmp_path_factory.mktemp("compiled")
    given = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()
    yield folder
    for name, value in given.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


class Clock:
    """A clock that only the sides move."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def side(self, name, seconds, **fields):
        """A side that takes these seconds, one after the other, the last one for ever."""
        left = list(seconds)

        def call():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return measure.Side(name, call, **fields)


def test_sides_take_turns_after_two_calls_that_do_not_count():
    clock = Clock()
    sides = [
        clock.side("a", [9, 8, 1, 2, 3], amount=6, unit="pairs", operations=6e9),
        clock.side("b", [9, 8, 2, 8, 6], amount=6, unit="pairs", operations=24e9),
    ]
    a, b = measure.compare("g", sides, 3, 0.0, base=["b"], product="b", clock=clock)
    assert clock.calls == list("aabb" + "ababab")
    assert (a.group, a.name, a.unit, a.repetitions, a.calls, a.first) == (
        "g",
        "a",
        "pairs",
        3,
        1,
        9,
    )
    assert (a.seconds, b.seconds) == (2, 6)
    assert a.quartiles == (1.5, 2.5)
    assert b.quartiles == (4, 7)
    assert (a.per_second, b.per_second) == (3, 1)
    assert (a.gflops, b.gflops) == (3, 4)
    assert a.ratio == 2  # of 2/1, 8/2, 6/3 in the same repeats
    assert a.share == pytest.approx(0.5)  # of 6/12, 3/3, 2/4
    assert (a.against, a.share_of, b.ratio, b.share) == ("b", "product", 1, 1)


def test_a_fast_side_is_called_often_enough_to_fill_its_turn():
    clock = Clock()
    sides = [clock.side("fast", [0.25]), clock.side("slow", [3.0])]
    fast, slow = measure.compare("g", sides, 2, 1.0, clock=clock)
    assert (fast.calls, slow.calls) == (4, 1)
    assert (fast.seconds, slow.seconds) == (0.25, 3)
    assert clock.calls.count("fast") == 2 + 2 * 4


def test_of_several_bases_the_fastest_counts_and_other_units_are_not_compared():
    clock = Clock()
    pairs = {"amount": 2, "unit": "pairs"}
    sides = [
        clock.side("ours", [1], **pairs),
        clock.side("eager", [4], **pairs),
        clock.side("compiled", [2], **pairs),
        clock.side("product", [1], operations=1e9),
    ]
    rows = measure.compare("g", sides, 2, 0.0, base=["eager", "compiled"], clock=clock)
    assert [row.ratio for row in rows] == [2, 0.5, 1, None]
    assert {row.against for row in rows[:3]} == {"compiled"}


def test_the_matrix_product_counts_two_operations_a_term():
    side = measure.matrix_product(64)
    assert side.operations == 2 * 64 * 64 * 64
    assert side.call().shape == (64, 64)


def test_operations_of_kochs_step_by_hand():
    net = SiameseNet(KochEncoder(), L1())
    image = (
        (96 * 96 * 64 * 10 * 10)
        + (42 * 42 * 128 * 7 * 7 * 64)
        + (18 * 18 * 128 * 4 * 4 * 128)
        + (6 * 6 * 256 * 4 * 4 * 128)
        + (6 * 6 * 256 * 4096)
    )
    assert image == 908_623_872
    counted = workload.step_operations(net, (105, 105, 1), images=64, pairs=32)
    assert counted == 3 * 2 * (64 * image + 32 * 4096)


@pytest.mark.parametrize("name", ["koch2015", "quickstart"])
def test_the_step_alone_is_the_training_step_without_its_input(name):
    work = workload.Workload(PLAN.config(name))
    whole = make_train_step(
        *(work.model, work.tx, work.objective, work.augmentation, work.fill, work.devices)
    )
    alone, batch, pixels = workload.fixed_step(work)
    a, metrics = whole(work.state(), work.images, work.index)
    b, found = alone(work.state(), batch, pixels)
    assert pixels.shape == (*batch.rows.shape, *work.image_shape)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    before = jax.tree.leaves(work.state().params)
    for start, x, y in zip(before, *map(jax.tree.leaves, (a.params, b.params)), strict=True):
        np.testing.assert_allclose(x - start, y - start, rtol=1e-2, atol=1e-6)
    for x, y in zip(*map(jax.tree.leaves, (a.batch_stats, b.batch_stats)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_input_is_another_batch_each_time():
    work = workload.Workload(PLAN.config("koch2015"))
    call = work.input_call()
    first, second = call(), call()
    assert first.shape == (work.pairs, 2, *work.image_shape) and first.dtype == jnp.float32
    assert float(first.min()) == 0 and 0.5 < float(first.max()) <= 1
    assert float(jnp.abs(first - second).max()) > 0.5


class Highest:
    """A generator that keeps every component and draws its largest value."""

    def random(self):
        return 0.0

    def uniform(self, low, high):
        return high


def test_pillows_affine_is_the_product_of_its_components():
    ranges = augment.Affine(rotation=30.0, shear=0.25, scale=(0.5, 2.0), translation=3.0)
    matrix, shift = inputs.draw_affine(Highest(), ranges, (210, 105))
    cos, sin = np.sqrt(3) / 2, 0.5
    expected = np.array([[cos, -sin], [sin, cos]]) @ [[1, 0.25], [0.25, 1]] @ np.diag([2.0, 2.0])
    np.testing.assert_allclose(matrix, expected, rtol=1e-12)
    np.testing.assert_allclose(shift, (6.0, 3.0))


def test_pillow_warps_as_the_device_does(glyphs):
    matrix, shift = ((1.1, 0.2), (-0.1, 0.9)), (1.5, -0.75)
    image = glyphs.images[17]
    theirs = inputs.warp_picture(Image.fromarray(image[..., 0]), matrix, shift)
    ours = augment.warp(
        jnp.asarray(image, jnp.float32)[None] / 255, jnp.array([matrix]), jnp.array([shift])
    )
    inner = (slice(3, -3), slice(3, -3))  # they differ at the border, where Pillow does not blend
    gap = np.abs(np.asarray(theirs, float) / 255 - ours[0, ..., 0])[inner]
    assert gap.max() < 1.5 / 255
    assert np.asarray(theirs)[inner].max() > 128


def test_pillow_draws_half_same_half_different_pairs(glyphs):
    peer = inputs.PillowInput(glyphs, augment.Affine(probability=0.0), 3)
    images, labels = peer.batch(20)
    assert images.shape == (20, 2, 28, 28) and images.dtype == np.float32
    np.testing.assert_array_equal(labels, [1.0] * 10 + [0.0] * 10)
    flat = glyphs.images.reshape(len(glyphs), -1)
    drawn = np.rint(images * 255).astype(np.uint8).reshape(40, 1, -1)
    rows = (drawn == flat).all(-1).argmax(1).reshape(20, 2)
    assert (rows[:, 0] != rows[:, 1]).all()
    classes = glyphs.classes[rows]
    np.testing.assert_array_equal(classes[:, 0] == classes[:, 1], labels == 1)


def test_pillows_warps_are_drawn_anew(glyphs):
    images, _ = inputs.PillowInput(glyphs, augment.Affine(probability=1.0), 0).batch(4)
    again, _ = inputs.PillowInput(glyphs, augment.Affine(probability=1.0), 0).batch(4)
    still, _ = inputs.PillowInput(glyphs, augment.Affine(probability=0.0), 0).batch(4)
    np.testing.assert_array_equal(images, again)
    assert not np.allclose(images, still)
    draws = [inputs.draw_affine(random.Random(s), augment.Affine(), (28, 28)) for s in range(50)]
    assert len(set(draws)) > 40


def test_references_find_the_best_row_over_blocks(monkeypatch):
    monkeypatch.setattr(recognition, "_BLOCK", 7)
    net = workload.Workload(PLAN.config("quickstart")).network()
    h = recognition.unit_vectors(30, 16, 0)
    queries = recognition.unit_vectors(5, 16, 1)
    np.testing.assert_allclose(np.linalg.norm(h, axis=1), 1, rtol=1e-6)
    rows, scores = recognition.References(net, h).identify(queries)
    cosines = queries.astype(float) @ h.astype(float).T
    np.testing.assert_array_equal(rows, cosines.argmax(1))
    np.testing.assert_allclose(scores, 10 * cosines.max(1), rtol=1e-5)


def test_an_even_index_is_one():
    index = scaling.even_index(60, 20, 4)
    pairs = sampling.sample_pairs(jax.random.key(0), index, 400, negatives="same_alphabet")
    classes = np.asarray(pairs.rows) // 4
    assert set(classes.ravel()) == set(range(60))
    np.testing.assert_array_equal(classes[:, 0] == classes[:, 1], np.asarray(pairs.labels) == 1)
    np.testing.assert_array_equal(classes[:, 0] // 20, classes[:, 1] // 20)


def test_the_peer_is_the_same_network():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    encoder = KochEncoder((4, 6, 6, 8), (4, 3, 3, 2), 16, conv_std=0.3)
    net = SiameseNet(encoder, L1())
    a, b = (jax.random.uniform(jax.random.key(i), (6, 41, 41, 1)) for i in (0, 1))
    params = jax.jit(net.init)(jax.random.key(2), a, b)["params"]
    peer = torch_koch.build_network(41, (4, 6, 6, 8), (4, 3, 3, 2), 16)

    def tensor(x, order=None):
        x = np.asarray(x)
        return torch.tensor(np.ascontiguousarray(x if order is None else x.transpose(order)))

    ours = params["encoder"]
    with torch.no_grad():
        for i, convolution in enumerate(peer.convolutions, 1):
            convolution.weight.copy_(tensor(ours[f"conv{i}"]["kernel"], (3, 2, 0, 1)))
            convolution.bias.copy_(tensor(ours[f"conv{i}"]["bias"]))
        side = int(np.sqrt(ours["embedding"]["kernel"].shape[0] // 8))
        kernel = np.asarray(ours["embedding"]["kernel"]).reshape(side, side, 8, 16)
        peer.embedding.weight.copy_(tensor(kernel, (3, 2, 0, 1)).reshape(16, -1))
        peer.embedding.bias.copy_(tensor(ours["embedding"]["bias"]))
        peer.head.weight.copy_(tensor(params["head"]["kernel"]).reshape(1, -1))
        peer.head.bias.copy_(tensor(params["head"]["bias"]).reshape(1))
    labels = np.array([1, 1, 1, 0, 0, 0], np.float32)

    def loss_function(params):
        logits = net.apply({"params": params}, a, b)
        return (jnp.logaddexp(0, logits) - labels * logits).mean(), logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(loss_function, has_aux=True))(params)
    theirs = peer(tensor(a, (0, 3, 1, 2)), tensor(b, (0, 3, 1, 2)))
    their_loss = torch.nn.BCEWithLogitsLoss()(theirs, torch.tensor(labels))
    their_loss.backward()
    np.testing.assert_allclose(theirs.detach(), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(their_loss.item(), loss, rtol=1e-5)
    gradient = peer.convolutions[1].weight.grad.numpy().transpose(2, 3, 1, 0)
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(
        grads["encoder"]["conv2"]["kernel"], gradient, rtol=1e-3, atol=1e-4 * largest
    )


def test_the_peers_step_learns():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    with torch_koch.Peer() as peer:
        note = peer.prepare(
            "eager",
            pairs=4,
            image_size=41,
            filters=[4, 4, 4, 4],
            kernels=[4, 3, 3, 2],
            units=8,
            dtype="float32",
        )
        assert peer.ready("eager") and note.startswith("torch ")
        losses = [peer.call("eager")() for _ in range(8)]
    assert losses[-1] < losses[0]


def test_absent_pytorch_is_a_row_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    given = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{given}")
    plan = benchmarks.Plan(ROOT, repetitions=1, turn=0.0, smoke=True)
    found = training.run_training(plan)
    koch = [row for row in found[1:] if row.group == found[0].group]
    ours = [row for row in koch if not row.name.startswith("PyTorch")]
    names = [row.name for row in ours]
    assert names[:2] == ["input and step", "step alone"]
    if jax.default_backend() == "cpu":
        assert names[2:] == ["step alone, direct convolution"]
    for row in ours:
        assert row.share == pytest.approx(row.gflops / found[0].gflops)  # of the same turn
        assert row.per_second == pytest.approx(16 / row.seconds) and row.ratio is None
    rows = [row for row in found if row.name.startswith("PyTorch")]
    assert [row.name.split()[1] for row in rows] == ["eager,", "compiled,"]
    for row in rows:
        assert row.seconds is None and row.note == "not run: No module named torch"
    assert "not run: No module named torch" in report.text_table(rows)


def test_a_peer_that_ends_is_told():
    with torch_koch.Peer() as peer:
        peer._process.kill()
        assert peer.prepare("eager") == "the process of PyTorch ended"
        assert not peer.ready("eager")


@pytest.mark.parametrize("suite", benchmarks.SUITES)
def test_every_suite_runs_and_is_recorded(suite, tmp_path, capsys):
    path = tmp_path / "record.json"
    benchmarks.run([suite], PLAN, str(path))
    record = json.loads(path.read_text())
    rows = record["suites"][suite]
    assert len(rows) >= 4
    for row in rows:
        assert 0 < row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1]
    assert record["matrix_product"]["gflops"] > 0
    assert {"time", "processor", "versions", "cores", "xla_flags"} <= set(record["provenance"])
    assert record["settings"]["repetitions"] == 1 and record["settings"]["threads"] >= 1
    assert str(ROOT) not in path.read_text()
    printed = capsys.readouterr().out
    assert all(row["name"] in printed and row["group"] in printed for row in rows)


def test_compilation_is_timed_without_the_cache(compiled):
    def stored():
        return sum("step" in path.name for path in compiled.iterdir())

    changes = {"model.encoder_args.filters": (2, 2, 2, 2), "objective.batch": 2}
    work = workload.Workload(PLAN.config("koch2015", changes))
    before = stored()
    traced, built = startup.compile_seconds(work)
    assert traced > 0 and built > 0
    assert stored() == before
    work.training_call()()
    assert stored() == before + 1  # the cache is in use again


def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(ValueError, match="made no step.*variant"):
        startup.first_step_seconds(PLAN, "quickstart.py:unknown", tmp_path / "run")


def test_the_plan_is_checked():
    with pytest.raises(ValueError, match="unknown suite 'trainig'; did you mean training"):
        benchmarks.run(["trainig"], PLAN)
    with pytest.raises(ValueError, match="batch even"):
        benchmarks.run(["input"], benchmarks.Plan(ROOT, batch=3))


def test_the_table_by_hand():
    row = measure.Row(
        **{"group": "koch2015", "name": "step", "unit": "pairs", "amount": 32, "seconds": 1.25},
        **{"quartiles": (0.0012, 3e-6), "per_second": 25.6, "gflops": 1234.4, "share": 0.333},
        **{"share_of": "product", "ratio": 1.5, "against": "PyTorch eager", "note": "n"},
    )
    lines = report.text_table(
        [row, measure.Row("koch2015", "PyTorch", note="not run")]
    ).splitlines()
    assert lines[1].strip() == "koch2015"
    expected = "step 1.25 s 1.20 ms - 3.00 us 25.6 pairs/s 1,234 33.3% of product 1.50x n;"
    assert " ".join(lines[2].split()) == f"{expected} speed against PyTorch eager"
    assert lines[3].split() == ["PyTorch", *"------", "not", "run"]


def test_the_command(tmp_path):
    def launch(*flags):
        command = [sys.executable, str(ROOT / "launch" / "benchmark.py"), "--smoke", *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    path = tmp_path / "record.json"
    done = launch("--suite=recognition", "--nopeers", f"--record={path}")
    assert done.returncode == 0, done.stderr
    assert "identify 16, comparison" in done.stdout
    record = json.loads(path.read_text())
    assert list(record["suites"]) == ["recognition"]
    assert record["provenance"]["command"] == [
        *("launch/benchmark.py", "--smoke", "--suite=recognition", "--nopeers")
    ]
    wrong = launch("--suite=speed")
    assert wrong.returncode == 1
    assert wrong.stderr.strip().count("\n") == 0 and "unknown suite 'speed'" in wrong.stderr
