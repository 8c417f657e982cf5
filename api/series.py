"""A DICOM series as an array in HU, with where it lies in the patient."""

import dataclasses
from pathlib import Path

import numpy as np

from medi2i.common.errors import UserError, as_user_errors, counted
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import list_series
from medi2i.datasets.dicom.header_checks import VOLUME_MODALITIES
from medi2i.datasets.unpacking import unpacked


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Slices of one size and orientation, in order along their normal.

    hu: (Z, Y, X) float32, HU for CT, the scanner's units for other modalities. padding: (Z, Y, X) bool, True where the
    file has no tissue, or None. spacing: (between slices, between rows, between columns) in mm. orientation: the
    direction of a row and of a column, six cosines. position: (Z, 3), the centre of each slice's first pixel in mm, in
    the patient's coordinates. All three are None where the files do not say. files: of each slice.
    """

    hu: np.ndarray
    padding: np.ndarray | None
    spacing: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    position: np.ndarray | None
    modality: str
    description: str
    files: tuple[Path, ...]


@as_user_errors()
def read_series(folder: Path | str, number: int | None = None) -> Series:
    """The DICOM series in a folder, in a file of many frames or in a zip archive, whatever the files are called; or a
    NIfTI volume, as DICOM would hold it.

    number: which one, from 1 on, where there are several; the error that says so lists them. Raises UserError.
    """
    found = list_series(unpacked(folder), VOLUME_MODALITIES).volumes
    if number is None and len(found) > 1 or not 1 <= (number or 1) <= len(found):
        named = "; ".join(
            f"{i}: {volume.series.description if volume.series else ''} ({counted(len(volume.sources), 'slice')})"
            for i, volume in enumerate(found, start=1)
        )
        raise UserError(f"{folder}: holds {counted(len(found), 'series', 'series')}, number says which: {named}")
    volume = found[(number or 1) - 1]
    images = [dicom.read(source.path, source.frame) for source in volume.sources]
    masks = [np.zeros(image.hu.shape, bool) if image.mask is None else image.mask for image in images]
    refs = [image.where for image in images]
    distance = volume.series and volume.series.slice_distance or refs[0].thickness
    positions = [ref.position for ref in refs if ref.position is not None]
    return Series(
        np.stack([image.hu for image in images]).astype(np.float32, copy=False),
        np.stack(masks) if any(mask.any() for mask in masks) else None,
        (distance, *refs[0].spacing) if distance and refs[0].spacing else None,
        refs[0].orientation,
        np.array(positions) if len(positions) == len(refs) else None,
        refs[0].modality,
        refs[0].description,
        tuple(source.path for source in volume.sources),
    )
