"""What to convert: files, folders or a list become the volumes of a catalogue, each slice with its result's name."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from medi2i.common.errors import UserError
from medi2i.common.inference.report import beside
from medi2i.datasets.catalogue import (
    Catalogue,
    Entry,
    Skipped,
    Source,
    find_files,
    list_images,
    matches,
    name_below,
    walk,
    within,
)
from medi2i.datasets.file_names import kind_of, next_steps
from medi2i.datasets.pairs import locate_list, read_list
from medi2i.datasets.unpacking import unpacked


def find_inputs(
    roots: Sequence[Path | str],
    *,
    kind: str = "auto",
    preferred: str = "auto",
    pattern: str | None = None,
    list_file: str | None = None,
    columns: Sequence[int] = (0,),
    exclude: Path | str | None = None,
    slice_range: Sequence[float] | None = None,
    released: bool = False,
) -> Catalogue:
    """Find the images below ``roots`` (files or folders), or those that a list names; no two of the same name.

    kind: of ``--imgtype``; "auto" is the one kind that is there, or of several the ``preferred`` one. list_file:
    tab-separated paths relative to the only root, of which ``columns`` become channels. exclude: a folder whose files,
    and those of its report, are no inputs (earlier results). slice_range: (lowest, highest) ``Source.height`` in mm.
    released: as in the released codes, whose slice_range excludes its ends, and without one slices of a series follow
    each other as the files do. Only headers of DICOM are read; other damage is found when a slice's turn comes. Raises
    UserError if nothing is left.
    """
    places = [Path(root) for root in roots]
    others: list[Entry] = []
    if list_file is not None:
        kind, entries = _from_list([unpacked(place) for place in places], kind, list_file, columns)
    else:
        kind, entries, others = _from_roots(places, kind, preferred, pattern)
    if exclude is not None:
        folders = {Path(os.path.realpath(folder)) for folder in (exclude, beside(exclude))}
        entries, others = (
            [entry for entry in some if folders.isdisjoint(Path(os.path.realpath(entry[0][0])).parents)]
            for some in (entries, others)
        )
        if not entries:
            raise UserError(f"--out: {exclude} holds all files of --root; choose a folder outside of it")
    found = list_images(entries, kind, decode=False, by_file=released and slice_range is None)
    found.skipped += [Skipped(paths[0], f"not DICOM ({kind_of(paths[0])} by its name)", name) for paths, name in others]
    if slice_range is not None:
        for volume in found.volumes:
            volume.sources = [
                source
                for source in volume.sources
                if source.height is None or within(source.height, slice_range[0], slice_range[1], released)
            ]
        found.volumes = [volume for volume in found.volumes if volume.sources]
    if not found.volumes:
        raise _nothing_left(places, found.skipped, slice_range)
    _refuse_equal_names(found.sources)
    return found


def _from_roots(
    roots: list[Path], kind: str, preferred: str, pattern: str | None
) -> tuple[str, list[Entry], list[Entry]]:
    """(kind, all files of one kind below the roots, what lies beside DICOM there)."""
    entries: list[Entry] = []
    others: list[Entry] = []
    kinds: dict[str, Path] = {}
    for root in roots:
        if not root.exists():
            raise UserError(f"{root}: no such file or folder; --root takes the images to convert")
        name, root = os.path.basename(os.path.abspath(root)), unpacked(root)
        if root.is_dir():
            try:
                found, files = find_files(root, kind, pattern)
            except UserError:
                if kind != "auto" or preferred == "auto":
                    raise
                found, files = find_files(root, preferred, pattern)
            prefix = PurePosixPath(name if len(roots) > 1 else "")
            entries += [((file,), str(prefix / name_below(file, root))) for file in files]
            if found == "dcm":  # what has no suffix at all is among the files, and told of when it is no DICOM
                others += [
                    ((file,), str(prefix / name_below(file, root)))
                    for file in walk(root)
                    if kind_of(file) not in (None, "dcm") and matches(file.name, pattern)
                ]
        else:
            found = _kind_of_file(root, kind)
            entries.append(((root,), root.name))
        kinds.setdefault(found, root)
    if len(kinds) > 1:
        there = ", ".join(f"{name} in {root}" for name, root in kinds.items())
        raise UserError(f"--root: several kinds of images ({there}); --imgtype says which to take")
    return next(iter(kinds)), entries, others


def _from_list(roots: list[Path], kind: str, list_file: str, columns: Sequence[int]) -> tuple[str, list[Entry]]:
    """(kind, the rows of a list)."""
    if len(roots) != 1:
        raise UserError(f"--val: the list's paths are relative to one --root, not to {len(roots)}")
    root = roots[0]
    entries: list[Entry] = []
    kinds: dict[str, Path] = {}
    for row in read_list(locate_list(list_file, root)):
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


def _kind_of_file(path: Path, kind: str) -> str:
    return kind_of(path) or "dcm" if kind == "auto" else kind


def _nothing_left(roots: list[Path], skipped: list[Skipped], slice_range: Sequence[float] | None) -> UserError:
    where = ", ".join(str(root) for root in roots)
    if slice_range is not None and not skipped:
        return UserError("--slice_range: no slice of {} lies between {:g} and {:g} mm".format(where, *slice_range))
    reasons = Counter(item.reason for item in skipped).most_common(3)
    what = "; ".join(f"{number} x {reason}" for reason, number in reasons)
    first = f", the first {skipped[0].name}" if skipped else ""
    steps = next_steps(item.name for item in skipped)
    return UserError(f"{where}: no image to convert ({what or 'nothing found'}{first}){steps}")


def _refuse_equal_names(sources: Iterable[Source]) -> None:
    seen: dict[tuple[str, int], Source] = {}
    for source in sources:
        other = seen.setdefault((source.name, source.frame), source)
        if other is not source:
            raise UserError(
                f"{source.path} and {other.path} would both be written as {source.name}; "
                "convert them in two runs with different --out"
            )
