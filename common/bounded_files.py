"""JSON and npz that may come from anybody: read with bounds, and refused in one line where no program here writes such.

Python's reader of JSON takes numbers that become infinite, NaN, keys given twice, of which it drops one, and depth
without end. Of npz nothing is unpickled, and no memory is taken before it is known how much: a packed file of a few kB
can declare, or unpack to, more than any memory holds.
"""

import io
import json
import lzma
import math
import os
import struct
import sys
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.limits import check_regular, in_words

MOST_BYTES = 1 << 20  # of args, best.json and the like
MOST_DIGITS = 40  # of a whole number


def read_json(path: Path | str, right: str, most: int = MOST_BYTES, what: str = "JSON") -> Any:
    """The value in a JSON file of at most ``most`` bytes, which is ``what``. ``right``: what would be right, in words.

    Raises UserError, and what the operating system says of a file that cannot be read.
    """
    path = Path(path)
    size = check_regular(path)
    if size > most:
        raise UserError(f"{path}: has {in_words(size)}, more than {in_words(most)}; {right}")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not {what} ({error}); {right}") from None


def parse_json(text: str | bytes, constant: Callable[[str], object] | None = None) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, and for numbers or depth beyond any use.

    constant: of the name of a number that JSON has not (NaN, Infinity) → its value; None refuses them.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(
            text, parse_int=_whole, parse_float=_number, parse_constant=constant or _refuse, object_pairs_hook=_object
        )
    except RecursionError:
        raise ValueError(f"lists or objects in each other, more than {sys.getrecursionlimit()} deep") from None


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:MOST_DIGITS]} is too large")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice[:MOST_DIGITS]!r} is given twice")
    return found


MOST_MEMBERS = 100_000
LONGEST_HEADER = 10_000
"""Bytes of an npy header. NumPy refuses longer ones too, but only once they are in memory."""

_T = TypeVar("_T")
_MARGIN, _PER_MEMBER = 1 << 20, 1 << 10  # bytes of a zip file beside its packed members, their names and comments
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
)


class BrokenFile(ValueError):
    """An npz file that cannot be read back: truncated, damaged, encrypted, or holding Python objects."""

    def __init__(self, path: Path | str, reason: object) -> None:
        super().__init__(f"{path}: not a whole npz file ({reason})")
        self.reason = reason


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) of the npy array at the start of ``file``, which is left where the values begin.

    The length that a header gives itself is checked before it is read. Raises ValueError.
    """
    version = np.lib.format.read_magic(file)
    field = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}.get(version)
    if field is None:
        raise ValueError(f"npy format {version} is not known")
    start = file.read(struct.calcsize(field))
    if len(start) < struct.calcsize(field):
        raise ValueError("it ends in its npy header")
    (length,) = struct.unpack(field, start)
    if length > LONGEST_HEADER:
        raise ValueError(f"an npy header of {length} bytes, where {LONGEST_HEADER} are the most")
    read = np.lib.format.read_array_header_1_0 if field == "<H" else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(start + file.read(length)))


class StoredArrays(Mapping[str, np.ndarray]):
    """The arrays of an npz file by name, each unpacked when it is asked for, and not kept.

    ``declared``: name → an array of that shape and type, without memory of its own. Raises BrokenFile, OSError,
    Unreadable when it is made and when an array is read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        check_regular(path)
        self._archive = _guarded(path, lambda: zipfile.ZipFile(path))
        self._infos = _guarded(path, lambda: _members(self._archive))
        self.declared = _guarded(
            path, lambda: {name: _declared(self._archive, info) for name, info in self._infos.items()}
        )

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._infos[name]
        return _guarded(self.path, lambda: _read(self._archive, info))

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def verify(self) -> None:
        """Compare every checksum, a block of memory at a time."""
        if bad := _guarded(self.path, self._archive.testzip):
            raise BrokenFile(self.path, f"Bad CRC-32 for file {bad!r}")


def declared_in(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """What has the shape and type of an array, without unpacking it."""
    return (arrays.declared if isinstance(arrays, StoredArrays) else arrays)[name]


def _guarded(path: Path | str, use: Callable[[], _T]) -> _T:
    try:
        return use()
    except _DAMAGE as error:
        raise BrokenFile(path, str(error) or type(error).__name__) from None
    except OSError as error:
        if error.filename is not None or error.errno not in (None, 22):  # 22: told to look before the file's start
            raise
        raise BrokenFile(path, error) from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise ValueError(f"{len(infos)} members")
    found = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(found) < len(infos):
        raise ValueError("two members of one name")
    _check_extent(archive, infos)
    return found


def _check_extent(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> None:
    """A file is as long as its members: no holes to read through (whoever hashes it), no bytes used twice."""
    packed = sum(info.compress_size for info in infos)
    assert archive.fp is not None  # it is open
    size = os.fstat(archive.fp.fileno()).st_size
    around = sum(_PER_MEMBER + 4 * len(info.filename) * 2 + 2 * len(info.extra) + len(info.comment) for info in infos)
    if packed > size:
        raise ValueError(f"its members have {packed} bytes together, and the file has {size}")
    if size > packed + around + _MARGIN:
        raise ValueError(f"its members account for {packed} of its {size} bytes")


def _declared(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        shape, _, dtype = array_header(member)
        size = info.file_size - member.tell()
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds pickled Python objects")
    if min(shape, default=0) < 0 or size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename} has {size} bytes for an array of {shape}")
    return np.broadcast_to(np.empty((), dtype), shape)  # all of its elements are the same one


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    _declared(archive, info)
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read(1)  # the end, where the checksum is compared
    return array


def refuse_not_finite(
    arrays: Mapping[str, np.ndarray],
    source: Path | str,
    dtypes: Mapping[str, np.dtype] | None = None,
    right: str = "weights of an earlier epoch would be right",
) -> None:
    """UserError, naming ``source`` and the array, where one has NaN or infinities, or gets them in its type of use.

    arrays: name → NumPy array. dtypes: name → the type in which it will be used, where that is another. right: what
    would be, in words.
    """
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise UserError(
                f"{source}: {name} is not finite, {bad} of its {array.size} values are NaN or infinite; {right}"
            )
        dtype = np.dtype((dtypes or {}).get(name) or array.dtype)
        largest = float(np.abs(array).max(initial=0))
        if dtype.kind == "f" and largest > float(np.finfo(dtype).max):
            raise UserError(
                f"{source}: {name} has values up to {largest:.3g}, which {dtype} does not hold (at most "
                f"{np.finfo(dtype).max:.5g}); --dtype fp32 would do"
            )
