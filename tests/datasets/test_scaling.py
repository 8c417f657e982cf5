import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.datasets.scaling import Clip


def test_ends_middle_and_outside():
    unit = Clip(-1024, 2000).to_unit(np.array([[-3000, -1024, 488, 2000, 9000]], dtype=np.int16))
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, [[-1, -1, 0, 1, 1]])


def test_every_12_bit_value_comes_back_to_its_integer():
    hu = np.arange(-1024, 3072, dtype=np.float32)
    clip = Clip(-1024, 3071)
    back = clip.from_unit(clip.to_unit(hu))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(np.rint(back), hu)
    assert np.abs(back - hu).max() < 1e-3


def test_from_unit_does_not_clip():
    np.testing.assert_allclose(Clip(0, 100).from_unit([-1.5, 0.0, 1.5]), [-25, 50, 125])


def test_no_clip_leaves_values_and_copies():
    values = np.array([0.5, 7.0], dtype=np.float32)
    unit = Clip().to_unit(values)
    np.testing.assert_array_equal(unit, values)
    unit[0] = 9
    assert values[0] == 0.5
    assert not Clip().scales
    np.testing.assert_array_equal(Clip().from_unit(values), values)


def test_the_array_given_is_not_changed():
    values = np.array([5.0, 20.0], dtype=np.float32)
    Clip(0, 10).to_unit(values)
    np.testing.assert_array_equal(values, [5, 20])


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, None), (None, 3), (0, float("inf")), (float("nan"), 1)])
def test_ends_that_make_no_range(ends):
    with pytest.raises(UserError, match="--clip"):
        Clip(*ends)
