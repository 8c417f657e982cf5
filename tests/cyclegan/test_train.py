"""Tiny CycleGAN trainings from the command line: two domains, two iterators, pools, exact resume."""

import json
import shlex
import time
from pathlib import Path

import commands
import numpy as np
import pytest
from PIL import Image
from run_files import iteration_of, saved_arrays, translation

from medi2i.common.inference.report import find_report
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.options import load_args
from medi2i.common.training.log import read_log
from medi2i.cyclegan import convert
from medi2i.cyclegan.train import main

SMALL = [
    "-cw",
    "16",
    "-ch",
    "16",
    "-gc",
    "4",
    "8",
    "-gnb",
    "1",
    "-dc",
    "4",
    "8",
    "-g",
    "-1",
    "--nvis_A",
    "0",
    "--nvis_B",
    "0",
]
SHAPE = ["--lambda_shape", "1", "--shape_classes", "3"]
UNIT = ["--lambda_kl", "0.1", "--share_latent_blocks", "1", "-gnb", "2", "--ema", "0.9"]
NETWORKS = ("enc_x", "enc_y", "dec_x", "dec_y", "dis_x", "dis_y")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Domain A: 5 grey pictures of stripes, 18×22; domain B: 7 npy images of blocks in HU, 20×17; labels of both."""
    root = tmp_path_factory.mktemp("domains")
    random = np.random.default_rng(1)
    for phase, counts in (("train", (5, 7)), ("test", (2, 3))):
        for domain, count in zip("AB", counts, strict=True):
            (root / f"{phase}{domain}").mkdir()
            for i in range(count):
                if domain == "A":
                    image = np.tile(random.integers(0, 256, (18, 1)), (1, 22)).astype(np.uint8)
                    Image.fromarray(image).save(root / f"{phase}A" / f"{i}.png")
                else:
                    image = np.kron(random.integers(-1000, 1000, (5, 5)), np.ones((4, 4)))[:, :17]
                    np.save(root / f"{phase}B" / f"{i}.npy", image.astype(np.float32))
                if phase == "train":
                    (root / f"labels{domain}").mkdir(exist_ok=True)
                    low, high = np.quantile(image, (0.3, 0.7))
                    classes = (image > low).astype(np.uint8) + (image > high)
                    Image.fromarray(classes).save(root / f"labels{domain}" / f"{i}.png")
    return root


KINDS = ["-it", "png", "--imgtype_b", "npy", "-cb", "-1000", "1000", "-rt", "1"]


def train(data, out, *argv, options=SMALL, status=0):
    assert main(["-R", str(data), "-o", str(out), *KINDS, *options, *argv]) == status
    (run,) = [path for path in Path(out).iterdir() if not path.name.startswith(".")]
    return run


def weights(run, epoch, names=NETWORKS):
    return saved_arrays(run, epoch, names)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    return train(
        data,
        tmp_path_factory.mktemp("out"),
        "-e",
        "2",
        "--nvis_A",
        "2",
        "--nvis_B",
        "1",
        "--vis_windowB",
        "-500",
        "500",
        "--display_interval",
        "2",
    )


def test_a_run_leaves_all_networks_and_both_clips(finished):
    assert {p.name for p in finished.glob("*.npz")} == {
        f"{kind}{name}2.npz" for kind in ("", "opt_") for name in NETWORKS
    }
    assert not (finished / "best.json").exists()  # a cycle is best where nothing is translated
    options = load_args(finished)
    assert options.APPLICATION == "cyclegan" and (options.ch, options.out_ch) == (1, 1)
    assert (options.clipA, options.clipB) == ([0, 255], [-1000, 1000])
    entries = read_log(finished / "log.jsonl")
    # Epochs are those of domain A
    assert [(entry["epoch"], entry["iteration"]) for entry in entries] == [
        (0, 2),
        (0, 4),
        (1, 5),
        (1, 6),
        (1, 8),
        (2, 10),
    ]
    assert {"dec_x/loss_cycle", "dec_y/loss_adv", "dis_x/loss_fake", "dis_y/loss_real"} <= set(entries[0])


def test_conversion_takes_the_last_weights_and_the_command_for_it_is_said(data, tmp_path, capsys):
    run = train(data, tmp_path / "runs", "-e", "2", "-si", "1", "--best_metric", "cycle_MAE")
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("best epoch ") for line in told)
    for way, other in (("A to B", "B"), ("B to A", "A")):
        (line,) = (line for line in told if line.startswith(f"validation, {way}: grey values "))
        assert line.count(f" from those of {other}, ") == 2 and line.count(" doing nothing (") == 2
    best = json.loads((run / "best.json").read_text())
    (run / "best.json").write_text(json.dumps({**best, "epoch": 1}))
    (words,) = (shlex.split(line) for line in told if line.startswith("  python cyclegan/convert.py "))
    assert convert.main([*words[2:], "-it", "png"]) == 0
    report = find_report(run / "converted").read_text()
    assert "enc_x2.npz" in report and "enc_x1.npz" not in report
    assert convert.main([*words[2:-1], str(tmp_path / "first"), "-it", "png", "-e", "1"]) == 0
    assert "enc_x1.npz" in find_report(tmp_path / "first").read_text()


def test_patience_without_a_metric_is_refused(data, tmp_path, capsys):
    assert main(["-R", str(data), "-o", str(tmp_path / "out"), *KINDS, *SMALL, "--patience", "3"]) == 1
    assert "--patience: " in (said := capsys.readouterr().err) and "--best_metric cycle_MAE" in said


def test_each_cycle_is_compared_with_its_own_image_in_its_own_unit(finished, data):
    forward, back = load_generator(finished, epoch=2), load_generator(finished, epoch=2, direction="yx")
    x = [np.asarray(Image.open(data / "testA" / f"{i}.png"), np.float32)[1:17, 3:19] for i in range(2)]
    y = [np.load(data / "testB" / f"{i}.npy")[2:18, 0:16] for i in range(3)]
    unit = np.stack(x)[:, None] / 127.5 - 1
    error_x = (translation(back, translation(forward, unit)) - unit) * 127.5
    unit = np.stack(y)[:, None] / 1000
    error_y = (translation(forward, translation(back, unit)) - unit) * 1000
    entry = read_log(finished / "log.jsonl")[-1]
    for name, error in (("x", error_x), ("y", error_y)):
        assert entry[f"validation/cycle_MAE_{name}"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
        assert entry[f"validation/cycle_RMSE_{name}"] == pytest.approx(np.square(error).mean() ** 0.5, rel=1e-4)
    assert entry["validation/cycle_MAE"] == pytest.approx(
        (entry["validation/cycle_MAE_x"] + entry["validation/cycle_MAE_y"]) / 2
    )


def test_pictures_show_both_domains(finished):
    assert sorted(p.name for p in (finished / "vis").iterdir()) == [
        f"{name}_{iteration:07d}.png" for name in ("train", "val") for iteration in (5, 10)
    ]
    picture = np.asarray(Image.open(finished / "vis" / "val_0000010.png").convert("RGB")).astype(int)
    assert picture.shape == (34 + 3 * 166, 22 + 4 * 166, 3)  # two rows of A, one of B, four columns
    first = picture[34 : 34 + 160, 22 : 22 + 160, 0][5::10, 5::10]
    assert (first == first[:, :1]).all() and first.std() > 20  # the stripes of A
    block = picture[34 + 2 * 166 : 34 + 2 * 166 + 160, 22 : 22 + 160, 0][5::10, 5::10]
    # window -500 … 500 of domain B: much of -1000 … 1000 is black or white, and blocks are 4 pixels wide
    assert {0, 255} <= set(block.ravel()) and (block[:, 0] == block[:, 3]).all()


@pytest.mark.parametrize("extra", [["-lz", "1", "-lfd", "2"], ["-senc", "--look_up", "auto"], UNIT, SHAPE])
def test_killed_and_resumed_gives_the_same_weights(data, tmp_path, extra):
    argv = ["-e", "3", "--snapshot_interval", "2", "-n", "0.1", "-gdo", "0.2", *extra]
    straight = train(data, tmp_path / "straight", *argv)
    out = tmp_path / "killed"
    process = commands.start("medi2i.cyclegan.train", "-R", data, "-o", out, *KINDS, *SMALL, *argv)
    end = time.monotonic() + 240
    while not any(iteration_of(p) >= 6 for p in out.glob("2*/snapshots/snapshot_*.npz")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.wait()
    run = next(out.glob("2*"))
    newest = max((run / "snapshots").glob("snapshot_*.npz"), key=iteration_of)
    assert iteration_of(newest) < 15
    assert main(["--resume", str(run)]) == 0
    names = (*NETWORKS, "dis_z") if "-lz" in extra else NETWORKS
    names = (*names, "seg_x", "seg_y", "opt_seg_y") if extra is SHAPE else names
    assert weights(run, 3, names) == weights(straight, 3, names)
    if "-senc" in extra:
        with np.load(run / "enc_x3.npz") as x, np.load(run / "enc_y3.npz") as y:
            assert all(np.array_equal(x[key], y[key]) for key in x.files)


def test_iteration_ends_it_in_the_middle_of_an_epoch(data, tmp_path, finished):
    run = train(
        data,
        tmp_path,
        "-e",
        "2",
        "--iteration",
        "3",
        "-m",
        str(finished / "dec_y2.npz"),
        "-lrg",
        "0",
        "-lrd",
        "0",
        "-wd",
        "0",
    )
    (line,) = read_log(run / "log.jsonl")  # what it ended with is measured
    assert (line["epoch"], line["iteration"]) == (0, 3) and line["validation/cycle_MAE"] > 0
    assert (run / "enc_x1.npz").is_file()
    with np.load(finished / "dis_x2.npz") as before, np.load(run / "dis_x1.npz") as after:
        assert all(np.array_equal(before[key], after[key]) for key in before.files)


def test_check_and_bad_input(data, tmp_path, capsys):
    assert main(["-R", str(data), "-o", str(tmp_path / "out"), *KINDS, *SMALL, "--check", "--summary"]) == 0
    text = capsys.readouterr().out
    assert "training A   5 examples" in text and "validation B 3 examples" in text and "for 250 updates" in text
    for argv, said in (
        (["-lix", "1"], "--perceptual_weights"),
        (["-m", str(tmp_path / "enc_x9.npz")], "enc_x9.npz"),
        (["-R", str(tmp_path / "no")], "no"),
        (["-cw", "15"], "15"),
    ):
        assert main(["-R", str(data), "-o", str(tmp_path / "out"), *KINDS, *SMALL, *argv]) == 1
        err = capsys.readouterr().err.strip()
        assert err.startswith("error: ") and said in err and "\n" not in err
    assert not (tmp_path / "out").exists()


def test_the_table_of_levels_is_told_and_weights_that_are_given_know_better(data, tmp_path, capsys):
    train(data, tmp_path / "out", "-e", "1", "--look_up", "falling")
    assert "--look_up falling: bright levels become dark, dark ones bright (distance" in capsys.readouterr().out
    (run,) = (tmp_path / "out").iterdir()
    train(data, tmp_path / "more", "-e", "1", "--look_up", "falling", "-m", str(run))
    assert "--look_up" not in capsys.readouterr().out


def test_residual_generators_start_at_the_shift_between_the_domains(tmp_path):
    random = np.random.default_rng(2)
    for folder, above in (("trainA", 0), ("trainB", 200)):
        (tmp_path / folder).mkdir()
        for number in range(4):
            np.save(tmp_path / folder / f"{number}.npy", random.normal(above, 50, (1, 18, 22)).astype(np.float32))
    run = train(
        tmp_path,
        tmp_path / "out",
        "-it",
        "npy",
        "-e",
        "1",
        "-lrg",
        "0",
        "-lrd",
        "0",
        "-ca",
        "-1000",
        "1000",
        "-cb",
        "-1000",
        "1000",
        "--gen_residual",
        "0.1",
        "-gn",
        "none",
        "-go",
        "none",
    )
    for name, shift in (("dec_y", 0.2), ("dec_x", -0.2)):
        with np.load(run / f"{name}1.npz", allow_pickle=False) as file:
            (bias,) = (file[key] for key in file.files if key.startswith("ul/") and key.endswith("/b"))
        assert bias.item() * 0.1 == pytest.approx(shift, abs=0.01)
