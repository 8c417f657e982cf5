"""How training scales to many GPUs: what is sent, the efficiency to expect, what the disk must give; and a measurement.

    python benchmarks/scaling.py                                         # tables on the terminal
    python benchmarks/scaling.py --docs docs/scaling.md --picture docs/pictures/scaling.png
    python benchmarks/scaling.py --measure                               # 1 and 2 processes on the CPU, 3 minutes

Only ``--measure`` measures; everything else is computed from the inputs in scaling_subjects.py. docs/scaling.md tells
which of these are known and which assumed.
"""

import argparse
import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import scaling_subjects
from scaling_model import Cluster, Jitter, Stage, compute_time, efficiency, simulate, update_time
from scaling_subjects import Subject

RANKS = (8, 64, 512)
JITTER = Jitter(spread=0.03, stalls=0.001, stall=1.0)  # assumed
UPDATES, MOST_REPEATS, NUMBERS = 2, 512, 65536  # simulated at least 128 times two updates; NUMBERS: ranks x repeats
SLICE = 2 * 512 * 512 + 4096  # bytes of a CT slice, 512 x 512 in 16 bits, and a header
DRAWN = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@functools.cache
def parts(subject: Subject) -> tuple[scaling_subjects.Counted, list[Stage]]:
    """(Counted, stages) of a subject."""
    found = scaling_subjects.counted(subject)
    return found, scaling_subjects.stages(subject, found)


def label(subject: Subject) -> str:
    """A subject in a table."""
    return f"{subject.name}, {subject.size}², batch {subject.batch}"


def formula(subject: Subject, ranks: int, cluster: Cluster) -> float:
    """Efficiency by the formula, 0 to 1."""
    _, stages = parts(subject)
    return efficiency(update_time(stages, ranks, cluster), stages)


@functools.cache
def simulated(subject: Subject, ranks: int, cluster: Cluster, seed: int = 0) -> float:
    """Efficiency by simulation with JITTER; all links and subjects meet the same slow ranks."""
    _, stages = parts(subject)
    seconds, _ = simulate(
        stages, ranks, cluster, JITTER, updates=UPDATES, repeats=min(MOST_REPEATS, NUMBERS // ranks), seed=seed
    )
    return efficiency(seconds, stages)


def cell(subject: Subject, ranks: int, cluster: Cluster) -> str:
    """Both efficiencies in per cent, as a table has them."""
    return f"{100 * formula(subject, ranks, cluster):.0f} / {100 * simulated(subject, ranks, cluster):.0f}"


def table(head: Sequence, rows: Iterable) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def sent() -> str:
    """What an update sends: the networks' weights, and bytes."""
    rows, seen = [], set()
    for subject in scaling_subjects.SUBJECTS:
        if subject.name in seen:
            continue
        seen.add(subject.name)
        found, _ = parts(subject)
        weights = ", ".join(f"{name} {number / 1e6:.2f}" for name, number in found.weights.items())
        total = sum(found.messages.values())
        rows.append(
            (
                subject.name,
                weights,
                len(found.messages),
                f"{total / 1e6:.1f} MB",
                f"{4 * found.statistics / 1e3:.0f} kB in {found.arrays} arrays" if found.arrays else "none",
            )
        )
    return table(("", "weights, millions", "all-reduces", "gradients", "running statistics"), rows)


def predicted() -> str:
    """Efficiencies, formula / simulation."""
    rows = []
    for subject in scaling_subjects.SUBJECTS:
        _, stages = parts(subject)
        for ranks in RANKS:
            name = f"{label(subject)}: {1e3 * compute_time(stages):.0f} ms" if ranks == RANKS[0] else ""
            rows.append((name, ranks, *(cell(subject, ranks, cluster) for cluster in scaling_subjects.CLUSTERS)))
    return table(("formula / simulation, %", "GPUs", *(cluster.name for cluster in scaling_subjects.CLUSTERS)), rows)


def needed() -> str:
    """What the file system must give while nothing is cached: slices a second and bytes, two slices an example."""
    rows, cluster = [], scaling_subjects.CLUSTERS[1]
    for subject in scaling_subjects.SUBJECTS:
        _, stages = parts(subject)
        row = [label(subject)]
        for ranks in (1, *RANKS):
            slices = 2 * subject.batch * ranks / update_time(stages, ranks, cluster)
            row.append(
                f"{slices:.3g} ({slices * SLICE / 1e9:.2g} GB/s)"
                if slices < 1000
                else f"{round(slices, -2):.0f} ({slices * SLICE / 1e9:.2g} GB/s)"
            )
        rows.append(row)
    return table(("slices a second", *(f"{n} GPU" + "s" * (n > 1) for n in (1, *RANKS))), rows)


TABLES = {"sent": sent, "predicted": predicted, "needed": needed}


def put(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks of the block ``name``."""
    begin, end = f"<!-- {name}: written by benchmarks/scaling.py -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no block {name!r} in the text")
    return f"{before}{begin}{content}\n{end}{after}"


def draw(path: Path) -> None:
    """Efficiency over the number of GPUs: lines by the formula, points by simulation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [scaling_subjects.SUBJECTS[i] for i in (0, 1, 3)]
    figure = Figure(figsize=(11, 3.9), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, subject in zip(panels, shown, strict=True):
        for cluster, colour in zip(scaling_subjects.CLUSTERS, ("C0", "C2", "C1", "C4", "C3"), strict=True):
            axes.plot(
                DRAWN, [100 * formula(subject, n, cluster) for n in DRAWN], color=colour, lw=1.5, label=cluster.name
            )
            axes.plot(DRAWN, [100 * simulated(subject, n, cluster) for n in DRAWN], "o", color=colour, ms=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(DRAWN, DRAWN)
        axes.set_ylim(0, 105)
        axes.set_xlabel("GPUs")
        axes.set_title(label(subject), fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("predicted efficiency, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        fontsize=9,
        title="lines: formula, all ranks equal; points: simulation with jitter and stalls",
        title_fontsize=9,
    )
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, help="put the tables (or the measurement) into this page")
    parser.add_argument("--picture", type=Path, help="draw the efficiencies into this png")
    parser.add_argument("--measure", action="store_true", help="measure updates of 1 and 2 processes on the CPU")
    given = parser.parse_args()
    if given.measure:
        import scaling_measure

        measured = scaling_measure.measured()
        if measured is None:
            sys.exit("no mpiexec with mpi4py here; pip install 'medi2i[mpi]'")
        blocks = {"measured": measured}
    else:
        blocks = {name: make() for name, make in TABLES.items()}
    for content in blocks.values():
        print(content, end="\n\n")
    if given.docs is not None:
        text = given.docs.read_text(encoding="utf-8")
        for name, content in blocks.items():
            text = put(text, name, content)
        given.docs.write_text(text, encoding="utf-8")
    if given.picture is not None:
        draw(given.picture)


if __name__ == "__main__":
    main()
