"""A residual generator starts at the input plus the mean difference."""
import numpy
import pytest

from medi2i.common.options import PairedOptions
from medi2i.common.training.residual_start import mean_difference, start_at_mean_difference
from medi2i.pix2pix import net


class Shifted:
    """Pairs of random crops whose output is the input less 0.25 in one channel, plus 0.5 in the other."""

    def __len__(self):
        return 3

    def load(self, index, rng):
        x = rng.normal(size=(2, 6, 10)).astype(numpy.float32)
        return x, x + numpy.float32([-0.25, 0.5])[:, None, None]


def options(**given):
    return PairedOptions(gen_chs=[4, 8], gen_nblock=0, gen_norm="none", gen_sample="none", lambda_dis=0, ch=2, out_ch=2,
                         gen_residual=0.1, **given)


def test_mean_difference_of_each_channel():
    numpy.testing.assert_allclose(mean_difference(Shifted(), seed=1), [-0.25, 0.5], atol=1e-6)


def test_the_first_output_is_the_input_with_the_right_mean():
    networks = net.build(options(gen_out_activation="none"))
    x = numpy.random.default_rng(0).normal(size=(1, 2, 8, 12)).astype(numpy.float32)
    before = networks.translate(x).array
    start_at_mean_difference(networks.dec_y, Shifted(), seed=1)
    expected = before + numpy.float32([-0.25, 0.5])[:, None, None]
    numpy.testing.assert_allclose(networks.translate(x).array, expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["tanh"])
def test_nothing_is_done_before_an_activation(activation):
    networks = net.build(options(gen_out_activation=activation))
    start_at_mean_difference(networks.dec_y, Shifted(), seed=1)
    assert not any(parameter.array.any() for parameter in networks.dec_y.ul.params() if parameter.name == "b")
