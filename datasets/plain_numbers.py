"""Plain numbers: npy arrays and text tables (csv, txt), measured before they are read; the encoding of text files."""

import codecs
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from medi2i.common.errors import Unreadable
from medi2i.common.limits import check_bytes, check_file, check_pixels, check_regular, in_words, max_pixels
from medi2i.common.npz_files import array_header
from medi2i.datasets.pictures import other_format

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
