"""The writer: the table of what is kept, new and gone; values; nothing overwritten; nothing half written."""

import errno
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

from medi2i.common import VERSION
from medi2i.common.errors import UserError
from medi2i.datasets import dicom
from medi2i.datasets.dicom import new_series
from medi2i.datasets.dicom.encoding import SAFE_CT, Encoding, choose_encoding, encode, reads_as
from medi2i.datasets.scaling import Clip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

STORED = np.array([[0, 1, 1024], [1074, 2047, 4095]], np.uint16)


def series_of(image, **changes):
    return new_series.DerivedSeries(
        image.header,
        **(
            {
                "model_name": "enc_x50.npz",
                "model_sha256": "ab" * 32,
                "description": "denoised",
                "options": {"clip": 1},
            }
            | changes
        ),
    )


def convert(path, out, hu=None, mask=None, **changes):
    image = dicom.read(path)
    report = series_of(image, **changes).write(out, image, image.hu if hu is None else hu, mask=mask)
    return report, pydicom.dcmread(out)


def test_what_is_new_and_what_is_kept(ct_file, tmp_path):
    source = ct_file("in", STORED, InstanceNumber=7)
    report, d = convert(source, tmp_path / "out.dcm")
    s = pydicom.dcmread(source)
    for keyword in (
        "StudyInstanceUID",
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "InstanceNumber",
        "StudyDate",
        "SeriesDate",
        "AcquisitionNumber",
        "WindowCenter",
        "WindowWidth",
        "KVP",
        "SliceThickness",
    ):
        assert d[keyword].value == s[keyword].value, keyword
    for keyword in (
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesDescription",
    ):
        assert d[keyword].value != s[keyword].value, keyword
    assert d.SOPInstanceUID == d.file_meta.MediaStorageSOPInstanceUID == report.sop_uid
    assert d.SeriesDescription == "denoised"
    assert d.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    for words in ("enc_x50.npz", "ab" * 32, VERSION, "not an acquired image"):
        assert words in d.DerivationDescription
    assert [i.ReferencedSOPInstanceUID for i in d.SourceImageSequence] == [s.SOPInstanceUID]
    purposes = [i.PurposeOfReferenceCodeSequence[0].CodeValue for i in d.ContributingEquipmentSequence]
    assert purposes == ["109101", "109103"] and d.ContributingEquipmentSequence[0].Manufacturer == "maker"
    assert d.ContributingEquipmentSequence[1].SoftwareVersions == VERSION
    assert d.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian" and d.LossyImageCompression == "00"
    assert (report.clipped, report.padded) == (0, 0)


def test_what_must_go(tmp_path, ct):
    inner = Dataset()
    inner.add_new(0x00091001, "LO", "private")
    inner.CodeValue = "1"
    s = ct(
        STORED,
        SmallestImagePixelValue=0,
        LargestImagePixelValue=4095,
        IconImageSequence=[Dataset()],
        ModalityLUTSequence=[],
        PixelPaddingRangeLimit=5,
        DigitalSignaturesSequence=[Dataset()],
    )
    s.ProcedureCodeSequence = [inner]
    s.add_new(0x00090010, "LO", "SECRET")
    s.add_new(0x00091001, "LO", "private")
    s.add_new(0x60000010, "US", 2)
    s.save_as(tmp_path / "in", enforce_file_format=True)
    _, d = convert(tmp_path / "in", tmp_path / "out")
    for keyword in (
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "IconImageSequence",
        "ModalityLUTSequence",
        "PixelPaddingRangeLimit",
        "PixelPaddingValue",
        "DigitalSignaturesSequence",
    ):
        assert keyword not in d, keyword
    assert not [e.tag for e in d.iterall() if e.tag.is_private or e.tag.group == 0x6000]
    assert d.ProcedureCodeSequence[0].CodeValue == "1"


def test_the_source_header_is_not_touched(ct_file, tmp_path):
    image = dicom.read(ct_file("in", STORED))
    before = image.header.to_json()
    series_of(image).write(tmp_path / "out", image, image.hu)
    assert image.header.to_json() == before


def test_uids_are_decided_by_source_model_and_options(ct_file, tmp_path):
    source = ct_file("in", STORED)
    image = dicom.read(source)
    one, two = (series_of(image) for _ in range(2))
    assert one.uid == two.uid and one.uid_of(image) == two.uid_of(image)
    convert(source, tmp_path / "a")
    convert(source, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for change in ({"model_sha256": "cd" * 32}, {"model_name": "x"}, {"description": "y"}, {"options": {"clip": 2}}):
        other = series_of(image, **change)
        assert other.uid != one.uid and other.uid_of(image) != one.uid_of(image)


def test_sources_that_share_one_uid_still_get_different_ones(ct_file, tmp_path):
    paths = [ct_file(f"in{n}", STORED + np.uint16(n), InstanceNumber=n, SOPInstanceUID="1.2.3") for n in (1, 2)]
    image = dicom.read(paths[0])
    series = series_of(image)
    images = [dicom.read(p) for p in paths]
    uids = [series.write(tmp_path / f"o{i.path.name}", i, i.hu).sop_uid for i in images]
    assert len(set(uids)) == 2


def test_invalid_uids_are_replaced_alike_in_all_slices(ct_file, tmp_path):
    found = []
    for n in (1, 2):
        path = ct_file(
            f"in{n}", STORED, InstanceNumber=n, StudyInstanceUID="bad uid", FrameOfReferenceUID="", SOPInstanceUID=""
        )
        found.append(convert(path, tmp_path / f"o{n}")[1])
    assert found[0].StudyInstanceUID == found[1].StudyInstanceUID != "bad uid"
    assert found[0].FrameOfReferenceUID == found[1].FrameOfReferenceUID != ""
    assert "SourceImageSequence" not in found[0]


def test_what_slices_share_is_in_each_as_if_it_were_alone(tmp_path, ct_file):
    """Other values, and the same values in other words."""
    same = {"KVP": "120", "ConvolutionKernel": ["B", "70"], "ProtocolName": "a", "SliceThickness": "1.0"}
    changed = [{}, {"KVP": "120.0"}, {"ProtocolName": "b", "PatientName": "Other^Name"}, {"ConvolutionKernel": ["B"]}]
    images = [
        dicom.read(ct_file(f"in{number}", STORED, InstanceNumber=number, **(same | change)))
        for number, change in enumerate(changed)
    ]
    shared = series_of(images[0])
    for number, image in enumerate([*images, *images]):
        paths = [tmp_path / f"{number}_{kind}" for kind in ("shared", "alone")]
        for path, series in zip(paths, (shared, series_of(images[0])), strict=True):
            series.write(path, image, image.hu)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert pydicom.dcmread(paths[0]).KVP.original_string == image.header.KVP.original_string


def test_a_stack_names_all_its_sources(ct_file, tmp_path):
    paths = [ct_file(f"in{n}", STORED, InstanceNumber=n) for n in (1, 2, 3)]
    image = dicom.read(paths[1])
    series_of(image).write(tmp_path / "o", image, image.hu, sources=[dicom.read(p) for p in paths])
    d = pydicom.dcmread(tmp_path / "o")
    assert sorted(i.ReferencedSOPInstanceUID[-1] for i in d.SourceImageSequence) == ["1", "2", "3"]


def test_padding_keeps_a_value_of_its_own(ct_file, tmp_path):
    stored = np.array([[-2000, -1000, 50], [-2000, 0, 100]], np.int16)
    source = ct_file("in", stored, RescaleIntercept="0", PixelPaddingValue=-2000)
    image = dicom.read(source)
    hu = image.hu.copy()
    hu[0, 1] = -2000  # a pixel that now has the value of the source's padding
    report = series_of(image).write(tmp_path / "o", image, hu, mask=image.mask)
    found = dicom.read(tmp_path / "o")
    np.testing.assert_array_equal(found.mask, image.mask)
    np.testing.assert_array_equal(found.hu[~image.mask], hu[~image.mask])
    assert report.padded == 2 and found.header.PixelPaddingValue != -2000


def test_clipped_pixels_are_counted_and_never_wrap(ct_file, tmp_path):
    hu = np.array([[-5000, 5000, 40000], [-40000, 0, 1e9]], np.float32)
    report, _ = convert(ct_file("in", STORED), tmp_path / "o", hu, value_range=(-30000, 30000))
    assert report.clipped == 3
    np.testing.assert_array_equal(dicom.read(tmp_path / "o").hu, [[-5000, 5000, 31743], [-33792, 0, 31743]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(ct_file, tmp_path, bad):
    hu = np.zeros(STORED.shape, np.float32)
    hu[1, 1] = bad
    with pytest.raises(UserError, match="1 of 6 pixels are not finite"):
        convert(ct_file("in", STORED), tmp_path / "o", hu)
    assert os.listdir(tmp_path) == ["in"]


def test_nothing_is_overwritten(ct_file, tmp_path):
    source = ct_file("in", STORED)
    image = dicom.read(source)
    series = series_of(image)
    os.symlink(source, tmp_path / "link")
    for target in (source, tmp_path / "link"):
        with pytest.raises(UserError, match="is an input"):
            series.write(target, image, image.hu, force=True)
    series.write(tmp_path / "o", image, image.hu)
    before = (tmp_path / "o").read_bytes()
    with pytest.raises(UserError, match="--force"):
        series.write(tmp_path / "o", image, image.hu + 1)
    assert (tmp_path / "o").read_bytes() == before
    series.write(tmp_path / "o", image, image.hu + 1, force=True)
    assert (tmp_path / "o").read_bytes() != before


def test_a_full_disk_leaves_nothing(ct_file, tmp_path, monkeypatch):
    image = dicom.read(ct_file("in", STORED))

    def full(path, data):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        series_of(image).write(tmp_path / "o", image, image.hu)
    assert os.listdir(tmp_path) == ["in"]


def test_what_reads_back_differently_is_refused(ct_file, tmp_path, monkeypatch):
    image, whole = dicom.read(ct_file("in", STORED)), Path.write_bytes
    series = series_of(image)
    series.write(tmp_path / "good", image, image.hu)

    def flips_a_bit(path, data):
        changed = bytearray(data)
        changed[-1] ^= 1
        whole(path, changed)

    monkeypatch.setattr(Path, "write_bytes", flips_a_bit)
    with pytest.raises(UserError, match="reads back differently"):
        series.write(tmp_path / "o", image, image.hu)
    assert sorted(os.listdir(tmp_path)) == ["good", "in"]


def test_a_reader_looks_at_the_first_file_of_each_kind(ct_file, tmp_path, monkeypatch):
    """And a file that it would take for another image gets no name."""
    image, found = dicom.read(ct_file("in", STORED)), []

    def looked(values, mask, encoded, encoding, padding):
        found.append((mask is not None, reads_as(values, mask, encoded, encoding, padding)))
        return found[-1][1] and len(found) < 3

    monkeypatch.setattr(new_series, "reads_as", looked)
    series, some = series_of(image), image.hu < 0
    for number, mask in enumerate((None, None, some, some)):
        series.write(tmp_path / f"{number}", image, image.hu, mask=mask)
    assert found == [(False, True), (True, True)]
    another = series_of(image)
    for name in ("4", "5"):  # what was refused once is looked at again
        with pytest.raises(UserError, match="reads back differently"):
            another.write(tmp_path / name, image, image.hu)
        assert not (tmp_path / name).exists()


def test_lossy_sources_stay_marked(tmp_path, ct):
    s = ct(np.tile(STORED, (20, 14)), LossyImageCompression="01", LossyImageCompressionRatio="7")
    s.compress(JPEG2000Lossless)
    s.save_as(tmp_path / "in", enforce_file_format=True)
    _, d = convert(tmp_path / "in", tmp_path / "o")
    assert d.LossyImageCompression == "01" and d.LossyImageCompressionRatio == 7


def test_enhanced_frames_become_single_images(tmp_path, ct):
    s = ct(np.stack([STORED, STORED + 1]), NumberOfFrames=2, ImagePositionPatient=None, PixelSpacing=None)
    frames = []
    for number in range(2):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [1, 2, 3 * number]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2, 3], 4
    shared.PixelMeasuresSequence = [measures]
    s.PerFrameFunctionalGroupsSequence, s.SharedFunctionalGroupsSequence = Sequence(frames), Sequence([shared])
    s.SOPClassUID = s.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    s.save_as(tmp_path / "in", enforce_file_format=True)
    image = dicom.read(tmp_path / "in", 1)
    series_of(image).write(tmp_path / "o", image, image.hu)
    d = pydicom.dcmread(tmp_path / "o")
    assert "NumberOfFrames" not in d and "PerFrameFunctionalGroupsSequence" not in d
    assert (d.ImagePositionPatient, d.PixelSpacing, d.SliceThickness, d.InstanceNumber) == ([1, 2, 3], [2, 3], 4, 2)
    assert d.SourceImageSequence[0].ReferencedFrameNumber == 2
    np.testing.assert_array_equal(dicom.read(tmp_path / "o").hu, image.hu)


def test_mr_becomes_synthetic_ct(tmp_path, ct):
    s = ct(STORED, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4", EchoTime="3", MagneticFieldStrength="1.5")
    s.save_as(tmp_path / "in", enforce_file_format=True)
    hu = np.linspace(-1000, 2000, 6).reshape(2, 3)
    _, d = convert(tmp_path / "in", tmp_path / "o", hu, modality="CT")
    assert d.Modality == "CT" and d.SOPClassUID.name == "CT Image Storage" and "MagneticFieldStrength" not in d
    assert d.RescaleType == "HU" and "WindowCenter" not in d and d.PatientID == "P1"
    np.testing.assert_array_equal(dicom.read(tmp_path / "o").hu, np.rint(hu))


# --- values ---------------------------------------------------------------------------------------------------------

KINDS = [(bits, signed) for bits in (12, 14, 16) for signed in (False, True)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    kind=st.sampled_from(KINDS),
    slope=st.sampled_from([0.5, 1, 2]),
    intercept=st.sampled_from([0, -1024]),
    crop=st.booleans(),
)
def test_identity_round_trip_has_no_error_inside_the_clip(tmp_path_factory, ct, data, kind, slope, intercept, crop):
    bits, signed = kind
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    shape = data.draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    top = min(most, 0xDFFF)  # beyond it, unsigned pixels look like negative ones and are refused
    stored = data.draw(arrays(np.int16 if signed else np.uint16, shape, elements=st.integers(least, top)))
    folder = tmp_path_factory.mktemp("trip")
    ct(stored, BitsStored=bits, HighBit=bits - 1, RescaleSlope=str(slope), RescaleIntercept=str(intercept)).save_as(
        folder / "in", enforce_file_format=True
    )
    image = dicom.read(folder / "in")
    clip = Clip(-1024, 2000)
    there_and_back = clip.from_unit(clip.to_unit(image.hu))
    if crop:  # what the network does not see comes from the source
        result = image.hu.copy()
        result[1:, 1:] = there_and_back[1:, 1:]
    else:
        result = there_and_back
    report, _ = convert(folder / "in", folder / "out", result)
    found = dicom.read(folder / "out").hu
    inside = (image.hu >= -1024) & (image.hu <= 2000)
    np.testing.assert_array_equal(found[inside], image.hu[inside])
    # elsewhere to the nearest step, or at the end of the range, which is then counted
    limits = report.range
    np.testing.assert_allclose(found, np.clip(result, *limits), atol=slope / 2, rtol=0)
    assert report.clipped == np.count_nonzero((result > limits[1] + slope / 2) | (result < limits[0] - slope / 2))


def test_encodings():
    assert choose_encoding(Encoding(1, -1024, 12, False), "CT") == Encoding(1, -1024, 12, False)
    assert choose_encoding(Encoding(1, 0, 12, True), "CT") == Encoding(1, 0)  # -2048…2047 does not hold 3071
    assert choose_encoding(Encoding(2, 0, 12, True), "CT") == Encoding(1, 0)
    assert choose_encoding(Encoding(0.5, -1024, 12, False), "CT") == Encoding(0.5, -1024)
    assert choose_encoding(Encoding(1e-3, 0), "CT") == Encoding(1, 0)
    assert choose_encoding(Encoding(1, -1024, 12, False), "CT", (-3000, 8000)) == Encoding(1, -1024) == SAFE_CT
    assert choose_encoding(Encoding(3.77, 1e-5, 12, False), "MR") == Encoding(3.77, 1e-5, 12, False)


def test_rounding_is_to_the_nearest():
    encoded = encode(np.array([[0.4, 0.6, -0.4, 1.5]]), Encoding(1, 0), None)
    np.testing.assert_array_equal(encoded.stored, [[0, 1, 0, 2]])
