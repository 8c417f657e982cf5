"""The options of CycleGAN."""

from dataclasses import dataclass
from typing import ClassVar

from medi2i.common import choices
from medi2i.common.errors import UserError
from medi2i.common.options import presets, shared
from medi2i.common.options.machinery import Checked, option, redefault, values_of
from medi2i.datasets import file_names


@dataclass
class UnpairedFileOptions(shared.FileOptions):
    """Files and devices."""

    preset: str = option(
        None,
        choices=tuple(presets.UNPAIRED),
        help="named set of options for a purpose; other options on the command line win",
        first=True,
    )


@dataclass
class DomainOptions(Checked):
    """Two domains of images."""

    imgtype_b: str = option(
        None,
        choices=file_names.CHOICES,
        spelled=file_names.kind_named,
        help="kind of the images of domain B, where another",
    )
    slice_range: list = option(
        None,
        "-sr",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="only slices between these positions in mm",
        first=True,
    )
    forceSpacing: float = option(
        -1, "-fs", type=float, help="resample to this pixel size in mm; -1: as it is", first=True
    )
    clip_body: bool = option(
        False, type=bool, help="CT: what lies outside of the body (table, sheets) becomes air", first=True
    )


@dataclass
class UnpairedLossOptions(Checked):
    """Loss terms of unpaired training."""

    lambda_A: float = option(10, "-lcA", type=float, low=0, help="weight of the cycle X, Y, X")
    lambda_B: float = option(10, "-lcB", type=float, low=0, help="weight of the cycle Y, X, Y")
    lambda_Az: float = option(1, "-lcAz", type=float, low=0, help="weight of the autoencoder X, Z, X")
    lambda_Bz: float = option(1, "-lcBz", type=float, low=0, help="weight of the autoencoder Y, Z, Y")
    lambda_dis_x: float = option(1, "-lx", type=float, low=0, help="weight of the adversarial loss in X")
    lambda_dis_y: float = option(1, "-ly", type=float, low=0, help="weight of the adversarial loss in Y")
    lambda_dis_z: float = option(0, "-lz", type=float, low=0, help="weight of the adversarial loss of the latent")
    lambda_identity_x: float = option(
        0, "-lix", type=float, low=0, same_channels=True, help="weight of the perceptual loss X to Y"
    )
    lambda_identity_y: float = option(
        0, "-liy", type=float, low=0, same_channels=True, help="weight of the perceptual loss Y to X"
    )
    perceptual_layer: str = option(
        "conv1_2",
        "-pl",
        help="layer of VGG16 for the perceptual loss",
        choices=(
            "conv1_1",
            "conv1_2",
            "conv2_1",
            "conv2_2",
            "conv3_1",
            "conv3_2",
            "conv3_3",
            "conv4_1",
            "conv4_2",
            "conv4_3",
            "conv5_1",
            "conv5_2",
            "conv5_3",
        ),
    )
    perceptual_weights: str = option(None, metavar="FILE", help="npz or caffemodel with VGG16's weights, for it")
    lambda_grad: float = option(
        0, "-lg", type=float, low=0, same_channels=True, help="weight of the difference of gradients"
    )
    lambda_grad_y: float = option(
        0,
        type=float,
        low=0,
        same_channels=True,
        help="the same from Y to X only, which may add a constant and nothing else",
    )
    lambda_gc_x: float = option(
        0,
        type=float,
        low=0,
        same_channels=True,
        help="weight of edges lost from X to Y, whatever the contrast (gradient consistency, Hiasa et al., 2018)",
    )
    lambda_gc_y: float = option(0, type=float, low=0, same_channels=True, help="the same from Y to X")
    lambda_air: float = option(
        0, "-la", type=float, low=0, same_channels=True, help="weight of air that becomes tissue, or the reverse"
    )
    air_threshold: float = option(-0.997, "-at", type=float, help="air is at or below this, in [-1, 1]")
    look_up: str = option(
        "none",
        choices=choices.LOOK_UPS,
        help="grey levels of translations begin by a table between the domains, by how frequent they are: bright stays "
        "bright (rising) or becomes dark (falling), or what resembles the other domain more (auto); for the first part "
        "of the training",
    )
    lambda_anatomy: float = option(
        0,
        type=float,
        low=0,
        help="weight of the difference of features of --segmentor, of images and what their cycles make of them",
    )
    segmentor: list = option(
        None,
        nargs="+",
        most=2,
        metavar="RUN",
        help="runs of pix2pix with --class_num on images of domain A and of domain B, or one run for both, frozen, for "
        "--lambda_anatomy and --lambda_shape; with --shape_classes what learns them begins with these",
    )
    lambda_shape: float = option(
        0,
        type=float,
        low=0,
        help="weight of what a translation changes of the classes of pixels, as --segmentor sees them or, with "
        "--shape_classes, what learns them from labels; after a fifth of the training (Zhang et al., 2018)",
    )
    shape_classes: int = option(
        0,
        type=int,
        low=0,
        high=256,
        help="the folders labelsA and labelsB hold, named as the training images, images of classes 0 to this minus 1, "
        "for --lambda_shape",
    )
    lambda_kl: float = option(
        0,
        type=float,
        low=0,
        help="weight of the divergence of the latent from N(0, 1), of images and of translations; above 0 the latent "
        "is sampled in training (UNIT; Liu et al., 2017)",
    )
    lambda_domain: float = option(
        0.1, "-ld", type=float, low=0, same_channels=True, help="weight of leaving the own domain as it is"
    )
    lambda_idempotence: float = option(
        0, "-lidm", type=float, low=0, same_channels=True, help="weight of translating twice as once"
    )
    tv_method: str = option("usual", "-tm", choices=("abs", "sobel", "usual"), help="form of the total variation")


@dataclass
class UnpairedTrainingOptions(shared.TrainingOptions):
    """Training."""

    epoch: int = redefault(shared.TrainingOptions, "epoch", 50)
    iteration: int = option(None, type=int, low=1, changeable=True, help="stop after so many iterations")
    noise_x: float = option(
        0,
        type=float,
        low=0,
        help="sd of Gaussian noise on translations Y to X, in [-1, 1], where "
        "images of X are noisy and those of Y are not",
    )
    learning_freq_d: int = option(1, "-lfd", type=int, low=1, help="iterations between two discriminator updates")


@dataclass
class UnpairedGeneratorOptions(shared.GeneratorOptions):
    """Generator."""

    gen_basech: int = redefault(shared.GeneratorOptions, "gen_basech", 32)
    gen_norm: str = redefault(shared.GeneratorOptions, "gen_norm", "instance")
    gen_up: str = redefault(shared.GeneratorOptions, "gen_up", "unpool")
    unet: str = redefault(shared.GeneratorOptions, "unet", "none")
    single_encoder: bool = option(False, "-senc", type=bool, network=True, help="one encoder for both domains")
    share_latent_blocks: int = option(
        0,
        type=int,
        low=0,
        high=1000,
        network=True,
        help="so many residual blocks beside the latent are one for both domains: the last of the encoders, the first "
        "of the decoders (UNIT)",
    )


@dataclass
class UnpairedDiscriminatorOptions(shared.DiscriminatorOptions):
    """Discriminator."""

    dis_norm: str = redefault(shared.DiscriminatorOptions, "dis_norm", "instance")
    dis_pretrained: str = option(
        "", "-dp", choices=values_of(choices.Pretrained), help="discriminator trained on ImageNet"
    )
    dis_pretrained_lr_ratio: float = option(0, "-dpr", type=float, low=0, help="its relative learning rate")
    dis_pretrained_weights: str = option(None, metavar="FILE", help="npz or caffemodel with its ImageNet weights")


@dataclass
class UnpairedPictureOptions(shared.PictureOptions):
    """Logs and pictures."""

    nvis_A: int = option(
        3, "-nvis_A", type=int, low=0, high=1000, changeable=True, help="number of images of domain A in a picture"
    )
    nvis_B: int = option(
        3, "-nvis_B", type=int, low=0, high=1000, changeable=True, help="number of images of domain B in a picture"
    )
    output_analysis: bool = option(False, "-oa", type=bool, help="write maps of every loss term at conversion")


@dataclass
class UnpairedRunOptions(shared.RunOptions):
    """Runs: resuming, ending, checking."""

    best_metric: str = option(
        None,
        choices=("cycle_MAE", "cycle_RMSE"),
        help="also keep the weights of the epoch "
        "that is best by this validation metric, and end by --patience; a cycle is good before "
        "anything is learned, so conversion takes the last weights all the same",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is not None and self.best_metric is None:
            raise UserError(
                "--patience: for a better what? CycleGAN has no truth to compare with; --best_metric "
                "cycle_MAE, or --minutes in its place, would say when to end"
            )


@dataclass
class UnpairedOptions(
    UnpairedFileOptions,
    shared.ImageOptions,
    DomainOptions,
    shared.AugmentationOptions,
    UnpairedTrainingOptions,
    UnpairedGeneratorOptions,
    UnpairedDiscriminatorOptions,
    UnpairedLossOptions,
    shared.RegularisationOptions,
    UnpairedPictureOptions,
    UnpairedRunOptions,
):
    """All options of CycleGAN."""

    APPLICATION: ClassVar[str] = "cyclegan"
    CONVERTS_BEST: ClassVar[bool] = False  # cycles, all that it can measure, are best where nothing was learned
    PRESETS: ClassVar = presets.UNPAIRED
    RELEASED: ClassVar = (
        *shared.RELEASED,
        *"""learning_rate_g learning_rate_d learning_freq_d iteration load_models HU_baseA HU_rangeA HU_baseB
HU_rangeB slice_range forceSpacing num_slices dis_pretrained dis_pretrained_lr_ratio single_encoder lambda_A lambda_B
lambda_Az lambda_Bz lambda_identity_x lambda_identity_y perceptual_layer lambda_grad lambda_air lambda_domain
lambda_idempotence lambda_dis_y lambda_dis_x lambda_dis_z tv_method air_threshold nvis_A nvis_B HU_base_vis
HU_range_vis output_analysis""".split(),
    )
