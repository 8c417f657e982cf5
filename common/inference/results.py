"""Where a result goes, and how it is written: DICOM as a derived series, classes as labels, all else as it came."""

import dataclasses
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference import values
from medi2i.common.resources import bands
from medi2i.datasets.dicom.derived_series import DerivedSeries
from medi2i.datasets.dicom.encoding import ROUNDING
from medi2i.datasets.dicom.header_checks import VOLUME_MODALITIES
from medi2i.datasets.dicom.reading import open_file
from medi2i.datasets.kinds import KINDS, PLAIN_NUMBERS, SUFFIXES, name_without_suffix
from medi2i.datasets.outputs import whole_file
from medi2i.datasets.scaling import Clip, default_clip
from medi2i.datasets.writing import write_image


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a DICOM result says of how it was made.

    options: all that decides the pixels beside the model; it enters the UIDs.
    """

    model_name: str
    model_sha256: str
    description: str
    options: dict
    modality: str | None


@dataclasses.dataclass(frozen=True)
class Format:
    """What results look like.

    kind: of the files, None for the input's own. clip: the values that -1 and 1 stand for, None for the default of the
    kind of image (``dicom_clip`` for DICOM). classes: above 0, results are class scores, written as probabilities (npy)
    and labels (png). images: results of one slice. numbers: the clip of results that are no whole numbers, where none
    is given. cropped: results are of the network's crop only; DICOM keeps its size in any case. keep: where the input
    lies outside of the network's clip, the result is the input plus the change at the clip's end.
    """

    kind: str | None
    clip: Clip | None
    dicom_clip: Clip
    classes: int = 0
    images: int = 1
    numbers: Clip = Clip()
    cropped: bool = False
    keep: bool = False

    def kind_for(self, source):
        """The kind in which the result of ``source`` is written. Raises UserError where that cannot be."""
        kind = self.kind or source.kind
        if kind == "gif":  # 256 colours cannot hold a result
            kind = "png"
        if kind == "dcm" and source.kind != "dcm":
            raise UserError(
                f"--imgtype_out dcm: {source.name} is no DICOM file, so there is no patient, position or "
                "study to write; --imgtype_out npy, tif or png would do"
            )
        if kind not in KINDS:
            raise UserError(f"--imgtype_out: {kind!r} cannot be written; it can be {', '.join(KINDS)}")
        return kind

    def is_dicom(self, source):
        """Whether the result of ``source`` is DICOM. Raises UserError as ``kind_for``."""
        return not self.classes and self.kind_for(source) == "dcm"

    def clip_for(self, kind, bits):
        """The Clip of results of ``kind`` with ``bits`` (as in ``Image``)."""
        if self.clip is not None or kind == "dcm":
            return self.clip or self.dicom_clip
        default = default_clip(kind, bits)
        return default if default.scales else self.numbers

    def bits_for(self, kind, source, bits):
        """Bits of results of ``kind`` where the ``source`` has ``bits`` (as in ``Image``): as many, if it holds them.

        TIFF holds numbers of no integer type, too, if they are not stretched to the range of a picture.
        """
        if kind == source.kind or kind in ("png", "tif") and bits == 16:
            return bits
        return None if kind == "tif" and bits is None and self.clip is not None else 8

    def names(self, source):
        """The files of a result, below the output folder: tuple of text with / between folders."""
        kind = self.kind_for(source) if not self.classes else None
        stem = name_without_suffix(source.name, source.kind)
        frame = "" if source.frames == 1 else f"_{source.frame + 1:04d}"
        if self.classes:
            return f"{stem}{frame}.npy", f"{stem}{frame}.png"
        suffix = source.name[len(stem) :] if kind == source.kind else SUFFIXES[kind][0]
        numbers = [""] if self.images == 1 else [f"_{i + 1}" for i in range(self.images)]
        return tuple(f"{stem}{frame}{number}{suffix}" for number in numbers)


class Results:
    """Writes the results of one conversion of ``volumes`` below ``folder``; existing files only with ``force``."""

    def __init__(self, folder, form: Format, provenance: Provenance, volumes, force):
        self.folder, self.form, self.provenance, self.force = Path(folder), form, provenance, force
        self._uids = Counter(volume.series.uid for volume in volumes if volume.series is not None)
        self._numbers = {
            (volume.series.slices[0].study_uid, volume.series.number) for volume in volumes if volume.series is not None
        }
        self._series = {}

    def paths(self, source):
        """The files that the result of ``source`` will have."""
        return tuple(self.folder / PurePosixPath(name) for name in self.form.names(source))

    def named(self, source):
        """The same for the report: their names below the folder, one as text, several as a list."""
        names = self.form.names(source)
        return names[0] if len(names) == 1 else list(names)

    def begin(self, volume):
        """Get ready for the slices of a volume: a DICOM series gets its new UID from its first slice."""
        if self.is_dicom(volume):
            self._series[id(volume)] = self.derived(volume)

    def is_dicom(self, volume):
        """Whether the results of a volume are DICOM."""
        return volume.series is not None and self.form.is_dicom(volume.sources[0])

    def derived(self, volume, prefix="", more=None, **how):
        """The DerivedSeries of a DICOM volume, one for each image of a result.

        prefix: of the description. more: dict of what else decides the pixels. how: further arguments of DerivedSeries.
        """
        first = volume.series.slices[0]
        header = open_file(first.path, VOLUME_MODALITIES, None).parsed.dataset
        about, clip = self.provenance, self.form.clip_for("dcm", None)
        # Several volumes of one UID (two sizes, two echoes) must not become one.
        part = [first.sop_uid, first.frame, first.position] if self._uids[volume.series.uid] > 1 else None
        made = [
            DerivedSeries(
                header,
                model_name=about.model_name,
                model_sha256=about.model_sha256,
                description=_described(" ".join(filter(None, (prefix, volume.series.description))), about, number),
                options={**about.options, "output": number, "part": part, **(more or {})},
                modality=about.modality,
                value_range=(clip.lower, clip.upper) if clip.scales else None,
                **how,
            )
            for number in ([""] if self.form.images == 1 else [str(i + 1) for i in range(self.form.images)])
        ]
        for series in made:
            while (first.study_uid, series.number) in self._numbers:  # of what there is in the study
                series.number = (series.number + 1) % 2**31
        return made

    def write(self, volume, source, unit, middle, inputs):
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
        converted = clip.from_unit(unit, overwrite=True)
        kept = self.form.keep and middle.clip == clip
        if kept and middle.beyond is not None:
            converted += middle.beyond
        parts = np.split(converted, self.form.images)
        if kind == "dcm":
            details, written = self._write_dicom(volume, paths, parts, clip, middle, inputs)
        else:
            details, written = self._write_plain(paths, parts, clip, middle, kind, bits, kind == source.kind)
        changed = {**values.outside_of(middle, kept), **written}
        return {**details, **({"values": changed} if changed else {})}

    def _write_plain(self, paths, parts, clip, middle, kind, bits, same_kind):
        details, clipped, rounded, largest = {}, 0, 0, 0.0
        for path, part in zip(paths, parts, strict=True):
            around = _as_channels(middle.values, len(part)) if same_kind else clip.lower or 0.0
            whole = self._placed(middle.placement, part, around)
            clipped += _write_plain(path, whole, kind, bits)
            if bits is not None and kind not in PLAIN_NUMBERS:
                count, farthest = _rounding(whole)
                rounded, largest = rounded + count, max(largest, farthest)
            if middle.clip == clip and len(parts) == 1 and whole.shape == middle.values.shape:
                details = self._mean_change(grey(middle.values), grey(whole), middle, clip)
        return details, values.of_file(clipped, rounded, largest)

    def _mean_change(self, before, after, middle, clip):
        ct = bool(middle.images) and middle.images[0].modality == "CT"
        where = None if middle.mask is None and middle.placement.whole else counted(middle)
        found = values.mean_change(before, after, where, clip, ct)
        return {"mean_change": found} if found else {}

    def _placed(self, placement, result, around):
        """``result`` as it is written: in the whole image, or alone."""
        return result if self.form.cropped and placement.spacing is None else placement.back(result, around)

    def _write_dicom(self, volume, paths, parts, clip, middle, inputs):
        image, mask = middle.images[0], middle.mask
        around = middle.values
        if self.provenance.modality not in (None, image.modality) and not middle.placement.whole:
            # Values of another modality around the crop would be lies: nothing is known there.
            outside = middle.placement.back(np.zeros((1, middle.placement.height, middle.placement.width)), 1.0)[0] > 0
            mask, around = outside if mask is None else mask | outside, clip.lower
        sources = [image for one in inputs for image in one.images]
        clipped, rounded, largest, uids, details = 0, 0, 0.0, [], {}
        for series, path, part in zip(self._series[id(volume)], paths, parts, strict=True):
            hu = middle.placement.back(part, around)[0]
            written = series.write(path, image, hu, mask=mask, sources=sources, force=self.force, **middle.geometry)
            clipped, rounded = clipped + written.clipped, rounded + written.rounded
            largest = max(largest, written.largest)
            uids.append(written.sop_uid)
            if (
                len(parts) == 1
                and self.provenance.modality in (None, image.modality)
                and (middle.clip == clip or image.modality == "CT")
            ):
                details = self._mean_change(middle.values[0], hu, middle, middle.clip)
        return {"sop_uid": uids if len(uids) > 1 else uids[0], **details}, values.of_file(clipped, rounded, largest)

    def _write_classes(self, paths, scores, middle):
        probabilities = softmax(scores)
        background = np.zeros((len(scores), 1, 1), np.float32)
        background[0] = 1
        probabilities = self._placed(middle.placement, probabilities, background)
        labels = probabilities.argmax(0)
        write_image(paths[0], probabilities, "npy")
        write_image(paths[1], labels, "png", bits=8 if self.form.classes <= 256 else 16)
        return {"pixels_of_class": np.bincount(labels.ravel(), minlength=self.form.classes).tolist()}


def _described(source, about, number):
    """SeriesDescription: what says which model it was stays whole in its 64 letters, the ``source``'s may not."""
    model = " ".join(filter(None, (about.description, about.model_sha256[:8] or about.model_name, number)))
    room = max(64 - len(model) - 1, 0)
    return f"{source[:room].rstrip()} {model}".strip()


def _write_plain(path, array, kind, bits):
    """As ``write_image``; one channel of npy becomes (H, W), which is how it usually comes."""
    if kind == "npy" and len(array) == 1:
        with whole_file(path, force=True) as temporary, open(temporary, "wb") as file:
            np.save(file, array[0])
        return 0
    return write_image(path, array, kind, bits=bits)


def _rounding(values):
    """How many of (C, H, W) are rounded for whole numbers, and by how much at most."""
    count, largest = 0, 0.0
    for channel in values:
        for rows in bands(channel.shape):
            off = np.abs(np.rint(channel[rows]) - channel[rows])
            count, largest = count + int(np.count_nonzero(off > ROUNDING)), max(largest, float(off.max()))
    return count, largest


def grey(values):
    """(C, H, W) -> (H, W): the mean of the channels."""
    return values[0] if len(values) == 1 else values.mean(0)


def counted(middle):
    """(H, W), True where a pixel of a ``Slice`` was converted and is no padding."""
    place = middle.placement
    inside = place.back(np.ones((1, place.height, place.width), np.float32), 0.0)[0] > 0
    return inside if middle.mask is None else inside & ~middle.mask


def softmax(scores):
    """(C, H, W) scores -> probabilities of the classes, adding up to 1 along the first axis."""
    shifted = np.exp(scores - scores.max(0))
    return shifted / shifted.sum(0)


def _as_channels(values, count):
    """The source's values with ``count`` channels, to stand around a crop."""
    return values if len(values) == count else values.mean(0, keepdims=True)
