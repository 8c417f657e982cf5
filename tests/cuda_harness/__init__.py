"""CUDA sources without a GPU: compiled by NVRTC, run by g++. On the path of the tests only."""

import importlib
import pkgutil

from medi2i.common import kernels
from medi2i.common.kernels.gpu.sources import CudaSource


def all_sources() -> list[CudaSource]:
    """Every CUDA source of the kernels, in the order of their names."""
    found = {}
    for module in pkgutil.walk_packages(kernels.__path__, kernels.__name__ + "."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, CudaSource):
                assert found.setdefault(value.name, value) is value, f"there are two CUDA sources called {value.name}"
    return [found[name] for name in sorted(found)]
