"""cuDNN 8 by CuPy 13: convolutions and activations, as Chainer calls them. Arrays must be dense there, too."""

import cupy
from cupy.cuda import cudnn as _lib

_workspace = [8 << 20]


def get_max_workspace_size():
    return _workspace[0]


def set_max_workspace_size(size):
    _workspace[0] = size


def is_tensor_core_available(dtype):
    return True


def _dense(*arrays):
    if not all(a is None or a.flags.c_contiguous for a in arrays):
        raise ValueError("cuDNN: an array is not dense")
    if len({a.dtype for a in arrays if a is not None}) > 1:
        raise ValueError("cuDNN: arrays of several dtypes")


def _geometry(shape, out_shape, weights, pad, stride, dilation, groups):
    from medi2i.common.kernels.chunked_convolution import Geometry

    return Geometry(shape, out_shape, weights, tuple(stride), tuple(pad), tuple(dilation), groups)


def _code():
    from medi2i.common.kernels import chunked_convolution

    return chunked_convolution


def convolution_forward(x, W, b, y, pad, stride, dilation, groups, *, auto_tune, tensor_core, **layouts):
    _dense(x, W, b, y)
    y[...] = _code().forward(x, W, b, _geometry(x.shape, y.shape, W.shape, pad, stride, dilation, groups))


def convolution_backward_data(
    W, x, b, y, pad, stride, dilation, groups, *, deterministic, auto_tune, tensor_core, **layouts
):
    _dense(W, x, b, y)
    y[...] = _code().backward_data(x, W, _geometry(y.shape, x.shape, W.shape, pad, stride, dilation, groups))
    if b is not None:
        y += b[:, None, None]


def convolution_backward_filter(
    x, gy, gW, pad, stride, dilation, groups, *, deterministic, auto_tune, tensor_core, **layouts
):
    _dense(x, gy, gW)
    gW[...] = _code().backward_weights(x, gy, _geometry(x.shape, gy.shape, gW.shape, pad, stride, dilation, groups))


def activation_forward(x, mode, coef=0.0):
    if mode == _lib.CUDNN_ACTIVATION_RELU:
        return cupy.maximum(x, 0)
    if mode == _lib.CUDNN_ACTIVATION_TANH:
        return cupy.tanh(x)
    if mode == _lib.CUDNN_ACTIVATION_SIGMOID:
        return cupy.tanh(x * 0.5) * 0.5 + 0.5
    raise NotImplementedError(f"the stand-in for CuPy: cuDNN's activation {mode}")


def activation_backward(x, y, gy, mode, coef=0.0):
    if mode == _lib.CUDNN_ACTIVATION_RELU:
        return gy * (y > 0)
    if mode == _lib.CUDNN_ACTIVATION_TANH:
        return gy * (1 - y * y)
    if mode == _lib.CUDNN_ACTIVATION_SIGMOID:
        return gy * y * (1 - y)
    raise NotImplementedError(f"the stand-in for CuPy: cuDNN's activation {mode}")


def __getattr__(name):
    raise cupy.Missing(f"the stand-in for CuPy has no cupy.cudnn.{name}")
