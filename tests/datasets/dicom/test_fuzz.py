"""A hundred damaged files through reader and writer (``benchmarks/fuzz_dicom.py`` does ten thousand), and what such
files once broke."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from medi2i.common.errors import UserError
from medi2i.datasets import dicom
from medi2i.datasets.dicom.new_series import DerivedSeries

FUZZ = Path(__file__).parents[3] / "benchmarks/fuzz_dicom.py"
STORED = np.arange(35, dtype=np.uint16).reshape(5, 7)


@pytest.mark.skipif(sys.platform != "linux", reason="deadlines and memory are measured as Linux has them")
def test_damaged_files_are_read_or_skipped_with_a_reason():
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--cases", "100", "--seed", "1"], capture_output=True, text=True, timeout=300
    )
    assert "FINDING" not in done.stdout and "100 files of" in done.stdout and done.returncode == 0, done.stdout
    counts = {line[8:]: int(line[:6]) for line in done.stdout.splitlines() if line[:6].strip().isdigit()}
    assert counts["read and written"] >= 20 and sum(n for k, n in counts.items() if k.startswith("skipped")) >= 40


def write(path, tmp_path):
    image = dicom.read(path)
    series = DerivedSeries(image.header, model_name="m", description="d")
    series.write(tmp_path / "out", image, image.hu)
    np.testing.assert_array_equal(dicom.read(tmp_path / "out").hu, image.hu)
    return pydicom.dcmread(tmp_path / "out")


def test_a_panic_of_the_rle_decoder_is_a_reason(tmp_path, ct):
    s = ct(STORED)
    s.compress(RLELossless, generate_instance_uid=False)
    frame = bytearray(pydicom.encaps.get_frame(s.PixelData, 0, number_of_frames=1))
    frame[64:] = b"\x81A" * 8  # 128 times the same, eight times, where a plane has 35 pixels
    s.PixelData = encapsulate([bytes(frame)])
    s.save_as(tmp_path / "in", enforce_file_format=True)
    with pytest.raises(dicom.Unreadable, match="pixels cannot be decoded"):
        dicom.read(tmp_path / "in")
    assert "cannot be decoded" in dicom.scan(tmp_path).skipped[0].reason


def test_a_million_frames_in_a_few_bytes(tmp_path, ct):
    s = ct(STORED)
    s.compress(RLELossless, generate_instance_uid=False)
    s.NumberOfFrames = 2_000_000_000
    s.save_as(tmp_path / "in", enforce_file_format=True)
    for decode in (True, False):
        assert dicom.scan(tmp_path, decode=decode).skipped[0].reason.startswith("NumberOfFrames 2000000000 in ")


@pytest.mark.parametrize(
    "vr, tag, value",
    [
        ("UL", 0x00080081, b"abc"),  # a length that is no multiple of four
        ("LO", 0x00020010, b"1.2 "),  # of the file meta, in the data set
        ("FD", 0x00080018, b"1.2.3.45"),  # a UID as a number: what is set later must not become one
        ("SQ", 0x00080023, b""),  # a date as a sequence
    ],
)
def test_damaged_elements_are_left_out(tmp_path, ct, vr, tag, value):
    data = bytearray(save(tmp_path / "in", ct(STORED)))
    head = tag.to_bytes(4)[1::-1] + tag.to_bytes(4)[:1:-1] + vr.encode()
    size = len(value).to_bytes(2, "little") if vr in ("UL", "LO", "FD") else b"\0\0" + len(value).to_bytes(4, "little")
    place = data.index(b"\x08\x00\x60\x00CS")
    (tmp_path / "in").write_bytes(data[:place] + head + size + value + data[place:])
    write(tmp_path / "in", tmp_path)


def save(path, dataset):
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def test_a_damaged_patient_is_not_left_out_in_silence(tmp_path, ct):
    data = save(tmp_path / "in", ct(STORED))
    (tmp_path / "in").write_bytes(data.replace(b"\x10\x00\x20\x00LO\x02\x00P1", b"\x10\x00\x20\x00UL\x02\x00P1"))
    with pytest.raises(UserError, match="in: PatientID is damaged"):
        write(tmp_path / "in", tmp_path)


def test_another_scale_of_the_source_does_not_stay(tmp_path, ct):
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 2.0, -1024.0
    s = ct(STORED, RescaleSlope="2", RealWorldValueMappingSequence=[mapping])
    s.save_as(tmp_path / "in", enforce_file_format=True)
    assert "RealWorldValueMappingSequence" not in write(tmp_path / "in", tmp_path)
