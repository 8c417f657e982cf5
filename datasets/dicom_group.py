"""Sorting slices into series: one acquisition, one geometry, each place once, in order along the normal."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from medi2i.datasets.dicom_series import TRAITS, Series, SliceRef


def group(slices: Iterable[SliceRef]) -> list[Series]:
    """Sort slices into series: by UID, modality, size, spacing, orientation and frame of reference, then by
    acquisition where several images lie at one place. In the order in which the series were first met."""
    groups: dict[tuple, list[SliceRef]] = defaultdict(list)
    for item in slices:
        groups[_geometry_key(item)].append(item)
    return [series for members in groups.values() for series in _separate(members)]


def _geometry_key(item: SliceRef) -> tuple:
    # A missing UID says nothing: then images of one folder with one number and description belong together.
    identity = (
        (item.series_uid,) if item.series_uid else (item.path.parent, item.study_uid, item.number, item.description)
    )
    spacing = item.spacing and tuple(round(v, 4) for v in item.spacing)
    orientation = item.orientation and tuple(round(v, 3) + 0.0 for v in item.orientation)
    return (
        *identity,
        item.patient,
        item.modality,
        item.shape,
        spacing,
        orientation,
        item.position is None,
        item.frame_of_reference,
    )


def _separate(members: list[SliceRef]) -> list[Series]:
    """One series where each place occurs once; else split by the first trait that separates, else by order of the
    instances."""
    members = _sorted(members)
    if members[0].height is None or not _repeats(members):
        return [_finish(members)]
    candidates = [lambda s, i=i: s.traits[i] for i in range(len(TRAITS)) if members[0].traits]
    candidates.append(lambda s: s.traits)
    candidates.append(lambda s: s.path if s.frames > 1 else s.path.parent)
    for key in candidates:
        parts = defaultdict(list)
        for item in members:
            parts[key(item)].append(item)
        if len(parts) > 1 and not any(_repeats(part) for part in parts.values()):
            return [_finish(part) for part in parts.values()]
    layers: list[list[SliceRef]] = []
    count: dict[int, int] = defaultdict(int)
    for item in members:
        place = round(item.height * 1000)
        if count[place] == len(layers):
            layers.append([])
        layers[count[place]].append(item)
        count[place] += 1
    note = "several images at one position, nothing in the headers tells them apart: separated by instance number"
    return [_finish(layer, note) for layer in layers]


def _repeats(members: Sequence[SliceRef]) -> bool:
    heights = [round(item.height * 1000) for item in members]
    return len(set(heights)) < len(heights)


def _sorted(members: list[SliceRef]) -> list[SliceRef]:
    def order(item: SliceRef) -> tuple:
        height = 0.0 if item.height is None else round(item.height, 3)
        instance = item.instance if item.instance is not None else 0
        return height, instance, natural(str(item.path)), item.frame

    return sorted(members, key=order)


def natural(name: str) -> tuple:
    """Key that sorts slice2 before slice10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name))


def _finish(members: list[SliceRef], *notes: str) -> Series:
    series = Series(members, list(notes))
    counts: dict[str, int] = defaultdict(int)
    for item in members:
        for note in item.warnings:
            counts[note] += 1
    series.warnings.extend(
        note if n == len(members) else f"{note} ({n} of {len(members)} slices)" for note, n in counts.items()
    )
    distance = series.slice_distance
    if distance is not None and len(members) > 2:
        steps = np.diff([s.height for s in members])
        odd = int(np.sum(np.abs(steps - distance) > max(0.01, 0.02 * distance)))
        if odd:
            series.warnings.append(
                f"uneven slice distance: {odd} of {len(steps)} steps are not {distance:g} mm (missing slices?)"
            )
        tilt = np.array(members[-1].position) - np.array(members[0].position)
        if abs(tilt @ members[0].normal) < 0.9999 * np.linalg.norm(tilt):
            series.warnings.append("slices are shifted against each other (gantry tilt?)")
    uids = [s.sop_uid for s in members if s.sop_uid and s.frames == 1]
    if len(set(uids)) < len(uids):
        series.warnings.append(f"{len(uids) - len(set(uids))} slices repeat the SOPInstanceUID of another")
    return series
