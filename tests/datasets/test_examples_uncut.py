"""Uncut examples, finished by the kernels' NumPy twins, against what the loader makes of the same draws."""

import numpy as np
import pytest

from medi2i.common.kernels.gpu import augment
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.datasets import paired, unpaired
from medi2i.datasets.augment import joined
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.iterator import ImageIterator
from medi2i.datasets.preparing import Domain
from medi2i.datasets.reading import Image
from medi2i.datasets.scaling import Clip
from medi2i.datasets.writing import write_image

STEPS = {"random_translate": 3, "random_rot90": True}  # no interpolation
TURNS = {**STEPS, "random_rotation": 15, "random_scale": 0.1}


def pictures(root, folders=("trainA", "trainB"), shape=(1, 21, 26), classes=0):
    rng = np.random.default_rng(3)
    for folder in folders:
        for name in ("a", "b", "c"):
            values = rng.integers(0, 256, shape)
            write_image(root / folder / f"{name}.png", values % classes if classes and folder == "trainB" else values)


def pairs(root, **options):
    return paired.build(
        PairedOptions(root=str(root), **{"crop_height": 16, "crop_width": 16, **options}), cache=ImageCache(50)
    )


def finished(example):
    if isinstance(example, tuple):
        return tuple(finished(part) for part in example)
    return augment.finish(example.values, example)


def both(dataset, seed, index=1):
    """Example ``index``: as the loader gives it, and as a device makes it."""
    return dataset.load(index, np.random.default_rng(seed)), finished(dataset.uncut(index, np.random.default_rng(seed)))


@pytest.mark.parametrize(
    "options",
    [
        STEPS,
        {**STEPS, "random_translate": -1},
        {**STEPS, "crop_width": 18},
        {**STEPS, "stack": 2},
        {"random_translate": 0},
        {**STEPS, "clipA": [20.1, 99.7]},
    ],
    ids=str,
)
def test_without_interpolation_the_same_to_the_last_bit(tmp_path, options):
    pictures(tmp_path)
    dataset, seen = pairs(tmp_path, **options), set()
    for seed in range(20):
        expected, got = both(dataset, seed)
        for a, b in zip(expected, got, strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_array_equal(a, b)
        seen.add(got[0].tobytes())
    assert len(seen) > (10 if options["random_translate"] else 0)


@pytest.mark.parametrize("options", [TURNS, {**TURNS, "random_translate": -1}, {**TURNS, "crop_width": 18}], ids=str)
def test_with_interpolation_the_same_but_for_rounding(tmp_path, options):
    pictures(tmp_path)
    dataset = pairs(tmp_path, **options)
    for seed in range(20):
        for a, b in zip(*both(dataset, seed), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-7)


def test_values_travel_as_small_as_they_are_kept(tmp_path):
    pictures(tmp_path)
    x, t = pairs(tmp_path).uncut(0, np.random.default_rng(0))
    assert x.values.dtype == t.values.dtype == np.int16 and x.values.shape == (1, 21, 26)
    assert x.clip == Clip(0, 255) and x.draw == t.draw and x.size == (16, 16)


def test_colours_that_become_grey_and_grey_that_becomes_colour(tmp_path):
    pictures(tmp_path, shape=(3, 21, 26))
    pictures(tmp_path / "mixed", ["trainA", "trainB"], (3, 21, 26))
    write_image(tmp_path / "mixed" / "trainA" / "a.png", np.arange(21 * 26).reshape(1, 21, 26) % 256)
    for dataset, channels in ((pairs(tmp_path), 3), (pairs(tmp_path, grey=True), 1), (pairs(tmp_path / "mixed"), 3)):
        for index in range(3):
            expected, got = both(dataset, 5, index)
            assert got[0].shape[0] == channels
            np.testing.assert_array_equal(expected[0], got[0])


def test_classes(tmp_path):
    pictures(tmp_path, classes=3)
    for options in (STEPS, {**STEPS, "stack": 2}):
        dataset = pairs(tmp_path, class_num=3, **options)
        for seed in range(5):
            expected, got = both(dataset, seed)
            np.testing.assert_array_equal(expected[1], got[1])
    _, turned = both(pairs(tmp_path, class_num=3, **TURNS), 1)
    assert set(np.unique(turned[1])) == {0, 1} and (turned[1].sum(0) == 1).all()


def test_noise_is_of_its_own_key(tmp_path):
    pictures(tmp_path, shape=(1, 64, 64))
    quiet, noisy = (
        pairs(tmp_path, crop_height=64, crop_width=64, random_translate=0, augment_noise=noise) for noise in (0.0, 0.1)
    )
    draws = [finished(noisy.uncut(0, np.random.default_rng(seed)))[0] - quiet.load(0)[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert abs(np.corrcoef(draws[0].ravel(), draws[2].ravel())[0, 1]) < 0.06
    for noise in draws:
        assert abs(noise.mean()) < 0.1 * 4 / 64 and 0.095 < noise.std() < 0.105
    np.testing.assert_array_equal(finished(noisy.uncut(0, np.random.default_rng(1)))[1], quiet.load(0)[1])


def test_unpaired(tmp_path):
    pictures(tmp_path)
    options = UnpairedOptions(root=str(tmp_path), imgtype="png", crop_height=16, crop_width=16, stack=2, **STEPS)
    dataset = unpaired.build(options, "A", cache=ImageCache(9))
    for seed in range(5):
        np.testing.assert_array_equal(*both(dataset, seed))


@pytest.mark.parametrize("lower", [-1000, -999.5])
def test_padding_lies_at_the_lower_end_of_the_clip(lower):
    mask = np.zeros((4, 5), bool)
    mask[1, 2:] = True
    array = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    domain = Domain(Clip(lower, 1000), 1, ImageCache(1))
    domain.image = lambda source: Image(array.astype(np.int16), mask)
    values, clip = domain.stored(None)
    np.testing.assert_array_equal(clip.to_unit(values), domain.unit(None))
    assert (domain.unit(None)[0, 1, 2:] == -1).all()
    assert values.dtype.name in augment.STORED


def test_slices_of_different_clips_come_scaled():
    a = np.array([[[-5.0, 50]]], np.float32)
    values, clip = joined([(a, Clip(0, 100)), (a / 100, Clip())])
    assert not clip.scales
    np.testing.assert_array_equal(values, np.concatenate([Clip(0, 100).to_unit(a), a / 100]))


@pytest.mark.parametrize("how", [{}, {"workers": 2, "processes": True}], ids=str)
def test_the_iterator_gives_one_or_the_other(tmp_path, how):
    pictures(tmp_path)
    dataset = pairs(tmp_path, **STEPS)
    whole, uncut = ImageIterator(dataset, 4, 1), ImageIterator(dataset, 4, 1, uncut=True, **how)
    for expected, got in zip(whole.next(), uncut.next(), strict=True):
        np.testing.assert_array_equal(finished(got)[0], expected[0])
        np.testing.assert_array_equal(finished(got)[1], expected[1])
    uncut.finalize()
