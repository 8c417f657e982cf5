"""A residual generator starts at the input plus what the output lies above it."""

import numpy as np
import pytest

from medi2i.common.options import PairedOptions
from medi2i.common.training.mean_change import BINS, domain_shift, mean_difference, start_at
from medi2i.pix2pix import net


class Shifted:
    """Pairs of random crops whose output is the input less 0.25 in one channel, plus 0.5 in the other."""

    def __len__(self):
        return 3

    def load(self, index, rng):
        x = rng.normal(size=(2, 6, 10)).astype(np.float32)
        return x, x + np.float32([-0.25, 0.5])[:, None, None]


def options(**given):
    return PairedOptions(
        gen_chs=[4, 8],
        gen_nblock=0,
        gen_norm="none",
        gen_sample="none",
        lambda_dis=0,
        ch=2,
        out_ch=2,
        gen_residual=0.1,
        **given,
    )


def test_mean_difference_of_each_channel():
    np.testing.assert_allclose(mean_difference(Shifted(), seed=1), [-0.25, 0.5], atol=1e-6)


def test_the_first_output_is_the_input_with_the_right_mean():
    networks = net.build(options(gen_out_activation="none"))
    x = np.random.default_rng(0).normal(size=(1, 2, 8, 12)).astype(np.float32)
    before = networks.translate(x).array
    start_at(networks.dec_y, mean_difference(Shifted(), seed=1))
    expected = before + np.float32([-0.25, 0.5])[:, None, None]
    np.testing.assert_allclose(networks.translate(x).array, expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["tanh"])
def test_nothing_is_done_before_an_activation(activation):
    networks = net.build(options(gen_out_activation=activation))
    start_at(networks.dec_y, mean_difference(Shifted(), seed=1))
    assert not any(parameter.array.any() for parameter in networks.dec_y.ul.params() if parameter.name == "b")


FINE = 2 / BINS / 10  # a tenth of a bin of the histograms


class Domain:
    """Images of grey values near 0, a share ``air`` of them near -1, plus a shift."""

    def __init__(self, shift, air):
        self.shift, self.air = shift, air

    def __len__(self):
        return 5

    def whole(self, index):
        values = np.random.default_rng(index).normal(0, 0.05, size=(1, 40, 50)).astype(np.float32)
        values[0, : round(40 * self.air)] -= 1
        return values + np.float32(self.shift)


def test_the_shift_between_domains():
    assert domain_shift(Domain(0.25, 0.3), Domain(0.5, 0.3)) == pytest.approx(0.25, abs=FINE)


def test_quantiles_at_the_ends_of_the_clip_say_nothing():
    class Clipped(Domain):
        def whole(self, index):
            return np.clip(super().whole(index) * 4, -1, 1)

    assert domain_shift(Clipped(0, 0.6), Clipped(0.05, 0.6)) == pytest.approx(0.2, abs=2 / BINS)
    assert domain_shift(Clipped(0, 1), Clipped(0.05, 1)) == 0


def test_each_channel_has_its_shift():
    class Colour(Domain):
        def whole(self, index):
            return np.concatenate([super().whole(index), 2 * super().whole(index)])

    np.testing.assert_allclose(domain_shift(Colour(0.1, 0), Colour(0.2, 0)), [0.1, 0.2], atol=FINE)


def test_the_shift_does_not_follow_the_mean():
    more, less = Domain(0, 0.5), Domain(0.1, 0.3)
    assert less.whole(0).mean() - more.whole(0).mean() > 0.28
    assert domain_shift(more, less) == pytest.approx(0.1, abs=0.04)


class Body:
    """Images of fat at -0.4, soft tissue at -0.3, muscle at -0.28 and air at -1, in these shares of 12, with a shift,
    and noise where ``noisy``."""

    def __init__(self, fat, soft, muscle, shift=0.0, noisy=0.0):
        air = 12 - fat - soft - muscle
        self.rows = np.repeat([-0.4, -0.3, -0.28, -1.0], np.multiply([fat, soft, muscle, air], 10)) + shift
        self.noisy = noisy

    def __len__(self):
        return 4

    def whole(self, index):
        rng = np.random.default_rng(index)
        image = np.repeat(self.rows[:, np.newaxis], 40, axis=1) + rng.normal(0, 0.003, (120, 40))
        return (image + self.noisy * rng.normal(size=image.shape)).astype(np.float32)[np.newaxis]


@pytest.mark.parametrize("shift", [0.0, -0.066, 0.2])
@pytest.mark.parametrize("noisy", [0.0, 0.01])
def test_a_difference_of_anatomy_is_none_of_intensity(shift, noisy):
    """Quantiles slip from air to tissue and from one tissue to the next; modes do not."""
    a, b = Body(1, 6, 1, noisy=noisy), Body(3, 4, 2, shift)
    assert domain_shift(a, b) == pytest.approx(shift, abs=1e-3)
    assert domain_shift(b, a) == pytest.approx(-shift, abs=1e-3)


def test_modes_of_any_height_say_where_tissues_are():
    """Where nine tenths of a body are fat and of another one muscle, the small modes agree with the large ones."""
    assert domain_shift(Body(10, 1, 0), Body(1, 10, 0)) == pytest.approx(0, abs=1e-3)
    assert domain_shift(Body(12, 0, 0), Body(0, 12, 0)) == pytest.approx(
        0.1, abs=1e-3
    )  # one mode: nothing says otherwise
