"""Images (N, C, H, W) in name and (N, H, W, C) in memory: "channels last".

That is what Chainer's own convolution returns on the CPU, NumPy keeps it through every pointwise function, and of the
layouts tried it is the quickest for nearly every layer of these networks: no copies between layers. Every replacement
of Chainer's functions returns it, and takes any layout.
"""

import functools

import numpy as np

from medi2i.common.compat import Array
from medi2i.common.kernels.cpu import onednn

PLANS = 1024


def empty_images(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised float32 (N, C, H, W), channels last in memory."""
    n, c, h, w = shape
    return np.empty((n, h, w, c), np.float32).transpose(0, 3, 1, 2)


def channels_last(x: np.ndarray) -> np.ndarray:
    """``x`` itself if its channels are last in memory and dense, else a copy that has them so."""
    moved = x.transpose(0, 2, 3, 1)
    if moved.flags.c_contiguous:
        return x
    if x.flags.c_contiguous and 0 not in x.shape:
        y = empty_images(x.shape)
        _to_channels_last(x.shape)(x, y)
        return y
    return np.ascontiguousarray(moved).transpose(0, 3, 1, 2)


def dense(x: np.ndarray) -> np.ndarray:
    """``x`` if it fills its memory in one of the two layouts, else a copy that does."""
    if x.flags.c_contiguous:
        return x
    return channels_last(x) if x.ndim == 4 else np.ascontiguousarray(x)


@functools.lru_cache(PLANS)
def _to_channels_last(shape: tuple[int, ...]) -> onednn.Primitive:
    dnnl = onednn.loaded()
    return dnnl.reorder(dnnl.dense(shape), dnnl.images(shape))


def plain_float32(*arrays: Array | None) -> bool:
    """Whether all are NumPy float32: neither another precision nor another library's arrays."""
    return all(type(a) is np.ndarray and a.dtype == np.float32 for a in arrays)


def plain_images(*arrays: Array) -> bool:
    """Whether all are that and images (N, C, H, W) with pixels."""
    return plain_float32(*arrays) and all(a.ndim == 4 and a.size for a in arrays)
