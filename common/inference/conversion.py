"""Converting images: what both convert.py do once they know the network, the images and how results are written."""
import dataclasses
import logging
import os
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medi2i.common.errors import UserError, one_line
from medi2i.common.inference import pipeline, stacks, structure
from medi2i.common.inference.deviation import DeviationMaps
from medi2i.common.inference.inputs import Inputs
from medi2i.common.inference.report import SKIPPED, THERE, WRITTEN, Report
from medi2i.common.inference.results import Format, Provenance, Results
from medi2i.common.inference.slices import Preparation, SliceCache, load_slice
from medi2i.common.inference.stacks import Combine
from medi2i.common.inference.structure_maps import write_maps
from medi2i.common.inference.uncertainty import Samples

log = logging.getLogger(__name__)

LINES = 10  # of one kind on the terminal; conversion.json has all

@dataclasses.dataclass(frozen=True)
class Plan:
    """All of one conversion. ``options``: PairedConversionOptions or UnpairedConversionOptions.

    network: (N, C, H, W) in [-1, 1] -> (N, C', H, W). model: dict that names the weights (for the report; "sha256"
    and "name" are used). settings: dict of all else that decides the pixels of a result. analyse(unit, result) -> None
    or dict of named maps to be written beside a result. samples: where the network answers several times; ``network``
    is then its ``run``.
    """

    options: object
    network: object
    model: dict
    settings: dict
    preparation: Preparation
    form: Format
    stack: int
    combine: Combine
    inputs: Inputs
    description: str
    compare_edges: bool
    analysis: object = None
    samples: Samples | None = None


def convert(plan: Plan) -> int:
    """Run a conversion, tell how it went on stderr, and return the status of the process. Raises UserError."""
    options, inputs, out = plan.options, plan.inputs, Path(plan.options.out)
    refuse_input_folders(out, inputs)
    report = Report(out, plan.model, plan.settings, [*options.root, *([options.val] if options.val else [])])
    when = _date_of(report, options)
    provenance = Provenance(plan.model["name"], plan.model["sha256"], plan.description, plan.settings,
                            options.modality, when)
    results = Results(out, plan.form, provenance, inputs.volumes, options.force or options.resume)
    maps = DeviationMaps(results, plan.samples) if plan.samples is not None and plan.samples.deviation else None
    pending = _pending(results, maps, inputs, options)
    if options.resume:
        report.resume()
    make_folder(out)
    report.content["series_date"] = when.strftime("%Y-%m-%d %H:%M:%S")
    for item in inputs.skipped:
        report.note(item.name, SKIPPED, reason=item.reason)
    return _Run(plan, out, report, results, maps, pending).run()


def refuse_input_folders(out, inputs):
    """UserError if the folder ``out`` is one in which images to convert lie."""
    folders = {os.path.realpath(source.paths[0].parent) for source in inputs.sources}
    if os.path.realpath(out) in folders:
        raise UserError(f"--out: {out} is a folder of the images to convert; results go into another one")


def make_folder(out):
    """Make the output folder. Raises UserError if that cannot be, or nothing can be written into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out: {out} is, or lies below, a file; it should be a folder") from None
    except OSError as error:
        raise UserError(f"--out: {out} cannot be made ({error.strerror})") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"--out: no permission to write into {out}")


def _date_of(report, options):
    """The date of the derived series: that of an earlier run continued or done again here, else now."""
    if (options.resume or options.force) and (earlier := report.earlier("series_date")) is not None:
        return datetime.strptime(earlier, "%Y-%m-%d %H:%M:%S")
    epoch = os.environ.get("SOURCE_DATE_EPOCH")  # reproducible-builds.org: the date to use instead of now
    return datetime.fromtimestamp(int(epoch)) if epoch else datetime.now().replace(microsecond=0)


def _pending(results, maps, inputs, options):
    """{index of volume: set of indices of slices} that are to be converted. Raises UserError for files in the way."""
    claimed, pending, in_the_way = {}, {}, []
    sources = {os.path.realpath(path) for source in inputs.sources for path in source.paths}
    for number, volume in enumerate(inputs.volumes):
        for index, source in enumerate(volume.sources):
            paths = results.paths(source) + (() if maps is None else maps.paths(source))
            for path in paths:
                other = claimed.setdefault(path, source)
                if other is not source:
                    raise UserError(f"{source.label} and {other.label} would both be written as {path}; convert them "
                                    "in two runs with different --out")
                if os.path.realpath(path) in sources:
                    raise UserError(f"--out: {path} is one of the images to convert; choose another folder")
            there = [path for path in paths if path.exists()]
            if there and not (options.resume or options.force):
                in_the_way.append(there[0])
            if options.force or len(there) < len(paths):
                pending.setdefault(number, set()).add(index)
    if in_the_way:
        raise UserError(f"{in_the_way[0]}: exists, and so do {len(in_the_way) - 1} more results; --resume would leave "
                        "them and convert the rest, --force would overwrite them")
    return pending


class _Run:
    """The conversion of what is ``pending``, with its counts."""

    def __init__(self, plan, out, report, results, maps, pending):
        self.plan, self.options, self.out, self.report, self.results = plan, plan.options, out, report, results
        self.maps = maps
        self.pending = pending
        self.changes = report.edge_changes()
        self.written_now = 0
        self.skipped = {item.name: item.reason for item in plan.inputs.skipped}
        self.there = len(plan.inputs.sources) - sum(len(indices) for indices in pending.values())
        self.bar = None

    def run(self):
        plan, report = self.plan, self.report
        for number, volume in enumerate(plan.inputs.volumes):
            for index, source in enumerate(volume.sources):
                if index not in self.pending.get(number, ()) and report.begun_by_resume(source.label) is None:
                    report.note(source.label, THERE, results=self._names(source))
        report.write()
        total = sum(len(indices) for indices in self.pending.values())
        started = time.perf_counter()
        state = "interrupted"
        try:
            with tqdm(total=total, desc="converting", unit="image", file=sys.stderr, disable=None) as self.bar:
                pipeline.run(self._jobs(), plan.network, batch_size=self.options.batch_size,
                             workers=self.options.workers)
            state = "complete" if self.written_now or self.there else "nothing converted"
        except MemoryError as error:
            raise UserError(f"out of memory ({error}); --tile 512, or a smaller one, needs less, and so does a smaller "
                            "--batch_size") from error
        finally:
            self._finish(state)
        return self._summary(time.perf_counter() - started)

    def _jobs(self):
        plan, limit = self.plan, self.plan.stack + 2 * (self.options.workers + self.options.batch_size) + 2
        for number, volume in enumerate(plan.inputs.volumes):
            wanted = self.pending.get(number)
            if not wanted:
                continue
            self.results.begin(volume)
            if self.maps is not None and self.results.is_dicom(volume):
                self.maps.begin(volume)
            if plan.stack > 1 and volume.series is not None:
                for warning in volume.series.warnings:
                    log.warning("%s ...: %s", volume.sources[0].label, warning)
            cache = SliceCache(lambda index, volume=volume: load_slice(volume.sources[index], plan.preparation), limit)
            yield from stacks.jobs(
                cache, len(volume.sources), plan.stack, plan.combine, wanted,
                lambda index, y, slices, volume=volume: self._ready(volume, index, y, slices),
                lambda index, error, volume=volume: self._failed(volume.sources[index], error))

    def _ready(self, volume, index, y, slices):
        """In the thread of the network, which the analysis needs too: what a writing thread shall do."""
        maps = None
        if self.plan.analysis is not None:
            members = stacks.middle_stack(index, len(volume.sources), self.plan.stack)
            maps = self.plan.analysis.maps(np.concatenate([slices.get(i, slices[index]).unit for i in members]))
        return lambda: self._write(volume, index, y, slices, maps)

    def _write(self, volume, index, y, slices, maps):
        """In a writing thread: maps first, so that a result that is there has all that belongs to it."""
        source, middle = volume.sources[index], slices[index]
        y, deviation = (y, None) if self.plan.samples is None else self.plan.samples.split(y)
        details = {}
        try:
            if self.plan.compare_edges and self.options.structure != "none":
                details["structure"] = self._compare(source, middle, y)
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
        self.written_now += 1
        self.bar.update()

    def _compare(self, source, middle, y):
        found = structure.compare(middle.unit.mean(0), y.mean(0))
        self.changes[source.label] = found.numbers()["edge_change"]
        if self.options.structure == "maps":
            write_maps(self._beside("structure", source), middle.unit.mean(0), y.mean(0), found)
        return found.numbers()

    def _beside(self, folder, source):
        """Path without suffix for extra files on a result, in a folder of their own."""
        return self.out / folder / Path(self.results.form.names(source)[0]).with_suffix("")

    def _names(self, source):
        names = list(self.results.form.names(source))
        return names[0] if len(names) == 1 else names

    def _failed(self, source, error):
        reason = one_line(error)
        for path in source.paths:
            reason = reason.removeprefix(f"{path}: ")
        self.report.note(source.label, SKIPPED, reason=reason)
        self.skipped[source.label] = reason
        self.bar.set_postfix(skipped=len(self.skipped), refresh=False)
        self.bar.update()

    def _finish(self, state):
        found = structure.summary(self.changes)
        deviation = {} if self.maps is None else self.maps.summary()
        self.report.write(state, **({"structure": found} if found else {}),
                          **({"deviation": deviation} if deviation else {}))

    def _summary(self, seconds):
        written, there, skipped = self.written_now, self.there, self.skipped
        if not written and not there:
            name, reason = min(skipped.items())
            others = f" (nor could the other {len(skipped) - 1} files be converted)" if len(skipped) > 1 else ""
            raise UserError(f"{name}: {reason}{others}")
        self._tell_some([f"skipped {name}: {reason}" for name, reason in sorted(skipped.items())])
        if self.changes:
            self._tell_structure()
        if self.maps is not None and self.maps.text():
            self._tell(self.maps.text())
        rate = f", {written / seconds:.2f} images/s" if written else ""
        self._tell(f"{written} written, {there} there already, {len(skipped)} skipped, in {self.out} "
                   f"({seconds:.1f} s{rate})")
        if skipped and self.options.strict:
            raise UserError(f"--strict: {len(skipped)} file(s) skipped, listed in {self.report.path}")
        return 0

    def _tell_structure(self):
        found = structure.summary(self.changes)
        limit = self.options.structure_warn
        changed = [(change, name) for name, change in self.changes.items() if change > limit]
        self._tell(f"edges: mean change {found['mean_edge_change']:.3f}, largest {found['largest_edge_change']:.3f} in "
                   f"{found['largest_in']} (1 - correlation of edges of input and output)")
        self._tell_some([f"warning: {name}: edges change by {change:.3f}, more than --structure_warn {limit:g}; "
                         "structures may have been added, moved or lost"
                         for change, name in sorted(changed, reverse=True)])

    def _tell_some(self, lines):
        for line in lines[:LINES]:
            self._tell(line)
        if len(lines) > LINES:
            self._tell(f"... and {len(lines) - LINES} more like this, listed in {self.report.path}")

    def _tell(self, text):
        print(text, file=sys.stderr)
