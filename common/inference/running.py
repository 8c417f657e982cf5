"""The images of a conversion on their way through the network: what is to be converted now, and what became of it."""

import logging
import re
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medi2i.common.errors import UserError, one_line
from medi2i.common.inference import edges, pipeline, stacks
from medi2i.common.inference.edges import write_maps
from medi2i.common.inference.outcome import Outcome
from medi2i.common.inference.report import SKIPPED, THERE, WRITTEN
from medi2i.common.inference.results import grey
from medi2i.common.inference.shards import final_details, final_state
from medi2i.common.inference.slices import SliceCache, load_slice

log = logging.getLogger(__name__)


class Run:
    """The conversion of what is pending, with its counts.

    plan: ``conversion.Plan``. report, results: where it is written down, and to. place: folder for what lies beside
    results. maps: DeviationMaps or None. watch: SignalWatch, asked between images. own,
    pending: {index of volume: set of indices of slices} of this process, and what of it is to be converted. skipped:
    names and reasons known before. part: it is a shard, whose report is complete without any result, too. quiet: no
    progress is shown.
    """

    def __init__(self, plan, report, place, results, maps, own, pending, skipped, watch, part=False, quiet=False):
        self.plan, self.options, self.place = plan, plan.options, place
        self.report, self.results, self.maps = report, results, maps
        self.own, self.pending = own, pending
        self.written = self.failed = 0
        self.left = {plan.inputs.volumes[number].sources[i].label for number, some in pending.items() for i in some}
        self.watch = watch
        self.skipped = dict(skipped)
        self.there = sum(len(own[number] - pending.get(number, set())) for number in own)
        self.part, self.quiet = part, quiet
        self.bar = None
        self._told = set()

    def run(self):
        """Convert. Returns the Outcome. Raises UserError, and what the operating system says of files."""
        plan, report = self.plan, self.report
        for number, indices in self.own.items():
            for index in sorted(indices - self.pending.get(number, set())):
                source = plan.inputs.volumes[number].sources[index]
                if report.begun_by_resume(source.label) is None:
                    report.put(source.label, THERE, results=self._names(source))
        report.write()
        state = "interrupted"
        try:
            with tqdm(
                total=len(self.left),
                desc="converting",
                unit="image",
                file=sys.stderr,
                disable=True if self.quiet else None,
            ) as self.bar:
                pipeline.run(
                    self._jobs(),
                    plan.network,
                    batch_size=self.options.batch_size,
                    workers=self.options.workers,
                    at_once=plan.network.at_once,
                    stop=lambda: self.watch.received is not None,
                )
            if not self.left or self.watch.received is None:
                state = "complete" if self.part else final_state(report)
        except MemoryError as error:
            raise UserError(
                f"out of memory ({error}); --tile 512, or a smaller one, needs less, and so does a smaller --batch_size"
            ) from error
        finally:
            self._close(state)
        changes = {name: found["edge_change"] for name, found in report.details("structure").items()}
        return Outcome(
            self.written,
            self.there,
            self.skipped,
            changes,
            report.details("deviation"),
            report.details("values"),
            report.details("mean_change"),
            self.failed,
        )

    def _close(self, state):
        """Write the report. Where the disk is full it is the first error that counts, and the journal has all."""
        failed = sys.exc_info()[0] is not None
        try:
            self.report.write(state, **final_details(self.report, self._sampled()))
        except OSError:
            if not failed:
                raise

    def _sampled(self):
        return None if self.plan.samples is None else self.plan.samples.text

    def _jobs(self):
        plan, batch = self.plan, self.options.batch_size
        limit = plan.stack + 2 * (self.options.workers + batch) + (plan.network.at_once + 1) * batch
        limit = limit if plan.stack > 1 else 0  # a slice that is in one stack only is asked for once
        for number, volume in enumerate(plan.inputs.volumes):
            wanted = self.pending.get(number)
            if not wanted:
                continue
            self.results.begin(volume)
            if self.maps is not None and self.results.is_dicom(volume):
                self.maps.begin(volume)
            for warning in volume.series.warnings if volume.series is not None else ():
                log.warning("%s ...: %s", volume.sources[0].label, warning)
            cache = SliceCache(lambda index, volume=volume: load_slice(volume.sources[index], plan.preparation), limit)
            yield from stacks.jobs(
                cache,
                len(volume.sources),
                plan.stack,
                plan.combine,
                wanted,
                lambda index, y, slices, volume=volume: self._ready(volume, index, y, slices),
                lambda index, error, volume=volume: self._failed(volume.sources[index], error),
            )

    def _ready(self, volume, index, y, slices):
        """In the one thread where the analysis may run its networks: what a writing thread shall do."""
        self._tell(volume, volume.sources[index], slices[index])
        maps = None
        if self.plan.analysis is not None:
            members = stacks.middle_stack(index, len(volume.sources), self.plan.stack)
            maps = self.plan.analysis.maps(np.concatenate([slices.get(i, slices[index]).unit for i in members]))
        return lambda: self._write(volume, index, y, slices, maps)

    def _tell(self, volume, source, middle):
        """Warn of what the pixels of a slice told, once for each volume; that of its header is told before."""
        for image in middle.images:
            for note in image.warnings:
                kind = id(volume), re.sub(r"[0-9]+", "#", note)
                if note not in source.ref.warnings and kind not in self._told:
                    self._told.add(kind)
                    log.warning("%s: %s", source.label, note)

    def _write(self, volume, index, y, slices, maps):
        """In a writing thread: maps first, so that a result that is there has all that belongs to it."""
        source, middle = volume.sources[index], slices[index]
        y, deviation = (y, None) if self.plan.samples is None else self.plan.samples.split(y)
        self.report.begin(source.label)
        details = {}
        try:
            _refuse_no_number(y, deviation)
            if self.plan.compare_edges and self.options.structure != "none" and min(y.shape[1:]) > 1:
                details["structure"] = self._compare(source, middle, y)
            self._release(middle)
            if maps is not None:
                self.plan.analysis.write(self._beside("analysis", source), maps)
            inputs = [one for _, one in sorted(slices.items())]
            if deviation is not None:
                details["deviation"] = self.maps.write(volume, source, deviation, middle, inputs)
            details.update(self.results.write(volume, source, y, middle, inputs))
        except UserError as error:  # an image that cannot be held by its kind of file; the disk's errors end the run
            self._failed(source, error)
            return
        self.report.note(source.label, WRITTEN, results=self._names(source), **details)
        self.written += 1
        self._done(source)

    def _done(self, source):
        self.left.discard(source.label)
        self.bar.update()

    def _compare(self, source, middle, y):
        maps = self.options.structure == "maps"
        before = edges.edges(grey(middle.unit))
        if not maps:
            self._release(middle)
        found = edges.compare_edges(before, edges.edges(grey(y)))
        if maps:
            write_maps(self._beside("structure", source), grey(middle.unit), grey(y), found)
        return found.numbers()

    def _release(self, middle):
        """An image that no other stack needs is not kept for the network that it has been in."""
        if self.plan.stack == 1:
            middle.unit = None

    def _beside(self, folder, source):
        """Path without suffix for extra files on a result, in a folder of their own."""
        return self.place / folder / Path(self.results.form.names(source)[0]).with_suffix("")

    def _names(self, source):
        names = list(self.results.form.names(source))
        return names[0] if len(names) == 1 else names

    def _failed(self, source, error):
        self.failed += isinstance(error, pipeline.NoResult)
        reason = one_line(error)
        for path in source.paths:
            reason = reason.removeprefix(f"{path}: ")
        self.report.note(source.label, SKIPPED, reason=reason)
        self.skipped[source.label] = reason
        self.bar.set_postfix(skipped=len(self.skipped), refresh=False)
        self._done(source)


def _refuse_no_number(*results):
    """NoResult where a pixel is NaN or infinite: such images are not written in any form."""
    for result in results:
        if result is not None and (bad := result.size - int(np.count_nonzero(np.isfinite(result)))):
            raise pipeline.NoResult(
                f"{bad} of {result.size} values of the network's result are not finite numbers; nothing was written"
            )
