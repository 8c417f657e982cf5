import numpy as np

from medi2i.datasets.grid import enlarge, enlarge_mask, resample, resample_mask
from medi2i.datasets.preparing import body_mask, clip_to_body, to_grid, with_channels
from medi2i.datasets.reading import Image


def slice_with_table():
    y, x = np.mgrid[:80, :100]
    hu = np.full((80, 100), -1000.0, dtype=np.float32)
    body = ((y - 35) / 22.0) ** 2 + ((x - 50) / 35.0) ** 2 <= 1
    hu[body] = 30
    lung = ((y - 35) / 9.0) ** 2 + ((x - 40) / 9.0) ** 2 <= 1
    hu[lung] = -850
    hu[66:69, 10:90] = -200  # table
    hu[4, 10] = 500  # a speck
    return hu, body


def test_body_with_its_lungs_and_without_the_table():
    hu, body = slice_with_table()
    mask = body_mask(hu)
    assert mask[35, 40]
    assert not mask[66:69].any() and not mask[4, 10]
    assert np.count_nonzero(mask != body) <= 4


def test_what_is_outside_becomes_air_and_inside_nothing_changes():
    hu, body = slice_with_table()
    clipped = clip_to_body(hu)
    assert clipped.dtype == np.float32
    np.testing.assert_array_equal(clipped[body_mask(hu)], hu[body_mask(hu)])
    assert (clipped[~body_mask(hu)] == -1000).all()
    assert clipped[35, 40] == -850


def test_body_cut_by_the_border_is_kept_up_to_it():
    hu = np.full((40, 50), -1000.0, dtype=np.float32)
    hu[10:, :30] = 40
    np.testing.assert_array_equal(body_mask(hu), hu > 0)


def test_air_only_and_thin_things():
    assert not body_mask(np.full((9, 11), -1000.0)).any()
    thin = np.full((20, 20), -1000.0)
    thin[10, 3:15] = 0
    np.testing.assert_array_equal(body_mask(thin), thin == 0)


def test_the_body_is_found_in_hu_before_the_image_is_enlarged_and_resampled():
    hu = np.full((12, 20), -1000.0, np.float32)
    hu[3:10, 4:15], hu[11, :] = 40, 600  # a table below the body
    mask = np.zeros(hu.shape, bool)
    mask[:, :2] = True
    got = to_grid(Image(hu[np.newaxis], mask, None), (0.5, 1.0), body=True, scale=2, spacing=1.5)
    fine = enlarge(clip_to_body(hu)[np.newaxis], 2)
    np.testing.assert_array_equal(got.array, resample(fine, (0.25, 0.5), 1.5))
    np.testing.assert_array_equal(got.mask, resample_mask(enlarge_mask(mask, 2), (0.25, 0.5), 1.5))
    assert got.array.max() < 100 and got.array.shape == (1, 4, 13)


def test_nothing_to_do_leaves_the_image_itself():
    image = Image(np.zeros((1, 3, 5), np.float32), np.ones((3, 5), bool), 8)
    got = to_grid(image, (1.0, 1.0))
    assert got.array is image.array and got.mask is image.mask and got.bits == 8


def test_colours_become_grey_and_grey_becomes_colours_image_by_image():
    array = np.arange(6, dtype=np.float32)[:, np.newaxis, np.newaxis] * np.ones((6, 2, 3), np.float32)
    np.testing.assert_allclose(with_channels(array, 2, 2)[:, 0, 0], [0.587 + 0.228, 3 + 0.587 + 0.228], atol=1e-6)
    np.testing.assert_array_equal(with_channels(array[:2], 6, 2)[:, 0, 0], [0, 0, 0, 1, 1, 1])
    assert with_channels(array, 5) is array
