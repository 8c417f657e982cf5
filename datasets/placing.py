"""Where an image lies in its plane, and sampling it on another grid: crop, shift and resampling in one step.

Coordinates (v, u) in mm count from the centre of the source image, v down its rows and u along its columns, so that
they mean the same for every slice of a series.
"""
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

ORDERS = {"linear": 1, "cubic": 3}
EXACT = 1e-6  # pixels: nearer than this to a whole pixel, that pixel's value is taken as it is


@dataclass(frozen=True)
class Grid:
    """`size` (H, W) pixels of `spacing` (down, right) mm; their centre lies at `centre` (v, u) mm."""
    centre: tuple[float, float]
    spacing: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, size, spacing) -> "Grid":
        """The grid of an image itself."""
        return cls((0.0, 0.0), tuple(map(float, spacing)), tuple(size))

    def indices_in(self, other: "Grid") -> list[np.ndarray]:
        """Where rows and columns of this grid lie in the other one, in its pixels."""
        return [(self.centre[axis] - other.centre[axis]
                 + (np.arange(self.size[axis]) - (self.size[axis] - 1) / 2) * self.spacing[axis]) / other.spacing[axis]
                + (other.size[axis] - 1) / 2 for axis in (0, 1)]

    def first_pixel(self, other: "Grid") -> tuple[float, float]:
        """Row and column of this grid's pixel (0, 0) in the other one's pixels."""
        rows, columns = self.indices_in(other)
        return float(rows[0]), float(columns[0])


def sample(image, source: Grid, target: Grid, mask=None, order: int = 1):
    """`image` (H, W) on the target grid: float32 (h, w), and bool (h, w), True where there is nothing of the source.

    `mask`: True on the source's own padding; what touches it is padding too. A coarser grid averages over its pixels
    (a Gaussian of half the excess, as scikit-image's resize) against aliasing.
    """
    image = np.asarray(image, dtype=np.float32)
    rows, columns = (_snapped(indices) for indices in target.indices_in(source))
    blur = [max(0.0, (new / old - 1) / 2) for new, old in zip(target.spacing, source.spacing, strict=True)]
    if any(blur):
        image = ndimage.gaussian_filter(image, blur, mode="nearest")
    places = np.meshgrid(rows, columns, indexing="ij")
    exact = all(np.array_equal(indices, np.rint(indices)) for indices in (rows, columns))
    values = ndimage.map_coordinates(image, places, order=0 if exact else order, mode="nearest", output=np.float32)
    outside = [(indices < -0.5) | (indices > length - 0.5)
               for indices, length in zip((rows, columns), source.size, strict=True)]
    padding = outside[0][:, None] | outside[1][None, :]
    if mask is not None:
        padding |= ndimage.map_coordinates(mask.astype(np.float32), places, order=0 if exact else 1, mode="nearest") > 0
    return values, padding


def new_position(position, orientation, source: Grid, target: Grid) -> tuple[float, float, float]:
    """ImagePositionPatient (PS3.3 C.7.6.2.1.1) of an image on the target grid, from that of its source.

    `orientation`: ImageOrientationPatient, the direction of rows and then that of columns.
    """
    row, column = target.first_pixel(source)
    along_row, along_column = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    moved = (np.array(position, dtype=float) + along_row * column * source.spacing[1]
             + along_column * row * source.spacing[0])
    return tuple(float(value) for value in moved)


def _snapped(indices):
    """Whole numbers where rounding alone makes the difference."""
    whole = np.rint(indices)
    return np.where(np.abs(indices - whole) < EXACT, whole, indices)
