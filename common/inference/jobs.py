"""The images of a conversion as jobs of the pipeline: each slice into the network, and its result into files."""

import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from medi2i.common.errors import UserError, one_line
from medi2i.common.inference import edges, pipeline
from medi2i.common.inference.analysis import Analysis
from medi2i.common.inference.generator import Translate
from medi2i.common.inference.plan import Plan
from medi2i.common.inference.report import SKIPPED, WRITTEN, Report
from medi2i.common.inference.results import Results, grey
from medi2i.common.inference.slices import Slice, SliceCache, bytes_of, load_slice
from medi2i.common.inference.uncertainty import DeviationMaps, Samples
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
    """What is ``pending`` of a conversion, and what becomes of it.

    report, results, maps: where it is written down, and to. place: folder for what lies beside results. pending:
    {index of volume: set of indices of slices}. Attributes: ``written`` and ``failed`` images so far, these because the
    network has no result for them, and the labels of those that are ``left``.
    """

    def __init__(
        self,
        plan: Plan,
        networks: Networks,
        report: Report,
        results: Results,
        maps: DeviationMaps | None,
        place: Path,
        pending: dict[int, set[int]],
    ) -> None:
        self.plan, self.networks, self.report, self.results, self.maps = plan, networks, report, results, maps
        self.place, self.pending = place, pending
        self.written = self.failed = 0
        self.left = {plan.images.volumes[number].sources[i].label for number, some in pending.items() for i in some}
        self._skipped = 0
        self._told: set[tuple[int, str]] = set()

    def run(self, stop: Callable[[], bool], quiet: bool) -> None:
        """Convert it all, until ``stop`` says otherwise; ``quiet``: no progress is shown.

        Raises UserError, and what the operating system says of files.
        """
        options = self.plan.options
        try:
            with tqdm(
                total=len(self.left), desc="converting", unit="image", file=sys.stderr, disable=True if quiet else None
            ) as self._bar:
                pipeline.run(
                    self._jobs(),
                    self.networks.run,
                    batch_size=options.batch_size,
                    workers=options.workers,
                    at_once=self.networks.at_once,
                    stop=stop,
                )
        except MemoryError as error:
            raise UserError(
                f"out of memory ({error}); --tile 512, or a smaller one, needs less, and so does a smaller --batch_size"
            ) from error

    def _jobs(self) -> Iterator[pipeline.Job]:
        for number, wanted in sorted(self.pending.items()):
            volume = self.plan.images.volumes[number]
            self.results.begin(volume)
            if self.maps is not None:
                self.maps.begin(volume)
            for warning in volume.series.warnings if volume.series is not None else ():
                log.warning("%s ...: %s", volume.sources[0].label, warning)
            yield from self._jobs_of(volume, wanted)

    def _jobs_of(self, volume: Volume, wanted: set[int]) -> Iterator[pipeline.Job]:
        plan, batch, sources = self.plan, self.plan.options.batch_size, volume.sources
        limit = plan.stack + 2 * (plan.options.workers + batch) + (self.networks.at_once + 1) * batch
        cache = SliceCache(
            lambda index: load_slice(sources[index], plan.preparation),
            limit if plan.stack > 1 else 0,  # a slice that is in one stack only is asked for once
            lambda index: bytes_of(sources[index], plan.preparation),
        )
        return pipeline.jobs(
            cache,
            len(sources),
            plan.stack,
            plan.combine,
            wanted,
            functools.partial(self._ready, volume),
            lambda index, error: self._failed(sources[index], error),
        )

    def _ready(self, volume: Volume, index: int, y: np.ndarray, slices: dict[int, Slice]) -> Callable[[], None]:
        """In the one thread where the analysis may run its networks: what a writing thread shall do."""
        self._warn(volume, volume.sources[index], slices[index])
        write_analysis = None
        if (analysis := self.networks.analysis) is not None:
            members = pipeline.middle_stack(index, len(volume.sources), self.plan.stack)
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
                details["structure"] = self._compare(source, middle, y)
            self._release(middle)
            if write_analysis is not None:
                write_analysis(self._beside("analysis", source))
            inputs = [one for _, one in sorted(slices.items())]
            if deviation is not None and self.maps is not None:
                details["deviation"] = self.maps.write(volume, source, deviation, middle, inputs)
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

    def _compare(self, source: Source, middle: Slice, y: np.ndarray) -> dict[str, float | list[int]]:
        found = edges.compare(grey(middle.unit), grey(y))
        if self.plan.options.structure == "maps":
            edges.write_maps(self._beside("structure", source), grey(middle.unit), grey(y), found)
        return found.numbers()

    def _release(self, middle: Slice) -> None:
        """An image that no other stack needs is not kept for the network that it has been in."""
        if self.plan.stack == 1:
            middle.unit = np.empty(0, np.float32)

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
