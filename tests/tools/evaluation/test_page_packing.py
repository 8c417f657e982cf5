"""Images packed for a page come back as they were."""

import zlib

import numpy as np
import pytest

from medi2i.tools.evaluation import page
from medi2i.tools.evaluation.page import Scale


def unpack(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    """The way back, pixel by pixel as the page does it."""
    height, width = shape
    raw = np.frombuffer(zlib.decompress(data), dtype=np.uint8).astype(np.int64).reshape(2, height, width)
    folded = raw[0] * 256 + raw[1]
    error = np.where(folded % 2 == 0, folded // 2, -(folded + 1) // 2)
    q = np.zeros((height + 1, width + 1), dtype=np.int64)
    for row in range(1, height + 1):
        for column in range(1, width + 1):
            a, b, c = q[row, column - 1], q[row - 1, column], q[row - 1, column - 1]
            predicted = min(a, b) if c >= max(a, b) else max(a, b) if c <= min(a, b) else a + b - c
            q[row, column] = (predicted + error[row - 1, column - 1]) % 65536
    return q[1:, 1:].astype(np.uint16)


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
    np.testing.assert_array_equal(unpack(page.pack(q), q.shape), q)


def test_smooth_images_become_small():
    rows, columns = np.indices((64, 64))
    assert len(page.pack((1000 + 3 * rows + 2 * columns).astype(np.uint16))) < 200


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
    np.testing.assert_array_equal(page.shrink(array, 2), [[3, 5]])
    assert page.shrink(np.stack([array, array + 1]), 2).tolist() == [[[3, 5]], [[4, 6]]]
