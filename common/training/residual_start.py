"""Where a residual generator starts: the input plus the mean difference between output and input."""
import numpy

from medi2i.common.networks.spec import Activation

EXAMPLES = 64  # random crops; the mean of so many is known far better than one output pixel


def mean_difference(dataset, seed, examples=EXAMPLES):
    """Mean of t - x in each channel over random crops of a ``PairedDataset``; float32 (C,), in [-1, 1] units."""
    rng = numpy.random.default_rng(seed)
    pairs = (dataset.load(int(rng.integers(len(dataset))), rng) for _ in range(examples))
    return numpy.mean([(t - x).mean(axis=(1, 2)) for x, t in pairs], axis=0, dtype=numpy.float32)


def start_at_mean_difference(decoder, dataset, seed):
    """Set the bias of a residual decoder's last layer so that the first output has the right mean.

    A constant bias, as Poisson noise of n photons adds, takes hundreds of updates to learn by small steps, and none
    so. Nothing is done where the last layer has an activation, which a bias would not pass unchanged.
    """
    if decoder.spec.out_activation is not Activation.NONE:
        return
    start = mean_difference(dataset, seed) / numpy.float32(decoder.spec.residual)
    for parameter in decoder.ul.params():
        if parameter.name == "b":
            parameter.array[...] = start
