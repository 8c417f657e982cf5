"""Conversion seen from outside: golden results of the released codes, other DICOM software, a real head CT."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.pix2pix import convert as pix2pix_convert

GOLDEN = Path(__file__).parents[2] / "parity/data/forward"
HEAD = Path(__file__).resolve().parents[4] / "shared/data/ct-head"


@pytest.mark.parity
@pytest.mark.parametrize(
    "case, module", [("paired_down_res", pix2pix_convert), ("unpaired_group_norm", cyclegan_convert)]
)
def test_released_weights_give_the_released_result(tmp_path, case, module):
    with np.load(GOLDEN / case / "io.npz") as golden:
        x, y = golden["x"], golden["y"]
    for i, image in enumerate(x):
        np.save(tmp_path / f"{i}.npy", image)
    assert (
        module.main(
            [
                "-a",
                str(GOLDEN / case / "args"),
                "-m",
                str(GOLDEN / case / "enc_x.npz"),
                "-R",
                str(tmp_path),
                "-it",
                "npy",
                "--imgtype_out",
                "npy",
                "-o",
                str(tmp_path / "out"),
                "-ca",
                "-1",
                "1",
                "-cb",
                "-1",
                "1",
            ]
        )
        == 0
    )
    for i, image in enumerate(y):
        found = np.load(tmp_path / f"out/{i}.npy").reshape(image.shape)
        assert np.abs(found - image).max() <= 2e-5 * np.abs(image).max()


def errors_of(tool, *paths):
    text = subprocess.run([tool, *map(str, paths)], capture_output=True, text=True)
    return [line for line in (text.stdout + text.stderr).splitlines() if line.startswith("Error")]


def geometry_of(folder, out):
    """(header of the sidecar, voxels) as dcm2niix sees the folder's only series."""
    out.mkdir()
    subprocess.run(
        ["dcm2niix", "-b", "y", "-z", "n", "-f", "v", "-o", str(out), str(folder)], check=True, capture_output=True
    )
    volumes = sorted(out.glob("*.nii"))
    assert len(volumes) == 1
    data = volumes[0].read_bytes()
    return data[40:56] + data[76:108] + data[252:328], np.frombuffer(data[352:], np.int16)


@pytest.mark.parametrize("stack", [1, 3])
def test_a_real_head_ct_passes_the_validators(tmp_path, unpaired_run, stack):
    missing = [tool for tool in ("dciodvfy", "dcentvfy", "dcm2niix") if shutil.which(tool) is None]
    if missing or not HEAD.is_dir():
        pytest.skip(f"needs {', '.join(missing) or HEAD}")
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(40, 46):
        shutil.copyfile(HEAD / f"CT{number:04d}.dcm", folder / f"CT{number:04d}.dcm")
    run_folder = unpaired_run(stack=stack, ch=stack, out_ch=stack, clipA=[-1024, 3000], clipB=[-1024, 3000])
    assert cyclegan_convert.main([str(run_folder), "-R", str(folder), "-o", str(out)]) == 0
    for path in sorted(out.glob("*.dcm")):
        assert errors_of("dciodvfy", path) == errors_of("dciodvfy", folder / path.name)
    assert errors_of("dcentvfy", *sorted(out.glob("*.dcm"))) == []
    before, after = geometry_of(folder, tmp_path / "nii0"), geometry_of(out, tmp_path / "nii1")
    assert before[0] == after[0]
    if stack == 1:
        np.testing.assert_array_equal(before[1], after[1])


def test_each_frame_of_a_multi_frame_file_is_a_slice(tmp_path, files):
    from pydicom.dataset import Dataset

    path = files.write_slice(tmp_path / "in/multi.dcm", files.stored_image(0))
    d = pydicom.dcmread(path)
    frames = [files.stored_image(i) for i in range(3)]
    d.NumberOfFrames, d.PixelData = 3, b"".join(frame.tobytes() for frame in frames)
    d.PerFrameFunctionalGroupsSequence = []
    for i in range(3):
        item, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 2.0 * i]
        item.PlanePositionSequence = [position]
        d.PerFrameFunctionalGroupsSequence.append(item)
    d.save_as(path)
    assert pix2pix_convert.main(["-m", "identity", "-R", str(path), "-o", str(tmp_path / "out")]) == 0
    names = [f"multi_{i:04d}.dcm" for i in (1, 2, 3)]
    assert files.tree(tmp_path / "out") == names
    for i, name in enumerate(names):
        after = pydicom.dcmread(tmp_path / "out" / name)
        np.testing.assert_array_equal(files.hu_of(tmp_path / "out" / name), frames[i] - 1024.0)
        assert after.ImagePositionPatient[2] == 2.0 * i
        assert after.SourceImageSequence[0].ReferencedFrameNumber == i + 1
    found = files.report_of(tmp_path / "out")["files"]
    assert set(found) == {f"multi.dcm frame {i}" for i in (1, 2, 3)}
