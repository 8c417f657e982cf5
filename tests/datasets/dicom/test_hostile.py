"""Files that are made to fill the memory or to take for ever: refused before anything is allocated, or read in part."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from medi2i.datasets import dicom
from medi2i.datasets.dicom import parse as dicom_parse
from medi2i.datasets.dicom import reading

STORED = np.arange(35, dtype=np.uint16).reshape(5, 7)
PIXELS, PATIENT = b"\xe0\x7f\x10\x00", b"\x10\x00\x10\x00PN"


def reason(path, **options):
    with pytest.raises(dicom.Unreadable) as caught:
        dicom.read(path, **options)
    return caught.value.reason


def compressed(path, ct, syntax, encoded, frames=1, **changes):
    s = ct(STORED, NumberOfFrames=frames, **changes)
    s.file_meta.TransferSyntaxUID = syntax
    s.PixelData = encapsulate([encoded] * frames)
    s["PixelData"].VR, s["PixelData"].is_undefined_length = "OB", True
    s.save_as(path, enforce_file_format=True)
    return path


def frame_header(rows, columns, components=1, marker=0xC3):
    body = struct.pack(">BHHB", 16, rows, columns, components) + b"\x01\x11\x00" * components
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body


SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + bytes(50)


@pytest.mark.parametrize("syntax, marker", [(JPEGLosslessSV1, 0xC3), (JPEGLSLossless, 0xF7)])
@pytest.mark.parametrize(
    "before, after",
    [
        (b"\x00", b""),  # one byte that a decoder would pass over
        (b"\xff\xd8", b""), (b"\xff\xde\x00\x0b" + bytes(9), b""), (b"", b"\x00"), (b"", frame_header(60000, 60000)),
        (b"\xff\xfe\xff\xff", b""),
    ],
)  # fmt: skip
def test_a_jpeg_that_cannot_be_measured_is_not_decoded(tmp_path, ct, syntax, marker, before, after):
    encoded = b"\xff\xd8" + before + frame_header(5, 7, marker=marker) + after + SCAN
    assert "size of the compressed image cannot be found" in reason(compressed(tmp_path / "j", ct, syntax, encoded))


@pytest.mark.parametrize("junk", [b"\x00", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x05junk", b""])
def test_a_jpeg_2000_that_cannot_be_measured_is_not_decoded(tmp_path, ct, junk):
    size = struct.pack(">HH8IH", 41, 0, 7, 5, 0, 0, 7, 5, 0, 0, 1) + b"\x0f\x01\x01"
    head = b"\xff\x4f\xff\x51" + (size if junk else size[:20])
    assert "cannot be found" in reason(compressed(tmp_path / "j", ct, JPEG2000Lossless, junk + head))


def test_components_and_tiles_of_jpeg_2000(tmp_path, ct):
    def encoded(components, tile):
        return (
            b"\xff\x4f\xff\x51"
            + struct.pack(">HH8IH", 38 + 3 * components, 0, 7, 5, 0, 0, tile, tile, 0, 0, components)
            + b"\x0f\x01\x01" * components
        )  # fmt: skip

    assert "16384 components" in reason(compressed(tmp_path / "j", ct, JPEG2000Lossless, encoded(16384, 7)))
    assert "cannot be found" in reason(compressed(tmp_path / "j", ct, JPEG2000Lossless, encoded(1, 0)))


def insert(data, element):
    """The element before the patient's name."""
    at = data.index(PATIENT)
    return data[:at] + element + data[at:]


def test_a_long_private_element_is_passed_over_and_said(tmp_path, ct_file):
    path = ct_file("a", STORED)
    data = path.read_bytes()
    at, size = data.index(PATIENT), 1 << 30
    with path.open("wb") as file:  # sparse: takes no place on the disk
        file.write(data[:at] + struct.pack("<HH2sHI", 9, 0x1010, b"OB", 0, size))
        file.seek(size, 1)
        file.write(data[at:])
    image = dicom.read(path)
    np.testing.assert_array_equal(image.stored, STORED)
    assert image.warnings == ("(0009,1010) of 1 GiB is passed over",) and image.header.PatientID == "P1"


def test_what_follows_the_pixels_is_never_read(tmp_path, ct_file):
    path = ct_file("a", STORED)
    with path.open("ab") as file:
        file.truncate(12 << 30)
    np.testing.assert_array_equal(dicom.read(path).stored, STORED)


def test_a_hollow_file(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_parse, "HEADER_ELEMENTS", 1000)
    with (tmp_path / "a").open("wb") as file:
        file.write(bytes(128) + b"DICM")
        file.truncate(12 << 30)
    assert "its header, without the pixels, has more than" in reason(tmp_path / "a")


def test_pixel_data_that_lie_about_their_length(tmp_path, ct_file):
    path = ct_file("a", STORED)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(PIXELS) + 8] + b"\xf0\xff\xff\xff")
    with path.open("ab") as file:
        file.truncate(6 << 30)
    assert "Rows, Columns or NumberOfFrames are wrong" in reason(path)


def test_a_volume_beyond_the_limit_of_bytes(ct_file):
    path = ct_file("a", STORED, Rows=8000, Columns=8000, NumberOfFrames=40)
    assert "declares 40 frame(s) of 8000×8000 pixels, which take 4.768 GiB, more than 2 GiB" in reason(path)
    assert "--max-pixels 160000000 would allow it" in reason(path)


def deflated(path, ct_file, *, before=0, after=0, head=4000):
    """A deflated file whose transfer syntax stands behind a long header, with zeros before or after the pixels."""
    data = ct_file("plain", STORED).read_bytes()
    body = data[data.index(b"\x08\x00\x08\x00CS") :]
    meta = (
        struct.pack("<HH2sHI", 2, 1, b"OB", 0, head) + bytes(head)
        + struct.pack("<HH2sH", 2, 0x10, b"UI", 22) + b"1.2.840.10008.1.2.1.99"
    )  # fmt: skip
    packer = zlib.compressobj(wbits=-15)
    parts = [packer.compress(struct.pack("<HH2sHI", 8, 7, b"OB", 0, before))] if before else []
    for _ in range(before >> 20):
        parts.append(packer.compress(bytes(1 << 20)))
    parts.append(packer.compress(body))
    for _ in range(after >> 20):
        parts.append(packer.compress(bytes(1 << 20)))
    head = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta
    path.write_bytes(head + b"".join(parts) + packer.flush())
    return path


def test_deflated_data_are_unpacked_as_far_as_they_are_needed(tmp_path, ct_file, monkeypatch):
    monkeypatch.setattr(dicom_parse, "HEADER_BYTES", 16 << 20)
    assert "unpacks to more than 16 MiB" in reason(deflated(tmp_path / "a", ct_file, before=40 << 20))
    unpacked = []
    at = dicom_parse.Unpacking.at
    monkeypatch.setattr(dicom_parse.Unpacking, "at",
                        lambda self, *a: (at(self, *a), unpacked.append(len(self._unpacked)))[0])  # fmt: skip
    np.testing.assert_array_equal(dicom.read(deflated(tmp_path / "a", ct_file, after=40 << 20)).stored, STORED)
    assert max(unpacked) <= 2 << 20


def test_a_header_of_many_parts(tmp_path, ct_file, monkeypatch):
    monkeypatch.setattr(dicom_parse, "HEADER_ITEMS", 500)
    monkeypatch.setattr(dicom_parse, "HEADER_ELEMENTS", 5000)
    path = ct_file("a", STORED)
    data, item = path.read_bytes(), b"\xfe\xff\x00\xe0\0\0\0\0"
    sequence = struct.pack("<HH2sHI", 9, 0x1010, b"SQ", 0, 0xFFFFFFFF)
    for element in (
        sequence + item * 501 + b"\xfe\xff\xdd\xe0\0\0\0\0",
        struct.pack("<HH2sHI", 9, 0x1010, b"SQ", 0, 8 * 501) + item * 501,
        b"".join(struct.pack("<HH2sH", 9, k, b"LO", 0) for k in range(5000)),
    ):
        path.write_bytes(insert(data, element))
        assert "its header, without the pixels, has more than" in reason(path)
    path.write_bytes(insert(data, (sequence + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 2000))
    monkeypatch.undo()
    # Which of the two it is hangs on how deep in calls the reader stands when it gives up.
    assert any(words in reason(path) for words in ("damaged DICOM header", "cannot be read (No tag to read"))


# --- frames ---------------------------------------------------------------------------------------------------------


def test_the_limit_of_frames_is_said(tmp_path, ct):
    ct(np.zeros((1, 1), np.uint16), NumberOfFrames=70_000, PixelData=bytes(140_000)).save_as(tmp_path / "a")
    assert reason(tmp_path / "a") == "NumberOfFrames 70000 in one file; up to 65536 are read"


def enhanced(ct, frames):
    groups = []
    for number in range(frames):
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 2 * number]
        group.PlanePositionSequence = [place]
        groups.append(group)
    stored = np.arange(frames * 6, dtype=np.uint16).reshape(frames, 2, 3)
    return ct(stored, NumberOfFrames=frames, PerFrameFunctionalGroupsSequence=groups, ImagePositionPatient=None), stored


def test_a_frame_costs_the_same_wherever_it_is(tmp_path, ct, monkeypatch):
    calls = dict.fromkeys(("read", "parse"), 0)
    parse = reading.parse_file
    monkeypatch.setattr(reading, "parse_file", lambda *a: (calls.update(parse=calls["parse"] + 1), parse(*a))[1])
    s, stored = enhanced(ct, 60)
    s.save_as(tmp_path / "a", enforce_file_format=True)
    for frame in (0, 7, 59, 30):
        np.testing.assert_array_equal(dicom.read(tmp_path / "a", frame).stored, stored[frame])
    assert calls["parse"] == 1  # asked for one by one, as a conversion does
    (series,) = dicom.scan(tmp_path).series
    assert [s.position[2] for s in series.slices] == [2.0 * n for n in range(60)]
    s.PixelData = stored[::-1].tobytes()
    s.save_as(tmp_path / "a", enforce_file_format=True)
    os.utime(tmp_path / "a", ns=(1, 1))
    np.testing.assert_array_equal(dicom.read(tmp_path / "a", 3).stored, stored[56])  # another file of that name


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("pieces", [1, 3])
def test_frames_of_compressed_files(tmp_path, ct, table, pieces):
    s, stored = enhanced(ct, 5)
    s.compress(RLELossless, generate_instance_uid=False)
    from pydicom.encaps import generate_frames

    frames = list(generate_frames(s.PixelData, number_of_frames=5))
    s.PixelData = encapsulate(frames, fragments_per_frame=pieces, has_bot=table)
    s.save_as(tmp_path / "a", enforce_file_format=True)
    if pieces == 3 and not table:
        assert "15 fragments of pixel data cannot be told apart as 5 frames" in reason(tmp_path / "a")
        return
    for image in dicom.iter_frames(tmp_path / "a"):
        np.testing.assert_array_equal(image.stored, stored[image.frame])
    s.NumberOfFrames = 4
    s.save_as(tmp_path / "a", enforce_file_format=True)
    assert ("table of offsets has 5 entries" if table else "5 fragments of pixel data") in reason(tmp_path / "a")


def test_frames_without_places_of_their_own_are_one_series(tmp_path, ct):
    ct(np.arange(42, dtype=np.uint16).reshape(7, 2, 3), NumberOfFrames=7).save_as(tmp_path / "a")
    (series,) = dicom.scan(tmp_path).series
    assert [s.frame for s in series.slices] == list(range(7)) and series.slice_distance is None
    assert "no position in the patient" in series.warnings[0]


def test_a_compressed_frame_much_longer_than_its_pixels(tmp_path, ct):
    path = compressed(tmp_path / "a", ct, RLELossless, bytes(3 << 20))
    assert "a compressed frame of 3 MiB for 70 bytes of pixels" in reason(path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_memory_stays_small(tmp_path, ct_file):
    deflated(tmp_path / "bomb", ct_file, before=140 << 20)
    code = (
        "import resource, sys; from medi2i.datasets import dicom\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1000 << 20,) * 2)\n"
        "print([s.reason for s in dicom.scan(sys.argv[1], workers=1).skipped])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert "unpacks to more than 128 MiB" in done.stdout, done.stderr
