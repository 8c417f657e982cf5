"""The names that options may take. Typed counterparts are in ``medi2i.common.networks``; a test keeps the two equal."""

ACTIVATIONS = ("relu", "lrelu", "tanh", "sigmoid", "softmax", "none")
NORMS = ("none", "batch", "batch_aff", "layer", "rbatch", "group", "fnorm", "instance")
OPTIMIZERS = ("SGD", "Momentum", "AdaDelta", "AdaGrad", "Adam", "AdaBound", "RMSprop", "NesterovAG", "Eve")
DTYPES = ("fp32", "fp16", "mixed16")
CPU_ENGINES = ("auto", "onednn", "numpy", "chainer")
COMMUNICATORS = ("naive", "flat", "pure_nccl")
GPU_ENGINES = ("auto", "chainer")
AUGMENT_ON = ("loader", "device")
ENGINES = ("auto", "chainer", "openvino", "onnxruntime")
PRECISIONS = ("fp32", "bf16", "int8")
UNETS = ("none", "conv", "concat", "add")
PADS = ("zero", "reflect")
PRETRAINED = ("", "vgg", "resnet")
IMAGE_KINDS = ("auto", "dcm", "jpg", "png", "tif", "bmp", "gif", "npy", "csv", "txt", "nii")
_ALSO = {"jpeg": "jpg", "tiff": "tif", "ima": "dcm", "dicom": "dcm"}


def image_kind(text):
    """The kind of image that a suffix as the released codes took it says: JPG, jpeg, .tiff, IMA."""
    name = text.lower().removeprefix(".")
    return _ALSO.get(name, name)


def _with_second_conv(*names):
    return tuple(name + suffix for name in names for suffix in ("", "_conv", "_res"))


def _text(*names):
    return ", ".join(names) + "; each also with _conv (a second convolution) or _res (that and a shortcut)"


_DOWN = ("down", "maxpool", "avgpool", "none", "none-7")
_UP = ("unpool", "resize", "deconv", "pixsh", "none", "none-7")
DOWN, DOWN_TEXT = _with_second_conv(*_DOWN), _text(*_DOWN)
UP, UP_TEXT = _with_second_conv(*_UP), _text(*_UP)
SAMPLE = tuple(dict.fromkeys(DOWN + UP))
SAMPLE_TEXT = _text(*dict.fromkeys(_DOWN + _UP))
