"""What a model does to the mean: measured on the training images in their own unit, where both sides have one."""

import numpy as np
import pytest
from PIL import Image

from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.training import mean_change
from medi2i.datasets import paired, unpaired
from medi2i.tools import make_noisy, make_phantom


def saved(folder, images, suffix="npy"):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        if suffix == "npy":
            np.save(folder / f"{number}.npy", np.float32(image))
        else:
            Image.fromarray(image).save(folder / f"{number}.{suffix}")


def pairs(root, inputs, outputs, suffix="npy", **given):
    saved(root / "trainA", inputs, suffix)
    saved(root / "trainB", outputs, suffix)
    return paired.build(PairedOptions(root=str(root), crop_height=8, crop_width=8, **given))


def grey(*shape, low=-800, high=1500, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


CLIPS = {"clipA": [-1024, 2000], "clipB": [-1024, 2000]}


def test_mean_of_output_less_input_over_whole_pairs(tmp_path):
    truth = grey(3, 11, 13)
    noisy = truth + 100 + np.float32([-3, 0, 4.5])[:, None, None]
    assert mean_change.of_pairs(pairs(tmp_path, noisy, truth, **CLIPS)) == pytest.approx(-100.5, abs=1e-3)


def test_nothing_is_lost_at_the_ends_of_the_clip(tmp_path):
    # Half of it is air at the clip's lower end, where a file could not hold less than the truth; and inputs leave it.
    truth = grey(2, 10, 9, high=200)
    truth[:, :, :4] = -1024
    noisy = np.maximum(truth + 60 * np.random.default_rng(1).normal(size=truth.shape), -1024) + 7
    inside = truth > -1024 + 0.05 * 1264
    assert 0 < inside.sum() < truth.size
    found = mean_change.of_pairs(pairs(tmp_path, noisy, truth, clipA=[-1024, 240], clipB=[-1024, 240]))
    assert found == pytest.approx((truth - noisy)[inside & (truth < 240 - 0.05 * 1264)].mean(), abs=2e-3)


def test_the_direction_is_that_of_the_training(tmp_path):
    truth = grey(1, 9, 9)
    assert mean_change.of_pairs(pairs(tmp_path, truth + 10, truth, btoa=True, **CLIPS)) == pytest.approx(10, abs=1e-3)


def test_grey_levels_and_colours(tmp_path):
    truth = np.random.default_rng(0).integers(20, 200, (2, 9, 10, 3), dtype=np.uint8)
    assert mean_change.of_pairs(pairs(tmp_path / "colour", truth + 21, truth, "png")) == -21
    assert mean_change.of_pairs(pairs(tmp_path / "grey", truth + 21, truth, "png", grey=True)) == pytest.approx(-21)


def test_none_where_both_sides_have_no_common_unit(tmp_path):
    truth = grey(1, 9, 9)
    other = pairs(tmp_path / "clips", truth, truth, clipA=[0, 1200], clipB=[-1024, 2000])
    assert mean_change.of_pairs(other) is None  # files without a modality and with two ranges: MR and CT as npy
    labels = pairs(tmp_path / "classes", truth, np.zeros_like(truth), class_num=2, **CLIPS)
    assert mean_change.of_pairs(labels) is None


def test_a_phantom_with_the_released_noise_and_without_a_bias(tmp_path):
    make_phantom.main(["-o", str(tmp_path / "ct"), "--size", "48", "--slices", "4"])
    for model, expected in (("poisson", -100), ("poisson-unbiased", 0)):
        root = tmp_path / model
        assert make_noisy.main(["-i", str(tmp_path / "ct"), "-o", str(root), "-m", model, "-j", "1"]) == 0
        train = paired.build(PairedOptions(root=str(root), crop_height=16, crop_width=16))
        assert mean_change.of_pairs(train) == pytest.approx(expected, abs=0.5)


def test_domains_in_their_unit_and_the_shift_that_is_known_already(tmp_path):
    saved(tmp_path / "trainA", grey(3, 16, 16) + 100)
    saved(tmp_path / "trainB", grey(3, 16, 16))
    options = UnpairedOptions(root=str(tmp_path), crop_height=8, crop_width=8, **CLIPS)
    train = [unpaired.build(options, domain) for domain in "AB"]
    assert mean_change.of_domains(*train) == pytest.approx(-100, abs=0.1)
    assert mean_change.of_domains(*train, np.float32([0.5, 0.25])) == 567


def test_what_is_said_of_it():
    def said(change, hu=True):
        return mean_change.sentence(change, 3024, hu, "so far")

    assert said(-99.996).startswith("this model takes 100 HU away: so far.")
    assert said(12.53, hu=False).startswith("this model adds 12.5: ")
    assert said(-1.01) is not None and said(-1.0) is None and said(None) is None
