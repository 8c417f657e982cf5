"""The networks of synthesis: widths, stages of growth, blends, what is measured of a batch, and second derivatives."""

import numpy as np
import pytest

from medi2i.common import losses
from medi2i.common.choices import CPU_ENGINES
from medi2i.common.compat import F, chainer
from medi2i.common.kernels import cpu_engine
from medi2i.common.networks.blocks import SpectralConvolution, double_nearest
from medi2i.common.options.learned import SynthesisOptions
from medi2i.synthesis import net


def built(network, **options):
    np.random.seed(0)  # Chainer's initial weights
    given = dict(size=16, channels=4, latent=6, ch=1, phase_images=100)
    return net.build(SynthesisOptions(network=network, **{**given, **options}))


def normal(*shape):
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def test_widths_are_those_of_the_paper():
    assert net.widths_of(512, net.levels_of(1024)) == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    generator = built("dcgan", size=64, channels=3).gen
    assert sorted((param.shape for param in generator.params() if param.ndim == 4), reverse=True) == [
        (48, 6, 4, 4),
        (24, 48, 3, 3),
        (12, 24, 3, 3),
        (6, 12, 3, 3),
        (1, 6, 3, 3),
    ]


def test_stages_of_growth():
    growth = net.Growth(levels=3, phase=100)
    found = []
    for growth.shown in (0, 99, 100, 125, 199, 200, 299, 300, 350, 400, 10**9):
        found.append((*growth.stage, growth.side))
    assert found == [
        (0, 1.0, 4),
        (0, 1.0, 4),
        (1, 0.0, 8),
        (1, 0.25, 8),
        (1, 0.99, 8),
        (1, 1.0, 8),
        (1, 1.0, 8),
        (2, 0.0, 16),
        (2, 0.5, 16),
        (2, 1.0, 16),
        (2, 1.0, 16),
    ]


def test_real_images_fade_in_as_made_ones_do():
    networks, images = built("pggan"), normal(2, 1, 16, 16)
    networks.growth.shown = 125  # 8x8 pixels, a quarter of them
    eight, four = (images.reshape(2, 1, n, 16 // n, n, 16 // n).mean((3, 5)) for n in (8, 4))
    expected = 0.25 * eight + 0.75 * four.repeat(2, 2).repeat(2, 3)
    assert np.allclose(networks.seen(images), expected, atol=1e-6)
    networks.growth.shown = 400
    assert networks.seen(images) is images or np.array_equal(networks.seen(images), images)


@pytest.mark.parametrize("begin", [100, 300])
def test_a_fade_begins_with_the_resolution_before(begin):
    networks, z = built("pggan"), normal(4, 6)
    image = normal(4, 1, 4 << (begin + 100) // 200, 4 << (begin + 100) // 200)
    networks.growth.shown = begin - 1
    before, judged = networks.gen(z).array, networks.dis(net.halved(image)).array
    networks.growth.shown = begin
    assert np.allclose(networks.gen(z).array, before.repeat(2, 2).repeat(2, 3), atol=1e-6)
    assert np.allclose(networks.dis(image).array, judged, atol=1e-5)
    networks.growth.shown = begin + 25
    quarter = networks.gen(z).array
    networks.growth.shown = begin + 100
    whole = networks.gen(z).array
    assert np.allclose(quarter, 0.25 * whole + 0.75 * before.repeat(2, 2).repeat(2, 3), atol=1e-5)
    assert abs(whole - quarter).max() > 0.01


def test_the_deviation_of_a_minibatch_is_one_number_a_group():
    x = normal(8, 2, 3, 3)
    x[1], x[3], x[5], x[7] = x[[1]], x[[1]], x[[1]], x[[1]]  # images 1, 3, 5, 7 are a group, and are alike
    y = net.minibatch_deviation(chainer.Variable(x)).array
    assert np.array_equal(y[:, :2], x) and y.shape == (8, 3, 3, 3)
    assert np.allclose(y[1::2, 2], 1e-4, atol=1e-8)  # sqrt(1e-8)
    assert np.allclose(y[::2, 2], np.sqrt(x[::2].var(axis=0) + 1e-8).mean(), rtol=1e-5)
    assert np.allclose(net.minibatch_deviation(chainer.Variable(x[:1])).array[:, 2], 1e-4)
    six = net.minibatch_deviation(chainer.Variable(x[:6])).array  # two groups of three
    assert np.allclose(six[[0, 2, 4], 2], np.sqrt(x[[0, 2, 4]].var(axis=0) + 1e-8).mean(), rtol=1e-5)


def test_halving_is_average_pooling():
    x, y = normal(2, 3, 6, 10), normal(2, 3, 3, 5)
    found = []
    for function in (net.halved, lambda x: F.average_pooling_2d(x, 2, 2)):
        image = chainer.Variable(x)
        made = function(image)
        made.grad = y
        made.backward()
        found.append((made.array, image.grad))
    assert all(np.allclose(*pair, atol=1e-6) for pair in zip(*found, strict=True))


def test_equalised_layers_keep_the_size_of_what_they_see():
    x = normal(64, 200, 1, 1)
    assert net._linear(200, 300)(x).array.std() == pytest.approx(1.0, rel=0.05)
    assert net._conv(200, 300, 1, 0)(x).array.std() == pytest.approx(np.sqrt(2), rel=0.05)


def test_spectral_normalisation_of_a_convolution():
    np.random.seed(1)
    link = SpectralConvolution(3, 5, 4, 2, 1, nobias=False)
    for _ in range(100):
        weight = link.normalized_weight().array
    singular = np.linalg.svd(link.W.array.reshape(5, -1), compute_uv=False)
    assert np.allclose(weight, link.W.array / singular[0], rtol=1e-4)
    assert link(normal(2, 3, 8, 8)).shape == (2, 5, 4, 4)


CASES = {"batch normalised": ("dcgan", {}), "spectral": ("dcgan", {"spectral": True}), "growing": ("pggan", {})}
PENALTIES = {
    "gradient penalty": lambda dis, x, y, mix: losses.gradient_penalty(dis, x, y, mix),
    "R1": lambda dis, x, y, mix: losses.squared_slope(dis, x),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_penalties_by_every_engine_are_finite_differences(case):
    """Of the penalty by all weights, along one direction; the differences are in float64."""
    network, options = CASES[case]
    dis = built(network, **options).dis
    with chainer.using_config("dtype", np.float64):
        networks = built(network, **options)
    if networks.growth is not None:
        networks.growth.shown = 350  # both networks in the middle of a fade
        dis.growth.shown = 350
    x, y, mix = normal(4, 1, 16, 16), normal(4, 1, 16, 16)[::-1].copy(), np.float32([0.1, 0.4, 0.6, 0.9])
    for _ in range(300 if case == "spectral" else 0):
        dis(x)  # until u is a singular vector
    wide = networks.dis
    wide.copyparams(dis)
    for name, link in wide.namedlinks():
        if isinstance(link, SpectralConvolution):
            link.u[...] = dict(dis.namedlinks())[name].u
    directions = {name: normal(*param.shape) for name, param in dis.namedparams()}
    for what, penalty in PENALTIES.items():
        values = []
        with cpu_engine.using("chainer"), chainer.using_config("train", case != "spectral"):
            for sign in (1, -2):
                for name, param in wide.namedparams():
                    param.array += sign * 1e-5 * directions[name]
                values.append(float(penalty(wide, *(a.astype(np.float64) for a in (x, y, mix))).array))
            for name, param in wide.namedparams():
                param.array += 1e-5 * directions[name]
        expected = (values[0] - values[1]) / 2e-5
        assert abs(expected) > 1e-3, what
        for engine in CPU_ENGINES:
            with cpu_engine.using(engine), chainer.using_config("train", case != "spectral"):
                dis.cleargrads()
                penalty(dis, x, y, mix).backward()
            parts = {name: param.grad for name, param in dis.namedparams() if param.grad is not None}
            found = sum(float((grad * directions[name]).sum()) for name, grad in parts.items())
            assert found == pytest.approx(expected, rel=2e-3), (what, engine)


def test_nearest_is_what_halving_undoes():
    x = normal(1, 2, 3, 3)
    assert np.allclose(net.halved(double_nearest(x)).array, x)
