"""The images of a folder, a file or a list: volumes of neighbours, and what was passed over and why.

Training, conversion, evaluation and the tools that make pairs have theirs from here: files are found (``find_files``)
or named by a list (``pairs``), and ``list_images`` makes a ``Catalogue`` of them.
"""

import collections
import dataclasses
import fnmatch
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from medi2i.common.errors import Unreadable, UserError
from medi2i.datasets import dicom
from medi2i.datasets.dicom.scanning import Skipped, folders_below
from medi2i.datasets.file_names import SUFFIXES, kind_of, name_without_suffix, next_steps
from medi2i.datasets.reading import Header, Image, read_header

log = logging.getLogger(__name__)

Entry = tuple[tuple[Path, ...], str]
"""The files of an image, mostly one (of several, the channels follow each other), and what to call it."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One image: a file, a frame of one, or several files whose channels follow each other.

    ``name``: where the first file lies below the root, with / between folders. ``frame`` counts from 0 within a DICOM
    file of ``frames``. ``ref``: the place of a DICOM slice. ``shape`` (C, H, W), ``bits`` and ``extent`` as in
    ``reading.Header``: of other kinds only where headers were asked for, with the time of the last change (``stamp``,
    ns). Neighbours in a volume share the ``group`` and follow each other by ``place``. ``held``: the image itself,
    where it comes from no file. Plain values only, so that it crosses processes.
    """

    paths: tuple[Path, ...]
    kind: str
    name: str
    frame: int = 0
    frames: int = 1
    ref: dicom.SliceRef | None = None
    shape: tuple[int, ...] = ()
    bits: int | None = None
    extent: tuple[float, float] | None = None
    stamp: int = 0
    group: int = 0
    place: int = 0
    held: Image | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The first file."""
        return self.paths[0]

    @property
    def label(self) -> str:
        """The name as people are told: with the frame's number where there are several."""
        return self.name if self.frames == 1 else f"{self.name} frame {self.frame + 1}"

    @property
    def stem(self) -> str:
        """The name without its suffix, with ``#frame`` where a file has several."""
        stem = name_without_suffix(self.name, self.kind)
        return stem if self.frames == 1 else f"{stem}#{self.frame}"

    @property
    def modality(self) -> str:
        """Of DICOM: "CT", …; "" for other kinds."""
        return self.ref.modality if self.ref else ""

    @property
    def spacing(self) -> tuple[float, float] | None:
        """(between rows, between columns) in mm, where the file says it."""
        return self.ref.spacing if self.ref else None

    @property
    def height(self) -> float | None:
        """mm along the axis of the body closest to the slices' normal (for axial slices, patient z), where known."""
        return self.ref.body_height if self.ref else None


@dataclasses.dataclass
class Volume:
    """Images that are neighbours in this order: a DICOM series along its normal, or the images of one folder."""

    sources: list[Source]
    series: dicom.Series | None = None


@dataclasses.dataclass
class Catalogue:
    """All volumes, in order, and the files that were left out."""

    volumes: list[Volume]
    skipped: list[Skipped]

    @property
    def sources(self) -> list[Source]:
        """All images of all volumes."""
        return [source for volume in self.volumes for source in volume.sources]

    def by_path(self) -> dict[Path, list[Source]]:
        """The images of each file: its frames in their order."""
        found = collections.defaultdict(list)
        for source in sorted(self.sources, key=lambda source: source.frame):
            found[source.path].append(source)
        return found

    def require_series(self, place: Path) -> None:
        """UserError that says what was found in ``place`` instead, where there is no DICOM series."""
        series = [volume.series for volume in self.volumes if volume.series is not None]
        dicom.Scan([place], series, self.skipped).require_series()

    def warn(self, where: Path) -> None:
        """Log how many files were skipped, and which."""
        if self.skipped:
            lines = "\n".join(f"  {item.path}: {item.advice}" for item in self.skipped)
            log.warning("%s: %d file(s) skipped:\n%s", where, len(self.skipped), lines)


def list_images(
    entries: Iterable[Entry],
    kind: str | None = None,
    *,
    decode: bool = True,
    headers: bool = False,
    labels: bool = False,
    by_file: bool = False,
    copies: bool = False,
) -> Catalogue:
    """The ``Catalogue`` of ``entries``; several of them may begin with one file.

    kind: of all files; None: what each one's name says, else DICOM. decode: as for ``dicom.scan``. headers: those of
    other kinds are read, too, with ``labels`` as for ``read_header``. by_file: the slices of a DICOM series follow each
    other as the entries do, not along its normal. copies: as for ``dicom.scan``.
    """
    by_path: dict[Path, list[Entry]] = collections.defaultdict(list)
    for paths, name in entries:
        by_path[paths[0]].append((paths, name))
    kinds = {path: kind or kind_of(path) or "dcm" for path in by_path}
    slices = [path for path in by_path if kinds[path] == "dcm"]
    missing = [Skipped(path, "no such file", by_path[path][0][1]) for path in slices if not path.exists()]
    places = [path for path in slices if path.exists()]
    scan = dicom.scan(places, decode=decode, progress=headers, copies=copies) if places else dicom.Scan([])
    found = _of_scan(scan, by_path.__getitem__)
    found.skipped[:0] = missing
    if by_file:
        order = {path: number for number, path in enumerate(by_path)}
        for volume in found.volumes:
            volume.sources.sort(key=lambda source: (order[source.path], source.frame))
    folders: dict[PurePosixPath, Volume] = {}
    for path in by_path:
        if kinds[path] == "dcm":
            continue
        try:
            header = read_header(path, kinds[path], labels) if headers else Header()
        except Unreadable as error:
            found.skipped.append(Skipped(path, error.reason, by_path[path][0][1]))
            continue
        for paths, name in by_path[path]:
            volume = folders.setdefault(PurePosixPath(name).parent, Volume([]))
            volume.sources.append(Source(paths, kinds[path], name, 0, 1, None, *header))
    found.volumes.extend(folders.values())
    for group, volume in enumerate(found.volumes):
        volume.sources = [
            dataclasses.replace(
                source, group=group, place=place, stamp=source.path.stat().st_mtime_ns if headers else 0
            )
            for place, source in enumerate(volume.sources)
        ]
    return found


def list_series(root: Path, modalities: tuple[str, ...], workers: int | None = None) -> Catalogue:
    """The DICOM series in a folder or file, whatever its files are called; pixels are not looked at.

    modalities, workers: as for ``dicom.scan``. Raises UserError where there are none.
    """
    scan = dicom.scan(root, modalities=modalities, decode=False, progress=True, workers=workers)
    scan.require_series()
    return _of_scan(scan, lambda path: [((path,), name_below(path, root))])


def _of_scan(scan: dicom.Scan, entries_of: Callable[[Path], list[Entry]]) -> Catalogue:
    volumes = [
        Volume(
            [
                Source(paths, "dcm", name, ref.frame, ref.frames, ref, (1, *ref.shape))
                for ref in series.slices
                for paths, name in entries_of(ref.path)
            ],
            series,
        )
        for series in scan.series
    ]
    skipped = [dataclasses.replace(item, name=entries_of(item.path)[0][1]) for item in scan.skipped]
    return Catalogue(volumes, skipped)


def name_below(file: Path, root: Path) -> str:
    """Where a file lies below ``root``, or what it is called if it is that; as it is where it lies elsewhere."""
    below = file.relative_to(root) if file.is_relative_to(root) else file
    return below.as_posix() if file != root else file.name


def describe(
    files: Iterable[Path],
    root: Path,
    kind: str | None = None,
    labels: bool = False,
    by_file: bool = False,
    copies: bool = False,
) -> Catalogue:
    """The ``Catalogue`` of ``files`` below ``root``, each looked into now: what cannot be used is known at once.

    kind, labels, by_file, copies: as for ``list_images``.
    """
    entries = [((file,), name_below(file, root)) for file in dict.fromkeys(files)]
    found = list_images(entries, kind, headers=True, labels=labels, by_file=by_file, copies=copies)
    for volume in found.volumes:
        if volume.series is not None:
            for note in volume.series.warnings:
                log.info("%s (%s): %s", volume.sources[0].path.parent, volume.series.description, note)
    return found


def sources_in(folder: Path, kind: str = "auto", by_file: bool = False, labels: bool = False) -> list[Source]:
    """All images of one kind below ``folder``, in the order of ``number_key``.

    by_file, labels: as for ``list_images``. Warns of files that cannot be read. Raises UserError for folders without
    any image that can.
    """
    kind, files = find_files(folder, kind)
    found = describe(files, folder, kind, labels, by_file)
    if not found.volumes:
        some = "; ".join(f"{item.path.name}: {item.advice}" for item in found.skipped[:3])
        raise UserError(f"{folder}: none of the {len(files)} {kind} file(s) can be read ({some})")
    found.warn(folder)
    by_path = found.by_path()
    return [source for file in files for source in by_path[file]]


def within(height: float, lowest: float, highest: float, released: bool = False) -> bool:
    """Whether a height in mm is in ``--slice_range``, whose ends count; in the released code they did not."""
    return lowest < height < highest if released else lowest <= height <= highest


def stacks(images: Sequence[Source], size: int) -> list[tuple[int, ...]]:
    """Windows of ``size`` neighbours: a list of tuples of positions in ``images``.

    Windows never cross from one group to another. Groups smaller than ``size`` give none, with a warning.
    """
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for position, image in enumerate(images):
        groups[image.group].append(position)
    windows: list[tuple[int, ...]] = []
    for positions in groups.values():
        if size > 1:
            positions.sort(key=lambda position: images[position].place)
        if len(positions) < size:
            log.warning(
                "--stack: the series of %s has %d image(s), fewer than the stack of %d: left out",
                images[positions[0]].stem,
                len(positions),
                size,
            )
        windows.extend(tuple(positions[start : start + size]) for start in range(len(positions) - size + 1))
    return windows if size > 1 else sorted(windows)


def number_key(path: Path) -> tuple:
    """Sort key: by folder, then by the number made of all digits of the file name, then by name.

    ``slice2.png`` comes before ``slice10.png``, and ``b1.png`` before ``a2.png``, as in the released codes.
    """
    return [_digits(part) for part in path.parts[:-1]], _digits(path.name)


def _digits(name: str) -> tuple[int, str]:
    return int("".join(re.findall("[0-9]", name)) or "0"), name


def walk(folder: Path) -> list[Path]:
    """All files below ``folder`` that are not hidden, in the order of ``number_key``. Links are followed once.

    Folders of results and runs below it are left out, with a warning.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: is a file, not a folder")
    below = folders_below(folder, hidden=False)
    files = [Path(place, name) for place, names in below for name in names]
    return sorted((file for file in files if file.is_file()), key=lambda file: number_key(file.relative_to(folder)))


def matches(name: str, pattern: str | None) -> bool:
    """Whether a file name fits ``--fn_pattern``: shell wildcards (``*_axial*``), else a part of the name."""
    if pattern is None:
        return True
    if not any(mark in pattern for mark in "*?["):
        pattern = f"*{pattern}*"
    return fnmatch.fnmatchcase(name, pattern)


def has_dicom_mark(path: Path) -> bool:
    """Whether a file starts as PS3.10 section 7.1 says (DICM after 128 bytes)."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_files(folder: Path, kind: str = "auto", pattern: str | None = None) -> tuple[str, list[Path]]:
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
    found = [file for file in chosen if (kind_of(file) or "dcm") == kind]
    if not found:
        others = collections.Counter(kind_of(file) or "other" for file in chosen)
        there = ", ".join(f"{number} {name}" for name, number in sorted(others.items()))
        raise UserError(
            f"{folder}: no {kind} images here (there are: {there}); --imgtype says what to look for{next_steps(chosen)}"
        )
    return kind, found


def _only_kind(folder: Path, files: list[Path]) -> str:
    kinds = (kind_of(file) or ("dcm" if has_dicom_mark(file) else None) for file in files)
    counts = collections.Counter(kind for kind in kinds if kind)
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
