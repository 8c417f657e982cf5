"""Converting images: what both convert.py do once the command line is read, until all is told; and a volume in memory
on the same way, HU in, HU out, without files."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.errors import UserError, counted
from medi2i.common.inference import pipeline, shards
from medi2i.common.inference.generator import (
    AnySize,
    ConversionOptions,
    Model,
    TrainingOptions,
    engine_of,
    load_model,
)
from medi2i.common.inference.graph_engines import examples_of
from medi2i.common.inference.jobs import Jobs, Networks, refuse_no_number
from medi2i.common.inference.plan import Plan
from medi2i.common.inference.report import (
    COMPLETE,
    SKIPPED,
    THERE,
    Outcome,
    Report,
    place_for,
    state_of,
    summary_of,
    tell,
)
from medi2i.common.inference.results import Results, background, parts_of, softmax
from medi2i.common.inference.shards import Shard, sharing
from medi2i.common.inference.slices import Slice, SliceCache, bytes_of, load_slice
from medi2i.common.inference.uncertainty import DeviationMaps, sampled, samples_of
from medi2i.common.locks import locked
from medi2i.common.networks.checkpoint import Generator
from medi2i.common.networks.from_options import fitting_of
from medi2i.common.training.ending import SignalWatch
from medi2i.datasets.catalogue import Catalogue, Source, Volume
from medi2i.datasets.dicom.series import SliceRef
from medi2i.datasets.reading import Image
from medi2i.datasets.unpacking import write_back


class Done(NamedTuple):
    """How a conversion ended. complete: whether this process wrote the report of the whole of it."""

    plan: Plan
    status: int
    complete: bool


def run_conversion(
    options: ConversionOptions,
    given: dict[str, object],
    application: type[TrainingOptions],
    images_of: Callable[[Any, Model], Catalogue],
    plan_of: Callable[[Any, Model, Catalogue], Plan],
    model: Model | None = None,
) -> Done:
    """All of a convert.py behind its command line: model, images, plan, networks, then conversion. Raises UserError.

    given: training options on the command line. application: the class of those that the model was trained with.
    model: where it is loaded already.
    """
    use_cpu_engine(options.cpu_engine)
    use_gpu_engine(options.gpu_engine)
    shard, options = sharing(options)
    model = model or load_model(options, given, application)
    plan = plan_of(options, model, images_of(options, model))
    done = convert(plan, open_networks(plan), shard)
    if done.complete and plan.form.is_dicom(plan.images.sources[0]) and len(options.root) == 1:
        same = getattr(plan.model.trained, "scale", 1) == 1
        write_back(options.root[0], Path(options.out), same, options.force or options.resume)
    return done


def convert(plan: Plan, networks: Networks, shard: Shard | None) -> Done:
    """Run a conversion, or its ``shard``, and tell how it went on stderr. Raises UserError."""
    started = time.perf_counter()
    speaks = shard is None or not shard.quiet
    with (
        SignalWatch(speaks, "finishing the images under way, then the report") as watch,
        _hold_folder(plan, shard),
    ):
        work = Conversion(plan, networks, shard)
        work.begin()
        if speaks and plan.known:
            print("\n".join(plan.known), file=sys.stderr)
        outcome = work.run(watch)
        left = len(work.jobs.left)
        if left and watch.received:
            print(
                f"{watch.received.name}: {outcome.written} written, {outcome.there} there already, "
                f"{len(outcome.skipped)} skipped, {left} left out, as {work.report.path} says; --resume converts "
                "the rest",
                file=sys.stderr,
            )
            return Done(plan, 128 + watch.received, False)
        return Done(plan, 0, work.close(outcome, time.perf_counter() - started))


def open_networks(plan: Plan) -> Networks:
    """What the plan's model is run by. Raises UserError."""
    options, model, device = plan.options, plan.model, choose_device(plan.options.gpu)

    def examples() -> list[np.ndarray]:
        return examples_of(plan.images, plan.preparation, plan.stack, fitting_of(model.trained))

    def network(generator: Generator | None, images: int = 1, strength: float = 1.0) -> AnySize:
        engine = engine_of(generator, device, options, plan.hu_clip, examples, images)
        return AnySize(generator, engine, options.tile, options.tile_overlap, strength)

    def by_chainer() -> AnySize:
        engine = engine_of(model.generator, device)
        return AnySize(model.generator, engine, options.tile, options.tile_overlap, options.strength)

    once = network(model.generator, 1 if sampled(options) else len(plan.images.sources), options.strength)
    samples = samples_of(options, model, once, by_chainer, device, stack=plan.stack, classes=plan.form.classes)
    analysis = None if plan.load_analysis is None else plan.load_analysis(network, device)
    return (
        Networks(once, once.at_once, None, analysis) if samples is None else Networks(samples.run, 1, samples, analysis)
    )


def _hold_folder(plan: Plan, shard: Shard | None) -> contextlib.AbstractContextManager:
    """Context that holds the output folder, together with other shards of this conversion. Raises UserError."""
    out = Path(plan.options.out)
    about = [plan.model.description, plan.settings, shard and shard.count]
    work = json.dumps(about, sort_keys=True, default=str)
    part = None if shard is None else f"{shard.number}of{shard.count}"
    _check_folder(out, plan.images)
    return locked(out, "converting", part, work)


class Conversion:
    """The share of a conversion that is this process's. Raises UserError for files in the way."""

    def __init__(self, plan: Plan, networks: Networks, shard: Shard | None) -> None:
        options, images, samples, self.out = plan.options, plan.images, networks.samples, Path(plan.options.out)
        self.plan, self.shard = plan, shard
        self.sampled = None if samples is None else samples.text
        place = place_for(self.out, plan.form.is_dicom(images.sources[0]))
        about = plan.model.description, plan.settings, [*options.root, *([options.val] if options.val else [])]
        self.report = Report(place, *about)
        self.own = {number: set(range(len(volume.sources))) for number, volume in enumerate(images.volumes)}
        if shard is not None:
            self.own = shard.own_slices(images)
            self.report = shards.ShardReport(self.out, shard, self.report, images)
        elif not (options.resume or options.force):
            shards.refuse_begun(self.out)
        self.results = Results(plan)
        maps = DeviationMaps(self.results, samples) if samples is not None and samples.deviation else None
        pending = _pending(plan, self.results, maps, self.own, self._unfinished())
        self.jobs = Jobs(plan, networks, self.report, self.results, maps, place, pending)
        self.there = sum(map(len, self.own.values())) - len(self.jobs.left)

    def _unfinished(self) -> set[str]:
        """What killed processes were writing, if this one goes on where they were."""
        if not self.plan.options.resume:
            return set()
        return self.report.unfinished() | (shards.unfinished(self.out) if self.shard is None else set())

    def begin(self) -> None:
        """Make the folder and a report, with what an earlier run did."""
        options, report, images = self.plan.options, self.report, self.plan.images
        if isinstance(report, shards.ShardReport):
            report.join(resume=options.resume, force=options.force)
        elif options.resume:
            report.resume()
            report.take_over(report.files | shards.begun(self.out, report))
        if self.shard is None or self.shard.number == 1:
            for item in images.skipped:
                report.put(item.name, SKIPPED, reason=item.reason)
        for number, indices in self.own.items():
            for source in (images.volumes[number].sources[index] for index in sorted(indices)):
                if source.label not in self.jobs.left and source.label not in report.files:
                    report.put(source.label, THERE, results=self.results.named(source))
        report.write()
        if self.shard is None:
            shards.remove(self.out)

    def run(self, watch: SignalWatch) -> Outcome:
        """Convert until ``watch`` says otherwise. Raises UserError, and what the operating system says of files."""
        state, report = "interrupted", self.report
        try:
            self.jobs.run(lambda: watch.received is not None, quiet=self.shard is not None and self.shard.quiet)
            if not self.jobs.left or watch.received is None:
                state = state_of(report.files) if self.shard is None else COMPLETE
        finally:
            failed = sys.exc_info()[0] is not None
            try:
                report.write(state, **summary_of(report.files, self.sampled))
            except OSError:  # where the disk is full it is the first error that counts, and the journal has all
                if not failed:
                    raise
        return Outcome(self.jobs.written, self.there, self.jobs.failed, report.files)

    def close(self, outcome: Outcome, seconds: float) -> bool:
        """Tell what came out; whether that is the whole conversion. Raises UserError if it is nothing."""
        options, shard = self.plan.options, self.shard
        whole: Report | None = self.report
        unfinished: list[int] = []
        if isinstance(self.report, shards.ShardReport):
            whole, unfinished = self.report.merge(self.sampled)
        path = (whole or self.report).path
        if shard is None:
            outcome.refuse_nothing()
        prefix = "" if shard is None else f"shard {shard}: "
        tell(outcome, seconds, self.out, path, options.structure_warn, self.sampled, prefix, self.plan.expected)
        if shard is not None:
            _tell_shards(shard.count, whole, unfinished)
        outcome.refuse_incomplete(path, options.strict)
        return whole is not None


def _tell_shards(count: int, whole: Report | None, unfinished: list[int]) -> None:
    if whole is not None:
        all_of_it = Outcome(files=whole.files)
        if state_of(whole.files) != COMPLETE:
            all_of_it.refuse_nothing()
        skipped = len(all_of_it.skipped)
        print(
            f"all {count} shards have finished: {len(whole.files) - skipped} converted, "
            f"{skipped} skipped, listed in {whole.path}",
            file=sys.stderr,
        )
    elif unfinished:
        print(
            f"{counted(len(unfinished), 'shard')} of {count} not finished yet: "
            f"{', '.join(map(str, unfinished))}; the last one writes conversion.json",
            file=sys.stderr,
        )


def _pending(
    plan: Plan, results: Results, maps: DeviationMaps | None, own: dict[int, set[int]], unfinished: set[str]
) -> dict[int, set[int]]:
    """{index of volume: set of indices of slices} of ``own`` to be converted. Raises UserError for files in the way."""
    options, in_the_way = plan.options, []
    claimed: dict[Path, Source] = {}
    pending: dict[int, set[int]] = {}
    sources = {os.path.realpath(path) for source in plan.images.sources for path in source.paths}
    for number, volume in enumerate(plan.images.volumes):
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
        more = f", and so do {counted(len(in_the_way) - 1, 'more result')}" if in_the_way[1:] else ""
        raise UserError(
            f"{in_the_way[0]}: exists{more}; --resume would leave what is there and convert the rest, --force would "
            "overwrite it"
        )
    return pending


def _check_folder(out: Path, images: Catalogue) -> None:
    """UserError if images to convert lie in the output folder, it cannot be made, or nothing can be written into it."""
    if os.path.realpath(out) in {os.path.realpath(source.path.parent) for source in images.sources}:
        raise UserError(f"--out: {out} is a folder of the images to convert; results go into another one")
    place = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if not place.is_dir():
        raise UserError(f"--out: {out} is, or lies below, a file; it should be a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out: no permission to write into {place}")


def translate(
    images: Sequence[Image],
    spacing: tuple[float, float] | None,
    plan_of: Callable[[Catalogue], Plan],
    modality: str = "CT",
    opened: Callable[[Plan], Networks] = open_networks,
) -> np.ndarray:
    """The results of the slices ``images`` of one volume, in order: what a conversion of a DICOM series with these
    values would write, before its numbers are rounded for the file.

    spacing: (between rows, between columns) in mm, None where it is not known. plan_of: the Plan of such a conversion.
    opened: what the plan's model is run by.
    Returns (Z, H, W) float32 in HU, or (Z, N, H, W) where one slice has N results; of a network for classes their
    numbers, (Z, H, W) whole numbers. Raises UserError.
    """
    sources = []
    for place, image in enumerate(images):
        path, shape = Path(f"slice {place}"), image.array.shape
        ref = SliceRef(path, shape=(shape[1], shape[2]), spacing=spacing, modality=modality)
        sources.append(Source((path,), "dcm", path.name, ref=ref, shape=shape, place=place, held=image))
    plan = plan_of(Catalogue([Volume(sources)], []))
    networks, form = opened(plan), plan.form
    results: dict[int, np.ndarray] = {}

    def deliver(index: int, y: np.ndarray, slices: dict[int, Slice]) -> Callable[[], None]:
        unit = y if networks.samples is None else networks.samples.split(y)[0]
        refuse_no_number(unit)

        def place() -> None:
            middle = slices[index]
            back = middle.placement.back
            if form.classes:
                results[index] = back(softmax(unit), background(form.classes)).argmax(0)
                return
            parts = [back(part, middle.values)[0] for part in parts_of(unit, form, form.clip_for("dcm", None), middle)]
            if middle.mask is not None:
                parts = [np.where(middle.mask, middle.values[0], part) for part in parts]
            results[index] = parts[0] if len(parts) == 1 else np.stack(parts)

        return place

    def failed(index: int, error: Exception) -> None:
        raise error

    cache = SliceCache(
        lambda index: load_slice(sources[index], plan.preparation),
        len(sources) if plan.stack > 1 else 0,
        lambda index: bytes_of(sources[index], plan.preparation),
    )
    pipeline.run(
        pipeline.jobs(cache, len(sources), plan.stack, plan.combine, set(range(len(sources))), deliver, failed),
        networks.run,
        batch_size=plan.options.batch_size,
        workers=plan.options.workers,
        at_once=networks.at_once,
    )
    return np.stack([results[index] for index in range(len(sources))])
