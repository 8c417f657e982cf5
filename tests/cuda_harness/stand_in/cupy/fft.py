"""What is used of cupy.fft."""

import numpy as np

import cupy
from cupy._functions import _function

rfft, irfft = (_function(f"fft.{name}", getattr(np.fft, name)) for name in ("rfft", "irfft"))


def __getattr__(name):
    raise cupy.Missing(f"the stand-in for CuPy has no cupy.fft.{name}")
