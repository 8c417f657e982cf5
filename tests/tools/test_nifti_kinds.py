"""NIfTI files as people have them: units, types, scaling, geometry, damage; each told, refused or read exactly."""

import gzip
import os
import struct

import nibabel
import numpy as np
import pydicom
import pytest

from medi2i.common.errors import Unreadable
from medi2i.datasets import dicom, nifti_volume
from medi2i.tools import nifti as tool

AFFINE = np.diag([-0.5, -0.75, 2.0, 1.0])
SHAPE = (5, 4, 3)
HU = np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)


def image(values=HU, affine=AFFINE, units="mm", q=1, s=1, version=1):
    found = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version](values, affine, dtype=values.dtype)
    found.header.set_xyzt_units(units)
    found.set_sform(affine, s)
    found.set_qform(affine, q)
    return found


def patched(path, start, form, *values):
    """A plain file with some fields of its header changed."""
    nibabel.save(image(), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + form, data, start, *values)
    path.write_bytes(data)
    return path


def through(tmp_path, capsys, modality="CT", path=None):
    """(volume of the DICOM series that the tool makes, what it said on stderr)."""
    capsys.readouterr()
    status = tool.main([str(path or tmp_path / "v.nii"), "-o", str(tmp_path / "s"), "-m", modality, "--force"])
    said = capsys.readouterr().err
    if status:
        return None, said
    (series,) = dicom.scan(tmp_path / "s").series
    return series, said


def refusal(path):
    with pytest.raises(Unreadable) as error:
        nifti_volume.read(path)
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("micron", 1000), ("meter", 0.001), ("unknown", 1)])
@pytest.mark.parametrize("version", [1, 2])
def test_units_of_length(tmp_path, units, factor, version):
    nibabel.save(
        image(affine=np.diag([*np.diag(AFFINE)[:3] * factor, 1]), units=units, version=version), tmp_path / "v.nii"
    )
    volume = nifti_volume.read(tmp_path / "v.nii")
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (0.5, 0.75, 2.0), rtol=1e-6)
    np.testing.assert_array_equal(volume.values, HU.transpose(2, 1, 0))
    assert volume.notes == ()


def test_unlikely_sizes_of_voxels_are_told(tmp_path):
    nibabel.save(image(affine=np.diag([-800.0, -800.0, 2000.0, 1.0])), tmp_path / "v.nii")
    (note,) = nifti_volume.read(tmp_path / "v.nii").notes
    assert note == "its voxels are 800×800×2000 mm large: another unit than it says?"


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("u1", 0, 255),
        ("i1", -128, 127),
        ("i2", -32768, 32767),
        ("u2", 0, 65535),
        ("i4", -40000, 25000),
        ("u4", 70000, 135000),
        ("i8", -5, 65530),
        ("u8", 0, 65535),
        ("f4", -1000, 60000),
        ("f8", 0, 1),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_whole_numbers_of_mr_come_out_exactly(tmp_path, capsys, kind, low, high, order):
    values = np.linspace(low, high, 60).round().reshape(SHAPE).astype(order + kind)
    nibabel.save(image(values), tmp_path / "v.nii")
    series, said = through(tmp_path, capsys, "MR")
    np.testing.assert_array_equal(dicom.read_volume(series), values.transpose(2, 1, 0))
    assert said == ""


@pytest.mark.parametrize(("factor", "shift"), [(1e6, 0), (1e-6, 0), (0.1, -3.7), (1 / 3, 1e3)])
def test_numbers_in_even_steps_keep_their_steps(tmp_path, capsys, factor, shift):
    values = (np.random.default_rng(1).integers(0, 3000, SHAPE) * factor + shift).astype(np.float32)
    nibabel.save(image(values), tmp_path / "v.nii")
    series, said = through(tmp_path, capsys, "MR")
    np.testing.assert_allclose(
        dicom.read_volume(series), values.transpose(2, 1, 0), rtol=2e-7, atol=2e-7 * np.abs(values).max()
    )
    assert said == ""


def test_the_scaling_of_the_file_is_the_scaling_of_the_series(tmp_path, capsys):
    found = image(np.arange(-30000, 30000, 1000, dtype=np.int16).reshape(SHAPE))
    found.header.set_slope_inter(0.37, 12.5)
    found.to_filename(tmp_path / "v.nii")
    stored = np.asarray(nibabel.load(tmp_path / "v.nii").dataobj.get_unscaled())
    series, said = through(tmp_path, capsys, "MR")
    header = pydicom.dcmread(series.paths[0])
    assert (float(header.RescaleSlope), float(header.RescaleIntercept)) == (pytest.approx(0.37), 12.5) and said == ""
    np.testing.assert_array_equal(np.unique(header.pixel_array), np.unique(stored.transpose(2, 1, 0)[0]))


def test_values_that_16_bits_cannot_hold_are_rounded_with_a_word(tmp_path, capsys):
    values = np.random.default_rng(2).normal(0, 1e4, (50, 40, 40)).astype(np.float32)
    nibabel.save(image(values), tmp_path / "v.nii")
    series, said = through(tmp_path, capsys, "MR")
    step = (float(values.max()) - float(values.min())) / 65533
    assert np.abs(dicom.read_volume(series) - values.transpose(2, 1, 0)).max() < 0.51 * step
    assert "voxels are rounded to steps of" in said


def test_fractions_of_hu_are_rounded_with_a_word(tmp_path, capsys):
    nibabel.save(image(HU + np.float32(0.25)), tmp_path / "v.nii")
    series, said = through(tmp_path, capsys)
    np.testing.assert_array_equal(dicom.read_volume(series), HU.transpose(2, 1, 0))
    assert said == f"warning: {tmp_path / 'v.nii'}: 60 voxels are rounded to whole HU, by up to 0.25\n"


def test_whole_numbers_beyond_float32_are_told(tmp_path):
    nibabel.save(image(np.full(SHAPE, (1 << 24) + 1, np.int64)), tmp_path / "v.nii")
    assert nifti_volume.read(tmp_path / "v.nii").notes == (
        "60 voxels are whole numbers beyond 16777216, of which seven digits are kept",
    )


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (-3, 5), (0, 0)])
def test_a_ct_that_is_plainly_not_in_hu_is_refused(tmp_path, capsys, low, high):
    nibabel.save(image(np.linspace(low, high, 60, dtype=np.float32).reshape(SHAPE)), tmp_path / "v.nii")
    assert f"its values go from {low} to {high}, which are no HU" in through(tmp_path, capsys)[1]
    assert through(tmp_path, capsys, "MR")[0].hu_range == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_ct_without_anything_below_0_is_told(tmp_path, capsys):
    nibabel.save(image(HU + np.int16(1024)), tmp_path / "v.nii")
    assert "no value is below 0" in through(tmp_path, capsys)[1]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("c8", "complex numbers"),
        ("c16", "complex numbers"),
        ([("R", "u1"), ("G", "u1"), ("B", "u1")], "colours"),
        ([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")], "colours"),
    ],
)
def test_types_that_are_no_real_numbers_are_refused(tmp_path, kind, words):
    nibabel.save(image(np.zeros(SHAPE, kind)), tmp_path / "v.nii")
    assert words in refusal(tmp_path / "v.nii")


@pytest.mark.parametrize(
    ("slope", "intercept", "note"),
    [
        (0.0, 0.0, ""),
        (float("nan"), float("nan"), ""),
        (0.0, 5.0, "scl_slope is 0, so that its scl_inter 5"),
        (float("nan"), 3.0, "scl_slope is nan"),
    ],
)
def test_no_scaling(tmp_path, slope, intercept, note):
    volume = nifti_volume.read(patched(tmp_path / "v.nii", 112, "2f", slope, intercept))
    np.testing.assert_array_equal(volume.values, HU.transpose(2, 1, 0))
    assert note in " ".join(volume.notes) and bool(note) == bool(volume.notes)


@pytest.mark.parametrize(
    ("start", "form", "values", "words"),
    [
        (112, "2f", (float("inf"), 0), "no scaling"),
        (112, "2f", (1, float("nan")), "no scaling"),
        (40, "8h", (4, 5, 4, 1, 3, 1, 1, 1), "holds 3 volumes (5×4×1×3)"),
        (40, "8h", (5, 5, 2, 1, 1, 6, 1, 1), "holds 6 volumes"),
        (40, "8h", (0, 5, 4, 3, 1, 1, 1, 1), "dimensions"),
        (40, "8h", (3, 5, -4, 3, 1, 1, 1, 1), "dimensions"),
        (40, "8h", (9, 5, 4, 3, 1, 1, 1, 1), "dimensions"),
        (40, "8h", (3, 32000, 32000, 9, 1, 1, 1, 1), "declares 32000×32000 pixels"),
        (40, "8h", (3, 2000, 2000, 1000, 1, 1, 1, 1), "declares 2000×2000×1000 voxels, which take 14.9 GiB"),
        (
            40,
            "8h",
            (3, 5, 4, 30, 1, 1, 1, 1),
            "is cut off: its header declares 1200 bytes of voxels, and there are 120",
        ),
        (70, "h", (1,), "datatype 1"),
        (108, "f", (4e9,), "before its voxels"),
        (108, "f", (float("nan"),), "vox_offset"),
        (108, "f", (-5,), "vox_offset"),
        (123, "B", (5,), "xyzt_units 5"),
        (344, "4s", (b"ni1\0",), ".hdr of a pair"),
        (344, "4s", (bytes(4),), "ANALYZE"),
        (280, "4f", (0, 0, 0, 0), "no usable geometry"),
        (280, "f", (float("nan"),), "no usable geometry"),
    ],
)
def test_headers_that_are_refused(tmp_path, start, form, values, words):
    assert words in refusal(patched(tmp_path / "v.nii", start, form, *values))


def test_further_axes_of_one_and_a_single_slice(tmp_path):
    nibabel.save(image(HU[..., None, None]), tmp_path / "v.nii")
    assert nifti_volume.read(tmp_path / "v.nii").values.shape == (3, 4, 5)
    volume = nifti_volume.read(patched(tmp_path / "w.nii", 40, "8h", 2, 5, 12, 1, 1, 1, 1, 1))
    assert volume.values.shape == (1, 12, 5)


def test_no_geometry_is_told(tmp_path):
    found = image(q=0, s=0)
    nibabel.save(found, tmp_path / "v.nii")
    volume = nifti_volume.read(tmp_path / "v.nii")
    ras = nibabel.as_closest_canonical(nibabel.Nifti1Image(HU, found.header.get_base_affine())).affine
    left, back = (n - 1 for n in HU.shape[:2])
    turned = ras @ np.array([[-1, 0, 0, left], [0, -1, 0, back], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ volume.affine, turned)
    (note,) = volume.notes
    assert "left and right may be exchanged" in note


def test_forms_that_differ_are_told(tmp_path):
    found = image()
    found.set_qform(AFFINE + np.array([[0, 0, 0, 30], [0, 0, 0, 40], [0] * 4, [0] * 4]), 1)
    nibabel.save(found, tmp_path / "v.nii")
    volume = nifti_volume.read(tmp_path / "v.nii")
    assert volume.notes == ("its sform and qform lie up to 50 mm apart; the sform is taken",)
    np.testing.assert_allclose(volume.affine, np.diag([0.5, 0.75, 2, 1]), atol=1e-6)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "V.NII.GZ", "é v.nii"])
@pytest.mark.parametrize("packed", [False, True])
def test_compression_is_known_by_the_content(tmp_path, name, packed):
    nibabel.save(image(), tmp_path / "plain.nii")
    data = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    volume = nifti_volume.read(tmp_path / name)
    np.testing.assert_array_equal(volume.values, HU.transpose(2, 1, 0))
    assert volume.notes == ()


@pytest.mark.parametrize("packed", [False, True])
def test_what_follows_the_voxels_is_told(tmp_path, packed):
    nibabel.save(image(), tmp_path / "plain.nii")
    data = (tmp_path / "plain.nii").read_bytes()
    ends = [gzip.compress(data) + b"garbage", gzip.compress(data + b"garbage")] if packed else [data + b"garbage"]
    for content in ends:
        (tmp_path / "v.nii").write_bytes(content)
        volume = nifti_volume.read(tmp_path / "v.nii")
        np.testing.assert_array_equal(volume.values, HU.transpose(2, 1, 0))
        assert volume.notes == ("more data follow the voxels that its header declares; they are not read",)
    (tmp_path / "v.nii").write_bytes((gzip.compress(data) if packed else data) + bytes(500))
    assert nifti_volume.read(tmp_path / "v.nii").notes == ()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("packed", [False, True])
def test_cut_files_are_refused(tmp_path, share, packed):
    nibabel.save(image(np.random.default_rng(3).integers(-900, 900, (20, 20, 20)).astype(np.int16)), tmp_path / "p.nii")
    data = (tmp_path / "p.nii").read_bytes()
    data = gzip.compress(data) if packed else data
    (tmp_path / "v.nii").write_bytes(data[: int(share * len(data))])
    assert "cut off" in refusal(tmp_path / "v.nii") or share < 0.1


def test_damage_within_compressed_data_is_refused(tmp_path):
    nibabel.save(image(), tmp_path / "plain.nii")
    data = bytearray(gzip.compress((tmp_path / "plain.nii").read_bytes()))
    data[-6] ^= 1  # of the checksum
    (tmp_path / "v.nii").write_bytes(data)
    assert "damaged compressed data" in refusal(tmp_path / "v.nii")


def test_what_unpacks_to_more_than_it_declares_is_not_unpacked(tmp_path):
    """A thousand times the declared voxels follow; of those no more than a piece is looked at."""
    nibabel.save(image(), tmp_path / "plain.nii")
    data = (tmp_path / "plain.nii").read_bytes()
    with gzip.open(tmp_path / "v.nii", "wb", compresslevel=1) as file:
        file.write(data + b"x" + bytes(50 << 20))
    assert len(nifti_volume.read(tmp_path / "v.nii").notes) == 1


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "v.nii")
    assert "not a regular file" in refusal(tmp_path / "v.nii")


def test_tilted_slices_go_both_ways_and_the_qform_does_not_lie(tmp_path, capsys):
    affine = AFFINE.copy()
    affine[1, 2] = 0.6  # the next slice lies this much further to the front
    found = image(affine=affine)
    found.set_qform(None, 0)
    nibabel.save(found, tmp_path / "v.nii")
    series, said = through(tmp_path, capsys)
    assert "tilted gantry" in said
    header = pydicom.dcmread(series.paths[0])
    assert float(header.SliceThickness) == 2.0
    np.testing.assert_allclose(np.diff([s.position for s in series.slices], axis=0), [[0, -0.6, 2]] * 2, atol=1e-6)
    assert tool.main([str(tmp_path / "s"), "-o", str(tmp_path / "back.nii"), "--like", str(tmp_path / "v.nii")]) == 0
    back = nibabel.load(tmp_path / "back.nii")
    np.testing.assert_allclose(back.get_sform(), affine, atol=1e-6)
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (0, 1)
    np.testing.assert_array_equal(np.asarray(back.dataobj), HU)


def series_at(tmp_path, places):
    """A series whose slices lie at these places in mm, and the status of making NIfTI of it."""
    nibabel.save(image(np.repeat(HU[..., :1], len(places), axis=2)), tmp_path / "even.nii")
    assert tool.main([str(tmp_path / "even.nii"), "-o", str(tmp_path / "s")]) == 0
    for path, z in zip(sorted((tmp_path / "s").iterdir()), places, strict=True):
        header = pydicom.dcmread(path)
        header.ImagePositionPatient = [0, 0, z]
        header.save_as(path)
    return tool.main([str(tmp_path / "s"), "-o", str(tmp_path / "v.nii")])


@pytest.mark.parametrize("places", [(0, 2, 4, 8, 10), (0, 2, 4, 6.3, 8), (0, 1, 3, 6, 10)])
def test_uneven_slices_are_refused(tmp_path, capsys, places):
    assert series_at(tmp_path, places) == 1
    said = capsys.readouterr().err
    assert "mm apart" in said and "NIfTI has one distance for all" in said and not (tmp_path / "v.nii").exists()


def test_rounded_places_are_even(tmp_path):
    assert series_at(tmp_path, [round(index * 0.625, 2) for index in range(7)]) == 0
    assert nibabel.load(tmp_path / "v.nii").header.get_zooms()[2] == pytest.approx(0.625, abs=1e-3)


@pytest.mark.parametrize(
    ("layout", "patients"),
    [
        (("1BA001/ct.nii.gz", "1BA001/mr.nii.gz", "1BA002/ct.nii.gz"), ["1BA001", "1BA001", "1BA002"]),
        (
            (
                "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii",
                "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii",
                "sub-02/anat/sub-02_T1w.nii",
            ),
            ["sub-01", "sub-01", "sub-02"],
        ),
        (("case_0001_0000.nii", "case_0001_0001.nii", "case_0002_0000.nii"), ["case_0001", "case_0001", "case_0002"]),
    ],
)
def test_patients_of_the_series_are_those_of_the_layout(tmp_path, layout, patients):
    for index, name in enumerate(layout):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image(HU - np.int16(index)), tmp_path / "in" / name)
    assert tool.main([str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    found = sorted(series.patient for series in dicom.scan(tmp_path / "out").series)
    assert found == patients


def test_two_volumes_for_one_folder_are_refused_before_one_is_written(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    nibabel.save(image(), tmp_path / "in" / "a.nii")
    nibabel.save(image(), tmp_path / "in" / "a.nii.gz")
    assert tool.main([str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    assert "several volumes would be written to" in capsys.readouterr().err and not (tmp_path / "out").exists()
