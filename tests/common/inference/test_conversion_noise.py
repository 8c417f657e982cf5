"""Networks for one level of noise: what they are told of the noise in the images of a conversion."""

import json
from functools import partial

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.common.inference import noise as told_noise
from medi2i.datasets.noise_level import Noise
from medi2i.datasets.scaling import Clip
from medi2i.pix2pix import convert


def converted(tmp_path, *words):
    return convert.main([str(word) for word in (*words, "-R", tmp_path / "in", "-o", tmp_path / "out")])


def change_of(tmp_path, files):
    return files.hu_of(tmp_path / "out/IM0") - files.hu_of(tmp_path / "in/IM0")


def test_the_clip_grows_with_the_noise():
    assert told_noise.for_noise(Clip(-1000, 3000), 20, 5) == Clip(-250, 750)
    with pytest.raises(UserError, match="without a clip"):
        told_noise.for_noise(Clip(), 20, 5)


def test_what_is_taken_away_grows_with_the_noise(tmp_path, paired_run, files):
    files.write_series(tmp_path / "in", 2)
    assert converted(tmp_path, paired_run(offset=0.1, noise_level=20), "--noise_level", 60) == 0
    np.testing.assert_allclose(change_of(tmp_path, files), 3 * 0.1 * 1512, atol=0.51)
    settings = json.loads((tmp_path / "out.report/conversion.json").read_text())["settings"]
    assert settings["noise_level"] == 60 and settings["clip_in"] == [-3072, 6000]


def noise(level, white_level=0.0):
    """As one of a scan, of which nine tenths are to be taken away."""
    return Noise(level, np.zeros(1), np.zeros(1), (0.5, 0.5), None, white_level)


def test_noise_is_measured_where_it_is_not_given(tmp_path, paired_run, files, monkeypatch):
    files.write_series(tmp_path / "in", 2)
    monkeypatch.setattr(told_noise, "noise_of", lambda series: noise(40 / 0.9))
    assert converted(tmp_path, paired_run(offset=0.1, noise_level=20)) == 0
    np.testing.assert_allclose(change_of(tmp_path, files), 2 * 0.1 * 1512, atol=0.51)


def test_of_more_noise_than_is_to_go_a_share_stays(tmp_path, paired_run, files, monkeypatch, capsys):
    files.write_series(tmp_path / "in", 2)
    run, changes = paired_run(noise_level=20, gen_residual=0.01), []
    for found, share in ((noise(30 / 0.9), 1.0), (noise(240 / 0.9), 0.125), (noise(240 / 0.9, white_level=55), 1.0)):
        monkeypatch.setattr(told_noise, "noise_of", lambda series, found=found: found)
        assert converted(tmp_path, run, "--noise_level", 60, "--strength", 0.5, "--force") == 0
        assert ("12% of the change is made" in capsys.readouterr().err) == (share < 1)
        settings = json.loads((tmp_path / "out.report/conversion.json").read_text())["settings"]
        assert settings["strength"] == pytest.approx(0.5 * share)
        assert settings["white_noise"] == (found.white_level > 0)
        changes.append(change_of(tmp_path, files))
    assert np.abs(changes[0]).max() > 5
    np.testing.assert_allclose(changes[1], 0.125 * changes[0], atol=1.01)


def test_no_noise_that_can_be_measured_is_refused(tmp_path, paired_run, files, monkeypatch, capsys):
    files.write_series(tmp_path / "in", 2)
    monkeypatch.setattr(told_noise, "noise_of", lambda series: None)
    assert converted(tmp_path, paired_run(offset=0.1, noise_level=20)) == 1
    assert "--noise_level: the noise of the series is too low or too different" in capsys.readouterr().err


def test_series_of_the_same_name_count_each(tmp_path, paired_run, files, monkeypatch, capsys):
    for number in (1, 2):
        files.write_series(tmp_path / f"in/{number}", 2, start=number, series=f"1.2.{number}")
    levels = iter((10, 40))
    monkeypatch.setattr(told_noise, "noise_of", lambda series: noise(next(levels) / 0.9))
    assert converted(tmp_path, paired_run(offset=0.1, noise_level=20)) == 1
    error = capsys.readouterr().err
    assert "too different for one level" in error and "10.0 HU" in error and "40.0 HU" in error


def test_a_network_for_all_levels_is_told_none(tmp_path, paired_run, files, capsys):
    files.write_series(tmp_path / "in", 2)
    assert converted(tmp_path, paired_run(offset=0.1), "--noise_level", 10) == 1
    assert "--noise_level: the network was not trained with --noise_level" in capsys.readouterr().err


def test_other_images_than_dicom_need_a_level(tmp_path, paired_run, capsys):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", np.zeros((16, 16), np.float32))
    assert converted(tmp_path, paired_run(offset=0.1, noise_level=20), "--imgtype", "npy") == 1
    assert "it cannot be measured, so it must be given" in capsys.readouterr().err


def test_of_white_noise_no_more_is_taken_than_there_is():
    """What a network takes from an image without noise comes back; white noise that it takes does not."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices((70, 90))
    stripes = (0.2 * np.sin(rows / 3) * np.cos(columns / 5)).astype(np.float32)
    white = rng.normal(0, 0.05, stripes.shape).astype(np.float32)
    np.testing.assert_allclose(told_noise.excess(stripes, 1e-6), stripes, atol=1e-5)
    assert told_noise.excess(white, 0.05).std() < 0.12 * 0.05
    np.testing.assert_array_equal(told_noise.excess(white, 0.2), 0)
    back = told_noise.excess(stripes + white, 0.05)
    assert np.corrcoef(back.ravel(), stripes.ravel())[0, 1] > 0.97
    assert 0.9 < (back * stripes).sum() / (stripes**2).sum() < 1.05
    x, y = (stripes + white)[np.newaxis, np.newaxis], np.zeros((1, 1, *stripes.shape), np.float32)
    made = told_noise.Change(strength=0.5, white=0.05)(x, y)
    np.testing.assert_allclose(made[0, 0], x[0, 0] + 0.5 * (back - x[0, 0]), rtol=1e-5, atol=1e-6)
    assert told_noise.WHOLE(x, y) is y


def test_series_are_told_white_noise_where_it_may_be_all_that_is_to_go():
    scan, white = noise(40, white_level=10), noise(14, white_level=12)
    told = partial(told_noise.told, in_part=True)
    assert told(None, lambda: {"a": noise(40)}) == (36.0, 1.0, False)
    assert told(None, lambda: {"a": white}) == (12.0, 1.0, True)
    assert told(10.0, lambda: {"a": scan, "b": white}) == (10.0, 1.0, True)
    assert told(20.0, lambda: {"a": scan}) == (20.0, pytest.approx((20 / 36) ** 1.5), False)
    assert told(20.0, lambda: {"a": scan, "b": None}) == (20.0, 1.0, False)
    with pytest.raises(UserError, match="too low or too different"):
        told(None, lambda: {"a": scan, "b": white})

    assert told_noise.told(20.0, lambda: pytest.fail("not needed"), in_part=False) == (20.0, 1.0, False)
    assert told_noise.told(None, lambda: {"a": white}, in_part=False) == (12.0, 1.0, False)

    def unknown():
        raise UserError("no CT")

    assert told(20.0, unknown) == (20.0, 1.0, False)
    with pytest.raises(UserError, match="no CT"):
        told(None, unknown)
