"""Solvers against what must come out: exact data, exact minima, and the order of methods on phantoms."""

import numpy as np
import pytest
from skimage.restoration import denoise_tv_chambolle

from medi2i.common.errors import UserError
from medi2i.reconstruction import solvers
from medi2i.reconstruction.fbp import fbp
from medi2i.reconstruction.geometry import MU_WATER, regular
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.simulate import Scanner, ellipses, shepp_logan


def psnr(image, truth):
    return 10 * np.log10(np.ptp(truth) ** 2 / np.mean((image - truth) ** 2))


def mean_of(fine, parts):
    rows, columns = (size // parts for size in fine.shape)
    return fine.reshape(rows, parts, columns, parts).mean((1, 3))


@pytest.fixture(scope="module")
def phantom():
    """Water-like Shepp-Logan, 64 pixels of 2 mm, 24 views without noise: operator, sinogram, truth in 1/mm."""
    geometry = regular((64, 64), (2.0, 2.0), 24)
    fine = shepp_logan(192) * MU_WATER
    return Operator(geometry), Scanner(geometry).measure(fine, np.random.default_rng(0)), mean_of(fine, 3)


def test_each_prior_is_better_than_none(phantom):
    operator, sinogram, truth = phantom
    problem = solvers.problem_of(operator, sinogram)
    start = fbp(operator.geometry, sinogram, "hann")
    least_squares = solvers.sirt(problem, 100)
    sparse = solvers.total_variation(problem, 0.3, 300, start)
    assert psnr(start, truth) + 4 < psnr(least_squares, truth) < psnr(sparse, truth) - 2
    assert sparse.dtype == least_squares.dtype == np.float32 and min(sparse.min(), least_squares.min()) >= 0


def test_exact_data_leave_no_residual(phantom):
    operator, _, truth = phantom
    problem = solvers.problem_of(operator, operator(truth))
    assert problem.residual(truth) == pytest.approx(0, abs=1e-6)
    first, later = (problem.residual(solvers.sirt(problem, count)) for count in (10, 200))
    assert later < first / 4
    assert problem.residual(solvers.total_variation(problem, 0.0, 1000, truth)) < 1e-4 * operator(truth).max()


def test_even_variation_favours_no_diagonal(phantom):
    """Of a flipped image it is the flipped one, which a variation of forward differences is not."""
    operator, _, truth = phantom
    off = []
    for method in (solvers.even_variation, solvers.total_variation):
        one, other = (
            method(solvers.problem_of(operator, operator(image)), 1.0, 60, image)
            for image in (truth, np.ascontiguousarray(truth[::-1]))
        )
        off.append(np.abs(one - other[::-1]).max() / MU_WATER)
    assert off[0] < 1e-3 and off[1] > 1e-2


@pytest.mark.parametrize("keep", [1 << 30, 1 << 10])
@pytest.mark.parametrize("photons", [None, 1e4])
def test_even_variation_takes_as_much_contrast_as_the_plain_one(monkeypatch, photons, keep):
    """Its λ is that of the image's own pixels, whatever it works on: of a disc the same is missing."""
    monkeypatch.setattr(solvers, "Operator", lambda fine, xp: Operator(fine, keep, xp))
    geometry = regular((32, 32), (3.0, 3.0), 24)
    y, x = np.indices(geometry.shape) - 15.5
    disc = ((y**2 + x**2 < 81) * MU_WATER).astype(np.float32)
    operator = Operator(geometry)
    problem = solvers.problem_of(operator, operator(disc), photons)
    even, plain = (
        1 - method(problem, 40.0, 600, disc)[12:20, 12:20].mean() / MU_WATER
        for method in (solvers.even_variation, solvers.total_variation)
    )
    assert plain > 0.03 and even == pytest.approx(plain, rel=0.15)


def test_total_variation_finds_the_minimum(phantom):
    """No image nearby has a smaller sum of both terms; weights included."""
    operator, sinogram, _ = phantom
    problem = solvers.problem_of(operator, sinogram, photons=1e4)
    image = solvers.total_variation(problem, 0.5, 3000, fbp(operator.geometry, sinogram))

    def objective(attenuation):
        x = attenuation.astype(np.float64) / MU_WATER
        down, along = np.diff(x, axis=0, append=x[-1:]), np.diff(x, axis=1, append=x[:, -1:])
        off = problem.project(x.astype(np.float32)) - problem.sinogram
        return 0.5 * np.sum(problem.weights * off**2) + 0.5 * np.sum(np.hypot(down, along))

    least, rng = objective(image), np.random.default_rng(0)
    for scale in (1e-2, 1e-3):
        for _ in range(5):
            other = np.maximum(image + scale * MU_WATER * rng.standard_normal(image.shape).astype(np.float32), 0)
            assert objective(other) > least
    assert objective(np.maximum(image * 1.003, 0)) > least and objective(image * 0.997) > least


def test_strength_means_the_same_for_every_pixel_size(phantom):
    images = []
    for spacing in (0.5, 2.0):
        geometry = regular((64, 64), (spacing, spacing), 24)
        x = shepp_logan(64) * MU_WATER * 2 / spacing
        problem = solvers.problem_of(Operator(geometry), Operator(geometry)(x))
        problem.operator.geometry.to_hu(x)
        images.append(solvers.total_variation(problem, 0.3 * 2 / spacing, 50) * spacing / 2)
    assert images[0] == pytest.approx(images[1], abs=1e-5)


def test_noise_decides_the_strength():
    geometry = regular((64, 64), (2.0, 2.0), 40)
    operator, truth = Operator(geometry), ellipses(np.random.default_rng(3), 192) * MU_WATER
    found = {}
    for photons in (1e3, 1e5):
        sinogram = Scanner(geometry, photons=photons).measure(truth, np.random.default_rng(1))
        problem = solvers.problem_of(operator, sinogram, photons)
        expected = solvers.expected_residual(sinogram, photons)
        start = fbp(geometry, sinogram, "hann")
        strength = found[photons] = solvers.strength_for(problem, expected, start)
        image = solvers.total_variation(problem, strength, 300, start)
        assert problem.residual(image) == pytest.approx(expected, rel=0.1)
        assert psnr(image, mean_of(truth, 3)) > psnr(start, mean_of(truth, 3)) + 1
    assert found[1e3] > 3 * found[1e5]


def test_a_denoiser_as_prior(phantom):
    operator, sinogram, truth = phantom
    problem = solvers.problem_of(operator, sinogram)
    start = fbp(operator.geometry, sinogram, "hann")
    image = solvers.plug_and_play(problem, lambda hu: denoise_tv_chambolle(hu, 15), 30, 0.01, start)
    assert psnr(image, truth) > psnr(solvers.sirt(problem, 100), truth) + 1.2
    water = solvers.plug_and_play(problem, lambda hu: np.zeros_like(hu), 3, 1e6, start)
    assert water == pytest.approx(MU_WATER, rel=1e-3)  # where its answer is all that counts, it is the result
    least_squares = solvers.plug_and_play(problem, lambda hu: np.zeros_like(hu), 30, 1e-9, start)
    assert problem.residual(least_squares) < problem.residual(np.maximum(start, 0)) / 2


def test_watching_ends_the_iteration(phantom):
    operator, sinogram, _ = phantom
    problem, seen = solvers.problem_of(operator, sinogram), []

    def watch(number, image):
        seen.append((number, float(image.max())))
        return number == 3

    for solve in (
        lambda: solvers.sirt(problem, 10, watch=watch),
        lambda: solvers.total_variation(problem, 0.1, 10, watch=watch),
    ):
        seen.clear()
        image = solve()
        assert [number for number, _ in seen] == [1, 2, 3] and seen[-1][1] == image.max()


@pytest.mark.parametrize(
    ("change", "words"), [((24, 90), "its geometry 24 views x"), (None, "values that are no numbers")]
)
def test_sinograms_that_do_not_fit(phantom, change, words):
    operator, sinogram, _ = phantom
    spoilt = np.full_like(sinogram, np.nan) if change is None else np.zeros(change)
    with pytest.raises(UserError, match=words):
        solvers.problem_of(operator, spoilt)
