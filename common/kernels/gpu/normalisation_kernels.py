"""Normalisation with (leaky) ReLU on a GPU; the twin is :mod:`medi2i.common.kernels.reference`.

Images are dense (N, C, H, W). A plane is one channel of one image; it is cut into slices, one block of threads each.
Statistics come slice by slice as mean and sum of squared deviations, which are then merged (Chan, Golub, LeVeque,
1983): nothing is subtracted that is large beside the result, and the order of all sums is fixed, so that the same
input gives the same bits. Float16 images have float32 statistics.
"""

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels.gpu.sources import BLOCK_SUM, CudaSource

BLOCK = 256
SLICE = 4096
DTYPES = ("float32", "float16", "float64")

_COMMON = (
    BLOCK_SUM
    + """
__device__ void merge(A& count, A& mean, A& squares, A count2, A mean2, A squares2) {
    if (count2 == 0) return;
    const A total = count + count2;
    const A apart = mean2 - mean;
    mean += apart * (count2 / total);
    squares += squares2 + apart * apart * (count * count2 / total);
    count = total;
}
// Which pixels this block has, of which plane, and what they are normalised by.
struct Place {
    long long first, begin, end;
    int channel, group;
    __device__ Place(long long pixels, long long length, int slices, int channels, int each) {
        const long long plane = blockIdx.x / slices;
        first = plane * pixels;
        begin = blockIdx.x % slices * length;
        end = begin + length < pixels ? begin + length : pixels;
        channel = (int)(plane % channels);
        group = each ? (int)plane : channel;
    }
};
"""
)

_MOMENTS = CudaSource(
    "norm_moments",
    "raw",
    r"""
extern "C" __global__ void norm_moments(const T* x, A* mean, A* squares, long long pixels, long long length,
                                        int slices) {
    __shared__ A shared[256];
    const Place at(pixels, length, slices, 1, 1);
    x += at.first;
    A sum = 0;
    for (long long i = at.begin + threadIdx.x; i < at.end; i += blockDim.x) sum += (A)x[i];
    const A average = block_sum(sum, shared) / (A)(at.end - at.begin);
    sum = 0;
    for (long long i = at.begin + threadIdx.x; i < at.end; i += blockDim.x) {
        const A apart = (A)x[i] - average;
        sum += apart * apart;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = average;
        squares[blockIdx.x] = sum;
    }
}
""",
    preamble=_COMMON,
    dtypes=DTYPES,
)

# One block a group; its slices are those of ``images`` planes that lie ``channels`` planes apart.
_COMBINE = CudaSource(
    "norm_combine",
    "raw",
    r"""
extern "C" __global__ void norm_combine(const A* slice_mean, const A* slice_squares, A* mean, A* variance, A* inv_std,
                                        A eps, long long pixels, long long length, int slices, int images,
                                        int channels) {
    __shared__ A counts[256], means[256], sums[256];
    const unsigned t = threadIdx.x;
    A count = 0, average = 0, squares = 0;
    for (int k = t; k < images * slices; k += blockDim.x) {
        const int s = k % slices;
        const long long from = ((long long)(k / slices) * channels + blockIdx.x) * slices + s;
        const long long left = pixels - s * length;
        merge(count, average, squares, (A)(left < length ? left : length), slice_mean[from], slice_squares[from]);
    }
    counts[t] = count;
    means[t] = average;
    sums[t] = squares;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) merge(counts[t], means[t], sums[t], counts[t + half], means[t + half], sums[t + half]);
        __syncthreads();
    }
    if (t == 0) {
        mean[blockIdx.x] = means[0];
        variance[blockIdx.x] = sums[0] / counts[0];
        inv_std[blockIdx.x] = (A)1 / (A)sqrt(sums[0] / counts[0] + eps);
    }
}
""",
    preamble=_COMMON,
    dtypes=DTYPES,
)

_APPLY = CudaSource(
    "norm_apply",
    "raw",
    r"""
extern "C" __global__ void norm_apply(const T* x, const A* mean, const A* inv_std, const A* gamma, const A* beta, T* y,
                                      A slope, long long pixels, long long length, int slices, int channels, int each,
                                      int affine) {
    const Place at(pixels, length, slices, channels, each);
    const A average = mean[at.group], scale = inv_std[at.group];
    const A factor = affine ? gamma[at.channel] : (A)1, shift = affine ? beta[at.channel] : (A)0;
    for (long long i = at.first + at.begin + threadIdx.x; i < at.first + at.end; i += blockDim.x) {
        const A v = ((A)x[i] - average) * scale * factor + shift;
        y[i] = (T)(v > 0 ? v : slope * v);
    }
}
""",
    preamble=_COMMON,
    dtypes=DTYPES,
)

_SUMS = CudaSource(
    "norm_gradient_sums",
    "raw",
    r"""
extern "C" __global__ void norm_gradient_sums(const T* x, const T* gy, const A* mean, const A* inv_std, const A* gamma,
                                              const A* beta, A* with_x, A* plain, A slope, long long pixels,
                                              long long length, int slices, int channels, int each, int affine) {
    __shared__ A shared[256];
    const Place at(pixels, length, slices, channels, each);
    const A average = mean[at.group], scale = inv_std[at.group];
    const A factor = affine ? gamma[at.channel] : (A)1, shift = affine ? beta[at.channel] : (A)0;
    A product = 0, sum = 0;
    for (long long i = at.first + at.begin + threadIdx.x; i < at.first + at.end; i += blockDim.x) {
        const A normal = ((A)x[i] - average) * scale;
        const A g = normal * factor + shift > 0 ? (A)gy[i] : slope * (A)gy[i];
        product += g * normal;
        sum += g;
    }
    product = block_sum(product, shared);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        with_x[blockIdx.x] = product;
        plain[blockIdx.x] = sum;
    }
}
""",
    preamble=_COMMON,
    dtypes=DTYPES,
)

_COMBINE_SUMS = CudaSource(
    "norm_combine_sums",
    "raw",
    r"""
extern "C" __global__ void norm_combine_sums(const A* slice_with_x, const A* slice_plain, A* with_x, A* plain,
                                             int slices, int images, int channels) {
    __shared__ A shared[256];
    A product = 0, sum = 0;
    for (int k = threadIdx.x; k < images * slices; k += blockDim.x) {
        const long long from = ((long long)(k / slices) * channels + blockIdx.x) * slices + k % slices;
        product += slice_with_x[from];
        sum += slice_plain[from];
    }
    product = block_sum(product, shared);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        with_x[blockIdx.x] = product;
        plain[blockIdx.x] = sum;
    }
}
""",
    preamble=_COMMON,
    dtypes=DTYPES,
)

# With fixed statistics inv_count is 0: they take nothing of the gradient.
_GRADIENT = CudaSource(
    "norm_gradient",
    "raw",
    r"""
extern "C" __global__ void norm_gradient(const T* x, const T* gy, const A* mean, const A* inv_std, const A* gamma,
                                         const A* beta, const A* with_x, const A* plain, T* gx, A slope, A inv_count,
                                         long long pixels, long long length, int slices, int channels, int each,
                                         int affine) {
    const Place at(pixels, length, slices, channels, each);
    const A average = mean[at.group], scale = inv_std[at.group];
    const A factor = affine ? gamma[at.channel] : (A)1, shift = affine ? beta[at.channel] : (A)0;
    const A product = with_x[at.group] * inv_count, sum = plain[at.group] * inv_count;
    for (long long i = at.first + at.begin + threadIdx.x; i < at.first + at.end; i += blockDim.x) {
        const A normal = ((A)x[i] - average) * scale;
        const A g = normal * factor + shift > 0 ? (A)gy[i] : slope * (A)gy[i];
        gx[i] = (T)(factor * scale * (g - (normal * product + sum)));
    }
}
""",
    preamble=_COMMON,
    dtypes=DTYPES,
)

_RUNNING = CudaSource(
    "running_statistics",
    "elementwise",
    in_params="T new_mean, T new_variance, float64 decay, float64 adjust",
    out_params="T mean, T variance",
    operation="""
    mean = T(mean * decay + new_mean * (1 - decay));
    variance = T(variance * decay + new_variance * (1 - decay) * adjust);
""",
)


class _Grid:
    """How images of ``shape`` are cut, and the last arguments that say so."""

    def __init__(self, shape: tuple[int, ...], each: bool) -> None:
        self.n, self.channels, height, width = shape
        self.pixels = height * width
        self.length = min(SLICE, self.pixels)
        self.slices = -(-self.pixels // self.length)
        self.blocks = self.n * self.channels * self.slices
        self.each = each
        self.images = 1 if each else self.n
        self.group_shape = (self.n if each else 1, self.channels, 1, 1)
        self.cut = (np.int64(self.pixels), np.int64(self.length), np.int32(self.slices))
        self.groups = self.n * self.channels if each else self.channels
        # The planes of a group lie this far apart; with one plane a group nothing is added to its own place.
        self.members = (np.int32(self.slices), np.int32(self.images), np.int32(self.channels))

    def place(self, affine: bool) -> tuple[np.generic, ...]:
        return *self.cut, np.int32(self.channels), np.int32(self.each), np.int32(affine)


def _affine(gamma: Array | None, beta: Array | None, stand_in: Array) -> tuple[Array, Array]:
    """gamma and beta in the accumulators' dtype; an array that is never read where there are none."""
    if gamma is None or beta is None:
        return stand_in, stand_in
    return gamma.astype(stand_in.dtype, copy=False), beta.astype(stand_in.dtype, copy=False)


def forward(
    x: Array, gamma: Array | None, beta: Array | None, eps: float, slope: float, each: bool
) -> tuple[Array, Array, Array, Array]:
    """See :func:`medi2i.common.kernels.reference.forward`."""
    xp = chainer.backend.get_array_module(x)
    x = xp.ascontiguousarray(x)
    grid, dtype = _Grid(x.shape, each), np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    parts = xp.empty(grid.blocks, dtype), xp.empty(grid.blocks, dtype)
    _MOMENTS.launch((grid.blocks,), (BLOCK,), (x, *parts, *grid.cut), x.dtype)
    mean, variance, inv_std = (xp.empty(grid.group_shape, dtype) for _ in range(3))
    _COMBINE.launch(
        (grid.groups,),
        (BLOCK,),
        (*parts, mean, variance, inv_std, dtype.type(eps), *grid.cut[:2], *grid.members),
        x.dtype,
    )
    return apply(x, gamma, beta, mean, inv_std, slope), mean, variance, inv_std


def apply(x: Array, gamma: Array | None, beta: Array | None, mean: Array, inv_std: Array, slope: float) -> Array:
    """See :func:`medi2i.common.kernels.reference.apply`."""
    xp = chainer.backend.get_array_module(x)
    x = xp.ascontiguousarray(x)
    grid = _Grid(x.shape, len(mean) > 1)
    y = xp.empty(x.shape, x.dtype)
    _APPLY.launch(
        (grid.blocks,),
        (BLOCK,),
        (x, mean, inv_std, *_affine(gamma, beta, mean), y, mean.dtype.type(slope), *grid.place(gamma is not None)),
        x.dtype,
    )
    return y


def backward(
    x: Array, gamma: Array | None, beta: Array | None, mean: Array, inv_std: Array, gy: Array, slope: float, fixed: bool
) -> tuple[Array, Array, Array]:
    """See :func:`medi2i.common.kernels.reference.backward`."""
    xp = chainer.backend.get_array_module(x)
    x, gy = xp.ascontiguousarray(x), xp.ascontiguousarray(gy.astype(x.dtype, copy=False))
    grid, dtype = _Grid(x.shape, len(mean) > 1), mean.dtype
    channels, place = _affine(gamma, beta, mean), grid.place(gamma is not None)
    parts = xp.empty(grid.blocks, dtype), xp.empty(grid.blocks, dtype)
    _SUMS.launch(
        (grid.blocks,), (BLOCK,), (x, gy, mean, inv_std, *channels, *parts, dtype.type(slope), *place), x.dtype
    )
    sums = xp.empty(grid.group_shape, dtype), xp.empty(grid.group_shape, dtype)
    _COMBINE_SUMS.launch((grid.groups,), (BLOCK,), (*parts, *sums, *grid.members), x.dtype)
    gx = xp.empty(x.shape, x.dtype)
    inv_count = dtype.type(0.0 if fixed else 1.0 / (grid.images * grid.pixels))
    _GRADIENT.launch(
        (grid.blocks,),
        (BLOCK,),
        (x, gy, mean, inv_std, *channels, *sums, gx, dtype.type(slope), inv_count, *place),
        x.dtype,
    )
    return gx, *sums


def update_running(
    running_mean: Array, running_variance: Array, mean: Array, variance: Array, decay: float, adjust: float
) -> None:
    """See :func:`medi2i.common.kernels.reference.update_running`."""
    _RUNNING(
        mean.reshape(-1).astype(running_mean.dtype, copy=False),
        variance.reshape(-1).astype(running_mean.dtype, copy=False),
        np.float64(decay),
        np.float64(adjust),
        running_mean,
        running_variance,
    )
