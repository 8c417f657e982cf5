"""cuDNN 8, as CuPy 13 has it: the constants that Chainer asks for."""

from cupy import _array

if _array.VERSION >= 14:
    raise ModuleNotFoundError("No module named 'cupy.cuda.cudnn'")

CUDNN_ACTIVATION_SIGMOID, CUDNN_ACTIVATION_RELU, CUDNN_ACTIVATION_TANH, CUDNN_ACTIVATION_CLIPPED_RELU = range(4)
CUDNN_SOFTMAX_LOG, CUDNN_SOFTMAX_ACCURATE = 2, 1
CUDNN_BATCHNORM_PER_ACTIVATION, CUDNN_BATCHNORM_SPATIAL, CUDNN_BATCHNORM_SPATIAL_PERSISTENT = range(3)
CUDNN_BN_MIN_EPSILON = 1e-5
CUDNN_TENSOR_NCHW, CUDNN_TENSOR_NHWC = range(2)
CUDNN_POOLING_MAX, CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING = 0, 1
CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING, CUDNN_POOLING_MAX_DETERMINISTIC = 2, 3


def getVersion():
    return 8907


_others = {}


def __getattr__(name):
    if name.startswith("CUDNN_"):  # of functions that are not there
        return _others.setdefault(name, 1000 + len(_others))
    from cupy import Missing

    raise Missing(f"the stand-in for CuPy has no cupy.cuda.cudnn.{name}")
