"""What tools that make the inputs of pairs share: trainA for what is made, trainB for the clean images, pairs.txt.

Which files become which, under which names; one task an image, in any number of processes; what is told in the end.
"""

import contextlib
import re
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common.errors import UserError, counted
from medi2i.common.locks import locked
from medi2i.common.outputs import check_target, whole_file, write_text
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import Skipped, Source, find_files, list_images, list_series, name_below
from medi2i.datasets.dicom.header_checks import text
from medi2i.datasets.dicom.new_series import DerivedSeries
from medi2i.datasets.dicom.scanning import run_parallel
from medi2i.datasets.file_names import kind_of, name_without_suffix
from medi2i.datasets.reading import Image, read_image
from medi2i.datasets.unpacking import unpacked
from medi2i.datasets.writing import write_image
from medi2i.tools.making import noise

FOLDERS = ("trainA", "trainB")
LARGEST_HU = (-3000.0, 8000.0)
"""What HU of trainA must be able to hold where they may leave the source's range: clipping would shift the mean."""


@dataclass(frozen=True)
class Task:
    """One image to change, its name below trainA and trainB, and for DICOM what its series and the clean one become."""

    source: Source
    name: str
    repeat: int
    series: tuple[DerivedSeries, DerivedSeries] | None

    def __fspath__(self) -> str:
        """Its file, as far as anybody else is concerned."""
        return str(self.source.path)


@dataclass(frozen=True)
class Done:
    """A pair that was written: how many of the pixels of what was made reached the end of their range."""

    name: str
    saturated: int
    pixels: int


@dataclass(frozen=True)
class Pair:
    """What was ``made`` of an image, of which ``saturated`` pixels reached the end of their range, and the ``clean``
    image beside it: None where that is the file as it is. Arrays as in the image, HU in CT.

    ``mask``: of the padding in ``made``; ``spacing`` (mm) and ``position`` of ``made`` where its grid is another.
    """

    made: np.ndarray
    saturated: int = 0
    clean: np.ndarray | None = None
    mask: np.ndarray | None = None
    spacing: tuple[float, float] | None = None
    position: tuple[float, float, float] | None = None


class PairMaker(ABC):
    """What a tool makes of each image, by its ``options``: with root, out, seed, modality, imgtype, workers and force.
    Called with a Task, in any process, it does it.

    ``name``: of the tool. ``clean``: description of the series of clean images that cannot be copies of their files.
    """

    name: str
    clean = "single frames of an enhanced image"
    repeats = 1

    def __init__(self, options: Any) -> None:
        self.options = options
        self.workers = options.workers

    def look_at(self, series: dicom.Series) -> None:  # noqa: B027 - most tools have nothing to find
        """Called with each DICOM series before any of its images, in the process that writes none."""

    @abstractmethod
    def series(self, header: Dataset, repeat: int) -> DerivedSeries:
        """What a source series becomes."""

    @abstractmethod
    def of_dicom(self, image: dicom.DicomImage, rng: np.random.Generator) -> Pair:
        """(H, W). Raises Unreadable for an image that cannot be used."""

    @abstractmethod
    def of_plain(self, image: Image, path: Path, rng: np.random.Generator) -> Pair:
        """(C, H, W). Raises Unreadable for an image that cannot be used."""

    def __call__(self, task: Task) -> Done | dicom.Skipped:
        """Write both images. An input that cannot be used is a problem of that image only."""
        try:
            return self._dicom(task, *task.series) if task.series is not None else self._plain(task)
        except dicom.Unreadable as error:
            return dicom.Skipped(task.source.path, error.reason)

    def _dicom(self, task: Task, series: DerivedSeries, clean_series: DerivedSeries) -> Done:
        image = dicom.read(task.source.path, task.source.frame, modalities=tuple(self.options.modality))
        identity = (text(image.header, "SOPInstanceUID"), str(task.source.frame), image.stored.tobytes())
        pair = self.of_dicom(image, self._generator(task, *identity))
        made, clean = self._places(task)
        report = series.write(
            made,
            image,
            pair.made,
            mask=pair.mask,
            spacing=pair.spacing,
            position=pair.position,
            force=self.options.force,
        )
        if pair.clean is None and task.source.frames == 1:
            self._copy(task.source.path, clean)
        else:
            hu = image.hu if pair.clean is None else pair.clean
            mask = None if image.mask is None else image.mask[: hu.shape[0], : hu.shape[1]]
            # What is cut off lies at the end of rows and columns: spacing and position stay.
            spacing = None if pair.clean is None else image.spacing
            clean_series.write(clean, image, hu, mask=mask, spacing=spacing, force=self.options.force)
        return Done(task.name, pair.saturated + report.clipped, pair.made.size)

    def _plain(self, task: Task) -> Done:
        image, kind = read_image(task.source.path), kind_of(task.name)
        pair = self.of_plain(image, task.source.path, self._generator(task, image.array.tobytes()))
        made, clean = self._places(task)
        for place in (made, clean):
            check_target(place, [], self.options.force)
        saturated = pair.saturated + write_image(made, pair.made, kind, bits=image.bits)
        if pair.clean is None and kind_of(task.source.path) == kind:
            self._copy(task.source.path, clean)
        else:
            write_image(clean, image.array if pair.clean is None else pair.clean, kind, bits=image.bits)
        return Done(task.name, saturated, pair.made.size)

    def _generator(self, task: Task, *identity: bytes | str) -> np.random.Generator:
        return noise.generator_for(self.options.seed, task.repeat, *identity)

    def _places(self, task: Task) -> list[Path]:
        return [Path(self.options.out, folder, task.name) for folder in FOLDERS]

    def _copy(self, source: Path, target: Path) -> None:
        """The clean image as it is, byte for byte."""
        check_target(target, [source], self.options.force)
        with whole_file(target, self.options.force) as temporary:
            shutil.copyfile(source, temporary)


def make_pairs(maker: PairMaker, progress: str) -> tuple[int, list[str]]:
    """Find the images, write their pairs and list them in OUT/pairs.txt. Returns how many there are, and lines on what
    reached the end of its range and which files were not used. UserError where no image could be used."""
    root, out = unpacked(maker.options.root), Path(maker.options.out)
    with locked(out, "writing"):
        check_folders(root, out, maker.options.force)
        tasks, skipped = find_tasks(root, maker)
        done = run_parallel(maker, tasks, workers=maker.workers, progress=progress)
        good = [one for one in done if isinstance(one, Done)]
        failed = [f"{one.path}: {one.reason}" for one in done if isinstance(one, dicom.Skipped)]
        if not good:
            raise UserError(f"{root}: no image could be used; first: {failed[0]}")
        write_text(out / "pairs.txt", "".join(f"trainA/{one.name}\ttrainB/{one.name}\n" for one in good))
    lines = []
    saturated, pixels = sum(one.saturated for one in good), sum(one.pixels for one in good)
    if saturated:
        share = f"{100 * saturated / pixels:.2g} %"
        lines.append(f"{saturated} of {pixels} pixels ({share}) reached the end of the stored range")
    unused = [*failed, *(f"{one.path}: {one.reason}" for one in skipped)]
    if unused:
        lines += [f"{counted(len(unused), 'file')} skipped:", *(f"  {one}" for one in unused[:10])]
    if len(unused) > 10:
        lines.append("  … python tools/scan.py lists them all")
    return len(good), lines


def check_folders(root: Path, out: Path, force: bool) -> None:
    """UserError unless the output is a place of its own: outputs would become inputs of the next run."""
    if not root.exists():
        raise UserError(f"--root: {root}: no such folder")
    here, there = root.resolve(), out.resolve()
    if there == here or here in there.parents or (root.is_file() and there == here.parent):
        raise UserError(f"--out: {out} is the input folder or lies in it; a folder beside {root} would be right")
    if any((out / name).is_dir() and any((out / name).iterdir()) for name in FOLDERS) and not force:
        raise UserError(f"--out: {out} holds images already; another folder, or --force to overwrite")


def find_tasks(root: Path, maker: PairMaker) -> tuple[list[Task], list[Skipped]]:
    """All images of one kind below the root, or the one that the root is; DICOM in the order of its series. And what
    was skipped."""
    kind, modalities = maker.options.imgtype, tuple(maker.options.modality)
    if kind == "auto":
        kind = (kind_of(root) or "dcm") if root.is_file() else find_files(root)[0]
    if kind == "dcm":
        found = list_series(root, modalities, maker.workers)
    else:
        files = [root] if root.is_file() else find_files(root, kind)[1]
        found = list_images([((path,), name_below(path, root)) for path in files], kind)
    taken: set[str] = set()
    tasks = []
    for volume in found.volumes:
        series: list[tuple[DerivedSeries, DerivedSeries] | None] = [None] * maker.repeats
        if volume.series is not None:
            header = first_header(volume.series)
            maker.look_at(volume.series)
            clean = DerivedSeries(header, model_name=maker.name, description=maker.clean)
            series = [(maker.series(header, repeat), clean) for repeat in range(maker.repeats)]
        for source in volume.sources:
            name = name_of(source.name, source.kind, source, taken)
            for repeat, both in enumerate(series):
                below = "" if maker.repeats == 1 else f"noise{repeat + 1:02d}/"
                tasks.append(Task(source, below + name, repeat, both))
    return tasks, found.skipped


def first_header(series: dicom.Series) -> Dataset:
    """That of the first file whose pixels decode; the last one tried raises its own reason."""
    for path in series.paths[:-1]:
        with contextlib.suppress(dicom.Unreadable):
            return dicom.read(path, modalities=(series.modality,)).header
    return dicom.read(series.paths[-1], modalities=(series.modality,)).header


def name_of(name: str, kind: str, image: Source | dicom.SliceRef, taken: set[str]) -> str:
    """``name`` with the suffix of what is written of a kind, and the frame's number where a file has several; never
    given twice. A list with tabs between its columns can hold it: no line ends, and nothing that is no UTF-8."""
    plain = re.sub(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]", "_", name)
    base = name_without_suffix(plain, kind)
    # DICOM may have any suffix or none; to compress what was made would change it.
    suffix = {"dcm": ".dcm", "jpg": ".png"}.get(kind, plain[len(base) :])
    base = f"{base}_f{image.frame + 1:04d}" if image.frames > 1 else base
    name, number = f"{base}{suffix}", 2
    while name.casefold() in taken:  # IM1 and IM1.dcm; IM1 and im1 on a file system that knows no case
        name, number = f"{base}_{number}{suffix}", number + 1
    taken.add(name.casefold())
    return name
