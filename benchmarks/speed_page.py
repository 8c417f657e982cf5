"""docs/speed.md: what a run of bench.py measured, as tables."""

import json
from pathlib import Path
from typing import Any

from conversion import TWIN_EXPORT
from measure import Rows


def write(path: Path, results_path: Path) -> None:
    """Write the page of the JSON file ``results_path``."""
    content = json.loads(Path(results_path).read_text(encoding="utf-8"))
    machine, results = content["machine"], content["results"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    lines = [
        "# How fast it is",
        "",
        "Made by `make bench WRITE=docs/speed.md`, which measures all candidates in turn in one run: a ratio is "
        "the median over the rounds of two times measured one after the other, with a pause between. The "
        "networks are the tutorial's "
        "generator (32, 64, 128 channels, nine blocks) and discriminator, and CycleGAN with its own defaults and "
        "these channels; those of PyTorch have the same layers and are counted to have the same weights.",
        "",
        f"- machine: {machine['cpu']}, {machine['cores']} cores, no GPU"
        + (f"; {', '.join(machine['instructions'])}" if machine["instructions"] else ""),
        f"- threads: {machine['threads']}; Python {machine['python']}; {packages}",
        "",
    ]
    for one in results:
        lines += SECTIONS[one["what"]](one) if one["what"] in SECTIONS else []
    lines += _loading([one for one in results if one["what"] == "loading"])
    lines += _idle([one for one in results if one["what"] == "idle"])
    Path(path).write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _table(candidates: Rows, reference: str, deviation: bool = False) -> list[str]:
    head = "| | seconds | fastest | × " + reference + " |" + (" largest difference in [-1, 1] |" if deviation else "")
    lines = [head, "|---|" + "---|" * (head.count("|") - 2)]
    for name, row in candidates.items():
        lines.append(
            f"| {name} | {row['median_s']:.3f} | {row['fastest_s']:.3f} | {row['ratio']:.2f} |"
            + (f" {row['largest_deviation']:.1e} |" if deviation else "")
        )
    return lines


def _conversion(one: dict[str, Any]) -> list[str]:
    lines = [
        f"## Conversion of one image, {one['size']}×{one['size']}",
        "",
        "The weights are fresh ones, which blow differences up, int8 above all: they say nothing of trained "
        "networks ([conversion.md](conversion.md) does).",
        "",
        *_table(one["candidates"], "Chainer", deviation=True),
        "",
    ]
    if "medi2i_to_onnxruntime" in one:
        lines += [f"The quickest fp32 engine takes {one['medi2i_to_onnxruntime']:.2f} × the time of {TWIN_EXPORT}.", ""]
    return lines


def _end_to_end(one: dict[str, Any]) -> list[str]:
    return [
        f"## DICOM to DICOM, {one['slices']} slices of {one['size']}×{one['size']}, {one['engine']}",
        "",
        "The whole command but for the start of Python: model, check of the first image, reading, scaling, edges, "
        "writing.",
        "",
        *_table(one["candidates"], "engine alone"),
        "",
    ]


def _training(one: dict[str, Any]) -> list[str]:
    lines = [
        f"## Training step, {one['application']}, {one['size']}×{one['size']}, batch {one['batch']}",
        "",
        *_table(one["candidates"], "Chainer"),
        "",
    ]
    if "medi2i_to_best_pytorch" in one:
        lines += [f"medi2i takes {one['medi2i_to_best_pytorch']:.2f} × the time of PyTorch's better layout.", ""]
    return lines


def _memory(one: dict[str, Any]) -> list[str]:
    lines = [
        f"## Peak memory of training, pix2pix {one['size']}×{one['size']}, batch {one['batch']}",
        "",
        "Of a process that makes two steps.",
        "",
        "| | MB |",
        "|---|---|",
    ]
    lines += [f"| {name} | {megabytes:.0f} |" for name, megabytes in one["megabytes"].items() if megabytes is not None]
    return [*lines, ""]


def _loading(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        f"## Loading, DICOM {rows[0]['size']}×{rows[0]['size']}, pairs",
        "",
        "| stored | from | augmentation | slices a second and core |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one['stored']} | {one['source']} | {one['augmentation']} | {one['slices_per_core_second']:.0f} |"
        for one in rows
    ]
    return [*lines, ""]


def _idle(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        f"## A training waits for images, crop {rows[0]['crop']}, nothing cached",
        "",
        "| | of the time | seconds an update |",
        "|---|---|---|",
    ]
    lines += [f"| {one['workers']} | {100 * one['fraction']:.2f} % | {one['update_s']:.2f} |" for one in rows]
    return [*lines, ""]


SECTIONS = {"conversion": _conversion, "end to end": _end_to_end, "training": _training, "memory": _memory}
