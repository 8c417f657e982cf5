"""Sums, products of matrices and concatenation of float32 arrays on all threads, where NumPy would use one or its BLAS.

The BLAS in NumPy's wheels keeps its threads, and waits actively for a while after each product: on few cores its idle
threads take those of oneDNN's. And what NumPy does on one thread leaves the others idle between convolutions on all.
"""

import functools
from collections.abc import Sequence

import numpy as np

from medi2i.common.kernels.cpu import onednn, threads
from medi2i.common.kernels.cpu.layout import PLANS, empty_images

SMALLEST = 1 << 17  # numbers that are worth copying on another thread
SMALLEST_SUM = 1 << 14

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

    threads.spread(copy, n * h, max(1, SMALLEST * n * h // y.size))
    return y
