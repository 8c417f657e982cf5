"""The projection A of a scan, exactly its transpose Aᵀ, and its norm: a sparse matrix by Joseph's method.

Images are attenuations (H, W) in 1/mm, sinograms (views, bins) line integrals, which have no unit. A ray steps along
the axis on which it advances faster, from row to row or from column to column, and takes what lies between the two
pixels there linearly: two weights a step (Joseph, IEEE Trans. Med. Imaging 1, 1982). Outside the image is nothing.
"""

from collections.abc import Callable
from types import ModuleType

import numpy as np
from scipy import sparse

from medi2i.reconstruction.geometry import Geometry

MATRIX_BYTES = 1 << 30
"""Up to this much of the matrix is kept; the views beyond it are made anew each time they are needed."""
_CHUNK_BYTES = 32 << 20


class Operator:
    """A of ``geometry``. keep: bytes of the matrix that may stay in memory (512² at 180 views takes 1 GB).

    On a GPU with ``xp=cupy``: arrays given and returned are CuPy's.
    """

    def __init__(self, geometry: Geometry, keep: int = MATRIX_BYTES, xp: ModuleType = np) -> None:
        self.geometry, self.xp = geometry, xp
        bytes_of_view = geometry.bins * max(geometry.shape) * 16
        views = max(1, _CHUNK_BYTES // bytes_of_view)
        count = len(geometry.angles)
        self._chunks = [range(first, min(first + views, count)) for first in range(0, count, views)]
        self._kept: dict[int, sparse.csr_matrix] = {}
        self._norm: float | None = None
        self._most_kept = max(1, keep // (bytes_of_view * views))

    @property
    def keeps_all(self) -> bool:
        """Whether no view has to be made anew."""
        return self._most_kept >= len(self._chunks)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A·image: (H, W) 1/mm -> (views, bins) float32."""
        flat = self.xp.asarray(image, dtype=self.xp.float32).reshape(-1)
        sums = [self._matrix(chunk) @ flat for chunk in range(len(self._chunks))]
        return self.xp.concatenate(sums).reshape(self.geometry.sinogram_shape)

    def transposed(self, sinogram: np.ndarray) -> np.ndarray:
        """Aᵀ·sinogram: (views, bins) -> (H, W) float32, the exact transpose (no filter, no scale)."""
        rays = self.xp.asarray(sinogram, dtype=self.xp.float32)
        image = self.xp.zeros(self.geometry.shape[0] * self.geometry.shape[1], self.xp.float32)
        for chunk, views in enumerate(self._chunks):
            image += self._matrix(chunk).T @ rays[views.start : views.stop].reshape(-1)
        return image.reshape(self.geometry.shape)

    def __deepcopy__(self, memo: dict) -> "Operator":
        """Itself, which nothing changes: a copy of a network projects by the same matrix."""
        return self

    def norm(self) -> float:
        """The largest singular value, from below, by 15 power iterations (1 % off at most)."""
        if self._norm is None:
            square = power_norm(lambda image: self.transposed(self(image)), self.geometry.shape, 15, self.xp)
            self._norm = square**0.5
        return self._norm

    def _matrix(self, chunk: int) -> sparse.csr_matrix:
        if chunk in self._kept:
            return self._kept[chunk]
        blocks = [matrix_of_view(self.geometry, view) for view in self._chunks[chunk]]
        matrix = sparse.vstack(blocks, format="csr", dtype=np.float32)
        if self.xp is not np:
            from cupyx.scipy import sparse as on_gpu

            matrix.sum_duplicates()  # sorts; else CuPy does, at every product with a transpose that came before another
            matrix = on_gpu.csr_matrix(matrix)
        if len(self._kept) < self._most_kept:
            self._kept[chunk] = matrix
        return matrix


def power_norm(
    function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], iterations: int, xp: ModuleType = np
) -> float:
    """The largest eigenvalue of a positive linear ``function`` of arrays of ``shape``, from below."""
    vector = xp.asarray(np.random.default_rng(0).random(shape, dtype=np.float32) + 0.5)
    value = 0.0
    for _ in range(iterations):
        vector = function(vector / xp.linalg.norm(vector))
        value = float(xp.linalg.norm(vector))
    return value


def matrix_of_view(geometry: Geometry, view: int) -> sparse.csr_matrix:
    """The rows of A of one view: (bins, H·W) float32, weights in mm."""
    theta, distance = geometry.rays(view)
    cos, sin = np.cos(theta), np.sin(theta)
    (rows, columns), (down, along) = geometry.shape, geometry.spacing
    y = (np.arange(rows) - (rows - 1) / 2) * down
    x = (np.arange(columns) - (columns - 1) / 2) * along
    by_rows = np.abs(cos) * along >= np.abs(sin) * down  # which axis has more steps for the ray
    matrix = sparse.csr_matrix((geometry.bins, rows * columns), dtype=np.float32)
    for chosen, across, step, places, lane, pace in (
        (by_rows, cos, sin, y, columns, (columns, 1, down, along)),
        (~by_rows, sin, cos, x, rows, (1, columns, along, down)),
    ):
        if not chosen.any():
            continue
        of_step, of_lane, length, width = pace
        at = (distance[chosen, None] - step[chosen, None] * places) / across[chosen, None] / width + (lane - 1) / 2
        below = np.floor(at)
        part = (at - below).astype(np.float32)
        below = below.astype(np.int32)
        weight = (length / np.abs(across[chosen]))[:, None].astype(np.float32)
        lanes = np.stack([below, below + 1], axis=-1)
        values = np.stack([(1 - part) * weight, part * weight], axis=-1)
        indices = lanes * np.int32(of_lane) + np.arange(len(places), dtype=np.int32)[:, None] * np.int32(of_step)
        inside = (lanes >= 0) & (lanes < lane) & (values > 0)
        counts = np.zeros(geometry.bins + 1, np.int64)
        counts[1:][chosen] = inside.sum(axis=(1, 2))
        part_matrix = sparse.csr_matrix(
            (values[inside], indices[inside], np.cumsum(counts)), shape=matrix.shape, dtype=np.float32
        )
        matrix = part_matrix if chosen.all() else matrix + part_matrix
    return matrix
