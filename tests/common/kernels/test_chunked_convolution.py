"""Convolutions in chunks against Chainer's own, on NumPy: the same code runs on CuPy."""

import tracemalloc

import numpy as np
import pytest

from medi2i.common.compat import F, chainer
from medi2i.common.kernels import chunked_convolution, cpu_engine
from medi2i.common.kernels.chunked_convolution import Geometry

LAYERS = {
    "3x3": dict(x=(2, 3, 7, 10), w=(4, 3, 3, 3), stride=(1, 1), pad=(1, 1)),
    "stride": dict(x=(3, 2, 9, 8), w=(5, 2, 4, 4), stride=(2, 2), pad=(1, 1)),
    "stops short": dict(x=(1, 2, 8, 11), w=(3, 2, 3, 3), stride=(2, 3), pad=(0, 0)),
    "dilated": dict(x=(2, 2, 11, 9), w=(3, 2, 3, 2), stride=(1, 2), pad=(2, 1), dilate=(2, 3)),
    "groups": dict(x=(3, 6, 6, 7), w=(4, 3, 3, 3), stride=(1, 1), pad=(1, 1), groups=2),
    "depthwise": dict(x=(2, 3, 5, 6), w=(3, 1, 3, 3), stride=(2, 1), pad=(1, 1), groups=3),
    "padded past its rows": dict(x=(1, 1, 2, 3), w=(2, 1, 7, 7), stride=(1, 1), pad=(6, 6)),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    made = {"dilate": (1, 1), "groups": 1, **LAYERS[request.param]}
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(made[name]) for name in "xw")
    b = rng.standard_normal(len(w))
    settings = {name: made[name] for name in ("stride", "pad", "dilate", "groups")}
    with cpu_engine.using("chainer"):
        y = F.convolution_2d(chainer.Variable(x), w, b, **settings)
    geometry = Geometry(x.shape, y.shape, w.shape, made["stride"], made["pad"], made["dilate"], made["groups"])
    return x, w, b, y.array, rng.standard_normal(y.shape), settings, geometry


@pytest.mark.parametrize("limit", [1, 200, 1000, 1 << 26])
def test_equal_to_chainer_for_every_size_of_chunk(layer, limit):
    x, w, b, y, gy, settings, geometry = layer
    with cpu_engine.using("chainer"):
        vx, vw = chainer.Variable(x), chainer.Variable(w)
        out = F.convolution_2d(vx, vw, b, **settings)
        out.grad = gy
        out.backward()
    close = dict(rtol=0, atol=1e-12)
    np.testing.assert_allclose(chunked_convolution.forward(x, w, b, geometry, limit), y, **close)
    np.testing.assert_allclose(chunked_convolution.backward_data(gy, w, geometry, limit), vx.grad, **close)
    np.testing.assert_allclose(chunked_convolution.backward_weights(x, gy, geometry, limit), vw.grad, **close)


def test_cover_all():
    x, w = np.arange(2 * 8 * 8.0).reshape(1, 2, 8, 8), np.ones((1, 2, 3, 3))
    with cpu_engine.using("chainer"):
        y = F.convolution_2d(x, w, stride=2, cover_all=True).array
    geometry = Geometry(x.shape, y.shape, w.shape, (2, 2), (0, 0), (1, 1), 1)
    np.testing.assert_array_equal(chunked_convolution.forward(x, w, None, geometry), y)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_chunks_of_the_large_layer_are_bounded_and_complete(batch):
    geometry = Geometry((batch, 64, 512, 512), (batch, 1, 512, 512), (1, 64, 7, 7), (1, 1), (3, 3), (1, 1), 1)
    pieces = chunked_convolution.chunks(geometry)
    sizes = [(last - first) * (stop - start) * 64 * 7 * 7 * 512 for first, last, start, stop in pieces]
    assert max(sizes) * 4 <= 256 << 20  # bytes; all of it would be batch x 3.3e9
    assert max(sizes) < 2**31
    assert batch * 64 * 7 * 7 * 512 * 512 > (2**31 if batch >= 3 else 0)
    seen = np.zeros((batch, 512), int)
    for first, last, start, stop in pieces:
        seen[first:last, start:stop] += 1
    assert (seen == 1).all()


def test_whole_samples_share_a_chunk_where_they_fit():
    geometry = Geometry((5, 2, 4, 4), (5, 3, 4, 4), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    assert chunked_convolution.chunks(geometry, 2 * 2 * 9 * 16) == [(0, 2, 0, 4), (2, 4, 0, 4), (4, 5, 0, 4)]


@pytest.mark.parametrize("way", ["forward", "backward_data", "backward_weights"])
def test_memory_in_use_is_that_of_a_chunk(way):
    geometry = Geometry((2, 8, 40, 41), (2, 3, 40, 41), (3, 8, 7, 7), (1, 1), (3, 3), (1, 1), 1)
    x, y, w = (np.ones(shape, np.float32) for shape in (geometry.shape, geometry.out_shape, geometry.weights))
    arguments = {"forward": (x, w, None), "backward_data": (y, w), "backward_weights": (x, y)}[way]
    limit = 1 << 16
    tracemalloc.start()
    try:
        getattr(chunked_convolution, way)(*arguments, geometry, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = 2 * 8 * 49 * 40 * 41 * 4
    assert peak < 2 * limit * 4 + 4 * x.nbytes < whole / 3


def test_float16_sums_of_weights_are_kept_in_float32():
    geometry = Geometry((1, 1, 64, 64), (1, 1, 64, 64), (1, 1, 1, 1), (1, 1), (0, 0), (1, 1), 1)
    x = np.full(geometry.shape, 0.578125, np.float16)
    gw = chunked_convolution.backward_weights(x, np.ones_like(x), geometry, limit=64)
    assert gw.dtype == np.float16 and gw.item() == 2368.0  # 64 x 37; summed in float16 it would be 2360
