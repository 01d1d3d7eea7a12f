"""The report of a smoke run, of vectors, of colour pictures, of every objective; the layers."""

import base64
import dataclasses
import html.parser
import io
import math
import re

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import PIL.Image
import pytest
from recipes import get_config

from siamese_jax.data import augment, loading
from siamese_jax.evaluation import baselines
from siamese_jax.evaluation import protocols as protocols_lib
from siamese_jax.experiments import evaluate, report
from siamese_jax.inference import network
from siamese_jax.inference.devices import Devices
from siamese_jax.models import summary
from siamese_jax.models.comparators import Cosine
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.reporting import (
    curves,
    image_sheets,
    published,
    run_figures,
    run_page,
    section_results,
    section_run,
    section_training,
    section_trials,
    wording,
)
from siamese_jax.reporting.inputs import count_confusions
from siamese_jax.runs import workdir
from siamese_jax.training import loop, objectives, sampling
from siamese_jax.training.step import init_state, make_train_step, preview_batch

pytestmark = pytest.mark.slow  # they train

SECTIONS = ["results", "learning", "curve", "trials", "confusions", "verification"]
SECTIONS += ["retrieval", "open_set", "parts", "training", "network", "run"]
FIGURES = {"learning", "curve", "trials", "confusions", "roc"}
FIGURES |= {"reliability", "pairs", "training", "filters", "embeddings"}
SMALL = {"n_way": 5, "num_trials": 40, "num_pairs": 80, "curve_trials": 20, "curve_n_ways": (2, 9)}


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """A trained network of the quickstart's smoke variant, evaluated beside two baselines."""
    path = tmp_path_factory.mktemp("runs") / "a<b"  # a name that HTML must escape
    config = get_config("quickstart", "smoke")
    config.num_devices = 1
    loop.train_and_evaluate(config, str(path))
    config = workdir.read_config(path)
    data = loading.load({**config.data.to_dict(), "image_size": None})
    net = network.load(path)
    evaluation = protocols_lib.EvaluationData(data.test, data.validation, data.train, data.runs)
    systems = {
        net.name: net.system(),
        "pixel 1-NN": baselines.pixel_nearest_neighbour,
        "random": baselines.random_score(0),
    }
    protocols = ("official", "within", "between", "verification", "curve", "retrieval", "open_set")
    results = {
        name: protocols_lib.run_protocols(system, evaluation, protocols, SMALL, system_name=name)
        for name, system in systems.items()
    }
    return report.gather(path, config, data, net, results)


@pytest.fixture(scope="module")
def written(smoke_run):
    """The page's file, and the figures that were drawn for it."""
    drawn, draw = [], run_figures.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "draw", lambda inputs: drawn.append(draw(inputs)) or drawn[0])
        path = run_page.write(smoke_run)
    return path, *drawn


@pytest.fixture(scope="module")
def page(smoke_run, written):
    path, _ = written
    assert path == smoke_run.path / "report.html"
    assert sorted(p.name for p in smoke_run.path.glob("report*")) == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_warns_of_answers_that_depend_on_company(smoke_run):
    assert "Its figures do not hold" not in section_results.results(smoke_run)
    name, trials = smoke_run.net.name, smoke_run.network_results["within"]
    bad = dataclasses.replace(trials, diagnostics={**trials.diagnostics, "batch_dependence": 0.3})
    joint = dataclasses.replace(
        trials,
        name="assignment/within",
        diagnostics={**trials.diagnostics, "joint": "one to one, protocol assignment"},
    )
    results = {**smoke_run.results, name: {"within": bad, "assignment/within": joint}}
    text = visible(section_results.results(dataclasses.replace(smoke_run, results=results)))
    assert (
        f"{name}: its answers depend on what else is asked with them (batch_dependence 0.3," in text
    )
    assert f"{name}: joint answers (one to one, protocol assignment)." in text
    assert "Joint answers, one to one: within alphabets: " in text


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
        link.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,"))
        for link in re.findall(r'(?:href|src)="([^"]*)"', page)
    )
    assert len(page) < 5e6
    visible(page)


def test_page_holds_every_section_and_figure(page):
    assert re.findall(r'<section id="([^"]*)"', page) == SECTIONS
    assert [link[1:] for link in re.findall(r'<a href="([^"]*)"', page)] == SECTIONS
    assert page.count("<figure>") == len(FIGURES)
    charts = FIGURES - {"trials", "confusions", "pairs", "training", "filters", "embeddings"}
    assert page.count('<svg role="img"') == 2 * len(charts)  # a broad and a slim one
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) > 100 and all(re.search(r' alt="[^"]+"', tag) for tag in pictures)
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
            if key.startswith("curve/training") and r.system != smoke_run.net.name:
                continue  # the curve of training classes is the network's alone
            assert r.trial_hash in text
            if key == "open_set":
                assert math.isnan(r.accuracy)  # 1 % false alarms of fewer than 100 impostors
                continue
            shown = f"{100 * r.accuracy:.2f} % {100 * r.wilson[0]:.1f} – {100 * r.wilson[1]:.1f}"
            assert shown in text, (r.system, r.name)
    verified = smoke_run.network_results["verification"]
    assert f"{verified.figures['auc']:.4f}" in text


def test_page_holds_retrieval_and_the_open_set(page, smoke_run):
    text = visible(page)
    results = smoke_run.network_results
    found, known = results["retrieval"], results["open_set"]
    f = found.figures
    shares = [f["recall_at_1"], f["recall_at_5"], f["recall_at_10"], f["map_at_r"]]
    assert f"{smoke_run.net.name} " + " ".join(f"{100 * x:.2f} %" for x in shares) in text
    count = len(smoke_run.data.test)
    assert f"Retrieval: {count} queries among all {count} images" in text
    assert f"ranks all other {count - 1} pictures" in text and "of which 7 are of its class" in text
    impostors = known.figures["num_impostors"]
    assert f"{known.num_trials} probes of them and {impostors} of others" in text
    assert f"rank 1 {100 * known.figures['rank_1']:.2f} %" in text
    at = known.figures["at"]["10 %"]
    row = f"10 % the test’s impostors {at['threshold']:.4g} {100 * at['dir']:.2f} % "
    assert row + f"{100 * at['false_alarms']:.2f} %" in text
    row = f"10 % validation {at['transferred_threshold']:.4g} {100 * at['transferred_dir']:.2f} %"
    assert row in text
    # What so few impostors cannot show is a dash, with the reason, and nowhere a NaN.
    assert "0.1 % the test’s impostors – – –" in text
    reason = f"1 % false alarms need 100 impostors or more; the test set has {impostors}"
    assert f"Open set has no accuracy (–): {reason}." in text
    assert not re.search(r"\bnan\b", text) and "width:nan" not in page


def test_page_holds_the_calibration_and_the_pairs(page, smoke_run):
    text = visible(page)
    own = smoke_run.network_results["verification"]
    f = own.figures
    row = f"{own.system} {f['slope']:.4g} {f['offset']:.4g} {f['reliability_error']:.4f} "
    assert row + f"{f['log_loss']:.4f}" in text
    rejected = int(((own.scores < f["threshold"]) & (own.trials.labels == 1)).sum())
    accepted = int(((own.scores >= f["threshold"]) & (own.trials.labels == 0)).sum())
    assert f"{rejected} same pairs are rejected and {accepted} different ones accepted" in text
    assert "The dissimilarity is the distance of the two embeddings" in text
    head = smoke_run.net.variables["params"]["head"]
    similarity = (own.scores - float(head["bias"])) / float(head["scale"])
    apart = np.sqrt(np.maximum(2 - 2 * similarity, 0))  # as of unit vectors with this cosine
    chosen = dict(image_sheets.sample_pairs(own))["Same: a random sample"]
    shown = re.findall(r">(dissimilarity [-\d.]+)<", page)
    wanted = [apart[pair] for pair in chosen]
    np.testing.assert_allclose(
        [float(x.split()[1]) for x in shown[: len(chosen)]], wanted, atol=0.006
    )


def test_errors_are_explained_by_places(page, smoke_run):
    """The comparator is `local`: each wrong answer shown has a figure for it and for the right class."""
    text = visible(page)
    wrong = [part for part in page.split('<p class="card-title bad">')[1:] if "ranks" in part[:200]]
    assert wrong and all(part.count('class="explanation"') >= 2 for part in wrong[:-1])
    assert "from the middle of the two scores" in text and "from the threshold" in text
    assert "“Why?” below an error shows the two pictures" in text


def test_published_figures_stand_beside_official_runs_only(smoke_run, tmp_path):
    """The same page with the runs called official, and with `within` and `official` alone."""
    runs = dataclasses.replace(smoke_run.data.runs, name="official runs")
    data = dataclasses.replace(smoke_run.data, runs=runs)
    few = {
        name: {key: by_key[key] for key in ("official", "within")}
        for name, by_key in smoke_run.results.items()
    }
    page = run_page.render(dataclasses.replace(smoke_run, data=data, results=few))
    text = visible(page)
    for name, value, source in published.RUNS:
        assert f"{name} {value:.1f} % {source}" in text
    assert "Not Omniglot" not in text
    assert "matching network" not in text  # `between` was not evaluated
    # The curve, the verification, the retrieval and the open set.
    assert "Not evaluated here: verification, retrieval, open_set, curve." in text
    absent = ("curve", "verification", "retrieval", "open_set")
    assert re.findall(r'<section id="([^"]*)"', page) == [s for s in SECTIONS if s not in absent]


def test_published_figures_between_alphabets_stand_beside_their_split_only(smoke_run):
    between = dataclasses.replace(smoke_run.network_results["between"], n_way=20)
    results = {smoke_run.net.name: {"between": between}}
    data = dataclasses.replace(smoke_run.data, runs=None)
    for split, there in (("lake", False), ("vinyals", True)):
        config = smoke_run.config.copy_and_resolve_references()
        with config.unlocked():
            config.data.name, config.data.split = "omniglot", split
        inputs = dataclasses.replace(smoke_run, config=config, data=data, results=results)
        text = visible(section_results.results(inputs) + section_run.head(inputs))
        for name, by_shots, source in published.BETWEEN:
            assert (f"{name} {by_shots[1]:.1f} % {source}" in text) == there
        assert "Not Omniglot" not in text


def test_errors_name_what_is_missing(smoke_run, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        dataclasses.replace(smoke_run, path=tmp_path)
    with pytest.raises(ValueError, match="none of the network"):
        dataclasses.replace(smoke_run, results={"random": {}})


def test_there_is_no_report_without_a_saved_evaluation(smoke_run, tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        report.write_saved_report(tmp_path)
    with pytest.raises(ValueError, match=r"holds no results\.json: evaluate the run first"):
        report.write_saved_report(smoke_run.path)


def test_draw_gives_every_figure(written):
    assert set(written[1]) == FIGURES


def test_the_tiles_say_what_chance_is_and_what_a_score_means(smoke_run):
    text = visible(section_run.head(smoke_run))
    assert f"chance {100 / smoke_run.network_results['official'].n_way:.2f} %" in text
    assert "chance 20.00 %" in text and "chance 50.00 %" in text  # 5-way trials, pairs
    found = smoke_run.network_results["retrieval"].trials
    assert f"chance {100 * 7 / (len(found.images) - 1):.2f} %" in text  # 7 others of its class
    assert "A score says how alike two pictures are" in text


# ---------------------------------------------------------------------------- other runs and sets

EPISODES = {"episodes": 2, "n_way": 5, "pad_with_symmetries": False, "symmetries": "none"}
PAIRS = {"batch": 8, "negatives": "any", "symmetries": "none"}
OBJECTIVES = {  # fields, pictures of the sheet, words of the page
    "verification": (PAIRS, 16, "Pairs of the run’s first batch with their labels"),
    "contrastive": (PAIRS | {"margin": 1.0}, 16, "a distance below half of the margin"),
    "triplet": (EPISODES | {"mining": "random", "margin": 1.0}, 20, "are anchor and negative"),
    "prototypical": (EPISODES | {"k_shot": 2}, 30, "on the sides A, B and C by different drawers"),
    "matching": (EPISODES | {"k_shot": 1}, 20, "Each side is the query once"),
    "classifier": (
        {"batch": 6, "symmetries": "none"},
        6,
        "with the names of their training classes",
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_sheet_of_every_objective(smoke_run, name):
    fields, pictures, words = OBJECTIVES[name]
    config = smoke_run.config.copy_and_resolve_references().unlock()
    config.objective = ml_collections.ConfigDict({"name": name, **fields})
    config.augment.distort = False
    if objectives.learns_distances(name):
        config.model.comparator, config.model.head_args = "euclidean", {}
    training = report.preview(config, smoke_run.data)
    inputs = dataclasses.replace(smoke_run, config=config, training=training)
    figures = {
        "training": run_figures.training_batch(training, "ink"),
        "learning": "",
    }
    learning, sheet = (
        section(inputs, figures) for section in (section_training.learning, section_training.batch)
    )
    assert words in visible(learning + sheet)
    assert f"objective “{name}”" in visible(section_run.head(inputs))
    assert sheet.count("data:image/png;base64") == pictures
    if name == "classifier":
        names = set(re.findall(r"<span>([^<]*)</span>", sheet))
        known = {wording.class_name(x) for x in smoke_run.data.train.class_names}
        assert names and names <= known


def test_a_run_evaluated_on_another_set_names_both(smoke_run):
    other = loading.load(
        {"name": "glyphs", "seed": 7, "glyphs_alphabets": 6, "glyphs_characters": (6, 9)}
    )
    train = dataclasses.replace(smoke_run.data.train, name="set of before")
    test = dataclasses.replace(other.test, name="set of after")
    data = dataclasses.replace(other, train=train, test=test, note="this; evaluated on that")
    config = smoke_run.config.copy_and_resolve_references().unlock()
    config.test_data = ml_collections.ConfigDict({"name": "glyphs", "seed": 7})
    inputs = dataclasses.replace(smoke_run, config=config, data=data)
    text = visible(section_run.head(inputs) + section_run.provenance(inputs))
    assert f"Trained on {train.num_classes} classes of 5 alphabets (set of before), " in text
    assert f"evaluated on another set, {test.num_classes} classes" in text
    assert "(set of after)" in text and "Validation set (thresholds)" in text
    assert "this; evaluated on that" in text and "never seen" not in text


def tiny(data, encoder, objective, comparator="l1", **augmentation):
    """A config that trains four steps."""
    return ml_collections.ConfigDict(
        {
            **{"seed": 0, "num_steps": 4, "num_devices": 1, "log_every": 2, "keep_best": 1},
            "data": data,
            "model": {
                **{"comparator": comparator, "head_args": {}, "dtype": "float32"},
                **encoder,
            },
            "objective": {"symmetries": "none", "negatives": "any", "batch": 8, **objective},
            "augment": {"distort": False, **augmentation},
            "optim": {
                "name": "adamw",
                "learning_rate": 3e-3,
                "warmup_steps": 1,
                "weight_decay": 0.0,
            },
            "eval": {"every": 4, "num_trials": 30, "n_way": 3, "seed": 0, "patience": 0},
        }
    ).lock()


def test_a_run_of_vectors(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 4))
    lines = ["a,b,c,d,class"]
    for row in range(90):
        values = centres[row % 3] + rng.normal(size=4)
        lines.append(",".join([*(f"{x:.3f}" for x in values), f"flower_{row % 3}"]))
    (tmp_path / "table.csv").write_text("\n".join(lines))
    data = {"name": "vectors", "path": str(tmp_path / "table.csv"), "split": "rows"}
    data["image_size"] = None
    encoder = {"encoder": "dense", "encoder_args": {"hidden": (8,), "units": 4}}
    path = tmp_path / "run"
    loop.train_and_evaluate(tiny(data, encoder, {"name": "verification"}), str(path))
    protocols = ["within", "verification", "curve", "retrieval", "open_set"]
    settings = {"n_way": 3, "num_trials": 30, "num_pairs": 40, "curve_trials": 20}
    request = evaluate.EvaluationRequest(path, protocols, settings, baselines=False)
    results = evaluate.evaluate_run(request)
    page = (path / "report.html").read_text(encoding="utf-8")
    text = visible(page)
    shown = [name for name in SECTIONS if name != "trials"]
    assert re.findall(r'<section id="([^"]*)"', page) == shown
    # The course, the curve, the ROC and the reliability, each broad and slim: none with pictures.
    assert page.count('<svg role="img"') == 8 and "data:image/png" not in page
    assert "two vectors of 4 features are" in text and "picture" not in text.replace(
        "There are no pictures to show", ""
    ).replace("there are no pictures to show", "")
    assert "on other vectors of the same classes" in text
    assert "Among the test classes: 3-way 1-shot, 30 trials" in text  # which have no alphabets
    assert "One vector costs 64 multiply-adds" in text  # 4 x 8 + 8 x 4
    assert "Search among all vectors" in text
    for name in ("flower 0", "flower 1", "flower 2"):  # on the map
        assert f">{name}<" in page
    result = results["run @ 4"]["within"]
    confused = count_confusions(result, loading.load(workdir.read_config(path).data).test.classes)
    a, b, wrong, met = confused[0]
    assert f"flower {a} and flower {b} {wrong:.4g} {met}" in text
    assert report.write_saved_report(path).read_text(encoding="utf-8") == page


def test_a_run_of_colour_pictures_that_are_not_square(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for person in range(10):
        folder = tmp_path / "faces" / f"person{person}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for i in range(6):
            pixels = colour + rng.integers(-20, 20, (16, 12, 3))
            PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    pairs = ["first,second,label"]
    for i in range(1, 6):
        pairs.append(f"faces/person0/0.png,faces/person0/{i}.png,1,same{i % 2}")
        pairs.append(f"faces/person0/0.png,faces/person1/{i}.png,0,other{i % 2}")
    (tmp_path / "pairs.csv").write_text("\n".join(pairs))
    data = {"name": "folder", "path": str(tmp_path / "faces"), "fractions": (4, 3, 3)}
    data["image_size"] = (16, 12)
    encoder = {"encoder": "small", "encoder_args": {"filters": (4, 4), "hidden": (), "units": 4}}
    encoder["head_args"] = {"scale": 2.0, "bias": 1.0}
    path = tmp_path / "run"
    config = tiny(data, encoder, {"name": "contrastive", "margin": 1.0}, "euclidean")
    loop.train_and_evaluate(config, str(path))
    protocols = ["within", "verification", "retrieval", "open_set"]
    settings = {"n_way": 3, "num_trials": 30, "num_pairs": 40}
    request = evaluate.EvaluationRequest(
        path, protocols, settings, baselines=False, pairs=tmp_path / "pairs.csv"
    )
    figures, draw = [], run_figures.draw
    monkeypatch.setattr(run_figures, "draw", lambda x: figures.append(draw(x)) or figures[0])
    results = evaluate.evaluate_run(request)
    monkeypatch.undo()
    page = (path / "report.html").read_text(encoding="utf-8")
    text = visible(page)
    assert "The dissimilarity is the distance of the two embeddings" in text
    assert "The dissimilarity is minus the score" in text  # of claims with several references
    assert "Of several references the first is shown" in text
    assert "4 pairs, 2 of one class and 2 of two (pairs.csv, up to 3 references a claim)" in text
    assert "Pairs of a file: pairs.csv" in text and "never seen" in text
    assert "official 20 runs" not in text
    again = report.write_saved_report(path, pairs=tmp_path / "pairs.csv")
    assert again.read_text(encoding="utf-8") == page

    net, data = network.load(path), loading.load(config.data)
    inputs = report.gather(path, config, data, net, results)
    assert "This one compares by Euclidean." in section_trials.why_note(inputs)
    (drawn,) = figures
    expected = {"learning", "trials", "roc", "pairs", "reliability", "file_roc", "file_pairs"}
    assert expected <= set(drawn) and {"training", "filters", "embeddings"} <= set(drawn)
    # The distance that is written below a pair is the one that its score was made of.
    own = results["run @ 4"]["verification"]
    head = net.variables["params"]["head"]
    apart = (float(head["bias"]) - own.scores) / float(head["scale"])
    rows = image_sheets.sample_pairs(own)
    wanted = [f"{apart[pair]:.2f}" for _, members in rows for pair in members]
    assert re.findall(r">dissimilarity (-?[\d.]+)<", drawn["pairs"]) == wanted
    for name in ("trials", "pairs", "file_pairs", "training"):
        data = re.findall(r'src="data:image/png;base64,([^"]+)"', drawn[name])
        shown = [PIL.Image.open(io.BytesIO(base64.b64decode(x))) for x in data]
        assert {(picture.mode, picture.size) for picture in shown} == {("RGB", (12, 16))}
    # Photos are called by their files and classes, and nothing is said of alphabets.
    assert re.search(r"The query is person\d/\d.png", text)
    assert "faces/person0/0.png" in text  # of the file of pairs
    assert "alphabet" not in re.sub(r"whole groups \(alphabets, runs or classes\)", "", text)
    assert "Class by class" in text and "person" in text.partition("Class by class")[2]


# ------------------------------------------------------------------------ the network, the batch


def test_first_kernel_is_that_of_the_first_convolution(smoke_run):
    params = smoke_run.net.variables["params"]
    table = summary.layer_table(smoke_run.net.model, smoke_run.net.image_shape)
    kernel = summary.first_kernel(table, params)
    np.testing.assert_array_equal(kernel, params["encoder"]["stem"]["kernel"])
    assert summary.first_kernel(table[-1:], params) is None


def test_preview_is_the_batch_that_the_training_step_sees(glyphs):
    """A model that passes pixels on, and a loss that reports a fixed random sum of them."""

    class Passing(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return images.reshape(len(images), -1) * self.param("one", nn.initializers.ones, ())

    model = SiameseNet(Passing(), Cosine())
    weights = np.random.default_rng(0).normal(size=(8, 2, 28 * 28))
    pairs = objectives.build(
        {"name": "verification", "batch": 8, "negatives": "any", "symmetries": "character"}, 8
    )
    probe = pairs._replace(
        loss=lambda compare, h, batch: ((h * weights).sum(), {"accuracy": batch.labels.mean()})
    )
    tx, index = optax.sgd(0.0), sampling.SetIndex.of(glyphs)
    warps = augment.build(get_config("koch2015").augment)
    step = make_train_step(model, tx, probe, warps, Devices(1))
    state = init_state(model, tx, glyphs.image_shape, 5, ("accuracy",))
    losses = []
    for _ in range(2):
        state, metrics = step(state, jnp.asarray(glyphs.images), index)
        losses.append(float(metrics["loss"]))
    batch, pixels = preview_batch(5, 1, glyphs.images, index, pairs, warps)
    assert pixels.shape == (8, 2, 28, 28, 1) and batch.labels.sum() == 4
    seen = (np.asarray(pixels).reshape(8, 2, -1) * weights).sum()
    np.testing.assert_allclose(losses[1], seen, rtol=1e-4)
    assert abs(losses[0] - seen) > 1


def test_curve_breaks_where_the_trials_go_between_alphabets(smoke_run):
    own = smoke_run.network_results
    points = [r for key, r in own.items() if key.startswith("curve/unseen")]
    assert {r.scope for r in points} == {"within alphabets", "between alphabets"}
    axes = curves.curve_figure([("unseen", points)]).axes[0]
    lines = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[2], [9]]
    assert lines[1].get_markerfacecolor() == "white" != lines[0].get_markerfacecolor()
