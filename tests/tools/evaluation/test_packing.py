"""Images packed for a page come back as they were."""

import numpy as np
import pytest

from medi2i.tools.evaluation import packing
from medi2i.tools.evaluation.packing import Scale


@pytest.mark.parametrize(
    "q",
    [
        np.random.default_rng(0).integers(0, 65536, (13, 7)),
        np.array([[0, 65535, 0], [65535, 0, 65535]]),
        np.zeros((1, 5)),
        np.arange(35).reshape(5, 7) * 1800,
    ],
    ids=["noise", "extremes", "row", "ramp"],
)
def test_round_trip(q):
    q = q.astype(np.uint16)
    np.testing.assert_array_equal(packing.unpack(packing.pack(q), q.shape), q)


def test_smooth_images_become_small():
    rows, columns = np.indices((64, 64))
    assert len(packing.pack((1000 + 3 * rows + 2 * columns).astype(np.uint16))) < 200


def test_hounsfield_units_are_exact_and_clipped_to_16_bits():
    scale = Scale.of(-1024, 3071, whole=True)
    assert scale == Scale(-1024.0, 1.0)
    np.testing.assert_array_equal(scale.quantise([[-2000, -1024, 0.4, 70000]]), [[0, 0, 1024, 65535]])


def test_fractions_use_the_whole_range():
    scale = Scale.of(-0.5, 1.5, whole=False)
    np.testing.assert_array_equal(scale.quantise([-0.5, 0.5, 1.5]), [0, 32768, 65535])
    assert Scale.of(3, 3, whole=False).quantise([3.0])[0] == 0


def test_shrink_takes_means_and_drops_the_rest():
    array = np.arange(15, dtype=np.float32).reshape(3, 5)
    np.testing.assert_array_equal(packing.shrink(array, 2), [[3, 5]])
    assert packing.shrink(np.stack([array, array + 1]), 2).tolist() == [[[3, 5]], [[4, 6]]]
