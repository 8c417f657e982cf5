"""Noise models as formulas. Every one takes an explicit generator and leaves its input alone.

``poisson`` is the released helper's: counts added to the stored values. ``dose`` simulates a scan with fewer photons
in the projections, where CT noise comes from (correlated, strongest behind bone); see Kalender, Computed Tomography,
chapter 5.
"""

import hashlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from medi2i.tools.making import projection

MU_WATER = 0.0193
"""Attenuation of water in 1/mm at 70 keV, the effective energy of a 120 kV scan (NIST XCOM)."""

POISSON, UNBIASED, GAUSSIAN, DOSE = "poisson", "poisson-unbiased", "gaussian", "dose"
MODELS = (POISSON, UNBIASED, GAUSSIAN, DOSE)


def generator_for(seed: int, repeat: int, *identity: bytes | str) -> np.random.Generator:
    """A generator that depends on the image itself, not on when or by whom it is drawn. identity: pixels, UIDs, …"""
    digest = hashlib.sha256()
    for part in (str(seed), str(repeat), *identity):
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return np.random.default_rng(np.frombuffer(digest.digest(), np.uint32))


def poisson(
    stored: np.ndarray, counts: float, rng: np.random.Generator, least: float, most: float, unbiased: bool = False
) -> tuple[np.ndarray, int]:
    """stored + Poisson(counts), saturating at least…most; the mean rises by ``counts``, the standard deviation is its
    root.

    unbiased: ``counts`` is subtracted again. Returns float64 values of the same shape, and how many pixels saturated.
    """
    noisy = stored + rng.poisson(counts, stored.shape).astype(np.float64)
    if unbiased:
        noisy -= counts
    saturated = int(np.count_nonzero((noisy < least) | (noisy > most)))
    return np.clip(noisy, least, most), saturated


def gaussian(values: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """values + N(0, deviation²), float32, in the unit of the values."""
    return (values + deviation * rng.standard_normal(values.shape)).astype(np.float32)


@dataclass(frozen=True)
class Dose:
    """A low-dose scan: ``fraction`` of ``photons`` a ray, electronic noise in photons (standard deviation), ``views``
    over half a turn (None: 0.75 per pixel of width, at least 180), ``window`` of the reconstruction (hann: soft,
    ramp: sharp), ``bowtie`` radius in mm of the water cylinder that the filter evens out (0: none),
    ``source_distance`` in mm from the axis for a fan beam over a full turn (0: parallel beams), ``mu_water`` in
    1/mm."""

    fraction: float = 0.25
    photons: float = 1e5
    electronic: float = 10.0
    views: int | None = None
    window: str = "hann"
    bowtie: float = 0.0
    source_distance: float = 0.0
    mu_water: float = MU_WATER

    def views_for(self, shape: tuple[int, int]) -> int:
        return self.views or max(180, round(0.75 * max(shape)))


def dose_noise(hu: np.ndarray, spacing: float, dose: Dose, rng: np.random.Generator, xp: ModuleType = np) -> np.ndarray:
    """The noise (H, W) float32 in HU that a scan of ``dose`` adds to an image in HU with square pixels of ``spacing``
    mm.

    p = ∫mu, counts ~ Poisson(d·I0·exp(-p)) + N(0, electronic²), and filtered back-projection of the
    difference between the noisy and the noiseless -log(counts). Zero mean (the logarithm's own bias, about 1/2N, is
    taken off), variance ∝ 1/d where electronic noise does not count. The image itself is taken as noise-free. Random
    numbers are drawn on the CPU: the same noise with and without a GPU.
    """
    theta = projection.angles(dose.views_for(hu.shape))
    rays = line_integrals(hu, spacing, len(theta), dose.mu_water, xp)
    flux = dose.fraction * dose.photons * _bowtie(rays.shape[1], spacing, dose)
    if dose.source_distance > 0:
        fan = projection.parallel_to_fan(rays, dose.source_distance, spacing)
        flux = projection.parallel_to_fan(np.broadcast_to(flux, rays.shape), dose.source_distance, spacing)
        difference = _log_noise(flux * np.exp(-fan), dose.electronic, rng)
        difference = projection.fan_to_parallel(difference, rays.shape, dose.source_distance, spacing)
    else:
        difference = _log_noise(flux * np.exp(-rays), dose.electronic, rng)
    filtered = projection.ramp_filter(xp.asarray(difference), spacing, dose.window, xp)
    noise = projection.back_project(filtered, theta, hu.shape, xp) * np.float32(1000 / dose.mu_water)
    return noise if xp is np else xp.asnumpy(noise)


def line_integrals(hu: np.ndarray, spacing: float, views: int, mu_water: float, xp: ModuleType = np) -> np.ndarray:
    """Attenuation -log(I/I0) along every ray (views, bins) float64 of an image in HU; air and below count as nothing.

    Only the expected counts depend on it, and they are smooth: a large image is projected at half its resolution or
    less, and every second view is interpolated.
    """
    mu = np.maximum(mu_water * (1 + hu.astype(np.float32) / 1000), 0)
    factor = max(1, min(hu.shape) // 192)
    small = _block_mean(mu, factor)
    theta = projection.angles((views + 1) // 2)
    rays = projection.project(small, theta, spacing * factor, xp)
    rays = (rays if xp is np else xp.asnumpy(rays)).astype(np.float64)
    return projection.resample(rays, (views, projection.bin_count(hu.shape)), 1 / factor)


def _block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = (-side % factor for side in image.shape)
    padded = np.pad(image, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
    return padded.reshape(padded.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3))


def _bowtie(bins: int, spacing: float, dose: Dose) -> np.ndarray:
    """What the bow-tie filter lets through in each bin, 1 in the middle: the shorter the way through the cylinder,
    the less."""
    if dose.bowtie <= 0:
        return np.ones(bins)
    off = (np.arange(bins) - (bins - 1) / 2) * spacing
    chord = 2 * np.sqrt(np.maximum(dose.bowtie**2 - off**2, 0))
    return np.exp(-dose.mu_water * (2 * dose.bowtie - chord))


def _log_noise(expected: np.ndarray, electronic: float, rng: np.random.Generator) -> np.ndarray:
    """-log(measured) + log(expected) for Poisson counts with electronic noise, without the bias of the logarithm.

    To second order, E[-log(1 + e)] = Var(e) / 2 with Var(e) = (N + electronic²) / N². Below one photon a detector
    reads 1: no ray is ever infinitely dense.
    """
    counts = rng.poisson(np.minimum(expected, 1e15)).astype(np.float64)
    if electronic > 0:
        counts += electronic * rng.standard_normal(counts.shape)
    noise = np.log(expected) - np.log(np.maximum(counts, 1.0))
    variance = (expected + electronic**2) / expected**2
    return (noise - np.minimum(variance / 2, 0.5)).astype(np.float32)
