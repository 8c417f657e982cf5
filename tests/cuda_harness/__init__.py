"""CUDA sources without a GPU: compiled by NVRTC, run by g++; and a stand-in for CuPy. On the path of the tests only."""

import importlib
import os
import pkgutil
from pathlib import Path

HERE = Path(__file__).resolve().parent


def all_sources():
    """Every CUDA source of the kernels, in the order of their names."""
    from medi2i.common import kernels
    from medi2i.common.kernels.gpu.sources import CudaSource

    found = {}
    for module in pkgutil.walk_packages(kernels.__path__, kernels.__name__ + "."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, CudaSource):
                assert found.setdefault(value.name, value) is value, f"there are two CUDA sources called {value.name}"
    return [found[name] for name in sorted(found)]


def with_stand_in(version=14, **environment):
    """The environment of a process that finds the stand-in where it looks for CuPy."""
    path = os.pathsep.join([str(HERE / "stand_in"), str(HERE.parent)])
    return {**os.environ, "PYTHONPATH": path, "CUPY_STAND_IN": str(version), **environment}
