"""From a DICOM file to its header and the place of its pixel data, whatever size the file has or claims.

Only the header is read: values that no header needs are passed over, pixels stay in the file until a frame is wanted.
Everything is bounded before it is read, as a file may be made to fill the memory.
"""

import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag

from medi2i.common.errors import Unreadable
from medi2i.common.limits import check_regular, in_words, max_pixels
from medi2i.datasets.dicom.header_checks import DEFLATED, PARSE_ERRORS, short

HEADER_BYTES = 1 << 27
"""What all values of a header together may take."""
VALUE_BYTES = 1 << 24
"""Longer values are passed over: they are private data or documents."""
HEADER_ITEMS = 1 << 18
"""Items of sequences in a header: a functional group for each frame has some. Each takes time and memory."""
HEADER_ELEMENTS = 1 << 19
"""Elements that are read one by one; those of a sequence of known length are not."""

PIXEL_VRS = {0x7FE00010: "OB", 0x7FE00008: "OF", 0x7FE00009: "OD"}
"""PixelData, FloatPixelData and DoubleFloatPixelData."""
ITEM, UNDEFINED = b"\xfe\xff\x00\xe0", 0xFFFFFFFF

# Of a BinaryIO pydicom uses what a Bounded has.
_elements: Callable[..., Dataset] = partial(read_dataset, defer_size=VALUE_BYTES)
_with_meta: Callable[..., FileDataset] = partial(read_partial, defer_size=VALUE_BYTES)

Read = Callable[[int, int], bytes]
"""read(start, size) -> bytes of the (unpacked) file, fewer at its end."""


@dataclass(frozen=True)
class PixelPlace:
    """Where the value of the pixel data begins in the (unpacked) file; ``length`` None where it is undefined."""

    start: int = 0
    length: int | None = 0
    vr: str = ""


@dataclass
class Parsed:
    """A header, and where its pixels are. ``dataset`` has an empty PixelData where the file has one."""

    path: Path
    dataset: FileDataset
    pixels: PixelPlace
    notes: tuple[str, ...]
    unpacked: "Unpacking | None"

    @contextmanager
    def open(self) -> Iterator[Read]:
        """A ``Read`` of the file. Threads may each open it."""
        if self.unpacked is not None:
            yield self.unpacked.at
            return
        with self.path.open("rb") as file:

            def read(start: int, size: int) -> bytes:
                file.seek(start)
                return file.read(size)

            yield read

    def available(self, start: int) -> int:
        """Bytes that there are from ``start`` on."""
        return max(0, (self.path.stat().st_size if self.unpacked is None else self.unpacked.size()) - start)


def parse_file(path: Path) -> Parsed:
    """Read the header of a file and find its pixel data. Raises Unreadable for what is not DICOM, is damaged, or has a
    header that takes too much memory."""
    try:
        if check_regular(path) == 0:
            raise Unreadable(path, "empty file")
        with path.open("rb") as file:
            head = file.read(132)
            if head[128:132] != b"DICM":
                raise Unreadable(path, _why_not_dicom(head))
            return _read(path, file)
    except OSError as error:
        raise Unreadable(path, f"cannot be read ({error.strerror or error})") from error
    except PARSE_ERRORS as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(path, f"damaged DICOM header ({short(error)})") from error


def _why_not_dicom(head: bytes) -> str:
    group, element = struct.unpack("<HH", head[:4]) if len(head) >= 4 else (0, 0)
    if group in (2, 8) and element < 0x100:
        return "DICOM without the file header of PS3.10 (no DICM mark at byte 128; DCMTK's dcmconv adds one)"
    return "not DICOM (no DICM mark at byte 128)"


def _read(path: Path, raw: BinaryIO) -> Parsed:
    file, unpacked = Bounded(path, raw), None
    encoding: tuple[bool | None, bool | None] = False, True  # implicit VR, little endian
    try:
        meta = FileMetaDataset(_elements(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
        _pass_over(meta)
        # Raw elements are converted on access; the transfer syntax is what all the rest depends on.
        if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:
            unpacked = Unpacking(path, file.tell())
            file = Bounded(path, unpacked)
            found = _elements(file, False, True, stop_when=file.at_pixels)
            unpacked.limit = unpacked.tell() + 8 * max_pixels()
        else:
            file.seek(0)
            found = _with_meta(file, stop_when=file.at_pixels)
            meta, encoding = found.file_meta, found.original_encoding
            _pass_over(meta)
    except Exception:
        if file.refused is not None:
            raise file.refused from None
        raise
    notes = [f"{tag} of {in_words(length)} is passed over" for tag, length in _pass_over(found) if tag.group != 0x7FE0]
    # None: pydicom shall not open the file again
    dataset = FileDataset(None, found, b"\0" * 128, meta)  # type: ignore[arg-type]
    dataset.set_original_encoding(encoding[0], encoding[1], found._character_set)
    if file.pixel_tag is not None:
        dataset.add(DataElement(file.pixel_tag, PIXEL_VRS[file.pixel_tag], b""))
    return Parsed(path, dataset, file.pixels, tuple(notes), unpacked)


def _pass_over(dataset: Dataset) -> list[tuple[BaseTag, int]]:
    """Remove what was not read because of its length: [(tag, length)]."""
    found = [
        (tag, value.length)
        for tag, value in dataset.items()
        if isinstance(value, RawDataElement) and value.value is None and value.length > VALUE_BYTES
    ]
    for tag, _ in found:
        del dataset[tag]
    return found


class Bounded:
    """A file whose reader is stopped by an Unreadable when a header becomes too long or has too many parts.

    ``refused`` keeps it, as a reader may turn it into another exception. ``pixel_tag``, ``pixels``: which pixel data
    end the header, if any, and where they are.
    """

    def __init__(self, path: Path, file: "BinaryIO | Unpacking") -> None:
        self.path, self.file = path, file
        self.left, self.items, self.elements = HEADER_BYTES, HEADER_ITEMS, HEADER_ELEMENTS
        self.seek, self.tell = file.seek, file.tell
        self.refused: Unreadable | None = None
        self.pixel_tag: int | None = None
        self.pixels = PixelPlace()

    def at_pixels(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Whether the reader shall stop, before an element of this tag."""
        if int(tag) not in PIXEL_VRS:
            return False
        self.pixel_tag = int(tag)
        self.pixels = PixelPlace(self.tell(), None if length == UNDEFINED else length, vr or "")
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.left:
            size = self.left + 1
        data = self.file.read(size)
        self.left -= len(data)
        if size == 8:  # tag, VR and length; zeros are no element but a hole
            self.elements -= 1 if data.strip(b"\0") else 1 + HEADER_ELEMENTS // 64
        self.items -= data.count(ITEM) + data.count(b"\xff\xfe\xe0\x00")
        if min(self.left, self.items, self.elements) < 0:
            self.refused = self.refused or Unreadable(
                self.path,
                f"its header, without the pixels, has more than {in_words(HEADER_BYTES)}, {HEADER_ITEMS} items of "
                f"sequences or {HEADER_ELEMENTS} elements",
            )
            raise self.refused
        return data


class Unpacking(io.RawIOBase):
    """A deflated data set (PS3.5 A.5), which begins at ``start`` of a file, as a file of its own: unpacked as far as it
    is read, at most ``limit`` bytes."""

    def __init__(self, path: Path, start: int) -> None:
        self.path, self.limit = path, HEADER_BYTES
        self._fed, self._at, self._lock = start, 0, threading.Lock()
        self._unpacked, self._inflate = bytearray(), zlib.decompressobj(-zlib.MAX_WBITS)

    def _unpack(self, end: int) -> None:
        """Unpack at least ``end`` bytes where there are so many."""
        with self.path.open("rb") as file:
            file.seek(self._fed)
            while len(self._unpacked) < end and not self._inflate.eof:
                packed = self._inflate.unconsumed_tail or file.read(1 << 16)
                if not packed:
                    return
                if not self._inflate.unconsumed_tail:
                    self._fed = file.tell()
                try:
                    self._unpacked += self._inflate.decompress(packed, 1 << 20)
                except zlib.error as error:
                    raise Unreadable(self.path, f"damaged deflated data ({error})") from error
                if len(self._unpacked) > self.limit:
                    raise Unreadable(
                        self.path, f"unpacks to more than {in_words(self.limit)}, with a header of up to "
                        f"{in_words(HEADER_BYTES)}; a larger --max-pixels would allow more pixels"
                    )  # fmt: skip

    def at(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on, fewer at the end. Thread-safe."""
        with self._lock:
            self._unpack(start + size)
            return bytes(memoryview(self._unpacked)[start : start + size])

    def size(self) -> int:
        """Of all that is packed."""
        with self._lock:
            self._unpack(self.limit)
        return len(self._unpacked)

    def read(self, size: int = -1) -> bytes:
        data = self.at(self._at, size if size >= 0 else max(0, self.limit - self._at))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset if whence == 0 else self._at + offset
        return self._at

    def tell(self) -> int:
        return self._at
