"""CUDA sources on the CPU, by g++: shows that a kernel's arithmetic and indices are right. For tests; slow.

Blocks run one after another, the threads of a block as threads of the process that meet at ``__syncthreads``. Neither
races between blocks nor speed are seen; warp functions and dynamic shared memory are not there.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from cuda_harness import texts

# The headers of C only: those of C++ threads take several times as long to compile as all the rest.
_HEAD = r"""
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __ldg(p) (*(p))
struct Index { unsigned x, y, z; };
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static pthread_barrier_t block_barrier;
static inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }
template <class V> static V atomicAdd(V* p, V v) {
    V old, sum;
    __atomic_load(p, &old, __ATOMIC_SEQ_CST);
    do sum = old + v;
    while (!__atomic_compare_exchange(p, &old, &sum, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}
template <class U, class V> static auto max(U u, V v) -> decltype(u + v) { return u > v ? u : v; }
template <class U, class V> static auto min(U u, V v) -> decltype(u + v) { return u < v ? u : v; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
"""
_HALF = "typedef _Float16 float16;\n"
_TAIL = r"""
template <class V> struct bare { typedef V type; };
template <class V> struct bare<const V> { typedef V type; };
template <size_t... K> struct Places {};
template <size_t N, size_t... K> struct Count : Count<N - 1, N - 1, K...> {};
template <size_t... K> struct Count<0, K...> { typedef Places<K...> type; };
template <class... P, size_t... K> static void one(void (*f)(P...), void** args, Places<K...>) {
    f(*static_cast<typename bare<P>::type*>(args[K])...);
}
template <class... P> static void one(void (*f)(P...), void** args) {
    one(f, args, typename Count<sizeof...(P)>::type());
}
struct Thread { pthread_t handle; unsigned number; void** args; };
static void* work(void* given) {
    const Thread& self = *static_cast<Thread*>(given);
    const unsigned t = self.number;
    threadIdx = {t %% blockDim.x, t / blockDim.x %% blockDim.y, t / (blockDim.x * blockDim.y)};
    for (unsigned b = 0; b < gridDim.x * gridDim.y * gridDim.z; ++b) {
        blockIdx = {b %% gridDim.x, b / gridDim.x %% gridDim.y, b / (gridDim.x * gridDim.y)};
        one(&%s, self.args);
        __syncthreads();
    }
    return nullptr;
}
extern "C" int medi2i_launch(const unsigned* size, void** args) {
    gridDim = {size[0], size[1], size[2]};
    blockDim = {size[3], size[4], size[5]};
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    Thread threads[1024];
    if (count > 1024) return 1;
    pthread_barrier_init(&block_barrier, nullptr, count);
    for (unsigned t = 0; t < count; ++t) {
        threads[t].number = t;
        threads[t].args = args;
        // A thread that is missing would leave the others waiting at the barrier for ever.
        if (pthread_create(&threads[t].handle, nullptr, work, &threads[t])) __builtin_trap();
    }
    for (unsigned t = 0; t < count; ++t) pthread_join(threads[t].handle, nullptr);
    pthread_barrier_destroy(&block_barrier);
    return 0;
}
"""


class NoCompiler(RuntimeError):
    """There is no g++."""


def compiler():
    """The path of g++, None without."""
    return shutil.which("g++")


@functools.lru_cache(None)
def _library(source, dtype):
    if compiler() is None:
        raise NoCompiler(f"{source.name}: CUDA sources run on NumPy arrays through g++ only, which is not installed")
    text = _HEAD + texts.text(source, dtype, half=_HALF) + _TAIL % source.name
    with tempfile.TemporaryDirectory() as folder:
        code, made = Path(folder, f"{source.name}.cpp"), Path(folder, f"{source.name}.so")
        code.write_text(text)
        done = subprocess.run(
            [compiler(), "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o", made, code],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"{source.name} for {dtype} does not compile: {done.stderr}")
        return ctypes.CDLL(str(made))


def launch(source, grid, block, args, dtype):
    """Run the function ``source.name`` as CUDA would; see :meth:`CudaSource.launch`. ``args`` are NumPy's."""
    size = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block))]
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
    pointers = (ctypes.c_void_p * len(kept))(*(a.ctypes.data for a in kept))
    if _library(source, dtype).medi2i_launch((ctypes.c_uint * 6)(*size), pointers):
        raise ValueError(f"{source.name}: {block} are more than 1024 threads in a block")


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
