"""Hostile and unlucky files through the real commands, each in a process with limits, everything it does noted.

    python benchmarks/hostile.py [--only NAME …] [--small] [--python OTHER/.venv/bin/python] [--json FILE]
                                 [--before FILE] [--write docs/security.md]

Every case of the hostile_*.py modules beside this one is built in a folder of its own and given to the command that a
user would run. Always asserted: no traceback, no character that a terminal obeys, no other program and no connection
(seen by strace, where that is installed), an end in time, memory within the case's bound, and the outcome that the
case expects. --python runs the commands of another checkout (the column "before", kept with --json and given with
--before). Ends with status 1 if there are findings.
"""

import argparse
import functools
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_archives
import hostile_dicom
import hostile_frames
import hostile_good
import hostile_models
import hostile_pictures
import hostile_places
import hostile_volumes
from hostile_cases import CASES, LEFT_OUT, Case, Command, Ground
from hostile_watch import Seen, Waiting, tracer

MODULES = (
    hostile_pictures,
    hostile_volumes,
    hostile_archives,
    hostile_dicom,
    hostile_frames,
    hostile_models,
    hostile_places,
    hostile_good,
)
Row = dict[str, Any]

WALL = 10
"""Real seconds allowed for a second of processor time: other work shares the machine."""
START, END = "<!-- cases -->\n", "<!-- end of cases -->\n"


def run_case(case: Case, shared: Path, python: str, waiting: Callable[[str], Waiting]) -> Row:
    """Build and run a case; returns its row as plain values. ``waiting(module)``: a ``Waiting``."""
    with tempfile.TemporaryDirectory(prefix="hostile") as name:
        ground = Ground(Path(name, "case"), shared, python)
        command = case.build(ground)
        seen = waiting(command.module).run(command.arguments, command.limit or WALL * case.seconds, ground.folder)
        outcome, findings = judge(case, command, seen, ground.folder)
        last = seen.last[:1000].replace(f"{ground.folder}/", "").replace(f"{shared}/", "")
        if outcome == LEFT_OUT:
            last = next(
                (
                    line.strip().replace(f"{ground.folder}/", "")
                    for line in seen.text.splitlines()
                    if command.bad and command.bad[0] in line
                ),
                last,
            )
    return {
        "name": case.name,
        "outcome": outcome,
        "last": visible(last),
        "seconds": round(seen.seconds, 2),
        "wall": round(seen.wall, 2),
        "peak": seen.peak,
        "outside": seen.outside,
        "findings": findings,
        "text": seen.text[-4000:].replace(str(ground.folder), ""),
    }


def judge(case: Case, command: Command, seen: Seen, folder: Path) -> tuple[str, list[str]]:
    """(outcome, findings) of what was seen."""
    outcome, findings = seen.outcome, []
    reports = [folder / place / "conversion.json" for place in ("out", "out.report")]
    told = seen.text + "".join(path.read_text(errors="replace") for path in reports if path.is_file())
    if outcome == "done" and command.bad:
        used = [name for name in command.bad if (folder / "out" / name).exists()]
        untold = [name for name in command.bad if name not in told]
        outcome = "used" if used else "left out in silence" if untold else LEFT_OUT
        findings += [f"used: {', '.join(used)}"] if used else []
    if outcome not in case.expected:
        findings.append(f"{outcome}; {' or '.join(case.expected)} is right")
    if seen.traceback and outcome != "traceback":
        findings.append("a traceback")
    if outcome == LEFT_OUT:
        findings += [
            f"{path.name} is missing: the others were not converted" for path in command.good if not path.is_file()
        ]
    if seen.peak > case.memory:
        findings.append(f"{seen.peak >> 20} MB of memory, more than {case.memory >> 20}")
    if seen.seconds > case.seconds:
        findings.append(f"{seen.seconds:.1f} s of processor time, more than {case.seconds:g}")
    if seen.control:
        findings.append(f"prints {seen.control}")
    findings += sorted({entry.replace("program ", "starts ") for entry in seen.outside or ()})
    more = command.check(seen, folder) if command.check is not None else None
    return outcome, findings + ([more] if more else [])


def visible(text: str, length: int = 160) -> str:
    """A line for a table: nothing in it that a terminal or Markdown would obey."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    text = text if len(text) <= length else f"{text[: length - 1]}…"
    return text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def table(rows: list[Row], before: dict[str, Row]) -> str:
    """The page's tables: a heading a kind, a row a case."""
    lines = []
    for kind in sorted({CASES[row["name"]].kind for row in rows}):
        lines += [f"### {kind}\n", "| case | before | now |", "|---|---|---|"]
        for row in rows:
            if CASES[row["name"]].kind == kind:
                old = before.get(row["name"])
                lines.append(f"| {CASES[row['name']].about} | {'' if old is None else told(old)} | {told(row)} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def told(row: Row) -> str:
    """A cell: outcome, what it did outside of itself, processor time and memory, and the last line."""
    outside = sorted(
        {
            entry.replace("program ", "starts ") if entry.startswith("program") else "opens a connection"
            for entry in row["outside"] or ()
        }
    )
    last = row["last"] if len(row["last"]) <= 100 else f"{row['last'][:99]}…"
    return f"**{', '.join([row['outcome'], *outside])}**, {row['seconds']:.1f} s, {row['peak'] / 1e6:.0f} MB" + (
        f": {last}" if last else ""
    )


def write(path: Path, rows: list[Row], before: dict[str, Row]) -> None:
    """Put the tables between the marks of a page."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    path.write_text(head + START + "\n" + table(rows, before) + END + tail, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--small", action="store_true", help="leave out what takes long or much disk or memory")
    parser.add_argument("--only-large", action="store_true", help="only these")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--python", default=sys.executable, help="interpreter whose medi2i is attacked")
    parser.add_argument("--no-strace", dest="strace", action="store_false", help="do not watch programs and sockets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the rows; rows that are there stay")
    parser.add_argument("--missing", action="store_true", help="only cases that FILE of --json does not have")
    parser.add_argument("--before", type=Path, metavar="FILE", help="rows of another checkout")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    args = parser.parse_args(argv)
    chosen = [
        case
        for case in CASES.values()
        if not (args.small and case.large or args.only_large and not case.large)
        and (any(case.name.startswith(name) for name in args.only) if args.only else not case.part)
    ]
    if args.missing and args.json and args.json.is_file():
        chosen = [case for case in chosen if case.name not in json.loads(args.json.read_text())]
    if args.list:
        print(*(f"{case.name:<28} {case.about}" for case in chosen), sep="\n")
        return 0
    if args.strace and tracer() is None:
        print("strace is not installed: programs and connections are not watched")
    kept = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    shared = Path(tempfile.mkdtemp(prefix="hostile-good"))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what waits is stopped, too
    rows = []

    @functools.cache
    def waiting(module: str) -> Waiting:
        started.append(Waiting(args.python, module, args.strace))
        return started[-1]

    started: list[Waiting] = []
    try:
        for case in chosen:
            rows.append(run_case(case, shared, args.python, waiting))
            row = kept[case.name] = rows[-1]
            print(
                f"{row['name']:<28} {row['outcome']:<10} {row['seconds']:6.1f} s {row['peak'] >> 20:5d} MB  "
                f"{row['last'][:110]}",
                *(f"    FINDING {f}" for f in row["findings"]),
                sep="\n",
                flush=True,
            )
            if args.json:
                args.json.write_text(json.dumps(kept, indent=1))
    finally:
        for process in started:
            process.stop()
        shutil.rmtree(shared, ignore_errors=True)
    if args.write:
        before = json.loads(args.before.read_text()) if args.before else {}
        shown = [kept[name] for name in CASES if name in kept] if args.json else rows
        write(args.write, shown, before)
    found = sum(bool(row["findings"]) for row in rows)
    print(f"{len(rows)} cases, {found} with findings")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
