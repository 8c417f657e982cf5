"""Seeded randomness that can be saved."""

import numpy as np
import pytest

from medi2i.common.compat import F, chainer
from medi2i.common.training.randomness import RandomState


def draws(random):
    numbers = [random.integer(2), random.integer(1000), random.normal(2.0)]
    arrays = [random.uniform_array((2, 3)), random.normal_array((3, 1, 2))]
    dropped = F.dropout(np.ones((4, 5), np.float32), 0.5).array
    return numbers + [float(n) for a in (*arrays, dropped) for n in a.ravel()]


def test_same_seed_same_numbers():
    first, second, other = RandomState(3), RandomState(3), RandomState(4)
    results = []
    for random in (first, second, other):
        random.seed_global()
        results.append(draws(random))
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("before", [0, 1, 7])
def test_saved_and_restored_exactly_and_without_pickle(tmp_path, before):
    random = RandomState(5)
    random.seed_global()
    for _ in range(before):  # an odd number of 32-bit draws and of normal numbers leaves halves to be saved
        random.integer(2)
        random.normal_array((3,))
        np.random.randn()
    chainer.serializers.save_npz(str(tmp_path / "random.npz"), random)
    expected = draws(random) + [np.random.randn()]
    saved = np.load(tmp_path / "random.npz", allow_pickle=False)
    assert all(array.dtype.kind in "uif" for array in saved.values())

    other = RandomState(99)
    other.seed_global()
    chainer.serializers.load_npz(str(tmp_path / "random.npz"), other)
    assert draws(other) + [np.random.randn()] == expected


def test_arrays_have_the_moments_they_promise():
    random = RandomState(0)
    uniform, normal = random.uniform_array((100, 100)), random.normal_array((100, 100))
    assert uniform.dtype == normal.dtype == np.float32
    assert uniform.min() >= 0 and uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.02) and uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    assert normal.mean() == pytest.approx(0, abs=0.05) and normal.std() == pytest.approx(1, abs=0.03)


def test_no_noise_draws_nothing():
    random, other = RandomState(0), RandomState(0)
    assert random.normal(0) == 0.0
    assert random.integer(10**9) == other.integer(10**9)
    assert isinstance(random.normal(1), float)
