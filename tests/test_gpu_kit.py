"""What goes to a machine with a GPU: its parts run here on the stand-in, and none of them stops the others."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cuda_harness import by_gcc

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
PARTS = ("environment", "medi2i", "denoise", "tests")  # all but PyTorch, which has no stand-in
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not installed")


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_parts

    yield gpu_parts
    del sys.modules["gpu_parts"]


@pytest.mark.skipif(by_gcc.compiler() is None, reason="g++ is not installed")
def test_a_dry_run(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "gpu_parts.py", "--dry", "--out", tmp_path, "--only", *PARTS],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = {part["part"]: part for part in json.loads((tmp_path / "results.json").read_text())["parts"]}
    assert {name.partition(",")[0]: part["ended"] for name, part in results.items()} == dict.fromkeys(PARTS, "done"), (
        done.stdout
    )
    assert " passed" in results["tests"]["last"]
    assert [row["case"] for row in results["medi2i, fp32"]["found"]] == [
        f"{case}:16:1" for case in ("pix2pix", "cyclegan", "convert")
    ]
    assert all(row["median_s"] > 0 and row["megabytes"] > 0 for row in results["medi2i, fp32"]["found"])
    (facts,) = results["environment"]["found"]
    assert facts["gpu"].startswith("stand-in") and facts["convolutions"].startswith("matrix products")
    told = {key: value for row in results["denoise"]["found"] for key, value in row.items()}
    assert told["RMSE on the GPU / HU"] == pytest.approx(told["RMSE on the CPU / HU"], rel=0.05)
    assert told["updates on the GPU"] >= 1 and 95 < told["RMSE of the input / HU"] < 105
    page = (tmp_path / "results.txt").read_text()
    assert "medi2i, fp32 " in page and "RMSE on the GPU / HU" in page


def test_what_fails_or_takes_too_long_stops_nothing(parts, tmp_path):
    def printing(candidate):
        row = {"candidate": candidate, "case": "a:1:1", "median_s": 2.0, "megabytes": 3.0}
        return row, f"import time; print({json.dumps(row)!r}, flush=True); "

    (ours, ours_printed), (torch, torch_printed) = printing("medi2i, fp32"), printing("PyTorch, fp32")
    given = [
        parts.Part("medi2i, fp32", [sys.executable, "-c", ours_printed + "time.sleep(60)"], 3, {}),
        parts.Part("PyTorch, fp32", [sys.executable, "-c", torch_printed], 20, {}),
        parts.Part("gone", [sys.executable, "-c", "raise SystemExit('no such thing')"], 20, {}),
        parts.Part("last", [sys.executable, "-c", "import os; print(os.environ['A'])"], 20, {"A": "b"}),
    ]
    end = time.monotonic() + sum(part.limit for part in given)
    results = parts.all_ran(given, tmp_path, parts.environment(tmp_path, False), end)
    assert [result["ended"] for result in results] == ["not over after 3 s", "done", "ended with status 1", "done"]
    assert results[0]["found"] == [ours] and results[1]["found"] == [torch]
    assert results[2]["last"] == "no such thing" and results[3]["last"] == "b"
    assert "1.00 x PyTorch's better layout, memory  1.00 x" in parts.page(results, 1.0)


def test_all_parts_together_keep_within_eight_minutes(parts, tmp_path):
    given = parts.parts(tmp_path, False)
    assert sum(part.limit for part in given) + parts.UNPACKING <= parts.WHOLE == 480
    steps = [f"medi2i, {numbers}" for numbers in ("fp32", "tf32", "mixed")]
    steps += [f"PyTorch, {numbers}" for numbers in ("fp32", "tf32", "bf16", "fp16")]
    assert [part.name for part in given] == ["environment", *steps, "denoise", "tests"]
    (tests,) = (part.words for part in given if part.name == "tests")
    words = given[1].words[-len(parts.CASES) :]
    import gpu

    assert words == [":".join(map(str, case)) for case in gpu.CASES]
    assert {name: gpu.HALF[name] for name in parts.HALF} == parts.HALF
    assert {"tests/gpu/test_updates.py", "tests/common/kernels/gpu/test_augment.py"} < set(tests)


def test_what_the_kit_brings(parts, tmp_path):
    import gpu_kit

    lock = "numpy==2.5.5 ; python_full_version >= '3.12'\nscipy==1.18.1\nonnx==1.23.2\nnvidia-cublas==13.4.1.3\n"
    lock += "nvidia-cudnn-frontend==1.26.0\nimagecodecs==2026.10.10\nonnxruntime==1.32.0\nchainer==7.8.1\n"
    assert gpu_kit.brought(lock) == ["scipy==1.18.1", "nvidia-cudnn-frontend==1.26.0", "chainer==7.8.1"]
    site = tmp_path / "site"
    for name in ("a/b.py", "a/tests/c.py", "a/d.pyi", "lib/libdnnl.so", "lib/libdnnl.so.3", "lib/libdnnl.so.3.2"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(name)
    gpu_kit.packed(site, tmp_path / "site.tar.xz")
    with gpu_kit.tarfile.open(tmp_path / "site.tar.xz") as file:
        assert file.getnames() == ["a/b.py", "lib/libdnnl.so.3"]
    gpu_kit.project(tmp_path)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    wanted = ["run.sh", "pyproject.toml", "benchmarks/gpu_parts.py", "tests/conftest.py", "tests/ct_files.py"]
    assert made >= {*wanted, *parts.marked(ROOT / "tests"), "tests/cuda_harness/stand_in/cupy/__init__.py"}
    done = subprocess.run(["sh", tmp_path / "run.sh"], env={"PYTHON": "true"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # whatever Python finds
    refused = subprocess.run(["sh", tmp_path / "run.sh"], env={"PYTHON": "false"}, capture_output=True, text=True)
    assert refused.returncode == 1 and "error: false is not CPython 3.12" in refused.stderr
