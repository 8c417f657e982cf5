"""What a hostile case is, and the good files that lie beside the bad ones: images of each kind, a model, a run."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hostile_watch import Seen
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

GB = 1 << 30
SPARSE = 12 * 10**9
"""Size in bytes of files that are nearly all holes: no disk is needed for them, memory would be."""

Build = Callable[["Ground"], "Command"]
Make = Callable[[Path], object]
"""Writes a file, or returns its bytes or its data set."""
Check = Callable[[Seen, Path], str | None]
"""(what was seen, folder of the case) -> a finding."""

CASES: dict[str, "Case"] = {}
PARTS: dict[str, list] = {}
REFUSED, LEFT_OUT, DONE = "refused", "left out", "done"


@dataclass(frozen=True)
class Case:
    """``build(ground)`` makes files below ``ground.folder`` and returns a ``Command``.

    ``kind`` is the heading of the page's table. ``expected``: outcomes that are right. ``seconds`` of processor time
    and ``memory`` (bytes) bound the command. ``large``: too slow or too big for the test suite. ``part``: the case that
    runs this one together with others; on its own it runs only when it is named.
    """

    name: str
    kind: str
    build: Build
    expected: tuple[str, ...]
    seconds: float
    memory: int
    large: bool
    part: str = ""

    @property
    def about(self) -> str:
        return " ".join((self.build.__doc__ or self.name).split())


@dataclass(frozen=True)
class Command:
    """A command of this project: module and arguments.

    ``bad``: names of files that must be told of and not used. ``good``: results that must be there.
    ``check(seen, folder)`` gives a finding, or None. ``limit``: seconds of real time.
    """

    module: str
    arguments: tuple[object, ...]
    bad: tuple[str, ...] = ()
    good: tuple[Path, ...] = ()
    check: Check | None = None
    limit: float | None = None


def case(
    name: str, kind: str, *expected: str, seconds: float = 20.0, memory: int = GB, large: bool = False, part: str = ""
) -> Callable[[Build], Build]:
    """Registers a function as the builder of a case."""

    def register(build: Build) -> Build:
        if name in CASES:
            raise ValueError(f"{name}: two cases of this name")
        CASES[name] = Case(name, kind, build, expected or (REFUSED, LEFT_OUT), seconds, memory, large, part)
        return build

    return register


class Ground:
    """Where a case is built: ``folder`` is its own, ``shared`` is made once and lent to all of one interpreter."""

    def __init__(self, folder: Path, shared: Path, python: str) -> None:
        self.folder, self.shared, self.python = Path(folder), Path(shared), python
        self.folder.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def run(self) -> Path:
        """A run folder of a small pix2pix for pictures; trained the first time, then copied."""
        return self._copy("pictures", "png")

    def dicom_run(self) -> Path:
        """The same for DICOM."""
        return self._copy("dicom", "dcm")

    def _copy(self, name: str, kind: str) -> Path:
        made = self.shared / name
        if not made.is_dir():
            data = self.shared / f"{name}-data"
            for side in ("trainA", "trainB"):
                for index in range(2):
                    good(data / side / f"{index}.{kind}", index)
            self.call("medi2i.pix2pix.train", "-R", data, "-o", self.shared / f"{name}-result", *SMALL)
            made.parent.mkdir(exist_ok=True)
            (trained,) = (self.shared / f"{name}-result").glob("2*")
            shutil.copytree(trained, made)
        target = self.folder / "run"
        shutil.copytree(made, target)
        return target

    def call(self, module: str, *arguments: object) -> None:
        """Run a command that has to succeed, to make good files with."""
        done = subprocess.run(
            [self.python, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=self.folder,
        )
        if done.returncode:
            raise RuntimeError(f"{module} fails on good files: {done.stderr}")


SMALL = "-gc 4 8 -dc 4 8 -e 1 -cw 32 -ch 32 --workers 0 -g -1 --nvis 0 --snapshot_minutes 0".split()
"""Options of a training that takes seconds."""


def values(index: int = 0, shape: tuple[int, ...] = (40, 48)) -> np.ndarray:
    """Whole numbers from 0 to 2000: a disc in noise."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    disc = (rows - shape[0] / 2) ** 2 + (columns - shape[1] / 2) ** 2 < min(shape) ** 2 / 9
    noise = np.random.default_rng(index).integers(0, 200, shape)
    return (noise + np.where(disc, 1800, 0)).astype(np.uint16)


def dataset(stored: np.ndarray, index: int = 0, **more: Any) -> Dataset:
    """A CT slice (pydicom data set) with the stored values (H, W) or (frames, H, W)."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.4.1.{index + 1}")
    made.SeriesInstanceUID, made.StudyInstanceUID, made.FrameOfReferenceUID = "1.2.3.4.1", "1.2.3.4", "1.2.3.4.9"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.Modality, made.PatientID, made.PatientName = "CT", "P1", "P1"
    made.StudyDate = made.SeriesDate = made.ContentDate = "20200101"
    made.StudyTime, made.StudyID, made.SeriesNumber, made.InstanceNumber = "120000", "1", 1, index + 1
    made.PixelSpacing, made.SliceThickness = [1, 1], 3
    made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * index]
    made.Rows, made.Columns = stored.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * stored.dtype.itemsize
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits, bits - 1, 0
    made.RescaleSlope, made.RescaleIntercept = "1", "-1024"
    if stored.ndim == 3:
        made.NumberOfFrames = len(stored)
    made.add_new(0x7FE00010, "OW" if bits > 8 else "OB", stored.tobytes())
    for name, value in more.items():
        setattr(made, name, value)
    return made


def save(made: Dataset, path: Path) -> Path:
    """Write a data set as a DICOM file; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def good(path: Path, index: int = 0) -> Path:
    """An image that every command takes, of the kind that the name says; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, array = path.suffix[1:], values(index)
    if kind == "npy":
        np.save(path, array / 1000 - 1)
    elif kind in ("csv", "txt"):
        np.savetxt(path, array / 1000 - 1, delimiter="," if kind == "csv" else "\t")
    elif kind in ("png", "tif", "jpg", "bmp"):
        Image.fromarray((array // 8).astype(np.uint8)).save(path)
    else:
        save(dataset(array, index), path)
    return path


def holes(path: Path, size: int = SPARSE) -> Path:
    """Let a file go on with zeros to ``size`` bytes, without the disk; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)
    return path


def convert(
    ground: Ground, where: Path | str, *more: object, bad: Sequence[str] = (), beside: str | None = None, **command: Any
) -> Command:
    """Identity conversion of ``where`` into ``out``. beside: kind of a good image put there, to be converted, too."""
    results: tuple[Path, ...] = ()
    if beside is not None:
        good(Path(where) / f"good.{beside}", 7)
        results = (ground.folder / f"out/good.{beside}",)
    return Command(
        "medi2i.pix2pix.convert",
        ("-m", "identity", "-R", where, "-o", ground.folder / "out", *more),
        bad=tuple(bad),
        good=results,
        **command,
    )


def scan(where: Path | str, *more: object, **command: Any) -> Command:
    return Command("medi2i.tools.scan", (where, *more), **command)


def train_check(ground: Ground, kind: str, build: Make, *more: object, **command: Any) -> Command:
    """``train --check`` on two good pairs and a third whose first image ``build(path)`` makes."""
    for side in ("trainA", "trainB"):
        for index in range(3):
            good(ground / f"data/{side}/{index}.{kind}", index)
    bad = ground.folder / f"data/trainA/1.{kind}"
    bad.unlink()
    build(bad)
    return Command(
        "medi2i.pix2pix.train", ("-R", ground.folder / "data", *SMALL, "--check", *more), bad=(bad.name,), **command
    )


def evaluate(ground: Ground, **command: Any) -> Command:
    """evaluate.py over the folders in, true and out."""
    folder = ground.folder
    return Command(
        "medi2i.tools.evaluate",
        ("-i", folder / "in", "-t", folder / "true", "-c", f"mine={folder / 'out'}", "-o", folder / "evaluation"),
        **command,
    )


def one_bad(
    name: str,
    kind: str,
    suffix: str,
    make: Make,
    about: str,
    *expected: str,
    command: Callable[[Ground, Path], Command] | None = None,
    check: Check | None = None,
    part: str = "",
    **limits: Any,
) -> None:
    """A case of one bad file ``bad.suffix`` beside a good one of its kind.

    ``make(path)`` writes it, or returns its bytes or its data set. ``command(ground, bad)`` runs it; default: the
    folder is converted. ``part``: see ``Case``.
    """

    def build(ground: Ground) -> Command:
        path = made_by(make, ground / f"in/bad.{suffix}")
        if command is not None:
            return command(ground, path)
        bad = () if DONE in expected else (path.name,)
        return convert(ground, path.parent, bad=bad, beside=suffix, check=check)

    build.__doc__ = about
    case(name, kind, *expected, part=part, **limits)(build)
    if part:
        PARTS.setdefault(part, []).append((name, suffix, make, about, DONE in expected))


def together(part: str, kind: str, **limits: Any) -> None:
    """A case of all bad files that are a part of it, in one folder, beside a good one."""
    parts = PARTS[part]

    def build(ground: Ground) -> Command:
        for name, suffix, make, *_ in parts:
            made_by(make, ground / f"in/{name}.{suffix}")
        bad = [f"{name}.{suffix}" for name, suffix, _, _, usable in parts if not usable]
        return convert(ground, ground.folder / "in", bad=bad, beside=parts[0][1])

    build.__doc__ = f"{len(parts)} in one folder: " + "; ".join(about for *_, about, _ in parts)
    case(part, kind, LEFT_OUT, **limits)(build)


def made_by(make: Make, path: Path) -> Path:
    """The path, after ``make(path)`` wrote it or returned its bytes or its data set."""
    made = make(path)
    if isinstance(made, Dataset):
        save(made, path)
    elif isinstance(made, bytes):
        path.write_bytes(made)
    return path
