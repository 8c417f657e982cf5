"""average += rate (value - average), in place: one kernel on a GPU, pieces that stay in the cache on the CPU."""

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels.gpu.sources import CudaSource

PIECE = 1 << 15  # numbers: two arrays and the scratch of 128 kB each stay in a core's cache

_STEP = CudaSource(
    "average_step",
    "elementwise",
    in_params="float32 value, float32 rate",
    out_params="float32 average",
    operation="average += rate * (value - average);",
)


def step_towards(average: Array, value: Array, rate: float) -> None:
    """Move the float32 array ``average`` towards ``value`` (float32, the same shape and device) by ``rate``, 0 to 1."""
    by = np.float32(rate)
    if chainer.backend.get_array_module(average) is not np:
        _STEP(value, by, average)
        return
    if not (average.flags.c_contiguous and value.flags.c_contiguous):
        average += by * (value - average)
        return
    average, value = average.reshape(-1), value.reshape(-1)
    scratch = np.empty(min(PIECE, average.size), np.float32)
    for start in range(0, average.size, PIECE):
        piece = average[start : start + PIECE]
        part = scratch[: piece.size]
        np.subtract(value[start : start + PIECE], piece, out=part)
        part *= by
        piece += part
