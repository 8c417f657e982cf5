"""Patients by names and folders, in the layouts that public data have."""

import pytest

from medi2i.datasets.file_names import as_id, folder_of, patient_of, person_in, says_nothing


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("1BA001/ct", "1BA001"),
        ("1BA001/mr", "1BA001"),
        ("ct/1BA001/ct", "1BA001"),
        ("1BA001/ct/volume", "1BA001"),
        ("1BA001_ct", "1BA001"),
        ("mr-1BA001", "1BA001"),
        ("TCGA-02-0003/T1", "TCGA-02-0003"),
        ("sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01"),
        ("sub-01/ses-2/anat/T2w", "sub-01"),
        ("sub-A12_T1w", "sub-A12"),
        ("imagesTr/case_0001_0000", "case_0001"),
        ("imagesTr/case_0001_0001", "case_0001"),
        ("imagesTr/liver_12_0000", "liver_12"),
        ("BRATS_001_0003", "BRATS_001"),
        ("Patient_A/ct", "Patient_A"),
        ("patient_001/scan1", "patient_001"),
        ("patient_001/scan2", "patient_001"),
        ("smith/ses2/img_007", "smith"),
        ("case12", "case12"),
        ("idaho_1", "idaho_1"),
        ("plain", "plain"),
        ("ct", ""),
        ("data/slice_12", ""),
    ],
)
def test_patients_of_public_layouts(path, expected):
    *folders, name = path.split("/")
    assert patient_of(folders, name) == expected


def test_a_person_is_named_outright_or_not_at_all():
    assert [person_in(name) for name in ("patient3_slice7", "P001_012", "sub-x_T1w", "pt12a", "id_7")] == [
        "patient3",
        "P001",
        "sub-x",
        "pt12a",
        "id_7",
    ]
    assert [person_in(name) for name in ("plan3", "patients", "sub1mm", "slice_001", "5mm", "idaho_1")] == [""] * 6


def test_folders_that_say_nothing_do_not_part_a_patient():
    assert folder_of(("trainB", "smith", "ses2", "png")) == folder_of(("trainB", "smith", "CT")) == ("trainB", "smith")
    assert folder_of(("trainB", "slices")) == ("trainB", "slices") and folder_of(()) == ()
    assert says_nothing("T1w") and says_nothing("2019-01-02") and not says_nothing("1BA001")


def test_an_id_fits_its_element():
    assert as_id("a\\b\nc" + 90 * "d") == "a_b_c" + 59 * "d"
