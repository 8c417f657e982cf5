"""Where a residual generator starts: the input plus what the output's grey values are above the input's."""
import numpy

from medi2i.common.networks.spec import Activation

EXAMPLES = 64  # random crops, or images; a shift of so many is known far better than one output pixel
QUANTILES = numpy.linspace(0.02, 0.98, 97)


def mean_difference(dataset, seed, examples=EXAMPLES):
    """Mean of t - x in each channel over random crops of a ``PairedDataset``; float32 (C,), in [-1, 1] units."""
    rng = numpy.random.default_rng(seed)
    pairs = (dataset.load(int(rng.integers(len(dataset))), rng) for _ in range(examples))
    return numpy.mean([(t - x).mean(axis=(1, 2)) for x, t in pairs], axis=0, dtype=numpy.float32)


def domain_shift(dataset_x, dataset_y, examples=EXAMPLES):
    """How far the grey values of y lie above those of x, two ``UnpairedDataset``; float32 (C,), in [-1, 1] units.

    The median over ``QUANTILES`` of (quantile of y - quantile of x) in each channel of evenly spread whole images: a
    domain that shows a little more air, or bone, than the other moves the mean, but few of the quantiles. Quantiles
    at an end of the clip say nothing and are left out.
    """
    x, y = (_quantiles(dataset, examples) for dataset in (dataset_x, dataset_y))
    told = (abs(x) < 1) & (abs(y) < 1)
    return numpy.float32([numpy.median((b - a)[use]) if use.any() else 0 for a, b, use in zip(x, y, told, strict=True)])


def _quantiles(dataset, examples):
    """(C, quantiles)."""
    chosen = numpy.linspace(0, len(dataset) - 1, min(examples, len(dataset))).round().astype(int)
    images = [dataset.whole(int(i)) for i in chosen]
    return numpy.stack([numpy.quantile(numpy.concatenate([image[c].ravel() for image in images]), QUANTILES)
                        for c in range(len(images[0]))])


def start_at(decoder, shift):
    """Set the bias of a residual decoder's last layer so that its first output is about the input plus ``shift``.

    A constant bias, as Poisson noise of n photons adds, takes hundreds of updates to learn by small steps, and none
    so. Nothing is done where the last layer has an activation, which a bias would not pass unchanged.
    """
    if decoder.spec.out_activation is not Activation.NONE:
        return
    for parameter in decoder.ul.params():
        if parameter.name == "b":
            parameter.array[...] = shift / numpy.float32(decoder.spec.residual)
