"""What the figures show: pictures, verdicts, axes, and the numbers behind curves."""

import base64
import dataclasses
import io
import re
from html import unescape
from types import SimpleNamespace
from unittest import mock

import ml_collections
import numpy as np
import PIL.Image
import pytest
from scipy import special

from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation import metrics, probabilities, protocols, trials
from siamese_jax.reporting import (
    curves,
    embedding_map,
    image_sheets,
    section_training,
    section_trials,
    tasks,
    wording,
)
from siamese_jax.reporting.inputs import Training, count_confusions
from siamese_jax.training import objectives


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


def evaluate(images, queries, supports, answers, scores):
    """The result of given trials with given scores (R, Q, N)."""
    queries, scores = np.array(queries), np.array(scores, float)
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
        grouped_by="alphabet",
    )
    result = protocols.evaluate_trials(lambda q, s: np.zeros((len(q), len(s))), listed)
    correct = metrics.n_way_correct(scores, listed.answers)
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
    return evaluate(
        make_set(), [[0, 3, 6], [6, 3, 9]], [[1, 4, 7], [7, 4, 10]], [[0, 1, 2], [0, 1, 2]], scores
    )


def test_confusions_by_hand(planted):
    """0 and 1 meet twice in run 0, once with either asked: 2 wrong. 1 and 2 meet twice in each
    run: half an error by the tie. 1 and 3 meet twice in run 1: one error. 0-2 and 2-3: none.
    """
    classes = make_set().classes
    assert count_confusions(planted, classes) == [(0, 1, 2.0, 2), (1, 3, 1.0, 2), (1, 2, 0.5, 4)]


def test_confusions_of_a_perfect_system_are_none():
    result = evaluate(make_set(), [[0]], [[1, 4]], [[0]], [[[2, 1]]])
    assert count_confusions(result, make_set().classes) == []


def test_sample_trials_shows_right_and_wrong_ones():
    correct = np.ones((5, 8))
    correct[2, 3] = correct[4, 1] = 0
    correct[0, 0] = 0.5
    chosen = image_sheets.sample_trials(correct, 8)
    assert len({tuple(c) for c in chosen}) == 8
    np.testing.assert_array_equal([correct[r, q] == 1 for r, q in chosen], [True] * 5 + [False] * 3)
    assert (correct[tuple(image_sheets.sample_trials(correct, 4).T)] == 1).sum() == 2
    assert (image_sheets.sample_trials(np.zeros((2, 3)), 4)).shape == (4, 2)
    assert (image_sheets.sample_trials(np.ones((2, 3)), 10)).shape == (6, 2)


def embedded_pictures(html):
    return [
        np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        for data in re.findall(r'data:image/png;base64,([^")]+)[")]', html)
    ]


def words(html):
    """The visible text, a line a piece."""
    return [unescape(piece) for piece in re.findall(r">([^<]+)<", html) if piece.strip()]


NAMES = image_sheets.Names(lambda row: f"file{row}.png", lambda row: f"class {row // 3}")


def test_pictures_show_ink_dark_on_white_and_photos_as_they_are():
    image = np.array([[0, 255], [51, 204]], np.uint8)[None, :, :, None]
    np.testing.assert_array_equal(
        image_sheets.pictures(image, "ink")[0, :, :, 0], [[255, 0], [204, 51]]
    )
    np.testing.assert_array_equal(
        image_sheets.pictures(image / 255.0, "ink"), image_sheets.pictures(image, "ink")
    )
    colour = np.random.default_rng(0).integers(0, 256, (2, 10, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(image_sheets.pictures(colour, "photo"), colour)
    large = np.full((1, 200, 100, 3), 9, np.uint8)
    np.testing.assert_array_equal(image_sheets.pictures(large, "photo"), np.full((1, 96, 48, 3), 9))


def test_trial_sheet_holds_every_picture_verdict_and_name(planted):
    asked = []

    def why(first, second, middle):
        asked.append((first, second, middle))
        return "<p>because</p>"

    html = image_sheets.trial_sheet(planted, "ink", NAMES, ["a < b"], why, 6)
    shown = embedded_pictures(html)
    assert len(shown) == 6 * 4 == html.count(' alt="')
    wanted = {
        image_sheets.pictures(make_set().images[[row]], "ink").tobytes() for row in (0, 3, 6, 9)
    }
    assert wanted <= {picture.tobytes() for picture in shown}
    assert html.count("a &lt; b: right") == 2 and html.count("a tie of 2") == 1
    assert html.count("wrong, the right one ranks 2 of 3") == 3
    assert ">9.00<" in html
    # The first query of run 0 is image 0; image 4 is answered with 5, where image 1 is right with 1.
    said = "The query is file0.png. Answered: file4.png (5.00). Right: file1.png (1.00)."
    assert said in words(html)
    assert "query: file0.png" in html and "file4.png, score 5.00, answered" in html
    assert "file1.png, score 1.00, the right class" in html
    # Each wrong answer is explained beside the right class; a tie is not.
    assert len(asked) == 6 and html.count("because") == 6
    assert {(0, 4, 3.0), (0, 1, 3.0)} <= set(asked)
    assert "Why?" not in image_sheets.trial_sheet(planted, "ink", NAMES, ["a"], None, 6)


def test_trial_sheet_says_when_scores_are_not_finite(planted):
    scores = planted.scores.copy()
    scores[1, 1, 0] = np.nan
    result = dataclasses.replace(
        planted, scores=scores, correct=np.where(np.isnan(scores).any(-1), 1 / 3, planted.correct)
    )
    html = image_sheets.trial_sheet(result, "ink", NAMES, ["a"], None, 6)
    assert html.count("no answer, a score is not finite") == 1 and ">nan<" in html


@pytest.mark.parametrize("shape", [(20, 12, 1), (9, 16, 3)])
def test_pictures_of_photos_keep_shape_and_colour(shape):
    images = make_set(shape, "photo")
    pixels = images.images[:8].reshape(4, 2, *shape) / np.float32(255)
    html = image_sheets.training_pair_sheet(pixels, np.array([1, 1, 0, 0]), "photo")
    shown = embedded_pictures(html)
    assert len(shown) == 8
    expected = np.broadcast_to(images.images[0], (*shape[:2], 3))
    np.testing.assert_array_equal(shown[0], expected)
    assert words(html).count("same (1)") == 2 and words(html).count("different (0)") == 2

    html = image_sheets.confusion_sheet([(0, 2, 1.5, 7)], images, examples=2)
    assert len(embedded_pictures(html)) == 4
    assert {"a0 1 and 3", "1.5 of 7 wrong"} <= set(words(html))


def test_a_large_photo_becomes_a_jpeg_and_ink_never_does():
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    assert image_sheets.data_uri(noise).startswith("data:image/jpeg;base64,")
    ink = np.repeat(np.where(noise[..., :1] > 128, 255, 0), 3, -1).astype(np.uint8)
    assert image_sheets.data_uri(ink).startswith("data:image/png;base64,")
    np.testing.assert_array_equal(embedded_pictures(f'"{image_sheets.data_uri(ink)}"'), [ink])


def test_episode_sheet_leaves_masked_columns_out():
    pixels = np.random.default_rng(0).random((2, 2, 4, 6, 6, 1))
    mask = np.array([[True] * 4, [True, True, True, False]])
    html = image_sheets.episode_sheet(pixels, mask, "ink")
    assert len(embedded_pictures(html)) == 2 * 4 + 2 * 3
    assert "class 4, side B" in html.partition("Episode 2")[0]
    assert "class 4" not in html.partition("Episode 2")[2]


def test_names_of_classes_are_short():
    assert wording.class_name("Old_Greek/character01") == "Old Greek 1"
    assert wording.class_name("person_10") == "person 10"
    assert wording.pair_name("A_b/character01", "A_b/character20") == "A b 1 and 20"
    assert wording.pair_name("A/character01", "B/seven") == "A 1 and B seven"
    assert wording.pair_name("s_1", "s_2") == "s 1 and s 2"


def test_filters_are_scaled_each_to_its_own_largest_weight():
    kernel = np.zeros((3, 3, 1, 2))
    kernel[0, 0, 0] = [0.5, -20.0]
    first, second = embedded_pictures(image_sheets.filter_sheet(kernel))
    assert first.shape == (3, 3, 3)
    red, blue, zero = first[0, 0], second[0, 0], first[-1, -1]
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and zero.min() > 240


def test_principal_components_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 1, 1] + 10
    points, explained = embedding_map.principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    projected = (x - x.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(projected), atol=1e-9)
    np.testing.assert_allclose(explained, values[::-1][:2] / values.sum(), atol=1e-12)
    points, explained = embedding_map.principal_components(np.ones((3, 1)))
    assert points.shape == (3, 2) and not points.any() and not explained.any()


@pytest.mark.parametrize("shape", [(20, 12, 3), (9, 16, 1)])
def test_trials_of_photos_keep_shape_and_colour_and_name_their_classes(shape):
    images = make_set(shape, "photo")
    result = evaluate(images, [[0, 3]], [[1, 4]], [[0, 1]], [[[2, 1], [2, 1]]])
    html = image_sheets.trial_sheet(result, "photo", NAMES, ["a"], None, 2)
    shown = embedded_pictures(html)
    assert len(shown) == 2 * 3
    expected = np.broadcast_to(images.images[1], (*shape[:2], 3))
    assert any(np.array_equal(picture, expected) for picture in shown)
    assert words(html).count("class 0") == words(html).count("class 1") == 2


def test_episode_sheet_shows_each_of_three_sides():
    pixels = np.random.default_rng(0).random((1, 3, 4, 6, 6, 1))
    html = image_sheets.episode_sheet(pixels, np.ones((1, 4), bool), "ink")
    assert len(embedded_pictures(html)) == 3 * 4
    assert [side for side in "ABCD" if f"side {side}" in html] == ["A", "B", "C"]


def test_single_images_stand_with_their_names():
    pixels = np.random.default_rng(0).random((5, 8, 6, 3))
    names = ["a", "b & c", "a", "d" * 30, "e"]
    html = image_sheets.image_sheet(pixels, names, "photo", count=4)
    shown = embedded_pictures(html)
    assert len(shown) == 4
    np.testing.assert_array_equal(shown[0], np.rint(255 * pixels[0]))
    assert words(html) == names[:4]


# ------------------------------------------------------------------------------ pairs and curves


def verification_errors(scores, labels, first, second, shape=(6, 5, 1), kind="ink", threshold=0.5):
    """The result of given pairs with given scores, and P(same) = 1 / (1 + exp(-(2 s - 1)))."""
    images, labels = make_set(shape, kind), np.array(labels)
    listed = trials.VerificationPairs(
        name="verification",
        scope="made",
        images=images.images,
        fingerprint="0",
        first=np.array(first),
        second=np.array(second),
        labels=labels,
        groups=np.zeros(len(labels), int),
        group_names=("a0",),
        grouped_by="alphabet",
    )
    result = protocols.evaluate_pairs(
        lambda q, s: np.zeros((len(q), len(s))), listed, threshold=threshold
    )
    scores = np.array(scores, float)
    logits = 2 * scores - 1
    more = {"slope": 2.0, "offset": -1.0, "log_loss": probabilities.log_loss(logits, labels)}
    more["reliability_error"] = probabilities.reliability_error(logits, labels)
    return dataclasses.replace(
        result,
        scores=scores,
        correct=metrics.pair_correct(scores, labels, threshold),
        figures=result.figures | more,
    )


@pytest.fixture
def eight_pairs():
    """Same: 0.9, 0.1 (wrong), -3 (wrong), 0.9 again. Different: 0.2, 0.7 (wrong), 5 (wrong), nan."""
    return verification_errors(
        [0.9, 0.1, -3, 0.9, 0.2, 0.7, 5, np.nan],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 3, 6, 1, 0, 3, 6, 9],
        [1, 4, 7, 0, 3, 6, 9, 0],
    )


def test_pairs_to_show_are_of_each_kind_and_the_hardest_errors_come_first(eight_pairs):
    rows = dict(image_sheets.sample_pairs(eight_pairs, count=6))
    assert len(rows["Same: a random sample"]) == 3  # pairs 0 and 3 are the same two pictures
    assert {1, 2} < set(rows["Same: a random sample"]) < {0, 1, 2, 3}
    assert set(rows["Different: a random sample"]) == {4, 5, 6, 7}
    assert list(rows["Same but rejected: the least alike"]) == [2, 1]
    assert list(rows["Different but accepted: the most alike"]) == [6, 5]
    few = image_sheets.sample_pairs(eight_pairs, count=1, seed=1)
    assert [len(members) for _, members in few] == [1] * 4
    again = image_sheets.sample_pairs(eight_pairs, count=1, seed=1)
    assert [list(x) for _, x in few] == [list(x) for _, x in again]
    clean = verification_errors([1, 0], [1, 0], [0, 0], [1, 3])
    assert [what for what, _ in image_sheets.sample_pairs(clean)] == [
        "Same: a random sample",
        "Different: a random sample",
    ]


@pytest.mark.parametrize(("shape", "kind"), [((6, 5, 1), "ink"), ((20, 12, 3), "photo")])
def test_pairs_are_shown_with_dissimilarity_and_probability(shape, kind):
    result = verification_errors([0.9, -3, 5], [1, 1, 0], [0, 6, 6], [1, 7, 9], shape, kind)
    asked = []

    def apart(members):
        asked.append(list(members))
        return -result.scores[members]

    rows = [("some", np.array([0, 2])), ("others", np.array([1]))]
    html = image_sheets.pair_sheet(result, rows, apart, kind, NAMES, lambda *_: "<p>because</p>")
    assert asked == [[0, 2], [1]]
    assert words(html) == [
        *("some", "✓", "dissimilarity -0.90", f"P(same) {100 * special.expit(0.8):.1f} %"),
        *("file0.png", "file1.png"),
        *(
            "✗",
            "dissimilarity -5.00",
            "P(same) > 99.9 %",
            "file6.png",
            "file9.png",
            "Why?",
            "because",
        ),
        *("others", "✗", "dissimilarity 3.00", "P(same) < 0.1 %", "file6.png", "file7.png"),
        *("Why?", "because"),
    ]
    shown = embedded_pictures(html)
    images = make_set(shape, kind).images
    expected = image_sheets.pictures(images[[0, 1, 6, 9, 6, 7]], kind)
    np.testing.assert_array_equal(shown, expected)


def test_a_claim_is_shown_by_its_first_reference():
    result = verification_errors([0.9, -3], [1, 0], [0, 6], [[1, 2], [9, -1]])
    rows = image_sheets.sample_pairs(result)
    html = image_sheets.pair_sheet(result, rows, lambda members: members / 7, "ink", NAMES)
    np.testing.assert_array_equal(
        embedded_pictures(html), image_sheets.pictures(make_set().images[[0, 1, 6, 9]], "ink")
    )


def test_bins_of_the_reliability_diagram_give_the_reliability_error():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 300)
    logits = rng.normal(size=600) + labels
    mean, share = probabilities.reliability_bins(logits, labels)
    assert len(mean) == 15 and (np.diff(mean) > 0).all()
    error = probabilities.reliability_error(logits, labels)
    np.testing.assert_allclose(np.abs(mean - share).mean(), error, rtol=1e-12)
    np.testing.assert_allclose(share.mean(), 0.5)  # equal masses, both labels of half
    # Three different pairs (1/6 each) weigh as much as one same pair, and fill the first bin. At
    # probability 3/4 a share of (1/2) / (1/2 + 1/6) = 3/4 is the same, on either side of the edge.
    logits = np.log([1 / 4, 1 / 4, 3, 3])
    mean, share = probabilities.reliability_bins(logits, np.array([0, 0, 0, 1]), num_bins=2)
    np.testing.assert_allclose(mean, [(1 / 5 + 1 / 5 + 3 / 4) / 3, 3 / 4])
    np.testing.assert_allclose(share, [1 / 4, 3 / 4])


def test_reliability_figure_has_a_panel_for_each_list(eight_pairs):
    one = curves.reliability_figure([("test pairs", eight_pairs)])
    assert [axes.get_title(loc="left") for axes in one.axes] == ["Share of same pairs, test pairs"]
    two = curves.reliability_figure([("a", eight_pairs), ("b", eight_pairs)])
    assert len(two.axes) == 2
    error = eight_pairs.figures["reliability_error"]
    assert f"error {100 * error:.1f} points" in two.axes[1].texts[0].get_text()


def log(**more):
    rows = [
        {"phase": "train", "step": s, "loss": 1 / s, "accuracy": 0.1 * s, **more} for s in (1, 2)
    ]
    return [*rows, {"phase": "validation", "step": 2, "accuracy": 0.4}]


def test_training_curves_show_what_the_objective_logs():
    plain = curves.training_figure(log(), "validation")
    assert [axes.get_title(loc="left") for axes in plain.axes] == [
        "Training loss (nats)",
        "Accuracy",
    ]
    apart = curves.training_figure(
        log(distance_same=0.5, distance_different=1.5), "validation", "m", 2.0
    )
    loss, accuracy, distance = apart.axes
    assert loss.get_title(loc="left") == "Training loss (m)"
    assert distance.get_title(loc="left") == "Mean distance of training pairs"
    lines = [list(line.get_ydata()) for line in distance.get_lines()]
    assert lines == [[1.5, 1.5], [0.5, 0.5], [2.0, 2.0]]  # different, same, the margin
    assert distance.get_ylim()[1] > 2
    assert {text.get_text() for text in distance.texts} == {"same", "different", "margin"}
    active = curves.training_figure(
        log(distance_same=0.5, distance_different=1.5, active=0.7), "validation"
    )
    assert len(active.axes) == 3 and len(active.axes[2].get_lines()) == 2
    values = [list(line.get_ydata()) for line in active.axes[1].get_lines()]
    assert [0.7, 0.7] in values and [0.7, 0.7] not in [
        list(line.get_ydata()) for line in accuracy.get_lines()
    ]


def test_a_loss_without_a_unit_has_none_in_its_title():
    loss, _ = curves.training_figure(log(), "validation", "").axes
    assert loss.get_title(loc="left") == "Training loss"


def test_the_report_says_what_each_objective_trains():
    assert set(tasks.TASKS) == set(objectives.OBJECTIVES)
    fields = {"contrast": "episode", "n_way": 5, "k_shot": 2}
    said = {}
    for name in (*objectives.OBJECTIVES, "of my own"):
        section = ml_collections.ConfigDict({"name": name, **fields})
        said[name] = tasks.words(section, "picture"), tasks.loss_unit(section)
    assert {name for name, (words, _) in said.items() if words == "same or different"} == {
        "verification"
    }
    assert {name for name, (_, unit) in said.items() if not unit} == {
        *("multi_similarity", "circle", "proxy_anchor", "of my own")
    }
    assert said["arcface"] == ("to name the training class of each picture", "nats")
    assert (
        said["info_nce"][0].endswith("in the whole episode") and "5 classes" in said["matching"][0]
    )


@pytest.mark.parametrize(
    "drawn, caption",
    [
        ({"class_names": ("a",)}, "Pictures of the run’s first batch with the names"),
        ({"labels": np.ones(1)}, "Pairs of the run’s first batch with their labels"),
        ({"mask": np.ones((1, 2), bool)}, "Episodes of the run’s first batch."),
    ],
)
def test_the_caption_of_a_batch_goes_by_what_is_drawn(drawn, caption):
    config = ml_collections.ConfigDict({"objective": {"name": "arcface", "symmetries": "none"}})
    config.augment = {"distort": False}
    training = Training(images_per_step=2, images_per_class=2, **drawn)
    inputs = SimpleNamespace(config=config, training=training, data=SimpleNamespace())
    inputs.data.train, inputs.net = make_set(), SimpleNamespace(model=mock.Mock(centre_ink=False))
    assert caption in section_training.batch(inputs, {"training": ""})


@pytest.mark.parametrize("grouped_by, noun", [("alphabet", "alphabet"), ("class", "class")])
def test_the_table_of_parts_is_headed_by_what_its_rows_are(planted, grouped_by, noun):
    names = {"alphabet": ["A0"], "class": ["A0/c0"]}[grouped_by]
    per_group = {name: {"accuracy": 0.5, "num_trials": 2} for name in names}
    result = dataclasses.replace(planted, grouped_by=grouped_by, per_group=per_group)
    inputs = mock.Mock(network_results={"within": result}, group_noun="alphabet", has_groups=True)
    inputs.has_pictures, inputs.data.runs = False, None
    inputs.others.return_value = []
    inputs.data.test = SimpleNamespace(
        class_names=["A0/c0"], alphabet_names=("A0",), alphabet_count=np.array([1])
    )
    assert section_trials.parts_title(inputs) == f"{noun.capitalize()} by {noun}"
    assert f">{noun.capitalize()}</th>" in section_trials.parts(inputs)


def test_training_curves_show_the_validation_pairs():
    rows = log()
    rows[-1] |= {"pair_loss": 0.6, "pair_accuracy": 0.7, "pair_auc": 0.8}
    loss, accuracy = curves.training_figure(rows, "validation").axes
    assert loss.get_title(loc="left") == "Loss (nats)"
    assert [list(line.get_ydata()) for line in loss.get_lines()][:2] == [[1.0, 0.5], [0.6]]
    assert {text.get_text() for text in loss.texts} == {"training", "validation pairs"}
    assert [0.7] in [list(line.get_ydata()) for line in accuracy.get_lines()]
    assert "validation pairs" in {text.get_text() for text in accuracy.texts}


def test_losses_of_variants_share_a_colour_by_their_first_word():
    lines = [
        (name, [(1, y), (2, y / 2)]) for name, y in (("a, 1", 0.7), ("a, 2", 0.6), ("b, 1", 0.5))
    ]
    (axes,) = curves.losses_figure(lines, of_pairs=True).axes
    *drawn, log_2 = axes.get_lines()
    assert [list(line.get_ydata()) for line in drawn] == [[0.7, 0.35], [0.6, 0.3], [0.5, 0.25]]
    first, second, third = drawn
    assert first.get_color() == second.get_color() != third.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert set(log_2.get_ydata()) == {np.log(2)}
    assert {text.get_text() for text in axes.texts} == {"a, 1", "a, 2", "b, 1", "log 2 nats"}
    (others,) = curves.losses_figure(lines).axes
    assert len(others.get_lines()) == 3 and "log 2 nats" not in {t.get_text() for t in others.texts}
    (empty,) = curves.losses_figure([]).axes  # every run failed
    assert not empty.get_lines()
