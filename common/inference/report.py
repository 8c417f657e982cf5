"""``conversion.json``: what was converted, by which model, with which options, what became of each file."""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medi2i.common import VERSION
from medi2i.common.bounded_files import parse_json, read_json
from medi2i.common.errors import UserError
from medi2i.common.inference import edges, values
from medi2i.common.outputs import BESIDE, append_text, write_text
from medi2i.common.outputs import REPORT as NAME
from medi2i.common.training import likeness

WRITE_EVERY_SECONDS = 10.0
MOST_BYTES = 1 << 27  # some 300,000 images
COMPARED = ("model", "settings", "inputs")
WRITTEN, THERE, SKIPPED = "written", "there already", "skipped"
COMPLETE, NOTHING = "complete", "nothing converted"
MOST_SHOWN = 80  # characters of an option in an error

Entries = dict[str, dict[str, Any]]
"""What became of each file, by its name: "status", of what was skipped the "reason", else how it was measured."""

log = logging.getLogger(__name__)


def beside(folder: Path | str) -> Path:
    """Where the report of DICOM results in ``folder`` lies: senders of whole folders stop at what is no DICOM."""
    folder = Path(os.path.abspath(folder))
    return folder.with_name(folder.name + BESIDE)


def place_for(out: Path, dicom: bool) -> Path:
    """The folder of the report on results in ``out``: that folder, or ``beside`` it where they are DICOM.

    Nothing can lie beside the root of a mounted volume, or in a folder that is not the user's: then it is ``out``,
    with a warning.
    """
    if not dicom:
        return out
    place = beside(out)
    existing = next(folder for folder in place.parents if folder.exists())
    if place.exists() or not (os.path.ismount(out) or not os.access(existing, os.W_OK | os.X_OK)):
        return place
    log.warning(
        "%s: nothing can be written beside it, so %s lies in it; what sends the whole folder may stop there", out, NAME
    )
    return out


def find_report(folder: Path | str) -> Path | None:
    """The report on the results in ``folder``, or in the folder above it; None without one."""
    folder = Path(os.path.abspath(folder))
    places = [place for one in (folder, *folder.parents[:1]) for place in (beside(one), one)]
    return next((place / NAME for place in places if (place / NAME).is_file()), None)


class Report:
    """The state of one conversion, on disk from the first moment and always a whole file.

    ``model`` and ``settings`` are dicts of what decides the content of the results, ``inputs`` the files and folders
    given; ``resume`` compares them. ``name``: of the file, below ``folder``. ``samples``: what was sampled for maps of
    the deviation, in words.
    The file holds no times, so that converting the same files again gives the same bytes. Threads may share it.
    """

    def __init__(
        self,
        folder: Path | str,
        model: Mapping[str, object],
        settings: Mapping[str, object],
        inputs: Sequence[str],
        name: str = NAME,
        samples: str | None = None,
    ) -> None:
        self.path, self.about, self.samples = Path(folder) / name, (model, settings, inputs), samples
        self.content: dict[str, Any] = {
            "medi2i_version": VERSION,
            "model": model,
            "settings": settings,
            "inputs": {"given": inputs},
            "state": "running",
            "counts": {},
            "files": {},
        }
        self._journal = journal_of(self.path)
        self._begun: set[str] = set()
        self._resumed = False
        self._lock = threading.Lock()
        self._written_at = 0.0

    @property
    def files(self) -> Entries:
        """What became of each file so far."""
        return self.content["files"]

    @property
    def skipped(self) -> dict[str, str]:
        """name -> reason of what was skipped."""
        return {name: entry["reason"] for name, entry in self.files.items() if entry["status"] == SKIPPED}

    @property
    def final_state(self) -> str:
        """ "complete", or "nothing converted" where every image was skipped."""
        return COMPLETE if any(entry["status"] in (WRITTEN, THERE) for entry in self.files.values()) else NOTHING

    def details(self, key: str) -> dict[str, Any]:
        """name -> detail ``key`` of its entry, of the files that have it."""
        return {name: entry[key] for name, entry in self.files.items() if key in entry}

    def edge_changes(self) -> dict[str, float]:
        """name -> ``edges.Structure.change``, of the files that were compared."""
        return {name: found["edge_change"] for name, found in self.details("structure").items()}

    def summary(self) -> dict[str, dict]:
        """What a finished report says of all images together."""
        series: dict[str, list[dict[str, Any]]] = {}
        for entry in self.details("likeness").values():
            series.setdefault(entry["series"], []).append(entry)
        found: dict[str, dict] = {
            "structure": edges.summary(self.edge_changes()),
            "likeness": {name: likeness.typical(entries) for name, entries in sorted(series.items())},
            "deviation": values.deviation_summary(self.details("deviation"), self.samples),
            **values.summary(self.details("values"), self.details("mean_change")),
        }
        return {key: value for key, value in found.items() if value}

    def refuse_nothing(self) -> None:
        """UserError: there is no result at all."""
        skipped = self.skipped
        name, reason = min(skipped.items())
        others = f" (nor could the other {len(skipped) - 1} files be converted)" if len(skipped) > 1 else ""
        raise UserError(f"{name}: {reason}{others}")

    def resume(self) -> None:
        """Take over the files of an earlier run. Raises UserError if it had another model or other options."""
        if not self.path.exists():
            return
        old = read_report(self.path, (*COMPARED, "files"))
        other = self.difference(old)
        if other is not None:
            raise UserError(
                f"--resume: {self.path} is of a run with another {other}; use the same, another "
                "--out, or --force to make everything anew"
            )
        self.take_over(old["files"])

    def take_over(self, files: Entries) -> None:
        """Go on with the entries ``files`` of an earlier run. What it skipped is tried again."""
        self.content["files"] = {name: entry for name, entry in files.items() if entry["status"] != SKIPPED}
        self._resumed = True

    def difference(self, old: Mapping[str, Any]) -> str | None:
        """The first thing that decides results and is not the same in another report, with both values."""
        for key in COMPARED:
            then, now = old.get(key, {}), json.loads(json.dumps(self.content[key]))
            for name in sorted({*then, *now}):
                if then.get(name) != now.get(name):
                    return f"{name} ({_short(then.get(name))}; now {_short(now.get(name))})"
        shards = self.content.get("shards")
        return None if shards in (None, old.get("shards")) else f"number of shards ({old.get('shards')}; now {shards})"

    def put(self, name: str, status: str, **details: object) -> None:
        """Set the entry of one file, to be written by ``write``."""
        with self._lock:
            self.files[name] = {"status": status, **details}

    def begin(self, name: str) -> None:
        """A result is about to be written: in the journal, so that after a kill it is known to be made again."""
        with self._lock:
            self._begun.add(name)
            append_text(self._journal, _line(begun=name))

    def note(self, name: str, status: str, **details: object) -> None:
        """Set the entry of one file: in the journal at once, and in the report now and then."""
        with self._lock:
            self.files[name] = {"status": status, **details}
            self._begun.discard(name)
            append_text(self._journal, _line(name=name, entry=self.files[name]))
            if time.monotonic() - self._written_at > WRITE_EVERY_SECONDS:
                self._write()

    def write(self, state: str = "running", **more: object) -> None:
        """Write the file now; ``more`` becomes top-level entries."""
        with self._lock:
            self.content.update(state=state, **more)
            if not self._written_at and not self._resumed:  # of another run, whose report goes now
                self._journal.unlink(missing_ok=True)
            self._write()

    def _write(self) -> None:
        counts = Counter(entry["status"] for entry in self.files.values())
        self.content["counts"] = dict(sorted(counts.items()))
        ordered = {**self.content, "files": dict(sorted(self.files.items()))}
        write_text(self.path, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
        self._written_at = time.monotonic()
        if self._begun:
            write_text(self._journal, "".join(_line(begun=name) for name in sorted(self._begun)))
        else:
            self._journal.unlink(missing_ok=True)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def journal_of(path: Path) -> Path:
    """The file beside a report that gets a line for each file of a conversion as it is begun and done."""
    return path.with_name(f".{path.name}.journal")


def _line(**what: object) -> str:
    return json.dumps(what) + "\n"


def read_journal(path: Path) -> tuple[Entries, set[str]]:
    """(name → entry, names begun and not done) of the journal of the report ``path``; a half-written line ends it.

    Nothing is known of the results of what is begun and not done.
    """
    done: Entries = {}
    begun: set[str] = set()
    try:
        with open(journal_of(path), "rb") as file:
            for text in file:
                found = parse_json(text)
                if "begun" in found:
                    begun.add(found["begun"])
                elif _is_entry(found["entry"]):
                    done[found["name"]] = found["entry"]
                    begun.discard(found["name"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass
    return done, begun


def read_report(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """The content of a report's file, in which each of ``keys`` is a dict. Raises UserError, FileNotFoundError."""
    right = "without --resume choose another --out, or --force"
    content = read_json(path, right, MOST_BYTES, "a readable report")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in keys):
        raise UserError(f"{path}: not a readable report (it has no {', '.join(keys)}); {right}")
    wrong = [name for name, entry in content.get("files", {}).items() if not _is_entry(entry)]
    if wrong:
        raise UserError(f"{path}: not a readable report ({wrong[0]!r} is not as a conversion writes it); {right}")
    if "files" in content:
        content["files"] |= read_journal(path)[0]
    return content


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("status") in (WRITTEN, THERE, SKIPPED)
        and (entry["status"] != SKIPPED or isinstance(entry.get("reason"), str))
        and all(isinstance(entry.get(key, {}), dict) for key in ("structure", "deviation", "likeness"))
        and isinstance(entry.get("likeness", {}).get("series", ""), str)
    )
