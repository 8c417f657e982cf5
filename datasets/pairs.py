"""Which images belong together: from list files with columns of paths, or from the folders trainA/trainB, with every
problem told at once."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medi2i.common.errors import Unreadable, UserError
from medi2i.common.limits import check_file
from medi2i.datasets.catalogue import Source, describe, find_files, matches
from medi2i.datasets.file_names import kind_of, name_without_suffix, next_steps
from medi2i.datasets.reading import decoder_of

log = logging.getLogger(__name__)

FOLDERS = {"__train__": ("trainA", "trainB"), "__test__": ("testA", "testB")}
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Pair:
    """Images that belong together: one source for each input column and for each output column."""

    inputs: tuple[Source, ...]
    outputs: tuple[Source, ...]


@dataclasses.dataclass(frozen=True)
class _Row:
    """The files of a pair: as many inputs and outputs as columns were asked for, and how to call it."""

    label: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


def find_pairs(
    root: Path,
    name: str,
    *,
    kinds: tuple[str, str] = ("auto", "auto"),
    from_col: Sequence[int] = (0,),
    to_col: Sequence[int] = (1,),
    pattern: str | None = None,
    btoa: bool = False,
    labels: bool = False,
    scale: int = 1,
    by_file: bool = False,
) -> list[Pair]:
    """All pairs of the list file ``name``, or of folders if it is ``__train__`` (trainA, trainB) or ``__test__``.

    kinds: of inputs and outputs ("auto": by name, or what the folder holds). ``btoa`` makes the second column or folder
    the input. ``labels``: outputs are class numbers. ``scale``: outputs have so many times the rows and columns of
    inputs. ``by_file``: as for ``catalogue.list_images``. Files that cannot be read are left out with their partners,
    with a warning that counts them. Raises UserError with all that is missing or does not fit.
    """
    problems: list[str] = []
    of_sides: tuple[str | None, ...]
    if name in FOLDERS:
        first, second = (root / folder for folder in FOLDERS[name])
        roots = (second, first) if btoa else (first, second)
        where = f"{roots[0]} and {roots[1]}"
        rows, of_sides = _rows_of_folders(*roots, kinds, pattern, problems)
    else:
        roots = root, root
        path = locate_list(name, root)
        where = str(path)
        rows = _rows_of_list(path, root, *((to_col, from_col) if btoa else (from_col, to_col)), pattern, problems)
        of_sides = tuple(None if kind == "auto" else kind for kind in kinds)
    # Pairs of several realisations of noise have the same target in several files.
    files = [file for row in rows for file in row.inputs], [file for row in rows for file in row.outputs]
    inputs = describe(files[0], roots[0], of_sides[0], by_file=by_file, copies=True)
    outputs = describe(files[1], roots[1], of_sides[1], labels, by_file, copies=True)
    by_path, of_outputs = inputs.by_path(), outputs.by_path()
    pairs: list[Pair] = []
    left_out = 0
    for row in rows:
        sides = [[by_path[file] for file in row.inputs], [of_outputs[file] for file in row.outputs]]
        if all(frames for side in sides for frames in side):
            pairs.extend(_pairs_of(row, sides, problems, scale))
        else:
            left_out += 1
    for found, folder in ((inputs, roots[0]), (outputs, roots[1])):
        found.warn(folder)
    _stop(where, problems)
    if left_out:
        log.warning("%s: %d of %d pairs left out, because a file of them cannot be read", where, left_out, len(rows))
    if not pairs:
        reasons = [f"{item.path}: {item.advice}" for item in (*inputs.skipped, *outputs.skipped)]
        raise UserError(f"{where}: none of the {len(rows)} pairs can be read ({'; '.join(reasons[:SHOWN])})")
    return pairs


def _stop(where: str, problems: list[str]) -> None:
    """Raise UserError if there are problems with the pairs of one list or folder, after logging them all."""
    if not problems:
        return
    rest, shown = "", "; ".join(problems[:SHOWN])
    if len(problems) > SHOWN:
        log.error("%s: %d problems with pairs:\n%s", where, len(problems), "\n".join(f"  {line}" for line in problems))
        rest = f"; and {len(problems) - SHOWN} more (all are listed above)"
    raise UserError(f"{where}: {len(problems)} problem(s) with pairs: {shown}{rest}")


def _rows_of_folders(
    first: Path, second: Path, kinds: tuple[str, str], pattern: str | None, problems: list[str]
) -> tuple[list[_Row], tuple[str, ...]]:
    """Files of two folders with equal names (apart from the suffix of their kind), in the order of the first; and the
    kinds of both."""
    for folder, other in ((first, second), (second, first)):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder; pairs need {first.name} and {second.name} with equal names "
                f"in both" + ("" if other.is_dir() else ", or a list file (--train FILE)")
            )
    found = [find_files(folder, kind, pattern) for folder, kind in zip((first, second), kinds, strict=True)]
    ours, theirs = (
        {name_without_suffix(file.relative_to(folder).as_posix(), kind): file for file in files}
        for folder, (kind, files) in zip((first, second), found, strict=True)
    )
    if len(ours) != len(theirs):
        problems.append(f"{first} has {len(ours)} images and {second} has {len(theirs)}")
    for here, there, folder in ((ours, theirs, second), (theirs, ours, first)):
        problems.extend(f"{file} has no partner in {folder}" for name, file in here.items() if name not in there)
    rows = [_Row(name, (file,), (theirs[name],)) for name, file in ours.items() if name in theirs]
    return rows, tuple(kind for kind, _ in found)


def _rows_of_list(
    path: Path, root: Path, from_col: Sequence[int], to_col: Sequence[int], pattern: str | None, problems: list[str]
) -> list[_Row]:
    """The rows of a list file, with columns counted from 0 and paths below ``root``."""
    rows, needed = [], max(*from_col, *to_col) + 1
    listed = read_list(path)
    widest = max(len(row.columns) for row in listed)
    if widest < needed:
        raise UserError(
            f"{path}: no line has more than {widest} column(s); --from_col and --to_col need {needed}, "
            "separated by tabs"
        )
    for row in listed:
        if len(row.columns) < needed:
            problems.append(
                f"line {row.line} has {len(row.columns)} column(s), --from_col and --to_col need {needed}, "
                f"separated by tabs"
            )
            continue
        inputs, outputs = (tuple(root / row.columns[column] for column in columns) for columns in (from_col, to_col))
        if not matches(inputs[0].name, pattern):
            continue
        missing = [file for file in (*inputs, *outputs) if not file.is_file()]
        for file in missing:
            why = "does not exist" if not file.exists() else "is not a regular file"
            problems.append(
                f"line {row.line}: {file} {why}" if file != root else f"line {row.line}: has an empty column"
            )
        if not missing:
            rows.append(_Row(f"line {row.line}", inputs, outputs))
    if not rows and not problems:
        raise UserError(f"--fn_pattern: no input file of {path} fits {pattern!r}")
    return rows


def _pairs_of(row: _Row, sides: list[list[list[Source]]], problems: list[str], scale: int) -> Iterator[Pair]:
    """The pairs of one row: one, or one for each frame where its files have several."""
    counts = {len(frames) for side in sides for frames in side}
    if len(counts) > 1:
        problems.append(
            f"{row.label}: {row.inputs[0]} and {row.outputs[0]} have different numbers of frames "
            f"({', '.join(str(count) for count in sorted(counts))})"
        )
        return
    for frame in range(counts.pop()):
        inputs, outputs = (tuple(frames[frame] for frames in side) for side in sides)
        sizes = {source.shape[1:]: source for source in (*inputs, *outputs)}
        fine = {tuple(scale * n for n in source.shape[1:]) for source in inputs}
        if len(fine | {source.shape[1:] for source in outputs}) == 1:
            yield Pair(inputs, outputs)
            continue
        rule = (
            f"with --scale {scale} outputs must have {scale} times the rows and columns of inputs"
            if scale > 1
            else "a pair must have one size"
        )
        problems.append(
            ", ".join(f"{source.path} is {width}x{height}" for (height, width), source in sizes.items())
            + f" (width x height): {rule}"
        )


_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_SEP_LINE = re.compile(r"sep=[;,]")  # how Excel is told of the separator


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a list file: its number and its columns, as written."""

    line: int
    columns: tuple[str, ...]


def read_list(path: Path) -> list[Row]:
    """The rows of a list file: columns separated by tabs. Empty lines and lines starting with # are passed over.

    What Windows and Excel make of a list is undone: UTF-16, byte order marks, quotes around a path, backslashes,
    empty columns at the end; semicolons or commas count where no line has a tab and every part ends like an image.
    Raises UserError for a file that is missing, no text, or has no rows.
    """
    check_file(path)
    try:
        text = path.read_text(encoding=decoder_of(path)).rstrip("\n\x1a")
    except Unreadable as error:
        raise UserError(f"{error}{next_steps([path])}") from None
    lines = [
        (number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip() and not line.startswith("#")
    ]
    separator = _separator([line for _, line in lines])
    rows = [Row(number, _columns(line, separator)) for number, line in lines if not _SEP_LINE.fullmatch(line.strip())]
    if not rows:
        raise UserError(f"{path}: the list is empty; it should hold one pair a line, separated by a tab")
    for row in rows:
        if os.name == "posix" and any(_DRIVE.match(column) for column in row.columns):
            raise UserError(
                f"{path}, line {row.line}: {' '.join(row.columns)} begins with a drive of Windows; paths "
                "below --root would be right"
            )
    return rows


def _separator(lines: list[str]) -> str:
    if any("\t" in line for line in lines):
        return "\t"
    for mark in ";,":
        if lines and all(
            mark in line and all(map(kind_of, _columns(line, mark)))
            for line in lines
            if not _SEP_LINE.fullmatch(line.strip())
        ):
            return mark
    return "\t"


def _columns(line: str, separator: str) -> tuple[str, ...]:
    columns = [_path_of(cell) for cell in line.split(separator)]
    while len(columns) > 1 and not columns[-1]:
        columns.pop()
    return tuple(columns)


def _path_of(cell: str) -> str:
    """A path as Windows and Excel write it: quoted, quotes in it doubled, folders apart by backslashes."""
    cell = cell.strip().strip("\ufeff")
    for first, last in ('""', "''", "“”"):
        if len(cell) > 1 and cell[0] == first and cell[-1] == last:
            cell = cell[1:-1].replace('""', '"').strip()
    return cell.replace("\\", "/") if os.sep == "/" and "/" not in cell else cell


def locate_list(name: Path | str, root: Path | str) -> Path:
    """The list file ``name``: as given, else below ``root``. Raises UserError where it is in neither place."""
    for path in (Path(name), Path(root) / name):
        if path.is_file():
            return path
    raise UserError(f"{name}: no such list file, neither here nor in {root}")
