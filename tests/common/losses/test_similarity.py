"""SSIM losses against the metric, against the formula in NumPy, and their gradients."""

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from medi2i.common import losses
from medi2i.common.compat import chainer, gradient_check
from medi2i.common.losses.similarity import SCALE_WEIGHTS, scales
from medi2i.tools.evaluation import metrics

UNIT = metrics.Window("[-1, 1]", -1, 1)


def images(shape, seed=0, noise=0.2):
    random = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(random.normal(0, 0.05, shape), axis=2), axis=3)
    t = np.tanh(smooth - smooth.mean())
    return np.clip(t + random.normal(0, noise, shape), -1, 1).astype(np.float32), t.astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 11, 11), (2, 3, 17, 24), (1, 2, 64, 40)])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.7])
def test_ssim_is_that_of_the_metrics(shape, noise):
    y, t = images(shape, noise=noise)
    expected = np.mean([metrics.ssim(a, b, UNIT) for a, b in zip(y, t, strict=True)])
    assert float(losses.structural_dissimilarity(y, t).array) == pytest.approx(1 - expected, abs=2e-6)


def test_a_negative_image_is_dissimilar_and_an_equal_one_is_not():
    random = np.random.default_rng(1).normal(0, 0.3, (1, 1, 30, 31)).astype(np.float32)
    bright, negative = 0.5 + 0.5 * random, 0.5 - 0.5 * random  # equal in their means, opposite in their structure
    assert float(losses.structural_dissimilarity(random, random).array) == pytest.approx(0, abs=1e-6)
    assert float(losses.multiscale_dissimilarity(random, random).array) == pytest.approx(0, abs=1e-6)
    assert float(losses.structural_dissimilarity(bright, negative).array) > 1.5
    assert float(losses.multiscale_dissimilarity(bright, negative).array) == pytest.approx(1, abs=0.01)


def maps(y, t):
    """Luminance and structure maps in float64, straight from the formulas."""
    d = np.arange(-5, 6)
    window = np.exp(-(d**2) / (2 * 1.5**2))
    window /= window.sum()

    def local(a):
        return correlate1d(correlate1d(a, window, axis=0), window, axis=1)[5:-5, 5:-5]

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    my, mt = local(y), local(t)
    vy, vt, cov = local(y * y) - my**2, local(t * t) - mt**2, local(y * t) - my * mt
    return (2 * my * mt + c1) / (my**2 + mt**2 + c1), (2 * cov + c2) / (vy + vt + c2)


@pytest.mark.parametrize("side,count", [(11, 1), (21, 1), (22, 2), (64, 3), (88, 4), (176, 5), (999, 5)])
def test_scales_that_fit(side, count):
    assert scales(side) == count


@pytest.mark.parametrize("shape", [(1, 1, 15, 20), (2, 2, 47, 90), (1, 1, 179, 177)])
def test_multiscale_is_the_product_over_scales(shape):
    y, t = images(shape, seed=3)
    count = scales(min(shape[2:]))
    weights = np.array(SCALE_WEIGHTS[:count]) / sum(SCALE_WEIGHTS[:count])
    found = []
    for a, b in zip(y.reshape(-1, *shape[2:]).astype(float), t.reshape(-1, *shape[2:]).astype(float), strict=True):
        product = 1.0
        for scale, weight in enumerate(weights):
            if scale:
                a, b = (
                    m[: m.shape[0] // 2 * 2, : m.shape[1] // 2 * 2]
                    .reshape(m.shape[0] // 2, 2, m.shape[1] // 2, 2)
                    .mean(axis=(1, 3))
                    for m in (a, b)
                )
            luminance, structure = maps(a, b)
            product *= np.mean(luminance * structure if scale == count - 1 else structure) ** weight
        found.append(product)
    assert float(losses.multiscale_dissimilarity(y, t).array) == pytest.approx(1 - np.mean(found), abs=5e-6)


@pytest.mark.parametrize(
    "loss,shape", [(losses.structural_dissimilarity, (2, 2, 11, 13)), (losses.multiscale_dissimilarity, (1, 2, 23, 25))]
)
def test_gradients(loss, shape):
    y, t = (image.astype(np.float64) for image in images(shape, seed=5))
    gradient_check.check_backward(loss, (y, t), None, dtype=np.float64, eps=1e-4, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", [losses.structural_dissimilarity, losses.multiscale_dissimilarity])
def test_half_precision_flat_images_and_a_step_downhill(loss):
    y, t = images((1, 1, 32, 32))
    assert loss(y.astype(np.float16), t.astype(np.float16)).dtype == np.float32
    flat = chainer.Variable(np.full((1, 1, 32, 32), -1, np.float32))
    value = loss(flat, flat.array)
    value.backward()
    assert np.isfinite(flat.grad).all() and abs(float(value.array)) < 1e-6
    variable = chainer.Variable(y)
    before = loss(variable, t)
    before.backward()
    step = y - np.float32(0.1 / np.abs(variable.grad).max()) * variable.grad
    assert float(loss(step, t).array) < float(before.array)


@pytest.mark.parametrize(
    "y,t,words",
    [
        ((1, 1, 10, 30), (1, 1, 10, 30), "at least 11x11 pixels, not 10x30"),
        ((1, 1, 30, 30), (1, 2, 30, 30), "cannot be compared"),
    ],
)
def test_images_that_do_not_fit(y, t, words):
    with pytest.raises(ValueError, match=words):
        losses.structural_dissimilarity(np.zeros(y, np.float32), np.zeros(t, np.float32))
