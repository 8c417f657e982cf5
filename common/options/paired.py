"""The options of pix2pix."""

from dataclasses import dataclass
from typing import ClassVar

from medi2i.common.choices import TARGETS
from medi2i.common.options import presets, shared
from medi2i.common.options.machinery import Checked, option
from medi2i.datasets import file_names


@dataclass
class PairedFileOptions(shared.FileOptions):
    """Files and devices."""

    preset: str = option(
        None,
        choices=tuple(presets.PAIRED),
        help="named set of options for a purpose; other options on the command line win",
        first=True,
    )


@dataclass
class PairOptions(Checked):
    """Pairs of images."""

    train: str = option(
        "__train__",
        "-t",
        metavar="FILE",
        changeable=True,
        help="list of pairs, tab-separated, relative to the root; __train__: the folders trainA and trainB",
        first=True,
    )
    val: str = option(
        "__test__",
        metavar="FILE",
        changeable=True,
        help="list of pairs to validate with; __test__: testA and testB",
        first=True,
    )
    targets: str = option(
        "files",
        choices=TARGETS,
        help="what the network is to make of an image: files, the other one of its pair; of a folder without pairs: "
        "neighbours, the slice beside it (their noise must be independent), or blind, pixels that it does not see "
        "(noise must be white)",
    )
    from_col: list = option([0], "-c1", type=int, nargs="+", low=0, help="input columns of the lists")
    to_col: list = option([1], "-c2", type=int, nargs="+", low=0, help="output columns of the lists")
    fn_pattern: str = option(None, "-fn", help="only files whose name matches this pattern, as *_axial*")
    btoa: bool = option(False, type=bool, network=True, help="translate from B to A", first=True)
    imgtype_out: str = option(
        None,
        choices=file_names.CHOICES,
        spelled=file_names.kind_named,
        help="kind of the output images, where another",
    )
    scale: int = option(
        1,
        type=int,
        low=1,
        high=32,
        network=True,
        help="super-resolution: output images have so many times the rows and "
        "columns of the input images, which are enlarged by bicubic interpolation first",
        first=True,
    )
    noise_level: float = option(
        None,
        type=float,
        low=0.1,
        high=10000,
        metavar="HU",
        help="all training images are so scaled that their noise has this standard deviation; a conversion scales its "
        "images alike",
    )
    random_gamma: float = option(
        None,
        type=float,
        low=0,
        high=9,
        metavar="X",
        help="raise the inputs' levels, 0 and 1 at the ends of their clip, to a power between 1/(1 + X) and 1 + X, "
        "another for each crop: contrasts of MR differ [1 with --normaliseA, else 0]",
    )
    class_num: int = option(
        0,
        "-cn",
        type=int,
        low=0,
        high=65536,
        network=True,
        help="output images hold classes 0 to this minus 1",
        first=True,
    )
    class_weight: list = option(None, type=float, nargs="+", low=0, help="weight of each class in the losses")


@dataclass
class PairedLossOptions(Checked):
    """Loss terms of paired training."""

    lambda_rec_l1: float = option(10, "-l1", type=float, low=0, help="weight of the mean absolute difference")
    lambda_rec_l2: float = option(0, "-l2", type=float, low=0, help="weight of the mean squared difference")
    lambda_rec_ce: float = option(0, "-lce", type=float, low=0, help="weight of the focal cross entropy (classes)")
    lambda_dice: float = option(0, "-ldice", type=float, low=0, help="weight of the Dice loss (classes)")
    lambda_ssim: float = option(
        0, type=float, low=0, help="weight of 1 - SSIM (Wang et al., 2004), 11x11 windows, range [-1, 1]"
    )
    lambda_msssim: float = option(
        0, type=float, low=0, help="weight of 1 - MS-SSIM, the same at up to 5 scales (Wang, Simoncelli, Bovik, 2003)"
    )
    lambda_anatomy: float = option(
        0,
        type=float,
        low=0,
        help="weight of the difference of features of --segmentor, of outputs and truths",
    )
    segmentor: str = option(
        None, metavar="RUN", help="run of pix2pix with --class_num on images of domain B, frozen, for --lambda_anatomy"
    )
    lambda_dis: float = option(1, "-ldis", type=float, low=0, help="weight of the adversarial loss")
    lambda_mispair: float = option(0, "-lm", type=float, low=0, help="weight of wrong pairs for the discriminator")
    focal_gamma: float = option(2, "-fg", type=float, low=0, help="exponent of the focal cross entropy")
    loss_ksize: int = option(
        1, "-lk", type=int, low=1, high=1024, help="accepted because the released code has it; does nothing, as there"
    )
    dis_warmup: int = option(-1, type=int, low=-1, help="iteration from which the adversarial loss counts")


@dataclass
class PairedTrainingOptions(shared.TrainingOptions):
    """Training."""

    model_dis: str = option(None, "-md", metavar="FILE", help="discriminator weights to start from")
    weight_decay_norm: str = option("l2", "-wn", choices=("l1", "l2"), help="norm of the weight decay")


@dataclass
class PairedPictureOptions(shared.PictureOptions):
    """Logs and pictures."""

    nvis: int = option(3, type=int, low=0, high=1000, changeable=True, help="number of images in a picture")


@dataclass
class PairedRunOptions(shared.RunOptions):
    """Runs: resuming, ending, checking."""

    best_metric: str = option(
        None,
        choices=("RMSE", "MAE", "Dice"),
        help="validation metric that decides which epoch is best; default: RMSE, with classes Dice",
    )


@dataclass
class PairedOptions(
    PairedFileOptions,
    shared.ImageOptions,
    PairOptions,
    shared.AugmentationOptions,
    PairedTrainingOptions,
    shared.GeneratorOptions,
    shared.DiscriminatorOptions,
    PairedLossOptions,
    shared.RegularisationOptions,
    PairedPictureOptions,
    PairedRunOptions,
):
    """All options of pix2pix."""

    APPLICATION: ClassVar[str] = "pix2pix"
    CONVERTS_BEST: ClassVar[bool] = True
    PRESETS: ClassVar = presets.PAIRED
    RELEASED: ClassVar = (
        *shared.RELEASED,
        *"""btoa train val from_col to_col fn_pattern clipA clipB class_num class_weight stack learning_rate_gen
learning_rate_dis weight_decay_norm display_interval nvis vis_random parameter_statistics lambda_rec_l1 lambda_rec_l2
lambda_rec_ce lambda_dice lambda_dis lambda_mispair focal_gamma loss_ksize model_gen model_dis dis_warmup
gen_attention""".split(),
    )

    @property
    def clip_names(self) -> tuple[str, str]:
        """The options whose clips scale (input, output): with ``--btoa`` domain B is the input.

        In the released codes clipA was the input's in any case.
        """
        return ("clipB", "clipA") if self.btoa and not self.released else ("clipA", "clipB")
