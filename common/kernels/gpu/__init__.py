"""CUDA kernels: what is computed with on a GPU. Every kernel is a ``sources.CudaSource``."""
