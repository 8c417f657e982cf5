"""The CUDA kernels of normalisation, run on the CPU, against their NumPy twin."""

import numpy as np
import pytest
from cuda_harness import by_gcc

from medi2i.common.kernels import reference
from medi2i.common.kernels.gpu import normalisation_kernels

pytestmark = pytest.mark.skipif(by_gcc.compiler() is None, reason="g++ is not installed")

TOLERANCE = {"float16": 2e-3, "float32": 2e-5, "float64": 1e-12}
SHAPE = (3, 5, 9, 7)


@pytest.fixture(autouse=True, params=[(16, 4096), (8, 20)], ids=["one slice", "slices"])
def small_blocks(request, monkeypatch):
    block, length = request.param
    monkeypatch.setattr(normalisation_kernels, "BLOCK", block)
    monkeypatch.setattr(normalisation_kernels, "SLICE", length)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def assert_same(found, expected, dtype):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=TOLERANCE[dtype] * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize("dtype", normalisation_kernels.DTYPES)
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("slope, affine", [(0.0, False), (0.2, True), (1.0, True)])
def test_forward_and_backward(dtype, each, slope, affine):
    # A mean ten times the deviation: the squares must not be summed before it is taken off.
    x, gy = (random(*SHAPE) + 10).astype(dtype), random(*SHAPE, seed=1).astype(dtype)
    gamma, beta = ((random(5, seed=2) + 2).astype(dtype), random(5, seed=3).astype(dtype)) if affine else (None, None)
    expected = reference.forward(x, gamma, beta, 2e-5, slope, each)
    found = normalisation_kernels.forward(x, gamma, beta, 2e-5, slope, each)
    assert_same(found, expected, dtype)
    _, mean, _, inv_std = expected
    for fixed in (False, True):
        if not (each and fixed):
            assert_same(
                normalisation_kernels.backward(x, gamma, beta, mean, inv_std, gy, slope, fixed),
                reference.backward(x, gamma, beta, mean, inv_std, gy, slope, fixed),
                dtype,
            )


def test_images_that_are_not_dense():
    x = np.ascontiguousarray(random(2, 7, 5, 3).astype(np.float32)).transpose(0, 3, 1, 2)
    assert_same(
        normalisation_kernels.forward(x, None, None, 1e-5, 0.0, True),
        reference.forward(x, None, None, 1e-5, 0.0, True),
        "float32",
    )


def test_running_statistics():
    results = []
    for engine in (normalisation_kernels, reference):
        mean, variance = np.float32([1, 2, 3]), np.float32([4, 5, 6])
        engine.update_running(
            mean,
            variance,
            np.float32([3, 2, 1]).reshape(1, 3, 1, 1),
            np.float32([1, 1, 2]).reshape(1, 3, 1, 1),
            0.75,
            2.0,
        )
        results.append((mean, variance))
    np.testing.assert_array_equal(results[1], [[1.5, 2, 2.5], [3.5, 4.25, 5.5]])
    np.testing.assert_array_equal(results[0], results[1])
