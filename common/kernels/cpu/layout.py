"""Images (N, C, H, W) in name and (N, H, W, C) in memory: "channels last".

That is what Chainer's own convolution returns on the CPU, NumPy keeps it through every pointwise function, and of the
layouts tried it is the quickest for nearly every layer of these networks: no copies between layers. Every replacement
of Chainer's functions returns it, and takes any layout.
"""
import functools

import numpy

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.geometry import first_strides, last_strides

PLANS = 1024


def empty_images(shape):
    """Uninitialised float32 (N, C, H, W), channels last in memory."""
    n, c, h, w = shape
    return numpy.empty((n, h, w, c), numpy.float32).transpose(0, 3, 1, 2)


def channels_last(x):
    """``x`` itself if its channels are last in memory and dense, else a copy that has them so."""
    moved = x.transpose(0, 2, 3, 1)
    if moved.flags.c_contiguous:
        return x
    if x.flags.c_contiguous and 0 not in x.shape:
        y = empty_images(x.shape)
        dnnl = onednn.library()
        reorder = _to_channels_last(x.shape)
        with dnnl.lock:
            reorder.run(x.ctypes.data, y.ctypes.data)
        return y
    return numpy.ascontiguousarray(moved).transpose(0, 3, 1, 2)


@functools.lru_cache(PLANS)
def _to_channels_last(shape):
    dnnl = onednn.library()
    return dnnl.reorder(dnnl.descriptor(shape, first_strides(shape)), dnnl.descriptor(shape, last_strides(shape)))


def plain_float32(*arrays):
    """Whether all are NumPy float32: neither another precision nor another library's arrays."""
    return all(type(a) is numpy.ndarray and a.dtype == numpy.float32 for a in arrays)
