"""De-identification by the Basic Application Confidentiality Profile (PS3.15 Annex E).

Table E.1-1, some 700 attributes and what is to become of them, comes from dicom-anonymizer, which follows the editions
of the standard. Its own way of carrying the table out leaves dates of year 1 behind, empties the items of sequences
that must not be empty, and looks at the top level only; so that is done here, for single-frame images.
docs/deidentification.md compares the outcome with the standard.
"""

import hashlib
import hmac
import secrets

from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag

from medi2i.common.errors import UserError
from medi2i.datasets.dicom.derived_header import code, put, uid_from
from medi2i.datasets.dicom.header_checks import text

EDITION = "2026c"
METHOD = f"PS3.15 {EDITION} Basic Profile by medi2i"
DRAWINGS = (0x50, 0x60)  # groups 50xx and 60xx: curves and overlays, which may hold text
# Attributes of the table that a CT, MR or PT image must have, though they may be empty (type 2).
MAY_BE_EMPTY = frozenset(
    {
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "PositionReferenceIndicator",
        "ContentDate",
        "ContentTime",
    }
)
# What the library calls the actions of the table.
REMOVE = frozenset(
    {
        "delete",
        "empty",
        "replace",
        "empty_or_replace",
        "delete_or_empty",
        "delete_or_replace",
        "delete_or_empty_or_replace",
    }
)
NEW_UID = frozenset({"replace_UID", "delete_or_empty_or_replace_UID"})


class Deidentifier:
    """De-identifies data sets in place. Within one object, equal UIDs become equal UIDs and a patient has one
    pseudonym; another object makes others, and no way leads back. Raises UserError where the library is missing."""

    def __init__(self) -> None:
        try:
            from dicomanonymizer.simpledicomanonymizer import initialize_actions
        except ImportError:
            raise UserError("--deidentify: needs dicom-anonymizer: pip install 'medi2i[deidentify]'") from None
        named = {tag: action.__name__ for tag, action in initialize_actions(f"dicomfields_{EDITION}").items()}
        unknown = set(named.values()) - REMOVE - NEW_UID - {"keep"}
        if unknown:
            raise UserError(
                f"--deidentify: this version of dicom-anonymizer has an action {min(unknown)} that is not "
                "known here; version 2.1 would be right"
            )
        self._table = {tag: name for tag, name in named.items() if len(tag) == 2}
        self._groups = [(tag, name) for tag, name in named.items() if len(tag) == 4]  # repeating groups
        self._key = secrets.token_bytes(32)

    def __call__(self, dataset: FileDataset, **kept: str) -> None:
        """`kept`: keyword → text of our own making that is put back (the profile removes every description).

        Raises UserError where names may stand in the pixels, which nothing here can remove.
        """
        if text(dataset, "BurnedInAnnotation").upper() == "YES":
            raise UserError(
                "--deidentify: the header says that text is burned into the image (BurnedInAnnotation "
                "YES); leave this series out"
            )
        pseudonym = "P" + self._digest(text(dataset, "PatientID") or text(dataset, "StudyInstanceUID"))[:12].upper()
        self._clean(dataset, top=True)
        put(
            dataset,
            PatientID=pseudonym,
            PatientName=pseudonym,
            PatientIdentityRemoved="YES",
            LongitudinalTemporalInformationModified="REMOVED",
            DeidentificationMethod=METHOD,
            DeidentificationMethodCodeSequence=[code("113100", "Basic Application Confidentiality Profile")],
            **kept,
        )
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

    def _clean(self, dataset: Dataset, top: bool = False) -> None:
        for element in list(dataset):
            action = self._action(element.tag)
            if element.tag.is_private or element.tag.group >> 8 in DRAWINGS:
                del dataset[element.tag]
            elif action in NEW_UID and element.VR == "UI":
                uids = element.value
                element.value = self._new_uid(uids) if isinstance(uids, str) else [self._new_uid(uid) for uid in uids]
            elif element.VR == "SQ" and action not in REMOVE:
                for item in element.value:
                    self._clean(item)
            elif action in REMOVE and top and element.keyword in MAY_BE_EMPTY:
                element.clear()
            elif action in REMOVE or action in NEW_UID:
                del dataset[element.tag]

    def _action(self, tag: BaseTag) -> str | None:
        return self._table.get((tag.group, tag.element)) or next(
            (
                name
                for (group, element, group_mask, element_mask), name in self._groups
                if tag.group & group_mask == group & group_mask and tag.element & element_mask == element & element_mask
            ),
            None,
        )

    def _new_uid(self, value: str) -> str:
        return uid_from("deidentified", self._digest(value)) if value else value

    def _digest(self, value: str) -> str:
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()
