"""PNG, JPEG, BMP and GIF files by Pillow, each opened as its own format only and never beyond the limits."""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from medi2i.common.errors import Unreadable
from medi2i.common.limits import check_pixels, check_regular, in_words

Pillow.MAX_IMAGE_PIXELS = None  # check_pixels is the bound of every reader here, with an option that raises it

FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "tif": "TIFF"}
"""What a file of a kind is opened as. Left to itself Pillow opens what it recognises, PostScript by Ghostscript."""

_MOST_SCANS = 100
_BLOCK = 1 << 20
_BESIDE_PIXELS = 64 << 20  # bytes of a PNG file for profiles, texts and what else is beside the pixels
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type

_MARKS = (
    (0, b"\x89PNG", "PNG", ".png"),
    (0, b"\xff\xd8\xff", "JPEG", ".jpg"),
    (0, b"BM", "BMP", ".bmp"),
    (0, b"II*\0", "TIFF", ".tif"),
    (0, b"MM\0*", "TIFF", ".tif"),
    (0, b"\x93NUMPY", "npy", ".npy"),
    (128, b"DICM", "DICOM", ".dcm"),
    (0, b"GIF8", "GIF", ".gif"),
    (8, b"WEBP", "WebP", None),
    (0, b"%!", "PostScript", None),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript", None),
    (0, b"%PDF", "PDF", None),
    (0, b"PK\3\4", "a zip archive", None),
    (0, b"\x1f\x8b", "a gzip archive", None),
    (4, b"jP  ", "JPEG 2000", None),
    (4, b"ftyp", "HEIF or AVIF", None),
    (0, b"<", "markup (SVG or a web page)", None),
)


@contextlib.contextmanager
def opened(path: Path, kind: str) -> Iterator[Pillow.Image]:
    """The picture of a file, its pixels not yet decoded.

    Raises Unreadable for what is no regular file, another format, too large, or several pictures.
    """
    size = check_regular(path)
    if kind == "png":
        _check_png(path, size)
    try:
        image = Pillow.open(path, formats=[FORMATS[kind]])
    except UnidentifiedImageError:
        raise Unreadable(path, other_format(path, FORMATS[kind])) from None
    with image:
        check_pixels(path, image.height, image.width)
        if kind != "tif":  # whose pages are told apart before
            refuse_several(path, getattr(image, "n_frames", 1), "pictures")
        if kind == "jpg" and image.info.get("progressive"):
            _check_scans(path)
        yield image


def refuse_several(path: Path, count: int, what: str) -> None:
    """Raise Unreadable for a file of more than one image: none of them is left out silently."""
    if count > 1:
        raise Unreadable(path, f"holds {count} {what}; a file holds one image here, so save each as a file of its own")


def other_format(path: Path, wanted: str) -> str:
    """Why a file is not of the format that its name says, in words: by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(256)
    if not head:
        return "is empty"
    for start, mark, name, suffix in _MARKS:
        if head[start : start + len(mark)] == mark and name != wanted:
            return f"is {name} by its content, not {wanted}" + (f"; its name should end in {suffix}" if suffix else "")
    return f"is not {wanted} by its content, or damaged at its start"


def _check_png(path: Path, size: int) -> None:
    with open(path, "rb") as file:
        head = file.read(33)
    if len(head) < 33 or head[12:16] != b"IHDR":
        return  # Pillow says what is wrong
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    check_pixels(path, height, width)
    most = _BESIDE_PIXELS + 2 * height * (1 + (width * depth * _PNG_SAMPLES.get(colour, 4) + 7) // 8)
    if size > most:
        raise Unreadable(
            path, f"has {in_words(size)} for {height}×{width} pixels, which never take more than {in_words(most)}"
        )


def _check_scans(path: Path) -> None:
    """A progressive JPEG decodes all of its pixels once more for each scan: a few, or thousands to keep us busy."""
    scans, last = 0, b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            scans += (last + block).count(b"\xff\xda")
            last = block[-1:]
    if scans > _MOST_SCANS:
        raise Unreadable(path, f"has {scans} scans, a progressive JPEG has about ten (up to {_MOST_SCANS} are read)")


def read_picture(path: Path, kind: str, labels: bool, page: int = 0) -> tuple[np.ndarray, int | None]:
    """(H, W) or (3, H, W) values, and their bits as in ``reading.Image``. ``page``: of a TIFF file."""
    with opened(path, kind) as image:
        if page:
            image.seek(page)
        if image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA") and png_depth(path) == 16:
            raise Unreadable(path, "16-bit colour PNG cannot be read without loss; write it as TIFF")
        if image.mode == "LA":
            image = image.getchannel(0)
        elif image.mode == "1" and not labels:
            image = image.convert("L")
        elif colour_mode(image.mode, labels):
            image = image.convert("RGB")
        values = np.asarray(image)
    values = values.transpose(2, 0, 1) if values.ndim == 3 else values
    if image.mode == "I" and kind == "png":  # how older Pillow opens 16-bit grey PNG
        return values, 16
    return values, bits_of(values.dtype)


def bits_of(dtype: np.dtype) -> int | None:
    """8 or 16 for unsigned integers of that width (8 for bool), else None."""
    return {"|u1": 8, "|b1": 8}.get(dtype.str, 16 if dtype.kind == "u" and dtype.itemsize == 2 else None)


def colour_mode(mode: str, labels: bool) -> bool:
    """Whether a picture of this Pillow mode is read as three channels; a palette of ``labels`` is class numbers."""
    return mode not in ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F") and not (mode == "P" and labels)


def png_depth(path: Path) -> int:
    """Bits per channel of a PNG file (IHDR, byte 24)."""
    with open(path, "rb") as file:
        return file.read(25)[24]
