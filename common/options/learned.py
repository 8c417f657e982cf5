"""The options of a training of what reconstructs: a learned primal-dual network, or a critic as regulariser."""

from dataclasses import dataclass
from typing import ClassVar

from medi2i.common.options import shared
from medi2i.common.options.machinery import Checked, derived, option, redefault

PRIMAL_DUAL, CRITIC = LEARNS = ("primal-dual", "critic")


@dataclass
class LearnedFileOptions(shared.FileOptions):
    """Files and devices."""

    root: str = option(
        "sinograms",
        "-R",
        "-i",
        metavar="DIR",
        changeable=True,
        first=True,
        bare=True,
        help="scans with their truth, of make_sinograms.py",
    )
    augment_on: str = derived("scans are not changed")
    worker_processes: bool = derived("threads are enough", type=bool)
    val: str = option(
        None, metavar="DIR", changeable=True, first=True, help="scans to validate with, by the same geometry"
    )


@dataclass
class LearnedNetworkOptions(Checked):
    """Network."""

    learns: str = option(
        PRIMAL_DUAL,
        choices=LEARNS,
        network=True,
        first=True,
        help="primal-dual: a network that reconstructs; critic: what tells true images from filtered back-projections, "
        "for reconstruct.py --method adversarial",
    )
    unrolled: int = option(10, type=int, low=1, high=100, network=True, help="iterations of the primal-dual network")
    memory: int = option(5, type=int, low=1, high=64, network=True, help="images and sinograms that it hands on")
    channels: int = option(32, type=int, low=1, high=1024, network=True, help="of its layers; the critic's first")


@dataclass
class LearnedTrainingOptions(shared.TrainingOptions):
    """Training."""

    learning_rate: float = option(None, "-lr", type=float, low=0, help="[primal-dual 1e-3, critic 1e-4]")
    learning_rate_gen: float = derived("there is one rate", type=float)
    learning_rate_dis: float = derived("there is one rate", type=float)
    adam_beta1: float = redefault(shared.TrainingOptions, "adam_beta1", 0.9)
    weight_decay: float = redefault(shared.TrainingOptions, "weight_decay", 0.0)
    epoch: int = redefault(shared.TrainingOptions, "epoch", 50)
    bn_reestimate: int = derived("these networks have no batch normalisation", type=int)
    load_optimizer: bool = derived("begins with fresh optimizers", type=bool)
    gradient_clip: float = option(1.0, type=float, low=0, help="longest gradient of all weights together; 0: any")
    lambda_gp: float = option(10.0, type=float, low=0, help="weight of the critic's gradient penalty")

    @property
    def rates(self) -> tuple[float, float]:
        """The learning rate, twice."""
        rate = self.learning_rate or (1e-3 if vars(self)["learns"] == PRIMAL_DUAL else 1e-4)
        return rate, rate


@dataclass
class LearnedPictureOptions(shared.PictureOptions):
    """Logs and pictures."""

    nvis: int = option(3, type=int, low=0, high=1000, changeable=True, help="number of images in a picture")
    vis_windowB: list = derived("images have one window", type=float)


@dataclass
class LearnedRunOptions(shared.RunOptions):
    """Runs: resuming, ending, checking."""

    sync_bn: bool = derived("these networks have no batch normalisation", type=bool)
    summary: bool = derived("of networks that translate", type=bool)


@dataclass
class LearnedOptions(
    LearnedFileOptions, LearnedNetworkOptions, LearnedTrainingOptions, LearnedPictureOptions, LearnedRunOptions
):
    """All options of reconstruction/train.py."""

    APPLICATION: ClassVar[str] = "reconstruction"
