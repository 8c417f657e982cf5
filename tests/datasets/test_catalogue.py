from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medi2i.common.errors import UserError
from medi2i.common.options import PairedOptions
from medi2i.datasets import paired
from medi2i.datasets.augment import one_hot
from medi2i.datasets.catalogue import Source, describe, sources_in, stacks
from medi2i.datasets.dicom import SliceRef
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.preparing import Domain, choose_channels
from medi2i.datasets.scaling import PAIRED_HU, Clip, choose_clip
from medi2i.datasets.writing import write_image

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def multi_frame(path, volume):
    """Write (D, H, W) HU as one enhanced CT file, frame k at z = 2 k."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ENHANCED_CT
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.SeriesInstanceUID = dataset.StudyInstanceUID = generate_uid(entropy_srcs=[str(path), "series"])
    dataset.Modality, dataset.PatientID = "CT", "p"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = volume.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    groups = []
    for k in range(len(volume)):
        plane, orientation, measures, values = (pydicom.Dataset() for _ in range(4))
        plane.ImagePositionPatient = [0, 0, 2 * k]
        orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [1, 1], 2
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, 0, "HU"
        frame = pydicom.Dataset()
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [plane], [orientation]
        frame.PixelMeasuresSequence, frame.PixelValueTransformationSequence = [measures], [values]
        groups.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.PixelData = volume.astype(np.int16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def source(group=0, place=0, modality=None, **more):
    ref = None if modality is None else SliceRef(Path("p"), modality=modality)
    given = {"kind": "png", "shape": (1, 4, 4), "bits": 8, **more}
    return Source((Path("p"),), name=f"{group}.{place}", ref=ref, group=group, place=place, **given)


def test_frames_of_a_file_are_images_of_their_own_and_pair_by_number(tmp_path):
    volume = np.arange(4)[:, np.newaxis, np.newaxis] * 10 + np.zeros((4, 16, 18))
    multi_frame(tmp_path / "trainA" / "x.dcm", volume)
    multi_frame(tmp_path / "trainB" / "x.dcm", volume + 500)
    options = PairedOptions(root=str(tmp_path), random_translate=0, stack=2)
    dataset = paired.build(options, cache=ImageCache(1))
    assert [pair.inputs[0].stem for pair in dataset.images] == ["x#0", "x#1", "x#2", "x#3"]
    assert (len(dataset), dataset.name(0)) == (3, "x#1")
    x, t = dataset.load(1)
    np.testing.assert_allclose(dataset.clip_in.from_unit(x)[:, 3, 3], [10, 20], atol=1e-3)
    np.testing.assert_allclose(dataset.clip_out.from_unit(t)[:, 3, 3], [510, 520], atol=1e-3)
    multi_frame(tmp_path / "trainB" / "x.dcm", volume[:3])
    with pytest.raises(UserError, match=r"different numbers of frames \(3, 4\)"):
        paired.build(options, cache=ImageCache(1))


def test_windows_stay_in_their_group_and_follow_the_place():
    images = [source(1, 2), source(2, 0), source(1, 0), source(2, 1), source(1, 1)]
    assert stacks(images, 2) == [(2, 4), (4, 0), (1, 3)]
    assert stacks(images, 3) == [(2, 4, 0)]
    assert stacks(images, 1) == [(0,), (1,), (2,), (3,), (4,)]


def test_each_file_is_described_once_with_its_name_below_the_root(tmp_path):
    write_image(tmp_path / "p1" / "a.b.png", np.zeros((3, 5)))
    file = tmp_path / "p1" / "a.b.png"
    found = describe([file, file], tmp_path)
    (item,) = found.sources
    assert (item.name, item.stem, item.shape) == ("p1/a.b.png", "p1/a.b", (1, 3, 5))
    assert item.spacing is None and item.height is None
    assert sources_in(tmp_path) == found.sources


def test_default_clips_by_kind_and_what_has_to_be_given():
    assert choose_clip(None, [source()], "clipA", PAIRED_HU) == Clip(0, 255)
    assert choose_clip([None, None], [source(bits=16)], "clipA", PAIRED_HU) == Clip(0, 65535)
    assert choose_clip(None, [source(kind="dcm", bits=None, modality="CT")], "clipA", PAIRED_HU) == PAIRED_HU
    assert not choose_clip(None, [source(kind="npy", bits=None)], "clipA", PAIRED_HU).scales
    assert choose_clip([1, 2], [source(), source(bits=16)], "clipA", PAIRED_HU) == Clip(1, 2)
    with pytest.raises(UserError, match="--clipB: .*0 to 255 and .*0 to 65535"):
        choose_clip(None, [source(), source(bits=16)], "clipB", PAIRED_HU)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("npy", "f8"), ("npy", "i2"), ("csv", "f4"), ("txt", "f4"), ("tif", "f4"), ("tif", "i2"), ("tif", "i4")],
)
@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([[-1000, 0], [5, 2000.25]], "-1000 to 2001"),
        ([[0, 4095]], "0 to 4095"),
        ([[3, 3]], "3 to 4"),
        ([[-1, 1]], None),
        ([[0, 1]], None),
    ],
)
def test_values_without_a_range_far_from_unit_are_told_with_their_range(tmp_path, caplog, kind, dtype, values, told):
    if kind == "tif":
        tifffile.imwrite(tmp_path / "a.tif", np.array(values).astype(dtype))
    elif kind == "npy":
        np.save(tmp_path / "a.npy", np.array(values).astype(dtype))
    else:
        write_image(tmp_path / f"a.{kind}", np.array(values, dtype))
    if dtype[0] == "i" and told:
        told = told.replace("2001", "2000")
    found = sources_in(tmp_path)
    assert not choose_clip(None, found, "clipB", PAIRED_HU).scales
    message = " ".join(record.message for record in caplog.records)
    assert (f"hold values from {told}, far" in message and "-cb" in message) if told else message == ""
    caplog.clear()
    assert choose_clip([-1000, 2000], found, "clipB", PAIRED_HU).scales and not caplog.records


def test_channels():
    grey, colour = source(), source(shape=(3, 4, 4))
    assert choose_channels([grey, grey], False) == 1
    assert choose_channels([grey, colour], False) == 3
    assert choose_channels([grey, colour], True) == 1
    assert choose_channels([source(shape=(5, 4, 4))], True) == 5
    with pytest.raises(UserError, match="different numbers of channels: .* has 1, .* has 5"):
        choose_channels([grey, source(shape=(5, 4, 4))], False)


def test_one_hot():
    labels = np.array([[[0.0, 2.0]]], dtype=np.float32)
    np.testing.assert_array_equal(one_hot(labels, 3), [[[1, 0]], [[0, 0]], [[0, 1]]])


def test_colour_image_of_equal_channels_is_a_class_image(tmp_path):
    write_image(tmp_path / "a.png", np.array([[0, 1], [1, 2]]) * np.ones((3, 1, 1)))
    domain = Domain(Clip(), 1, ImageCache(1), class_num=3)
    item = describe([tmp_path / "a.png"], tmp_path).sources[0]
    np.testing.assert_array_equal(domain.classes(item), [[[0, 1], [1, 2]]])
    write_image(tmp_path / "b.png", np.arange(12).reshape(3, 2, 2) % 3)
    with pytest.raises(UserError, match="b.png: is a colour image"):
        domain.classes(describe([tmp_path / "b.png"], tmp_path).sources[0])
