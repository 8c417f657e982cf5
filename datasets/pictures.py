"""PNG, JPEG, BMP and GIF files by Pillow, each opened as its own format only and never beyond the limits; TIFF files by
tifffile: one image a file, and nothing decoded that its directories declare too large.

Directories of TIFF and their entries: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, section 2;
BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html.
"""

import contextlib
import lzma
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from medi2i.common.errors import Unreadable
from medi2i.common.limits import check_bytes, check_file, check_pixels, check_regular, in_words

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
def opened_tiff(path: Path) -> Iterator[tuple[tifffile.TiffPage, int]]:
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
    import imagecodecs  # where nothing is compressed it need not be there

    with opened_tiff(path) as (page, number):
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
        return np.ascontiguousarray(values), bits_of(values.dtype)


def channels_of(page: tifffile.TiffPage) -> int:
    """Samples of a pixel without those that say how transparent it is; the fourth of RGB is, whatever it is called."""
    if page.photometric == _PHOTOMETRIC.RGB and page.samplesperpixel == 4:
        return 3
    extras = sum(extra in (_EXTRA.ASSOCALPHA, _EXTRA.UNASSALPHA) for extra in page.extrasamples)
    return max(page.samplesperpixel - extras, 1)  # what has nothing but transparency is a picture of it


def tiff_values(path: Path) -> int:
    """How many values the image of a file says it has; nothing is unpacked. Raises as ``opened_tiff`` does."""
    check_file(path)
    number = _only_image(path, _directories(path))
    with tifffile.TiffFile(path, is_ome=False) as file:
        return math.prod(file.pages[number].shape)


def tiff_header(path: Path) -> tuple[tuple[int, int, int], int] | None:
    """((C, H, W), bits) of a file whose data are whole and plain; None where only decoding tells."""
    with opened_tiff(path) as (page, _):
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        plain = page.photometric in (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.RGB)
        whole = ends and max(ends) <= path.stat().st_size
        if not (plain and whole and page.dtype is not None and page.dtype.str in ("|u1", "<u2", ">u2")):
            return None
        return (channels_of(page), page.imagelength, page.imagewidth), 8 * page.dtype.itemsize
