"""Hostile cases: zip archives in the place of a folder of images."""

import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hostile_cases import DONE, LEFT_OUT, REFUSED, Command, Ground, case, good, scan
from hostile_watch import Seen

ZIP = "Zip archives"
BLOCK = 1 << 28
MARK = "medi2i-hostile-escaped.dcm"
"""A name that nothing else has: a file of it outside of an archive's folder has escaped."""


class Member(NamedTuple):
    """A file of an archive as it is written, true or not. size, checksum: those it declares, None for its own."""

    name: bytes
    content: bytes = b""
    size: int | None = None
    method: int = 8
    flags: int = 0
    rights: int = 0o100644
    extra: bytes = b""


def zipped(members: Sequence[Member], overlapping: bool = False) -> bytes:
    """Bytes of a zip archive. overlapping: all of its directory points at the first member."""
    body, directory = bytearray(), bytearray()
    packed: dict[bytes, bytes] = {}
    for member in members:
        if member.content not in packed:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed[member.content] = packer.compress(member.content) + packer.flush()
        data = packed[member.content] if member.method == 8 else member.content
        size = len(member.content) if member.size is None else member.size
        fields = struct.pack("<4H3I", member.flags, member.method, 0, 33, zlib.crc32(member.content), len(data), size)
        lengths = struct.pack("<2H", len(member.name), len(member.extra))
        at = 0 if overlapping else len(body)
        if not overlapping or not body:
            body += b"PK\3\4" + struct.pack("<H", 20) + fields + lengths + member.name + member.extra + data
        places = struct.pack("<3H2I", 0, 0, 0, member.rights << 16, at)
        directory += b"PK\1\2" + struct.pack("<2H", 0x314, 20) + fields + lengths + places + member.name + member.extra
    count = len(members)
    end = struct.pack("<4H2IH", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), len(body), 0)
    return bytes(body + directory) + b"PK\5\6" + end


def dicom(ground: Ground) -> bytes:
    """A good image."""
    path = good(ground / "good/1.dcm")
    content = path.read_bytes()
    path.unlink()
    return content


def _scan(ground: Ground, members: Sequence[Member], bad: Sequence[str] = (), overlapping: bool = False) -> Command:
    (ground / "in.zip").write_bytes(zipped(members, overlapping))
    return scan(ground / "in.zip", bad=tuple(bad), check=_inside)


def _inside(seen: Seen, folder: Path) -> str | None:
    places = [Path(tempfile.gettempdir()), folder, *folder.parents, Path.cwd()]
    if any((place / MARK).exists() for place in places):
        return "a file of the archive lies outside of its folder"
    return None


@case("zip-bomb", ZIP, REFUSED)
def bomb(ground: Ground) -> Command:
    """5 MB that say that they unpack to 5 GB"""
    return _scan(ground, [Member(b"%d.dcm" % index, bytes(BLOCK)) for index in range(20)])


@case("zip-bomb-untold", ZIP, REFUSED)
def bomb_untold(ground: Ground) -> Command:
    """256 MB that say that they are 1000 bytes"""
    return _scan(ground, [Member(b"a.dcm", bytes(BLOCK), 1000)])


@case("zip-bomb-overlap", ZIP, REFUSED)
def bomb_overlapping(ground: Ground) -> Command:
    """a hundred files that are one and the same 256 MB"""
    return _scan(ground, [Member(b"a.dcm", bytes(BLOCK), 9) for _ in range(100)], overlapping=True)


@case("zip-64", ZIP, REFUSED)
def large_sizes(ground: Ground) -> Command:
    """a file of 2⁶³ bytes, as ZIP64 says it"""
    extra = struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63)
    return _scan(ground, [Member(b"a.dcm", b"1", 0xFFFFFFFF, extra=extra)])


@case("zip-many", ZIP, REFUSED, seconds=30)
def many(ground: Ground) -> Command:
    """65,535 files of one name"""
    return _scan(ground, [Member(b"a.dcm", b"1")] * 65535, overlapping=True)


@case("zip-up", ZIP, REFUSED, DONE)
def upwards(ground: Ground) -> Command:
    """names that lead out of the folder, a good image among them"""
    names = ("../" * 9 + MARK, f"{ground.folder}/{MARK}", f"in/../../{MARK}", f"..\\{MARK}", f"C:\\{MARK}")
    return _scan(ground, [Member(name.encode(), dicom(ground)) for name in names])


@case("zip-link", ZIP, REFUSED)
def link(ground: Ground) -> Command:
    """a link to the temporary folder and a file behind it"""
    target = tempfile.gettempdir().encode()
    return _scan(ground, [Member(b"a", target, rights=0o120777), Member(b"a/" + MARK.encode(), dicom(ground))])


@case("zip-link-alone", ZIP)
def link_alone(ground: Ground) -> Command:
    """a link to a file of the system beside a good image"""
    members = [Member(b"etc.dcm", b"/etc/passwd", rights=0o120777), Member(b"good.dcm", dicom(ground))]
    return _scan(ground, members, ["etc.dcm"])


@case("zip-nested", ZIP, LEFT_OUT)
def nested(ground: Ground) -> Command:
    """an archive in the archive, beside a good image"""
    inner = zipped([Member(b"%d.dcm" % index, bytes(1 << 20)) for index in range(9)])
    return _scan(ground, [Member(b"in.zip", inner), Member(b"good.dcm", dicom(ground))], ["in.zip/in.zip"])


@case("zip-nested-alone", ZIP, REFUSED)
def nested_alone(ground: Ground) -> Command:
    """an archive in the archive and nothing else"""
    return _scan(ground, [Member(b"in.zip", zipped([Member(b"a.dcm", dicom(ground))]))])


@case("zip-encrypted", ZIP, REFUSED)
def encrypted(ground: Ground) -> Command:
    """a file that needs a password behind one that does not"""
    return _scan(ground, [Member(b"a.dcm", dicom(ground)), Member(b"b.dcm", bytes(99), flags=1, method=0)])


@case("zip-names", ZIP, REFUSED, DONE)
def names(ground: Ground) -> Command:
    """names that a terminal would obey"""
    return _scan(ground, [Member(b"\x1b]0;owned\x07\x1b[31m.dcm", dicom(ground)), Member(b"\x1b[2J.txt", b"1")])


@case("zip-name-utf8", ZIP, REFUSED)
def no_text(ground: Ground) -> Command:
    """a name that says UTF-8 and is not"""
    return _scan(ground, [Member(b"\xff\xfe\xc3.dcm", dicom(ground), flags=0x800)])


@case("zip-name-long", ZIP, REFUSED)
def long_name(ground: Ground) -> Command:
    """a name of 60,000 letters"""
    return _scan(ground, [Member(b"a" * 60000, dicom(ground))])


@case("zip-deep", ZIP, REFUSED)
def deep(ground: Ground) -> Command:
    """a file below 20,000 folders"""
    return _scan(ground, [Member(b"a/" * 20000 + b"b.dcm", dicom(ground))])


@case("zip-twice", ZIP, REFUSED)
def twice(ground: Ground) -> Command:
    """two files of one name"""
    return _scan(ground, [Member(b"a.dcm", dicom(ground)), Member(b"a.dcm", b"1")])


@case("zip-method", ZIP, REFUSED)
def method(ground: Ground) -> Command:
    """a file packed in a way that there is not"""
    return _scan(ground, [Member(b"a.dcm", bytes(99), method=77)])
