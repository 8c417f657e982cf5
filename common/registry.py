"""Models by name: those that come with medi2i, and the user's own. Nothing is ever fetched from anywhere.

A model is a run folder, ``args`` and weights, with a card: ``card.json``, what a program needs to know of it, and
``README.md``, the same and more for people. Wherever a run folder can be named, so can a model.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medi2i.common.bounded_files import read_json
from medi2i.common.errors import UserError

VARIABLE = "MEDI2I_MODELS"
"""Of the environment: folders that hold models, looked into before all others."""
CARD, TEXT = "card.json", "README.md"


@dataclass(frozen=True)
class Card:
    """summary: one line. modality: of its images, as DICOM has it. noise_hu, pixel_mm: lowest and highest noise level
    (standard deviation in soft tissue) and pixel size that it has seen. None: it does not say."""

    summary: str = "no card"
    modality: str | None = None
    noise_hu: tuple[float, float] | None = None
    pixel_mm: tuple[float, float] | None = None


def places() -> list[Path]:
    """Folders of models: of the environment, of the user, of medi2i."""
    given = [Path(one) for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]
    return [*given, users_place(), Path(__file__).resolve().parents[1] / "models"]


def users_place() -> Path:
    """Where users put models of their own."""
    return Path.home() / ".medi2i" / "models"


def models() -> dict[str, Path]:
    """Name -> folder, the first place that has it."""
    found: dict[str, Path] = {}
    for place in places():
        for args in sorted(place.glob("*/args")) if place.is_dir() else []:
            found.setdefault(args.parent.name, args.parent)
    return found


def located(path: Path | str) -> Path:
    """The file or folder ``path`` where there is one, else the model of that name, else ``path``."""
    path = Path(path)
    return path if path.exists() or len(path.parts) != 1 else models().get(path.name, path)


def known_names() -> str:
    """For errors: which names would do."""
    names = sorted(models())
    return f"or a model by name: {', '.join(names)}" if names else f"or the name of a model in {users_place()}"


def card_of(folder: Path) -> Card:
    """The Card in a model's folder; one that says nothing where there is none. Raises UserError."""
    path = folder / CARD
    if not path.is_file():
        return Card()
    right = "summary, modality, noise_hu and pixel_mm would be right"
    content = read_json(path, right)
    if not isinstance(content, dict) or not isinstance(content.get("summary"), str):
        raise UserError(f"{path}: no card of a model; {right}")
    return Card(
        content["summary"],
        content.get("modality"),
        _range(content, "noise_hu", path),
        _range(content, "pixel_mm", path),
    )


def _range(content: dict[str, Any], key: str, path: Path) -> tuple[float, float] | None:
    value = content.get(key)
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(one, (int, float)) for one in value)):
        raise UserError(f"{path}: {key} is {value!r}; two numbers, the lowest and the highest, would be right")
    return float(value[0]), float(value[1])
