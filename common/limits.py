"""How much one file may ask for: checked on what it declares, before anything is opened for it or allocated.

A file from elsewhere may be a pipe that never ends, or declare more pixels than any memory holds. One number bounds
all readers: ``--max-pixels`` of every program, handed on to its processes by the environment.
"""

import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from medi2i.common.errors import Unreadable, UserError

MAX_PIXELS = 1 << 26
"""Rows × columns of an image accepted by default (8192²)."""

BYTES_PER_PIXEL = 32
"""What a file may unpack to, in bytes for each of ``max_pixels()``: a volume of 2048 slices of 512² in float32."""

_VARIABLE = "MEDI2I_MAX_PIXELS"


def max_pixels() -> int:
    """Rows × columns of an image that are accepted, in this process and those it starts."""
    return int(os.environ.get(_VARIABLE) or MAX_PIXELS)


def max_bytes() -> int:
    """What one file may unpack to in memory."""
    return BYTES_PER_PIXEL * max_pixels()


def set_max_pixels(value: int | str | None) -> None:
    """Take the value of ``--max-pixels``; None leaves things as they are. UserError where it is no positive number."""
    if value is None:
        return
    if not (str(value).isascii() and str(value).isdigit() and 0 < len(str(value)) < 16 and int(value) > 0):
        raise UserError(f"--max-pixels: {value!r} is not a positive whole number")
    os.environ[_VARIABLE] = str(value)


def check_pixels(path: Path | str, rows: int, columns: int) -> None:
    """Raise Unreadable where an image declares more than ``max_pixels()``."""
    limit = max_pixels()
    if rows * columns > limit:
        raise Unreadable(
            path, f"declares {rows}×{columns} pixels, more than {limit}; --max-pixels {rows * columns} would allow it"
        )


def check_bytes(
    path: Path | str, count: int, declares: str = "", limit: int | None = None, otherwise: str = "unpacks to"
) -> None:
    """Raise Unreadable where what a file declares takes more memory than ``limit`` bytes (default: ``max_bytes()``).

    declares: what needs that much, in the message ("200×512×512 values"); otherwise: what the file does, if nothing.
    """
    limit = max_bytes() if limit is None else limit
    if count > limit:
        what = f"declares {declares}, which take" if declares else otherwise
        raise Unreadable(
            path,
            f"{what} {in_words(count)}, more than {in_words(limit)}; "
            f"--max-pixels {-(-count // BYTES_PER_PIXEL)} would allow it",
        )


def check_file(path: Path | str) -> int:
    """``check_regular``, and Unreadable for a file longer than ``max_bytes()``, which no reader here takes."""
    size = check_regular(path)
    check_bytes(path, size, otherwise="has")
    return size


def in_words(count: float) -> str:
    """A number of bytes for people: "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def check_regular(path: Path | str) -> int:
    """The size in bytes of a regular file (links are followed).

    Raises Unreadable for pipes, sockets and devices, which are never opened: reading them may not end. What is not
    there at all, or a folder, raises as ``open`` does (FileNotFoundError, IsADirectoryError).
    """
    status = os.stat(path)
    if S_ISDIR(status.st_mode):
        raise IsADirectoryError(21, os.strerror(21), str(path))
    if not S_ISREG(status.st_mode):
        raise Unreadable(path, "is not a regular file; a pipe, socket or device is not read, a copy of it would be")
    return status.st_size
