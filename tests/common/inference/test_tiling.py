"""Padding and tiling: exact where the receptive field allows it, and wrong where it is too small."""

import numpy as np
import pytest
from scipy import ndimage

from medi2i.common.inference import tiling
from medi2i.common.networks.receptive import Fitting


def image(height, width, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(1, channels, height, width)).astype(np.float32)


def box_filter(radius, multiple=1):
    """A network stand-in: zero-padded mean over (2·radius+1)², which refuses sizes it does not like."""

    def function(x, frame=None):
        assert x.shape[-2] % multiple == 0 and x.shape[-1] % multiple == 0
        size = (1, 1, 2 * radius + 1, 2 * radius + 1)
        return ndimage.uniform_filter(x.astype(np.float64), size, mode="constant").astype(np.float32)

    return function


@pytest.mark.parametrize(
    "length, tile, margin, multiple, blend",
    [
        (96, 32, 5, 4, 3),
        (97, 33, 0, 1, 0),
        (40, 24, 4, 8, 8),
        (64, 64, 30, 4, 0),
        (24, 64, 30, 4, 0),
        (1000, 96, 40, 4, 1),
    ],
)
def test_weights_of_spans_add_up_to_one_and_margins_have_none(length, tile, margin, multiple, blend):
    total = np.zeros(length)
    for span in tiling.spans(length, tile, margin, Fitting(multiple), blend):
        assert span.start % multiple == 0 and span.stop <= length
        total[span.start : span.stop] += span.weight
        if span.start > 0:
            assert not span.weight[:margin].any()
        if span.stop < length:
            assert not span.weight[len(span.weight) - margin :].any()
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_two_spans_share_their_overlap_linearly():
    first, second = tiling.spans(16, 10, 1, blend=2)[0], tiling.spans(16, 10, 1, blend=2)[1]
    assert (first.start, second.start) == (0, 6)
    # overlap is 6..9; position 9 is the first one's margin, 6 the second's; both trust 7 and 8
    np.testing.assert_allclose(first.weight[6:], [1, 2 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(second.weight[:4], [0, 1 / 3, 2 / 3, 1], rtol=1e-6)


def test_too_small_tile_names_the_smallest_that_does():
    with pytest.raises(ValueError, match="at least 28"):
        tiling.spans(100, 24, 10, Fitting(4), 2)
    assert tiling.spans(100, 28, 10, Fitting(4), 2)


@pytest.mark.parametrize("height, width", [(61, 83), (64, 40), (7, 90)])
def test_tiles_equal_the_whole_image_with_a_margin_of_the_receptive_field(height, width):
    x = image(height, width)
    whole = tiling.run_whole(box_filter(3, 4), x, Fitting(4))
    tiled = tiling.run_tiled(box_filter(3, 4), x, 24, 3, Fitting(4), 2)
    assert whole.shape == x.shape
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_tiles_differ_from_the_whole_image_with_a_smaller_margin():
    x = image(61, 83)
    tiled = tiling.run_tiled(box_filter(3), x, 24, 2)
    assert np.abs(tiled - box_filter(3)(x)).max() > 1e-2


def test_what_a_tile_says_in_its_margin_does_not_count_even_if_it_is_not_finite():
    def function(x, frame):
        y = x.copy()
        for axis, at_start, at_end in (
            (-2, frame.top == 0, frame.top + x.shape[-2] == frame.height),
            (-1, frame.left == 0, frame.left + x.shape[-1] == frame.width),
        ):
            y = np.moveaxis(y, axis, 0)
            if not at_start:
                y[:2] = np.nan
            if not at_end:
                y[-2:] = np.inf
            y = np.moveaxis(y, 0, axis)
        return y

    x = image(50, 37)
    np.testing.assert_allclose(tiling.run_tiled(function, x, 12, 2, blend=3), x, atol=1e-6)


def test_padding_mirrors_and_crops_back_exactly():
    x = np.arange(15, dtype=np.float32).reshape(1, 1, 3, 5)
    padded, (top, left) = tiling.pad_to_fit(x, Fitting(4))
    assert padded.shape == (1, 1, 4, 8) and (top, left) == (0, 1)
    np.testing.assert_array_equal(padded[0, 0, 3], [6, 5, 6, 7, 8, 9, 8, 7])
    np.testing.assert_array_equal(tiling.run_whole(lambda a: a + 1, x, Fitting(4)), x + 1)


def test_an_image_too_small_to_be_mirrored_repeats_its_edge():
    padded, (top, left) = tiling.pad(np.float32([[[[1, 2]]]]), 4, 6)
    np.testing.assert_array_equal(padded[0, 0], np.tile(np.float32([1, 1, 1, 2, 2, 2]), (4, 1)))


def test_a_network_that_changes_the_size_is_refused():
    with pytest.raises(ValueError, match="3x4 out of 6x8"):
        tiling.run_whole(lambda a: a[..., ::2, ::2], image(6, 8))
