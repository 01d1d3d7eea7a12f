"""Errors in one line, signals that are caught, and tables as text."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from siamese_jax import cli, files

ROOT = pathlib.Path(__file__).parent.parent
QUICKSTART = f"{ROOT / 'configs' / 'quickstart.py'}:smoke"


@pytest.mark.parametrize(
    "field, message",
    [
        ("warmup_steps=5", "config has no field warmup_steps; did you mean optim.warmup_steps?"),
        (
            "optim.lerning_rate=1",
            "config has no field optim.lerning_rate; did you mean optim.learning_rate?",
        ),
        ("image_size=20", "config has no field image_size; did you mean data.image_size?"),
        ("sede=1", "config has no field sede; did you mean seed?"),
        ("zzzz=1", "config has no field zzzz; it has augment, data, eval,"),
        ("optim=adam", "config.optim is a section: set one of its fields, optim.accumulate,"),
        (
            "objective.k_shot=1",
            "config has no field objective.k_shot; did you mean objective.n_way?",
        ),
        ("optim.name.x=1", "config has no field optim.name.x; did you mean optim.name?"),
    ],
)
def test_a_field_that_is_not_there(field, message):
    mistake = cli._config_mistake(["train", f"--config={QUICKSTART}", f"--config.{field}"])
    assert mistake.startswith(message)


def test_a_field_in_two_sections_is_named_twice():
    config = ROOT / "configs" / "mnist_to_omniglot.py"
    mistake = cli._config_mistake(["train", f"--config={config}", "--config.image_size=(20,20)"])
    assert mistake.endswith("did you mean data.image_size or test_data.image_size?")


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config():\n    return (\n", "line 2: '(' was never closed"),
        ("def get_config():\n    return x\n", "line 2: NameError: name 'x' is not defined"),
        ("def get_config():\n    raise ValueError('no such\\nthing')\n", "no such"),
        ("import nowhere\n", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_config_that_cannot_be_read(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    mistake = cli._config_mistake(["train", f"--config={path}"])
    assert mistake.startswith(str(path)) and message in mistake


def test_a_config_file_that_is_not_there():
    path = ROOT / "configs" / "quikstart.py"
    mistake = cli._config_mistake(["train", f"--config={path}:smoke"])
    assert mistake == f"no config file {path}; did you mean {ROOT / 'configs' / 'quickstart.py'}?"


@pytest.mark.parametrize("place", ["file", "nowhere/file"])
def test_a_file_in_the_way_is_named_as_the_user_named_it(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        files.replace_text(tmp_path / place / "a.json", "{}")
    line = cli._mistake(caught.value)
    assert line.startswith(f"{tmp_path / place / 'a.json'}: ")
    assert ("in the way" in line) == (place == "file")


def test_a_flag_that_begins_like_help_is_a_mistake(capsys):
    with pytest.raises(SystemExit) as caught:
        cli._parse(["train", "--helpme=1"], 2)
    assert caught.value.code == 2 and "helpme" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["best", "latest", "²"])
def test_a_checkpoint_is_a_step_or_a_word(word):
    assert cli.checkpoint(word) == word and cli.checkpoint("120") == 120


@pytest.mark.parametrize("words", [[], ["--config.seed=1"], ["--config.data.stream"]])
def test_nothing_is_wrong(words):
    assert cli._config_mistake(["train", f"--config={QUICKSTART}", *words]) is None
    assert cli._config_mistake(["evaluate", "--workdir=x"]) is None


def test_a_table_has_aligned_columns():
    rows = [["a", "1", ""], ["longer", "22", "note"]]
    assert cli.text_table(rows) == "a       1\nlonger  22  note"
    assert cli.text_table(rows, header=["name", "number", "x"]).splitlines()[:2] == [
        "name    number  x",
        "a       1",
    ]
    assert cli.text_table([], header=["name"]) == "name"


@pytest.mark.slow
def test_signals_are_caught_and_counted():
    code = (
        "import os, signal\n"
        "from siamese_jax import cli\n"
        "caught = cli.catch_signals()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "raise SystemExit(cli.EXIT_CODES[caught[0]] + len(caught))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=False)
    assert done.returncode == 75 + 2
    assert cli.EXIT_CODES[signal.SIGINT] == 130
