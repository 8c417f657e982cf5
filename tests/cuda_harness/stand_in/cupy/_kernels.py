"""Kernels written in CUDA C++, compiled by g++: one thread for elementwise kernels and reductions, blocks of threads
for raw ones. Indices into ``raw`` arrays of elementwise kernels are checked; a raw kernel's pointers are not.
"""

import ctypes
import functools
import re

import numpy as np
from cuda_harness import by_gcc

from cupy import _array, _watch
from cupy._array import ndarray

C_TYPES = {
    "bool": "bool", "int8": "signed char", "uint8": "unsigned char", "int16": "short", "uint16": "unsigned short",
    "int32": "int", "uint32": "unsigned int", "int64": "long long", "uint64": "unsigned long long",
    "float16": "float16", "float32": "float", "float64": "double",
}  # fmt: skip

_ARRAYS = (
    by_gcc.HALF
    + r"""
struct Given { void* data; const long long* shape; const long long* strides; long long ndim, size; };
static long long wrong_index;
static bool is_wrong;
template <class V> struct CArray {
    V* at; const long long *shape_, *strides_; long long ndim, size_;
    CArray(const Given& g) : at((V*)g.data), shape_(g.shape), strides_(g.strides), ndim(g.ndim), size_(g.size) {}
    const long long* shape() const { return shape_; }
    const long long* strides() const { return strides_; }
    long long size() const { return size_; }
    V& place(long long bytes) const { return *(V*)((char*)at + bytes); }
    V& wrong(long long i) const { alignas(8) static char none[8]; is_wrong = true; wrong_index = i; return *(V*)none; }
    V& operator[](long long i) const {
        if (i < 0 || i >= size_) return wrong(i);
        long long bytes = 0;
        for (long long d = ndim - 1; d >= 0; --d) { bytes += i % shape_[d] * strides_[d]; i /= shape_[d]; }
        return place(bytes);
    }
    template <class I, size_t N> V& operator[](const I (&l)[N]) const {
        long long bytes = 0;
        for (size_t d = 0; d < N; ++d) {
            if (l[d] < 0 || l[d] >= shape_[d]) return wrong(l[d]);
            bytes += l[d] * strides_[d];
        }
        return place(bytes);
    }
};
struct CIndexer {
    long long size_; const long long* shape_; long long ndim, index[32];
    long long size() const { return size_; }
    const long long* get() const { return index; }
    void set(long long i) { for (long long d = ndim - 1; d >= 0; --d) { index[d] = i % shape_[d]; i /= shape_[d]; } }
};
#define CUPY_FOR(i, n) for (long long i = 0; i < (n); ++i)
"""
)
_ELEMENTWISE = r"""
{types}{preamble}
extern "C" int medi2i_run(const Given* given, const long long* shape, long long ndim, long long size,
                          long long* wrong) {{
    is_wrong = false;
    CIndexer _ind = {{size, shape, ndim}};
{opened}
    {loop_prep};
    CUPY_FOR(i, size) {{
        _ind.set(i);
{loads}
        {operation};
    }}
    {after_loop};
    *wrong = wrong_index;
    return is_wrong;
}}
"""
_REDUCTION = r"""
{types}{preamble}
typedef {reduce_type} type_reduced;
extern "C" int medi2i_run(const Given* given, const long long*, long long length, long long size, long long* wrong) {{
    is_wrong = false;
{opened}
    for (long long _o = 0; _o < size; ++_o) {{
        type_reduced _sum = type_reduced({identity});
        for (long long _k = 0; _k < length;) {{  // in parts, as threads add up
            type_reduced _part = type_reduced({identity});
            for (const long long _end = _k + 256; _k < length && _k < _end; ++_k) {{
                const long long _i = _o * length + _k;
{loads}
                const type_reduced _mapped = type_reduced({map_expr});
                {{ const type_reduced a = _part, b = _mapped; _part = ({reduce_expr}); }}
            }}
            {{ const type_reduced a = _sum, b = _part; _sum = ({reduce_expr}); }}
        }}
{outputs}
        {{ const type_reduced a = _sum; {post_map_expr}; }}
    }}
    *wrong = wrong_index;
    return is_wrong;
}}
"""


class _Given(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("ndim", ctypes.c_longlong),
        ("size", ctypes.c_longlong),
    ]


class _Parameter:
    def __init__(self, text, output):
        *words, self.type, self.name = text.split()
        if set(words) - {"raw", "_non_const"}:
            raise ValueError(f"Unknown keyword in {text!r}")
        self.raw, self.output = "raw" in words, output
        self.fixed = None if len(self.type) == 1 else np.dtype(self.type)


def _parameters(text, output):
    return [_Parameter(part, output) for part in filter(None, (p.strip() for p in text.split(",")))]


class _Kernel:
    def __init__(self, in_params, out_params):
        self.inputs, self.outputs = _parameters(in_params, False), _parameters(out_params, True)
        self.parameters = [*self.inputs, *self.outputs]

    def _prepared(self, args):
        """(arguments, {name of a type: dtype}): arrays of this device, numbers of the parameter's type."""
        if len(args) not in (len(self.inputs), len(self.parameters)):
            raise TypeError(
                f"{self.name}: Wrong number of arguments: {len(args)}, not {len(self.inputs)} or {len(self.parameters)}"
            )
        kinds = {}
        for parameter, arg in zip(self.parameters, args, strict=False):
            if isinstance(arg, ndarray):
                _array.on_current(arg)
            elif parameter.output or parameter.raw or not isinstance(arg, bool | int | float | complex | np.generic):
                raise TypeError(f"{self.name}: Unsupported type {type(arg)} for {parameter.name}")
            else:
                continue  # a number takes the parameter's type
            own = arg.dtype
            if parameter.fixed is None:
                if kinds.setdefault(parameter.type, own) != own:
                    raise TypeError(f"{self.name}: Type is mismatched. {parameter.name} {own} {kinds[parameter.type]}")
            elif own != parameter.fixed:
                raise TypeError(f"{self.name}: Type is mismatched. {parameter.name} {own} {parameter.fixed}")
        for parameter in self.inputs:
            if parameter.fixed is None and parameter.type not in kinds:
                raise ValueError(f"{self.name}: Ctype is unknown: {parameter.type}")
        numbered = [
            a if isinstance(a, ndarray) else np.asarray(a).astype(p.fixed or kinds[p.type])
            for p, a in zip(self.parameters, args, strict=False)
        ]
        return numbered, kinds

    def _dtype(self, parameter, kinds):
        return parameter.fixed if parameter.fixed is not None else kinds[parameter.type]

    def _types(self, kinds):
        return "".join(f"typedef {C_TYPES[dtype.name]} {kind};\n" for kind, dtype in sorted(kinds.items()))

    def _run(self, text, hosts, shape, size, number):
        _watch.launched()
        library = by_gcc.compiled(self.name, text)
        kept, given = [], (_Given * len(hosts))()
        for place, host in zip(given, hosts, strict=True):
            sizes = np.array([host.shape, host.strides], np.int64).reshape(2, -1)
            kept.append(sizes)
            place.data, place.ndim, place.size = host.ctypes.data, host.ndim, host.size
            place.shape, place.strides = sizes[0].ctypes.data, sizes[1].ctypes.data
        sizes, wrong = np.array(shape, np.int64), ctypes.c_longlong()
        if library.medi2i_run(
            given,
            ctypes.c_void_p(sizes.ctypes.data),
            ctypes.c_longlong(number),
            ctypes.c_longlong(size),
            ctypes.byref(wrong),
        ):
            raise IndexError(f"{self.name}: index {wrong.value} is outside of a raw array")


class ElementwiseKernel(_Kernel):
    def __init__(
        self, in_params, out_params, operation, name="kernel", reduce_dims=True, preamble="", no_return=False,
        return_tuple=False, loop_prep="", after_loop="", options=(), **kwargs,
    ):  # fmt: skip
        if kwargs:
            raise TypeError(f"{name}: Wrong arguments {sorted(kwargs)}")
        super().__init__(in_params, out_params)
        self.name, self.operation, self.preamble = name, operation, preamble
        self.loop_prep, self.after_loop = loop_prep, after_loop
        self.no_return, self.return_tuple = no_return, return_tuple

    def __call__(self, *args, size=None, block_size=None, stream=None):
        args, kinds = self._prepared(args)
        shaped = [a.shape for p, a in zip(self.parameters, args, strict=False) if not p.raw]
        if size is not None:
            if any(shape for shape in shaped):
                raise ValueError(f"{self.name}: Specified 'size' can be used only if all of the ndarray are 'raw'")
            shape = (int(size),)
        elif any(isinstance(a, ndarray) and not p.raw for p, a in zip(self.parameters, args, strict=False)):
            shape = np.broadcast_shapes(*shaped)
        else:
            raise ValueError(f"{self.name}: Loop size is undecided.")
        outputs = args[len(self.inputs) :]
        for p, out in zip(self.outputs, outputs, strict=False):
            if not p.raw and out.shape != shape:
                raise ValueError(f"{self.name}: Out shape is mismatched: {out.shape}, not {shape}")
        if not outputs:
            if any(p.raw for p in self.outputs):
                raise ValueError(f"{self.name}: Output array size is Undecided")
            outputs = [_array.made(np.empty(shape, self._dtype(p, kinds))) for p in self.outputs]
        hosts = []
        for p, a in zip(self.parameters, [*args[: len(self.inputs)], *outputs], strict=True):
            host = a._host if isinstance(a, ndarray) else a
            hosts.append(
                host if p.raw or not isinstance(a, ndarray) or size is not None else np.broadcast_to(host, shape)
            )
        if int(np.prod(shape)):
            arrays = tuple(isinstance(a, ndarray) for a in args[: len(self.inputs)])
            self._run(
                self._text(tuple(sorted(kinds.items(), key=str)), arrays), hosts, shape, int(np.prod(shape)), len(shape)
            )
        if self.no_return:
            return None
        return outputs[0] if len(outputs) == 1 and not self.return_tuple else tuple(outputs)

    @functools.lru_cache(None)  # noqa: B019 kernels live as long as the process
    def _text(self, kinds, arrays):
        kinds, opened, loads = dict(kinds), [], []
        for k, p in enumerate(self.parameters):
            kind = C_TYPES[self._dtype(p, kinds).name]
            if not p.output and not arrays[k]:
                opened.append(f"    const {kind} {p.name} = *({kind}*)given[{k}].data;")
            elif p.raw:
                opened.append(f"    const CArray<{'' if p.output else 'const '}{kind}> {p.name}(given[{k}]);")
            else:
                const = "" if p.output else "const "
                opened.append(f"    const CArray<{const}{kind}> _raw_{p.name}(given[{k}]);")
                loads.append(f"        {const}{kind}& {p.name} = _raw_{p.name}[i];")
        return by_gcc.HEAD + "static void pause() {}\n" + _ARRAYS + _ELEMENTWISE.format(
            types=self._types(kinds), preamble=self.preamble, opened="\n".join(opened), loads="\n".join(loads),
            loop_prep=self.loop_prep, operation=self.operation, after_loop=self.after_loop,
        )  # fmt: skip


class ReductionKernel(_Kernel):
    def __init__(
        self, in_params, out_params, map_expr, reduce_expr, post_map_expr, identity, name="reduce_kernel",
        reduce_type=None, reduce_dims=True, preamble="", options=(),
    ):  # fmt: skip
        super().__init__(in_params, out_params)
        if len(self.outputs) != 1 or any(p.raw for p in self.parameters):
            raise NotImplementedError(f"the stand-in for CuPy: {name}: a reduction of raw arrays or to several")
        self.name, self.map_expr, self.reduce_expr, self.post_map_expr = name, map_expr, reduce_expr, post_map_expr
        self.identity, self.reduce_type, self.preamble = identity, reduce_type, preamble

    def __call__(self, *args, out=None, axis=None, keepdims=False, stream=None):
        args, kinds = self._prepared(args)
        if len(args) > len(self.inputs):
            out = args.pop()
        shape = np.broadcast_shapes(*(a.shape for a in args))
        axes = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
        axes = sorted(a % len(shape) for a in axes)
        rest = [a for a in range(len(shape)) if a not in axes]
        length = int(np.prod([shape[a] for a in axes], dtype=np.int64))
        kept = tuple(1 if a in axes else n for a, n in enumerate(shape)) if keepdims else tuple(shape[a] for a in rest)
        if out is None:
            out = _array.made(np.empty(kept, self._dtype(self.outputs[0], kinds)))
        if out.shape != kept or not out.flags.c_contiguous:
            raise ValueError(f"{self.name}: Out shape is mismatched: {out.shape}, not {kept}")
        if self.identity is None and not length:
            raise ValueError(f"{self.name}: zero-size array to reduction operation")
        hosts = [
            np.ascontiguousarray(
                np.broadcast_to(a._host if isinstance(a, ndarray) else a, shape).transpose(*rest, *axes)
            )
            for a in args
        ]
        self._run(
            self._text(tuple(sorted(kinds.items(), key=str))), [*hosts, out._host.reshape(-1)], (), out.size, length
        )
        return out

    @functools.lru_cache(None)  # noqa: B019 kernels live as long as the process
    def _text(self, kinds):
        kinds, (out,) = dict(kinds), self.outputs
        names = {p.name: C_TYPES[self._dtype(p, kinds).name] for p in self.parameters}
        opened = [
            f"    {kind}* const _raw_{name} = ({kind}*)given[{k}].data;" for k, (name, kind) in enumerate(names.items())
        ]
        loads = [f"            const {names[p.name]} {p.name} = _raw_{p.name}[_i];" for p in self.inputs]
        return by_gcc.HEAD + "static void pause() {}\n" + _ARRAYS + _REDUCTION.format(
            types=self._types(kinds), preamble=self.preamble, opened="\n".join(opened), loads="\n".join(loads),
            reduce_type=self.reduce_type or names[out.name], identity=self.identity or "0", map_expr=self.map_expr,
            reduce_expr=self.reduce_expr, outputs=f"        {names[out.name]}& {out.name} = _raw_{out.name}[_o];",
            post_map_expr=self.post_map_expr,
        )  # fmt: skip


class RawKernel:
    def __init__(self, code, name, options=(), backend="nvrtc"):
        self.code, self.name = code, name

    def compile(self, log_stream=None):
        by_gcc.compiled(self.name, by_gcc.HEAD + self._text() + by_gcc.TAIL % self.name)

    def _text(self):
        """Where float16 is made by PTX, g++'s takes its place."""
        if "asm(" not in self.code:
            return self.code
        return re.sub(r"struct float16 \{.*?\n\};\n", lambda _: by_gcc.HALF, self.code, count=1, flags=re.DOTALL)

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        if shared_mem:
            raise NotImplementedError(f"the stand-in for CuPy: {self.name}: dynamic shared memory")
        kept = []
        for a in args:
            if isinstance(a, ndarray):
                if not _array.on_current(a).flags.c_contiguous:
                    raise ValueError(f"{self.name}: an array of shape {a.shape} is not dense")
                kept.append(np.array(a._host.ctypes.data, np.uintp))
            elif isinstance(a, np.generic):
                kept.append(np.array(a))
            else:
                raise TypeError(f"{self.name}: Unsupported type {type(a)}")
        _watch.launched()
        by_gcc.launch_text(self.name, self._text(), grid, block, kept)


class RawModule:
    def __init__(self, *, code=None, path=None, options=(), backend="nvrtc", **kwargs):
        if code is None or kwargs:
            raise NotImplementedError("the stand-in for CuPy: RawModule of a file, or by names of templates")
        self.code = code

    def get_function(self, name):
        return RawKernel(self.code, name)


def fuse(*args, **kwargs):
    """The function as it is, but for what CuPy could not make a kernel of: what it is called with, numbers that are
    read back, and functions that are not of elements, nor sums and the like."""

    def decorator(function, kernel_name=None):
        @functools.wraps(function)
        def fused(*given):
            if _array.is_fusing() or not any(isinstance(arg, ndarray) for arg in given):
                return function(*given)
            if not all(
                arg is None or isinstance(arg, ndarray | np.generic | bool | int | float | complex) for arg in given
            ):
                kinds = ", ".join(repr(type(arg)) for arg in given)
                raise TypeError(f"Invalid argument type for '{kernel_name or function.__name__}': ({kinds})")
            with _array.fusing():
                return function(*given)

        return fused

    if len(args) == 1 and not kwargs and callable(args[0]):
        return decorator(args[0])
    return lambda function: decorator(function, *args, **kwargs)


_memos = []


def memoize(for_each_device=False):
    def decorator(function):
        memo = {}
        _memos.append(memo)

        @functools.wraps(function)
        def remembered(*args, **kwargs):
            key = (_array.current_device() if for_each_device else -1, args, tuple(sorted(kwargs.items())))
            if key not in memo:
                memo[key] = function(*args, **kwargs)
            return memo[key]

        return remembered

    return decorator


def clear_memo():
    for memo in _memos:
        memo.clear()
