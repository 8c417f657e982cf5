"""oneDNN through its C API: what Intel's iDeep was to Chainer, without a framework around it.

The wheel ``onednn-cpu-gomp`` (Linux x86-64, needs only libgomp) brings ``libdnnl.so.3``; without it :func:`library`
returns None and nothing here is used. Only what the kernels beside this module need is bound.
Names and numbers: oneDNN 3.2, dnnl.h and dnnl_types.h.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterable, Iterator
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from importlib import metadata
from typing import Any

import numpy as np

from medi2i.common.kernels.chunked_convolution import first_strides
from medi2i.common.resources import available_cores

DISTRIBUTION = "onednn-cpu-gomp"
MAJOR = 3

FORWARD_TRAINING, FORWARD_INFERENCE, BACKWARD = 64, 96, 128
CONVOLUTION_DIRECT = 1
ELTWISE_RELU, ELTWISE_SQRT, ELTWISE_LINEAR, ELTWISE_POW = 32, 37, 38, 48
BINARY_ADD, BINARY_MUL, BINARY_MAX, BINARY_SUB = 0x1FFF0, 0x1FFF1, 0x1FFF2, 0x1FFF5
SUM = 0  # this module's own number of the step that oneDNN has a function for
USE_GLOBAL_STATS, USE_SCALE, USE_SHIFT = 1, 2, 4
F32 = 3
TAG_ANY = 1

# Arguments of a primitive, and the query that tells which layout it wants for them.
SRC, SRC_1, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
POST_OP = 32768  # times 1 more than the place of a step that follows in the same primitive
QUERY = {SRC: 129, DIFF_SRC: 130, WEIGHTS: 131, DIFF_WEIGHTS: 132, DST: 133, DIFF_DST: 134}
QUERY_IMPLEMENTATION = 8

Dims = c_int64 * 12  # called with integers: oneDNN's array of dimensions


class OnednnError(RuntimeError):
    """oneDNN refused a call; the caller falls back to Chainer's own code."""


class _Argument(ctypes.Structure):
    _fields_ = [("arg", c_int), ("memory", c_void_p)]


_SIGNATURES = {
    "dnnl_engine_create": (POINTER(c_void_p), c_int, c_size_t),
    "dnnl_stream_create": (POINTER(c_void_p), c_void_p, c_uint),
    "dnnl_memory_create": (POINTER(c_void_p), c_void_p, c_void_p, c_void_p),
    "dnnl_memory_set_data_handle": (c_void_p, c_void_p),
    "dnnl_memory_desc_create_with_strides": (POINTER(c_void_p), c_int, Dims, c_int, Dims),
    "dnnl_memory_desc_create_with_tag": (POINTER(c_void_p), c_int, Dims, c_int, c_int),
    "dnnl_primitive_create": (POINTER(c_void_p), c_void_p),
    "dnnl_primitive_execute": (c_void_p, c_void_p, c_int, c_void_p),
    "dnnl_primitive_desc_query": (c_void_p, c_int, c_int, c_void_p),
    "dnnl_memory_desc_equal": (c_void_p, c_void_p),
    **{
        f"dnnl_{kind}_destroy": (c_void_p,)
        for kind in (
            "engine",
            "stream",
            "memory",
            "memory_desc",
            "primitive",
            "primitive_desc",
            "post_ops",
            "primitive_attr",
        )
    },
    "dnnl_convolution_forward_primitive_desc_create": (
        POINTER(c_void_p),
        c_void_p,
        c_int,
        c_int,
        *[c_void_p] * 4,
        *[Dims] * 4,
        c_void_p,
    ),
    "dnnl_convolution_backward_data_primitive_desc_create": (
        POINTER(c_void_p),
        c_void_p,
        c_int,
        *[c_void_p] * 3,
        *[Dims] * 4,
        c_void_p,
        c_void_p,
    ),
    "dnnl_convolution_backward_weights_primitive_desc_create": (
        POINTER(c_void_p),
        c_void_p,
        c_int,
        *[c_void_p] * 4,
        *[Dims] * 4,
        c_void_p,
        c_void_p,
    ),
    "dnnl_batch_normalization_forward_primitive_desc_create": (
        POINTER(c_void_p),
        c_void_p,
        c_int,
        c_void_p,
        c_void_p,
        c_float,
        c_uint,
        c_void_p,
    ),
    "dnnl_batch_normalization_backward_primitive_desc_create": (
        POINTER(c_void_p),
        c_void_p,
        c_int,
        c_void_p,
        c_void_p,
        c_void_p,
        c_float,
        c_uint,
        c_void_p,
        c_void_p,
    ),
    "dnnl_eltwise_forward_primitive_desc_create": (
        POINTER(c_void_p),
        c_void_p,
        c_int,
        c_int,
        c_void_p,
        c_void_p,
        c_float,
        c_float,
        c_void_p,
    ),
    "dnnl_eltwise_backward_primitive_desc_create": (
        POINTER(c_void_p),
        c_void_p,
        c_int,
        c_void_p,
        c_void_p,
        c_void_p,
        c_float,
        c_float,
        c_void_p,
        c_void_p,
    ),
    "dnnl_binary_primitive_desc_create": (POINTER(c_void_p), c_void_p, c_int, *[c_void_p] * 4),
    "dnnl_post_ops_create": (POINTER(c_void_p),),
    "dnnl_post_ops_append_eltwise": (c_void_p, c_int, c_float, c_float),
    "dnnl_post_ops_append_binary": (c_void_p, c_int, c_void_p),
    "dnnl_post_ops_append_sum": (c_void_p, c_float, c_int, c_int),
    "dnnl_primitive_attr_create": (POINTER(c_void_p),),
    "dnnl_primitive_attr_set_post_ops": (c_void_p, c_void_p),
    "dnnl_matmul_primitive_desc_create": (POINTER(c_void_p), c_void_p, *[c_void_p] * 4, c_void_p),
    "dnnl_reorder_primitive_desc_create": (POINTER(c_void_p), *[c_void_p] * 5),
}
# What does not return a status.
_OTHERS = (
    ({"dnnl_primitive_desc_query_md": (c_void_p, c_int, c_int)}, c_void_p),
    ({"dnnl_memory_desc_get_size": (c_void_p,)}, c_size_t),
    ({"dnnl_version": ()}, POINTER(c_int)),
)


class _Handle(c_void_p):
    """A handle that oneDNN gave away, and the function that takes it back."""

    destroy: Any = None

    def __del__(self) -> None:
        if self.destroy is not None and self.value:
            self.destroy(self)


@contextlib.contextmanager
def _settings_of_libgomp() -> Iterator[None]:
    """libgomp, loaded meanwhile, lets a waiting thread spin four thousand times at most, a fraction of a millisecond,
    not for its usual ten milliseconds, and has as many threads as there are cores for this process and its container.

    Waiting threads that spin take the cores from those they wait for as soon as anything else runs, as what loads the
    next batch does; those that sleep after a thousand are slow to wake, which costs a single step or
    conversion up to a quarter.
    OMP_WAIT_POLICY or GOMP_SPINCOUNT and OMP_NUM_THREADS, if set, decide.
    """
    usual = {"OMP_NUM_THREADS": str(available_cores())} | (
        {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "4000"}
    )
    settings = {name: value for name, value in usual.items() if name not in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]


class Library:
    """The library with one engine and one stream, both for the CPU. ``path``: of libdnnl.so.3."""

    def __init__(self, path: str | os.PathLike) -> None:
        with _settings_of_libgomp():
            self._so = ctypes.CDLL(str(path))
        for signatures, result in ((_SIGNATURES, c_int), *_OTHERS):
            for name, arguments in signatures.items():
                function = getattr(self._so, name)
                function.argtypes, function.restype = arguments, result
        self.version = tuple(self._so.dnnl_version()[:3])
        if self.version[0] != MAJOR:
            raise OnednnError(f"{path} is oneDNN {self.version[0]}, not {MAJOR}")
        self.engine = self.create("dnnl_engine_create", 1, 0)
        self.stream = self.create("dnnl_stream_create", self.engine, 1)
        self.execute = self._so.dnnl_primitive_execute
        self.set_data_handle = self._so.dnnl_memory_set_data_handle
        # Memory objects belong to their primitive, so one thread at a time.
        self.lock = threading.Lock()

    def create(self, name: str, *arguments: Any) -> _Handle:
        """The handle that a creating function returns in its first argument. Raises OnednnError."""
        handle = _Handle()
        self._call(name, byref(handle), *arguments)
        made = name.removeprefix("dnnl_").split("_create")[0]  # dnnl_engine_create makes an engine
        kind = "primitive_desc" if made.endswith("_primitive_desc") else made
        handle.destroy = getattr(self._so, f"dnnl_{kind}_destroy")
        return handle

    def descriptor(self, shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> c_void_p:
        """Memory descriptor of a float32 array; ``strides`` in elements, None leaves the layout to oneDNN."""
        if strides is None:
            return self.create("dnnl_memory_desc_create_with_tag", len(shape), Dims(*shape), F32, TAG_ANY)
        return self.create("dnnl_memory_desc_create_with_strides", len(shape), Dims(*shape), F32, Dims(*strides))

    def dense(self, shape: tuple[int, ...]) -> c_void_p:
        """Descriptor of an array in the order of its axes."""
        return self.descriptor(shape, first_strides(shape))

    def images(self, shape: tuple[int, ...]) -> c_void_p:
        """Descriptor of (N, C, H, W), channels last in memory."""
        _, c, h, w = shape
        return self.descriptor(shape, (c * h * w, 1, w * c, c))

    def primitive(self, kind: str, *values: Any, of: dict[int, c_void_p]) -> "Primitive":
        """A :class:`Primitive` of a ``kind`` ("eltwise_forward") that oneDNN makes from an engine and ``values``."""
        return Primitive(self, self.create(f"dnnl_{kind}_primitive_desc_create", self.engine, *values), of)

    def reorder(self, source: c_void_p, target: c_void_p) -> "Primitive":
        """A :class:`Primitive` that copies an array from one layout to another; run(source, target)."""
        made = self.create("dnnl_reorder_primitive_desc_create", source, self.engine, target, self.engine, None)
        return Primitive(self, made, {SRC: source, DST: target})

    def binary(self, operation: int, arrays: c_void_p, then: Iterable[tuple] = ()) -> "Primitive | None":
        """A :class:`Primitive` that computes a ``operation`` b, and ``then`` more with it while it is in a register.

        arrays: descriptor of a, b and the result. then: steps (ELTWISE_…, alpha, beta); (BINARY_…, descriptor), the
        value so far with one more array; (SUM, scale), plus scale times what the result held before.
        run(a, b, result, *more arrays); any may be the same. None where oneDNN refuses, or has only its slow reference
        code.
        """
        arguments = {SRC: arrays, SRC_1: arrays, DST: arrays}
        try:
            steps, attributes = self.create("dnnl_post_ops_create"), self.create("dnnl_primitive_attr_create")
            for i, (kind, *values) in enumerate(then):
                if kind == SUM:
                    self._call("dnnl_post_ops_append_sum", steps, *values, 0, 0)
                elif kind >= BINARY_ADD:
                    self._call("dnnl_post_ops_append_binary", steps, kind, *values)
                    (arguments[POST_OP * (i + 1) | SRC_1],) = values
                else:
                    self._call("dnnl_post_ops_append_eltwise", steps, kind, *values)
            self._call("dnnl_primitive_attr_set_post_ops", attributes, steps)
            made = self.primitive("binary", operation, arrays, arrays, arrays, attributes, of=arguments)
        except OnednnError:
            return None
        return made if self.implementation(made.descriptor).startswith("jit") else None

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._so, name)(*arguments):
            raise OnednnError(f"{name}: status {status}")

    def wanted(self, primitive_descriptor: c_void_p, argument: int) -> c_void_p:
        """The layout that a primitive has chosen for an argument: a descriptor, owned by the primitive."""
        return c_void_p(self._so.dnnl_primitive_desc_query_md(primitive_descriptor, QUERY[argument], 0))

    def size(self, descriptor: c_void_p) -> int:
        """Bytes that an array of this layout takes."""
        return self._so.dnnl_memory_desc_get_size(descriptor)

    def same(self, a: c_void_p, b: c_void_p) -> bool:
        """Whether two descriptors mean the same layout."""
        return bool(self._so.dnnl_memory_desc_equal(a, b))

    def implementation(self, primitive_descriptor: c_void_p) -> str:
        """oneDNN's name of the code that was chosen, for instance ``brgconv:avx512_core``."""
        text = c_char_p()
        self._so.dnnl_primitive_desc_query(primitive_descriptor, QUERY_IMPLEMENTATION, 0, byref(text))
        return (text.value or b"").decode()


class Primitive:
    """A primitive with its memory objects, to be called with arrays in the order of ``arguments``.

    descriptor: what it was made from, which the primitive of its gradient asks for.
    arguments: the layout (memory descriptor) of each argument's number.
    """

    def __init__(self, dnnl: Library, descriptor: c_void_p, arguments: dict[int, c_void_p]) -> None:
        self._dnnl = dnnl
        # The layouts among ``arguments`` may be the descriptor's own.
        self.descriptor = descriptor
        self._handle = dnnl.create("dnnl_primitive_create", descriptor)
        # Without data, which each run gives them.
        self._memories = [dnnl.create("dnnl_memory_create", each, dnnl.engine, None) for each in arguments.values()]
        self._count = len(arguments)
        self._arguments = (_Argument * self._count)(*map(_Argument, arguments, self._memories))

    def __call__(self, *arrays: np.ndarray) -> None:
        """Execute on the memory of ``arrays``. Raises OnednnError."""
        with self._dnnl.lock:
            self.run(*[a.ctypes.data for a in arrays])

    def run(self, *addresses: int) -> None:
        """Execute on what lies there. Call with ``Library.lock`` held. Raises OnednnError."""
        set_data_handle = self._dnnl.set_data_handle
        for memory, address in zip(self._memories, addresses, strict=True):
            set_data_handle(memory, address)
        status = self._dnnl.execute(self._handle, self._dnnl.stream, self._count, self._arguments)
        if status:
            raise OnednnError(f"execution: status {status}")


def find() -> os.PathLike | None:
    """Path of the library inside the installed wheel, None if it is not installed."""
    try:
        files = metadata.files(DISTRIBUTION) or ()
    except metadata.PackageNotFoundError:
        return None
    return next((file.locate() for file in files if file.name == f"libdnnl.so.{MAJOR}"), None)


@functools.cache
def library() -> Library | None:
    """The :class:`Library`, or None where the wheel is not installed or does not load."""
    path = find()
    if path is None:
        return None
    try:
        return Library(path)
    except (OSError, AttributeError, OnednnError):
        return None


def loaded() -> Library:
    """The :class:`Library`. Raises OnednnError where :func:`library` is None."""
    dnnl = library()
    if dnnl is None:
        raise OnednnError(f"oneDNN is not installed: pip install {DISTRIBUTION}==2023.2.0 (Linux x86-64)")
    return dnnl
