"""Parts of a range: all of it, once, and no thread for next to nothing."""

import threading

import pytest

from medi2i.common.kernels.cpu import arrays


@pytest.mark.parametrize("size, smallest, parts", [(10, 3, 3), (10, 6, 1), (2, 1, 2), (0, 5, 1), (100, 1, 4)])
def test_every_number_once(monkeypatch, size, smallest, parts):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    seen, lock = [], threading.Lock()

    def function(start, stop):
        with lock:
            seen.append((start, stop))

    arrays.spread(function, size, smallest)
    assert len(seen) == parts
    assert sorted(i for start, stop in seen for i in range(start, stop)) == list(range(size))


def test_what_goes_wrong_in_a_part_is_raised(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def function(start, stop):
        if start:
            raise ValueError("second half")

    with pytest.raises(ValueError, match="second half"):
        arrays.spread(function, 10, 1)
