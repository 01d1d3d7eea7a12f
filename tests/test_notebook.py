"""The notebook of docs/ runs from top to bottom, and is kept with its pictures."""

import contextlib
import io
import json
import pathlib
import tempfile
import warnings

import matplotlib.pyplot
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
    """Its cells, one after the other, in the process of the tests."""
    pytest.importorskip("onnxruntime", reason='needs pip install -e ".[export]"')
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads(PATH.read_text())["cells"]
    scope, out = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "jax has started")
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), scope)
    printed = out.getvalue()
    assert "right: 85%" in printed
    assert "a drawing of 0: character 0" in printed
    assert "a drawing of 14: unknown" in printed and "a drawing of 15: unknown" in printed
    assert "largest difference" in printed
    matplotlib.pyplot.close("all")
