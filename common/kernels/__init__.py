"""CuPy kernels, each beside its NumPy twin."""
