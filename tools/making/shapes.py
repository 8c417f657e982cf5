"""Random geometric shapes: the toy images of the tutorials. Arrays are (H, W); coverage is 0…1, smooth at edges."""

from dataclasses import dataclass

import numpy as np

SUPERSAMPLING = 4  # sub-pixels per pixel and direction, so that edges are smooth
RECTANGLE, ELLIPSE, TRIANGLE = "rectangle", "ellipse", "triangle"
CLASSES = (RECTANGLE, ELLIPSE, TRIANGLE)
"""Label of a shape in a label image: its place here + 1; 0 is the background."""


@dataclass(frozen=True)
class Shape:
    """Centre and half axes in pixels (row, column), rotation in radians, colour (R, G, B) 0…1."""

    centre: tuple[float, float]
    half: tuple[float, float]
    angle: float
    colour: tuple[float, float, float]

    def coverage(self, size: tuple[int, int], kind: str) -> np.ndarray:
        """How much of every pixel the shape covers: float (H, W), multiples of 1/SUPERSAMPLING²."""
        height, width = size
        rows, columns = (
            np.arange(length * SUPERSAMPLING) / SUPERSAMPLING + 0.5 / SUPERSAMPLING - 0.5 for length in (height, width)
        )
        down, right = np.meshgrid(rows - self.centre[0], columns - self.centre[1], indexing="ij")
        along = (np.cos(self.angle) * down + np.sin(self.angle) * right) / self.half[0]
        across = (np.cos(self.angle) * right - np.sin(self.angle) * down) / self.half[1]
        fine = _INSIDE[kind](along, across)
        return fine.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING).mean(axis=(1, 3))


_INSIDE = {
    RECTANGLE: lambda v, u: (np.abs(v) <= 1) & (np.abs(u) <= 1),
    ELLIPSE: lambda v, u: v * v + u * u <= 1,
    TRIANGLE: lambda v, u: (np.abs(v) <= 1) & (np.abs(u) <= (v + 1) / 2),
}


def random_shape(generator: np.random.Generator, size: tuple[int, int], rotate: bool, largest: float = 0.28) -> Shape:
    """A shape that lies within the image; half axes from 0.1 to `largest` of the shorter side."""
    short = min(size)
    half = generator.uniform(0.1, largest, 2) * short
    reach = float(np.hypot(*half)) if rotate else None
    centre = tuple(
        float(generator.uniform(margin, length - 1 - margin))
        for length, margin in zip(size, (reach, reach) if rotate else half, strict=True)
    )
    angle = float(generator.uniform(0, 2 * np.pi)) if rotate else 0.0
    colour = tuple(float(value) for value in generator.uniform(0.25, 1.0, 3))
    return Shape(centre, (float(half[0]), float(half[1])), angle, colour)


def paint(size: tuple[int, int], shapes, kinds, background=(0.0, 0.0, 0.0)) -> np.ndarray:
    """A picture float (3, H, W) in 0…1: the shapes over each other, the last on top."""
    picture = np.broadcast_to(np.reshape(background, (3, 1, 1)), (3, *size)).astype(np.float64)
    for shape, kind in zip(shapes, kinds, strict=True):
        cover = shape.coverage(size, kind)
        picture = picture * (1 - cover) + np.reshape(shape.colour, (3, 1, 1)) * cover
    return picture


def label(size: tuple[int, int], shapes, kinds) -> np.ndarray:
    """The label image uint8 (H, W) of the same: the class of the shape that covers at least half of the pixel."""
    labels = np.zeros(size, dtype=np.uint8)
    for shape, kind in zip(shapes, kinds, strict=True):
        labels[shape.coverage(size, kind) >= 0.5] = CLASSES.index(kind) + 1
    return labels


def stripes(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Black and white stripes (3, H, W) of random direction and place, 6 pixels wide each."""
    direction, phase = generator.uniform(0, 2 * np.pi, 2)
    rows, columns = np.indices(size)
    wave = np.sin((rows * np.cos(direction) + columns * np.sin(direction)) * np.pi / 6 + phase)
    return np.broadcast_to(np.clip(0.5 + 2 * wave, 0, 1), (3, *size))
