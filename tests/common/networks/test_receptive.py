"""Sizes worked out from the specs against those of the networks."""

from dataclasses import replace

import pytest

from medi2i.common.choices import SAMPLINGS, Activation, Norm, Padding, Pretrained
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.blocks import CBR, through_cbr
from medi2i.common.networks.from_options import decoder_spec, encoder_spec
from medi2i.common.networks.generator import DecoderPlan, Encoder, EncoderPlan
from medi2i.common.networks.network import Misfit, Rows
from medi2i.common.networks.pretrained import pretrained_features
from medi2i.common.networks.receptive import Fitting, fitting, translated_rows
from medi2i.common.networks.spec import ConvStyle, PretrainedSpec
from medi2i.common.options import PairedOptions

PLAIN = ConvStyle(equalised=False, separable=False, squeeze=False, padding=Padding.ZERO)


@pytest.mark.parametrize("sample", SAMPLINGS)
def test_rows_through_a_block_are_those_that_it_makes(sample):
    refused = 0
    for ksize in range(1, 6):
        for size in (5, 6, 9):
            block = CBR(1, 1, ksize, 1, Norm.NONE, SAMPLINGS[sample], Activation.NONE, 0, PLAIN)
            image = chainer.as_variable(block.xp.zeros((1, 1, size, size), "f"))
            try:
                made = through_cbr(SAMPLINGS[sample], ksize, 1, Rows.of(size)).size
            except Misfit:
                refused += 1
                with pytest.raises(Exception, match="shortcut"):
                    block(image)
                continue
            assert block(image).shape[2:] == (made, made), (ksize, size)
    assert bool(refused) == sample.endswith("_res")


@pytest.mark.parametrize("kind, widths", [(Pretrained.VGG16, (2, 3, 4, 5, 6)), (Pretrained.RESNET50, (3, 4, 8, 12))])
def test_level_sizes_of_pretrained_encoders(kind, widths):
    base = pretrained_features(PretrainedSpec(kind, widths, frozen=True))
    options = PairedOptions(gen_chs=[1] * len(widths), gen_pretrained_encoder=kind.value)
    for size in (31, 32, 38):
        levels = base(base.xp.zeros((1, 1, size, size), "f"))
        assert [level.shape[2] for level in levels] == EncoderPlan(encoder_spec(options, 1)).level_sizes(size)


def specs(**given):
    options = PairedOptions(**{"gen_chs": [1, 1, 1], "gen_norm": "none", "gen_nblock": 0, **given})
    return encoder_spec(options, 1), decoder_spec(options, 1)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, Fitting(4)),
        ({"gen_chs": [1]}, Fitting(1)),
        ({"gen_down": "none", "gen_up": "none"}, Fitting(1)),
        ({"gen_ksize": 4, "gen_up": "deconv"}, Fitting(4)),
        ({"gen_ksize": 2, "gen_up": "deconv"}, Fitting(4, 2)),
        ({"gen_ksize": 1, "gen_up": "deconv"}, Fitting(4, 3)),
        ({"gen_ksize": 5, "unet": "none"}, None),
        ({"gen_pretrained_encoder": "resnet"}, Fitting(8)),
        ({"gen_sample": "down", "gen_down": "unpool", "gen_up": "none", "unet": "none"}, Fitting(2)),
        ({"latent_dim": 2, "crop_height": 8, "crop_width": 8, "unet": "none", "gen_down": "none"}, Fitting(4)),
    ],
)
def test_fitting_sizes_are_those_that_come_back(given, expected):
    encoder, decoder = specs(**given)
    found = fitting(encoder, decoder)
    assert found == expected
    for size in range(40, 60):
        try:
            back = translated_rows(EncoderPlan(encoder), DecoderPlan(decoder), size).size == size
        except Misfit:
            back = False
        assert back == (found is not None and found.above(size) == size)


def test_sizes_around():
    assert Fitting(4, 2).above(16) == 18 and Fitting(4, 2).above(18) == 18 and Fitting(4, 2).below(17) == 14
    assert Fitting(4, 2).around((17, 22)) == [(14, 22), (18, 22)]
    assert Fitting(4).around((3, 16)) == [(4, 16)] and Fitting(4).around((8, 16)) == [(8, 16)]
    assert str(Fitting(4, 2)) == "multiples of 4, plus 2" and str(Fitting(8)) == "multiples of 8"


def test_a_crop_too_small_for_the_levels_of_a_latent_vector_is_one_line_wherever_the_network_is_built():
    options = replace(
        PairedOptions(latent_dim=3, gen_ksize=5, gen_chs=[4, 4, 4, 4], unet="none"), crop_height=4, crop_width=4
    )
    with pytest.raises(UserError, match="kernels of 5 leaves nothing of"):
        Encoder(encoder_spec(options, 1))
