#!/usr/bin/env python
"""Measure converted images against the truth, beside doing nothing and beside classical filters.

  python tools/evaluate.py -i noisy -t clean -c result/converted --bias 100
  python tools/evaluate.py -R data --pairs data/pairs_test.txt -c mine=run1/converted theirs=run2/converted
  python tools/evaluate.py -R data --pairs data/pairs_test.txt --classical tv nlm --val_pairs data/pairs_val.txt

Files belong together by their name relative to their folder.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from medi2i.common.errors import UserError, counted, run
from medi2i.common.options.machinery import Checked, option, parse
from medi2i.common.version import VERSION
from medi2i.datasets import kinds
from medi2i.datasets.locks import locked
from medi2i.tools.evaluation import classical, files, html_report, measure, metrics, physics, picture, table, verdict
from medi2i.tools.evaluation.evaluation import Evaluation, evaluate
from medi2i.tools.evaluation.metrics import WINDOWS, Window
from medi2i.tools.evaluation.page import write_page

IDENTITY = "identity"
SHOWN_MISSING = 5
MOST_VALIDATION = 12  # slices that a classical filter is chosen on, evenly spaced
REPORT = "report.html"


@dataclass
class ComparedOptions(Checked):
    """What to compare"""

    input: str | None = option(None, "-i", metavar="FOLDER", help="what went into the network (row identity)")
    truth: str | None = option(None, "-t", metavar="FOLDER", help="what should come out")
    converted: list | None = option(None, "-c", nargs="+", metavar="[NAME=]FOLDER", help="what came out, one row each")
    pairs: str | None = option(None, metavar="FILE", help="tab-separated list of input and truth, instead of -i and -t")
    root: str = option(".", "-R", metavar="FOLDER", help="where the paths of --pairs begin")
    from_col: int = option(0, "-c1", type=int, low=0, help="column of the input in --pairs")
    to_col: int = option(1, "-c2", type=int, low=0, help="column of the truth in --pairs")
    imgtype: str | None = option(None, "-it", choices=list(kinds.KINDS), help="kind of the images [found out]")
    scale: int = option(
        1,
        type=int,
        low=1,
        high=64,
        help="the truth has so many times the rows and columns of the input, which "
        "is enlarged by bicubic interpolation",
    )
    bias: float | None = option(None, type=float, help="known mean of the noise: adds the row identity minus this")
    classical: list | None = option(
        None, nargs="+", choices=list(classical.FILTERS), help="rows of classical filters (of the input minus --bias)"
    )
    val_pairs: str | None = option(
        None,
        metavar="FILE",
        help="list of validation pairs, none of them measured here, that the strength of --classical is chosen on",
    )


@dataclass
class MeasureOptions(Checked):
    """How to measure"""

    classes: int | None = option(
        None, "-cn", type=int, low=2, high=65536, help="the images hold class numbers 0…N-1: Dice and IoU"
    )
    clip: list | None = option(
        None,
        nargs=2,
        type=float,
        metavar="X",
        help="the full range, as the network was trained"
        " [CT: -1024 2000; 8 bit: 0 255; 16 bit: 0 65535; others: the range of the truth]",
    )
    window: list | None = option(
        None,
        "-w",
        nargs="+",
        metavar="NAME[=LOW:HIGH]",
        help="further windows for PSNR and SSIM: " + ", ".join(WINDOWS) + ", or one's own as liver=-50:150 [CT: soft]",
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="of the bootstrap")


@dataclass
class EvaluateOptions(MeasureOptions, ComparedOptions):
    """What to write"""

    out: str = option("evaluation", "-o", metavar="FOLDER", help="where tables, pictures and the report go")
    vis_window: str | None = option(None, metavar="NAME[=LOW:HIGH]", help="window of the pictures [the first --window]")
    report: bool = option(True, type=bool, help="write report.html; --no-report leaves it out")
    report_mb: float = option(40, type=float, low=0.1, help="largest size of the images in the report, in megabytes")
    title: str = option("Evaluation", metavar="TEXT", help="of the report")
    maps: bool = option(False, type=bool, help="write the difference to the truth of every row and slice as npy")
    strict: bool = option(False, type=bool, help="end with an error where a file was skipped or has no partner")


def command(argv):
    options = parse(EvaluateOptions, argv, prog="evaluate", description=__doc__.splitlines()[0])
    inputs, truth, converted = listings(options)
    check_out(options, [folder for _, folder in converted.values()])
    matching = files.match(truth, {IDENTITY: inputs, **{name: listing for name, (listing, _) in converted.items()}})
    if not matching.slices:
        raise UserError(_nothing_matches(matching, truth))
    if options.pairs:
        matching.extra.clear()  # a list may name a part of what was converted
    with locked(Path(options.out), "writing"):
        left_out = problems(matching, [inputs, truth, *(listing for listing, _ in converted.values())])
        unit = "HU" if truth.first.modality == "CT" else ""
        ranges = choose_windows(options, matching.slices, unit)
        shown = metrics.parse_window(options.vis_window) if options.vis_window else ranges[min(1, len(ranges) - 1)]
        with tempfile.TemporaryDirectory() as scratch:
            rows, tuned = choose_rows(options, converted, ranges[0].lower, matching, scratch)
            tell(left_out)
            evaluation = evaluate(
                rows,
                matching.slices,
                [] if options.classes else ranges,
                shown,
                unit,
                classes=options.classes,
                seed=options.seed,
                left_out=left_out,
                folders={name: folder for name, (_, folder) in converted.items()},
            )
            write(evaluation, options, tuned, next(iter(converted), rows[-1].name))
    return 1 if options.strict and any(left_out.values()) else 0


def listings(options):
    """The files of the inputs, of the truth, and name → (files, folder) of what was converted. Raises UserError."""
    if options.pairs is not None:
        if options.input or options.truth:
            raise UserError("--pairs: names inputs and truth already; leave out --input and --truth")
        inputs, truth = files.list_pairs(options.pairs, options.root, options.from_col, options.to_col, options.imgtype)
    elif options.input and options.truth:
        inputs, truth = (files.list_folder(folder, options.imgtype) for folder in (options.input, options.truth))
    else:
        raise UserError("--truth: give --input and --truth, two folders, or --pairs, a list of both")
    converted = {}
    for text in options.converted or []:
        name, mark, folder = text.partition("=")
        name, folder = (name, folder) if mark else (Path(text).name or text, text)
        if not name or not folder:
            raise UserError(f"--converted: {text!r} is not NAME=FOLDER; both are needed, or a folder alone")
        if name in (*converted, *classical.FILTERS, IDENTITY, physics.TRUTH):
            raise UserError(f"--converted: {text}: the name {name} is taken; give another as NAME={folder}")
        kind = options.imgtype or (truth.first.kind if options.classes else None)
        converted[name] = files.list_folder(folder, kind), folder
    return inputs, truth, converted


def check_out(options, converted):
    """UserError where the tables and pictures would lie among the images, which the next run would read with them."""
    out = Path(options.out).resolve()
    sources = [options.root] if options.pairs else [options.input, options.truth]
    inside = [Path(folder) for folder in (*converted, *sources) if Path(folder).resolve() == out]
    inside += [Path(folder) for folder in converted if Path(folder).resolve() in out.parents]
    if inside:
        raise UserError(
            f"--out: {options.out} is {inside[0]}, which holds images, or lies in it; "
            "a folder of its own would be right"
        )


def choose_windows(options, slices, unit):
    """The full window first, then the others asked for. Raises UserError."""
    asked = options.window if options.window is not None else ["soft"] if unit == "HU" else []
    others = [metrics.parse_window(text) for text in asked]
    if options.classes:
        return [Window("classes", 0, options.classes - 1)]
    full = metrics.clip_window(options.clip) or metrics.full_window(slices, unit)
    return list({window.name: window for window in (full, *others)}.values())


def choose_rows(options, converted, lower, matching, scratch):
    """Identity first, then identity minus its bias, what was converted in the order given, classical filters last.

    Also what was tuned: name → Tuned. Raises UserError.
    """
    identity = basis = measure.input_row(IDENTITY, options.scale)
    rows = [identity]
    if options.bias is not None and not options.classes:
        basis = measure.without_bias(identity, options.bias, lower)
        rows.append(basis)
    if options.classes and converted:
        rows = []  # what went in holds grey levels, not classes
    rows += [measure.file_row(name, folder) for name, (_, folder) in converted.items()]
    tuned = tune(options, basis, {one.truth.path.resolve() for one in matching.slices}) if options.classical else {}
    for name, one in tuned.items():
        note = (
            f"{one.filter.note} of {basis.name}; strength {one.strength:.3g} × {one.sigma:.3g}, "
            "chosen on validation pairs"
        )
        row = measure.Row(name, note, lambda slice_, one=one: one(basis.image(slice_)))
        rows.append(measure.kept_on_disk(row, Path(scratch) / name))
    return rows, tuned


def tune(options, basis, measured):
    """Choose the strengths of --classical on --val_pairs. Raises UserError where one of those is measured here too."""
    if options.val_pairs is None:
        raise UserError("--classical: needs --val_pairs, pairs to choose the strength on that are not measured")
    inputs, truth = files.list_pairs(options.val_pairs, options.root, options.from_col, options.to_col, options.imgtype)
    slices = files.match(truth, {IDENTITY: inputs}).slices
    both = [one.key for one in slices if one.truth.path.resolve() in measured]
    if both:
        raise UserError(
            f"--val_pairs: {both[0]} is measured too ({len(both)} are); a filter must not be chosen on "
            "what it is judged by"
        )
    chosen = slices[:: max(1, -(-len(slices) // MOST_VALIDATION))]
    scenes = [measure.read(one, [measure.input_row(IDENTITY, options.scale), basis]) for one in chosen]
    pairs = [(scene.images[basis.name], scene.truth, scene.mask) for scene in scenes]
    return {name: classical.tune(classical.FILTERS[name], pairs) for name in dict.fromkeys(options.classical)}


def problems(matching, listed):
    """Why → the files that are in no table."""
    left_out = {"skipped": [f"{path}: {reason}" for listing in listed for path, reason in listing.skipped]}
    left_out |= {f"not in {name}": keys for name, keys in matching.missing.items()}
    return left_out | {f"in {name}, without truth": keys for name, keys in matching.extra.items()}


def tell(left_out):
    """Tell of them on stderr."""
    for why, keys in left_out.items():
        for key in keys[:SHOWN_MISSING]:
            print(f"warning: {key} {why}" if why != "skipped" else f"warning: {why}: {key}", file=sys.stderr)
        if len(keys) > SHOWN_MISSING:
            print(f"warning: {len(keys)} in all {why}", file=sys.stderr)


def write(evaluation: Evaluation, options, tuned, judged):
    """Print the tables and write everything that was asked for."""
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    first = evaluation.first_metric
    nothing = [row.name for row in evaluation.rows if row.name not in (*evaluation.folders, *tuned)]
    said = [
        one
        for baselines in (nothing, list(tuned))
        if baselines
        for one in verdict.verdicts(evaluation.records, baselines, list(evaluation.folders), first, evaluation.unit)
    ]
    print_tables(evaluation, said)
    pictures = write_pictures(out, evaluation, judged)
    table.write_slices_csv(out / "slices.csv", evaluation.records)
    table.write_summary_csv(out / "summary.csv", evaluation.summary, evaluation.windows)
    table.write_json(
        out / "evaluation.json",
        {
            "medi2i_version": VERSION,
            "options": vars(options),
            "unit": evaluation.unit,
            "windows": {window.name: [window.lower, window.upper] for window in evaluation.windows},
            "rows": {row.name: row.note for row in evaluation.rows},
            "verdicts": [one.text for one in said],
            "tuned": {
                name: {"strength": one.strength, "sigma": one.sigma, "tried": one.tried} for name, one in tuned.items()
            },
            "pictures": [path.name for path in pictures],
            "left_out": evaluation.left_out,
            "physics": evaluation.physics,
            "pooled": evaluation.pooled,
            "summary": [
                {"row": row, "series": series, "metric": name, **vars(one)}
                for (row, series, name), one in evaluation.summary.items()
            ],
            "slices": [vars(record) for record in evaluation.records],
        },
    )
    print(f"\nwritten: {out / 'summary.csv'}, {out / 'slices.csv'}, {out / 'evaluation.json'}")
    for path in pictures:
        print(f"picture: {path}")
    if options.maps:
        print(f"maps: {table.write_maps(out / 'maps', evaluation)}")
    if options.report:
        write_report(out / REPORT, evaluation, options, judged, said)


def print_tables(evaluation, said):
    """The tables over all slices, and one for each series where there are several."""
    series = list(dict.fromkeys(one.series for one in evaluation.slices))
    unit = evaluation.unit
    print(
        f"{counted(len(evaluation.slices), 'slice')} of {len(series)} series; mean ± standard deviation over slices"
        + (f"; RMSE, MAE and bias in {unit}" if unit else "")
    )
    if evaluation.windows:
        print(table.describe_windows(evaluation.windows, unit))
    if left_out := table.describe_left_out(evaluation.records):
        print(left_out)
    blocks = table.blocks(evaluation.rows, evaluation.summary, unit)
    lines = physics.table_lines(evaluation.physics, unit) if evaluation.physics else []
    pooled = table.pooled_block(evaluation.pooled)
    for block in filter(None, (pooled, *blocks, lines)):
        print("\n" + table.aligned(block))
    if lines:
        print(physics.description(evaluation.physics))
    for name in series if len(series) > 1 else []:
        print(f"\nseries {name}:")
        for block in table.blocks(evaluation.rows, evaluation.summary, unit, name):
            print(table.aligned(block))
    for one in said:
        print(f"\n{one.text}")


def write_pictures(out, evaluation, judged):
    """Pictures of the middling and the worst slice of the row `judged`, by the first metric."""
    first, unit = evaluation.first_metric, evaluation.unit
    sign = -1 if verdict.larger_is_better(first) else 1
    own = {record.slice: sign * record.values[first] for record in evaluation.records if record.row == judged}
    worse_last = sorted(own, key=own.get)
    paths = []
    for what, key in {"middling": worse_last[(len(worse_last) - 1) // 2], "worst": worse_last[-1]}.items():
        scene = measure.read(next(one for one in evaluation.slices if one.key == key), evaluation.rows)
        notes = {
            record.row: f"{table.label(first)} {record.values[first]:.4g}{unit and ' ' + unit}"
            for record in evaluation.records
            if record.slice == key
        }
        paths.append(out / f"{what}.png")
        picture.comparison(
            paths[-1],
            f"{key} ({what} of {len(own)} by {table.label(first)} of {judged})",
            scene.images,
            scene.truth,
            evaluation.shown,
            unit,
            notes=notes,
            scaled_by=judged,
        )
    return paths


def write_report(path, evaluation, options, judged, said):
    """The page, and where it is."""

    def load(number):
        scene = measure.read(evaluation.slices[number], evaluation.rows)
        kept = {row.name: scene.images[row.name] for row in evaluation.rows if row.shift is None}
        return {**kept, physics.TRUTH: scene.truth}

    packed = write_page(path, html_report.content(evaluation, options.title, judged, said), load, options.report_mb)
    if packed.left_out:
        print(
            f"warning: {path}: holds the images of {len(packed.entries)} of {len(evaluation.slices)} slices, the "
            "worst ones; --report_mb sets how large it may be",
            file=sys.stderr,
        )
    print(f"report: {path}")


def _nothing_matches(matching, truth):
    lacking = max(matching.missing, key=lambda name: len(matching.missing[name]))
    theirs = matching.extra[lacking]
    return (
        f"{lacking}: no name in common with the truth ({next(iter(truth.files))} there, "
        f"{theirs[0] if theirs else 'nothing'} here); files belong together by their name relative to the folder"
    )


def main(argv=None):
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
