"""The benchmarks: what is counted, that both cases of a comparison do the same work, that all runs."""

import dataclasses
import functools
import json
import os
import pathlib
import random
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import launch
from PIL import Image

from siamese_jax import benchmarks
from siamese_jax.benchmarks import (
    inputs,
    measure,
    peers,
    recognition,
    report,
    torch_peer,
    workload,
)
from siamese_jax.data import augment
from siamese_jax.models.comparators import L1, Cosine, Local
from siamese_jax.models.encoders import KochEncoder, ResidualEncoder
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.recognition import scoring

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLAN = benchmarks.Plan(repetitions=1, repeat_seconds=0.0, peers=False, smoke=True)


@functools.cache
def workload_of(name):
    return workload.Workload(PLAN.config(name))


class Clock:
    """A clock that only the cases move."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def case(self, name, seconds, **fields):
        """A case that takes these seconds, one after the other, the last one for ever."""
        left = list(seconds)

        def call():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return measure.Case(name, call, **fields)


def test_cases_alternate_after_two_calls_that_do_not_count():
    clock = Clock()
    cases = [
        clock.case("a", [9, 8, 1, 2, 3], amount=6, unit="pairs", operations=6e9),
        clock.case("b", [9, 8, 2, 8, 6], amount=6, unit="pairs", operations=24e9),
    ]
    a, b = measure.compare("g", cases, 3, 0.0, base=["b"], product="b", clock=clock)
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


def test_a_fast_side_is_called_often_enough_to_fill_its_repeat():
    clock = Clock()
    cases = [clock.case("fast", [0.25]), clock.case("slow", [3.0])]
    fast, slow = measure.compare("g", cases, 2, 1.0, clock=clock)
    assert (fast.calls, slow.calls) == (4, 1)
    assert (fast.seconds, slow.seconds) == (0.25, 3)
    assert clock.calls.count("fast") == 2 + 2 * 4


def test_of_several_bases_the_fastest_counts_and_other_units_are_not_compared():
    clock = Clock()
    pairs = {"amount": 2, "unit": "pairs"}
    cases = [
        clock.case("ours", [1], **pairs),
        clock.case("eager", [4], **pairs),
        clock.case("compiled", [2], **pairs),
        clock.case("product", [1], operations=1e9),
    ]
    rows = measure.compare("g", cases, 2, 0.0, base=["eager", "compiled"], clock=clock)
    assert [row.ratio for row in rows] == [2, 0.5, 1, None]
    assert {row.against for row in rows[:3]} == {"compiled"}


def test_the_matrix_product_counts_two_operations_a_term():
    case = measure.matrix_product(64)
    assert case.operations == 2 * 64 * 64 * 64
    assert case.call().shape == (64, 64)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["koch2015", "quickstart"])
def test_the_step_alone_is_the_training_step_without_its_input(name):
    work = workload_of(name)
    experiment = work.experiment
    alone, batch, pixels = workload.fixed_step(work)
    a, metrics = experiment.train_step(experiment.init_state(), work.images, experiment.index)
    b, metrics_alone = alone(experiment.init_state(), batch, pixels)
    assert pixels.shape == (*batch.rows.shape, *work.image_shape)
    np.testing.assert_allclose(metrics_alone["loss"], metrics["loss"], rtol=1e-5)
    before = jax.tree.leaves(experiment.init_state().params)
    for start, x, y in zip(before, *map(jax.tree.leaves, (a.params, b.params)), strict=True):
        np.testing.assert_allclose(x - start, y - start, rtol=1e-2, atol=1e-6)
    for x, y in zip(*map(jax.tree.leaves, (a.batch_stats, b.batch_stats)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_input_is_another_batch_each_time():
    work = workload_of("koch2015")
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
    pixels = image[None].astype(np.float32) / 255
    ours = np.asarray(jax.jit(augment.warp)(pixels, np.array([matrix]), np.array([shift])))
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


@pytest.mark.slow
def test_identifying_finds_what_the_bare_product_finds():
    net = workload.Workload(PLAN.config("quickstart:vector")).network()
    h = recognition.unit_vectors(30, net.embedding_size, 0)
    queries = recognition.unit_vectors(5, net.embedding_size, 1)
    np.testing.assert_allclose(np.linalg.norm(h, axis=1), 1, rtol=1e-6)
    best = recognition.best_references(net, scoring.References(h), queries)
    np.testing.assert_array_equal(best, (queries.astype(float) @ h.astype(float).T).argmax(1))


def tensor(x, order=None):
    """A PyTorch tensor of an array, its axes in another order if wanted."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = np.asarray(x)
    return torch.tensor(np.ascontiguousarray(x if order is None else x.transpose(order)))


def test_the_peer_is_kochs_network():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    args = {"filters": (4, 6, 6, 8), "kernels": (4, 3, 3, 2), "units": 16}
    net = SiameseNet(KochEncoder(**args, conv_std=0.3), L1())
    a, b = (jax.random.uniform(jax.random.key(i), (6, 41, 41, 1)) for i in (0, 1))
    params = jax.jit(net.init)(jax.random.key(2), a, b)["params"]
    peer = torch_peer.koch_network(41, **args)
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
        return (jnp.logaddexp(0, logits) - labels * logits).mean()

    loss, grads = jax.jit(jax.value_and_grad(loss_function))(params)
    both = np.concatenate([a, b])
    their_loss = torch_peer.pair_loss(peer, peer(tensor(both, (0, 3, 1, 2))))
    their_loss.backward()
    np.testing.assert_allclose(their_loss.item(), loss, rtol=1e-5)
    gradient = peer.convolutions[1].weight.grad.numpy().transpose(2, 3, 1, 0)
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(
        grads["encoder"]["conv2"]["kernel"], gradient, rtol=1e-3, atol=1e-4 * largest
    )


@pytest.mark.parametrize(
    ("local", "head"),
    [(False, Cosine(scale=5.0)), (True, Local(places=(5, 5), units=6, scale=5.0))],
)
def test_the_peer_is_the_residual_network(local, head):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    args = {"widths": (4, 6), "stem": 4, "units": 6, "local": local}
    net = SiameseNet(ResidualEncoder(**args), head)
    images = jax.random.uniform(jax.random.key(0), (8, 20, 20, 1))
    variables = jax.jit(net.init)(jax.random.key(1), images, images)
    ours = variables["params"]["encoder"]
    peer = torch_peer.residual_network(20, **args)
    with torch.no_grad():
        peer.stem.weight.copy_(tensor(ours["stem"]["kernel"], (3, 2, 0, 1)))
        peer.embedding.weight.copy_(tensor(ours["embedding"]["kernel"].T))
        for s, (block,) in enumerate(peer.stages, 1):
            for name in ("conv1", "conv2", "skip"):
                if f"stage{s}_block1_{name}" in ours:
                    kernel = ours[f"stage{s}_block1_{name}"]["kernel"]
                    getattr(block, name).weight.copy_(tensor(kernel, (3, 2, 0, 1)))

    def loss_function(params):
        h, _ = net.apply(
            {**variables, "params": params}, images, True, method="embed", mutable=["batch_stats"]
        )
        logits = net.apply({"params": params}, h[:4], h[4:], method="compare_all")
        logs = jax.nn.log_softmax(logits, 0), jax.nn.log_softmax(logits, 1)
        return -sum(jnp.diagonal(log).mean() for log in logs) / 2, h

    (loss, h), grads = jax.jit(jax.value_and_grad(loss_function, has_aux=True))(variables["params"])
    theirs = peer(tensor(images, (0, 3, 1, 2)))
    np.testing.assert_allclose(theirs.detach(), h, rtol=1e-3, atol=1e-4)
    their_loss = torch_peer.info_nce(peer.map_size if local else 1, 1, 5.0)(peer, theirs)
    their_loss.backward()
    np.testing.assert_allclose(their_loss.item(), loss, rtol=1e-4)
    gradient = peer.stages[0][0].conv1.weight.grad.numpy().transpose(2, 3, 1, 0)
    expected = grads["encoder"]["stage1_block1_conv1"]["kernel"]
    np.testing.assert_allclose(expected, gradient, atol=2e-3 * np.abs(gradient).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["koch2015", "quickstart", "best"])
def test_the_peers_step_learns_and_its_embedding_runs(name):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    work = workload_of(name)
    plan = dataclasses.replace(PLAN, peers=True)
    with peers.torch_cases(plan, work, "training", "g") as (cases, absent):
        assert len(cases) + len(absent) == 2 and cases[0].note.startswith("torch ")
        losses = [cases[0].call() for _ in range(12)]
    assert losses[-1] < losses[0]
    with peers.torch_cases(plan, work, "embedding", "g") as (cases, _):
        assert cases[0].call() == cases[0].call()


@pytest.mark.slow
def test_training_is_timed_and_absent_pytorch_is_a_row_that_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    given = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{given}")
    networks = ("koch2015", "quickstart")  # "best" has the cases of the quickstart
    plan = dataclasses.replace(PLAN, peers=True, networks=networks)
    path = tmp_path / "record.json"
    benchmarks.run(["training"], plan, str(path))
    record = check_record(path, "training", capsys.readouterr().out)
    rows = [measure.Row(**row) for row in record["suites"]["training"]]
    for network in networks:
        product, *others = (row for row in rows if row.group.startswith(network))
        ours = [row for row in others if not row.name.startswith("PyTorch")]
        names = [row.name for row in ours]
        assert names[:2] == ["input and step", "step alone"]
        if network == "koch2015" and jax.default_backend() == "cpu":
            assert names[2:] == ["step alone, direct convolution"]
        elif network != "koch2015":  # whose optimiser PyTorch has
            assert names[2:] == ["step alone, AdamW"]
        for row in ours:
            share = row.gflops / product.gflops  # of the same repeat
            assert row.share == pytest.approx(share, rel=1e-5)  # the record has six digits
            assert row.per_second == pytest.approx(row.amount / row.seconds, rel=1e-5)
            assert row.ratio is None
        theirs = [row for row in others if row.name.startswith("PyTorch")]
        assert [row.name for row in theirs] == ["PyTorch eager", "PyTorch compiled"]
        for row in theirs:
            assert row.seconds is None and row.note == "not run: No module named torch"
        assert "not run: No module named torch" in report.text_table(theirs)


@pytest.mark.slow
def test_onnxruntime_embeds_the_same_network_or_says_why_not(monkeypatch):
    work = workload_of("best")
    plan = dataclasses.replace(PLAN, peers=True)
    assert peers.onnx_cases(PLAN, work, "g") == ([], [])
    _, (row,) = peers.onnx_cases(dataclasses.replace(plan, dtype="bfloat16"), work, "g")
    assert row.seconds is None and "float32 only" in row.note
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    _, (row,) = peers.onnx_cases(plan, work, "g")
    assert row.seconds is None and row.note.startswith("not run: ")
    monkeypatch.undo()
    pytest.importorskip("onnxruntime", reason='needs pip install -e ".[export]"')
    (case,), _ = peers.onnx_cases(plan, work, "g", amount=2)
    assert case.amount == 2 and case.note.startswith("onnxruntime ")
    images = workload.random_images(work.images_per_step, work.image_shape, work.config.seed)
    np.testing.assert_allclose(case.call()[0], work.network().embed(images), atol=1e-4)


@pytest.mark.slow
def test_the_end_of_a_peer_is_reported():
    with torch_peer.Peer() as peer:
        peer._process.kill()
        assert peer.prepare("eager", {}) == "the process of PyTorch ended"
        assert not peer.ready("eager")


def check_record(path, suite, printed, repetitions=1):
    """What every suite leaves in its record and prints."""
    record = json.loads(path.read_text())
    assert list(record["suites"]) == [suite]
    rows = record["suites"][suite]
    timed = [row for row in rows if not row.get("note", "").startswith("not run: ")]
    assert len(timed) >= 4
    for row in timed:
        assert 0 < row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1]
    assert record["matrix_product"]["gflops"] > 0
    assert {"time", "processor", "versions", "cores", "xla_flags"} <= set(record["provenance"])
    assert record["settings"]["repetitions"] == repetitions and record["settings"]["threads"] >= 1
    assert str(ROOT) not in path.read_text()
    assert all(row["name"] in printed and row["group"] in printed for row in rows)
    return record


# Of two suites other tests take care.
@pytest.mark.slow
@pytest.mark.parametrize("suite", sorted(benchmarks.SUITES.keys() - {"training", "recognition"}))
def test_every_suite_runs_and_is_recorded(suite, tmp_path, capsys):
    path = tmp_path / "record.json"
    benchmarks.run([suite], PLAN, str(path))
    check_record(path, suite, capsys.readouterr().out)


def test_the_plan_is_checked():
    with pytest.raises(ValueError, match="no suite is named: choose from training"):
        benchmarks.run([], PLAN)
    with pytest.raises(ValueError, match="unknown suite 'trainig'; did you mean training"):
        benchmarks.run(["trainig"], PLAN)
    with pytest.raises(ValueError, match="unknown network 'kock2015'; did you mean koch2015"):
        benchmarks.run(["training"], benchmarks.Plan(networks=("kock2015",)))
    with pytest.raises(ValueError, match="batch even"):
        benchmarks.run(["input"], benchmarks.Plan(batch=3))


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


@pytest.mark.slow
def test_the_command(tmp_path):
    path = tmp_path / "record.json"
    words = ("--smoke", "--suite=recognition", "--nopeers")
    done = launch("benchmark.py", *words, f"--record={path}")
    assert done.returncode == 0, done.stderr
    assert "identify 16, comparison" in done.stdout
    record = check_record(path, "recognition", done.stdout, repetitions=2)
    assert record["provenance"]["command"] == ["launch/benchmark.py", *words]
