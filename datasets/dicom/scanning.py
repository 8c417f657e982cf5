"""Scanning: files and folders -> series, and a list of what was skipped and why. In parallel where it pays.

Why a file is skipped is decided where it is found out: by values of its header in ``header_checks``, by its pixels in
``pixels`` and ``compressed``, by how it is built in ``parse``.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from medi2i.common.errors import UserError
from medi2i.common.outputs import UNFINISHED, without_ours
from medi2i.common.processes import Died, map_in_processes
from medi2i.common.resources import available_cores
from medi2i.datasets.dicom.grouping import group, natural
from medi2i.datasets.dicom.header_checks import PARSE_ERRORS, VOLUME_MODALITIES, Unreadable, short
from medi2i.datasets.dicom.reading import iter_frames, open_file, read
from medi2i.datasets.dicom.series import Series, SliceRef
from medi2i.datasets.file_names import next_steps

PARALLEL_FROM_SECONDS = 3.0
"""Worker processes cost a second to start: use them when more than this is left to do."""


@dataclass(frozen=True)
class Skipped:
    """A file that was not used, and why. ``name``: where it lies below the root, if that is known. ``crashed``: the
    process that read it died, twice."""

    path: Path
    reason: str
    name: str = ""
    crashed: bool = False

    @property
    def advice(self) -> str:
        """Why, and what would help."""
        return self.reason + next_steps([self.path])


@dataclass
class Scan:
    """What a scan found. ``series`` are sorted by their first file; ``skipped`` in the order of the walk."""

    places: list[Path]
    series: list[Series] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    modalities: tuple[str, ...] = VOLUME_MODALITIES

    def require_series(self) -> list[Series]:
        """The series; UserError that says what was found instead where there is none."""
        if self.series:
            return self.series
        places = ", ".join(map(str, self.places))
        wanted = " or ".join(self.modalities)
        if not self.skipped:
            raise UserError(f"{places}: empty folder; a folder with DICOM {wanted} images would be right")
        reasons = Counter(s.reason.split(" (")[0] for s in self.skipped).most_common(3)
        raise UserError(
            f"{places}: no usable {wanted} image among {len(self.skipped)} file(s): "
            + "; ".join(f"{n} × {reason}" for reason, n in reasons)
        )


def scan(
    places: Path | str | Sequence[Path | str],
    *,
    modalities: tuple[str, ...] = VOLUME_MODALITIES,
    decode: bool = True,
    workers: int | None = None,
    progress: bool = False,
    copies: bool = False,
) -> Scan:
    """Find all CT, MR and PT images in files and folders (by content, recursively) and group them into sorted series.

    decode: also decode every image, so that a damaged one is skipped now and not in the middle of a training; gives
    HU ranges.
    workers: processes, default one per core; the result does not depend on it.
    copies: files that repeat others make series of their own, so that all can be used; else they are skipped.
    Raises UserError where a place does not exist. A file that cannot be used is listed in ``skipped``; it never stops
    the scan.
    """
    result = Scan([Path(p) for p in ([places] if isinstance(places, str | Path) else places)], modalities=modalities)
    paths = list(walk(result.places, result.skipped))
    examine = partial(examine_file, modalities=modalities, decode=decode)
    slices: list[SliceRef] = []
    for found in run_parallel(examine, paths, workers=workers, progress="scanning" if progress else None):
        if isinstance(found, Skipped):
            result.skipped.append(found)
        else:
            slices.extend(found)
    sets, repeated = _without_copies(slices)
    if not copies:
        result.skipped.extend(repeated)
        del sets[1:]
    result.series = [series for one in sets for series in group(one)]
    return result


def walk(places: Iterable[Path], skipped: list[Skipped]) -> Iterator[Path]:
    """All files under the places, each folder in natural order; links are followed, loops are not, and results and runs
    of ours below them are left out with a warning. What cannot be used is added to ``skipped``. UserError for a missing
    place."""
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or folder")
        if not place.is_dir():
            yield place
            continue

        def unreadable(error: OSError) -> None:
            skipped.append(Skipped(Path(error.filename), f"cannot be read ({error.strerror})"))

        for folder, files in folders_below(place, unreadable):
            for name in sorted(files, key=natural):
                if name.startswith(".") and name.endswith(UNFINISHED):
                    skipped.append(Skipped(Path(folder, name), "unfinished: its writer was killed or is still at it"))
                else:
                    yield Path(folder, name)


def folders_below(
    place: Path, unreadable: Callable[[OSError], None] | None = None, hidden: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of ``place`` and what lies in it, in natural order; links are followed, loops are
    not, and results and runs of ours are left out with a warning. unreadable: called for a folder that cannot be read.
    hidden: also those whose names begin with a dot."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(place, onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        chosen = [name for name in folders if hidden or not name.startswith(".")]
        folders[:] = without_ours(folder, sorted(chosen, key=natural))
        yield folder, [name for name in files if hidden or not name.startswith(".")]


def examine_file(path: Path, modalities: tuple[str, ...], decode: bool) -> list[SliceRef] | Skipped:
    """The frames of a file, or the reason why it cannot be used."""
    try:
        if not decode:
            opened = open_file(path, modalities)
            return [opened.headers[frame] for frame in range(opened.layout.frames)]
        found = []
        for image in iter_frames(path, modalities=modalities):
            tissue = image.hu if image.mask is None else image.hu[~image.mask]
            values = tissue if tissue.size else image.hu
            found.append(
                replace(
                    image.where,
                    hu_range=(float(values.min()), float(values.max())),
                    warnings=image.warnings,
                    padded=0 if image.mask is None else int(np.count_nonzero(image.mask)),
                )
            )
        return found
    except Unreadable as error:
        return Skipped(path, error.reason)
    except PARSE_ERRORS as error:
        return Skipped(path, f"damaged DICOM ({type(error).__name__}: {short(error)})")


def _without_copies(slices: list[SliceRef]) -> tuple[list[list[SliceRef]], list[Skipped]]:
    """Sets of slices none of which repeats another one of its set: same UID, place and pixels in another file; the
    first set has one of each. And all files that repeat others. The same UID alone is a writer's mistake, no copy."""
    known: dict[tuple, list[list[SliceRef]]] = defaultdict(list)  # each a slice and its copies
    sets: dict[int, list[SliceRef]] = defaultdict(list)
    repeated = []
    for item in slices:
        key = (item.sop_uid, item.series_uid, item.frame, item.position, item.instance, item.shape, item.hu_range)
        alike = next(
            (
                others
                for others in known[key]
                if item.sop_uid and others[0].path != item.path and _same_pixels(item, others[0])
            ),
            None,
        )
        if alike is None:
            known[key].append(alike := [])
        elif item.frame == 0:
            repeated.append(Skipped(item.path, f"copy of {alike[0].path}"))
        sets[len(alike)].append(item)
        alike.append(item)
    return list(sets.values()), repeated


def _same_pixels(one: SliceRef, other: SliceRef) -> bool:
    try:
        images = [read(item.path, item.frame, modalities=(item.modality,)) for item in (one, other)]
    except Unreadable:
        return False
    return np.array_equal(images[0].hu, images[1].hu)


# --- many files at once ---------------------------------------------------------------------------------------------


Item = TypeVar("Item", bound=os.PathLike[str])
"""A file, or what is to be done with one."""


def run_parallel(
    task: Callable[[Item], object], paths: Sequence[Item], *, workers: int | None = None, progress: str | None = None
) -> list:
    """[task(path) for path in paths], in worker processes as soon as more than a few seconds of work are left.

    ``task`` must be importable. A worker may die of a codec that crashes on a damaged file, or be killed for what
    others do (memory, an administrator): its file is tried once more, alone, and is Skipped if that process dies, too.
    progress: the text before a progress bar on stderr; None for no bar.
    """
    workers = available_cores() if workers is None else max(1, workers)
    results: dict[int, object] = {}
    started = time.perf_counter()
    with tqdm(total=len(paths), desc=progress, disable=True if progress is None else None, unit="file") as bar:
        for index, path in enumerate(paths):
            mean = (time.perf_counter() - started) / index if index >= 8 else 0.0
            if workers > 1 and mean * (len(paths) - index) > PARALLEL_FROM_SECONDS:
                for offset, result in map_in_processes(task, paths[index:], workers):
                    results[index + offset] = result
                    bar.update()
                break
            results[index] = task(path)
            bar.update()
    return [_again(task, path) if isinstance(results[n], Died) else results[n] for n, path in enumerate(paths)]


def _again(task: Callable[[Item], object], path: Item) -> object:
    ((_, result),) = map_in_processes(task, [path], 1)
    return Skipped(Path(path), "the decoder crashed on this file", crashed=True) if isinstance(result, Died) else result
