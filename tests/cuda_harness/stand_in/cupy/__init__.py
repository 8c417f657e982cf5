"""A stand-in for CuPy without a GPU, for tests: what Chainer 7.8.1 and this project use of CuPy, on host memory.

On Python's path before Chainer is imported (``cuda_harness.with_stand_in``) it makes Chainer believe in two GPUs. It is
strict: arrays do not mix with NumPy's, are not converted by accident, and belong to one device; numbers that are read
back, copies and waits are counted (``cupy.watched``). Kernels are compiled by g++. CUPY_STAND_IN says which version it
plays: 14 (the default), or 13, which has cuDNN and lets NumPy's numbers give way to arrays.

What it does not model: that a GPU works behind the program's back (everything is done at once), streams that run side
by side, peer access, races, the rounding of fused multiply-add, of TF32 and of CUDA's own functions, the order in which
CuPy adds up, memory that runs out, speed. Functions are NumPy's. ``fuse`` runs the function
as it is, and refuses what could not be one kernel. Of cuDNN 13 there
are convolutions and activations. What else is missing raises ``Missing``, by name.
"""

import builtins
import os
import sys

import numpy as np

VERSION = int(os.environ.get("CUPY_STAND_IN", "14"))
__version__ = {13: "13.6.0", 14: "14.2.0"}[VERSION]
stand_in = True


class Missing(AttributeError):
    """CuPy may have this; the stand-in has not."""


from cupy import _array

_array.VERSION = VERSION
from numpy import (
    bool_,
    complex64,
    complex128,
    dtype,
    e,
    errstate,
    finfo,
    float16,
    float32,
    float64,
    floating,
    iinfo,
    inf,
)
from numpy import int8, int16, int32, int64, integer, intp, isscalar, nan, newaxis, number, pi, result_type
from numpy import uint8, uint16, uint32, uint64

from cupy import _util, cuda, fft, lib, linalg, random
from cupy._array import ndarray
from cupy._functions import *  # noqa: F403
from cupy._kernels import ElementwiseKernel, RawKernel, RawModule, ReductionKernel, clear_memo, fuse, memoize
from cupy._watch import watched


def get_array_module(*args):
    """cupy where an array is CuPy's, else numpy."""
    return sys.modules[__name__] if builtins.any(isinstance(arg, ndarray) for arg in args) else np


def get_default_memory_pool():
    return cuda.memory.POOL


def get_default_pinned_memory_pool():
    return cuda.memory.PINNED


def asnumpy(a, stream=None, order="C", out=None):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def __getattr__(name):
    raise Missing(f"the stand-in for CuPy has no cupy.{name}")
