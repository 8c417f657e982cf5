"""Noise is a formula: its moments, its dependence on dose, its correlation."""

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.datasets.noise_level import NoiseMeter
from medi2i.reconstruction.fbp import fbp
from medi2i.reconstruction.geometry import ARC, regular
from medi2i.tools.making import noise
from medi2i.tools.making.noise import MU_WATER, Dose, dose_noise, generator_for

SPACING, RADIUS = 1.6, 90.0


def water_cylinder(shape=(144, 131), radius=RADIUS):
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in shape)
    distance = np.hypot(rows[:, None], columns[None, :]) * SPACING
    share = np.clip(0.5 - (distance - radius) / SPACING, 0, 1)
    return (-1000 * (1 - share)).astype(np.float32), distance


@pytest.mark.parametrize("counts", [4.0, 100.0])
def test_poisson_raises_the_mean_by_n_with_the_root_as_deviation(counts):
    stored = np.full((300, 301), 1000, np.uint16)
    values, saturated = noise.poisson(stored, counts, np.random.default_rng(1), 0, 4095)
    added = values - 1000
    assert saturated == 0 and np.all(added == np.rint(added)) and added.min() >= 0
    standard_error = (counts / added.size) ** 0.5
    assert abs(added.mean() - counts) < 5 * standard_error
    assert added.var() == pytest.approx(counts, rel=0.03)


def test_poisson_unbiased_keeps_the_mean():
    values, _ = noise.poisson(np.full((300, 300), 1000), 100.0, np.random.default_rng(2), 0, 4095, unbiased=True)
    assert abs(values.mean() - 1000) < 5 * 10 / 300 and values.var() == pytest.approx(100, rel=0.03)


def test_poisson_saturates_instead_of_wrapping():
    stored = np.array([[4095, 4000, 0]], np.uint16)
    values, saturated = noise.poisson(stored, 1000.0, np.random.default_rng(3), 0, 4095)
    np.testing.assert_array_equal(values[0, :2], 4095)
    assert saturated == 2 and 800 < values[0, 2] < 1200
    np.testing.assert_array_equal(stored, [[4095, 4000, 0]])


def test_gaussian_moments():
    values = noise.gaussian(np.full((300, 300), 40, np.float32), 20.0, np.random.default_rng(4))
    assert values.dtype == np.float32
    assert abs(values.mean() - 40) < 5 * 20 / 300 and values.std() == pytest.approx(20, rel=0.02)


def test_the_generator_depends_on_seed_repeat_and_image_only():
    draws = {
        key: generator_for(*key).integers(2**60)
        for key in ((0, 0, b"a"), (0, 0, b"b"), (1, 0, b"a"), (0, 1, b"a"), (0, 0, "a", b""), (0, 0, b"", "a"))
    }
    assert len(set(draws.values())) == 6
    assert generator_for(0, 0, b"a").integers(2**60) == draws[(0, 0, b"a")]


# --- projections ----------------------------------------------------------------------------------------------------


def scan_of(hu, views, distance=0.0):
    beam = dict(beam=ARC, source_distance=distance) if distance else {}
    return regular(hu.shape, (SPACING, SPACING), views, **beam)


@pytest.mark.parametrize(("views", "distance"), [(48, 0.0), (47, 0.0), (95, 570.0)])
@pytest.mark.parametrize("shape", [(144, 131), (385, 391)])
def test_line_integrals_of_water_are_its_thickness(shape, views, distance):
    hu, _ = water_cylinder(shape)
    scan = scan_of(hu, views, distance)
    rays = noise.line_integrals(hu, scan)
    assert rays.shape == scan.sinogram_shape
    expected = 2 * np.sqrt(np.maximum(RADIUS**2 - scan.rays(0)[1] ** 2, 0)) * MU_WATER
    for away, tolerance in ((0.0, 5e-3), (40.0, 0.01), (-40.0, 0.01)):
        near = np.abs(scan.detector() - away).argmin()
        np.testing.assert_allclose(rays[:, near], expected[near], rtol=tolerance)


def test_line_integrals_of_views_that_are_interpolated_look_from_their_own_side():
    hu = np.full((61, 84), -1000, np.float32)
    hu[10:20, 60:70] = 0
    scan = scan_of(hu, 20)
    found, every = noise.line_integrals(hu, scan), noise.line_integrals(hu, scan_of(hu, 40))[::2]
    place = scan.detector()
    middles = [(rays * place).sum(axis=1) / rays.sum(axis=1) for rays in (found, every)]
    np.testing.assert_allclose(middles[0], middles[1], atol=1.0)


def test_fan_rays_are_those_of_parallel_beams():
    hu, _ = water_cylinder()
    parallel, fan = scan_of(hu, 90), scan_of(hu, 180, 570.0)
    rays = noise.line_integrals(hu, parallel)
    back = noise.fan_to_parallel(noise.line_integrals(hu, fan), fan, parallel)
    assert np.abs(back - rays).mean() < 5e-3 * rays.max()
    with pytest.raises(UserError, match="source would lie within the image"):
        dose_noise(hu, SPACING, Dose(source_distance=50.0), generator_for(0, 0))


# --- dose -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cylinder_noise():
    """Noise (8 realisations each) of a water cylinder at three doses, and where the inside is."""
    hu, distance = water_cylinder()
    made = {
        d: np.stack(
            [dose_noise(hu, SPACING, Dose(d, 1e5, 0.0, views=120), generator_for(0, k, b"water")) for k in range(8)]
        )
        for d in (1.0, 0.5, 0.25)
    }
    return made, distance < RADIUS * 0.6


def test_variance_goes_with_one_over_dose(cylinder_noise):
    made, inside = cylinder_noise
    scaled = {d: d * made[d][:, inside].var() for d in made}
    assert scaled[0.5] == pytest.approx(scaled[1.0], rel=0.05)
    assert scaled[0.25] == pytest.approx(scaled[1.0], rel=0.05)


def test_mean_stays(cylinder_noise):
    made, inside = cylinder_noise
    for d in made:
        assert abs(made[d][:, inside].mean()) < 0.5


def test_variance_is_what_the_formula_says(cylinder_noise):
    """FBP of independent rays: var = (π/views)² Σ_views Σ_bins kernel² var(ray), linear interpolation being ⅔ on
    average."""
    made, _ = cylinder_noise
    hu, distance = water_cylinder()
    rays = noise.line_integrals(hu, scan_of(hu, 120))
    line = regular((1, rays.shape[1]), (SPACING, SPACING), 1, bins=rays.shape[1])  # a view's own filter, along a row
    impulse = np.zeros((1, rays.shape[1]), np.float32)
    impulse[0, rays.shape[1] // 2] = 1 / np.pi
    kernel = fbp(line, impulse, "hann")[0].astype(np.float64)
    shifted = np.roll(kernel, 1)
    power = (2 * (kernel**2).sum() + (kernel * shifted).sum()) / 3  # mean over the place between two bins
    at_centre = np.exp(rays[:, rays.shape[1] // 2 - 1 : rays.shape[1] // 2 + 2]).mean() / 1e5
    expected = (np.pi / 120) ** 2 * 120 * power * at_centre * (1000 / MU_WATER) ** 2
    assert made[1.0][:, distance < 15].var() == pytest.approx(expected, rel=0.15)


def test_noise_is_correlated_and_its_spectrum_falls_at_zero(cylinder_noise):
    made, _ = cylinder_noise
    part = made[0.5][:, 44:100, 38:94]
    spectrum = (np.abs(np.fft.fft2(part)) ** 2).mean(axis=0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(56), np.fft.fftfreq(56), indexing="ij"))
    low, middle, high = (
        spectrum[(radius >= a) & (radius < b)].mean() for a, b in ((0, 0.02), (0.15, 0.25), (0.45, 0.5))
    )
    assert low < 0.35 * middle and high < 0.35 * middle
    neighbours = (part[:, :, 1:] * part[:, :, :-1]).mean() / part.var()
    assert neighbours > 0.2


@pytest.mark.parametrize("level", [6.0, 25.0])
def test_photons_make_the_noise_that_the_images_have(level):
    hu, _ = water_cylinder()
    rng = generator_for(5, 0, b"own")
    images = [((hu + level * rng.standard_normal(hu.shape)).astype(np.float32), SPACING) for _ in range(2)]
    found = noise.photons_for(images, level, Dose(0.25, electronic=0.0, views=120), generator_for(0, 0, b"search"))
    meter = NoiseMeter()
    for k in range(3):
        meter.add(hu + dose_noise(hu, SPACING, Dose(1.0, found, 0.0, views=120), generator_for(1, k, b"other")))
    assert meter.result().level == pytest.approx(level, rel=0.15)  # of a few squares, and other ones each time


def test_photons_of_images_without_noise_are_not_known():
    hu, _ = water_cylinder()
    with pytest.raises(ValueError, match="no noise that could be measured"):
        noise.photons_for([(hu, SPACING)], 0.0, Dose(views=60), generator_for(0, 0))


def test_photons_of_noise_that_structures_hide_are_not_known():
    """Five HU are said, and the slices differ by fifty from pixel to pixel."""
    hu, _ = water_cylinder()
    rough = (hu + 50 * np.random.default_rng(3).standard_normal(hu.shape)).astype(np.float32)
    with pytest.raises(ValueError, match=r"5\.0 HU of noise cannot be told from what else is in its middle slices"):
        noise.photons_for([(rough, SPACING)], 5.0, Dose(views=60), generator_for(0, 0))


def test_bone_makes_noise_and_bowtie_evens_it_out():
    hu, distance = water_cylinder()
    plain = [dose_noise(hu, SPACING, Dose(0.5, 1e4, 0.0, views=90), generator_for(0, k, b"w")) for k in range(4)]
    edge, centre = (distance > RADIUS * 0.8) & (distance < RADIUS * 0.95), distance < RADIUS * 0.3
    tied = [
        dose_noise(hu, SPACING, Dose(0.5, 1e4, 0.0, views=90, bowtie=RADIUS), generator_for(0, k, b"w"))
        for k in range(4)
    ]

    def ratio(made):
        return np.mean([n[centre].var() for n in made]) / np.mean([n[edge].var() for n in made])

    assert ratio(plain) > 1.5 and ratio(tied) < 0.6 * ratio(plain)
    bone = hu.copy()
    bone[64:80, :60] += np.where(hu[64:80, :60] > -500, 1500, 0).astype(np.float32)
    streaked = np.std(
        [dose_noise(bone, SPACING, Dose(0.5, 1e4, 0.0, views=90), generator_for(0, k, b"w")) for k in range(4)]
    )
    assert streaked > 1.2 * np.std(plain)


def test_electronic_noise_adds_and_starved_rays_stay_finite():
    hu, distance = water_cylinder((72, 80), 50)
    quiet, loud = (
        np.var(
            [
                dose_noise(hu, SPACING, Dose(0.01, 1e4, e, views=60), generator_for(0, k, b"e"))[distance < 30]
                for k in range(3)
            ]
        )
        for e in (0.0, 20.0)
    )
    assert loud > 1.5 * quiet
    lead = np.full((40, 40), 30000, np.float32)
    assert np.isfinite(dose_noise(lead, 1.0, Dose(1e-6, 1.0), generator_for(0, 0, b"x"))).all()


def test_fan_beam_noise_scales_with_dose_too():
    hu, distance = water_cylinder((96, 90), 60)
    variances = [
        np.var(
            [
                dose_noise(hu, SPACING, Dose(d, 1e5, 0.0, views=80, source_distance=570.0), generator_for(0, k, b"f"))[
                    distance < 40
                ]
                for k in range(6)
            ]
        )
        for d in (1.0, 0.25)
    ]
    assert variances[1] == pytest.approx(4 * variances[0], rel=0.1)
