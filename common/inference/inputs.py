"""What to convert: files, folders or a list become volumes of slices, each slice with the name its result will have."""

import dataclasses
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from medi2i.common.errors import UserError
from medi2i.common.inference.report import beside
from medi2i.datasets import catalogue, dicom, lists
from medi2i.datasets.catalogue import within
from medi2i.datasets.dicom.series import Series, SliceRef
from medi2i.datasets.kinds import KINDS, kind_of, next_steps


@dataclasses.dataclass(frozen=True)
class Source:
    """One slice: the ``paths`` whose channels follow each other (one file, or one of each column of a list).

    ``frame`` counts from 0 within a multi-frame DICOM file of ``frames``. ``name`` is where the first file lies below
    the root, with / between folders; no two sources have the same name and frame. ``ref``: its place, for DICOM.
    """

    paths: tuple[Path, ...]
    kind: str
    name: str
    frame: int = 0
    frames: int = 1
    ref: SliceRef | None = None

    @property
    def label(self):
        """The name as people are told: with the frame's number where there are several."""
        return self.name if self.frames == 1 else f"{self.name} frame {self.frame + 1}"


@dataclasses.dataclass
class Volume:
    """Slices that are neighbours in this order: a DICOM series along its normal, or the images of one folder."""

    sources: list[Source]
    series: Series | None = None


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file that cannot be converted, by its name below the root, and why."""

    name: str
    reason: str


@dataclasses.dataclass
class Inputs:
    """All volumes, in order, and what was left out."""

    volumes: list[Volume]
    skipped: list[Skipped]

    @property
    def sources(self):
        """All slices of all volumes."""
        return [source for volume in self.volumes for source in volume.sources]


def find_inputs(
    roots,
    *,
    kind="auto",
    preferred="auto",
    pattern=None,
    list_file=None,
    columns=(0,),
    exclude=None,
    slice_range=None,
    released=False,
):
    """Find the images below ``roots`` (files or folders), or those that a list names. Returns Inputs.

    kind: of ``--imgtype``; "auto" is the one kind that is there, or of several the ``preferred`` one. list_file:
    tab-separated paths relative to the only root, of which ``columns`` become channels. exclude: a folder whose files,
    and those of its report, are no inputs (earlier results). slice_range: (lowest, highest) ``SliceRef.body_height``
    in mm. released: as in the released codes, whose slice_range excludes its ends, and without one slices of a series
    follow each other as the files do. Raises UserError if nothing is left.
    """
    roots = [Path(root) for root in roots]
    if list_file is not None:
        kind, entries = _from_list(roots, kind, list_file, columns)
        others = []
    else:
        kind, entries, others = _from_roots(roots, kind, preferred, pattern)
    if exclude is not None:
        folders = {Path(os.path.realpath(folder)) for folder in (exclude, beside(exclude))}
        entries, others = (
            [entry for entry in some if folders.isdisjoint(Path(os.path.realpath(entry[0][0])).parents)]
            for some in (entries, others)
        )
        if not entries:
            raise UserError(f"--out: {exclude} holds all files of --root; choose a folder outside of it")
    by_file = released and slice_range is None
    found = _dicom_volumes(entries, by_file) if kind == "dcm" else _plain_volumes(entries, kind)
    found.skipped += [Skipped(name, f"not DICOM ({kind_of(paths[0])} by its name)") for paths, name in others]
    if slice_range is not None:
        _keep_range(found, *slice_range, released)
    if not found.volumes:
        _nothing_left(roots, found, slice_range)
    _refuse_equal_names(found.sources)
    return found


def _from_roots(roots, kind, preferred, pattern):
    """(kind, [((path,), name)] of all files of one kind below the roots, likewise what lies beside DICOM there)."""
    entries, others, kinds = [], [], {}
    for root in roots:
        if not root.exists():
            raise UserError(f"{root}: no such file or folder; --root takes the images to convert")
        if root.is_dir():
            found, files = _find(root, kind, preferred, pattern)
            prefix = PurePosixPath(os.path.basename(os.path.abspath(root)) if len(roots) > 1 else "")
            entries += [((file,), str(prefix / file.relative_to(root).as_posix())) for file in files]
            if found == "dcm":  # what has no suffix at all is among the files, and told of when it is no DICOM
                others += [
                    ((file,), str(prefix / file.relative_to(root).as_posix()))
                    for file in catalogue.walk(root)
                    if kind_of(file) not in (None, "dcm") and catalogue.matches(file.name, pattern)
                ]
        else:
            found = _kind_of_file(root, kind)
            entries.append(((root,), root.name))
        kinds.setdefault(found, root)
    if len(kinds) > 1:
        there = ", ".join(f"{name} in {root}" for name, root in kinds.items())
        raise UserError(f"--root: several kinds of images ({there}); --imgtype says which to take")
    return next(iter(kinds)), entries, others


def _find(root, kind, preferred, pattern):
    try:
        return catalogue.find_files(root, kind, pattern)
    except UserError:
        if kind != "auto" or preferred == "auto":
            raise
        return catalogue.find_files(root, preferred, pattern)


def _from_list(roots, kind, list_file, columns):
    """(kind, [(paths, name)]) of the rows of a list."""
    if len(roots) != 1:
        raise UserError(f"--val: the list's paths are relative to one --root, not to {len(roots)}")
    root = roots[0]
    rows = lists.read_list(lists.locate_list(list_file, root))
    entries, kinds = [], {}
    for row in rows:
        short = [column for column in columns if column >= len(row.columns)]
        if short:
            raise UserError(
                f"{list_file}, line {row.line}: has {len(row.columns)} column(s), so no --from_col "
                f"{short[0]} (columns count from 0)"
            )
        paths = tuple(root / row.columns[column] for column in columns)
        name = PurePosixPath(Path(row.columns[columns[0]]).as_posix())
        if name.is_absolute() or ".." in name.parts:  # its result must lie below --out all the same
            name = PurePosixPath(*[part for part in name.parts[-2:] if part not in ("/", "..")])
        entries.append((paths, str(name)))
        kinds.setdefault(_kind_of_file(paths[0], kind), paths[0])
    if len(kinds) > 1:
        there = ", ".join(f"{name}: {path}" for name, path in kinds.items())
        raise UserError(f"{list_file}: several kinds of images ({there}); one list holds one kind")
    return next(iter(kinds)), list(dict.fromkeys(entries))


def _kind_of_file(path, kind):
    if kind != "auto":
        if kind not in KINDS:
            raise UserError(f"--imgtype: {kind!r} cannot be read; it can be {', '.join(KINDS)}{next_steps([path])}")
        return kind
    return kind_of(path) or "dcm"


def _plain_volumes(entries, kind):
    """Images of one folder are neighbours, in the order in which they were found or listed."""
    folders = defaultdict(list)
    for paths, name in entries:
        folders[str(PurePosixPath(name).parent)].append(Source(paths, kind, name))
    return Inputs([Volume(sources) for sources in folders.values()], [])


def _dicom_volumes(entries, by_file=False):
    """One volume a series. Only headers are read; damaged pixels are found when their turn comes."""
    order = {paths[0]: number for number, (paths, _) in enumerate(entries)} if by_file else {}
    by_path = {paths[0]: (paths, name) for paths, name in entries}
    missing = [path for path in by_path if not path.exists()]
    found = dicom.scan([path for path in by_path if path.exists()], decode=False)
    volumes = []
    for series in found.series:
        sources = []
        for ref in sorted(series.slices, key=lambda ref: (order.get(ref.path, 0), ref.frame if by_file else 0)):
            paths, name = by_path[ref.path]
            sources.append(Source(paths, "dcm", name, ref.frame, ref.frames, ref))
        volumes.append(Volume(sources, series))
    skipped = [Skipped(by_path[path][1], "no such file") for path in missing]
    skipped += [Skipped(by_path[item.path][1], item.reason) for item in found.skipped]
    return Inputs(volumes, skipped)


def _keep_range(found, lowest, highest, released):
    for volume in found.volumes:
        volume.sources = [
            source
            for source in volume.sources
            if source.ref is None
            or source.ref.body_height is None
            or within(source.ref.body_height, lowest, highest, released)
        ]
    found.volumes = [volume for volume in found.volumes if volume.sources]


def _nothing_left(roots, found, slice_range):
    where = ", ".join(str(root) for root in roots)
    if slice_range is not None and not found.skipped:
        raise UserError(f"--slice_range: no slice of {where} lies between {slice_range[0]:g} and {slice_range[1]:g} mm")
    reasons = defaultdict(int)
    for item in found.skipped:
        reasons[item.reason] += 1
    what = "; ".join(f"{number} x {reason}" for reason, number in sorted(reasons.items(), key=lambda r: -r[1])[:3])
    first = f", the first {found.skipped[0].name}" if found.skipped else ""
    steps = next_steps(item.name for item in found.skipped)
    raise UserError(f"{where}: no image to convert ({what or 'nothing found'}{first}){steps}")


def _refuse_equal_names(sources):
    seen = {}
    for source in sources:
        other = seen.setdefault((source.name, source.frame), source)
        if other is not source:
            raise UserError(
                f"{source.paths[0]} and {other.paths[0]} would both be written as {source.name}; "
                "convert them in two runs with different --out"
            )
