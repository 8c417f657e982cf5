"""make quality: steps are made once, the page's words are true to its figures, the parts share no slice."""

import importlib
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import commands
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("quality", "quality_work", "quality_subjects", "quality_steps", "quality_judge", "quality_page", "ablation")


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/, which is no package."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in (*MODULES, "measure"):
        sys.modules.pop(name, None)


def test_a_step_is_made_once_and_again_when_what_decides_it_changes(tmp_path, benchmark):
    work = benchmark("quality_work").Work(tmp_path / "work")
    calls = []

    def make(folder):
        assert list(folder.iterdir()) == []
        (folder / "result").write_text(str(len(calls)))
        calls.append(folder)
        return {"number": len(calls), "pair": (1, 2)}

    assert work.step("a/b", {"x": (1,)}, make) == {"number": 1, "pair": [1, 2]}
    assert work.step("a/b", {"x": [1]}, make) == {"number": 1, "pair": [1, 2]} and len(calls) == 1
    assert work.step("a/b", {"x": [2]}, make)["number"] == 2
    (work.folder("a/b") / "step.json").unlink()  # as if the run had been killed within the step
    assert work.step("a/b", {"x": [2]}, make)["number"] == 3
    assert (work.folder("a/b") / "result").read_text() == "2"


def test_a_step_that_fails_is_not_taken_for_made(tmp_path, benchmark):
    work = benchmark("quality_work").Work(tmp_path / "work")

    def fail(folder):
        raise SystemExit("no")

    with pytest.raises(SystemExit):
        work.step("a", {}, fail)
    assert work.record("a") is None and work.step("a", {}, lambda folder: {"good": True}) == {"good": True}


def test_a_folder_with_other_things_is_not_worked_in(tmp_path, benchmark):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds other things"):
        benchmark("quality_work").Work(tmp_path)


ROWS = {
    "identity": {"rmse": 10.0, "psnr full": 40.0, "ssim full": 0.9, "psnr soft": 30.0, "ssim soft": 0.8},
    "bm3d": {"rmse": 6.0, "psnr full": 45.0, "ssim full": 0.98, "psnr soft": 35.0, "ssim soft": 0.95},
    "nlm": {"rmse": 5.5, "psnr full": 44.0, "ssim full": 0.97, "psnr soft": 34.0, "ssim soft": 0.94},
    "medi2i, seed 0": {"rmse": 5.0, "psnr full": 46.0, "ssim full": 0.96, "psnr soft": 36.0, "ssim soft": 0.96},
    "medi2i, seed 1": {"rmse": 6.0, "psnr full": 44.0, "ssim full": 0.98, "psnr soft": 36.0, "ssim soft": 0.96},
}


def test_mean_and_spread_of_the_seeds(benchmark):
    page = benchmark("quality_page")
    means = page.mean_of_seeds(ROWS)
    assert means["rmse"] == (5.5, pytest.approx(0.5**0.5)) and means["psnr soft"] == (36.0, 0.0)
    last = page.table(ROWS)[-1]
    assert last.startswith("| **medi2i, 2 seeds** | **5.50 ± 0.71** | **45.00 ± 1.41** |")
    one = {row: values for row, values in ROWS.items() if row != "medi2i, seed 1"}
    assert page.table(one)[-1].startswith("| medi2i, seed 0 | 5.00 |")
    assert page.mean_of_seeds(one)["rmse"] == (5.0, None)


def test_verdicts_name_the_best_other_row_and_bm3d(benchmark):
    best, bm3d = benchmark("quality_page").verdicts(ROWS)
    assert best == (
        "Against nlm, the best of the other rows in RMSE: RMSE +0.00 (worse), PSNR full +1.00 (better), "
        "SSIM full +0.00000 (worse), PSNR soft +2.00 (better), SSIM soft +0.02000 (better)."
    )
    assert bm3d.startswith("Against bm3d: RMSE -0.50 (better), PSNR full +0.00 (worse), ")


def forked(words, stdout, **_):
    """Of ``subprocess.run([python, "-m", module, …])``: it, sooner."""
    done = commands.finish(*words[2:])
    stdout.write(done.stdout + done.stderr)
    return done


def test_everything_on_a_phantom(tmp_path, benchmark, monkeypatch):
    """Two subjects, tiny: all steps are the project's commands, and a second run makes none of them again."""
    from medi2i.tools import make_phantom

    quality, subjects = benchmark("quality"), benchmark("quality_subjects")
    argv = ["-o", tmp_path / "ct", "--size", 48, "--slices", 12]
    assert make_phantom.main([str(word) for word in argv]) == 0
    small = ("-gc", 2, 4, "-gnb", 1, "-cw", 16, "-ch", 16, "--vis_freq", 10**6)
    for name, more in (("denoise", ("-ldis", 0)), ("cyclegan", ("-dc", 2, 4))):
        monkeypatch.setitem(
            subjects.SUBJECTS,
            name,
            subjects.Subject(
                name, name, "n100", subjects.SUBJECTS[name].application, (*small, *more), name == "cyclegan"
            ),
        )
    monkeypatch.setattr(quality.quality_steps, "one_thread", lambda: None)  # it would stay so for other tests
    monkeypatch.setattr(quality.quality_steps, "subprocess", types.SimpleNamespace(run=forked, STDOUT=None))
    monkeypatch.setattr(quality, "run", lambda jobs, count: sum(not quality.guarded(job)[1] for job in jobs))
    words = [
        "quality.py",
        tmp_path / "ct",
        "--work",
        tmp_path / "work",
        "--minutes",
        0.01,
        "--only",
        "denoise",
        "cyclegan",
        "--seeds",
        3,
        "--classical",
        "tv",
        "--write",
        tmp_path / "docs" / "quality.md",
    ]
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    assert quality.main() == 0
    lists = subjects.lists_in(tmp_path / "work" / "data" / "n100" / "images")
    parts = [path.read_text().splitlines() for path in lists.values()]
    assert [len(part) for part in parts] == [6, 2, 4] and len({line for part in parts for line in part}) == 12
    assert sum(parts, []) == sorted(sum(parts, []))  # blocks, in the order of the series
    page = (tmp_path / "docs" / "quality.md").read_text(encoding="utf-8")
    assert "| noisy input - 100 HU | " in page and "medi2i, seed 3" in page and "## The same model on other" in page
    assert str(tmp_path) not in page
    for name in ("denoise", "cyclegan"):
        assert (tmp_path / "docs" / "pictures" / f"quality_{name}.png").stat().st_size > 10_000
    unpaired = tmp_path / "work" / "trained" / "cyclegan" / "3" / "unpaired"
    a, b = ({path.name for path in (unpaired / side).iterdir()} for side in ("trainA", "trainB"))
    assert len(a) == len(b) == 3 and not a & b

    def stop(*words, **more):
        raise AssertionError(words)

    monkeypatch.setattr(benchmark("quality_steps").subprocess, "run", stop)
    shutil.rmtree(tmp_path / "docs" / "pictures")
    assert quality.main() == 0 and (tmp_path / "docs" / "pictures" / "quality_denoise.png").exists()


def test_every_row_of_the_ablation_is_another_training(benchmark):
    from medi2i.common.options import PairedOptions

    rows = benchmark("ablation").rows()
    assert len({name for name, _ in rows}) == len(rows)
    built = [
        PairedOptions(**{name: value for name, value in changes.items() if value is not None}) for _, changes in rows
    ]
    seen = [(vars(one), None in changes.values()) for one, (_, changes) in zip(built, rows, strict=True)]
    assert all(one not in seen[:number] for number, one in enumerate(seen))


def test_ablation_measures_one_network_with_all_statistics(tmp_path, benchmark):
    import numpy as np

    from medi2i.tools import make_noisy, make_phantom, split_pairs

    ablation = benchmark("ablation")
    for tool, argv in (
        (make_phantom, ["-o", tmp_path / "ct", "--size", 32, "--slices", 4]),
        (make_noisy, ["-i", tmp_path / "ct", "-o", tmp_path / "data", "-j", 1]),
        (split_pairs, ["-i", tmp_path / "data" / "pairs.txt", "--ratio", 0.5, "--test", 0.25]),
    ):
        assert tool.main([str(word) for word in argv]) == 0
    test = [(np.zeros((24, 32), np.float32), np.full((24, 32), 3, np.float32))]
    small = dict(gen_chs=[2, 4], gen_nblock=2, crop_width=16, crop_height=16, lambda_dis=0)
    row = ablation.measured(tmp_path / "data", small, 0.01, 0, test)
    assert row["updates"] >= 1
    assert list(row)[1:] == ["as converted", "statistics of the image", "statistics estimated anew"]
    plain = ablation.measured(tmp_path / "data", {**small, "gen_norm": "none", "lr_drop": None}, 0.01, 0, test)
    assert list(plain) == ["updates", "as converted"] and plain["as converted"]["rmse"] > 0


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    "target, page",
    [
        (["bench"], "benchmarks/results/speed.md"),
        (["quality", "CT=x"], "quality/quality.md"),
        (["quality", "CT=x", "WORK=w"], "w/quality.md"),
        (["bench", "WRITE=docs/speed.md"], "docs/speed.md"),
        (["quality", "CT=x", "WRITE=docs/quality.md"], "docs/quality.md"),
    ],
)
def test_make_writes_a_tracked_page_only_where_it_is_asked_to(target, page):
    shown = subprocess.run(
        ["make", "-n", *target], cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r'--write "?([^"\s]+)', shown)[1] == page
