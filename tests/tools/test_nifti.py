"""NIfTI in and out: geometry by an independent program, arrays voxel by voxel, refusals in one line."""

import shutil
import subprocess

import nibabel
import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.datasets import dicom, nifti_volume
from medi2i.tools import nifti as tool

AFFINES = {
    "RAS": np.diag([0.8, 0.9, 2.0, 1]),
    "LPS": np.diag([-0.8, -0.9, 2.0, 1]),
    "feet first": np.diag([-0.8, -0.9, -2.0, 1]),
    "left-handed": np.diag([0.8, -0.9, 2.0, 1]),
    "coronal": np.array([[0.8, 0, 0, -9], [0, 0, 2.0, 3], [0, 0.9, 0, 5], [0, 0, 0, 1]]),
    "oblique": np.array(
        [
            [0.8 * np.cos(0.2), -0.9 * np.sin(0.2), 0, 1],
            [0.8 * np.sin(0.2), 0.9 * np.cos(0.2), 0, 2],
            [0, 0, 2, 3],
            [0, 0, 0, 1],
        ]
    ),
}


def save(path, values, affine=None):
    nibabel.save(nibabel.Nifti1Image(values, AFFINES["RAS"] if affine is None else affine), path)
    return path


def voxels(seed=0, shape=(5, 7, 4)):
    return np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)


def at(image, world):
    """The voxel of a NIfTI image at a place in mm (RAS)."""
    index = np.linalg.inv(image.affine) @ [*world, 1]
    return np.asarray(image.dataobj)[tuple(np.rint(index[:3]).astype(int))]


@pytest.mark.parametrize("name", AFFINES)
def test_values_stay_at_their_place(tmp_path, name):
    values = voxels()
    image = nibabel.load(save(tmp_path / "v.nii", values, AFFINES[name]))
    volume = nifti_volume.read(tmp_path / "v.nii")
    assert volume.values.dtype == np.float32 and volume.values.flags["C_CONTIGUOUS"]
    for z, y, x in [(0, 0, 0), (1, 2, 3), tuple(np.array(volume.values.shape) - 1)]:
        place = (volume.affine @ [x, y, z, 1])[:3] * [-1, -1, 1]  # LPS -> RAS
        assert volume.values[z, y, x] == at(image, place)
    # columns to the left, rows to the back, slices to the head
    assert all(volume.affine[axis, axis] > 0 for axis in range(3))


@pytest.mark.parametrize("name", AFFINES)
def test_through_dicom_and_back_nothing_changes(tmp_path, name):
    save(tmp_path / "v.nii.gz", voxels(1), AFFINES[name])
    assert tool.main([str(tmp_path / "v.nii.gz"), "-o", str(tmp_path / "series")]) == 0
    out = tmp_path / "back.nii.gz"
    assert tool.main([str(tmp_path / "series"), "-o", str(out), "--like", str(tmp_path / "v.nii.gz")]) == 0
    one, two = nibabel.load(tmp_path / "v.nii.gz"), nibabel.load(out)
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-6)
    assert np.asarray(two.dataobj).dtype == np.int16


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="not installed: dcm2niix")
@pytest.mark.parametrize("name", ["RAS", "oblique", "coronal"])
def test_dcm2niix_agrees(tmp_path, name):
    save(tmp_path / "v.nii", voxels(2, (12, 13, 6)), AFFINES[name])
    tool.main([str(tmp_path / "v.nii"), "-o", str(tmp_path / "series")])
    tool.main([str(tmp_path / "series"), "-o", str(tmp_path / "ours.nii")])
    subprocess.run(
        ["dcm2niix", "-b", "n", "-f", "theirs", "-o", tmp_path, tmp_path / "series"], check=True, capture_output=True
    )
    ours, theirs = nibabel.load(tmp_path / "ours.nii"), nibabel.load(tmp_path / "theirs.nii")
    for index in [(0, 0, 0), (3, 5, 2), (11, 12, 5)]:
        if all(i < n for i, n in zip(index, ours.shape, strict=True)):
            world = (ours.affine @ [*index, 1])[:3]
            assert np.asarray(ours.dataobj)[index] == at(theirs, world)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="not installed: dciodvfy")
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_series_is_valid(tmp_path, modality):
    save(tmp_path / "v.nii", 1000 * np.random.default_rng(0).random((9, 8, 3)).astype(np.float32) - 900)
    assert tool.main([str(tmp_path / "v.nii"), "-o", str(tmp_path / "s"), "--modality", modality]) == 0
    done = subprocess.run(["dciodvfy", next((tmp_path / "s").iterdir())], capture_output=True, text=True)
    assert "Error" not in done.stdout + done.stderr


def test_fractions_of_mr_keep_five_digits(tmp_path):
    values = np.random.default_rng(3).random((6, 5, 3)).astype(np.float32)
    save(tmp_path / "v.nii", values, AFFINES["LPS"])
    tool.main([str(tmp_path / "v.nii"), "-o", str(tmp_path / "s"), "-m", "MR"])
    (series,) = dicom.scan(tmp_path / "s").series
    assert series.modality == "MR"
    np.testing.assert_allclose(dicom.read_volume(series), values.transpose(2, 1, 0), atol=1e-5)


def test_scaling_of_the_header_is_applied(tmp_path):
    image = nibabel.Nifti1Image(voxels(4), AFFINES["LPS"])
    image.header.set_slope_inter(2.0, -10.0)
    image.to_filename(tmp_path / "v.nii")
    expected = np.asarray(nibabel.load(tmp_path / "v.nii").get_fdata(), np.float32)
    np.testing.assert_array_equal(nifti_volume.read(tmp_path / "v.nii").values, expected.transpose(2, 1, 0))


def test_a_folder_of_volumes_and_a_folder_of_series(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    save(tmp_path / "in" / "a.nii", voxels(5))
    save(tmp_path / "in" / "sub" / "b.nii.gz", voxels(6))
    assert tool.main([str(tmp_path / "in"), "-o", str(tmp_path / "dcm")]) == 0
    assert len(dicom.scan(tmp_path / "dcm").series) == 2
    assert tool.main([str(tmp_path / "dcm"), "-o", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_1_001.nii.gz", "b_1_002.nii.gz"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: p.write_bytes(b"no volume"), "cannot be read as NIfTI"),
        (lambda p: save(p, np.zeros((3, 3, 3, 2), np.int16)), "one 3-D volume"),
        (lambda p: save(p, np.full((3, 3, 3), np.nan, np.float32)), "27 voxels are not finite"),
        (lambda p: None, "no such file"),
    ],
)
def test_refusals(tmp_path, capsys, make, expected):
    path = tmp_path / "v.nii"
    make(path)
    with pytest.raises(UserError, match=expected):
        nifti_volume.read(path)
    assert tool.main([str(path), "-o", str(tmp_path / "s")]) == 1
    assert expected in capsys.readouterr().err or "no such file" in expected and not (tmp_path / "s").exists()


@pytest.mark.parametrize("content", [b"no volume", None])
def test_like_that_is_no_volume_is_one_line(tmp_path, capsys, content):
    save(tmp_path / "v.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    assert tool.main([str(tmp_path / "v.nii"), "-o", str(tmp_path / "series")]) == 0
    (tmp_path / "series" / "note").write_text("not DICOM")
    like, out = tmp_path / "like.nii", tmp_path / "out.nii"
    if content is not None:
        like.write_bytes(content)
    capsys.readouterr()
    assert tool.main([str(tmp_path / "series"), "-o", str(out), "--like", str(like)]) == 1
    skipped, told = capsys.readouterr().err.splitlines()
    assert skipped.startswith(f"warning: skipped {tmp_path / 'series' / 'note'}: not DICOM")
    assert told.startswith(f"error: --like: {like}: ") and not out.exists()


def test_sheared_axes_and_existing_files_are_refused(tmp_path, capsys):
    affine = AFFINES["LPS"].copy()
    affine[0, 1] = 0.3
    image = nibabel.Nifti1Image(voxels(7), affine)
    image.to_filename(tmp_path / "v.nii")
    assert tool.main([str(tmp_path / "v.nii"), "-o", str(tmp_path / "s")]) == 1
    assert "right angles" in capsys.readouterr().err
    save(tmp_path / "w.nii", voxels(8))
    tool.main([str(tmp_path / "w.nii"), "-o", str(tmp_path / "s")])
    assert tool.main([str(tmp_path / "w.nii"), "-o", str(tmp_path / "s")]) == 1
    assert "--force" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "s"), "-o", str(tmp_path / "w.nii")]) == 1
    save(tmp_path / "small.nii", voxels(9, (2, 2, 2)))
    assert tool.main([str(tmp_path / "s"), "-o", str(tmp_path / "x.nii"), "--like", str(tmp_path / "small.nii")]) == 1
    assert "another grid" in capsys.readouterr().err
