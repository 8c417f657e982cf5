"""One image file -> array, whatever its kind. DICOM goes through ``medi2i.datasets.dicom``.

Arrays are (C, H, W) float32 in the file's own unit: HU for DICOM, grey levels for pictures, plain numbers for npy, csv
and txt.
"""

import dataclasses
import io
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Pillow

from medi2i.common.errors import Unreadable, UserError
from medi2i.common.resources import bands
from medi2i.datasets import dicom
from medi2i.datasets.dicom.header_checks import PARSE_ERRORS, short
from medi2i.datasets.outputs import whole_file
from medi2i.datasets.pictures import read_picture
from medi2i.datasets.plain_numbers import read_npy, read_table
from medi2i.datasets.scaling import Clip
from medi2i.datasets.tiff import read_tiff

SUFFIXES = {
    "dcm": (".dcm", ".dicom", ".ima"),
    "jpg": (".jpg", ".jpeg"),
    "png": (".png",),
    "tif": (".tif", ".tiff"),
    "bmp": (".bmp",),
    "gif": (".gif",),
    "npy": (".npy",),
    "csv": (".csv",),
    "txt": (".txt",),
}
KINDS = tuple(SUFFIXES)
PICTURES = ("jpg", "png", "tif", "bmp")
PLAIN_NUMBERS = ("npy", "csv", "txt")
DICOM_CLIP = Clip(-1024, 2000)  # HU; reference.md section 1
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}


@dataclasses.dataclass(frozen=True)
class Image:
    """``array``: (C, H, W) float32, unscaled. ``mask``: (H, W) bool, True on padding (no tissue), or None.

    ``bits``: 8 or 16 where the file held unsigned integers of that width, else None.
    """

    array: np.ndarray
    mask: np.ndarray | None = None
    bits: int | None = None


def kind_of(path):
    """The kind that a file name says, or None: DICOM files often have no suffix."""
    return _KIND_OF_SUFFIX.get(Path(path).suffix.lower())


def name_without_suffix(name, kind):
    """``name`` (text, may hold folders) without a suffix of ``kind``; other dots stay, as in names made of UIDs."""
    for suffix in SUFFIXES[kind]:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def default_clip(kind, bits):
    """The clip of a kind of image when none is given (``bits`` as in ``Image``): see reference.md section 1."""
    if kind == "dcm":
        return DICOM_CLIP
    if kind in PLAIN_NUMBERS or bits is None:
        return Clip()
    return Clip(0, 2**bits - 1)


def read_image(path, kind=None, *, frame=0, grey=False, labels=False):
    """Read one image of ``kind`` (default: what the name says, else DICOM) as an ``Image``.

    ``grey`` turns colour into its luminance (ITU-R 601-2). ``labels`` keeps the numbers of a palette image, which
    are classes, instead of its colours. ``frame`` is used for multi-frame DICOM. Raises Unreadable.
    """
    path = Path(path)
    kind = kind or kind_of(path) or "dcm"
    if kind not in SUFFIXES:
        raise UserError(f"--imgtype: {kind!r} cannot be read; it can be {', '.join(KINDS)}")
    if kind == "dcm":
        image = dicom.read(path, frame)
        return Image(np.asarray(image.hu, dtype=np.float32)[np.newaxis], image.mask)
    try:
        values, bits = _READERS[kind](path, labels)
    except (Unreadable, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (*PARSE_ERRORS, SyntaxError, tifffile.TiffFileError) as error:
        raise Unreadable(path, f"not a readable {kind} image ({short(error)})") from None
    array = _channels_first(path, values)
    if not np.isfinite(array).all():
        raise Unreadable(path, "holds NaN or infinite values; all values must be numbers")
    if grey and array.shape[0] == 3:
        array = to_grey(array)
    return Image(array, None, bits)


def to_grey(array, whole=False):
    """Luminance of (3, H, W) -> (1, H, W) float32 (ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B).

    ``whole``: of 8-bit values, rounded to a whole grey level as Pillow's mode L does.
    """
    if whole:
        weights = np.array([19595, 38470, 7471], dtype=np.int64)  # of 65536
        return ((np.tensordot(weights, array.astype(np.int64), axes=1) + 32768) >> 16)[np.newaxis].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.tensordot(weights, array, axes=1)[np.newaxis].astype(np.float32)


def _channels_first(path, values):
    """Values of (H, W) or (C, H, W) -> (C, H, W) float32, if they are finite real numbers."""
    if np.iscomplexobj(values) or values.dtype.kind not in "biuf":
        raise Unreadable(path, f"holds {values.dtype} values; it must hold real numbers")
    if values.ndim == 2:
        values = values[np.newaxis]
    if values.ndim != 3 or values.size == 0:
        raise Unreadable(path, f"has shape {values.shape}; it must be (H, W) or (C, H, W)")
    return np.ascontiguousarray(values, dtype=np.float32)


_READERS = {
    "jpg": lambda path, labels: read_picture(path, "jpg", labels),
    "png": lambda path, labels: read_picture(path, "png", labels),
    "bmp": lambda path, labels: read_picture(path, "bmp", labels),
    "gif": lambda path, labels: read_picture(path, "gif", labels),
    "tif": read_tiff,
    "npy": lambda path, labels: (read_npy(path), None),
    "csv": lambda path, labels: (read_table(path), None),
    "txt": lambda path, labels: (read_table(path), None),
}


def write_image(path, array, kind=None, *, bits=8):
    """Write (C, H, W) or (H, W) values, in the unit of the file, as ``kind`` (default: what the name says).

    ``bits``: 8 or 16 rounds to unsigned integers and saturates; None keeps float32 (tif only; npy, csv and txt always
    do). The folder is made; the file is written whole or not at all. Returns how many values were saturated.
    Raises UserError where the kind cannot hold the array, and for NaN and infinite values. DICOM is written by
    ``medi2i.datasets.dicom.derived_series``, which knows the source.
    """
    path = Path(path)
    kind = kind or kind_of(path)
    array = np.asarray(array)
    array = array[np.newaxis] if array.ndim == 2 else array
    if kind not in _WRITERS:
        raise UserError(f"{path}: {kind!r} cannot be written as a plain image; it can be {', '.join(_WRITERS)}")
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"array has shape {array.shape}; it must be (C, H, W) or (H, W)")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: not written, the image holds NaN or infinite values")
    with whole_file(path, force=True) as temporary:
        return _WRITERS[kind](temporary, path, array, bits, kind)


def to_integers(array, bits):
    """Round values (C, H, W) to unsigned integers of 8 or 16 bits.

    Returns (integers, how many were outside and are saturated).
    """
    top = 2**bits - 1
    whole = np.empty(array.shape, {8: np.uint8, 16: np.uint16}[bits])
    outside = 0
    for channel, found in zip(array, whole, strict=True):
        for rows in bands(channel.shape):
            rounded = np.rint(channel[rows])
            outside += int(np.count_nonzero((rounded < 0) | (rounded > top)))
            found[rows] = np.clip(rounded, 0, top)
    return whole, outside


def save_picture(picture, path, form, **how):
    """Write a Pillow image. Pillow's own way into a file ends JPEG where the disk is full, without a word."""
    content = io.BytesIO()
    picture.save(content, form, **how)
    Path(path).write_bytes(content.getvalue())


def _write_pillow(temporary, path, array, bits, kind):
    form = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP"}[kind]
    bits = bits or 8
    if array.shape[0] not in (1, 3):
        raise UserError(f"{path}: has {array.shape[0]} channels; {form} holds 1 or 3, npy any number")
    if bits == 16 and (form != "PNG" or array.shape[0] == 3):
        raise UserError(f"{path}: {form} with {array.shape[0]} channel(s) cannot hold 16 bits here; tif can")
    values, saturated = to_integers(array, bits)
    picture = Pillow.fromarray(values[0] if values.shape[0] == 1 else np.ascontiguousarray(values.transpose(1, 2, 0)))
    save_picture(picture, temporary, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    return saturated


def _write_tiff(temporary, path, array, bits, kind):
    values, saturated = (array.astype(np.float32), 0) if bits is None else to_integers(array, bits)
    if values.shape[0] not in (1, 3):
        raise UserError(f"{path}: has {array.shape[0]} channels; TIFF holds 1 or 3 here, npy any number")
    colour = values.shape[0] == 3
    tifffile.imwrite(
        temporary,
        np.ascontiguousarray(values.transpose(1, 2, 0)) if colour else values[0],
        photometric="rgb" if colour else "minisblack",
        compression="zlib",
        metadata=None,
    )
    return saturated


def _write_npy(temporary, path, array, bits, kind):
    with open(temporary, "wb") as file:
        np.save(file, array.astype(np.float32), allow_pickle=False)
    return 0


def _write_text(temporary, path, array, bits, kind):
    if array.shape[0] != 1:
        raise UserError(f"{path}: has {array.shape[0]} channels; a text file holds 1, npy any number")
    np.savetxt(temporary, array[0], fmt="%.9g", delimiter="," if kind == "csv" else "\t")
    return 0


_WRITERS = {
    "jpg": _write_pillow,
    "png": _write_pillow,
    "bmp": _write_pillow,
    "tif": _write_tiff,
    "npy": _write_npy,
    "csv": _write_text,
    "txt": _write_text,
}
