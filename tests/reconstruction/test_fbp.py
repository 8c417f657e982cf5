"""Filtered back-projection of a water cylinder, whose line integrals are known exactly: 0 HU in it, -1000 beside it."""

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.reconstruction.fbp import WINDOWS, fbp, view_weights
from medi2i.reconstruction.geometry import MU_WATER, Geometry, regular

SHAPE, SPACING = (121, 135), (1.1, 0.9)
FANS = dict(arc=dict(beam="arc", source_distance=300), flat=dict(beam="flat", source_distance=300))


def check_water(geometry, disc, chords, sinogram=None, window="hann", within=0.5):
    centre = 7.3, -5.1
    exact = MU_WATER * chords(geometry, 45, *centre)[0] if sinogram is None else sinogram
    hu = geometry.to_hu(fbp(geometry, exact, window))
    water = disc(geometry, 40, *centre) == 1
    air = (disc(geometry, 50, *centre) == 0) & (disc(geometry, 60, 0, 0) == 1)
    assert abs(hu[water].mean()) < within and hu[water].std() < 2
    assert abs(hu[air].mean() + 1000) < within


@pytest.mark.parametrize(
    "turned",
    [
        dict(),
        dict(turn=360),
        dict(turn=180, first=33),
        FANS["arc"],
        FANS["flat"],
        FANS["arc"] | dict(turn=230),
        FANS["flat"] | dict(turn=221, first=-50),
        FANS["arc"] | dict(turn=720),
    ],
)
def test_water_is_0_hu(turned, disc, chords):
    check_water(regular(SHAPE, SPACING, 181, **turned), disc, chords)


@pytest.mark.parametrize("window", WINDOWS)
def test_windows_keep_the_mean(window, disc, chords):
    check_water(regular(SHAPE, SPACING, 181), disc, chords, window=window, within=2)


def test_views_that_are_no_regular_grid(disc, chords):
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(-90, 300, 400))
    check_water(Geometry(SHAPE, SPACING, tuple(angles), 201, 0.9), disc, chords, within=2)


def test_a_shifted_detector_is_a_shifted_detector(disc, chords):
    check_water(Geometry(SHAPE, SPACING, tuple(np.arange(181.0)), 221, 0.9, detector_shift=0.45), disc, chords)


def test_what_is_measured_twice_counts_once():
    """Of two rays along one line, forth and back, Parker's weights are one in sum; of a whole turn, one half each."""
    geometry = regular(SHAPE, SPACING, 3600, turn=250, bins=181, **FANS["arc"])
    weights, gamma = view_weights(geometry) / np.radians(250 / 3600), geometry.fan_angles()
    step = np.radians(250 / 3600)
    for view, bin_ in ((10, 100), (300, 30), (700, 150), (1800, 90)):
        other = round(view + (np.pi + 2 * gamma[bin_]) / step)
        twin = weights[other, 180 - bin_] if other < 3600 else 0
        assert weights[view, bin_] + twin == pytest.approx(1, abs=2e-3)
    assert view_weights(regular(SHAPE, SPACING, 8, **FANS["flat"])) == pytest.approx(np.pi / 8)


def test_a_missing_wedge_is_not_made_up_for():
    assert view_weights(Geometry(SHAPE, SPACING, (0.0, 10.0, 20.0, 30.0), 5, 1.0)) == pytest.approx(np.radians(10))


def test_too_few_views_of_a_fan():
    with pytest.raises(UserError, match="the views cover 180°: .* half a turn and the fan's angle, 2"):
        fbp(regular(SHAPE, SPACING, 90, turn=180, **FANS["arc"]), np.zeros((90, 1)))


@pytest.mark.parametrize("shift", [500.0, -500.0, 130.0])
def test_a_detector_beside_the_image_gives_it_nothing_that_it_did_not_see(shift):
    geometry = Geometry(SHAPE, SPACING, (0.0, 90.0), 41, 1.0, detector_shift=shift)
    rays = np.ones(geometry.sinogram_shape, np.float32)
    across = (np.arange(SHAPE[1]) - (SHAPE[1] - 1) / 2) * SPACING[1]
    down = (np.arange(SHAPE[0]) - (SHAPE[0] - 1) / 2) * SPACING[0]
    unseen = (np.abs(across - shift)[None, :] > 22) & (np.abs(down - shift)[:, None] > 22)
    np.testing.assert_array_equal(fbp(geometry, rays)[unseen], 0)
