"""The reader: HU of every kind of file, and a true reason for every file that is refused."""

import os
import struct
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from medi2i.common.errors import UserError
from medi2i.datasets import dicom
from medi2i.datasets.dicom.header_checks import is_lossy

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

STORED = np.array([[0, 1, 1024], [1074, 2047, 4095]], np.uint16)


def reason(path, **options):
    with pytest.raises(dicom.Unreadable) as caught:
        dicom.read(path, **options)
    assert str(path) in str(caught.value)
    return caught.value.reason


# --- values ---------------------------------------------------------------------------------------------------------


def test_hu_are_stored_times_slope_plus_intercept(ct_file):
    image = dicom.read(ct_file("a", STORED, RescaleSlope="0.5", RescaleIntercept="-1000"))
    assert image.hu.dtype == np.float32
    np.testing.assert_array_equal(image.hu, [[-1000, -999.5, -488], [-463, 23.5, 1047.5]])
    assert image.mask is None and image.spacing == (0.5, 0.75) and "PixelData" not in image.header


def test_signed_values(ct_file):
    image = dicom.read(ct_file("a", np.array([[-1024, 0, 3071]], np.int16), RescaleIntercept="0"))
    np.testing.assert_array_equal(image.hu, [[-1024, 0, 3071]])


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_transfer_syntaxes_decode_alike(tmp_path, ct, syntax):
    dataset = ct(STORED)
    if syntax == RLELossless:
        dataset.compress(syntax)
    elif syntax == ExplicitVRBigEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = STORED.astype(">u2").tobytes()
        dataset.set_original_encoding(False, False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "x", enforce_file_format=True)
    np.testing.assert_array_equal(dicom.read(tmp_path / "x").hu, STORED.astype(np.float32) - 1024)


def test_jpeg_2000_lossless(tmp_path, ct):
    stored = (np.arange(33 * 47).reshape(33, 47) * 2 % 4096).astype(np.uint16)
    dataset = ct(stored)
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(tmp_path / "j", enforce_file_format=True)
    image = dicom.read(tmp_path / "j")
    np.testing.assert_array_equal(image.hu, stored.astype(np.float32) - 1024)
    assert not is_lossy(image.header) and image.compression_ratio > 1


def test_padding_is_masked_and_reads_as_air(ct_file):
    stored = np.array([[-2000, -1000, 50], [-2000, 0, 100]], np.int16)
    image = dicom.read(ct_file("a", stored, RescaleIntercept="0", PixelPaddingValue=-2000))
    np.testing.assert_array_equal(image.mask, stored == -2000)
    np.testing.assert_array_equal(image.hu, [[-1024, -1000, 50], [-1024, 0, 100]])


def test_padding_range_and_padding_of_the_wrong_sign(ct_file):
    stored = np.array([[63536, 63540, 10, 4000]], np.uint16)
    path = ct_file("a", stored, PixelPaddingValue=63536, PixelPaddingRangeLimit=63540)
    np.testing.assert_array_equal(dicom.read(path).mask, [[True, True, False, False]])
    path = ct_file("b", np.array([[63536, 10]], np.uint16))
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "SS", -2000)  # 63536 as signed, as some writers have it
    dataset.save_as(path)
    np.testing.assert_array_equal(dicom.read(path).mask, [[True, False]])


def test_monochrome1_keeps_hu_and_says_so(ct_file):
    image = dicom.read(ct_file("a", STORED, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(image.hu, STORED.astype(np.float32) - 1024)
    assert any("MONOCHROME1" in warning for warning in image.warnings)


def test_missing_rescale_is_said(ct_file):
    image = dicom.read(ct_file("a", STORED, RescaleSlope=None, RescaleIntercept=None))
    np.testing.assert_array_equal(image.hu, STORED)
    assert any("taken as HU" in warning for warning in image.warnings)


def test_multi_frame_reads_slope_and_place_of_each_frame(tmp_path, ct):
    stored = np.stack([STORED, STORED + 1])
    dataset = ct(stored, NumberOfFrames=2, RescaleSlope=None, RescaleIntercept=None, ImagePositionPatient=None)
    frames = []
    for number in range(2):
        value, place, frame = Dataset(), Dataset(), Dataset()
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = str(number + 1), "-1000", "HU"
        place.ImagePositionPatient = [0, 0, -5 * number]
        frame.PixelValueTransformationSequence, frame.PlanePositionSequence = [value], [place]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.save_as(tmp_path / "m")
    np.testing.assert_array_equal(dicom.read(tmp_path / "m", 1).hu, (STORED + 1) * 2.0 - 1000)
    series = dicom.scan(tmp_path).series
    assert len(series) == 1 and [s.frame for s in series[0].slices] == [1, 0] and series[0].slice_distance == 5
    np.testing.assert_array_equal(dicom.read_volume(series[0]), [(STORED + 1) * 2.0 - 1000, STORED - 1000.0])
    assert "no frame 2" in reason_of_frame(tmp_path / "m", 2)


def reason_of_frame(path, frame):
    with pytest.raises(dicom.Unreadable) as caught:
        dicom.read(path, frame)
    return caught.value.reason


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Rows": 3}, "cut off"),
        ({"Rows": 1}, "Rows, Columns or NumberOfFrames are wrong"),
        ({"Rows": 0}, "no image size"),
        ({"RescaleSlope": "0"}, "RescaleSlope 0"),
        ({"RescaleSlope": None}, "both must be one finite number"),
        ({"RescaleSlope": "1e39"}, "RescaleSlope 1e+39 and RescaleIntercept -1024 give infinite values"),
        ({"PixelData": None}, "no PixelData"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "dcm2niix takes them apart"),
        ({"Modality": "RTSTRUCT"}, "modality RTSTRUCT"),
        ({"Modality": None}, "modality missing"),
        ({"BitsAllocated": 12}, "BitsAllocated 12"),
        ({"BitsStored": 17}, "BitsStored 17"),
        ({"PixelRepresentation": None}, "PixelRepresentation missing"),
        ({"Rows": 65535, "Columns": 65535}, "--max-pixels"),
    ],
)
@pytest.mark.filterwarnings("error:overflow")
def test_refused_with_a_true_reason(ct_file, changes, expected):
    assert expected in reason(ct_file("a", STORED, **changes))


def test_signed_pixels_declared_unsigned_are_refused(ct_file):
    stored = np.array([[-1024, -1000, 40], [-50, 0, 1200]], np.int16)
    path = ct_file("a", stored, RescaleIntercept="0", PixelRepresentation=0)
    assert "PixelRepresentation should be 1" in reason(path)


def test_unsigned_pixels_declared_signed_are_refused(ct_file):
    stored = np.array([[0, 1000, 2047, 2048, 4095]], np.int16)
    path = ct_file("a", stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert "PixelRepresentation should be 0" in reason(path)


def test_values_beyond_the_declared_bits_are_said(ct_file):
    stored = np.array([[0, 4096]], np.uint16)
    image = dicom.read(ct_file("a", stored, BitsStored=12, HighBit=11))
    assert any("above BitsStored 12" in warning for warning in image.warnings)


def test_negative_values_of_12_bits_are_fine(ct_file):
    stored = np.array([[-2048, -1, 0, 2047]], np.int16)
    image = dicom.read(ct_file("a", stored, BitsStored=12, HighBit=11, RescaleIntercept="0"))
    np.testing.assert_array_equal(image.hu, stored)
    assert not image.warnings


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"licence text " * 40, "not DICOM"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(300), "without the file header"),
        (bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04", "modality missing"),
    ],
)
def test_other_files(tmp_path, content, expected):
    path = tmp_path / "f"
    path.write_bytes(content)
    assert expected in reason(path) or "damaged" in reason(path)


def test_cut_off_anywhere_never_gives_pixels(tmp_path, ct_file):
    path = ct_file("a", np.arange(60, dtype=np.uint16).reshape(6, 10))
    data = path.read_bytes()
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        assert reason(path)


def test_truncated_compressed_pixels(tmp_path, ct):
    dataset = ct(np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "r")
    data = (tmp_path / "r").read_bytes()
    (tmp_path / "r").write_bytes(data[: len(data) * 2 // 3])
    assert "cut off" in reason(tmp_path / "r") or "PixelData" in reason(tmp_path / "r")


def test_size_inside_a_compressed_image_is_compared_first(tmp_path, ct):
    dataset = ct(STORED)
    jpeg = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 11, 16, 60000, 60000, 1) + bytes(3) + b"\xff\xda" + bytes(15)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    dataset.PixelData = encapsulate([jpeg])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "j")
    assert "60000×60000" in reason(tmp_path / "j")


def test_a_deflated_image_beyond_the_limit(tmp_path, ct, monkeypatch):
    dataset = ct(np.zeros((600, 500), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "big"
    dataset.save_as(path, enforce_file_format=True)
    assert dicom.read(path).hu.shape == (600, 500)
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", "100000")
    assert "--max-pixels 300000 would allow it" in reason(path)


def test_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in reason(tmp_path / "pipe")


def test_unreadable_is_a_user_error(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(UserError):
        dicom.read(tmp_path / "f")


# --- other people's files -------------------------------------------------------------------------------------------


def other_files() -> list[Path]:
    """All of pydicom's wheel and, where it is installed, of the pydicom-data package."""
    roots = [Path(pydicom.__file__).parent / "data"]
    try:
        import data_store

        roots.append(Path(data_store.__file__).parent)
    except ImportError:
        pass
    return sorted(
        path for root in roots for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    )


def other_stored(dataset, frame):
    """Stored values by another decoder than the reader's."""
    if dataset.file_meta.TransferSyntaxUID == JPEGLosslessSV1:  # none of pydicom's is installed
        return imagecodecs.jpegsof3_decode(get_frame(dataset.PixelData, frame))
    return pixel_array(dataset, index=frame, raw=True)


def test_every_ct_and_mr_of_pydicom_equals_its_modality_lut():
    read = refused = 0
    for path in other_files():
        try:
            frames = list(dicom.iter_frames(path, modalities=("CT", "MR")))
        except dicom.Unreadable as error:
            refused += 1
            assert error.reason
            check_reason(path, error.reason)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            for image in frames:
                stored = other_stored(dataset, image.frame)
                expected = apply_modality_lut(stored, dataset).astype(np.float32)
                if "SharedFunctionalGroupsSequence" in dataset and image.modality == "CT":
                    expected = stored * np.float32(image.slope) + np.float32(image.intercept)
                tissue = np.ones(stored.shape, bool) if image.mask is None else ~image.mask
                np.testing.assert_array_equal(image.hu[tissue], expected[tissue])
                read += 1
    assert read >= 40 and refused >= 60, (read, refused)


def check_reason(path, given):
    """The reason must be true of the file, by looking at it another way."""
    data = path.read_bytes()
    if "not DICOM" in given or "without the file header" in given:
        assert data[128:132] != b"DICM"
    elif "empty" in given:
        assert not data
    elif given.startswith("modality"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pydicom.dcmread(path, stop_before_pixels=True).get("Modality")
        assert (found or "missing") in given and found not in ("CT", "MR")
    elif given.startswith("no PixelData"):
        assert "PixelData" not in pydicom.dcmread(path)
    elif "cut off" in given:
        assert "trunc" in path.name or "short" in path.name
    elif "DICOMDIR" in given:
        assert b"DirectoryRecord" in data or path.name.startswith("DICOMDIR")
    elif "LOCALIZER" in given:
        assert b"LOCALIZER" in data
    else:
        raise AssertionError(f"{path.name}: {given}")
