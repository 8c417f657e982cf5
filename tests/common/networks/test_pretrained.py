"""Encoders and discriminators with ImageNet layers, through the loader that real weights take."""

import dataclasses

import numpy as np
import pytest
from run_files import translation

from medi2i.common.choices import Pretrained
from medi2i.common.compat import F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks import pretrained
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.networks.files import arrays_of, load_link, save_networks, write_arrays
from medi2i.common.networks.from_options import decoder_spec, discriminator_spec, encoder_spec
from medi2i.common.networks.generator import Encoder
from medi2i.common.networks.imagenet import three_channels
from medi2i.common.networks.pretrained import (
    RESNET50_WIDTHS,
    VGG16_WIDTHS,
    load_pretrained,
    pretrained_features,
)
from medi2i.common.networks.spec import PretrainedSpec
from medi2i.common.options import PairedOptions, UnpairedOptions, save_args
from medi2i.cyclegan import net as cyclegan_net
from medi2i.pix2pix import net as pix2pix_net

THIN = {Pretrained.VGG16: (2, 3, 4, 5, 6), Pretrained.RESNET50: (3, 4, 8, 12, 16)}


@pytest.fixture
def thin(monkeypatch):
    """VGG16 and ResNet50 with few channels: the same layers, in milliseconds."""
    monkeypatch.setattr(pretrained, "WIDTHS", THIN)
    monkeypatch.setitem(vars(__import__("medi2i.common.networks.from_options", fromlist=["WIDTHS"])), "WIDTHS", THIN)


def features(kind, levels):
    return pretrained_features(PretrainedSpec(kind, THIN[kind][:levels], frozen=True))


def whole_file(path, kind, rename=lambda name: name):
    """A file of all five levels and of fully connected layers, as the published ones are; returns the arrays."""
    arrays = arrays_of(features(kind, 5))
    rng = np.random.default_rng(1)
    arrays = {name: 0.1 * rng.random(a.shape).astype(np.float32) if a.ndim else a for name, a in arrays.items()}
    write_arrays(path, {**{rename(name): a for name, a in arrays.items()}, "fc6/W": np.zeros((3, 3), "f")})
    return arrays


@pytest.mark.parametrize("kind", [Pretrained.VGG16, Pretrained.RESNET50])
def test_a_whole_network_fills_the_first_levels(tmp_path, kind):
    arrays = whole_file(tmp_path / "weights.npz", kind)
    link = features(kind, 3)
    load_pretrained(link, tmp_path / "weights.npz", "--gen_pretrained_weights")
    for name, found in arrays_of(link).items():
        np.testing.assert_array_equal(found, arrays[name])


def test_names_of_chainercv_are_understood(tmp_path):
    arrays = whole_file(tmp_path / "w.npz", Pretrained.VGG16, lambda name: name.replace("/", "/conv/"))
    link = features(Pretrained.VGG16, 2)
    load_pretrained(link, tmp_path / "w.npz", "--gen_pretrained_weights")
    np.testing.assert_array_equal(link.conv2_2.W.array, arrays["conv2_2/W"])


def test_vgg_has_as_many_weights_as_published():
    with chainer.using_config("dtype", np.float16):
        link = pretrained_features(PretrainedSpec(Pretrained.VGG16, VGG16_WIDTHS, frozen=True))
    assert sum(p.size for p in link.params()) == 14714688  # the convolutions of its configuration D


def test_resnet_is_chainers_own(tmp_path):
    theirs = L.model.vision.resnet.ResNetLayers(None, 50)
    thin = features(Pretrained.RESNET50, 5)
    assert {name for name, _ in thin.namedparams()} == {
        name for name, _ in theirs.namedparams() if not name.startswith("/fc")
    }
    link = pretrained_features(PretrainedSpec(Pretrained.RESNET50, RESNET50_WIDTHS[:2], frozen=True))
    begin = ("conv1/", "bn1/", "res2/")
    write_arrays(tmp_path / "theirs.npz", {name: a for name, a in arrays_of(theirs).items() if name.startswith(begin)})
    load_pretrained(link, tmp_path / "theirs.npz", "--x")
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        first = F.max_pooling_2d(F.relu(theirs.bn1(theirs.conv1(x))), 3, 2)
        expected, found = theirs.res2(first), link(x)
    assert [level.shape[2] for level in found] == [8, 4]
    np.testing.assert_allclose(found[1].array, expected.array, rtol=1e-5)


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def message(field, content):
    """A length-delimited field of a protocol-buffers message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def caffe_layer(name, blobs, old):
    """One layer as caffe.proto has it; the old form gives four dimensions, each a number of its own."""
    encoded = b""
    for blob in blobs:
        data = message(5, blob.astype("<f4").tobytes())
        four = (1,) * (4 - blob.ndim) + blob.shape
        shape = (
            b"".join(varint(i << 3) + varint(n) for i, n in enumerate(four, 1))
            if old
            else message(7, message(1, b"".join(varint(n) for n in blob.shape)))
        )
        encoded += message(6 if old else 7, shape + data)
    return message(2 if old else 100, message(4 if old else 1, name.encode()) + encoded)


def test_vgg_as_it_was_published(tmp_path):
    arrays = arrays_of(features(Pretrained.VGG16, 5))
    content = message(1, b"VGG") + caffe_layer("fc6", [np.zeros((4, 200)), np.zeros(4)], old=True)
    for name in sorted({name.partition("/")[0] for name in arrays}):
        content += caffe_layer(name, [arrays[name + "/W"], arrays[name + "/b"]], old=True)
    (tmp_path / "vgg.caffemodel").write_bytes(content)
    link = features(Pretrained.VGG16, 4)
    load_pretrained(link, tmp_path / "vgg.caffemodel", "--gen_pretrained_weights")
    for name, found in arrays_of(link).items():
        np.testing.assert_array_equal(found, arrays[name])
    (tmp_path / "cut.caffemodel").write_bytes(content[:-7])
    with pytest.raises(UserError, match="cut.caffemodel: not a readable npz or caffemodel file .it is cut short"):
        load_pretrained(link, tmp_path / "cut.caffemodel", "--gen_pretrained_weights")


def test_a_layer_whose_name_is_no_text_is_passed_over(tmp_path):
    arrays = arrays_of(features(Pretrained.VGG16, 1))
    content = caffe_layer("conv1_1", [np.zeros((2, 2))], old=False).replace(b"conv1_1", b"c\xff\xfev1_1")
    for name in ("conv1_1", "conv1_2"):
        content += caffe_layer(name, [arrays[name + "/W"], arrays[name + "/b"]], old=False)
    (tmp_path / "vgg.caffemodel").write_bytes(content)
    link = features(Pretrained.VGG16, 1)
    load_pretrained(link, tmp_path / "vgg.caffemodel", "--gen_pretrained_weights")
    np.testing.assert_array_equal(link.conv1_2.W.array, arrays["conv1_2/W"])


def test_resnet_as_it_was_published(tmp_path):
    whole_file(tmp_path / "w.npz", Pretrained.RESNET50)
    with np.load(tmp_path / "w.npz") as file:
        arrays = {name: file[name] for name in file.files}
    content = b""
    for name in arrays:
        if not name.endswith("/W") or name.startswith("fc"):
            continue
        place = name.removesuffix("/W")
        norm = place.replace("conv", "bn")
        if place == "conv1":
            names = ("conv1", "bn_conv1", "scale_conv1")
        else:
            stage, block, conv = place.split("/")
            letter = "a" if block == "a" else "abcdef"[int(block[1:])]
            tail = f"{stage[3:]}{letter}_branch{('2a', '2b', '2c', '1')[int(conv[4:]) - 1]}"
            names = ("res" + tail, "bn" + tail, "scale" + tail)
        bias = [arrays[place + "/b"]] if place + "/b" in arrays else []
        sums = [2 * arrays[norm + "/avg_mean"], 2 * arrays[norm + "/avg_var"], np.array([2.0])]
        content += caffe_layer(names[0], [arrays[name], *bias], old=False)
        content += caffe_layer(names[1], sums, old=False)
        content += caffe_layer(names[2], [arrays[norm + "/gamma"], arrays[norm + "/beta"]], old=False)
    (tmp_path / "resnet.caffemodel").write_bytes(content)
    link = features(Pretrained.RESNET50, 5)
    load_pretrained(link, tmp_path / "resnet.caffemodel", "--gen_pretrained_weights")
    for name, found in arrays_of(link).items():
        np.testing.assert_allclose(found, arrays[name], rtol=1e-6)


@pytest.mark.parametrize(
    "path, text",
    [
        (
            None,
            "--gen_pretrained_weights: the file with the ImageNet weights of VGG16 is not given.*caffemodel",
        ),
        ("absent.npz", "--gen_pretrained_weights: .*absent.npz: no such file.*caffemodel"),
        ("text.npz", "text.npz: not a readable npz or caffemodel"),
        ("pickle.npz", "pickle.npz: not a readable npz"),
        (
            "other.npz",
            "it is no file for VGG16: conv1_2/W is not in the file; the network has it 2x2x3x3; conv1_2/b is",
        ),
        ("wide.npz", "no file for VGG16: conv1_1/W is 64x3x3x3 in the file, 2x3x3x3 in the network"),
    ],
)
def test_files_that_are_not_the_weights_are_refused(tmp_path, path, text):
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "pickle.npz", **{"conv1_1/W": np.array([{}], dtype=object)})
    good = arrays_of(features(Pretrained.VGG16, 1))
    write_arrays(tmp_path / "other.npz", {"conv1_1/W": good["conv1_1/W"], "conv1_1/b": good["conv1_1/b"]})
    write_arrays(tmp_path / "wide.npz", {**good, "conv1_1/W": np.zeros((64, 3, 3, 3), "f")})
    with pytest.raises(UserError, match=text):
        load_pretrained(features(Pretrained.VGG16, 1), path and tmp_path / path, "--gen_pretrained_weights")


def test_grey_is_repeated_and_other_channels_refused():
    grey = chainer.Variable(np.arange(6, dtype="f").reshape(1, 1, 2, 3))
    assert (three_channels(grey).array == grey.array).all() and three_channels(grey).shape == (1, 3, 2, 3)
    with pytest.raises(UserError, match="9 channels.*1 .grey. or 3 .colour."):
        three_channels(chainer.Variable(np.zeros((1, 9, 2, 2), "f")))


@pytest.mark.parametrize("kind, levels", [("vgg", 3), ("resnet", 2), ("resnet", 5), ("vgg", 5)])
@pytest.mark.parametrize("unet", ["conv", "add", "none"])
def test_generators_with_a_pretrained_encoder(tmp_path, thin, kind, levels, unet):
    whole_file(tmp_path / "w.npz", Pretrained(kind))
    options = PairedOptions(
        gen_chs=[7] * levels,
        gen_pretrained_encoder=kind,
        unet=unet,
        gen_nblock=1,
        gen_pretrained_weights=str(tmp_path / "w.npz"),
        lambda_dis=0,
    )
    options.ch = options.out_ch = 1
    networks = pix2pix_net.build(options)
    assert networks.enc_x.spec.chs == THIN[Pretrained(kind)][:levels]
    assert networks.translate(np.zeros((1, 1, 32, 64), "f")).shape == (1, 1, 32, 64)
    options.gen_pretrained_weights = None
    with pytest.raises(UserError, match="--gen_pretrained_weights"):
        pix2pix_net.build(options)


def test_a_pretrained_discriminator(tmp_path, thin):
    arrays = whole_file(tmp_path / "w.npz", Pretrained.VGG16)
    options = UnpairedOptions(
        gen_chs=[4, 4],
        dis_chs=[1, 1],
        gen_nblock=0,
        dis_pretrained="vgg",
        dis_pretrained_weights=str(tmp_path / "w.npz"),
    )
    options.ch = options.out_ch = 1
    networks = cyclegan_net.build(options)
    assert networks.dis_x(np.zeros((1, 1, 16, 24), "f")).shape == (1, 1, 10, 14)
    np.testing.assert_array_equal(networks.dis_y.base.conv2_2.W.array, arrays["conv2_2/W"])


def test_frozen_layers_keep_their_statistics():
    for frozen in (True, False):
        link = pretrained_features(PretrainedSpec(Pretrained.RESNET50, (3, 4), frozen))
        before = link.bn1.avg_mean.copy()
        with chainer.using_config("train", True):
            link(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("f"))
        assert (link.bn1.avg_mean == before).all() == frozen


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_a_released_file_of_a_trained_base_holds_the_whole_published_network(tmp_path, thin, kind):
    options = PairedOptions(gen_chs=[1, 1], gen_pretrained_encoder=kind, gen_pretrained_lr_ratio=0.1)
    encoder, again = Encoder(encoder_spec(options, 1)), Encoder(encoder_spec(options, 1))
    whole = {f"base/{name}": array for name, array in arrays_of(features(Pretrained(kind), 5)).items()}
    end = "fc6" if kind == "resnet" else "fc8"
    arrays = {**whole, **arrays_of(encoder), f"base/{end}/W": np.zeros((2, 2), "f"), f"base/{end}/b": np.zeros(2)}
    write_arrays(tmp_path / "enc_x1.npz", arrays)
    load_link(tmp_path / "enc_x1.npz", again)
    for name, array in arrays_of(encoder).items():
        np.testing.assert_array_equal(arrays_of(again)[name], array)
    assert any(name.startswith("base/") for name in arrays_of(encoder))
    with pytest.raises(UserError, match="base/other/W 2 is in the file"):
        write_arrays(tmp_path / "enc_x1.npz", {**arrays, "base/other/W": np.zeros(2, "f")})
        load_link(tmp_path / "enc_x1.npz", again)


def frozen_run(folder, **given):
    """A run's folder with weights of epoch 2 and the options; the encoder's base is frozen."""
    options = PairedOptions(
        **{
            "gen_chs": [1, 1],
            "gen_pretrained_encoder": "vgg",
            "lambda_dis": 0,
            "gen_nblock": 1,
            "gen_pretrained_weights": str(folder / "vgg.npz"),
            **given,
        }
    )
    options.ch = options.out_ch = 1
    arrays = whole_file(folder / "vgg.npz", Pretrained.VGG16)
    networks = pix2pix_net.build(options)
    save_networks(folder, networks.as_dict(), 2)
    save_args(options, folder / "args")
    return networks, arrays


def test_frozen_layers_are_in_no_file_of_the_network_but_once_in_the_folder(tmp_path, thin):
    networks, arrays = frozen_run(tmp_path)
    with np.load(tmp_path / "enc_x2.npz") as file:
        assert file.files and not any(name.startswith("base") for name in file.files)
    with np.load(tmp_path / "base.npz") as file:
        assert sorted(file.files) == sorted(f"conv{i}_{j}/{p}" for i in (1, 2) for j in (1, 2) for p in "Wb")
    (tmp_path / "vgg.npz").unlink()  # the folder has all that it needs
    generator = load_generator(tmp_path)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 1, 8, 6)).astype("f")
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(translation(generator, x), networks.translate(x).array)
    np.testing.assert_array_equal(generator.encoder.base.conv2_1.W.array, arrays["conv2_1/W"])


def test_frozen_layers_come_from_where_the_options_say(tmp_path, thin):
    """A released run has no base.npz; what the command line names comes before all."""
    _, arrays = frozen_run(tmp_path)
    (tmp_path / "base.npz").unlink()
    found = load_generator(tmp_path).encoder.base.conv1_2.W.array
    np.testing.assert_array_equal(found, arrays["conv1_2/W"])
    other = {**arrays, "conv1_2/W": arrays["conv1_2/W"] + 1}
    write_arrays(tmp_path / "other.npz", other)
    found = load_generator(tmp_path, pretrained=tmp_path / "other.npz").encoder.base.conv1_2.W.array
    np.testing.assert_array_equal(found, other["conv1_2/W"])
    (tmp_path / "vgg.npz").unlink()
    with pytest.raises(UserError, match="--gen_pretrained_weights: .*vgg.npz: no such file"):
        load_generator(tmp_path)


def test_a_file_that_holds_frozen_layers_all_the_same_fills_them(tmp_path, thin):
    options = PairedOptions(gen_chs=[1, 1], gen_pretrained_encoder="vgg")
    encoder, again = Encoder(encoder_spec(options, 1)), Encoder(encoder_spec(options, 1))
    base = {f"base/{name}": array for name, array in arrays_of(encoder.base).items()}
    write_arrays(tmp_path / "enc_x1.npz", {**arrays_of(encoder), **base})
    load_link(tmp_path / "enc_x1.npz", again)
    np.testing.assert_array_equal(again.base.conv2_1.W.array, encoder.base.conv2_1.W.array)


@pytest.mark.parametrize(
    "given, passes",
    [({}, True), ({"released": True}, False), ({"released": True, "gen_pretrained_lr_ratio": 0.1}, True)],
)
def test_a_gradient_passes_through_frozen_layers_but_for_released_args(thin, given, passes):
    """There, what lies before (the cycle's first decoder) learns nothing from what they say."""
    options = UnpairedOptions(gen_chs=[1, 1], gen_pretrained_encoder="vgg", gen_nblock=0, unet="conv", **given)
    encoder = Encoder(encoder_spec(options, 1))
    x = chainer.Variable(np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype("f"))
    sum(chainer.functions.sum(feature) for feature in encoder(x)).backward()
    assert (x.grad is not None and bool(x.grad.any())) == passes
    assert encoder.s1.c1.c.W.grad.any()


def test_specs_say_what_the_decoder_must_double():
    options = PairedOptions(gen_chs=[1, 1], gen_pretrained_encoder="resnet", crop_height=32, crop_width=16)
    assert decoder_spec(options, 1).full.name == "resize"
    assert decoder_spec(options, 1).feature_size == (16, 8)
    assert encoder_spec(options, 1).pretrained == PretrainedSpec(Pretrained.RESNET50, (64, 256), frozen=True)
    assert not dataclasses.replace(encoder_spec(options, 1).pretrained, frozen=False).frozen
    assert discriminator_spec(PairedOptions(dis_chs=[2]), 1).pretrained is None
