"""Damage DICOM files in many ways and put each through the reader and the writer, in worker processes that may die.

    python benchmarks/fuzz_dicom.py [--cases 10000] [--seed 0] [--first 0] [--only CASE] [--keep FOLDER]

Seeds are the images of pydicom's wheel (and of the pydicom-data package where it is installed) and phantoms in every
syntax that pydicom can write, with an enhanced, a padded and a deflated one. Mutations are bit flips, truncations,
swapped tags and values, wrong lengths, and values chosen to hurt. A case passes if the file is read, or skipped with a
reason, and what was read can be written and read back; it is a finding if anything else is raised, if the process
dies, if it takes more than 5 s of processor time, or if memory grows by more than --max-pixels allows. The same
seed makes the same cases. Ends with status 1 if there are findings.
"""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import fuzz
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from medi2i.common.errors import UserError
from medi2i.datasets import dicom
from medi2i.datasets.dicom.encoding import encode
from medi2i.datasets.dicom.new_series import DerivedSeries
from medi2i.tools.make_phantom import series_of
from medi2i.tools.making.phantom import phantom
from medi2i.tools.scan import as_json, as_text

WHEEL = """
    693_J2KI.dcm CT_small.dcm J2K_pixelrep_mismatch.dcm MR_small.dcm MR_small_RLE.dcm MR_small_bigendian.dcm
    MR_small_implicit.dcm MR_small_jp2klossless.dcm MR_small_jpeg_ls_lossless.dcm MR_small_padded.dcm
    examples_overlay.dcm dicomdirtests/77654033/CT2/17106 dicomdirtests/98892003/MR2/4981 dicomdirtests/DICOMDIR
    rtplan.dcm reportsi.dcm color-px.dcm""".split()
EXTRA = """
    bad_sequence.dcm eCT_Supplemental.dcm emri_small.dcm emri_small_RLE.dcm emri_small_big_endian.dcm
    emri_small_jpeg_2k_lossless.dcm emri_small_jpeg_ls_lossless.dcm explicit_VR-UN.dcm 693_J2KR.dcm""".split()
HURTFUL = {
    "US": [struct.pack("<H", v) for v in (0, 1, 2, 7, 8, 12, 16, 17, 32, 255, 4096, 0x7FFF, 0x8000, 0xFFFF)],
    "number": [
        b"0",
        b"-1",
        b"1",
        b"2",
        b"1e308 ",
        b"-1e308",
        b"1e-310",
        b"nan ",
        b"inf ",
        b"",
        b"1,5 ",
        b"\\",
        b"1\\2",
        b"999999999 ",
        b"2147483648",
        b"0.0000000000001",
        b"\xff\xfe",
        b"1e999 ",
    ],
    "text": [
        b"",
        b"\0\0",
        b"\xff\xff\xff\xff",
        b"CT",
        b"MR",
        b"..",
        b"1.2.",
        b"1" * 65,
        b"\\\\\\\\",
        b"ISO_IR 192",
        b"\\ISO 2022 IR 87",
        b"\x1b$B!!",
        b"MONOCHROME1 ",
        b"LOCALIZER ",
        b"1.2.840.10008.1.2.1.99",
        b"1.2.840.10008.1.2.4.90",
        b"1.2.840.10008.1.2.5 ",
        b"1.2.840.10008.1.2 ",
    ],
}
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}


# --- seeds and mutations ------------------------------------------------------------------------------------------


def phantoms(folder: Path) -> dict[str, Path]:
    """Files of a phantom, 64×48, in several syntaxes; made anew each time, always the same."""
    made = phantom((48, 64), 3, 1, 0, None)
    series = series_of(made, 1, 0)
    plain = [series.image(index, encode(hu, series.encoding, None)) for index, hu in enumerate(made.hu)]
    files = {}

    def save(name: str, dataset: Dataset) -> None:
        files[f"phantom-{name}"] = folder / name
        dataset.save_as(folder / name, enforce_file_format=True)

    save("plain", plain[0])
    deflated = pydicom.dcmread(files["phantom-plain"])
    deflated.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    save("deflated", deflated)
    for name, syntax in (("rle", RLELossless), ("j2k", JPEG2000Lossless)):
        packed = pydicom.dcmread(files["phantom-plain"])
        packed.compress(syntax, generate_instance_uid=False)
        save(name, packed)
    padded = pydicom.dcmread(files["phantom-plain"])
    padded.add_new("PixelPaddingValue", "US", 24)
    padded.add_new("PixelPaddingRangeLimit", "US", 0)
    padded.PhotometricInterpretation = "MONOCHROME1"
    save("padded", padded)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.ModalityLUTType = "HU"
    table.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    lookup = pydicom.dcmread(files["phantom-plain"])
    lookup.ModalityLUTSequence = [table]
    del lookup.RescaleSlope, lookup.RescaleIntercept
    save("lookup", lookup)
    return files


def seeds(folder: Path) -> dict[str, bytes]:
    """{name: bytes} of all files to be damaged."""
    files = phantoms(folder)
    roots = [(Path(pydicom.__file__).parent / "data/test_files", WHEEL)]
    try:
        import data_store

        roots.append((Path(data_store.__file__).parent / "data", EXTRA))
    except ImportError:
        pass
    files |= {name: root / name for root, names in roots for name in names if (root / name).is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items())}


def elements(data: bytes) -> list[tuple]:
    """[(tag, VR, start of the tag, start of the value, length)] of the top level of a file; [] if it does not parse."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        raws = [holder.get_item(tag) for holder in (dataset.file_meta, dataset) for tag in list(holder.keys())]
    except Exception:  # a file damaged before: whatever pydicom makes of it
        return []
    found = []
    for raw in raws:
        tell, length = getattr(raw, "value_tell", None), getattr(raw, "length", None)
        if tell and length is not None and length != 0xFFFFFFFF:
            explicit = not getattr(raw, "is_implicit_VR", True)
            found.append((raw.tag, raw.VR, tell - (12 if explicit and raw.VR in LONG else 8), tell, length))
    return found


def inflate(data: bytes) -> tuple[bytes, bytes, bool]:
    """(head, body, True) with the deflated body unpacked, or (data, b"", False)."""
    if b"1.2.840.10008.1.2.1.99" not in data[:1024]:
        return data, b"", False
    start = 144 + struct.unpack("<I", data[140:144])[0]
    return data[:start], zlib.decompress(data[start:], -zlib.MAX_WBITS), True


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def flip_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Bits behind the preamble."""
    return fuzz.flip_bits(data, rng, 132)


def swap_tags(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Two elements exchange their tags, or their values where they are equally long."""
    found = elements(bytes(data))
    if len(found) < 2:
        return data
    one, two = (found[i] for i in rng.choice(len(found), 2, replace=False))
    if rng.random() < 0.7 or one[4] != two[4]:
        a, b = one[2], two[2]
        data[a : a + 4], data[b : b + 4] = data[b : b + 4], data[a : a + 4]
    else:
        a, b, n = one[3], two[3], one[4]
        data[a : a + n], data[b : b + n] = data[b : b + n], data[a : a + n]
    return data


def wrong_length(data: bytearray, rng: np.random.Generator) -> bytearray:
    """The length of an element becomes another."""
    found = elements(bytes(data))
    if not found:
        return data
    _, vr, start, value, _ = found[rng.integers(len(found))]
    size = 2 if value - start == 8 and vr is not None and data[start + 4 : start + 6].isalpha() else 4
    choices = [0, 1, 2, 0xFFFF] if size == 2 else [0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
    data[value - size : value] = int(rng.choice(choices)).to_bytes(size, "little")
    return data


def hurtful_value(data: bytearray, rng: np.random.Generator) -> bytearray:
    """An element gets a value that is legal in form and wrong in meaning, or neither; one in three is of the pixels."""
    found = elements(bytes(data))
    pixel = [e for e in found if e[0].group == 0x28]
    found = pixel if pixel and rng.random() < 0.7 else found
    if not found:
        return data
    _, vr, start, value, length = found[rng.integers(len(found))]
    kind = "US" if vr in ("US", "SS") else "number" if vr in ("DS", "IS") else "text"
    choices = HURTFUL[kind if rng.random() < 0.9 else "text"]
    new = choices[rng.integers(len(choices))]
    new += b" " * (len(new) % 2)
    size = 2 if data[start + 4 : start + 6].isalpha() and value - start == 8 else 4
    data[value - size : value] = len(new).to_bytes(size, "little")
    data[value : value + length] = new
    return data


MUTATIONS = (flip_bits, flip_bits, fuzz.truncate, swap_tags, wrong_length, hurtful_value, hurtful_value)


def wrapped(data: bytes, rng: np.random.Generator) -> tuple[bytes, Callable[[bytes], bytes]]:
    """A deflated file is damaged behind its packing, or (one in five) as it is."""
    head, body, packed = inflate(data)
    if not (packed and rng.random() < 0.8):
        return data, bytes
    return head + body, lambda data: data[: len(head)] + deflate(data[len(head) :]) if len(data) > len(head) else data


# --- one case -----------------------------------------------------------------------------------------------------


def attempt(path: Path, out: Path) -> str:
    """Scan, read and write a file. Returns what came of it; raises what should never be raised."""
    headers = dicom.scan([path], decode=False, workers=1)
    found = dicom.scan([path], workers=1)
    for one in (headers, found):
        list(as_text(one))
        as_json(one)
    if not found.series:
        return "skipped: " + fuzz.in_words(found.skipped[0].reason)
    for series in found.series:
        series.affine()
        for item in series.slices[:2]:
            image = dicom.read(item.path, item.frame)
            derived = DerivedSeries(image.header, model_name="identity", description="fuzz", value_range=None)
            try:
                report = derived.write(out, image, image.hu, mask=image.mask, force=True)
            except UserError as error:
                return "not written: " + fuzz.in_words(str(error).split(": ", 1)[-1])
            again = dicom.read(out)
            if report.clipped == 0 and image.modality == "CT" and image.slope == 1 and image.mask is None:
                difference = np.abs(again.hu - image.hu).max()
                if difference > 0.5 + 1e-6 * np.abs(image.hu).max():
                    raise AssertionError(f"reads back {difference} HU away")
    return "read and written"


SUBJECT = fuzz.Subject(".dcm", seeds, MUTATIONS, attempt, "phantom-plain", wrapped)

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(fuzz.run(SUBJECT, fuzz.parser(__doc__, 10_000).parse_args()))
