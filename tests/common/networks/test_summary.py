"""The figures of --summary against counts by hand, real arrays and real gradients."""

import numpy as np
import pytest

from medi2i.common.compat import F, chainer
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.from_options import decoder_spec, discriminator_spec, encoder_spec
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.receptive import discriminator_field, generator_reach, global_layers
from medi2i.common.networks.summary import count, counting, kept_bytes, measure, passes, summary_text
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.cyclegan import net as cyclegan_net
from medi2i.pix2pix import net as pix2pix_net


def options_of(cls=PairedOptions, **given):
    options = cls(**{"gen_chs": [2, 3], "dis_chs": [2, 3], "gen_nblock": 1, **given})
    options.ch = options.out_ch = 1
    return options


def linear(**given):
    """Options of networks without normalisation and activation, whose gradients are where the weights reach."""
    return options_of(
        gen_norm="none",
        gen_activation="none",
        gen_out_activation="none",
        dis_norm="none",
        dis_activation="none",
        skipdim=1,
        **given,
    )


def positive(link):
    """All weights alike and positive, so that nothing cancels; biases too, so that ReLU lets all through."""
    for p in link.params():
        p.array[...] = 0.1
    return link


def extent(gradient):
    """Rows and columns from the first to the last that is not zero."""
    return tuple(int(np.ptp(np.nonzero(gradient.any(axis=axis))[0])) + 1 for axis in (1, 0))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"unet": "none", "gen_nblock": 0},
        {"unet": "add", "gen_up": "unpool", "gen_down": "avgpool"},
        {"gen_up": "deconv"},
        {"gen_up": "pixsh", "gen_down": "avgpool_conv"},
        {"gen_down": "down_res", "gen_nblock": 0},
        {"gen_up": "unpool_res", "unet": "concat", "gen_chs": [2, 2, 2]},
        {"gen_up": "deconv_res", "gen_nblock": 0},
        {"gen_up": "deconv", "gen_ksize": 4},
        {"spconv": True, "gen_chs": [2], "gen_sample": "none_conv"},
        {"gen_ksize": 2, "gen_up": "deconv", "gen_nblock": 0, "unet": "none"},
        {"gen_down": "none-7_conv", "gen_up": "none-7_res", "unet": "none"},
        {"gen_up": "none", "gen_down": "none-7"},
    ],
)
def test_receptive_field_of_the_generator_is_where_gradients_come_from(given):
    options = linear(**given)
    with chainer.using_config("dtype", np.float64):
        encoder, decoder = positive(Encoder(encoder_spec(options, 1))), positive(Decoder(decoder_spec(options, 1)))
    found = []
    for row in range(44, 48):
        x = chainer.Variable(np.ones((1, 1, 88, 88)))
        decoder(encoder(x))[0, 0, row, row].backward()
        found.append(extent(x.grad[0, 0]))
    assert all(rows == columns for rows, columns in found)
    assert generator_reach(encoder.spec, decoder.spec).field == max(rows for rows, _ in found)


@pytest.mark.parametrize(
    "given",
    [{}, {"dis_ksize": 3}, {"dis_chs": [2, 2, 2]}, {"dis_down": "avgpool", "dis_sample": "none-7"}, {"spconv": True}],
)
def test_receptive_field_of_the_discriminator_is_where_gradients_come_from(given):
    with chainer.using_config("dtype", np.float64):
        discriminator = positive(Discriminator(discriminator_spec(linear(**given), 1)))
    x = chainer.Variable(np.ones((1, 1, 120, 120)))
    judged = discriminator(x)
    judged[0, 0, judged.shape[2] // 2, judged.shape[3] // 2].backward()
    field = discriminator_field(discriminator.spec)
    assert extent(x.grad[0, 0]) == (field, field)


def test_the_default_discriminator_sees_70_pixels():
    assert discriminator_field(discriminator_spec(PairedOptions(dis_basech=2), 2)) == 70  # Isola et al., 3.2.2


def test_what_sees_the_whole_image_is_named():
    spec = encoder_spec(options_of(gen_norm="instance", gen_attention=True, gen_chs=[2, 8]), 1)
    assert global_layers(spec) == ["instance normalisation", "attention"]
    assert global_layers(encoder_spec(options_of(), 1)) == []
    assert global_layers(discriminator_spec(options_of(dis_wgan=True), 1)) == ["fully connected layers"]


@pytest.mark.parametrize(
    "build, shape, expected",
    [
        (lambda: chainer.links.Convolution2D(3, 5, 3, 2, 1), (2, 3, 7, 9), 2 * 4 * 5 * 9 * 3 * 5),
        (lambda: chainer.links.Convolution2D(4, 4, 3, 1, 1, groups=4), (1, 4, 5, 6), 30 * 9 * 4),
        (lambda: chainer.links.Deconvolution2D(3, 5, 3, 2, 1), (2, 3, 7, 9), 2 * 63 * 9 * 15),
        (lambda: chainer.links.Linear(6, 5), (4, 6), 4 * 6 * 5),
    ],
)
def test_multiply_adds_by_hand(build, shape, expected):
    link, x = build(), np.zeros(shape, np.float32)
    real = link(x).shape
    with counting() as costs:
        assert link(x).shape == real
    assert costs.multiply_adds == expected


def test_multiply_adds_of_matrix_products():
    a, b = np.zeros((2, 7, 3), "f"), np.zeros((2, 7, 5), "f")
    with counting() as costs:
        assert F.matmul(a, b, transa=True).shape == (2, 3, 5)
        assert F.matmul(b, a, transa=True, transb=False).shape == (2, 5, 3)
        assert F.matmul(a, a, transb=True).shape == (2, 7, 7)
    assert costs.multiply_adds == 2 * 3 * 7 * 5 + 2 * 5 * 7 * 3 + 2 * 7 * 3 * 7


def test_kept_bytes_of_a_known_graph():
    link = chainer.links.Convolution2D(2, 3, 1)
    x = chainer.Variable(np.zeros((1, 2, 4, 5), "f"))
    y = F.relu(link(x))
    # The convolution keeps its input, ReLU its output; weights are not counted.
    assert kept_bytes([y], [link]) == 4 * (2 * 20 + 3 * 20)


def test_zeros_end_with_the_block():
    link = chainer.links.Linear(2, 2)
    x = np.ones((1, 2), "f")
    before = link(x).array
    with counting():
        assert not link(x).array.any()
    np.testing.assert_array_equal(link(x).array, before)


def test_measuring_leaves_the_network_and_the_random_state_alone():
    options = options_of(gen_dropout=0.5, dis_wgan=True, gen_chs=[2, 8], gen_attention=True)
    encoder, discriminator = Encoder(encoder_spec(options, 1)), Discriminator(discriminator_spec(options, 1))
    state = np.random.get_state()[1].copy()
    u, mean = encoder.a.phi.u.copy(), encoder.c0.n1.avg_mean.copy()
    x = np.ones((1, 1, 8, 12), "f")
    part, _ = measure("enc_x", encoder, x)
    measure("dis", discriminator, x)
    assert (np.random.get_state()[1] == state).all()
    assert (encoder.a.phi.u == u).all() and (encoder.c0.n1.avg_mean == mean).all() and encoder.c0.n1.N == 0
    assert discriminator.fc1.l0.W.array is None
    assert [row.name for row in part.rows] == ["c0", "d1", "s0", "s1", "r0", "a"]
    assert part.rows[1].shape == (1, 8, 4, 6)
    assert count(encoder) == sum(row.parameters for row in part.rows)
    assert part.multiply_adds == sum(row.multiply_adds for row in part.rows)


def test_summary_of_pix2pix_by_hand():
    options = options_of(gen_chs=[2], gen_nblock=0, unet="none", dis_chs=[2], batch_size=3)
    lines = summary_text(pix2pix_net.build(options).as_dict(), options, (8, 12)).splitlines()
    row = next(line for line in lines if line.startswith("ul"))
    assert row.split() == [
        "ul",
        "CBR",
        "2",
        "->",
        "1,",
        "7x7,",
        "none-7,",
        "none,",
        "tanh",
        "3x1x8x12",
        "99",
        "28.22",
        "k",
    ]  # 2·49 + 1 weights, 3·96 pixels
    assert any(line.startswith("one batch of 3 through enc_x + dec_y at 8x12: 66.82 k") for line in lines)
    assert "receptive field, pixels: enc_x + dec_y: 15x15" in lines
    assert any(line.startswith("memory of a training step at 8x12, batch 3: about ") for line in lines)


def test_summary_of_cyclegan_has_all_networks():
    options = options_of(UnpairedOptions, lambda_dis_z=1, lambda_idempotence=0, crop_height=16, crop_width=24)
    networks = cyclegan_net.build(options).as_dict()
    text = summary_text(networks, options)
    for name in networks:
        assert f" {name} " in text
    assert "at 16x24" in text and "of the deepest feature" in text
    assert passes(networks, options) == {
        "enc_x": 3,
        "enc_y": 3,
        "dec_x": 4,
        "dec_y": 4,
        "dis_x": 1,
        "dis_y": 1,
        "dis_z": 2,
    }
