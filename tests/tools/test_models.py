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
