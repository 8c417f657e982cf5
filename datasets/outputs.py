"""Outputs appear whole or not at all, and never in the place of an input."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from medi2i.common.errors import UserError


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
    """A hidden temporary path beside ``out_path`` that takes its name when the block ends well, and vanishes when it does
    not."""
    out_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_path.with_name(f".{out_path.name}.{os.getpid()}.part")
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
    finally:
        temporary.unlink(missing_ok=True)
