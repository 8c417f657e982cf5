"""What computes convolutions on a GPU: CuPy's cuDNN 8, else cuDNN 9 by its own Python module, else matrix products."""

import importlib
import os

from medi2i.common.compat import chainer
from medi2i.common.kernels import chunked_convolution
from medi2i.common.kernels.convolution_nodes import Convolutions, on_gpu
from medi2i.common.kernels.gpu.cudnn_graphs import WORKSPACE, CudnnConvolutions
from medi2i.common.kernels.replacing import Replaced

_replaced = Replaced()


def set_precision(tf32: bool) -> None:
    """Whether float32 products may use TF32 (10 bits of each factor). Before anything is computed on the GPU.

    CuPy's matrix products ask CUPY_TF32 when the first of them runs. cuDNN 8 uses TF32 unless NVIDIA_TF32_OVERRIDE=0;
    a value of that variable that is there already stays.
    """
    if tf32:
        os.environ["CUPY_TF32"] = "1"
    else:
        os.environ.pop("CUPY_TF32", None)
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")


def enable(tf32: bool = False) -> str:
    """Make Chainer's convolutions on a GPU run on the best there is. Doing so again starts afresh.

    Returns what is in use, for the log.
    """
    disable()
    if chainer.backends.cuda.cudnn_enabled:
        chainer.backends.cuda.set_max_workspace_size(WORKSPACE)
        chainer.global_config.use_cudnn_tensor_core = "always" if tf32 else "auto"
        return "cuDNN by CuPy"
    code, name = _without_cupys_cudnn(tf32)
    _replaced.replace(on_gpu(code))
    return name


def disable() -> None:
    """Chainer's own code again."""
    _replaced.put_back()


def _without_cupys_cudnn(tf32: bool) -> tuple[Convolutions, str]:
    try:
        cudnn = importlib.import_module("cudnn")
        version = cudnn.backend_version()
        return CudnnConvolutions(cudnn, tf32), f"cuDNN {version // 10000} by its Python module"
    # An ImportError where it is not installed; the others where its library is missing or another one.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return chunked_convolution, f"matrix products (no cuDNN: {error})"
