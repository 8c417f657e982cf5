"""What an image file says of itself, and whether it is whole, without decoding more than it takes."""
import dataclasses
from pathlib import Path

import tifffile
from PIL import Image as Pillow

from medi2i.datasets.images import colour_mode, png_depth, read_image

_TAIL = 64
_END = {"png": b"IEND\xaeB`\x82", "jpg": b"\xff\xd9"}


@dataclasses.dataclass(frozen=True)
class Header:
    """``shape``: (C, H, W) as ``read_image`` gives it. ``bits``: 8 or 16 for unsigned integers, else None."""

    shape: tuple[int, int, int]
    bits: int | None


def read_header(path, kind, labels=False):
    """The ``Header`` of a file that is not DICOM. Raises Unreadable for files that are damaged.

    Pictures are decoded only where their end is not where it should be; plain numbers are read, as they may hold NaN.
    """
    path = Path(path)
    quick = {"png": _pillow_header, "jpg": _pillow_header, "tif": _tiff_header}.get(kind)
    header = quick(path, kind, labels) if quick else None
    if header is None:
        image = read_image(path, kind, labels=labels)
        header = Header(image.array.shape, image.bits)
    return header


def _pillow_header(path, kind, labels):
    try:
        with Pillow.open(path) as image:
            mode, (width, height) = image.mode, image.size
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError):
        return None
    deep = kind == "png" and png_depth(path) == 16
    colour = colour_mode(mode, labels)
    if (deep and (colour or mode == "LA")) or not _ends_well(path, kind):
        return None
    return Header((3 if colour else 1, height, width), 16 if deep else 8)


def _ends_well(path, kind):
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(-min(_TAIL, file.tell()), 2)
        return _END[kind] in file.read()


def _tiff_header(path, kind, labels):
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
            plain = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
            whole = ends and max(ends) <= path.stat().st_size
            if not (plain and whole and page.dtype is not None and page.dtype.str in ("|u1", "<u2", ">u2")):
                return None
            samples = min(page.samplesperpixel, 3)
            return Header((samples if samples == 3 else 1, page.imagelength, page.imagewidth),
                          8 * page.dtype.itemsize)
    except (OSError, ValueError, KeyError, IndexError, TypeError, tifffile.TiffFileError):
        return None  # read_image says what is wrong
