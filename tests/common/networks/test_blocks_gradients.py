"""Gradients of every kind of block against finite differences, in double precision."""

import numpy as np
import pytest

from medi2i.common.choices import DOUBLING, SAMPLINGS, Activation, Norm, Padding, Pretrained, SampleKind
from medi2i.common.compat import F, chainer, gradient_check
from medi2i.common.networks.blocks import CBR, Attention, FullyConnected, ResBlock
from medi2i.common.networks.layers import NORMS
from medi2i.common.networks.pretrained import pretrained_features
from medi2i.common.networks.spec import ConvStyle, PretrainedSpec

PLAIN = ConvStyle(equalised=False, separable=False, squeeze=False, padding=Padding.ZERO)
STYLES = {
    "equalised": ConvStyle(True, False, False, Padding.ZERO),
    "separable": ConvStyle(False, True, False, Padding.ZERO),
    "squeeze": ConvStyle(False, False, True, Padding.ZERO),
    "all": ConvStyle(True, True, True, Padding.ZERO),
    "reflect": ConvStyle(False, False, False, Padding.REFLECT),
    "separable reflect": ConvStyle(False, True, False, Padding.REFLECT),
}


@pytest.fixture(autouse=True)
def same_numbers():
    np.random.seed(4)


def check(build, shape, double=False, prepare=None, eps=1e-5, tolerance=1e-4):
    """Gradients of the input and of every parameter; of these gradients too with ``double``."""
    with chainer.using_config("dtype", np.float64):
        link = build()
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape)
    params = [p for p in link.params() if p.array is not None]
    for p in params:  # zeros and ones, as biases and scales start, hide mistakes
        p.array[...] += 0.1 * rng.standard_normal(p.shape)
    if prepare is not None:
        prepare(link)
    y = link(x)
    near = dict(rtol=tolerance, atol=tolerance / 100, eps=eps, dtype=np.float64)
    gradient_check.check_backward(link, x, rng.standard_normal(y.shape), params, **near)
    if double:
        gradient_check.check_double_backward(
            link,
            x,
            rng.standard_normal(y.shape),
            rng.standard_normal(x.shape),
            params,
            [rng.standard_normal(p.shape) for p in params],
            **near,
        )


def cbr(sample, norm=Norm.INSTANCE, activation=Activation.TANH, style=PLAIN, in_ch=2, out_ch=3):
    # The row that follows transposed kernels of 3 has no gradient; test_network_blocks has that.
    ksize = 4 if SAMPLINGS[sample].kind is SampleKind.DECONV else 3
    return CBR(in_ch, out_ch, ksize, 1, norm, SAMPLINGS[sample], activation, 0, style)


@pytest.mark.parametrize("sample", SAMPLINGS)
def test_gradients_of_every_sampling(sample):
    size = (
        (4, 6) if SAMPLINGS[sample].kind.value == "none-7" else (4, 2) if SAMPLINGS[sample].kind in DOUBLING else (4, 6)
    )
    # Bilinear doubling runs in single precision: larger steps drown its rounding.
    resized = SAMPLINGS[sample].kind is SampleKind.RESIZE
    check(lambda: cbr(sample), (2, 2, *size), **(dict(eps=1e-2, tolerance=1e-2) if resized else {}))


@pytest.mark.parametrize("norm", Norm)
def test_gradients_of_every_norm(norm):
    check(lambda: cbr("none", norm=norm), (3, 2, 3, 5))


@pytest.mark.parametrize("activation", Activation)
def test_gradients_of_every_activation(activation):
    check(lambda: cbr("none", norm=Norm.NONE, activation=activation), (2, 2, 3, 5))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("sample", ["none", "down_res", "deconv"])
def test_gradients_of_every_style(style, sample):
    out_ch = 16 if STYLES[style].squeeze else 3
    check(lambda: cbr(sample, norm=Norm.NONE, style=STYLES[style], out_ch=out_ch), (2, 2, 4, 6))


@pytest.mark.parametrize("norm", [Norm.BATCH_AFFINE, Norm.FEATURE])
def test_gradients_of_resblock(norm):
    check(lambda: ResBlock(3, norm, Activation.TANH, PLAIN), (2, 3, 3, 5))


def test_gradients_of_fully_connected():
    check(lambda: FullyConnected(12, 5, Activation.SIGMOID), (3, 12))


def test_gradients_of_attention():
    # u and v count as constants in the gradient, which is exact once they have converged; while training they move with
    # each call, and finite differences need the same function each time.
    with chainer.using_config("train", False):
        check(lambda: Attention(8), (2, 8, 4, 6), prepare=converge)


def converge(attention):
    attention.gamma.W.array[...] = 0.7
    with chainer.using_config("train", True):
        for _ in range(500):
            attention(np.zeros((1, 8, 4, 6)))


@pytest.mark.parametrize(
    "kind, widths, size", [(Pretrained.VGG16, (2, 3), (4, 6)), (Pretrained.RESNET50, (2, 4), (8, 8))]
)
def test_gradients_of_pretrained_features(kind, widths, size):
    class Last(chainer.Chain):
        def __init__(self):
            super().__init__()
            with self.init_scope():
                self.base = pretrained_features(PretrainedSpec(kind, widths, frozen=True))

        def forward(self, x):
            return self.base(x)[-1]

    check(Last, (2, 3, *size))


@pytest.mark.parametrize("norm", [Norm.NONE, Norm.INSTANCE, Norm.BATCH_AFFINE, Norm.GROUP, Norm.FEATURE])
def test_second_order_gradients_as_the_gradient_penalty_needs(norm):
    check(lambda: cbr("down", norm=norm), (2, 2, 4, 6), double=True)


def test_second_order_gradients_of_the_norm_links_alone():
    with chainer.using_config("dtype", np.float64):
        norm = NORMS[Norm.INSTANCE](2)
    x = chainer.Variable(np.random.default_rng(1).standard_normal((1, 2, 3, 5)))
    (first,) = chainer.grad([F.sum(norm(x) ** 3)], [x], enable_double_backprop=True)
    (second,) = chainer.grad([F.sum(first**2)], [x])
    assert second.shape == x.shape and abs(second.array).max() > 0
