"""Files are replaced whole, keep their mode, and never follow a link."""

import os
import stat

import pytest

from siamese_jax import files


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
