"""Pairs for denoising without clean images: the neighbouring slice as target, or pixels that the network cannot see.

Where slices do not overlap their noise is independent, so that a network that is to make one from the other can only
learn what both have in common, the anatomy (Noise2Noise, Lehtinen et al., 2018; between slices Noise2Sim, Niu et al.,
2022). Where the anatomy moved, the target is nan and does not count. White noise is independent from pixel to pixel,
too: a pixel that is replaced by a neighbour and asked for is learned from those around it (Noise2Void, Krull et al.,
2019); the noise of most CT is not white.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from medi2i.common.errors import UserError
from medi2i.datasets import paired
from medi2i.datasets.augment import Uncut
from medi2i.datasets.catalogue import Source, describe, sources_in
from medi2i.datasets.noise_level import NoiseMeter, squares_of, uniform_squares
from medi2i.datasets.pairs import FOLDERS, Pair, locate_list, read_list
from medi2i.datasets.reading import read_image
from medi2i.datasets.scaling import Clip

if TYPE_CHECKING:
    from medi2i.common.options import PairedOptions

NEIGHBOURS, BLIND = "neighbours", "blind"
SHARED = 0.35  # correlation of the noise of neighbouring slices, which the network learns to keep
OVERLAP = 0.8  # distance of slices, of their thickness: nearer ones overlap
SMOOTHINGS = (0.0, 1.0, 2.0)  # pixels (sd) over which neighbouring slices are compared
MOVED = 4.0  # times the usual difference of two slices: anatomy that is another
CHECKED = 8  # slices whose noise is measured
BLIND_SHARE = 1 / 64  # of the pixels
REACH = 2  # pixels, from where a blind one is filled
MISSING = 1.5  # times the distance of slices: one is missing between them


class SelfSupervised(paired.PairedDataset):
    """Examples (x, t) as of ``PairedDataset``, of which t is nan where it does not count. ``build`` makes it.

    Pairs are neighbouring slices, or for ``BLIND`` each image with itself. What does not count is decided on the whole
    slice; without a random generator, as for pictures, all of t is there.
    """

    def __init__(self, pairs: paired.PairedDataset, targets: str, usual: dict[int, list[float]]):
        super().__init__(
            pairs.images,
            pairs.domain_in,
            pairs.domain_out,
            stack=1,
            size=pairs.size,
            augmentation=dataclasses.replace(pairs.augmentation, noise=0.0),
        )
        self.targets, self.usual = targets, usual
        self.beside: dict[tuple[int, int], list[Source]] = defaultdict(list)
        """Of a slice, by its group and place: those that are its targets."""
        for pair in pairs.images:
            self.beside[pair.inputs[0].group, pair.inputs[0].place].append(pair.outputs[0])

    def parts(self, index: int, rng: np.random.Generator | None) -> tuple[Uncut, Uncut]:
        """x and t of example ``index``. Raises Unreadable."""
        x, t = self.whole(index, rng)
        draw = self.draw(rng, (x.shape[1:], self.size))
        return Uncut(x, Clip(), draw, self.size), Uncut(t, Clip(), draw, self.size, outside=np.nan)

    def whole(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """(x, t) of the whole slice."""
        (pair,) = self.members(index)
        x = self.domain_in.unit(pair.inputs[0])
        if self.targets == BLIND:
            return (x, x.copy()) if rng is None else blind(x, rng)
        t = self.domain_out.unit(pair.outputs[0])
        if rng is None:
            return x, t
        source, unit = pair.inputs[0], self.domain_in.clip.width / 2
        usual = self.usual.get(source.group)
        others = [self.domain_out.unit(one) for one in self.beside[source.group, source.place]]
        another = moved(x, others, None if usual is None else [one / unit for one in usual])
        return x, np.where(another, np.float32(np.nan), t)


def moved(x: np.ndarray, others: Sequence[np.ndarray], usual: Sequence[float] | None = None) -> np.ndarray:
    """bool (1, H, W): where one of the ``others`` shows other anatomy than ``x``. All (1, H, W).

    That is where both differ by more than ``MOVED`` standard deviations, as they are (fine structure) or smoothed (what
    is wider and fainter). One of the others is enough: where bone comes nearer from slice to slice, the next one
    differs by more than that and the last one by less, and alone it would teach that there is less bone here. usual:
    these deviations for each of ``SMOOTHINGS``; None: from the median of these slices, most of which is then taken to
    be the same. Noise alone passes the limit too rarely to matter.
    """
    found = np.zeros(x.shape, bool)
    for other in others:
        for number, change in enumerate(_smoothed(other[0] - x[0])):
            if usual is not None:
                found |= np.abs(change) > MOVED * usual[number]
            elif change.any():
                found |= np.abs(change) > MOVED * np.median(np.abs(change[change != 0])) / 0.6745
    return found


def _smoothed(difference: np.ndarray) -> Iterator[np.ndarray]:
    for smoothing in SMOOTHINGS:
        yield gaussian_filter(difference, smoothing) if smoothing else difference


def usual_changes(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Standard deviations in HU of what lies between neighbouring slices (H, W) where they are uniform, for each of
    ``SMOOTHINGS``."""
    found = []
    for one, other in pairs:
        chosen = uniform_squares(one, None)[0]
        found.append([np.median((squares_of(change)[chosen] ** 2).mean((1, 2))) for change in _smoothed(other - one)])
    return np.sqrt(np.median(found, axis=0)).tolist()


def blind(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(x with some pixels replaced by ones nearby, their values and nan elsewhere); (1, H, W) each."""
    height, width = x.shape[1:]
    rows, columns = np.nonzero(rng.random((height, width)) < BLIND_SHARE)
    steps = rng.integers(-REACH, REACH + 1, (2, len(rows)))
    steps[0, (steps == 0).all(axis=0)] = 1
    t = np.full_like(x, np.nan)
    t[0, rows, columns] = x[0, rows, columns]
    filled = x.copy()
    filled[0, rows, columns] = x[0, _inside(rows + steps[0], height), _inside(columns + steps[1], width)]
    return filled, t


def _inside(places: np.ndarray, size: int) -> np.ndarray:
    """Mirrored at the border."""
    return np.abs(np.where(places >= size, 2 * size - 2 - places, places))


def build(options: "PairedOptions", *, multiple: int = 1) -> SelfSupervised:
    """The training data of PairedOptions with ``--targets``, as ``paired.build`` has it for pairs. Raises UserError."""
    if options.stack > 1 or options.class_num or options.scale > 1:
        raise UserError(
            f"--targets {options.targets}: makes images of images, not with --stack, --class_num or --scale"
        )
    if options.lambda_rec_l1 + options.lambda_rec_l2 == 0 or options.lambda_dis > 0:
        raise UserError(f"--targets {options.targets}: is for --lambda_rec_l2 or --lambda_rec_l1 and --lambda_dis 0")
    for name in ("normalise", "clip"):
        a, b = (vars(options)[name + domain] for domain in "AB")
        if a != b:
            raise UserError(
                f"--{name}A, --{name}B: {_words(a)} and {_words(b)}; with --targets {options.targets} both domains are "
                "the same images, so the same for both would be right"
            )
    pairs, usual = pairs_of(sources_of(options), options.targets)
    return SelfSupervised(paired.build(options, multiple=multiple, pairs=pairs), options.targets, usual)


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else "none" if value is None else str(value)


def sources_of(options: "PairedOptions") -> list[Source]:
    """The images to train on: the inputs of ``--train``, a list or a folder trainA, else all below the root."""
    root = Path(options.root)
    if options.train not in FOLDERS:
        rows = read_list(locate_list(options.train, root))
        files = [root / row.columns[options.from_col[0]] for row in rows if len(row.columns) > options.from_col[0]]
        found = describe(files, root, None if options.imgtype == "auto" else options.imgtype)
        found.warn(root)
        return found.sources
    folder = root / FOLDERS[options.train][0]
    return sources_in(folder if folder.is_dir() else root, options.imgtype)


def pairs_of(sources: Sequence[Source], targets: str) -> tuple[list[Pair], dict[int, list[float]]]:
    """All pairs of images, and the ``usual_changes`` of each CT series by its group. Raises UserError where the noise
    does not allow these ``targets``."""
    groups: dict[int, list[Source]] = defaultdict(list)
    for source in sources:
        groups[source.group].append(source)
    pairs: list[Pair] = []
    usual: dict[int, list[float]] = {}
    for number, group in groups.items():
        group.sort(key=lambda source: source.place)
        if changes := check_noise(group, targets):
            usual[number] = changes
        if targets == BLIND:
            pairs += [Pair((source,), (source,)) for source in group]
        else:
            pairs += [pair for one, two in _beside(group) for pair in (Pair((one,), (two,)), Pair((two,), (one,)))]
    if not pairs:
        raise UserError(
            f"--targets {targets}: no two slices of one series are there; --targets blind takes single ones"
        )
    return pairs, usual


def _beside(series: Sequence[Source]) -> list[tuple[Source, Source]]:
    """Slices of a series and the next ones, but where some are missing between them."""
    found = list(zip(series[:-1], series[1:], strict=True))
    gaps = [None if a.height is None or b.height is None else abs(b.height - a.height) for a, b in found]
    usual = min((gap for gap in gaps if gap), default=None)
    return [
        pair for pair, gap in zip(found, gaps, strict=True) if usual is None or gap is None or gap < MISSING * usual
    ]


def check_noise(series: Sequence[Source], targets: str) -> list[float]:
    """``usual_changes`` of a series, in order; [] where there are none. CT alone is measured. UserError where its noise
    is not independent of its ``targets``."""
    first, where = series[0], series[0].path.parent
    if targets == NEIGHBOURS and len(series) > 1 and first.ref is not None and first.ref.thickness:
        one, two = (source.height for source in series[:2])
        distance = None if one is None or two is None else abs(two - one)
        if distance is not None and distance < OVERLAP * first.ref.thickness:
            raise UserError(
                f"--targets neighbours: {where}: slices of {first.ref.thickness:g} mm every {distance:g} mm overlap "
                "and share their noise, which a network would learn to keep; a folder with fewer of them would do"
            )
    if first.modality != "CT":
        return []
    meter, beside = NoiseMeter(), []
    for index in np.unique(np.linspace(0, max(len(series) - 2, 0), CHECKED).round().astype(int)):
        images = [read_image(one.path, one.kind, frame=one.frame) for one in series[index : index + 2]]
        after = images[1].array[0] if len(images) > 1 and images[1].array.shape == images[0].array.shape else None
        measured = meter.add(images[0].array[0], images[0].mask, after)
        if after is not None and measured is not None:
            beside.append((images[0].array[0], after))
    noise = meter.result()
    if noise is None:
        return []
    if targets == NEIGHBOURS and noise.between_slices is not None and noise.between_slices > SHARED:
        raise UserError(
            f"--targets neighbours: {where}: neighbouring slices share {noise.between_slices:.0%} of their noise "
            "(overlap or interpolation), which a network would learn to keep; it may be at most "
            f"{SHARED:.0%}{', --targets blind would do' if noise.white else ''}"
        )
    if targets == BLIND and not noise.white:
        raise UserError(
            f"--targets blind: {where}: noise of {noise.text}: pixels tell of the noise beside them, and a network "
            "would learn to keep it; --targets neighbours is for such noise"
        )
    return usual_changes(beside) if beside else []
