"""What is used of cupyx.scipy.sparse: matrices of SciPy's, on the device, times vectors."""

import cupy
import numpy as np
from cupy import _array, _watch
from scipy import sparse


class _Matrix:
    """Three arrays on a device. Whether rows are sorted and without duplicates is read back when it is first asked, and
    what is not so is mended before a product."""

    __array_ufunc__ = None

    def _set_up(self, arrays, shape, canonical):
        self.data, self.indices, self.indptr = arrays
        self.shape, self.dtype, self._canonical = shape, arrays[0].dtype, canonical

    def _host(self):
        arrays = (_array.on_current(a) for a in (self.data, self.indices, self.indptr))
        return self._form(tuple(arrays), shape=self.shape)

    def _is_canonical(self):
        if self._canonical is None:
            _watch.seen("to_host")
            self._canonical = bool(self._host().has_canonical_format)
        return self._canonical

    @property
    def T(self):
        found = _Matrix.__new__(self._turned)
        found._set_up((self.data, self.indices, self.indptr), self.shape[::-1], self._is_canonical())
        return found

    def __matmul__(self, other):
        if not isinstance(other, cupy.ndarray):
            return NotImplemented
        if other.ndim not in (1, 2):
            raise ValueError("could not interpret dimensions")
        host = self._host()
        if not self._is_canonical():
            _watch.seen("waits")
            host.sum_duplicates()
            arrays = (host.data, host.indices, host.indptr)
            self._set_up(tuple(map(_array.made, arrays)), self.shape, True)
        _watch.launched()
        return _array.made(host @ _array.on_current(other))


class csr_matrix(_Matrix):
    _form = sparse.csr_matrix

    def __init__(self, matrix, shape=None, dtype=None):
        if not sparse.issparse(matrix) or shape is not None or dtype is not None:
            raise NotImplementedError("the stand-in for CuPy: csr_matrix of anything but a matrix of SciPy's")
        matrix = matrix.tocsr()
        if matrix.dtype.char not in "?fdFD":
            raise ValueError("Only bool, float32, float64, complex64 and complex128 are supported")
        self._set_up(tuple(map(cupy.array, (matrix.data, matrix.indices, matrix.indptr))), matrix.shape, None)


class csc_matrix(_Matrix):
    _form, _turned = sparse.csc_matrix, csr_matrix


csr_matrix._turned = csc_matrix


def __getattr__(name):
    raise cupy.Missing(f"the stand-in for CuPy has no cupyx.scipy.sparse.{name}")
