"""What is used of cupy.linalg."""

import numpy as np

from cupy._functions import _function

norm, qr, solve, inv, svd = (
    _function(f"linalg.{name}", getattr(np.linalg, name)) for name in ("norm", "qr", "solve", "inv", "svd")
)
