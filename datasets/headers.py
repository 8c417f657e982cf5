"""What an image file says of itself, and whether it is whole, without decoding more than it takes."""

import dataclasses
from pathlib import Path

import tifffile

from medi2i.common.errors import Unreadable
from medi2i.datasets.dicom.header_checks import PARSE_ERRORS
from medi2i.datasets.images import read_image
from medi2i.datasets.pictures import colour_mode, opened, png_depth
from medi2i.datasets.tiff import tiff_header

_TAIL = 64
_END = {"png": b"IEND\xaeB`\x82", "jpg": b"\xff\xd9"}


@dataclasses.dataclass(frozen=True)
class Header:
    """``shape``: (C, H, W) as ``read_image`` gives it. ``bits``: 8 or 16 for unsigned integers, else None.

    ``extent``: lowest and highest value, where there are no bits that bound them.
    """

    shape: tuple[int, int, int]
    bits: int | None
    extent: tuple[float, float] | None = None


def read_header(path, kind, labels=False):
    """The ``Header`` of a file that is not DICOM. Raises Unreadable for files that are damaged.

    Pictures are decoded only where their end is not where it should be; plain numbers are read, as they may hold NaN.
    """
    path = Path(path)
    quick = {"png": _picture_header, "jpg": _picture_header, "tif": _tiff_header}.get(kind)
    header = quick(path, kind, labels) if quick else None
    if header is None:
        image = read_image(path, kind, labels=labels)
        extent = None if image.bits else (float(image.array.min()), float(image.array.max()))
        header = Header(image.array.shape, image.bits, extent)
    return header


def _picture_header(path, kind, labels):
    try:
        with opened(path, kind) as image:
            mode, (width, height) = image.mode, image.size
    except Unreadable:
        raise
    except (OSError, ValueError, SyntaxError):
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
        found = tiff_header(path)
    except Unreadable:
        raise
    except (*PARSE_ERRORS, tifffile.TiffFileError):
        return None  # read_image says what is wrong
    return None if found is None else Header(*found)
