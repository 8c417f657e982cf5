"""The networks and updates that are measured: the tutorial's generator, and CycleGAN's with the same channels."""

from collections.abc import Callable

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.training.distributed import ALONE, Ranks
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import net as cyclegan_net
from medi2i.cyclegan import updater as cyclegan_updater
from medi2i.pix2pix import net as pix2pix_net
from medi2i.pix2pix import updater as pix2pix_updater

Networks = pix2pix_net.Networks | cyclegan_net.Networks
Updater = pix2pix_updater.Pix2pixUpdater | cyclegan_updater.CycleganUpdater
CHANNELS = [32, 64, 128]
RATE, DECAY = 2e-4, 1e-7
CPU = chainer.get_device("@numpy")


class OneBatch(chainer.dataset.Iterator):
    """The same batch for ever, so that nothing is loaded."""

    epoch, epoch_detail, is_new_epoch = 0, 0.0, False

    def __init__(self, batch: list) -> None:
        self._batch = batch

    def next(self) -> list:
        return self._batch


def images(batch: int, size: int, seed: int) -> list[np.ndarray]:
    """``batch`` arrays (1, size, size), uniform in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (1, size, size)).astype(np.float32) for _ in range(batch)]


def pix2pix(
    size: int, batch: int, device: chainer.backend.Device = CPU, dtype: str = "fp32", ranks: Ranks = ALONE
) -> tuple[pix2pix_net.Networks, pix2pix_updater.Pix2pixUpdater]:
    """(networks, updater) as ``-gc 32 64 128 -l1 1.0 -l2 0 -ldis 0.1 -ltv 1e-4`` makes them, of one of ``ranks``."""
    options = PairedOptions(
        gen_chs=CHANNELS,
        lambda_rec_l1=1.0,
        lambda_rec_l2=0,
        lambda_dis=0.1,
        lambda_tv=1e-4,
        batch_size=batch,
        dtype=dtype,
    )
    options.ch = options.out_ch = 1
    np.random.seed(0)
    networks = pix2pix_net.build(options)
    _send(networks, device)
    pairs = list(zip(images(batch, size, 1), images(batch, size, 2), strict=True))
    updater = pix2pix_updater.Pix2pixUpdater(
        OneBatch(pairs),
        ranks.wrapped(_optimizers(networks)),
        networks,
        options,
        RandomState(0, device.xp),
        device,
        ranks,
    )
    return networks, updater


def cyclegan(
    size: int, batch: int, device: chainer.backend.Device = CPU, dtype: str = "fp32", ranks: Ranks = ALONE
) -> tuple[cyclegan_net.Networks, cyclegan_updater.CycleganUpdater]:
    """(networks, updater) of CycleGAN with its own defaults and these channels, of one of ``ranks``."""
    options = UnpairedOptions(gen_chs=CHANNELS, batch_size=batch, dtype=dtype)
    options.ch = options.out_ch = 1
    np.random.seed(0)
    networks = cyclegan_net.build(options)
    _send(networks, device)
    updater = cyclegan_updater.CycleganUpdater(
        {"main": OneBatch(images(batch, size, 1)), "second": OneBatch(images(batch, size, 2))},
        ranks.wrapped(_optimizers(networks)),
        networks,
        options,
        RandomState(0, device.xp),
        device,
        ranks=ranks,
    )
    return networks, updater


def _send(networks: Networks, device: chainer.backend.Device) -> None:
    for link in networks.as_dict().values():
        link.to_device(device)


def _optimizers(networks: Networks) -> dict[str, chainer.Optimizer]:
    return {name: make_optimizer("Adam", link, RATE, DECAY) for name, link in networks.as_dict().items()}


APPLICATIONS: dict[str, Callable[..., tuple[Networks, Updater]]] = {"pix2pix": pix2pix, "cyclegan": cyclegan}


def parameter_count(*links: chainer.Link) -> int:
    """Numbers that are learned."""
    return sum(param.size for link in links for param in link.params())
