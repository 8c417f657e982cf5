"""Exact values of the blocks: identity kernels, known sums, orders of pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest

from medi2i.common.choices import DOUBLING, SAMPLINGS, Activation, Norm, Padding
from medi2i.common.compat import chainer, gradient_check
from medi2i.common.errors import UserError
from medi2i.common.networks.blocks import (
    CBR,
    Attention,
    FullyConnected,
    ResBlock,
    SpectralConvolution,
    double_bilinear,
)
from medi2i.common.networks.layers import (
    NORMS,
    Convolution,
    SqueezeExcitation,
    append_mirrored,
    reflect_pad,
)
from medi2i.common.networks.spec import ConvStyle

PLAIN = ConvStyle(equalised=False, separable=False, squeeze=False, padding=Padding.ZERO)
MIRRORED = ConvStyle(equalised=False, separable=False, squeeze=False, padding=Padding.REFLECT)
RNG = np.random.default_rng(5)


def image(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def cbr(sample, in_ch=1, out_ch=1, ksize=3, norm=Norm.NONE, activation=Activation.NONE, style=PLAIN, dropout=0.0):
    return CBR(in_ch, out_ch, ksize, (ksize - 1) // 2, norm, SAMPLINGS[sample], activation, dropout, style)


def make_identity(conv):
    """Weights with which a convolution of as many outputs as inputs gives its input."""
    conv.c.W.array[...] = 0
    middle = conv.ksize // 2
    for i in range(conv.out_ch):
        conv.c.W.array[i, i % conv.in_ch, middle, middle] = 1


@pytest.mark.parametrize("before, after", [(2, 1), (0, 2), (2, 0), (0, 0), (2, 2)])
def test_reflect_pad_mirrors_without_repeating_the_border(before, after):
    x = np.arange(30, dtype=np.float64).reshape(1, 2, 3, 5)
    expected = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)), mode="reflect")
    y = reflect_pad(chainer.Variable(x), before, after)
    np.testing.assert_array_equal(y.array, expected)
    gradient_check.check_double_backward(
        lambda v: reflect_pad(v, before, after) ** 2, x / 30, expected / 10, x / 20, dtype="d", atol=1e-6, rtol=1e-6
    )


def test_gradient_of_reflect_pad_counts_how_often_a_pixel_is_shown():
    x = chainer.Variable(np.zeros((1, 1, 3, 4), np.float32))
    y = reflect_pad(x, 2, 1)
    y.grad = np.ones_like(y.array)
    y.backward()
    np.testing.assert_array_equal(x.grad[0, 0], np.outer([1, 3, 2], [1, 2, 3, 1]))


def test_reflect_pad_refuses_images_too_small_to_mirror():
    with pytest.raises(ValueError, match="3x9 cannot mirror 3 pixels; it needs at least 4"):
        reflect_pad(chainer.Variable(image(1, 1, 3, 9)), 3, 3)


def test_padding_is_zero_unless_asked():
    x = np.ones((1, 1, 5, 7), np.float32)
    for style, corner, edge in ((PLAIN, 16, 28), (MIRRORED, 49, 49)):
        block = cbr("none-7", style=style)
        block.c1.c.W.array[...] = 1
        y = block(x).array
        # 7×7 ones over a 5×7 image of ones: rows 0..3 and columns 0..3 remain at a corner of the zero-padded one.
        assert y[0, 0, 0, 0] == corner
        assert y[0, 0, 0, 3] == edge


@pytest.mark.parametrize(
    "sample, expected",
    [
        ("none", [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]),
        ("down", [[1, 3], [9, 11]]),
        ("maxpool", [[6, 8], [14, 16]]),
        ("avgpool", [[3.5, 5.5], [11.5, 13.5]]),
    ],
)
def test_identity_kernel_shows_the_sampling(sample, expected):
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    block = cbr(sample)
    make_identity(block.c1)
    np.testing.assert_array_equal(block(x).array[0, 0], expected)


def test_unpool_repeats_each_pixel():
    x = image(1, 1, 3, 2)
    block = cbr("unpool")
    make_identity(block.c1)
    np.testing.assert_array_equal(block(x).array, x.repeat(2, axis=2).repeat(2, axis=3))


def test_resize_keeps_the_corners_and_is_linear_between():
    x = np.array([[0, 3], [6, 9]], dtype=np.float32).reshape(1, 1, 2, 2)
    expected = np.add.outer(np.arange(4) * 2.0, np.arange(4) * 1.0)
    np.testing.assert_allclose(double_bilinear(chainer.Variable(x)).array[0, 0], expected, atol=1e-6)


def test_pixel_shuffle_takes_channels_row_by_row_for_one_output_channel():
    x = np.array([1, 2, 3, 4], dtype=np.float32).reshape(1, 4, 1, 1)
    np.testing.assert_array_equal(cbr("pixsh").upsample(x).array[0, 0], [[1, 2], [3, 4]])


def test_transposed_3x3_appends_a_mirrored_row_and_column():
    x = image(1, 1, 3, 4)
    block = cbr("deconv")
    block.c1.c.W.array[...] = 0
    block.c1.c.W.array[0, 0, 1, 1] = 1
    y = block(x).array[0, 0]
    assert y.shape == (6, 8)
    np.testing.assert_array_equal(y[::2, ::2], x[0, 0])
    # The last odd row is that before the last even one, which the transposed convolution left empty.
    np.testing.assert_array_equal(y[5], y[3])
    np.testing.assert_array_equal(y[:, 7], y[:, 5])


def test_the_appended_row_and_column_pass_no_gradient():
    """As ``F.pad`` has it: the row they came from gets its own gradient only."""
    x = chainer.Variable(image(1, 1, 2, 3))
    y = append_mirrored(x)
    np.testing.assert_array_equal(y.array, np.pad(x.array, ((0, 0), (0, 0), (0, 1), (0, 1)), mode="reflect"))
    y.grad = gradient = image(1, 1, 3, 4)
    y.backward()
    np.testing.assert_array_equal(x.grad, gradient[:, :, :2, :3])


def test_a_single_row_is_appended_to_itself():
    x = chainer.Variable(np.float32([[[[5, 6, 7]]]]))
    np.testing.assert_array_equal(append_mirrored(x).array[0, 0], [[5, 6, 7, 6], [5, 6, 7, 6]])


def test_even_transposed_kernel_doubles_without_an_appended_row():
    assert cbr("deconv", ksize=4)(image(1, 1, 3, 5)).shape == (1, 1, 6, 10)


@pytest.mark.parametrize("sample", SAMPLINGS)
@pytest.mark.parametrize("norm", [Norm.BATCH_AFFINE, Norm.INSTANCE])
def test_every_sampling_changes_the_size_as_it_says(sample, norm):
    kind = SAMPLINGS[sample]
    block = cbr(sample, in_ch=2, out_ch=3, norm=norm, activation=Activation.RELU)
    height, width = (6, 10) if kind.halves else (24, 40) if kind.kind in DOUBLING else (12, 20)
    assert block(image(2, 2, 12, 20)).shape == (2, 3, height, width)


def test_the_shortcut_is_added_after_the_activation_and_before_upsampling():
    x = image(1, 1, 4, 6)
    block = cbr("unpool_res", activation=Activation.RELU)
    for conv in (block.c1, block.c2):
        make_identity(conv)
    block.skip.depthwise.W.array[...] = 1
    block.skip.pointwise.W.array[...] = -2
    expected = np.maximum(x, 0) - 2 * x
    np.testing.assert_array_equal(block(x).array, expected.repeat(2, axis=2).repeat(2, axis=3))


def test_the_second_convolution_follows_activation_and_pooling():
    x = -np.ones((1, 1, 4, 4), np.float32)
    x[0, 0, 0, 0] = 8
    block = cbr("avgpool_conv", activation=Activation.RELU)
    for conv in (block.c1, block.c2):
        make_identity(conv)
    # relu first: (8 + 0 + 0 + 0) / 4; pooling first would give (8 - 3) / 4.
    np.testing.assert_array_equal(block(x).array[0, 0], [[2, 0], [0, 0]])


def test_deconv_res_is_twice_the_size_with_its_shortcut():
    x = image(1, 1, 3, 5)
    block = cbr("deconv_res")
    block.c1.c.W.array[...] = 0
    block.skip.depthwise.W.array[...] = 1
    block.skip.pointwise.W.array[...] = 1
    np.testing.assert_array_equal(block(x).array, x.repeat(2, axis=2).repeat(2, axis=3))


def test_dropout_acts_while_training_only():
    block = cbr("none", dropout=0.5)
    make_identity(block.c1)
    x = np.ones((1, 1, 31, 33), np.float32)
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(block(x).array, x)
    with chainer.using_config("train", True):
        assert set(np.unique(block(x).array)) == {0.0, 2.0}


def test_resblock_with_zero_weights_is_the_identity():
    block = ResBlock(3, Norm.NONE, Activation.RELU, PLAIN)
    block.c1.c.W.array[...] = 0
    x = image(2, 3, 5, 7)
    np.testing.assert_array_equal(block(x).array, x)


def test_equalised_convolution_scales_its_input():
    style = ConvStyle(equalised=True, separable=False, squeeze=False, padding=Padding.ZERO)
    conv = Convolution(8, 2, 3, 1, 1, style, transposed=False)
    conv.c.W.array[...] = 1
    x = np.ones((1, 8, 5, 5), np.float32)
    y = conv(x)
    assert y.dtype == np.float32
    assert y.array[0, 0, 2, 2] == pytest.approx(8 * 9 * math.sqrt(2 / 8) / 3, rel=1e-6)


def test_initial_weights_have_the_variances_of_their_papers():
    shape = (40, 60, 3)
    plain = Convolution(*shape, 1, 1, PLAIN, transposed=False).c
    equalised = Convolution(*shape, 1, 1, ConvStyle(True, False, False, Padding.ZERO), transposed=False).c
    assert plain.W.array.std() == pytest.approx(math.sqrt(2 / (40 * 9)), rel=0.02)
    assert equalised.W.array.std() == pytest.approx(1, rel=0.02)
    assert not plain.b.array.any() and not equalised.b.array.any()


def test_separable_convolution_is_depthwise_then_pointwise():
    conv = Convolution(2, 1, 3, 1, 1, replace(PLAIN, separable=True))
    conv.depthwise.W.array[0] = 1
    conv.depthwise.W.array[1] = 10
    conv.pointwise.W.array[...] = 1
    assert conv(np.ones((1, 2, 3, 3), np.float32)).array[0, 0, 1, 1] == 99
    assert conv.depthwise.b is None


def test_equalised_separable_convolution_scales_its_input_once():
    """sqrt(2 / channels) / ksize before the depthwise convolution, nothing between it and the pointwise one."""
    np.random.seed(3)
    conv = Convolution(8, 50, 3, 1, 1, ConvStyle(True, True, False, Padding.ZERO))
    assert conv.depthwise.W.array.std() == pytest.approx(1, rel=0.2)
    assert conv.pointwise.W.array.std() == pytest.approx(1, rel=0.1)
    conv.depthwise.W.array[...] = 1
    conv.pointwise.W.array[...] = 1
    y = conv(np.ones((1, 8, 3, 3), np.float32)).array
    np.testing.assert_allclose(y[0, :, 1, 1], 8 * 9 * math.sqrt(2 / 8) / 3, rtol=1e-6)


@pytest.mark.parametrize("sample, ksize", [("down_res", 3), ("unpool_res", 1)])
def test_the_shortcut_of_an_equalised_block_is_equalised(sample, ksize):
    np.random.seed(3)
    block = cbr(sample, 8, 40, style=ConvStyle(True, False, True, Padding.ZERO))
    assert block.skip.pointwise.W.array.std() == pytest.approx(1, rel=0.2)
    assert block.skip.scale == math.sqrt(2 / 8) / ksize
    assert block.c1.squeezed and block.c2.squeezed and not block.skip.squeezed
    for weights in (block.skip.depthwise.W, block.skip.pointwise.W):
        weights.array[...] = 1
    y = block.skip(np.ones((1, 8, 5, 5), np.float32)).array
    np.testing.assert_allclose(y[0, :, 1, 1], 8 * ksize**2 * math.sqrt(2 / 8) / ksize, rtol=1e-6)


def test_separable_deconvolution_is_two_deconvolutions_and_a_mirrored_border():
    conv = Convolution(2, 3, 3, 2, 1, ConvStyle(False, True, True, Padding.ZERO), transposed=True)
    assert conv.depthwise.W.shape == (2, 1, 3, 3) and conv.pointwise.W.shape == (2, 3, 1, 1)
    x = image(1, 2, 2, 3)
    conv.depthwise.W.array[...] = 0
    conv.depthwise.W.array[:, :, 1, 1] = 1  # each pixel goes to an even row and column
    conv.pointwise.W.array[...] = np.float32([[1, 2, 0], [0, 10, -1]]).reshape(2, 3, 1, 1)
    conv.pointwise.b.array[...] = (0, 0, 7)
    placed = np.zeros((1, 2, 4, 6), np.float32)
    placed[:, :, ::2, ::2] = x
    placed[:, :, 3] = placed[:, :, 1]
    placed[:, :, :, 5] = placed[:, :, :, 3]
    a, b = placed[0]
    np.testing.assert_allclose(conv(x).array[0], [a, 2 * a + 10 * b, 7 - b], atol=1e-6)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("transposed, channels, squeezed", [(False, 16, True), (False, 15, False), (True, 16, False)])
def test_squeeze_excitation_follows_every_convolution_but_transposed_ones(separable, transposed, channels, squeezed):
    style = ConvStyle(False, separable, True, Padding.ZERO)
    conv = Convolution(2, channels, 3, 1, 1, style, transposed)
    assert conv.squeezed == squeezed == ("/se/l1/W" in {name for name, _ in conv.namedparams()})
    if not squeezed:
        return
    conv.se.l1.W.array[...] = 0
    conv.se.l2.b.array[...] = np.linspace(-2, 2, channels)
    x, weight = image(1, 2, 3, 5), 1 / (1 + np.exp(-np.linspace(-2, 2, channels)))
    plain = (conv.pointwise(conv.depthwise(x)) if separable else conv.c(x)).array
    np.testing.assert_allclose(conv(x).array, plain * weight[None, :, None, None], rtol=1e-5)


def test_only_none_7_alone_is_seven_wide():
    assert cbr("none-7").c1.ksize == 7
    for sample in ("none-7_conv", "none-7_res"):
        block = cbr(sample)
        assert (block.c1.ksize, block.c1.pad, block.c2.ksize) == (3, 1, 3)


def test_a_shortcut_of_another_size_is_refused_in_words():
    block = CBR(1, 1, 5, 1, Norm.NONE, SAMPLINGS["down_res"], Activation.NONE, 0, PLAIN)
    with pytest.raises(UserError, match="16x8 pixels.*: down_res with kernels of 5 makes 7 rows of 16 and its"):
        block(image(1, 1, 16, 8))


def test_squeeze_excitation_scales_each_channel_by_its_weight():
    block = SqueezeExcitation(32)
    block.l1.W.array[...] = 0
    block.l2.b.array[...] = np.linspace(-2, 2, 32)
    x = image(2, 32, 3, 5)
    weight = 1 / (1 + np.exp(-block.l2.b.array))
    np.testing.assert_allclose(block(x).array, x * weight[None, :, None, None], rtol=1e-5)


@pytest.mark.parametrize("channels, squeezed", [(15, False), (16, True)])
def test_squeeze_excitation_from_16_channels_on(channels, squeezed):
    style = ConvStyle(equalised=False, separable=False, squeeze=True, padding=Padding.ZERO)
    assert Convolution(2, channels, 3, 1, 1, style, transposed=False).squeezed is squeezed


@pytest.mark.parametrize("train", [True, False])
def test_instance_normalisation_is_per_sample_and_channel_always(train):
    x = 3 * image(2, 3, 5, 7) + 4
    norm = NORMS[Norm.INSTANCE](3)
    with chainer.using_config("train", train):
        y = norm(x).array
    mean, var = x.mean(axis=(2, 3), keepdims=True), x.var(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 2e-5), atol=1e-5)
    assert not norm.avg_mean.any() and norm.N == 0


@pytest.mark.parametrize("kind", [Norm.GROUP, Norm.LAYER])
def test_group_and_layer_normalise_over_all_channels(kind):
    x = 3 * image(2, 3, 5, 7) + np.arange(3, dtype=np.float32)[None, :, None, None]
    norm = NORMS[kind](3)
    norm.beta.array[...] = 1
    mean, var = x.mean(axis=(1, 2, 3), keepdims=True), x.var(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(norm(x).array, (x - mean) / np.sqrt(var + 1e-5) + 1, atol=1e-5)


def test_feature_normalisation_gives_each_pixel_mean_square_one():
    y = NORMS[Norm.FEATURE](5)(7 * image(2, 5, 3, 4)).array
    np.testing.assert_allclose((y**2).mean(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "kind, gamma, beta", [(Norm.BATCH, False, False), (Norm.BATCH_AFFINE, True, True), (Norm.BATCH_RENORM, False, True)]
)
def test_batch_norms_have_the_released_parameters(kind, gamma, beta):
    norm = NORMS[kind](3)
    names = {name for name, _ in norm.namedparams()}
    assert names == {name for name, there in (("/gamma", gamma), ("/beta", beta)) if there}
    assert (norm.eps, norm.decay) == (2e-5, 0.9)


def test_rbatch_equals_batch_normalisation_at_test_time():
    x = image(2, 3, 5, 7)
    renorm, batch = NORMS[Norm.BATCH_RENORM](3), NORMS[Norm.BATCH](3)
    for norm in (renorm, batch):
        norm.avg_mean[...] = [0.5, -1, 2]
        norm.avg_var[...] = [0.25, 4, 1]
    with chainer.using_config("train", False):
        np.testing.assert_allclose(renorm(x).array, batch(x).array, rtol=1e-5, atol=1e-6)


def test_attention_does_nothing_at_first_and_keeps_the_shape():
    x = image(2, 16, 5, 7)
    np.testing.assert_array_equal(Attention(16)(x).array, x)


def test_attention_is_the_weighted_mean_over_pooled_positions():
    block = Attention(8)
    block.gamma.W.array[...] = 0.5
    x = image(1, 8, 4, 6)
    with chainer.using_config("train", False):
        theta, phi, g, out = (
            conv.normalized_weight().array[:, :, 0, 0] for conv in (block.theta, block.phi, block.g, block.o_conv)
        )
        found = block(x).array[0].reshape(8, 24)
    pixels = x[0].reshape(8, 24)
    pooled = [(w @ pixels).reshape(-1, 2, 2, 3, 2).max(axis=(2, 4)).reshape(-1, 6) for w in (phi, g)]
    for i in range(24):
        score = np.exp((theta @ pixels[:, i]) @ pooled[0])
        attended = pooled[1] @ (score / score.sum())
        np.testing.assert_allclose(found[:, i], pixels[:, i] + 0.5 * (out @ attended), rtol=1e-4, atol=1e-5)


def test_spectral_convolutions_start_with_variance_one_over_inputs():
    """LeCun et al., 1998: so the released weights began."""
    np.random.seed(3)
    assert SpectralConvolution(40, 60).W.array.std() == pytest.approx(math.sqrt(1 / 40), rel=0.03)


def test_spectral_norm_converges_to_one_and_moves_u_only_while_training():
    conv = SpectralConvolution(6, 9)
    u = conv.u.copy()
    with chainer.using_config("train", False):
        conv.normalized_weight()
    np.testing.assert_array_equal(conv.u, u)
    with chainer.using_config("train", True):
        for _ in range(200):
            weight = conv.normalized_weight().array
    assert np.linalg.norm(weight.reshape(9, 6), ord=2) == pytest.approx(1, rel=1e-4)


def test_fully_connected_waits_for_its_input_size():
    layer = FullyConnected(None, 7, Activation.RELU)
    assert layer.describe() == "Linear ? -> 7, relu"
    assert layer(image(2, 3, 4, 5)).shape == (2, 7)
    assert layer.describe() == "Linear 60 -> 7, relu"
