"""On a GPU: both applications give and learn what they do on the CPU."""

import copy

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.device import choose_device
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import net as cyclegan_net
from medi2i.cyclegan import updater as cyclegan_updater
from medi2i.pix2pix import net as pix2pix_net
from medi2i.pix2pix import updater as pix2pix_updater

pytestmark = pytest.mark.gpu

SIZE = 24, 32
RATE = 1e-3
SMALL = {"gen_chs": [8, 16], "gen_nblock": 1, "dis_jitter": 0.0, "noise": 0.0, "batch_size": 2}
CASES = {
    "pix2pix": (PairedOptions, {"lambda_tv": 0.1}),
    "pix2pix, critic": (PairedOptions, {"dis_wgan": True, "lambda_wgan_gp": 1.0}),
    "cyclegan": (UnpairedOptions, {"lambda_tv": 0.1, "lambda_grad": 0.1}),
    "cyclegan, instance": (UnpairedOptions, {"gen_norm": "instance", "dis_norm": "instance"}),
}


class OneBatch(chainer.dataset.Iterator):
    epoch, epoch_detail, is_new_epoch = 0, 0.0, False

    def __init__(self, batch):
        self._batch = batch

    def next(self):
        return self._batch


def images(seed):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (1, *SIZE)).astype(np.float32) for _ in range(2)]


def networks_of(case):
    kind, values = CASES[case]
    options = kind(**SMALL, **values)
    options.ch = options.out_ch = 1
    options.crop_height, options.crop_width = SIZE
    np.random.seed(0)
    return options, (pix2pix_net if kind is PairedOptions else cyclegan_net).build(options)


def updater_of(options, networks, device):
    for link in networks.as_dict().values():
        link.to_device(device)
    optimizers = {name: make_optimizer("Adam", link, RATE, 0.0) for name, link in networks.as_dict().items()}
    random = RandomState(0, device.xp)
    if isinstance(options, PairedOptions):
        pairs = list(zip(images(1), images(2), strict=True))
        return pix2pix_updater.Pix2pixUpdater(OneBatch(pairs), optimizers, networks, options, random, device)
    return cyclegan_updater.CycleganUpdater(
        {"main": OneBatch(images(1)), "second": OneBatch(images(2))},
        optimizers,
        networks,
        options,
        random,
        device,
    )


def after_an_update(options, networks, device):
    """What was reported, and (name, array) of all parameters, on the CPU."""
    with chainer.using_device(device):
        updater = updater_of(options, networks, device)
        reporter, observed = chainer.Reporter(), {}
        with reporter.scope(observed):
            updater.update()
    numbers = {name: float(chainer.as_array(value)) for name, value in observed.items()}
    for link in networks.as_dict().values():
        link.to_device("@numpy")
    return numbers, [
        (f"{name}{path}", param.array)
        for name, link in networks.as_dict().items()
        for path, param in link.namedparams()
    ]


@pytest.mark.parametrize("case", CASES)
def test_one_update(case):
    options, networks = networks_of(case)
    # Fully connected layers have their size from the first batch: one forward before the copy.
    dis = next(link for name, link in networks.as_dict().items() if name.startswith("dis"))
    channels = 2 if isinstance(options, PairedOptions) else 1
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        dis(np.zeros((1, channels, *SIZE), np.float32))
    others = copy.deepcopy(networks)
    numbers, arrays = after_an_update(options, networks, chainer.get_device("@numpy"))
    numbers_gpu, arrays_gpu = after_an_update(options, others, choose_device(0))
    assert numbers.keys() == numbers_gpu.keys() and len(numbers) > 2
    for name, value in numbers.items():
        assert numbers_gpu[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    for (name, a), (name_gpu, b) in zip(arrays, arrays_gpu, strict=True):
        assert name == name_gpu and a.shape == b.shape
        # Adam makes a full step of either sign out of a gradient that is only rounding (biases before a norm).
        assert np.abs(a - b).max() <= 2.5 * RATE, name
        if a.ndim > 1:
            assert np.mean(np.abs(a - b) <= 1e-3 * np.abs(a).max()) >= 0.95, name


def test_forward():
    _, networks = networks_of("pix2pix")
    x = np.stack(images(3))
    results = []
    for device in (chainer.get_device("@numpy"), choose_device(0)):
        for link in (networks.enc_x, networks.dec_y):
            link.to_device(device)
        with chainer.using_device(device), chainer.no_backprop_mode(), chainer.using_config("train", False):
            y = networks.dec_y(networks.enc_x(device.send(x))).array
        results.append(chainer.backends.cuda.to_cpu(y))
    np.testing.assert_allclose(results[1], results[0], atol=1e-4 * np.abs(results[0]).max())
