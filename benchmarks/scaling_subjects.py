"""What is scaled: trainings with the messages that their optimizers send, and the links between GPUs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scaling_model import Cluster, Compute, Link, Ring, Stage, Tree

from medi2i.common.compat import L
from medi2i.common.networks.summary import count, measure, passes
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.cyclegan import net as cyclegan_net
from medi2i.pix2pix import net as pix2pix_net

NUMBER = 4  # bytes of a gradient in float32
RATE = 20e12  # assumed: operations a second that a GPU reaches in these networks, fp32 with TF32 products
COPY = 10e-6  # assumed: seconds to take one small array from a GPU to the host, or back
REACHED = 0.8  # of a link's bandwidth (assumed; 380 of NVLink's 450 GB/s were seen: github.com/NVIDIA/nccl issue 1264)
LAUNCH = 8.4e-6  # NCCL's own estimate for a ring (NVIDIA/nccl, src/graph/tuning.cc, baseLat, "Simple")

# Latencies of a ring's step: tuning.cc, hwLat, "Simple", for NVLink and for a network with RDMA. For a network without:
# the small messages of nccl-tests on 2, 4 and 8 machines of 8 GPUs (gist.github.com/jacobkahn, July 2019: 163, 319 and
# 630 us, that is 40 us for each of 4, 8 and 16 steps between machines). Steps between hosts are assumed.
NVLINK = Link(REACHED * 450e9, 3.4e-6, 2e-6)  # fourth generation: 900 GB/s in both directions together (data sheet)
INFINIBAND = Link(REACHED * 50e9, 14e-6, 5e-6)  # one NDR port: 400 Gbit/s
ETHERNET = Link(REACHED * 1.25e9, 40e-6, 40e-6)  # 10 Gbit/s

CLUSTERS = (
    Cluster("NVLink", NVLINK, NVLINK, launch=LAUNCH),
    Cluster("InfiniBand, 8 a machine", INFINIBAND, NVLINK, node=8, launch=LAUNCH),
    Cluster("InfiniBand, 1 a machine", INFINIBAND, INFINIBAND, launch=LAUNCH),
    Cluster("10 GbE, 8 a machine", ETHERNET, NVLINK, node=8, launch=LAUNCH),
    Cluster("10 GbE, 1 a machine", ETHERNET, ETHERNET, launch=LAUNCH),
)


@dataclass(frozen=True)
class Subject:
    """A training: ``batch`` images of ``size`` x ``size`` on each rank."""

    name: str
    application: str
    channels: tuple | None
    size: int
    batch: int

    def options(self) -> PairedOptions | UnpairedOptions:
        """Its options: the tutorial's where channels are given, else the defaults."""
        if self.application == "cyclegan":
            return UnpairedOptions(batch_size=self.batch, ch=1, out_ch=1)
        tutorial: dict[str, Any] = (
            {}
            if self.channels is None
            else dict(gen_chs=list(self.channels), lambda_rec_l1=1.0, lambda_rec_l2=0, lambda_dis=0.1, lambda_tv=1e-4)
        )
        return PairedOptions(batch_size=self.batch, ch=1, out_ch=1, **tutorial)


SUBJECTS = (
    Subject("pix2pix, tutorial", "pix2pix", (32, 64, 128), 480, 1),
    Subject("pix2pix, tutorial", "pix2pix", (32, 64, 128), 480, 8),
    Subject("pix2pix, defaults", "pix2pix", None, 256, 1),
    Subject("CycleGAN, defaults", "cyclegan", None, 256, 1),
)


@dataclass(frozen=True)
class Counted:
    """weights: name -> how many, in the order of the updates. operations: of an update of one rank, generator and each
    discriminator by name. statistics: running values of batch normalisations, in ``arrays`` arrays."""

    weights: dict[str, int]
    operations: dict[str, int]
    statistics: int
    arrays: int

    @property
    def messages(self) -> dict[str, int]:
        """Bytes of each all-reduce of gradients, by network."""
        return {name: NUMBER * number for name, number in self.weights.items()}


def counted(subject: Subject) -> Counted:
    """The Counted of a Subject, from its networks; nothing is computed but shapes."""
    options = subject.options()
    np.random.seed(0)
    if isinstance(options, PairedOptions):
        networks = pix2pix_net.build(options).as_dict()
    else:
        networks = cyclegan_net.build(options).as_dict()
    image = np.zeros((1, 1, subject.size, subject.size), np.float32)
    adds = {}
    for encoder, decoder in (("enc_x", "dec_y"), ("enc_y", "dec_x")):
        if encoder in networks:
            part, features = measure(encoder, networks[encoder], image)
            adds[encoder] = part.multiply_adds
            adds[decoder] = measure(decoder, networks[decoder], features)[0].multiply_adds
    judged = [name for name in networks if name.startswith("dis")]
    for name in judged:
        shown = np.zeros((1, networks[name].spec.in_ch, *image.shape[2:]), np.float32)
        adds[name] = measure(name, networks[name], shown)[0].multiply_adds
    # A multiply-add is two operations. The way back costs twice the way there, once where only the input has a gradient
    # (the discriminators in the generator's step). A discriminator sees the fake and the real image in its own update.
    each = 2 * subject.batch
    operations = {
        "generator": each
        * sum((2 if name in judged else 3) * adds[name] * runs for name, runs in passes(networks, options).items())
    }
    operations |= {name: each * 3 * 2 * adds[name] for name in judged}
    order: list[str] = [name for name in ("enc_x", "dec_x", "enc_y", "dec_y") if name in networks]
    # as in cyclegan/updater.py: the discriminator of Y is updated first
    order += sorted(judged, reverse=True)
    norms = [part for link in networks.values() for part in link.links() if isinstance(part, L.BatchNormalization)]
    arrays = [array for part in norms for array in (part.avg_mean, part.avg_var)]
    return Counted(
        {name: count(networks[name]) for name in order}, operations, sum(array.size for array in arrays), len(arrays)
    )


def stages(subject: Subject, found: Counted | None = None, rate: float = RATE) -> list[Stage]:
    """The stages of one update of a Subject (``found``: its Counted) on GPUs with ``rate`` operations a second."""
    found = counted(subject) if found is None else found
    messages = found.messages
    result: list[Stage] = [Compute(found.operations["generator"] / rate)]
    result += [Ring(name, size) for name, size in messages.items() if not name.startswith("dis")]
    for name, size in messages.items():
        if name.startswith("dis"):
            result += [Compute(found.operations[name] / rate), Ring(name, size)]
    if found.arrays:
        result.append(Tree(NUMBER * found.statistics, 2 * COPY * found.arrays))
    return result
