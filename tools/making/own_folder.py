"""A folder that a command may empty and fill again, without ever deleting what it did not make."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.common.json_files import read_json
from medi2i.datasets.locks import is_lock
from medi2i.datasets.outputs import write_text

RECORD = ".made-by.json"
MOST_BYTES = 1 << 24


class OwnFolder:
    """`path` with a record of what `maker` made in it: the files of each finished step, and the step under way.

    Raises UserError where the folder holds things but no record of this maker.
    """

    def __init__(self, path, maker: str):
        self.path, self.maker = Path(path), maker
        self._record = {"maker": maker, "steps": {}, "under_way": None}
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; --out needs a folder")
        record = self.path / RECORD
        if record.is_file():
            try:
                self._record = read_json(record, "a record of what the demo made", MOST_BYTES)
            except UserError:
                self._record = None
        if not _is_record(self._record):
            raise UserError(f"{record}: damaged; remove the folder yourself or give another --out")
        foreign = not record.is_file() and any(not is_lock(path) for path in self.path.iterdir())
        if self._record["maker"] != maker or foreign:
            raise UserError(f"{self.path}: was not made by {maker}; give a new folder as --out")

    def clear(self):
        """Delete what earlier runs made. Raises UserError, before anything is deleted, where a step's folder holds
        other files too; other files beside these folders stay."""
        for step, known in self._record["steps"].items():
            foreign = sorted(set(_files(self.path / step)) - set(known))
            if foreign:
                raise UserError(
                    f"{self.path / step / foreign[0]}: was not made by {self.maker}, and its folder is in "
                    "the way; move it elsewhere or give another --out"
                )
        unfinished = self._record["under_way"]
        for step in [*self._record["steps"], *([unfinished] if unfinished else [])]:
            if (self.path / step).is_dir():
                shutil.rmtree(self.path / step)
        self._record.update(steps={}, under_way=None)
        self._save()

    @contextmanager
    def step(self, name: str):
        """The path of the folder `name`, new: the body of the `with` makes and fills it. Raises UserError."""
        folder = self.path / name
        if folder.exists():
            raise UserError(
                f"{folder}: is in the way and was not made by {self.maker}; move it elsewhere or give another --out"
            )
        self._record["under_way"] = name
        self._save()
        yield folder
        self._record["under_way"] = None
        self._record["steps"][name] = sorted(_files(folder))
        self._save()

    def _save(self):
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / RECORD, json.dumps(self._record))


def _is_record(record):
    """Whether it has the form that `_save` writes; a step is a plain name, so nothing outside can be meant."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("maker"), str)
        and isinstance(record.get("steps"), dict)
        and all(_is_name(name) and isinstance(known, list) for name, known in record["steps"].items())
        and (record.get("under_way") is None or _is_name(record["under_way"]))
    )


def _is_name(name):
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _files(folder):
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
