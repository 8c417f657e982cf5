import numpy as np
import pytest

from medi2i.datasets.grid import resample, resample_mask, resample_to, resampled_size


def test_same_spacing_is_the_same_image():
    image = np.random.default_rng(0).standard_normal((2, 9, 14)).astype(np.float32)
    np.testing.assert_array_equal(resample(image, (0.7, 0.7), 0.7), image)


def test_halved_pixels_lie_symmetrically_about_the_centre():
    # Old centres at -0.5 and 0.5 (units of 2 mm); new ones at -0.75, -0.25, 0.25, 0.75: the outer two take the ends.
    np.testing.assert_allclose(resample(np.array([[[0.0, 4.0]]]), (2, 2), 1), [[[0, 1, 3, 4], [0, 1, 3, 4]]])


def test_a_linear_image_is_resampled_exactly_and_comes_back():
    y, x = np.mgrid[:31, :40]
    image = (3.0 * y - 2.0 * x)[np.newaxis].astype(np.float32)
    fine = resample(image, (0.8, 1.2), 0.5)
    assert fine.shape == (1, round(31 * 0.8 / 0.5), round(40 * 1.2 / 0.5))
    rows = (np.arange(fine.shape[1]) - (fine.shape[1] - 1) / 2) * 0.5 / 0.8 + 15
    columns = (np.arange(fine.shape[2]) - (fine.shape[2] - 1) / 2) * 0.5 / 1.2 + 19.5
    expected = 3 * np.clip(rows, 0, 30)[:, np.newaxis] - 2 * np.clip(columns, 0, 39)
    np.testing.assert_allclose(fine[0], expected, atol=1e-3)
    back = resample_to(fine, (0.5, 0.5), (0.8, 1.2), (31, 40))
    assert back.shape == image.shape
    np.testing.assert_allclose(back[:, 1:-1, 1:-1], image[:, 1:-1, 1:-1], atol=1e-3)


def test_smooth_image_survives_a_coarser_grid_and_the_way_back():
    y, x = np.mgrid[:65, :81]
    image = np.exp(-((y - 30) ** 2 + (x - 43) ** 2) / 200)[np.newaxis].astype(np.float32)
    coarse = resample(image, (1, 1), 1.7)
    assert coarse.shape[1:] == resampled_size((65, 81), (1, 1), 1.7) == (38, 48)
    back = resample_to(coarse, (1.7, 1.7), (1, 1), (65, 81))
    assert np.abs(back - image).max() < 0.02
    moment = [(back[0] * grid).sum() / back.sum() for grid in (y, x)]
    np.testing.assert_allclose(moment, [30, 43], atol=0.05)  # half a pixel off would be 0.35


def test_coarser_grid_averages():
    checker = (np.indices((40, 40)).sum(axis=0) % 2 * 100.0)[np.newaxis]
    assert np.abs(resample(checker, (1, 1), 4)[0, 2:-2, 2:-2] - 50).max() < 3


def test_mask_takes_the_nearest():
    mask = np.zeros((4, 6), dtype=bool)
    mask[:2, 4:] = True
    np.testing.assert_array_equal(resample_mask(mask, (1, 1), 0.5), mask.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(resample_mask(mask, (1, 1), 2), [[False, False, True], [False, False, False]])


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (1, 1)), ((3, 512), (2, 300))])
def test_size_is_at_least_one_pixel(size, expected):
    assert resampled_size(size, (0.5859375, 0.5859375), 1.0) == expected
