"""The history pool."""

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.training.adversarial import HistoryPool
from medi2i.common.training.randomness import RandomState


def numbered(*numbers):
    return np.stack([np.full((2, 3, 5), n, np.float32) for n in numbers])


def numbers(batch):
    return [int(n) for n in batch[:, 0, 0, 0]]


def test_until_it_is_full_the_new_images_come_back():
    pool = HistoryPool(5, RandomState(0))
    assert numbers(pool.query(numbered(1, 2))) == [1, 2]
    assert numbers(pool.query(numbered(3, 4))) == [3, 4]
    assert len(pool) == 4


def test_when_full_half_the_time_an_old_one_comes_back_and_the_new_takes_its_place():
    pool = HistoryPool(10, RandomState(0))
    pool.query(numbered(*range(10)))
    held, exchanged = set(range(10)), 0
    for new in range(10, 1010):
        (back,) = numbers(pool.query(numbered(new)))
        if back != new:
            exchanged += 1
            assert back in held
            held = held - {back} | {new}
        assert len(pool) == 10 and {int(i[0, 0, 0]) for i in pool.images} == held
    assert 450 < exchanged < 550  # binomial: 500 +- 16


def test_images_are_kept_by_value():
    pool = HistoryPool(1, RandomState(0))
    batch = numbered(1)
    returned = pool.query(batch)
    batch[:] = 9
    returned[:] = 8
    assert numbers(pool.sample(1)) == [1]


def test_without_room_nothing_is_kept():
    pool = HistoryPool(0, RandomState(0))
    assert numbers(pool.query(numbered(1, 2, 3))) == [1, 2, 3]
    assert len(pool) == 0


def test_sample_does_not_repeat():
    pool = HistoryPool(6, RandomState(0))
    pool.query(numbered(*range(6)))
    assert sorted(numbers(pool.sample(6))) == list(range(6))


@pytest.mark.parametrize("count", [0, 3])
def test_saved_and_restored_without_pickle(tmp_path, count):
    random, pool = RandomState(0), None
    pool = HistoryPool(4, random)
    if count:
        pool.query(numbered(*range(count)))
    chainer.serializers.save_npz(str(tmp_path / "pool.npz"), pool)
    assert all(array.dtype != object for array in np.load(tmp_path / "pool.npz", allow_pickle=False).values())
    other = HistoryPool(4, random)
    other.query(numbered(7))
    chainer.serializers.load_npz(str(tmp_path / "pool.npz"), other)
    assert [numbers(image[None]) for image in other.images] == [[n] for n in range(count)]


def test_a_pool_of_another_size_is_refused(tmp_path):
    pool = HistoryPool(4, RandomState(0))
    pool.query(numbered(1, 2, 3))
    chainer.serializers.save_npz(str(tmp_path / "pool.npz"), pool)
    with pytest.raises(ValueError, match="room for 2"):
        chainer.serializers.load_npz(str(tmp_path / "pool.npz"), HistoryPool(2, RandomState(0)))
