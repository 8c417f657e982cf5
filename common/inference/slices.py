"""One slice on its way: file -> HU -> [-1, 1] on the network's grid, and back onto the source's grid."""

import dataclasses
import functools
import logging
import math
import threading
from collections import OrderedDict

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference.values import beyond_clip
from medi2i.datasets import dicom
from medi2i.datasets.dicom import DicomImage
from medi2i.datasets.grid import (
    Grid,
    enlarge,
    enlarge_mask,
    new_position,
    resample,
    resample_back,
    resample_mask,
    resampled_size,
)
from medi2i.datasets.preparing import PADDING, clip_to_body
from medi2i.datasets.reading import declared_values, read_image, to_grey
from medi2i.datasets.scaling import Clip, default_clip

log = logging.getLogger(__name__)

BYTES_OF_VALUE = 20  # measured: as read, in the file's unit, in [-1, 1], as a result and as it is encoded


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images become the network's input.

    clip: values that are -1 and 1, None for the default of the kind of image (``dicom_clip`` for DICOM). channels: of
    one slice, None for any. crop: (rows, columns) in the middle that are converted, None for all. spacing: pixel size
    in mm to resample to, None for the source's own. fixed: the only (H, W) that the network takes, or None. body: what
    lies outside of the body becomes air (CT). scale: images are enlarged so many times first; all other sizes and
    pixels are those of the enlarged image. numbers: the clip of images that are no whole numbers, where none is given.
    released: as in the released codes, colours become whole grey levels, and scikit-image resamples. step: above 1,
    also crops are as there: no more than the image has, and where none is given, the largest multiple of ``step``.
    """

    clip: Clip | None
    dicom_clip: Clip
    channels: int | None
    crop: tuple[int | None, int | None] = (None, None)
    spacing: float | None = None
    fixed: tuple[int, int] | None = None
    body: bool = False
    scale: int = 1
    numbers: Clip = Clip()
    released: bool = False
    step: int = 1


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
    def window(self):
        """The crop as an index into (C, H, W) of the grid."""
        return slice(None), slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def whole(self):
        """Nothing of the image lies outside of the crop."""
        return (self.height, self.width) == self.grid

    def back(self, result, around):
        """``result`` (C, height, width) on the source's grid; outside of the crop it is ``around`` (C or 1, H, W).

        Where there is nothing to do it is ``result`` itself.
        """
        if self.spacing is None and self.whole:
            return np.asarray(result, np.float32)
        if self.spacing is None:
            whole = np.array(np.broadcast_to(around, (len(result), *self.size)), np.float32)
            whole[self.window] = result
            return whole
        source_spacing, spacing = self.spacing
        on_grid = np.zeros((len(result), *self.grid), np.float32)
        on_grid[self.window] = result
        converted = resample_back(on_grid, spacing, source_spacing, self.size, self.released)
        if self.whole:
            return converted
        inside = np.zeros((1, *self.grid), np.float32)
        inside[self.window] = 1
        # Pixels interpolated from both sides of the crop's edge are the source's, too.
        covered = resample_back(inside, spacing, source_spacing, self.size, self.released) > 0.9999
        return np.where(covered, converted, around).astype(np.float32)


@dataclasses.dataclass
class Slice:
    """``unit`` (C, h, w) float32 in [-1, 1] for the network; ``values`` (C, H, W) as the first file has them (HU),
    enlarged ``scale`` times.

    ``clip`` made ``unit`` of values, and ``beyond`` (as ``unit``, in the unit of values) is what it took off them, None
    for nothing. ``mask`` (H, W) is True on padding, None without any; ``bits`` as in ``medi2i.datasets.reading.Image``;
    ``images`` are the DICOM images read, one of each column. ``unit`` may be set to None once nothing needs it.
    """

    unit: np.ndarray | None
    values: np.ndarray
    mask: np.ndarray | None
    bits: int | None
    placement: Placement
    clip: Clip
    beyond: np.ndarray | None = None
    images: tuple[DicomImage, ...] = ()
    scale: int = 1

    @property
    def geometry(self):
        """{} where the result lies on the source's grid, else its "spacing" and "position" in mm (None: not known).

        Both grids cover the same area (``datasets.grid``). Raises UserError where the source has no PixelSpacing.
        """
        if self.scale == 1:
            return {}
        image = self.images[0]
        if image.spacing is None:
            raise UserError(
                f"{image.path}: has no PixelSpacing, so that of the enlarged image is not known; "
                "--imgtype_out npy would do without"
            )
        source = Grid.of(image.hu.shape, image.spacing)
        fine = Grid.of([self.scale * n for n in source.size], [mm / self.scale for mm in source.spacing])
        where = image.where
        position = (
            None
            if where.position is None or where.orientation is None
            else new_position(where.position, where.orientation, source, fine)
        )
        return {"spacing": fine.spacing, "position": position}


def load_slice(source, preparation):
    """Read and prepare one ``inputs.Source``. Raises UserError naming the file."""
    if source.kind == "dcm":
        images = tuple(dicom.read(path, source.frame) for path in source.paths)
        columns, masks = [image.hu[np.newaxis] for image in images], [image.mask for image in images]
        bits, spacing = None, images[0].spacing
    else:
        read = [read_image(path, source.kind) for path in source.paths]
        images, columns, masks = (), [image.array for image in read], [image.mask for image in read]
        bits, spacing = read[0].bits, None
    sizes = {array.shape[1:] for array in columns}
    if len(sizes) > 1:
        raise UserError(f"{source.paths[0]}: its columns have different sizes {sorted(sizes)}; they must be equal")
    scale = preparation.scale
    if scale > 1:
        columns = [enlarge(array, scale) for array in columns]
        masks = [None if mask is None else enlarge_mask(mask, scale) for mask in masks]
        spacing = None if spacing is None else tuple(mm / scale for mm in spacing)
    if preparation.released and preparation.channels == len(columns):
        columns = [to_grey(array, whole=bits == 8) if len(array) == 3 else array for array in columns]
    placement = place(source.paths[0], columns[0].shape[1:], spacing, preparation)
    clip = preparation.clip or (preparation.dicom_clip if source.kind == "dcm" else default_clip(source.kind, bits))
    clip = clip if clip.scales else preparation.numbers
    if preparation.body and any(image.modality != "CT" for image in images):
        raise UserError(f"{source.paths[0]}: is no CT; the network was trained with --clip_body, which needs HU")
    shown = [clip_to_body(array[0])[np.newaxis] for array in columns] if preparation.body else columns
    grid = [on_grid(array, one, placement) for array, one in zip(shown, masks, strict=True)]
    unit = np.concatenate([to_unit(array, mask, clip) for array, mask in grid])
    unit = _match_channels(source.paths[0], unit, len(columns), preparation)
    beyond = [beyond_clip(array, mask, clip) for array, mask in grid]
    if any(one is not None for one in beyond):
        beyond = np.concatenate(
            [np.zeros_like(array) if one is None else one for one, (array, _) in zip(beyond, grid, strict=True)]
        )
        beyond = _match_channels(source.paths[0], beyond, len(columns), preparation)[placement.window]
    else:
        beyond = None
    return Slice(
        np.ascontiguousarray(unit[placement.window]),
        columns[0],
        masks[0],
        bits,
        placement,
        clip,
        None if beyond is None or not beyond.any() else beyond,
        images,
        scale,
    )


def bytes_of(source, preparation):
    """About how much memory a slice takes from its reading until it is written, by what its files declare."""
    if source.ref is not None:
        values = math.prod(source.ref.shape) * len(source.paths)
    else:
        values = sum(declared_values(path, source.kind) for path in source.paths)
    return BYTES_OF_VALUE * preparation.scale**2 * values


def on_grid(array, mask, placement):
    """(C, H, W) of a file and its mask or None -> both on the network's grid."""
    if placement.spacing is None:
        return array, mask
    how = (*placement.spacing, placement.released)
    return resample(array, *how), None if mask is None else resample_mask(mask, *how)


def to_unit(array, mask, clip):
    """(C, H, W) on the network's grid -> [-1, 1], padding at -1: the same steps as in training."""
    unit = clip.to_unit(array)
    if mask is not None and clip.scales:
        unit[:, mask] = PADDING
    return unit


def _match_channels(path, unit, columns, preparation):
    """Colour as grey where the network was trained so, grey as colour; UserError if the channels still do not fit."""
    wanted = len(unit) if preparation.channels is None else preparation.channels
    if len(unit) != wanted and wanted == columns and len(unit) == 3 * columns:
        return np.concatenate([to_grey(part) for part in np.split(unit, columns)])
    if len(unit) != wanted and wanted == 3 * columns and len(unit) == columns:
        return unit.repeat(3, axis=0)
    if len(unit) != wanted:
        raise UserError(f"{path}: {columns} file(s) with {len(unit)} channel(s) for a network that takes {wanted}")
    return unit


def place(path, size, spacing, preparation):
    """The Placement of an image of ``size`` (H, W) with ``spacing`` (row, column) in mm or None. Raises UserError."""
    grid, spacings = tuple(size), None
    if preparation.spacing is not None:
        if spacing is None:
            raise UserError(
                f"{path}: says no pixel size, which --forceSpacing needs; --forceSpacing -1 would do without"
            )
        grid, spacings = resampled_size(size, spacing, preparation.spacing), (tuple(spacing), preparation.spacing)
    wanted = [n if crop is None else crop for n, crop in zip(grid, preparation.crop, strict=True)]
    if preparation.step > 1:
        wanted = _released_crop(path, grid, preparation)
    if any(crop > n for crop, n in zip(wanted, grid, strict=True)):
        raise UserError(
            f"{path}: its {grid[0]}x{grid[1]} pixels are fewer than --crop_height, --crop_width "
            f"{wanted[0]}x{wanted[1]}; leave these out to convert whole images"
        )
    if preparation.fixed is not None and tuple(wanted) != tuple(preparation.fixed):
        height, width = preparation.fixed
        crop = (
            f"; --crop_height {height} --crop_width {width} would convert its middle"
            if (height <= grid[0] and width <= grid[1])
            else ""
        )
        raise UserError(
            f"{path}: is {grid[0]}x{grid[1]} (height x width); this network has fully connected layers and "
            f"takes exactly {height}x{width}{crop}"
        )
    rooms = [n - crop for n, crop in zip(grid, wanted, strict=True)]
    top, left = (round(room / 2) if preparation.step > 1 else room // 2 for room in rooms)
    return Placement(tuple(size), grid, top, left, *wanted, spacings, preparation.released)


def _released_crop(path, grid, preparation):
    """[rows, columns] that a model of the released codes converts: its crop, else the largest multiple of 16."""
    step = preparation.step
    wanted = [min(crop, n) if crop else n // step * step or n for n, crop in zip(grid, preparation.crop, strict=True)]
    if wanted != list(grid):
        _tell_of_crop(path.parent, *grid, *wanted)
    return wanted


@functools.cache
def _tell_of_crop(folder, height, width, rows, columns):
    log.warning(
        "%s: of %dx%d pixels (height x width) the middle %dx%d are converted, as by the released code that "
        "wrote args; --crop_height %d --crop_width %d converts all",
        folder,
        height,
        width,
        rows,
        columns,
        height,
        width,
    )


class SliceCache:
    """Slices of one volume, each read once though several stacks need it; the last ``limit`` are kept. Thread-safe.

    load(index) -> Slice; size(index) -> bytes that it takes, known before.
    """

    def __init__(self, load, limit, size):
        self._load, self._limit, self.size = load, limit, size
        self._entries = OrderedDict()
        self._lock = threading.Lock()

    def get(self, index):
        """The slice, or the UserError or OSError that reading it raised."""
        with self._lock:
            entry = self._entries.setdefault(index, _Entry())
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.value is None:
                try:
                    entry.value = self._load(index)
                except (UserError, OSError) as error:
                    entry.value = error
        if isinstance(entry.value, Exception):
            raise entry.value
        return entry.value


class _Entry:
    def __init__(self):
        self.lock = threading.Lock()
        self.value = None
