"""How sure a network is of its answer: the same image several times, turned or with dropout, and how far they differ.

Turned (test-time augmentation; Wang et al., Neurocomputing 338, 2019): the image is flipped and turned, converted, and
turned back; of a network that has learned what is there, not how it lies, all answers agree. Their mean is a
self-ensemble (Lim et al., EDSR, CVPR workshops 2017) and mostly better than each of them. Dropout (Gal and Ghahramani,
ICML 2016): parts of the network are switched off at random; the result is that of the whole network.

The deviation says how much the answer depends on what should not matter. It is no error bar: an error that all answers
share does not show, and nothing in here was calibrated.
"""

import dataclasses
import logging
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference.results import counted, softmax
from medi2i.common.networks.blocks import sampled_dropout
from medi2i.datasets.dicom.encoding import Encoding
from medi2i.datasets.kinds import name_without_suffix
from medi2i.datasets.outputs import whole_file

log = logging.getLogger(__name__)

SQUARE = tuple((turns, flip) for turns in range(4) for flip in (False, True))
OBLONG = tuple((turns, flip) for turns in (0, 2) for flip in (False, True))
_TINY = 1e-12


def symmetries(height, width):
    """(quarter turns, flip) of all symmetries that keep the shape: eight of a square, four of an oblong."""
    return SQUARE if height == width else OBLONG


def turned(x, turns, flip):
    """(…, H, W) flipped left to right, then turned counter-clockwise."""
    return np.ascontiguousarray(np.rot90(x[..., ::-1] if flip else x, turns, axes=(-2, -1)))


def turned_back(y, turns, flip):
    """What undoes ``turned``."""
    y = np.rot90(y, -turns, axes=(-2, -1))
    return np.ascontiguousarray(y[..., ::-1] if flip else y)


@dataclasses.dataclass(frozen=True)
class Samples:
    """The network of a conversion that answers several times.

    network: (N, C, H, W) -> (N, C', H, W) in [-1, 1], class scores where there are ``classes``. kind: "tta" or
    "dropout". deviation: whether the standard deviation is wanted beside the result. dropping: the network that
    draws dropout inside of ``sampled_dropout``, ``count`` of its samples, and what seeds its draws. stack: slices in
    the channels.
    """

    network: Callable
    kind: str
    deviation: bool
    stack: int = 1
    classes: int = 0
    dropping: Callable | None = None
    count: int = 0
    seed: Callable = np.random.seed

    def run(self, x):
        """(N, C, H, W) -> (N, C', H, W), the mean of the samples (kind "tta") or what the network says ("dropout").

        With ``deviation`` (N, 2 C', H, W): for each slice of the stack its result, then the samples' standard deviation
        (n - 1), in [-1, 1] units, of classes in those of the probability.
        """
        samples = (turned_back(self._answer(turned(x, *how)), *how) for how in symmetries(*x.shape[-2:]))
        if self.kind == "dropout":
            samples = (self._dropped(x, number) for number in range(self.count))
        mean, spread = moments(samples)
        if self.kind == "dropout":
            mean = self._answer(x)
        if self.classes:
            mean = np.log(np.maximum(mean, _TINY))  # scores whose softmax is the mean probability
        return np.concatenate(self._by_slice(mean, spread), axis=1) if self.deviation else mean

    def split(self, y):
        """One slice (C', H, W) of ``run``'s answer -> (result, deviation or None)."""
        return np.split(y, 2) if self.deviation else (y, None)

    @property
    def text(self):
        """What was sampled, in words."""
        return f"{self.count} samples of dropout" if self.kind == "dropout" else "flips and turns"

    def _by_slice(self, mean, spread):
        return [
            part
            for pair in zip(np.split(mean, self.stack, axis=1), np.split(spread, self.stack, axis=1), strict=True)
            for part in pair
        ]

    def _answer(self, x):
        return self._probabilities(self.network(x))

    def _dropped(self, x, number):
        """Each image by itself, its masks drawn by a seed made of its pixels: the same in whatever company it comes."""
        found = []
        for image in x:
            self.seed(zlib.crc32(image.tobytes()) ^ (0x9E3779B9 * (number + 1) & 0xFFFFFFFF))
            with sampled_dropout():
                found.append(self._probabilities(self.dropping(image[np.newaxis])))
        return np.concatenate(found)

    def _probabilities(self, y):
        if not self.classes:
            return y
        slices = y.reshape(-1, self.classes, *y.shape[-2:])
        return np.stack([softmax(scores) for scores in slices]).reshape(y.shape)


def moments(samples):
    """(mean, standard deviation with n - 1) of float32 arrays of one shape, one at a time (Welford, 1962)."""
    mean = squares = None
    count = 0
    for sample in samples:
        count += 1
        if mean is None:
            mean, squares = sample.astype(np.float32), np.zeros(sample.shape, np.float32)
            continue
        difference = sample - mean
        mean += difference / np.float32(count)
        squares += difference * (sample - mean)
    return mean, np.sqrt(squares / np.float32(max(count - 1, 1)))


def sampled(options):
    """Whether ``--uncertainty`` or ``--ensemble`` asks for several answers to each image."""
    return bool(options.uncertainty or options.ensemble)


def samples_of(options, model, network, dropping, device, *, stack, classes=0):
    """The Samples that ``--uncertainty`` and ``--ensemble`` ask for, None without them. Raises UserError.

    network: as in ``Samples``. dropping(): makes the network that can drop out, on ``device`` (of Chainer).
    """
    kind = options.uncertainty or ("tta" if options.ensemble else None)
    if kind is None:
        return None
    name = "--ensemble" if options.uncertainty is None else f"--uncertainty {kind}"
    if kind == "dropout":
        if options.ensemble:
            raise UserError("--ensemble: it is the mean over flips and turns, so it goes with --uncertainty tta")
        if model.generator is None or not model.trained.gen_dropout:
            raise UserError(f"{name}: the network was trained without --gen_dropout; --uncertainty tta needs none")
        return Samples(
            network, kind, True, stack, classes, dropping(), options.uncertainty_samples, device.xp.random.seed
        )
    if model.generator is not None:
        if model.trained.gen_fc:
            raise UserError(
                f"{name}: what a network with --gen_fc gets is no image that could be turned"
                + ("; --uncertainty dropout would do" if model.trained.gen_dropout else "")
            )
        if not model.trained.random_rot90:
            log.warning(
                "%s: the network was trained without --random_rot90, so turned images are new to it; measure "
                "whether the mean is better",
                name,
            )
    return Samples(network, kind, options.uncertainty is not None, stack, classes)


def settings_of(options):
    """What of it decides pixels, for the report and the UIDs; nothing where it is not asked for."""
    if options.uncertainty is None and not options.ensemble:
        return {}
    samples = {"samples": options.uncertainty_samples} if options.uncertainty == "dropout" else {}
    return {"uncertainty": options.uncertainty, "ensemble": options.ensemble, **samples}


FOLDER = "uncertainty"
STEPS = (1.0, 2.0, 2.5, 5.0)  # times powers of ten


class DeviationMaps:
    """Writes one map a result below ``<out>/uncertainty``, named as the result.

    DICOM where the result is (a series of its own: DERIVED, SECONDARY, third value, STD_DEVIATION as in PS3.3
    C.8.16.1.4, in HU for CT; 0 around a crop), else npy (channels, H, W) in the result's unit, of classes in
    probability.

    results: the Results of the conversion. samples: ``uncertainty.Samples``.
    """

    def __init__(self, results, samples):
        self.results, self.samples = results, samples
        self._series = {}

    def paths(self, source):
        """The files that the map of ``source`` will have."""
        form, folder = self.results.form, self.results.folder / FOLDER
        if not form.classes and form.kind_for(source) == "dcm":
            return tuple(folder / PurePosixPath(name) for name in form.names(source))
        frame = "" if source.frames == 1 else f"_{source.frame + 1:04d}"
        return (folder / PurePosixPath(f"{name_without_suffix(source.name, source.kind)}{frame}.npy"),)

    def begin(self, volume):
        """Get ready for the slices of a volume, after ``Results.begin``."""
        clip = self.results.form.clip_for("dcm", None)
        encoding = Encoding(step_for(clip), 0.0, 16, signed=False)
        self._series[id(volume)] = self.results.derived(
            volume,
            f"Standard deviation ({self.samples.text}):",
            {"map": "standard deviation"},
            encoding=encoding,
            contrast="STD_DEVIATION",
        )

    def write(self, volume, source, unit, middle, inputs):
        """Write the map of ``source``: ``unit`` (C, h, w), a deviation in [-1, 1] units. Returns its statistics.

        middle, inputs: as for ``Results.write``. Raises UserError, OSError.
        """
        form = self.results.form
        kind = None if form.classes else form.kind_for(source)
        clip = None if form.classes else form.clip_for(kind, form.bits_for(kind, source, middle.bits))
        values = unit if clip is None or not clip.scales else unit * np.float32((clip.upper - clip.lower) / 2)
        values = np.maximum(middle.placement.back(values, 0.0), 0)
        paths = self.paths(source)
        if kind == "dcm":
            sources = [image for one in inputs for image in one.images]
            parts = np.split(values, form.images)
            for series, path, part in zip(self._series[id(volume)], paths, parts, strict=True):
                series.write(
                    path,
                    middle.images[0],
                    part[0],
                    mask=middle.mask,
                    sources=sources,
                    force=self.results.force,
                    **middle.geometry,
                )
        else:
            with whole_file(paths[0], self.results.force) as temporary, open(temporary, "wb") as file:
                np.save(file, values)
        modality = self.results.provenance.modality or (middle.images[0].modality if middle.images else None)
        return statistics(values[:, counted(middle)], "HU" if kind == "dcm" and modality == "CT" else "")


def summary(found, samples):
    """Means over images, for the report; {} without any.

    found: name -> ``statistics`` of its map. samples: what was sampled, in words.
    """
    if not found:
        return {}
    found = dict(sorted(found.items()))  # sums and ties do not depend on which image was ready first
    largest = max(found, key=lambda name: found[name]["mean"])
    return {
        "samples": samples,
        "folder": FOLDER,
        "unit": found[largest]["unit"],
        "mean": round(float(np.mean([one["mean"] for one in found.values()])), 4),
        "p95": round(float(np.mean([one["p95"] for one in found.values()])), 4),
        "largest_mean": found[largest]["mean"],
        "largest_in": largest,
    }


def text(about, folder):
    """A ``summary`` in words; ``folder``: that of the conversion."""
    unit = f" {about['unit']}" if about["unit"] else ""
    return (
        f"standard deviation of {about['samples']}: mean {about['mean']:.3g}{unit}, 95 % of pixels below "
        f"{about['p95']:.3g}{unit}; largest mean {about['largest_mean']:.3g}{unit} in {about['largest_in']}; "
        f"maps in {Path(folder) / FOLDER}"
    )


def statistics(values, unit):
    """Mean and 95th percentile of deviations, as the report has them."""
    if not values.size:
        return {"mean": 0.0, "p95": 0.0, "unit": unit}
    return {
        "mean": round(float(values.mean(dtype=np.float64)), 4),
        "p95": round(float(np.percentile(values, 95)), 4),
        "unit": unit,
    }


def step_for(clip):
    """The rescale slope of a map: the finest round one with which 16 bits hold any deviation within the clip.

    Samples within a width w deviate by less than 0.54 w (half of eight at each end; four: 0.58 w).
    """
    width = clip.upper - clip.lower if clip.scales else 65535.0
    least = 0.6 * width / 65535
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(f"{step * power:.6g}" for step in (*STEPS, 10.0) if step * power >= least))
