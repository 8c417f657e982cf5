"""Options of the test run, and what tests of several folders need."""

import os
import signal
import sys
from pathlib import Path

import pytest
from ct_files import ct, ct_file  # noqa: F401 fixtures
from cuda_harness import on_cpu

from medi2i.common.resources import available_cores

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests that import onnxruntime themselves send nothing, either
# A shell that starts the suite in the background has it ignore SIGINT, nohup SIGHUP, and so would the commands that
# tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_SHARED = Path(__file__).resolve().parents[2] / "shared"
SHARED_PARITY = (_SHARED / "parity", _SHARED / "parity-more")
KEPT_PARITY = Path(__file__).resolve().parent / "parity" / "data"


on_cpu.take_numpy_arrays()


def pytest_addoption(parser):
    parser.addoption(
        "--parity",
        metavar="DIR",
        default=None,
        help="folder of golden cases of the released codes (default: parity and parity-more in ../shared, "
        "if they are there)",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """``-n auto``: a process for each core that this one may use."""
    return available_cores()


def pytest_collection_modifyitems(items):
    """What asks something of the whole project takes longest and begins first: no process has it left at the end."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


def parity_cases(config, kind):
    """Folders of golden cases of ``kind`` "forward" or "step": those kept here, then those of ``--parity``.

    A case is a folder with args, io.npz and weights; a step case has them before and after.
    """
    given = config.getoption("--parity")
    folders = [KEPT_PARITY, *([Path(given)] if given else SHARED_PARITY)]
    weights = {"forward": "enc_x.npz", "step": "enc_x_before.npz"}[kind]
    found = []
    if given and not any(Path(given).rglob("io.npz")):
        raise pytest.UsageError(f"--parity {given}: no golden cases (folders with args and io.npz) there")
    for folder in folders:
        cases = sorted(path.parent for path in folder.rglob("io.npz") if (path.parent / "args").is_file())
        found += [case for case in cases if (case / weights).is_file()]
    return found


def pytest_generate_tests(metafunc):
    """``forward_case`` and ``step_case``: one test a case; one skipped test if ``--parity`` has none."""
    for kind in ("forward", "step"):
        name = f"{kind}_case"
        if name not in metafunc.fixturenames:
            continue
        cases = parity_cases(metafunc.config, kind)
        given = metafunc.config.getoption("--parity") or _SHARED
        values = [pytest.param(case, id=("kept_" if KEPT_PARITY in case.parents else "") + case.name) for case in cases]
        if all(KEPT_PARITY in case.parents for case in cases):
            reason = f"no {kind} cases under {given}: give their folder with --parity DIR"
            values.append(pytest.param(None, id="shared", marks=pytest.mark.skip(reason=reason)))
        metafunc.parametrize(name, values)


def pytest_runtest_setup(item):
    """Tests marked ``gpu`` are skipped, with the reason, where there is none: ``pytest -m gpu`` runs only them."""
    if item.get_closest_marker("gpu") is not None:
        from medi2i.common.device import gpu_count

        count, why = gpu_count()
        if not count:
            pytest.skip(why)


@pytest.fixture(autouse=True, scope="session")
def small_blocks():
    """On the stand-in for CuPy, where a block's threads take turns, blocks of few threads do the same sooner."""
    cupy = sys.modules.get("cupy")
    if hasattr(cupy, "stand_in"):
        from medi2i.common.kernels.gpu import loss_kernels, normalisation_kernels

        normalisation_kernels.BLOCK = loss_kernels.BLOCK = 8


@pytest.fixture(autouse=True, scope="session")
def no_curves():
    """Trainings end without plots of their log, which take longer than all else of one this small: a test that looks at
    them sets ``pictures.draw_all`` again."""
    from medi2i.common.training import pictures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_all", lambda entries, folder: [])
        yield
