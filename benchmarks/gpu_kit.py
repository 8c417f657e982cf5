"""A folder for a machine with a GPU and without a network: the project, what it needs, and run.sh (``make gpu-kit``).

    python benchmarks/gpu_kit.py build/gpu-kit

For CPython 3.12 on Linux x86-64 with CuPy 14 for CUDA 13, NumPy, ONNX and pytest; PyTorch is measured beside if it is
there. The other packages are those of uv.lock, without what no part of gpu_parts.py uses.
"""

import argparse
import fnmatch
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.12"
MOST_BYTES = 60_000_000
# In the names of distributions: what is there, or comes with what is there, and what is not used.
THERE = "numpy onnx protobuf ml-dtypes typing-extensions packaging setuptools cupy-* cuda-* nvidia-*".split()
BROUGHT = "nvidia-cudnn-frontend"
UNUSED = {
    "chainercv": "networks that ImageNet trained",
    "imagecodecs": "compressed DICOM and TIFF",
    "scikit-image imageio lazy-loader networkx": "metrics of evaluate.py",
    "onnxruntime flatbuffers": "conversion on the CPU",
    "jinja2 markupsafe": "pages of evaluate.py",
    "shtab": "completion in a shell",
    "tzdata colorama importlib-resources": "other systems and older Pythons",
}
# Of the packages: tests, what is compiled against, copies of the same library.
NO_FILES = (
    "*/tests/* */test/* include/* share/* bin/* *.a *.pyc *.pyi *.pyx *.pxd *.h lib/libdnnl.so lib/libdnnl.so.*.* "
    "*/sample_data/* *.afm"
).split()
PROJECT = (
    "LICENSE pyproject.toml benchmarks/gpu.py benchmarks/gpu_parts.py benchmarks/subjects.py benchmarks/twin.py".split()
)
TESTS = "tests/*.py tests/cuda_harness tests/gpu".split()
RUN = """#!/bin/sh
# Everything this machine's GPU can tell, in eight minutes: results/results.txt. PYTHON=python3.12 selects another.
cd "$(dirname "$0")" || exit 1
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import sys, platform
sys.exit((sys.version_info[:2], platform.machine()) != ((3, 12), "x86_64"))' ||
  { echo "error: $PYTHON is not CPython 3.12 on x86-64: PYTHON=python3.12 ./run.sh" >&2; exit 1; }
exec "$PYTHON" benchmarks/gpu_parts.py "$@"
"""


def brought(requirements: str) -> list[str]:
    """Of lines as ``uv export`` writes them those that the kit brings."""
    unused = " ".join(UNUSED).split()
    found = []
    for line in requirements.splitlines():
        name = re.match(r"[a-z0-9-]*", line)[0]  # type: ignore[index]  # it matches nothing, too
        left_out = name in unused or any(fnmatch.fnmatch(name, pattern) for pattern in THERE)
        if name and (name == BROUGHT or not left_out):
            found.append(line)
    return found


def packages(site: Path) -> None:
    """The project and what it needs, unpacked into ``site``. Needs uv, and a network where its cache is empty."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        sys.exit("error: uv is not installed: pip install uv")
    export = [uv, "export", "-q", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--no-annotate"]
    exported = subprocess.run(
        [*export, "--extra", "cuda13"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = site.with_name("requirements.txt")
    listed.write_text("\n".join(brought(exported)))
    into = [uv, "pip", "install", "-q", "--target", str(site), "--no-deps"]
    of = ["--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_28"]
    subprocess.run([*into, *of, "-r", str(listed)], cwd=ROOT, check=True)
    subprocess.run([*into, str(ROOT)], cwd=ROOT, check=True)


def packed(site: Path, archive: Path) -> None:
    """``site`` without NO_FILES as one .tar.xz."""
    with tarfile.open(archive, "w:xz", preset=6) as file:
        for path in sorted(site.rglob("*")):
            name = path.relative_to(site).as_posix()
            if path.is_file() and not any(fnmatch.fnmatch("/" + name, "/" + pattern) for pattern in NO_FILES):
                file.add(path, name)


def project(out: Path) -> None:
    """What is run of the project beside its package: measurements, and the tests that are marked ``gpu``."""
    from gpu_parts import marked

    for pattern in [*PROJECT, *TESTS, *marked(ROOT / "tests")]:
        for path in sorted(ROOT.glob(pattern)):
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                target = out / file.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    (out / "run.sh").write_text(RUN)
    (out / "run.sh").chmod(0o755)


def main() -> None:
    """Make the folder anew and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder, emptied first where it is an earlier kit")
    out = parser.parse_args().out
    if out.exists() and not (out / "run.sh").exists():
        sys.exit(f"error: {out} is there and is no kit")
    shutil.rmtree(out, ignore_errors=True)
    project(out)
    with tempfile.TemporaryDirectory() as work:
        packages(Path(work) / "site")
        packed(Path(work) / "site", out / "site.tar.xz")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        sys.exit(f"error: {out}: more than {MOST_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
