"""CUDA kernels and cuDNN: what is computed with on a GPU. Every kernel is a ``sources.CudaSource``."""
