import numpy as np

from medi2i.datasets.preparing import body_mask, clip_to_body


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
