"""Measures of two sets of images: known distances, moments, similarities, nearest images."""

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.synthesis import sets


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_levels_of_the_pyramid_add_up_to_the_image():
    image = normal(2, 1, 56, 38)
    levels = sets.laplacian_levels(image)
    assert {side: level.shape[2:] for side, level in levels.items()} == {56: (56, 38), 28: (28, 19)}
    doubled = np.zeros_like(levels[56])
    doubled[:, :, ::2, ::2] = 4 * levels[28]
    assert np.allclose(levels[56] + sets._blurred(doubled), image, atol=1e-5)
    constant = sets.laplacian_levels(np.full((1, 1, 64, 64), 7.0))
    assert list(constant) == [64, 32, 16] and np.allclose(constant[16], 7)
    assert all(abs(constant[side]).max() < 1e-5 for side in (64, 32))


def test_descriptors_have_mean_0_and_deviation_1_in_every_channel():
    found = sets.descriptors(5 + 3 * normal(6, 2, 20, 24) * [[[[1.0]], [[9.0]]]], np.random.default_rng(0))
    assert found.shape == (6 * 128, 2 * 49)
    for channel in (found[:, :49], found[:, 49:]):
        assert channel.mean() == pytest.approx(0, abs=1e-6) and channel.std() == pytest.approx(1, rel=1e-6)


def test_sliced_wasserstein_of_known_sets():
    rng, a = np.random.default_rng(0), normal(4000, 49)
    assert sets.sliced_wasserstein(a, a[::-1], rng) == pytest.approx(0, abs=1e-3)
    # A shift by d moves every projection by d·θ, whose mean size over directions of length 1 is |d|·sqrt(2 / (π D)).
    shift = np.zeros(49)
    shift[3] = 2.0
    expected = 2000 * np.sqrt(2 / (np.pi * 49))
    assert sets.sliced_wasserstein(a, a + shift, rng) == pytest.approx(expected, rel=0.1)
    # Twice as wide: of N(0, 1) and N(0, 2) the distance is the mean of |x|, sqrt(2 / π), in every direction.
    assert sets.sliced_wasserstein(a, 2 * a, rng) == pytest.approx(1000 * np.sqrt(2 / np.pi), rel=0.02)


def test_similarity_is_1_of_equal_images_and_0_of_noise():
    equal = np.repeat(normal(1, 1, 32, 32), 12, axis=0)
    assert sets.similarity(equal, (-3, 3), 0) == (pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-5))
    mean, error = sets.similarity(normal(12, 1, 32, 32), (-3, 3), 0)
    assert abs(mean) < 0.1 and 0 < error < 0.02


def test_nearest_images():
    real = normal(5, 1, 6, 7)
    index, distance = sets.nearest(real[[3, 1]] + 0.25, real)
    assert index.tolist() == [3, 1] and np.allclose(distance, 0.25)
    index, distance = sets.nearest(real, real, others=True)
    for i in range(5):
        others = [np.sqrt(((real[i] - real[j]) ** 2).mean()) if j != i else np.inf for j in range(5)]
        assert index[i] == np.argmin(others) and distance[i] == pytest.approx(min(others))


def test_rows_are_the_yardsticks_and_the_sets():
    real = normal(24, 1, 32, 32)
    (halves, noise, own, copies), limit = sets.compared(
        real, {"own": normal(30, 1, 32, 32, seed=5), "copies": real[:10]}, (-4, 4), 0
    )
    assert [halves.name, noise.name, own.name, copies.name] == ["real, half and half", "noise", "own", "copies"]
    assert halves.distance.min() <= limit and halves.copies == own.copies == 0 and copies.copies == 10
    for side in (32, 16):  # all are noise
        assert own.swd[side] == pytest.approx(halves.swd[side], rel=0.5)
    with pytest.raises(UserError, match="few: 3 images"):
        sets.compared(real, {"few": real[:3]}, (-4, 4), 0)
    with pytest.raises(UserError, match="other: images of 1x16x16"):
        sets.compared(real, {"other": real[:, :, ::2, ::2]}, (-4, 4), 0)
