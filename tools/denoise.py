#!/usr/bin/env python
"""Denoise CT series without a training, and report how far the result can be trusted.

  python tools/denoise.py data/ct -o denoised
  python tools/denoise.py data/ct -o denoised --strength 0.7 -m my-scanner

The noise of each series is measured first; a series that the model was not made for is named and left alone. Results
are DICOM, as convert.py writes them; the safety report, which needs no truth, lies beside them in OUT.report.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common import registry
from medi2i.common.device import choose_device, use_cpu_engine
from medi2i.common.errors import UserError, as_main, as_user_errors, counted
from medi2i.common.inference.conversion import run_conversion
from medi2i.common.inference.generator import AnySize, Model, engine_of, load_model
from medi2i.common.inference.graph_engines import bf16_here
from medi2i.common.inference.noise import MOST_UNLIKE, Change, Told, for_noise, told
from medi2i.common.inference.plan import Plan
from medi2i.common.inference.report import NAME as CONVERSION
from medi2i.common.inference.report import place_for
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.options import Checked, PairedOptions, option, parse
from medi2i.common.options.conversion import PairedConversionOptions
from medi2i.common.registry import Card
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import Catalogue, Source, Volume
from medi2i.datasets.dicom.reading import open_file
from medi2i.datasets.noise_level import Noise, noise_in, noise_of
from medi2i.datasets.scaling import PAIRED_HU, Clip
from medi2i.pix2pix import convert
from medi2i.tools.evaluation.safety import Safety, find_inserts

if TYPE_CHECKING:
    from medi2i.tools.evaluation.safety_page import Load

MODEL = "ct-denoise"
TITLE = "Denoised: is it safe?"
LARGEST_DEVIATION = 1.0  # HU RMS, that a quicker precision may differ by
LEAST_NOISE = 2.0  # HU; below, there is nothing to gain
LEAST_LEVEL = 0.5  # HU, of rounding: of images without noise, where they are denoised anyway
ADAPT_RATE = 2e-4  # of Muon, for weights that are good already and networks wider than the preset's
INSERTED = 3  # slices that discs are put into
ITERATIVE = re.compile(  # names of iterative and learned reconstructions, where makers write them
    r"(?<![a-z])(i-?dose|asi?r(-v)?(?![a-z])|veo(?![a-z])|safire|admire|aidr|aice(?![a-z])|dlir|truefidelity|mbir"
    r"|precise ?image|piqe|iterative)",
    re.IGNORECASE,
)


@dataclass
class DenoiseOptions(Checked):
    """What to denoise"""

    root: list[str] = option(["data"], "-R", "-i", nargs="+", bare=True, metavar="FOLDER", help="CT series as DICOM")
    out: str = option("denoised", "-o", metavar="DIR", help="folder for the results")
    model: str = option(MODEL, "-m", metavar="RUN", help="a model by name (medi2i models), or a run folder")
    strength: float = option(
        1.0, type=float, low=0, high=1, help="the result is the input plus this times the change; 0: the input"
    )
    adapt: float | None = option(
        None,
        type=float,
        low=0.1,
        high=10000,
        metavar="MINUTES",
        help="first train the model further on these very images, as --preset denoise_self does",
    )
    anyway: bool = option(False, type=bool, help="also what the model was not made for, with that in the report")
    precision: str = option(
        "auto",
        choices=("auto", "fp32", "bf16", "int8"),
        help="auto: bf16 where the CPU has it and it differs by less than 1 HU, else fp32",
    )
    engine: str = option("auto", choices=("auto", "chainer", "openvino", "onnxruntime"), help="as of convert")
    gpu: int | None = option(None, "-g", type=int, low=-1, help="GPU number, -1 for the CPU; default: the first if any")
    resume: bool = option(False, type=bool, help="go on with what was interrupted")
    force: bool = option(False, type=bool, help="overwrite results that are there")
    report: bool = option(True, type=bool, help="write the safety report; --no-report leaves it out")


class Chosen(NamedTuple):
    """A series to denoise: its noise, and the reasons against it, where it is denoised anyway."""

    volume: Volume
    noise: Noise | None
    reasons: list[str]


def command(argv: list[str]) -> int:
    """The command ``medi2i denoise``. Raises UserError."""
    return denoise_folders(parse(DenoiseOptions, argv, __doc__))


@as_user_errors()
def denoise(
    images: np.ndarray | Path | str,
    out: Path | str | None = None,
    *,
    model: str = MODEL,
    strength: float = 1.0,
    noise_level: float | None = None,
    **options: object,
) -> np.ndarray | Path:
    """Denoise an array, or a folder of CT series with a safety report, as ``medi2i denoise`` does.

    images: HU (Z, Y, X), neighbouring slices, or one slice (Y, X); or a folder, whose results go below ``out``.
    strength: 0 returns the input. noise_level: HU (standard deviation) to be taken away of an array, measured unless
    given; of more noise, the share of it. options: of the command, as ``precision="bf16"``. Returns float32 HU of the
    same shape, or ``out``. Raises UserError.
    """
    if not isinstance(images, np.ndarray):
        if out is None:
            raise UserError("out: is needed for a folder, whose results are files")
        given = {"root": [str(images)], "out": str(out), "model": model, "strength": strength, **options}
        if denoise_folders(DenoiseOptions(**given)):  # type: ignore[arg-type]  # are checked
            raise KeyboardInterrupt
        return Path(out)
    hu = np.asarray(images, np.float32)
    if hu.ndim not in (2, 3) or not hu.size or not np.isfinite(hu).all():
        raise UserError(f"images: shape {hu.shape}; finite HU, (slices, rows, columns) or (rows, columns), are needed")
    chosen = DenoiseOptions(**{"model": model, "strength": strength, **options})  # type: ignore[arg-type]  # are checked
    conversion = conversion_options(chosen)
    loaded = load_model(conversion, {}, PairedOptions)
    slices = hu.reshape(-1, *hu.shape[-2:])
    white = False
    if loaded.trained.noise_level is not None:
        found = noise_in(lambda index: (slices[index], None), range(len(slices)))
        in_part = bool(loaded.trained.gen_residual)
        level, share, white = told(noise_level or _level(found), lambda: {"": found}, in_part)
        conversion = replace(conversion, noise_level=level, strength=strength * share)
    if strength == 0:
        return hu.copy()
    precision = choose_precision(chosen, conversion, loaded, slices[len(slices) // 2])
    translation = Translation(loaded, replace(conversion, precision=precision), white)
    return np.stack([translation(one) for one in slices]).reshape(hu.shape)


def denoise_folders(options: DenoiseOptions) -> int:
    """Measure, convert, measure again. Returns the status of the process; raises UserError."""
    conversion = conversion_options(options)
    model = load_model(conversion, {}, PairedOptions)
    images = convert.images_of(conversion, model)
    chosen, left_alone = choose(options, images, card_of(options.model))
    groups = [chosen] if model.trained.noise_level is None else alike(chosen)
    found: list[tuple[Safety, Load]] = []
    for number, group in enumerate(groups, 1):
        of_group = Catalogue([one.volume for one in group], images.skipped if number == 1 else [])
        level = None if model.trained.noise_level is None else level_of(group)
        one = replace(conversion, noise_level=level)
        if options.adapt is not None:
            one = replace(one, model_gen=str(adapted(options, model.trained, of_group, level)))
        network, middle = load_model(one, {}, PairedOptions), group[0].volume.sources[len(group[0].volume.sources) // 2]
        hu = dicom.read(middle.path, middle.frame).hu
        one = replace(one, precision=choose_precision(options, one, network, hu))
        known = {name_of(each.volume): each.noise for each in group}
        plan_of = partial(convert.plan_of, measure=known.copy)
        done = run_conversion(one, {}, PairedOptions, partial(_given, of_group), plan_of)
        if done.status:
            return done.status
        if options.report:
            found += measure(done.plan, group, Translation(network, one, done.plan.change.white > 0))
        if len(groups) > 1:  # each is a conversion of its own, and so is its report
            path = place_for(Path(options.out), True) / CONVERSION
            path.replace(path.with_name(f"{path.stem}_{number}{path.suffix}"))
    if options.report:
        from medi2i.tools.evaluation import safety_page  # draws, which takes time to import

        adapted_too = "" if options.adapt is None else ", adapted to these images"
        lead = f"by {options.model} ({model.sha256[:8]}){adapted_too}, strength {options.strength:g}"
        safety_page.write_report(place_for(Path(options.out), True), TITLE, lead, found, left_alone)
    return 0


def _given(images: Catalogue, *_: object) -> Catalogue:
    return images


def conversion_options(options: DenoiseOptions) -> PairedConversionOptions:
    """The options of the conversion behind it."""
    same = ("root", "out", "strength", "engine", "gpu", "resume", "force")
    return PairedConversionOptions(
        model_gen=options.model,
        imgtype="dcm",
        outside="keep",
        precision="fp32" if options.precision == "auto" else options.precision,
        **{name: getattr(options, name) for name in same},
    )


def card_of(model: str) -> Card:
    """Of a model by name or of a run folder."""
    path = registry.located(model)
    return registry.card_of(find_run(path).folder if path.is_dir() else path.parent)


# --- which series ---------------------------------------------------------------------------------------------------


def choose(options: DenoiseOptions, images: Catalogue, card: Card) -> tuple[list[Chosen], list[str]]:
    """What is to be denoised, and lines on what is left alone. Tells of each series on stderr. Raises UserError where
    nothing is left."""
    chosen: list[Chosen] = []
    left_alone: list[str] = []
    for volume in images.volumes:
        name = name_of(volume)
        noise, reasons = judge(volume, card)
        print(f"{name}: {'noise ' + noise.text if noise is not None else 'noise not measured'}", file=sys.stderr)
        if reasons and not options.anyway:
            left_alone.append(f"{name}: {'; '.join(reasons)}")
            print(f"left alone: {left_alone[-1]}", file=sys.stderr)
        else:
            chosen.append(Chosen(volume, noise, reasons))
    if not chosen:
        raise UserError(f"{left_alone[0]}; nothing else is left to denoise, and --anyway would do it all the same")
    return chosen, left_alone


def alike(chosen: Sequence[Chosen]) -> list[list[Chosen]]:
    """Those whose noise is about one level, together: a network for one level is told one for all of a conversion."""
    groups: list[list[Chosen]] = []
    for one in sorted(chosen, key=lambda one: _level(one.noise)):
        if groups and _level(one.noise) <= MOST_UNLIKE * _level(groups[-1][0].noise):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def level_of(group: Sequence[Chosen]) -> float:
    """HU that are to be taken away of all in a group."""
    return float(np.sqrt(_level(group[0].noise) * _level(group[-1].noise)))


def _level(noise: Noise | None) -> float:
    return LEAST_LEVEL if noise is None else max(noise.to_remove, LEAST_LEVEL)


def name_of(volume: Volume) -> str:
    """What people call a series: its description, else its folder."""
    series, first = volume.series, volume.sources[0]
    called = (series.description if series is not None else "") or str(first.path.parent)
    return f"{called} ({counted(len(volume.sources), 'slice')} from {first.name})"


def judge(volume: Volume, card: Card) -> tuple[Noise | None, list[str]]:
    """(noise, reasons not to denoise it) of a series. Raises Unreadable."""
    series, modality = volume.series, card.modality or "CT"
    if series is None or series.modality != modality:
        other = "no DICOM series" if series is None else series.modality
        return None, [f"is {other}, and the model is made for {modality}"]
    noise = noise_of(series)
    found = iterative(open_file(volume.sources[0].path).dataset)
    smoothed = [] if found is None else [f"is smoothed by iterative reconstruction already ({found})"]
    return noise, [*_of_noise(noise, card), *_of_pixels(series.spacing, card), *smoothed]


def _of_noise(noise: Noise | None, card: Card) -> Iterator[str]:
    if noise is None:
        yield "no place was found to measure its noise in"
        return
    low, high = card.noise_hu or (LEAST_NOISE, np.inf)
    if noise.level < low:
        yield f"has {noise.level:.1f} HU of noise, less than the {low:g} HU that the model begins at"
    elif noise.level > high:
        yield f"has {noise.level:.1f} HU of noise, more than the {high:g} HU that the model has seen"


def _of_pixels(spacing: tuple[float, float] | None, card: Card) -> Iterator[str]:
    if card.pixel_mm is None:
        return
    low, high = card.pixel_mm
    if spacing is None:
        yield f"does not say how large its pixels are; the model has seen {low:g} to {high:g} mm"
    elif not low <= min(spacing) <= max(spacing) <= high:
        yield f"has pixels of {max(spacing):.3g} mm; the model has seen {low:g} to {high:g} mm"


def iterative(header: Dataset) -> str | None:
    """What a header says of an iterative reconstruction, None where it says nothing.

    Makers write it into descriptions and private elements; Siemens into ConvolutionKernel, its strength as a second
    value.
    """
    kernel = header.get("ConvolutionKernel")
    if kernel is not None and not isinstance(kernel, str) and len(kernel) > 1 and str(kernel[1]).isdigit():
        return f"kernel {kernel[0]}, strength {kernel[1]}"
    for text in _texts(header):
        match = ITERATIVE.search(text)
        if match is not None:
            return match[0]
    return None


def _texts(header: Dataset) -> Iterable[str]:
    for element in header.iterall():
        if element.VR in ("PN", "UI", "SQ") or element.tag.group == 0x7FE0:
            continue
        if isinstance(element.value, bytes):
            yield element.value[:4096].decode("latin-1")
        else:
            yield str(element.value)[:4096]


# --- how ------------------------------------------------------------------------------------------------------------


def adapted(options: DenoiseOptions, trained: PairedOptions, images: Catalogue, level: float | None) -> Path:
    """The run folder of the model trained on the images themselves. Raises UserError where their noise forbids it.

    level: HU of noise that is to be taken away, for a network of one level.
    """
    from medi2i.pix2pix import train  # takes time to import, and most do not train

    runs = place_for(Path(options.out), True) / "adapted"
    paths = [source.path.resolve() for source in images.sources]
    root = os.path.commonpath([path.parent for path in paths])
    words: list[object] = ["-R", root, "-m", options.model, "--preset", "denoise_self", "--minutes", options.adapt]
    words += ["--learning_rate_gen", ADAPT_RATE]
    if level is not None and trained.noise_level is not None:
        for flag, clip in (("-ca", trained.clipA), ("-cb", trained.clipB)):
            scaled = for_noise(Clip(*clip), trained.noise_level, level)
            words += [flag, scaled.lower, scaled.upper]
        words += ["--noise_level", level]
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "images.txt"
        chosen.write_text("".join(f"{path.relative_to(root)}\n" for path in paths), encoding="utf-8")
        status = train.command([*map(str, words), "-t", str(chosen), "-o", str(runs)])
    if status:
        raise UserError(f"--adapt: the training ended early, with status {status}; {runs} has what was done")
    return find_run(runs).folder


def choose_precision(
    options: DenoiseOptions, conversion: PairedConversionOptions, model: Model[PairedOptions], hu: np.ndarray
) -> str:
    """What was asked for; for "auto" bf16 where it is there and differs from fp32 by little enough on the slice ``hu``
    (H, W)."""
    if options.precision != "auto":
        return options.precision
    on_cpu = choose_device(conversion.gpu).xp is np
    if model.generator is None or not (on_cpu and options.engine in ("auto", "openvino") and bf16_here()):
        return "fp32"
    quick, exact = (
        Translation(model, replace(conversion, precision=one, strength=1.0))(hu) for one in ("bf16", "fp32")
    )
    deviation = float(np.sqrt(np.mean((quick - exact) ** 2, dtype=np.float64)))
    chosen = "bf16" if deviation < LARGEST_DEVIATION else "fp32"
    print(f"bf16 differs from fp32 by {deviation:.2g} HU RMS: {chosen} runs", file=sys.stderr)
    return chosen


class Translation:
    """A network for slices (H, W) in HU, by the rules of a conversion without resampling; ``white``: so is the noise
    that is told."""

    def __init__(self, model: Model[PairedOptions], conversion: PairedConversionOptions, white: bool = False) -> None:
        trained = model.trained
        self.clip = Clip(*(getattr(trained, trained.clip_names[0]) or (PAIRED_HU.lower, PAIRED_HU.upper)))
        if trained.noise_level is not None and conversion.noise_level is not None:
            self.clip = for_noise(self.clip, trained.noise_level, conversion.noise_level)
        use_cpu_engine(conversion.cpu_engine)
        engine = engine_of(model.generator, choose_device(conversion.gpu), conversion, self.clip)
        noise = Told(conversion.noise_level or 0.0, white=white)
        change = Change(conversion.strength, noise.white_in(self.clip))
        self.stack, self.run = model.stack, AnySize(model.generator, engine, change=change)

    def __call__(self, hu: np.ndarray) -> np.ndarray:
        """The result (H, W) in HU: what lies beyond the clip is changed as its end is."""
        unit = self.clip.to_unit(hu)
        y = self.run(np.repeat(unit[None, None], self.stack, axis=1))
        return hu + (y[0, y.shape[1] // 2] - unit) * np.float32(self.clip.width / 2)


# --- what came of it ------------------------------------------------------------------------------------------------


def measure(plan: Plan, group: Sequence[Chosen], translation: "Translation") -> list[tuple[Safety, "Load"]]:
    """What a conversion did to each series, for the report; ``translation``: by the same network."""
    from medi2i.tools.evaluation.safety_page import measured

    out, form = Path(plan.options.out), plan.form
    found: list[tuple[Safety, Load]] = []
    for volume, _, reasons in group:
        written = [(source, out / form.names(source)[0]) for source in volume.sources]
        pairs = {source.label: (source, path) for source, path in written if path.is_file()}
        if not pairs:
            continue
        spacing = volume.sources[0].spacing
        one, load = measured(name_of(volume), spacing, pairs)
        one.unknown = reasons
        if spacing is not None:
            chosen = evenly([source for source, _ in pairs.values()], INSERTED)
            slices = [dicom.read(source.path, source.frame).hu for source in chosen]
            one.inserts = find_inserts(slices, spacing, translation)
        found.append((one, load))
    return found


def evenly(sources: Sequence[Source], count: int) -> list[Source]:
    """Of a series: ``count`` from its inner part."""
    inner = np.linspace(0.2, 0.8, count) * (len(sources) - 1)
    return [sources[index] for index in np.unique(inner.round().astype(int))]


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
