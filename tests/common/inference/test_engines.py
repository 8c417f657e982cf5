"""Engines, and tiles through real generators: the same as the whole image inside the receptive field."""

import numpy as np
import pytest

from medi2i.common.compat import F, chainer
from medi2i.common.inference import tiling
from medi2i.common.inference.engines import ChainerEngine, IdentityEngine
from medi2i.common.inference.tiling import Frame, double_in_frame
from medi2i.common.networks.from_options import decoder_spec, encoder_spec, size_multiple
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.receptive import Fitting, generator_reach, global_layers
from medi2i.common.options import PairedOptions

CPU = "@numpy"
VARIANTS = [
    {},
    {"gen_up": "unpool"},
    {"gen_up": "deconv", "unet": "concat"},
    {"gen_up": "resize_conv", "gen_down": "avgpool"},
    {"gen_up": "pixsh", "gen_down": "maxpool", "unet": "add"},
    {"gen_up": "resize_res", "gen_down": "down_res"},
    {"gen_up": "resize", "unet": "none", "pad": "reflect"},
]


def generator(**options):
    options = PairedOptions(gen_chs=[3, 4, 8], gen_nblock=1, gen_activation="lrelu", **options)
    specs = encoder_spec(options, 1), decoder_spec(options, 1)
    np.random.seed(1)
    engine = ChainerEngine(Encoder(specs[0]), Decoder(specs[1]), chainer.get_device(CPU))
    return engine, generator_reach(*specs), Fitting(size_multiple(options))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_tiles_of_a_real_generator_equal_the_whole_image(options):
    engine, seen, fit = generator(**options)
    x = np.random.default_rng(2).normal(size=(1, 1, 125, 38)).astype(np.float32)
    whole = tiling.run_whole(engine.run, x, fit)
    tile = tiling.smallest_tile(seen.radius, fit, 8)
    assert tile < 125
    tiled = tiling.run_tiled(engine.run, x, tile, seen.radius, fit, 8)
    assert whole.std() > 0.01
    np.testing.assert_allclose(tiled, whole, atol=2e-5)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_an_engine_looks_as_far_as_its_reach_says(options):
    engine, seen, fit = generator(**options)
    x = np.random.default_rng(3).normal(size=(1, 1, 152, 104)).astype(np.float32)
    moved = x.copy()
    moved[0, 0, 76, 52] += 5
    rows, columns = np.nonzero(engine.run(moved)[0, 0] != engine.run(x)[0, 0])
    measured = max(76 - rows.min(), rows.max() - 76, 52 - columns.min(), columns.max() - 52)
    assert seen.radius // 2 < measured <= seen.radius


def test_without_its_frame_a_tile_is_stretched_by_corner_aligned_upsampling():
    engine, seen, fit = generator()
    x = np.random.default_rng(2).normal(size=(1, 1, 125, 38)).astype(np.float32)
    tile = tiling.smallest_tile(seen.radius, fit, 8)
    unplaced = tiling.run_tiled(lambda part, frame: engine.run(part), x, tile, seen.radius, fit, 8)
    assert np.abs(unplaced - tiling.run_whole(engine.run, x, fit)).max() > 1e-3


def test_layers_that_see_the_whole_image_are_named():
    assert global_layers(generator(gen_norm="instance")[0].decoder.spec) == ["instance normalisation"]
    assert global_layers(generator(gen_attention=True)[0].encoder.spec) == ["attention"]


def test_upsampling_in_the_frame_of_the_whole_image_is_the_ordinary_one():
    x = chainer.as_variable(np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32))
    y = double_in_frame(x, (2, 3, 10, 14), Frame(0, 0, 10, 14))
    np.testing.assert_allclose(y.array, F.resize_images(x, (10, 14)).array, atol=1e-6)
    assert y.dtype == np.float32


def test_upsampling_of_a_part_is_that_part_of_the_whole():
    x = chainer.as_variable(np.random.default_rng(0).normal(size=(1, 1, 12, 16)).astype(np.float32))
    whole = F.resize_images(x, (24, 32)).array
    part = double_in_frame(x[:, :, 4:10, 6:14], (1, 1, 12, 16), Frame(8, 12, 24, 32))
    np.testing.assert_allclose(part.array[:, :, 2:-2, 2:-2], whole[:, :, 10:18, 14:26], atol=1e-6)


def test_batch_statistics_are_left_alone_and_no_graph_is_kept():
    engine, _, _ = generator()
    before = engine.encoder.c0.n1.avg_mean.copy()
    y = engine.run(np.ones((2, 1, 8, 8), np.float32))
    assert isinstance(y, np.ndarray) and y.dtype == np.float32 and y.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(engine.encoder.c0.n1.avg_mean, before)
    assert chainer.config.train is True


def test_identity():
    x = np.ones((1, 2, 3, 4), np.float32)
    np.testing.assert_array_equal(IdentityEngine().run(x), x)
