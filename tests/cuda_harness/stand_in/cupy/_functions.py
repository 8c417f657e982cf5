"""Functions of arrays: NumPy's, between arrays of the stand-in. Each name here is one that CuPy has."""

import builtins

import numpy as np

from cupy import _array, _watch
from cupy._array import made, ndarray, operand

_UFUNCS = """absolute add arctan arctan2 bitwise_and bitwise_or bitwise_xor ceil cos cosh divide equal exp expm1 exp2
floor floor_divide fmax fmin greater greater_equal invert isfinite isinf isnan less less_equal log log10 log1p log2
logical_and logical_not logical_or maximum minimum mod multiply negative not_equal power reciprocal remainder rint sign
sin sinh sqrt square subtract tan tanh true_divide copysign left_shift right_shift logical_xor modf
arcsin arccos""".split()
_REDUCTIONS = "sum mean var std max min prod all any argmax argmin amax amin nansum cumsum count_nonzero".split()
_FUSABLE = "sum prod max min amax amin any all clip where".split()
_SHAPES = """expand_dims squeeze broadcast_to moveaxis rollaxis swapaxes transpose reshape ravel atleast_1d
atleast_2d flip fliplr flipud rot90 diagonal""".split()
_OTHERS = """clip where repeat tile pad roll tensordot matmul dot einsum outer around sort argsort take
take_along_axis tril triu diff vdot inner kron nan_to_num logaddexp trace bincount searchsorted cross isclose
packbits""".split()
__all__ = [*_UFUNCS, *_REDUCTIONS, *_SHAPES, *_OTHERS, "abs", "divmod"]
WAITS = ("nonzero", "flatnonzero", "argwhere", "unique", "allclose", "array_equal")
__all__ += WAITS


def _hosts(values, beside):
    return [_host(value, beside) for value in values]


def _host(value, beside=None):
    if isinstance(value, tuple | list):
        return type(value)(_hosts(value, beside))
    if value is None or isinstance(value, str | np.dtype | type | slice):
        return value
    return operand(value, beside)


def _results(found):
    if isinstance(found, tuple | list):
        return type(found)(_results(part) for part in found)
    return made(found if isinstance(found, np.ndarray) and found.base is None else np.array(found))


def _into(out, found):
    if not isinstance(out, ndarray):
        raise TypeError(f"return arrays must be of CuPy, not {type(out)}")
    found = np.asarray(found)
    if out.shape != found.shape:
        raise ValueError(f"Out shape is mismatched: {out.shape} for a result of {found.shape}")
    if not np.can_cast(found.dtype, out.dtype, "same_kind"):
        raise TypeError(f"output (typecode '{found.dtype.char}') could not be coerced to '{out.dtype.char}'")
    _array.on_current(out)[...] = found
    return out


def _function(name, numpys, ufunc=False):
    def function(*args, out=None, **kwargs):
        arrays = [
            a
            for a in (*args, *(args[0] if args and isinstance(args[0], list | tuple) else ()))
            if isinstance(a, ndarray)
        ]
        if not arrays and not ufunc:
            raise TypeError(f"cupy.{name} takes CuPy's arrays, not {', '.join(type(a).__name__ for a in args)}")
        if _array.VERSION < 14 and name == "where" and not builtins.any(isinstance(a, ndarray) for a in args[1:]):
            raise TypeError("cupy.where of two numbers: CuPy 13 may take them for float16")
        if not ufunc and name not in _FUSABLE:
            _array.refuse_fused(f"cupy.{name}")
        beside = arrays[0] if arrays else None
        hosts, kwargs = _hosts(args, beside), {key: _host(value, beside) for key, value in kwargs.items()}
        _watch.launched()
        with np.errstate(all="ignore"):
            found = numpys(*hosts, **kwargs)
        return _results(found) if out is None else _into(out, found)

    function.__name__ = name
    return function


def _view(name):
    """Of the same memory where NumPy's is."""

    def function(a, *args, **kwargs):
        if not isinstance(a, ndarray):
            raise TypeError(f"cupy.{name} takes CuPy's arrays, not {type(a).__name__}")
        found = getattr(np, name)(a._host, *args, **kwargs)
        return _array.view(found, a) if np.may_share_memory(found, a._host) else made(found, a._device)

    function.__name__ = name
    return function


for _name in _UFUNCS:
    globals()[_name] = _function(_name, getattr(np, _name), ufunc=True)
for _name in (*_REDUCTIONS, *_OTHERS):
    globals()[_name] = _function(_name, getattr(np, _name))
for _name in _SHAPES:
    globals()[_name] = _view(_name)
abs, divmod = absolute, _function("divmod", np.divmod, ufunc=True)  # noqa: F821


def _waiting(name):
    inner = _function(name, getattr(np, name))

    def function(*args, **kwargs):
        _watch.seen("waits")
        return inner(*args, **kwargs)

    return function


for _name in WAITS:
    globals()[_name] = _waiting(_name)


def _creation(name):
    def function(shape, dtype=float, order="C"):
        return made(getattr(np, name)(tuple(shape) if isinstance(shape, list | tuple) else shape, dtype, order))

    return function


def _like(name):
    def function(a, dtype=None, order="K", subok=None, shape=None):
        if not isinstance(a, ndarray):
            raise TypeError(f"cupy.{name} takes CuPy's arrays, not {type(a).__name__}")
        return made(getattr(np, name)(a._host, dtype, order, shape=shape))

    return function


def empty(shape, dtype=float, order="C"):
    """Filled with what is wrong wherever it is not written to."""
    host = np.empty(shape, dtype, order)
    host.fill(np.nan if host.dtype.kind in "fc" else 77 if host.dtype.kind in "iu" else 0)
    return made(host)


def empty_like(a, dtype=None, order="K", subok=None, shape=None):
    array = zeros_like(a, dtype, order, subok, shape)
    array._host[...] = np.nan if array.dtype.kind in "fc" else 77 if array.dtype.kind in "iu" else 0
    return array


zeros, ones = _creation("zeros"), _creation("ones")
zeros_like, ones_like = _like("zeros_like"), _like("ones_like")


def full(shape, fill_value, dtype=None, order="C"):
    value = operand(fill_value)
    if isinstance(fill_value, ndarray) and fill_value.ndim:
        raise NotImplementedError("the stand-in for CuPy: full of an array")
    return made(np.full(shape, value, dtype, order))


def full_like(a, fill_value, dtype=None, order="K", subok=None, shape=None):
    return made(np.full_like(a._host, operand(fill_value), dtype, order, shape=shape))


def arange(*args, dtype=None):
    return made(np.arange(*args, dtype=dtype))


def linspace(*args, **kwargs):
    return made(np.linspace(*args, **kwargs))


def eye(*args, **kwargs):
    return made(np.eye(*args, **kwargs))


identity = eye


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, blocking=False):
    """From the host it is copied to the current device; from another device, too."""
    if isinstance(obj, ndarray):
        if obj._device == _array.current_device():
            if not copy and dtype in (None, obj.dtype) and ndmin <= obj.ndim:
                return obj
            return made(np.array(obj._host, dtype=dtype, order=order, ndmin=ndmin))
        return made(np.array(obj._host, dtype=dtype, order=order, ndmin=ndmin))
    if isinstance(obj, list | tuple) and builtins.any(isinstance(part, ndarray) for part in obj):
        return stack([array(part, dtype) for part in obj])
    _array.refuse_fused("an array from the host")
    _watch.seen("to_device")
    host = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    return made(host)


def asarray(a, dtype=None, order=None, *, blocking=False):
    return array(a, dtype, copy=False, order=order or "K")


def asanyarray(a, dtype=None, order=None):
    return asarray(a, dtype, order)


def ascontiguousarray(a, dtype=None):
    if isinstance(a, ndarray):
        if a._host.flags.c_contiguous and dtype in (None, a.dtype):
            return a
        return made(np.ascontiguousarray(a._host, dtype), a._device)
    return array(a, dtype, order="C")


def asfortranarray(a, dtype=None):
    return made(np.asfortranarray(a._host, dtype), a._device)


def copyto(dst, src, casting="same_kind", where=None):
    """Also between devices. The source may be a number, no array of NumPy's."""
    if where is not None:
        np.copyto(_array.on_current(dst), operand(src, dst), casting, where=operand(where))
        return
    host = src._host if isinstance(src, ndarray) else operand(src, dst)
    _watch.launched()
    np.copyto(dst._host, host, casting)


def copy(a, order="K"):
    return a.copy(order)


def _joining(name):
    def function(tup, axis=0, out=None, **kwargs):
        tup = list(tup)
        if not builtins.all(isinstance(part, ndarray) for part in tup):
            raise TypeError("Only cupy arrays can be concatenated")
        _watch.launched()
        axes = {"axis": axis} if name in ("stack", "concatenate") else {}
        found = getattr(np, name)([_array.on_current(part) for part in tup], **axes, **kwargs)
        return made(found) if out is None else _into(out, found)

    return function


stack, concatenate, hstack, vstack = (_joining(name) for name in ("stack", "concatenate", "hstack", "vstack"))


def split(ary, indices_or_sections, axis=0):
    return [_array.view(part, ary) for part in np.split(ary._host, indices_or_sections, axis)]


array_split = split


def broadcast_arrays(*args):
    return [_array.view(host, a) for host, a in zip(np.broadcast_arrays(*(a._host for a in args)), args, strict=True)]


def ndim(a):
    return a.ndim


def shape(a):
    return a.shape


def may_share_memory(a, b, max_work=None):
    return np.may_share_memory(a._host, b._host)


def save(file, arr, **kwargs):
    np.save(file, arr.get(), **kwargs)


_not_here = {"made", "ndarray", "operand"}
__all__ += [n for n, v in list(globals().items()) if callable(v) and not n.startswith("_") and n not in _not_here]


def _binary(name, swapped=False):
    def method(self, other):
        if getattr(other, "__array_priority__", 0) > self.__array_priority__:  # Chainer's Variable
            return NotImplemented
        f = globals()[name]
        return f(other, self) if swapped else f(self, other)

    return method


def _in_place(name):
    def method(self, other):
        return globals()[name](self, other, out=self)

    return method


_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift", "matmul": "matmul",
}  # fmt: skip
for _short, _name in _OPERATORS.items():
    setattr(ndarray, f"__{_short}__", _binary(_name))
    setattr(ndarray, f"__r{_short}__", _binary(_name, swapped=True))
    setattr(ndarray, f"__i{_short}__", _in_place(_name))
for _short, _name in dict(
    eq="equal", ne="not_equal", lt="less", le="less_equal", gt="greater", ge="greater_equal"
).items():
    setattr(ndarray, f"__{_short}__", _binary(_name))
for _short, _name in dict(neg="negative", abs="absolute", invert="invert").items():
    setattr(ndarray, f"__{_short}__", lambda self, name=_name: globals()[name](self))
ndarray.__pos__ = lambda self: self.copy()
ndarray.__divmod__ = lambda self, other: divmod(self, other)
for (
    _name
) in "sum mean var std max min prod all any argmax argmin cumsum clip repeat take argsort nonzero trace".split():
    setattr(ndarray, _name, lambda self, *args, name=_name, **kwargs: globals()[name](self, *args, **kwargs))
ndarray.round = lambda self, decimals=0: around(self, decimals)  # noqa: F821
