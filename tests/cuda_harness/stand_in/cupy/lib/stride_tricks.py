import numpy as np

from cupy import _array


def as_strided(x, shape=None, strides=None):
    return _array.view(np.lib.stride_tricks.as_strided(x._host, shape, strides), x)
