"""TIFF files by tifffile: one image a file, and nothing decoded that its directories declare too large.

Directories and their entries: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, section 2; BigTIFF:
https://www.awaresystems.be/imaging/tiff/bigtiff.html.
"""

import contextlib
import lzma
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile

from medi2i.common.errors import Unreadable
from medi2i.common.limits import check_bytes, check_file, check_pixels, in_words
from medi2i.datasets.pictures import bits_of, other_format, read_picture, refuse_several

_COMPRESSION, _PHOTOMETRIC, _EXTRA = tifffile.COMPRESSION, tifffile.PHOTOMETRIC, tifffile.EXTRASAMPLE

# Compressions whose strips Pillow unpacks to no more than their image.
_PILLOW_TIFFS = (_COMPRESSION.LZW, _COMPRESSION.PACKBITS, _COMPRESSION.JPEG)
_DEFLATED = (_COMPRESSION.ADOBE_DEFLATE, _COMPRESSION.DEFLATE, _COMPRESSION.PIXTIFF)
_LIKE_GREY: tuple[int, ...] = (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.MINISWHITE, _PHOTOMETRIC.RGB, _PHOTOMETRIC.PALETTE)

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SUBFILE, _OLD_SUBFILE = 254, 255
_OF_STACKS = (270, 33628, 33629, 34361, 34412, 50838)  # ImageDescription; MetaMorph, FluoView, LSM, ImageJ
_MOST_DIRECTORIES = 1000
_LARGEST_TAG = 64 << 20
_SPARE = 64 << 20  # bytes that a strip or tile may have beyond those of the image
_PIECE = 1 << 20


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[tifffile.TiffPage, int]]:
    """The page that holds the image of a file, and its number; previews and masks beside it do not count.

    Raises Unreadable for several images, for what is too large, and for what no reader here shows truly; ValueError
    and TiffFileError where the file is damaged.
    """
    size = check_file(path)
    directories = _directories(path)
    number = _only_image(path, directories)
    with tifffile.TiffFile(path, is_ome=False) as file:  # OME names other files, which are not opened for it
        page: tifffile.TiffPage = file.pages[number]  # type: ignore[assignment]  # frames come only where asked for
        check_pixels(path, page.imagelength, page.imagewidth)
        check_bytes(path, page.nbytes, "×".join(map(str, page.shape)) + f" values of {page.dtype}")
        refuse_several(path, page.imagedepth, "slices")
        if len(directories) == 1 and any(tag in page.tags for tag in _OF_STACKS):  # one directory for all images
            refuse_several(path, sum(series.size for series in file.series) // page.size, "images")
        if page.compression not in _PILLOW_TIFFS:
            if page.photometric not in _LIKE_GREY:
                raise Unreadable(
                    path, f"its colours are {_PHOTOMETRIC(page.photometric).name}; grey, RGB or a palette can be read"
                )
            if page.compression not in (_COMPRESSION.NONE, *_DEFLATED, _COMPRESSION.LZMA):
                name = getattr(page.compression, "name", page.compression)
                raise Unreadable(
                    path, f"its compression is {name}; none, deflate, LZMA, LZW, PackBits and JPEG can be read"
                )
            if page.dtype is None:
                raise Unreadable(path, f"has {page.bitspersample} bits a sample; 1, 8, 16, 32 and 64 can be read")
            _check_segments(path, page, size)
        yield page, number


def _directories(path: Path) -> list[dict[int, int]]:
    """The kind of each image of a file: the values of the tags NewSubfileType and SubfileType, 0 where absent."""
    found, seen = [], set()
    with open(path, "rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(order + "H", head[2:4])[0] if order and len(head) >= 8 else 0
        if version not in (42, 43) or (version == 43 and len(head) < 16):
            raise Unreadable(path, other_format(path, "TIFF"))
        big = version == 43
        count_form, entry_form, next_form = (
            order + form for form in (("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I"))
        )
        place = struct.unpack(next_form, head[8:16] if big else head[4:8])[0]
        while place and place not in seen:
            seen.add(place)
            if len(seen) > _MOST_DIRECTORIES:
                raise Unreadable(path, f"holds more than {_MOST_DIRECTORIES} images; a file holds one image here")
            file.seek(place)
            count = struct.unpack(count_form, _exactly(path, file, struct.calcsize(count_form)))[0]
            if count > 0xFFFF:
                raise Unreadable(path, f"damaged TIFF directory ({count} entries)")
            entries = _exactly(path, file, count * struct.calcsize(entry_form))
            kinds = {_SUBFILE: 0, _OLD_SUBFILE: 0}
            for tag, form, values, value in struct.iter_unpack(entry_form, entries):
                if values * _SIZES.get(form, 1) > _LARGEST_TAG:
                    raise Unreadable(path, f"tag {tag} has {values} values, more than {in_words(_LARGEST_TAG)} hold")
                if tag in kinds:
                    kinds[tag] = struct.unpack_from(order + ("H" if form == 3 else "I"), value)[0]
            found.append(kinds)
            following = file.read(struct.calcsize(next_form))  # some writers leave out the last "none"
            place = struct.unpack(next_form, following)[0] if len(following) == struct.calcsize(next_form) else 0
    return found


def _exactly(path: Path, file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise Unreadable(path, "not a readable tif image (cut off in a directory)")
    return data


def _only_image(path: Path, directories: list[dict[int, int]]) -> int:
    """The number of the only directory that is neither a preview (bit 0) nor a mask (bit 2)."""
    images = [
        number for number, kinds in enumerate(directories) if not kinds[_SUBFILE] & 5 and kinds[_OLD_SUBFILE] != 2
    ]
    refuse_several(path, len(images), "images (pages)")
    return images[0] if images else 0


def _check_segments(path: Path, page: tifffile.TiffPage, size: int) -> None:
    """Strips and tiles are decoded as they come: none may unpack to much more than the image that it is a part of."""
    chunk = math.prod(page.chunks) * (page.dtype.itemsize if page.dtype else 1)
    most = page.nbytes + _SPARE
    if chunk > most:
        raise Unreadable(path, f"has tiles of {in_words(chunk)} for an image of {in_words(page.nbytes)}")
    if sum(page.databytecounts) > 4 * size:
        raise Unreadable(
            path, f"its strips or tiles have {in_words(sum(page.databytecounts))}, the file {in_words(size)}"
        )
    if page.compression not in (*_DEFLATED, _COMPRESSION.LZMA):
        return
    with open(path, "rb") as file:
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if page.compression in _DEFLATED and 1032 * count <= most:  # deflate never unpacks to more
                continue
            file.seek(start)
            if _unpacked(file.read(count), page.compression, most) > most:
                raise Unreadable(
                    path,
                    f"a strip or tile unpacks to more than {in_words(most)}, the image has {in_words(page.nbytes)}",
                )


def _unpacked(data: bytes, compression: int, most: int) -> int:
    """How many bytes ``data`` unpacks to, as far as ``most``; never more than a piece is in memory."""
    if compression in _DEFLATED:
        inflater, total = zlib.decompressobj(), 0
        while data and total <= most and not inflater.eof:
            total += len(inflater.decompress(data, _PIECE))
            data = inflater.unconsumed_tail
        return total
    unpacker, total = lzma.LZMADecompressor(memlimit=_SPARE), 0
    while total <= most and not unpacker.eof:
        piece = unpacker.decompress(data, _PIECE)
        if not piece and not data:
            break
        total, data = total + len(piece), b""
    return total


def read_tiff(path: Path, labels: bool) -> tuple[np.ndarray, int | None]:
    """(H, W) or (C, H, W) values, and their bits as in ``reading.Image``; a transparent channel is dropped."""
    with opened(path) as (page, number):
        if page.compression in _PILLOW_TIFFS:
            return read_picture(path, "tif", labels, number)
        try:
            values = page.asarray()
        except imagecodecs.DeflateError:  # damaged, or a last strip as long as the others, which Pillow takes
            return read_picture(path, "tif", labels, number)
        if page.photometric == _PHOTOMETRIC.PALETTE and not labels:
            values = (np.take(np.asarray(page.colormap), values, axis=1) >> 8).astype(np.uint8)
            return values, 8
        if page.photometric == _PHOTOMETRIC.MINISWHITE and values.dtype.kind in "ub":
            values = ~values
        if values.dtype.kind == "b" and not labels:
            values = values.astype(np.uint8) * 255
        if values.ndim == 3 and page.axes.endswith("S"):  # what tifffile took its planar configuration for
            values = values.transpose(2, 0, 1)
        if values.ndim == 3:
            values = values[: channels_of(page)]
        if len(values) == 1 and values.ndim == 3:
            values = values[0]
        return np.ascontiguousarray(values), bits_of(values.dtype)


def channels_of(page: tifffile.TiffPage) -> int:
    """Samples of a pixel without those that say how transparent it is; the fourth of RGB is, whatever it is called."""
    if page.photometric == _PHOTOMETRIC.RGB and page.samplesperpixel == 4:
        return 3
    extras = sum(extra in (_EXTRA.ASSOCALPHA, _EXTRA.UNASSALPHA) for extra in page.extrasamples)
    return max(page.samplesperpixel - extras, 1)  # what has nothing but transparency is a picture of it


def tiff_values(path: Path) -> int:
    """How many values the image of a file says it has; nothing is unpacked. Raises as ``opened`` does."""
    check_file(path)
    number = _only_image(path, _directories(path))
    with tifffile.TiffFile(path, is_ome=False) as file:
        return math.prod(file.pages[number].shape)


def tiff_header(path: Path) -> tuple[tuple[int, int, int], int] | None:
    """((C, H, W), bits) of a file whose data are whole and plain; None where only decoding tells."""
    with opened(path) as (page, _):
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        plain = page.photometric in (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.RGB)
        whole = ends and max(ends) <= path.stat().st_size
        if not (plain and whole and page.dtype is not None and page.dtype.str in ("|u1", "<u2", ">u2")):
            return None
        return (channels_of(page), page.imagelength, page.imagewidth), 8 * page.dtype.itemsize
