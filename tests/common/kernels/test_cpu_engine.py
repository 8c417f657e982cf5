"""Quick CPU functions against plain Chainer: values, gradients, gradients of gradients."""

import tracemalloc

import numpy as np
import pytest

from medi2i.common.compat import F, L, chainer
from medi2i.common.kernels import chunked_convolution, cpu_engine, steps
from medi2i.common.kernels.chunked_convolution import Geometry
from medi2i.common.kernels.cpu import arrays as cpu_arrays
from medi2i.common.kernels.cpu import convolution, onednn

needs_onednn = pytest.mark.skipif(onednn.find() is None, reason="the wheel onednn-cpu-gomp is not installed")

TOLERANCE = 1e-5


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def outcome(function, arrays, engine):
    """Output, first gradients and gradients of their squares: a list of arrays."""
    with cpu_engine.using(engine):
        inputs = [chainer.Variable(a.copy(order="K")) for a in arrays]
        y = function(*inputs)
        weight = random(*y.shape, seed=1)
        first = chainer.grad([F.sum(y * y * weight)], inputs, enable_double_backprop=True)
        second = chainer.grad([sum(F.sum(g * g) for g in first)], inputs)
        return [y.array, *(g.array for g in first), *(g.array for g in second if g is not None)]


def assert_equal_to_chainer(function, *arrays, engine="onednn"):
    expected, found = (outcome(function, arrays, name) for name in ("chainer", engine))
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype == arrays[0].dtype
        scale = np.abs(a).max()
        assert np.abs(a - b).max() <= TOLERANCE * scale, f"{np.abs(a - b).max() / scale} of the scale"


def took_onednn(function, *arrays):
    """Whether oneDNN ran anything; a test that compares Chainer with itself shows nothing."""
    calls = []
    run = onednn.Primitive.run

    def counted(self, *addresses):
        calls.append(self)
        return run(self, *addresses)

    onednn.Primitive.run = counted
    try:
        outcome(function, arrays, "onednn")
    finally:
        onednn.Primitive.run = run
    return len(calls) > 0


# batch, in, out, height, width, kernel, stride, pad, dilation, groups
CONVOLUTIONS = [
    (1, 1, 4, 9, 7, (7, 7), 1, 3, 1, 1),
    (2, 3, 5, 11, 8, (3, 3), 2, 1, 1, 1),
    (1, 4, 6, 10, 13, (4, 4), 2, 2, 1, 1),
    (2, 6, 4, 9, 9, (3, 3), 1, 0, 2, 2),
    (1, 8, 8, 7, 12, (3, 3), 2, 1, 1, 8),
    (2, 5, 3, 6, 6, (3, 3), 2, 0, 1, 1),
    (1, 36, 36, 17, 16, (3, 3), 1, 1, 1, 1),
    (3, 3, 4, 8, 5, (1, 1), 1, 0, 1, 1),
    (1, 3, 4, 8, 8, (1, 1), 2, 0, 1, 1),
    (1, 2, 3, 12, 9, (3, 5), (2, 1), (1, 2), (1, 2), 1),
    (1, 36, 1, 19, 15, (7, 7), 1, 3, 1, 1),
    (2, 33, 2, 9, 14, (4, 4), 1, 2, 1, 1),
    (1, 1, 17, 13, 21, (7, 7), 1, 3, 1, 1),
    (2, 1, 18, 6, 5, (5, 3), 1, (0, 4), 1, 1),
    (1, 16, 1, 4, 3, (7, 7), 1, 5, 1, 1),
]


@needs_onednn
@pytest.mark.parametrize("cover_all", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case, cover_all):
    n, in_ch, out_ch, h, w, ksize, stride, pad, dilate, groups = case

    def function(x, weights, bias):
        return F.convolution_2d(x, weights, bias, stride, pad, cover_all=cover_all, dilate=dilate, groups=groups)

    arrays = random(n, in_ch, h, w), random(out_ch, in_ch // groups, *ksize), random(out_ch)
    assert took_onednn(function, *arrays)
    assert_equal_to_chainer(function, *arrays)
    assert_equal_to_chainer(function, last(arrays[0]), *arrays[1:])


@needs_onednn
@pytest.mark.parametrize(
    "case",
    [
        (1, 4, 3, 5, 7, 3, 2, 1, 1, 1, None),
        (2, 4, 6, 5, 4, 4, 2, 1, 1, 2, None),
        (1, 3, 2, 6, 5, 3, 1, 1, 1, 1, None),
        (1, 3, 2, 6, 5, 3, 2, 0, 2, 1, None),
        (1, 4, 3, 5, 7, 3, 2, 1, 1, 1, (10, 14)),
    ],
    ids=str,
)
def test_deconvolution(case):
    n, in_ch, out_ch, h, w, k, stride, pad, dilate, groups, outsize = case

    def function(x, weights, bias):
        return F.deconvolution_2d(x, weights, bias, stride, pad, outsize=outsize, dilate=dilate, groups=groups)

    arrays = random(n, in_ch, h, w), random(in_ch, out_ch // groups, k, k), random(out_ch)
    assert took_onednn(function, *arrays)
    assert_equal_to_chainer(function, *arrays)


@needs_onednn
def test_onednn_skips_no_pixels_for_the_weights_of_1x1(monkeypatch):
    """Its own copy of the pixels that count is written beyond its end: an abort, now and then, with one thread."""
    made = []
    monkeypatch.setattr(convolution, "_plan", lambda *what: made.append(what) or convolution._Plan(*what))
    x, gy = random(2, 3, 8, 7), random(2, 4, 3, 3)
    geometry = Geometry(x.shape, gy.shape, (4, 3, 1, 1), (3, 2), (0, 0), (1, 1), 1)
    gw, gb = convolution.backward_weights_and_bias(x, gy, geometry)
    assert [(kind, used.stride, used.shape) for kind, used, _ in made] == [("backward_weights", (1, 1), (2, 3, 3, 3))]
    expected = np.einsum("nohw,nchw->oc", gy, x[:, :, :8:3, :6:2])
    np.testing.assert_allclose(gw[:, :, 0, 0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gb, gy.sum((0, 2, 3)), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_narrow_convolution_in_many_bands(monkeypatch):
    monkeypatch.setattr(convolution, "BAND", 2 * 49 * 11)

    def to_one(x, weights, bias):
        return F.convolution_2d(x, weights, bias, 1, 3)

    assert_equal_to_chainer(to_one, random(2, 20, 13, 11), random(1, 20, 7, 7), random(1))
    assert_equal_to_chainer(to_one, random(2, 1, 13, 11), random(20, 1, 7, 7), random(20))


@needs_onednn
def test_convolution_known_values():
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    shift = np.zeros((1, 1, 3, 3), np.float32)
    shift[0, 0, 0, 1] = 1  # takes the pixel above
    with cpu_engine.using("onednn"):
        y = F.convolution_2d(x, shift, pad=1).array
    np.testing.assert_array_equal(y[0, 0], [[0, 0, 0, 0], [0, 1, 2, 3], [4, 5, 6, 7]])


@needs_onednn
def test_gradients_are_adjoint():
    """<conv(x, W), g> = <x, gradient by x> = <W, gradient by W>, since the convolution is linear in each."""
    x, w, g = chainer.Variable(random(2, 5, 9, 6)), chainer.Variable(random(7, 5, 3, 3)), random(2, 7, 5, 3, seed=2)
    with cpu_engine.using("onednn"):
        y = F.convolution_2d(x, w, stride=2, pad=1)
        gx, gw = chainer.grad([y], [x, w], grad_outputs=[chainer.Variable(g)])
    inner = [np.vdot(a.array.astype(np.float64), b) for a, b in ((y, g), (gx, x.array), (gw, w.array))]
    np.testing.assert_allclose(inner[1:], inner[0], rtol=1e-5)


POINTWISE = {
    "batch": lambda x: F.batch_normalization(x, np.float32([1, -2, 3]), np.float32([0.5, 0, 1])),
    "relu": F.relu,
    "lrelu": lambda x: F.leaky_relu(x, 0.2),
    "double": lambda x: F.resize_images(x, (2 * x.shape[2], 2 * x.shape[3])),
    "bilinear": lambda x: F.resize_images(x, (5, 23)),
    "half-pixel": lambda x: F.resize_images(x, (40, 70), align_corners=False),
    "nearest": lambda x: F.resize_images(x, (9, 31), mode="nearest"),
    "unpool": lambda x: F.unpooling_2d(x, 2, 2, cover_all=False),
    "unpool3": lambda x: F.unpooling_2d(x, 3, 3, cover_all=False),
    "sum": lambda x: F.sum(x, axis=(0, 2, 3)),
}


@needs_onednn
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, last], ids=["first", "last"])
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_and_sizes(name, arrange):
    x = arrange(random(2, 3, 7, 33))
    if name != "sum":
        assert took_onednn(POINTWISE[name], x)
    assert_equal_to_chainer(POINTWISE[name], x)


@needs_onednn
def test_large_images_are_joined_by_several_threads(monkeypatch):
    monkeypatch.setattr(cpu_arrays, "SMALLEST", 50)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    a, b, c = (last(random(2, channels, 7, 5)) for channels in (3, 3, 4))
    assert cpu_arrays.can_concatenate((a, b)) and not cpu_arrays.can_concatenate((np.ascontiguousarray(a), b))
    joined = cpu_arrays.concatenate((a, c, b))
    np.testing.assert_array_equal(joined, np.concatenate((a, c, b), axis=1))
    assert joined.strides == last(joined).strides
    assert_equal_to_chainer(lambda x, y: F.concat([x, y], axis=1), a, c)


@needs_onednn
@pytest.mark.parametrize("arrange", [last, np.ascontiguousarray, lambda x: x[0, 0]])
def test_sums_of_two_large_arrays(arrange, monkeypatch):
    monkeypatch.setattr(cpu_arrays, "SMALLEST_SUM", 30)
    a, b = (arrange(random(2, 3, 7, 5, seed=seed)) for seed in (0, 1))
    assert took_onednn(lambda x, y: x + y, a, b)
    assert_equal_to_chainer(lambda x, y: x + y, a, b)
    total = cpu_arrays.add(a, b)
    np.testing.assert_array_equal(total, a + b)
    assert total.strides == a.strides


@needs_onednn
def test_sums_of_arrays_that_lie_differently_are_numpys(monkeypatch):
    monkeypatch.setattr(cpu_arrays, "SMALLEST_SUM", 30)
    a = random(2, 3, 7, 5)
    for b in (last(a), a[:, :, :, :1], a[:, :1]):
        assert not cpu_arrays.can_add(a, b)
        with cpu_engine.using("onednn"):
            np.testing.assert_array_equal(
                (chainer.Variable(a) + chainer.Variable(b)).array
                if b.shape == a.shape
                else F.add(*F.broadcast(a, b)).array,
                a + b,
            )
    holes = random(4, 3, 7, 5)[::2]
    assert not cpu_arrays.can_add(holes, holes)


@needs_onednn
def test_products_are_numpys():
    a, b = random(5, 70), random(70, 33)
    for left, right in ((a, b), (np.asfortranarray(a), b), (a, np.asfortranarray(b))):
        np.testing.assert_allclose(cpu_arrays.matmul(left, right), a @ b, rtol=1e-5, atol=1e-5)


def gradients_of_convolution(case, twice):
    n, in_ch, out_ch, h, w, ksize, stride, pad, dilate, groups = case
    arrays = random(n, in_ch, h, w), random(out_ch, in_ch // groups, *ksize), random(out_ch)
    inputs = [chainer.Variable(a) for a in arrays]
    with chainer.using_config("type_check", False):
        y = F.convolution_2d(*inputs, stride, pad, dilate=dilate, groups=groups)
        y.grad = random(*y.shape, seed=1)
        y.backward(enable_double_backprop=twice)
    return [v.grad for v in inputs]


@needs_onednn
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_gradients_without_a_graph_are_those_with_one(case):
    """What is computed at once where nothing is differentiated twice, by function nodes otherwise."""
    with cpu_engine.using("onednn"):
        found = [gradients_of_convolution(case, twice) for twice in (False, True)]
    for once, graph in zip(*found, strict=True):
        assert once.dtype == graph.dtype
        np.testing.assert_allclose(once, graph, rtol=TOLERANCE, atol=TOLERANCE * np.abs(graph).max())


@needs_onednn
@pytest.mark.parametrize("learn", ["x", "weights", "bias", "weights bias", "x bias"])
def test_only_the_gradients_that_are_asked_for(learn):
    arrays = {"x": random(2, 3, 6, 7), "weights": random(4, 3, 3, 3), "bias": random(4)}
    inputs = {name: chainer.Variable(a, requires_grad=name in learn.split()) for name, a in arrays.items()}
    found = []
    for engine in ("onednn", "chainer"):
        for v in inputs.values():
            v.cleargrad()
        with cpu_engine.using(engine), chainer.using_config("type_check", False):
            y = F.convolution_2d(*inputs.values(), pad=1)
            y.grad = random(*y.shape, seed=1)
            y.backward()
        found.append({name: v.grad for name, v in inputs.items() if v.grad is not None})
    assert set(found[0]) == set(found[1]) == set(learn.split())
    for name, gradient in found[0].items():
        np.testing.assert_allclose(gradient, found[1][name], rtol=TOLERANCE, atol=TOLERANCE)


@needs_onednn
def test_no_function_node_is_made_for_the_gradients_of_a_convolution(monkeypatch):
    """A fast path that is never taken would pass all other tests."""
    made = []
    monkeypatch.setattr(
        chainer.functions.connection.deconvolution_2d.Deconvolution2DFunction,
        "__init__",
        lambda self, *a, **k: made.append(self),
    )
    case = CONVOLUTIONS[1]
    with cpu_engine.using("onednn"):
        gradients_of_convolution(case, False)
        assert not made
    calls = []
    inner = chainer.FunctionNode.apply
    monkeypatch.setattr(chainer.FunctionNode, "apply", lambda self, x: calls.append(self) or inner(self, x))
    with cpu_engine.using("onednn"), chainer.no_backprop_mode(), chainer.using_config("type_check", False):
        y = F.relu(chainer.Variable(random(1, 2, 5, 6)))
    assert not calls, "Chainer's own apply ran"
    assert y.requires_grad and y.creator is None


@needs_onednn
def test_images_of_different_sizes_are_numpys_to_refuse(monkeypatch):
    monkeypatch.setattr(cpu_arrays, "SMALLEST", 10)
    assert not cpu_arrays.can_concatenate((last(random(2, 3, 4, 9)), last(random(1, 3, 8, 9))))
    with cpu_engine.using("onednn"), chainer.using_config("type_check", False), pytest.raises(ValueError):
        F.concat([last(random(2, 3, 4, 9)), last(random(1, 3, 8, 9))])


@needs_onednn
def test_hooks_and_checks_still_see_every_function():
    x, weights = chainer.Variable(random(1, 2, 5, 6)), chainer.Variable(random(3, 2, 3, 3))
    with cpu_engine.using("onednn"), chainer.using_config("type_check", False):
        hook = chainer.function_hooks.TimerHook()
        with hook:
            F.sum(F.relu(F.convolution_2d(x, weights))).backward()
        names = [name for name, _ in hook.call_history]
    assert {"ReLUGrad2", "Deconvolution2DFunction", "Convolution2DGradW"} <= set(names)
    with cpu_engine.using("onednn"), chainer.no_backprop_mode(), pytest.raises(chainer.utils.type_check.InvalidType):
        F.relu(np.arange(3))


@needs_onednn
def test_unpooling_that_is_not_a_repetition_is_left_to_chainer():
    def function(x):
        return F.unpooling_2d(x, 3, 2)

    assert not took_onednn(function, random(1, 2, 4, 5))
    assert_equal_to_chainer(function, random(1, 2, 4, 5))


@needs_onednn
def test_one_pixel_images():
    assert_equal_to_chainer(POINTWISE["double"], random(1, 2, 1, 1))
    assert_equal_to_chainer(POINTWISE["unpool"], random(1, 2, 1, 1))


@needs_onednn
def test_an_empty_batch_is_chainers():
    with cpu_engine.using("onednn"):
        y = F.relu(F.convolution_2d(np.zeros((0, 2, 5, 5), np.float32), random(3, 2, 3, 3)))
    assert y.shape == (0, 3, 3, 3)


@needs_onednn
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_are_chainers(dtype):
    function = POINTWISE["lrelu"]
    with cpu_engine.using("onednn"):
        y = function(F.convolution_2d(random(1, 2, 5, 6).astype(dtype), random(3, 2, 3, 3).astype(dtype)))
    assert y.dtype == dtype


@needs_onednn
def test_batch_normalization_link_keeps_the_same_running_statistics():
    x = random(2, 4, 5, 7) * 3 + 1
    links = {}
    for engine in ("chainer", "onednn"):
        links[engine] = link = L.BatchNormalization(4)
        with cpu_engine.using(engine):
            link(x)
            link(last(x) + 1)
            with chainer.using_config("train", False), chainer.no_backprop_mode():
                links[engine + " test"] = link(x).array
            with chainer.using_config("train", False):
                links[engine + " test graph"] = link(x).array
    for name in ("avg_mean", "avg_var"):
        np.testing.assert_allclose(vars(links["onednn"])[name], vars(links["chainer"])[name], rtol=1e-5)
    np.testing.assert_allclose(links["onednn test"], links["chainer test"], atol=1e-5)
    np.testing.assert_allclose(links["onednn test graph"], links["chainer test graph"], atol=1e-5)


@pytest.mark.parametrize("decay", [0, 1e-2])
@pytest.mark.parametrize("engine", ["numpy", pytest.param("onednn", marks=needs_onednn)])
def test_adam(engine, decay, monkeypatch):
    """NumPy gives what Chainer gives to the last bit; oneDNN does so for the moments, and rounds the weights."""
    monkeypatch.setattr(steps, "PIECE", 1000)
    monkeypatch.setattr(steps, "SMALLEST", 1000)  # the bias has fewer
    links = {}
    for name in ("chainer", engine):
        links[name] = link = L.Linear(301, 223, initialW=random(223, 301), initial_bias=random(223))
        optimizer = chainer.optimizers.Adam(alpha=1e-3, beta1=0.1, weight_decay_rate=decay, eta=0.7).setup(link)
        with cpu_engine.using(name):
            for i in range(3):
                for param in link.params():
                    param.grad = random(*param.shape, seed=i)
                optimizer.update()
    expected, found = links.values()
    for key in ("m", "v"):
        np.testing.assert_array_equal(expected.W.update_rule.state[key], found.W.update_rule.state[key])
    np.testing.assert_array_equal(expected.b.array, found.b.array)
    assert not np.array_equal(found.W.array, random(223, 301))
    np.testing.assert_allclose(found.W.array, expected.W.array, rtol=0 if engine == "numpy" else 1e-6, atol=1e-9)


@needs_onednn
def test_what_onednn_has_no_quick_code_for_is_numpys(monkeypatch):
    monkeypatch.setattr(steps, "SMALLEST", 10)
    monkeypatch.setattr(cpu_arrays, "SMALLEST_SUM", 10)
    links, ran = [], []
    run, call = onednn.Primitive.run, onednn.Library._call

    def refused(self, name, *arguments):
        if "append" in name or "binary" in name:
            raise onednn.OnednnError(name)
        call(self, name, *arguments)

    monkeypatch.setattr(onednn.Primitive, "run", lambda self, *addresses: ran.append(1) or run(self, *addresses))
    for refuses in (None, "implementation", "_call"):
        links.append(link := L.Linear(7, 5, nobias=True, initialW=random(5, 7)))
        optimizer = chainer.optimizers.Adam().setup(link)
        steps._plans.cache_clear()
        if refuses == "implementation":
            monkeypatch.setattr(onednn.Library, refuses, lambda self, descriptor: "ref:any")
        elif refuses == "_call":
            monkeypatch.setattr(onednn.Library, refuses, refused)
        with cpu_engine.using("onednn"):
            link.W.grad = random(5, 7)
            optimizer.update()
            cpu_arrays._addition.cache_clear()
            total = link.W + link.W
        np.testing.assert_array_equal(total.array, 2 * link.W.array)
        assert len(ran) == 3 + 1
    steps._plans.cache_clear()
    cpu_arrays._addition.cache_clear()
    np.testing.assert_allclose(links[0].W.array, links[1].W.array, rtol=1e-6)
    np.testing.assert_array_equal(links[1].W.array, links[2].W.array)


@needs_onednn
def test_the_same_run_gives_the_same_bits():
    def run():
        x, w, b = random(2, 8, 19, 17), random(12, 8, 3, 3), random(12)
        return outcome(
            lambda *a: F.leaky_relu(F.resize_images(F.convolution_2d(*a, pad=1), (38, 34))), (x, w, b), "onednn"
        )

    for a, b in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cover_all", [False, True])
@pytest.mark.parametrize("case", [case for case in CONVOLUTIONS if case[-1] == 1], ids=str)
def test_numpy_in_bands(case, cover_all, monkeypatch):
    n, in_ch, out_ch, h, w, ksize, stride, pad, dilate, _ = case
    monkeypatch.setattr(chunked_convolution, "BAND", 3 * in_ch * ksize[0] * ksize[1] * w)

    def function(x, weights, bias):
        return F.convolution_2d(x, weights, bias, stride, pad, cover_all=cover_all, dilate=dilate)

    arrays = random(n, in_ch, h, w), random(out_ch, in_ch, *ksize), random(out_ch)
    assert_equal_to_chainer(function, *arrays, engine="numpy")


def test_numpy_in_bands_in_double_precision_and_transposed():
    def function(x, weights, bias):
        return F.deconvolution_2d(x, weights, bias, 2, 1, outsize=(10, 14))

    arrays = [a.astype(np.float64) for a in (random(2, 4, 5, 7), random(4, 3, 3, 3), random(3))]
    assert_equal_to_chainer(function, *arrays, engine="numpy")


def test_bands_bound_the_memory():
    """An image of 256 x 256, 16 channels, 7 x 7: unfolded at once 205 MB in float32, in bands 4 MB."""
    x, weights = random(1, 16, 256, 256), random(1, 16, 7, 7)
    with cpu_engine.using("numpy"):
        tracemalloc.start()
        F.convolution_2d(x, weights, pad=3)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 30e6
