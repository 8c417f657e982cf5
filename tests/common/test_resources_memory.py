"""What memory is left: the least of what the machine, the control groups and the limit of the process say.

And how little of it the work on a large image takes.
"""

import dataclasses
import resource
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from medi2i.common import resources
from medi2i.common.inference import edges, values
from medi2i.datasets import writing
from medi2i.datasets.dicom import encoding, pixels
from medi2i.datasets.scaling import Clip


def test_the_machine_says_how_much_is_free():
    assert 1e7 < resources.available_memory() < 1e14


def test_a_group_counts_with_what_holds_it_and_the_cache_of_files_gives_way(tmp_path):
    for name, limit, used, cache in (("", "max", 9, 0), ("inner", "5000000", 3000000, 500000)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(used))
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {cache}\n")
    assert resources._left(tmp_path / "inner", "memory.max", "memory.current") == 2500000
    assert resources._left(tmp_path, "memory.max", "memory.current") is None
    assert resources._left(tmp_path / "none", "memory.max", "memory.current") is None


def test_a_limit_of_the_process_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**40, 2**40))
    assert 0 < resources._of_limit() < 2**40
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1, 1))
    assert resources.available_memory() == 0


def test_bands_are_all_rows_once_in_multiples_of_eight():
    rows = resources.bands((1001, 8192))
    assert [one.stop - one.start for one in rows] == [32] * 31 + [9]
    assert [one.start for one in rows] == list(range(0, 1001, 32))
    assert resources.bands((512, 512)) == [slice(0, 512)]
    assert resources.bands((17, 10**8)) == [slice(0, 8), slice(8, 16), slice(16, 17)]
    assert resources.bands((0, 5)) == []


class Rescale:
    slope, intercept, lookup = 0.7, -1024.3, None


ROWS, COLUMNS = 603, 501
BEFORE = (2000 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(ROWS, COLUMNS)), 2)).astype(np.float32)
AFTER = BEFORE + np.float32(100) * np.random.default_rng(1).random((ROWS, COLUMNS), np.float32)
STORED = np.rint(BEFORE).astype(np.int16)
ENCODING = encoding.Encoding(0.5, -100.0, 12)
# Name -> (function, bytes per pixel at its peak, what it returns among them). In brackets: before there were bands.
WORK = {
    "edges": (lambda: edges.edges(BEFORE), 6),  # (20)
    "compare": (lambda: edges.compare(BEFORE, AFTER), 8),  # (24)
    "correlation": (lambda: edges.correlation(BEFORE, AFTER), 0),  # (12)
    "mean_change": (lambda: values.mean_change(BEFORE, AFTER, None, Clip(-400, 500), True), 1.5),  # (5.5)
    "beyond_clip": (lambda: values.beyond_clip(BEFORE[None], None, Clip(-400, 500)), 4),  # (8)
    "encode": (lambda: encoding.encode(AFTER, ENCODING, None), 2 + 1),  # (44)
    "encode with padding": (lambda: encoding.encode(AFTER, ENCODING, BEFORE < -300), 2 + 9),  # (46)
    "encode beside": (lambda: encoding.encode(AFTER, ENCODING, None, None, (BEFORE, STORED)), 2 + 1),  # (52)
    "to_modality": (lambda: pixels.to_modality(STORED, Rescale), 4),  # (12)
    "to_integers": (lambda: writing.to_integers(AFTER[None], 16), 2),  # (10)
    "from_unit": (lambda: Clip(-400, 500).from_unit(AFTER[::-1].copy(), overwrite=True), 4),
}


def numbers_of(found):
    """What a function returned, as a list of arrays and numbers."""
    if dataclasses.is_dataclass(found):
        found = [getattr(found, field.name) for field in dataclasses.fields(found)]
    if isinstance(found, dict):
        found = list(found.values())
    return [one for part in found for one in numbers_of(part)] if isinstance(found, (list, tuple)) else [found]


@pytest.mark.parametrize("name", WORK)
def test_what_is_done_to_a_large_image_needs_few_bytes_per_pixel_and_says_the_same(monkeypatch, name):
    function, most = WORK[name]
    expected = numbers_of(function())
    monkeypatch.setattr(resources, "BAND", 8 * COLUMNS)
    tracemalloc.start()
    try:
        found = numbers_of(function())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / BEFORE.size < most + 1
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, float):  # sums of bands, added up
            assert one == pytest.approx(other, rel=1e-12)
        else:
            np.testing.assert_array_equal(one, other)
