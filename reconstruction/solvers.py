"""argmin ½·d(y, A x) + λ·E(x) over images x ≥ 0 (Kaji and Kida 2019, section 5): SIRT, total variation, plug-and-play.

All work in attenuation relative to water and lengths in pixels, so that λ means the same for every pixel size: x is
1 in water, y its line integral in pixels. Images given and returned are (H, W) float32 in 1/mm, sinograms (views,
bins).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from medi2i.common.errors import UserError
from medi2i.reconstruction.operator import Operator, power_norm

FLIPS = ((), (0,), (1,), (0, 1))  # axes of an image
FINER = 2
Watch = Callable[[int, np.ndarray], bool | None]
"""Called with the number of iterations done and the image in 1/mm; True ends the iteration."""


@dataclass
class Problem:
    """A scan to be solved: A and y in the solvers' units, their scale, and how much each ray counts.

    weights: (views, bins) of mean 1, None where all count alike. norm: of √W·A in pixels.
    """

    operator: Operator
    sinogram: np.ndarray
    weights: np.ndarray | None
    norm: float

    @property
    def pixel(self) -> float:
        """mm; the geometric mean where rows and columns are not equally wide."""
        down, along = self.operator.geometry.spacing
        return (down * along) ** 0.5

    @property
    def water(self) -> float:
        """1/mm"""
        return self.operator.geometry.mu_water

    def project(self, image: np.ndarray) -> np.ndarray:
        """A in pixels."""
        return self.operator(image) / np.float32(self.pixel)

    def back(self, sinogram: np.ndarray) -> np.ndarray:
        """Aᵀ in pixels."""
        return self.operator.transposed(sinogram) / np.float32(self.pixel)

    def residual(self, image: np.ndarray) -> float:
        """√(Σ w (A x - y)² / Σ w), the weighted root mean square of what the rays of ``image`` (1/mm) are off by."""
        difference = self.operator(image) - self.sinogram * np.float32(self.water * self.pixel)
        return float(np.sqrt(np.mean(np.square(difference) * (1 if self.weights is None else self.weights))))


@dataclass
class Flipped(Problem):
    """The same scan, of images that are flipped along ``axes``."""

    axes: tuple[int, ...] = ()

    def project(self, image: np.ndarray) -> np.ndarray:
        return super().project(np.ascontiguousarray(np.flip(image, self.axes)))

    def back(self, sinogram: np.ndarray) -> np.ndarray:
        return np.flip(super().back(sinogram), self.axes)


def problem_of(operator: Operator, sinogram: np.ndarray, photons: float | None = None) -> Problem:
    """sinogram: line integrals. photons: a ray in air; rays then count by the photons that came through.

    Raises UserError for a sinogram that does not fit the operator's geometry, or with values that are no numbers.
    """
    geometry = operator.geometry
    if sinogram.shape != geometry.sinogram_shape:
        raise UserError(
            f"the sinogram has {' x '.join(map(str, sinogram.shape))} values, its geometry "
            f"{geometry.sinogram_shape[0]} views x {geometry.sinogram_shape[1]} bins"
        )
    if not np.isfinite(sinogram).all():
        raise UserError("the sinogram holds values that are no numbers: line integrals, -log(I/I0), would be right")
    weights = None
    if photons is not None:
        through = np.exp(-np.clip(sinogram, 0, 50))
        weights = np.maximum(through / through.mean(), 1e-6).astype(np.float32)
    problem = Problem(operator, np.asarray(sinogram, np.float32), weights, 1.0)
    problem.sinogram = problem.sinogram * np.float32(1 / (problem.water * problem.pixel))
    if weights is None:
        problem.norm = 1.01 * operator.norm() / problem.pixel
    else:
        square = power_norm(lambda image: problem.back(weights * problem.project(image)), geometry.shape, 15)
        problem.norm = 1.01 * square**0.5
    return problem


def sirt(
    problem: Problem, iterations: int = 100, start: np.ndarray | None = None, watch: Watch | None = None
) -> np.ndarray:
    """Simultaneous iterative reconstruction (Gilbert, J. Theor. Biol. 36, 1972): x += C·Aᵀ·R·(y - A x), x ≥ 0.

    R and C: one over the sums of A's rows and columns.
    """
    geometry = problem.operator.geometry
    row = problem.project(np.ones(geometry.shape, np.float32))
    row = np.divide(1, row, out=np.zeros_like(row), where=row > 1e-3)
    weights = row if problem.weights is None else row * problem.weights
    column = problem.back(weights / np.where(row > 0, row, 1) if problem.weights is not None else np.ones_like(row))
    column = np.divide(1, column, out=np.zeros_like(column), where=column > 1e-3)
    image = _start(problem, start)
    for number in range(1, iterations + 1):
        image += column * problem.back(weights * (problem.sinogram - problem.project(image)))
        np.maximum(image, 0, out=image)
        if watch and watch(number, image * np.float32(problem.water)):
            break
    return image * np.float32(problem.water)


def total_variation(
    problem: Problem,
    strength: float,
    iterations: int = 200,
    start: np.ndarray | None = None,
    watch: Watch | None = None,
    ratio: float = 20.0,
    prior: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """argmin ½·Σ w (A x - y)² + strength·Σ|∇x| + E(x), x ≥ 0, by the primal-dual hybrid gradient method.

    Chambolle and Pock, J. Math. Imaging Vis. 40, 2011, algorithm 1, with isotropic total variation and A scaled to norm
    1; ``ratio`` is that of the primal step to the dual one. prior: the gradient of a smooth E, an image with water = 1
    -> the same; its step is that of Condat (J. Optim. Theory Appl. 158, 2013).
    """
    norm = np.float32(problem.norm)
    measured = problem.sinogram / norm
    tau, sigma = np.float32(ratio * 0.99 / 3), np.float32(0.99 / (3 * ratio))
    shrink = np.float32(1 / (1 + sigma)) if problem.weights is None else 1 / (1 + sigma / problem.weights)
    bound = np.float32(strength / problem.norm**2)
    image = _start(problem, start)
    ahead = image.copy()
    rays = np.zeros_like(measured)
    slope = np.zeros((2, *image.shape), np.float32)
    for number in range(1, iterations + 1):
        rays += sigma * (problem.project(ahead) / norm - measured)
        rays *= shrink
        slope[0, :-1] += sigma * np.diff(ahead, axis=0)
        slope[1, :, :-1] += sigma * np.diff(ahead, axis=1)
        slope /= np.maximum(np.sqrt(slope[0] ** 2 + slope[1] ** 2) / bound, 1) if bound > 0 else np.inf
        down = problem.back(rays) / norm
        down[:-1] -= slope[0, :-1]
        down[1:] += slope[0, :-1]
        down[:, :-1] -= slope[1, :, :-1]
        down[:, 1:] += slope[1, :, :-1]
        if prior is not None:
            down += prior(image) / norm**2
        new = np.maximum(image - tau * down, 0)
        ahead = 2 * new - image
        image = new
        if watch and watch(number, image * np.float32(problem.water)):
            break
    return image * np.float32(problem.water)


def plug_and_play(
    problem: Problem,
    denoise: Callable[[np.ndarray], np.ndarray],
    iterations: int = 20,
    pull: float = 0.01,
    start: np.ndarray | None = None,
    watch: Watch | None = None,
) -> np.ndarray:
    """Turn by turn a denoiser and argmin ½·Σ w (A x - y)² + pull·‖A‖²/2·‖x - D(x before)‖², x ≥ 0.

    Half-quadratic splitting with a plugged-in prior (Venkatakrishnan et al., GlobalSIP 2013; Zhang et al., CVPR 2017);
    the least squares by five steps of conjugate gradients from the image before. denoise: an image in HU -> the same in
    HU. pull: how much its answer counts; what the rays say little of follows it all the same.
    """
    geometry = problem.operator.geometry
    image = _start(problem, start)
    rho = np.float32(pull * problem.norm**2)
    weights = np.float32(1) if problem.weights is None else problem.weights

    def normal(x: np.ndarray) -> np.ndarray:
        return problem.back(weights * problem.project(x)) + rho * x

    seen = problem.back(weights * problem.sinogram)
    for number in range(1, iterations + 1):
        better = geometry.to_attenuation(denoise(geometry.to_hu(image * np.float32(problem.water)))) / problem.water
        image = np.maximum(_conjugate_gradients(normal, seen + rho * better.astype(np.float32), image, 5), 0)
        if watch and watch(number, image * np.float32(problem.water)):
            break
    return image * np.float32(problem.water)


def _conjugate_gradients(
    function: Callable[[np.ndarray], np.ndarray], right: np.ndarray, x: np.ndarray, steps: int
) -> np.ndarray:
    """function(x) = right for a positive definite linear function (Hestenes and Stiefel 1952)."""
    rest = right - function(x)
    way, length = rest, float(np.vdot(rest, rest))
    for _ in range(steps):
        if length <= 0:
            break
        ahead = function(way)
        pace = np.float32(length / float(np.vdot(way, ahead)))
        x, rest = x + pace * way, rest - pace * ahead
        length, before = float(np.vdot(rest, rest)), length
        way = rest + np.float32(length / before) * way
    return x


def even_variation(problem: Problem, strength: float, iterations: int, start: np.ndarray) -> np.ndarray:
    """The mean of ``total_variation`` of the image as it is and flipped along rows, columns and both, on finer pixels.

    A gradient of forward differences is longer across one diagonal than across the other; the mean favours none.
    Pixels FINER times as fine, whose means are given, let an edge pass through a pixel, as edges do. Where their matrix
    cannot be kept, which would take hours, the image's own pixels do.
    """
    geometry, parts = problem.operator.geometry, FINER
    (rows, columns), (down, along) = geometry.shape, geometry.spacing
    fine = replace(geometry, shape=(rows * parts, columns * parts), spacing=(down / parts, along / parts))
    operator = Operator(fine, xp=problem.operator.xp)
    if operator.keeps_all:
        rays = problem.sinogram * np.float32(problem.water * problem.pixel)
        finer = problem_of(operator, rays, None if problem.weights is None else 1.0)
    else:
        finer, parts = problem, 1
    begin, images = np.kron(start, np.ones((parts, parts), np.float32)), []
    for axes in FLIPS:
        flipped = Flipped(**vars(finer), axes=axes)
        images.append(np.flip(total_variation(flipped, parts * strength, iterations, np.flip(begin, axes)), axes))
    mean = np.mean(images, axis=0, dtype=np.float32)
    return np.asarray(mean.reshape(rows, parts, columns, parts).mean((1, 3)))


def _start(problem: Problem, start: np.ndarray | None) -> np.ndarray:
    if start is None:
        return np.zeros(problem.operator.geometry.shape, np.float32)
    return np.maximum(start / problem.water, 0).astype(np.float32)


def noise_in_image(problem: Problem, photons: float) -> float:
    """How large the gradient of ½·Σ w (A x - y)² is at the true image: ‖Aᵀ W n‖, n the noise of the rays.

    What a regulariser of slope 1 has to hold against (Lunz et al., NeurIPS 2018, section 2.3). From one draw of noise.
    """
    deviation = problem.water * problem.pixel * photons**0.5
    through = np.exp(-np.clip(problem.sinogram * problem.water * problem.pixel, 0, 50) / 2)
    noise = np.random.default_rng(0).standard_normal(through.shape) / np.maximum(through * deviation, 1e-12)
    weights = np.float32(1) if problem.weights is None else problem.weights
    return float(np.linalg.norm(problem.back((weights * noise).astype(np.float32))))


def expected_residual(sinogram: np.ndarray, photons: float) -> float:
    """What ``Problem.residual`` is of the true image: √(Σ w σ² / Σ w) with σ² = 1/(photons a ray), w ∝ the same."""
    return float((photons * np.exp(-np.clip(sinogram, 0, 50)).mean()) ** -0.5)


def strength_for(problem: Problem, residual: float, start: np.ndarray, iterations: int = 100, tries: int = 7) -> float:
    """The strength of total variation at which the rays are off by ``residual``, as noise would have it.

    The discrepancy principle (Morozov 1966), by halving intervals of log strength between 0.01 and 100, each time from
    the image before.
    """
    low, high = np.log(0.01), np.log(100.0)
    for _ in range(tries):
        middle = (low + high) / 2
        start = total_variation(problem, float(np.exp(middle)), iterations, start)
        if problem.residual(start) > residual:
            high = middle
        else:
            low = middle
    return float(np.exp((low + high) / 2))
