"""The report of a smoke run, its figures, the counts of confusions and the table of layers."""

import base64
import dataclasses
import html.parser
import io
import math
import pathlib
import re
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest

from siamese_jax import (
    augment,
    baselines,
    datasets,
    evaluate,
    figures,
    inference,
    layers,
    models,
    objectives,
    pages,
    report,
    sampling,
    steps,
    train,
    trials,
    workdir,
)
from siamese_jax.datasets.imageset import ImageSet

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SECTIONS = ["results", "learning", "curve", "trials", "confusions", "verification"]
SECTIONS += ["alphabets", "training", "network", "run"]
FIGURES = {"learning", "curve", "trials", "confusions", "roc"}
FIGURES |= {"training", "filters", "embeddings"}
SMALL = {"n_way": 5, "num_trials": 40, "num_pairs": 80, "curve_trials": 20, "curve_n_ways": (2, 9)}


def get_config(name, variant=""):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant)


@dataclasses.dataclass(frozen=True)
class SmokeRun:
    path: pathlib.Path
    config: object
    data: datasets.Data
    siamese: inference.Siamese
    results: dict

    @property
    def arguments(self):
        return self.path, self.config, self.data, self.siamese, self.results


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """A trained network of the quickstart's smoke variant, judged beside two baselines."""
    path = tmp_path_factory.mktemp("runs") / "a<b"  # a name that HTML must escape
    config = get_config("quickstart", "smoke")
    config.num_devices = 1
    train.train_and_evaluate(config, str(path))
    config = workdir.read_config(path)
    data = datasets.load({**config.data.to_dict(), "image_size": None})
    siamese = inference.load(path)
    held = evaluate.EvaluationData(data.test, data.validation, data.train, data.runs)
    systems = {
        siamese.name: siamese.system(),
        "pixel 1-NN": baselines.pixel_nearest_neighbour,
        "random": baselines.random_score(0),
    }
    protocols = ("official", "within", "between", "verification", "curve")
    results = {
        name: evaluate.run_protocols(system, held, protocols, SMALL, system_name=name)
        for name, system in systems.items()
    }
    return SmokeRun(path, config, data, siamese, results)


@pytest.fixture(scope="module")
def page(smoke_run):
    path = report.write_report(*smoke_run.arguments)
    assert path == smoke_run.path / "report.html"
    assert sorted(p.name for p in smoke_run.path.glob("report*")) == ["report.html"]
    return path.read_text(encoding="utf-8")


class Balance(html.parser.HTMLParser):
    """Raises where a tag is closed that is not the open one; collects the visible text."""

    VOID = ("meta", "br", "img")

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def visible(page):
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    return " ".join(" ".join(parser.text).split())


# ----------------------------------------------------------------------------------------- page


def test_page_is_whole_and_needs_no_other_file(page):
    assert "://" not in page  # no address of anything; base64 has no colon
    assert "<script" not in page and "<link" not in page and "@import" not in page
    assert all(
        link.startswith(("#", "data:image/png;base64,"))
        for link in re.findall(r'(?:href|src)="([^"]*)"', page)
    )
    assert len(page) < 5e6
    visible(page)


def test_page_holds_every_section_and_figure(page):
    assert re.findall(r'<section id="([^"]*)"', page) == SECTIONS
    assert [link[1:] for link in re.findall(r'<a href="([^"]*)"', page)] == SECTIONS
    assert page.count("<svg") == page.count("<figcaption>") == len(FIGURES)
    assert "Not evaluated here" not in page


def test_page_says_where_its_figures_come_from(page, smoke_run):
    text = visible(page)
    start = workdir.read_provenance(smoke_run.path)[-1]
    assert text.startswith("a<b: report") and "<b: report" not in page
    for fact in (start["commit"], start["device"], start["time"], start["data_fingerprint"]):
        assert fact in text
    assert all(argument in text for argument in start["command"])
    assert "20 of 20 steps of 20 images" in text
    for name, value in workdir.flatten(smoke_run.config).items():
        assert f"{name} {value}" in text


def test_page_says_that_it_is_not_omniglot_and_leaves_published_figures_out(page):
    text = visible(page)
    assert "Not Omniglot: glyphs, the built-in set" in text
    assert "et al" not in text and "95.5" not in text


def test_page_holds_every_result_with_its_interval_and_hash(page, smoke_run):
    text = visible(page)
    for by_key in smoke_run.results.values():
        for key, r in by_key.items():
            if key.startswith("curve/training") and r.system != smoke_run.siamese.name:
                continue  # the curve of training classes is the network's alone
            shown = f"{100 * r.accuracy:.2f} % {100 * r.wilson[0]:.1f} – {100 * r.wilson[1]:.1f}"
            assert shown in text, (r.system, r.name)
            assert r.trial_hash in text
    verified = smoke_run.results[smoke_run.siamese.name]["verification"]
    assert f"{verified.figures['auc']:.4f}" in text


def test_published_figures_stand_beside_official_runs_only(smoke_run, tmp_path):
    """The same page with the runs called official, and with `within` and `official` alone."""
    data = dataclasses.replace(smoke_run.data, runs_name="official")
    few = {
        name: {key: by_key[key] for key in ("official", "within")}
        for name, by_key in smoke_run.results.items()
    }
    path = report.write_report(smoke_run.path, smoke_run.config, data, smoke_run.siamese, few)
    page = path.read_text(encoding="utf-8")
    text = visible(page)
    for name, value, source in report.PUBLISHED_RUNS:
        assert f"{name} {value:.1f} % {source}" in text
    assert "Not Omniglot" not in text
    assert "matching network" not in text  # `between` was not evaluated
    assert text.count("Not evaluated here") == 2  # the curve and the verification
    assert re.findall(r'<section id="([^"]*)"', page) == SECTIONS


def test_published_figures_are_in_order_and_not_from_memory():
    values = [value for _, value, _ in report.PUBLISHED_RUNS]
    assert values == sorted(values, reverse=True)
    known = {name: value for name, value, _ in report.PUBLISHED_RUNS}
    assert known["people"] == 95.5 and known["hierarchical BPL, from strokes"] == 95.2
    assert known["convolutional siamese network"] == 92.0 and known["1-nearest neighbour"] == 21.7
    assert not any("prototypical" in name or "RCN" in name for name in known)


def test_errors_name_what_is_missing(smoke_run, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        report.write_report(tmp_path, *smoke_run.arguments[1:])
    with pytest.raises(ValueError, match="none of the network"):
        report.write_report(*smoke_run.arguments[:4], {"random": {}})


def test_draw_gives_figures_that_save_as_pictures(smoke_run, tmp_path):
    drawn = report.draw(*smoke_run.arguments)
    assert set(drawn) == FIGURES
    path = figures.save(drawn["trials"], tmp_path / "trials.png", dpi=50)
    with PIL.Image.open(path) as picture:
        assert picture.size[0] == 480 and np.asarray(picture.convert("L")).std() > 10


def test_table_escapes_all_but_html():
    table = pages.table(("a<b", ""), ["head&er", (True, ("<i>", pages.bar(0.25, True)))], (1,))
    assert "a&lt;b" in table and "head&amp;er" in table and "&lt;i&gt;" in table
    assert '<i style="width:25.0%"></i>' in table and "<tr class=own>" in table


# --------------------------------------------------------------------------------------- layers


def test_layers_of_koch_at_105_pixels():
    model = models.build(get_config("koch2015").model)
    table = layers.layer_table(model, (105, 105, 1))
    # Kernel x input channels x filters + filters; outputs x kernel x input channels.
    assert [(x.name, x.output_shape, x.parameters, x.multiply_adds) for x in table] == [
        ("encoder/conv1", (96, 96, 64), 10 * 10 * 64 + 64, 96 * 96 * 64 * 100),
        ("encoder/conv2", (42, 42, 128), 7 * 7 * 64 * 128 + 128, 42 * 42 * 128 * 49 * 64),
        ("encoder/conv3", (18, 18, 128), 4 * 4 * 128 * 128 + 128, 18 * 18 * 128 * 16 * 128),
        ("encoder/conv4", (6, 6, 256), 4 * 4 * 128 * 256 + 256, 6 * 6 * 256 * 16 * 128),
        ("encoder/embedding", (4096,), 9216 * 4096 + 4096, 9216 * 4096),
        ("head", (), 4097, 4096),
    ]
    assert [x.input_shape for x in table[1:]] == [
        (48, 48, 64),
        (21, 21, 128),
        (9, 9, 128),
        (9216,),
        (4096,),
    ]
    assert sum(x.parameters for x in table) == 38_951_745
    assert round(sum(x.multiply_adds for x in table[:-1]) / 1e9, 3) == 0.909


def test_layers_hold_all_parameters_of_the_residual_network():
    model = models.build(get_config("quickstart").model)
    table = layers.layer_table(model, (56, 56, 1))
    images = jnp.zeros((1, 56, 56, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), images, images)["params"]
    assert sum(x.parameters for x in table) == sum(x.size for x in jax.tree.leaves(params))
    assert len({x.name for x in table}) == len(table)
    stem = table[0]
    assert (stem.name, stem.kernel, stem.output_shape) == ("encoder/stem", (5, 5), (28, 28, 32))
    assert stem.multiply_adds == 28 * 28 * 32 * 25


def test_first_kernel_is_that_of_the_first_convolution(smoke_run):
    params = smoke_run.siamese.variables["params"]
    table = layers.layer_table(smoke_run.siamese.model, smoke_run.siamese.image_shape)
    kernel = layers.first_kernel(table, params)
    np.testing.assert_array_equal(kernel, params["encoder"]["stem"]["kernel"])
    assert layers.first_kernel(table[-1:], params) is None


# ----------------------------------------------------------------------------- what is shown


def make_set(shape=(6, 5, 1), kind="ink", num_classes=4, per_class=3, alphabets=1):
    rng = np.random.default_rng(0)
    count = num_classes * per_class
    half = np.arange(num_classes) * alphabets // num_classes
    return ImageSet(
        images=rng.integers(0, 256, (count, *shape)).astype(np.uint8),
        classes=np.repeat(np.arange(num_classes), per_class).astype(np.int32),
        drawers=np.tile(np.arange(1, per_class + 1), num_classes).astype(np.int32),
        class_names=tuple(f"a{half[c]}/character{c + 1:02d}" for c in range(num_classes)),
        class_alphabets=half.astype(np.int32),
        alphabet_names=tuple(f"a{i}" for i in range(alphabets)),
        kind=kind,
        name="small",
    )


def judge(images, queries, supports, answers, scores):
    """The result of given trials with given scores (R, Q, N)."""
    queries, scores = np.array(queries), iter(np.array(scores, float))
    listed = trials.Trials(
        name="within",
        scope="within alphabets",
        images=images.images,
        fingerprint="0",
        supports=np.array(supports)[..., None],
        queries=queries,
        answers=np.array(answers),
        groups=np.zeros(queries.shape, int),
        group_names=("a0",),
        group_kind="alphabet",
    )
    raw = list(scores)
    result = evaluate.evaluate_trials(lambda q, s: np.zeros((len(q), len(s))), listed)
    scores = np.array(raw)
    correct = evaluate.metrics.n_way_correct(scores, listed.answers)
    return dataclasses.replace(result, scores=scores, correct=correct)


@pytest.fixture(scope="module")
def planted():
    """Two runs of three queries, classes 0, 1, 2 against supports of 0, 1, 2 and of 2, 1, 3.

    Images 3c, 3c + 1, 3c + 2 are of class c. Run 0: 0 answers 1, 1 answers 0, 2 is right. Run 1:
    2 ties with 1, 1 is right, 3 answers 1.
    """
    scores = [
        [[1, 5, 0], [7, 2, 1], [0, 0, 3]],
        [[4, 4, 1], [0, 9, 1], [0, 3, 2]],
    ]
    return judge(
        make_set(), [[0, 3, 6], [6, 3, 9]], [[1, 4, 7], [7, 4, 10]], [[0, 1, 2], [0, 1, 2]], scores
    )


def test_confusions_by_hand(planted):
    """0 and 1 meet twice in run 0, once with either asked: 2 wrong. 1 and 2 meet twice in each
    run: half an error by the tie. 1 and 3 meet twice in run 1: one error. 0-2 and 2-3: none."""
    classes = make_set().classes
    assert report.confusions(planted, classes) == [(0, 1, 2.0, 2), (1, 3, 1.0, 2), (1, 2, 0.5, 4)]


def test_confusions_of_a_perfect_system_are_none():
    result = judge(make_set(), [[0]], [[1, 4]], [[0]], [[[2, 1]]])
    assert report.confusions(result, make_set().classes) == []


def test_sample_trials_shows_right_and_wrong_ones():
    correct = np.ones((5, 8))
    correct[2, 3] = correct[4, 1] = 0
    correct[0, 0] = 0.5
    chosen = figures.sample_trials(correct, 8)
    assert len({tuple(c) for c in chosen}) == 8
    np.testing.assert_array_equal([correct[r, q] == 1 for r, q in chosen], [True] * 5 + [False] * 3)
    assert (correct[tuple(figures.sample_trials(correct, 4).T)] == 1).sum() == 2
    assert (figures.sample_trials(np.zeros((2, 3)), 4)).shape == (4, 2)
    assert (figures.sample_trials(np.ones((2, 3)), 10)).shape == (6, 2)


def test_preview_is_the_batch_that_the_training_step_sees(glyphs):
    """A model that passes pixels on, and a loss that reports a fixed random sum of them."""

    class Passing(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return images.reshape(len(images), -1) * self.param("one", nn.initializers.ones, ())

    model = models.SiameseNet(Passing(), models.Comparator("cosine"))
    weights = np.random.default_rng(0).normal(size=(8, 2, 28 * 28))
    pairs = objectives.build(
        {"name": "verification", "batch": 8, "negatives": "any", "turns": "character"}, 8
    )
    probe = pairs._replace(
        loss=lambda compare, h, batch: ((h * weights).sum(), {"accuracy": batch.labels.mean()})
    )
    tx, index = optax.sgd(0.0), sampling.SetIndex.of(glyphs)
    warps = augment.build(get_config("koch2015").augment)
    step = steps.make_train_step(model, tx, probe, warps, "paper", steps.Devices(1))
    state = steps.init_state(model, tx, glyphs.image_shape, 5, ("accuracy",))
    losses = []
    for _ in range(2):
        state, metrics = step(state, jnp.asarray(glyphs.images), index)
        losses.append(float(metrics["loss"]))
    batch, pixels = steps.preview_batch(5, 1, glyphs.images, index, pairs, warps, "paper")
    assert pixels.shape == (8, 2, 28, 28, 1) and batch.labels.sum() == 4
    seen = (np.asarray(pixels).reshape(8, 2, -1) * weights).sum()
    np.testing.assert_allclose(losses[1], seen, rtol=1e-4)
    assert abs(losses[0] - seen) > 1


# -------------------------------------------------------------------------------------- figures


def embedded_pictures(svg):
    return [
        np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        for data in re.findall(r'data:image/png;base64,([^"]+)"', svg)
    ]


def test_pictures_show_ink_dark_on_white_and_photos_as_they_are():
    image = np.array([[0, 255], [51, 204]], np.uint8)[None, :, :, None]
    np.testing.assert_array_equal(figures.pictures(image, "ink")[0, :, :, 0], [[255, 0], [204, 51]])
    np.testing.assert_array_equal(
        figures.pictures(image / 255.0, "ink"), figures.pictures(image, "ink")
    )
    colour = np.random.default_rng(0).integers(0, 256, (2, 10, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(figures.pictures(colour, "photo"), colour)
    large = np.full((1, 200, 100, 3), 9, np.uint8)
    np.testing.assert_array_equal(figures.pictures(large, "photo"), np.full((1, 48, 24, 3), 9))


def test_trial_grid_holds_every_picture_and_verdict(planted):
    svg = figures.to_svg(figures.trial_grid_figure(planted, "ink", 6), "a < b")
    assert svg.startswith('<svg role="img" aria-label="a &lt; b" viewBox="0 0 ')
    shown = embedded_pictures(svg)
    assert len(shown) == 6 * 4
    wanted = {figures.pictures(make_set().images[[row]], "ink").tobytes() for row in (0, 3, 6, 9)}
    assert wanted <= {picture.tobytes() for picture in shown}
    assert svg.count("a0: right") == 2 and svg.count("a tie of 2") == 1
    assert svg.count("wrong, the right one ranks 2 of 3") == 3
    assert ">9.00<" in svg


def test_trial_grid_says_when_scores_are_not_finite(planted):
    scores = planted.scores.copy()
    scores[1, 1, 0] = np.nan
    result = dataclasses.replace(
        planted, scores=scores, correct=np.where(np.isnan(scores).any(-1), 1 / 3, planted.correct)
    )
    svg = figures.to_svg(figures.trial_grid_figure(result, "ink", 6), "")
    assert svg.count("no answer, a score is not finite") == 1 and ">nan<" in svg


@pytest.mark.parametrize("shape", [(20, 12, 1), (9, 16, 3)])
def test_pictures_of_photos_keep_shape_and_colour(shape):
    images = make_set(shape, "photo")
    pixels = images.images[:8].reshape(4, 2, *shape) / np.float32(255)
    svg = figures.to_svg(figures.pairs_figure(pixels, np.array([1, 1, 0, 0]), "photo"), "")
    shown = embedded_pictures(svg)
    assert len(shown) == 8
    expected = np.broadcast_to(images.images[0], (*shape[:2], 3))
    np.testing.assert_array_equal(shown[0], expected)
    assert svg.count("same (1)") == 2 and svg.count("different (0)") == 2
    height, width = (float(x) for x in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()[::-1])
    assert math.isclose(width, 72 * figures.WIDTH, rel_tol=1e-6) and height < width

    svg = figures.to_svg(figures.confusion_figure([(0, 2, 1.5, 7)], images, examples=2), "")
    assert len(embedded_pictures(svg)) == 4
    assert ">a0 1 and 3<" in svg and ">1.5 of 7 wrong<" in svg


def test_episode_sheet_leaves_masked_columns_out():
    pixels = np.random.default_rng(0).random((2, 2, 4, 6, 6, 1))
    mask = np.array([[True] * 4, [True, True, True, False]])
    svg = figures.to_svg(figures.episode_figure(pixels, mask, "ink"), "")
    assert len(embedded_pictures(svg)) == 2 * 4 + 2 * 3


def test_filters_are_scaled_each_to_its_own_largest_weight():
    kernel = np.zeros((3, 3, 1, 2))
    kernel[0, 0, 0] = [0.5, -20.0]
    svg = figures.to_svg(figures.filters_figure(kernel), "")
    first, second = embedded_pictures(svg)
    assert first.shape == (24, 24, 3)
    red, blue, zero = first[0, 0], second[0, 0], first[-1, -1]
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and zero.min() > 240


def test_embedding_map_joins_each_class_to_its_mean():
    images = make_set(num_classes=4, per_class=3, alphabets=2)
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(len(images), 7))
    svg = figures.to_svg(figures.embedding_figure([("one", embeddings, images)]), "")
    assert len(embedded_pictures(svg)) == 4
    assert "% of the variance" in svg


def test_principal_components_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 1, 1] + 10
    points, explained = figures.principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    projected = (x - x.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(projected), atol=1e-9)
    np.testing.assert_allclose(explained, values[::-1][:2] / values.sum(), atol=1e-12)
    points, explained = figures.principal_components(np.ones((3, 1)))
    assert points.shape == (3, 2) and not points.any() and not explained.any()


def test_curve_breaks_where_the_trials_go_between_alphabets(smoke_run):
    own = smoke_run.results[smoke_run.siamese.name]
    points = [r for key, r in own.items() if key.startswith("curve/unseen")]
    assert {r.scope for r in points} == {"within alphabets", "between alphabets"}
    axes = figures.curve_figure([("unseen", points)]).axes[0]
    lines = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[2], [9]]
    assert lines[1].get_markerfacecolor() == "white" != lines[0].get_markerfacecolor()
