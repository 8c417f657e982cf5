"""A NIfTI volume as a DICOM series, and back, with geometry and HU kept."""

import itertools
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets import dicom, file_names, nifti_volume
from medi2i.datasets.dicom.encoding import SAFE_CT, Encoding, encode
from medi2i.datasets.dicom.new_series import NewSeries, decimal

AIR = -500
"""HU; a volume that goes down to it is a CT, where nobody says what it is."""


def patient(path: Path, root: Path) -> str:
    """Whose the volume is: by its name and its folders below ``root``, else by those that ``root`` lies in."""
    name = nifti_volume.stem(path)
    below = path.relative_to(root).parent.parts if root.is_dir() else ()
    around = root.absolute().parts[-1:] if root.is_dir() else root.absolute().parent.parts[-2:]
    return file_names.as_id(file_names.patient_of(below, name) or file_names.patient_of(around, name) or name)


def to_dicom(path: Path, folder: Path, modality: str | None, force: bool, person: str) -> int:
    """Write a NIfTI volume as a DICOM series of the patient ``person``; returns the number of slices.

    modality: CT or MR; None: CT where there is air in HU. What the file leaves open and what changes in values is told
    on stderr. UserError for rows and columns that are not at right angles, and for a CT whose values are no HU.
    """
    volume = nifti_volume.read(path)
    if modality is None:
        modality = "CT" if volume.values.min() <= AIR else "MR"
    notes = list(volume.notes)
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if abs(axes[:, 0] @ axes[:, 1]) > 1e-3:
        raise UserError(
            f"{path}: its rows and columns are not at right angles; DICOM cannot hold such a grid, resample it first"
        )
    if nifti_volume.is_sheared(volume.affine):
        notes.append("its slices are shifted against each other, as those of a tilted gantry, and stay so")
    if modality == "CT":
        notes += check_hu(path, volume.values)
    encoding = encoding_of(volume.values, modality, volume.scaling)
    digest = sha256(volume.values.data).hexdigest()
    series = NewSeries(
        modality=modality,
        affine=volume.affine,
        encoding=encoding,
        entropy=("nifti", digest, volume.affine.tolist(), modality),
        patient_id=person,
        patient_name=f"{person.replace('^', '_').replace('=', '_')}^NIFTI",
        study_description="From NIfTI",
        description=file_names.as_id(nifti_volume.stem(path)),
        comment="Made from a NIfTI file; patient and acquisition are not known",
        manufacturer_model="NIfTI to DICOM",
        image_type=("DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"),
    )
    clipped, changed, most = 0, 0, 0.0
    for index, values in enumerate(volume.values):
        encoded = encode(values, encoding, None)
        clipped, changed = clipped + encoded.changes.clipped, changed + encoded.changes.rounded
        most = max(most, encoded.changes.largest)
        series.write(folder / f"{modality}{index + 1:04d}.dcm", index, encoded, force)
    if clipped:
        notes.append(f"{clipped} voxels were outside {encoding.range[0]:g}…{encoding.range[1]:g} and are clipped")
    if changed:
        steps = "whole HU" if modality == "CT" else f"steps of {encoding.slope:g}"
        notes.append(f"{changed} voxels are rounded to {steps}, by up to {most:.3g}")
    for note in notes:
        print(f"warning: {path}: {note}", file=sys.stderr)
    return len(volume.values)


def check_hu(path: Path, values: np.ndarray) -> list[str]:
    """What speaks against values being HU. UserError where they are plainly something else, like 0 to 1."""
    low, high = float(values.min()), float(values.max())
    if low >= -10 and high <= 10:
        raise UserError(
            f"{path}: its values go from {low:g} to {high:g}, which are no HU (air is -1000, bone 1000); "
            "scale them back to HU, or --modality MR keeps them as they are"
        )
    if low >= 0:
        return [
            f"no value is below 0 ({low:g} to {high:g}), and a CT in HU has air at -1000: are these stored values "
            "or grey levels? They are taken as HU"
        ]
    return []


def encoding_of(values: np.ndarray, modality: str, scaling: tuple[float, float] | None) -> Encoding:
    """How to store values: HU in whole numbers; others as they are where 16 bits hold them, else in 65 535 steps.

    scaling: (slope, intercept) that made the values of whole numbers; it is kept where it can be.
    """
    if modality == "CT":
        return SAFE_CT
    low, high = float(values.min()), float(values.max())
    steps = [(1.0, 0.0)] if np.all(values == np.rint(values)) else []
    if scaling is not None and scaling != (1.0, 0.0):
        steps.append((abs(scaling[0]), scaling[1]))
    for slope, intercept in itertools.chain(steps, even_steps(values)):
        slope = _short(slope)
        first, last = round((low - intercept) / slope), round((high - intercept) / slope)
        if first >= -32768 and last <= 32767:
            return Encoding(slope, _short(intercept))
        if first >= 0 and last <= 65535:
            return Encoding(slope, _short(intercept), signed=False)
        if last - first <= 65535:
            return Encoding(slope, _short(intercept + (first + 32768) * slope))
    slope = _short(max(high - low, 1e-12) / 65533 * 1.0001)  # rounded up, it covers all
    return Encoding(slope, _short((high + low) / 2))


def even_steps(values: np.ndarray) -> Iterator[tuple[float, float]]:
    """(slope, intercept) where values are whole multiples of a step above the lowest, as exactly as float32 says.

    The step is the smallest gap between values or a small part of it; the larger the gaps, the better it is known.
    """
    unique = np.unique(values).astype(np.float64)
    if len(unique) == 1:
        yield 1.0, float(unique[0])
        return
    if len(unique) > 65536:
        return
    gaps, exact = np.diff(unique), 2 * np.finfo(np.float32).eps * np.abs(unique).max()
    growing = np.sort(gaps).tolist()
    for part in range(1, 13):
        step, total, count = growing[0] / part, 0.0, 0
        for gap in growing:
            times = round(gap / step)
            if step < 4 * exact or abs(gap - times * step) > step / 4:
                break
            total, count = total + gap, count + times
            step = total / count
        else:
            multiples = np.cumsum(np.rint(gaps / step))
            step = (unique[-1] - unique[0]) / multiples[-1]
            if np.abs(unique[0] + step * multiples - unique[1:]).max() <= exact:
                yield step, float(unique[0])
                return


def _short(value: float) -> float:
    """What a DS of 16 characters holds of a number: at least eight digits."""
    return float(decimal(value))


def to_nifti(root: Path, out: Path, like: Path | str | None, force: bool) -> None:
    """Write each DICOM series below a folder as a NIfTI file; ``like`` as for ``nifti_volume.write``."""
    scanned = dicom.scan(root, progress=True)
    found = scanned.require_series()
    for skipped in scanned.skipped:
        print(f"warning: skipped {skipped.path}: {skipped.reason}", file=sys.stderr)
    single = nifti_volume.is_nifti(out)
    if single and len(found) > 1:
        raise UserError(f"--out: {out} is one file, {root} holds {len(found)} series; a folder would take them all")
    for number, series in enumerate(found, 1):
        affine = series.affine()
        if affine is None:
            raise UserError(f"{series.paths[0]}: does not say where its slices lie, so there is no geometry to keep")
        check_even(series, affine)
        name = "_".join(filter(None, (series.patient, str(series.number or number), f"{number:03d}")))
        target = out if single else out / ("".join(c if c.isalnum() or c in "-_." else "_" for c in name) + ".nii.gz")
        nifti_volume.write(target, nifti_volume.Volume(dicom.read_volume(series), affine), like, force)
        print(f"{target}: {series.shape[1]}×{series.shape[0]}×{len(series.slices)}")
        for warning in series.warnings:
            print(f"  {warning}")
        if nifti_volume.is_sheared(affine):
            print("  only its sform says where its slices lie: a qform cannot hold the shift from one to the next")


def check_even(series: dicom.Series, affine: np.ndarray) -> None:
    """UserError where the slices do not lie at equal distances, the only ones that NIfTI knows."""
    places = np.array([s.position for s in series.slices], float)
    wanted = affine[:3, 3] + np.arange(len(places))[:, None] * affine[:3, 2]
    off = np.linalg.norm(places - wanted, axis=1)
    if off.max() <= max(0.01, 0.02 * np.linalg.norm(affine[:3, 2])):
        return
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    odd = int(np.argmax(np.abs(steps - np.median(steps))))
    one, other = (series.slices[odd + n].path.name for n in (0, 1))
    raise UserError(
        f"{series.slices[0].path.parent}: its slices lie {steps.min():.4g} to {steps.max():.4g} mm apart "
        f"({steps[odd]:.4g} mm between {one} and {other}), and NIfTI has one distance for all; complete the series, "
        "resample it, or give the slices on one side of the gap"
    )
