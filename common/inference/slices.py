"""One slice on its way: file -> HU -> [-1, 1] on the network's grid, and where that lies on the source's grid."""

import dataclasses
import functools
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference.values import beyond_clip
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import Source
from medi2i.datasets.grid import Grid, new_position, resampled_size
from medi2i.datasets.preparing import Placement, Scale, to_grid, to_unit, with_channels
from medi2i.datasets.reading import Image, declared_values, read_image, to_grey
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
    normalised: the scale to which all values are brought as they are read: what a slice holds is on it.
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
    normalised: Scale | None = None


@dataclasses.dataclass
class Slice:
    """``unit`` (C, h, w) float32 in [-1, 1] for the network; ``values`` (C, H, W) as the first file has them (HU),
    enlarged ``scale`` times.

    ``clip`` made ``unit`` of values, and ``beyond`` (as ``unit``, in the unit of values) is what it took off them, None
    for nothing. ``mask`` (H, W) is True on padding, None without any; ``bits`` as in ``medi2i.datasets.reading.Image``;
    ``images`` are the DICOM images read, one of each column. ``unit`` may be emptied once nothing needs it.
    """

    unit: np.ndarray
    values: np.ndarray
    mask: np.ndarray | None
    bits: int | None
    placement: Placement
    clip: Clip
    beyond: np.ndarray | None = None
    images: tuple[dicom.DicomImage, ...] = ()
    scale: int = 1

    @property
    def geometry(self) -> dict[str, Any]:
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
        return {
            "spacing": fine.spacing,
            "position": new_position(where.position, where.orientation, source, fine),
        }


def load_slice(source: Source, preparation: Preparation) -> Slice:
    """Read and prepare an image by the steps of training. Raises UserError naming the file."""
    images: tuple[dicom.DicomImage, ...] = ()
    if source.held is not None:
        columns = [source.held]
    elif source.kind == "dcm":
        images = tuple(dicom.read(path, source.frame) for path in source.paths)
        columns = [Image(image.hu[np.newaxis], image.mask) for image in images]
    else:
        columns = [read_image(path, source.kind) for path in source.paths]
    if preparation.normalised is not None:
        columns = [preparation.normalised.curve(source, number).image(one) for number, one in enumerate(columns)]
    spacing, bits, scale = images[0].spacing if images else source.spacing, columns[0].bits, preparation.scale
    sizes = {column.array.shape[1:] for column in columns}
    if len(sizes) > 1:
        raise UserError(f"{source.path}: its columns have different sizes {sorted(sizes)}; they must be equal")
    if preparation.released and preparation.channels == len(columns):
        columns = [
            Image(to_grey(one.array, whole=bits == 8), one.mask, bits) if len(one.array) == 3 else one
            for one in columns
        ]
    if preparation.body and any(image.modality != "CT" for image in images):
        raise UserError(f"{source.path}: is no CT; the network was trained with --clip_body, which needs HU")
    how = {name: getattr(preparation, name) for name in ("body", "scale", "spacing", "released")}
    grid = [to_grid(column, spacing, **how) for column in columns]
    same = preparation.spacing is None and not preparation.body
    shown = grid[0] if same else to_grid(columns[0], None, scale=scale)
    fine = None if spacing is None else (spacing[0] / scale, spacing[1] / scale)
    placement = place(source.path, shown.array.shape[1:], fine, preparation)
    clip = preparation.clip or (preparation.dicom_clip if source.kind == "dcm" else default_clip(source.kind, bits))
    clip = clip if clip.scales else preparation.numbers

    def cut(parts: list[np.ndarray]) -> np.ndarray:
        array, wanted = np.concatenate(parts), preparation.channels
        fitting = array if wanted is None else with_channels(array, wanted, len(columns))
        if wanted not in (None, len(fitting)):
            raise UserError(
                f"{source.path}: {len(columns)} file(s) with {len(array)} channel(s) for a network that takes {wanted}"
            )
        return fitting[placement.window]

    unit = np.ascontiguousarray(cut([to_unit(image, clip) for image in grid]))
    found = [beyond_clip(image.array, image.mask, clip) for image in grid]
    beyond = None
    if any(one is not None for one in found):
        beyond = cut([np.zeros_like(g.array) if one is None else one for one, g in zip(found, grid, strict=True)])
        beyond = beyond if beyond.any() else None
    return Slice(unit, shown.array, shown.mask, bits, placement, clip, beyond, images, scale)


def place(
    path: Path, size: tuple[int, int], spacing: tuple[float, float] | None, preparation: Preparation
) -> Placement:
    """The Placement of an image of ``size`` (H, W) with ``spacing`` (row, column) in mm or None. Raises UserError."""
    grid, spacings = size, None
    if preparation.spacing is not None:
        if spacing is None:
            raise UserError(
                f"{path}: says no pixel size, which --forceSpacing needs; --forceSpacing -1 would do without"
            )
        grid, spacings = resampled_size(size, spacing, preparation.spacing), (spacing, preparation.spacing)
    wanted = [n if crop is None else crop for n, crop in zip(grid, preparation.crop, strict=True)]
    if preparation.step > 1:
        step = preparation.step
        wanted = [min(crop or n // step * step or n, n) for n, crop in zip(grid, preparation.crop, strict=True)]
        if wanted != list(grid):
            _tell_of_crop(path.parent, *grid, *wanted)
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
    return Placement(size, grid, top, left, wanted[0], wanted[1], spacings, preparation.released)


@functools.cache
def _tell_of_crop(folder: Path, height: int, width: int, rows: int, columns: int) -> None:
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
    """Slices of one volume, each read once though several stacks need it; the last ``limit`` are kept. Thread-safe."""

    def __init__(self, sources: Sequence[Source], preparation: Preparation, limit: int) -> None:
        self.sources, self._preparation, self._limit = sources, preparation, limit
        self._entries: OrderedDict[int, Future[Slice]] = OrderedDict()
        self._lock = threading.Lock()

    def size(self, index: int) -> int:
        """About how many bytes a slice takes from its reading until it is written, by what its files declare."""
        source = self.sources[index]
        if source.ref is not None:
            values = math.prod(source.ref.shape) * len(source.paths)
        else:
            values = sum(declared_values(path, source.kind) for path in source.paths)
        return BYTES_OF_VALUE * self._preparation.scale**2 * values

    def get(self, index: int) -> Slice:
        """The slice, or what reading it raised."""
        with self._lock:
            entry = self._entries.get(index)
            if first := entry is None:
                entry = self._entries[index] = Future()
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
        if first:
            try:
                entry.set_result(load_slice(self.sources[index], self._preparation))
            except BaseException as error:
                entry.set_exception(error)
        return entry.result()
