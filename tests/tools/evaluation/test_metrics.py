"""Image metrics against values worked out by hand, and SSIM against scikit-image's own mean."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from medi2i.tools.evaluation import metrics
from medi2i.tools.evaluation.metrics import FULL, WINDOWS, Window


def images(shape=(13, 17)):
    generator = np.random.default_rng(3)
    truth = generator.uniform(-500, 500, shape).astype(np.float32)
    return truth + generator.normal(0, 20, shape).astype(np.float32), truth


def test_errors_of_a_known_difference():
    truth = np.zeros((2, 3), dtype=np.float32)
    image = np.array([[3, -4, 0], [0, 0, 7]], dtype=np.float32)
    assert metrics.rmse(image, truth) == pytest.approx(math.sqrt((9 + 16 + 49) / 6))
    assert metrics.mae(image, truth) == pytest.approx(14 / 6)
    assert metrics.bias(image, truth) == pytest.approx(1.0)


def test_masked_pixels_do_not_count():
    truth = np.zeros((2, 3))
    image = np.array([[3, -4, 0], [0, 0, 1e6]])
    mask = np.array([[True, True, True], [True, True, False]])
    assert metrics.rmse(image, truth, mask) == pytest.approx(math.sqrt(25 / 5))
    assert metrics.bias(image, truth, mask) == pytest.approx(-0.2)
    assert metrics.psnr(image, truth, Window("w", -100, 100), mask) == pytest.approx(10 * math.log10(200**2 / 5))
    assert math.isnan(metrics.rmse(image, truth, np.zeros((2, 3), dtype=bool)))


def test_mask_holds_for_every_channel():
    image = np.stack([np.full((2, 3), 2.0), np.full((2, 3), 4.0)])
    mask = np.array([[True, False, False], [False, False, False]])
    assert metrics.rmse(image, np.zeros((2, 2, 3)), mask) == pytest.approx(math.sqrt(10))


def test_psnr_clips_both_images_to_its_window():
    truth = np.full((3, 5), 240.0)
    image = np.full((3, 5), 900.0)
    assert metrics.psnr(image, truth, WINDOWS["soft"]) == math.inf
    assert metrics.psnr(image, truth, FULL) == pytest.approx(20 * math.log10(3024 / 660))


def test_psnr_of_float32_images_is_summed_in_float64():
    truth = np.full((513, 511), 1000, dtype=np.float32)
    assert metrics.rmse(truth + np.float32(0.5), truth) == 0.5


def test_ssim_is_one_for_equal_images_and_scikit_image_s_mean_otherwise():
    image, truth = images()
    assert metrics.ssim(truth, truth, FULL) == pytest.approx(1.0)
    theirs = structural_similarity(
        image.astype(float),
        truth.astype(float),
        data_range=3024,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert metrics.ssim(image, truth, FULL) == pytest.approx(theirs, abs=1e-12)
    assert metrics.ssim(image, truth, WINDOWS["soft"]) < metrics.ssim(image, truth, FULL)


def test_ssim_averages_channels_and_leaves_out_what_the_mask_leaves_out():
    image, truth = images((2, 13, 17))
    both = [metrics.ssim(image[channel], truth[channel], FULL) for channel in (0, 1)]
    assert metrics.ssim(image, truth, FULL) == pytest.approx(np.mean(both))
    mask = np.zeros((13, 17), dtype=bool)
    mask[6, 8] = True
    _, whole = structural_similarity(
        image[0].astype(float),
        truth[0].astype(float),
        data_range=3024,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert metrics.ssim(image[0], truth[0], FULL, mask) == pytest.approx(whole[6, 8])


def test_ssim_refuses_images_below_its_filter():
    with pytest.raises(ValueError, match="at least 11×11 pixels, not 17×10"):
        metrics.ssim(np.zeros((10, 17)), np.zeros((10, 17)), FULL)


def test_overlap_of_labels():
    labels = np.array([[1, 1, 0], [2, 0, 0]])
    truth = np.array([[1, 0, 0], [2, 2, 0]])

    counts = metrics.confusion(labels, truth, 10)
    assert counts.shape == (11, 11) and counts[1, 1] == counts[0, 1] == counts[2, 0] == 1 and counts.sum() == 6
    found = metrics.dice_and_iou(counts)
    assert found["dice"][:2] == [2 / 3, 2 / 3] and found["iou"][:2] == [1 / 2, 1 / 2]
    assert all(math.isnan(value) for values in found.values() for value in values[2:])
    assert metrics.dice_and_iou(metrics.confusion(labels, truth, 3, truth == 0))["dice"][0] == 0
    assert math.isnan(metrics.dice_and_iou(metrics.confusion(labels, truth, 3, labels + truth == 0))["iou"][1])


def test_pixels_of_no_class_are_in_no_class():
    labels, truth = np.array([[1.0, 0.5, -1.0, 7.0]]), np.array([[1, 1, 1, 1]])
    counts = metrics.confusion(labels, truth, 2)
    assert counts.tolist() == [[0, 0, 0], [0, 1, 3], [0, 0, 0]]
    assert metrics.dice_and_iou(counts) == {"dice": [2 / 5], "iou": [1 / 4]}


def test_different_shapes_are_refused_not_broadcast():
    for metric in (metrics.rmse, metrics.mae, metrics.bias):
        with pytest.raises(ValueError, match=r"\(1, 3\) against a truth of shape \(2, 3\)"):
            metric(np.zeros((1, 3)), np.zeros((2, 3)))


def test_a_window_names_its_range():
    assert WINDOWS["soft"] == Window("soft", -160, 240) and WINDOWS["soft"].range == 400
    with pytest.raises(ValueError, match="upper 5 must be above lower 5"):
        Window("own", 5, 5)
