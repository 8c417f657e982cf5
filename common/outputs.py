"""Outputs appear whole or not at all, and never in the place of an input; which folders hold our own."""

import contextlib
import csv
import hashlib
import io
import logging
import math
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

from medi2i.common.errors import UserError

UNFINISHED = ".part"
"""End of the names of files being written; they are hidden, and a killed process leaves them behind."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")  # and their full-width forms

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_cleared: set[Path] = set()


def check_target(out_path: Path, inputs: Iterable[Path], force: bool) -> None:
    """UserError if the file would be one of the inputs, or exists and ``force`` is not given."""
    if not out_path.exists():
        return
    if any(path.exists() and os.path.samefile(path, out_path) for path in inputs):
        raise UserError(f"{out_path}: is an input; an output never takes its place")
    if not force:
        raise UserError(f"{out_path}: exists; --force would overwrite it")


@contextlib.contextmanager
def whole_file(out_path: Path, force: bool, lasting: bool = False) -> Iterator[Path]:
    """A hidden temporary path beside ``out_path`` that takes its name when the block ends well, and vanishes when it
    does not. An OSError in the block (a full disk) is raised with the name of ``out_path``.

    lasting: the file outlives a loss of power, too. Without ``force``, UserError where the file is there already."""
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_kills(out_path.parent.absolute())
    temporary = unfinished(out_path, hashlib.sha256(out_path.name.encode(errors="surrogateescape")).hexdigest()[:16])
    try:
        with naming(out_path):
            yield temporary
            if lasting:
                _sync(temporary, os.O_RDWR)
            if force:
                os.replace(temporary, out_path)
            else:
                try:
                    take_name(temporary, out_path)
                except FileExistsError:
                    raise UserError(f"{out_path}: exists; --force would overwrite it") from None
            if lasting and os.name == "posix":
                _sync(out_path.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(out_path: Path, mark: str) -> Path:
    """A hidden path beside ``out_path`` that a later run removes if this process is killed. mark: without a dot."""
    return out_path.with_name(f".{mark}.{os.getpid()}.{_HOST}{UNFINISHED}")


def take_name(temporary: Path, path: Path) -> None:
    """Give the file ``temporary`` the name ``path``, where ``temporary`` may go on being its name, too.

    FileExistsError if somebody made ``path`` in the meantime; also on network file systems.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        if os.stat(temporary).st_nlink == 1:  # else it is ours: NFS asks again where an answer was lost
            raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(out_path: Path, text: str, lasting: bool = False) -> None:
    """Write a text file (UTF-8; names that are no UTF-8 as ``\\udc..``), whole or not at all."""
    with whole_file(out_path, force=True, lasting=lasting) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def strict(value: object) -> object:
    """``value`` as strict JSON has it: numbers that are not finite, and what JSON does not know, become text."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as the text of a CSV file. Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_no_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _no_formula(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell if cell.strip() == cell else "'" + cell


def append_text(path: Path, text: str, lasting: bool = False) -> None:
    """Add ``text`` (UTF-8) to the end of a file: all of it, or none where the disk is full.

    lasting: it outlives a loss of power, too. An OSError has the file's name."""
    with naming(path), open(path, "ab", buffering=0) as file:
        size, left = file.tell(), text.encode("utf-8", "backslashreplace")
        try:
            while left:
                left = left[file.write(left) :]
            if lasting:
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """OSErrors of the block are raised with the name of ``path``: writing to an open file gives them none."""
    try:
        yield
    except OSError as error:
        raise _named(error, path) from error


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder that belongs to this one alone."""
    for pattern in (f".*{UNFINISHED}", "*.tmp"):  # .tmp: as earlier versions called them
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


def _clear_after_kills(folder: Path) -> None:
    """Remove what processes of this machine that are no more left unfinished in a folder; once a process."""
    if folder in _cleared or os.name != "posix":
        return
    _cleared.add(folder)
    for path in folder.glob(f".*.{_HOST}{UNFINISHED}"):
        with contextlib.suppress(OSError, ValueError):
            if not runs(int(path.name.split(".")[2])):
                path.unlink()


def runs(process: int) -> bool:
    """Whether a process of this number runs here."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def _named(error: OSError, path: Path) -> OSError:
    """The same error, of ``path``: libraries wrap it in text of their own, or name another file or none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return OSError(cause.errno, cause.strerror or os.strerror(cause.errno), str(path))
        cause = cause.__cause__ or cause.__context__
    return OSError(f"{path}: {error}")  # a library's own, in words


REPORT, BESIDE = "conversion.json", ".report"
"""Name of a conversion's report, and what the name of a folder of DICOM results has more where it lies beside them."""
RUN = ("args", "command.txt")

log = logging.getLogger(__name__)
_told: set[str] = set()


def what(folder: Path | str) -> str | None:
    """What a folder is, in words: results of a conversion, the report on them, a run of a training; None for others."""
    folder = Path(os.path.abspath(folder))
    if (folder / REPORT).is_file():
        return "the report of a conversion" if folder.name.endswith(BESIDE) else "results of a conversion"
    if (folder.with_name(folder.name + BESIDE) / REPORT).is_file():
        return "results of a conversion"
    return "a run of a training" if all((folder / name).is_file() for name in RUN) else None


def without_ours(place: Path | str, folders: Iterable[str]) -> list[str]:
    """The names ``folders`` in the folder ``place`` without ours, which a line each tells of, once a process.

    What is named itself is searched, whatever it is: this is for folders that are found below.
    """
    kept = []
    for name in folders:
        path = os.path.join(place, name)
        found = what(path)
        if found is None:
            kept.append(name)
        elif path not in _told:
            _told.add(path)
            log.warning("%s: left out, it holds %s; to take its images, name it", path, found)
    return kept
