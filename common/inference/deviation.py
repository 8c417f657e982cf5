"""Maps of the standard deviation of a network's samples, beside its results: derived DICOM, or npy."""
from pathlib import Path, PurePosixPath

import numpy as np

from medi2i.common.inference.results import counted
from medi2i.datasets.derived_pixels import Encoding
from medi2i.datasets.images import name_without_suffix
from medi2i.datasets.outputs import whole_file

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
            volume, f"Standard deviation ({self.samples.text}):", {"map": "standard deviation"}, encoding=encoding,
            contrast="STD_DEVIATION")

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
                series.write(path, middle.images[0], part[0], mask=middle.mask, sources=sources,
                             force=self.results.force, **middle.geometry)
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
    return {"samples": samples, "folder": FOLDER, "unit": found[largest]["unit"],
            "mean": round(float(np.mean([one["mean"] for one in found.values()])), 4),
            "p95": round(float(np.mean([one["p95"] for one in found.values()])), 4),
            "largest_mean": found[largest]["mean"], "largest_in": largest}


def text(found, samples, folder):
    """The same in words; ``folder``: that of the conversion."""
    about = summary(found, samples)
    unit = f" {about['unit']}" if about["unit"] else ""
    return (f"standard deviation of {samples}: mean {about['mean']:.3g}{unit}, 95 % of pixels below "
            f"{about['p95']:.3g}{unit}; largest mean {about['largest_mean']:.3g}{unit} in {about['largest_in']}; "
            f"maps in {Path(folder) / FOLDER}")


def statistics(values, unit):
    """Mean and 95th percentile of deviations, as the report has them."""
    if not values.size:
        return {"mean": 0.0, "p95": 0.0, "unit": unit}
    return {"mean": round(float(values.mean(dtype=np.float64)), 4), "p95": round(float(np.percentile(values, 95)), 4),
            "unit": unit}


def step_for(clip):
    """The rescale slope of a map: the finest round one with which 16 bits hold any deviation within the clip.

    Samples within a width w deviate by less than 0.54 w (half of eight at each end; four: 0.58 w).
    """
    width = clip.upper - clip.lower if clip.scales else 65535.0
    least = 0.6 * width / 65535
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(f"{step * power:.6g}" for step in (*STEPS, 10.0) if step * power >= least))
