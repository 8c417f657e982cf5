"""Stored values against BitsStored, HighBit and sign, whatever the syntax: read right or refused."""

import shutil
import subprocess

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medi2i.datasets import dicom

TRUE = (np.arange(33 * 51) * 7 % 2040 - 1024).reshape(33, 51)  # signed, 12 bits
BARE = np.where(TRUE < 0, TRUE + 4096, TRUE)  # the same without a sign in the spare bits
EXTENDED = TRUE.astype(np.int16).view(np.uint16)
TOOLS = {"jpeg-ls": ("dcmcjpls",), "jpeg lossless": ("dcmcjpeg",), "gdcm jpeg-ls": ("gdcmconv", "--jpegls")}


@pytest.fixture(params=["native", "implicit", "big endian", "deflated", "rle", "jpeg 2000", *TOOLS])
def write(request, tmp_path, ct):
    """write(words (H, W), bits allocated, **header): the words in a syntax, then the header as it is asked for."""
    kind = request.param

    def save(words, allocated=16, **header):
        words = np.asarray(words).astype(f"u{allocated // 8}")
        s = ct(words, BitsAllocated=allocated, BitsStored=allocated, HighBit=allocated - 1, RescaleIntercept="0")
        s.add_new("PixelData", "OW", words.astype(f"<u{allocated // 8}").tobytes())
        path = tmp_path / "in"
        if kind == "implicit":
            s.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        elif kind == "deflated":
            s.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        elif kind == "big endian":
            s.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            data = words.astype(f">u{allocated // 8}").tobytes()
            data += bytes(len(data) % 2)
            s.PixelData = np.frombuffer(data, "u2").byteswap().tobytes() if allocated == 8 else data  # OW: in 16 bits
            s.set_original_encoding(False, False)
        elif kind == "rle":
            s.compress(RLELossless, generate_instance_uid=False)
        elif kind == "jpeg 2000":
            s.compress(JPEG2000Lossless, generate_instance_uid=False)
        elif kind in TOOLS:
            if shutil.which(TOOLS[kind][0]) is None:
                pytest.skip(f"not installed: {TOOLS[kind][0]}")
            s.save_as(tmp_path / "plain", enforce_file_format=True)
            subprocess.run([*TOOLS[kind], tmp_path / "plain", tmp_path / "packed"], check=True, capture_output=True)
            s = pydicom.dcmread(tmp_path / "packed")
        if header.pop("overlay", False):
            s.add_new(0x60000100, "US", 16)  # OverlayBitsAllocated
            s.add_new(0x60000102, "US", 12)  # OverlayBitPosition
        for keyword, value in header.items():
            setattr(s, keyword, value)
        s.save_as(path, enforce_file_format=True)
        return path

    save.kind = kind
    return save


SIGNED = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
UNSIGNED = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}


@pytest.mark.parametrize("words", [BARE, EXTENDED], ids=["zeros above", "sign above"])
def test_signed_values_with_or_without_a_sign_in_the_spare_bits(write, words):
    image = dicom.read(write(words, **SIGNED))
    np.testing.assert_array_equal(image.hu, TRUE)
    assert image.stored.dtype == np.int16 and not image.warnings


def test_an_overlay_in_the_spare_bits(write):
    image = dicom.read(write(BARE + 4096 * (BARE % 5 == 0), **SIGNED, overlay=True))
    np.testing.assert_array_equal(image.hu, TRUE)
    assert not image.warnings
    image = dicom.read(write(TRUE + 1024 + 32768 * (BARE % 5 == 0), **UNSIGNED, overlay=True))
    np.testing.assert_array_equal(image.hu, TRUE + 1024)


def test_other_bits_above_are_ignored_and_said(write):
    image = dicom.read(write(TRUE + 1024 + 8192 * (BARE % 5 == 0), **UNSIGNED))
    np.testing.assert_array_equal(image.hu, TRUE + 1024)
    assert image.warnings == (
        f"{np.sum(BARE % 5 == 0)} pixels use bits above BitsStored 12, which are ignored: is BitsStored right?",
    )


def test_signed_values_beyond_bits_stored_are_refused(write):
    with pytest.raises(dicom.Unreadable, match="BitsStored 11 is too small: values reach 1471"):
        words = (TRUE + 456).astype(np.int16).view(np.uint16)
        dicom.read(write(words, BitsStored=11, HighBit=10, PixelRepresentation=1))


def test_unsigned_pixels_declared_signed_are_refused(write):
    with pytest.raises(dicom.Unreadable, match="PixelRepresentation should be 0"):
        dicom.read(write(np.arange(1683).reshape(33, 51) % 4096 * 2, **SIGNED, RescaleIntercept="-1024"))


def test_signed_pixels_declared_unsigned_are_refused(write):
    with pytest.raises(dicom.Unreadable, match="PixelRepresentation should be 1"):
        dicom.read(write(EXTENDED))


def test_high_bit_above_the_stored_bits(write):
    positive = TRUE + 1024
    image = dicom.read(write(16 * positive, BitsStored=12, HighBit=15))
    np.testing.assert_array_equal(image.hu, positive)
    assert not image.warnings
    image = dicom.read(write(positive, BitsStored=12, HighBit=15))
    np.testing.assert_array_equal(image.hu, positive)
    assert image.warnings == ("HighBit 15 is not BitsStored 12 - 1: taken as 11",)
    with pytest.raises(dicom.Unreadable, match="HighBit 15 contradicts BitsStored 12"):
        dicom.read(write(8 * positive, BitsStored=12, HighBit=15))
    with pytest.raises(dicom.Unreadable, match="HighBit 15 contradicts BitsStored 12"):
        dicom.read(write(np.arange(1683).reshape(33, 51) % 99 * 16, BitsStored=12, HighBit=15))  # both would do


def test_high_bit_below_the_stored_bits(write):
    image = dicom.read(write(TRUE + 1024, BitsStored=16, HighBit=11))
    np.testing.assert_array_equal(image.hu, TRUE + 1024)
    assert "HighBit 11" in image.warnings[0]
    with pytest.raises(dicom.Unreadable, match="HighBit 11 contradicts BitsStored 16"):
        dicom.read(write(BARE, BitsStored=16, HighBit=11, PixelRepresentation=1))


def test_8_bits(write):
    if write.kind in TOOLS:
        pytest.skip("these tools take 16 bits")
    words = np.arange(1683).reshape(33, 51) * 3 % 256
    np.testing.assert_array_equal(dicom.read(write(words, 8)).hu, words)
    signed = dicom.read(write(words, 8, PixelRepresentation=1))
    np.testing.assert_array_equal(signed.hu, words.astype(np.uint8).view(np.int8))
    seven = dicom.read(write(words % 128, 8, PixelRepresentation=1, BitsStored=7, HighBit=6))
    np.testing.assert_array_equal(seven.hu, (words % 128 + 64) % 128 - 64)


def test_32_bits(write):
    if write.kind in (*TOOLS, "jpeg 2000", "rle"):
        pytest.skip("32 bits are stored plain")
    words = (np.arange(1683, dtype=np.int64).reshape(33, 51) - 800) * 5_000
    image = dicom.read(write(words.astype(np.int32).view(np.uint32), 32, PixelRepresentation=1))
    np.testing.assert_array_equal(image.stored, words)
    bare = dicom.read(write(words % (1 << 24), 32, PixelRepresentation=1, BitsStored=24, HighBit=23))
    np.testing.assert_array_equal(bare.stored, words)


# --- a codestream that has its own precision and sign ---------------------------------------------------------------


@pytest.fixture
def jpeg_2000(tmp_path, ct):
    encode = pytest.importorskip("openjpeg.utils").encode_array

    def save(array, precision, **header):
        s = ct(np.zeros(array.shape, np.uint16), RescaleIntercept="0", **header)
        s.file_meta.TransferSyntaxUID = JPEG2000Lossless
        s.PixelData = encapsulate([encode(array, bits_stored=precision, photometric_interpretation=0)])
        s["PixelData"].VR, s["PixelData"].is_undefined_length = "OB", True
        s.save_as(tmp_path / "in", enforce_file_format=True)
        return tmp_path / "in"

    return save


@pytest.mark.parametrize(
    "array, precision, bits",
    [
        (BARE.astype("u2"), 12, 12), (BARE.astype("u2"), 16, 12), (EXTENDED, 16, 12), (EXTENDED, 16, 16),
        (TRUE.astype("i2"), 12, 12), (TRUE.astype("i2"), 16, 12), (TRUE.astype("i2"), 12, 16),
    ],
)  # fmt: skip
def test_signed_headers_over_signed_and_unsigned_codestreams(jpeg_2000, array, precision, bits):
    image = dicom.read(jpeg_2000(array, precision, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=1))
    np.testing.assert_array_equal(image.hu, TRUE)


def test_contradictions_of_codestream_and_header_are_refused(jpeg_2000):
    with pytest.raises(dicom.Unreadable, match="has negative values, PixelRepresentation 0"):
        dicom.read(jpeg_2000(TRUE.astype("i2"), 16))
    with pytest.raises(dicom.Unreadable, match="12 bits without a sign, the header says 16 with one"):
        dicom.read(jpeg_2000(BARE.astype("u2"), 12, PixelRepresentation=1))
    positive = (TRUE + 1024).astype("i2")
    np.testing.assert_array_equal(dicom.read(jpeg_2000(positive, 16)).hu, positive)


POSITIVE = (TRUE + 1024).astype("u2")
CODECS = {
    JPEGLossless: (lambda image: imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=12), 0),
    JPEGExtended12Bit: (lambda image: imagecodecs.jpeg8_encode(image, level=100, bitspersample=12), 2),
    JPEGLSLossless: (imagecodecs.jpegls_encode, 0),
    JPEGLSNearLossless: (lambda image: imagecodecs.jpegls_encode(image, level=3), 3),
    HTJ2KLossless: (lambda image: imagecodecs.htj2k_encode(image, reversible=True), 0),
}


@pytest.fixture(params=CODECS, ids=lambda syntax: syntax.keyword)
def packed(request, tmp_path, ct):
    """(a file with ``POSITIVE`` in 12 bits, how far its values may be off, what makes it again from a codestream)."""
    encode, off = CODECS[request.param]

    def save(encoded):
        s = ct(POSITIVE, RescaleIntercept="0", BitsStored=12, HighBit=11)
        s.file_meta.TransferSyntaxUID = request.param
        s.PixelData = encapsulate([encoded])
        s["PixelData"].VR, s["PixelData"].is_undefined_length = "OB", True
        s.save_as(tmp_path / "in", enforce_file_format=True)
        return tmp_path / "in"

    try:
        return encode(POSITIVE), off, save
    except (AttributeError, ValueError):
        pytest.skip("this imagecodecs reads it, but does not write it")


def test_what_lossless_and_lossy_syntaxes_hold(packed):
    encoded, off, save = packed
    assert np.abs(dicom.read(save(encoded)).hu - POSITIVE).max() <= off


def test_an_image_without_its_end_is_refused(packed):
    encoded, _, save = packed
    with pytest.raises(dicom.Unreadable, match="has no end: it is cut off"):
        dicom.read(save(encoded[: len(encoded) // 2]))


def test_frames_of_a_multi_frame_file_are_treated_alike(tmp_path, ct):
    s = ct(np.stack([BARE, EXTENDED]).astype(np.uint16), NumberOfFrames=2, RescaleIntercept="0", **SIGNED)
    s.save_as(tmp_path / "in", enforce_file_format=True)
    for image in dicom.iter_frames(tmp_path / "in"):
        np.testing.assert_array_equal(image.hu, TRUE)
