"""One side of a translation: how its images are read, scaled and made into channels."""

import dataclasses
import logging
import math

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.cache import ImageCache
from medi2i.datasets.dicom.header_checks import Unreadable
from medi2i.datasets.grid import clip_to_body, resample, resample_mask, resampled_size
from medi2i.datasets.images import PLAIN_NUMBERS, Image, default_clip, read_image, to_grey
from medi2i.datasets.lowres import enlarge, enlarge_mask
from medi2i.datasets.scaling import Clip

log = logging.getLogger(__name__)

FAR = 1.5  # beyond, a network whose output ends in tanh is far from the truth
PADDING = -1.0  # in [-1, 1]: the lower end of the clip


@dataclasses.dataclass
class Domain:
    """Reads the images of one domain.

    clip: to [-1, 1]. channels: of every image, 1 to 4 (TIFF: more). class_num: above 0, images hold classes 0 to
    class_num - 1 and ``clip`` does not matter. spacing: resample to this pixel size in mm. body: outside of the body
    becomes air (HU). scale: images are enlarged so many times by bicubic interpolation. released: colours become whole
    grey levels, and pixel sizes change, as in the released codes. Files are read through ``cache``, which holds values
    in the files' unit.
    """

    clip: Clip
    channels: int
    cache: ImageCache
    class_num: int = 0
    spacing: float | None = None
    body: bool = False
    scale: int = 1
    released: bool = False

    def size(self, source):
        """(H, W) of the image as ``unit`` gives it."""
        if self.spacing is None:
            return tuple(self.scale * n for n in source.shape[1:])
        return resampled_size(source.shape[1:], source.spacing, self.spacing)

    def image(self, source):
        """The image of ``source`` in its own unit, on the grid to be used, through the cache. Raises Unreadable."""
        key = (
            source.path,
            source.frame,
            source.stamp,
            self.spacing,
            self.body,
            self.class_num > 0,
            self.scale,
            self._whole_grey,
        )
        return self.cache.get(key, lambda: self._read(source))

    @property
    def _whole_grey(self):
        return self.released and self.channels == 1 and not self.class_num

    def _read(self, source):
        image = read_image(source.path, source.kind, frame=source.frame, labels=self.class_num > 0)
        if image.array.shape != source.shape:
            raise Unreadable(source.path, f"is {image.array.shape} now and was {source.shape}; it changed meanwhile")
        if self._whole_grey and image.bits == 8 and len(image.array) == 3:
            image = Image(to_grey(image.array, whole=True), image.mask, image.bits)
        if self.body:
            image = Image(clip_to_body(image.array[0])[np.newaxis], image.mask, image.bits)
        if self.scale > 1:
            mask = None if image.mask is None else enlarge_mask(image.mask, self.scale)
            image = Image(enlarge(image.array, self.scale), mask, image.bits)
        if self.spacing is not None:
            mask = image.mask
            grids = source.spacing, self.spacing, self.released
            image = Image(
                resample(image.array, *grids), None if mask is None else resample_mask(mask, *grids), image.bits
            )
        return image

    def unit(self, source):
        """The image of ``source`` in [-1, 1]: (channels, H, W) float32, padding at -1. Raises Unreadable."""
        image = self.image(source)
        unit = self.clip.to_unit(image.array)
        if image.mask is not None:
            unit[:, image.mask] = PADDING
        if unit.shape[0] == 3 and self.channels == 1:
            return to_grey(unit)
        if unit.shape[0] == 1 and self.channels == 3:
            return unit.repeat(3, axis=0)
        return unit

    def stored(self, source):
        """(values, Clip) that give ``unit``: (channels, H, W) int16 or float32, padding at the lower end of the clip.

        What is not to be had so comes as ``unit``, with the clip that changes nothing. Raises Unreadable.
        """
        image = self.image(source)
        if not self.clip.scales or len(image.array) != self.channels:
            return self.unit(source), Clip()
        if image.mask is None:
            return image.array, self.clip
        return np.where(image.mask, np.float32(self.clip.lower), image.array), self.clip

    def classes(self, source):
        """The class numbers of ``source``: (1, H, W) float32. Raises Unreadable for other values."""
        array = self.image(source).array
        if array.shape[0] > 1 and (array[1:] != array[:1]).any():
            raise Unreadable(
                source.path, "is a colour image; an image of classes holds one number a pixel (grey or palette)"
            )
        labels = array[:1].astype(np.float32)
        wrong = (labels < 0) | (labels >= self.class_num) | (labels != np.rint(labels))
        if wrong.any():
            values = np.unique(labels[wrong])
            shown = ", ".join(f"{value:g}" for value in values[:5]) + (" …" if len(values) > 5 else "")
            raise Unreadable(
                source.path,
                f"holds values {shown}; with --class_num {self.class_num} they must be 0 to "
                f"{self.class_num - 1}" + (" (JPEG changes values: use PNG)" if source.kind == "jpg" else ""),
            )
        return labels


def one_hot(labels, class_num):
    """Class numbers (1, H, W) -> (class_num, H, W) float32 of 0 and 1."""
    return (labels == np.arange(class_num, dtype=labels.dtype)[:, np.newaxis, np.newaxis]).astype(np.float32)


def choose_clip(given, sources, option, dicom_clip):
    """The clip of a domain: ``given`` [lower, upper], else the default of its images' kind. Raises UserError."""
    if given is not None and list(given) != [None, None]:
        return Clip(*given)
    defaults = {}
    for source in sources:
        clip = dicom_clip if source.kind == "dcm" else default_clip(source.kind, source.bits)
        defaults.setdefault(clip, source)
    if len(defaults) > 1:
        (one, first), (two, second), *_ = defaults.items()
        raise UserError(
            f"--{option}: {first.path} has the range {_shown(one)} and {second.path} {_shown(two)}; "
            f"--{option} LOWER UPPER would say which to take"
        )
    others = {source.modality for source in sources if source.kind == "dcm"} - {"CT"}
    if others:
        log.warning(
            "--%s: the images are %s, whose values are not HU; the default %s is made for CT, and --%s LOWER "
            "UPPER would fit better",
            option,
            ", ".join(sorted(others)),
            _shown(dicom_clip),
            option,
        )
    clip = next(iter(defaults))
    if not clip.scales:
        _tell_range(sources, option)
    return clip


def _tell_range(sources, option):
    """Warn of values that stay as they are and are far from what networks take and give."""
    extents = [source.extent for source in sources if source.extent is not None]
    low, high = min((e[0] for e in extents), default=0.0), max((e[1] for e in extents), default=0.0)
    if low >= -FAR and high <= FAR:
        return
    low, high = _short(low, -1), _short(high, 1)
    if low == high:
        high = low + 1
    log.warning(
        "--%s: the images have no range of their own and hold values from %g to %g, far outside of the [-1, 1] "
        "that networks work with; -c%s %g %g would scale them (they are taken as they are)",
        option,
        low,
        high,
        option[-1].lower(),
        low,
        high,
    )


def _short(value, direction):
    """``value`` with four digits, rounded up (``direction`` 1) or down (-1)."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return float(f"{direction * math.ceil(direction * value / unit - 1e-9) * unit:.6g}")


def _shown(clip):
    return f"{clip.lower:g} to {clip.upper:g}" if clip.scales else "of no limits"


def choose_channels(sources, grey, released=False):
    """Channels of every image of a domain: 1, or 3 if one of them has colours and ``grey`` is off.

    ``released``: pictures always have 3 where ``grey`` is off, as in the released codes.
    Raises UserError for images with other, different numbers of channels.
    """
    counts = {}
    for source in sources:
        counts.setdefault(source.shape[0], source)
    if not set(counts) <= {1, 3} and len(counts) > 1:
        shown = ", ".join(f"{source.path} has {count}" for count, source in sorted(counts.items()))
        raise UserError(f"images with different numbers of channels: {shown}; all must have the same")
    if released and not grey and not {source.kind for source in sources} & {"dcm", *PLAIN_NUMBERS}:
        return 3
    return 1 if grey and set(counts) <= {1, 3} else max(counts)
