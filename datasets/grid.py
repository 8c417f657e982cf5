"""The grid that an image lies on: crops of it, other pixel sizes, other places; and the way back.

Coordinates (v, u) in mm count from the centre of the source image, v down its rows and u along its columns. Both grids
share their centre: pixel i of n lies (i - (n - 1) / 2) · spacing mm from it.

A grid whose pixels are n times as large covers the same area: pixel i of the coarse one lies over the pixels n·i …
n·i + n - 1 of the fine one, so its centre is at n·i + (n - 1)/2. Arrays are (C, H, W), float32, in any unit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow
from scipy import fft, ndimage

from medi2i.common.errors import UserError

if TYPE_CHECKING:
    from medi2i.common.options import PairedOptions, UnpairedOptions

STEP = 16  # the default crop is a multiple of it


def crop_for(
    phase: str,
    smallest: tuple[int, int],
    options: "PairedOptions | UnpairedOptions",
    multiple: int = 1,
    beyond: bool = False,
) -> tuple[int, int]:
    """(height, width) of the crop of ``phase`` "train" or "val", by the options, for images of at least ``smallest``.

    What is not given is the largest multiple of 16 that leaves room for ``random_translate`` pixels on both sides
    (without that room where the image is too small for both; a negative one needs none). ``multiple``: what the network
    needs both to be divisible by. ``beyond``: a crop may be larger than the image. Where training takes crops from
    anywhere, validation takes all of the image (to a multiple of ``multiple``): its middle would not stand for it. A
    network with fully connected layers keeps to its one size. Raises UserError, with the largest crop that works, for
    one that does not fit.
    """
    translate = options.random_translate
    if phase == "val" and translate < 0 and not (options.gen_fc > 0 or options.latent_dim > 0):
        return smallest[0] // multiple * multiple, smallest[1] // multiple * multiple
    beyond = beyond and translate >= 0
    return (
        _side("crop_height", options.crop_height, smallest[0], translate, multiple, beyond),
        _side("crop_width", options.crop_width, smallest[1], translate, multiple, beyond),
    )


def _side(option: str, given: int | None, available: int, translate: int, multiple: int, beyond: bool) -> int:
    step = math.lcm(STEP, multiple)
    if given is None:
        with_room = (available - 2 * max(translate, 0)) // step * step
        crop = with_room if with_room > 0 else available // step * step
        if crop == 0:
            raise UserError(
                f"--{option}: the smallest image has {available} pixels there, fewer than {step}"
                + _works(available, multiple)
            )
        return crop
    if given > available and not beyond:
        raise UserError(
            f"--{option}: {given} is larger than the smallest image, which has {available} pixels there"
            + _works(available, multiple)
        )
    if given % multiple:
        raise UserError(
            f"--{option}: {given} is not a multiple of {multiple}, as this network needs" + _works(available, multiple)
        )
    return given


def _works(available: int, multiple: int) -> str:
    largest = available // multiple * multiple
    if largest == 0:
        return f"; this network needs at least {multiple}: a network with fewer levels would be right"
    return f"; the largest crop that works is {largest}"


ORDERS = {"linear": 1, "cubic": 3}
EXACT = 1e-6  # pixels: nearer than this to a whole pixel, that pixel's value is taken as it is


@dataclass(frozen=True)
class Grid:
    """`size` (H, W) pixels of `spacing` (down, right) mm; their centre lies at `centre` (v, u) mm."""

    centre: tuple[float, float]
    spacing: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, size: Sequence[int], spacing: Sequence[float]) -> "Grid":
        """The grid of an image itself."""
        return cls((0.0, 0.0), (float(spacing[0]), float(spacing[1])), (size[0], size[1]))

    def indices_in(self, other: "Grid") -> list[np.ndarray]:
        """Where rows and columns of this grid lie in the other one, in its pixels."""
        return [
            (
                self.centre[axis]
                - other.centre[axis]
                + (np.arange(self.size[axis]) - (self.size[axis] - 1) / 2) * self.spacing[axis]
            )
            / other.spacing[axis]
            + (other.size[axis] - 1) / 2
            for axis in (0, 1)
        ]

    def first_pixel(self, other: "Grid") -> tuple[float, float]:
        """Row and column of this grid's pixel (0, 0) in the other one's pixels."""
        rows, columns = self.indices_in(other)
        return float(rows[0]), float(columns[0])


def sample(
    image: np.ndarray, source: Grid, target: Grid, mask: np.ndarray | None = None, order: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """`image` (H, W) on the target grid: float32 (h, w), and bool (h, w), True where there is nothing of the source.

    `mask`: True on the source's own padding; what touches it is padding too. A coarser grid averages over its pixels
    (a Gaussian of half the excess, as scikit-image's resize) against aliasing.
    """
    indices = target.indices_in(source)
    outside = [(at < -0.5) | (at > length - 0.5) for at, length in zip(indices, source.size, strict=True)]
    padding = outside[0][:, None] | outside[1][None, :]
    if mask is not None:
        padding |= _interpolated(mask.astype(np.float32), source, target, 1) > EXACT
    blur = [max(0.0, (new / old - 1) / 2) for new, old in zip(target.spacing, source.spacing, strict=True)]
    image = np.asarray(image, dtype=np.float32)
    if any(blur):
        image = ndimage.gaussian_filter(image, blur, mode="nearest")
    return _interpolated(image, source, target, order), padding


def _interpolated(image: np.ndarray, source: Grid, target: Grid, order: int) -> np.ndarray:
    """Beyond the ends, the end's value; whole pixels as they are."""
    first = np.array(target.first_pixel(source))
    step = np.array(target.spacing) / source.spacing
    whole = np.rint([first, step])
    if np.all(np.abs([first, step] - whole) < EXACT):
        (first, step), order = whole, 0
    return ndimage.affine_transform(image, step, first, target.size, np.float32, order, mode="nearest")


def new_position(
    position: Sequence[float] | None, orientation: Sequence[float] | None, source: Grid, target: Grid
) -> tuple[float, float, float] | None:
    """ImagePositionPatient (PS3.3 C.7.6.2.1.1) of an image on the target grid, from that of its source.

    `orientation`: ImageOrientationPatient, the direction of rows and then that of columns. None where one is not known.
    """
    if position is None or orientation is None:
        return None
    row, column = target.first_pixel(source)
    along_row, along_column = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    x, y, z = (
        np.array(position, dtype=float)
        + along_row * column * source.spacing[1]
        + along_column * row * source.spacing[0]
    )
    return float(x), float(y), float(z)


def resampled_size(size: Sequence[int], spacing: Sequence[float], new_spacing: float) -> tuple[int, int]:
    """(H, W) of the grid of ``new_spacing`` mm that covers an image of ``size`` and ``spacing`` (row, column) mm."""
    height, width = (max(1, round(n * mm / new_spacing)) for n, mm in zip(size, spacing, strict=True))
    return height, width


def resample(array: np.ndarray, spacing: tuple[float, float], new_spacing: float, released: bool = False) -> np.ndarray:
    """(C, H, W) with ``spacing`` (row, column) mm -> (C, h, w) float32 with square pixels of ``new_spacing`` mm.

    ``released``: by scikit-image's rescale, as the released codes did. Both grids then cover the same area, whatever
    whole number of pixels that makes.
    """
    size = resampled_size(array.shape[1:], spacing, new_spacing)
    return resample_to(array, spacing, (new_spacing, new_spacing), size, released)


def resample_to(
    array: np.ndarray,
    spacing: tuple[float, float],
    new_spacing: tuple[float, float],
    size: tuple[int, int],
    released: bool = False,
) -> np.ndarray:
    """The same to ``size`` (H, W) pixels of ``new_spacing`` (row, column) mm: (C, *size) float32."""
    if released:
        from skimage.transform import resize  # what its rescale is, once the size is known; slow to import

        planes = [resize(plane, size) for plane in np.asarray(array, dtype=np.float32)]
        return np.ascontiguousarray(planes, dtype=np.float32)
    source, target = Grid.of(array.shape[1:], spacing), Grid.of(size, new_spacing)
    return np.stack([sample(plane, source, target)[0] for plane in array])


def resample_mask(mask: np.ndarray, spacing: Sequence[float], new_spacing: float, released: bool = False) -> np.ndarray:
    """(H, W) bool -> (h, w) bool: the nearest pixel's."""
    size = resampled_size(mask.shape, spacing, new_spacing)
    if released:
        spacing = tuple(new_spacing * m / n for n, m in zip(mask.shape, size, strict=True))
    places = Grid.of(size, (new_spacing, new_spacing)).indices_in(Grid.of(mask.shape, spacing))
    rows, columns = (np.clip(np.rint(at), 0, n - 1).astype(int) for at, n in zip(places, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


BICUBIC, KSPACE = "bicubic", "kspace"
METHODS = (BICUBIC, KSPACE)


def reduce(array: np.ndarray, scale: int, method: str = BICUBIC) -> np.ndarray:
    """(C, H, W) -> (C, H/scale, W/scale). Raises ValueError where the sizes are no multiples of ``scale``.

    bicubic: Pillow's, with Keys' kernel (a = -1/2) widened by ``scale``, so that nothing aliases; at the border its
    weights are renormalised. kspace: the spatial frequencies that the coarse grid cannot hold are cut off, as a
    magnetic resonance scan with a smaller matrix does not measure them (Chen et al., arXiv 2003.01217);
    the image counts as periodic, and edges ring.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}; it can be {', '.join(METHODS)}")
    height, width = array.shape[1:]
    if height % scale or width % scale or scale < 1:
        raise ValueError(f"image of {height}x{width} (height x width): no multiples of {scale}")
    if method == BICUBIC:
        return _resized(array, height // scale, width // scale)
    low = _truncated(_truncated(np.asarray(array, np.float64), scale, 1), scale, 2)
    return low.astype(np.float32)


def enlarge(array: np.ndarray, scale: int) -> np.ndarray:
    """(C, H, W) -> (C, scale·H, scale·W) by bicubic interpolation (Keys, IEEE TASSP 29, 1981, a = -1/2; Pillow's)."""
    return _resized(array, scale * array.shape[1], scale * array.shape[2])


def enlarge_mask(mask: np.ndarray, scale: int) -> np.ndarray:
    """(H, W) bool -> (scale·H, scale·W): each pixel becomes a square."""
    return mask.repeat(scale, axis=0).repeat(scale, axis=1)


def reduce_mask(mask: np.ndarray, scale: int) -> np.ndarray:
    """(H, W) bool -> (H/scale, W/scale): True where any of the fine pixels is, for the value is made of it, too."""
    height, width = (n // scale for n in mask.shape)
    return np.logical_or.reduce(mask.reshape(height, scale, width, scale), axis=(1, 3))


def continued(array: np.ndarray, scale: int) -> np.ndarray:
    """(C, H, W) continued at the bottom and the right by its last row and column to multiples of ``scale``."""
    missing = [(0, -n % scale) for n in array.shape[1:]]
    return np.pad(array, [(0, 0), *missing], mode="edge") if any(after for _, after in missing) else array


def cut(array: np.ndarray, scale: int) -> np.ndarray:
    """(..., H, W) without the last rows and columns that would make an incomplete coarse pixel."""
    height, width = (n // scale * scale for n in array.shape[-2:])
    return array[..., :height, :width]


def _resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    planes = [Pillow.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in array]
    return np.stack([np.asarray(plane.resize((width, height), Pillow.Resampling.BICUBIC)) for plane in planes])


def _truncated(array: np.ndarray, scale: int, axis: int) -> np.ndarray:
    """float64 with the frequencies of a grid ``scale`` times as coarse along an axis, at the coarse pixels' centres."""
    fine = array.shape[axis]
    coarse = fine // scale
    spectrum = np.moveaxis(fft.rfft(array, axis=axis), axis, -1)[..., : coarse // 2 + 1]
    # The first coarse pixel's centre lies (scale - 1)/2 fine pixels from that of the first fine one.
    turned = spectrum * np.exp(2j * np.pi * np.arange(coarse // 2 + 1) * ((scale - 1) / 2) / fine)
    return np.moveaxis(fft.irfft(turned, coarse, axis=-1), -1, axis) * (coarse / fine)
