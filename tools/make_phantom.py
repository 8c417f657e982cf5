#!/usr/bin/env python
"""Make CT series of a procedural phantom, to try everything without a patient's data.

  python tools/make_phantom.py -o data/phantom --size 256 --slices 40 --series 4

Each series is another trunk (air, lungs with vessels, fat, muscle, organs, bone, table) in a folder of its own, as
valid DICOM CT images in whole HU. The same seed makes the same files.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from tqdm import tqdm

from medi2i.common.errors import UserError, run
from medi2i.common.options.machinery import Checked, option, parse
from medi2i.common.version import VERSION
from medi2i.datasets.derived import IMPLEMENTATION_UID
from medi2i.datasets.derived_header import CT_STORAGE, uid_from
from medi2i.datasets.outputs import whole_file
from medi2i.datasets.phantom import Phantom, phantom

DATE = "20190101"
"""Fixed, so that the same seed makes the same files on any day."""

INTERCEPT = -1024


@dataclass
class PhantomOptions(Checked):
    """What to make"""

    out: str = option("data/phantom", "-o", metavar="FOLDER", help="folder for the series, one sub-folder each")
    size: list = option([256], nargs="+", type=int, low=16, high=2048, metavar="PX", help="width, or height and width")
    slices: int = option(40, type=int, low=1, high=2000, help="slices of each series")
    series: int = option(1, "-n", "--patients", type=int, low=1, help="series, each of another patient")
    thickness: float = option(None, type=float, low=0.1, high=50, help="mm between slices; default: to cover the trunk")
    seed: int = option(0, type=int, low=0, help="the same seed makes the same phantoms")
    force: bool = option(False, type=bool, help="overwrite existing files")


def command(argv: list[str]) -> None:
    options = parse(PhantomOptions, argv, prog="make_phantom", description=__doc__.splitlines()[0])
    if len(options.size) > 2:
        raise UserError(f"--size: {len(options.size)} values; give the width, or height and width")
    shape = (options.size[0], options.size[-1])
    out = Path(options.out)
    existing = next((folder for n in range(options.series) if (folder := out / folder_name(n)).exists()), None)
    if existing and not options.force:
        raise UserError(f"{existing}: exists; another --out, or --force to overwrite")
    for number in tqdm(range(options.series), desc="phantoms", unit="series", disable=None):
        made = phantom(shape, options.slices, options.seed, number, options.thickness)
        write_series(out / folder_name(number), made, options.seed, number, force=options.force)
    print(f"{out}: {options.series} series of {options.slices} slices, {shape[1]}×{shape[0]}")


def folder_name(number: int) -> str:
    return f"phantom_{number + 1:03d}"


def write_series(folder: Path, made: Phantom, seed: int, number: int, force: bool = False) -> list[Path]:
    """Write a phantom as a DICOM CT series; returns the files, from feet to head."""
    paths = []
    for index in range(len(made.hu)):
        dataset = ct_image(made, index, seed, number)
        paths.append(folder / f"CT{index + 1:04d}.dcm")
        with whole_file(paths[-1], force) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    return paths


def ct_image(made: Phantom, index: int, seed: int, number: int) -> FileDataset:
    """Slice ``index`` as a CT Image Storage data set (PS3.3 A.3): 12-bit unsigned, slope 1, intercept -1024."""
    entropy = ("phantom", VERSION, seed, number, made.hu.shape, made.thickness)
    instance = uid_from("instance", entropy, index)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT_STORAGE, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"MEDI2I_{VERSION}"[:16]
    d = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=meta)
    d.SpecificCharacterSet = "ISO_IR 192"
    d.SOPClassUID, d.SOPInstanceUID = CT_STORAGE, instance
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = DATE
    d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = "120000"
    d.AccessionNumber = d.ReferringPhysicianName = ""
    d.Modality, d.Manufacturer, d.ManufacturerModelName = "CT", "medi2i", "procedural phantom"
    d.SoftwareVersions = VERSION
    d.StudyDescription, d.SeriesDescription = "Simulated trunk", "Phantom"
    name = f"{seed}-{number + 1:03d}"
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = f"PHANTOM^{name}", f"PHANTOM-{name}", "", ""
    d.ImageComments = "Simulated; no patient"
    d.BodyPartExamined, d.PatientPosition = "CHEST", "HFS"
    d.SliceThickness, d.KVP = f"{made.thickness:g}", "120"
    d.StudyInstanceUID, d.SeriesInstanceUID = uid_from("study", entropy), uid_from("series", entropy)
    d.FrameOfReferenceUID = uid_from("frame of reference", entropy)
    d.StudyID, d.SeriesNumber, d.AcquisitionNumber, d.InstanceNumber = str(number + 1), 1, 1, index + 1
    height = made.origin[2] + index * made.thickness
    d.ImagePositionPatient = [f"{v:.6g}" for v in (made.origin[0], made.origin[1], height)]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.PositionReferenceIndicator = ""
    d.SliceLocation = f"{height:.6g}"
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = made.hu.shape[1:]
    d.PixelSpacing = [f"{v:.8g}" for v in made.spacing]
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.WindowCenter, d.WindowWidth = [40, -600], [400, 1500]
    d.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = INTERCEPT, 1, "HU"
    d.LossyImageCompression = "00"
    stored = np.clip(np.rint(made.hu[index]) - INTERCEPT, 0, 4095).astype("<u2")
    d.add_new("PixelData", "OW", stored.tobytes())
    return d


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
