"""Signed distances (mm, negative inside), branching tubes, and a canvas that mixes them with partial volume."""

from collections.abc import Callable, Sequence

import numpy as np

MOST_TUBES = 260  # of one tree
THINNEST = 0.5  # mm: radius of what still branches


def ellipse(x: np.ndarray, y: np.ndarray, a: float, b: float, degrees: float = 0.0) -> np.ndarray:
    """Distance to an ellipse around 0 with half axes a and b (first order: exact on the border)."""
    return ellipsoid(x, y, 0.0, (0.0, 0.0, 0.0), (a, b, 1.0), degrees)


def ellipsoid(
    x: np.ndarray,
    y: np.ndarray,
    z: float | np.ndarray,
    centre: Sequence[float],
    axes: Sequence[float],
    degrees: float = 0.0,
) -> np.ndarray:
    """Distance to an ellipsoid, turned about the z axis (first order)."""
    x, y, z = x - centre[0], y - centre[1], z - centre[2]
    if degrees:
        cos, sin = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))
        x, y = cos * x + sin * y, cos * y - sin * x
    a, b, c = axes
    level = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) + 1e-6
    slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2) + 1e-6
    return level * (level - 1) / slope


def layer(distance: np.ndarray, half: float) -> np.ndarray:
    """Distance to a layer of ``half`` mm on both sides of a surface."""
    return np.abs(distance) - half


class Canvas:
    """One slice being painted: HU and the strength of its texture. x, y (H, W) and z in mm, ``pixel`` the pixel's
    side."""

    def __init__(self, xs: np.ndarray, ys: np.ndarray, z: float, pixel: float) -> None:
        self.x, self.y = np.meshgrid(xs, ys)
        self.z, self.pixel = z, pixel
        self.hu = np.full(self.x.shape, -1000, np.float32)
        self.fine = np.full(self.x.shape, 2, np.float32)
        self.coarse = np.zeros(self.x.shape, np.float32)

    def warped(self, waves: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """x and y displaced smoothly, so that nothing is an exact ellipse."""
        x, y = self.x, self.y
        for amplitude, vector, phase in waves:
            angle = np.float32(vector[0]) * self.x + np.float32(vector[1]) * self.y + np.float32(vector[2] * self.z)
            x = x + np.float32(amplitude[0]) * np.sin(angle + np.float32(phase[0]))
            y = y + np.float32(amplitude[1]) * np.sin(angle + np.float32(phase[1]))
        return x, y

    def within(self, half_width: float, half_height: float, *others: np.ndarray) -> tuple:
        """The same canvas cut to |x| and |y| (mm), and the same part of other arrays: painting on it paints on this
        one."""
        rows = slice(*np.searchsorted(self.y[:, 0], (-half_height, half_height)))
        columns = slice(*np.searchsorted(self.x[0], (-half_width, half_width)))
        part = object.__new__(Canvas)
        part.z, part.pixel = self.z, self.pixel
        part.x, part.y, part.hu, part.fine, part.coarse, *rest = (
            array[rows, columns] for array in (self.x, self.y, self.hu, self.fine, self.coarse, *others)
        )
        return part, *rest

    def share(self, distance: np.ndarray) -> np.ndarray:
        """How much of each pixel lies inside: 0 … 1."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def paint(self, *layers: tuple[np.ndarray, float | np.ndarray, float, float]) -> None:
        """One after the other, each (distance, HU, fine, coarse): cover what lies inside with these HU, with a texture
        of these standard deviations in HU."""
        for distance, hu, fine, coarse in layers:
            self.paint_share(self.share(distance), hu, fine, coarse)

    def paint_share(self, share: np.ndarray, hu: float | np.ndarray, fine: float, coarse: float = 0.0) -> None:
        """``paint`` where the share of each pixel is known. Only the box that has any is touched."""
        rows = np.flatnonzero(share.any(axis=1))
        if not rows.size:
            return
        columns = np.flatnonzero(share.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part = share[box]
        for target, value in ((self.hu, hu), (self.fine, fine), (self.coarse, coarse)):
            value = value[box] if isinstance(value, np.ndarray) else value
            target[box] += part * (value - target[box])

    def bone(self, distance: np.ndarray, shell: float, cortical: float, trabecular: float, grain: float = 35) -> None:
        """Trabecular bone in a cortical shell of ``shell`` mm."""
        self.paint((distance, cortical, 20, 20), (distance + shell, trabecular, grain, grain / 2))

    def result(self, fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
        """The slice in HU with its texture. fine, coarse: (H, W) noise of standard deviation 1."""
        return self.hu + self.fine * fine + self.coarse * coarse


Tube = tuple[np.ndarray, np.ndarray, float]
"""A piece of vessel, a cylinder with round ends: where it starts and ends, (x, y, z) mm, and its radius."""


def tree(
    root: np.ndarray,
    direction: np.ndarray,
    radius: float,
    rng: np.random.Generator,
    distance: Callable[[np.ndarray], np.ndarray],
) -> list[Tube]:
    """Vessels that branch from ``root`` and stay where ``distance`` of a point (N, 3) is below 0.

    Radii follow Murray's law (r0³ = r1³ + r2³), lengths are in proportion to radii.
    """
    tubes: list[Tube] = []
    waiting = [(root, direction / np.linalg.norm(direction), radius, 0)]
    while waiting and len(tubes) < MOST_TUBES:
        start, heading, thick, depth = waiting.pop(0)
        end = start + heading * (thick + 0.6) * float(rng.uniform(3.0, 6.0))
        if depth > 2 and distance(end[None])[0] > -1.5 * thick:
            turned = heading + rng.normal(0, 0.9, 3)
            end = start + turned / np.linalg.norm(turned) * thick * 4
            if distance(end[None])[0] > -thick:
                continue
        tubes.append((start, end, thick))
        if thick < THINNEST:
            continue
        share = float(rng.uniform(0.12, 0.5))
        aside = np.cross(heading, rng.normal(0, 1, 3))
        aside /= np.linalg.norm(aside)
        for part, sign in ((share, 1), (1 - share, -1)):
            turned = heading + sign * float(rng.uniform(0.35, 0.9)) * (1.3 - part) * aside + rng.normal(0, 0.08, 3)
            waiting.append((end, turned / np.linalg.norm(turned), thick * part ** (1 / 3) * 0.96, depth + 1))
    return tubes


def draw_tubes(
    tubes: Sequence[Tube], zs: np.ndarray, ys: np.ndarray, xs: np.ndarray, pixel: float, thickness: float
) -> np.ndarray:
    """Share of each voxel (D, H, W) that the tubes cover; thin ones cover a part only (their area over the pixel's)."""
    share = np.zeros((len(zs), len(ys), len(xs)), np.float32)
    for start, end, radius in tubes:
        low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
        spans = [
            slice(*np.searchsorted(axis, (low[i] - half, high[i] + half)))
            for i, (axis, half) in enumerate(((xs, pixel), (ys, pixel), (zs, thickness / 2)))
        ]
        if any(span.start >= span.stop for span in spans):
            continue
        points = np.stack(np.meshgrid(zs[spans[2]], ys[spans[1]], xs[spans[0]], indexing="ij")[::-1], axis=-1)
        along = end - start
        position = np.clip((points - start) @ along / (along @ along), 0, 1)
        nearest = points - start - position[..., None] * along
        nearest[..., 2] = np.sign(nearest[..., 2]) * np.maximum(np.abs(nearest[..., 2]) - thickness / 4, 0)
        distance = np.sqrt((nearest**2).sum(-1)) - radius
        covered = np.clip(0.5 - distance / pixel, 0, 1) * min(1.0, 2 * radius / pixel)
        box = share[spans[2], spans[1], spans[0]]
        np.maximum(box, covered, out=box)
    return share
