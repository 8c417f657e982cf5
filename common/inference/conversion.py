"""Converting images: what both convert.py do once they know the network, the images and how results are written."""

import contextlib
import dataclasses
import functools
import json
import operator
import os
import sys
import time
from datetime import datetime
from pathlib import Path

from medi2i.common.errors import UserError, counted
from medi2i.common.inference import shards
from medi2i.common.inference.inputs import Inputs
from medi2i.common.inference.network import Network
from medi2i.common.inference.outcome import Outcome, tell
from medi2i.common.inference.ranks import Alone
from medi2i.common.inference.report import DATE, SKIPPED, Report, place_for
from medi2i.common.inference.results import Format, Provenance, Results
from medi2i.common.inference.running import Run
from medi2i.common.inference.slices import Preparation
from medi2i.common.inference.stacks import Combine
from medi2i.common.inference.uncertainty import DeviationMaps, Samples
from medi2i.common.training.ending import SignalWatch
from medi2i.datasets.locks import locked


@dataclasses.dataclass(frozen=True)
class Plan:
    """All of one conversion. ``options``: PairedConversionOptions or UnpairedConversionOptions.

    network: ``network.Network``. model: dict that names the weights (for the report; "sha256" and "name" are used).
    settings: dict of all else that decides the pixels of a result. analyse(unit, result) -> None or dict of named maps
    to be written beside a result. samples: where the network answers several times; ``network`` then runs them. known:
    what is to be said of the model before it begins.
    """

    options: object
    network: Network
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
    known: str | None = None


def convert(plan: Plan, crew=None) -> int:
    """Run a conversion, tell how it went on stderr, and return the status of the process. Raises UserError.

    crew: who converts (``ranks.Alone`` or ``ranks.Ranks``); default: this process, all of it. ``crew.finished`` becomes
    whether this process wrote the report of the whole conversion.
    """
    crew = Alone() if crew is None else crew
    started = time.perf_counter()
    with (
        SignalWatch(crew.leads, "finishing the images under way, then the report") as watch,
        contextlib.ExitStack() as held,
    ):
        crew.agree(lambda: held.enter_context(_hold_folder(plan, crew.shard)))
        work = crew.agree(lambda: _Work(plan, crew.shard))
        crew.agree(lambda: work.begin() if crew.leads else None)
        crew.agree(lambda: None if crew.leads else work.begin(follow=True))
        if crew.leads and plan.known:
            print(plan.known, file=sys.stderr)
        run = work.run(watch, quiet=not crew.leads)
        outcome = crew.agree(run.run, at_once=True)
        outcome = functools.reduce(operator.add, crew.gather(outcome))
        left, received = sum(crew.gather(len(run.left))), [one for one in crew.gather(watch.received) if one]
        if left and received:
            return _interrupted(outcome, left, received[0], work.report.path, crew)
        crew.agree(lambda: work.close(outcome, time.perf_counter() - started, crew) if crew.leads else None)
    return 0


def _interrupted(outcome, left, number, report, crew):
    if crew.leads:
        print(
            f"{number.name}: {outcome.written} written, {outcome.there} there already, {len(outcome.skipped)} "
            f"skipped, {left} left out, as {report} says; --resume converts the rest",
            file=sys.stderr,
        )
    return 128 + number


def _hold_folder(plan, shard):
    """Context that holds the output folder, together with other shards of this conversion. Raises UserError."""
    out = Path(plan.options.out)
    refuse_input_folders(out, plan.inputs)
    work = json.dumps([plan.model, plan.settings, shard and shard.count], sort_keys=True, default=str)
    part = None if shard is None else f"{shard.number}of{shard.count}"
    check_folder(out)
    return locked(out, "converting", part, work)


class _Work:
    """What this process has to convert, and where it is written down. Raises UserError for files in the way."""

    def __init__(self, plan, shard):
        options, inputs, self.out = plan.options, plan.inputs, Path(plan.options.out)
        self.plan, self.shard, self.shards = plan, shard, None
        self.place = place_for(self.out, plan.form.is_dicom(inputs.sources[0]))
        given = [*options.root, *([options.val] if options.val else [])]
        self.report = Report(self.place, plan.model, plan.settings, given)
        self.own = {number: set(range(len(volume.sources))) for number, volume in enumerate(inputs.volumes)}
        self.when = _date_of(self.report, options)
        if shard is not None:
            self.own = shards.own_slices(shard, inputs)
            self.shards = shards.ShardFolder(self.out, shard.count, self.report, inputs)
            self.report = Report(self.out, plan.model, plan.settings, given, self.shards.report_name(shard))
        elif not (options.resume or options.force):
            shards.refuse_begun(self.out)
        provenance = Provenance(
            plan.model["name"], plan.model["sha256"], plan.description, plan.settings, options.modality, self.when
        )
        self.results = Results(self.out, plan.form, provenance, inputs.volumes, options.force or options.resume)
        sampled = plan.samples is not None and plan.samples.deviation
        self.maps = DeviationMaps(self.results, plan.samples) if sampled else None
        self.pending = _pending(self.results, self.maps, inputs, options, self.own, self._unfinished())
        first = shard is None or shard.number == 1
        self.skipped = {item.name: item.reason for item in inputs.skipped} if first else {}

    def _unfinished(self):
        """What killed processes were writing, if this one goes on where they were."""
        if not self.plan.options.resume:
            return set()
        return self.report.unfinished() | (shards.unfinished(self.out) if self.shards is None else set())

    def begin(self, follow=False):
        """Make the folder and a report, with what an earlier run did. ``follow``: another process was first."""
        options, report = self.plan.options, self.report
        if self.shards is None:
            if options.resume:
                report.resume()
                self.when = shards.absorb(report, self.out) or self.when
        else:
            self.when = (
                self.shards.follow()
                if follow
                else self.shards.begin(self.when, resume=options.resume, force=options.force)
            )
            if options.resume:
                report.take_over(self.shards.earlier_of(self.shard))
        self.results.provenance = dataclasses.replace(self.results.provenance, when=self.when)
        report.content["series_date"] = self.when.strftime(DATE)
        for name, reason in self.skipped.items():
            report.put(name, SKIPPED, reason=reason)
        report.write()
        if self.shards is None:
            shards.remove(self.out)

    def run(self, watch, quiet):
        """The Run that converts it, until the SignalWatch ``watch`` says otherwise."""
        return Run(
            self.plan,
            self.report,
            self.place,
            self.results,
            self.maps,
            self.own,
            self.pending,
            self.skipped,
            watch,
            part=self.shard is not None,
            quiet=quiet,
        )

    def close(self, outcome, seconds, crew):
        """Tell what came out, of all processes that ``crew`` brings together. Raises UserError if that is nothing."""
        options, samples = self.plan.options, self.plan.samples
        text = None if samples is None else samples.text
        whole, unfinished = (self.report, []) if self.shards is None else self.shards.merge(text)
        crew.finished = whole is not None
        path = (whole or self.report).path
        if self.shards is None or crew.together:
            outcome.refuse_nothing()
            tell(outcome, seconds, self.out, path, options.structure_warn, text)
        else:
            tell(outcome, seconds, self.out, path, options.structure_warn, text, prefix=f"shard {self.shard}: ")
            self._tell_shards(whole, unfinished)
        outcome.refuse_failed(path)
        if options.strict:
            outcome.refuse_skipped(path)

    def _tell_shards(self, whole, unfinished):
        if whole is not None:
            skipped = shards.skipped_of(whole)
            if shards.final_state(whole) != "complete":
                Outcome(skipped=skipped).refuse_nothing()
            files = whole.content["files"]
            print(
                f"all {self.shards.count} shards have finished: {len(files) - len(skipped)} converted, "
                f"{len(skipped)} skipped, listed in {whole.path}",
                file=sys.stderr,
            )
        elif unfinished:
            print(
                f"{counted(len(unfinished), 'shard')} of {self.shards.count} not finished yet: "
                f"{', '.join(map(str, unfinished))}; the last one writes conversion.json",
                file=sys.stderr,
            )


def refuse_input_folders(out, inputs):
    """UserError if the folder ``out`` is one in which images to convert lie."""
    folders = {os.path.realpath(source.paths[0].parent) for source in inputs.sources}
    if os.path.realpath(out) in folders:
        raise UserError(f"--out: {out} is a folder of the images to convert; results go into another one")


def check_folder(out):
    """UserError if the output folder cannot be made, or nothing can be written into it."""
    place = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if not place.is_dir():
        raise UserError(f"--out: {out} is, or lies below, a file; it should be a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out: no permission to write into {place}")


def _date_of(report, options):
    """The date of the derived series: that of an earlier run continued or done again here, else now."""
    if (options.resume or options.force) and (earlier := report.earlier("series_date")) is not None:
        return datetime.strptime(earlier, DATE)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")  # reproducible-builds.org: the date to use instead of now
    return datetime.fromtimestamp(int(epoch)) if epoch else datetime.now().replace(microsecond=0)


def _pending(results, maps, inputs, options, own, unfinished):
    """{index of volume: set of indices of slices} of ``own`` to be converted. Raises UserError for files in the way."""
    claimed, pending, in_the_way = {}, {}, []
    sources = {os.path.realpath(path) for source in inputs.sources for path in source.paths}
    for number, volume in enumerate(inputs.volumes):
        for index, source in enumerate(volume.sources):
            paths = results.paths(source) + (() if maps is None else maps.paths(source))
            for path in paths:
                other = claimed.setdefault(path, source)
                if other is not source:
                    raise UserError(
                        f"{source.label} and {other.label} would both be written as {path}; convert them "
                        "in two runs with different --out"
                    )
                if os.path.realpath(path) in sources:
                    raise UserError(f"--out: {path} is one of the images to convert; choose another folder")
            if index not in own.get(number, ()):
                continue
            there = [path for path in paths if path.exists()]
            if there and not (options.resume or options.force):
                in_the_way.append(there[0])
            if options.force or len(there) < len(paths) or source.label in unfinished:
                pending.setdefault(number, set()).add(index)
    if in_the_way:
        raise UserError(
            f"{in_the_way[0]}: exists, and so do {len(in_the_way) - 1} more results; --resume would leave "
            "them and convert the rest, --force would overwrite them"
        )
    return pending
