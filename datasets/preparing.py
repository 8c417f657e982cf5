"""One side of a translation: how its images are read, scaled and made into channels."""

import dataclasses
import logging

import numpy as np
from scipy import ndimage

from medi2i.common.errors import UserError
from medi2i.datasets.cache import ImageCache
from medi2i.datasets.dicom.header_checks import Unreadable
from medi2i.datasets.grid import enlarge, enlarge_mask, resample, resample_mask, resampled_size
from medi2i.datasets.kinds import PLAIN_NUMBERS
from medi2i.datasets.reading import Image, read_image, to_grey
from medi2i.datasets.scaling import Clip

log = logging.getLogger(__name__)

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


AIR_HU = -1000.0


SKIN_HU = -500.0  # half-way between air and water


def body_mask(hu, threshold=SKIN_HU):
    """True inside the body: (H, W) in HU -> (H, W) bool.

    The largest connected region above ``threshold`` HU, with its holes (lungs, bowel) filled. Regions joined by less
    than 5 pixels, as skin that touches a table, are taken as separate. All False where nothing is that dense.
    """
    dense = np.pad(hu > threshold, 2)  # a body cut by the image's border must not be eroded from there
    core = ndimage.binary_opening(dense, np.ones((5, 5), dtype=bool))
    labels, count = ndimage.label(core if core.any() else dense)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = labels == sizes.argmax()
    # Opening shaves corners off: give back what is dense and next to the region.
    largest |= ndimage.binary_dilation(largest, iterations=2) & dense
    return ndimage.binary_fill_holes(largest)[2:-2, 2:-2]


def clip_to_body(hu, threshold=SKIN_HU):
    """``hu`` (H, W) with air (-1000 HU) outside the body; a new array."""
    return np.where(body_mask(hu, threshold), hu, np.float32(AIR_HU))
