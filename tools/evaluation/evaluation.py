"""One comparison of some rows over some slices: everything that tables, pictures and pages are made of."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from medi2i.tools.evaluation import measure, metrics
from medi2i.tools.evaluation.physics import Physics

FEW = 20  # slices that need no progress bar


@dataclass
class Evaluation:
    """`rows`, `slices`: what was compared; `windows`: of PSNR and SSIM; `shown`: of the pictures.

    `records`, `summary`: the metrics; `physics`: noise and edges, or None; `folders`: row → converted folder;
    `left_out`: why → files that are in no table.
    """

    rows: list
    slices: list
    windows: list
    shown: object
    unit: str
    records: list
    summary: dict
    physics: dict | None
    folders: dict
    left_out: dict
    pooled: dict  # row → {dice: [of class 1, 2, …], iou: likewise}, pixels of all slices together; {} without classes

    @property
    def first_metric(self) -> str:
        """The metric that slices are sorted by."""
        return next(iter(self.records[0].values))


def evaluate(rows, slices, windows, shown, unit, *, classes=None, folders=None, left_out=None, seed=0) -> Evaluation:
    """Measure all rows on all slices. With `classes` the images are class numbers. Raises UserError, Unreadable."""

    def measured(image, truth, mask):
        if classes:
            return measure.label_metrics(image, truth, classes, mask)
        return measure.image_metrics(image, truth, windows, mask)

    spacings = {one.truth.spacing for one in slices}
    physics = None if classes else Physics(windows[0], unit, spacings.pop() if len(spacings) == 1 else None)
    records, counts = [], {}
    for one in tqdm(slices, desc="measuring", unit="slice", disable=True if len(slices) <= FEW else None):
        scene = measure.read(one, rows)
        records += measure.measure(scene, measured)
        if physics is not None:
            physics.add(scene)
        for name, image in scene.images.items() if classes else []:
            for label in range(1, classes):
                found = metrics.overlap(image, scene.truth, label, scene.mask)
                counts[name, label] = np.add(counts.get((name, label), 0), found)
    pooled = (
        {
            row.name: {
                metric: [of(*map(int, counts[row.name, label])) for label in range(1, classes)]
                for metric, of in (("dice", metrics.dice_of), ("iou", metrics.iou_of))
            }
            for row in rows
        }
        if classes
        else {}
    )
    return Evaluation(
        rows,
        slices,
        windows,
        shown,
        unit,
        records,
        measure.summaries(records, seed),
        physics.result() if physics else None,
        folders or {},
        left_out or {},
        pooled,
    )
