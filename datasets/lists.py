"""Which files there are: folders searched for images, and list files with columns of paths."""

import collections
import dataclasses
import fnmatch
import os
import re
from pathlib import Path

from medi2i.common.errors import Unreadable, UserError
from medi2i.datasets.advice import next_steps
from medi2i.datasets.images import SUFFIXES, kind_of
from medi2i.datasets.limits import check_file
from medi2i.datasets.ours import without_ours
from medi2i.datasets.text import decoder_of

_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_SEP_LINE = re.compile(r"sep=[;,]")  # how Excel is told of the separator


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


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a list file: its number and its columns, as written."""

    line: int
    columns: tuple[str, ...]


def read_list(path):
    """The rows of a list file: columns separated by tabs. Empty lines and lines starting with # are passed over.

    What Windows and Excel make of a list is undone: UTF-16, byte order marks, quotes around a path, backslashes,
    empty columns at the end; semicolons or commas count where no line has a tab and every part ends like an image.
    Raises UserError for a file that is missing, no text, or has no rows.
    """
    path = Path(path)
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


def _separator(lines):
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


def _columns(line, separator):
    columns = [_path_of(cell) for cell in line.split(separator)]
    while len(columns) > 1 and not columns[-1]:
        columns.pop()
    return tuple(columns)


def _path_of(cell):
    """A path as Windows and Excel write it: quoted, quotes in it doubled, folders apart by backslashes."""
    cell = cell.strip().strip("\ufeff")
    for first, last in ('""', "''", "“”"):
        if len(cell) > 1 and cell[0] == first and cell[-1] == last:
            cell = cell[1:-1].replace('""', '"').strip()
    return cell.replace("\\", "/") if os.sep == "/" and "/" not in cell else cell


def locate_list(name, root):
    """The list file ``name``: as given, else below ``root``. Raises UserError where it is in neither place."""
    for path in (Path(name), Path(root) / name):
        if path.is_file():
            return path
    raise UserError(f"{name}: no such list file, neither here nor in {root}")
