"""Validation of pix2pix over a whole data set: errors in HU beside the identity's, or the overlap of classes."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.training.distributed import ALONE, Alone
from medi2i.common.training.validation import ErrorSum, OverlapSum, apply, batches
from medi2i.datasets.paired import PairedDataset


class PairedMeasure:
    """Measures ``translate`` (links; (N, C, H, W) -> Variable, in [-1, 1]) on all pairs of ``dataset``.

    Called, it gives {"RMSE", "MAE"} in HU (or the images' unit), and where input and output have equal channels the
    same of doing nothing as ``RMSE_identity``, ``MAE_identity``. With ``class_num`` > 0: {"Dice", "accuracy"}.
    Batches are shared out to ``ranks`` (medi2i.common.training.distributed) and their sums added in the order of one
    process, so the figures are its figures.
    """

    def __init__(
        self,
        dataset: PairedDataset,
        translate: Callable[[Array], chainer.Variable],
        device: chainer.backend.Device,
        batch_size: int,
        class_num: int = 0,
        ranks: Alone = ALONE,
    ) -> None:
        self.dataset = dataset
        self.translate = translate
        self.device = device
        self.batch_size = batch_size
        self.class_num = class_num
        self.ranks = ranks

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return len(self.dataset)

    def __call__(self, indices: Iterable[int] | None = None) -> dict[str, float]:
        """The measures over the pairs ``indices``, by default all."""
        indices = list(range(len(self.dataset)) if indices is None else indices)
        parts = [[indices[i] for i in batch] for batch in batches(len(indices), self.batch_size)]
        if self.class_num > 0:
            total = OverlapSum(self.class_num)
            for part in self.ranks.spread(self._overlap, parts):
                total.merge(part)
            return {"Dice": total.dice, "accuracy": total.accuracy}
        own, nothing = ErrorSum(), ErrorSum()
        for part in self.ranks.spread(self._errors, parts):
            own.merge(part[0])
            nothing.merge(part[1])
        result = {"RMSE": own.rmse, "MAE": own.mae}
        if nothing.count:
            result.update(RMSE_identity=nothing.rmse, MAE_identity=nothing.mae)
        return result

    def _errors(self, indices: Sequence[int]) -> tuple[ErrorSum, ErrorSum]:
        inputs, truths, outputs = self._batch(indices)
        own, nothing = ErrorSum(), ErrorSum()
        truth = self.dataset.clip_out.from_unit(truths)
        own.add(self.dataset.clip_out.from_unit(outputs), truth)
        if inputs.shape == truths.shape:
            nothing.add(self.dataset.clip_in.from_unit(inputs), truth)
        return own, nothing

    def _overlap(self, indices: Sequence[int]) -> OverlapSum:
        _, truths, outputs = self._batch(indices)
        overlap = OverlapSum(self.class_num)
        overlap.add(labels_of(outputs, self.class_num), labels_of(truths, self.class_num))
        return overlap

    def _batch(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pairs = [self.dataset.load(i, None) for i in indices]
        inputs = np.stack([pair[0] for pair in pairs])
        truths = np.stack([pair[1] for pair in pairs])
        return inputs, truths, apply(self.translate, inputs, self.device)


def labels_of(scores: np.ndarray, class_num: int) -> np.ndarray:
    """Scores or one-hot (N, stack·classes, H, W), slice by slice, to labels (N, stack, H, W)."""
    n, channels, height, width = scores.shape
    return scores.reshape(n, channels // class_num, class_num, height, width).argmax(axis=2)
