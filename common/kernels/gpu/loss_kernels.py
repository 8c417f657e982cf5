"""Losses on neighbouring pixels and on a discriminator's answer on a GPU, each as value and gradient.

The twin is :mod:`medi2i.common.kernels.reference`. Values are float32 arrays () on the device, also for float16
images; nothing waits for the device. Sums are made block by block in a fixed order: same input, same bits.
"""

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels.gpu.sources import BLOCK_SUM, CudaSource

BLOCK = 256
BLOCKS = 1024
DTYPES = ("float32", "float16")

# A pixel stands for its differences to the next row and the next column. With ``root`` only pixels that have both
# count, with the root of the sum of the squares and tau2; else both count by themselves.
_PIXEL = """
struct Images {
    const T* y;
    int height, width, root;
    A tau2;
    __device__ A down(long long k) const { return (A)y[k + width] - (A)y[k]; }
    __device__ A right(long long k) const { return (A)y[k + 1] - (A)y[k]; }
    __device__ A length(long long k) const {
        const A d = down(k), r = right(k);
        return sqrt(d * d + r * r + tau2);
    }
};
__device__ A sign(A v) { return (A)((v > 0) - (v < 0)); }
__device__ A over(A v, A length) { return length > 0 ? v / length : (A)0; }
"""

_VARIATION = CudaSource(
    "variation",
    "raw",
    r"""
extern "C" __global__ void variation(const T* y, A* parts, A tau2, A weight_down, A weight_right, long long count,
                                     int height, int width, int root) {
    __shared__ A shared[256];
    const Images at = {y, height, width, root, tau2};
    A sum = 0;
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < count;
         k += (long long)gridDim.x * blockDim.x) {
        const int w = (int)(k % width), h = (int)(k / width % height);
        if (root) {
            if (h + 1 < height && w + 1 < width) sum += at.length(k) * weight_down;
        } else {
            if (h + 1 < height) sum += fabs(at.down(k)) * weight_down;
            if (w + 1 < width) sum += fabs(at.right(k)) * weight_right;
        }
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
""",
    preamble=BLOCK_SUM + _PIXEL,
    dtypes=DTYPES,
)

_VARIATION_GRADIENT = CudaSource(
    "variation_gradient",
    "raw",
    r"""
extern "C" __global__ void variation_gradient(const T* y, const A* g, T* gy, A tau2, A weight_down, A weight_right,
                                              long long count, int height, int width, int root) {
    const Images at = {y, height, width, root, tau2};
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < count;
         k += (long long)gridDim.x * blockDim.x) {
        const int w = (int)(k % width), h = (int)(k / width % height);
        const bool below = h + 1 < height, after = w + 1 < width;
        A sum = 0;
        if (root) {
            if (below && after) sum -= over(at.down(k) + at.right(k), at.length(k));
            if (h > 0 && after) sum += over(at.down(k - width), at.length(k - width));
            if (w > 0 && below) sum += over(at.right(k - 1), at.length(k - 1));
            sum *= weight_down;
        } else {
            if (below) sum -= sign(at.down(k)) * weight_down;
            if (h > 0) sum += sign(at.down(k - width)) * weight_down;
            if (after) sum -= sign(at.right(k)) * weight_right;
            if (w > 0) sum += sign(at.right(k - 1)) * weight_right;
        }
        gy[k] = (T)(sum * g[0]);
    }
}
""",
    preamble=_PIXEL,
    dtypes=DTYPES,
)

_SUM = CudaSource(
    "sum_of_parts",
    "raw",
    r"""
extern "C" __global__ void sum_of_parts(const A* parts, A* sum, int count) {
    __shared__ A shared[256];
    A own = 0;
    for (int k = threadIdx.x; k < count; k += blockDim.x) own += parts[k];
    own = block_sum(own, shared);
    if (threadIdx.x == 0) sum[0] = own;
}
""",
    preamble=BLOCK_SUM,
)

_LEAST_SQUARES = CudaSource(
    "least_squares",
    "reduction",
    in_params="T d, float32 target, float32 weight",
    out_params="float32 loss",
    operation="((float)d - target) * ((float)d - target) * weight",
    dtypes=DTYPES,
)

_LEAST_SQUARES_GRADIENT = CudaSource(
    "least_squares_gradient",
    "elementwise",
    in_params="T d, float32 g, float32 target, float32 weight",
    out_params="T gd",
    operation="gd = T(2 * ((float)d - target) * weight * g);",
    dtypes=DTYPES,
)


def variation(y: Array, tau: float | None) -> Array:
    """See :func:`medi2i.common.kernels.reference.variation`."""
    xp = chainer.backend.get_array_module(y)
    y, blocks = xp.ascontiguousarray(y), _blocks(y)
    parts, loss = xp.empty(blocks, np.float32), xp.empty((), np.float32)
    _VARIATION.launch((blocks,), (BLOCK,), (y, parts, *_numbers(y, tau)), y.dtype)
    _SUM.launch((1,), (BLOCK,), (parts, loss, np.int32(blocks)), np.float32)
    return loss


def variation_gradient(y: Array, tau: float | None, g: Array) -> Array:
    """See :func:`medi2i.common.kernels.reference.variation_gradient`; g is an array ()."""
    xp = chainer.backend.get_array_module(y)
    y = xp.ascontiguousarray(y)
    gy = xp.empty(y.shape, y.dtype)
    _VARIATION_GRADIENT.launch(
        (_blocks(y),), (BLOCK,), (y, g.astype(np.float32, copy=False), gy, *_numbers(y, tau)), y.dtype
    )
    return gy


def least_squares(d: Array, target: float) -> Array:
    """See :func:`medi2i.common.kernels.reference.least_squares`."""
    return _LEAST_SQUARES(d, np.float32(target), np.float32(1.0 / d.size))


def least_squares_gradient(d: Array, target: float, g: Array) -> Array:
    """See :func:`medi2i.common.kernels.reference.least_squares_gradient`; g is an array ()."""
    return _LEAST_SQUARES_GRADIENT(d, g.astype(np.float32, copy=False), np.float32(target), np.float32(1.0 / d.size))


def _numbers(y: Array, tau: float | None) -> tuple[np.generic, ...]:
    """The last arguments of both kernels: tau2 and weights, the count, the sizes, whether there is a root."""
    n, c, height, width = y.shape
    down, right = n * c * (height - 1) * width, n * c * height * (width - 1)
    if tau is not None:
        down = n * c * (height - 1) * (width - 1)
    weights = (np.float32(v) for v in (0.0 if tau is None else tau * tau, 1.0 / down, 1.0 / right))
    return *weights, np.int64(y.size), np.int32(height), np.int32(width), np.int32(tau is not None)


def _blocks(y: Array) -> int:
    return min(BLOCKS, -(-y.size // BLOCK))
