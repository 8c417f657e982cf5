"""Every CUDA source compiles; running them on the CPU does what CUDA would do. What each computes: its own module's."""

import numpy as np
import pytest
from cuda_harness import all_sources, by_gcc, nvrtc, texts

from medi2i.common.kernels.gpu.sources import CudaSource

needs_nvrtc = pytest.mark.skipif(nvrtc.find() is None, reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc")
needs_gcc = pytest.mark.skipif(by_gcc.compiler() is None, reason="g++ is not installed")

SOURCES = [
    pytest.param(source, dtype, id=f"{source.name}-{dtype}") for source in all_sources() for dtype in source.dtypes
]

REVERSE = CudaSource(
    "reverse_blocks",
    "raw",
    r"""
extern "C" __global__ void reverse_blocks(const T* x, T* y, A factor, int n) {
    __shared__ T shared[64];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    shared[threadIdx.x] = i < n ? x[i] : (T)0;
    __syncthreads();
    const int from = blockDim.x - 1 - threadIdx.x;
    if (i < n) y[i] = (T)(factor * (A)shared[from]);
}
""",
)
SCALE = CudaSource(
    "scale_and_count",
    "elementwise",
    in_params="raw T table, T x, int32 k",
    out_params="T y, int64 index",
    operation="y = x * table[k] + twice(x); index = i;",
    preamble="__device__ float twice(float v) { return 2 * v; }",
)
PRODUCT = CudaSource(
    "product_sum",
    "reduction",
    in_params="T x, T y",
    out_params="float32 found",
    operation="(float)(x * y)",
)


@pytest.mark.parametrize("source, dtype", SOURCES)
def test_text_names_its_function(source, dtype):
    """Whatever is installed: the text is one function of this name, so that launching it finds it."""
    assert texts.text(source, dtype).count(f'extern "C" __global__ void {source.name}(') == 1


@needs_nvrtc
@pytest.mark.parametrize("source, dtype", SOURCES)
def test_every_source_compiles(source, dtype):
    for architecture in nvrtc.ARCHITECTURES:
        assert f".visible .entry {source.name}(" in nvrtc.compile_ptx(texts.text(source, dtype), architecture)


@needs_nvrtc
@pytest.mark.parametrize("source", [REVERSE, SCALE, PRODUCT], ids=lambda source: source.kind)
def test_every_kind_compiles(source):
    for dtype in ("float32", "float16", "float64"):
        nvrtc.compile_ptx(texts.text(source, dtype))


@needs_nvrtc
def test_a_mistake_is_found():
    with pytest.raises(ValueError, match="undefinde"):
        nvrtc.compile_ptx(texts.text(CudaSource("wrong", "elementwise", "y = undefinde;", "T x", "T y")))


@needs_gcc
def test_a_mistake_is_found_on_the_cpu():
    with pytest.raises(ValueError, match="undefinde"):
        CudaSource("wrong", "elementwise", "y = undefinde;", "T x", "T y")(np.zeros(3, np.float32))


@needs_gcc
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_blocks_threads_and_barriers(dtype):
    x = np.arange(13).astype(dtype)
    y = np.zeros_like(x)
    factor = np.float64(2) if dtype is np.float64 else np.float32(2)
    REVERSE.launch((4,), (4,), (x, y, factor, np.int32(13)), dtype)
    np.testing.assert_array_equal(y, [6, 4, 2, 0, 14, 12, 10, 8, 22, 20, 18, 16, 0])


@needs_gcc
def test_elementwise_broadcasts_and_numbers_its_elements():
    table = np.float32([10, 20, 30])
    x = np.float32([[1], [2]])
    y, index = SCALE(table, x, np.int32([0, 2, 1]))
    np.testing.assert_array_equal(y, [[12, 32, 22], [24, 64, 44]])
    np.testing.assert_array_equal(index, [[0, 1, 2], [3, 4, 5]])
    given = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int64)
    SCALE(table, x, np.int32([0, 2, 1]), *given)
    np.testing.assert_array_equal(given[0], y)


@needs_gcc
def test_reduction():
    assert PRODUCT(np.float32([1, -3, 2]), np.float32([1, -4, 3])) == 19


@needs_gcc
def test_what_cuda_would_misread_is_refused():
    x = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match="is not dense"):
        REVERSE.launch((1,), (4,), (x[:, ::2], x, np.float32(1), np.int32(4)), "float32")
    with pytest.raises(TypeError, match="4 is neither an array nor a NumPy scalar"):
        REVERSE.launch((1,), (4,), (x, x, np.float32(1), 4), "float32")


def test_without_a_compiler_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(by_gcc, "compiler", lambda: None)
    monkeypatch.setattr(by_gcc, "KEPT", tmp_path)
    by_gcc.compiled.cache_clear()
    with pytest.raises(by_gcc.NoCompiler, match="through g"):
        PRODUCT(np.float32([1]), np.float32([1]))


def test_without_nvrtc_it_says_so(monkeypatch):
    monkeypatch.setattr(nvrtc, "find", lambda: None)
    with pytest.raises(RuntimeError, match="pip install nvidia-cuda-nvrtc"):
        nvrtc.compile_ptx("")
