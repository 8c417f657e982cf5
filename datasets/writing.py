"""Arrays -> plain image files: pictures, npy and text. DICOM is written by ``medi2i.datasets.dicom``."""

import io
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Pillow

from medi2i.common.errors import UserError
from medi2i.common.resources import bands
from medi2i.datasets.kinds import kind_of
from medi2i.datasets.outputs import whole_file


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
