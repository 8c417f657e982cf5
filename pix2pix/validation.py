"""Validation of pix2pix over a whole data set: errors in HU beside the identity's, or the overlap of classes; what a
training says of it at its end, and which commands make a report of it.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.options import PairedOptions
from medi2i.common.training import likeness, mean_change
from medi2i.common.training.distributed import ALONE, Ranks
from medi2i.common.training.validation import (
    apply,
    batches,
    dice_and_accuracy,
    error_sums,
    measured,
    overlap_counts,
    rmse_and_mae,
    validation_batch,
)
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.pairs import FOLDERS

CLASSICAL = ("--classical", "tv", "nlm")
PARTNERS = {inputs: truths for pair in FOLDERS.values() for inputs, truths in (pair, pair[::-1])}


class PairedMeasure:
    """Measures ``translate`` (links; (N, C, H, W) -> Variable, in [-1, 1]) on all pairs of ``dataset``.

    Called, it gives {"RMSE", "MAE"} in HU (or the images' unit), and where input and output have equal channels the
    same of doing nothing as ``RMSE_identity``, ``MAE_identity``; and how like the outputs are to the inputs, by
    ``likeness``: ``correlation``, ``inside``, ``change``. With ``--class_num``: {"Dice", "accuracy"}.
    Batches are shared out to ``ranks`` (medi2i.common.training.distributed) and their sums added in the order of one
    process, so the figures are its figures.
    """

    def __init__(
        self,
        dataset: PairedDataset,
        translate: Callable[[Array], chainer.Variable],
        device: chainer.backend.Device,
        options: PairedOptions,
        ranks: Ranks = ALONE,
    ) -> None:
        self.dataset = dataset
        self.translate = translate
        self.device = device
        self.batch_size = validation_batch(options)
        self.class_num = options.class_num
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
            return dict(zip(("Dice", "accuracy"), dice_and_accuracy(self._summed(self._overlap, parts)), strict=True))
        own, nothing, *alike = self._summed(self._errors, parts)
        result = dict(zip(("RMSE", "MAE"), rmse_and_mae(own), strict=True))
        if nothing.any():
            result.update(zip(("RMSE_identity", "MAE_identity"), rmse_and_mae(nothing), strict=True))
        result.update(likeness.means(np.array(alike)))
        return result

    def _summed(self, measure: Callable[[Sequence[int]], np.ndarray], parts: Sequence[Sequence[int]]) -> np.ndarray:
        return np.sum(self.ranks.spread(measure, parts), axis=0)

    def _errors(self, indices: Sequence[int]) -> np.ndarray:
        """(4, 3): ``error_sums`` of the outputs, and of the inputs where these can be compared with the truth; then the
        ``likeness.sums`` of both."""
        inputs, truths, outputs = self._batch(indices)
        truth = self.dataset.clip_out.from_unit(truths)
        own, nothing = error_sums(self.dataset.clip_out.from_unit(outputs), truth), np.zeros(3)
        if inputs.shape == truths.shape:
            nothing = error_sums(self.dataset.clip_in.from_unit(inputs), truth)
        return np.stack([own, nothing, *likeness.sums(inputs, outputs)])

    def _overlap(self, indices: Sequence[int]) -> np.ndarray:
        _, truths, outputs = self._batch(indices)
        return overlap_counts(labels_of(outputs, self.class_num), labels_of(truths, self.class_num), self.class_num)

    def _batch(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pairs = [self.dataset.load(i, None) for i in indices]
        inputs = np.stack([pair[0] for pair in pairs])
        truths = np.stack([pair[1] for pair in pairs])
        return inputs, truths, apply(self.translate, inputs, self.device)


def labels_of(scores: np.ndarray, class_num: int) -> np.ndarray:
    """Scores or one-hot (N, stack·classes, H, W), slice by slice, to labels (N, stack, H, W)."""
    n, channels, height, width = scores.shape
    return scores.reshape(n, channels // class_num, class_num, height, width).argmax(axis=2)


def tell_end(options: PairedOptions, train: PairedDataset, entries: list[dict[str, Any]], run: str | Path) -> None:
    """Print what there is to say at the end of a training, and the commands for a report.

    options: PairedOptions; train: the PairedDataset; entries: of the log; run: the run folder.
    """
    change = mean_change.sentence(
        options.mean_change,
        train.clip_out.width,
        train.images[0].outputs[0].modality == "CT",
        "so far lie the outputs of the training pairs from their inputs, in the mean",
    )
    for said in (beside_identity(entries), change, *likeness.of_validations(entries, options)):
        if said is not None:
            print(said)
    pair = train.images[0]
    commands = report_commands(options, run, pair.inputs[0].modality == pair.outputs[0].modality)
    if commands:
        filters = " and classical filters" if CLASSICAL[0] in commands[-1] else ""
        print("\n  ".join([f"for a report beside doing nothing{filters}:", *commands]), flush=True)


def beside_identity(entries: list[dict[str, Any]]) -> str | None:
    """The best validation so far beside the input as it is, in words; None without a validation that has both.

    entries: of the log, dicts.
    """
    known = [both for entry in entries if (both := measured(entry, "RMSE", "RMSE_identity")) is not None]
    if not known:
        return None
    own, nothing = min(known)
    relation = "better than" if own < nothing else "NO BETTER than" if own == nothing else "WORSE than"
    return f"validation: RMSE {own:.4g}, {relation} doing nothing ({nothing:.4g})"


def report_commands(options: PairedOptions, run: str | Path, one_modality: bool = True) -> list[str]:
    """The two commands that convert the validation images and compare them with all else; [] without validation.

    options: PairedOptions; run: the run folder. Strengths of classical filters are chosen on training pairs, which are
    not measured; where inputs and outputs are not of one modality no filter makes the one of the other.
    """
    root, folder = Path(options.root), Path(run)
    listed = options.val not in FOLDERS
    inputs = root / ("testB" if options.btoa else "testA")
    words: list[object] = [
        "python",
        "pix2pix/convert.py",
        folder,
        "-R",
        *([root, "--val", options.val] if listed else [inputs]),
        "-o",
        folder / "converted",
    ]
    by_list = listed and options.train not in FOLDERS
    tuned_on = options.train if by_list and options.stack == 1 and one_modality else None
    judging = evaluation_command(
        options,
        root if listed else inputs,
        options.val if listed else None,
        folder / "converted",
        folder / "evaluation",
        tuned_on,
    )
    return [] if judging is None else [shlex.join(map(str, words)), judging]


def evaluation_command(
    options: PairedOptions,
    root: str | Path,
    listed: str | None,
    converted: str | Path,
    out: str | Path,
    tuned_on: str | None = None,
) -> str | None:
    """The command that measures converted images; None where no truth is known for them.

    options: PairedOptions of the training. root: the folder that was converted, or that the list `listed` begins at.
    tuned_on: list of other pairs to choose the strength of classical filters on.
    """
    words: list[object] = ["python", "tools/evaluate.py"]
    if listed is not None:
        columns = (options.to_col[0], options.from_col[0]) if options.btoa else (options.from_col[0], options.to_col[0])
        words += ["-R", root, "--pairs", listed, *_columns(columns)]
    else:
        truths = PARTNERS.get(Path(root).name)
        if truths is None or not Path(root).with_name(truths).is_dir():
            return None
        words += ["-i", root, "-t", Path(root).with_name(truths)]
    words += ["-c", f"pix2pix={converted}"]
    low, high = getattr(options, options.clip_names[1]) or (-1, 1)
    if options.scale > 1:
        words += ["--scale", options.scale]
    if not options.class_num and mean_change.worth_telling(options.mean_change, high - low):
        words += ["--bias", f"{-options.mean_change:.4g}"]
    if options.class_num:
        words += ["-cn", options.class_num]
    elif tuned_on is not None:
        words += [*CLASSICAL, "--val_pairs", tuned_on]
    return shlex.join(map(str, [*words, "-o", out]))


def _columns(columns: Sequence[int]) -> list:
    return [
        word
        for flag, column, default in zip(("-c1", "-c2"), columns, (0, 1), strict=True)
        if column != default
        for word in (flag, column)
    ]
