"""Conversion to n times the size: pixels, PixelSpacing, position, padding, crops, maps of the deviation."""

import json

import numpy as np
import pydicom
import pytest

from medi2i.datasets import dicom, grid
from medi2i.datasets.reading import read_image
from medi2i.datasets.writing import write_image
from medi2i.pix2pix import convert
from medi2i.tools import evaluate


def run(*argv):
    return convert.main([str(word) for word in argv] + ["-g", "-1", "--structure", "none"])


def enlarged(hu, scale):
    return np.clip(grid.enlarge(hu[np.newaxis], scale)[0], -1024, 2000)


@pytest.mark.parametrize("scale", [2, 3])
def test_enlarged_dicom_covers_the_same_area(tmp_path, paired_run, files, scale):
    files.write_series(tmp_path / "in", 2)
    run_folder = paired_run(scale=scale)
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out", "--engine", "chainer") == 0
    for name in files.tree(tmp_path / "in"):
        x, y = dicom.read(tmp_path / "in" / name), dicom.read(tmp_path / "out" / name)
        assert y.hu.shape == (37 * scale, 50 * scale)
        np.testing.assert_allclose(y.hu, enlarged(x.hu, scale), atol=0.501)  # whole HU
        np.testing.assert_allclose(y.spacing, (0.8 / scale, 0.9 / scale))
        # The corner of the first pixel is where it was: half a pixel of either grid from its centre.
        corners = [np.array(image.where.position[:2]) - np.array(image.spacing[::-1]) / 2 for image in (x, y)]
        np.testing.assert_allclose(*corners, atol=1e-6)
        assert y.where.position[2] == x.where.position[2]
        assert y.header.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
    report = files.report_of(tmp_path / "out")
    assert report["settings"]["scale"] == scale


def test_identity_is_bicubic_and_a_crop_is_of_the_enlarged_image(tmp_path, paired_run, files):
    files.write_series(tmp_path / "in", 1, height=20, width=31)
    assert run("-m", "identity", "--scale", 2, "-R", tmp_path / "in", "-o", tmp_path / "out", "-ca", -2000, 3000) == 0
    (name,) = files.tree(tmp_path / "in")
    x, y = dicom.read(tmp_path / "in" / name), dicom.read(tmp_path / "out" / name)
    fine = grid.enlarge(x.hu[np.newaxis], 2)[0]
    np.testing.assert_allclose(y.hu, fine, atol=0.51)
    away = paired_run(offset=0.5, scale=2)
    assert run(away, "-R", tmp_path / "in", "-o", tmp_path / "crop", "-ch", 10, "-cw", 12, "--engine", "chainer") == 0
    changed = dicom.read(tmp_path / "crop" / name).hu - np.rint(fine) > 500
    assert changed[15:25, 25:37].mean() > 0.9 and changed.sum() == changed[15:25, 25:37].sum()


def test_padding_and_maps_of_the_deviation_follow(tmp_path, paired_run, files):
    stored = files.stored_image(1)
    stored[:, 40:] = 0
    files.write_slice(tmp_path / "in" / "a.dcm", stored, padding=0)
    assert (
        run(
            paired_run(scale=2),
            "-R",
            tmp_path / "in",
            "-o",
            tmp_path / "out",
            "--uncertainty",
            "tta",
            "--engine",
            "chainer",
        )
        == 0
    )
    result = dicom.read(tmp_path / "out" / "a.dcm")
    np.testing.assert_array_equal(result.mask, np.arange(100) >= 80 + np.zeros((74, 1)))
    deviation = dicom.read(tmp_path / "out" / "uncertainty" / "a.dcm")
    assert deviation.hu.shape == (74, 100) and deviation.spacing == result.spacing
    assert deviation.where.position == result.where.position


def test_pictures(tmp_path, paired_run):
    grey = np.random.default_rng(0).integers(60, 190, (1, 9, 13))
    write_image(tmp_path / "in" / "a.png", grey)
    assert (
        run(
            paired_run(scale=2, clipA=[0, 255], clipB=[0, 255]),
            "-R",
            tmp_path / "in",
            "-o",
            tmp_path / "out",
            "--engine",
            "chainer",
        )
        == 0
    )
    np.testing.assert_allclose(read_image(tmp_path / "out" / "a.png").array, grid.enlarge(grey, 2), atol=0.6)


def test_another_scale_than_that_of_the_training_is_refused(tmp_path, paired_run, files, capsys):
    files.write_series(tmp_path / "in", 1)
    assert run(paired_run(scale=2), "-R", tmp_path / "in", "-o", tmp_path / "out", "--scale", 4) == 1
    assert "--scale: 4 is not what the network was trained with (2" in capsys.readouterr().err


def test_without_pixel_spacing_dicom_is_refused(tmp_path, paired_run, files, capsys):
    path = files.write_slice(tmp_path / "in" / "a.dcm", files.stored_image(1))
    d = pydicom.dcmread(path)
    del d.PixelSpacing
    d.save_as(path)
    assert run(paired_run(scale=2), "-R", tmp_path / "in", "-o", tmp_path / "out", "--engine", "chainer") == 1
    assert "has no PixelSpacing" in capsys.readouterr().err
    assert (
        run(
            paired_run(scale=2),
            "-R",
            tmp_path / "in",
            "-o",
            tmp_path / "npy",
            "--imgtype_out",
            "npy",
            "--engine",
            "chainer",
        )
        == 0
    )


def test_evaluate_enlarges_the_input_for_doing_nothing(tmp_path, paired_run):
    rng = np.random.default_rng(0)
    small, large = rng.integers(60, 190, (1, 16, 17)), rng.integers(60, 190, (1, 32, 34))
    write_image(tmp_path / "testA" / "a.png", small)
    write_image(tmp_path / "testB" / "a.png", large)
    write_image(tmp_path / "ours" / "a.png", large)
    words = ["-i", tmp_path / "testA", "-t", tmp_path / "testB", "-c", f"ours={tmp_path / 'ours'}"]
    assert evaluate.main([*map(str, words), "-o", str(tmp_path / "e"), "--scale", "2"]) == 0
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    rmse = {one["row"]: one["mean"] for one in found["summary"] if one["metric"] == "rmse" and one["series"] == "all"}
    assert rmse["identity"] == pytest.approx(np.sqrt(np.mean((grid.enlarge(small, 2) - large) ** 2)), rel=1e-5)
    assert rmse["ours"] == 0 and "bicubic" in found["rows"]["identity"]
    assert evaluate.main([*map(str, words), "-o", str(tmp_path / "f")]) == 1
