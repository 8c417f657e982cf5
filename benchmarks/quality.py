#!/usr/bin/env python
"""How good are the presets on a real CT, beside doing nothing and beside classical filters?

  python benchmarks/quality.py /path/to/series --work quality --write quality/quality.md
  python benchmarks/quality.py /path/to/series --work quality --only denoise --seeds 0 --minutes 2

The series is cut into contiguous blocks: the first half is for training, the next sixth for choosing (epochs, strengths
of filters), the last third for testing. Each subject is trained with the commands that a user has, once for each seed,
and measured by what is behind tools/evaluate.py. The model of the first seed is then tried on slices from elsewhere.
Every step stays in the work folder: a run that was interrupted goes on, and more subjects or seeds may be added.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import quality_judge
import quality_page
import quality_steps
from quality_subjects import DATA, FILTERS, SPECTRAL, SUBJECTS, available, lists_in
from quality_work import Work

from medi2i.common.errors import UserError
from medi2i.common.resources import available_cores
from medi2i.datasets import dicom
from medi2i.datasets.pairs import read_list
from medi2i.tools.evaluation.metrics import FULL


def main() -> int:
    options = parse()
    quality_steps.one_thread()
    work = Work(options.work)
    used = list(dict.fromkeys(SUBJECTS[name].data for name in options.only))
    for name in used:
        quality_steps.make_data(work, name, options.ct, options.slices)

    jobs: list[Callable[[], str]] = (
        []
        if options.prepare
        else [
            partial(quality_steps.train_and_convert, work.path, name, seed, options.minutes)
            for name in options.only
            for seed in options.seeds
        ]
    )
    jobs += [
        partial(quality_steps.filter_test_part, work.path, name, one, FULL.lower)
        for name in used
        for one in DATA[name].classical
        if one in options.classical
    ]
    failed = run(jobs, options.jobs)
    if failed or options.prepare:
        return int(failed > 0)

    pictures = options.write.parent / "pictures" if options.write else None
    for name in options.only:
        target = pictures / f"quality_{name}.png" if pictures else None
        show(SUBJECTS[name].title, quality_judge.judge(work, name, options.seeds, target))
    if "denoise" in options.only:
        show("slices from elsewhere", quality_judge.elsewhere(work, options.seeds[0]))
    if options.write:
        about = options.about or describe(work, used[0])
        print("\n" + quality_page.short_table(quality_page.write(options.write, work, about, options.jobs)))
        print(f"\nwritten: {options.write}")
    return 0


def parse() -> argparse.Namespace:
    """The options, as argparse has them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct", type=Path, help="a CT series as DICOM")
    parser.add_argument("--work", type=Path, default=Path("quality"), help="folder for all steps")
    parser.add_argument("--minutes", type=float, default=10, help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=available(), default=available())
    parser.add_argument("--classical", nargs="*", choices=[*FILTERS, SPECTRAL], default=[*FILTERS, SPECTRAL])
    parser.add_argument("--jobs", type=int, default=available_cores(), help="steps at the same time, one thread each")
    parser.add_argument("--slices", type=int, default=0, help="only so many, evenly spaced: for a quick look")
    parser.add_argument("--prepare", action="store_true", help="only make the data and run the classical filters")
    parser.add_argument("--write", type=Path, help="page to write; its pictures go to pictures/ beside it")
    parser.add_argument("--about", help="a few words on the CT, for the page")
    options = parser.parse_args()
    if not options.ct.exists():
        parser.error(f"{options.ct}: no such folder; it should hold a CT series as DICOM")
    return options


def run(jobs: list[Callable[[], str]], count: int) -> int:
    """Do the jobs, `count` at a time, each in a process of its own. Returns how many failed."""
    failed = 0
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(guarded, job) for job in jobs]):
            told, good = done.result()
            print(told if good else f"error: {told}", file=sys.stdout if good else sys.stderr, flush=True)
            failed += not good
    return failed


def guarded(job: Callable[[], str]) -> tuple[str, bool]:
    """(what the job tells, whether it went well)."""
    try:
        return job(), True
    except (UserError, SystemExit) as error:
        return str(error), False


def show(title: str, found: dict[str, Any]) -> None:
    """Print the table of a subject."""
    print("\n".join(["", title, *quality_page.table(found["rows"]), *quality_page.verdicts(found["rows"])]), flush=True)


def describe(work: Work, name: str) -> str:
    """The CT in a few words that tell nothing of the patient."""
    rows = read_list(work.folder(f"data/{name}") / "images" / "pairs.txt")
    image = dicom.read(lists_in(work.folder(f"data/{name}") / "images")["train"].parent / rows[0].columns[1])
    height, width = image.hu.shape
    size = f", pixels of {image.spacing[0]:.3g} mm" if image.spacing else ""
    return f"a CT of {len(rows)} slices, {width}×{height}{size}"


if __name__ == "__main__":
    sys.exit(main())
