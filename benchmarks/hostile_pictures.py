"""Hostile pictures: another format under a picture's name, and sizes that are not those of the file."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hostile_cases import (
    DONE,
    GB,
    LEFT_OUT,
    REFUSED,
    Command,
    Ground,
    Make,
    case,
    convert,
    evaluate,
    good,
    holes,
    one_bad,
    together,
    train_check,
    values,
)
from hostile_watch import Seen
from PIL import Image

CONTENT, SIZE = "Another format under a picture's name", "Pictures whose size is not that of the file"
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
(seen by Ghostscript) print flush
0 0 moveto 40 40 lineto stroke showpage
%%EOF
"""
TEXTS = {
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
    b'<image href="http://127.0.0.1:9/x.png"/></svg>',
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "html": b"<html><script>alert(1)</script></html>",
    "zip": b"PK\x05\x06" + 18 * b"\0",
    "gzip": b"\x1f\x8b\x08",
    "pickle": b"cos\nsystem\n(S'touch pickled'\ntR.",
    "wmf": b"\xd7\xcd\xc6\x9a" + 60 * b"\0",
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "mpo": b"\xff\xd8\xff\xe2\0\x08MPF\0II",
    "empty": b"",
}
PILLOW = (
    "bmp",
    "dds",
    "gif",
    "icns",
    "ico",
    "im",
    "jpeg2000",
    "msp",
    "pcx",
    "ppm",
    "sgi",
    "spider",
    "tga",
    "webp",
    "png",
    "jpeg",
    "tiff",
    "dib",
    "xbm",
    "avif",
)


def formats() -> dict[str, bytes]:
    """{name: bytes} of small files in formats that picture libraries know."""
    found = {**TEXTS, "eps": EPS}
    picture = Image.fromarray((values(0, (64, 64)) // 8).astype(np.uint8))
    modes = {
        "msp": "1",
        "xbm": "1",
        "webp": "RGB",
        "dds": "RGB",
        "icns": "RGBA",
        "ico": "RGBA",
        "avif": "RGB",
        "spider": "F",
    }
    for name in PILLOW:
        stream = io.BytesIO()
        try:
            picture.convert(modes.get(name, "L")).save(stream, name)
        except (OSError, KeyError, ValueError):  # a format that this Pillow cannot write
            continue
        found[name] = stream.getvalue()
    frame = struct.pack("<IHH8x", 16, 0xF1FA, 0)  # FLI: a header of 128 bytes and an empty frame
    found["fli"] = struct.pack("<IHHHHHHH", 144, 0xAF11, 1, 64, 64, 8, 3, 5).ljust(128, b"\0") + frame
    return found


def _several(ground: Ground, suffix: str, own: tuple[str, ...]) -> Command:
    where = ground.folder / "in"
    where.mkdir()
    bad = []
    for name, data in formats().items():
        if name not in own:
            bad.append(f"{name}.{suffix}")
            (where / bad[-1]).write_bytes(data)
    return convert(ground, where, bad=bad, beside=suffix)


@case("content-eps-png", CONTENT)
def eps_alone(ground: Ground) -> Command:
    """EPS called .png, converted"""
    (ground / "in/a.png").write_bytes(EPS)
    return convert(ground, ground.folder / "in", check=_no_ghostscript)


def _no_ghostscript(seen: Seen, folder: Path) -> str | None:
    return "Ghostscript ran" if "seen by Ghostscript" in seen.text else None


for _suffix, _own in (("png", ("png",)), ("jpg", ("jpeg", "mpo")), ("bmp", ("bmp",)), ("tif", ("tiff",))):

    def _build(ground: Ground, suffix: str = _suffix, own: tuple[str, ...] = _own) -> Command:
        return _several(ground, suffix, own)

    _build.__doc__ = f"some thirty formats called .{_suffix} beside a good one"
    case(f"content-all-{_suffix}", CONTENT, LEFT_OUT)(_build)


@case("content-eps-train", CONTENT)
def eps_in_training(ground: Ground) -> Command:
    """EPS called .tif among the images of a training"""
    return train_check(ground, "tif", lambda path: path.write_bytes(EPS), check=_no_ghostscript)


@case("content-eps-evaluate", CONTENT)
def eps_in_evaluation(ground: Ground) -> Command:
    """EPS called .bmp among the images of evaluate.py"""
    for side in ("in", "true", "out"):
        for index in range(2):
            good(ground / f"{side}/{index}.bmp", index)
    (ground / "out/1.bmp").write_bytes(EPS)
    return evaluate(ground, check=_no_ghostscript)


@case("content-eps-bmp-train", CONTENT)
def eps_bmp_in_training(ground: Ground) -> Command:
    """EPS called .bmp among the images of a training"""
    return train_check(ground, "bmp", lambda path: path.write_bytes(EPS), check=_no_ghostscript)


# --- sizes --------------------------------------------------------------------------------------------------------


def png(
    width: int,
    height: int,
    depth: int = 8,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    data: bytes | None = None,
    colour: int = 0,
) -> bytes:
    """Bytes of a PNG with the given header; ``chunks`` stand before the pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    if data is None:
        data = zlib.compress(b"\0" * 1000)
    head = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, body) for name, body in ((b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b""))
    )


def zeros(size: int, raw: bool = False) -> bytes:
    """``size`` zeros, deflated: a zlib stream, or the bare blocks. One packed MB is repeated: it costs nothing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = block * (size >> 20) + packer.compress(bytes(size & ((1 << 20) - 1))) + packer.flush()
    return body if raw else b"\x78\xda" + body + struct.pack(">I", (size % 65521) << 16 | 1)


def _one(name: str, suffix: str, make: Make, about: str, *expected: str, **limits: Any) -> None:
    one_bad(name, SIZE, suffix, make, about, *expected, **limits)


def pixels_bomb(width: int, height: int, depth: int = 8) -> bytes:
    return png(width, height, depth, data=zeros((width * depth // 8 + 1) * height))


_one("png-ihdr-2e31", "png", lambda p: png(2**31 - 1, 2**31 - 1), "PNG of 2³¹ × 2³¹ in 100 bytes", part="png-lies")
_one("png-ihdr-flat", "png", lambda p: png(2**31 - 1, 1), "PNG of 1 × 2³¹", part="png-lies")
_one(
    "png-50000",
    "png",
    lambda p: pixels_bomb(50000, 50000, 1),
    "PNG of 50,000² pixels of one bit, all there",
    part="png-lies",
)
_one(
    "png-13000",
    "png",
    lambda p: pixels_bomb(13000, 13000),
    "PNG of 13,000² pixels, all there, below Pillow's limit",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
    seconds=60,
)
_one(
    "png-8192",
    "png",
    lambda p: pixels_bomb(8192, 8192),
    "PNG of 8192², the largest that is allowed",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
    seconds=60,
    memory=3 * GB // 2,
)
_one(
    "png-ztxt",
    "png",
    lambda p: png(40, 40, chunks=[(b"zTXt", b"a\0\0" + zeros(300 << 20))] * 8, data=zlib.compress(bytes(41 * 40))),
    "PNG with texts that unpack to 2.4 GB",
    REFUSED,
    LEFT_OUT,
    DONE,
)
_one(
    "png-iccp",
    "png",
    lambda p: png(40, 40, chunks=[(b"iCCP", b"a\0\0" + zeros(1 << 30))], data=zlib.compress(bytes(41 * 40))),
    "PNG with a colour profile of 1 GB",
    REFUSED,
    LEFT_OUT,
    DONE,
)
_one(
    "png-idat-more",
    "png",
    lambda p: png(40, 40, data=zeros(3 << 30)),
    "PNG of 40² with 3 GB behind its pixels",
    REFUSED,
    LEFT_OUT,
    DONE,
)
_one(
    "png-sparse",
    "png",
    lambda p: holes(good(p)) and None,
    "PNG of 12 GB, nearly all holes",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
)
_one(
    "png-chunk-length",
    "png",
    lambda p: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(99),
    "PNG whose first chunk says 2 GB",
    part="png-lies",
)
together("png-lies", SIZE)


def jpeg(width: int, height: int, scans: int = 1) -> bytes:
    """A JPEG of one grey block whose header says otherwise."""
    stream = io.BytesIO()
    Image.fromarray((values() // 8).astype(np.uint8)).save(stream, "JPEG", progressive=scans > 1)
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\xc2" if scans > 1 else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">2H", height, width)
    if scans > 1:
        start = data.index(b"\xff\xda")
        data = data[:start] + data[start:-2] * scans + data[-2:]
    return bytes(data)


_one("jpg-65535", "jpg", lambda p: jpeg(65535, 65535), "JPEG of 65,535² in 1 kB")
_one(
    "jpg-12000",
    "jpg",
    lambda p: jpeg(12000, 12000),
    "JPEG of 12,000² in 1 kB",
    REFUSED,
    LEFT_OUT,
    large=True,
    seconds=40,
)
_one(
    "jpg-scans",
    "jpg",
    lambda p: jpeg(8000, 8000, 300),
    "progressive JPEG of 8000² with 300 scans",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
    seconds=120,
)
_one(
    "jpg-sparse",
    "jpg",
    lambda p: holes(good(p)) and None,
    "JPEG of 12 GB, nearly all holes",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
)


def bmp(width: int, height: int, compression: int = 0, body: bytes = b"") -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(body), 0, 0, 54 + 1024) + head + bytes(range(256)) * 4 + body


_one("bmp-100000", "bmp", lambda p: bmp(100000, 100000), "BMP of 100,000² in 1 kB", part="bmp-lies")
_one("bmp-12000", "bmp", lambda p: bmp(12000, 12000), "BMP of 12,000² in 1 kB", part="bmp-lies")
_one("bmp-negative", "bmp", lambda p: bmp(-(2**31), -(2**31)), "BMP of negative size", part="bmp-lies")
_one(
    "bmp-rle",
    "bmp",
    lambda p: bmp(12000, 12000, 1, b"\xff\0" * 1000 + b"\0\1"),
    "BMP of 12,000², run lengths, 3 kB",
    part="bmp-lies",
)
_one(
    "bmp-sparse",
    "bmp",
    lambda p: holes(good(p)) and None,
    "BMP of 12 GB, nearly all holes",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
)
together("bmp-lies", SIZE)


# --- TIFF ---------------------------------------------------------------------------------------------------------


def tiff(tags: Sequence, big: bool = False, after: bytes = b"", next_ifd: int = 0) -> bytes:
    """Bytes of a TIFF (BigTIFF) of one directory: [(tag, type, count, value or offset)], then ``after``."""
    tags = sorted(tags)
    if big:
        head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + struct.pack("<Q", len(tags))
        body = b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + struct.pack("<Q", next_ifd)
    else:
        head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags))
        body = b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", next_ifd)
    return head + body + after


def tiff_of(
    width: int,
    height: int,
    compression: int = 1,
    bits: int = 8,
    data: bytes = b"",
    more: Sequence = (),
    big: bool = False,
    rows: int | None = None,
    **given: Any,
) -> bytes:
    """A grey TIFF whose one strip is ``data``."""
    size = (24 + 10 * 20 + 8 + 20 * len(more)) if big else (8 + 2 + 10 * 12 + 4 + 12 * len(more))
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, size),
        (277, 3, 1, given.get("samples", 1)),
        (278, 4, 1, rows or height),
        (279, 4, 1, given.get("length", len(data))),
        (339, 3, 1, given.get("sample_format", 1)),
        *more,
    ]
    return tiff(tags, big, data, given.get("next_ifd", 0))


def lzw_zeros(size: int) -> bytes:
    """LZW codes (TIFF, most significant bit first) that unpack to ``size`` zeros or more."""
    bits, out, length = [], 0, 1
    bits.append((256, 9))
    code = 0
    while out < size:
        if code >= 4093 - 258:
            bits.append((256, 12))
            code, length = 0, 1
        last = 257 + code
        width = 9 if last < 510 else 10 if last < 1022 else 11 if last < 2046 else 12
        bits.append((0 if code == 0 else last, width))
        out, length, code = out + length, length + 1, code + 1
    bits.append((257, 12))
    text = "".join(f"{value:0{width}b}" for value, width in bits)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


_one("tif-2e31", "tif", lambda p: tiff_of(2**31, 2**31), "TIFF of 2³¹ × 2³¹ in 150 bytes", part="tif-lies")
_one(
    "tif-deflate",
    "tif",
    lambda p: tiff_of(30000, 30000, 8, data=zeros(30000 * 30000)),
    "TIFF of 30,000², deflated, 875 kB",
)
_one(
    "tif-deflate-more",
    "tif",
    lambda p: tiff_of(40, 40, 8, data=zeros(3 << 30)),
    "TIFF of 40² whose strip unpacks to 3 GB",
    REFUSED,
    LEFT_OUT,
    DONE,
)
_one("tif-lzw", "tif", lambda p: tiff_of(20000, 20000, 5, data=lzw_zeros(20000 * 2000)), "TIFF of 20,000² by LZW")
_one(
    "tif-packbits",
    "tif",
    lambda p: tiff_of(30000, 30000, 32773, data=b"\x81\0" * 7031250),
    "TIFF of 30,000² by PackBits",
    part="tif-lies",
)
_one(
    "tif-float64",
    "tif",
    lambda p: tiff_of(9000, 9000, 8, 64, zeros(9000 * 9000 * 8), sample_format=3),
    "TIFF of 9000² numbers of 64 bits, deflated",
)
_one(
    "tif-tile",
    "tif",
    lambda p: tiff_of(
        64,
        64,
        8,
        data=zeros(1 << 20),
        more=[(322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 170), (325, 4, 1, 1100)],
    ),
    "TIFF of 64² in a tile of 2²⁰ × 2²⁰",
    part="tif-lies",
)
_one(
    "tif-strips",
    "tif",
    lambda p: tiff(
        [
            (256, 4, 1, 64),
            (257, 4, 1, 64),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 2**30, 8),
            (277, 3, 1, 1),
            (278, 4, 1, 1),
            (279, 4, 2**30, 8),
        ],
        after=bytes(999),
    ),
    "TIFF that says 2³⁰ strips",
    part="tif-lies",
)
_one(
    "tif-rows0",
    "tif",
    lambda p: tiff_of(64, 64, data=bytes(4096), rows=2**32 - 1, more=[(284, 3, 1, 9)]),
    "TIFF with a planar configuration that is none",
    REFUSED,
    LEFT_OUT,
    DONE,
    part="tif-lies",
)
_one(
    "tif-samples",
    "tif",
    lambda p: tiff_of(4000, 4000, 8, data=zeros(1 << 20), samples=65535),
    "TIFF of 65,535 samples a pixel",
    part="tif-lies",
)
_one(
    "tif-loop",
    "tif",
    lambda p: tiff_of(64, 64, data=bytes(4096), next_ifd=8),
    "TIFF whose directory is its own next",
    REFUSED,
    LEFT_OUT,
    DONE,
    part="tif-lies",
)
_one(
    "tif-big-offset",
    "tif",
    lambda p: tiff_of(64, 64, data=bytes(4096), big=True, length=2**40),
    "BigTIFF with a strip of 2⁴⁰ bytes",
    REFUSED,
    LEFT_OUT,
    DONE,
    part="tif-lies",
)
_one(
    "tif-big-far",
    "tif",
    lambda p: struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**62),
    "BigTIFF whose directory is at 2⁶²",
    part="tif-lies",
)
_one(
    "tif-many-tags",
    "tif",
    lambda p: struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 2**60) + bytes(4000),
    "BigTIFF that says 2⁶⁰ tags",
    part="tif-lies",
)
_one(
    "tif-value-count",
    "tif",
    lambda p: tiff_of(64, 64, data=bytes(4096), more=[(320, 3, 2**32 - 1, 8)]),
    "TIFF with a colour map of 2³² values",
    REFUSED,
    LEFT_OUT,
    DONE,
    part="tif-lies",
)
_one(
    "tif-sparse",
    "tif",
    lambda p: holes(good(p)) and None,
    "TIFF of 12 GB, nearly all holes",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
)


def _pages(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((20000, 4, 4), np.uint8), photometric="minisblack", metadata=None)


_one("tif-pages", "tif", _pages, "TIFF of 20,000 pages of 4²", REFUSED, LEFT_OUT, DONE)


def _chain(path: Path) -> None:
    """A million directories of no tags, each the next of the one before."""
    count = 1_000_000
    starts = 8 + 6 * np.arange(1, count + 1, dtype="<u4")
    table = np.zeros(count, dtype=[("tags", "<u2"), ("next", "<u4")])
    table["next"] = starts
    table["next"][-1] = 0
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + table.tobytes())


_one("tif-chain", "tif", _chain, "TIFF of a million empty directories", part="tif-lies")
together("tif-lies", SIZE)


def _png_train(path: Path) -> None:
    path.write_bytes(pixels_bomb(13000, 13000))


@case("png-13000-train", SIZE, REFUSED, LEFT_OUT, large=True, seconds=60)
def big_picture_in_training(ground: Ground) -> Command:
    """PNG of 13,000² among the images of a training"""
    return train_check(ground, "png", _png_train)


@case("tif-deflate-train", SIZE)
def tiff_bomb_in_training(ground: Ground) -> Command:
    """TIFF of 30,000², deflated, among the images of a training"""
    return train_check(ground, "tif", lambda p: p.write_bytes(tiff_of(30000, 30000, 8, data=zeros(30000 * 30000))))


@case("png-bomb-evaluate", SIZE, REFUSED, LEFT_OUT)
def bomb_in_evaluation(ground: Ground) -> Command:
    """PNG of 50,000² among the images of evaluate.py"""
    for side in ("in", "true", "out"):
        for index in range(2):
            good(ground / f"{side}/{index}.png", index)
    (ground / "out/1.png").write_bytes(pixels_bomb(50000, 50000, 1))
    return evaluate(ground)
