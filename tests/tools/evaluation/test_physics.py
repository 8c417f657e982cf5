"""Noise power, edge width and classical filters on images whose answer is known."""

import importlib.util
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medi2i.common.errors import UserError
from medi2i.tools.evaluation import classical, physics
from medi2i.tools.evaluation.physics import EdgeMeter, rise


def test_the_integral_of_the_noise_power_is_the_variance():
    patches = np.random.default_rng(0).normal(3, 10, (20, 32, 32))
    spectrum = physics.power_spectrum(patches, (0.5, 0.8))
    step = 1 / (32 * 0.5) / (32 * 0.8)
    variance = np.mean([physics.detrend(patch).var() for patch in patches])
    assert spectrum.sum() * step == pytest.approx(variance)
    assert variance == pytest.approx(100, rel=0.03)


def test_white_noise_is_flat_and_a_wave_is_a_peak():
    generator = np.random.default_rng(1)
    white = physics.power_spectrum(generator.normal(0, 10, (400, 32, 32)), (0.5, 0.5))
    frequency, power = physics.radial(white, (0.5, 0.5))
    assert frequency[0] == pytest.approx(1 / 16) and frequency[-1] == pytest.approx(1.0)
    np.testing.assert_allclose(power[1:], 100 * 0.25, rtol=0.06)
    rows, _ = np.indices((32, 32))
    wave = [5 * np.cos(2 * np.pi * (8 * rows / 32 + phase)) for phase in (0, 0.3)]
    frequency, power = physics.radial(physics.power_spectrum(wave, (0.5, 0.5)), (0.5, 0.5))
    assert frequency[np.argmax(power)] == pytest.approx(8 / 16)


def test_shading_is_not_noise():
    rows, columns = np.indices((32, 32))
    np.testing.assert_allclose(physics.detrend(7.0 + 3 * rows - 2 * columns), 0, atol=1e-9)


def test_regions_are_uniform_tissue_and_do_not_overlap():
    truth = np.full((70, 131), -1000.0)
    truth[:, 40:] = 40.0
    truth[10:20, 50:60] = 400.0
    mask = np.ones(truth.shape, dtype=bool)
    mask[:, 125:] = False
    regions = physics.uniform_regions(truth, *physics.TISSUE, physics.UNIFORM_CT, mask)
    assert len(regions) >= 2
    places = [(row, column) for _, row, column in regions]
    for row, column in places:
        region = np.s_[row : row + 32, column : column + 32]
        assert truth[region].shape == (32, 32)
        assert np.all(truth[region] == 40) and mask[region].all()
    assert all(abs(a[0] - b[0]) >= 32 or abs(a[1] - b[1]) >= 32 for a in places for b in places if a != b)
    assert physics.uniform_regions(truth[:31], *physics.TISSUE, physics.UNIFORM_CT) == []


@pytest.mark.parametrize("sigma", [1.0, 1.6])
def test_width_of_a_blurred_disc(sigma):
    rows, columns = np.indices((120, 120)) * 1.0
    disc = np.where(np.hypot(rows - 60.3, columns - 58.8) < 35, 50.0, -1000.0)
    fine = gaussian_filter(disc, sigma)
    meter = EdgeMeter(least_step=300)
    meter.add(gaussian_filter(disc, 0.7), {"blurred": fine, "truth": gaussian_filter(disc, 0.7)})
    assert meter.count > 100
    assert meter.distance("blurred") == pytest.approx(2 * 1.2816 * sigma, rel=0.02)
    assert meter.distance("truth") == pytest.approx(2 * 1.2816 * 0.7, rel=0.05)


def test_rise_of_a_ramp_is_exact_and_of_a_falling_profile_not_there():
    offsets = np.arange(-6, 6.001, 0.125)
    assert rise(offsets, np.clip(offsets / 4 + 0.5, 0, 1)) == pytest.approx(3.2)
    assert math.isnan(rise(offsets, -offsets))


def test_lines_and_texture_are_no_edges():
    image = np.zeros((80, 80))
    image[:, 40:43] = 1000
    meter = EdgeMeter(least_step=300)
    meter.add(image, {"a": image})
    assert meter.count == 0 and math.isnan(meter.distance("a"))


def noisy_step(seed=0, sigma=20.0):
    truth = np.zeros((40, 44))
    truth[:, 22:] = 200
    return (truth + np.random.default_rng(seed).normal(0, sigma, truth.shape)).astype(np.float32), truth, None


@pytest.mark.parametrize("name", ["tv", "nlm"])
def test_strength_is_the_best_of_those_tried_and_its_neighbours_are_worse(name):
    pairs = [noisy_step(0), noisy_step(1)]
    tuned = classical.tune(classical.FILTERS[name], pairs)
    assert tuned.sigma == pytest.approx(20, rel=0.05)
    assert tuned.tried[tuned.strength] == min(tuned.tried.values()) < 10
    place = list(tuned.tried).index(tuned.strength)
    assert 0 < place < len(tuned.tried) - 1
    image, truth, _ = noisy_step(2)
    assert np.sqrt(np.mean((tuned(image) - truth) ** 2)) < 10
    both = tuned(np.stack([image, image + 7]))
    assert both.shape == (2, 40, 44) and both.dtype == np.float32
    np.testing.assert_array_equal(both[0], tuned(image))


def test_nothing_to_choose_without_noise():
    truth = np.zeros((20, 20))
    with pytest.raises(UserError, match="there is no noise to choose for"):
        classical.tune(classical.FILTERS["tv"], [(truth + 100, truth, None)])


def test_noise_is_measured_where_the_mask_counts():
    image, truth, _ = noisy_step()
    image[:, :10] = 900
    mask = np.ones(truth.shape, dtype=bool)
    mask[:, :10] = False
    assert classical.noise_deviation([(image, truth, mask)]) == pytest.approx(20, rel=0.05)


def test_bm3d():
    pytest.importorskip("bm3d", reason="bm3d is not installed")
    image, truth, _ = noisy_step()
    filtered = classical.Tuned(classical.FILTERS["bm3d"], 1.0, 20.0, {})(image)
    assert np.sqrt(np.mean((filtered - truth) ** 2)) < 5


def test_a_missing_bm3d_is_told_with_its_licence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    classical.check(["tv", "nlm"])
    with pytest.raises(UserError, match="pip install bm3d .its licence allows non-commercial use only., into /"):
        classical.check(["tv", "bm3d"])
