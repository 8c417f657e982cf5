"""On a GPU: every loss, norm, activation and optimizer gives what it gives on the CPU, and so do its gradients."""

import numpy as np
import pytest

from medi2i.common import losses
from medi2i.common.choices import OPTIMIZERS, Activation, Norm
from medi2i.common.compat import F, L, chainer
from medi2i.common.device import choose_device
from medi2i.common.kernels import cpu_engine
from medi2i.common.networks.layers import ACTIVATIONS, NORMS
from medi2i.common.training.averaging import step_towards
from medi2i.common.training.optimizers import make_optimizer

pytestmark = pytest.mark.gpu


def values(seed, *shape):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape).astype(np.float32)


def probabilities(x):
    return F.softmax(x, axis=1)


def one_hot(like):
    xp = chainer.backend.get_array_module(like)
    labels = np.random.default_rng(3).integers(3, size=(2, 13, 14))
    return xp.asarray(np.eye(3, dtype=np.float32)[labels].transpose(0, 3, 1, 2).copy())


def weight(like):
    return losses.channel_weight([1.0, 2.0, 0.5], chainer.backend.get_array_module(like))


LOSSES = {
    "least_squares": lambda x, y: losses.least_squares(x[:, :1], 0.9),
    "sigmoid_weighted_least_squares": lambda x, y: losses.sigmoid_weighted_least_squares(x[:, :2], 0.9),
    "tanh_weighted_least_squares": lambda x, y: losses.tanh_weighted_least_squares(x[:, :2], 0.9),
    "logistic": lambda x, y: losses.logistic(x, True) + losses.logistic(y, False),
    "hinge": lambda x, y: losses.hinge(x, True) + losses.hinge(y, False),
    "wasserstein": lambda x, y: losses.wasserstein(x, True) + losses.wasserstein(y, False),
    "squared_slope": lambda x, y: losses.squared_slope(lambda image: F.sum(x * image**2, axis=(1, 2, 3)), y.array),
    "mean_answer": lambda x, y: losses.mean_answer(x),
    "weight_magnitude": lambda x, y: losses.weight_magnitude(x[:, :2]),
    "mean_absolute": losses.mean_absolute,
    "mean_square": lambda x, y: losses.mean_square(x),
    "mean_squared": lambda x, y: losses.mean_squared(x, y, weight(x.array)),
    "air_mismatch": lambda x, y: losses.air_mismatch(x, y, -0.5),
    "focal_cross_entropy": lambda x, y: losses.focal_cross_entropy(
        probabilities(x), one_hot(x.array), 2.0, weight(x.array)
    ),
    "dice": lambda x, y: losses.dice(probabilities(x), one_hot(x.array), weight(x.array)),
    "class_mismatch": lambda x, y: losses.class_mismatch(probabilities(x), probabilities(y)),
    "structural_dissimilarity": losses.structural_dissimilarity,
    "multiscale_dissimilarity": losses.multiscale_dissimilarity,
    "perceptual": lambda x, y: losses.perceptual(F.square, x, y, True),
    "gaussian_divergence": lambda x, y: losses.gaussian_divergence(x),
    "feature_distance": lambda x, y: losses.feature_distance([x, F.tanh(x)], [y, F.tanh(y)]),
    "channel_variation": lambda x, y: losses.channel_variation(x),
    "gradient_consistency": losses.gradient_consistency,
    "gradient_difference": losses.gradient_difference,
    "class_probabilities": lambda x, y: F.sum(losses.class_probabilities(x, 1) ** 2),
    **{f"total_variation {m}": lambda x, y, m=m: losses.total_variation(x, m, 0.1) for m in losses.TV_METHODS},
}  # fmt: skip


def test_no_loss_is_left_out():
    """Folding is no loss; the gradient penalty is that of an update."""
    others = {"TV_METHODS", "channel_weight", "fold_stack", "unfold_stack", "gradient_penalty", "total_variation"}
    assert set(losses.__all__) - others == {name for name in LOSSES if " " not in name}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    found = []
    for device in (chainer.get_device("@numpy"), choose_device(0)):
        with chainer.using_device(device), cpu_engine.using("chainer"):
            x, y = (chainer.Variable(device.send(values(seed, 2, 3, 13, 14))) for seed in (1, 2))
            loss = LOSSES[name](x, y)
            loss.backward()
            found.append([chainer.backends.cuda.to_cpu(v) for v in (loss.array, x.grad, y.grad)])
    for expected, own in zip(*found, strict=True):
        assert (expected is None) == (own is None)
        if expected is not None:
            np.testing.assert_allclose(own, expected, atol=1e-5 * max(np.abs(expected).max(), 1e-3), rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", Norm, ids=lambda kind: kind.value)
def test_norms(kind, train):
    found = []
    for device in (chainer.get_device("@numpy"), choose_device(0)):
        link = NORMS[kind](3)
        link.to_device(device)
        with chainer.using_device(device), chainer.using_config("train", train), cpu_engine.using("chainer"):
            x = chainer.Variable(device.send(values(1, 2, 3, 5, 7)))
            F.sum(link(x) * device.send(values(2, 2, 3, 5, 7))).backward()
            link.to_device("@numpy")
        found.append([chainer.backends.cuda.to_cpu(x.grad), *(p.grad for p in link.params())])
        found[-1] += [getattr(link, name) for name in sorted(link._persistent) if name != "N"]
    for expected, own in zip(*found, strict=True):
        np.testing.assert_allclose(own, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", Activation, ids=lambda kind: kind.value)
def test_activations(kind):
    found = []
    for device in (chainer.get_device("@numpy"), choose_device(0)):
        with chainer.using_device(device):
            x = chainer.Variable(device.send(values(1, 2, 3, 5, 7)))
            F.sum(ACTIVATIONS[kind](x) ** 2).backward()
            found.append(chainer.backends.cuda.to_cpu(x.grad))
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


@pytest.mark.parametrize("dtype, norm", [(np.float32, "l2"), (np.float16, "l1")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, dtype, norm):
    found = []
    for device in (chainer.get_device("@numpy"), choose_device(0)):
        with chainer.using_config("dtype", dtype):
            link = L.Linear(4, 3, initialW=values(1, 3, 4).astype(dtype))
        link.to_device(device)
        optimizer = make_optimizer(name, link, 0.9 if name == "AdaDelta" else 0.01, 0.01, norm)
        with chainer.using_device(device):
            for turn in range(3):
                link.W.grad, link.b.grad = (device.send(values(turn, *s).astype(dtype)) for s in ((3, 4), (3,)))
                more = {"loss": chainer.Variable(device.send(np.float32([1.0 + turn])))} if name == "Eve" else {}
                optimizer.update(**more)
        link.to_device("@numpy")
        found.append([link.W.array, link.b.array])
    for expected, own in zip(*found, strict=True):
        assert own.dtype == dtype
        np.testing.assert_allclose(own, expected, atol=1e-6 if dtype == np.float32 else 1e-3)


def test_averages():
    device = choose_device(0)
    with chainer.using_device(device):
        average = device.send(values(1, 3, 4))
        step_towards(average, device.send(values(2, 3, 4)), 0.25)
    np.testing.assert_allclose(average.get(), 0.75 * values(1, 3, 4) + 0.25 * values(2, 3, 4), atol=1e-6)
