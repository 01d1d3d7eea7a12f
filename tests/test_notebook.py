"""The notebook of docs/ runs from top to bottom, and is kept with its pictures."""

import json
import pathlib

import pytest

PATH = pathlib.Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"


def test_the_notebook_is_kept_with_its_outputs():
    assert PATH.stat().st_size < 400_000
    cells = [cell for cell in json.loads(PATH.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in cells)
    assert not any(output["output_type"] == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason='needs pip install -e ".[test]"')
    nbformat = pytest.importorskip("nbformat", reason='needs pip install -e ".[test]"')
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(PATH, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = [
        "".join(output.get("text", "") for output in cell.get("outputs", ()))
        for cell in notebook.cells
    ]
    assert any("right: 85%" in text for text in printed)
    answers = next(text for text in printed if "a drawing of" in text)
    assert "a drawing of 0: character 0" in answers
    assert "a drawing of 14: unknown" in answers and "a drawing of 15: unknown" in answers
    assert any("largest difference" in text for text in printed)
