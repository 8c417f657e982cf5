"""Good files through every command: no connection, no other program, nothing but the work."""

from pathlib import Path

from hostile_cases import DONE, SMALL, Command, Ground, case, evaluate, good, scan

GOOD = "Good files"


def _folder(ground: Ground, name: str, kind: str) -> Path:
    for index in range(3):
        good(ground / f"{name}/{index}.{kind}", index)
    return ground.folder / name


for _engine in ("chainer", "onnxruntime", "auto"):

    def _convert(ground: Ground, engine: str = _engine) -> Command:
        return Command(
            "medi2i.pix2pix.convert",
            (ground.dicom_run(), "-R", _folder(ground, "in", "dcm"), "-o", ground.folder / "out", "--engine", engine),
            good=(ground.folder / "out/0.dcm",),
        )

    _convert.__doc__ = f"a DICOM series, converted ({_engine})"
    case(f"good-convert-{_engine}", GOOD, DONE, seconds=40)(_convert)


@case("good-train", GOOD, DONE, seconds=60)
def train(ground: Ground) -> Command:
    """a training with validation"""
    for side in ("trainA", "trainB", "testA", "testB"):
        _folder(ground, f"data/{side}", "dcm")
    return Command("medi2i.pix2pix.train", ("-R", ground.folder / "data", "-o", ground.folder / "result", *SMALL))


@case("good-train-workers", GOOD, DONE, seconds=60)
def train_with_processes(ground: Ground) -> Command:
    """a training whose images are read by processes"""
    for side in ("trainA", "trainB"):
        _folder(ground, f"data/{side}", "png")
    return Command(
        "medi2i.pix2pix.train",
        ("-R", ground.folder / "data", "-o", ground.folder / "result", *SMALL, "--workers", "2", "--worker_processes"),
    )


@case("good-cyclegan", GOOD, DONE, seconds=60)
def cyclegan(ground: Ground) -> Command:
    """a CycleGAN training"""
    for side in ("trainA", "trainB"):
        _folder(ground, f"data/{side}", "png")
    return Command(
        "medi2i.cyclegan.train",
        (
            "-R",
            ground.folder / "data",
            "-o",
            ground.folder / "result",
            "-gc",
            "4",
            "8",
            "-dc",
            "4",
            "8",
            "-e",
            "1",
            "-cw",
            "32",
            "-ch",
            "32",
            "-g",
            "-1",
            "--nvis_A",
            "0",
            "--nvis_B",
            "0",
            "--snapshot_minutes",
            "0",
        ),
    )


@case("good-evaluate", GOOD, DONE, seconds=60)
def evaluated(ground: Ground) -> Command:
    """an evaluation"""
    for side in ("in", "true", "out"):
        _folder(ground, side, "dcm")
    return evaluate(ground)


@case("good-scan", GOOD, DONE)
def scanned(ground: Ground) -> Command:
    """a scan"""
    return scan(_folder(ground, "in", "dcm"))


@case("good-scan-workers", GOOD, DONE, seconds=60, large=True)
def scanned_by_processes(ground: Ground) -> Command:
    """a scan by processes"""
    for index in range(200):
        good(ground / f"in/{index}.dcm", index)
    return scan(ground.folder / "in", "--workers", "2")


@case("good-export", GOOD, DONE)
def exported(ground: Ground) -> Command:
    """an export to ONNX"""
    return Command("medi2i.tools.export_onnx", (ground.run(), "-o", ground.folder / "a.onnx"))


@case("good-nifti", GOOD, DONE)
def nifti(ground: Ground) -> Command:
    """DICOM to NIfTI"""
    return Command("medi2i.tools.nifti", (_folder(ground, "in", "dcm"), "-o", ground.folder / "a.nii.gz"))


@case("good-noisy", GOOD, DONE)
def noisy(ground: Ground) -> Command:
    """noise on a series"""
    return Command("medi2i.tools.make_noisy", ("-i", _folder(ground, "in", "dcm"), "-o", ground.folder / "out"))


@case("good-help", GOOD, DONE)
def helped(ground: Ground) -> Command:
    """--help"""
    return Command("medi2i.pix2pix.train", ("--help",))
