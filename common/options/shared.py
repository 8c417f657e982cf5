"""The options that both applications have. Names, short names and defaults: the released codes'."""

from dataclasses import dataclass

from medi2i.common.options import kinds
from medi2i.common.options.machinery import Checked, derived, option

LEVELS = 12  # an image is continued to a multiple of 2 to the power of these less one


@dataclass
class FileOptions(Checked):
    """Files and devices."""

    argfile: str = option(None, "-a", metavar="FILE", help="take options from this args file first")
    root: str = option("data", "-R", "-i", metavar="DIR", help="folder with the images")
    out: str = option("result", "-o", metavar="DIR", help="each run makes its own folder in here")
    gpu: int = option(
        None,
        "-g",
        low=-1,
        type=int,
        help="number of the GPU, -1 for the CPU; default: the first GPU if there is one, else the CPU",
    )
    cpu_engine: str = option(
        "auto",
        choices=kinds.CPU_ENGINES,
        help="what computes on the CPU; auto: oneDNN where it is installed, else NumPy",
    )
    gpu_engine: str = option(
        "auto",
        choices=kinds.GPU_ENGINES,
        help="what computes on a GPU; auto: this project's kernels for normalisation with activation and for losses",
    )
    tf32: bool = option(
        False,
        type=bool,
        help="on a GPU, let tensor cores round the factors of float32 products to 10 bits (TF32); no effect on the CPU",
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="of every random draw: same seed, same run")
    workers: int = option(
        2, type=int, low=0, high=1024, help="threads that load images ahead; 0 loads in the main thread"
    )
    worker_processes: bool = option(
        False, type=bool, help="processes instead of threads, for many slices a second; each has its share of the cache"
    )
    augment_on: str = option(
        "loader",
        choices=kinds.AUGMENT_ON,
        help="where training images are clipped, cut, changed "
        "and made noisy: by the threads that load them, or where the networks are",
    )
    cache_mb: int = option(2048, type=int, low=0, help="memory for decoded images, in MB")


@dataclass
class ImageOptions(Checked):
    """Images."""

    imgtype: str = option(
        "auto",
        "-it",
        choices=kinds.IMAGE_KINDS,
        spelled=kinds.image_kind,
        help="kind of the images; auto: what is found",
    )
    crop_width: int = option(None, "-cw", type=int, low=1, high=65536, help="width of the training crop in pixels")
    crop_height: int = option(None, "-ch", type=int, low=1, high=65536, help="height of the training crop in pixels")
    grey: bool = option(False, type=bool, help="read colour images as grey; DICOM always is")
    clipA: list = option(
        None,
        "-ca",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values (HU) of domain A that become -1 and 1; default by kind of image",
    )
    clipB: list = option(
        None,
        "-cb",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values (HU) of domain B that become -1 and 1; default by kind of image",
    )
    stack: int = option(
        1, "--num_slices", "-ns", type=int, low=1, high=512, help="neighbouring slices that become channels"
    )
    ch: int = derived("input channels", type=int, low=1, high=4096)
    out_ch: int = derived("output channels", type=int, low=1, high=4096)
    clips_in_hu: bool = derived(
        "clips were given as --HU_base…, which CycleGAN heeds for DICOM and npy only", type=bool
    )
    released: str = derived(
        "the rules of the released codes hold (docs/released_codes.md): ARGS, they wrote this "
        "file, or CONTINUED, a training here went on from such a file"
    )
    mean_change: float = derived("mean of output - input over the training images, in HU or their own unit", type=float)


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

    batch_size: int = option(1, "-b", type=int, low=1, high=65536, help="images per update")
    epoch: int = option(400, "-e", type=int, low=1, help="how many epochs, each of all images")
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
        help="train for so many minutes in place of --epoch; the learning rate follows the time",
    )
    learning_rate: float = option(
        None, "-lr", type=float, low=0, help="of the generator; the discriminator gets half of it; 0: as if not given"
    )
    learning_rate_gen: float = option(2e-4, "--learning_rate_g", "-lrg", type=float, low=0, help="of the generator")
    learning_rate_dis: float = option(1e-4, "--learning_rate_d", "-lrd", type=float, low=0, help="of the discriminator")
    lr_drop: int = option(
        1,
        type=int,
        low=0,
        help="cosine decay restarted so many times; 0: constant for the first half, then linear to 0",
    )
    optimizer: str = option("Adam", "-op", choices=kinds.OPTIMIZERS, help="optimizer")
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
    dtype: str = option("fp32", "-dt", choices=kinds.DTYPES, help="number format of the networks")
    snapinterval: int = option(
        -1, "-si", type=int, low=-1, help="save the weights every so many epochs; -1: only at the end"
    )
    model_gen: str = option(None, "--load_models", "-m", metavar="FILE", help="weights to start from")
    load_optimizer: bool = option(False, "-mo", type=bool, help="load the optimizers' state beside the weights, too")

    @property
    def rates(self):
        """Learning rates (generator, discriminator): ``-lr L`` means L and L/2; 0 means not given."""
        if self.learning_rate:
            return self.learning_rate, self.learning_rate / 2
        return self.learning_rate_gen, self.learning_rate_dis


@dataclass
class GeneratorOptions(Checked):
    """Generator."""

    gen_chs: list = option(
        None, "-gc", type=int, nargs="+", low=1, high=65536, most=LEVELS, help="channels of each level"
    )
    gen_ndown: int = option(
        3, "-gl", type=int, low=1, high=LEVELS, help="number of levels, where channels are not given"
    )
    gen_basech: int = option(
        64, "-gb", type=int, low=1, high=65536, help="channels of the first level, doubled at each next"
    )
    gen_nblock: int = option(9, "-gnb", type=int, low=0, high=1000, help="number of residual blocks")
    gen_ksize: int = option(3, "-gk", type=int, low=1, high=255, help="kernel size of the levels")
    gen_sample: str = option(
        "none-7", "-gs", choices=kinds.SAMPLE, choices_text=kinds.SAMPLE_TEXT, help="first and last layer"
    )
    gen_down: str = option(
        "down", "-gd", choices=kinds.SAMPLE, choices_text=kinds.DOWN_TEXT, help="how a level halves the size"
    )
    gen_up: str = option(
        "resize", "-gu", choices=kinds.SAMPLE, choices_text=kinds.UP_TEXT, help="how a level doubles the size"
    )
    gen_norm: str = option("batch_aff", "-gn", choices=kinds.NORMS, help="normalisation")
    gen_activation: str = option("relu", "-ga", choices=kinds.ACTIVATIONS, help="activation")
    gen_out_activation: str = option("tanh", "-go", choices=kinds.ACTIVATIONS, help="activation of the output")
    gen_dropout: float = option(None, "-gdo", type=float, low=0, high=1, help="dropout ratio")
    gen_attention: bool = option(False, type=bool, help="non-local block at the deepest level")
    gen_fc: int = option(0, "-gfc", type=int, low=0, high=100, help="number of AUTOMAP layers before the encoder")
    gen_fc_activation: str = option("relu", "-gfca", choices=kinds.ACTIVATIONS, help="activation of AUTOMAP layers")
    unet: str = option("conv", "-u", choices=kinds.UNETS, help="connections from encoder to decoder")
    skipdim: int = option(4, "-sd", type=int, low=1, high=65536, help="channels of a connection of kind conv")
    latent_dim: int = option(-1, type=int, low=-1, high=10**7, help="size of a latent vector; -1: none")
    gen_pretrained_encoder: str = option("", "-gp", choices=kinds.PRETRAINED, help="encoder trained on ImageNet")
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
    eqconv: bool = option(False, "-eq", type=bool, help="equalised learning rate")
    spconv: bool = option(False, "-sp", type=bool, help="separable convolution")
    pad: str = option("zero", choices=kinds.PADS, help="padding of convolutions; released weights expect zero")


@dataclass
class DiscriminatorOptions(Checked):
    """Discriminator."""

    dis_chs: list = option(
        None, "-dc", type=int, nargs="+", low=1, high=65536, most=LEVELS, help="channels of each level"
    )
    dis_ndown: int = option(
        3, "-dl", type=int, low=1, high=LEVELS, help="number of levels, where channels are not given"
    )
    dis_basech: int = option(
        64, "-db", type=int, low=1, high=65536, help="channels of the first level, doubled at each next"
    )
    dis_ksize: int = option(4, "-dk", type=int, low=1, high=255, help="kernel size")
    dis_sample: str = option("down", "-ds", choices=kinds.SAMPLE, choices_text=kinds.SAMPLE_TEXT, help="first layer")
    dis_down: str = option(
        "down", "-dd", choices=kinds.SAMPLE, choices_text=kinds.SAMPLE_TEXT, help="how a level halves the size"
    )
    dis_norm: str = option("batch_aff", "-dn", choices=kinds.NORMS, help="normalisation")
    dis_activation: str = option("lrelu", "-da", choices=kinds.ACTIVATIONS, help="activation")
    dis_out_activation: str = option(
        "none",
        "-do",
        choices=kinds.ACTIVATIONS,
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

    display_interval: int = option(100, type=int, low=1, help="iterations between two lines of the log")
    parameter_statistics: bool = option(False, "-ps", type=bool, help="log statistics of the weights each epoch")
    vis_freq: int = option(None, "-vf", type=int, low=1, help="pictures every so many iterations; default: each epoch")
    vis_window: list = option(
        None,
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values (HU) shown black and white in pictures; default: the clip",
    )
    vis_windowB: list = option(
        None,
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="the same for outputs (domain B), where another window suits them",
    )
    vis_random: bool = option(False, "-vr", type=bool, help="pictures of random images, not always the same")


@dataclass
class RegularisationOptions(Checked):
    """Loss terms of both applications."""

    lambda_tv: float = option(0, "-ltv", type=float, low=0, help="weight of the total variation of the output")
    tv_tau: float = option(1e-3, "-tt", type=float, low=0, help="smooths the root in the total variation")
    lambda_reg: float = option(0, "-lreg", type=float, low=0, help="weight of the squared deepest feature")
