"""Concatenation of float32 images (N, C, H, W), channels last, and addition of any float32 arrays, on all threads.

NumPy does both on one; what they cost next to convolutions on two is twice what it is on one.
"""
import functools

import numpy

from medi2i.common.kernels.cpu import onednn, threads
from medi2i.common.kernels.cpu.layout import PLANS, empty_images

SMALLEST = 1 << 17  # numbers that are worth copying on another thread
SMALLEST_SUM = 1 << 14


def takes(arrays):
    """Whether ``arrays`` are large enough, of one size, and lie in memory as is expected here."""
    n, _, *size = arrays[0].shape
    return arrays[0].size >= 2 * SMALLEST and all(
        len(x) == n and list(x.shape[2:]) == size and x.transpose(0, 2, 3, 1).flags.c_contiguous for x in arrays)


def concatenate(arrays):
    """Join along the channels."""
    n, _, h, w = arrays[0].shape
    edges = numpy.cumsum([0, *(x.shape[1] for x in arrays)]).tolist()
    y = empty_images((n, edges[-1], h, w))
    lines = [x.transpose(0, 2, 3, 1).reshape(n * h, w, -1) for x in arrays]
    target = y.transpose(0, 2, 3, 1).reshape(n * h, w, -1)

    def copy(start, stop):
        for x, first, last in zip(lines, edges, edges[1:], strict=False):
            target[start:stop, :, first:last] = x[start:stop]

    threads.spread(copy, n * h, max(1, SMALLEST * n * h // y.size))
    return y


@functools.lru_cache(PLANS)
def _addition(size):
    dnnl = onednn.library()
    return dnnl.binary(onednn.BINARY_ADD, dnnl.descriptor((size,), (1,)))


def can_add(a, b):
    """Whether two float32 arrays have one shape, lie in memory alike without gaps, and are worth more than a thread."""
    return a.size >= SMALLEST_SUM and a.shape == b.shape and a.strides == b.strides and (
        a.flags.c_contiguous or (a.ndim == 4 and a.transpose(0, 2, 3, 1).flags.c_contiguous))


def add(a, b):
    """a + b, in memory as they are."""
    y = numpy.empty_like(a)
    addition = _addition(a.size)
    if addition is None:
        return numpy.add(a, b, out=y)
    with onednn.library().lock:
        addition.run(a.ctypes.data, b.ctypes.data, y.ctypes.data)
    return y
