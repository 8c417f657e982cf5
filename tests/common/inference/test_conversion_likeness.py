"""Converting says where a result is the negative of its image, or its image again, and is silent on good ones."""

import numpy as np
import pytest

from medi2i.cyclegan import convert

BLUR = [[1 / 9] * 3] * 3
CT = {"expected_correlation": 1.0, "expected_inside": 1.0, "expected_change": 0.05}


@pytest.mark.parametrize(
    ("forth", "expected", "words"),
    [
        ([[-1.0]], CT, "inverted contrast: correlation of input and translation -1.00"),
        ([[-1.0]], {"expected_change": 0.05}, None),  # of two modalities
        ([[1.0]], CT, "nothing learnt: the translation equals its input"),
        ([[1.0]], {}, "nothing learnt"),
        (BLUR, CT, None),
    ],
)
def test_each_series_is_told(tmp_path, unpaired_run, files, capsys, forth, expected, words):
    for series in "12":
        files.write_series(tmp_path / "in" / series, 2, series=f"1.2.3.{series}")
    run, out = unpaired_run(forth, **expected), tmp_path / "out"
    assert convert.main([str(word) for word in (run, "-R", tmp_path / "in", "-o", out)]) == 0
    told = capsys.readouterr().err
    warned = [line for line in told.splitlines() if "inverted" in line or "nothing learnt" in line]
    assert len(warned) == (0 if words is None else 2) and all(words in line for line in warned)
    assert "correlation of input and result" in told
    summary = files.report_of(out)["likeness"]
    assert list(summary) == ["1/IM0", "2/IM0"]
    sign = np.sign(forth[0][0])
    assert all(one["correlation"] * sign > 0.5 and one["inside"] * sign > 0.5 for one in summary.values())


def test_a_result_that_is_meant_to_be_the_input_is_none(tmp_path, unpaired_run, files, capsys):
    files.write_series(tmp_path / "in", 2)
    for number, model in enumerate((["-m", "identity"], [unpaired_run(BLUR), "--strength", 0])):
        words = (*model, "-R", tmp_path / "in", "-o", tmp_path / f"out{number}")
        assert convert.main([str(word) for word in words]) == 0
    assert "nothing learnt" not in capsys.readouterr().err
