"""What computes convolutions on a GPU: CuPy's cuDNN 8, else cuDNN 9 by its own Python module, else matrix products.

CuPy 14 has no cuDNN of its own any more; NVIDIA's module ``cudnn`` (nvidia-cudnn-frontend) has. A plan is built once
for each shape, dtype and precision. Where cuDNN is not there, or builds no plan for a layer, the layer is computed by
``chunked_convolution``, and the first time that is said.
"""

import importlib
import os
import warnings
from typing import Any

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels import chunked_convolution
from medi2i.common.kernels.chunked_convolution import Geometry, first_strides
from medi2i.common.kernels.convolution_nodes import Convolutions, on_gpu
from medi2i.common.kernels.replacing import Replaced

WORKSPACE = 512 << 20  # bytes; with less, cuDNN leaves out its quick algorithms
_TYPES = {"float16": "HALF", "float32": "FLOAT", "float64": "DOUBLE"}

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
    code: Convolutions = chunked_convolution
    try:
        cudnn = importlib.import_module("cudnn")
        code, name = CudnnConvolutions(cudnn, tf32), f"cuDNN {cudnn.backend_version() // 10000} by its Python module"
    # An ImportError where it is not installed; the others where its library is missing or another one.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        name = f"matrix products (no cuDNN: {error})"
    _replaced.replace(on_gpu(code))
    return name


def disable() -> None:
    """Chainer's own code again."""
    _replaced.put_back()


class CudnnConvolutions:
    """forward, backward_data and backward_weights as ``chunked_convolution`` has them.

    Args:
        cudnn: the module ``cudnn``.
        tf32: whether float32 products may be of rounded factors (10 bits), which tensor cores are quick at.
    """

    def __init__(self, cudnn: Any, tf32: bool = False) -> None:
        self.cudnn = cudnn
        self.tf32 = tf32
        self._refusals = (RuntimeError, ValueError, TypeError, AttributeError, cudnn.cudnnGraphNotSupportedError)
        self._handles: dict[int, Any] = {}
        self._plans: dict[tuple, tuple | None] = {}
        self._warned = False

    def forward(self, x: Array, weights: Array, bias: Array | None, geometry: Geometry) -> Array:
        """The convolution of ``x`` plus ``bias`` ((C',) or None)."""
        y = self._run("fprop", geometry, geometry.out_shape, image=x, weight=weights)
        if y is None:
            return chunked_convolution.forward(x, weights, bias, geometry)
        if bias is not None:
            y += bias[:, None, None]
        return y

    def backward_data(self, gy: Array, weights: Array, geometry: Geometry) -> Array:
        """The gradient by the input."""
        gx = self._run("dgrad", geometry, geometry.shape, loss=gy, filter=weights)
        return chunked_convolution.backward_data(gy, weights, geometry) if gx is None else gx

    def backward_weights(self, x: Array, gy: Array, geometry: Geometry) -> Array:
        """The gradient by the weights."""
        gw = self._run("wgrad", geometry, geometry.weights, image=x, loss=gy)
        return chunked_convolution.backward_weights(x, gy, geometry) if gw is None else gw

    def _run(self, kind: str, geometry: Geometry, shape: tuple[int, ...], **inputs: Array) -> Array | None:
        """The result, or None where cuDNN has no plan."""
        xp = chainer.backend.get_array_module(*inputs.values())
        inputs = {name: xp.ascontiguousarray(array) for name, array in inputs.items()}
        dtype = next(iter(inputs.values())).dtype
        deterministic = bool(chainer.config.cudnn_deterministic)
        key = (_device(), kind, geometry, dtype.name, deterministic)
        if key not in self._plans:
            try:
                self._plans[key] = self._plan(kind, geometry, shape, dtype.name, deterministic, inputs)
            except self._refusals as error:
                self._plans[key] = None
                if not self._warned:
                    warnings.warn(
                        f"cuDNN builds no plan for a convolution ({kind}, {geometry}: {error}); such layers are "
                        "computed without it, slower",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    self._warned = True
        plan = self._plans[key]
        if plan is None:
            return None
        graph, tensors, result, size = plan
        out = xp.empty(shape, dtype)
        workspace = xp.empty(max(size, 1), xp.uint8)
        handle = self._handle()
        self.cudnn.set_stream(handle, _stream())
        graph.execute(
            {**{tensors[name]: _address(array) for name, array in inputs.items()}, result: _address(out)},
            _address(workspace),
            handle,
        )
        return out

    def _plan(
        self,
        kind: str,
        geometry: Geometry,
        shape: tuple[int, ...],
        dtype: str,
        deterministic: bool,
        inputs: dict[str, Array],
    ) -> tuple:
        cudnn = self.cudnn
        number = getattr(cudnn.data_type, _TYPES[dtype])
        sums = cudnn.data_type.DOUBLE if dtype == "float64" else cudnn.data_type.FLOAT
        graph = cudnn.pygraph(
            io_data_type=number, intermediate_data_type=sums, compute_data_type=sums, handle=self._handle()
        )
        tensors = {
            name: graph.tensor(
                dim=list(array.shape), stride=list(first_strides(array.shape)), data_type=number, name=name
            )
            for name, array in inputs.items()
        }
        operation = {"fprop": graph.conv_fprop, "dgrad": graph.conv_dgrad, "wgrad": graph.conv_wgrad}[kind]
        result = operation(
            **tensors,
            pre_padding=list(geometry.pad),
            post_padding=_post_padding(geometry),
            stride=list(geometry.stride),
            dilation=list(geometry.dilate),
        )
        result.set_output(True)
        result.set_dim(list(shape))
        result.set_stride(list(first_strides(shape)))
        result.set_data_type(number)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        notes = cudnn.numerical_note
        left_out = [notes.NONDETERMINISTIC] if deterministic else []
        if dtype == "float32" and not self.tf32:
            left_out += [notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS]
        if left_out:
            graph.deselect_numeric_notes(left_out)
        graph.deselect_workspace_greater_than(WORKSPACE)
        graph.check_support()
        graph.build_plans()
        return graph, tensors, result, graph.get_workspace_size()

    def _handle(self) -> Any:
        device = _device()
        if device not in self._handles:
            self._handles[device] = self.cudnn.create_handle()
        return self._handles[device]


def _post_padding(geometry: Geometry) -> list[int]:
    """Padding after the image: the same as before it wherever that gives ``out_shape``, since cuDNN does it best."""
    return [
        p if (size + 2 * p - (k - 1) * d - 1) // s + 1 == out else after
        for out, s, k, d, size, p, after in zip(
            geometry.out_shape[2:],
            geometry.stride,
            geometry.weights[2:],
            geometry.dilate,
            geometry.shape[2:],
            geometry.pad,
            geometry.pad_after,
            strict=True,
        )
    ]


def _device() -> int:
    """Number of the current GPU."""
    return chainer.backends.cuda.cupy.cuda.Device().id


def _stream() -> int:
    """Address of the current stream."""
    return chainer.backends.cuda.cupy.cuda.get_current_stream().ptr


def _address(array: Any) -> int:
    """Address of the first element of an array on the GPU."""
    return array.data.ptr
