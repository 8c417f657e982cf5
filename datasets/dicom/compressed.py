"""Compressed pixel data: fragments -> frames (PS3.5 A.4), what a codestream says of itself, and its decoders."""

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLETransferSyntaxes

from medi2i.common.errors import Unreadable
from medi2i.datasets.dicom.header_checks import Layout
from medi2i.datasets.dicom.parse import ITEM, UNDEFINED, Parsed, Read

DELIMITER = b"\xfe\xff\xdd\xe0"
_FRAME_ENDS = b"\xff\xd9"

Fragments = list[tuple[int, int]]
"""[(start, length) of the value of an item]."""


Head = tuple[int, int, int, int, bool]
"""What a compressed image says of itself: rows, columns, components, bits of a sample, and whether these are signed."""


def frame_fragments(parsed: Parsed, frames: int) -> list[Fragments]:
    """The fragments of each frame. Raises Unreadable where the frames cannot be told apart."""
    path = parsed.path
    with parsed.open() as read:
        fragments, length = _fragments(parsed, read, frames)
        if not fragments:
            raise Unreadable(path, "no item in its compressed pixel data")
        (table_at, table_length), *fragments = fragments
        table = read(table_at, min(table_length, 4 * frames + 4))
        if frames > max(1, length // 8):  # a fragment has at least its tag and length
            raise Unreadable(path, f"NumberOfFrames {frames} in {length} bytes of PixelData")
        if table_length % 4 or table_length > 4 * frames:
            raise Unreadable(path, f"its table of offsets has {table_length // 4} entries, NumberOfFrames is {frames}")
        first = table_at + table_length
        offsets = [first + offset for offset in struct.unpack(f"<{len(table) // 4}I", table)]
        offsets = offsets or _extended(parsed, first)
        if len(fragments) == frames:
            return [[fragment] for fragment in fragments]
        if len(offsets) == frames and frames > 1:
            return _by_offsets(path, fragments, offsets)
        if frames == 1 and fragments:
            return [fragments]
        return _by_ends(path, read, fragments, frames)


def _fragments(parsed: Parsed, read: Read, frames: int) -> tuple[Fragments, int]:
    """(all items, length of all)."""
    path, place = parsed.path, parsed.pixels
    found: Fragments = []
    at = place.start
    end = None if place.length is None else place.start + place.length
    limit = max(1 << 20, 8 * frames)
    while end is None or at < end:
        head = read(at, 8)
        if len(head) < 8:
            raise Unreadable(path, "cut off in the middle of its pixel data")
        tag, length = head[:4], struct.unpack("<I", head[4:])[0]
        if tag == DELIMITER:
            break
        if tag != ITEM or length == UNDEFINED:
            raise Unreadable(path, "its compressed pixel data are damaged (no item where one should begin)")
        if len(found) > limit:
            raise Unreadable(path, f"more than {limit} fragments for {frames} frame(s)")
        found.append((at + 8, length))
        at += 8 + length
    if found and len(read(sum(found[-1]) - 1, 1)) < (found[-1][1] > 0):
        raise Unreadable(path, "cut off in the middle of its pixel data")
    return found, at - place.start


def _extended(parsed: Parsed, first: int) -> list[int]:
    """Offsets of the Extended Offset Table (7FE0,0001), for files beyond 4 GiB."""
    table = parsed.dataset.get("ExtendedOffsetTable") or b""
    if not isinstance(table, bytes) or len(table) % 8:
        return []
    return [first + offset for offset in struct.unpack(f"<{len(table) // 8}Q", table)]


def _by_offsets(path: Path, fragments: Fragments, offsets: list[int]) -> list[Fragments]:
    """Offsets count from the first item after the table to the tag of an item."""
    begins = {start - 8: number for number, (start, _) in enumerate(fragments)}
    numbers = [begins[offset] for offset in offsets if offset in begins]
    if len(numbers) < len(offsets) or numbers[0] != 0 or any(a >= b for a, b in pairwise(numbers)):
        raise Unreadable(path, "its table of offsets does not fit the fragments of its pixel data")
    return [fragments[a:b] for a, b in zip(numbers, [*numbers[1:], len(fragments)], strict=True)]


def _by_ends(path: Path, read: Read, fragments: Fragments, frames: int) -> list[Fragments]:
    """Frames of several fragments end with the mark of the end of an image."""
    ends = [
        number
        for number, (start, length) in enumerate(fragments, 1)
        if _FRAME_ENDS in read(max(start, start + length - 10), min(length, 10))
    ]
    if len(ends) != frames or ends[-1] != len(fragments):
        raise Unreadable(path, f"{len(fragments)} fragments of pixel data cannot be told apart as {frames} frames")
    return [fragments[first:end] for first, end in pairwise([0, *ends])]


def measure(path: Path | str, encoded: bytes, layout: Layout) -> tuple[int, bool]:
    """(bits of a sample, whether it is signed) by the head of a compressed image, which is compared with the header;
    RLE, which has none, is taken to be what this says.

    Raises Unreadable where it is of another size, or cannot be found: what cannot be measured is not decoded, as the
    decoder would allocate whatever it finds.
    """
    syntax = layout.syntax
    if syntax in RLETransferSyntaxes:
        return layout.allocated, False
    head = next((head for family, head, _ in _CODECS if syntax in family), None)
    if head is None:
        raise Unreadable(path, f"no decoder for transfer syntax {syntax.name}")
    found = head(encoded)
    if found is None:
        raise Unreadable(
            path, f"the size of the compressed image cannot be found: damaged, or not {syntax.name}; it is not decoded"
        )
    rows, columns, components, bits, signed = found
    if (rows, columns) != (layout.rows, layout.columns):
        raise Unreadable(
            path,
            f"the compressed image is {rows}×{columns}, Rows × Columns say {layout.rows}×{layout.columns}",
        )
    if components != 1:
        raise Unreadable(path, f"the compressed image has {components} components, not 1")
    if encoded.rfind(_FRAME_ENDS) < 0:  # decoders make up what is missing
        raise Unreadable(path, "the compressed image has no end: it is cut off")
    return bits, signed


def decode(encoded: bytes, syntax: UID, into: np.ndarray) -> None:
    """Decode an image that was measured into ``into`` (H, W): nothing is allocated for what a codestream says.

    Raises one of PARSE_ERRORS where it is of another size or type, or damaged.
    """
    import imagecodecs  # where nothing is compressed it need not be there

    if syntax not in RLETransferSyntaxes:
        decoder = next(decoder for family, _, decoder in _CODECS if syntax in family)
        getattr(imagecodecs, decoder)(encoded, out=into)
    elif len(imagecodecs.dicomrle_decode(encoded, into.dtype, out=into.data.cast("B"))) < into.nbytes:
        raise ValueError("ends before the last pixel")


def _jpeg_2000(encoded: bytes) -> Head | None:
    """The SIZ segment (ISO/IEC 15444-1 A.5.1) of a codestream, or of one in JP2 boxes."""
    start = _codestream_box(encoded) if encoded[4:8] == b"jP  " else 0
    if start is None or encoded[start : start + 4] != b"\xff\x4f\xff\x51" or len(encoded) < start + 45:
        return None
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(
        ">8IH", encoded[start + 8 : start + 42]
    )
    depth, step_x, step_y = encoded[start + 42 : start + 45]
    if (step_x, step_y) != (1, 1) or not tile_x or not tile_y or x0 >= x1 or y0 >= y1:
        return None
    if -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y) > 65535:
        return None
    return y1 - y0, x1 - x0, components, (depth & 0x7F) + 1, bool(depth & 0x80)


def _codestream_box(encoded: bytes) -> int | None:
    at = 0
    while at + 8 <= len(encoded):
        length, kind = struct.unpack(">I4s", encoded[at : at + 8])
        head = 8
        if length == 1:
            length, head = int.from_bytes(encoded[at + 8 : at + 16], "big"), 16
        if kind == b"jp2c":
            return at + head
        if length < head:
            return None
        at += length
    return None


# Markers of ISO/IEC 10918-1 table B.1 and 14495-1: frames that are decoded here (SOF0 to SOF15 without DHT, JPG, DAC;
# 0xF7 is JPEG-LS), and those that describe an image of several frames.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_HIERARCHICAL, _START_OF_SCAN = (0xDE, 0xDF), 0xDA


def _jpeg(encoded: bytes) -> Head | None:
    """The frame header of a JPEG or JPEG-LS image, where there is one alone before the first scan."""
    found, at = None, 2
    while encoded[:2] == b"\xff\xd8" and at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == _START_OF_SCAN:
            return found
        if marker in _HIERARCHICAL or 0xD0 <= marker <= 0xD9 or marker in (0x00, 0x01):
            break
        if marker in _START_OF_FRAME:
            if found is not None or len(encoded) < at + 10:
                break
            bits, rows, columns, components = struct.unpack(">BHHB", encoded[at + 4 : at + 10])
            found = rows, columns, components, bits, False
        at += 2 + struct.unpack(">H", encoded[at + 2 : at + 4])[0]
    return None


_CODECS = (  # transfer syntaxes, what reads the head, and the function of imagecodecs; JPEGs in this order
    (JPEG2000TransferSyntaxes, _jpeg_2000, "jpeg2k_decode"),
    (JPEGLSTransferSyntaxes, _jpeg, "jpegls_decode"),
    (JPEGTransferSyntaxes, _jpeg, "jpeg8_decode"),
)
