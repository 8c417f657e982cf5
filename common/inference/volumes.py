"""A volume in memory on the way of a conversion: HU in, HU out, without files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medi2i.common.inference import pipeline
from medi2i.common.inference.conversion import open_networks
from medi2i.common.inference.jobs import refuse_no_number
from medi2i.common.inference.plan import Plan
from medi2i.common.inference.results import background, parts_of, softmax
from medi2i.common.inference.slices import Slice, SliceCache, bytes_of, load_slice
from medi2i.datasets.catalogue import Catalogue, Source, Volume
from medi2i.datasets.dicom.series import SliceRef
from medi2i.datasets.reading import Image


def translate(
    images: Sequence[Image],
    spacing: tuple[float, float] | None,
    plan_of: Callable[[Catalogue], Plan],
    modality: str = "CT",
) -> np.ndarray:
    """The results of the slices ``images`` of one volume, in order: what a conversion of a DICOM series with these
    values would write, before its numbers are rounded for the file.

    spacing: (between rows, between columns) in mm, None where it is not known. plan_of: the Plan of such a conversion.
    Returns (Z, H, W) float32 in HU, or (Z, N, H, W) where one slice has N results; of a network for classes their
    numbers, (Z, H, W) whole numbers. Raises UserError.
    """
    sources = []
    for place, image in enumerate(images):
        path, shape = Path(f"slice {place}"), image.array.shape
        ref = SliceRef(path, shape=(shape[1], shape[2]), spacing=spacing, modality=modality)
        sources.append(Source((path,), "dcm", path.name, ref=ref, shape=shape, place=place, held=image))
    plan = plan_of(Catalogue([Volume(sources)], []))
    networks, form = open_networks(plan), plan.form
    results: dict[int, np.ndarray] = {}

    def deliver(index: int, y: np.ndarray, slices: dict[int, Slice]) -> Callable[[], None]:
        unit = y if networks.samples is None else networks.samples.split(y)[0]
        refuse_no_number(unit)

        def place() -> None:
            middle = slices[index]
            back = middle.placement.back
            if form.classes:
                results[index] = back(softmax(unit), background(form.classes)).argmax(0)
                return
            parts = [back(part, middle.values)[0] for part in parts_of(unit, form, form.clip_for("dcm", None), middle)]
            if middle.mask is not None:
                parts = [np.where(middle.mask, middle.values[0], part) for part in parts]
            results[index] = parts[0] if len(parts) == 1 else np.stack(parts)

        return place

    def failed(index: int, error: Exception) -> None:
        raise error

    cache = SliceCache(
        lambda index: load_slice(sources[index], plan.preparation),
        len(sources) if plan.stack > 1 else 0,
        lambda index: bytes_of(sources[index], plan.preparation),
    )
    pipeline.run(
        pipeline.jobs(cache, len(sources), plan.stack, plan.combine, set(range(len(sources))), deliver, failed),
        networks.run,
        batch_size=plan.options.batch_size,
        workers=plan.options.workers,
        at_once=networks.at_once,
    )
    return np.stack([results[index] for index in range(len(sources))])
