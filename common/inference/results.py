"""Where a result goes, and how it is written: DICOM as a derived series, classes as labels, all else as it came; and
beside it how sure the network is of it, as a map."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from medi2i.common.inference import values
from medi2i.common.inference.generator import Model
from medi2i.common.inference.plan import Format, Plan
from medi2i.common.inference.slices import Slice
from medi2i.common.inference.uncertainty import Samples, softmax, step_for
from medi2i.common.resources import bands
from medi2i.datasets.catalogue import Source, Volume
from medi2i.datasets.dicom.encoding import ROUNDING, Encoding
from medi2i.datasets.dicom.new_series import DerivedSeries, WriteReport
from medi2i.datasets.dicom.reading import open_file
from medi2i.datasets.dicom.series import Series
from medi2i.datasets.file_names import PLAIN_NUMBERS
from medi2i.datasets.preparing import Placement
from medi2i.datasets.scaling import Clip
from medi2i.datasets.writing import write_image, write_npy


class Results:
    """Writes the results of a ``plan`` below its folder; existing files only where it says so.

    Where ``samples`` have a deviation, also one map of it a result, below ``uncertainty``, named as the result: DICOM
    where that is (a series of its own: DERIVED, SECONDARY, third value, STD_DEVIATION as in PS3.3 C.8.16.1.4, in HU for
    CT; 0 around a crop), else npy (channels, H, W) in the result's unit, of classes in probability.
    """

    def __init__(self, plan: Plan, samples: Samples | None) -> None:
        self.samples = samples if samples is not None and samples.deviation else None
        self.plan, self.form, self.folder = plan, plan.form, Path(plan.options.out)
        self.force = plan.options.force or plan.options.resume
        found = [volume.series for volume in plan.images.volumes if volume.series is not None]
        self._uids = Counter(series.uid for series in found)
        self._numbers = {(series.slices[0].study_uid, series.number) for series in found}
        self._series: dict[int, list[DerivedSeries]] = {}
        self._series_of_maps: dict[int, list[DerivedSeries]] = {}

    def paths(self, source: Source) -> tuple[Path, ...]:
        """The files that the result of ``source`` will have."""
        return tuple(self.folder / PurePosixPath(name) for name in self.form.names(source))

    def paths_of_map(self, source: Source) -> tuple[Path, ...]:
        """Those of the map of its deviation, if there will be one."""
        if self.samples is None:
            return ()
        names = self.form.names(source) if self.form.is_dicom(source) else (f"{self.form.stem(source)}.npy",)
        return tuple(self.folder / values.DEVIATIONS / PurePosixPath(name) for name in names)

    def named(self, source: Source) -> str | list[str]:
        """The files of the result for the report: their names below the folder, one as text, several as a list."""
        names = self.form.names(source)
        return names[0] if len(names) == 1 else list(names)

    def begin(self, volume: Volume) -> None:
        """Get ready for the slices of a volume: a DICOM series gets its new UID from its first slice."""
        if volume.series is None or not self.form.is_dicom(volume.sources[0]):
            return
        self._series[id(volume)] = self._derived(volume.series)
        if self.samples is not None:
            self._series_of_maps[id(volume)] = self._derived(
                volume.series,
                f"Standard deviation ({self.samples.text}):",
                {"map": "standard deviation"},
                encoding=Encoding(step_for(self.form.clip_for("dcm", None)), 0.0, 16, signed=False),
                contrast="STD_DEVIATION",
            )

    def _derived(
        self,
        series: Series,
        prefix: str = "",
        more: Mapping[str, object] | None = None,
        encoding: Encoding | None = None,
        contrast: str | None = None,
    ) -> list[DerivedSeries]:
        """The DerivedSeries of a series, one for each image of a result.

        prefix: of the description. more: what else decides the pixels. encoding, contrast: as DerivedSeries has them.
        """
        plan, first = self.plan, series.slices[0]
        header = open_file(first.path).dataset
        clip, source = self.form.clip_for("dcm", None), " ".join(filter(None, (prefix, series.description)))
        # Several volumes of one UID (two sizes, two echoes) must not become one.
        part = [first.sop_uid, first.frame, first.position] if self._uids[series.uid] > 1 else None
        made = [
            DerivedSeries(
                header,
                model_name=plan.model.name,
                model_sha256=plan.model.sha256,
                description=_described(source, plan.description, plan.model, number),
                options={**plan.settings, "output": number, "part": part, **(more or {})},
                modality=plan.options.modality,
                value_range=None if clip.lower is None or clip.upper is None else (clip.lower, clip.upper),
                encoding=encoding,
                contrast=contrast,
            )
            for number in self.form.numbered()
        ]
        for one in made:
            while (first.study_uid, one.number) in self._numbers:  # of what there is in the study
                one.number = (one.number + 1) % 2**31
        return made

    def write(
        self, volume: Volume, source: Source, unit: np.ndarray, middle: Slice, inputs: Sequence[Slice]
    ) -> dict[str, object]:
        """Write the result ``unit`` (C, h, w) in [-1, 1] of ``source``, whose ``Slice`` is ``middle``.

        ``unit`` is overwritten. inputs: the Slices that went in. Returns details for the report. Raises UserError,
        OSError.
        """
        paths = self.paths(source)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        if self.form.classes:
            return self._write_classes(paths, unit, middle)
        kind = self.form.kind_for(source)
        bits = self.form.bits_for(kind, source, middle.bits)
        clip = self.form.clip_for(kind, bits)
        parts = parts_of(unit, self.form, clip, middle)
        if kind == "dcm":
            details, written = self._write_dicom(volume, paths, parts, clip, middle, inputs)
        else:
            details, written = self._write_plain(paths, parts, clip, middle, kind, bits, kind == source.kind)
        kept = self.form.keep and middle.clip == clip
        changed = {**values.outside_of(middle.beyond, middle.clip, kept), **written}
        return {**details, **({"values": changed} if changed else {})}

    def write_map(
        self, volume: Volume, source: Source, unit: np.ndarray, middle: Slice, inputs: Sequence[Slice]
    ) -> dict[str, object]:
        """Write the map of ``source``: ``unit`` (C, h, w), a deviation in [-1, 1] units. Returns its statistics.

        middle, inputs: as for ``write``. Raises UserError, OSError.
        """
        kind, clip = "npy", Clip()
        if not self.form.classes:
            kind = self.form.kind_for(source)
            clip = self.form.clip_for(kind, self.form.bits_for(kind, source, middle.bits))
        found = unit * np.float32(clip.width / 2) if clip.scales else unit
        found = np.maximum(middle.placement.back(found, 0.0), 0)
        paths = self.paths_of_map(source)
        if kind == "dcm":
            parts = [part[0] for part in np.split(found, self.form.images)]
            self._write_series(self._series_of_maps[id(volume)], paths, parts, middle.mask, middle, inputs)
        else:
            write_npy(paths[0], found)
        modality = self.plan.options.modality or (middle.images[0].modality if middle.images else None)
        return values.deviation(found[:, counted(middle)], "HU" if kind == "dcm" and modality == "CT" else "")

    def _write_plain(
        self,
        paths: Sequence[Path],
        parts: Sequence[np.ndarray],
        clip: Clip,
        middle: Slice,
        kind: str,
        bits: int | None,
        same_kind: bool,
    ) -> tuple[dict[str, object], dict[str, object]]:
        details: dict[str, object] = {}
        changed = []
        for path, part in zip(paths, parts, strict=True):
            around: np.ndarray | float = clip.lower or 0.0
            if same_kind:  # with as many channels, to stand around a crop
                around = middle.values if len(middle.values) == len(part) else middle.values.mean(0, keepdims=True)
            whole = self._placed(middle.placement, part, around)
            if kind == "npy" and len(whole) == 1:  # (H, W), which is how it usually comes
                write_npy(path, whole[0])
                clipped = 0
            else:
                clipped = write_image(path, whole, kind, bits=bits)
            rounded = _rounding(whole) if bits is not None and kind not in PLAIN_NUMBERS else (0, 0.0)
            changed.append((clipped, *rounded))
            if middle.clip == clip and len(parts) == 1 and whole.shape == middle.values.shape:
                details = self._mean_change(grey(middle.values), grey(whole), middle)
        return details, values.of_file(changed)

    def _write_dicom(
        self,
        volume: Volume,
        paths: Sequence[Path],
        parts: Sequence[np.ndarray],
        clip: Clip,
        middle: Slice,
        inputs: Sequence[Slice],
    ) -> tuple[dict[str, object], dict[str, object]]:
        image, mask, placement = middle.images[0], middle.mask, middle.placement
        around: np.ndarray | float = middle.values
        same_modality = self.plan.options.modality in (None, image.modality)
        if not same_modality and not placement.whole:
            # Values of another modality around the crop would be lies: nothing is known there.
            outside = placement.back(np.zeros((1, placement.height, placement.width)), 1.0)[0] > 0
            mask, around = outside if mask is None else mask | outside, clip.lower or 0.0
        hu = [placement.back(part, around)[0] for part in parts]
        written = self._write_series(self._series[id(volume)], paths, hu, mask, middle, inputs)
        details: dict[str, object] = {}
        if len(parts) == 1 and same_modality and (middle.clip == clip or image.modality == "CT"):
            details = self._mean_change(middle.values[0], hu[0], middle)
        uids = [one.sop_uid for one in written]
        changed = values.of_file([(one.clipped, one.rounded, one.largest) for one in written])
        return {"sop_uid": uids if len(uids) > 1 else uids[0], **details}, changed

    def _write_series(
        self,
        series: Sequence[DerivedSeries],
        paths: Sequence[Path],
        images: Sequence[np.ndarray],
        mask: np.ndarray | None,
        middle: Slice,
        inputs: Sequence[Slice],
    ) -> list[WriteReport]:
        """Write ``images`` (H, W) of one slice, each into one of ``series``. mask: True on padding, or None."""
        sources = [image for one in inputs for image in one.images]
        how = {"mask": mask, "sources": sources, "force": self.force, **middle.geometry}
        return [
            one.write(path, middle.images[0], image, **how)
            for one, path, image in zip(series, paths, images, strict=True)
        ]

    def _write_classes(self, paths: Sequence[Path], scores: np.ndarray, middle: Slice) -> dict[str, object]:
        probabilities = self._placed(middle.placement, softmax(scores), background(self.form.classes))
        labels = probabilities.argmax(0)
        write_image(paths[0], probabilities, "npy")
        write_image(paths[1], labels, "png", bits=8 if self.form.classes <= 256 else 16)
        return {"pixels_of_class": np.bincount(labels.ravel(), minlength=self.form.classes).tolist()}

    def _mean_change(self, before: np.ndarray, after: np.ndarray, middle: Slice) -> dict[str, object]:
        ct = bool(middle.images) and middle.images[0].modality == "CT"
        where = None if middle.mask is None and middle.placement.whole else counted(middle)
        found = values.mean_change(before, after, where, middle.clip, ct)
        return {"mean_change": found} if found else {}

    def _placed(self, placement: Placement, result: np.ndarray, around: np.ndarray | float) -> np.ndarray:
        """``result`` as it is written: in the whole image, or alone."""
        return result if self.form.cropped and placement.spacing is None else placement.back(result, around)


def _described(source: str, application: str, model: Model, number: str) -> str:
    """SeriesDescription: what says which model it was stays whole in its 64 letters, the ``source``'s may not."""
    by = " ".join(filter(None, (application, model.sha256[:8] or model.name, number)))
    return f"{source[: max(64 - len(by) - 1, 0)].rstrip()} {by}".strip()


def _rounding(values: np.ndarray) -> tuple[int, float]:
    """How many of (C, H, W) are rounded for whole numbers, and by how much at most."""
    count, largest = 0, 0.0
    for channel in values:
        for rows in bands(channel.shape):
            off = np.abs(np.rint(channel[rows]) - channel[rows])
            count, largest = count + int(np.count_nonzero(off > ROUNDING)), max(largest, float(off.max()))
    return count, largest


def grey(values: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W): the mean of the channels."""
    return values[0] if len(values) == 1 else values.mean(0)


def counted(middle: Slice) -> np.ndarray:
    """(H, W), True where a pixel of a ``Slice`` was converted and is no padding."""
    place = middle.placement
    inside = place.back(np.ones((1, place.height, place.width), np.float32), 0.0)[0] > 0
    return inside if middle.mask is None else inside & ~middle.mask


def parts_of(unit: np.ndarray, form: Format, clip: Clip, middle: Slice) -> list[np.ndarray]:
    """The images (C, h, w) in the unit of ``clip`` of a result ``unit`` (C', h, w) in [-1, 1], which is overwritten."""
    converted = clip.from_unit(unit, overwrite=True)
    if form.keep and middle.clip == clip and middle.beyond is not None:
        converted += middle.beyond
    return np.split(converted, form.images)


def background(classes: int) -> np.ndarray:
    """(classes, 1, 1) probabilities of what lies around a crop: class 0."""
    return np.eye(classes, 1, dtype=np.float32)[..., np.newaxis]
