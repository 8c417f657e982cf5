"""The array of the stand-in: host memory behind a class that does only what CuPy's array does."""

import contextlib
import ctypes
import operator
import threading

import numpy as np

from cupy import _watch

DEVICES = 2
VERSION = 14  # set by the package

_here = threading.local()


def current_device():
    """Number of the current device of this thread."""
    return getattr(_here, "device", 0)


def use_device(number):
    if not 0 <= number < DEVICES:
        from cupy.cuda.runtime import CUDARuntimeError

        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
    _here.device = number


def is_fusing():
    return getattr(_here, "fusing", False)


@contextlib.contextmanager
def fusing():
    """While a function is made into one kernel."""
    _here.fusing = True
    try:
        yield
    finally:
        _here.fusing = False


def refuse_fused(what):
    if is_fusing():
        raise TypeError(f"{what} cannot be fused")


class _Block:
    """Memory of one device; counts towards its pool as long as it lives."""

    used = [0] * DEVICES
    most = [0] * DEVICES

    def __init__(self, nbytes, device):
        self.nbytes, self.device = nbytes, device
        self.used[device] += nbytes
        self.most[device] = max(self.most[device], self.used[device])

    def __del__(self):
        self.used[self.device] -= self.nbytes


class Flags:
    def __init__(self, host, own):
        self.c_contiguous, self.f_contiguous = host.flags.c_contiguous, host.flags.f_contiguous
        self.owndata, self.forc, self.fnc = own, host.flags.forc, host.flags.fnc

    def __getitem__(self, name):
        return getattr(self, {"C": "c_contiguous", "F": "f_contiguous"}.get(name, name.lower()))


class ndarray:
    """An array on a device. Not a subclass of NumPy's, and nothing of NumPy's can look into it."""

    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if strides is not None:
            raise NotImplementedError("the stand-in for CuPy: ndarray(strides=…)")
        if memptr is None:
            host = np.empty(shape, dtype, order)
            self._set_up(host, current_device(), _Block(host.nbytes, current_device()))
        else:
            host = np.frombuffer(memptr.mem.host, np.uint8)[memptr.offset :]
            dtype = np.dtype(dtype)
            count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            self._set_up(host[:count].view(dtype).reshape(shape), memptr.device_id, memptr.mem)

    def _set_up(self, host, device, block, base=None):
        self._host, self._device, self._block, self.base = host, device, block, base

    # What it is
    shape = property(lambda self: self._host.shape, lambda self, shape: setattr(self._host, "shape", shape))
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host, self.base is None))
    T = property(lambda self: self.transpose())
    real = property(lambda self: self if self.dtype.kind != "c" else view(self._host.real, self))

    @property
    def device(self):
        from cupy.cuda import Device

        return Device(self._device)

    @property
    def data(self):
        from cupy.cuda.memory import MemoryPointer

        return MemoryPointer(_Raw(self), 0)

    # Where NumPy's and Python's own ways lead
    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        import cupy

        if method != "__call__" or kwargs.keys() - {"out"}:
            return NotImplemented
        out = kwargs.get("out", (None,))
        return getattr(cupy, ufunc.__name__)(*inputs, out=out[0])

    def __array_function__(self, function, types, args, kwargs):
        import cupy

        if not all(issubclass(kind, ndarray) for kind in types):
            return NotImplemented
        if not function.__module__.startswith("numpy") or "." in function.__module__:
            raise cupy.Missing(f"the stand-in for CuPy has no twin of {function.__module__}.{function.__name__}")
        return getattr(cupy, function.__name__)(*args, **kwargs)

    def get(self, stream=None, order="C", out=None, blocking=True):
        if out is not None or not blocking:
            raise NotImplementedError("the stand-in for CuPy: get(out=…, blocking=False)")
        refuse_fused("a number that is read back")
        _watch.seen("to_host")
        return self._host.copy(order)

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._host.flags.c_contiguous or self._host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        _watch.seen("to_device")
        self._host[...] = arr

    def item(self):
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __complex__(self):
        return complex(self.item())

    def __index__(self):
        return operator.index(self.item())

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __reduce__(self):
        import cupy

        return cupy.array, (self.get(),)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return len(self._host)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    __hash__ = None

    # Parts of it
    def __getitem__(self, key):
        key, advanced = _key(key, self)
        if advanced:
            return made(self._host[key], self._device)
        return view(self._host[(*key, ...) if Ellipsis not in key else key], self)

    def __setitem__(self, key, value):
        key, _ = _key(key, self, setting=True)
        _watch.launched()
        self._host[key] = operand(value, self)

    def reshape(self, *shape, order="C"):
        host = self._host.reshape(shape[0] if len(shape) == 1 else shape, order=order)
        return view(host, self) if np.may_share_memory(host, self._host) else made(host, self._device)

    def ravel(self, order="C"):
        return self.reshape(-1, order=order)

    def flatten(self, order="C"):
        return made(self._host.flatten(order), self._device)

    def transpose(self, *axes):
        return view(self._host.transpose(*axes), self)

    def swapaxes(self, a, b):
        return view(self._host.swapaxes(a, b), self)

    def squeeze(self, axis=None):
        return view(self._host.squeeze(axis), self)

    def view(self, dtype=None):
        return view(self._host if dtype is None else self._host.view(dtype), self)

    def reduced_view(self, dtype=None):
        return self

    def scatter_add(self, slices, value):
        import cupyx

        cupyx.scatter_add(self, slices, value)

    def diagonal(self, offset=0, axis1=0, axis2=1):
        return view(self._host.diagonal(offset, axis1, axis2), self)

    # Others of it
    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        dtype = np.dtype(dtype)
        if not copy and dtype == self.dtype:
            return self
        _watch.launched()
        with np.errstate(all="ignore"):
            return made(self._host.astype(dtype, order), self._device)

    def copy(self, order="C"):
        _watch.launched()
        return made(self._host.copy(order), current_device())

    def fill(self, value):
        self[...] = value

    def dot(self, other, out=None):
        import cupy

        return cupy.dot(self, other, out=out)


class _Raw:
    """What ``MemoryPointer.mem`` of an array is."""

    def __init__(self, array):
        self.array, self.device_id, self.ptr = array, array._device, array._host.ctypes.data

    @property
    def host(self):
        base = self.array._host
        return (ctypes.c_ubyte * base.nbytes).from_address(base.ctypes.data)


def made(host, device=None):
    """A new array on ``device`` (by default the current one) of a NumPy array that is nobody else's."""
    array = ndarray.__new__(ndarray)
    host, device = np.asarray(host), current_device() if device is None else device
    array._set_up(host, device, _Block(host.nbytes, device))
    return array


def view(host, of):
    array = ndarray.__new__(ndarray)
    array._set_up(host, of._device, of._block, of if of.base is None else of.base)
    return array


def on_current(array):
    if array._device != current_device():
        raise ValueError(
            f"The device where the array resides ({array._device}) is different from the current device "
            f"({current_device()}). Peer access is unavailable between these devices."
        )
    return array._host


def operand(value, beside=None):
    """NumPy's form of an argument of a function on the device. CuPy 13 lets NumPy's numbers give way to arrays, as
    Python's do."""
    if isinstance(value, ndarray):
        return on_current(value)
    if isinstance(value, np.generic):
        return value.item() if VERSION < 14 and beside is not None else value
    if isinstance(value, bool | int | float | complex):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _key(key, array, setting=False):
    """(NumPy's form of an index, whether it is one by arrays). A mask that is read through makes CuPy wait."""
    parts, advanced = [], False
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, ndarray):
            advanced = True
            if part.dtype == bool and not setting:
                _watch.seen("waits")
            part = on_current(part)
        elif isinstance(part, np.ndarray | list):
            _watch.seen("to_device")
            advanced, part = True, np.asarray(part)
        elif isinstance(part, slice):
            part = slice(*(None if v is None else operator.index(v) for v in (part.start, part.stop, part.step)))
        elif part is not None and part is not Ellipsis:
            part = operator.index(part)
        parts.append(part)
    return tuple(parts), advanced
