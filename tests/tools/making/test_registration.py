"""Placing images on other grids and finding shifts: values that can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.datasets.grid import Grid, new_position, sample
from medi2i.tools.making import registration

SOURCE = Grid.of((5, 8), (2.0, 3.0))
IMAGE = np.arange(40, dtype=np.float32).reshape(5, 8)


def test_the_same_grid_gives_the_same_pixels():
    values, padding = sample(IMAGE, SOURCE, SOURCE)
    np.testing.assert_array_equal(values, IMAGE)
    assert values.dtype == np.float32 and not padding.any()


def test_a_crop_off_the_centre_is_exact_and_marks_what_lies_outside():
    target = Grid((2.0 * 1, 3.0 * -2), (2.0, 3.0), (3, 6))  # one row down, two columns to the left
    values, padding = sample(IMAGE, SOURCE, target)
    np.testing.assert_array_equal(values[:, 1:], IMAGE[2:5, :5])
    np.testing.assert_array_equal(padding, [[True] + [False] * 5] * 3)
    assert target.first_pixel(SOURCE) == (2.0, -1.0)


def test_half_a_pixel_is_the_mean_of_two():
    values, _ = sample(IMAGE, SOURCE, Grid((0.0, 0.0), SOURCE.spacing, (5, 7)))
    np.testing.assert_allclose(values, (IMAGE[:, :-1] + IMAGE[:, 1:]) / 2)


def test_what_touches_padding_is_padding():
    mask = np.zeros(IMAGE.shape, dtype=bool)
    mask[2, 3] = True
    exact = sample(IMAGE, SOURCE, SOURCE, mask)[1]
    np.testing.assert_array_equal(exact, mask)
    between = sample(IMAGE, SOURCE, Grid((0.0, 0.0), SOURCE.spacing, (5, 7)), mask)[1]
    assert np.argwhere(between).tolist() == [[2, 2], [2, 3]]


def test_a_coarser_grid_averages():
    fine = np.zeros((32, 32), dtype=np.float32)
    fine[::2] = 100.0
    values, _ = sample(fine, Grid.of((32, 32), (1, 1)), Grid.of((8, 8), (4, 4)))
    np.testing.assert_allclose(values[1:-1], 50, atol=2)


def test_position_follows_the_first_pixel_in_any_orientation():
    target = Grid((2.0, -6.0), (1.0, 1.5), (3, 6))
    row, column = target.first_pixel(SOURCE)
    straight = new_position((10, 20, 30), (1, 0, 0, 0, 1, 0), SOURCE, target)
    assert straight == pytest.approx((10 + 3 * column, 20 + 2 * row, 30))
    turned = new_position((10, 20, 30), (0, 1, 0, 0, 0, -1), SOURCE, target)
    assert turned == pytest.approx((10, 20 + 3 * column, 30 - 2 * row))
    # the physical place of the centre is that of the request, whatever the size and spacing
    centre = np.array(straight) + [1.5 * 5 / 2, 1.0 * 2 / 2, 0]
    assert centre[:2] == pytest.approx([10 + 3 * 3.5 - 6, 20 + 2 * 2 + 2])


def body(shape=(6, 60, 76), centre=(33.0, 40.5)):
    rows, columns = np.indices(shape[1:])
    inside = ((rows - centre[0]) / 18) ** 2 + ((columns - centre[1]) / 22) ** 2 <= 1
    slice_ = np.where(inside, 40.0, -1000.0).astype(np.float32)
    slice_[int(centre[0]) - 6 : int(centre[0]) + 2, int(centre[1]) : int(centre[1]) + 9] = 250
    slice_[56:58, 10:66] = 300  # a table
    return np.repeat(slice_[None], shape[0], axis=0)


def test_centre_of_the_body_leaves_the_table_out():
    v, u = registration.body_centre(body(), np.array([2.0, 0.5]), "CT")
    assert v == pytest.approx((33.0 - 29.5) * 2, abs=0.05) and u == pytest.approx((40.5 - 37.5) * 0.5, abs=0.05)
    with pytest.raises(UserError, match="there is no body"):
        registration.body_centre(np.full((2, 20, 20), -1000.0), np.array([1.0, 1.0]), "CT")


def test_a_shift_is_found_to_a_fraction_of_a_pixel():
    template = body()
    grid = Grid.of(template.shape[1:], (1.5, 1.5))
    moved = np.stack([sample(image, grid, Grid((-7.4, 11.3), grid.spacing, grid.size))[0] for image in template])
    shift, before, after = registration.translation(template, (4.0, 1.5, 1.5), moved, (4.0, 1.5, 1.5), "CT")
    assert shift == pytest.approx((0, 7.4, -11.3), abs=0.25)
    assert after > before + 0.25  # the table has left the image


def test_spacings_may_differ():
    template = body()
    grid = Grid.of(template.shape[1:], (1.5, 1.5))
    finer = Grid((3.0, -4.5), (1.0, 1.2), (90, 95))
    moved = np.stack([sample(image, grid, finer)[0] for image in template])
    shift, _, _ = registration.translation(template, (4.0, 1.5, 1.5), moved, (4.0, 1.0, 1.2), "CT")
    assert shift == pytest.approx((0, -3.0, 4.5), abs=0.3)


def test_a_shift_along_the_slices_is_found():
    generator = np.random.default_rng(0)
    weights = np.repeat(generator.uniform(0.2, 1, 8), 2)
    volume = body((16, 60, 76))
    volume = -1000 + (volume + 1000) * weights[:, None, None].astype(np.float32)
    shift, _, _ = registration.translation(volume[:12], (3.0, 1.5, 1.5), volume[4:], (3.0, 1.5, 1.5), "CT")
    assert shift[0] == pytest.approx(-12.0, abs=3.0)


def anatomy(z, v, u):
    """HU of a limb at places in mm: skin, fat, muscle, a bone, and two vessels."""
    out = np.full(np.broadcast_shapes(z.shape, v.shape, u.shape), -1000.0)
    out[(v / 50) ** 2 + (u / 55) ** 2 + 0 * z < 1] = -100
    out[(v / 38) ** 2 + (u / 43) ** 2 + 0 * z < 1] = 50
    out[((v - 8) / 11) ** 2 + ((u + 6 - 0.1 * z) / 9) ** 2 < 1] = 900
    out[(v + 18) ** 2 + (u - 16) ** 2 + 0 * z < 49] = -100
    out[(v + 12 + 0.1 * z) ** 2 + (u + 24) ** 2 < 36] = -100
    return out.astype(np.float32)


def limb(shift=(0.0, 0.0), bow=0.0):
    """(CT in HU, its volume): a limb that lies elsewhere by ``shift`` mm and is bowed by ``bow`` mm."""
    z, v, u = np.meshgrid(np.arange(-40, 44, 4.0), np.arange(-64, 65, 2.0), np.arange(-64, 65, 2.0), indexing="ij")
    wave = bow * np.cos(z / 25) * np.cos(v / 40)
    values = anatomy(z, v - shift[0] - 0.5 * wave, u - shift[1] - wave)
    return registration.Volume(values, (-40.0, -64.0, -64.0), (4.0, 2.0, 2.0))


def as_mr(volume):
    """The same in T1: fat bright, bone and air dark; with noise."""
    signal = np.interp(volume.values, [-1000, -100, 50, 900], [0, 1000, 300, 20])
    return replace(volume, values=(signal + np.random.default_rng(0).normal(0, 10, signal.shape)).astype(np.float32))


def overlap_of_fat(first, second):
    """Dice of what is fat in two volumes in HU."""
    one, other = ((volume > -150) & (volume < -50) for volume in (first, second))
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_a_series_that_lies_otherwise_is_bent_onto_one_of_other_contrast():
    pytest.importorskip("SimpleITK")
    template, moving = as_mr(limb()), limb((9.0, -6.0), 8.0)
    found = registration.deformation(template, moving, moving, ("MR", "CT"), 1)
    truth = limb().values
    before, after = overlap_of_fat(moving.values, truth), overlap_of_fat(found.values, truth)
    assert before < 0.55 and after > 0.85
    assert found.after > 1.3 * found.before and found.folded < 1e-4
    assert 8 < found.mean < 16 and found.mean < found.most < 40
    again = registration.deformation(template, moving, moving, ("MR", "CT"), 1)
    np.testing.assert_array_equal(again.values, found.values)


def test_what_lies_on_the_template_stays_there():
    pytest.importorskip("SimpleITK")
    template, moving = as_mr(limb()), limb()
    found = registration.deformation(template, moving, moving, ("MR", "CT"), 1)
    assert overlap_of_fat(found.values, moving.values) > 0.9
    assert found.mean < 4  # mm: along the limb, and in what is uniform, there is nothing to go by


def test_series_with_nothing_in_common_are_told():
    pytest.importorskip("SimpleITK")
    template, moving = as_mr(limb()), limb()
    elsewhere = replace(moving, origin=(2000.0, 2000.0, 2000.0))
    with pytest.raises(UserError, match="--deform: found nothing in common with the template"):
        registration.deformation(template, elsewhere, elsewhere, ("MR", "CT"), 1)
