"""CUDA kernels and cuDNN: what is computed with on a GPU. Every kernel is a source in one registry (``sources``)."""
