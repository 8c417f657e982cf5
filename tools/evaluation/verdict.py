"""What the table says, in a sentence: is the converted image better than doing nothing?"""

from dataclasses import dataclass

import numpy as np

from medi2i.common.errors import counted
from medi2i.tools.evaluation.table import label

LARGER_IS_BETTER = frozenset({"psnr", "ssim", "dice", "iou"})


@dataclass(frozen=True)
class Verdict:
    """One sentence on one row; `worse`: it lost against a row that is there for comparison."""

    text: str
    worse: bool


def larger_is_better(metric: str) -> bool:
    """Of `rmse`, `psnr soft` and so on."""
    return metric.partition(" ")[0] in LARGER_IS_BETTER


def verdicts(records, baselines, judged, metric: str, unit: str) -> list[Verdict]:
    """For every row in `judged`: how its mean of `metric` compares with the best of the rows in `baselines`."""
    by_row = {}
    for record in records:
        by_row.setdefault(record.row, []).append(record.values[metric])
    sign = 1 if larger_is_better(metric) else -1
    means = {row: float(np.mean(values)) for row, values in by_row.items()}
    best = max(baselines, key=lambda row: sign * means[row])
    told = f"{unit and ' ' + unit}"
    result = []
    for row in judged:
        better = sum(sign * a > sign * b for a, b in zip(by_row[row], by_row[best], strict=True))
        worse = sign * means[row] <= sign * means[best]
        relation = "no better than" if means[row] == means[best] else "WORSE than" if worse else "better than"
        result.append(
            Verdict(
                f"{row}: {label(metric)} {means[row]:.4g}{told}, {relation} {best} "
                f"({means[best]:.4g}{told}); better on {better} of "
                f"{counted(len(by_row[row]), 'slice')}",
                worse,
            )
        )
    return result
