"""Other DICOM software on converted series: ``benchmarks/dicom_conformance.py`` on a few slices of a real head CT."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/dicom_conformance.py"
HEAD = Path(__file__).resolve().parents[2] / "shared/data/ct-head"
SYNTAXES = ["big-endian", "deflated", "jpeg-lossless", "jpeg-ls", "jpeg-2000"]


@pytest.mark.skipif(not HEAD.is_dir(), reason=f"needs {HEAD}")
def test_five_syntaxes_pass_the_validators():
    command = [sys.executable, str(SCRIPT), str(HEAD), "--slices", "3", "--syntaxes", *SYNTAXES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert [line for line in done.stdout.splitlines() if "slices" in line or "  " in line] == [
        f"{syntax}: 3 slices, no problem(s)" for syntax in SYNTAXES
    ], done.stdout + done.stderr
    assert done.returncode == 0
