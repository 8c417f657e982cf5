"""Float32 arrays on the CPU: the layout of images, and sums, matrix products and concatenation on all threads.

Images are (N, C, H, W) in name and (N, H, W, C) in memory: "channels last". That is what Chainer's own convolution
returns on the CPU, NumPy keeps it through every pointwise function, and of the layouts tried it is the quickest for
nearly every layer of these networks: no copies between layers. Every replacement of Chainer's functions returns it, and
takes any layout.

The BLAS in NumPy's wheels keeps its threads, and waits actively for a while after each product: on few cores its idle
threads take those of oneDNN's. And what NumPy does on one thread leaves the others idle between convolutions on all.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from medi2i.common.compat import Array
from medi2i.common.kernels.cpu import onednn
from medi2i.common.resources import threads

PLANS = 1024
SMALLEST = 1 << 17  # numbers that are worth copying on another thread
SMALLEST_SUM = 1 << 14


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
    """Images ``x`` if they fill their memory in one of the two layouts, else a copy that does."""
    return x if x.flags.c_contiguous else channels_last(x)


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


Sizes = tuple[tuple[int, ...], ...]


@functools.lru_cache(PLANS)
def product(shapes: Sizes, strides: Sizes) -> onednn.Primitive:
    """To be called with a, b and what becomes a @ b: arrays of these shapes and strides (in elements)."""
    dnnl = onednn.loaded()
    a, b, c = (dnnl.descriptor(shape, apart) for shape, apart in zip(shapes, strides, strict=True))
    return dnnl.primitive("matmul", a, b, None, c, None, of={onednn.SRC: a, onednn.WEIGHTS: b, onednn.DST: c})


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b for float32 matrices (M, K) and (K, N), C-contiguous or the transpose of such. Nothing may be empty."""
    arrays = a, b, np.empty((a.shape[0], b.shape[1]), np.float32)
    product(tuple(x.shape for x in arrays), tuple(tuple(step // 4 for step in x.strides) for x in arrays))(*arrays)
    return arrays[2]


def sum_of_pixels(images: np.ndarray) -> np.ndarray:
    """Sum of (N, C, H, W), channels last, in each channel: (C,). A product with ones is quick, and rounds less."""
    pixels = images.transpose(0, 2, 3, 1).reshape(-1, images.shape[1])
    return matmul(np.ones((1, len(pixels)), np.float32), pixels)[0]


@functools.lru_cache(PLANS)
def _addition(size: int) -> onednn.Primitive | None:
    dnnl = onednn.loaded()
    return dnnl.binary(onednn.BINARY_ADD, dnnl.dense((size,)))


def can_add(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two float32 arrays have one shape, lie in memory alike without gaps, and are worth more than a thread."""
    return (
        a.size >= SMALLEST_SUM
        and a.shape == b.shape
        and a.strides == b.strides
        and (a.flags.c_contiguous or (a.ndim == 4 and a.transpose(0, 2, 3, 1).flags.c_contiguous))
    )


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, in memory as they are."""
    y = np.empty_like(a)
    addition = _addition(a.size)
    if addition is None:
        return np.add(a, b, out=y)
    addition(a, b, y)
    return y


def can_concatenate(arrays: Sequence[np.ndarray]) -> bool:
    """Whether images (N, C, H, W) are large enough, of one size, and all have their channels last in memory."""
    n, _, *size = arrays[0].shape
    return arrays[0].size >= 2 * SMALLEST and all(
        len(x) == n and list(x.shape[2:]) == size and x.transpose(0, 2, 3, 1).flags.c_contiguous for x in arrays
    )


def concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join along the channels."""
    n, _, h, w = arrays[0].shape
    edges = np.cumsum([0, *(x.shape[1] for x in arrays)]).tolist()
    y = empty_images((n, edges[-1], h, w))
    *lines, target = (x.transpose(0, 2, 3, 1).reshape(n * h, w, -1) for x in (*arrays, y))

    def copy(start: int, stop: int) -> None:
        for x, first, last in zip(lines, edges, edges[1:], strict=False):
            target[start:stop, :, first:last] = x[start:stop]

    spread(copy, n * h, max(1, SMALLEST * n * h // y.size))
    return y


@functools.cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    # One of each process: the threads of a pool do not survive a fork.
    return ThreadPoolExecutor(count, thread_name_prefix="medi2i")


def spread(function: Callable[[int, int], None], size: int, smallest: int) -> None:
    """Call ``function(start, stop)`` for parts of range(size), one a thread, each of at least ``smallest``.

    The first is the caller's own, who would have to be woken like the others, and waits for them after it.
    """
    count = min(threads(), max(1, size // smallest))
    edges = [size * i // count for i in range(count + 1)]
    others = _pool(os.getpid(), count - 1).map(function, edges[1:-1], edges[2:]) if count > 1 else ()
    function(0, edges[1])
    for _ in others:
        pass
