"""NIfTI volumes in and out, with their geometry; nothing is allocated that a header only declares.

NIfTI counts voxels (i, j, k) and world axes to the right, front and head (RAS); here volumes are (slice, row, column)
and world axes those of DICOM, to the left, back and head (LPS). Fields and codes: https://nifti.nimh.nih.gov/nifti-1,
and nifti1.h and nifti2.h there.
"""

import contextlib
import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel import orientations
from nibabel.spatialimages import HeaderDataError

from medi2i.common.errors import Unreadable, UserError
from medi2i.common.limits import check_bytes, check_pixels, check_regular, in_words
from medi2i.common.outputs import check_target, whole_file

SUFFIXES = (".nii", ".nii.gz")
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AXIAL = orientations.axcodes2ornt(("L", "P", "S"))
_REAL = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COMPLEX, _COLOUR = (32, 1792, 2048), (128, 2304)
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by the low bits of xyzt_units; not said: mm, as all take it
_LIKELY = (1e-3, 50.0)  # mm of a voxel's edge
_LONGEST_EXTENSIONS = 64 << 20
Stream = BinaryIO | gzip.GzipFile
_EXACT = 1 << 24  # whole numbers up to here are float32


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


def is_nifti(path: Path | str) -> bool:
    """Whether a name says NIfTI."""
    return str(path).lower().endswith(SUFFIXES)


def stem(path: Path | str) -> str:
    """The file's name without .nii or .nii.gz."""
    name = Path(path).name
    return next((name[: -len(s)] for s in (".nii.gz", ".nii") if name.lower().endswith(s)), name)


def read(path: Path) -> Volume:
    """Read a volume, scaled as its header says. Unreadable for what is no 3-D NIfTI file with a usable geometry.

    The array is turned (flips and exchanges of axes only, nothing is interpolated) so that slices go to the head,
    rows to the back and columns to the left as far as they can, like axial DICOM images.
    """
    with _opened(path) as stream:
        header = _read_header(path, stream)
        values = _read_voxels(path, stream, header)
    values, affine = _turned(values.transpose(2, 1, 0), header.affine, _AXIAL)
    return Volume(
        np.ascontiguousarray(values.transpose(2, 1, 0)),
        _LPS @ affine,
        (header.slope, header.intercept) if header.dtype.kind in "iu" else None,
        tuple(header.notes),
    )


def _turned(values: np.ndarray, affine: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An array (i, j, k) and its affine with axes of the orientation ``wanted``, as nibabel has it."""
    turn = orientations.ornt_transform(orientations.io_orientation(affine), wanted)
    turned = affine @ orientations.inv_ornt_aff(turn, values.shape)
    return orientations.apply_orientation(values, turn), turned


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes of a 4×4 matrix are not at right angles: a qform cannot hold them, a tilted gantry has them."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3)


def write(path: Path, volume: Volume, like: Path | str | None = None, force: bool = False) -> None:
    """Write a volume: int16 where all values are whole numbers that fit, else float32. The file is whole or not there.

    like: a NIfTI file on the same grid whose order of axes the new file takes, so that both arrays match voxel by
    voxel. Raises UserError: existing file without ``force``, another grid than ``like``.
    """
    check_target(path, (), force)
    if not is_nifti(path):
        raise UserError(f"{path}: a NIfTI file ends in .nii or .nii.gz")
    values, affine = volume.values.transpose(2, 1, 0), _LPS @ volume.affine
    if like is not None:
        try:
            with _opened(Path(like)) as model_stream:
                model = _read_header(Path(like), model_stream)
        except UserError as error:
            raise UserError(f"--like: {error}") from None
        values, affine = _turned(values, affine, orientations.io_orientation(model.affine))
        if values.shape != model.shape or not np.allclose(affine, model.affine, atol=1e-2):
            raise UserError(f"{like}: lies on another grid ({model.shape}, not {values.shape})")
        affine = model.affine
    whole = np.all(values == np.rint(values)) and values.min() >= -32768 and values.max() <= 32767
    image = nibabel.Nifti1Image(values.astype(np.int16 if whole else np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    # nibabel would straighten sheared axes for the qform, and readers that prefer it would shift every slice.
    image.set_qform(affine, code=0 if is_sheared(affine) else 1)
    packed = str(path).lower().endswith(".gz")
    with (
        whole_file(path, force) as temporary,
        open(temporary, "wb") as file,
        gzip.GzipFile("", "wb", 1, file, 0) if packed else contextlib.nullcontext(file) as stream,
    ):
        image.to_stream(stream)


@dataclass(frozen=True)
class _Header:
    """``shape`` (i, j, k); ``affine`` 4×4 to mm (RAS); ``dtype`` of the voxels in the file, which begin at ``offset``.

    ``slope`` and ``intercept``: value = voxel · slope + intercept, 1 and 0 where the file does not scale. ``notes``:
    what a user should know, to which reading the voxels adds.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    notes: list[str]


def _read_voxels(path: Path, stream: Stream, header: _Header) -> np.ndarray:
    """The scaled values as (k, j, i) float32, behind a ``_Header`` that was read. Raises Unreadable."""
    _exactly(path, stream, header.offset - stream.tell())
    columns, rows, slices = header.shape
    need = rows * columns * header.dtype.itemsize
    if not isinstance(stream, gzip.GzipFile) and path.stat().st_size < header.offset + slices * need:
        raise Unreadable(
            path,
            f"is cut off: its header declares {slices * need} bytes of voxels, and there are "
            f"{max(0, path.stat().st_size - header.offset)}",
        )
    values = np.empty((slices, rows, columns), np.float32)
    rounded = bad = 0
    for index in range(slices):
        voxels = np.frombuffer(_exactly(path, stream, need), header.dtype).reshape(rows, columns)
        with np.errstate(over="ignore", invalid="ignore"):
            values[index] = (
                voxels
                if (header.slope, header.intercept) == (1.0, 0.0)
                else voxels.astype(np.float64) * header.slope + header.intercept
            )
        bad += int(np.count_nonzero(~np.isfinite(values[index])))
        if voxels.dtype.kind in "iu" and voxels.dtype.itemsize > 2:
            rounded += int(np.count_nonzero((voxels > _EXACT) | (voxels.astype(np.float64) < -_EXACT)))
    if bad:
        raise Unreadable(path, f"{bad} voxels are not finite numbers; a value for them (air, -1024 HU) would be right")
    if rounded:
        header.notes.append(f"{rounded} voxels are whole numbers beyond {_EXACT}, of which seven digits are kept")
    if _more(stream):
        header.notes.append("more data follow the voxels that its header declares; they are not read")
    return values


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Stream]:
    """The content of a file, unpacked where it is gzip by its first bytes. UserError where it is not there."""
    try:
        check_regular(path)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file") from None
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            try:
                yield stream
            except EOFError:
                raise Unreadable(path, "is cut off: its compressed data end too early") from None
            except (zlib.error, gzip.BadGzipFile) as error:
                raise Unreadable(path, f"cannot be read as NIfTI (damaged compressed data: {error})") from None


def _exactly(path: Path, stream: Stream, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise Unreadable(path, "is cut off: its header declares more voxels than there are")
    return data


def _more(stream: Stream) -> bool:
    """Whether something but zeros follows; reading on also compares the checksum of compressed data."""
    try:
        return bool(stream.read(1 << 16).strip(b"\0"))
    except gzip.BadGzipFile as error:
        if str(error).startswith("Not a gzipped file"):  # what follows is not compressed: the voxels are whole
            return True
        raise


def _read_header(path: Path, stream: Stream) -> _Header:
    """The ``_Header`` at the beginning of a NIfTI file, whatever its name says. Raises Unreadable."""
    size = stream.read(4)
    versions = {
        348: (nibabel.Nifti1Header, b"n+1\0", slice(344, 348)),
        540: (nibabel.Nifti2Header, b"n+2\0", slice(4, 8)),
    }
    length = next((n for n in versions if size in (n.to_bytes(4, "little"), n.to_bytes(4, "big"))), None)
    if length is None:
        raise Unreadable(path, "cannot be read as NIfTI (its first bytes are those of something else)")
    kind, mark, place = versions[length]
    block = size + stream.read(length - 4)
    if len(block) < length:
        raise Unreadable(path, "cannot be read as NIfTI (cut off in its header)")
    if block[place] != mark:
        raise Unreadable(
            path,
            "cannot be read as NIfTI (a header without its voxels, .hdr of a pair, or ANALYZE; "
            "as one .nii file it could)",
        )
    fields = kind(block, check=False)
    notes: list[str] = []
    shape = _shape(path, fields)
    dtype = _dtype(path, fields)
    slope, intercept = _scaling(path, fields, notes)
    offset = _offset(path, fields, length)
    return _Header(shape, _affine(path, fields, shape, notes), dtype, offset, slope, intercept, notes)


def _shape(path: Path, fields: nibabel.Nifti1Header) -> tuple[int, int, int]:
    count, *dims = (int(n) for n in fields["dim"])
    if not 1 <= count <= 7 or min(dims[:count]) < 1:
        raise Unreadable(path, f"cannot be read as NIfTI (dimensions {[count, *dims]})")
    dims = [*dims[:count], 1, 1, 1]
    volumes = math.prod(dims[3:])
    if volumes > 1:
        raise Unreadable(
            path,
            f"holds {volumes} volumes ({'×'.join(map(str, dims[:count]))}) and one 3-D volume is "
            "needed; split it first (fslsplit, or nibabel.four_to_three)",
        )
    columns, rows, slices = dims[:3]
    for plane in ((rows, columns), (slices, columns), (slices, rows)):
        check_pixels(path, *plane)
    check_bytes(path, 4 * columns * rows * slices, f"{columns}×{rows}×{slices} voxels")
    return columns, rows, slices


def _dtype(path: Path, fields: nibabel.Nifti1Header) -> np.dtype:
    code = int(fields["datatype"])
    if code in _COMPLEX:
        raise Unreadable(path, "holds complex numbers; save their magnitude (or phase) as a volume of its own")
    if code in _COLOUR:
        raise Unreadable(path, "holds colours (RGB); one number a voxel is needed")
    if code not in _REAL:
        raise Unreadable(
            path, f"holds voxels of datatype {code}; whole numbers of 8 to 64 bits and floats of 32 and 64 can be read"
        )
    return np.dtype(_REAL[code]).newbyteorder(fields.endianness)


def _scaling(path: Path, fields: nibabel.Nifti1Header, notes: list[str]) -> tuple[float, float]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or math.isnan(slope):  # nifti1.h: then there is no scaling
        if intercept != 0 and math.isfinite(intercept):
            notes.append(f"scl_slope is {slope:g}, so that its scl_inter {intercept:g} does not count")
        return 1.0, 0.0
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise Unreadable(path, f"scl_slope {slope:g} and scl_inter {intercept:g}: no scaling of values")
    return slope, intercept


def _offset(path: Path, fields: nibabel.Nifti1Header, length: int) -> int:
    first = length + 4
    offset = float(fields["vox_offset"])
    if offset == 0:  # some writers leave it out
        return first
    if not (math.isfinite(offset) and first - 4 <= offset == int(offset)):
        raise Unreadable(path, f"cannot be read as NIfTI (vox_offset {offset:g})")
    if offset > _LONGEST_EXTENSIONS:
        raise Unreadable(
            path, f"has {in_words(int(offset))} before its voxels; up to {in_words(_LONGEST_EXTENSIONS)} are read"
        )
    return int(offset)


def _affine(path: Path, fields: nibabel.Nifti1Header, shape: tuple[int, int, int], notes: list[str]) -> np.ndarray:
    """The sform, else the qform, else what pixdim says; in mm. The notes say where that is a guess."""
    code = int(fields["xyzt_units"]) & 7
    if code not in _MILLIMETRES:
        raise Unreadable(path, f"xyzt_units {code} is no unit of length")
    unit = np.diag([_MILLIMETRES[code]] * 3 + [1.0])
    forms = {}
    for name in ("sform", "qform"):
        try:
            form = getattr(fields, f"get_{name}")(coded=True)[0]
        except (HeaderDataError, ValueError) as error:
            raise Unreadable(path, f"has no usable geometry ({name}: {error})") from None
        if form is not None:
            forms[name] = unit @ form
    if not forms:
        notes.append(
            "has no geometry (qform_code and sform_code are 0): its orientation is a guess, and left and "
            "right may be exchanged"
        )
        spacing = [abs(float(n)) or 1.0 for n in fields["pixdim"][1:4]]
        matrix = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])  # as ANALYZE had it
        matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
        return _usable(path, unit @ matrix, notes)
    affine = _usable(path, next(iter(forms.values())), notes)
    if len(forms) == 2:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1.0])).reshape(4, -1)
        apart = float(np.nan_to_num(np.linalg.norm((forms["sform"] - forms["qform"]) @ corners, axis=0)).max())
        if apart > 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min():
            notes.append(f"its sform and qform lie up to {apart:.4g} mm apart; the sform is taken")
    return affine


def _usable(path: Path, affine: np.ndarray, notes: list[str]) -> np.ndarray:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or min(lengths) < 1e-9 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        raise Unreadable(path, "has no usable geometry (its affine matrix cannot be inverted)")
    if not _LIKELY[0] <= min(lengths) <= max(lengths) <= _LIKELY[1]:
        notes.append(f"its voxels are {'×'.join(f'{n:g}' for n in lengths)} mm large: another unit than it says?")
    return affine
