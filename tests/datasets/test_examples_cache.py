import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medi2i.datasets.examples import ImageCache, compact, memory
from medi2i.datasets.reading import Image


def image(value, size=100):
    return Image(np.full((1, size, 1), value, dtype=np.float32))


def test_whole_numbers_take_half_the_memory_and_fractions_stay():
    hu = np.array([-1024, 0, 3071], dtype=np.float32)
    assert compact(hu).dtype == np.int16
    np.testing.assert_array_equal(compact(hu), hu)
    for values in ([0.5, 1], [40000, 1], [-40000, 1]):
        assert compact(np.array(values, dtype=np.float32)).dtype == np.float32


def test_least_recently_used_goes_first_and_the_budget_holds():
    cache = ImageCache(600 / 2**20)  # three images of 200 bytes as int16
    reads = []

    def get(key):
        return cache.get(key, lambda: reads.append(key) or image(key))

    for key in (1, 2, 3, 1, 4):
        assert get(key).array[0, 0, 0] == key
    assert cache.used == 600 and len(cache) == 3
    for key in (1, 3, 4):
        get(key)
    assert reads == [1, 2, 3, 4]
    get(2)
    assert reads == [1, 2, 3, 4, 2]
    assert cache.used <= cache.budget


def test_masks_count():
    assert memory(Image(np.zeros((1, 4, 5), np.float32), np.zeros((4, 5), bool))) == 100


def test_image_larger_than_the_budget_is_given_but_not_kept():
    cache = ImageCache(0)
    assert cache.get("a", lambda: image(7)).array[0, 0, 0] == 7
    assert len(cache) == 0 and cache.used == 0


def test_cached_arrays_cannot_be_changed():
    cache = ImageCache(1)
    with pytest.raises(ValueError, match="read-only"):
        cache.get("a", lambda: image(0.5)).array[...] = 1


def test_errors_pass_and_are_not_kept():
    cache = ImageCache(1)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)
    assert cache.get("a", lambda: image(1)).array[0, 0, 0] == 1


def test_threads_get_the_right_images_within_the_budget():
    cache = ImageCache(2000 / 2**20)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda key: cache.get(key % 25, lambda: image(key % 25)).array[0, 0, 0], range(2000)))
    assert values == [key % 25 for key in range(2000)]
    assert cache.used == sum(memory(image) for image in cache._images.values()) <= cache.budget


def test_a_copy_for_another_process_starts_empty():
    cache = ImageCache(1)
    cache.get("a", lambda: image(1))
    copy = pickle.loads(pickle.dumps(cache))
    assert (len(copy), copy.used, copy.budget) == (0, 0, cache.budget)


def test_a_share_of_the_budget_is_kept_at_once_and_of_the_first_budget():
    cache = ImageCache(800 / 2**20)
    for key in range(4):
        cache.get(key, lambda key=key: image(key))
    for parts, used in ((2, 400), (2, 400), (4, 200)):
        cache.take_share(parts)
        assert cache.used == used
    assert pickle.loads(pickle.dumps(cache)).budget == 800
