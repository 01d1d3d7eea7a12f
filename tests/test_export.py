"""Exports: what another program computes from the files is what the network here computes."""

import dataclasses
import functools
import json
import sys

import jax
import ml_collections
import networks
import numpy as np
import pytest
from launching import launch

import siamese_jax
from siamese_jax.data import loading, omniglot
from siamese_jax.data.image_set import resize_images
from siamese_jax.inference import export, network
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese
from siamese_jax.models.comparators import COMPARATORS
from siamese_jax.models.encoders import ENCODERS

onnxruntime = pytest.importorskip("onnxruntime", reason='needs pip install -e ".[export]"')
pytest.importorskip("onnx", reason='needs pip install -e ".[export]"')
pytest.importorskip("safetensors", reason='needs pip install -e ".[export]"')

from siamese_jax.inference.export import (  # noqa: E402
    onnx_comparators,
    onnx_encoders,
    onnx_models,
    stablehlo,
)

ENCODER_CASES = {
    "koch": ("koch", {"filters": (3, 4, 5, 6), "kernels": (4, 3, 2, 1), "units": 7}),
    "koch in the frequency domain": (
        "koch",
        {"filters": (3, 4, 5), "kernels": (4, 3, 3), "units": 7, "convolution": "fft"},
    ),
    "residual": ("residual", {"widths": (4, 6, 6), "stem": 4, "units": 8}),
    "residual, two blocks, few pools": (
        "residual",
        {"widths": (4, 4, 6), "stem": 4, "stem_stride": 1, "blocks": 2, "pools": 1, "units": 8},
    ),
    "residual, sigmoid": ("residual", {"widths": (4,), "stem": 3, "output": "sigmoid"}),
    "local residual": ("residual", {"widths": (4, 6), "stem": 4, "units": 5, "local": True}),
    "small": ("small", {"filters": (4, 6), "hidden": (9,), "units": 8}),
    "normalised small": (
        "small",
        {"filters": (4,), "hidden": (), "units": 8, "normalise": True, "output": "unit"},
    ),
    "local small": ("small", {"filters": (4, 6), "hidden": (9,), "units": 5, "local": True}),
    "dense": ("dense", {"hidden": (9,), "units": 8, "normalise": True}),
    "resnet": ("resnet", {"stages": (1, 2), "width": 4, "units": 5}),
    "resnet of bottlenecks": (
        "resnet",
        {"stages": (1, 1), "width": 3, "bottleneck": True, "small_inputs": True, "project": False},
    ),
    "vit": ("vit", {"patch": 4, "width": 6, "depth": 2, "heads": 2, "units": 5}),
}
SHAPES = {"vit": (12, 8, 1)}
HEAD_ARGS = {"bilinear": ({"symmetric": True}, {"symmetric": False}), "local": ({"reach": 2},)}
COMPARATOR_CASES = [
    pytest.param(name, arguments, marks=[pytest.mark.slow] if name == "local" else [])
    for name in COMPARATORS
    for arguments in HEAD_ARGS.get(name, ({},))
]


def make_net(encoder, encoder_args, comparator="l1", head_args=None, shape=(29, 27, 1), kind="ink"):
    fields = {
        "encoder": encoder,
        "encoder_args": encoder_args,
        "comparator": comparator,
        "head_args": head_args or {},
        "dtype": "float32",
    }
    _, variables = networks.net_and_variables(fields, shape)
    config = ml_collections.ConfigDict({"model": fields})
    devices = Devices(1)
    return network.bind(config, devices.replicate(variables), shape, kind, "net", devices)


def pictures(count, shape=(29, 27, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def onnx_functions(net):
    return [onnx_function(model) for model in onnx_models.make_models(net, {})]


def onnx_function(model):
    session = onnxruntime.InferenceSession(model)
    names = [x.name for x in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def test_every_encoder_and_comparator_has_a_graph():
    assert set(onnx_encoders.ENCODER_GRAPHS) == set(ENCODERS.values())
    assert {name for name, _ in ENCODER_CASES.values()} == set(ENCODERS)
    assert set(onnx_comparators.COMPARATOR_GRAPHS) == set(COMPARATORS.values())


LONG = ("resnet", "resnet of bottlenecks", "vit")  # to compile


@pytest.mark.parametrize(
    "case",
    [pytest.param(x, marks=pytest.mark.slow if x in LONG else ()) for x in ENCODER_CASES],
)
def test_onnx_embeds_as_the_network_does(case):
    shape = SHAPES.get(case, (29, 27, 1))
    net = make_net(*ENCODER_CASES[case], shape=shape)
    embed, _ = onnx_functions(net)
    images = pictures(5, shape)
    expected = net.embed(images)
    for count in (1, 5):
        np.testing.assert_allclose(embed(images[:count]), expected[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("comparator", "head_args"), COMPARATOR_CASES)
def test_onnx_scores_as_the_network_does(comparator, head_args):
    encoder = ("dense", {"hidden": (), "units": 12})
    if comparator == "local":
        encoder = ENCODER_CASES["local small"]
    net = make_net(*encoder, comparator, head_args)
    _, compare = onnx_functions(net)
    h = net.embed(pictures(7))
    expected = net.score_matrix(h, h)
    for queries, supports in ((slice(3), slice(3, 7)), (slice(3, 4), slice(3))):
        found = compare(h[queries], h[supports])
        np.testing.assert_allclose(found, expected[queries, supports], rtol=1e-4, atol=1e-4)


def test_colour_pictures_and_vectors_go_through_onnx(tmp_path):
    net = make_net(*ENCODER_CASES["small"], shape=(16, 20, 3), kind="photo")
    images = pictures(2, (16, 20, 3))
    np.testing.assert_allclose(onnx_functions(net)[0](images), net.embed(images), atol=1e-4)
    net = make_net(*ENCODER_CASES["dense"], shape=(1, 6, 1), kind="vector")
    vectors = networks.noise(0, 5, 6)
    np.testing.assert_allclose(onnx_functions(net)[0](vectors), net.embed(vectors), atol=1e-4)
    (encoder, _) = export._write_two(tmp_path / "net.onnx", net, (b"", b""))
    assert encoder.contents.startswith("vectors (batch, 6) -> ")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["koch in the frequency domain", "local residual"])
def test_stablehlo_computes_what_the_network_computes_at_any_batch_size(case, tmp_path):
    comparator = "local" if case.startswith("local") else "euclidean"
    net = make_net(*ENCODER_CASES[case], comparator)
    paths = tmp_path / "encoder", tmp_path / "comparator"
    for path, data in zip(paths, stablehlo.make_functions(net), strict=True):
        path.write_bytes(data)
    embed, compare = map(stablehlo.read, paths)
    images = pictures(3)
    h = net.embed(images)
    expected = net.score_matrix(h, h)
    for count in (1, 3):
        np.testing.assert_allclose(embed(images[:count]), h[:count], rtol=1e-5, atol=1e-5)
        found = compare(h[:count], h[: count + 1])
        np.testing.assert_allclose(found, expected[:count, : count + 1], rtol=1e-5, atol=1e-5)


def test_a_vision_transformer_takes_any_batch_size():
    shape = SHAPES["vit"]
    net = make_net(*ENCODER_CASES["vit"], shape=shape)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), np.float32)
    embed = functools.partial(siamese.apply, net.model, net.variables, method="embed")
    assert jax.eval_shape(embed, images).shape == (batch, 5)


@pytest.mark.slow
def test_a_full_context_goes_through_stablehlo_and_onnx_says_what_to_do():
    fields = {**networks.SMALL_RESIDUAL, "context_steps": 2}
    shape = (29, 27, 1)
    _, variables = networks.net_and_variables(fields, shape)
    config = ml_collections.ConfigDict({"model": fields})
    net = network.bind(config, Devices(1).replicate(variables), shape, "ink", "net", Devices(1))
    with pytest.raises(ValueError, match="full context has no ONNX graph: export it as stablehlo"):
        onnx_models.make_models(net, {})
    compare = jax.export.deserialize(bytearray(stablehlo.make_functions(net)[1])).call
    h = net.embed(pictures(5))
    for supports in (1, 3):
        expected = net.score_matrix(h, h[:supports])
        np.testing.assert_allclose(compare(h, h[:supports]), expected, rtol=1e-5, atol=1e-5)


def test_an_encoder_without_a_graph_is_one_line():
    class DenseEncoder(ENCODERS["dense"]):
        """The user's own, of a name that an encoder of this package has."""

    net = make_net(*ENCODER_CASES["dense"])
    net = dataclasses.replace(net, model=net.model.clone(encoder=DenseEncoder()))
    with pytest.raises(ValueError, match="encoder DenseEncoder has no ONNX graph: export it as"):
        onnx_models.make_models(net, {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of the shipped network in every format, and the network."""
    folder = tmp_path_factory.mktemp("exported")
    for name in export.FORMATS:
        export.export_network("omniglot", folder / f"net.{name}")
    return folder, siamese_jax.load("omniglot")


def _check_the_shipped_network(exported, queries, supports):
    folder, net = exported
    h1, h2 = net.embed(queries), net.embed(supports)
    scores = net.score(queries, supports)
    for read, name, tolerance in (
        (lambda path: onnx_function(path.read_bytes()), "onnx", 1e-4),
        (stablehlo.read, "stablehlo", 1e-5),
    ):
        embed, compare = read(folder / f"net.{name}"), read(folder / f"net.comparator.{name}")
        np.testing.assert_allclose(embed(queries), h1, atol=tolerance, rtol=0)
        np.testing.assert_allclose(compare(embed(queries), embed(supports)), scores, atol=tolerance)
        np.testing.assert_allclose(compare(h1, h2), scores, atol=tolerance)
    again = siamese_jax.load(folder / "net.safetensors")
    np.testing.assert_array_equal(again.embed(queries), h1)
    np.testing.assert_array_equal(again.score(queries, supports), scores)


@pytest.mark.slow
def test_the_shipped_network_answers_alike_in_every_format(exported):
    size = exported[1].image_shape[:2]
    fields = {"name": "glyphs", "glyphs_alphabets": 3, "glyphs_drawers": 4, "image_size": size}
    runs = loading.load(fields).runs
    _check_the_shipped_network(exported, runs.queries[0], runs.supports[0])


@pytest.mark.slow
def test_the_shipped_network_answers_alike_on_real_pictures(exported, prepared_omniglot):
    size = exported[1].image_shape[:2]
    runs = omniglot.load_runs(prepared_omniglot)
    pictures = (resize_images(x[0], *size) for x in (runs.queries, runs.supports))
    _check_the_shipped_network(exported, *pictures)


@pytest.mark.slow
def test_a_safetensors_file_holds_config_and_provenance(exported):
    import safetensors

    folder, net = exported
    with safetensors.safe_open(folder / "net.safetensors", "numpy") as file:
        metadata = file.metadata()
        assert "params/encoder/stem/kernel" in file.keys()  # noqa: SIM118
    assert json.loads(metadata["config"])["model"]["encoder"] == "residual"
    assert json.loads(metadata["provenance"])[-1]["image_shape"] == list(net.image_shape)
    weights = network.read(folder / "net.safetensors")
    shipped = network.read("omniglot")
    assert weights._replace(variables=None) == shipped._replace(variables=None)
    jax.tree.map(np.testing.assert_array_equal, weights.variables, shipped.variables)


@pytest.mark.slow
def test_an_onnx_file_says_what_it_is(exported):
    folder, net = exported
    session = onnxruntime.InferenceSession(folder / "net.onnx")
    assert session.get_inputs()[0].shape == ["batch", *net.image_shape]
    assert session.get_outputs()[0].shape == ["batch", net.embedding_size]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["kind"] == "ink" and json.loads(metadata["config"])["seed"] >= 0


def test_mistakes_are_one_line(tmp_path):
    for arguments, message in (
        (
            ("omniglot", tmp_path / "net.pb"),
            "its extension must be .onnx, .safetensors, .stablehlo",
        ),
        (("omniglot", tmp_path / "no" / "net.onnx"), "is no folder: make it first"),
        (
            ("omniglott", tmp_path / "net.onnx"),
            "nor a network of the package, which has om",
        ),
        ((tmp_path, tmp_path / "net.onnx"), "holds no run"),
        (("omniglot", tmp_path / "net.onnx", 3), "holds no checkpoint 3"),
    ):
        with pytest.raises(ValueError, match=message):
            export.export_network(*arguments)
    assert not any(tmp_path.iterdir())
    (tmp_path / "net.safetensors").write_bytes(b"nothing")
    (tmp_path / "net.stablehlo").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no network of this package"):
        siamese_jax.load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        siamese_jax.load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no exported function"):
        stablehlo.read(tmp_path / "net.stablehlo")


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ValueError, match=r'pip install "siamese_jax\[export\]"'):
        export.export_network("omniglot", tmp_path / "net.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match=r"reading it needs the package safetensors: pip install"):
        siamese_jax.load(tmp_path / "net.safetensors")


@pytest.mark.slow
def test_the_command_writes_the_files_and_names_them(tmp_path):
    done = launch("export.py", "--pretrained=omniglot", f"--out={tmp_path / 'net.onnx'}")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / "net.onnx"),
        str(tmp_path / "net.comparator.onnx"),
    ]
    assert "images (batch, 56, 56, 1) -> embeddings (batch, 3136)" in done.stdout
    done = launch("export.py", f"--out={tmp_path / 'net.onnx'}")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "give one of --workdir=RUN and --pretrained=NAME" in done.stderr
