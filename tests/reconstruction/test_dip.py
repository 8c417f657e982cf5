"""The deep image prior: it fits, it stops before it fits noise, and it goes on where it was ended."""

import json
import os
import signal

import numpy as np
import pytest

from medi2i.reconstruction import dip, reconstruct, solvers
from medi2i.reconstruction.fbp import fbp
from medi2i.reconstruction.geometry import regular
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.simulate import Scanner, ellipses

SMALL = dict(channels=8, levels=3, strength=2.0)


@pytest.fixture(scope="module")
def scan():
    """(problem, filtered back-projection, truth), images in 1/mm, 33 x 40 pixels: of no size that the network likes."""
    geometry = regular((33, 40), (3.0, 3.0), 14)
    image = ellipses(np.random.default_rng(3), 40)[:33] * np.float32(geometry.mu_water)
    sinogram = Scanner(geometry, 2, relative=0.03).measure(image, np.random.default_rng(4))
    return solvers.problem_of(Operator(geometry), sinogram, None), fbp(geometry, sinogram), image


def test_it_begins_with_total_variation(scan):
    problem, start, truth = scan
    fit = dip.DeepImagePrior(problem, start, dip.Prior(steps=1, rate=0.0, **SMALL))
    smooth = solvers.even_variation(problem, 2.0, dip.SMOOTH, start)
    assert np.allclose(fit.run(), smooth, atol=1e-6 * smooth.max())
    fit._update()
    assert np.allclose(fit.average * problem.water, smooth, atol=1e-6 * smooth.max())  # nothing learned, nothing added


def test_it_explains_the_rays_better_than_what_it_began_with(scan):
    problem, start, truth = scan
    fit = dip.DeepImagePrior(problem, start, dip.Prior(steps=200, rate=3e-3, **SMALL))
    image = fit.run()
    assert image.shape == truth.shape and image.dtype == np.float32 and image.min() >= 0
    assert problem.residual(image) < 0.7 * problem.residual(start)
    smooth = solvers.total_variation(problem, 2.0, dip.SMOOTH, start)
    assert np.mean((image - truth) ** 2) < 0.95 * np.mean((smooth - truth) ** 2)


def test_the_best_is_by_rays_that_nothing_was_fitted_to(scan):
    problem, start, _ = scan
    fit = dip.DeepImagePrior(problem, start, dip.Prior(steps=50, **SMALL))
    part = (fit._check > 0).mean()
    assert 0.02 < part < 0.1 and not ((fit._check > 0) & (fit._weights > 0)).any()
    assert ((fit._check > 0) | (fit._weights > 0)).all()
    fit.run()
    off = problem.project(fit.best) - problem.sinogram
    assert np.isclose(fit.best_error, np.sum(off[fit._check > 0] ** 2), rtol=1e-5) and fit.best_step % dip.LOOK == 0


def test_patience_ends_it(scan):
    problem, start, _ = scan
    fit = dip.DeepImagePrior(problem, start, dip.Prior(steps=1000, patience=50, rate=0.0, **SMALL))
    fit.run()
    assert fit.step - fit.best_step == 50 < fit.step < 1000


@pytest.fixture
def looks_often(monkeypatch):
    monkeypatch.setattr(dip, "LOOK", 5)


def test_ended_and_resumed_it_is_the_same_bit_for_bit(scan, tmp_path, looks_often):
    problem, start, _ = scan
    prior = dip.Prior(steps=20, **SMALL)
    whole = dip.DeepImagePrior(problem, start, prior).run()
    file = tmp_path / "state.npz"
    dip.DeepImagePrior(problem, start, prior, file).run(lambda step, image: step == 10)
    second = dip.DeepImagePrior(problem, start, prior, file)
    assert np.array_equal(second.run(), whole) and second.step == 20


def test_the_command_goes_on_after_a_signal(scan, tmp_path, monkeypatch, looks_often):
    from medi2i.reconstruction import geometry as geometries

    problem, _, _ = scan
    folder = tmp_path / "scan"
    folder.mkdir()
    geometries.save(folder / "geometry.json", problem.operator.geometry)
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", problem.sinogram)
    arguments = ["-i", str(folder), "--method", "dip", "--iterations", "10"]
    assert reconstruct.main([*arguments, "-o", str(tmp_path / "whole")]) == 0
    look = dip.DeepImagePrior._look

    def ended(self):
        look(self)
        if self.file.name == ".b.dip.npz":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(dip.DeepImagePrior, "_look", ended)
    out = tmp_path / "out"
    assert reconstruct.main([*arguments, "-o", str(out)]) == 143
    assert (out / "a.npy").exists() and not (out / "b.npy").exists() and (out / ".b.dip.npz").exists()
    monkeypatch.setattr(dip.DeepImagePrior, "_look", look)
    assert reconstruct.main([*arguments, "-o", str(out), "--resume"]) == 0
    for name in ("a.npy", "b.npy"):
        assert np.array_equal(np.load(out / name), np.load(tmp_path / "whole" / name))
    assert not (out / ".b.dip.npz").exists()
    assert sorted(json.loads((out / "reconstruction.json").read_text())["files"]) == ["a", "b"]
