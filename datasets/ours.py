"""Folders that this software filled: results of conversions and runs of trainings, which are no data to begin with."""

import logging
import os
from pathlib import Path

REPORT, BESIDE = "conversion.json", ".report"
"""Name of a conversion's report, and what the name of a folder of DICOM results has more where it lies beside them."""
RUN = ("args", "command.txt")

log = logging.getLogger(__name__)
_told: set[str] = set()


def what(folder) -> str | None:
    """What a folder is, in words: results of a conversion, the report on them, a run of a training; None for others."""
    folder = Path(os.path.abspath(folder))
    if (folder / REPORT).is_file():
        return "the report of a conversion" if folder.name.endswith(BESIDE) else "results of a conversion"
    if (folder.with_name(folder.name + BESIDE) / REPORT).is_file():
        return "results of a conversion"
    return "a run of a training" if all((folder / name).is_file() for name in RUN) else None


def without_ours(place, folders) -> list[str]:
    """The names ``folders`` in the folder ``place`` without ours, which a line each tells of, once a process.

    What is named itself is searched, whatever it is: this is for folders that are found below.
    """
    kept = []
    for name in folders:
        path = os.path.join(place, name)
        found = what(path)
        if found is None:
            kept.append(name)
        elif path not in _told:
            _told.add(path)
            log.warning("%s: left out, it holds %s; to take its images, name it", path, found)
    return kept
