"""``python -m medi2i.datasets.dicom FOLDER [--json] [--strict]``

reports every series (size, spacing, HU range, transfer syntax) and every file that was skipped, with the reason.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from medi2i.common.errors import counted, printable, run
from medi2i.common.limits import MAX_PIXELS
from medi2i.datasets.dicom.header_checks import VOLUME_MODALITIES
from medi2i.datasets.dicom.scanning import Scan, scan


def as_json(found: Scan) -> dict:
    """The scan as plain values for ``json.dumps``."""
    return {
        "places": [str(place) for place in found.places],
        "series": [
            {
                "uid": s.uid,
                "number": s.number,
                "modality": s.modality,
                "description": s.description,
                "patient": s.patient,
                "slices": len(s.slices),
                "rows": s.shape[0],
                "columns": s.shape[1],
                "spacing_mm": s.spacing,
                "slice_distance_mm": s.slice_distance,
                "range": s.hu_range,
                "transfer_syntaxes": s.syntaxes,
                "padded_pixels": sum(item.padded for item in s.slices),
                "warnings": s.warnings,
                "files": [{"path": str(item.path), "frame": item.frame} for item in s.slices],
            }
            for s in found.series
        ],
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in found.skipped],
    }


def as_text(found: Scan) -> Iterator[str]:
    """The scan as lines for people."""
    yield from (printable(" ".join(line.splitlines())) for line in _lines(found))


def _lines(found: Scan) -> Iterator[str]:
    for s in found.series:
        name = " ".join(filter(None, (s.modality, f"#{s.number}" if s.number is not None else "", s.description)))
        size = f"{s.shape[1]}×{s.shape[0]}×{len(s.slices)}"
        spacing = "? mm" if s.spacing is None else f"{s.spacing[1]:g}×{s.spacing[0]:g} mm"
        distance = "" if s.slice_distance is None else f", {s.slice_distance:g} mm apart"
        unit = " HU" if s.modality == "CT" else ""
        values = "" if s.hu_range is None else f", {s.hu_range[0]:g}…{s.hu_range[1]:g}{unit}"
        yield f"{name or 'series'}: {size}, {spacing}{distance}{values}, {', '.join(s.syntaxes)}"
        yield f"    patient {s.patient or '(no ID)'}, {s.slices[0].path} …"
        yield from (f"    warning: {warning}" for warning in s.warnings)
    yield from (f"skipped {s.path}: {s.reason}" for s in found.skipped)
    yield found.summary()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medi2i.datasets.dicom", description="Report the CT and MR series in files and folders."
    )
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="FOLDER", help="folder or file; folders are searched recursively"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="status 1 if any file was skipped or any series has a warning (1 in any case if a decoder crashed)",
    )
    parser.add_argument(
        "--modality", nargs="+", default=list(VOLUME_MODALITIES), help="what to look for (default: %(default)s)"
    )
    parser.add_argument(
        "--headers", action="store_true", help="do not decode pixels: faster, no HU range, damaged pixels stay unseen"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="largest Rows × Columns to accept (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def command(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    found = scan(
        args.places,
        modalities=tuple(args.modality),
        decode=not args.headers,
        max_pixels=args.max_pixels,
        workers=args.workers,
        progress=True,
    )
    if args.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        print("\n".join(as_text(found)))
    found.require_series()
    crashed = sum(item.crashed for item in found.skipped)
    if crashed:
        print(f"error: the decoder crashed on {counted(crashed, 'file')}, left out (see above)", file=sys.stderr)
    warned = any(series.warnings for series in found.series)
    return int(bool(crashed) or (args.strict and bool(found.skipped or warned)))


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
