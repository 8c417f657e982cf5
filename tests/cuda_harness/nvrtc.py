"""Compiling CUDA sources without CuPy and without a GPU: NVRTC of the wheel ``nvidia-cuda-nvrtc``. For tests."""

import ctypes
import functools
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from importlib import metadata

DISTRIBUTIONS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
ARCHITECTURES = ("compute_80", "compute_90")


def find():
    """The path of libnvrtc, None where none of its wheels is installed."""
    for distribution in DISTRIBUTIONS:
        try:
            files = metadata.files(distribution) or ()
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            # Beside it lie libnvrtc-builtins and, in some wheels, libnvrtc.alt.
            if file.name.startswith("libnvrtc.so.") and file.locate().is_file():
                return file.locate()
    return None


@functools.cache
def _library(path):
    so = ctypes.CDLL(str(path))
    for name, arguments in {
        "nvrtcCreateProgram": (POINTER(c_void_p), c_char_p, c_char_p, c_int, c_void_p, c_void_p),
        "nvrtcCompileProgram": (c_void_p, c_int, POINTER(c_char_p)),
        "nvrtcGetProgramLogSize": (c_void_p, POINTER(c_size_t)),
        "nvrtcGetProgramLog": (c_void_p, c_char_p),
        "nvrtcGetPTXSize": (c_void_p, POINTER(c_size_t)),
        "nvrtcGetPTX": (c_void_p, c_char_p),
        "nvrtcDestroyProgram": (POINTER(c_void_p),),
    }.items():
        function = getattr(so, name)
        function.argtypes, function.restype = arguments, c_int
    return so


def compile_ptx(text, architecture="compute_80"):
    """The PTX of CUDA C++ ``text``. Raises ValueError with the compiler's words, RuntimeError without NVRTC."""
    path = find()
    if path is None:
        raise RuntimeError(f"NVRTC is not installed: pip install {DISTRIBUTIONS[0]}")
    so = _library(path)
    program = c_void_p()
    _check(so.nvrtcCreateProgram(byref(program), text.encode(), b"k.cu", 0, None, None), "create")
    try:
        options = (c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"--std=c++17")
        status = so.nvrtcCompileProgram(program, len(options), options)
        if status:
            log = _read(so.nvrtcGetProgramLogSize, so.nvrtcGetProgramLog, program)
            raise ValueError(f"NVRTC: status {status}\n{log}")
        return _read(so.nvrtcGetPTXSize, so.nvrtcGetPTX, program)
    finally:
        so.nvrtcDestroyProgram(byref(program))


def _read(size_of, read, program):
    size = c_size_t()
    _check(size_of(program, byref(size)), "size")
    buffer = ctypes.create_string_buffer(size.value)
    _check(read(program, buffer), "read")
    return buffer.value.decode()


def _check(status, what):
    if status:
        raise RuntimeError(f"NVRTC: {what}: status {status}")
