"""Finished steps of a long measurement, each in a folder of its own: a run that was interrupted goes on from there."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medi2i.common.outputs import write_text

MARK = "quality.work"
RECORD = "step.json"


class Work:
    """A folder of steps. Ends the program where the folder holds other things."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path).resolve()
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / MARK).exists():
            raise SystemExit(f"--work: {path} holds other things; a new folder would be right")
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / MARK).touch()

    def folder(self, name: str) -> Path:
        """Where the step `name` lies."""
        return self.path / name

    def record(self, name: str) -> dict[str, Any] | None:
        """What a finished step left: {"decided_by", "seconds", "facts"}, or None."""
        try:
            return json.loads((self.path / name / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def finished(self, name: str) -> dict[str, Any]:
        """The same of a step that has to be there; ends the program where it is not."""
        found = self.record(name)
        if found is None:
            raise SystemExit(f"{self.path / name}: this step is not there; run it first")
        return found

    def step(self, name: str, decided_by: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Make a step unless it is there already, decided by the same. Returns its facts.

        decided_by: dict, all that the result depends on. make(folder): fills the new folder, and returns a dict of
        facts to keep with it, or None.
        """
        decided_by = json.loads(json.dumps(decided_by))
        known = self.record(name)
        if known is not None and known["decided_by"] == decided_by:
            return known["facts"]
        folder = self.path / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        began = time.monotonic()
        facts = make(folder) or {}
        write_json(folder / RECORD, {"decided_by": decided_by, "seconds": time.monotonic() - began, "facts": facts})
        return json.loads(json.dumps(facts))


def write_json(path: Path, content: object) -> None:
    """Write JSON so that the file is there whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
