"""Damage DICOM files in many ways and put each through the reader and the writer, in worker processes that may die.

    python benchmarks/fuzz_dicom.py [--cases 10000] [--seed 0] [--first 0] [--only CASE] [--keep FOLDER]

Seeds are the images of pydicom's wheel (and of the pydicom-data package where it is installed) and phantoms in every
syntax that pydicom can write, with an enhanced, a padded and a deflated one. Mutations are bit flips, truncations,
swapped tags and values, wrong lengths, and values chosen to hurt. A case passes if the file is read, or skipped with a
reason, and what was read can be written and read back; it is a finding if anything else is raised, if the process
dies, if it takes more than 5 s of processor time, or if memory grows by more than --max-pixels allows. The same
seed makes the same cases. Ends with status 1 if there are findings.
"""

import argparse
import collections
import io
import multiprocessing
import os
import re
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from medi2i.common.errors import UserError
from medi2i.datasets import dicom
from medi2i.datasets.derived import DerivedSeries
from medi2i.tools.make_phantom import ct_image
from medi2i.tools.making.phantom import phantom

MAX_PIXELS = 1 << 20
CPU_SECONDS = 5
WALL_SECONDS = 120
MEMORY_LIMIT = 160 * MAX_PIXELS + (32 << 20)
"""Bytes by which a case may grow the process: some arrays of double precision of the largest image allowed."""

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
    "number": [b"0", b"-1", b"1", b"2", b"1e308 ", b"-1e308", b"1e-310", b"nan ", b"inf ", b"", b"1,5 ", b"\\", b"1\\2",
               b"999999999 ", b"2147483648", b"0.0000000000001", b"\xff\xfe", b"1e999 "],
    "text": [b"", b"\0\0", b"\xff\xff\xff\xff", b"CT", b"MR", b"..", b"1.2.", b"1" * 65, b"\\\\\\\\", b"ISO_IR 192",
             b"\\ISO 2022 IR 87", b"\x1b$B!!", b"MONOCHROME1 ", b"LOCALIZER ", b"1.2.840.10008.1.2.1.99",
             b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.5 ", b"1.2.840.10008.1.2 "],
}
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}


# --- seeds and mutations ------------------------------------------------------------------------------------------


def phantoms(folder):
    """Files of a phantom, 64×48, in several syntaxes; made anew each time, always the same."""
    made = phantom((48, 64), 3, 1, 0, None)
    plain = [ct_image(made, index, 1, 0) for index in range(3)]
    files = {}

    def save(name, dataset):
        files[f"phantom-{name}"] = folder / name
        dataset.save_as(folder / name, enforce_file_format=True)
        return pydicom.dcmread(folder / name)

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


def seeds(folder):
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


def elements(data):
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


def inflate(data):
    """(head, body, True) with the deflated body unpacked, or (data, b"", False)."""
    if b"1.2.840.10008.1.2.1.99" not in data[:1024]:
        return data, b"", False
    start = 144 + struct.unpack("<I", data[140:144])[0]
    return data[:start], zlib.decompress(data[start:], -zlib.MAX_WBITS), True


def deflate(body):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def flip_bits(data, rng):
    """1 to 64 bits, anywhere, or in the first 2 kB where the header is."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 2048)
    for place in rng.integers(132, max(end, 133), rng.choice([1, 2, 4, 16, 64])):
        data[min(place, len(data) - 1)] ^= 1 << rng.integers(8)
    return data


def truncate(data, rng):
    return data[: rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 4096))]


def swap_tags(data, rng):
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


def wrong_length(data, rng):
    """The length of an element becomes another."""
    found = elements(bytes(data))
    if not found:
        return data
    _, vr, start, value, _ = found[rng.integers(len(found))]
    size = 2 if value - start == 8 and vr is not None and data[start + 4 : start + 6].isalpha() else 4
    choices = [0, 1, 2, 0xFFFF] if size == 2 else [0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
    data[value - size : value] = int(rng.choice(choices)).to_bytes(size, "little")
    return data


def hurtful_value(data, rng):
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


MUTATIONS = (flip_bits, flip_bits, truncate, swap_tags, wrong_length, hurtful_value, hurtful_value)


def mutated(files, seed, case):
    """(bytes, description) of a case: one to three mutations of one seed."""
    rng = np.random.default_rng([seed, case])
    name = list(files)[rng.integers(len(files))]
    head, body, packed = inflate(files[name])
    packed = packed and rng.random() < 0.8  # else the deflated stream itself is damaged
    data = bytearray(head + body if packed else files[name])
    steps = [MUTATIONS[rng.integers(len(MUTATIONS))] for _ in range(rng.choice([1, 1, 2, 3]))]
    for step in steps:
        data = step(data, rng) if len(data) > 200 else data
    if packed and len(data) > len(head):
        data = data[: len(head)] + deflate(bytes(data[len(head) :]))
    return bytes(data), f"{name}: {', '.join(step.__name__ for step in steps)}"


# --- one case -----------------------------------------------------------------------------------------------------


def attempt(path, out):
    """Scan, read and write a file. Returns what came of it; raises what should never be raised."""
    headers = dicom.scan([path], decode=False, max_pixels=MAX_PIXELS, workers=1)
    found = dicom.scan([path], max_pixels=MAX_PIXELS, workers=1)
    for one in (headers, found):
        list(dicom.as_text(one))
        dicom.as_json(one)
    if not found.series:
        return "skipped: " + re.sub(r"[0-9][0-9.,e+]*", "#", found.skipped[0].reason.split("(")[0])[:60]
    for series in found.series:
        series.affine()
        for item in series.slices[:2]:
            image = dicom.read(item.path, item.frame, max_pixels=MAX_PIXELS)
            derived = DerivedSeries(image.header, model_name="identity", description="fuzz", value_range=None)
            try:
                report = derived.write(out, image, image.hu, mask=image.mask, force=True)
            except UserError as error:
                return "not written: " + re.sub(r"[0-9][0-9.,e+]*", "#", str(error).split(": ", 1)[-1])[:60]
            again = dicom.read(out)
            if report.clipped == 0 and image.modality == "CT" and image.slope == 1 and image.mask is None:
                difference = np.abs(again.hu - image.hu).max()
                if difference > 0.5 + 1e-6 * np.abs(image.hu).max():
                    raise AssertionError(f"reads back {difference} HU away")
    return "read and written"


def grown(pid="self", reset=False):
    """Peak resident memory of the process in bytes since the last reset (Linux), else 0."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", text).group(1))


def work(pipe, seed, folder):
    """Worker process: takes numbers of cases, answers (case, outcome, finding or None, bytes grown, seconds)."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process: it counts processor time, so a busy machine
    files = seeds(folder)  # makes no false alarm
    path, out = folder / "mutated", folder / "out.dcm"
    path.write_bytes(files["phantom-plain"])
    attempt(path, out)
    while (case := pipe.recv()) is not None:
        data, _ = mutated(files, seed, case)
        path.write_bytes(data)
        before, started, finding = grown(reset=True), time.process_time(), None
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            outcome = attempt(path, out)
        except Exception as error:  # this is what is looked for
            outcome, finding = type(error).__name__, traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        growth = max(0, grown() - before)
        if growth > MEMORY_LIMIT:
            finding = finding or f"memory grew by {growth >> 20} MB"
        pipe.send((case, outcome, finding, growth, time.process_time() - started))


class Worker:
    """A process that is started again when it dies."""

    def __init__(self, seed):
        self.seed, self.case = seed, None
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz")
        self.start()

    def start(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=work, args=(end, self.seed, Path(self.folder.name)), daemon=True)
        self.process.start()
        end.close()

    def run(self, case):
        """Answer of ``work``, also where the process did not live to give it."""
        self.pipe.send(case)
        try:
            if self.pipe.poll(WALL_SECONDS):
                return self.pipe.recv()
            self.process.kill()
            finding = f"no answer after {WALL_SECONDS} s"
        except EOFError:
            finding = None
        self.process.join()
        code = self.process.exitcode
        if finding is None:
            hung = code == -signal.SIGPROF
            finding = f"more than {CPU_SECONDS} s of processor time" if hung else f"the process died (exit code {code})"
        self.start()
        return case, "died", finding, 0, 0.0

    def stop(self):
        self.pipe.send(None)
        self.process.join()
        self.folder.cleanup()


def run_cases(cases, seed, report):
    """All answers, in order. report(answer) is called after each."""
    worker = Worker(seed)
    answers = []
    for case in cases:
        answers.append(worker.run(case))
        report(answers[-1])
    worker.stop()
    return answers


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, in this process, with its traceback")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        files = seeds(Path(name))
        if args.only is not None:
            data, what = mutated(files, args.seed, args.only)
            path = Path(args.keep or name, f"case{args.only}.dcm")
            path.write_bytes(data)
            print(what, path, sep="\n")
            print(attempt(path, Path(name, "out.dcm")))
            return 0
    started = time.monotonic()

    def report(answer):
        case, _, finding, _, _ = answer
        if finding is not None:
            data, what = mutated(files, args.seed, case)
            print(f"FINDING case {case}, {what}\n{finding}", flush=True)
            if args.keep is not None:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"case{case}.dcm").write_bytes(data)
        elif (case + 1) % 1000 == 0:
            print(f"{case + 1 - args.first} cases, {time.monotonic() - started:.0f} s", flush=True)

    answers = run_cases(range(args.first, args.first + args.cases), args.seed, report)
    for outcome, number in collections.Counter(a[1] for a in answers).most_common():
        print(f"{number:6d}  {outcome}")
    found = sum(a[2] is not None for a in answers)
    print(
        f"{len(answers)} files of {len(files)} seeds: {found} finding(s); "
        f"at most {max(a[4] for a in answers):.2f} s and {max(a[3] for a in answers) >> 20} MB a file "
        f"(limits: {CPU_SECONDS} s, {MEMORY_LIMIT >> 20} MB); {time.monotonic() - started:.0f} s in all"
    )
    return int(found > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
