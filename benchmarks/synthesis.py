"""Images made of noise by DCGAN and PGGAN after equal minutes: how alike, how diverse, copies or not; as a page.

    python benchmarks/synthesis.py CT [CT ...] [--other CT] [--minutes 20] [--work FOLDER] [--write PAGE.md]

Slices of the series CT and of a phantom are brought to 64² pixels by means; both networks learn from them. With
--other, a series of another patient, a segmentor (air, soft tissue, bone by their HU, of noisy images) is trained on
the real slices, on these and made ones, and on made ones alone, and judged by that patient. Where PyTorch is installed
(pip install -e ".[bench]"), an update of DCGAN is timed beside the same there. One core. What is trained is kept in
--work and not made again: a run that was ended goes on where it was.
"""

import argparse
import importlib.util
import json
import platform
from functools import partial
from pathlib import Path

import numpy as np
from own_scripts import command, longest_ct, trained

from medi2i.common import VERSION
from medi2i.common.device import use_cpu_engine
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.options.learned import SynthesisOptions
from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.datasets.writing import write_image, write_npy
from medi2i.synthesis import net, sets

SIZE, CLIP = 64, (-1000, 1000)  # HU
MADE = 400
SHARED = ("--size", SIZE, "--clipA", *CLIP, "-b", 16, "--ema", 0.998, "--vis_freq", 400)
# A penalised critic, as published, needs more updates than minutes give; equalised weights move little at 1e-3.
QUICK = ("--loss", "logistic", "--lambda_r1", 1, "-lr", 5e-3)
TRAININGS = {
    "dcgan": ("--channels", 16, "--spectral", "--diffaugment"),
    "pggan": ("--network", "pggan", "--channels", 16, "--latent", 64, "--phase_images", 5000, *QUICK),
}
NOISE, BOUNDS = 100.0, (-300.0, 150.0)  # HU: on the segmentor's input; between air, soft tissue and bone
SEGMENTOR = (
    "--class_num",
    3,
    "-gc",
    16,
    32,
    64,
    "-gnb",
    2,
    "-b",
    8,
    "-l1",
    0,
    "-lce",
    1,
    "-ldis",
    0,
    "-cw",
    64,
    "-ch",
    64,
)


def slices(folder: str) -> list[np.ndarray]:
    """The slices of the longest CT series of a folder, in HU, air where nothing was measured, as means of SIZE²."""
    series = longest_ct(folder)
    found = []
    for item in series.slices:
        hu = np.maximum(dicom.read(item.path, item.frame).hu, -1000).astype(np.float32)
        part = min(hu.shape) // SIZE
        rows, columns = ((size - part * SIZE) // 2 for size in hu.shape)
        square = hu[rows : rows + part * SIZE, columns : columns + part * SIZE]
        found.append(square.reshape(SIZE, part, SIZE, part).mean((1, 3)))
    return found


def prepare(work: Path, folders: list[str]) -> Path:
    """The folder of real slices."""
    real, phantom = work / "real", work / "phantom"
    if not real.is_dir():
        command("tools/make_phantom.py", "-o", phantom, "--size", 256, "--slices", 50, "--seed", 1, "--force")
        for number, folder in enumerate([*folders, str(phantom)]):
            for index, hu in enumerate(slices(folder)):
                write_npy(work / "real.new" / f"{number}_{index:03d}.npy", hu)
        (work / "real.new").rename(real)
    return real


def judged(work: Path, real: Path, runs: dict[str, Path], pictures: Path) -> list[str]:
    """The table of all sets, what was asked and what came out, and pictures."""
    folders = {}
    for name, run in runs.items():
        folders[name] = str(work / f"made_{name}")
        command("synthesis/generate.py", run, "-n", MADE, "-o", folders[name], "--imgtype", "npy", "--force")
        pictures.mkdir(parents=True, exist_ok=True)
        grid = work / f"made_{name}.report" / "grid.png"
        (pictures / f"synthesis_{name}_grid.png").write_bytes(grid.read_bytes())
    rows, limit = sets.of_folders(str(real), folders, work / "sets", CLIP, 0)
    for name in runs:
        (pictures / f"synthesis_{name}_nearest.png").write_bytes((work / "sets" / f"nearest_{name}.png").read_bytes())
    cells = sets.lines_of(rows)
    table = [f"| {' | '.join(line)} |" for line in cells]
    lines = [table[0], "|" + "---|" * len(cells[0]), *table[1:], ""]
    by_name = {row.name: row for row in rows}
    halves, noise, *_ = rows
    mean = {name: float(np.mean(list(row.swd.values()))) for name, row in by_name.items()}
    better = min(runs, key=lambda name: mean[name])
    dcgan, pggan = by_name["dcgan"], by_name["pggan"]
    asked = [
        (f"{better}, the better one: mean SWD ≤ 3 × that of real halves", mean[better] / mean[halves.name], 3.0),
        ("dcgan: mean SWD ≤ 0.35 × that of noise", mean["dcgan"] / mean[noise.name], 0.35),
        *((f"pggan below dcgan at {side} pixels", pggan.swd[side] / dcgan.swd[side], 1.0) for side in (64, 32)),
        *(
            (f"{name}: MS-SSIM within 0.05 of the real pairs'", abs(row.similarity - halves.similarity), 0.05)
            for name, row in (("dcgan", dcgan), ("pggan", pggan))
        ),
        *(
            (f"{name}: no copies, in {MADE}", float(row.copies), 0.0)
            for name, row in (("dcgan", dcgan), ("pggan", pggan))
        ),
    ]
    lines += ["| asked for | found | at most | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {found:.3g} | {most:g} | {'yes' if found <= most else 'no'} |" for what, found, most in asked
    ]
    return [*lines, "", f"An image counts as a copy below {limit:.3g} HU.", ""]


def speed() -> list[str]:
    """An update of either network here and in PyTorch, one thread."""
    import torch
    from measure import alternate, summary
    from subjects import OneBatch, images
    from twin import DcganStep, PgganStep

    from medi2i.common.training.randomness import RandomState
    from medi2i.common.training.setup import make_optimizers
    from medi2i.synthesis.updater import SynthesisUpdater

    torch.set_num_threads(1)
    lines = ["| 64², batch | here / s | PyTorch / s | ratio |", "|---|---|---|---|"]
    for name, channels, batch in (("dcgan", 16, 16), ("dcgan", 32, 32), ("pggan", 16, 16), ("pggan", 32, 16)):
        options = SynthesisOptions(network=name, channels=channels, latent=100, ch=1, batch_size=batch)
        networks = net.build(options)
        if networks.growth is not None:
            networks.growth.shown = 2 * networks.growth.levels * networks.growth.phase  # grown up
        optimizers, _ = make_optimizers(networks.as_dict(), options)
        there = (DcganStep if networks.growth is None else PgganStep)(networks, options)
        updater = SynthesisUpdater(OneBatch(images(batch, SIZE, 1)), optimizers, networks, options, RandomState(0))
        x = torch.from_numpy(np.stack(images(batch, SIZE, 1)))
        rows = summary(alternate({"here": updater.update, "PyTorch": partial(there, x)}, 15, 3), "PyTorch")
        median, ratio = [rows[one]["median_s"] for one in ("here", "PyTorch")], rows["here"]["ratio"]
        lines.append(f"| {batch}, {name} --channels {channels} | {median[0]:.3f} | {median[1]:.3f} | {ratio:.2f} |")
    return [*lines, "", f"PyTorch {torch.__version__}, one thread each, in turn.", ""]


def segmentors(work: Path, real: Path, other: str, minutes: float) -> list[str]:
    """Dice of segmentors trained on real slices, on these and made ones, on made ones, by a patient of none of them."""
    rng = np.random.default_rng(0)
    test, folders = work / "other", {"real": [real]}
    for name in TRAININGS:
        made = work / f"made_{name}"
        folders |= {f"real and {name}": [real, made], name: [made]}
    if not (test / "pairs.txt").is_file():
        pairs(test, slices(other), rng)
    lines = ["| trained on | images | Dice of soft tissue | of bone |", "|---|---|---|---|"]
    for name, sources in folders.items():
        files = [path for folder in sources for path in sorted(folder.glob("*.npy"))]
        data, out = work / f"data_{name.replace(' ', '_')}", work / f"segmentor_{name.replace(' ', '_')}"
        if not (data / "pairs.txt").is_file():
            pairs(data, [np.squeeze(np.load(path)) for path in files], rng)
        if not list(out.glob("*_*/enc_x*.npz")):
            lists = (
                "-it",
                "npy",
                "--imgtype_out",
                "png",
                "-R",
                data,
                "-t",
                data / "pairs.txt",
                "--val",
                data / "pairs.txt",
            )
            command("pix2pix/train.py", *lists, "-ca", *CLIP, "-o", out, *SEGMENTOR, "--minutes", minutes)
        converted = work / f"labels_{name.replace(' ', '_')}"
        run = find_run(next(out.glob("*_*")))
        weights = run.folder / f"enc_x{run.epochs[-1]}.npz"
        command("pix2pix/convert.py", weights, test / "noisy", "-o", converted, "--force")
        folders_of = ("-i", test / "noisy", "-t", test / "labels", "-c", f"segmentor={converted}")
        evaluation = work / f"dice_{name.replace(' ', '_')}"
        command("tools/evaluate.py", *folders_of, "-cn", 3, "-o", evaluation, "--no-report")
        told = json.loads((evaluation / "evaluation.json").read_text())["pooled"]["segmentor"]["dice"]
        lines.append(f"| {name} | {len(files)} | {told[0]:.4f} | {told[1]:.4f} |")
    return [*lines, ""]


def pairs(folder: Path, images: list[np.ndarray], rng: np.random.Generator) -> None:
    """Noisy images and their classes (0 air, 1 soft tissue, 2 bone), and a list of both."""
    rows = []
    for number, hu in enumerate(images):
        name = f"{number:04d}"
        write_npy(folder / "noisy" / f"{name}.npy", (hu + rng.normal(0, NOISE, hu.shape)).astype(np.float32))
        write_image(folder / "labels" / f"{name}.png", np.digitize(hu, BOUNDS).astype(np.float32))
        rows.append(f"noisy/{name}.npy\tlabels/{name}.png\n")
    write_text(folder / "pairs.txt", "".join(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct", nargs="+", help="folders of CT series to learn from")
    parser.add_argument("--other", metavar="FOLDER", help="a CT of another patient, to judge segmentors by")
    parser.add_argument("--minutes", type=float, default=20, help="of each of both trainings")
    parser.add_argument("--segmentor", type=float, default=2, metavar="MINUTES", help="of each of three segmentors")
    parser.add_argument("--work", type=Path, default=Path("synthesis_work"), help="folder for slices and trainings")
    parser.add_argument("--about", metavar="TEXT", help="what else a reader should know, for the page")
    parser.add_argument("--write", type=Path, help="the page; its pictures go into pictures/ beside it")
    options = parser.parse_args()
    use_cpu_engine("auto")
    real = prepare(options.work, options.ct)
    runs = {
        name: trained(options.work / name, options.minutes, "synthesis/train.py", "-i", real, *SHARED, *own)
        for name, own in TRAININGS.items()
    }
    pictures = (options.write or options.work / "page").parent / "pictures"
    count = len(list(real.glob("*.npy")))
    page = [
        "# Images made of noise: results",
        "",
        f"Made by benchmarks/synthesis.py of medi2i {VERSION}, NumPy {np.__version__}, {platform.machine()}. {count} "
        f"slices of {SIZE}² pixels of {', '.join(Path(folder).name for folder in options.ct)} and a phantom; "
        f"{options.minutes:g} minutes for each network; {MADE} images of each network. What the columns are: "
        "[synthesis.md](synthesis.md#is-it-any-good-and-is-it-somebodys-image).",
        *([] if options.about is None else ["", options.about]),
        "",
        *judged(options.work, real, runs, pictures),
    ]
    for name in runs:
        page += [f"![{name}](pictures/synthesis_{name}_grid.png)", ""]
        page += [f"![{name}: nearest](pictures/synthesis_{name}_nearest.png)", ""]
    if importlib.util.find_spec("torch"):
        page += ["## Speed", "", *speed()]
    if options.other:
        page += ["## A segmentor with and without made images", ""]
        page += segmentors(options.work, real, options.other, options.segmentor)
    if options.write:
        write_text(options.write, "\n".join(page).rstrip() + "\n")
    else:
        print("\n".join(page))


if __name__ == "__main__":
    main()
