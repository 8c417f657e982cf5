"""What a denoiser did to images, measured without a truth: the input and the result are all that is needed.

Tissue means must stay, noise must fall and keep its texture, edges must stay as sharp, and the difference image must
hold noise and no anatomy. Low-contrast inserts (discs put into the input and looked for in the result) tell what the
network does to faint lesions; for these the network itself is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, laplace

from medi2i.common.inference import values
from medi2i.common.inference.edges import SQUARE, correlation, edges, spread
from medi2i.datasets.noise_level import SIDE, Noise, NoiseMeter, corner_of, uniform_squares
from medi2i.datasets.scaling import Clip
from medi2i.tools.evaluation.physics import STEP_CT, EdgeMeter
from medi2i.tools.evaluation.table import Verdict

INPUT, RESULT = "input", "result"

MEAN_HU = 1.0  # of a tissue's mean
EDGE_SHARE = 0.05  # of the width of edges
FREQUENCY_SHARE = 0.3  # of the mean frequency of noise: below, it becomes blotchy
ANATOMY = 0.2  # correlation of the difference with the curvature of edges; blurring an edge by a pixel has 0.4 and more
KEPT = 0.8  # of the contrast of an insert that a reader would look for

BODY_HU = -500.0
LEAST_GRADIENT = 15.0  # HU / pixel of the smoothed result: an edge of anatomy
STRUCTURE = 2.0  # pixels (sd): a change that is as wide as this is no single pixel's noise

CONTRASTS = (10.0, 20.0, 40.0)  # HU; above and below the tissue by turns
DIAMETERS = (3.0, 6.0)  # mm
LOOKED_FOR = (20.0, 6.0)  # contrast and diameter that are judged
INSERTS = 8  # of a slice, at most
APART = 32  # pixels between two of them


@dataclass(frozen=True)
class Change:
    """Of one slice. rms: of the difference in HU; anatomy: correlation of it with the curvature of edges.
    structure: HU, the largest change that is wider than a pixel, at (row, column). noise_in, noise_out: HU, None where
    not measured, as is anatomy."""

    name: str
    rms: float
    anatomy: float | None
    structure: float
    row: int
    column: int
    noise_in: float | None
    noise_out: float | None


@dataclass(frozen=True)
class Insert:
    """contrast in HU and diameter in mm; kept: share of the contrast in the result, the mean of ``count`` discs."""

    contrast: float
    diameter: float
    kept: float
    count: int


@dataclass
class Safety:
    """Of one series. means: tissue -> change of the mean in HU. edge: 10–90 % width before and after, ``unit``; nan
    where there is no clean step. slices: the most changed first. unknown: what lies outside of what the model knows."""

    name: str
    before: Noise | None
    after: Noise | None
    means: dict[str, float]
    edge: tuple[float, float]
    unit: str
    slices: list[Change]
    inserts: list[Insert] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def anatomy(self) -> float:
        """Mean over the slices."""
        return float(np.mean([one.anatomy for one in self.slices if one.anatomy is not None]))

    def verdicts(self) -> list[Verdict]:
        """Sentences for people, each with whether it is a reason to look."""
        told = [Verdict(f"outside of what the model has seen: {what}", True) for what in self.unknown]
        if self.before is not None and self.after is not None:
            told += _of_noise(self.before, self.after)
        largest = max(self.means.items(), key=lambda item: abs(item[1]), default=None)
        if largest is not None:
            name, change = largest
            told.append(Verdict(f"means of tissues: largest change {change:+.1f} HU, in {name}", abs(change) > MEAN_HU))
        before, after = self.edge
        if before > 0 and after > 0:
            share = after / before - 1
            told.append(
                Verdict(
                    f"edges: {before:.2f} → {after:.2f} {self.unit} ({share:+.1%}), from 10 to 90 % of steps above "
                    f"{STEP_CT:g} HU",
                    abs(share) > EDGE_SHARE,
                )
            )
        told.append(
            Verdict(
                f"difference image: correlation with edges {self.anatomy:.2f} (0: no anatomy in it)",
                self.anatomy > ANATOMY,
            )
        )
        for one in self.inserts:
            if (one.contrast, one.diameter) == LOOKED_FOR:
                text = (
                    f"discs of {one.diameter:g} mm and {one.contrast:g} HU put into the input: {one.kept:.0%} of the "
                )
                told.append(Verdict(text + f"contrast is in the result ({one.count} discs)", one.kept < KEPT))
        return told


def _of_noise(before: Noise, after: Noise) -> list[Verdict]:
    told = [Verdict(f"noise: {before.level:.1f} → {after.level:.1f} HU", after.level >= before.level > 0)]
    ratio = after.mean_frequency / before.mean_frequency
    if np.isfinite(ratio):
        told.append(
            Verdict(
                f"texture of what noise is left: mean frequency {before.mean_frequency:.2f} → "
                f"{after.mean_frequency:.2f} / pixel ({ratio - 1:+.0%}; lower is blotchier)",
                abs(ratio - 1) > FREQUENCY_SHARE,
            )
        )
    return told


class SafetyMeter:
    """Add the slices of a series, before and after, then ask. spacing: (row, column) in mm, None where not known."""

    def __init__(self, name: str, spacing: tuple[float, float] | None) -> None:
        self.name, self.spacing = name, spacing
        self._before, self._after, self._edges = NoiseMeter(), NoiseMeter(), EdgeMeter(STEP_CT)
        self._means: dict[str, values.Found] = {}
        self._slices: list[Change] = []

    def add(
        self, name: str, before: np.ndarray, after: np.ndarray, mask: np.ndarray | None = None, whole: bool = True
    ) -> None:
        """A slice (H, W) in HU, as it went in and came out; ``mask``: True on padding; ``whole``: all is measured."""
        where = None if mask is None else ~mask
        self._means[name] = values.mean_change(before, after, where, Clip(), True)
        difference = np.asarray(after, np.float32) - before
        if mask is not None:
            difference = np.where(mask, np.float32(0), difference)
        wide = np.abs(gaussian_filter(difference, STRUCTURE))
        body = gaussian_filter(np.asarray(after, np.float32), STRUCTURE) > BODY_HU
        if body.any():  # noise of the air around it is of no concern
            wide *= body
        row, column = np.unravel_index(int(wide.argmax()), wide.shape)
        levels: tuple[float | None, float | None] = None, None
        anatomy = None
        if whole:
            levels = self._before.add(before, mask), self._after.add(after, mask, like=before)
            self._edges.add(after, {INPUT: before, RESULT: after}, where)
            anatomy = anatomy_in(difference, after)
        self._slices.append(
            Change(
                name,
                float(np.sqrt(np.mean(np.square(difference, dtype=np.float64)))),
                anatomy,
                float(wide[row, column]),
                int(row),
                int(column),
                *levels,
            )
        )

    def result(self) -> Safety:
        """All of it."""
        square = self.spacing is not None and abs(self.spacing[0] / self.spacing[1] - 1) < 0.01
        pixel = self.spacing[0] if square and self.spacing is not None else 1.0
        widths = [self._edges.distance(name) * pixel if self._edges.count else float("nan") for name in (INPUT, RESULT)]
        means = dict(values.summary({}, self._means).get("mean_change", {}))
        return Safety(
            self.name,
            self._before.result(),
            self._after.result(),
            {name: change for name, change in means.items() if name != "all"},
            (widths[0], widths[1]),
            "mm" if square else "pixel",
            sorted(self._slices, key=lambda one: -one.structure),
        )


def anatomy_in(difference: np.ndarray, after: np.ndarray) -> float:
    """Correlation of a difference image (H, W) with the curvature of the result ``after`` at its edges.

    To first order a blurred image is the image plus half the variance of the blur times its Laplacian: what a smoothed
    edge leaves in the difference is proportional to it, noise is not. 0 where there is no edge.
    """
    smooth = gaussian_filter(np.asarray(after, np.float32), 1.0)
    clear = spread(edges(after) > LEAST_GRADIENT, SQUARE, after.shape)
    where = clear & (gaussian_filter(smooth, 3.0) > BODY_HU)
    if np.count_nonzero(where) < SIDE or not difference.any():
        return 0.0
    return correlation(difference[where][None], laplace(smooth)[where][None])


# --- low-contrast inserts ---------------------------------------------------------------------------------------------


def find_inserts(
    slices: Sequence[np.ndarray], spacing: tuple[float, float], translate: Callable[[np.ndarray], np.ndarray]
) -> list[Insert]:
    """Put discs into ``slices`` (H, W) in HU where they are uniform, and look for them in what ``translate`` makes of
    these: the share of the contrast by a matched filter, on the difference to the result without discs.

    spacing: (row, column) in mm. translate: slice (H, W) in HU -> its result.
    """
    plain = [translate(hu) for hu in slices]
    found = []
    for diameter in DIAMETERS:
        for contrast in CONTRASTS:
            kept: list[float] = []
            for hu, result in zip(slices, plain, strict=True):
                discs = [
                    (sign * contrast, _disc(hu.shape, centre, diameter, spacing)) for centre, sign in insert_places(hu)
                ]
                if not discs:
                    continue
                inserted = hu + sum(amount * disc for amount, disc in discs)
                change = translate(inserted.astype(np.float32)) - result
                kept += [float((change * disc).sum() / (amount * (disc**2).sum())) for amount, disc in discs]
            if kept:
                found.append(Insert(contrast, diameter, float(np.mean(kept)), len(kept)))
    return found


def insert_places(hu: np.ndarray) -> list[tuple[tuple[float, float], int]]:
    """(centre, sign) of the inserts of a slice (H, W): in its most uniform soft tissue, apart from each other."""
    if min(hu.shape) < SIDE:
        return []
    chosen, tissue = uniform_squares(hu, None)
    places: list[tuple[float, float]] = []
    for number in chosen if tissue else []:
        row, column = corner_of(number, hu.shape)
        centre = row + (SIDE - 1) / 2, column + (SIDE - 1) / 2
        if all(max(abs(centre[0] - a), abs(centre[1] - b)) >= APART for a, b in places):
            places.append(centre)
    return [(place, 1 if number % 2 else -1) for number, place in enumerate(places[:INSERTS])]


def _disc(
    shape: tuple[int, ...], centre: tuple[float, float], diameter: float, spacing: tuple[float, float]
) -> np.ndarray:
    """Share of each pixel (H, W) that a disc covers, about."""
    rows, columns = np.indices(shape, dtype=np.float32)
    distance = np.hypot((rows - centre[0]) * spacing[0], (columns - centre[1]) * spacing[1])
    return np.clip((diameter / 2 - distance) / min(spacing) + 0.5, 0, 1)
