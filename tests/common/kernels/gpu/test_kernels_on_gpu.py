"""On a GPU: every CUDA source is compiled by CuPy, and each kernel of norms and losses does what its twin does."""

import numpy as np
import pytest
from cuda_harness import all_sources

from medi2i.common import losses
from medi2i.common.compat import F, chainer
from medi2i.common.kernels import (
    cpu_engine,
    nodes,
    reference,
)
from medi2i.common.kernels.gpu import (
    loss_kernels,
    normalisation_kernels,
)

pytestmark = pytest.mark.gpu

# One plane shorter than a block, one of several slices and odd in every way.
SHAPES = [(2, 3, 5, 7), (3, 17, 129, 65)]
TOLERANCE = {"float16": 4e-3, "float32": 1e-4, "float64": 1e-10}


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def on_gpu(array):
    import cupy

    return None if array is None else cupy.asarray(array)


def assert_same(found, expected, dtype):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a.get(), b, atol=TOLERANCE[dtype] * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize("source", [s for s in all_sources() if s.kind == "raw"], ids=lambda s: s.name)
def test_raw_sources_compile(source):
    for dtype in source.dtypes:
        source.kernel(dtype).compile()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", normalisation_kernels.DTYPES)
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("slope, affine", [(0.0, False), (0.2, True), (1.0, True)])
def test_normalisation(shape, dtype, each, slope, affine):
    x, gy = (random(*shape) + 10).astype(dtype), random(*shape, seed=1).astype(dtype)
    c = shape[1]
    gamma, beta = ((random(c, seed=2) + 2).astype(dtype), random(c, seed=3).astype(dtype)) if affine else (None, None)
    expected = reference.forward(x, gamma, beta, 2e-5, slope, each)
    arrays = [on_gpu(a) for a in (x, gamma, beta)]
    assert_same(normalisation_kernels.forward(*arrays, 2e-5, slope, each), expected, dtype)
    _, mean, _, inv_std = expected
    for fixed in (False,) if each else (False, True):
        assert_same(
            normalisation_kernels.backward(*arrays, on_gpu(mean), on_gpu(inv_std), on_gpu(gy), slope, fixed),
            reference.backward(x, gamma, beta, mean, inv_std, gy, slope, fixed),
            dtype,
        )


def test_running_statistics():
    new = np.float32([3, 2, 1]).reshape(1, 3, 1, 1)
    mean, variance = np.float32([1, 2, 3]), np.float32([4, 5, 6])
    on_device = on_gpu(mean), on_gpu(variance)
    normalisation_kernels.update_running(*on_device, on_gpu(new), on_gpu(new), 0.75, 2.0)
    reference.update_running(mean, variance, new, new, 0.75, 2.0)
    np.testing.assert_allclose(on_device[0].get(), mean, rtol=1e-6)
    np.testing.assert_allclose(on_device[1].get(), variance, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", loss_kernels.DTYPES)
@pytest.mark.parametrize(
    "name, constants",
    [("variation", (None,)), ("variation", (0.1,)), ("variation", (0.0,)), ("least_squares", (0.9,))],
)
def test_losses(shape, dtype, name, constants):
    y, g = random(*shape).astype(dtype), np.array(3, np.float32)
    wide = y.astype(np.float32)
    value = getattr(loss_kernels, name)(on_gpu(y), *constants)
    assert value.dtype == np.float32 and value.shape == ()
    np.testing.assert_allclose(value.get(), getattr(reference, name)(wide, *constants), rtol=1e-4)
    gradient = getattr(loss_kernels, f"{name}_gradient")(on_gpu(y), *constants, on_gpu(g))
    expected = getattr(reference, f"{name}_gradient")(wide, *constants, g)
    np.testing.assert_allclose(gradient.get(), expected, atol=TOLERANCE[dtype] * np.abs(expected).max(), rtol=0)


def derivatives(function, arrays):
    """Output, gradients and gradients of the gradients' squares, as NumPy arrays."""
    inputs = [chainer.Variable(a) for a in arrays]
    y = function(*inputs)
    first = chainer.grad([F.sum(y * y)], inputs, enable_double_backprop=True)
    second = chainer.grad([sum(F.sum(g * g) for g in first)], inputs)
    return [chainer.backends.cuda.to_cpu(v.array) for v in (y, *first, *second) if v is not None]


@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("name", ["normalisation", "total variation", "least squares"])
def test_derivatives_as_on_the_cpu(each, name):
    functions = {
        "normalisation": lambda x, *a: nodes.normalise(x, *a, 2e-5, 0.2, each)[0],
        "total variation": lambda x, *a: losses.total_variation(x, "usual", 0.1),
        "least squares": lambda x, *a: losses.least_squares(x[:, :1], 0.9),
    }
    arrays = [a.astype(np.float32) for a in (random(2, 3, 9, 7), random(3, seed=2) + 2, random(3, seed=3))]
    if name != "normalisation":
        arrays = arrays[:1]
    with cpu_engine.using("chainer"):
        expected = derivatives(functions[name], arrays)
    found = derivatives(functions[name], [on_gpu(a) for a in arrays])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max(), rtol=0)
