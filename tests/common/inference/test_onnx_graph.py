"""The exported graph against Chainer: every kind of block, any batch and size, statistics that are not 0 and 1."""

import numpy as np
import onnx
import pytest

from medi2i.common.choices import DOUBLING, SAMPLINGS, Activation, Norm, Pretrained, Unet
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference.onnx_graph import INPUT, OUTPUT, export
from medi2i.common.networks.from_options import decoder_spec, encoder_spec, fixed_size
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.options import PairedOptions

onnxruntime = pytest.importorskip("onnxruntime")

CASES = [
    *({"gen_norm": norm.value} for norm in Norm),
    *({"gen_down": name, "gen_up": "resize"} for name, sampling in SAMPLINGS.items() if sampling.halves),
    *({"gen_up": name} for name, sampling in SAMPLINGS.items() if sampling.kind in DOUBLING),
    *({"gen_down": name, "gen_up": name} for name in ("none", "none_conv", "none_res", "none-7")),
    *({"gen_sample": name} for name in ("none", "none-7_conv", "none-7_res")),
    *({"gen_activation": kind.value, "gen_out_activation": kind.value} for kind in Activation),
    *({"unet": unet.value} for unet in Unet),
    {"eqconv": True, "gen_up": "deconv"},
    {"spconv": True, "gen_up": "deconv_res"},
    {"pad": "reflect"},
    {"eqconv": True, "spconv": True, "gen_up": "deconv_res", "gen_down": "avgpool_res"},
    {"pad": "reflect", "spconv": True},
    {"gen_up": "deconv", "gen_ksize": 4},
    {"gen_ksize": 5, "unet": "none", "gen_chs": [4, 8]},
    {"gen_ksize": 2, "gen_up": "deconv", "unet": "none"},
    {"gen_sample": "pixsh", "unet": "none"},
    {"gen_sample": "half", "gen_chs": [4, 8]},
    {"gen_attention": True},
    {"gen_norm": "instance", "gen_attention": True, "unet": "none"},
    {"gen_fc": 2, "crop_height": 8, "crop_width": 12},
    {"latent_dim": 5, "crop_height": 8, "crop_width": 12},
    {"latent_dim": 5, "crop_height": 8, "crop_width": 12, "gen_chs": [4], "unet": "add", "gen_fc_activation": "tanh"},
    {"gen_dropout": 0.5},
    {"stack": 3},
    {"class_num": 2},
    {"gen_residual": 0.5},
]


def generator(options, in_ch=1, out_ch=1):
    """Encoder and decoder with weights and statistics that are not those of a fresh network."""
    np.random.seed(3)
    links = Encoder(encoder_spec(options, in_ch)), Decoder(decoder_spec(options, out_ch))
    rng = np.random.default_rng(4)
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        links[1](links[0](np.zeros((1, in_ch, *(fixed_size(options) or (16, 24))), np.float32)))
    for link in links:
        for part in link.links():
            for name in ("avg_mean", "avg_var"):
                if name in vars(part):
                    vars(part)[name][...] = rng.uniform(0.5, 1.5, vars(part)[name].shape)
        for param in link.params():
            if param.ndim < 2:
                param.array[...] = rng.normal(0.5, 0.3, param.shape)
    return links


def by_chainer(links, x):
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        return links[1](links[0](x)).array


def by_onnxruntime(links, x):
    session = onnxruntime.InferenceSession(export(*links), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: x})[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_chainer(case):
    options = PairedOptions(**{"gen_chs": [4, 8, 16], "gen_nblock": 3, "skipdim": 2, **case})
    options.ch, options.out_ch = options.stack, 1
    links = generator(options, options.stack, 1)
    for batch, (height, width) in ((1, (12, 24)), (2, (20, 16))):
        size = fixed_size(options) or (height, width)
        x = np.random.default_rng(5).normal(0, 0.5, (batch, options.stack, *size)).astype(np.float32)
        expected, found = by_chainer(links, x), by_onnxruntime(links, x)
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert expected.std() > 1e-3 or case.get("gen_out_activation") in ("softmax", "relu")
        assert np.abs(found - expected).max() <= 2e-5 * max(np.abs(expected).max(), 1)


@pytest.mark.parametrize("case", [{}, {"pad": "reflect"}, {"gen_sample": "half"}, {"gen_sample": "none_res"}], ids=str)
def test_the_change_of_an_image_that_comes_in_two_parts(case):
    """What a residual generator adds, of images rounded to bf16 and what that leaves over."""
    options = PairedOptions(gen_residual=0.5, gen_chs=[4, 8], gen_nblock=2, **case)
    links = generator(options, 1, 1)
    x = np.random.default_rng(5).normal(0, 0.5, (2, 1, 12, 24)).astype(np.float32)
    high = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert 1e-3 < np.abs(x - high).max() < 2**-7
    session = onnxruntime.InferenceSession(export(*links, change=True), providers=["CPUExecutionProvider"])
    change = session.run([OUTPUT], {INPUT: np.concatenate([high, x - high], axis=1)})[0]
    np.testing.assert_allclose(x + 0.5 * change, by_chainer(links, x), atol=2e-5)


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pretrained_encoders(kind, channels, monkeypatch):
    from medi2i.common.networks import from_options

    monkeypatch.setitem(from_options.WIDTHS, Pretrained(kind), (4, 8, 16))
    options = PairedOptions(gen_pretrained_encoder=kind, gen_ndown=3, gen_nblock=1)
    links = generator(options, channels, 1)
    x = np.random.default_rng(5).normal(0, 0.5, (2, channels, 48, 32)).astype(np.float32)
    expected, found = by_chainer(links, x), by_onnxruntime(links, x)
    assert np.abs(found - expected).max() <= 2e-5 * max(np.abs(expected).max(), 1)


def test_a_valid_file_with_its_metadata(tmp_path):
    path = tmp_path / "generator.onnx"
    path.write_bytes(export(*generator(PairedOptions(gen_chs=[4, 8], gen_nblock=1)), {"sha256": "abc", "name": "é"}))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {"sha256": "abc", "name": "é"}
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        1,
        "height",
        "width",
    ]
    operations = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operations and "Conv" in operations


def test_weights_that_no_onnx_file_holds_are_refused(monkeypatch):
    links = generator(PairedOptions(gen_chs=[4, 8], gen_nblock=1), 1, 1)
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 4 * sum(p.size for link in links for p in link.params()))
    with pytest.raises(UserError, match="an ONNX file holds .* GiB .*; --engine chainer"):
        export(*links)
