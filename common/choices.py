"""What options can be, one source for the command line and for what is made of it.

A norm, an activation, a way to change the size of an image is a member of an enumeration here and a branch where it is
built (medi2i.common.networks); an optimizer is an entry of ``OPTIMIZERS``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

DTYPES = ("fp32", "fp16", "mixed16")
CPU_ENGINES = ("auto", "onednn", "numpy", "chainer")
GPU_ENGINES = ("auto", "chainer")
ENGINES = ("auto", "chainer", "openvino", "onnxruntime")
PRECISIONS = ("fp32", "bf16", "int8")
NORMALISATIONS = ("none", "percentiles", "nyul", "tissues")
LOOK_UPS = ("none", "auto", "rising", "falling")
TARGETS = ("files", "neighbours", "blind")
COMMUNICATORS = ("naive", "flat", "pure_nccl")


class Optimizer(NamedTuple):
    """A choice of ``--optimizer``: what ``medi2i.common.training.optimizers`` makes of it.

    name: a class of ``chainer.optimizers``, or there. rate: which of its arguments is the learning rate.
    copies: of the parameters that it keeps beside them (momenta, running squares).
    """

    name: str
    rate: str
    copies: int


OPTIMIZERS = {
    "SGD": Optimizer("MomentumSGD", "lr", 1),
    "Momentum": Optimizer("MomentumSGD", "lr", 1),
    "AdaDelta": Optimizer("AdaDelta", "rho", 2),
    "AdaGrad": Optimizer("AdaGrad", "lr", 1),
    "Adam": Optimizer("Adam", "alpha", 2),
    "AdaBound": Optimizer("AdaBound", "alpha", 2),
    "RMSprop": Optimizer("RMSprop", "lr", 1),
    "NesterovAG": Optimizer("NesterovAG", "lr", 1),
    "Eve": Optimizer("Eve", "alpha", 2),
    "Muon": Optimizer("Muon", "alpha", 1),
}


class Norm(Enum):
    """Normalisation after a convolution; see ``norms``."""

    NONE = "none"
    BATCH = "batch"
    BATCH_AFFINE = "batch_aff"
    LAYER = "layer"
    BATCH_RENORM = "rbatch"
    GROUP = "group"
    FEATURE = "fnorm"
    INSTANCE = "instance"


class Activation(Enum):
    """Pointwise function after a layer (``SOFTMAX`` works along the channels); see ``activations``."""

    RELU = "relu"
    LEAKY_RELU = "lrelu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    NONE = "none"


class SampleKind(Enum):
    """How a block changes the size of its image."""

    DOWN = "down"
    MAXPOOL = "maxpool"
    AVGPOOL = "avgpool"
    NONE = "none"
    NONE_7 = "none-7"
    UNPOOL = "unpool"
    RESIZE = "resize"
    DECONV = "deconv"
    PIXEL_SHUFFLE = "pixsh"


HALVING = frozenset({SampleKind.DOWN, SampleKind.MAXPOOL, SampleKind.AVGPOOL})
DOUBLING = frozenset({SampleKind.DECONV, SampleKind.RESIZE, SampleKind.PIXEL_SHUFFLE, SampleKind.UNPOOL})


class Second(Enum):
    """Whether a block has a second 3×3 convolution (``CONV``), and a shortcut beside both (``RESIDUAL``)."""

    NONE = "none"
    CONV = "conv"
    RESIDUAL = "res"


@dataclass(frozen=True)
class Sampling:
    """One value of ``--gen_down``, ``--gen_up`` and their like, for instance ``avgpool_conv``."""

    kind: SampleKind
    second: Second

    @property
    def name(self) -> str:
        """The name of this choice on the command line."""
        return self.kind.value if self.second is Second.NONE else f"{self.kind.value}_{self.second.value}"

    @property
    def halves(self) -> bool:
        """Height and width of the output are half those of the input."""
        return self.kind in HALVING


KEEP = Sampling(SampleKind.NONE, Second.NONE)
HALF = "half"
"""Of ``--gen_sample``: the generator's levels work at half of the resolution."""
SAMPLINGS = {s.name: s for s in (Sampling(kind, second) for kind in SampleKind for second in Second)}


class Unet(Enum):
    """What the encoder hands the decoder beside its deepest feature."""

    NONE = "none"
    CONV = "conv"
    CONCAT = "concat"
    ADD = "add"


class Padding(Enum):
    """Border of the images a convolution sees: zeros, as the released weights expect, or the mirrored image."""

    ZERO = "zero"
    REFLECT = "reflect"


class Pretrained(Enum):
    """An encoder or discriminator made of the first layers of a network trained on ImageNet."""

    NONE = ""
    VGG16 = "vgg"
    RESNET50 = "resnet"
