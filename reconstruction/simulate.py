"""Scans of known images: sinograms with noise, and the phantoms that reconstructions are published for.

Made on a finer grid than the one they are reconstructed on: a reconstruction that inverts the very matrix that made its
data looks better than it is (Kaipio and Somersalo's "inverse crime").
"""

from dataclasses import replace

import numpy as np

from medi2i.common.errors import UserError
from medi2i.reconstruction.geometry import Geometry
from medi2i.reconstruction.operator import Operator


class Scanner:
    """Measures images of ``geometry``; each ray is ``fineness`` rays, through pixels divided as often each way.

    photons: a ray in air (None: no counting noise). electronic: standard deviation of the readout, in photons.
    relative: standard deviation of Gaussian noise on the line integrals, as a part of their mean size.
    """

    def __init__(
        self,
        geometry: Geometry,
        fineness: int = 3,
        photons: float | None = None,
        electronic: float = 0.0,
        relative: float = 0.0,
    ) -> None:
        self.geometry, self.fineness = geometry, fineness
        self.photons, self.electronic, self.relative = photons, electronic, relative
        rows, columns = geometry.shape
        down, along = geometry.spacing
        self._operator = Operator(
            replace(
                geometry,
                shape=(rows * fineness, columns * fineness),
                spacing=(down / fineness, along / fineness),
                bins=geometry.bins * fineness,
                bin_width=geometry.bin_width / fineness,
            )
        )

    def measure(self, attenuation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Line integrals (views, bins) float32 of an image in 1/mm, (H, W) or already (fineness·H, fineness·W).

        Noise is of the counts, whose logarithm is taken; a detector that sees nothing reads one photon.
        """
        fine = self._operator.geometry.shape
        if attenuation.shape != fine:
            if attenuation.shape != self.geometry.shape:
                raise UserError(f"an image of {attenuation.shape} for a scan of {self.geometry.shape}")
            attenuation = np.kron(attenuation, np.ones((self.fineness, self.fineness), np.float32))
        rays = self._operator(attenuation).reshape(*self.geometry.sinogram_shape, self.fineness).astype(np.float64)
        if self.photons is None:
            sinogram = rays.mean(axis=2)
        else:
            counts = rng.poisson(self.photons * np.exp(-rays).mean(axis=2)).astype(np.float64)
            counts += self.electronic * rng.standard_normal(counts.shape)
            sinogram = np.log(self.photons / np.maximum(counts, 1.0))
        if self.relative:
            sinogram = sinogram + self.relative * np.abs(sinogram).mean() * rng.standard_normal(sinogram.shape)
        return sinogram.astype(np.float32)


def ellipses(rng: np.random.Generator, size: int, mean: float = 70.0) -> np.ndarray:
    """Random ellipses (size, size) float32 from 0 to 1, the published benchmark's kind of image.

    Poisson(``mean``) of them, each with a value from -0.4 to 1 and half-axes from an exponential distribution of mean a
    tenth of the width, anywhere and turned at random; then brought to 0…1 (Adler and Öktem, Inverse Problems 33, 2017;
    Leuschner et al., arXiv 1910.01113).
    """
    at = (np.arange(size) + 0.5) * (2 / size) - 1
    image = np.zeros((size, size), np.float32)
    for _ in range(rng.poisson(mean)):
        value, (first, second) = rng.uniform(-0.4, 1), 0.2 * rng.exponential(1, 2)
        (x, y), turn = rng.uniform(-0.9, 0.9, 2), rng.uniform(0, 2 * np.pi)
        image += value * _ellipse(at, x, y, first, second, turn)
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else image


# Value, half-axes across and down, centre, turn in degrees: Toft's modification, whose contrasts can be seen (Toft, The
# Radon Transform, 1996; the ellipses are Shepp and Logan's, IEEE Trans. Nucl. Sci. 21, 1974).
_SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
)


def shepp_logan(size: int) -> np.ndarray:
    """The modified Shepp–Logan phantom (size, size) float32, 0…1."""
    at = (np.arange(size) + 0.5) * (2 / size) - 1
    image = np.zeros((size, size), np.float32)
    for value, across, down, x, y, turn in _SHEPP_LOGAN:
        image += value * _ellipse(at, x, -y, across, down, -np.radians(turn))
    return np.clip(image, 0, 1)


def _ellipse(at: np.ndarray, x: float, y: float, across: float, down: float, turn: float) -> np.ndarray:
    cos, sin = np.cos(turn), np.sin(turn)
    dx, dy = at[None, :] - x, at[:, None] - y
    along, beside = (dx * cos + dy * sin) / across, (dy * cos - dx * sin) / down
    return (along * along + beside * beside <= 1).astype(np.float32)
