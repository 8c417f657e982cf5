"""What ``pytest -m gpu`` runs on a GPU, on a machine without: on the stand-in for CuPy (tests/cuda_harness/stand_in).

Chainer looks for CuPy once, when it is imported: so each version of CuPy is a process of its own.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_harness import by_gcc, with_stand_in

ROOT = Path(__file__).resolve().parents[1]
KERNELS = "tests/common/kernels"
GROUPS = {
    14: [
        "tests/gpu/test_updates.py",
        "tests/gpu/test_parts.py",
        "tests/gpu/test_stand_in.py",
        "tests/gpu/test_runs.py",
        f"{KERNELS}/gpu/test_kernels_on_gpu.py",
        f"{KERNELS}/gpu/test_augment.py",
        f"{KERNELS}/test_gpu_engine.py",
        "tests/common/training/test_adversarial_transfer.py",
    ],
    13: ["tests/gpu/test_updates.py", "-k", "one_update and (critic or instance)", "tests/gpu/test_stand_in.py"],
}


@pytest.mark.skipif(by_gcc.compiler() is None, reason="g++ is not installed")
@pytest.mark.skipif(np.__version__ < "2", reason="the stand-in's numbers of no dimension have the types of NumPy 2")
@pytest.mark.parametrize("version", GROUPS)
def test_on_the_stand_in(version):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "--no-header", "-p", "no:cacheprovider", *GROUPS[version]],
        cwd=ROOT,
        env=with_stand_in(version, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTEST_ADDOPTS=""),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert re.search(r"^\d+ passed(, \d+ deselected)?(, \d+ warnings?)? in", done.stdout, re.MULTILINE), done.stdout


def test_no_gpu_test_is_left_out():
    """Whatever is marked ``gpu`` is run by one of them."""
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"mark\.gpu$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert marked == {name for what in GROUPS.values() for name in what if name.startswith("tests/")}
