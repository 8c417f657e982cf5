"""Everything that a machine with a GPU can tell, in eight minutes and without a network: what run.sh of the kit starts.

    python benchmarks/gpu_parts.py --out results          in an environment that has medi2i and CuPy
    python benchmarks/gpu_parts.py --out results --dry    on the stand-in for CuPy: shows that everything starts

Each part is a process with a limit of time, and the next one runs however it ended. OUT has results.json, results.txt
(a page) and what each part wrote.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site.tar.xz"
OURS, CONTIGUOUS, LAST = "medi2i", "PyTorch", "PyTorch channels last"  # as in gpu.py, which needs CuPy
CASES = ("pix2pix:256:4", "pix2pix:512:4", "cyclegan:256:4", "cyclegan:512:4", "convert:512:1")  # its CASES
HALF = {OURS: ("mixed",), CONTIGUOUS: ("bf16", "fp16")}
MINUTES = 3.0  # of the training
WHOLE = 480  # seconds for everything
UNPACKING = 15
SMALL = """
import functools, sys
sys.path.insert(0, "benchmarks")
import subjects
subjects.CHANNELS = [4, 8]
for name in ("PairedOptions", "UnpairedOptions"):
    setattr(subjects, name, functools.partial(getattr(subjects, name), gen_nblock=1, dis_chs=[4, 8]))
import gpu
gpu.main(*sys.argv[1:])
"""


@dataclass(frozen=True)
class Part:
    """A command and the seconds that it may take at least."""

    name: str
    words: list[str]
    limit: float
    environment: dict[str, str]


def parts(out: Path, dry: bool) -> list[Part]:
    """In the order in which they run; the tests, which leave something to be seen however they end, come last."""
    python, own = sys.executable, str(Path(__file__))
    tests = ["tests/gpu/test_parts.py", "-k", "test_activations"] if dry else marked(ROOT / "tests")
    cases, repeats = (tuple(re.sub(":.*", ":16:1", case) for case in CASES[::2]), "1") if dry else (CASES, "10")
    numbers = ("fp32",) if dry else ("fp32", "tf32")
    training = ("0.001", "32", "10") if dry else (str(MINUTES), "256", "40")
    measure = [python, "-c", SMALL] if dry else [python, str(ROOT / "benchmarks/gpu.py")]
    steps = [
        Part(
            f"{names[0]}, {precision}",
            [*measure, ",".join(names), precision, repeats, *cases],
            23,
            {"CUPY_TF32": str(int(precision != "fp32"))},
        )
        for names in ([OURS], [CONTIGUOUS, LAST])
        for precision in (*numbers, *([] if dry else HALF[names[0]]))
    ]
    return [
        Part("environment", [python, own, "facts"], 15, {}),
        *steps,
        Part("denoise", [python, own, "denoise", str(out / "denoise"), *training], 60 * MINUTES + 30, {}),
        Part("tests", [python, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", *tests], 70, {}),
    ]


def marked(folder: Path) -> list[str]:
    """The files with tests that are marked ``gpu``, from the root."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in folder.rglob("test_*.py")
        if "mark.gpu\n" in path.read_text(encoding="utf-8")
    )


def ran(part: Part, limit: float, out: Path, base: dict[str, str]) -> dict[str, Any]:
    """How a part ended, within ``limit`` seconds, and the lines of JSON that it printed until then."""
    log = out / f"{part.name.replace(', ', '_').replace(' ', '_')}.txt"
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            part.words, cwd=ROOT, env=base | part.environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(limit)
            ended = "done" if status == 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.wait()
            ended = f"not over after {limit:.0f} s"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    seconds = round(time.monotonic() - began, 1)
    return {"part": part.name, "ended": ended, "seconds": seconds, "found": found, "last": (lines or [""])[-1][:300]}


def page(results: list[dict[str, Any]], seconds: float) -> str:
    """One page of text."""
    lines = ["medi2i on a GPU", ""]
    for result in results:
        word = "" if result["ended"] == "done" and result["part"] != "tests" else f": {result['last']}"
        lines.append(f"{result['part']:30} {result['seconds']:6.1f} s  {result['ended']}{word}")
    lines += [f"{'all':30} {seconds:6.1f} s", ""]
    by_part = {result["part"]: result["found"] for result in results}
    for found in by_part.get("environment", []):
        lines += [f"{key}: {value}" for key, value in found.items()]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in (row for found in by_part.values() for row in found if "case" in row):
        rows.setdefault(row["case"], {})[row["candidate"]] = row
    for case, timed in rows.items():
        lines += ["", f"{case}: median between CUDA events, memory held"]
        for candidate, row in timed.items():
            beside = best_of_pytorch(timed, candidate)
            ratio = "" if beside is None else f"  {row['median_s'] / beside['median_s']:5.2f} x PyTorch's better layout"
            ratio += "" if beside is None else f", memory {row['megabytes'] / max(beside['megabytes'], 1e-9):5.2f} x"
            lines.append(f"  {candidate:30} {1e3 * row['median_s']:9.2f} ms {row['megabytes']:8.0f} MB{ratio}")
    denoised = {key: value for found in by_part.get("denoise", []) for key, value in found.items()}
    lines += [""] + [f"denoise, {key}: {value}" for key, value in denoised.items()]
    return "\n".join(lines) + "\n"


def best_of_pytorch(timed: dict[str, dict[str, Any]], candidate: str) -> dict[str, Any] | None:
    """For a candidate of ours, the fastest row of PyTorch with the same numbers, or such of half; None without."""
    name, _, numbers = candidate.partition(", ")
    same = HALF[CONTIGUOUS] if numbers in HALF[OURS] else (numbers,)
    rows = [timed[f"{other}, {one}"] for other in (CONTIGUOUS, LAST) for one in same if f"{other}, {one}" in timed]
    return min(rows, key=lambda row: row["median_s"]) if name == OURS and rows else None


def facts() -> None:
    """What there is, as JSON; each that cannot be told says why."""

    def imported(name: str, of: Callable[[Any], object] = lambda module: module.__version__) -> str:
        try:
            return str(of(__import__(name)))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def gpu(cupy: Any) -> str:
        about = cupy.cuda.runtime.getDeviceProperties(0)
        return f"{about['name'].decode()}, {about['totalGlobalMem'] >> 20} MB, {about['major']}.{about['minor']}"

    convolutions = imported("medi2i.common.device", lambda medi2i: medi2i.common.device.use_gpu_engine("auto"))
    names = ("medi2i", "numpy", "cupy", "torch", "cudnn", "onnx", "chainer")
    found = {"python": sys.version.split()[0], "cores": os.cpu_count(), **{name: imported(name) for name in names}}
    found["gpu"] = imported("cupy", gpu)
    found["CUDA, driver and runtime"] = imported(
        "cupy", lambda cupy: (cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion())
    )
    found["convolutions"] = convolutions
    print(json.dumps(found), flush=True)


def denoise(out: str, minutes: str, size: str, slices: str) -> None:
    """A phantom, noise, and ``--preset denoise`` on the GPU and on half of the cores at the same time; RMSE in HU."""
    from medi2i.tools import make_noisy, make_phantom, split_pairs

    folder, data = Path(out), Path(out) / "data"
    make_phantom.command(["-o", str(folder / "ct"), "--size", size, "--slices", slices])
    make_noisy.command(["-i", str(folder / "ct"), "-o", str(data), "-n", "100", "--seed", "0"])
    split_pairs.command(["-i", str(data / "pairs.txt"), "--ratio", "0.75", "--test", "0.15", "--by", "block"])
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    started = {
        gpu: subprocess.Popen(
            [sys.executable, __file__, "trained", out, minutes, size, gpu],
            env=os.environ | {"OMP_NUM_THREADS": threads},
        )
        for gpu in ("0", "-1")
    }
    statuses = [process.wait() for process in started.values()]
    if any(statuses):
        sys.exit(f"trainings ended with {statuses}")


def trained(out: str, minutes: str, size: str, gpu: str) -> None:
    """A training and the conversion of the test slices; prints its updates and its RMSE, and that of the input."""
    import numpy as np

    from medi2i.common.training.log import read_log
    from medi2i.pix2pix import convert, train
    from medi2i.tools.evaluation import files

    data, own = Path(out) / "data", Path(out) / f"gpu{gpu}"
    pairs = {part: str(data / f"pairs_{part}.txt") for part in ("train", "val", "test")}
    small = [] if int(size) >= 256 else ["-cw", size, "-ch", size, "-gc", "4", "8"]
    argv = ["-R", str(data), "-t", pairs["train"], "--val", pairs["val"], "--preset", "denoise", "--minutes", minutes]
    if train.command([*argv, *small, "-o", str(own), "-g", gpu, "--seed", "0", "--nvis", "0"]):
        sys.exit("the training did not end well")
    (run,) = (path for path in own.iterdir() if not path.name.startswith("."))
    converted = Path(out) / f"converted{gpu}"
    argv = ["-m", str(run), "-R", str(data), "--val", pairs["test"], "-o", str(converted), "-g", gpu]
    if convert.command([*argv, "--engine", "chainer"]):
        sys.exit("the conversion did not end well")
    inputs, truth = files.list_pairs(pairs["test"], data)
    slices, _, _ = files.match(truth, {"input": inputs, "converted": files.list_folder(converted)})
    rmse = {
        row: float(
            np.sqrt(
                np.mean([np.mean((files.load(s.images[row]).array - files.load(s.truth).array) ** 2) for s in slices])
            )
        )
        for row in ("input", "converted")
    }
    where = "CPU" if gpu == "-1" else "GPU"
    updates = read_log(run / "log.jsonl")[-1]["iteration"]
    told = {f"updates on the {where}": updates, f"RMSE on the {where} / HU": rmse["converted"]}
    print(json.dumps(told | {"RMSE of the input / HU": rmse["input"], "slices": len(slices)}), flush=True)


def main() -> None:
    """All parts, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder for what is found")
    parser.add_argument("--dry", action="store_true", help="on the stand-in for CuPy, small")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts by their first word")
    options = parser.parse_args()
    began, out = time.monotonic(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as site:
        if SITE.exists():
            with tarfile.open(SITE) as archive:
                archive.extractall(site, filter="data")
        given = parts(out, options.dry)
        chosen = [part for part in given if not options.only or part.name.partition(",")[0] in options.only]
        results = all_ran(chosen, out, environment(Path(site), options.dry), began + WHOLE - 1)
    seconds = round(time.monotonic() - began, 1)
    (out / "results.json").write_text(json.dumps({"parts": results, "seconds": seconds}, indent=1) + "\n")
    text = page(results, seconds)
    (out / "results.txt").write_text(text)
    print("\n" + text + f"\n{out}/results.txt, results.json")


def all_ran(given: list[Part], out: Path, base: dict[str, str], end: float) -> list[dict[str, Any]]:
    """Those of ``given``, over by ``end``: each may take what the limits of those after it leave. Each is told."""
    results = []
    for number, part in enumerate(given):
        left = end - time.monotonic() - sum(other.limit for other in given[number + 1 :])
        results.append(ran(part, max(left, part.limit), out, base))
        print(f"{results[-1]['seconds']:6.1f} s  {part.name}: {results[-1]['ended']}", flush=True)
    return results


def environment(site: Path, dry: bool) -> dict[str, str]:
    """That of each part: the kit's packages before the machine's, and before all the stand-in where it is asked for."""
    stand_in = [str(ROOT / "tests/cuda_harness/stand_in"), str(ROOT / "tests")] if dry else []
    path = [*stand_in, str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "MPLCONFIGDIR": str(site)}


if __name__ == "__main__":
    called: dict[str, Callable[..., None]] = {"facts": facts, "denoise": denoise, "trained": trained}
    if sys.argv[1:] and sys.argv[1] in called:
        called[sys.argv[1]](*sys.argv[2:])
    else:
        main()
