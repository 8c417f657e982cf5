"""Convert a CT series in many transfer syntaxes (identity model) and let other DICOM software judge the results.

    python benchmarks/dicom_conformance.py FOLDER [--slices 0] [--syntaxes …] [--keep FOLDER]

The syntaxes are made by DCMTK and GDCM, not by what reads them here. For each: dciodvfy must find no error that the
source does not have, dcentvfy none over the series, dcmdump and gdcminfo read every file, and dcm2niix gives the
geometry and the HU of the source. Needs dicom3tools, DCMTK, GDCM and dcm2niix (Debian has all of them). Ends with
status 1 if anything differs, 77 if a tool is missing.
"""

import argparse
import collections
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pydicom

from medi2i.datasets import dicom
from medi2i.pix2pix import convert

SYNTAXES = {
    "explicit": (["cp"], "1.2.840.10008.1.2.1"),
    "implicit": (["dcmconv", "+ti"], "1.2.840.10008.1.2"),
    "big-endian": (["dcmconv", "+tb"], "1.2.840.10008.1.2.2"),
    "deflated": (["dcmconv", "+td"], "1.2.840.10008.1.2.1.99"),
    "rle": (["dcmcrle"], "1.2.840.10008.1.2.5"),
    "jpeg-lossless": (["dcmcjpeg", "+e1"], "1.2.840.10008.1.2.4.70"),
    "jpeg-ls": (["dcmcjpls", "+el"], "1.2.840.10008.1.2.4.80"),
    "jpeg-2000": (["gdcmconv", "--j2k"], "1.2.840.10008.1.2.4.90"),
}
JUDGES = ("dciodvfy", "dcentvfy", "dcmdump", "gdcminfo", "dcm2niix")
CLIP = (-1024, 3071)


def output_of(*command: object) -> tuple[int, str]:
    """(status, text) of a program, its two streams together."""
    done = subprocess.run([str(part) for part in command], capture_output=True)
    return done.returncode, (done.stdout + done.stderr).decode("latin-1")


def errors_of(tool: str, *paths: Path) -> collections.Counter[str]:
    """The error lines of dciodvfy or dcentvfy, counted."""
    return collections.Counter(line for line in output_of(tool, *paths)[1].splitlines() if line.startswith("Error"))


def volume_of(folder: Path, out: Path) -> tuple[bytes, np.ndarray]:
    """(geometry as in the NIfTI header, values) that dcm2niix makes of the only series in a folder."""
    out.mkdir()
    status, text = output_of("dcm2niix", "-b", "n", "-z", "n", "-f", "v", "-o", out, folder)
    volumes = sorted(out.glob("*.nii"))
    if status or len(volumes) != 1:
        raise AssertionError(f"dcm2niix makes {len(volumes)} volumes of {folder} (status {status}): {text}")
    data = volumes[0].read_bytes()
    return data[40:56] + data[76:108] + data[252:328], np.frombuffer(data[352:], np.int16)


def check(sources: Sequence[Path], syntax: str, folder: Path, expected: tuple[bytes, np.ndarray]) -> list[str]:
    """What is wrong (lines) with the conversion of ``sources`` in ``syntax``. expected: their ``volume_of``."""
    packed, out = folder / "in", folder / "out"
    packed.mkdir(parents=True)
    command, uid = SYNTAXES[syntax]
    for path in sources:
        status, text = output_of(*command, path, packed / path.name)
        if status:
            return [f"{command[0]} fails: {text}"]
        found = str(pydicom.dcmread(packed / path.name, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        if found != uid:
            return [f"{command[0]} made {found}, not {uid}"]
    arguments = ["-m", "identity", "-R", packed, "-o", out, "-ca", *CLIP]
    if convert.main([str(a) for a in arguments]):
        return ["the conversion failed"]
    results = [out / path.name for path in sources]
    problems = []
    for source, result in zip(sources, results, strict=True):
        before = errors_of("dciodvfy", source) | errors_of("dciodvfy", packed / source.name)
        problems += [f"dciodvfy {result.name}: {line}" for line in errors_of("dciodvfy", result) - before]
        status, text = output_of("dcmdump", "-q", "+P", "SOPInstanceUID", result)
        if status or any(mark in text for mark in ("E:", "W:", "F:")):
            problems.append(f"dcmdump {result.name}: {text}")
        status, text = output_of("gdcminfo", result)
        if status or "Explicit VR Little Endian" not in text:
            problems.append(f"gdcminfo {result.name}: {text}")
        image = pydicom.dcmread(source)
        hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        if not np.array_equal(dicom.read(result).hu, hu):
            problems.append(f"{result.name}: HU differ from the source's")
    problems += [f"dcentvfy: {line}" for line in errors_of("dcentvfy", *results)]
    geometry, values = volume_of(out, folder / "nii")
    if geometry != expected[0]:
        problems.append("dcm2niix: another geometry")
    if not np.array_equal(values, expected[1]):
        problems.append("dcm2niix: other HU")
    return problems


def missing(syntaxes: Iterable[str]) -> list[str]:
    """Programs that are needed and not there."""
    return sorted({p for p in (*JUDGES, *(SYNTAXES[s][0][0] for s in syntaxes)) if shutil.which(p) is None})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", type=Path, help="folder with the files of one CT series, uncompressed")
    parser.add_argument("--slices", type=int, default=0, help="only so many, from the middle; default: all")
    parser.add_argument("--syntaxes", nargs="+", default=list(SYNTAXES), choices=list(SYNTAXES), metavar="NAME")
    parser.add_argument("--keep", type=Path, help="folder for what is made; default: a temporary one")
    args = parser.parse_args(argv)
    if missing(args.syntaxes):
        print(f"not installed: {', '.join(missing(args.syntaxes))}", file=sys.stderr)
        return 77
    (series,) = dicom.scan(args.series).require_series()
    first = (len(series.paths) - args.slices) // 2 if args.slices else 0
    sources = series.paths[first : first + args.slices] if args.slices else series.paths
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        plain = folder / "source"
        plain.mkdir(parents=True)
        sources = [Path(shutil.copy(path, plain)) for path in sources]
        expected = volume_of(plain, folder / "nii")
        failed = 0
        for syntax in args.syntaxes:
            problems = check(sources, syntax, folder / syntax, expected)
            print(f"{syntax}: {len(sources)} slices, {len(problems) or 'no'} problem(s)", *problems[:10], sep="\n  ")
            failed += bool(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
