"""The options of trainings that translate no images: of what reconstructs them, a learned primal-dual network or a
critic as regulariser, and of what makes them of noise, DCGAN or PGGAN.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from medi2i.common.choices import OPTIMIZERS
from medi2i.common.errors import UserError
from medi2i.common.options import shared
from medi2i.common.options.machinery import Checked, derived, option, redefault
from medi2i.common.options.paired import PairedPictureOptions
from medi2i.common.options.unpaired import DomainOptions

PRIMAL_DUAL, CRITIC = LEARNS = ("primal-dual", "critic")
DCGAN, PGGAN = NETWORKS = ("dcgan", "pggan")
LOSSES = ("logistic", "hinge", "wgan-gp")


@dataclass
class OneRateOptions(shared.TrainingOptions):
    """Training."""

    learning_rate_gen: float = derived("there is one rate", type=float)
    learning_rate_dis: float = derived("there is one rate", type=float)
    weight_decay: float = redefault(shared.TrainingOptions, "weight_decay", 0.0)
    bn_reestimate: int = derived("of networks that translate", type=int)
    load_optimizer: bool = derived("begins with fresh optimizers", type=bool)

    @property
    def rates(self) -> tuple[float, float]:
        """The learning rate, twice."""
        return self.learning_rate, self.learning_rate


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
    against: str = option(
        None,
        metavar="DIR",
        changeable=True,
        help="critic: images of reconstruct.py, of the same scans, to tell true ones from, as by tv [filtered "
        "back-projections]",
    )
    unrolled: int = option(6, type=int, low=1, high=100, network=True, help="iterations of the primal-dual network")
    memory: int = option(5, type=int, low=1, high=64, network=True, help="images and sinograms that it hands on")
    channels: int = option(32, type=int, low=1, high=1024, network=True, help="of its layers; the critic's first")


@dataclass
class LearnedTrainingOptions(OneRateOptions):
    """Training."""

    optimizer: str = option(None, "-op", choices=tuple(OPTIMIZERS), help="optimizer [primal-dual Muon, critic Adam]")
    learning_rate: float = option(None, "-lr", type=float, low=0, help="[primal-dual 2e-3, critic 1e-4]")
    adam_beta1: float = redefault(shared.TrainingOptions, "adam_beta1", 0.9)
    epoch: int = redefault(shared.TrainingOptions, "epoch", 50)
    gradient_clip: float = option(1.0, type=float, low=0, help="longest gradient of all weights together; 0: any")
    lambda_gp: float = option(10.0, type=float, low=0, help="weight of the critic's gradient penalty")


@dataclass
class LearnedOptions(
    LearnedFileOptions, LearnedNetworkOptions, LearnedTrainingOptions, PairedPictureOptions, shared.RunOptions
):
    """All options of reconstruction/train.py."""

    APPLICATION: ClassVar[str] = "reconstruction"

    vis_windowB: list = derived("images have one window", type=float)
    sync_bn: bool = derived("these networks have no batch normalisation", type=bool)
    summary: bool = derived("of networks that translate", type=bool)

    def __post_init__(self) -> None:
        """Fill in what is best for what learns, and check."""
        super().__post_init__()
        if self.learns == CRITIC:
            self.fill_in(optimizer="Adam", learning_rate=1e-4)
        else:
            self.fill_in(optimizer="Muon", learning_rate=2e-3)
        if self.against is not None and self.learns != CRITIC:
            raise UserError("--against: is of a critic; --learns critic goes with it")


@dataclass
class SynthesisImageOptions(Checked):
    """Images."""

    imgtype: str = redefault(shared.ImageOptions, "imgtype", "auto")
    size: int = option(
        64,
        type=int,
        low=8,
        high=1024,
        network=True,
        first=True,
        help="rows and columns of what is made, a power of 2; larger images are cut to it (see --forceSpacing)",
    )
    forceSpacing: float = redefault(DomainOptions, "forceSpacing", -1)
    slice_range: list = redefault(DomainOptions, "slice_range", None)
    clip_body: bool = redefault(DomainOptions, "clip_body", False)
    grey: bool = redefault(shared.ImageOptions, "grey", False)
    clipA: list = redefault(shared.ImageOptions, "clipA", None)
    normaliseA: str = redefault(shared.ImageOptions, "normaliseA", "none")
    landmarksA: list = redefault(shared.ImageOptions, "landmarksA", None)
    random_translate: int = redefault(shared.AugmentationOptions, "random_translate", 0)
    random_rot90: bool = redefault(shared.AugmentationOptions, "random_rot90", False)
    random_rotation: float = redefault(shared.AugmentationOptions, "random_rotation", 0)
    random_scale: float = redefault(shared.AugmentationOptions, "random_scale", 0)
    ch: int = derived("channels", type=int, low=1, high=4096)
    modality: str = derived("of DICOM images, where all have one")
    # What the data sets of CycleGAN ask besides.
    stack: ClassVar[int] = 1
    augment_noise: ClassVar[float] = 0.0
    imgtype_b = released = clips_in_hu = None

    @property
    def crop_height(self) -> int:
        """The size."""
        return self.size

    crop_width = crop_height


@dataclass
class SynthesisNetworkOptions(Checked):
    """Networks."""

    network: str = option(
        DCGAN,
        choices=NETWORKS,
        network=True,
        first=True,
        help="dcgan (Radford et al., 2015), or pggan, which grows while it learns (Karras et al., 2018)",
    )
    channels: int = option(
        None,
        type=int,
        low=1,
        high=4096,
        network=True,
        first=True,
        help="dcgan: of the discriminator's first layer; pggan: of the widest [64 and 512, as published]",
    )
    latent: int = option(
        None, type=int, low=1, high=65536, network=True, help="numbers that an image is made of [100 and 512]"
    )
    spectral: bool = option(
        False, type=bool, help="dcgan: discriminator with spectral normalisation in place of batch normalisation"
    )
    phase_images: int = option(
        600000,
        type=int,
        low=1,
        first=True,
        help="pggan: so many images are shown while a resolution fades in, and as many before the next does",
    )


@dataclass
class SynthesisLossOptions(Checked):
    """Losses."""

    loss: str = option(
        None,
        choices=LOSSES,
        first=True,
        help="what the discriminator's answer costs [dcgan logistic, with --spectral hinge; pggan wgan-gp]",
    )
    lambda_gp: float = option(10.0, type=float, low=0, help="weight of the gradient penalty of wgan-gp")
    lambda_drift: float = option(
        0.001, type=float, low=0, help="weight of the squared answer to real images in wgan-gp"
    )
    lambda_r1: float = option(
        0.0, type=float, low=0, first=True, help="gamma of R1, the discriminator's slope at real images; for few images"
    )
    diffaugment: bool = option(
        False,
        type=bool,
        first=True,
        help="shift, cut out and brighten all that the discriminator sees (Zhao et al., 2020); for few images",
    )


@dataclass
class SynthesisPictureOptions(shared.PictureOptions):
    """Logs and pictures."""

    nvis: int = option(6, type=int, low=0, high=30, changeable=True, help="rows and columns of a picture of samples")
    vis_freq: int = redefault(shared.PictureOptions, "vis_freq", 500)
    vis_windowB: list = derived("images have one window", type=float)


@dataclass
class SynthesisOptions(
    shared.FileOptions,
    SynthesisImageOptions,
    SynthesisNetworkOptions,
    OneRateOptions,
    SynthesisLossOptions,
    SynthesisPictureOptions,
    shared.RunOptions,
):
    """All options of synthesis/train.py."""

    APPLICATION: ClassVar[str] = "synthesis"

    batch_size: int = redefault(shared.TrainingOptions, "batch_size", 16)
    learning_rate: float = option(None, "-lr", type=float, low=0, help="of both networks [dcgan 2e-4, pggan 1e-3]")
    adam_beta1: float = option(None, type=float, low=0, high=0.999, help="of Adam [dcgan 0.5, pggan 0]")
    lr_drop: int = redefault(shared.TrainingOptions, "lr_drop", 0)
    ema: float = redefault(shared.TrainingOptions, "ema", 0.999)
    dtype: str = derived("float32")
    patience: int = derived("nothing says which epoch is best", type=int)
    summary: bool = derived("of networks that translate", type=bool)

    def __post_init__(self) -> None:
        """Fill in what is published for the network, and check."""
        super().__post_init__()
        own: dict[str, Any] = dict(channels=64, latent=100, learning_rate=2e-4, adam_beta1=0.5)
        own["loss"] = "hinge" if self.spectral else "logistic"
        if self.network == PGGAN:
            own = dict(channels=512, latent=512, learning_rate=1e-3, adam_beta1=0.0, loss="wgan-gp")
        self.fill_in(**own)
        if self.size & (self.size - 1):
            raise UserError(f"--size: {self.size} is no power of 2; 32, 64 or 128 would be")
        if self.spectral and self.network == PGGAN:
            raise UserError("--spectral: pggan has no batch normalisation that it could replace; leave it out")

    @property
    def adam_beta2(self) -> float:
        """As published for the network."""
        return 0.99 if self.network == PGGAN else 0.999
