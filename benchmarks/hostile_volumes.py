"""Hostile npy, text and NIfTI files."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import (
    DONE,
    LEFT_OUT,
    REFUSED,
    Command,
    Ground,
    Make,
    case,
    good,
    holes,
    one_bad,
    together,
    train_check,
    values,
)
from hostile_pictures import zeros
from hostile_watch import Seen

NUMBERS, NIFTI = "npy, csv and txt", "NIfTI"


def npy(
    shape: object,
    descr: str = "'<f4'",
    fortran: bool = False,
    data: bytes = b"",
    version: int = 1,
    length: int | None = None,
) -> bytes:
    """Bytes of an npy file with the given header."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def _one(name: str, suffix: str, make: Make, about: str, *expected: str, **limits: Any) -> None:
    one_bad(name, NUMBERS, suffix, make, about, *expected, check=_not_run, **limits)


def _not_run(seen: Seen, folder: Path) -> str | None:
    return "code in the file was run" if list(folder.rglob("pickled")) else None


class _Code:
    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch pickled",)


def _pickled(path: Path) -> None:
    np.save(path, np.array([_Code()], object), allow_pickle=True)


def _sparse_npy(shape: tuple[int, ...], descr: str = "'<f4'") -> Make:
    def make(path: Path) -> None:
        path.write_bytes(npy(shape, descr))
        holes(path)

    return make


def _text(path: Path, line: bytes, size: int) -> None:
    with path.open("wb") as file:
        block = line * (1_000_000 // len(line))
        for _ in range(size // len(block)):
            file.write(block)
        file.write(b"0\n")


_one("npy-shape", "npy", lambda p: npy((2**31, 2**31)), "npy of 2³¹ × 2³¹ in 128 bytes", part="npy-lies")
_one("npy-shape-overflow", "npy", lambda p: npy((2**62, 4, 2**62)), "npy whose size overflows 64 bits", part="npy-lies")
_one("npy-negative", "npy", lambda p: npy((-1, 40)), "npy of -1 rows", part="npy-lies")
_one("npy-zero", "npy", lambda p: npy((0, 2**40)), "npy of 0 × 2⁴⁰", part="npy-lies")
_one("npy-pickle", "npy", _pickled, "npy with a pickled command", part="npy-lies")
_one(
    "npy-object",
    "npy",
    lambda p: npy((4, 4), "'|O'", data=b"cos\nsystem\n(S'touch pickled'\ntR." * 9),
    "npy of objects without numpy's own frame",
    part="npy-lies",
)
_one(
    "npy-code",
    "npy",
    lambda p: npy("__import__('os').system('touch pickled')"),
    "npy with code in its header",
    part="npy-lies",
)
_one(
    "npy-fortran",
    "npy",
    lambda p: npy((40, 48), "'<f8'", True, np.zeros(1920).tobytes()),
    "npy in Fortran order",
    DONE,
    part="npy-lies",
)
_one(
    "npy-header-long",
    "npy",
    lambda p: npy((4, 4), version=2, length=2**32 - 1, data=bytes(999)),
    "npy whose header says 4 GB",
    part="npy-lies",
)
_one(
    "npy-header-sparse",
    "npy",
    lambda p: (p.write_bytes(npy((4, 4), version=2, length=2**31)), holes(p))[:0],
    "npy of 12 GB whose header says 2 GB",
    large=True,
)
_one(
    "npy-header-deep",
    "npy",
    lambda p: npy("(" * 9000 + "1" + ")" * 9000),
    "npy with 9000 brackets in its header",
    part="npy-lies",
)
_one(
    "npy-header-digits",
    "npy",
    lambda p: npy(f"(1{'0' * 9000}, 4)"),
    "npy with a number of 9000 digits",
    part="npy-lies",
)
_one(
    "npy-structured",
    "npy",
    lambda p: npy((4, 4), "[('a', '<f4', (100000, 100000))]", data=bytes(999)),
    "npy of structures of 40 GB",
)
_one("npy-complex", "npy", lambda p: npy((4, 4), "'<c8'", data=bytes(128)), "npy of complex numbers", part="npy-lies")
_one("npy-text", "npy", lambda p: npy((2, 2), "'<U500000000'", data=bytes(99)), "npy of texts of 2 GB")
_one(
    "npy-dims",
    "npy",
    lambda p: npy((1,) * 60 + (40, 48), data=np.zeros(1920, "<f4").tobytes()),
    "npy of 62 axes",
    part="npy-lies",
)
_one("npy-nan", "npy", lambda p: np.save(p, np.where(values() > 1000, np.nan, 0.0)), "npy with NaN", part="npy-lies")
_one(
    "npy-huge-values",
    "npy",
    lambda p: np.save(p, np.full((40, 48), 1e308)),
    "npy of values beyond 32 bits",
    part="npy-lies",
)
_one("npy-sparse", "npy", _sparse_npy((50000, 60000)), "sparse npy of 12 GB that holds what it says", large=True)
_one(
    "npy-sparse-tail",
    "npy",
    lambda p: holes(good(p)) and None,
    "a good npy with 12 GB of holes behind it",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
)
_one("csv-sparse", "csv", lambda p: holes(good(p)) and None, "sparse csv of 12 GB", large=True)
_one("csv-line", "csv", lambda p: _text(p, b"0,", 10**9), "csv of one line of 1 GB", large=True)
_one(
    "csv-line-100m",
    "csv",
    lambda p: _text(p, b"1,", 10**8),
    "csv of one line of 100 MB",
    REFUSED,
    LEFT_OUT,
    DONE,
    large=True,
    seconds=90,
)
_one(
    "csv-digits", "csv", lambda p: b"1" * 10**6 + b",2\n3,4\n", "csv with a number of a million digits", part="csv-lies"
)
_one("csv-1e400", "csv", lambda p: b"1e400,2\n3,4\n", "csv with 1e400", part="csv-lies")
_one("csv-nul", "csv", lambda p: b"1,\0,2\n" * 9, "csv with NUL", part="csv-lies")
_one("csv-latin", "csv", lambda p: b"\xff\xfe1,2\n", "csv that is no UTF-8", part="csv-lies")
_one("csv-ragged", "csv", lambda p: b"1,2\n3\n", "csv with rows of different length", part="csv-lies")
_one("csv-formula", "csv", lambda p: b"=1+1,2\n3,4\n", "csv with a formula", part="csv-lies")
_one("txt-sparse", "txt", lambda p: holes(good(p)) and None, "sparse txt of 12 GB", large=True)
together("npy-lies", NUMBERS)
together("csv-lies", NUMBERS)


@case("npy-sparse-train", NUMBERS, large=True)
def sparse_npy_in_training(ground: Ground) -> Command:
    """sparse npy of 12 GB among the images of a training"""
    return train_check(ground, "npy", _sparse_npy((50000, 60000)))


@case("csv-sparse-train", NUMBERS, large=True)
def sparse_csv_in_training(ground: Ground) -> Command:
    """sparse csv of 12 GB among the images of a training"""
    return train_check(ground, "csv", lambda p: holes(good(p)))


# --- NIfTI --------------------------------------------------------------------------------------------------------


def nifti(
    dims: Sequence[int],
    datatype: int = 4,
    bits: int = 16,
    data: bytes | None = None,
    offset: float = 352.0,
    extension: bytes = b"\0\0\0\0",
    units: int = 2,
    slope: float = 1.0,
) -> bytes:
    """Bytes of a NIfTI-1 file: header, extension, values (zeros of ``dims`` by default)."""
    head = bytearray(348)
    head[0:4] = struct.pack("<i", 348)
    head[40:56] = struct.pack("<8h", len(dims), *dims, *(1,) * (7 - len(dims)))
    head[70:74] = struct.pack("<2h", datatype, bits)
    head[76:108] = struct.pack("<8f", 1, 1, 1, 3, 0, 0, 0, 0)
    head[108:120] = struct.pack("<3f", offset, slope, 0)
    head[123] = units
    head[252:256] = struct.pack("<2h", 0, 1)
    for row in range(3):
        head[280 + 16 * row : 296 + 16 * row] = struct.pack("<4f", *(float(column == row) for column in range(4)))
    head[344:348] = b"n+1\0"
    if data is None:
        data = bytes(int(np.prod(dims, dtype=object)) * bits // 8)
    return bytes(head) + extension + data


def _nifti(name: str, suffix: str, make: Make, about: str, *expected: str, **limits: Any) -> None:
    def command(ground: Ground, bad: Path) -> Command:
        return Command("medi2i.tools.nifti", (bad, "-o", ground.folder / "out", "-m", "CT"), check=_nothing_left)

    one_bad(name, NIFTI, suffix, make, about, *(expected or (REFUSED,)), command=command, **limits)


def _nothing_left(seen: Seen, folder: Path) -> str | None:
    if seen.status and [path for path in (folder / "out").rglob("*") if path.is_file()]:
        return "refused, and files were written"
    return None


def _gz_bomb(dims: Sequence[int], count: int) -> Make:
    head = nifti(dims, 16, 32, b"")

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(gzip.compress(head))
            block = gzip.compress(bytes(1 << 27))
            for _ in range(count):
                file.write(block)

    return make


def _sparse_nifti(path: Path) -> None:
    path.write_bytes(nifti((2000, 2000, 1500), 4, 16, b""))
    holes(path)


_nifti("nii-gz-bomb", "nii.gz", _gz_bomb((4000, 4000, 80), 39), "gzipped NIfTI of 5 MB that unpacks to 5 GB")
_nifti(
    "nii-gz-bomb-small", "nii.gz", _gz_bomb((8, 8, 3), 67), "gzipped NIfTI of 8×8×3 with 9 GB behind it", REFUSED, DONE
)
_nifti("nii-gz-truncated", "nii.gz", lambda p: gzip.compress(nifti((40, 40, 9)))[:-60], "gzipped NIfTI, cut off")
_nifti(
    "nii-gz-crc",
    "nii.gz",
    lambda p: gzip.compress(nifti((9, 9, 9)))[:-8] + bytes(8),
    "gzipped NIfTI, wrong CRC",
    REFUSED,
    DONE,
)
_nifti("nii-dims-7", "nii", lambda p: nifti((32767,) * 7, data=b""), "NIfTI of 32767⁷ voxels in 352 bytes")
_nifti("nii-dims-3", "nii", lambda p: nifti((32767,) * 3, data=b""), "NIfTI of 32767³ voxels in 352 bytes")
_nifti("nii-dims-gz", "nii.gz", lambda p: gzip.compress(nifti((32767,) * 3, data=b"")), "the same, gzipped")
_nifti("nii-dims-negative", "nii", lambda p: nifti((-5, 5, 5), data=bytes(999)), "NIfTI of -5 columns")
_nifti("nii-dims-0", "nii", lambda p: nifti((0, 5, 5), data=bytes(999)), "NIfTI of no columns")
_nifti("nii-sparse", "nii", _sparse_nifti, "sparse NIfTI of 12 GB that holds what it says", large=True)
_nifti(
    "nii-sparse-tail",
    "nii",
    lambda p: (p.write_bytes(nifti((9, 9, 9))), holes(p))[:0],
    "a good NIfTI with 12 GB of holes behind it",
    REFUSED,
    DONE,
    large=True,
)
_nifti("nii-offset-far", "nii", lambda p: nifti((9, 9, 9), offset=1e30), "NIfTI whose values start at 10³⁰")
_nifti(
    "nii-offset-negative",
    "nii",
    lambda p: nifti((9, 9, 9), offset=-352.0),
    "NIfTI whose values start at -352",
    REFUSED,
    DONE,
)
_nifti(
    "nii-offset-nan",
    "nii",
    lambda p: nifti((9, 9, 9), offset=float("nan")),
    "NIfTI whose values start nowhere",
    REFUSED,
    DONE,
)
_nifti(
    "nii-extension",
    "nii",
    lambda p: nifti((9, 9, 9), offset=2.0**31, extension=b"\1\0\0\0" + struct.pack("<2i", 2**31 - 16, 4)),
    "NIfTI with an extension of 2 GB",
)
_nifti(
    "nii-extension-sparse",
    "nii",
    lambda p: (
        p.write_bytes(nifti((9, 9, 9), offset=2.0**32, extension=b"\1\0\0\0" + struct.pack("<2i", 2**31 - 16, 4))),
        holes(p),
    )[:0],
    "the same, its 2 GB there as holes",
    REFUSED,
    DONE,
    large=True,
)
_nifti("nii-type-128", "nii", lambda p: nifti((9, 9, 9), 128, 24), "NIfTI of colours")
_nifti("nii-type-32", "nii", lambda p: nifti((9, 9, 9), 32, 64), "NIfTI of complex numbers", REFUSED, DONE)
_nifti("nii-type-1", "nii", lambda p: nifti((9, 9, 9), 1, 1), "NIfTI of bits")
_nifti("nii-type-unknown", "nii", lambda p: nifti((9, 9, 9), 999, 16), "NIfTI of a type that is none")
_nifti(
    "nii-slope-huge",
    "nii",
    lambda p: nifti((9, 9, 9), data=bytes(range(243)) * 6, slope=3e38),
    "NIfTI whose values overflow",
)
_nifti("nii-text", "nii", lambda p: b"not a NIfTI file\n" * 99, "text called .nii")
_nifti("nii-empty", "nii", lambda p: b"", "empty NIfTI")
_nifti("nii-zeros", "nii.gz", lambda p: gzip.compress(bytes(99)) + zeros(1 << 20), "gzip of no NIfTI, junk behind it")


@case("nii-like", NIFTI, REFUSED, DONE)
def nifti_as_model(ground: Ground) -> Command:
    """gzipped NIfTI of 9 GB as --like of nifti.py"""
    for index in range(3):
        good(ground / f"in/{index}.dcm", index)
    _gz_bomb((48, 40, 3), 67)(ground / "like.nii.gz")
    return Command(
        "medi2i.tools.nifti",
        (ground.folder / "in", "-o", ground.folder / "out.nii.gz", "--like", ground.folder / "like.nii.gz"),
    )
