"""Losses: exact values on images small enough to count by hand, and gradients against finite differences."""

import math

import numpy as np
import pytest

from medi2i.common import losses
from medi2i.common.compat import F, gradient_check

SIZE = (2, 3, 4, 5)  # (N, C, H, W)


def value(variable):
    assert variable.shape == () and variable.dtype == np.float32
    return float(variable.array)


def image(*rows, dtype=np.float32):
    return np.array(rows, dtype=dtype)[None, None]


def ramp(down, right, shape=SIZE):
    rows, columns = np.arange(shape[2])[:, None], np.arange(shape[3])[None]
    return np.broadcast_to(down * rows + right * columns, shape).astype(np.float32)


def test_mean_absolute_and_squared():
    y, t = image([0.0, 1.0, 2.0], [3.0, 4.0, 5.0]), image([0.0, 1.0, 0.0], [3.0, 0.0, 5.0])
    assert value(losses.mean_absolute(y, t)) == 1.0
    assert value(losses.mean_squared(y, t)) == pytest.approx(20 / 6)


def test_channels_count_by_their_weight():
    y, t = np.ones(SIZE, np.float32) * 2, np.zeros(SIZE, np.float32)
    weight = losses.channel_weight([1, 0, 0.5])
    assert weight.shape == (1, 3, 1, 1) and weight.dtype == np.float32
    assert value(losses.mean_absolute(y, t, weight)) == 1.0
    assert value(losses.mean_squared(y, t, weight)) == 2.0
    assert losses.channel_weight(None) is None


def test_mean_square():
    assert value(losses.mean_square(np.array([[1.0, -2.0, 2.0]], np.float32))) == 3.0


def test_softmax_is_within_each_slice_of_a_stack():
    scores = np.zeros((1, 4, 1, 1), np.float32)
    scores[0, :, 0, 0] = [0, math.log(3), math.log(9), 0]
    p = losses.class_probabilities(scores, stack=2)
    assert p.shape == (2, 2, 1, 1)
    assert p.array[:, :, 0, 0] == pytest.approx(np.array([[0.25, 0.75], [0.9, 0.1]]))
    together = losses.fold_stack(p, 2)
    assert together.shape == (1, 4, 1, 1)
    assert together.array[0, :, 0, 0] == pytest.approx([0.25, 0.75, 0.9, 0.1])


def test_stack_folds_back():
    x = np.arange(2 * 6 * 3 * 5, dtype=np.float32).reshape(2, 6, 3, 5)
    slices = losses.unfold_stack(x, 3)
    assert slices.shape == (6, 2, 3, 5)
    assert (slices.array[4] == x[1, 2:4]).all()
    assert (losses.fold_stack(slices, 3).array == x).all()


@pytest.mark.parametrize("gamma, expected", [(0, math.log(4) / 2), (2, 0.75**2 * math.log(4) / 2)])
def test_focal_cross_entropy(gamma, expected):
    p = np.array([0.25, 0.75], np.float32).reshape(1, 2, 1, 1)
    t = np.array([1, 0], np.float32).reshape(1, 2, 1, 1)
    assert value(losses.focal_cross_entropy(p, t, gamma)) == pytest.approx(expected, rel=1e-5)
    weight = losses.channel_weight([3, 100])
    assert value(losses.focal_cross_entropy(p, t, gamma, weight)) == pytest.approx(3 * expected, rel=1e-4)


def test_certain_and_wrong_is_expensive_but_finite():
    p, t = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    assert value(losses.focal_cross_entropy(p, t, 2)) == pytest.approx(-math.log(1e-7), rel=1e-5)


def test_dice():
    t = np.zeros((2, 2, 1, 2), np.float32)
    t[0, 0], t[1, 1] = 1, 1
    assert value(losses.dice(t, t)) == pytest.approx(-1.0, rel=1e-6)  # two classes, 1/2 each: p = t
    p = np.full_like(t, 0.5)
    # Each class: sum(p t) = 1, sum(p^2 + t^2) = 1 + 2.
    assert value(losses.dice(p, t)) == pytest.approx(-2 / 3, rel=1e-6)
    assert value(losses.dice(p, t, losses.channel_weight([0.5, 4]))) == pytest.approx(-2 / 3 * 4.5, rel=1e-6)


def test_class_mismatch_is_the_cross_entropy_of_a_pixel_and_what_lacks_of_the_mean_dice():
    t = np.zeros((2, 2, 1, 2), np.float32)
    t[0, 0], t[1, 1] = 1, 1
    assert value(losses.class_mismatch(t, t)) == pytest.approx(0, abs=1e-5)
    p = np.full_like(t, 0.5)
    assert value(losses.class_mismatch(p, t)) == pytest.approx(math.log(2) + 1 - 2 / 3, rel=1e-5)
    p[:, 0], p[:, 1] = 0.25, 0.75
    entropy = -(math.log(0.25) + math.log(0.75)) / 2
    overlap = (2 * 0.5 / (4 * 0.25**2 + 2) + 2 * 1.5 / (4 * 0.75**2 + 2)) / 2
    assert value(losses.class_mismatch(p, t)) == pytest.approx(entropy + 1 - overlap, rel=1e-5)
    # Between two maps of probabilities it is least where they are equal, at the entropy.
    assert value(losses.class_mismatch(p, p)) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), rel=1e-5)
    assert value(losses.class_mismatch(t, p)) > value(losses.class_mismatch(p, p))


def test_air_mismatch_counts_where_one_of_the_two_is_air():
    x = image([-1.0, -1.0, 0.5], [-0.9, 0.0, -0.99])
    y = image([-1.0, 0.0, -1.0], [-0.5, 1.0, -0.97])
    # Only (0, 1): |-1 - 0|, (0, 2): |0.5 + 1| and (1, 2): |-0.99 + 0.97| differ in being <= -0.98.
    assert value(losses.air_mismatch(x, y, -0.98)) == pytest.approx((1 + 1.5 + 0.02) / 6, rel=1e-5)
    assert value(losses.air_mismatch(x, x, -0.98)) == 0


@pytest.mark.parametrize(
    "method, expected",
    [
        ("abs", 5.0),
        ("usual", math.sqrt(4 + 9 + 0.25)),
        ("sobel", math.sqrt(36 + 81 + 0.25)),
    ],
)
def test_total_variation_of_a_ramp(method, expected):
    # sobel adds its three channels before the root.
    assert value(losses.total_variation(ramp(2, -3), method, tau=0.5)) == pytest.approx(expected, rel=1e-6)


def test_total_variation_grids():
    y = image([0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    assert value(losses.total_variation(y, "abs")) == pytest.approx(1 / 3 + 1 / 4)
    assert value(losses.total_variation(y, "usual")) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="unknown"):
        losses.total_variation(y, "other")


def test_channel_variation():
    y = np.zeros((1, 3, 2, 2), np.float32)
    y[0, 1], y[0, 2] = 1, -1
    assert value(losses.channel_variation(y)) == pytest.approx(1.5)


def test_gradient_difference():
    assert value(losses.gradient_difference(ramp(2, 3), ramp(1, 5) + 7)) == pytest.approx(3.0)


def test_gradient_consistency_ignores_contrast_but_not_direction():
    x = np.random.RandomState(0).uniform(-1, 1, SIZE).astype(np.float32)
    for factor, expected in ((0.25, 0), (-3, 2)):
        assert value(losses.gradient_consistency(x, factor * x + 0.5)) == pytest.approx(expected, abs=1e-4)
    assert value(losses.gradient_consistency(x, np.zeros_like(x))) == pytest.approx(1, abs=1e-6)


def test_gradient_consistency_by_hand():
    x = image([0.0, 1.0, 1.0], [0.0, 0.0, 3.0], [2.0, 1.0, 0.0])
    y = image([0.0, 1.0, 3.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.5])
    down = np.corrcoef(np.diff(x[0, 0], axis=0).ravel(), np.diff(y[0, 0], axis=0).ravel())[0, 1]
    right = np.corrcoef(np.diff(x[0, 0], axis=1).ravel(), np.diff(y[0, 0], axis=1).ravel())[0, 1]
    assert value(losses.gradient_consistency(x, y)) == pytest.approx(1 - (down + right) / 2, rel=1e-5)


def test_least_squares():
    d = np.array([1.0, 3.0], np.float32).reshape(1, 1, 1, 2)
    assert value(losses.least_squares(d, 1.0)) == 2.0
    with pytest.raises(ValueError, match="1 channels"):
        losses.sigmoid_weighted_least_squares(d, 1.0)


def test_weighted_least_squares():
    d = np.array([1.0, 3.0, 0.0, math.log(3)], np.float32).reshape(1, 2, 1, 2)  # decisions, then weights
    sigmoid, tanh = (0.5, 0.75), (1.0, 1.8)
    expected = (1 * sigmoid[0] + 9 * sigmoid[1]) / 2 + (0.25 + 0.0625) / 2
    assert value(losses.sigmoid_weighted_least_squares(d, 0.0)) == pytest.approx(expected)
    assert value(losses.tanh_weighted_least_squares(d, 0.0)) == pytest.approx((1 * tanh[0] + 9 * tanh[1]) / 2)
    assert value(losses.weight_magnitude(d)) == pytest.approx(math.log(3) / 2)


def test_weights_belong_to_their_own_image_of_the_batch():
    d = np.zeros((2, 2, 1, 1), np.float32)
    d[0] = [[[1.0]], [[20.0]]]  # a decision of 1 that counts fully
    d[1] = [[[5.0]], [[-20.0]]]  # a decision of 5 that does not count
    assert value(losses.tanh_weighted_least_squares(d, 0.0)) == pytest.approx(1.0)


def test_mean_answer():
    assert value(losses.mean_answer(np.array([[1.0], [4.0]], np.float32))) == 2.5


def test_gradient_penalty_of_a_linear_critic():
    slope = np.array([2.0, 1.0, 2.0], np.float32)
    images = np.random.RandomState(0).rand(2, 3).astype(np.float32)
    penalty = losses.gradient_penalty(
        lambda x: F.matmul(x, slope[:, None]), images, images[::-1], np.array([0.1, 0.9], np.float32)
    )
    assert value(penalty) == pytest.approx((3 - 1) ** 2, rel=1e-5)


def test_gradient_penalty_is_taken_between_real_and_fake():
    real, fake = np.full((1, 1, 1, 1), 5, np.float32), np.full((1, 1, 1, 1), -3, np.float32)
    for mix, middle in ((1, 5), (0, -3), (0.75, 3)):
        # D = x^2 / 2 has the gradient x.
        penalty = losses.gradient_penalty(lambda x: F.square(x) * 0.5, real, fake, np.array([mix], np.float32))
        assert value(penalty) == pytest.approx((abs(middle) - 1) ** 2, rel=1e-5)


def test_gradient_penalty_of_convolutions_has_a_second_order():
    """Through convolution and transposed convolution, on the CPU; against finite differences of the weights."""
    random = np.random.RandomState(1)
    real, fake = random.randn(2, 2, 1, 4, 6)
    weights = [random.randn(2, 1, 3, 3) * 0.5, random.randn(2, 1, 4, 4) * 0.5]
    mix = np.array([0.3, 0.8])

    def penalty(down, up):
        def dis(x):
            h = F.leaky_relu(F.tanh(F.convolution_2d(x, down, stride=2, pad=1)))
            return F.mean(F.deconvolution_2d(h, up, stride=2, pad=1), axis=(1, 2, 3))

        return losses.gradient_penalty(dis, real, fake, mix)

    gradient_check.check_backward(penalty, tuple(weights), np.ones(()), atol=1e-5, rtol=1e-4)


def test_perceptual_repeats_grey_channels():
    x, y = np.zeros((2, 2, 4, 4), np.float32), np.ones((2, 2, 4, 4), np.float32)
    y[:, 1] = 3
    seen = []

    def features(images):
        seen.append(images.shape)
        return 2 * images

    assert value(losses.perceptual(features, x, y, colour=False)) == pytest.approx(4 * (1 + 9) / 2)
    assert seen == [(4, 3, 4, 4)] * 2
    colour = np.ones((2, 3, 4, 4), np.float32)
    assert value(losses.perceptual(features, colour, 2 * colour, colour=True)) == pytest.approx(4.0)
    assert seen[-1] == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="three"):
        losses.perceptual(features, x, y, colour=True)


def random_images(count=1, low=-1.0, high=1.0):
    return np.random.RandomState(3).uniform(low, high, (count, *SIZE))


def probabilities():
    p = random_images(2, 0.1, 0.9)
    return p[0], (p[1] > 0.5).astype(np.float64)


WEIGHT = np.array([0.5, 1, 2.0]).reshape(1, 3, 1, 1)
TRUTH = random_images(2)[1]
ANSWERS = random_images()[0][:, :2]
GRADIENTS = {
    "mean_absolute": (lambda y: losses.mean_absolute(y, TRUTH, WEIGHT), TRUTH + 0.5),
    "mean_squared": (lambda y: losses.mean_squared(y, TRUTH, WEIGHT), random_images()[0]),
    "mean_square": (losses.mean_square, random_images()[0]),
    "class_probabilities": (lambda y: F.sum(losses.class_probabilities(y) * TRUTH), random_images()[0]),
    "class_probabilities of a stack": (
        lambda y: F.sum(losses.class_probabilities(y, 2) ** 3),
        np.concatenate([TRUTH, TRUTH[:, ::-1] * 2], axis=1),
    ),
    "focal_cross_entropy": (lambda p: losses.focal_cross_entropy(p, probabilities()[1], 2, WEIGHT), probabilities()[0]),
    "cross_entropy": (lambda p: losses.focal_cross_entropy(p, probabilities()[1], 0), probabilities()[0]),
    "class_mismatch": (lambda p: losses.class_mismatch(p, probabilities()[1]), probabilities()[0]),
    "dice": (lambda p: losses.dice(p, probabilities()[1], WEIGHT), probabilities()[0]),
    "air_mismatch": (lambda y: losses.air_mismatch(TRUTH, y, -0.5), random_images()[0]),
    "total_variation abs": (lambda y: losses.total_variation(y, "abs"), random_images()[0]),
    "total_variation usual": (lambda y: losses.total_variation(y, "usual", 0.1), random_images()[0]),
    "total_variation sobel": (lambda y: losses.total_variation(y, "sobel", 0.1), random_images()[0]),
    "channel_variation": (losses.channel_variation, random_images()[0]),
    "gradient_difference": (lambda y: losses.gradient_difference(TRUTH, y), random_images()[0]),
    "gradient_consistency": (lambda y: losses.gradient_consistency(TRUTH, y), random_images()[0]),
    "least_squares": (lambda d: losses.least_squares(d, 1.0), ANSWERS[:, :1]),
    "sigmoid_weighted_least_squares": (lambda d: losses.sigmoid_weighted_least_squares(d, 1.0), ANSWERS),
    "tanh_weighted_least_squares": (lambda d: losses.tanh_weighted_least_squares(d, 0.0), ANSWERS),
    "weight_magnitude": (losses.weight_magnitude, ANSWERS),
    "mean_answer": (losses.mean_answer, ANSWERS),
    "logistic": (lambda d: losses.logistic(d, True) + 2 * losses.logistic(d, False), ANSWERS),
    "hinge": (lambda d: losses.hinge(d, True) + 2 * losses.hinge(d, False), ANSWERS),
    "wasserstein": (lambda d: losses.wasserstein(d, True) + 2 * losses.wasserstein(d, False), ANSWERS),
    "gaussian_divergence": (losses.gaussian_divergence, ANSWERS),
    "feature_distance": (lambda y: losses.feature_distance([F.tanh(y), y], [TRUTH, TRUTH + 0.5]), TRUTH + 2),
    "perceptual x": (lambda x: losses.perceptual(F.tanh, x, TRUTH, colour=False), random_images()[0]),
    "perceptual y": (lambda y: losses.perceptual(F.tanh, TRUTH, y, colour=True), random_images()[0]),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name):
    loss, at = GRADIENTS[name]
    gradient_check.check_backward(loss, (at,), np.ones(()), eps=1e-5, atol=1e-6, rtol=1e-4)


def test_every_loss_has_a_gradient_test():
    # test_similarity.py, tests/synthesis/test_net.py
    elsewhere = {"structural_dissimilarity", "multiscale_dissimilarity", "squared_slope"}
    tested = {name.split()[0] for name in GRADIENTS} | {"focal_cross_entropy", "gradient_penalty"} | elsewhere
    not_losses = {"TV_METHODS", "channel_weight", "fold_stack", "unfold_stack"}
    assert set(losses.__all__) - not_losses <= tested


def test_half_precision_does_not_overflow():
    y = np.full((1, 1, 300, 300), 200, np.float16)  # the sum of squares is far beyond 65504
    assert value(losses.mean_squared(y, np.zeros_like(y))) == 40000
    assert value(losses.least_squares(y, 0.0)) == 40000
    assert value(losses.total_variation(y, "usual", 1e-3)) == pytest.approx(1e-3, rel=1e-3)
