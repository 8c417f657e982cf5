"""Normalisation with activation in one function: against Chainer's functions, and its derivatives."""

import numpy as np
import pytest

from medi2i.common.choices import Activation, Norm, Padding, SampleKind, Sampling, Second
from medi2i.common.compat import F, L, chainer, gradient_check
from medi2i.common.kernels import cpu_engine, nodes, reference
from medi2i.common.kernels.cpu import onednn
from medi2i.common.networks.blocks import CBR
from medi2i.common.networks.layers import BatchNormalization, InstanceNormalization, activated
from medi2i.common.networks.spec import ConvStyle

needs_onednn = pytest.mark.skipif(onednn.find() is None, reason="the wheel onednn-cpu-gomp is not installed")
ENGINES = ["numpy", pytest.param("onednn", marks=needs_onednn)]
SHAPE = (3, 4, 7, 5)
EPS = 2e-5


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def by_functions(x, gamma, beta, slope, each):
    """The same in Chainer's functions."""
    n, c, h, w = x.shape
    if each:
        y = F.reshape(
            F.batch_normalization(
                F.reshape(x, (1, n * c, h, w)), np.ones(n * c, x.dtype), np.zeros(n * c, x.dtype), eps=EPS
            ),
            x.shape,
        )
        if gamma is not None:
            y = y * F.reshape(gamma, (1, c, 1, 1)) + F.reshape(beta, (1, c, 1, 1))
    else:
        ones, zeros = np.ones(c, x.dtype), np.zeros(c, x.dtype)
        y = F.batch_normalization(x, *((ones, zeros) if gamma is None else (gamma, beta)), eps=EPS)
    return F.leaky_relu(y, slope)


def outcome(function, inputs):
    """Output, gradients, and gradients of the gradients' squares."""
    inputs = [chainer.Variable(a.copy(order="K")) for a in inputs]
    y = function(*inputs, *[None] * (3 - len(inputs)))
    first = chainer.grad([F.sum(y * y * random(*y.shape, seed=1))], inputs, enable_double_backprop=True)
    second = chainer.grad([sum(F.sum(g * g) for g in first)], inputs)
    return [v.array for v in (y, *first, *second)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, last], ids=["first", "last"])
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("affine", [True, False])
def test_as_chainers_functions(engine, arrange, each, slope, affine):
    inputs = [arrange(random(*SHAPE) * 2 + 3)]
    if affine:
        inputs += [random(4, seed=3) + 2, random(4, seed=4)]
    expected = outcome(lambda *a: by_functions(*a, slope, each), inputs)
    with cpu_engine.using(engine):
        assert nodes.is_fused(inputs[0])
        found = outcome(lambda x, gamma, beta: nodes.normalise(x, gamma, beta, EPS, slope, each)[0], inputs)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and b.dtype == np.float32
        np.testing.assert_allclose(b, a, atol=2e-4 * np.abs(a).max() + 1e-6)


@pytest.mark.parametrize("each, fixed", [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("affine", [True, False])
def test_first_second_and_third_derivative(each, fixed, slope, affine):
    rng = np.random.default_rng(7)
    inputs = (rng.standard_normal((2, 3, 3, 2)), rng.uniform(0.5, 1.5, 3), rng.uniform(-1, 1, 3))[: 3 if affine else 1]
    g = rng.standard_normal((2, 3, 3, 2))
    gg = tuple(rng.standard_normal(a.shape) for a in inputs)
    statistics = (rng.standard_normal(3), rng.uniform(0.5, 2, 3)) if fixed else None

    def function(*inputs):
        return nodes.Normalise(1e-3, slope, each, statistics).apply(inputs)[0]

    def gradient(*inputs):
        inputs = [chainer.as_variable(a) for a in inputs]
        y = function(*inputs)
        return chainer.grad([F.sum(y * y * y)], inputs[:1], enable_double_backprop=True)[0]

    gradient_check.check_backward(function, inputs, g, dtype="d", eps=1e-6, atol=1e-5, rtol=1e-5)
    gradient_check.check_double_backward(function, inputs, g, gg, dtype="d", eps=1e-6, atol=1e-4, rtol=1e-4)
    gradient_check.check_double_backward(gradient, inputs, g, gg, dtype="d", eps=1e-6, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("arrange", [np.ascontiguousarray, last], ids=["first", "last"])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_features_as_chainers_functions(arrange, slope):
    x = arrange(random(*SHAPE) * 2 + 1)

    def by_functions(x, *_):
        return F.leaky_relu(x * F.broadcast_to(F.rsqrt(F.mean(x * x, axis=1, keepdims=True) + EPS), x.shape), slope)

    expected = outcome(by_functions, [x])
    found = outcome(lambda x, *_: nodes.normalise_features(x, EPS, slope), [x])
    once = chainer.Variable(x)
    F.sum(nodes.normalise_features(once, EPS, slope) ** 2 * random(*SHAPE, seed=1)).backward()
    for a, b in zip([*expected, expected[1]], [*found, once.grad], strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())


def test_features_of_half_precision_are_computed_in_single():
    """3e4 and 4e4: the mean of the squares is 1.25e9, beyond half precision."""
    x = np.float16([3e4, 4e4]).reshape(1, 2, 1, 1)
    y = nodes.normalise_features(x, 1e-8)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.array.ravel(), np.float64([3, 4]) / 12.5**0.5, rtol=1e-3)


def test_known_values():
    """Two pixels, -1 and 3: mean 1, variance 4; normalised -1 and 1; times 2 plus 1: -1 and 3; leaky: -0.5 and 3."""
    x = np.float32([-1, 3]).reshape(1, 1, 1, 2)
    y, mean, variance, inv_std = reference.forward(x, np.float32([2]), np.float32([1]), 0.0, 0.5, True)
    np.testing.assert_array_equal(y.ravel(), [-0.5, 3])
    assert (mean.item(), variance.item(), inv_std.item()) == (1, 4, 0.5)
    # The gradient by y of both is 1: g = 0.5 and 1; sums with n = -1, 1 and without are 0.5 and 1.5; less the mean
    # 0.75 and n/4 nothing is left.
    gx, with_x, plain = reference.backward(
        x, np.float32([2]), np.float32([1]), mean, inv_std, np.ones_like(x), 0.5, False
    )
    assert (with_x.item(), plain.item()) == (0.5, 1.5)
    np.testing.assert_array_equal(gx.ravel(), [0, 0])
    gx, *_ = reference.backward(x, np.float32([2]), np.float32([1]), mean, inv_std, np.ones_like(x), 0.5, True)
    np.testing.assert_array_equal(gx.ravel(), [0.5, 1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalization_link_has_chainers_running_statistics(engine, affine):
    ours = BatchNormalization(4, use_gamma=affine, use_beta=affine)
    theirs = L.BatchNormalization(4, use_gamma=affine, use_beta=affine)
    x = random(*SHAPE) * 3 + 1
    with cpu_engine.using("chainer"):
        theirs(x)
        theirs(x + 1)
        with chainer.using_config("train", False):
            expected = F.leaky_relu(theirs(x), 0.2).array
    with cpu_engine.using(engine):
        activated(ours, x, Activation.LEAKY_RELU)
        activated(ours, last(x + 1), Activation.NONE)
        with chainer.using_config("in_recomputing", True):
            ours(x)
        with chainer.using_config("train", False):
            graph = activated(ours, x, Activation.LEAKY_RELU).array
            with chainer.no_backprop_mode():
                plain = activated(ours, x, Activation.LEAKY_RELU).array
    np.testing.assert_allclose(ours.avg_mean, theirs.avg_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.avg_var, theirs.avg_var, rtol=1e-5)
    np.testing.assert_allclose(graph, expected, atol=1e-5)
    np.testing.assert_allclose(plain, expected, atol=1e-5)


@needs_onednn
def test_batch_normalization_takes_the_memory_of_a_result_that_nothing_else_needs():
    link, x = BatchNormalization(4), last(random(*SHAPE))
    with cpu_engine.using("onednn"), chainer.using_config("train", False):
        kept = activated(link, x, Activation.RELU).array
        with chainer.no_backprop_mode():
            expected = link(x, 0.0).array
            assert not np.may_share_memory(kept, x) and not np.may_share_memory(expected, x)
            y = activated(link, x, Activation.RELU).array
    assert np.shares_memory(y, x) and y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", [Activation.RELU, Activation.LEAKY_RELU, Activation.NONE, Activation.TANH])
def test_instance_normalization_then_activation(kind):
    x = random(*SHAPE)
    with cpu_engine.using("chainer"):
        assert not nodes.is_fused(x)
        expected = activated(InstanceNormalization(4), x, kind).array
    with cpu_engine.using("numpy"):
        np.testing.assert_allclose(activated(InstanceNormalization(4), x, kind).array, expected, atol=1e-5)


@pytest.mark.parametrize("second", list(Second))
@pytest.mark.parametrize("kind", [SampleKind.DOWN, SampleKind.MAXPOOL, SampleKind.AVGPOOL])
def test_blocks_are_the_same_with_and_without(kind, second):
    """Average pooling and the activation cannot change places: nothing may be fused there."""
    block = CBR(
        4,
        6,
        3,
        1,
        Norm.BATCH_AFFINE,
        Sampling(kind, second),
        Activation.RELU,
        0.0,
        ConvStyle(False, False, False, Padding.ZERO),
    )
    x = random(2, 4, 8, 6)
    with cpu_engine.using("chainer"):
        expected = block(x).array
    with cpu_engine.using("numpy"):
        np.testing.assert_allclose(block(x).array, expected, atol=1e-5)


@needs_onednn
def test_other_precisions_are_chainers():
    with cpu_engine.using("onednn"):
        for dtype in (np.float16, np.float64):
            assert not nodes.is_fused(random(*SHAPE).astype(dtype))
        assert not nodes.is_fused(random(3, 4))
        assert not nodes.is_fused(np.zeros((0, 2, 3, 3), "f"))


@needs_onednn
@pytest.mark.parametrize("slope, kept", [(1.0, False), (0.2, True)])
def test_the_output_is_kept_only_where_its_signs_are_needed(slope, kept):
    with cpu_engine.using("onednn"):
        _, node = nodes.normalise(chainer.Variable(random(*SHAPE)), None, None, EPS, slope, each=True)
    assert (node.get_retained_outputs() != ()) == kept
