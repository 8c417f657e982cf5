"""The recipes of README and docs/ run as they stand, on phantoms and with tiny networks."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medi2i.common.inference.report import find_report
from medi2i.common.options import load_args
from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.cyclegan import train as cyclegan_train
from medi2i.datasets import dicom
from medi2i.datasets.dicom.derived_header import STORAGE
from medi2i.pix2pix import convert, train
from medi2i.tools import evaluate, make_lowres, make_noisy, make_phantom, register, split_pairs

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "pix2pix/train.py": train,
    "pix2pix/convert.py": convert,
    "cyclegan/train.py": cyclegan_train,
    "cyclegan/convert.py": cyclegan_convert,
    "tools/evaluate.py": evaluate,
    "tools/make_lowres.py": make_lowres,
    "tools/make_noisy.py": make_noisy,
    "tools/register.py": register,
    "tools/split_pairs.py": split_pairs,
}
WORDS = {
    "train pix2pix": "pix2pix/train.py",
    "convert": "pix2pix/convert.py",
    "noise": "tools/make_noisy.py",
    "split": "tools/split_pairs.py",
    "evaluate": "tools/evaluate.py",
}
TINY = ["-gc", "2", "4", "-gnb", "1", "-dc", "2", "2", "-cw", "16", "-ch", "16", "-b", "2", "-g", "-1"]
PLACEHOLDER = "result/20260101_120000"


def block(page, number=0):
    """The lines of a code block of a page."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return blocks[number].splitlines()


def unrolled(lines):
    """The same without `for name in values; do … done`."""
    loop = None
    for line in lines:
        if begun := re.fullmatch(r"for (\w+) in (.*); do", line):
            loop = (begun[1], begun[2].split(), [])
        elif line == "done":
            name, values, body = loop
            loop = None
            yield from (text.replace(f"${name}", value) for value in values for text in body)
        elif loop is not None:
            loop[2].append(line.strip())
        else:
            yield line


def typed(line, shorter):
    """Run one line; training is made short, and the newest run stands in the place of the one that is named."""
    for name, script in WORDS.items():
        line = re.sub(rf"^medi2i {name}\b", f"python {script}", line)
    if not line.startswith("python "):
        subprocess.run(["sh", "-ec", line], check=True)
        return
    script, *argv = shlex.split(line, comments=True)[1:]
    if script.endswith("train.py"):
        argv += [*TINY, *shorter]
    if PLACEHOLDER in argv:
        argv[argv.index(PLACEHOLDER)] = str(max(Path("result").iterdir()))
        argv += ["-g", "-1"]
    if "256" in argv:  # the phantom is small
        argv[argv.index("256")] = "32"
        argv[argv.index("1.5")] = "10"
    assert COMMANDS[script].main(argv) == 0, line


@pytest.fixture
def here(tmp_path):
    if not (ROOT / "README.md").is_file():
        pytest.skip("the documentation is not installed")
    before = os.getcwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def phantoms(folder, series, slices=2):
    assert (
        make_phantom.main(["-o", str(folder), "--size", "33", "40", "--slices", str(slices), "--series", str(series)])
        == 0
    )
    return sorted(folder.iterdir())


def test_denoising(here):
    """The first recipe of the README."""
    phantoms(here / "ct", 1, slices=8)
    for line in block("README.md", 1):
        typed(line.replace("/path/to/ct", "ct"), ["--minutes", "0.005", "--nvis", "0"])
    assert (here / "evaluation" / "report.html").is_file() and len(list((here / "converted").rglob("*.dcm"))) == 1


def test_super_resolution(here):
    phantoms(here / "CT", 1, slices=5)
    for line in block("docs/superres.md"):
        typed(line, ["--minutes", "0.005", "--nvis", "0"])
    (run,) = (here / "result").iterdir()
    assert load_args(run).preset == "superres" and any(run.glob("enc_x*.npz"))


def test_super_resolution_from_the_coarse_grid(here):
    phantoms(here / "CT", 1, slices=5)
    making, splitting, training = block("docs/superres.md")
    typed(making.split("#")[0] + "--keep_small", [])
    typed(splitting, [])
    typed(training + " --scale 2", ["--minutes", "0.005", "--nvis", "0"])
    typed(f"python pix2pix/convert.py {PLACEHOLDER} -R data/lowres --val pairs_val.txt -o fine", [])
    for line in (here / "data" / "lowres" / "pairs_val.txt").read_text().splitlines():
        small, large = (dicom.read(here / "data" / "lowres" / column) for column in line.split("\t"))
        result = dicom.read(here / "fine" / line.split("\t")[0])
        assert result.hu.shape == large.hu.shape == (32, 40) and small.hu.shape == (16, 20)
        assert result.spacing == large.spacing
        np.testing.assert_allclose(result.where.position, large.where.position, atol=1e-6)


def as_mr(path, target):
    """A slice that says it is MR, with values of its own."""
    d = pydicom.dcmread(path)
    hu = d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept)
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = STORAGE["MR"]
    d.Modality = "MR"
    d.SeriesInstanceUID += ".1"
    d.SOPInstanceUID += ".1"
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "KVP"):
        d.pop(keyword, None)
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation = 15, 0
    d.PixelData = np.where(hu > -300, 1000 - np.abs(hu).clip(0, 900), 0).astype("<u2").tobytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(target)


def test_mr_to_ct(here):
    for name, folder in zip(("p1", "p2", "p3"), phantoms(here / "made", 3, 4), strict=True):
        for path in sorted(folder.iterdir()):
            as_mr(path, here / "mr" / name / path.name)
            as_mr(path, here / "new" / "mr" / name / path.name)
        (here / "ct").mkdir(exist_ok=True)
        folder.rename(here / "ct" / name)
    for line in unrolled(block("docs/mr_to_ct.md")):
        typed(line, ["-e", "1", "--nvis", "0"])
    results = sorted((here / "as_ct").rglob("*.dcm"))
    assert len(results) == 4 and {dicom.read(path).modality for path in results} == {"CT"}
    assert dicom.read(results[0]).spacing == (10, 10)
    trained = len((here / "data" / "mr2ct" / "pairs_train.txt").read_text().splitlines())
    assert trained == 8  # two patients, and one apart

    for line in block("docs/mr_to_ct.md", 2):
        typed(line, [])
    assert (here / "evaluation/report.html").is_file()
    assert all(len(list((here / folder).iterdir())) == 4 for folder in ("both/trainB/p1", "both/trainA/p1"))
    for path in results:
        path.unlink()
    find_report(here / "as_ct").unlink()
    for line in block("docs/mr_to_ct.md", 1):
        typed(line, ["-e", "1", "--nvis_A", "0", "--nvis_B", "0"])
    assert len(list((here / "as_ct").rglob("*.dcm"))) == 12
