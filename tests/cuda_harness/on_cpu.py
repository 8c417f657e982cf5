"""This project's CUDA sources on NumPy's arrays, by g++."""

import functools

import numpy as np

from cuda_harness import by_gcc, texts
from medi2i.common.compat import chainer
from medi2i.common.kernels.gpu.sources import CudaSource


@functools.lru_cache(None)
def _text(source, dtype):
    return texts.text(source, dtype, half=by_gcc.HALF)


def launch(source, grid, block, args, dtype):
    """Run the function ``source.name`` as CUDA would; see :meth:`CudaSource.launch`. ``args`` are NumPy's."""
    kept = []
    for a in args:
        if isinstance(a, np.ndarray):
            if not a.flags.c_contiguous:
                raise ValueError(f"{source.name}: an array of shape {a.shape} is not dense")
            kept.append(np.array(a.ctypes.data, np.uintp))
        elif isinstance(a, np.generic):
            kept.append(np.array(a))
        else:
            raise TypeError(f"{source.name}: {a!r} is neither an array nor a NumPy scalar")
    by_gcc.launch_text(source.name, _text(source, dtype), grid, block, kept)


def call(source, args):
    """Run an elementwise kernel or a full reduction as CuPy does; see :meth:`CudaSource.__call__`."""
    parameters = texts.parameters(source)
    inputs = [p for p in parameters if not p[3]]
    values = dict(zip((p[1] for p in parameters), args, strict=False))
    if len(values) < len(inputs):
        raise TypeError(f"{source.name} takes {len(inputs)} inputs, not {len(args)}")
    generic = {
        kind: np.asarray(values[name]).dtype for kind, name, *_ in parameters if name in values and kind.isupper()
    }
    dtypes = {name: generic.get(kind) if kind.isupper() else np.dtype(kind) for kind, name, *_ in parameters}
    shaped = [
        values[name]
        for _, name, is_raw, is_output in parameters
        if name in values and not is_raw and (source.kind == "elementwise" or not is_output)
    ]
    shape = np.broadcast_shapes(*(np.shape(v) for v in shaped))
    arrays, outputs = [], []
    for _, name, is_raw, is_output in parameters:
        if is_output:
            own = shape if source.kind == "elementwise" else ()
            array = np.zeros(own, dtypes[name]) if name not in values else values[name]
            outputs.append(array)
        else:
            array = np.asarray(values[name], dtypes[name])
            array = np.ascontiguousarray(array if is_raw else np.broadcast_to(array, shape))
        arrays.append(array)
    count = np.int64(int(np.prod(shape)))
    dtype = next(iter(generic.values()), np.dtype(np.float32)).name
    launch(source, (1,), (1,), [*arrays, count], dtype)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def take_numpy_arrays():
    """From now on sources run here where all that they are given is NumPy's."""
    on_gpu = {"__call__": CudaSource.__call__, "launch": CudaSource.launch}

    def all_numpy(args):
        return all(chainer.backend.get_array_module(a) is np for a in args)

    def run(source, *args):
        return call(source, args) if all_numpy(args) else on_gpu["__call__"](source, *args)

    def run_raw(source, grid, block, args, dtype):
        if all_numpy(args):
            launch(source, grid, block, args, np.dtype(dtype).name)
        else:
            on_gpu["launch"](source, grid, block, args, dtype)

    CudaSource.__call__, CudaSource.launch = run, run_raw
