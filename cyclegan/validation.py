"""Validation of CycleGAN over whole data sets: does each cycle give its image back, and do translations look like the
other domain? What a training says of it at its end.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.options import UnpairedOptions
from medi2i.common.training import likeness, mean_change
from medi2i.common.training.distributed import ALONE, Ranks
from medi2i.common.training.validation import apply, batches, error_sums, measured, rmse_and_mae, validation_batch
from medi2i.cyclegan import net
from medi2i.datasets.unpaired import FOLDERS, UnpairedDataset

BINS = 4096  # of the range [-1, 1]: less than one HU of -1024…2000


class CycleMeasure:
    """Measures x → y → x against x, and y → x → y against y, on all images of ``dataset_x`` and ``dataset_y``.

    A data set may be None. Called, it gives ``cycle_RMSE_x``, ``cycle_MAE_x`` (HU, or the unit of that domain's
    images), the same for y, and ``cycle_RMSE``, ``cycle_MAE``: the mean of both domains. With both domains of as many
    channels also ``values_y``, how far the grey values of x → y lie from those of y (``distances``, in the
    unit of y), ``texture_y``, the same of differences between neighbours, both of doing nothing as ``…_identity``, and
    the same for x. And how like x → y is to x, by ``likeness``: ``correlation_y``, ``inside_y``, ``change_y``; the same
    for x.
    Batches are shared out to ``ranks`` (medi2i.common.training.distributed) and their sums added in the order of one
    process, so the figures are its figures.
    """

    def __init__(
        self,
        dataset_x: UnpairedDataset | None,
        dataset_y: UnpairedDataset | None,
        networks: net.Networks,
        device: chainer.backend.Device,
        options: UnpairedOptions,
        ranks: Ranks = ALONE,
    ) -> None:
        self.sides = {
            name: (dataset, there, back)
            for name, dataset, there, back in (
                ("x", dataset_x, networks.translate, networks.translate_back),
                ("y", dataset_y, networks.translate_back, networks.translate),
            )
            if dataset is not None
        }
        self.device = device
        self.batch_size = validation_batch(options)
        self.ranks = ranks

    @property
    def count(self) -> int:
        """How many images the larger domain has."""
        return max(len(dataset) for dataset, *_ in self.sides.values())

    def __call__(self, indices: Iterable[int] | None = None) -> dict[str, float]:
        """The measures over the images ``indices`` of each domain that has them, by default all."""
        result, own, made, alike = {}, {}, {}, {}
        for name, (dataset, there, back) in self.sides.items():
            chosen = [i for i in (range(len(dataset)) if indices is None else indices) if i < len(dataset)]
            error, own[name], made[name], alike[name] = self._measured(dataset, there, back, chosen)
            result[f"cycle_RMSE_{name}"], result[f"cycle_MAE_{name}"] = rmse_and_mae(error)
        for kind in ("cycle_RMSE", "cycle_MAE"):
            result[kind] = sum(result[f"{kind}_{name}"] for name in self.sides) / len(self.sides)
        for source, target in (("x", "y"), ("y", "x")):
            if source in alike:
                found = likeness.means(alike[source])
                result.update({f"{name}_{target}": number for name, number in found.items()})
            if len(own) == 2 and own["x"].shape == own["y"].shape:
                half = self.sides[target][0].clip.width / 2
                for suffix, images in (("", made[source]), ("_identity", own[source])):
                    values, texture = distances(images, own[target])
                    result[f"values_{target}{suffix}"] = values * half
                    result[f"texture_{target}{suffix}"] = texture * half
        return result

    def _measured(
        self, dataset: UnpairedDataset, there: Callable, back: Callable, indices: Sequence[int]
    ) -> list[np.ndarray]:
        """[``error_sums`` of the cycle, ``appearance`` of the images, and of their translations, ``likeness.sums`` of
        both]."""

        def measure(batch: Sequence[int]) -> tuple[np.ndarray, ...]:
            images = np.stack([dataset.load(indices[i], None) for i in batch])
            translated = apply(there, images, self.device)
            again = dataset.clip.from_unit(apply(back, translated, self.device))
            cycle = error_sums(again, dataset.clip.from_unit(images))
            return cycle, appearance(images), appearance(translated), likeness.sums(images, translated)

        found = self.ranks.spread(measure, batches(len(indices), self.batch_size))
        return [np.sum(parts, axis=0) for parts in zip(*found, strict=True)]


def appearance(images: np.ndarray) -> np.ndarray:
    """How often each grey value and each absolute difference of neighbours (to the right, down) occurs in images
    (N, C, H, W) in [-1, 1], channel by channel: int (2, C, BINS); values beyond count as the ends. Those of several
    batches are added up.
    """
    right, down = (abs(np.diff(images, axis=axis)) - 1 for axis in (3, 2))
    return np.array(
        [
            [sum(_histogram(part[:, channel]) for part in parts) for channel in range(images.shape[1])]
            for parts in ((images,), (right, down))
        ]
    )


def distances(counts: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """(of the values, of the differences), by ``appearance``: mean distance of equal quantiles, which is the
    Wasserstein distance of two distributions on a line, averaged over the channels; in [-1, 1] units.
    """
    values, texture = (
        float(np.mean([_distance(a, b) for a, b in zip(*both, strict=True)]))
        for both in zip(counts, others, strict=True)
    )
    return values, texture


def _distance(counts: np.ndarray, others: np.ndarray) -> float:
    return abs(np.cumsum(counts) / counts.sum() - np.cumsum(others) / others.sum()).sum() * 2 / BINS


def _histogram(values: np.ndarray) -> np.ndarray:
    bins = ((np.clip(values, -1, 1) + 1) * (BINS / 2)).astype(np.int64)
    return np.bincount(np.minimum(bins, BINS - 1).ravel(), minlength=BINS)


def tell_end(
    options: UnpairedOptions, train: Sequence[UnpairedDataset], entries: list[dict[str, Any]], run: str | Path
) -> None:
    """Print what there is to say at the end of a training, and the command that converts.

    options: UnpairedOptions; train: the UnpairedDatasets A and B; entries: of the log; run: the run folder.
    """
    change = mean_change.sentence(
        options.mean_change,
        train[0].clip.width,
        train[0].images[0].modality == "CT",
        "so far lie the grey values of domain B from those of A (A to B; the reverse from B)",
        mean_change.LEAST_OF_DOMAINS,
    )
    for said in (*beside_identity(entries, options, train), change, *likeness.of_validations(entries, options, "_y")):
        if said is not None:
            print(said)
    print(f"to convert images of domain A:\n  {conversion_command(options, run)}", flush=True)


def expected_of(images: Sequence[UnpairedDataset], one_unit: bool) -> dict[str, float]:
    """What the domains, of one unit or not, let expect of a translation, as options of the training."""
    looks, contrasts = [], []
    for dataset in images:
        chosen = [dataset.whole(i)[np.newaxis] for i in likeness.spread(len(dataset))]
        looks.append(np.sum([appearance(image) for image in chosen], axis=0))
        contrasts.append(np.mean([image.std() for image in chosen]))
    texture = distances(*looks)[1] if one_unit else 0.0
    return likeness.of_domains(one_unit, texture, float(min(contrasts)))


def beside_identity(
    entries: list[dict[str, Any]], options: UnpairedOptions, train: Sequence[UnpairedDataset]
) -> list[str]:
    """How near translations of validation images came to the other domain, beside those images as they are, in words.

    One line for each way, at the last validation, as the last weights are taken; none without both domains. The way
    to A says nothing where ``noise_x`` makes the noise that it leaves out.

    entries: of the log, dicts; options: UnpairedOptions; train: the UnpairedDatasets A and B.
    """
    last: dict[str, Any] = next((entry for entry in reversed(entries) if "validation/values_y" in entry), {})
    unit = " HU" if all(dataset.images[0].modality == "CT" for dataset in train) else ""
    said = []
    for source, target, name in (("A", "B", "y"), ("B", "A", "x")):
        own = measured(last, f"values_{name}", f"texture_{name}")
        nothing = measured(last, f"values_{name}_identity", f"texture_{name}_identity")
        if own is None or nothing is None or (name == "x" and options.noise_x > 0):
            continue
        parts = [
            f"{what} {a:.3g}{unit} from those of {target}, {_relation(a, b)} doing nothing ({b:.3g})"
            for what, a, b in zip(("grey values", "differences of neighbours"), own, nothing, strict=True)
        ]
        said.append(f"validation, {source} to {target}: " + "; ".join(parts))
    return said


def _relation(own: float, nothing: float) -> str:
    return "nearer than" if own < nothing else "NO NEARER than" if own == nothing else "FARTHER than"


def conversion_command(options: UnpairedOptions, run: str | Path) -> str:
    """The command that converts the test images of domain A, or those of training where there are none.

    options: UnpairedOptions; run: the run folder.
    """
    folders = [Path(options.root) / FOLDERS["A", phase] for phase in ("val", "train")]
    source = next((folder for folder in folders if folder.is_dir()), folders[-1])
    words = ["python", "cyclegan/convert.py", run, "-R", source, "-o", Path(run) / "converted"]
    return shlex.join(map(str, words))
