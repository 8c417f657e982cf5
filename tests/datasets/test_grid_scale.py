"""Coarser grids, exactly: constants, ramps, band-limited images, masks, sizes that do not divide."""

import numpy as np
import pytest

from medi2i.datasets import grid
from medi2i.datasets.grid import Grid

METHODS = pytest.mark.parametrize("method", grid.METHODS)


@METHODS
@pytest.mark.parametrize("scale", [2, 3])
def test_a_constant_stays_constant_there_and_back(method, scale):
    image = np.full((2, 5 * scale, 7 * scale), 137.0, np.float32)
    low = grid.reduce(image, scale, method)
    assert low.shape == (2, 5, 7) and low.dtype == np.float32
    np.testing.assert_allclose(low, 137, rtol=1e-6)
    back = grid.enlarge(low, scale)
    assert back.shape == image.shape and back.dtype == np.float32
    np.testing.assert_allclose(back, 137, rtol=1e-6)


@METHODS
@pytest.mark.parametrize(("scale", "size"), [(2, (34, 46)), (3, (45, 51)), (4, (60, 68))])
def test_coarse_pixels_lie_over_the_middle_of_fine_ones(method, scale, size):
    """A slow wave is sampled at n·i + (n - 1)/2: exactly by k-space, closely by bicubic interpolation."""
    rows, columns = (2 * np.pi / n for n in size)

    def wave(y, x):
        return 3 + np.cos(rows * y[:, None] + 0.3) * np.sin(columns * x + 1.1)

    low = grid.reduce(wave(np.arange(size[0]), np.arange(size[1]))[np.newaxis], scale, method)[0]
    centres = [scale * np.arange(n // scale) + (scale - 1) / 2 for n in size]
    wanted = wave(*centres)
    if method == grid.KSPACE:
        np.testing.assert_allclose(low, wanted, atol=1e-5)
    inner = np.s_[2:-2, 2:-2]

    def error(down, right):
        return np.abs(low - wave(centres[0] + down, centres[1] + right))[inner].max()

    assert error(0, 0) < 0.02 and all(
        error(0, 0) < error(*off) / 2 for off in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))
    )


@pytest.mark.parametrize(("scale", "size"), [(2, (22, 30)), (3, (21, 27))])
def test_band_limited_images_survive_truncation_exactly(scale, size):
    """All frequencies that the coarse grid holds, with random phases: nothing of them is lost, nothing is added."""
    rng = np.random.default_rng(1)
    coarse = tuple(n // scale for n in size)
    y, x = (np.arange(n) for n in size)
    cy, cx = (scale * np.arange(n) + (scale - 1) / 2 for n in coarse)
    image, wanted = np.zeros(size), np.zeros(coarse)
    for v in range((coarse[0] + 1) // 2):
        for u in range(-((coarse[1] - 1) // 2), (coarse[1] + 1) // 2):
            a, phase = rng.normal(), rng.uniform(0, 2 * np.pi)
            image += a * np.cos(2 * np.pi * (v * y[:, None] / size[0] + u * x / size[1]) + phase)
            wanted += a * np.cos(2 * np.pi * (v * cy[:, None] / size[0] + u * cx / size[1]) + phase)
    np.testing.assert_allclose(grid.reduce(image[np.newaxis], scale, grid.KSPACE)[0], wanted, atol=1e-4)
    too_fine = np.cos(2 * np.pi * (coarse[1] // 2 + 1) * x / size[1]) + np.zeros(size)
    np.testing.assert_allclose(grid.reduce(too_fine[np.newaxis], scale, grid.KSPACE), 0, atol=1e-5)


@METHODS
def test_what_is_too_fine_does_not_alias(method):
    """Stripes two pixels wide: every second pixel alone would be all white or all black."""
    stripes = np.zeros((1, 16, 24), np.float32)
    stripes[:, :, ::2] = 1
    inner = grid.reduce(stripes, 4, method)[0, :, 1:-1]
    np.testing.assert_allclose(inner, 0.5, atol=0.02)


def test_enlarging_keeps_ramps_and_hits_no_corner():
    ramp = np.arange(9, dtype=np.float32)[np.newaxis, :, np.newaxis] * np.ones((1, 9, 7), np.float32)
    fine = grid.enlarge(ramp, 2)[0]
    wanted = (np.arange(18) - 0.5) / 2
    np.testing.assert_allclose(fine[4:-4], (wanted[:, None] * np.ones(14))[4:-4], atol=1e-5)


def test_both_grids_have_one_centre():
    """As datasets/placing.py counts: the middle of the image is the middle of the coarse image."""
    fine, coarse = Grid.of((12, 20), (0.5, 0.75)), Grid.of((6, 10), (1.0, 1.5))
    np.testing.assert_allclose(coarse.indices_in(fine)[1], 2 * np.arange(10) + 0.5)


def test_sizes_that_do_not_divide():
    image = np.arange(5 * 7, dtype=np.float32).reshape(1, 5, 7)
    with pytest.raises(ValueError, match="5x7"):
        grid.reduce(image, 2)
    with pytest.raises(ValueError, match="method 'nearest'"):
        grid.reduce(image, 1, "nearest")
    whole = grid.continued(image, 3)
    assert whole.shape == (1, 6, 9)
    np.testing.assert_array_equal(whole[:, :5, :7], image)
    np.testing.assert_array_equal(whole[:, 5, :7], image[:, 4])
    np.testing.assert_array_equal(whole[:, :5, 8], image[:, :, 6])
    np.testing.assert_array_equal(grid.cut(image, 3), image[:, :3, :6])
    assert grid.continued(image, 1) is image


def test_masks():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    wanted = np.zeros((2, 3), bool)
    wanted[0, 1] = True
    np.testing.assert_array_equal(grid.reduce_mask(mask, 2), wanted)
    again = grid.enlarge_mask(wanted, 2)
    assert again.sum() == 4 and again[0:2, 2:4].all()
