"""Files are replaced whole, keep their mode, and never follow a link; records name no places."""

import os
import stat

import pytest

from siamese_jax import files
from siamese_jax.runs import workdir


def test_text_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "config.json"
    for text in ("first", "zweite ä"):
        files.replace_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.npz"
    files.replace_file(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.replace_file(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["weights.npz"]


def test_the_mode_is_that_of_the_old_file_or_the_usual_one(tmp_path):
    path, usual = tmp_path / "a", tmp_path / "usual"
    usual.write_text("")
    files.replace_text(path, "1")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    path.chmod(0o640)
    files.replace_text(path, "2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_replaced_and_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    files.replace_text(link, "new")
    assert target.read_text() == "precious"
    assert link.read_text() == "new" and not link.is_symlink()


def test_a_record_shows_a_command_without_its_places():
    """A value may follow after a space, and one dash may begin a flag."""
    words = "--workdir /home/me/a -workdir=/home/me/b --config.data.path /home/me/c --archives=/d"
    words += " --config.data.stream --config=/home/me/own.py:small --config /home/me/own.py"
    words += " -f /home/me/e --config=configs/best.py --seed=0 --tta 8"
    words += " --postgres=postgresql://me:secret@host file:///g"
    words += " --config=/home/me/configs/recorded.py:/home/me/a/v/variant.json"
    start = {"command": ["/home/me/repo/launch/train.py", *words.split()], "seed": 0}
    _, (shown,) = workdir.without_places({}, [start])
    expected = "launch/train.py --config=me/own.py:small --config me/own.py -f me/e"
    expected += " --config=configs/best.py --seed=0 --tta 8"
    expected += " --config=configs/recorded.py:v/variant.json"
    assert shown == {"command": expected.split(), "seed": 0}


def test_the_commit_is_that_of_a_checkout_which_holds_the_package(monkeypatch):
    """Not that of another repository in which the package is installed."""
    monkeypatch.setattr(workdir, "__file__", workdir.__file__.replace("workdir.py", "ignored.py"))
    start = workdir.provenance()
    assert (start["commit"], start["changed_files"]) == (None, [])
