"""What a training says at its end: what the model does to the mean, and which command converts with it."""
import shlex
from pathlib import Path

from medi2i.common.training import mean_change
from medi2i.datasets.unpaired import FOLDERS


def change_of_mean(options, train) -> str | None:
    """What A to B does to the mean, in words; None where that is not known or as good as nothing.

    options: UnpairedOptions with ``mean_change``; train: the UnpairedDatasets A and B.
    """
    return mean_change.sentence(options.mean_change, train[0].clip.width, train[0].sources[0].modality == "CT",
                                "so far lie the grey values of domain B from those of A (A to B; the reverse from B)")


def conversion_command(options, run) -> str:
    """The command that converts the test images of domain A, or those of training where there are none.

    options: UnpairedOptions; run: the run folder.
    """
    folders = [Path(options.root) / FOLDERS["A", phase] for phase in ("val", "train")]
    source = next((folder for folder in folders if folder.is_dir()), folders[-1])
    words = ["python", "cyclegan/convert.py", run, "-R", source, "-o", Path(run) / "converted"]
    return shlex.join(str(word) for word in words)
