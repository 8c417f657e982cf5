"""What both convert.py share in the way from a command line to a Plan."""

from medi2i.common.errors import UserError
from medi2i.common.inference.network import Model
from medi2i.common.inference.uncertainty import settings_of
from medi2i.common.networks.sizes import fixed_size
from medi2i.common.options.files import ARGS
from medi2i.common.training import mean_change
from medi2i.datasets.kinds import PICTURES, PLAIN_NUMBERS
from medi2i.datasets.scaling import PAIRED_HU, Clip

IN_HU = ("dcm", "nii")
GREY_LEVELS = Clip(0, 255)  # 127.5 (y + 1): what the released codes write where nothing else is known


def clip_of(options, trained, name, in_hu=True):
    """The Clip ``name`` ("clipA", "clipB"): of this command line, else of the training, else None.

    in_hu: whether the images are of a kind for which base and width in HU count.
    """
    for source in (options, trained):
        given = getattr(source, name)
        if given is not None and list(given) != [None, None] and (in_hu or not source.clips_in_hu):
            return Clip(*given)
    return None


def clips_of_identity(options, name, kind_in, kind_out):
    """The Clip of ``-m identity``, in and out: none, so that values stay, unless option ``name`` gives one.

    They become those of a picture all the same where the result is one and the input is not, or has more bits.
    """
    numbers = kind_out in (None, kind_in, "dcm", "tif", *PLAIN_NUMBERS) or kind_out == "png" and kind_in in PICTURES
    return clip_of(options, options, name) or (Clip() if numbers else None)


def kept_outside(options, model, inputs, clip_in, clip_out, classes=0):
    """Whether values outside of the network's clip are kept (``--outside``). Raises UserError where that cannot be."""
    residual = model.generator is not None and getattr(model.trained, "gen_residual", 0)
    wanted = options.outside or ("keep" if residual else "clip")
    others = {volume.series.modality for volume in inputs.volumes if volume.series is not None} - {options.modality}
    reasons = {
        "its results are classes": classes,
        "its clips A and B are not the same": clip_in != clip_out,
        "its results have another number of channels": model.trained.ch != model.trained.out_ch,
        f"its results are {options.modality}, the images are not": options.modality is not None and others,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    if options.outside == "keep" and reason is not None:
        raise UserError(
            f"--outside keep: input cannot be added to this network's output, because {reason}; "
            "--outside clip, or leave it out"
        )
    return wanted == "keep" and reason is None


def known_change(model, clip, inputs):
    """What a conversion says before it begins of a model that changes the mean of what it was trained on; else None.

    clip: of the results.
    """
    in_hu = any(volume.series is not None and volume.series.modality == "CT" for volume in inputs.volumes)
    change = getattr(model.trained, "mean_change", None) if model.generator is not None else None
    width = 2.0 if clip is None else clip.width
    if not mean_change.worth_telling(change, width):
        return None
    change = change if model.direction == "xy" else -change
    return (
        f"this model {mean_change.words(change, in_hu)}, as its training images differed by so much: right for "
        "images that differ like them, else wrong by as much; mean change, below, is what it did to these"
    )


def clip_in_hu(clip, inputs, classes=0, dicom_clip=PAIRED_HU):
    """The Clip that takes the network's output to HU; None where the results are classes or images of another kind."""
    if classes or inputs.sources[0].kind not in IN_HU:
        return None
    return clip or dicom_clip


def released(model: Model):
    """Whether the rules of the released codes hold that decide what a network sees (docs/released_codes.md)."""
    return model.generator is not None and bool(model.trained.released)


def as_released(model: Model):
    """Whether conversion is that of the released codes, too, as their own args file is in use: crop, range, output."""
    return released(model) and model.trained.released == ARGS


def crop_of(options, model: Model):
    """((rows or None, columns or None) of the crop, (H, W) that the network insists on or None).

    A model of the released codes is used on the crop of its training.
    """
    fixed = fixed_size(model.trained) if model.generator is not None else None
    sides = [
        getattr(options, side) or (getattr(model.trained, side) if as_released(model) else None)
        for side in ("crop_height", "crop_width")
    ]
    return tuple(sides), fixed


def per_slice(channels, stack, model: Model):
    """Channels of one slice of the input; None for any. Raises UserError where the args file contradicts itself."""
    if model.generator is None:
        return None
    if channels % stack:
        raise UserError(f"{model.name}: args says {channels} channels and stacks of {stack}, which do not fit")
    return channels // stack


def pixel_settings(options, model, *, clip_in, clip_out, keep, more):
    """All that decides the pixels of a result beside the model, for the report and for DICOM's UIDs."""
    return {
        "direction": model.direction,
        "clip_in": shown(clip_in),
        "clip_out": shown(clip_out),
        "outside": "keep" if keep else "clip",
        "crop": list(crop_of(options, model)[0]),
        "tile": options.tile,
        "tile_overlap": options.tile_overlap,
        "imgtype_out": options.imgtype_out,
        "modality": options.modality,
        "engine": options.engine,
        "precision": options.precision,
        **({"released": model.trained.released} if released(model) else {}),
        **settings_of(options),
        **more,
    }


def shown(clip):
    """A Clip as JSON."""
    return None if clip is None else [clip.lower, clip.upper]
