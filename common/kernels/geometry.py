"""The sizes that a convolution is made of, whatever computes it, and where the elements of dense arrays lie."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """A convolution of images (N, C, H, W) to (N, C', H', W'), from ``shape`` to ``out_shape``.

    weights: (C', C / groups, kh, kw). stride, pad (top and left), dilate: (vertical, horizontal), dilate 1 is dense.
    """

    shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    weights: tuple[int, ...]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilate: tuple[int, int]
    groups: int

    @property
    def pad_after(self) -> tuple[int, ...]:
        """Padding at the bottom and right that the output's size needs; never below 0."""
        return tuple(
            max(0, (out - 1) * s + (k - 1) * d + 1 - size - p)
            for out, s, k, d, size, p in zip(
                self.out_shape[2:], self.stride, self.weights[2:], self.dilate, self.shape[2:], self.pad, strict=True
            )
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute, which oneDNN does not take."""
        return 0 in self.shape or 0 in self.out_shape or 0 in self.weights


def first_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a dense array in the order of its axes."""
    return tuple(math.prod(shape[axis:]) for axis in range(1, len(shape) + 1))


def last_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a dense (N, C, H, W) array with its channels last in memory."""
    _, c, h, w = shape
    return c * h * w, 1, w * c, c
