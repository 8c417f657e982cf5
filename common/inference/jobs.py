"""The images of a conversion as jobs of the pipeline: which are to be converted, each slice into the network, and its
result into files."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from medi2i.common.errors import UserError, counted, one_line
from medi2i.common.inference import edges, pipeline, shards
from medi2i.common.inference.analysis import Analysis
from medi2i.common.inference.generator import Translate
from medi2i.common.inference.plan import Plan
from medi2i.common.inference.report import COMPLETE, SKIPPED, THERE, WRITTEN, Report, place_for, read_journal
from medi2i.common.inference.results import Results, grey
from medi2i.common.inference.slices import Slice, SliceCache
from medi2i.common.inference.uncertainty import Samples
from medi2i.common.training.ending import SignalWatch
from medi2i.common.training.likeness import compare
from medi2i.datasets.catalogue import Source, Volume

log = logging.getLogger(__name__)


class Networks(NamedTuple):
    """What a conversion runs, and how many threads ``at_once``.

    samples: what that is made by where the network answers several times. analysis: what analyses results.
    """

    run: Translate
    at_once: int
    samples: Samples | None
    analysis: Analysis | None


class Jobs:
    """The share of a conversion that is this process's: what is to be done of it, and what becomes of it.

    Attributes: ``report``, of the whole or of the ``shard``; the labels of images that are ``left``; how many were
    ``there`` before, are ``written``, and ``failed`` because the network has no result for them. Raises UserError for
    files in the way.
    """

    def __init__(self, plan: Plan, networks: Networks, shard: shards.Shard | None) -> None:
        options, images, samples, out = plan.options, plan.images, networks.samples, Path(plan.options.out)
        self.plan, self.networks, self.shard = plan, networks, shard
        self.place = place_for(out, plan.form.is_dicom(images.sources[0]))  # of what lies beside results
        about = plan.model.description, plan.settings, [*options.root, *([options.val] if options.val else [])]
        self.report = Report(self.place, *about, samples=None if samples is None else samples.text)
        self.own = (shard or shards.Shard(1, 1)).sources(images)
        if shard is not None:
            self.report = shards.ShardReport(out, shard, self.report, images)
        elif not (options.resume or options.force):
            shards.refuse_begun(out)
        self.results = Results(plan, samples)
        self.left = self._pending()
        self.there = len(self.own) - len(self.left)
        self.written = self.failed = 0
        self._skipped = 0
        self._told: set[tuple[int, str]] = set()

    def _pending(self) -> set[str]:
        """The labels of its own images to be converted. Raises UserError for files in the way."""
        options, images, in_the_way = self.plan.options, self.plan.images, []
        unfinished: set[str] = set()  # what killed processes were writing, if this one goes on where they were
        if options.resume:
            others = shards.reports(Path(options.out)) if self.shard is None else ()
            unfinished = unfinished.union(*(read_journal(path)[1] for path in (self.report.path, *others)))
        claimed: dict[Path, Source] = {}
        sources = {os.path.realpath(path) for source in images.sources for path in source.paths}
        own = {source.label for source in self.own}
        pending: set[str] = set()
        for source in images.sources:
            paths = self.results.paths(source) + self.results.paths_of_map(source)
            for path in paths:
                other = claimed.setdefault(path, source)
                if other is not source:
                    raise UserError(
                        f"{source.label} and {other.label} would both be written as {path}; convert them "
                        "in two runs with different --out"
                    )
                if os.path.realpath(path) in sources:
                    raise UserError(f"--out: {path} is one of the images to convert; choose another folder")
            if source.label not in own:
                continue
            there = [path for path in paths if path.exists()]
            if there and not (options.resume or options.force):
                in_the_way.append(there[0])
            if options.force or len(there) < len(paths) or source.label in unfinished:
                pending.add(source.label)
        if in_the_way:
            more = f", and so do {counted(len(in_the_way) - 1, 'more result')}" if in_the_way[1:] else ""
            raise UserError(
                f"{in_the_way[0]}: exists{more}; --resume would leave what is there and convert the rest, "
                "--force would overwrite it"
            )
        return pending

    def begin(self) -> None:
        """Make the folder and a report, with what an earlier run did."""
        options, report, images, out = self.plan.options, self.report, self.plan.images, Path(self.plan.options.out)
        if isinstance(report, shards.ShardReport):
            report.join(resume=options.resume, force=options.force)
        elif options.resume:
            report.resume()
            report.take_over(report.files | shards.begun(out, report))
        if self.shard is None or self.shard.number == 1:
            for item in images.skipped:
                report.put(item.name, SKIPPED, reason=item.reason)
        for source in self.own:
            if source.label not in self.left and source.label not in report.files:
                report.put(source.label, THERE, results=self.results.named(source))
        report.write()
        if self.shard is None:
            shards.remove(out)

    def run(self, watch: SignalWatch) -> None:
        """Convert it all, until ``watch`` says otherwise; a quiet shard shows no progress.

        Raises UserError, and what the operating system says of files.
        """
        options, report, state = self.plan.options, self.report, "interrupted"
        hidden = True if self.shard is not None and self.shard.quiet else None
        try:
            with tqdm(
                total=len(self.left), desc="converting", unit="image", file=sys.stderr, disable=hidden
            ) as self._bar:
                pipeline.run(
                    self._jobs(),
                    self.networks.run,
                    batch_size=options.batch_size,
                    workers=options.workers,
                    at_once=self.networks.at_once,
                    stop=lambda: watch.received is not None,
                )
            if not self.left or watch.received is None:
                state = report.final_state if self.shard is None else COMPLETE
        except MemoryError as error:
            raise UserError(
                f"out of memory ({error}); --tile 512, or a smaller one, needs less, and so does a smaller --batch_size"
            ) from error
        finally:
            failed = sys.exc_info()[0] is not None
            try:
                report.write(state, **report.summary())
            except OSError:  # where the disk is full it is the first error that counts, and the journal has all
                if not failed:
                    raise

    def _jobs(self) -> Iterator[pipeline.Job]:
        for volume in self.plan.images.volumes:
            wanted = {index for index, source in enumerate(volume.sources) if source.label in self.left}
            if not wanted:
                continue
            self.results.begin(volume)
            for warning in volume.series.warnings if volume.series is not None else ():
                log.warning("%s ...: %s", volume.sources[0].label, warning)
            yield from self._jobs_of(volume, wanted)

    def _jobs_of(self, volume: Volume, wanted: set[int]) -> Iterator[pipeline.Job]:
        plan, batch, stack = self.plan, self.plan.options.batch_size, self.plan.model.stack
        limit = stack + 2 * (plan.options.workers + batch) + (self.networks.at_once + 1) * batch
        return pipeline.jobs(
            # A slice that is in one stack only is asked for once.
            SliceCache(volume.sources, plan.preparation, limit if stack > 1 else 0),
            stack,
            plan.combine,
            wanted,
            functools.partial(self._ready, volume),
            lambda index, error: self._failed(volume.sources[index], error),
        )

    def _ready(self, volume: Volume, index: int, y: np.ndarray, slices: dict[int, Slice]) -> Callable[[], None]:
        """In the one thread where the analysis may run its networks: what a writing thread shall do."""
        self._warn(volume, volume.sources[index], slices[index])
        write_analysis = None
        if (analysis := self.networks.analysis) is not None:
            members = pipeline.middle_stack(index, len(volume.sources), self.plan.model.stack)
            maps = analysis.maps(np.concatenate([slices.get(i, slices[index]).unit for i in members]))
            write_analysis = functools.partial(analysis.write, maps=maps)
        return lambda: self._write(volume, index, y, slices, write_analysis)

    def _warn(self, volume: Volume, source: Source, middle: Slice) -> None:
        """Warn of what the pixels of a slice told, once for each volume; that of its header is told before."""
        for image in middle.images:
            for note in image.warnings:
                kind = id(volume), re.sub(r"[0-9]+", "#", note)
                if source.ref is not None and note not in source.ref.warnings and kind not in self._told:
                    self._told.add(kind)
                    log.warning("%s: %s", source.label, note)

    def _write(
        self,
        volume: Volume,
        index: int,
        y: np.ndarray,
        slices: dict[int, Slice],
        write_analysis: Callable[[Path], None] | None,
    ) -> None:
        """In a writing thread: maps first, so that a result that is there has all that belongs to it."""
        options, samples = self.plan.options, self.networks.samples
        source, middle = volume.sources[index], slices[index]
        y, deviation = (y, None) if samples is None else samples.split(y)
        self.report.begin(source.label)
        details: dict[str, object] = {}
        try:
            refuse_no_number(y, deviation)
            if self.plan.expected is not None:
                details["likeness"] = {"series": volume.sources[0].label, **compare(grey(middle.unit), grey(y))}
            if self.plan.compare_edges and options.structure != "none" and min(y.shape[1:]) > edges.SQUARE:
                found = edges.compare(grey(middle.unit), grey(y))
                if options.structure == "maps":
                    edges.write_maps(self._beside("structure", source), grey(middle.unit), grey(y), found)
                details["structure"] = found.numbers()
            if self.plan.model.stack == 1:  # an image that no other stack needs is not kept for the network it was in
                middle.unit = np.empty(0, np.float32)
            if write_analysis is not None:
                write_analysis(self._beside("analysis", source))
            inputs = [one for _, one in sorted(slices.items())]
            if deviation is not None:
                details["deviation"] = self.results.write_map(volume, source, deviation, middle, inputs)
            details.update(self.results.write(volume, source, y, middle, inputs))
        except UserError as error:  # an image that cannot be held by its kind of file; the disk's errors end the run
            self._failed(source, error)
            return
        self.report.note(source.label, WRITTEN, results=self.results.named(source), **details)
        self.written += 1
        self._done(source)

    def _done(self, source: Source) -> None:
        self.left.discard(source.label)
        self._bar.update()

    def _beside(self, folder: str, source: Source) -> Path:
        """Path without suffix for extra files on a result, in a folder of their own."""
        return self.place / folder / Path(self.plan.form.names(source)[0]).with_suffix("")

    def _failed(self, source: Source, error: Exception) -> None:
        self.failed += isinstance(error, pipeline.NoResult)
        reason = one_line(error)
        for path in source.paths:
            reason = reason.removeprefix(f"{path}: ")
        self.report.note(source.label, SKIPPED, reason=reason)
        self._skipped += 1
        self._bar.set_postfix(skipped=self._skipped, refresh=False)
        self._done(source)


def refuse_no_number(*results: np.ndarray | None) -> None:
    """NoResult where a pixel is NaN or infinite: such images are not written in any form."""
    for result in results:
        if result is not None and (bad := result.size - int(np.count_nonzero(np.isfinite(result)))):
            raise pipeline.NoResult(
                f"{bad} of {result.size} values of the network's result are not finite numbers; nothing was written"
            )
