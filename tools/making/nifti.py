"""NIfTI volumes in and out, with their geometry.

NIfTI counts voxels (i, j, k) and world axes to the right, front and head (RAS); here volumes are (slice, row, column)
and world axes those of DICOM, to the left, back and head (LPS). Source: https://nifti.nimh.nih.gov/nifti-1.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations

from medi2i.common.errors import UserError
from medi2i.datasets.outputs import whole_file
from medi2i.tools.making.nifti_file import read_header, read_voxels

SUFFIXES = (".nii", ".nii.gz")
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AXIAL = orientations.axcodes2ornt(("L", "P", "S"))


@dataclass(frozen=True)
class Volume:
    """``values`` (D, H, W) float32; ``affine`` 4×4 from (column, row, slice) to mm in patient coordinates (LPS).

    ``scaling``: (slope, intercept) that made the values of whole numbers, where the file says so. ``notes``: what a
    user should know of the file.
    """

    values: np.ndarray
    affine: np.ndarray
    scaling: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between slices, rows and columns."""
        columns, rows, slices = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns


def is_nifti(path: Path | str) -> bool:
    """Whether a name says NIfTI."""
    return str(path).lower().endswith(SUFFIXES)


def stem(path: Path | str) -> str:
    """The file's name without .nii or .nii.gz."""
    name = Path(path).name
    return next((name[: -len(s)] for s in (".nii.gz", ".nii") if name.lower().endswith(s)), name)


def read(path: Path | str, axial: bool = True) -> Volume:
    """Read a volume, scaled as its header says. Unreadable for what is no 3-D NIfTI file with a usable geometry.

    axial: turn the array (flips and exchanges of axes only, nothing is interpolated) so that slices go to the head,
    rows to the back and columns to the left as far as they can, like axial DICOM images.
    """
    path = Path(path)
    header, values = _named(path, read_voxels)
    values, affine = values.transpose(2, 1, 0), header.affine
    if axial:
        turn = orientations.ornt_transform(orientations.io_orientation(affine), _AXIAL)
        affine = affine @ orientations.inv_ornt_aff(turn, values.shape)
        values = orientations.apply_orientation(values, turn)
    return Volume(
        np.ascontiguousarray(values.transpose(2, 1, 0)),
        _LPS @ affine,
        (header.slope, header.intercept) if header.dtype.kind in "iu" else None,
        header.notes,
    )


def _named(path, read):
    """What ``read(path)`` gives; UserError for a file that is missing."""
    try:
        return read(path)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file") from None


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes of a 4×4 matrix are not at right angles: a qform cannot hold them, a tilted gantry has them."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3)


def write(path: Path | str, volume: Volume, like: Path | str | None = None, force: bool = False) -> None:
    """Write a volume: int16 where all values are whole numbers that fit, else float32. The file is whole or not there.

    like: a NIfTI file on the same grid whose order of axes the new file takes, so that both arrays match voxel by
    voxel. Raises UserError: existing file without ``force``, another grid than ``like``.
    """
    path = Path(path)
    if path.exists() and not force:
        raise UserError(f"{path}: exists; --force would overwrite it")
    if not is_nifti(path):
        raise UserError(f"{path}: a NIfTI file ends in .nii or .nii.gz")
    values, affine = volume.values.transpose(2, 1, 0), _LPS @ volume.affine
    if like is not None:
        try:
            model = _named(Path(like), read_header)
        except UserError as error:
            raise UserError(f"--like: {error}") from None
        turn = orientations.ornt_transform(
            orientations.io_orientation(affine), orientations.io_orientation(model.affine)
        )
        affine = affine @ orientations.inv_ornt_aff(turn, values.shape)
        values = orientations.apply_orientation(values, turn)
        if values.shape != model.shape or not np.allclose(affine, model.affine, atol=1e-2):
            raise UserError(f"{like}: lies on another grid ({model.shape}, not {values.shape})")
        affine = model.affine
    whole = np.all(values == np.rint(values)) and values.min() >= -32768 and values.max() <= 32767
    image = nibabel.Nifti1Image(values.astype(np.int16 if whole else np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    # nibabel would straighten sheared axes for the qform, and readers that prefer it would shift every slice.
    image.set_qform(affine, code=0 if is_sheared(affine) else 1)
    suffix = ".nii.gz" if str(path).lower().endswith(".gz") else ".nii"
    with whole_file(path, force) as temporary:  # nibabel tells by the name whether to compress
        named = temporary.with_name(temporary.name + suffix)
        try:
            nibabel.save(image, named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
