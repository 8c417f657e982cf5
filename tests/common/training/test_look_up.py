"""Tables of grey levels between two domains, by how frequent levels are."""

import numpy as np
import pytest

from medi2i.common.training import look_up

SIZE = 48


class Images:
    """What ``between`` asks of a data set."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def whole(self, index):
        return self.images[index].astype(np.float32)


def bodies(seed, levels, count=12, noise=0.01):
    """Images (1, SIZE, SIZE + 6): background, a ring of fat, muscle, in it an organ; ``levels`` in this order."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE + 6))
    found = []
    for _ in range(count):
        y, x = rng.uniform(20, 28), rng.uniform(22, 32)
        radius = np.hypot(rows - y, columns - x)
        image = np.choose((radius < 18).astype(int) + (radius < 13) + (radius < 5), levels)
        found.append((image + rng.normal(0, noise, image.shape))[np.newaxis])
    return found


T1 = bodies(0, (-0.95, 0.8, 0.0, -0.5))
CT_LIKE = bodies(1, (-0.3, -0.6, 0.3, 0.7))  # the order of fat, muscle and organ is the other one, background elsewhere


def test_bright_becomes_dark_where_that_resembles_the_other_domain():
    found = look_up.between(Images(T1), Images(CT_LIKE))
    assert found.falling and found.distances[1] < found.distances[0] and "become dark" in found.sentence
    for table, image, levels in (
        (found.there, T1, (-0.3, -0.6, 0.3, 0.7)),
        (found.back, CT_LIKE, (-0.95, 0.8, 0, -0.5)),
    ):
        made = table(np.stack(image).astype("f"))
        assert made.shape == (12, 1, SIZE, SIZE + 6) and made.dtype == np.float32
        exact = np.stack(bodies(0 if image is T1 else 1, levels, noise=0))
        assert np.median(abs(made - exact)) < 0.03
        assert np.mean(abs(made - exact)) < 0.15  # borders between tissues are smoothed


def test_bright_stays_bright_within_one_modality():
    found = look_up.between(Images(T1), Images(bodies(2, (-0.95, 0.6, 0.1, -0.4))))
    assert not found.falling and found.distances[0] < found.distances[1] and "stay bright" in found.sentence
    made = found.there(np.stack(T1).astype("f"))
    assert np.median(abs(made - np.stack(bodies(0, (-0.95, 0.6, 0.1, -0.4), noise=0)))) < 0.03


@pytest.mark.parametrize("way, falling", [("rising", False), ("falling", True)])
def test_a_way_that_is_given_is_taken(way, falling):
    assert look_up.between(Images(T1), Images(CT_LIKE), way).falling is falling


def test_levels_are_those_of_equal_rank_and_background_is_background():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.5, 0.5, 4000), rng.uniform(0, 1, 3000)
    table = look_up.LookUp(np.quantile(x, [0, 0.5, 1]), np.quantile(y, [1, 0.5, 0]), -0.9, -1.0)
    flat = np.array([-0.9, -0.86, x.min(), np.median(x), x.max(), -0.8, 1.0], np.float32)
    made = table(np.repeat(flat, 9).reshape(7, 1, 3, 3))[:, 0, 1, 1]
    expected = [-1, -1, y.max(), np.median(y), y.min(), y.max(), y.min()]
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_a_level_is_the_mean_of_three_by_three_pixels_up_to_the_border():
    table = look_up.LookUp(np.array([-1.0, 1.0]), np.array([-1.0, 1.0]), 5.0, 5.0)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 1, 5, 7)).astype("f")
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    expected = sum(padded[..., i : i + 5, j : j + 7] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(table(image), expected, atol=1e-6)


def test_images_of_one_level_have_a_table():
    flat = Images([np.full((1, 9, 9), -1.0)] * 2)
    found = look_up.between(flat, Images(T1))
    assert np.isfinite(found.there(np.full((1, 1, 9, 9), -1, "f"))).all()
    assert np.isfinite(found.back(np.stack(T1).astype("f"))).all()
