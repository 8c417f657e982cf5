"""Random numbers: NumPy's, on the device. CuPy's are others."""

import numpy as np

from cupy._array import made

_state = np.random.default_rng(0)


def seed(seed=None):
    global _state
    _state = np.random.default_rng(None if seed is None else int(seed))


def standard_normal(size=None, dtype=float):
    return made(_state.standard_normal(size, dtype))


def normal(loc=0.0, scale=1.0, size=None, dtype=float):
    return made((_state.standard_normal(size) * scale + loc).astype(dtype))


def rand(*size, dtype=float):
    return made(np.asarray(_state.random(size or None)).astype(dtype))


def random_sample(size=None, dtype=float):
    return made(np.asarray(_state.random(size)).astype(dtype))


random = random_sample


def uniform(low=0.0, high=1.0, size=None, dtype=float):
    return made(np.asarray(_state.uniform(low, high, size)).astype(dtype))


def randint(low, high=None, size=None, dtype="l"):
    return made(np.asarray(_state.integers(low, high, size)).astype(dtype))


def binomial(n, p, size=None, dtype=int):
    return made(np.asarray(_state.binomial(n, p, size)).astype(dtype))


def __getattr__(name):
    from cupy import Missing

    raise Missing(f"the stand-in for CuPy has no cupy.random.{name}")
