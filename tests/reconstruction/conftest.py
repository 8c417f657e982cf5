"""A disc of known line integrals."""

import numpy as np
import pytest


@pytest.fixture
def disc():
    return _disc


@pytest.fixture
def chords():
    return _chords


def _disc(geometry, radius, row, column, parts=8):
    """A disc of 1/mm, its edge averaged over ``parts`` x ``parts`` points a pixel. Radius and centre in mm."""
    axes = [
        (np.arange(size * parts) - (size * parts - 1) / 2) * space / parts
        for size, space in zip(geometry.shape, geometry.spacing, strict=True)
    ]
    inside = (axes[0][:, None] - row) ** 2 + (axes[1][None, :] - column) ** 2 <= radius**2
    rows, columns = geometry.shape
    return inside.reshape(rows, parts, columns, parts).mean((1, 3)).astype(np.float32)


def _chords(geometry, radius, row, column):
    """Line integrals of that disc, by Pythagoras, and the rays' distances from its centre."""
    off = np.stack(
        [
            t - (column * np.cos(theta) + row * np.sin(theta))
            for theta, t in map(geometry.rays, range(len(geometry.angles)))
        ]
    )
    return 2 * np.sqrt(np.maximum(radius**2 - off**2, 0)), np.abs(off)
