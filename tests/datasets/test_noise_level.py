"""Noise whose level and texture follow from formulas, and anatomy that must not count as noise."""

import numpy as np
import pytest
from scipy.ndimage import convolve, correlate1d, gaussian_filter

from medi2i.datasets.noise_level import Noise, NoiseMeter, detrend

SHAPE = (261, 243)


def measured(*slices: np.ndarray, mask: np.ndarray | None = None) -> Noise | None:
    meter = NoiseMeter()
    for index, one in enumerate(slices):
        meter.add(one, mask, slices[index + 1] if index + 1 < len(slices) else None)
    return meter.result()


def white(level: float, seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def anatomy(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Muscle with shading, fat around it, vessels, bones and a lung, in air."""
    rows, columns = np.indices(shape, dtype=np.float32)
    y, x = (rows - shape[0] / 2) / shape[0], (columns - shape[1] / 2) / shape[1]
    radius = np.hypot(x * 1.1, y * 1.4)
    hu = np.where(radius < 0.47, np.where(radius < 0.42, 50 + 60 * x, -100), -1000).astype(np.float32)
    for i, (cy, cx) in enumerate(np.random.default_rng(1).uniform(-0.25, 0.25, (40, 2))):
        hu[np.hypot(x - cx, y - cy) < 0.008 + 0.0003 * i] = 180
    hu[np.hypot(x - 0.05, y - 0.22) < 0.06] = 900
    hu[np.hypot(x + 0.22, y) < 0.09] = -850
    return hu


@pytest.mark.parametrize("level", [3, 12, 60])
def test_white_noise_in_anatomy_is_measured(level):
    found = measured(*(anatomy() + white(level, seed) for seed in range(3)))
    assert found.level == pytest.approx(level, rel=0.05)
    assert found.white and found.mean_frequency == pytest.approx(17 / 48, abs=0.02)
    assert found.neighbours == pytest.approx((0, 0), abs=0.05)


def test_correlated_noise_is_measured_with_its_texture():
    kernel = np.array([0.25, 0.5, 0.25])  # down: correlation of neighbours 2·(0.25·0.5) / (0.0625 + 0.25 + 0.0625)
    slices = [anatomy() + correlate1d(white(40, seed), kernel, axis=0) for seed in range(3)]
    found = measured(*slices)
    assert found.level == pytest.approx(40 * np.sqrt(0.375), rel=0.06)
    assert found.neighbours == pytest.approx((2 / 3, 0), abs=0.06)
    assert not found.white and found.mean_frequency < 0.32


def test_spectra_are_those_of_the_filters_that_made_the_noise():
    laplace = np.array([[0, 0.25, 0], [0.25, -1, 0.25], [0, 0.25, 0]])
    waves = np.cos(2 * np.pi * np.fft.fftfreq(16))
    response = (1 - (waves[:, None] + waves[None, :]) / 2) ** 2
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16)))
    rings = [np.rint(distance * 16) == number for number in range(3, 9)]  # the first lost some to the plane
    found = measured(*(convolve(white(10, seed), laplace) for seed in range(4)))
    assert found.power[2:] == pytest.approx([100 * response[ring].mean() for ring in rings], abs=15)
    flat = measured(*(white(10, seed) for seed in range(4)))
    assert flat.power[2:] == pytest.approx(np.full(6, 100), rel=0.1)


@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_what_neighbouring_slices_have_in_common_of_their_noise_is_found_below_the_same_anatomy(share):
    common = white(20, 10)
    first, second = (anatomy() + np.sqrt(share) * common + np.sqrt(1 - share) * white(20, seed) for seed in (1, 2))
    assert measured(first, second).between_slices == pytest.approx(share, abs=0.07)


def test_one_slice_alone_says_nothing_of_neighbours():
    assert measured(anatomy() + white(9, 0)).between_slices is None


def test_shading_is_no_noise():
    rows, columns = np.indices((64, 80))
    assert measured((0.8 * rows - 0.3 * columns).astype(np.float32)).level == pytest.approx(0, abs=1e-3)
    assert detrend(2.0 * rows + columns) == pytest.approx(np.zeros((64, 80)), abs=1e-9)


def test_an_image_without_noise_has_none():
    found = measured(np.zeros((48, 48), np.float32))
    assert found.level == 0 and found.between_slices is None and np.isnan(found.mean_frequency)


def test_filled_parts_and_padding_do_not_count():
    hu = anatomy() + white(15, 3)
    hu[:, :120] = 0
    assert measured(hu).level == pytest.approx(15, rel=0.06)
    mask = np.zeros(SHAPE, bool)
    mask[:100] = True
    padded = np.where(mask, white(1, 7), anatomy() + white(15, 4)).astype(np.float32)
    assert measured(padded, mask=mask).level == pytest.approx(15, rel=0.08)


@pytest.mark.parametrize("level", [-820.0, 900.0])
def test_lung_and_bone_are_measured_where_there_is_no_soft_tissue(level):
    assert measured(level + white(25, 5)).level == pytest.approx(25, rel=0.05)


def test_soft_tissue_of_one_slice_counts_alone_where_others_have_none():
    assert measured(anatomy() + white(10, 1), -850 + white(40, 2)).level == pytest.approx(10, rel=0.08)


def test_where_nothing_can_be_measured_it_is_not():
    assert measured(white(5, 0, (15, 40))) is None
    assert measured(np.full((40, 40), -1000, np.float32)) is None


@pytest.mark.parametrize("added", [0, 3, 10, 40])
def test_white_noise_is_told_from_texture(added):
    texture = [20 * _unit(gaussian_filter(white(1, seed), 1.0)) for seed in range(3)]
    found = measured(*(anatomy() + one + white(added, 5 + number) for number, one in enumerate(texture)))
    assert found.white_level == pytest.approx(added, rel=0.1, abs=0.5)


def test_a_level_that_is_told_is_taken_away_whole_where_it_may_be_the_white_noise_and_else_in_part():
    found = Noise(50.0, np.zeros(1), np.zeros(1), (0.5, 0.5), None, 10.0)
    assert [found.share_of(level) for level in (5, 12, 45, 60)] == [1, 1, 1, 1]
    assert found.share_of(20) == pytest.approx((20 / 45) ** 1.5)
    assert Noise(0.0, np.zeros(1), np.zeros(1), (0.0, 0.0), None, 0.0).share_of(3) == 1


def test_white_noise_is_taken_away_as_a_whole_and_that_of_a_scan_but_for_some_texture():
    rng, truth = np.random.default_rng(3), np.full((160, 160), 40.0, np.float32)
    texture = 8 * _unit(gaussian_filter(rng.standard_normal(truth.shape), 0.7))
    for added, expected in ((0.0, 0.9 * 8), (12.0, 12.0)):
        meter = NoiseMeter()
        meter.add((truth + texture + added * rng.standard_normal(truth.shape)).astype(np.float32))
        assert meter.result().to_remove == pytest.approx(expected, rel=0.15)


def _unit(image):
    return image / image.std()
