#!/usr/bin/env python
"""Measure converted images against the truth, beside doing nothing and beside classical filters.

  python tools/evaluate.py -i noisy -t clean -c result/converted --bias 100
  python tools/evaluate.py -R data --pairs data/pairs_test.txt -c mine=run1/converted theirs=run2/converted
  python tools/evaluate.py -R data --pairs data/pairs_test.txt --classical tv nlm --val_pairs data/pairs_val.txt
  python tools/evaluate.py --sets -t real -c dcgan=made

Files belong together by their name relative to their folder.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from medi2i.common import VERSION
from medi2i.common.errors import UserError, as_main
from medi2i.common.locks import locked
from medi2i.common.options import Checked, option, parse
from medi2i.datasets import file_names
from medi2i.synthesis import sets
from medi2i.tools.evaluation import classical, files, measure, metrics, picture, safety_page, table
from medi2i.tools.evaluation.files import Keys, Listing, Slice
from medi2i.tools.evaluation.measure import Evaluation, Row, evaluate
from medi2i.tools.evaluation.metrics import WINDOWS, Window
from medi2i.tools.evaluation.page import write_page
from medi2i.tools.evaluation.physics import TRUTH

IDENTITY = "identity"
SIMPLE = "water", "histogram"  # rows of --body
SHOWN_MISSING = 5
MOST_VALIDATION = 12  # slices that a classical filter is chosen on, evenly spaced
REPORT = "report.html"


@dataclass
class ComparedOptions(Checked):
    """What to compare"""

    input: str | None = option(
        None, "-i", metavar="FOLDER", help="what went into the network (row identity)", first=True
    )
    truth: str | None = option(None, "-t", metavar="FOLDER", help="what should come out", first=True)
    converted: list[str] | None = option(
        None, "-c", nargs="+", metavar="[NAME=]FOLDER", help="what came out, one row each", first=True
    )
    pairs: str | None = option(
        None, metavar="FILE", help="tab-separated list of input and truth, instead of -i and -t", first=True
    )
    root: str = option(".", "-R", metavar="FOLDER", help="where the paths of --pairs begin", first=True)
    from_col: int = option(0, "-c1", type=int, low=0, help="column of the input in --pairs")
    to_col: int = option(1, "-c2", type=int, low=0, help="column of the truth in --pairs")
    imgtype: str | None = option(None, "-it", choices=list(file_names.KINDS), help="kind of the images [found out]")
    sets: bool = option(
        False,
        type=bool,
        help="no pairs: how alike the images of --truth and those of each --converted are as sets, how diverse, and "
        "whether any is a copy",
        first=True,
    )
    scale: int = option(
        1,
        type=int,
        low=1,
        high=64,
        help="the truth has so many times the rows and columns of the input, which "
        "is enlarged by bicubic interpolation",
        first=True,
    )
    bias: float | None = option(
        None, type=float, help="known mean of the noise: adds the row identity minus this", first=True
    )
    classical: list[str] | None = option(
        None,
        nargs="+",
        choices=list(classical.FILTERS),
        help="rows of classical filters (of the input minus --bias)",
        first=True,
    )
    val_pairs: str | None = option(
        None,
        metavar="FILE",
        help="list of pairs, none of them measured here, to choose the strength of --classical and the table of "
        "--body on",
        first=True,
    )


@dataclass
class MeasureOptions(Checked):
    """How to measure"""

    classes: int | None = option(
        None, "-cn", type=int, low=2, high=1024, help="the images hold class numbers 0…N-1: Dice and IoU", first=True
    )
    body: bool = option(
        False,
        type=bool,
        help="of synthetic CT, as SynthRAD reports it: inside of the body of the truth, the full range -1024 to 3000 "
        "HU, Dice of bone (above 150 HU), and the rows water (0 HU) and, with --val_pairs, histogram (a look-up table)",
        first=True,
    )
    clip: list[float] | None = option(
        None,
        nargs=2,
        type=float,
        metavar="X",
        help="the full range, as the network was trained"
        " [CT: -1024 2000; 8 bit: 0 255; 16 bit: 0 65535; others: the range of the truth]",
    )
    window: list[str] | None = option(
        None,
        "-w",
        nargs="+",
        metavar="NAME[=LOW:HIGH]",
        help="further windows for PSNR and SSIM: " + ", ".join(WINDOWS) + ", or one's own as liver=-50:150 [CT: soft]",
        first=True,
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="of the bootstrap")


@dataclass
class EvaluateOptions(MeasureOptions, ComparedOptions):
    """What to write"""

    out: str = option("evaluation", "-o", metavar="FOLDER", help="where tables, pictures and the report go", first=True)
    vis_window: str | None = option(None, metavar="NAME[=LOW:HIGH]", help="window of the pictures [the first --window]")
    report: bool = option(True, type=bool, help="write report.html; --no-report leaves it out")
    report_mb: float = option(40, type=float, low=0.1, help="largest size of the images in the report, in megabytes")
    title: str = option("Evaluation", metavar="TEXT", help="of the report", first=True)
    maps: bool = option(False, type=bool, help="write the difference to the truth of every row and slice as npy")
    strict: bool = option(False, type=bool, help="end with an error where a file was skipped or has no partner")


def command(argv: list[str]) -> int:
    options = parse(EvaluateOptions, argv, __doc__)
    if options.sets:
        return compare_sets(options)
    classical.check(options.classical or [])
    if options.input and not options.truth and not options.pairs:
        return without_truth(options)
    return 1 if any(compare(options).left_out.values()) and options.strict else 0


def compare(options: EvaluateOptions) -> Evaluation:
    """Measure what the ``options`` name, print the tables and write the rest. Raises UserError."""
    inputs, truth = inputs_and_truth(options)
    folders = converted_folders(options)
    kind = options.imgtype or (truth.first.kind if options.classes else None)
    converted = {name: files.list_folder(folder, kind) for name, folder in folders.items()}
    slices, missing, extra = files.match(truth, {IDENTITY: inputs, **converted})
    if not slices:
        raise UserError(_nothing_matches(missing, extra, truth))
    if options.pairs:
        extra.clear()  # a list may name a part of what was converted
    with locked(Path(options.out), "writing"):
        left_out = {
            "skipped": [f"{path}: {why}" for one in (inputs, truth, *converted.values()) for path, why in one.skipped],
            **{f"not in {name}": keys for name, keys in missing.items()},
            **{f"in {name}, without truth": keys for name, keys in extra.items()},
        }
        unit = "HU" if truth.first.modality == "CT" else ""
        if options.body and (unit != "HU" or options.classes):
            raise UserError(f"--body: {truth.first.path} is no CT, in which it could be found; leave it out")
        ranges = choose_windows(options, slices, unit)
        shown = metrics.parse_window(options.vis_window) if options.vis_window else ranges[min(1, len(ranges) - 1)]
        with tempfile.TemporaryDirectory() as scratch:
            rows, tuned = choose_rows(options, folders, ranges[0].lower, slices, scratch)
            tell(left_out)
            evaluation = evaluate(
                rows,
                slices,
                [] if options.classes else ranges,
                shown,
                unit,
                classes=options.classes,
                body=options.body,
                seed=options.seed,
                left_out=left_out,
                folders=folders,
            )
            write(evaluation, options, tuned, next(iter(folders), rows[-1].name))
    return evaluation


def without_truth(options: EvaluateOptions) -> int:
    """The safety report on an input and what came out of it. Raises UserError."""
    folders = converted_folders(options)
    if len(folders) != 1:
        raise UserError("--truth: without it, --input and one --converted are compared as before and after")
    with locked(Path(options.out), "writing"):
        safety_page.of_folders(options.input or "", next(iter(folders.values())), Path(options.out), options.title)
    return 0


def compare_sets(options: EvaluateOptions) -> int:
    """Sets of images that are no pairs, made of noise or of images of another kind. Raises UserError."""
    folders = converted_folders(options)
    if not (options.truth and folders) or options.input or options.pairs:
        raise UserError("--sets: takes --truth, a folder of real images, and --converted, what to compare with them")
    out, clip = Path(options.out), metrics.clip_window(options.clip)
    with locked(out, "writing"):
        window = None if clip is None else (clip.lower, clip.upper)
        rows, limit = sets.of_folders(options.truth, folders, out, window, options.seed)
    print(table.aligned(sets.lines_of(rows)))
    print("SWD: sliced Wasserstein distance × 1000 of each level of the Laplacian pyramid, by its rows")
    print("nearest: root mean square difference from the nearest real image")
    print(f"copies: those nearer than {limit:.4g}, as 1 % of the real images are to another")
    for row in rows[2:]:
        if row.copies:
            print(
                f"warning: {row.name}: {row.copies} of {len(row.distance)} images are as near to a real image as "
                f"copies; look at {out / f'nearest_{row.name}.png'}",
                file=sys.stderr,
            )
    print(f"written: {out / 'sets.json'}, and pictures of the closest pairs")
    return 0


def inputs_and_truth(options: EvaluateOptions) -> tuple[Listing, Listing]:
    """The files of both. Raises UserError."""
    if options.pairs is not None:
        if options.input or options.truth:
            raise UserError("--pairs: names inputs and truth already; leave out --input and --truth")
        return files.list_pairs(options.pairs, options.root, options.from_col, options.to_col, options.imgtype)
    if not (options.input and options.truth):
        raise UserError("--truth: give --input and --truth, two folders, or --pairs, a list of both")
    return files.list_folder(options.input, options.imgtype), files.list_folder(options.truth, options.imgtype)


def converted_folders(options: EvaluateOptions) -> dict[str, str]:
    """Name of a row → folder of what was converted. Raises UserError."""
    folders: dict[str, str] = {}
    for text in options.converted or []:
        name, mark, folder = text.partition("=")
        name, folder = (name, folder) if mark else (Path(text).name or text, text)
        if not name or not folder:
            raise UserError(f"--converted: {text!r} is not NAME=FOLDER; both are needed, or a folder alone")
        if name in (*folders, *classical.FILTERS, *SIMPLE, IDENTITY, TRUTH):
            raise UserError(f"--converted: {text}: the name {name} is taken; give another as NAME={folder}")
        folders[name] = folder
    check_out(options, list(folders.values()))
    return folders


def check_out(options: EvaluateOptions, folders: list[str]) -> None:
    """UserError where the tables and pictures would lie among the images, which the next run would read with them."""
    out = Path(options.out).resolve()
    sources = [options.root] if options.pairs else [one for one in (options.input, options.truth) if one]
    inside = [Path(folder) for folder in (*folders, *sources) if Path(folder).resolve() == out]
    inside += [Path(folder) for folder in folders if Path(folder).resolve() in out.parents]
    if inside:
        raise UserError(
            f"--out: {options.out} is {inside[0]}, which holds images, or lies in it; "
            "a folder of its own would be right"
        )


def choose_windows(options: EvaluateOptions, slices: list[Slice], unit: str) -> list[Window]:
    """The full window first, then the others asked for. Raises UserError."""
    asked = options.window if options.window is not None else ["soft"] if unit == "HU" else []
    others = [metrics.parse_window(text) for text in asked]
    if options.classes:
        return [Window("classes", 0, options.classes - 1)]
    synthetic = metrics.SYNTHETIC if options.body else None
    full = metrics.clip_window(options.clip) or synthetic or metrics.full_window(slices, unit)
    return list({window.name: window for window in (full, *others)}.values())


def choose_rows(
    options: EvaluateOptions, folders: dict[str, str], lower: float, slices: list[Slice], scratch: str
) -> tuple[list[Row], dict[str, classical.Tuned]]:
    """Identity first, then identity minus its bias, what was converted in the order given, classical filters last.

    Also what was tuned: name → Tuned. Raises UserError.
    """
    identity = basis = measure.input_row(IDENTITY, options.scale)
    rows = [identity]
    if options.bias is not None and not options.classes:
        basis = measure.without_bias(identity, options.bias, lower)
        rows.append(basis)
    if options.classes and folders:
        rows = []  # what went in holds grey levels, not classes
    rows += [measure.file_row(name, folder) for name, folder in folders.items()]
    measured = {one.truth.path.resolve() for one in slices}
    if options.body:
        rows.append(measure.water_row())
        if options.val_pairs is not None:
            chosen = validation(options, options.val_pairs, measured)
            pairs = [measure.read(one, [identity], body=True) for one in chosen]
            rows.append(measure.histogram_row(identity, pairs))
    tuned = tune(options, basis, measured) if options.classical else {}
    for name, one in tuned.items():
        note = (
            f"{one.filter.note} of {basis.name}; strength {one.strength:.3g} × {one.sigma:.3g}, "
            "chosen on validation pairs"
        )
        print(f"{name}: {note}", file=sys.stderr)
        rows.append(measure.filtered(basis, name, note, one, Path(scratch) / name))
    return rows, tuned


def tune(options: EvaluateOptions, basis: Row, measured: set[Path]) -> dict[str, classical.Tuned]:
    """Choose the strengths of --classical on --val_pairs. Raises UserError where one of those is measured here too."""
    if options.val_pairs is None:
        raise UserError(
            "--classical: needs --val_pairs, pairs to choose the strength on that are not measured; "
            "tools/split_pairs.py makes lists of pairs"
        )
    chosen = validation(options, options.val_pairs, measured)
    scenes = [measure.read(one, [measure.input_row(IDENTITY, options.scale), basis]) for one in chosen]
    pairs = [(scene.images[basis.name], scene.truth, scene.mask) for scene in scenes]
    return {name: classical.tune(classical.FILTERS[name], pairs) for name in dict.fromkeys(options.classical or [])}


def validation(options: EvaluateOptions, listed: str, measured: set[Path]) -> list[Slice]:
    """Some of --val_pairs, evenly spaced. Raises UserError where one of those is measured here too."""
    inputs, truth = files.list_pairs(listed, options.root, options.from_col, options.to_col, options.imgtype)
    slices, _, _ = files.match(truth, {IDENTITY: inputs})
    both = [one.key for one in slices if one.truth.path.resolve() in measured]
    if both:
        raise UserError(
            f"--val_pairs: {both[0]} is measured too ({len(both)} are); a filter must not be chosen on "
            "what it is judged by"
        )
    return slices[:: max(1, -(-len(slices) // MOST_VALIDATION))]


def tell(left_out: Keys) -> None:
    """Tell on stderr, by why, of the files that are in no table."""
    for why, keys in left_out.items():
        for key in keys[:SHOWN_MISSING]:
            print(f"warning: {key} {why}" if why != "skipped" else f"warning: {why}: {key}", file=sys.stderr)
        if len(keys) > SHOWN_MISSING:
            print(f"warning: {len(keys)} in all {why}", file=sys.stderr)


def write(evaluation: Evaluation, options: EvaluateOptions, tuned: dict[str, classical.Tuned], judged: str) -> None:
    """Print the tables and write everything that was asked for."""
    out = Path(options.out)
    nothing = [row.name for row in evaluation.nothing]
    simple = [row.name for row in evaluation.rows if row.name in SIMPLE and row.name not in evaluation.folders]
    said = [
        one
        for baselines in (nothing, simple, list(tuned))
        if baselines
        for one in table.verdicts(evaluation, baselines)
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
        table.write_maps(out / "maps", evaluation)
        print(f"maps: {out / 'maps'}")
    if options.report:
        packed = write_page(out / REPORT, evaluation, options.title, judged, said, options.report_mb)
        if len(packed.entries) < len(evaluation.slices):
            print(
                f"warning: {out / REPORT}: holds the images of {len(packed.entries)} of {len(evaluation.slices)} "
                "slices, the worst ones; --report_mb sets how large it may be",
                file=sys.stderr,
            )
        print(f"report: {out / REPORT}")


def print_tables(evaluation: Evaluation, said: list[table.Verdict]) -> None:
    """The tables over all slices, and those of each series where there are several."""
    unit = evaluation.unit
    print(table.lead(evaluation) + (f"; RMSE, MAE and bias in {unit}" if unit else ""))
    for remark in [*(f"{row.name}: {row.note}" for row in evaluation.nothing), *table.remarks(evaluation)]:
        print(remark)
    for caption, lines in table.overall(evaluation):
        print("\n" + table.aligned(lines))
        if caption:
            print(caption)
    for name in evaluation.series if len(evaluation.series) > 1 else []:
        print(f"\nseries {name}:")
        for lines in table.blocks(evaluation, name):
            print(table.aligned(lines))
    for one in said:
        print(f"\n{one.text}")


def write_pictures(out: Path, evaluation: Evaluation, judged: str) -> list[Path]:
    """Pictures of the middling and the worst slice of the row `judged`, by the first metric."""
    first, unit = evaluation.first_metric, evaluation.unit
    order = evaluation.worst_first(judged)
    paths = []
    for what, index in (("middling", order[len(order) // 2]), ("worst", order[0])):
        scene = measure.read(evaluation.slices[index], evaluation.rows)
        notes = {
            row.name: f"{table.label(first)} {evaluation.of(row.name, first)[index]:.4g}{unit and ' ' + unit}"
            for row in evaluation.rows
        }
        paths.append(out / f"{what}.png")
        picture.comparison(
            paths[-1],
            f"{scene.key} ({what} of {len(order)} by {table.label(first)} of {judged})",
            scene.images,
            scene.truth,
            evaluation.shown,
            unit,
            notes=notes,
            scaled_by=judged,
            classes=len(evaluation.pooled[judged]["dice"]) + 1 if evaluation.pooled else 0,
        )
    return paths


def _nothing_matches(missing: Keys, extra: Keys, truth: Listing) -> str:
    lacking = max(missing, key=lambda name: len(missing[name]))
    theirs = extra[lacking]
    return (
        f"{lacking}: no name in common with the truth ({next(iter(truth.files))} there, "
        f"{theirs[0] if theirs else 'nothing'} here); files belong together by their name relative to the folder"
    )


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
