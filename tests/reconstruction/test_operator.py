"""The projection against closed formulas, its transpose against its definition, and gradients of every order."""

import copy
import sys
import types

import numpy as np
import pytest

from medi2i.common.compat import gradient_check
from medi2i.reconstruction import operator as module
from medi2i.reconstruction.geometry import Geometry, regular
from medi2i.reconstruction.nodes import back_project, project, ramp
from medi2i.reconstruction.operator import Operator

SCANS = {
    "parallel": regular((41, 35), (1.1, 1.3), 13),
    "arc": regular((41, 35), (1.1, 1.3), 13, beam="arc", source_distance=90),
    "flat": regular((40, 37), (0.7, 1.3), 11, beam="flat", source_distance=60),
    "limited": Geometry((33, 33), (1.0, 1.0), (3.0, 50.0, 51.5, 90.0), 61, 0.8, detector_shift=0.4),
}


@pytest.mark.parametrize("name", SCANS)
def test_transposed_is_the_transpose(name):
    operator, rng = Operator(SCANS[name]), np.random.default_rng(0)
    x, y = rng.standard_normal(SCANS[name].shape), rng.standard_normal(SCANS[name].sinogram_shape)
    forth, back = np.vdot(operator(x).astype(float), y), np.vdot(x, operator.transposed(y).astype(float))
    assert abs(forth - back) <= 1e-5 * np.linalg.norm(operator(x)) * np.linalg.norm(y) / 10
    assert operator(x).dtype == operator.transposed(y).dtype == np.float32


@pytest.mark.parametrize("beam", ["parallel", "arc", "flat"])
def test_line_integrals_of_a_disc(beam, disc, chords):
    geometry = regular((151, 133), (0.9, 1.1), 31, beam=beam, source_distance=300)
    rays = Operator(geometry)(disc(geometry, 50, 7.3, -5.1))
    exact, off = chords(geometry, 50, 7.3, -5.1)
    through, beside = off < 0.8 * 50, off > 53
    assert np.abs(rays / np.where(through, exact, 1) - 1)[through].max() < 0.02  # pixels at the rim are no disc
    assert abs(rays[through].mean() / exact[through].mean() - 1) < 0.0005
    assert not rays[beside].any()


def test_views_that_are_not_kept_are_made_again(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    geometry, x = SCANS["arc"], np.random.default_rng(1).random(SCANS["arc"].shape)
    all_kept, one_kept = Operator(geometry), Operator(geometry, keep=1)
    assert np.array_equal(all_kept(x), one_kept(x))
    sinogram = all_kept(x)
    assert np.array_equal(all_kept.transposed(sinogram), one_kept.transposed(sinogram))
    assert len(one_kept._kept) == 1 and len(all_kept._kept) == 13


def test_norm_is_the_largest_singular_value():
    geometry = regular((9, 11), (1.0, 1.0), 7)
    operator = Operator(geometry)
    matrix = np.stack([operator(row.reshape(9, 11)).ravel() for row in np.eye(99)])
    assert operator.norm() == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=0.01)


def test_gradients_of_both_orders():
    geometry = regular((5, 7), (1.0, 1.2), 3)
    operator, rng = Operator(geometry), np.random.default_rng(0)
    image = rng.random((2, 1, 5, 7), dtype=np.float32)
    sinogram = rng.random((2, 1, *geometry.sinogram_shape), dtype=np.float32)
    about = dict(eps=1e-2, atol=1e-3, rtol=1e-3)
    for function, x, gy in ((project, image, sinogram), (back_project, sinogram, image), (ramp, sinogram, sinogram)):
        gradient_check.check_backward(lambda v, f=function: f(v, operator) ** 2, x, gy, **about)
        gradient_check.check_double_backward(lambda v, f=function: f(v, operator) ** 2, x, gy, x, **about)


def test_on_a_gpu_arrays_stay_there(monkeypatch):
    """With what stands for CuPy here: nothing but its functions makes the arrays, and its sparse matrices multiply."""
    from scipy import sparse

    made = []
    fake = types.ModuleType("cupy")
    vars(fake).update({name: getattr(np, name) for name in ("float32", "zeros", "concatenate", "linalg")})
    fake.asarray = lambda values, dtype=None: made.append(values) or np.asarray(values, dtype)
    on_gpu = types.SimpleNamespace(csr_matrix=lambda matrix: made.append(matrix) or sparse.csr_matrix(matrix))
    for name, one in {
        "cupyx": types.ModuleType("cupyx"),
        "cupyx.scipy": types.SimpleNamespace(sparse=on_gpu),
    }.items():
        monkeypatch.setitem(sys.modules, name, one)
    geometry = regular((16, 20), (2.0, 2.0), 7)
    ours, theirs = Operator(geometry), Operator(geometry, xp=fake)
    image = np.random.default_rng(0).random((16, 20), dtype=np.float32)
    np.testing.assert_allclose(theirs(image), ours(image), rtol=1e-5)  # of a matrix that was sorted
    assert any(sparse.issparse(one) for one in made)
    assert theirs.norm() == pytest.approx(ours.norm(), rel=1e-5)
    assert copy.deepcopy(theirs) is theirs  # a copied network has no matrix of its own
