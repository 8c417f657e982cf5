"""From options to networks: every combination that should work does, and the others are refused in words."""

import numpy as np
import pytest

from medi2i.common.choices import (
    DOUBLING,
    HALF,
    SAMPLINGS,
    Activation,
    Norm,
    Padding,
    Pretrained,
    SampleKind,
    Sampling,
    Second,
    Unet,
)
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.files import arrays_of
from medi2i.common.networks.from_options import (
    check_size,
    decoder_spec,
    discriminator_spec,
    encoder_spec,
    size_multiple,
)
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.cyclegan import net as cyclegan_net
from medi2i.pix2pix import net as pix2pix_net


def paired(ch=1, out_ch=1, **given):
    options = PairedOptions(**{"gen_chs": [4, 8], "dis_chs": [4, 8], "gen_nblock": 1, **given})
    options.ch, options.out_ch = ch, out_ch
    return options


def unpaired(ch=1, out_ch=1, **given):
    options = UnpairedOptions(**{"gen_chs": [4, 8], "dis_chs": [4, 8], "gen_nblock": 1, **given})
    options.ch, options.out_ch = ch, out_ch
    return options


def zeros(*shape):
    return np.zeros(shape, np.float32)


def choices_of(name):
    return PairedOptions.__dataclass_fields__[name].metadata["choices"]


@pytest.mark.parametrize(
    "name, typed",
    [
        ("gen_activation", Activation),
        ("gen_norm", Norm),
        ("unet", Unet),
        ("pad", Padding),
        ("gen_pretrained_encoder", Pretrained),
    ],
)
def test_options_and_typed_choices_are_the_same(name, typed):
    assert choices_of(name) == tuple(choice.value for choice in typed)


def test_sampling_options_are_the_same():
    assert set(choices_of("gen_down")) == set(SAMPLINGS)
    assert set(choices_of("gen_sample")) == {*SAMPLINGS, HALF}
    assert SAMPLINGS["maxpool_res"] == Sampling(SampleKind.MAXPOOL, Second.RESIDUAL)
    assert len(SAMPLINGS) == 27


@pytest.mark.parametrize("sample", [name for name, sampling in SAMPLINGS.items() if sampling.kind not in DOUBLING])
@pytest.mark.parametrize("up", ["resize_res", "pixsh_conv"])
def test_generators_of_every_kind_of_level(sample, up):
    up = up if SAMPLINGS[sample].halves else "none_conv"
    options = paired(2, 3, gen_down=sample, gen_up=up, unet="concat", gen_nblock=3)
    networks = pix2pix_net.build(options)
    assert networks.translate(zeros(1, 2, 12, 18)).shape == (1, 3, 12, 18)


@pytest.mark.parametrize("up", [name for name, sampling in SAMPLINGS.items() if not sampling.halves])
def test_generators_of_every_kind_of_upsampling(up):
    down = "avgpool" if SAMPLINGS[up].kind in DOUBLING else "none"
    assert pix2pix_net.build(paired(gen_down=down, gen_up=up)).translate(zeros(1, 1, 6, 10)).shape == (1, 1, 6, 10)


@pytest.mark.parametrize("unet", choices_of("unet"))
def test_levels_at_half_of_the_resolution(unet):
    networks = pix2pix_net.build(paired(2, 3, gen_sample=HALF, unet=unet, gen_chs=[4, 8]))
    features = networks.enc_x(zeros(1, 2, 16, 24))
    assert features[0].shape[2:] == ((4, 6) if unet == "none" else (8, 12)) and features[-1].shape == (1, 8, 4, 6)
    assert networks.dec_y(features).shape == (1, 3, 16, 24)
    assert size_multiple(paired(gen_sample=HALF, unet=unet)) == 4


@pytest.mark.parametrize("unet", choices_of("unet"))
@pytest.mark.parametrize("chs", [[4], [4, 6, 5, 8]])
def test_shallow_and_deep_generators_of_every_unet(unet, chs):
    networks = pix2pix_net.build(paired(9, 2, gen_chs=chs, unet=unet, gen_nblock=0))
    features = networks.enc_x(zeros(1, 9, 16, 24))
    assert len(features) == (1 if unet == "none" else len(chs) + 1)
    assert features[-1].shape == (1, chs[-1], 16 >> len(chs) - 1, 24 >> len(chs) - 1)
    assert networks.dec_y(features).shape == (1, 2, 16, 24)


@pytest.mark.parametrize("blocks, encoder, decoder", [(0, 0, 0), (1, 1, 0), (2, 1, 1), (5, 3, 2)])
def test_residual_blocks_are_shared_out(blocks, encoder, decoder):
    networks = pix2pix_net.build(paired(gen_nblock=blocks))
    assert len(networks.enc_x.plan.deepest) == encoder
    assert len(networks.dec_y.plan.deepest) == decoder


def test_channels_double_from_the_base_unless_given():
    options = PairedOptions(gen_basech=3, gen_ndown=4, dis_basech=2, dis_ndown=3)
    assert encoder_spec(options, 1).chs == (3, 6, 12, 24)
    assert discriminator_spec(options, 1).chs == (2, 4, 8)


def test_two_automap_layers_have_names_of_their_own():
    options = paired(2, gen_fc=2, crop_height=4, crop_width=6, gen_fc_activation="tanh", unet="none")
    encoder = Encoder(encoder_spec(options, 2))
    arrays = arrays_of(encoder)
    assert arrays["l0/l0/W"].shape == arrays["l1/l0/W"].shape == (48, 48)
    assert encoder(zeros(3, 2, 4, 6))[-1].shape == (3, 8, 2, 3)
    with pytest.raises(UserError, match="image of 4x8.*exactly 4x6"):
        encoder(zeros(3, 2, 4, 8))


def test_automap_without_a_size_is_refused():
    with pytest.raises(UserError, match="--gen_fc: it needs the size"):
        encoder_spec(paired(gen_fc=1), 1)


def test_latent_vector():
    networks = pix2pix_net.build(paired(latent_dim=7, crop_height=8, crop_width=12))
    features = networks.enc_x(zeros(2, 1, 8, 12))
    assert features[-1].shape == (2, 7) and features[-2].shape == (2, 8, 4, 6)
    assert networks.dec_y(features).shape == (2, 1, 8, 12)
    changed = [*features[:-1], features[-1] + 1]
    assert abs(networks.dec_y(features).array - networks.dec_y(changed).array).max() > 1e-3


@pytest.mark.parametrize("activation, expected", [("none", [-3, 2]), ("relu", [0, 2])])
def test_the_layers_of_a_latent_vector_have_their_names_and_an_activation(activation, expected):
    networks = pix2pix_net.build(
        paired(
            latent_dim=2,
            unet="none",
            gen_nblock=0,
            gen_fc_activation=activation,
            crop_height=4,
            crop_width=6,
            gen_chs=[3],
        )
    )
    shapes = {name: array.shape for name, array in arrays_of(networks.enc_x).items() if name.startswith("latent")}
    assert shapes == {"latent_fc/l0/W": (2, 72), "latent_fc/l0/b": (2,)}
    shapes = {name: array.shape for name, array in arrays_of(networks.dec_y).items() if name.startswith("latent")}
    assert shapes == {"latent_fc/l0/W": (72, 2), "latent_fc/l0/b": (72,)}
    layer = networks.enc_x.latent_fc.l0
    layer.W.array[...] = 0
    layer.b.array[...] = (-3, 2)
    np.testing.assert_array_equal(networks.enc_x(zeros(1, 1, 4, 6))[-1].array, [expected])


@pytest.mark.parametrize("unet, skipdim", [("add", 4), ("concat", 4), ("conv", 3)])
def test_one_level_with_a_latent_vector_joins_the_deepest_feature(unet, skipdim):
    """The released list of features counts the latent vector; the skip itself is not heard."""
    options = dict(latent_dim=2, unet=unet, skipdim=skipdim, crop_height=4, crop_width=6, gen_chs=[3], gen_norm="none")
    decoder = pix2pix_net.build(paired(**options)).dec_y
    rng = np.random.default_rng(2)
    skip, deepest, latent = (rng.standard_normal(shape).astype("f") for shape in ((1, 3, 4, 6), (1, 3, 4, 6), (1, 2)))
    plain, other_skip, other_deepest = (
        decoder([a, b, latent]).array for a, b in ((skip, deepest), (skip + 1, deepest), (skip, deepest + 1))
    )
    np.testing.assert_array_equal(plain, other_skip)
    assert abs(plain - other_deepest).max() > 1e-3


@pytest.mark.parametrize("given", [{"unet": "conv", "skipdim": 2, "gen_chs": [3]}, {"unet": "add"}])
def test_a_latent_vector_where_the_released_code_does_not_run_joins_the_skips(given):
    networks = pix2pix_net.build(
        paired(**{"latent_dim": 2, "crop_height": 4, "crop_width": 6, "gen_norm": "none", **given})
    )
    features = networks.enc_x(np.random.default_rng(2).standard_normal((1, 1, 4, 6)).astype("f"))
    other = [features[0] + 1, *features[1:]]
    assert abs(networks.dec_y(features).array - networks.dec_y(other).array).max() > 1e-3


def test_classes_turn_the_output_activation_off():
    assert decoder_spec(paired(class_num=4, gen_out_activation="tanh"), 4).out_activation is Activation.NONE
    assert decoder_spec(paired(gen_out_activation="tanh"), 4).out_activation is Activation.TANH


def test_reflect_is_the_generators_padding():
    options = paired(pad="reflect")
    networks = pix2pix_net.build(options)
    assert networks.enc_x.c0.c1.reflect and networks.dec_y.ul.c1.reflect and networks.enc_x.r0.c0.reflect
    assert not networks.dis.c0.c1.reflect
    zero = pix2pix_net.build(paired())
    for a, b in zip(zero.enc_x.params(), networks.enc_x.params(), strict=True):
        assert a.shape == b.shape  # the same weights fit both
    assert not zero.enc_x.c0.c1.reflect


@pytest.mark.parametrize(
    "given, shape",
    [
        ({}, (1, 1, 8, 9)),
        ({"dis_ksize": 3}, (1, 1, 5, 6)),
        ({"dis_ksize": 3, "dis_down": "maxpool_res"}, (1, 1, 5, 6)),
        ({"dis_reg_weighting": 0.1}, (1, 2, 8, 9)),
        ({"dis_wgan": True}, (1, 1)),
        ({"dis_attention": True}, (1, 1, 8, 9)),
        ({"dis_chs": [4]}, (1, 1, 12, 14)),
        ({"senet": True, "dis_chs": [4, 16]}, (1, 1, 8, 9)),
        ({"spconv": True, "eqconv": True}, (1, 1, 8, 9)),
        ({"dis_norm": "rbatch", "dis_dropout": 0.5}, (1, 1, 8, 9)),
    ],
)
def test_discriminators(given, shape):
    discriminator = Discriminator(discriminator_spec(paired(**given), 3))
    assert discriminator(zeros(1, 3, 19, 23)).shape == shape


def test_squeeze_excitation_is_the_discriminators_alone():
    networks = pix2pix_net.build(paired(senet=True, gen_chs=[16, 16], dis_chs=[16, 16]))
    assert not any(block.squeezed for block in (networks.enc_x.d1.c1, networks.dec_y.ua1.c1))
    assert all(block.squeezed for block in (networks.dis.c0.c1, networks.dis.c1.c1, networks.dis.csl.c1))
    assert not networks.dis.cl.c1.squeezed


def test_the_discriminator_of_pix2pix_judges_pairs():
    assert pix2pix_net.build(paired(2, 3)).dis.spec.in_ch == 5
    assert pix2pix_net.build(paired(lambda_dis=0)).dis is None
    assert list(pix2pix_net.build(paired(lambda_dis=0)).as_dict()) == ["enc_x", "dec_y"]


def test_the_networks_of_cyclegan():
    networks = cyclegan_net.build(unpaired(1, 3, lambda_dis_z=1))
    x, y = zeros(1, 1, 8, 12), zeros(1, 3, 8, 12)
    assert networks.translate(x).shape == y.shape and networks.translate_back(y).shape == x.shape
    assert (networks.dis_x.spec.in_ch, networks.dis_y.spec.in_ch, networks.dis_z.spec.in_ch) == (1, 3, 8)
    assert networks.enc_x is not networks.enc_y
    shared = cyclegan_net.build(unpaired(single_encoder=True))
    assert shared.enc_x is shared.enc_y and shared.dis_z is None


def test_noise_on_the_last_feature_while_training_only():
    networks = pix2pix_net.build(paired(noise_z=0.5, gen_norm="none"))
    features = networks.enc_x(zeros(1, 1, 8, 8))
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(networks.dec_y(features).array, networks.dec_y(features).array)
    with chainer.using_config("train", True):
        assert abs(networks.dec_y(features).array - networks.dec_y(features).array).max() > 0


@pytest.mark.parametrize("latent", [-1, 60])
def test_a_feature_decoded_twice_carries_both_draws_of_noise(latent):
    """As in the released code, where CycleGAN decodes each feature into both domains; a latent vector is the last."""
    networks = pix2pix_net.build(paired(noise_z=0.5, latent_dim=latent, crop_height=16, crop_width=16, gen_chs=[64]))
    features = networks.enc_x(zeros(1, 1, 16, 16))
    before = [feature.array.copy() for feature in features]
    np.random.seed(0)
    draws = []
    for _ in range(2):
        networks.dec_y(features)
        draws.append(features[-1].array - before[-1])
    for feature, array in zip(features[:-1], before[:-1], strict=True):
        np.testing.assert_array_equal(feature.array, array)
    assert draws[0].std() == pytest.approx(0.5, rel=0.3) and (draws[1] - draws[0]).std() == pytest.approx(0.5, rel=0.3)
    assert draws[1].std() > 1.1 * draws[0].std()


def test_the_last_level_of_the_decoder_has_no_dropout():
    networks = pix2pix_net.build(paired(gen_chs=[4, 8, 16], gen_dropout=0.25))
    blocks = [networks.enc_x[name] for name in ("c0", "d1", "d2", "s0", "s1", "s2")]
    blocks += [networks.dec_y[name] for name in ("ua1", "ua2", "ua3", "ul")]
    assert [block.dropout for block in blocks] == [0, 0.25, 0.25, 0, 0, 0, 0.25, 0.25, 0, 0]


def test_repr_shows_layers_and_sizes_in_the_order_they_run():
    lines = repr(Decoder(decoder_spec(paired(gen_nblock=3), 2))).splitlines()
    assert lines == [
        "Decoder(",
        "  r0: ResBlock 8, batch_aff, relu",
        "  ua1: CBR 12 -> 4, 3x3, resize, batch_aff, relu",
        "  ua2: CBR 8 -> 8, 3x3, none, batch_aff, relu",
        "  ul: CBR 8 -> 2, 7x7, none-7, none, tanh",
        ")",
    ]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"gen_ksize": 5, "gen_down": "down_res"}, "--gen_down down_res.*--gen_ksize 5.*shortcut.*no image can be"),
        (
            {"gen_ksize": 4, "unet": "add"},
            "--gen_up resize.*--gen_ksize 4, --unet add: level 0 of the encoder has .* rows",
        ),
        (
            {"gen_down": "none", "unet": "concat"},
            "--gen_down none.*level 0 of the encoder has .* rows where the decoder",
        ),
        ({"gen_attention": True, "gen_chs": [4, 7]}, "--gen_attention: 7 channels.*at least 8"),
        ({"gen_pretrained_encoder": "vgg", "gen_chs": [1] * 6}, "--gen_pretrained_encoder vgg: it has 5 levels, 6"),
        ({"latent_dim": 3}, "--latent_dim: it needs the size"),
    ],
)
def test_what_cannot_run_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        pix2pix_net.build(paired(**given))


@pytest.mark.parametrize(
    "given, size",
    [
        ({"gen_down": "none"}, (32, 48)),
        ({"gen_up": "none"}, (8, 12)),
        ({"gen_sample": "down"}, (4, 6)),
        ({"gen_ksize": 5}, (10, 18)),
        ({"gen_ksize": 4}, (14, 22)),
        ({"gen_down": "unpool", "gen_up": "none"}, (32, 48)),
    ],
)
def test_networks_that_change_the_size_build_and_run_but_do_not_train(given, size):
    options = paired(unet="none", **given)
    assert pix2pix_net.build(options).translate(zeros(1, 1, 16, 24)).shape == (1, 1, *size)
    with pytest.raises(UserError, match="--gen_sample .* output and input would differ in size"):
        size_multiple(options)
    with pytest.raises(UserError, match="output and input would differ in size"):
        check_size(options, (16, 24))


@pytest.mark.parametrize(
    "given",
    [
        {"gen_ksize": 4},
        {"gen_ksize": 2, "gen_up": "deconv"},
        {"gen_ksize": 4, "gen_up": "deconv", "gen_down": "maxpool"},
        {"gen_down": "deconv", "gen_up": "down", "gen_ksize": 4},
        {"gen_sample": "down", "gen_down": "unpool", "gen_up": "resize"},
    ],
)
def test_odd_networks_whose_size_comes_back_train(given):
    """Levels are padded by 1 whatever their kernel: 16 -> 9 -> 16 with kernels of 2, as in the released code."""
    options = paired(unet="none", **{"gen_chs": [4] if given == {"gen_ksize": 4} else [4, 8], **given})
    check_size(options, (16, 24))
    networks = pix2pix_net.build(options)
    assert networks.translate(zeros(1, 1, 16, 24)).shape == (1, 1, 16, 24)
    if given.get("gen_up") == "deconv" and given["gen_ksize"] == 2:
        assert networks.enc_x(zeros(1, 1, 16, 24))[-1].shape == (1, 8, 9, 13)


def test_even_kernels_fit_down_and_deconv():
    networks = pix2pix_net.build(paired(gen_ksize=4, gen_up="deconv"))
    assert networks.translate(zeros(1, 1, 10, 14)).shape == (1, 1, 10, 14)


@pytest.mark.parametrize(
    "given, multiple",
    [
        ({"gen_chs": [4]}, 1),
        ({"gen_chs": [4, 4, 4]}, 4),
        ({"gen_chs": [4, 4], "gen_down": "none", "gen_up": "none"}, 1),
        ({"gen_pretrained_encoder": "vgg", "gen_chs": [1, 1, 1]}, 4),
        ({"gen_pretrained_encoder": "resnet", "gen_chs": [1, 1, 1]}, 8),
    ],
)
def test_size_multiple(given, multiple):
    assert size_multiple(paired(**given)) == multiple


@pytest.mark.parametrize(
    "size, would", [((9, 12), "8x12 or 12x12"), ((3, 16), "4x16 would work"), ((8, 17), "8x16 or 8x20")]
)
def test_sizes_that_do_not_fit_are_refused_with_those_that_would(size, would):
    options = paired(gen_chs=[4, 4, 4])
    with pytest.raises(UserError, match=f"image of {size[0]}x{size[1]}.*multiples of 4; .*{would}"):
        check_size(options, size)
    networks = pix2pix_net.build(options)
    with pytest.raises(UserError, match="does not take images of this size"):
        networks.translate(zeros(1, 1, *size))
    check_size(options, (8, 12))


def test_an_image_that_the_levels_use_up_is_refused():
    with pytest.raises(UserError, match="2x8 pixels.* before a layer: down with kernels of 5 leaves nothing of 2"):
        Encoder(encoder_spec(paired(gen_ksize=5, unet="none"), 1))(zeros(1, 1, 2, 8))


@pytest.mark.parametrize("unet", choices_of("unet"))
@pytest.mark.parametrize("latent", [-1, 3])
def test_residual_output_is_added_to_the_input(unet, latent):
    """Silent layers leave the image as it is; else their scaled output is what differs from the plain network."""
    given = dict(unet=unet, latent_dim=latent, crop_height=6, crop_width=10, gen_out_activation="none")
    np.random.seed(0)
    plain = pix2pix_net.build(paired(2, 2, **given))
    np.random.seed(0)
    residual = pix2pix_net.build(paired(2, 2, gen_residual=0.25, **given))
    x = np.random.RandomState(1).uniform(-1, 1, (1, 2, 6, 10)).astype(np.float32)
    plain.translate(x), residual.translate(x)  # the latent layer of the encoder learns its size
    for source, target in zip(plain.as_dict().values(), residual.as_dict().values(), strict=True):
        target.copyparams(source)
    np.testing.assert_allclose(residual.translate(x).array, x + 0.25 * plain.translate(x).array, atol=1e-6)
    assert all(isinstance(feature, chainer.Variable) for feature in residual.enc_x(x))
    for parameter in residual.dec_y.ul.params():
        parameter.array[...] = 0
    np.testing.assert_array_equal(residual.translate(x).array, x)


def test_residual_output_needs_as_many_channels():
    with pytest.raises(UserError, match="--gen_residual: the output has 3 channels, the input 1"):
        pix2pix_net.build(paired(1, 3, gen_residual=0.1))
