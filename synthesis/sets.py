"""How alike two sets of images are that are no pairs: sliced Wasserstein distance, diversity, nearest images.

Images are (N, C, H, W) in their own unit, of one size. No weights of any network are needed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medi2i.common import VERSION, losses
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.outputs import write_text
from medi2i.common.training.pictures import Panel, difference, draw_grid, plane, range_text
from medi2i.datasets.catalogue import sources_in
from medi2i.datasets.reading import read_image
from medi2i.datasets.scaling import default_clip
from medi2i.datasets.unpacking import unpacked

SMALLEST = 16  # pixels of the last level of the pyramid
WIDTH, PATCHES, PROJECTIONS = 7, 128, 512  # of descriptors; of an image and level; directions
FEWEST = 10  # images of a set
PAIRS, GROUPS = 500, 20  # whose similarity is the diversity of a set; of means that its error is told from
CLOSE = 1.0  # percentile of the distances of real images to their nearest, below which a sample counts as a copy
_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16


def laplacian_levels(images: np.ndarray) -> dict[int, np.ndarray]:
    """{rows: images of that size}: what each level of the Laplacian pyramid (Burt and Adelson, 1983) has that the next
    coarser one has not, down to 16 rows or columns, whose level is what is left."""
    levels, fine = {}, np.asarray(images, np.float32)
    while min(fine.shape[2:]) >= 2 * SMALLEST and not (fine.shape[2] % 2 or fine.shape[3] % 2):
        coarse = _blurred(fine)[:, :, ::2, ::2]
        doubled = np.zeros_like(fine)
        doubled[:, :, ::2, ::2] = 4 * coarse
        levels[fine.shape[2]] = fine - _blurred(doubled)
        fine = coarse
    levels[fine.shape[2]] = fine
    return levels


def _blurred(images: np.ndarray) -> np.ndarray:
    for axis in (2, 3):
        images = ndimage.correlate1d(images, _BINOMIAL, axis, mode="mirror")
    return images


def descriptors(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N · 128, C · 49): 7x7 patches from anywhere in images of one level, each channel of mean 0 and deviation 1."""
    count, channels, height, width = images.shape
    top = rng.integers(0, height - WIDTH, (count, PATCHES), endpoint=True)
    left = rng.integers(0, width - WIDTH, (count, PATCHES), endpoint=True)
    windows = np.lib.stride_tricks.sliding_window_view(images, (WIDTH, WIDTH), (2, 3))
    found = windows[np.arange(count)[:, None], :, top, left].reshape(-1, channels, WIDTH * WIDTH)
    found = found - found.mean(axis=(0, 2), keepdims=True)
    return (found / np.maximum(found.std(axis=(0, 2), keepdims=True), 1e-12)).reshape(len(found), -1)


def sliced_wasserstein(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> float:
    """1000 times the mean over random directions of the Wasserstein-1 distance of two equally large sets of
    descriptors (N, D), projected on it (Karras et al., arXiv 1710.10196, section 5)."""
    directions = rng.standard_normal((first.shape[1], PROJECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    one, other = (np.sort(found.astype(np.float32) @ directions, axis=0) for found in (first, second))
    return 1000 * float(np.abs(one - other).mean())


def distances(first: np.ndarray, second: np.ndarray, seed: int) -> dict[int, float]:
    """{rows: sliced Wasserstein distance ·1000 of that level} of two sets of as many images."""
    rng, found = np.random.default_rng(seed), {}
    for (rows, one), other in zip(laplacian_levels(first).items(), laplacian_levels(second).values(), strict=True):
        found[rows] = sliced_wasserstein(descriptors(one, rng), descriptors(other, rng), rng)
    return found


def similarity(images: np.ndarray, window: tuple[float, float], seed: int) -> tuple[float, float]:
    """(mean MS-SSIM of random pairs of different images, its standard error); ``window`` is the range of values.

    The higher the mean, the less diverse the images are (Odena et al., 2017).
    """
    low, high = window
    unit = np.clip(2 * (images.astype(np.float32) - low) / (high - low) - 1, -1, 1)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(unit), (GROUPS, PAIRS // GROUPS))
    second = (first + rng.integers(1, len(unit), first.shape)) % len(unit)
    with chainer.no_backprop_mode():
        values = [
            1 - float(losses.multiscale_dissimilarity(unit[i], unit[j]).array)
            for i, j in zip(first, second, strict=True)
        ]
    return float(np.mean(values)), float(np.std(values) / np.sqrt(GROUPS - 1))


def nearest(images: np.ndarray, real: np.ndarray, others: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(index of the nearest of ``real``, root mean square difference to it) of each of the ``images``.

    others: both are the same set, and an image is not its own nearest.
    """
    a, b = (found.reshape(len(found), -1).astype(np.float64) for found in (images, real))
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    if others:
        np.fill_diagonal(squares, np.inf)
    index = squares.argmin(axis=1)
    exact = np.sqrt(((a - b[index]) ** 2).mean(axis=1))  # the sum of squares above is of differences of large numbers
    return index, exact


@dataclass(frozen=True)
class Row:
    """What is said of one set: ``swd`` by rows of the level; similarity of its pairs with standard error; distance of
    its images to the nearest real one (root mean square, in the images' unit), which that is, how many are copies."""

    name: str
    swd: dict[int, float]
    similarity: float
    error: float
    index: np.ndarray
    distance: np.ndarray
    copies: int = 0

    @property
    def told(self) -> dict:
        """For a file."""
        near = {"nearest_median": float(np.median(self.distance)), "nearest_least": float(self.distance.min())}
        swd = {str(rows): value for rows, value in self.swd.items()}
        return {"name": self.name, "swd": swd, "ms_ssim": self.similarity, "error": self.error, **near} | {
            "copies": self.copies
        }


def compared(
    real: np.ndarray, sets: dict[str, np.ndarray], window: tuple[float, float], seed: int
) -> tuple[list[Row], float]:
    """(rows, the distance below which an image counts as a copy). Rows: two halves of the real images, what is no
    better than noise (of the real images' mean and deviation), then the ``sets`` by name.

    All sliced Wasserstein distances are of as many images, to one half of the real ones and to the other, averaged.
    Raises UserError for sets of too few images, or of other sizes.
    """
    for name, images in {"the real images": real, **sets}.items():
        if len(images) < FEWEST:
            raise UserError(f"{name}: {len(images)} images; a set to compare has {FEWEST} at least")
        if images.shape[1:] != real.shape[1:]:
            shapes = ("x".join(map(str, found.shape[1:])) for found in (images, real))
            raise UserError("{}: images of {} (channels, rows, columns); the real ones are {}".format(name, *shapes))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(real))
    halves = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
    noise = np.clip(rng.normal(real.mean(), real.std(), halves[0].shape), *window)
    count = min(map(len, (*halves, *sets.values())))
    rows = [
        _row("real, half and half", real, real, distances(halves[0][:count], halves[1][:count], seed), window, seed)
    ]
    limit = float(np.percentile(rows[0].distance, CLOSE))
    for name, images in {"noise": noise, **sets}.items():
        chosen = images[np.random.default_rng(seed).permutation(len(images))[:count]]
        both = [distances(chosen, half[:count], seed) for half in halves]
        swd = {rows: (value + both[1][rows]) / 2 for rows, value in both[0].items()}
        rows.append(_row(name, images, real, swd, window, seed, limit))
    return rows, limit


def _row(
    name: str,
    images: np.ndarray,
    real: np.ndarray,
    swd: dict[int, float],
    window: tuple[float, float],
    seed: int,
    limit: float = 0.0,
) -> Row:
    index, distance = nearest(images, real, others=images is real)
    return Row(name, swd, *similarity(images, window, seed), index, distance, int((distance < limit).sum()))


def lines_of(rows: list[Row]) -> list[list[str]]:
    """The cells of a table: head, then a line for each row."""
    head = ["set", *(f"SWD {side}" for side in rows[0].swd), "mean", "MS-SSIM", "nearest: median", "least", "copies"]
    return [head] + [
        [
            row.name,
            *(f"{value:.1f}" for value in row.swd.values()),
            f"{np.mean(list(row.swd.values())):.1f}",
            f"{row.similarity:.3f} ± {row.error:.3f}",
            f"{np.median(row.distance):.4g}",
            f"{row.distance.min():.4g}",
            str(row.copies),
        ]
        for row in rows
    ]


def draw_nearest(
    path: Path, row: Row, images: np.ndarray, real: np.ndarray, window: tuple[float, float], unit: str = ""
) -> None:
    """A picture of the samples that are nearest to a real image: sample, that image, their difference."""
    low, high = window
    chosen = np.argsort(row.distance)[:8]
    pairs = [(plane(images[i], real.shape[1] == 3), plane(real[row.index[i]], real.shape[1] == 3)) for i in chosen]
    rows = [[Panel(a, low, high), Panel(b, low, high), difference(a, b, (high - low) / 4)] for a, b in pairs]
    shown = range_text(low, high, "CT" if unit == "HU" else "")
    titles = [f"sample\n{shown}", "nearest real image", f"difference\n±{(high - low) / 4:.3g}"]
    draw_grid(path, rows, titles, [f"{row.distance[i]:.3g} {unit}" for i in chosen])


def load(folder: str | Path) -> tuple[np.ndarray, str, int | None]:
    """The images below a folder: (N, C, H, W) in their own unit, that unit ("HU" or ""), and their bits."""
    sources = sources_in(unpacked(folder))
    images = [read_image(source.path, source.kind, frame=source.frame) for source in sources]
    shapes = {image.array.shape for image in images}
    if len(shapes) > 1:
        told = " and ".join(sorted("x".join(map(str, shape)) for shape in shapes)[:3])
        raise UserError(f"{folder}: images of {told} (channels, rows, columns); a set to compare has one size")
    unit = "HU" if {source.modality for source in sources} == {"CT"} else ""
    return np.stack([image.array for image in images]), unit, images[0].bits


def of_folders(
    truth: str, folders: Mapping[str, str], out: Path, clip: Sequence[float] | None, seed: int
) -> tuple[list[Row], float]:
    """Compare the images in ``folders``, by name, with those in ``truth``; write ``sets.json``, and of each set a
    picture of its images that are nearest to real ones. clip: the range of values, by default that of the kind of file,
    else of the real ones. Returns what ``compared`` does. Raises UserError.
    """
    real, unit, bits = load(truth)
    known = default_clip("dcm" if unit else "png", bits) if unit or bits else None
    window = tuple(clip) if clip is not None else (float(real.min()), float(real.max()))
    if clip is None and known is not None and known.lower is not None and known.upper is not None:
        window = known.lower, known.upper
    loaded = {name: load(folder) for name, folder in folders.items()}
    for name, (_, _, others) in loaded.items():
        if others != bits:
            kinds = [f"{n} bits" if n else "numbers" for n in (others, bits)]
            raise UserError(
                f"{name}: {kinds[0]} where the real images are {kinds[1]}; both as npy, in one unit, would do"
            )
    sets = {name: images for name, (images, _, _) in loaded.items()}
    rows, limit = compared(real, sets, (window[0], window[1]), seed)
    told = {"medi2i": VERSION, "truth": truth, "sets": dict(folders), "window": window, "seed": seed}
    told |= {"copies_below": limit, "rows": [row.told for row in rows]}
    write_text(out / "sets.json", json.dumps(told, indent=1) + "\n")
    for row in rows[2:]:
        draw_nearest(out / f"nearest_{row.name}.png", row, sets[row.name], real, (window[0], window[1]), unit)
    return rows, limit
