"""What a training says at its end: nearer to the other domain than doing nothing or not, what the model does to the
mean, and which command converts with it.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medi2i.common.options import UnpairedOptions
from medi2i.common.training import mean_change
from medi2i.datasets.unpaired import FOLDERS, UnpairedDataset


def tell_end(
    options: UnpairedOptions, train: Sequence[UnpairedDataset], entries: list[dict[str, Any]], run: str | Path
) -> None:
    """Print what there is to say at the end of a training, and the command that converts.

    options: UnpairedOptions; train: the UnpairedDatasets A and B; entries: of the log; run: the run folder.
    """
    for said in (*against_nothing(entries, options, train), change_of_mean(options, train)):
        if said is not None:
            print(said)
    print(f"to convert images of domain A:\n  {conversion_command(options, run)}", flush=True)


def against_nothing(
    entries: list[dict[str, Any]], options: UnpairedOptions, train: Sequence[UnpairedDataset]
) -> list[str]:
    """How near translations of validation images came to the other domain, beside those images as they are, in words.

    One line for each way, at the last validation, as the last weights are taken; none without both domains. The way
    to A says nothing where ``noise_x`` makes the noise that it leaves out.

    entries: of the log, dicts; options: UnpairedOptions; train: the UnpairedDatasets A and B.
    """
    last: dict[str, Any] = next((entry for entry in reversed(entries) if "validation/values_y" in entry), {})
    unit = " HU" if all(dataset.sources[0].modality == "CT" for dataset in train) else ""
    said = []
    for source, target, name in (("A", "B", "y"), ("B", "A", "x")):
        own = [last.get(f"validation/{kind}_{name}") for kind in ("values", "texture")]
        nothing = [last.get(f"validation/{kind}_{name}_identity") for kind in ("values", "texture")]
        if not all(_is_number(value) for value in (*own, *nothing)) or (name == "x" and options.noise_x > 0):
            continue
        parts = [
            f"{what} {a:.3g}{unit} from those of {target}, {_relation(a, b)} doing nothing ({b:.3g})"
            for what, a, b in zip(("grey values", "differences of neighbours"), own, nothing, strict=True)
        ]
        said.append(f"validation, {source} to {target}: " + "; ".join(parts))
    return said


def _relation(own: Any, nothing: Any) -> str:
    return "nearer than" if own < nothing else "NO NEARER than" if own == nothing else "FARTHER than"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def change_of_mean(options: UnpairedOptions, train: Sequence[UnpairedDataset]) -> str | None:
    """What A to B does to the mean, in words; None where that is not known or as good as nothing.

    options: UnpairedOptions with ``mean_change``; train: the UnpairedDatasets A and B.
    """
    return mean_change.sentence(
        options.mean_change,
        train[0].clip.width,
        train[0].sources[0].modality == "CT",
        "so far lie the grey values of domain B from those of A (A to B; the reverse from B)",
        mean_change.LEAST_OF_DOMAINS,
    )


def conversion_command(options: UnpairedOptions, run: str | Path) -> str:
    """The command that converts the test images of domain A, or those of training where there are none.

    options: UnpairedOptions; run: the run folder.
    """
    folders = [Path(options.root) / FOLDERS["A", phase] for phase in ("val", "train")]
    source = next((folder for folder in folders if folder.is_dir()), folders[-1])
    words = ["python", "cyclegan/convert.py", run, "-R", source, "-o", Path(run) / "converted"]
    return shlex.join(str(word) for word in words)
