"""A procedural CT phantom: the trunk from the upper abdomen to the heart, in HU, different for every seed.

Coordinates are mm: x to the patient's left, y to the back, z to the head, 0 on the axis of the body at the height of
the diaphragm. Every shape is a signed distance (negative inside); a voxel gets the share of it that the shape covers
(partial volume). HU are those of textbooks (Hounsfield; Kalender, Computed Tomography, table of CT values): air
-1000, lung -880…-750, fat -110…-90, water 0, soft tissue 30…60, trabecular bone 150…250, cortical bone 800…1400.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from medi2i.tools.making import phantom_shapes as shapes
from medi2i.tools.making.phantom_shapes import Canvas

FIELD_MM = 400.0
"""Width of the image: what a body scan usually reconstructs."""

EXTENT_MM = 170.0
"""Length of the scan along z that shows chest and abdomen."""


@dataclass(frozen=True)
class Phantom:
    """``hu`` (D, H, W) float32, slice 0 at the feet end; ``spacing`` (row, column) mm; ``thickness`` mm; ``origin``
    (x, y, z) mm of the centre of the first voxel, in DICOM patient coordinates (LPS)."""

    hu: np.ndarray
    spacing: tuple[float, float]
    thickness: float
    origin: tuple[float, float, float]


def phantom(
    shape: tuple[int, int] = (256, 256),
    slices: int = 40,
    seed: int = 0,
    series: int = 0,
    thickness: float | None = None,
) -> Phantom:
    """Make a phantom of ``slices`` slices of ``shape`` (H, W). The same seed and series give the same phantom.

    thickness: mm, distance of slices; default: what lets them cover chest and abdomen, between 1 and 10 mm.
    """
    rng = np.random.default_rng([seed, series])
    pixel = FIELD_MM / max(shape)
    thickness = float(np.clip(round(EXTENT_MM / slices, 1), 1.0, 10.0)) if thickness is None else thickness
    body = Body(rng)
    middle = 10.0 + float(rng.uniform(-8, 8))
    heights = middle + (np.arange(slices) - (slices - 1) / 2) * thickness
    ys, xs = (((np.arange(count) - (count - 1) / 2) * pixel).astype(np.float32) for count in shape)
    grain = [_texture(rng, (slices, *shape), (thickness, pixel, pixel), mm) for mm in (1.0, 3.5)]
    vessels = shapes.draw_tubes(body.vessels(), heights, ys, xs, pixel, thickness)
    hu = np.empty((slices, *shape), np.float32)
    for index, height in enumerate(heights):
        layers = []
        for part in (-0.25, 0.25):
            canvas = Canvas(xs, ys, float(height + part * thickness), pixel)
            body.paint(canvas, vessels[index])
            layers.append(canvas.result(grain[0][index], grain[1][index]))
        blurred = gaussian_filter(np.mean(layers, axis=0), 0.45)  # the scanner's point spread
        hu[index] = np.clip(np.rint(blurred), -1024, 3071)
    return Phantom(hu, (pixel, pixel), thickness, (float(xs[0]), float(ys[0]), float(heights[0])))


def _texture(rng: np.random.Generator, shape: tuple[int, ...], voxel: tuple[float, ...], grain_mm: float) -> np.ndarray:
    """Correlated noise (D, H, W) float32 of mean 0 and standard deviation 1 with blobs of ``grain_mm``."""
    noise = rng.standard_normal(shape, np.float32)
    noise = gaussian_filter(noise, [grain_mm / side for side in voxel], mode="wrap", truncate=3)
    return noise / np.float32(noise.std())


class Body:
    """The anatomy of one patient as signed distances, painted slice by slice from the outside inwards.

    ``scale`` is the body's size; ``width``, ``depth`` and ``fat`` in mm.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.scale = float(rng.uniform(0.92, 1.06))
        self.width, self.depth = 160 * self.scale * float(rng.uniform(0.95, 1.05)), 106 * self.scale
        self.fat = float(rng.uniform(8, 22))
        # smooth displacement: amplitude mm, wave vector 1/mm, phase
        self.warp = [
            (rng.uniform(1.0, 3.0, 2), rng.uniform(-1, 1, 3) * 2 * np.pi / 95, rng.uniform(0, 6.28, 2))
            for _ in range(4)
        ]
        self.rib_phase = float(rng.uniform(0, 28))
        self.vertebra_phase = float(rng.uniform(0, 30))
        self.spine = (0.0, 44 * self.scale)
        self.domes = (self.near(-72, -8, 22), self.near(74, -6, 12))
        self.heart = (self.near(24, -34, 52), (self.about(54), self.about(44), self.about(48)))
        self.organs = [  # centre, half axes, angle in degrees, HU, fine and coarse texture in HU, under the diaphragm
            (self.near(92, 32, -28), (self.about(26), self.about(46), self.about(46)), -25, 48, 5, 2),  # spleen
            (self.near(8, -4, -62), (self.about(62), self.about(13), self.about(12)), 12, 38, 8, 8),  # pancreas
        ]
        self.liver = (self.near(-62, -8, -42), (self.about(100, 0.05), self.about(92, 0.05), self.about(76, 0.05)))
        self.gallbladder = (self.near(-46, -44, -66), (self.about(15), self.about(22), self.about(24)))
        self.stomach = (self.near(62, -36, -26), (self.about(44), self.about(36), self.about(42)))
        self.gas_level = self.stomach[0][1] - float(rng.uniform(2, 18))
        self.kidneys = [
            (self.near(side * 60, 44, -72), (self.about(25), self.about(31), self.about(50)), side) for side in (-1, 1)
        ]
        self.loops = [
            (
                self.near(
                    float(rng.uniform(-70, 95)),
                    float(rng.uniform(-75, -10)),
                    float(rng.uniform(-110, -60)),
                ),
                tuple(rng.uniform(14, 24, 3).tolist()),
                float(rng.uniform(-100, 35)),
            )
            for _ in range(14)
        ]

    def about(self, value: float, spread: float = 0.08) -> float:
        """A length or position that varies from patient to patient by ``spread`` of itself."""
        return value * self.scale * (1 + spread * float(np.clip(self.rng.normal(), -2, 2)))

    def near(self, *centre: float) -> tuple[float, ...]:
        """A centre that varies by some 4 mm."""
        return tuple(c * self.scale + 4.0 * float(np.clip(self.rng.normal(), -2, 2)) for c in centre)

    # --- fields ---------------------------------------------------------------------------------------------------

    def diaphragm(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height (mm) of the diaphragm over (x, y): two domes."""
        right, left = (top - 0.0085 * ((x - cx) ** 2 + 0.8 * (y - cy) ** 2) for cx, cy, top in self.domes)
        return np.maximum(right, left)

    def below_skin(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        """Depth under the skin in mm, measured along the radius; negative outside."""
        width = self.width * (1 + 0.05 * np.tanh(z / 60)) + 0.0 * x
        radius = np.hypot(x, y) + 1e-3
        level = (np.abs(x / width) ** 2.4 + np.abs(y / self.depth) ** 2.4) ** (1 / 2.4) + 1e-6
        return radius * (1 / level - 1)

    def wall(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Thickness of skin and subcutaneous fat: thin over the breastbone, thick at the flanks."""
        side = np.abs(x) / (np.hypot(x, y) + 1e-3)
        return 3 + self.fat * (0.55 + 0.45 * side)

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Depth at which the wall of chest and belly ends: fat, muscle and ribs; thickest along the spine."""
        back = 22 * np.exp(-((x / 52) ** 2)) * np.clip(y / 60, 0, 1)
        return self.wall(x, y) + 13 + back

    def lungs(self, x: np.ndarray, y: np.ndarray, z: float | np.ndarray) -> np.ndarray:
        """Signed distance to the lungs: in the chest, beside the mediastinum, above the diaphragm."""
        chest = self.inside(x, y) + 2 - self.below_skin(x, y, 0.0)
        middle = -shapes.ellipse(x - 4, y + 6, 40 * self.scale, 82 * self.scale)
        spine = -shapes.ellipse(x - self.spine[0], y - self.spine[1], 26, 26)
        heart = -shapes.ellipsoid(x, y, z, *self.heart) + 4
        above = (self.diaphragm(x, y) - z) * 0.7
        return np.maximum.reduce([chest, middle, spine, heart, above])

    def vessels(self) -> list[shapes.Tube]:
        """Arteries and veins of both lungs as straight tubes, from the hilum outwards."""
        tubes = []
        for side in (-1, 1):
            for direction in (
                (side, 0.1, -0.9),
                (side, 0.8, -0.5),
                (side, -0.8, 0.1),
                (side, 0.3, 0.8),
                (side, -0.4, 0.7),
            ):
                root = np.array([side * 38.0, 4.0, 46.0]) * self.scale + self.rng.normal(0, 5, 3)
                tubes += shapes.tree(
                    root,
                    np.array(direction),
                    float(self.rng.uniform(3.6, 5.2)),
                    self.rng,
                    lambda p: self.lungs(p[:, 0], p[:, 1], p[:, 2]),
                )
        return tubes

    # --- painting -------------------------------------------------------------------------------------------------

    def paint(self, c: Canvas, vessels: np.ndarray) -> None:
        """Paint one height onto a canvas. vessels: (H, W) share of each pixel that lung vessels cover."""
        z = c.z
        self._table(c)
        c, vessels = c.within(1.05 * self.width + 8, self.depth + 8, vessels)
        x, y = c.warped(self.warp)
        depth, wall = self.below_skin(x, y, z), self.wall(x, y)
        inside = self.inside(x, y)
        cavity = inside - depth
        c.paint(
            (-depth, 35, 4, 4),
            (2.0 - depth, -102, 6, 7),
            (wall - depth, 54, 7, 9),
            (shapes.layer(depth - wall - 7, 1.0), -60, 10, 10),  # fat between the muscles
            (cavity, -98, 6, 6),
        )
        self._back_muscles(c, x, y)
        dome = self.diaphragm(x, y)
        if z < dome.max() + 5:
            self._abdomen(c, x, y, np.maximum(cavity + 1.5, (z - dome + 3) * 0.7))
        self._chest(c, x, y, vessels)
        self._bones(c, x, y, depth, inside)

    def _table(self, c: Canvas) -> None:
        top = self.depth + 6
        distance = np.hypot(c.x, c.y - top + 620) - 620
        edge = np.abs(c.x) - 188
        c.paint(
            (np.maximum.reduce([-distance, distance - 26 + 0.0006 * c.x**2, edge]), -920, 4, 0),
            (np.maximum(shapes.layer(distance - 1.2, 1.2), edge), -180, 5, 0),
            (np.maximum(shapes.layer(distance - 25 + 0.0006 * c.x**2, 1.2), edge), -180, 5, 0),
        )

    def _back_muscles(self, c: Canvas, x: np.ndarray, y: np.ndarray) -> None:
        for side in (-1, 1):
            c.paint(
                (shapes.ellipse(x - side * 32, y - self.spine[1] - 29, 25, 14, side * 14), 55, 8, 12),
                (shapes.ellipse(x - side * 30, y - self.spine[1], 13, 18), 55, 7, 8),
            )

    def _abdomen(self, c: Canvas, x: np.ndarray, y: np.ndarray, outside: np.ndarray) -> None:
        z = c.z
        for centre, axes, filling in self.loops:
            if abs(z - centre[2]) > axes[2] + 2:
                continue
            loop = np.maximum(shapes.ellipsoid(x, y, z, centre, axes), outside + 2)
            c.paint(
                (loop, 40, 6, 3),
                (loop + 3, filling if filling > 0 else 18, 10, 14),
                (np.maximum(loop + 3, y - centre[1] + 4), -960 if filling < -40 else 18, 8, 8),
            )
        liver = np.maximum(shapes.ellipsoid(x, y, z, *self.liver), outside)
        liver = np.maximum(liver, (x - 38 + 0.5 * (y + 40)) * 0.8)
        c.paint((liver, 58, 5, 3))
        for angle in (-0.6, 0.1, 0.8):
            across = np.abs((x + 20) * math.sin(angle) + (y - 12) * math.cos(angle)) + 0.25 * np.abs(z + 38)
            c.paint((np.maximum(across - 4.5, liver + 12), 46, 4, 2))
        stomach = np.maximum(shapes.ellipsoid(x, y, z, *self.stomach), outside + 1)
        c.paint(
            (stomach, 42, 5, 3),
            (stomach + 4, 14, 10, 10),
            (np.maximum(stomach + 4, y - self.gas_level), -975, 8, 0),
        )
        for centre, axes, angle, *look in self.organs:
            c.paint((np.maximum(shapes.ellipsoid(x, y, z, centre, axes, angle), outside), *look))
        for centre, axes, side in self.kidneys:
            kidney = shapes.ellipsoid(x, y, z, centre, axes, side * 25)
            hilum = shapes.ellipsoid(x, y, z, (centre[0] - side * 16, centre[1] - 8, centre[2]), (15, 10, 24))
            c.paint((np.maximum(kidney, -hilum), 31, 5, 3))
        bladder = np.maximum(shapes.ellipsoid(x, y, z, *self.gallbladder), outside)
        c.paint(
            (bladder, 30, 3, 1),
            (bladder + 1.5, 8, 3, 1),
            (shapes.ellipse(x + 20, y - 26, 13, 9), 44, 4, 2),  # inferior vena cava
        )

    def _chest(self, c: Canvas, x: np.ndarray, y: np.ndarray, vessels: np.ndarray) -> None:
        z = c.z
        lungs = self.lungs(x, y, z)
        pleura, gravity = np.maximum(lungs - 2.0, -lungs), np.clip(y / 100, -1, 1)
        c.paint((pleura, 30, 4, 2), (lungs, -835 + 55 * gravity, 14, 16))
        c.paint_share(vessels * c.share(lungs + 1), 38, 4)
        above = self.diaphragm(x, y) - z
        heart = shapes.ellipsoid(x, y, z, *self.heart)
        c.paint((np.maximum(heart, above + 1), 46, 4, 4))
        centre = self.heart[0]
        for side, size in ((-1, 20), (1, 23)):
            chamber = shapes.ellipsoid(
                x, y, z, (centre[0] + side * 17, centre[1] + 8 * side, centre[2]), (size, size * 0.7, 28)
            )
            c.paint((np.maximum(chamber, above + 6), 40, 4, 2))
        descending = shapes.ellipse(x - 20, y - 26, 12.5, 12.5)
        c.paint(
            (np.maximum(shapes.ellipse(x + 6, y + 22, 16, 16), (96 - z)), 42, 4, 2),  # ascending aorta
            (descending, 44, 4, 2),
            (shapes.layer(descending + 0.6, 0.6), 60, 4, 0),
            (shapes.ellipse(x - 4, y - 18, 8, 6.5), 36, 5, 2),  # oesophagus
            (shapes.ellipse(x - 5, y - 17, 2.4, 1.5), -500, 0, 0),
        )
        for side in (-1, 1):  # main bronchi
            bronchus = np.maximum(shapes.ellipse(x - side * (8 + 0.8 * max(0.0, 78 - z)), y - 6, 6.5, 6.0), 54 - z)
            c.paint((np.maximum(bronchus - 1.4, 53 - z), 30, 0, 0), (bronchus, -990, 0, 0))

    def _bones(self, c: Canvas, x: np.ndarray, y: np.ndarray, depth: np.ndarray, inside: np.ndarray) -> None:
        z, (sx, sy) = c.z, self.spine
        # ribs: rings inside the wall that fall from the back to the front
        around = np.arctan2(np.abs(x), y - 10)
        level = z + 85 * np.sin(around / 2) ** 2 + self.rib_phase
        across = np.mod(level, 28) - 14
        rib = (np.hypot((depth - inside + 6.5) / 3.4, across / 6.2) - 1) * 3.4
        ends = np.maximum(0.35 - around, around - (2.15 + 0.0035 * z)) * 90
        cartilage = np.maximum.reduce([rib, (around - 2.9) * 90, (-20 - z) + 0 * x])
        c.paint((cartilage, 110, 10, 10))
        c.bone(np.maximum(rib, ends), shell=1.1, cortical=1050, trabecular=190)
        breastbone = shapes.ellipse(x, depth - inside + 5, 17, 5.5)
        c.bone(np.maximum.reduce([breastbone, y + 0 * x, 15 - z + 0 * x]), shell=1.0, cortical=750, trabecular=140)
        # spine
        place = np.mod(z + self.vertebra_phase, 30)
        body = shapes.ellipse(x - sx, y - sy + 4, 20.5, 16 + 0.02 * abs(place - 15))
        body = np.maximum(body, -shapes.ellipse(x - sx, y - sy - 19, 11, 8))
        if place < 6:
            c.paint((body, 85, 8, 6))
        else:
            c.bone(body, shell=1.3, cortical=900, trabecular=400 if place < 7.2 or place > 28.8 else 175, grain=45)
        canal = shapes.ellipse(x - sx, y - sy - 20, 10.5, 8.5)
        arch = np.maximum(shapes.ellipse(x - sx, y - sy - 20, 16.5, 14), -canal)
        if 10 < place < 26:
            c.bone(np.maximum(arch, sy + 6 - y), shell=1.6, cortical=1150, trabecular=320)
            for side in (-1, 1):
                c.bone(shapes.ellipse(x - sx - side * 25, y - sy - 21, 13, 4.5, side * 20), 1.3, 950, 260)
        c.bone(np.maximum(shapes.ellipse(x - sx, y - sy - 38, 3.2, 11), abs(place - 17) - 11), 1.2, 1000, 280)
        c.paint((canal, 8, 3, 0), (shapes.ellipse(x - sx, y - sy - 20, 5.8, 4.6), 36, 4, 0))
