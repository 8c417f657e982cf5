"""Converting images: what both convert.py do once the command line is read, until all is told; and a volume in memory
on the same way, HU in, HU out, without files."""

import contextlib
import functools
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
from medi2i.common.inference import pipeline, shards, values
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
from medi2i.common.inference.noise import WHOLE, Change
from medi2i.common.inference.plan import Plan
from medi2i.common.inference.report import COMPLETE, Report
from medi2i.common.inference.results import background, parts_of
from medi2i.common.inference.slices import Slice, SliceCache
from medi2i.common.inference.uncertainty import sampled, samples_of, softmax
from medi2i.common.locks import locked
from medi2i.common.networks.checkpoint import Generator
from medi2i.common.networks.from_options import fitting_of
from medi2i.common.training import likeness
from medi2i.common.training.ending import SignalWatch
from medi2i.datasets.catalogue import Catalogue, Source, Volume
from medi2i.datasets.dicom.series import SliceRef
from medi2i.datasets.reading import Image
from medi2i.datasets.unpacking import write_back

LINES = 10  # of one kind on the terminal; conversion.json has all


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
    shard, options = shards.sharing(options)
    model = model or load_model(options, given, application)
    plan = plan_of(options, model, images_of(options, model))
    done = convert(plan, open_networks(plan), shard)
    if done.complete and plan.form.is_dicom(plan.images.sources[0]) and len(options.root) == 1:
        same = getattr(plan.model.trained, "scale", 1) == 1
        write_back(options.root[0], Path(options.out), same, options.force or options.resume)
    return done


def convert(plan: Plan, networks: Networks, shard: shards.Shard | None) -> Done:
    """Run a conversion, or its ``shard``, and tell how it went on stderr. Raises UserError."""
    started = time.perf_counter()
    speaks = shard is None or not shard.quiet
    with (
        SignalWatch(speaks, "finishing the images under way, then the report") as watch,
        _hold_folder(plan, shard),
    ):
        jobs = Jobs(plan, networks, shard)
        jobs.begin()
        if speaks:
            _tell(*plan.known)
        jobs.run(watch)
        left, report = len(jobs.left), jobs.report
        if left and watch.received:
            _tell(
                f"{watch.received.name}: {jobs.written} written, {jobs.there} there already, "
                f"{len(report.skipped)} skipped, {left} left out, as {report.path} says; --resume converts the rest"
            )
            return Done(plan, 128 + watch.received, False)
        whole: Report | None = report
        unfinished: list[int] = []
        if isinstance(report, shards.ShardReport):
            whole, unfinished = report.merge()
        elif not (jobs.written or jobs.there):
            report.refuse_nothing()
        path = (whole or report).path
        _tell_all(jobs, time.perf_counter() - started, path)
        if shard is not None:
            _tell_shards(shard.count, whole, unfinished)
        if jobs.failed:
            raise UserError(f"{jobs.failed} image(s) without a result, listed in {path}")
        if plan.options.strict and report.skipped:
            raise UserError(f"--strict: {len(report.skipped)} file(s) skipped, listed in {path}")
        return Done(plan, 0, whole is not None)


def open_networks(plan: Plan) -> Networks:
    """What the plan's model is run by. Raises UserError."""
    options, model, device = plan.options, plan.model, choose_device(plan.options.gpu)

    def examples() -> list[np.ndarray]:
        return examples_of(plan.images, plan.preparation, plan.model.stack, fitting_of(model.trained))

    def network(
        generator: Generator | None,
        images: int = 1,
        change: Change = WHOLE,
        by: ConversionOptions | None = options,
    ) -> AnySize:
        engine = engine_of(generator, device, by, plan.hu_clip, examples, images)
        return AnySize(generator, engine, options.tile, options.tile_overlap, change)

    by_chainer = functools.partial(network, model.generator, change=plan.change, by=None)
    once = network(model.generator, 1 if sampled(options) else len(plan.images.sources), plan.change)
    samples = samples_of(options, model, once, by_chainer, device, stack=plan.model.stack, classes=plan.form.classes)
    analysis = None if plan.load_analysis is None else plan.load_analysis(network, device)
    return (
        Networks(once, once.at_once, None, analysis) if samples is None else Networks(samples.run, 1, samples, analysis)
    )


def _hold_folder(plan: Plan, shard: shards.Shard | None) -> contextlib.AbstractContextManager:
    """Context that holds the output folder, together with other shards of this conversion.

    Raises UserError if images to convert lie there, it cannot be made, or nothing can be written into it.
    """
    out = Path(plan.options.out)
    about = [plan.model.description, plan.settings, shard and shard.count]
    work = json.dumps(about, sort_keys=True, default=str)
    if os.path.realpath(out) in {os.path.realpath(source.path.parent) for source in plan.images.sources}:
        raise UserError(f"--out: {out} is a folder of the images to convert; results go into another one")
    place = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if not place.is_dir():
        raise UserError(f"--out: {out} is, or lies below, a file; it should be a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out: no permission to write into {place}")
    return locked(out, "converting", None if shard is None else f"{shard.number}of{shard.count}", work)


def _tell_all(jobs: Jobs, seconds: float, path: Path) -> None:
    """Tell what came of the ``jobs``, in ``seconds``; ``path``: of the report that lists all."""
    report, plan = jobs.report, jobs.plan
    found, limit = report.summary(), plan.options.structure_warn
    alike = found.get("likeness", {})
    _tell_some([f"skipped {name}: {reason}" for name, reason in sorted(report.skipped.items())], path)
    if "structure" in found:
        edges = found["structure"]
        _tell(
            f"edges: mean change {edges['mean_edge_change']:.2g}, largest {edges['largest_edge_change']:.2g} in "
            f"{edges['largest_in']} (1 - correlation of edges of input and output)"
        )
        changes = sorted(((change, name) for name, change in report.edge_changes().items()), reverse=True)
        _tell_some(
            [
                f"warning: {name}: edges change by {change:.3f}, more than --structure_warn {limit:g}; "
                "structures may have been added, moved or lost"
                for change, name in changes
                if change > limit
            ],
            path,
        )
    _tell(*values.lines(found))
    if (line := likeness.in_words(list(alike.values()))) is not None:
        _tell(line)
    if plan.expected is not None:
        warned = [
            f"warning: {name} ...: {said}"
            for name, one in alike.items()
            for said in likeness.warnings(one, plan.expected, likeness.SHARE_CONVERTED)
        ]
        _tell_some(warned, path)
    if "deviation" in found:
        _tell(values.deviation_text(found["deviation"], Path(plan.options.out)))
    prefix = "" if jobs.shard is None else f"shard {jobs.shard}: "
    rate = f", {jobs.written / seconds:.2f} images/s" if jobs.written else ""
    _tell(
        f"{prefix}{jobs.written} written, {jobs.there} there already, {len(report.skipped)} skipped, in "
        f"{Path(plan.options.out)} ({seconds:.1f} s{rate})"
    )


def _tell_shards(count: int, whole: Report | None, unfinished: list[int]) -> None:
    if whole is not None:
        if whole.final_state != COMPLETE:
            whole.refuse_nothing()
        skipped = len(whole.skipped)
        _tell(
            f"all {count} shards have finished: {len(whole.files) - skipped} converted, "
            f"{skipped} skipped, listed in {whole.path}"
        )
    elif unfinished:
        _tell(
            f"{counted(len(unfinished), 'shard')} of {count} not finished yet: "
            f"{', '.join(map(str, unfinished))}; the last one writes conversion.json"
        )


def _tell_some(lines: list[str], report: Path) -> None:
    _tell(*lines[:LINES])
    if len(lines) > LINES:
        _tell(f"... and {len(lines) - LINES} more like this, listed in {report}")


def _tell(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


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

    count, stack = len(sources), plan.model.stack
    cache = SliceCache(sources, plan.preparation, count if stack > 1 else 0)
    pipeline.run(
        pipeline.jobs(cache, stack, plan.combine, set(range(count)), deliver, failed),
        networks.run,
        batch_size=plan.options.batch_size,
        workers=plan.options.workers,
        at_once=networks.at_once,
    )
    return np.stack([results[index] for index in range(count)])
