"""What a conversion will do, before anything is done: the Plan, and what both convert.py work out alike for it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medi2i.common.errors import UserError
from medi2i.common.inference.generator import ConversionOptions, Model, TrainingOptions
from medi2i.common.inference.noise import WHOLE, Change
from medi2i.common.inference.pipeline import Combine
from medi2i.common.inference.slices import Preparation
from medi2i.common.networks.from_options import fixed_size
from medi2i.common.training import likeness, mean_change
from medi2i.datasets.catalogue import Catalogue, Source
from medi2i.datasets.file_names import KINDS, PICTURES, PLAIN_NUMBERS, SUFFIXES, name_without_suffix
from medi2i.datasets.grid import STEP
from medi2i.datasets.pairs import read_list
from medi2i.datasets.preparing import Scale, scale_of
from medi2i.datasets.scaling import Clip, default_clip

GREY_LEVELS = Clip(0, 255)  # 127.5 (y + 1): what the released codes write where nothing else is known


@dataclasses.dataclass(frozen=True)
class Format:
    """What results look like.

    kind: of the files, None for the input's own. clip: the values that -1 and 1 stand for, None for the default of the
    kind of image (``dicom_clip`` for DICOM). classes: above 0, results are class scores, written as probabilities (npy)
    and labels (png). images: results of one slice. numbers: the clip of results that are no whole numbers, where none
    is given. cropped: results are of the network's crop only; DICOM keeps its size in any case. keep: where the input
    lies outside of the network's clip, the result is the input plus the change at the clip's end.
    """

    kind: str | None
    clip: Clip | None
    dicom_clip: Clip
    classes: int = 0
    images: int = 1
    numbers: Clip = Clip()
    cropped: bool = False
    keep: bool = False

    def kind_for(self, source: Source) -> str:
        """The kind in which the result of ``source`` is written. Raises UserError where that cannot be."""
        kind = self.kind or source.kind
        if kind == "gif":  # 256 colours cannot hold a result
            kind = "png"
        if kind == "dcm" and source.kind != "dcm":
            raise UserError(
                f"--imgtype_out dcm: {source.name} is no DICOM file, so there is no patient, position or "
                "study to write; --imgtype_out npy, tif or png would do"
            )
        if kind not in KINDS:
            raise UserError(f"--imgtype_out: {kind!r} cannot be written; it can be {', '.join(KINDS)}")
        return kind

    def is_dicom(self, source: Source) -> bool:
        """Whether the result of ``source`` is DICOM. Raises UserError as ``kind_for``."""
        return not self.classes and self.kind_for(source) == "dcm"

    def clip_for(self, kind: str, bits: int | None) -> Clip:
        """The Clip of results of ``kind`` with ``bits`` (as in ``Image``)."""
        if self.clip is not None or kind == "dcm":
            return self.clip or self.dicom_clip
        default = default_clip(kind, bits)
        return default if default.scales else self.numbers

    def bits_for(self, kind: str, source: Source, bits: int | None) -> int | None:
        """Bits of results of ``kind`` where the ``source`` has ``bits`` (as in ``Image``): as many, if it holds them.

        TIFF holds numbers of no integer type, too, if they are not stretched to the range of a picture.
        """
        if kind == source.kind or kind in ("png", "tif") and bits == 16:
            return bits
        return None if kind == "tif" and bits is None and self.clip is not None else 8

    def names(self, source: Source) -> tuple[str, ...]:
        """The files of a result, below the output folder: tuple of text with / between folders."""
        stem = self.stem(source)
        if self.classes:
            return f"{stem}.npy", f"{stem}.png"
        kind = self.kind_for(source)
        own = source.name.removeprefix(name_without_suffix(source.name, source.kind))
        suffix = own if kind == source.kind else SUFFIXES[kind][0]
        return tuple(f"{stem}{number}{suffix}" for number in self.numbered("_"))

    def stem(self, source: Source) -> str:
        """The name of the files of a result, but for what tells them apart."""
        frame = "" if source.frames == 1 else f"_{source.frame + 1:04d}"
        return name_without_suffix(source.name, source.kind) + frame

    def numbered(self, mark: str = "") -> list[str]:
        """What tells the images of one result apart: numbers from 1 after ``mark``, or nothing where it is one."""
        return [""] if self.images == 1 else [f"{mark}{i + 1}" for i in range(self.images)]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All of one conversion.

    settings: dict of all that decides the pixels of a result beside the model. hu_clip: what takes the network's output
    to HU, None where results are no HU. known: what is to be said of the model before it begins, a line each. expected:
    as ``likeness.known`` has it, None where nothing is compared.
    load_analysis(network_for, device): the maps that are to be written beside each result, made by an ``Analysis``;
    None for none. network_for: as for ``cyclegan.analysis``.
    """

    options: ConversionOptions
    model: Model
    images: Catalogue
    settings: dict[str, object]
    preparation: Preparation
    form: Format
    combine: Combine
    description: str
    hu_clip: Clip | None
    known: list[str]
    compare_edges: bool
    expected: tuple[float | None, float | None, float | None] | None
    load_analysis: Callable | None = None
    change: Change = WHOLE


def prepared(
    options: ConversionOptions,
    model: Model,
    images: Catalogue,
    domain: str,
    clip: Clip | None,
    dicom_clip: Clip,
    channels: int,
    **more: Any,
) -> Preparation:
    """How images are prepared for ``model``, whose input has ``channels``, as far as both applications do it alike.

    domain: "A" or "B", that of the images in the training, which says how they are normalised. more: fields of the
    Preparation that are the application's. A model of the released codes is used on the crop of its training. Raises
    UserError where args contradicts itself.
    """
    trained, stack = model.trained, model.stack
    if model.generator is not None and channels % stack:
        raise UserError(f"{model.name}: args says {channels} channels and stacks of {stack}, which do not fit")
    rows, columns = (
        getattr(options, side) or (getattr(trained, side) if model.as_released else None)
        for side in ("crop_height", "crop_width")
    )
    how, landmarks = (getattr(trained, f"{name}{domain}") for name in ("normalise", "landmarks"))
    return Preparation(
        clip,
        dicom_clip,
        None if model.generator is None else channels // stack,
        (rows, columns),
        fixed=None if model.generator is None else fixed_size(trained),
        released=model.released,
        step=STEP if model.as_released else 1,
        normalised=None if model.generator is None else scale_of(how, images.sources, domain, landmarks or ()),
        **more,
    )


def make_plan(
    options: ConversionOptions,
    model: Model,
    images: Catalogue,
    preparation: Preparation,
    *,
    kind: str | None,
    clip: Clip | None,
    combine: Combine,
    description: str,
    settings: dict[str, object],
    classes: int = 0,
    results: int = 1,
    white: float = 0.0,
    load_analysis: Callable | None = None,
) -> Plan:
    """The Plan of a conversion by ``model``. Raises UserError.

    kind: of the files that are written, None for that of the images. clip: of the results. settings: what decides
    pixels in this application alone. classes, results: as ``classes`` and ``images`` of a Format. white: of a Change.
    """
    found, clip_in, dicom_clip = images.sources[0].kind, preparation.clip, preparation.dicom_clip
    keep = _keeps_outside(options, model, images, clip_in, clip, classes)
    comparable = not classes and not model.trained.gen_fc
    translates = model.generator is not None and options.strength != 0  # else the result is meant to be the input
    about = {
        "direction": model.direction,
        "clip_in": _shown(clip_in),
        "clip_out": _shown(clip),
        "outside": "keep" if keep else "clip",
        "crop": list(preparation.crop),
        **{name: getattr(options, name) for name in ("tile", "tile_overlap", "imgtype_out", "modality")},
        **{name: getattr(options, name) for name in ("engine", "precision")},
        **({"released": model.trained.released} if model.released else {}),
        **_samples_in_settings(options),
        **({"strength": options.strength} if options.strength != 1 else {}),
        **_scale_in_settings(preparation.normalised),
        **settings,
    }
    return Plan(
        options,
        model,
        images,
        about,
        preparation,
        Format(
            kind,
            clip,
            dicom_clip,
            classes,
            results,
            numbers=GREY_LEVELS if model.as_released else Clip(),
            cropped=model.as_released,
            keep=keep,
        ),
        combine,
        description,
        hu_clip=(clip or dicom_clip) if not classes and found == "dcm" else None,
        known=[
            *_known_change(model, clip or (dicom_clip if found == "dcm" else None), images),
            *_trained_on(model, images),
        ],
        compare_edges=comparable,
        expected=likeness.known(model.trained, options.strength) if comparable and translates else None,
        load_analysis=load_analysis,
        change=Change(options.strength, white),
    )


def clips_of(
    options: ConversionOptions,
    model: Model,
    names: tuple[str, str],
    kinds: tuple[str, str | None],
    in_hu: tuple[bool, bool] = (True, True),
) -> tuple[Clip | None, Clip | None]:
    """The Clips of a conversion, in and out: of this command line, else of the training, else None.

    names: of their options. kinds: of the images, and of the results or None for the same. in_hu: whether these are of
    a kind for which base and width in HU count. ``-m identity`` has none unless the first option gives one, so that
    values stay, but where the result is a picture and the input is none, or has more bits.
    """
    if model.generator is not None:
        clip_in, clip_out = (_given(name, hu, options, model.trained) for name, hu in zip(names, in_hu, strict=True))
        return clip_in, clip_out
    kind_in, kind_out = kinds
    numbers = kind_out in (None, kind_in, "dcm", "tif", *PLAIN_NUMBERS) or kind_out == "png" and kind_in in PICTURES
    clip = _given(names[0], True, options) or (Clip() if numbers else None)
    return clip, clip


def _given(name: str, in_hu: bool, *sources: ConversionOptions | TrainingOptions) -> Clip | None:
    for source in sources:
        given = getattr(source, name)
        if given is not None and list(given) != [None, None] and (in_hu or not source.clips_in_hu):
            return Clip(*given)
    return None


def _keeps_outside(
    options: ConversionOptions,
    model: Model,
    images: Catalogue,
    clip_in: Clip | None,
    clip_out: Clip | None,
    classes: int,
) -> bool:
    """Whether values outside of the network's clip are kept (``--outside``). Raises UserError where that cannot be."""
    residual = model.generator is not None and model.trained.gen_residual
    wanted = options.outside or ("keep" if residual or options.strength != 1 else "clip")
    others = {volume.series.modality for volume in images.volumes if volume.series is not None} - {options.modality}
    reasons = {
        "its results are classes": classes,
        "its clips A and B are not the same": clip_in != clip_out,
        "its results have another number of channels": model.trained.ch != model.trained.out_ch,
        f"its results are {options.modality}, the images are not": options.modality is not None and others,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    asked = "--outside keep" if options.outside == "keep" else "--strength" if options.strength != 1 else None
    if asked and reason is not None:
        raise UserError(
            f"{asked}: input cannot be added to this network's output, because {reason}; leave {asked.split()[0]} out"
        )
    return wanted == "keep" and reason is None


def _known_change(model: Model, clip: Clip | None, images: Catalogue) -> list[str]:
    """What a conversion says before it begins of a model that changes the mean of what it was trained on.

    clip: of the results.
    """
    in_hu = any(volume.series is not None and volume.series.modality == "CT" for volume in images.volumes)
    change = model.trained.mean_change if model.generator is not None else None
    if change is None or not mean_change.worth_telling(change, 2.0 if clip is None else clip.width):
        return []
    words = mean_change.words(change if model.direction == "xy" else -change, in_hu)
    return [
        f"this model {words}, as its training images differed by so much: right for "
        "images that differ like them, else wrong by as much; mean change, below, is what it did to these"
    ]


def _trained_on(model: Model, images: Catalogue) -> list[str]:
    """What is said of images that the run's list has, of those it was trained on."""
    lists = [file.parent / "files_train.txt" for file in (model.generator.files if model.generator else ())]
    if not lists or not lists[0].is_file():
        return []
    root = Path(model.trained.root)
    known = {(root / name).resolve() for row in read_list(lists[0]) for name in row.columns}
    seen = sum(source.held is None and source.path.resolve() in known for source in images.sources)
    all_of = f"{seen} of {len(images.sources)} images are" if len(images.sources) > 1 else "this image is"
    return [f"{all_of} what this model was trained on: measured on such, it looks better than it is"] if seen else []


def _samples_in_settings(options: ConversionOptions) -> dict[str, object]:
    """What of ``--uncertainty`` and ``--ensemble`` decides pixels; nothing where they are not asked for."""
    if options.uncertainty is None and not options.ensemble:
        return {}
    samples = {"samples": options.uncertainty_samples} if options.uncertainty == "dropout" else {}
    return {"uncertainty": options.uncertainty, "ensemble": options.ensemble, **samples}


def _scale_in_settings(normalised: Scale | None) -> dict[str, object]:
    """Which grey levels of each series came to the landmarks of the training."""
    if normalised is None:
        return {}
    levels = [list(curve.levels) for curve in normalised.curves.values()]
    return {"normalise": normalised.how, "landmarks": list(normalised.landmarks), "levels": levels}


def _shown(clip: Clip | None) -> list[float | None] | None:
    """A Clip as JSON."""
    return None if clip is None else [clip.lower, clip.upper]
