"""Arrays of an npz file that may come from anybody: nothing is unpickled, and no memory is taken before it is known
how much. A packed file of a few kB can declare, or unpack to, more than any memory holds.
"""
import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass

import numpy

from medi2i.common.errors import UserError
from medi2i.datasets.limits import check_regular

MOST_MEMBERS = 100_000
_HEADER = 1 << 16  # bytes: a header of NumPy's format 1.0 has at most so many
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, TypeError, KeyError, SyntaxError,
           NotImplementedError, RuntimeError, OverflowError, MemoryError, struct.error, tokenize.TokenError)


class BrokenFile(ValueError):
    """An npz file that cannot be read back: truncated, damaged, encrypted, or holding Python objects."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: not a whole npz file ({reason})")
        self.reason = reason


@dataclass(frozen=True)
class Declared:
    """What the header of an array says: its shape and type, and where in its member the values begin."""

    shape: tuple[int, ...]
    dtype: numpy.dtype
    fortran_order: bool
    offset: int

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


def declared_arrays(path) -> dict[str, Declared]:
    """Name → what is declared of each array. Reads headers only. Raises BrokenFile, OSError, Unreadable."""
    return _opened(path, lambda archive: {name: _declared(archive, info) for name, info in _members(archive).items()})


def read_arrays_of(path, names=None) -> dict[str, numpy.ndarray]:
    """The arrays, or those called ``names``, every checksum verified. Raises BrokenFile, OSError, Unreadable."""
    def read(archive):
        members = _members(archive)
        return {name: _read(archive, members[name]) for name in members if names is None or name in names}
    return _opened(path, read)


def _opened(path, use):
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return use(archive)
    except _DAMAGE as error:
        raise BrokenFile(path, str(error) or type(error).__name__) from None
    except OSError as error:
        if error.filename is not None or error.errno not in (None, 22):  # 22: told to look before the file's start
            raise
        raise BrokenFile(path, error) from None


def _members(archive):
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise ValueError(f"{len(infos)} members")
    found = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(found) < len(infos):
        raise ValueError("two members of one name")
    return found


def _declared(archive, info):
    with archive.open(info) as member:
        start = io.BytesIO(member.read(_HEADER + 16))
    version = numpy.lib.format.read_magic(start)
    if version == (1, 0):
        shape, order, dtype = numpy.lib.format.read_array_header_1_0(start)
    elif version == (2, 0):
        shape, order, dtype = numpy.lib.format.read_array_header_2_0(start)
    else:
        raise ValueError(f"{info.filename} has format {version}")
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds pickled Python objects")
    found = Declared(tuple(int(n) for n in shape), dtype, order, start.tell())
    if min(found.shape, default=0) < 0 or info.file_size != found.offset + found.size * dtype.itemsize:
        raise ValueError(f"{info.filename} has {info.file_size - found.offset} bytes for an array of {found.shape}")
    return found


def _read(archive, info):
    about = _declared(archive, info)
    array = numpy.empty(about.size, about.dtype)
    with archive.open(info) as member:
        member.read(about.offset)
        left = memoryview(array).cast("B") if array.nbytes else memoryview(b"")
        while left:
            count = member.readinto(left)
            if not count:
                raise EOFError(f"{info.filename} ends too early")
            left = left[count:]
        member.read(1)  # the end, where the checksum is compared
    return array.reshape(about.shape, order="F" if about.fortran_order else "C")


def refuse_not_finite(arrays, source, dtypes=None, right="weights of an earlier epoch would be right"):
    """UserError, naming ``source`` and the array, where one has NaN or infinities, or gets them in its type of use.

    arrays: name → NumPy array. dtypes: name → the type in which it will be used, where that is another. right: what
    would be, in words.
    """
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        bad = array.size - int(numpy.count_nonzero(numpy.isfinite(array)))
        if bad:
            raise UserError(f"{source}: {name} is not finite, {bad} of its {array.size} values are NaN or infinite; "
                            f"{right}")
        dtype = numpy.dtype((dtypes or {}).get(name) or array.dtype)
        largest = float(numpy.abs(array).max(initial=0))
        if dtype.kind == "f" and largest > float(numpy.finfo(dtype).max):
            raise UserError(f"{source}: {name} has values up to {largest:.3g}, which {dtype} does not hold (at most "
                            f"{numpy.finfo(dtype).max:.5g}); --dtype fp32 would do")
