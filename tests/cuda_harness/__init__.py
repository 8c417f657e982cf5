"""CUDA sources without a GPU: compiled by NVRTC, run by g++. On the path of the tests only."""
