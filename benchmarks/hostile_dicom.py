"""Hostile DICOM: compressed images that lie about their size, deflated bombs, elements and sequences without end."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from hostile_cases import (
    DONE,
    GB,
    LEFT_OUT,
    REFUSED,
    Make,
    dataset,
    good,
    holes,
    one_bad,
    scan,
    together,
    values,
)
from hostile_pictures import zeros
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

Edit = Callable[[bytearray, int], bytearray | bytes]
"""(codestream, place of a segment) -> codestream."""
Change = Callable[[bytearray, int], None]
"""The same, in place."""

CODED, DEFLATED, HEADER = "Compressed images in DICOM", "Deflated DICOM", "DICOM headers"


def file_bytes(made: Dataset) -> bytes:
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _one(name: str, kind: str, make: Make, about: str, *expected: str, **limits: Any) -> None:
    one_bad(name, kind, "dcm", make, about, *expected, **limits)


def packed(frame: bytes, syntax: str, shape: tuple[int, ...] = (40, 48), bits: int = 8, **more: Any) -> Dataset:
    """A CT slice whose one frame is the codestream ``frame``."""
    made = dataset(np.zeros(shape, np.uint8 if bits == 8 else np.uint16), 3)
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made["PixelData"] = pydicom.DataElement(0x7FE00010, "OB", encapsulate([frame]))
    made["PixelData"].is_undefined_length = True
    for name, value in more.items():
        setattr(made, name, value)
    return made


def _picture(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((values(3) // 8).astype(np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def jpeg(edit: Edit = lambda data, at: data) -> bytes:
    """The frame of a JPEG image after ``edit(data, place of SOF0)``."""
    data = bytearray(_picture("JPEG"))
    return bytes(edit(data, data.index(b"\xff\xc0")))


def _jpeg_made(edit: Edit, path: Path) -> Dataset:
    return packed(jpeg(edit), JPEGBaseline8Bit)


def _j2k_made(edit: Change, path: Path) -> Dataset:
    return packed(j2k(edit), JPEG2000Lossless)


def _size(rows: int, columns: int) -> Callable[[bytearray, int], bytearray]:
    def edit(data: bytearray, at: int) -> bytearray:
        data[at + 5 : at + 9] = struct.pack(">2H", rows, columns)
        return data

    return edit


def _junk(place: str, junk: bytes, rows: int = 65535, columns: int = 65535) -> Edit:
    """Junk after the first two bytes ("start"), before SOF0 ("frame"), or before everything ("soi")."""

    def edit(data: bytearray, at: int) -> bytearray:
        data = _size(rows, columns)(data, at)
        cut = {"soi": 0, "start": 2, "frame": at}[place]
        return data[:cut] + junk + data[cut:]

    return edit


def _second(data: bytearray, at: int) -> bytearray:
    """SOF0 twice: the true size first, then another."""
    end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    other = bytearray(data[at:end])
    other[5:9] = struct.pack(">2H", 65535, 65535)
    return data[:end] + other + data[end:]


def _hidden(data: bytearray, at: int) -> bytearray:
    """A SOF0 of the true size inside a comment, then the real one."""
    end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    true = bytes(data[at:end])
    data = _size(65535, 65535)(data, at)
    return data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(true)) + true + b"\xff" + data[2:]


for _name, _edit, _about in (
    ("junk-start", _junk("start", b"\0"), "JPEG of 65,535² behind one junk byte"),
    ("junk-frame", _junk("frame", b"\x55\xaa"), "JPEG of 65,535², junk before its frame"),
    ("junk-soi", _junk("soi", b"\0"), "JPEG of 65,535², junk before its start"),
    ("junk-jfif", _junk("soi", b"junk" * 300), "JPEG of 65,535² behind 1200 bytes"),
    ("fill", _junk("frame", b"\xff" * 2000), "JPEG of 65,535² behind 2000 fill bytes"),
    ("two-sof", _second, "JPEG with two sizes"),
    ("hidden-sof", _hidden, "JPEG whose true size stands in a comment"),
    ("sof-wide", _size(40, 65535), "JPEG of 40 × 65,535"),
    ("sof-zero", _size(0, 48), "JPEG of 0 rows, which its end would tell"),
    ("sof-other", _size(48, 40), "JPEG of 48 × 40 where 40 × 48 is declared"),
    ("cut", lambda data, at: data[: at + 9], "JPEG that ends in its header"),
    ("no-sof", lambda data, at: data[:at] + data[at + 19 :], "JPEG without a size"),
    ("components", lambda data, at: data[: at + 9] + b"\xff" + data[at + 10 :], "JPEG of 255 components"),
):
    _one(
        f"jpeg-{_name}",
        CODED,
        partial(_jpeg_made, _edit),
        _about,
        part="" if _name == "junk-start" else "jpeg-lies",
    )


def j2k(edit: Change) -> bytes:
    """The frame of a JPEG 2000 image (codestream only) after ``edit(data, place of SIZ's sizes)``."""
    data = bytearray(_picture("JPEG2000", no_jp2=True, irreversible=False))
    at = data.index(b"\xff\x51") + 6
    edit(data, at)
    return bytes(data)


def _siz(*words: int) -> Change:
    def edit(data: bytearray, at: int) -> None:
        data[at : at + 4 * len(words)] = struct.pack(f">{len(words)}I", *words)

    return edit


def _jp2(data: bytearray, at: int) -> None:
    data[:0] = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\x20\0free" + bytes(0x2000 - 8)
    _siz(2**31 - 1, 2**31 - 1)(data, data.index(b"\xff\x51") + 6)


for _name, _change, _about in (
    ("siz", _siz(2**31 - 1, 2**31 - 1), "JPEG 2000 of 2³¹ × 2³¹"),
    ("siz-50000", _siz(50000, 50000, 0, 0, 50000, 50000), "JPEG 2000 of 50,000² in one tile"),
    ("siz-offset", _siz(2**32 - 1, 2**32 - 1, 2**32 - 49, 2**32 - 41), "JPEG 2000 of 40 × 48 far from its origin"),
    ("tiles", _siz(48, 40, 0, 0, 1, 1), "JPEG 2000 in tiles of one pixel"),
    ("tile-0", _siz(48, 40, 0, 0, 0, 0), "JPEG 2000 in tiles of nothing"),
    ("jp2", _jp2, "JPEG 2000 of 2³¹ × 2³¹ behind 8 kB of boxes"),
    ("negative", _siz(10, 10, 58, 50), "JPEG 2000 of negative size"),
):
    _one(
        f"j2k-{_name}",
        CODED,
        partial(_j2k_made, _change),
        _about,
        *((REFUSED, LEFT_OUT, DONE) if _name in ("siz-offset", "tiles") else ()),
        part="j2k-lies",
    )


def _jpegls(rows: int, columns: int, junk: bytes = b"") -> Make:
    def make(path: Path) -> Dataset:
        folder = Path(pydicom.__file__).parent / "data/test_files"
        made = pydicom.dcmread(folder / "MR_small_jpeg_ls_lossless.dcm")
        frame = bytearray(pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1))
        at = frame.index(b"\xff\xf7")
        frame[at + 5 : at + 9] = struct.pack(">2H", rows, columns)
        frame[2:2] = junk
        made.PixelData = encapsulate([bytes(frame)])
        made["PixelData"].is_undefined_length = True
        return made

    return make


_one("jpegls-size", CODED, _jpegls(65535, 65535), "JPEG-LS of 65,535²", part="swapped-lies")
_one("jpegls-junk", CODED, _jpegls(65535, 65535, b"\0"), "JPEG-LS of 65,535² behind one junk byte", part="swapped-lies")
_one(
    "jpegls-swapped",
    CODED,
    lambda path: packed(jpeg(_size(65535, 65535)), JPEGLSLossless),
    "JPEG of 65,535² where JPEG-LS is declared",
    part="swapped-lies",
)
_one(
    "j2k-swapped",
    CODED,
    lambda path: packed(jpeg(_junk("start", b"\0")), JPEG2000Lossless),
    "JPEG of 65,535² where JPEG 2000 is declared",
    part="swapped-lies",
)
_one(
    "jpeg-swapped",
    CODED,
    lambda path: packed(j2k(_siz(50000, 50000, 0, 0, 50000, 50000)), JPEGBaseline8Bit),
    "JPEG 2000 of 50,000² where JPEG is declared",
    part="swapped-lies",
)

together("jpeg-lies", CODED)
together("j2k-lies", CODED)
together("swapped-lies", CODED)


def rle(
    segments: int,
    offsets: Sequence[int] | None = None,
    body: bytes = b"",
    count: int | None = None,
    shape: tuple[int, int] = (40, 48),
) -> Dataset:
    offsets = [64] * segments if offsets is None else offsets
    head = struct.pack("<16I", segments if count is None else count, *offsets, *(0,) * (15 - len(offsets)))
    return packed(head + body, RLELossless, shape, bits=8 * segments)


_one(
    "rle-offsets",
    CODED,
    lambda path: rle(2, [2**32 - 16, 64], bytes(99)),
    "RLE whose segment starts at 4 GB",
    part="rle-lies",
)
_one(
    "rle-order",
    CODED,
    lambda path: rle(2, [90, 64], bytes(99)),
    "RLE whose segments start in the wrong order",
    part="rle-lies",
)
_one("rle-count", CODED, lambda path: rle(1, [64], bytes(99), count=2**31), "RLE of 2³¹ segments", part="rle-lies")
_one(
    "rle-bomb",
    CODED,
    lambda path: rle(1, [64], b"\x81\0" * 20_000_000),
    "RLE of 40 MB for an image of 2 kB",
    REFUSED,
    LEFT_OUT,
    DONE,
    part="rle-lies",
)
_one("rle-short", CODED, lambda path: rle(1, [64], b"\x81\0"), "RLE that ends early", part="rle-lies")
_one(
    "rle-wide",
    CODED,
    lambda path: rle(2, [64, 64], b"\x81\0" * 9, shape=(8192, 8192)),
    "RLE of 8192², hardly any data",
    large=True,
)


def _offset_table(entries: Sequence[int]) -> Make:
    def make(path: Path) -> Dataset:
        made = packed(jpeg(), JPEGBaseline8Bit)
        frames = jpeg()
        table = struct.pack("<HHI", 0xFFFE, 0xE000, 4 * len(entries)) + struct.pack(f"<{len(entries)}I", *entries)
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(frames) + len(frames) % 2) + frames + b"\0" * (len(frames) % 2)
        made.PixelData = table + item + item
        made.NumberOfFrames = len(entries)
        return made

    return make


_one(
    "offsets-far",
    CODED,
    _offset_table([0, 2**32 - 1]),
    "offset table that points behind the file",
    REFUSED,
    LEFT_OUT,
    DONE,
    part="rle-lies",
)
_one("offsets-many", CODED, _offset_table([0] * 100_000), "offset table of 100,000 times the same frame", seconds=60)

together("rle-lies", CODED)


def _fragments(path: Path) -> Dataset:
    made = packed(jpeg(), JPEGBaseline8Bit)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    made.PixelData = item * 2_000_000
    return made


_one("fragments", CODED, _fragments, "two million empty fragments")

# --- deflated -----------------------------------------------------------------------------------------------------


def deflated(size: int, before: int = 0, group_length: bool = True) -> bytes:
    """A deflated file: ``size`` zeros as pixels of 40×48, ``before`` bytes of file meta before the transfer syntax."""
    made = dataset(values(3), 3)
    del made["PixelData"]
    plain = file_bytes(made)
    start = 144 + struct.unpack("<I", plain[140:144])[0]
    head = b"\x02\0\x01\0OB\0\0\2\0\0\0\0\1" + _element(b"\2\0\2\0", b"UI", b"1.2.840.10008.5.1.4.1.1.2")
    head += _element(b"\2\0\3\0", b"UI", b"1.2.3.4.1.4")
    if before:
        head += b"\2\0\x05\0OB\0\0" + struct.pack("<I", before) + bytes(before)
    head += _element(b"\2\0\x10\0", b"UI", b"1.2.840.10008.1.2.1.99")
    first = b"\2\0\0\0UL\4\0" + struct.pack("<I", len(head)) if group_length else b""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    out = packer.compress(plain[start:] + b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", min(size, 2**32 - 2)))
    out += packer.flush(zlib.Z_FULL_FLUSH)
    return bytes(128) + b"DICM" + first + head + out + zeros(size, raw=True)


def _element(tag: bytes, vr: bytes, text: bytes) -> bytes:
    text += b"\0" * (len(text) % 2)
    return tag + vr + struct.pack("<H", len(text)) + text


_one(
    "deflated-late",
    DEFLATED,
    lambda path: deflated(3 * 10**9, before=2048),
    "3 MB that unpack to 3 GB, the transfer syntax behind 2 kB of header",
)
_one("deflated-later", DEFLATED, lambda path: deflated(3 * 10**9, before=1 << 20), "the same behind 1 MB of header")
_one("deflated-plain", DEFLATED, lambda path: deflated(3 * 10**9), "3 MB that unpack to 3 GB")
_one(
    "deflated-no-length",
    DEFLATED,
    lambda path: deflated(3 * 10**9, group_length=False),
    "the same without the length of its file meta group",
    part="header-lies",
)
_one("deflated-good", DEFLATED, lambda path: deflated(3840), "a deflated slice that is whole", DONE)
_one(
    "deflated-junk", DEFLATED, lambda path: deflated(3840)[:-20], "a deflated slice that is cut off", part="header-lies"
)


def _twice(path: Path) -> bytes:
    """The transfer syntax twice: first a plain one."""
    data = deflated(3 * 10**9)
    at = data.index(b"\2\0\x10\0UI")
    plain = _element(b"\2\0\x10\0", b"UI", b"1.2.840.10008.1.2.1")
    size = struct.unpack("<I", data[140:144])[0] + len(plain)
    return data[:140] + struct.pack("<I", size) + data[144:at] + plain + data[at:]


_one("deflated-twice", DEFLATED, _twice, "two transfer syntaxes, the second deflated")

# --- headers ------------------------------------------------------------------------------------------------------


def _private(size: int) -> Make:
    """A slice with a private element of ``size`` bytes, holes on the disk, before its pixels."""

    def make(path: Path) -> None:
        data = file_bytes(dataset(values(3), 3))
        at = data.rindex(b"\xe0\x7f\x10\0OW")
        with path.open("wb") as file:
            file.write(data[:at] + b"\x29\x11\x10\0LO\4\0TEST" + b"\x29\x11\1\x10OB\0\0" + struct.pack("<I", size))
            file.seek(size, 1)
            file.write(data[at:])

    return make


_one("private-1gb", HEADER, _private(10**9), "a private element of 1 GB", REFUSED, LEFT_OUT, DONE, large=True)
_one("private-4gb", HEADER, _private(2**32 - 2), "a private element of 4 GB", REFUSED, LEFT_OUT, DONE, large=True)


def _private_many(path: Path) -> None:
    data = file_bytes(dataset(values(3), 3))
    at = data.rindex(b"\xe0\x7f\x10\0OW")
    one = b"\x29\x11" + b"%s" + b"OB\0\0" + struct.pack("<I", 100_000_000)
    with path.open("wb") as file:
        file.write(data[:at] + b"\x29\x11\x10\0LO\4\0TEST")
        for index in range(15):
            file.write(one % struct.pack("<H", 0x1010 + index))
            file.seek(100_000_000, 1)
        file.write(data[at:])


_one("private-many", HEADER, _private_many, "fifteen private elements of 100 MB", REFUSED, LEFT_OUT, DONE, large=True)
_one(
    "dicom-sparse",
    HEADER,
    lambda path: holes(good(path)) and None,
    "a slice with 12 GB of holes behind it",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
)


def _sparse_header(path: Path) -> None:
    path.write_bytes(bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0\0\0\0\x7f")
    holes(path)


_one("dicom-sparse-meta", HEADER, _sparse_header, "12 GB of holes behind the DICM mark", large=True)
_one("dicom-sparse-none", HEADER, lambda path: holes(path) and None, "12 GB of holes called .dcm", large=True)


def _sparse_pixels(path: Path) -> None:
    made = dataset(values(3), 3, Rows=65535, Columns=32767)
    data = bytearray(file_bytes(made))
    at = data.rindex(b"\xe0\x7f\x10\0OW") + 8
    data[at : at + 4] = struct.pack("<I", 65535 * 32767 * 2 - 2)
    path.write_bytes(data)
    holes(path)


_one("dicom-sparse-pixels", HEADER, _sparse_pixels, "65,535 × 32,767 pixels, all there as holes", large=True)
_one(
    "dicom-sparse-scan",
    HEADER,
    lambda path: holes(good(path)) and None,
    "a slice with 12 GB of holes behind it, scanned",
    REFUSED,
    LEFT_OUT,
    DONE,
    command=lambda ground, bad: scan(bad.parent),
    large=True,
)


def _pixels_8192(path: Path) -> None:
    made = dataset(np.zeros((16, 16), np.uint16), 3, Rows=8192, Columns=8192)
    data = bytearray(file_bytes(made))
    at = data.rindex(b"\xe0\x7f\x10\0OW") + 8
    data[at : at + 4] = struct.pack("<I", 8192 * 8192 * 2)
    path.write_bytes(data[: at + 4])
    holes(path, at + 4 + 8192 * 8192 * 2)


_one(
    "dicom-8192",
    HEADER,
    _pixels_8192,
    "8192², the largest that is allowed",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
    seconds=60,
    memory=4 * GB,
)


def _deep(depth: int) -> Make:
    def make(path: Path) -> bytes:
        data = file_bytes(dataset(values(3), 3))
        at = data.index(b"\x28\0\2\0US")
        start = b"\x18\0\x50\x9fSQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
        end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        return data[:at] + start * depth + end * depth + data[at:]

    return make


_one("sequence-deep", HEADER, _deep(10_000), "sequences 10,000 deep", REFUSED, LEFT_OUT, DONE)
_one("sequence-deep-100000", HEADER, _deep(100_000), "sequences 100,000 deep", REFUSED, LEFT_OUT, DONE)


def _items(path: Path) -> bytes:
    data = file_bytes(dataset(values(3), 3))
    at = data.index(b"\x28\0\2\0US")
    item = b"\xfe\xff\0\xe0\0\0\0\0"
    return data[:at] + b"\x18\0\x50\x9fSQ\0\0" + struct.pack("<I", 8 * 1_000_000) + item * 1_000_000 + data[at:]


_one("sequence-items", HEADER, _items, "a sequence of a million items", REFUSED, LEFT_OUT, DONE, seconds=60)


def _many_elements(path: Path) -> bytes:
    data = file_bytes(dataset(values(3), 3))
    at = data.index(b"\x28\0\2\0US")
    block = b"".join(b"\x19\0" + struct.pack("<H", n) + b"UN\0\0\0\0\0\0" for n in range(0x1000, 0xFFFF))
    return data[:at] + block * 4 + data[at:]


_one("elements-many", HEADER, _many_elements, "250,000 private elements", REFUSED, LEFT_OUT, DONE, seconds=60)
_one(
    "pixels-65535",
    HEADER,
    lambda path: dataset(values(3), 3, Rows=65535, Columns=65535),
    "65,535² declared, 4 kB there",
    part="header-lies",
)
_one(
    "value-digits",
    HEADER,
    lambda path: file_bytes(dataset(values(3), 3)).replace(
        b"\x28\0\x53\x10DS\2\0001 ", b"\x28\0\x53\x10DS\xfe\xff" + b"1" * 65534
    ),
    "a slope of 65,534 digits",
    part="header-lies",
)
_one("lut", HEADER, lambda path: _lut(), "a lookup table that says 65,536 entries and holds one", part="header-lies")


def _lut() -> Dataset:
    made = dataset(values(3), 3)
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [0, 0, 16])
    table.ModalityLUTType = "HU"
    table.add_new("LUTData", "OW", b"\1\0")
    del made.RescaleSlope, made.RescaleIntercept
    made.ModalityLUTSequence = [table]
    return made


_one(
    "zip-inside",
    HEADER,
    lambda path: b"PK\3\4" + bytes(124) + b"DICM" + zeros(1 << 20),
    "a zip with a DICM mark",
    part="header-lies",
)
together("header-lies", HEADER)
