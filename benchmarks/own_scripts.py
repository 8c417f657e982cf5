"""What benchmarks do that run the project's own scripts: one core each, a training gone on with, the series of a CT."""

import os
import subprocess
import sys
from pathlib import Path

from medi2i.datasets import dicom

ROOT = Path(__file__).resolve().parents[1]


def command(script: object, *words: object) -> None:
    """Run one of the project's scripts; ends the program where it fails."""
    arguments = [sys.executable, str(ROOT / str(script)), *map(str, words)]
    if subprocess.run(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode:
        raise SystemExit(f"{script} failed")


def trained(out: Path, minutes: float, *words: object) -> Path:
    """The run folder in ``out`` of a training by ``words``, its script first, made or gone on with."""
    if runs := sorted(out.glob("*_*")):
        command(words[0], "--resume", runs[0])
    else:
        command(*words, "--minutes", minutes, "-o", out)
    return next(out.glob("*_*"))


def longest_ct(folder: str) -> dicom.Series:
    """The CT series of a folder that has most slices."""
    return max(dicom.scan([folder], modalities=("CT",)).require_series(), key=lambda one: len(one.slices))
