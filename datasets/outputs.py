"""Outputs appear whole or not at all, and never in the place of an input."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

from medi2i.common.errors import UserError

UNFINISHED = ".part"
"""End of the names of files being written; they are hidden, and a killed process leaves them behind."""

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
def whole_file(out_path: Path, force: bool) -> Iterator[Path]:
    """A hidden temporary path beside ``out_path`` that takes its name when the block ends well, and vanishes when it
    does not. An OSError in the block (a full disk) is raised with the name of ``out_path``."""
    out_path.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_kills(out_path.parent.absolute())
    mark = hashlib.sha256(out_path.name.encode(errors="surrogateescape")).hexdigest()[:16]
    temporary = out_path.with_name(f".{mark}.{os.getpid()}.{_HOST}{UNFINISHED}")
    try:
        yield temporary
        if force:
            os.replace(temporary, out_path)
            return
        try:
            os.link(temporary, out_path)  # unlike a rename, fails if somebody made the file in the meantime
        except FileExistsError:
            raise UserError(f"{out_path}: exists; --force would overwrite it") from None
        except OSError:  # a file system without links
            os.rename(temporary, out_path)
    except OSError as error:
        raise _named(error, out_path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _clear_after_kills(folder: Path) -> None:
    """Remove what processes of this machine that are no more left unfinished in a folder; once a process."""
    if folder in _cleared or os.name != "posix":
        return
    _cleared.add(folder)
    for path in folder.glob(f".*.{_HOST}{UNFINISHED}"):
        with contextlib.suppress(OSError, ValueError):
            if not _runs(int(path.name.split(".")[2])):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _named(error: OSError, path: Path) -> OSError:
    """The same error, of ``path``: libraries wrap it in text of their own, or name another file or none."""
    cause = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno is not None):
        cause = cause.__cause__ or cause.__context__
    return error if cause is None else OSError(cause.errno, cause.strerror, str(path))
