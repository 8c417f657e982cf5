"""The notebook of the documentation: its cells run in order, and show pictures."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "python.ipynb"


def test_the_notebook_runs_and_shows_pictures(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    names = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"]).replace("epoch=10", "epoch=1, crops_per_image=2")  # in seconds
            exec(compile(code, str(NOTEBOOK), "exec"), names)
    shown = [axis for number in pyplot.get_fignums() for axis in pyplot.figure(number).axes if axis.images]
    pyplot.close("all")
    assert len(shown) == 5 and all(float(axis.images[0].get_array().std()) > 1 for axis in shown)
    assert names["hu"].shape == names["series"].hu.shape
    assert (tmp_path / "notebook" / "evaluation" / "report.html").is_file()


def test_its_pictures_are_in_it():
    outputs = [
        kind
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert outputs.count("image/png") == 2
