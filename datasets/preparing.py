"""The one way from a file's values (HU, grey levels) to [-1, 1] on the network's grid, and back onto the file's grid.

Training (``Domain``) and conversion take the same steps: ``to_grid`` (body, enlarge, resample), ``to_unit`` and
``with_channels``. ``Placement`` is the way back.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from medi2i.common.errors import Unreadable, UserError
from medi2i.datasets.catalogue import Source
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.file_names import PLAIN_NUMBERS
from medi2i.datasets.grid import enlarge, enlarge_mask, resample, resample_mask, resample_to, resampled_size
from medi2i.datasets.reading import Image, read_image, to_grey
from medi2i.datasets.scaling import Clip, default_clip

log = logging.getLogger(__name__)

PADDING = -1.0  # in [-1, 1]: the lower end of the clip
AIR_HU = -1000.0


SKIN_HU = -500.0  # half-way between air and water


def body_mask(hu: np.ndarray, threshold: float = SKIN_HU) -> np.ndarray:
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


def clip_to_body(hu: np.ndarray) -> np.ndarray:
    """``hu`` (H, W) with air (-1000 HU) outside the body; a new array."""
    return np.where(body_mask(hu), hu, np.float32(AIR_HU))


STANDARD = 1000.0  # where the scale of a normalised series ends
TISSUE_SHARE = 0.1  # of the 99.5th percentile: below is air, or noise
TOP = 99.5  # percentile
NYUL = (*range(10, 100, 10), TOP)
BEYOND = 1.25  # times the bright tissue's level is where the scale of "tissues" ends: the brightest of fat


def _of_tissues(tissue: np.ndarray) -> Sequence[float]:
    """Of dark and bright tissue, told apart by Otsu's threshold, whatever share each has: muscle and fat in T1."""
    from skimage.filters import threshold_otsu  # slow to import

    split = threshold_otsu(tissue)
    dark, bright = (float(np.median(one)) for one in (tissue[tissue <= split], tissue[tissue > split]))
    return dark, bright, BEYOND * bright


LANDMARKS: dict[str, tuple[int, Callable[[np.ndarray], Sequence[float]]]] = {
    "percentiles": (1, lambda tissue: [np.percentile(tissue, TOP)]),
    "nyul": (len(NYUL), lambda tissue: np.percentile(tissue, NYUL)),
    "tissues": (3, _of_tissues),
}
"""How many landmarks there are, and the grey levels of them in the tissue of a series."""
READ_OF_SERIES = 64  # slices, evenly spaced, that say what the levels of a series are


@dataclasses.dataclass(frozen=True)
class Curve:
    """From the grey levels of one series to a scale that all series share, in straight pieces.

    0, no signal, stays 0, and ``levels`` (rising, above 0) become ``landmarks``. What lies beyond the last, or below 0,
    grows as from 0 to the last, or the first. With one level it is the factor landmark / level.
    """

    levels: tuple[float, ...]
    landmarks: tuple[float, ...]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Any shape -> the same shape, float32."""
        mapped = np.interp(values, (0.0, *self.levels), (0.0, *self.landmarks))
        mapped = np.where(values > self.levels[-1], values * (self.landmarks[-1] / self.levels[-1]), mapped)
        return np.where(values < 0, values * (self.landmarks[0] / self.levels[0]), mapped).astype(np.float32)

    def image(self, image: Image) -> Image:
        """The image with its values on the scale."""
        return Image(self(image.array), image.mask, image.bits)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the series of a domain are brought to one scale: by ``how`` of ``LANDMARKS``, to ``landmarks``; and the
    ``curves`` of series by (group, column of the list). A series that has none could not be."""

    how: str
    landmarks: tuple[float, ...]
    curves: Mapping[tuple[int, int], Curve]

    def curve(self, source: Source, column: int = 0) -> Curve:
        """Raises Unreadable where the series has none."""
        found = self.curves.get((source.group, column))
        if found is None:
            raise Unreadable(source.path, "is of a series without a range of grey levels (told above)")
        return found


def scale_of(how: str, sources: Sequence[Source], domain: str, landmarks: Sequence[float] | None) -> Scale | None:
    """The Scale of ``sources`` of a ``domain``, "A" or "B", by its ``--normaliseA`` or ``B``; None for "none".

    A series is what has one ``group``: of DICOM a series, of other kinds a folder. What counts are the levels of all
    its images, above TISSUE_SHARE of their 99.5th percentile, by LANDMARKS ("nyul": Nyúl, Udupa, Magn Reson Med 42,
    1999; the first landmark is 0, no signal). landmarks: those of the training; None in a training, where they are
    the means over its series, each brought to the same end first: STANDARD, of pictures their white. Raises UserError
    for CT, whose values have a unit.
    """
    if how == "none":
        return None
    option = f"normalise{domain}"
    series = collections.defaultdict(list)
    for source in sources:
        if source.modality == "CT":
            raise UserError(
                f"--{option}: {source.path} is a CT, whose HU are not to be normalised; none would be right"
            )
        for column in range(len(source.paths)):
            series[source.group, column].append(source)
    levels = {}
    for key, images in series.items():
        try:
            levels[key] = _levels(images, key[1], how)
        except Unreadable as error:
            log.warning("--%s: %s: its series cannot be normalised: %s", option, error.path, error.reason)
    if landmarks is None:
        if not levels:
            raise UserError(f"--{option}: none of the {len(series)} series can be normalised (told above)")
        white = None if sources[0].kind == "dcm" else default_clip(sources[0].kind, sources[0].bits).upper
        landmarks = np.mean([np.divide(one, one[-1]) for one in levels.values()], axis=0) * (white or STANDARD)
    known = tuple(round(float(one), 4) for one in landmarks)
    if len(known) != LANDMARKS[how][0] or known[0] <= 0 or np.any(np.diff(known) < 0):
        raise UserError(
            f"landmarks{domain} of args: {known} are no scale by --{option} {how}, "
            f"which is {LANDMARKS[how][0]} grey level(s), rising, above 0"
        )
    return Scale(how, known, {key: Curve(found, known) for key, found in levels.items()})


def top_of(values: np.ndarray, path: Path) -> float:
    """The 99.5th percentile of the grey levels of a series. Raises Unreadable, of ``path``, where it is no signal."""
    top = float(np.percentile(values, TOP)) if values.size else 0.0
    if top <= 0:
        raise Unreadable(path, "hardly any value of its series is above 0")
    return top


def clip_given(given: Sequence[float | None] | None, normalised: Scale | None) -> Sequence[float | None] | None:
    """The clip that is ``given``; where none is, that from no signal to the end of the scale of a normalised domain."""
    if normalised is None or given is not None and list(given) != [None, None]:
        return given
    return 0.0, normalised.landmarks[-1]


def _levels(images: Sequence[Source], column: int, how: str) -> tuple[float, ...]:
    """The grey levels of a series' landmarks. Raises Unreadable where it has no tissue."""
    chosen = [images[number] for number in np.unique(np.linspace(0, len(images) - 1, READ_OF_SERIES).astype(int))]
    parts = []
    for source in chosen:
        image = source.held or read_image(source.paths[column], source.kind, frame=source.frame)
        parts.append(image.array.ravel() if image.mask is None else image.array[:, ~image.mask].ravel())
    values = np.concatenate(parts)
    top = top_of(values, chosen[0].path)
    return tuple(round(float(one), 4) for one in LANDMARKS[how][1](values[values > TISSUE_SHARE * top]))


def to_grid(
    image: Image,
    source_spacing: tuple[float, float] | None,
    *,
    body: bool = False,
    scale: int = 1,
    spacing: float | None = None,
    released: bool = False,
) -> Image:
    """The image on the network's grid, in its own unit.

    body: what lies outside of the body becomes air (CT, in HU). scale: enlarged so many times by bicubic interpolation.
    spacing: resampled from pixels of ``source_spacing`` (row, column) mm to square ones of so many mm; ``released``: as
    the released codes did.
    """
    array, mask = image.array, image.mask
    if body:
        array = clip_to_body(array[0])[np.newaxis]
    if scale > 1:
        array = enlarge(array, scale)
        mask = None if mask is None else enlarge_mask(mask, scale)
    if spacing is not None and source_spacing is not None:
        grids = (source_spacing[0] / scale, source_spacing[1] / scale), spacing, released
        array = resample(array, *grids)
        mask = None if mask is None else resample_mask(mask, *grids)
    return Image(array, mask, image.bits)


def to_unit(image: Image, clip: Clip) -> np.ndarray:
    """(C, H, W) float32 in [-1, 1], padding at -1. A clip that does not scale leaves all as it is."""
    unit = clip.to_unit(image.array)
    if image.mask is not None and clip.scales:
        unit[:, image.mask] = PADDING
    return unit


def with_channels(array: np.ndarray, wanted: int, images: int = 1) -> np.ndarray:
    """Colour as grey or grey as colour where that makes ``wanted`` channels of (C, H, W), which are of so many images;
    else the array as it is."""
    if len(array) == 3 * images and wanted == images:
        return np.concatenate([to_grey(part) for part in np.split(array, images)])
    return array.repeat(3, axis=0) if len(array) == images and wanted == 3 * images else array


@dataclasses.dataclass
class Domain:
    """Reads the images of one domain.

    clip: to [-1, 1]. channels: of every image, 1 to 4 (TIFF: more). class_num: above 0, images hold classes 0 to
    class_num - 1 and ``clip`` does not matter. spacing, body, scale: as for ``to_grid``. released: colours become whole
    grey levels, and pixel sizes change, as in the released codes. normalised: the scale to which series are brought
    first. Files are read through ``cache``, which holds values as they are before the clip.
    """

    clip: Clip
    channels: int
    cache: ImageCache
    class_num: int = 0
    spacing: float | None = None
    body: bool = False
    scale: int = 1
    released: bool = False
    normalised: Scale | None = None

    def size(self, source: Source) -> tuple[int, int]:
        """(H, W) of the image as ``unit`` gives it."""
        height, width = source.shape[1:]
        if self.spacing is None or source.spacing is None:
            return self.scale * height, self.scale * width
        return resampled_size((height, width), source.spacing, self.spacing)

    def image(self, source: Source) -> Image:
        """The image of ``source`` in its own unit, on the grid to be used, through the cache. Raises Unreadable."""
        curve = None if self.normalised is None else self.normalised.curve(source)
        decisive = self.spacing, self.body, self.class_num > 0, self.scale, self._whole_grey, curve
        return self.cache.get((source.path, source.frame, source.stamp, *decisive), lambda: self._read(source, curve))

    @property
    def _whole_grey(self) -> bool:
        return self.released and self.channels == 1 and not self.class_num

    def _read(self, source: Source, curve: Curve | None) -> Image:
        image = read_image(source.path, source.kind, frame=source.frame, labels=self.class_num > 0)
        if image.array.shape != source.shape:
            raise Unreadable(source.path, f"is {image.array.shape} now and was {source.shape}; it changed meanwhile")
        if self._whole_grey and image.bits == 8 and len(image.array) == 3:
            image = Image(to_grey(image.array, whole=True), image.mask, image.bits)
        how = {name: getattr(self, name) for name in ("body", "scale", "spacing", "released")}
        return to_grid(image if curve is None else curve.image(image), source.spacing, **how)

    def unit(self, source: Source) -> np.ndarray:
        """The image of ``source`` in [-1, 1]: (channels, H, W) float32, padding at -1. Raises Unreadable."""
        return with_channels(to_unit(self.image(source), self.clip), self.channels)

    def stored(self, source: Source) -> tuple[np.ndarray, Clip]:
        """(values, Clip) that give ``unit``: (channels, H, W) int16 or float32, padding at the lower end of the clip.

        What is not to be had so comes as ``unit``, with the clip that changes nothing. Raises Unreadable.
        """
        image = self.image(source)
        if self.clip.lower is None or len(image.array) != self.channels:
            return self.unit(source), Clip()
        if image.mask is None:
            return image.array, self.clip
        return np.where(image.mask, np.float32(self.clip.lower), image.array), self.clip

    def classes(self, source: Source) -> np.ndarray:
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
                f"holds values {shown}; with {self.class_num} classes they must be 0 to "
                f"{self.class_num - 1}" + (" (JPEG changes values: use PNG)" if source.kind == "jpg" else ""),
            )
        return labels


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the network's image lies in the source: resampled to ``grid`` (H, W), then cropped from (top, left).

    spacing: (row, column) mm of the source and pixel size in mm of the network's grid; None where they are the same.
    released: as ``resample`` has it.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    spacing: tuple[tuple[float, float], float] | None = None
    released: bool = False

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """The crop as an index into (C, H, W) of the grid."""
        return slice(None), slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def whole(self) -> bool:
        """Nothing of the image lies outside of the crop."""
        return (self.height, self.width) == self.grid

    def back(self, result: np.ndarray, around: np.ndarray | float) -> np.ndarray:
        """``result`` (C, height, width) on the source's grid; outside of the crop it is ``around`` (C or 1, H, W).

        Where there is nothing to do it is ``result`` itself.
        """
        if self.spacing is None and self.whole:
            return np.asarray(result, np.float32)
        if self.spacing is None:
            whole = np.array(np.broadcast_to(around, (len(result), *self.size)), np.float32)
            whole[self.window] = result
            return whole
        converted = self._resampled(result, *self.spacing)
        if self.whole:
            return converted
        # Pixels interpolated from both sides of the crop's edge are the source's, too.
        covered = self._resampled(np.ones((1, self.height, self.width), np.float32), *self.spacing) > 0.9999
        return np.where(covered, converted, around).astype(np.float32)

    def _resampled(self, result: np.ndarray, source_spacing: tuple[float, float], spacing: float) -> np.ndarray:
        on_grid = np.zeros((len(result), *self.grid), np.float32)
        on_grid[self.window] = result
        return resample_to(on_grid, (spacing, spacing), source_spacing, self.size, self.released)


def landmarks_of(domain: Domain) -> list[float] | None:
    """What ``args`` says of the scale of a normalised domain."""
    return None if domain.normalised is None else list(domain.normalised.landmarks)


def choose_channels(sources: Sequence[Source], grey: bool, released: bool = False) -> int:
    """Channels of every image of a domain: 1, or 3 if one of them has colours and ``grey`` is off.

    ``released``: pictures always have 3 where ``grey`` is off, as in the released codes.
    Raises UserError for images with other, different numbers of channels.
    """
    counts = {source.shape[0]: source for source in reversed(sources)}
    if not set(counts) <= {1, 3} and len(counts) > 1:
        shown = ", ".join(f"{source.path} has {count}" for count, source in sorted(counts.items()))
        raise UserError(f"images with different numbers of channels: {shown}; all must have the same")
    if released and not grey and not {source.kind for source in sources} & {"dcm", *PLAIN_NUMBERS}:
        return 3
    return 1 if grey and set(counts) <= {1, 3} else max(counts)
