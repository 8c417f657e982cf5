"""A frozen segmentation network as the judge of anatomy: what it sees, what its loss is, and what it refuses."""

import numpy as np
import pytest
from run_files import save_segmentor

from medi2i.common import losses
from medi2i.common.compat import F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import Segmentor
from medi2i.common.options import load_args, save_args


def load(run, clip=(-1024, 2000), channels=1):
    return Segmentor.load(run, clip, channels, "clipB")


@pytest.fixture
def segmentor(tmp_path):
    return save_segmentor(tmp_path / "classes")


def image(seed=0, count=2):
    return np.random.default_rng(seed).uniform(-0.6, 0.2, (count, 1, 8, 12)).astype(np.float32)


def test_it_sees_values_as_it_was_trained_and_nothing_beyond(segmentor):
    judge = load(segmentor)
    hu = np.float32([[[[-900, -200, 0, 200], [600, 2000, 100, 400], [0, 0, 0, 0], [1, 2, 3, 4]]]])
    unit = (hu + 1024) / 3024 * 2 - 1
    own = np.clip((hu + 200) / 800 * 2 - 1, -1, 1)
    direct = load(segmentor, (-200, 600))
    for one, other in zip(judge.judge(unit), direct.judge(own), strict=True):
        np.testing.assert_allclose(one.array, other.array, atol=1e-4)
    with chainer.using_config("train", False):
        features = direct.encoder(own)
        scores = direct.decoder(list(features))
    np.testing.assert_allclose(direct.judge(own)[0].array, features[0].array, atol=1e-5)
    np.testing.assert_allclose(direct.judge(own)[-1].array, F.softmax(scores, axis=1).array, atol=1e-5)


def test_the_loss_is_the_mean_over_levels_and_its_gradient_ends_in_the_image(segmentor):
    judge = load(segmentor)
    y, t = chainer.Variable(image(1)), image(2)
    loss = losses.feature_distance(judge.judge(y), judge.judge(t))
    levels = [abs(a.array - b.array).mean() for a, b in zip(judge.judge(y), judge.judge(t), strict=True)]
    assert len(levels) == 4 and float(loss.array) == pytest.approx(np.mean(levels), rel=1e-5)
    assert float(losses.feature_distance(judge.judge(t), judge.judge(t)).array) == 0
    loss.backward()
    step = y.grad * np.float32(2e-3 / abs(y.grad).max())  # uphill, so that kinks on the way count little
    up, down = (losses.feature_distance(judge.judge(y.array + sign * step), judge.judge(t)).array for sign in (1, -1))
    assert float(up - down) / 2 == pytest.approx(float((y.grad * step).sum()), rel=0.1)
    assert all(param.grad is None or np.isnan(param.grad).all() for param in judge.params())


def test_the_slices_of_a_stack_have_probabilities_of_their_own(tmp_path):
    stacked = load(save_segmentor(tmp_path / "stack", stack=2), channels=2)
    probabilities = stacked.judge(np.random.default_rng(1).uniform(-1, 1, (5, 2, 8, 12)).astype(np.float32))[-1].array
    assert probabilities.shape == (10, 3, 8, 12)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_what_tells_no_classes_apart_or_takes_other_images_is_refused(segmentor):
    for clip, channels, words in (
        ((-1024, 2000), 3, "takes images of 1 channels, these have 3"),
        (None, 1, "images have no clip; --clipB LOW HIGH"),
        ((600, 900), 1, "was trained on values from -200 to 600, and these images have none of them: 600 to 900"),
    ):
        with pytest.raises(UserError, match=words):
            load(segmentor, clip, channels)
    options = load_args(segmentor)
    options.class_num = 0
    save_args(options, segmentor / "args")
    with pytest.raises(UserError, match="--class_num would"):
        load(segmentor)
