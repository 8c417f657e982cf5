"""From files to sources: the images that can be used, described by their headers, and those that cannot, with why."""

import collections
import dataclasses
import fnmatch
import itertools
import logging
import os
import re
from collections import defaultdict
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.datasets import dicom
from medi2i.datasets.dicom.header_checks import Unreadable
from medi2i.datasets.kinds import SUFFIXES, kind_of, name_without_suffix, next_steps
from medi2i.datasets.outputs import without_ours
from medi2i.datasets.reading import read_header

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """One image of a file. Plain values only, so that it crosses processes.

    ``name``: path below the root without its suffix, with ``#frame`` where a file has several. ``shape``: (C, H, W).
    ``group`` and ``place`` are of the series: neighbours in a stack share the group and follow each other by place.
    ``extent``: lowest and highest value of images whose kind has no range of its own.
    ``height``: mm along the axis of the body that is closest to the slices' normal (for axial slices, patient z).
    """

    path: Path
    name: str
    kind: str
    shape: tuple[int, int, int]
    bits: int | None = None
    frame: int = 0
    group: str = ""
    place: int = 0
    height: float | None = None
    spacing: tuple[float, float] | None = None
    modality: str = ""
    stamp: int = 0
    extent: tuple[float, float] | None = None


@dataclasses.dataclass
class Sources:
    """``by_path``: the images of each file (several for multi-frame DICOM). ``skipped``: path -> why it is not used."""

    by_path: dict[Path, list[Source]]
    skipped: dict[Path, str]

    @property
    def all(self):
        """All images, in the order of their files."""
        return [source for sources in self.by_path.values() for source in sources]

    def warn(self, where):
        """Log how many files were skipped, and which."""
        if self.skipped:
            log.warning(
                "%s: %d file(s) skipped:\n%s",
                where,
                len(self.skipped),
                "\n".join(f"  {path}: {reason}" for path, reason in self.skipped.items()),
            )


def sources_in(folder, kind="auto", pattern=None, labels=False, by_file=False):
    """All images of one kind below ``folder``, in the order of ``lists.number_key``: ``Sources``.

    ``by_file`` as for ``describe``. Warns of files that cannot be read. Raises UserError for folders without any image
    that can.
    """
    kind, files = find_files(folder, kind, pattern)
    found = describe(files, folder, kind, labels, by_file)
    if not found.by_path:
        some = "; ".join(f"{path.name}: {reason}" for path, reason in list(found.skipped.items())[:3])
        raise UserError(f"{folder}: none of the {len(files)} {kind} file(s) can be read ({some})")
    found.warn(folder)
    return found


def describe(files, root, kind=None, labels=False, by_file=False):
    """``Sources`` of ``files`` below ``root``; each file once. Without ``kind`` every file's name decides.

    ``by_file``: the slices of a DICOM series follow each other as the files do, not along its normal.
    """
    files = list(dict.fromkeys(Path(file) for file in files))
    kinds = {file: kind or kind_of(file) or "dcm" for file in files}
    images = _dicom_sources([file for file in files if kinds[file] == "dcm"], root)
    for file in images.skipped:
        images.skipped[file] += next_steps([file])
    for file in files:
        if kinds[file] == "dcm":
            continue
        try:
            header = read_header(file, kinds[file], labels)
        except Unreadable as error:
            images.skipped[file] = error.reason
            continue
        images.by_path[file] = [
            Source(
                file,
                _name(file, root, kinds[file]),
                kinds[file],
                header.shape,
                header.bits,
                group=str(file.parent),
                stamp=_stamp(file),
                extent=header.extent,
            )
        ]
    by_path = {file: images.by_path[file] for file in files if file in images.by_path}
    places = defaultdict(itertools.count)
    for file, frames in by_path.items():
        if by_file or frames[0].kind != "dcm":  # neighbours of plain files are those in their folder, as given
            by_path[file] = [dataclasses.replace(frame, place=next(places[frame.group])) for frame in frames]
    return Sources(by_path, {file: images.skipped[file] for file in files if file in images.skipped})


def within(height, lowest, highest, released=False):
    """Whether a height in mm is in ``--slice_range``, whose ends count; in the released code they did not."""
    return lowest < height < highest if released else lowest <= height <= highest


def _dicom_sources(files, root):
    if not files:
        return Sources({}, {})
    scan = dicom.scan(files, progress=True)
    by_path = {}
    for number, series in enumerate(scan.series):
        for note in series.warnings:
            log.info("%s (%s): %s", series.slices[0].path.parent, series.description, note)
        for place, item in enumerate(series.slices):
            name = _name(item.path, root, "dcm")
            by_path.setdefault(item.path, []).append(
                Source(
                    item.path,
                    f"{name}#{item.frame}" if item.frames > 1 else name,
                    "dcm",
                    (1, *item.shape),
                    None,
                    item.frame,
                    f"{number} {item.series_uid}",
                    place,
                    item.body_height,
                    item.spacing,
                    item.modality,
                    _stamp(item.path),
                )
            )
    for sources in by_path.values():
        sources.sort(key=lambda source: source.frame)
    return Sources(by_path, {item.path: item.reason for item in scan.skipped})


def _name(file, root, kind):
    relative = file.relative_to(root) if file.is_relative_to(root) else file
    return name_without_suffix(relative.as_posix(), kind)


def _stamp(file):
    return file.stat().st_mtime_ns


def stacks(images, size):
    """Windows of ``size`` neighbours: a list of tuples of positions in ``images`` (each with ``group`` and ``place``).

    Windows never cross from one group to another. Groups smaller than ``size`` give none, with a warning.
    """
    groups = {}
    for position, image in enumerate(images):
        groups.setdefault(image.group, []).append(position)
    windows = []
    for positions in groups.values():
        if size > 1:
            positions.sort(key=lambda position: images[position].place)
        if len(positions) < size:
            log.warning(
                "--stack: the series of %s has %d image(s), fewer than the stack of %d: left out",
                images[positions[0]].name,
                len(positions),
                size,
            )
        windows.extend(tuple(positions[start : start + size]) for start in range(len(positions) - size + 1))
    return windows if size > 1 else sorted(windows)


def number_key(path):
    """Sort key: by folder, then by the number made of all digits of the file name, then by name.

    ``slice2.png`` comes before ``slice10.png``, and ``b1.png`` before ``a2.png``, as in the released codes.
    """
    path = Path(path)
    return [_digits(part) for part in path.parts[:-1]], _digits(path.name)


def _digits(name):
    return int("".join(re.findall("[0-9]", name)) or "0"), name


def walk(folder):
    """All files below ``folder`` that are not hidden, in the order of ``number_key``. Links are followed once.

    Folders of results and runs below it are left out, with a warning.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: is a file, not a folder")
    seen, files = set(), []
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = without_ours(place, sorted(name for name in folders if not name.startswith(".")))
        files.extend(Path(place, name) for name in names if not name.startswith("."))
    return sorted((file for file in files if file.is_file()), key=lambda file: number_key(file.relative_to(folder)))


def matches(name, pattern):
    """Whether a file name fits ``--fn_pattern``: shell wildcards (``*_axial*``), else a part of the name."""
    if pattern is None:
        return True
    if not any(mark in pattern for mark in "*?["):
        pattern = f"*{pattern}*"
    return fnmatch.fnmatchcase(name, pattern)


def has_dicom_mark(path):
    """Whether a file starts as PS3.10 section 7.1 says (DICM after 128 bytes)."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_files(folder, kind="auto", pattern=None):
    """Files of one kind below ``folder``, sorted. Returns (kind, list of paths).

    ``auto`` takes the only kind that is there (text files count only where nothing else is). ``dcm`` takes every file
    that is not of another kind by its name: DICOM is known by its content, and its reader reports what is none.
    Raises UserError for a folder that is missing, empty, or holds no such image, or several kinds.
    """
    files = walk(folder)
    if not files:
        raise UserError(f"{folder}: the folder is empty; it should hold images")
    chosen = [file for file in files if matches(file.name, pattern)]
    if not chosen:
        raise UserError(f"--fn_pattern: none of the {len(files)} files in {folder} fits {pattern!r}")
    if kind == "auto":
        kind = _only_kind(folder, chosen)
    if kind == "dcm":
        found = [file for file in chosen if kind_of(file) in (None, "dcm")]
    else:
        found = [file for file in chosen if file.suffix.lower() in SUFFIXES[_known(kind)]]
    if not found:
        others = collections.Counter(kind_of(file) or "other" for file in chosen)
        there = ", ".join(f"{number} {name}" for name, number in sorted(others.items()))
        raise UserError(
            f"{folder}: no {kind} images here (there are: {there}); --imgtype says what to look for{next_steps(chosen)}"
        )
    return kind, found


def _known(kind):
    if kind not in SUFFIXES:
        raise UserError(
            f"--imgtype: {kind!r} cannot be read; it can be {', '.join(SUFFIXES)}{next_steps([f'.{kind}'])}"
        )
    return kind


def _only_kind(folder, files):
    counts = collections.Counter()
    for file in files:
        kind = kind_of(file) or ("dcm" if has_dicom_mark(file) else None)
        if kind:
            counts[kind] += 1
    if any(kind not in ("txt", "csv") for kind in counts):  # notes and tables lie beside images
        del counts["txt"], counts["csv"]
    if not counts:
        raise UserError(
            f"{folder}: no images among its {len(files)} files; it can be {', '.join(SUFFIXES)}{next_steps(files)}"
        )
    if len(counts) > 1:
        there = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        raise UserError(f"{folder}: several kinds of images ({there}); --imgtype says which to take")
    return next(iter(counts))
