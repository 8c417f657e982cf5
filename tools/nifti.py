#!/usr/bin/env python
"""DICOM series <-> NIfTI volume, with geometry and HU kept, so that NIfTI data go through all programs.

  python tools/nifti.py volume.nii.gz -o data/series            a DICOM series of a NIfTI volume
  python tools/nifti.py result/series -o result.nii.gz          a NIfTI volume of each DICOM series
  python tools/nifti.py result/series -o result.nii.gz --like volume.nii.gz     in the order of axes of another file

NIfTI does not say whether it is CT: --modality does.
"""

import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from medi2i.common.errors import UserError, as_main
from medi2i.common.locks import locked
from medi2i.common.options import Checked, option, parse
from medi2i.datasets import nifti_volume
from medi2i.datasets.file_names import next_steps
from medi2i.datasets.nifti_series import patient, to_dicom, to_nifti


@dataclass
class NiftiOptions(Checked):
    """What to convert"""

    root: str = option(
        "data", "-i", "-R", metavar="PATH", help="NIfTI file, folder of NIfTI files, or folder with DICOM", bare=True
    )
    out: str = option(
        "converted", "-o", metavar="PATH", help="folder for DICOM, .nii or .nii.gz (or a folder) for NIfTI"
    )
    modality: str = option("CT", "-m", choices=["CT", "MR"], help="what a NIfTI volume is; CT values are HU")
    like: str | None = option(None, metavar="FILE", help="NIfTI file whose order of axes the output takes")
    force: bool = option(False, type=bool, help="overwrite existing files")


def command(argv: list[str]) -> None:
    options = parse(NiftiOptions, argv, __doc__)
    root, out = Path(options.root), Path(options.out)
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    volumes = [root] if root.is_file() else sorted(path for path in root.rglob("*") if nifti_volume.is_nifti(path))
    if root.is_file() and not nifti_volume.is_nifti(root):
        raise UserError(f"{root}: is no .nii or .nii.gz; for DICOM give the folder of the series{next_steps([root])}")
    single = nifti_volume.is_nifti(out)  # one file, whole or not at all
    with nullcontext() if single else locked(out, "writing"):
        convert(volumes, root, out, options)


def convert(volumes: list[Path], root: Path, out: Path, options: NiftiOptions) -> None:
    """Write the volumes as DICOM series, or where there are none, the series below the root as volumes."""
    if not volumes:
        to_nifti(root, out, options.like, options.force)
        return
    folders = {
        path: out if root.is_file() else out / path.relative_to(root).parent / nifti_volume.stem(path)
        for path in volumes
    }
    twice = [folder for folder, count in Counter(folders.values()).items() if count > 1]
    if twice:
        raise UserError(f"{root}: several volumes would be written to {twice[0]} (.nii beside .nii.gz?)")
    for path, folder in folders.items():
        count = to_dicom(path, folder, options.modality, options.force, patient(path, root))
        print(f"{folder}: {count} slices of {path}")


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
