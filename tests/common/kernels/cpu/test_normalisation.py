"""How near the quick code is to double precision."""

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.kernels import cpu_engine
from medi2i.common.kernels.cpu import normalisation, onednn
from medi2i.common.networks.from_options import decoder_spec, encoder_spec
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.options import UnpairedOptions

needs_onednn = pytest.mark.skipif(onednn.library() is None, reason="oneDNN is not installed")


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 3, 256, 256), (1, 5, 251, 1), (3, 130, 12, 20), (1, 2, 1, 3)])
def test_statistics_are_right_to_the_last_digits(shape):
    """Sums over 65536 pixels one after the other were wrong by 1e-5; means of their own make no difference."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) + 5).astype(np.float32)
    ones, zeros = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32)
    y, mean, variance, _ = normalisation.forward(x, ones, zeros, 2e-5, 1, False)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean.ravel(), wide.mean((0, 2, 3)), rtol=5e-7)
    np.testing.assert_allclose(variance.ravel(), wide.var((0, 2, 3)), rtol=2e-6)
    expected = (wide - wide.mean((0, 2, 3), keepdims=True)) / np.sqrt(wide.var((0, 2, 3), keepdims=True) + 2e-5)
    assert abs(y - expected).max() <= 4e-6


@needs_onednn
@pytest.mark.parametrize("norm", ["instance", "batch_aff"])
def test_a_network_is_as_near_to_double_precision_as_by_chainers_own_code(norm):
    """Measured: 1.0 to 1.2 times as far; convolutions add up in another order."""
    options = UnpairedOptions(gen_chs=[8, 16, 32], gen_nblock=4, gen_norm=norm, gen_out_activation="none")
    np.random.seed(1)
    links = Encoder(encoder_spec(options, 1)), Decoder(decoder_spec(options, 1))
    with chainer.using_config("dtype", np.float64):
        wide = Encoder(encoder_spec(options, 1)), Decoder(decoder_spec(options, 1))
    for link, other in zip(links, wide, strict=True):
        for a, b in zip(link.params(), other.params(), strict=True):
            b.array[...] = a.array
    x = np.random.default_rng(2).uniform(-1, 1, (1, 1, 96, 96)).astype(np.float32)
    train = norm == "batch_aff"  # statistics of this image, as instance normalisation always has
    error = {}
    with chainer.using_config("train", train), chainer.no_backprop_mode():
        expected = wide[1](wide[0](x.astype(np.float64))).array
        for engine in ("chainer", "onednn"):
            with cpu_engine.using(engine):
                error[engine] = np.sqrt(np.square(links[1](links[0](x)).array - expected).mean())
    assert expected.dtype == np.float64
    assert error["onednn"] <= 1.5 * error["chainer"] < 1e-5 * abs(expected).max()
