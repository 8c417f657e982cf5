"""A conversion split into shards: several processes, each with its share of the images, leave what one would leave.

Every process looks at all images, so that series keep their order, their stacks and their UIDs, and converts its own
run of neighbours. What the shards have to agree on, the files of an earlier conversion, lies in
``<out>/conversion.shards/plan.json``, which the first to come writes; each keeps its report beside it. Whoever finishes
last puts the reports together as ``conversion.json`` and takes the folder away.
"""

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.common.inference.outcome import state_of, summary_of
from medi2i.common.inference.report import (
    COMPARED,
    first_difference,
    read_journal,
    read_report,
)
from medi2i.datasets.outputs import whole_file

FOLDER = "conversion.shards"
PLAN = "plan.json"
PATIENCE = 5.0  # seconds for a file that another machine wrote to appear here


@dataclass(frozen=True)
class Shard:
    """Number ``number`` (from 1) of ``count`` shards."""

    number: int
    count: int

    def __str__(self):
        return f"{self.number}/{self.count}"

    def place(self, total):
        """The range of its images among ``total``: neighbours; sizes differ by one at most."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)


def parse_shard(text):
    """``2/3`` as a Shard. Raises UserError."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
    if found is None:
        raise UserError(f"--shards: {text!r} is not I/N; 1/4, 2/4, 3/4 and 4/4 are the shards of a conversion in four")
    number, count = int(found[1]), int(found[2])
    if count == 0:
        raise UserError(f"--shards: {text} are no shards at all; 1/1 is the whole conversion")
    if not 1 <= number <= count:
        raise UserError(
            f"--shards: {text}: shards count from 1, so those of {count} are 1/{count}"
            + (f" to {count}/{count}" if count > 1 else "")
        )
    return Shard(number, count)


def own_slices(shard, inputs):
    """{index of volume: set of indices of slices} of the ``shard``. Raises UserError if there is none for it."""
    total = len(inputs.sources)
    if shard.count > total:
        raise UserError(
            f"{shard.count} shards for {total} image(s): each needs one at least, so {total} shard(s) at "
            "most would be right"
        )
    place, own, first = shard.place(total), {}, 0
    for number, volume in enumerate(inputs.volumes):
        indices = {index for index in range(len(volume.sources)) if first + index in place}
        if indices:
            own[number] = indices
        first += len(volume.sources)
    return own


def labels_of(shard, inputs):
    """The names in the report that are the shard's: its slices, and the first's also what is no image at all."""
    labels = {inputs.sources[i].label for i in shard.place(len(inputs.sources))}
    return labels | {item.name for item in inputs.skipped} if shard.number == 1 else labels


class ShardFolder:
    """What the shards of one conversion tell each other.

    out: the folder of the conversion. count: of the shards. report: a fresh Report of the whole conversion, with all
    that decides the results. inputs: of the whole conversion.
    """

    def __init__(self, out, count, report, inputs):
        self.out, self.path, self.count = Path(out), Path(out) / FOLDER, count
        self.whole, self.content, self.inputs = report, report.content, inputs
        self.plan = None

    def begin(self, *, resume, force):
        """Join the conversion that other shards have begun, or be the first.

        Raises UserError for another conversion in the same folder.
        """
        while True:
            found = _read(self.path / PLAN)
            if found is not None and self._is_same(found, force):
                self.plan = found
                return
            if found is not None:
                remove(self.out)
            plan = {key: self.content[key] for key in COMPARED}
            plan |= {"shards": self.count, "files": self._earlier(resume, force)}
            with contextlib.suppress(FileExistsError):
                _create(self.path / PLAN, plan)
            # Read again: where no links can be made, two who come at once may both think that they were the first.

    def _is_same(self, plan, force):
        """Whether ``plan`` is of this conversion; False with ``force``, else UserError, where it is of another."""
        different = next((d for key in COMPARED if (d := first_difference(plan.get(key, {}), self.content[key]))), None)
        if different is None and plan.get("shards") != self.count:
            different = f"number of shards ({plan.get('shards')}; now {self.count})"
        if different is None:
            return True
        if force:
            return False
        raise UserError(
            f"{self.path}: shards of a conversion with another {different} were begun here; use the same, "
            "another --out, or --force to convert everything again"
        )

    def _earlier(self, resume, force):
        """Entries of a complete earlier conversion that is continued or done again here; {} without one."""
        if resume:
            self.whole.resume()
        return (self.whole.earlier("files") or {}) if resume or force else {}

    def follow(self):
        """Join the conversion that has been begun; ``begin`` for those who know that another process was first."""
        end = time.monotonic() + PATIENCE
        while (found := _read(self.path / PLAN)) is None:
            if time.monotonic() > end:
                raise UserError(f"{self.path / PLAN}: not to be seen here; --out must be one folder for all processes")
            time.sleep(0.05)
        self.plan = found

    def report_name(self, shard):
        """Of the shard's own report, below the output folder."""
        return f"{FOLDER}/{shard.number}.json"

    def earlier_of(self, shard):
        """What ``--resume`` knows of the shard's images: entries by name."""
        own = _read(self.path / f"{shard.number}.json") or {"files": {}}
        known, labels = {**self.plan["files"], **own["files"]}, labels_of(shard, self.inputs)
        return {name: entry for name, entry in known.items() if name in labels}

    def merge(self, samples=None):
        """Write ``conversion.json`` if all shards have finished.

        samples: what was sampled for deviation maps, in words. Returns (the Report or None, numbers of the shards that
        have not finished).
        """
        files, read, unfinished = {}, [], []
        for number in range(1, self.count + 1):
            path = self.path / f"{number}.json"
            report, labels = _read(path), labels_of(Shard(number, self.count), self.inputs)
            if report is not None and report.get("state") == "complete":
                files |= report["files"]
                read.append(path)
            elif report is None and labels <= self.plan["files"].keys():  # not run again, and nothing is missing
                files |= {name: self.plan["files"][name] for name in labels}
            else:
                unfinished.append(number)
        if unfinished:  # without a plan: another shard finished at the same time and has put all together
            return None, unfinished if (self.path / PLAN).exists() else []
        report = self.whole
        report.content["files"] = files
        report.write(state_of(files), **summary_of(files, samples))
        for path in (*read, self.path / PLAN):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a shard that is run again has begun meanwhile
            self.path.rmdir()
        return report, []


def absorb(report, out):
    """One process resumes what shards have begun in the folder ``out``: their entries become those of ``report``.

    Raises UserError.
    """
    folder = Path(out) / FOLDER
    plan = _read(folder / PLAN)
    if plan is None:
        return
    for key in COMPARED:
        different = first_difference(plan.get(key, {}), report.content[key])
        if different is not None:
            raise UserError(
                f"--resume: {folder} is of a conversion with another {different}; use the same, another "
                "--out, or --force to convert everything again"
            )
    files = report.content["files"] | plan["files"]
    for number in range(1, _count_of(plan) + 1):
        files |= (_read(folder / f"{number}.json") or {"files": {}})["files"]
    report.take_over(files)


def unfinished(out):
    """Names of files that killed shards in the folder ``out`` were writing."""
    return set().union(*(read_journal(path)[1] for path in (Path(out) / FOLDER).glob("[0-9]*.json")))


def _count_of(plan):
    count = plan.get("shards")
    return count if isinstance(count, int) and 0 < count <= 10**6 else 0  # more than any conversion has images


def refuse_begun(out):
    """UserError if shards of a conversion were begun in the folder ``out`` and have not all finished."""
    if (Path(out) / FOLDER / PLAN).exists():
        raise UserError(
            f"{Path(out) / FOLDER}: shards of a conversion were begun here and have not finished; --resume "
            "would convert the rest, --force everything again"
        )


def remove(out):
    """Take away what shards told each other in the folder ``out``."""
    folder = Path(out) / FOLDER
    if folder.is_dir():
        for path in (*folder.glob("*.json"), *folder.glob(".*.journal")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _read(path):
    """The report or plan at ``path``, None if there is none. Raises UserError where it is no such file."""
    try:
        return read_report(path, ("files",))
    except FileNotFoundError:
        return None


def _create(path, content):
    """Write a JSON file that must not be there yet: FileExistsError if somebody was quicker."""
    try:
        with whole_file(path, force=False) as temporary:
            temporary.write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
            )
    except UserError:
        raise FileExistsError(os.fspath(path)) from None
