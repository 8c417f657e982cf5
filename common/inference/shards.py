"""Who converts: one process, or one of several shards (``--shards 2/3``, or as an MPI launcher counts its processes).

Shards leave what one process would leave. Every process looks at all images, so that series keep their order, their
stacks and their UIDs, and converts its own run of neighbours. All that decides a result follows from the images, the
model and the options, so there is nothing to agree on: each keeps its report in ``<out>/conversion.shards``, which
says of which conversion it is; whoever finishes last puts them together as ``conversion.json``. Hence MPI itself is
not started either: the launcher's variables say which shard a process is, and no process can wait for one that died.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medi2i.common.device import gpu_count
from medi2i.common.errors import UserError
from medi2i.common.inference.generator import ConversionOptions
from medi2i.common.inference.report import COMPARED, COMPLETE, Entries, Report, read_report
from medi2i.common.resources import launched
from medi2i.datasets.catalogue import Catalogue, Source

FOLDER = "conversion.shards"


@dataclasses.dataclass(frozen=True)
class Shard:
    """Number ``number`` (from 1) of ``count`` shards. quiet: another one shows progress on the same terminal."""

    number: int
    count: int
    quiet: bool = False

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def place(self, total: int) -> range:
        """The range of its images among ``total``: neighbours; sizes differ by one at most."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)

    def sources(self, images: Catalogue) -> list[Source]:
        """The slices of the shard, in order. Raises UserError if there is none for it."""
        total = len(images.sources)
        if self.count > total:
            raise UserError(
                f"{self.count} shards for {total} image(s): each needs one at least, so {total} shard(s) at "
                "most would be right"
            )
        place = self.place(total)
        return images.sources[place.start : place.stop]

    def labels(self, images: Catalogue) -> set[str]:
        """The names in the report that are its own: its slices, and the first's also what is no image at all."""
        labels = {source.label for source in self.sources(images)}
        return labels | {item.name for item in images.skipped} if self.number == 1 else labels


def parse_shard(text: str) -> Shard:
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


class ShardReport(Report):
    """The report of one ``shard``, which becomes part of ``whole``, that of converting ``images`` into ``out``."""

    def __init__(self, out: Path, shard: Shard, whole: Report, images: Catalogue) -> None:
        super().__init__(out / FOLDER, *whole.about, f"{shard.number}.json", whole.samples)
        self.content["shards"] = shard.count
        self.out, self.shard, self.whole, self.images = out, shard, whole, images
        self._earlier: Entries = {}  # of a complete earlier conversion that is continued or done again here

    def join(self, *, resume: bool, force: bool) -> None:
        """Take part in the conversion, with what is known of it. Raises UserError where others convert differently."""
        begun(self.out, self, force)
        if resume:
            self.whole.resume()
        if resume or force:
            with contextlib.suppress(OSError, UserError):
                old = read_report(self.whole.path, (*COMPARED, "files"))
                self._earlier = old["files"] if self.whole.difference(old) is None else {}
        if resume:
            known = self._earlier | _read(self.path).get("files", {})
            labels = self.shard.labels(self.images)
            self.take_over({name: entry for name, entry in known.items() if name in labels})

    def merge(self) -> tuple[Report | None, list[int]]:
        """Write the report of the whole if all shards have finished: (that Report, []), else (None, who has not)."""
        files: Entries = {}
        read, unfinished = [], []
        for number in range(1, self.shard.count + 1):
            path, labels = self.path.with_name(f"{number}.json"), Shard(number, self.shard.count).labels(self.images)
            report = _read(path)
            if report.get("state") == COMPLETE:
                files |= report["files"]
                read.append(path)
            elif not report and labels <= self._earlier.keys():  # not run again, and nothing is missing
                files |= {name: self._earlier[name] for name in labels}
            else:
                unfinished.append(number)
        if unfinished:  # if one's own is gone, another shard finished at the same time and has put all together
            return None, unfinished if self.path.exists() else []
        self.whole.content["files"] = files
        self.whole.write(self.whole.final_state, **self.whole.summary())
        _take_away(read)
        return self.whole, []


def begun(out: Path, report: Report, force: bool = False) -> Entries:
    """What shards have begun in the folder ``out``: the entries of their reports.

    Raises UserError if that is another conversion than that of ``report``; with ``force`` it is taken away.
    """
    files: Entries = {}
    for path in reports(out):
        try:
            found = _read(path)
            other = report.difference(found) if found else None
            if other is not None:
                raise UserError(
                    f"{path.parent}: shards of a conversion with another {other} were begun here; use the same, "
                    "another --out, or --force to convert everything again"
                )
        except UserError:
            if not force:
                raise
            _take_away([path])
        else:
            files |= found.get("files", {})
    return files


def refuse_begun(out: Path) -> None:
    """UserError if shards of a conversion were begun in the folder ``out`` and have not all finished."""
    if any(reports(out)):
        raise UserError(
            f"{out / FOLDER}: shards of a conversion were begun here and have not finished; --resume "
            "would convert the rest, --force everything again"
        )


def remove(out: Path) -> None:
    """Take away what shards left in the folder ``out``."""
    folder = out / FOLDER
    _take_away([*folder.glob("*.json"), *folder.glob(".*.journal")])


def reports(out: Path) -> Iterator[Path]:
    """Those of the shards in the folder ``out``."""
    return (out / FOLDER).glob("[0-9]*.json")


def _read(path: Path) -> dict[str, Any]:
    """The report of a shard, {} if there is none. Raises UserError where it is no such file."""
    try:
        return read_report(path, ("files",))
    except FileNotFoundError:
        return {}


def _take_away(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        with contextlib.suppress(OSError):  # another shard has begun meanwhile
            folder.rmdir()


def sharing(options: ConversionOptions) -> tuple[Shard | None, ConversionOptions]:
    """(shard, None for the whole; options): as ``--shards`` says, else as this process was launched. Raises UserError.

    Processes of one machine take its GPUs in turn where ``--gpu`` says nothing.
    """
    if options.shards is not None:
        return parse_shard(options.shards), options
    found = launched()
    if found is None:
        return None, options
    if options.gpu is None and found.local_rank is not None and (count := gpu_count()[0]):
        options = dataclasses.replace(options, gpu=found.local_rank % count)
    return Shard(found.rank + 1, found.size, quiet=found.rank > 0), options
