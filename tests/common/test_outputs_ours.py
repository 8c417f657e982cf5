"""Results of conversions and runs of trainings that lie among the images are no images to convert or to train on."""

import numpy as np
import pytest
from PIL import Image as Pillow

from medi2i.common import outputs
from medi2i.datasets import catalogue, dicom
from medi2i.pix2pix import convert


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def series(folder, ct, count=3):
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        ct(np.full((8, 9), number, np.uint16), InstanceNumber=number).save_as(
            folder / f"{number}.dcm", enforce_file_format=True
        )
    return folder


def pictures(folder, count=3):
    folder.mkdir(parents=True)
    for number in range(count):
        Pillow.fromarray(np.full((8, 9), number, np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("kind", ["dcm", "png"])
def test_results_inside_of_the_input_are_left_out_and_can_be_named(tmp_path, caplog, capsys, ct, kind):
    root = series(tmp_path / "my", ct) if kind == "dcm" else pictures(tmp_path / "my")
    assert run("-m", "identity", "-R", root, "-o", root / "deep/denoised") == 0
    for attempt, out in enumerate((tmp_path / "again", root / "second", tmp_path / "third")):
        assert run("-m", "identity", "-R", root, "-o", out) == 0
        assert len(list(out.rglob(f"*.{kind}"))) == 3, attempt
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert f"{root / 'deep/denoised'}: left out, it holds results of a conversion; to take its images, name it" in told
    assert len(told) == len(set(told)) == (4 if kind == "dcm" else 2)  # for DICOM the report lies beside
    assert len(catalogue.find_files(root, kind)[1]) == 3
    if kind == "dcm":
        assert sum(len(found.slices) for found in dicom.scan(root).series) == 3
    assert run("-m", "identity", "-R", root / "deep/denoised", "-o", tmp_path / "named") == 0
    assert len(list((tmp_path / "named").rglob(f"*.{kind}"))) == 3


def test_a_run_of_a_training_is_left_out_with_its_pictures(tmp_path):
    root = pictures(tmp_path / "data")
    pictures(root / "result/2026/vis")
    for name in outputs.RUN:
        (root / "result/2026" / name).write_text("{}")
    assert catalogue.find_files(root)[1] == [root / f"{i}.png" for i in range(3)]
    assert len(catalogue.find_files(root / "result/2026/vis")[1]) == 3
    assert outputs.what(root / "result/2026") == "a run of a training" and outputs.what(root) is None
