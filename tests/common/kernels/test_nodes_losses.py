"""Losses with their gradient in one go, against Chainer's; the CUDA kernels, run on the CPU, against NumPy."""

import numpy as np
import pytest
from cuda_harness import by_gcc

from medi2i.common import losses
from medi2i.common.compat import F, chainer
from medi2i.common.kernels import cpu_engine, nodes, reference
from medi2i.common.kernels.gpu import loss_kernels

needs_gcc = pytest.mark.skipif(by_gcc.compiler() is None, reason="g++ is not installed")

LOSSES = {
    "abs": lambda y: losses.total_variation(y, "abs"),
    "usual": lambda y: losses.total_variation(y, "usual", 0.1),
    "sobel": lambda y: losses.total_variation(y, "sobel", 0.1),
    "gradient": lambda y: losses.gradient_difference(images(seed=4), y),
    "least squares": lambda y: losses.least_squares(y[:, :1], 0.9),
}


def images(shape=(2, 3, 7, 5), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def outcome(function, y, engine):
    """Value, gradient, and gradient of the gradient's square."""
    with cpu_engine.using(engine):
        y = chainer.Variable(y)
        value = function(y * 1.0) * 3.0
        (gradient,) = chainer.grad([value], [y])
        (again,) = chainer.grad([function(y * 1.0) * 3.0], [y], enable_double_backprop=True)
        np.testing.assert_allclose(gradient.array, again.array, atol=1e-6)
        (second,) = chainer.grad([F.sum(again * again)], [y])
        return value.array, gradient.array, None if second is None else second.array


@pytest.mark.parametrize("name", LOSSES)
def test_as_chainers_functions(name):
    expected = outcome(LOSSES[name], images(), "chainer")
    found = outcome(LOSSES[name], images(), "numpy")
    for a, b in zip(expected, found, strict=True):
        if a is None:
            assert b is None or not b.any()
            continue
        assert b.dtype == np.float32 and b.shape == a.shape
        np.testing.assert_allclose(b, a, atol=1e-6, rtol=1e-5)


def test_it_is_the_one_function():
    with cpu_engine.using("numpy"):
        assert isinstance(losses.total_variation(images(), "abs").creator, nodes.Loss)
    with cpu_engine.using("chainer"):
        assert not isinstance(losses.total_variation(images(), "abs").creator, nodes.Loss)


def test_other_precisions_are_chainers():
    with cpu_engine.using("numpy"):
        y = images().astype(np.float64)
        assert losses.total_variation(y, "abs").dtype == np.float64
        assert losses.least_squares(images((2, 1, 3, 3)).astype(np.float16), 1.0).dtype == np.float32


def test_known_values():
    """0 1 / 3 3: down 3, 2; right 1, 0; where both are, 3 and 1."""
    y = np.float32([[0, 1], [3, 3]]).reshape(1, 1, 2, 2)
    assert reference.variation(y, None) == 2.5 + 0.5
    np.testing.assert_array_equal(reference.variation_gradient(y, None, np.float32(2))[0, 0], [[-1 - 1, 1 - 1], [1, 1]])
    np.testing.assert_allclose(reference.variation(y, 0.0), np.sqrt(10))
    np.testing.assert_allclose(
        reference.variation_gradient(y, 0.0, np.float32(1))[0, 0],
        np.float64([[-4, 1], [3, 0]]) / np.sqrt(10),
        rtol=1e-6,
    )
    assert reference.least_squares(np.float32([1, 3]), 2.0) == 1
    np.testing.assert_array_equal(reference.least_squares_gradient(np.float32([1, 3]), 2.0, np.float32(5)), [-5, 5])


def test_flat_images_have_no_gradient():
    """Chainer's root has an infinite slope at 0, which would make it nan."""
    y = np.ones((1, 2, 3, 4), np.float32)
    assert not reference.variation_gradient(y, 0.0, np.float32(1)).any()
    assert not reference.variation_gradient(y, None, np.float32(1)).any()


@needs_gcc
@pytest.mark.parametrize("dtype", loss_kernels.DTYPES)
@pytest.mark.parametrize(
    "name, constants",
    [("variation", (None,)), ("variation", (0.1,)), ("variation", (0.0,)), ("least_squares", (0.9,))],
)
def test_cuda_on_the_cpu(name, constants, dtype, monkeypatch):
    monkeypatch.setattr(loss_kernels, "BLOCK", 16)
    monkeypatch.setattr(loss_kernels, "BLOCKS", 5)
    y = images((2, 3, 9, 7)).astype(dtype)
    y[0, 1, 2:5] = 0.5  # flat: a root of 0 where tau is 0
    wide, tolerance = y.astype(np.float32), 1e-6 if dtype == "float32" else 1e-3
    g = np.array(3, np.float32)
    value = getattr(loss_kernels, name)(y, *constants)
    assert value.dtype == np.float32 and value.shape == ()
    np.testing.assert_allclose(value, getattr(reference, name)(wide, *constants), rtol=1e-5)
    gradient = getattr(loss_kernels, f"{name}_gradient")(y, *constants, g)
    assert gradient.dtype == dtype
    expected = getattr(reference, f"{name}_gradient")(wide, *constants, g)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient, expected, atol=tolerance * np.abs(expected).max())
