"""Clip and scale, augmentation and Gaussian noise where the images are: CUDA kernels, each beside its NumPy twin.

They are the rules of ``datasets.scaling`` and ``datasets.augment``. Twins are what the kernels are tested against; with
NumPy arrays the functions below use them, with CuPy arrays the kernels.
"""

import math
from collections.abc import Sequence

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels.gpu.sources import CudaSource
from medi2i.datasets.augment import Draw, Uncut, corner, quarters, way_back
from medi2i.datasets.scaling import Clip

# Products and sums that are rounded one by one, as NumPy's are; g++ makes no fused ones of them.
_ROUNDED = """
#ifndef __CUDACC__
#define __dadd_rn(a, b) ((a) + (b))
#define __dmul_rn(a, b) ((a) * (b))
#endif
"""
# Random numbers that are a function of a key and a place: the same on CPU and GPU, for any order of drawing, so that a
# resumed run needs no state of them. Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011).
_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)

_PHILOX = """
struct Four { unsigned int a, b, c, d; };
__device__ inline Four philox(unsigned long long place, unsigned long long draw, unsigned long long key) {
    Four v = {(unsigned int)place, (unsigned int)(place >> 32), (unsigned int)draw, (unsigned int)(draw >> 32)};
    unsigned int k0 = (unsigned int)key, k1 = (unsigned int)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const unsigned long long p = 0xD2511F53ull * v.a, q = 0xCD9E8D57ull * v.c;
        const Four next = {(unsigned int)(q >> 32) ^ v.b ^ k0, (unsigned int)q,
                           (unsigned int)(p >> 32) ^ v.d ^ k1, (unsigned int)p};
        v = next;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return v;
}
__device__ inline double unit(unsigned int bits) { return (bits + 0.5) * (1.0 / 4294967296.0); }
"""
STORED = ("uint8", "int16", "uint16", "int32", "float32")

CLIP_SCALE = CudaSource(
    "clip_scale",
    "elementwise",
    dtypes=STORED,
    in_params="T stored, float32 lower, float32 upper, float32 half",
    out_params="float32 y",
    # The operations of Clip.to_unit one by one, each rounded: no fused multiply and add.
    operation="""
        const float value = (float)stored;
        const float clipped = value < lower ? lower : value > upper ? upper : value;
        y = (clipped - lower) / half - 1.0f;
    """,
)

# Pillow's bilinear transform: coordinates of pixel centres at + 0.5, corners beyond the border repeat the border.
AFFINE = CudaSource(
    "affine_gather",
    "elementwise",
    dtypes=("float32",),
    in_params="raw T image, raw float64 matrix, int32 channels, int32 rows, int32 columns, int32 height, "
    "int32 width, float32 outside, bool nearest",
    out_params="T y",
    preamble=_ROUNDED
    + """
__device__ inline int within(int k, int size) { return k < 0 ? 0 : k >= size ? size - 1 : k; }
""",
    operation="""
        const long long plane = i / ((long long)height * width);
        const int row = (int)(i / width % height), column = (int)(i % width);
        const long long m = plane / channels * 6;
        const double v = column + 0.5, w = row + 0.5;
        const double at_x = __dadd_rn(__dadd_rn(__dmul_rn(matrix[m], v), __dmul_rn(matrix[m + 1], w)), matrix[m + 2]);
        const double at_y = __dadd_rn(__dadd_rn(__dmul_rn(matrix[m + 3], v), __dmul_rn(matrix[m + 4], w)),
                                      matrix[m + 5]);
        if (at_x < 0 || at_y < 0 || at_x >= columns || at_y >= rows) {
            y = outside;
        } else {
            const long long first = plane * rows * columns;
            if (nearest) {
                y = image[first + (long long)floor(at_y) * columns + (long long)floor(at_x)];
            } else {
                const double low_x = floor(at_x - 0.5), low_y = floor(at_y - 0.5);
                const double dx = at_x - 0.5 - low_x, dy = at_y - 0.5 - low_y;
                const int x0 = within((int)low_x, columns), x1 = within((int)low_x + 1, columns);
                const long long r0 = first + (long long)within((int)low_y, rows) * columns;
                const long long r1 = first + (long long)within((int)low_y + 1, rows) * columns;
                const double a = image[r0 + x0], b = image[r1 + x0];
                const double top = __dadd_rn(a, __dmul_rn((double)(image[r0 + x1] - image[r0 + x0]), dx));
                const double bottom = __dadd_rn(b, __dmul_rn((double)(image[r1 + x1] - image[r1 + x0]), dx));
                y = (T)__dadd_rn(top, __dmul_rn(bottom - top, dy));
            }
        }
    """,
)

GAUSSIAN = CudaSource(
    "gaussian_noise",
    "elementwise",
    preamble=_PHILOX,
    in_params="float32 x, float32 deviation, uint64 key",
    out_params="float32 y",
    operation="""
        const Four bits = philox((unsigned long long)i, 0, key);  // Box and Muller, 1958
        const double radius = sqrt(-2.0 * log(unit(bits.a)));
        y = x + deviation * (float)(radius * cos(6.283185307179586 * unit(bits.b)));
    """,
)


def clip_scale(stored: Array, clip: Clip) -> Array:
    """What ``clip.to_unit`` makes of an array of one of ``STORED``: float32 of the same shape."""
    if chainer.backend.get_array_module(stored) is np:
        return clip.to_unit(stored)
    if clip.lower is None or clip.upper is None:
        return stored.astype(np.float32)
    return CLIP_SCALE(stored, np.float32(clip.lower), np.float32(clip.upper), np.float32(clip.width / 2))


def matrices(draws: Sequence[Draw], shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """float64 (N, 6): for each ``datasets.augment.Draw`` the way back from a pixel of the result to the image.

    shape: (H, W) of the images; size: (h, w) of what is cut out of them.
    """
    rows = []
    for draw in draws:
        back = way_back(draw, *corner(draw, shape, size), shape)
        # From the turned window (x, y) to the window before it was turned.
        columns, downwards, x1, y1 = _TURNED[quarters(draw, size)]
        x1, y1 = x1 * size[1], y1 * size[0]
        rows.append(
            [
                value
                for a, b, c in (back[:3], back[3:])
                for value in (a * columns[0] + b * downwards[0], a * columns[1] + b * downwards[1], a * x1 + b * y1 + c)
            ]
        )
    return np.array(rows, np.float64).reshape(len(rows), 6)


# By quarter turns counter-clockwise: x = columns · (x', y') + x1 w, y = downwards · (x', y') + y1 h.
_TURNED = (((1, 0), (0, 1), 0, 0), ((0, -1), (1, 0), 1, 0), ((-1, 0), (0, -1), 1, 1), ((0, 1), (-1, 0), 0, 1))


def augment(
    images: Array, draws: Sequence[Draw], size: tuple[int, int], *, nearest: bool = False, outside: float = -1.0
) -> Array:
    """Images (N, C, H, W) float32 in [-1, 1], each changed by its Draw and cut to ``size``: (N, C, h, w).

    The rule of ``datasets.augment.apply``. nearest: no interpolation, for class numbers.
    """
    n, channels, rows, columns = images.shape
    if len(draws) != n:
        raise ValueError(f"{len(draws)} draws for {n} images; each image needs its own")
    xp = chainer.backend.get_array_module(images)
    matrix = matrices(draws, (rows, columns), size)
    if xp is np:
        return np.stack([_gather(image, m, size, nearest, outside) for image, m in zip(images, matrix, strict=True)])
    y = xp.empty((n, channels, *size), np.float32)
    numbers = [np.int32(value) for value in (channels, rows, columns, *size)]
    AFFINE(xp.ascontiguousarray(images), xp.asarray(matrix), *numbers, np.float32(outside), np.bool_(nearest), y)
    return y


def _gather(image: np.ndarray, m: np.ndarray, size: tuple[int, int], nearest: bool, outside: float) -> np.ndarray:
    _, rows, columns = image.shape
    w, v = np.mgrid[: size[0], : size[1]] + 0.5
    at_x, at_y = m[0] * v + m[1] * w + m[2], m[3] * v + m[4] * w + m[5]
    inside = (at_x >= 0) & (at_y >= 0) & (at_x < columns) & (at_y < rows)
    if nearest:
        x, y = (np.floor(np.where(inside, at, 0)).astype(int) for at in (at_x, at_y))
        return np.where(inside, image[:, y, x], np.float32(outside))
    low_x, low_y = np.floor(at_x - 0.5), np.floor(at_y - 0.5)
    dx, dy = at_x - 0.5 - low_x, at_y - 0.5 - low_y
    (x0, x1), (y0, y1) = (
        [np.clip(low + k, 0, count - 1).astype(int) for k in (0, 1)] for low, count in ((low_x, columns), (low_y, rows))
    )
    lines = [image[:, y, x0] + (image[:, y, x1] - image[:, y, x0]).astype(np.float64) * dx for y in (y0, y1)]
    return np.where(inside, (lines[0] + (lines[1] - lines[0]) * dy).astype(np.float32), np.float32(outside))


def finish(values: Array, example: Uncut) -> Array:
    """What the loader would have made of a ``datasets.augment.Uncut`` but for the numbers that noise is made of.

    values: its values where they are to be changed, (C, H, W). Returns (C, h, w) float32 in [-1, 1] on that device,
    (C * class_num, h, w) for classes.
    """
    unit, classes, xp = clip_scale(values, example.clip), example.class_num, chainer.backend.get_array_module(values)
    y = augment(unit[None], [example.draw], example.size, nearest=classes > 0, outside=example.outside)[0]
    if classes:
        one_hot = y[:, None] == xp.arange(classes, dtype=np.float32)[:, None, None]
        return one_hot.reshape(-1, *example.size).astype(np.float32)
    return gaussian(y, example.noise, example.key) if example.noise else y


def gaussian(x: Array, deviation: float, key: int) -> Array:
    """x + N(0, deviation²) float32, in the unit of ``x``. key: below 2^64; the same key gives the same noise."""
    if chainer.backend.get_array_module(x) is not np:
        return GAUSSIAN(x, np.float32(deviation), np.uint64(key))
    a, b, _, _ = philox(np.arange(x.size, dtype=np.uint64).reshape(x.shape), 0, key)
    normal = np.sqrt(-2.0 * np.log(unit(a))) * np.cos(2 * math.pi * unit(b))
    return x + np.float32(deviation) * normal.astype(np.float32)


def philox(place: np.ndarray, draw: np.ndarray | int, key: int) -> tuple[np.ndarray, ...]:
    """Four uint32 arrays for uint64 arrays ``place`` (which number) and ``draw`` (which attempt), and a key < 2^64."""
    place, draw = np.broadcast_arrays(np.asarray(place, np.uint64), np.asarray(draw, np.uint64))
    thirty_two = np.uint64(32)
    a, b, c, d = place & _LOW, place >> thirty_two, draw & _LOW, draw >> thirty_two
    k0, k1 = int(key) & 0xFFFFFFFF, int(key) >> 32
    for _ in range(10):
        p, q = np.uint64(_M0) * a, np.uint64(_M1) * c
        a, b, c, d = ((q >> thirty_two) ^ b ^ np.uint64(k0), q & _LOW, (p >> thirty_two) ^ d ^ np.uint64(k1), p & _LOW)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return tuple(v.astype(np.uint32) for v in (a, b, c, d))


def unit(bits: np.ndarray) -> np.ndarray:
    """uint32 as float64 strictly between 0 and 1."""
    return (bits + 0.5) * (1.0 / 4294967296.0)
