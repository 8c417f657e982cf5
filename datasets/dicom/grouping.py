"""Sorting slices into series: one identity, one geometry, each place once, in order along the normal.

Values of a header are compared as what they are: directions, spacing and echo times within rounding, and a value only
separates images at one place where it is no label of single slices (an AcquisitionTime may be another one for each).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np

from medi2i.datasets.dicom.series import MEANING, MEASURED, TIMES, TRAITS, Series, SliceRef

ORIENTATION_TOLERANCE = 2e-3
"""Gap between direction cosines (about 0.1°) that makes two orientations."""
SPACING_TOLERANCE = 1e-3
"""Relative gap that makes two pixel spacings: half a pixel over 512."""
MEASURED_TOLERANCE = 1e-3
"""Relative gap that makes two of a measured value, such as EchoTime."""


def group(slices: Iterable[SliceRef]) -> list[Series]:
    """Sort slices into series: by UID, patient, modality and size, then by orientation and spacing within rounding,
    then by acquisition where several images lie at one place. In the order in which the series were first met."""
    groups: dict[tuple, list[tuple[int, SliceRef]]] = defaultdict(list)
    for number, item in enumerate(slices):
        groups[_identity(item)].append((number, item))
    parts = []
    for members in groups.values():
        for rows in clusters(np.array([_geometry(item) for _, item in members])):
            parts.append([members[row] for row in rows])
    parts.sort(key=lambda part: part[0][0])
    return [_finish(*found) for part in parts for found in _separate([item for _, item in part])]


def _identity(item: SliceRef) -> tuple:
    # A missing UID says nothing: then images of one folder with one number and description belong together.
    identity = (
        (item.series_uid,) if item.series_uid else (item.path.parent, item.study_uid, item.number, item.description)
    )
    unknown = (item.position is None, item.orientation is None, item.spacing is None)
    return (*identity, item.patient, item.modality, item.shape, *unknown)


def _geometry(item: SliceRef) -> tuple[float, ...]:
    """Spacing and orientation in units of their tolerance."""
    spacing = [np.log(v) / SPACING_TOLERANCE for v in item.spacing or (1.0, 1.0)]
    return (*spacing, *(v / ORIENTATION_TOLERANCE for v in item.orientation or (0.0,) * 6))


def clusters(values: np.ndarray) -> list[np.ndarray]:
    """The rows of ``values`` (N, D) that belong together: sorted by any column, none is more than 1 from the next.

    Returns arrays of row numbers, ascending, in the order of their first rows.
    """
    found, pending = [], [np.arange(len(values))] if len(values) else []
    while pending:
        rows = pending.pop()
        for column in values[rows].T if len(rows) > 1 else ():
            order = np.argsort(column, kind="stable")
            cuts = np.flatnonzero(np.diff(column[order]) > 1) + 1
            if len(cuts):
                pending.extend(np.split(rows[order], cuts))
                break
        else:
            found.append(np.sort(rows))
    return sorted(found, key=lambda rows: rows[0])


Rows = list[int]
"""Members of a part, ascending; parts are in the order of their first rows."""


# --- images at one place --------------------------------------------------------------------------------------------


def _separate(members: list[SliceRef]) -> list[tuple[list[SliceRef], list[str]]]:
    """[(members, notes)] with each place once, as far as something tells the images at one place apart."""
    members = _sorted(members)
    places = Series(members).places()
    if places is None or len(places) == 1:
        return [(members, [])]
    once = len(set(places)) == len(places)
    parts = _interleaved(members) if once else _telling(members, places)
    if parts:
        return [found for part in parts for found in _separate([members[row] for row in part])]
    if once:
        return [(members, [])]
    parts, what = _by_order(members, places)
    if len(parts) == 1:
        return [(members, [_repeats(members, places)])]
    note = f"several images at one position, nothing in the headers tells them apart: separated in the order of {what}"
    return [([members[row] for row in part], [note]) for part in parts]


def _sorted(members: list[SliceRef]) -> list[SliceRef]:
    """Along the normal; at one place, or without places, by instance, name and frame."""
    places = Series(members).places()
    keys = [
        (place, item.instance if item.instance is not None else 0, natural(str(item.path)), item.frame)
        for item, place in zip(members, [0] * len(members) if places is None else places, strict=True)
    ]
    return [members[row] for row in sorted(range(len(members)), key=keys.__getitem__)]


def _covers(covered: int, places: int) -> bool:
    """Whether so many of the places are nearly all."""
    return 4 * (places - covered) <= places


def _telling(members: list[SliceRef], places: Sequence[int]) -> list[Rows]:
    """Parts by the first trait that tells images at one place apart; none where there is none.

    Every value of such a trait covers nearly all places. Some may cover a part (an arterial phase of the liver, the
    last volume of a series that was stopped) if most images belong to values that cover all.
    """
    count = len(set(places))
    for parts, keyword in _traits(members):
        if len(parts) < 2:
            continue
        covered = [len({places[row] for row in part}) for part in parts]
        whole = [_covers(n, count) for n in covered]
        images = sum(len(part) for part, full in zip(parts, whole, strict=True) if full)
        fewest = 3 if keyword in MEANING else max(3, count / 4)
        enough = all(full or n >= fewest for full, n in zip(whole, covered, strict=True))
        if all(whole) or (enough and 2 * images >= len(members)):
            return parts
    return []


def _traits(members: list[SliceRef]) -> Iterator[tuple[list[Rows], str]]:
    """(parts of the members, keyword) for each thing that may tell them apart, most telling first."""
    yield _alike([item.study_uid for item in members]), ""
    yield _alike([item.frame_of_reference for item in members]), ""
    yield _beside(members), ""
    for keyword, values in _values(members):
        yield _alike(values, keyword in MEASURED), keyword
    yield _alike([item.path if item.frames > 1 else item.path.parent for item in members]), ""
    yield _alike([item.path.parent for item in members]), ""


def _values(members: list[SliceRef]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """(keyword, the value of each of the members) for each of ``TRAITS``, where they are known."""
    return zip((keyword for _, keyword in TRAITS), zip(*(item.traits for item in members), strict=True), strict=False)


def _alike(values: Sequence[Hashable], measured: bool = False) -> list[Rows]:
    """Rows of each value; measured values that differ by rounding are one."""
    known: dict[Hashable, Hashable] = {value: value for value in values}
    if measured and len(known) > 1:
        numbers = {value: number for value in known if (number := _number(str(value))) is not None}
        told = list(numbers)
        # asinh is a logarithm that takes zero: a gap of the tolerance times the value is 1
        scaled = np.arcsinh(np.array([[number / 1e-6] for number in numbers.values()])) / MEASURED_TOLERANCE
        for cluster in clusters(scaled):
            known.update({told[row]: told[cluster[0]] for row in cluster})
    parts = defaultdict(list)
    for row, value in enumerate(values):
        parts[known[value]].append(row)
    return list(parts.values())


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _beside(members: list[SliceRef]) -> list[Rows]:
    """Parts by where the first pixel lies within its plane: stations of a table, or both sides of a body."""
    axes = np.array(members[0].orientation).reshape(2, 3)
    origins = np.array([item.position for item in members]) @ axes.T
    return [rows.tolist() for rows in clusters(2 * origins / min(members[0].spacing or (1.0,)))]


def _interleaved(members: list[SliceRef]) -> list[Rows]:
    """Stacks that lie between each other, each with even steps; none where the members are one stack.

    Steps of the whole that are even make one stack of them, unless the images mean different things (echoes, kernels).
    """
    heights = np.array(Series(members).heights())
    if len(members) < 6:
        return []
    whole = _even(heights)
    for keyword, values in _values(members):
        if whole and keyword not in MEANING:
            continue
        parts = _alike(values, keyword in MEASURED)
        stacks = [heights[part] for part in parts]
        if len(stacks) < 2 or not all(len(stack) >= 3 and _even(stack) for stack in stacks):
            continue
        shared = min(stack[-1] for stack in stacks) - max(stack[0] for stack in stacks)
        if 2 * shared >= max(stack[-1] - stack[0] for stack in stacks):
            return parts
    return []


def _even(heights: np.ndarray) -> bool:
    steps = np.diff(heights)
    distance = float(np.median(steps))
    return bool(np.all(np.abs(steps - distance) <= max(0.01, 0.02 * distance)))


def _by_order(members: list[SliceRef], places: Sequence[int]) -> tuple[list[Rows], str]:
    """Parts of images that only their order tells apart, and what the order is; a single part where places are
    repeated here and there, which makes no second volume. The members are sorted by their places."""
    count = len(set(places))
    for what, keys in _orders(members):
        parts = _runs(sorted(range(len(members)), key=keys.__getitem__), places)
        if len(parts) > 1 and all(_covers(len(part), count) for part in parts):
            return parts, what
    _, first, place = np.unique(places, return_index=True, return_inverse=True)
    layers = np.arange(len(places)) - first[place]  # 0 for the first image at a place, 1 for the next
    sizes = np.bincount(layers)
    last = max(sum(_covers(size, count) for size in sizes) - 1, 0)
    # A layer of a few images only repeats some of the last whole one.
    kept = np.where((layers <= last) | ((4 * sizes[layers] >= count) & (last > 0)), layers, last)
    return _alike(kept.tolist()), "instance number"


def _orders(members: list[SliceRef]) -> Iterator[tuple[str, list]]:
    for keyword, values in _values(members):
        times = [_number(value) for value in values] if keyword in TIMES else [None]
        if None not in times and len(set(times)) > 1:
            yield keyword, times
    instances = [item.instance for item in members]
    if None not in instances:
        yield "instance number", instances
    yield "name", [(natural(str(item.path)), item.frame) for item in members]


def _runs(order: Iterable[int], places: Sequence[int]) -> list[Rows]:
    """Rows met in ``order``: a new part whenever a place comes again."""
    parts: list[Rows] = [[]]
    seen: set[int] = set()
    for row in order:
        if places[row] in seen:
            parts.append([])
            seen = set()
        seen.add(places[row])
        parts[-1].append(row)
    return sorted(sorted(part) for part in parts)


def _repeats(members: list[SliceRef], places: Sequence[int]) -> str:
    again = [row for row in range(1, len(members)) if places[row] == places[row - 1]]
    first, second = members[again[0] - 1], members[again[0]]
    return (
        f"{len(again)} image(s) repeat the place of another, both are kept (the first: {second.path.name} lies where "
        f"{first.path.name} does)"
    )


def natural(name: str) -> tuple:
    """Key that sorts slice2 before slice10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name))


def _finish(members: list[SliceRef], notes: list[str]) -> Series:
    series = Series(members, list(notes))
    counts = Counter(note for item in members for note in item.warnings)
    series.warnings.extend(
        note if n == len(members) else f"{note} ({n} of {len(members)} slices)" for note, n in counts.items()
    )
    series.warnings.extend(_geometry_notes(series))
    frames = {item.frame_of_reference for item in members} - {""}
    if len(frames) > 1:
        series.warnings.append(f"{len(frames)} FrameOfReferenceUIDs in one series: are the positions comparable?")
    uids = [s.sop_uid for s in members if s.sop_uid and s.frames == 1]
    if len(set(uids)) < len(uids):
        series.warnings.append(f"{len(uids) - len(set(uids))} slices repeat the SOPInstanceUID of another")
    return series


def _geometry_notes(series: Series) -> Iterator[str]:
    distance, steps, normal, members = series.slice_distance, series.steps(), series.normal, series.slices
    if distance is None or steps is None or normal is None or len(members) < 3:
        return
    odd = int(np.sum(np.abs(steps - distance) > max(0.01, 0.02 * distance)))
    if odd:
        yield f"uneven slice distance: {odd} of {len(steps)} steps are not {distance:g} mm (missing slices?)"
    tilt = np.array(members[-1].position) - np.array(members[0].position)
    if abs(tilt @ normal) < 0.9999 * np.linalg.norm(tilt):
        yield "slices are shifted against each other (gantry tilt?)"
