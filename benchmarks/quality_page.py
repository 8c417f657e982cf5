"""docs/quality.md: everything that is in the work folder, as tables."""

import datetime
import json
import shlex
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import measure
from quality_judge import ELSEWHERE, RANGES
from quality_subjects import DATA, SPECTRAL, SUBJECTS, Subject, training_words
from quality_work import Work

COLUMNS = {
    "rmse": ("RMSE / HU", 2),
    "mae": ("MAE / HU", 2),
    "bias": ("bias / HU", 2),
    **{
        f"{metric} {window.name}": (f"{metric.upper()} {window.name}" + unit, digits)
        for window in RANGES
        for metric, unit, digits in (("psnr", " / dB", 2), ("ssim", "", 5))
    },
    "edge": ("edge / mm", 2),
}
Rows = dict[str, dict[str, float]]
"""Row -> metric -> mean over the slices."""

OURS, ALL_SEEDS = "medi2i, seed ", "medi2i"


def judged(work: Work) -> dict[str, Any]:
    """name -> what is known, of every subject that has been measured, in their order, and of slices from elsewhere."""
    found = {}
    for name in (*SUBJECTS, ELSEWHERE):
        path = work.path / "judged" / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def mean_of_seeds(rows: Rows) -> dict[str, tuple[float, float | None]]:
    """{metric: (mean, standard deviation or None)} over the rows of the seeds."""
    own = [values for row, values in rows.items() if row.startswith(OURS)]
    return {
        metric: (
            statistics.fmean(one[metric] for one in own if metric in one),
            statistics.stdev(one[metric] for one in own) if len(own) > 1 else None,
        )
        for metric in own[0]
    }


def table(rows: Rows, names: dict[str, str] | None = None) -> list[str]:
    """Markdown lines; names: row -> what people call it."""
    shown = [metric for metric in COLUMNS if any(metric in values for values in rows.values())]
    lines = ["| | " + " | ".join(COLUMNS[metric][0] for metric in shown) + " |", "|---|" + "---|" * len(shown)]

    def line(row: str, cells: Iterable[str]) -> str:
        return f"| {(names or {}).get(row, row)} | " + " | ".join(cells) + " |"

    for row, values in rows.items():
        lines.append(
            line(row, [f"{values[metric]:.{COLUMNS[metric][1]}f}" if metric in values else "" for metric in shown])
        )
    own = [row for row in rows if row.startswith(OURS)]
    if len(own) > 1:
        means = mean_of_seeds(rows)
        lines.append(
            line(
                f"**medi2i, {len(own)} seeds**",
                [
                    "**"
                    + f"{means[metric][0]:.{COLUMNS[metric][1]}f} ± {means[metric][1]:.{COLUMNS[metric][1]}f}"
                    + "**"
                    for metric in shown
                ],
            )
        )
    return lines


def verdicts(rows: Rows) -> list[str]:
    """Better or worse than the best of the other rows, and than BM3D, in words."""
    means = {metric: value for metric, (value, _) in mean_of_seeds(rows).items()}
    others = {row: values for row, values in rows.items() if not row.startswith(OURS)}
    best = min(others, key=lambda row: others[row]["rmse"])
    lines = []
    for other in dict.fromkeys((best, *(row for row in others if row == "bm3d"))):
        told = []
        for metric in ("rmse", "psnr full", "ssim full", "psnr soft", "ssim soft"):
            name, digits = COLUMNS[metric]
            difference = means[metric] - others[other][metric]
            better = difference < 0 if metric == "rmse" else difference > 0
            told.append(f"{name.partition(' / ')[0]} {difference:+.{digits}f} ({'better' if better else 'worse'})")
        what = f"{other}, the best of the other rows in RMSE" if other == best else other
        lines.append(f"Against {what}: " + ", ".join(told) + ".")
    return lines


def separate(paragraphs: list[str]) -> list[str]:
    """Paragraphs with empty lines between them."""
    return "\n\n".join(paragraphs).split("\n")


def names_of(subject: Subject, rows: Rows) -> dict[str, str]:
    """identity as what it is."""
    first = DATA[subject.data].input_name
    return {
        row: row.replace("identity", first) + (" HU" if " - " in row else "")
        for row in rows
        if row.startswith("identity")
    }


def told_of_trainings(one: dict[str, Any], minutes_of: float) -> str:
    """Seconds and updates of each seed."""
    parts = []
    for seed, record in one["trainings"].items():
        facts = record["facts"]
        parts.append(f"seed {seed}: {facts['updates']} updates in {facts['seconds'] / 60:.1f} minutes")
    return "; ".join(parts) + f" (`--minutes {minutes_of:g}`)"


def section(work: Work, name: str, one: dict[str, Any], pictures: Path) -> list[str]:
    """The lines of a subject."""
    subject = SUBJECTS[name]
    data = DATA[subject.data]
    record = next(iter(one["trainings"].values()))
    minutes = record["decided_by"]["minutes"]
    counts = work.finished(f"data/{subject.data}")["facts"]["counts"]
    folder = Path(data.name)
    words = training_words(subject, folder, Path("unpaired"), Path("run"), minutes, next(iter(one["trainings"])))
    lines = [
        f"## {subject.title}",
        "",
        f"Input: {data.what}. "
        + (
            "Domain A: the first half of the training slices, noisy; domain B: the second half, other levels of the "
            "body, clean. "
            if subject.unpaired
            else ""
        )
        + f"{counts['train']} slices to train, {counts['val']} to choose, {counts['test']} to test.",
        "",
        "```",
        "python " + shlex.join(map(str, words)),
        "```",
        "",
        told_of_trainings(one, minutes),
        "",
        *table(one["rows"], names_of(subject, one["rows"])),
        "",
        *separate(verdicts(one["rows"])),
    ]
    if one["classical"]:
        lines += [
            "",
            "Strengths chosen on validation slices, in HU: "
            + ", ".join(f"{row} {facts['strength'] * facts['sigma']:.3g}" for row, facts in one["classical"].items())
            + " (deviation of the noise: "
            + f"{next(iter(one['classical'].values()))['sigma']:.3g}). Seconds a slice: "
            + ", ".join(f"{row} {facts['seconds_per_slice']:.2g}" for row, facts in one["classical"].items())
            + ".",
        ]
    if SPECTRAL in one["classical"]:
        lines += [
            "",
            f"{SPECTRAL}: BM3D that is told the power spectrum of the noise, measured on the training part; "
            "bm3d takes the noise for white.",
        ]
    if "edge" in one["truth"]:
        lines += ["", f"Edge of the truth: {one['truth']['edge']:.2f} mm."]
    if (pictures / f"quality_{name}.png").exists():
        lines += ["", f"![{subject.title}](pictures/quality_{name}.png)"]
    return [*lines, ""]


def section_elsewhere(one: dict[str, Any]) -> list[str]:
    """The lines of the slices from elsewhere."""
    lines = [
        "## The same model on other scanners",
        "",
        "The first model of the first table, trained on one series, applied to the CT slices that pydicom "
        "brings (other scanners, pixel sizes, reconstruction kernels and parts of the body), with the same noise. "
        "The filters keep the strengths chosen on the first series.",
        "",
        *table(one["rows"], {row: row.replace("identity", "noisy input") for row in one["rows"]}),
        "",
        *separate(verdicts(one["rows"])),
        "",
        "RMSE / HU of each slice:",
        "",
        "| | " + " | ".join(Path(key).name for key in one["keys"]) + " |",
        "|---|" + "---|" * len(one["keys"]),
    ]
    lines += [
        f"| {row} | " + " | ".join(f"{value:.2f}" for value in values) + " |" for row, values in one["slices"].items()
    ]
    if one["absent"]:
        lines += ["", "Not there (they come with pydicom-data): " + ", ".join(one["absent"])]
    return [*lines, ""]


def write(path: Path, work: Work, about: str, jobs: int) -> dict[str, Any]:
    """Write the page. about: a few words on the CT. jobs: trainings at the same time."""
    found = judged(work)
    machine = measure.machine()
    packages = ", ".join(
        f"{name} {version}"
        for name, version in machine["packages"].items()
        if version and name in ("numpy", "chainer", "onednn-cpu-gomp")
    )
    minutes = (
        sum(json.loads(record.read_text(encoding="utf-8"))["seconds"] for record in work.path.rglob("step.json")) / 60
    )
    windows = ", ".join(
        f"{window.name} = {window.lower:g}…{window.upper:g} HU (data range {window.range:g})" for window in RANGES
    )
    lines = [
        "# How good it is",
        "",
        "Made by `make quality CT=/path/to/series WRITE=docs/quality.md`; benchmarks/quality.py says how. "
        "Figures are means over the test slices, which nothing was chosen on; the last row is mean ± standard "
        "deviation over the seeds of "
        f"the training. PSNR and SSIM: both images clipped to {windows}. `edge`: distance in which the mean edge "
        "rises from 10 % to 90 %, larger is blurrier. How each is computed: [evaluation.md](evaluation.md). The "
        "classical filters work on the input without its known bias, with the strength that was best on "
        "validation slices.",
        "",
        f"- data: {about}; in contiguous blocks: first half to train, next sixth to choose, last third to test",
        f"- machine: {machine['cpu']}, {machine['cores']} cores, no GPU; {jobs} steps at the same time, one "
        "thread each",
        f"- software: Python {machine['python']}, {packages}",
        f"- made {datetime.date.today().isoformat()}; all steps together {minutes:.0f} minutes of one core",
        "",
    ]
    for name, one in found.items():
        lines += section_elsewhere(one) if name == ELSEWHERE else section(work, name, one, path.parent / "pictures")
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return found


def short_table(found: dict[str, Any]) -> str:
    """RMSE of every row in one table, for a README."""
    subjects = {name: one for name, one in found.items() if name != ELSEWHERE}
    rows = list(dict.fromkeys(row for one in subjects.values() for row in one["rows"] if not row.startswith(OURS)))
    lines = [
        "| RMSE / HU | " + " | ".join(SUBJECTS[name].title for name in subjects) + " |",
        "|---|" + "---|" * len(subjects),
    ]
    for row in rows:
        lines.append(
            f"| {row} | "
            + " | ".join(f"{one['rows'][row]['rmse']:.2f}" if row in one["rows"] else "" for one in subjects.values())
            + " |"
        )
    cells = []
    for one in subjects.values():
        mean, spread = mean_of_seeds(one["rows"])["rmse"]
        cells.append(f"{mean:.2f}" + (f" ± {spread:.2f}" if spread is not None else ""))
    return "\n".join([*lines, f"| {ALL_SEEDS} | " + " | ".join(cells) + " |"])
