"""Where the report of a conversion lies, and what reads it."""

import os
import shutil
import subprocess
import time

import numpy as np
import pydicom
import pytest

from medi2i.common.inference import report
from medi2i.common.inference.report import beside, find_report, place_for
from medi2i.pix2pix import convert
from medi2i.tools.evaluation.page import conversion_of


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def everything(folder):
    """Also what is hidden: a sender of whole folders sends it."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("extra", [[], ["--structure", "maps"], ["--uncertainty", "tta"]])
def test_a_folder_of_dicom_results_holds_dicom_only(tmp_path, paired_run, files, extra):
    folder, out = files.write_series(tmp_path / "in", 2), tmp_path / "out"
    (folder / "notes.txt").write_text("no image")
    assert run(paired_run(random_rot90=True), "-R", folder, "-o", out, *extra) == 0
    assert len(everything(out)) == (4 if "tta" in extra else 2)
    assert all(pydicom.dcmread(path).Modality == "CT" for path in everything(out))
    pictures = [f"structure/IM{i}.{kind}" for i in (0, 7) for kind in ("npy", "png")] if "maps" in extra else []
    assert files.tree(tmp_path / "out.report") == ["conversion.json", *sorted(pictures)]
    assert conversion_of(out)["name"] == "enc_x3.npz+dec_y3.npz" == conversion_of(out / "uncertainty")["name"]


def test_what_is_no_dicom_has_its_report_among_the_images(tmp_path, files):
    files.write_series(tmp_path / "in", 1)
    assert run("-m", "identity", "-R", tmp_path / "in", "-o", tmp_path / "out", "--imgtype_out", "npy") == 0
    assert find_report(tmp_path / "out") == tmp_path / "out/conversion.json" and not beside(tmp_path / "out").exists()


def test_no_name_no_folder_above(tmp_path, files, monkeypatch):
    """-o . and -o ../here/: the folder's own name counts."""
    files.write_series(tmp_path / "in", 1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("-m", "identity", "-R", "../in", "-o", ".") == 0
    assert run("-m", "identity", "-R", "../in", "-o", "../here/", "--resume") == 0
    assert files.tree(tmp_path / "here.report") == ["conversion.json"] and find_report(".") is not None


def test_nothing_beside_a_volume_or_in_a_folder_of_somebody_else(tmp_path, monkeypatch, caplog):
    out = tmp_path / "above" / "out"
    out.mkdir(parents=True)
    assert place_for(out, True) == beside(out) == tmp_path / "above" / "out.report"
    assert place_for(out, False) == out
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    assert place_for(out, True) == out and "nothing can be written beside it" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(report.os, "access", lambda path, mode: path != tmp_path / "above")
    assert place_for(out, True) == out
    beside(out).mkdir()  # of an earlier conversion: it goes on there
    assert place_for(out, True) == beside(out)


def test_neither_results_nor_their_report_are_inputs_of_the_next_conversion(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 2)
    for _ in range(2):
        assert run("-m", "identity", "-R", folder, "-o", folder / "out", "--force", "--strict") == 0
    assert sorted(files.report_of(folder / "out")["files"]) == ["IM0", "IM7"]


@pytest.mark.skipif(not (shutil.which("storescu") and shutil.which("storescp")), reason="needs dcmtk")
def test_storescu_sends_the_whole_folder(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 3)
    assert run("-m", "identity", "-R", folder, "-o", tmp_path / "out", "--structure", "maps") == 0
    (tmp_path / "received").mkdir()
    port = str(20000 + os.getpid() % 20000)
    receiver = subprocess.Popen(["storescp", "-od", str(tmp_path / "received"), port])
    try:
        send = ["storescu", "+sd", "+r", "localhost", port, str(tmp_path / "out")]
        end = time.monotonic() + 20
        while (sent := subprocess.run(send, capture_output=True)).returncode and time.monotonic() < end:
            pass
        assert sent.returncode == 0, sent.stderr
    finally:
        receiver.terminate()
        receiver.wait()
    received = {pydicom.dcmread(path).SOPInstanceUID: files.hu_of(path) for path in everything(tmp_path / "received")}
    assert len(received) == 3
    for path in everything(tmp_path / "out"):
        np.testing.assert_array_equal(received[pydicom.dcmread(path).SOPInstanceUID], files.hu_of(path))
