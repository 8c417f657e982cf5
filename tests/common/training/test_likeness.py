"""Inverted contrast, and nothing learnt: told of the networks that do so, and of no others."""

import types

import numpy as np
import pytest

from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.training import likeness
from medi2i.cyclegan.validation import expected_of as expected_of_domains
from medi2i.datasets import paired, unpaired
from medi2i.pix2pix.train import expected_of

RNG = np.random.default_rng(0)
HEAD = np.full((40, 52), -1.0)
HEAD[6:34, 8:43] = -0.32  # soft tissue in air, in a skull, in [-1, 1]
HEAD[8:12, 8:43] = HEAD[28:32, 8:43] = 0.4
NOISE = 0.006 * RNG.normal(size=HEAD.shape)
NOISY = HEAD + NOISE
CT = 1.0, 1.0, 0.006  # expected of one modality, and a noise of 0.006


def told(x, y, expected=CT, share=likeness.SHARE_CONVERTED):
    return likeness.warnings(likeness.compare(x, y), expected, share)


def test_correlations_are_those_of_means_over_squares():
    found = likeness.compare(NOISY, 0.5 * HEAD + 3 * NOISE)
    a, b = (v.reshape(10, 4, 13, 4).mean((1, 3)).ravel() for v in (NOISY, 0.5 * HEAD + 3 * NOISE))
    assert found["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
    body = (NOISY > -0.9).reshape(10, 4, 13, 4).all((1, 3)).ravel()
    assert found["inside"] == pytest.approx(np.corrcoef(a[body], b[body])[0, 1], abs=1e-6)
    assert found["change"] == pytest.approx((2 * NOISE - 0.5 * HEAD).std(), abs=1e-6)


def test_a_good_model_is_silent_whatever_it_is_for():
    assert told(NOISY, HEAD - 0.05) == []  # noise, and a constant
    assert told(HEAD + 0.05 * NOISE, HEAD) == []  # an image with a twentieth of the noise
    mr = np.where(HEAD > 0, -0.8, np.where(HEAD > -0.9, 0.3, -1.0))  # bone is dark
    assert told(mr, HEAD, (0.6, -0.9, 0.5)) == []  # of pairs, which have it so
    assert told(mr, HEAD, (None, None, 0.5)) == []  # of domains of two modalities
    assert told(mr, HEAD, (-0.1, 0.2, 0.5)) == []  # of pairs that have no clear contrast
    assert told(NOISY, HEAD, (None, None, None)) == []  # a model that does not say


def test_the_negative_is_told_and_so_is_bone_alone():
    (said,) = told(NOISY, -HEAD)
    assert said.startswith("inverted contrast: correlation of input and translation -1.00") and "T1" in said
    bone_black = np.where(HEAD > 0, -0.8, HEAD)  # air is air: the whole image correlates as it should
    assert likeness.compare(NOISY, bone_black)["correlation"] > 0.2
    (said,) = told(NOISY, bone_black)
    assert "without air -1.00" in said
    (said,) = told(NOISY, 0.3 * HEAD, (-0.8, -0.8, 0.4))  # where pairs have it inverted, a positive one is wrong
    assert said.endswith("of training pairs it is -0.80")


def test_the_input_again_is_told_with_or_without_a_constant():
    for y in (NOISY, NOISY + 0.07):
        (said,) = told(NOISY, y)
        assert said.startswith("nothing learnt: the translation equals its input")
    assert told(NOISY, HEAD + 0.95 * NOISE) == [] != told(NOISY, HEAD + 0.95 * NOISE, share=likeness.SHARE_VALIDATED)
    assert told(NOISY, NOISY, (None, None, None)) and told(NOISY, NOISY, (0.3, -0.2, 0.4))


def test_a_constant_image_tells_nothing():
    assert likeness.compare(np.zeros((20, 20)), np.zeros((20, 20))) == {"change": 0.0}
    assert "inside" not in likeness.compare(np.full((20, 20), -1.0) + 0.01 * RNG.random((20, 20)), np.zeros((20, 20)))


def test_batches_and_series():
    images = np.stack([[NOISY], [HEAD]])
    found = likeness.means(likeness.sums(images, images[::-1]) + likeness.sums(images[:1], images[:1]))
    assert found["change"] == pytest.approx(2 / 3 * NOISE.std(), abs=1e-5)
    assert likeness.typical([{"change": 1.0}, {"change": 4.0, "inside": 0.5}, {"change": 2.0}]) == {
        "change": 2.0,
        "inside": 0.5,
    }
    assert likeness.in_words([{"correlation": 0.5}, {"correlation": -1.0}]) == (
        "correlation of input and result -1.000 to +0.500 in 2 series"
    )


def test_what_is_expected_comes_from_the_training_images(tmp_path):
    for folder, images in (("trainA", (NOISY, HEAD + NOISE[::-1])), ("trainB", (HEAD, HEAD))):
        (tmp_path / folder).mkdir()
        for number, image in enumerate(images):
            np.save(tmp_path / folder / f"{number}.npy", image.astype(np.float32))
    how = {"root": str(tmp_path), "clipA": [-2, 2], "clipB": [-2, 2], "crop_height": 40, "crop_width": 52}
    of_pairs = expected_of(paired.build(PairedOptions(**how)))
    assert of_pairs["expected_change"] == pytest.approx(NOISE.std() / 2, abs=1e-5)
    assert of_pairs["expected_correlation"] > 0.99
    domains = [unpaired.build(UnpairedOptions(**how), domain) for domain in "AB"]
    one = expected_of_domains(domains, True)
    assert one["expected_correlation"] == likeness.ASSUMED and 0 < one["expected_change"] < NOISE.std()
    assert expected_of_domains(domains, False) == {"expected_change": pytest.approx(HEAD.std() / 2, abs=1e-3)}
    options = UnpairedOptions(**one)
    entry = {"validation/change_y": 1e-5, "validation/correlation_y": 0.99}
    assert likeness.of_validations([entry, {}], options, "_y")[0].startswith("warning: nothing learnt")
    assert likeness.of_validations([{**entry, "validation/change_y": 0.005}], options, "_y") == []
    assert likeness.of_validations([], types.SimpleNamespace(**vars(options)), "_y") == []
