"""CUDA C++ on the CPU, by g++: shows that a kernel's arithmetic and indices are right. For tests; slow.

Blocks run one after another, the threads of a block as coroutines that take turns at ``__syncthreads``, upwards and
downwards alternately, so that a missing barrier shows as a wrong result. A thread that leaves before a barrier at which
others wait is an error. Neither races between blocks nor speed are seen; warp functions and dynamic shared memory are
not there. What is compiled is kept in build/kernels.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

KEPT = Path(__file__).resolve().parents[2] / "build" / "kernels"
FLAGS = (
    "-std=c++20", "-O1", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-ffp-contract=off", "-fno-exceptions",
    "-nostdlib", "-shared", "-fPIC",
)  # fmt: skip
LIBRARIES = ("-lgcc", "-lm", "-lc")

# The headers of C only: those of C++ take several times as long to compile as all the rest. g++ would put its <cmath>
# in the place of <math.h>, so what CUDA has for float under the names for double is said here.
HEAD = r"""
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __ldg(p) (*(p))
struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
static void pause();
static void __syncthreads() { pause(); }
template <class V> static V atomicAdd(V* p, V v) { const V old = *p; *p = old + v; return old; }
template <class U, class V> static auto max(U u, V v) -> decltype(u + v) { return u > v ? u : v; }
template <class U, class V> static auto min(U u, V v) -> decltype(u + v) { return u < v ? u : v; }
#define OF_FLOAT(name) static inline float name(float x) { return name##f(x); }
OF_FLOAT(acos) OF_FLOAT(asin) OF_FLOAT(atan) OF_FLOAT(ceil) OF_FLOAT(cos) OF_FLOAT(cosh) OF_FLOAT(erf) OF_FLOAT(erfc)
OF_FLOAT(exp) OF_FLOAT(exp2) OF_FLOAT(expm1) OF_FLOAT(fabs) OF_FLOAT(floor) OF_FLOAT(lgamma) OF_FLOAT(log)
OF_FLOAT(log10) OF_FLOAT(log1p) OF_FLOAT(log2) OF_FLOAT(rint) OF_FLOAT(round) OF_FLOAT(sin) OF_FLOAT(sinh)
OF_FLOAT(sqrt) OF_FLOAT(tan) OF_FLOAT(tanh) OF_FLOAT(tgamma) OF_FLOAT(trunc)
#define OF_FLOATS(name) static inline float name(float x, float y) { return name##f(x, y); }
OF_FLOATS(atan2) OF_FLOATS(copysign) OF_FLOATS(fmax) OF_FLOATS(fmin) OF_FLOATS(fmod) OF_FLOATS(hypot) OF_FLOATS(pow)
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline int abs(int x) { return x < 0 ? -x : x; }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
"""
HALF = "typedef _Float16 float16;\n"
TAIL = r"""
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
enum { MOST = 1024, STACK = 1 << 16 };
struct Thread { jmp_buf at; ucontext_t start; bool started, done; };
static Thread threads[MOST];
static char stacks[MOST][STACK];
static jmp_buf turn;
static unsigned now;
static void** given;
__attribute__((noinline)) static void pause() {
    const Index mine = threadIdx;
    const unsigned t = now;
    if (!_setjmp(threads[t].at)) _longjmp(turn, 1);
    threadIdx = mine;
    now = t;
}
static void work() {
    for (;;) {
        const unsigned t = now;
        threadIdx = {t %% blockDim.x, t / blockDim.x %% blockDim.y, t / (blockDim.x * blockDim.y)};
        one(&%s, given);
        threads[t].done = true;
        pause();
    }
}
static void resume(unsigned t) {
    now = t;
    if (_setjmp(turn)) return;
    if (threads[t].started) _longjmp(threads[t].at, 1);
    // Once for the life of the process: a context costs system calls.
    threads[t].started = true;
    getcontext(&threads[t].start);
    threads[t].start.uc_stack.ss_sp = stacks[t];
    threads[t].start.uc_stack.ss_size = STACK;
    threads[t].start.uc_link = nullptr;
    makecontext(&threads[t].start, work, 0);
    setcontext(&threads[t].start);
}
extern "C" int medi2i_launch(const unsigned* size, void** args) {
    gridDim = {size[0], size[1], size[2]};
    blockDim = {size[3], size[4], size[5]};
    given = args;
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    if (count > MOST) return 1;
    for (unsigned b = 0; b < gridDim.x * gridDim.y * gridDim.z; ++b) {
        blockIdx = {b %% gridDim.x, b / gridDim.x %% gridDim.y, b / (gridDim.x * gridDim.y)};
        for (unsigned t = 0; t < count; ++t) threads[t].done = false;
        for (unsigned round = 0, left = count; left > 0; ++round) {
            left = 0;
            for (unsigned k = 0; k < count; ++k) {
                const unsigned t = round %% 2 ? count - 1 - k : k;
                resume(t);
                left += !threads[t].done;
            }
            if (left && left < count) {
                for (unsigned t = 0; t < count; ++t) threads[t].started = false;
                return 2;
            }
        }
    }
    return 0;
}
"""


class NoCompiler(RuntimeError):
    """There is no g++."""


def compiler():
    """The path of g++, None without."""
    return shutil.which("g++")


@functools.lru_cache(None)
def compiled(name, text):
    """The library of C++ ``text``, by g++ or from what is kept. Raises NoCompiler, or ValueError with g++'s words."""
    made = KEPT / f"{name[:40]}-{hashlib.sha256(repr((text, FLAGS, LIBRARIES)).encode()).hexdigest()[:24]}.so"
    if not made.is_file():
        if compiler() is None:
            raise NoCompiler(f"{name}: CUDA sources run without a GPU through g++ only, which is not installed")
        KEPT.mkdir(parents=True, exist_ok=True)
        temporary = made.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        done = subprocess.run(
            [compiler(), *FLAGS, "-x", "c++", "-", "-o", temporary, *LIBRARIES],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"{name} does not compile: {done.stderr}")
        temporary.replace(made)
    return ctypes.CDLL(str(made))


_BUSY = threading.Lock()


def launch_text(name, text, grid, block, kept):
    """Run the ``extern "C" __global__`` function ``name`` of ``text``, which follows HEAD, on ``kept``: one NumPy array
    of no dimension for each parameter."""
    size = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block))]
    pointers = (ctypes.c_void_p * len(kept))(*(a.ctypes.data for a in kept))
    library = compiled(name, HEAD + text + TAIL % name)
    with _BUSY:  # the library has one set of threads
        status = library.medi2i_launch((ctypes.c_uint * 6)(*size), pointers)
    if status == 1:
        raise ValueError(f"{name}: {block} are more than 1024 threads in a block")
    if status:
        raise ValueError(f"{name}: threads of a block left before a barrier at which others wait")
