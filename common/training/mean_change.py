"""What a model does to the mean: how far the outputs of its training images lie above the inputs, in their own unit.

The released noise adds its n photons to the mean, so that what learns to undo it takes n HU away from any image that
it is given. This number goes into the run's ``args`` as ``mean_change``. A residual generator starts from it.
"""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from medi2i.common.choices import Activation
from medi2i.common.compat import chainer
from medi2i.common.training.likeness import spread
from medi2i.datasets.catalogue import Source
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.preparing import Domain, with_channels
from medi2i.datasets.unpaired import UnpairedDataset

EXAMPLES = 64  # random crops, or images; a shift of so many is known far better than one output pixel
QUANTILES = np.linspace(0.02, 0.98, 97)
BINS = 4096  # of the range [-1, 1]: less than one HU of -1024…2000
SMOOTH = 8  # bins (standard deviation), 6 HU of -1024…2000: what noise and rounding leave in a histogram
NEAR = 0.1  # in [-1, 1], 150 HU of -1024…2000: quantiles are that far off where domains show other parts of the body
MARGIN = 0.05  # of the clip, at each end: what is added to air is cut off by the smallest number that a file can hold


def mean_difference(dataset: PairedDataset, seed: int) -> np.ndarray:
    """Mean of t - x in each channel over random crops of a ``PairedDataset``; float32 (C,), in [-1, 1] units."""
    rng = np.random.default_rng(seed)
    pairs = (dataset.load(int(rng.integers(len(dataset))), rng) for _ in range(EXAMPLES))
    found = np.stack([np.nanmean(t - x, axis=(1, 2)) for x, t in pairs if not np.isnan(t).all()])  # nan: does not count
    return found.mean(axis=0, dtype=np.float32)


def domain_shift(dataset_x: UnpairedDataset, dataset_y: UnpairedDataset) -> np.ndarray:
    """How far the grey values of y lie above those of x, two ``UnpairedDataset``; float32 (C,), in [-1, 1] units.

    First the median over ``QUANTILES`` of (quantile of y - quantile of x) in each channel of evenly spread images,
    without quantiles at an end of the clip. Where one domain shows more air or fat than the other, quantiles slip from
    one tissue to the next; the modes of a histogram stay, whatever their heights. So the shift is then that, within
    ``NEAR`` of the first, at which the slopes of the logarithms of both histograms agree best (their correlation).
    They are of means over 3x3 pixels, so that noise in one domain does not melt its modes, and ``MARGIN`` at the ends,
    where air is cut off, does not count.
    """
    (x, some_x), (y, some_y) = (_grey_values(dataset) for dataset in (dataset_x, dataset_y))
    told = (abs(x) < 1) & (abs(y) < 1)
    shifts = [np.median((b - a)[use]) if use.any() else 0 for a, b, use in zip(x, y, told, strict=True)]
    return np.array([_agreeing(*one) for one in zip(some_x, some_y, shifts, strict=True)], np.float32)


def _grey_values(dataset: UnpairedDataset) -> tuple[np.ndarray, np.ndarray]:
    """((C, quantiles), (C, BINS) histograms) of evenly spread images."""
    images = [dataset.whole(i) for i in spread(len(dataset), EXAMPLES)]
    quantiles = [
        np.quantile(np.concatenate([image[c].ravel() for image in images]), QUANTILES) for c in range(len(images[0]))
    ]
    return np.stack(quantiles), np.sum([[_histogram(channel) for channel in image] for image in images], axis=0)


def _histogram(image: np.ndarray) -> np.ndarray:
    """(BINS,): how often the means over 3x3 pixels of (H, W) fall into each bin of [-1, 1]."""
    return np.histogram(ndimage.uniform_filter(image, 3, mode="nearest"), BINS, (-1, 1))[0]


def _slopes(counts: np.ndarray) -> np.ndarray:
    """(BINS,): of the logarithm of a histogram, in which small modes count as large ones do; 0 near the ends."""
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), SMOOTH, mode="nearest")
    return np.gradient(np.log1p(smooth)) * (abs(np.linspace(-1, 1, BINS)) < 1 - 2 * MARGIN)


def _agreeing(x: np.ndarray, y: np.ndarray, shift: float) -> float:
    """The shift near ``shift`` at which two histograms (BINS,) agree best; ``shift`` where none near it does."""
    x, y = _slopes(x), _slopes(y)
    first, reach = round(shift * BINS / 2), round(NEAR * BINS / 2)
    agreement = np.fft.irfft(np.fft.rfft(y, 2 * BINS) * np.fft.rfft(x, 2 * BINS).conj())
    near = agreement[np.arange(first - reach, first + reach + 1)]  # negative ones wrap around
    best = int(near.argmax())
    if not 0 < best < 2 * reach or near[best] <= 0:
        return shift
    below, top, above = near[best - 1 : best + 2]
    between = 0.5 * (below - above) / (below - 2 * top + above)
    return (first - reach + best + between) * 2 / BINS


def start_at(decoder: chainer.Chain, shift: np.ndarray) -> None:
    """Set the bias of a residual decoder's last layer so that its first output is about the input plus ``shift``.

    A constant bias, as Poisson noise of n photons adds, takes hundreds of updates to learn by small steps, and none
    so. Nothing is done where the last layer has an activation, which a bias would not pass unchanged.
    """
    if decoder.spec.out_activation is not Activation.NONE:
        return
    for parameter in decoder.ul.params():
        if parameter.name == "b":
            parameter.array[...] = shift / np.float32(decoder.spec.residual)


# Of the clip's width: a smaller change is not spoken of. 1 HU of -1024…2000, and 5 HU between domains.
LEAST, LEAST_OF_DOMAINS = 1 / 3000, 5 / 3000


def of_pairs(dataset: PairedDataset) -> float | None:
    """Mean of output - input over up to 64 whole pairs of a ``PairedDataset``, evenly spread, in HU or their own unit.

    Pixels count whose truth lies inside of the clip by ``MARGIN`` of its width; padding never does. None where inputs
    and outputs are not of one unit (two modalities, classes, other channels) or no pixel counts. Raises Unreadable.
    """
    modalities = (
        _modality([pair.inputs[0] for pair in dataset.images]),
        _modality([pair.outputs[0] for pair in dataset.images]),
    )
    if dataset.domain_out.class_num or not _one_unit(dataset.domain_in, dataset.domain_out, *modalities):
        return None
    total, count = 0.0, 0
    for index in spread(len(dataset), EXAMPLES):
        for pair in dataset.members(index):
            if len(pair.inputs) != len(pair.outputs):
                return None
            for source_in, source_out in zip(pair.inputs, pair.outputs, strict=True):
                change = _changes(dataset.domain_in, source_in, dataset.domain_out, source_out)
                total, count = total + float(change.sum()), count + change.size
    return round(total / count, 3) if count else None


def of_domains(dataset_a: UnpairedDataset, dataset_b: UnpairedDataset, shift: np.ndarray | None = None) -> float | None:
    """How far domain B lies above domain A, two ``UnpairedDataset``, in HU or their own unit; mean over the channels.

    shift: ``domain_shift`` of both, where known already; right to 1 HU where both show the same things, to 3 HU else.
    None where the domains are not of one unit.
    """
    if not _one_unit(dataset_a.domain, dataset_b.domain, _modality(dataset_a.images), _modality(dataset_b.images)):
        return None
    if dataset_a.clip != dataset_b.clip:
        return None
    shift = domain_shift(dataset_a, dataset_b) if shift is None else shift
    return round(float(np.mean(shift)) * dataset_a.clip.width / 2, 3)


def worth_telling(change: float | None, width: float, least: float = LEAST) -> bool:
    """Whether ``change`` is known and at least a share ``least`` of the ``width`` of the clip."""
    return change is not None and abs(change) >= least * width


def words(change: float, hu: bool) -> str:
    """What such a model does: "takes 100 HU away", or "adds 12.5" where the unit is not HU."""
    amount = f"{abs(change):.3g}" + (" HU" if hu else "")
    return f"takes {amount} away" if change < 0 else f"adds {amount}"


def sentence(change: float | None, width: float, hu: bool, why: str, least: float = LEAST) -> str | None:
    """One line for the end of a training; None where the change is not worth telling. why: where the number is from."""
    if change is None or not worth_telling(change, width, least):
        return None
    return f"this model {words(change, hu)}: {why}. Images that do not differ so come out wrong by as much"


def _one_unit(domain_a: Domain, domain_b: Domain, modality_a: str | None, modality_b: str | None) -> bool:
    if domain_a.channels != domain_b.channels or modality_a != modality_b:
        return False
    return bool(modality_a) or domain_a.clip == domain_b.clip  # grey levels of 8 and of 16 bits are two units


def _modality(sources: Iterable[Source]) -> str | None:
    found = {source.modality for source in sources}
    return found.pop() if len(found) == 1 else None


def _changes(domain_in: Domain, source_in: Source, domain_out: Domain, source_out: Source) -> np.ndarray:
    (x, masked_x), (t, masked_t) = _values(domain_in, source_in), _values(domain_out, source_out)
    used = np.broadcast_to(~(masked_x | masked_t), t.shape)
    clip = domain_out.clip
    if clip.scales:
        used = used & (abs(clip.to_unit(t)) < 1 - 2 * MARGIN)
    return t[used] - x[used]


def _values(domain: Domain, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(values (C, H, W) as they are in the file, float64; where padding is (H, W))."""
    image = domain.image(source)
    array = with_channels(np.asarray(image.array, np.float64), domain.channels)
    return array, np.zeros(array.shape[1:], bool) if image.mask is None else image.mask
