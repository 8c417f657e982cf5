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
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import Skipped, Source, find_files, list_images, list_series, name_below
from medi2i.datasets.dicom.derived_series import DerivedSeries
from medi2i.datasets.dicom.scanning import run_parallel
from medi2i.datasets.kinds import kind_of, name_without_suffix
from medi2i.datasets.outputs import whole_file

FOLDERS = ("trainA", "trainB")


@dataclass(frozen=True)
class Task:
    """One image to change, its name below trainA and trainB, and for DICOM what its series and the clean one become."""

    source: Source
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


def find_tasks(
    root: Path,
    imgtype: str,
    series_of: Callable[[Dataset, int], DerivedSeries],
    model_name: str,
    *,
    modalities: tuple[str, ...],
    workers: int | None,
    repeats: int = 1,
    clean: str = "single frames of an enhanced image",
) -> tuple[list[Task], list[Skipped]]:
    """All images of one kind below the root, or the one that the root is; DICOM in the order of its series. And what
    was skipped.

    series_of(header, repeat): the series that a source series becomes. model_name, clean: of the clean images' series,
    where these cannot be copies of their files.
    """
    kind = imgtype if imgtype != "auto" or root.is_file() else find_files(root)[0]
    kind = (kind_of(root) or "dcm") if kind == "auto" else kind
    if kind == "dcm":
        found = list_series(root, modalities, workers)
    else:
        files = [root] if root.is_file() else find_files(root, kind)[1]
        found = list_images([((path,), name_below(path, root)) for path in files], kind)
    taken: set[str] = set()
    tasks = []
    for volume in found.volumes:
        made: list[DerivedSeries | None] = [None] * repeats
        clean_series = None
        if volume.series is not None:
            header = dicom.read(first_readable(volume.series), modalities=modalities).header
            clean_series = DerivedSeries(header, model_name=model_name, description=clean)
            made = [series_of(header, repeat) for repeat in range(repeats)]
        for source in volume.sources:
            name = name_of(source.name, source.kind, source, taken)
            for repeat, series in enumerate(made):
                below = "" if repeats == 1 else f"noise{repeat + 1:02d}/"
                tasks.append(Task(source, below + name, repeat, series, clean_series))
    return tasks, found.skipped


def first_readable(series: dicom.Series) -> Path:
    """The first file whose pixels decode; the last one tried raises its own reason."""
    for path in series.paths[:-1]:
        try:
            dicom.read(path, modalities=(series.modality,))
            return path
        except dicom.Unreadable:
            continue
    return series.paths[-1]


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


def make_pairs(
    change: Callable[[Task], Done], tasks: list[Task], root: Path, out: Path, *, workers: int | None, progress: str
) -> tuple[list[Done], list[str]]:
    """Do all tasks and list the pairs in OUT/pairs.txt. Returns those done, and a line for each one left out.

    change: writes both images of a task; it crosses processes. UserError where no image could be used.
    """
    done = run_parallel(change, tasks, workers=workers, progress=progress)
    good = [d for d in done if isinstance(d, Done) and not d.problem]
    failed = [
        f"{t.source.path}: {d.problem if isinstance(d, Done) else d.reason}"
        for t, d in zip(tasks, done, strict=True)
        if not isinstance(d, Done) or d.problem
    ]
    if not good:
        raise UserError(f"{root}: no image could be used; first: {failed[0]}")
    with whole_file(out / "pairs.txt", force=True) as temporary:
        temporary.write_text("".join(f"trainA/{d.name}\ttrainB/{d.name}\n" for d in good), encoding="utf-8")
    return good, failed


def told_losses(good: list[Done], failed: list[str], skipped: list[Skipped]) -> list[str]:
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
