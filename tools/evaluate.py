#!/usr/bin/env python
"""Measure converted images against the truth, beside doing nothing.

  python tools/evaluate.py -i noisy -t clean -c result/converted --bias 100
  python tools/evaluate.py -R data --pairs data/pairs_val.txt -c mine=run1/converted theirs=run2/converted

Files belong together by their name relative to their folder.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

from medi2i.common.errors import UserError, run
from medi2i.common.evaluation import files, measure, picture, table
from medi2i.common.metrics import FULL, WINDOWS, Window
from medi2i.common.options.machinery import Checked, option, parse
from medi2i.common.version import VERSION
from medi2i.datasets import images

IDENTITY = "identity"
SHOWN_MISSING = 5


@dataclass
class EvaluateOptions(Checked):
    """What to measure"""
    input: str | None = option(None, "-i", metavar="FOLDER", help="what went into the network (row identity)")
    truth: str | None = option(None, "-t", metavar="FOLDER", help="what should come out")
    converted: list | None = option(None, "-c", nargs="+", metavar="[NAME=]FOLDER", help="what came out, one row each")
    pairs: str | None = option(None, metavar="FILE", help="tab-separated list of input and truth, instead of -i and -t")
    root: str = option(".", "-R", metavar="FOLDER", help="where the paths of --pairs begin")
    from_col: int = option(0, "-c1", type=int, low=0, help="column of the input in --pairs")
    to_col: int = option(1, "-c2", type=int, low=0, help="column of the truth in --pairs")
    imgtype: str | None = option(None, "-it", choices=list(images.KINDS),
                                 help="kind of the images [found out]")
    out: str = option("evaluation", "-o", metavar="FOLDER", help="where the tables and pictures go")
    bias: float | None = option(None, type=float, help="known mean of the noise: adds the row identity minus this")
    classes: int | None = option(None, "-cn", type=int, low=2, help="the images hold class numbers 0…N-1: Dice and IoU")
    clip: list | None = option(None, nargs=2, type=float, metavar="X", help="the full range, as the network was trained"
                               " [CT: -1024 2000; 8 bit: 0 255; 16 bit: 0 65535; others: the range of the truth]")
    window: list | None = option(None, "-w", nargs="+", metavar="NAME[=LOW:HIGH]",
                                 help="further windows for PSNR and SSIM: " + ", ".join(WINDOWS)
                                 + ", or one's own as liver=-50:150 [CT: soft]")
    vis_window: str | None = option(None, metavar="NAME[=LOW:HIGH]", help="window of the pictures [the first --window]")
    seed: int = option(0, type=int, low=0, help="of the bootstrap")
    strict: bool = option(False, type=bool, help="end with an error where a file was skipped or has no partner")


def command(argv):
    options = parse(EvaluateOptions, argv, prog="evaluate", description=__doc__.splitlines()[0])
    inputs, truth, converted = listings(options)
    matching = files.match(truth, {IDENTITY: inputs, **converted})
    if not matching.slices:
        raise UserError(_nothing_matches(matching, truth))
    problems = report_problems(matching, {IDENTITY: inputs, "truth": truth, **converted})
    unit = "HU" if truth.first.modality == "CT" else ""
    windows = [] if options.classes else choose_windows(options, matching.slices, unit)
    rows = choose_rows(options, converted, windows)

    def measured(image, true, mask):
        if options.classes:
            return measure.label_metrics(image, true, options.classes, mask)
        return measure.image_metrics(image, true, windows, mask)
    records = [record for one in matching.slices for record in measure.measure(one, rows, measured)]
    summary = measure.summaries(records, options.seed)

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    print_tables(matching, rows, summary, windows, unit)
    pictures = write_pictures(out, matching.slices, rows, records, _shown_window(options, windows), unit)
    table.write_slices_csv(out / "slices.csv", records)
    table.write_summary_csv(out / "summary.csv", summary, windows)
    table.write_json(out / "evaluation.json", {
        "medi2i_version": VERSION, "options": vars(options), "unit": unit,
        "windows": {window.name: [window.lower, window.upper] for window in windows},
        "rows": {row.name: row.note for row in rows}, "pictures": [path.name for path in pictures], **problems,
        "summary": [{"row": row, "series": series, "metric": name, **vars(one)}
                    for (row, series, name), one in summary.items()],
        "slices": [vars(record) for record in records]})
    print(f"\nwritten: {out / 'summary.csv'}, {out / 'slices.csv'}, {out / 'evaluation.json'}")
    for path in pictures:
        print(f"picture: {path}")
    return 1 if options.strict and problems["problems"] else 0


def listings(options):
    """The files of the inputs, of the truth and of the converted folders (name → Listing)."""
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
        if name in converted or name in (IDENTITY, "truth"):
            raise UserError(f"--converted: {text}: the name {name} is taken; give another as NAME={folder}")
        converted[name] = files.list_folder(folder, options.imgtype or (truth.first.kind if options.classes else None))
    return inputs, truth, converted


def report_problems(matching, listed):
    """Tell of skipped files and missing partners on stderr; the same for the JSON file."""
    skipped = {str(path): reason for listing in listed.values() for path, reason in listing.skipped}
    for path, reason in list(skipped.items())[:SHOWN_MISSING]:
        print(f"warning: {path}: skipped: {reason}", file=sys.stderr)
    _more(len(skipped), "skipped files")
    for kind, lists in (("has no partner of the truth", matching.missing), ("has no truth", matching.extra)):
        for name, keys in lists.items():
            for key in keys[:SHOWN_MISSING]:
                print(f"warning: {name}: {key} {kind}", file=sys.stderr)
            _more(len(keys), f"of {name}")
    problems = len(skipped) + sum(len(keys) for keys in (*matching.missing.values(), *matching.extra.values()))
    return {"problems": problems, "skipped": skipped, "missing": matching.missing, "without_truth": matching.extra}


def choose_windows(options, slices, unit):
    """The full window first, then the others asked for. Raises UserError."""
    named = {FULL.name: _full(options, slices, unit)}
    asked = options.window if options.window is not None else ["soft"] if unit == "HU" else []
    for text in asked:
        window = parse_window(text)
        named[window.name] = window
    return list(named.values())


def parse_window(text) -> Window:
    """`soft`, or `liver=-50:150`. Raises UserError."""
    name, mark, limits = text.partition("=")
    if not mark:
        if name not in WINDOWS:
            raise UserError(f"--window: {name!r} is unknown; it can be {', '.join(WINDOWS)}, "
                            "or one's own as liver=-50:150")
        return WINDOWS[name]
    try:
        lower, upper = (float(limit) for limit in limits.split(":"))
        return Window(name, lower, upper)
    except ValueError:
        raise UserError(f"--window: {text!r} is not a window; it should look like liver=-50:150, "
                        "the lower limit first") from None


def choose_rows(options, converted, windows):
    """Identity first, then identity minus its bias, then the converted folders in the order given."""
    rows = [measure.file_row(IDENTITY, "the input as it is: doing nothing")]
    if options.bias is not None and not options.classes:
        rows.append(measure.without_bias(IDENTITY, options.bias, windows[0].lower))
    folders = dict(zip(converted, options.converted or [], strict=True))
    return rows + [measure.file_row(name, folders[name].partition("=")[2] or folders[name]) for name in converted]


def print_tables(matching, rows, summary, windows, unit):
    """The table over all slices, and one for each series where there are several."""
    series = list(dict.fromkeys(one.series for one in matching.slices))
    print(f"{len(matching.slices)} slices of {len(series)} series; mean ± standard deviation over slices"
          + (f"; RMSE, MAE and bias in {unit}" if unit else ""))
    if windows:
        print(table.describe_windows(windows, unit))
    print("\n" + table.text_tables(rows, summary, unit))
    for name in series if len(series) > 1 else []:
        print(f"\nseries {name}:\n" + table.text_tables(rows, summary, unit, name))


def write_pictures(out, slices, rows, records, window, unit):
    """Pictures of the middling and the worst slice by the first metric of the last row."""
    first = next(iter(records[0].values))
    own = {record.slice: record.values[first] for record in records if record.row == rows[-1].name}
    worse_last = sorted(own, key=lambda key: own[key] if first == "rmse" else -own[key])
    by_key = {one.key: one for one in slices}
    chosen = {"middling": worse_last[(len(worse_last) - 1) // 2], "worst": worse_last[-1]}
    paths = []
    for what, key in chosen.items():
        notes = {record.row: f"{first} {record.values[first]:.4g}{unit and ' ' + unit}" for record in records
                 if record.slice == key}
        truth = by_key[key].truth.load().array
        shown = window or Window("truth", float(truth.min()), max(float(truth.max()), float(truth.min()) + 1))
        path = out / f"{what}.png"
        picture.comparison(path, f"{key} ({what} of {len(own)} by {first} of {rows[-1].name})",
                           {row.name: row.image(by_key[key]) for row in rows}, truth, shown, unit, notes=notes)
        paths.append(path)
    return paths


def _full(options, slices, unit):
    if options.clip is not None:
        lower, upper = options.clip
        if not upper > lower:
            raise UserError(f"--clip: {lower:g} {upper:g}: the first must be below the second")
        return Window(FULL.name, lower, upper)
    loaded = [one.truth.load() for one in slices]
    bits = {one.bits for one in loaded}
    if unit == "HU" or len(bits) == 1 and bits != {None}:
        clip = images.default_clip(slices[0].truth.kind, loaded[0].bits)
        return Window(FULL.name, clip.lower, clip.upper)
    lower, upper = min(float(one.array.min()) for one in loaded), max(float(one.array.max()) for one in loaded)
    return Window(FULL.name, lower, upper if upper > lower else lower + 1)


def _shown_window(options, windows):
    if options.vis_window is not None:
        return parse_window(options.vis_window)
    return windows[min(1, len(windows) - 1)] if windows else None


def _more(count, what):
    if count > SHOWN_MISSING:
        print(f"warning: … {count} {what} in all", file=sys.stderr)


def _nothing_matches(matching, truth):
    lacking = max(matching.missing, key=lambda name: len(matching.missing[name]))
    theirs = matching.extra[lacking]
    return (f"{lacking}: no name in common with the truth ({next(iter(truth.files))} there, "
            f"{theirs[0] if theirs else 'nothing'} here); files belong together by their name relative to the folder")


def main(argv=None):
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
