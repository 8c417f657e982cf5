"""Scanning: what belongs together, in which order, what is skipped; the report; the same result with processes."""

import json
import os
import re
import socket

import numpy as np
import pydicom
import pytest

from medi2i.common.errors import UserError
from medi2i.datasets import dicom
from medi2i.datasets.dicom import scanning
from medi2i.tools import scan as scan_command

STORED = np.arange(35, dtype=np.uint16).reshape(5, 7)


def heights(series):
    return [s.position[2] for s in series.slices]


def write_series(ct_file, folder, numbers, **changes):
    return [ct_file(f"{folder}/f{n}", STORED + np.uint16(n), InstanceNumber=n, **changes) for n in numbers]


def test_sorted_by_position_not_by_name_or_instance(ct_file, tmp_path):
    for n, z in ((1, 30.0), (2, 10.0), (10, 20.0)):
        ct_file(f"f{n}", STORED + np.uint16(n), InstanceNumber=n, ImagePositionPatient=[0, 0, z])
    (series,) = dicom.scan(tmp_path).series
    assert heights(series) == [10, 20, 30] and series.slice_distance == 10 and series.shape == (5, 7)
    np.testing.assert_array_equal(dicom.read_volume(series)[:, 0, 0], [-1022, -1014, -1023])
    assert series.hu_range == (-1023, -1024 + 34 + 10)


def test_flipped_orientation_is_sorted_along_its_own_normal(ct_file, tmp_path):
    for n in (1, 2, 3):
        ct_file(f"f{n}", STORED + np.uint16(n), InstanceNumber=n, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    (series,) = dicom.scan(tmp_path).series
    assert heights(series) == [6, 4, 2] and series.slice_distance == 2
    affine = series.affine()
    np.testing.assert_allclose(affine[:3, 2], [0, 0, -2])
    np.testing.assert_allclose(affine @ [1, 0, 0, 1], [-10.75, -20, 6, 1])


def test_sagittal(ct_file, tmp_path):
    for n, x in ((1, 5.0), (2, -5.0)):
        ct_file(
            f"f{n}",
            STORED,
            InstanceNumber=n,
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImagePositionPatient=[x, 0, 0],
        )
    (series,) = dicom.scan(tmp_path).series
    assert [s.position[0] for s in series.slices] == [5, -5] and series.slice_distance == 10


def test_two_series_in_one_folder(ct_file, tmp_path):
    write_series(ct_file, ".", (1, 2))
    for n in (1, 2, 3):
        ct_file(f"g{n}", STORED, InstanceNumber=n, SeriesInstanceUID="1.2.3.9", SOPInstanceUID=f"1.2.9.{n}")
    assert [len(s.slices) for s in dicom.scan(tmp_path).series] == [2, 3]


def test_one_series_with_two_geometries_is_two_volumes(ct_file, tmp_path):
    write_series(ct_file, "a", (1, 2))
    write_series(ct_file, "b", (3, 4), PixelSpacing=["1", "1"])
    ct_file("c/5", np.zeros((4, 4), np.uint16), InstanceNumber=5)
    assert sorted(len(s.slices) for s in dicom.scan(tmp_path).series) == [1, 2, 2]


def test_phases_at_one_place_are_separated_by_what_differs(ct_file, tmp_path):
    for n in (1, 2, 3, 4):
        ct_file(
            f"f{n}",
            STORED + np.uint16(n),
            InstanceNumber=n,
            ImagePositionPatient=[0, 0, n % 2],
            AcquisitionNumber=1 + (n > 2),
        )
    found = dicom.scan(tmp_path).series
    assert [[s.instance for s in series.slices] for series in found] == [[2, 1], [4, 3]]
    assert not found[0].warnings


def test_images_at_one_place_without_a_difference(ct_file, tmp_path):
    for n in (1, 2, 3, 4):
        ct_file(f"f{n}", STORED + np.uint16(n), InstanceNumber=n, ImagePositionPatient=[0, 0, n % 2])
    found = dicom.scan(tmp_path).series
    assert [[s.instance for s in series.slices] for series in found] == [[2, 1], [4, 3]]
    assert "several images at one position" in found[0].warnings[0]


def test_missing_position_keeps_the_order_of_instances_and_says_so(ct_file, tmp_path):
    write_series(ct_file, ".", (2, 10, 1), ImagePositionPatient=None)
    (series,) = dicom.scan(tmp_path).series
    assert [s.instance for s in series.slices] == [1, 2, 10]
    assert series.slice_distance is None and series.affine() is None and "no position" in series.warnings[0]


def test_missing_slice_is_said(ct_file, tmp_path):
    write_series(ct_file, ".", (1, 2, 3, 5, 6))
    (series,) = dicom.scan(tmp_path).series
    assert series.slice_distance == 2 and "uneven slice distance: 1 of 4" in series.warnings[0]


@pytest.mark.parametrize("uid", ["", "not.a.uid"])
def test_empty_and_invalid_series_uids(ct_file, tmp_path, uid):
    write_series(ct_file, "a", (1, 2), SeriesInstanceUID=uid)
    write_series(ct_file, "b", (3, 4), SeriesInstanceUID=uid, SeriesNumber=4)
    found = dicom.scan(tmp_path).series
    assert [len(s.slices) for s in found] == ([2, 2] if not uid else [4])
    assert any("SeriesInstanceUID" in warning for warning in found[0].warnings)


def test_copies_are_skipped_and_equal_uids_alone_are_not_copies(ct_file, tmp_path):
    one = ct_file("a", STORED, SOPInstanceUID="1.2.3.1")
    (tmp_path / "b").write_bytes(one.read_bytes())
    ct_file("c", STORED + np.uint16(9), SOPInstanceUID="1.2.3.1", InstanceNumber=2)
    scan = dicom.scan(tmp_path)
    assert [(s.path.name, s.reason) for s in scan.skipped] == [("b", f"copy of {one}")]
    (series,) = scan.series
    assert len(series.slices) == 2 and "1 slices repeat the SOPInstanceUID" in series.warnings[-1]


def test_copies_may_be_series_of_their_own(ct_file, tmp_path):
    for place in (1, 2):
        one = ct_file(f"a{place}", STORED, SOPInstanceUID=f"1.2.3.{place}", InstanceNumber=place)
        for copy in "bc"[: 3 - place]:
            (tmp_path / f"{copy}{place}").write_bytes(one.read_bytes())
    scan = dicom.scan(tmp_path, copies=True)
    assert not scan.skipped
    assert [[s.path.name for s in one.slices] for one in scan.series] == [["a1", "a2"], ["b1", "b2"], ["c1"]]


def test_bad_files_among_good_ones(ct_file, tmp_path):
    write_series(ct_file, "s", (1, 2, 3))
    (tmp_path / "LICENSE").write_text("text")
    (tmp_path / "s" / "f2").write_bytes((tmp_path / "s" / "f2").read_bytes()[:-10])
    scan = dicom.scan(tmp_path)
    assert [(s.path.name, s.reason.split(" (")[0].split(" bytes")[0]) for s in scan.skipped] == [
        ("LICENSE", "not DICOM"),
        ("f2", "PixelData holds 60"),
    ]
    assert list(scan_command.as_text(scan))[-1] == "1 series, 2 slices, 2 file(s) skipped"


def test_places(ct_file, tmp_path):
    path = ct_file("a/x", STORED)
    assert len(dicom.scan(path).series) == 1
    with pytest.raises(UserError, match="no such file or folder"):
        dicom.scan(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty folder"):
        dicom.scan(tmp_path / "empty").require_series()
    (tmp_path / "empty" / "note").write_text("x")
    with pytest.raises(UserError, match="no usable CT or MR or PT image among 1"):
        dicom.scan(tmp_path / "empty").require_series()
    with pytest.raises(UserError, match="no usable MR image among 1 .*: 1 × modality CT"):
        dicom.scan(path, modalities=("MR",)).require_series()


def test_links_are_followed_but_not_in_circles(ct_file, tmp_path):
    ct_file("real/x", STORED)
    os.symlink(tmp_path / "real", tmp_path / "real" / "again")
    os.symlink(tmp_path / "real", tmp_path / "other")
    (series,) = dicom.scan(tmp_path / "other").series
    assert len(series.slices) == 1


def test_headers_only_finds_the_same_series(ct_file, tmp_path):
    write_series(ct_file, ".", (1, 2))
    (series,) = dicom.scan(tmp_path, decode=False).series
    assert len(series.slices) == 2 and series.hu_range is None and dicom.read_volume(series).shape == (2, 5, 7)


def test_any_number_of_processes_finds_the_same(ct_file, tmp_path, monkeypatch):
    write_series(ct_file, ".", range(1, 13))
    (tmp_path / "note").write_text("x")
    one = dicom.scan(tmp_path, workers=1)
    monkeypatch.setattr(scanning, "PARALLEL_FROM_SECONDS", 0)
    two = dicom.scan(tmp_path, workers=2)
    assert [s.slices for s in one.series] == [s.slices for s in two.series] and one.skipped == two.skipped


def test_report(ct_file, tmp_path, capsys):
    write_series(ct_file, "s", (1, 2))
    (tmp_path / "note").write_text("x")
    assert scan_command.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "CT #3 test: 7×5×2, 0.75×0.5 mm, 2 mm apart, -1023…-988 HU, Explicit VR Little Endian" in out
    assert "1 series, 2 slices, 1 file(s) skipped" in out
    assert scan_command.main([str(tmp_path), "--strict"]) == 1
    capsys.readouterr()
    assert scan_command.main([str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["series"][0]["spacing_mm"] == [0.5, 0.75] and report["skipped"][0]["path"].endswith("note")
    assert scan_command.main([str(tmp_path / "nothing")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_a_decoder_that_crashed_gives_status_1(ct_file, tmp_path, monkeypatch, capsys):
    write_series(ct_file, ".", range(1, 4))
    gone = dicom.Skipped(tmp_path / "x", "the decoder crashed on this file", crashed=True)
    scan = scanning.scan
    monkeypatch.setattr(scan_command, "scan", lambda *a, **k: (found := scan(*a, **k), found.skipped.append(gone))[0])
    assert scan_command.main([str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "3 slices, 1 file(s) skipped" in shown.out and f"skipped {tmp_path / 'x'}: the decoder crashed" in shown.out
    assert shown.err.splitlines()[-1] == "error: the decoder crashed on 1 file, left out (see above)"


def test_what_is_no_regular_file_is_never_opened(ct_file, tmp_path):
    write_series(ct_file, "in", (1, 2))
    os.mkfifo(tmp_path / "in/pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "in/socket"))
    os.symlink("/dev/zero", tmp_path / "in/zero")
    os.symlink(tmp_path / "in/pipe", tmp_path / "in/link")
    for decode in (True, False):
        scan = dicom.scan(tmp_path / "in", decode=decode)
        assert len(scan.series[0].slices) == 2
        assert [s.path.name for s in scan.skipped] == ["link", "pipe", "socket", "zero"]
        assert all("is not a regular file" in s.reason for s in scan.skipped)
    for place in ("/dev/zero", tmp_path / "in/pipe"):
        assert "is not a regular file" in dicom.scan(place).skipped[0].reason


ESCAPES = "\x1b]0;owned\x07\x1b[2Jred\x9b31m \u202etxt"


@pytest.mark.parametrize("keyword", ["SeriesDescription", "PatientID", "SeriesInstanceUID", "Modality", "ImageType",
                                     "PhotometricInterpretation", "RescaleType", "BitsStored"])  # fmt: skip
def test_nothing_that_a_terminal_obeys_is_printed(ct_file, tmp_path, capsys, keyword):
    path = ct_file("s\x1b[31m\r\n", STORED)
    plain = ct_file("plain", STORED, InstanceNumber=2)
    data = pydicom.dcmread(path)
    data[keyword] = pydicom.DataElement(keyword, "LT", ESCAPES + "\r\nCT")
    data.SpecificCharacterSet = "ISO_IR 192"
    data.save_as(path)
    assert plain.exists() and scan_command.main([str(tmp_path)]) == 0
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text) and "\\x1b" in text
    assert len(shown.out.splitlines()) == len([line for line in shown.out.splitlines() if line.strip()])


def test_nothing_of_a_patient_is_said_by_pydicom(ct_file, tmp_path, caplog, recwarn):
    path = ct_file("a", STORED)
    path.write_bytes(path.read_bytes().replace(b"\x10\x000\x00DA\0\0", b"\x10\x000\x00DA\x0a\x001950.01.02"))
    image = dicom.read(path)
    assert image.header.PatientBirthDate == "1950.01.02"
    assert not caplog.records and not recwarn.list
