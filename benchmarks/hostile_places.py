"""What is no regular file, what leads out of its folder, and what has no end: named, in lists and in folders."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_cases import DONE, LEFT_OUT, REFUSED, SMALL, Command, Ground, case, convert, evaluate, good, holes, scan
from hostile_watch import Seen

PLACES, PATHS = "Not regular files", "Paths and lists"
LIMIT = 45
"""Real seconds: what waits for a FIFO waits for ever."""


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)
    return path


def device(path: Path) -> Path:
    """A link to /dev/zero: it has no end."""
    path.symlink_to("/dev/zero")
    return path


def kernel(path: Path) -> Path:
    """A link to a file of /proc whose size is 0 and whose content is not."""
    path.symlink_to("/proc/self/maps")
    return path


def dangling(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


SPECIAL = {"fifo": fifo, "socket": _socket, "zero": device, "proc": kernel, "dangling": dangling, "loop": loop}

for _name, _make in SPECIAL.items():
    for _suffix in ("dcm", "png", "npy", "tif", "csv"):

        def _direct(ground: Ground, make: Callable[[Path], Path] = _make, suffix: str = _suffix) -> Command:
            return convert(ground, make(ground / f"in/bad.{suffix}"), limit=LIMIT)

        _direct.__doc__ = f"{_name} called .{_suffix}, converted"
        if _suffix in {"fifo": ("dcm", "png", "npy", "csv"), "zero": ("dcm", "png", "csv")}.get(_name, ("png",)):
            case(f"direct-{_name}-{_suffix}", PLACES, REFUSED)(_direct)


@case("folder-special", PLACES, LEFT_OUT, DONE)
def folder_of_special_files(ground: Ground) -> Command:
    """a folder of FIFOs, sockets, devices and links that lead nowhere beside a good picture"""
    for name, make in SPECIAL.items():
        for suffix in ("png", "dcm", "npy"):
            make(ground / f"in/{name}.{suffix}")
    return convert(ground, ground.folder / "in", "-it", "png", beside="png", limit=LIMIT)


@case("folder-special-scan", PLACES, DONE, REFUSED)
def scanned_folder(ground: Ground) -> Command:
    """the same folder, scanned for DICOM"""
    for name, make in SPECIAL.items():
        for suffix in ("png", "dcm", "npy"):
            make(ground / f"in/{name}.{suffix}")
    good(ground / "in/good.dcm")
    return scan(ground.folder / "in", limit=LIMIT)


@case("scan-fifo", PLACES, REFUSED, DONE)
def scanned_fifo(ground: Ground) -> Command:
    """FIFO, scanned"""
    return scan(fifo(ground / "in"), limit=LIMIT)


@case("scan-zero", PLACES, REFUSED, DONE)
def scanned_zero(ground: Ground) -> Command:
    """/dev/zero, scanned"""
    return scan("/dev/zero", limit=LIMIT)


@case("root-zero", PLACES, REFUSED)
def root_zero(ground: Ground) -> Command:
    """/dev/zero as root"""
    return convert(ground, "/dev/zero", limit=LIMIT)


def _list(ground: Ground, make: Callable[[Path], Path], suffix: str = "png") -> Command:
    good(ground / f"data/a.{suffix}")
    make(ground / f"data/bad.{suffix}")
    (ground / "list.txt").write_text(f"a.{suffix}\nbad.{suffix}\n")
    return convert(ground, ground.folder / "data", "--val", ground.folder / "list.txt", "-c1", 0, limit=LIMIT)


for _name in ("fifo", "zero", "loop"):
    for _suffix in ("png", "dcm", "npy"):

        def _listed(ground: Ground, make: Callable[[Path], Path] = SPECIAL[_name], suffix: str = _suffix) -> Command:
            return _list(ground, make, suffix)

        _listed.__doc__ = f"{_name} called .{_suffix} in a list"
        case(f"list-{_name}-{_suffix}", PLACES, REFUSED, LEFT_OUT, DONE)(_listed)

for _what, _make in (
    ("fifo", fifo),
    ("zero", device),
    ("folder", lambda path: path.mkdir() or path),
    ("sparse", holes),
):

    def _as_list(ground: Ground, make: Callable[[Path], Path] = _make) -> Command:
        good(ground / "data/a.png")
        return convert(ground, ground.folder / "data", "--val", make(ground / "list.txt"), limit=LIMIT)

    _as_list.__doc__ = f"{'12 GB of holes' if _what == 'sparse' else _what} as the list of a conversion"
    case(f"val-{_what}", PLACES, REFUSED, large=_what == "sparse")(_as_list)

    def _as_args(ground: Ground, make: Callable[[Path], Path] = _make) -> Command:
        run = ground.run()
        (run / "args").unlink()
        make(run / "args")
        good(ground / "in/a.png")
        return Command(
            "medi2i.pix2pix.convert", (run, "-R", ground.folder / "in", "-o", ground.folder / "out"), limit=LIMIT
        )

    _as_args.__doc__ = f"{'12 GB of holes' if _what == 'sparse' else _what} as args"
    if _what != "sparse":
        case(f"special-args-{_what}", PLACES, REFUSED)(_as_args)

    def _as_weights(ground: Ground, make: Callable[[Path], Path] = _make) -> Command:
        run = ground.run()
        (path,) = run.glob("enc_x*.npz")
        path.unlink()
        make(path)
        good(ground / "in/a.png")
        return Command(
            "medi2i.pix2pix.convert",
            ("-a", run / "args", "-m", path, "-R", ground.folder / "in", "-o", ground.folder / "out"),
            limit=LIMIT,
        )

    _as_weights.__doc__ = f"{'12 GB of holes' if _what == 'sparse' else _what} as weights"
    if _what != "sparse":
        case(f"special-weights-{_what}", PLACES, REFUSED)(_as_weights)

    def _as_best(ground: Ground, make: Callable[[Path], Path] = _make) -> Command:
        run = ground.run()
        (run / "best.json").unlink(missing_ok=True)
        make(run / "best.json")
        good(ground / "in/a.png")
        return Command(
            "medi2i.pix2pix.convert", (run, "-R", ground.folder / "in", "-o", ground.folder / "out"), limit=LIMIT
        )

    _as_best.__doc__ = f"{'12 GB of holes' if _what == 'sparse' else _what} as best.json"
    case(f"special-best-{_what}", PLACES, REFUSED, DONE, large=_what == "sparse")(_as_best)


def _training(ground: Ground, root: Path, *more: object) -> Command:
    return Command(
        "medi2i.pix2pix.train", ("-R", root, "-o", ground.folder / "result", *SMALL, "--check", *more), limit=2 * LIMIT
    )


@case("train-list-fifo", PLACES, REFUSED, LEFT_OUT, DONE)
def fifo_in_training_list(ground: Ground) -> Command:
    """FIFO in the list of a training"""
    for side in "AB":
        for index in range(2):
            good(ground / f"data/{side}/{index}.png", index)
    fifo(ground / "data/A/2.png")
    good(ground / "data/B/2.png")
    (ground / "list.txt").write_text("".join(f"A/{n}.png\tB/{n}.png\n" for n in range(3)))
    return _training(ground, ground.folder / "data", "-t", ground.folder / "list.txt")


@case("train-fifo-as-list", PLACES, REFUSED)
def fifo_as_training_list(ground: Ground) -> Command:
    """FIFO as the list of a training"""
    good(ground / "data/A/0.png")
    return _training(ground, ground.folder / "data", "-t", fifo(ground / "list.txt"))


@case("train-fifo", PLACES, REFUSED, LEFT_OUT, DONE)
def fifo_in_training(ground: Ground) -> Command:
    """FIFOs among the images of a training"""
    for side in ("trainA", "trainB"):
        for index in range(2):
            good(ground / f"data/{side}/{index}.dcm", index)
        fifo(ground / f"data/{side}/2.dcm")
    return _training(ground, ground.folder / "data")


@case("evaluate-fifo", PLACES, REFUSED, LEFT_OUT, DONE, seconds=40)
def fifo_in_evaluation(ground: Ground) -> Command:
    """FIFO among the results of evaluate.py"""
    for side in ("in", "true", "out"):
        for index in range(2):
            good(ground / f"{side}/{index}.png", index)
    (ground / "out/1.png").unlink()
    fifo(ground / "out/1.png")
    return evaluate(ground, limit=4 * LIMIT)


for _tool, _arguments in (
    ("nifti", lambda place, out: (place, "-o", out)),
    ("make_noisy", lambda place, out: ("-i", place, "-o", out)),
    ("make_lowres", lambda place, out: ("-i", place, "-o", out)),
    ("register", lambda place, out: ("-i", place, "-o", out)),
    ("split_pairs", lambda place, out: ("-i", place)),
    ("export_onnx", lambda place, out: (place, "-o", out)),
    ("evaluate", lambda place, out: ("-i", place, "-t", place, "-c", f"x={place}", "-o", out)),
):
    for _what, _make in (("fifo", fifo),):

        def _to_tool(
            ground: Ground,
            tool: str = _tool,
            arguments: Callable[[Path, Path], tuple[object, ...]] = _arguments,
            make: Callable[[Path], Path] = _make,
        ) -> Command:
            place = make(ground / ("in.nii.gz" if tool == "nifti" else "in.txt"))
            return Command(f"medi2i.tools.{tool}", arguments(place, ground.folder / "out"), limit=LIMIT)

        _to_tool.__doc__ = f"{_what} given to {_tool}.py"
        case(f"tool-{_tool}-{_what}", PLACES, REFUSED)(_to_tool)


# --- paths and lists ----------------------------------------------------------------------------------------------


def _inside(seen: Seen, folder: Path) -> str | None:
    """Results lie in ``out``, and only there."""
    outside = [
        path
        for path in folder.parent.rglob("*")
        if path.is_file()
        and "stolen" in path.name
        and folder / "out" not in path.parents
        and path.parent.name not in ("secret", "away")
    ]
    return f"{outside[0].name} was written outside of the folder" if outside else None


def _listing(ground: Ground, text: str, **more: Any) -> Command:
    good(ground / "data/a.png")
    good(ground / "secret/stolen.png")
    (ground / "list.txt").write_text(text.replace("SECRET", str(ground.folder / "secret")))
    return convert(ground, ground.folder / "data", "--val", ground.folder / "list.txt", "-c1", 0, check=_inside, **more)


for _name, _text in (
    ("up", "a.png\n../secret/stolen.png\n"),
    ("absolute", "a.png\nSECRET/stolen.png\n"),
    ("dots", "./../data/../secret/stolen.png\n"),
    ("nul", "a.png\nb\0.png\n"),
    ("long", "a.png\n" + "x" * 10**6 + ".png\n"),
    ("missing", "a.png\nmissing.png\n"),
    ("many", "a.png\n" * 200_000),
    ("tabs", "a.png" + "\t" * 10**6 + "\n"),
):

    def _path(ground: Ground, text: str = _text) -> Command:
        return _listing(ground, text)

    _path.__doc__ = f"a list of a conversion: {_name}"
    case(f"path-{_name}", PATHS, REFUSED, LEFT_OUT, DONE, seconds=40)(_path)


@case("links-loop", PATHS, DONE)
def loops(ground: Ground) -> Command:
    """folders that link to themselves and to their parents"""
    for index in range(9):
        (ground / f"in/{index}/a").mkdir(parents=True)
        (ground.folder / f"in/{index}/up").symlink_to("../..")
        (ground.folder / f"in/{index}/self").symlink_to(".")
    return convert(ground, ground.folder / "in", beside="png")


@case("links-many", PATHS, DONE)
def many_links(ground: Ground) -> Command:
    """folders whose links would be walked 10²⁰ times"""
    for level in range(20):
        (ground / f"in/{level}").mkdir(parents=True)
        for branch in range(10):
            (ground.folder / f"in/{level}/{branch}").symlink_to(f"../{level + 1}")
    (ground / "in/20").mkdir()
    return convert(ground, ground.folder / "in", beside="png")


@case("links-out", PATHS, REFUSED, LEFT_OUT, DONE)
def output_link(ground: Ground) -> Command:
    """a link in the folder of results that leads to another file"""
    good(ground / "in/stolen.png")
    (ground / "away/stolen.txt").write_text("kept")
    (ground / "out").mkdir()
    (ground / "out/stolen.png").symlink_to(ground.folder / "away/stolen.txt")
    return convert(
        ground,
        ground.folder / "in",
        "--force",
        check=lambda seen, folder: (
            None if (folder / "away/stolen.txt").read_text() == "kept" else "the file behind the link was overwritten"
        ),
    )


@case("deep-folder", PATHS, REFUSED, DONE)
def deep_folder(ground: Ground) -> Command:
    """folders 400 deep"""
    place = ground.folder / "in"
    place.mkdir()
    good(place / "good.png")
    here = os.getcwd()
    try:
        os.chdir(place)
        for _ in range(400):
            os.mkdir("d" * 20)
            os.chdir("d" * 20)
        with open("deep.png", "wb") as file:
            file.write((place / "good.png").read_bytes())
    finally:
        os.chdir(here)
    return convert(ground, place)


@case("folder-named-png", PATHS, DONE, LEFT_OUT)
def folder_named_png(ground: Ground) -> Command:
    """folders called a.png and a.dcm"""
    (ground / "in/a.png").mkdir()
    (ground / "in/b.dcm").mkdir()
    return convert(ground, ground.folder / "in", beside="png")


@case("name-bytes", PATHS, DONE, LEFT_OUT)
def name_in_bytes(ground: Ground) -> Command:
    """a file name that is no UTF-8"""
    good(ground / "in/good.png")
    os.rename(ground.folder / "in/good.png", os.fsencode(ground.folder / "in") + b"/\xff\xfe.png")
    return convert(ground, ground.folder / "in", beside="png")


for _what, _content in (
    ("deep", b"[" * 10**5 + b"]" * 10**5),
    ("digits", b'{"files": 1' + b"0" * 10**5 + b"}"),
    ("list", b"[]"),
    ("names", b'{"results": [{"name": "../../stolen"}], "model": 1e400}'),
    ("latin", b"\xff\xfe\0"),
    ("fifo", fifo),
    ("zero", device),
):

    def _resumed(ground: Ground, text: bytes | Callable[[Path], Path] = _content) -> Command:
        good(ground / "in/a.png")
        for place in ("out", "out.report"):  # where it lay, and where it lies
            report = ground / f"{place}/conversion.json"
            if callable(text):
                text(report)
            else:
                report.write_bytes(text)
        return convert(ground, ground.folder / "in", "--resume", limit=LIMIT)

    _resumed.__doc__ = f"conversion.json ({_what}) of a conversion that is resumed"
    case(f"report-{_what}", PLACES, REFUSED, DONE)(_resumed)
