"""The list of models, and their cards."""

import json

import numpy as np
import pytest

from medi2i.common import registry
from medi2i.tools import models


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv(registry.VARIABLE, str(tmp_path))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "args").write_text("{}")
    np.savez(folder / "enc_x1.npz", a=np.zeros(25000))
    (folder / registry.CARD).write_text(json.dumps({"summary": "for tests", "noise_hu": [3, 60], "pixel_mm": [0.4, 1]}))
    return folder


def test_each_model_has_a_line(mine, capsys):
    assert models.main([]) == 0
    out = capsys.readouterr().out
    assert "mine" in out and "for tests  (0.2 MB)" in out and registry.VARIABLE in out


def test_a_card_is_shown_with_what_the_model_has_seen(mine, capsys):
    (mine / registry.TEXT).write_text("# Trained on\nthree phantoms\n")
    assert models.main(["mine"]) == 0
    out = capsys.readouterr().out
    assert "mine: for tests" in out and "0.4 to 1 mm" in out and "3 to 60 HU" in out and "three phantoms" in out


def test_an_unknown_name_is_refused_with_those_there_are(mine, capsys):
    assert models.main(["other"]) == 1
    assert "other: no model of this name; there are" in capsys.readouterr().err


def test_runs_of_a_folder_are_told_with_their_best_epochs(tmp_path, capsys):
    for name, epochs in (("a", (5, 10)), ("b", (3,)), ("c", ())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "args").write_text("{}")
        for file in (f"{part}{epoch}.npz" for epoch in epochs for part in ("enc_x", "dec_y")):
            (tmp_path / name / file).touch()
    (tmp_path / "a/best.json").write_text(json.dumps({"epoch": 5, "metric": "validation/RMSE", "value": 7.25}))
    assert models.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{tmp_path}/a: epochs 5, 10; the best is 5, validation/RMSE 7.25"
    assert told[1] == f"{tmp_path}/b: epochs 3; none is known to be the best, the last one converts"
    assert told[2].startswith(f"{tmp_path}/c: no weights")
    assert models.main([str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == told[0]
    (tmp_path / "none").mkdir()
    assert models.main([str(tmp_path / "none")]) == 1
    assert "none: holds no run, whose args would be there; a model by name: ct-denoise" in capsys.readouterr().err


@pytest.mark.parametrize(("metric", "best"), [("validation/RMSE", "b"), ("validation/Dice", "a")])
def test_the_best_of_runs_that_were_validated_by_the_same_images(tmp_path, capsys, metric, best):
    for name, value in (("a", 0.75), ("b", 0.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "args").write_text("{}")
        for part in ("enc_x", "dec_y"):
            (tmp_path / name / f"{part}4.npz").touch()
        (tmp_path / name / "best.json").write_text(json.dumps({"epoch": 4, "metric": metric, "value": value}))
        (tmp_path / name / "files_val.txt").write_text("1.dcm\t1.dcm\n2.dcm\t2.dcm\n")
    assert models.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(f"the best of all, by the same 2 validation images: {tmp_path}/{best}\n")
    (tmp_path / "a/files_val.txt").write_text("3.dcm\t3.dcm\n")
    (tmp_path / "a/best.json").write_text(json.dumps({"epoch": 4, "metric": metric}))
    assert models.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("epochs 4; the best is 4") and "of its own each" in told[-1]
