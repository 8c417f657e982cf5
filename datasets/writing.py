"""Arrays -> plain image files: pictures, npy and text. DICOM is written by ``medi2i.datasets.dicom``."""

import io
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Pillow

from medi2i.common.errors import UserError
from medi2i.common.outputs import whole_file
from medi2i.common.resources import bands
from medi2i.datasets.file_names import PLAIN_NUMBERS, kind_of
from medi2i.datasets.pictures import FORMATS

WRITTEN = ("jpg", "png", "bmp", "tif", *PLAIN_NUMBERS)


def write_image(path: Path | str, array: np.ndarray, kind: str | None = None, *, bits: int | None = 8) -> int:
    """Write (C, H, W) or (H, W) values, in the unit of the file, as ``kind`` (default: what the name says).

    ``bits``: 8 or 16 rounds to unsigned integers and saturates; None keeps float32 (tif only; npy, csv and txt always
    do). The folder is made; the file is written whole or not at all. Returns how many values were saturated.
    Raises UserError where the kind cannot hold the array, and for NaN and infinite values. DICOM is written by
    ``medi2i.datasets.dicom.new_series``, which knows the source.
    """
    path = Path(path)
    kind = kind or kind_of(path)
    array = np.asarray(array)
    array = array[np.newaxis] if array.ndim == 2 else array
    if kind not in WRITTEN:
        raise UserError(f"{path}: {kind!r} cannot be written as a plain image; it can be {', '.join(WRITTEN)}")
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"array has shape {array.shape}; it must be (C, H, W) or (H, W)")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: not written, the image holds NaN or infinite values")
    if kind == "npy":
        write_npy(path, array.astype(np.float32))
        return 0
    with whole_file(path, force=True) as temporary:
        return _write(temporary, path, array, bits, kind)


def write_npy(path: Path, array: np.ndarray, force: bool = True) -> None:
    """Write an array as it is, of whatever shape; the file is written whole or not at all, in the place of another.

    UserError where there is one, without ``force``."""
    with whole_file(path, force) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def _write(temporary: Path, path: Path, array: np.ndarray, bits: int | None, kind: str) -> int:
    channels, saturated = len(array), 0
    if kind in ("csv", "txt"):
        if channels != 1:
            raise UserError(f"{path}: has {channels} channels; a text file holds 1, npy any number")
        np.savetxt(temporary, array[0], fmt="%.9g", delimiter="," if kind == "csv" else "\t")
        return 0
    form = FORMATS[kind]
    if channels not in (1, 3):
        raise UserError(f"{path}: has {channels} channels; {form} holds 1 or 3 here, npy any number")
    if bits == 16 and kind != "tif" and (kind != "png" or channels == 3):
        raise UserError(f"{path}: {form} with {channels} channel(s) cannot hold 16 bits here; tif can")
    if kind == "tif" and bits is None:
        array = array.astype(np.float32)
    else:
        array, saturated = to_integers(array, bits or 8)
    pixels = array[0] if channels == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    if kind == "tif":
        colours = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(temporary, pixels, photometric=colours, compression="zlib", metadata=None)
    else:
        how = {"quality": 95, "subsampling": 0} if kind == "jpg" else {}
        save_picture(Pillow.fromarray(pixels), temporary, form, **how)
    return saturated


def to_integers(array: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
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


def save_picture(picture: Pillow.Image, path: Path, form: str, **how: int) -> None:
    """Write a Pillow image. Pillow's own way into a file ends JPEG where the disk is full, without a word."""
    content = io.BytesIO()
    picture.save(content, form, **how)
    path.write_bytes(content.getvalue())
