"""The quiz: the page holds the very trials, and a player's file becomes a row of the table."""

import base64
import io
import json
import pathlib
import re
import types

import numpy as np
import pytest
from launching import launch
from PIL import Image

import siamese_jax
from siamese_jax.data import loading
from siamese_jax.evaluation import intervals, protocols
from siamese_jax.evaluation import trials as trials_lib
from siamese_jax.experiments import quiz
from tests import planted

LAUNCHER = pathlib.Path(__file__).resolve().parents[1] / "launch" / "quiz.py"


@pytest.fixture(scope="module")
def small(glyphs):
    """A quiz of two runs of 8 trials, whose network is always wrong in the first run."""
    runs = loading.make_runs(glyphs, 0, num_runs=2, n_way=8)
    trials = trials_lib.official_trials(runs)
    chosen = trials.answers.copy()
    chosen[0] = (chosen[0] + 1) % 8
    correct = (chosen == trials.answers).astype(float)
    return quiz.Quiz(trials, tuple(runs.alphabets), chosen, correct, "a </script> network")


def content_of(html):
    packed = re.search(r'<script type="application/json" id="quiz">(.*?)</script>', html, re.S)[1]
    return json.loads(packed)


def answers_of(small, wrong=(), name="Ada", **changes):
    """A player's file, as the page makes it."""
    trials = small.trials
    answers = [
        {
            "run": int(r),
            "query": int(q),
            "alphabet": small.alphabets[r],
            "chosen": int((trials.answers[r, q] + ((r, q) in wrong)) % 8),
            "answer": int(trials.answers[r, q]),
            "place": 3,
            "milliseconds": 1000.0 + 100 * q,
            "model": float(small.correct[r, q]),
        }
        for r, q in np.ndindex(trials.answers.shape)
    ]
    content = {
        "format": quiz.FORMAT,
        "trials": trials.name,
        "hash": trials.hash,
        "network": "net",
        "player": name,
        "left_out": [],
        "answers": answers,
    }
    return content | changes


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_the_page_holds_the_very_trials(small):
    html = quiz.render(small)
    content = content_of(html)
    assert content["hash"] == small.trials.hash and content["network"] == "a </script> network"

    def picture(index):
        with Image.open(io.BytesIO(base64.b64decode(content["images"][index]))) as file:
            return 255 - np.asarray(file.convert("L"))

    for r, run in enumerate(content["runs"]):
        assert run["answers"] == small.trials.answers[r].tolist()
        assert run["correct"] == small.correct[r].tolist()
        for places, rows in (
            (run["queries"], small.trials.queries[r]),
            (run["supports"], small.trials.supports[r, :, 0]),
        ):
            for place, row in zip(places, rows, strict=True):
                np.testing.assert_array_equal(picture(place), small.trials.images[row][..., 0])


def test_the_page_is_replaced_at_once(small, tmp_path):
    path = tmp_path / "quiz.html"
    path.touch()
    old = path.stat().st_ino
    quiz.write_page(small, path)
    assert path.read_text() == quiz.render(small) and path.stat().st_ino != old


def test_the_page_knows_no_other_address(small):
    html = quiz.render(small)
    html = html.replace(json.dumps(content_of(html)["images"], separators=(",", ":")), "")
    assert not re.search(r"https?:|//[a-z]|@import|<link(?! rel=\"icon\" href=\"data:)", html)
    assert "default-src 'none'" in html and "{{" not in html


@pytest.mark.slow
def test_the_network_answers_as_in_the_evaluation(small, glyphs):
    net = siamese_jax.load("omniglot")
    answered = quiz.answer(net, small.trials, small.alphabets)
    result = protocols.evaluate_trials(net.system(), small.trials)
    np.testing.assert_array_equal(answered.correct, result.correct)
    right = answered.chosen == small.trials.answers
    np.testing.assert_array_equal(right, answered.correct == 1)


def test_a_player_is_read_from_the_file(small, tmp_path):
    content = answers_of(small, wrong={(0, 0), (1, 3)}, left_out=["Tengwar"])
    content["answers"][5]["milliseconds"] = None
    player = quiz.read_player(write(tmp_path / "ada.json", content))
    assert player.name == "Ada" and player.left_out == ("Tengwar",)
    assert player.correct.sum() == 14 and player.model.sum() == 8
    assert np.isnan(player.seconds).sum() == 1


def test_the_table_has_players_beside_the_network(small, tmp_path):
    files = [
        write(
            tmp_path / "a.json", answers_of(small, wrong={(0, 0)}, name="Ada | the\nfirst\x1b[1m")
        ),
        write(tmp_path / "b.json", answers_of(small, name="")),
        write(tmp_path / "c.json", answers_of(small, hash="other")),
    ]
    table = quiz.format_players([quiz.read_player(path) for path in files])
    low, high = intervals.wilson_interval(15, 16)
    assert (
        f"| Ada / the first[1m | 16 | 93.75 | {100 * low:.1f} - {100 * high:.1f} | 1.35 | 50.00 |"
        in (table)
    )
    assert "| no name | 16 | 100.00 |" in table
    assert "| all 2 players | 32 | 96.88 |" in table
    assert table.count("trials, hash") == 2 and "\x1b" not in table


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: "not JSON",
        lambda c: [],
        lambda c: {},
        lambda c: c | {"format": "another"},
        lambda c: c | {"answers": []},
        lambda c: c | {"answers": [c["answers"][0]] * 2},
        lambda c: c | {"answers": [{"run": 0}]},
        lambda c: c | {"answers": "many"},
        lambda c: c | {"answers": [c["answers"][0] | {"chosen": "x"}]},
        lambda c: c | {"left_out": None},
        lambda c: c | {"answers": [c["answers"][0] | {"model": None}]},
        lambda c: c | {"answers": [c["answers"][0] | {"model": "nan"}]},
        lambda c: c | {"answers": [c["answers"][0] | {"milliseconds": -5}]},
    ],
)
def test_a_spoilt_file_is_refused_in_one_line(small, tmp_path, spoil):
    path = write(tmp_path / "x.json", spoil(answers_of(small)))
    with pytest.raises(ValueError, match="x.json: no answers of a quiz") as caught:
        quiz.read_player(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_official_trials_are_those_of_the_evaluation(real_data, prepared_omniglot, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(pathlib.Path(prepared_omniglot.data_dir).parents[1]))
    archives = real_data / "omniglot"
    trials, alphabets = quiz.draw_trials(archives)
    assert trials.hash == "133a54498d41" and len(alphabets) == 20
    trials, alphabets = quiz.draw_trials(archives, "within", num_runs=4, seed=1)
    assert trials.num_trials == 80 and len(set(alphabets)) == 4


@pytest.mark.parametrize("num_runs", [1, 4])
def test_a_run_is_named_by_its_alphabet(num_runs, monkeypatch):
    """Also where one run is all there is, and trials of one alphabet are grouped by character."""
    data = types.SimpleNamespace(test=planted.make_set((20, 21)))
    monkeypatch.setattr(loading, "load", lambda _: data)
    _, alphabets = quiz.draw_trials(None, "within", num_runs)
    assert len(alphabets) == num_runs and set(alphabets) <= {"alphabet0", "alphabet1"}


@pytest.mark.parametrize("bad", [{"kind": "between"}, {"num_runs": 0}, {"num_runs": 21}])
def test_trials_that_cannot_be_had_are_refused(bad):
    with pytest.raises(ValueError, match="one of official, within|1 to 20 runs"):
        quiz.draw_trials("nowhere", **bad)


@pytest.mark.slow
def test_the_launcher_reads_players(small, tmp_path):
    path = write(tmp_path / "ada.json", answers_of(small))
    done = launch(LAUNCHER.name, "--read", path)
    assert done.returncode == 0 and "| Ada | 16 | 100.00 |" in done.stdout
    failed = launch(LAUNCHER.name, "--read")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
