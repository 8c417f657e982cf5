"""Pairs of two grids: the input is enlarged first, and crops are of the same place in both."""

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.common.options import PairedOptions
from medi2i.datasets import grid, paired
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.scaling import Clip
from medi2i.datasets.writing import write_image


def folders(root, small, large):
    write_image(root / "trainA" / "a.png", small)
    write_image(root / "trainB" / "a.png", large)


def build(root, **options):
    options = {"random_translate": 0, "crop_height": 18, "crop_width": 24, "scale": 3, **options}
    return paired.build(PairedOptions(root=str(root), **options), cache=ImageCache(50))


def test_the_input_is_enlarged_and_both_are_cropped_alike(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(60, 190, (1, 9, 11)).astype(float)
    large = rng.integers(0, 255, (1, 27, 33)).astype(float)
    folders(tmp_path, small, large)
    x, t = build(tmp_path).load(0)
    middle = np.s_[:, 4:22, 4:28]
    np.testing.assert_array_equal(t, Clip(0, 255).to_unit(large)[middle])
    np.testing.assert_array_equal(x, Clip(0, 255).to_unit(grid.enlarge(small, 3))[middle])


def test_a_random_crop_shows_one_place_of_both(tmp_path):
    """A picture whose pixels say where they are, on both grids: after any augmentation they still agree."""

    def place(height, width, scale):
        rows, columns = (scale * np.arange(n) + (scale - 1) / 2 for n in (height, width))
        return (20 + 3 * rows[:, None] + 2 * columns)[np.newaxis]

    small, large = place(20, 22, 3), place(60, 66, 1)
    for folder, array in (("trainA", small), ("trainB", large)):
        write_image(tmp_path / folder / "a.npy", array)
    dataset = build(tmp_path, random_translate=-1, random_rot90=True)
    seen = set()
    for seed in range(12):
        x, t = dataset.load(0, np.random.default_rng(seed))
        seen.add(float(t[0, 0, 0]))
        far = (t > t.min() + 4) & (t < t.max() - 4)
        # At the ends of the picture interpolation has no neighbours; a pixel off would make 2 or more everywhere.
        assert np.median(np.abs(x - t)[far]) < 1e-3
    assert len(seen) > 6


def test_validation_compares_with_bicubic_enlarging(tmp_path):
    folders(tmp_path, np.full((1, 8, 9), 50.0), np.full((1, 24, 27), 80.0))
    dataset = build(tmp_path, crop_width=None, crop_height=None)
    assert dataset.size == (16, 16)
    x, t = dataset.load(0)
    assert x.shape == t.shape
    options = paired.complete(PairedOptions(scale=3), dataset)
    assert (options.crop_height, options.crop_width, options.scale) == (16, 16, 3)


@pytest.mark.parametrize(
    ("shape", "scale", "words"),
    [
        ((27, 33), 1, "33x27 .*must have one size"),
        ((27, 33), 2, "--scale 2 outputs must have 2 times"),
        ((9, 11), 3, "--scale 3 outputs must have 3 times"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, shape, scale, words):
    folders(tmp_path, np.zeros((1, 9, 11)), np.zeros((1, *shape)))
    with pytest.raises(UserError, match=words):
        build(tmp_path, scale=scale)


def test_from_b_to_a_the_other_side_is_enlarged(tmp_path):
    folders(tmp_path, np.full((1, 27, 33), 10.0), np.full((1, 9, 11), 200.0))
    x, t = build(tmp_path, btoa=True).load(0)
    np.testing.assert_allclose((x.mean(), t.mean()), Clip(0, 255).to_unit(np.array([200.0, 10.0])), atol=1e-6)


def test_padding_is_enlarged_too(tmp_path, ct_file):
    small = np.full((6, 8), 1100, np.uint16)
    small[:, 6:] = 4000
    ct_file("trainA/a.dcm", small, PixelPaddingValue=4000)
    ct_file("trainB/a.dcm", np.full((12, 16), 1100, np.uint16))
    dataset = build(tmp_path, scale=2, crop_height=12, crop_width=16)
    x, _ = dataset.load(0)
    assert (x[0, :, 12:] == -1).all() and (x[0, :, :11] > -1).all()
