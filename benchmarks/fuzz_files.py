"""Damage pictures, npy, NIfTI and models in many ways and put each through its reader, in processes that may die.

    python benchmarks/fuzz_files.py KIND [--cases 2000] [--seed 0] [--first 0] [--only CASE] [--keep FOLDER]

KIND is png, tif, npy, nii or npz. Mutations are bit flips, truncations, and values chosen to hurt where the format
keeps sizes, types and offsets; packed parts are damaged before they are packed as well as after, and checksums are
made right again. A case passes if the file is read, or refused with a reason, and what was read can be written and
read back. The rest is as in fuzz_dicom.py.
"""

import functools
import gzip
import io
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
import tifffile
from fuzz import flip_bits, truncate
from PIL import Image

from medi2i.common.errors import UserError
from medi2i.common.networks.files import load_link, save_link
from medi2i.common.networks.from_options import encoder_spec
from medi2i.common.networks.generator import Encoder
from medi2i.common.options.paired import PairedOptions
from medi2i.datasets import nifti_volume
from medi2i.datasets.catalogue import describe
from medi2i.datasets.reading import read_image
from medi2i.datasets.writing import write_image

WORDS = (0, 1, 2, 3, 7, 8, 16, 255, 4096, 0x7FFF, 0x8000, 0xFFFF, 10**6, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "4",
    "41",
    "999",
    "65536",
    "2147483648",
    "9223372036854775807",
    "18446744073709551616",
    "9" * 400,
    "1e9",
    "True",
    "None",
    "",
    "(1,)",
    "'<f4'",
)


def stored(shape: tuple[int, ...] = (24, 20), top: int = 255, kind: type = np.uint8) -> np.ndarray:
    """Whole numbers up to ``top``, the same each time."""
    return np.random.default_rng(5).integers(0, top + 1, shape).astype(kind)


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    """The bytes that ``write(stream)`` writes."""
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def word(
    data: bytearray,
    rng: np.random.Generator,
    places: Sequence[int],
    formats: Sequence[str] = ("<H", "<I", "<Q"),
    values: Sequence[int] = WORDS,
) -> bytearray:
    """A number at one of ``places`` becomes one that hurts."""
    form = formats[int(rng.integers(len(formats)))]
    size = struct.calcsize(form)
    inside = [place for place in places if place + size <= len(data)]
    if inside:
        value = values[int(rng.integers(len(values)))] % (1 << 8 * size)
        place = inside[rng.integers(len(inside))]
        data[place : place + size] = struct.pack(form, value)
    return data


# --- PNG ----------------------------------------------------------------------------------------------------------


def png_seeds(folder: Path) -> dict[str, bytes]:
    grey, colour = stored(), stored((24, 20, 3))
    pictures = {
        "grey": Image.fromarray(grey),
        "colour": Image.fromarray(colour),
        "grey16": Image.fromarray(stored(top=65535, kind=np.uint16)),
        "bits": Image.fromarray(grey > 128),
        "palette": Image.fromarray(colour).quantize(9),
        "alpha": Image.fromarray(stored((24, 20, 4))),
        "grey-alpha": Image.fromarray(grey).convert("LA"),
    }
    return {name: saved(partial(picture.save, format="png")) for name, picture in pictures.items()}


def chunks(data: bytes | bytearray) -> list[list]:
    """[[name, body]] of a PNG as far as it goes; what follows is lost."""
    found, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append([bytes(data[at + 4 : at + 8]), bytearray(data[at + 8 : at + 8 + size])])
        at += 12 + size
    return found


def joined(found: list[list]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in found
    )


def png_header(data: bytearray, rng: np.random.Generator) -> bytes:
    """A size, the depth or the colour of IHDR, with its checksum."""
    found = chunks(data)
    if found and len(found[0][1]) == 13:
        body = found[0][1]
        if rng.random() < 0.6:
            word(body, rng, (0, 4), (">I",))
        else:
            body[rng.integers(8, 13)] = rng.integers(256)
    return joined(found)


def png_pixels(data: bytearray, rng: np.random.Generator) -> bytes:
    """The unpacked pixels, packed again: damaged, shorter, or far longer than they should be."""
    found = chunks(data)
    for entry in found:
        if entry[0] == b"IDAT":
            try:
                body = bytearray(zlib.decompress(entry[1]))
            except zlib.error:
                continue
            choice = rng.integers(3)
            longer = min(20000, (1 << 28) // max(len(body), 1))
            body = flip_bits(body, rng) if choice == 0 else body[: len(body) // 2] if choice == 1 else body * longer
            entry[1] = zlib.compress(bytes(body))
    return joined(found)


def png_chunk(data: bytearray, rng: np.random.Generator) -> bytes | bytearray:
    """A chunk is left out, stands twice, changes its place or its name, or a packed text comes in."""
    found = chunks(data)
    if not found:
        return data
    one, other = rng.integers(len(found), size=2)
    choice = rng.integers(5)
    if choice == 0:
        del found[one]
    elif choice == 1:
        found.insert(other, found[one])
    elif choice == 2:
        found[one], found[other] = found[other], found[one]
    elif choice == 3:
        names = (b"IDAT", b"PLTE", b"tRNS", b"IEND", b"acTL", b"fdAT", b"gAMA", b"eXIf", b"iCCP")
        found[one][0] = names[rng.integers(len(names))]
    else:
        name, head = ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"))[rng.integers(3)]
        found.insert(1, [name, bytearray(head + zlib.compress(bytes(int(rng.choice([10, 10**5, 10**8])))))])
    return joined(found)


# --- TIFF ---------------------------------------------------------------------------------------------------------


def tif_seeds(folder: Path) -> dict[str, bytes]:
    grey, colour = stored((48, 40)), stored((48, 40, 3))

    def written(array: np.ndarray, **options: Any) -> bytes:
        return saved(lambda stream: tifffile.imwrite(stream, array, metadata=None, **options))

    def by_pillow(compression: str) -> bytes:
        return saved(lambda stream: Image.fromarray(grey).save(stream, "tiff", compression=compression))

    return {
        "grey": written(grey),
        "grey16": written(stored((48, 40), 65535, np.uint16)),
        "big-endian": written(stored((48, 40), 65535, np.uint16), byteorder=">"),
        "float": written(grey.astype(np.float32)),
        "signed": written(grey.astype(np.int16) - 99),
        "deflate": written(grey, compression="zlib"),
        "predictor": written(grey, compression="zlib", predictor=True),
        "tiles": written(grey, tile=(16, 16), compression="zlib"),
        "strips": written(grey, rowsperstrip=5),
        "big": written(grey, bigtiff=True),
        "colour": written(colour, photometric="rgb"),
        "planes": written(colour.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
        "pages": written(np.stack([grey, grey]), photometric="minisblack"),
        "lzw": by_pillow("tiff_lzw"),
        "packbits": by_pillow("packbits"),
        "jpeg": by_pillow("jpeg"),
    }


def tags(data: bytearray) -> tuple[list[int], int, str]:
    """(places of the directory's entries, bytes of an entry, byte order) of the first directory."""
    order = ">" if data[:2] == b"MM" else "<"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    start, count, size = (16, 8, 20) if big else (8, 2, 12)
    offset = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0] if len(data) > start else 0
    if offset + count > len(data):
        return [], size, order
    number = int.from_bytes(data[offset : offset + count], "big" if order == ">" else "little")
    return [offset + count + size * n for n in range(min(number, 99))], size, order


def tif_tag(data: bytearray, rng: np.random.Generator) -> bytearray:
    """The name, the type, the count or the value of a tag."""
    places, size, order = tags(data)
    part = int(rng.integers(4))
    if part < 2:
        return word(
            data,
            rng,
            [place + 2 * part for place in places],
            (order + "H",),
            (*WORDS, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 339),
        )
    wide = order + ("Q" if size == 20 else "I")
    at = 4 if part == 2 else size - struct.calcsize(wide)
    return word(data, rng, [place + at for place in places], (wide, order + "H"))


def tif_next(data: bytearray, rng: np.random.Generator) -> bytearray:
    """The place of the first directory, or of the next one."""
    places, size, order = tags(data)
    after = [places[-1] + size] if places else []
    return word(data, rng, [4, *after], (order + "I",), (0, 4, 8, 9, len(data) - 2, 0xFFFFFFFF))


# --- npy ----------------------------------------------------------------------------------------------------------


def npy_seeds(folder: Path) -> dict[str, bytes]:
    arrays = {
        "float": stored().astype(np.float32) / 255,
        "double": stored().astype(float),
        "bytes": stored(),
        "fortran": np.asfortranarray(stored().astype(np.float32)),
        "channels": stored((3, 24, 20)).astype(np.float32),
        "big-endian": stored().astype(">i4"),
        "bool": stored() > 100,
        "half": stored().astype(np.float16),
    }
    return {name: saved(partial(np.save, arr=array)) for name, array in arrays.items()}


def npy_number(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A number in the header becomes another text; its length is made right in four of five."""
    end = data.find(b"\n")
    found = list(re.finditer(rb"[0-9]+|True|False", data[10:end])) if end > 10 else []
    if found:
        match = found[rng.integers(len(found))]
        new = NUMBERS[rng.integers(len(NUMBERS))].encode()
        header = data[10 : 10 + match.start()] + new + data[10 + match.end() : end + 1]
        size = len(header) if rng.random() < 0.8 else int(WORDS[rng.integers(len(WORDS))])
        data = data[:8] + struct.pack("<H", size % 65536) + header + data[end + 1 :]
    return data


def npy_type(data: bytearray, rng: np.random.Generator) -> bytes:
    """Another type of the values."""
    types = (b"|O", b"<f8", b"<c16", b"|S9", b"<U999999", b"|V8", b"<M8[s]", b"|b1", b"<u8", b"<f2", b"x", b"")
    return re.sub(rb"'[<>|=][a-zA-Z][0-9]*'", b"'" + types[rng.integers(len(types))] + b"'", bytes(data), count=1)


# --- NIfTI --------------------------------------------------------------------------------------------------------


def nii_seeds(folder: Path) -> dict[str, bytes]:
    import nibabel

    found = {}
    for name, kind, suffix in (
        ("int16", np.int16, "nii"),
        ("float", np.float32, "nii"),
        ("packed", np.int16, "nii.gz"),
        ("bytes", np.uint8, "nii.gz"),
        ("double", float, "nii"),
    ):
        path = folder / f"{name}.{suffix}"
        image = nibabel.Nifti1Image(stored((9, 8, 7)).astype(kind), np.diag([-1.0, -1.0, 3.0, 1.0]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)
        found[name] = path.read_bytes()
    return found


def nii_field(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Sizes, type, offset, scale or units of the header."""
    kind = rng.integers(4)
    if kind == 0:
        return word(data, rng, range(40, 56, 2), ("<H",))
    if kind == 1:
        return word(
            data,
            rng,
            (0, 68, 70, 72, 123, 252, 254, 344, 348, 352),
            ("<H", "<I"),
            (*WORDS, 4, 16, 32, 64, 128, 512, 1024, 1536, 2304),
        )
    floats = (float("nan"), float("inf"), -1.0, 0.0, 1e30, -1e30, 1e-30, 352.5, 2.0**31, 2.0**62)
    place = int(rng.choice([76, 80, 84, 88, 108, 112, 116, 256, 260, 264, 280, 284, 296, 312, 324]))
    if len(data) >= place + 4:
        data[place : place + 4] = struct.pack("<f", floats[rng.integers(len(floats))])
    return data


_pack = functools.partial(gzip.compress, compresslevel=1, mtime=0)


def gzipped(data: bytes, rng: np.random.Generator) -> tuple[bytes, Callable[[bytes], bytes]]:
    """A gzipped file is damaged behind its packing, or (one in five) as it is; one in ten others is packed."""
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.8:
        return gzip.decompress(data), _pack
    return data, _pack if data[:2] != b"\x1f\x8b" and rng.random() < 0.1 else bytes


# --- models -------------------------------------------------------------------------------------------------------


@functools.cache
def network() -> Encoder:
    return Encoder(encoder_spec(PairedOptions(gen_chs=[4, 8], gen_nblock=1), 1))


def npz_seeds(folder: Path) -> dict[str, bytes]:
    save_link(folder / "a.npz", network())
    with np.load(folder / "a.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez_compressed(folder / "b.npz", **arrays)
    np.savez(
        folder / "c.npz",
        **{name: array.astype(np.float16) if array.dtype.kind == "f" else array for name, array in arrays.items()},
    )
    return {name: (folder / f"{name}.npz").read_bytes() for name in "abc"}


def npz_member(data: bytearray, rng: np.random.Generator) -> bytes | bytearray:
    """A member is damaged as an npy file is, and the archive is whole: renamed, twice, left out, or far longer."""
    try:
        with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
            members: list[list[Any]] = [[name, archive.read(name)] for name in archive.namelist()]
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
        MemoryError,
    ):
        return data
    if not members:
        return data
    chosen = members[rng.integers(len(members))]
    choice = rng.integers(7)
    if choice < 4:
        step = (npy_number, npy_type, flip_bits, truncate)[choice]
        chosen[1] = bytes(step(bytearray(chosen[1]), rng)) if len(chosen[1]) > 20 else b""
    elif choice == 4:
        chosen[0] = ("../x.npy", "x" * 9999, "c0/\0.npy", "", "c0", "a.npz")[rng.integers(6)]
    elif choice == 5:
        name = "extra.npy" if rng.random() < 0.5 else chosen[0]
        members.append([name, chosen[1] + bytes(int(rng.choice([9, 10**8])))])
    else:
        members.remove(chosen)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def npz_directory(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Flags, method, sizes, checksum or place of a member, in the archive's directory."""
    places = [match.start() for match in re.finditer(rb"PK\x01\x02", bytes(data))]
    at = int(rng.choice([8, 10, 16, 20, 24, 28, 30, 34, 42]))
    data = word(data, rng, [place + at for place in places], ("<H", "<I"), (*WORDS, 8, 9, 12, 14, 99))
    if rng.random() < 0.2:  # the end of the directory, too
        ends = [match.start() for match in re.finditer(rb"PK\x05\x06", bytes(data))]
        data = word(data, rng, [end + 8 + 2 * n for end in ends for n in range(6)], ("<H", "<I"))
    return data


# --- attempts -----------------------------------------------------------------------------------------------------


def picture(path: Path, out: Path, kind: str) -> str:
    """Describe, read, write and read again."""
    found = describe([path], path.parent, kind)
    for labels in (False, True):
        try:
            image = read_image(path, kind, labels=labels)
        except UserError as error:
            if labels or found.volumes and kind == "npy":
                continue
            return "refused: " + fuzz.in_words(str(error).split(": ", 1)[-1])
        if not np.isfinite(image.array).all() or image.array.dtype != np.float32 or image.array.ndim != 3:
            raise AssertionError(f"read as {image.array.dtype} of shape {image.array.shape}")
        for source in found.sources if not labels else []:
            if source.shape != image.array.shape:
                raise AssertionError(f"described as {source.shape}, read as {image.array.shape}")
        if kind == "npy" or image.array.shape[0] in (1, 3):
            bits = None if kind == "tif" else 8
            write_image(out, image.array, kind, bits=bits)
            again = read_image(out, kind).array
            if kind != "png" and not np.array_equal(again, image.array):
                raise AssertionError(f"{again.shape} reads back otherwise than {image.array.shape}")
    return "read and written"


def volume(path: Path, out: Path) -> str:
    """Read, write and read again."""
    try:
        found = nifti_volume.read(path)
    except UserError as error:
        return "refused: " + fuzz.in_words(str(error).split(": ", 1)[-1])
    try:
        nifti_volume.write(out, found, force=True)
    except UserError as error:
        return "not written: " + fuzz.in_words(str(error).split(": ", 1)[-1])
    again = nifti_volume.read(out)
    if not np.array_equal(again.values, found.values):
        raise AssertionError("reads back otherwise")
    return "read and written"


def model(path: Path, out: Path) -> str:
    """Load into a network: all of it, finite, or nothing."""
    link = network()
    before = {name: parameter.array.copy() for name, parameter in link.namedparams()}
    try:
        load_link(path, link)
    except UserError as error:
        if any(not np.array_equal(parameter.array, before[name]) for name, parameter in link.namedparams()):
            raise AssertionError("refused, and some weights were loaded") from None
        return "refused: " + fuzz.in_words(str(error).split(": ", 1)[-1])
    if not all(np.isfinite(parameter.array).all() for parameter in link.params()):
        raise AssertionError("weights that are not finite were loaded")
    for name, parameter in link.namedparams():
        parameter.array[...] = before[name]
    return "loaded"


FLIPS = (flip_bits, flip_bits, truncate)
SUBJECTS = {
    "png": fuzz.Subject(
        ".png",
        png_seeds,
        (*FLIPS, png_header, png_header, png_pixels, png_chunk),
        functools.partial(picture, kind="png"),
        "grey",
        least=40,
    ),
    "tif": fuzz.Subject(
        ".tif",
        tif_seeds,
        (*FLIPS, tif_tag, tif_tag, tif_tag, tif_next),
        functools.partial(picture, kind="tif"),
        "grey",
        least=40,
    ),
    "npy": fuzz.Subject(
        ".npy",
        npy_seeds,
        (*FLIPS, npy_number, npy_number, npy_type),
        functools.partial(picture, kind="npy"),
        "float",
        least=40,
    ),
    "nii": fuzz.Subject(".nii.gz", nii_seeds, (*FLIPS, nii_field, nii_field, nii_field), volume, "packed", gzipped),
    "npz": fuzz.Subject(".npz", npz_seeds, (*FLIPS, npz_member, npz_member, npz_directory), model, "a"),
}


def main(argv: list[str] | None = None) -> int:
    parser = fuzz.parser(__doc__, 2000)
    parser.add_argument("kind", choices=list(SUBJECTS))
    args = parser.parse_args(argv)
    return fuzz.run(SUBJECTS[args.kind], args)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
