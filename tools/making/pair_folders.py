"""What tools that make the inputs of pairs share: trainA for what is made, trainB for the clean images, pairs.txt.

Which files become which, under which names; one task an image, in any number of processes; what is told in the end.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medi2i.common.errors import UserError, counted
from medi2i.datasets import catalogue, dicom, kinds
from medi2i.datasets.dicom.derived_series import DerivedSeries
from medi2i.datasets.dicom.scanning import run_parallel
from medi2i.datasets.outputs import whole_file

FOLDERS = ("trainA", "trainB")


@dataclass(frozen=True)
class Task:
    """One image to change: a frame of a file, the names (below trainA and trainB) and what its series becomes."""

    path: Path
    frame: int
    frames: int
    name: str
    repeat: int = 0
    series: DerivedSeries | None = None
    clean_series: DerivedSeries | None = None


@dataclass(frozen=True)
class Done:
    """What happened to an image. ``problem`` is set where it was left out."""

    name: str
    saturated: int = 0
    pixels: int = 0
    problem: str = ""


def check_folders(root: Path, out: Path, force: bool) -> None:
    """UserError unless the output is a place of its own: outputs would become inputs of the next run."""
    if not root.exists():
        raise UserError(f"--root: {root}: no such folder")
    here, there = root.resolve(), out.resolve()
    if there == here or here in there.parents or (root.is_file() and there == here.parent):
        raise UserError(f"--out: {out} is the input folder or lies in it; a folder beside {root} would be right")
    if any((out / name).is_dir() and any((out / name).iterdir()) for name in FOLDERS) and not force:
        raise UserError(f"--out: {out} holds images already; another folder, or --force to overwrite")


def is_dicom(root: Path, imgtype: str) -> tuple[bool, str]:
    """Whether the images below the root are DICOM, and their kind ("auto" where only their content says)."""
    kind = imgtype if imgtype != "auto" or root.is_file() else catalogue.find_files(root)[0]
    return kind in ("auto", "dcm") and (kind == "dcm" or kinds.kind_of(root) in (None, "dcm")), kind


def dicom_tasks(
    root: Path,
    series_of: Callable[[Dataset, int], DerivedSeries],
    model_name: str,
    *,
    modalities: tuple[str, ...],
    workers: int | None,
    repeats: int = 1,
    clean: str = "single frames of an enhanced image",
) -> tuple[list[Task], list[dicom.Skipped]]:
    """All slices below the root, in order of their series, and what was skipped.

    series_of(header, repeat): the series that a source series becomes. model_name, clean: of the clean images' series,
    where these cannot be copies of their files.
    """
    scan = dicom.scan(root, modalities=modalities, decode=False, progress=True, workers=workers)
    taken: set[str] = set()
    tasks = []
    for series in scan.require_series():
        header = dicom.read(first_readable(series), modalities=modalities).header
        clean_series = DerivedSeries(header, model_name=model_name, description=clean)
        made = [series_of(header, repeat) for repeat in range(repeats)]
        for item in series.slices:
            name = name_of(item, root, taken)
            tasks.extend(
                Task(
                    item.path,
                    item.frame,
                    item.frames,
                    realisation(name, repeat, repeats),
                    repeat,
                    made[repeat],
                    clean_series,
                )
                for repeat in range(repeats)
            )
    return tasks, scan.skipped


def first_readable(series: dicom.Series) -> Path:
    """The first file whose pixels decode; the last one tried raises its own reason."""
    for path in series.paths[:-1]:
        try:
            dicom.read(path, modalities=(series.modality,))
            return path
        except dicom.Unreadable:
            continue
    return series.paths[-1]


def name_of(item: dicom.SliceRef, root: Path, taken: set[str]) -> str:
    """The file's place below the root, ending in .dcm, with the frame's number where there are several; never given
    twice."""
    place = item.path.relative_to(root) if root.is_dir() else Path(item.path.name)
    base = kinds.name_without_suffix(listable(place.as_posix()), "dcm")
    base = f"{base}_f{item.frame + 1:04d}" if item.frames > 1 else base
    name, number = f"{base}.dcm", 2
    while name.casefold() in taken:  # IM1 and IM1.dcm; IM1 and im1 on a file system that knows no case
        name, number = f"{base}_{number}.dcm", number + 1
    taken.add(name.casefold())
    return name


def listable(name: str) -> str:
    """A name that a list with tabs between its columns can hold: no line ends, and nothing that is no UTF-8."""
    return re.sub(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]", "_", name)


def realisation(name: str, repeat: int, repeats: int) -> str:
    return name if repeats == 1 else f"noise{repeat + 1:02d}/{name}"


def image_tasks(root: Path, kind: str, repeats: int = 1) -> list[Task]:
    """All images of a kind below the root, or the one that the root is."""
    files = [root] if root.is_file() else catalogue.find_files(root, kind)[1]
    tasks, taken = [], set()
    for path in files:
        place = path.relative_to(root) if root.is_dir() else Path(path.name)
        if kinds.kind_of(path) == "jpg":  # compressing what was made would change it
            place = place.with_suffix(".png")
        place = Path(listable(place.as_posix()))
        name, number = place.as_posix(), 2
        while name.casefold() in taken:
            name, number = f"{place.with_suffix('').as_posix()}_{number}{place.suffix}", number + 1
        taken.add(name.casefold())
        tasks.extend(Task(path, 0, 1, realisation(name, repeat, repeats), repeat) for repeat in range(repeats))
    return tasks


def make_pairs(
    change: Callable[[Task], Done], tasks: list[Task], root: Path, out: Path, *, workers: int | None, progress: str
) -> tuple[list[Done], list[str]]:
    """Do all tasks and list the pairs in OUT/pairs.txt. Returns those done, and a line for each one left out.

    change: writes both images of a task; it crosses processes. UserError where no image could be used.
    """
    done = run_parallel(change, tasks, workers=workers, progress=progress)
    good = [d for d in done if isinstance(d, Done) and not d.problem]
    failed = [
        f"{t.path}: {d.problem if isinstance(d, Done) else d.reason}"
        for t, d in zip(tasks, done, strict=True)
        if not isinstance(d, Done) or d.problem
    ]
    if not good:
        raise UserError(f"{root}: no image could be used; first: {failed[0]}")
    with whole_file(out / "pairs.txt", force=True) as temporary:
        temporary.write_text("".join(f"trainA/{d.name}\ttrainB/{d.name}\n" for d in good), encoding="utf-8")
    return good, failed


def told_losses(good: list[Done], failed: list[str], skipped: list[dicom.Skipped]) -> list[str]:
    """Lines on what reached the end of its range, and on files that were not used."""
    lines = []
    saturated, pixels = sum(d.saturated for d in good), sum(d.pixels for d in good)
    if saturated:
        lines.append(
            f"{saturated} of {pixels} pixels ({100 * saturated / pixels:.2g} %) reached the end of the stored range"
        )
    if skipped or failed:
        lines.append(f"{counted(len(skipped) + len(failed), 'file')} skipped:")
        lines.extend(f"  {text}" for text in [*failed, *(f"{s.path}: {s.reason}" for s in skipped)][:10])
        if len(skipped) + len(failed) > 10:
            lines.append("  … python -m medi2i.datasets.dicom lists them all")
    return lines


def copy_file(source: Path, target: Path, force: bool) -> None:
    """The clean image as it is, byte for byte."""
    if target.exists() and os.path.samefile(source, target):
        raise UserError(f"{target}: is an input; an output never takes its place")
    with whole_file(target, force) as temporary:
        shutil.copyfile(source, temporary)


def refuse_existing(out: Path, name: str, force: bool) -> None:
    """UserError if one of the images of a task is there and ``force`` is not given."""
    for folder in FOLDERS:
        if (out / folder / name).exists() and not force:
            raise UserError(f"{out / folder / name}: exists; --force would overwrite it")
