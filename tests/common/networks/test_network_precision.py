"""fp16 and mixed16 give what fp32 gives, within 1e-2 of its scale, on the CPU: every block, and whole networks."""

import numpy as np
import pytest

from medi2i.common.choices import DTYPES as DTYPE_NAMES
from medi2i.common.choices import SAMPLINGS, Activation, Norm, Padding, Pretrained
from medi2i.common.compat import chainer
from medi2i.common.networks.blocks import CBR, Attention, FullyConnected, ResBlock, SpectralConvolution
from medi2i.common.networks.layers import SqueezeExcitation
from medi2i.common.networks.network import DTYPES, using_dtype
from medi2i.common.networks.pretrained import pretrained_features
from medi2i.common.networks.spec import ConvStyle, PretrainedSpec
from medi2i.common.options import PairedOptions
from medi2i.pix2pix import net

PLAIN = ConvStyle(equalised=False, separable=False, squeeze=False, padding=Padding.ZERO)
HALF = ["fp16", "mixed16"]


def cbr(sample="none", norm=Norm.BATCH_AFFINE, activation=Activation.RELU, style=PLAIN, out_ch=5):
    return CBR(3, out_ch, 3, 1, norm, SAMPLINGS[sample], activation, 0, style)


BLOCKS = {
    **{f"CBR {name}": (lambda name=name: cbr(name), (2, 3, 6, 10)) for name in SAMPLINGS},
    **{f"CBR {norm.value}": (lambda norm=norm: cbr(norm=norm), (2, 3, 6, 10)) for norm in Norm},
    **{f"CBR {kind.value}": (lambda kind=kind: cbr(activation=kind), (2, 3, 6, 10)) for kind in Activation},
    "CBR equalised": (lambda: cbr(style=ConvStyle(True, False, False, Padding.ZERO)), (2, 3, 6, 10)),
    "CBR separable": (lambda: cbr(style=ConvStyle(False, True, False, Padding.ZERO)), (2, 3, 6, 10)),
    "CBR squeeze": (lambda: cbr(style=ConvStyle(False, False, True, Padding.ZERO), out_ch=16), (2, 3, 6, 10)),
    "CBR reflect": (lambda: cbr(style=ConvStyle(False, False, False, Padding.REFLECT)), (2, 3, 6, 10)),
    "ResBlock": (lambda: ResBlock(4, Norm.INSTANCE, Activation.RELU, PLAIN), (2, 4, 5, 7)),
    "FullyConnected": (lambda: FullyConnected(60, 9, Activation.TANH), (2, 60)),
    "SqueezeExcitation": (lambda: SqueezeExcitation(16), (2, 16, 5, 7)),
    "Attention": (lambda: Attention(16), (2, 16, 6, 10)),
    "VGG16": (lambda: pretrained_features(PretrainedSpec(Pretrained.VGG16, (4, 6), True)), (2, 1, 6, 10)),
    "ResNet50": (lambda: pretrained_features(PretrainedSpec(Pretrained.RESNET50, (4, 8), True)), (2, 1, 16, 12)),
}


def test_every_dtype_option_has_its_format():
    assert set(DTYPES) == set(DTYPE_NAMES)


def built_alike(build, dtype):
    """The block in fp32 and, with the same weights rounded, in ``dtype``."""
    with using_dtype("fp32"):
        wide = build()
    with using_dtype(dtype):
        narrow = build()
    rng = np.random.default_rng(8)
    for a, b in zip(wide.params(), narrow.params(), strict=True):
        if a.array.ndim < 2:
            a.array[...] += (0.2 * rng.standard_normal(a.shape)).astype(a.dtype)
        b.array[...] = a.array
    for a, b in zip(wide.links(), narrow.links(), strict=True):
        if isinstance(a, SpectralConvolution):
            b.u[...] = a.u
    return wide, narrow


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", BLOCKS)
def test_half_precision_stays_near_fp32(name, dtype, train):
    build, shape = BLOCKS[name]
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    wide, narrow = built_alike(build, dtype)
    with chainer.using_config("train", train):
        expected, found = wide(x), narrow(x.astype(np.float16))
    if isinstance(expected, (list, tuple)):
        expected, found = expected[-1], found[-1]
    assert found.dtype == np.float16 and expected.dtype == np.float32
    assert abs(found.array - expected.array).max() <= 1e-2 * abs(expected.array).max()


@pytest.mark.parametrize("dtype", HALF)
def test_whole_networks_take_and_give_fp32(dtype):
    options = PairedOptions(gen_chs=[4, 8], dis_chs=[4, 8], gen_nblock=3, dtype=dtype, gen_attention=True)
    options.ch, options.out_ch = 1, 2
    networks = net.build(options)
    x = np.random.default_rng(2).uniform(-1, 1, (1, 1, 10, 14)).astype(np.float32)
    assert networks.enc_x.c0.c1.c.W.dtype == np.float16
    y = networks.translate(x)
    judged = networks.dis(np.concatenate([x, y.array], axis=1))
    assert y.dtype == judged.dtype == np.float32
    reference = net.build(PairedOptions(**{**vars(options), "dtype": "fp32"}))
    for name, link in reference.as_dict().items():
        for a, b in zip(link.params(), networks.as_dict()[name].params(), strict=True):
            a.array[...] = b.array
    expected = reference.translate(x).array
    assert abs(y.array - expected).max() <= 2e-2 * abs(expected).max()
