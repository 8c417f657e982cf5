"""DICOM of many frames (cost a frame), images of odd shape, and text in headers that others interpret."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hostile_cases import (
    DONE,
    GB,
    LEFT_OUT,
    REFUSED,
    Command,
    Ground,
    case,
    convert,
    dataset,
    evaluate,
    good,
    save,
    scan,
    values,
)
from hostile_dicom import file_bytes
from hostile_watch import Seen
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, RLELossless

FRAMES, TEXT = "Many frames", "Text that others interpret"


def _frames(count: int, shape: tuple[int, ...] = (1, 1)) -> Dataset:
    stored = np.arange(count, dtype=np.uint32).astype(np.uint8)[:, None, None] * np.ones(shape, np.uint8)
    return dataset(np.ascontiguousarray(stored), 3)


@case("frames-20000-scan", FRAMES, REFUSED, LEFT_OUT, DONE)
def frames_scan(ground: Ground) -> Command:
    """20,000 frames of 1 × 1, scanned"""
    save(_frames(20_000), ground / "in/bad.dcm")
    return scan(ground.folder / "in")


# 20,000 results, each at what any small result costs (some 8 ms with strace watching).
@case("frames-20000", FRAMES, REFUSED, LEFT_OUT, DONE, seconds=240, large=True)
def frames_convert(ground: Ground) -> Command:
    """20,000 frames of 1 × 1, converted"""
    save(_frames(20_000), ground / "in/bad.dcm")
    return convert(ground, ground.folder / "in")


def _rle(count: int) -> Dataset:
    made = dataset(np.zeros((1, 16, 16), np.uint8), 3)
    frame = struct.pack("<16I", 1, 64, *(0,) * 14) + b"\x81\7" * 2
    made.file_meta.TransferSyntaxUID = RLELossless
    made.PixelData = encapsulate([frame] * count)
    made["PixelData"].is_undefined_length = True
    made["PixelData"].VR = "OB"
    made.NumberOfFrames = count
    return made


@case("frames-rle-5000", FRAMES, REFUSED, LEFT_OUT, DONE)
def rle_frames(ground: Ground) -> Command:
    """5000 frames of RLE, scanned"""
    save(_rle(5000), ground / "in/bad.dcm")
    return scan(ground.folder / "in")


@case("frames-1e7", FRAMES, REFUSED, LEFT_OUT, large=True)
def ten_million_frames(ground: Ground) -> Command:
    """10⁷ frames of 1 × 1, converted"""
    save(_frames(10**7), ground / "in/bad.dcm")
    return convert(ground, ground.folder / "in", bad=("bad.dcm",), beside="dcm")


@case("frames-1e7-scan", FRAMES, REFUSED, LEFT_OUT, DONE, large=True)
def ten_million_frames_scanned(ground: Ground) -> Command:
    """10⁷ frames of 1 × 1, scanned"""
    save(_frames(10**7), ground / "in/bad.dcm")
    return scan(ground.folder / "in")


@case("frames-groups", FRAMES, REFUSED, LEFT_OUT, DONE, seconds=60)
def frames_with_groups(ground: Ground) -> Command:
    """3000 frames, each with functional groups of its own, scanned"""
    made = _frames(3000, (2, 2))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    groups = []
    for index in range(3000):
        plane, group = Dataset(), Dataset()
        plane.ImagePositionPatient = [0, 0, index]
        group.PlanePositionSequence = [plane]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    save(made, ground / "in/bad.dcm")
    return scan(ground.folder / "in")


@case("files-3000", FRAMES, DONE, seconds=60, large=True)
def many_files(ground: Ground) -> Command:
    """3000 files of one slice, scanned"""
    for index in range(3000):
        save(dataset(values(0, (4, 4)), index), ground / f"in/{index}.dcm")
    return scan(ground.folder / "in")


# --- text ---------------------------------------------------------------------------------------------------------

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred"


def _told(ground: Ground, **header: str) -> Path:
    save(dataset(values(3), 3, **header), ground / "in/bad.dcm")
    return ground.folder / "in"


@case("escape-description", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_in_description(ground: Ground) -> Command:
    """escape characters in SeriesDescription, scanned"""
    return scan(_told(ground, SeriesDescription=ESCAPE))


@case("escape-patient", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_in_patient(ground: Ground) -> Command:
    """escape characters in PatientID, scanned"""
    return scan(_told(ground, PatientID=ESCAPE))


@case("escape-c1", TEXT, DONE, LEFT_OUT, REFUSED)
def c1_in_description(ground: Ground) -> Command:
    """control characters of 8 bits and marks that turn text round in SeriesDescription, scanned"""
    return scan(_told(ground, SpecificCharacterSet="ISO_IR 192", SeriesDescription="a\x9b31mred\x85\u202egnp.exe"))


@case("escape-modality", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_in_modality(ground: Ground) -> Command:
    """escape characters in Modality and ImageType, whose file is left out"""
    return scan(_told(ground, Modality="\x1b[31mMR"))


@case("escape-photometric", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_in_photometric(ground: Ground) -> Command:
    """escape characters in PhotometricInterpretation, converted"""
    return convert(ground, _told(ground, PhotometricInterpretation="\x1b[31mRGB"), beside="dcm")


@case("escape-slope", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_in_slope(ground: Ground) -> Command:
    """escape characters in RescaleSlope, converted"""
    data = file_bytes(dataset(values(3), 3)).replace(b"\x28\0\x53\x10DS\2\0001 ", b"\x28\0\x53\x10DS\6\0\x1b[31m1")
    (ground / "in/bad.dcm").write_bytes(data)
    return convert(ground, ground.folder / "in", beside="dcm")


@case("escape-convert", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_converted(ground: Ground) -> Command:
    """escape characters in SeriesDescription and PatientID, converted twice"""
    where = _told(ground, SeriesDescription=ESCAPE, PatientID=ESCAPE)
    save(dataset(values(4), 3, SeriesDescription=ESCAPE, PatientID=ESCAPE), where / "again.dcm")
    return convert(ground, where)


@case("escape-name", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_in_name(ground: Ground) -> Command:
    """escape characters and a line break in the names of files, one damaged, converted"""
    good(ground / f"in/{ESCAPE.replace('/', '')}.png")
    good(ground / "in/line\nbreak.png")
    (ground / f"in/{ESCAPE}bad.png").write_bytes(b"no picture")
    return convert(ground, ground.folder / "in", beside="png")


@case("escape-name-scan", TEXT, DONE, LEFT_OUT, REFUSED)
def escape_in_scanned_name(ground: Ground) -> Command:
    """escape characters and a line break in the names of DICOM files, one damaged, scanned"""
    good(ground / f"in/{ESCAPE}.dcm")
    good(ground / "in/line\nbreak.dcm", 1)
    (ground / f"in/{ESCAPE}bad.dcm").write_bytes(b"no DICOM")
    return scan(ground.folder / "in")


@case("escape-argument", TEXT, REFUSED)
def escape_in_argument(ground: Ground) -> Command:
    """escape characters in the name of a folder that is not there"""
    return convert(ground, ground.folder / f"in{ESCAPE}")


@case("escape-args", TEXT, REFUSED)
def escape_in_args(ground: Ground) -> Command:
    """escape characters in a value of args"""
    run = ground.run()
    values_ = json.loads((run / "args").read_text())
    values_["gen_norm"] = ESCAPE
    (run / "args").write_text(json.dumps(values_))
    good(ground / "in/a.png")
    return Command("medi2i.pix2pix.convert", (run, "-R", ground.folder / "in", "-o", ground.folder / "out"))


def _cells(seen: Seen, folder: Path) -> str | None:
    tables = list((folder / "evaluation").rglob("*.csv"))
    if not tables:
        return "no csv was written"
    for table in tables:
        for line in table.read_text(encoding="utf-8-sig").splitlines():
            bad = [
                cell
                for cell in line.split(",")
                if cell.lstrip('"')[:1] in ("=", "+", "@", "\t") or (cell.lstrip('"')[:1] == "-" and not _number(cell))
            ]
            if bad:
                return f"a cell of {table.name} begins with {bad[0][:1]}"
    return None


def _number(cell: str) -> bool:
    try:
        float(cell.strip('"'))
    except ValueError:
        return False
    return True


@case("csv-cells", TEXT, DONE, seconds=40)
def formulas(ground: Ground) -> Command:
    """names of files that begin with = + - @, evaluated: cells of slices.csv"""
    for side in ("in", "true", "out"):
        for index, name in enumerate(("=cmd()", "+1+1", "-1+1", "@SUM(1)", "plain")):
            good(ground / f"{side}/{name}.png", index)
    return evaluate(ground, check=_cells)


@case("csv-cells-method", TEXT, DONE, REFUSED, seconds=40)
def formula_as_method(ground: Ground) -> Command:
    """a method whose name begins with =, evaluated: cells of the tables"""
    for side in ("in", "true", "out"):
        for index in range(3):
            good(ground / f"{side}/{index}.png", index)
    return Command(
        "medi2i.tools.evaluate",
        (
            "-i",
            ground.folder / "in",
            "-t",
            ground.folder / "true",
            "-c",
            f"=1+1={ground.folder / 'out'}",
            "-o",
            ground.folder / "evaluation",
        ),
        check=lambda seen, folder: _cells(seen, folder) if seen.status == 0 else None,
    )


@case("markup", TEXT, DONE, seconds=40)
def markup(ground: Ground) -> Command:
    """names of files with markup, evaluated: the page shows them and does not obey"""
    name = "<img src=x onerror=alert(1)>.png"
    for side in ("in", "true", "out"):
        good(ground / f"{side}/{name}")
        good(ground / f"{side}/b.png", 1)
    return evaluate(
        ground,
        check=lambda seen, folder: (
            "markup in a page"
            if any("<img src=x" in page.read_text() for page in (folder / "evaluation").rglob("*.html"))
            else None
        ),
    )


# --- shapes -------------------------------------------------------------------------------------------------------

SHAPES = "Images of odd shape through a network"


def _shapes(
    ground: Ground, engine: str, shapes: Sequence[tuple[int, int]], kind: str = "png", *more: object
) -> Command:
    run = ground.run()
    for shape in shapes:
        (ground / f"in/{shape[0]}x{shape[1]}.png").parent.mkdir(exist_ok=True)
        Image.fromarray((values(0, shape) // 8).astype(np.uint8)).save(ground / f"in/{shape[0]}x{shape[1]}.png")
    good(ground / "in/good.png")
    return Command(
        "medi2i.pix2pix.convert",
        (run, "-R", ground.folder / "in", "-o", ground.folder / "out", "--engine", engine, "-g", "-1", *more),
        good=(ground.folder / "out/good.png",),
        check=lambda seen, folder: None if (folder / "out/good.png").is_file() else "good.png is missing",
    )


for _engine in ("chainer", "onnxruntime", "auto"):

    def _thin(ground: Ground, engine: str = _engine) -> Command:
        return _shapes(ground, engine, [(1, 40), (40, 1), (1, 1), (1, 3000), (2, 2)])

    _thin.__doc__ = f"images of one row, one column, one pixel ({_engine})"
    case(f"shape-thin-{_engine}", SHAPES, DONE, LEFT_OUT, seconds=40)(_thin)

    def _large(ground: Ground, engine: str = _engine) -> Command:
        return _shapes(ground, engine, [(4096, 4096)])

    _large.__doc__ = f"an image of 4096² through a small network ({_engine})"
    case(f"shape-4096-{_engine}", SHAPES, DONE, LEFT_OUT, seconds=300, memory=2 * GB, large=True)(_large)


@case("shape-thin-dicom", SHAPES, DONE, LEFT_OUT, seconds=40)
def thin_dicom(ground: Ground) -> Command:
    """DICOM of one row, one column, one pixel"""
    for index, shape in enumerate(((1, 40), (40, 1), (1, 1), (40, 48))):
        save(dataset(values(0, shape), index), ground / f"in/{index}.dcm")
    return Command(
        "medi2i.pix2pix.convert",
        (ground.dicom_run(), "-R", ground.folder / "in", "-o", ground.folder / "out", "-g", "-1"),
    )
