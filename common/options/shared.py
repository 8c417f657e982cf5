"""The options that both applications have. Names, short names and defaults: the released codes'."""

from dataclasses import dataclass

from medi2i.common.choices import (
    COMMUNICATORS,
    CPU_ENGINES,
    DOUBLING,
    DTYPES,
    GPU_ENGINES,
    HALF,
    HALVING,
    NORMALISATIONS,
    OPTIMIZERS,
    SAMPLINGS,
    Activation,
    Norm,
    Padding,
    Pretrained,
    SampleKind,
    Unet,
)
from medi2i.common.options.machinery import BaseAndWidth, Checked, derived, option, values_of
from medi2i.datasets import file_names

LEVELS = 12  # an image is continued to a multiple of 2 to the power of these less one

# The long options that both released codes had.
RELEASED = tuple(
    """argfile out root imgtype crop_width crop_height grey batch_size epoch gpu learning_rate lr_drop
weight_decay snapinterval vis_freq lambda_tv lambda_reg lambda_wgan_gp tv_tau random_translate random_rotation
random_scale noise noise_z load_optimizer optimizer dtype eqconv spconv senet dis_activation dis_out_activation
dis_ksize dis_chs dis_basech dis_ndown dis_down dis_sample dis_jitter dis_dropout dis_norm dis_reg_weighting dis_wgan
dis_attention gen_pretrained_encoder gen_pretrained_lr_ratio gen_activation gen_out_activation gen_chs gen_ndown
gen_basech gen_fc gen_fc_activation gen_nblock gen_ksize gen_sample gen_down gen_up gen_dropout gen_norm unet skipdim
latent_dim
""".split()
)
OLD_CLIP_A = BaseAndWidth("HU_baseA", "HU_rangeA", "-huba", "-hura", -1024, 1200)
OLD_CLIP_B = BaseAndWidth("HU_baseB", "HU_rangeB", "-hubb", "-hurb", -1024, 1200)


def _in_words(*groups: list[SampleKind]) -> str:
    names = ", ".join(kind.value for group in groups for kind in group)
    return names + "; each also with _conv (a second convolution) or _res (that and a shortcut)"


_HALVING, _SAME, _DOUBLING = (
    [kind for kind in SampleKind if (kind in HALVING, kind in DOUBLING) == does]
    for does in ((True, False), (False, False), (False, True))
)
SAMPLE, SAMPLE_TEXT = tuple(SAMPLINGS), _in_words(_HALVING, _SAME, _DOUBLING)


@dataclass
class FileOptions(Checked):
    """Files and devices."""

    argfile: str = option(None, "-a", metavar="FILE", momentary=True, help="take options from this args file first")
    root: str = option(
        "data", "-R", "-i", metavar="FOLDER", changeable=True, help="folder with the images", first=True, bare=True
    )
    out: str = option("result", "-o", metavar="DIR", help="each run makes its own folder in here", first=True)
    gpu: int = option(
        None,
        "-g",
        low=-1,
        type=int,
        changeable=True,
        help="number of the GPU, -1 for the CPU; default: the first GPU if there is one, else the CPU",
        first=True,
    )
    cpu_engine: str = option(
        "auto",
        choices=CPU_ENGINES,
        help="what computes on the CPU; auto: oneDNN where it is installed, else NumPy",
    )
    gpu_engine: str = option(
        "auto",
        choices=GPU_ENGINES,
        changeable=True,
        help="what computes on a GPU; auto: this project's kernels for normalisation with activation and for losses",
    )
    tf32: bool = option(
        False,
        type=bool,
        help="on a GPU, let tensor cores round the factors of float32 products to 10 bits (TF32); no effect on the CPU",
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="of every random draw: same seed, same run")
    workers: int = option(
        2,
        type=int,
        low=0,
        high=1024,
        changeable=True,
        help="threads that load images ahead; 0 loads in the main thread",
    )
    worker_processes: bool = option(
        False, type=bool, help="processes instead of threads, for many slices a second; each has its share of the cache"
    )
    augment_on: str = option(
        "loader",
        choices=("loader", "device"),
        help="where training images are clipped, cut, changed "
        "and made noisy: by the threads that load them, or where the networks are",
    )
    cache_mb: int = option(2048, type=int, low=0, changeable=True, help="memory for decoded images, in MB")


@dataclass
class ImageOptions(Checked):
    """Images."""

    imgtype: str = option(
        "auto",
        "-it",
        choices=file_names.CHOICES,
        spelled=file_names.kind_named,
        help="kind of the images; auto: what is found",
    )
    crop_width: int = option(
        None, "-cw", type=int, low=1, high=65536, help="width of the training crop in pixels", first=True
    )
    crop_height: int = option(
        None, "-ch", type=int, low=1, high=65536, help="height of the training crop in pixels", first=True
    )
    grey: bool = option(False, type=bool, network=True, help="read colour images as grey; DICOM always is")
    clipA: list = option(
        None,
        "-ca",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        old=OLD_CLIP_A,
        help="values (HU) of domain A that become -1 and 1; default by kind of image",
        first=True,
    )
    clipB: list = option(
        None,
        "-cb",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        old=OLD_CLIP_B,
        help="values (HU) of domain B that become -1 and 1; default by kind of image",
        first=True,
    )
    normaliseA: str = option(
        "none",
        choices=NORMALISATIONS,
        help="bring each series of domain A, whose grey levels have no unit (MR), to a scale that ends at 1000 first: "
        "by the 99.5th percentile of its tissue, by ten landmarks (Nyul), or by its dark and its bright tissue",
        first=True,
    )
    normaliseB: str = option(
        "none", choices=NORMALISATIONS, help="the same for domain B; results are on that scale", first=True
    )
    stack: int = option(
        1,
        "--num_slices",
        "-ns",
        type=int,
        low=1,
        high=512,
        network=True,
        help="neighbouring slices that become channels",
        first=True,
    )
    ch: int = derived("input channels", type=int, low=1, high=4096)
    out_ch: int = derived("output channels", type=int, low=1, high=4096)
    landmarksA: list = derived("of the scale of --normaliseA, in grey levels", type=float, nargs="+")
    landmarksB: list = derived("of the scale of --normaliseB, in grey levels", type=float, nargs="+")
    clips_in_hu: bool = derived(
        "clips were given as --HU_base…, which CycleGAN heeds for DICOM and npy only", type=bool
    )
    released: str = derived(
        "the rules of the released codes hold (docs/released_codes.md): ARGS, they wrote this "
        "file, or CONTINUED, a training here went on from such a file"
    )
    mean_change: float = derived("mean of output - input over the training images, in HU or their own unit", type=float)
    expected_correlation: float = derived("of inputs and outputs, by the training images (likeness.py)", type=float)
    expected_inside: float = derived("the same without air", type=float)
    expected_change: float = derived("standard deviation of output - input there, in [-1, 1]", type=float)


@dataclass
class AugmentationOptions(Checked):
    """Augmentation (training only)."""

    random_translate: int = option(
        4,
        "-rt",
        type=int,
        low=-1,
        high=16384,
        help="largest shift in pixels (pix2pix: never beyond the "
        "image); -1: crops from anywhere in the image, and validation on whole images; "
        "except for 0 also flips (CycleGAN: DICOM only with -1)",
    )
    random_rot90: bool = option(
        False,
        type=bool,
        help="flips and quarter turns, all 8 equally often; of crops that are not square the four that keep the shape",
    )
    random_rotation: float = option(0, "-rr", type=float, low=0, help="largest rotation in degrees")
    random_scale: float = option(0, "-rs", type=float, low=0, high=0.9, help="scale by 1 plus or minus up to this")
    augment_noise: float = option(
        0, type=float, low=0, help="sd of Gaussian noise on the input images, in [-1, 1]; all networks see it"
    )
    noise: float = option(0, "-n", type=float, low=0, help="sd of Gaussian noise on the encoder's input, in [-1, 1]")
    noise_z: float = option(0, "-nz", type=float, low=0, help="sd of Gaussian noise on the deepest feature")


@dataclass
class TrainingOptions(Checked):
    """Training."""

    batch_size: int = option(1, "-b", type=int, low=1, high=65536, help="images per update", first=True)
    epoch: int = option(
        400, "-e", type=int, low=1, changeable=True, help="how many epochs, each of all images", first=True
    )
    crops_per_image: int = option(
        1,
        type=int,
        low=1,
        metavar="N",
        help="an epoch sees each image N times, each time "
        "another crop; more where crops are small, as validation and pictures come once an "
        "epoch",
    )
    minutes: float = option(
        None,
        type=float,
        low=0.001,
        changeable=True,
        instead_of=("epoch", "iteration"),
        help="train for so many minutes in place of --epoch; the learning rate follows the time",
        first=True,
    )
    learning_rate: float = option(
        None,
        "-lr",
        type=float,
        low=0,
        instead_of=("learning_rate_gen", "learning_rate_dis"),
        help="of the generator; the discriminator gets half of it; 0: as if not given",
    )
    learning_rate_gen: float = option(2e-4, "--learning_rate_g", "-lrg", type=float, low=0, help="of the generator")
    learning_rate_dis: float = option(1e-4, "--learning_rate_d", "-lrd", type=float, low=0, help="of the discriminator")
    lr_drop: int = option(
        1,
        type=int,
        low=0,
        help="cosine decay restarted so many times; 0: constant for the first half, then linear to 0",
    )
    optimizer: str = option("Adam", "-op", choices=tuple(OPTIMIZERS), help="optimizer")
    adam_beta1: float = option(
        0.1,
        type=float,
        low=0,
        high=0.999,
        help="how much of the mean gradient Adam keeps at each step; 0.9 is steadier without an adversary",
    )
    weight_decay: float = option(1e-7, "-wd", type=float, low=0, help="weight decay")
    ema: float = option(
        None,
        type=float,
        low=0,
        high=0.999999,
        metavar="DECAY",
        help="validate, draw and save the "
        "moving average of the generator's weights with this decay an update, as 0.999",
    )
    bn_reestimate: int = option(
        0,
        type=int,
        low=0,
        metavar="N",
        help="set the running statistics of batch "
        "normalisation to those of N training crops before networks are validated and saved",
    )
    dtype: str = option("fp32", "-dt", choices=DTYPES, help="number format of the networks")
    snapinterval: int = option(
        -1, "-si", type=int, low=-1, changeable=True, help="save the weights every so many epochs; -1: only at the end"
    )
    model_gen: str = option(
        None,
        "--load_models",
        "-m",
        metavar="FILE",
        help="weights to start from; of a run folder, or a model by name, the network is taken, too",
    )
    load_optimizer: bool = option(False, "-mo", type=bool, help="load the optimizers' state beside the weights, too")

    @property
    def rates(self) -> tuple[float, float]:
        """Learning rates (generator, discriminator): ``-lr L`` means L and L/2; 0 means not given."""
        if self.learning_rate:
            return self.learning_rate, self.learning_rate / 2
        return self.learning_rate_gen, self.learning_rate_dis


@dataclass
class GeneratorOptions(Checked):
    """Generator."""

    gen_chs: list = option(
        None,
        "-gc",
        type=int,
        nargs="+",
        low=1,
        high=65536,
        most=LEVELS,
        network=True,
        instead_of=("gen_basech", "gen_ndown"),
        help="channels of each level",
    )
    gen_ndown: int = option(
        3, "-gl", type=int, low=1, high=LEVELS, network=True, help="number of levels, where channels are not given"
    )
    gen_basech: int = option(
        64, "-gb", type=int, low=1, high=65536, network=True, help="channels of the first level, doubled at each next"
    )
    gen_nblock: int = option(9, "-gnb", type=int, low=0, high=1000, network=True, help="number of residual blocks")
    gen_ksize: int = option(3, "-gk", type=int, low=1, high=255, network=True, help="kernel size of the levels")
    gen_sample: str = option(
        "none-7",
        "-gs",
        choices=(*SAMPLE, HALF),
        choices_text=f"{HALF}, {SAMPLE_TEXT}",
        network=True,
        help="first and last layer; half: all between them work at half of the resolution, at a quarter of the cost",
    )
    gen_down: str = option(
        "down",
        "-gd",
        choices=SAMPLE,
        choices_text=_in_words(_HALVING, _SAME),
        network=True,
        help="how a level halves the size",
    )
    gen_up: str = option(
        "resize",
        "-gu",
        choices=SAMPLE,
        choices_text=_in_words(_DOUBLING, _SAME),
        network=True,
        help="how a level doubles the size",
    )
    gen_norm: str = option("batch_aff", "-gn", choices=values_of(Norm), network=True, help="normalisation")
    gen_activation: str = option("relu", "-ga", choices=values_of(Activation), network=True, help="activation")
    gen_out_activation: str = option(
        "tanh", "-go", choices=values_of(Activation), network=True, help="activation of the output"
    )
    gen_dropout: float = option(None, "-gdo", type=float, low=0, high=1, help="dropout ratio")
    gen_attention: bool = option(False, type=bool, network=True, help="non-local block at the deepest level")
    gen_fc: int = option(
        0, "-gfc", type=int, low=0, high=100, network=True, help="number of AUTOMAP layers before the encoder"
    )
    gen_fc_activation: str = option(
        "relu", "-gfca", choices=values_of(Activation), network=True, help="activation of AUTOMAP layers"
    )
    unet: str = option("conv", "-u", choices=values_of(Unet), network=True, help="connections from encoder to decoder")
    skipdim: int = option(
        4, "-sd", type=int, low=1, high=65536, network=True, help="channels of a connection of kind conv"
    )
    latent_dim: int = option(-1, type=int, low=-1, high=10**7, network=True, help="size of a latent vector; -1: none")
    gen_pretrained_encoder: str = option(
        "", "-gp", choices=values_of(Pretrained), network=True, help="encoder trained on ImageNet"
    )
    gen_pretrained_lr_ratio: float = option(
        0, "-gpr", type=float, low=0, help="learning rate of that encoder relative to the rest; 0 freezes it"
    )
    gen_pretrained_weights: str = option(None, metavar="FILE", help="npz or caffemodel with its ImageNet weights")
    gen_residual: float = option(
        0,
        type=float,
        low=0,
        help="above 0: the output is the input plus this times "
        "what the layers say; 0.01 to 0.1 where only noise is to go",
    )
    eqconv: bool = option(False, "-eq", type=bool, network=True, help="equalised learning rate")
    spconv: bool = option(False, "-sp", type=bool, network=True, help="separable convolution")
    pad: str = option(
        "zero", choices=values_of(Padding), network=True, help="padding of convolutions; released weights expect zero"
    )


@dataclass
class DiscriminatorOptions(Checked):
    """Discriminator."""

    dis_chs: list = option(
        None,
        "-dc",
        type=int,
        nargs="+",
        low=1,
        high=65536,
        most=LEVELS,
        instead_of=("dis_basech", "dis_ndown"),
        help="channels of each level",
    )
    dis_ndown: int = option(
        3, "-dl", type=int, low=1, high=LEVELS, help="number of levels, where channels are not given"
    )
    dis_basech: int = option(
        64, "-db", type=int, low=1, high=65536, help="channels of the first level, doubled at each next"
    )
    dis_ksize: int = option(4, "-dk", type=int, low=1, high=255, help="kernel size")
    dis_sample: str = option("down", "-ds", choices=SAMPLE, choices_text=SAMPLE_TEXT, help="first layer")
    dis_down: str = option("down", "-dd", choices=SAMPLE, choices_text=SAMPLE_TEXT, help="how a level halves the size")
    dis_norm: str = option("batch_aff", "-dn", choices=values_of(Norm), help="normalisation")
    dis_activation: str = option("lrelu", "-da", choices=values_of(Activation), help="activation")
    dis_out_activation: str = option(
        "none",
        "-do",
        choices=values_of(Activation),
        help="accepted because the released codes have it; does nothing, as there",
    )
    dis_dropout: float = option(None, "-ddo", type=float, low=0, high=1, help="dropout ratio")
    dis_attention: bool = option(False, type=bool, help="non-local block before the last layer")
    senet: bool = option(False, "-se", type=bool, help="squeeze-excitation")
    dis_jitter: float = option(0.2, type=float, low=0, help="sd of the noise on the targets 0 and 1")
    dis_reg_weighting: float = option(
        0,
        "-dw",
        type=float,
        low=0,
        help="above 0: the discriminator weights its own "
        "decision by place, and this is the weight of the term that keeps it honest",
    )
    dis_wgan: bool = option(False, "-wgan", type=bool, help="Wasserstein loss with gradient penalty")
    lambda_wgan_gp: float = option(10, "-lwgp", type=float, low=0, help="weight of the gradient penalty")


@dataclass
class PictureOptions(Checked):
    """Logs and pictures."""

    display_interval: int = option(
        100, type=int, low=1, changeable=True, help="iterations between two lines of the log"
    )
    parameter_statistics: bool = option(
        False, "-ps", type=bool, changeable=True, help="log statistics of the weights each epoch"
    )
    vis_freq: int = option(
        None, "-vf", type=int, low=1, changeable=True, help="pictures every so many iterations; default: each epoch"
    )
    vis_window: list = option(
        None,
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        changeable=True,
        old=BaseAndWidth("HU_base_vis", "HU_range_vis", "-hubv", "-hurv", 0, 0),
        help="values (HU) shown black and white in pictures; default: -160 240 where CT comes of CT, else the clip",
    )
    vis_windowB: list = option(
        None,
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        changeable=True,
        help="the same for outputs (domain B), where another window suits them",
    )
    vis_random: bool = option(
        False, "-vr", type=bool, changeable=True, help="pictures of random images, not always the same"
    )


@dataclass
class RegularisationOptions(Checked):
    """Loss terms of both applications."""

    lambda_tv: float = option(0, "-ltv", type=float, low=0, help="weight of the total variation of the output")
    tv_tau: float = option(1e-3, "-tt", type=float, low=0, help="smooths the root in the total variation")
    lambda_reg: float = option(0, "-lreg", type=float, low=0, help="weight of the squared deepest feature")


@dataclass
class RunOptions(Checked):
    """Runs: resuming, ending, checking."""

    resume: str = option(
        None,
        metavar="RUN",
        momentary=True,
        help="go on with the training in this run folder exactly where its "
        "newest snapshot is; needs no other option, but -e can extend it",
        first=True,
    )
    snapshot_minutes: float = option(
        5,
        type=float,
        low=0,
        changeable=True,
        help="minutes between two snapshots to resume from; 0: only by --snapshot_interval and at the end",
    )
    snapshot_interval: int = option(
        0, type=int, low=0, changeable=True, help="iterations between two snapshots; 0: only by time"
    )
    snapshot_keep: int = option(2, type=int, low=1, changeable=True, help="snapshots kept, the newest ones")
    patience: int = option(
        None, type=int, low=1, changeable=True, help="end after so many epochs without a better --best_metric"
    )
    max_hours: float = option(
        None, type=float, low=0, changeable=True, help="end after so many hours, with a snapshot to resume from"
    )
    loss_limit: float = option(
        1e8, type=float, low=0, changeable=True, help="a loss beyond this ends the training; 0: no limit"
    )
    check: bool = option(
        False,
        type=bool,
        momentary=True,
        help="read all data, build everything, do one update, say how long the "
        "training would take, and make no run folder",
        first=True,
    )
    communicator: str = option(
        None,
        choices=COMMUNICATORS,
        momentary=True,
        help="one training by all processes that mpiexec "
        "starts, one for each GPU (pure_nccl, flat) or on CPUs (naive); needs "
        "pip install 'medi2i[mpi]'",
    )
    sync_bn: bool = option(
        False, type=bool, help="with --communicator, batch normalisation over the batches of all processes together"
    )
    summary: bool = option(
        False, type=bool, momentary=True, help="print the layers of the networks before the training"
    )
    profile: bool = option(
        False,
        type=bool,
        changeable=True,
        help="say at the end where the time went, and write it to profile.csv "
        "in the run folder; on a GPU the training is slower for it",
    )
    tensorboard: bool = option(
        False, type=bool, changeable=True, help="also write TensorBoard event files (needs tensorboardX)"
    )
    started: str = derived("when the run began, in UTC: names of folders are of a clock that is put back each autumn")
