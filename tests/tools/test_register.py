"""The register command: geometry that stays true to the patient, exact HU where no pixel moves by a fraction."""

import importlib.util
import re
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest

from medi2i.common.options import parse
from medi2i.datasets import dicom
from medi2i.datasets.preparing import body_mask
from medi2i.tools import make_phantom, register
from medi2i.tools.making.registration import body_centre


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A series of 5 slices of 60×72 pixels."""
    out = tmp_path_factory.mktemp("phantom") / "ct"
    assert make_phantom.main(["-o", str(out), "--size", "60", "72", "--slices", "5", "--seed", "3"]) == 0
    return out


def only_series(folder):
    found = dicom.scan(folder)
    assert len(found.series) == 1 and not found.skipped
    return found.series[0]


def run(source, out, *argv):
    return register.main(["-i", str(source), "-o", str(out), *map(str, argv)])


def test_a_crop_by_whole_pixels_is_exact_and_every_pixel_stays_where_it_was(phantom, tmp_path):
    assert run(phantom, tmp_path / "out", "--to", "none", "--size", "40", "52") == 0
    before, after = only_series(phantom), only_series(tmp_path / "out")
    np.testing.assert_array_equal(dicom.read_volume(after), dicom.read_volume(before)[:, 10:50, 10:62])
    for old, new in zip(before.slices, after.slices, strict=True):
        moved = np.array(new.position) - old.position
        assert moved == pytest.approx([10 * before.spacing[1], 10 * before.spacing[0], 0], abs=1e-3)
    assert after.spacing == before.spacing and after.slice_distance == before.slice_distance
    assert after.uid != before.uid and after.slices[0].frame_of_reference == before.slices[0].frame_of_reference
    header = pydicom.dcmread(after.paths[0])
    assert header.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert header.SourceImageSequence[0].ReferencedSOPInstanceUID == before.slices[0].sop_uid
    assert header.SourceImageSequence[0].SpatialLocationsPreserved == "NO"


def test_the_body_comes_to_the_middle(phantom, tmp_path, capsys):
    assert run(phantom, tmp_path / "shifted", "--to", "none", "--size", "60", "100") == 0  # air on both sides
    for path in (tmp_path / "shifted").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.roll(dataset.pixel_array, 9, axis=1).tobytes()
        dataset.save_as(path)
    capsys.readouterr()
    assert run(tmp_path / "shifted", tmp_path / "out", "--to", "body") == 0
    spacing = only_series(phantom).spacing[1]
    told = capsys.readouterr().out
    right = float(told.partition("centre was ")[2].partition(" mm")[0])
    assert right == pytest.approx(9 * spacing, abs=spacing)
    series = only_series(tmp_path / "out")
    assert body_centre(dicom.read_volume(series), np.array(series.spacing), "CT") == pytest.approx(
        (0, 0), abs=0.5 * spacing
    )


def test_template_gives_grid_and_place(phantom, tmp_path, capsys):
    assert run(phantom, tmp_path / "template", "--to", "none", "--size", "44", "48", "--spacing", "6") == 0
    assert run(phantom, tmp_path / "out", "--to", "template", "--template", tmp_path / "template") == 0
    template, result = only_series(tmp_path / "template"), only_series(tmp_path / "out")
    assert result.shape == (44, 48) and result.spacing == (6, 6)
    assert np.array(result.slices[0].position) == pytest.approx(template.slices[0].position, abs=1.0)
    assert "correlation" in capsys.readouterr().out
    difference = dicom.read_volume(result) - dicom.read_volume(template)
    assert np.sqrt(np.mean(difference**2)) < 40


def test_air_beside_the_image_and_outside_the_body(phantom, tmp_path):
    assert run(phantom, tmp_path / "out", "--to", "none", "--size", "70", "80", "--mask", "body") == 0
    volume = dicom.read_volume(only_series(tmp_path / "out"))
    assert np.all(volume[:, :5] == -1000) and np.all(volume[:, :, -4:] == -1000)
    inside = dicom.read_volume(only_series(phantom))
    assert volume[:, 5:-5, 4:-4][inside > 0].mean() > 0
    assert (volume > 0).sum() < (inside > 0).sum()  # the table went


def test_slice_range(phantom, tmp_path, capsys):
    heights = [item.height for item in only_series(phantom).slices]
    limits = [heights[1] - 0.1, heights[3] + 0.1]
    assert run(phantom, tmp_path / "out", "--to", "none", "-sr", *limits) == 0
    assert [item.height for item in only_series(tmp_path / "out").slices] == pytest.approx(heights[1:4])
    assert run(phantom, tmp_path / "none", "-sr", 9000, 9001) == 1
    assert "no slice of" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_deidentified_files_hold_together(phantom, tmp_path):
    pytest.importorskip("dicomanonymizer", reason="dicom-anonymizer is not installed")
    assert run(phantom, tmp_path / "out", "--to", "none", "--deidentify") == 0
    before, after = only_series(phantom), only_series(tmp_path / "out")
    np.testing.assert_array_equal(dicom.read_volume(after), dicom.read_volume(before))
    assert after.spacing == before.spacing and len(after.slices) == 5
    header = pydicom.dcmread(after.paths[0])
    assert header.PatientIdentityRemoved == "YES" and header.SeriesDescription == "registered"
    assert "not an acquired image" in header.DerivationDescription
    assert str(header.PatientID) != before.patient and header.StudyDate == ""
    text = after.paths[0].read_bytes()
    source = pydicom.dcmread(before.paths[0])
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert str(source[keyword].value).encode() not in text, keyword


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
@pytest.mark.parametrize(
    "argv", [["--to", "body", "--size", "50", "--spacing", "2.5"], ["--to", "none", "--deidentify"]]
)
def test_written_series_are_valid(phantom, tmp_path, argv):
    if "--deidentify" in argv:
        pytest.importorskip("dicomanonymizer", reason="dicom-anonymizer is not installed")
    assert run(phantom, tmp_path / "out", *argv) == 0
    paths = sorted(map(str, (tmp_path / "out").rglob("*.dcm")))
    for command in (["dciodvfy", paths[0]], ["dcentvfy", *paths]):
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--to", "template"], "--template: goes with --to template"),
        (["--template", "x"], "--template: goes with --to template"),
        (["--size", "9", "9", "9"], "--size: 3 values"),
        (["--to", "somewhere"], "'somewhere' is unknown"),
        (["--scale", "2", "--spacing", "1"], "--scale: given together with --spacing"),
        (["--translate", "2"], "--translate: 1 values; it takes none or 2"),
    ],
)
def test_wrong_options(phantom, tmp_path, capsys, argv, message):
    assert run(phantom, tmp_path / "out", *argv) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_input_is_never_overwritten(phantom, tmp_path, capsys):
    shutil.copytree(phantom, tmp_path / "ct")
    before = {path: path.read_bytes() for path in (tmp_path / "ct").rglob("*.dcm")}
    pytest.importorskip("dicomanonymizer", reason="dicom-anonymizer is not installed")
    for more in ([], ["--deidentify"]):
        assert run(tmp_path / "ct", tmp_path / "ct", "--to", "none", "--force", *more) == 1
        assert "is an input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "ct").rglob("*.dcm")} == before


def test_pixels_so_many_times_as_fine_are_those_of_the_spacing(phantom, tmp_path):
    """``-f`` is the released code's --forceSpacing."""
    spacing = only_series(phantom).spacing[0]
    assert run(phantom, tmp_path / "scale", "--to", "none", "--scale", "0.5") == 0
    old = ["-R", phantom, "--outdir", tmp_path / "mm", "--to", "none", "-f", 2 * spacing]
    assert register.main([str(word) for word in old]) == 0
    scaled, forced = only_series(tmp_path / "scale"), only_series(tmp_path / "mm")
    assert scaled.spacing == pytest.approx((2 * spacing,) * 2) and scaled.shape == (30, 36)
    np.testing.assert_array_equal(dicom.read_volume(scaled), dicom.read_volume(forced))


def test_a_shift_moves_what_is_seen_and_leaves_every_pixel_in_its_place_of_the_patient(phantom, tmp_path, capsys):
    before = only_series(phantom)
    down, right = before.spacing[0] * 3, before.spacing[1] * -4
    assert run(phantom, tmp_path / "out", "--to", "none", "-tr", right, down, "--padding", "-1024") == 0
    after = only_series(tmp_path / "out")
    np.testing.assert_array_equal(dicom.read_volume(after)[:, 3:, :-4], dicom.read_volume(before)[:, :-3, 4:])
    assert np.all(dicom.read_volume(after)[:, :3] == -1024) and np.all(dicom.read_volume(after)[:, :, -4:] == -1024)
    moved = np.array(after.slices[0].position) - before.slices[0].position
    assert moved == pytest.approx([4 * before.spacing[1], -3 * before.spacing[0], 0], abs=1e-3)
    assert f"then {right:+.2f} mm to the right and {down:+.2f} mm down" in capsys.readouterr().out
    assert run(phantom, tmp_path / "flag", "--to", "none", "--translate") == 0  # as a switch: what it does anyway
    np.testing.assert_array_equal(dicom.read_volume(only_series(tmp_path / "flag")), dicom.read_volume(before))


def test_random_shifts_are_whole_pixels_of_the_seed(phantom, tmp_path):
    before = dicom.read_volume(only_series(phantom))
    shifts = []
    for seed in (1, 1, 2):
        out = tmp_path / str(len(shifts))
        assert run(phantom, out, "--to", "none", "--random_translate", "5", "--seed", seed) == 0
        after = dicom.read_volume(only_series(out))
        found = [
            (down, right)
            for down in range(-5, 6)
            for right in range(-5, 6)
            if np.array_equal(np.roll(before, (down, right), (1, 2))[:, 5:-5, 5:-5], after[:, 5:-5, 5:-5])
        ]
        shifts += found
    assert len(shifts) == 3 and shifts[0] == shifts[1] != shifts[2]


def test_masks_by_a_picture_and_by_a_threshold(phantom, tmp_path, capsys):
    from PIL import Image

    before = dicom.read_volume(only_series(phantom))
    mask = np.zeros((60, 72), np.uint8)
    mask[10:40, 20:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert run(phantom, tmp_path / "out", "--to", "none", "--mask_img", tmp_path / "mask.png", "--padding", "-900") == 0
    np.testing.assert_array_equal(dicom.read_volume(only_series(tmp_path / "out")), np.where(mask > 0, before, -900))
    for name, more in (
        ("body", ["--mask", "body"]),
        ("img", ["--mask_img"]),
        ("high", ["--mask_img", "--threshold", "150"]),
    ):
        assert run(phantom, tmp_path / name, "--to", "none", *more) == 0
    body, same, dense = (dicom.read_volume(only_series(tmp_path / name)) for name in ("body", "img", "high"))
    np.testing.assert_array_equal(body, same)
    assert 0 < (dense > -1000).sum() < (body > -1000).sum()
    Image.fromarray(mask[1:]).save(tmp_path / "small.png")
    assert run(phantom, tmp_path / "no", "--to", "none", "--mask_img", tmp_path / "small.png") == 1
    assert "--mask_img" in capsys.readouterr().err


def test_anonimise_is_deidentify():
    assert parse(register.RegisterOptions, ["--anonimise", "-z", "1", "2", "-s", "9"]).deidentify


def test_what_lies_where_the_template_does_is_cut_out_under_its_names(phantom, tmp_path, capsys):
    """The template is a part of the series: fewer rows and columns, fewer slices, other names."""
    before = only_series(phantom)
    (tmp_path / "all").mkdir()
    assert run(phantom, tmp_path / "all", "--to", "none", "--size", "40", "52", "-tr", "3", "-2") == 0
    (tmp_path / "part").mkdir()
    for number, path in enumerate(only_series(tmp_path / "all").paths[1:4]):
        shutil.copy(path, tmp_path / f"part/mr{number}.dcm")
    part = only_series(tmp_path / "part")
    assert run(phantom, tmp_path / "out", "--to", "position", "--template", str(tmp_path / "part")) == 0
    assert "3 slices, 52×40 pixels" in capsys.readouterr().out
    found = only_series(tmp_path / "out")
    assert sorted(path.name for path in found.paths) == ["mr0.dcm", "mr1.dcm", "mr2.dcm"]
    np.testing.assert_allclose(dicom.read_volume(found), dicom.read_volume(part), atol=1.01)  # rounded twice
    for one, other, old in zip(found.slices, part.slices, before.slices[1:4], strict=True):
        assert one.path.name == other.path.name
        assert one.position == pytest.approx(other.position, abs=1e-3)
        assert one.height == pytest.approx(old.height)


def test_positions_of_two_frames_of_reference_are_not_compared(phantom, tmp_path, capsys):
    for path in phantom.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.FrameOfReferenceUID = "1.2.3"
        (tmp_path / "other").mkdir(exist_ok=True)
        dataset.save_as(tmp_path / "other" / path.name)
    assert run(phantom, tmp_path / "out", "--to", "position", "--template", str(tmp_path / "other")) == 1
    assert "have no FrameOfReferenceUID in common" in capsys.readouterr().err


def as_mr(phantom, out):
    """An MR of the phantom, whose body is narrower."""
    shutil.copytree(phantom, out)
    for path in sorted(out.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        hu = dataset.pixel_array.astype(int) * int(dataset.RescaleSlope) + int(dataset.RescaleIntercept)
        signal = np.where(hu > -500, 700 + hu // 8, 0)
        signal[:, :30] = 0
        dataset.Modality, dataset.RescaleIntercept, dataset.RescaleSlope = "MR", 0, 1
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        dataset.PixelData = signal.astype(np.int16).tobytes()
        dataset.PixelRepresentation = 1
        dataset.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["mr"])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset.save_as(path)
    return out


def test_what_is_bent_lies_where_the_template_does(phantom, tmp_path, capsys, monkeypatch):
    mr = only_series(as_mr(phantom, tmp_path / "mr"))
    words = "--to", "position", "--template", tmp_path / "mr"
    if importlib.util.find_spec("SimpleITK"):
        assert run(phantom, tmp_path / "out", *words, "--deform") == 0
        told = capsys.readouterr().out
        assert re.search(r"5 slices, 72×60 pixels .* bent onto the template by \d+\.\d mm on average", told)
        found = only_series(tmp_path / "out")
        for one, other in zip(found.slices, mr.slices, strict=True):
            assert (one.path.name, one.shape) == (other.path.name, other.shape)
            assert (one.spacing, one.frame_of_reference) == (other.spacing, other.frame_of_reference)
            assert one.position == pytest.approx(other.position, abs=1e-3)
        difference = np.abs(dicom.read_volume(found) - dicom.read_volume(only_series(phantom)))
        assert np.median(difference) < 20  # it lay there before
        assert "SourceImageSequence" in pydicom.dcmread(found.slices[0].path)
    for wrong, message in (
        (("--to", "body", "--deform"), "--deform: goes with --to position"),
        ((*words, "--deform", "--size", "64"), "--size: with --deform the result has the template's grid"),
    ):
        assert run(phantom, tmp_path / "no", *wrong) == 1
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert run(phantom, tmp_path / "no", *words, "--deform") == 1
    assert "--deform: needs SimpleITK: pip install 'medi2i[register]'" in capsys.readouterr().err
    assert not list((tmp_path / "no").rglob("*.dcm"))
    for path in mr.paths[3:]:
        path.unlink()
    assert run(phantom, tmp_path / "no", *words, "--deform") == 1
    assert "has 3 slices with a position; 4 would do" in capsys.readouterr().err


def test_what_lies_outside_of_either_body_is_air_in_both(phantom, tmp_path, capsys):
    """Both show the body where both have it, and nothing else changes."""
    as_mr(phantom, tmp_path / "mr")
    words = "--to", "position", "--mask", "template"
    assert run(phantom, tmp_path / "ct", *words, "--template", tmp_path / "mr") == 0
    assert run(tmp_path / "mr", tmp_path / "mr2", *words, "--template", tmp_path / "ct") == 0
    before, mr = dicom.read_volume(only_series(phantom)), dicom.read_volume(only_series(tmp_path / "mr"))
    after, signal = dicom.read_volume(only_series(tmp_path / "ct")), dicom.read_volume(only_series(tmp_path / "mr2"))
    both = np.stack([body_mask(one) & body_mask(other, 70) for one, other in zip(before, mr, strict=True)])
    np.testing.assert_array_equal(after, np.where(both, before, -1000))
    np.testing.assert_array_equal(signal, np.where(both, mr, 0))
    assert 0 < both.mean() < np.mean([body_mask(one) for one in before])
    assert run(phantom, tmp_path / "no", "--to", "body", "--mask", "template") == 1
    assert "--mask template: goes with --to position" in capsys.readouterr().err
