#!/usr/bin/env python
"""Report the CT and MR series in files and folders, and every file that is left out, with the reason.

  python tools/scan.py data
  python tools/scan.py data --json --strict

A series is told with its size, spacing, range of HU and transfer syntaxes.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from medi2i.common.errors import as_main, counted, printable
from medi2i.common.options import Checked, option, parse
from medi2i.datasets.dicom.header_checks import VOLUME_MODALITIES
from medi2i.datasets.dicom.scanning import Scan, scan
from medi2i.datasets.unpacking import unpacked


@dataclass
class ScanOptions(Checked):
    """What to report"""

    places: list[str] = option(
        ["data"], "-i", "-R", nargs="+", bare=True, metavar="FOLDER", help="folders, searched recursively, or files"
    )
    json: bool = option(False, type=bool, help="print JSON")
    strict: bool = option(
        False,
        type=bool,
        help="status 1 if any file was skipped or any series has a warning (1 in any case if a decoder crashed)",
    )
    modality: list[str] = option(list(VOLUME_MODALITIES), nargs="+", metavar="NAME", help="modalities to look for")
    headers: bool = option(
        False, type=bool, help="do not decode pixels: faster, no HU range, damaged pixels stay unseen"
    )
    workers: int | None = option(None, "-j", type=int, low=1, high=1024, help="processes; default: one per core")


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
    slices = sum(len(s.slices) for s in found.series)
    yield f"{len(found.series)} series, {slices} slices, {len(found.skipped)} file(s) skipped"


def command(argv: list[str]) -> int:
    options = parse(ScanOptions, argv, __doc__)
    found = scan(
        [unpacked(place) for place in options.places],
        modalities=tuple(options.modality),
        decode=not options.headers,
        workers=options.workers,
        progress=True,
    )
    if options.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        print("\n".join(as_text(found)))
    found.require_series()
    crashed = sum(item.crashed for item in found.skipped)
    if crashed:
        print(f"error: the decoder crashed on {counted(crashed, 'file')}, left out (see above)", file=sys.stderr)
    warned = any(series.warnings for series in found.series)
    return int(bool(crashed) or (options.strict and bool(found.skipped or warned)))


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
