"""Two processes that train together, started by mpiexec; each start has a time limit."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 120  # seconds for any one start


def mpiexec():
    """The path of mpiexec, None without."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def no_mpi():
    """Why two processes cannot be started, or None."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install 'medi2i[mpi]'"
    if mpiexec() is None:
        return "there is no mpiexec: pip install 'medi2i[mpi]'"
    try:
        done = subprocess.run(
            [
                mpiexec(),
                "-n",
                "2",
                sys.executable,
                "-c",
                "from mpi4py.MPI import COMM_WORLD as c; c.barrier(); c.rank or print(c.size)",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "mpiexec hangs here"
    works = done.stdout.strip() == "2"
    return None if works else f"mpiexec does not work here: {(done.stderr or 'no word')[:200]}"


def start(*argv):
    """Two processes of this Python with arguments ``argv``, under way."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [mpiexec(), "-n", "2", sys.executable, *map(str, argv)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """(status, stdout, stderr) within the limit; what takes longer is ended, and fails."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"not over after {LIMIT} s: {process.communicate()}")
    return process.returncode, out, err
