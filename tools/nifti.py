#!/usr/bin/env python
"""DICOM series <-> NIfTI volume, with geometry and HU kept, so that NIfTI data go through all programs.

  python tools/nifti.py volume.nii.gz -o data/series            a DICOM series of a NIfTI volume
  python tools/nifti.py result/series -o result.nii.gz          a NIfTI volume of each DICOM series
  python tools/nifti.py result/series -o result.nii.gz --like volume.nii.gz     in the order of axes of another file

NIfTI does not say whether it is CT: --modality does.
"""

import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from medi2i.common.errors import UserError, run
from medi2i.common.options.machinery import Checked, option, parse
from medi2i.datasets import dicom
from medi2i.datasets.derived_pixels import SAFE_CT, Encoding, encode
from medi2i.datasets.new_series import NewSeries
from medi2i.datasets.outputs import whole_file
from medi2i.tools.making import nifti


@dataclass
class NiftiOptions(Checked):
    """What to convert"""

    root: str = option(
        "data", "-i", "-R", metavar="PATH", help="NIfTI file, folder of NIfTI files, or folder with DICOM"
    )
    out: str = option(
        "converted", "-o", metavar="PATH", help="folder for DICOM, .nii or .nii.gz (or a folder) for NIfTI"
    )
    modality: str = option("CT", "-m", choices=["CT", "MR"], help="what a NIfTI volume is; CT values are HU")
    like: str = option(None, metavar="FILE", help="NIfTI file whose order of axes the output takes")
    force: bool = option(False, type=bool, help="overwrite existing files")


def command(argv: list[str]) -> None:
    if argv and not argv[0].startswith("-"):
        argv = ["--root", *argv]
    options = parse(NiftiOptions, argv, prog="nifti", description=__doc__.splitlines()[0])
    root, out = Path(options.root), Path(options.out)
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    volumes = [root] if root.is_file() else sorted(path for path in root.rglob("*") if nifti.is_nifti(path))
    if root.is_file() and not nifti.is_nifti(root):
        raise UserError(f"{root}: is no .nii or .nii.gz; for DICOM give the folder of the series")
    if volumes:
        for path in volumes:
            folder = out if root.is_file() else out / path.relative_to(root).parent / nifti.stem(path)
            count = to_dicom(path, folder, options.modality, options.force)
            print(f"{folder}: {count} slices of {path}")
        return
    to_nifti(root, out, options)


def to_dicom(path: Path, folder: Path, modality: str, force: bool = False) -> int:
    """Write a NIfTI volume as a DICOM series; returns the number of slices. UserError for sheared axes."""
    volume = nifti.read(path)
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise UserError(f"{path}: its axes are not at right angles; DICOM cannot hold such a grid, resample it first")
    encoding = encoding_of(volume.values, modality)
    digest = sha256(volume.values.tobytes()).hexdigest()
    series = NewSeries(
        modality=modality,
        affine=volume.affine,
        encoding=encoding,
        entropy=("nifti", digest, volume.affine.tolist(), modality),
        patient_id=nifti.stem(path),
        patient_name=f"{nifti.stem(path)}^NIFTI",
        study_description="From NIfTI",
        description=nifti.stem(path),
        comment="Made from a NIfTI file; patient and acquisition are not known",
        manufacturer_model="NIfTI to DICOM",
        image_type=("DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"),
    )
    clipped = 0
    for index, values in enumerate(volume.values):
        encoded = encode(values, encoding, None, None)
        clipped += encoded.clipped_low + encoded.clipped_high
        with whole_file(folder / f"{modality}{index + 1:04d}.dcm", force) as temporary:
            series.image(index, encoded.stored).save_as(temporary, enforce_file_format=True)
    if clipped:
        print(f"{path}: {clipped} voxels were outside {encoding.range[0]:g}…{encoding.range[1]:g} and are clipped")
    return len(volume.values)


def encoding_of(values: np.ndarray, modality: str) -> Encoding:
    """How to store values: HU in whole numbers; others as they are where they are whole, else in 65 535 steps."""
    if modality == "CT":
        return SAFE_CT
    low, high = float(values.min()), float(values.max())
    if np.all(values == np.rint(values)) and low >= -32768 and high <= 32767:
        return Encoding(1.0, 0.0)
    slope = float(
        f"{max(high - low, 1e-12) / 65533 * 1.0001:.8g}"
    )  # a DS holds 16 characters: rounded up, it covers all
    return Encoding(slope, float(f"{(high + low) / 2:.8g}"))


def to_nifti(root: Path, out: Path, options: NiftiOptions) -> None:
    """Write each DICOM series below a folder as a NIfTI file."""
    scanned = dicom.scan(root, progress=True)
    found = scanned.require_series()
    for skipped in scanned.skipped:
        print(f"warning: skipped {skipped.path}: {skipped.reason}", file=sys.stderr)
    single = nifti.is_nifti(out)
    if single and len(found) > 1:
        raise UserError(f"--out: {out} is one file, {root} holds {len(found)} series; a folder would take them all")
    for number, series in enumerate(found, 1):
        affine = series.affine()
        if affine is None:
            raise UserError(f"{series.paths[0]}: does not say where its slices lie, so there is no geometry to keep")
        name = "_".join(filter(None, (series.patient, str(series.number or number), f"{number:03d}")))
        target = out if single else out / ("".join(c if c.isalnum() or c in "-_." else "_" for c in name) + ".nii.gz")
        nifti.write(target, nifti.Volume(series.volume(), affine), options.like, options.force)
        print(f"{target}: {series.shape[1]}×{series.shape[0]}×{len(series.slices)}")
        for warning in series.warnings:
            print(f"  {warning}")


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
