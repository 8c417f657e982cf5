"""What a training says at its end: better than doing nothing or not, and which commands make a report of it."""

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medi2i.common.options import PairedOptions
from medi2i.common.training import mean_change
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.pairs import FOLDERS

CLASSICAL = ("--classical", "tv", "nlm")
PARTNERS = {inputs: truths for pair in FOLDERS.values() for inputs, truths in (pair, pair[::-1])}


def tell_end(options: PairedOptions, train: PairedDataset, entries: list[dict[str, Any]], run: str | Path) -> None:
    """Print what there is to say at the end of a training, and the commands for a report.

    options: PairedOptions; train: the PairedDataset; entries: of the log; run: the run folder.
    """
    for said in (against_nothing(entries), change_of_mean(options, train)):
        if said is not None:
            print(said)
    commands = report_commands(options, run)
    if commands:
        print("\n  ".join(["for a report beside doing nothing and classical filters:", *commands]), flush=True)


def against_nothing(entries: list[dict[str, Any]]) -> str | None:
    """The best validation so far beside the input as it is, in words; None without a validation that has both.

    entries: of the log, dicts.
    """
    known = [
        (entry["validation/RMSE"], entry["validation/RMSE_identity"])
        for entry in entries
        if "validation/RMSE_identity" in entry
    ]
    known = [(own, nothing) for own, nothing in known if _is_number(own) and _is_number(nothing)]
    if not known:
        return None
    own, nothing = min(known)
    relation = "better than" if own < nothing else "NO BETTER than" if own == nothing else "WORSE than"
    return f"validation: RMSE {own:.4g}, {relation} doing nothing ({nothing:.4g})"


def change_of_mean(options: PairedOptions, train: PairedDataset) -> str | None:
    """What the model does to the mean, in words; None where that is not known or as good as nothing.

    options: PairedOptions with ``mean_change``; train: the PairedDataset.
    """
    return mean_change.sentence(
        options.mean_change,
        train.clip_out.width,
        train.pairs[0].outputs[0].modality == "CT",
        "so far lie the outputs of the training pairs from their inputs, in the mean",
    )


def report_commands(options: PairedOptions, run: str | Path) -> list[str]:
    """The two commands that convert the validation images and compare them with all else; [] without validation.

    options: PairedOptions; run: the run folder. Strengths of classical filters are chosen on training pairs, which are
    not measured.
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
    tuned_on = options.train if listed and options.train not in FOLDERS and options.stack == 1 else None
    judging = evaluation_command(
        options,
        root if listed else inputs,
        options.val if listed else None,
        folder / "converted",
        folder / "evaluation",
        tuned_on,
    )
    return [] if judging is None else [_line(words), judging]


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
    if options.scale > 1:
        words += ["--scale", options.scale]
    if not options.class_num and mean_change.worth_telling(options.mean_change, _width_of_output(options)):
        words += ["--bias", f"{-options.mean_change:.4g}"]
    if options.class_num:
        words += ["-cn", options.class_num]
    elif tuned_on is not None:
        words += [*CLASSICAL, "--val_pairs", tuned_on]
    return _line([*words, "-o", out])


def _width_of_output(options: PairedOptions) -> float:
    low, high = getattr(options, options.clip_names[1]) or (-1, 1)
    return high - low


def _line(words: Iterable) -> str:
    return shlex.join(str(word) for word in words)


def _columns(columns: Sequence[int]) -> list:
    return [
        word
        for flag, column, default in zip(("-c1", "-c2"), columns, (0, 1), strict=True)
        if column != default
        for word in (flag, column)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
