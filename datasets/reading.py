"""One image file -> array, whatever its kind, and what its header says. DICOM goes through ``medi2i.datasets.dicom``.

Arrays are (C, H, W) float32 in the file's own unit: HU for DICOM, grey levels for pictures, plain numbers for npy, csv
and txt.
"""

import codecs
import contextlib
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.lib import format as npy_format

from medi2i.common.bounded_files import array_header
from medi2i.common.errors import Unreadable
from medi2i.common.limits import check_bytes, check_file, check_pixels, check_regular, in_words, max_pixels
from medi2i.datasets import dicom
from medi2i.datasets.dicom.header_checks import PARSE_ERRORS, short
from medi2i.datasets.file_names import kind_of
from medi2i.datasets.pictures import (
    colour_mode,
    opened,
    other_format,
    png_depth,
    read_picture,
    read_tiff,
    tiff_header,
    tiff_values,
)

_DAMAGE = (*PARSE_ERRORS, SyntaxError, tifffile.TiffFileError)


@dataclasses.dataclass(frozen=True)
class Image:
    """``array``: (C, H, W) float32, unscaled. ``mask``: (H, W) bool, True on padding (no tissue), or None.

    ``bits``: 8 or 16 where the file held unsigned integers of that width, else None.
    """

    array: np.ndarray
    mask: np.ndarray | None = None
    bits: int | None = None


def read_image(path: Path | str, kind: str | None = None, *, frame: int = 0, labels: bool = False) -> Image:
    """Read one image of ``kind`` (default: what the name says, else DICOM) as an ``Image``.

    ``labels`` keeps the numbers of a palette image, which are classes, instead of its colours. ``frame`` is used for
    multi-frame DICOM. Raises Unreadable.
    """
    path = Path(path)
    kind = kind or kind_of(path) or "dcm"
    if kind == "dcm":
        image = dicom.read(path, frame)
        return Image(np.asarray(image.hu, dtype=np.float32)[np.newaxis], image.mask)
    try:
        values, bits = _READERS[kind](path, labels)
    except (Unreadable, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except _DAMAGE as error:
        raise Unreadable(path, f"not a readable {kind} image ({short(error)})") from None
    array = _channels_first(path, values)
    if not np.isfinite(array).all():
        raise Unreadable(path, "holds NaN or infinite values; all values must be numbers")
    return Image(array, None, bits)


def to_grey(array: np.ndarray, whole: bool = False) -> np.ndarray:
    """Luminance of (3, H, W) -> (1, H, W) float32 (ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B).

    ``whole``: of 8-bit values, rounded to a whole grey level as Pillow's mode L does.
    """
    if whole:
        weights = np.array([19595, 38470, 7471], dtype=np.int64)  # of 65536
        return ((np.tensordot(weights, array.astype(np.int64), axes=1) + 32768) >> 16)[np.newaxis].astype(np.float32)
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.tensordot(weights, array, axes=1)[np.newaxis].astype(np.float32)


def _channels_first(path: Path, values: np.ndarray) -> np.ndarray:
    """Values of (H, W) or (C, H, W) -> (C, H, W) float32, if they are finite real numbers."""
    if values.dtype.kind not in "biuf":
        raise Unreadable(path, f"holds {values.dtype} values; it must hold real numbers")
    if values.ndim == 2:
        values = values[np.newaxis]
    if values.ndim != 3 or values.size == 0:
        raise Unreadable(path, f"has shape {values.shape}; it must be (H, W) or (C, H, W)")
    return np.ascontiguousarray(values, dtype=np.float32)


_READERS: dict[str, Callable[[Path, bool], tuple[np.ndarray, int | None]]] = {
    "jpg": lambda path, labels: read_picture(path, "jpg", labels),
    "png": lambda path, labels: read_picture(path, "png", labels),
    "bmp": lambda path, labels: read_picture(path, "bmp", labels),
    "gif": lambda path, labels: read_picture(path, "gif", labels),
    "tif": read_tiff,
    "npy": lambda path, labels: (read_npy(path), None),
    "csv": lambda path, labels: (read_table(path), None),
    "txt": lambda path, labels: (read_table(path), None),
}


_TAIL = 64
_END = {"png": b"IEND\xaeB`\x82", "jpg": b"\xff\xd9"}


class Header(NamedTuple):
    """``shape``: (C, H, W) as ``read_image`` gives it. ``bits``: 8 or 16 for unsigned integers, else None.

    ``extent``: lowest and highest value, where there are no bits that bound them.
    """

    shape: tuple[int, ...] = ()
    bits: int | None = None
    extent: tuple[float, float] | None = None


def read_header(path: Path, kind: str, labels: bool = False) -> Header:
    """The ``Header`` of a file that is not DICOM. Raises Unreadable for files that are damaged.

    Pictures are decoded only where their end is not where it should be; plain numbers are read, as they may hold NaN.
    """
    with contextlib.suppress(*_DAMAGE):  # read_image says what is wrong
        if kind in _END and (header := _picture_header(path, kind, labels)):
            return header
        if kind == "tif" and (found := tiff_header(path)):
            return Header(*found)
    image = read_image(path, kind, labels=labels)
    extent = None if image.bits else (float(image.array.min()), float(image.array.max()))
    return Header(image.array.shape, image.bits, extent)


def declared_values(path: Path, kind: str) -> int:
    """How many values a file that is not DICOM says it holds, at most; 0 where it says nothing that can be used.

    Nothing is decoded, and no error is raised: reading the file tells what is wrong with it.
    """
    try:
        check_regular(path)
        if kind in ("csv", "txt"):
            return path.stat().st_size // 2  # a digit, and what separates it from the next
        if kind == "npy":
            with open(path, "rb") as file:
                return math.prod(array_header(file)[0])
        if kind == "tif":
            return tiff_values(path)
        with opened(path, kind) as image:
            return image.width * image.height * (3 if colour_mode(image.mode, False) else 1)
    except (Unreadable, *_DAMAGE):
        return 0


def _picture_header(path: Path, kind: str, labels: bool) -> Header | None:
    """None where only decoding tells."""
    with opened(path, kind) as image:
        mode, (width, height) = image.mode, image.size
    deep = kind == "png" and png_depth(path) == 16
    colour = colour_mode(mode, labels)
    if (deep and (colour or mode == "LA")) or not _ends_well(path, kind):
        return None
    return Header((3 if colour else 1, height, width), 16 if deep else 8)


def _ends_well(path: Path, kind: str) -> bool:
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(-min(_TAIL, file.tell()), 2)
        return _END[kind] in file.read()


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoder_of(path: Path | str) -> str:
    """The encoding of a text file: UTF-8, or what its byte order mark says (Excel's "Unicode text" is UTF-16).

    Raises Unreadable for what is no text in it: Windows code pages, and files with zero bytes.
    """
    with open(path, "rb") as file:
        head = file.read(4)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    try:
        with open(path, encoding=encoding) as text:
            while block := text.read(_BLOCK):
                if "\0" in block:
                    raise Unreadable(path, "is not a text file (it holds zero bytes); a text file in UTF-8 is needed")
    except UnicodeDecodeError:
        raise Unreadable(
            path, "is not a text file in UTF-8; saving it as UTF-8 would help (Excel: CSV UTF-8 or Unicode text)"
        ) from None
    return encoding


MOST_CHANNELS = 4
"""Of an npy array: more planes than these are a volume, whose slices are images of their own."""

_LONGEST_LINE = 64 << 20
_BLOCK = 1 << 20


def read_npy(path: Path) -> np.ndarray:
    """(H, W) or (C, H, W) values; never unpickled.

    Channels may be last: three axes are taken so when the last one is 1, 3 or 4 and the first is longer than 4. A
    fourth, transparent channel is then dropped. Raises Unreadable for more than ``MOST_CHANNELS`` channels.
    """
    size = check_regular(path)
    with open(path, "rb") as file:
        if file.read(6) != npy_format.MAGIC_PREFIX:
            raise Unreadable(path, other_format(path, "npy"))
        file.seek(0)
        shape, _, dtype = array_header(file)
        _check_array(path, shape, dtype, size - file.tell())
        file.seek(0)
        values = npy_format.read_array(file, allow_pickle=False)
    if values.ndim == 3 and values.shape[2] in (1, 3, 4) and values.shape[0] > 4:
        values = values.transpose(2, 0, 1)
        values = values[:3] if values.shape[0] == 4 else values
    if values.ndim == 3 and values.shape[0] > MOST_CHANNELS:
        raise Unreadable(
            path,
            f"has shape {values.shape}: an image has up to {MOST_CHANNELS} channels, so this is a "
            f"volume; save each of its {len(values)} slices as a file of its own",
        )
    return values


def _check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, available: int) -> None:
    if dtype.hasobject:
        raise Unreadable(path, "holds Python objects, which are never unpickled; it must hold numbers")
    if dtype.kind not in "biuf":
        raise Unreadable(path, f"holds {dtype} values; it must hold real numbers")
    if len(shape) not in (2, 3) or 0 in shape:
        raise Unreadable(path, f"has shape {shape}; it must be (H, W) or (C, H, W)")
    rows, columns = sorted(shape)[-2:]
    check_pixels(path, rows, columns)
    count = dtype.itemsize * math.prod(shape)
    check_bytes(path, count, "×".join(map(str, shape)) + f" values of {dtype}")
    if count > available:
        raise Unreadable(
            path,
            f"is cut off: {'×'.join(map(str, shape))} values of {dtype} need {count} bytes, and there are {available}",
        )


def read_table(path: Path) -> np.ndarray:
    """(H, W) float32: numbers in rows, separated by commas, semicolons, tabs or spaces; lines with # are comments.

    Raises Unreadable for several tables, and for decimal commas, which cannot be told from separators.
    """
    check_file(path)
    encoding = decoder_of(path)
    if path.stat().st_size // 2 > max_pixels():  # a value and what separates it
        for _ in _rows(path, encoding):
            pass  # counted, which is quick, before any is parsed
    rows = _rows(path, encoding)
    first = next(rows, None)
    if first is None:
        raise Unreadable(path, "holds no numbers")
    return np.loadtxt(itertools.chain([first], rows), dtype=np.float32, ndmin=2, comments=None)


def _rows(path: Path, encoding: str) -> Iterator[str]:
    """The lines with numbers, separated by spaces. Raises Unreadable for what is no single table."""
    before = inside = columns = count = 0  # lines of the longest block so far, and of this one
    with open(path, encoding=encoding, newline=None) as file:
        while line := file.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:  # text has lines; a file without them would be in memory as one
                raise Unreadable(path, f"has a line of more than {in_words(_LONGEST_LINE)}; that is no table")
            text = line.split("#")[0].strip()
            if not text:
                before, inside = max(before, inside), 0
                continue
            if ";" in text and "," in text:
                raise Unreadable(path, "has both , and ; in a line: decimal commas? Numbers need a decimal point")
            text = text.replace(",", " ").replace(";", " ")
            inside += 1
            if before > 1 and inside > 1:
                raise Unreadable(
                    path,
                    "holds several tables, with empty lines or comments between them; a file holds "
                    "one image here, so save each as a file of its own",
                )
            columns, count = columns or sum(1 for _ in re.finditer(r"\S+", text)), count + 1
            check_pixels(path, count, columns)
            yield text
