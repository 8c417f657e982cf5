"""Simulated scans: the moments of their noise, and phantoms as they are published."""

import numpy as np
import pytest
from skimage.data import shepp_logan_phantom

from medi2i.common.errors import UserError
from medi2i.reconstruction.geometry import MU_WATER, regular
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.simulate import Scanner, ellipses, shepp_logan

GEOMETRY = regular((40, 40), (3.0, 3.0), 30)


def test_without_noise_it_is_the_projection_of_the_finer_image(disc):
    image = disc(GEOMETRY, 40, 3, -4) * MU_WATER
    found = Scanner(GEOMETRY, fineness=1).measure(image, np.random.default_rng(0))
    assert found == pytest.approx(Operator(GEOMETRY)(image), abs=1e-6)
    finer = Scanner(GEOMETRY, fineness=3).measure(image, np.random.default_rng(0))
    assert np.abs(finer - found).max() > 1e-4 and finer.mean() == pytest.approx(found.mean(), rel=1e-3)


def test_counts_are_poisson(disc):
    image = disc(GEOMETRY, 40, 0, 0) * MU_WATER
    exact = Scanner(GEOMETRY, 1).measure(image, np.random.default_rng(0)).astype(float)
    scanner = Scanner(GEOMETRY, 1, photons=2000.0, electronic=10.0)
    rng = np.random.default_rng(1)
    off = np.stack([scanner.measure(image, rng) for _ in range(200)]) - exact
    counts = 2000 * np.exp(-exact)
    variance = (counts + 10**2) / counts**2  # of the logarithm, to first order
    assert (off.var(axis=0) / variance).mean() == pytest.approx(1, abs=0.02)
    assert abs(off.mean()) < 2 * variance.mean()


def test_relative_noise_is_of_the_mean(disc):
    image = disc(GEOMETRY, 40, 0, 0) * MU_WATER
    exact = Scanner(GEOMETRY, 1).measure(image, np.random.default_rng(0))
    noisy = Scanner(GEOMETRY, 1, relative=0.05).measure(image, np.random.default_rng(0))
    assert (noisy - exact).std() == pytest.approx(0.05 * np.abs(exact).mean(), rel=0.05)


def test_nothing_comes_through_and_the_logarithm_is_finite():
    found = Scanner(GEOMETRY, 1, photons=10.0).measure(np.ones((40, 40)), np.random.default_rng(0))
    assert np.isfinite(found).all() and found.max() == pytest.approx(np.log(10))


def test_an_image_of_another_size():
    with pytest.raises(UserError, match=r"an image of \(4, 4\) for a scan of \(40, 40\)"):
        Scanner(GEOMETRY).measure(np.ones((4, 4)), np.random.default_rng(0))


def test_the_phantom_of_shepp_and_logan():
    theirs = shepp_logan_phantom()  # of 400 pixels, antialiased another way at the rims
    assert np.mean(np.abs(shepp_logan(400) - theirs) > 0.02) < 0.01


def test_ellipses_fill_the_range_and_depend_on_the_seed():
    first, again, other = (ellipses(np.random.default_rng(seed), 64) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert (first.min(), first.max()) == (0, 1)
    assert not ellipses(np.random.default_rng(0), 8, mean=0).any()
