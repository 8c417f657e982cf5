"""The header of a derived image: what is kept of the source, what is new, what must go.

The rules are those of PS3.3 C.7.6.1 (General Image: ImageType, derivation, sources, lossy compression) and C.7.5.1
(equipment): a derived image says that it is one, from what it was made, and by what.
"""

import copy
import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import TypeVar

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from medi2i.common import VERSION
from medi2i.datasets.dicom.encoding import NotWritable
from medi2i.datasets.dicom.header_checks import (
    LOSSY_METHODS,
    PARSE_ERRORS,
    empty_like,
    functional_group,
    is_valid_uid,
    numbers,
    syntax_uid,
    text,
)
from medi2i.datasets.dicom.reading import DicomImage

STORAGE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}

Encodings = str | list[str] | None
"""Of text, as pydicom calls them; None for its default."""
D = TypeVar("D", bound=Dataset)

NOT_ACQUIRED = "not an acquired image"


def _tags(keywords: str) -> frozenset[int | None]:
    return frozenset(map(tag_for_keyword, keywords.split()))


# Describes pixels that are no longer there, or points into them, or signs them; and what several frames need.
_STALE = _tags("""
    SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries
    PixelPaddingValue SmallestImagePixelValueInPlane LargestImagePixelValueInPlane PixelPaddingRangeLimit
    PixelAspectRatio IconImageSequence ModalityLUTSequence VOILUTSequence PresentationLUTSequence
    PixelIntensityRelationshipLUTSequence RealWorldValueMappingSequence DigitalSignaturesSequence MACParametersSequence
    EncryptedAttributesSequence
    DataSetTrailingPadding PixelDataProviderURL FrameIncrementPointer ReferencedSOPSequence InstanceCoercionDateTime
    ExtendedOffsetTable ExtendedOffsetTableLengths SourceImageSequence DerivationCodeSequence DerivationDescription
    InstanceCreationDate InstanceCreationTime
    InstanceCreatorUID SOPInstanceStatus ContentCreatorName PlanarConfiguration RedPaletteColorLookupTableDescriptor
    GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData
    GreenPaletteColorLookupTableData BluePaletteColorLookupTableData PaletteColorLookupTableUID
    SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
    SegmentedBluePaletteColorLookupTableData SupplementalPaletteColorLookupTableSequence
    NumberOfFrames SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence DimensionOrganizationSequence
    FrameTime DimensionIndexSequence DimensionOrganizationType ConcatenationUID InConcatenationNumber
    InConcatenationTotalNumber SOPInstanceUIDOfConcatenationSource ConcatenationFrameOffsetNumber ContentQualification
    PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique AcquisitionContextSequence""")
# Whose image it is: a damaged one is not left out in silence.
_IDENTITY = _tags("PatientName PatientID AccessionNumber StudyInstanceUID")
# Present in every image, though it may be empty (type 2): patient, study, series, equipment, image.
_TYPE_2 = """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID ReferringPhysicianName
    SeriesNumber Manufacturer InstanceNumber PositionReferenceIndicator""".split()
_TYPE_2_OF = {
    "CT": "KVP AcquisitionNumber SliceThickness".split(),
    "MR": "RepetitionTime EchoTime EchoTrainLength SliceThickness ScanOptions".split(),
}
# What still holds when an image of one modality becomes one of another: who, where, when, how it lies.
_ACROSS_MODALITIES = _tags("""
    SpecificCharacterSet StudyDate StudyTime SeriesDate SeriesTime ContentDate ContentTime
    AcquisitionDate AcquisitionTime AccessionNumber Manufacturer
    InstitutionName ReferringPhysicianName StudyDescription ProtocolName BodyPartExamined SliceThickness
    SpacingBetweenSlices PatientPosition StudyInstanceUID StudyID InstanceNumber AcquisitionNumber
    ImagePositionPatient ImageOrientationPatient Laterality FrameOfReferenceUID PositionReferenceIndicator
    SliceLocation PixelSpacing BurnedInAnnotation LossyImageCompression LossyImageCompressionRatio
    LossyImageCompressionMethod""")
# Items are to be no part of two headers, a name has its bytes beside its text, and which integer it is may depend on
# PixelRepresentation.
_DEPENDENT = ("SQ", "PN", "US", "SS", "OB", "OW")
_SCANNER = "InstitutionName StationName ManufacturerModelName DeviceSerialNumber SoftwareVersions".split()


def uid_from(*entropy: object) -> str:
    """The same UID for the same entropy (2.25 and a UUID, PS3.5 B.2); different ones practically always."""
    digest = hashlib.sha256(json.dumps(entropy, default=str).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


_IMPLEMENTATION_UID = uid_from("medi2i", "implementation")


Known = dict[BaseTag, tuple[tuple, DataElement]]
"""Elements that were found writable, one of each tag, and what each was made of: most of a series' elements are the
same in all of its images. Threads may share one."""


def _known_or_writable(known: Known, source: Dataset, tag: BaseTag, encodings: Encodings) -> DataElement | None:
    """``_writable`` of the element; that of another image where both have the same content."""
    given = source.get_item(tag)
    if given.VR in _DEPENDENT:
        return _writable(source, tag, encodings)
    # Numbers are as the file spells them, in repr as in bytes.
    how: object = repr(given.value)
    if isinstance(given, RawDataElement):
        how = given.is_implicit_VR, given.is_little_endian, given.value
    content = given.VR, how, encodings
    kept = known.get(tag)
    if kept is None or kept[0] != content:
        element = _writable(source, tag, encodings)
        if element is None or element.VR in _DEPENDENT:
            return element
        kept = known[tag] = content, element
    return copy.copy(kept[1])


def kept_of(source: Dataset, frame: int, modality: str, known: Known) -> Dataset:
    """A copy of what a derived single-frame image of ``modality`` keeps of the source: no pixels, no private tags,
    nothing stale.

    For an enhanced source the frame's functional groups become plain attributes. Damaged elements are left out;
    NotWritable where one says whose image it is. ``known``: of other images of the series.
    """
    kept = empty_like(source)
    foreign = text(source, "Modality") != modality
    charset = _writable(source, "SpecificCharacterSet", None)
    encodings = None if charset is None else charset.value
    for tag in list(source.keys()):
        if (
            tag.is_private
            or tag.group < 8  # file meta and the like, in the wrong place
            or tag.element == 0
            or tag in _STALE
            or 0x5000 <= tag.group <= 0x7FE0  # curves, overlays, pixels
            or foreign
            and tag.group not in (0x0010, 0x0012)
            and tag not in _ACROSS_MODALITIES
        ):
            continue
        element = _known_or_writable(known, source, tag, encodings)
        if element is not None:
            kept.add(element)
        elif tag in _IDENTITY:
            raise NotWritable(f"{keyword_for_tag(tag)} is damaged: whose image it is must not get lost")
    for macro, keywords in (
        ("PlanePositionSequence", ("ImagePositionPatient",)),
        ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
        ("PixelMeasuresSequence", ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")),
        ("FrameVOILUTSequence", ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction")),
        ("FrameAnatomySequence", ("AnatomicRegionSequence",)),
    ):
        group = functional_group(source, frame, macro)
        if group is not source and not (foreign and macro == "FrameVOILUTSequence"):
            for keyword in keywords:
                element = _writable(group, keyword, encodings) if keyword in group else None
                if element is not None:
                    kept.add(element)
    return kept


def _writable(source: Dataset, key: BaseTag | str, encodings: Encodings) -> DataElement | None:
    """A copy of the element, with private tags removed at every depth; None where it is damaged: it cannot be decoded,
    or what it holds cannot be written."""
    try:
        element = source[key]
        if (element.VR == "SQ") != (_vr_of(element) == "SQ"):
            return None
        if element.VR == "SQ":
            element = DataElement(element.tag, "SQ", Sequence([_public(item, encodings) for item in element.value]))
        else:
            element = DataElement(element.tag, _vr_of(element), copy.copy(element.value))
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element, encodings)
        return element
    except PARSE_ERRORS:
        return None


def _vr_of(element: DataElement) -> str:
    """The VR of the element if the dictionary allows it, else the dictionary's: a value set later must fit it."""
    try:
        allowed = dictionary_VR(element.tag).split(" or ")
    except KeyError:
        return element.VR
    return element.VR if element.VR in allowed else allowed[0]


def _public(item: Dataset, encodings: Encodings) -> Dataset:
    public = Dataset()
    encodings = item.get("SpecificCharacterSet", encodings)
    for tag in list(item.keys()):
        element = None if tag.is_private or tag.element == 0 else _writable(item, tag, encodings)
        if element is not None:
            public.add(element)
    return public


def complete(header: Dataset, modality: str, source: Dataset, frame: int) -> None:
    """Add what every image of the modality must have, empty where it is not known; replace UIDs that are not valid
    ones."""
    for keyword in (*_TYPE_2, *_TYPE_2_OF.get(modality, ())):
        if keyword not in header:
            setattr(header, keyword, None if keyword != "PatientName" else "")
    if modality == "MR" and "ScanningSequence" not in header:
        # an enhanced image says it in words (PS3.3 C.8.13.5.1), a classic one in a code; RM is "research mode"
        echo = text(functional_group(source, frame, "MRPulseSequence"), "EchoPulseSequence") or text(
            source, "EchoPulseSequence"
        )
        header.ScanningSequence = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": ["SE", "GR"]}.get(echo, "RM")
        header.SequenceVariant = header.get("SequenceVariant") or "NONE"
    if not is_valid_uid(text(header, "StudyInstanceUID")):
        told = (text(header, keyword) for keyword in ("StudyInstanceUID", "PatientID", "StudyDate", "StudyTime"))
        header.StudyInstanceUID = uid_from("study", *told)
    if not is_valid_uid(text(header, "FrameOfReferenceUID")):
        header.FrameOfReferenceUID = uid_from(
            "frame of reference", header.StudyInstanceUID, text(header, "FrameOfReferenceUID")
        )


def put(dataset: D, **values: object) -> D:
    """``dataset`` with values for keywords."""
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, meaning: str) -> Dataset:
    """A coded concept of the DICOM dictionary (PS3.16)."""
    return put(Dataset(), CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)


def source_images(images: Iterable[DicomImage], same_grid: bool) -> Sequence:
    """SourceImageSequence; sources without valid UIDs are left out. same_grid: the pixels lie where the sources' do."""
    found = []
    for image in images:
        uids = {f"Referenced{keyword}": text(image.header, keyword) for keyword in ("SOPClassUID", "SOPInstanceUID")}
        if all(map(is_valid_uid, uids.values())):
            item = put(Dataset(), **uids)
            if image.where.frames > 1:
                item.ReferencedFrameNumber = image.frame + 1
            item.SpatialLocationsPreserved = "YES" if same_grid else "NO"
            item.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
            found.append(item)
    return Sequence(found)


def equipment(source: Dataset, what: str) -> Sequence:
    """ContributingEquipmentSequence: what was there, the scanner, and this software."""
    scanner = put(
        Dataset(),
        PurposeOfReferenceCodeSequence=[code("109101", "Acquisition Equipment")],
        Manufacturer=text(source, "Manufacturer") or "unknown",
    )
    for keyword in _SCANNER:
        if text(source, keyword):
            setattr(scanner, keyword, source.get(keyword))
    software = put(
        Dataset(),
        PurposeOfReferenceCodeSequence=[code("109103", "Modifying Equipment")],
        Manufacturer="medi2i",
        ManufacturerModelName="medi2i",
        SoftwareVersions=VERSION,
        ContributionDescription=what,
    )
    return Sequence([*source.get("ContributingEquipmentSequence", []), scanner, software])


def image_type(source: Dataset, modality: str) -> list[str]:
    """DERIVED, SECONDARY and the source's third value where the modality allows it (CT: AXIAL or LOCALIZER)."""
    values = [value.strip().upper() for value in text(source, "ImageType").split("\\")]
    third = values[2] if len(values) > 2 and values[2] else ""
    if modality == "CT":
        third = third if third in ("AXIAL", "LOCALIZER") else "AXIAL"
    return ["DERIVED", "SECONDARY", third or "OTHER"]


def mark_lossy(header: Dataset, image: DicomImage | None) -> None:
    """LossyImageCompression stays 01 once it was; a lossy transfer syntax sets it, with method and ratio (PS3.3
    C.7.6.1.1.5). image: a source that lost something, or None."""
    header.LossyImageCompression = "00" if image is None else "01"
    if image is None:
        return
    method, ratio = LOSSY_METHODS.get(str(syntax_uid(image.header))), image.compression_ratio
    if not text(header, "LossyImageCompressionRatio") and ratio is not None:
        header.LossyImageCompressionRatio = f"{ratio:.3g}"
    if not text(header, "LossyImageCompressionMethod") and method is not None:
        header.LossyImageCompressionMethod = method


def has_window_in_units(source: Dataset) -> bool:
    """A window is kept where it can be applied: centre and width as equally many numbers."""
    count = len(text(source, "WindowCenter").split("\\"))
    return all(numbers(source, keyword, count) is not None for keyword in ("WindowCenter", "WindowWidth"))


def as_file(header: Dataset) -> FileDataset:
    """``header`` as a file of PS3.10, in Explicit VR Little Endian."""
    meta = put(
        FileMetaDataset(),
        MediaStorageSOPClassUID=header.SOPClassUID,
        MediaStorageSOPInstanceUID=header.SOPInstanceUID,
        TransferSyntaxUID=ExplicitVRLittleEndian,
        ImplementationClassUID=_IMPLEMENTATION_UID,
        ImplementationVersionName=f"MEDI2I_{VERSION}"[:16],
    )
    dataset = FileDataset(None, header, b"\0" * 128, meta)  # type: ignore[arg-type]  # no file yet
    dataset.set_original_encoding(False, True, header.original_character_set)
    return dataset
