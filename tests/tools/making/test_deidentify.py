"""Nothing of the patient is left, and what is left is still an image."""

import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset

from medi2i.common.errors import UserError
from medi2i.tools.making.deidentify import Deidentifier

table = pytest.importorskip(
    "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c", reason="dicom-anonymizer is not installed"
)
MARKS = {
    "AE": "SECRET",
    "AS": "033Y",
    "CS": "SECRET",
    "LO": "Secret",
    "LT": "secret",
    "PN": "Secret^Jane",
    "SH": "SECRET",
    "ST": "secret",
    "UC": "secret",
    "UT": "secret",
    "UR": "http://secret.example",
    "UI": "1.2.3.4.5.77",
    "DA": "19700203",
    "DT": "19700203101112",
    "TM": "101112",
    "OB": b"secret",
    "UN": b"secret",
    "OW": b"secret",
}


def image(**more):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.77"
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "4711", "Secret^Jane"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.9"
    dataset.PixelSpacing, dataset.ImagePositionPatient = [0.5, 0.5], [1, 2, 3]
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def everything():
    """An image with every attribute of table E.1-1, in the data set, in sequences of the table, and in others."""
    dataset = image()
    for tag in (tag for tag in table.ALL_TAGS if len(tag) == 2 and tag[0] not in (0, 2)):
        try:
            kind = dictionary_VR(tag).split(" or ")[0]
        except KeyError:
            continue  # newer than pydicom's dictionary
        if kind == "SQ":
            dataset.add_new(tag, "SQ", [item()])
        elif kind in MARKS:
            dataset.add_new(tag, kind, MARKS[kind])
    dataset.SOPClassUID, dataset.Modality, dataset.BurnedInAnnotation = "1.2.840.10008.5.1.4.1.1.2", "CT", "NO"
    dataset.AnatomicRegionSequence = [item()]  # the table does not name it
    dataset.add_new((0x0009, 0x0010), "LO", "ACME")
    dataset.add_new((0x0009, 0x1001), "LO", "secret")
    dataset.add_new((0x6002, 0x4000), "LT", "secret")
    return dataset


def item():
    inner = Dataset()
    inner.PatientName, inner.PatientComments, inner.ReferencedSOPInstanceUID = "Secret^Jane", "secret", "1.2.3.4.5.77"
    return inner


def marked(dataset, place=""):
    found = []
    for element in dataset:
        name = f"{place}{element.keyword or element.tag}"
        if element.VR == "SQ":
            found += [mark for one in element.value for mark in marked(one, f"{name}/")]
        elif any(mark in str(element.value).lower() for mark in ("secret", "1970", "101112", "033y", "1.2.3.4.5.77")):
            found.append(name)
    return found


def test_nothing_of_table_e_1_1_is_left_at_any_depth():
    dataset = everything()
    assert len(marked(dataset)) > 600
    Deidentifier()(dataset)
    assert marked(dataset) == []
    assert not [element for element in dataset if element.tag.is_private or element.tag.group == 0x6002]


def test_geometry_stays_and_the_file_says_what_was_done():
    dataset = image(DerivationDescription="secret", StudyDate="19700203")
    Deidentifier()(dataset, DerivationDescription="ours")
    assert dataset.PixelSpacing == [0.5, 0.5] and dataset.ImagePositionPatient == [1, 2, 3]
    assert dataset.PatientIdentityRemoved == "YES" and dataset.DerivationDescription == "ours"
    assert dataset.LongitudinalTemporalInformationModified == "REMOVED" and dataset.StudyDate == ""
    assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID != "1.2.3.4.5.77"
    assert pydicom.uid.UID(dataset.SOPInstanceUID).is_valid and len(dataset.DeidentificationMethod) <= 64


def test_uids_and_pseudonyms_hold_together_in_one_run_and_not_between_runs():
    deidentifier = Deidentifier()
    first, second = image(SOPInstanceUID="1.2.3.4.5.77"), image(SOPInstanceUID="1.2.3.4.5.78")
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = first.SOPClassUID, first.SOPInstanceUID
    second.SourceImageSequence = [source]
    other = image(PatientID="4712")
    for dataset in (first, second, other):
        deidentifier(dataset)
    assert first.PatientID == second.PatientID == first.PatientName != other.PatientID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID and first.FrameOfReferenceUID != "1.2.9"
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert second.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    again = image()
    Deidentifier()(again)
    assert again.PatientID != first.PatientID and again.SeriesInstanceUID != first.SeriesInstanceUID


def test_text_in_the_pixels_is_refused():
    with pytest.raises(UserError, match="burned into the image"):
        Deidentifier()(image(BurnedInAnnotation="YES"))
