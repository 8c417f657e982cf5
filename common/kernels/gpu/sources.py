"""What a CUDA source of medi2i is, so that one test compiles them all and one harness runs them on the CPU.

A module of the kernels that has CUDA code has it as a constant::

    CLIP = CudaSource("clip_scale", "elementwise", in_params="T x, float32 low, float32 width",
                      out_params="T y", operation="y = T((x - low) / width);")
    y = CLIP(x, np.float32(0), np.float32(2))          # a CuPy array: on the GPU

Tests run sources on NumPy's arrays, too: tests/cuda_harness.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# Types of CuPy's parameter lists, and what they are in C++. float16 is a type of this project's (see HALF) in raw
# sources, which then need no header of CUDA's, and CuPy's own in elementwise ones: both convert to and from float.
C_TYPES = {
    "float16": "float16",
    "float32": "float",
    "float64": "double",
    "bool": "bool",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
}

HALF = """
struct float16 {
    unsigned short bits;
    float16() = default;
    __device__ float16(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
    __device__ operator float() const {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }
};
"""

# For preambles of raw sources: the sum of one number of each thread of a block, a power of two of them, for all of them
# to see. ``shared``: __shared__ A[as many as threads].
BLOCK_SUM = """
__device__ A block_sum(A value, A* shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    const A sum = shared[0];
    __syncthreads();
    return sum;
}
"""


@dataclasses.dataclass(frozen=True, eq=False)
class CudaSource:
    """One kernel.

    Args:
        name: of the kernel; in a raw source of its ``extern "C" __global__`` function.
        kind: "elementwise", "reduction" or "raw", as CuPy's ElementwiseKernel, ReductionKernel and RawKernel.
        operation: the body of an elementwise kernel; what a reduction adds up, in float; the function of a raw source.
        in_params, out_params: CuPy's parameter lists, empty for a raw source. Types are those of ``C_TYPES`` or one
            name of a type of your choice (T), which the arrays decide. ``raw`` arrays are dense and read as x[k] only;
            the index is ``i``.
        preamble: device functions and constants before the kernel.
        dtypes: for what the tests compile and run it: the dtype that T is. In a raw source T is that type and A, in
            which sums are kept, is double for float64 and float for the others.
    """

    name: str
    kind: Literal["elementwise", "reduction", "raw"]
    operation: str
    in_params: str = ""
    out_params: str = ""
    preamble: str = ""
    dtypes: tuple[str, ...] = ("float32",)

    def definitions(self, dtype: str, half: str = HALF) -> str:
        """What comes before the code for T = ``dtype``: T and A, float16 (``half``) if it is used, and the preamble."""
        uses_half = "float16" in f"{dtype} {self.in_params} {self.out_params}"
        accumulator = "double" if dtype == "float64" else "float"
        return f"{half if uses_half else ''}\ntypedef {C_TYPES[dtype]} T;\ntypedef {accumulator} A;\n{self.preamble}\n"

    def kernel(self, dtype: str = "float32") -> Any:
        """CuPy's kernel object; made once, compiled by CuPy when it first runs. ``dtype`` matters to raw sources."""
        return _made(self, dtype if self.kind == "raw" else "float32")

    def __call__(self, *args: Any) -> Any:
        """Run an elementwise kernel or a full reduction on arrays and NumPy scalars, in the order of in_params.

        Returns its output, or a tuple of them. Outputs given after the inputs are written to.
        """
        return self.kernel()(*args)

    def launch(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], dtype: npt.DTypeLike) -> None:
        """Run a raw source with ``grid`` blocks of ``block`` threads (tuples), T being ``dtype``.

        ``args``: dense arrays and NumPy scalars of exactly the types of the function's parameters.
        """
        self.kernel(np.dtype(dtype).name)(grid, block, tuple(args))


@functools.cache
def _made(source: CudaSource, dtype: str) -> Any:
    import cupy

    if source.kind == "raw":
        return cupy.RawKernel(source.definitions(dtype) + source.operation, source.name, options=("--std=c++17",))
    if source.kind == "elementwise":
        return cupy.ElementwiseKernel(
            source.in_params, source.out_params, source.operation, source.name, preamble=source.preamble
        )
    return cupy.ReductionKernel(
        source.in_params,
        source.out_params,
        source.operation,
        "a + b",
        f"{source.out_params.split()[-1]} = a",
        "0",
        source.name,
        reduce_type="float",
        preamble=source.preamble,
    )
