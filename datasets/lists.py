"""Which files there are: folders searched for images, and list files with columns of paths."""

import dataclasses
import os
import re
from pathlib import Path

from medi2i.common.errors import Unreadable, UserError
from medi2i.common.limits import check_file
from medi2i.datasets.kinds import kind_of, next_steps
from medi2i.datasets.plain_numbers import decoder_of

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
