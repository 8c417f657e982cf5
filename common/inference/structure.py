"""Did the translation keep the anatomy? Edges of input and output compared, as numbers and as maps.

The paper warns that image-to-image translation can add and remove structures. Grey values of two domains (or of a noisy
and a clean image) cannot be compared directly, but edges should stay where they are: both images are smoothed, so that
noise is not taken for edges, and the lengths of their gradients are compared. This finds moved, added and lost
outlines; it cannot tell that a faint lesion is gone, and a high correlation proves nothing about diagnosis.
"""
import dataclasses
import math

import numpy as np
from scipy import ndimage

SMOOTHING = 1.5  # pixels (sd); takes the noise of a low-dose CT out of the gradient, keeps outlines
NEIGHBOURHOOD = 8.0  # pixels (sd) over which the local correlation is taken
FLOOR = 0.05  # variance of edges (in units of their mean square) below which there is nothing to compare
BLOCK = 4  # the local correlation is computed on means over squares of so many pixels: sixteen times faster


@dataclasses.dataclass(frozen=True)
class Structure:
    """What ``compare`` found.

    change: 1 - the correlation of the edges of both images, 0 (same) to 2. worst: the same in the neighbourhood where
    it is largest, among those with clear edges, and its ``row`` and ``column``. edges_in, edges_out: mean gradient
    length per pixel of input and output, in their own [-1, 1] units.
    """

    change: float
    worst: float
    row: int
    column: int
    edges_in: float
    edges_out: float
    before: np.ndarray  # (H, W) edges of the input, divided by their rms
    after: np.ndarray  # (H, W) those of the output by theirs
    blocks: np.ndarray  # 1 - local correlation, 0 where there is no edge to compare, for squares of BLOCK pixels

    @property
    def difference(self):
        """(H, W) edges of the output minus those of the input, each divided by its own rms; float32."""
        return self.after - self.before

    @property
    def local(self):
        """(H, W) 1 - local correlation, 0 where there is no edge to compare; float32."""
        height, width = self.before.shape
        return self.blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]

    def numbers(self):
        """Everything but the maps, rounded, for a report."""
        return {"edge_change": round(self.change, 4), "worst_local_change": round(self.worst, 4),
                "worst_at": [self.row, self.column], "edges_in": round(self.edges_in, 6),
                "edges_out": round(self.edges_out, 6)}


def edges(image, smoothing=SMOOTHING):
    """Length of the gradient of a smoothed image (H, W), per pixel; float32 (H, W)."""
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), smoothing, mode="nearest")
    down, right = np.gradient(smooth)
    down *= down
    right *= right
    down += right
    return np.sqrt(down, out=down)


def correlation(a, b):
    """Pearson's correlation of two arrays; two constant ones are taken as equal (1), one of them alone as 0."""
    a, b = (v - v.dtype.type(v.mean(dtype=np.float64)) for v in (a, b))
    norm = np.sqrt((a * a).sum(dtype=np.float64) * (b * b).sum(dtype=np.float64))
    if norm < 1e-12:
        return 1.0 if max(np.abs(a).max(), np.abs(b).max()) < 1e-6 else 0.0
    return float((a * b).sum(dtype=np.float64) / norm)


def compare(x, y, smoothing=SMOOTHING, neighbourhood=NEIGHBOURHOOD):
    """Compare the edges of an input and an output, both (H, W) in [-1, 1] of their own domains. Returns Structure."""
    if x.shape != y.shape or x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"images of shapes {x.shape} and {y.shape}; two (H, W) of the same size are needed")
    before, after = edges(x, smoothing), edges(y, smoothing)
    a, b = _by_rms(before), _by_rms(after)
    blocks = _local_change(a, b, neighbourhood)
    row, column = np.unravel_index(int(blocks.argmax()), blocks.shape)
    return Structure(max(1 - correlation(before, after), 0.0), float(blocks[row, column]), int(row) * BLOCK,
                     int(column) * BLOCK, float(before.mean()), float(after.mean()), a, b, blocks)


def _by_rms(values):
    rms = float(np.sqrt((values * values).mean(dtype=np.float64)))
    return values / rms if rms > 1e-6 else np.zeros_like(values)


def _local_change(a, b, neighbourhood):
    """1 - correlation over a Gaussian neighbourhood, weighted down where neither image has edges, by blocks."""
    def mean(v):
        return ndimage.gaussian_filter(_block_means(v), neighbourhood / BLOCK, mode="nearest")
    mean_a, mean_b = mean(a), mean(b)
    var_a = (mean(a * a) - mean_a ** 2).clip(0)
    var_b = (mean(b * b) - mean_b ** 2).clip(0)
    # Where the larger of both hardly varies there is nothing to lose or to invent: the floor takes the map to 0 there.
    strongest = np.maximum(var_a, var_b)
    agreement = (mean(a * b) - mean_a * mean_b) / (np.sqrt(var_a * var_b) + 1e-6)
    return (1 - agreement.clip(-1, 1)) * strongest / (strongest + FLOOR)


def _block_means(v):
    """(H, W) -> means over BLOCK x BLOCK squares, the last ones over what repeating the edge gives."""
    height, width = v.shape
    if height % BLOCK or width % BLOCK:
        v = np.pad(v, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    # Slices are added ten times as fast as NumPy takes the mean of four neighbours.
    rows = sum(v[i::BLOCK] for i in range(BLOCK))
    return sum(rows[:, i::BLOCK] for i in range(BLOCK)) / np.float32(BLOCK ** 2)


def summary(changes):
    """Mean and largest edge change of many images: a dict for a report. ``changes``: name -> ``Structure.change``."""
    if not changes:
        return {}
    worst = max(sorted(changes), key=changes.get)
    return {"images": len(changes), "mean_edge_change": round(math.fsum(changes.values()) / len(changes), 4),
            "largest_edge_change": round(changes[worst], 4), "largest_in": worst}
